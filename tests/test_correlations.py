"""Correlations of tables against plain likelihoods and repeats; shrinkage against its formula; nearest matrices."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import optimize, stats

from fastsynth.correlations import completed, polychoric, reliability


def one(*counts):
    counts = np.array(counts, float)
    return counts, np.array([0, counts.shape[0]], np.int32), np.array([0, counts.shape[1]], np.int32)


@pytest.mark.parametrize(
    ("table", "r"),
    [([[40, 10], [20, 30]], 0.607072793804062), ([[25, 10, 5], [10, 20, 10], [5, 10, 25]], 0.6127818683241899)],
)
def test_polychoric_correlation_of_methods(table, r):
    found, variance = polychoric(*one(*table))
    assert found[0, 0] == pytest.approx(r, abs=2e-7)
    assert 0 < variance[0, 0] < 0.1


def test_polychoric_is_the_maximum_of_a_plain_likelihood():
    rng = np.random.default_rng(3)
    for r in (-0.97, -0.6, 0.1, 0.75, 0.9, 0.99):
        x = np.random.default_rng(7).normal(size=(400, 2)) @ np.linalg.cholesky([[1, r], [r, 1]]).T
        edges = np.sort(rng.normal(size=3)), np.sort(rng.normal(size=2))
        a, b = np.digitize(x[:, 0], edges[0]), np.digitize(x[:, 1], edges[1])
        table = np.histogram2d(a, b, bins=[np.arange(5) - 0.5, np.arange(4) - 0.5])[0]
        cuts = [
            np.concatenate([[-9], stats.norm.ppf(np.cumsum(table.sum(1 - i))[:-1] / table.sum()), [9]]) for i in (0, 1)
        ]

        def loss(r, cuts=cuts, table=table):
            law = stats.multivariate_normal([0, 0], [[1, r], [r, 1]])
            below = np.array([[law.cdf([s, t]) for t in cuts[1]] for s in cuts[0]])
            cells = np.diff(np.diff(below, axis=0), axis=1)
            return -(table * np.log(np.maximum(cells, 1e-12))).sum()

        plain = optimize.minimize_scalar(loss, bounds=(max(r - 0.3, -0.9999), min(r + 0.3, 0.9999)), method="bounded")
        found, _ = polychoric(*one(*table))
        assert loss(found[0, 0]) <= plain.fun + 1e-4
        assert found[0, 0] == pytest.approx(plain.x, abs=2e-3)


def test_variance_of_a_correlation_is_that_of_repeats():
    found = []
    for seed in range(300):
        z = np.random.default_rng(seed).normal(size=(300, 2)) @ np.linalg.cholesky([[1, 0.5], [0.5, 1]]).T
        x = z > [0.3, -0.4]
        table = np.histogram2d(x[:, 0], x[:, 1], bins=2)[0]
        found.append([of[0, 0] for of in polychoric(*one(*table))])
    r, variance = np.array(found).T
    assert r.mean() == pytest.approx(0.5, abs=4 * r.std() / 300**0.5 + 0.01)
    # A standard deviation of 300 repeats is known to 4 %.
    assert np.sqrt(variance.mean()) == pytest.approx(r.std(), rel=0.16)


@pytest.mark.parametrize("table", [[[0, 0], [0, 0]], [[5, 9], [0, 0]], [[0, 3], [0, 4]]])
def test_a_table_that_tells_nothing_has_no_correlation(table):
    found, variance = polychoric(*one(*table), prior=1.0)
    assert found[0, 0] == 0
    assert variance[0, 0] == 1


def test_tables_without_rows_off_the_diagonal_have_a_finite_correlation():
    found, _ = polychoric(*one([50, 0], [0, 50]))
    assert 0.99 < found[0, 0] < 1
    found, _ = polychoric(*one([0, 50], [50, 0]))
    assert -1 < found[0, 0] < -0.99


def test_a_prior_row_matters_for_few_rows_only():
    few, many = [[2, 0], [0, 2]], [[2000, 1000], [1000, 2000]]
    assert polychoric(*one(*few), prior=1.0)[0][0, 0] < 0.96
    gap = polychoric(*one(*many))[0] - polychoric(*one(*many), prior=1.0)[0]
    assert 0 < gap[0, 0] < 1e-3


def test_many_tables_stand_in_one_array():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 50, (5, 7)).astype(float)
    a, b = np.array([0, 2, 5], np.int32), np.array([0, 4, 7], np.int32)
    r, variance = polychoric(counts, a, b)
    for i in range(2):
        for j in range(2):
            own = counts[a[i] : a[i + 1], b[j] : b[j + 1]]
            alone = polychoric(*one(*own))
            assert (r[i, j], variance[i, j]) == pytest.approx((alone[0][0, 0], alone[1][0, 0]))


def test_reliability_is_that_of_schaefer_and_strimmer_for_equal_variances():
    r = np.random.default_rng(0).normal(0, 0.3, 500)
    variance = np.full(500, 0.02)
    found = reliability(r, variance)
    # No correlation moves by more than half its standard error.
    moved = np.sqrt(0.02) / 2 / np.abs(r)
    wanted = np.maximum(1 - variance.sum() / np.square(r).sum(), 1 - moved)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert 0.5 < (found == found.min()).mean() < 1
    assert not reliability(np.full(10, 0.1), np.ones(10)).any()
    mixed = reliability(np.append(r, 0.3), np.append(variance, 1.0))
    assert mixed[-1] < 0.2 < 0.7 < mixed[0]


def test_a_completed_matrix_is_one_of_correlations():
    rng = np.random.default_rng(1)
    first = np.array([0, 1, 4, 5])
    r = np.eye(5)
    r[0, 1:4] = 0.95, 0.9, -0.9
    r[4, 1:4] = 0.5, 0.2, 0.1
    r = np.triu(r) + np.triu(r, 1).T
    assert np.linalg.eigvalsh(r)[0] < 0
    found = completed(r, first, np.ones(5))
    assert np.linalg.eigvalsh(found)[0] > 0
    np.testing.assert_allclose(np.diag(found), 1)
    between = np.array([[0, k] for k in (1, 2, 3)]).T
    np.testing.assert_allclose(found[tuple(between)], r[tuple(between)], atol=0.05)
    assert found[1, 2] > 0.7
    good = np.eye(3) + 0.1 * (rng.random() - np.eye(3))
    assert completed(good, np.arange(4), np.ones(3)) is good
