"""What callers say of single rows: cells to replace, weights, given columns; and columns that identify people."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from fastsynth._tree import MAX_CODES
from fastsynth.columns import Ranks, Variable, is_numeric, is_text, numbers_of, too_many_levels
from fastsynth.errors import DataError, DataWarning, OptionError, PlanError, check_known
from fastsynth.exact import POLICIES, Exact, row_hashes
from fastsynth.execute import Executor
from fastsynth.expressions import parse
from fastsynth.identifiers import Pattern, check_space, find_pattern, looks_like_identifier
from fastsynth.impute import Impute
from fastsynth.learn import Learned
from fastsynth.methods import Identifier, Nested
from fastsynth.model import Model
from fastsynth.options import Column, find_method
from fastsynth.plan import Plan, redrawn_column, without_clusters
from fastsynth.rowwise import differing, holds
from fastsynth.source import Source, read_table

Mask = NDArray[np.bool_]
# Share of the replaced rows of a column in which another one may be kept without a word.
APART = 0.05
# Levels of a category that are counted in each cluster, at most.
MOST_COUNTED = 12
# A pattern needs room for so many times the clusters of the original; without it they are counted.
NAMES = 3
LOSSY = "given: a column holds values that its type in the original cannot hold."


# Identifiers


def find_identifiers(
    learned: Learned,
    columns: Mapping[str, Column],
    replaced: Collection[str] | None = None,
    cluster: str | None = None,
    silent: bool = False,
) -> tuple[dict[str, Pattern], list[str]]:
    """Columns of identifiers with the pattern of fresh ones, and columns of free text, which are to be left out.

    Columns with a method of their own, or passive ones, are what the caller says; where only some are ``replaced`` the
    others are kept. What names a ``cluster`` is neither.

    Parameters
    ----------
    silent : bool
        Nothing is told: all columns are kept.

    Raises
    ------
    DataError
        method="identifier" for a column without a pattern.
    """
    patterns: dict[str, Pattern] = {}
    texts, kept = [], []
    for variable, rows in zip(learned.variables, learned.rows, strict=True):
        n_missing = int(rows[: variable.first].sum())
        column = columns.get(variable.name, Column())
        if variable.name == cluster:
            continue
        if column.passive is not None or (column.method is not None and not _is_identifier(column)):
            if variable.kind == "unordered" and variable.n_used > MAX_CODES - 1 and column.method != "keep":
                raise too_many_levels(variable.name, variable.n_used)
            continue
        own = column.method is not None
        looks = "identifier" if own else looks_like_identifier(variable, learned.n_rows - n_missing)
        if looks is None:
            continue
        if replaced is not None and variable.name not in replaced:
            kept.append(variable.name)
            continue
        pattern = find_pattern(variable.values[variable.first :], variable.dtype) if looks == "identifier" else None
        if pattern is not None:
            patterns[variable.name] = replace(pattern, missing=round(1e4 * n_missing / learned.n_rows))
        elif column.method is not None:
            raise DataError(
                f"Column {variable.name!r} has method='identifier', but its values follow no pattern. Drop the column."
            )
        else:
            texts.append(variable.name)
    if silent:
        return patterns, texts
    made = [name for name in patterns if columns.get(name, Column()).method is None]
    if made:
        warnings.warn(
            f"{', '.join(map(repr, made))} identify people: fresh identifiers of the same pattern stand in the copies. "
            "Say Column(method='identifier') to agree, or give another method.",
            DataWarning,
            stacklevel=5,
        )
    if kept:
        warnings.warn(
            f"{', '.join(map(repr, kept))} identify people, and are kept as they are: where= does not name them.",
            DataWarning,
            stacklevel=5,
        )
    if texts:
        warnings.warn(
            f"{', '.join(map(repr, texts))} hold free text, different for nearly everybody: not in the copies. Drop "
            "them from the table to agree, or give them a method.",
            DataWarning,
            stacklevel=5,
        )
    return patterns, texts


def _is_identifier(column: Column) -> bool:
    return column.method != "keep" and isinstance(find_method(column.method), Identifier)


# Clusters


def cluster_pattern(learned: Learned, name: str, column: Column) -> dict[str, Pattern]:
    """Pattern of the fresh names of clusters: that of the real ones, or a count; nothing for clusters that are kept.

    Raises
    ------
    DataError
        Rows without a cluster, fewer than two clusters, none of two rows, a type whose values cannot be made up.
    """
    slot = next(slot for slot, variable in enumerate(learned.variables) if variable.name == name)
    variable, rows = learned.variables[slot], learned.rows[slot]
    nowhere = int(rows[: variable.first].sum())
    if nowhere:
        raise DataError(f"cluster: {nowhere} row(s) have no {name!r}. Give each a cluster, if need be one of its own.")
    n_clusters = int(np.count_nonzero(rows))
    if n_clusters < 2 or n_clusters == learned.n_rows:
        what = "all rows are in one" if n_clusters < 2 else "each row is one of its own"
        raise DataError(f"cluster: by {name!r} {what}. Clusters need at least two rows each; leave out cluster=.")
    if column.method == "keep":
        return {}
    own = variable.dtype.value_type if pa.types.is_dictionary(variable.dtype) else variable.dtype
    ordered = pa.types.is_dictionary(variable.dtype) and variable.dtype.ordered
    if not (is_text(own) or is_numeric(own)) or ordered:
        raise DataError(
            f"cluster: {name!r} is {variable.dtype}, of which fresh names cannot be made. Cast it to text or integers, "
            "or keep the clusters with Column(method='keep')."
        )
    pattern = find_pattern(variable.values[variable.first :], variable.dtype)
    if pattern is not None:
        try:
            # Copies have other numbers of clusters, and may have more rows.
            check_space(pattern, NAMES * n_clusters, variable.dtype, name)
        except OptionError:
            pattern = None
    return {name: pattern or Pattern(start=1)}


def find_level2(learned: Learned, name: str, executor: Executor) -> list[str]:
    """Columns that are constant within all clusters. Two passes over files, the second one over few columns."""
    slot = next(slot for slot, variable in enumerate(learned.variables) if variable.name == name)
    others = [s for s, v in enumerate(learned.variables) if s != slot and v.calendar is None and v.n_used]
    if learned.table is not None:
        ranks = learned.table.ranks
        of_rows = ranks[slot]
        first = np.zeros(len(learned.variables[slot].values), np.int64)
        # Written backwards, so that the first row of each cluster is what stays.
        first[of_rows[::-1]] = np.arange(learned.n_rows)[::-1]
        return [learned.variables[s].name for s in others if np.array_equal(ranks[s][first[of_rows]], ranks[s])]
    source, variables = learned.source, learned.variables
    within = executor.map(_constant_in_piece, (source, variables, slot, others), source.jobs(), lambda _, found: found)
    left = [s for place, s in enumerate(others) if all(of_piece[place] for of_piece in within)]
    known = {s: np.full(len(variables[slot].values), -1, np.int64) for s in left}
    same = set(left)

    def merge(_: int, found: list[tuple[NDArray[np.int64], list[Ranks]]]) -> None:
        for clusters, of_clusters in found:
            for s, ranks in zip(left, of_clusters, strict=True):
                before = known[s][clusters]
                if ((before >= 0) & (before != ranks)).any():
                    same.discard(s)
                known[s][clusters] = ranks

    if left:
        executor.map(_first_of_clusters, (source, variables, slot, left), source.jobs(), merge)
    return [variables[s].name for s in left if s in same]


def count_structure(
    learned: Learned, cluster: str, structure: Sequence[str], executor: Executor
) -> dict[str, NDArray[np.int64]]:
    """For each level of the categories among some columns, its rows by rank of the column that names clusters.

    What a household is made of decides on the age of its head: size alone cannot tell a couple from a parent and child.
    """
    slot = {variable.name: slot for slot, variable in enumerate(learned.variables)}
    few = [slot[n] for n in structure if learned.variables[slot[n]].kind != "numeric"]
    few = sorted(s for s in few if learned.variables[s].n_used <= MOST_COUNTED)
    of = slot[cluster]
    shape = len(learned.variables[of].values)
    total = {s: np.zeros((shape, len(learned.variables[s].values)), np.int64) for s in few}

    def add(ranks: Ranks, levels: Mapping[int, Ranks]) -> None:
        for s, of_slot in levels.items():
            np.add.at(total[s], (ranks, of_slot), 1)

    if learned.table is not None:
        add(learned.table.ranks[of], {s: learned.table.ranks[s] for s in few})
    elif few:
        shared = (learned.source, learned.variables, of, few)

        def merge(_: int, found: list[tuple[Ranks, list[Ranks]]]) -> None:
            for ranks, levels in found:
                add(ranks, dict(zip(few, levels, strict=True)))

        executor.map(_ranks_of_piece, shared, learned.source.jobs(), merge)
    return {f"{s}={rank}": counts for s in few for rank, counts in enumerate(total[s].T) if counts.any()}


def _ranks_of_piece(
    shared: tuple[Source, tuple[Variable, ...], int, list[int]], piece: int, *held: Any
) -> list[tuple[Ranks, list[Ranks]]]:
    """For each batch of a piece the ranks of the column that names clusters, and of some others."""
    source, variables, slot, others = shared
    return [
        (variables[slot].rank(batch.column(slot)), [variables[s].rank(batch.column(s)) for s in others])
        for batch in source.batches(piece, *held)
    ]


def _constant_in_piece(
    shared: tuple[Source, tuple[Variable, ...], int, list[int]], piece: int, *held: Any
) -> list[bool]:
    """Whether each column is constant within the clusters of each batch of a piece."""
    source, variables, slot, others = shared
    same = [True] * len(others)
    for batch in source.batches(piece, *held):
        _, first, cluster = np.unique(variables[slot].rank(batch.column(slot)), return_index=True, return_inverse=True)
        for place, s in enumerate(others):
            if same[place]:
                ranks = variables[s].rank(batch.column(s))
                same[place] = np.array_equal(ranks[first][cluster], ranks)
    return same


def _first_of_clusters(
    shared: tuple[Source, tuple[Variable, ...], int, list[int]], piece: int, *held: Any
) -> list[tuple[NDArray[np.int64], list[Ranks]]]:
    """For each batch of a piece its clusters, and the ranks of some columns in their first rows."""
    source, variables, slot, others = shared
    found = []
    for batch in source.batches(piece, *held):
        clusters, first = np.unique(variables[slot].rank(batch.column(slot)), return_index=True)
        found.append((clusters.astype(np.int64), [variables[s].rank(batch.column(s))[first] for s in others]))
    return found


# Weights


def read_weights(
    source: Source, name: Any, columns: Mapping[str, Column] | None, executor: Executor
) -> NDArray[np.float64]:
    """Weights of all rows.

    Raises
    ------
    OptionError, DataError
        No such column, weights that are no numbers, negative, missing, or all zero.
    """
    if not isinstance(name, str):
        raise OptionError(f"weights={name!r}: must be the name of a column.")
    if name not in source.frame.schema.names:
        raise PlanError(f"weights: no column {name!r} in the table.")
    if name in (columns or {}):
        raise OptionError(f"columns[{name!r}]: the weights are not synthesised, so nothing can be special about them.")
    slim = source.without([other for other in source.frame.schema.names if other != name])
    try:
        found = executor.map(_numbers_of_piece, slim, slim.jobs(), lambda _, part: part)
    except pa.ArrowException:
        raise DataError(f"weights: column {name!r} holds no numbers.") from None
    weights = np.concatenate(found)
    bad = int((~(np.isfinite(weights) & (weights >= 0))).sum())
    if bad or not weights.any():
        what = f"{bad} row(s) of {name!r} are missing or negative" if bad else f"all rows of {name!r} are zero"
        raise DataError(f"weights: {what}. Correct them.")
    return weights


def _numbers_of_piece(source: Source, piece: int, *held: Any) -> NDArray[np.float64]:
    return np.concatenate([np.zeros(0), *(numbers_of(batch.column(0)) for batch in source.batches(piece, *held))])


# Cells to replace


def read_where(source: Source, where: Any, executor: Executor) -> dict[str, Mask] | None:
    """By column, the rows (n,) that are replaced.

    Raises
    ------
    OptionError, PlanError
        No table or dict, a mask of another length or type, an unknown column.
    """
    if where is None:
        return None
    masks = _masks(source, _told("where", where_by_name(where), source), executor)
    if not any(mask.any() for mask in masks.values()):
        raise OptionError("where: no cell would be replaced.")
    return {name: mask for name, mask in masks.items() if mask.any()}


def _told(option: str, given: Mapping[str, Any], source: Source) -> dict[str, tuple[str, Any]]:
    """By column what errors call it, and what is said of it."""
    check_known(option, given, source.frame.schema.names)
    return {name: (f"{option} of {name!r}", of_column) for name, of_column in given.items()}


def _masks(source: Source, given: Mapping[str, tuple[str, Any]], executor: Executor) -> dict[str, Mask]:
    """By name, the rows (n,) for which an expression or a mask is true; each with what errors call it."""
    n, masks, expressions = source.starts[-1], {}, {}
    for name, (told, said) in given.items():
        if isinstance(said, pl.Expr | str):
            expressions[name] = told, parse(told, said)
            continue
        mask = np.asarray(said)
        if mask.shape != (n,) or mask.dtype != bool:
            raise OptionError(f"{told}: must be an expression, or {n} values that are True or False and not missing.")
        masks[name] = mask
    if expressions:
        parts = executor.map(_masks_of_piece, (source, expressions), source.jobs(), lambda _, part: part)
        masks |= {name: np.concatenate([part[name] for part in parts]) for name in expressions}
    return masks


def read_holes(source: Source, impute: Impute, executor: Executor) -> tuple[dict[str, Mask], Mask | None]:
    """By column that ``Impute(where=...)`` names the cells (n,) to fill in, and the rows that nothing is fitted to."""
    option = "Impute(where=...)"
    where = {} if impute.where is None else where_by_name(impute.where, option)
    holes = _masks(source, _told(option, where, source), executor)
    if impute.ignore is None:
        return holes, None
    ignored = _masks(source, {"": ("Impute(ignore=...)", impute.ignore)}, executor)[""]
    if ignored.all():
        raise OptionError("ignore of Impute: all rows are ignored, so nothing can be fitted.")
    return holes, ignored


def n_holes(learned: Learned, holes: Mapping[str, Mask]) -> dict[str, int]:
    """Cells to fill in by column, of columns that have some."""
    found = {}
    for variable, rows in zip(learned.variables, learned.rows, strict=True):
        if variable.calendar is None:
            own = holes.get(variable.name)
            found[variable.name] = int(rows[: 1 + variable.has_nan].sum() if own is None else own.sum())
    return {name: count for name, count in found.items() if count}


def where_by_name(where: Any, option: str = "where") -> Mapping[str, Any]:
    """What ``where`` says of each column that it names."""
    if isinstance(where, Mapping):
        return where
    try:
        table, _ = read_table(where)
    except DataError:
        raise OptionError(
            f"{option} must be a dict of expressions or masks by column, or a table of bool, not "
            f"{type(where).__name__}."
        ) from None
    other = [field.name for field in table.schema if not pa.types.is_boolean(field.type)]
    if other:
        raise OptionError(f"{option}: column(s) {', '.join(map(repr, other))} are not of type bool.")
    return {name: table.column(name).to_numpy() for name in table.column_names}


def _masks_of_piece(shared: tuple[Source, dict[str, tuple[str, pl.Expr]]], piece: int, *held: Any) -> dict[str, Mask]:
    source, expressions = shared
    batches = list(source.batches(piece, *held))
    return {
        name: np.concatenate([holds(told, expression, batch) for batch in batches])
        for name, (told, expression) in expressions.items()
    }


def replaced_cells(plan: Plan, where: Mapping[str, Mask] | None) -> dict[int, Mask]:
    """By slot, the rows that are replaced: those of the caller, and passive cells of which a parent is."""
    replaced: dict[int, Mask] = {}
    for step in plan.steps if where else ():
        if where and step.name in where:
            replaced[step.slot] = where[step.name]
            if step.action == "identifier" and not where[step.name].all():
                raise OptionError(f"where: identifiers such as {step.name!r} are replaced in all rows, or in none.")
        elif step.action == "passive":
            parents = [replaced[slot] for slot in step.predictors if slot in replaced]
            replaced[step.slot] = np.any(parents, axis=0)
    return replaced


def check_cells(plan: Plan, replaced: Mapping[int, Mask], variables: Sequence[Variable]) -> None:
    """Refuse cells of which a rule could be broken, and warn where an association will be.

    A column is drawn given the kept ones and those before it. Where it is replaced, and one that comes later and is
    replaced in other rows is not, neither the draw nor a limit knows of that one.

    Raises
    ------
    OptionError
        Columns that a limit, a rule or codes within codes tie together.
    """
    passed: list[int] = []
    behind = {step.slot: {step.slot, *step.predictors} for step in plan.steps if step.action == "passive"}
    for step in plan.steps:
        if step.slot not in replaced:
            continue
        tied = {slot for of in (step.rules, step.limits) for one in of for slot in one.parents}
        for _ in behind:
            # A limit of a passive column ties together what that one is computed from.
            tied |= {slot for passive in tied & behind.keys() for slot in behind[passive]}
        if isinstance(step.method, Nested):
            tied |= {slot for slot in step.predictors if variables[slot].name == step.method.within}
        for slot in passed:
            alone = int((replaced[slot] & ~replaced[step.slot]).sum())
            both = f"{variables[slot].name!r} is replaced in {alone:,} rows in which {step.name!r} is kept"
            if alone and slot in tied:
                raise OptionError(
                    f"where: {both}, and a rule, a limit or Nested ties them together. Replace both in the same rows, "
                    "or let the one that is kept more often come first in visit_sequence."
                )
            if step.action == "draw" and alone > APART * replaced[slot].sum():
                warnings.warn(
                    f"where: {both}, and drawn without regard to it: their association is weakened. Replace both in "
                    "the same rows, or one of them only.",
                    DataWarning,
                    stacklevel=5,
                )
        if step.action == "draw":
            passed.append(step.slot)


# Given columns


def find_exact(learned: Learned, plan: Plan, policy: str, executor: Executor) -> Exact | None:
    """What drawing needs to know of real rows for a policy on copies of them; one more pass over files.

    Raises
    ------
    OptionError
        An unknown policy, or cells that are kept as they are.
    PlanError
        No column can be drawn anew by itself.
    """
    if policy not in POLICIES:
        raise OptionError(f"copies={policy!r}: allowed are {', '.join(map(repr, POLICIES))}.")
    if policy == "keep":
        return None
    if plan.where:
        raise OptionError(f"copies={policy!r}: where= keeps cells, so rows equal real ones on purpose. Leave one out.")
    columns = without_clusters(learned.variables, plan)[: len(learned.source.frame.schema)]
    if policy == "fresh" and all(v.kind != "numeric" for v in columns if v.n_used):
        # Equal rows of categories alone are what a correct model yields.
        return None
    slot = redrawn_column(plan, learned.variables)
    if slot is None:
        raise PlanError(
            f"copies={policy!r} redraws one column of a row that equals a real one, and every column that is drawn "
            "decides on others (rules, bounds, passive or nested columns) or is drawn with them. Use copies='keep'."
        )
    if learned.table is not None:
        return Exact.of(policy, row_hashes(columns, learned.table.ranks[: len(columns)]), slot)
    hashes = executor.map(_hashes_of_piece, (learned.source, columns), learned.source.jobs(), lambda _, found: found)
    return Exact.of(policy, np.concatenate(hashes), slot)


def _hashes_of_piece(shared: tuple[Source, tuple[Variable, ...]], piece: int, *held: Any) -> NDArray[np.uint64]:
    source, variables = shared
    hashes = [
        row_hashes(variables, [v.rank(batch.column(slot)) for slot, v in enumerate(variables)])
        for batch in source.batches(piece, *held)
    ]
    return np.concatenate(hashes)


def read_given(given: Any, model: Model) -> pa.Table:
    """Given columns in their exact types.

    Raises
    ------
    OptionError, DataError
        Unknown columns, columns drawn after others that are not given, other types, unknown categories.
    """
    table, _ = read_table(given)
    schema = model.frame.schema
    unknown = [name for name in table.column_names if name not in schema.names]
    if unknown or not table.num_rows or not table.num_columns:
        raise OptionError(
            f"given: {'no column ' + ', '.join(map(repr, unknown)) if unknown else 'no rows or no columns'}. It takes "
            "columns of the original."
        )
    order = [step.name for step in model.plan.steps]
    late = [name for name in order[: len(table.column_names)] if name not in table.column_names]
    if late:
        first = ", ".join(map(repr, [n for n in order if n in table.column_names]))
        raise OptionError(
            f"given: {', '.join(map(repr, late))} would be drawn before given columns, and not depend on them. Fit "
            f"with a visit_sequence, a list of all columns, that begins with {first}."
        )
    by_name = {step.name: step for step in model.plan.steps}
    fixed = [name for name in table.column_names if by_name[name].action in ("passive", "keep")]
    if model.plan.where or fixed:
        raise OptionError(
            f"given: {', '.join(map(repr, fixed)) or 'the rows'} are kept or computed, so they cannot be given as well."
        )
    wanted = pa.schema([schema.field(name) for name in table.column_names])
    try:
        before = pl.DataFrame(table)
        lossy = [n for n in before.columns if before[n].dtype.is_float() and pa.types.is_integer(schema.field(n).type)]
        if any((before[name].drop_nulls() % 1 != 0).any() for name in lossy):
            raise DataError(LOSSY)
        table = before.cast(pl.DataFrame(wanted.empty_table()).schema).to_arrow().cast(wanted)
    except Exception:
        raise DataError(LOSSY) from None
    for name in table.column_names:
        variable = model.variables[by_name[name].slot]
        column = table.column(name).combine_chunks()
        codes = variable.nearest_codes(column)
        lost = int((codes >= variable.n_codes).sum()) if variable.kind != "numeric" else 0
        if lost:
            raise DataError(f"given: {lost} row(s) of {name!r} hold categories that the original does not have.")
    strata = model.strata
    if strata is not None:
        names = [model.variables[slot].name for slot in strata.slots]
        if not set(names) <= set(table.column_names):
            raise OptionError(f"given: {', '.join(map(repr, names))} make strata. Give all of them.")
        try:
            ranks = [model.variables[slot].rank(table.column(n)) for slot, n in zip(strata.slots, names, strict=True)]
            lost = int((strata.numbers(ranks) < 0).sum())
        except DataError:
            raise DataError("given: a column that makes strata holds values that the original does not have.") from None
        if lost:
            raise DataError(f"given: {lost} row(s) are of strata that the original does not have.")
    for step in model.plan.steps:
        asked = {slot for rule in step.rules for slot in rule.parents}
        asked |= {slot for limit in step.limits for slot in limit.parents}
        if step.name in table.column_names and all(model.variables[slot].name in table.column_names for slot in asked):
            broken = int(differing(step, table, model.plan, model.variables).sum()) if asked else 0
            if broken:
                raise DataError(f"given: {broken} row(s) break a rule or a limit of {step.name!r}. Correct them.")
    return table
