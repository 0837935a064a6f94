"""Partial synthesis: could somebody who knows the keys of a real record find the same record in a copy?

Rows of a partially synthetic copy are the rows of the original with some values replaced, so row j of the copy is
record j. Somebody who knows the keys of record j looks for the rows of the copy that agree with them.

Terms
-----
c_j
    Rows of the copy that agree with the keys of record j.
I_j
    Whether row j is among them.
expected match risk
    Mean of I_j / c_j: the share of records found by choosing one of the rows that agree.
true match rate
    Share of the records with c_j = 1 and I_j = 1.
false match rate
    Share of the records with c_j = 1 for which the row that agrees is another one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fastsynth.source import spread_rows
from fastsynth.tally import Cells, Counts, Mask, add_cells, number, pack, row_hashes

# Records looked for where two keys and more have windows: boxes around so many points are counted one by one.
MOST_BOXES = 100_000
# Windows hold their ends in spite of rounding.
SLACK = 1e-9


@dataclass(frozen=True, slots=True)
class MatchRisk:
    """Risk of matches in one copy.

    Attributes
    ----------
    expected_matches : float
        Sum of I_j / c_j, scaled up to all records where not all were looked for.
    expected_match_risk, true_match_rate : float
        Percent of the records.
    false_match_rate : float or None
        Percent of the records with c_j = 1; None without such.
    n_targets : int
        Records looked for.
    """

    expected_matches: float
    expected_match_risk: float
    true_match_rate: float
    false_match_rate: float | None
    n_targets: int


def match_risk(original: pl.DataFrame, copy: pl.DataFrame, windows: Mapping[str, float] | None = None) -> MatchRisk:
    """Expected match risk, true and false match rate (Reiter and Mitra 2009).

    Parameters
    ----------
    original, copy : polars.DataFrame of the same height
        The keys; row j of the copy is record j.
    windows : dict of str to float, optional
        Numeric keys that agree within this share of the real value, above 0 and below 1; all others agree if equal.

    Notes
    -----
    O(n) without windows, O(n log n) with one. With two and more, boxes around at most 100,000 records spread over the
    table are counted by a tree: O(n log n) plus a sixteenth of the rows that agree.

    References
    ----------
    Reiter and Mitra (2009), Estimating risks of identification disclosure in partially synthetic data, J. Privacy and
    Confidentiality 1(1):99. doi:10.29012/jpc.v1i1.567.

    Examples
    --------
    >>> real = pl.DataFrame({"town": ["a", "a", "b", "b"], "age": [30, 30, 40, 50]})
    >>> copy = pl.DataFrame({"town": ["a", "a", "b", "b"], "age": [30, 31, 50, 50]})
    >>> match_risk(real, copy)
    MatchRisk(expected_matches=1.5, expected_match_risk=37.5, true_match_rate=25.0, false_match_rate=50.0, n_targets=4)
    """
    windows = windows or {}
    n = original.height
    exact = [_without(frame, windows) for frame in (original, copy)]
    q, _ = number(pl.concat([row_hashes(frame) for frame in exact]))
    own, other = q[:n].astype(np.int64), q[n:].astype(np.int64)
    at = np.arange(n)
    if not windows:
        c, found = np.bincount(other, minlength=int(q.max()) + 1)[own], own == other
    else:
        x, y = (np.column_stack([_log_size(frame[name]) for name in windows]) for frame in (original, copy))
        low, high = (np.log1p([sign * windows[name] for name in windows]) + sign * SLACK for sign in (-1, 1))
        found = (own == other) & ((y >= x + low) & (y <= x + high)).all(axis=1)
        if len(windows) == 1:
            c = _count_in_windows(own, other, x[:, 0], y[:, 0], float(low[0]), float(high[0]))
        else:
            at = spread_rows(n, MOST_BOXES)
            c = _count_in_boxes(own[at], other, x[at], y, low, high)
    return _risk(c, found[at], n)


def _risk(c: Counts, found: Mask, n: int) -> MatchRisk:
    alone = c == 1
    share = float(np.divide(found, c, out=np.zeros(len(c)), where=found).mean())
    wrong = float((alone & ~found).sum() / alone.sum() * 100) if alone.any() else None
    return MatchRisk(share * n, 100 * share, float((alone & found).mean() * 100), wrong, len(c))


def _without(frame: pl.DataFrame, windows: Mapping[str, float]) -> pl.DataFrame:
    """What has to be equal: keys without a window, and the sign of the others, which null, NaN and 0 have, too."""
    # Null and NaN have no sign and stay as they are: values of their own.
    return frame.with_columns(pl.col(name).cast(pl.Float64).sign() for name in windows)


def _log_size(values: pl.Series) -> NDArray[np.float64]:
    """Logarithm of the size, in which a window is as wide everywhere; 0 where there is none."""
    size = values.cast(pl.Float64).abs().fill_nan(None).fill_null(0.0).to_numpy()
    return np.asarray(np.log(size, out=np.zeros(len(size)), where=size > 0))


def _count_in_windows(
    own: Counts, other: Counts, x: NDArray[np.float64], y: NDArray[np.float64], low: float, high: float
) -> Counts:
    """For each record, rows with its other keys whose y is from x + low to x + high."""
    values, rank = np.unique(y, return_inverse=True)
    cells = add_cells([Cells(pack(other, rank), np.ones(len(y), dtype=np.int64))])
    return cells.within(own, np.searchsorted(values, x + low), np.searchsorted(values, x + high, side="right"))


def _count_in_boxes(
    own: Counts,
    other: Counts,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> Counts:
    """The same for several keys with windows: boxes of half a side of 1, other keys in layers that are 4 apart."""
    from scipy.spatial import cKDTree

    half = (high - low) / 2
    points = np.column_stack([4.0 * other, y / half])
    centres = np.column_stack([4.0 * own, (x + (low + high) / 2) / half])
    counts = cKDTree(points).query_ball_point(centres, 1.0, p=math.inf, return_length=True)
    return np.asarray(counts, dtype=np.int64)
