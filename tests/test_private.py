"""Private trees: what a row can change, what is spent, what comes out, and what the front end refuses."""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, chisquare

import fastsynth as fs
from fastsynth import private, source
from fastsynth.domains import Bins, Levels, Numbers, bind
from fastsynth.errors import ModelFileError, OptionError, PoolWarning, PrivacyWarning
from fastsynth.execute import Threads
from fastsynth.noise import SecretBits, choice_shares, discrete_laplace
from fastsynth.private import (
    ROUNDING,
    SCALE,
    Budget,
    DpCart,
    PrivateModel,
    fit_private,
    leaf_shares,
    public_schema,
    split_scores,
)
from fastsynth.source import open_source
from tests.conftest import as_arrow

SECRET = 2**100 + 12345
DOMAINS = {
    "age": (0, 110, 11),
    "sex": ["f", "m"],
    "job": ["a", "b", "c", "other", None],
    "income": Bins([0, 1_000, 2_000, 4_000, 6_000, 9_000, 13_000, 20_000, 100_000], null=True),
    "region": ["n", "e", "s", "w"],
}


def two(n, share=0.5, keep=0.9, seed=0):
    """A table of two columns of two levels; the second is the first in most rows."""
    rng = np.random.default_rng(seed)
    a = rng.random(n) < share
    return pa.table({"a": a, "b": np.where(rng.random(n) < keep, a, ~a)})


BOTH = {"a": [False, True], "b": [False, True]}


# What one row can change


def counted(x, y, n_x, n_y):
    return np.bincount(np.array(x, int) * n_y + np.array(y, int), minlength=n_x * n_y).reshape(1, n_x, n_y)


def between(x, y, splits, points):
    """Sum over both children of the squared sum of the points by the rows, in floats: the slow way."""
    scores = []
    for low, high in splits:
        score = 0.0
        for side in (True, False):
            rows = [points[c] for v, c in zip(x, y) if (low <= v < high) == side]
            score += float(np.square(np.sum(rows, axis=0)).sum()) / len(rows) if rows else 0.0
        scores.append(score)
    return np.array(scores)


@st.composite
def rows_and_one_more(draw):
    n_x, n_y = draw(st.integers(2, 5)), draw(st.integers(2, 6))
    row = st.tuples(st.integers(0, n_x - 1), st.integers(0, n_y - 1))
    kind, null = draw(st.sampled_from(["levels", "bins"])), draw(st.booleans()) and n_y > 2
    if kind == "levels":
        target = Levels(pa.int64(), pa.array(range(n_y)), False)
    else:
        target = Numbers(pa.int64(), tuple(range(n_y - null)), (1,) * (n_y - null), 1, bool(null))
    predictor = draw(
        st.sampled_from(
            [
                Levels(pa.int64(), pa.array(range(n_x)), False),
                Numbers(pa.int64(), tuple(range(n_x)), (1,) * n_x, 1, False),
            ]
        )
    )
    return draw(st.lists(row, max_size=12)), draw(row), n_x, n_y, target, predictor


@settings(max_examples=300, deadline=None)
@given(rows_and_one_more())
def test_a_row_moves_scores_by_no_more_than_is_said(case):
    rows, more, n_x, n_y, target, predictor = case
    places, diameter = target.places
    points = np.eye(n_y, dtype=int) if places is None else places
    assert max(np.square(a - b).sum() for a in points for b in points) <= diameter

    def scores(rows):
        x, y = [r[0] for r in rows], [r[1] for r in rows]
        found = split_scores(counted(x, y, n_x, n_y), predictor.splits, places)[0]
        slow = between(x, y, predictor.splits, points)
        assert np.all(np.abs(found.astype(float) / SCALE - slow) < 1e-5 + 1e-9 * slow)
        return found

    change = scores([*rows, more]) - scores(rows)
    # A constant that all splits share means nothing: the squared length of the point.
    change = change.astype(object) - SCALE * int(np.square(points[more[1]]).sum())
    assert max(change) <= 2
    assert min(change) >= -SCALE * diameter - 2
    assert max(change) - min(change) <= SCALE * diameter + ROUNDING

    epsilon = 0.7
    rate = epsilon / (SCALE * diameter + ROUNDING)
    shares = [choice_shares(scores(table).astype(float), rate) for table in (rows, [*rows, more])]
    ratios = np.log(shares[0] / shares[1])
    assert np.abs(ratios).max() <= epsilon + 1e-6
    # Bounded range: what zero-concentrated privacy counts epsilon^2 / 8 for.
    assert ratios.max() - ratios.min() <= epsilon + 1e-6


def test_gini_moves_by_less_than_two():
    """The bound of METHODS 6.4, and that it is nearly reached."""
    most = 0.0
    for n in range(200):
        counts = np.array([n, 0])
        before = n - np.square(counts).sum() / max(n, 1)
        after = n + 1 - np.square([*counts[:1], 1]).sum() / (n + 1)
        most = max(most, after - before)
    assert 1.9 < most < 2


def test_a_row_is_in_one_cell_of_the_leaves():
    table = two(50)
    codes = [domain.codes(column) for domain, column in zip(_domains(table), table.columns)]
    assert all(set(column.tolist()) <= {0, 1} for column in codes)
    counts = private._tabulate(codes[0].astype(np.uint16), 2, None, 1, codes[1].astype(np.uint8), 2)
    assert counts.sum() == 50
    assert counts.shape == (2, 1, 2)


def _domains(table, domains=None):
    return [bind(field, DpCart(1, domains or BOTH).domains[field.name]) for field in table.schema]


# What is spent


@pytest.mark.parametrize("delta", [0.0, 1e-6, 1e-9])
@pytest.mark.parametrize("epsilon", [0.01, 1.0, 7.3])
@pytest.mark.parametrize("depth", [0, 1, 4])
def test_what_columns_spend_adds_up(epsilon, delta, depth):
    columns = [("first", 0), ("second", depth), ("constant", -1), ("third", depth)]
    budget = Budget.of(DpCart(epsilon, BOTH, depth=depth, delta=delta), columns)
    spent, at = budget.composed()
    assert epsilon * (1 - 1e-6) < spent <= epsilon
    assert at == delta
    assert [s.depth for s in budget.spends] == [0, depth, 0, depth]
    assert budget.spends[2].total == 0
    if not delta:
        # The mechanisms get fractions: their sum is exact.
        exact = sum(s.depth * budget.split_epsilon(s) + 1 / budget.noise(s) for s in budget.spends if s.leaf)
        assert exact <= Fraction(epsilon)
    else:
        rho = sum(
            s.depth * budget.split_epsilon(s) ** 2 / 8 + 1 / (2 * budget.noise(s)) for s in budget.spends if s.leaf
        )
        assert private.epsilon_of_rho(float(rho), delta) <= epsilon


def test_every_split_and_leaf_is_paid_for(monkeypatch):
    """Rates and scales that reach the mechanisms are those of the budget, once for each node and cell."""
    rates, scales = [], []

    def seen_choose(bits, utility, rate):
        rates.append(rate)
        return 0

    def seen_noise(bits, scale):
        scales.append(scale)
        return 0

    monkeypatch.setattr(private, "choose", seen_choose)
    monkeypatch.setattr(private, "discrete_laplace", seen_noise)
    model = fit_private(two(100), DpCart(1.0, BOTH, depth=3), SECRET)
    first, second = model.budget.spends
    assert len(rates) == 7
    assert set(rates) == {Fraction(second.split) / (SCALE * 2 + ROUNDING)}
    assert scales == [1 / Fraction(first.leaf)] * 2 + [1 / Fraction(second.leaf)] * 16
    assert model.trees[1].counts.sum() == 100


def test_variance_is_that_of_the_noise():
    budget = Budget.of(DpCart(3.0, BOTH), [("a", 0)])
    bits, scale = SecretBits(3, "x"), budget.noise(budget.spends[0])
    drawn = np.array([discrete_laplace(bits, scale) for _ in range(40_000)])
    assert drawn.var() == pytest.approx(budget.variance(budget.spends[0]), rel=0.05)


def test_delta_buys_less_noise_where_columns_are_many():
    columns = [(str(i), 3) for i in range(20)]
    pure, approximate = (Budget.of(DpCart(1.0, BOTH, delta=delta), columns) for delta in (0.0, 1e-9))
    assert approximate.variance(approximate.spends[3]) < pure.variance(pure.spends[3]) / 1.8
    assert approximate.split_epsilon(approximate.spends[3]) > 3 * pure.split_epsilon(pure.spends[3])


def test_the_statement_says_what_is_guaranteed():
    text = Budget.of(DpCart(1.0, BOTH), [("a", 0)]).statement()
    for part in ("epsilon = 1,", "epsilon = 2.", "any number of copies", "too short", "does not cover", "random state"):
        assert part in text
    assert "delta = 1e-09" in Budget.of(DpCart(1.0, BOTH, delta=1e-9), [("a", 0)]).statement()


# An audit by experiment


def cell_counts(table, n_runs, secret, scale=1.0):
    """Noisy counts of the cells of the row that one table has and the other lacks, over many fits."""
    method, found = DpCart(1.0, BOTH, depth=1), []
    domains = tuple(_domains(table))
    codes = [domain.codes(column).astype(np.uint8) for domain, column in zip(domains, table.columns)]
    budget = Budget.of(method, [("a", 0), ("b", 1)])
    a, b = budget.spends
    budget = Budget(1.0, 0.0, None, (a, b))
    for run in range(n_runs):
        entropy = secret + run
        trees = [
            private.fit_tree((codes, domains, budget, entropy), 0, (), private.Spend("a", 0, 0.0, a.leaf * scale)),
            private.fit_tree(
                (codes, domains, budget, entropy), 1, (0,), private.Spend("b", 1, b.split * scale, b.leaf * scale)
            ),
        ]
        found.append(int(trees[0].counts[0, 1]) + int(trees[1].counts[:, 1].max()))
    return np.array(found)


def least_epsilon(with_row, without, alpha=1e-3):
    """Lower confidence limit of the epsilon that the frequencies of an event show; the event is chosen on one half."""
    half = len(with_row) // 2
    cuts = np.unique(np.concatenate([with_row[:half], without[:half]]))
    rates = [(np.mean(with_row[:half] >= cut), np.mean(without[:half] >= cut)) for cut in cuts]
    best = max(range(len(cuts)), key=lambda i: rates[i][0] / (rates[i][1] + 10 / half))
    hits = [int(np.sum(x[half:] >= cuts[best])) for x in (with_row, without)]
    low = beta.ppf(alpha, hits[0], half - hits[0] + 1) if hits[0] else 0.0
    high = beta.ppf(1 - alpha, hits[1] + 1, half - hits[1])
    return math.log(max(low, 1e-300) / high)


def test_two_tables_that_differ_by_a_row_are_told_apart_as_little_as_promised():
    few = pa.table({"a": [False] * 3, "b": [False] * 3})
    more = pa.table({"a": [False] * 3 + [True], "b": [False] * 3 + [True]})
    n = 3_000
    assert least_epsilon(cell_counts(more, n, 2**99), cell_counts(few, n, 2**98)) <= 1.0


def test_the_audit_would_see_noise_that_is_too_small():
    few = pa.table({"a": [False] * 3, "b": [False] * 3})
    more = pa.table({"a": [False] * 3 + [True], "b": [False] * 3 + [True]})
    n = 1_500
    assert least_epsilon(cell_counts(more, n, 2**99, 4.0), cell_counts(few, n, 2**98, 4.0)) > 1.0


# What comes out


def test_with_a_huge_budget_margins_and_associations_are_kept():
    table = two(20_000, share=0.3, keep=0.95)
    model = fit_private(table, DpCart(1e4, BOTH, depth=2), SECRET)
    assert abs(model.n_rows - 20_000) <= 1
    k = 20_000
    copy = model.draw(1, 0, 0, k)
    real = np.bincount(table["a"].to_numpy() * 2 + table["b"].to_numpy(), minlength=4)
    drawn = np.bincount(copy["a"].to_numpy(False) * 2 + copy["b"].to_numpy(False), minlength=4)
    assert chisquare(drawn, real / real.sum() * k).pvalue > 1e-4


def test_with_a_huge_budget_numbers_and_nulls_are_kept(mixed):
    model = fit_private(mixed.to_arrow(), DpCart(1e5, DOMAINS, depth=3), SECRET)
    copy = pl.from_arrow(model.draw(1, 0, 0, 50_000))
    assert copy["income"].null_count() / 50_000 == pytest.approx(mixed["income"].null_count() / 500, abs=0.01)
    assert copy["age"].mean() == pytest.approx(mixed["age"].mean(), abs=1.0)
    for name in ("sex", "job", "region"):
        shares = {row[0]: row[1] / 500 for row in mixed[name].cast(pl.String).value_counts().rows()}
        drawn = {row[0]: row[1] / 50_000 for row in copy[name].cast(pl.String).value_counts().rows()}
        assert all(abs(drawn.get(level, 0) - share) < 0.015 for level, share in shares.items())

    def slope(frame):
        frame = frame.drop_nulls("income")
        return frame.select(pl.corr("age", pl.col("income").log1p())).item()

    assert slope(copy) > 0.5 * slope(mixed) > 0


def test_with_a_tiny_budget_nothing_depends_on_the_data():
    """The same noise and other data: the same trees, and shares that hardly differ."""
    trees = []
    for table in (two(500), two(800, 0.01, 0.0)):
        domains = tuple(_domains(table))
        codes = [domain.codes(column).astype(np.uint8) for domain, column in zip(domains, table.columns)]
        budget = Budget.of(DpCart(1e-6, BOTH, depth=2), [("a", 0), ("b", 2)])
        trees.append(private.fit_tree((codes, domains, budget, SECRET), 1, (0,), budget.spends[1]))
    assert trees[0].splits.tolist() == trees[1].splits.tolist()
    assert np.abs(leaf_shares(trees[0].counts) - leaf_shares(trees[1].counts)).max() < 0.001


def test_fits_with_one_random_state_do_not_share_noise():
    """Else the difference of two releases, of one row more or of twice the budget, would show the data."""
    base = fit_private(two(100), DpCart(1.0, BOTH), SECRET).trees[0].counts
    more = pa.concat_tables([two(100), two(1)])
    for table, method in ((more, DpCart(1.0, BOTH)), (two(100), DpCart(1.0, BOTH, depth=2, delta=1e-9))):
        other = fit_private(table, method, SECRET).trees[0].counts
        assert np.abs(other - base).min() > 1
    assert fit_private(two(100), DpCart(1.0, BOTH), SECRET).trees[0].counts.tolist() == base.tolist()


def test_noise_is_not_drawn_by_the_streams_of_copies():
    """What draws copies is known to those who get them, and must not tell the noise."""
    entropy = private.draw_entropy(SECRET)
    assert entropy != SECRET
    assert entropy < 2**128
    assert fit_private(two(50), DpCart(1.0, BOTH), SECRET).trees[0].counts.tolist() != (
        fit_private(two(50), DpCart(1.0, BOTH), entropy).trees[0].counts.tolist()
    )


def test_an_empty_table_is_as_good_as_any():
    model = fit_private(two(0), DpCart(1.0, BOTH), SECRET)
    assert model.draw(1, 0, 0, 10).num_rows == 10
    assert model.n_rows >= 2


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=8))
def test_leaf_shares_are_the_nearest_ones(counts):
    shares = leaf_shares(np.array([counts]))[0]
    assert shares.min() >= 0
    assert shares.sum() == pytest.approx(1.0)
    total = sum(counts)
    if total <= 0:
        assert np.allclose(shares, 1 / len(counts))
        return
    # Karush-Kuhn-Tucker: one constant is taken from all that are left, and the others do not exceed it.
    left = shares > 1e-12
    taken = (np.array(counts) - shares * total)[left]
    assert np.ptp(taken) < 1e-6
    assert all(c <= taken[0] + 1e-6 for c in np.array(counts)[~left])


def every_domain():
    day, moment = dt.date(2020, 1, 1), dt.datetime(2020, 1, 1)
    later = dt.datetime(2020, 3, 1)
    return {
        "i8": (0, 49, 10, None),
        "i64": (0, 50 * 10**15, 20),
        "u16": (0, 49, 7, None),
        "u64": (2**63, 2**63 + 49, 5),
        "f32": (-4, 4, 16, None),
        "f64": Bins([-4, -1, 0, 1, 4], step=0.1, null=True),
        "dec": (Decimal(0), Decimal("0.49"), 7, None),
        "bool": [True, False, None],
        "text": [*(f"t{i}" for i in range(7)), None],
        "cat": [*(f"c{i}" for i in range(5)), None],
        "enum": ["e2", "e0", "e1", "unused", None],
        "date": (day, dt.date(2020, 4, 1), 8, None),
        "ms": Bins([moment, dt.datetime(2020, 2, 1), later], step=dt.timedelta(hours=1), null=True),
        "zone": (moment, later, 8, None),
        "span": (dt.timedelta(0), dt.timedelta(seconds=60), 6, None),
        "time": (dt.time(0), dt.time(23, 59, 59), 24, None),
        "void": [None],
        "empty": (0, 1, 1, None),
        "constant": ["same"],
    }


def test_every_type_comes_back_within_its_domain(every_type, kind):
    name, convert = kind
    frame = convert(every_type)
    names = as_arrow(frame).schema.names
    domains = {key: domain for key, domain in every_domain().items() if key in names}
    syn = fs.synthesize(frame, m=2, k=300, method=DpCart(100.0, domains, depth=1))
    copy = syn[0]
    assert type(copy) is type(frame)
    assert as_arrow(copy).schema.types == as_arrow(frame).schema.types
    copy = pl.from_arrow(as_arrow(copy))
    assert set(copy["i8"].drop_nulls()) <= set(range(50))
    assert set(copy["text"].drop_nulls()) <= {f"t{i}" for i in range(7)}
    assert copy["f64"].drop_nulls().is_between(-4, 4).all()
    assert (copy["f64"] - copy["f64"].round(1)).abs().max() == 0
    if name != "pandas":
        assert copy["dec"].drop_nulls().is_between(Decimal(0), Decimal("0.49")).all()
        assert (copy["ms"].dt.minute().max(), copy["ms"].dt.hour().max()) == (0, 23)
        assert copy["u64"].is_between(2**63, 2**63 + 49).all()
        assert copy["date"].drop_nulls().is_between(dt.date(2020, 1, 1), dt.date(2020, 4, 1)).all()


def test_bins_hold_their_lower_edge_and_spikes_stay_spikes():
    table = pa.table({"gain": [0] * 90 + [7_000] * 10, "x": [1] * 100})
    method = DpCart(1e5, {"gain": Bins([0, 1, 1_000, 10_000]), "x": (0, 4, 5)})
    model = fit_private(table, method, SECRET)
    gain = model.draw(1, 0, 0, 1_000)["gain"].to_numpy()
    assert abs((gain == 0).mean() - 0.9) < 0.05
    assert np.all((gain == 0) | ((gain >= 1_000) & (gain <= 10_000)))
    assert model.domains[1].lows == (0, 1, 2, 3, 4)
    assert set(model.draw(1, 0, 0, 100)["x"].to_pylist()) == {1}


def test_bins_of_equal_width_are_cut_where_they_should_be():
    domain = bind(pa.field("age", pa.int64()), Bins((0, 110), 22))
    assert domain.lows[:3] == (0, 5, 10)
    assert domain.sizes == (5,) * 21 + (6,)
    assert domain.codes(pa.chunked_array([[0, 4, 5, 109, 110]])).tolist() == [0, 0, 1, 21, 21]


def test_what_is_outside_a_domain_is_clamped():
    numbers = bind(pa.field("x", pa.float64()), Bins((0, 10), 5))
    assert numbers.codes(pa.chunked_array([[-1e9, 1e9, math.inf, -math.inf, math.nan, None]])).tolist() == [
        0,
        4,
        4,
        0,
        0,
        0,
    ]
    assert bind(pa.field("x", pa.float64()), Bins((0, 10), 5, null=True)).codes(
        pa.chunked_array([[math.nan, None]])
    ).tolist() == [5, 5]
    levels = bind(pa.field("x", pa.string()), ["a", "b", "other"])
    assert levels.codes(pa.chunked_array([["a", "z", None]])).tolist() == [0, 2, 2]
    levels = bind(pa.field("x", pa.string()), ["a", "other", None])
    assert levels.codes(pa.chunked_array([["a", "z", None], ["other"]])).tolist() == [0, 1, 2, 1]
    coded = pa.chunked_array([pa.array(["a", "z", None]).dictionary_encode(), pa.array(["other"]).dictionary_encode()])
    assert bind(pa.field("x", coded.type), ["a", "other", None]).codes(coded).tolist() == [0, 1, 2, 1]


def test_large_whole_numbers_and_many_levels_of_a_short_dictionary():
    frame = pd.DataFrame({"x": pd.Categorical(["l3", "l5"]), "y": [1.0, 2.0]})
    method = DpCart(1e4, {"x": [f"l{i}" for i in range(300)], "y": (0, 4, 4)})
    syn = fs.synthesize(frame, m=1, k=50, method=method)
    assert str(syn[0]["x"].dtype) == "category"


@pytest.mark.parametrize("make", [pd.DataFrame, lambda columns: pa.Table.from_pandas(pd.DataFrame(columns))])
def test_types_do_not_tell_how_many_categories_there_are(make):
    schemas = []
    for n in (2, 200, 40_000):
        levels = [f"l{i}" for i in range(n)]
        frame = make({"x": pd.Categorical(["l0", "l1"], categories=levels), "y": [1.0, 2.0]})
        method = DpCart(1e4, {"x": ["l0", "l1", "l2"], "y": (0, 4, 4)})
        schemas.append(public_schema(as_arrow(frame).schema, method))
        copy = fs.synthesize(frame, m=1, k=20, method=method)[0]
        assert set(as_arrow(copy)["x"].to_pylist()) <= {"l0", "l1", "l2"}
    assert schemas[0].equals(schemas[1], check_metadata=True)
    assert schemas[0].equals(schemas[2], check_metadata=True)


@pytest.mark.parametrize("width", [2, 300])
def test_an_enum_has_the_levels_of_its_domain(width, tmp_path):
    declared = [f"l{i}" for i in range(width)] + ["secret"]
    frame = pl.DataFrame({"x": pl.Series(["l0", "secret", None], dtype=pl.Enum(declared)), "y": [1.0, 2.0, 3.0]})
    method = DpCart(1e4, {"x": ["l1", "l0", None], "y": (0, 4, 4)})
    syn = fs.synthesize(frame, m=1, k=20, method=method)
    assert syn[0].schema["x"] == pl.Enum(["l1", "l0"])
    model = fit_private(open_source(frame), method, SECRET)
    assert b"secret" not in json.dumps(model.to_state()).encode()
    assert b"secret" not in base64.b64decode(model.to_state()["schema"])
    # Levels that are not in the domain count as its last one.
    assert model.trees[0].counts.sum(axis=0).tolist() == [0, 2, 1]
    syn.write_parquet(tmp_path / "copies")
    assert fs.Synthesis.read(tmp_path / "copies")[0]["x"].cast(pl.String).equals(syn[0]["x"].cast(pl.String))
    assert fs.utility(frame, syn).oneway.height == 2
    with pytest.raises(OptionError, match="Enum does not have"):
        fs.synthesize(frame, m=1, k=20, method=DpCart(1.0, {"x": ["l1", "other"], "y": (0, 4, 4)}))
    for wrong in ([1, 2], ["l0", "l0"]):
        with pytest.raises(OptionError, match=r"domains\['x'\]"):
            fs.synthesize(frame, m=1, k=20, method=DpCart(1.0, {"x": wrong, "y": (0, 4, 4)}))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_result_is_the_same_for_any_threads_and_pieces(mixed, tmp_path, monkeypatch, threads):
    method = DpCart(5.0, DOMAINS)
    whole = fit_private(open_source(mixed), method, SECRET)
    monkeypatch.setattr(source, "PIECE_ROWS", 64)
    monkeypatch.setattr(private, "CHUNK_ROWS", 37)
    mixed.write_parquet(tmp_path / "people.parquet", row_group_size=50)
    pieces = source.open_source(str(tmp_path / "people.parquet"), memory_limit=100)
    assert len(pieces.starts) > 3
    for data in (pieces, open_source(mixed)):
        model = fit_private(data, method, SECRET, executor=Threads(threads))
        assert model.to_state()["trees"] == whole.to_state()["trees"]
        # Parquet forgets whether text in a dictionary is large.
        assert pl.from_arrow(model.draw(3, 1, 0, 99)).equals(pl.from_arrow(whole.draw(3, 1, 0, 99)))


def test_blocks_of_rows_are_drawn_alone(monkeypatch):
    monkeypatch.setattr(private, "BLOCK_ROWS", 10)
    model = fit_private(two(100), DpCart(5.0, BOTH), SECRET)
    parts = [model.draw(3, 1, start, min(start + 10, 35)) for start in range(0, 35, 10)]
    assert pa.Table.from_batches(parts).combine_chunks().equals(pa.Table.from_batches([model.draw(3, 1, 0, 35)]))
    assert not model.draw(3, 1, 0, 35).equals(model.draw(3, 0, 0, 35))


def test_notes_of_the_schema_do_not_tell_how_many_rows_there_are():
    frame = pd.DataFrame({"a": pd.Categorical(["x", "y", "x"]), "b": [1, 2, 3]})
    table = pa.Table.from_pandas(frame).replace_schema_metadata(
        pa.Table.from_pandas(frame).schema.metadata | {b"note": b"secret"}
    )
    domains = {"a": ["x", "y", "z"], "b": (0, 5, 5)}
    for data in (frame, table):
        syn = fs.synthesize(data, m=1, k=10, method=DpCart(1.0, domains))
        notes = syn.arrow(0).schema.metadata
        assert b"num_categories" not in notes[b"pandas"]
        assert b"stop" not in notes[b"pandas"]
        assert b"note" not in notes


def test_a_model_goes_through_json(mixed):
    model = fit_private(mixed.to_arrow(), DpCart(5.0, DOMAINS, delta=1e-6), SECRET)
    back = PrivateModel.from_state(json.loads(json.dumps(model.to_state())))
    assert back.draw(3, 1, 0, 99).equals(model.draw(3, 1, 0, 99))
    assert back.budget == model.budget
    assert back.to_state() == model.to_state()


def test_every_type_goes_through_json(every_type):
    model = fit_private(every_type.to_arrow(), DpCart(5.0, every_domain()), SECRET)
    back = PrivateModel.from_state(json.loads(json.dumps(model.to_state())))
    assert back.draw(3, 1, 0, 99).equals(model.draw(3, 1, 0, 99))


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s.update(format="other"),
        lambda s: s.update(format_version=99),
        lambda s: s.pop("trees"),
        lambda s: s["trees"].pop("1"),
        lambda s: s["trees"]["1"]["splits"][0].__setitem__(0, 1),
        lambda s: s["trees"]["1"]["counts"].pop(),
        lambda s: s.update(order=[0, 0]),
        lambda s: s.update(schema="!"),
        lambda s: s["domains"].pop(),
        lambda s: s["budget"]["spends"].pop(),
    ],
)
def test_damaged_states_are_refused(damage):
    state = json.loads(json.dumps(fit_private(two(100), DpCart(5.0, BOTH), SECRET).to_state()))
    damage(state)
    with pytest.raises(ModelFileError):
        PrivateModel.from_state(state)


# The front end


def test_synthesize_gives_copies_with_their_guarantee(mixed):
    method = DpCart(2.0, DOMAINS)
    syn = fs.synthesize(mixed, m=3, k=200, method=method, random_state=SECRET)
    assert (syn.m, syn.k, syn[0].shape) == (3, 200, (200, 5))
    assert syn[0].schema == mixed.schema
    assert syn.v is None
    assert syn.recipe is None
    audit = syn.audit
    assert audit["private"]["epsilon"] == 2.0
    assert [spend["column"] for spend in audit["private"]["spends"]] == mixed.columns
    assert str(SECRET) not in json.dumps(audit)
    assert syn[:2].private == syn.private
    assert syn.summary()["method"].to_list() == ["DpCart"] * 5
    assert syn.summary()["predictors"].to_list()[2] == ["age", "sex"]
    again = fs.synthesize(mixed, m=3, k=200, method=method, random_state=SECRET)
    assert again[2].equals(syn[2])
    assert not fs.synthesize(mixed, m=1, k=200, method=method)[0].equals(syn[0])


def test_the_order_of_columns_may_be_given(mixed):
    order = ["sex", "region", "age", "job", "income"]
    syn = fs.synthesize(mixed, m=1, k=20, method=DpCart(1.0, DOMAINS), visit_sequence=order, predictors="all")
    assert syn[0].columns == mixed.columns
    assert syn.summary()["column"].to_list() == order
    for word in ("auto", "table"):
        syn = fs.synthesize(mixed, m=1, k=20, method=DpCart(1.0, DOMAINS), visit_sequence=word)
        assert syn.summary()["column"].to_list() == mixed.columns


def test_copies_in_files(mixed, tmp_path):
    method = DpCart(2.0, DOMAINS)
    syn = fs.synthesize(mixed, m=2, k=200, method=method, random_state=SECRET, out=tmp_path / "out")
    assert syn[1].equals(fs.synthesize(mixed, m=2, k=200, method=method, random_state=SECRET)[1])
    texts = [(tmp_path / "out" / name).read_text() for name in ("manifest.json", "audit.json")]
    assert all(str(SECRET) not in text for text in texts)
    assert "data" not in json.loads(texts[0])["run"]
    read = fs.Synthesis.read(tmp_path / "out")
    assert read.private["epsilon"] == 2.0
    assert read.n == syn.n


def test_fit_once_and_sample_often(mixed, tmp_path):
    s = fs.Synthesizer(m=2, method=DpCart(2.0, DOMAINS), random_state=SECRET).fit(mixed)
    first = s.sample(k=50)
    assert s.sample(k=50)[0].equals(first[0])
    assert s.sample(k=50, random_state=first.random_state_)[0].equals(first[0])
    assert s.summary()["n_leaves"].to_list() == [1, 8, 8, 8, 8]
    s.save(tmp_path / "people.json")
    assert str(SECRET) not in (tmp_path / "people.json").read_text()
    loaded = fs.Synthesizer.load(tmp_path / "people.json")
    assert loaded.sample(k=50, random_state=first.random_state_)[0].equals(first[0])
    assert loaded.sample(k=30).private == first.private
    with pytest.raises(OptionError, match="loaded model is private"):
        loaded.fit(mixed)
    with pytest.raises(OptionError, match="k: with method=DpCart"):
        s.sample()
    with pytest.raises(OptionError, match="secret"):
        s.sample(k=50, random_state=SECRET)
    with pytest.raises(OptionError, match="given"):
        s.sample(k=50, given=mixed.select("age"))


def test_a_damaged_model_file_is_refused(mixed, tmp_path):
    (tmp_path / "x.json").write_text('{"format": "fastsynth private model"')
    with pytest.raises(ModelFileError):
        fs.Synthesizer.load(tmp_path / "x.json")
    (tmp_path / "y.json").write_text('{"format": "other"}')
    with pytest.raises(ModelFileError):
        fs.Synthesizer.load(tmp_path / "y.json")


def test_a_random_state_that_can_be_guessed_is_warned_of(mixed):
    with pytest.warns(PrivacyWarning, match="guesses the random_state"):
        fs.synthesize(mixed, m=1, k=20, method=DpCart(1.0, DOMAINS), random_state=1)


def test_identifiers_and_rare_levels_are_not_looked_for(mixed):
    """No warning and no record tells of the values."""
    frame = mixed.with_columns(pl.Series("sex", [f"name {i}" for i in range(mixed.height)]))
    syn = fs.synthesize(frame, m=1, k=20, method=DpCart(1.0, DOMAINS))
    assert set(syn[0]["sex"]) <= {"f", "m"}
    assert syn.summary()["n_rare_levels"].null_count() == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("columns", {"sex": fs.Column(method="keep")}),
        ("predictors", {"sex": ["age"]}),
        ("proper", True),
        ("forbid", [pl.col("age") < 3]),
        ("where", {"age": "age > 3"}),
        ("strata", ["sex"]),
        ("weights", "income"),
        ("relations", "auto"),
        ("given", pl.DataFrame({"age": [1]})),
        ("fit_rows", 100),
        ("fresh_rows", True),
        ("client", object()),
        ("copies", "fresh"),
        ("guard", fs.Guard()),
    ],
)
def test_options_that_are_not_accounted_for_are_refused(mixed, name, value):
    with pytest.raises(OptionError, match=f"{name}: not with method=DpCart"):
        fs.synthesize(mixed, k=20, method=DpCart(1.0, DOMAINS), **{name: value})


def test_partitions_and_resuming_are_refused(mixed, tmp_path):
    for option in ({"fit": "partition"}, {"resume": True}):
        with pytest.raises(OptionError, match="not with method=DpCart"):
            fs.synthesize(mixed, k=20, method=DpCart(1.0, DOMAINS), out=tmp_path / "out", **option)
    assert not (tmp_path / "out").exists()


def test_k_has_to_be_said(mixed):
    with pytest.raises(OptionError, match="how many the data have is a secret"):
        fs.synthesize(mixed, method=DpCart(1.0, DOMAINS))


def test_a_column_alone_cannot_be_private(mixed):
    with pytest.raises(OptionError):
        fs.synthesize(mixed, columns={"sex": fs.Column(method=DpCart(1.0, DOMAINS))})


def test_types_that_are_guessed_are_refused(mixed, tmp_path):
    mixed.write_csv(tmp_path / "people.csv")
    for data in (tmp_path / "people.csv", [str(tmp_path / "people.csv")]):
        with pytest.raises(OptionError, match="CSV"):
            fs.synthesize(data, k=20, method=DpCart(1.0, DOMAINS))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"epsilon": 0}, "epsilon"),
        ({"epsilon": math.inf}, "epsilon"),
        ({"epsilon": True}, "epsilon"),
        ({"epsilon": "1"}, "epsilon"),
        ({"delta": -1e-9}, "delta"),
        ({"delta": 0.7}, "delta"),
        ({"depth": -1}, "depth"),
        ({"depth": 11}, "depth"),
        ({"depth": 1.5}, "depth"),
        ({"domains": {}}, "domains"),
        ({"domains": ["a"]}, "domains"),
        ({"domains": {"a": ("f", "m")}}, "list of levels"),
        ({"domains": {"a": []}}, "list of levels"),
        ({"domains": {"a": (0, 1, 2, 3)}}, "list of levels"),
        ({"domains": {"a": (0, 1, 0)}}, "count"),
    ],
)
def test_bad_options_are_refused(options, match):
    with pytest.raises(OptionError, match=match):
        DpCart(**({"epsilon": 1.0, "domains": BOTH} | options))


@pytest.mark.parametrize(
    "bad",
    [{"edges": [1]}, {"edges": [1, 2, 3], "count": 2}, {"edges": [1, 2], "step": 0}, {"edges": [1, 2], "null": 1}],
)
def test_bad_bins_are_refused(bad):
    with pytest.raises(OptionError):
        Bins(**bad)


@pytest.mark.parametrize(
    ("dtype", "domain", "match"),
    [
        (pa.int64(), ["a"], "type int64"),
        (pa.int64(), (0.5, 3, 2), "type int64"),
        (pa.int64(), (3, 0, 2), "ascend"),
        (pa.int64(), (0, 3, 9), "holds no value"),
        (pa.int64(), Bins((0, 9), 3, step=0.5), "step"),
        (pa.int64(), Bins((0, 9), 3, step=dt.timedelta(1)), "step"),
        (pa.float64(), Bins((0, 9), 3, step=dt.timedelta(1)), "step"),
        (pa.timestamp("us"), Bins((dt.datetime(2020, 1, 1), dt.datetime(2021, 1, 1)), 3, step=2), "step"),
        (pa.date32(), Bins((dt.date(2020, 1, 1), dt.date(2021, 1, 1)), 3, step=dt.timedelta(hours=1)), "step"),
        (pa.string(), (0, 3, 2), "no bins"),
        (pa.bool_(), (0, 3, 2), "no bins"),
        (pa.string(), ["a", "a"], "twice"),
        (pa.string(), ["a", None, None], "twice"),
        (pa.float64(), [1.0, math.nan], "twice"),
        (pa.int64(), list(range(2_000)), "at most"),
        (pa.list_(pa.int64()), ["a"], "type list"),
        (pa.float64(), (0, math.inf, 3), "type double"),
    ],
)
def test_domains_that_are_not_of_the_column_are_refused(dtype, domain, match):
    with pytest.raises(OptionError, match=match):
        bind(pa.field("x", dtype), DpCart(1.0, {"x": domain}).domains["x"])


def test_columns_without_domain_and_other_orders_are_refused(mixed):
    few = {name: DOMAINS[name] for name in ("age", "sex")}
    with pytest.raises(OptionError, match="no domain for 'job', 'income', 'region'"):
        fs.synthesize(mixed, k=20, method=DpCart(1.0, few))
    with pytest.raises(OptionError, match="no column 'other'"):
        fs.synthesize(mixed, k=20, method=DpCart(1.0, DOMAINS | {"other": ["a"]}))
    for order in (["age"], "levels", None, 3, [1, 2, 3, 4, 5], ["age", "age", "sex", "job", "income"]):
        with pytest.raises(OptionError, match="visit_sequence"):
            fs.synthesize(mixed, k=20, method=DpCart(1.0, DOMAINS), visit_sequence=order)
    with pytest.raises(OptionError, match="Enum"):
        bind(pl.DataFrame({"x": pl.Series(["a"], dtype=pl.Enum(["a", "b"]))}).to_arrow().schema.field("x"), ["a", "c"])
    with pytest.raises(OptionError, match="never null"):
        bind(pa.field("x", pa.int64(), nullable=False), [1, None])


def test_the_example_of_the_docs_runs(capsys):
    text = (Path(__file__).parent.parent / "docs" / "private.md").read_text()
    code = text.split("```python")[1].split("```")[0]
    names = {}
    exec(code, names)
    assert "epsilon = 5" in capsys.readouterr().out
    assert names["syn"][0].schema == fs.load_boys().schema


def test_pooled_intervals_say_that_they_are_too_short(mixed, tmp_path):
    syn = fs.synthesize(mixed, m=2, k=200, method=DpCart(5.0, DOMAINS), out=tmp_path / "out")
    for copies in (syn, fs.Synthesis.read(tmp_path / "out")):
        with pytest.warns(PoolWarning, match="differentially private"):
            pooled = fs.pool(copies.analyse(fs.mean("age")))
        assert "too short" in str(pooled)
