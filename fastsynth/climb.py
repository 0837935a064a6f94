"""Draws that have to be admissible: among what a leaf holds, or up the tree to the first node that has such.

The donors of a node are not one slice when leaves were filled anew, so leaves are put in the order in which a walk from
left to right meets them::

    node          |          A          |        donors of A are places 0 .. 9 of this order,
    its children  |      B     |   C    |        those of C places 6 .. 9
    leaves        |  D  |  E   |   C    |
    place         0     3      6        10
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastsynth import _tree
from fastsynth.calibration import Tilt
from fastsynth.columns import Codes, Ranks
from fastsynth.methods import ColumnModel, Tree
from fastsynth.streams import hashed, unit

Places = NDArray[np.int64]
# Candidates of some rows: number of the row (ascending), rank, number, weight; each (n_candidates,).
Candidates = tuple[Places, Ranks, NDArray[np.float64], NDArray[np.float64]]
# Candidates of a row at a node: of larger ones a sample; at the root, where all that can be had is there, more.
MOST_CANDIDATES, MOST_AT_ROOT = 1_024, 4_096
# Candidates that are looked at at a time.
PAIRS = 1 << 21

# Tells which candidates are admissible: rows, ranks or zeros, numbers or NaN, each (n,).
Admissible = Callable[[NDArray[np.uint32], Ranks, NDArray[np.float64]], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, eq=False)
class Ascent:
    """Ways up a tree.

    Attributes
    ----------
    parent : ndarray of shape (n_nodes,), dtype=int64
        That of the root is -1.
    first, size : ndarray of shape (n_nodes,), dtype=int64
        Places of the node's leaves, or donors, in the order from left to right.
    order : ndarray, dtype=int64
        The leaf, or donor, at each place.
    """

    parent: Places
    first: Places
    size: Places
    order: Places

    @classmethod
    def of(cls, tree: Tree, by_leaf: bool) -> Ascent:
        """Places count leaves if ``by_leaf``, else donors. O(n_nodes + places)."""
        nodes = tree.nodes
        n, is_leaf, left = len(nodes), nodes["feature"] == _tree.LEAF, nodes["left"].astype(np.int64)
        parent = np.full(n, -1)
        levels, level = [], np.zeros(1, np.int64)
        while len(level):
            levels.append(level)
            inner = level[~is_leaf[level]]
            parent[left[inner]] = parent[left[inner] + 1] = inner
            level = np.concatenate([left[inner], left[inner] + 1])
        size = np.where(is_leaf, 1 if by_leaf else tree.count.astype(np.int64), 0)
        for level in reversed(levels[1:]):
            np.add.at(size, parent[level], size[level])
        first = np.zeros(n, np.int64)
        for level in levels:
            inner = level[~is_leaf[level]]
            first[left[inner]] = first[inner]
            first[left[inner] + 1] = first[inner] + size[left[inner]]
        leaves = np.flatnonzero(is_leaf)
        leaves = leaves[np.argsort(first[leaves], kind="stable")]
        if by_leaf:
            return cls(parent, first, size, leaves)
        order = np.repeat(left[leaves] - first[leaves], size[leaves]) + np.arange(int(size[leaves].sum()))
        return cls(parent, first, size, order)


def climb(
    column: ColumnModel,
    codes: Codes,
    rows: NDArray[np.uint32],
    words: NDArray[np.uint64],
    admissible: Admissible,
    ranks: Ranks,
    numbers: NDArray[np.float64],
    donor: NDArray[np.int32] | None = None,
) -> tuple[NDArray[np.uint32], int]:
    """Draw rows from the admissible candidates of their leaf, or of the first node above that has some.

    Parameters
    ----------
    codes, ranks, numbers, donor
        As in ``ColumnModel.draw``.
    rows : ndarray of shape (n,), dtype=uint32
    words : ndarray of shape (n,), dtype=uint64

    Returns
    -------
    rows : ndarray, dtype=uint32
        Those for which there is no admissible candidate even at the root.
    n_climbed : int
        Rows for which the leaf had none.
    """
    if column.values is None:
        return rows, 0
    if column.blur is not None:
        words = column.blur.secret(words)
    tree = _Climber(column, column.values, donor)
    node = column.values.leaves(codes, rows, words).astype(np.int64)
    todo, lost, n_climbed = np.arange(len(rows)), [np.zeros(0, np.int64)], 0
    while len(todo):
        left = []
        step = max(1, PAIRS // tree.most(bool((node[todo] == 0).any())))
        for start in range(0, len(todo), step):
            here = todo[start : start + step]
            of, rank, number, weight = tree.candidates(node[here], codes, rows[here], words[here])
            picked = _pick(of, weight * admissible(rows[here][of], rank, number), words[here])
            found = picked >= 0
            done, picked = rows[here[found]], picked[found]
            ranks[done], numbers[done] = rank[picked], number[picked]
            left.append(here[~found])
        todo = np.concatenate(left)
        n_climbed = n_climbed or len(todo)  # the first round is that of the leaves
        lost.append(todo[node[todo] == 0])
        todo = todo[node[todo] > 0]
        node[todo] = tree.ascent.parent[node[todo]]
    return rows[np.concatenate(lost)], n_climbed


def climb_kinds(
    column: ColumnModel,
    codes: Codes,
    rows: NDArray[np.uint32],
    words: NDArray[np.uint64],
    admissible: Admissible,
    ranks: Ranks,
    numbers: NDArray[np.float64],
    donor: NDArray[np.int32] | None = None,
) -> NDArray[np.uint32]:
    """The same among the kinds of a column (missing ones, spikes); gives back the rows for which there is none."""
    if column.missing is None:
        return rows
    present = column.first if column.present is None else column.present
    effects = None if column.effects is None else replace(column.effects, numbers=None, classes=column.effects.kinds)
    kinds = ColumnModel(None, column.missing, column.first, tilt=column.tilt_missing, effects=effects)

    def allowed(rows: NDArray[np.uint32], rank: Ranks, number: NDArray[np.float64]) -> NDArray[np.bool_]:
        ok = admissible(rows, np.where(rank != present, rank, 0).astype(ranks.dtype), number)
        ok &= rank != present
        return ok

    numbers[rows] = np.nan
    return climb(kinds, codes, rows, words, allowed, ranks, numbers, donor)[0]


class _Climber:
    """What can be drawn at the nodes of a column's tree of values."""

    def __init__(self, column: ColumnModel, tree: Tree, donor: NDArray[np.int32] | None) -> None:
        self.column, self.donor = column, donor
        self.tree = tree
        self.ascent = Ascent.of(tree, by_leaf=column.tilt is not None)
        if column.tilt is not None:
            counts = column.tilt.counts[tree.nodes["left"][self.ascent.order]]
            self.running = np.vstack([np.zeros((1, counts.shape[1])), np.cumsum(counts, 0)])

    def most(self, at_root: bool) -> int:
        """Most candidates of a row."""
        if self.column.tilt is not None:
            return len(self.column.tilt.ranks)
        return MOST_AT_ROOT if at_root else MOST_CANDIDATES

    def candidates(self, node: Places, codes: Codes, rows: NDArray[np.uint32], words: NDArray[np.uint64]) -> Candidates:
        """Candidates of rows at nodes."""
        tilt, shift = self.column.tilt, self.column.shift
        if tilt is not None:
            return self._classes(tilt, node, codes, rows, words)
        size = np.minimum(self.ascent.size[node], np.where(node == 0, MOST_AT_ROOT, MOST_CANDIDATES))
        ends = np.cumsum(size)
        of = np.repeat(np.arange(len(node)), size)
        i = np.arange(len(of)) - np.repeat(ends - size, size)
        # All donors of a small node; of a large one some, spread evenly from a random place on.
        whole = self.ascent.size[node].astype(np.float64)
        offset = np.where(size < whole, unit(words), 0.0)
        place = self.ascent.first[node][of] + np.floor((i + offset[of]) * (whole / size)[of]).astype(np.int64)
        donors = self.tree.donors[self.ascent.order[place]]
        blur, own = self.column.blur, hashed(words[of], np.uint64(0)) + i.astype(np.uint64)
        if shift is None:
            ranks = self._members(donors, words, of)
            blurred = np.full(len(of), np.nan) if blur is None else blur.of_ranks(ranks, own)
            return of, ranks, blurred, np.ones(len(of))
        expected = self.column.expected(codes, rows, words, self.donor)
        number = shift.apply(expected[of], donors.view(np.float32), own)
        number = number if blur is None else blur.of_numbers(number, own)
        return of, np.zeros(len(of), np.uint32), number, np.ones(len(of))

    def _classes(
        self, tilt: Tilt, node: Places, codes: Codes, rows: NDArray[np.uint32], words: NDArray[np.uint64]
    ) -> Candidates:
        """Classes with their tilted shares at leaves, with their shares above."""
        first, size = self.ascent.first[node], self.ascent.size[node]
        share = self.running[first + size] - self.running[first]
        at_leaf = self.tree.nodes["feature"][node] == _tree.LEAF
        if at_leaf.any():
            leaf = np.ascontiguousarray(self.tree.nodes["left"][node[at_leaf]])
            share[at_leaf] = tilt.shares(codes.T, rows[at_leaf], leaf)
        effects = self.column.effects
        if effects is not None and effects.classes is not None:
            assert self.donor is not None
            share = effects.classes.shares(share, self.donor[rows])
        of, which = np.nonzero(share > 0)
        ranks, blur = self._members(tilt.ranks[which], words, of), self.column.blur
        own = hashed(words[of], np.uint64(0)) + which.astype(np.uint64)
        blurred = np.full(len(of), np.nan) if blur is None else blur.of_ranks(ranks, own)
        return of, ranks, blurred, share[of, which]

    def _members(self, ranks: Ranks, words: NDArray[np.uint64], of: Places) -> Ranks:
        """The ranks, or a member of the group that each stands for."""
        return ranks if self.column.pools is None else self.column.pools.draw(ranks, words[of])


def _pick(of: Places, weight: NDArray[np.float64], words: NDArray[np.uint64]) -> Places:
    """For each row one of its candidates in proportion to their weights, -1 where all are 0; ``of`` is ascending."""
    if not len(of):
        return np.full(len(words), -1)
    running = np.cumsum(weight)
    ends = np.searchsorted(of, np.arange(len(words)), side="right")
    starts = np.searchsorted(of, np.arange(len(words)), side="left")
    before = np.where(starts > 0, running[np.maximum(starts - 1, 0)], 0.0)
    total = np.where(ends > starts, running[np.maximum(ends - 1, 0)], 0.0) - before
    # Other bits than those that chose the candidates.
    u = (words & np.uint64(0xFFFFFFFF)).astype(np.float64) / 2.0**32
    picked = np.searchsorted(running, before + u * total, side="right")
    last = np.maximum(ends - 1, 0)
    picked = np.minimum(picked, last)
    # Rounding may hit a candidate of no weight: take the next one before it that has some.
    picked = np.maximum.accumulate(np.where(weight > 0, np.arange(len(weight)), -1))[picked]
    has_some = (total > 0) & (picked >= starts)
    return np.where(has_some, picked, -1)
