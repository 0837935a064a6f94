"""A Gaussian copula for tables of any length: one pass counts all pairs of columns, and the rest knows counts only.

Terms
-----
group
    Some neighbouring ranks of a column: a quantile bin, a value on which rows pile up, a level of a category. Group 0
    is missing.
latent
    A standard normal variable behind a column. It puts groups into classes, 0, 1, ..., by cuts; groups that it says
    nothing of have class -1. A column has

    * one for whether it is missing, where some rows are and some are not;
    * one for its values, where these have an order, of as many classes as groups;
    * one for each split of a tree of its levels, where they have none: a split has two classes, the levels to its left
      and to its right, and says nothing of all others.

share
    Of a latent: the part of the rows that it says something about.

So whatever a column is, what a pair of latents has to fit is a table of classes, whose correlation is found by maximum
likelihood with the cuts held at the margins (Olsson 1979, Maximum likelihood estimation of the polychoric correlation
coefficient). A copula keeps dependence that is monotone in the latents: no interactions, no unequal spread.

This module knows columns and pieces of tables, and nothing of plans or options of the synthesis.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fastsynth import _copula, _count
from fastsynth._tree import MAX_CODES
from fastsynth.columns import EncodedTable, Ranks, Variable, numbers_of
from fastsynth.errors import OptionError
from fastsynth.execute import Executor, Threads, Tick
from fastsynth.products import Product
from fastsynth.source import Source
from fastsynth.streams import BOOTSTRAP, Words, hashed, random_words, unit

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

# Quantile bins of a column: enough that binning costs less than a hundredth of the information, few enough that the
# table of two columns stays in the fastest cache. Values that fill a bin stand alone, which makes at most twice as
# many groups. Tables of many columns have fewer, so that all of them have not much more than so many cells.
MOST_BINS, FEWEST_BINS = 32, 8
MOST_CELLS = 16_000_000
BIN_ROWS = 10
# Splits of a category: levels beyond them are drawn by their shares within groups.
MOST_GROUPS = 63
# Rows of a task that counts a table in memory. Never part of the result.
COUNT_ROWS = 1_000_000
# Rows of independence added to every table, which matters for the smallest ones only.
PRIOR_ROWS = 1.0
# Smallest eigenvalue of a matrix of correlations, and rounds of the search for one.
FLOOR = 1e-6
ROUNDS = 60
# Times that correlations are found anew, given those within columns.
COMPLETIONS = 4
# Points by which the cuts of a tree are found, and that a split needs of them.
POINTS, LEAST_POINTS = 1 << 17, 100
# Rows drawn at a time, so that their latents stay in the cache.
DRAW_ROWS = 4096
# Places at which the search for a rank begins.
MOST_GUIDE = 1 << 20
# Sweeps over the latents of given columns, and how close the bounds of those are that need none.
SWEEPS, NARROW = 20, 1e-2


@dataclass(frozen=True, slots=True, eq=False)
class Margin:
    """How the ranks of a column are distributed and grouped.

    Attributes
    ----------
    slot : int
    name : str
    ordered : bool
        Whether its values have an order.
    first : int
        Lowest rank that is a value.
    group : ndarray of shape (n_ranks,), dtype=uint8
        Group of each rank; 0 is missing.
    rows : ndarray of shape (n_ranks,), dtype=int64
    """

    slot: int
    name: str
    ordered: bool
    first: int
    group: NDArray[np.uint8]
    rows: Counts

    @classmethod
    def of(cls, slot: int, variable: Variable, rows: Counts, bins: int) -> Margin:
        """Group the ranks of a column. O(n_ranks log n_ranks)."""
        group = np.zeros(len(rows), np.uint8)
        values = rows[variable.first :]
        if variable.kind == "unordered":
            group[variable.first :] = _level_groups(values, MOST_GROUPS)
        elif values.any():
            group[variable.first :] = _bins(values, bins)
        return cls(slot, variable.name, variable.kind != "unordered", variable.first, group, rows)

    @classmethod
    def of_product(cls, slot: int, product: Product, name: str) -> Margin:
        """The cells of several columns as levels of one; rank 0 has no cell."""
        rows = np.append(0, product.rows)
        return cls(slot, name, False, 1, np.arange(len(rows), dtype=np.uint8), rows)

    @property
    def n_groups(self) -> int:
        """Groups of its values, and that of missing."""
        return int(self.group.max()) + 1

    @property
    def has_missing(self) -> bool:
        """Whether a latent says which rows are missing."""
        return bool(self.n_groups > 1 and self.rows[: self.first].any())

    @property
    def n_latents(self) -> int:
        """Latents of the column."""
        return self.has_missing + (min(self.n_groups - 2, 1) if self.ordered else self.n_groups - 2) * (
            self.n_groups > 1
        )


def _bins(rows: Counts, bins: int) -> NDArray[np.uint8]:
    """Groups, from 1, of about equally many rows; a value that fills a group stands alone."""
    total = rows.sum()
    place = (2 * (np.cumsum(rows) - rows) + rows) * bins // (2 * total)
    alone = rows * bins >= total
    starts = np.append(True, (place[1:] != place[:-1]) | alone[1:] | alone[:-1])
    # A start without rows would be a group without rows.
    number = np.cumsum(starts) - 1
    filled = np.bincount(number, rows) > 0
    group: NDArray[np.uint8] = np.maximum(np.cumsum(filled)[number], 1).astype(np.uint8)
    return group


def _level_groups(rows: Counts, most: int) -> NDArray[np.uint8]:
    """Groups, from 1, of a level each; the rarest levels share the last one where there are too many."""
    used = np.flatnonzero(rows)
    group = np.zeros(len(rows), np.uint8)
    if len(used) > most:
        rarest = used[np.argsort(-rows[used], kind="stable")[most - 1 :]]
        group[rarest] = most
        used = np.setdiff1d(used, rarest)
    group[used] = np.arange(1, len(used) + 1)
    return group


# Count


@dataclass(frozen=True, slots=True, eq=False)
class Counting:
    """What is counted: one table for each column and one for each pair, one behind the other.

    Attributes
    ----------
    margins : tuple of Margin
    columns : ndarray of shape (n_tables, 3), dtype=int32
        Places among the margins, -1 for none.
    offset : ndarray of shape (n_tables + 1,), dtype=int64
    """

    margins: tuple[Margin, ...]
    columns: NDArray[np.int32]
    offset: Counts

    @classmethod
    def of(cls, margins: Sequence[Margin]) -> Counting:
        """All columns, and all pairs of columns."""
        p = len(margins)
        one = [(i, -1, -1) for i in range(p)]
        two = [(i, j, -1) for i in range(p) for j in range(i + 1, p)]
        columns = np.array(one + two, np.int32)
        widths = np.append([margin.n_groups for margin in margins], 1)
        cells = np.prod(widths[columns].astype(np.int64), axis=1)
        return cls(tuple(margins), columns, np.append(0, np.cumsum(cells)))

    @property
    def n_cells(self) -> int:
        """Cells of all tables."""
        return int(self.offset[-1])

    def tables(self, counts: Counts) -> dict[tuple[int, int], Floats]:
        """Tables by their columns, that of one column by (i, -1)."""
        found, width = {}, [margin.n_groups for margin in self.margins]
        ends = self.offset.tolist()
        for (i, j, _), (low, high) in zip(self.columns.tolist(), pairwise(ends), strict=True):
            own = counts[low:high].astype(np.float64)
            found[i, j] = own if j < 0 else own.reshape(width[i], width[j])
        return found

    @property
    def widths(self) -> NDArray[np.int32]:
        """Groups of each column."""
        return np.array([margin.n_groups for margin in self.margins], np.int32)

    def add(self, groups: NDArray[np.uint8], weights: Sequence[Counts | None], out: Counts) -> None:
        """Add rows (n_columns, n) to the tables (n_weights, n_cells), once for each set of weights."""
        for weight, tables in zip(weights, out, strict=True):
            whole = np.zeros(0, np.int64) if weight is None else weight
            _count.tabulate(groups, self.columns, self.widths, self.offset[:-1], whole, tables)


def _poisson(keys: Words, start: int, n: int) -> list[Counts | None]:
    """How often rows are in each bootstrap sample: hashes of their numbers as Poisson variables of mean 1.

    Hanley and MacGibbon (2006), Creating non-parametric bootstrap samples using Poisson frequencies.
    """
    if not len(keys):
        return [None]
    below = np.cumsum(np.exp(-1) / np.cumprod(np.append(1.0, np.arange(1, 20))))
    numbers = np.arange(start, start + n, dtype=np.uint64)
    return [np.searchsorted(below, unit(hashed(numbers, key)), side="right").astype(np.int64) for key in keys]


def count_rows(shared: tuple[Counting, tuple[Ranks, ...], Words], start: int, stop: int) -> Counts:
    """Count some rows of a table in memory, given the ranks of the columns."""
    counting, ranks, keys = shared
    groups = np.stack([margin.group[of[start:stop]] for margin, of in zip(counting.margins, ranks, strict=True)])
    out = np.zeros((max(len(keys), 1), counting.n_cells), np.int64)
    counting.add(groups, _poisson(keys, start, stop - start), out)
    return out


def cells_of(product: Product, ranks: Sequence[Ranks]) -> NDArray[np.uint8]:
    """Rank of the cell of each row."""
    cells: NDArray[np.uint8] = (product.codes(ranks) + 1).astype(np.uint8)
    return cells


def count_piece(
    shared: tuple[Counting, Source, Mapping[int, Variable], Mapping[int, tuple[tuple[int, ...], Product]], Words],
    piece: int,
    *held: Any,
) -> Counts:
    """Count the rows of one piece of a source."""
    counting, source, variables, products, keys = shared
    out = np.zeros((max(len(keys), 1), counting.n_cells), np.int64)
    start = source.starts[piece]
    for batch in source.batches(piece, *held):
        groups = np.empty((len(counting.margins), len(batch)), np.uint8)
        for own, margin in zip(groups, counting.margins, strict=True):
            if margin.slot in products:
                slots, product = products[margin.slot]
                own[:] = cells_of(product, [variables[slot].rank(batch.column(slot)) for slot in slots])
            else:
                _group(margin, variables[margin.slot], batch.column(margin.slot), own)
        counting.add(groups, _poisson(keys, start, len(batch)), out)
        start += len(batch)
    return out


def _group(margin: Margin, variable: Variable, column: Any, out: NDArray[np.uint8]) -> None:
    """Groups (n,) of some rows of a column; of numbers without their ranks, which are slow to find."""
    edges = _edges(margin, variable)
    if edges is None:
        out[:] = margin.group[variable.rank(column)]
    else:
        _count.cut(np.ascontiguousarray(numbers_of(column)), edges, 1, 0, out)


def _edges(margin: Margin, variable: Variable) -> Floats | None:
    """Greatest number of each group but the last, if floats tell all groups apart."""
    if variable.kind != "numeric" or len(variable.missing_codes) or margin.n_groups < 2:
        return None
    last = np.flatnonzero(np.diff(margin.group[margin.first :])) + margin.first
    edges = numbers_of(variable.values.take(pa.array(last)))
    next_ones = numbers_of(variable.values.take(pa.array(last + 1)))
    return edges if (edges < next_ones).all() else None


# Fit


@dataclass(frozen=True, slots=True, eq=False)
class Latents:
    """The latents of a column, as fitted once.

    Attributes
    ----------
    missing : float
        Share of the rows that are missing.
    ends : ndarray of shape (n_groups,), dtype=float64
        Of the rows with a value, the share up to each group, 0 for that of missing. Only where values have an order.
    cut : ndarray of shape (n_splits,), dtype=float64
        Values of a split's latent beyond it go right. Only where values have no order.
    child : ndarray of shape (n_splits, 2), dtype=int32
        Split to the left and to the right, or -1 - group; splits come before their children.
    """

    missing: float
    ends: Floats
    cut: Floats
    child: NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A fit to all rows, or to a bootstrap sample of them.

    Attributes
    ----------
    latents : tuple of Latents
        By column.
    correlation : ndarray of shape (n_latents, n_latents), dtype=float64
        Column by column; that of whether it is missing first.
    """

    latents: tuple[Latents, ...]
    correlation: Floats


def fit_copula(
    source: Source,
    variables: Sequence[Variable],
    rows: Sequence[Counts],
    table: EncodedTable | None,
    slots: Sequence[int],
    executor: Executor | None = None,
    *,
    m: int = 1,
    proper: bool = False,
    entropy: int = 0,
    shrink: bool = True,
    products: Mapping[int, tuple[tuple[int, ...], Product]] | None = None,
    tick: Tick = lambda _: None,
) -> CopulaModel:
    """Fit a Gaussian copula to some columns of a table.

    Parameters
    ----------
    source : Source
    variables : sequence of Variable
    rows : sequence of ndarray of shape (n_ranks,), dtype=int64
        Rows of each rank, by slot.
    table : EncodedTable or None
        The whole table, if it is in memory: the source is not read then, with the same result.
    slots : sequence of int
        The columns, in any order.
    executor : Executor, optional
    m : int
        Copies that are to be drawn; matters only if proper.
    proper : bool
        Fit each copy to a bootstrap sample of the rows.
    entropy : int
        Of the bootstrap samples.
    shrink : bool
        Shrink correlations by how uncertain they are.
    products : dict of int to tuple
        Slots of columns and their cells, which are the levels of one more column, of a slot below 0: its ranks are
        numbers of cells, from 1.
    tick : callable
        Told the rows that were counted.

    Returns
    -------
    CopulaModel

    Raises
    ------
    OptionError
        No column, or one twice.

    Notes
    -----
    O(n p^2) additions for p columns, about half a nanosecond each; then O(p^2) whatever n. Memory: 8 (bins + 1)^2 p^2/2
    bytes a thread, 11 MB for 50 columns.

    Examples
    --------
    >>> from fastsynth.datasets import load_boys
    >>> from fastsynth.learn import learn
    >>> from fastsynth.source import open_source
    >>> boys = learn(open_source(load_boys()), Threads(1), lambda rows: None)
    >>> model = fit_copula(boys.source, boys.variables, boys.rows, boys.table, range(9))
    >>> words = random_words(1, (0,), 5 * model.n_words).reshape(-1, 5)
    >>> ranks = model.draw(0, words, given={0: boys.table.ranks[0][:5]})
    >>> sorted(ranks), len(boys.variables[8].decode(ranks[8]))
    ([1, 2, 3, 4, 5, 6, 7, 8], 5)
    """
    products = products or {}
    if not len(slots) + len(products) or len(set(slots)) < len(slots):
        raise OptionError(f"slots={list(slots)}: must be one column or more, each once.")
    executor = executor or Threads()
    n_columns = len(slots) + len(products)
    n_pairs = max(n_columns * (n_columns - 1) // 2, 1)
    most = min((MOST_CELLS / n_pairs) ** 0.5, source.starts[-1] / BIN_ROWS)
    bins = int(np.clip(most, FEWEST_BINS, MOST_BINS))
    margins = [Margin.of(slot, variables[slot], rows[slot], bins) for slot in slots]
    for slot, (of, product) in products.items():
        margins.append(Margin.of_product(slot, product, " x ".join(variables[one].name for one in of)))
    counting = Counting.of(margins)
    keys = np.concatenate([random_words(entropy, (BOOTSTRAP, copy), 1) for copy in range(m)]) if proper else None
    fits: list[Fit] = []
    here = executor if isinstance(executor, Threads) else Threads()
    at_once = max(MOST_CELLS // counting.n_cells, 1)
    for some in [np.zeros(0, np.uint64)] if keys is None else np.split(keys, range(at_once, len(keys), at_once)):
        counted = _count_all(counting, source, variables, products, table, some, executor, tick)
        # Here, wherever rows were counted: the tables are few. Threads hold BLAS to one, which is faster.
        fits += here.map(fit_counts, (counting, shrink), [(of_copy,) for of_copy in counted], lambda _, fit: fit)
    return CopulaModel(tuple(margins), tuple(fits), _notes(margins))


def _notes(margins: Sequence[Margin]) -> dict[str, str]:
    found = {}
    for margin in margins:
        n_levels = int(np.count_nonzero(margin.rows[margin.first :]))
        if not margin.ordered and n_levels > MOST_GROUPS:
            found[margin.name] = (
                f"{n_levels} levels: the copula tells the {MOST_GROUPS - 1} most frequent ones apart, and draws the "
                "others by their shares alone"
            )
    return found


def _count_all(
    counting: Counting,
    source: Source,
    variables: Sequence[Variable],
    products: Mapping[int, tuple[tuple[int, ...], Product]],
    table: EncodedTable | None,
    keys: Words,
    executor: Executor,
    tick: Tick,
) -> Counts:
    """Tables (max(n_keys, 1), n_cells) of all rows."""
    total = np.zeros((max(len(keys), 1), counting.n_cells), np.int64)
    function: Callable[..., Counts]
    shared: tuple[Any, ...]
    if table is not None:
        starts = [*range(0, table.n_rows, COUNT_ROWS), table.n_rows]
        jobs: list[tuple[Any, ...]] = list(pairwise(starts))
        cells = {slot: cells_of(product, [table.ranks[one] for one in of]) for slot, (of, product) in products.items()}
        slots = [margin.slot for margin in counting.margins]
        ranks = tuple(cells[slot] if slot in cells else table.ranks[slot] for slot in slots)
        function, shared = count_rows, (counting, ranks, keys)
    else:
        starts, jobs = source.starts, source.jobs()
        used = {one for slot in (m.slot for m in counting.margins) for one in products.get(slot, ((slot,), None))[0]}
        function = count_piece
        shared = counting, source, {slot: variables[slot] for slot in used}, products, keys

    def add(i: int, counted: Counts) -> None:
        total.__iadd__(counted)
        tick(starts[i + 1] - starts[i])

    executor.map(function, shared, jobs, add)
    return total


def fit_counts(shared: tuple[Counting, bool], counts: Counts) -> Fit:
    """Fit the latents and their correlations to counted tables (n_cells,), shrunken or not."""
    counting, shrink = shared
    margins, p = counting.margins, len(counting.margins)
    tables = counting.tables(counts)
    rows = [tables[i, -1] for i in range(p)]
    latents = []
    for i, margin in enumerate(margins):
        profiles = [np.zeros((margin.n_groups, 0))]
        if not margin.ordered and margin.n_groups > 2:
            others = ((j, tables[i, j] if i < j else tables[j, i].T) for j in range(p) if j != i)
            profiles += [_profile(margins[j], table) for j, table in others]
        latents.append(_latents(margin, rows[i], np.hstack(profiles)))
    classes = [_classes(margin, own) for margin, own in zip(margins, latents, strict=True)]
    first = np.append(0, np.cumsum([len(of) for of in classes]))
    seen, variance = _correlations(classes, tables, first)
    if shrink:
        above = np.isfinite(variance)
        seen[above] *= reliability(seen[above], variance[above])
    shares = [
        of_rows[of >= 0].sum() / max(of_rows.sum(), 1) for own, of_rows in zip(classes, rows, strict=True) for of in own
    ]
    correlation = _law_of(seen, list(map(_lost, margins, latents)), first, np.array(shares))
    cut = [
        _fixed_cuts(own, of_rows, correlation[high - len(own.cut) : high, high - len(own.cut) : high])
        for own, of_rows, high in zip(latents, rows, first[1:], strict=True)
    ]
    return Fit(tuple(replace(own, cut=fixed) for own, fixed in zip(latents, cut, strict=True)), correlation)


def _law_of(seen: Floats, lost: Sequence[Floats], first: Counts, shares: Floats) -> Floats:
    """Correlations (q, q) of all latents from those that are seen.

    What latents of a column have in common is free, but matters for what others have in common with them: it begins at
    nothing, and is what the nearest matrix leaves it.
    """
    q = len(seen)
    all_lost = np.zeros((q, q))
    for own, low, high in zip(lost, first[:-1], first[1:], strict=True):
        all_lost[low:high, low:high] = own
    found = np.eye(q)
    for _ in range(COMPLETIONS):
        r = np.zeros((q, q))
        _copula.unselected(seen, all_lost, found, first.astype(np.int32), r)
        wanted = r + r.T + np.eye(q)
        found = completed(wanted, first, shares)
        if found is wanted:
            break
    return found


def _lost(margin: Margin, latents: Latents) -> Floats:
    """Variance (n_latents, n_latents) that a latent, by columns, loses in the rows that another one says something of.

    Rows with a value are those whose latent of missing is below its cut; a split has those that came its way.
    """
    q = margin.n_latents
    lost = np.zeros((q, q))
    start = int(margin.has_missing)
    if start:
        lost[1:, 0] = _truncation(_quantile(np.array([1 - latents.missing])))[0, 0]
    of_sides = _truncation(latents.cut)
    for split, sides in enumerate(latents.child.tolist()):
        for side, child in enumerate(sides):
            if child >= 0:
                lost[start + child] = lost[start + split]
                lost[start + child, start + split] = of_sides[side, split]
    return lost


def _truncation(cut: Floats) -> Floats:
    """Variance (2, n) that standard normal variables lose where only values below a cut are left, and only above."""
    with np.errstate(all="ignore"):
        density = np.exp(-0.5 * cut**2) / np.sqrt(2 * np.pi)
        share = _shares(cut)
        below, above = density / share, density / (1 - share)
        lost = np.stack([below * (below + cut), above * (above - cut)])
    # A side without rows has no latents that say something about it.
    return np.where(np.isfinite(lost), np.clip(lost, 0.0, 1.0), 0.0)


def _shares(z: Floats) -> Floats:
    share = np.empty(z.shape)
    _copula.shares(np.ascontiguousarray(z), share)
    return share


def _correlations(
    classes: Sequence[list[NDArray[np.int8]]],
    tables: Mapping[tuple[int, int], Floats],
    first: Counts,
) -> tuple[Floats, Floats]:
    """Correlations (q, q) of latents of different columns, above the diagonal; variances, infinite elsewhere."""
    q = int(first[-1])
    r, variance = np.zeros((q, q)), np.full((q, q), np.inf)
    known = [(i, *_indicators(own)) for i, own in enumerate(classes) if own]
    for (i, inside_a, first_a), (j, inside_b, first_b) in combinations(known, 2):
        at = slice(first[i], first[i + 1]), slice(first[j], first[j + 1])
        r[at], variance[at] = polychoric(inside_a @ tables[i, j] @ inside_b.T, first_a, first_b, PRIOR_ROWS)
    return r, variance


def _profile(margin: Margin, table: Floats) -> Floats:
    """What another column tells of the groups of a category: sums (n_groups, k) over rows, of a common scale.

    Of values in order only the mean normal score counts, as nothing else can be kept of them; of others the rows in
    each group, by which distances are those of chi-square.
    """
    parts = []
    if margin.ordered and margin.n_groups > 2:
        score = _scores(table[:, 1:].sum(0))
        parts.append((table[:, 1:] @ score)[:, None] / max(float((table[:, 1:].sum(0) @ score**2) ** 0.5), 1e-9))
        table = np.stack([table[:, 0], table[:, 1:].sum(1)], 1)
    if margin.has_missing or not margin.ordered or margin.n_groups < 3:
        parts.append(table / np.sqrt(np.maximum(table.sum(0), 1)))
    return np.hstack(parts) if parts else np.zeros((len(table), 0))


def _scores(rows: Floats) -> Floats:
    """Mean of a standard normal variable in each of some classes; 0 in one without rows."""
    share = np.append(0, np.cumsum(rows)) / max(rows.sum(), 1)
    with np.errstate(all="ignore"):
        density = np.exp(-0.5 * np.square(_quantile(np.minimum(share, 1.0)))) / np.sqrt(2 * np.pi)
        score = -np.diff(density) / np.diff(share)
    return np.where(rows > 0, score, 0.0)


def _latents(margin: Margin, rows: Floats, profiles: Floats) -> Latents:
    total, values = rows.sum(), rows[1:].sum()
    missing = float(rows[0] / total) if total else 0.0
    none, no_split = np.zeros(0), np.zeros((0, 2), np.int32)
    if margin.ordered:
        ends = np.cumsum(np.append(0.0, rows[1:])) / max(values, 1)
        return Latents(missing, np.minimum(ends, 1.0), none, no_split)
    if margin.n_groups < 3:
        return Latents(missing, none, none, no_split)
    child = grow_tree(rows[1:], profiles[1:])
    return Latents(missing, none, _quantile(_left_shares(child, rows)), child)


def _left_shares(child: NDArray[np.int32], rows: Floats) -> Floats:
    """Share of the rows of each split (n_splits,) that go left."""
    sides = np.array([[rows[_below(child, side)].sum() for side in pair] for pair in child.tolist()])
    total = sides.sum(1)
    return np.asarray(np.where(total > 0, sides[:, 0] / np.where(total > 0, total, 1), 0.5))


def _below(child: NDArray[np.int32], at: int) -> list[int]:
    """Groups below a split, or the group itself."""
    return [-1 - at] if at < 0 else [group for side in child[at].tolist() for group in _below(child, side)]


def grow_tree(rows: Floats, profiles: Floats) -> NDArray[np.int32]:
    """A tree of the levels of a category: what is alike is parted last.

    Levels are merged two by two, those first of which the merging loses least of what other columns tell of them: so
    the first splits say most of other columns, and they are of most rows.

    Parameters
    ----------
    rows : ndarray of shape (n_levels,), dtype=float64
    profiles : ndarray of shape (n_levels, k), dtype=float64
        Sums over the rows of each level, scaled such that squares of their means are comparable.

    Returns
    -------
    ndarray of shape (n_levels - 1, 2), dtype=int32
        As in ``Latents.child``: level i is -2 - i, because group 0 is missing.

    Notes
    -----
    The criterion of Ward (1963), for profiles of tables as in Greenacre (1988), Clustering the rows and columns of a
    contingency table. O(n_levels^3 k).

    Examples
    --------
    >>> grow_tree(np.ones(3), np.array([[0.0], [5.0], [0.1]])).tolist()
    [[1, -3], [-2, -4]]
    """
    k = len(rows)
    mass = np.maximum(rows, 1e-9)
    profile = profiles / mass[:, None]
    name = list(range(-2, -2 - k, -1))
    merged: list[tuple[int, int]] = []
    while len(name) > 1:
        square = np.square(profile).sum(1)
        apart = np.maximum(square[:, None] + square - 2 * profile @ profile.T, 0)
        loss = apart * mass[:, None] * mass / (mass[:, None] + mass)
        loss[np.tril_indices(len(name))] = np.inf
        a, b = (int(x) for x in np.unravel_index(loss.argmin(), loss.shape))
        profile[a] = (mass[a] * profile[a] + mass[b] * profile[b]) / (mass[a] + mass[b])
        mass[a] += mass[b]
        merged.append((name[a], name[b]))
        # Splits are numbered from the last merger, which is the root.
        name[a] = k - 1 - len(merged)
        del name[b]
        mass, profile = np.delete(mass, b), np.delete(profile, b, axis=0)
    return np.array(merged[::-1], np.int32).reshape(-1, 2)


def _fixed_cuts(latents: Latents, rows: Floats, correlation: Floats) -> Floats:
    """Cuts of splits whose latents are correlated, so that every level keeps its share.

    Those that come to a split are selected by the splits before it. Points spread evenly over the distribution go
    down the tree, and each split is cut where it parts those that come to it as it should.
    """
    child, cut = latents.child, latents.cut.copy()
    if len(child) < 2 or np.array_equal(correlation, np.eye(len(child))):
        return cut
    # The multiples of irrational numbers (Richtmyer 1951), as 64 bits each.
    step = np.array([int(np.sqrt(prime) % 1 * 2.0**64) for prime in _primes(len(child))], np.uint64)
    words: Words = np.multiply.outer(step, np.arange(1, POINTS + 1, dtype=np.uint64))
    normal = np.empty((len(child), POINTS))
    _copula.normals(words, normal)
    z = np.linalg.cholesky(correlation) @ normal
    at = np.zeros(POINTS, np.int32)
    for split, share in enumerate(_left_shares(child, rows)):
        here = np.flatnonzero(at == split)
        if len(here) >= LEAST_POINTS:
            cut[split] = np.quantile(z[split, here], share)
        at[here] = child[split][(z[split, here] > cut[split]).astype(np.int64)]
    return cut


def _primes(n: int) -> list[int]:
    found = [2]
    while len(found) < n:
        found.append(next(k for k in range(found[-1] + 1, 2 * found[-1] + 1) if all(k % prime for prime in found)))
    return found[:n]


def _classes(margin: Margin, latents: Latents) -> list[NDArray[np.int8]]:
    """Class of each group (n_groups,) by each latent of a column."""
    found = []
    groups = np.arange(margin.n_groups)
    if margin.has_missing:
        found.append(np.where(groups == 0, 1, 0).astype(np.int8))
    if margin.ordered and margin.n_groups > 2:
        found.append((groups - 1).astype(np.int8))
    for pair in latents.child:
        classes = np.full(margin.n_groups, -1, np.int8)
        for i, side in enumerate(pair):
            classes[_below(latents.child, int(side))] = i
        found.append(classes)
    return found


def _indicators(classes: Sequence[NDArray[np.int8]]) -> tuple[Floats, NDArray[np.int32]]:
    """Which groups (n_classes, n_groups) are in each class of each latent, and the first class of each latent."""
    inside = [(np.arange(of.max() + 1)[:, None] == of).astype(np.float64) for of in classes]
    first = np.append(0, np.cumsum([len(of) for of in inside])).astype(np.int32)
    return np.vstack(inside), first


def polychoric(
    counts: Floats,
    first_a: NDArray[np.int32],
    first_b: NDArray[np.int32],
    prior: float = 0.0,
) -> tuple[Floats, Floats]:
    """Polychoric correlations of tables that stand in one array: cuts from the margins, then maximum likelihood.

    Parameters
    ----------
    counts : ndarray of shape (n_classes_a, n_classes_b), dtype=float64
        Rows; a table for each pair of latents, whose classes follow each other.
    first_a, first_b : ndarray of shape (n_latents + 1,), dtype=int32
        First class of each latent; at most 64 classes each.
    prior : float
        Rows of independence added to every table.

    Returns
    -------
    r, variance : ndarray of shape (n_latents_a, n_latents_b), dtype=float64
        From -.9999 to .9999; 0 and 1 for a table of one row or one column.

    Notes
    -----
    Olsson (1979), Maximum likelihood estimation of the polychoric correlation coefficient, Psychometrika 44:443.

    Examples
    --------
    >>> one = np.array([0, 2], np.int32)
    >>> r, variance = polychoric(np.array([[40.0, 10.0], [20.0, 30.0]]), one, one)
    >>> r.round(6)
    array([[0.607073]])
    """
    below_a = _shares_below(np.add.reduceat(counts, first_b[:-1], axis=1), first_a)
    below_b = _shares_below(np.add.reduceat(counts, first_a[:-1], axis=0).T, first_b).T.copy()
    r, variance = np.empty((2, len(first_a) - 1, len(first_b) - 1))
    cuts = _quantile(below_a), _quantile(below_b)
    tables = np.ascontiguousarray(counts), first_a, first_b, below_a, below_b, *cuts
    _copula.polychoric(*tables, *_quadrature(), prior, r, variance)
    return r, variance


@functools.lru_cache(maxsize=1)
def _quadrature() -> tuple[Floats, Floats]:
    nodes, weights = np.polynomial.legendre.leggauss(24)
    # The kernel's interval is from 0 to 1, its weights are those of -1 to 1.
    return (nodes + 1) / 2, weights


def _shares_below(rows: Floats, first: NDArray[np.int32]) -> Floats:
    """Share of the rows (n_classes, n) up to each class, latent by latent."""
    below = np.cumsum(rows, axis=0)
    before = np.vstack([np.zeros(rows.shape[1]), below])[first]
    size = np.diff(first)
    total = np.repeat(np.diff(before, axis=0), size, axis=0)
    share: Floats = (below - np.repeat(before[:-1], size, axis=0)) / np.where(total > 0, total, 1)
    return np.ascontiguousarray(np.minimum(share, 1.0))


def _quantile(share: Floats) -> Floats:
    from scipy.special import ndtri

    return np.asarray(ndtri(share), np.float64)


def reliability(r: Floats, variance: Floats) -> Floats:
    """Factors that shrink correlations to 0: the share of what they would vary by, were they known without error.

    Where all have the same variance this is the shrinkage of Schaefer and Strimmer (2005), A shrinkage approach to
    large-scale covariance matrix estimation, Statistical Applications in Genetics 4:32, whose intensity is the sum of
    the variances over that of the squares. Here correlations from few rows are shrunk more than others.

    Parameters
    ----------
    r, variance : ndarray of shape (n,), dtype=float64

    Returns
    -------
    ndarray of shape (n,), dtype=float64
        From 0 to 1.
    """
    if not len(r):
        return np.ones(0)
    spread = float(np.square(r).mean())
    for _ in range(50):
        if not spread:
            return np.zeros(len(r))
        weight = np.square(spread / (spread + variance))
        spread = max(float((weight * (np.square(r) - variance)).sum() / weight.sum()), 0.0)
    return np.asarray(spread / (spread + variance))


def completed(correlation: Floats, first: Counts, shares: Floats) -> Floats:
    """The nearest matrix of correlations, where what latents of one column have in common may be anything.

    Two latents of a column are not seen together, so their correlation is free: it is what those with other columns
    leave room for. Elsewhere latents that say something of few rows give way first.

    Parameters
    ----------
    correlation : ndarray of shape (q, q), dtype=float64
        Symmetric with a diagonal of 1; 0 within columns.
    first : ndarray of shape (n_columns + 1,), dtype=int64
        First latent of each column.
    shares : ndarray of shape (q,), dtype=float64
        Rows that each latent says something about, as a share of all.

    Returns
    -------
    ndarray of shape (q, q), dtype=float64
        With eigenvalues of at least 1e-6 or nearly; the same if it had them.

    Notes
    -----
    Higham (2002), Computing the nearest correlation matrix, IMA J. Numerical Analysis 22:329: projections in turn,
    corrected after Dykstra. O(q^3) a round, at most 60 rounds.
    """
    q = len(correlation)
    if not q or np.linalg.eigvalsh(correlation)[0] >= FLOOR:
        return correlation
    column = np.repeat(np.arange(len(first) - 1), np.diff(first))
    free = (column[:, None] == column) & ~np.eye(q, dtype=bool)
    root = np.sqrt(np.maximum(shares, 1e-6))
    weight = root[:, None] * root
    found, surplus = correlation.copy(), np.zeros((q, q))
    for _ in range(ROUNDS):
        wanted = found - surplus
        values, vectors = np.linalg.eigh(wanted * weight)
        nearest = (vectors * np.maximum(values, 10 * FLOOR)) @ vectors.T / weight
        surplus = nearest - wanted
        last, found = found, np.where(free, nearest, correlation)
        if np.abs(found - last).max() < 1e-6:
            break
    return _floored(_unit(nearest))


def _floored(correlation: Floats) -> Floats:
    """The matrix with eigenvalues of at least the floor, and a diagonal of 1."""
    values, vectors = np.linalg.eigh(correlation)
    return _unit((vectors * np.maximum(values, FLOOR)) @ vectors.T)


def _unit(matrix: Floats) -> Floats:
    scale = 1 / np.sqrt(np.diag(matrix))
    matrix = matrix * scale[:, None] * scale
    matrix = (matrix + matrix.T) / 2
    np.fill_diagonal(matrix, 1.0)
    return matrix


# Draw


@dataclass(frozen=True, slots=True, eq=False)
class CopulaModel:
    """A fitted Gaussian copula: shares of ranks and correlations, nothing of rows.

    Attributes
    ----------
    margins : tuple of Margin
    fits : tuple of Fit
        One for all copies, or if proper one for each.
    notes : dict of str to str
        By column, what the copies do not have of it.
    """

    margins: tuple[Margin, ...]
    fits: tuple[Fit, ...]
    notes: dict[str, str] = field(default_factory=dict)
    _columns: dict[int, tuple[_Column, ...]] = field(default_factory=dict, init=False, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:
        # What is made for drawing is large, and made anew elsewhere.
        return CopulaModel, (self.margins, self.fits, self.notes)

    @property
    def slots(self) -> tuple[int, ...]:
        """Columns of the model."""
        return tuple(margin.slot for margin in self.margins)

    @property
    def n_words(self) -> int:
        """Random words that a row needs: one for each latent."""
        return len(self.fits[0].correlation)

    def draw(self, copy: int, words: Words, given: Mapping[int, Ranks] | None = None) -> dict[int, Ranks]:
        """Draw rows of a copy.

        Parameters
        ----------
        copy : int
            Number of the copy, from 0; matters only if the fit was proper.
        words : ndarray of shape (n_words, n), dtype=uint64
            Random words.
        given : dict of int to ndarray of shape (n,), dtype=uint16 or uint32, optional
            Ranks of columns that are kept, by slot. The others are drawn given these.

        Returns
        -------
        dict of int to ndarray of shape (n,), dtype=uint16 or uint32
            Ranks by slot, of all columns that were not given.

        Raises
        ------
        OptionError
            A given column that the model does not have.

        Notes
        -----
        O(n q^2) for q latents; about 20 nanoseconds a value. Latents of given columns are drawn within the bounds that
        their values set, each given the others, in a few sweeps (Geweke 1991, Efficient simulation from the
        multivariate normal distribution subject to linear constraints).
        """
        given = given or {}
        unknown = [slot for slot in given if slot not in self.slots]
        if unknown:
            raise OptionError(f"given={unknown}: the copula has the columns {list(self.slots)}.")
        fit = copy % len(self.fits)
        columns = self._columns.get(fit)
        if columns is None:
            columns = tuple(map(_Column.of, self.margins, self.fits[fit].latents))
            self._columns[fit] = columns
        first = np.append(0, np.cumsum([margin.n_latents for margin in self.margins]))
        law = _Law.of(self.fits[fit].correlation, np.repeat([slot in given for slot in self.slots], np.diff(first)))
        drawn = [
            (column, low, high)
            for column, low, high in zip(columns, first[:-1], first[1:], strict=True)
            if column.margin.slot not in given
        ]
        n = words.shape[1]
        out = {column.margin.slot: np.empty(n, column.order.dtype) for column, _, _ in drawn}
        for start in range(0, n, DRAW_ROWS):
            some = np.ascontiguousarray(words[:, start : start + DRAW_ROWS])
            bounds = [
                c.bounds(given[c.margin.slot][start : start + DRAW_ROWS]) for c in columns if c.margin.slot in given
            ]
            z = law.draw(some, bounds)
            for column, low, high in drawn:
                column.draw(z[low:high], some[low:high], out[column.margin.slot][start : start + DRAW_ROWS])
        return out

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What a model file holds: a record for JSON, and arrays."""
        arrays: dict[str, NDArray[Any]] = {}
        for i, margin in enumerate(self.margins):
            arrays |= {f"margin.{i}.group": margin.group, f"margin.{i}.rows": margin.rows}
        for k, fit in enumerate(self.fits):
            arrays[f"fit.{k}.correlation"] = fit.correlation
            for i, own in enumerate(fit.latents):
                arrays |= {f"fit.{k}.{i}.{name}": getattr(own, name) for name in ("ends", "cut", "child")}
        record = {
            "margins": [
                {"slot": int(m.slot), "name": m.name, "ordered": m.ordered, "first": int(m.first)} for m in self.margins
            ],
            "missing": [[own.missing for own in fit.latents] for fit in self.fits],
            "notes": self.notes,
        }
        return record, arrays

    @classmethod
    def of_state(cls, record: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> CopulaModel:
        """The model that ``state`` told of."""
        margins = tuple(
            Margin(**of, group=arrays[f"margin.{i}.group"], rows=arrays[f"margin.{i}.rows"])
            for i, of in enumerate(record["margins"])
        )
        fits = []
        for k, missing in enumerate(record["missing"]):
            latents = tuple(
                Latents(share, *(arrays[f"fit.{k}.{i}.{name}"] for name in ("ends", "cut", "child")))
                for i, share in enumerate(missing)
            )
            fits.append(Fit(latents, arrays[f"fit.{k}.correlation"]))
        return cls(margins, tuple(fits), dict(record["notes"]))


@dataclass(frozen=True, slots=True, eq=False)
class _Law:
    """The distribution of latents given some of them.

    Attributes
    ----------
    given : ndarray of shape (q,), dtype=bool
    precision : ndarray
        Inverse of the correlations of those given.
    slope : ndarray of shape (n_others, n_given)
    root : ndarray of shape (n_others, n_others)
        Of the covariances of the others, given these.
    """

    given: NDArray[np.bool_]
    precision: Floats
    slope: Floats
    root: Floats

    @classmethod
    def of(cls, correlation: Floats, given: NDArray[np.bool_]) -> _Law:
        """O(q^3)."""
        own, other = correlation[np.ix_(given, given)], correlation[np.ix_(~given, ~given)]
        between = correlation[np.ix_(~given, given)]
        precision: Floats = np.linalg.inv(own).astype(np.float64, copy=False)
        slope = between @ precision
        rest = other - slope @ between.T if given.any() else other
        # Rounding may take a little more than there is.
        return cls(
            given, precision, slope, np.linalg.cholesky(rest + 1e-10 * np.eye(len(rest))).astype(np.float64, copy=False)
        )

    def draw(self, words: Words, bounds: Sequence[tuple[Floats, Floats]]) -> Floats:
        """Latents (q, n), those given within their bounds, which follow each other."""
        z = np.empty(words.shape)
        fresh = np.ascontiguousarray(words[~self.given])
        normal = np.empty(fresh.shape)
        _copula.normals(fresh, normal)
        normal = self.root @ normal
        if not self.given.any():
            return normal
        low, high = (np.vstack([of[side] for of in bounds]) for side in (0, 1))
        held = self._within(low, high, words[self.given])
        z[self.given], z[~self.given] = held, normal + self.slope @ held
        return z

    def _within(self, low: Floats, high: Floats, words: Words) -> Floats:
        z = np.empty(low.shape)
        for i in range(len(z)):
            z[i] = _truncated(low[i], high[i], unit(words[i]))
        scale = 1 / np.sqrt(np.diag(self.precision))
        # Where hardly anything lies between the bounds there is nothing to draw again.
        wide = np.flatnonzero((high - low > NARROW).any(axis=1)).tolist() if len(z) > 1 else []
        for sweep in range(1, SWEEPS + 1):
            for i in wide:
                mean = z[i] - (self.precision[i] @ z) * scale[i] ** 2
                u = unit(hashed(words[i], np.uint64(sweep)))
                own = mean + scale[i] * _truncated((low[i] - mean) / scale[i], (high[i] - mean) / scale[i], u)
                z[i] = np.minimum(np.maximum(own, low[i]), high[i])
        return z


def _truncated(low: Floats, high: Floats, u: Floats) -> Floats:
    """Standard normal values between bounds, at the shares u of what lies between; exact in both tails."""
    from scipy.special import ndtr

    # In the upper tail probabilities are too close to 1, so it is turned over.
    turned = low > 0
    low, high = np.where(turned, -high, low), np.where(turned, -low, high)
    below, above = ndtr(low), ndtr(high)
    share = np.where(turned, 1 - u, u)
    z = _quantile(np.clip(below + share * (above - below), 1e-300, 1 - 1e-16))
    z = np.minimum(np.maximum(z, low), high)
    return np.asarray(np.where(turned, -z, z))


@dataclass(frozen=True, slots=True, eq=False)
class _Column:
    """From latents to ranks, and back.

    Attributes
    ----------
    margin : Margin
    latents : Latents
    order : ndarray of shape (n_used,), dtype=uint16 or uint32
        Ranks of values that occur, group by group.
    ends : ndarray of shape (n_used,), dtype=float64
        Of the rows with a value, the share up to each of them.
    guide : ndarray, dtype=int32
        Where to begin to look for a share.
    bounds_of_groups : ndarray of shape (n_groups,), dtype=float64
        Of the rows with a value, the share up to each group.
    kinds : ndarray of shape (first,), dtype=float64
        Of the rows without, the share up to each kind of missing.
    """

    margin: Margin
    latents: Latents
    order: Ranks
    ends: Floats
    guide: NDArray[np.int32]
    bounds_of_groups: Floats
    kinds: Floats

    @classmethod
    def of(cls, margin: Margin, latents: Latents) -> _Column:
        """O(n_ranks)."""
        order = margin.first + np.flatnonzero(margin.rows[margin.first :])
        if not margin.ordered:
            order = order[np.argsort(margin.group[order], kind="stable")]
        rows = margin.rows[order]
        ends = np.cumsum(rows) / max(rows.sum(), 1)
        size = min(max(len(ends), 1), MOST_GUIDE)
        guide = np.searchsorted(ends, np.arange(size) / size, side="right").astype(np.int32)
        of_groups = np.cumsum(np.bincount(margin.group[order], rows, margin.n_groups))
        missing = margin.rows[: margin.first]
        return cls(
            margin,
            latents,
            order.astype(np.uint16 if len(margin.rows) <= MAX_CODES else np.uint32),
            ends,
            guide,
            of_groups / max(of_groups[-1], 1),
            np.cumsum(missing) / max(missing.sum(), 1),
        )

    def draw(self, z: Floats, words: Words, out: Ranks) -> None:
        """Ranks (n,) of rows by their latents (n_latents, n)."""
        margin, own = self.margin, self.latents
        if not len(self.order):
            # All are missing, of whatever kinds: without a latent, as this has nothing to do with other columns.
            out[:] = int(np.argmax(margin.rows))
            return
        values = z[int(margin.has_missing) :]
        u = np.zeros(len(out))
        if margin.ordered and len(values):
            _copula.shares(values[0], u)
            if not np.array_equal(own.ends, self.bounds_of_groups):
                u = np.interp(u, own.ends, self.bounds_of_groups)
        elif len(values):
            group = np.empty(len(out), np.uint8)
            _copula.descend(values, own.cut, own.child, group)
            # Within a group of several levels it is chance that decides.
            low, high = self.bounds_of_groups[group - 1], self.bounds_of_groups[group]
            u = low + (high - low) * (unit(hashed(words[-1], np.uint64(0))) if self.has_mixed_groups else 0.5)
        found = np.empty_like(out)
        _copula.inverse(u, self.ends, self.guide, found)
        out[:] = self.order[found]
        if margin.has_missing:
            above = np.empty(len(out))
            _copula.shares(-z[0], above)
            gone = np.flatnonzero(above < own.missing)
            out[gone] = np.searchsorted(self.kinds, above[gone] / own.missing, side="right")

    @property
    def has_mixed_groups(self) -> bool:
        """Whether a group has several levels."""
        return len(self.order) > self.margin.n_groups - 1

    def bounds(self, ranks: Ranks) -> tuple[Floats, Floats]:
        """Least and greatest values (n_latents, n) that the latents of rows with these ranks may have."""
        margin, own = self.margin, self.latents
        low = np.full((margin.n_latents, len(ranks)), -np.inf)
        high = np.full_like(low, np.inf)
        group = margin.group[ranks]
        gone = group == 0
        if margin.has_missing:
            cut = float(_quantile(np.array([1 - own.missing]))[0])
            low[0, gone], high[0, ~gone] = cut, cut
        values = slice(int(margin.has_missing), None)
        if margin.ordered and margin.n_latents > margin.has_missing:
            at = np.minimum(np.searchsorted(self.order, ranks), len(self.order) - 1)
            ends = np.append(0.0, self.ends)
            if not np.array_equal(own.ends, self.bounds_of_groups):
                ends = np.interp(ends, self.bounds_of_groups, own.ends)
            low[values], high[values] = np.where(gone, [[-np.inf], [np.inf]], _quantile(ends[[at, at + 1]]))[:, None]
        elif len(own.child):
            of_groups = np.full((2, len(own.child), margin.n_groups), np.inf)
            of_groups[0] = -np.inf
            for split, (left, right) in enumerate(own.child.tolist()):
                of_groups[1, split, _below(own.child, left)] = own.cut[split]
                of_groups[0, split, _below(own.child, right)] = own.cut[split]
            low[values], high[values] = of_groups[:, :, group]
        return low, high
