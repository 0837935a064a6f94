"""Holes in a complete table, for tests of imputation: which rows get them is left to chance or hangs on the values.

The procedure is that of ``ampute`` of the R package mice. What fills holes is in ``fastsynth.imputation``, which knows
nothing of these.

Terms
-----
pattern
    Columns that go missing together.
candidate
    Every row is one of one pattern, by lot. It either gets the holes of its pattern or stays complete.
score
    Weighted sum of some columns of a row, from which the probability of its holes is made.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.special import expit, logit

from fastsynth.columns import is_numeric, is_text, numbers_of, storage_of, taken
from fastsynth.errors import DataError, DataWarning, OptionError, check_column_list, check_known, is_real
from fastsynth.source import read_table
from fastsynth.streams import AMPUTE, random_words, unit
from fastsynth.synthesis import RandomState, _entropy

Floats = NDArray[np.float64]

MECHANISMS = ("MCAR", "MAR", "MNAR")
TYPES = ("right", "left", "mid", "tail")
UNITS = ("rows", "cells")
# Scores that differ by less are equal but for rounding; columns are standardised, and the largest weight is 1.
SAME = 1e-12
# Halvings of an interval that is a few units wide: what is left is below the rounding of a mean.
HALVINGS = 50


def ampute(
    data: Any,
    prop: float = 0.5,
    mechanism: str = "MAR",
    pattern: Sequence[str] | Sequence[Sequence[str]] | None = None,
    *,
    freq: Sequence[float] | None = None,
    weights: Mapping[str, float] | Sequence[Mapping[str, float]] | None = None,
    type: str | Sequence[str] = "right",  # noqa: A002
    by: str = "rows",
    random_state: RandomState = None,
) -> Any:
    """Make holes in a complete table, to see how well they are filled in (mice's ``ampute``).

    Every row is a candidate of one pattern, by lot. Whether it gets the holes of its pattern is left to chance
    ("MCAR"), or more probable for some scores than for others ("MAR", "MNAR").

    Parameters
    ----------
    data : table or path
        As in ``synthesize``; without missing values. It is not changed.
    prop : float, default 0.5
        Expected share of the rows that get holes, above 0 and at most 1; with ``by="cells"`` of all cells.
    mechanism : {"MAR", "MCAR", "MNAR"}, default "MAR"
        What the score is made of: with "MAR" the columns that stay observed in the pattern, with "MNAR" those that go
        missing. With "MCAR" there is no score, and ``type`` says nothing.
    pattern : list of str, or list of lists of str, optional
        Columns that go missing together, or several such lists. The default is one pattern for each column.
    freq : list of float, optional
        How frequent each pattern is, in any unit. The default is the same for all.
    weights : dict of str to float, or list of these by pattern, optional
        Weights of the standardised columns in the score. Those that are not named have 1, the default of all; 0 leaves
        a column out, and a negative weight turns it round. One dict serves all patterns: each takes the columns that
        count in it.
    type : {"right", "left", "mid", "tail"} or list of these by pattern, default "right"
        Which scores go missing most: large ones, small ones, those in the middle, or those far from it.
    by : {"rows", "cells"}, default "rows"
        What ``prop`` is a share of (mice's ``bycases``).
    random_state : int, numpy SeedSequence or Generator, optional
        The same seed makes the same holes in whatever kind of table. None draws new ones each time.

    Returns
    -------
    table
        Of the caller's kind, with the same rows, columns and types. pandas types that know no missing values become
        those that pandas takes instead (int64 becomes float64), and its index is dropped; paths come back as polars.

    Raises
    ------
    DataError
        The table has no rows, or missing values already; a column of the score is infinite, or of a type without order.
    OptionError
        An option has a value that is not allowed; a pattern of all columns with "MAR", which leaves nothing to depend
        on; weights that leave nothing, or name columns that do not count; more cells than the patterns have.
    PlanError
        An option names a column that the table does not have.

    Warns
    -----
    DataWarning
        All candidates of a pattern have the same score, so their holes come completely at random.

    Notes
    -----
    A score is a sum over columns: numbers, dates and booleans as they are, ordered categories by the number of their
    level, unordered ones and text by the number of their level among the sorted ones (R's ``as.numeric``). That order
    means nothing, so a weight of 0 leaves such columns better out. All are standardised first, scores within the
    candidates of each pattern. The probability of holes is a logistic function of the score z: of z ("right"), -z,
    -abs(z) ("mid") or abs(z), plus a shift, found by bisection, with which the mean over the candidates is as wanted.

    Unlike mice, which sets the shift for normal scores, this keeps ``prop`` for scores of any shape; columns are
    standardised over all rows; and with ``by="cells"`` patterns of different lengths have the wanted share, too.

    n rows of p columns and q patterns cost O(n (p + q)) time, and O(n) memory beside the two tables. A million rows of
    10 columns took a second on one core.

    References
    ----------
    Schouten, Lugtig and Vink (2018), Generating missing values for simulation purposes: a multivariate amputation
    procedure, Journal of Statistical Computation and Simulation 88:1909, doi 10.1080/00949655.2018.1491577.

    Examples
    --------
    >>> import fastsynth as fs
    >>> boys = fs.load_boys().select("age", "hgt", "wgt", "hc")
    >>> holes = fs.ampute(boys, prop=0.4, pattern=[["hgt", "wgt"], ["hc"]], random_state=1)
    >>> holes.null_count().row(0)
    (0, 152, 152, 150)

    The boys who are tall and heavy lack both, so the others are smaller on average:

    >>> holes = fs.ampute(boys, 0.4, "MNAR", ["hgt", "wgt"], random_state=1)
    >>> bool(holes["hgt"].mean() < boys["hgt"].mean())
    True
    """
    _check_choice("mechanism", mechanism, MECHANISMS)
    _check_choice("by", by, UNITS)
    if not is_real(prop) or not 0 < prop <= 1:
        raise OptionError(f"prop={prop!r}: must be a share, above 0 and at most 1.")
    entropy = _entropy(random_state)
    table, frame = read_table(data)
    _check_complete(table)
    names = table.column_names
    patterns = _patterns(pattern, names)
    missing = np.array([[name in own for name in names] for own in patterns])
    if mechanism == "MAR" and missing.all(axis=1).any():
        raise OptionError(
            "pattern: with mechanism='MAR' holes depend on columns that stay observed, and one pattern holds all "
            "columns. Leave a column out of it, or take 'MCAR' or 'MNAR'."
        )
    shares = _shares(freq, len(patterns))
    types = _types(type, len(patterns))
    weight = _weights(weights, mechanism, missing, names)
    share = float(prop) if by == "rows" else _share_of_rows(float(prop), missing, shares)

    n = table.num_rows
    edges = np.cumsum(shares)[:-1]
    which = np.searchsorted(edges, unit(random_words(entropy, (AMPUTE, 0), n)), side="right")
    probability = np.full(n, share)
    if mechanism != "MCAR":
        scores = _scores(table, weight, which)
        for i, own in enumerate(patterns):
            rows = np.flatnonzero(which == i)
            if len(rows):
                probability[rows] = _probabilities(scores[rows], share, types[i], own)
    holes = unit(random_words(entropy, (AMPUTE, 1), n)) < probability
    for i in np.flatnonzero(missing.any(axis=0)).tolist():
        table = _without(table, i, holes & missing[which, i])
    return frame.native(table)


# Options


def _check_choice(option: str, given: Any, allowed: Sequence[str]) -> None:
    if not isinstance(given, str) or given not in allowed:
        raise OptionError(f"{option}={given!r}: allowed are {', '.join(map(repr, allowed))}.")


def _patterns(given: Any, names: Sequence[str]) -> list[list[str]]:
    """Columns of each pattern."""
    if given is None:
        return [[name] for name in names]
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise OptionError(f"pattern={given!r}: must be a list of columns, or a list of such lists.")
    of_names = [isinstance(part, str) for part in given]
    patterns = [check_column_list("pattern", own) for own in ([given] if all(of_names) else given)]
    for own in patterns:
        check_known("pattern", own, names)
        if len(set(own)) < len(own):
            raise OptionError(f"pattern={own!r}: a column is named twice.")
    return patterns


def _shares(freq: Any, n_patterns: int) -> Floats:
    """Share of the rows that are candidates of each pattern."""
    given = [1.0] * n_patterns if freq is None else freq
    if not isinstance(given, Sequence | np.ndarray) or not all(is_real(part) and 0 < part < math.inf for part in given):
        raise OptionError(f"freq={freq!r}: must be a list of numbers above 0, one for each pattern.")
    if len(given) != n_patterns:
        raise OptionError(f"freq={freq!r}: there are {n_patterns} patterns. Give each one number.")
    relative = np.array([float(part) for part in given])
    relative /= relative.max()
    shares: Floats = relative / relative.sum()
    return shares


def _types(given: Any, n_patterns: int) -> list[str]:
    """Type of each pattern."""
    types = [given] * n_patterns if isinstance(given, str) else given
    if not isinstance(types, Sequence):
        raise OptionError(f"type={given!r}: must be one of {', '.join(map(repr, TYPES))}, or a list of these.")
    for one in [given] if isinstance(given, str) else types:
        _check_choice("type", one, TYPES)
    if len(types) != n_patterns:
        raise OptionError(f"type={given!r}: there are {n_patterns} patterns. Give each one type, or one to all.")
    return list(types)


def _weights(given: Any, mechanism: str, missing: NDArray[np.bool_], names: Sequence[str]) -> Floats:
    """Weight of each column in the score of each pattern, of which the largest of a pattern is 1 or -1.

    Parameters
    ----------
    missing : ndarray of shape (n_patterns, n_columns), dtype=bool
    """
    if mechanism == "MCAR":
        if given is not None:
            raise OptionError("weights: with mechanism='MCAR' there is no score. Leave them out, or take 'MAR'.")
        return np.zeros(missing.shape)
    counts = missing if mechanism == "MNAR" else ~missing
    lists = not isinstance(given, Mapping) and given is not None
    if lists and not (isinstance(given, Sequence) and all(isinstance(own, Mapping) for own in given)):
        raise OptionError(f"weights={given!r}: must be a dict of columns to numbers, or a list of these by pattern.")
    if lists and len(given) != len(missing):
        raise OptionError(f"weights: a list of {len(given)} for {len(missing)} patterns. Give each pattern one dict.")
    weight = counts.astype(np.float64)
    for i, own in enumerate(given if lists else [given or {}]):
        of = slice(i, i + 1) if lists else slice(None)
        check_known("weights", own, names)
        for name, value in own.items():
            if not is_real(value) or not math.isfinite(value):
                raise OptionError(f"weights: {value!r} of {name!r} must be a finite number.")
            place = names.index(name)
            if value != 0 and not counts[of, place].any():
                what = "go missing" if mechanism == "MNAR" else "stay observed"
                raise OptionError(
                    f"weights: {name!r} does not count. With mechanism={mechanism!r} columns do that {what} in the "
                    "pattern. Leave it out, or change the pattern."
                )
            weight[of, place] = np.where(counts[of, place], float(value), 0.0)
    largest = np.abs(weight).max(axis=1, keepdims=True)
    for own in missing[largest[:, 0] == 0]:
        columns = [name for name, part in zip(names, own, strict=True) if part]
        raise OptionError(
            f"weights: all columns that count in the pattern {columns} have 0, so that mechanism={mechanism!r} has "
            "nothing to depend on. Give one another weight, or take 'MCAR'."
        )
    relative: Floats = weight / largest
    return relative


def _share_of_rows(prop: float, missing: NDArray[np.bool_], shares: Floats) -> float:
    """Share of the rows that need holes for a share of all cells."""
    most = float(missing.sum(axis=1) @ shares) / missing.shape[1]
    # Shares are sums of floats: what is too much only by rounding is not.
    if prop > most * (1 + SAME):
        raise OptionError(
            f"prop={prop!r} of by='cells': with holes in every row these patterns give {most:.4g} of the cells. Take "
            "less, or patterns of more columns."
        )
    return float(min(prop / most, 1.0))


# The table


def _check_complete(table: pa.Table) -> None:
    """Refuse a table without rows, and one with missing values: they would mix with those that are made."""
    if not table.num_rows or not table.num_columns:
        raise DataError(
            f"The table has {table.num_rows} row(s) of {table.num_columns} column(s). Holes need at least one of each."
        )
    bad = [name for name, column in zip(table.column_names, table.columns, strict=True) if _has_missing(column)]
    if bad:
        raise DataError(
            f"Column(s) {', '.join(map(repr, bad))} have missing values already; ampute takes complete tables. Drop "
            "the rows first (polars: drop_nulls, and drop_nans for NaN; pandas: dropna), or the columns."
        )


def _has_missing(column: pa.ChunkedArray) -> bool:
    if pa.types.is_floating(column.type):
        return bool(np.isnan(numbers_of(column)).any())
    # A category may itself be null, which Arrow counts here only.
    return any(chunk.is_null().true_count for chunk in column.chunks)


def _without(table: pa.Table, i: int, holes: NDArray[np.bool_]) -> pa.Table:
    """The table with null in some rows of a column."""
    field, column, start = table.schema.field(i), table.column(i), 0
    chunks = []
    for chunk in column.chunks:
        places = pa.array(np.arange(len(chunk)), mask=holes[start : start + len(chunk)])
        chunks.append(taken(chunk, places))
        start += len(chunk)
    return table.set_column(i, field.with_nullable(True), pa.chunked_array(chunks, column.type))


# Scores


def _scores(table: pa.Table, weight: Floats, which: NDArray[np.int64]) -> Floats:
    """Score of each row in the pattern that it is a candidate of.

    Parameters
    ----------
    weight : ndarray of shape (n_patterns, n_columns), dtype=float64
    which : ndarray of shape (n_rows,), dtype=int64
        Pattern of each row.
    """
    scores = np.zeros(table.num_rows)
    for i in np.flatnonzero(weight.any(axis=0)).tolist():
        scores += weight[which, i] * _standardised(table.column_names[i], table.column(i))
    return scores


def _standardised(name: str, column: pa.ChunkedArray) -> Floats:
    """A column as numbers of mean 0 and variance 1; zeros if it does not vary."""
    dtype = column.type
    temporal = pa.types.is_temporal(dtype) and not pa.types.is_interval(dtype)
    if is_text(dtype) or pa.types.is_dictionary(dtype):
        numbers = _level_numbers(column)
    elif is_numeric(dtype) or temporal or pa.types.is_boolean(dtype):
        numbers = numbers_of(column)
    else:
        raise DataError(
            f"Column {name!r} has type {dtype}, which is no part of a score. Leave it out: weights={{{name!r}: 0}}."
        )
    low, high = float(numbers.min()), float(numbers.max())
    if not math.isfinite(high - low):
        raise DataError(
            f"Column {name!r} has infinite values, of which there is no score. Replace them, or leave the column out: "
            f"weights={{{name!r}: 0}}."
        )
    if low == high:
        return np.zeros(len(numbers))
    # Between 0 and 1 no square overflows.
    numbers = (numbers - low) / (high - low)
    standard: Floats = (numbers - numbers.mean()) / numbers.std()
    return standard


def _level_numbers(column: pa.ChunkedArray) -> Floats:
    """Number of the level of each row: in their own order if they have one, else among the sorted ones that occur."""
    if pa.types.is_dictionary(column.type):
        array = column.unify_dictionaries().combine_chunks()
    else:
        array = storage_of(column).combine_chunks().dictionary_encode()
    places = array.indices.to_numpy(zero_copy_only=False)
    if array.type.ordered:
        return np.asarray(places, np.float64)
    used, of_row = np.unique(places, return_inverse=True)
    levels = storage_of(array.dictionary).take(pa.array(used))
    numbers = pc.rank(levels, sort_keys="ascending", tiebreaker="dense").to_numpy()
    return np.asarray(numbers[of_row], np.float64)


def _probabilities(scores: Floats, share: float, type_: str, own: Sequence[str]) -> Floats:
    """Probability of holes for each candidate of a pattern; their mean is the share. O(50 n)."""
    if np.ptp(scores) <= SAME:
        warnings.warn(
            f"All {len(scores):,} candidate(s) of the pattern {', '.join(map(repr, own))} have the same score: their "
            "holes come completely at random.",
            DataWarning,
            stacklevel=3,
        )
        return np.full(len(scores), share)
    if share >= 1:
        return np.ones(len(scores))
    z = (scores - scores.mean()) / scores.std(ddof=1)
    pull = {"right": z, "left": -z, "mid": -np.abs(z), "tail": np.abs(z)}[type_]
    # With the low shift no probability is above the share, with the high one none is below.
    low, high = logit(share) - pull.max(), logit(share) - pull.min()
    for _ in range(HALVINGS):
        shift = (low + high) / 2
        if expit(pull + shift).mean() < share:
            low = shift
        else:
            high = shift
    return np.asarray(expit(pull + high), np.float64)
