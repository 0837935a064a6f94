"""Smoothing of, and noise on, the numbers of a column as they are drawn, so that no observed value lives on as it is.

Both are learned from the observed column, and applied row by row: later columns, rules and bounds see the result. The
random state of copies stands in their audit, so random words are first turned into others by a key that is made of the
observed column: who does not know it can tell neither which donor a row had nor what was added to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsynth.calibration import Grid
from fastsynth.normals import normal
from fastsynth.sdc import Smoothing, reflect, smooth_density, smooth_spline, smoothing_of
from fastsynth.streams import Words, hashed, siphash, unit

Floats = NDArray[np.float64]
KINDS = ("density", "spline", "rmean")
# Of a calibrated column that is drawn without predictors.
MARGIN = "margin"
# Neighbours on either side of which a running mean is made, as in synthpop; those of a margin that are no further away
# than so many standard deviations, so that its variance changes by a per cent or so.
SIDE, NEAR = 2, 0.1
# A margin is moved only if its rare values are so many rows, and as many of them are different.
LEAST_ROWS, MOSTLY = 21, 0.5
# What a file keeps.
RECORD, ARRAYS = ("kind", "noise", "mean", "sd", "key"), ("ranks", "numbers", "centres", "reach", "moves")
# Words of smoothing and of noise beside those that chose donors.
SMOOTH_WORDS, NOISE_WORDS = np.uint64(0x6A09E667F3BCC909), np.uint64(0xBB67AE8584CAA73B)


@dataclass(frozen=True, slots=True, eq=False)
class Blur:
    """What is done to drawn numbers.

    Attributes
    ----------
    kind : {"density", "spline", "rmean", "margin"} or None
    noise : float
        Standard deviation of what is added, in units of the column's; 0 for none.
    mean, sd : float
        Of the observed column, with noise.
    smoothing : Smoothing
        Bandwidth and range.
    grid : Grid
        What results are rounded to, and the range they stay in.
    ranks : ndarray of shape (n,), dtype=uint32
        Of the observed values, ascending.
    numbers, centres : ndarray of shape (n,), dtype=float64
        The number of each; what a spline or running mean makes of it.
    reach : ndarray of shape (n,), dtype=float64
        Distance from the nearest other centre: half of it is how far a centre is moved.
    moves : ndarray of shape (n,), dtype=bool
        Whether it is changed.
    key : tuple of two int
    """

    kind: str | None
    noise: float
    mean: float
    sd: float
    smoothing: Smoothing
    grid: Grid
    ranks: NDArray[np.uint32]
    numbers: Floats
    centres: Floats
    reach: Floats
    moves: NDArray[np.bool_]
    key: tuple[int, int]

    @classmethod
    def of(
        cls, kind: str | None, noise: float, numbers: Floats, rows: NDArray[np.int64], grid: Grid, enough: int = 0
    ) -> Blur:
        """Learn from the numbers of all ranks, and how many rows have each; spikes and kinds of missing have none.

        With kind "margin" values that at least ``enough`` rows have stay.
        """
        ranks = np.flatnonzero((rows > 0) & np.isfinite(numbers))
        values, counts = numbers[ranks], rows[ranks]
        smoothing, moves = Smoothing(0.0, float(values[0]), float(values[-1])), np.ones(len(values), bool)
        if kind == MARGIN:
            moves = counts < enough
        elif kind is not None:
            smoothing = replace(smoothing_of(values, counts=counts), decimals=None)
            moves = ~np.isin(values, [x for x in (smoothing.spike, smoothing.top) if x is not None])
        centres, moving = values.copy(), np.flatnonzero(moves)
        if kind not in (None, "density"):
            whole = np.repeat(values[moving], counts[moving])
            # Scaled, because squares of huge numbers overflow.
            largest = np.abs(whole).max(initial=0.0) or 1.0
            reach = NEAR * largest * float(np.std(whole / largest)) if kind == MARGIN else np.inf
            smoothed = smooth_spline(whole, smoothing) if kind == "spline" else _running_means(whole, reach)
            ends = np.cumsum(counts[moving])
            centres[moving] = np.add.reduceat(smoothed, ends - counts[moving]) / counts[moving]
        mean = sd = 0.0
        if noise:
            mean = float(values @ (counts / counts.sum()))
            largest = np.abs(values - mean).max() or 1.0
            sd = float(largest * np.sqrt(np.square((values - mean) / largest) @ counts / counts.sum()))
        key = _key(values, counts)
        places = ranks.astype(np.uint32)
        return cls(kind, noise, mean, sd, smoothing, grid, places, values, centres, _reach(centres), moves, key)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What ``of_state`` makes the same of: a record for JSON, and arrays by name."""
        record = {name: getattr(self, name) for name in RECORD}
        record |= {"smoothing": asdict(self.smoothing), "grid": asdict(self.grid)}
        return record, {name: getattr(self, name) for name in ARRAYS}

    @classmethod
    def of_state(cls, record: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Blur:
        """The one that gave this state."""
        own = {name: record[name] for name in RECORD} | {name: arrays[name] for name in ARRAYS}
        own |= {"smoothing": Smoothing(**record["smoothing"]), "grid": Grid(**record["grid"])}
        return cls(**(own | {"key": tuple(record["key"])}))

    def secret(self, words: Words) -> Words:
        """The words (n_words, n) or (n,) that the column is drawn with, made of those that everybody may know."""
        return siphash(words, *self.key)

    def of_ranks(self, ranks: NDArray[np.unsignedinteger], words: Words) -> Floats:
        """Numbers for drawn ranks (n,) and secret words; NaN where the value of the rank stays."""
        at = np.minimum(np.searchsorted(self.ranks, ranks), len(self.ranks) - 1)
        moves = self.moves[at] & (self.ranks[at] == ranks)
        if self.kind in ("density", None):
            moved = self._added(self.numbers[at], words)
        else:
            moved = self._noisy(self._between(at, words), words)
        return np.where(moves, self.grid.nearest(moved), np.nan)

    def of_numbers(self, numbers: Floats, words: Words) -> Floats:
        """Numbers for drawn ones (n,), which need not be observed values, and secret words."""
        at = np.minimum(np.searchsorted(self.numbers, numbers), len(self.numbers) - 1)
        moves = np.isfinite(numbers) & (self.moves[at] | (self.numbers[at] != numbers))
        if self.kind in ("density", None):
            moved = self._added(numbers, words)
        else:
            moved = self._noisy(np.interp(numbers, self.numbers, self.centres), words)
        return np.where(moves, self.grid.nearest(moved), numbers)

    def _added(self, numbers: Floats, words: Words) -> Floats:
        own = hashed(words, SMOOTH_WORDS)
        smoothed = smooth_density(numbers, self.smoothing, own) if self.kind == "density" else numbers
        return self._noisy(smoothed, words)

    def _noisy(self, numbers: Floats, words: Words) -> Floats:
        if not self.noise:
            return numbers
        added = numbers - self.mean + self.noise * self.sd * normal(hashed(words, NOISE_WORDS))
        return reflect(self.mean + added / np.sqrt(1 + self.noise**2), self.grid.low, self.grid.high)

    def _between(self, at: NDArray[np.int64], words: Words) -> Floats:
        """Centres, moved by up to half the way to the nearest of both neighbours, so that no centre can be told."""
        moved = self.centres[at] + (unit(hashed(words, SMOOTH_WORDS)) - 0.5) * self.reach[at]
        # Turned back at the ends of the range: cut off, it would be the least or greatest value.
        return reflect(moved, self.grid.low, self.grid.high)

    def without_values(self, numbers: Floats) -> Blur:
        """The same for other numbers of the ranks, so that nothing of single values is kept."""
        values = numbers[self.ranks]
        low, high = float(values.min()), float(values.max())
        smoothing = replace(self.smoothing, low=low, high=high)
        grid = replace(self.grid, low=low, high=high)
        # With the key of the copies that are published, their random state would tell what was added to each row.
        key, reach = _key(values, np.ones(len(values))), _reach(values)
        own = replace(self, numbers=values, centres=values, reach=reach, key=key)
        return replace(own, smoothing=smoothing, grid=grid)


def _key(values: Floats, counts: NDArray[np.number]) -> tuple[int, int]:
    digest = hashlib.sha256(values.tobytes() + counts.astype(np.int64).tobytes()).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")


def _reach(centres: Floats) -> Floats:
    """Distance of each centre from the nearest other one; of the outermost from that or the next gap, if it is smaller.

    The next one counts because an outlier has its whole gap to itself, and would be drawn inwards by it.
    """
    distinct, place = np.unique(centres, return_inverse=True)
    gaps = np.diff(distinct)
    if not len(gaps):
        return np.zeros(len(centres))
    second = min(1, len(gaps) - 1)
    reach: Floats = np.minimum(np.append(gaps[second], gaps), np.append(gaps, gaps[-1 - second]))[place]
    return reach


def is_continuous(rows: NDArray[np.int64], enough: int) -> bool:
    """Whether a column's values, given the rows of each, are mostly ones that hardly anybody shares."""
    rare = rows[(rows > 0) & (rows < enough)]
    return bool(rare.sum() >= LEAST_ROWS and len(rare) >= MOSTLY * rare.sum())


def _running_means(ordered: Floats, reach: float) -> Floats:
    """Means of sorted numbers and their neighbours; the mean of all stays.

    Neighbours that are too far away, or beyond the ends, leave their weight to the number itself: so every number has
    the same weight in all means together.
    """
    means = ordered.copy()
    for step in range(1, SIDE + 1):
        apart = ordered[step:] - ordered[:-step]
        moved = np.where(apart <= reach, apart, 0.0) / (2 * SIDE + 1)
        means[:-step] += moved
        means[step:] -= moved
    return means
