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

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastsynth.streams import Words, below, hashed, unit

Floats = NDArray[np.float64]
# Ratios of the two variances among which the likelihood is maximised.
LOWEST_RATIO, HIGHEST_RATIO = 1e-6, 1e4
# Below this ratio clusters are taken not to differ.
NO_RATIO = 2e-6
# Clusters of fewer reliability are not stretched further.
LEAST_RELIABILITY = 0.02


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
    def icc(self) -> float:
        """Intra-class correlation, given the predictors."""
        return self.tau2 / (self.tau2 + self.sigma2)


def tilted(shares: Floats, scores: Floats, loadings: Floats) -> Floats:
    """Shares (n, n_classes) in proportion to shares exp(loadings scores); scores are (n, d)."""
    # Element by element: so a row's shares do not depend on what other rows are computed with it.
    shift = np.zeros(shares.shape)
    for k in range(loadings.shape[1]):
        shift += scores[:, k, None] * loadings[:, k]
    shift -= np.where(shares > 0, shift, -np.inf).max(axis=1, keepdims=True)
    out = np.exp(np.minimum(shift, 0.0, out=shift), out=shift)
    out *= shares
    out /= out.sum(axis=1, keepdims=True)
    return out


@dataclass(frozen=True, slots=True, eq=False)
class Clustered:
    """Effects of clusters on a number, as they are estimated, and as they are drawn.

    Attributes
    ----------
    blup : ndarray of shape (n_clusters,), dtype=float64
        Zero for clusters without rows.
    reflated : ndarray of shape (n_clusters,), dtype=float64
        Of variance tau2, mean zero over the rows. A cluster without rows has that of another one.
    stretch : ndarray of shape (n_clusters,), dtype=float64
        What is left over around the blup, times this, has variance sigma2.
    tau2, sigma2 : float
        Variances of effects, and of what is left over.
    """

    blup: Floats
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
    variance l_j tau2, and what is left around it has variance sigma2 (1 - l_j / n_j). O(n).

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
    stretch = 1 / np.sqrt(np.maximum(1 - reliability / np.maximum(size, 1), LEAST_RELIABILITY))
    reflated = np.zeros(n_clusters)
    if tau2 > 0:
        reflated[seen] = reflate(blup[seen, None], reliability[seen, None], size[seen])[:, 0] * np.sqrt(tau2)
        reflated = spread_out(reflated, size > 0)
    return Clustered(_single(blup), _single(reflated), stretch, tau2, sigma2)


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
