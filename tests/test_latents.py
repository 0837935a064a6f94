"""Columns as latent variables: vectors of the methods reference, transforms, draws, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import ndtr

from fastsynth.errors import OptionError
from fastsynth.latents import (
    JointModel,
    LatentColumn,
    Layout,
    Scale,
    box_cox,
    box_cox_likelihood,
    from_box_cox,
    from_normal_scores,
    normal_scores,
    quantile_points,
)
from fastsynth.normals import normal
from fastsynth.streams import random_words

INF = np.inf
Y = np.array([1.0, 2, 3, 5, 8])


def words(key, *shape):
    return random_words(5, (key,), int(np.prod(shape))).reshape(shape)


# ----------------------------------------------------------------------------------------------------------- transforms


def test_the_vector_of_box_cox():
    np.testing.assert_allclose(box_cox(np.log(Y), 0.5), [0, 0.828427, 1.464102, 2.472136, 3.656854], atol=5e-7)
    assert box_cox_likelihood(np.log(Y), 0.5) == pytest.approx(-3.9554818304123245, rel=1e-12)
    difference = box_cox_likelihood(np.log(Y), 0.5) - box_cox_likelihood(np.log(Y), 1)
    assert difference == pytest.approx(0.589710, abs=5e-7)


@pytest.mark.parametrize("power", [-1.5, -1e-10, 0, 0.3, 1, 2])
def test_box_cox_there_and_back(power):
    np.testing.assert_allclose(from_box_cox(box_cox(np.log(Y), power), power), np.log(Y), atol=1e-12)


def test_the_vector_of_normal_scores():
    found = normal_scores(np.array([3.0, 1, 4, 1, 5]))
    expected = [0.0, -0.6744897501960817, 0.43072729929545744, -0.6744897501960817, 0.967421566101701]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("n", [2, 100, 4_001, 30_000])
def test_scores_there_and_back(n):
    rng = np.random.default_rng(n)
    y = rng.exponential(size=n)
    back = from_normal_scores(normal_scores(y), quantile_points(y), n)
    # Points are interpolated; beyond 4,001 numbers that is nearly, not quite, exact.
    assert np.abs(back - y).max() < (1e-9 if n <= 4_001 else 1)
    assert np.abs(back - y).mean() < 1e-3
    far = from_normal_scores(np.array([-40.0, 40.0]), quantile_points(y), n)
    assert far.tolist() == [y.min(), y.max()]


def test_a_spike_keeps_its_share():
    rng = np.random.default_rng(1)
    y = np.where(rng.random(2_000) < 0.3, 0.0, rng.exponential(size=2_000))
    z = normal(words(1, 100_000))
    assert (from_normal_scores(z, quantile_points(y), len(y)) == 0).mean() == pytest.approx((y == 0).mean(), abs=0.01)


# -------------------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize(
    ("off", "expected"),
    [(0.5, [0.4994881, 0.2029652, 0.2975467]), (0.0, [0.5096185, 0.2690530, 0.2213285])],
)
def test_the_vectors_of_the_maximum_indicant(off, expected):
    n = 400_000
    layout = Layout.of([LatentColumn("a", "unordered", 3)], [np.arange(3, dtype=np.int32)])
    omega = np.array([[1, off], [off, 1]])
    if off == 0.5:
        assert (layout.start() == omega).all()
    z = np.array([[0.3], [-0.2]]) + np.linalg.cholesky(omega) @ normal(words(2, 2, n))
    shares = np.bincount(layout.levels_of(0, z, np.zeros(0)), minlength=3) / n
    np.testing.assert_allclose(shares, expected, atol=4 * 0.5 / np.sqrt(n))


def test_the_layout_of_columns_of_all_kinds():
    kinds = [
        ("a", "continuous", 0),
        ("b", "binary", 2),
        ("c", "ordered", 4),
        ("d", "unordered", 3),
        ("e", "unordered", 5),
    ]
    columns = [LatentColumn(*kind) for kind in kinds]
    levels = [np.array(some, np.int32) for some in ([], [0, 1], [0, 1, 3], [0, 1, 2], [2, 4])]
    layout = Layout.of(columns, levels)
    assert layout.names == ("a", "b", "c", "d=0", "d=1", "e")
    expected = [[0, 0, 0, 0], [1, 1, 0, 2], [1, 2, 3, 3], [2, 3, 3, 2], [2, 3, 3, 2], [1, 4, 7, 2]]
    assert layout.table.tolist() == expected
    assert layout.n_cuts == 10
    assert layout.constrained.tolist() == [False] + [True] * 5
    start = np.eye(6)
    start[3, 4] = start[4, 3] = 0.5
    assert (layout.start() == start).all()


# ---------------------------------------------------------------------------------------------------------------- draws


def model(cluster=True, transform="none", shape=(1.0, 3.0, 2.0)):
    """Two draws of a number, an ordered column whose level 1 nobody has, and a binary column of level 2."""
    columns = (
        LatentColumn("a", "continuous", transform=transform),
        LatentColumn("b", "ordered", 4),
        *([LatentColumn("w", "binary", 2, level=2)] if cluster else []),
    )
    y = np.exp(normal(words(3, 3_000)))
    scales = (
        Scale.of(columns[0], y),
        Scale.of(columns[1], np.array([0, 2, 3, -1], np.int32)),
        *([Scale.of(columns[2], np.array([0, 1], np.int32))] if cluster else []),
    )
    omega_2 = np.array([[0.5, 0.1, 0.3], [0.1, 0.4, -0.2], [0.3, -0.2, 1]]) if cluster else np.zeros((0, 0))
    return JointModel(
        columns, scales, (0,) if cluster else (),
        beta=np.array([[[0.2, 0.5], [1.0, -0.5]]] * 2), alpha=np.array([[[0.4]]] * 2)[:, :, : int(cluster)],
        omega_e=np.array([[[1, 0.6], [0.6, 1]]] * 2), omega_2=np.stack([omega_2] * 2),
        cuts=np.array([[-INF, 0, 1, INF]] * 2), cuts2=np.array([[-INF, 0, INF]] * 2)[:, : 3 * cluster],
        shapes=np.array([[shape, (1, 0, 1), (1, 0, 1)]] * 2)[:, : 2 + cluster],
        cluster_effects=np.zeros((2, 5, 1, 2)),
    )  # fmt: skip


def test_draws_without_clusters_have_the_moments_of_the_model():
    n, joint = 200_000, model(cluster=False)
    assert (joint.n_words, joint.n_words2, len(joint)) == (2, 0, 2)
    x = np.column_stack([np.ones(n), normal(words(4, n))])
    a, b = joint.draw(1, x, words(5, 2, n))
    z = (a - 3) / 2
    assert z.mean() == pytest.approx(0.2, abs=5 * np.sqrt(2 / n))
    assert z.var() == pytest.approx(2, rel=0.02)
    assert np.cov(z, x[:, 1])[0, 1] == pytest.approx(1, abs=0.02)
    # Level 1 stands for nobody; latent of b ~ N(.5, 1.25).
    assert b.dtype == np.int32
    shares = np.bincount(b, minlength=4) / n
    s = np.sqrt(1.25)
    expected = np.array([0, 0, 0, 0.0])
    expected[[0, 2, 3]] = np.diff([0, *ndtr([-0.5 / s, 0.5 / s]), 1])
    np.testing.assert_allclose(shares, expected, atol=5 * 0.5 / np.sqrt(n))


def test_draws_with_new_clusters_and_with_kept_ones():
    n, n_clusters, joint = 200_000, 20_000, model()
    x = np.ones((n, 2))
    cluster = np.repeat(np.arange(n_clusters, dtype=np.int32), n // n_clusters)
    a, b, w = joint.draw(0, x, words(6, 2, n), cluster, n_clusters, words(7, 3, n_clusters))
    assert (a.shape, b.shape, w.shape) == ((n,), (n,), (n_clusters,))
    z = (a - 3) / 2
    means = z.reshape(n_clusters, -1).mean(axis=1)
    within = z.reshape(n_clusters, -1).var(axis=1, ddof=1).mean()
    assert within == pytest.approx(1, rel=0.02)
    assert means.var() - within / 10 == pytest.approx(0.5, rel=0.05)
    assert w.mean() == pytest.approx(0.6554, abs=0.02)
    assert means[w == 1].mean() > means[w == 0].mean() + 0.3
    u = np.zeros((n_clusters, 1, 2))
    u[:, 0, 0] = np.linspace(-2, 2, n_clusters)
    a, _, w = joint.draw(0, x, words(6, 2, n), cluster, n_clusters, words(7, 3, n_clusters), u=u)
    means = (a.reshape(n_clusters, -1).mean(axis=1) - 3) / 2
    # 1.2 is the mean of the fixed part; ten rows of variance 1.
    assert np.abs(means - 1.2 - u[:, 0, 0]).std() == pytest.approx(np.sqrt(0.1 * (1 - 2 / np.pi)), rel=0.05)
    # What is kept says something about level 2: E(w* | u1, u2) is 0.4 + .3 / .5 u1 and more for u2 = 0.
    assert w[u[:, 0, 0] > 1].mean() > w[u[:, 0, 0] < -1].mean() + 0.3


def test_a_task_draws_what_a_whole_does():
    n, joint = 1_000, model()
    x = np.column_stack([np.ones(n), normal(words(4, n))])
    cluster = np.repeat(np.arange(100, dtype=np.int32), 10)
    w1, w2 = words(8, 2, n), words(9, 3, 100)
    whole = joint.draw(0, x, w1, cluster, 100, w2)
    part = joint.draw(0, x[500:], w1[:, 500:], cluster[500:] - 50, 50, w2[:, 50:])
    np.testing.assert_allclose(part[0], whole[0][500:], rtol=1e-12)
    assert (part[1] == whole[1][500:]).all()
    assert (part[2] == whole[2][50:]).all()


@pytest.mark.parametrize(("transform", "shape"), [("boxcox", (0.25, 0.1, 3.0)), ("scores", (1.0, 0.0, 1.0))])
def test_transformed_numbers_stay_within_those_of_the_data(transform, shape):
    joint = model(transform=transform, shape=shape)
    x = np.column_stack([np.ones(5_000), 5 * normal(words(4, 5_000))])
    a = joint.draw(0, x, words(5, 2, 5_000), np.zeros(5_000, np.int32), 1, words(6, 3, 1))[0]
    scale = joint.scales[0]
    assert (a.min(), a.max()) == (scale.low, scale.high)
    assert len(np.unique(a)) > 900


def test_clusters_are_needed_where_the_model_has_them():
    with pytest.raises(OptionError, match="give cluster, n_clusters and words2"):
        model().draw(0, np.ones((3, 2)), words(1, 2, 3))


@pytest.mark.parametrize("transform", ["none", "boxcox", "scores"])
def test_a_model_that_was_saved_is_the_same(transform):
    joint = model(transform=transform)
    record, arrays = joint.state()
    again = JointModel.of_state(json.loads(json.dumps(record)), arrays)
    assert again.columns == joint.columns
    assert again.u(1).shape == (5, 1, 2)
    arguments = np.ones((50, 2)), words(1, 2, 50), np.zeros(50, np.int32), 1, words(2, 3, 1)
    for one, other in zip(joint.draw(1, *arguments), again.draw(1, *arguments), strict=True):
        assert one.dtype == other.dtype
        assert (one == other).all()


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "number"}, "kind='number': must be one of 'continuous'"),
        ({"kind": "continuous", "transform": "log"}, "transform='log'"),
        ({"kind": "continuous", "level": 3}, "level=3"),
        ({"kind": "binary", "n_levels": 3}, "n_levels=3: must be 2"),
        ({"kind": "ordered", "n_levels": 1}, "n_levels=1: must be at least 2"),
        ({"kind": "ordered", "n_levels": 3, "transform": "boxcox"}, "is for numbers"),
    ],
)
def test_columns_check_themselves(options, message):
    with pytest.raises(OptionError, match=message):
        LatentColumn("age", **options)
