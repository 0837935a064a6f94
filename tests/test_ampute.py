"""Holes in complete tables: how many, where, what they depend on, and what is refused."""

from __future__ import annotations

import datetime as dt
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

import fastsynth as fs
from fastsynth.ampute import TYPES, _level_numbers, _probabilities, _standardised
from fastsynth.errors import DataError, DataWarning, OptionError, PlanError
from tests.conftest import as_arrow

N = 20_000
# A difference of so many standard errors comes by chance once in 15,000 tests.
FAR = 4.0


@pytest.fixture(scope="module")
def normal():
    """x and y correlate by .6, c is on its own; the part of each of x and y that the other does not explain."""
    rng = np.random.default_rng(5)
    x, e, c = rng.normal(size=(3, N))
    return pl.DataFrame({"x": x, "y": 0.6 * x + 0.8 * e, "c": c})


@pytest.fixture(scope="module")
def types():
    """300 complete rows of every type that all kinds of table have."""
    n = 300
    rng = np.random.default_rng(6)
    ints = rng.integers(0, 50, n).tolist()
    day, moment = dt.date(2020, 1, 31), dt.datetime(2020, 1, 31, 12, 30)
    return pl.DataFrame(
        {
            "i8": pl.Series(ints, dtype=pl.Int8),
            "i64": pl.Series([v * 10**15 + 1 for v in ints], dtype=pl.Int64),
            "f32": pl.Series(rng.normal(size=n), dtype=pl.Float32),
            "f64": rng.normal(size=n),
            "bool": [v > 20 for v in ints],
            "text": [f"t{v % 7}" for v in ints],
            "cat": pl.Series([f"c{v % 5}" for v in ints], dtype=pl.Categorical),
            "enum": pl.Series([f"e{v % 3}" for v in ints], dtype=pl.Enum(["e2", "e0", "e1", "unused"])),
            "date": [day + dt.timedelta(days=v) for v in ints],
            "ms": pl.Series([moment + dt.timedelta(hours=v) for v in ints], dtype=pl.Datetime("ms")),
            "zone": pl.Series([moment + dt.timedelta(hours=v) for v in ints], dtype=pl.Datetime("ns", "Asia/Tokyo")),
        }
    )


def holes_of(table) -> np.ndarray:
    """Which cells are missing, (n_rows, n_columns)."""
    columns = [column.is_null(nan_is_null=True).to_numpy() for column in as_arrow(table).columns]
    return np.column_stack(columns)


def distance(values, holes) -> float:
    """Difference of the means of rows with and without holes, in standard errors."""
    a, b = values[holes], values[~holes]
    return (a.mean() - b.mean()) / np.sqrt(a.var() / len(a) + b.var() / len(b))


# How many


@pytest.mark.parametrize("mechanism", ["MCAR", "MAR", "MNAR"])
@pytest.mark.parametrize("prop", [0.05, 0.5, 0.9])
def test_share_of_rows_and_one_pattern_a_column(normal, mechanism, prop):
    holes = holes_of(fs.ampute(normal, prop, mechanism, random_state=1))
    assert holes.sum(axis=1).max() == 1
    assert abs(holes.any(axis=1).mean() - prop) < FAR * np.sqrt(prop * (1 - prop) / N)
    each = prop / 3
    assert (np.abs(holes.mean(axis=0) - each) < FAR * np.sqrt(each * (1 - each) / N)).all()


def test_every_row(normal):
    assert holes_of(fs.ampute(normal, 1, random_state=1)).any(axis=1).all()


def test_frequencies_of_patterns(normal):
    for freq in ([1, 3], (1e-300, 3e-300), np.array([0.25, 0.75])):
        holes = holes_of(fs.ampute(normal, 0.5, pattern=[["x", "y"], ["c"]], freq=freq, random_state=2))
        assert (holes[:, 0] == holes[:, 1]).all()
        assert not (holes[:, 0] & holes[:, 2]).any()
        n = int(holes.any(axis=1).sum())
        assert abs(holes[:, 2].sum() / n - 0.75) < FAR * np.sqrt(0.75 * 0.25 / n)


def test_share_of_cells(normal):
    patterns, freq = [["x", "y"], ["c"]], [1, 2]
    holes = holes_of(fs.ampute(normal, 0.3, pattern=patterns, freq=freq, by="cells", random_state=3))
    # A row has (1 * 2 + 2 * 1) / 3 holes if any, so at most 4 / 9 of the cells; a variance of 3 a row is too many.
    assert abs(holes.mean() - 0.3) < FAR * np.sqrt(3 / N) / 3
    assert holes_of(fs.ampute(normal, 4 / 9, pattern=patterns, freq=freq, by="cells")).any(axis=1).all()
    assert holes_of(fs.ampute(normal, 1 / 3, by="cells")).any(axis=1).all()
    with pytest.raises(OptionError, match=r"prop=0.45 of by='cells'.* give 0.4444 of the cells"):
        fs.ampute(normal, 0.45, pattern=patterns, freq=freq, by="cells")


# What they depend on


def test_mcar_depends_on_nothing(normal):
    holes = holes_of(fs.ampute(normal, 0.4, "MCAR", ["y"], random_state=4))[:, 1]
    for values in normal:
        assert abs(distance(values.to_numpy(), holes)) < FAR


def test_mar_depends_on_what_stays_observed_only(normal):
    holes = holes_of(fs.ampute(normal, 0.4, "MAR", ["y"], random_state=4))[:, 1]
    x, y, c = normal.to_numpy().T
    assert distance(x, holes) > 5 * FAR
    assert distance(c, holes) > 5 * FAR
    assert distance(y, holes) > 5 * FAR  # by way of x
    assert abs(distance(y - 0.6 * x, holes)) < FAR


def test_mnar_depends_on_what_goes_missing_only(normal):
    holes = holes_of(fs.ampute(normal, 0.4, "MNAR", ["y"], random_state=4))[:, 1]
    x, y, c = normal.to_numpy().T
    assert distance(y, holes) > 5 * FAR
    assert distance(y - 0.6 * x, holes) > 5 * FAR  # given all that is observed
    assert abs(distance(x - 0.6 * y, holes)) < FAR
    assert abs(distance(c, holes)) < FAR


def test_each_pattern_has_its_own_mechanism(normal):
    holes = holes_of(fs.ampute(normal, 0.8, "MAR", [["x"], ["y"]], type=["right", "left"], random_state=4))
    x, _, c = normal.to_numpy().T
    rest = ~holes[:, 1]
    assert distance(c[rest], holes[rest, 0]) > FAR
    rest = ~holes[:, 0]
    assert distance(c[rest], holes[rest, 1]) < -FAR
    assert distance(x[rest], holes[rest, 1]) < -FAR


def test_weights(normal):
    x, y, c = normal.to_numpy().T
    holes = holes_of(fs.ampute(normal, 0.4, "MAR", ["y"], weights={"x": 0}, random_state=5))[:, 1]
    assert abs(distance(x, holes)) < FAR < distance(c, holes)
    holes = holes_of(fs.ampute(normal, 0.4, "MAR", ["y"], weights={"x": -1}, random_state=5))[:, 1]
    assert distance(c - x, holes) > 5 * FAR
    assert abs(distance(c + x, holes)) < FAR
    lists = [{"c": 0}, {"c": 0, "y": 0}]
    holes = holes_of(fs.ampute(normal, 0.4, "MNAR", [["x"], ["y", "c", "x"]], weights=[{}, lists[1]], random_state=5))
    rest = ~(holes[:, 0] & ~holes[:, 1])
    assert distance(x[rest], holes[rest, 1]) > FAR
    assert abs(distance((y - 0.6 * x)[rest], holes[rest, 1])) < FAR
    # Only how weights relate to each other matters.
    small, large = (
        fs.ampute(normal, pattern=["y"], weights={"x": w, "c": 2 * w}, random_state=6) for w in (1e-307, 5e307)
    )
    assert (holes_of(small) == holes_of(large)).all()


def thirds(kind, share):
    """Probability of holes in each third of normal scores."""
    z = np.linspace(-5, 5, 20_001)
    density = np.exp(-z * z / 2)
    density /= density.sum()
    pull = {"right": z, "left": -z, "mid": -abs(z), "tail": abs(z)}[kind]
    shifts = np.linspace(-5, 5, 2_001)
    shift = shifts[np.argmin([abs(density @ expit(pull + s) - share) for s in shifts])]
    place = np.minimum((np.cumsum(density) * 3).astype(int), 2)
    return np.bincount(place, density * expit(pull + shift)) * 3


@pytest.mark.parametrize("kind", TYPES)
def test_types_are_logistic_functions_of_the_score(normal, kind):
    done = fs.ampute(normal, 0.4, "MAR", ["y"], weights={"x": 0}, type=kind, random_state=7)
    rank = normal["c"].rank("ordinal").to_numpy() - 1
    found = np.bincount(rank * 3 // N, holes_of(done)[:, 1]) / (N / 3)
    assert (np.abs(found - thirds(kind, 0.4)) < FAR * np.sqrt(0.25 / (N / 3))).all()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
def test_mean_of_probabilities_is_the_share(kind, share):
    rng = np.random.default_rng(8)
    for scores in (rng.lognormal(0, 2, 5_000), np.array([0.0, 1.0]), np.append(np.zeros(999), 1e6)):
        p = _probabilities(scores, share, kind, ["y"])
        assert p.mean() == pytest.approx(share, abs=1e-10)
        assert ((p >= 0) & (p <= 1)).all()


def test_half_of_symmetric_scores_needs_no_shift():
    z = np.array([-1.0, 0.0, 1.0])
    np.testing.assert_allclose(_probabilities(z, 0.5, "right", ["y"]), expit(z), atol=1e-12)
    np.testing.assert_allclose(_probabilities(10 - 3 * z, 0.5, "left", ["y"]), expit(z), atol=1e-12)


def test_numbers_of_levels():
    def numbers(*args, **options):
        return _level_numbers(pa.chunked_array([pl.Series(*args, **options).to_arrow()])).tolist()

    values = ["b", "z", "a", "b"]
    order = pl.Enum(["z", "unused", "b", "a"])
    assert numbers(values) == [2, 3, 1, 2]
    assert numbers(values, dtype=pl.Categorical) == [2, 3, 1, 2]
    assert numbers(values, dtype=order) == [2, 0, 3, 2]
    views = pa.chunked_array([pa.array(["b", "z"], pa.string_view()), pa.array(["a", "b"], pa.string_view())])
    assert _level_numbers(views).tolist() == [2, 3, 1, 2]
    parts = pa.chunked_array([pa.array(["b", "z"]).dictionary_encode(), pa.array(["a", "b"]).dictionary_encode()])
    assert _level_numbers(parts).tolist() == [2, 3, 1, 2]


def test_columns_are_standardised(types):
    table = types.with_columns(
        dec=pl.Series([Decimal(i) / 100 for i in range(300)], dtype=pl.Decimal(12, 2)),
        span=pl.Series([dt.timedelta(seconds=i) for i in range(300)]),
        time=pl.Series([dt.time(i % 24, i % 60) for i in range(300)]),
        u64=pl.Series([2**63 + i * 10**6 for i in range(300)], dtype=pl.UInt64),
        huge=np.linspace(-8e307, 8e307, 300),
    ).to_arrow()
    for name in table.column_names:
        numbers = _standardised(name, table.column(name))
        assert numbers.mean() == pytest.approx(0, abs=1e-9)
        assert numbers.std() == pytest.approx(1)
    assert not _standardised("same", pa.chunked_array([pa.array([0.1] * 7)])).any()


def test_holes_depend_on_dates_and_ordered_levels():
    rng = np.random.default_rng(9)
    code = rng.integers(0, 3, N)
    table = pl.DataFrame(
        {
            "y": rng.normal(size=N),
            "level": pl.Series(np.array(["c", "a", "b"])[code], dtype=pl.Enum(["c", "a", "b"])),
            "date": pl.Series(rng.integers(0, 20_000, N)).cast(pl.Date),
        }
    )
    holes = holes_of(fs.ampute(table, pattern=["y"], random_state=1))[:, 0]
    assert distance(code.astype(float), holes) > 5 * FAR
    assert distance(table["date"].to_physical().to_numpy().astype(float), holes) > 5 * FAR


# Tables


@pytest.mark.parametrize("mechanism", ["MCAR", "MAR", "MNAR"])
def test_same_holes_in_every_kind_of_table(types, kind, mechanism):
    name, make = kind
    table = make(types)
    before = as_arrow(make(types))
    options = {"prop": 0.8, "mechanism": mechanism, "pattern": [[c, "f64"] for c in types.columns if c != "f64"]}
    done = fs.ampute(table, random_state=1, **options)
    assert type(done) is type(table)
    expected = fs.ampute(types, random_state=1, **options)
    holes = holes_of(expected)
    assert holes.any(axis=0).all()
    assert (holes_of(done) == holes).all()
    assert as_arrow(table).equals(before)
    if name == "pandas":
        assert done.dtypes.drop(["i8", "i64", "bool"]).equals(table.dtypes.drop(["i8", "i64", "bool"]))
        return
    got = as_arrow(done)
    assert got.schema.equals(before.schema, check_metadata=True)
    # What is no hole is as it was.
    for i, column in enumerate(got.columns):
        kept = pa.array(~holes[:, i])
        assert column.filter(kept).to_pylist() == before.column(i).filter(kept).to_pylist()


def test_the_callers_polars_and_pandas_tables_stay_complete(types, tmp_path):
    nullable = types.to_pandas().astype({"i8": "Int8"})
    copy = nullable.copy(deep=True)
    done = fs.ampute(nullable, random_state=1)
    pd.testing.assert_frame_equal(nullable, copy)
    assert done["i8"].dtype == "Int8"
    assert done["i64"].dtype == "float64"
    frame = types.clone()
    fs.ampute(types, random_state=1)
    assert types.equals(frame)
    types.write_parquet(tmp_path / "t.parquet")
    from_file = fs.ampute(tmp_path / "t.parquet", random_state=1)
    assert from_file.equals(fs.ampute(types, random_state=1))


def test_chunks_slices_and_rows_that_follow_change_nothing(types):
    whole = fs.ampute(types, 0.5, "MCAR", random_state=1)
    first = fs.ampute(types.head(100), 0.5, "MCAR", random_state=1)
    assert first.equals(whole.head(100))
    parts = pl.concat([types[:70], types[70:71], types[71:]], rechunk=False)
    assert fs.ampute(parts, random_state=1).equals(fs.ampute(types, random_state=1))
    table = pa.concat_tables([types.to_arrow().slice(10, 90), types.to_arrow().slice(100, 30)])
    assert pl.DataFrame(fs.ampute(table, random_state=1)).equals(fs.ampute(types[10:130], random_state=1))


def test_arrow_types_that_no_other_table_has():
    n = 50
    fields = [
        pa.field("view", pa.string_view(), metadata={"a": "b"}),
        pa.field("d32", pa.decimal32(5, 2)),
        pa.field("half", pa.float16(), nullable=False),
        pa.field("list", pa.list_(pa.int64())),
        pa.field("bytes", pa.binary()),
    ]
    values = [[f"{i}" for i in range(n)], [Decimal(i) for i in range(n)], np.arange(n, dtype=np.float16)]
    values += [[[i] for i in range(n)], [b"%d" % i for i in range(n)]]
    schema = pa.schema(fields, {"key": "value"})
    table = pa.table([pa.array(v, f.type) for v, f in zip(values, fields)], schema=schema)
    done = fs.ampute(table, 0.9, "MCAR", random_state=1)
    done.validate(full=True)
    assert holes_of(done).any(axis=0).all()
    assert done.schema.metadata == schema.metadata
    for old, new in zip(schema, done.schema):
        assert new.equals(old.with_nullable(True), check_metadata=True)
    with pytest.raises(DataError, match=r"Column 'list' has type list<.*weights=\{'list': 0\}"):
        fs.ampute(table, pattern=["view"])
    fs.ampute(table, 0.9, pattern=["view", "list"], weights={"bytes": 0}, random_state=1)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_holes_are_those_of_patterns(data):
    names = list("abcd")
    own = st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)
    patterns = data.draw(st.lists(own, min_size=1, max_size=5))
    options = {
        "prop": data.draw(st.floats(0.01, 1)),
        "mechanism": data.draw(st.sampled_from(["MCAR", "MAR", "MNAR"])),
        "type": data.draw(st.lists(st.sampled_from(TYPES), min_size=len(patterns), max_size=len(patterns))),
        "random_state": data.draw(st.integers(0, 2**128)),
    }
    n = data.draw(st.integers(1, 60))
    table = pl.DataFrame({name: np.arange(n) * (i + 1) % 7 for i, name in enumerate(names)})
    with warnings.catch_warnings():
        # Few candidates may well have the same score.
        warnings.simplefilter("ignore", DataWarning)
        done, again = (fs.ampute(table, pattern=patterns, **options) for _ in range(2))
    assert done.equals(again)
    assert done.schema == table.schema
    found = {frozenset(np.array(names)[row].tolist()) for row in holes_of(done)}
    assert found <= {frozenset(), *map(frozenset, patterns)}
    assert (holes_of(done) | (done.fill_null(-1).to_numpy() == table.to_numpy())).all()


def test_random_states(normal):
    def made(state):
        return holes_of(fs.ampute(normal, random_state=state))

    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert (made(3) == made(np.int64(3))).all()
    assert (made(3) != made(4)).any()
    assert (made(None) != made(None)).any()
    assert (made(np.random.SeedSequence(3)) == made(np.random.SeedSequence(3))).all()
    assert (made(np.random.default_rng(3)) == made(np.random.default_rng(3))).all()
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


# What is refused


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prop": 0}, OptionError, r"prop=0: must be a share, above 0 and at most 1"),
        ({"prop": 1.1}, OptionError, "prop=1.1"),
        ({"prop": float("nan")}, OptionError, "prop=nan"),
        ({"prop": True}, OptionError, "prop=True"),
        ({"prop": "half"}, OptionError, "prop='half'"),
        ({"mechanism": "mar"}, OptionError, "mechanism='mar': allowed are 'MCAR', 'MAR', 'MNAR'"),
        ({"mechanism": ["MAR"]}, OptionError, "mechanism="),
        ({"by": "cases"}, OptionError, "by='cases': allowed are 'rows', 'cells'"),
        ({"by": "cells"}, OptionError, "give 0.3333 of the cells"),
        ({"pattern": "x"}, OptionError, "pattern='x': must be a list of columns, or a list of such lists"),
        ({"pattern": []}, OptionError, "pattern="),
        ({"pattern": {"x", "y"}}, OptionError, "pattern="),
        ({"pattern": [["x"], []]}, OptionError, r"pattern=\[\]"),
        ({"pattern": [["x"], "y"]}, OptionError, "pattern='y'"),
        ({"pattern": [1]}, OptionError, "pattern=1"),
        ({"pattern": ["x", "x"]}, OptionError, "named twice"),
        ({"pattern": ["x", "q"]}, PlanError, "pattern: no column 'q'. The table has 'x', 'y', 'c'"),
        ({"pattern": [["x"], ["y", "x", "c"]]}, OptionError, "holds all columns"),
        ({"freq": [1]}, OptionError, "there are 3 patterns"),
        ({"freq": 1}, OptionError, "freq=1: must be a list of numbers above 0"),
        ({"freq": [1, 0, 1]}, OptionError, "freq="),
        ({"freq": [1, float("inf"), 1]}, OptionError, "freq="),
        ({"freq": [1, "2", 1]}, OptionError, "freq="),
        ({"freq": "123"}, OptionError, "freq="),
        ({"type": "RIGHT"}, OptionError, "type='RIGHT': allowed are 'right', 'left', 'mid', 'tail'"),
        ({"type": ["left", "up", "mid"]}, OptionError, "type='up'"),
        ({"type": ["left"]}, OptionError, "there are 3 patterns"),
        ({"type": 1}, OptionError, "type=1: must be one of"),
        ({"type": None, "mechanism": "MCAR"}, OptionError, "type=None"),
        ({"weights": {"x": 1}, "mechanism": "MCAR"}, OptionError, "there is no score"),
        ({"weights": 1}, OptionError, "weights=1: must be a dict"),
        ({"weights": [1, 2, 3]}, OptionError, "must be a dict"),
        ({"weights": [{}, {}]}, OptionError, "a list of 2 for 3 patterns"),
        ({"weights": {"q": 1}}, PlanError, "weights: no column 'q'"),
        ({"weights": {"x": "1"}}, OptionError, "weights: '1' of 'x' must be a finite number"),
        ({"weights": {"x": float("inf")}}, OptionError, "weights: inf of 'x'"),
        ({"weights": {"x": True}}, OptionError, "weights: True of 'x'"),
        ({"weights": {"x": 1}, "pattern": ["x"]}, OptionError, "'x' does not count. .* do that stay observed"),
        ({"weights": [{"x": 1}, {}, {}]}, OptionError, "'x' does not count"),
        ({"weights": {"x": 1}, "pattern": ["y"], "mechanism": "MNAR"}, OptionError, "do that go missing"),
        ({"weights": {"x": 0, "y": 0}}, OptionError, r"in the pattern \['c'\] have 0"),
        ({"random_state": -1}, OptionError, "random_state=-1"),
        ({"random_state": 0.5}, OptionError, "random_state=0.5"),
    ],
)
def test_options_that_are_refused(normal, options, error, message):
    with pytest.raises(error, match=message):
        fs.ampute(normal, **({"prop": 0.5} | options))


@pytest.mark.parametrize("library", ["polars", "pandas", "pyarrow"])
def test_missing_values_are_refused(library):
    frame = pl.DataFrame({"a": [1, None, 3], "b": ["x", "y", None], "c": [1.0, float("nan"), 2.0], "d": [1, 2, 3]})
    table = {"polars": frame, "pandas": frame.to_pandas(), "pyarrow": frame.to_arrow()}[library]
    with pytest.raises(DataError, match=r"Column\(s\) 'a', 'b', 'c' have missing values already.* drop_nulls"):
        fs.ampute(table, pattern=["d"])


def test_other_tables_that_are_refused():
    null_category = pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["a", None]))
    with pytest.raises(DataError, match="'a' have missing values"):
        fs.ampute(pa.table({"a": null_category, "b": [1, 2]}))
    with pytest.raises(DataError, match=r"0 row\(s\) of 2 column\(s\)"):
        fs.ampute(pl.DataFrame({"a": [], "b": []}))
    with pytest.raises(DataError, match=r"of 0 column\(s\)"):
        fs.ampute(pl.DataFrame())
    infinite = pl.DataFrame({"a": [1.0, float("inf")] * 9, "b": range(18), "c": range(18)})
    with pytest.raises(DataError, match=r"Column 'a' has infinite values.*weights=\{'a': 0\}"):
        fs.ampute(infinite, pattern=["b"])
    assert fs.ampute(infinite, pattern=["b"], weights={"a": 0}).height == 18
    with pytest.raises(OptionError, match="holds all columns"):
        fs.ampute(pl.DataFrame({"a": [1, 2]}))
    with pytest.raises(DataError, match="Cannot read a dict"):
        fs.ampute({"a": [1, 2]})


def test_scores_that_do_not_vary_are_told():
    table = pl.DataFrame({"a": [1] * 400, "b": np.arange(400)})
    with pytest.warns(DataWarning, match="All 400 candidate.* of the pattern 'b' have the same score") as caught:
        done = fs.ampute(table, 0.5, pattern=["b"], random_state=1)
    assert caught[0].filename == __file__
    assert abs(done["b"].null_count() / 400 - 0.5) < FAR * np.sqrt(0.25 / 400)
