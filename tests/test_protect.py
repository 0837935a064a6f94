"""Measures on finished copies: what they change, what they keep, what they refuse, and limits."""

from __future__ import annotations

import datetime as dt
import json
import math
from decimal import Decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal, assert_series_equal

import fastsynth as fs
from fastsynth.controls import (
    KeepRows,
    Label,
    MergeLevels,
    Noise,
    RedrawUniques,
    RemoveUniques,
    Rename,
    Round,
    Smooth,
    Swap,
    TopCode,
    _without_new_uniques,
)
from fastsynth.disclosure import disclosure
from fastsynth.errors import DataError, OptionError, OutputError
from fastsynth.protect import protect
from fastsynth.streams import random_words
from fastsynth.utility import utility
from tests.conftest import KINDS, as_arrow


def plain(frame):
    return frame.with_columns((pl.selectors.categorical() | pl.selectors.enum()).cast(pl.String))


@pytest.fixture(scope="session")
def boys():
    return fs.load_boys()


@pytest.fixture(scope="session")
def syn(boys):
    return fs.synthesize(boys, m=2, random_state=1, method="cart")


@pytest.fixture(scope="session")
def people():
    """Few values each, so that key combinations are shared, some rare."""
    n = 1_000
    rng = np.random.default_rng(0)
    town = rng.choice([f"t{i}" for i in range(12)], n, p=np.r_[[0.1] * 9, [0.08, 0.015, 0.005]])
    age = rng.integers(18, 80, n)
    income = np.round(np.where(rng.random(n) < 0.3, 0, np.exp(rng.normal(8, 0.7, n))))
    income[rng.random(n) < 0.05] = -9
    return pl.DataFrame(
        {
            "town": pl.Series(town).cast(pl.Categorical),
            "age": age,
            "sex": rng.choice(["f", "m", None], n, p=[0.5, 0.45, 0.05]),
            "income": income,
            "ill": rng.random(n) < age / 200,
        }
    )


@pytest.fixture(scope="session")
def persons(people):
    return fs.synthesize(
        people, m=2, random_state=1, method="cart", columns={"income": fs.Column(cont_na=[-9], semicont=[0])}
    )


# What measures do


@pytest.mark.parametrize("kind", ["density", "spline", "rmean"])
def test_smoothing(boys, syn, kind):
    done = protect(boys, syn, [Smooth("hgt", kind)])
    for before, after in zip(syn, done.synthesis):
        assert_frame_equal(before.drop("hgt"), after.drop("hgt"))
        assert after["hgt"].is_between(boys["hgt"].min(), boys["hgt"].max()).all()
        assert_series_equal(after["hgt"].round(1), after["hgt"])
        assert (before["hgt"] != after["hgt"]).mean() > 0.5
        assert after["hgt"].std() == pytest.approx(before["hgt"].std(), rel=0.02)
    assert not done.synthesis[0]["hgt"].equals(done.synthesis[1]["hgt"])


def test_smoothing_leaves_no_observed_value_of_a_continuous_column():
    x = pl.Series(np.random.default_rng(0).normal(size=2_000))
    frame = pl.DataFrame({"x": x, "y": x.round(1)})
    copies = fs.synthesize(frame, m=2, random_state=1, method="cart")
    assert copies[0]["x"].is_in(x.implode()).all()
    done = protect(frame, copies, [Smooth("x")]).synthesis
    assert not any(copy["x"].is_in(x.implode()).any() for copy in done)


def test_noise_keeps_mean_and_variance(boys, syn):
    share, n = 0.5, len(boys)
    before, after = syn[0], protect(boys, syn, [Noise("wgt", share)]).synthesis[0]
    sd = before["wgt"].std()
    assert after["wgt"].mean() == pytest.approx(before["wgt"].mean(), abs=4 * share * sd / math.sqrt(n))
    # Weights pile up near the smallest one, at which noise is reflected: a little variance is lost.
    assert after["wgt"].var() / before["wgt"].var() == pytest.approx(
        1, abs=4 * math.sqrt((2 * share**4 + 4 * share**2) / n)
    )
    shrink = np.corrcoef(after["wgt"], before["hgt"])[0, 1] / np.corrcoef(before["wgt"], before["hgt"])[0, 1]
    assert shrink == pytest.approx(1 / math.sqrt(1 + share**2), abs=4 * share / math.sqrt(n))
    assert after["wgt"].is_between(boys["wgt"].min(), boys["wgt"].max()).all()


def test_codes_and_spikes_are_left(people, persons):
    for measure in (Smooth("income"), Noise("income", 0.3), TopCode("income", low=1_500), Round("income", 7)):
        for before, after in zip(persons, protect(people, persons, [measure]).synthesis):
            left = before["income"].is_in([-9.0, 0.0])
            assert_series_equal(before["income"].filter(left), after["income"].filter(left))
            assert (before["income"] != after["income"]).sum() > 50
            assert not after.filter(~left)["income"].is_in([-9.0]).any()


def test_codes_have_to_be_named_where_the_recipe_is_not_known(tmp_path, people, persons):
    persons.write_parquet(tmp_path / "a")
    with pytest.raises(OptionError, match="missing codes"):
        protect(people, tmp_path / "a", [Smooth("income")], out=tmp_path / "b")
    done = protect(people, tmp_path / "a", [Smooth("income", leave=(-9,))], out=tmp_path / "b").synthesis
    assert (done[0]["income"] == -9).sum() == (persons[0]["income"] == -9).sum()
    with pytest.raises(OptionError, match="values of column"):
        protect(people, persons, [Smooth("income", leave=("x",))])


def test_top_coding(boys, syn):
    done = protect(boys, syn, [TopCode("hgt", high=170, low=60), TopCode("wgt", share=0.1), TopCode("tv")])
    real = boys["wgt"].sort()
    for before, after in zip(syn, done.synthesis):
        assert_series_equal(after["hgt"], before["hgt"].clip(60, 170))
        limit = real[len(boys) - 75 - 1]
        assert_series_equal(after["wgt"], before["wgt"].clip(upper_bound=limit))
        assert after["tv"].dtype == pl.Int64
    few = pl.DataFrame({"x": [1.5, 2.5, 9.5] * 3, "y": [1.0, 2.0, 3.0] * 3})
    copies = fs.synthesize(few, m=1, random_state=1, method="sample")
    assert protect(few, copies, [TopCode("x")]).synthesis[0].equals(copies[0])


def test_rounding(boys, syn):
    done = protect(boys, syn, [Round("hgt", 0.5), Round("tv", 5)]).synthesis
    assert_series_equal(done[0]["hgt"], (syn[0]["hgt"] / 0.5 + 0.5).floor() * 0.5)
    assert done[0]["tv"].dtype == pl.Int64
    assert (done[0]["tv"] % 5 == 0).all()
    for measure in (Round("gen", 5), Round("tv", 0.5)):
        with pytest.raises(OptionError):
            protect(boys, syn, [measure])


def test_large_whole_numbers_keep_their_digits():
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "i": 2**53 + 1 + 2 * rng.integers(0, 500, 300),
            "u": pl.Series(rng.integers(0, 1_000, 300).astype(np.uint64) + np.uint64(2**63), dtype=pl.UInt64),
            "t": pl.Series(rng.integers(0, 1_000, 300) + 2**60).cast(pl.Datetime("ns")),
        }
    )
    copies = fs.synthesize(frame, m=1, random_state=1, method="cart")
    for name, high in (("i", 2**53 + 501), ("u", 2**63 + 501)):
        before, low = copies[0][name].to_list(), high - 200
        after = protect(frame, copies, [TopCode(name, low=low, high=high)]).synthesis[0]
        assert after[name].to_list() == [min(max(x, low), high) for x in before]
        after = protect(frame, copies, [Round(name, 10)]).synthesis[0]
        assert after[name].to_list() == [(x + 5) // 10 * 10 for x in before]
    after = protect(frame, copies, [TopCode("t", share=0.1)]).synthesis[0]["t"]
    high = frame["t"].to_physical().sort()[300 - 30 - 1]
    assert after.to_physical().to_list() == [min(x, high) for x in copies[0]["t"].to_physical()]


def test_decimals_of_too_many_digits():
    values = [Decimal(f"{10**17 + i}.{i:02}") for i in range(60)]
    frame = pl.DataFrame({"x": pl.Series(values, dtype=pl.Decimal(38, 2)), "y": [0, 1] * 30})
    copies = fs.synthesize(frame, m=1, random_state=1, method="sample")
    with pytest.raises(OptionError, match="Round: column 'x' has decimals of more than 15 digits"):
        protect(frame, copies, [Round("x", 0.5)])
    after = protect(frame, copies, [TopCode("x", high=values[30])]).synthesis[0]["x"]
    assert after.to_list() == [min(x, values[30]) for x in copies[0]["x"]]


def test_limits_of_top_coding_that_cross(boys, syn):
    with pytest.raises(OptionError, match="TopCode: column 'age': low=8 is above high=5"):
        protect(boys, syn, [TopCode("age", high=5, low=8)])
    with pytest.raises(OptionError, match="column 'age': low=99 is above what share"):
        protect(boys, syn, [TopCode("age", low=99, share=0.01)])


def typed(n=400):
    rng = np.random.default_rng(0)
    days = rng.integers(0, 9_000, n)
    return pl.DataFrame(
        {
            "date": [dt.date(1990, 1, 1) + dt.timedelta(days=int(d)) for d in days],
            "moment": pl.Series(
                [dt.datetime(1990, 1, 1) + dt.timedelta(hours=int(d)) for d in days], dtype=pl.Datetime("ns")
            ),
            "decimal": pl.Series([Decimal(int(d)) / 100 for d in days], dtype=pl.Decimal(9, 2)),
            "big": pl.Series(days.astype(np.int64) * 3 + 2**60),
            "small": pl.Series(days % 200, dtype=pl.UInt8),
            "single": pl.Series(days / 10, dtype=pl.Float32),
            "holes": pl.Series([None if d % 9 == 0 else math.nan if d % 9 == 1 else d / 7 for d in days]),
        }
    )


@pytest.mark.parametrize("name", typed(1).columns)
def test_every_type_of_number(name):
    frame = typed().select(name, other=pl.int_range(400) % 3)
    copies = fs.synthesize(frame, m=1, random_state=1, method="cart")
    top = frame[name].drop_nans().drop_nulls().sort()[300] if name == "holes" else frame[name].sort()[300]
    for measure in (Smooth(name), Noise(name, 0.2), Smooth(name, "rmean"), TopCode(name, high=top)):
        before, after = copies[0], protect(frame, copies, [measure]).synthesis[0]
        assert after.schema == before.schema
        assert_frame_equal(before.drop(name), after.drop(name))
        assert after[name].null_count() == before[name].null_count()
        assert before[name].ne_missing(after[name]).any()
        span = frame[name].fill_nan(None) if name == "holes" else frame[name]
        known = after[name].fill_nan(None) if name == "holes" else after[name]
        assert known.min() >= span.min()
        assert known.max() <= span.max()
        if name == "moment":
            assert (after[name].dt.epoch("ns") % 3_600_000_000_000 == 631_152_000_000_000_000 % 3_600_000_000_000).all()
        if name == "big":
            assert ((after[name] - frame[name].min()) % 3 == 0).all() or isinstance(measure, TopCode)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Enum([f"t{i}" for i in range(12)])])
def test_merging_levels(tmp_path, people, kind, dtype):
    frame = people.select(pl.col("town").cast(pl.String).cast(dtype), "ill")
    data = KINDS[kind](frame)
    copies = fs.synthesize(data, m=2, random_state=1, method="cart")
    counts = frame["town"].cast(pl.String).value_counts(name="n").sort("n", "town")
    # Two of fewer than 50 rows have fewer than 50 together: the next rarest joins them.
    rare = counts["town"][:3].to_list()
    assert counts["n"][1] < 50 <= counts["n"][2]
    assert counts["n"][:2].sum() < 50
    done = protect(data, copies, MergeLevels("town", 50)).synthesis
    assert type(done[0]) is type(copies[0])
    for i in range(2):
        before, after = (pl.from_arrow(x.arrow(i))["town"].cast(pl.String) for x in (copies, done))
        assert_series_equal(after, before.replace(dict.fromkeys(rare, "other")))
    # Names of merged levels are nowhere any more.
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, done.arrow(0).select(["town"]).schema) as writer:
        writer.write_table(done.arrow(0).select(["town"]))
    assert not any(level.encode() in sink.getvalue().to_pybytes() for level in rare)
    assert done.arrow(0).schema == done.arrow(1).schema
    done.write_parquet(tmp_path / "a")
    back = fs.Synthesis.read(tmp_path / "a")
    assert_series_equal(back[1]["town"].cast(pl.String), after)
    if dtype == pl.Enum and kind == "polars":
        assert done[0].schema["town"] == back[0].schema["town"]


def test_merged_levels_are_enough_together(people):
    frame = people.select("town", "ill")
    counts = frame["town"].cast(pl.String).value_counts(name="n").sort("n", "town")
    copies = fs.synthesize(frame, m=1, random_state=1, method="cart")
    for fewer_than in (counts["n"][0] + 1, 20, 60, 90):
        setting = protect(frame, copies, [MergeLevels("town", fewer_than)])
        left = set(setting.synthesis[0]["town"].cast(pl.String)) - {"other"}
        merged = counts.filter(~pl.col("town").is_in(left))
        assert merged["n"].sum() >= fewer_than
        assert merged["n"][:-1].sum() < fewer_than or merged["n"][-1] < fewer_than
    # One that exists counts, too.
    into = MergeLevels("town", counts["n"][0] + 1, counts["town"][-1])
    after = protect(frame, copies, [into]).synthesis[0]["town"].cast(pl.String)
    assert set(after) == set(copies[0]["town"].cast(pl.String)) - {counts["town"][0]}


def test_merging_nothing(people, persons):
    same = protect(people, persons, [MergeLevels("town", 1)])
    assert all(a.equals(b) for a, b in zip(persons, same.synthesis))
    with pytest.raises(OptionError, match="no text"):
        protect(people, persons, [MergeLevels("age")])
    with pytest.raises(OptionError, match="fewer_than"):
        MergeLevels("town", 0)
    with pytest.raises(OptionError, match="name of a level"):
        MergeLevels("town", 10, None)


KEYS = ["town", "age", "sex"]


def uniques(frame, keys):
    return plain(frame).group_by(keys).len().filter(pl.col("len") == 1).drop("len")


@pytest.mark.parametrize("which", ["replicated", "in_original"])
def test_uniques_are_removed(people, persons, which):
    done = protect(people, persons, [RemoveUniques(KEYS, which)], keys=KEYS, target="ill")
    real = uniques(people, KEYS) if which == "replicated" else plain(people).select(KEYS).unique()
    sizes = []
    for before, after in zip(persons, done.synthesis):
        at_risk = uniques(before, KEYS).join(real, on=KEYS, how="semi", nulls_equal=True)
        assert at_risk.height > 0
        assert plain(after).join(at_risk, on=KEYS, how="semi", nulls_equal=True).is_empty()
        sizes.append(before.height - at_risk.height)
    assert done.synthesis.k == min(sizes) == len(done.synthesis[0]) == len(done.synthesis[1])
    assert done.synthesis.design.n == 1_000
    if which == "replicated":
        assert done.figures["repU"] == 0
    analyses = done.synthesis.analyse(fs.mean("age"))
    assert analyses.design.k == done.synthesis.k
    assert fs.pool(analyses).rule == "raab2016"


@pytest.fixture(scope="session")
def pairs():
    """Keys that most people share with one or a few others, so that losing one of two makes a unique."""
    rng = np.random.default_rng(0)
    n = 600
    return pl.DataFrame({"a": rng.integers(0, 12, n), "b": rng.integers(0, 12, n), "c": rng.choice(list("wxyz"), n)})


@pytest.fixture(scope="session")
def many(pairs):
    return fs.synthesize(pairs, m=5, random_state=1, method="cart")


def at_risk(real, copies, keys, which="replicated"):
    """Rows at risk, the slow way."""
    known = uniques(real, keys) if which == "replicated" else real.select(keys).unique()
    return [uniques(copy, keys).join(known, on=keys, how="semi").height for copy in copies]


@pytest.mark.parametrize("which", ["replicated", "in_original"])
def test_removal_leaves_no_uniques_in_any_copy(tmp_path, pairs, many, which):
    keys = ["a", "b", "c"]
    before = at_risk(pairs, many, keys, which)
    done = protect(pairs, many, [RemoveUniques(keys, which)]).synthesis
    assert min(before) > 0
    assert at_risk(pairs, done, keys, which) == [0] * 5
    # No more rows go than the copy with most uniques has, but for one where only pairs are left.
    assert done.k == len(done[0]) == len(done[4])
    assert 600 - max(before) - 1 <= done.k <= 600 - max(before)
    many.write_parquet(tmp_path / "a")
    held = protect(pairs, tmp_path / "a", [RemoveUniques(keys, which)], out=tmp_path / "b").synthesis
    assert all(x.equals(y) for x, y in zip(held, done))


@pytest.mark.parametrize("second", [KeepRows(0.7), Round("a", 2), RemoveUniques(["a", "b"])])
def test_uniques_that_come_back_are_removed_again(pairs, many, second):
    keys = ["a", "b", "c"]
    done = protect(pairs, many, [RemoveUniques(keys), second], keys=keys[:2], target="c")
    # Coarser coding is public: the original has it as well.
    real = pairs.with_columns((pl.col("a") + 1) // 2 * 2) if isinstance(second, Round) else pairs
    assert at_risk(real, done.synthesis, keys) == [0] * 5
    if isinstance(second, RemoveUniques):
        assert at_risk(real, done.synthesis, keys[:2]) == [0] * 5
    assert set(done.steps["measure"][2:]) == {type(second).__name__, "RemoveUniques"}
    assert len(set(map(len, done.synthesis))) == 1


@pytest.mark.parametrize("k", range(1, 10))
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_cutting_makes_no_uniques(k, seed):
    """Of groups of 2, 3 and 4 rows with risky keys, and a row of others, any number can go, or one more."""
    real = pl.DataFrame({"x": [1, 2, 3, 9, 9]})
    table = pl.DataFrame({"x": [1, 1, 2, 2, 2, 3, 3, 3, 3, 9]}).to_arrow()
    words = random_words(seed, (), 10)
    kept = _without_new_uniques(real, table, ["x"], "replicated", k, words)
    if kept is None:
        k -= 1
        kept = _without_new_uniques(real, table, ["x"], "replicated", k, words)
    assert kept.sum() == k
    assert at_risk(real, [pl.DataFrame(table.filter(pa.array(kept)))], ["x"]) == [0]


def test_pairs_go_in_pairs():
    real, table = pl.DataFrame({"x": [1, 2]}), pl.DataFrame({"x": [1, 1, 2, 2]}).to_arrow()
    assert _without_new_uniques(real, table, ["x"], "replicated", 3, random_words(1, (), 4)) is None
    assert _without_new_uniques(real, table, ["x"], "replicated", 2, random_words(1, (), 4)).sum() == 2
    assert _without_new_uniques(real, table, ["x"], "replicated", 0, random_words(1, (), 4)).sum() == 0


@pytest.mark.parametrize("names", [["own", "real"], ["n", "level"], ["row", "h"]])
def test_columns_may_have_any_name(pairs, names):
    a, b = names
    frame = pairs.select(pl.col("a").alias(a), pl.col("c").alias(b), k=pl.col("b"))
    copies = fs.synthesize(frame, m=2, random_state=1, method="cart")
    done = protect(frame, copies, [RemoveUniques([a, b, "k"])]).synthesis
    assert at_risk(frame, done, [a, b, "k"]) == [0, 0]
    assert protect(frame, copies, [RedrawUniques([a, b, "k"]), Swap([b], [a]), MergeLevels(b, 151)]).synthesis.k == 600


def test_uniques_are_drawn_anew(people, persons):
    done = protect(people, persons, [RedrawUniques(KEYS), Label()], keys=KEYS, target="ill")
    assert done.synthesis.k == 1_000
    assert done.figures["repU"] == 0
    for before, after in zip(persons, done.synthesis):
        same = (plain(before) == plain(after.drop("synthetic"))).select(pl.all_horizontal(pl.all().fill_null(True)))
        at_risk = uniques(before, KEYS).join(uniques(people, KEYS), on=KEYS, how="semi", nulls_equal=True)
        assert (~same.to_series()).sum() <= at_risk.height
        assert after.drop("synthetic").schema == before.schema
    with pytest.raises(OptionError, match="must come before"):
        protect(people, persons, [Smooth("age"), RedrawUniques(KEYS)])


def test_nothing_but_real_keys_can_be_drawn(people):
    frame = people.with_columns(age=pl.int_range(1_000, dtype=pl.Int64) * 1.37)
    copies = fs.synthesize(frame, m=1, random_state=1, method="sample")
    with pytest.raises(DataError, match="coarser keys"):
        protect(frame, copies, [RedrawUniques(["age"])])


def test_without_a_recipe_uniques_are_removed(tmp_path, people, persons):
    persons.write_parquet(tmp_path / "a")
    done = protect(people, tmp_path / "a", [RedrawUniques(KEYS)], out=tmp_path / "b")
    removed = protect(people, persons, [RemoveUniques(KEYS)])
    assert done.synthesis.k == removed.synthesis.k
    assert_frame_equal(done.synthesis[0], removed.synthesis[0], categorical_as_str=True)


def test_fewer_rows(people, persons):
    done = protect(people, persons, [KeepRows(0.25)]).synthesis
    assert done.k == done[0].height == 250
    assert done[0].join(persons[0], on=persons[0].columns, how="anti", nulls_equal=True).is_empty()
    assert not done[0].equals(persons[0][:250])


def test_swapping(people, persons):
    swap = Swap(["town"], ["age", "sex"], similar=[["ill"], []], swaprate=0.3, k_anonymity=2)
    done = protect(people, persons, [swap])
    for before, after in zip(persons, done.synthesis):
        assert_frame_equal(before.drop("town"), after.drop("town"))
        assert after.schema == before.schema
        counts = [f["town"].cast(pl.String).value_counts().sort("town") for f in (before, after)]
        assert_frame_equal(*counts)
        assert (before["town"] != after["town"]).mean() > 0.29


def test_labels_and_names_come_last(people, persons):
    done = protect(people, persons, [Rename("syn_", "_1"), Label(), Smooth("age")], keys=KEYS)
    assert done.synthesis[0].columns == [f"syn_{c}_1" for c in people.columns] + ["synthetic"]
    assert done.synthesis[0]["synthetic"].unique().to_list() == ["synthetic"]
    assert done.steps["measure"].to_list() == ["as given", "Smooth", "Rename", "Label"]
    assert done.synthesis.summary()["column"].to_list() == [f"syn_{c}_1" for c in persons.summary()["column"]]
    with pytest.raises(OptionError, match="already"):
        protect(people, persons, [Label("age")])


# Copies


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_table(people, kind):
    data = KINDS[kind](people.drop("ill"))
    before = as_arrow(data)
    copies = fs.synthesize(data, m=1, random_state=1, method="cart")
    done = protect(data, copies, [Smooth("age"), MergeLevels("town"), Swap(["town"], ["age"]), KeepRows(0.5)])
    assert type(done.synthesis[0]) is type(copies[0])
    assert len(as_arrow(done.synthesis[0])) == 500
    assert as_arrow(data).equals(before)


@pytest.mark.parametrize("kind", KINDS)
def test_same_bytes_for_every_kind_of_table(monkeypatch, people, kind):
    monkeypatch.setattr("fastsynth.source.PIECE_ROWS", 301)
    people = people.drop("income")
    frame = people.with_columns(pl.col("town").cast(pl.String))
    copies = fs.synthesize(frame, m=1, random_state=1, method="cart")
    measures = [Smooth("age"), RemoveUniques(KEYS), Swap(["town"], ["age"])]
    expected = protect(people, copies, measures).synthesis[0]
    assert_frame_equal(protect(KINDS[kind](people), copies, measures).synthesis[0], expected)


def test_files(tmp_path, monkeypatch, people, persons):
    monkeypatch.setattr("fastsynth.run.PART_ROWS", 300)
    people.write_parquet(tmp_path / "real.parquet")
    persons.write_parquet(tmp_path / "a")
    measures = [
        Smooth("income", leave=(-9, 0)),
        RemoveUniques(KEYS),
        Swap(["town"], ["age"]),
        MergeLevels("town", 30),
        Label(),
    ]
    files_before = {p: p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()}
    done = protect(tmp_path / "real.parquet", tmp_path / "a", measures, out=tmp_path / "b")
    held = protect(people, persons, measures)
    back = fs.Synthesis.read(tmp_path / "b")
    assert done.synthesis.k == held.synthesis.k == back.k
    for i in range(2):
        assert_frame_equal(done.synthesis[i], held.synthesis[i], categorical_as_str=True)
        assert_frame_equal(back[i], held.synthesis[i], categorical_as_str=True)
    assert files_before == {p: p.read_bytes() for p in (tmp_path / "a").rglob("*") if p.is_file()}
    assert sorted(p.name for p in Path(tmp_path).iterdir()) == ["a", "b", "real.parquet"]
    assert back.audit["protection"] == json.loads(json.dumps(held.synthesis.audit["protection"]))
    with pytest.raises(OutputError, match="not empty"):
        protect(people, persons, measures, out=tmp_path / "b")
    with pytest.raises(OptionError, match="out="):
        protect(people, tmp_path / "a", measures)
    again = protect(people, back, [KeepRows(0.5)], out=tmp_path / "c").synthesis
    assert len(again.protection) == len(back.protection) + 1


def test_copies_of_the_caller_stay(people, persons):
    before = [persons.arrow(i) for i in range(2)]
    audit = json.dumps(persons.audit)
    done = protect(people, persons, [Smooth("age"), RemoveUniques(KEYS), MergeLevels("town", 50), Rename("x")])
    assert [persons.arrow(i) for i in range(2)] == before
    assert json.dumps(persons.audit) == audit
    assert persons.recipe is not None
    assert done.synthesis.recipe is None


def test_audit_has_names_and_counts_only(people, persons):
    done = protect(people, persons, [TopCode("age", high=71), Noise("age", 0.1), RemoveUniques(KEYS)]).synthesis
    audit = done.audit["protection"]
    assert [step["measure"] for step in audit] == ["TopCode", "Noise", "RemoveUniques"]
    assert audit[1]["share"] == 0.1
    assert audit[2]["keys"] == KEYS
    assert "high" not in audit[0]
    assert all(len(step["changed"]) == 2 for step in audit)
    assert done[:1].audit["protection"] == audit
    assert "protection" not in persons.audit


def test_what_was_done_about_copies_stays_known(tmp_path, people):
    frame = people.with_columns(age=pl.when(pl.int_range(1_000) < 150).then(pl.col("age") // 5 * 5).otherwise("age"))
    options = {"columns": {"income": fs.Column(cont_na=[-9], semicont=[0])}}
    copies = fs.synthesize(frame, m=2, random_state=1, method="cart", copies="none", **options)
    assert copies.exact["policy"] == "none"
    done = protect(frame, copies, [Round("age", 5), Rename("syn_")])
    assert done.synthesis.exact == copies.exact | {"column": f"syn_{copies.exact['column']}"}
    n = done.synthesis.audit["protection"][0]["equal_to_unique_real_rows"]
    rounded = fs.disclosure(frame, protect(frame, copies, [Round("age", 5)]).synthesis, keys=["age"])
    assert n == round(rounded.identical.unique_share * 2_000) > 0
    assert f"{n:,} rows of all copies equal a unique real row" in done.steps["effect"][1]
    assert all(len(line.split("  ")[-1]) <= 80 for line in repr(done).splitlines()[1:])
    assert "".join(repr(done).split("copies=")[1].split()).startswith('"none"holdsnolonger')
    copies.write_parquet(tmp_path / "a")
    written = protect(frame, tmp_path / "a", [Label()], out=tmp_path / "b").synthesis
    assert written.exact == fs.Synthesis.read(tmp_path / "b").audit["copies"] == copies.exact
    kept = protect(frame, copies, [KeepRows(0.5)])
    assert "equal" not in kept.steps["effect"][1]


def test_random_states(people, persons):
    draw = lambda data=people, **options: protect(data, persons, [Smooth("age")], **options).synthesis[0]["age"]  # noqa: E731
    assert draw().equals(draw())
    assert draw(random_state=3).equals(draw(random_state=3))
    assert not draw().equals(draw(random_state=3))
    assert not draw(random_state=None).equals(draw(random_state=None))
    # Who has the random state but not the rows cannot make the noise again.
    other = people.with_columns(ill=pl.when(pl.int_range(1_000) == 7).then(~pl.col("ill")).otherwise("ill"))
    assert not draw().equals(draw(other))


# Refusals


def test_what_must_not_be_changed(boys):
    columns = {
        "bmi": fs.Column(passive="wgt / (hgt / 100) * (hgt / 100)"),
        "tv": fs.Column(rules=[fs.Rule(when="age < 3", value=None)]) if boys["tv"].null_count() else fs.Column(),
        "hc": fs.Column(bounds=(30, pl.col("hgt"))),
    }
    frame = boys.with_columns(number=pl.Series([f"A{i:05}" for i in range(748)]), odd=boys["age"] > 10)
    columns |= {"number": fs.Column(method="identifier")}
    copies = fs.synthesize(frame, m=1, random_state=1, method="cart", columns=columns, forbid=["age > 15 and not odd"])
    for measure, message in [
        (Smooth("wgt"), "passive column 'bmi'"),
        (Noise("bmi", 0.1), "computed from others"),
        (TopCode("hc", high=50), "bounds of 'hc'"),
        (Round("age", 1), "forbidden"),
        (MergeLevels("number"), "identifier"),
        (Smooth("nobody"), "no column 'nobody'"),
        (RemoveUniques(["nobody"]), "no column 'nobody'"),
        (Smooth("reg"), "no number"),
        (Smooth("odd"), "forbidden"),
    ]:
        with pytest.raises(OptionError, match=message):
            protect(frame, copies, [measure])
    rule = {"tv": fs.Column(rules=[fs.Rule(when="age < 1", value=3)])}
    ruled = fs.synthesize(boys, m=1, random_state=1, method="cart", columns=rule)
    for name in ("tv", "age"):
        with pytest.raises(OptionError, match="rules of 'tv'"):
            protect(boys, ruled, [Smooth(name)])


def test_rows_of_partial_copies_are_those_of_the_original(boys):
    copies = fs.synthesize(boys, m=2, random_state=1, method="cart", columns={"age": fs.Column(method="keep")})
    for measure in (RemoveUniques(["age"]), RedrawUniques(["age"]), KeepRows(0.5)):
        with pytest.raises(OptionError, match="partially"):
            protect(boys, copies, [measure])
    done = protect(boys, copies, [Smooth("age")]).synthesis
    assert done.design == copies.design


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of them"),
        ({"measures": [Label()], "until": {"repU": 1}}, "one of them"),
        ({"measures": []}, "list of measures"),
        ({"measures": ["Smooth"]}, "list of measures"),
        ({"until": {"repU": 1}}, "needs keys"),
        ({"until": {}, "keys": KEYS}, "limits in percent"),
        ({"until": {"repU": 101}, "keys": KEYS}, "between 0 and 100"),
        ({"until": {"repU": "low"}, "keys": KEYS}, "between 0 and 100"),
        ({"until": {"repU": 1, "S_pMSE": 0}, "keys": KEYS}, "positive number"),
        ({"until": {"S_pMSE": 2}, "keys": KEYS}, "name a figure of disclosure"),
        ({"until": {"what": 1}, "keys": KEYS}, "no figure 'what'.* identical, identical_unique, and S_pMSE"),
        ({"until": {"repU": 1}, "keys": "age"}, "list of columns"),
        ({"measures": [Label()], "random_state": -1}, "random_state"),
    ],
)
def test_options(people, persons, options, message):
    with pytest.raises(OptionError, match=message):
        protect(people, persons, **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Smooth("a", "kernel"),
        lambda: Noise("a", 0),
        lambda: Noise("a", "x"),
        lambda: TopCode("a", high=1, share=0.1),
        lambda: TopCode("a", share=0.9),
        lambda: Round("a", 0),
        lambda: Round("a", True),
        lambda: RemoveUniques("a"),
        lambda: RemoveUniques([]),
        lambda: RemoveUniques([1]),
        lambda: RemoveUniques(["a"], "all"),
        lambda: RedrawUniques("a"),
        lambda: KeepRows(0),
        lambda: KeepRows(1.5),
        lambda: Rename(),
        lambda: Rename(""),
        lambda: Rename(prefix=1),
    ],
)
def test_measures_check_themselves(make):
    with pytest.raises(OptionError):
        make()


def test_copies_of_another_table(people, syn):
    with pytest.raises(DataError, match="copies of this table"):
        protect(people, syn, Smooth("age"))


def test_other_things_than_copies(people):
    with pytest.raises(OptionError, match="Synthesis"):
        protect(people, people, [Label()])


def test_nobody_left():
    frame = pl.DataFrame({"x": np.arange(60.0) / 7, "y": np.arange(60) % 2})
    copies = fs.synthesize(frame, m=1, k=3, random_state=1, method="sample")
    with pytest.raises(OptionError, match="no rows"):
        protect(frame, copies, [RemoveUniques(["x"])])


# Limits


def test_limits_that_hold_need_no_measure(people, persons):
    done = protect(people, persons, until={"repU": 100, "DiSCO": 100}, keys=KEYS, target="ill")
    assert done.steps.height == 1
    assert all(a.equals(b) for a, b in zip(persons, done.synthesis))
    assert done.synthesis.recipe is None
    assert persons.recipe is not None


def test_limits_of_copies_whose_codes_are_not_known(tmp_path, people, persons):
    persons.write_parquet(tmp_path / "a")
    done = protect(people, tmp_path / "a", until={"identical": 10}, keys=KEYS, out=tmp_path / "b")
    assert done.figures["identical"] <= 10
    assert "income" not in "".join(done.tried.filter(measure="Smooth")["column"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(
    "until", [{"repU": 1}, {"DiSCO": 16}, {"repU": 0.5, "DiSCO": 16}, {"identical": 10}, {"UiOiS": 5}]
)
def test_limits_are_kept_by_the_mildest_measures(people, persons, until):
    done = protect(people, persons, until=until, keys=KEYS, target=None if "identical" in until else ["ill"])
    assert all(done.figures[name] <= limit for name, limit in until.items())
    assert any(done.steps[name][0] > limit for name, limit in until.items())
    before_last = done.steps[-2]
    assert any(before_last[name][0] > limit for name, limit in until.items())
    if until == {"repU": 1}:
        assert set(done.steps["measure"]) == {"as given", "RemoveUniques"}
    assert list(done.figures) == ["S_pMSE", *until]
    assert done.tried["kept"].sum() == done.steps.height - 1
    n = done.tried.height
    assert ("; 1 measure tried\n" if n == 1 else f"; {n} measures tried\n") in repr(done)


def test_limits_that_cannot_be_kept(people, persons):
    with pytest.raises(OptionError, match=r"cannot be kept. Reached: DiSCO .* \(limit 0\); S_pMSE") as error:
        protect(people, persons, until={"DiSCO": 0}, keys=KEYS, target="ill")
    assert "RemoveUniques" in str(error.value) or "KeepRows" in str(error.value)


def test_a_limit_of_utility(people, persons):
    limits = {"repU": 0.5, "DiSCO": 16}
    free = protect(people, persons, until=limits | {"S_pMSE": 1_000}, keys=KEYS, target="ill")
    assert list(free.figures) == ["S_pMSE", "repU", "DiSCO"]
    assert "repU 0.5, DiSCO 16; S_pMSE at most 1000; " in repr(free)
    ceiling = (free.steps["S_pMSE"][0] + free.steps["S_pMSE"].max()) / 2
    with pytest.raises(OptionError, match=rf"\(limit {ceiling:g}\), before") as error:
        protect(people, persons, until=limits | {"S_pMSE": ceiling}, keys=KEYS, target="ill")
    assert float(str(error.value).split("; S_pMSE ")[1].split(" ")[0]) <= ceiling
    with pytest.raises(OptionError, match=r"S_pMSE [\d.]+ \(limit 0.1\), before .*; tried 0 measures, kept: none"):
        protect(people, persons, until=limits | {"S_pMSE": 0.1}, keys=KEYS, target="ill")


def test_partial_copies_lose_no_rows_for_limits(people):
    copies = fs.synthesize(people, m=2, random_state=1, method="cart", columns={"ill": fs.Column(method="keep")})
    done = protect(people, copies, until={"repU": 5}, keys=KEYS, target="ill")
    assert done.synthesis.k == 1_000
    assert not {"RemoveUniques", "KeepRows"} & set(done.steps["measure"])


def test_coarser_coding_is_measured_as_an_intruder_would(people, persons):
    done = protect(people, persons, [Round("age", 10)], keys=["town", "age", "sex"], target="ill")
    real = people.with_columns(age=(pl.col("age") / 10 + 0.5).floor().cast(pl.Int64) * 10)
    alike = disclosure(real, done.synthesis, keys=KEYS, target="ill")
    assert done.figures["DiSCO"] == pytest.approx(alike["DiSCO"])
    assert done.figures["S_pMSE"] == pytest.approx(utility(people, done.synthesis)["S_pMSE"])


def test_print(people, persons):
    text = repr(protect(people, persons, [Smooth("age"), RemoveUniques(KEYS)], keys=KEYS, target="ill"))
    lines = text.splitlines()
    assert lines[0] == "Protected: m=2 copies"
    assert lines[1].split()[:6] == ["measure", "changed", "k", "S_pMSE", "repU", "DiSCO"]
    assert len(lines) == 5
    assert "pool uses the new k" in text
    assert max(map(len, lines)) < 150
    assert "kind=density" in text
    assert "to=20" in repr(protect(people, persons, [Round("age", 20.0)])).split()
    effects = [x.effect for x in vars(fs.controls).values() if isinstance(x, type) and hasattr(x, "effect")]
    assert len(effects) == 11
    assert max(map(len, effects)) <= 80


def test_every_type(every_type):
    every_type = every_type.drop("void", "empty", "constant", "ms")
    copies = fs.synthesize(every_type, m=1, k=300, random_state=1, method="cart")
    numbers = ["i8", "i64", "u16", "u64", "f32", "f64", "dec", "date", "zone", "span", "time"]
    measures = [Smooth(name) for name in numbers] + [Noise(name, 0.3) for name in numbers]
    done = protect(every_type, copies, [*measures, MergeLevels("text", 60), MergeLevels("cat", 70), KeepRows(0.9)])
    before, after = copies[0], done.synthesis[0]
    assert after.schema == before.schema
    assert after.height == 270
    rest = [name for name in before.columns if name not in (*numbers, "text", "cat")]
    assert after.select(rest).join(before.select(rest), on=rest[:4], how="anti", nulls_equal=True).is_empty()
    for name in numbers:
        assert after[name].min() >= every_type[name].min()
        assert after[name].max() <= every_type[name].max()
