"""Nested codes: a tree for the rows of each coarse code, all of them under one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fastsynth import _tree
from fastsynth.columns import Codes, EncodedTable
from fastsynth.methods import Cart, ColumnModel, Tree, Words, grow, one_leaf, refill_tree


def fit_nested(
    table: EncodedTable,
    target: int,
    predictors: tuple[int, ...],
    within: int,
    minbucket: int,
    rows: NDArray[np.uint32],
    every: NDArray[np.uint32],
    words: Words,
) -> ColumnModel:
    """Fit a tree for the rows of each coarse code, and put all under one that tells the coarse codes apart.

    Parameters
    ----------
    within : int
        Slot of the coarse codes.
    rows : ndarray, dtype=uint32
        Rows that the column is fitted on, as often as they weigh.
    every : ndarray, dtype=uint32
        All rows; a coarse code that the others lack has these, so that no pair is drawn that does not occur.
    words : callable
        Gives random words of rows: levels that a node has not seen go left or right by them.
    """
    others = tuple(slot for slot in predictors if slot != within)
    lacking = ~np.isin(table.codes[within][every], table.codes[within][rows])
    rows = np.concatenate([rows, every[lacking]])
    rows = rows[np.lexsort((table.ranks[target][rows], table.codes[within][rows]))]
    coarse, fine = table.codes[within][rows], table.ranks[target][rows]
    starts = np.flatnonzero(np.append(True, coarse[1:] != coarse[:-1]))
    new = np.append(True, (fine[1:] != fine[:-1]) | (coarse[1:] != coarse[:-1]))
    # Fine codes are numbered anew within each coarse one: few classes, whatever their number in all.
    running = np.cumsum(new) - 1
    local = np.zeros(table.n_rows, np.uint32)
    local[rows] = running - np.repeat(running[starts], np.diff(np.append(starts, len(rows))))
    trees = []
    for start, stop in zip(starts, np.append(starts[1:], len(rows)), strict=True):
        here = np.sort(rows[start:stop])
        people = np.unique(here)
        n_classes = int(running[stop - 1] - running[start]) + 1
        y = np.arange(n_classes, dtype=np.int64)
        usable = others if n_classes > 1 and len(people) >= 2 * minbucket else ()
        if usable:
            # Leaves hold different people, as often as they weigh.
            tree = grow(table, usable, minbucket, Cart().cp, 0.0, people, local, y, n_classes if n_classes > 2 else 0)
            trees.append(refill_tree(table, replace(tree, spread=()), table.ranks[target], here, words))
        else:
            trees.append(one_leaf(table.ranks[target][here]))
    return ColumnModel(None, graft(trees, coarse[starts], within), table.variables[target].first)


def graft(trees: list[Tree], codes: Codes, slot: int) -> Tree:
    """One tree of many: ordered splits on the ascending ``codes`` of a slot lead to the tree of each code.

    ::

        top, level by level          a range of one code is the root of its tree; the other nodes of all trees follow
        [0 8) | [0 4) [4 8) | [0 2) [2 4) [4 6) [6 8) | ...
    """
    features, thresholds, lefts = [], [], []
    root_at = np.zeros(len(trees), np.int64)
    low, high, n_top = np.array([0]), np.array([len(trees)]), 0
    while len(low):
        middle, whole = (low + high) // 2, high - low == 1
        root_at[low[whole]] = n_top + np.flatnonzero(whole)
        n_here = len(low)
        children = n_top + n_here + 2 * (np.cumsum(~whole) - 1)
        features.append(np.where(whole, _tree.LEAF, slot))
        thresholds.append(np.where(whole, 0, codes[np.maximum(middle - 1, 0)]))
        lefts.append(np.where(whole, 0, children))
        n_top += n_here
        split = ~whole
        low, high = (
            np.column_stack([low[split], middle[split]]).ravel(),
            np.column_stack([middle[split], high[split]]).ravel(),
        )
    sizes = np.array([len(tree.nodes) for tree in trees])
    bases = n_top + np.cumsum(sizes - 1) - (sizes - 1)  # where the other nodes of each tree begin
    n_nodes = n_top + int((sizes - 1).sum())
    nodes, count = np.zeros(n_nodes, _tree.NODE), np.zeros(n_nodes, np.uint32)
    mask = np.zeros(n_nodes if any(len(tree.level_mask) for tree in trees) else 0, np.uint64)
    nodes["feature"][:n_top], nodes["threshold"][:n_top] = np.concatenate(features), np.concatenate(thresholds)
    nodes["left"][:n_top] = np.concatenate(lefts)
    n_donors = n_words = 0
    for tree, root, base in zip(trees, root_at, bases, strict=True):
        own = tree.nodes.copy()
        leaf = own["feature"] == _tree.LEAF
        # Children never are the root: the node of number i stands at base + i - 1.
        own["left"] = np.where(leaf, own["left"] + n_donors, own["left"] + base - 1)
        places = np.append(root, base + np.arange(len(own) - 1))
        nodes[places], count[places] = own, tree.count
        if len(tree.level_mask):
            listed = ~leaf & (own["feature"] & _tree.UNORDERED_SPLIT != 0) & (own["threshold"] != 0)
            mask[places] = np.where(listed, tree.level_mask + np.uint64(n_words), tree.level_mask)
        n_donors += len(tree.donors)
        n_words += len(tree.levels)
    for node in range(n_top - 1, -1, -1):
        if nodes["feature"][node] != _tree.LEAF and count[node] == 0:
            count[node] = count[nodes["left"][node]] + count[nodes["left"][node] + 1]
    donors, levels = (np.concatenate([getattr(tree, name) for tree in trees]) for name in ("donors", "levels"))
    return Tree(nodes, count, mask, levels, donors)
