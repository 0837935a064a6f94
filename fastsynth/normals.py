"""Normal and chi-square variates from random words, within bounds and far out in the tails.

Each is a function of its own words, so that it is the same whatever is drawn beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv, log_ndtr, ndtr, ndtri, ndtri_exp

from fastsynth.streams import Words

Floats = NDArray[np.float64]
# Standard deviations beyond which probabilities are taken as logarithms; doubles end at 38.
FAR = 30.0


def interior(words: Words) -> Floats:
    """A number above 0 and below 1 for each word."""
    # One bit less than a double holds, as the half is the last one: 1 is never reached.
    return ((words >> np.uint64(12)).astype(np.float64) + 0.5) / 2.0**52


def normal(words: Words) -> Floats:
    """A standard normal number for each word.

    Examples
    --------
    >>> normal(np.array([0, 2**63, 2**64 - 1], np.uint64)).round(3).tolist()
    [-8.21, 0.0, 8.21]
    """
    variates: Floats = ndtri(interior(words))
    return variates


def chi2(df: NDArray[Any], words: Words) -> Floats:
    """A chi-square number for each word, of ``df`` > 0 degrees of freedom."""
    variates: Floats = 2 * gammaincinv(np.asarray(df) / 2, interior(words))
    return variates


def truncated(low: Floats, high: Floats, words: Words) -> Floats:
    """Standard normal numbers (n,) between low and high, by the inverse of the distribution function.

    Bounds may be infinite on one side. Exact to rounding however far out the bounds lie: they are mirrored into the
    lower tail, where the distribution function keeps its digits, and beyond 30 it is taken as a logarithm.

    Examples
    --------
    >>> middle = np.full(3, 2**63, np.uint64)
    >>> truncated(np.array([0.0, 1.0, 50.0]), np.array([np.inf, 2.0, np.inf]), middle).round(6).tolist()
    [0.67449, 1.33644, 50.013855]
    """
    mirrored, a, b = _lower_tail(low, high)
    u = interior(words)
    below = ndtr(a)
    z = ndtri(below + u * (ndtr(b) - below))
    far = np.flatnonzero(b < -FAR)
    if len(far):
        a_far, b_far, u_far = a[far], b[far], u[far]
        z[far] = ndtri_exp(np.logaddexp(log_ndtr(a_far) + np.log1p(-u_far), log_ndtr(b_far) + np.log(u_far)))
    z = np.clip(z, a, b)
    drawn: Floats = np.where(mirrored, -z, z)
    return drawn


def log_between(low: Floats, high: Floats) -> Floats:
    """Logarithm of the standard normal probability (n,) between low and high; exact far out in the tails.

    Examples
    --------
    >>> log_between(np.array([-np.inf, 40.0]), np.array([0.0, 41.0])).round(6).tolist()
    [-0.693147, -804.608442]
    """
    _, a, b = _lower_tail(low, high)
    upper = log_ndtr(b)
    with np.errstate(divide="ignore"):
        logarithm: Floats = upper + np.log(-np.expm1(log_ndtr(a) - upper))
    return logarithm


def _lower_tail(low: Floats, high: Floats) -> tuple[NDArray[np.bool_], Floats, Floats]:
    """Which intervals are mirrored at 0 to lie in the lower half, and the bounds then."""
    mirrored: NDArray[Any] = low + high > 0
    return mirrored, np.where(mirrored, -high, low), np.where(mirrored, -low, high)
