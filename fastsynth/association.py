"""Which earlier columns a wide table predicts each column from: those that go with it most.

The idea is that of mice's ``quickpred``; the measure sees categories, missing values and relations that are not
monotone. Every column is cut into a few groups of values, and the association of two columns is Pearson's phi^2 of the
table of their groups, less what independent columns would have on average.

Rows are counted by products of matrices of 0 and 1. They are whole numbers that float32 holds exactly, in whatever
order a library adds them, so the choice is the same on every machine and for any number of threads.

This module knows codes, and nothing of options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from fastsynth.columns import Codes

# Groups of a column: many show more of a relation, few are faster and less noisy.
MOST_GROUPS, FEWEST_GROUPS, ALL_GROUPS = 8, 4, 8_000
# A group of fewer rows would give large associations by chance.
GROUP_ROWS = 10
# Rows looked at: fewer than the most where counting would take more than so many multiplications.
MOST_ROWS, FEWEST_ROWS = 20_000, 1_500
MULTIPLICATIONS = 2.5e11
# Groups of one side of a matrix product. Never part of the result.
BLOCK_GROUPS = 1024


def n_groups(n_columns: int) -> int:
    """Most groups of one column in a table of so many columns."""
    return min(MOST_GROUPS, max(FEWEST_GROUPS, ALL_GROUPS // n_columns))


def n_rows(n_columns: int) -> int:
    """Rows that are enough for a table of so many columns."""
    pairs = (n_columns * n_groups(n_columns)) ** 2 / 2
    return int(min(MOST_ROWS, max(FEWEST_ROWS, MULTIPLICATIONS / pairs)))


def strongest(
    codes: Codes,
    order: Sequence[int],
    targets: Sequence[int],
    q: int,
    block_groups: int = BLOCK_GROUPS,
    earlier: bool = True,
) -> Mapping[int, tuple[int, ...]]:
    """The q columns before each target, or of all others, that are most associated with it.

    Parameters
    ----------
    codes : ndarray of shape (n_columns, n_rows), dtype=uint16
        0 is missing; at most 2^24 rows.
    order : sequence of int
        All columns in visit sequence.
    targets : sequence of int
        Columns to choose for.
    q : int
    block_groups : int
        Groups of one side of a matrix product; any number gives the same.
    earlier : bool
        Whether only columns before the target count.

    Returns
    -------
    dict of int to tuple of int
        By target at most q columns, the strongest first; of equals the first one in the table.

    Notes
    -----
    O(n (p d)^2) for n rows, p columns and d groups of each; 4 n bytes for each of 2 ``block_groups``.
    """
    visited = np.asarray(order)
    most = n_groups(len(codes))
    groups = np.stack([group(codes[slot], most) for slot in order])
    place = {slot: i for i, slot in enumerate(order)}
    wanted = sorted(place[slot] for slot in targets)
    width = max(1, block_groups // most)
    chosen = {}
    for start in range(0, len(wanted), width):
        block = wanted[start : start + width]
        of_block = _indicators(groups[block])
        scores = np.hstack(
            [
                association(of_block, _indicators(groups[first : first + width]))
                for first in range(0, block[-1] + 1 if earlier else len(order), width)
            ]
        )
        for row, i in zip(scores, block, strict=True):
            others = np.arange(i) if earlier else np.delete(np.arange(len(visited)), i)
            best = others[np.lexsort((visited[others], -row[others]))[:q]]
            chosen[int(visited[i])] = tuple(visited[best].tolist())
    return chosen


def group(codes: Codes, most: int) -> NDArray[np.uint8]:
    """Put the values of a column into groups.

    Missing is a group, each value that fills a group is one, and the others are cut in their order into groups of about
    equally many rows. That is for categories, too: those with names of places, jobs or diseases that begin alike are
    often alike. Groups of too few rows join the largest one.

    Parameters
    ----------
    codes : ndarray of shape (n_rows,), dtype=uint16
    most : int
        Most groups, missing included.

    Returns
    -------
    ndarray of shape (n_rows,), dtype=uint8
        Numbers from 0; each of them occurs.
    """
    rows = np.bincount(codes)
    most -= bool(rows[0])
    rows[0] = 0
    alone = (rows > 0) & (rows * most >= rows.sum())
    rest = (rows > 0) & ~alone
    group_of = np.zeros(len(rows), np.int64)  # by code
    group_of[alone] = np.arange(1, 1 + alone.sum())
    if rest.any():
        below = np.cumsum(rows[rest])
        n_rest = min(most - alone.sum(), max(1, below[-1] // GROUP_ROWS))
        group_of[rest] = 1 + alone.sum() + (2 * below - rows[rest]) * n_rest // (2 * below[-1])
    size = np.bincount(group_of[codes])
    large = size >= GROUP_ROWS
    large[size.argmax()] = True
    number = np.cumsum(large) - 1
    number[~large] = number[size.argmax()]
    return number[group_of[codes]].astype(np.uint8)


# Rows in each group as 0 and 1, of shape (n_groups, n_rows), and the first group of each column.
Indicators = tuple[NDArray[np.float32], NDArray[np.int64]]


def _indicators(groups: NDArray[np.uint8]) -> Indicators:
    n_groups = groups.max(axis=1).astype(np.int64) + 1
    first = np.cumsum(n_groups) - n_groups
    number = np.arange(n_groups.sum()) - np.repeat(first, n_groups)
    inside = np.repeat(groups, n_groups, axis=0) == number[:, None]
    return inside.astype(np.float32), first


def association(a: Indicators, b: Indicators) -> NDArray[np.float64]:
    """Association of every column of one block with every column of another: phi^2 less its mean under independence.

    The mean of phi^2 of a table of r x c groups with given margins is (r - 1)(c - 1) / (n - 1) (Bergsma 2013, A
    bias-correction for Cramer's V and Tschuprow's T, J. Korean Statistical Society 42:323).

    Returns
    -------
    ndarray of shape (columns of a, columns of b), dtype=float64
        At least 0, and rounded, so that equals are equal.
    """
    (rows_a, first_a), (rows_b, first_b) = a, b
    # 1 + phi^2 is the sum of count^2 / (rows of the one group x rows of the other).
    cells = (rows_a @ rows_b.T).astype(np.float64)
    cells *= cells
    cells /= rows_a.sum(axis=1, dtype=np.float64)[:, None]
    cells = np.add.reduceat(cells, first_a, axis=0)
    cells /= rows_b.sum(axis=1, dtype=np.float64)
    phi_squared = np.add.reduceat(cells, first_b, axis=1) - 1
    free_a, free_b = np.diff(first_a, append=len(rows_a)) - 1, np.diff(first_b, append=len(rows_b)) - 1
    expected = np.outer(free_a, free_b) / (rows_a.shape[1] - 1)
    excess: NDArray[np.float64] = np.maximum(phi_squared - expected, 0)
    return excess.round(9)
