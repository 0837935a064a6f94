"""Coding of columns before anything is learned of them: extremes to a limit, rare levels to one level or to null.

What is coded away is in no model and so in no copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from fastsynth.columns import is_text
from fastsynth.errors import DataError, OptionError, check_count
from fastsynth.execute import Executor
from fastsynth.source import Source, TableSource


@dataclass(frozen=True, slots=True)
class Coding:
    """How one column is coded.

    Attributes
    ----------
    low, high : number, date or None
        Values beyond become these.
    except_for : tuple
        Values that are no values but kinds of missing.
    levels : frozenset of str or bool
        Rare levels.
    into : str, bool or None
        What they become.
    """

    low: Any = None
    high: Any = None
    except_for: tuple[Any, ...] = ()
    levels: frozenset[Any] = frozenset()
    into: Any = None

    def apply(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        """The column, coded, in its exact type."""
        if self.levels:
            return pa.chunked_array([self._merge(chunk) for chunk in column.chunks], column.type)
        if self.low is None and self.high is None:
            return column
        values = pl.Series(column)
        coded = values.clip(self.low, self.high)
        if self.except_for:
            coded = coded.zip_with(
                ~values.is_in(pl.Series(list(self.except_for), dtype=values.dtype, strict=False).implode()).fill_null(
                    False
                ),
                values,
            )
        return pa.chunked_array([coded.to_arrow().cast(column.type)])

    def _merge(self, chunk: pa.Array) -> pa.Array:
        rare = pa.array(sorted(self.levels))
        if not pa.types.is_dictionary(chunk.type):
            # Arrow has no functions for views of text.
            text = chunk.cast(pa.large_string())
            merged = pc.if_else(pc.is_in(text, rare.cast(text.type)), pa.scalar(self.into, text.type), text)
            return merged.cast(chunk.type)
        # Rare levels go from the list of levels, too: it is in every copy.
        known = chunk.dictionary.cast(pa.large_string())
        is_rare = pc.is_in(known, rare.cast(known.type)).to_numpy(zero_copy_only=False)
        new = np.cumsum(~is_rare) - 1
        known = known.filter(pa.array(~is_rare))
        place = pc.index(known, pa.scalar(self.into, known.type)).as_py() if self.into is not None else 0
        if place < 0:
            known, place = pa.concat_arrays([known, pa.array([self.into], known.type)]), len(known)
        indices = chunk.indices.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
        rare_rows = np.append(is_rare, False)[indices]
        missing = (indices < 0) | (rare_rows if self.into is None else False)
        indices = pa.array(np.where(rare_rows, place, np.append(new, 0)[indices]), mask=missing)
        known = known.cast(chunk.type.value_type)
        return pa.DictionaryArray.from_arrays(indices.cast(chunk.type.index_type), known, ordered=chunk.type.ordered)


class CodedSource:
    """A source whose columns are coded as they are read."""

    def __init__(self, source: Source, codings: Mapping[str, Coding]) -> None:
        self.source = source
        self.codings = codings
        self.frame = replace(source.frame, schema=_coded_schema(source.frame.schema, codings))
        self.starts = source.starts

    def without(self, names: Sequence[str]) -> Source:
        """The same rows without some columns."""
        left = {name: coding for name, coding in self.codings.items() if name not in names}
        return CodedSource(self.source.without(names), left)

    def jobs(self) -> list[tuple[Any, ...]]:
        """Arguments of ``batches`` for all pieces."""
        return self.source.jobs()

    def batches(self, piece: int, *held: Any) -> Iterator[pa.Table]:
        """Read the rows of a piece in their order."""
        for batch in self.source.batches(piece, *held):
            yield _coded(batch, self.codings, self.frame.schema)


def _coded(table: pa.Table, codings: Mapping[str, Coding], schema: pa.Schema) -> pa.Table:
    columns = [
        codings[name].apply(column) if name in codings else column
        for name, column in zip(table.column_names, table.columns, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _coded_schema(schema: pa.Schema, codings: Mapping[str, Coding]) -> pa.Schema:
    """The schema with lists of levels (of polars' Enum) that no longer have the rare ones."""
    for name, coding in codings.items():
        place = schema.get_field_index(name)
        enum = pl.DataFrame(schema.empty_table().select([name])).schema[name]
        if coding.levels and isinstance(enum, pl.Enum):
            kept = pl.Enum([level for level in enum.categories.to_list() if level not in coding.levels])
            schema = schema.set(place, pl.Series(name, [], kept).to_frame().to_arrow().schema.field(0))
    return schema


def coded(source: Source, codings: Mapping[str, Coding]) -> Source:
    """The source with coded columns; a table in memory is coded at once."""
    if not codings:
        return source
    if isinstance(source, TableSource):
        schema = _coded_schema(source.frame.schema, codings)
        return TableSource(_coded(source.table, codings, schema), replace(source.frame, schema=schema))
    return CodedSource(source, codings)


def find_codings(
    source: Source,
    limits: Mapping[str, tuple[Any, Any]],
    rare: Mapping[str, tuple[int, Any]],
    missing: Mapping[str, Sequence[Any]],
    executor: Executor,
) -> tuple[dict[str, Coding], dict[str, int]]:
    """How columns are coded, and how many rows of each that changes. One pass over files, if there is anything to do.

    Parameters
    ----------
    limits : dict of str to (low, high)
    rare : dict of str to (fewer_than, level)
        Levels of fewer rows become this one. Where they are too few together, so do the next rarest.
    missing : dict of str to list
        Values that are no values but kinds of missing.

    Raises
    ------
    OptionError
        Limits of another type than the column, rare levels of a column that has none, or a level that it cannot have.
    """
    codings = {name: _limits(source, name, bounds, tuple(missing.get(name, ()))) for name, bounds in limits.items()}
    schema = source.frame.schema
    for name in rare:
        if not is_text(schema.field(name).type):
            raise OptionError(f"Column {name!r} is {schema.field(name).type} without levels: rare_levels is for text.")
    if not codings and not rare:
        return {}, {}
    pieces = executor.map(_count, (source, codings, tuple(rare)), source.jobs(), lambda _, found: found)
    changed = {name: sum(beyond[name] for beyond, _ in pieces) for name in codings}
    for name, (fewer_than, into) in rare.items():
        levels: Counter[Any] = Counter()
        for _, counts in pieces:
            levels.update(counts[name])
        codings[name] = _merging(source, name, levels, fewer_than, into)
        changed[name] = int(sum(levels[level] for level in codings[name].levels))
    return codings, changed


def check_rare(given: Any) -> tuple[int, Any]:
    """``rare_levels`` as a pair."""
    if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 2:
        raise OptionError(
            f"rare_levels={given!r}: must be a pair (fewer_than, level), for example (10, 'other'), or (10, None) to "
            "hold such values back."
        )
    if given[1] is not None and not isinstance(given[1], str):
        raise OptionError(f"rare_levels={given!r}: the level must be text, or None.")
    return check_count("rare_levels[0]", given[0]), given[1]


def _limits(source: Source, name: str, bounds: tuple[Any, Any], missing: tuple[Any, ...]) -> Coding:
    coding = Coding(*bounds, missing)
    field = source.frame.schema.field(name)
    try:
        wrong = isinstance(coding.low, bool | str) or isinstance(coding.high, bool | str)
        values = pl.Series(pa.chunked_array([pa.nulls(1, field.type)]))
        wrong |= not (values.dtype.is_numeric() or values.dtype.is_temporal())
        for limit in (coding.low, coding.high):
            # What the type cannot hold would not be a value of the column.
            wrong |= limit is not None and pa.scalar(limit, field.type).as_py() != limit
        coding.apply(pa.chunked_array([pa.nulls(1, field.type)]))
    except (pa.ArrowException, pl.exceptions.PolarsError, TypeError, ValueError, OverflowError):
        wrong = True
    if wrong:
        raise OptionError(
            f"Column {name!r} is {field.type}: coding needs two numbers or dates that it can hold, or None."
        )
    return coding


def _count(
    shared: tuple[Source, dict[str, Coding], tuple[str, ...]], piece: int, *held: Any
) -> tuple[dict[str, int], dict[str, Counter[Any]]]:
    source, codings, rare = shared
    beyond, levels = Counter[str](), {name: Counter[Any]() for name in rare}
    for batch in source.batches(piece, *held):
        for name, coding in codings.items():
            column = batch.column(name)
            beyond[name] += int((pl.Series(column) != pl.Series(coding.apply(column))).sum())
        for name in rare:
            found = pl.Series("level", batch.column(name)).cast(pl.String).drop_nulls().value_counts()
            levels[name].update(dict(zip(found["level"], found["count"], strict=True)))
    return dict(beyond), levels


def _merging(source: Source, name: str, levels: Counter[Any], fewer_than: int, into: Any) -> Coding:
    field = source.frame.schema.field(name)
    enum = (field.metadata or {}).get(b"_PL_ENUM_VALUES2") is not None
    ordered = pa.types.is_dictionary(field.type) and (enum or field.type.ordered)
    if ordered and into is not None and into not in levels:
        raise OptionError(
            f"Column {name!r} has ordered levels, and {into!r} is none of them that occurs: rare_levels needs one that "
            "does, or None to hold such values back."
        )
    by_rows = sorted((level for level in levels if level != into), key=lambda level: (levels[level], level))
    rare = [level for level in by_rows if levels[level] < fewer_than]
    together = sum(levels[level] for level in rare) + levels[into]
    if into is not None:
        for level in by_rows[len(rare) :]:
            if not rare or together >= fewer_than:
                break
            rare.append(level)
            together += levels[level]
    if rare and len(rare) == len(levels) and into is None:
        raise DataError(
            f"Column {name!r} has only levels of fewer than {fewer_than} rows: nothing would be left. Drop it."
        )
    return Coding(levels=frozenset(rare), into=into)
