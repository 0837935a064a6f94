"""Counts of rows by key combination and target level, of an original and its copies, added up over pieces.

Terms
-----
combination
    The values of a row in the key columns, q; nulls are values like any other.
level
    A value of a target column, t.
cell
    The rows of a table with one combination and one level.

Combinations and levels are numbered in the order in which they first come, those of the original first: a copy's
numbers go on where the original's end. So the numbers, and all that is computed in their order, are the same for any
size of the pieces.

Counts are exact although keys are hashed: a combination is told from others by 128 bits made of its values, and the
chance that any two of N differ in their values but not in these is below N^2 / 2^129, which is 1e-23 for 10^8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fastsynth.compared import Compared
from fastsynth.streams import Words, hashed

Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]
# Two independent words of 64 bits for each row.
SEEDS = (1, 2)
HASHES = ("h", "g")


def row_hashes(rows: pl.DataFrame) -> pl.DataFrame:
    """128 bits that tell rows apart, as columns h and g; made of values, so categories count as their text.

    Notes
    -----
    The last step is one to one in the hash of each column, so that two rows agree only by chance: 2^-128 for a pair.
    """
    words = np.zeros((2, rows.height), dtype=np.uint64)
    for column in rows:
        values = column.cast(pl.String) if column.dtype in (pl.Categorical, pl.Enum) else column
        for i, seed in enumerate(SEEDS):
            words[i] = hashed(words[i], values.hash(seed).to_numpy())
    return pl.DataFrame(dict(zip(HASHES, words, strict=True)))


def number(rows: pl.DataFrame) -> tuple[NDArray[np.uint32], Counts]:
    """Number the distinct rows from 0, in the order in which they first come.

    Returns
    -------
    numbers : ndarray of shape (n_rows,), dtype=uint32
        Of each row.
    first : ndarray of shape (n_distinct,), dtype=int64
        Where each first came.
    """
    names = [str(i) for i in range(rows.width)]
    plain = pl.DataFrame([column.alias(name) for name, column in zip(names, rows, strict=True)])
    found = plain.with_row_index("row").select(pl.col("row").first().over(names)).to_series().to_numpy()
    is_new = found == np.arange(len(found), dtype=found.dtype)
    return (np.cumsum(is_new, dtype=np.uint32) - np.uint32(1))[found], np.flatnonzero(is_new)


def key_counts(original: pl.DataFrame, copy: pl.DataFrame, keys: Sequence[str]) -> tuple[Counts, Counts]:
    """For every row of a copy, how many rows of the original and of the copy have its keys.

    Parameters
    ----------
    original, copy : polars.DataFrame
        Key columns of the same types; categories may differ.
    keys : sequence of str

    Returns
    -------
    d, s : ndarray of shape (n_rows,), dtype=int64

    Notes
    -----
    O(n + k).
    """
    q, first = number(pl.concat([row_hashes(original.select(keys)), row_hashes(copy.select(keys))]))
    d, s = (np.bincount(of, minlength=len(first)) for of in (q[: original.height], q[original.height :]))
    own = q[original.height :]
    return d[own], s[own]


def replicated_uniques(original: pl.DataFrame, copy: pl.DataFrame, keys: Sequence[str]) -> Mask:
    """Rows of a copy whose keys only they have in the copy and exactly one row has in the original (repU)."""
    d, s = key_counts(original, copy, keys)
    return np.asarray((d == 1) & (s == 1))


def uniques_in_original(original: pl.DataFrame, copy: pl.DataFrame, keys: Sequence[str]) -> Mask:
    """Rows of a copy whose keys only they have in the copy and at least one row has in the original."""
    d, s = key_counts(original, copy, keys)
    return np.asarray((d >= 1) & (s == 1))


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """Classes of a numeric column.

    Attributes
    ----------
    edges : ndarray of shape (n_classes - 1,), dtype=float64
        Largest value of each class but the last.
    """

    edges: NDArray[np.float64]

    @property
    def labels(self) -> list[str]:
        """Names of the classes."""
        if not len(self.edges):
            return ["all"]
        text = [f"{edge:.15g}" for edge in self.edges]
        middle = [f"over {low} to {high}" for low, high in pairwise(text)]
        return [f"to {text[0]}", *middle, f"over {text[-1]}"]

    def label(self, values: pl.Series) -> pl.Series:
        """The class of every value; nulls and NaN have none."""
        numbers = values.cast(pl.Float64).fill_nan(None)
        labels = pl.Series(self.labels, dtype=pl.Enum(self.labels))
        codes = pl.Series(np.searchsorted(self.edges, numbers.fill_null(0.0).to_numpy()), dtype=pl.UInt32)
        return labels.gather(codes.zip_with(numbers.is_not_null(), pl.Series([None], dtype=pl.UInt32)))


def quantile_classes(both: Compared, name: str, groups: int) -> Classes:
    """Classes of about as many rows each of the original; a value that many rows have makes fewer classes."""
    parts = both.map(_count_values, None, [name], [0])[0]
    counts = pl.concat(parts).group_by("value").agg(pl.col("n").sum()).sort("value")
    below = counts["n"].cum_sum().to_numpy()
    if not len(below):
        return Classes(np.empty(0))
    at = np.searchsorted(below, below[-1] * np.arange(1, groups) / groups)
    edges = np.unique(counts["value"].to_numpy()[at])
    return Classes(edges[edges < counts["value"][-1]])


def _count_values(_shared: None, rows: pl.DataFrame, _first: int) -> pl.DataFrame:
    values = rows.to_series().cast(pl.Float64).fill_nan(None).drop_nulls().alias("value")
    return values.to_frame().group_by("value").agg(pl.len().cast(pl.Int64).alias("n"))


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Cells of a table that are not empty.

    Attributes
    ----------
    packed : ndarray of shape (n_cells,), dtype=uint64
        2^32 times the number of the combination plus that of the level; ascending.
    n : ndarray of shape (n_cells,), dtype=int64
        Rows.
    """

    packed: Words
    n: Counts

    @property
    def q(self) -> Counts:
        """Combination of each cell."""
        return (self.packed >> np.uint64(32)).astype(np.int64)

    @property
    def t(self) -> Counts:
        """Level of each cell."""
        return (self.packed & np.uint64(2**32 - 1)).astype(np.int64)

    def single(self, n_combinations: int) -> Counts:
        """The only level of each combination, -1 where there are several or none."""
        q = self.q
        level = np.full(n_combinations, -1)
        alone = np.bincount(q, minlength=n_combinations)[q] == 1
        level[q[alone]] = self.t[alone]
        return level

    def within(self, q: Counts, low: Counts, high: Counts) -> Counts:
        """Rows with combination ``q`` and a level from ``low`` up to, but without, ``high``; O(log n) each."""
        total = np.concatenate([[0], np.cumsum(self.n)])
        return np.asarray(
            total[np.searchsorted(self.packed, pack(q, high))] - total[np.searchsorted(self.packed, pack(q, low))]
        )


def pack(q: NDArray[Any], t: NDArray[Any]) -> Words:
    """Numbers of combination and level as one word."""
    return (q.astype(np.uint64) << np.uint64(32)) | t.astype(np.uint64)


def count_packed(packed: Words) -> Cells:
    """Count equal words."""
    runs = pl.Series(packed).sort().rle().struct.unnest()
    return Cells(runs["value"].to_numpy(), runs["len"].to_numpy().astype(np.int64))


def add_cells(parts: Sequence[Cells]) -> Cells:
    """Counts of equal words added up."""
    if len(parts) == 1 and bool((parts[0].packed[1:] > parts[0].packed[:-1]).all()):
        return parts[0]
    table = pl.DataFrame(
        {"packed": np.concatenate([p.packed for p in parts]), "n": np.concatenate([p.n for p in parts])}
    )
    table = table.group_by("packed").agg(pl.col("n").sum()).sort("packed")
    return Cells(table["packed"].to_numpy(), table["n"].to_numpy())


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What is counted.

    Attributes
    ----------
    keys, targets : tuple of str
    classes : mapping of str to Classes
        Of columns that are counted in classes.
    not_null : tuple of str
        Keys whose nulls tell nothing: combinations with one are marked.
    with_rows : bool
        Whether the numbers of every row are wanted, too.
    """

    keys: tuple[str, ...]
    targets: tuple[str, ...] = ()
    classes: Mapping[str, Classes] = field(default_factory=dict)
    not_null: tuple[str, ...] = ()
    with_rows: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Tally:
    """Counts of one side, or of one of its pieces.

    Attributes
    ----------
    hashes : polars.DataFrame of height n_combinations
        What tells combinations apart.
    no_null : ndarray of shape (n_combinations,), dtype=bool
        False for a null in a key of ``View.not_null``.
    values : polars.DataFrame of height n_combinations, or None
        The keys themselves; of the original only.
    n : ndarray of shape (n_combinations,), dtype=int64
        Rows of this side; 0 for a combination that only the original has.
    levels : dict of str to polars.Series
        By target, its levels in the order of their numbers.
    cells : dict of str to Cells
        By target.
    rows : dict of str to ndarray of shape (n_rows,), dtype=uint32
        Level of every row by target, and its combination under ""; empty unless asked for.
    """

    hashes: pl.DataFrame
    no_null: Mask
    values: pl.DataFrame | None
    n: Counts
    levels: dict[str, pl.Series]
    cells: dict[str, Cells]
    rows: dict[str, NDArray[np.uint32]]


def padded(of_original: NDArray[Any], n_combinations: int) -> NDArray[Any]:
    """What belongs to combinations of the original, with 0 for those that only a copy has."""
    return np.pad(of_original, (0, n_combinations - len(of_original)))


def tally(both: Compared, view: View, side: int, original: Tally | None = None) -> Tally:
    """Count the rows of a side, numbered after the original where it is given.

    Notes
    -----
    O(n) but for sorting the cells of each piece; memory grows with the number of combinations and cells.
    """
    shared = (view, side == 0)
    return _add(both.map(_count, shared, [*view.keys, *view.targets], [side])[0], view, original)


def _count(shared: tuple[View, bool], rows: pl.DataFrame, _first: int) -> Tally:
    """Count the rows of a piece."""
    view, with_values = shared
    rows = rows.with_columns(of.label(rows[name]).alias(name) for name, of in view.classes.items() if name in rows)
    keys = rows.select(view.keys)
    hashes = row_hashes(keys)
    q, first = number(hashes)
    no_null = np.ones(len(first), dtype=np.bool_)
    for name in view.not_null:
        no_null &= keys[name].gather(first).is_not_null().to_numpy()
    levels, cells, own = {}, {}, {"": q}
    for name in view.targets:
        t, new = number(rows.select(name))
        levels[name], cells[name], own[name] = rows[name].gather(new), count_packed(pack(q, t)), t
    return Tally(
        hashes[first],
        no_null,
        keys[first] if with_values else None,
        np.bincount(q, minlength=len(first)),
        levels,
        cells,
        own if view.with_rows else {},
    )


def _add(parts: Sequence[Tally], view: View, original: Tally | None) -> Tally:
    """Counts of the pieces of a side added up, numbered after the original where it is given."""
    known = () if original is None else (original,)
    of_parts, first = _number_anew([p.hashes for p in (*known, *parts)], len(known))
    n = np.zeros(len(first), dtype=np.int64)
    for q, part in zip(of_parts, parts, strict=True):
        n[q] += part.n  # a piece has each of its combinations once
    all_parts = (*known, *parts)
    values = None if original is not None else pl.concat([p.values for p in parts if p.values is not None])[first]
    rows = {}
    if view.with_rows:
        rows[""] = np.concatenate([q[p.rows[""]] for q, p in zip(of_parts, parts, strict=True)])
    levels, cells = {}, {}
    for name in view.targets:
        numbers, new = _number_anew([p.levels[name].to_frame() for p in all_parts], len(known))
        levels[name] = pl.concat([p.levels[name] for p in all_parts]).gather(new)
        moved = [p.cells[name] for p in parts]
        cells[name] = add_cells(
            [Cells(pack(q[of.q], t[of.t]), of.n) for q, t, of in zip(of_parts, numbers, moved, strict=True)]
        )
        if view.with_rows:
            rows[name] = np.concatenate([t[p.rows[name]] for t, p in zip(numbers, parts, strict=True)])
    return Tally(
        pl.concat([p.hashes for p in all_parts])[first],
        np.concatenate([p.no_null for p in all_parts])[first],
        values,
        n,
        levels,
        cells,
        rows,
    )


def _number_anew(frames: Sequence[pl.DataFrame], n_known: int) -> tuple[list[NDArray[np.uint32]], Counts]:
    """Common numbers of the rows of several frames, but for the first ``n_known`` frames, and where each first came."""
    numbers, first = number(pl.concat(frames))
    ends = np.cumsum([frame.height for frame in frames])
    return np.split(numbers, ends[:-1])[n_known:], first
