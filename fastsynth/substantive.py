"""The analyst's model of one column, by posterior draws: what it names survives in the copies.

A linear mixed model of a number; a probit mixed model, by a latent normal variable z, of two or more ordered levels::

    z_ij = x_ij' beta + z_ij' u_j + e_ij       u_j ~ N(0, tau2), e_ij ~ N(0, sigma2); y = z, or
    y_ij = c if thresholds[c - 1] < z_ij <= thresholds[c]       sigma2 = 1, thresholds[0] = 0 beside an intercept

The covariates come from elsewhere, as a joint normal model of them: interactions are then those of this model, exactly,
and missing covariates that the joint model proposes are accepted by the likelihood ratio of this one.

Priors are weak and proper, so that empty levels and perfect separation leave a chain finite: coefficients N(0, 10^2) in
standard deviations of a number, N(0, 5^2) on the probit scale, each for a covariate of standard deviation 1 or a dummy;
half-t standard deviations of random effects (Huang and Wand 2013).

References
----------
Albert and Chib (1993), Bayesian analysis of binary and polychotomous response data, JASA 88:669.
Cowles (1996), Accelerating Monte Carlo Markov chain convergence for cumulative-link models, Statistics and Computing
6:101.
Bartlett, Seaman, White and Carpenter (2015), Multiple imputation of covariates by fully conditional specification:
accommodating the substantive model, Statistical Methods in Medical Research 24:462.
Huang and Wand (2013), Simple marginally noninformative prior distributions for covariance matrices, Bayesian Analysis
8:439.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from fastsynth.errors import DataError
from fastsynth.normals import chi2, interior, log_between, normal, truncated
from fastsynth.streams import CHAIN, Words, random_words
from fastsynth.terms import Design, aliased

Floats = NDArray[np.float64]
Integers = NDArray[np.int32]
Kind = Literal["continuous", "binary", "ordered"]
# Random words for a purpose of one sweep: n of them.
WordsOf = Callable[[int, int], Words]
START, BETA, EFFECTS, PRIOR, TAU2, TAU2_BELOW, SIGMA2, LATENT, STEP, ACCEPT = range(10)
# Standard deviations of the prior: of coefficients, of the logarithm of a distance of thresholds, of random effects;
# rows that the prior of sigma2 is worth, and what it expects.
COEFFICIENT = {"continuous": 10.0, "binary": 5.0, "ordered": 5.0}
DISTANCE, SPREAD, DEGREES = 5.0, 5.0, 2.0
SIGMA2_ROWS, SIGMA2_MEAN = 1.0, 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """One draw of the parameters; coefficients are those of the matrix of ``Design``.

    Attributes
    ----------
    beta : ndarray of shape (p,), dtype=float64
        0 for columns that earlier ones explain.
    sigma2 : float
        1 on the probit scale.
    thresholds : ndarray of shape (n_levels - 1,), dtype=float64
        Ascending, the first one is 0; none of a number.
    tau2 : ndarray of shape (q, q), dtype=float64
        Covariance of the random effects; q is 0 without clusters.
    u : ndarray of shape (n_clusters, q), dtype=float64
        Effects of the original's clusters.
    """

    beta: Floats
    sigma2: float
    thresholds: Floats
    tau2: Floats
    u: Floats

    def vector(self, design: Design) -> Floats:
        """Free parameters, those of numbers as they are; ``Substantive.names`` has their names."""
        to = design.natural()
        places = np.array(design.random[: len(self.tau2)], np.int64)
        part = to[np.ix_(places, places)]
        lower = np.tril_indices(len(self.tau2))
        tau2 = (part @ self.tau2 @ part.T)[lower]
        own = self.thresholds[1:] if len(self.thresholds) else [self.sigma2]
        return np.concatenate([to @ self.beta, own, tau2])


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """Sums over rows that stay as long as covariates do.

    Attributes
    ----------
    square : ndarray of shape (p, p), dtype=float64
        x'x.
    cross : ndarray of shape (n_clusters, q, p), dtype=float64
        z'x within each cluster, z being the columns of random effects.
    """

    square: Floats
    cross: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Substantive:
    """The sampler of one model; it sees matrices, and no columns of tables.

    Attributes
    ----------
    kind : {"continuous", "binary", "ordered"}
    n_levels : int
        0 for a number.
    random : tuple of int
        Columns of the matrix with random effects, the intercept first; none without clusters.
    n_clusters : int
    used : ndarray of shape (p,), dtype=bool
        Columns that earlier ones do not explain; the coefficients of others are 0.
    centre, scale : float
        Of a number that is the outcome; else 0 and 1.
    cuts, steps : ndarray of shape (n_levels - 1,), dtype=float64
        Thresholds of the margin, and how far one is moved at a time.

    Notes
    -----
    A sweep costs O(n p (p + q) + J (p + q)^2 q) for n rows, p columns, q random effects and J clusters. Coefficients
    are drawn with the random effects integrated out, thresholds with z integrated out: neither waits for the other.

    Examples
    --------
    >>> x = np.column_stack([np.ones(200), np.tile([-1.0, 1.0], 100)])
    >>> y = x @ [1.0, 2.0] + np.tile([-0.1, -0.1, 0.1, 0.1], 50)
    >>> model = Substantive.of("continuous", 0, x, y)
    >>> parameters = model.start(lambda purpose, n: chain_words(1, (0,), 0, purpose, n))
    >>> for sweep in range(1, 5):
    ...     words = lambda purpose, n: chain_words(1, (0,), sweep, purpose, n)
    ...     parameters = model.sweep(parameters, x, y, None, words)
    >>> parameters.beta.round(1).tolist()
    [1.0, 2.0]
    """

    kind: Kind
    n_levels: int
    random: tuple[int, ...]
    n_clusters: int
    used: NDArray[np.bool_]
    centre: float
    scale: float
    cuts: Floats
    steps: Floats

    @classmethod
    def of(
        cls,
        kind: Kind,
        n_levels: int,
        x: Floats,
        y: NDArray[Any],
        random: Sequence[int] = (),
        n_clusters: int = 0,
        name: str = "the outcome",
    ) -> Substantive:
        """Look at the data.

        Parameters
        ----------
        kind : {"continuous", "binary", "ordered"}
        n_levels : int
            0 for a number.
        x : ndarray of shape (n, p), dtype=float64
            Matrix of the terms, the intercept first; missing covariates filled in some way.
        y : ndarray of shape (n,), dtype=float64 or int32
            A number, NaN where missing, or codes from 0, -1 where missing.
        random : sequence of int
            Columns with random effects, the intercept first.
        n_clusters : int
        name : str
            Of the outcome, for messages.

        Raises
        ------
        DataError
            The outcome has no value or only one, is infinite, or is a category without order.
        """
        seen = _seen(y)
        if not seen.any():
            raise DataError(f"model: column {name!r} has no value, so nothing can be learned of it.")
        known = y[seen]
        if not np.isfinite(known).all():
            raise DataError(f"model: column {name!r} has infinite values. Set them to null.")
        if (kind == "binary" and n_levels != 2) or kind not in COEFFICIENT:
            raise DataError(
                f"model: column {name!r} is a category of {n_levels} levels without order. Outcomes are numbers, "
                "categories of two levels, or ordered ones: declare the order, or take 'cart' or 'joint' for it."
            )
        if (known == known[0]).all():
            raise DataError(f"model: column {name!r} has one value only. Leave the model out.")
        used = ~aliased(_square(x if seen.all() else x[seen]))
        shared = (tuple(random), n_clusters, used)
        if kind == "continuous":
            return cls(kind, 0, *shared, float(known.mean()), float(known.std()), np.zeros(0), np.zeros(0))
        return cls(kind, n_levels, *shared, 0.0, 1.0, *_margin(np.bincount(known, minlength=n_levels)))

    def names(self, design: Design) -> tuple[str, ...]:
        """Names of what ``Parameters.vector`` gives."""
        own = tuple(f"threshold[{c}]" for c in range(2, self.n_levels)) if self.n_levels else ("sigma2",)
        effects = [design.names[i] for i in self.random]
        pairs = (f"tau2[{effects[i]}, {effects[j]}]" for i, j in zip(*np.tril_indices(len(effects)), strict=True))
        return (*(f"beta[{name}]" for name in design.names), *own, *pairs)

    def start(self, words: WordsOf) -> Parameters:
        """Where a chain starts: far apart for different words."""
        q, p = len(self.random), len(self.used)
        noise = normal(words(START, p + q + 1))
        beta = np.where(self.used, 0.3 * self.scale * noise[:p], 0.0)
        tau2 = np.diag(0.1 * self.scale**2 * np.exp(noise[p : p + q]))
        u = np.zeros((self.n_clusters, q))
        if self.n_levels:
            beta[0] -= self.cuts[0]
            return Parameters(beta, 1.0, (self.cuts - self.cuts[0]) * np.exp(0.2 * noise[-1]), tau2, u)
        beta[0] += self.centre
        return Parameters(beta, self.scale**2 * float(np.exp(0.5 * noise[-1])), np.zeros(0), tau2, u)

    def sums(self, x: Floats, y: NDArray[Any], cluster: Any) -> Sums:
        """What ``sweep`` needs anew only if covariates have changed. O(n p (p + q))."""
        x, _, cluster = _observed(x, y, cluster)
        q, p = len(self.random), x.shape[1]
        cross = np.empty((self.n_clusters, q, p))
        for i, j in np.ndindex(q, p):
            cross[:, i, j] = np.bincount(cluster, x[:, self.random[i]] * x[:, j], self.n_clusters)
        return Sums(_square(x), cross)

    def sweep(
        self,
        parameters: Parameters,
        x: Floats,
        y: NDArray[Any],
        cluster: Integers | None,
        words: WordsOf,
        sums: Sums | None = None,
    ) -> Parameters:
        """New parameters from the old ones and completed covariates.

        1. Thresholds, given the linear predictor (Cowles 1996). 2. z, truncated normal. 3. beta with u integrated out.
        4. u. 5. tau2. 6. sigma2. Rows without an outcome tell nothing, and are left out.

        Parameters
        ----------
        parameters : Parameters
        x : ndarray of shape (n, p), dtype=float64
        y : ndarray of shape (n,), dtype=float64 or int32
        cluster : ndarray of shape (n,), dtype=int32, or None
            0 to ``n_clusters`` - 1.
        words : callable
            ``words(purpose, n)`` gives n random words of this sweep.
        sums : Sums, optional
            Those of x, if it is that of the last sweep.
        """
        sums = sums or self.sums(x, y, cluster)
        x, y, cluster = _observed(x, y, cluster)
        thresholds, z = parameters.thresholds, np.asarray(y, np.float64)
        if self.n_levels:
            mean = self.predictor(parameters, x, cluster)
            thresholds = self._moved(thresholds, mean, y, words)
            low, high = _bounds(thresholds, y)
            z = mean + truncated(low - mean, high - mean, words(LATENT, len(y)))
        beta, u = self._coefficients(parameters, x, z - self.centre, cluster, words, sums)
        beta[0] += self.centre
        drawn = Parameters(beta, 1.0, thresholds, self._covariance(u, parameters.tau2, words), u)
        if self.n_levels:
            return drawn
        left = z - self.predictor(drawn, x, cluster)
        total = (left @ left) + SIGMA2_ROWS * SIGMA2_MEAN * self.scale**2
        return replace(drawn, sigma2=float(total / chi2(np.array([len(z) + SIGMA2_ROWS]), words(SIGMA2, 1))[0]))

    def predictor(self, parameters: Parameters, x: Floats, cluster: Integers | None, u: Floats | None = None) -> Floats:
        """Expected z of some rows (n,): fixed part and effects ``u`` of their clusters, the original's by default."""
        # Column by column, so that a row has the same sum whatever rows are beside it.
        mean = np.zeros(len(x))
        for column in np.flatnonzero(self.used).tolist():
            mean += parameters.beta[column] * x[:, column]
        effects = parameters.u if u is None else u
        for i, column in enumerate(self.random):
            mean += effects[cluster, i] * x[:, column]
        return mean

    def log_density(self, parameters: Parameters, x: Floats, y: NDArray[Any], cluster: Integers | None) -> Floats:
        """Log density of the outcome of some rows (n,), but for a constant; 0 where it is missing. O(n p)."""
        mean = self.predictor(parameters, x, cluster)
        if self.n_levels:
            low, high = _bounds(parameters.thresholds, np.maximum(y, 0))
            density = log_between(low - mean, high - mean)
        else:
            density = -0.5 * (y - mean) ** 2 / parameters.sigma2
        return np.where(_seen(y), density, 0.0)

    def draw(
        self,
        parameters: Parameters,
        x: Floats,
        words: Words,
        cluster: Integers | None = None,
        u: Floats | None = None,
    ) -> NDArray[Any]:
        """Outcomes of some rows.

        Parameters
        ----------
        parameters : Parameters
        x : ndarray of shape (n, p), dtype=float64
        words : ndarray of shape (n,), dtype=uint64
        cluster : ndarray of shape (n,), dtype=int32, or None
        u : ndarray of shape (n_clusters, q), dtype=float64, optional
            Effects of the clusters, as from ``effects``; those of the original by default.

        Returns
        -------
        ndarray of shape (n,), dtype=float64 or int32
            Numbers, or codes.
        """
        z = self.predictor(parameters, x, cluster, u) + np.sqrt(parameters.sigma2) * normal(words)
        drawn: NDArray[Any] = np.searchsorted(parameters.thresholds, z).astype(np.int32) if self.n_levels else z
        return drawn

    def effects(self, parameters: Parameters, words: Words) -> Floats:
        """Effects (n_clusters, q) of new clusters from words (q, n_clusters)."""
        drawn: Floats = normal(words).T @ np.linalg.cholesky(parameters.tau2).T
        return drawn

    def completed(
        self, parameters: Parameters, x: Floats, y: NDArray[Any], cluster: Integers | None, words: Words
    ) -> NDArray[Any]:
        """The outcome with missing ones drawn; words (n,) as in ``draw``."""
        out = y.copy()
        rows = np.flatnonzero(~_seen(y))
        out[rows] = self.draw(parameters, x[rows], words[rows], None if cluster is None else cluster[rows])
        return out

    def _moved(self, thresholds: Floats, mean: Floats, y: Integers, words: WordsOf) -> Floats:
        """Thresholds after one step of Metropolis each, z integrated out."""
        thresholds = thresholds.copy()
        k = len(thresholds)
        if k < 2:
            return thresholds
        noise, level = normal(words(STEP, k)), np.log(interior(words(ACCEPT, k)))
        for c in range(1, k):
            proposed = thresholds.copy()
            proposed[c] += self.steps[c] * noise[c]
            if (np.diff(proposed) <= 0).any():
                continue
            # A threshold concerns the levels on both sides of it, and no others.
            rows = np.flatnonzero((y == c) | (y == c + 1))
            density = [
                log_between(*(bound - mean[rows] for bound in _bounds(cuts, y[rows]))).sum() + _log_prior(cuts)
                for cuts in (proposed, thresholds)
            ]
            if level[c] < density[0] - density[1]:
                thresholds = proposed
        return thresholds

    def _coefficients(
        self, old: Parameters, x: Floats, z: Floats, cluster: Any, words: WordsOf, sums: Sums
    ) -> tuple[Floats, Floats]:
        """Beta and u of one sweep: beta of the marginal model of covariance sigma2 I + z tau2 z', then u given beta.

        ::

            of each cluster   P_j = (z'z / sigma2 + tau2^-1)^-1        covariance of u_j given beta
            of beta           x'x / sigma2 - sum_j (x'z P_j z'x) / sigma2^2 + prior
        """
        q, w = len(self.random), 1 / old.sigma2
        used = np.flatnonzero(self.used)
        precision = w * sums.square[np.ix_(used, used)]
        right = w * (x.T @ z)[used]
        if q:
            of_z = np.empty((self.n_clusters, q))
            for i, column in enumerate(self.random):
                of_z[:, i] = np.bincount(cluster, x[:, column] * z, self.n_clusters)
            covariance = np.linalg.inv(w * sums.cross[:, :, list(self.random)] + np.linalg.inv(old.tau2))
            of_x = sums.cross[:, :, used]
            weighted = np.matmul(covariance, of_x) * w**2
            flat = (self.n_clusters * q, len(used))
            precision -= weighted.reshape(flat).T @ of_x.reshape(flat)
            right -= weighted.reshape(flat).T @ of_z.ravel()
        precision[np.diag_indices(len(used))] += 1 / (COEFFICIENT[self.kind] * self.scale) ** 2
        beta = np.zeros(len(self.used))
        lower = np.linalg.cholesky(precision)
        beta[used] = np.linalg.solve(lower.T, np.linalg.solve(lower, right) + normal(words(BETA, len(used))))
        if not q:
            return beta, old.u
        noise = normal(words(EFFECTS, q * self.n_clusters)).reshape(self.n_clusters, q, 1)
        rest = w * (of_z - sums.cross @ beta)[:, :, None]
        return beta, (np.matmul(covariance, rest) + np.matmul(np.linalg.cholesky(covariance), noise))[:, :, 0]

    def _covariance(self, u: Floats, old: Floats, words: WordsOf) -> Floats:
        """Covariance of random effects: inverse Wishart given the scales of its own prior (Huang and Wand 2013)."""
        q = len(old)
        if not q:
            return old
        rate = DEGREES * np.diag(np.linalg.inv(old)) + 1 / (SPREAD * self.scale) ** 2
        inverse_scale = chi2(np.full(q, DEGREES + q), words(PRIOR, q)) / (2 * rate)
        total = u.T @ u + 2 * DEGREES * np.diag(inverse_scale)
        df = DEGREES + q - 1 + len(u)
        # Bartlett (1933): a Wishart matrix by its Cholesky factor.
        lower = np.diag(np.sqrt(chi2(df - np.arange(q), words(TAU2, q))))
        below = np.tril_indices(q, -1)
        lower[below] = normal(words(TAU2_BELOW, len(below[0])))
        # With total = C C' and A the factor, C^-T A A' C^-1 is Wishart, and this its inverse.
        root = np.linalg.solve(lower, np.linalg.cholesky(total).T)
        drawn: Floats = root.T @ root
        return drawn


def chain_words(entropy: int, key: tuple[int, ...], sweep: int, purpose: int, n: int) -> Words:
    """Random words for a purpose of a sweep; ``key`` tells chains apart."""
    return random_words(entropy, (CHAIN, *key, sweep, purpose), n)


def _seen(y: NDArray[Any]) -> NDArray[np.bool_]:
    seen: NDArray[np.bool_] = ~np.isnan(y) if y.dtype.kind == "f" else y >= 0
    return seen


def _observed(x: Floats, y: NDArray[Any], cluster: Integers | None) -> tuple[Floats, NDArray[Any], Integers | None]:
    """The rows that have an outcome."""
    seen = _seen(y)
    if seen.all():
        return x, y, cluster
    return x[seen], y[seen], None if cluster is None else cluster[seen]


def _square(x: Floats) -> Floats:
    square: Floats = x.T @ x
    return square


def _margin(rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Thresholds of the margin, from the rows of each level, and the step at which Metropolis moves them best.

    Of one threshold, the others being known, the standard error is 1 / (phi sqrt(n (1/p + 1/p'))), with the density at
    the threshold and the shares on both sides of it; 2.4 of it is the step (Gelman, Roberts and Gilks 1996).
    """
    share = np.maximum(rows, 0.5) / np.maximum(rows, 0.5).sum()
    cuts: Floats = ndtri(np.cumsum(share)[:-1])
    density = np.exp(-0.5 * cuts**2) / np.sqrt(2 * np.pi)
    return cuts, 2.4 / (density * np.sqrt(rows.sum() * (1 / share[1:] + 1 / share[:-1])))


def _bounds(thresholds: Floats, y: Integers) -> tuple[Floats, Floats]:
    """Between which thresholds z lies, of each row."""
    cuts = np.concatenate([[-np.inf], thresholds, [np.inf]])
    return cuts[y], cuts[y + 1]


def _log_prior(thresholds: Floats) -> float:
    """Log density of thresholds of which distances are log-normal."""
    distance = np.log(np.diff(thresholds))
    return float(-(0.5 * (distance / DISTANCE) ** 2 + distance).sum())
