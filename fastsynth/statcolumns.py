"""One column of a file of SPSS, Stata or SAS as Arrow, and back: values and what the file says of them, no files.

The terms are those of ``fastsynth.statfiles``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from fastsynth.errors import DataError
from fastsynth.statdates import Family, Numbers, from_numbers, temporal_format, to_numbers

Record = dict[str, Any]

# The largest whole number of Stata; readstat writes whole numbers of all sizes as this type.
STATA_LARGEST = 2_147_483_620


def read_column(values: list[Any], record: Record, family: Family) -> tuple[pa.Array, list[Any]]:
    """A column in its type; what it takes to write it back is noted in the record.

    Parameters
    ----------
    values : list of float, int, str or None
        Numbers and tags, or text.
    record : dict
        What the file says of the column; gets ``codes`` (of categories, with their levels) or ``tags`` (with their
        stand-ins).
    family : {"spss", "stata", "sas"}

    Returns
    -------
    array : pyarrow.Array of shape (n_rows,)
    missing : list
        Declared missing values that occur, unless they are levels.
    """
    labels = dict(record.get("value_labels", ()))
    text = record["type"] == "string"
    if text:
        values = [None if value == "" and "" not in labels else value for value in values]
    tags = [] if text else sorted({value for value in values if isinstance(value, str)})
    occurring = set(values) - {None, *tags}
    declared = _declared(occurring, record)
    valid = occurring - declared
    if valid and valid <= labels.keys():
        return _categories(values, {*labels, *occurring, *tags}, record), []
    if text:
        return pa.array(values, pa.string()), []
    if not tags:
        numbers = np.array(values, float)  # None becomes NaN
    else:
        numbers = np.array([np.nan if value is None or isinstance(value, str) else value for value in values], float)
        stand_ins = dict(zip(tags, _stand_ins(numbers, len(tags)), strict=True))
        tagged = [row for row, value in enumerate(values) if isinstance(value, str)]
        numbers[tagged] = [stand_ins[values[row]] for row in tagged]
        record["tags"] = [[code, tag] for tag, code in stand_ins.items()]
        declared |= set(stand_ins.values())
    array = _typed(numbers, record, family)
    if not declared:
        return array, []
    distinct, rows = np.unique(numbers, return_index=True)
    return array, [array[row].as_py() for row in rows[np.isin(distinct, list(declared))].tolist()]


def _declared(codes: Iterable[Any], record: Record) -> set[Any]:
    """Those of some codes that the file declares missing."""
    ranges = record.get("missing_ranges", ())
    if not ranges:
        return set()
    return {code for code in codes if any(limits["lo"] <= code <= limits["hi"] for limits in ranges)}


def _order(code: Any) -> tuple[bool, Any]:
    """Numbers before tags."""
    return isinstance(code, str), code


def _categories(values: list[Any], codes: set[Any], record: Record) -> pa.Array:
    """A column of codes as one of labels, those that are declared missing last."""
    labels = dict(record.get("value_labels", ()))
    text = record["type"] == "string"
    missing = _declared(codes, record) | (set() if text else {code for code in codes if isinstance(code, str)})
    order = sorted(codes, key=lambda code: (code in missing, _order(code)))
    shown = [_show(code, text) for code in order]
    levels = _distinct([labels.get(code, f"missing {word}") for code, word in zip(order, shown, strict=True)], shown)
    record["codes"] = list(zip(order, levels, strict=True))
    index = {code: i for i, code in enumerate(order)}
    indices = pa.array([index.get(value) for value in values], pa.int32())
    return pa.DictionaryArray.from_arrays(indices, pa.array(levels), ordered=record.get("measure") == "ordinal")


def _show(code: Any, text: bool) -> str:
    if isinstance(code, str):
        return code if text else f".{code}"
    return str(int(code)) if float(code).is_integer() else str(code)


def _distinct(labels: Sequence[str], codes: Sequence[str]) -> list[str]:
    """Labels, with the code where several codes have the same one."""
    counts, levels = Counter(labels), list[str]()
    for label, code in zip(labels, codes, strict=True):
        level = label if counts[label] == 1 else f"{label} ({code})"
        while level in levels or (level != label and level in counts):
            level += f" ({code})"
        levels.append(level)
    return levels


def _stand_ins(numbers: Numbers, n: int) -> list[float]:
    """So many whole numbers below 0 and all others; only the size of the least one shows in them."""
    least = float(np.nanmin(numbers, initial=0.0))
    start = -(10.0 ** float(np.ceil(np.log10(1 - least)))) if least < 0 else 0.0
    # Beyond this size neighbouring numbers are more than 1 apart.
    step = 1.0 if start > -(2.0**52) else -start
    return [start - step * (i + 1) for i in range(n)]


def _typed(numbers: Numbers, record: Record, family: Family) -> pa.Array:
    """Numbers, NaN for null, in the type that the file means."""
    null = np.isnan(numbers)
    array = from_numbers(numbers, null, record.get("format", ""), family)
    if array is not None:
        return array
    if record["type"].startswith("int"):
        small = bool((np.abs(numbers[~null]) < 2**31).all())
        return pa.array(np.where(null, 0, numbers).astype(np.int64), mask=null).cast(
            pa.int32() if small else pa.int64()
        )
    if record["type"] == "float" and (numbers.astype(np.float32)[~null] == numbers[~null]).all():
        return pa.array(numbers.astype(np.float32), mask=null)
    return pa.array(numbers, mask=null)


# Writing


def complete_record(record: Record, column: pa.ChunkedArray, family: Family, source: Family | None) -> Record:
    """Record of a column with what its writer needs.

    Parameters
    ----------
    record : dict
        Of the original, empty for a table from elsewhere.
    column : pyarrow.ChunkedArray
    family, source : {"spss", "stata", "sas"}
        What is written, and what the record comes from. Formats of another family are left out.
    """
    dtype = column.type
    if source is not None and source != family:
        if "tags" in record and pa.types.is_temporal(dtype):
            codes = np.array([code for code, _ in record["tags"]])
            dates = from_numbers(codes, np.isnan(codes), record["format"], source)
            again = to_numbers(dates, family).tolist()
            record["tags"] = [[code, tag] for code, (_, tag) in zip(again, record["tags"], strict=True)]
        record = {key: record[key] for key in record if key not in ("format", "informat", "display_width")}
    if pa.types.is_dictionary(dtype) and "codes" not in record:
        levels = column.unify_dictionaries().chunk(0).dictionary.to_pylist() if column.num_chunks else []
        record["codes"] = record["value_labels"] = [[i + 1, str(level)] for i, level in enumerate(levels)]
    whole = pa.types.is_integer(dtype) or pa.types.is_boolean(dtype) or pa.types.is_dictionary(dtype)
    return {"type": "int32" if whole else "", "format": temporal_format(dtype, family)} | record


def write_column(name: str, column: pa.ChunkedArray, record: Record, family: Family) -> pl.Series:
    """A column as the writer takes it: text, numbers, or with tags a mixture.

    Raises
    ------
    DataError
        A level that has no code.
    """
    array = column.unify_dictionaries().combine_chunks()
    tags = set(_tags(record))
    if pa.types.is_dictionary(array.type):
        levels = [None if level is None else str(level) for level in array.to_pylist()]
        if family == "sas":
            return pl.Series(name, [level or "" for level in levels], pl.String)
        code_of = {level: code for code, level in record["codes"]}
        if not set(levels) <= code_of.keys() | {None}:
            raise DataError(f"Column {name!r} has levels that its file had no code for. Write Parquet.")
        values = [None if level is None else code_of[level] for level in levels]
    elif pa.types.is_temporal(array.type):
        null = array.is_null().to_pylist()
        numbers = to_numbers(array, family).tolist()
        values = [None if empty else value for value, empty in zip(numbers, null, strict=True)]
    elif _is_text(array.type):
        values = array.to_pylist()
    else:
        values = [None if value != value else value for value in array.cast(pa.float64(), safe=False).to_pylist()]
    if _is_text(array.type) or record["type"] == "string":
        return pl.Series(name, [value or "" for value in values], pl.String)
    tag_of = dict(record.get("tags", ()))
    values = [tag_of.get(value, value) for value in values]
    if family != "stata":
        values, tags = [None if value in tags else value for value in values], set()
    present = {value for value in values if value is not None and value not in tags}
    integer = family == "stata" and record["type"].startswith("int") and all(abs(x) <= STATA_LARGEST for x in present)
    plain = int if integer else float
    values = [value if value is None or value in tags else plain(value) for value in values]
    return pl.Series(name, values, pl.Object if tags else pl.Int32 if integer else pl.Float64)


def writer_options(column: pl.Series, record: Record, family: Family) -> tuple[dict[str, Any], list[str]]:
    """What the writer is to be told of a column, and what the format cannot hold.

    Parameters
    ----------
    column : polars.Series
        As ``write_column`` gave it.
    record : dict
    family : {"spss", "stata", "sas"}

    Returns
    -------
    options : dict
        Arguments of the writer.
    lost : list of str
    """
    text, tags = column.dtype == pl.String, _tags(record)
    labels: dict[Any, str] = {}
    for code, label in record.get("value_labels", ()):
        if isinstance(code, str) and text == (family == "spss"):
            labels[code] = label
        elif not isinstance(code, str) and not text and (family == "spss" or float(code).is_integer()):
            labels[float(code) if family == "spss" else int(code)] = label
    options = {
        "column_labels": record.get("label"),
        "variable_value_labels": labels if family != "sas" else None,
        "missing_ranges": record.get("missing_ranges") if family == "spss" else None,
        "missing_user_values": tags if family == "stata" and not text else None,
        # The format of text says how long the longest is, which the writer sees.
        "variable_format": record.get("format") if family != "spss" or not text else None,
        "variable_informat": record.get("informat"),
        "variable_measure": record.get("measure"),
        "variable_display_width": record.get("display_width"),
    }
    # Text of categories says what their labels do.
    has_labels = record.get("value_labels") and not (family == "sas" and "codes" in record)
    lost = {
        "value labels": has_labels and not options["variable_value_labels"],
        "declared missing values": record.get("missing_ranges") and not options["missing_ranges"],
        "letters of missing values": tags and not options["missing_user_values"],
    }
    return {key: value for key, value in options.items() if value}, [what for what, is_lost in lost.items() if is_lost]


def _tags(record: Record) -> list[str]:
    """Tags that occur in a column, or have a label."""
    if record.get("type") == "string":
        return []
    pairs = [*record.get("value_labels", ()), *record.get("codes", ())]
    return sorted({code for code, _ in pairs if isinstance(code, str)} | {tag for _, tag in record.get("tags", ())})


def _is_text(dtype: pa.DataType) -> bool:
    return bool(pa.types.is_string(dtype) or pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype))


def is_writable(dtype: pa.DataType) -> bool:
    """Whether these files have something for a type of Arrow."""
    kinds = ("null", "boolean", "integer", "floating", "decimal", "date", "timestamp", "time", "dictionary")
    return _is_text(dtype) or any(getattr(pa.types, f"is_{kind}")(dtype) for kind in kinds)
