"""Which values of two columns go together always or never, and which numbers or dates are never beyond another.

Everything is judged by some rows; what comes out are candidates that ``fastsynth.relations`` tries on all rows.

Terms
-----
event
    A column is null, or has one level, or one number on which it piles up. ``rest`` is all else of a column.
edge
    A border beyond which something happens and before which it does not. Things that become rare gradually have no
    edge: what is beyond is continued backwards, becoming rarer at the rate at which it became so, and has to promise
    more than chance could have left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fastsynth.formulas import Floats, Number, simplest
from fastsynth.options import Column, Rule

Kind = Literal["copy", "function", "sum", "ratio", "order", "rule", "empty"]
Flags = NDArray[np.bool_]

# Rows by which most pairs of columns are sorted out.
FIRST_ROWS = 1_000
# A level of fewer rows is no event, and is not named.
LEVEL_ROWS = 10
MOST_LEVELS = 60
# A number is an event where it has this share of the rows; of text of many levels the frequent ones are.
SPIKE_SHARE, LEVEL_SHARE = 0.05, 0.02
# A rule speaks of so many rows; so many others are expected among them if the columns were independent.
RULE_ROWS = 100
EXPECTED = 25
# The same where the columns are as dependent as the most dependent of their other levels.
EXPECTED_DEPENDENT = 15
# An edge: so many rows beyond it are looked at, which promise so many before it. Of what never occurs in a range there
# are more pairs that could look alike by chance, so more is asked.
EDGE_ROWS, EDGE_EXPECTED = 60, 25
GAP_ROWS, GAP_EXPECTED = 100, 40
# Numbers of at most so many different values are close to each other only where they are the same.
FEW_SIZES = 50
# Numbers of fewer different values have no ranges: their values are events.
RANGE_VALUES = 13
# Exceptions of the rows looked at beyond which no threshold is looked for.
MOST_EXCEPTIONS = 3
# A range says nothing new where this share of its rows is in another one.
WITHIN = 0.8
# Exceptions of a relation that holds nearly: share of its rows, and of those expected by chance.
ODD_ROWS, ODD_EXPECTED = 0.001, 0.01
# Two columns are on one scale where their middle 90 % overlap so much; random pairs are out of order so often.
OVERLAP, OUT_OF_ORDER = 0.2, 0.05


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A relation that holds in some rows, and that all rows may show to be wrong.

    Attributes
    ----------
    kind, columns, text, column, record, forbid
        As in ``relations.Relation``.
    speaks : polars.Expr
        True for the rows that the relation speaks of.
    wrong : polars.Expr
        True for the rows that are an exception.
    by_chance : float
        Share of the rows that would be, were the columns independent; 0 for no exceptions allowed.
    """

    kind: Kind
    columns: tuple[str, ...]
    text: str
    speaks: pl.Expr
    wrong: pl.Expr
    column: str | None = None
    record: Column | None = None
    forbid: pl.Expr | None = None
    by_chance: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """Rows that have something in common.

    Attributes
    ----------
    column : int
        Place of the column.
    name : str
    condition : polars.Expr
        True for the rows; false or null for others.
    text : str
    value
        What the column has there.
    rows : ndarray of bool
        The rows, of those looked at.
    named : bool
        Whether it can be a rule's condition or outcome: the rest of a column cannot.
    outcome : bool
        Whether it can be a rule's outcome: a range of numbers cannot.
    """

    column: int
    name: str
    condition: pl.Expr
    text: str
    value: Any
    rows: Flags
    named: bool = True
    outcome: bool = True


def events(frame: pl.DataFrame) -> list[Event]:
    """Events of all columns, the rest of each column included: each row is in one event of each column."""
    return [event for slot, series in enumerate(frame) for event in _events(slot, series)]


def _events(slot: int, series: pl.Series) -> Iterator[Event]:
    name, column, left = series.name, pl.col(series.name), np.ones(len(series), bool)
    if series.null_count():
        rows = series.is_null().to_numpy()
        left &= ~rows
        yield Event(slot, name, column.is_null(), f"{name} is null", None, rows, int(rows.sum()) >= LEVEL_ROWS)
    for value in _levels(series):
        rows = (series.cast(pl.String) if isinstance(value, str) else series).eq_missing(value).to_numpy()
        left &= ~rows
        if isinstance(value, bool):
            yield Event(slot, name, column if value else ~column, name if value else f"not {name}", value, rows)
        else:
            shown = repr(value) if isinstance(value, str) else str(value)
            yield Event(slot, name, column == pl.lit(value), f"{name} == {shown}", value, rows)
    if left.any():
        yield Event(slot, name, pl.lit(False), name, None, left, named=False)


def _levels(series: pl.Series) -> list[Any]:
    """Values of a column that are events, the most frequent first."""
    dtype = series.dtype
    if dtype == pl.Null:
        return []
    text = isinstance(dtype, pl.String | pl.Categorical | pl.Enum)
    counts = (series.cast(pl.String) if text else series).drop_nulls().value_counts(sort=True)
    least = float(LEVEL_ROWS)
    if not (text or dtype == pl.Boolean):
        least = max(least, SPIKE_SHARE * len(series))
    elif len(counts) > MOST_LEVELS:
        least = max(least, LEVEL_SHARE * len(series))
    values = counts.filter(pl.col("count") >= least).sort("count", series.name, descending=[True, False])
    return [v for v in values[series.name].to_list() if not (isinstance(v, float) and np.isnan(v))]


def rules_and_gaps(frame: pl.DataFrame, numbers: Mapping[str, Number]) -> list[Candidate]:
    """Rules (one event, or a range of numbers, has always another event) and events that never meet."""
    found = events(frame)
    if not found:
        return []
    masks = np.stack([event.rows for event in found]).astype(np.float32)
    together = (masks @ masks.T).astype(np.int64)
    always, never = _always(found, together), _never(found, together)
    ranges = [r for n in frame.columns if n in numbers for r in _ranges(frame.columns.index(n), n, numbers[n], found)]
    for condition, j, holds in _largest(ranges):
        found.append(condition)
        (always if holds else never).append((len(found) - 1, j))
    always = _simplest_rules(found, always)
    never = _not_implied(found, always, _not_exact(found, always, never))
    return [*_write_rules(found, always, together), *_write_never(found, never)]


Pairs = list[tuple[int, int]]


def _always(found: list[Event], together: NDArray[np.int64]) -> Pairs:
    """Pairs of an event and another column's event that goes with it, for no other reason than that it has to."""
    size, n = np.diag(together), len(found[0].rows)
    column = np.array([event.column for event in found])
    pairs = []
    for i, j in itertools.product(range(len(found)), repeat=2):
        if column[i] == column[j] or not (found[i].named and found[j].named) or size[i] < RULE_ROWS:
            continue
        wrong, share = size[i] - together[i, j], 1 - size[j] / n
        if size[i] * share < EXPECTED or not _few(wrong, size[i], size[i] * share):
            continue
        others = (column == column[i]) & (np.arange(len(found)) != i) & (size >= 3 * LEVEL_ROWS)
        rates = 1 - together[others, j] / size[others]
        promised = size[i] * share * _continued(rates[rates > 2 * ODD_ROWS] / share)
        if promised >= EXPECTED_DEPENDENT and wrong <= ODD_EXPECTED * promised:
            pairs.append((i, j))
    return pairs


def _never(found: list[Event], together: NDArray[np.int64]) -> Pairs:
    """Pairs of events that do not meet although chance, and what the other events show, would make them."""
    size, n = np.diag(together), len(found[0].rows)
    column = np.array([event.column for event in found])
    chance = np.outer(size, size) / n
    shown = (chance >= LEVEL_ROWS) & (together > 0)
    ratio = together / np.maximum(chance, 1e-9)
    pairs = []
    for i, j in itertools.combinations(range(len(found)), 2):
        if column[i] == column[j] or not (found[i].named and found[j].named):
            continue
        if chance[i, j] >= EXPECTED and not together[i, j]:
            same_i, same_j = shown[:, j] & (column == column[i]), shown[i] & (column == column[j])
            least = np.sqrt(_continued(ratio[same_i, j]) * _continued(ratio[i, same_j]))
            if chance[i, j] * least >= EXPECTED_DEPENDENT:
                pairs.append((i, j))
    return pairs


def _continued(ratios: Floats) -> float:
    """What would come after ratios of how often events meet to how often by chance, did they go on as they fall.

    Levels that are in some order become rare ever faster towards their end, so the last fall counts twice.
    """
    least, next_least = np.sort(np.append(np.minimum(ratios, 1), [1.0, 1.0]))[:2]
    return float(least * (least / next_least) ** 2)


def _few(wrong: float, rows: float, expected: float) -> bool:
    return bool(wrong <= ODD_ROWS * rows and wrong <= ODD_EXPECTED * expected)


def _ranges(slot: int, name: str, x: Number, found: list[Event]) -> Iterator[tuple[Event, int, bool]]:
    """Ranges of a number below or from a threshold in which an event is always so, or never."""
    known = np.flatnonzero(np.isfinite(x.values))
    order = known[np.argsort(x.values[known], kind="stable")]
    if len(order) < 2 * RULE_ROWS or len(np.unique(x.values[known])) < RANGE_VALUES:
        return
    ascending = x.values[order]
    for j, event in enumerate(found):
        if event.column == slot or not (event.named and event.outcome):
            continue
        inside = event.rows[order]
        for holds, below in itertools.product((True, False), repeat=2):
            needed = (EDGE_ROWS, EDGE_EXPECTED) if holds else (GAP_ROWS, GAP_EXPECTED)
            others, values = inside != holds, ascending
            if not below:
                others, values = others[::-1], -values[::-1]
            if others[:RULE_ROWS].sum() > MOST_EXCEPTIONS:
                continue
            m = _pure(values, others, MOST_EXCEPTIONS if holds else 0)
            if m and is_edge(values, others, m, *needed):
                yield _range(slot, name, x, values[m - 1 : m + 1] * (1 if below else -1), below), j, holds


def _largest(ranges: list[tuple[Event, int, bool]]) -> list[tuple[Event, int, bool]]:
    """Leave out ranges that are nearly within one of another column of which the same is said: height for age."""
    kept: list[tuple[Event, int, bool]] = []
    for event, j, holds in sorted(ranges, key=lambda r: -int(r[0].rows.sum())):
        inside = (
            (event.rows & other.rows).sum() >= WITHIN * event.rows.sum()
            for other, k, same in kept
            if k == j and same == holds and other.column != event.column
        )
        if not any(inside):
            kept.append((event, j, holds))
    return kept


def _pure(values: Floats, others: Flags, exceptions: int) -> int:
    """Number of the first rows, up to a change of value, with no others but exceptions; 0 where they are too few."""
    share, places = others.mean(), np.flatnonzero(others)[: exceptions + 1]
    best = 0
    for k, place in enumerate(places):
        m = int(np.searchsorted(values, values[place]))
        # Exceptions that are errors lie anywhere; a thing that becomes rare gradually has them near the border.
        if m >= RULE_ROWS and m * share >= EXPECTED and _few(k, m, m * share) and (places[:k] < 0.7 * m).all():
            best = m
    return best


def is_edge(values: Floats, others: Flags, m: int, n_beyond: int, n_before: int) -> bool:
    """Whether the others that begin at row m, in the order of the values, begin suddenly: whether the first so many
    would promise so many before them.
    """
    beyond, total = values[m:], np.append(0, np.cumsum(others[m:]))
    # What is in a hump, of which these are the rising half, has no edge.
    if total[-1] < 2 * n_beyond:
        return False
    width = int(np.searchsorted(beyond, beyond[np.searchsorted(total, n_beyond // 2) - 1], side="right"))
    if width > m and beyond[0] != beyond[width - 1]:
        return False
    counts = np.diff(total[np.minimum(np.arange(5) * width, len(beyond))])
    rows = np.diff(np.minimum(np.arange(5) * width, len(beyond)))
    fall = 1.0
    if rows[1]:
        fall = min(fall, counts[0] / rows[0] / max(counts[1] / rows[1], 1e-9))
    if rows[2:].sum():
        rates = [counts[part].sum() / rows[part].sum() for part in (slice(0, 2), slice(2, 4))]
        fall = min(fall, float(np.sqrt(rates[0] / max(rates[1], 1e-9))))
    promised, left, share = 0.0, float(m), fall
    while left > 0 and share > 1e-3:
        promised += counts[0] * share * min(1.0, left / width)
        left -= width
        share *= fall
    return promised >= n_before


def _range(slot: int, name: str, x: Number, border: Floats, below: bool) -> Event:
    low, high = float(border.min()), float(border.max())
    limit: Any = simplest(low + (x.unit if x.digits is not None else (high - low) * 1e-6), high)
    limit = int(limit) if x.digits == 0 else limit
    column = pl.col(name)
    condition = column < limit if below else column >= limit
    rows = x.values < limit if below else x.values >= limit
    return Event(slot, name, condition, f"{name} {'<' if below else '>='} {limit:.12g}", None, rows, outcome=False)


def _simplest_rules(found: list[Event], pairs: Pairs) -> Pairs:
    """Rules that do not follow from others: of A -> B -> C not A -> C, of equal events those with the first one."""
    known = set(pairs)
    for i, j in itertools.permutations({i for i, _ in pairs}, 2):
        # A range is within wider ones of its column.
        if found[i].column == found[j].column and not (found[i].rows & ~found[j].rows).any():
            known.add((i, j))
    first = {i: min([i, *(j for j in _after(known, i) if (j, i) in known)]) for i in {i for p in known for i in p}}
    kept = []
    for i, j in pairs:
        if first[i] == first[j]:
            if first[i] in (i, j) and i < j:
                kept.append((i, j))
        elif first[i] == i and first[j] == j:
            between = {k for k in _after(known, i) if (k, j) in known and first[k] not in (first[i], first[j])}
            if not between:
                kept.append((i, j))
    return _without_mirrors(found, kept, known)


def _after(known: set[tuple[int, int]], i: int) -> set[int]:
    return {b for a, b in known if a == i}


def _without_mirrors(found: list[Event], kept: Pairs, known: set[tuple[int, int]]) -> Pairs:
    """Leave out what says the same of two columns the other way round: not B -> not A. Later outcomes stay."""
    chosen: Pairs = []
    for i, j in sorted(kept, key=lambda p: (found[p[0]].column > found[p[1]].column, p)):
        if (j, i) in known:
            chosen.append((i, j))
            continue
        # The rule says that rows outside j are not in i: so do rules that give all of them something apart from i.
        said = np.zeros(len(found[j].rows), bool)
        for a, b in chosen:
            reverse = found[a].column == found[j].column and found[b].column == found[i].column
            if reverse and not (found[b].rows & found[i].rows).any():
                said |= found[a].rows
        if (~found[j].rows & ~said).any():
            chosen.append((i, j))
    return chosen


def _not_implied(found: list[Event], always: Pairs, never: Pairs) -> Pairs:
    """Pairs that never meet for no reason that is listed already."""
    after = {i: {i} | _after(set(always), i) for i in {i for pair in (*always, *never) for i in pair}}
    for i in after:
        same = {j for j in after if found[j].column == found[i].column and not (found[i].rows & ~found[j].rows).any()}
        after[i] = after[i] | {k for j in same for k in after[j]}
    for _ in range(3):
        after = {i: {k for j in of for k in after.get(j, {j})} for i, of in after.items()}
    apart, kept = set(never), []
    for i, j in never:
        reasons = (
            (a, b)
            for a, b in itertools.product(after[i], after[j])
            if (a, b) != (i, j)
            and (
                (((a, b) in apart or (b, a) in apart) and {a, b} != {i, j})
                or (found[a].column == found[b].column and not (found[a].rows & found[b].rows).any())
            )
        )
        if next(reasons, None) is None and (found[i].outcome or not _is_side_effect(found, always, i, j)):
            kept.append((i, j))
    return kept


def _is_side_effect(found: list[Event], always: Pairs, i: int, j: int) -> bool:
    """Whether most rows of a range have, by rules on other columns, something else than j: children are small, too."""
    held = np.zeros(len(found[i].rows), bool)
    for a, b in always:
        if found[b].column == found[j].column and b != j and found[a].column != found[i].column:
            held |= found[a].rows
    return bool((held & found[i].rows).sum() >= WITHIN * found[i].rows.sum())


def _outcomes(found: list[Event], pairs: Pairs) -> dict[tuple[int, bool, int], list[int]]:
    """Conditions of rules of one outcome and one column, levels apart from ranges."""
    groups: dict[tuple[int, bool, int], list[int]] = {}
    for i, j in pairs:
        groups.setdefault((found[i].column, found[i].outcome, j), []).append(i)
    return groups


def _not_exact(found: list[Event], always: Pairs, never: Pairs) -> Pairs:
    """Pairs that are not forbidden already by a rule that says exactly where something is."""
    exact = [
        (column, found[j].rows)
        for (column, outcome, j), conditions in _outcomes(found, always).items()
        if outcome and (np.logical_or.reduce([found[i].rows for i in conditions]) == found[j].rows).all()
    ]
    return [
        pair
        for pair in never
        if not any(
            found[i].column == column and not (found[j].rows & ~rows).any()
            for column, rows in exact
            for i, j in (pair, pair[::-1])
        )
    ]


def _write_rules(found: list[Event], pairs: Pairs, together: NDArray[np.int64]) -> Iterator[Candidate]:
    """Rules of one outcome together, in which only the level of the condition differs."""
    for (column, outcome, j), conditions in _outcomes(found, pairs).items():
        sure = [[i for i in conditions if outcome and together[i, j] == together[i, i]]]
        for same in [*filter(None, sure), *([i] for i in conditions if i not in sure[0])]:
            event, target = _union([found[i] for i in same]), found[j]
            exactly = outcome and bool((event.rows == target.rows).all())
            when = event.condition.fill_null(False)
            wrong = when & ~target.condition.fill_null(False)
            text = f"{target.text} where {event.text}"
            if exactly:
                wrong = when != target.condition.fill_null(False)
                text = f"{target.text} exactly where {event.text}"
            record = None
            if column < target.column:
                record = Column(rules=[Rule(when=event.condition, value=target.value)])
            names = (event.name, target.name)
            forbid = wrong if record is None or exactly else None
            receiver = None if record is None else target.name
            chance = 1 - float(target.rows.mean())
            yield Candidate("rule", names, text, when, wrong, receiver, record, forbid, chance)


def _union(parts: Sequence[Event]) -> Event:
    """Several events of a column as one."""
    if len(parts) == 1:
        return parts[0]
    first, rows = parts[0], np.logical_or.reduce([part.rows for part in parts])
    condition = parts[0].condition.fill_null(False)
    for part in parts[1:]:
        condition = condition | part.condition.fill_null(False)
    levels = sorted((part for part in parts if part.value is not None), key=lambda part: part.value)
    words = ", ".join(part.text.removeprefix(f"{part.name} == ") for part in levels)
    text = f"{first.name} in {{{words}}}" if len(levels) > 1 else levels[0].text
    text += "" if len(levels) == len(parts) else " or null"
    return Event(first.column, first.name, condition, text, first.value, rows)


def _write_never(found: list[Event], pairs: Pairs) -> Iterator[Candidate]:
    """Pairs that never meet: those of one event together, and events that never meet the same ones."""
    others: dict[tuple[int, int], set[int]] = {}
    for i, j in pairs:
        others.setdefault((i, found[j].column), set()).add(j)
    groups: dict[tuple[int, bool | int, frozenset[int]], list[int]] = {}
    for (i, _), of in others.items():
        alone = found[i].outcome or i  # ranges are not put together
        groups.setdefault((found[i].column, alone, frozenset(of)), []).append(i)
    for (*_, of_both), same in groups.items():
        event, other = _union([found[i] for i in same]), _union([found[j] for j in sorted(of_both)])
        speaks = event.condition.fill_null(False)
        both = speaks & other.condition.fill_null(False)
        names, text = (event.name, other.name), f"never {event.text} with {other.text}"
        yield Candidate("empty", names, text, speaks, both, forbid=both, by_chance=0)


def orders(frame: pl.DataFrame, numbers: Mapping[str, Number]) -> Iterator[Candidate]:
    """Pairs of numbers, or of dates or times of one type, of which one is never beyond the other."""
    kind = {name: "number" if x.dtype.is_numeric() else str(x.dtype) for name, x in numbers.items()}
    found = {
        (a, b)
        for a, b in itertools.permutations(numbers, 2)
        if kind[a] == kind[b] and _is_ordered(numbers[a], numbers[b])
    }
    for a, b in sorted(found, key=lambda pair: [frame.columns.index(name) for name in pair]):
        if any((a, c) in found and (c, b) in found for c in numbers):
            continue
        holds, later = pl.col(a) <= pl.col(b), max(a, b, key=frame.columns.index)
        speaks = pl.col(a).is_not_null() & pl.col(b).is_not_null()
        wrong = (~holds).fill_null(False)
        yield Candidate("order", (a, b), f"{a} <= {b}", speaks, wrong, later, Column(bounds=holds))


def _is_ordered(a: Number, b: Number) -> bool:
    """Whether a is at most b, where random pairs often are not, and where many pairs are close to being equal."""
    # Most pairs are told apart by a few rows.
    if (a.values[:FIRST_ROWS] > b.values[:FIRST_ROWS]).sum() > LEVEL_ROWS:
        return False
    both = np.isfinite(a.values) & np.isfinite(b.values)
    low, high = a.values[both], b.values[both]
    if len(low) < RULE_ROWS:
        return False
    wrong = int((low > high).sum())
    if wrong > ODD_ROWS * len(low):
        return False
    (a5, a95), (b5, b95) = (np.quantile(x, [0.05, 0.95]) for x in (low, high))
    overlap = (min(a95, b95) - max(a5, b5)) / max(max(a95, b95) - min(a5, b5), 1e-300)
    by_chance = 1 - np.searchsorted(np.sort(low), high, side="right").mean() / len(low)
    expected = by_chance * len(low)
    if overlap < OVERLAP or by_chance < OUT_OF_ORDER or expected < EXPECTED or wrong > ODD_EXPECTED * expected:
        return False
    unit = max(a.unit, b.unit)
    apart = np.sort(high - low)[wrong:]
    if not _begins(apart, unit):
        return False
    size = np.abs(low) + np.abs(high)
    if not a.dtype.is_numeric() or low.min() < 0 or len(np.unique(low)) <= FEW_SIZES:
        return True
    # Small numbers are close to each other whatever they are: some large ones have to be, too.
    large = size >= np.median(size)
    return _begins(np.sort((high - low)[large] / size[large])[wrong:], unit / float(np.median(size)))


def _begins(apart: Floats, unit: float) -> bool:
    """Whether differences, ascending, begin suddenly at 0, or at the next possible one."""
    if len(apart) < 2 * EDGE_ROWS:
        return False
    start = unit if apart[0] > unit / 2 else 0.0
    half = max((apart[EDGE_ROWS - 1] - start) / 2, 0.0) + unit / 2
    ends = np.searchsorted(apart, start + half * np.arange(1, 5) + unit / 4)
    counts = np.diff(ends, prepend=0)
    near, far = counts[0] / max(counts[1], 1), counts[:2].sum() / max(counts[2:].sum(), 1)
    # Dates are given as the first or last of a month, so that one window alone says little.
    fall = float(np.sqrt(min(near, 1.0) * min(far, 1.0)))
    return fall >= 1 or float(counts[0]) * fall / (1 - fall) >= EDGE_EXPECTED
