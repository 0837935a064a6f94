"""Fit calibrated models: features, regressions, trees of residuals, tilts; and the guards that decide where not to.

A numeric column (the tree's shape comes from the rows S, all else from the rows A; both are all rows by default)::

    S or a sample     features phi of the predictors: linear, hinges, products
    A                 beta: least squares of y on phi, with a ridge on hinges and products
    S                 tree of e = y - phi'beta
    A                 b: least squares within leaves of e on phi, both less their means in the leaf
                      g = beta + b, r = y - phi'g by leaf: the donors

Within and between leaves together solve the normal equations of y on phi, so a regression on features, fitted to a
large copy, gives what it gives on the original, whatever the size of the leaves.

Sums over rows are made block by block in the order of the rows, and what they give is rounded, so no thread leaves a
trace, and hardly a machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fastsynth import _tree
from fastsynth.calibration import CLIP, Features, Floats, Grid, Shift, Tilt
from fastsynth.columns import EncodedTable, Ranks, Variable
from fastsynth.methods import (
    Calibrated,
    Cart,
    ColumnModel,
    Tree,
    class_ids,
    fit_column,
    grow,
    leaves_of,
    refill,
    scaled,
)

Rows = NDArray[np.uint32]
Words = NDArray[np.uint64]

# Rows whose features are in memory at a time.
BLOCK = 32_768
# Rows that features are chosen on, and rows up to which a tilt is found from all of them at once.
SAMPLE = 20_000
TILT_SAMPLE = 100_000
MOST_FEATURES = 60
MOST_CLASSES = 40
# Interior quantiles at which linear features have a hinge.
HINGES = np.arange(1, 6) / 6
# Ridge of hinges and products, relative to their variance; linear features have hardly one.
RIDGE, NO_RIDGE = 1e-2, 1e-9
# A level has a dummy if so many rows of the sample have it.
DUMMY_ROWS = 50
MOST_DUMMIES = 30
# A column is dense if more than this share of its rows has a value of its own, and piles up on a value of this share.
DENSE_SHARE, SPIKE_SHARE, SPIKE_ROWS = 0.1, 0.05, 20
# Share of draws that may fall outside the observed range.
OUTSIDE = 0.02
# Leaves of columns that are drawn from plain donors.
DONORS = Cart(minbucket=5)
RIDGE_TILT = 0.05
NEWTON_STEPS, FULL_STEPS = 8, 3
# Steps of conjugate gradients for a step of Newton's, and how small the rest has to be.
CONJUGATE_STEPS, REST = 30, 1e-3


def fit_calibrated(
    table: EncodedTable,
    target: int,
    predictors: tuple[int, ...],
    method: Calibrated,
    shape: Rows,
    leaves: Rows,
    words: Words,
) -> ColumnModel:
    """Fit the calibrated model of one column.

    Parameters
    ----------
    table : EncodedTable
    target : int
        Slot of the column.
    predictors : tuple of int
        Slots of its predictors.
    method : Calibrated
    shape, leaves : ndarray, dtype=uint32
        Rows that give the tree its shape, and those that everything else is learned from.
    words : ndarray of shape (len(leaves),), dtype=uint64
        A random word for each of ``leaves``: levels that a node has not seen go left or right by it.
    """
    variable, ranks = table.variables[target], table.ranks[target]
    if not predictors:
        return replace(fit_column(table, target, (), DONORS, leaves), note="no predictors: observed values")
    if variable.kind != "numeric":
        classes = _used(ranks, leaves, len(variable.values))
        tree, tilt, note = _fit_classes(table, predictors, method, shape, leaves, words, ranks, classes)
        return ColumnModel(None, tree, variable.first, tilt=tilt, note=note)
    reason = _why_donors(table, target, predictors, leaves)
    if reason is None:
        model = _fit_numbers(table, target, predictors, method, shape, leaves, words)
        if isinstance(model, ColumnModel):
            return model
        reason = model
    donors = fit_column(table, target, predictors, replace(DONORS, cp=method.cp), shape)
    if len(leaves) != len(shape):
        donors = refill(table, target, donors, leaves, words)
    return replace(donors, note=f"donors, leaves of {DONORS.minbucket}: {reason}")


def _used(ranks: Ranks, rows: Rows, n_ranks: int) -> NDArray[np.int64]:
    """Ranks that occur, ascending."""
    seen = np.zeros(n_ranks, np.uint8)
    _tree.occurring(ranks, rows, seen)
    return np.flatnonzero(seen)


# Numbers


def _why_donors(table: EncodedTable, target: int, predictors: tuple[int, ...], rows: Rows) -> str | None:
    """Why a numeric column is drawn from plain donors; None if it is not."""
    variable = table.variables[target]
    if not any(table.variables[slot].kind == "numeric" for slot in predictors):
        return "all predictors are categories"
    if pa.types.is_decimal(variable.dtype):
        return "decimals"
    present = table.ranks[target][rows]
    present = present[present >= variable.first]
    if len(present) < 2 * SPIKE_ROWS:
        return f"{len(present)} rows with a value"
    dense = present[~np.isin(present, _spikes(variable, present))]
    if len(np.unique(dense)) <= DENSE_SHARE * len(dense) or len(dense) < 2 * SPIKE_ROWS:
        return "few distinct values"
    if np.nanmax(np.abs(variable.numbers())) > 2.0**53 and not pa.types.is_floating(variable.dtype):
        return "whole numbers beyond 2^53"
    return None


def _spikes(variable: Variable, present: Ranks) -> NDArray[np.int64]:
    """Ranks of values on which the column piles up."""
    counts = np.bincount(present, minlength=len(variable.values))
    return np.flatnonzero((counts >= SPIKE_SHARE * len(present)) & (counts >= SPIKE_ROWS))


def _fit_numbers(
    table: EncodedTable,
    target: int,
    predictors: tuple[int, ...],
    method: Calibrated,
    shape: Rows,
    leaves: Rows,
    words: Words,
) -> ColumnModel | str:
    """The model of a dense column, or why it cannot have one."""
    variable, ranks = table.variables[target], table.ranks[target]
    first, notes = variable.first, []
    of_leaves, of_shape = ranks[leaves], ranks[shape]
    spikes = _spikes(variable, of_leaves[of_leaves >= first])
    missing = tilt_missing = present = None
    if variable.has_missing or len(spikes):
        # Kinds are what is missing and the spikes; all else is the kind "present".
        present = len(variable.values) if len(spikes) else first
        kinds = np.full(len(variable.values), present, variable.rank_dtype)
        kinds[:first], kinds[spikes] = np.arange(first), spikes
        kind_of_row = kinds[ranks]
        classes = _used(kind_of_row, leaves, len(variable.values) + 1)
        missing, tilt_missing, _ = _fit_classes(table, predictors, method, shape, leaves, words, kind_of_row, classes)
        notes += [f"{len(spikes)} value(s) on which it piles up drawn first"] * bool(len(spikes))
        here = kinds[of_leaves] == present
        leaves, words, shape = leaves[here], words[here], shape[kinds[of_shape] == present]
    numbers = variable.numbers()
    y, y_shape = numbers[ranks[leaves]], numbers[ranks[shape]]
    if len(shape) < 2 * method.minbucket:
        return "few rows that do not pile up"
    grid = _find_grid(np.unique(y), pa.types.is_floating(variable.dtype))
    for logarithm in (False, True):
        if logarithm and y.min() <= 0:
            break
        model = _regress(table, predictors, method, shape, leaves, words, y, y_shape, grid, logarithm)
        if isinstance(model, str):
            return model
        tree, shift, outside = model
        if outside <= OUTSIDE:
            notes += ["on the scale of its logarithm"] * logarithm
            notes.append(f"{shift.features.size} features, {100 * outside:.1f} % of draws outside the range")
            return ColumnModel(
                missing, tree, first, tilt_missing, None, shift, present, "shifted donors; " + ", ".join(notes)
            )
    return f"{100 * outside:.0f} % of shifted draws fall outside its range"


def _regress(
    table: EncodedTable,
    predictors: tuple[int, ...],
    method: Calibrated,
    shape: Rows,
    leaves: Rows,
    words: Words,
    y: Floats,
    y_shape: Floats,
    grid: Grid,
    logarithm: bool,
) -> tuple[Tree, Shift, float] | str:
    """Regression, tree of residuals, regression within leaves; and the share of draws outside the range."""
    if logarithm:
        y, y_shape = np.log(y), np.log(y_shape)
    features, ridge = _choose_features(table, predictors, shape, y_shape)
    centre = y.mean()
    total = float(np.square(y - centre).sum())
    beta = _round(_least_squares(_blocks(table, features, leaves, y - centre), features.size, ridge))
    e_shape = y_shape - _combined(table, features, shape, beta)
    if float(np.square(e_shape - e_shape.mean()).sum()) <= 1e-9 * total * len(shape) / len(leaves):
        return "the predictors determine it"
    place = np.zeros(table.n_rows, np.uint32)
    place[shape] = np.arange(len(shape), dtype=np.uint32)
    nodes, count, level_mask, levels, _ = grow(table, predictors, method, shape, place, scaled(e_shape, len(shape)), 0)
    tree = Tree(nodes, count, level_mask, levels, np.arange(len(shape), dtype=np.uint32))
    leaf = leaves_of(table, tree, leaves, words)
    nodes, count = nodes.copy(), count.copy()
    order = np.empty(len(leaves), np.uint32)
    _tree.refill(leaf, np.arange(len(leaves), dtype=np.uint32), nodes, count, order)
    if (count[nodes["feature"] == _tree.LEAF] == 0).any():
        return "a leaf of the tree's shape has no rows"
    e = y - _combined(table, features, leaves, beta)
    within = _least_squares(
        _centred_blocks(table, features, leaves[order], e[order], leaf[order]), features.size, ridge, centred=True
    )
    weights = _round(beta + within)
    residuals = (y - _combined(table, features, leaves, weights))[order]
    tree = replace(tree, nodes=nodes, count=count, donors=np.arange(len(order), dtype=np.uint32))
    shift = Shift(features, weights, residuals, grid, logarithm)
    # Every row once with the residual of the next, which is of its leaf but for the last row of each.
    next_one = np.append(residuals[1:], residuals[:1])
    drawn = y[order] - residuals + next_one
    low, high = np.log([grid.low, grid.high]) if logarithm else (grid.low, grid.high)
    return tree, shift, float(np.mean((drawn < low) | (drawn > high)))


def _round(weights: Floats) -> Floats:
    """Keep 36 bits: what is beyond may depend on how a machine adds up."""
    mantissa, exponent = np.frexp(weights)
    return np.asarray(np.ldexp(np.rint(np.ldexp(mantissa, 36)), exponent - 36))


def _choose_features(
    table: EncodedTable, predictors: tuple[int, ...], rows: Rows, y: Floats | None
) -> tuple[Features, Floats]:
    """Features of a target and their ridges; without ``y`` the linear ones only.

    Linear ones stay; of hinges and products those that correlate most with what the linear ones leave over.
    """
    some = np.unique(np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(np.int64))
    codes = table.codes[:, rows[some]]
    slots: list[int] = []
    tables: list[Floats] = []
    hinges: list[tuple[int, Floats]] = []
    numeric: list[int] = []
    levels: list[tuple[int, int, int]] = []
    for slot in predictors:
        variable, here = table.variables[slot], codes[slot]
        counts = np.bincount(here, minlength=variable.n_codes)
        if variable.kind == "numeric":
            x = _numbers_of_codes(variable)
            known = x[here][~np.isnan(x[here])]
            if len(known) and known.std() > 0:
                mean, sd = known.mean(), known.std()
                z = np.where(np.isnan(x), 0.0, (x - mean) / sd)
                numeric.append(len(tables))
                slots.append(slot)
                tables.append(z)
                for knot in np.unique(np.quantile(known, HINGES)) if len(np.unique(known)) > 7 else ():
                    hinge = np.where(np.isnan(x), 0.0, np.maximum(x - knot, 0.0) / sd)
                    if hinge[here].std() > 1e-6:
                        hinges.append((slot, (hinge - hinge[here].mean()) / hinge[here].std()))
            if min(counts[0], len(some) - counts[0]) >= DUMMY_ROWS:
                levels.append((int(counts[0]), slot, 0))
        else:
            # One level less than there are: the commonest.
            for code in np.argsort(-counts, kind="stable")[1:]:
                if counts[code] >= DUMMY_ROWS:
                    levels.append((int(counts[code]), slot, int(code)))
    for _, slot, code in sorted(levels, key=lambda level: (-level[0], level[1:]))[:MOST_DUMMIES]:
        dummy = np.zeros(table.variables[slot].n_codes)
        dummy[code] = 1.0
        slots.append(slot)
        tables.append(dummy)
    none = np.zeros((0, 2), np.int32)
    linear = Features(np.array(slots, np.int32), tables, none)
    if y is None or not linear.size:
        return linear, np.full(linear.size, NO_RIDGE)
    left = y[some] - y[some].mean()
    matrix = linear.matrix(codes)
    matrix -= matrix.mean(0)
    left = left - matrix @ np.linalg.lstsq(matrix, left, rcond=1e-10)[0]
    pairs = [(a, b) for i, a in enumerate(numeric) for b in numeric[:i]]
    scores = [_correlation(table_[codes[slot]], left) for slot, table_ in hinges]
    scores += [_correlation(matrix[:, a] * matrix[:, b], left) for a, b in pairs]
    best = np.argsort(-np.array(scores), kind="stable")[: max(MOST_FEATURES - linear.size, 0)]
    chosen_hinges = [hinges[i] for i in sorted(best) if i < len(hinges)]
    chosen_pairs = [pairs[i - len(hinges)] for i in sorted(best) if i >= len(hinges)]
    features = Features(
        np.array([*slots, *(slot for slot, _ in chosen_hinges)], np.int32),
        [*tables, *(hinge for _, hinge in chosen_hinges)],
        np.array(chosen_pairs, np.int32).reshape(-1, 2),
    )
    return features, np.append(np.full(linear.size, NO_RIDGE), np.full(features.size - linear.size, RIDGE))


def _correlation(x: Floats, y: Floats) -> float:
    x = x - x.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return abs(float(x @ y)) / size if size > 0 else 0.0


def _numbers_of_codes(variable: Variable) -> Floats:
    """Number of each code of a numeric column, NaN for missing; the mean where a code stands for several values."""
    numbers = variable.numbers()
    if variable.bins is None:
        return numbers
    known = ~np.isnan(numbers)
    size = np.bincount(variable.bins[known], minlength=variable.n_codes)
    total = np.bincount(variable.bins[known], weights=numbers[known], minlength=variable.n_codes)
    return np.where(size > 0, total / np.maximum(size, 1), np.nan)


def _combined(table: EncodedTable, features: Features, rows: Rows, weights: Floats) -> Floats:
    out = np.empty(len(rows))
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        out[start : start + BLOCK] = features.combine(table.codes[:, block], weights)
    return out


def _blocks(table: EncodedTable, features: Features, rows: Rows, y: Floats) -> Iterator[tuple[Floats, Floats]]:
    for start in range(0, len(rows), BLOCK):
        yield features.matrix(table.codes[:, rows[start : start + BLOCK]]), y[start : start + BLOCK]


def _centred_blocks(
    table: EncodedTable, features: Features, rows: Rows, y: Floats, leaf: NDArray[np.uint32]
) -> Iterator[tuple[Floats, Floats]]:
    """Features and y less their means in the leaf, for rows that stand leaf by leaf."""
    for low, high, starts in _leaf_blocks(leaf):
        size = np.diff(np.append(starts, high - low))
        matrix, part = features.matrix(table.codes[:, rows[low:high]]), y[low:high]
        matrix -= np.repeat(np.add.reduceat(matrix, starts) / size[:, None], size, axis=0)
        yield matrix, part - np.repeat(np.add.reduceat(part, starts) / size, size)


def _leaf_blocks(leaf: NDArray[Any]) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
    """Blocks [low, high) of rows that stand leaf by leaf, none of which cuts a leaf, and where in them leaves begin."""
    begins = np.flatnonzero(np.append(True, leaf[1:] != leaf[:-1]))
    ends = np.append(begins[1:], len(leaf))
    first = 0
    while first < len(begins):
        last = max(int(np.searchsorted(ends, begins[first] + BLOCK, side="right")), first + 1)
        yield int(begins[first]), int(ends[last - 1]), begins[first:last] - begins[first]
        first = last


def _least_squares(blocks: Iterator[tuple[Floats, Floats]], q: int, ridge: Floats, centred: bool = False) -> Floats:
    """Coefficients of y on features, with an intercept unless ``centred``; ridges are relative to variances."""
    n, gram, moment, sums, sum_y = 0, np.zeros((q, q)), np.zeros(q), np.zeros(q), 0.0
    for matrix, y in blocks:
        n += len(y)
        gram += matrix.T @ matrix
        moment += matrix.T @ y
        sums += matrix.sum(0)
        sum_y += float(y.sum())
    if not centred:
        gram -= np.outer(sums, sums) / n
        moment -= sums * sum_y / n
    scale = np.sqrt(np.maximum(np.diag(gram), 1e-300))
    used = scale > 1e-9 * np.sqrt(n)
    system = (gram / scale / scale[:, None])[np.ix_(used, used)] + np.diag(ridge[used])
    out = np.zeros(q)
    out[used] = np.linalg.solve(system, (moment / scale)[used]) / scale[used]
    return out


def _find_grid(values: Floats, floating: bool) -> Grid:
    """The coarsest grid that holds all values: a multiple of a power of ten; none if there is none to six digits."""
    values = values[~np.isnan(values)]
    low, high = float(values.min()), float(values.max())
    for digits in range(7 if floating else 1):
        scaled_values = values * 10.0**digits
        whole = np.rint(scaled_values)
        exact = np.abs(scaled_values - whole) <= 1e-9 * np.maximum(1, np.abs(whole))
        if np.abs(whole).max() < 2.0**53 and exact.all():
            integers = whole.astype(np.int64)
            step = int(np.gcd.reduce(integers - integers[0])) or 1
            return Grid(step, int(integers[0]), digits, low, high)
    return Grid(0, 0, 0, low, high)


# Classes


def _fit_classes(
    table: EncodedTable,
    predictors: tuple[int, ...],
    method: Calibrated,
    shape: Rows,
    leaves: Rows,
    words: Words,
    ranks: Ranks,
    classes: NDArray[np.int64],
) -> tuple[Tree, Tilt | None, str]:
    """Tree of a categorical target, and the tilt of its leaves. ``ranks`` are by row of the table."""
    occurs = np.zeros(int(classes[-1]) + 1, bool)
    occurs[classes] = True
    y, n_classes = class_ids(occurs)
    nodes, count, level_mask, levels, order = grow(table, predictors, method, shape, ranks, y, n_classes)
    donors = np.empty(len(shape), ranks.dtype)
    _tree.donors_of(ranks, shape, order, donors)
    tree = Tree(nodes, count, level_mask, levels, donors)
    leaf = leaves_of(table, tree, leaves, words)
    if len(leaves) != len(shape):
        nodes, count, donors = nodes.copy(), count.copy(), np.empty(len(leaves), ranks.dtype)
        _tree.refill(leaf, ranks[leaves], nodes, count, donors)
        tree = replace(tree, nodes=nodes, count=count, donors=donors)
    if len(classes) > MOST_CLASSES:
        return tree, None, f"plain leaf shares: {len(classes)} classes"
    features, _ = _choose_features(table, predictors, shape, None)
    if len(classes) < 2 or not features.size:
        return tree, None, "plain leaf shares: nothing to tilt"
    tilt = _fit_tilt(table, features, leaves, np.asarray(y[ranks[leaves]]), leaf, tree, classes.astype(ranks.dtype))
    if tilt is None:
        return tree, None, "plain leaf shares: all leaves are of one class"
    return tree, tilt, f"leaf shares tilted by {features.size} features"


def _fit_tilt(
    table: EncodedTable,
    features: Features,
    rows: Rows,
    y: NDArray[np.int64],
    node: NDArray[np.uint32],
    tree: Tree,
    classes: Ranks,
) -> Tilt | None:
    """Multinomial logit within leaves, with the leaf shares as offset, by Newton steps.

    1. means of the features in each leaf
    2. few rows (of leaves that have several classes): Newton's steps on all of them
    3. many rows: gradients from all of them, and curvature from a sample, where the leaf shares are
    """
    c, q = len(classes), features.size
    is_leaf = tree.nodes["feature"] == _tree.LEAF
    n_leaves = int(is_leaf.sum())
    number = np.full(len(tree.nodes), -1, np.int32)
    number[is_leaf] = np.arange(n_leaves, dtype=np.int32)
    order = np.argsort(number[node], kind="stable")
    rows, y, leaf = rows[order], y[order], number[node][order]
    counts = np.bincount(leaf.astype(np.int64) * c + y, minlength=n_leaves * c).reshape(n_leaves, c)
    impure = (np.count_nonzero(counts, axis=1) > 1)[leaf]
    if not impure.any():
        return None
    # 1.
    means = np.zeros((n_leaves, q))
    for low, high, starts in _leaf_blocks(leaf):
        sums = np.add.reduceat(features.matrix(table.codes[:, rows[low:high]]), starts)
        means[leaf[low + starts]] = sums / np.diff(np.append(starts, high - low))[:, None]
    with np.errstate(divide="ignore"):
        offset = np.log(counts / np.maximum(counts.sum(1), 1)[:, None])
    rows, y, leaf = rows[impure], y[impure], leaf[impure]

    # 2.
    some, weight = _tilt_sample(counts > 0, leaf, 100 * (q + 1))
    z = features.matrix(table.codes[:, rows[some]]) - means[leaf[some]]
    gamma = np.zeros((q + 1, c))
    ridge = np.append(RIDGE_TILT, RIDGE_TILT * np.maximum(z.var(0), 1e-6))
    all_rows = len(some) == len(rows)
    for _ in range(NEWTON_STEPS if all_rows else 1):
        p = _probabilities(z @ gamma[1:] + gamma[0], offset[leaf[some]])
        curvature = _Curvature(z, p, weight, ridge)
        if all_rows:
            left = _left_over(p, y)
            gamma = gamma + curvature.step(np.vstack([left.sum(0), z.T @ left]) - ridge[:, None] * gamma)
    # 3. The means of a leaf are taken out of sums over the leaf, not of every row.
    for _ in range(0 if all_rows else FULL_STEPS):
        centre = means @ gamma[1:] - gamma[0]
        gradient, by_leaf = np.zeros((q, c)), np.zeros((n_leaves, c))
        for start in range(0, len(rows), BLOCK):
            at = slice(start, start + BLOCK)
            matrix = features.matrix(table.codes[:, rows[at]])
            left = _left_over(_probabilities(matrix @ gamma[1:] - centre[leaf[at]], offset[leaf[at]]), y[at])
            gradient += matrix.T @ left
            begins = np.flatnonzero(np.append(True, np.diff(leaf[at]) != 0))
            by_leaf[leaf[at][begins]] += np.add.reduceat(left, begins)
        gradient -= means.T @ by_leaf
        gamma = gamma + curvature.step(np.vstack([by_leaf.sum(0), gradient]) - ridge[:, None] * gamma)
    weights = gamma[1:].astype(np.float32)
    centre = (means @ weights.astype(np.float64) - gamma[0]).astype(np.float32)
    return Tilt(features, weights, number, counts.astype(np.float32), centre, classes)


def _tilt_sample(present: NDArray[np.bool_], leaf: NDArray[np.int32], wanted: int) -> tuple[NDArray[np.int64], Floats]:
    """Places of some of the rows, and how many rows each stands for.

    Of the leaves that have a class (``present``, by leaf and class) at least so many rows are wanted, or all: what is
    learned of a rare class is learned there.
    """
    if len(leaf) <= TILT_SAMPLE:
        return np.arange(len(leaf)), np.ones(len(leaf))
    size = np.bincount(leaf, minlength=len(present))
    share = np.minimum(wanted / np.maximum((present * size[:, None]).sum(0), 1), 1.0)
    share_of_leaf = np.where(present, share, 0.0).max(1)
    steps = np.floor(np.cumsum(share_of_leaf[leaf]) + 0.5)
    some = np.flatnonzero(np.diff(steps, prepend=0.0) > 0)
    return some, 1 / share_of_leaf[leaf[some]]


def _probabilities(tilt: Floats, offset: Floats) -> Floats:
    """Class probabilities (n, c) from tilts and the logarithms of leaf shares; ``tilt`` is overwritten."""
    np.clip(tilt, -CLIP, CLIP, out=tilt)
    tilt += offset
    tilt -= tilt.max(axis=1, keepdims=True)
    p = np.exp(tilt, out=tilt)
    p /= p.sum(axis=1, keepdims=True)
    return p


def _left_over(p: Floats, y: NDArray[np.int64]) -> Floats:
    """Class indicators less their probabilities (n, c)."""
    left = -p
    left[np.arange(len(y)), y] += 1
    return left


class _Curvature:
    """Second derivatives of a multinomial logit on a sample of rows, and steps of Newton's with them.

    Parameters
    ----------
    z : ndarray of shape (n, q)
    p : ndarray of shape (n, c)
    rows : ndarray of shape (n,)
        How many rows each stands for.
    ridge : ndarray of shape (1 + q,)
        The intercept first, as everywhere.
    """

    def __init__(self, z: Floats, p: Floats, rows: Floats, ridge: Floats) -> None:
        self.z, self.p, self.rows, self.ridge = z, p, rows, ridge
        self.inverses = []
        for j in range(p.shape[1]):
            weight = rows * p[:, j] * (1 - p[:, j])
            weighted = z * weight[:, None]
            block = np.diag(ridge)
            block[0, 0] += weight.sum()
            block[0, 1:] += weighted.sum(0)
            block[1:, 0] = block[0, 1:]
            block[1:, 1:] += weighted.T @ z
            self.inverses.append(np.linalg.inv(block))

    def times(self, v: Floats) -> Floats:
        """The matrix of second derivatives times v (1 + q, c); it is never formed."""
        u = self.z @ v[1:] + v[0]
        u -= (self.p * u).sum(axis=1, keepdims=True)
        u *= self.p * self.rows[:, None]
        return np.vstack([u.sum(0), self.z.T @ u]) + self.ridge[:, None] * v

    def step(self, gradient: Floats) -> Floats:
        """Solve by conjugate gradients, preconditioned by the blocks of the classes; not further than a tilt may go."""
        x, r = np.zeros_like(gradient), gradient.copy()
        wanted = REST * np.sqrt((r * r).sum())
        d = s = self._by_blocks(r)
        size = float((r * s).sum())
        for _ in range(CONJUGATE_STEPS):
            if np.sqrt((r * r).sum()) <= wanted or size <= 0:
                break
            product = self.times(d)
            length = size / float((d * product).sum())
            x += length * d
            r = r - length * product
            s = self._by_blocks(r)
            size, last = float((r * s).sum()), size
            d = s + size / last * d
        furthest = float(np.abs(self.z @ x[1:] + x[0]).max())
        return x * min(1.0, CLIP / furthest) if furthest > 0 else x

    def _by_blocks(self, r: Floats) -> Floats:
        return np.column_stack([inverse @ r[:, j] for j, inverse in enumerate(self.inverses)])
