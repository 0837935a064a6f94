"""Exact noise for differential privacy: whole numbers and fractions only, from secret random bits.

Noise made of floating-point numbers betrays what it was added to by its last digits (Mironov 2012). Here every
probability is a fraction or exp(-fraction), and every draw decides by comparing whole numbers, so that a guarantee
holds as proved on paper. What is not covered is time: how long a draw takes depends on what is drawn.

Sources
-------
Canonne, Kamath and Steinke (2020), The discrete Gaussian for differential privacy, NeurIPS; algorithms 1 to 3.
McSherry and Talwar (2007), Mechanism design via differential privacy, FOCS.
Bun and Steinke (2016), Concentrated differential privacy, TCC.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

# Bytes of the stream that are made at a time.
BLOCK_BYTES = 8_192


class SecretBits:
    """A stream of random bits that nobody can foretell who does not know the secret: SHAKE-256 of secret and key.

    The streams of ``fastsynth.streams`` are not for secrets: who sees some words of one may work out the others.

    Parameters
    ----------
    secret : int
        At least 0; at least 128 bits from the system, where it is to be one.
    key : str
        What the stream is for.
    """

    def __init__(self, secret: int, key: str) -> None:
        entropy = secret.to_bytes(max((secret.bit_length() + 7) // 8, 16), "little")
        self._seed = hashlib.sha256(len(entropy).to_bytes(8, "little") + entropy + key.encode()).digest()
        self._blocks, self._place, self._bytes = 0, 0, b""

    def _take(self, n: int) -> bytes:
        while self._place + n > len(self._bytes):
            block = hashlib.shake_256(self._seed + self._blocks.to_bytes(8, "little")).digest(BLOCK_BYTES)
            self._bytes, self._place, self._blocks = self._bytes[self._place :] + block, 0, self._blocks + 1
        self._place += n
        return self._bytes[self._place - n : self._place]

    def below(self, n: int) -> int:
        """A whole number from 0 to n - 1, each equally likely."""
        length = (n - 1).bit_length()
        size, spare = (length + 7) // 8, -length % 8
        while True:
            number = int.from_bytes(self._take(size), "little") >> spare
            if number < n:
                return number


def bernoulli_exp(bits: SecretBits, up: int, down: int) -> bool:
    """True with probability exp(-up/down), for up >= 0 and down > 0."""
    while up > down:
        if not _bernoulli_exp_below_1(bits, 1, 1):
            return False
        up -= down
    return _bernoulli_exp_below_1(bits, up, down)


def _bernoulli_exp_below_1(bits: SecretBits, up: int, down: int) -> bool:
    k = 1
    while bits.below(down * k) < up:
        k += 1
    return k % 2 == 1


def discrete_laplace(bits: SecretBits, scale: Fraction) -> int:
    """A whole number x with probability proportional to exp(-|x| / scale): two-sided geometric noise."""
    t, s = scale.numerator, scale.denominator
    while True:
        rest = bits.below(t)
        if not bernoulli_exp(bits, rest, t):
            continue
        whole = 0
        while _bernoulli_exp_below_1(bits, 1, 1):
            whole += 1
        size, negative = (rest + t * whole) // s, bits.below(2)
        if size or not negative:
            return -size if negative else size


def discrete_gaussian(bits: SecretBits, variance: Fraction) -> int:
    """A whole number x with probability proportional to exp(-x^2 / (2 variance))."""
    a, b = variance.numerator, variance.denominator
    t = math.isqrt(a // b) + 1
    while True:
        x = discrete_laplace(bits, Fraction(t))
        if bernoulli_exp(bits, (abs(x) * b * t - a) ** 2, 2 * a * b * t * t):
            return x


def choose(bits: SecretBits, utility: Sequence[int], rate: Fraction) -> int:
    """The exponential mechanism: place i with probability proportional to exp(rate * utility[i]).

    Utilities are whole numbers. Where one more row moves each by at most D, in whatever direction, rate = epsilon /
    (2 D) gives epsilon; where it moves all of them the same way, rate = epsilon / D does.
    """
    most = max(utility)
    while True:
        i = bits.below(len(utility))
        if bernoulli_exp(bits, rate.numerator * (most - utility[i]), rate.denominator):
            return i


def choice_shares(utility: Sequence[float], rate: float) -> NDArray[np.float64]:
    """Probabilities of ``choose``.

    Examples
    --------
    >>> choice_shares([12, 10, 3], 0.5 / 2).round(6).tolist()
    [0.584136, 0.354296, 0.061567]
    """
    weights = np.exp(rate * (np.asarray(utility, np.float64) - max(utility)))
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def epsilon_of_rho(rho: float, delta: float) -> float:
    """Epsilon of rho-zero-concentrated differential privacy at a delta (Bun and Steinke 2016).

    Examples
    --------
    >>> round(epsilon_of_rho(0.125, 1e-6), 6)
    2.753261
    """
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


def rho_of_epsilon(epsilon: float, delta: float) -> float:
    """The rho that gives epsilon at a delta; the inverse of ``epsilon_of_rho``, a hair lower."""
    far = math.log(1 / delta)
    # The difference of the roots, written so that no digits are lost.
    return (epsilon / (math.sqrt(far + epsilon) + math.sqrt(far))) ** 2 * (1 - 1e-9)
