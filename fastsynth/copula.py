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

So whatever a column is, what a pair of latents has to fit is a table of classes, whose correlation is found by maximum
likelihood with the cuts held at the margins (Olsson 1979, Maximum likelihood estimation of the polychoric correlation
coefficient). A copula keeps dependence that is monotone in the latents: no interactions, no unequal spread.

This module knows columns and pieces of tables, and nothing of plans or options of the synthesis.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsynth import _copula, _count
from fastsynth.columns import EncodedTable, Ranks, Variable
from fastsynth.execute import Executor, Threads, Tick
from fastsynth.source import Source
from fastsynth.streams import BOOTSTRAP, Words, hashed, random_words, unit

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

# Quantile bins of a column: enough that binning costs less than a hundredth of the information, few enough that the
# table of two columns stays in the fastest cache. Values that fill a bin stand alone, which makes at most twice as
# many groups. Tables of many columns have fewer, so that all of them have not much more than so many cells.
MOST_BINS, FEWEST_BINS = 32, 8
MOST_CELLS = 16_000_000
# Splits of a category: levels beyond them are drawn by their shares within groups.
MOST_GROUPS = 63
# Rows of a task that counts a table in memory. Never part of the result.
COUNT_ROWS = 1_000_000
# Rows of independence added to every table, which matters for the smallest ones only.
PRIOR_ROWS = 1.0
# Smallest eigenvalue of a matrix of correlations.
FLOOR = 1e-6
# Rows drawn at a time, so that their latents stay in the cache.
DRAW_ROWS = 4096
MOST_GUIDE = 1 << 20


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
    return (np.maximum(np.cumsum(filled)[number], 1)).astype(np.uint8)


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


def count_piece(
    shared: tuple[Counting, Source, tuple[Variable, ...], Words], piece: int, *held: Any
) -> Counts:
    """Count the rows of one piece of a source."""
    counting, source, variables, keys = shared
    out = np.zeros((max(len(keys), 1), counting.n_cells), np.int64)
    start = source.starts[piece]
    for batch in source.batches(piece, *held):
        groups = np.empty((len(variables), len(batch)), np.uint8)
        for own, margin, variable in zip(groups, counting.margins, variables, strict=True):
            own[:] = margin.group[variable.rank(batch.column(margin.slot))]
        counting.add(groups, _poisson(keys, start, len(batch)), out)
        start += len(batch)
    return out


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
    tick : callable
        Told the rows that were counted.

    Returns
    -------
    CopulaModel

    Notes
    -----
    O(n p^2) additions for p columns, about half a nanosecond each; then O(p^2) whatever n. Memory: 8 (bins + 1)^2 p^2/2
    bytes a thread, 11 MB for 50 columns.
    """
    executor = executor or Threads()
    n_pairs = max(len(slots) * (len(slots) - 1) // 2, 1)
    bins = int(np.clip((MOST_CELLS / n_pairs) ** 0.5, FEWEST_BINS, MOST_BINS))
    margins = tuple(Margin.of(slot, variables[slot], rows[slot], bins) for slot in slots)
    counting = Counting.of(margins)
    keys = np.concatenate([random_words(entropy, (BOOTSTRAP, copy), 1) for copy in range(m)]) if proper else None
    fits = []
    at_once = max(MOST_CELLS // counting.n_cells, 1)
    for some in [np.zeros(0, np.uint64)] if keys is None else np.split(keys, range(at_once, len(keys), at_once)):
        counted = _count_all(counting, source, variables, table, some, executor, tick)
        fits += [fit_counts(counting, of_copy, executor, shrink) for of_copy in counted]
    return CopulaModel(margins, tuple(fits))


def _count_all(
    counting: Counting,
    source: Source,
    variables: Sequence[Variable],
    table: EncodedTable | None,
    keys: Words,
    executor: Executor,
    tick: Tick,
) -> Counts:
    """Tables (max(n_keys, 1), n_cells) of all rows."""
    total = np.zeros((max(len(keys), 1), counting.n_cells), np.int64)
    shared: tuple[Any, ...]
    if table is not None:
        starts = [*range(0, table.n_rows, COUNT_ROWS), table.n_rows]
        jobs: list[tuple[Any, ...]] = list(zip(starts[:-1], starts[1:], strict=True))
        function, shared = count_rows, (counting, tuple(table.ranks[margin.slot] for margin in counting.margins), keys)
    else:
        starts, jobs = source.starts, source.jobs()
        function, shared = count_piece, (counting, source, tuple(variables[m.slot] for m in counting.margins), keys)

    def add(i: int, counted: Counts) -> None:
        total.__iadd__(counted)
        tick(starts[i + 1] - starts[i])

    executor.map(function, shared, jobs, add)
    return total


def fit_counts(counting: Counting, counts: Counts, executor: Executor, shrink: bool) -> Fit:
    """Fit the latents and their correlations to counted tables (n_cells,)."""
    margins, p = counting.margins, len(counting.margins)
    tables: dict[tuple[int, int], Floats] = {}
    for (i, j, _), low, high in zip(counting.columns.tolist(), counting.offset[:-1], counting.offset[1:], strict=True):
        own = counts[low:high].astype(np.float64)
        tables[i, j] = own if j < 0 else own.reshape(margins[i].n_groups, margins[j].n_groups)
    latents = []
    for i, margin in enumerate(margins):
        profiles = None
        if not margin.ordered:
            profiles = [tables[i, j] if i < j else tables[j, i].T for j in range(p) if j != i]
        latents.append(_latents(margin, tables[i, -1], profiles or []))
    classes = [_classes(margin, own) for margin, own in zip(margins, latents, strict=True)]
    pairs = [(i, j) for i in range(p) for j in range(i + 1, p) if len(classes[i]) and len(classes[j])]
    first = np.append(0, np.cumsum([len(of) for of in classes]))
    q = int(first[-1])
    correlation, variance = np.eye(q), np.ones((q, q))

    def place(k: int, found: tuple[Floats, Floats]) -> None:
        i, j = pairs[k]
        at = np.ix_(range(first[i], first[i + 1]), range(first[j], first[j + 1]))
        correlation[at], variance[at] = found

    Threads(getattr(executor, "threads", None)).map(
        _correlate, (classes, tables), [(pair,) for pair in pairs], place
    )
    between = np.repeat(np.arange(p), np.diff(first))
    above = between[:, None] < between
    if shrink:
        correlation[above] *= reliability(correlation[above], variance[above])
    correlation = np.triu(correlation, 1)
    return Fit(tuple(latents), repaired(correlation + correlation.T + np.eye(q)))


def _latents(margin: Margin, rows: Floats, profiles: Sequence[Floats]) -> Latents:
    total, values = rows.sum(), rows[1:].sum()
    missing = float(rows[0] / total) if total else 0.0
    none, no_split = np.zeros(0), np.zeros((0, 2), np.int32)
    if margin.ordered:
        ends = np.cumsum(np.append(0.0, rows[1:])) / max(values, 1)
        return Latents(missing, np.minimum(ends, 1.0), none, no_split)
    if margin.n_groups < 3:
        return Latents(missing, none, none, no_split)
    child = grow_tree(rows[1:], np.hstack([of[1:] for of in profiles]) if profiles else np.zeros((len(rows) - 1, 0)))
    right = np.array([[rows[_below(child, side)].sum() for side in pair] for pair in child])
    with np.errstate(all="ignore"):
        share = np.where(right.sum(1) > 0, right[:, 0] / right.sum(1), 0.5)
    return Latents(missing, none, _quantile(share), child)


def _below(child: NDArray[np.int32], at: int) -> list[int]:
    """Groups below a split, or the group itself."""
    return [-1 - at] if at < 0 else [group for side in child[at] for group in _below(child, int(side))]


def grow_tree(rows: Floats, profiles: Floats) -> NDArray[np.int32]:
    """A tree of the levels of a category: what is alike is parted last.

    Levels are merged two by two, those first of which the merging takes the least from the chi-square of the table of
    this column with all others: so the first splits say most of other columns, and they are of most rows.

    Parameters
    ----------
    rows : ndarray of shape (n_levels,), dtype=float64
    profiles : ndarray of shape (n_levels, n_groups), dtype=float64
        Rows of each level in the groups of all other columns.

    Returns
    -------
    ndarray of shape (n_levels - 1, 2), dtype=int32
        As in ``Latents.child``: level i is -2 - i, because group 0 is missing.

    Notes
    -----
    Greenacre (1988), Clustering the rows and columns of a contingency table; the criterion of Ward (1963).
    O(n_levels^3 n_groups).
    """
    k = len(rows)
    columns = np.maximum(profiles.sum(0), 1)
    mass = np.maximum(rows, 1e-9).astype(float)
    profile = profiles / mass[:, None] / np.sqrt(columns)
    name = list(range(-2, -2 - k, -1))
    merged: list[tuple[int, int]] = []
    while len(name) > 1:
        square = np.square(profile).sum(1)
        apart = square[:, None] + square - 2 * profile @ profile.T
        loss = np.maximum(apart, 0) * mass[:, None] * mass / (mass[:, None] + mass)
        loss[np.tril_indices(len(name))] = np.inf
        a, b = (int(x) for x in np.unravel_index(loss.argmin(), loss.shape))
        profile[a] = (mass[a] * profile[a] + mass[b] * profile[b]) / (mass[a] + mass[b])
        mass[a] += mass[b]
        merged.append((name[a], name[b]))
        # Splits are numbered from the last merger, which is the root.
        name[a] = k - 1 - len(merged)
        left = [i for i in range(len(name)) if i != b]
        name, mass, profile = [name[i] for i in left], mass[left], profile[left]
    return np.array(merged[::-1], np.int32).reshape(-1, 2)


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


def _correlate(
    shared: tuple[Sequence[list[NDArray[np.int8]]], Mapping[tuple[int, int], Floats]], pair: tuple[int, int]
) -> tuple[Floats, Floats]:
    """Correlations of the latents of two columns, and their variances."""
    classes, tables = shared
    (inside_a, first_a), (inside_b, first_b) = (_indicators(classes[i]) for i in pair)
    return polychoric(inside_a @ tables[pair] @ inside_b.T, first_a, first_b, PRIOR_ROWS)


def _indicators(classes: Sequence[NDArray[np.int8]]) -> tuple[Floats, NDArray[np.int32]]:
    """Which groups (n_classes, n_groups) are in each class of each latent, and the first class of each latent."""
    inside = [(np.arange(of.max() + 1)[:, None] == of).astype(np.float64) for of in classes]
    first = np.append(0, np.cumsum([len(of) for of in inside])).astype(np.int32)
    return np.vstack(inside), first


def polychoric(
    counts: Floats, first_a: NDArray[np.int32], first_b: NDArray[np.int32], prior: float = 0.0
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
    _copula.polychoric(
        np.ascontiguousarray(counts), first_a, first_b, below_a, below_b, *cuts, *_quadrature(), prior, r, variance
    )
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
        weight = np.square(spread / (spread + variance))
        if not weight.any():
            break
        spread = max(float((weight * (np.square(r) - variance)).sum() / weight.sum()), 0.0)
    return np.asarray(spread / (spread + variance) if spread > 0 else np.zeros(len(r)))


def repaired(correlation: Floats, floor: float = FLOOR) -> Floats:
    """The matrix with eigenvalues of at least the floor and a diagonal of 1. O(q^3)."""
    values, vectors = np.linalg.eigh(correlation)
    if values[0] >= floor:
        return correlation
    fixed = (vectors * np.maximum(values, floor)) @ vectors.T
    scale = 1 / np.sqrt(np.diag(fixed))
    fixed *= scale[:, None] * scale
    np.fill_diagonal(fixed, 1.0)
    return np.asarray((fixed + fixed.T) / 2)


# Draw


@dataclass(frozen=True, slots=True, eq=False)
class CopulaModel:
    """A fitted Gaussian copula: shares of ranks and correlations, nothing of rows.

    Attributes
    ----------
    margins : tuple of Margin
    fits : tuple of Fit
        One for all copies, or if proper one for each.
    """

    margins: tuple[Margin, ...]
    fits: tuple[Fit, ...]

    @property
    def slots(self) -> tuple[int, ...]:
        """Columns of the model."""
        return tuple(margin.slot for margin in self.margins)

    @property
    def n_words(self) -> int:
        """Random words that a row needs: one for each latent."""
        return len(self.fits[0].correlation)

    def draw(self, copy: int, words: Words) -> dict[int, Ranks]:
        """Draw rows of a copy.

        Parameters
        ----------
        copy : int
        words : ndarray of shape (n_words, n), dtype=uint64

        Returns
        -------
        dict of int to ndarray of shape (n,), dtype=uint16 or uint32
            Ranks by slot.
        """
        fit = self.fits[copy % len(self.fits)]
        root = np.linalg.cholesky(fit.correlation)
        n = words.shape[1]
        out = {margin.slot: np.empty(n, _rank_dtype(len(margin.rows))) for margin in self.margins}
        inverses = [_Inverse.of(margin, own) for margin, own in zip(self.margins, fit.latents, strict=True)]
        for start in range(0, n, DRAW_ROWS):
            some = np.ascontiguousarray(words[:, start : start + DRAW_ROWS])
            z = np.empty(some.shape)
            _copula.normals(some, z)
            z = root @ z
            at = 0
            for inverse in inverses:
                margin = inverse.margin
                inverse.ranks(z[at : at + margin.n_latents], out[margin.slot][start : start + DRAW_ROWS])
                at += margin.n_latents
        return out


def _rank_dtype(n_ranks: int) -> type[np.uint16] | type[np.uint32]:
    return np.uint16 if n_ranks <= 2**16 - 1 else np.uint32


@dataclass(frozen=True, slots=True, eq=False)
class _Inverse:
    """From latents to ranks.

    Attributes
    ----------
    values, missing : tuple of ndarray
        Shares of rows up to each rank, and where to begin to look.
    groups : list
        The same by group, for levels.
    """

    margin: Margin
    latents: Latents
    order: Ranks
    ends: Floats
    guide: NDArray[np.int32]
    bounds: Floats
    missing: Floats

    @classmethod
    def of(cls, margin: Margin, latents: Latents) -> _Inverse:
        """Tables for the ranks that are values, in the order of their groups."""
        values = np.arange(margin.first, len(margin.rows))
        order = values if margin.ordered else values[np.argsort(margin.group[values], kind="stable")]
        rows = margin.rows[order]
        ends = np.cumsum(rows) / max(rows.sum(), 1)
        size = min(max(len(ends), 1), MOST_GUIDE)
        guide = np.searchsorted(ends, np.arange(size) / size, side="right").astype(np.int32)
        of_group = np.cumsum(np.bincount(margin.group[order], rows, margin.n_groups))
        bounds = of_group / max(of_group[-1], 1)
        missing = np.cumsum(margin.rows[: margin.first]) / max(margin.rows[: margin.first].sum(), 1)
        return cls(margin, latents, order.astype(_rank_dtype(len(margin.rows))), ends, guide, bounds, missing)

    def ranks(self, z: Floats, out: Ranks) -> None:
        """Ranks (n,) of rows by their latents (n_latents, n)."""
        margin, own = self.margin, self.latents
        if margin.n_groups == 1:
            u = np.zeros(0) if not len(z) else z[0]
            out[:] = 0
            return
        if margin.has_missing:
            is_missing, z = z[0], z[1:]
        if len(z) == 0:
            u = np.zeros(len(out))
        elif margin.ordered:
            u = np.empty(len(out))
            _copula.shares(z[0], u)
            if not np.array_equal(own.ends, self.bounds):
                u = np.interp(u, own.ends, self.bounds)
        else:
            group = np.empty(len(out), np.uint8)
            _copula.descend(np.ascontiguousarray(z), own.cut, own.child, group)
            u = (self.bounds[group - 1] + self.bounds[group]) / 2
        found = np.empty_like(out)
        _copula.inverse(u, self.ends, self.guide, found)
        out[:] = self.order[found]
        if margin.has_missing:
            above = np.empty(len(out))
            _copula.shares(np.ascontiguousarray(-is_missing), above)
            gone = np.flatnonzero(above < own.missing)
            share = above[gone] / max(own.missing, 1e-300)
            out[gone] = np.searchsorted(self.missing, share, side="right")
