"""Options in, a plan out: which column is drawn when, how, and from what.

Pure: no randomness, no rows. Every check of options is made here; after ``make_plan`` no option is looked at again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import polars as pl

from fastsynth._tree import MAX_SLOTS
from fastsynth.blocks import BLOCKS, Block, LatentNormal
from fastsynth.clusters import Cluster
from fastsynth.columns import FIRST, Variable
from fastsynth.errors import DataError, OptionError, PlanError, check_count, check_known
from fastsynth.expressions import parse
from fastsynth.identifiers import Pattern
from fastsynth.methods import Calibrated, Identifier, Method, Nested, Sample
from fastsynth.options import PLAIN, Column, Guard, Rule, check_guard, find_method
from fastsynth.plan_checks import (
    check_blocks,
    check_blur,
    check_cluster,
    check_columns,
    check_levels,
    check_nested,
    check_strata,
    over_whole_table,
    refuse_identifiers,
    refuse_limits_of,
)
from fastsynth.terms import Terms
from fastsynth.visit_sequence import (
    JOINT_2,
    UPPER,
    check_earlier,
    check_turns,
    find_order,
    find_turns,
    needs,
)

Action = Literal["draw", "keep", "passive", "identifier", "stratum", "cluster", "structure", "joint"]
Predictors = Literal["auto", "all"]
# Called with the slots of all columns in visit sequence, those to choose for, and how many predictors for each.
Strongest = Callable[[Sequence[int], Sequence[int], int], Mapping[int, tuple[int, ...]]]

# Tables of more columns than this predict each from so many earlier ones; benchmarks/predictors.py chose the number.
AUTO_COLUMNS = 60
AUTO_PREDICTORS = 20


@dataclass(frozen=True, slots=True, eq=False)
class Fixed:
    """A rule, as it is applied.

    Attributes
    ----------
    expression : polars.Expr
        True for the rows under the rule.
    parents : tuple of int
        Slots of the columns it uses.
    rank : int
        Rank of the value that the column has there.
    """

    expression: pl.Expr
    parents: tuple[int, ...]
    rank: int


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """What has to be true of a row, or null, checked while the last of its columns is drawn.

    Attributes
    ----------
    expression : polars.Expr
    parents : tuple of int
        Slots of the columns it uses.
    passive : tuple of int
        Slots of passive columns that have to be computed first, in visit sequence.
    values_only : bool
        Whether missing codes count as missing: so in bounds; in what is forbidden they are the numbers that they are.
    """

    expression: pl.Expr
    parents: tuple[int, ...]
    passive: tuple[int, ...] = ()
    values_only: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One column's turn.

    Attributes
    ----------
    slot : int
        Position of the column in the table.
    name : str
    action : {"draw", "keep", "passive", "identifier", "stratum", "cluster", "structure", "joint"}
    method : Cart, Sample, ... or None
        Of a column that is drawn together with others the block.
    predictors : tuple of int
        Slots to predict from; for a passive column, its parents.
    expression : polars.Expr or None
        Of a passive column.
    rules : tuple of Fixed
    limits : tuple of Limit
        Those of which this is the last column that is drawn.
    spikes : tuple of int
        Ranks of values on which the column piles up, as the caller says.
    groups : int
        Groups of quantiles that are drawn first; 0 for none.
    pattern : Pattern or None
        Of identifiers.
    guard : Guard or None
    smoothing : str or None
    noise : float
    level : int
        2 for what is constant within clusters, and drawn once for each; else 1.
    first : tuple of int
        Slots of what the first row of a cluster has, which its other rows are predicted from beside ``predictors``.
    """

    slot: int
    name: str
    action: Action
    method: Method | Block | None = None
    predictors: tuple[int, ...] = ()
    expression: pl.Expr | None = None
    rules: tuple[Fixed, ...] = ()
    limits: tuple[Limit, ...] = ()
    spikes: tuple[int, ...] = ()
    groups: int = 0
    pattern: Pattern | None = None
    guard: Guard | None = None
    smoothing: str | None = None
    noise: float = 0.0
    level: int = 1
    first: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """All steps, in visit sequence.

    Attributes
    ----------
    steps : tuple of Step
    proper : bool
    strata : tuple of int
        Slots of the columns that tell strata apart; they come first, but for kept ones.
    where : bool
        Whether only some cells are replaced.
    cluster : int or None
        Slot of the column that says which rows belong together.
    blocks : tuple of LatentNormal or Copula
        Joint models, in the order in which they are drawn.
    """

    steps: tuple[Step, ...]
    proper: bool = False
    strata: tuple[int, ...] = ()
    where: bool = False
    cluster: int | None = None
    blocks: tuple[Block, ...] = ()

    def steps_of(self, block: Block) -> list[Step]:
        """The steps of the columns of a block, level 2 first."""
        return [step for step in self.steps if step.action == "joint" and step.method is block]

    @property
    def partial(self) -> bool:
        """Whether some cells keep their original values."""
        return self.where or any(step.action == "keep" for step in self.steps)


def make_plan(
    variables: Sequence[Variable],
    *,
    method: str | Method | Block = "calibrated",
    columns: Mapping[str, Column] | None = None,
    visit_sequence: Sequence[str] | str = "auto",
    predictors: Predictors = "auto",
    proper: bool = False,
    strongest: Strongest | None = None,
    forbid: Sequence[pl.Expr | str] = (),
    strata: Sequence[str] = (),
    where: Collection[str] | None = None,
    patterns: Mapping[str, Pattern] | None = None,
    guard: Guard | None = None,
    blocks: Sequence[Block] = (),
    cluster: Cluster | None = None,
    level2: Collection[str] = (),
) -> Plan:
    """Turn options into a plan.

    Parameters
    ----------
    variables : sequence of Variable
        The columns, in table order, and behind them parts of dates.
    method, columns, visit_sequence, predictors, proper, forbid, strata
        As in ``synthesize``.
    strongest : callable, optional
        Chooses the predictors of "auto" in a wide table, as ``association.strongest`` does. Without it they are all
        earlier columns.
    where : collection of str, optional
        Columns of which some cells are replaced; all others are kept.
    patterns : dict of str to Pattern, optional
        Columns that identify people, and the pattern of fresh identifiers.
    guard : Guard, optional
        Of columns that have none of their own.
    blocks : list of LatentNormal or Copula, default ()
        As in ``synthesize``.
    cluster : Cluster, optional
    level2 : collection of str, default ()
        Columns that are constant within all clusters.

    Raises
    ------
    PlanError
        Unknown columns, a predictor or a passive parent visited later than its target, a passive cycle.
    OptionError, DataError
        As in ``synthesize``.
    """
    every = list(variables)
    parts, first = _further_variables(variables)
    variables = [v for v in variables if v.calendar is None]
    names = [v.name for v in variables]
    check_columns(columns, names)
    check_guard(guard)
    columns, patterns = dict(columns or {}), dict(patterns or {})
    if len(every) > MAX_SLOTS:
        raise DataError(f"The table has {len(names):,} columns; at most {MAX_SLOTS:,} are possible.")
    whole, default = _find_methods(method)
    _check_switches(predictors, proper)
    slot = {name: i for i, name in enumerate(names)}
    expressions = {
        name: _passive(name, column, names) for name, column in columns.items() if column.passive is not None
    }
    kept = _find_kept(names, columns, expressions, strata, where)
    check_strata(strata, names, columns, patterns)
    fixed = {*kept, *patterns, *strata, *expressions}
    cluster_pattern, made = None, patterns
    if cluster is not None:
        cluster_pattern = patterns.pop(cluster.column, None)
        check_cluster(cluster, names, columns, patterns, kept, level2, strata, where)
        fixed |= {cluster.column, *cluster.structure}
        if cluster_pattern is not None:
            made = patterns | {cluster.column: cluster_pattern}
    if whole is not None:
        alone = {name for name, column in columns.items() if column.method is not None}
        blocks = over_whole_table(whole, blocks, [name for name in names if name not in fixed | alone])
    block_of = check_blocks(blocks, names, fixed, columns, variables, cluster, where is not None)
    needed = {name: [n for n in before if n in slot] for name, before in needs(columns).items()}
    turn = find_turns(names, kept, strata, cluster, level2, blocks, expressions)
    order = find_order(variables, visit_sequence, columns, turn, needed)
    check_turns(order, turn, block_of)
    refuse_limits_of(made, columns, forbid)
    if where is not None and not isinstance(forbid, str | pl.Expr):
        # What is kept has to fit to what is drawn.
        forbid = [*forbid, *(rule.broken(name) for name in kept for rule in columns.get(name, PLAIN).rules)]
    free = [name for name in order if name not in fixed or name in expressions]
    limits = _limits(columns, forbid, names, expressions, order, free, where is not None)
    upper = {name for name in order if turn[name][0] in (JOINT_2, UPPER) or (name in kept and name in level2)}
    _check_upper(upper & set(free), limits, columns, upper, names, blocks)
    narrow = strongest if predictors == "auto" and len(names) > AUTO_COLUMNS else None
    sizes: tuple[int, ...] = ()
    if cluster is not None:
        of_cluster = parts.pop(slot[cluster.column], [])
        sizes = tuple(place for place in of_cluster if every[place].kind == "numeric")
    setting = _Setting(
        variables,
        order,
        columns,
        kept,
        expressions,
        strata,
        patterns,
        cluster,
        cluster_pattern,
        block_of,
        limits,
        upper,
        parts,
        sizes,
        default,
        guard,
        narrow is not None,
    )
    steps = [_step(setting, name) for name in order]
    if narrow is not None:
        steps = _with_strongest(setting, steps, narrow)
    if first:
        steps = [_with_first(step, first) for step in steps]
    _check_covariates(steps, blocks, slot)
    # Posterior draws of a chain differ from copy to copy, so trees beside them have to as well.
    proper = proper or any(isinstance(block, LatentNormal) for block in blocks)
    place = None if cluster is None else slot[cluster.column]
    return Plan(tuple(steps), proper, tuple(slot[name] for name in strata), where is not None, place, tuple(blocks))


def _further_variables(variables: Sequence[Variable]) -> tuple[dict[int, list[int]], dict[int, int]]:
    """By slot of a column, those of the parts of its dates, or of the size of its clusters; and that of first rows."""
    parts: dict[int, list[int]] = {}
    first: dict[int, int] = {}
    for place, variable in enumerate(variables):
        if variable.calendar is not None:
            of, part = variable.calendar
            if part == FIRST:
                first[of] = place
            else:
                parts.setdefault(of, []).append(place)
    return parts, first


def _find_methods(method: Any) -> tuple[Block | None, Method]:
    """The joint model of the whole table, and the method of columns that have none and are in no joint model."""
    if method == "keep":
        raise OptionError("method='keep' for the whole table would synthesise nothing. Set it for single columns.")
    whole = BLOCKS[method]() if isinstance(method, str) and method in BLOCKS else method
    default = Calibrated() if isinstance(whole, Block) else find_method(whole)
    if isinstance(default, Nested | Identifier):
        raise OptionError(f"method={default!r} is for single columns: columns={{name: Column(method=...)}}.")
    return whole if isinstance(whole, Block) else None, default


def _check_switches(predictors: Any, proper: Any) -> None:
    if not isinstance(predictors, str) or predictors not in ("auto", "all"):
        raise OptionError(
            f"predictors={predictors!r}: must be 'auto' or 'all'. For one column use Column(predictors=[...])."
        )
    if not isinstance(proper, bool):
        raise OptionError(f"proper={proper!r}: must be True or False.")


def _find_kept(
    names: list[str],
    columns: Mapping[str, Column],
    expressions: Mapping[str, pl.Expr],
    strata: Sequence[str],
    where: Collection[str] | None,
) -> list[str]:
    """Columns of which no cell is replaced."""
    kept = [name for name in names if columns.get(name, PLAIN).method == "keep"]
    if where is not None:
        check_known("where", where, names)
        if set(where) & set(strata):
            raise OptionError(
                f"where names {', '.join(map(repr, sorted(set(where) & set(strata))))}, which make strata."
            )
        kept = _kept_beside(where, names, expressions, columns)
    if len(kept) == len(names):
        raise OptionError("All columns are kept: nothing would be synthesised.")
    return kept


@dataclass(frozen=True, slots=True, eq=False)
class _Setting:
    """What steps are made of, after all options were checked.

    Attributes
    ----------
    variables : sequence of Variable
        By slot.
    order : list of str
        The visit sequence.
    columns, expressions, patterns, block_of, limits : dict
        By name, of columns that have one.
    kept, strata, upper : collection of str
        Columns that are kept, that make strata, and that are constant within clusters.
    cluster : Cluster or None
    cluster_pattern : Pattern or None
        Of fresh names of clusters.
    parts : dict of int to list of int
        Slots of parts of dates, by that of the date.
    sizes : tuple of int
        Slots of the size of the cluster, which predicts beside all else.
    default : Method
    guard : Guard or None
    narrow : bool
        Whether predictors are chosen afterwards, where the caller names none.
    slot, position : dict of str to int
        Places in the table and in the visit sequence.
    able : dict of int to list of str
        By level, columns that others can be predicted from, in visit sequence.
    """

    variables: Sequence[Variable]
    order: list[str]
    columns: Mapping[str, Column]
    kept: Collection[str]
    expressions: Mapping[str, pl.Expr]
    strata: Collection[str]
    patterns: Mapping[str, Pattern]
    cluster: Cluster | None
    cluster_pattern: Pattern | None
    block_of: Mapping[str, Block]
    limits: Mapping[str, Sequence[Limit]]
    upper: Collection[str]
    parts: Mapping[int, list[int]]
    sizes: tuple[int, ...]
    default: Method
    guard: Guard | None
    narrow: bool
    slot: dict[str, int] = field(init=False)
    position: dict[str, int] = field(init=False)
    able: dict[int, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "slot", {variable.name: i for i, variable in enumerate(self.variables)})
        object.__setattr__(self, "position", {name: i for i, name in enumerate(self.order)})
        silent = {*self.patterns, *self.strata} | (set() if self.cluster is None else {self.cluster.column})
        able = [name for name in self.order if name not in silent]
        object.__setattr__(self, "able", {1: able, 2: [name for name in able if name in self.upper]})

    def level(self, name: str) -> int:
        """2 for what is constant within clusters."""
        return 2 if name in self.upper else 1

    def earlier(self, name: str) -> list[str]:
        """Columns that a column can be predicted from."""
        able, position = self.able[self.level(name)], self.position
        return able[: bisect_left(able, position[name], key=position.__getitem__)]

    def fixed(self, name: str) -> tuple[Fixed, ...]:
        """Rules of a column."""
        rules = self.columns.get(name, PLAIN).rules
        return tuple(_fixed(rule, self.variables[self.slot[name]], self.slot, self.position) for rule in rules)


def _step(setting: _Setting, name: str) -> Step:
    slot, cluster, level = setting.slot[name], setting.cluster, setting.level(name)
    if name in setting.kept:
        return Step(slot, name, "keep", level=level)
    if name in setting.expressions:
        expression = setting.expressions[name]
        parents = sorted(set(expression.meta.root_names()), key=setting.slot.__getitem__)
        check_earlier(name, parents, setting.position, "passive parent")
        return Step(slot, name, "passive", None, tuple(setting.slot[p] for p in parents), expression, level=level)
    if name in setting.strata:
        return Step(slot, name, "stratum")
    if name in setting.patterns:
        return Step(slot, name, "identifier", Identifier(), pattern=setting.patterns[name])
    if cluster is not None and name == cluster.column:
        return Step(slot, name, "cluster", pattern=setting.cluster_pattern, level=2)
    if cluster is not None and name in cluster.structure:
        return Step(slot, name, "structure")
    check_blur(setting.variables[slot], setting.columns.get(name, PLAIN))
    return _joint_step(setting, name) if name in setting.block_of else _single_step(setting, name)


def _joint_step(setting: _Setting, name: str) -> Step:
    column, block = setting.columns.get(name, PLAIN), setting.block_of[name]
    others = [other for other in setting.earlier(name) if setting.block_of.get(other) is not block]
    return Step(
        setting.slot[name],
        name,
        "joint",
        block,
        tuple(sorted(setting.slot[other] for other in others)),
        rules=setting.fixed(name),
        limits=tuple(setting.limits.get(name, ())),
        smoothing=column.smoothing,
        noise=float(column.noise or 0),
        level=setting.level(name),
    )


def _single_step(setting: _Setting, name: str) -> Step:
    column, variable = setting.columns.get(name, PLAIN), setting.variables[setting.slot[name]]
    method = setting.default if column.method is None else find_method(column.method)
    return Step(
        setting.slot[name],
        name,
        "draw",
        method,
        _predictors(setting, name, method),
        rules=setting.fixed(name),
        limits=tuple(setting.limits.get(name, ())),
        spikes=_spikes(variable, column),
        groups=_groups(variable, column),
        guard=_guard_of(setting, name, column, method),
        smoothing=column.smoothing,
        noise=float(column.noise or 0),
        level=setting.level(name),
    )


def _predictors(setting: _Setting, name: str, method: Method) -> tuple[int, ...]:
    """Slots that a column is predicted from, ascending."""
    column, cluster = setting.columns.get(name, PLAIN), setting.cluster
    if cluster is not None and isinstance(method, Nested):
        raise PlanError(
            f"Column {name!r}: nested codes know nothing of clusters. Give it another method, or leave out cluster=."
        )
    given: Sequence[str] = setting.earlier(name)
    sizes = setting.sizes if column.predictors is None and not isinstance(method, Sample) else ()
    if column.predictors is not None:
        refuse_identifiers(name, column.predictors, setting.patterns)
        check_levels(name, column.predictors, cluster, name in setting.upper, setting.upper)
        check_earlier(name, column.predictors, setting.position, "predictor")
        given = [n for n in column.predictors if n not in setting.strata]
    if isinstance(method, Nested):
        check_nested(name, method, list(setting.slot), setting.position, setting.patterns)
        given = [*given, method.within]
    if isinstance(method, Sample) or (setting.narrow and column.predictors is None):
        given = ()
    return tuple(sorted({*_with_parts([setting.slot[other] for other in given], setting.parts), *sizes}))


def _with_strongest(setting: _Setting, steps: list[Step], strongest: Strongest) -> list[Step]:
    """The steps with chosen predictors, where the caller names none."""
    free = [step for step in steps if step.action == "draw" and not isinstance(step.method, Sample)]
    free = [step for step in free if setting.columns.get(step.name, PLAIN).predictors is None]
    chosen: dict[int, tuple[int, ...]] = {}
    for level in (1, 2):
        wanted = [step.slot for step in free if step.level == level]
        if wanted:
            # What is drawn once a cluster is predicted from such columns only.
            chosen |= strongest([setting.slot[name] for name in setting.able[level]], wanted, AUTO_PREDICTORS)
    chosen = {slot: (*_with_parts(found, setting.parts), *setting.sizes) for slot, found in chosen.items()}
    return [_with_predictors(step, chosen, setting.slot) for step in steps]


def _check_upper(
    drawn: Collection[str],
    limits: Mapping[str, Sequence[Limit]],
    columns: Mapping[str, Column],
    upper: Collection[str],
    names: Sequence[str],
    blocks: Sequence[Block],
) -> None:
    """Refuse limits and rules by which a column of clusters would depend on single rows, or jointly drawn ones have."""
    for block in blocks:
        if isinstance(block, LatentNormal) and set(block.columns) <= set(upper):
            raise PlanError(
                f"{block!r}: all columns are constant within clusters, and their random effects have no rows. Add a "
                "column that is not, or leave them to trees."
            )
    for name in drawn:
        if limits.get(name) and any(name in block.columns for block in blocks):
            raise PlanError(
                f"{name!r} is drawn jointly, once for each cluster, so bounds and what is forbidden cannot be met by "
                "drawing it again. Leave it out of the block, or leave the limit out."
            )
        asked = {names[slot] for limit in limits.get(name, ()) for slot in (*limit.parents, *limit.passive)}
        asked |= {root for rule in columns.get(name, PLAIN).rules for root in rule.expression().meta.root_names()}
        rows = sorted(asked - set(upper))
        if rows:
            raise PlanError(
                f"{name!r} is the same in all rows of a cluster, but a rule or a limit ties it to "
                f"{', '.join(map(repr, rows))}, which are not. Leave it out."
            )


def _check_covariates(steps: Sequence[Step], blocks: Sequence[Block], slot: Mapping[str, int]) -> None:
    """Refuse what of a joint model is drawn after it, or ties columns of rows and of clusters together."""
    by_name = {step.name: step for step in steps}
    for block in blocks:
        for group in block.interactions:
            if len({by_name[name].level for name in group}) > 1:
                raise PlanError(
                    f"interactions: of {', '.join(map(repr, group))} some are constant within clusters and some are "
                    "not, so they cannot be drawn together. Use model=, or trees."
                )
        if not isinstance(block, LatentNormal):
            continue
        known = {slot for step in steps if step.method is block and step.level == 1 for slot in step.predictors}
        late = [name for name in block.slopes if slot[name] not in known]
        if late:
            raise PlanError(
                f"slopes: {', '.join(map(repr, late))} are drawn after the block. They must be kept columns, or "
                "those of earlier blocks."
            )
        if block.model is None:
            continue
        terms = Terms.parse(block.model)
        outcome = by_name[terms.outcome]
        if outcome.level == 2:
            raise OptionError(
                f"model={block.model!r}: the outcome {terms.outcome!r} is constant within clusters. Models are of "
                "columns of rows: synthesise a table of clusters on its own, or leave model= out."
            )
        late = [n for n in terms.covariates if n not in block.columns and slot[n] not in outcome.predictors]
        if late:
            raise OptionError(
                f"model={block.model!r}: {', '.join(map(repr, late))} are drawn after the block. Covariates are "
                "columns of the block, kept ones, or those of earlier blocks: put them into one of these."
            )


def _guard_of(setting: _Setting, name: str, column: Column, method: Method) -> Guard | None:
    """What leaves of a column must hold. How often a value may be copied is counted among the rows of a block."""
    guard = setting.guard if column.guard is None else column.guard
    if isinstance(method, Nested) or guard is None or guard.max_copies is None:
        return None if isinstance(method, Nested) else guard
    led = setting.cluster is not None and len(setting.cluster.structure) > 0
    if led or (name in setting.upper and column.guard is not None):
        what = "clusters are drawn one by one" if name in setting.upper else "structure ties rows of several together"
        raise PlanError(
            f"max_copies of {name!r}: copies are counted among the rows of a block, but {what}. Leave max_copies out."
        )
    return replace(guard, max_copies=None) if name in setting.upper else guard


def redrawn_column(plan: Plan, variables: Sequence[Variable]) -> int | None:
    """Slot of the column with the most different values among those that can be drawn anew by themselves.

    No other column is computed from it, nested in it, or limited by it. None if there is none.
    """
    used = {slot for step in plan.steps if step.action == "passive" for slot in step.predictors} | set(plan.strata)
    for step in plan.steps:
        used |= {slot for rule in step.rules for slot in rule.parents}
        used |= {slot for limit in step.limits for slot in (*limit.parents, *limit.passive) if slot != step.slot}
        if isinstance(step.method, Nested):
            used |= {slot for slot in step.predictors if variables[slot].name == step.method.within}
    free = [s.slot for s in plan.steps if s.action == "draw" and s.level == 1 and s.slot not in used]
    return max(free, key=lambda slot: (variables[slot].n_used, slot), default=None)


def without_clusters(variables: Sequence[Variable], plan: Plan) -> tuple[Variable, ...]:
    """The columns with nothing known of real clusters, unless they are kept: neither names nor who has which size."""
    named = [step.slot for step in plan.steps if step.action == "cluster"]
    found = list(variables)
    for slot, variable in enumerate(variables):
        if slot in named:
            found[slot] = variable.blank()
        elif variable.calendar is not None and variable.calendar[0] in named:
            found[slot] = replace(variable, bins=np.zeros(1, np.uint16))
    return tuple(found)


def _with_parts(slots: Iterable[int], parts: Mapping[int, list[int]]) -> tuple[int, ...]:
    """Slots and those of the parts of dates among them, ascending."""
    own = set(slots)
    return tuple(sorted(own.union(*(parts[slot] for slot in own & parts.keys()))))


def _with_predictors(step: Step, chosen: Mapping[int, tuple[int, ...]], slot: Mapping[str, int]) -> Step:
    if step.slot not in chosen:
        return step
    coarse = {slot[step.method.within]} if isinstance(step.method, Nested) else set()
    return replace(step, predictors=tuple(sorted({*chosen[step.slot], *coarse})))


def _with_first(step: Step, first: Mapping[int, int]) -> Step:
    """The step with what the first row of a cluster has of the column and its predictors."""
    if step.action != "draw" or step.level == 2 or isinstance(step.method, Sample):
        return step
    return replace(step, first=tuple(first[slot] for slot in (*step.predictors, step.slot) if slot in first))


def _kept_beside(
    where: Collection[str], names: list[str], expressions: Mapping[str, pl.Expr], columns: Mapping[str, Column]
) -> list[str]:
    """Columns of which no cell is replaced: not named, and not computed from one that is."""
    named = [name for name in where if columns.get(name, PLAIN).method == "keep" or name in expressions]
    if named:
        raise OptionError(
            f"where names {', '.join(map(repr, named))}: kept columns are not replaced, and passive ones follow their "
            "parents. Leave them out."
        )
    replaced = set(where)
    for _ in expressions:
        replaced |= {name for name, of in expressions.items() if replaced & set(of.meta.root_names())}
    return [name for name in names if name not in replaced]


def _fixed(rule: Rule, variable: Variable, slot: Mapping[str, int], position: Mapping[str, int]) -> Fixed:
    expression = rule.expression()
    parents = sorted(set(expression.meta.root_names()), key=slot.__getitem__)
    check_earlier(variable.name, parents, position, "column of a rule")
    rank = variable.rank_of(rule.value)
    if rank is None:
        raise OptionError(
            f"Rule(value={rule.value!r}) of {variable.name!r}: the column has no such value. Give one that occurs in "
            "it, or None for missing."
        )
    return Fixed(expression, tuple(slot[name] for name in parents), rank)


def _spikes(variable: Variable, column: Column) -> tuple[int, ...]:
    if column.semicont and variable.kind != "numeric":
        raise OptionError(f"semicont of {variable.name!r}: the column is no number; its levels are classes already.")
    ranks = [variable.rank_of(value) for value in column.semicont]
    for value, rank in zip(column.semicont, ranks, strict=True):
        if rank is None or rank < variable.first:
            raise OptionError(f"semicont={value!r} of {variable.name!r}: the column has no such value.")
    return tuple(sorted({rank for rank in ranks if rank is not None}))


def _groups(variable: Variable, column: Column) -> int:
    if column.numtocat is None:
        return 0
    if variable.kind != "numeric":
        raise OptionError(f"numtocat of {variable.name!r}: the column is no number.")
    return check_count("numtocat", column.numtocat)


def _limits(
    columns: Mapping[str, Column],
    forbid: Sequence[pl.Expr | str],
    names: list[str],
    expressions: Mapping[str, pl.Expr],
    order: list[str],
    free: list[str],
    partial: bool,
) -> dict[str, list[Limit]]:
    """What has to be true, by the last column drawn of those it depends on; passive ones depend on their parents."""
    if isinstance(forbid, str | pl.Expr) or not isinstance(forbid, Sequence):
        raise OptionError("forbid must be a list of expressions that are true for rows that may not occur.")
    wanted = [("forbid", ~parse("forbid", given), False) for given in forbid]
    for name, column in columns.items():
        wanted += [(f"bounds of {name!r}", expression, True) for expression in column.limits(name)]
    found: dict[str, list[Limit]] = {}
    for what, expression, values_only in wanted:
        roots = list(dict.fromkeys(expression.meta.root_names()))
        check_known(what, roots, names)
        if not roots:
            raise PlanError(f"{what}: the expression names no column.")
        behind = set(roots)
        for _ in expressions:
            behind |= {p for name in behind & set(expressions) for p in expressions[name].meta.root_names()}
        drawn = [name for name in order if name in behind and name in free and name not in expressions]
        if not drawn and partial:
            continue  # all of them are kept as they are
        if not drawn:
            raise PlanError(
                f"{what}: {', '.join(map(repr, roots))} are not drawn (kept, strata, or identifiers), so nothing can "
                "be excluded."
            )
        last = drawn[-1]
        later = set(order[order.index(last) :])
        computed = [name for name in order if name in behind and name in expressions and name in later]
        slots = tuple(names.index(name) for name in roots), tuple(names.index(name) for name in computed)
        found.setdefault(last, []).append(Limit(expression, *slots, values_only))
    return found


def _passive(name: str, column: Column, names: list[str]) -> pl.Expr:
    expression = column.expression()
    assert expression is not None
    parents = expression.meta.root_names()
    check_known(f"passive expression of {name!r}", parents, names)
    if not parents:
        raise PlanError(f"passive expression of {name!r} names no column. Compute it from at least one.")
    return expression
