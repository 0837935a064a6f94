"""Measures of tables of counts, against printed vectors and slow twins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, mannwhitneyu

from fastsynth.measures import MEASURES, classified, measure, z_scores

ORIGINAL = np.array([30.0, 20, 10, 15, 15, 10])
EQUAL = np.array([27.0, 24, 9, 12, 19, 9])
UNEQUAL = np.array([14.0, 12, 4, 6, 14, 0])
# METHODS 5.3; all but S_JSD are what synthpop 1.9 gives.
VECTORS = {
    "equal": {
        "pMSE": 0.0017883947837508205,
        "S_pMSE": 0.5722863308002626,
        "df": 5,
        "VW": 2.8614316540013127,
        "FT": 2.868655329078361,
        "S_FT": 0.5737310658156722,
        "G": 2.896316651805177,
        "dfG": 5,
        "JSD": 0.005168890992789112,
        "S_JSD": 0.5732483549237551,
        "SPECKS": 0.08,
        "U": 5447.5,
        "PO50": 4.0,
        "MabsDD": 0.16,
        "WMabsDD": 4.825609251159404,
        "S_WMabsDD": 0.9651218502318809,
        "dBhatt": 0.05988170973968533,
    },
    "unequal": {
        "pMSE": 0.012690948897845453,
        "S_pMSE": 2.5699171518137036,
        "df": 5,
        "VW": 12.849585759068518,
        "FT": 25.01505160198953,
        "S_FT": 5.003010320397906,
        "G": 4.921315023397277,
        "dfG": 4,
        "JSD": 0.06796959135156835,
        "SPECKS": 0.17,
        "U": 3120.0,
        "PO50": 10.666666666666671,
        "MabsDD": 0.34,
        "WMabsDD": 8.438035074540585,
        "S_WMabsDD": 1.6876070149081168,
        "dBhatt": 0.2500752466858202,
    },
}


def of(o, s, fixed=None):
    found = measure(np.asarray(o, float), np.asarray(s, float), np.array([0]), fixed)
    return {name: float(values[0]) for name, values in zip(MEASURES, found, strict=True)}


@pytest.mark.parametrize(("name", "s"), [("equal", EQUAL), ("unequal", UNEQUAL)])
def test_vectors(name, s):
    found = of(ORIGINAL, s)
    for measured, value in VECTORS[name].items():
        assert found[measured] == pytest.approx(value, rel=1e-10), measured


def test_several_tables_at_once_are_each_by_itself():
    o = np.concatenate([ORIGINAL, [0, 100, 0], ORIGINAL])
    s = np.concatenate([EQUAL, [0, 60, 40], UNEQUAL])
    together = measure(o, s, np.array([0, 6, 9]))
    alone = [measure(a, b, np.array([0])) for a, b in zip(np.split(o, [6, 9]), np.split(s, [6, 9]))]
    for i, values in enumerate(together):
        assert values == pytest.approx([table[i][0] for table in alone], nan_ok=True)


counts = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=2, max_size=12).filter(
    lambda cells: sum(o for o, _ in cells) > 0 and sum(s for _, s in cells) > 0
)


@given(counts)
@settings(max_examples=60, deadline=None)
def test_ranks_are_those_of_single_rows(cells):
    o, s = np.array(cells).T
    with np.errstate(invalid="ignore"):
        score = s / (o + s)
    rows = [np.repeat(score, side) for side in (o, s)]
    found = of(o, s)
    assert found["U"] == pytest.approx(mannwhitneyu(rows[1], rows[0], method="asymptotic").statistic)
    assert found["SPECKS"] == pytest.approx(ks_2samp(*rows, method="asymp").statistic)


@given(counts)
@settings(max_examples=60, deadline=None)
def test_identities(cells):
    o, s = np.array(cells, float).T
    found = of(o, s)
    n, k = o.sum(), s.sum()
    c = k / (n + k)
    used = o + s > 0
    phat = s[used] / (o + s)[used]
    assert found["pMSE"] == pytest.approx(((phat - c) ** 2 * (o + s)[used]).sum() / (n + k))
    assert found["VW"] == pytest.approx((z_scores(o, s) ** 2).sum())
    assert found["df"] == used.sum() - 1
    assert found["SPECKS"] == pytest.approx(found["MabsDD"] / 2)
    assert 0 <= found["JSD"] <= 1
    assert 0 <= found["dBhatt"] <= 1
    same = of(o, o)
    assert same["pMSE"] == same["VW"] == same["MabsDD"] == same["SPECKS"] == 0
    assert same["JSD"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("n", "k"), [(2000, 2000), (2000, 500), (1000, 4000)])
def test_standardised_measures_of_a_correct_model_are_1(n, k):
    rng = np.random.default_rng(5)
    o = rng.multinomial(n, rng.dirichlet(np.full(24, 5.0)))
    found = [of(o, rng.multinomial(k, o / n)) for _ in range(400)]
    # The standard error of the mean is sqrt(2 / (23 x 400)) = .015.
    for name in ("S_pMSE", "S_FT", "S_G", "S_JSD", "S_WMabsDD"):
        assert np.mean([values[name] for values in found]) == pytest.approx(1, abs=0.06), name


def test_sums_that_are_kept_take_degrees_of_freedom():
    found = of(ORIGINAL, EQUAL, np.array([2.0]))
    assert found["df"] == 4
    assert found["S_pMSE"] == pytest.approx(VECTORS["equal"]["VW"] / 4)
    assert found["dfG"] == 4
    nothing = of(ORIGINAL, ORIGINAL, np.array([6.0]))
    assert nothing["df"] == 0
    assert np.isnan(nothing["S_pMSE"])


def test_a_table_of_one_cell_has_nothing_to_say():
    found = of([5, 0], [7, 0])
    assert found["pMSE"] == found["VW"] == found["df"] == found["MabsDD"] == 0
    assert np.isnan(found["S_pMSE"])
    assert np.isnan(found["S_G"])


def test_sides_that_share_no_cell():
    found = of([5, 0], [0, 7])
    assert found["JSD"] == pytest.approx(1)
    assert found["SPECKS"] == found["dBhatt"] == 1
    assert found["U"] == 35
    assert found["G"] == found["dfG"] == 0


def test_scores_of_rows_give_what_their_table_does():
    # A saturated model gives each row the share of its cell.
    o, s = ORIGINAL.astype(int), UNEQUAL.astype(int)
    scores = np.concatenate([np.repeat(s / (o + s), side) for side in (o, s)])
    pmse, specks, po50, u = classified(scores, np.repeat([False, True], [o.sum(), s.sum()]))
    found = of(ORIGINAL, UNEQUAL)
    assert [pmse, specks, po50, u] == pytest.approx([found[name] for name in ("pMSE", "SPECKS", "PO50", "U")])
