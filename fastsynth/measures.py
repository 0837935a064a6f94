"""Measures of how far synthetic counts are from the original ones: arrays in, arrays out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr

Floats = NDArray[np.float64]
# In the order of the tables of results.
MEASURES = (
    *("pMSE", "S_pMSE", "df", "VW", "FT", "S_FT", "G", "S_G", "dfG", "JSD", "S_JSD"),
    *("SPECKS", "PO50", "U", "MabsDD", "WMabsDD", "S_WMabsDD", "dBhatt"),
)


def measure(original: Floats, synthetic: Floats, first: NDArray[np.int64], fixed: Floats | None = None) -> list[Floats]:
    """Measures of tables of counts that stand one behind the other.

    Parameters
    ----------
    original, synthetic : ndarray of shape (n_cells,)
        Counts o and s of the cells of all tables; no table without rows.
    first : ndarray of shape (n_tables,), dtype=int64
        Where each table begins.
    fixed : ndarray of shape (n_tables,), optional
        Sums that the synthesis keeps as they are, which take degrees of freedom: 1, the number of rows, and in partial
        synthesis the cells of the margin of the columns that it kept.

    Returns
    -------
    list of ndarray of shape (n_tables,)
        Those of ``MEASURES``, in their order. NaN where there is nothing to divide by (a table of one cell).

    Notes
    -----
    With n rows of the original, k of the copy, N = n + k and c = k / N, over the cells with o + s > 0, of which there
    are df + 1 (docs/utility.md has all of them)::

        VW = sum (s - o k/n)^2 / (c (o + s))          pMSE = VW c (1 - c)^2 / N          S_pMSE = VW / df

    O(n_cells log n_cells).

    References
    ----------
    Raab, Nowok and Dibben (2021), Assessing, visualizing and improving the utility of synthetic data, arXiv 2109.12717.
    Voas and Williamson (2001), Geographical and Environmental Modelling 5:177.
    Snoke, Raab, Nowok, Dibben and Slavkovic (2018), J. R. Statist. Soc. A 181:663.

    Examples
    --------
    >>> o, s = np.array([30.0, 20, 10, 15, 15, 10]), np.array([27.0, 24, 9, 12, 19, 9])
    >>> values = dict(zip(MEASURES, measure(o, s, np.array([0]))))
    >>> round(float(values["S_pMSE"][0]), 4), float(values["U"][0])
    (0.5723, 5447.5)
    """
    o, s, table, start = _used(original, synthetic, first)

    def total(x: Floats) -> Floats:
        sums: Floats = np.add.reduceat(x, start)
        return sums

    n, k = total(o), total(s)
    ratio, c, size = k / n, k / (n + k), n + k
    df = total(np.ones(len(o))) - (1.0 if fixed is None else fixed)
    gap, variance = s - o * ratio[table], (o + s) * c[table]
    p, q = o / n[table], s / k[table]
    vw = total(gap * gap / variance)
    ft = 4 * total((np.sqrt(s) - np.sqrt(o * ratio[table])) ** 2)
    g, df_g = _likelihood_ratio(o, s, table, start, df)
    jsd = total(rel_entr(p, (p + q) / 2) + rel_entr(q, (p + q) / 2)) / (2 * np.log(2))
    specks, u = _ranked(o, s, n, k, table, start)
    weighted = total(np.abs(gap) / np.sqrt(variance)) / np.sqrt(2 / np.pi)
    # A cell says synthetic where that is the more frequent one: with products, so that ties of counts are ties.
    right = total(np.where(s * n[table] > o * k[table], s, o))
    pmse = vw * c * (1 - c) ** 2 / size
    with np.errstate(divide="ignore", invalid="ignore"):
        per = np.where(df > 0, 1 / df, np.nan)
        return [
            *(pmse, vw * per, df, vw, ft, ft * per, g, np.where(df_g > 0, g / df_g, np.nan), df_g),
            *(jsd, 8 * np.log(2) * k * jsd * per, specks, 100 * right / size - 50, u),
            *(total(np.abs(p - q)), weighted, weighted * per, np.sqrt(np.maximum(1 - total(np.sqrt(p * q)), 0))),
        ]


def z_scores(original: Floats, synthetic: Floats) -> Floats:
    """How far each cell of a table is from what the original would give, in standard deviations; 0 where both are 0.

    Parameters
    ----------
    original, synthetic : ndarray of shape (n_cells,)
    """
    n, k = original.sum(), synthetic.sum()
    both = original + synthetic
    gap = synthetic - original * (k / n)
    scores: Floats = np.divide(gap, np.sqrt(k / (n + k) * both), out=np.zeros(len(both)), where=both > 0)
    return scores


def classified(scores: Floats, synthetic: NDArray[np.bool_]) -> tuple[float, float, float, float]:
    """PMSE, SPECKS, PO50 and U of the scores that a model gives to rows, higher ones to synthetic rows.

    Parameters
    ----------
    scores : ndarray of shape (n_rows,), dtype=float64
        Estimated probability that a row is synthetic, 0 to 1.
    synthetic : ndarray of shape (n_rows,), dtype=bool
        Which rows are.
    """
    # Equal rows may have scores that differ in their last bits.
    distinct, cell = np.unique(scores.round(12), return_inverse=True)
    s = np.bincount(cell, weights=synthetic, minlength=len(distinct)).astype(np.float64)
    o = np.bincount(cell, weights=~synthetic, minlength=len(distinct)).astype(np.float64)
    n, k, c = o.sum(), s.sum(), synthetic.mean()
    specks, u = _ranked(o, s, np.array([n]), np.array([k]), np.zeros(len(o), np.int64), np.zeros(1, np.int64), distinct)
    right = np.where(distinct > c, s, o).sum()
    pmse = float(((distinct - c) ** 2 * (o + s)).sum() / (n + k))
    return pmse, float(specks[0]), float(100 * right / (n + k) - 50), float(u[0])


def _used(
    original: Floats, synthetic: Floats, first: NDArray[np.int64]
) -> tuple[Floats, Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Cells that are not empty, the table of each, and where each table begins among them."""
    used = original + synthetic > 0
    table = np.repeat(np.arange(len(first)), np.diff(first, append=len(original)))[used]
    return original[used], synthetic[used], table, np.searchsorted(table, np.arange(len(first)))


def _likelihood_ratio(
    o: Floats, s: Floats, table: NDArray[np.int64], start: NDArray[np.int64], df: Floats
) -> tuple[Floats, Floats]:
    """G over the cells that neither side lacks, and its degrees of freedom."""
    both = (o > 0) & (s > 0)
    o_sum, s_sum = (np.add.reduceat(np.where(both, x, 0.0), start)[table] for x in (o, s))
    share, other = (np.divide(x, total, out=np.zeros(len(x)), where=both) for x, total in ((s, s_sum), (o, o_sum)))
    lacking = np.add.reduceat(~both, start, dtype=np.float64)
    return 2 * np.add.reduceat(rel_entr(share, other) * s_sum, start), np.maximum(df - lacking, 0.0)


def _ranked(
    o: Floats,
    s: Floats,
    n: Floats,
    k: Floats,
    table: NDArray[np.int64],
    start: NDArray[np.int64],
    score: Floats | None = None,
) -> tuple[Floats, Floats]:
    """SPECKS and U: how far the scores of synthetic rows lie above those of original ones."""
    score = s / (o + s) if score is None else score
    order = np.lexsort((score, table))
    o, s, score = o[order], s[order], score[order]
    # Cells of one score are one step. Counts add up without rounding, so a difference of two sums is exact.
    new = np.ones(len(o), bool)
    new[1:] = (score[1:] != score[:-1]) | (table[1:] != table[:-1])
    step = np.flatnonzero(new)
    o, s, table = np.add.reduceat(o, step), np.add.reduceat(s, step), table[step]
    start = np.searchsorted(table, np.arange(len(start)))
    o_until, s_until = (x.cumsum() - (x.cumsum() - x)[start][table] for x in (o, s))
    distance = np.abs(o_until / n[table] - s_until / k[table])
    return np.maximum.reduceat(distance, start), np.add.reduceat(s * (o_until - o / 2), start)
