"""The combining rules against published vectors, and what is refused."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import statsmodels.api as sm
import statsmodels.formula.api as smf
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsynth import Analyses, pool
from fastsynth.errors import PoolError, PoolWarning
from fastsynth.pooling import interval_overlap
from fastsynth.rules import Design

# METHODS 1, common input P1; the expected figures were made with synthpop and mice (METHODS 10).
Q = [1.02, 0.95, 1.10, 0.98, 1.05]
U = [0.0100, 0.0121, 0.0110, 0.0105, 0.0114]
P1 = list(zip(Q, U))
P2 = list(zip([1.30, 0.85, 1.15, 0.70, 1.00], U))
NESTED = list(zip([1.02, 0.95, 1.25, 1.21, 0.80, 0.86], [0.010, 0.0121, 0.011, 0.0105, 0.0114, 0.0098]))
NEGATIVE = [(q, 0.01) for q in (1.0, 1.5, 1.30, 1.24, 1.55, 0.95)]
TABLES = {"imputed": True, "syntheses": 0}
VECTORS = json.loads((Path(__file__).parent / "data" / "vectors_pool.json").read_text())


def row(pooled):
    return pooled.table.row(0, named=True)


def fits(design, pairs=P1):
    return Analyses(pairs, design)


@pytest.mark.parametrize(
    ("name", "pairs", "options"),
    [
        ("B reiter", P1, {"rule": "reiter2003"}),
        ("B reiter n=1000 k=500", P1, {"rule": "reiter2003", "n": 1000, "k": 500}),
        ("D Ts n=k", P1, {"rule": "raab2016"}),
        ("D Tp n=k", P1, {"rule": "raab2016", "proper": True}),
        ("D Ts n1000 k500", P1, {"rule": "raab2016", "n": 1000, "k": 500}),
        ("D Tp n1000 k500", P1, {"rule": "raab2016", "n": 1000, "k": 500, "proper": True}),
        ("D Ts m=1", [(1.02, 0.01)], {"rule": "raab2016"}),
        ("D sample target", P1, {"rule": "raab2016", "target": "sample"}),
        ("A rubin inf", P1, {"rule": "rubin1987", **TABLES}),
        ("A rubin nucom=98", P1, {"rule": "rubin1987", "dfcom": 98, **TABLES}),
        ("F vink", P1, {"rule": "rubin1987", "target": "sample", **TABLES}),
        ("C rrr neg", P1, {"rule": "raghunathan2003", "n": 1000, "k": 1000, "proper": True}),
        ("C rrr pos", P2, {"rule": "raghunathan2003", "n": 1000, "k": 1000, "proper": True}),
        ("H onestep simple", P2, {"rule": "onestep", "imputed": True}),
        ("H onestep simple small b", P1, {"rule": "onestep", "imputed": True}),
        ("H onestep proper", P2, {"rule": "onestep", "imputed": True, "proper": True}),
        ("E nested", NESTED, {"rule": "reiter2004", "imputed": True, "syntheses": 2}),
        ("E nested neg", NEGATIVE, {"rule": "reiter2004", "imputed": True, "syntheses": 2}),
    ],
)
def test_published_vectors(name, pairs, options):
    expected, got = VECTORS[name], row(pool(pairs, **options))
    assert got["estimate"] == pytest.approx(expected["qbar"])
    if "ubar" in expected:
        assert got["ubar"] == pytest.approx(expected["ubar"])
    assert got["t"] == pytest.approx(expected.get("Tadj", expected["T"]))
    assert [got["conf_low"], got["conf_high"]] == pytest.approx(expected["ci"], rel=1e-6)
    if "b" in expected:
        assert got["b"] == pytest.approx(expected["b"])
    df = expected.get("df", math.inf)
    assert got["df"] == pytest.approx(math.inf if df == "inf" else df)


def test_larger_copies_buy_no_precision():
    """METHODS 1.4: m = 1, u = .005, n = 1000, k = 2000 gives T_s = .015."""
    assert row(pool([(1.02, 0.005)], rule="raab2016", n=1000, k=2000))["t"] == pytest.approx(0.015)


@pytest.mark.parametrize(
    ("design", "rule", "t"),
    [
        (Design(100, 100, 5), "raab2016", 0.0132),
        (Design(100, 100, 5, proper=True), "raab2016", 0.0154),
        (Design(100, 100, 5, partial=True), "reiter2003", 0.01169),
        (Design(1000, 500, 5), "raab2016", 0.0077),
    ],
)
def test_the_rule_follows_from_how_the_copies_were_made(design, rule, t):
    pooled = pool(fits(design))
    assert pooled.rule == rule
    assert row(pooled)["t"] == pytest.approx(t)
    assert pooled.m == 5
    assert f"n = {design.n}" in pooled.reason


def test_one_copy():
    pooled = pool(fits(Design(100, 100, 1), [(1.02, 0.01)]))
    assert row(pooled)["t"] == pytest.approx(0.02)
    assert row(pooled)["b"] is None
    bound = pool(fits(Design(100, 100, 1, partial=True), [(1.02, 0.01)]), rule="raab2016")
    assert "upper bound" in bound.reason


def test_equal_estimates_are_legal():
    got = row(pool([(1.0, 0.01)] * 5, rule="reiter2003"))
    assert got["df"] == math.inf
    assert got["t"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ([], {"rule": "raab2016"}, "nothing to pool"),
        (P1, {}, "How these copies were made is not known"),
        (P1, {"rule": "rubin1987"}, "missing data.*raab2016"),
        (fits(Design(9, 9, 5, partial=True)), {"rule": "rubin1987"}, "missing data.*reiter2003"),
        (P1, {"rule": "magic"}, "allowed are 'raab2016', 'subsample', 'reiter2003'"),
        ([(1.0, 0.1)], {"rule": "reiter2003"}, "at least 2"),
        (fits(Design(9, 9, 1, partial=True), [(1.0, 0.1)]), {}, "at least 2.*upper bound"),
        (fits(Design(9, 9, 5, partial=True)), {"rule": "raab2016"}, "Use 'reiter2003'"),
        (fits(Design(9, 9, 5)), {"n": 9, "k": 9}, "leave them out"),
        (fits(Design(9, 9, 4)), {}, "5 analyses of 4 copies"),
        (P1, {"rule": "raab2016", "n": 9}, "both n"),
        (P1, {"rule": "raab2016", "n": 0, "k": 5}, "n=0"),
        (P1, {"rule": "raab2016", "dfcom": 0}, "dfcom=0"),
        ([(1.0, math.nan)] * 3, {"rule": "raab2016"}, "not finite"),
        ([(1.0, -1.0)] * 3, {"rule": "raab2016"}, "negative"),
        ([("a", 1)] * 3, {"rule": "raab2016"}, "Estimates"),
        ([([1.0, 2.0], 0.1)] * 3, {"rule": "raab2016"}, r"must be \(2, 2\)"),
        (3.0, {"rule": "raab2016"}, "fits is one float"),
        ([object()] * 3, {"rule": "raab2016"}, "Cannot read estimates from a object"),
        ([({"a": 1.0}, [0.1]), ({"b": 1.0}, [0.1])], {"rule": "reiter2003"}, "Only one copy has 'a', 'b'"),
    ],
)
def test_bad_pooling_is_refused(given, options, message):
    with pytest.raises(PoolError, match=message):
        pool(given, **options)


def ols(seed, n=60):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"const": 1.0, "x": rng.normal(size=n)})
    return sm.OLS(frame["x"] * 2 + rng.normal(size=n), frame).fit()


def test_statsmodels_results_are_read_with_names_and_degrees_of_freedom():
    results = [ols(seed) for seed in range(4)]
    pooled = pool(Analyses(results, Design(60, 60, 4)))
    assert pooled.table["term"].to_list() == ["const", "x"]
    assert pooled.table["df"].to_list() == [58, 58]
    assert pooled.table["estimate"].to_numpy() == pytest.approx(np.mean([r.params for r in results], 0))
    assert pooled.table["ubar"].to_numpy() == pytest.approx(np.mean([r.bse**2 for r in results], 0))
    larger = pool(Analyses(results, Design(100, 60, 4)))
    assert larger.table["df"].to_list() == [98, 98]


def test_forms_of_estimates():
    matrix = np.array([[0.01, 0.002], [0.002, 0.02]])
    shifts = (-0.1, 0.0, 0.12)
    as_arrays = pool([([1.0 + x, 2.0 - x], matrix) for x in shifts], rule="raab2016")
    as_variances = pool([(np.array([1 + x, 2 - x]), np.array([0.01, 0.02])) for x in shifts], rule="raab2016")
    as_mapping = pool([({"a": 1 + x, "b": 2 - x}, {"a": 0.01, "b": 0.02}) for x in shifts], rule="raab2016")
    assert as_arrays.table.drop("term").equals(as_variances.table.drop("term"))
    assert as_arrays.table.drop("term").equals(as_mapping.table.drop("term"))
    assert as_mapping.table["term"].to_list() == ["a", "b"]
    assert as_arrays.table["term"].to_list() == ["1", "2"]


def test_labelled_variances_are_put_in_order():
    by_name = pool([({"a": 1 + x, "b": 2.0 - x}, {"b": 0.04, "a": 0.01}) for x in (0, 0.2)], rule="raab2016")
    assert by_name.table["ubar"].to_list() == [0.01, 0.04]
    matrix = pd.DataFrame([[0.04, 0.0], [0.0, 0.01]], index=["b", "a"], columns=["b", "a"])
    by_frame = pool([(pd.Series({"a": 1.0 + x, "b": 2.0 - x}), matrix) for x in (0, 0.2)], rule="raab2016")
    assert by_frame.table["ubar"].to_list() == [0.01, 0.04]
    with pytest.raises(PoolError, match=r"variances of \['z'\]"):
        pool([({"a": 1.0}, {"z": 0.1})] * 2, rule="raab2016")


def test_degrees_of_freedom_of_a_fit_to_part_of_the_rows():
    """Half of 100 synthetic rows stand for half of 200 real ones."""
    half = pool(Analyses([ols(seed, n=50) for seed in range(3)], Design(200, 100, 3)))
    assert half.table["df"].to_list() == [98, 98]
    many = pool(Analyses([ols(seed, n=100) for seed in range(3)], Design(200, 2000, 3)))
    assert many.table["df"].to_list() == [8, 8]


def test_no_variance_at_all_is_legal():
    got = row(pool([(1.0, 0.0)] * 5, rule="reiter2003"))
    assert (got["t"], got["conf_low"], got["conf_high"]) == (0, 1, 1)


def test_small_numbers_are_printed():
    assert "1.00e-05" in str(pool([(1e-5, 1e-12)], rule="raab2016"))


def test_printed_table():
    text = str(pool(P1, rule="raab2016"))
    assert "estimate" in text
    assert "1.020" in text
    assert "T_s = ubar (k/n + 1/m)" in text


@pytest.mark.parametrize(
    ("synthetic", "expected"), [((0.62, 0.141), 0.768185), ((0.62, 0.1), 0.693872), ((1.1, 0.12), -0.394754)]
)
def test_interval_overlap(synthetic, expected):
    """METHODS 5.4."""
    limits = [np.array([e + s * 1.959964 * se]) for e, se in [(0.5, 0.1), synthetic] for s in (-1, 1)]
    assert interval_overlap(*limits) == pytest.approx(expected, abs=1e-6)


def test_compare_with_the_original():
    pooled = pool([({"x": 0.62}, [0.141**2 / 2])], rule="raab2016")
    compared = pooled.compare(({"x": 0.5}, [0.01])).table.row(0, named=True)
    assert compared["overlap"] == pytest.approx(0.768185, abs=1e-6)
    assert compared["std_difference"] == pytest.approx(1.2)
    with pytest.raises(PoolError, match="terms"):
        pooled.compare(({"z": 0.5}, [0.01]))


# METHODS 7.1: ubar = .0004, n = k = 10000, m = 5, n_s = 2000.
SUBSAMPLE = [(0.5 + x, 0.0004) for x in (-0.026, -0.013, 0, 0.013, 0.026)]
ROWS = {"n": 10_000, "k": 10_000}
COUNTS = st.integers(1, 10**7)


def t_of(rule, pairs=SUBSAMPLE, **options):
    with warnings.catch_warnings():
        # Equal estimates are not what copies give.
        warnings.simplefilter("ignore", PoolWarning)
        return row(pool(pairs, rule, **options))["t"]


@pytest.mark.parametrize(
    ("options", "t"),
    [
        ({}, 0.00048),
        ({"proper": True}, 0.00056),
        ({"fit_rows": 2000, "fresh": True}, 0.0008),
        ({"fit_rows": 2000}, 0.00208),
        ({"fit_rows": 2000, "proper": True}, 0.00088),
    ],
)
def test_vectors_of_models_fitted_on_part_of_the_rows(options, t):
    asked = pool(SUBSAMPLE, "subsample", **ROWS, **{"fit_rows": 10_000, **options})
    assert row(asked)["t"] == pytest.approx(t, rel=1e-12)
    assert row(asked)["df"] == math.inf
    chosen = pool(fits(Design(10_000, 10_000, 5, **options), SUBSAMPLE))
    assert row(chosen)["t"] == pytest.approx(t, rel=1e-12)
    assert chosen.rule == ("subsample" if "fit_rows" in options else "raab2016")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["simple", "2000 of 10000 rows", "shared by all copies", "k w)", "w = 1/n_s - 1/n"]),
        ({"fresh": True}, ["simple", "2000 of 10000 rows", "fresh for each copy", "k w/m)", "w = 1/n_s - 1/n"]),
        ({"proper": True}, ["proper", "2000 of 10000 rows", "fresh for each copy", "k w/m)", "w = 1/n_s,"]),
    ],
)
def test_the_reason_says_which_rows_the_models_saw(options, words):
    reason = pool(fits(Design(10_000, 9_000, 5, fit_rows=2000, **options))).reason
    assert [word for word in [*words, "n_s = 2000", "n = 10000", "k = 9000", "m = 5"] if word not in reason] == []


@pytest.mark.parametrize("rows", [10_000, 20_000])
@pytest.mark.parametrize("proper", [False, True])
def test_models_fitted_on_all_rows_are_no_subsample(rows, proper):
    design = Design(10_000, 10_000, 5, proper=proper, fit_rows=rows)
    pooled = pool(fits(design))
    assert pooled.rule == "raab2016"
    assert pooled.table.equals(pool(fits(Design(10_000, 10_000, 5, proper=proper))).table)
    assert pooled.table.equals(pool(fits(design), "subsample").table)
    assert pool(fits(design), "reiter2003").rule == "reiter2003"


def test_subsample_is_the_usual_rule_where_no_subsample_was_used():
    for options in ({}, {"proper": True}):
        design = Design(1000, 500, 5, **options)
        assert pool(fits(design), "subsample").table.equals(pool(fits(design), "raab2016").table)
    bound = pool(fits(Design(9, 9, 1, partial=True), [(1.0, 0.1)]), "subsample")
    assert row(bound)["t"] == pytest.approx(0.2)
    assert "upper bound" in bound.reason


def test_fresh_subsamples_may_be_pooled_by_reiter2003():
    expected = pool(P1, "reiter2003", n=1000, k=500).table
    for options in ({"fresh": True}, {"proper": True}):
        assert pool(fits(Design(1000, 500, 5, fit_rows=200, **options)), "reiter2003").table.equals(expected)
        assert pool(P1, "reiter2003", n=1000, k=500, fit_rows=200, **options).table.equals(expected)
        partial = pool(fits(Design(1000, 500, 5, partial=True, fit_rows=200, **options)))
        assert partial.rule == "reiter2003"
        assert partial.table.equals(expected)


def test_degrees_of_freedom_bound_the_rule_for_subsamples():
    assert row(pool(SUBSAMPLE, "subsample", **ROWS, fit_rows=2000, dfcom=40))["df"] == 40
    results = Analyses([ols(seed) for seed in range(4)], Design(100, 60, 4, fit_rows=50))
    assert pool(results).table["df"].to_list() == [48, 48]  # the residual variance was learned from 50 rows
    fresh = Analyses([ols(seed) for seed in range(4)], Design(100, 60, 4, fit_rows=50, fresh=True))
    assert pool(fresh).table["df"].to_list() == [98, 98]


PART = {"n": 9, "k": 9, "fit_rows": 3}
ONE = [(1.0, 0.1)]


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (fits(Design(9, 9, 5, fit_rows=3)), {"rule": "raab2016"}, "all 9 rows; they saw 3. Use 'subsample'"),
        (fits(Design(9, 9, 5, proper=True, fit_rows=3)), {"rule": "raab2016"}, "Use 'subsample'"),
        (fits(Design(9, 9, 5, partial=True, fit_rows=3, fresh=True)), {"rule": "raab2016"}, "Use 'reiter2003'"),
        (P1, {"rule": "raab2016", **PART}, "they saw 3. Use 'subsample'"),
        (fits(Design(9, 9, 5, fit_rows=3)), {"rule": "reiter2003"}, "same 3 of 9 rows.*too narrow. Use 'subsample'"),
        (P1, {"rule": "reiter2003", **PART}, "too narrow. Use 'subsample'.*no valid rule is known"),
        (fits(Design(9, 9, 5, fit_rows=3)), {"rule": "rubin1987"}, "Use 'subsample'"),
        (fits(Design(9, 9, 5, partial=True, fit_rows=3)), {}, "no valid rule is known. Fit on all rows, or.*fresh"),
        (fits(Design(9, 9, 5, partial=True, fit_rows=3)), {"rule": "reiter2003"}, "no valid rule"),
        (fits(Design(9, 9, 5, partial=True, fit_rows=3)), {"rule": "subsample"}, "no valid rule"),
        (fits(Design(9, 9, 1, partial=True, fit_rows=3, fresh=True), ONE), {}, "no valid rule"),
        (fits(Design(9, 9, 5, partial=True, fit_rows=3, fresh=True)), {"rule": "subsample"}, "Use 'reiter2003'"),
        (fits(Design(9, 9, 5, partial=True)), {"rule": "subsample"}, "needs all columns.*Use 'reiter2003'"),
        (fits(Design(9, 9, 1, fit_rows=3), ONE), {"rule": "reiter2003"}, "at least 2.*use rule='subsample'"),
        (fits(Design(9, 9, 5, fit_rows=3)), {"fit_rows": 3}, "leave them out"),
        (fits(Design(9, 9, 5, fit_rows=3)), {"fresh": True}, "leave them out"),
        (P1, {"rule": "subsample"}, "needs n, k and fit_rows"),
        (P1, {"rule": "subsample", "n": 9, "k": 9}, "needs n, k and fit_rows"),
        (P1, {"rule": "subsample", "fit_rows": 3}, "give n"),
        (P1, {"rule": "raab2016", "fit_rows": 3}, "give n"),
        (P1, {"rule": "subsample", "n": 9, "k": 9, "fit_rows": 0}, "fit_rows=0"),
        (P1, {"rule": "raab2016", "fresh": True}, "give fit_rows"),
        (P1, {"rule": "subsample", **PART, "proper": True, "fresh": False}, "bootstrap sample. Leave fresh=False out"),
        (P1, PART, "not known.*rule='subsample'"),
    ],
)
def test_wrong_pooling_of_subsamples_is_refused(given, options, message):
    with pytest.raises(PoolError, match=message):
        pool(given, **options)


@given(rows=st.lists(COUNTS, min_size=2, max_size=2), k=COUNTS, m=st.integers(1, 20))
@settings(deadline=None)
def test_identities_of_the_rule_for_subsamples(rows, k, m):
    """Shared rows are an original of n_s rows, fresh ones add a share 1/m of that, n_s = n is T_s and T_p."""
    n_s, n = sorted(rows)
    pairs = [(0.5, 1.0)] * m
    shared = t_of("subsample", pairs, n=n, k=k, fit_rows=n_s)
    fresh = t_of("subsample", pairs, n=n, k=k, fit_rows=n_s, fresh=True)
    bootstrap = t_of("subsample", pairs, n=n, k=k, fit_rows=n_s, proper=True)
    t_s, t_p = (t_of("raab2016", pairs, n=n, k=k, proper=proper) for proper in (False, True))
    assert shared == pytest.approx(t_of("raab2016", pairs, n=n_s, k=k), rel=1e-9)
    assert fresh - t_s == pytest.approx((shared - t_s) / m, rel=1e-6, abs=1e-9 * shared)
    assert bootstrap - fresh == pytest.approx(t_p - t_s, rel=1e-6, abs=1e-9 * shared)
    assert t_of("subsample", pairs, n=n, k=k, fit_rows=n) == t_s
    assert t_of("subsample", pairs, n=n, k=k, fit_rows=n, proper=True) == t_p


REPEATS, N, N_S = 2000, 1000, 200
KINDS = {"shared": {}, "fresh": {"fresh": True}, "bootstrap": {"proper": True}}


def model_rows(original, kind, rng):
    """N_S of the N values of each repeat."""
    if kind == "bootstrap":
        return np.take_along_axis(original, rng.integers(0, N, (REPEATS, N_S)), 1)
    return rng.permuted(original, axis=1)[:, :N_S]


def normal_copies(kind, m, seed):
    """Means, and their variances, of m copies drawn from normal models of a standard normal variable; all repeats."""
    rng = np.random.default_rng(seed)
    original = rng.normal(size=(REPEATS, N))
    rows = model_rows(original, kind, rng)
    pairs = []
    for copy in range(m):
        if copy > 0 and kind != "shared":
            rows = model_rows(original, kind, rng)
        drawn = rng.normal(rows.mean(1)[:, None], rows.std(1, ddof=1)[:, None], (REPEATS, N))
        pairs.append((drawn.mean(1), drawn.var(1, ddof=1) / N))
    return pairs


def coverage(pooled):
    """Share of the intervals that contain the true mean, which is 0."""
    return ((pooled.table["conf_low"] <= 0) & (pooled.table["conf_high"] >= 0)).mean()


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("m", [1, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_intervals_from_models_fitted_on_part_of_the_rows_cover(kind, m, seed):
    """Within four standard errors of a share and of a variance over the repeats."""
    pooled = pool(Analyses(normal_copies(kind, m, seed), Design(N, N, m, fit_rows=N_S, **KINDS[kind])))
    assert pooled.rule == "subsample"
    assert coverage(pooled) == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / REPEATS))
    true = (pooled.table["estimate"] ** 2).mean()
    assert pooled.table["t"].mean() / true == pytest.approx(1, abs=4 * math.sqrt(2 / REPEATS))


def test_other_rules_do_not_cover_where_models_share_part_of_the_rows():
    """Given as plain pairs, of which nothing is known."""
    shared, fresh = (normal_copies(kind, 5, seed=3) for kind in ("shared", "fresh"))
    assert coverage(pool(shared, "reiter2003", n=N, k=N)) < 0.75
    assert coverage(pool(shared, "raab2016", n=N, k=N)) < 0.75
    with pytest.warns(PoolWarning, match=r"models fitted on other rows"):
        assert coverage(pool(fresh, "raab2016", n=N, k=N)) < 0.90
    assert coverage(pool(fresh, "reiter2003", n=N, k=N)) > 0.92


def test_terms_that_some_copies_lack():
    pairs = [({"a": 1.0 + x, "b": 2.0 - x}, [0.04, 0.05]) for x in (0.0, 0.1, -0.2, 0.3)]
    pairs[2] = ({"a": 0.8}, [0.04])
    pairs[3] = ({"a": 1.3, "b": 1.0}, [0.04, math.nan])
    with pytest.warns(PoolWarning, match=r"lack 'b' \(2 of 4\)"):
        pooled = pool(pairs, "reiter2003")
    table = pooled.table
    assert table["m"].to_list() == [4, 2]
    alone = pool([({"b": 2.0}, [0.05]), ({"b": 1.9}, [0.05])], "reiter2003").table
    assert table.filter(term="b").equals(alone)
    assert "Note: Some copies lack 'b'" in str(pooled)
    with pytest.raises(PoolError, match="Some copies lack 'b'"):
        pooled.test()
    assert pooled.test("a").df1 == 1
    with pytest.raises(PoolError, match="nested copies cannot do without"):
        pool(pairs, "reiter2004", imputed=True, syntheses=2)


def factor_fits():
    rng = np.random.default_rng(5)
    names = ["(Intercept)", "age", "phb.L", "phb^4", "C(gen, Poly).Linear", "age:phb.L", "phb2"]
    return [(dict(zip(names, rng.normal(0, 0.1, 7))), np.full(7, 0.01)) for _ in range(5)]


@pytest.mark.parametrize(
    ("terms", "found"),
    [
        ("phb", ["phb.L", "phb^4"]),
        ("gen", ["C(gen, Poly).Linear"]),
        ("age", ["age"]),
        (["age", "phb2"], ["age", "phb2"]),
        (None, ["age", "phb.L", "phb^4", "C(gen, Poly).Linear", "age:phb.L", "phb2"]),
    ],
)
def test_terms_of_a_factor(terms, found):
    pooled = pool(factor_fits(), "raab2016")
    test = pooled.test(terms)
    assert list(test.terms) == found
    assert test.df1 == len(found)
    shifted = pooled.test(terms, null=dict(zip(pooled.table["term"], pooled.table["estimate"])))
    assert shifted.statistic == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("terms", "null", "message"),
    [
        ("ph", 0, "No term 'ph'"),
        (["age", "x"], 0, "No term 'x'"),
        ([], 0, "No term given"),
        ("age", [1, 2], "null must"),
    ],
)
def test_bad_tests_are_refused(terms, null, message):
    with pytest.raises(PoolError, match=message):
        pool(factor_fits(), "raab2016").test(terms, null=null)


def test_nested_models_are_compared():
    fits_ = factor_fits()
    larger = pool(fits_, "reiter2003")
    smaller = pool([({t: v for t, v in q.items() if "phb" not in t}, u[:3]) for q, u in fits_], "reiter2003")
    expected = larger.test(["phb.L", "phb^4", "age:phb.L", "phb2"])
    assert larger.compare(smaller) == expected
    assert smaller.compare(larger) == expected
    with pytest.raises(PoolError, match="not nested"):
        larger.compare(larger)
    with pytest.raises(PoolError, match="not nested"):
        larger.compare(pool(P1, "reiter2003"))


def test_comparison_with_the_original():
    q = [estimate for estimate, _ in P1]
    pooled = pool(P1, "raab2016")
    compared = pooled.compare((1.0, 0.01))
    assert compared.expected == pytest.approx(math.sqrt(2 / (math.pi * 5)))
    assert compared.lack_of_fit.statistic == pytest.approx(0.02**2 / (0.01 / 5))
    assert "Lack of fit" in str(compared)
    proper = pool(P1, "raab2016", proper=True).compare((1.0, 0.01))
    assert proper.expected == pytest.approx(math.sqrt(4 / (math.pi * 5)))
    assert pool(P1, "onestep", imputed=True).compare((1.0, 0.01)).lack_of_fit is None
    partial = pool(P1, "reiter2003", partial=True).compare((1.0, 0.01))
    b = np.var(q, ddof=1)
    assert partial.lack_of_fit.statistic == pytest.approx(0.02**2 / (b / 5))


def test_exports(tmp_path):
    pooled = pool([({"a_b": 1.0 + i / 10, "x<y": 2.0 - i / 9}, [0.04, 0.05]) for i in range(3)], "reiter2003")
    pooled.to_csv(tmp_path / "a.csv")
    assert pl.read_csv(tmp_path / "a.csv")["term"].to_list() == ["a_b", "x<y"]
    assert pooled.to_html() == pooled._repr_html_()
    assert "<td>x&lt;y</td>" in pooled.to_html()
    assert r"a\_b & 1.100" in pooled.to_latex()
    assert r"\begin{tabular}{lrrrrrrr}" in pooled.to_latex()
    assert pooled.to_latex().count(r"\\") == 3


def test_reference_levels_that_differ_are_noticed():
    """A polars Categorical has the order of its rows, so each copy may leave out another level."""
    fits_ = [({"a": 1.0, f"reg[{level}]": 0.5}, [0.1, 0.1]) for level in ("south", "west", "south")]
    with pytest.raises(PoolError, match="reference level"):
        pool(fits_, "raab2016")


def test_aliased_coefficients_are_not_estimates_of_zero():
    rng = np.random.default_rng(6)
    frame = pd.DataFrame({"x": rng.normal(size=60), "g": np.repeat(["a", "b", "rare"], [28, 28, 4])})
    levels = pd.CategoricalDtype(["a", "b", "rare"])
    results = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # statsmodels says that the matrix is singular
        for copy in range(4):
            rows = frame.assign(y=rng.normal(size=60), g=frame["g"].astype(levels))
            results.append(smf.ols("y ~ g", rows[rows["g"] != "rare"] if copy == 3 else rows).fit())
        empty = smf.ols("y ~ g", rows[rows["g"] != "a"]).fit()
    with pytest.warns(PoolWarning, match=r"lack 'g\[T.rare\]' \(1 of 4\)"):
        pooled = pool(results, "reiter2003")
    rare = [result.params["g[T.rare]"] for result in results[:3]]
    assert pooled.table["estimate"][2] == pytest.approx(np.mean(rare))
    # A share that is zero in some copies is an estimate like any other.
    pairs = [({"a": 1.0 + x, "b": b}, [0.04, u]) for x, b, u in ((0, 0.0, 0.0), (0.1, 0.02, 1e-4), (0.2, 0.0, 0.0))]
    assert pool(pairs, "reiter2003").table["estimate"][1] == pytest.approx(0.02 / 3)
    with pytest.raises(PoolError, match="reference level"):
        pool([empty], "raab2016")


def test_terms_with_degrees_of_freedom_of_their_own():
    import fastsynth as fs

    frame = pl.DataFrame({"g": ["a"] * 50 + ["b"] * 4, "x": np.arange(54.0) ** 2})
    pooled = pool([fs.mean("x", by="g")(frame)] * 1, "raab2016")
    assert pooled.table["df"].to_list() == [49, 3]


def test_slices_keep_how_the_copies_were_made():
    analyses = fits(Design(1000, 500, 5))
    assert pool(analyses[:3]).reason.endswith("m = 3, n = 1000, k = 500)"[:-1])
    assert analyses[0] == P1[0]


MULTINOMIAL = ["0:Intercept", "0:age", "0:x", "1:Intercept", "1:age", "1:x"]
ORDERED = ["age", "age:reg[T.b]", "age:reg[T.c]", "reg[T.b]", "0|1", "G1|G2"]


@pytest.mark.parametrize(
    ("names", "terms", "found"),
    [
        (MULTINOMIAL, None, ["0:age", "0:x", "1:age", "1:x"]),
        (MULTINOMIAL, "age", ["0:age", "1:age"]),
        (ORDERED, None, ["age", "age:reg[T.b]", "age:reg[T.c]", "reg[T.b]"]),
        (ORDERED, "age:reg", ["age:reg[T.b]", "age:reg[T.c]"]),
        (ORDERED, "reg", ["reg[T.b]"]),
    ],
)
def test_terms_of_equations_interactions_and_thresholds(names, terms, found):
    rng = np.random.default_rng(5)
    pooled = pool([(dict(zip(names, rng.normal(0, 0.1, 6))), np.full(6, 0.01)) for _ in range(5)], "raab2016")
    assert list(pooled.test(terms).terms) == found


def test_shares_of_all_levels_are_not_tested_together():
    import fastsynth as fs

    syn = fs.synthesize(fs.load_boys(), m=3, random_state=1)
    shares = fs.proportion("gen")
    pooled = pool(syn.analyse(shares))
    with pytest.raises(PoolError, match="Say with null"):
        pooled.test()
    with pytest.raises(PoolError, match="Test all but one"):
        pooled.test(null=-1.0)
    assert pooled.compare(shares(fs.load_boys())).lack_of_fit is None
