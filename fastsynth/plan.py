"""Options in, a plan out: which column is drawn when, how, and from what.

Pure: no randomness, no rows. Every check of options is made here; after ``make_plan`` no option is looked at again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

import polars as pl
import pyarrow as pa

from fastsynth._tree import MAX_SLOTS
from fastsynth.columns import Variable
from fastsynth.errors import DataError, OptionError, PlanError, check_count
from fastsynth.expressions import parse
from fastsynth.methods import METHODS, Method, Nested, Sample

Action = Literal["draw", "keep", "passive"]
Predictors = Literal["auto", "all"]
# Called with the slots of all columns in visit sequence, those to choose for, and how many predictors for each.
Strongest = Callable[[Sequence[int], Sequence[int], int], Mapping[int, tuple[int, ...]]]

# Tables of more columns than this predict each from so many earlier ones; benchmarks/predictors.py chose the number.
AUTO_COLUMNS = 60
AUTO_PREDICTORS = 20

# A column of text of which more than this share is distinct identifies people.
IDENTIFIER_SHARE = 0.9
IDENTIFIER_LEVELS = 10
# So does a column of whole numbers of which all are distinct, among at least so many rows.
IDENTIFIER_NUMBERS = 1_000


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """Rows of which a column is known (synthpop's ``rules`` and ``rvalues``): they are not drawn, but set.

    Parameters
    ----------
    when : polars.Expr or str
        True for the rows under the rule; text is read as SQL. It may use columns that come earlier in the visit
        sequence. Missing codes count as the numbers that they are.
    value
        What the column has in these rows: a value that occurs in the column, or None for missing.

    Raises
    ------
    OptionError
        ``when`` is no expression, or names no column.

    Examples
    --------
    >>> import polars as pl
    >>> Rule(when=pl.col("age") < 16, value="single").value
    'single'
    >>> Rule(when="age < 16", value="single").value
    'single'
    """

    when: pl.Expr | str
    value: Any

    def __post_init__(self) -> None:
        if not self.expression().meta.root_names():
            raise OptionError("Rule(when=...) names no column. Say which rows are under the rule.")

    def expression(self) -> pl.Expr:
        """The condition, parsed."""
        return parse("when", self.when)


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """What is special about one column.

    Parameters
    ----------
    method : str, Calibrated, Cart or Sample, optional
        "calibrated", "cart", "sample", a method object with its own options, or "keep" to leave the column as it is.
        The default is the method of the whole synthesis.
    predictors : list of str, optional
        Columns to predict from; they must come earlier in the visit sequence. The default is what the whole synthesis
        says.
    passive : polars.Expr or str, optional
        The column is computed from synthetic columns, row by row, instead of drawn. Text is read as SQL by polars.
        As in mice, where it is written ``~ I(wgt / (hgt / 100)^2)``.
    outcome : bool, default False
        The visit sequence "auto" draws the column after all that are no outcomes.
    cont_na : list, default ()
        Values of a number or date that are no values but kinds of missing, such as -8 (does not apply) and -9 (no
        answer). They are kept apart, drawn as classes, and told apart by the columns that come later. Null and NaN are
        kinds without being named; of a category every level is one already.
    semicont : list, default ()
        Values of a number on which it piles up, such as 0 of an income: drawn as classes, apart from the rest. With the
        method "calibrated" values that 5 % of the rows have are found without being named.
    rules : list of Rule, default ()
        Rows under a rule are left out of the fit, and set in the draw. Where rules overlap the later one counts.
    bounds : (low, high) or polars.Expr or str, optional
        What the column may be: two limits, each a value, an expression, SQL text, or None for no limit; or one
        expression that has to be true (``pl.col("start") <= pl.col("end")``). Draws outside are replaced by others of
        the same leaf, not moved to the limit. Missing values, and missing codes, are within all bounds.
    numtocat : int, optional
        Draw which of about so many groups of its quantiles a number belongs to, as a class, and then one of the group's
        observed values (synthpop's ``numtocat`` and ``catgroups``).

    Raises
    ------
    OptionError
        An unknown method, passive together with one of the others, a kept column with anything else.

    Examples
    --------
    >>> import polars as pl
    >>> bmi = Column(passive=pl.col("wgt") / (pl.col("hgt") / 100) ** 2)
    >>> job = Column(method="cart", predictors=["age", "sex"])
    >>> income = Column(cont_na=[-8, -9], semicont=[0], bounds=(0, None))
    >>> marital = Column(rules=[Rule(when=pl.col("age") < 16, value="single")])
    """

    method: str | Method | None = None
    predictors: Sequence[str] | None = None
    passive: pl.Expr | str | None = None
    outcome: bool = False
    cont_na: Sequence[Any] = ()
    semicont: Sequence[Any] = ()
    rules: Sequence[Rule] = ()
    bounds: tuple[Any, Any] | pl.Expr | str | None = None
    numtocat: int | None = None

    def __post_init__(self) -> None:
        if self.method is not None and self.method != "keep":
            find_method(self.method)
        for name in ("predictors", "cont_na", "semicont", "rules"):
            given = getattr(self, name)
            if isinstance(given, str | bytes | Rule) or not (given is None or isinstance(given, Sequence)):
                raise OptionError(f"{name}={given!r}: must be a list.")
        if not all(isinstance(name, str) for name in self.predictors or ()):
            raise OptionError(f"predictors={self.predictors!r}: must be a list of column names.")
        if not all(isinstance(rule, Rule) for rule in self.rules):
            raise OptionError("rules must be a list of Rule(when=..., value=...).")
        if not isinstance(self.outcome, bool):
            raise OptionError(f"outcome={self.outcome!r}: must be True or False.")
        if self.numtocat is not None and check_count("numtocat", self.numtocat) < 2:
            raise OptionError("numtocat=1: at least 2 groups are needed.")
        lists, others = ("semicont", "rules"), ("predictors", "bounds", "numtocat")
        special = [n for n in lists if getattr(self, n)] + [n for n in others if getattr(self, n) is not None]
        self.limits("")
        if self.passive is not None:
            parse("passive", self.passive)
            if self.method is not None or special:
                named = ", ".join((["method"] if self.method is not None else []) + special)
                raise OptionError(
                    f"A passive column is computed: it takes no {named}. Put rules into its expression "
                    "(pl.when(...)), and bounds into forbid=[...]."
                )
        if self.method == "keep" and special:
            raise OptionError(f"A kept column is not drawn: it takes no {', '.join(special)}.")

    def expression(self) -> pl.Expr | None:
        """The passive expression, parsed."""
        return None if self.passive is None else parse("passive", self.passive)

    def limits(self, name: str) -> list[pl.Expr]:
        """Bounds of the column of this name as expressions that have to be true."""
        if self.bounds is None:
            return []
        if isinstance(self.bounds, pl.Expr | str):
            return [parse("bounds", self.bounds)]
        if not isinstance(self.bounds, Sequence) or len(self.bounds) != 2:
            raise OptionError(
                f"bounds={self.bounds!r}: must be a pair (low, high), or an expression that has to be true."
            )
        low, high = (parse("bounds", b) if isinstance(b, str) else b for b in self.bounds)
        wide = [isinstance(b, pl.Expr) or b is None for b in (low, high)]
        try:
            empty = not any(wide) and bool(low > high)
        except TypeError:
            empty = True
        if empty:
            raise OptionError(f"bounds={self.bounds!r}: the lower limit must not be beyond the upper one.")
        column = pl.col(name)
        return [*([] if low is None else [column >= low]), *([] if high is None else [column <= high])]


def find_method(method: Any) -> Method:
    """A method from its name or itself."""
    if isinstance(method, Method):
        return method
    if method == Nested.name:
        raise OptionError("method='nested': say within which column, as in Nested(within='occupation1').")
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]()
    allowed = ", ".join(map(repr, [*METHODS, "keep"]))
    raise OptionError(f"method={method!r}: allowed are {allowed}, or a method object such as Calibrated(minbucket=20).")


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One column's turn.

    Attributes
    ----------
    slot : int
        Position of the column in the table.
    name : str
    action : {"draw", "keep", "passive"}
    method : Cart, Sample or None
    predictors : tuple of int
        Slots to predict from; for a passive column, its parents.
    expression : polars.Expr or None
    """

    slot: int
    name: str
    action: Action
    method: Method | None = None
    predictors: tuple[int, ...] = ()
    expression: pl.Expr | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """All steps, in visit sequence."""

    steps: tuple[Step, ...]
    proper: bool = False

    @property
    def partial(self) -> bool:
        """Whether some columns keep their original values."""
        return any(step.action == "keep" for step in self.steps)


def make_plan(
    variables: Sequence[Variable],
    n_rows: int,
    *,
    method: str | Method = "calibrated",
    columns: Mapping[str, Column] | None = None,
    visit_sequence: Sequence[str] | str | None = None,
    predictors: Predictors = "auto",
    proper: bool = False,
    strongest: Strongest | None = None,
) -> Plan:
    """Turn options into a plan.

    Parameters
    ----------
    variables : sequence of Variable
        The columns, in table order.
    n_rows : int
    method, columns, visit_sequence, predictors, proper
        As in ``synthesize``.
    strongest : callable, optional
        Chooses the predictors of "auto" in a wide table, as ``association.strongest`` does. Without it they are all
        earlier columns.

    Raises
    ------
    PlanError
        Unknown columns, a predictor or a passive parent visited later than its target, a passive cycle.
    OptionError, DataError
        As in ``synthesize``.
    """
    names = [v.name for v in variables]
    columns = _check_columns(columns, names)
    if len(names) > MAX_SLOTS:
        raise DataError(f"The table has {len(names):,} columns; at most {MAX_SLOTS:,} are possible.")
    if method == "keep":
        raise OptionError("method='keep' for the whole table would synthesise nothing. Set it for single columns.")
    default = find_method(method)
    if not isinstance(predictors, str) or predictors not in ("auto", "all"):
        raise OptionError(
            f"predictors={predictors!r}: must be 'auto' or 'all'. For one column use Column(predictors=[...])."
        )
    if not isinstance(proper, bool):
        raise OptionError(f"proper={proper!r}: must be True or False.")
    expressions = {
        name: _passive(name, column, names) for name, column in columns.items() if column.passive is not None
    }
    kept = [name for name in names if name in columns and columns[name].method == "keep"]
    if len(kept) == len(names):
        raise OptionError("All columns have method='keep': nothing would be synthesised.")
    needed = {name: expression.meta.root_names() for name, expression in expressions.items()}
    if isinstance(visit_sequence, str) and visit_sequence == "auto":
        by_kind = sorted(variables, key=lambda v: _place(v, columns.get(v.name, Column())))
        order = _visit_sequence(None, [v.name for v in by_kind], kept, needed)
    else:
        order = _visit_sequence(visit_sequence, names, kept, needed)
        outcomes = [name for name in names if columns.get(name, Column()).outcome]
        if outcomes:
            raise OptionError(
                f"outcome=True of {', '.join(map(repr, outcomes))} needs visit_sequence='auto', which it is a part of; "
                "in a sequence of your own put the column last."
            )
    position = {name: i for i, name in enumerate(order)}
    slot = {name: i for i, name in enumerate(names)}
    narrow = predictors == "auto" and len(names) > AUTO_COLUMNS and strongest is not None
    steps: list[Step] = []
    open_slots = []
    for name in order:
        column = columns.get(name, Column())
        if name in kept:
            steps.append(Step(slot[name], name, "keep"))
        elif name in expressions:
            parents = sorted(set(expressions[name].meta.root_names()), key=names.index)
            _check_earlier(name, parents, position, "passive parent")
            steps.append(Step(slot[name], name, "passive", None, tuple(slot[p] for p in parents), expressions[name]))
        else:
            own = default if column.method is None else find_method(column.method)
            _refuse_identifier(variables[slot[name]], n_rows, column)
            given: Sequence[str] = order[: position[name]]
            if column.predictors is not None:
                _check_earlier(name, column.predictors, position, "predictor")
                given = column.predictors
            if isinstance(own, Sample):
                given = ()
            elif narrow and column.predictors is None:
                open_slots.append(slot[name])
                given = ()
            steps.append(Step(slot[name], name, "draw", own, tuple(sorted({slot[other] for other in given}))))
    if open_slots and strongest is not None:
        chosen = strongest([slot[name] for name in order], open_slots, AUTO_PREDICTORS)
        steps = [
            replace(step, predictors=tuple(sorted(chosen[step.slot]))) if step.slot in chosen else step
            for step in steps
        ]
    return Plan(tuple(steps), proper)


def _place(variable: Variable, column: Column) -> tuple[bool, bool, int]:
    """Key of the visit sequence "auto": numbers, then categories by rising number of levels; outcomes last."""
    numeric = variable.kind == "numeric"
    return column.outcome, not numeric, 0 if numeric else variable.n_used


def _check_columns(columns: Mapping[str, Column] | None, names: list[str]) -> dict[str, Column]:
    if columns is None:
        return {}
    if not isinstance(columns, Mapping):
        raise OptionError(f"columns must be a dict of name: Column(...), not {type(columns).__name__}.")
    _check_known("columns", columns, names)
    for name, column in columns.items():
        if not isinstance(column, Column):
            raise OptionError(f"columns[{name!r}] must be a Column(...), not {type(column).__name__}.")
        _check_known(f"predictors of {name!r}", column.predictors or (), names)
    return dict(columns)


def _check_known(where: str, given: Any, names: list[str]) -> None:
    unknown = [name for name in given if name not in names]
    if unknown:
        known = ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
        raise PlanError(f"{where}: no column {', '.join(map(repr, unknown))}. The table has {known}.")


def _passive(name: str, column: Column, names: list[str]) -> pl.Expr:
    expression = column.expression()
    assert expression is not None
    parents = expression.meta.root_names()
    _check_known(f"passive expression of {name!r}", parents, names)
    if not parents:
        raise PlanError(f"passive expression of {name!r} names no column. Compute it from at least one.")
    return expression


def _visit_sequence(
    given: Sequence[str] | str | None, names: list[str], kept: list[str], parents: dict[str, list[str]]
) -> list[str]:
    """Kept columns first, for they are there from the start; then the caller's order, or that of the table with each
    passive column after its parents.
    """
    _refuse_cycle(parents)
    if given is None:
        return _after_parents([name for name in names if name not in set(kept)], kept, parents)
    if isinstance(given, str) or not all(isinstance(name, str) for name in given):
        raise OptionError("visit_sequence must be a list of column names, or 'auto'.")
    _check_known("visit_sequence", given, names)
    twice = sorted(name for name, count in Counter(given).items() if count > 1)
    if twice:
        raise PlanError(f"visit_sequence names {', '.join(map(repr, twice))} more than once.")
    absent = sorted(set(names) - set(given) - set(kept), key=names.index)
    if absent:
        raise PlanError(
            f"visit_sequence lacks {', '.join(map(repr, absent))}. Name every column; drop it from the table, or set "
            "Column(method='keep') to release its original values."
        )
    return [*kept, *(name for name in given if name not in set(kept))]


def _refuse_cycle(parents: dict[str, list[str]]) -> None:
    try:
        TopologicalSorter({name: [p for p in of if p in parents] for name, of in parents.items()}).prepare()
    except CycleError as error:
        circle = ", ".join(map(repr, sorted(set(error.args[1]))))
        raise PlanError(f"Passive columns depend on each other in a circle: {circle}.") from None


def _after_parents(names: list[str], kept: list[str], parents: dict[str, list[str]]) -> list[str]:
    """The names in their order, each passive one moved behind its last parent."""
    order = list(kept)
    waiting: list[str] = []
    for name in names:
        waiting.append(name)
        while ready := [w for w in waiting if all(parent in order for parent in parents.get(w, ()))]:
            order += ready
            waiting = [w for w in waiting if w not in ready]
    return order


def _check_earlier(name: str, others: Sequence[str], position: dict[str, int], role: str) -> None:
    late = [other for other in others if position[other] >= position[name] and other != name]
    if name in others:
        raise PlanError(f"{name!r} cannot be its own {role}.")
    if late:
        raise PlanError(
            f"{role} {', '.join(map(repr, late))} of {name!r} is visited later than {name!r}. Move it before in "
            "visit_sequence, or leave it out."
        )


def _refuse_identifier(variable: Variable, n_rows: int, column: Column) -> None:
    """Text that is different for nearly everybody, or whole numbers for all, name people; a draw hands them out."""
    if column.method is not None:
        return
    if variable.kind == "numeric":
        named = pa.types.is_integer(variable.dtype) and n_rows >= IDENTIFIER_NUMBERS and variable.n_used == n_rows
    else:
        named = variable.n_used >= IDENTIFIER_LEVELS and variable.n_used > IDENTIFIER_SHARE * n_rows
    if named:
        raise DataError(
            f"Column {variable.name!r} looks like an identifier: {variable.n_used:,} different values in {n_rows:,} "
            f"rows. A synthetic copy would repeat real ones. Drop the column, or say what you want with "
            f"columns={{{variable.name!r}: Column(method='sample')}} (or 'cart', 'keep')."
        )
