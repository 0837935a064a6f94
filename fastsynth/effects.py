"""Effects of clusters: what the rows of a school, a household or an interviewer have in common.

A number is drawn as what trees and regressions say, plus the effect of the row's cluster, plus what is left over. A
category is drawn from shares whose logarithms have the effects added. Effects are estimated from what an honest
prediction leaves over: one that is learned from other clusters, so that it holds nothing of their own.

Terms
-----
blup
    Best linear unbiased prediction of an effect: the mean of what is left over in a cluster, shrunk towards zero.
reliability
    Share of an effect's variance that its blup has: n tau2 / (n tau2 + sigma2) for a cluster of n rows.
reflated
    Blups, and what is left around them, are too small by what was shrunk. Both are stretched to the variance that
    they should have.

This module knows arrays, and no tables, trees or columns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from fastsynth import _calibrate
from fastsynth.streams import Words, below, hashed, unit

Floats = NDArray[np.float64]
# Ratios of the two variances among which the likelihood is maximised.
LOWEST_RATIO, HIGHEST_RATIO = 1e-6, 1e4
# Below this ratio clusters are taken not to differ.
NO_RATIO = 2e-6
# Clusters of fewer reliability are not stretched further.
LEAST_RELIABILITY = 0.02
# Directions in which shares of classes differ between clusters, at most, and one for so many clusters; intra-class
# correlation of one that counts, and of all together.
MOST_DIRECTIONS, CLUSTERS_A_DIRECTION = 6, 8
LEAST_SHARE, MOST_SHARE = 1e-4, 0.98
# Intra-class correlation for which pairs of rows are weighed.
PAIR_ICC = 0.1
# Steps of the scores of clusters, and how long they are at most, in standard deviations.
NEWTON_STEPS, LONGEST_STEP = 4, 2.0
# Classes become rarer by no more than this, as a logarithm.
LOWEST_SHIFT = -600.0
# Information below which a cluster's level is shrunk.
LEAST_INFORMATION = 1e-3
# How much steeper slopes of logarithms are given the effects, at most.
STEEPNESS, TARGETS = (0.8, 8.0), (0.75, 1.25)
# Scores that stand for those of all clusters, for each direction; steps of the scale, and its range; steps of marginal
# shares; rows times classes times scores that are looked at.
NODES, SCALE_STEPS, SCALES, MARGINAL_STEPS, MOST_CELLS = 15, 4, (0.2, 5.0), 6, 6_000_000


@dataclass(frozen=True, slots=True, eq=False)
class ClassEffects:
    """Effects of clusters on the logarithms of the shares of classes: scores times loadings.

    Attributes
    ----------
    scores : ndarray of shape (n_clusters, d), dtype=float64
        Mean zero over the rows, covariance the identity.
    loadings : ndarray of shape (n_classes, d), dtype=float64
    """

    scores: Floats
    loadings: Floats

    def shares(self, shares: Floats, donor: NDArray[np.int32]) -> Floats:
        """Shares (n, n_classes) with the effects of each row's cluster (n,)."""
        return tilted(shares, self.scores[donor], self.loadings)

    def draw(self, shares: Floats, donor: NDArray[np.int32], words: Words) -> NDArray[np.int64]:
        """A class for each row, from its shares without effects, its cluster and a random word."""
        ends = np.cumsum(self.shares(shares, donor), axis=1)
        wanted = unit(words) * ends[:, -1]
        chosen: NDArray[np.int64] = (ends <= wanted[:, None]).sum(1)
        return chosen


@dataclass(frozen=True, slots=True, eq=False)
class Effects:
    """Effects of the clusters of the original on one column, reflated.

    Attributes
    ----------
    numbers : ndarray of shape (n_clusters,), dtype=float64, or None
        What is added to numbers; to their logarithms where these are shifted.
    classes, kinds : ClassEffects or None
        Of the classes of values, and of kinds: what is missing, in what way, and values on which a number piles up.
    tau2, sigma2 : float
        Variances between and within clusters, given the predictors: of numbers, of the numbers that classes stand for,
        or of the indicators of classes, added up. NaN where only kinds have effects.
    """

    numbers: Floats | None
    classes: ClassEffects | None
    kinds: ClassEffects | None
    tau2: float
    sigma2: float

    @property
    def n_clusters(self) -> int:
        """Clusters of the original."""
        parts = [self.numbers, *(of.scores for of in (self.classes, self.kinds) if of is not None)]
        return next((len(of) for of in parts if of is not None), 0)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What ``of_state`` makes the same of: a record for JSON, and arrays by name."""
        arrays: dict[str, NDArray[Any]] = {} if self.numbers is None else {"numbers": self.numbers}
        for name, of in (("classes", self.classes), ("kinds", self.kinds)):
            if of is not None:
                arrays |= {f"{name}_scores": of.scores, f"{name}_loadings": of.loadings}
        return {"tau2": self.tau2, "sigma2": self.sigma2}, arrays

    @classmethod
    def of_state(cls, record: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Effects:
        """The effects that gave this state."""
        classes, kinds = (
            ClassEffects(arrays[f"{name}_scores"], arrays[f"{name}_loadings"]) if f"{name}_scores" in arrays else None
            for name in ("classes", "kinds")
        )
        return cls(arrays.get("numbers"), classes, kinds, record["tau2"], record["sigma2"])

    @property
    def icc(self) -> float:
        """Intra-class correlation, given the predictors."""
        return self.tau2 / (self.tau2 + self.sigma2)


def tilted(shares: Floats, scores: Floats, loadings: Floats) -> Floats:
    """Shares (n, n_classes) in proportion to shares exp(loadings scores); scores are (n, d)."""
    # Element by element: so a row's shares do not depend on what other rows are computed with it.
    shift = np.zeros(shares.shape)
    for k in range(loadings.shape[1]):
        shift += scores[:, k, None] * loadings[:, k]
    # Class by class: numpy is slow along short rows.
    shift -= functools.reduce(np.maximum, shift.T)[:, None]
    out: Floats = np.exp(np.maximum(shift, LOWEST_SHIFT, out=shift), out=shift)
    out *= shares
    out /= functools.reduce(np.add, out.T)[:, None]
    return out


@dataclass(frozen=True, slots=True, eq=False)
class Clustered:
    """Effects of clusters on a number, as they are estimated, and as they are drawn.

    Attributes
    ----------
    blup : ndarray of shape (n_clusters,), dtype=float64
        Zero for clusters without rows.
    level : ndarray of shape (n_clusters,), dtype=float64
        The mean, shrunk less the more rows a cluster has: what is taken off before the column's model is fitted.
    reflated : ndarray of shape (n_clusters,), dtype=float64
        Of variance tau2, mean zero over the rows. A cluster without rows has that of another one.
    stretch : ndarray of shape (n_clusters,), dtype=float64
        What is left over around the level, times this, has variance sigma2.
    tau2, sigma2 : float
        Variances of effects, and of what is left over.
    """

    blup: Floats
    level: Floats
    reflated: Floats
    stretch: Floats
    tau2: float
    sigma2: float


def variance_components(size: Floats, mean: Floats, within: float, part: NDArray[np.int64]) -> tuple[float, float]:
    """Variances between and within clusters by REML.

    Parameters
    ----------
    size, mean : ndarray of shape (n_clusters,)
        Rows of each cluster, at least one, and the mean of what is left over.
    within : float
        Sum of squares around the means.
    part : ndarray of shape (n_clusters,), dtype=int64
        Parts of the clusters that have a mean of their own.

    Returns
    -------
    tau2, sigma2 : float
        Zero for tau2 where no cluster has two rows.

    Notes
    -----
    Both are profiled out of the likelihood but for their ratio, O(n_clusters) for each of some 40 ratios tried.

    References
    ----------
    Patterson and Thompson (1971), Recovery of inter-block information when block sizes are unequal, Biometrika 58:545.

    Examples
    --------
    >>> size, mean = np.array([10.0, 10.0, 10.0, 10.0]), np.array([-1.0, 1.0, 3.0, -3.0])
    >>> tau2, sigma2 = variance_components(size, mean, 36.0, np.zeros(4, int))
    >>> round(tau2, 3), round(sigma2, 3)
    (6.567, 1.0)
    """
    n, n_parts = float(size.sum()), len(np.unique(part))
    free = n - n_parts
    if n <= len(size) or len(size) <= n_parts or free <= 0:
        return 0.0, (within + float(size @ mean**2)) / max(free, 1.0)

    def profile(log_ratio: float) -> tuple[float, float]:
        ratio = np.exp(log_ratio)
        weight = size / (1 + size * ratio)
        total = np.bincount(part, weight)
        centre = np.bincount(part, weight * mean) / np.where(total > 0, total, 1)
        sigma2 = (within + float(weight @ (mean - centre[part]) ** 2)) / free
        if sigma2 <= 0:
            return np.inf, 0.0
        deviance = free * np.log(sigma2) + np.log1p(size * ratio).sum() + np.log(total[total > 0]).sum()
        return float(deviance), sigma2

    best = _lowest(lambda x: profile(x)[0], np.log(LOWEST_RATIO), np.log(HIGHEST_RATIO))
    ratio, sigma2 = float(np.exp(best)), profile(best)[1]
    return (ratio * sigma2 if ratio > NO_RATIO else 0.0), sigma2


def _lowest(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function is lowest, to 1e-7: the lowest of a grid, and golden sections beside it."""
    grid = np.linspace(low, high, 24)
    at = int(np.argmin([function(x) for x in grid]))
    a, b = float(grid[max(at - 1, 0)]), float(grid[min(at + 1, len(grid) - 1)])
    golden = (np.sqrt(5) - 1) / 2
    c, d = b - golden * (b - a), a + golden * (b - a)
    of_c, of_d = function(c), function(d)
    while b - a > 1e-7:
        if of_c <= of_d:
            b, d, of_d = d, c, of_c
            c = b - golden * (b - a)
            of_c = function(c)
        else:
            a, c, of_c = c, d, of_d
            d = a + golden * (b - a)
            of_d = function(d)
    return (a + b) / 2


def number_effects(left: Floats, cluster: NDArray[np.int32], n_clusters: int, part: NDArray[np.int64]) -> Clustered:
    """Effects of clusters on a number, from what honest predictions leave over.

    Parameters
    ----------
    left : ndarray of shape (n,), dtype=float64
    cluster : ndarray of shape (n,), dtype=int32
    n_clusters : int
    part : ndarray of shape (n_clusters,), dtype=int64
        Clusters whose predictions were learned together.

    Notes
    -----
    With n_j rows, reliability l_j = n_j tau2 / (n_j tau2 + sigma2) and mean m_j of a cluster the blup is l_j m_j, of
    variance l_j tau2. What a blup leaves of m_j goes into the leaves of a tree, and adds to the effect where a draw
    has the very predictors of the cluster. So of all clusters but those of one row nearly all of m_j is taken off:
    k_j m_j for k_j = 1 - (1 - l_j) / n_j, around which (1 - k_j)^2 (tau2 + sigma2 / n_j) + sigma2 (1 - 1 / n_j) is
    left. O(n).

    References
    ----------
    Carpenter, Goldstein and Rasbash (2003), A novel bootstrap procedure for assessing the relationship between class
    size and achievement, Applied Statistics 52:431, for reflation. Sela and Simonoff (2012), RE-EM trees, Machine
    Learning 86:169, for trees with effects.
    """
    size = np.bincount(cluster, minlength=n_clusters).astype(float)
    seen = np.flatnonzero(size)
    total = np.bincount(cluster, left, n_clusters)
    mean = np.divide(total, size, out=np.zeros(n_clusters), where=size > 0)
    # Predictions of a part may all be too high by what the other clusters have in common.
    weight, of_part = np.bincount(part, size), np.bincount(part, total)
    mean -= np.divide(of_part, weight, out=np.zeros(len(weight)), where=weight > 0)[part]
    within = float(np.square(left - (total / np.maximum(size, 1))[cluster]).sum())
    tau2, sigma2 = variance_components(size[seen], mean[seen], within, part[seen])
    reliability = size * tau2 / (size * tau2 + sigma2) if tau2 > 0 else np.zeros(n_clusters)
    blup = np.where(size > 0, reliability * mean, 0.0)
    blup[seen] -= np.average(blup[seen], weights=size[seen])
    shrunk, many = (1 - reliability) / np.maximum(size, 1), np.maximum(size, 1)
    level = np.where(size > 0, (1 - shrunk) * mean, 0.0) if tau2 > 0 else np.zeros(n_clusters)
    level[seen] -= np.average(level[seen], weights=size[seen])
    share = 1 - 1 / many + shrunk**2 * (tau2 / sigma2 + 1 / many) if tau2 > 0 else np.ones(n_clusters)
    stretch = 1 / np.sqrt(np.maximum(share, LEAST_RELIABILITY))
    reflated = np.zeros(n_clusters)
    if tau2 > 0:
        reflated[seen] = reflate(blup[seen, None], reliability[seen, None], size[seen])[:, 0] * np.sqrt(tau2)
        reflated = spread_out(reflated, size > 0)
    return Clustered(_single(blup), _single(level), _single(reflated), stretch, tau2, sigma2)


def reflate(blups: Floats, reliability: Floats, size: Floats) -> Floats:
    """Blups (n_clusters, d) stretched to mean zero over the rows and an identity as covariance.

    Small clusters, which are shrunk most, are stretched most; then all alike, by the symmetric square root of the
    inverse covariance. Clusters count by their reliability (n_clusters, d).
    """
    stretched = blups / np.sqrt(np.maximum(reliability, LEAST_RELIABILITY))
    stretched -= np.average(stretched, axis=0, weights=size)
    weight = reliability.mean(1)
    weight /= weight.sum()
    values, vectors = np.linalg.eigh((stretched * weight[:, None]).T @ stretched)
    usable = values > 1e-10 * max(float(values[-1]), 1e-300)
    scale = np.where(usable, 1 / np.sqrt(np.where(usable, values, 1.0)), 0.0)
    whitened: Floats = stretched @ ((vectors * scale) @ vectors.T)
    return whitened


def spread_out(effects: Floats, seen: NDArray[np.bool_]) -> Floats:
    """Clusters (n_clusters, ...) without rows get the effect of a cluster that has some, by a hash of their number."""
    there, lost = np.flatnonzero(seen), np.flatnonzero(~seen)
    out = effects.copy()
    out[lost] = effects[there[below(hashed(lost.astype(np.uint64), np.uint64(0)), len(there))]]
    return out


def _single(effects: Floats) -> Floats:
    """Single precision: what is beyond may depend on how a machine adds up."""
    return effects.astype(np.float32).astype(float)


# Classes

# Blocks of rows: cluster (n,), class (n,), and shares of the classes (n, n_classes); the same ones each time.
Blocks = Callable[[], Iterable[tuple[NDArray[np.int32], NDArray[np.int64], Floats]]]


@dataclass(frozen=True, slots=True, eq=False)
class Directions:
    """In what directions, and by how much, the shares of classes differ between clusters.

    Attributes
    ----------
    basis : ndarray of shape (n_classes, b), dtype=float64
        What effects are made of: an identity where every class has its own, one column of values where effects are in
        proportion to the value.
    loadings : ndarray of shape (n_classes, d), dtype=float64
        To first order.
    tau2, total : float
        Variance between clusters, and of all rows given the shares: of the class's value, or of the indicators of all
        classes added up.
    size : ndarray of shape (n_clusters,), dtype=float64
        Rows of each cluster.
    """

    basis: Floats
    loadings: Floats
    tau2: float
    total: float
    size: Floats

    @classmethod
    def of(cls, blocks: Blocks, n_clusters: int, basis: Floats) -> Directions:
        """Learn them from rows and shares that know nothing of the rows' own clusters.

        What pairs of rows of a cluster have in common, of indicators (or values) less their shares (or means), is what
        clusters differ by, whatever else is wrong with the shares. Of many directions those count in which it is
        largest. Two passes over the rows, O(n n_classes b); without loadings where clusters do not differ.
        """
        moments = _Moments(blocks, n_clusters, basis)
        between = moments.between()
        tau2, total = float(np.trace(between)), float(np.trace(moments.variance))
        loadings = np.zeros((len(basis), 0))
        if tau2 > LEAST_SHARE * total:
            loadings = basis @ _directions(between, moments.variance, int((moments.size > 0).sum()))
        return cls(basis, loadings, min(tau2, MOST_SHARE * total), total, moments.size)

    def nodes(self) -> Floats:
        """Scores that stand for those of all clusters (n_nodes, d): normal, of mean zero and covariance the identity.

        Quantiles in one direction; in several, points by a hash and those opposite to them.
        """
        d = self.loadings.shape[1]
        if d == 1:
            points = ndtri((np.arange(NODES) + 0.5) / NODES)[:, None]
        else:
            numbers = np.arange(NODES * d // 2 * d, dtype=np.uint64)
            half = ndtri(np.maximum(unit(hashed(numbers, np.uint64(2))), 1e-12)).reshape(-1, d)
            points = np.concatenate([half, -half])
        return reflate(points, np.ones_like(points), np.ones(len(points)))


def fitted_scales(
    directions: Directions,
    nodes: Floats,
    sample: PairSample,
    over_all: Floats,
    shares: Callable[[Floats, float], Floats],
    classes: NDArray[np.int64] | None = None,
) -> tuple[Floats, float]:
    """Loadings and steepness with which draws are what they should be, found in a few steps.

    The rows of a cluster have in common what they should; and over all clusters means go with predictors as without
    effects: slopes of logarithms given the effects are steeper than those over all clusters.

    Parameters
    ----------
    over_all : ndarray of shape (n, n_classes)
        Shares of the rows of the sample over all clusters.
    shares : callable
        Gives their shares for an effect of zero, given loadings and how much steeper slopes are.
    classes : ndarray of shape (n,), dtype=int64, optional
        The rows' own classes: where these go with the means less than one to one, draws do so as well.
    """
    scale, steeper = 1.0, directions.total / (directions.total - directions.tau2)
    wanted = over_all @ directions.basis
    wanted -= wanted.mean(0)
    spread, target = max(float(np.square(wanted).sum()), 1e-300), 1.0
    if classes is not None:
        target = float(np.clip((directions.basis[classes] * wanted).sum() / spread, *TARGETS))
    for _ in range(SCALE_STEPS):
        loadings = scale * directions.loadings
        found, mean = sample.between(directions.basis, nodes, loadings, shares(loadings, steeper))
        if not found > 0:
            break
        scale = float(np.clip(scale * np.sqrt(directions.tau2 / found), *SCALES))
        along = float((mean * wanted).sum()) / spread
        steeper = float(np.clip(steeper * target / along, *STEEPNESS)) if along > 0 else steeper
    return _single(scale * directions.loadings), float(np.float32(steeper))


class _Moments:
    """What pairs of rows of a cluster have in common.

    Attributes
    ----------
    size : ndarray of shape (n_clusters,)
        Rows of each.
    variance : ndarray of shape (b, b)
        Of the basis, given the shares: the mean over the rows.
    """

    def __init__(self, blocks: Blocks, n_clusters: int, basis: Floats) -> None:
        self.size = np.zeros(n_clusters)
        for cluster, _, _ in blocks():
            self.size += np.bincount(cluster, minlength=n_clusters)
        b = basis.shape[1]
        self.sums, self.own, self.variance = np.zeros((n_clusters, b)), np.zeros((b, b)), np.zeros((b, b))
        self.weight = pair_weights(self.size)
        for cluster, y, shares in blocks():
            mean = shares @ basis
            left = np.ascontiguousarray((basis[y] - mean).T)
            _calibrate.add_by_leaf(left, cluster.astype(np.uint32), self.sums)
            self.own += (left * self.weight[cluster]) @ left.T
            self.variance += (basis * shares.sum(0)[:, None]).T @ basis - mean.T @ mean
        self.variance /= max(self.size.sum(), 1)

    def between(self) -> Floats:
        """Covariance (b, b) of two rows of a cluster."""
        pairs = float((self.weight * self.size * (self.size - 1)).sum())
        if not pairs > 0:
            return np.zeros_like(self.own)
        both: Floats = (self.sums * self.weight[:, None]).T @ self.sums - self.own
        return both / pairs


def pair_weights(size: Floats) -> Floats:
    """Weight of the pairs of rows of a cluster: many of them say little more than the rows of some ten."""
    weight: Floats = np.where(size > 1, 1 / (np.maximum(size - 1, 1) * (1 + PAIR_ICC * (size - 1))), 0.0)
    return weight


def _directions(between: Floats, variance: Floats, n_clusters: int) -> Floats:
    """Combinations (b, d) of the basis, times the standard deviation of effects in them.

    To first order effects of covariance T on logarithms make covariances ``variance T variance`` of shares.
    """
    values, vectors = np.linalg.eigh(variance)
    usable = values > 1e-9 * max(float(values[-1]), 1e-300)
    root = vectors[:, usable] / np.sqrt(values[usable])
    common, axes = np.linalg.eigh(root.T @ between @ root)
    most = max(1, min(MOST_DIRECTIONS, n_clusters // CLUSTERS_A_DIRECTION))
    kept = np.argsort(-common, kind="stable")[:most]
    kept = kept[common[kept] > LEAST_SHARE]
    axes = axes[:, kept]
    # The sign of an eigenvector is a machine's choice.
    axes = axes * np.where(axes[np.abs(axes).argmax(0), np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    found: Floats = root @ axes * np.sqrt(common[kept])
    return found


def class_scores(blocks: Blocks, size: Floats, loadings: Floats) -> tuple[Floats, Floats]:
    """Scores of clusters, reflated, and those of their level (each n_clusters, d), given shares for an effect of zero.

    Scores are the most likely ones in a multinomial logit with normal scores, by Newton's steps. The level is what
    moves shares to those that the cluster has, of few rows a little less, to first order. O(n n_classes d) a step.

    References
    ----------
    Breslow and Clayton (1993), Approximate inference in generalized linear mixed models, JASA 88:9.
    """
    n, d = len(size), loadings.shape[1]
    scores, pairs = np.zeros((n, d)), np.triu_indices(d)
    products = loadings[:, pairs[0]] * loadings[:, pairs[1]]
    information, level = np.zeros((n, d, d)), np.zeros((n, d))
    for step in range(NEWTON_STEPS + 1):
        gradient, curvature = np.zeros((n, d)), np.zeros((n, len(pairs[0])))
        for cluster, y, shares in blocks():
            of_row = tilted(shares, scores[cluster], loadings)
            mean, leaf = of_row @ loadings, cluster.astype(np.uint32)
            _calibrate.add_by_leaf(np.ascontiguousarray((loadings[y] - mean).T), leaf, gradient)
            second = of_row @ products - mean[:, pairs[0]] * mean[:, pairs[1]]
            _calibrate.add_by_leaf(np.ascontiguousarray(second.T), leaf, curvature)
        information[:, pairs[0], pairs[1]] = information[:, pairs[1], pairs[0]] = curvature
        inverse = np.linalg.inv(information + np.eye(d))
        if step < NEWTON_STEPS:
            move = np.einsum("jab,jb->ja", inverse, gradient - scores)
            scores += np.clip(move, -LONGEST_STEP, LONGEST_STEP)
    seen = size > 0
    reliability = np.where(seen[:, None], 1 - np.einsum("jaa->ja", inverse), 0.0)
    # From the most likely scores to where nothing would be left over.
    further = np.einsum("jab,jb->ja", np.linalg.inv(information + LEAST_INFORMATION * np.eye(d)), gradient)
    level = scores + np.clip(further, -LONGEST_STEP, LONGEST_STEP) * (1 - 1 / np.maximum(size, 1))[:, None]
    drawn = np.zeros_like(scores)
    drawn[seen] = reflate(scores[seen], reliability[seen], size[seen])
    return _single(spread_out(drawn, seen)), _single(level)


def nodes_of(scores: Floats) -> Floats:
    """Some of the scores (n_clusters, d) that clusters have: quantiles of one, a sample of several by a hash.

    Mean zero, and the identity as covariance.
    """
    n, d = scores.shape
    if d == 1:
        places = (np.arange(NODES) + 0.5) / NODES * n
        nodes = np.sort(scores, axis=0)[places.astype(np.int64)]
    else:
        nodes = scores[np.argsort(hashed(np.arange(n, dtype=np.uint64), np.uint64(4)))[: NODES * d]]
    return reflate(nodes, np.ones_like(nodes), np.ones(len(nodes)))


@dataclass(frozen=True, slots=True, eq=False)
class PairSample:
    """Rows of some clusters, in which it is looked up what pairs of rows of a cluster have in common.

    Attributes
    ----------
    rows : ndarray of shape (n,), dtype=int64
        Places among all rows.
    cluster : ndarray of shape (n,), dtype=uint32
        Numbered anew.
    weight : ndarray of shape (n_some,), dtype=float64
        Of each cluster.
    pairs : float
        Pairs of rows, each with the weight of its cluster.
    """

    rows: NDArray[np.int64]
    cluster: NDArray[np.uint32]
    weight: Floats
    pairs: float

    @classmethod
    def of(cls, cluster: NDArray[np.int32], directions: Directions, n_nodes: int) -> PairSample:
        """Clusters by a hash of their number, so many that their rows are not too many."""
        size = np.where(directions.size > 1, directions.size, 0)
        order = np.argsort(hashed(np.arange(len(size), dtype=np.uint64), np.uint64(3)))
        order = order[size[order] > 0]
        cells = size[order] * len(directions.basis) * n_nodes
        some = order[: int(np.searchsorted(np.cumsum(cells), MOST_CELLS)) + 1]
        number = np.full(len(size), -1)
        number[some] = np.arange(len(some))
        of_row = number[cluster]
        rows = np.flatnonzero(of_row >= 0)
        weight = pair_weights(size[some])
        pairs = float((weight * size[some] * (size[some] - 1)).sum())
        return cls(rows, of_row[rows].astype(np.uint32), weight, pairs)

    def between(self, basis: Floats, nodes: Floats, loadings: Floats, shares: Floats) -> tuple[float, Floats]:
        """What pairs of rows have in common if clusters have scores at the nodes, added up over the basis.

        And means (n, b) of the basis over the nodes.
        """
        means = [tilted(shares, np.broadcast_to(node, (len(shares), len(node))), loadings) @ basis for node in nodes]
        centre, total = np.mean(means, axis=0), 0.0
        for mean in means:
            moved = np.ascontiguousarray((mean - centre).T)
            sums = np.zeros((len(self.weight), len(moved)))
            _calibrate.add_by_leaf(moved, self.cluster, sums)
            own = float(np.square(moved).sum(0) @ self.weight[self.cluster])
            total += float((np.square(sums).sum(1) * self.weight).sum()) - own
        return total / (len(nodes) * self.pairs), centre


def marginal(shares: Floats, nodes: Floats, loadings: Floats) -> Floats:
    """Shares (n, n_classes) that are, with the effects of clusters and over all of these, the shares given.

    Effects on logarithms make rare classes less rare on average; this takes it back.
    """
    conditional = shares.copy()
    step = max(1, MOST_CELLS // (32 * shares.shape[1]))
    for start in range(0, len(shares), step):
        wanted = shares[start : start + step]
        now = wanted.copy()
        for _ in range(MARGINAL_STEPS):
            mean = np.zeros_like(now)
            for node in nodes:
                mean += tilted(now, np.broadcast_to(node, (len(now), len(node))), loadings)
            mean /= len(nodes)
            now *= np.divide(wanted, mean, out=np.ones_like(now), where=mean > 0)
            now /= now.sum(axis=1, keepdims=True)
        conditional[start : start + step] = now
    return conditional
