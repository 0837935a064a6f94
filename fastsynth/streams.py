"""Random numbers: raw words of streams whose keys are meanings, and what is made of them.

numpy keeps raw streams stable between versions, not what it makes of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
# First entry of a stream's key.
BOOTSTRAP, DRAW, SUBSAMPLE, REFILL, PARTITION, STRATUM, IDENTIFIER, WEIGHT = range(8)
FRESH, SMOOTH, HOLDOUT, ATTACK, PROTECT, NULL, NOISE, GUARD = range(8, 16)


def random_words(entropy: int, key: tuple[int, ...], n: int) -> Words:
    """Raw 64-bit words of one stream."""
    return np.random.PCG64DXSM(np.random.SeedSequence(entropy, spawn_key=key)).random_raw(n)


def hashed(numbers: Words, key: Words | np.uint64) -> Words:
    """A random word for each number, a different one for each: the finaliser of SplitMix64.

    Steele, Lea and Flood (2014), Fast splittable pseudorandom number generators.
    """
    z = numbers * np.uint64(0x9E3779B97F4A7C15) + key
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def below(words: Words, n: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """A whole number from 0 to n - 1 for each word; n is at most 2^32."""
    return ((words >> np.uint64(32)) * np.asarray(n).astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def unit(words: Words) -> NDArray[np.float64]:
    """A number from 0 up to 1 for each word."""
    return (words >> np.uint64(11)).astype(np.float64) / 2.0**53
