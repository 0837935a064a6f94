"""Rows of a copy that equal a real row, without looking at pairs of rows.

A row is told by a hash of the ranks of its values; hashes of the rows that occur once in the original are kept, sorted.
Two of N different rows share 64 bits with probability N^2 / 2^65: 1 in 3,700 for 10^8 rows. What follows then is that a
row is redrawn that need not be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fastsynth.columns import Ranks, Variable
from fastsynth.streams import Words, hashed, random_words

POLICIES = ("keep", "fresh", "none")
# What hashes of values begin with: a part of saved models.
SEED = 20161


@dataclass(frozen=True, slots=True, eq=False)
class Exact:
    """What drawing needs to know of the original's rows.

    Attributes
    ----------
    policy : {"fresh", "none"}
    hashes : ndarray of shape (n_unique,), dtype=uint64
        Of the rows that occur once, ascending.
    expected : float
        Share of rows of a fresh sample that would equal a row that occurs once in this one.
    slot : int
        The column that is redrawn.
    found : float or None
        Share of drawn rows that equal one that occurs once, before any is redrawn; None before it is known.
    """

    policy: str
    hashes: Words
    expected: float
    slot: int
    found: float | None = None

    @property
    def keep(self) -> float:
        """Share of the rows found that stay as they are."""
        return 0.0 if self.policy == "none" else min(self.expected / self.found, 1.0) if self.found else 1.0

    @classmethod
    def of(cls, policy: str, hashes: Words, slot: int) -> Exact:
        """From the hashes of all rows.

        Good (1953), The population frequencies of species and the estimation of population parameters, Biometrika
        40:237: leave a row out, and the rest has its values exactly once if they occur twice in all.
        """
        distinct, times = np.unique(hashes, return_counts=True)
        return cls(policy, distinct[times == 1], 2 * int((times == 2).sum()) / len(hashes), slot)

    def find(self, variables: Sequence[Variable], arrays: Sequence[pa.Array]) -> NDArray[np.int64]:
        """Places of the rows that equal one that occurs once. O(rows (columns + log n))."""
        known = np.ones(len(arrays[0]), bool)
        hashes = np.zeros(len(arrays[0]), np.uint64)
        for slot, array in enumerate(arrays):
            of_column, unknown = value_hashes(variables[slot], slot, array)
            known &= ~unknown
            hashes ^= of_column
        return np.flatnonzero(known & self.holds(hashes))

    def holds(self, hashes: Words) -> NDArray[np.bool_]:
        """Whether these are hashes of rows that occur once."""
        if not len(self.hashes):
            return np.zeros(len(hashes), bool)
        at = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        found: NDArray[np.bool_] = self.hashes[at] == hashes
        return found

    def with_found(self, share: float) -> Exact:
        """The same with the share that was found in a draw."""
        return replace(self, found=share)


def row_hashes(variables: Sequence[Variable], ranks: Sequence[Ranks]) -> Words:
    """A hash of each row: those of its values, exclusive or. Columns of which no value is known do not count."""
    rows = np.zeros(len(ranks[0]), np.uint64)
    for slot, (variable, of_column) in enumerate(zip(variables, ranks, strict=True)):
        rows ^= _hashes(variable, slot, of_column)
    return rows


def value_hashes(variable: Variable, slot: int, array: pa.Array) -> tuple[Words, NDArray[np.bool_]]:
    """What values of a column add to the hashes of their rows, and which values the original does not have."""
    ranks, unknown = variable.match(array)
    return _hashes(variable, slot, ranks), unknown


def _hashes(variable: Variable, slot: int, ranks: Ranks) -> Words:
    if not variable.n_used:
        return np.zeros(len(ranks), np.uint64)
    # Columns that hold the same ranks must not cancel each other out.
    return hashed(ranks.astype(np.uint64), random_words(SEED, (slot,), 1))
