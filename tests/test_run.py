"""Tasks, blocks and passive expressions."""

from __future__ import annotations

import threading
import time

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsynth import Column, Synthesizer, draw, execute, run, streams
from fastsynth.errors import PlanError


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_return_results_in_order(threads):
    seen = []

    def done(i, result):
        seen.append((i, result))
        return -result

    assert execute.Threads(threads).map(pow, 2, [(i,) for i in range(20)], done) == [-(2**i) for i in range(20)]
    assert sorted(seen) == [(i, 2**i) for i in range(20)]


@pytest.mark.parametrize("at_most", [1, 2, 8, None])
def test_no_more_jobs_run_at_once_than_allowed(at_most):
    now, most, lock = 0, 0, threading.Lock()

    def work(_, i):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.002)
        with lock:
            now -= 1

    execute.Threads(4).map(work, None, [(i,) for i in range(40)], lambda *_: None, at_most)
    assert most <= min(4, at_most or 4)


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_stops_the_rest(threads):
    started = []
    release = threading.Event()

    def work(_, i):
        if i == 0:
            raise RuntimeError("stop")
        release.wait(0.05)
        started.append(i)

    with pytest.raises(RuntimeError, match="stop"):
        execute.Threads(threads).map(work, None, [(i,) for i in range(200)], lambda *_: None)
    assert len(started) < 200


def test_random_words_are_keyed_and_stable():
    words = streams.random_words(1, (streams.DRAW, 0, 3, 2), 4)
    assert not np.array_equal(words, streams.random_words(1, (streams.DRAW, 0, 2, 3), 4))
    # numpy promises raw streams for ever: a change here would change every synthesis.
    assert words.tolist() == [2641021994124631635, 16424254845567002781, 3012035837840884080, 7270281260882172597]


def test_bootstrap_rows():
    rows, other = run.choose_rows(10_000, None, True, False, 2, 1).shapes
    assert len(rows) == 10_000
    assert rows.max() < 10_000
    assert abs(len(np.unique(rows)) / 10_000 - (1 - np.exp(-1))) < 0.02
    assert not np.array_equal(rows, other)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 3_000), st.data(), st.integers(0, 2**64))
def test_subsamples(n, data, entropy):
    size = data.draw(st.integers(1, n))
    rows = run.choose_rows(n, size, False, False, 5, entropy, run.FILL)
    if run.FILL * size >= n:
        assert rows.coded is None
        assert np.array_equal(rows.leaves[0], np.arange(n))
        return
    assert len(rows.coded) == run.FILL * size
    assert np.array_equal(rows.coded[rows.leaves[0]], rows.coded)
    # All copies share one choice, or each has its own; every choice is the smallest hashes.
    rows = run.choose_rows(n, size, False, True, 3, entropy, run.FILL)
    for copy in range(3):
        hashes = streams.hashed(
            np.arange(n, dtype=np.uint64), streams.random_words(entropy, (streams.SUBSAMPLE, copy), 1)
        )
        assert np.array_equal(rows.coded[rows.shapes[copy]], np.sort(np.argsort(hashes)[:size]))
        assert np.array_equal(rows.coded[rows.leaves[copy]], np.sort(np.argsort(hashes)[: run.FILL * size]))


def test_subsamples_are_uniform():
    """Each of 20 equal ranges of rows gets its share, within 4 standard errors."""
    n, size = 2_000_000, 100_000
    found = run.choose_rows(n, size, False, False, 1, 7)
    rows = found.coded[found.shapes[0]]
    share = np.bincount(rows // (n // 20), minlength=20) / size
    assert np.abs(share - 0.05).max() < 4 * (0.05 * 0.95 / size) ** 0.5


def test_proper_subsamples_are_bootstrap_samples_of_all_rows():
    rows = run.choose_rows(1_000, 300, True, False, 4, 3)
    assert [len(sample) for sample in rows.shapes] == [300] * 4
    assert all(len(np.unique(sample)) < 300 for sample in rows.shapes)
    assert np.array_equal(rows.coded, np.unique(np.concatenate([rows.coded[sample] for sample in rows.shapes])))
    assert rows.leaves is None


def test_blocks_join_to_k_rows(mixed):
    """A copy of several blocks is the same whatever its length: later blocks only add rows."""
    s = Synthesizer(random_state=5).fit(mixed)
    long = s.sample(m=1, k=2 * draw.BLOCK_ROWS + 7)[0]
    short = s.sample(m=1, k=draw.BLOCK_ROWS)[0]
    assert long.height == 2 * draw.BLOCK_ROWS + 7
    assert long.head(draw.BLOCK_ROWS).equals(short)


def test_columns_are_drawn_at_synthetic_predictors():
    """Correlation .5 comes back within .03; at the original rows it would be .13 (METHODS 2.2)."""
    n = 5000
    rng = np.random.default_rng(11)
    x = rng.normal(size=n)
    frame = pl.DataFrame({"x": x, "y": 0.5 * x + np.sqrt(0.75) * rng.normal(size=n)})
    real = np.corrcoef(frame["x"], frame["y"])[0, 1]
    copies = Synthesizer(random_state=2).fit(frame).sample(m=5)
    synthetic = np.mean([np.corrcoef(c["x"], c["y"])[0, 1] for c in copies])
    assert abs(synthetic - real) < 0.03
    assert abs(synthetic - 0.5) < 0.03 + 4 * 0.75 / np.sqrt(n)


def passive(frame, expression, name="b"):
    return Synthesizer(columns={name: Column(passive=expression)}, random_state=1).fit(frame)


INTS = pl.DataFrame({"a": [1, 2, 3, 4, 5, 6] * 10, "b": [2, 4, 6, 8, 10, 12] * 10, "c": [1, 0] * 30})


def test_passive_columns_hold_exactly_and_predict():
    s = passive(INTS, pl.col("a") * 2)
    assert s.differences_ == {"b": 0}
    for copy in s.sample():
        assert (copy["b"] == 2 * copy["a"]).all()
        assert copy.schema == INTS.schema


def test_passive_from_sql():
    frame = INTS.with_columns(b=pl.col("a") / 4)
    copy = passive(frame, "a / 4.0").sample(m=1)[0]
    assert (copy["b"] == copy["a"] / 4).all()


def test_passive_rows_that_differ_are_counted():
    frame = INTS.with_columns(b=pl.when(pl.int_range(60) < 7).then(0).otherwise("b"))
    assert passive(frame, pl.col("a") * 2).differences_ == {"b": 7}


def test_passive_categories_and_missing():
    frame = INTS.with_columns(
        b=pl.when(pl.col("a") > 3)
        .then(pl.lit("high"))
        .when(pl.col("a") > 1)
        .then(pl.lit("low"))
        .cast(pl.Enum(["low", "high"]))
    )
    rule = pl.when(pl.col("a") > 3).then(pl.lit("high")).when(pl.col("a") > 1).then(pl.lit("low"))
    copy = passive(frame, rule).sample(m=1, k=500)[0]
    assert copy.schema == frame.schema
    assert (copy["b"].is_null() == (copy["a"] == 1)).all()
    assert ((copy["b"] == "high") == (copy["a"] > 3)).drop_nulls().all()


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (pl.col("a") / 2, "gives Float64 for a column of Int64.*round"),
        (pl.col("a").cast(pl.String) + "x", "Int64"),
        (pl.col("a") - pl.col("a").mean().cast(pl.Int64), "other rows"),
        (pl.col("a").cum_sum(), "other rows"),
        (pl.col("a").shift(1), "other rows"),
        (pl.when(pl.col("c") == 0).then("a").interpolate().cast(pl.Int64), "other rows"),
        (pl.col("a").sum(), "gives 1 values|other rows"),
        (pl.col("a").str.to_uppercase(), "cannot be evaluated"),
    ],
)
def test_bad_passive_expressions_are_refused_before_fitting(expression, message):
    with pytest.raises(PlanError, match=f"'b'.*({message})"):
        passive(INTS, expression)


def test_infinite_passive_values_are_refused():
    with pytest.raises(PlanError, match="'b' gives infinite values"):
        passive(INTS.with_columns(b=pl.col("a") / 7), pl.col("a") / pl.col("c"))


def test_passive_values_that_the_type_cannot_hold_are_refused_without_quoting_them():
    frame = INTS.with_columns(b=pl.Series(["x", "y"] * 30, dtype=pl.Enum(["x", "y"])))
    with pytest.raises(PlanError, match="cannot hold") as caught:
        passive(frame, pl.lit("secret") + pl.col("a").cast(pl.String))
    assert "secret" not in str(caught.value)


def test_a_kept_column_named_late_still_predicts():
    n = 2000
    rng = np.random.default_rng(3)
    c = rng.normal(size=n).round(3)
    frame = pl.DataFrame({"y": c + 0.01 * rng.normal(size=n), "c": c, "d": (c * 2).round(3)})
    columns = {"c": Column(method="keep"), "d": Column(passive=(pl.col("c") * 2).round(3))}
    copy = Synthesizer(columns=columns, visit_sequence=["y", "d", "c"], random_state=1).fit(frame).sample(m=1)[0]
    assert np.corrcoef(copy["y"], copy["c"])[0, 1] > 0.99
    assert (copy["d"] == frame["d"]).all()


def test_other_rows_are_noticed_wherever_they_are():
    n = 30_000
    frame = pl.DataFrame({"a": [1] * 15_000 + list(range(15_000)), "b": [0] * n})
    with pytest.raises(PlanError, match="other rows"):
        passive(frame, pl.col("a") - pl.col("a").max())
