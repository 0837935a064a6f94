"""What is filled in, how and in which order: options of imputation, and the plan of a sweep.

Pure, as ``fastsynth.plan``: no randomness, no rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import polars as pl

from fastsynth.columns import FIRST, Variable
from fastsynth.errors import OptionError, PlanError, check_count, check_known, is_whole
from fastsynth.methods import Calibrated, Cart, Sample
from fastsynth.options import Column
from fastsynth.plan import Limit, Plan, Step, make_plan


@dataclass(frozen=True, slots=True)
class Forest:
    """Donors from the leaves of several trees, each grown on its own bootstrap sample (Doove et al. 2014; mice's rf).

    A row takes one of the trees at random, and one donor from its leaf. Unlike in mice every split may use every
    predictor.

    Parameters
    ----------
    n_trees : int, default 10
    minbucket : int, default 5

    Raises
    ------
    OptionError
        A number is not a positive integer.

    References
    ----------
    Doove, van Buuren and Dusseldorp (2014), Recursive partitioning for missing data imputation in the presence of
    interaction effects, Computational Statistics and Data Analysis 72:92.

    Examples
    --------
    >>> Forest(n_trees=5)
    Forest(n_trees=5, minbucket=5)
    """

    n_trees: int = 10
    minbucket: int = 5
    name: ClassVar[str] = "forest"

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_trees", check_count("n_trees", self.n_trees))
        object.__setattr__(self, "minbucket", check_count("minbucket", self.minbucket))

    @property
    def tree(self) -> Cart:
        """How each of its trees is grown."""
        return Cart(self.minbucket)


Imputer = Cart | Forest | Sample | Calibrated


@dataclass(frozen=True, slots=True)
class Impute:
    """How missing values are filled in: chained equations, m chains of them (van Buuren 2018; mice's ``mice``).

    Each chain goes through the columns with holes again and again. A column is fitted where it is observed, given all
    other columns as they stand, and what is missing is drawn. Each sweep has its own bootstrap sample of the rows, so
    imputations are proper (METHODS of Rubin 1987), which the rule for one synthesis of each needs.

    Parameters
    ----------
    maxit : int, default 10
        Sweeps of each chain (mice: 5). One is enough, and all that is done, where the pattern is monotone: where rows
        that lack a column of the visit sequence lack all later ones as well.
    syntheses : int, default 1
        Synthetic copies of each completed table. 0: the completed tables themselves, which are real rows, for
        Rubin's rule. 1: m copies, for T_1. r of 2 and more: m times r copies, for Reiter's rule of 2004. ``pool`` takes
        the right one.
    method : str or Cart or Forest or Sample or Calibrated, or dict of these by column, default "cart"
        "cart" (mice's), "forest", "sample" (from the margin), "calibrated" (numbers are then the observed ones nearest
        to what is drawn). Columns that a dict does not name have "cart"; those with ``""`` are not filled in, as in
        mice.
    visit_sequence : {"missing", "table"} or list of str, default "missing"
        Order within a sweep. "missing": by rising number of holes (mice's "monotone"). A list names the columns with
        holes; those that it leaves out are not filled in.
    predictors : dict of str to list of str, optional
        What a column is imputed from (rows of mice's ``predictorMatrix``). The default is all others, but those that
        are computed from the column; in tables of more than 60 columns the 20 of these that go with it most.
    blocks : list of list of str, default ()
        Columns that stay together: a row that lacks all of a block takes them from one donor, found by the first
        column. Rows that lack some have them drawn one by one.
    where : dict or table of bool, optional
        For columns that it names the cells that are filled in, as in ``synthesize``; others may not be missing values
        but skips ("not applicable"), and stay. Cells with a code of ``cont_na`` may be named, too, but none with a
        value (which mice allows). The default is every null and NaN that no rule says has to be there; codes of
        ``cont_na`` stay. What is filled in is always a value.
    ignore : polars.Expr or str or list of bool, optional
        Rows that no model is fitted to. They are filled in, and synthesised, all the same.
    proper : bool, default True
        False leaves the bootstrap out, as mice does with its cart: intervals are then too short, so it is for
        ``syntheses=0`` only.

    Raises
    ------
    OptionError
        A value that is not allowed.

    References
    ----------
    van Buuren and Groothuis-Oudshoorn (2011), mice: Multivariate imputation by chained equations in R, JSS 45(3).
    van Buuren (2018), Flexible imputation of missing data, 2nd edition. Burgette and Reiter (2010), Multiple imputation
    for missing data via sequential regression trees, American Journal of Epidemiology 172:1070.

    Examples
    --------
    >>> Impute(maxit=5, method={"phb": "sample"}).syntheses
    1
    """

    maxit: int = 10
    syntheses: int = 1
    method: str | Imputer | Mapping[str, str | Imputer] = "cart"
    visit_sequence: str | Sequence[str] = "missing"
    predictors: Mapping[str, Sequence[str]] = field(default_factory=dict)
    blocks: Sequence[Sequence[str]] = ()
    where: Any = None
    ignore: Any = None
    proper: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "maxit", check_count("maxit", self.maxit))
        if not is_whole(self.syntheses) or self.syntheses < 0:
            raise OptionError(f"syntheses={self.syntheses!r}: must be an integer of at least 0.")
        if not isinstance(self.proper, bool):
            raise OptionError(f"proper={self.proper!r} of Impute: must be True or False.")
        if not self.proper and self.syntheses:
            raise OptionError(
                "proper=False of Impute: without bootstrap the variance due to what is missing is half of what it "
                "should be, and no rule for synthetic copies mends that. Leave it out, or take syntheses=0."
            )
        if self.visit_sequence not in ("missing", "table") and not _is_names(self.visit_sequence):
            raise OptionError(
                f"visit_sequence={self.visit_sequence!r} of Impute: must be 'missing', 'table' or a list of columns."
            )
        is_list = isinstance(self.blocks, Collection) and not isinstance(self.blocks, str)
        if not is_list or any(not _is_names(block) or len(block) < 2 for block in self.blocks):
            raise OptionError(f"blocks={self.blocks!r} of Impute: must be lists of at least two columns each.")
        if not isinstance(self.predictors, Mapping) or not all(map(_is_names, self.predictors.values())):
            raise OptionError(
                f"predictors={self.predictors!r} of Impute: must be lists of columns by column, such as "
                "{'tv': ['age', 'gen']}."
            )
        every = [name for block in self.blocks for name in block]
        if len(set(every)) < len(every):
            raise OptionError("blocks of Impute: a column is named twice.")
        for name in self.method if isinstance(self.method, Mapping) else ("",):
            self.method_of(name)

    @classmethod
    def of(cls, given: Any) -> Impute | None:
        """From ``True``, which has all defaults; None from ``False``."""
        if isinstance(given, bool):
            return cls() if given else None
        if not isinstance(given, cls):
            raise OptionError(f"impute={given!r}: must be True, False or an Impute.")
        return given

    def method_of(self, name: str) -> Imputer | None:
        """Method of a column; None where it is not filled in."""
        given = self.method.get(name, "cart") if isinstance(self.method, Mapping) else self.method
        if given == "" and isinstance(self.method, Mapping):
            return None
        if isinstance(given, Imputer):
            return given
        if not isinstance(given, str) or given not in IMPUTERS:
            raise OptionError(
                f"method={given!r} of Impute: allowed are {', '.join(map(repr, IMPUTERS))}, or Cart, Forest, Sample or "
                "Calibrated."
            )
        return IMPUTERS[given]()


def _is_names(given: Any) -> bool:
    """Whether it is a list of names of columns."""
    return isinstance(given, Collection) and not isinstance(given, str) and all(isinstance(of, str) for of in given)


IMPUTERS: dict[str, type[Imputer]] = {of.name: of for of in (Cart, Forest, Sample, Calibrated)}


@dataclass(frozen=True, slots=True, eq=False)
class ImputePlan:
    """A sweep.

    Attributes
    ----------
    steps : tuple of Step
        Columns that are filled in, in visit sequence, with rules, all limits that name them, and predictors.
    methods : dict of int to Imputer
        By slot.
    passive : tuple of Step
        Columns that are computed where they are missing and a parent is filled in, in an order that works.
    blocks : tuple of tuple of int
        Slots of columns that are drawn together.
    given : frozenset of int
        Slots of columns whose predictors the caller names.
    whole : Plan
        With an expression for each passive column.
    proper : bool
    """

    steps: tuple[Step, ...]
    methods: Mapping[int, Imputer]
    passive: tuple[Step, ...]
    blocks: tuple[tuple[int, ...], ...]
    given: frozenset[int]
    whole: Plan
    proper: bool

    def used(self, step: Step) -> tuple[int, ...]:
        """Slots of columns whose values rules and limits of a column look at, beside its own."""
        slots = {slot for rule in step.rules for slot in rule.parents}
        computed = {of.slot: of for of in self.whole.steps if of.action == "passive"}
        for limit in step.limits:
            slots |= {*limit.parents, *(p for slot in limit.passive for p in computed[slot].predictors)} - {
                *limit.passive
            }
        return tuple(sorted(slots - {step.slot}))


def plan_imputation(
    variables: Sequence[Variable],
    impute: Impute,
    n_holes: Mapping[str, int],
    *,
    columns: Mapping[str, Column],
    forbid: Sequence[pl.Expr | str],
    unrelated: Collection[str],
) -> ImputePlan:
    """Turn options into the plan of a sweep.

    Parameters
    ----------
    variables : sequence of Variable
    impute : Impute
    n_holes : dict of str to int
        Cells to fill in by column, of columns that have some.
    columns, forbid
        As in ``make_plan``.
    unrelated : collection of str
        Columns that identify people, and free text: they predict nothing, and are not filled in.

    Raises
    ------
    PlanError, OptionError
        Unknown columns; nothing to fill in; rules or limits of a block.
    """
    names = [v.name for v in variables if v.calendar is None]
    slot = {name: i for i, name in enumerate(names)}
    for what, named in _named(impute):
        check_known(what, named, names)
        silent = [name for name in named if name in unrelated]
        if silent:
            raise PlanError(
                f"{what}: {', '.join(map(repr, silent))} identify people, or are free text. They predict nothing, and "
                "are not filled in."
            )
    # Rules and limits stand with each column that they are about, and synthesis has another order.
    bare = {
        name: Column(
            passive=column.passive,
            rules=column.rules,
            bounds=column.bounds,
            cont_na=column.cont_na,
            semicont=column.semicont,
        )
        for name, column in columns.items()
    }
    bare |= {name: Column(method="keep") for name in unrelated if name in slot}
    whole = make_plan(variables, method="cart", columns=bare, predictors="all", forbid=forbid)
    steps = {step.name: step for step in whole.steps}
    passive = tuple(step for step in whole.steps if step.action == "passive")
    able = [name for name in n_holes if steps[name].action == "draw" and impute.method_of(name) is not None]
    order = _order(impute, able, n_holes, names)
    if not order:
        raise OptionError("impute: there is nothing to fill in. Leave it out.")
    every = [limit for step in whole.steps for limit in step.limits]
    parts = _parts(variables)
    found, methods = [], {}
    for name in order:
        step, method = steps[name], impute.method_of(name)
        assert method is not None
        methods[step.slot] = method
        behind = _computed_from(step.slot, passive)
        limits = tuple(_seen_from(limit, step.slot, passive) for limit in every if _is_about(limit, step.slot, behind))
        given = impute.predictors.get(name)
        if given is None:
            given = [other for other in names if other not in unrelated and slot[other] not in behind]
        predictors = {slot[other] for other in given if other != name}
        predictors |= {part for of in predictors for part in parts.get(of, ())}
        predictors = set() if isinstance(method, Sample) else predictors
        found.append(
            replace(step, method=_tree_of(method), predictors=tuple(sorted(predictors)), limits=limits, guard=None)
        )
    blocks = tuple(tuple(slot[name] for name in block) for block in impute.blocks)
    _check_blocks(blocks, found, names)
    said = frozenset(slot[name] for name in impute.predictors)
    return ImputePlan(tuple(found), methods, passive, blocks, said, whole, impute.proper)


def completed_plan(plan: Plan) -> Plan:
    """A plan by which copies are the completed tables themselves; what is passive is computed where it was missing."""
    steps = (
        step if step.action == "passive" else Step(step.slot, step.name, "keep", level=step.level)
        for step in plan.steps
    )
    return Plan(tuple(steps), where=True)


def _tree_of(method: Imputer) -> Cart | Sample | Calibrated:
    return method.tree if isinstance(method, Forest) else method


def _named(impute: Impute) -> list[tuple[str, list[str]]]:
    """Columns that options name."""
    found = [("predictors of Impute", list(impute.predictors))]
    found += [(f"predictors of {name!r} in Impute", list(of)) for name, of in impute.predictors.items()]
    found += [("blocks of Impute", list(block)) for block in impute.blocks]
    if isinstance(impute.method, Mapping):
        found.append(("method of Impute", list(impute.method)))
    if not isinstance(impute.visit_sequence, str):
        found.append(("visit_sequence of Impute", list(impute.visit_sequence)))
    return found


def _order(impute: Impute, able: Collection[str], n_holes: Mapping[str, int], names: Sequence[str]) -> list[str]:
    if isinstance(impute.visit_sequence, str):
        of_table = [name for name in names if name in able]
        return of_table if impute.visit_sequence == "table" else sorted(of_table, key=n_holes.__getitem__)
    given = list(impute.visit_sequence)
    if len(set(given)) < len(given):
        raise OptionError("visit_sequence of Impute: a column is named twice.")
    return [name for name in given if name in able]


def _parts(variables: Sequence[Variable]) -> dict[int, list[int]]:
    """Slots of parts of dates, by that of the date."""
    parts: dict[int, list[int]] = {}
    for place, variable in enumerate(variables):
        if variable.calendar is not None and variable.calendar[1] != FIRST:
            parts.setdefault(variable.calendar[0], []).append(place)
    return parts


def _computed_from(slot: int, passive: Sequence[Step]) -> set[int]:
    """Slots of passive columns that depend on a column."""
    behind: set[int] = set()
    for step in passive:
        if {slot, *behind} & set(step.predictors):
            behind.add(step.slot)
    return behind


def _is_about(limit: Limit, slot: int, behind: Collection[int]) -> bool:
    return slot in limit.parents or bool(set(limit.parents) & set(behind))


def _seen_from(limit: Limit, slot: int, passive: Sequence[Step]) -> Limit:
    """The limit for the draw of a column: passive columns that depend on it are computed first."""
    behind = _computed_from(slot, passive)
    wanted: set[int] = set(limit.parents)
    for step in reversed(passive):
        if step.slot in wanted:
            wanted |= set(step.predictors)
    return replace(limit, passive=tuple(step.slot for step in passive if step.slot in wanted & behind))


def _check_blocks(blocks: Sequence[Sequence[int]], steps: Sequence[Step], names: Sequence[str]) -> None:
    by_slot = {step.slot: step for step in steps}
    for block in blocks:
        for slot in block:
            if slot not in by_slot:
                raise PlanError(f"blocks of Impute: {names[slot]!r} is not filled in: it has no holes, or is computed.")
            if by_slot[slot].rules or by_slot[slot].limits:
                raise PlanError(
                    f"blocks of Impute: {names[slot]!r} has rules or limits, and one donor cannot be asked for each "
                    "column of a block. Leave it out of the block."
                )
