"""Random numbers: raw words of streams whose keys are meanings, and what is made of them.

numpy keeps raw streams stable between versions, not what it makes of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
# First entry of a stream's key.
BOOTSTRAP, DRAW, SUBSAMPLE, REFILL, PARTITION, STRATUM, IDENTIFIER, WEIGHT = range(8)
FRESH, HOLDOUT, ATTACK, PROTECT, NULL, GUARD, CHAIN, CLUSTER, IMPUTE, AMPUTE = 8, 10, 11, 12, 13, 15, 16, 17, 18, 19


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


def siphash(words: Words, k0: int, k1: int) -> Words:
    """Words that nobody can tell from random ones without the key: SipHash-2-4 of each word.

    Aumasson and Bernstein (2012), SipHash: a fast short-input PRF.
    """
    keys = (k0, k1, k0, k1)
    start = (0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573)
    v = [np.full(words.shape, x ^ key, np.uint64) for x, key in zip(start, keys, strict=True)]
    for block in (words, np.full(words.shape, 8 << 56, np.uint64)):
        v[3] = v[3] ^ block
        v = _sip_rounds(v, 2)
        v[0] = v[0] ^ block
    v[2] = v[2] ^ np.uint64(0xFF)
    v = _sip_rounds(v, 4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def _sip_rounds(v: list[Words], n: int) -> list[Words]:
    a, b, c, d = v
    for _ in range(n):
        a, c = a + b, c + d
        b, d = _rotated(b, 13) ^ a, _rotated(d, 16) ^ c
        a, c = _rotated(a, 32) + d, c + b
        d, b = _rotated(d, 21) ^ a, _rotated(b, 17) ^ c
        c = _rotated(c, 32)
    return [a, b, c, d]


def _rotated(x: Words, bits: int) -> Words:
    return (x << np.uint64(bits)) | (x >> np.uint64(64 - bits))


def below(words: Words, n: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """A whole number from 0 to n - 1 for each word; n is at most 2^32."""
    return ((words >> np.uint64(32)) * np.asarray(n).astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def unit(words: Words) -> NDArray[np.float64]:
    """A number from 0 up to 1 for each word."""
    return (words >> np.uint64(11)).astype(np.float64) / 2.0**53
