"""The kernel against a slow twin, published vectors and identities, on codes made by hand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastsynth import _tree
from tests import naive_tree


@dataclass
class Tree:
    """What ``_tree.grow`` returned, with what is needed to walk it."""

    nodes: np.ndarray
    count: np.ndarray
    level_start: np.ndarray
    levels: np.ndarray
    order: np.ndarray

    @property
    def is_leaf(self):
        return self.nodes["feature"] == _tree.LEAF

    def leaf_rows(self):
        """Training rows of each leaf, as sorted lists."""
        return sorted(
            sorted(self.order[node["left"] : node["left"] + count].tolist())
            for node, count in zip(self.nodes[self.is_leaf], self.count[self.is_leaf])
        )

    def apply(self, columns, words=None):
        codes = np.ascontiguousarray(np.array(columns, np.uint16).T)
        rows = np.arange(len(codes), dtype=np.uint32)
        words = np.zeros(len(codes), np.uint64) if words is None else words
        leaf = np.empty(len(codes), np.uint32)
        _tree.apply(self.nodes, self.count, self.level_start, self.levels, codes, rows, words, leaf)
        return leaf

    def draw(self, columns, donors, words):
        codes = np.ascontiguousarray(np.array(columns, np.uint16).T)
        rows = np.arange(len(codes), dtype=np.uint32)
        out = np.zeros(len(codes), donors.dtype)
        _tree.draw(self.nodes, self.count, self.level_start, self.levels, donors, codes, rows, words, out)
        return out


def grow(columns, y, n_classes=0, minbucket=1, cp=0.0, unordered=None, rows=None):
    columns = np.array(columns, np.uint16).reshape(len(columns), -1)
    unordered = [False] * len(columns) if unordered is None else unordered
    kinds = [
        (_tree.UNORDERED if u else 0) | (_tree.HAS_MISSING if (c == 0).any() else 0) for u, c in zip(unordered, columns)
    ]
    rows = np.arange(columns.shape[1]) if rows is None else rows
    return Tree(
        *_tree.grow(
            columns,
            np.arange(len(columns), dtype=np.int32),
            np.array([c.max() + 1 for c in columns], np.int32),
            np.array(kinds, np.uint8),
            np.asarray(rows, np.uint32),
            np.asarray(y, np.int64)[np.asarray(rows)],
            n_classes,
            minbucket,
            cp,
        )
    )


def first_split(tree, columns):
    """Rows that go left at the root."""
    nodes = tree.nodes.copy()
    left = nodes["left"][0]
    nodes["feature"][[left, left + 1]] = _tree.LEAF
    return np.flatnonzero(Tree(nodes, *vars_of(tree)[1:]).apply(columns) == left)


def vars_of(tree):
    return tree.nodes, tree.count, tree.level_start, tree.levels, tree.order


@st.composite
def tables(draw, classes):
    n = draw(st.integers(1, 40))
    p = draw(st.integers(0, 3))
    columns = [
        draw(st.lists(st.integers(0, draw(st.sampled_from([1, 2, 5, 300]))), min_size=n, max_size=n)) for _ in range(p)
    ]
    unordered = [draw(st.booleans()) for _ in range(p)]
    y = draw(st.lists(st.integers(0, 2 if classes else 9), min_size=n, max_size=n))
    return columns, unordered, y, draw(st.integers(1, 5)), draw(st.sampled_from([0.0, 1e-8, 0.05]))


many = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@many
@given(tables(classes=False))
def test_numeric_tree_equals_the_naive_tree(case):
    columns, unordered, y, minbucket, cp = case
    if not columns:
        columns, unordered = [[1] * len(y)], [False]
    tree = grow(columns, y, 0, minbucket, cp, unordered)
    naive = naive_tree.grow(columns, unordered, y, 0, minbucket, cp)
    assert tree.leaf_rows() == sorted(sorted(rows) for rows in naive.leaves())


@many
@given(tables(classes=True))
def test_class_tree_equals_the_naive_tree(case):
    columns, unordered, y, minbucket, cp = case
    if not columns:
        columns, unordered = [[1] * len(y)], [False]
    # Levels are ordered by a principal component, an iteration against a decomposition: only ordered predictors
    # can be compared for all trees. Unordered ones are compared at their root, below.
    unordered = [False] * len(columns)
    tree = grow(columns, y, 3, minbucket, cp, unordered)
    naive = naive_tree.grow(columns, unordered, y, 3, minbucket, cp)
    assert tree.leaf_rows() == sorted(sorted(rows) for rows in naive.leaves())
