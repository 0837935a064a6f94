"""Columns as latent normal variables, and the joint model of which copies are drawn.

Every column is one latent normal variable, an unordered one of K levels K - 1 of them::

    number      z = (y - mean) / sd, or of the Box-Cox transform of y, or the normal score of y
    ordered     y = c where cuts[c] < z <= cuts[c + 1]; the first cut is 0, a binary column has no other
    unordered   y = c where z_c is the largest and above 0, the last level where none is (maximum indicant)

A row of cluster j has z = B'x + u_j + e and a cluster w = A'h + r, with e ~ N(0, omega_e) and (u, r) ~ N(0, omega_2).
Effects u belong to the intercept and to the columns of x that have random slopes.

Sources
-------
Goldstein, Carpenter, Kenward and Levin (2009), Multilevel models with multivariate mixed response types, Statistical
Modelling 9, 173-197. Aitchison and Bennett (1970), Polychotomous quantal response by maximum indicant, Biometrika 57.
Box and Cox (1964), An analysis of transformations, JRSS B 26. Carpenter and Kenward (2013), Multiple Imputation and its
Application.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from fastsynth.errors import OptionError
from fastsynth.normals import normal
from fastsynth.streams import Words

Floats = NDArray[np.float64]
Codes = NDArray[np.int32]
Values = Floats | Codes
Kind = Literal["continuous", "binary", "ordered", "unordered"]
Transform = Literal["none", "boxcox", "scores"]

# Kinds of latents in a layout, as in _latent.pyx.
NUMBER, ORDERED, UNORDERED = range(3)
# Most points of a stored quantile function.
MOST_QUANTILES = 4_001
# Correlation of the latents of one unordered column: differences of independent utilities, so that no level is special.
WITHIN = 0.5


@dataclass(frozen=True, slots=True)
class LatentColumn:
    """One column of a joint model.

    Parameters
    ----------
    name : str
    kind : {"continuous", "binary", "ordered", "unordered"}
    n_levels : int
        Of a category, at least 2; levels that no row has are never drawn.
    level : {1, 2}
        2: one value for each cluster.
    transform : {"none", "boxcox", "scores"}
        Of a number. ``"boxcox"`` estimates the power in the chain and is for positive numbers; ``"scores"`` takes the
        ranks to be normal and puts the numbers back by their empirical quantiles.
    """

    name: str
    kind: Kind
    n_levels: int = 0
    level: int = 1
    transform: Transform = "none"

    def __post_init__(self) -> None:
        """Check the options."""
        for option, value, allowed in (
            ("kind", self.kind, get_args(Kind)),
            ("transform", self.transform, get_args(Transform)),
            ("level", self.level, (1, 2)),
        ):
            if value not in allowed:
                raise OptionError(
                    f"Column {self.name!r}: {option}={value!r}: must be one of {', '.join(map(repr, allowed))}."
                )
        if self.kind == "continuous":
            return
        if self.transform != "none":
            raise OptionError(f"Column {self.name!r}: transform={self.transform!r} is for numbers; leave it out.")
        if self.n_levels < 2 or (self.kind == "binary" and self.n_levels != 2):
            wanted = "2" if self.kind == "binary" else "at least 2"
            raise OptionError(f"Column {self.name!r}: n_levels={self.n_levels!r}: must be {wanted}.")


def missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where numbers are NaN, or levels -1."""
    found: NDArray[np.bool_] = np.isnan(values) if values.dtype.kind == "f" else values < 0
    return found


def box_cox(logs: Floats, power: float) -> Floats:
    """Box-Cox transform (y^power - 1) / power of numbers given by their logarithms; log y for power 0.

    Examples
    --------
    >>> box_cox(np.log([1, 2, 3]), 0.5).round(6)
    array([0.      , 0.828427, 1.464102])
    """
    if abs(power) < 1e-8:
        return logs
    out: Floats = np.expm1(power * logs) / power
    return out


def from_box_cox(z: Floats, power: float) -> Floats:
    """Logarithms of the numbers whose transform is z; infinite beyond the end of the transform's range.

    Examples
    --------
    >>> np.exp(from_box_cox(np.array([0.828427, -3]), 0.5)).round(6)
    array([2., 0.])
    """
    if abs(power) < 1e-8:
        return z
    with np.errstate(divide="ignore"):
        out: Floats = np.log(np.maximum(1 + power * z, 0)) / power
    return out


def box_cox_likelihood(logs: Floats, power: float) -> float:
    """Profile log likelihood of a power, without constants: -n/2 log var(z) + (power - 1) sum log y.

    Examples
    --------
    >>> round(box_cox_likelihood(np.log([1, 2, 3, 5, 8]), 0.5), 6)
    -3.955482
    """
    return float(-len(logs) / 2 * np.log(np.var(box_cox(logs, power))) + (power - 1) * logs.sum())


def normal_scores(values: Floats) -> Floats:
    """Normal quantiles of rank / (n + 1), ties averaged. O(n log n).

    Examples
    --------
    >>> normal_scores(np.array([3.0, 1, 4, 1, 5])).round(6)
    array([ 0.      , -0.67449 ,  0.430727, -0.67449 ,  0.967422])
    """
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    out: Floats = ndtri(ranks / (len(values) + 1))[place]
    return out


def quantile_points(values: Floats) -> Floats:
    """At most ``MOST_QUANTILES`` order statistics, the smallest and the largest among them."""
    points = np.linspace(0, len(values) - 1, min(len(values), MOST_QUANTILES)).round().astype(np.int64)
    out: Floats = np.sort(values)[points]
    return out


def from_normal_scores(z: Floats, points: Floats, n: int) -> Floats:
    """Numbers whose normal scores are z: the interpolated quantiles of n numbers, never beyond the extremes.

    Examples
    --------
    >>> y = np.array([1.0, 1, 3, 4, 5])
    >>> from_normal_scores(np.array([-9, 0, 0.430727, 9]), y, 5).round(4)
    array([1., 3., 4., 5.])
    """
    place = (ndtr(z) * (n + 1) - 1) * ((len(points) - 1) / max(n - 1, 1))
    out: Floats = np.interp(place, np.arange(len(points)), points)
    return out


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Which latents the columns of one level are, and where their cuts stand.

    Attributes
    ----------
    table : ndarray of shape (q, 4), dtype=int32
        Kind, column (of this level), first, size; see ``_latent.pyx``.
    n_cuts : int
    names : tuple of str
        Of the latents: that of the column, with ``=level`` for one of an unordered column.
    """

    table: Codes
    n_cuts: int
    names: tuple[str, ...]

    @classmethod
    def of(cls, columns: Sequence[LatentColumn], levels: Sequence[Codes]) -> Layout:
        """From columns and the levels of each that occur."""
        rows: list[tuple[int, int, int, int]] = []
        names: list[str] = []
        n_cuts = 0
        for i, (column, which) in enumerate(zip(columns, levels, strict=True)):
            k = len(which)
            if column.kind == "continuous":
                rows, names = [*rows, (NUMBER, i, 0, 0)], [*names, column.name]
            elif column.kind == "unordered" and k > 2:
                rows += [(UNORDERED, i, len(rows), k - 1)] * (k - 1)
                names += [f"{column.name}={level}" for level in which[:-1]]
            else:
                rows, names, n_cuts = [*rows, (ORDERED, i, n_cuts, k)], [*names, column.name], n_cuts + k + 1
        return cls(np.array(rows, np.int32).reshape(-1, 4), n_cuts, tuple(names))

    @property
    def q(self) -> int:
        """Number of latents."""
        return len(self.table)

    @property
    def constrained(self) -> NDArray[np.bool_]:
        """Latents whose variance is fixed at 1."""
        return np.asarray(self.table[:, 0] != NUMBER)

    def start(self) -> Floats:
        """Covariance matrix with nothing but what is fixed: variances 1, one half between latents of a column."""
        column = self.table[:, 1]
        same = column[:, None] == column
        return np.where(np.eye(self.q, dtype=bool), 1.0, WITHIN * same)

    def first_of(self, column: int) -> int:
        """First latent of a column."""
        return int(np.argmax(self.table[:, 1] == column))

    def levels_of(self, column: int, z: Floats, cuts: Floats) -> Codes:
        """Levels (n,) of a category from its latents, as numbers of the levels that occur; z is (q, n)."""
        c = self.first_of(column)
        kind, _, first, size = self.table[c]
        if kind == ORDERED:
            return np.asarray(np.searchsorted(cuts[first + 1 : first + size], z[c]), np.int32)
        block = z[c : c + size]
        return np.asarray(np.where(block.max(axis=0) > 0, block.argmax(axis=0), size), np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """How the latent of a number becomes the number again; of a category: its levels.

    Attributes
    ----------
    centre : float
        Geometric mean, by which numbers are divided before Box-Cox.
    low, high : float
        Smallest and largest number; transformed numbers stay within.
    n : int
        Numbers that are not missing.
    points : ndarray
        Their quantiles, for ``transform="scores"``.
    levels : ndarray, dtype=int32
        Of a category: those that occur.
    """

    centre: float
    low: float
    high: float
    n: int
    points: Floats
    levels: Codes

    @classmethod
    def of(cls, column: LatentColumn, values: Values) -> Scale:
        """From all values of a column."""
        if column.kind != "continuous":
            return cls(1.0, 0.0, 0.0, 0, np.zeros(0), np.unique(values[values >= 0]).astype(np.int32))
        known = values[~np.isnan(values)].astype(np.float64)
        centre = float(np.exp(np.log(known).mean())) if column.transform == "boxcox" else 1.0
        points = quantile_points(known) if column.transform == "scores" else np.zeros(0)
        return cls(centre, float(known.min()), float(known.max()), len(known), points, np.zeros(0, np.int32))

    def numbers(self, column: LatentColumn, z: Floats, shape: Floats) -> Floats:
        """Numbers from latents; ``shape`` holds power, location and scale."""
        power, location, scale = shape
        if column.transform == "none":
            return np.asarray(location + scale * z)
        if column.transform == "scores":
            return from_normal_scores(z, self.points, self.n)
        with np.errstate(over="ignore"):
            numbers = self.centre * np.exp(from_box_cox(location + scale * z, power))
        return np.clip(numbers, self.low, self.high)


def values_of(
    columns: Sequence[LatentColumn], scales: Sequence[Scale], layout: Layout, z: Floats, cuts: Floats, shapes: Floats
) -> list[Values]:
    """Values of all columns of one level from latents z (q, n); shapes is (columns, 3). O(n q)."""
    out: list[Values] = []
    for i, (column, scale) in enumerate(zip(columns, scales, strict=True)):
        if column.kind == "continuous":
            out.append(scale.numbers(column, z[layout.first_of(i)], shapes[i]))
        else:
            out.append(scale.levels[layout.levels_of(i, z, cuts)])
    return out


@dataclass(frozen=True, slots=True, eq=False)
class JointModel:
    """Posterior draws of a joint model, from which copies are drawn.

    Numbers without transform are z = (y - location) / scale; predictors are as they were given. It holds parameters,
    the smallest, the largest and the quantiles of transformed numbers, and, if wanted, effects of the clusters.

    Attributes
    ----------
    columns : tuple of LatentColumn
    scales : tuple of Scale
        One a column.
    effects : tuple of int
        Columns of x with effects of clusters, the intercept first; none without clusters.
    beta : ndarray of shape (m, p, q)
    alpha : ndarray of shape (m, p2, q2)
    omega_e : ndarray of shape (m, q, q)
    omega_2 : ndarray of shape (m, e q + q2, e q + q2)
        Of the effects, those of the intercept first, then of the latents of level 2.
    cuts, cuts2 : ndarray of shape (m, n_cuts)
        Of the ordered columns of each level, first and last infinite.
    shapes : ndarray of shape (m, n_columns, 3)
        Power, location and scale of each number.
    cluster_effects : ndarray of shape (m, n_clusters, e, q)
        Of the clusters of the data; no clusters, if they were not kept.
    """

    columns: tuple[LatentColumn, ...]
    scales: tuple[Scale, ...]
    effects: tuple[int, ...]
    beta: Floats
    alpha: Floats
    omega_e: Floats
    omega_2: Floats
    cuts: Floats
    cuts2: Floats
    shapes: Floats
    cluster_effects: Floats

    def __len__(self) -> int:
        """Number of posterior draws."""
        return len(self.beta)

    @property
    def n_words(self) -> int:
        """Random words that a row needs."""
        return int(self.beta.shape[2])

    @property
    def n_words2(self) -> int:
        """Random words that a cluster needs."""
        return int(self.omega_2.shape[1])

    def u(self, i: int) -> Floats:
        """Effects (n_clusters, e, q) of the clusters of the data at draw i."""
        return np.asarray(self.cluster_effects[i])

    def of_level(self, level: int) -> tuple[list[int], Layout]:
        """Places of the columns of a level, and their latents."""
        places = [i for i, column in enumerate(self.columns) if column.level == level]
        return places, Layout.of([self.columns[i] for i in places], [self.scales[i].levels for i in places])

    def draw(
        self,
        i: int,
        x: Floats,
        words: Words,
        cluster: Codes | None = None,
        n_clusters: int = 0,
        words2: Words | None = None,
        x2: Floats | None = None,
        u: Floats | None = None,
    ) -> list[Values]:
        """Draw all columns for new rows, and for new clusters if there are any. O(n q (p + q)).

        Parameters
        ----------
        i : int
            Which posterior draw.
        x : ndarray of shape (n, p)
            Predictors of the rows, the first column ones.
        words : ndarray of shape (n_words, n), dtype=uint64
        cluster : ndarray of shape (n,), dtype=int32
            Cluster of each row, from 0 to n_clusters - 1.
        n_clusters : int
        words2 : ndarray of shape (n_words2, n_clusters), dtype=uint64
        x2 : ndarray of shape (n_clusters, p2)
            Predictors of columns of level 2; ones, if left out.
        u : ndarray of shape (n_clusters, e, q)
            Effects of clusters that are kept; drawn, if left out.

        Returns
        -------
        list of ndarray
            One a column: float64 or int32, (n,) at level 1, (n_clusters,) at level 2.
        """
        out: list[Values] = [np.zeros(0)] * len(self.columns)
        z = self.beta[i].T @ x.T + np.linalg.cholesky(self.omega_e[i]) @ normal(words)
        if self.effects:
            if cluster is None or words2 is None:
                raise OptionError("The model has clusters: give cluster, n_clusters and words2.")
            h = np.ones((n_clusters, self.alpha.shape[1])) if x2 is None else x2
            u, w = self._clusters(i, h, normal(words2), u)
            for k, column in enumerate(self.effects):
                of_rows = np.take(np.ascontiguousarray(u[:, k].T), cluster, axis=1)
                z += of_rows if column == 0 else of_rows * x[:, column]
            self._put(out, 2, i, w, self.cuts2[i])
        self._put(out, 1, i, z, self.cuts[i])
        return out

    def _clusters(self, i: int, h: Floats, noise: Floats, u: Floats | None) -> tuple[Floats, Floats]:
        """Effects (n_clusters, e, q), and latents (q2, n_clusters) of level 2, from noise (e q + q2, n_clusters)."""
        q, e = self.n_words, len(self.effects)
        # The factor of effects stands first, so kept effects and fresh noise of level 2 go through the same factor.
        root = np.linalg.cholesky(self.omega_2[i])
        if u is not None:
            noise = noise.copy()
            noise[: e * q] = np.linalg.solve(root[: e * q, : e * q], u.reshape(len(u), e * q).T)
        both = root @ noise
        effects = both[: e * q].T.reshape(-1, e, q) if u is None else u
        return effects, self.alpha[i].T @ h.T + both[e * q :]

    def _put(self, out: list[Values], level: int, i: int, z: Floats, cuts: Floats) -> None:
        places, layout = self.of_level(level)
        columns, scales = [self.columns[p] for p in places], [self.scales[p] for p in places]
        for place, values in zip(
            places, values_of(columns, scales, layout, z, cuts, self.shapes[i, places]), strict=True
        ):
            out[place] = values

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What has to be saved: a record for JSON, and arrays by name."""
        record = {
            "columns": [asdict(column) for column in self.columns],
            "effects": list(self.effects),
        }
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        arrays["scales"] = np.array([[s.centre, s.low, s.high, s.n] for s in self.scales])
        arrays |= {f"points_{i}": scale.points for i, scale in enumerate(self.scales)}
        arrays |= {f"levels_{i}": scale.levels for i, scale in enumerate(self.scales)}
        return record, arrays

    @classmethod
    def of_state(cls, record: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> JointModel:
        """The model that was saved, exactly."""
        scales = [
            Scale(centre, low, high, int(n), arrays[f"points_{i}"], arrays[f"levels_{i}"])
            for i, (centre, low, high, n) in enumerate(arrays["scales"].tolist())
        ]
        columns = tuple(LatentColumn(**column) for column in record["columns"])
        return cls(columns, tuple(scales), tuple(record["effects"]), **{name: arrays[name] for name in _ARRAYS})


_ARRAYS = tuple(field.name for field in fields(JointModel))[3:]
