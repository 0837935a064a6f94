"""The analyst's model beside a joint model: chains, missing covariates, copies, saving; interactions survive."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from fastsynth import gibbs
from fastsynth.errors import DataError
from fastsynth.execute import Threads
from fastsynth.gibbs import Review, Words, start
from fastsynth.joint import run_chains
from fastsynth.joint_data import NO_CODES, JointData, prepare
from fastsynth.latents import LatentColumn
from fastsynth.outcome import Covariates, Outcome, OutcomeModel
from fastsynth.streams import random_words
from fastsynth.terms import Terms

TERMS = Terms.parse("y ~ x*g + (1 | j)")
TRUTH = {"beta[intercept]": 0.3, "beta[x]": 0.5, "beta[g[1]]": -0.3, "beta[x:g[1]]": 0.6}
TAU2 = 0.3
COLUMNS = LatentColumn("x", "continuous"), LatentColumn("g", "binary", 2)


def holes(values, missing):
    return np.where(missing, np.nan if values.dtype == float else -1, values).astype(values.dtype)


def data(kind, n=1_000, clusters=60, seed=0):
    """Covariates whose latents are bivariate normal, outcome and clusters; and the latents with that of the outcome."""
    rng = np.random.default_rng(seed)
    latent = rng.multivariate_normal([5, 0], [[1, 0.4], [0.4, 1]], n)
    values = {"x": latent[:, 0], "g": (latent[:, 1] > 0).astype(np.int32)}
    cluster = rng.integers(0, clusters, n).astype(np.int32)
    z = 0.3 + 0.5 * values["x"] - 0.3 * values["g"] + 0.6 * values["x"] * values["g"]
    z += rng.normal(0, math.sqrt(TAU2), clusters)[cluster] + rng.normal(size=n)
    if kind == "binary":
        # Centred, so that both levels are common.
        z = z - 4.0
        return values, (z > 0).astype(np.int32), cluster, np.column_stack([latent, z])
    return values, z, cluster, np.column_stack([latent, z])


def fit(kind, values, y, cluster, *, given=True, n_draws=6, thin=40, chains=2, threads=1, seed=1, burn_in=100):
    """Chains of the outcome alone, all covariates being given; or of these as well."""
    n_levels = 2 * (kind == "binary")
    outcome = Outcome(TERMS, kind, n_levels, y, values if given else {}, {"g": 2} if given else {})
    columns, of_columns = ((), ()) if given else (COLUMNS, (values["x"], values["g"]))
    joint = JointData(columns, of_columns, np.ones((len(y), 1)), None, cluster, 60)
    options = {"n_draws": n_draws, "burn_in": burn_in, "thin": thin, "chains": chains, "entropy": seed}
    return run_chains(joint, outcome, executor=Threads(threads), **options)


def after(chains):
    """Values of the outcome's parameters after burn-in, by name."""
    late = chains.sweeps > chains.burnt
    return {name[3:]: trace[:, late] for name, trace in chains.trace.items() if name.startswith("y: ")}


@pytest.mark.parametrize("given", [True, False])
def test_chains_are_the_same_for_any_number_of_threads_and_go_on(given):
    values, y, cluster, _ = data("continuous", 300)
    values["x"][::7] = values["x"][::7] if given else np.nan
    one, two = (fit("continuous", values, y, cluster, given=given, threads=threads) for threads in (1, 2))
    for name, trace in one.trace.items():
        np.testing.assert_array_equal(trace, two.trace[name])
    assert [d.sigma2 for d in one.outcome.draws] == [d.sigma2 for d in two.outcome.draws]
    longer = fit("continuous", values, y, cluster, given=given, n_draws=10)
    joined = one.continued(4)
    np.testing.assert_array_equal(longer.trace["y: beta[x]"], joined.trace["y: beta[x]"])
    assert [d.sigma2 for d in longer.outcome.draws] == [d.sigma2 for d in joined.outcome.draws]
    assert {p.name for p in one.parameters} >= {f"y: {name}" for name in TRUTH}
    assert len(one.model) == len(one.outcome.draws) == 6


def test_draws_are_dealt_over_the_chains():
    values, y, cluster, _ = data("continuous", 100)
    chains = fit("continuous", values, y, cluster, n_draws=5, thin=100)
    sigma2 = [draw.sigma2 for draw in chains.outcome.draws]
    np.testing.assert_array_equal(sigma2[::2], chains.trace["y: sigma2"][0, 199::100])
    np.testing.assert_array_equal(sigma2[1::2], chains.trace["y: sigma2"][1, 199:399:100])
    assert "y: beta[x]" in fit("continuous", values, y, cluster, n_draws=2, thin=2, burn_in=1).not_converged


@pytest.mark.parametrize("kind", ["continuous", "binary"])
def test_state_goes_through_json_and_gives_the_same_draws(kind):
    values, y, cluster, _ = data(kind, 300)
    model = fit(kind, values, y, cluster).outcome
    record, arrays = model.state()
    again = OutcomeModel.of_state(json.loads(json.dumps(record)), arrays)
    words, words2 = random_words(1, (1,), 300)[None], random_words(1, (2,), 60)[None]
    assert (model.n_words, model.n_words2) == (1, 1)
    for copy in range(7):
        drawn = model.draw(copy, values, words, cluster, words2)
        np.testing.assert_array_equal(drawn, again.draw(copy, values, words, cluster, words2))
        np.testing.assert_array_equal(
            model.draw(copy, values, words, cluster), again.draw(copy, values, words, cluster)
        )
        assert drawn.dtype == y.dtype
    np.testing.assert_array_equal(drawn, model.draw(0, values, words, cluster, words2))


def test_kept_clusters_keep_their_effects_and_new_ones_do_not():
    values, y, cluster, _ = data("continuous", 6_000)
    model = fit("continuous", values, y, cluster, n_draws=2).outcome
    words, words2 = random_words(1, (1,), 6_000)[None], random_words(1, (2,), 60)[None]
    rows = np.bincount(cluster)

    def means(of):
        left = of - model.design.matrix(values) @ model.draws[0].beta
        return np.bincount(cluster, left) / rows

    kept, new = model.draw(0, values, words, cluster), model.draw(0, values, words, cluster, words2)
    assert np.corrcoef(means(y), means(kept))[0, 1] > 0.9
    assert abs(np.corrcoef(means(y), means(new))[0, 1]) < 4 / math.sqrt(60)


def test_a_model_without_clusters_and_one_without_covariates():
    values, y, _, _ = data("continuous", 300)
    ones = np.ones((300, 1))
    for terms, given in ((Terms.parse("y ~ x*g"), values), (Terms.parse("y ~ 1"), {})):
        outcome = Outcome(terms, "continuous", 0, y, given, {"g": 2} if given else {})
        chains = run_chains(JointData((), (), ones), outcome, n_draws=2, burn_in=10, thin=5, chains=1, entropy=1)
        assert chains.outcome.n_words2 == 0
        assert set(after(chains)) == ({*TRUTH, "sigma2"} if given else {"beta[intercept]", "sigma2"})
        if given:
            assert np.isfinite(chains.outcome.draw(1, values, random_words(1, (1,), 300)[None])).all()


@pytest.mark.parametrize("kind", ["continuous", "binary"])
def test_the_truth_lies_within_two_posterior_standard_deviations(kind):
    """In 95 % of 12 tables times 5 parameters, less 4 standard errors of tables whose parameters go together."""
    truth = TRUTH | {"tau2[intercept, intercept]": TAU2}
    if kind == "binary":
        truth = truth | {"beta[intercept]": 0.3 - 4.0}
    inside = []
    for seed in range(12):
        values, y, cluster, _ = data(kind, seed=seed)
        trace = after(fit(kind, values, y, cluster, n_draws=1, thin=300, chains=1, seed=seed))
        inside.append([abs(trace[name].mean() - value) < 2 * trace[name].std() for name, value in truth.items()])
    share = np.mean(inside, axis=1)
    assert abs(share.mean() - 0.954) < max(4 * share.std(ddof=1) / math.sqrt(12), 0.08)


def test_an_interaction_survives_in_copies_and_is_lost_in_a_joint_normal_model():
    """Copies of 6 tables, covariates from a normal model of the latents: mean slopes against their standard errors."""
    rng = np.random.default_rng(7)
    ways = {"model": [], "joint": []}
    for seed in range(6):
        values, y, cluster, latents = data("continuous", 1_500, seed=seed)
        fitted = fit("continuous", values, y, cluster, n_draws=2, seed=seed).outcome
        words, words2 = random_words(seed, (1,), 1_500)[None], random_words(seed, (2,), 60)[None]
        joint = rng.multivariate_normal(latents.mean(0), np.cov(latents.T), 1_500)
        new = {"x": joint[:, 0], "g": (joint[:, 1] > 0).astype(np.int32)}
        for way, drawn in (("model", fitted.draw(0, new, words, cluster, words2)), ("joint", joint[:, 2])):
            trace = after(fit("continuous", new, drawn, cluster, n_draws=4, chains=1, seed=seed))
            ways[way].append([trace[name].mean() for name in TRUTH])
    truth = np.array(list(TRUTH.values()))
    model, joint = (np.array(ways[way]) for way in ("model", "joint"))
    assert (np.abs(model.mean(0) - truth) < 4.5 * model.std(0, ddof=1) / math.sqrt(6)).all()
    assert abs(joint.mean(0)[3]) < 0.1
    assert joint.mean(0)[1] > 0.5 + 0.1


# Missing covariates


def test_missing_covariates_have_their_distribution_given_the_outcome():
    """x and the latent of g are filled in for rows with y = 1 with the density of both models, parameters being known.

    y ~ N(s x^3, 1/4), s = -1 or 1 saying what g is. Were latents drawn in one direction only, shares would miss.
    """
    n, y, r = 20_000, 1.0, 0.9
    rng = np.random.default_rng(1)
    x = holes(rng.normal(size=n), np.arange(n) % 2 < 1)
    g = holes((rng.random(n) < 0.4).astype(np.int32), np.arange(n) % 4 < 2)
    problem = prepare(JointData(COLUMNS, (x, g), np.ones((n, 1))))
    state = start(problem, 0, 1)
    now = replace(state.one, beta=np.array([[0.0, -0.25]]))
    precision = np.linalg.inv([[1, r], [r, 1]])
    rows = gibbs.Rows(problem.one, now, precision, None, NO_CODES, NO_CODES, np.zeros((0, 0, 2)))
    at = np.flatnonzero(np.isnan(x) | (g < 0))

    def density(z, cuts, shapes):
        return -2 * (y - z[0] ** 3 * np.where(z[1] > 0, 1, -1)) ** 2

    for sweep in range(40):
        words = Words(1, 0, sweep, 200)
        zz, xz = gibbs._draw_level(rows, words, 0.0, np.zeros((0, 0, 2)), Review(at, density))
    np.testing.assert_allclose(zz, now.z @ now.z.T, rtol=1e-9)
    np.testing.assert_allclose(xz, problem.one.x @ now.z.T, rtol=1e-9)
    # Rows of which both are missing; x and g on a grid.
    grid = np.linspace(-6, 6, 20_001)
    tail = norm.cdf((-0.25 + r * grid) / math.sqrt(1 - r * r))
    of_both = [norm.pdf(grid) * p * np.exp(-2 * (y - s * grid**3) ** 2) for p, s in ((1 - tail, -1), (tail, 1))]
    total = sum(of.sum() for of in of_both)
    drawn = now.z[:, np.arange(n) % 4 < 1]
    share = of_both[1].sum() / total
    assert abs((drawn[1] > 0).mean() - share) < 4.5 * math.sqrt(share * (1 - share) / drawn.shape[1])
    for power in (1, 2):
        mean = (grid**power * sum(of_both)).sum() / total
        sd = math.sqrt((grid ** (2 * power) * sum(of_both)).sum() / total - mean**2)
        assert abs((drawn[0] ** power).mean() - mean) < 4.5 * sd / math.sqrt(drawn.shape[1])


def wide(seed, n=900, clusters=60):
    """Covariates of all kinds, a fifth of each missing, one of them of level 2; and what is true of the outcome."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, clusters, n).astype(np.int32)
    w, u = rng.normal(size=clusters), rng.normal(0, 0.5, clusters)
    z = rng.multivariate_normal(np.zeros(3), [[1, 0.4, 0.3], [0.4, 1, 0.2], [0.3, 0.2, 1]], n)
    z[:, 0] += 0.5 * w[cluster]
    x, o = z[:, 0], np.searchsorted([-0.5, 0.8], z[:, 1])
    income = np.maximum(1 + 0.5 * (z[:, 2] + 5), 0.01) ** 2
    k = rng.integers(0, 3, n).astype(np.int32)
    y = 0.2 + 0.5 * x + 0.3 * (o == 1) + 0.8 * (o == 2) + 0.3 * w[cluster] + 0.6 * x * (o == 2) + 0.05 * income
    y += 0.4 * (k == 2) + u[cluster] + rng.normal(size=n)
    columns = (
        LatentColumn("x", "continuous"), LatentColumn("o", "ordered", 3), LatentColumn("k", "unordered", 3),
        LatentColumn("income", "continuous", transform="boxcox"), LatentColumn("w", "continuous", level=2),
    )  # fmt: skip
    values = [x, o.astype(np.int32), k, income, w]
    values = tuple(holes(of, rng.random(len(of)) < 0.2) for of in values)
    y = holes(y, rng.random(n) < 0.1)
    outcome = Outcome(Terms.parse("y ~ x*o + w + income + k + (1 | j)"), "continuous", 0, y, {}, {})
    truth = {"beta[x]": 0.5, "beta[o[1]]": 0.3, "beta[o[2]]": 0.8, "beta[w]": 0.3, "beta[x:o[1]]": 0.0}
    truth |= {"beta[x:o[2]]": 0.6, "beta[income]": 0.05, "beta[k[2]]": 0.4, "sigma2": 1.0}
    return JointData(columns, values, np.ones((n, 1)), None, cluster, clusters), outcome, truth


def test_the_truth_is_found_with_missing_covariates_of_all_kinds():
    """Deviations from the truth in posterior standard deviations, over 4 tables: no bias, no more than 1 of spread."""
    away = []
    for seed in range(4):
        joint, outcome, truth = wide(seed)
        chains = run_chains(joint, outcome, n_draws=1, burn_in=100, thin=200, chains=1, entropy=seed)
        trace = after(chains)
        away.append([(trace[name].mean() - value) / trace[name].std() for name, value in truth.items()])
    away = np.array(away)
    assert (np.abs(away.mean(axis=0)) < 4.5 / math.sqrt(4)).all()
    assert away.std() < 1.5
    filled = chains.imputed(0)
    assert len(filled) == 6
    for of, given in zip(filled, (*joint.values, outcome.values), strict=True):
        known = ~np.isnan(given) if given.dtype == float else given >= 0
        assert (of == given)[known].all()
        assert np.isfinite(of).all()
        assert of.min() >= 0 or of.dtype == float


def test_latents_of_rows_that_are_known_do_not_wait_for_the_outcome():
    """What is missing of rows without an outcome is as the joint model says; latents of others are reviewed."""
    values, y, cluster, _ = data("continuous", 300)
    values["x"][:150] = np.nan
    y[:75] = np.nan
    outcome = Outcome(TERMS, "continuous", 0, y, {}, {})
    joint = JointData(COLUMNS, (values["x"], values["g"]), np.ones((300, 1)), None, cluster, 60)
    chains = run_chains(joint, outcome, n_draws=40, burn_in=100, thin=5, chains=1, entropy=1)
    x = np.array([chains.imputed(i)[0] for i in range(40)])
    assert all(len(np.unique(of)) > 30 for of in x[:, :75].T)
    # The outcome tells of x: the spread of each row is less where there is one.
    assert x[:, 75:150].std(axis=0).mean() < 0.9 * x[:, :75].std(axis=0).mean()
    assert x[:, 75:150].mean(axis=0) @ (y[75:150] - y[75:150].mean()) > 0


def test_levels_of_missing_values_are_those_of_their_latents():
    joint, outcome, _ = wide(0)
    problem = prepare(joint)
    state = start(problem, 0, 1)
    covariates = Covariates.of(outcome, joint, problem)
    x = covariates.matrix(np.arange(900), state.one, state.two)
    some = np.array([5, 800, 3])
    part = covariates.matrix(some, replace(state.one, z=state.one.z[:, some]), state.two)
    np.testing.assert_array_equal(part, x[some])
    missing = joint.values[2] < 0
    np.testing.assert_array_equal(covariates.holes(problem.two), np.flatnonzero(np.isnan(joint.values[4])))
    # At the start all latents are below 0: the last level.
    names = covariates.design.names
    assert (x[missing, names.index("k[2]")] == 1).all()


def test_given_covariates_may_not_be_missing():
    values, y, cluster, _ = data("continuous", 100)
    values["x"][3] = np.nan
    with pytest.raises(DataError, match="'x' has missing values, and is kept"):
        fit("continuous", values, y, cluster)
