"""Measures of protection after synthesis, each a small record that says what it does to inference.

A measure learns from the original (``prepare``) and gives a function of one copy, a table with random words of its
rows. What it does to numbers is in ``fastsynth.sdc``; ``fastsynth.protect`` applies measures to copies.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from fastsynth.compared import Compared
from fastsynth.copies import Synthesis
from fastsynth.errors import DataError, OptionError, check_column_list, check_count
from fastsynth.relations import Relations
from fastsynth.sdc import (
    Floats,
    Grid,
    add_noise,
    decimals_of,
    grid_of,
    is_number,
    numbers_of,
    reflect,
    round_to,
    smooth_density,
    smooth_rmean,
    smooth_spline,
    smoothing_of,
    swap_records,
    with_numbers,
)
from fastsynth.streams import PROTECT, Words
from fastsynth.tally import Mask, key_counts, number, replicated_uniques, row_hashes, uniques_in_original

Kind = Literal["density", "spline", "rmean"]
Which = Literal["replicated", "in_original"]
# A copy before and after, and how many of its cells or rows differ.
Step = Callable[[pa.Table, Words], tuple[pa.Table, int]]
# A value above which fewer people are would tell of them.
LEAST_CODED = 10
# Larger whole numbers are not all held by float64.
MOST_EXACT = 2**53
# Fresh rows are asked for so many times before they are given up.
MOST_DRAWS = 6


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What measures learn from.

    Attributes
    ----------
    original
        As the caller gave it.
    compared : Compared
    real : dict of str to polars.Series
        Columns of the original that were read; coarser coding replaces them.
    coded : set of str
        Those that were replaced.
    changed : set of str
        Columns of the copies that a measure has changed.
    words : callable
        Random words of a purpose (its key) for so many rows.
    """

    original: Any
    compared: Compared
    real: dict[str, pl.Series]
    coded: set[str]
    changed: set[str]
    words: Callable[[tuple[int, ...], int], Words]

    def column(self, name: str) -> pl.Series:
        """A column of the original, in the type that it shares with the copies; coded as the copies are."""
        if name not in self.real:
            self.real[name] = self.compared.frame(0, [name])[name]
        return self.real[name]

    def alike(self) -> Any:
        """The original, with columns coded as the copies are."""
        if not self.coded:
            return self.original
        return pl.DataFrame([self.column(name) for name in self.compared.names])

    def trial(self) -> Setting:
        """A setting that can be thrown away."""
        return replace(self, real=dict(self.real), coded=set(self.coded), changed=set(self.changed))


class Measure(ABC):
    """What all measures share.

    Attributes
    ----------
    columns : tuple of str
        Columns whose values change; none where rows are left out.
    effect : str
        What it does to inference.
    recodes : bool
        Whether it is coarser coding, which the original gets as well when disclosure is measured.
    removes : bool
        Whether it leaves rows out.
    names : bool
        Whether it only adds or renames columns; such measures come last.
    """

    __slots__ = ()
    recodes: ClassVar[bool] = False
    removes: ClassVar[bool] = False
    names: ClassVar[bool] = False
    effect: ClassVar[str]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns whose values change."""
        column = getattr(self, "column", None)
        return () if column is None else (column,)

    @abstractmethod
    def prepare(self, setting: Setting, synthesis: Synthesis) -> Step:
        """Learn from the original; give back what changes a copy."""

    def cut(self, setting: Setting, table: pa.Table, k: int, words: Words) -> Mask | None:  # noqa: ARG002
        """Which k rows of a changed copy stay so that all copies have as many; None if that cannot be."""
        return _of_smallest(words, k)

    def options(self) -> dict[str, Any]:
        """Plain options, none of which are values of the data."""
        kept = {"kind", "share", "fewer_than", "which", "k_anonymity", "swaprate", "to"}
        return {of.name: getattr(self, of.name) for of in fields(self) if of.name in kept}  # type: ignore[arg-type]

    def audit(self) -> dict[str, Any]:
        """Names and plain options."""
        keys = {"keys": list(self.keys)} if hasattr(self, "keys") else {}
        return {"measure": name_of(self), "columns": list(self.columns)} | self.options() | keys


# Numbers


class _OfNumbers(Measure):
    """A measure that changes numbers of one column, value by value."""

    __slots__ = ()
    column: str
    leave: tuple[Any, ...]

    def prepare(self, setting: Setting, synthesis: Synthesis) -> Step:
        real = setting.column(self.column)
        if not is_number(real.dtype):
            raise OptionError(
                f"{name_of(self)}: column {self.column!r} is no number, date or time. MergeLevels is for categories."
            )
        change = self._change(real, self._codes(real, synthesis))
        if self.recodes:
            setting.real[self.column] = change(real, np.zeros(len(real), np.uint64))
            setting.coded.add(self.column)

        def step(table: pa.Table, words: Words) -> tuple[pa.Table, int]:
            i, field = table.schema.get_field_index(self.column), table.schema.field(self.column)
            before = _series(table, self.column)
            after = change(before, words)
            n_changed = int(before.ne_missing(after).sum())
            return table.set_column(i, field, after.to_arrow().cast(field.type)), n_changed

        return step

    @abstractmethod
    def _change(self, real: pl.Series, codes: pl.Series) -> Callable[[pl.Series, Words], pl.Series]:
        """What changes a column, from the real one; codes are left as they are."""

    def _codes(self, real: pl.Series, synthesis: Synthesis) -> pl.Series:
        """Values that stand for kinds of missing and spikes, and are left as they are."""
        known, record = self.leave, columns_of(synthesis).get(self.column)
        if record is not None:
            known = (*known, *record.cont_na, *record.semicont)
        elif not known and _n_codes(synthesis, self.column, real) > 0:
            raise OptionError(
                f"{name_of(self)}: column {self.column!r} has missing codes, which must not be changed: name them with "
                "leave=(...)."
            )
        return _typed(known, real.dtype, f"{name_of(self)}: leave", self.column)


class _Moved(_OfNumbers):
    """A measure that computes with numbers as fractions."""

    __slots__ = ()

    def _change(self, real: pl.Series, codes: pl.Series) -> Callable[[pl.Series, Words], pl.Series]:
        grid = grid_of(real)
        function = self._function(_without(real, codes, grid), real.dtype)

        def change(values: pl.Series, words: Words) -> pl.Series:
            numbers = _without(values, codes, grid)
            return with_numbers(values, np.where(np.isnan(numbers), np.nan, function(numbers, words)), grid)

        return change

    @abstractmethod
    def _function(self, real: Floats, dtype: pl.DataType) -> Callable[[Floats, Words], Floats]:
        """What changes numbers, from the real ones; NaN is missing, or left as it is."""


class _Coarser(_OfNumbers):
    """A measure that codes numbers in their own type: float64 would lose digits of large ones."""

    __slots__ = ()
    recodes: ClassVar[bool] = True

    def _change(self, real: pl.Series, codes: pl.Series) -> Callable[[pl.Series, Words], pl.Series]:
        coding = self._coding(real.filter(~_among(real, codes)))
        return lambda values, _: values.zip_with(_among(values, codes), coding(values).cast(values.dtype))

    @abstractmethod
    def _coding(self, real: pl.Series) -> Callable[[pl.Series], pl.Series]:
        """What codes values, from the real ones that are no codes."""


def _without(values: pl.Series, codes: pl.Series, grid: Grid) -> Floats:
    numbers = numbers_of(values, grid).copy()
    numbers[_among(values, codes).to_numpy()] = np.nan
    return numbers


def _among(values: pl.Series, codes: pl.Series) -> pl.Series:
    return values.is_in(codes.implode()).fill_null(False)


def _typed(given: Sequence[Any], dtype: pl.DataType, what: str, column: str) -> pl.Series:
    try:
        return pl.Series(list(given)).cast(dtype) if len(given) else pl.Series([], dtype=dtype)
    except (pl.exceptions.PolarsError, TypeError, ValueError):
        raise OptionError(f"{what}={given!r}: must be values of column {column!r}, which is {dtype}.") from None


@dataclass(frozen=True, slots=True)
class Smooth(_Moved):
    """Smooth a number: draws of real values become draws from a smooth distribution.

    Effect on inference: the variance grows by the bandwidth squared, some percent of it, and correlations shrink
    accordingly; tails change most; sums and other identities with the column break. "spline" and "rmean" change the
    margin only, and who has the whole column can solve running means for its values: ``Column(smoothing="rmean")`` of
    ``synthesize`` moves them besides.

    Parameters
    ----------
    column : str
    kind : {"density", "spline", "rmean"}, default "density"
        A kernel density with the bandwidth of Sheather and Jones, a smoothing spline of the sorted values, or their
        running mean; see ``fastsynth.sdc``.
    leave : tuple, default ()
        Values that are left as they are, such as missing codes; those of the recipe are known.
    """

    column: str
    kind: Kind = "density"
    leave: tuple[Any, ...] = ()
    effect: ClassVar[str] = "tails change; variance grows by the bandwidth squared, correlations shrink"

    def __post_init__(self) -> None:
        if self.kind not in ("density", "spline", "rmean"):
            raise OptionError(f"Smooth: kind={self.kind!r}: must be 'density', 'spline' or 'rmean'.")

    def _function(self, real: Floats, dtype: pl.DataType) -> Callable[[Floats, Words], Floats]:
        smoothing = smoothing_of(real.astype(np.float32) if dtype == pl.Float32 else real)
        if self.kind == "density":
            return lambda numbers, words: smooth_density(numbers, smoothing, words)
        function = smooth_spline if self.kind == "spline" else smooth_rmean
        return lambda numbers, _: function(numbers, smoothing)


@dataclass(frozen=True, slots=True)
class Noise(_Moved):
    """Add normal noise to a number, with the variance kept.

    Effect on inference: mean and variance stay; correlations, and slopes on and of the column, shrink by
    sqrt(1 + share^2): by .5 % for .1, by 11 % for .5. Numbers beyond the observed range are reflected into it.

    Parameters
    ----------
    column : str
    share : float
        Standard deviation of the noise in units of the column's.
    leave : tuple, default ()
        Values that are left as they are; those of the recipe are known.
    """

    column: str
    share: float
    leave: tuple[Any, ...] = ()
    effect: ClassVar[str] = "mean and variance stay; correlations and slopes shrink by sqrt(1 + share^2)"

    def __post_init__(self) -> None:
        _check_share("Noise", self.share, 10)

    def _function(self, real: Floats, dtype: pl.DataType) -> Callable[[Floats, Words], Floats]:
        known = real[np.isfinite(real)]
        if len(known) == 0:
            return lambda numbers, _: numbers
        low, high, mean, sd = known.min(), known.max(), float(known.mean()), float(known.std())
        decimals = decimals_of(known, dtype == pl.Float32)

        def noisy(numbers: Floats, words: Words) -> Floats:
            within = reflect(add_noise(numbers, self.share, sd, mean, words), low, high)
            return within if decimals is None else np.round(within, decimals)

        return noisy


@dataclass(frozen=True, slots=True)
class TopCode(_Coarser):
    """Code large numbers as ``high``, and small ones as ``low``.

    Effect on inference: means, variances and upper quantiles come out too small; medians and ranks below stay.

    Parameters
    ----------
    column : str
    low, high : value, optional
        Limits, as values of the column.
    share : float, optional
        Instead of limits: the share of the original's rows that lies above ``high``, at least 10 rows. The default is
        .005 without limits.
    leave : tuple, default ()
        Values that are left as they are; those of the recipe are known.
    """

    column: str
    low: Any = None
    high: Any = None
    share: float | None = None
    leave: tuple[Any, ...] = ()
    effect: ClassVar[str] = "means, variances and extreme quantiles are too small; medians stay"

    def __post_init__(self) -> None:
        if self.share is not None:
            _check_share("TopCode", self.share, 0.5)
            if self.high is not None:
                raise OptionError("TopCode takes high or share, not both.")

    def _coding(self, real: pl.Series) -> Callable[[pl.Series], pl.Series]:
        low, high = (self._limit(name, real.dtype) for name in ("low", "high"))
        known = real.drop_nulls()
        known = (known.filter(known.is_finite()) if known.dtype.is_float() else known).sort()
        if high is None and (self.share is not None or low is None) and len(known) > LEAST_CODED:
            above = max(math.ceil((self.share or 0.005) * len(known)), LEAST_CODED)
            high = known[max(len(known) - above - 1, 0) :].head(1)
        if low is not None and high is not None and not (low <= high).all():
            limit = "what share= makes the upper limit" if self.high is None else f"high={self.high!r}"
            raise OptionError(f"TopCode: column {self.column!r}: low={self.low!r} is above {limit}.")
        return lambda values: values.clip(low, high)

    def _limit(self, name: str, dtype: pl.DataType) -> pl.Series | None:
        given = getattr(self, name)
        return None if given is None else _typed([given], dtype, f"TopCode: {name}", self.column)


@dataclass(frozen=True, slots=True)
class Round(_Coarser):
    """Round a number to multiples of ``to``.

    Effect on inference: means stay; the variance grows by up to to^2 / 12; quantiles are multiples of ``to``.

    Parameters
    ----------
    column : str
    to : float
        For integers an integer.
    leave : tuple, default ()
        Values that are left as they are; those of the recipe are known.
    """

    column: str
    to: float
    leave: tuple[Any, ...] = ()
    effect: ClassVar[str] = "means stay; variance grows by up to to^2 / 12; quantiles are multiples of to"

    def __post_init__(self) -> None:
        if isinstance(self.to, bool) or not isinstance(self.to, int | float) or not 0 < self.to < math.inf:
            raise OptionError(f"Round: to={self.to!r}: must be a positive number.")

    def _coding(self, real: pl.Series) -> Callable[[pl.Series], pl.Series]:
        dtype = real.dtype
        whole = not dtype.is_integer() or (self.to == int(self.to) and self.to < 2**64)
        if not dtype.is_numeric() or not whole:
            raise OptionError(
                f"Round: to={self.to!r}: column {self.column!r} is {dtype}; only numbers are rounded, integers to "
                "integers."
            )
        if dtype.is_decimal() and (real.to_physical().abs() > MOST_EXACT).any():
            raise OptionError(
                f"Round: column {self.column!r} has decimals of more than 15 digits, which are not rounded exactly. "
                "Cast it to integers."
            )
        return lambda values: round_to(values, self.to)


# Levels


@dataclass(frozen=True, slots=True)
class MergeLevels(Measure):
    """Merge levels of a category that few rows of the original have.

    Effect on inference: what is said of other levels stays; the merged ones can no longer be told apart.

    Parameters
    ----------
    column : str
        Text or categories.
    fewer_than : int, default 10
        Levels that fewer rows of the original have are merged; where they are too few together, so are the next rarest.
    into : str, default "other"
        Name of the merged level; it may be one that exists.
    """

    column: str
    fewer_than: int = 10
    into: str = "other"
    recodes: ClassVar[bool] = True
    effect: ClassVar[str] = "merged levels cannot be told apart; the others stay as they are"

    def __post_init__(self) -> None:
        check_count("MergeLevels: fewer_than", self.fewer_than)
        if not isinstance(self.into, str):
            raise OptionError(f"MergeLevels: into={self.into!r}: must be the name of a level.")

    def prepare(self, setting: Setting, synthesis: Synthesis) -> Step:  # noqa: ARG002
        """Find levels that few real rows have."""
        real = setting.column(self.column)
        if not isinstance(real.dtype, pl.String | pl.Categorical | pl.Enum):
            raise OptionError(f"MergeLevels: column {self.column!r} is {real.dtype}, no text and no category.")
        text = real.cast(pl.String)
        rare = self._rare(text.drop_nulls())
        if len(rare):
            setting.real[self.column] = _merged(text, rare, self.into)
            setting.coded.add(self.column)

        def step(table: pa.Table, words: Words) -> tuple[pa.Table, int]:  # noqa: ARG001
            before = _series(table, self.column).cast(pl.String)
            if rare.is_empty():
                return table, 0
            after = _merged(before, rare, self.into)
            return _with_levels(table, self.column, after, rare, self.into), int(before.ne_missing(after).sum())

        return step

    def _rare(self, text: pl.Series) -> pl.Series:
        """Levels to merge: those of too few rows, and the next rarest until the merged level has enough."""
        counts = pl.DataFrame([text.alias("level")]).group_by("level").len("n")
        others = counts.filter(pl.col("level") != self.into).sort("n", "level")
        n_rare = int((others["n"] < self.fewer_than).sum())
        if n_rare == 0:
            return others["level"].head(0)
        together = others["n"].cum_sum() + int((text == self.into).sum())
        return others["level"].head(max(n_rare, int((together < self.fewer_than).sum()) + 1))


def _merged(text: pl.Series, rare: pl.Series, into: str) -> pl.Series:
    merged = text.is_in(rare.implode()).fill_null(False)
    return text.zip_with(~merged, pl.Series([into])).alias(text.name)


def _with_levels(table: pa.Table, column: str, text: pl.Series, rare: pl.Series, into: str) -> pa.Table:
    """The column with other text; lists of levels no longer name those that are merged."""
    i, field = table.schema.get_field_index(column), table.schema.field(column)
    values = text.to_arrow()
    if not pa.types.is_dictionary(field.type):
        return table.set_column(i, field, values.cast(field.type))
    dictionary = table.column(column).unify_dictionaries()
    levels = dictionary.chunk(0).dictionary.to_pylist() if dictionary.num_chunks else []
    metadata = dict(field.metadata or {})
    if any(key.startswith(b"_PL_ENUM") for key in metadata):
        # polars keeps the levels of an Enum beside the data.
        dtype: Any = pl.DataFrame(table.schema.empty_table().select([column])).schema[column]
        levels = dtype.categories.to_list()
    gone = set(rare.to_list())
    levels = [level for level in levels if level not in gone and level != into] + [into]
    if any(key.startswith(b"_PL_ENUM") for key in metadata):
        metadata = pl.DataFrame(schema={column: pl.Enum(levels)}).to_arrow().schema.field(column).metadata
    indices = pc.index_in(values, value_set=pa.array(levels, values.type)).cast(field.type.index_type)
    merged = pa.DictionaryArray.from_arrays(
        indices, pa.array(levels, field.type.value_type), ordered=field.type.ordered
    )
    return table.set_column(i, field.with_metadata(metadata or None), merged)


# Rows


@dataclass(frozen=True, slots=True)
class RemoveUniques(Measure):
    """Leave out synthetic rows that are unique on the keys and are found in the original.

    Effect on inference: k becomes smaller, and ``pool`` uses the new one. People with rare keys are missing: counts of
    rare combinations are too small. That a combination is missing tells that it may be real. So that all copies have
    the same k, those that lose fewer rows lose others at random; where one row would be left of several with risky
    keys, it goes as well. What comes later and leaves rows out or changes keys makes new uniques: ``protect`` then
    applies this measure again.

    Parameters
    ----------
    keys : list of str
    which : {"replicated", "in_original"}, default "replicated"
        Rows whose keys are unique in the copy and in the original (repU is 0 afterwards), or all unique ones of the
        copy whose keys occur in the original.
    """

    keys: Sequence[str]
    which: Which = "replicated"
    removes: ClassVar[bool] = True
    effect: ClassVar[str] = "fewer rows: pool uses the new k; rare combinations of keys are too few"

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", tuple(check_column_list("keys", self.keys)))
        if self.which not in ("replicated", "in_original"):
            raise OptionError(f"RemoveUniques: which={self.which!r}: must be 'replicated' or 'in_original'.")

    def prepare(self, setting: Setting, synthesis: Synthesis) -> Step:  # noqa: ARG002
        """Read the keys of the original."""
        real = _real_keys(setting, self.keys)
        find = replicated_uniques if self.which == "replicated" else uniques_in_original

        def step(table: pa.Table, words: Words) -> tuple[pa.Table, int]:  # noqa: ARG001
            unique = find(real, _keys_like(real, table), self.keys)
            return table.filter(pa.array(~unique)), int(unique.sum())

        return step

    def cut(self, setting: Setting, table: pa.Table, k: int, words: Words) -> Mask | None:
        """Rows that stay, none of them unique."""
        return _without_new_uniques(_real_keys(setting, self.keys), table, self.keys, self.which, k, words)


@dataclass(frozen=True, slots=True)
class RedrawUniques(Measure):
    """Replace synthetic rows that are unique on the keys, there and in the original, by fresh ones.

    The models are fitted anew from the recipe of the synthesis; rows whose keys are unique in the original are not
    taken. Copies without a recipe (read from a folder) lose the rows instead, as with ``RemoveUniques``.

    Effect on inference: k stays; counts of rare combinations of keys are a little too small.

    Parameters
    ----------
    keys : list of str
    """

    keys: Sequence[str]
    removes: ClassVar[bool] = True
    effect: ClassVar[str] = "rare combinations of keys are a little too few; k stays if the recipe is known"

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", tuple(check_column_list("keys", self.keys)))

    def prepare(self, setting: Setting, synthesis: Synthesis) -> Step:
        """Fit the recipe, if there is one."""
        if synthesis.recipe is None:
            return RemoveUniques(self.keys).prepare(setting, synthesis)
        if setting.changed:
            raise OptionError(
                f"RedrawUniques must come before measures that change values (here of "
                f"{', '.join(map(repr, sorted(setting.changed)))}): fresh rows would not have them."
            )
        real = _real_keys(setting, self.keys)
        fitted = type(synthesis.recipe)(**synthesis.recipe.get_params()).fit(setting.original)
        identifiers, n_draws = synthesis.identifiers, 0

        def fresh(n: int, schema: pa.Schema) -> pa.Table:
            nonlocal n_draws
            found: list[pa.Table] = []
            for attempt in range(MOST_DRAWS):
                n_draws += 1
                seed = int(setting.words((PROTECT, n_draws), 1)[0])
                table = fitted.sample(m=1, k=max(2 * n, 100) * 2**attempt, random_state=seed).arrow(0)
                n_real, _ = key_counts(real, _keys_like(real, table), self.keys)
                found.append(table.filter(pa.array(n_real != 1)).cast(schema))
                if sum(part.num_rows for part in found) >= n:
                    return pa.concat_tables(found).slice(0, n)
            raise DataError(
                "RedrawUniques: nearly all fresh rows have keys of a single real row. Take fewer or coarser keys."
            )

        def step(table: pa.Table, words: Words) -> tuple[pa.Table, int]:  # noqa: ARG001
            unique = replicated_uniques(real, _keys_like(real, table), self.keys)
            n = int(unique.sum())
            if n == 0:
                return table, 0
            drawn = fresh(n, table.schema)
            for name in identifiers:
                own = table.column(name).filter(pa.array(unique))
                drawn = drawn.set_column(drawn.schema.get_field_index(name), table.schema.field(name), own)
            rows = np.arange(table.num_rows)
            rows[unique] = table.num_rows + np.arange(n)
            return pa.concat_tables([table, drawn]).take(pa.array(rows)), n

        return step

    def cut(self, setting: Setting, table: pa.Table, k: int, words: Words) -> Mask | None:
        """Rows that stay, none of them unique; only copies without a recipe lose some."""
        return RemoveUniques(self.keys).cut(setting, table, k, words)


@dataclass(frozen=True, slots=True)
class KeepRows(Measure):
    """Release a random part of the rows of each copy.

    Effect on inference: k becomes smaller, ``pool`` uses the new one, intervals become wider; nothing is biased.

    Parameters
    ----------
    share : float
        Share of the rows that is kept, between 0 and 1.
    """

    share: float
    removes: ClassVar[bool] = True
    effect: ClassVar[str] = "fewer rows: pool uses the new k, intervals are wider, nothing is biased"

    def __post_init__(self) -> None:
        _check_share("KeepRows", self.share, 1)

    def prepare(self, setting: Setting, synthesis: Synthesis) -> Step:  # noqa: ARG002
        """Nothing to learn."""

        def step(table: pa.Table, words: Words) -> tuple[pa.Table, int]:
            k = math.ceil(self.share * table.num_rows)
            return table.filter(pa.array(_of_smallest(words, k))), table.num_rows - k

        return step


def _of_smallest(words: Words, k: int) -> Mask:
    """The rows with the k smallest words."""
    kept = np.zeros(len(words), bool)
    kept[np.argsort(words, kind="stable")[:k]] = True
    return kept


def _without_new_uniques(
    real: pl.DataFrame, table: pa.Table, keys: Sequence[str], which: Which, k: int, words: Words
) -> Mask | None:
    """Keep k rows, the others leaving at random, but of risky keys the last two together; None where that is not k.

    Rows leave in the order of their words. Where one of two rows with risky keys does, the other would be a new unique:
    leaving counts two for the one, and nothing for the other. O(k log k).
    """
    copy = _keys_like(real, table)
    n_real, _ = key_counts(real, copy, keys)
    group = number(row_hashes(copy.select(keys)))[0].astype(np.int64)
    order = np.lexsort((words, group))
    group = group[order]
    risky = (n_real[order] == 1) if which == "replicated" else (n_real[order] >= 1)
    size = np.bincount(group)
    n_left = np.cumsum(size)[group] - np.arange(len(group))  # of the group, before a row leaves
    last = risky & (n_left == 1)
    cost = np.where(last, 0, np.where(risky & (n_left == 2), 2, 1))
    leaving = np.argsort(words[order], kind="stable")
    spent, n_leave = np.cumsum(cost[leaving]), len(group) - k
    gone = np.zeros(len(group), bool)
    gone[leaving[spent <= n_leave]] = True
    if int(cost[gone].sum()) < n_leave:
        single = leaving[~gone[leaving] & (cost[leaving] == 1)]
        if len(single) == 0:
            return None
        gone[single[0]] = True
    paired = np.flatnonzero(last & (size[group] > 1))
    gone[last] = False
    gone[paired] = gone[paired - 1]
    kept = np.empty(len(group), bool)
    kept[order] = ~gone
    return kept


def _real_keys(setting: Setting, keys: Sequence[str]) -> pl.DataFrame:
    return pl.DataFrame([setting.column(name) for name in keys])


def _keys_like(real: pl.DataFrame, table: pa.Table) -> pl.DataFrame:
    """The keys of a copy in the types of the original's; categories count as their text in any type."""
    dtypes = {name: dtype for name, dtype in real.schema.items() if dtype not in (pl.Categorical, pl.Enum)}
    return pl.DataFrame(table.select(real.columns)).cast(dtypes)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Swap(Measure):
    """Exchange the regions of risky records with those of similar ones: targeted record swapping.

    Effect on inference: counts of regions, and all that does not involve them, stay; associations with the region, and
    with what is carried along, shrink by about 1 - (share swapped), so that T_s is no longer exact for them.

    Parameters
    ----------
    hierarchy : list of str
        Columns that tell the region, coarse to fine.
    risk_variables : list of str
        What an intruder may know.
    similar, household, carry_along, k_anonymity, swaprate
        As in ``fastsynth.sdc.swap_records``.
    """

    hierarchy: Sequence[str]
    risk_variables: Sequence[str]
    similar: Sequence[Sequence[str]] = ((),)
    household: str | None = None
    carry_along: Sequence[str] = ()
    k_anonymity: int = 3
    swaprate: float = 0.05
    effect: ClassVar[str] = "associations with what is swapped shrink by 1 - (share swapped); T_s not exact"

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are exchanged."""
        return (*self.hierarchy, *self.carry_along)

    def prepare(self, setting: Setting, synthesis: Synthesis) -> Step:  # noqa: ARG002
        """Nothing to learn: risk is that in the copy."""
        options = {of.name: getattr(self, of.name) for of in fields(self)}

        def step(table: pa.Table, words: Words) -> tuple[pa.Table, int]:
            frame = pl.DataFrame([_series(table, name) for name in table.schema.names])
            done = swap_records(frame, **options, words=words)
            rows = pa.array(done.rows)
            for name in self.columns:
                i, field = table.schema.get_field_index(name), table.schema.field(name)
                table = table.set_column(i, field, table.column(name).take(rows))
            return table, int((done.rows != np.arange(len(done.rows))).sum())

        return step


# Names


@dataclass(frozen=True, slots=True)
class Label(Measure):
    """Add a column that says of every row that it is synthetic.

    Effect on inference: none.

    Parameters
    ----------
    column : str, default "synthetic"
        A new column.
    value : str, default "synthetic"
    """

    column: str = "synthetic"
    value: str = "synthetic"
    names: ClassVar[bool] = True
    effect: ClassVar[str] = "none"

    def prepare(self, setting: Setting, synthesis: Synthesis) -> Step:  # noqa: ARG002
        """Nothing to learn."""
        if self.column in synthesis._frame.schema.names:
            raise OptionError(f"Label: there is a column {self.column!r} already. Name another.")

        def step(table: pa.Table, words: Words) -> tuple[pa.Table, int]:  # noqa: ARG001
            return table.append_column(self.column, pa.repeat(self.value, table.num_rows)), table.num_rows

        return step


@dataclass(frozen=True, slots=True)
class Rename(Measure):
    """Put something before or behind the names of all columns, so that nobody takes them for the original's.

    Effect on inference: none.

    Parameters
    ----------
    prefix, suffix : str, default ""
        One of them is needed.
    """

    prefix: str = ""
    suffix: str = ""
    names: ClassVar[bool] = True
    effect: ClassVar[str] = "none"

    def __post_init__(self) -> None:
        for name in ("prefix", "suffix"):
            if not isinstance(getattr(self, name), str):
                raise OptionError(f"Rename: {name}={getattr(self, name)!r}: must be text.")
        if not self.prefix and not self.suffix:
            raise OptionError("Rename needs a prefix or a suffix, such as Rename('syn_').")

    def name(self, column: str) -> str:
        """New name of a column."""
        return f"{self.prefix}{column}{self.suffix}"

    def prepare(self, setting: Setting, synthesis: Synthesis) -> Step:  # noqa: ARG002
        """Nothing to learn."""

        def step(table: pa.Table, words: Words) -> tuple[pa.Table, int]:  # noqa: ARG001
            return table.rename_columns([self.name(column) for column in table.schema.names]), table.num_rows

        return step


# Small things


def columns_of(synthesis: Synthesis) -> dict[str, Any]:
    """Records of columns of the recipe, as far as it is known."""
    if synthesis.recipe is None:
        return {}
    own, relations = dict(synthesis.recipe.columns or {}), synthesis.recipe.relations
    found: dict[str, Any] = relations.joined(own) if isinstance(relations, Relations) else own
    return found


def _n_codes(synthesis: Synthesis, column: str, real: pl.Series) -> int:
    """Missing codes of a column: kinds of missing that are neither null nor NaN."""
    has_nan = bool(real.is_nan().any()) if real.dtype.is_float() else False
    kinds = [record["n_missing_kinds"] or 0 for record in synthesis._records if record["column"] == column]
    return sum(kinds) - bool(real.null_count()) - has_nan


def _series(table: pa.Table, name: str) -> pl.Series:
    return pl.DataFrame(table.select([name]))[name]


def _check_share(what: str, share: Any, most: float) -> None:
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= most:
        raise OptionError(f"{what}: share={share!r}: must be above 0, and at most {most:g}.")


def name_of(measure: Measure) -> str:
    """Name of a measure, for messages."""
    return type(measure).__name__
