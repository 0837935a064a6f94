"""Whether chains have converged: rank-normalised split R-hat and effective sample sizes.

Sources
-------
Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), Rank-normalization, folding, and localization: an improved R-hat
for assessing convergence of MCMC, Bayesian Analysis 16. Geyer (1992), Practical Markov chain Monte Carlo, Statistical
Science 7.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Floats = NDArray[np.float64]
# Fewer draws of a half of a chain say nothing.
LEAST_DRAWS = 4


def r_hat(draws: Floats) -> Floats:
    """The larger one of the R-hats of ranks and of ranks of distances from the median.

    Parameters
    ----------
    draws : ndarray of shape (chains, draws, parameters)

    Returns
    -------
    ndarray of shape (parameters,)
        About 1 after convergence; NaN for fewer than 8 draws, and for what does not vary. O(n log n).

    Examples
    --------
    >>> draws = np.random.default_rng(0).normal(size=(2, 500, 1))
    >>> r_hat(draws).round(2)
    array([1.])
    >>> r_hat(draws + np.array([0, 3])[:, None, None]).round(1)
    array([1.7])
    """
    halves = _split(draws)
    if halves.shape[1] < LEAST_DRAWS:
        return np.full(halves.shape[2], np.nan)
    folded = np.abs(halves - np.median(halves, axis=(0, 1)))
    return np.maximum(_r_hat(_normal_ranks(halves)), _r_hat(_normal_ranks(folded)))


def effective_size(draws: Floats) -> Floats:
    """Independent draws that would tell as much about the middle of a distribution (bulk effective sample size).

    Parameters
    ----------
    draws : ndarray of shape (chains, draws, parameters)

    Returns
    -------
    ndarray of shape (parameters,)
        NaN for fewer than 8 draws, and for what does not vary. O(n log n).

    Examples
    --------
    >>> draws = np.random.default_rng(0).normal(size=(2, 500, 1))
    >>> float(effective_size(draws)[0]) > 700
    True
    """
    halves = _split(draws)
    if halves.shape[1] < LEAST_DRAWS:
        return np.full(halves.shape[2], np.nan)
    z = _normal_ranks(halves)
    chains, n, _ = z.shape
    covariances = _autocovariances(z)
    within, total = _variances(z)
    with np.errstate(divide="ignore", invalid="ignore"):
        correlations = 1 - (within - covariances.mean(axis=0)) / total
    correlations[0] = 1
    # Sums of neighbouring pairs fall and are positive (Geyer 1992); of the first that is not, the first half may count.
    pairs = correlations[: n // 2 * 2].reshape(n // 2, 2, -1).sum(axis=1)
    positive = np.logical_and.accumulate(pairs > 0, axis=0)
    last = np.minimum(2 * positive.sum(axis=0), n - 1)
    half = np.maximum(np.take_along_axis(correlations, last[None], axis=0)[0], 0)
    pairs = np.minimum.accumulate(np.where(positive, pairs, 0), axis=0)
    tau = np.maximum(2 * pairs.sum(axis=0) - 1 + half, 1 / np.log10(chains * n))
    return np.where(within > 0, chains * n / tau, np.nan)


def _split(draws: Floats) -> Floats:
    """Both halves of each chain as chains of their own."""
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, draws.shape[1] - half :]])


def _normal_ranks(draws: Floats) -> Floats:
    """Normal quantiles of ranks among the draws of all chains, ties averaged."""
    chains, n, parameters = draws.shape
    flat = draws.reshape(chains * n, parameters)
    order = np.argsort(flat, axis=0, kind="stable")
    ranks = np.empty(flat.shape)
    np.put_along_axis(ranks, order, np.arange(1.0, chains * n + 1)[:, None], axis=0)
    for j in np.flatnonzero((np.diff(np.take_along_axis(flat, order, axis=0), axis=0) == 0).any(axis=0)):
        _, place, counts = np.unique(flat[:, j], return_inverse=True, return_counts=True)
        ranks[:, j] = (np.cumsum(counts) - (counts - 1) / 2)[place]
    out: Floats = ndtri((ranks - 0.375) / (chains * n + 0.25)).reshape(draws.shape)
    return out


def _variances(z: Floats) -> tuple[Floats, Floats]:
    """Mean variance within chains, and the estimate of the whole variance."""
    n = z.shape[1]
    within = z.var(axis=1, ddof=1).mean(axis=0)
    return within, within * (n - 1) / n + z.mean(axis=1).var(axis=0, ddof=1)


def _r_hat(z: Floats) -> Floats:
    within, total = _variances(z)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(total / within)


def _autocovariances(z: Floats) -> Floats:
    """Of each chain at all lags, divided by n."""
    n = z.shape[1]
    size = 1 << (2 * n - 1).bit_length()
    transformed = np.fft.rfft(z - z.mean(axis=1, keepdims=True), size, axis=1)
    out: Floats = np.fft.irfft(np.abs(transformed) ** 2, size, axis=1)[:, :n] / n
    return out
