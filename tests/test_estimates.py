"""Fitted results of other libraries are read by what they have."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from statsmodels.miscmodels.ordinal_model import OrderedModel

import fastsynth as fs
from fastsynth.errors import PoolError
from fastsynth.estimates import SCALES, read_fit


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(7)
    n = 400
    x, z = rng.normal(size=(2, n))
    group = rng.integers(0, 20, n)
    score = x - 0.5 * z + rng.logistic(size=n)
    return pd.DataFrame(
        {
            "x": x,
            "z": z,
            "y": 1 + x + rng.normal(size=20)[group] + rng.normal(size=n),
            "b": (score > 0).astype(int),
            "c": np.digitize(score, [-1, 1]),
            "t": rng.exponential(np.exp(-0.4 * x)),
            "event": (rng.random(n) < 0.8).astype(int),
            "group": group,
        }
    )


@pytest.mark.parametrize(
    "fit",
    [
        lambda d: smf.ols("y ~ x + z", d).fit(),
        lambda d: smf.glm("b ~ x + z", d, family=sm.families.Binomial()).fit(),
        lambda d: smf.logit("b ~ x + z", d).fit(disp=0),
        lambda d: smf.phreg("t ~ x + z", d, status=d["event"].to_numpy()).fit(),
    ],
)
def test_statsmodels(frame, fit):
    result = fit(frame)
    got = read_fit(result)
    assert got.terms[-2:] == ("x", "z")
    assert got.estimate == pytest.approx(np.asarray(result.params))
    assert np.sqrt(np.diag(got.covariance)) == pytest.approx(np.asarray(result.bse))
    assert got.df == (397 if "y ~" in getattr(result.model, "formula", "") else np.inf)


def test_names_of_plain_arrays_are_those_of_the_model(frame):
    result = sm.OLS(frame["y"].to_numpy(), sm.add_constant(frame[["x", "z"]].to_numpy())).fit()
    assert read_fit(result).terms == ("const", "x1", "x2")


def test_multinomial_logit(frame):
    result = smf.mnlogit("c ~ x + z", frame).fit(disp=0)
    got = read_fit(result)
    assert len(set(got.terms)) == 6
    flat = dict(zip(got.terms, zip(got.estimate, np.sqrt(np.diag(got.covariance)))))
    for equation in result.params.columns:
        for term in result.params.index:
            expected = (result.params.loc[term, equation], result.bse.loc[term, equation])
            assert flat[f"{equation}:{term}"] == pytest.approx(expected)


def test_ordered_models_have_thresholds(frame):
    """As R's polr: the cuts themselves, with standard errors by the delta method."""
    result = OrderedModel(frame["c"], frame[["x", "z"]], distr="logit").fit(method="bfgs", disp=0)
    got = read_fit(result)
    cuts = result.model.transform_threshold_params(np.asarray(result.params))[1:-1]
    assert got.estimate[2:] == pytest.approx(cuts)
    # The derivative of the second cut by simulation of the parameters.
    rng = np.random.default_rng(1)
    draws = rng.multivariate_normal(np.asarray(result.params), 1e-4 * np.asarray(result.cov_params()), 20_000)
    drawn = np.array([result.model.transform_threshold_params(p)[1:-1] for p in draws])
    assert np.cov(drawn.T) / 1e-4 == pytest.approx(got.covariance[2:, 2:], abs=5e-4)  # 4 standard errors


def test_mixed_models_have_fixed_effects(frame):
    result = smf.mixedlm("y ~ x + z", frame, groups="group").fit()
    got = read_fit(result)
    assert got.terms == ("Intercept", "x", "z")
    assert np.sqrt(np.diag(got.covariance)) == pytest.approx(np.asarray(result.bse_fe))


def test_results_of_other_libraries():
    """What linearmodels, lifelines and pyfixest have; real ones were tried by hand."""
    names = ["a", "b"]
    params, matrix = pd.Series([1.0, 2.0], names), np.array([[0.04, 0.01], [0.01, 0.09]])
    labelled = pd.DataFrame(matrix, names, names)
    results = [
        SimpleNamespace(params=params, cov=labelled, df_resid=50, debiased=True),
        SimpleNamespace(params_=params, variance_matrix_=labelled),
        SimpleNamespace(coef=lambda: params, _vcov=matrix, _df_t=50),
    ]
    for result, df in zip(results, (50, np.inf, 50)):
        got = read_fit(result)
        assert got.terms == ("a", "b")
        assert got.covariance.tolist() == matrix.tolist()
        assert got.df == df
    with pytest.raises(PoolError, match="Cannot read estimates from a SimpleNamespace"):
        read_fit(SimpleNamespace(params=params))


def test_scales():
    z = np.array([-0.1, 0.05, 0.4])
    assert SCALES["r_squared"](z).tolist() == pytest.approx([0, np.tanh(0.05) ** 2, np.tanh(0.4) ** 2])
    assert SCALES["logit"](np.zeros(1)) == 0.5


@pytest.mark.parametrize(
    ("name", "rule", "scale"),
    [
        ("I corr rubin", "rubin1987", "fisher_z"),
        ("I corr reiter", "reiter2003", "fisher_z"),
        ("I corr raab", "raab2016", "fisher_z"),
        ("I R2 rubin", "rubin1987", "r_squared"),
        ("I R2 reiter", "reiter2003", "r_squared"),
        ("I R2 raab", "raab2016", "r_squared"),
    ],
)
def test_published_pooled_correlations(name, rule, scale):
    import json
    from pathlib import Path

    expected = json.loads((Path(__file__).parent / "data" / "vectors_pool.json").read_text())[name]
    if scale == "fisher_z":
        z = np.arctanh([0.42, 0.47, 0.39, 0.45, 0.40])
    else:
        z = np.arctanh(np.sqrt([0.18, 0.22, 0.15, 0.20, 0.16]))
    fits = [fs.Estimates(("r",), np.array([x]), np.array([[1 / 197]]), scale=(scale,)) for x in z]
    how = {"imputed": True, "syntheses": 0} if rule == "rubin1987" else {}
    got = fs.pool(fits, rule, **how).table.row(0, named=True)
    assert (got["estimate"], got["conf_low"], got["conf_high"]) == pytest.approx(
        (expected["est"], expected["lo"], expected["hi"]), rel=1e-6
    )
