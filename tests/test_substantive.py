"""The sampler of the analyst's model: draws held against slow twins, posteriors against maximum likelihood."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.stats import norm
from statsmodels.miscmodels.ordinal_model import OrderedModel

from fastsynth.errors import DataError
from fastsynth.streams import random_words
from fastsynth.substantive import Parameters, Substantive, chain_words

N, J = 600, 40


def words_of(sweep, seed=1):
    return partial(chain_words, seed, (0,), sweep)


def data(kind, n=N, clusters=J, seed=0):
    """Matrix (1, x, g, x g), outcome and cluster, with a random intercept and slope of x."""
    rng = np.random.default_rng(seed)
    x, g = rng.normal(size=n), rng.integers(0, 2, n)
    matrix = np.asfortranarray(np.column_stack([np.ones(n), x, g, x * g]))
    cluster = rng.integers(0, clusters, n).astype(np.int32)
    u = rng.normal(size=(clusters, 2)) * [0.5, 0.3]
    z = matrix @ [0.3, 0.4, -0.3, 0.5] + u[cluster, 0] + u[cluster, 1] * x + rng.normal(size=n)
    if kind == "continuous":
        return matrix, z, 0, cluster
    cuts = {"binary": [0.0], "ordered": [0.0, 0.7, 1.5]}[kind]
    return matrix, np.searchsorted(cuts, z).astype(np.int32), len(cuts) + 1, cluster


def chain(model, x, y, cluster, n_sweeps, burn_in, seed=1):
    parameters, kept = model.start(words_of(0, seed)), []
    sums = model.sums(x, y, cluster)
    for sweep in range(1, n_sweeps + 1):
        parameters = model.sweep(parameters, x, y, cluster, words_of(sweep, seed), sums)
        if sweep > burn_in:
            kept.append(parameters)
    return kept


def test_coefficients_are_drawn_from_the_marginal_model_and_effects_given_them():
    """Many draws from the same state: moments of beta by the dense covariance of y, and of u by the textbook."""
    x, y, _, cluster = data("continuous", 60, 6)
    model = Substantive.of("continuous", 0, x, y, (0, 1), 6)
    old = Parameters(np.zeros(4), 0.8, np.zeros(0), np.array([[0.3, 0.1], [0.1, 0.2]]), np.zeros((6, 2)))
    z_of = np.zeros((60, 12))
    z_of[np.arange(60), 2 * cluster], z_of[np.arange(60), 2 * cluster + 1] = 1, x[:, 1]
    inverse = np.linalg.inv(0.8 * np.eye(60) + z_of @ np.kron(np.eye(6), old.tau2) @ z_of.T)
    covariance = np.linalg.inv(x.T @ inverse @ x + np.eye(4) / (10 * model.scale) ** 2)
    mean = covariance @ (x.T @ inverse @ (y - model.centre))
    sums, n = model.sums(x, y, cluster), 4_000
    drawn = [model._coefficients(old, x, y - model.centre, cluster, words_of(i), sums) for i in range(n)]
    beta = np.array([b for b, _ in drawn])
    error = np.sqrt(np.diag(covariance) / n)
    assert (np.abs(beta.mean(0) - mean) < 4.5 * error).all()
    np.testing.assert_allclose(np.cov(beta.T), covariance, atol=6 * covariance.max() * np.sqrt(2 / n))
    # u less its mean given beta has the covariance of the textbook, and does not depend on beta.
    part = np.linalg.inv(z_of.T @ z_of / 0.8 + np.kron(np.eye(6), np.linalg.inv(old.tau2)))
    left = np.array([u.ravel() - part @ (z_of.T @ (y - model.centre - x @ b)) / 0.8 for b, u in drawn])
    assert (np.abs(left.mean(0)) < 4.5 * np.sqrt(np.diag(part) / n)).all()
    np.testing.assert_allclose(np.cov(left.T), part, atol=6 * part.max() * np.sqrt(2 / n))


def test_covariance_is_inverse_wishart():
    """From many sweeps with u fixed: of many clusters the prior counts for little, and the mean is nearly u'u / J."""
    rng = np.random.default_rng(2)
    u = rng.normal(size=(2_000, 2)) @ np.array([[0.7, 0.0], [0.2, 0.4]])
    x, y, _, _ = data("continuous")
    model = Substantive.of("continuous", 0, x, y, (0, 1), 2_000)
    tau2, kept = np.eye(2), []
    for i in range(400):
        tau2 = model._covariance(u, tau2, words_of(i))
        kept.append(tau2)
    kept, wanted = np.array(kept[20:]), u.T @ u / 2_000
    se = np.sqrt((wanted**2 + np.outer(np.diag(wanted), np.diag(wanted))) / 2_000)
    np.testing.assert_array_less(np.abs(kept.mean(0) - wanted), 5 * se / np.sqrt(380) + 2e-3)
    np.testing.assert_allclose(kept.std(0), se, rtol=0.2)


def test_without_clusters_it_is_least_squares():
    x, y, _, _ = data("continuous")
    model = Substantive.of("continuous", 0, x, y)
    kept = chain(model, x, y, None, 1_020, 20)
    fit = sm.OLS(y, x).fit()
    beta = np.array([p.beta for p in kept])
    assert (np.abs(beta.mean(0) - fit.params) < 4.5 * fit.bse / np.sqrt(1_000)).all()
    np.testing.assert_allclose(beta.std(0), fit.bse, rtol=0.12)
    assert abs(np.mean([p.sigma2 for p in kept]) / fit.scale - 1) < 0.02


def test_random_slopes_agree_with_maximum_likelihood():
    x, y, _, cluster = data("continuous", 2_000, 100)
    kept = chain(Substantive.of("continuous", 0, x, y, (0, 1), 100), x, y, cluster, 1_100, 100)
    fit = sm.MixedLM(y, x, cluster, exog_re=x[:, :2]).fit()
    beta = np.array([p.beta for p in kept])
    assert (np.abs(beta.mean(0) - fit.fe_params) < 0.2 * fit.bse_fe).all()
    np.testing.assert_allclose(beta.std(0), fit.bse_fe, rtol=0.15)
    tau2 = np.array([p.tau2 for p in kept])
    # Posterior means of variances lie above their modes, by a few per cent with 100 clusters.
    np.testing.assert_allclose(np.diag(tau2.mean(0)), np.diag(np.asarray(fit.cov_re)), rtol=0.12)
    u = np.mean([p.u for p in kept], axis=0)
    blup = np.array([fit.random_effects[j] for j in range(100)])
    assert np.corrcoef(u[:, 0], blup[:, 0])[0, 1] > 0.999


@pytest.mark.parametrize("kind", ["binary", "ordered"])
def test_probit_agrees_with_maximum_likelihood(kind):
    rng = np.random.default_rng(4)
    x, _, _, _ = data(kind, 1_500)
    z = x @ [0.3, 0.4, -0.3, 0.5] + rng.normal(size=1_500)
    cuts = [0.0] if kind == "binary" else [0.0, 0.7, 1.5]
    y = np.searchsorted(cuts, z).astype(np.int32)
    kept = chain(Substantive.of(kind, len(cuts) + 1, x, y), x, y, None, 2_200, 200)
    if kind == "binary":
        fit = sm.Probit(y, x).fit(disp=0)
        slopes, errors = fit.params, fit.bse
    else:
        fit = OrderedModel(y, x[:, 1:], distr="probit").fit(method="bfgs", disp=0)
        thresholds = fit.model.transform_threshold_params(fit.params)[1:-1]
        slopes, errors = np.append(-thresholds[0], fit.params[:3]), np.append(0.05, fit.bse[:3])
        found = np.mean([p.thresholds for p in kept], axis=0)
        np.testing.assert_allclose(found, thresholds - thresholds[0], atol=0.02)
        assert found[0] == 0
    beta = np.array([p.beta for p in kept])
    assert (np.abs(beta.mean(0) - slopes) < 0.35 * errors).all()
    np.testing.assert_allclose(beta.std(0)[1:], errors[1:], rtol=0.2)


@pytest.mark.parametrize("kind", ["continuous", "binary", "ordered"])
def test_log_density_is_that_of_scipy(kind):
    x, y, n_levels, cluster = data(kind)
    model = Substantive.of(kind, n_levels, x, y, (0, 1), J)
    p = chain(model, x, y, cluster, 30, 29)[0]
    mean = x @ p.beta + (p.u[cluster] * x[:, :2]).sum(1)
    if kind == "continuous":
        wanted = norm.logpdf(y, mean, np.sqrt(p.sigma2)) + 0.5 * np.log(2 * np.pi * p.sigma2)
    else:
        cuts = np.concatenate([[-np.inf], p.thresholds, [np.inf]])
        wanted = np.log(norm.cdf(cuts[y + 1] - mean) - norm.cdf(cuts[y] - mean))
    y[:5] = np.nan if kind == "continuous" else -1
    wanted[:5] = 0
    np.testing.assert_allclose(model.log_density(p, x, y, cluster), wanted, atol=1e-9)


@pytest.mark.parametrize("kind", ["continuous", "binary", "ordered"])
def test_rows_without_an_outcome_tell_nothing(kind):
    x, y, n_levels, cluster = data(kind)
    holes = y.copy()
    holes[::4] = np.nan if kind == "continuous" else -1
    left = np.arange(N) % 4 > 0
    with_holes = Substantive.of(kind, n_levels, x, holes, (0,), J)
    without = Substantive.of(kind, n_levels, x[left], y[left], (0,), J)
    a = chain(with_holes, x, holes, cluster, 5, 4)[0]
    b = chain(without, x[left], y[left], cluster[left], 5, 4)[0]
    np.testing.assert_allclose(a.beta, b.beta, rtol=1e-9)
    full = with_holes.completed(a, x, holes, cluster, random_words(1, (1,), N))
    np.testing.assert_array_equal(full[left], y[left])
    assert full.dtype == y.dtype
    assert (full >= 0).all() if n_levels else np.isfinite(full).all()
    assert np.isnan(holes[0]) if kind == "continuous" else holes[0] == -1


def test_draws_of_an_ordered_outcome_have_the_shares_of_the_model():
    n = 100_000
    x = np.ones((n, 1))
    model = Substantive.of("ordered", 3, x, np.arange(n, dtype=np.int32) % 3)
    p = Parameters(np.array([0.2]), 1.0, np.array([0.0, 0.9]), np.zeros((0, 0)), np.zeros((0, 0)))
    share = np.bincount(model.draw(p, x, random_words(1, (1,), n))) / n
    wanted = np.diff(norm.cdf([-np.inf, -0.2, 0.7, np.inf]))
    np.testing.assert_allclose(share, wanted, atol=4.5 * 0.5 / np.sqrt(n))


def test_new_clusters_have_the_covariance_of_the_model():
    x, y, _, _ = data("continuous")
    model = Substantive.of("continuous", 0, x, y, (0, 1), J)
    tau2 = np.array([[0.5, -0.2], [-0.2, 0.3]])
    p = Parameters(np.zeros(4), 1.0, np.zeros(0), tau2, np.zeros((J, 2)))
    u = model.effects(p, random_words(1, (1,), 40_000).reshape(2, -1))
    np.testing.assert_allclose(np.cov(u.T), tau2, atol=6 * 0.5 * np.sqrt(2 / 20_000))


def test_a_draw_is_the_same_for_any_block_of_rows():
    x, y, n_levels, cluster = data("ordered")
    model = Substantive.of("ordered", n_levels, x, y, (0, 1), J)
    p = chain(model, x, y, cluster, 3, 2)[0]
    words = random_words(1, (1,), N)
    whole = model.predictor(p, x, cluster)
    np.testing.assert_array_equal(model.predictor(p, x[33:77], cluster[33:77]), whole[33:77])
    np.testing.assert_array_equal(
        model.draw(p, x[33:77], words[33:77], cluster[33:77]), model.draw(p, x, words, cluster)[33:77]
    )


def test_columns_that_others_explain_have_no_coefficient():
    x, y, _, cluster = data("continuous")
    more = np.column_stack([x, np.zeros(N), x[:, 1] - 2 * x[:, 2]])
    model = Substantive.of("continuous", 0, more, y, (0,), J)
    assert model.used.tolist() == [True] * 4 + [False] * 2
    p = chain(model, more, y, cluster, 10, 9)[0]
    assert p.beta[4:].tolist() == [0, 0]
    fewer = chain(Substantive.of("continuous", 0, x, y, (0,), J), x, y, cluster, 10, 9)[0]
    assert np.abs(p.beta[:4] - fewer.beta).max() < 0.5


def test_perfect_separation_leaves_the_chain_finite():
    x = np.column_stack([np.ones(200), np.repeat([-1.0, 1.0], 100)])
    y = np.repeat([0, 1], 100).astype(np.int32)
    model = Substantive.of("binary", 2, x, y)
    beta = np.array([p.beta for p in chain(model, x, y, None, 400, 100)])
    assert (np.abs(beta) < 20).all()
    assert beta[:, 1].min() > 1
    drawn = model.draw(
        Parameters(beta[-1], 1.0, np.zeros(1), np.zeros((0, 0)), np.zeros((0, 0))), x, random_words(1, (1,), 200)
    )
    assert (drawn == y).mean() > 0.97


@pytest.mark.parametrize("rows", [0, 1])
def test_a_level_of_one_person_or_nobody(rows):
    x, y, _, cluster = data("ordered")
    y[y == 2] = 1
    y[:rows] = 2
    model = Substantive.of("ordered", 4, x, y, (0,), J)
    kept = chain(model, x, y, cluster, 300, 100)
    gap = np.array([np.diff(p.thresholds)[1] for p in kept])
    assert np.isfinite(gap).all()
    assert (gap > 0).all()
    share = np.mean([(model.draw(p, x, random_words(1, (i,), N), cluster) == 2).mean() for i, p in enumerate(kept)])
    assert share < 0.02


def test_clusters_of_one_row_and_of_none():
    x, y, _, _ = data("continuous")
    model = Substantive.of("continuous", 0, x, y, (0, 1), N + 50)
    kept = chain(model, x, y, np.arange(N, dtype=np.int32), 50, 20)
    assert all(np.isfinite(p.u).all() and np.isfinite(p.beta).all() for p in kept)
    # Clusters without rows have effects from the model.
    spread = np.mean([p.u[N:, 0].var() / p.tau2[0, 0] for p in kept])
    assert abs(spread - 1) < 4.5 * np.sqrt(2 / 50 / 10)


def test_fewer_rows_than_coefficients():
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(5), rng.normal(size=(5, 9))])
    y = rng.normal(size=5)
    kept = chain(Substantive.of("continuous", 0, x, y), x, y, None, 50, 10)
    assert all(np.isfinite(p.beta).all() and p.sigma2 > 0 for p in kept)


def test_scale_of_the_outcome_does_not_matter():
    x, y, _, cluster = data("continuous")
    a = chain(Substantive.of("continuous", 0, x, y, (0,), J), x, y, cluster, 20, 19)[0]
    b = chain(Substantive.of("continuous", 0, x, 1e6 * y + 5e7, (0,), J), x, 1e6 * y + 5e7, cluster, 20, 19)[0]
    np.testing.assert_allclose(b.beta, 1e6 * a.beta + [5e7, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(b.tau2, 1e12 * a.tau2, rtol=1e-6)


def test_input_is_not_changed():
    for kind in ("continuous", "binary", "ordered"):
        x, y, n_levels, cluster = data(kind)
        before = x.copy(), y.copy(), cluster.copy()
        model = Substantive.of(kind, n_levels, x, y, (0, 1), J)
        first = model.start(words_of(0))
        kept = first.beta.copy(), first.thresholds.copy()
        model.sweep(first, x, y, cluster, words_of(1))
        for a, b in zip((x, y, cluster, first.beta, first.thresholds), (*before, *kept)):
            np.testing.assert_array_equal(a, b)


def test_bad_outcomes():
    x = np.ones((4, 1))
    for y, what in (
        (np.full(4, np.nan), "'score' has no value"),
        (np.array([1, 2, np.inf, 3]), "'score' has infinite values"),
        (np.ones(4), "'score' has one value only"),
    ):
        with pytest.raises(DataError, match=what):
            Substantive.of("continuous", 0, x, y, name="score")
    codes = np.array([0, 1, 2, -1], np.int32)
    for kind in ("binary", "unordered"):
        with pytest.raises(DataError, match="'job' is a category of 3 levels without order"):
            Substantive.of(kind, 3, x, codes, name="job")
    with pytest.raises(DataError, match="one value only"):
        Substantive.of("binary", 2, x, np.array([1, 1, -1, 1], np.int32))
