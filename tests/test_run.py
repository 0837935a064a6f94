"""Tasks, blocks and passive expressions."""

from __future__ import annotations

import threading

import numpy as np
import polars as pl
import pytest

from fastsynth import Column, Synthesizer, run
from fastsynth.errors import PlanError


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_return_results_in_order(threads):
    seen = []
    results = run.Threads(threads).map([lambda i=i: i * i for i in range(20)], seen.append)
    assert results == [i * i for i in range(20)]
    assert sorted(seen) == list(range(20))


@pytest.mark.parametrize("threads", [1, 2])
def test_an_error_stops_the_rest(threads):
    started = []
    release = threading.Event()

    def fail():
        raise RuntimeError("stop")

    def later(i):
        release.wait(0.05)
        started.append(i)

    tasks = [fail, *[lambda i=i: later(i) for i in range(200)]]
    with pytest.raises(RuntimeError, match="stop"):
        run.Threads(threads).map(tasks, lambda _: None)
    assert len(started) < 200


def test_random_words_are_keyed_and_stable():
    words = run.random_words(1, (run.DRAW, 0, 3, 2), 4)
    assert not np.array_equal(words, run.random_words(1, (run.DRAW, 0, 2, 3), 4))
    # numpy promises raw streams for ever: a change here would change every synthesis.
    assert words.tolist() == [2641021994124631635, 16424254845567002781, 3012035837840884080, 7270281260882172597]


def test_bootstrap_rows():
    rows = run._training_rows(10_000, 0, 1)
    assert len(rows) == 10_000
    assert rows.max() < 10_000
    assert abs(len(np.unique(rows)) / 10_000 - (1 - np.exp(-1))) < 0.02
    assert not np.array_equal(rows, run._training_rows(10_000, 1, 1))


def test_blocks_join_to_k_rows(mixed):
    """A copy of several blocks is the same whatever its length: later blocks only add rows."""
    s = Synthesizer(random_state=5).fit(mixed)
    long = s.sample(m=1, k=2 * run.BLOCK_ROWS + 7)[0]
    short = s.sample(m=1, k=run.BLOCK_ROWS)[0]
    assert long.height == 2 * run.BLOCK_ROWS + 7
    assert long.head(run.BLOCK_ROWS).equals(short)


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
    assert s.passive_differences_ == {"b": 0}
    for copy in s.sample():
        assert (copy["b"] == 2 * copy["a"]).all()
        assert copy.schema == INTS.schema


def test_passive_from_sql():
    frame = INTS.with_columns(b=pl.col("a") / 4)
    copy = passive(frame, "a / 4.0").sample(m=1)[0]
    assert (copy["b"] == copy["a"] / 4).all()


def test_passive_rows_that_differ_are_counted():
    frame = INTS.with_columns(b=pl.when(pl.int_range(60) < 7).then(0).otherwise("b"))
    assert passive(frame, pl.col("a") * 2).passive_differences_ == {"b": 7}


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
