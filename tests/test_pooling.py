"""The combining rules against published vectors, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from fastsynth import Analyses, pool
from fastsynth.errors import PoolError
from fastsynth.pooling import Design, interval_overlap

# METHODS 1, common input P1; the expected figures were made with synthpop and mice (METHODS 10).
Q = [1.02, 0.95, 1.10, 0.98, 1.05]
U = [0.0100, 0.0121, 0.0110, 0.0105, 0.0114]
P1 = list(zip(Q, U))
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
    ],
)
def test_published_vectors(name, pairs, options):
    expected, got = VECTORS[name], row(pool(pairs, **options))
    assert got["estimate"] == pytest.approx(expected["qbar"])
    assert got["ubar"] == pytest.approx(expected["ubar"])
    assert got["t"] == pytest.approx(expected["T"])
    assert [got["conf_low"], got["conf_high"]] == pytest.approx(expected["ci"], rel=1e-6)
    if "b" in expected:
        assert got["b"] == pytest.approx(expected["b"])
    assert got["df"] == pytest.approx(expected.get("df", math.inf))


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
        (P1, {"rule": "magic"}, "allowed are 'raab2016', 'reiter2003'"),
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
        ([({"a": 1.0}, [0.1]), ({"b": 1.0}, [0.1])], {"rule": "raab2016"}, r"Fit 2 has terms \['b'\]"),
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
    as_arrays = pool([([1.0, 2.0], matrix)] * 3, rule="raab2016")
    as_variances = pool([(np.array([1.0, 2.0]), np.array([0.01, 0.02]))] * 3, rule="raab2016")
    as_mapping = pool([({"a": 1.0, "b": 2.0}, {"a": 0.01, "b": 0.02})] * 3, rule="raab2016")
    assert as_arrays.table.drop("term").equals(as_variances.table.drop("term"))
    assert as_arrays.table.drop("term").equals(as_mapping.table.drop("term"))
    assert as_mapping.table["term"].to_list() == ["a", "b"]
    assert as_arrays.table["term"].to_list() == ["1", "2"]


def test_labelled_variances_are_put_in_order():
    by_name = pool([({"a": 1.0, "b": 2.0}, {"b": 0.04, "a": 0.01})] * 2, rule="raab2016")
    assert by_name.table["ubar"].to_list() == [0.01, 0.04]
    matrix = pd.DataFrame([[0.04, 0.0], [0.0, 0.01]], index=["b", "a"], columns=["b", "a"])
    by_frame = pool([(pd.Series({"a": 1.0, "b": 2.0}), matrix)] * 2, rule="raab2016")
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
    assert "1.00e-05" in str(pool([(1e-5, 1e-12)] * 2, rule="raab2016"))


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
    compared = pooled.compare(({"x": 0.5}, [0.01])).row(0, named=True)
    assert compared["overlap"] == pytest.approx(0.768185, abs=1e-6)
    assert compared["std_difference"] == pytest.approx(1.2)
    with pytest.raises(PoolError, match="terms"):
        pooled.compare(({"z": 0.5}, [0.01]))
