"""Files are read piece by piece, with the rows of a table in memory."""

from __future__ import annotations

from pathlib import Path

import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from polars.testing import assert_frame_equal

from fastsynth import execute, learn, source
from fastsynth.errors import DataError, OptionError
from fastsynth.source import FileSource, TableSource, open_source, parse_memory


def rows_of(files):
    return pl.DataFrame(pa.concat_tables([b for i in range(len(files.starts) - 1) for b in files.batches(i)]))


@pytest.fixture
def people():
    rng = np.random.default_rng(1)
    n = 5_000
    return pl.DataFrame(
        {
            "age": rng.integers(0, 99, n),
            "sex": pl.Series(rng.choice(["f", "m"], n)).cast(pl.Enum(["m", "f", "x"])),
            "job": pl.Series(rng.choice(["a", "b", "c"], n)).cast(pl.Categorical),
            "income": np.where(rng.random(n) < 0.1, np.nan, rng.lognormal(9, 1, n).round(2)),
        }
    ).with_columns(income=pl.when(pl.col("age") > 2).then(pl.col("income")))


def write(people, folder, layout):
    """Write the table in one of many ways; returns what is passed to ``open_source``."""
    table = people.to_arrow()
    if layout == "row groups":
        pq.write_table(table, folder / "people.parquet", row_group_size=700)
        return folder / "people.parquet"
    if layout == "polars":
        people.write_parquet(folder / "people.pq", row_group_size=999)
        return folder / "people.pq"
    if layout == "list":
        pq.write_table(table[:1000], folder / "z.parquet")
        pq.write_table(table[1000:], folder / "zz.parquet")
        return [folder / "z.parquet", str(folder / "zz.parquet")]
    if layout in ("folder", "glob"):
        (folder / "deep").mkdir()
        (folder / "_SUCCESS").write_text("")
        (folder / ".hidden.parquet").write_text("")
        pq.write_table(table[:3], folder / "deep" / "1.parquet")
        pq.write_table(table[3:3], folder / "deep" / "2.parquet")
        pq.write_table(table[3:], folder / "deep" / "3.parquet", row_group_size=1111)
        return folder if layout == "folder" else folder / "**" / "*.par*"
    if layout == "polars ipc":
        people.write_ipc(folder / "people.arrow", record_batch_size=1_000)
        return folder / "people.arrow"
    options = pa.ipc.IpcWriteOptions()
    with pa.ipc.new_file(folder / "people.arrow", table.schema, options=options) as file:
        file.write_table(table.unify_dictionaries(), max_chunksize=800)
    return str(folder / "people.arrow")


LAYOUTS = ["row groups", "polars", "list", "folder", "glob", "ipc", "polars ipc"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("piece_rows", [600, 2_000_000])
def test_pieces_are_the_rows_in_order(tmp_path, people, layout, piece_rows, monkeypatch):
    monkeypatch.setattr(source, "PIECE_ROWS", piece_rows)
    path = write(people, tmp_path, layout)
    files = open_source(path, 1)
    assert isinstance(files, FileSource)
    assert files.starts[-1] == people.height
    assert_frame_equal(rows_of(files), people, categorical_as_str=True)
    for piece, start in enumerate(files.starts[:-1]):
        part = pl.DataFrame(pa.concat_tables(files.batches(piece)))
        assert_frame_equal(part, people[start : files.starts[piece + 1]], categorical_as_str=True)
    whole = open_source(path)
    assert isinstance(whole, TableSource)
    assert_frame_equal(pl.DataFrame(whole.table), people, categorical_as_str=True)
    slim = files.without(["sex", "income"])
    assert_frame_equal(rows_of(slim), people.select("age", "job"), categorical_as_str=True)


def test_hive_partitions_are_columns(tmp_path, people, monkeypatch):
    for year in (2020, 2021):
        (tmp_path / f"year={year}").mkdir()
        pq.write_table(people.to_arrow()[:2500], tmp_path / f"year={year}" / "a.parquet", row_group_size=2500)
    expected = pl.concat([people[:2500]] * 2).with_columns(year=pl.Series([2020, 2021]).repeat_by(2500).explode())
    for piece_rows in (1_000_000, 1_000):  # the second reads each row group in batches
        monkeypatch.setattr(source, "PIECE_ROWS", piece_rows)
        found = rows_of(open_source(tmp_path, 1))
        assert_frame_equal(found, expected, check_dtypes=False, categorical_as_str=True)
        assert rows_of(open_source(tmp_path, 1).without(["year"])).columns == people.columns


def test_csv_is_read_with_the_types_that_all_rows_allow(tmp_path):
    frame = pl.DataFrame({"a": [*range(20_000), 0.5], "b": ["x", None] * 10_000 + ["y"]}, strict=False)
    frame.write_csv(tmp_path / "a.csv")
    assert_frame_equal(rows_of(open_source(tmp_path / "a.csv", 1)), frame)
    assert_frame_equal(pl.DataFrame(open_source(tmp_path / "a.csv").table), frame)
    files = open_source(tmp_path / "a.csv", 1)
    folder, slim = Path(files.pieces[0].path).parent, files.without(["b"])
    del files
    assert rows_of(slim).columns == ["a"]
    del slim
    assert not folder.exists()  # the temporary files go with the last source that reads them


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path, people):
    path = tmp_path / "a.parquet"
    people.write_parquet(path)
    learned = learn.learn(open_source(path, 1), execute.Threads(1), lambda _: None)
    people.with_columns(age=pl.col("age") + 50).write_parquet(path)
    with pytest.raises(DataError, match=r"'age' holds other values than before|Is it whole"):
        learn.code(learned, None, (), (), None, execute.Threads(1), lambda _: None)
    for name, column in [("age", [1, 100]), ("sex", ["m", "z"]), ("income", [1.0, 1e9]), ("job", ["q"])]:
        variable = next(v for v in learned.variables if v.name == name)
        changed = pl.DataFrame({name: column}, schema={name: people[name].dtype if name != "sex" else pl.Categorical})
        with pytest.raises(DataError, match="holds other values than before"):
            variable.rank(changed.to_arrow().column(0))


def test_other_file_systems(tmp_path, people):
    people.write_parquet(tmp_path / "a.parquet")
    uri = (tmp_path / "a.parquet").as_uri()
    assert_frame_equal(rows_of(open_source(uri, 1)), people, categorical_as_str=True)
    import fsspec

    with fsspec.open("memory://people/a.parquet", "wb") as file:
        people.write_parquet(file)
    assert_frame_equal(rows_of(open_source("memory://people", 1)), people, categorical_as_str=True)


@pytest.mark.parametrize(
    ("limit", "expected"), [(5, 5), ("6 GB", 6 * 10**9), ("1.5kib", 1536), ("700", 700), (np.int64(9), 9)]
)
def test_memory_limits(limit, expected):
    assert parse_memory(limit) == expected


@pytest.mark.parametrize("limit", [0, -1, "6 apples", "", "-1 GB", 1.5, True, "0"])
def test_bad_memory_limits_are_refused(limit):
    with pytest.raises(OptionError, match="memory_limit"):
        parse_memory(limit)


def test_the_default_limit_is_below_what_there_is():
    assert 2**26 < parse_memory(None) < source.available_memory()


@pytest.mark.parametrize(
    ("name", "message"),
    [("empty", "No file in"), ("mixed", "several kinds"), ("*.nothing", "No file in"), ("other.xlsx", "format")],
)
def test_paths_that_are_no_table(tmp_path, name, message, people):
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    people.write_parquet(tmp_path / "mixed" / "a.parquet")
    people.write_csv(tmp_path / "mixed" / "b.csv")
    (tmp_path / "other.xlsx").write_text("x")
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / name)


def test_a_damaged_file_among_good_ones_is_named(tmp_path, people):
    people.write_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 secret 12345 PAR1")
    with pytest.raises(DataError, match="Is the file whole") as error:
        open_source(tmp_path)
    assert "12345" not in str(error.value)


def test_files_with_other_types_are_refused(tmp_path, people):
    people.write_parquet(tmp_path / "a.parquet")
    people.with_columns(age=pl.lit("old")).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet") as error:
        open_source(tmp_path)
    assert "old" not in str(error.value).replace(str(tmp_path), "")


def test_arrow_files_of_feather(tmp_path, people):
    feather.write_feather(people.to_arrow(), str(tmp_path / "a.feather"))
    assert_frame_equal(rows_of(open_source(tmp_path / "a.feather", 1)), people, categorical_as_str=True)


def test_a_file_is_not_read_twice(tmp_path, people):
    path = tmp_path / "year=2020" / "a.parquet"
    path.parent.mkdir()
    people.write_parquet(path)
    for paths in ([path, path], [tmp_path, path], [path, str(tmp_path / "*/*.parquet")]):
        with pytest.raises(DataError, match=r"a\.parquet.*more than once"):
            open_source(paths)


def test_columns_in_names_of_folders_are_not_lost(tmp_path, people):
    for year in (2020, 2021):
        (tmp_path / f"year={year}").mkdir()
        people.write_parquet(tmp_path / f"year={year}" / "a.parquet")
    with pytest.raises(DataError, match="Give that folder"):
        open_source([tmp_path / "year=2020", tmp_path / "year=2021"])
    people.write_csv(tmp_path / "year=2020" / "a.csv")
    with pytest.raises(DataError, match="Give that folder"):
        open_source(str(tmp_path / "*/*.csv"))


def test_files_with_other_columns_are_refused(tmp_path, people):
    people.write_parquet(tmp_path / "a.parquet")
    for name, other in (("less", people.drop("age")), ("more", people.with_columns(more=1))):
        other.write_parquet(tmp_path / "b.parquet")
        with pytest.raises(DataError, match="lacks column") as error:
            open_source(tmp_path)
        assert ("b.parquet" in str(error.value)) == (name == "less")


def test_a_column_may_be_null_throughout_a_file(tmp_path, people):
    people.with_columns(income=pl.lit(None)).write_parquet(tmp_path / "a.parquet")
    people.write_parquet(tmp_path / "b.parquet")
    both = rows_of(open_source(tmp_path, 1))
    assert both["income"][: people.height].null_count() == people.height
    assert_frame_equal(both[people.height :], people)
    assert both["income"].dtype == pl.Float64


def test_names_of_csv_files_are_no_patterns(tmp_path, people):
    people.write_csv(tmp_path / "a1.csv")
    people[:10].write_csv(tmp_path / "a[1].csv")
    for limit in (None, 1):
        assert open_source(tmp_path / "a[1].csv", limit).starts[-1] == 10


def test_csv_of_another_file_system_is_refused(people):
    import fsspec

    with fsspec.open("memory://bucket/a.csv", "w") as file:
        file.write(people.write_csv())
    with pytest.raises(DataError, match="local files only"):
        open_source("memory://bucket/a.csv")


def test_a_pandas_index_in_a_file_is_dropped(tmp_path, people):
    frame = people.to_pandas()
    frame.index = pd.Index(np.arange(len(frame)) + 7, name="person_id")
    frame.to_parquet(tmp_path / "a.parquet")
    frame.rename_axis(None).to_parquet(tmp_path / "b.parquet")
    for name in ("a.parquet", "b.parquet"):
        for limit in (None, 1):
            assert open_source(tmp_path / name, limit).frame.schema.names == people.columns
        assert source.read_table(pq.read_table(tmp_path / name))[0].column_names == people.columns
    dask = dd.from_pandas(frame, npartitions=2)
    assert source.read_table(dask)[0].column_names == people.columns


def test_csv_that_was_not_meant_so_is_refused(tmp_path, people):
    path = tmp_path / "a.csv"
    people.write_csv(path, include_header=False)
    for limit in (None, 1):
        with pytest.raises(DataError, match="does not name the columns") as error:
            open_source(path, limit)
        assert str(people["age"][0]) not in str(error.value).replace(str(tmp_path), "")
    people.with_columns(pl.col("age").cast(pl.String).replace(people["age"][0], "SECRET")).write_csv(path)
    text = people.with_row_index().with_columns(
        age=pl.when(pl.col("index") == 3).then(pl.lit("SECRET")).otherwise(pl.col("age").cast(pl.String))
    )
    text.drop("index").write_csv(path)
    with pytest.raises(DataError, match=r"'age' is text only for 1 of its 5,000 values") as error:
        open_source(path)
    assert "SECRET" not in str(error.value)
    years = pl.DataFrame({"name": ["a", "b"] * 50, "2020": range(100), "2021": range(100)})
    years.write_csv(path)
    assert open_source(path).starts[-1] == 100
