"""Trees with effects of clusters (RE-EM trees), whose draws differ between clusters as the original does.

A tree that knows nothing of schools draws pupils who have hardly anything in common with their schoolmates; one that
knows each school, or a mean of it, gives schools more in common than they have. So the effects of clusters are
estimated apart, from what predictions leave over that were learned from other clusters; the model of the column is
fitted to the rest; and effects and residuals, which both are too small, are stretched to their variances
(``effects``)::

    parts of the clusters        0 . 1 . 2 . 3
    prediction of a row          regression and tree of the three other parts
    what it leaves over          y - prediction  ->  tau2, sigma2, effects  (again with y less the effects)
    model of the column          of y less the effects, by the column's own method
    draws                        model + effect of the donor cluster, stretched + residual, stretched

Sela and Simonoff (2012), RE-EM trees, Machine Learning 86:169; Carpenter, Goldstein and Rasbash (2003), Applied
Statistics 52:431.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastsynth import _calibrate
from fastsynth.calibrate import (
    BLOCK,
    MEANS_BEYOND,
    NO_PAIRS,
    ROWS_A_LINEAR,
    SPIKE_ROWS,
    Clusters,
    Job,
    Normal,
    choose_features,
    count_rows,
    donors_by_leaf,
    exact_to,
    find_grid,
    find_tails,
    grow_numbers,
    harm_of,
    regress,
)
from fastsynth.calibration import Combination, Features, Floats, Rows, Shift
from fastsynth.effects import Clustered, Effects, number_effects
from fastsynth.methods import Calibrated, Cart, ColumnModel, Sample, Tree
from fastsynth.streams import hashed

# Parts of the clusters, and rounds in which effects are estimated.
PARTS, ROUNDS = 4, 2
# Leaves of predictions hold so many clusters' rows, or this share of all: what a few clusters have in common is theirs.
LEAF_CLUSTERS, LEAF_SHARE, LEAF_ROWS = 5, 0.05, 20


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What effects are estimated from.

    Attributes
    ----------
    job : Job
    cluster : ndarray of shape (n_rows,), dtype=int32
        Of each row of the table.
    n_clusters : int
    part : ndarray of shape (n_clusters,), dtype=int64
    people : ndarray of shape (n,), dtype=uint32
        Rows, each once: two draws of a person say nothing of others in the cluster.
    method : Cart, Calibrated or Sample
    """

    job: Job
    cluster: NDArray[np.int32]
    n_clusters: int
    part: NDArray[np.int64]
    people: Rows
    method: Cart | Calibrated | Sample

    @classmethod
    def of(cls, job: Job, cluster: NDArray[np.int32], n_clusters: int, method: Cart | Calibrated | Sample) -> Setting:
        """Parts are dealt by a hash of the cluster's number."""
        people = np.unique(job.leaves)
        seen = np.flatnonzero(np.bincount(cluster[people], minlength=n_clusters))
        part = np.zeros(n_clusters, np.int64)
        part[seen[np.argsort(hashed(seen.astype(np.uint64), np.uint64(1)))]] = np.arange(len(seen)) % PARTS
        return cls(job, cluster, n_clusters, part, people, method)

    def only(self, wanted: NDArray[np.bool_]) -> Setting:
        """The rows whose rank of the target is wanted."""
        return Setting.of(self.job.only(wanted), self.cluster, self.n_clusters, self.method)

    def others(self, part: int) -> Job:
        """The job of the clusters of all other parts, with leaves of many clusters' rows."""
        of_shape = self.part[self.cluster[self.job.shape]]
        shape = np.unique(self.job.shape[of_shape != part])
        n_clusters = max(len(np.unique(self.cluster[shape])), 1)
        several = max(LEAF_ROWS, LEAF_CLUSTERS * len(shape) // n_clusters)
        minbucket = max(LEAF_ROWS, min(several, int(LEAF_SHARE * len(shape))))
        return replace(self.job, shape=shape, leaves=shape, minbucket=minbucket)


def fit_clustered(
    job: Job, cluster: NDArray[np.int32], n_clusters: int, method: Cart | Calibrated | Sample
) -> ColumnModel:
    """Fit the model of one column with effects of clusters."""
    if isinstance(method, Sample):
        job = replace(job, predictors=())
    setting = Setting.of(job, cluster, n_clusters, method)
    variable = job.table.variables[job.target]
    rows = count_rows(job)
    values = np.flatnonzero(rows[variable.first :]) + variable.first
    return _fit_numbers(setting, values, rows)


def _fit_numbers(setting: Setting, values: NDArray[np.int64], rows: NDArray[np.int64]) -> ColumnModel:
    job = setting.job
    variable = job.table.variables[job.target]
    fitted = _shifted(setting, values, rows)
    if isinstance(fitted, str):
        raise NotImplementedError(fitted)
    spread, means, shift, effects, note = fitted
    return ColumnModel(None, spread, variable.first, None, None, shift, means, None, note=note, effects=effects)


def _shifted(
    setting: Setting, values: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[Tree, Tree, Shift, Effects, str] | str:
    """Tree of donors, tree of means, shift and effects, with a note; or why they would do harm."""
    job, reason = setting.job, ""
    variable = job.table.variables[job.target]
    numbers = variable.numbers()
    grid = find_grid(numbers[values], exact_to(variable), rows[values])
    tails = find_tails(numbers[values], rows[values])
    for logarithm in (False, True)[: 1 + (grid.low > 0)]:
        y = np.log(np.where(numbers > 0, numbers, 1)) if logarithm else numbers
        found = estimate(setting, y)
        own = replace(job, clusters=Clusters(setting.cluster, found.blup, found.reflated, found.stretch))
        if isinstance(setting.method, Calibrated) and job.predictors:
            fitted = regress(own, y, grid, logarithm, tails)
        else:
            shift = Shift(
                Combination.of(Features.of([], [], NO_PAIRS, 0), np.zeros(0)), tails[0], grid, logarithm, tails
            )
            fitted = _leaf_means(own, y, setting.method, shift)
        if isinstance(fitted, str):
            reason = fitted
            continue
        spread, means, shift, _, outside = fitted
        effects = Effects(found.reflated, None, None, found.tau2, found.sigma2)
        leaves = f"{means.n_leaves} leaves of means, {spread.n_leaves} of what is left"
        note = f"{leaves}, effects of clusters, {100 * outside:.1f} % of draws beyond its range"
        return spread, means, shift, effects, "on the scale of its logarithm, " * logarithm + note
    return reason


def _leaf_means(
    job: Job, numbers: Floats, method: Cart | Calibrated | Sample, shift: Shift
) -> tuple[Tree, Tree, Shift, int, float] | str:
    """A plain tree: means of the leaves, and what they leave over as donors; or why they would do harm."""
    cart = method if isinstance(method, Cart) else Cart()
    job = replace(job, minbucket=cart.minbucket)
    y_shape = job.numbers(numbers, job.shape)
    middle = float(np.median(y_shape))
    tree = grow_numbers(job, y_shape - middle, 0, cart.cp)
    means = tree.numbered()
    leaf, totals = job.leaf_numbers(means), np.zeros((means.n_leaves, 1))
    y = job.numbers(numbers, job.leaves) - middle
    _calibrate.add_by_leaf(y[None], leaf, totals)
    sizes = np.bincount(leaf, minlength=means.n_leaves)
    level = totals[:, 0] / np.maximum(sizes, 1)
    r = (y - level[leaf]).astype(np.float32)
    r_shape = (r if job.shape is job.leaves else r[np.searchsorted(job.leaves, job.shape)]).astype(float)
    shift = replace(shift, means=level + middle)
    # Means of small leaves hold a part of what is left over: the rest is as large as it is among donors of a plain tree.
    filled = donors_by_leaf(job, tree, r, regained=False)
    harm = harm_of(job, y_shape, r_shape, tree.donors, float(r_shape.std()), shift)
    return harm if isinstance(harm, str) else (filled, means, shift, 0, harm)


def estimate(setting: Setting, numbers: Floats) -> Clustered:
    """Effects of clusters on a number, given by rank, from what predictions of other clusters leave over."""
    cluster, people = setting.cluster[setting.people], setting.people
    nothing = np.zeros(setting.n_clusters)
    found = Clustered(nothing, nothing, nothing + 1, 0.0, 0.0)
    for _ in range(ROUNDS if setting.job.predictors else 1):
        clusters = Clusters(setting.cluster, found.blup, found.reflated, found.stretch)
        left = setting.job.numbers(numbers, people)
        for part in range(PARTS):
            here = setting.part[cluster] == part
            others = replace(setting.others(part), clusters=clusters)
            if here.any() and len(others.shape):
                left[here] -= predict(others, numbers, people[here])
        found = number_effects(left, cluster, setting.n_clusters, setting.part)
        if found.tau2 == 0:
            break
    return found


def predict(job: Job, numbers: Floats, rows: Rows) -> Floats:
    """What a regression and a tree, learned from a job's rows, say of other rows."""
    y = job.numbers(numbers, job.shape)
    middle = float(y.mean())
    y = y - middle
    out = np.full(len(rows), middle)
    if not job.predictors or len(y) < 2 * job.minbucket:
        return out
    features = choose_features(job, y, True)
    if features.size and len(y) >= max(ROWS_A_LINEAR * (1 + features.size), SPIKE_ROWS):
        normal = Normal(features.size)
        for start in range(0, len(y), BLOCK):
            block = slice(start, start + BLOCK)
            normal.add(features.matrix(job.table.codes, job.shape[block]), y[block])
        of_all = (normal.sums[None] / normal.n, np.array([normal.total / normal.n]), np.array([normal.n], float))
        regression = Combination.of(features, normal.solve(features.n_linear, *of_all))
        own = regression(job.table.codes, job.shape)
        level = float((y - own).mean())
        y -= own + level
        out += regression(job.table.codes, rows) + level
    tree = grow_numbers(job, y, MEANS_BEYOND).numbered()
    leaf = job.leaf_numbers(tree)
    mean = np.bincount(leaf, y, tree.n_leaves) / np.maximum(np.bincount(leaf, minlength=tree.n_leaves), 1)
    out += mean[replace(job, leaves=rows).leaf_numbers(tree)]
    return out
