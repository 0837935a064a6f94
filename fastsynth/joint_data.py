"""Tables of latent normal models as arrays: what is refused, and what chains need of them.

Predictors are standardised, levels numbered as they occur, and sums by cluster made, once for all chains.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from fastsynth.errors import DataError, OptionError
from fastsynth.latents import (
    NUMBER,
    ORDERED,
    Codes,
    Floats,
    LatentColumn,
    Layout,
    Scale,
    Values,
    box_cox,
    box_cox_likelihood,
    normal_scores,
)

# Precision of coefficients before the data, in rows.
RIDGE = 0.01
# Powers of Box-Cox columns.
POWERS = (-3.0, 3.0)
# Levels of a smaller share are rare.
RARE = 0.1
NO_CODES = np.zeros(0, np.int32)


@dataclass(eq=False, repr=False)
class JointData:
    """Columns of a joint model as arrays.

    Parameters
    ----------
    columns : tuple of LatentColumn
    values : tuple of ndarray of shape (n,), or (n_clusters,) at level 2
        Numbers as float64, NaN where missing; levels as int32 from 0, -1 where missing.
    x : ndarray of shape (n, p), dtype=float64
        Predictors, the first column ones. Nothing is missing.
    x2 : ndarray of shape (n_clusters, p2), dtype=float64, optional
        Predictors of columns of level 2; ones, if left out.
    cluster : ndarray of shape (n,), dtype=int32, optional
        From 0 to n_clusters - 1.
    n_clusters : int
    slopes : tuple of int
        Columns of x whose slopes vary between clusters, beside the intercept, which always does.
    x_names, x2_names : tuple of str, optional
        For the names of parameters; ``1, x1, x2, ...``, if left out.

    Raises
    ------
    OptionError
        If arrays do not fit together.
    DataError
        If a column of the model cannot be fitted: constant, all missing, not positive for Box-Cox, collinear.
    """

    columns: tuple[LatentColumn, ...]
    values: tuple[Values, ...]
    x: Floats
    x2: Floats | None = None
    cluster: Codes | None = None
    n_clusters: int = 0
    slopes: tuple[int, ...] = ()
    x_names: tuple[str, ...] = ()
    x2_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what does not need the rows twice; fill in what was left out."""
        if self.x2 is None:
            self.x2 = np.ones((self.n_clusters, 1))
        self.x_names = self.x_names or _numbered(self.x)
        self.x2_names = self.x2_names or _numbered(self.x2)
        _check_design("x", self.x, self.x_names)
        self._check_clusters()
        names = [column.name for column in self.columns]
        if len(set(names)) < len(names) or len(names) != len(self.values):
            raise OptionError("columns, values: one array for each column is needed, and every column once.")
        for column, values in zip(self.columns, self.values, strict=True):
            _check_values(column, values, len(self.x) if column.level == 1 else self.n_clusters)

    def _check_clusters(self) -> None:
        if self.cluster is None:
            if self.slopes or self.of_level(2):
                raise OptionError("Random slopes and columns of level 2 need clusters: give cluster and n_clusters.")
            return
        inside = len(self.cluster) == 0 or (self.cluster.min() >= 0 and self.cluster.max() < self.n_clusters)
        if self.cluster.shape != (len(self.x),) or not inside:
            raise OptionError(f"cluster: must hold a number from 0 to n_clusters - 1 for each of {len(self.x):,} rows.")
        allowed = range(1, self.x.shape[1])
        if len(set(self.slopes)) < len(self.slopes) or any(s not in allowed for s in self.slopes):
            raise OptionError(
                f"slopes={self.slopes!r}: must be different columns of x from 1 to {self.x.shape[1] - 1}."
            )
        if self.of_level(2):
            assert self.x2 is not None
            _check_design("x2", self.x2, self.x2_names)
            if len(self.x2) != self.n_clusters:
                raise OptionError(
                    f"x2 has {len(self.x2):,} rows: must have one for each of {self.n_clusters:,} clusters."
                )

    def of_level(self, level: int) -> list[int]:
        """Places of the columns of a level."""
        return [i for i, column in enumerate(self.columns) if column.level == level]

    @property
    def effects(self) -> tuple[int, ...]:
        """Columns of x with effects of clusters."""
        return () if self.cluster is None else (0, *self.slopes)


def _numbered(x: Floats) -> tuple[str, ...]:
    return ("1", *(f"x{i}" for i in range(1, x.shape[1])))


def _check_design(option: str, x: Floats, names: Sequence[str]) -> None:
    if x.ndim != 2 or x.shape[1] != len(names) or x.dtype != np.float64:
        raise OptionError(f"{option}: must be float64 of shape (rows, {len(names)}), one name a column.")
    if not np.isfinite(x).all() or not (x[:, 0] == 1).all():
        raise OptionError(
            f"{option}: the first column must be ones, and all numbers finite: predictors cannot be missing."
        )


def _check_values(column: LatentColumn, values: Values, n: int) -> None:
    what = f"Column {column.name!r}"
    wanted = np.dtype(np.float64 if column.kind == "continuous" else np.int32)
    if values.shape != (n,) or values.dtype != wanted:
        raise OptionError(f"{what}: values of shape {values.shape}, {values.dtype}: must be ({n},), {wanted}.")
    if column.kind != "continuous":
        if n and (values.min() < -1 or values.max() >= column.n_levels):
            raise OptionError(f"{what}: levels must be from 0 to {column.n_levels - 1}, and -1 where missing.")
        known = values[values >= 0]
    else:
        known = values[~np.isnan(values)]
        if np.isinf(known).any():
            raise DataError(f"{what} has infinite numbers: make them missing, or leave the column out of the block.")
    if not len(known):
        raise DataError(f"{what} is missing in all rows: leave it out of the block.")
    if (known == known[0]).all():
        raise DataError(f"{what} has one value only: leave it out of the block, a constant is drawn without a model.")
    if column.transform == "boxcox" and known.min() <= 0:
        raise DataError(
            f"{what}: Box-Cox needs positive numbers, and {int((known <= 0).sum()):,} of {len(known):,} are not: "
            'use transform="scores".'
        )


@dataclass(frozen=True, slots=True, eq=False)
class Power:
    """A Box-Cox column: its latent, its place among the columns, the rows that have it, and centred logarithms."""

    latent: int
    column: int
    rows: NDArray[np.intp]
    logs: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Thresholds:
    """A latent whose cuts and intercept are proposed together: its first cut, its levels, and a factor of proposals.

    Latents of columns of two levels, and of unordered columns, have no cuts to estimate; of those with a rare level the
    intercept is proposed, because it would hardly move with so few latents on one side.
    """

    latent: int
    first: int
    size: int
    root: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """What does not change about the columns of one level.

    Attributes
    ----------
    columns, scales
    layout : Layout
    codes : ndarray of shape (n_columns, n), dtype=int32
        Levels that occur, numbered; numbers 0; -1 where missing.
    x : ndarray of shape (p, n)
        Predictors, standardised but for the ones.
    to_given : ndarray of shape (p, p)
        Standardised predictors are the given ones times this.
    xx, inverse, root : ndarray of shape (p, p)
        x'x; the inverse of x'x and the prior; a factor of the inverse.
    z : ndarray of shape (q, n)
        Latents of numbers, 0 where missing and for categories.
    shapes : ndarray of shape (n_columns, 3)
        Power, location and scale of numbers at the start.
    latents : ndarray, dtype=int32
        Latents that are drawn in the main pass: not those of numbers that are never missing.
    pairs : ndarray of shape (m, 2), dtype=int32
        Free covariances among the latents whose variance is fixed, numbered among these.
    """

    columns: tuple[LatentColumn, ...]
    scales: tuple[Scale, ...]
    layout: Layout
    codes: Codes
    x: Floats
    to_given: Floats
    xx: Floats
    inverse: Floats
    root: Floats
    z: Floats
    shapes: Floats
    latents: Codes
    thresholds: tuple[Thresholds, ...]
    powers: tuple[Power, ...]
    pairs: Codes


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """What does not change about a model.

    Attributes
    ----------
    one, two : Level
    cluster : ndarray of shape (n,), dtype=int32
    effects : ndarray of shape (e,), dtype=int32
        Columns of x with effects.
    by_cluster : ndarray of shape (n_clusters, e, p)
        Sums by cluster of products of predictors with effects and all predictors.
    between : ndarray, dtype=int64
        Predictors that are constant within clusters, the intercept first.
    h : ndarray of shape (n_clusters, len(between))
        Their values.
    """

    one: Level
    two: Level
    cluster: Codes
    n_clusters: int
    effects: Codes
    by_cluster: Floats
    between: NDArray[np.int64]
    h: Floats

    @property
    def n_words(self) -> int:
        """Random words that a sweep needs at most."""
        q, q2, e = self.one.layout.q, self.two.layout.q, len(self.effects)
        d = e * q + q2
        small = 2 * d * d + 2 * q * q + (len(self.one.x) + e * (len(self.between) + 2)) * q + 10 * (d + q)
        cuts = self.one.layout.n_cuts + self.two.layout.n_cuts
        return int(self.n_clusters * d + small + len(self.two.x) * q2 + 4 * (cuts + d + q) + 80)


def prepare(data: JointData) -> Problem:
    """What a chain needs of the data; refuses what cannot be fitted. O(n p (p + e))."""
    assert data.x2 is not None
    one = _level(data, 1, data.x, data.x_names)
    two = _level(data, 2, data.x2, data.x2_names)
    _check_rows(one, "rows")
    _check_collinear(one)
    if two.layout.q:
        _check_rows(two, "clusters")
        _check_collinear(two)
    if data.cluster is None:
        none = np.zeros(0, np.int64)
        return Problem(one, two, NO_CODES, 0, NO_CODES, np.zeros((0, 0, data.x.shape[1])), none, np.zeros((0, 0)))
    effects = np.array(data.effects, np.int32)
    cluster = np.ascontiguousarray(data.cluster, np.int32)
    by_cluster = _sums_by_cluster(one.x, effects, cluster, data.n_clusters)
    between, h = _between(one.x, cluster, by_cluster[:, 0])
    return Problem(one, two, cluster, data.n_clusters, effects, by_cluster, between, h)


def _level(data: JointData, level: int, x: Floats, names: Sequence[str]) -> Level:
    places = data.of_level(level)
    columns = tuple(data.columns[i] for i in places)
    values = [data.values[i] for i in places]
    scales = tuple(Scale.of(column, v) for column, v in zip(columns, values, strict=True))
    layout = Layout.of(columns, [scale.levels for scale in scales])
    codes = np.zeros((len(columns), len(x)), np.int32)
    for i, (column, v, scale) in enumerate(zip(columns, values, scales, strict=True)):
        codes[i] = -np.isnan(v).astype(np.int32) if column.kind == "continuous" else _renumbered(v, scale.levels)
    standard, to_given = _standardised(x)
    xx = standard @ standard.T
    if columns:
        _check_predictors(xx, len(x), names)
    root = np.linalg.inv(np.linalg.cholesky(xx + RIDGE * np.eye(len(xx)))).T
    thresholds = tuple(_thresholds(layout, codes, c) for c in range(layout.q) if _has_thresholds(layout, codes, c))
    powers = tuple(_power(layout, i, values[i]) for i, column in enumerate(columns) if column.transform == "boxcox")
    known = (layout.table[:, 0] == NUMBER) & np.array((codes >= 0).all(axis=1))[layout.table[:, 1]]
    moved = {t.latent for t in thresholds}
    later = [c for c in range(layout.q) if not known[c] and c not in moved]
    z, shapes = _latent_numbers(columns, values, layout, len(x))
    return Level(
        columns=columns,
        scales=scales,
        layout=layout,
        codes=codes,
        x=standard,
        to_given=to_given,
        xx=xx,
        inverse=root @ root.T,
        root=root,
        z=z,
        shapes=shapes,
        latents=np.array(later, np.int32),
        thresholds=thresholds,
        powers=powers,
        pairs=_free_pairs(layout),
    )


def _latent_numbers(
    columns: Sequence[LatentColumn], values: Sequence[Values], layout: Layout, n: int
) -> tuple[Floats, Floats]:
    """Latents of numbers, 0 where missing and for categories, and shapes: the likeliest powers, means, deviations."""
    z = np.zeros((layout.q, n))
    shapes = np.tile([1.0, 0.0, 1.0], (len(columns), 1))
    for i, (column, v) in enumerate(zip(columns, values, strict=True)):
        if column.kind != "continuous":
            continue
        rows = np.flatnonzero(~np.isnan(v))
        known = v[rows].astype(np.float64)
        if column.transform == "scores":
            z[layout.first_of(i), rows] = normal_scores(known)
            continue
        if column.transform == "boxcox":
            logs = np.log(known)
            logs -= logs.mean()
            some = logs[:: len(logs) // 10_000 + 1]
            shapes[i, 0] = max(np.linspace(*POWERS, 121), key=lambda power: box_cox_likelihood(some, power))
            known = box_cox(logs, shapes[i, 0])
        shapes[i, 1:] = known.mean(), known.std()
        z[layout.first_of(i), rows] = (known - shapes[i, 1]) / shapes[i, 2]
    return z, shapes


def _renumbered(values: Values, levels: Codes) -> Codes:
    return np.where(values < 0, -1, np.searchsorted(levels, values)).astype(np.int32)


def _standardised(x: Floats) -> tuple[Floats, Floats]:
    """Predictors (p, n) with mean 0 and standard deviation 1 behind the ones, and the matrix that makes them."""
    to_given = np.eye(x.shape[1])
    if not len(x):
        return np.ascontiguousarray(x.T), to_given
    mean, sd = x.mean(axis=0), x.std(axis=0)
    mean[0], sd[0] = 0, 1
    sd[sd == 0] = 1
    to_given[0] -= mean / sd
    np.fill_diagonal(to_given, 1 / sd)
    return np.ascontiguousarray(((x - mean) / sd).T), to_given


def _check_predictors(xx: Floats, n: int, names: Sequence[str]) -> None:
    if n <= len(xx):
        raise DataError(f"{n:,} rows are too few for {len(xx)} predictors: name fewer, or give more rows.")
    given: list[int] = []
    left = xx.copy()
    for j in range(len(xx)):
        # What earlier predictors leave of this one: a step of Cholesky's elimination.
        if left[j, j] > 1e-9 * n:
            left -= np.outer(left[:, j], left[j]) / left[j, j]
        else:
            given.append(j)
    if given:
        which = ", ".join(names[j] for j in given)
        raise DataError(
            f"{len(given)} of {len(xx)} predictors are constant or follow from earlier ones ({which}): leave them out."
        )


def _check_rows(level: Level, what: str) -> None:
    p, n = level.x.shape
    if n <= level.layout.q + p:
        raise DataError(
            f"{n:,} {what} are too few for {level.layout.q} latent variables and {p} "
            "predictors: put fewer columns into the block."
        )


def _check_collinear(level: Level) -> None:
    """Refuse numbers that follow from others, rows without missing numbers being looked at, and categories twice."""
    _check_same(level)
    numbers = [i for i, column in enumerate(level.columns) if column.kind == "continuous"]
    rows = np.flatnonzero((level.codes[numbers] >= 0).all(axis=0))
    if len(numbers) < 2 or len(rows) <= len(numbers) + len(level.x):
        return
    z = level.z[[level.layout.first_of(i) for i in numbers]][:, rows].T
    x = level.x[:, rows].T
    z -= x @ np.linalg.lstsq(x, z, rcond=None)[0]
    left = z.T @ z
    for at, j in enumerate(numbers):
        if left[at, at] <= 1e-9 * len(rows):
            raise DataError(
                f"Column {level.columns[j].name!r} follows from other columns and predictors of the block "
                f"({', '.join(level.columns[i].name for i in numbers if i != j)}): leave one of them out."
            )
        left -= np.outer(left[:, at], left[at]) / left[at, at]


def _check_same(level: Level) -> None:
    """Refuse categories whose levels go one by one with those of another."""
    sizes = [len(scale.levels) for scale in level.scales]
    for j, k in itertools.combinations([i for i, size in enumerate(sizes) if size], 2):
        first, second = level.codes[j], level.codes[k]
        both = (first >= 0) & (second >= 0)
        pairs = np.bincount(first[both] * sizes[k] + second[both], minlength=sizes[j] * sizes[k])
        if sizes[j] == sizes[k] == np.count_nonzero(pairs):
            raise DataError(
                f"Columns {level.columns[j].name!r} and {level.columns[k].name!r} have the same levels under other "
                "names: leave one of them out."
            )


def _has_thresholds(layout: Layout, codes: Codes, c: int) -> bool:
    kind, _, first, size = layout.table[c]
    if kind == NUMBER or (kind == ORDERED and size > 2):
        return bool(kind == ORDERED)
    shares = shares_of(layout, codes, c)
    return bool(min(shares) < RARE if kind == ORDERED else shares[c - first] < RARE)


def shares_of(layout: Layout, codes: Codes, c: int) -> Floats:
    """Shares of the levels of the column that a latent belongs to."""
    of_column = codes[layout.table[c, 1]]
    counts = np.bincount(of_column[of_column >= 0])
    shares: Floats = counts / counts.sum()
    return shares


def _thresholds(layout: Layout, codes: Codes, c: int) -> Thresholds:
    """Proposals go as the normal quantiles of cumulated shares do from sample to sample."""
    kind, column, first, size = map(int, layout.table[c])
    shares = shares_of(layout, codes, c)
    below = np.cumsum(shares)[:-1] if kind == ORDERED else shares[[c - first]]
    density = np.exp(-(ndtri(below) ** 2) / 2) / np.sqrt(2 * np.pi)
    n = int((codes[column] >= 0).sum())
    spread = (np.minimum.outer(below, below) - np.outer(below, below)) / np.outer(density, density) / n
    root = np.linalg.cholesky(spread) * 2.4 / np.sqrt(len(below))
    return Thresholds(c, first, size if kind == ORDERED else 2, root)


def _power(layout: Layout, column: int, values: Values) -> Power:
    rows = np.flatnonzero(~np.isnan(values))
    logs = np.log(values[rows])
    return Power(layout.first_of(column), column, rows, logs - logs.mean())


def _free_pairs(layout: Layout) -> Codes:
    """Pairs of latents with fixed variance whose covariance is free, as places among such latents."""
    column = layout.table[layout.constrained, 1]
    j, k = np.nonzero(column[:, None] > column)
    return np.ascontiguousarray(np.column_stack([j, k]), np.int32)


def _sums_by_cluster(x: Floats, effects: Codes, cluster: Codes, n_clusters: int) -> Floats:
    out = np.empty((n_clusters, len(effects), len(x)))
    for k, a in enumerate(effects):
        for b in range(len(x)):
            out[:, k, b] = np.bincount(cluster, weights=x[a] * x[b], minlength=n_clusters)
    return out


def _between(x: Floats, cluster: Codes, sums: Floats) -> tuple[NDArray[np.int64], Floats]:
    """Predictors that are constant within clusters, and their values by cluster."""
    means = sums / np.maximum(sums[:, :1], 1)
    constant = [j for j in range(len(x)) if np.allclose(x[j], means[cluster, j], atol=1e-9)]
    h = np.ascontiguousarray(means[:, constant])
    h[:, 0] = 1
    if np.linalg.matrix_rank(h) < len(constant):
        constant, h = [0], np.ones((len(h), 1))
    return np.array(constant, np.int64), h
