"""Coding of extremes and rare levels."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import polars as pl
import pytest

import fastsynth as fs
from fastsynth import source
from fastsynth.errors import DataError, OptionError

N = 600
LEVELS = ["a"] * 400 + ["b"] * 150 + ["c"] * 30 + ["d"] * 12 + ["e"] * 5 + ["f"] * 2 + [None]


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(2)
    income = np.round(rng.lognormal(7, 1, N), 2)
    income[:20] = -8
    return pl.DataFrame(
        {
            "income": income,
            "whole": rng.integers(0, 90, N),
            "born": pl.Series(rng.integers(0, 20_000, N)).cast(pl.Date),
            "text": LEVELS,
            "category": pl.Series(LEVELS, dtype=pl.Categorical),
            "ordered": pl.Series(LEVELS, dtype=pl.Enum(list("abcdefg"))),
        }
    )


def synthesize(table, **columns):
    options = {name: fs.Column(**given) for name, given in columns.items()}
    return fs.Synthesizer(m=2, method="cart", columns=options, random_state=1).fit(table)


def test_extremes_are_in_no_model_and_in_no_copy(table):
    s = synthesize(
        table,
        income={"coding": (200, 5_000.5), "cont_na": [-8]},
        whole={"coding": (None, 80)},
        born={"coding": (date(1971, 1, 1), None)},
    )
    values = table.filter(pl.col("income") != -8)["income"]
    beyond = int(((values < 200) | (values > 5_000.5)).sum())
    assert s.recoded_ == {
        "income": beyond,
        "whole": int((table["whole"] > 80).sum()),
        "born": int((table["born"] < date(1971, 1, 1)).sum()),
    }
    learned = s.model_.variables[0].values.to_pylist()
    assert max(learned[2:]) == 5_000.5
    assert min(learned[2:]) == 200
    for copy in s.sample():
        assert copy.schema == table.schema
        assert copy.filter(pl.col("income") != -8)["income"].is_between(200, 5_000.5).all()
        assert (copy["income"] == -8).any()
        assert copy["whole"].max() == 80
        assert copy["born"].min() == date(1971, 1, 1)
    assert s.summary().filter(pl.col("column") == "whole")["n_coded"][0] == s.recoded_["whole"]


@pytest.mark.parametrize("name", ["text", "category"])
def test_rare_levels_are_merged_until_they_are_enough(table, name):
    s = synthesize(table, **{name: {"rare_levels": (10, "other")}})
    # e and f are 7 rows together, so d joins them.
    assert s.recoded_ == {name: 19}
    for copy in s.sample(k=3_000):
        assert copy.schema[name] == table.schema[name]
        assert set(copy[name].to_list()) == {"a", "b", "c", "other", None}


def test_rare_levels_may_go_to_a_level_that_there_is_or_be_held_back(table):
    merged = synthesize(table, ordered={"rare_levels": (20, "c")})
    assert merged.recoded_ == {"ordered": 19}
    assert set(merged.sample()[0]["ordered"].to_list()) <= {"a", "b", "c", None}
    held = synthesize(table, ordered={"rare_levels": (20, None)}, text={"rare_levels": (20, None)})
    copy = held.sample(k=3_000)[0]
    # Not even the names of the levels that were held back.
    assert copy["ordered"].dtype == pl.Enum(["a", "b", "c", "g"])
    assert set(copy["ordered"].to_list()) == set(copy["text"].to_list()) == {"a", "b", "c", None}
    assert copy["ordered"].null_count() / 3_000 == pytest.approx(20 / 600, abs=4 * (0.033 / 3_000) ** 0.5)


def test_pandas_and_files_are_coded_alike(table, tmp_path, monkeypatch):
    options = {"category": {"rare_levels": (10, "other")}, "whole": {"coding": (5, 70)}}
    expected = synthesize(table, **options).sample()[0]
    frame = table.drop("ordered").to_pandas()
    frame["born"] = pd.to_datetime(frame["born"])
    from_pandas = synthesize(frame, **options)
    assert from_pandas.recoded_["category"] == 19
    assert set(from_pandas.sample(k=2_000)[0]["category"].dropna()) == {"a", "b", "c", "other"}
    assert set(from_pandas.sample()[0]["category"].cat.categories) == {"a", "b", "c", "other"}
    table.write_parquet(tmp_path / "t.parquet", row_group_size=90)
    monkeypatch.setattr(source, "PIECE_ROWS", 90)
    columns = {name: fs.Column(**given) for name, given in options.items()}
    syn = fs.synthesize(
        tmp_path / "t.parquet",
        m=2,
        method="cart",
        columns=columns,
        random_state=1,
        memory_limit=10_000,
        out=tmp_path / "o",
    )
    text = pl.selectors.categorical() | pl.selectors.enum()
    assert syn[0].with_columns(text.cast(pl.String)).equals(expected.with_columns(text.cast(pl.String)))


def test_it_is_kept_in_the_model_file(table, tmp_path):
    s = synthesize(table, whole={"coding": (5, 70)})
    s.save(tmp_path / "model")
    loaded = fs.Synthesizer.load(tmp_path / "model")
    assert loaded.recoded_ == s.recoded_
    assert s.summary().filter(column="whole")["protection"].to_list() == [["coding"]]
    assert loaded.sample()[0].equals(s.sample()[0])


def test_the_caller_keeps_the_table(table):
    before = table.clone()
    synthesize(table, whole={"coding": (5, 70)}, text={"rare_levels": (10, "other")})
    assert table.equals(before)


@pytest.mark.parametrize(
    ("column", "given", "error", "words"),
    [
        ("whole", {"coding": (5,)}, OptionError, "must be a pair"),
        ("whole", {"coding": (None, None)}, OptionError, "one may be None"),
        ("whole", {"coding": (9, 5)}, OptionError, "must be a pair"),
        ("whole", {"coding": (1.5, None)}, OptionError, "Column 'whole' is int64"),
        ("whole", {"coding": (None, "x")}, OptionError, "numbers or dates"),
        ("text", {"coding": ("a", None)}, OptionError, "numbers or dates"),
        ("born", {"coding": (3, None)}, OptionError, "numbers or dates"),
        ("whole", {"rare_levels": (10, "other")}, OptionError, "without levels"),
        ("text", {"rare_levels": 10}, OptionError, "must be a pair"),
        ("text", {"rare_levels": (0, "other")}, OptionError, "at least 1"),
        ("text", {"rare_levels": (5, 3)}, OptionError, "must be text"),
        ("ordered", {"rare_levels": (10, "other")}, OptionError, "ordered levels"),
        ("text", {"rare_levels": (1_000, None)}, DataError, "nothing would be left"),
        ("whole", {"coding": (1, 5), "passive": pl.col("born").dt.day()}, OptionError, "coding"),
    ],
)
def test_what_cannot_be_coded_is_refused(table, column, given, error, words):
    with pytest.raises(error, match=words):
        synthesize(table, **{column: given})


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical])
def test_text_as_polars_writes_it_to_arrow_files(dtype, tmp_path):
    frame = pl.DataFrame({"g": pl.Series(["a", "b"] * 300 + ["rare"] * 4, dtype=dtype), "x": np.arange(604.0)})
    frame.write_ipc(tmp_path / "t.arrow")
    options = {"columns": {"g": fs.Column(rare_levels=(10, None))}, "m": 1, "random_state": 1}
    copy = fs.synthesize(tmp_path / "t.arrow", **options)[0]
    assert set(copy["g"].to_list()) <= {"a", "b", None}
    assert copy["g"].dtype == dtype
