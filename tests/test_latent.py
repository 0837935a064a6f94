"""The kernels of latent normal variables: against plain loops with the same words, and against known distributions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import truncnorm

from fastsynth import _latent
from fastsynth.gibbs import EMPTY, NOTHING, TILE, normal_table
from fastsynth.joint_data import NO_CODES
from fastsynth.streams import hashed

INF = np.inf
NUMBER, ORDERED, UNORDERED = range(3)


def truncated(low, high, key=1):
    low, high = np.broadcast_arrays(np.asarray(low, float), np.asarray(high, float))
    out = np.empty(low.shape)
    _latent.truncated(low.copy(), high.copy(), key, normal_table(), out)
    return out


@pytest.mark.parametrize(
    ("low", "high"),
    [(-INF, INF), (0, INF), (-INF, 0), (0.2, 0.3), (-0.1, 2), (3, INF), (-INF, -5.9), (6.1, INF), (-30, -7), (7, 7.1),
     (-40, 40), (12, INF), (-INF, -12)],
)  # fmt: skip
def test_truncated_numbers_have_the_mean_and_spread_of_the_truncated_normal_distribution(low, high):
    n = 100_000
    found = truncated(np.full(n, low), np.full(n, high))
    assert (found >= low).all()
    assert (found <= high).all()
    mean, variance, kurtosis = truncnorm.stats(low, high, moments="mvk")
    # Six standard errors.
    assert abs(found.mean() - mean) < 6 * np.sqrt(variance / n)
    assert abs(found.var() / variance - 1) < 6 * np.sqrt((kurtosis + 2) / n)


def test_truncated_numbers_are_the_quantiles_of_their_words():
    rng = np.random.default_rng(1)
    low = rng.normal(size=2_000) * 2
    high = low + rng.exponential(size=2_000)
    p = (hashed(np.arange(2_000, dtype=np.uint64), np.uint64(1)) >> np.uint64(12)).astype(float) / 2.0**52 + 2.0**-53
    turned = low + high > 0
    a, b = np.where(turned, -high, low), np.where(turned, -low, high)
    expected = ndtri(ndtr(a) + p * (ndtr(b) - ndtr(a))) * np.where(turned, -1, 1)
    assert np.abs(truncated(low, high) - expected)[b > -6].max() < 1e-6


def test_the_vector_of_a_truncated_latent_given_another():
    # Omega = [[2, .6], [.6, 1]], first residual .7, mean -.1: mu = .11, s2 = .82, E(z | z > 0) = .763975.
    n = 400_000
    z = np.array([np.full(n, 0.7), np.zeros(n)])
    draw(z, np.array([np.zeros(n), np.full(n, -0.1)]), np.array([[0], [1]]) * np.ones(n, int), [[2, 0.6], [0.6, 1]],
         [(NUMBER, 0, 0, 0), (ORDERED, 1, 0, 2)], order=[1], cuts=[-INF, 0, INF])  # fmt: skip
    variance = 0.82 + 0.11 * 0.763975 - 0.763975**2
    assert abs(z[1].mean() - 0.763975) < 5 * np.sqrt(variance / n)
    assert z[1].var() == pytest.approx(variance, rel=0.02)


def draw(z, mean, codes, omega, layout, order, cuts=EMPTY, x=None, effects=NO_CODES, u=NOTHING, cluster=NO_CODES,
         wanted=-1, proposed=EMPTY, key=7, first=0, gap=EMPTY, sums=NOTHING):  # fmt: skip
    precision = np.linalg.inv(np.array(omega, float))
    x = np.ones((1, z.shape[1])) if x is None else x
    return _latent.draw_latents(
        z, mean, codes.astype(np.int32), np.array(layout, np.int32), np.array(cuts, float), precision,
        1 / np.sqrt(np.diagonal(precision)), x, np.array(effects, np.int32), u, cluster, np.array(order, np.int32),
        wanted, np.array(proposed, float), key, first, normal_table(), np.empty((len(z), TILE)), gap, sums,
    )  # fmt: skip


@pytest.fixture
def mixed():
    """A number, an ordered column and an unordered one of four levels, in clusters, with holes."""
    n, q = 700, 5
    rng = np.random.default_rng(3)
    layout = [(NUMBER, 0, 0, 0), (ORDERED, 1, 0, 3)] + [(UNORDERED, 2, 2, 3)] * 3
    root = rng.normal(size=(q, q))
    codes = np.array([np.zeros(n), rng.integers(0, 3, n), rng.integers(0, 4, n)]).astype(np.int32)
    codes[rng.random(codes.shape) < 0.2] = -1
    x = np.array([np.ones(n), rng.normal(size=n)])
    cluster = rng.integers(0, 9, n).astype(np.int32)
    return {
        "z": rng.normal(size=(q, n)), "mean": rng.normal(size=(q, n)), "codes": codes,
        "omega": root @ root.T + np.eye(q), "layout": layout, "cuts": [-INF, 0, 1.2, INF], "x": x, "effects": [0, 1],
        "u": rng.normal(size=(9, 2, q)), "cluster": cluster, "order": [1, 0, 2, 3, 4],
    }  # fmt: skip


def plain_bounds(c, y, z, cuts):
    if y < 0 or c == 0:
        return -INF, INF
    if c == 1:
        return cuts[y], cuts[y + 1]
    if y == c - 2:
        return max(0, *(z[d] for d in (2, 3, 4) if d != c)), INF
    return -INF, z[2 + y] if y < 3 else 0


def plain(z, mean, codes, omega, layout, cuts, x, effects, u, cluster, order, key=7):
    """One row after the other, one latent after the other."""
    z, precision = z.copy(), np.linalg.inv(omega)
    for i in range(z.shape[1]):
        m = mean[:, i] + x[effects, i] @ u[cluster[i]]
        for c in order:
            y = codes[layout[c][1], i]
            if c == 0 and y >= 0:
                continue
            mu = z[c, i] - precision[c] @ (z[:, i] - m) / precision[c, c]
            s = precision[c, c] ** -0.5
            low, high = ((b - mu) / s for b in plain_bounds(c, y, z[:, i], cuts))
            word = hashed(np.array([i * len(z) + c], np.uint64), np.uint64(key))[0]
            p = float(word >> np.uint64(12)) / 2.0**52 + 2.0**-53
            if low > -high:
                new = -ndtri(ndtr(-high) + p * (ndtr(-low) - ndtr(-high)))
            else:
                new = ndtri(ndtr(low) + p * (ndtr(high) - ndtr(low)))
            z[c, i] = mu + s * new
    return z


def test_latents_are_drawn_in_turn_as_a_plain_loop_does(mixed):
    expected = plain(**mixed)
    draw(**mixed)
    difference = np.abs(mixed["z"] - expected)
    # A row has an interval beyond six standard deviations now and then; those come by rejection.
    assert (difference.max(axis=0) < 1e-5).mean() > 0.99
    known = mixed["codes"][0] >= 0
    assert (mixed["z"][0] == expected[0])[known].all()
    y, z = mixed["codes"], mixed["z"]
    assert (np.searchsorted([0, 1.2], z[1]) == y[1])[y[1] >= 0].all()
    level = np.where(z[2:].max(axis=0) > 0, z[2:].argmax(axis=0), 3)
    assert (level == y[2])[y[2] >= 0].all()


@pytest.mark.parametrize("cut", [1, 256, 300])
def test_a_row_does_not_depend_on_the_rows_before_it(mixed, cut):
    whole, parts = mixed["z"].copy(), mixed["z"].copy()
    by_row = ("mean", "codes", "x")
    draw(**mixed | {"z": whole, "mean": mixed["mean"].copy()})
    for block in (slice(0, cut), slice(cut, None)):
        some = {name: np.ascontiguousarray(mixed[name][:, block]) for name in by_row}
        draw(**mixed | some | {"z": parts[:, block], "cluster": mixed["cluster"][block], "first": block.start})
    assert (whole == parts).all()


def test_sums_by_cluster_and_the_gap_to_the_conditional_mean(mixed):
    sums, gap = np.zeros((9, 2, 5)), np.empty(700)
    draw(**mixed | {"sums": sums, "order": []})
    x, z, cluster = mixed["x"], mixed["z"], mixed["cluster"]
    expected = [[np.bincount(cluster, x[k] * z[c], 9) for c in range(5)] for k in range(2)]
    np.testing.assert_allclose(sums, np.array(expected).transpose(2, 0, 1), atol=1e-12)
    draw(**mixed | {"gap": gap, "wanted": 3, "order": []})
    precision = np.linalg.inv(mixed["omega"])
    residual = z - mixed["mean"] - np.einsum("ki,ikc->ci", x, mixed["u"][cluster])
    np.testing.assert_allclose(gap, precision[3] @ residual / precision[3, 3], atol=1e-12)


@pytest.mark.parametrize("wanted", [1, 3])
def test_the_ratio_of_proposed_cuts_has_the_latent_integrated_out(mixed, wanted):
    cuts = np.array([-INF, -0.1, 1.3, INF]) if wanted == 1 else np.array([-INF, 0.25, INF])
    found = draw(**mixed | {"wanted": wanted, "proposed": cuts, "order": []})
    z, precision = mixed["z"], np.linalg.inv(mixed["omega"])
    m = mixed["mean"] + np.einsum("ki,ikc->ci", mixed["x"], mixed["u"][mixed["cluster"]])
    mu, s = z[wanted] - precision[wanted] @ (z - m) / precision[wanted, wanted], precision[wanted, wanted] ** -0.5
    expected = 0.0
    for i in range(700):
        y = mixed["codes"][mixed["layout"][wanted][1], i]
        if y < 0:
            continue
        old = plain_bounds(wanted, y, z[:, i], mixed["cuts"])
        new = (cuts[y], cuts[y + 1]) if wanted == 1 else (old[0] + 0.25, old[1] + 0.25)
        masses = []
        for low, high in (new, old):
            a, b = (low - mu[i]) / s, (high - mu[i]) / s
            masses.append(ndtr(-a) - ndtr(-b) if a + b > 0 else ndtr(b) - ndtr(a))
        expected += np.log(max(masses[0], 1e-290) / max(masses[1], 1e-290))
    assert found == pytest.approx(expected, rel=1e-6)


def test_intervals_far_out_have_a_likelihood_still():
    z, mean = np.zeros((1, 2)), np.array([[-20.0, 50.0]])
    codes = np.array([[1, 0]])
    found = draw(z, mean, codes, [[1.0]], [(ORDERED, 0, 0, 2)], [], [-INF, 0, INF], wanted=0, proposed=[-INF, 0.5, INF])
    # P(z > .5) / P(z > 0) of N(-20, 1); the other row is too far out to be compared.
    assert found == pytest.approx(np.log(ndtr(-20.5) / ndtr(-20)), rel=1e-6)
    draw(z, mean, codes, [[1.0]], [(ORDERED, 0, 0, 2)], [0], [-INF, 0, INF])
    assert 0 < z[0, 0] < 1
    assert -1 < z[0, 1] < 0


def posterior_of_correlation(s, n):
    """Mean and standard deviation of r by summation, for variances 1."""
    r = np.linspace(-0.9999, 0.9999, 40_001)
    log = -n / 2 * np.log(1 - r**2) - (s[0, 0] + s[1, 1] - 2 * r * s[0, 1]) / (2 * (1 - r**2))
    weight = np.exp(log - log.max())
    mean = (r * weight).sum() / weight.sum()
    return mean, np.sqrt(((r - mean) ** 2 * weight).sum() / weight.sum())


@pytest.mark.parametrize(("n", "r"), [(20, 0.0), (50, 0.9), (1_000, -0.5)])
def test_covariances_have_their_posterior_distribution(n, r):
    s = n * np.array([[1.1, r], [r, 0.95]])
    omega, draws = np.eye(2), []
    for key in range(6_000):
        precision = np.linalg.inv(omega)
        spread = precision @ s @ precision
        _latent.draw_covariances(
            omega, precision, spread, np.array([[1, 0]], np.int32), n, 8 / np.sqrt(n), key * 7919, np.empty((4, 2))
        )
        draws.append(omega[1, 0])
    draws = np.array(draws[100:])
    mean, sd = posterior_of_correlation(s, n)
    # Slices forget within a few draws: about a third count.
    assert abs(draws.mean() - mean) < 5 * sd / np.sqrt(len(draws) / 3)
    assert draws.std() == pytest.approx(sd, rel=0.1)


def test_inverse_and_spread_follow_the_covariances():
    rng = np.random.default_rng(5)
    a = rng.normal(size=(6, 20))
    s = a @ a.T
    omega = np.eye(6)
    precision, spread = np.eye(6), s.copy()
    pairs = np.ascontiguousarray(np.argwhere(np.tril(np.ones((6, 6)), -1)), np.int32)
    _latent.draw_covariances(omega, precision, spread, pairs, 20, 1.0, 3, np.empty((4, 6)))
    assert (np.diagonal(omega) == 1).all()
    assert np.linalg.eigvalsh(omega).min() > 0
    assert (omega[pairs[:, 0], pairs[:, 1]] != 0).all()
    np.testing.assert_allclose(precision, np.linalg.inv(omega), atol=1e-8)
    np.testing.assert_allclose(spread, precision @ s @ precision, atol=1e-6)
