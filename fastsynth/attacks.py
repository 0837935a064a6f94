"""Attacks on copies: who was in the data, who can be singled out, linked, or have a value inferred.

Every attack has a control: the same attack on hold-out rows, real rows of the same population that the copies were not
made from. What succeeds against them as often is a property of the population, not a leak. An attack that fails is no
proof of safety: another one may succeed.

Terms: *members* are rows that the copies were made from, *non-members* are not; a *target* is a row that is attacked.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fastsynth.errors import DataError, DataWarning, OptionError, check_count
from fastsynth.execute import Executor, Threads
from fastsynth.streams import ATTACK, HOLDOUT, below, random_words, unit
from fastsynth.synthesis import Synthesizer

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Distances are between all pairs of rows, so they are taken on samples of at most so many.
MOST_TARGETS, MOST_INDEX = 10_000, 50_000
# Nearest neighbours of a density.
NEIGHBOURS = 5
# Rows that shadow models are made of, and targets among them.
SHADOW_ROWS, SHADOW_TARGETS = 2_000, 200
# Rows of which a distance matrix is held at a time.
BLOCK_ROWS, BLOCK_CELLS = 256, 1 << 18
# Fewest hold-out rows; each half of them is a group of its own.
FEWEST_HOLDOUT = 20
DRAWS = 400
Z = 1.959963984540054
FALSE_POSITIVES = {"TPR at FPR 1 %": 0.01, "TPR at FPR 0.1 %": 0.001}
# Numbers further out than this (in sinh units: 10^8 interquartile ranges) count as equally far.
FURTHEST = 20.0
NULL, NAN, UNSEEN = -1, -2, -3
ALARM = (
    "An alarm only, no evidence of safety: copies that pass tests of distance have been attacked with success "
    "(Yao et al. 2025, The DCR delusion)."
)


# --- Results ---


@dataclass(frozen=True, slots=True)
class Statistic:
    """One number of an attack.

    Attributes
    ----------
    name : str
        "AUC", "TPR at FPR 1 %", "risk", ...
    value : float or None
        None where there are too few rows for it; ``note`` says so.
    low, high : float or None
        Limits of a 95 % interval.
    baseline : float or None
        What the number would be without any leak.
    note : str
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    baseline: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Attack:
    """What an attack achieved.

    Attributes
    ----------
    name : str
    n_targets : int
        Members that were attacked; of "distances" the synthetic rows, of singling out the predicates.
    statistics : tuple of Statistic
    note : str
        What was sampled, and other limits.
    records : polars.DataFrame or None
        Of attacks on membership, one row for each member attacked, ``row`` numbered in the table of the members from 0:
        score and false_positives (share of the non-members whose score is as high), called (the score is above that of
        99 % of the non-members); of shadow models group ("outlying", "random") and AUC.
    """

    name: str
    n_targets: int
    statistics: tuple[Statistic, ...]
    note: str = ""
    records: pl.DataFrame | None = None

    def __getitem__(self, statistic: str) -> float | None:
        """Value of a statistic."""
        for found in self.statistics:
            if found.name == statistic:
                return found.value
        raise KeyError(statistic)


def attacks_table(attacks: Sequence[Attack]) -> pl.DataFrame:
    """All statistics of some attacks as one table.

    Returns
    -------
    polars.DataFrame
        attack, statistic, value, low, high, baseline, n_targets, note.

    Examples
    --------
    >>> attacks_table([Attack("linkability", 50, (Statistic("risk", 0.1, 0.0, 0.2, 0.0),))]).row(0)
    ('linkability', 'risk', 0.1, 0.0, 0.2, 0.0, 50, '')
    """
    schema = {"attack": pl.String, "statistic": pl.String}
    schema |= dict.fromkeys(("value", "low", "high", "baseline"), pl.Float64)  # type: ignore[arg-type]
    schema |= {"n_targets": pl.Int64, "note": pl.String}  # type: ignore[dict-item]
    rows = [
        (a.name, s.name, s.value, s.low, s.high, s.baseline, a.n_targets, " ".join(filter(None, (s.note, a.note))))
        for a in attacks
        for s in a.statistics
    ]
    return pl.DataFrame(rows, schema, orient="row")


# --- Rows as points ---


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Rows of a table as an attacker compares them.

    Attributes
    ----------
    ranks : ndarray of shape (n_columns, n_rows), dtype=int32
        Exact values: the same rank means the same value, and ranks of numbers are in their order. -1 is null, -2 NaN.
    values : ndarray of shape (n_columns, n_rows), dtype=float32
        Numbers on the scale of distances; 0 where missing, and for categories.
    is_number : tuple of bool
    """

    ranks: NDArray[np.int32]
    values: NDArray[np.float32]
    is_number: tuple[bool, ...]

    def __len__(self) -> int:
        return int(self.ranks.shape[1])

    def rows(self, rows: Integers | slice) -> Points:
        """Some of the rows."""
        return replace(
            self,
            ranks=np.ascontiguousarray(self.ranks[:, rows]),
            values=np.ascontiguousarray(self.values[:, rows]),
        )

    def columns(self, columns: Sequence[int]) -> Points:
        """Some of the columns."""
        chosen = list(columns)
        return Points(self.ranks[chosen], self.values[chosen], tuple(self.is_number[j] for j in chosen))

    @staticmethod
    def stack(parts: Sequence[Points]) -> Points:
        """All rows of several."""
        ranks, values = (np.concatenate([getattr(p, name) for p in parts], axis=1) for name in ("ranks", "values"))
        return Points(ranks, values, parts[0].is_number)


@dataclass(frozen=True, slots=True, eq=False)
class _Axis:
    """One column: its sorted levels, and of numbers the centre and the scale."""

    levels: Any
    is_number: bool
    centre: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """Where rows of several tables have a distance: mixed types, robust to long tails, nulls are a value.

    The squared distance of two rows is the sum over columns of

    * numbers and dates: (asinh(a) - asinh(b))^2, where a and b are the values less the median, in interquartile ranges,
      both of all tables; asinh is the identity around the median and a logarithm in the tails, so that neither an
      extreme value outweighs all other columns nor extremes look alike. If the range is 0, that of the values other
      than the commonest is taken;
    * categories, text and booleans: 1 if they differ;
    * null and NaN: a number that is missing lies at the median, and 1 is added if only one of the two is missing, or
      for another reason.

    So a typical difference weighs as much in every column.

    Attributes
    ----------
    names : tuple of str

    Examples
    --------
    >>> frame = pl.DataFrame({"age": [20, 30, 40, 50, 60], "sex": ["f", "m", "f", "m", None]})
    >>> points = Space.of([frame]).points(frame)
    >>> nearest(points, points, 2)[0][:, 1].astype(float).round(2).tolist()
    [0.88, 0.96, 0.88, 0.96, 1.08]
    """

    names: tuple[str, ...]
    _axes: tuple[_Axis, ...]

    @classmethod
    def of(cls, frames: Sequence[pl.DataFrame]) -> Space:
        """Learn the values and scales of all rows of some tables with the same columns.

        Raises
        ------
        DataError
            A table without rows, or without a column of the first; a column that is a number in one table only, or is
            neither a number, a date, a category, text nor a boolean.
        """
        names = frames[0].columns
        for frame in frames:
            missing = [name for name in names if name not in frame.columns]
            if frame.height == 0 or not names or missing:
                what = f"{missing[0]!r} is missing from one of them" if missing else "one of them is empty"
                raise DataError(f"Attacks need tables with the same columns and at least one row: {what}.")
        return cls(tuple(names), tuple(_axis(name, [frame[name] for frame in frames]) for name in names))

    def points(self, frame: pl.DataFrame) -> Points:
        """Rows of a table in this space.

        Numbers that ``of`` has not seen have a rank between those that it has, categories rank -3: exact comparisons
        among such values are not possible.
        """
        coded = [_code(axis, frame[name]) for name, axis in zip(self.names, self._axes, strict=True)]
        ranks, values = (np.stack(part) for part in zip(*coded, strict=True))
        return Points(ranks, values, tuple(axis.is_number for axis in self._axes))


def _plain(name: str, column: pl.Series) -> pl.Series:
    """A column as whole numbers, fractional numbers or text."""
    dtype = column.dtype
    if dtype.is_temporal():
        column = column.cast(pl.Datetime("us")) if isinstance(dtype, pl.Datetime) else column
        return column.to_physical().cast(pl.Int64)
    if dtype == pl.Boolean or isinstance(dtype, pl.Categorical | pl.Enum | pl.String | pl.Null):
        return column.cast(pl.String)
    if not dtype.is_numeric():
        raise DataError(f"Column {name!r} is {dtype}: attacks compare numbers, dates, categories, text and booleans.")
    return column.cast(pl.Int64 if dtype.is_integer() and dtype != pl.UInt64 else pl.Float64)


def _axis(name: str, columns: Sequence[pl.Series]) -> _Axis:
    plain = [_plain(name, column) for column in columns]
    texts = [column.dtype == pl.String for column in plain]
    if all(texts):
        return _Axis(pl.concat(plain).unique().drop_nulls().sort(), False)
    if any(texts):
        # A column of nulls alone has no type of its own.
        if any(text and column.null_count() < len(column) for text, column in zip(texts, plain, strict=True)):
            raise DataError(f"Column {name!r} is a number in one table and text in another: cast one of them.")
        plain = [column.cast(pl.Float64) for column in plain]
    whole = all(column.dtype == pl.Int64 for column in plain)
    pooled = pl.concat([column if whole else column.cast(pl.Float64) for column in plain]).drop_nulls().to_numpy()
    levels, counts = np.unique(pooled[~np.isnan(pooled)], return_counts=True)
    if len(levels) == 0:
        return _Axis(levels, True)
    finite = np.isfinite(levels)
    values, counts = levels[finite].astype(np.float64), counts[finite]
    if len(values) == 0:
        return _Axis(levels, True)
    centre, scale = _quantile(values, counts, 0.5), _range(values, counts)
    if scale == 0:
        other = np.arange(len(values)) != np.argmax(counts)
        scale = (_range(values[other], counts[other]) if other.any() else 0.0) or float(np.ptp(values))
    return _Axis(levels, True, centre, scale or 1.0)


def _quantile(values: Floats, counts: Integers, p: float) -> float:
    cumulated = np.cumsum(counts)
    return float(values[np.searchsorted(cumulated, p * cumulated[-1])])


def _range(values: Floats, counts: Integers) -> float:
    return _quantile(values, counts, 0.75) - _quantile(values, counts, 0.25)


def _code(axis: _Axis, column: pl.Series) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Ranks and values of one column."""
    plain = _plain(column.name, column)
    null = plain.is_null().to_numpy()
    if not axis.is_number:
        codes = pl.Series(range(len(axis.levels)), dtype=pl.Int32)
        ranks = plain.cast(pl.String).replace_strict(axis.levels, codes, default=UNSEEN).to_numpy().copy()
        ranks[null] = NULL
        return ranks, np.zeros(len(ranks), np.float32)
    whole = axis.levels.dtype == np.int64 and plain.dtype == pl.Int64
    numbers = plain.cast(pl.Int64 if whole else pl.Float64).fill_null(0).to_numpy()
    levels = axis.levels if whole else axis.levels.astype(np.float64)
    # An odd rank has a value that was seen, an even one lies between two.
    ranks = 2 * np.searchsorted(levels, numbers).astype(np.int32)
    if len(levels):
        ranks += levels[np.minimum(ranks >> 1, len(levels) - 1)] == numbers
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.arcsinh((numbers.astype(np.float64) - axis.centre) / axis.scale)
    nan = np.isnan(numbers) & ~null
    ranks[nan], ranks[null] = NAN, NULL
    values[nan | null] = 0.0
    return ranks, np.clip(values, -FURTHEST, FURTHEST).astype(np.float32)


def _squared(targets: Points, index: Points) -> NDArray[np.float32]:
    """Squared distances of all pairs: (n_targets, n_index)."""
    shape = (len(targets), len(index))
    squared, differ = np.zeros(shape, np.float32), np.zeros(shape, np.uint8 if len(targets.ranks) < 256 else np.uint16)
    part, unequal = np.empty(shape, np.float32), np.empty(shape, np.bool_)
    for j, is_number in enumerate(targets.is_number):
        a, b = targets.ranks[j], index.ranks[j]
        if is_number:
            np.subtract(targets.values[j][:, None], index.values[j], out=part)
            np.multiply(part, part, out=part)
            squared += part
            a, b = np.minimum(a, 0), np.minimum(b, 0)
            if not a.any() and not b.any():
                continue
        np.not_equal(a[:, None], b, out=unequal)
        differ += unequal.view(np.uint8)
    squared += differ
    return squared


def _nearest_of_block(shared: tuple[Points, Points, int], first: int, end: int) -> tuple[NDArray[Any], Integers]:
    targets, index, k = shared
    block = targets.rows(slice(first, end))
    squared = np.empty((end - first, len(index)), np.float32)
    # Pieces of the index stay in the cache while all columns are added up.
    width = max(1, BLOCK_CELLS // (end - first))
    for start in range(0, len(index), width):
        squared[:, start : start + width] = _squared(block, index.rows(slice(start, start + width)))
    rows = np.argpartition(squared, k - 1, axis=1)[:, :k] if k < len(index) else np.tile(np.arange(k), (len(block), 1))
    rows.sort(axis=1)
    found = np.take_along_axis(squared, rows, axis=1)
    order = np.argsort(found, axis=1, kind="stable")
    return np.sqrt(np.take_along_axis(found, order, axis=1)), np.take_along_axis(rows, order, axis=1)


def nearest(
    targets: Points, index: Points, k: int, executor: Executor | None = None
) -> tuple[NDArray[np.float32], Integers]:
    """Find the k rows of an index that are nearest to each target, exactly.

    Returns
    -------
    distances : ndarray of shape (n_targets, k), dtype=float32
        Rising.
    rows : ndarray of shape (n_targets, k), dtype=int64
        Of rows at the same distance the first of those that are among the k come first.

    Raises
    ------
    DataError
        Fewer than k rows in the index.

    Notes
    -----
    O(n_targets n_index n_columns): 10,000 targets in an index of 50,000 rows of 15 columns take some seconds. Rows that
    are equal have a distance of exactly 0, which a product of matrices would not give.
    """
    if k > len(index):
        raise DataError(f"The {k} nearest of {len(index)} rows cannot be found: give more rows.")
    jobs = [(i, min(i + BLOCK_ROWS, len(targets))) for i in range(0, len(targets), BLOCK_ROWS)]
    blocks = (executor or Threads()).map(_nearest_of_block, (targets, index, k), jobs, lambda _, x: x)
    distances, rows = zip(*blocks, strict=True)
    return np.concatenate(distances), np.concatenate(rows)


# --- Scores, rates and their uncertainty ---


def roc(scores: Floats, member: Bools, weights: Floats | None = None) -> dict[str, Floats]:
    """AUC, advantage and true-positive rates at low false-positive rates, for many weightings of the targets at once.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Higher means more likely a member.
    member : ndarray of shape (n,), dtype=bool
    weights : ndarray of shape (b, n), optional
        How often each target counts; the default is once.

    Returns
    -------
    dict of str to ndarray of shape (b,)
        "AUC": probability that a member scores higher than a non-member, ties half. "TPR at FPR 1 %", "TPR at FPR
        0.1 %": share of the members above the lowest threshold that at most so many non-members exceed (Carlini et al.
        2022). "advantage": largest TPR - FPR of any threshold (Yeom et al. 2018).

    Notes
    -----
    O(n log n + b n).

    Examples
    --------
    >>> found = roc(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False]))
    >>> float(found["AUC"][0]), float(found["advantage"][0])
    (0.875, 0.5)
    """
    weights = np.ones((1, len(scores))) if weights is None else weights
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    found: dict[str, list[Floats]] = {}
    for some in np.array_split(weights, -(-weights.size // 2_000_000)):
        ordered, is_member = some[:, order], member[order]
        tpr, fpr = (np.cumsum(ordered * side, axis=1)[:, ends] for side in (is_member, ~is_member))
        with np.errstate(invalid="ignore"):
            tpr, fpr = (np.pad(rate, ((0, 0), (1, 0))) / rate[:, -1:] for rate in (tpr, fpr))
        part = {"AUC": (np.diff(fpr) * (tpr[:, 1:] + tpr[:, :-1])).sum(axis=1) / 2}
        for name, share in FALSE_POSITIVES.items():
            part[name] = np.where(fpr <= share + 1e-12, tpr, 0.0).max(axis=1)
        part["advantage"] = (tpr - fpr).max(axis=1)
        for name, values in part.items():
            found.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in found.items()}


def _roc_statistics(scores: Floats, member: Bools, weights: Floats, what: str) -> tuple[Statistic, ...]:
    """Statistics of ``roc`` with percentile intervals of a bootstrap, given as weights of its draws."""
    value, draws = roc(scores, member), roc(scores, member, weights)
    n, n_others = int(member.sum()), int((~member).sum())
    # Mean of the largest distance between the ROC curve and the diagonal if scores tell nothing.
    expected = math.sqrt(math.pi / 8 * (1 / n + 1 / n_others))
    baselines = {"AUC": 0.5, "advantage": expected, **FALSE_POSITIVES}
    found = []
    for name, baseline in baselines.items():
        fewest = round(1 / FALSE_POSITIVES.get(name, 1.0))
        if n_others < fewest:
            note = f"Needs {fewest:,} {what}, there are {n_others:,}."
            found.append(Statistic(name, None, baseline=baseline, note=note))
            continue
        # A draw that has no member, or no other, says nothing.
        low, high = np.nanquantile(draws[name], [0.025, 0.975])
        found.append(Statistic(name, float(value[name][0]), float(low), float(high), baseline))
    return tuple(found)


def _bootstrap(n: int, entropy: int, *key: int) -> Floats:
    """How often each of n is drawn, in each of some draws of n with replacement: (DRAWS, n)."""
    drawn = below(random_words(entropy, (ATTACK, *key), DRAWS * n), n) + np.repeat(np.arange(DRAWS) * n, n)
    return np.bincount(drawn, minlength=DRAWS * n).reshape(DRAWS, n).astype(np.float64)


def wilson(successes: int, attacks: int) -> tuple[float, float]:
    """Centre and half width of the 95 % interval of Wilson (1927) for a success rate.

    Examples
    --------
    >>> [round(x, 4) for x in wilson(10, 100)]
    [0.1148, 0.0596]
    """
    total = attacks + Z**2
    half = Z / total * math.sqrt(successes * (attacks - successes) / attacks + Z**2 / 4)
    return (successes + Z**2 / 2) / total, half


def risk(main: tuple[int, int], control: tuple[int, int]) -> tuple[float, float, float]:
    """Excess of an attack's success over that of the control, as a share of what the control left to achieve.

    Parameters
    ----------
    main, control : tuple of int
        Successes and attacks, against members and against rows that the copies were not made from.

    Returns
    -------
    tuple of float
        (r - c) / (1 - c) for the centres r, c of Wilson intervals, and the limits of a 95 % interval by propagation of
        their half widths; all between 0 and 1.

    References
    ----------
    Giomi, Boenisch, Wehmeyer and Tasnadi (2023), A unified framework for quantifying privacy risk in synthetic data,
    PoPETs 2023(2):312.

    Examples
    --------
    >>> [round(x, 4) for x in risk((50, 100), (10, 100))]
    [0.4352, 0.3201, 0.5503]
    """
    (r, r_half), (c, c_half) = wilson(*main), wilson(*control)
    value = (r - c) / (1 - c)
    half = math.hypot(r_half / (1 - c), c_half * (1 - r) / (1 - c) ** 2)
    return min(max(value, 0.0), 1.0), min(max(value - half, 0.0), 1.0), min(max(value + half, 0.0), 1.0)


def _risk_statistics(main: Bools, control: Bools, naive: float) -> tuple[Statistic, ...]:
    """Success rates of the attack, the control and a guess, and the risk."""
    counts = [(int(side.sum()), len(side)) for side in (main, control)]
    rates = [successes / attacks for successes, attacks in counts]
    limits = []
    for successes, attacks in counts:
        centre, half = wilson(successes, attacks)
        limits.append((max(centre - half, 0.0), min(centre + half, 1.0)))
    value, low, high = risk(*counts)
    weak = "" if rates[0] > naive else "The attack is no better than a guess: no evidence either way."
    return (
        Statistic("risk", value, low, high, 0.0, weak),
        Statistic("success", rates[0], *limits[0], naive),
        Statistic("control", rates[1], *limits[1], naive),
    )


# --- Membership ---


def membership(
    members: pl.DataFrame,
    nonmembers: pl.DataFrame,
    copies: Sequence[pl.DataFrame],
    reference: pl.DataFrame | None = None,
    *,
    random_state: int = 0,
    threads: int | None = None,
) -> list[Attack]:
    """Tell members from non-members by how near synthetic rows are to them.

    Parameters
    ----------
    members : polars.DataFrame
        Rows that the copies were made from; at most 10,000 of them are attacked.
    nonmembers : polars.DataFrame
        Rows of the same population that they were not made from; at most 10,000.
    copies : list of polars.DataFrame
        All m copies; the attacker sees all of them (at most 50,000 rows, as many of each).
    reference : polars.DataFrame, optional
        Further real rows that are neither: what the attacker knows of the population.

    Returns
    -------
    list of Attack
        "membership (distance)": the score is less the distance to the nearest synthetic row. With ``reference`` also
        "membership (density ratio)", as DOMIAS of van Breugel et al. (2023): log density of the copies less log density
        of the reference, both by nearest neighbours. It does not take rows for members that lie where everybody does.

    Raises
    ------
    DataError
        Tables without common columns or rows.

    Notes
    -----
    O(targets (copies + reference) columns). Intervals are percentiles of 400 bootstrap draws of members and
    non-members.

    References
    ----------
    van Breugel, Sun, Qian and van der Schaar (2023), Membership inference attacks against synthetic data through
    overfitting detection, AISTATS.

    Examples
    --------
    >>> import fastsynth as fs
    >>> boys = fs.load_boys()
    >>> leak = membership(boys[::2], boys[1::2], [boys[::2]])[0]
    >>> leak["AUC"] > 0.95
    True
    """
    entropy, executor = _entropy(random_state), _executor(threads)
    sides = [_some(side, MOST_TARGETS, entropy, i) for i, side in enumerate((members, nonmembers))]
    index = _some_of_copies(copies, MOST_INDEX, entropy)
    others = [] if reference is None else [_some(reference, MOST_INDEX, entropy, 2)[0]]
    space = Space.of([sides[0][0], sides[1][0], index, *others])
    targets = Points.stack([space.points(rows) for rows, _ in sides])
    synthetic = nearest(targets, space.points(index), min(NEIGHBOURS, index.height), executor)[0]
    scores = {"membership (distance)": -synthetic[:, 0].astype(np.float64)}
    if others:
        real = nearest(targets, space.points(others[0]), min(NEIGHBOURS, others[0].height), executor)[0]
        scores["membership (density ratio)"] = _log_mean(real) - _log_mean(synthetic)
    is_member = np.arange(len(targets)) < len(sides[0][1])
    weights = np.hstack([_bootstrap(len(rows), entropy, 3, i) for i, (_, rows) in enumerate(sides)])
    note = _sampled_note(
        (len(sides[0][1]), members.height, "members"),
        (len(sides[1][1]), nonmembers.height, "non-members"),
        (index.height, sum(copy.height for copy in copies), "synthetic rows"),
    )
    return [
        Attack(
            name,
            len(sides[0][1]),
            _roc_statistics(score, is_member, weights, "non-members"),
            note,
            _called(score, is_member, sides[0][1]),
        )
        for name, score in scores.items()
    ]


def _log_mean(distances: NDArray[np.float32]) -> Floats:
    """Mean logarithm of the distances to neighbours; less it, times the dimension, is a log density."""
    # A row that is equal is as near as one that differs by a hundredth of a typical difference.
    logs: Floats = np.log(distances.astype(np.float64) + 0.01)
    return np.asarray(logs.mean(axis=1))


def _called(scores: Floats, member: Bools, rows: Integers) -> pl.DataFrame:
    """For each member attacked, the share of non-members that score as high."""
    others = np.sort(scores[~member])
    own = scores[member]
    above = (len(others) - np.searchsorted(others, own, side="left")) / len(others)
    enough = len(others) >= round(1 / FALSE_POSITIVES["TPR at FPR 1 %"])
    called = (above <= FALSE_POSITIVES["TPR at FPR 1 %"]) & enough
    return pl.DataFrame({"row": rows, "score": own, "false_positives": above, "called": called}).sort("row")


# --- Shadow models ---


@dataclass(frozen=True, slots=True, eq=False)
class _Shadows:
    """What all shadow runs share."""

    population: pl.DataFrame
    recipe: Any
    space: Space
    targets: Points
    radii: Floats
    m: int
    entropy: int


def shadow_models(
    original: pl.DataFrame,
    recipe: Synthesizer,
    *,
    targets: int = SHADOW_TARGETS,
    shadows: int = 48,
    m: int = 5,
    rows: int = SHADOW_ROWS,
    random_state: int = 0,
    threads: int | None = None,
) -> list[Attack]:
    """Tell members from non-members by someone who can run the synthesis as often as he likes.

    1. Draw a population of ``rows`` rows and targets among them: half are the most outlying (furthest from the nearest
       other row), half are drawn at random from the rest.
    2. Split the population at random in two halves, fit ``recipe`` to each, and draw m copies as large as the half. So
       each target is a member in one of two runs. Repeat this until there are ``shadows`` runs.
    3. Describe, for each run and target, what is in all m copies around the target: distances to the nearest rows, rows
       equal in all columns or all but a few, rows with the target's value of each column, the gap to its numbers.
    4. In three quarters of the pairs of runs, learn how these differ between runs with and without the target: each
       feature from the target's own mean in its own standard deviations (a likelihood-ratio attack as LiRA), all
       features together by a linear discriminant of all targets. Score the runs that are left. Each is scored once.

    This is a strong attacker, who knows the recipe and all rows but not whether the target was among them. What the
    copies say about a half of 1,000 rows they say, less loudly, about a million.

    Parameters
    ----------
    original : polars.DataFrame
    recipe : Synthesizer
        Options of the synthesis (``Synthesis.recipe``); it is cloned, not fitted.
    targets : int, default 200
        At least 4.
    shadows : int, default 48
        Runs; an even number of at least 8.
    m : int, default 5
        Copies of each run; the more there are, the more they tell.
    rows : int, default 2,000
        Rows of the population; all, if there are fewer.
    random_state : int, default 0
    threads : int, optional

    Returns
    -------
    list of Attack
        "shadow models (all)", "(outlying)" and "(random)", with AUC and true-positive rates over pairs of target and
        run, 95 % intervals of a bootstrap that draws targets and pairs of runs, and "AUC, worst tenth of targets": the
        .9 quantile of the targets' own AUCs (baseline: the .9 quantile if scores tell nothing).

    Raises
    ------
    OptionError, DataError
        Counts as above; fewer rows than targets, or than the recipe can be fitted to.

    Notes
    -----
    Costs ``shadows`` fits to half of ``rows`` rows; with 14 columns some .3 s each.

    References
    ----------
    Stadler, Oprisanu and Troncoso (2022), Synthetic data - anonymisation groundhog day, USENIX Security.
    Carlini, Chien, Nasr, Song, Terzis and Tramer (2022), Membership inference attacks from first principles, IEEE S&P.
    Owen (2007), The pigeonhole bootstrap, AOAS 1:386.
    """
    counts = {"targets": (targets, 4), "shadows": (shadows, 8), "m": (m, 1), "rows": (rows, 8)}
    for name, (count, least) in counts.items():
        if check_count(name, count) < least:
            raise OptionError(f"{name}={count}: must be at least {least}.")
    if shadows % 2:
        raise OptionError(f"shadows={shadows}: must be even, because runs come in pairs that share the rows out.")
    population, kept = _some(original, rows, _entropy(random_state), 10)
    if population.height < targets:
        raise DataError(f"targets={targets}: there are only {population.height} rows. Attack fewer targets.")
    job, chosen = _prepare_shadows(population, recipe, targets, m, _entropy(random_state))
    with warnings.catch_warnings():
        # Whoever made the copies was told.
        warnings.simplefilter("ignore", DataWarning)
        pairs = [(run,) for run in range(shadows)]
        runs = _executor(threads).map(_shadow_run, job, pairs, lambda _, x: x)
    features, member = (np.stack(part) for part in zip(*((f, np.isin(chosen, half)) for half, f in runs), strict=True))
    scores = _cross_fitted(features, member)
    note = _sampled_note((population.height, original.height, "rows"))
    note = " ".join(filter(None, (f"{shadows} runs of {population.height // 2:,} rows, m = {m}.", note)))
    outlying = np.arange(targets) < targets // 2
    own = np.array([roc(scores[:, t], member[:, t])["AUC"][0] for t in range(targets)])
    records = pl.DataFrame({"row": kept[chosen], "group": np.where(outlying, "outlying", "random"), "AUC": own})
    groups = {"all": np.ones(targets, np.bool_), "outlying": outlying, "random": ~outlying}
    return [
        Attack(
            f"shadow models ({name})",
            int(group.sum()),
            _shadow_statistics(scores[:, group], member[:, group], own[group], _entropy(random_state)),
            note,
            records.filter(group).sort("row"),
        )
        for name, group in groups.items()
    ]


def _prepare_shadows(
    population: pl.DataFrame, recipe: Synthesizer, n_targets: int, m: int, entropy: int
) -> tuple[_Shadows, Integers]:
    """Find the targets, outlying ones first."""
    names = _compared_columns(population, _sample(recipe, population, 1, entropy))
    space = Space.of([population.select(names)])
    points = space.points(population)
    distances = nearest(points, points, min(6, len(points)))[0].astype(np.float64)
    outlying = np.argsort(-distances[:, 1], kind="stable")[: n_targets // 2]
    rest = np.setdiff1d(np.arange(len(points)), outlying)
    drawn = np.argsort(random_words(entropy, (ATTACK, 11), len(rest)), kind="stable")[: n_targets - len(outlying)]
    chosen = np.concatenate([outlying, rest[drawn]])
    radii = distances[chosen][:, [1, -1]]
    return _Shadows(population, recipe, space, points.rows(chosen), radii, m, entropy), chosen


def _shadow_run(job: _Shadows, run: int) -> tuple[Integers, Floats]:
    """Rows that a run was fitted to, and what its copies show of the targets."""
    n = job.population.height // 2
    order = np.argsort(random_words(job.entropy, (ATTACK, 12, run // 2), job.population.height), kind="stable")
    half = np.sort(order[:n] if run % 2 == 0 else order[n : 2 * n])
    copies = _sample(job.recipe, job.population[half], job.m, job.entropy + run)
    copied = Points.stack([job.space.points(copy) for copy in copies])
    return half, _describe(job.targets, copied, job.radii)


def _describe(targets: Points, copied: Points, radii: Floats) -> Floats:
    """Features of each target: what is in the copies around it."""
    squared = _squared(targets, copied)
    width = len(targets.ranks)
    equal = np.zeros(squared.shape, np.uint8 if width < 256 else np.uint16)
    columns = []
    for j, is_number in enumerate(targets.is_number):
        same = targets.ranks[j][:, None] == copied.ranks[j]
        equal += same
        columns.append(np.log1p(same.sum(axis=1)))
        if is_number:
            gap = np.abs(targets.values[j][:, None] - copied.values[j]).min(axis=1)
            columns.append(np.log(gap.astype(np.float64) + 1e-4))
    k = min(10, squared.shape[1])
    near = np.sqrt(np.sort(np.partition(squared, k - 1, axis=1)[:, :k], axis=1)).astype(np.float64)
    near = np.pad(near, ((0, 0), (0, 10 - k)), mode="edge")
    almost = [np.log1p((equal >= width - less).sum(axis=1)) for less in range(min(5, width))]
    within = [np.log1p((squared <= (share * r)[:, None] ** 2).sum(axis=1)) for r in radii.T for share in (0.5, 1.0)]
    distances = np.log(np.column_stack([near[:, [0, 1, 4, 9]], near[:, :5].mean(axis=1)]) + 0.01)
    return np.column_stack([distances, *almost, *within, *columns])


def _cross_fitted(features: Floats, member: Bools) -> Floats:
    """Score each run by what the runs of other folds teach; features are (runs, targets, features)."""
    scores = np.empty(member.shape)
    folds = np.arange(len(member)) // 2 % 4
    for fold in range(4):
        learn, is_in = folds != fold, member[folds != fold][:, :, None]
        some = features[learn]
        inside, outside = ((some * side).sum(axis=0) / side.sum(axis=0) for side in (is_in, ~is_in))
        left = some - np.where(is_in, inside, outside)
        # Each target's own variance, held to that of all targets as if four runs more had been seen.
        common = (left**2).mean(axis=(0, 1))
        spread = np.sqrt(((left**2).sum(axis=0) + 4 * common) / (len(some) + 2)) + 1e-9
        centred = (features - (inside + outside) / 2) / spread
        a, y = centred[learn].reshape(-1, features.shape[2]), is_in.ravel()
        means = [a[side].mean(axis=0) for side in (y, ~y)]
        within = a - np.where(y[:, None], *means)
        covariance = within.T @ within / len(a) + 0.05 * np.eye(a.shape[1])
        scores[~learn] = centred[~learn] @ np.linalg.solve(covariance, means[0] - means[1])
    return scores


def _shadow_statistics(scores: Floats, member: Bools, own: Floats, entropy: int) -> tuple[Statistic, ...]:
    runs, targets = scores.shape
    by_pair, by_target = _bootstrap(runs // 2, entropy, 13), _bootstrap(targets, entropy, 14)
    weights = (np.repeat(by_pair, 2, axis=1)[:, :, None] * by_target[:, None, :]).reshape(DRAWS, -1)
    found = _roc_statistics(scores.ravel(), member.ravel(), weights, "pairs of target and run")
    # The .9 quantile of an AUC whose scores tell nothing, of as many runs with as without (Mann and Whitney 1947).
    none = 0.5 + 1.2816 * math.sqrt((runs + 1) / (3 * runs**2))
    return (*found, Statistic("AUC, worst tenth of targets", float(np.quantile(own, 0.9)), baseline=min(none, 1.0)))


# --- Singling out, linking, inferring ---


def singling_out(
    members: pl.DataFrame,
    nonmembers: pl.DataFrame,
    copies: Sequence[pl.DataFrame],
    *,
    attacks: int = 1_000,
    random_state: int = 0,
) -> list[Attack]:
    """Guess predicates that are true of exactly one real row.

    *Univariate*: a column has a value that one row of a copy has, or is at least its largest, at most its smallest
    number. *Multivariate*: a random synthetic row gives conditions on a random subset of two columns or more (equal to
    its category; on the far side of its number, seen from the median), kept if one row of that copy meets them.

    A predicate succeeds if exactly one row of a sample of the members meets it; the control asks the same of the
    non-members. Both have the same number of rows, because it is easier to be alone among few. Of members that are more
    than the non-members only as many are attacked, so that a leak looks smaller by that share. The guess to compare
    with takes each value from a synthetic row of its own, so it knows the margins only.

    Parameters
    ----------
    members, nonmembers : polars.DataFrame
    copies : list of polars.DataFrame
    attacks : int, default 1,000
        Predicates of either kind, at most.

    Returns
    -------
    list of Attack
        "singling out (univariate)", if there is such a predicate, and "(multivariate)": risk, success, control.

    References
    ----------
    Cohen and Nissim (2020), Towards formalizing the GDPR's notion of singling out, PNAS 117:8344.
    Giomi, Boenisch, Wehmeyer and Tasnadi (2023), A unified framework for quantifying privacy risk in synthetic data,
    PoPETs 2023(2):312.
    """
    attacks, entropy = check_count("attacks", attacks), _entropy(random_state)
    size = min(members.height, nonmembers.height, MOST_INDEX)
    sides = [_some(side, size, entropy, 20 + i)[0] for i, side in enumerate((members, nonmembers))]
    drawn = [_some(copy, MOST_INDEX, entropy, 22, i)[0] for i, copy in enumerate(copies)]
    space = Space.of([*sides, *drawn])
    real, other = (space.points(side) for side in sides)
    synthetic = [space.points(copy) for copy in drawn]
    note = _sampled_note((size, members.height, "members"), (size, nonmembers.height, "non-members"))
    found = []
    for kind, make in (("univariate", _univariate), ("multivariate", _multivariate)):
        predicates, guesses = make(synthetic, attacks, entropy)
        if predicates:
            main, control, naive = (
                np.array([_meets(predicate, points).sum() == 1 for predicate in some])
                for some, points in ((predicates, real), (predicates, other), (guesses, real))
            )
            statistics = _risk_statistics(main, control, float(naive.mean()))
            found.append(Attack(f"singling out ({kind})", len(predicates), statistics, note))
    return found


# A predicate: columns, one of "equal", "least", "most" for each (at least, at most), and ranks.
Predicate = tuple[tuple[int, str, int], ...]


def _meets(predicate: Predicate, points: Points) -> Bools:
    """Rows for which all conditions hold."""
    holds = np.ones(len(points), np.bool_)
    for column, side, rank in predicate:
        ranks = points.ranks[column]
        if side == "equal":
            holds &= ranks == rank
        else:
            holds &= (ranks >= rank) if side == "least" else (ranks <= rank) & (ranks >= 0)
    return holds


def _univariate(copies: Sequence[Points], most: int, entropy: int) -> tuple[list[Predicate], list[Predicate]]:
    found: set[Predicate] = set()
    for points in copies:
        for j, is_number in enumerate(points.is_number):
            values, counts = np.unique(points.ranks[j], return_counts=True)
            found |= {((j, "equal", int(value)),) for value in values[counts == 1]}
            if is_number and values[-1] >= 0:
                found.add(((j, "least", int(values[-1])),))
                found.add(((j, "most", int(values[values >= 0][0])),))
    ordered = sorted(found)
    kept = np.sort(np.argsort(random_words(entropy, (ATTACK, 23), len(ordered)), kind="stable")[:most])
    guesses = _margins_only([ordered[i] for i in kept], copies, entropy, 24)
    return [ordered[i] for i in kept], guesses


def _multivariate(copies: Sequence[Points], most: int, entropy: int) -> tuple[list[Predicate], list[Predicate]]:
    width = len(copies[0].ranks)
    medians = [[np.median(ranks[ranks >= 0]) if (ranks >= 0).any() else 0 for ranks in c.ranks] for c in copies]
    # Four tries for each predicate: not every one is true of a single row.
    tries = 4 * most
    rows, sizes = (unit(random_words(entropy, (ATTACK, 25, i), tries)) for i in range(2))
    order = np.argsort(random_words(entropy, (ATTACK, 26), tries * width).reshape(tries, width), axis=1, kind="stable")
    found: dict[Predicate, None] = {}
    for i in range(tries):
        which = i % len(copies)
        points, row = copies[which], int(rows[i] * len(copies[which]))
        columns = np.sort(order[i, : min(2 + int(sizes[i] * (width - 1)), width)])
        predicate = tuple(_condition(points, medians[which], int(j), row) for j in columns)
        if predicate not in found and _meets(predicate, points).sum() == 1:
            found[predicate] = None
        if len(found) == most:
            break
    predicates = list(found)
    return predicates, _margins_only(predicates, copies, entropy, 27)


def _condition(points: Points, medians: Sequence[float], column: int, row: int) -> tuple[int, str, int]:
    rank = int(points.ranks[column, row])
    if not points.is_number[column] or rank < 0:
        return column, "equal", rank
    return column, "least" if rank >= medians[column] else "most", rank


def _margins_only(predicates: Sequence[Predicate], copies: Sequence[Points], entropy: int, key: int) -> list[Predicate]:
    """The same predicates with each value taken from a synthetic row drawn for it alone."""
    width = len(copies[0].ranks)
    words = unit(random_words(entropy, (ATTACK, key), len(predicates) * width)).reshape(-1, width)
    guesses = []
    for i, predicate in enumerate(predicates):
        ranks = copies[i % len(copies)].ranks
        guesses.append(tuple((j, side, int(ranks[j, int(words[i, j] * ranks.shape[1])])) for j, side, _ in predicate))
    return guesses


def linkability(
    members: pl.DataFrame,
    nonmembers: pl.DataFrame,
    copies: Sequence[pl.DataFrame],
    first: Sequence[str],
    second: Sequence[str],
    *,
    neighbours: int = 5,
    random_state: int = 0,
    threads: int | None = None,
) -> Attack:
    """Link two sources about the same person by the copies.

    The attacker has some columns of a target in one source and other columns in another. He links them if a synthetic
    row is among the nearest ones in both.

    Parameters
    ----------
    members, nonmembers : polars.DataFrame
        At most 10,000 of each are attacked.
    copies : list of polars.DataFrame
        At most 50,000 rows of them.
    first, second : list of str
        Columns of the two sources; none in both.
    neighbours : int, default 5
        How many nearest rows count.

    Returns
    -------
    Attack
        "linkability": risk, success, control; the baseline is the chance that two random sets of rows overlap.

    Raises
    ------
    OptionError
        No columns, unknown ones, or a column in both lists.

    References
    ----------
    Giomi, Boenisch, Wehmeyer and Tasnadi (2023), PoPETs 2023(2):312.
    """
    names, entropy = members.columns, _entropy(random_state)
    sets = [_columns_of(option, columns, names) for option, columns in (("first", first), ("second", second))]
    if set(sets[0]) & set(sets[1]):
        raise OptionError("first and second may not share a column.")
    (real, other, synthetic), note, space = _three(members, nonmembers, copies, [*sets[0], *sets[1]], entropy)
    k = min(check_count("neighbours", neighbours), len(synthetic))
    linked = []
    for targets in (real, other):
        near = []
        for some in sets:
            chosen = [space.names.index(name) for name in some]
            near.append(nearest(targets.columns(chosen), synthetic.columns(chosen), k, _executor(threads))[1])
        linked.append((near[0][:, :, None] == near[1][:, None, :]).any(axis=(1, 2)))
    free = np.arange(len(synthetic) - k, len(synthetic) - 2 * k, -1)
    naive = 1 - float(np.prod(np.maximum(free, 0) / np.arange(len(synthetic), len(synthetic) - k, -1)))
    return Attack("linkability", len(real), _risk_statistics(linked[0], linked[1], naive), note)


def inference(
    members: pl.DataFrame,
    nonmembers: pl.DataFrame,
    copies: Sequence[pl.DataFrame],
    keys: Sequence[str],
    target: str,
    *,
    tolerance: float = 0.05,
    random_state: int = 0,
    threads: int | None = None,
) -> Attack:
    """Guess a value of a target from the synthetic row that is nearest in the columns that are known.

    Parameters
    ----------
    members, nonmembers : polars.DataFrame
        At most 10,000 of each are attacked.
    copies : list of polars.DataFrame
        At most 50,000 rows of them.
    keys : list of str
        What the attacker knows.
    target : str
        What he guesses. A category has to be right; a number may be off by ``tolerance`` of the true one's size.
    tolerance : float, default 0.05

    Returns
    -------
    Attack
        "inference of <target>": risk, success, control. The baseline is the success of the commonest synthetic value.

    Raises
    ------
    OptionError
        Unknown columns, a target that is a key, a tolerance that is negative or not a finite number.

    References
    ----------
    Giomi, Boenisch, Wehmeyer and Tasnadi (2023), PoPETs 2023(2):312.
    """
    names, entropy = members.columns, _entropy(random_state)
    known = _columns_of("keys", keys, names)
    _columns_of("target", [target], names)
    if target in known:
        raise OptionError(f"target={target!r}: must not be one of the keys.")
    if not isinstance(tolerance, numbers.Real) or not math.isfinite(tolerance) or tolerance < 0:
        raise OptionError(f"tolerance={tolerance!r}: must be a number of at least 0.")
    (real, other, synthetic), note, space = _three(members, nonmembers, copies, [*known, target], entropy)
    chosen, which = [space.names.index(name) for name in known], space.names.index(target)
    levels, counts = np.unique(synthetic.ranks[which], return_counts=True)
    commonest = np.full(len(real), levels[np.argmax(counts)])

    def right(targets: Points, guesses: NDArray[np.int32]) -> Bools:
        return _agrees(space, which, guesses, targets.ranks[which], float(tolerance))

    found = []
    for targets in (real, other):
        rows = nearest(targets.columns(chosen), synthetic.columns(chosen), 1, _executor(threads))[1][:, 0]
        found.append(right(targets, synthetic.ranks[which][rows]))
    naive = float(right(real, commonest).mean())
    return Attack(f"inference of {target}", len(real), _risk_statistics(found[0], found[1], naive), note)


def _agrees(space: Space, column: int, guesses: Any, truth: Any, tolerance: float) -> Bools:
    """Whether guesses equal the truth, or as numbers are near enough."""
    axis = space._axes[column]
    equal: Bools = guesses == truth
    if axis.is_number and len(axis.levels):
        a, b = (axis.levels[np.maximum(ranks, 0) >> 1].astype(np.float64) for ranks in (guesses, truth))
        with np.errstate(invalid="ignore"):
            equal |= (guesses >= 0) & (truth >= 0) & (np.abs(a - b) <= tolerance * np.abs(b))
    return equal


def _three(
    members: pl.DataFrame, nonmembers: pl.DataFrame, copies: Sequence[pl.DataFrame], names: Sequence[str], entropy: int
) -> tuple[list[Points], str, Space]:
    """Members, non-members and all copies as points, and what was sampled."""
    sides = [
        _some(side.select(names), MOST_TARGETS, entropy, 30 + i)[0] for i, side in enumerate((members, nonmembers))
    ]
    index = _some_of_copies([copy.select(names) for copy in copies], MOST_INDEX, entropy)
    space = Space.of([*sides, index])
    note = _sampled_note(
        (sides[0].height, members.height, "members"),
        (sides[1].height, nonmembers.height, "non-members"),
        (index.height, sum(copy.height for copy in copies), "synthetic rows"),
    )
    return [space.points(frame) for frame in (*sides, index)], note, space


# --- Distances ---


def closest(distances: NDArray[Any]) -> tuple[Floats, Floats]:
    """Distance to the closest record (DCR) and ratio to the second closest (NNDR; 0/0 is 1).

    Parameters
    ----------
    distances : ndarray of shape (n, 2)
        To the nearest and the second nearest real row.

    Examples
    --------
    >>> closest(np.array([[0.1, 0.9], [0.0, 0.0]]))[1].round(6).tolist()
    [0.111111, 1.0]
    """
    first, second = np.asarray(distances, np.float64).T
    return first, np.divide(first, second, out=np.ones_like(first), where=second > 0)


def record_distances(
    members: pl.DataFrame,
    holdout: pl.DataFrame,
    copies: Sequence[pl.DataFrame],
    *,
    random_state: int = 0,
    threads: int | None = None,
) -> Attack:
    """Distances of synthetic rows to members and to hold-out rows: on request, because they prove nothing.

    Members and hold-out are cut to the same size, at most 50,000, and at most 10,000 synthetic rows are looked at.

    Returns
    -------
    Attack
        "distances": "closer to members" is the share of synthetic rows that are nearer to a member than to any hold-out
        row, ties half, with the interval of a share (baseline .5; Platzer and Reutterer 2021); "z" is its distance from
        .5 in standard errors; "DCR, 5 % quantile", "DCR, median", "NNDR, 5 % quantile" and "NNDR, median" to the
        members, each with that to the hold-out as baseline.

    References
    ----------
    Platzer and Reutterer (2021), Holdout-based empirical assessment of mixed-type synthetic data, Front. Big Data 4.
    Yao, Krco, Ganev and de Montjoye (2025), The DCR delusion, ESORICS.
    """
    entropy, executor = _entropy(random_state), _executor(threads)
    size = min(members.height, holdout.height, MOST_INDEX)
    sides = [_some(side, size, entropy, 40 + i)[0] for i, side in enumerate((members, holdout))]
    drawn = _some_of_copies(copies, MOST_TARGETS, entropy)
    space = Space.of([*sides, drawn])
    synthetic = space.points(drawn)
    found = [closest(nearest(synthetic, space.points(side), 2, executor)[0]) for side in sides]
    (own, own_ratio), (other, other_ratio) = found
    share, k = float((own < other).mean() + (own == other).mean() / 2), len(synthetic)
    half = Z * math.sqrt(0.25 / k)
    statistics = [
        Statistic("closer to members", share, max(share - half, 0.0), min(share + half, 1.0), 0.5),
        Statistic("z", (share - 0.5) / math.sqrt(0.25 / k), baseline=0.0),
    ]
    for name, of_members, of_others in (("DCR", own, other), ("NNDR", own_ratio, other_ratio)):
        for label, p in (("5 % quantile", 0.05), ("median", 0.5)):
            both = [float(np.quantile(side, p)) for side in (of_members, of_others)]
            statistics.append(Statistic(f"{name}, {label}", both[0], baseline=both[1]))
    sampled = _sampled_note(
        (size, members.height, "members"),
        (size, holdout.height, "hold-out rows"),
        (k, sum(copy.height for copy in copies), "synthetic rows"),
    )
    return Attack("distances", k, tuple(statistics), " ".join(filter(None, (ALARM, sampled))))


# --- All of them ---


def attack_copies(
    original: pl.DataFrame,
    copies: Sequence[pl.DataFrame],
    holdout: pl.DataFrame,
    *,
    keys: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    distances: bool = False,
    random_state: int = 0,
    threads: int | None = None,
) -> list[Attack]:
    """Attack copies with all attacks that need no refit.

    Parameters
    ----------
    original : polars.DataFrame
        Rows that the copies were made from.
    copies : list of polars.DataFrame
    holdout : polars.DataFrame
        At least 20 rows of the same population that they were *not* made from. A random half of them is the reference
        of the density ratio, the other half are its non-members; all are the control of the other attacks.
    keys, targets : list of str, optional
        What an attacker knows of a person, and what he would like to know: inference of each target from all keys. With
        ``keys``, linkability is between keys and the other columns, else between every other column and the rest.
        ``targets`` without ``keys`` are inferred from all other columns.
    distances : bool, default False
        Whether to report DCR, NNDR and their likes.
    random_state : int, default 0
        What is sampled; not the random state of the synthesis.
    threads : int, optional

    Returns
    -------
    list of Attack

    Raises
    ------
    DataError, OptionError
        Columns that cannot be compared, too few rows, unknown columns.

    Examples
    --------
    >>> import fastsynth as fs
    >>> boys = fs.load_boys()
    >>> made_from, holdout = boys[::2], boys[1::2]
    >>> syn = fs.synthesize(made_from, m=2, random_state=1)
    >>> found = attack_copies(made_from, list(syn), holdout, keys=["age", "reg"], targets=["tv"])
    >>> [attack.name for attack in found][2:]
    ['singling out (univariate)', 'singling out (multivariate)', 'linkability', 'inference of tv']
    """
    if not copies:
        raise DataError("There is nothing to attack: give at least one copy.")
    names = _compared_columns(original, copies)
    known = [] if keys is None else _columns_of("keys", keys, names)
    wanted = [] if targets is None else _columns_of("targets", targets, names)
    if holdout.height < FEWEST_HOLDOUT:
        raise DataError(f"Attacks need a hold-out of at least {FEWEST_HOLDOUT} rows; there are {holdout.height}.")
    missing = [name for name in names if name not in holdout.columns]
    if missing:
        raise DataError(f"The hold-out lacks column {missing[0]!r} of the original.")
    original, holdout = original.select(names), holdout.select(names)
    copies = [copy.select(names) for copy in copies]
    entropy = _entropy(random_state)
    order = np.argsort(random_words(entropy, (HOLDOUT, 1), holdout.height), kind="stable")
    reference, nonmembers = (holdout[np.sort(half)] for half in np.array_split(order, 2))
    common: dict[str, Any] = {"random_state": entropy, "threads": threads}
    found = membership(original, nonmembers, copies, reference, **common)
    found += singling_out(original, holdout, copies, random_state=entropy)
    first = [name for name in names if name in known] if known else names[::2]
    second = [name for name in names if name not in first]
    if second:
        found.append(linkability(original, holdout, copies, first, second, **common))
    for target in wanted:
        by = [name for name in (known or names) if name != target]
        if by:
            found.append(inference(original, holdout, copies, by, target, **common))
    if distances:
        found.append(record_distances(original, holdout, copies, **common))
    return found


def attack_recipe(
    original: pl.DataFrame,
    recipe: Synthesizer,
    *,
    holdout: float = 0.2,
    m: int = 5,
    shadows: int = 0,
    keys: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    distances: bool = False,
    random_state: int = 0,
    threads: int | None = None,
) -> list[Attack]:
    """Attack the way in which copies were made: hold rows out, synthesise the others the same way, attack that.

    The copies that are attacked are not those that will be released, but siblings of them.

    Parameters
    ----------
    original : polars.DataFrame
    recipe : Synthesizer
        Options of the synthesis (``Synthesis.recipe``); it is cloned, not fitted.
    holdout : float, default 0.2
        Share of the rows that is held out.
    m : int, default 5
        Copies to attack.
    shadows : int, default 0
        Runs of ``shadow_models``; 0 leaves them out.
    keys, targets, distances, random_state, threads
        As in ``attack_copies``.

    Returns
    -------
    list of Attack
        Row numbers of ``records`` are those of ``original``.

    Raises
    ------
    OptionError
        A share that is not between 0 and 1, no recipe.
    DataError
        Too few rows to hold some out.

    Notes
    -----
    One fit, ``shadows`` fits of at most 1,000 rows each, and the cost of ``attack_copies``.
    """
    if not isinstance(recipe, Synthesizer):
        raise OptionError("attack_recipe needs a Synthesizer; copies of a folder or of a loaded model have no recipe.")
    if not isinstance(holdout, numbers.Real) or isinstance(holdout, bool) or not 0 < holdout < 1:
        raise OptionError(f"holdout={holdout!r}: must be a share of the rows, between 0 and 1.")
    n, entropy = original.height, _entropy(random_state)
    n_out = round(n * float(holdout))
    if n_out < FEWEST_HOLDOUT or n - n_out < FEWEST_HOLDOUT:
        raise DataError(
            f"{n} rows with holdout={holdout}: at least {FEWEST_HOLDOUT} rows have to be held out, and as many kept."
        )
    order = np.argsort(random_words(entropy, (HOLDOUT, 0), n), kind="stable")
    out, kept = np.sort(order[:n_out]), np.sort(order[n_out:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        copies = _sample(recipe, original[kept], check_count("m", m), entropy, threads)
    common: dict[str, Any] = {"random_state": entropy, "threads": threads}
    found = attack_copies(
        original[kept], copies, original[out], keys=keys, targets=targets, distances=distances, **common
    )
    found = [
        attack if attack.records is None else replace(attack, records=_numbered(attack.records, kept))
        for attack in found
    ]
    if shadows:
        targets_of = min(SHADOW_TARGETS, n)
        found += shadow_models(original, recipe, shadows=shadows, m=m, targets=targets_of, **common)
    return found


def _numbered(records: pl.DataFrame, rows: Integers) -> pl.DataFrame:
    return records.with_columns(pl.Series("row", rows[records["row"].to_numpy()]))


# --- Small parts ---


def _sample(
    recipe: Synthesizer, rows: pl.DataFrame, m: int, entropy: int, threads: int | None = 1
) -> list[pl.DataFrame]:
    """Copies of some rows by a clone of the recipe, without identifiers, which are made anew."""
    options = recipe.get_params() | {"m": m, "random_state": entropy, "threads": threads, "client": None}
    synthesis = Synthesizer(**options | {"progress": None}).fit(rows).sample(m=m, random_state=entropy)
    return [copy.drop(synthesis.identifiers) for copy in synthesis]


def _compared_columns(original: pl.DataFrame, copies: Sequence[pl.DataFrame]) -> list[str]:
    """Columns of the original that all copies have."""
    for frame in (original, *copies):
        if not isinstance(frame, pl.DataFrame):
            raise DataError(f"Attacks take polars DataFrames, not {type(frame).__name__}.")
    names = [name for name in original.columns if all(name in copy.columns for copy in copies)]
    if not names:
        raise DataError("The copies have no column of the original. Are these copies of this table?")
    return names


def _columns_of(option: str, columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """A list of columns, checked."""
    unknown = isinstance(columns, str) or not columns or [name for name in columns if name not in names]
    if unknown:
        raise OptionError(f"{option}={columns!r}: must be a list of columns; allowed are {', '.join(names)}.")
    return list(columns)


def _some(frame: pl.DataFrame, most: int, entropy: int, *key: int) -> tuple[pl.DataFrame, Integers]:
    """At most so many rows, drawn at random, in their order, and their numbers."""
    if frame.height <= most:
        return frame, np.arange(frame.height)
    rows = np.sort(np.argsort(random_words(entropy, (ATTACK, *key), frame.height), kind="stable")[:most])
    return frame[rows], rows


def _some_of_copies(copies: Sequence[pl.DataFrame], most: int, entropy: int) -> pl.DataFrame:
    """Rows of all copies, as many of each, at most so many together."""
    names = copies[0].columns if copies else []
    if not names:
        raise DataError("There is nothing to attack: give at least one copy.")
    each = max(most // len(copies), 1)
    parts = [_some(copy.select(names), each, entropy, 50, i)[0] for i, copy in enumerate(copies)]
    # Categories of copies may be coded differently.
    text = pl.selectors.categorical() | pl.selectors.enum()
    return pl.concat([part.with_columns(text.cast(pl.String)) for part in parts], how="vertical_relaxed")


def _sampled_note(*counts: tuple[int, int, str]) -> str:
    """What was sampled, in words."""
    return ", ".join(f"{some:,} of {total:,} {what}" for some, total, what in counts if some < total)


def _executor(threads: int | None) -> Executor:
    return Threads(None if threads is None else check_count("threads", threads))


def _entropy(random_state: int) -> int:
    if not isinstance(random_state, numbers.Integral) or isinstance(random_state, bool) or random_state < 0:
        raise OptionError(f"random_state={random_state!r}: must be a non-negative integer.")
    return int(random_state)
