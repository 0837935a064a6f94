"""Tables of latent normal models: what is refused, and what chains get."""

from __future__ import annotations

import numpy as np
import pytest

from fastsynth.errors import DataError, OptionError
from fastsynth.joint_data import JointData, prepare
from fastsynth.latents import LatentColumn

N = 60
RNG = np.random.default_rng(0)
A, B = RNG.normal(size=N), RNG.integers(0, 3, N).astype(np.int32)
X = np.column_stack([np.ones(N), RNG.normal(size=N)])
LEVELS = np.arange(3, dtype=np.int32)
NUMBER, CATEGORY = LatentColumn("a", "continuous"), LatentColumn("b", "unordered", 3)


def holes(values, missing):
    return np.where(np.arange(N) < N, missing, values).astype(values.dtype)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"columns": (NUMBER, NUMBER)}, "every column once"),
        ({"values": (A, B[:9])}, r"Column 'b': values of shape \(9,\)"),
        ({"values": (A, B.astype(np.int64))}, "int64: must be"),
        ({"values": (A, B + np.int32(1))}, "levels must be from 0 to 2"),
        ({"x": np.ones((N, 2)) * 2}, "x: the first column must be ones"),
        ({"x": np.where(X[5, 1] == X, np.nan, X)}, "predictors cannot be missing"),
        ({"x_names": ("1",)}, r"float64 of shape \(rows, 1\)"),
        ({"slopes": (1,)}, "need clusters"),
        ({"cluster": np.full(N, 7, np.int32), "n_clusters": 7}, "number from 0 to n_clusters - 1"),
        ({"cluster": np.zeros(9, np.int32), "n_clusters": 7}, "number from 0 to n_clusters - 1"),
        ({"cluster": np.zeros(N, np.int32), "n_clusters": 1, "slopes": (2,)}, "different columns of x from 1 to 1"),
        (
            {"columns": (NUMBER, LatentColumn("b", "unordered", 3, 2)), "cluster": np.arange(N, dtype=np.int32),
             "n_clusters": N, "x2": np.ones((5, 1))},
            "x2 has 5 rows",
        ),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_refused(change, message):
    with pytest.raises(OptionError, match=message):
        JointData(**{"columns": (NUMBER, CATEGORY), "values": (A, B), "x": X} | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": (holes(A, np.nan), B)}, "Column 'a' is missing in all rows"),
        ({"values": (A, holes(B, -1))}, "Column 'b' is missing in all rows"),
        ({"values": (holes(A, 2.5), B)}, "Column 'a' has one value only"),
        ({"values": (A, holes(B, 1))}, "Column 'b' has one value only"),
        ({"values": (np.where(A > 1, np.inf, A), B)}, "Column 'a' has infinite numbers"),
        ({"columns": (LatentColumn("a", "continuous", transform="boxcox"), CATEGORY)}, "'a': Box-Cox needs positive"),
        ({"x": np.column_stack([X, 2 * X[:, 1] - 1, X[:, 1]])}, r"2 of 4 predictors .* \(x2, x3\): leave them out"),
        ({"x": np.column_stack([X, np.full(N, 3.0)])}, r"1 of 3 predictors are constant"),
        ({"values": (A[:3], LEVELS), "x": X[:3]}, "3 rows are too few for 3 latent variables"),
        ({"values": (A[:2], LEVELS[:2]), "x": X[:2]}, "2 rows are too few for 2 predictors"),
        (
            {"columns": (NUMBER, LatentColumn("c", "continuous"), CATEGORY), "values": (A, 3 - 2 * A + X[:, 1], B)},
            "Column 'c' follows from other columns and predictors of the block",
        ),
        (
            {"columns": (NUMBER, CATEGORY, LatentColumn("c", "ordered", 3)), "values": (A, B, np.int32(2) - B)},
            "Columns 'b' and 'c' have the same levels under other names",
        ),
        (
            {"columns": (NUMBER, LatentColumn("b", "unordered", 3, 2)), "values": (A, LEVELS), "n_clusters": 3,
             "cluster": (np.arange(N) % 3).astype(np.int32)},
            "3 clusters are too few for 2 latent variables",
        ),
    ],
)  # fmt: skip
def test_data_that_cannot_be_fitted_are_refused(change, message):
    with pytest.raises(DataError, match=message):
        prepare(JointData(**{"columns": (NUMBER, CATEGORY), "values": (A, B), "x": X} | change))


def test_what_the_caller_gave_stays_as_it_was():
    a, b, x = A.copy(), B.copy(), X.copy()
    prepare(JointData((NUMBER, CATEGORY), (a, b), x))
    assert (a == A).all()
    assert (b == B).all()
    assert (x == X).all()


def test_predictors_are_standardised_and_the_way_back_is_kept():
    rng = np.random.default_rng(1)
    x = np.column_stack([np.ones(N), 50 + 9 * rng.normal(size=N), rng.normal(size=10)[np.arange(N) % 10]])
    cluster = (np.arange(N) % 10).astype(np.int32)
    problem = prepare(JointData((NUMBER, CATEGORY), (A, B), x, None, cluster, 10, (1,)))
    level = problem.one
    np.testing.assert_allclose(level.x.mean(axis=1), [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(level.x[1:].std(axis=1), 1)
    np.testing.assert_allclose(x @ level.to_given, level.x.T, atol=1e-12)
    np.testing.assert_allclose(level.xx, level.x @ level.x.T)
    np.testing.assert_allclose(level.root @ level.root.T, level.inverse)
    for j in range(10):
        mine = level.x[:, cluster == j]
        np.testing.assert_allclose(problem.by_cluster[j], mine[:2] @ mine.T, atol=1e-12)
    assert problem.between.tolist() == [0, 2]
    np.testing.assert_allclose(problem.h[cluster].T, level.x[[0, 2]], atol=1e-12)


def test_levels_are_numbered_as_they_occur():
    b = np.where(np.arange(N) % 3 == 0, 4, np.where(np.arange(N) % 3 == 1, 1, -1)).astype(np.int32)
    columns = NUMBER, LatentColumn("b", "unordered", 6)
    level = prepare(JointData(columns, (np.where(A > 1, np.nan, A), b), X)).one
    assert level.codes[1].tolist() == [{4: 1, 1: 0, -1: -1}[v] for v in b]
    assert level.codes[0].tolist() == [-int(v > 1) for v in A]
    assert level.scales[1].levels.tolist() == [1, 4]
    # Two levels are left, so one latent.
    assert level.layout.names == ("a", "b")


def test_the_starting_power_is_the_likeliest():
    rng = np.random.default_rng(1)
    y = (5 + rng.normal(size=2_000)) ** 4
    level = prepare(JointData((LatentColumn("y", "continuous", transform="boxcox"),), (y,), np.ones((2_000, 1)))).one
    assert level.shapes[0, 0] == pytest.approx(0.25, abs=0.1)
    assert level.z[0].std() == pytest.approx(1)
