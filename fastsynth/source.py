"""Any table in: one that is in memory, or files that are read piece by piece.

Both look the same to the rest: a schema, a number of rows, and pieces, each a run of rows that can be read alone. The
rows of files are numbered in the order of their sorted paths, whatever the size of the pieces.
"""

from __future__ import annotations

import copy
import os
import re
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import narwhals.stable.v2 as nw
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from fsspec.core import url_to_fs
from fsspec.utils import glob_translate
from numpy.typing import NDArray

from fastsynth.errors import DataError, OptionError

if TYPE_CHECKING:
    # Where files are read it is imported inside functions: it loads pandas, which takes as long as all else together.
    import pyarrow.dataset as ds

# Rows read at a time. Never part of the result.
PIECE_ROWS = 1_048_576
# Share of the memory limit up to which files are read as a whole.
WHOLE_SHARE = 0.25
# A column of a CSV file with fewer values that are no numbers was meant to be one of numbers.
FEW_TEXTS = 0.01
FORMATS = {".parquet": "parquet", ".pq": "parquet", ".arrow": "ipc", ".ipc": "ipc", ".feather": "ipc", ".csv": "csv"}
# Files of SPSS, Stata and SAS, which fastsynth.statfiles reads.
STAT_SUFFIXES = (".sav", ".zsav", ".por", ".dta", ".sas7bdat", ".xpt")
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """The caller's kind of table: how to give back what was given.

    Attributes
    ----------
    backend : str
        Name of the table library as narwhals knows it ("polars", "pandas", "pyarrow", ...).
    lazy : bool
    schema : pyarrow.Schema
        Exact types, field and table metadata of the input.
    """

    backend: str
    lazy: bool
    schema: pa.Schema

    def native(self, table: pa.Table) -> Any:
        """Turn an Arrow table into the caller's kind of table."""
        backend: Any = self.backend
        frame = nw.DataFrame.from_arrow(table, backend=backend).to_native()
        if self.backend == "pandas":
            return _restore_objects(frame, table)
        if self.backend == "polars":
            frame = _restore_order(frame, table)
        return frame.lazy() if self.lazy else frame


class Source(Protocol):
    """Rows that can be read in pieces, again and again, by several threads or processes.

    Attributes
    ----------
    frame : Frame
    starts : list of int
        First row of each piece, and the number of all rows.
    """

    frame: Frame
    starts: list[int]

    def without(self, names: Sequence[str]) -> Source:
        """The same rows without some columns."""

    def batches(self, piece: int, *held: Any) -> Iterator[pa.Table]:
        """Read the rows of a piece in their order, about a million at a time."""

    def jobs(self) -> list[tuple[Any, ...]]:
        """Arguments of ``batches`` for all pieces."""


class TableSource:
    """A table in memory."""

    def __init__(self, table: pa.Table, frame: Frame) -> None:
        self.table = table
        self.frame = frame
        self.starts = [*range(0, table.num_rows, PIECE_ROWS), table.num_rows]

    def without(self, names: Sequence[str]) -> TableSource:
        """The same rows without some columns."""
        table = self.table.drop_columns(list(names))
        return TableSource(table, replace(self.frame, schema=table.schema))

    def batches(self, piece: int, *held: Any) -> Iterator[pa.Table]:  # noqa: ARG002
        """Read the rows of a piece."""
        start, stop = self.starts[piece], self.starts[piece + 1]
        yield self.table.slice(start, stop - start)

    def jobs(self) -> list[tuple[Any, ...]]:
        """Arguments of ``batches`` for all pieces."""
        return [(piece,) for piece in range(len(self.starts) - 1)]


class Pieces(list["ds.Fragment"]):
    """Runs of row groups; a list that can say when nobody needs it any more."""


class FileSource:
    """Parquet or Arrow IPC files.

    Parameters
    ----------
    files : pyarrow.dataset.FileSystemDataset

    Attributes
    ----------
    temporary : bool
        Whether the files are temporary ones of this process.
    """

    def __init__(self, files: ds.FileSystemDataset) -> None:
        self.temporary = False
        self.frame = Frame("polars", False, _without_index(files.schema))
        self._schema = files.schema
        self.pieces = Pieces()
        sizes = []
        for fragment in sorted(files.get_fragments(), key=lambda f: f.path):
            _check_columns(fragment, files.schema)
            for part, rows in _split(fragment):
                self.pieces.append(part)
                sizes.append(rows)
        self.starts = [0, *np.cumsum(sizes, dtype=np.int64).tolist()]

    def without(self, names: Sequence[str]) -> FileSource:
        """The same rows without some columns."""
        slim = copy.copy(self)
        left = pa.schema([f for f in self.frame.schema if f.name not in names], self.frame.schema.metadata)
        slim.frame = replace(self.frame, schema=left)
        return slim

    def nbytes(self) -> int:
        """Roughly the memory of all rows as an Arrow table."""
        return int(self.starts[-1]) * sum(bytes_a_value(field.type) + 1 for field in self.frame.schema)

    def table(self) -> pa.Table:
        """Read all rows."""
        tables = [batch for piece in range(len(self.pieces)) for batch in self.batches(piece)]
        return pa.concat_tables([self.frame.schema.empty_table(), *tables])

    def jobs(self) -> list[tuple[Any, ...]]:
        """Arguments of ``batches`` for all pieces."""
        return [(piece,) for piece in range(len(self.starts) - 1)]

    def batches(self, piece: int, *held: Any) -> Iterator[pa.Table]:  # noqa: ARG002
        """Read the rows of a piece in their order, about a million at a time."""
        fragment, schema = self.pieces[piece], self.frame.schema
        try:
            if self.starts[piece + 1] - self.starts[piece] <= 2 * PIECE_ROWS:
                yield fragment.to_table(schema=self._schema, columns=schema.names).cast(schema)
                return
            # A dataset would decode a row group as a whole; a reader of its own does not.
            from pyarrow.dataset import get_partition_keys

            keys = get_partition_keys(fragment.partition_expression)
            for batch in _open_batches(fragment, schema.names):
                table = pa.Table.from_batches([batch])
                for name, value in keys.items():
                    if name not in schema.names:
                        continue
                    column = pa.repeat(pa.scalar(value, schema.field(name).type), len(table))
                    table = table.append_column(schema.field(name), column)
                yield table.select(schema.names).cast(schema)
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"Cannot read {fragment.path!r} ({type(error).__name__}). Is it whole, with the types of the others?"
            ) from None


def _without_index(schema: pa.Schema) -> pa.Schema:
    """A schema without the columns that were a pandas index."""
    index = {name for name in (schema.pandas_metadata or {}).get("index_columns", ()) if isinstance(name, str)}
    if not index & set(schema.names):
        return schema
    # What pandas noted speaks of the index, so it goes with it.
    metadata = {key: value for key, value in (schema.metadata or {}).items() if key != b"pandas"}
    return pa.schema([field for field in schema if field.name not in index], metadata or None)


def _check_columns(fragment: ds.Fragment, schema: pa.Schema) -> None:
    from pyarrow.dataset import get_partition_keys

    here = {*fragment.physical_schema.names, *get_partition_keys(fragment.partition_expression)}
    lacking = [name for name in schema.names if name not in here]
    if lacking:
        raise DataError(
            f"{fragment.path!r} lacks column(s) {', '.join(map(repr, lacking))} that other files have. Give all files "
            "the same columns, or name those that belong together."
        )


def _split(fragment: ds.Fragment) -> Iterator[tuple[ds.Fragment, int]]:
    """Runs of row groups of about PIECE_ROWS rows, with their numbers of rows."""
    if not hasattr(fragment, "row_groups"):
        yield fragment, fragment.count_rows()
        return
    ids: list[int] = []
    rows = 0
    for group in fragment.row_groups:
        if ids and rows + group.num_rows > PIECE_ROWS:
            yield fragment.subset(row_group_ids=ids), rows
            ids, rows = [], 0
        ids.append(group.id)
        rows += group.num_rows
    if rows:
        yield fragment.subset(row_group_ids=ids), rows


def _open_batches(fragment: ds.Fragment, names: list[str]) -> Iterator[pa.RecordBatch]:
    if not hasattr(fragment, "row_groups"):
        yield from fragment.to_batches(batch_size=PIECE_ROWS, columns=names)
        return
    with pq.ParquetFile(fragment.path, filesystem=fragment.filesystem) as file:
        groups = [group.id for group in fragment.row_groups]
        yield from file.iter_batches(PIECE_ROWS, groups, [name for name in names if name in file.schema_arrow.names])


def open_source(data: Any, memory_limit: int | None = None) -> TableSource | FileSource:
    """Any table: in memory if it is there already or takes at most a quarter of the limit, else as files.

    Parameters
    ----------
    data : polars DataFrame or LazyFrame, pandas DataFrame, pyarrow Table, any object with ``__arrow_c_stream__``,
        or path of a file or folder, a glob, or a list of paths
        Files are Parquet, Arrow IPC or CSV; a folder holds one kind, hive partitions (``year=2021/``) become columns.
        Paths may be URIs of a pyarrow file system (``s3://bucket/people/``). Paths come back as polars DataFrames,
        objects that only speak Arrow as pyarrow Tables. A pandas index is dropped.
    memory_limit : int, optional
        Bytes; None reads files as a whole.

    Raises
    ------
    DataError
        For anything else, an unreadable file, duplicate names, and columns that Arrow cannot hold.
    """
    if not _is_path(data):
        return TableSource(*_in_memory(data))
    paths = [os.fspath(path) for path in ([data] if isinstance(data, str | os.PathLike) else data)]
    first = Path(paths[0])
    if len(paths) == 1 and first.suffix.lower() == ".csv" and first.is_file():
        # Text takes about as much memory as what it says.
        whole = memory_limit is None or first.stat().st_size <= WHOLE_SHARE * memory_limit
        if whole:
            table = _read_csv(first)
            return TableSource(table, Frame("polars", False, table.schema))
    source = _open_files(paths)
    if memory_limit is None or source.nbytes() <= WHOLE_SHARE * memory_limit:
        return TableSource(source.table(), source.frame)
    return source


def read_table(data: Any) -> tuple[pa.Table, Frame]:
    """Any table as Arrow, with its kind; ``data`` as in ``open_source``."""
    source = open_source(data)
    assert isinstance(source, TableSource)
    return source.table, source.frame


def available_memory() -> int:
    """Bytes of memory of this machine, or of the container it is."""
    limits = [2**62]
    if hasattr(os, "sysconf"):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):
            continue
    return min(limits)


def parse_memory(limit: int | str | None) -> int:
    """Bytes of a memory limit: a number, or text such as "6 GB"; None is four fifths of what there is.

    Raises
    ------
    OptionError
    """
    if limit is None:
        return available_memory() * 4 // 5
    if isinstance(limit, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", limit)
        if match and match[2].upper() in UNITS and float(match[1]) > 0:
            return int(float(match[1]) * UNITS[match[2].upper()])
    elif isinstance(limit, int | np.integer) and not isinstance(limit, bool) and limit > 0:
        return int(limit)
    raise OptionError(f"memory_limit={limit!r}: must be a positive number of bytes, or text such as '6 GB'.")


def bytes_a_value(dtype: pa.DataType) -> int:
    """Bytes that a value of this type takes in memory, at least."""
    try:
        return -(-int(dtype.bit_width) // 8)
    except ValueError:
        return 8  # text: at least its offset


def spread_rows(n: int, size: int) -> NDArray[np.int64]:
    """Numbers of at most ``size`` of n rows, spread evenly."""
    return np.unique(np.linspace(0, n - 1, size).astype(np.int64))


# Files


def _is_path(data: Any) -> bool:
    if isinstance(data, str | os.PathLike):
        return True
    return isinstance(data, list | tuple) and bool(data) and all(isinstance(path, str | os.PathLike) for path in data)


def _open_files(paths: list[str]) -> FileSource:
    files = [file for path in paths for file in _expand(path)]
    suffixes = {Path(path).suffix.lower() for _, path, _ in files}
    kinds = {FORMATS.get(suffix) for suffix in suffixes}
    if len(kinds) > 1:
        raise DataError(f"Files of several kinds ({', '.join(sorted(suffixes))}) in one table. Name those of one kind.")
    if suffixes & set(STAT_SUFFIXES):
        raise DataError(
            f"{Path(files[0][1]).name!r} is read by fastsynth.statfiles.read_statfile(path).table, and by the command "
            "line, one file at a time."
        )
    if None in kinds:
        raise DataError(
            f"Cannot tell the format of {Path(files[0][1]).name!r}: allowed are {', '.join(FORMATS)}, "
            "and folders and globs of them."
        )
    import pyarrow.dataset as ds

    system, _, base = files[0]
    names = [path for _, path, _ in files]
    kind = kinds.pop()
    _check_paths(files, kind)
    try:
        if kind == "csv":
            return _convert_csv(names)
        options = ds.FileSystemFactoryOptions(partition_base_dir=base) if base else ds.FileSystemFactoryOptions()
        if base:
            options.partitioning_factory = ds.HivePartitioning.discover()
        form = ds.ParquetFileFormat() if kind == "parquet" else ds.IpcFileFormat()
        factory = ds.FileSystemDatasetFactory(system, sorted(names), form, options)
        schema = factory.inspect(fragments=None)
        check_names(schema.names)
        return FileSource(factory.finish(schema))
    except DataError:
        raise
    except pa.ArrowTypeError:
        raise _other_types(form, system, sorted(names)) from None
    except Exception as error:
        # Parsers quote the cell they stumble on, so their message is not passed on.
        where = f"{names[0]!r}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
        raise DataError(f"Cannot read {where} as {kind} ({type(error).__name__}). Is the file whole?") from None


def _other_types(form: ds.FileFormat, system: pafs.FileSystem, names: list[str]) -> DataError:
    """Name the first file and column whose type is not that of the files before."""
    types: dict[str, pa.DataType] = {}
    for name in names:
        for field in form.inspect(name, system):
            known = types.setdefault(field.name, field.type)
            if pa.types.is_null(known):
                types[field.name] = field.type
            elif field.type not in (known, pa.null()):
                return DataError(
                    f"Column {field.name!r} is {field.type} in {name!r} and {known} in files before it. Give it one "
                    "type."
                )
    return DataError(f"Files from {names[0]!r} on have columns of one name and different types.")


def _check_paths(files: list[tuple[pafs.FileSystem, str, str | None]], kind: str | None) -> None:
    """Refuse files that would be read twice, or without the columns that are in the names of their folders."""
    names = [path for _, path, _ in files]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{twice[0]!r} would be read more than once: the paths name it more than once.")
    if any(system != files[0][0] for system, _, _ in files):
        raise DataError("The paths belong to different file systems. Bring the files to one.")
    if kind == "csv" and not isinstance(files[0][0], pafs.LocalFileSystem):
        raise DataError("CSV is read from local files only. Convert it to Parquet, or copy it.")
    partitioned = [name for name in names if "=" in name.rpartition("/")[0]]
    bases = {base for _, _, base in files}
    if partitioned and (kind == "csv" or len(bases) > 1 or (bases == {None} and len(names) > 1)):
        raise DataError(
            f"{partitioned[0]!r} is in a folder that names a column and its value: such columns are read from Parquet "
            "and Arrow files below one folder. Give that folder, or a glob in quotes."
        )


def _expand(path: str) -> list[tuple[pafs.FileSystem, str, str | None]]:
    """Files that a path, folder or glob stands for: file system, path, and folder that partitions start from."""
    try:
        system, inside = filesystem(path)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise DataError(f"Cannot open {path!r} ({type(error).__name__}). Give a path, or the URI of a file.") from None
    info = system.get_file_info(inside)
    if info.type == pafs.FileType.File:
        return [(system, inside, None)]
    if info.type == pafs.FileType.Directory:
        base, pattern = inside, None
    elif any(mark in inside for mark in "*?["):
        base = inside[: re.search(r"[*?\[]", inside).start()].rpartition("/")[0]  # type: ignore[union-attr]
        pattern = re.compile(glob_translate(inside))
    else:
        raise DataError(f"No file {path!r}. Give the path of Parquet, Arrow IPC or CSV files.")
    selector = pafs.FileSelector(base, recursive=True, allow_not_found=True)
    files = [
        item.path
        for item in system.get_file_info(selector)
        if item.type == pafs.FileType.File
        and not any(part[0] in "._" for part in item.path[len(base) :].split("/") if part)
        and (pattern is None or pattern.fullmatch(item.path))
    ]
    if pattern is None:
        files = [file for file in files if Path(file).suffix.lower() in FORMATS]
    if not files:
        raise DataError(f"No file in {path!r}. Give the path of Parquet, Arrow IPC or CSV files.")
    return [(system, file, base) for file in sorted(files)]


def filesystem(path: str) -> tuple[pafs.FileSystem, str]:
    """File system of a path or URI, and the path within it. Systems that pyarrow lacks are looked up by fsspec."""
    if "://" not in path:
        return pafs.LocalFileSystem(), os.path.abspath(path)
    try:
        system, inside = pafs.FileSystem.from_uri(path)
    except pa.ArrowInvalid:
        remote, inside = url_to_fs(path)
        system = pafs.PyFileSystem(pafs.FSSpecHandler(remote))
    return system, inside.rstrip("/")


def _read_csv(path: Path) -> pa.Table:
    try:
        # All rows decide the types, so that the result does not depend on which come first.
        frame = pl.read_csv(path, infer_schema_length=None, glob=False, try_parse_dates=True)
        _check_csv(frame.lazy())
        return frame.to_arrow()
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"Cannot read {str(path)!r} as csv ({type(error).__name__}). Is the file whole?") from None


def _convert_csv(paths: list[str]) -> FileSource:
    """CSV is read once, into temporary Parquet files: it has no types, and no piece of it can be read alone."""
    import pyarrow.dataset as ds

    frame = pl.scan_csv(sorted(paths), infer_schema_length=None, glob=False, try_parse_dates=True)
    _check_csv(frame)
    folder = tempfile.mkdtemp(prefix="fastsynth-")
    try:
        _write_batches(frame, Path(folder) / "table.parquet")
        source = FileSource(ds.dataset(folder, format="parquet"))
        source.temporary = True
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    # A source without some columns shares the pieces: the files go with the last of them.
    weakref.finalize(source.pieces, shutil.rmtree, folder, ignore_errors=True)
    return source


def _write_batches(frame: pl.LazyFrame, path: Path) -> None:
    """Write batch by batch: a sink would go on after an interruption, and leave its file behind."""
    schema = frame.collect_schema().to_frame().to_arrow().schema
    with (
        open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file,
        pq.ParquetWriter(file, schema, compression="lz4") as writer,
    ):
        for batch in frame.collect_batches(chunk_size=PIECE_ROWS, engine="streaming"):
            writer.write_table(batch.to_arrow().cast(schema), row_group_size=PIECE_ROWS)


def _check_csv(frame: pl.LazyFrame) -> None:
    """Refuse what was read without an error but surely not as meant."""
    advice = "Read it with polars.read_csv and the options that it needs, and pass the frame."
    schema = frame.collect_schema()
    columns = schema.names()
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t|"):
        raise DataError(f"The file has one column: it is not separated by commas. {advice}")
    again = [name for name in columns if re.sub(r"_duplicated_\d+$", "", name) in set(columns) - {name}]
    if again:
        raise DataError(f"The file uses the column name(s) before {', '.join(map(repr, again))} more than once.")
    text = [name for name, dtype in schema.items() if dtype == pl.String]
    numbers = [name for name, dtype in schema.items() if dtype.is_numeric()]
    counts = frame.select(
        pl.len().alias("rows"),
        *(pl.col(name).min().cast(pl.Float64).alias(f"least {name}") for name in numbers),
        *(pl.col(name).max().cast(pl.Float64).alias(f"most {name}") for name in numbers),
        *((pl.col(name) == "NA").sum().alias(f"marks {name}") for name in text),
        *(pl.col(name).null_count().alias(f"nulls {name}") for name in text),
        *(
            pl.col(name).replace("NA", None).cast(pl.Float64, strict=False).null_count().alias(f"none {name}")
            for name in text
        ),
    ).collect(engine="streaming")
    if numbers and all(_is_between(name, *counts[f"least {name}", f"most {name}"].row(0)) for name in numbers):
        raise DataError(
            f"The first row does not name the columns: {len(numbers)} of them would be called by a number that is one "
            "of their values. Add a row of names, or read the file with polars.read_csv(..., has_header=False)."
        )
    for name in text:
        n_marks = counts[f"marks {name}"].item()
        n_text = counts[f"none {name}"].item() - counts[f"nulls {name}"].item() - n_marks
        n_given = counts["rows"].item() - counts[f"nulls {name}"].item()
        if 0 < n_text + n_marks < FEW_TEXTS * n_given:
            raise DataError(
                f"Column {name!r} is text only for {n_text + n_marks:,} of its {n_given:,} values; the others are "
                f"numbers. Correct them, or say what they mean. {advice}"
            )
        if n_marks and counts[f"none {name}"].item() == counts[f"nulls {name}"].item() + n_marks:
            raise DataError(f"Column {name!r} is text only for its {n_marks:,} 'NA'. {advice[:-1]}: null_values='NA'.")


def _is_between(name: str, least: float | None, most: float | None) -> bool:
    try:
        return least is not None and most is not None and least <= float(name) <= most
    except ValueError:
        return False


# Tables in memory


def _in_memory(data: Any) -> tuple[pa.Table, Frame]:
    if type(data).__module__.startswith("dask."):
        data = data.compute()  # without a client its partitions come together here, as pandas
    check_names(_names(data))
    if isinstance(data, Mapping | list | np.ndarray) or not (_is_table(data) or hasattr(data, "__arrow_c_stream__")):
        raise DataError(
            f"Cannot read a {type(data).__name__} as a table. Allowed are polars, pandas and pyarrow tables, anything "
            "with __arrow_c_stream__, and the path of Parquet, Arrow IPC or CSV files."
        )
    try:
        table, backend, lazy = _to_arrow(data)
    except Exception:
        # The library's own message may quote values of the table.
        raise _unreadable(data) from None
    check_names(table.column_names)
    schema = _without_index(table.schema)
    if schema is not table.schema:
        table = table.select(schema.names).replace_schema_metadata(schema.metadata)
    return table, Frame(backend, lazy, table.schema)


def _is_table(data: Any) -> bool:
    return isinstance(nw.from_native(data, pass_through=True), nw.DataFrame | nw.LazyFrame)


def _to_arrow(data: Any) -> tuple[pa.Table, str, bool]:
    """The table, the name of its library, and whether it was lazy."""
    native = nw.from_native(data, pass_through=True)
    if isinstance(native, nw.LazyFrame):
        frame = native.collect()
        if frame.implementation.is_pandas():
            return pa.Table.from_pandas(frame.to_native(), preserve_index=False), "pandas", False
        return frame.to_arrow(), str(frame.implementation), isinstance(data, pl.LazyFrame)
    if isinstance(native, nw.DataFrame):
        if native.implementation.is_pandas():
            return pa.Table.from_pandas(data, preserve_index=False), "pandas", False
        return native.to_arrow(), str(native.implementation), False
    return pa.table(data), "pyarrow", False


def _names(data: Any) -> list[Any]:
    """Column names of an eager table, of whatever library."""
    if isinstance(data, pl.LazyFrame):
        return []
    return list(getattr(data, "column_names", getattr(data, "columns", ())))


def _unreadable(data: Any) -> DataError:
    """Name the columns that Arrow cannot hold, without quoting a value."""
    bad = []
    for name in _names(data):
        try:
            nw.from_native(data[[name]]).to_arrow()
        except Exception as error:
            bad.append(f"{name!r} ({getattr(data[name], 'dtype', 'unknown type')}: {type(error).__name__})")
    if not bad:
        return DataError(f"Cannot convert the {type(data).__name__} to an Arrow table. Pass a table, or a path to one.")
    where = f"column(s) {', '.join(bad)}"
    return DataError(
        f"Cannot convert {where} to Arrow. A column must hold one type of plain values: numbers, text, categories, "
        "booleans, dates, times. Convert it or drop it."
    )


def check_names(names: list[Any]) -> None:
    """Refuse column names that are no text or used twice."""
    other = [name for name in names if not isinstance(name, str) or not name]
    if other:
        raise DataError(
            f"Column name(s) {', '.join(map(repr, other))} are no text. Rename them, e.g. to 'c0', 'c1', ..."
        )
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise DataError(f"Column name(s) used more than once: {', '.join(map(repr, twice))}. Rename or drop them.")


def _restore_order(frame: pl.DataFrame, table: pa.Table) -> pl.DataFrame:
    """Give ordered categories of other libraries the polars type that keeps an order."""
    ordered = [
        field.name
        for field in table.schema
        if pa.types.is_dictionary(field.type) and field.type.ordered and frame.schema[field.name] == pl.Categorical
    ]
    for name in ordered:
        levels = table.column(name).unify_dictionaries()
        categories = levels.chunk(0).dictionary.to_pylist() if levels.num_chunks else []
        frame = frame.with_columns(pl.col(name).cast(pl.String).cast(pl.Enum(categories)))
    return frame


def _restore_objects(frame: Any, table: pa.Table) -> Any:
    """Give pandas columns of dtype object back as such; Arrow remembers every other dtype."""
    metadata = table.schema.pandas_metadata or {}
    wanted = {column["name"] for column in metadata.get("columns", ()) if column["numpy_type"] == "object"}
    for name in wanted & set(frame.columns):
        if frame[name].dtype != object:
            frame[name] = type(frame[name])(table[name].to_pylist(), dtype=object)
    return frame
