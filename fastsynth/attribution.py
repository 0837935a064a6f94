"""Identity and attribute measures of one copy, made of counts by key combination and target level.

This file knows counts (``fastsynth.tally``) and what was asked, and no tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from fastsynth.tally import Cells, Classes, Counts, Mask, Tally, View, add_cells, number, pack, padded

IDENTITY = ("UiO", "UiS", "UiOiS", "repU")
COUNTED = ("Dorig", "Dsyn", "iS", "DiS", "DiSCO", "DiSDiO")
DENOMINATORS = ("max_denom", "mean_denom")
CAPS = ("baseCAPd", "CAPd", "CAPs", "DCAP", "TCAP", "TCAP_synthpop")
ATTRIBUTE = (*COUNTED, *DENOMINATORS, *CAPS)
CHECKS = {
    "target": pl.String,
    "copy": pl.Int64,
    "check": pl.String,
    "level": pl.String,
    "key": pl.String,
    "key_level": pl.String,
    "n": pl.Int64,
    "percent": pl.Float64,
}


@dataclass(frozen=True, slots=True)
class Options:
    """What ``disclosure`` was asked, checked.

    Attributes
    ----------
    keys, targets : tuple of str
    exclude_over : int or None
        Cells with more rows are taken out of the original and of the copy before anything is counted.
    not_null : tuple of str
        Keys whose nulls tell nothing.
    target_nulls : bool
        Whether nulls of a target are levels that can be disclosed.
    known_levels : dict of str to polars.Series
    known_pairs : tuple of (target, level, key, key level), levels as polars.Series of one
    thresh_1way, thresh_2way : tuple of float
        Rows and percent.
    tolerance : dict of str to float
    windows : dict of str to float
    classes : dict of str to Classes
    """

    keys: tuple[str, ...]
    targets: tuple[str, ...]
    exclude_over: int | None
    not_null: tuple[str, ...]
    target_nulls: bool
    known_levels: dict[str, pl.Series]
    known_pairs: tuple[tuple[str, pl.Series, str, pl.Series], ...]
    thresh_1way: tuple[float, float]
    thresh_2way: tuple[float, float]
    tolerance: dict[str, float]
    windows: dict[str, float]
    classes: dict[str, Classes] = field(default_factory=dict)

    def view(self, targets: Sequence[str], with_rows: bool) -> View:
        """What is to be counted for some targets."""
        used = {name: of for name, of in self.classes.items() if name in (*self.keys, *targets)}
        return View(self.keys, tuple(targets), used, self.not_null, with_rows)


def identity_measures(d: Counts, s: Counts, used: Mask | None = None) -> dict[str, float]:
    """UiO, UiS, UiOiS and repU, in percent.

    Parameters
    ----------
    d, s : ndarray of shape (n_combinations,), dtype=int64
        Rows of the original and of a copy with each combination of keys.
    used : ndarray of shape (n_combinations,), dtype=bool, optional
        Combinations that count; the percentages are of all rows in any case.

    Examples
    --------
    >>> identity_measures(np.array([1, 1, 2, 0]), np.array([1, 3, 0, 1]))
    {'UiO': 50.0, 'UiS': 40.0, 'UiOiS': 50.0, 'repU': 25.0}
    """
    used = np.ones(len(d), dtype=np.bool_) if used is None else used
    alone = (d == 1) & used
    counts = (
        (alone, d),
        ((s == 1) & used, s),
        (alone & (s > 0), d),
        (alone & (s == 1), d),
    )
    return {name: 100 * int(mask.sum()) / int(of.sum()) for name, (mask, of) in zip(IDENTITY, counts, strict=True)}


@dataclass(frozen=True, slots=True, eq=False)
class Facing:
    """The cells of one target in the original and in a copy, numbered alike.

    Attributes
    ----------
    real, copy : Cells
    d, s : ndarray of shape (n_combinations,), dtype=int64
        Rows by combination, without those of cells that were taken out.
    n_d, n_s : int
        All rows.
    real_used, copy_used : ndarray of shape (n_cells,), dtype=bool
        Cells that tell something.
    levels : polars.Series
        Of the target, by number.
    """

    real: Cells
    copy: Cells
    d: Counts
    s: Counts
    n_d: int
    n_s: int
    real_used: Mask
    copy_used: Mask
    levels: pl.Series

    @property
    def told(self) -> Counts:
        """The level that the copy tells of each combination, -1 where there are several, none, or one that is known."""
        level = self.copy.single(len(self.s))
        level[self.copy.q[~self.copy_used]] = -1
        return level

    @property
    def correct(self) -> Mask:
        """Cells of the original that the copy discloses: DiSCO."""
        return np.asarray(self.real_used & (self.told[self.real.q] == self.real.t))


def face(real: Tally, copy: Tally, target: str, options: Options) -> Facing:
    """The cells of a target in the original and in a copy, and which of them tell something."""
    levels, d = copy.levels[target], padded(real.n, len(copy.n))
    n_d, n_s = int(d.sum()), int(copy.n.sum())
    own, other, s = real.cells[target], copy.cells[target], copy.n
    if options.exclude_over is not None:
        (own, d), (other, s) = (_without_large(cells, options.exclude_over, len(s)) for cells in (own, other))
    is_told = np.ones(len(levels), dtype=np.bool_)
    if not options.target_nulls:
        is_told &= levels.is_not_null().to_numpy()
    if target in options.known_levels:
        is_told &= ~_are(levels, options.known_levels[target])
    used = [is_told[cells.t] & copy.no_null[cells.q] for cells in (own, other)]
    assert real.values is not None
    for name, level, key, key_level in options.known_pairs:
        if name == target:
            # A combination that only the copy has plays no part in what it tells about the original.
            has_key = padded(_are(real.values[key], key_level), len(copy.n))
            has_level = _are(levels, level)
            for mask, cells in zip(used, (own, other), strict=True):
                mask &= ~(has_level[cells.t] & has_key[cells.q])
    return Facing(own, other, d, s, n_d, n_s, used[0], used[1], levels)


def _without_large(cells: Cells, most: int, n_combinations: int) -> tuple[Cells, Counts]:
    """Cells of at most so many rows, and the rows of these by combination."""
    small = cells.n <= most
    kept = Cells(cells.packed[small], cells.n[small])
    return kept, np.bincount(kept.q, weights=kept.n, minlength=n_combinations).astype(np.int64)


def _are(values: pl.Series, wanted: pl.Series) -> Mask:
    """Which values are among some; null equals null."""
    if values.dtype in (pl.Categorical, pl.Enum):
        values = values.cast(pl.String)
    return np.asarray(values.is_in(wanted.implode(), nulls_equal=True).to_numpy(), dtype=np.bool_)


def attribute_measures(of: Facing, tolerance: float | None) -> dict[str, float | None]:
    """The measures of one target in one copy, in percent."""
    q, n = of.real.q, of.real.n
    used = of.real_used
    one_real = of.real.single(len(of.d))[q] >= 0
    correct = of.correct
    single_copy = of.copy.single(len(of.s))[of.copy.q] >= 0
    rows = {
        "Dorig": n[used & one_real].sum(),
        "Dsyn": of.copy.n[of.copy_used & single_copy].sum(),
        "iS": n[used & (of.s[q] > 0)].sum(),
        "DiS": n[used & (of.told[q] >= 0)].sum(),
        "DiSCO": n[correct].sum(),
        "DiSDiO": n[correct & one_real].sum(),
    }
    found: dict[str, float | None] = {
        name: 100 * int(count) / (of.n_s if name == "Dsyn" else of.n_d) for name, count in rows.items()
    }
    told = n[correct]
    found["max_denom"] = float(told.max()) if len(told) else 0.0
    found["mean_denom"] = float(told.mean()) if len(told) else None
    found |= _cap(of, tolerance)
    found["TCAP"] = 100 * int(rows["DiSCO"]) / int(rows["DiS"]) if rows["DiS"] else None
    found["TCAP_synthpop"] = 100 * int(rows["DiSCO"]) / int(rows["iS"]) if rows["iS"] else None
    return found


def _cap(of: Facing, tolerance: float | None) -> dict[str, float]:
    """Chance that a guess of the target is right: from the margin, from the original, within and from the copy."""
    q, t, s_q, s_t = of.real.q, of.real.t, of.copy.q, of.copy.t
    n_d, n_s, no_keys = of.n_d, of.n_s, np.zeros_like(q)
    # Rows on which each guess is right: in the margin, the original, the copy, and of the original in the copy.
    if tolerance is None:
        margin = np.bincount(t, weights=of.real.n, minlength=len(of.levels))[t]
        real, copy, across = of.real.n, of.copy.n, of.copy.within(q, t, t + 1)
    else:
        rank, low, high = _windows(of.levels, tolerance)
        own, other, whole = (_ranked(c, rank) for c in (of.real, of.copy, Cells(pack(no_keys, t), of.real.n)))
        margin, real = (cells.within(key, low[t], high[t]) for cells, key in ((whole, no_keys), (own, q)))
        copy, across = other.within(s_q, low[s_t], high[s_t]), other.within(q, low[t], high[t])
    rows, s_rows = of.real.n * of.real_used, of.copy.n * of.copy_used
    found = np.divide(across, of.s[q], out=np.zeros(len(q)), where=of.s[q] > 0)
    # Sums of numpy are added up in the same order by any number of threads; products of matrices need not be.
    return {
        "baseCAPd": 100 * float((rows * (margin / n_d)).sum()) / n_d,
        "CAPd": 100 * float((rows * (real / of.d[q])).sum()) / n_d,
        "CAPs": 100 * float((s_rows * (copy / of.s[s_q])).sum()) / n_s,
        "DCAP": 100 * float((rows * found).sum()) / n_d,
    }


def _ranked(cells: Cells, rank: Counts) -> Cells:
    """The same cells with other numbers of the levels."""
    return add_cells([Cells(pack(cells.q, rank[cells.t]), cells.n)])


def _windows(levels: pl.Series, tolerance: float) -> tuple[Counts, Counts, Counts]:
    """Rank of each level by its value, and the ranks from which and to which others are within the tolerance."""
    values = levels.cast(pl.Float64).to_numpy()
    is_null, is_nan = levels.is_null().to_numpy(), np.isnan(values)
    known = np.unique(values[~is_nan])
    slack = tolerance * (1 + 1e-9)
    rank = np.searchsorted(known, values)
    low, high = np.searchsorted(known, values - slack), np.searchsorted(known, values + slack, side="right")
    for place, mask in ((len(known), is_nan & ~is_null), (len(known) + 1, is_null)):
        rank[mask], low[mask], high[mask] = place, place, place + 1
    return rank, low, high


# Checks: levels that say more about the world than about a person


def name_checks(of: Facing, real: Tally, target: str, copy: int, options: Options) -> list[dict[str, Any]]:
    """Levels and pairs that stand for most of DiSCO, as rows of the table of checks."""
    cells, correct = of.real, of.correct
    n_disclosed = np.bincount(cells.t[correct], weights=cells.n[correct], minlength=len(of.levels)).astype(np.int64)
    found = []
    top, total = int(n_disclosed.argmax()), int(n_disclosed.sum())
    if n_disclosed[top] > options.thresh_1way[0] and 100 * n_disclosed[top] > options.thresh_1way[1] * total:
        found.append(_check(target, copy, "1way", of.levels, top, None, n_disclosed[top], n_disclosed[top] / total))
    large = correct & (cells.n > options.thresh_2way[0])
    if not large.any():
        return found
    assert real.values is not None
    for key in options.keys:
        number_of, first = number(real.values.select(key))
        n_level = np.bincount(number_of, weights=real.n, minlength=len(first))
        pairs, at = np.unique(pack(number_of[cells.q[large]], cells.t[large]), return_inverse=True)
        n_told = np.bincount(at, weights=cells.n[large]).astype(np.int64)
        # Of all rows with the key's level, whether their cells were taken out or not.
        whole = real.cells[target]
        words = pack(number_of[whole.q], whole.t)
        place = np.minimum(np.searchsorted(pairs, words), len(pairs) - 1)
        here = pairs[place] == words
        n_both = np.bincount(place[here], weights=whole.n[here], minlength=len(pairs))
        as_cells = Cells(pairs, n_told)
        share = n_both / n_level[as_cells.q]
        for i in np.flatnonzero(100 * share > options.thresh_2way[1]):
            at_key = (key, real.values[key][int(first[as_cells.q[i]])])
            found.append(_check(target, copy, "2way", of.levels, int(as_cells.t[i]), at_key, n_told[i], share[i]))
    return found


def _check(
    target: str, copy: int, kind: str, levels: pl.Series, t: int, key: tuple[str, Any] | None, n: Any, share: Any
) -> dict[str, Any]:
    name, level = (None, None) if key is None else (key[0], _text(key[1]))
    row = (target, copy, kind, _text(levels[t]), name, level, int(n), 100 * float(share))
    return dict(zip(CHECKS, row, strict=True))


def _text(value: Any) -> str:
    return "null" if value is None else str(value)
