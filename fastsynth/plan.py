"""Options in, a plan out: which column is drawn when, how, and from what.

Pure: no randomness, no rows. Every check of options is made here; after ``make_plan`` no option is looked at again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import polars as pl

from fastsynth._tree import MAX_SLOTS
from fastsynth.blocks import BLOCKS, Block, Copula, LatentNormal
from fastsynth.clusters import Cluster
from fastsynth.columns import FIRST, Variable
from fastsynth.errors import DataError, OptionError, PlanError, check_count
from fastsynth.expressions import parse
from fastsynth.identifiers import Pattern
from fastsynth.methods import Calibrated, Identifier, Method, Nested, Sample
from fastsynth.options import PLAIN, Column, Guard, Rule, check_guard, find_method
from fastsynth.terms import Terms

Action = Literal["draw", "keep", "passive", "identifier", "stratum", "cluster", "structure", "joint"]
Predictors = Literal["auto", "all"]
# Called with the slots of all columns in visit sequence, those to choose for, and how many predictors for each.
Strongest = Callable[[Sequence[int], Sequence[int], int], Mapping[int, tuple[int, ...]]]

# Tables of more columns than this predict each from so many earlier ones; benchmarks/predictors.py chose the number.
AUTO_COLUMNS = 60
AUTO_PREDICTORS = 20
# Whose turn comes when: kept columns are there from the start, what is drawn once a cluster comes before what has a
# value in each row, and joint models before single columns.
KEPT, STRATA, CLUSTER, JOINT_2, UPPER, STRUCTURE, JOINT, SINGLE = range(8)
# Each level of an unordered category but one is a latent normal.
MOST_LATENT_LEVELS = 50


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
    parts: dict[int, list[int]] = {}
    first: dict[int, int] = {}
    for place, variable in enumerate(variables):
        if variable.calendar is not None:
            of, part = variable.calendar
            if part == FIRST:
                first[of] = place
            else:
                parts.setdefault(of, []).append(place)
    n_all, variables = len(variables), [v for v in variables if v.calendar is None]
    names = [v.name for v in variables]
    check_columns(columns, names)
    check_guard(guard)
    columns, patterns = dict(columns or {}), dict(patterns or {})
    if n_all > MAX_SLOTS:
        raise DataError(f"The table has {len(names):,} columns; at most {MAX_SLOTS:,} are possible.")
    if method == "keep":
        raise OptionError("method='keep' for the whole table would synthesise nothing. Set it for single columns.")
    whole = BLOCKS[method]() if isinstance(method, str) and method in BLOCKS else method
    default = Calibrated() if isinstance(whole, Block) else find_method(whole)
    if isinstance(default, Nested | Identifier):
        raise OptionError(f"method={default!r} is for single columns: columns={{name: Column(method=...)}}.")
    if not isinstance(predictors, str) or predictors not in ("auto", "all"):
        raise OptionError(
            f"predictors={predictors!r}: must be 'auto' or 'all'. For one column use Column(predictors=[...])."
        )
    if not isinstance(proper, bool):
        raise OptionError(f"proper={proper!r}: must be True or False.")
    slot = {name: i for i, name in enumerate(names)}
    expressions = {
        name: _passive(name, column, names) for name, column in columns.items() if column.passive is not None
    }
    kept = [name for name in names if columns.get(name, PLAIN).method == "keep"]
    if where is not None:
        _check_known("where", where, names)
        if set(where) & set(strata):
            raise OptionError(
                f"where names {', '.join(map(repr, sorted(set(where) & set(strata))))}, which make strata."
            )
        kept = _kept_beside(where, names, expressions, columns)
    if len(kept) == len(names):
        raise OptionError("All columns are kept: nothing would be synthesised.")
    _check_strata(strata, names, columns, patterns)
    fixed = {*kept, *patterns, *strata, *expressions}
    if cluster is not None:
        cluster_pattern = patterns.pop(cluster.column, None)
        _check_cluster(cluster, names, columns, patterns, kept, level2, strata, where)
        fixed |= {cluster.column, *cluster.structure}
    if isinstance(whole, Block):
        alone = {name for name, column in columns.items() if column.method is not None}
        blocks = _of_whole_table(whole, blocks, [name for name in names if name not in fixed | alone])
    block_of = _check_blocks(blocks, names, fixed, columns, variables, cluster, where is not None)
    needed = {name: [n for n in before if n in slot] for name, before in needs(columns).items()}
    turn = _turns(names, kept, strata, cluster, level2, blocks, expressions)
    order = _order(variables, visit_sequence, columns, turn, needed)
    _check_turns(order, turn, block_of)
    position = {name: i for i, name in enumerate(order)}
    _refuse_limits_of(patterns, columns, forbid)
    if where is not None and not isinstance(forbid, str | pl.Expr):
        # What is kept has to fit to what is drawn.
        forbid = [*forbid, *(rule.broken(name) for name in kept for rule in columns.get(name, PLAIN).rules)]
    free = [name for name in order if name not in fixed or name in expressions]
    limits = _limits(columns, forbid, names, expressions, order, free, where is not None)
    upper = {name for name in order if turn[name][0] in (JOINT_2, UPPER) or (name in kept and name in level2)}
    _check_upper(upper & set(free), limits, columns, upper, names)
    narrow = predictors == "auto" and len(names) > AUTO_COLUMNS and strongest is not None
    steps: list[Step] = []
    open_slots = []
    earlier: list[str] = []
    sizes = () if cluster is None else tuple(parts.pop(slot[cluster.column], ()))
    for name in order:
        column, variable = columns.get(name, PLAIN), variables[slot[name]]
        level = 2 if name in upper else 1
        known = [other for other in earlier if level == 1 or other in upper]
        if name in kept:
            steps.append(Step(slot[name], name, "keep", level=level))
        elif name in expressions:
            parents = sorted(set(expressions[name].meta.root_names()), key=names.index)
            _check_earlier(name, parents, position, "passive parent")
            of_parents = tuple(slot[p] for p in parents)
            steps.append(Step(slot[name], name, "passive", None, of_parents, expressions[name], level=level))
        elif name in strata:
            steps.append(Step(slot[name], name, "stratum"))
        elif name in patterns:
            steps.append(Step(slot[name], name, "identifier", Identifier(), pattern=patterns[name]))
        elif cluster is not None and name == cluster.column:
            steps.append(Step(slot[name], name, "cluster", pattern=cluster_pattern, level=2))
        elif cluster is not None and name in cluster.structure:
            steps.append(Step(slot[name], name, "structure"))
        elif name in block_of:
            _check_blur(variable, column)
            same = [other for other in known if block_of.get(other) is not block_of[name]]
            steps.append(
                Step(
                    slot[name],
                    name,
                    "joint",
                    block_of[name],
                    tuple(sorted(slot[other] for other in same)),
                    rules=tuple(_fixed(rule, variable, slot, position) for rule in column.rules),
                    limits=tuple(limits.get(name, ())),
                    smoothing=column.smoothing,
                    noise=float(column.noise or 0),
                    level=level,
                )
            )
        else:
            _check_blur(variable, column)
            own = default if column.method is None else find_method(column.method)
            if cluster is not None and isinstance(own, Nested):
                raise PlanError(
                    f"Column {name!r}: nested codes know nothing of clusters. Give it another method, or leave out "
                    "cluster=."
                )
            given: Sequence[str] = known
            size_slots = sizes if column.predictors is None and not isinstance(own, Sample) else ()
            if column.predictors is not None:
                _refuse_identifiers(name, column.predictors, patterns)
                _check_levels(name, column.predictors, cluster, level == 2, upper)
                _check_earlier(name, column.predictors, position, "predictor")
                given = [n for n in column.predictors if n not in strata]
            if isinstance(own, Nested):
                _check_nested(name, own, names, position, patterns)
                given = [*given, own.within]
            if isinstance(own, Sample):
                given = ()
            elif narrow and column.predictors is None:
                open_slots.append(slot[name])
                given = ()
            steps.append(
                Step(
                    slot[name],
                    name,
                    "draw",
                    own,
                    tuple(sorted({*_with_parts([slot[other] for other in given], parts), *size_slots})),
                    rules=tuple(_fixed(rule, variable, slot, position) for rule in column.rules),
                    limits=tuple(limits.get(name, ())),
                    spikes=_spikes(variable, column),
                    groups=_groups(variable, column),
                    guard=None if isinstance(own, Nested) else guard if column.guard is None else column.guard,
                    smoothing=column.smoothing,
                    noise=float(column.noise or 0),
                    level=level,
                )
            )
        if name not in patterns and name not in strata and (cluster is None or name != cluster.column):
            earlier.append(name)
    if open_slots and strongest is not None:
        chosen: dict[int, tuple[int, ...]] = {}
        for of_level in (1, 2):
            # What is drawn once a cluster is predicted from such columns only.
            able = [slot[name] for name in earlier if of_level == 1 or name in upper]
            wanted = [step.slot for step in steps if step.slot in open_slots and step.level == of_level]
            chosen |= strongest(able, wanted, AUTO_PREDICTORS) if wanted else {}
        chosen = {of: (*_with_parts(predictors_of, parts), *sizes) for of, predictors_of in chosen.items()}
        steps = [_with_predictors(step, chosen, slot) for step in steps]
    if first:
        steps = [_with_first(step, first) for step in steps]
    _check_covariates(steps, blocks, slot)
    # Posterior draws of a chain differ from copy to copy, so trees beside them have to as well.
    proper = proper or any(isinstance(block, LatentNormal) for block in blocks)
    of_cluster = None if cluster is None else slot[cluster.column]
    return Plan(
        tuple(steps), proper, tuple(slot[name] for name in strata), where is not None, of_cluster, tuple(blocks)
    )


def _turns(
    names: Sequence[str],
    kept: Collection[str],
    strata: Sequence[str],
    cluster: Cluster | None,
    level2: Collection[str],
    blocks: Sequence[Block],
    expressions: Mapping[str, pl.Expr],
) -> dict[str, tuple[int, int]]:
    """Whose turn comes when, and the place within the turn where that is not the caller's."""
    block = {name: number for number, of in enumerate(blocks) for name in of.columns}
    upper = {
        name
        for name in level2
        if name not in kept
        and (name not in expressions or set(expressions[name].meta.root_names()) <= {*level2, *kept})
    }

    def turn(name: str) -> tuple[int, int]:
        if name in kept:
            return KEPT, 0
        if name in strata:
            return STRATA, list(strata).index(name)
        if cluster is not None and name == cluster.column:
            return CLUSTER, 0
        if cluster is not None and name in cluster.structure:
            return STRUCTURE, 0
        if name in block:
            return JOINT_2 if name in upper else JOINT, block[name]
        return UPPER if name in upper else SINGLE, 0

    return {name: turn(name) for name in names}


def _check_turns(order: Sequence[str], turn: Mapping[str, tuple[int, int]], block_of: Mapping[str, Block]) -> None:
    """Refuse columns that others need before their turn."""
    for before, name in pairwise(order):
        if turn[name] < turn[before]:
            what = "in a joint model" if name in block_of else "once for each cluster, within which it is constant"
            raise PlanError(
                f"{name!r} is drawn {what}, before {before!r}, but a rule or a passive expression of it needs columns "
                "that come later. Leave the rule out, or take the column out of the joint model."
            )


def _check_cluster(
    cluster: Cluster,
    names: Sequence[str],
    columns: Mapping[str, Column],
    patterns: Mapping[str, Pattern],
    kept: Collection[str],
    level2: Collection[str],
    strata: Sequence[str],
    where: Collection[str] | None,
) -> None:
    """Refuse what does not go together with clusters."""
    _check_known("cluster", [cluster.column], names)
    _check_known("structure", cluster.structure, names)
    own = columns.get(cluster.column, PLAIN)
    if strata or where is not None:
        raise OptionError(
            f"cluster={cluster.column!r} does not go with {'strata' if strata else 'where'}=: rows of a cluster belong "
            "together. Leave one out."
        )
    if own.method not in (None, "keep", "identifier") or own.passive is not None or own.special():
        raise OptionError(
            f"Column {cluster.column!r} says which rows belong together: it gets fresh names, or is kept with "
            "Column(method='keep'). Nothing else can be said of it."
        )
    if cluster.column not in kept and kept:
        raise PlanError(
            f"{', '.join(map(repr, kept))} are kept, so rows are those of the original, but clusters are drawn anew. "
            f"Keep {cluster.column!r} as well, with Column(method='keep')."
        )
    if cluster.column in kept and cluster.structure:
        raise OptionError(
            f"structure: the clusters of {cluster.column!r} are kept, so nothing is resampled. Keep these columns, "
            "too, or leave them out."
        )
    for name in cluster.structure:
        column = columns.get(name, PLAIN)
        if name == cluster.column or name in level2 or name in patterns:
            raise OptionError(
                f"structure: {name!r} is the same in all rows of a cluster, or an identifier: leave it out."
            )
        if column.method is not None or column.passive is not None or column.special():
            raise OptionError(
                f"structure: {name!r} is taken from donor clusters as it is, so it takes no method and no rules."
            )


def _of_whole_table(whole: Block, blocks: Sequence[Block], names: list[str]) -> list[Block]:
    """The joint model of all columns that have no method of their own."""
    if blocks or whole.columns:
        raise OptionError(
            f"method={whole!r} is for all columns: name none, and leave out blocks=. For some columns use blocks=[...]."
        )
    if not names:
        raise OptionError(f"method={whole!r}: all columns are kept, computed, or have methods of their own.")
    return [whole.over(names)]


def _check_blocks(
    blocks: Sequence[Block],
    names: Sequence[str],
    fixed: Collection[str],
    columns: Mapping[str, Column],
    variables: Sequence[Variable],
    cluster: Cluster | None,
    where: bool,
) -> dict[str, Block]:
    """Refuse joint models that cannot be; give back the one of each column."""
    if isinstance(blocks, Block) or not isinstance(blocks, Sequence) or not all(isinstance(b, Block) for b in blocks):
        raise OptionError(f"blocks={blocks!r}: must be a list of LatentNormal('a', 'b', ...) or Copula('a', 'b', ...).")
    if blocks and where:
        raise OptionError("blocks: with where= single cells are replaced, which a joint model cannot. Leave one out.")
    by_name = {variable.name: variable for variable in variables}
    block_of: dict[str, Block] = {}
    for block in blocks:
        if not block.columns:
            raise OptionError(
                f"{block!r} names no columns. Name those that are drawn together, or say method={block!r}."
            )
        _check_known(repr(block), block.columns, names)
        if isinstance(block, Copula) and cluster is not None:
            raise OptionError(
                f"{block!r} takes rows as independent, and with cluster={cluster.column!r} they are not. Use "
                "LatentNormal, or trees."
            )
        for name in block.columns:
            column, variable = columns.get(name, PLAIN), by_name[name]
            if name in fixed or name in block_of:
                why = (
                    "is in two blocks" if name in block_of else "is kept, computed, an identifier, or tells rows apart"
                )
                raise OptionError(f"{block!r}: {name!r} {why}. Leave it out.")
            taken = [f for f in ("predictors", "numtocat", "guard") if getattr(column, f) is not None]
            taken += ["semicont"] * bool(column.semicont) + ["method"] * (column.method is not None)
            if taken:
                raise OptionError(f"Column {name!r} is drawn jointly with others: it takes no {', '.join(taken)}.")
            block_of[name] = block
            if isinstance(block, LatentNormal):
                _check_latent(name, variable, column)
        if isinstance(block, LatentNormal):
            _check_latent_options(block, by_name, cluster)
    return block_of


def _check_latent(name: str, variable: Variable, column: Column) -> None:
    if column.cont_na:
        raise OptionError(
            f"cont_na of {name!r}: a latent normal model fills in what is missing, and has no kinds of it. Leave the "
            "column out of the block, so that trees draw it."
        )
    if column.smoothing is not None:
        raise OptionError(f"smoothing of {name!r}: its numbers are new ones, drawn from a normal. Leave it out.")
    if variable.n_used < 2:
        raise DataError(f"Column {name!r} has fewer than two different values. Leave it out of the joint model.")
    if variable.kind == "unordered" and variable.n_used > MOST_LATENT_LEVELS:
        raise DataError(
            f"Column {name!r} has {variable.n_used} levels without order; a latent normal model takes at most "
            f"{MOST_LATENT_LEVELS}. Group them (rare_levels=), or leave the column out of the block."
        )


def _check_latent_options(block: LatentNormal, by_name: Mapping[str, Variable], cluster: Cluster | None) -> None:
    if not isinstance(block.transform, str):
        _check_known("transform", block.transform, list(block.columns))
        wrong = [name for name in block.transform if by_name[name].kind != "numeric"]
        if wrong:
            raise OptionError(f"transform: {', '.join(map(repr, wrong))} are categories; it is for numbers.")
    _check_known("slopes", block.slopes, list(by_name))
    if block.slopes and cluster is None:
        raise OptionError("slopes: they differ between clusters; say with cluster= which rows belong together.")
    wrong = [name for name in block.slopes if by_name[name].kind != "numeric" or name in block.columns]
    if wrong:
        raise OptionError(
            f"slopes: {', '.join(map(repr, wrong))} must be numbers that the block is predicted from (kept, or of an "
            "earlier block)."
        )
    if block.model is not None:
        _check_model(block, Terms.parse(block.model), by_name, cluster)


def _check_model(block: LatentNormal, terms: Terms, by_name: Mapping[str, Variable], cluster: Cluster | None) -> None:
    """Refuse an analyst's model that does not fit to its block; ``_check_covariates`` does the rest."""
    _check_known("model", [terms.outcome, *terms.covariates], list(by_name))
    if terms.outcome not in block.columns:
        raise OptionError(f"model={block.model!r}: the outcome {terms.outcome!r} has to be a column of the block.")
    variable = by_name[terms.outcome]
    if variable.kind == "unordered" and variable.n_used > 2:
        raise DataError(
            f"model: column {terms.outcome!r} is a category of {variable.n_used} levels without order. Outcomes are "
            "numbers, categories of two levels, or ordered ones: declare the order, or model another column."
        )
    if isinstance(block.transform, Mapping) and terms.outcome in block.transform:
        raise OptionError(f"transform: {terms.outcome!r} is the outcome of model=, which is of the column as it is.")
    used = {terms.outcome, *terms.covariates}
    both = [name for group in block.interactions for name in group if name in used]
    if both:
        raise OptionError(
            f"interactions: {', '.join(map(repr, both))} are columns of model=, which says itself what they interact "
            "with. Leave them out of interactions=."
        )
    if terms.cluster is not None and (cluster is None or cluster.column != terms.cluster):
        found = "rows have no clusters" if cluster is None else f"cluster={cluster.column!r}"
        raise OptionError(
            f"model={block.model!r}: effects are of {terms.cluster!r}, but {found}. Name the column of cluster=."
        )


def _check_covariates(steps: Sequence[Step], blocks: Sequence[Block], slot: Mapping[str, int]) -> None:
    """Refuse an analyst's model whose covariates are drawn after it, or whose outcome belongs to clusters."""
    by_name = {step.name: step for step in steps}
    for block in blocks:
        if not isinstance(block, LatentNormal) or block.model is None:
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


def _check_upper(
    drawn: Collection[str],
    limits: Mapping[str, Sequence[Limit]],
    columns: Mapping[str, Column],
    upper: Collection[str],
    names: Sequence[str],
) -> None:
    """Refuse limits and rules by which a column of clusters would depend on single rows."""
    for name in drawn:
        asked = {names[slot] for limit in limits.get(name, ()) for slot in (*limit.parents, *limit.passive)}
        asked |= {root for rule in columns.get(name, PLAIN).rules for root in rule.expression().meta.root_names()}
        rows = sorted(asked - set(upper))
        if rows:
            raise PlanError(
                f"{name!r} is the same in all rows of a cluster, but a rule or a limit ties it to "
                f"{', '.join(map(repr, rows))}, which are not. Leave it out."
            )


def _check_levels(
    name: str, predictors: Sequence[str], cluster: Cluster | None, of_clusters: bool, upper: Collection[str]
) -> None:
    if cluster is None:
        return
    wrong = [other for other in predictors if other == cluster.column or (of_clusters and other not in upper)]
    if wrong:
        raise PlanError(
            f"{', '.join(map(repr, wrong))} cannot predict {name!r}: clusters have random effects of their own, and "
            "what is constant within clusters is predicted from such columns only. Leave them out."
        )


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


def _place(variable: Variable, column: Column) -> tuple[bool, bool, int]:
    """Key of the visit sequence "auto": numbers, then categories by rising number of levels; outcomes last."""
    numeric = variable.kind == "numeric"
    return column.outcome, not numeric, 0 if numeric else variable.n_used


def check_columns(columns: Mapping[str, Column] | None, names: Sequence[str]) -> dict[str, Sequence[Any]]:
    """Refuse records of other kinds or of unknown columns; give back the missing codes of each column that has some."""
    if columns is None:
        return {}
    if not isinstance(columns, Mapping):
        raise OptionError(f"columns must be a dict of name: Column(...), not {type(columns).__name__}.")
    _check_known("columns", columns, names)
    for name, column in columns.items():
        if not isinstance(column, Column):
            raise OptionError(f"columns[{name!r}] must be a Column(...), not {type(column).__name__}.")
        _check_known(f"predictors of {name!r}", column.predictors or (), names)
        for rule in column.rules:
            _check_known(f"rule of {name!r}", rule.expression().meta.root_names(), names)
    return {name: column.cont_na for name, column in columns.items() if len(column.cont_na)}


def _check_known(where: str, given: Any, names: Sequence[str]) -> None:
    unknown = [name for name in given if name not in names]
    if unknown:
        known = ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
        raise PlanError(f"{where}: no column {', '.join(map(repr, unknown))}. The table has {known}.")


def _check_strata(
    strata: Sequence[str], names: list[str], columns: Mapping[str, Column], patterns: Mapping[str, Pattern]
) -> None:
    if isinstance(strata, str) or not all(isinstance(name, str) for name in strata):
        raise OptionError("strata must be a list of column names.")
    _check_known("strata", strata, names)
    for name in strata:
        column = columns.get(name, PLAIN)
        if name in patterns or column.method not in (None, "keep") or column.passive is not None or column.special():
            raise OptionError(
                f"strata: {name!r} is drawn as part of the strata, or kept with Column(method='keep'); it takes no "
                "other method and no rules."
            )


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


def needs(columns: Mapping[str, Column]) -> dict[str, list[str]]:
    """Columns that have to come before others: parents of passive ones, conditions of rules, coarse codes."""
    needed: dict[str, list[str]] = {}
    for name, column in columns.items():
        expressions = [column.expression(), *(rule.expression() for rule in column.rules)]
        before = [root for expression in expressions if expression is not None for root in expression.meta.root_names()]
        if isinstance(column.method, Nested):
            before.append(column.method.within)
        if before:
            needed[name] = before
    return needed


def _fixed(rule: Rule, variable: Variable, slot: Mapping[str, int], position: Mapping[str, int]) -> Fixed:
    expression = rule.expression()
    parents = sorted(set(expression.meta.root_names()), key=slot.__getitem__)
    _check_earlier(variable.name, parents, position, "column of a rule")
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


def _check_blur(variable: Variable, column: Column) -> None:
    if variable.kind != "numeric" and (column.smoothing is not None or column.noise is not None):
        what = "smoothing" if column.smoothing is not None else "noise"
        raise OptionError(f"Column {variable.name!r} is {variable.dtype}: {what} is for numbers and dates.")


def _groups(variable: Variable, column: Column) -> int:
    if column.numtocat is None:
        return 0
    if variable.kind != "numeric":
        raise OptionError(f"numtocat of {variable.name!r}: the column is no number.")
    return check_count("numtocat", column.numtocat)


def _check_nested(
    name: str, method: Nested, names: list[str], position: Mapping[str, int], patterns: Mapping[str, Pattern]
) -> None:
    _check_known(f"within of {name!r}", [method.within], names)
    _refuse_identifiers(name, [method.within], patterns)
    _check_earlier(name, [method.within], position, "column of coarse codes")


def _refuse_identifiers(name: str, others: Sequence[str], patterns: Mapping[str, Pattern]) -> None:
    fresh = [other for other in others if other in patterns]
    if fresh:
        raise PlanError(
            f"{', '.join(map(repr, fresh))} cannot predict {name!r}: identifiers are made anew and say nothing. Leave "
            "them out, or give them another method."
        )


def _refuse_limits_of(
    patterns: Mapping[str, Pattern], columns: Mapping[str, Column], forbid: Sequence[pl.Expr | str]
) -> None:
    """Nothing can be said of identifiers that are made anew."""
    asked = list(forbid) if isinstance(forbid, Sequence) and not isinstance(forbid, str) else []
    expressions = [parse("forbid", given) for given in asked] + [
        expression for name, column in columns.items() for expression in column.limits(name)
    ]
    for column in columns.values():
        own = [column.expression(), *(rule.expression() for rule in column.rules)]
        expressions += [expression for expression in own if expression is not None]
    named = sorted({name for expression in expressions for name in expression.meta.root_names()} & patterns.keys())
    if named:
        raise PlanError(
            f"{', '.join(map(repr, named))}: identifiers are made anew, so no rule, limit or expression can use them."
        )


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
        _check_known(what, roots, names)
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
    _check_known(f"passive expression of {name!r}", parents, names)
    if not parents:
        raise PlanError(f"passive expression of {name!r} names no column. Compute it from at least one.")
    return expression


def _order(
    variables: Sequence[Variable],
    given: Sequence[str] | str,
    columns: Mapping[str, Column],
    turn: Mapping[str, tuple[int, int]],
    needed: dict[str, list[str]],
) -> list[str]:
    """The visit sequence: by turns, and within a turn the caller's order, or that of "auto" or of the table with each
    column after those that it needs.
    """
    _refuse_cycle(needed)
    names = [v.name for v in variables]
    first = sorted((name for name in names if turn[name][0] <= STRATA), key=turn.__getitem__)
    if isinstance(given, str) and given == "auto":
        by_kind = sorted(variables, key=lambda v: (turn[v.name], _place(v, columns.get(v.name, PLAIN))))
        return _after_needed([v.name for v in by_kind if v.name not in first], first, needed)
    outcomes = [name for name in names if columns.get(name, PLAIN).outcome]
    if outcomes:
        raise OptionError(
            f"outcome=True of {', '.join(map(repr, outcomes))} needs visit_sequence='auto', the default; "
            "in a sequence of your own put the column last."
        )
    if isinstance(given, str) and given == "table":
        by_turn = sorted((name for name in names if name not in first), key=turn.__getitem__)
        return _after_needed(by_turn, first, needed)
    if isinstance(given, str) or not isinstance(given, Collection) or not all(isinstance(name, str) for name in given):
        raise OptionError(f"visit_sequence={given!r}: must be a list of column names, 'auto' or 'table'.")
    _check_known("visit_sequence", given, names)
    twice = sorted(name for name, count in Counter(given).items() if count > 1)
    if twice:
        raise PlanError(f"visit_sequence names {', '.join(map(repr, twice))} more than once.")
    absent = sorted(set(names) - set(given) - set(first), key=names.index)
    if absent:
        raise PlanError(
            f"visit_sequence lacks {', '.join(map(repr, absent))}. Name every column; drop it from the table, or set "
            "Column(method='keep') to release its original values."
        )
    return [*first, *sorted((name for name in given if name not in first), key=turn.__getitem__)]


def _refuse_cycle(needed: dict[str, list[str]]) -> None:
    try:
        TopologicalSorter({name: [p for p in of if p in needed] for name, of in needed.items()}).prepare()
    except CycleError as error:
        circle = ", ".join(map(repr, sorted(set(error.args[1]))))
        raise PlanError(
            f"Columns depend on each other in a circle (passive expressions, rules, coarse codes): {circle}."
        ) from None


def _after_needed(names: list[str], first: list[str], needed: dict[str, list[str]]) -> list[str]:
    """The names in their order, each moved behind the last one that it needs."""
    order = list(first)
    waiting: list[str] = []
    for name in names:
        waiting.append(name)
        while ready := [w for w in waiting if all(other in order for other in needed.get(w, ()))]:
            order += ready
            waiting = [w for w in waiting if w not in ready]
    return order


def _check_earlier(name: str, others: Sequence[str], position: Mapping[str, int], role: str) -> None:
    late = [other for other in others if position[other] >= position[name] and other != name]
    if name in others:
        raise PlanError(f"{name!r} cannot be its own {role}.")
    if late:
        raise PlanError(
            f"{role} {', '.join(map(repr, late))} of {name!r} is visited later than {name!r}. Give a "
            "visit_sequence, a list of all columns, in which it comes before, or leave it out."
        )
