"""Relations between the columns of a table that hold in every row, or nearly: found, tried on all rows, written down.

1. Some thousand rows, spread evenly, are read. What relations hold there, and could not by chance, is a candidate.
2. Of each function the values of all rows are collected, for the sample lacks some.
3. All rows are read to count the exceptions of every candidate. What has too many is dropped.
4. Columns that are computed from others are left out when rules, orders and gaps are looked for, as these follow.

``fastsynth.formulas`` looks for sums, ratios and straight lines, ``fastsynth.patterns`` for rules, orders and gaps.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fastsynth import formulas, patterns
from fastsynth.columns import Tally, check_size
from fastsynth.errors import check_count
from fastsynth.execute import Executor, Threads
from fastsynth.formulas import Formula, Number, number, simplest
from fastsynth.methods import Identifier
from fastsynth.options import Column
from fastsynth.patterns import EXPECTED, FIRST_ROWS, LEVEL_ROWS, ODD_EXPECTED, ODD_ROWS, RULE_ROWS, Candidate, Kind
from fastsynth.rowwise import take_piece
from fastsynth.source import Source, open_source, parse_memory, spread_rows
from fastsynth.visit_sequence import needs

# Rows in which candidates are looked for.
SAMPLE_ROWS = 50_000
# A function has more mistakes than this share, of those expected by chance, only if it is none.
SAMPLE_SLACK = 4
# A function of a number with at most so many steps is written by their borders, else value by value.
MOST_STEPS = 64
# Values of a column whose values recur: at most this share of its rows is the only one with its value.
MOST_ALONE = 0.2
# Values that a function may be written for.
MOST_VALUES = 20_000
# A number of at most so many different values is rather a function of another number than computed from it.
FEW_VALUES = 20
TEXT = (pl.String, pl.Categorical, pl.Enum)


@dataclass(frozen=True, slots=True, eq=False)
class Relation:
    """One thing that holds between columns.

    Attributes
    ----------
    kind : {"copy", "function", "sum", "ratio", "order", "rule", "empty"}
    columns : tuple of str
        The columns that it is about: those that determine first.
    text : str
        What holds. Levels and limits are named only where at least 10 rows have them.
    n_rows : int
        Rows that it speaks of.
    n_exceptions : int
        Rows among them in which it does not hold.
    column : str or None
        Column that the record is for.
    record : Column or None
        How to tell ``synthesize``.
    forbid : polars.Expr or None
        True for rows that break it, where no record can say so.
    """

    kind: Kind
    columns: tuple[str, ...]
    text: str
    n_rows: int
    n_exceptions: int
    column: str | None = None
    record: Column | None = None
    forbid: pl.Expr | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Relations:
    """What was found, to be looked at, and passed on.

    Attributes
    ----------
    found : tuple of Relation
        Computed columns first, then rules, orders, and what never occurs.
    """

    found: tuple[Relation, ...]

    @property
    def exact(self) -> Relations:
        """Those without exceptions."""
        return Relations(tuple(relation for relation in self.found if not relation.n_exceptions))

    @property
    def columns(self) -> dict[str, Column]:
        """Records by column, for ``synthesize(columns=...)``: a new dict at each call."""
        merged: dict[str, Column] = {}
        for relation in self.found:
            if relation.column is None or relation.record is None:
                continue
            before = merged.get(relation.column)
            if before is None:
                merged[relation.column] = relation.record
            elif before.passive is None:
                merged[relation.column] = _merge(before, relation.record)
        return merged

    @property
    def forbid(self) -> list[pl.Expr]:
        """Conditions that no row may meet, for ``synthesize(forbid=...)``."""
        return [relation.forbid for relation in self.found if relation.forbid is not None]

    @property
    def table(self) -> pl.DataFrame:
        """One row for each relation: kind, columns, text, n_rows, n_exceptions."""
        names = ("kind", "columns", "text", "n_rows", "n_exceptions")
        types = (pl.String, pl.List(pl.String), pl.String, pl.Int64, pl.Int64)
        rows = [{n: getattr(r, n) for n in names} for r in self.found]
        return pl.DataFrame(
            [{**row, "columns": list(row["columns"])} for row in rows],
            schema=dict(zip(names, types, strict=True)),
            orient="row",
        )

    def beside(self, columns: Mapping[str, Column], free: Collection[str], order: Sequence[str] | None) -> Relations:
        """Those that can be kept beside what the caller says of columns, in an order that may be the caller's.

        Parameters
        ----------
        columns : dict of str to Column
            Records of the caller: a column with a method, predictors, groups or an expression of its own is not
            computed; what needs a column that needs the other one, as codes within coarse ones do, is left out.
        free : collection of str
            Columns that are drawn, or computed.
        order : list of str or None
            A rule about a column that comes before those of its condition becomes something forbidden.
        """
        needed, left = needs(columns), []
        for relation in self.found:
            of, record = relation.column, relation.record
            if of is not None and record is not None:
                own, needs_now = columns.get(of, Column()), needs({of: record}).get(of, [])
                early = order is not None and any(order.index(n) > order.index(of) for n in needs_now if n in order)
                if early and record.rules:
                    forbid = functools.reduce(operator.or_, (rule.broken(of) for rule in record.rules))
                    relation = replace(relation, column=None, record=None, forbid=forbid)
                elif early or of not in free or not _can_join(own, record) or _depends(needs_now, of, needed):
                    continue
                else:
                    needed[of] = [*needed.get(of, []), *needs_now]
            if relation.forbid is not None and not set(relation.forbid.meta.root_names()) & set(free):
                continue
            left.append(relation)
        return Relations(tuple(left))

    def joined(self, columns: Mapping[str, Column]) -> dict[str, Column]:
        """Records of the caller with what was found, for relations that ``beside`` has left."""
        found = self.columns
        return found | {name: _join(column, found.get(name)) for name, column in columns.items()}

    def __repr__(self) -> str:
        if not self.found:
            return "No relations found."
        lines = []
        for relation in self.found:
            odd = f", {relation.n_exceptions:,} exceptions" if relation.n_exceptions else ""
            lines.append(f"{relation.kind:<9}{relation.text}  [{relation.n_rows:,} rows{odd}]")
        return "\n".join(lines)


def find_relations(data: Any, *, threads: int | None = None, memory_limit: int | str | None = None) -> Relations:
    """Find relations between columns that hold in all rows, or all but one of a thousand.

    Parameters
    ----------
    data : polars, pandas or Arrow table, or path of Parquet, Arrow IPC or CSV files
        As in ``synthesize``.
    threads : int, optional
        Threads that read files; the default is the processors this process may use. Never part of the result.
    memory_limit : int or str, optional
        As in ``synthesize``: files that would take more than a quarter of it are read piece by piece.

    Returns
    -------
    Relations

    Raises
    ------
    DataError
        The table cannot be read, or holds types that cannot be synthesised.
    OptionError
        ``threads`` or ``memory_limit`` is no allowed number.

    Notes
    -----
    docs/relations.md says what is found, and how it is decided. Records are made from real values: of a function of a
    category they hold all its levels.

    Examples
    --------
    >>> import numpy as np
    >>> import polars as pl
    >>> rng = np.random.default_rng(1)
    >>> age = rng.integers(0, 90, 2_000)
    >>> df = pl.DataFrame({"age": age, "group": np.where(age < 18, "child", np.where(age < 67, "adult", "old"))})
    >>> found = find_relations(df)
    >>> found
    function group is a function of age, with 3 steps: at 18, 67  [2,000 rows]
    >>> df.select(found.columns["group"].passive.alias("group")).equals(df.select("group"))
    True
    """
    executor = Threads(None if threads is None else check_count("threads", threads))
    return relations_of(open_source(data, parse_memory(memory_limit)), executor)


def relations_of(source: Source, executor: Executor) -> Relations:
    """Relations of a source; as in ``find_relations``."""
    check_size(source.starts[-1], len(source.frame.schema))
    for field in source.frame.schema:
        Tally(field.name, field.type)  # refuses types that cannot be synthesised
    source = source.without([field.name for field in source.frame.schema if not _is_known(field)])
    with threadpool_limits(1, user_api="blas"):
        return Relations(tuple(_find(source, executor)))


def _can_join(own: Column, found: Column) -> bool:
    """Whether a record of the caller leaves room for one that was found."""
    if own.passive is not None or own.method in ("keep", Identifier.name) or isinstance(own.method, Identifier):
        return False
    return found.passive is None or (own.method is None and not own.special())


def _join(own: Column, found: Column | None) -> Column:
    """Both records together; what the caller says counts more."""
    if found is None:
        return own
    if found.passive is not None:
        return replace(found, cont_na=own.cont_na)
    bounds = found.bounds if own.bounds is None else own.bounds
    return replace(own, rules=[*found.rules, *own.rules], bounds=bounds)


def _depends(names: Iterable[str], on: str, needed: Mapping[str, list[str]]) -> bool:
    """Whether some of these columns need another one, directly or not."""
    seen, todo = set[str](), list(names)
    while todo:
        name = todo.pop()
        if name == on:
            return True
        if name not in seen:
            seen.add(name)
            todo += needed.get(name, [])
    return False


def _is_known(field: pa.Field) -> bool:
    """Whether polars has the type (not decimals of 256 bits), and reads the name as one, not as a pattern of names."""
    pattern = field.name == "*" or (field.name.startswith("^") and field.name.endswith("$"))
    return not pattern and not pa.types.is_decimal256(field.type)


def _merge(a: Column, b: Column) -> Column:
    """Rules and bounds of one column together."""
    if a.bounds is not None and b.bounds is not None:
        assert isinstance(a.bounds, pl.Expr)
        assert isinstance(b.bounds, pl.Expr)
        return replace(a, rules=[*a.rules, *b.rules], bounds=a.bounds & b.bounds)
    return replace(a, rules=[*a.rules, *b.rules], bounds=b.bounds if a.bounds is None else a.bounds)


def _find(source: Source, executor: Executor) -> Iterator[Relation]:
    sample = Sample.of(source, executor)
    computed = _verify(source, executor, _computed(sample, source, executor))
    yield from computed
    targets = {relation.column for relation in computed if relation.column is not None}
    rest = sample.without(targets)
    candidates = [*patterns.rules_and_gaps(rest.frame, rest.plain), *patterns.orders(rest.frame, rest.numbers)]
    # Of two columns of which one is told to be computed from the other no more is said.
    told = [set(relation.columns) for relation in computed]
    candidates = [
        candidate for candidate in candidates if candidate.kind != "order" or set(candidate.columns) not in told
    ]
    order = ("rule", "order", "empty")
    found = sorted(_verify(source, executor, candidates), key=lambda relation: order.index(relation.kind))
    found = _without_equal(found)
    yield from (_with_children(relation, computed, sample.frame) for relation in found)


def _without_equal(found: list[Relation]) -> list[Relation]:
    """Orders in both directions are an equality where both are known, which no draw would meet: it is only told."""
    orders = {relation.columns for relation in found if relation.kind == "order"}
    left = []
    for relation in found:
        a, *rest = relation.columns
        if relation.kind == "order" and (*rest, a) in orders:
            if a < rest[0]:
                text = f"{rest[0]} == {a} where both are known"
                left.append(replace(relation, kind="copy", text=text, column=None, record=None))
            continue
        left.append(relation)
    return left


# The rows that are looked at


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Some rows, of columns that are not constant.

    Attributes
    ----------
    frame : polars.DataFrame
    codes : ndarray of shape (n_columns, n_rows), dtype=int32
        Number of each value within its column, in order; 0 for null.
    numbers : dict of str to Number
        Numbers, dates and times.
    """

    frame: pl.DataFrame
    codes: NDArray[np.int32]
    numbers: dict[str, Number]

    @classmethod
    def of(cls, source: Source, executor: Executor) -> Sample:
        """Read rows spread evenly over the table."""
        rows = spread_rows(source.starts[-1], SAMPLE_ROWS)
        tables = executor.map(take_piece, (source, rows), source.jobs(), lambda _, table: table)
        frame = pl.DataFrame(pa.concat_tables(tables))
        codes = {s.name: _codes(s) for s in frame}
        varied = [name for name, of_rows in codes.items() if (of_rows != of_rows[0]).any()]
        numbers = {
            name: _number(frame[name])
            for name in varied
            if frame.schema[name].is_numeric() or frame.schema[name].is_temporal()
        }
        together = np.stack([codes[name] for name in varied]) if varied else np.zeros((0, frame.height), np.int32)
        return cls(frame.select(varied), together, numbers)

    @property
    def plain(self) -> dict[str, Number]:
        """Numbers that are no dates or times."""
        return {name: x for name, x in self.numbers.items() if x.dtype.is_numeric()}

    def without(self, names: set[str]) -> Sample:
        """The same rows without some columns."""
        kept = [i for i, name in enumerate(self.frame.columns) if name not in names]
        numbers = {name: x for name, x in self.numbers.items() if name not in names}
        return Sample(self.frame[:, kept], self.codes[kept], numbers)


def _codes(series: pl.Series) -> NDArray[np.int32]:
    if series.dtype == pl.Null:
        return np.zeros(len(series), np.int32)
    if isinstance(series.dtype, (*TEXT, pl.Boolean)):
        series = series.cast(pl.String)
    ranks = series.to_physical().rank("dense").cast(pl.Int32).fill_null(0)
    return ranks.to_numpy().copy()


def _number(series: pl.Series) -> Number:
    if series.dtype.is_temporal():
        values = series.to_physical().cast(pl.Float64).to_numpy()
        return Number(values, 0, series.dtype)
    values = series.cast(pl.Float64).to_numpy()
    return number(np.where(np.isfinite(values), values, np.nan), series.dtype)


# Columns computed from others


@dataclass(slots=True, eq=False)
class Targets:
    """Columns that are computed, each once and none from itself."""

    parents: dict[str, tuple[str, ...]]
    sets: set[frozenset[str]]
    told: set[str]  # of which a formula is known, though it has nulls of its own

    def take(self, target: str, parents: Sequence[str]) -> bool:
        """Note a column as computed, unless it is already, or its parents are computed from it."""
        columns = frozenset((target, *parents))
        if target in self.parents or columns in self.sets or any(target in self.before(p) for p in parents):
            return False
        self.parents[target] = tuple(parents)
        self.sets.add(columns)
        return True

    def before(self, name: str) -> set[str]:
        """The column itself, and all that it is computed from."""
        return {name}.union(*(self.before(parent) for parent in self.parents.get(name, ())))


def _computed(sample: Sample, source: Source, executor: Executor) -> list[Candidate]:
    """Copies, functions, sums and ratios; each column once, by the simplest of them."""
    targets, found = Targets({}, set(), set()), []
    names = sample.frame.columns
    for a, b in _copies(sample):
        if targets.take(b, [a]):
            value = _as_type(pl.col(a), sample.frame.schema[a], sample.frame.schema[b])
            found.append(_passive("copy", b, (a,), value, f"{b} = {a}", sample))
    equal = set(targets.parents)
    given = [name for name in sample.plain if name not in equal]
    many = [name for name in given if sample.codes[names.index(name)].max() > FEW_VALUES]
    found += _choose(sample, targets, formulas.lines(sample.plain, many))
    pairs = [pair for pair in _functions(sample) if not set(pair) & equal and targets.take(pair[1], [pair[0]])]
    functions = _write_functions(source, executor, sample, pairs)
    for x, y in set(pairs) - {(c.columns[0], c.columns[1]) for c in functions}:
        targets.parents.pop(y)
        targets.sets.discard(frozenset((x, y)))
    found += functions
    found += _choose(sample, targets, formulas.sums(sample.plain, given))
    found += _choose(sample, targets, formulas.products(sample.plain, given))
    return found


def _passive(
    kind: Kind, target: str, parents: tuple[str, ...], expression: pl.Expr, text: str, sample: Sample
) -> Candidate:
    every = pl.col(target).is_null() | pl.lit(True)
    shares = np.bincount(sample.codes[sample.frame.columns.index(target)]) / sample.frame.height
    wrong = _differ(expression, target, sample.frame.schema[target].is_float())
    record = Column(passive=expression)
    by_chance = 1 - float((shares**2).sum())
    return Candidate(kind, (*parents, target), text, every, wrong, target, record, by_chance=by_chance)


def _differ(expression: pl.Expr, target: str, floating: bool) -> pl.Expr:
    """Whether a computed column is another value than the column's; floats by more than rounding."""
    column = pl.col(target)
    differ = expression.ne_missing(column)
    if floating:
        off = (expression - column).abs()
        # To polars NaN is at most NaN.
        differ &= ~((off <= 1e-9 * column.abs()) & off.is_not_nan()).fill_null(False)
    return differ


def _copies(sample: Sample) -> Iterator[tuple[str, str]]:
    """Columns that have the values of an earlier one."""
    frame, shuffled = sample.frame, np.random.default_rng(0).permutation(sample.frame.height)
    values = {s.name: s.cast(pl.String) if isinstance(s.dtype, TEXT) else s for s in frame}
    for a, b in itertools.combinations(frame.columns, 2):
        one, other = values[a], values[b]
        if not (one.dtype == other.dtype or (one.dtype.is_numeric() and other.dtype.is_numeric())):
            continue
        if one.dtype != other.dtype:
            one, other = one.cast(pl.Float64), other.cast(pl.Float64)
        if one.head(FIRST_ROWS).ne_missing(other.head(FIRST_ROWS)).sum() > LEVEL_ROWS:
            continue
        wrong = int(one.ne_missing(other).sum())
        if wrong <= SAMPLE_SLACK * ODD_ROWS * len(one):
            expected = int(one.gather(shuffled).ne_missing(other).sum())
            if expected >= EXPECTED and wrong <= SAMPLE_SLACK * ODD_EXPECTED * expected:
                yield a, b


def _as_type(column: pl.Expr, given: Any, wanted: Any) -> pl.Expr:
    """A column in another's type, categories by their names."""
    if given == wanted:
        return column
    return (column.cast(pl.String) if isinstance(given, TEXT) else column).cast(wanted, strict=False)


# Functions of one column


def _functions(sample: Sample) -> list[tuple[str, str]]:
    """Pairs (x, y) of which y is a function of x; those of an x with few values first."""
    found, codes, names = [], sample.codes, sample.frame.columns
    for x, name in enumerate(names):
        known = np.flatnonzero(codes[x])
        rows = known[np.argsort(codes[x][known], kind="stable")]
        if len(rows) < RULE_ROWS:
            continue
        counts = np.bincount(codes[x][rows])
        recurs = (counts == 1).sum() <= MOST_ALONE * len(rows)
        if not recurs and name not in sample.numbers:
            continue
        same = np.flatnonzero(np.diff(codes[x][rows]) == 0)[:FIRST_ROWS]
        clashes = (codes[:, rows[same]] != codes[:, rows[same + 1]]).sum(axis=1)
        few = max(LEVEL_ROWS, 4 * SAMPLE_SLACK * ODD_ROWS * len(rows))
        for y in np.flatnonzero(clashes <= few).tolist():
            if y != x and (_recurs_alike if recurs else _is_stepped)(codes[x][rows], codes[y][rows], counts):
                found.append((int((counts > 0).sum()), x, y))
    both = {(x, y) for _, x, y in found}
    # Of columns that determine each other the later one is computed.
    found = [(size, x, y) for size, x, y in found if x < y or (y, x) not in both]
    return [(names[x], names[y]) for _, x, y in sorted(found)]


def _recurs_alike(x: NDArray[np.int32], y: NDArray[np.int32], counts: NDArray[np.int64]) -> bool:
    """Whether rows of one x have one y, so many that chance is no reason; the most frequent x is no evidence."""
    same = x[1:] == x[:-1]
    wrong = int((same & (y[1:] != y[:-1])).sum())
    shares = np.bincount(y) / len(y)
    evidence = int(same.sum()) - (int(counts.max()) - 1)
    by_chance = 1 - float((shares**2).sum())
    expected = evidence * by_chance
    # Each exception makes two neighbours differ.
    odd = 2 * SAMPLE_SLACK * min(ODD_ROWS * len(x), ODD_EXPECTED * expected)
    return expected >= 2 * EXPECTED and wrong <= odd


def _is_stepped(x: NDArray[np.int32], y: NDArray[np.int32], counts: NDArray[np.int64]) -> bool:  # noqa: ARG001
    """Whether a number that hardly recurs has each y in one range of its values."""
    changes = np.flatnonzero(y[1:] != y[:-1])
    if not 0 < len(changes) < MOST_STEPS or len(np.unique(y)) != len(changes) + 1:
        return False
    runs = np.diff(np.concatenate([[-1], changes, [len(y) - 1]]))
    by_chance = 1 - float(((np.bincount(y) / len(y)) ** 2).sum())
    return int(runs.min()) >= LEVEL_ROWS and len(y) * by_chance >= max(4 * EXPECTED, 50 * len(changes))


def _write_functions(
    source: Source, executor: Executor, sample: Sample, pairs: list[tuple[str, str]]
) -> list[Candidate]:
    """Functions as expressions, made of the values of all rows."""
    if not pairs:
        return []
    merged: dict[int, pl.DataFrame] = {}

    def merge(_: int, tables: list[list[pl.DataFrame]]) -> None:
        for i, parts in enumerate(zip(*tables, strict=True)):
            merged[i] = _group(pl.concat([*([merged[i]] if i in merged else []), *parts]), recurs[i])

    slim = source.without([n for n in source.frame.schema.names if n not in {n for pair in pairs for n in pair}])
    codes = {name: sample.codes[i] for i, name in enumerate(sample.frame.columns)}
    recurs = [(np.bincount(codes[x])[1:] == 1).sum() <= MOST_ALONE * (codes[x] > 0).sum() for x, _ in pairs]
    executor.map(_function_tables, (slim, pairs, recurs), slim.jobs(), merge)
    found = []
    for i, (x, y) in enumerate(pairs):
        written = _write_function(x, y, merged[i], sample)
        if written is not None:
            kind: Kind = "copy" if recurs[i] and merged[i]["y"].n_unique() == len(merged[i]) else "function"
            text = f"{y} is {'a relabelling' if kind == 'copy' else 'a function'} of {x}{written[1]}"
            found.append(_passive(kind, y, (x,), written[0], text, sample))
    return found


def _function_tables(
    shared: tuple[Source, list[tuple[str, str]], list[bool]], piece: int, *held: Any
) -> list[list[pl.DataFrame]]:
    """Groups of each pair, for each batch."""
    source, pairs, recurs = shared
    tables = []
    for batch in source.batches(piece, *held):
        frame = pl.DataFrame(batch)
        of_pairs = []
        for (x, y), often in zip(pairs, recurs, strict=True):
            columns = frame.select(low=pl.col(x), high=pl.col(x), y=pl.col(y), rows=pl.lit(1, pl.Int64))
            of_pairs.append(_group(columns, often))
        tables.append(of_pairs)
    return tables


def _group(table: pl.DataFrame, often: bool) -> pl.DataFrame:
    """Rows of each pair of values (x is low and high); or least and greatest x of each y, if x hardly recurs."""
    total = pl.col("rows").sum()
    if often:
        return table.group_by("low", "y").agg(pl.col("high").first(), total).select(table.columns)
    none = pl.col("low").is_null().alias("none")
    return table.group_by(none, "y").agg(pl.col("low").min(), pl.col("high").max(), total).select(table.columns)


def _write_function(x: str, y: str, table: pl.DataFrame, sample: Sample) -> tuple[pl.Expr, str] | None:
    """Expression of y by x, and what to say of it. ``table`` has the rows of ranges of x and their y."""
    kinds = sample.frame.schema
    if isinstance(kinds[y], TEXT):
        table = table.with_columns(pl.col("y").cast(pl.String))
    elif kinds[y].is_temporal():
        # Python's times have no nanoseconds.
        table = table.with_columns(pl.col("y").to_physical().cast(pl.Int64))
    # The most frequent y of each x, exceptions being few; a tie goes to the lesser.
    table = table.sort("low", "rows", "y", descending=[False, True, False], nulls_last=True)
    table = table.unique("low", keep="first", maintain_order=True)
    at_null = table.filter(pl.col("low").is_null())["y"].to_list()
    table = table.filter(pl.col("low").is_not_null())
    if x in sample.numbers:
        steps = table.group_by(pl.col("y").rle_id().alias("step"), maintain_order=True).agg(
            pl.col("low").first(), pl.col("high").last(), pl.col("y").first(), pl.col("rows").sum()
        )
        if (steps["low"].slice(1) <= steps["high"].head(len(steps) - 1)).any():
            return None
        if len(steps) <= MOST_STEPS:
            value, text = _steps(x, steps, sample.numbers[x])
            return _with_null(x, value, at_null, kinds[y]), text
    if len(table) > MOST_VALUES or kinds[x].is_float() or kinds[x].is_decimal():
        return None
    column, keys = pl.col(x), table["low"]
    if isinstance(kinds[x], TEXT):
        column, keys = column.cast(pl.String), keys.cast(pl.String)
    value = column.replace_strict(keys, table["y"], default=None, return_dtype=table.schema["y"])
    return _with_null(x, value, at_null, kinds[y]), f", with {table['y'].n_unique():,} values for {len(table):,}"


def _steps(x: str, steps: pl.DataFrame, of: Number) -> tuple[pl.Expr, str]:
    """A value for each range of a number; the borders are round numbers between the values seen."""
    lows, highs, values = (steps[name].to_list() for name in ("low", "high", "y"))
    borders: list[Any] = []
    for below, above in zip(highs, lows[1:], strict=False):
        if not of.dtype.is_numeric():
            borders.append(above)
        elif of.digits == 0:
            borders.append(int(simplest(below + 1, above)))
        else:
            low, high = float(below), float(above)
            borders.append(simplest(low + min((high - low) / 2, of.unit), high))
    value = pl.lit(values[-1], steps.schema["y"])
    for border, before in zip(borders[::-1], values[-2::-1], strict=True):
        value = pl.when(pl.col(x) < border).then(pl.lit(before, steps.schema["y"])).otherwise(value)
    shown = ""
    if of.dtype.is_numeric() and len(borders) <= 20 and steps["rows"].min() >= LEVEL_ROWS:  # type: ignore[operator]
        shown = ": at " + ", ".join(f"{border:.12g}" for border in borders)
    return value, f", with {len(steps)} steps{shown}"


def _with_null(x: str, value: pl.Expr, at_null: list[Any], dtype: Any) -> pl.Expr:
    """The value of rows in which x is null, and the type of the column."""
    given = at_null[0] if at_null else None
    return pl.when(pl.col(x).is_null()).then(pl.lit(given)).otherwise(value).cast(dtype, strict=False)


# Formulas


def _choose(sample: Sample, targets: Targets, given: Iterator[Formula]) -> Iterator[Candidate]:
    """Of formulas that say the same one each, written in the way that gives the column in the sample."""
    place = {name: i for i, name in enumerate(sample.frame.columns)}

    def unlikely(formula: Formula) -> tuple[float, bool, int]:
        # What was computed has more decimals than what was measured.
        digits = sample.numbers[formula.target].digits
        return -np.inf if digits is None else -digits, not formula.natural, -place[formula.target]

    untold = []
    for formula in sorted(given, key=unlikely):
        target, parents = formula.target, formula.parents
        if target in targets.parents or frozenset((target, *parents)) in targets.sets:
            continue
        floating, tried = sample.frame.schema[target].is_float(), []
        known = pl.all_horizontal(_is_given(name, sample.frame.schema[name]) for name in (target, *parents))
        for expression, text in formula.ways:
            wrong = _differ(expression, target, floating)
            counts = sample.frame.select(all=wrong.sum(), known=(wrong & known).sum()).row(0)
            tried.append((*counts, expression, text))
        of_all, of_known, expression, text = min(tried, key=lambda way: way[:2])
        if of_all <= SAMPLE_SLACK * ODD_ROWS * sample.frame.height:
            if targets.take(target, parents):
                yield _passive(formula.kind, target, parents, expression, f"{target} = {text}", sample)
            continue
        _, of_known, expression, text = min(tried, key=lambda way: way[1])
        if of_known <= SAMPLE_SLACK * ODD_ROWS * int(sample.frame.select(known.sum()).item()):
            wrong = _differ(expression, target, floating) & known
            text = f"{target} = {text}, where all are known"
            untold.append(Candidate(formula.kind, (*parents, target), text, known, wrong))
    # A column with nulls of its own, which no expression knows, is told, but not computed.
    for candidate in untold:
        columns, target = frozenset(candidate.columns), candidate.columns[-1]
        circle = any(target in targets.before(parent) for parent in candidate.columns[:-1])
        if not circle and target not in {*targets.parents, *targets.told} and columns not in targets.sets:
            targets.sets.add(columns)
            targets.told.add(target)
            yield candidate


def _is_given(name: str, dtype: Any) -> pl.Expr:
    """Whether a number is neither null nor NaN."""
    return pl.col(name).is_not_nan().fill_null(False) if dtype.is_float() else pl.col(name).is_not_null()


# All rows


def _verify(source: Source, executor: Executor, candidates: Sequence[Candidate]) -> list[Relation]:
    """Count in all rows what candidates speak of and where they are wrong; keep those that nearly always hold."""
    candidates = [c for c in candidates if _can_be_computed(source, c)]
    if not candidates:
        return []
    names = {name for c in candidates for e in (c.speaks, c.wrong) for name in e.meta.root_names()}
    slim = source.without([name for name in source.frame.schema.names if name not in names])
    parts = executor.map(_count, (slim, candidates), slim.jobs(), lambda _, counts: counts)
    found = []
    for candidate, (rows, wrong) in zip(candidates, np.sum(parts, axis=0).tolist(), strict=True):
        if rows >= RULE_ROWS and wrong <= min(ODD_ROWS, ODD_EXPECTED * candidate.by_chance) * rows:
            found.append(
                Relation(
                    candidate.kind,
                    candidate.columns,
                    candidate.text,
                    rows,
                    wrong,
                    candidate.column,
                    candidate.record,
                    candidate.forbid,
                )
            )
    return found


def _can_be_computed(source: Source, candidate: Candidate) -> bool:
    """Whether polars knows how to compute it from columns of these types."""
    try:
        empty = pl.DataFrame(source.frame.schema.empty_table())
        empty.select(candidate.speaks.alias("speaks"), candidate.wrong.alias("wrong"))
    except pl.exceptions.PolarsError:
        return False
    return True


def _count(shared: tuple[Source, Sequence[Candidate]], piece: int, *held: Any) -> NDArray[np.int64]:
    """Rows that each candidate speaks of, and exceptions, in one piece: of shape (n_candidates, 2)."""
    source, candidates = shared
    wanted = [
        e.sum().cast(pl.Int64).alias(f"{i}") for i, e in enumerate(e for c in candidates for e in (c.speaks, c.wrong))
    ]
    total = np.zeros((len(candidates), 2), np.int64)
    for batch in source.batches(piece, *held):
        total += pl.DataFrame(batch).select(wanted).to_numpy().reshape(-1, 2)
    return total


def _with_children(relation: Relation, computed: Sequence[Relation], frame: pl.DataFrame) -> Relation:
    """A rule that a column is null says so, too, of columns that are null with it because they are computed from it."""
    if relation.kind != "rule" or not relation.text.startswith(f"{relation.columns[-1]} is null "):
        return relation
    names = list(relation.columns)
    for name in itertools.islice(names, 1, None):
        # Names that are added are gone through as well.
        for child in computed:
            if child.columns[:-1] == (name,) and child.columns[-1] not in names:
                of_null = frame.filter(pl.col(name).is_null())[child.columns[-1]]
                if of_null.null_count() == len(of_null):
                    names.append(child.columns[-1])
    if len(names) == len(relation.columns):
        return relation
    text = relation.text.replace(" is null ", f" (and so {', '.join(names[2:])}) is null ", 1)
    return replace(relation, columns=tuple(names), text=text)
