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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from fastsynth import _copula
from fastsynth._tree import MAX_CODES
from fastsynth.columns import EncodedTable, Ranks, Variable
from fastsynth.copula_counts import MOST_GROUPS, Counting, Counts, Margin, count_all
from fastsynth.copula_fits import Fit, Floats, Latents, fit_counts, groups_below
from fastsynth.errors import OptionError
from fastsynth.execute import Executor, Threads, Tick
from fastsynth.products import Product
from fastsynth.source import Source
from fastsynth.streams import BOOTSTRAP, Words, hashed, random_words, unit

# Quantile bins of a column: enough that binning costs less than a hundredth of the information, few enough that the
# table of two columns stays in the fastest cache. Values that fill a bin stand alone, which makes at most twice as
# many groups. Tables of many columns have fewer, so that all of them have not much more than so many cells.
MOST_BINS, FEWEST_BINS = 32, 8
MOST_CELLS = 16_000_000
BIN_ROWS = 10
# Rows drawn at a time, so that their latents stay in the cache.
DRAW_ROWS = 4096
# Places at which the search for a rank begins.
MOST_GUIDE = 1 << 20
# Sweeps over the latents of given columns, and how close the bounds of those are that need none.
SWEEPS, NARROW = 20, 1e-2


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
        counted = count_all(counting, source, variables, products, table, some, executor, tick)
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
        model = cls(margins, tuple(fits), dict(record["notes"]))
        if not all(map(model._is_sound, fits)):
            raise ValueError("A copula does not fit its columns.")
        return model

    def _is_sound(self, fit: Fit) -> bool:
        """Whether draws stay inside their arrays; the kernel does not look."""
        q, r = sum(margin.n_latents for margin in self.margins), fit.correlation
        sound = r.shape == (q, q) and bool(np.isfinite(r).all()) and np.array_equal(r, r.T)
        for margin, own in zip(self.margins, fit.latents, strict=True):
            size = len(own.child)
            sound &= len(margin.group) == len(margin.rows) and int(margin.rows.min(initial=0)) >= 0
            sound &= len(own.cut) == size and bool(np.isfinite(own.cut).all()) and 0 <= own.missing <= 1
            # Splits come before their children, and groups follow from margins.
            later = own.child > np.arange(size)[:, None]
            leaf = (own.child < 0) & (own.child >= -margin.n_groups)
            sound &= bool(((later & (own.child < size)) | leaf).all())
            sound &= bool((np.diff(own.ends) >= 0).all()) and bool(np.isfinite(own.ends).all())
        return bool(sound)


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
    # In the upper tail probabilities are too close to 1, so it is turned over.
    turned = low > 0
    low, high = np.where(turned, -high, low), np.where(turned, -low, high)
    below, above = ndtr(low), ndtr(high)
    share = np.where(turned, 1 - u, u)
    z = ndtri(np.clip(below + share * (above - below), 1e-300, 1 - 1e-16))
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
            cut = float(ndtri(np.array([1 - own.missing]))[0])
            low[0, gone], high[0, ~gone] = cut, cut
        values = slice(int(margin.has_missing), None)
        if margin.ordered and margin.n_latents > margin.has_missing:
            at = np.minimum(np.searchsorted(self.order, ranks), len(self.order) - 1)
            ends = np.append(0.0, self.ends)
            if not np.array_equal(own.ends, self.bounds_of_groups):
                ends = np.interp(ends, self.bounds_of_groups, own.ends)
            low[values], high[values] = np.where(gone, [[-np.inf], [np.inf]], ndtri(ends[[at, at + 1]]))[:, None]
        elif len(own.child):
            of_groups = np.full((2, len(own.child), margin.n_groups), np.inf)
            of_groups[0] = -np.inf
            for split, (left, right) in enumerate(own.child.tolist()):
                of_groups[1, split, groups_below(own.child, left)] = own.cut[split]
                of_groups[0, split, groups_below(own.child, right)] = own.cut[split]
            low[values], high[values] = of_groups[:, :, group]
        return low, high
