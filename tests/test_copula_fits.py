"""Trees of the levels of categories."""

from __future__ import annotations

import numpy as np

from fastsynth.copula_fits import grow_tree


def test_a_tree_parts_first_what_differs_most():
    child = grow_tree(np.array([10.0, 10, 10, 10]), np.array([[0.0], [100.0], [3.0], [90.0]]))
    assert sorted(map(sorted, child.tolist())) == sorted([[1, 2], [-4, -2], [-5, -3]])
    assert grow_tree(np.array([4.0, 4]), np.zeros((2, 0))).tolist() == [[-2, -3]]
