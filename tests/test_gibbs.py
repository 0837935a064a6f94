"""One sweep: each step against a plain computation, and each conditional distribution against its formula."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.special import ndtri

from fastsynth import gibbs
from fastsynth.gibbs import State, Words, draw_covariance, draw_effects, draw_inverse_wishart, start, sweep
from fastsynth.joint_data import JointData, prepare
from fastsynth.latents import LatentColumn

KINDS = (
    LatentColumn("a", "continuous"),
    LatentColumn("b", "continuous", transform="boxcox"),
    LatentColumn("c", "ordered", 3),
    LatentColumn("d", "unordered", 3),
    LatentColumn("v", "continuous", level=2),
    LatentColumn("w", "ordered", 3, level=2),
)


def mixed(n=900, n_clusters=40, slopes=(1,), seed=1):
    """All kinds at both levels, with holes, one predictor that varies within clusters and one that does not."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, n_clusters, n).astype(np.int32)
    u = rng.normal(size=n_clusters)
    x = np.column_stack([np.ones(n), 3 + 2 * rng.normal(size=n), rng.normal(size=n_clusters)[cluster]])
    a = 10 + x[:, 1] + u[cluster] + rng.normal(size=n)
    values = [
        a, np.exp(0.3 * a + rng.normal(size=n)), np.digitize(a - 12 + rng.normal(size=n), [0, 2]),
        rng.integers(0, 3, n), u + rng.normal(size=n_clusters), np.digitize(u, [-0.5, 0.5]),
    ]  # fmt: skip
    for i, v in enumerate(values):
        number = v.dtype == np.float64
        values[i] = np.where(rng.random(len(v)) < 0.1, np.nan if number else -1, v).astype(
            float if number else np.int32
        )
    return JointData(KINDS, tuple(values), x, None, cluster, n_clusters, slopes)


class Still(Words):
    """Words that make no noise, or that of one place."""

    def __init__(self, at=None):
        self.at, self.place = at, 0

    def normal(self, *shape):
        out = np.zeros(int(np.prod(shape)))
        here = np.arange(self.place, self.place + len(out))
        out[here == self.at] = 1
        self.place += len(out)
        return out.reshape(shape)


def random_covariance(q, seed):
    a = np.random.default_rng(seed).normal(size=(q, q + 2))
    return a @ a.T / q


def test_starting_cuts_are_those_of_the_margins():
    # 20, 50, 30 per cent: -.841621 and .524401; the first one stands in the intercept.
    codes = np.repeat(np.arange(3, dtype=np.int32), [200, 500, 300])
    x = np.ones((1_000, 1))
    problem = prepare(JointData((LatentColumn("o", "ordered", 3),), (codes,), x))
    state = start(problem, 0, 1)
    np.testing.assert_allclose(state.one.cuts[1:3], [0, 0.5244005127080407 + 0.8416212335729142], rtol=1e-12)
    scatter = start(problem, 1, 1).one.beta[0, 0] - state.one.beta[0, 0]
    assert scatter != 0
    assert abs(state.one.beta[0, 0] - 0.8416212335729142) < 1.5
    assert (np.searchsorted(state.one.cuts[1:3], state.one.z[0]) == codes).all()


def test_latents_begin_where_their_values_say():
    problem = prepare(mixed())
    for level, now in ((problem.one, start(problem, 0, 3).one), (problem.two, start(problem, 0, 3).two)):
        for i, column in enumerate(level.columns):
            known = level.codes[i] >= 0
            if column.kind != "continuous":
                levels = level.layout.levels_of(i, now.z, now.cuts)
                assert (levels == level.codes[i])[known].all()
            else:
                z = now.z[level.layout.first_of(i), known]
                assert abs(z.mean()) < 1e-9
                assert z.std() == pytest.approx(1)


@pytest.mark.parametrize("slopes", [(), (1,)])
def test_sums_of_squares_come_from_sums_alone(slopes):
    data = mixed(slopes=slopes)
    problem = prepare(data)
    state = start(problem, 0, 5)
    for _ in range(3):
        sweep(problem, state, 5, True)
    x, z, effects = problem.one.x, state.one.z, list(data.effects)
    sums = np.zeros((40, len(effects), len(z)))
    for i, j in enumerate(data.cluster):
        sums[j] += np.outer(x[effects, i], z[:, i])
    residual = z.T - x.T @ state.one.beta - np.einsum("ki,ikq->iq", x[effects], state.u[data.cluster])
    found = gibbs._sum_of_squares(problem, state, z @ z.T, x @ z.T, sums)
    np.testing.assert_allclose(found, residual.T @ residual, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize(("e", "q"), [(1, 1), (1, 3), (2, 2), (3, 1)])
def test_effects_have_mean_and_covariance_of_their_conditional_distribution(e, q):
    d, rng = e * q, np.random.default_rng(e + q)
    k, c = random_covariance(q, 1), random_covariance(d, 2)
    z = rng.normal(size=(4, 7, e))
    crossed = z.transpose(0, 2, 1) @ z
    linear = rng.normal(size=(4, d))
    centre = draw_effects(crossed, k, c, linear, Still())
    for j in range(4):
        expected = np.linalg.inv(np.kron(crossed[j], k) + np.linalg.inv(c))
        np.testing.assert_allclose(centre[j], expected @ linear[j], atol=1e-10)
        roots = [draw_effects(crossed, k, c, linear, Still(j * d + i))[j] - centre[j] for i in range(d)]
        np.testing.assert_allclose(np.array(roots).T @ np.array(roots), expected, atol=1e-10)


def test_batches_of_clusters_change_nothing(monkeypatch):
    rng = np.random.default_rng(3)
    z = rng.normal(size=(50, 7, 2))
    arguments = z.transpose(0, 2, 1) @ z, random_covariance(2, 1), random_covariance(4, 2), rng.normal(size=(50, 4))
    whole = draw_effects(*arguments, Words(1, 0, 0, 200))
    monkeypatch.setattr(gibbs, "BATCH", 100)
    np.testing.assert_allclose(draw_effects(*arguments, Words(1, 0, 0, 200)), whole, rtol=1e-12)


def test_inverse_wishart_matrices_have_the_mean_that_they_should():
    scale, df, n = random_covariance(3, 4), 30.0, 4_000
    words = Words(1, 0, 0, 15 * n)
    draws = [draw_inverse_wishart(scale, df, words) for _ in range(n)]
    np.testing.assert_allclose(draws[0][0] @ draws[0][1], np.eye(3), atol=1e-9)
    expected = scale / (df - 4)
    spread = np.sqrt(np.outer(np.diagonal(expected), np.diagonal(expected)) * 2 / (df - 4))
    assert (np.abs(np.mean([draw for draw, _ in draws], axis=0) - expected) < 5 * spread / np.sqrt(n)).all()


def test_covariances_of_free_and_of_fixed_variances():
    """Many rows: draws lie around what the sums of squares say, with the spread of the Wishart distribution."""
    omega = np.array([[1, 0.5, 0.3, 0.2], [0.5, 1, 0.1, 0.4], [0.3, 0.1, 2, 0.6], [0.2, 0.4, 0.6, 3]])
    constrained, n = np.array([True, True, False, False]), 4_000
    draws, current, scales = [], np.eye(4), np.ones(4)
    for i in range(1_500):
        words = Words(i, 0, 0, 100)
        current, scales = draw_covariance(
            n * omega, n, current, scales, constrained, np.array([[1, 0]], np.int32), words
        )
        draws.append(current)
    draws = np.array(draws[50:])
    assert (draws[:, [0, 1], [0, 1]] == 1).all()
    np.testing.assert_allclose(draws, draws.transpose(0, 2, 1), rtol=1e-12)
    assert np.linalg.eigvalsh(draws).min() > 0
    spread = np.sqrt((omega**2 + np.outer(np.diagonal(omega), np.diagonal(omega))) / n)
    # The prior counts like a row or two; slices forget within a few draws.
    assert (np.abs(draws.mean(axis=0) - omega) < 5 * spread / np.sqrt(len(draws) / 4) + 3 * omega / n).all()
    free = draws.std(axis=0)[2:, 2:] / spread[2:, 2:]
    np.testing.assert_allclose(free, 1, atol=0.1)


def test_a_shift_leaves_what_rows_see_as_it_was():
    data = mixed()
    problem = prepare(data)
    assert problem.between.tolist() == [0, 2]
    state = start(problem, 0, 5)
    sweep(problem, state, 5, True)
    x, effects = problem.one.x, list(data.effects)

    def fitted():
        return x.T @ state.one.beta + np.einsum("ki,ikq->iq", x[effects], state.u[data.cluster])

    before, beta = fitted(), state.one.beta.copy()
    words = Words(9, 0, 0, 1_000)
    for k in range(2):
        gibbs._shift(problem, state, k, np.zeros((40, 10)), state.omega_2[:10, :10], np.eye(5), words)
    np.testing.assert_allclose(fitted(), before, atol=1e-9)
    assert (state.one.beta != beta).all()


def test_rescaling_keeps_correlations_and_chooses_likely_factors():
    data = mixed(slopes=())
    problem = prepare(data)
    state = start(problem, 0, 5)
    for _ in range(5):
        sweep(problem, state, 5, True)
    sums = np.zeros((40, 1, 5))
    np.add.at(sums[:, 0], data.cluster, state.one.z.T)
    precision = np.linalg.inv(state.omega_e)
    old = State(**{name: getattr(state, name) for name in State.__slots__})
    gibbs._rescale(problem, state, sums, precision, Still())
    factor = state.u[0, 0] / old.u[0, 0]
    np.testing.assert_allclose(state.u, old.u * factor, rtol=1e-9)
    turn = np.append(factor, [1, 1])
    np.testing.assert_allclose(state.omega_2, old.omega_2 * np.outer(turn, turn), rtol=1e-9)
    np.testing.assert_allclose(state.scales_2, old.scales_2 * turn**2, rtol=1e-9)
    # The last factor has all others given: the likeliest one, but for the prior.
    x, z = problem.one.x, state.one.z

    def fit(g):
        u = np.concatenate([state.u[:, 0, :4], g * old.u[:, 0, 4:]], axis=1)
        r = z.T - x.T @ state.one.beta - u[data.cluster]
        return -np.einsum("iq,qr,ir->", r, precision, r) / 2 - old.scales_2[4] * g**2 / gibbs.A**2

    best = fit(factor[4])
    assert best > fit(factor[4] + 0.01)
    assert best > fit(factor[4] - 0.01)


def test_parameters_move_and_known_values_stay():
    data = mixed()
    problem = prepare(data)
    state = start(problem, 0, 5)
    sweep(problem, state, 5, True)
    before = [state.one.beta, state.one.cuts[2], state.one.shapes[1, 0], state.omega_e, state.omega_2, state.two.z[0]]
    before = [np.array(b) for b in before]
    for _ in range(30):
        sweep(problem, state, 5, False)
    after = [state.one.beta, state.one.cuts[2], state.one.shapes[1, 0], state.omega_e, state.omega_2, state.two.z[0]]
    assert all((one != other).any() for one, other in zip(before, after))
    known = problem.one.codes[0] >= 0
    assert (state.one.z[0] == problem.one.z[0])[known].all()
    for i in (2, 3):
        known = problem.one.codes[i] >= 0
        assert (problem.one.layout.levels_of(i, state.one.z, state.one.cuts) == problem.one.codes[i])[known].all()
    known = problem.two.codes[1] >= 0
    assert (problem.two.layout.levels_of(1, state.two.z, state.two.cuts) == problem.two.codes[1])[known].all()
    # Box-Cox: latents are those of the present power.
    known = problem.one.codes[1] >= 0
    power, location, scale = state.one.shapes[1]
    z = (gibbs.box_cox(problem.one.powers[0].logs, power) - location) / scale
    np.testing.assert_allclose(state.one.z[1, known], z)


def test_blocks_of_rows_change_nothing_but_rounding(monkeypatch):
    states = []
    for size in (64, 4_096):
        monkeypatch.setattr(gibbs, "BLOCK", size)
        problem = prepare(mixed())
        state = start(problem, 0, 5)
        sweep(problem, state, 5, True)
        states.append(state)
    np.testing.assert_allclose(states[0].one.z, states[1].one.z, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(states[0].omega_2, states[1].omega_2, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("slopes", [(), (1,)])
def test_the_words_of_a_sweep_are_enough(slopes):
    """Sweeps with different proposals take different numbers of words, never more than were made."""
    data = mixed(n_clusters=20, slopes=slopes)
    problem = prepare(data)
    state = start(problem, 0, 5)
    taken = []
    plain = Words._take

    def counted(self, n):
        out = plain(self, n)
        assert out.stop - out.start == n
        assert out.stop <= len(self._words)
        taken.append(n)
        return out

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Words, "_take", counted)
        sweep(problem, state, 5, True)
    assert sum(taken) <= problem.n_words


def test_rare_levels_have_their_intercept_proposed():
    rng = np.random.default_rng(1)
    n = 1_000
    columns = LatentColumn("a", "binary", 2), LatentColumn("b", "binary", 2), LatentColumn("c", "unordered", 4)
    values = rng.random(n) < 0.02, rng.random(n) < 0.5, rng.choice(4, n, p=[0.5, 0.04, 0.26, 0.2])
    problem = prepare(JointData(columns, tuple(v.astype(np.int32) for v in values), np.ones((n, 1))))
    assert [t.latent for t in problem.one.thresholds] == [0, 3]
    assert problem.one.latents.tolist() == [1, 2, 4]
    state, draws = start(problem, 0, 1), []
    for i in range(1_500):
        sweep(problem, state, 1, i < 500)
        draws.append(state.one.beta[0].copy())
    share = values[0].mean()
    sd = np.sqrt(share * (1 - share) / n) / (np.exp(-(ndtri(share) ** 2) / 2) / np.sqrt(2 * np.pi))
    draws = np.array(draws[500:])
    # The posterior is skew; a fifth of its standard deviation is left to chance and shape.
    assert abs(draws[:, 0].mean() - ndtri(share)) < 0.5 * sd
    assert draws[:, 0].std() == pytest.approx(sd, rel=0.3)


def test_pairs_that_are_free_leave_out_those_of_one_column():
    problem = prepare(mixed())
    assert problem.one.pairs.tolist() == [[1, 0], [2, 0]]
    both = list(itertools.product([1, 2], [0]))
    assert [tuple(pair) for pair in problem.one.pairs] == both
