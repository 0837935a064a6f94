"""Effects of clusters: variances, predictions, reflation, shares of classes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from fastsynth.effects import (
    ClassEffects,
    Directions,
    Effects,
    PairSample,
    class_scores,
    fitted_scales,
    marginal,
    nodes_of,
    number_effects,
    pair_weights,
    reflate,
    spread_out,
    tilted,
    variance_components,
)


def clusters(seed, sizes, tau=0.5, sigma=1.0):
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    return cluster, tau * rng.normal(size=len(sizes))[cluster] + sigma * rng.normal(size=len(cluster))


def restricted_deviance(log_variances, cluster, y):
    """-2 log restricted likelihood with one mean, by whole matrices."""
    tau2, sigma2 = np.exp(log_variances)
    v = tau2 * (cluster[:, None] == cluster) + sigma2 * np.eye(len(y))
    inverse, one = np.linalg.inv(v), np.ones(len(y))
    mean = one @ inverse @ y / (one @ inverse @ one)
    return np.linalg.slogdet(v)[1] + np.log(one @ inverse @ one) + (y - mean) @ inverse @ (y - mean)


def test_variances_are_those_of_restricted_maximum_likelihood():
    cluster, y = clusters(1, [1, 2, 3, 4, 5, 6, 7, 8, 3, 3], tau=1.0)
    size = np.bincount(cluster).astype(float)
    mean = np.bincount(cluster, y) / size
    found = variance_components(size, mean, float(np.square(y - mean[cluster]).sum()), np.zeros(10, np.int64))
    best = minimize(
        restricted_deviance, [0.0, 0.0], (cluster, y), "Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-9}
    )
    assert found == pytest.approx(np.exp(best.x), rel=1e-4)


@pytest.mark.parametrize(
    ("sizes", "means"), [([1, 1, 1, 1], [0.0, 1, 2, 3]), ([9], [1.0]), ([50, 50, 50], [0.01, 0.0, -0.01])]
)
def test_no_differences_where_there_are_none_to_be_seen(sizes, means):
    sizes = np.array(sizes, float)
    tau2, sigma2 = variance_components(sizes, np.array(means), sizes.sum() - len(sizes), np.zeros(len(sizes), np.int64))
    assert tau2 == 0
    assert sigma2 >= 0


def test_numbers_constant_within_clusters():
    cluster = np.repeat(np.arange(6, dtype=np.int32), 4)
    found = number_effects(np.array([-2.0, -1, 0, 0, 1, 2])[cluster], cluster, 6, np.zeros(6, np.int64))
    assert found.sigma2 < 1e-3 * found.tau2
    assert np.corrcoef(found.reflated, [-2, -1, 0, 0, 1, 2])[0, 1] > 0.999


def test_effects_and_residuals_are_stretched_to_their_variances():
    """20,000 clusters of one to nine rows: shares of the variance are known to about a per cent and a half."""
    sizes = 1 + np.arange(20_000) % 9
    cluster, y = clusters(2, sizes)
    found = number_effects(y, cluster, 20_000, np.zeros(20_000, np.int64))
    assert found.tau2 == pytest.approx(0.25, rel=0.06)
    assert found.sigma2 == pytest.approx(1.0, rel=0.03)
    assert np.average(found.reflated, weights=sizes) == pytest.approx(0, abs=1e-6)
    left = (y - y.mean() - found.level[cluster]) * found.stretch[cluster]
    for size in (1, 3, 9):
        assert found.reflated[sizes == size].var() == pytest.approx(0.25, rel=0.1)
        assert found.blup[sizes == size].var() == pytest.approx(0.25 * size * 0.25 / (size * 0.25 + 1), rel=0.15)
        assert left[(sizes == size)[cluster]].var() == pytest.approx(1, rel=0.1)


def test_clusters_without_rows_have_the_effect_of_another():
    effects = spread_out(np.array([1.0, 0, 3, 0, 0]), np.array([True, False, True, False, False]))
    assert effects[[0, 2]].tolist() == [1, 3]
    assert set(effects[[1, 3, 4]]) <= {1.0, 3.0}
    cluster, y = clusters(3, [10] * 40)
    found = number_effects(y, cluster + 5, 60, np.zeros(60, np.int64))
    seen = found.reflated[5:45]
    assert np.isin(found.reflated[[*range(5), *range(45, 60)]], seen).all()
    assert not found.level[:5].any()


def test_reflated_effects_have_the_identity_as_covariance():
    rng = np.random.default_rng(4)
    blups = rng.normal(size=(300, 3)) @ np.array([[0.5, 0.2, 0], [0, 0.4, 0.1], [0, 0, 0.3]])
    weights = rng.random((300, 1)) * np.ones(3)
    size = rng.integers(1, 9, 300).astype(float)
    got = reflate(blups, weights, size)
    stretched = blups / np.sqrt(np.maximum(weights, 0.02))
    w = weights[:, 0] / weights[:, 0].sum()
    assert (got * w[:, None]).T @ got == pytest.approx(np.eye(3), abs=1e-9)
    # The symmetric root moves effects as little as can be.
    assert all(np.corrcoef(got[:, k], stretched[:, k])[0, 1] > 0.7 for k in range(3))


def test_tilted_shares():
    shares = np.array([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0]])
    got = tilted(shares, np.array([[1.0], [900.0]]), np.array([[1.0], [0.0], [2.0]]))
    assert got[0] == pytest.approx(np.array([0.2 * np.e, 0.8, 0]) / (0.2 * np.e + 0.8))
    assert got[1].tolist() == [1, 0, 0]


def test_draws_follow_the_tilted_shares():
    effects = ClassEffects(np.array([[0.0], [1.0]]), np.array([[0.0], [1.0]]))
    words = np.random.PCG64DXSM(1).random_raw(40_000)
    donor = (np.arange(40_000) % 2).astype(np.int32)
    drawn = effects.draw(np.full((40_000, 2), 0.5), donor, words)
    for cluster, share in ((0, 0.5), (1, np.e / (1 + np.e))):
        # Four standard errors.
        assert drawn[donor == cluster].mean() == pytest.approx(share, abs=4 * np.sqrt(0.25 / 20_000))


def test_shares_of_no_effect_give_back_the_shares_on_average():
    shares = np.array([[0.02, 0.08, 0.9], [0.3, 0.3, 0.4], [0.0, 1.0, 0.0]])
    loadings = np.array([[1.0, 0.2], [-0.5, 0.8], [0.0, 0.0]])
    nodes = nodes_of(np.random.default_rng(5).normal(size=(200, 2)))
    zero = marginal(shares, nodes, loadings)
    mean = np.mean([tilted(zero, np.broadcast_to(node, (3, 2)), loadings) for node in nodes], axis=0)
    assert mean == pytest.approx(shares, abs=0.005)
    assert zero[2].tolist() == [0, 1, 0]


def nominal(seed, n_clusters, size, tau):
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(n_clusters, dtype=np.int32), size)
    u = tau * rng.normal(size=(n_clusters, 2))
    utility = np.column_stack([0.5 + u[cluster, 0], u[cluster, 1], np.zeros(len(cluster))])
    y = (utility + rng.gumbel(size=utility.shape)).argmax(1)
    shares = np.broadcast_to(np.bincount(y, minlength=3) / len(y), (len(y), 3)).copy()
    return cluster, y, shares


def blocks_of(cluster, y, shares, size=700):
    return lambda: (
        (cluster[i : i + size], y[i : i + size], shares[i : i + size]) for i in range(0, len(cluster), size)
    )


def test_what_pairs_have_in_common_is_that_of_all_pairs():
    cluster, y, shares = nominal(6, 12, 5, 1.0)
    found = Directions.of(blocks_of(cluster, y, shares, 7), 12, np.eye(3))
    left = np.eye(3)[y] - shares
    weight = pair_weights(np.full(12, 5.0))[0]
    slow = pairs = 0.0
    for i in range(60):
        for j in range(60):
            if i != j and cluster[i] == cluster[j]:
                slow, pairs = slow + weight * left[i] @ left[j], pairs + weight
    assert found.tau2 == pytest.approx(slow / pairs)


def test_shares_differ_between_clusters_as_they_did():
    """One pass through all steps; variances of 400 clusters are known to some 7 %."""
    cluster, y, shares = nominal(7, 400, 20, 0.8)
    blocks = blocks_of(cluster, y, shares)
    directions = Directions.of(blocks, 400, np.eye(3))
    nodes = directions.nodes()
    assert nodes.mean(0) == pytest.approx(np.zeros(2), abs=1e-9)
    sample = PairSample.of(cluster, directions, len(nodes))
    assert len(sample.rows) == 8_000

    def given(loadings, steeper):
        return marginal(shares, nodes, loadings)

    loadings, _ = fitted_scales(directions, nodes, sample, shares, given)
    assert sample.between(np.eye(3), nodes, loadings, given(loadings, 1))[0] == pytest.approx(directions.tau2, rel=0.02)
    zero = given(loadings, 1)
    drawn, level = class_scores(blocks_of(cluster, y, zero), directions.size, loadings)
    assert drawn.std(0) == pytest.approx([1, 1], abs=0.1)
    effects = ClassEffects(drawn, loadings)
    new = effects.draw(zero, cluster, np.random.PCG64DXSM(8).random_raw(len(y)))
    again = Directions.of(blocks_of(cluster, new, shares), 400, np.eye(3))
    assert again.tau2 == pytest.approx(directions.tau2, rel=0.15)
    # With its level a cluster has about the shares that it had.
    expected = ClassEffects(level, loadings).shares(zero, cluster)
    got, had = (np.array([np.bincount(cluster, of) / 20 for of in (m.T)]) for m in (expected, np.eye(3)[y]))
    assert np.abs(got - had).mean() < 0.03


def test_classes_that_do_not_differ_have_no_directions():
    rng = np.random.default_rng(9)
    cluster = np.repeat(np.arange(50, dtype=np.int32), 1)
    shares = np.full((50, 2), 0.5)
    assert not Directions.of(blocks_of(cluster, rng.integers(0, 2, 50), shares), 50, np.eye(2)).loadings.shape[1]


def test_intra_class_correlation():
    assert Effects(None, None, None, 0.25, 0.75).icc == 0.25
