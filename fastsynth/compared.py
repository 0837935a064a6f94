"""The original and its copies side by side, read piece by piece: where measures of utility and disclosure begin."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import polars as pl
import pyarrow as pa

from fastsynth.columns import is_numeric, is_text
from fastsynth.copies import FileCopy, Synthesis, executor_of, source_of
from fastsynth.errors import DataError, check_column_list
from fastsynth.execute import Executor
from fastsynth.rules import Design
from fastsynth.source import Source, parse_memory

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """The original and m copies, with the columns that they share, in the types that they share.

    Attributes
    ----------
    sides : tuple of Source
        The original, then the copies.
    schema : pyarrow.Schema
        Columns that are compared, in the order of the original, each with the type in which all sides are read.
    left_out : dict of str to str
        Columns of the original that are not compared, and why.
    design : Design or None
        How the copies were made, where that is known.
    kept : frozenset of str
        Columns that hold original values in every row of the copies.
    executor : Executor
    """

    sides: tuple[Source, ...]
    schema: pa.Schema
    left_out: dict[str, str]
    design: Design | None
    kept: frozenset[str]
    executor: Executor

    @property
    def names(self) -> list[str]:
        """Columns that are compared."""
        names: list[str] = self.schema.names
        return names

    @property
    def n(self) -> int:
        """Rows of the original."""
        return self.sides[0].starts[-1]

    @property
    def k(self) -> int:
        """Rows of a copy."""
        return self.sides[1].starts[-1]

    @property
    def m(self) -> int:
        """Number of copies."""
        return len(self.sides) - 1

    def map(
        self,
        function: Callable[..., Result],
        shared: Any = None,
        columns: Sequence[str] | None = None,
        sides: Sequence[int] | None = None,
    ) -> list[list[Result]]:
        """Run ``function(shared, rows, first)`` on every piece of some sides, by threads or workers.

        Parameters
        ----------
        function : callable
            Gets ``shared``, the rows of a piece as a polars DataFrame, and the number of its first row. A cluster
            needs one of a module.
        columns : list of str, optional
            Columns to read; the default is all that are compared.
        sides : list of int, optional
            0 is the original, i copy i; the default is all.

        Returns
        -------
        list of list
            For each of ``sides``, what the function gave for its pieces, in the order of the rows.
        """
        sides = range(len(self.sides)) if sides is None else sides
        names = self.names if columns is None else list(columns)
        schema = pa.schema([self.schema.field(name) for name in names])
        pieces = [self.sides[side].jobs() for side in sides]
        jobs = [(i, *job) for i, of_side in enumerate(pieces) for job in of_side]
        sources = [self._side(side, names) for side in sides]
        found = iter(self.executor.map(_read_piece, (sources, schema, function, shared), jobs, lambda _, x: x))
        return [[result for _ in of_side for result in next(found)] for of_side in pieces]

    def _side(self, side: int, names: Sequence[str]) -> Source:
        source = self.sides[side]
        return source.without([name for name in source.frame.schema.names if name not in names])

    def frame(self, side: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """All rows of a side."""
        return pl.concat(self.map(_whole, None, columns, [side])[0])


def _whole(_shared: None, rows: pl.DataFrame, _first: int) -> pl.DataFrame:
    return rows


def _read_piece(
    shared: tuple[list[Source], pa.Schema, Callable[..., Result], Any], side: int, piece: int, *held: Any
) -> list[Result]:
    sources, schema, function, what = shared
    first, results = sources[side].starts[piece], []
    for batch in sources[side].batches(piece, *held):
        results.append(function(what, pl.DataFrame(batch.select(schema.names).cast(schema, safe=False)), first))
        first += batch.num_rows
    return results


def open_compared(
    original: Any,
    synthetic: Any,
    *,
    columns: Sequence[str] | None = None,
    threads: int | None = None,
    client: Any = None,
    memory_limit: int | str | None = None,
) -> Compared:
    """Open an original and its copies.

    Parameters
    ----------
    original
        Any table or path that ``synthesize`` reads.
    synthetic : Synthesis, table, path, or list of tables or paths
        Copies; a folder that ``synthesize(out=...)`` wrote is opened as it is. Copies of other systems may have
        categories as text, or whole numbers as fractional ones.
    columns : list of str, optional
        What to compare; the default is all columns that the copies have, but for identifiers, which are made anew.
    threads, client, memory_limit
        As in ``synthesize``.

    Raises
    ------
    DataError
        A copy lacks a column that is asked for, or has a type that cannot be compared with the original's; no copies.
    OptionError
        An unknown column.
    """
    executor, memory = executor_of(threads, client), parse_memory(memory_limit)
    real = source_of(original, client, memory)
    synthesis = as_synthesis(synthetic)
    copies = [source_of(copy, client, memory) for copy in _copies(synthetic if synthesis is None else synthesis)]
    if not copies or any(copy.starts[-1] == 0 for copy in copies) or real.starts[-1] == 0:
        raise DataError("There is nothing to compare: the original and every copy need at least one row.")
    names = real.frame.schema.names
    identifiers = () if synthesis is None else synthesis.identifiers
    if columns is not None:
        columns = check_column_list("columns", columns, names)
    left_out: dict[str, str] = {}
    fields = []
    for name in names:
        if columns is not None and name not in columns:
            left_out[name] = "not asked for"
        elif columns is None and name in identifiers:
            left_out[name] = "identifiers are made anew"
        elif columns is None and any(name not in copy.frame.schema.names for copy in copies):
            left_out[name] = "not in the copies"
        else:
            fields.append(pa.field(name, _common_type(name, real, copies)))
    absent = sum(reason == "not in the copies" for reason in left_out.values())
    if not fields or absent > len(fields):
        raise DataError(
            f"The copies have {len(fields)} of {len(fields) + absent} columns of the original. Are these copies of "
            "this table? Name with columns=[...] what is to be compared."
        )
    return Compared(
        (real, *copies),
        pa.schema(fields),
        left_out,
        None if synthesis is None else synthesis.design,
        frozenset() if synthesis is None else frozenset(synthesis.kept),
        executor,
    )


def as_synthesis(synthetic: Any) -> Synthesis | None:
    """The Synthesis that was given, or that a folder holds; None for other copies."""
    if isinstance(synthetic, Synthesis):
        return synthetic
    if isinstance(synthetic, str | os.PathLike) and Synthesis.is_folder(synthetic):
        return Synthesis.read(synthetic)
    return None


def _copies(synthetic: Any) -> list[Any]:
    """What each copy is read from."""
    if isinstance(synthetic, Synthesis):
        return [copy.paths() if isinstance(copy, FileCopy) else copy for copy in synthetic._copies]
    return list(synthetic) if isinstance(synthetic, list | tuple) else [synthetic]


def _common_type(name: str, real: Source, copies: Sequence[Source]) -> pa.DataType:
    """The original's type, or a wider one where a copy has another."""
    own = real.frame.schema.field(name).type
    for copy in copies:
        if name not in copy.frame.schema.names:
            raise DataError(f"A copy lacks column {name!r}. Name with columns=[...] what is to be compared.")
        other = copy.frame.schema.field(name).type
        if other == own:
            continue
        if is_text(own) and is_text(other):
            own = pa.large_string()
        elif is_numeric(own) and is_numeric(other):
            signed = pa.types.is_signed_integer(own) or pa.types.is_signed_integer(other)
            whole = pa.types.is_integer(own) and pa.types.is_integer(other)
            unsigned = {own, other} & {pa.uint64()}
            own = (pa.int64() if signed else pa.uint64()) if whole and not (signed and unsigned) else pa.float64()
        elif pa.types.is_timestamp(own) and pa.types.is_date(other):
            continue
        elif pa.types.is_date(own) and (pa.types.is_timestamp(other) or pa.types.is_date(other)):
            own = other
        elif not (pa.types.is_temporal(own) and own.id == other.id):
            raise DataError(
                f"Column {name!r} is {own} in the original and {other} in a copy: cast one of them, so that both are "
                "numbers, text or times."
            )
    return own
