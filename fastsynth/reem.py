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

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from fastsynth import _calibrate
from fastsynth.calibrate import (
    BLOCK,
    DONORS_SHARE,
    HEAPED,
    MOST_CLASSES,
    MOST_VALUES,
    NO_PAIRS,
    ROWS_A_LINEAR,
    ROWS_A_VALUE,
    SPIKE_ROWS,
    ClusterEffects,
    Job,
    NormalEquations,
    choose_features,
    count_rows,
    donors_by_leaf,
    exact_to,
    find_grid,
    find_tails,
    fit_classes,
    fit_shift,
    grow_numbers,
    harm_of,
    plain_donors,
    regress,
    spikes_of,
    used_ranks,
    why_donors,
    why_not_shifted,
)
from fastsynth.calibration import Combination, Features, Floats, Linear, Rows, Shift, Tilt
from fastsynth.columns import Ranks
from fastsynth.effects import (
    ClassEffects,
    Clustered,
    Directions,
    Effects,
    PairSample,
    class_scores,
    fitted_scales,
    marginal,
    nodes_of,
    number_effects,
)
from fastsynth.errors import DataError
from fastsynth.methods import (
    Calibrated,
    Cart,
    ColumnModel,
    Pools,
    Sample,
    Tree,
    class_ids,
    fit_column,
    grow,
    kinds_of_ranks,
    refill,
    refill_tree,
    scaled,
    with_donors,
)
from fastsynth.streams import hashed, unit

# Parts of the clusters, and rounds in which effects are estimated.
PARTS, ROUNDS = 4, 2
# Leaves of predictions hold so many clusters' rows, or this share of all: what a few clusters have in common is theirs.
LEAF_CLUSTERS, LEAF_SHARE, LEAF_ROWS = 10, 0.25, 20
# Trees of predictions split only where the gain is so many times that of unrelated rows: rows of a cluster are related.
BEYOND = 3.0
# A prediction has at most one predictor that is constant within clusters for so many of them.
CLUSTERS_A_PREDICTOR = 10
# Numbers of fewer values are classes.
LEAST_VALUES = 6
# Groups of quantiles of numbers that nothing can be added to.
GROUPS = 64
NO_DIFFERENCE = "no differences between clusters"
Block = tuple[NDArray[np.int32], NDArray[np.int64], Floats]
_NO_FEATURES = Features.of([], [], NO_PAIRS, 0)
NO_FEATURES, NO_REGRESSION, NO_MEANS = Linear.of(_NO_FEATURES), Combination.of(_NO_FEATURES, np.zeros(0)), np.zeros(0)


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
    level2 : frozenset of int
        Predictors that are constant within clusters.
    """

    job: Job
    cluster: NDArray[np.int32]
    n_clusters: int
    part: NDArray[np.int64]
    people: Rows
    method: Cart | Calibrated | Sample
    level2: frozenset[int]

    @classmethod
    def of(cls, job: Job, cluster: NDArray[np.int32], n_clusters: int, method: Cart | Calibrated | Sample) -> Setting:
        """Parts are dealt by a hash of the cluster's number."""
        people = _once(job.leaves, job.table.n_rows)
        seen = np.flatnonzero(np.bincount(cluster[people], minlength=n_clusters))
        part = np.zeros(n_clusters, np.int64)
        part[seen[np.argsort(hashed(seen.astype(np.uint64), np.uint64(1)))]] = np.arange(len(seen)) % PARTS
        level2 = frozenset(slot for slot in job.predictors if _is_constant(job, slot, cluster, n_clusters, people))
        return cls(job, cluster, n_clusters, part, people, method, level2)

    def only(self, wanted: NDArray[np.bool_]) -> Setting:
        """The rows whose rank of the target is wanted."""
        return Setting.of(self.job.only(wanted), self.cluster, self.n_clusters, self.method)

    def others(self, part: int) -> Job:
        """The job of the clusters of all other parts, with leaves of many clusters' rows."""
        of_shape = self.part[self.cluster[self.job.shape]]
        shape = _once(self.job.shape[of_shape != part], self.job.table.n_rows)
        n_clusters = max(int(np.count_nonzero(np.bincount(self.cluster[shape]))), 1)
        several = max(LEAF_ROWS, LEAF_CLUSTERS * len(shape) // n_clusters)
        minbucket = max(LEAF_ROWS, min(several, int(LEAF_SHARE * len(shape))))
        # The first predictors of clusters that their number allows for.
        few = [slot for slot in self.job.predictors if slot in self.level2][: n_clusters // CLUSTERS_A_PREDICTOR]
        predictors = tuple(slot for slot in self.job.predictors if slot not in self.level2 or slot in few)
        return replace(self.job, predictors=predictors, shape=shape, leaves=shape, minbucket=minbucket)


def _once(rows: Rows, n_rows: int) -> Rows:
    """Each of some rows of a table once, ascending."""
    there = np.zeros(n_rows, bool)
    there[rows] = True
    return np.flatnonzero(there).astype(np.uint32)


def _is_constant(job: Job, slot: int, cluster: NDArray[np.int32], n_clusters: int, people: Rows) -> bool:
    codes, of_cluster = job.table.codes[slot], np.zeros(n_clusters, np.uint16)
    of_cluster[cluster[people]] = codes[people]
    return bool((of_cluster[cluster[people]] == codes[people]).all())


def fit_clustered(
    job: Job, cluster: NDArray[np.int32], n_clusters: int, method: Cart | Calibrated | Sample
) -> ColumnModel:
    """Fit the model of one column with effects of clusters.

    Parameters
    ----------
    job : Job
        Effects are learned from ``leaves``, each row once, whatever it is repeated for.
    cluster : ndarray of shape (n_rows,), dtype=int32
        Cluster of each row of the table, from 0 to n_clusters - 1. The effects of clusters without rows among the
        leaves are those of others.
    n_clusters : int
    method : Cart, Calibrated or Sample
        ``Sample``: no predictors, but clusters.

    Returns
    -------
    ColumnModel
        Without ``effects`` where clusters do not differ.

    Raises
    ------
    DataError
        Rows without a cluster.

    Notes
    -----
    O(n p depth) for n rows and p predictors, and O(n K d) for K classes in d <= 6 directions; memory O(n + J (b + d d))
    for J clusters, with b = 1 for classes with an order and K, at most 40, for others. On one core a number of 10^6
    rows in 10^5 clusters with five predictors takes 4 s, two classes 7 s.

    Effects of several columns belong together: a synthetic cluster that has the effects of one donor in all of them
    has them as they go together in the original, but for what their own noise hides in small clusters.
    """
    variable = job.table.variables[job.target]
    if len(cluster) != job.table.n_rows or (len(cluster) and not 0 <= cluster.min() <= cluster.max() < n_clusters):
        raise DataError(f"Column {variable.name!r}: rows without a cluster. Give every row a cluster, or drop these.")
    if isinstance(method, Sample):
        job = replace(job, predictors=())
    setting = Setting.of(job, np.ascontiguousarray(cluster, np.int32), n_clusters, method)
    if variable.kind != "numeric":
        return _fit_category(setting)
    return _fit_numeric(setting)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What values, or kinds, are drawn from, as in ``ColumnModel``."""

    tree: Tree | None
    tilt: Tilt | None = None
    shift: Shift | None = None
    means: Tree | None = None
    pools: Pools | None = None
    numbers: Floats | None = None
    classes: ClassEffects | None = None
    tau2: float = np.nan
    sigma2: float = np.nan
    note: str = ""


NOTHING = Part(None)


def _model(setting: Setting, values: Part, kinds: Part, present: int | None) -> ColumnModel:
    """The column's model of its parts."""
    first = setting.job.table.variables[setting.job.target].first
    effects = None
    if values.numbers is not None or values.classes is not None or kinds.classes is not None:
        effects = Effects(values.numbers, values.classes, kinds.classes, values.tau2, values.sigma2)
    note = "; ".join(part.note for part in (kinds, values) if part.note)
    present = None if present == first else present
    return ColumnModel(
        kinds.tree,
        values.tree,
        first,
        kinds.tilt,
        values.tilt,
        values.shift,
        values.means,
        present,
        values.pools,
        note,
        effects=effects,
    )


def _fit_category(setting: Setting) -> ColumnModel:
    """Classes; of more than a tilt can have the commonest as kinds with effects, and the rest without."""
    job = setting.job
    variable, ranks = job.table.variables[job.target], job.table.ranks[job.target]
    rows = count_rows(job)
    if np.count_nonzero(rows) <= MOST_VALUES:
        scores = _normal_scores(rows) if variable.kind == "ordered" else None
        return _model(setting, _fit_classes(setting, ranks, scores, False), NOTHING, None)
    common = np.sort(np.argsort(-rows, kind="stable")[: MOST_CLASSES - 1])
    kind_of, present = np.full(len(rows), len(rows)), len(rows)
    kind_of[common] = common
    kinds = _fit_kinds(setting, kind_of)
    rest = setting.only(kind_of == present)
    values = replace(_plain_classes(rest, ranks), note="no effects of clusters on rare classes")
    return _model(setting, values, kinds, present)


def _fit_numeric(setting: Setting) -> ColumnModel:
    """Kinds of missing and values on which the column piles up first, then all other values."""
    job = setting.job
    variable = job.table.variables[job.target]
    rows = count_rows(job)
    values = np.flatnonzero(rows[variable.first :]) + variable.first
    few = not job.groups and 0 < len(values) <= min(MOST_CLASSES, rows[values].sum() // ROWS_A_VALUE)
    spikes = np.zeros(0, np.int64) if few else spikes_of(job, rows)
    kinds, present = NOTHING, None
    if rows[: variable.first].any() or len(spikes):
        kind_of, present = kinds_of_ranks(len(rows), variable.first, spikes)
        kinds, setting = _fit_kinds(setting, kind_of), setting.only(kind_of == present)
        values = np.setdiff1d(values, spikes)
    if not len(setting.people):
        return _model(setting, NOTHING, kinds, present)
    return _model(setting, _fit_values(setting, values, rows, few), kinds, present)


def _fit_values(setting: Setting, values: NDArray[np.int64], rows: NDArray[np.int64], few: bool) -> Part:
    """Numbers with effects added; where that does harm as classes, of values if they are few enough, or of groups."""
    job = setting.job
    variable, ranks = job.table.variables[job.target], job.table.ranks[job.target]
    reason = why_not_shifted(job, values, rows)
    heaped = reason == HEAPED and not few
    fitted: Part | str = reason or "few values"
    if job.groups:
        return _fit_groups(setting, job.groups, "asked for")
    if len(values) > LEAST_VALUES and reason in (None, HEAPED) and not heaped:
        fitted = _fit_shifted(setting, values, rows)
    if isinstance(fitted, Part):
        return fitted
    if few or (heaped and len(values) <= MOST_VALUES):
        return _fit_classes(setting, ranks, variable.numbers(), True)
    return _plain_numbers(setting, values, rows) if fitted == NO_DIFFERENCE else _fit_groups(setting, GROUPS, fitted)


def _fit_kinds(setting: Setting, kind_of: NDArray[np.int64]) -> Part:
    variable, ranks = setting.job.table.variables[setting.job.target], setting.job.table.ranks[setting.job.target]
    as_ranks: Ranks = kind_of.astype(variable.rank_dtype)
    return _fit_classes(setting, as_ranks[ranks], None, False)


def _normal_scores(rows: NDArray[np.int64]) -> Floats:
    """Normal quantile of the middle of each level's rows; NaN for levels without."""
    place = (np.cumsum(rows) - rows / 2) / rows.sum()
    return np.where(rows > 0, ndtri(np.clip(place, 1e-9, 1 - 1e-9)), np.nan)


# Classes


def _fit_groups(setting: Setting, n_groups: int, reason: str) -> Part:
    """Groups of quantiles of a number as classes, in proportion to their place; then a member of the group."""
    job = setting.job
    variable, ranks = job.table.variables[job.target], job.table.ranks[job.target]
    members = np.zeros(len(variable.values), bool)
    members[ranks[job.leaves]] = True
    pools = Pools.of(ranks[job.leaves], np.flatnonzero(members), min(n_groups, max(len(setting.people) // 4, 1)))
    grouped: Ranks = np.asarray(pools.groups(ranks, members), variable.rank_dtype)
    scores = np.full(len(members), np.nan)
    scores[pools.lowest] = np.arange(len(pools.lowest))
    part = _fit_classes(setting, grouped, scores, True)
    return replace(part, pools=pools, note=f"{len(pools.lowest)} groups of quantiles ({reason}); {part.note}")


def _fit_classes(setting: Setting, ranks: Ranks, scores: Floats | None, numeric: bool) -> Part:
    """Shares of classes, given by row of the table, with effects of clusters.

    Parameters
    ----------
    scores : ndarray of shape (n_ranks,), dtype=float64, or None
        Effects are in proportion to these; None: each class has its own.
    numeric : bool
        Whether trees are grown on the scores.
    """
    job = setting.job
    used = used_ranks(ranks, job.leaves, len(job.table.variables[job.target].values) + 1)
    numbers = None
    if numeric and scores is not None:
        numbers = np.append(scores, np.full(len(used) - len(scores), np.nan))
    learned = ranks
    basis = _basis(setting, ranks, used, scores)
    for _ in range(ROUNDS if job.predictors else 1):
        predictions = _Predictions(setting, ranks, learned, used, numbers)
        directions = Directions.of(predictions.blocks, setting.n_clusters, basis)
        if not directions.loadings.shape[1]:
            return _plain_classes(setting, ranks, numbers)
        nodes = directions.nodes()
        sample = PairSample.of(predictions.cluster, directions, len(nodes))
        loadings = predictions.condition(directions, nodes, sample)
        drawn, level = class_scores(predictions.blocks_given, directions.size, loadings)
        learned = predictions.without(ClassEffects(level, loadings), scores)
    # The same for the shares that are drawn from.
    tree, tilt = _shares(job, setting.method, learned, used, numbers)
    tilt = _raked(tilt, np.bincount(class_ids(used)[0][ranks[job.leaves]], minlength=len(basis)))
    rows = np.ascontiguousarray(setting.people[sample.rows])
    at = (job.table.codes, rows, replace(job, leaves=rows).leaf_numbers(tree))
    nodes = nodes_of(drawn[directions.size > 0])
    own = class_ids(used)[0][ranks[rows]]
    loadings, steeper = fitted_scales(
        directions, nodes, sample, tilt.shares(*at), lambda *scales: given(tilt, nodes, *scales).shares(*at), own
    )
    tau2, sigma2 = directions.tau2, directions.total - directions.tau2
    tilt, effects = given(tilt, nodes, loadings, steeper), ClassEffects(drawn, loadings)
    note = f"{len(basis)} classes with effects of clusters in {len(nodes[0])} direction(s)"
    return Part(tree, tilt, classes=effects, tau2=tau2, sigma2=sigma2, note=note)


def given(tilt: Tilt, nodes: Floats, loadings: Floats, steeper: float) -> Tilt:
    """The shares of an effect of zero; with effects at the nodes they are those of the tilt on average."""
    sizes = tilt.counts.sum(1, keepdims=True)
    counts = sizes * marginal(tilt.counts / np.maximum(sizes, 1), nodes, loadings)
    return replace(tilt, counts=counts, weights=steeper * tilt.weights, centre=steeper * tilt.centre)


def _raked(tilt: Tilt, wanted: NDArray[np.int64]) -> Tilt:
    """Shares in which each class has its rows: without effects some are a little rarer, or more frequent."""
    counts = tilt.counts * (wanted / np.maximum(tilt.counts.sum(0), 1))
    sizes = tilt.counts.sum(1, keepdims=True)
    return replace(tilt, counts=counts * (sizes / np.maximum(counts.sum(1, keepdims=True), 1e-300)))


def _basis(setting: Setting, ranks: Ranks, used: NDArray[np.bool_], scores: Floats | None) -> Floats:
    """What effects are made of (n_classes, b): the scores, or indicators of the commonest classes and of the rest."""
    if scores is not None:
        return np.ascontiguousarray(scores[np.flatnonzero(used)][:, None])
    n_classes = int(used.sum())
    if n_classes <= MOST_CLASSES:
        return np.eye(n_classes)
    rows = np.bincount((np.cumsum(used) - 1)[ranks[setting.people]], minlength=n_classes)
    basis = np.zeros((n_classes, MOST_CLASSES))
    basis[:, -1] = 1
    for i, common in enumerate(np.argsort(-rows, kind="stable")[: MOST_CLASSES - 1]):
        basis[common, [i, -1]] = 1, 0
    return basis


def _shares(
    job: Job,
    method: Cart | Calibrated | Sample,
    ranks: Ranks,
    used: NDArray[np.bool_],
    numbers: Floats | None,
    beyond: float | None = None,
) -> tuple[Tree, Tilt]:
    """A tree and the shares of its leaves, tilted where the method does so."""
    class_of, n_classes = class_ids(used)
    classes = np.flatnonzero(used).astype(ranks.dtype)
    if isinstance(method, Cart):
        # Leaves of one class, as plain trees have, would be the same in every cluster.
        job = replace(job, minbucket=DONORS_SHARE * method.minbucket)
    if job.predictors:
        tree, tilt, _ = fit_classes(job, ranks, used, numbers, beyond)
        if tilt is not None:
            return tree, tilt
    else:
        tree = grow(job.table, (), 1, 0.0, 0.0, job.shape, ranks, class_of, n_classes)
    tree = tree.numbered()
    counts = np.zeros((tree.n_leaves, len(classes)))
    _calibrate.count_classes(job.leaf_numbers(tree), ranks, job.leaves, class_of.astype(np.int32), counts)
    return tree, Tilt(NO_FEATURES, np.zeros((0, len(classes))), counts, np.zeros(counts.shape), classes)


def _plain_classes(setting: Setting, ranks: Ranks, numbers: Floats | None = None) -> Part:
    """Classes without effects, as the method draws them where there are no clusters."""
    job = setting.job
    if not len(job.leaves):
        return NOTHING
    used = used_ranks(ranks, job.leaves, len(job.table.variables[job.target].values) + 1)
    if isinstance(setting.method, Calibrated) and job.predictors:
        tree, tilt, note = fit_classes(job, ranks, used, numbers)
        return Part(tree, tilt, note=note)
    cart = setting.method if isinstance(setting.method, Cart) else Cart()
    target, n_classes = class_ids(used)
    if numbers is not None:
        target, n_classes = scaled(np.where(used, numbers, np.nan), len(job.shape)), 0
    tree = grow(job.table, job.predictors, cart.minbucket, cart.cp, 0.0, job.shape, ranks, target, n_classes)
    if job.leaves is job.shape:
        return Part(with_donors(tree, ranks, job.shape), note=NO_DIFFERENCE)
    return Part(refill_tree(job.table, tree, ranks, job.leaves, job.words), note=NO_DIFFERENCE)


class _Predictions:
    """Shares of classes of each row, learned from clusters of other parts."""

    def __init__(
        self, setting: Setting, ranks: Ranks, learned: Ranks, used: NDArray[np.bool_], numbers: Floats | None
    ) -> None:
        """``learned`` are the ranks, less what is known of the effects of clusters: shares are learned from these."""
        self.setting, self.ranks = setting, ranks
        self.class_of, self.classes = class_ids(used)[0], np.flatnonzero(used)
        self.cluster = setting.cluster[setting.people]
        self.part = setting.part[self.cluster]
        self.fits: list[Tilt] = []
        self.fits_given: list[Tilt] = []
        self.leaf = np.zeros(len(setting.people), np.uint32)
        for part in range(PARTS):
            job, here = setting.others(part), self.part == part
            if not len(job.shape):
                # All clusters are of this part: there is one.
                job = replace(job, predictors=(), shape=setting.people, leaves=setting.people)
            tree, tilt = _shares(job, Calibrated(job.minbucket), learned, used, numbers, BEYOND)
            self.fits.append(tilt)
            self.leaf[here] = replace(job, leaves=setting.people[here]).leaf_numbers(tree)

    def shares(self, fits: list[Tilt], places: NDArray[np.int64]) -> Floats:
        """Shares of the rows at some places among the people."""
        codes = self.setting.job.table.codes
        shares = np.empty((len(places), len(self.classes)))
        for part, tilt in enumerate(fits):
            here = np.flatnonzero(self.part[places] == part)
            rows = np.ascontiguousarray(self.setting.people[places[here]])
            shares[here] = tilt.shares(codes, rows, np.ascontiguousarray(self.leaf[places[here]]))
        return shares

    def blocks(self) -> Iterator[Block]:
        """Cluster, class and shares of the rows, so many at a time."""
        return self._blocks(self.fits)

    def blocks_given(self) -> Iterator[Block]:
        """The same with shares for an effect of zero."""
        return self._blocks(self.fits_given)

    def condition(self, directions: Directions, nodes: Floats, sample: PairSample) -> Floats:
        """Make shares for an effect of zero, and give back the loadings of effects."""

        def shares(loadings: Floats, steeper: float) -> Floats:
            return self.shares([given(tilt, nodes, loadings, steeper) for tilt in self.fits], sample.rows)

        over_all = self.shares(self.fits, sample.rows)
        loadings, steeper = fitted_scales(directions, nodes, sample, over_all, shares)
        self.fits_given = [given(tilt, nodes, loadings, steeper) for tilt in self.fits]
        return loadings

    def _blocks(self, fits: list[Tilt]) -> Iterator[Block]:
        people = self.setting.people
        for start in range(0, len(people), BLOCK):
            block = slice(start, start + BLOCK)
            places = np.arange(start, min(start + BLOCK, len(people)))
            yield self.cluster[block], self.class_of[self.ranks[people[block]]], self.shares(fits, places)

    def without(self, level: ClassEffects, scores: Floats | None) -> Ranks:
        """Ranks (n_rows,) as they might be without the effects of clusters.

        A class becomes the one at the same place of the distribution over all clusters where classes have an order.
        Else it stays, unless the cluster makes it more frequent: as many rows as it has too many become classes of
        which the cluster has too few. Either way shares are those of the predictions.
        """
        out, start = self.ranks.copy(), 0
        for (cluster, y, shares), (_, _, zero) in zip(self.blocks(), self.blocks_given(), strict=True):
            rows = self.setting.people[start : start + len(y)]
            words, place = hashed(self.setting.job.words(rows), np.uint64(4)), np.arange(len(y))
            of_cluster = level.shares(zero, cluster)
            if scores is not None:
                ends = np.cumsum(of_cluster, axis=1)
                u = ends[place, y] - (1 - unit(words)) * of_cluster[place, y]
                new = (np.cumsum(shares, axis=1) <= u[:, None]).sum(1)
            else:
                stays = unit(words) * of_cluster[place, y] <= shares[place, y]
                lacking = np.cumsum(np.maximum(shares - of_cluster, 0), axis=1)
                wanted = unit(hashed(words, np.uint64(5))) * lacking[:, -1]
                new = np.where(stays, y, (lacking <= wanted[:, None]).sum(1))
            out[rows] = self.classes[np.minimum(new, shares.shape[1] - 1)]
            start += len(y)
        return out


# Numbers


def _fit_shifted(setting: Setting, values: NDArray[np.int64], rows: NDArray[np.int64]) -> Part | str:
    """Numbers with effects of clusters added; or why that would do harm."""
    job, reason = setting.job, ""
    variable = job.table.variables[job.target]
    numbers = variable.numbers()
    grid = find_grid(numbers[values], exact_to(variable), rows[values])
    tails = find_tails(numbers[values], rows[values])
    fits = [_leaf_means]
    if isinstance(setting.method, Calibrated) and any(
        job.table.variables[slot].kind == "numeric" for slot in job.predictors
    ):
        fits.insert(0, _regressed)
    scales = [np.log(np.where(numbers > 0, numbers, 1))] if grid.low > 0 else []
    for logarithm, y in enumerate([numbers, *scales]):
        found = estimate(setting, y)
        if found.tau2 == 0:
            return NO_DIFFERENCE
        own = replace(job, clusters=ClusterEffects(setting.cluster, found.level, found.reflated, found.stretch))
        for fit in fits:
            fitted = fit(own, y, setting.method, Shift(NO_REGRESSION, NO_MEANS, grid, bool(logarithm), tails))
            if isinstance(fitted, str):
                reason = fitted
                continue
            spread, means, shift, _, outside = fitted
            leaves = f"{means.n_leaves} leaves of means, {spread.n_leaves} of what is left"
            note = "on the scale of its logarithm, " * logarithm
            note += f"{leaves}, effects of clusters, {100 * outside:.1f} % of draws beyond its range"
            drawn = found.reflated
            return Part(spread, None, shift, means, None, drawn, None, found.tau2, found.sigma2, note)
    return reason


def _plain_numbers(setting: Setting, values: NDArray[np.int64], rows: NDArray[np.int64]) -> Part:
    """Numbers without effects, as the method draws them where there are no clusters."""
    job = setting.job
    fitted: tuple[Tree, Tree, Shift, str] | str = "no predictors"
    if isinstance(setting.method, Calibrated):
        if job.predictors:
            fitted = why_donors(job, values, rows) or fit_shift(job, values, rows)
        if not isinstance(fitted, str):
            spread, means, shift, note = fitted
            return Part(spread, None, shift, means, note=f"{NO_DIFFERENCE}; {note}")
        tree, note = plain_donors(job, fitted)
        return Part(tree, note=f"{NO_DIFFERENCE}; {note}")
    model = fit_column(job.table, job.target, job.predictors, setting.method, job.shape)
    if job.leaves is not job.shape:
        model = refill(job.table, job.target, model, job.leaves, job.words)
    return Part(model.values, note=NO_DIFFERENCE)


Fitted = tuple[Tree, Tree, Shift, int, float] | str


def _regressed(job: Job, numbers: Floats, method: Cart | Calibrated | Sample, shift: Shift) -> Fitted:  # noqa: ARG001
    """A regression and trees."""
    return regress(job, numbers, shift.grid, shift.logarithm, shift.tails)


def _leaf_means(job: Job, numbers: Floats, method: Cart | Calibrated | Sample, shift: Shift) -> Fitted:
    """A plain tree: means of the leaves, and what they leave over as donors; or why they would do harm."""
    cart = method if isinstance(method, Cart) else Cart()
    minbucket = max(method.minbucket // DONORS_SHARE, 1) if isinstance(method, Calibrated) else cart.minbucket
    job = replace(job, minbucket=minbucket)
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
    place = np.arange(len(r)) if job.shape is job.leaves else np.searchsorted(job.leaves, job.shape)
    r_shape = r[place].astype(float)
    shift = replace(shift, means=level + middle)
    # Means of small leaves hold a part of what is left over: the rest is as large as among donors of a plain tree.
    filled = donors_by_leaf(job, tree, r, regained=False)
    fitted = shift.means[leaf[place]]
    harm = harm_of(job, y_shape, fitted, r_shape, tree.donors, float(r_shape.std()), shift)
    return harm if isinstance(harm, str) else (filled, means, shift, 0, harm)


def estimate(setting: Setting, numbers: Floats) -> Clustered:
    """Effects of clusters on a number, given by rank, from what predictions of other clusters leave over."""
    cluster, people = setting.cluster[setting.people], setting.people
    nothing = np.zeros(setting.n_clusters)
    found = Clustered(nothing, nothing, nothing, nothing + 1, 0.0, 0.0)
    for _ in range(ROUNDS if setting.job.predictors else 1):
        clusters = ClusterEffects(setting.cluster, found.blup, found.reflated, found.stretch)
        left = setting.job.numbers(numbers, people)
        for part in range(PARTS):
            here = setting.part[cluster] == part
            others = replace(setting.others(part), clusters=clusters)
            if here.any() and len(others.shape):
                left[here] -= predict(others, numbers, people[here], setting.level2)
        found = number_effects(left, cluster, setting.n_clusters, setting.part)
        if found.tau2 == 0:
            break
    return found


def predict(job: Job, numbers: Floats, rows: Rows, level2: Collection[int]) -> Floats:
    """What a regression and a tree, learned from a job's rows, say of other rows."""
    y = job.numbers(numbers, job.shape)
    middle = float(y.mean())
    y = y - middle
    out = np.full(len(rows), middle)
    if not job.predictors or len(y) < 2 * job.minbucket:
        return out
    features = choose_features(job, y, True, level2)
    if features.size and len(y) >= max(ROWS_A_LINEAR * (1 + features.size), SPIKE_ROWS):
        normal = NormalEquations(features.size)
        for start in range(0, len(y), BLOCK):
            block = slice(start, start + BLOCK)
            normal.add(features.matrix(job.table.codes, job.shape[block]), y[block])
        of_all = (normal.sums[None] / normal.n, np.array([normal.total / normal.n]), np.array([normal.n], float))
        regression = Combination.of(features, normal.solve(features.n_linear, *of_all))
        own = regression(job.table.codes, job.shape)
        level = float((y - own).mean())
        y -= own + level
        out += regression(job.table.codes, rows) + level
    tree = grow_numbers(job, y, BEYOND).numbered()
    leaf = job.leaf_numbers(tree)
    mean = np.bincount(leaf, y, tree.n_leaves) / np.maximum(np.bincount(leaf, minlength=tree.n_leaves), 1)
    out += mean[replace(job, leaves=rows).leaf_numbers(tree)]
    return out
