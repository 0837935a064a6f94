"""The analyst's model with its draws: chains, copies, saving; and that interactions survive in copies."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from fastsynth.execute import Threads
from fastsynth.outcome import OutcomeModel, fit_outcome
from fastsynth.streams import random_words
from fastsynth.substantive import Substantive
from fastsynth.terms import Design, Terms

TERMS = Terms.parse("y ~ x*g + (1 | j)")
TRUTH = {"beta[intercept]": 0.3, "beta[x]": 0.5, "beta[g[1]]": -0.3, "beta[x:g[1]]": 0.6}
TAU2 = 0.3


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


def fit(kind, values, y, cluster, clusters=60, *, n_draws=6, thin=40, chains=2, threads=1, seed=1):
    design = Design.of(TERMS, values, {"g": 2})
    model = Substantive.of(kind, 2 * (kind == "binary"), design.matrix(values), y, design.random, clusters)
    options = {"n_draws": n_draws, "burn_in": 100, "thin": thin, "chains": chains, "entropy": seed}
    return fit_outcome(design, model, values, y, cluster, executor=Threads(threads), **options)


def test_chains_are_the_same_for_any_number_of_threads():
    values, y, cluster, _ = data("continuous", 300)
    one, two = (fit("continuous", values, y, cluster, threads=threads) for threads in (1, 2))
    for name, trace in one[1].items():
        np.testing.assert_array_equal(trace, two[1][name])
        assert trace.shape == (2, 120)
        assert abs(trace[0].mean() - trace[1].mean()) < 6 * trace.std() / math.sqrt(5)
    assert [d.sigma2 for d in one[0].draws] == [d.sigma2 for d in two[0].draws]


def test_draws_are_dealt_over_the_chains_and_traces_are_thinned():
    values, y, cluster, _ = data("continuous", 100)
    model, trace = fit("continuous", values, y, cluster, n_draws=5, thin=1_000, chains=2)
    assert len(model.draws) == 5
    assert trace["sigma2"].shape == (2, 3_000)
    sigma2 = [draw.sigma2 for draw in model.draws]
    np.testing.assert_array_equal(sigma2[::2], trace["sigma2"][0, 999::1_000])
    np.testing.assert_array_equal(sigma2[1::2], trace["sigma2"][1, 999:2_000:1_000])


def test_sweeps_are_told():
    values, y, cluster, _ = data("continuous", 100)
    told = []
    design = Design.of(TERMS, values, {"g": 2})
    model = Substantive.of("continuous", 0, design.matrix(values), y, design.random, 60)
    options = {"n_draws": 4, "burn_in": 10, "thin": 5, "chains": 2, "entropy": 1}
    fit_outcome(design, model, values, y, cluster, executor=Threads(1), tick=told.append, **options)
    assert told == [20, 20]


@pytest.mark.parametrize("kind", ["continuous", "binary"])
def test_state_goes_through_json_and_gives_the_same_draws(kind):
    values, y, cluster, _ = data(kind, 300)
    model, _ = fit(kind, values, y, cluster)
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
    model, _ = fit("continuous", values, y, cluster, n_draws=2)
    words, words2 = random_words(1, (1,), 6_000)[None], random_words(1, (2,), 60)[None]
    rows = np.bincount(cluster)

    def means(of):
        left = of - model.design.matrix(values) @ model.draws[0].beta
        return np.bincount(cluster, left) / rows

    kept, new = model.draw(0, values, words, cluster), model.draw(0, values, words, cluster, words2)
    assert np.corrcoef(means(y), means(kept))[0, 1] > 0.9
    assert abs(np.corrcoef(means(y), means(new))[0, 1]) < 4 / math.sqrt(60)


def test_a_model_without_clusters():
    values, y, _, _ = data("continuous", 300)
    design = Design.of(Terms.parse("y ~ x*g"), values, {"g": 2})
    model = Substantive.of("continuous", 0, design.matrix(values), y)
    options = {"n_draws": 2, "burn_in": 10, "thin": 5, "chains": 1, "entropy": 1}
    fitted, trace = fit_outcome(design, model, values, y, executor=Threads(1), **options)
    assert fitted.n_words2 == 0
    assert set(trace) == {*TRUTH, "sigma2"}
    assert np.isfinite(fitted.draw(1, values, random_words(1, (1,), 300)[None])).all()


@pytest.mark.parametrize("kind", ["continuous", "binary"])
def test_the_truth_lies_within_two_posterior_standard_deviations(kind):
    """In 95 % of 20 tables times 5 parameters, less 4 standard errors of tables whose parameters go together."""
    truth = TRUTH | {"tau2[intercept, intercept]": TAU2}
    if kind == "binary":
        truth = truth | {"beta[intercept]": 0.3 - 4.0}
    inside = []
    for seed in range(20):
        values, y, cluster, _ = data(kind, seed=seed)
        _, trace = fit(kind, values, y, cluster, n_draws=10, thin=50, chains=1, seed=seed)
        inside.append([abs(trace[name].mean() - value) < 2 * trace[name].std() for name, value in truth.items()])
    share = np.mean(inside, axis=1)
    assert abs(share.mean() - 0.954) < max(4 * share.std(ddof=1) / math.sqrt(20), 0.06)


def test_an_interaction_survives_in_copies_and_is_lost_in_a_joint_normal_model():
    """Copies of 8 tables, covariates from a normal model of the latents: mean slopes against their standard errors."""
    rng = np.random.default_rng(7)
    ways = {"model": [], "joint": []}
    for seed in range(8):
        values, y, cluster, latents = data("continuous", 1_500, seed=seed)
        fitted, _ = fit("continuous", values, y, cluster, n_draws=2, seed=seed)
        words, words2 = random_words(seed, (1,), 1_500)[None], random_words(seed, (2,), 60)[None]
        joint = rng.multivariate_normal(latents.mean(0), np.cov(latents.T), 1_500)
        new = {"x": joint[:, 0], "g": (joint[:, 1] > 0).astype(np.int32)}
        for way, drawn in (("model", fitted.draw(0, new, words, cluster, words2)), ("joint", joint[:, 2])):
            _, trace = fit("continuous", new, drawn, cluster, n_draws=4, chains=1, seed=seed)
            ways[way].append([trace[name].mean() for name in TRUTH])
    truth = np.array(list(TRUTH.values()))
    model, joint = (np.array(ways[way]) for way in ("model", "joint"))
    assert (np.abs(model.mean(0) - truth) < 4.5 * model.std(0, ddof=1) / math.sqrt(8)).all()
    assert abs(joint.mean(0)[3]) < 0.1
    assert joint.mean(0)[1] > 0.5 + 0.1
