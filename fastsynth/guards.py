"""Leaf guards: leaves that would tell too much of their people draw from a node further up the tree.

A leaf keeps its place in the tree, only its donors become those of the first node above it that has enough. To that end
donors are put in the order of the leaves from left to right, in which the donors of every node are one slice::

    node          |          A          |        leaf D has donors of one value only: it draws from B,
    its children  |      B     |   C    |        places 0 .. 5, as E goes on drawing from 3 .. 5
    leaves        |  D  |  E   |   C    |
    place         0     3      6        10
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fastsynth.calibration import Tilt
from fastsynth.climb import Ascent, Places
from fastsynth.columns import EncodedTable, Ranks
from fastsynth.errors import OptionError
from fastsynth.methods import ColumnModel, Tree, Words, leaves_of
from fastsynth.options import Guard

Enough = Callable[[Places], NDArray[np.bool_]]
# Donors of all leaves together, at most: a guard that makes them more asks for too much.
MOST_DONORS = 100_000_000


def guarded(
    column: ColumnModel, guard: Guard, table: EncodedTable, target: int, rows: NDArray[np.uint32], words: Words
) -> ColumnModel:
    """The fitted column with guarded leaves. O(n depth) at worst.

    Parameters
    ----------
    column : ColumnModel
        Numbers that are moved along a regression stay as they are: their leaves hold nobody's values.
    target : int
        Slot of the column.
    rows : ndarray of shape (n,), dtype=uint32
        Those that fill the leaves, with repeats for bootstrap samples and weights.
    words : callable
        Gives random words of rows, as where leaves were filled.
    """
    tree = column.values
    if tree is None or tree.n_leaves == 1 or column.shift is not None or not guard.of_leaves:
        return column
    ascent = Ascent.of(tree, by_leaf=True)
    enough = []
    if guard.distinct_donors > 1:
        ranks = table.ranks[target]
        people = np.unique(rows)
        people = people[np.isin(ranks[people], kinds_of(column), invert=True)]
        at = np.bincount(leaves_of(table, tree, people, words), minlength=len(tree.nodes))
        enough.append(_at_least(guard.distinct_donors, ascent, at[ascent.order][:, None].astype(float), sum_up=True))
    if column.tilt is not None:
        counts = column.tilt.counts[tree.nodes["left"][ascent.order]]
        enough.append(_at_least(guard.l_diversity, ascent, counts, sum_up=False))
        node = _ancestors(ascent, enough)
        return replace(column, tilt=_merge_shares(column.tilt, tree, ascent, node))
    by_donor = Ascent.of(tree, by_leaf=False)
    donors = tree.donors[by_donor.order]
    enough.append(_diverse(guard.l_diversity, by_donor, donors))
    node = _ancestors(ascent, enough)
    if by_donor.size[node].sum() > MOST_DONORS:
        raise OptionError(
            f"{guard}: most leaves of column {table.variables[target].name!r} would draw from nearly all of it. Ask "
            "for less, or for a larger minbucket."
        )
    nodes, count = tree.nodes.copy(), tree.count.copy()
    nodes["left"][ascent.order], count[ascent.order] = by_donor.first[node], by_donor.size[node]
    nodes["threshold"][ascent.order] = np.minimum(by_donor.size[node], 0xFFFF)
    return replace(column, values=replace(tree, nodes=nodes, count=count, donors=donors))


def kinds_of(column: ColumnModel) -> Ranks:
    """Ranks that are drawn as kinds of missing or spikes, and not from the leaves."""
    if column.missing is None:
        return np.zeros(0, np.uint16)
    ranks = column.missing.donors if column.tilt_missing is None else column.tilt_missing.ranks
    return np.setdiff1d(ranks, [column.first if column.present is None else column.present])


def _ancestors(ascent: Ascent, enough: list[Enough]) -> Places:
    """For each leaf, from left to right, itself or the first node above that has enough; else the root."""
    node = ascent.order.copy()
    todo = np.arange(len(node))
    # What is known of nodes: 0 nothing, 1 they have enough, 2 they have not.
    known = np.zeros(len(ascent.parent), np.uint8)
    known[0] = 1
    while len(todo):
        new = np.unique(node[todo])
        new = new[known[new] == 0]
        known[new] = np.where(np.all([test(new) for test in enough], axis=0), 1, 2) if len(new) else 0
        todo = todo[known[node[todo]] == 2]
        node[todo] = ascent.parent[node[todo]]
    return node


def _at_least(least: int, ascent: Ascent, counts: NDArray[np.float64], sum_up: bool) -> Enough:
    """Whether nodes have so many rows in all (``sum_up``), or rows in so many classes; counts are by leaf and class."""
    running = np.vstack([np.zeros((1, counts.shape[1])), np.cumsum(counts, 0)])
    least = least if sum_up else min(least, int((counts.sum(0) > 0).sum()))

    def test(nodes: Places) -> NDArray[np.bool_]:
        first = ascent.first[nodes]
        inside = running[first + ascent.size[nodes]] - running[first]
        found: NDArray[np.bool_] = (inside.sum(1) if sum_up else (inside > 0).sum(1)) >= least
        return found

    return test


def _diverse(least: int, ascent: Ascent, donors: Ranks) -> Enough:
    """Whether nodes have donors of so many different values, or of all there are."""
    least = min(least, len(np.unique(donors)))

    def test(nodes: Places) -> NDArray[np.bool_]:
        size = ascent.size[nodes]
        of = np.repeat(np.arange(len(nodes)), size)
        place = np.arange(len(of)) - np.repeat(np.cumsum(size) - size, size) + ascent.first[nodes][of]
        # Nodes and values in one number, to be told apart by one sort.
        pairs = np.unique(of * (int(donors.max()) + 1) + donors[place]) // (int(donors.max()) + 1)
        found: NDArray[np.bool_] = np.bincount(pairs, minlength=len(nodes)) >= least
        return found

    return test


def _merge_shares(tilt: Tilt, tree: Tree, ascent: Ascent, node: Places) -> Tilt:
    """Class shares of leaves that became those of a node above: sums of counts, means of centres."""
    leaf = tree.nodes["left"][ascent.order]
    counts, centre = tilt.counts[leaf], tilt.centre[leaf]
    rows = counts.sum(1, keepdims=True)
    changed = np.flatnonzero(node != ascent.order)
    first, last = ascent.first[node[changed]], ascent.first[node[changed]] + ascent.size[node[changed]]
    new_counts, new_centre = tilt.counts.copy(), tilt.centre.copy()
    sums = []
    for of_leaf in (counts, centre * rows, rows):
        running = np.vstack([np.zeros((1, of_leaf.shape[1])), np.cumsum(of_leaf, 0)])
        sums.append(running[last] - running[first])
    new_counts[leaf[changed]] = sums[0]
    new_centre[leaf[changed]] = sums[1] / sums[2]
    return replace(tilt, counts=new_counts, centre=new_centre)
