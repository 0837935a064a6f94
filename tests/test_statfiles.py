"""Files of SPSS, Stata and SAS: what is read, and that the same file comes back."""

from __future__ import annotations

import datetime
import json
import sys

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pyreadstat
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastsynth as fs
from fastsynth import statfiles
from fastsynth.cli import _with_missing, main
from fastsynth.errors import DataError, FastsynthError, OutputError
from fastsynth.source import open_source
from fastsynth.statfiles import read_statfile, write_statfile

SAID = (
    "column_names",
    "column_names_to_labels",
    "file_label",
    "notes",
    "table_name",
    "variable_value_labels",
    "missing_ranges",
    "missing_user_values",
    "original_variable_types",
    "original_variable_informats",
    "readstat_variable_types",
    "variable_measure",
    "variable_display_width",
)


def raw(path):
    """Numbers and words that are in a file, and all that it says of them."""
    data, meta = statfiles._parse(path, path.suffix, None)
    return dict(data), {name: getattr(meta, name) for name in SAID}


def there_and_back(path):
    """Read a file and write it again; it must be the same."""
    file = read_statfile(path)
    again = path.with_name("again" + path.suffix)
    assert write_statfile(file.table, again) == []
    assert raw(again) == raw(path)
    other = read_statfile(again)
    assert other.table.equals(file.table, check_metadata=True)
    assert other.missing == file.missing
    return file


def write_spss(path, columns, **options):
    pyreadstat.write_sav(pl.DataFrame(columns), path, compress=path.suffix == ".zsav", **options)
    return path


def write_stata(path, columns, missing_user_values=None, **options):
    def dtype(name, values):
        if name in (missing_user_values or {}):
            return pl.Object
        return pl.Int32 if any(type(value) is int for value in values) else None

    frame = pl.DataFrame([pl.Series(name, values, dtype(name, values)) for name, values in columns.items()])
    pyreadstat.write_dta(frame, path, version=14, missing_user_values=missing_user_values, **options)
    return path


@pytest.fixture(params=[".sav", ".zsav"])
def survey(tmp_path, request):
    n = 40
    columns = {
        "age": [float(20 + i % 30) for i in range(n)],
        "sex": [[1.0, 2.0, -9.0, None][i % 4] for i in range(n)],
        "school": [float(1 + i % 3) for i in range(n)],
        "income": [[-8.0, -9.5, 1000.25 * i, None][i % 4] for i in range(n)],
        "region": [["N", "S", "X", ""][i % 4] for i in range(n)],
        "word": [["aé", "b", "", "d"][i % 4] for i in range(n)],
        "day": [13_928_544_000.0 + 86_400 * i for i in range(n)],
        "moment": [13_928_544_000.25 + i for i in range(n)],
        "clock": [60.0 * i for i in range(n)],
        "lasting": [50_000.0 * i for i in range(n)],
        "empty": pl.Series([None] * n, dtype=pl.Float64),
    }
    return write_spss(
        tmp_path / f"survey{request.param}",
        columns,
        file_label="Einé Umfrage",
        note=["first line", "second line"],
        column_labels={"age": "Age in years", "income": "Income, €"},
        variable_value_labels={
            "sex": {2: "female", 1: "male", -9: "refused"},
            "school": {1: "low", 2: "middle", 3: "high", 4: "other"},
            "income": {-8: "does not apply"},
            "region": {"N": "North", "S": "South"},
            "empty": {1: "yes"},
        },
        missing_ranges={
            "sex": [-9],
            "income": [{"lo": float("-inf"), "hi": -1}, 77],
            "region": ["X"],
            "empty": [9, 8],
        },
        variable_measure={"sex": "nominal", "school": "ordinal", "income": "scale"},
        variable_display_width={"age": 12},
        variable_format={
            "age": "F3.0",
            "day": "DATE11",
            "moment": "DATETIME20",
            "clock": "TIME8",
            "lasting": "DTIME12",
        },
    )


def test_spss(survey):
    file = there_and_back(survey)
    table = file.table
    assert file.missing == {"income": [-9.5, -8.0]}
    labels = pa.dictionary(pa.int32(), pa.string())
    assert dict(zip(table.column_names, table.schema.types)) == {
        "age": pa.float64(),
        "sex": labels,
        "school": pa.dictionary(pa.int32(), pa.string(), ordered=True),
        "income": pa.float64(),
        "region": labels,
        "word": pa.string(),
        "day": pa.date32(),
        "moment": pa.timestamp("us"),
        "clock": pa.time64("us"),
        "lasting": pa.float64(),
        "empty": pa.float64(),
    }
    assert table["sex"][:4].to_pylist() == ["male", "female", "refused", None]
    assert table["sex"].chunk(0).dictionary.to_pylist() == ["male", "female", "refused"]
    assert table["school"].chunk(0).dictionary.to_pylist() == ["low", "middle", "high", "other"]
    assert table["region"][:4].to_pylist() == ["North", "South", "missing X", None]
    assert table["word"][:3].to_pylist() == ["aé", "b", None]
    assert table["day"][0].as_py() == datetime.date(2024, 2, 29)
    assert table["moment"][0].as_py() == datetime.datetime(2024, 2, 29, 0, 0, 0, 250_000)
    assert table["clock"][2].as_py() == datetime.time(0, 2)
    metadata = table.schema.field("income").metadata
    assert json.loads(metadata[b"fastsynth.label"]) == "Income, €"
    assert json.loads(metadata[b"fastsynth.value_labels"]) == [[-8.0, "does not apply"]]


def test_stata(tmp_path):
    columns = {
        "child": [0, 3, "a", "c", None, -7],
        "wage": [1.5, "b", 2.5, None, "z", 9e20],
        "sex": [1, 2, "a", 2, None, "b"],
        "half": [1, 2, 3, 1, 2, 3],
        "day": [23_435, 23_436, "n", 0, -5, None],
        "moment": [2_024_829_001_000.0, 0.0, 1.0, 2.0, 3.0, None],
        "clock": [86_399_000.0, 0.0, 1.0, 2.0, 3.0, None],
        "month": [700, 701, 702, 703, 704, None],
        "word": ["x", "", "é", "long" * 600, "y", "z"],
    }
    path = write_stata(
        tmp_path / "a.dta",
        columns,
        file_label="label",
        column_labels={"wage": "Wage"},
        variable_value_labels={
            "sex": {1: "m", 2: "f", "a": "refused", "q": "never seen"},
            "half": {1: "one", 2: "two"},
            "child": {"a": "not asked", 20: "20 or more"},
        },
        missing_user_values={
            "child": ["a", "c"],
            "wage": ["b", "z"],
            "sex": ["a", "b", "q"],
            "day": ["n"],
        },
        variable_format={
            "wage": "%9.2f",
            "day": "%tdDD-NN-CCYY",
            "moment": "%tc",
            "clock": "%tcHH:MM:SS",
            "month": "%tm",
        },
    )
    file = there_and_back(path)
    assert file.missing == {"child": [-12, -11], "wage": [-2.0, -1.0], "day": [datetime.date(1959, 12, 21)]}
    assert file.table["child"].to_pylist() == [0, 3, -11, -12, None, -7]
    assert file.table.schema.field("child").type == pa.int32()
    assert file.table["sex"].to_pylist() == ["m", "f", "refused", "f", None, "missing .b"]
    assert file.table["sex"].chunk(0).dictionary.to_pylist() == ["m", "f", "refused", "missing .b", "never seen"]
    assert file.table["half"].to_pylist() == [1, 2, 3, 1, 2, 3]
    assert file.table["month"].type == pa.int32()


def test_por(tmp_path):
    table = pa.table({"A": [1.0, 2.0, -9.0], "B": [1.0, 2.5, -8.0], "C": ["x", "y", None]})
    said = {
        "A": {"value_labels": [[1, "one"], [2, "two"]], "missing_ranges": [{"lo": -9, "hi": -9}], "label": "an a"},
        "B": {"missing_ranges": [{"lo": -9, "hi": -1}], "format": "F5.1"},
    }
    schema = pa.schema([f.with_metadata(statfiles._pack(said.get(f.name, {}))) for f in table.schema], {})
    assert write_statfile(table.cast(schema), tmp_path / "a.por") == []
    file = there_and_back(tmp_path / "a.por")
    assert file.missing == {"B": [-8.0]}
    assert file.table["A"].to_pylist() == ["one", "two", "missing -9"]
    with pytest.raises(DataError, match=r"a\.por.*encoding"):
        write_statfile(pa.table({"A": ["ü"]}), tmp_path / "a.por")


def test_xpt_and_sas7bdat(tmp_path, monkeypatch):
    frame = pl.DataFrame({"day": [23_435.0, None, 0.0], "x": [1.5, 2.0, None], "s": ["a", "", "ü"]})
    pyreadstat.write_xport(
        frame,
        tmp_path / "a.xpt",
        file_label="label",
        table_name="PEOPLE",
        column_labels={"x": "an x"},
        variable_format={"day": "DATE9"},
        variable_informat={"day": "DATE9"},
    )
    file = there_and_back(tmp_path / "a.xpt")
    assert file.table["day"].to_pylist() == [datetime.date(2024, 2, 29), None, datetime.date(1960, 1, 1)]
    # No package writes .sas7bdat: the same columns as if from one, with two letters.
    data, meta = statfiles._parse(tmp_path / "a.xpt", ".xpt", None)
    data["x"][2:] = ["A"]
    (tmp_path / "a.sas7bdat").touch()
    monkeypatch.setattr(statfiles, "_parse", lambda *_: (data, meta))
    file = read_statfile(tmp_path / "a.sas7bdat")
    assert file.missing == {"x": [-1.0]}
    monkeypatch.undo()
    assert write_statfile(file.table, tmp_path / "b.xpt") == ["letters of missing values of 'x'"]
    assert raw(tmp_path / "b.xpt") == raw(tmp_path / "a.xpt")
    with pytest.raises(DataError, match=r"SAS reads \.xpt"):
        write_statfile(file.table, tmp_path / "b.sas7bdat")


def test_equal_labels_are_told_apart(tmp_path):
    path = write_spss(
        tmp_path / "a.sav",
        {"x": [1.0, 2.0, 3.0, 4.0, 4.5]},
        variable_value_labels={"x": {1: "same", 2: "same", 3: "same (1)", 4: "same", 4.5: "other"}},
    )
    levels = there_and_back(path).table["x"].to_pylist()
    assert levels == ["same (1) (1)", "same (2)", "same (1)", "same (4)", "other"]


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12)
NUMBERS = st.integers(-99, 99).map(float) | st.floats(-1e9, 1e9).filter(lambda x: x == 0 or abs(x) > 1e-9)
RANGES = st.lists(NUMBERS, max_size=3, unique=True) | st.tuples(NUMBERS, NUMBERS).map(
    lambda pair: [{"lo": min(pair), "hi": max(pair)}]
)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(
    values=st.lists(st.sampled_from([1.0, 2.0, 3.0, -9.0, -8.0, None]) | NUMBERS, min_size=1, max_size=12),
    labels=st.dictionaries(st.sampled_from([1.0, 2.0, 3.0, -9.0]) | NUMBERS, WORDS, max_size=6),
    ranges=RANGES,
    measure=st.sampled_from(["nominal", "ordinal", "scale", "unknown"]),
)
def test_any_labels_and_missing_values_of_spss(tmp_path, values, labels, ranges, measure):
    path = write_spss(
        tmp_path / "a.sav",
        [pl.Series("x", values, pl.Float64)],
        variable_value_labels={"x": labels} if labels else None,
        missing_ranges={"x": ranges} if ranges else None,
        variable_measure={"x": measure},
    )
    file = there_and_back(path)
    if "x" in file.missing:
        lows = [limits if isinstance(limits, dict) else {"lo": limits, "hi": limits} for limits in ranges]
        expected = {v for v in values if v is not None and any(r["lo"] <= v <= r["hi"] for r in lows)}
        assert set(file.missing["x"]) == expected


@QUICK
@given(
    values=st.lists(
        st.one_of(
            st.sampled_from("abz"), st.none(), st.sampled_from([1, 2]), st.integers(-(2**31) + 30, 2_147_483_620)
        ),
        max_size=12,
    ).map(lambda values: [7, *values]),
    labels=st.dictionaries(st.sampled_from([7, 1, 2, "a", "q"]), WORDS, max_size=4),
    real=st.booleans(),
)
def test_any_labels_and_missing_values_of_stata(tmp_path, values, labels, real):
    values = [float(v) if real and isinstance(v, int) else v for v in values]
    path = write_stata(
        tmp_path / "a.dta",
        {"x": values},
        variable_value_labels={"x": labels} if labels else None,
        missing_user_values={"x": ["a", "b", "q", "z"]} if {"a", "b", "q", "z"} & {*values, *labels} else None,
    )
    file = there_and_back(path)
    numbers = [v for v in values if not isinstance(v, str) and v is not None]
    if file.missing:
        assert len(file.missing["x"]) == len({v for v in values if isinstance(v, str)})
        assert max(file.missing["x"]) < min(0, *numbers)


def test_tables_from_elsewhere(tmp_path):
    table = pa.table(
        {
            "c": pa.array(["b", None, "a"]).dictionary_encode(),
            "i": pa.array([1, 2**40, None]),
            "f": pa.array([1.5, float("nan"), None], pa.float32()),
            "b": [True, False, None],
            "d": [datetime.date(2024, 2, 29), None, datetime.date(1, 1, 1)],
            "t": [datetime.time(1, 2, 3), None, None],
            "m": [datetime.datetime(2024, 2, 29, 12), None, None],
            "n": pa.nulls(3),
            "s": pa.array(["x", None, ""], pa.large_string()),
        }
    )
    for suffix in (".sav", ".zsav", ".por", ".dta", ".xpt"):
        assert write_statfile(table, tmp_path / f"a{suffix}") == []
        rows = read_statfile(tmp_path / f"a{suffix}").table.to_pydict()
        expected = table.set_column(2, "f", pa.array([1.5, None, None])).to_pydict() | {"s": ["x", None, None]}
        assert rows == {name.upper() if suffix == ".por" else name: values for name, values in expected.items()}


def test_to_another_format(tmp_path, survey):
    table = read_statfile(survey).table
    lost = write_statfile(table, tmp_path / "a.dta")
    assert lost == [
        "declared missing values of 'sex', 'income', 'region', 'empty'",
        "value labels of 'region'",
        "notes of the file",
    ]
    other = read_statfile(tmp_path / "a.dta").table
    for name in set(table.column_names) - {"region"}:
        assert other[name].to_pylist() == table[name].to_pylist(), name
    lost = write_statfile(table, tmp_path / "a.xpt")
    assert "value labels of 'income', 'empty'" in lost
    other = read_statfile(tmp_path / "a.xpt").table
    for name in table.column_names:
        assert other[name].to_pylist() == table[name].to_pylist(), name


def test_letters_do_not_become_dates_of_another_format(tmp_path):
    path = write_stata(
        tmp_path / "a.dta",
        {"day": [23_435, "n", None], "sex": [1, "a", 2]},
        variable_value_labels={"sex": {1: "m", 2: "f"}},
        missing_user_values={"day": ["n"], "sex": ["a"]},
        variable_format={"day": "%td"},
    )
    assert write_statfile(read_statfile(path).table, tmp_path / "a.sav") == [
        "letters of missing values of 'day', 'sex'"
    ]
    table = read_statfile(tmp_path / "a.sav").table
    assert table.to_pydict() == {"day": [datetime.date(2024, 2, 29), None, None], "sex": ["m", None, "f"]}


def test_metadata_survive_parquet(tmp_path, survey):
    table = read_statfile(survey).table
    pq.write_table(table, tmp_path / "a.parquet")
    again = tmp_path / f"again{survey.suffix}"
    write_statfile(pq.read_table(tmp_path / "a.parquet"), again)
    assert raw(again) == raw(survey)


def test_bad_input(tmp_path, monkeypatch):
    (tmp_path / "bad.sav").write_bytes(b"secret value" * 100)
    (tmp_path / "x.txt").touch()
    for name, message in [("none.sav", "No file"), ("bad.sav", "Cannot read"), ("x.txt", r"does not end in \.sav")]:
        with pytest.raises(DataError, match=message) as caught:
            read_statfile(tmp_path / name)
        assert "secret" not in str(caught.value)
    table = pa.table({"x": [1]})
    for bad, message in [
        (pa.table({"a b": [1]}), "'a b' cannot be written to .sav: names"),
        (pa.table({"1a": [1], "": [1]}), "'1a', '' cannot be written"),
        (pa.table({"x": [[1]]}), r"'x' \(list<.*cannot be written"),
        (pa.table({"x": pa.array([1], pa.duration("s"))}), r"'x' \(duration"),
    ]:
        with pytest.raises(DataError, match=message):
            write_statfile(bad, tmp_path / "y.sav")
    with pytest.raises(DataError, match="does not end in"):
        write_statfile(table, tmp_path / "y.csv")
    with pytest.raises(OutputError, match="FileNotFoundError"):
        write_statfile(table, tmp_path / "none" / "y.sav")
    other = pa.table({"x": pa.array(["new"]).dictionary_encode()})
    metadata = statfiles._pack({"codes": [[1, "old"]]})
    with pytest.raises(DataError, match="'x' has levels that its file had no code for"):
        write_statfile(other.cast(pa.schema([other.schema.field(0).with_metadata(metadata)])), tmp_path / "y.sav")
    with pytest.raises(DataError, match=r"read_statfile"):
        open_source(tmp_path / "bad.sav")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.sav", "x.txt"]
    for name in ("pyreadstat", "pyreadstat._readstat_parser", "pyreadstat._readstat_writer"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(FastsynthError, match=r"pip install 'fastsynth\[stat\]'"):
        read_statfile(tmp_path / "bad.sav")
    with pytest.raises(FastsynthError, match=r"pip install 'fastsynth\[stat\]'"):
        write_statfile(table, tmp_path / "y.sav")


# The command line


def call(*words):
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


def test_synthesize(tmp_path, survey):
    out = tmp_path / "out"
    result = call("synthesize", survey, "-o", out, "-m", 2, "-k", 30, "--random-state", 1)
    assert (result.exit_code, f"copy_2{survey.suffix}" in result.output) == (0, True)
    names = [f"copy_{i}{survey.suffix}" for i in (1, 2)]
    assert sorted(p.name for p in out.iterdir()) == ["audit.json", *names]
    assert json.loads((out / "audit.json").read_text())["k"] == 30
    original = read_statfile(survey)
    columns = {"income": fs.Column(cont_na=[-9.5, -8.0])}
    expected = fs.synthesize(original.table, m=2, k=30, columns=columns, random_state=1)
    for i, name in enumerate(names):
        copy = read_statfile(out / name)
        assert copy.table.to_pydict() == expected.arrow(i).to_pydict()
        assert copy.table.schema.field("school").equals(original.table.schema.field("school"), check_metadata=True)


def test_fit_then_sample(tmp_path, survey):
    model = tmp_path / "m.fsyn"
    assert call("fit", survey, "-o", model, "--random-state", 1, "--drop", "word").exit_code == 0
    assert call("sample", model, "-o", tmp_path / "a", "-m", 1).exit_code == 0
    assert call("sample", model, "-o", tmp_path / "b", "-m", 1, "--format", "sav").exit_code == 0
    table = pq.read_table(tmp_path / "a" / "copy_1.parquet")
    copy = read_statfile(tmp_path / "b" / "copy_1.sav")
    assert copy.table.to_pydict() == table.to_pydict()
    assert copy.table.schema.field("sex").equals(table.schema.field("sex"), check_metadata=True)
    result = call("sample", model, "-o", tmp_path / "c", "-m", 1, "--format", "dta")
    assert "Not in .dta files: declared missing values of 'sex'" in result.output


def test_other_formats_of_copies(tmp_path, survey, mixed):
    out = tmp_path / "out"
    assert call("synthesize", survey, "-o", out, "-m", 1, "--format", "parquet").exit_code == 0
    assert sorted(p.name for p in out.iterdir()) == ["audit.json", "copy_1.parquet", "manifest.json"]
    mixed.write_parquet(tmp_path / "people.parquet")
    assert call("synthesize", tmp_path / "people.parquet", "-o", tmp_path / "b", "--format", "dta").exit_code == 0
    assert read_statfile(tmp_path / "b" / "copy_5.dta").table.num_rows == mixed.height


def test_sas7bdat_becomes_xpt(tmp_path, survey, monkeypatch):
    (tmp_path / "a.sas7bdat").touch()
    table = read_statfile(survey).table.select(["age", "word", "lasting"])
    monkeypatch.setattr("fastsynth.cli.read_statfile", lambda _: statfiles.StatFile(table, {}))
    result = call("synthesize", tmp_path / "a.sas7bdat", "-o", tmp_path / "out", "-m", 1)
    assert (result.exit_code, "copies will be .xpt" in result.output) == (0, True)
    assert (tmp_path / "out" / "copy_1.xpt").is_file()


def test_declared_missing_values_become_kinds(tmp_path, survey, monkeypatch):
    columns = {"income": fs.Column(method="sample"), "age": fs.Column(cont_na=[3], outcome=True), "x": fs.Column()}
    merged = _with_missing(columns, {"income": [-8], "age": [-9], "day": [1]})
    assert {name: column.cont_na for name, column in merged.items()} == {
        "income": [-8],
        "age": [3],
        "x": (),
        "day": [1],
    }
    assert (merged["income"].method, merged["age"].outcome) == ("sample", True)
    given = {}

    def synthesize(_, columns, **options):
        given.update(columns=columns, options=options)
        raise FastsynthError("stop")

    monkeypatch.setattr("fastsynth.cli.synthesize", synthesize)
    (tmp_path / "c.toml").write_text("[columns.income]\nmethod = 'cart'\n[columns.age]\noutcome = true")
    call("synthesize", survey, "-o", tmp_path / "out", "--config", tmp_path / "c.toml")
    assert {name: column.cont_na for name, column in given["columns"].items()} == {"income": [-9.5, -8.0], "age": ()}
    assert given["columns"]["income"].method == "cart"
    assert "out" not in given["options"]
    call("synthesize", survey, "-o", tmp_path / "out", "--drop", "income", "--config", tmp_path / "c.toml")
    assert not given["columns"]["income"].cont_na


def test_errors_of_the_command_line(tmp_path, survey):
    out = tmp_path / "out"
    for words, message in [
        (["--resume"], "no --resume. Add --format parquet"),
        (["--fit", "partition"], "no fit='partition'"),
        (["--drop", "zzz"], "no column 'zzz'"),
        ([survey], "one file at a time"),
    ]:
        result = call("synthesize", survey, "-o", out, *words)
        assert (result.exit_code, message in result.output) == (1, True), result.output
    assert call("synthesize", survey, "-o", survey.parent).exit_code == 1
    assert "No file" in call("synthesize", tmp_path / "none.sav", "-o", out).output
    table = pa.table({"a b": [1, 2, 3], "c": [1, 2, 3]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert "'a b' cannot be written" in call("synthesize", tmp_path / "a.parquet", "-o", out, "--format", "sav").output
    assert not out.exists()
