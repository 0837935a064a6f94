"""Smoothing of, and noise on, the numbers of a column as they are drawn, so that no observed value lives on as it is.

Both are learned from the observed column, and applied row by row: later columns, rules and bounds see the result.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastsynth.calibration import Grid
from fastsynth.sdc import (
    Smoothing,
    add_noise,
    smooth_density,
    smooth_rmean,
    smooth_spline,
    smoothing_of,
)
from fastsynth.streams import Words, hashed, unit

Floats = NDArray[np.float64]
KINDS = ("density", "spline", "rmean")
# Of a calibrated column that is drawn without predictors: rare values are moved between running means of so many rows.
MARGIN, WINDOW = "margin", 21
# Make other words of those that chose donors.
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
        Bandwidth, range, and values that stay as they are.
    grid : Grid
        What results are rounded to, and the range they stay in.
    numbers, centres : ndarray of shape (n_ranks,), dtype=float64
        The number of each rank, NaN for missing; what a spline or running mean makes of it.
    key : int
        Made of the observed column, so that who knows the random state, which is in the audit, cannot compute what was
        added and take it off again.
    """

    kind: str | None
    noise: float
    mean: float
    sd: float
    smoothing: Smoothing
    grid: Grid
    numbers: Floats
    centres: Floats
    key: int

    @classmethod
    def of(
        cls, kind: str | None, noise: float, numbers: Floats, rows: NDArray[np.int64], grid: Grid, enough: int = 0
    ) -> Blur:
        """Learn from the numbers of all ranks, and how many rows have each; spikes and kinds of missing have none.

        With kind "margin" values that at least ``enough`` rows have stay.
        """
        held = np.flatnonzero((rows > 0) & np.isfinite(numbers))
        values, counts = numbers[held], rows[held]
        if kind == MARGIN or kind is None:
            smoothing = Smoothing(0.0, float(values[0]), float(values[-1]))
        else:
            smoothing = replace(smoothing_of(values, counts=counts), decimals=None)
        centres = numbers.copy()
        if kind == MARGIN:
            smoothed = smooth_rmean(np.repeat(values, counts), smoothing, WINDOW)
            centres[held] = np.add.reduceat(smoothed, np.cumsum(counts) - counts) / counts
            centres[held[counts >= enough]] = numbers[held[counts >= enough]]
        if kind in ("spline", "rmean"):
            whole = np.repeat(values, counts)
            smoothed = smooth_spline(whole, smoothing) if kind == "spline" else smooth_rmean(whole, smoothing)
            centres[held] = np.add.reduceat(smoothed, np.cumsum(counts) - counts) / counts
        mean = sd = 0.0
        if noise:
            mean = float(values @ counts / counts.sum())
            sd = float(np.sqrt(np.square(values - mean) @ counts / counts.sum()))
        digest = hashlib.sha256(values.tobytes() + counts.astype(np.int64).tobytes()).digest()
        key = int.from_bytes(digest[:8], "little")
        return cls(kind, noise, mean, sd, smoothing, grid, numbers, centres, key)

    def of_ranks(self, ranks: NDArray[np.unsignedinteger], words: Words) -> Floats:
        """Numbers for drawn ranks (n,); NaN where the value of the rank stays."""
        numbers = self.numbers[ranks]
        if self.kind == MARGIN:
            return self._between(ranks, words)
        stays = ~np.isfinite(numbers) | np.isin(numbers, self._fixed)
        return np.where(stays, np.nan, self.of_numbers(numbers, words))

    def of_numbers(self, numbers: Floats, words: Words) -> Floats:
        """Numbers for drawn ones (n,); those that stay come back."""
        changed = numbers
        if self.kind == "density":
            changed = smooth_density(changed, self.smoothing, hashed(words, SMOOTH_WORDS ^ np.uint64(self.key)))
        elif self.kind is not None:
            known = np.isfinite(self.numbers)
            changed = np.interp(changed, self.numbers[known], self.centres[known])
        if self.noise:
            changed = add_noise(
                changed, self.noise, self.sd, self.mean, hashed(words, NOISE_WORDS ^ np.uint64(self.key))
            )
        present = np.isfinite(changed) & ~np.isin(numbers, self._fixed)
        result: Floats = np.where(present, self.grid.nearest(np.where(present, changed, self.grid.low)), numbers)
        return result

    def without_values(self, numbers: Floats, low: float, high: float) -> Blur:
        """The same for other numbers of the ranks, so that nothing of single values is kept."""
        centres = self.centres if self.kind in ("spline", "rmean") else numbers
        smoothing = replace(self.smoothing, low=low, high=high)
        grid = replace(self.grid, low=low, high=high)
        return replace(self, numbers=numbers, centres=centres, smoothing=smoothing, grid=grid)

    def _between(self, ranks: NDArray[np.unsignedinteger], words: Words) -> Floats:
        """Numbers up to half the way to the next centre on either side; NaN for a value that stays.

        So they follow the quantile function that the means of neighbours make, and no mean can be told from it.
        """
        known = np.flatnonzero(np.isfinite(self.numbers))
        place = np.searchsorted(known, ranks)
        u = unit(hashed(words, SMOOTH_WORDS ^ np.uint64(self.key))) - 0.5
        centre = self.centres[known]
        own = np.clip(place, 0, len(known) - 1)
        near = np.clip(own + np.where(u < 0, -1, 1), 0, len(known) - 1)
        stays = ~np.isfinite(self.numbers[ranks]) | (self.centres[ranks] == self.numbers[ranks])
        moved = centre[own] + np.abs(u) * (centre[near] - centre[own])
        return np.where(stays, np.nan, self.grid.nearest(moved))

    @property
    def _fixed(self) -> list[float]:
        return [value for value in (self.smoothing.spike, self.smoothing.top) if value is not None]
