"""Files of SPSS, Stata and SAS as Arrow tables that keep what these files say about their columns, and back.

Terms
-----
tag
    A missing value of Stata or SAS that has a letter (``.a``, ``.Z``). In a number it is held by a *stand-in*: a number
    below all others of the column.
record
    What the file says of a column: label, value labels, declared missing values, format, ... Each entry is JSON in the
    metadata of its Arrow field, under ``fastsynth.`` and its name; what is said of the file is in the schema's.

Values are the numbers that the file holds; pyreadstat never turns them into dates. A column becomes one of dates, times
or categories only if the same numbers come back from it.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from fastsynth.errors import DataError, FastsynthError, OutputError
from fastsynth.source import STAT_SUFFIXES, check_names
from fastsynth.statcolumns import Record, complete_record, is_writable, read_column, write_column, writer_options
from fastsynth.statdates import Family

# Arguments of the writer, each by column.
_Options = defaultdict[str, dict[str, Any]]

FAMILIES: dict[str, Family] = {".sav": "spss", ".zsav": "spss", ".por": "spss", ".dta": "stata"}
FAMILIES |= {".sas7bdat": "sas", ".xpt": "sas"}
# Names that pyreadstat has for the formats; those of the writer are the suffixes, but for these.
PARSERS = {".sav": "sav/zsav", ".zsav": "sav/zsav", ".xpt": "xport"}
WRITERS = {".zsav": "sav", ".xpt": "xport"}
WRITABLE = tuple(suffix for suffix in STAT_SUFFIXES if suffix != ".sas7bdat")
PREFIX = b"fastsynth."


@dataclass(frozen=True, slots=True, eq=False)
class StatFile:
    """A file that was read.

    Attributes
    ----------
    table : pyarrow.Table
        Records of the columns are in the metadata of its fields.
    missing : dict of str to list
        For each column of numbers or dates with declared missing values those that occur, as values of the column: what
        ``Column(cont_na=...)`` takes. In categories they are levels, and do not stand here.
    """

    table: pa.Table
    missing: dict[str, list[Any]]


def read_statfile(path: str | os.PathLike[str], encoding: str | None = None) -> StatFile:
    """Read a file of SPSS (.sav, .zsav, .por), Stata (.dta) or SAS (.sas7bdat, .xpt).

    A column becomes a category if all its values have a label, leaving aside those that are declared missing: the
    labels in the order of the codes, and after them a level for each declared missing value; ordered if the file says
    so. Other columns stay numbers or text, blank text is null, and numbers with a format of dates or times become such.

    Parameters
    ----------
    path : path
    encoding : str, optional
        Of text, where the file does not say it, or says another one.

    Returns
    -------
    StatFile

    Raises
    ------
    DataError
        No such file, a suffix that is not allowed, or a file that cannot be read.
    FastsynthError
        pyreadstat is not installed.
    """
    path = Path(path)
    suffix = _suffix(path, STAT_SUFFIXES)
    if not path.is_file():
        raise DataError(f"No file {str(path)!r}.")
    data, meta = _parse(path, suffix, encoding)
    check_names(list(data))
    fields, arrays, missing = [], [], {}
    for name, values in data.items():
        record = _describe(meta, name)
        array, codes = read_column(values, record, FAMILIES[suffix])
        fields.append(pa.field(name, array.type, metadata=_pack(record)))
        arrays.append(array)
        if codes:
            missing[name] = codes
    said = {name: getattr(meta, name) for name in ("file_label", "notes", "table_name")}
    said |= {"suffix": suffix, "sets": list(meta.mr_sets)}
    return StatFile(pa.table(arrays, pa.schema(fields, _pack(said))), missing)


def write_statfile(table: pa.Table, path: str | os.PathLike[str]) -> list[str]:
    """Write a table that ``read_statfile`` gave, or a synthetic copy of it, with all that the file said of its columns.

    Tables from elsewhere, and other formats than that of the original, are written as far as the format allows.

    Parameters
    ----------
    table : pyarrow.Table
    path : path
        Ends in .sav, .zsav, .por, .dta or .xpt; a file that is there is replaced. It is there as a whole or not at all.

    Returns
    -------
    list of str
        What the format cannot hold and was left out, such as "value labels of 'age', 'sex'".

    Raises
    ------
    DataError
        A suffix that is not allowed (nothing writes .sas7bdat: take .xpt), or a name, type or value that the format
        cannot hold.
    OutputError
        The file cannot be written.
    """
    path = Path(path)
    suffix = _suffix(path, WRITABLE)
    check_writable(table.schema, suffix)
    family, said = FAMILIES[suffix], _unpack(table.schema.metadata)
    source = FAMILIES.get(said.get("suffix", ""))
    series, options, lost = [], _Options(dict), defaultdict[str, list[str]](list)
    for name, column in zip(table.column_names, table.columns, strict=True):
        record = complete_record(_unpack(table.field(name).metadata), column, family, source)
        # Names in .por are upper case; pyreadstat writes them so, and then looks for what is said of them.
        written = write_column(name.upper() if suffix == ".por" else name, column, record, family)
        of_column, not_held = writer_options(written, record, family)
        for option, value in of_column.items():
            options[option][written.name] = value
        for what in not_held:
            lost[what].append(repr(name))
        series.append(written)
    _write(pl.DataFrame(series), path, suffix, said, options)
    if said.get("sets"):
        lost["multiple response sets"] = list(map(repr, said["sets"]))
    if said.get("notes") and suffix not in (".sav", ".zsav"):
        lost["notes"] = ["the file"]
    return [f"{what} of {', '.join(names)}" for what, names in lost.items()]


def check_writable(schema: pa.Schema, suffix: str) -> None:
    """Refuse names and types that no file with this suffix can hold.

    Raises
    ------
    DataError
    """
    names = [name for name in schema.names if not re.match(r"[^\W\d]", name) or " " in name]
    if names:
        raise DataError(
            f"Column name(s) {', '.join(map(repr, names))} cannot be written to {suffix}: names start with a letter "
            "and have no spaces. Rename them, or write Parquet."
        )
    types = [f"{field.name!r} ({field.type})" for field in schema if not is_writable(field.type)]
    if types:
        raise DataError(f"Column(s) {', '.join(types)} cannot be written to {suffix}. Convert them, or write Parquet.")


# Reading


def _parse(path: Path, suffix: str, encoding: str | None) -> tuple[dict[str, list[Any]], Any]:
    """Columns as lists of numbers, text, tags and None; and what the file says of them."""
    try:
        # The public functions only pass on to this one, but those for .xpt and .por hide user_missing.
        from pyreadstat._readstat_parser import parser_entry_point
    except ImportError:
        raise _no_pyreadstat() from None
    options = {"user_missing": True, "disable_datetime_conversion": True, "output_format": "dict"}
    try:
        data, meta = parser_entry_point(str(path), PARSERS.get(suffix, suffix[1:]), encoding=encoding, **options)
    except Exception as error:
        # Its message may quote a value.
        raise DataError(
            f"Cannot read {str(path)!r} ({type(error).__name__}). Is the file whole? Its text may be in another "
            "encoding than it says: read_statfile(path, encoding='cp1252')."
        ) from None
    return data, meta


def _describe(meta: Any, name: str) -> Record:
    """Record of a column; pairs instead of dicts because keys of JSON are text."""
    record = {
        "type": meta.readstat_variable_types[name],
        "label": meta.column_names_to_labels[name],
        "value_labels": list(meta.variable_value_labels.get(name, {}).items()),
        "missing_ranges": meta.missing_ranges.get(name),
        "format": meta.original_variable_types[name],
        "informat": meta.original_variable_informats[name],
        "measure": meta.variable_measure[name],
        "display_width": meta.variable_display_width[name],
    }
    return {key: value for key, value in record.items() if value and value not in ("unknown", "undetermined")}


# Writing


def _write(frame: pl.DataFrame, path: Path, suffix: str, said: Record, options: _Options) -> None:
    try:
        # As for reading: the public function for .por hides value labels and declared missing values.
        from pyreadstat import PyreadstatError, ReadstatError
        from pyreadstat._readstat_writer import writer_entry_point
    except ImportError:
        raise _no_pyreadstat() from None
    whole: Record = {"file_label": said.get("file_label", "")}
    special: dict[str, Record] = {
        ".sav": {"row_compress": True, "note": said.get("notes")},
        ".zsav": {"compress": True, "note": said.get("notes")},
        ".dta": {"version": 14},
        ".xpt": {"version": 8, "table_name": said.get("table_name")},
    }
    whole |= special.get(suffix, {})
    temporary = path.with_name(f".unfinished-{secrets.token_hex(4)}{suffix}")
    try:
        temporary.touch()
        writer_entry_point(frame, str(temporary), WRITERS.get(suffix, suffix[1:]), **whole, **options)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"Cannot write {str(path)!r} ({type(error).__name__}).") from None
    except ReadstatError as error:
        # Its messages are fixed texts: they quote nothing.
        raise DataError(f"Cannot write {str(path)!r}: {error}. Another format may hold it, such as Parquet.") from None
    except PyreadstatError:
        raise DataError(f"Cannot write {str(path)!r}: pyreadstat refuses a column. Write Parquet.") from None
    finally:
        temporary.unlink(missing_ok=True)


# Both


def _suffix(path: Path, allowed: Sequence[str]) -> str:
    suffix = path.suffix.lower()
    if suffix not in allowed:
        instead = " SAS reads .xpt as well." if suffix == ".sas7bdat" else ""
        raise DataError(f"{path.name!r} does not end in {', '.join(allowed)}.{instead}")
    return suffix


def _no_pyreadstat() -> FastsynthError:
    return FastsynthError("Files of SPSS, Stata and SAS need pyreadstat: pip install 'fastsynth[stat]'.")


def _pack(record: Record) -> dict[bytes, bytes]:
    """A record as metadata of Arrow."""
    return {PREFIX + key.encode(): json.dumps(value).encode() for key, value in record.items() if value}


def _unpack(metadata: Mapping[bytes, bytes] | None) -> Record:
    """The record in metadata of Arrow."""
    own = {key: value for key, value in (metadata or {}).items() if key.startswith(PREFIX)}
    return {key.removeprefix(PREFIX).decode(): json.loads(value) for key, value in own.items()}
