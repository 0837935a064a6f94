"""Fit calibrated models: features, regressions, trees, tilts; and the guards that decide where not to.

A numeric column (the shape of trees comes from the rows S, all else from the rows A; both are all rows by default)::

    S    features phi of the predictors: linear, hinges, products; beta: least squares of y on phi
         tree of means, of e = y - phi'beta
    A    b: least squares within its leaves of e on phi, both less their means in the leaf; g = beta + b
         u: what is left over in each leaf, on average
    S    tree of spread, of log |r|, r = y - phi'g - u
    A    r by leaf, less its mean in the leaf: the donors

The normal equations of y on phi are solved within the leaves, and the leaves have their own means, so a regression on
features, fitted to a large copy, gives what it gives on the original, whatever the size of the leaves.

A category has a tree and its class counts by leaf from A, and a multinomial logit within the leaves, with their shares
as offset, which solves the score equations likewise.

Sums over rows are made block by block in the order of the rows, and what they give is rounded, so no thread leaves a
trace, and hardly a machine.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fastsynth import _calibrate, _tree
from fastsynth.blur import MARGIN, Blur, is_continuous
from fastsynth.calibration import CLIP, Combination, Features, Floats, Grid, Linear, Rows, Shift, Tilt
from fastsynth.columns import EncodedTable, Ranks, Variable
from fastsynth.errors import DataError
from fastsynth.methods import (
    Cart,
    ColumnModel,
    Sample,
    Tree,
    Words,
    class_ids,
    fit_column,
    group,
    grow,
    kinds_of_ranks,
    leaves_of,
    refill,
    refill_tree,
    scaled,
)

# Rows whose features are in memory at a time.
BLOCK = 8_192
# Rows that features are chosen on, rows times classes up to which the curvature of a tilt is that of all, and rows for
# each of its weights above.
SAMPLE = 20_000
TILT_SAMPLE, ROWS_A_WEIGHT = 400_000, 300
# Most features times rows of that sample.
MOST_CELLS = 20_000_000
MOST_FEATURES = 60
# Tables with more linear features keep those that correlate most with the target.
MOST_LINEAR = 200
# Of hinges and products at most one for so many rows; numbers need so many for a linear feature, too, and are few where
# each value has so many on average.
ROWS_A_FEATURE, ROWS_A_LINEAR, ROWS_A_VALUE = 20, 3, 4
# A linear feature of which the others leave less than this share of the variance is not one of its own.
OWN_SHARE = 1e-4
# Classes of a tilt that has weights of its own for each, and of numbers that are tilted by their value.
MOST_CLASSES, MOST_VALUES = 40, _calibrate.MOST_CLASSES
# Quantiles at which linear features have a hinge: Harrell (2015), Regression Modeling Strategies, for seven knots.
HINGES = np.array([0.025, 0.1833, 0.3417, 0.5, 0.6583, 0.8167, 0.975])
# Ridge of hinges and products, and of linear features, which have hardly one, in rows.
RIDGE, NO_RIDGE = 1.0, 1e-7
# A level has a dummy if so many rows of the sample have it.
DUMMY_ROWS = 50
MOST_DUMMIES = 30
# Trees of means and of classes split nodes of up to 50 minbucket rows only where the gain is beyond that of unrelated
# rows: what small leaves hold by chance is what makes v. In units of the largest of so many normal deviates
# as there are predictors.
MEANS_BEYOND, CLASS_BEYOND, CP = 1.0, 0.5, 1e-8
# A column is dense if more than this share of its rows has a value of its own, and piles up on a value of this share.
DENSE_SHARE, SPIKE_SHARE, SPIKE_ROWS = 0.1, 0.05, 20
# Values on a grid are as good as dense if hardly more than this share of rows is heaped on some of them.
HEAPED_SHARE = 0.05
# Share of draws that may fall outside the observed range, and their distance in standard deviations of what is left.
OUTSIDE, MOST_OUTSIDE, BEYOND = 0.02, 0.05, 0.05
# Share of draws that may be at another place of the distribution, beyond so many times what chance explains; classes of
# values, and groups of what is fitted, that are looked at.
UNLIKE, UNLIKE_CHANCE, UNLIKE_CLASSES, UNLIKE_GROUPS = 0.01, 1.2, 20, 5
CLUSTERED_CHANCE = 1.5
# Share of the rows at each end of the range that draws beyond it are replaced by, and quantiles that are kept of it.
TAIL_SHARE, TAIL_QUANTILES = 0.02, 9
# Plain donors attenuate slopes the more, the larger the leaf: theirs are smaller by this.
DONORS_SHARE = 4
NO_PREDICTORS = "no predictors: observed values, rare ones among many moved between neighbours"
# Squares of numbers beyond may overflow.
HUGE = 1e100
# Standard deviations of a number, beyond which it is no further in the features.
FURTHEST, FURTHEST_TILT = 1e4, 5.0
HEAPED = "heaped on some of its values"
RIDGE_TILT = 0.05
# Steps of a tilt, each a pass over the rows; of very many rows, whose leaves tell more, fewer.
NEWTON_STEPS, FEW_STEPS, MANY_ROWS = 8, 4, 200_000
# Steps of conjugate gradients for a step of Newton's, and how small the rest has to be.
CONJUGATE_STEPS, REST = 30, 1e-3
NO_PAIRS = np.zeros((0, 2), np.int32)
# Root mean square of a step's tilts from which it is the last one.
SMALL_STEP = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class ClusterEffects:
    """Effects of clusters on a number.

    Attributes
    ----------
    of_row : ndarray of shape (n_rows,), dtype=int32
        Cluster of each row of the table.
    effect, drawn : ndarray of shape (n_clusters,), dtype=float64
        What is taken off the numbers before a fit, and what is added to draws.
    stretch : ndarray of shape (n_clusters,), dtype=float64
        What is left over is multiplied by this.
    """

    of_row: NDArray[np.int32]
    effect: Floats
    drawn: Floats
    stretch: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What a model is fitted to.

    Attributes
    ----------
    table : EncodedTable
    target : int
        Slot of the column.
    predictors : tuple of int
        Slots of its predictors.
    minbucket : int
    shape, leaves : ndarray, dtype=uint32
        Rows that give trees their shape, and those that everything else is learned from.
    words : callable
        Gives random words of rows: levels that a node has not seen go left or right by them.
    spikes : tuple of int
        Ranks of values on which a number piles up, as the caller says.
    groups : int
        Groups of quantiles that are drawn first; 0 for none.
    weighted : bool
        Whether ``leaves`` hold rows as often as they weigh.
    clusters : ClusterEffects or None
        Effects that numbers are fitted without.
    """

    table: EncodedTable
    target: int
    predictors: tuple[int, ...]
    minbucket: int
    shape: Rows
    leaves: Rows
    words: Words
    spikes: tuple[int, ...] = ()
    groups: int = 0
    weighted: bool = False
    clusters: ClusterEffects | None = None

    def only(self, wanted: NDArray[np.bool_]) -> Job:
        """The rows whose rank of the target is wanted."""
        ranks = self.table.ranks[self.target]
        leaves = self.leaves[wanted[ranks[self.leaves]]]
        shape = leaves if self.shape is self.leaves else self.shape[wanted[ranks[self.shape]]]
        if len(shape) < 2 * self.minbucket:
            # Too few of these rows are among those that give the shape.
            shape = np.unique(leaves) if self.weighted else leaves
        return replace(self, shape=shape, leaves=leaves)

    def numbers(self, of_rank: Floats, rows: Rows) -> Floats:
        """Numbers of rows of the table, given those of the ranks, without the effects of their clusters."""
        y: Floats = of_rank[self.table.ranks[self.target][rows]]
        return y if self.clusters is None else y - self.clusters.effect[self.clusters.of_row[rows]]

    @property
    def chance(self) -> float:
        """About the largest of as many normal deviates as there are predictors."""
        return math.sqrt(2 * math.log(1 + len(self.predictors)))

    def blocks(self) -> Iterator[slice]:
        """The rows of the leaves, so many at a time."""
        return (slice(start, start + BLOCK) for start in range(0, len(self.leaves), BLOCK))

    def leaf_numbers(self, tree: Tree) -> Rows:
        """Number of the leaf of each row that the leaves are learned from."""
        leaf: Rows = tree.nodes["left"][leaves_of(self.table, tree, self.leaves, self.words)]
        return leaf


def fit_calibrated(job: Job) -> ColumnModel:
    """Fit the calibrated model of one column, or plain donors where it would do harm."""
    table, target = job.table, job.target
    variable, ranks = table.variables[target], table.ranks[target]
    if not job.predictors:
        return replace(fit_column(table, target, (), Sample(), job.leaves), note=NO_PREDICTORS)
    used = used_ranks(ranks, job.leaves, len(variable.values))
    if variable.kind != "numeric":
        tree, tilt, note = fit_classes(job, ranks, used)
        return ColumnModel(None, tree, variable.first, tilt=tilt, note=note)
    if job.groups:
        return _fit_groups(job)
    values = np.flatnonzero(used[variable.first :]) + variable.first
    rows = count_rows(job)
    if 0 < len(values) <= min(MOST_CLASSES, rows[values].sum() // ROWS_A_VALUE):
        return _fit_few_numbers(job, used)
    reason = why_donors(job, values, rows)
    if reason == HEAPED and len(values) <= MOST_VALUES:
        return _fit_few_numbers(job, used)
    return _fit_numbers(job, values, rows, reason)


def _fit_groups(job: Job) -> ColumnModel:
    """A number as groups of its quantiles, which are classes."""
    variable, ranks = job.table.variables[job.target], job.table.ranks[job.target]
    pools, grouped = group(variable, ranks, job.leaves, job.spikes, job.groups)
    tree, tilt, note = fit_classes(job, grouped, used_ranks(grouped, job.leaves, len(variable.values)))
    note = f"{len(pools.lowest)} groups as classes; {note}"
    return ColumnModel(None, tree, variable.first, tilt=tilt, pools=pools, note=note)


def used_ranks(ranks: Ranks, rows: Rows, n_ranks: int) -> NDArray[np.bool_]:
    """Whether each rank occurs."""
    seen = np.zeros(n_ranks, np.uint8)
    _tree.occurring(ranks, rows, seen)
    return seen.astype(bool)


# Numbers


def _fit_few_numbers(job: Job, used: NDArray[np.bool_]) -> ColumnModel:
    """Numbers of few different values are classes, with a tree that knows their order.

    More values than a tilt can have weights for share them, in proportion to the value: the mean is calibrated.
    """
    variable, ranks = job.table.variables[job.target], job.table.ranks[job.target]
    missing = tilt_missing = None
    first = variable.first
    if used[:first].any():
        missing, tilt_missing, _ = _fit_kinds(job, np.minimum(np.arange(len(used)), first), first)
        job = job.only(np.arange(len(used)) >= first)
    present = used.copy()
    present[:first] = False
    tree, tilt, note = fit_classes(job, ranks, present, variable.numbers())
    return ColumnModel(missing, tree, first, tilt_missing, tilt, note=f"{int(present.sum())} values as classes; {note}")


def _fit_kinds(job: Job, kind_of_rank: NDArray[np.int64], present: int) -> tuple[Tree, Tilt | None, str]:
    """What is missing, in what way, and values on which the column piles up; all else is of the kind ``present``."""
    variable, ranks = job.table.variables[job.target], job.table.ranks[job.target]
    kind: Ranks = kind_of_rank.astype(variable.rank_dtype)
    kinds: Ranks = kind[ranks]
    return fit_classes(job, kinds, used_ranks(kinds, job.leaves, max(present, len(kind_of_rank)) + 1))


def why_donors(job: Job, values: NDArray[np.int64], rows: NDArray[np.int64]) -> str | None:
    """Why a numeric column of many values is drawn from plain donors; None if it is not."""
    if not any(job.table.variables[slot].kind == "numeric" for slot in job.predictors):
        return "all predictors are categories"
    return why_not_shifted(job, values, rows)


def why_not_shifted(job: Job, values: NDArray[np.int64], rows: NDArray[np.int64]) -> str | None:
    """Why nothing can be added to the numbers of a column, whatever its predictors are; None if it can."""
    variable = job.table.variables[job.target]
    dense = np.setdiff1d(values, spikes_of(job, rows))
    n_dense = int(rows[dense].sum())
    if n_dense < SPIKE_ROWS:
        return f"only {n_dense} rows with a value that does not pile up"
    numbers = variable.numbers()
    if np.abs(numbers[values]).max() > HUGE:
        return f"numbers beyond {HUGE:g}"
    digits = variable.dtype.scale if pa.types.is_decimal(variable.dtype) else 0
    if np.abs(numbers[values]).max() * 10.0**digits > 2.0**53 and not pa.types.is_floating(variable.dtype):
        return "more digits than 2^53 has"
    if len(dense) <= DENSE_SHARE * n_dense and _is_heaped(numbers[dense], rows[dense], exact_to(variable)):
        return HEAPED
    return None


def is_beyond_floats(variable: Variable, numbers: Floats) -> bool:
    """Whether numbers that are whole, or whole multiples of the last digit, are too large for a float to tell apart."""
    dtype = variable.values.type
    if pa.types.is_floating(dtype):
        return False
    scale = 10.0**dtype.scale if pa.types.is_decimal(dtype) else 1.0
    return bool(np.nanmax(np.abs(numbers), initial=0.0) * scale >= 2.0**53)


def exact_to(variable: Variable) -> float | None:
    """Relative error of a column's fractions; None for whole numbers."""
    if pa.types.is_float64(variable.dtype) or pa.types.is_decimal(variable.dtype):
        return 1e-9
    if pa.types.is_floating(variable.dtype):
        return 2e-3 if pa.types.is_float16(variable.dtype) else 2.4e-7
    return None


def find_blur(variable: Variable, held: NDArray[np.int64], kind: str | None, noise: float, margin: int) -> Blur | None:
    """What is done to the drawn numbers of a column, learned from the people who have each rank (n_ranks,).

    Without smoothing or noise, numbers of a continuous column that fewer than ``margin`` people have are moved among
    their neighbours; None where there is nothing to do.

    Raises
    ------
    DataError
        Numbers that a float cannot tell apart, but are to be smoothed.
    """
    asked = kind is not None or noise > 0
    if not asked and not (margin and is_continuous(held, margin)):
        return None
    numbers = variable.numbers()
    if is_beyond_floats(variable, numbers):
        if not asked:
            return None
        raise DataError(
            f"Column {variable.name!r} has whole numbers, or times, beyond 2^53: cast it to smooth it, times to us."
        )
    # Of the values that move: those on which a column piles up may lie on a coarser grid.
    moving = held > 0 if asked else (held > 0) & (held < margin)
    grid = find_grid(numbers[moving], exact_to(variable), None if asked else held[moving])
    known = numbers[held > 0]
    grid = replace(grid, low=float(known.min()), high=float(known.max()))
    return Blur.of(kind if asked else MARGIN, noise, numbers, held, grid, margin)


def count_rows(job: Job) -> NDArray[np.int64]:
    """Rows of each rank, each once whatever it weighs."""
    variable, ranks = job.table.variables[job.target], job.table.ranks[job.target]
    rows, people = np.zeros(len(variable.values), np.int64), np.unique(job.leaves) if job.weighted else job.leaves
    for start in range(0, len(people), 1 << 20):
        rows += np.bincount(ranks[people[start : start + (1 << 20)]], minlength=len(rows))
    return rows


def spikes_of(job: Job, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ranks of values on which the column piles up, found or named."""
    present = rows.copy()
    present[: job.table.variables[job.target].first] = 0
    found = np.flatnonzero((present >= SPIKE_SHARE * present.sum()) & (present >= SPIKE_ROWS))
    return np.union1d(found, np.array([rank for rank in job.spikes if rows[rank]], np.int64))


def _is_heaped(values: Floats, rows: NDArray[np.int64], exact_to: float | None) -> bool:
    """Whether rows lie on some values more than beside them, beyond chance, or the values at no regular distance.

    On a regular grid the count of a value is compared with the mean of its neighbours'.
    """
    grid = find_grid(values, exact_to)
    if grid.step == 0:
        return True
    unit = 10.0**grid.digits
    place = np.rint((values * unit - grid.start) / grid.step).astype(np.int64)
    place -= place.min()
    if int(place.max()) + 1 > 4 * len(values):
        return True
    count = np.zeros(place.max() + 1)
    count[place] = rows
    beside = (count[:-2] + count[2:]) / 2
    excess = np.abs(count[1:-1] - beside) - 2 * np.sqrt(1.5 * np.maximum(count[1:-1], beside) + 1)
    return bool(np.maximum(excess, 0).sum() > HEAPED_SHARE * rows.sum())


def _fit_numbers(job: Job, values: NDArray[np.int64], rows: NDArray[np.int64], reason: str | None) -> ColumnModel:
    """The model of many values: kinds first, then shifted donors, or plain ones if there is a reason."""
    first, n_ranks, notes = job.table.variables[job.target].first, len(rows), []
    spikes = spikes_of(job, rows)
    missing = tilt_missing = present = None
    if rows[:first].any() or len(spikes):
        # Kinds are what is missing and the spikes; all else is the kind "present".
        kinds, present = kinds_of_ranks(n_ranks, first, spikes)
        missing, tilt_missing, _ = _fit_kinds(job, kinds, present)
        notes += [f"{len(spikes)} value(s) on which it piles up drawn first"] * bool(len(spikes))
        job = job.only(kinds == present)
        values = np.setdiff1d(values, spikes)
    shifted = fit_shift(job, values, rows) if reason is None else reason
    if isinstance(shifted, str):
        tree, note = plain_donors(job, shifted)
        return ColumnModel(missing, tree, first, tilt_missing, present=present, note=", ".join([note, *notes]))
    spread, means, shift, note = shifted
    note = "shifted donors; " + ", ".join([*notes, note])
    return ColumnModel(missing, spread, first, tilt_missing, None, shift, means, present, note=note)


def fit_shift(job: Job, values: NDArray[np.int64], rows: NDArray[np.int64]) -> tuple[Tree, Tree, Shift, str] | str:
    """Tree of spread, tree of means, and what shifts donors, with a note; or why they would do harm."""
    variable, reason = job.table.variables[job.target], ""
    numbers = variable.numbers()
    grid, tails = (
        find_grid(numbers[values], exact_to(variable), rows[values]),
        find_tails(numbers[values], rows[values]),
    )
    for logarithm in (False, True)[: 1 + (grid.low > 0)]:
        y = np.log(np.where(numbers > 0, numbers, 1)) if logarithm else numbers
        regressed = regress(job, y, grid, logarithm, tails)
        if isinstance(regressed, str):
            reason = regressed
            continue
        spread, means, shift, n_features, outside = regressed
        leaves = f"{means.n_leaves} leaves of means, {spread.n_leaves} of spread"
        note = f"{n_features} feature(s), {leaves}, {100 * outside:.1f} % of draws beyond its range"
        return spread, means, shift, "on the scale of its logarithm, " * logarithm + note
    return reason


def plain_donors(job: Job, reason: str) -> tuple[Tree | None, str]:
    """A tree of plain donors of rows that have a value, and a note; no tree without such rows."""
    method = Cart(minbucket=job.minbucket if reason == HEAPED else max(job.minbucket // DONORS_SHARE, 1))
    note = f"donors, leaves of {method.minbucket}: {reason}"
    if not len(job.leaves):
        return None, note
    model = fit_column(job.table, job.target, job.predictors, method, job.shape)
    if job.leaves is not job.shape:
        model = refill(job.table, job.target, model, job.leaves, job.words)
    return model.values, note


class NormalEquations:
    """Sums for least squares.

    Attributes
    ----------
    n : int
    gram, sums, moment, total
        Sums of phi phi' (q, q), phi (q,), phi y (q,) and y.
    """

    def __init__(self, q: int) -> None:
        self.n, self.total = 0, 0.0
        self.gram, self.sums, self.moment = np.zeros((q, q)), np.zeros(q), np.zeros(q)

    def add(self, matrix: Floats, y: Floats) -> None:
        """Add rows: features (q, n) and y (n,)."""
        self.n += len(y)
        self.gram += matrix @ matrix.T
        self.sums += matrix.sum(1)
        self.moment += matrix @ y
        self.total += float(y.sum())

    def solve(self, linear: int, means: Floats, y_means: Floats, sizes: Floats) -> Floats:
        """Coefficients of y on phi, both less their means in groups (n_groups, q) and (n_groups,) of some sizes."""
        gram = self.gram - (means * sizes[:, None]).T @ means
        moment = self.moment - (means * sizes[:, None]).T @ y_means
        q = len(moment)
        scale = np.sqrt(np.maximum(np.diag(gram), 1e-300))
        # What is constant within groups, but for rounding, has no coefficient.
        used = scale > 1e-7 * np.sqrt(np.maximum(np.diag(self.gram), 1e-300))
        ridge = np.where(np.arange(q) < linear, NO_RIDGE, RIDGE) / self.n
        system = (gram / scale / scale[:, None])[np.ix_(used, used)] + np.diag(ridge[used])
        out = np.zeros(q)
        out[used] = np.linalg.solve(system, (moment / scale)[used]) / scale[used]
        # 36 bits: what is beyond may depend on how a machine adds up.
        mantissa, exponent = np.frexp(out)
        return np.asarray(np.ldexp(np.rint(np.ldexp(mantissa, 36)), exponent - 36))


def regress(
    job: Job, numbers: Floats, grid: Grid, logarithm: bool, tails: Floats
) -> tuple[Tree, Tree, Shift, int, float] | str:
    """Regression, tree of means, regression within its leaves, tree of spread with its donors, or why they do harm.

    The last item is the share of draws outside the range.
    """
    table, shape, n = job.table, job.shape, len(job.leaves)
    y_shape = job.numbers(numbers, shape)
    middle = float(np.median(y_shape))
    y_shape = y_shape - middle
    features = choose_features(job, y_shape, True)
    if len(shape) < max(ROWS_A_LINEAR * (1 + features.size), SPIKE_ROWS):
        return f"only {len(shape)} rows for {features.size} feature(s)"
    normal = NormalEquations(features.size)
    for start in range(0, len(shape), BLOCK):
        block = slice(start, start + BLOCK)
        normal.add(features.matrix(table.codes, shape[block]), y_shape[block])
    of_all = (normal.sums[None] / normal.n, np.array([normal.total / normal.n]), np.array([normal.n], float))
    beta = normal.solve(features.n_linear, *of_all)
    first_guess = Combination.of(features, beta)
    e_shape = y_shape - first_guess(table.codes, shape)
    means = grow_numbers(job, e_shape, MEANS_BEYOND).numbered()
    leaf = job.leaf_numbers(means)

    # Within the leaves.
    normal = NormalEquations(features.size)
    sums, totals = np.zeros((means.n_leaves, features.size)), np.zeros((means.n_leaves, 1))
    for block in job.blocks():
        matrix = features.matrix(table.codes, job.leaves[block])
        e = job.numbers(numbers, job.leaves[block]) - middle - first_guess(table.codes, job.leaves[block])
        normal.add(matrix, e)
        _calibrate.add_by_leaf(matrix, leaf[block], sums)
        _calibrate.add_by_leaf(e[None], leaf[block], totals)
    sizes = np.bincount(leaf, minlength=means.n_leaves).astype(float)
    if not sizes.all():
        return "a leaf of the tree's shape has no rows"
    phi_means, e_means = sums / sizes[:, None], totals[:, 0] / sizes
    within = normal.solve(features.n_linear, phi_means, e_means, sizes)
    regression = Combination.of(features, beta + within)
    level = e_means - phi_means @ within + middle

    # What is left.
    r = np.empty(n, np.float32)
    for block in job.blocks():
        rows = job.leaves[block]
        r[block] = job.numbers(numbers, rows) - regression(table.codes, rows) - level[leaf[block]]
    r_shape = (r if shape is job.leaves else r[np.searchsorted(job.leaves, shape)]).astype(float)
    del leaf
    sd = float(r_shape.std())
    # Where nothing is left there is no spread to grow on.
    spread = grow_numbers(job, np.log(np.abs(r_shape) + 0.1 * sd) if sd > 0 else r_shape, 0)
    shift = Shift(regression, level, grid, logarithm, tails)
    filled = donors_by_leaf(job, spread, r)
    y_shape += middle
    harm = harm_of(job, y_shape, y_shape - r_shape, r_shape, spread.donors, sd, shift)
    return harm if isinstance(harm, str) else (filled, means, shift, features.size, harm)


def harm_of(
    job: Job, y: Floats, fitted: Floats, r_shape: Floats, order: NDArray[np.uint32], sd: float, shift: Shift
) -> float | str:
    """Share of shifted draws outside the range, or why they would do harm.

    ``y``, without effects of clusters, what is fitted, and what that leaves over (of standard deviation ``sd``) are of
    the rows of the shape; ``order`` is theirs by leaf.
    """
    # Every row of the shape once with what is left of the next, which is of its leaf but for the last one of each.
    left, chance = r_shape, UNLIKE_CHANCE
    if job.clusters is not None:
        cluster = job.clusters.of_row[job.shape]
        left = left * job.clusters.stretch[cluster]
    drawn = fitted[order] + np.roll(left[order], 1)
    if job.clusters is not None:
        y = y + job.clusters.effect[cluster]
        drawn += job.clusters.drawn[cluster[order]]
        # Rows of a cluster are alike, so chance does more.
        chance *= CLUSTERED_CHANCE
    grid = shift.grid
    low, high = np.log([grid.low, grid.high]) if shift.logarithm else (grid.low, grid.high)
    beyond = np.abs(drawn - np.clip(drawn, low, high))
    outside = float(np.mean(beyond > 0))
    harmful = outside > MOST_OUTSIDE or (outside > OUTSIDE and np.sqrt(np.square(beyond).mean()) > BEYOND * sd)
    if harmful:
        return f"{100 * outside:.0f} % of shifted draws fall outside its range"
    if _is_unlike(y, np.clip(drawn, low, high), fitted, fitted[order], chance):
        return "shifted draws are distributed otherwise"
    return outside


def _is_unlike(y: Floats, drawn: Floats, fitted: Floats, fitted_drawn: Floats, times: float) -> bool:
    """Whether more draws than by chance are at another place of the distribution, of all rows or given what is fitted.

    Half the sum of the differences between shares of classes is the share of draws that would have to move. By chance
    it is about half the sum of sqrt(2 p / n) times .8, for shares p and n rows.
    """
    cuts = np.unique(np.quantile(y, np.linspace(0, 1, UNLIKE_CLASSES + 1)[1:-1]))
    groups = np.unique(np.quantile(fitted, np.linspace(0, 1, UNLIKE_GROUPS + 1)[1:-1]))
    cells = (len(cuts) + 1, len(groups) + 1)
    shares = [
        np.bincount(
            np.searchsorted(cuts, of) * cells[1] + np.searchsorted(groups, by), minlength=cells[0] * cells[1]
        ).reshape(cells)
        / len(y)
        for of, by in ((y, fitted), (drawn, fitted_drawn))
    ]
    for a, b in (shares, [share.sum(1) for share in shares]):
        chance = 0.5 * np.sqrt(2 / np.pi) * np.sqrt((a + b) / len(y)).sum()
        if 0.5 * np.abs(a - b).sum() > UNLIKE + times * chance:
            return True
    return False


def grow_numbers(job: Job, y: Floats, beyond: float, cp: float = CP) -> Tree:
    """Grow a tree of a number of the shape's rows; its donors are places in them."""
    n, table, rows = len(job.shape), job.table, job.shape
    places = np.arange(n, dtype=np.uint32)
    if n < table.n_rows // 8:
        # A table of these rows only takes less than the place of every row.
        table, rows = replace(table, codes=np.take(table.codes, rows, axis=1)), places
    place = places if rows is places else np.zeros(table.n_rows, np.uint32)
    place[rows] = places
    return grow(table, job.predictors, job.minbucket, cp, beyond * job.chance, rows, place, scaled(y, n), 0)


def donors_by_leaf(job: Job, tree: Tree, r: NDArray[np.float32], regained: bool = True) -> Tree:
    """The tree with what is left of all rows by leaf, less its mean there, as donors: the bits of single floats.

    ``r`` is overwritten. ``regained`` makes good the part of the variance that centring takes away.
    """
    if job.clusters is not None:
        r *= job.clusters.stretch[job.clusters.of_row[job.leaves]]
    node = leaves_of(job.table, tree, job.leaves, job.words)
    sums = np.zeros((len(tree.nodes), 1))
    for block in job.blocks():
        _calibrate.add_by_leaf(r[None, block].astype(float), node[block], sums)
    sizes = np.maximum(np.bincount(node, minlength=len(sums)), 1)
    sums[:, 0] /= sizes
    # Centring takes away a part of the variance.
    scale = np.sqrt(sizes / np.maximum(sizes - 1, 1)) if regained else np.ones(len(sizes))
    for block in job.blocks():
        r[block] = (r[block] - sums[node[block], 0]) * scale[node[block]]
    nodes, count, donors = tree.nodes.copy(), tree.count.copy(), np.empty(len(r), np.uint32)
    _tree.refill(node, r.view(np.uint32), nodes, count, donors)
    return replace(tree, nodes=nodes, count=count, donors=donors)


def choose_features(job: Job, y: Floats, hinged: bool, straight: Collection[int] = ()) -> Features:
    """Features of a target whose values in the rows of the shape are y; with hinges and products where wanted.

    Linear ones stay; of hinges and products those that correlate most with what the linear ones leave over. Columns
    that are ``straight`` have neither hinges nor products with each other.
    """
    table, n = job.table, len(job.shape)
    some = np.unique(np.linspace(0, n - 1, min(SAMPLE, n)).astype(np.int64))
    rows = np.ascontiguousarray(job.shape[some])
    furthest = FURTHEST if hinged else FURTHEST_TILT
    slots: list[int] = []
    tables: list[Floats] = []
    hinges: list[tuple[int, Floats]] = []
    numeric: list[int] = []
    levels: list[tuple[int, int, int]] = []
    for slot in job.predictors:
        variable, here = table.variables[slot], table.codes[slot][rows]
        bends = hinged and slot not in straight
        counts = np.bincount(here, minlength=variable.n_codes)
        if variable.kind == "numeric":
            x = table.numbers_of_codes(slot)
            known = x[here][~np.isnan(x[here])]
            if np.nanmax(np.abs(x), initial=0.0) > HUGE:
                continue
            if len(known) and known.std() > 0:
                mean, sd = known.mean(), known.std()
                numeric.append(len(tables))
                slots.append(slot)
                tables.append(np.where(np.isnan(x), 0.0, np.clip((x - mean) / sd, -furthest, furthest)))
                for knot in np.unique(np.quantile(known, HINGES)) if bends and len(np.unique(known)) > 7 else ():
                    hinge = np.where(np.isnan(x), 0.0, np.maximum(x - knot, 0.0) / sd)
                    if hinge[here].std() > 1e-6:
                        hinges.append((slot, (hinge - hinge[here].mean()) / hinge[here].std()))
            for code in range(variable.first_code):
                if min(counts[code], len(some) - counts[code]) >= DUMMY_ROWS:
                    levels.append((int(counts[code]), slot, code))
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
    left = y[some] - y[some].mean()
    if len(tables) > MOST_LINEAR:
        scores = [
            _correlation(table_[table.codes[slot][rows]], left) for slot, table_ in zip(slots, tables, strict=True)
        ]
        kept = np.sort(np.argsort(-np.array(scores), kind="stable")[:MOST_LINEAR])
        slots, tables, numeric = [slots[j] for j in kept], [tables[j] for j in kept], []
    own = _of_their_own(Features.of(slots, tables, NO_PAIRS, len(tables)).matrix(table.codes, rows))
    numeric = [own.index(j) for j in numeric if j in own]
    slots, tables = [slots[j] for j in own], [tables[j] for j in own]
    # Hinges of a number that is left out say nothing new either.
    hinges = [(slot, hinge) for slot, hinge in hinges if slot in slots]
    n_linear = len(tables)
    linear = Features.of(slots, tables, NO_PAIRS, n_linear)
    most = min(MOST_FEATURES, n // ROWS_A_FEATURE) - n_linear
    if not hinged or not n_linear or most <= 0:
        return linear
    matrix = linear.matrix(table.codes, rows)
    matrix -= matrix.mean(1, keepdims=True)
    left = left - matrix.T @ np.linalg.lstsq(matrix.T, left, rcond=1e-10)[0]
    pairs = [
        (a, b)
        for i, a in enumerate(numeric)
        for b in numeric[:i]
        if slots[a] not in straight or slots[b] not in straight
    ]
    scores = [_correlation(hinge[table.codes[slot][rows]], left) for slot, hinge in hinges]
    scores += [_correlation(matrix[a] * matrix[b], left) for a, b in pairs]
    best = sorted(np.argsort(-np.array(scores), kind="stable")[:most])
    chosen_hinges = [hinges[i] for i in best if i < len(hinges)]
    chosen_pairs = [pairs[i - len(hinges)] for i in best if i >= len(hinges)]
    return Features.of(
        [*slots, *(slot for slot, _ in chosen_hinges)],
        [*tables, *(hinge for _, hinge in chosen_hinges)],
        np.array(chosen_pairs, np.int32).reshape(-1, 2),
        n_linear,
    )


def _of_their_own(matrix: Floats) -> list[int]:
    """Features (q, n) that those before do not determine: opposing weights of two that go together would be without
    bounds where the synthetic ones do not quite.
    """
    matrix = matrix - matrix.mean(1, keepdims=True)
    gram = matrix @ matrix.T
    total = np.diag(gram).copy()
    own = []
    # Elimination, one feature after the other.
    for j in range(len(gram)):
        if gram[j, j] > OWN_SHARE * total[j]:
            own.append(j)
            gram = gram - np.outer(gram[:, j], gram[j]) / gram[j, j]
    return own


def _correlation(x: Floats, y: Floats) -> float:
    x = x - x.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return abs(float(x @ y)) / size if size > 0 else 0.0


def find_grid(values: Floats, exact_to: float | None, rows: NDArray[np.int64] | None = None) -> Grid:
    """The coarsest grid that holds all values: a multiple of a power of ten; none if there is none to six digits.

    Given the rows of each value, the coarsest that holds most of the rows: some people are weighed more exactly.
    ``exact_to`` is the relative error of fractions, None for whole numbers.
    """
    low, high = float(values.min()), float(values.max())
    for digits in range(1 if exact_to is None else 7):
        scaled_values = values * 10.0**digits
        whole = np.rint(scaled_values)
        size = np.abs(scaled_values)
        # The error of a fraction goes with its size; near zero with that of the largest.
        exact = np.abs(scaled_values - whole) <= (exact_to or 0) * np.maximum(size, (exact_to or 0) * size.max())
        most = exact.all() if rows is None else rows[exact].sum() > rows.sum() / 2
        if np.abs(whole).max() < 2.0**53 and most:
            integers = whole[exact].astype(np.int64)
            step = int(np.gcd.reduce(integers - integers[0])) or 1
            return Grid(step, int(integers[0]), digits, low, high)
    return Grid(0, 0, 0, low, high)


def find_tails(values: Floats, rows: NDArray[np.int64]) -> Floats:
    """Quantiles (2, n) of the lowest and of the highest share of rows, given ascending values and the rows of each."""
    place = np.cumsum(rows) - rows / 2
    wanted = np.linspace(0, TAIL_SHARE, TAIL_QUANTILES) * rows.sum()
    return np.array([np.interp(wanted, place, values), np.interp(rows.sum() - wanted[::-1], place, values)])


# Classes


def fit_classes(
    job: Job, ranks: Ranks, used: NDArray[np.bool_], numbers: Floats | None = None, beyond: float | None = None
) -> tuple[Tree, Tilt | None, str]:
    """Tree of a categorical target, and the tilt of its leaves.

    Parameters
    ----------
    ranks : ndarray of shape (n_rows,)
        Of the table.
    used : ndarray of shape (n_ranks,), dtype=bool
        Ranks that occur: the classes.
    numbers : ndarray of shape (n_ranks,), dtype=float64, optional
        Values of numbers: the tree is grown on them.
    beyond : float, optional
        How far beyond chance the gain of a split has to be.
    """
    table = job.table
    class_of, n_classes = class_ids(used)
    target = class_of
    if numbers is not None:
        target, n_classes = scaled(np.where(used, numbers, np.nan), len(job.shape)), 0
    by_value = numbers is not None and int(used.sum()) > MOST_CLASSES
    # Weights that all values share calibrate the mean only; the rest is left to the leaves.
    chance = beyond * job.chance if beyond is not None else 0.0 if by_value else CLASS_BEYOND * job.chance
    tree = grow(table, job.predictors, job.minbucket, CP, chance, job.shape, ranks, target, n_classes)
    classes = np.flatnonzero(used).astype(ranks.dtype)
    commonest = int(np.argmax(np.bincount(class_of[ranks[job.shape]], minlength=len(classes))))
    features = choose_features(job, (class_of[ranks[job.shape]] == commonest).astype(float), False)
    most = MOST_VALUES if by_value else MOST_CLASSES
    if len(classes) > most or not features.size or len(classes) < 2:
        note = f"{len(classes)} classes" if len(classes) > most else "nothing to tilt"
        return refill_tree(table, tree, ranks, job.leaves, job.words), None, f"plain leaf shares: {note}"
    tree = tree.numbered()
    score = None
    if by_value and numbers is not None:
        score = numbers[used] - np.average(
            numbers[used], weights=np.bincount(class_of[ranks[job.shape]], minlength=len(classes))
        )
        score /= np.abs(score).max()
    tilt = _fit_tilt(job, features, ranks, class_of.astype(np.int32), tree, classes, score)
    return tree, tilt, f"shares of {tree.n_leaves} leaves tilted by {features.size} feature(s)"


def _fit_tilt(
    job: Job,
    features: Features,
    ranks: Ranks,
    class_of: NDArray[np.int32],
    tree: Tree,
    classes: Ranks,
    score: Floats | None,
) -> Tilt:
    """Multinomial logit within leaves, with the leaf shares as offset, by Newton steps.

    With a score of each class (n_classes,) the weights of a class are its score times weights that all share.

    1. counts of the classes and means of the features in each leaf
    2. a sample of the rows of leaves that have several classes, or all if they are few
    3. steps: gradient from all rows, curvature from the sample
    """
    codes, leaf, rows = job.table.codes, job.leaf_numbers(tree), job.leaves
    c, q, n_leaves = len(classes), features.size, tree.n_leaves
    linear = Linear.of(features)
    # 1.
    counts, means = np.zeros((n_leaves, c)), np.zeros((n_leaves, q))
    _calibrate.count_classes(leaf, ranks, rows, class_of, counts)
    _calibrate.sum_linear(codes, rows, leaf, *linear.arguments, means)
    sizes = np.maximum(counts.sum(1), 1)
    means /= sizes[:, None]
    mixed = np.count_nonzero(counts, axis=1) > 1
    gamma = np.zeros((q + 1, c))
    if mixed.any():
        # 2.
        some, weight = _tilt_sample(counts, mixed, leaf, q + 1)
        of_some = leaf[some]
        z = features.matrix(codes, rows[some]).T - means[of_some]
        with np.errstate(divide="ignore"):
            offset = np.log(counts / sizes[:, None])[of_some]
        ridge = np.append(RIDGE_TILT, RIDGE_TILT * np.maximum(z.var(0), 1e-6))
        if score is not None:
            ridge /= score @ score
        # 3. The means of a leaf are taken out of sums over the leaf, not of every row.
        best, tried, step = -np.inf, gamma, gamma
        for _ in range(NEWTON_STEPS if len(rows) <= MANY_ROWS else FEW_STEPS):
            centre = means @ tried[1:] - tried[0]
            gradient, by_leaf = np.zeros((q, c)), np.zeros((n_leaves, c))
            likelihood = -0.5 * float((ridge[:, None] * tried**2).sum())
            for block in job.blocks():
                here = np.flatnonzero(mixed[leaf[block]]) + block.start
                of_rows = (codes, rows[here], leaf[here], ranks, class_of, *linear.arguments)
                likelihood += _calibrate.add_gradient(*of_rows, tried[1:], centre, counts, CLIP, gradient, by_leaf)
            if likelihood <= best:
                # What the sample says of rare large values may lead too far.
                step = step / 4
            else:
                gamma, best = tried, likelihood
                p = _probabilities(z @ gamma[1:] + gamma[0], offset)
                of_sample = (z, p, weight, ridge)
                curvature = _Curvature(*of_sample) if score is None else _SharedCurvature(*of_sample, score)
                gradient -= means.T @ by_leaf
                step = curvature.step(np.vstack([by_leaf.sum(0), gradient]) - ridge[:, None] * gamma)
            tried = gamma + step
            if np.square(z @ step[1:] + step[0]).mean() < SMALL_STEP**2:
                gamma = tried
                break
    # Single precision: what is beyond may depend on how a machine adds up.
    weights = gamma[1:].astype(np.float32).astype(float)
    return Tilt(linear, weights, counts, means @ weights - gamma[0].astype(np.float32), classes)


def _tilt_sample(
    counts: Floats, mixed: NDArray[np.bool_], leaf: Rows, n_features: int
) -> tuple[NDArray[np.int64], Floats]:
    """Places of some of the rows of mixed leaves, and how many rows each stands for; all rows if they are few.

    Of the leaves that have a class at least so many rows are wanted, or all: what is learned of a rare class is learned
    there.
    """
    size, present = np.where(mixed, counts.sum(1), 0), counts > 0
    share_of_leaf = mixed.astype(float)
    if size.sum() * counts.shape[1] > TILT_SAMPLE:
        wanted = ROWS_A_WEIGHT * n_features
        share = np.minimum(wanted / np.maximum((present * size[:, None]).sum(0), 1), 1.0)
        share_of_leaf *= np.where(present, share, 0.0).max(1)
    share_of_leaf *= min(MOST_CELLS / max((share_of_leaf * size).sum() * n_features, 1), 1.0)
    found, total = [np.zeros(0, np.int64)], 0.0
    for start in range(0, len(leaf), BLOCK):
        running = total + np.cumsum(share_of_leaf[leaf[start : start + BLOCK]])
        steps = np.floor(np.append(total, running) + 0.5)
        found.append(np.flatnonzero(np.diff(steps) > 0) + start)
        total = float(running[-1])
    some = np.concatenate(found)
    return some, 1 / share_of_leaf[leaf[some]]


def _probabilities(tilt: Floats, offset: Floats) -> Floats:
    """Class probabilities (n, c) from tilts and the logarithms of leaf shares; ``tilt`` is overwritten."""
    np.clip(tilt, -CLIP, CLIP, out=tilt)
    tilt += offset
    tilt -= tilt.max(axis=1, keepdims=True)
    p = np.exp(tilt, out=tilt)
    p /= p.sum(axis=1, keepdims=True)
    return p


class _SharedCurvature:
    """The same for weights a score(c)': steps of a, from the variance of the scores in each row."""

    def __init__(self, z: Floats, p: Floats, rows: Floats, ridge: Floats, score: Floats) -> None:
        self.z, self.score = z, score
        mean = p @ score
        weight = rows * (p @ score**2 - mean**2)
        phi = np.column_stack([np.ones(len(z)), z])
        self.matrix = (phi * weight[:, None]).T @ phi + np.diag(ridge * (score @ score))

    def step(self, gradient: Floats) -> Floats:
        """Solve for the weights that are shared; not further than a tilt may go."""
        x = np.linalg.solve(self.matrix, gradient @ self.score)
        furthest = float(np.abs(self.z @ x[1:] + x[0]).max() * np.abs(self.score).max())
        return np.outer(x * min(1.0, CLIP / furthest) if furthest > 0 else x, self.score)


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
