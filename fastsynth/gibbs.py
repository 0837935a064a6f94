"""One sweep of the Gibbs sampler of the latent normal model.

Rows are visited once a sweep, and once more for each column with thresholds or a power to estimate; everything else
comes from sums: z'z, x'z, and sums of x z by cluster. A sweep

1. proposes powers of Box-Cox columns,
2. proposes thresholds, with their latent integrated out (Cowles 1996), and the intercept with them,
3. draws all latents that are not known, each given the others,
4. draws coefficients, effects of clusters, and moves what both have in common from one to the other,
5. draws the columns of level 2 likewise, given the effects,
6. draws both covariance matrices from sums of squares alone.

Another model may have a say in some rows (``Review``): that of an outcome of which the columns are covariates. Their
new latents are then a proposal, and for that the scan has to be reversible: latents are drawn forwards and backwards.

Priors are proper and weak, on standardised columns: coefficients N(0, omega_e / RIDGE); standard deviations half-t with
2 degrees of freedom and scale A, correlations close to uniform (Huang and Wand 2013); correlations of latents whose
variance is fixed uniform, but for exp(-LITTLE / 2 tr(omega^-1)). So chains stay finite under perfect separation, and
where one category follows from another.

Sources
-------
Goldstein, Carpenter, Kenward and Levin (2009), Statistical Modelling 9, 173-197. Cowles (1996), Accelerating Monte
Carlo Markov chain convergence for cumulative-link generalized linear models, Statistics and Computing 6. Liu and
Sabatti (2000), Generalised Gibbs sampler and multigrid Monte Carlo, Biometrika 87. Huang and Wand (2013), Simple
marginally noninformative prior distributions for covariance matrices, Bayesian Analysis 8. Goldstein, Carpenter and
Browne (2014), Fitting multilevel multivariate models with missing data in responses and covariates that may include
interactions and non-linear terms, JRSS A 177.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack
from scipy.special import gammaincinv, ndtr, ndtri

from fastsynth import _latent
from fastsynth.joint_data import NO_CODES, POWERS, RIDGE, Level, Power, Problem, Thresholds, shares_of
from fastsynth.latents import (
    ORDERED,
    UNORDERED,
    Codes,
    Floats,
    box_cox,
)
from fastsynth.normals import interior, normal
from fastsynth.streams import CHAIN, hashed, random_words, unit

# Rows whose sums are made at a time.
BLOCK = 4_096
# Degrees of freedom and scale of the half-t prior of standard deviations.
NU, A = 2.0, 2.0
# Precision of covariances of latents with fixed variance, in rows.
LITTLE = 0.1
# Share of proposals that are to be accepted.
ACCEPTED = 0.3
# Numbers of a batch of small matrices; rows of a tile of the kernel.
BATCH, TILE = 1 << 20, 256
EMPTY = np.zeros(0)
NOTHING = np.zeros((0, 0, 0))


@functools.cache
def normal_table() -> Floats:
    """Distribution function and density at the nodes that ``_latent.pyx`` knows."""
    nodes = np.arange(-544, 545) / 64
    return np.ascontiguousarray(np.column_stack([ndtr(nodes), np.exp(-(nodes**2) / 2) / np.sqrt(2 * np.pi)]))


class Words:
    """Random numbers of one sweep."""

    def __init__(self, entropy: int, chain: int, sweep: int, n: int) -> None:
        self._words, self._place = random_words(entropy, (CHAIN, chain, sweep), n), 0
        # Nearly all are for normal numbers, which cost less at a time.
        self._normal = normal(self._words)

    def _take(self, n: int) -> slice:
        self._place += n
        return slice(self._place - n, self._place)

    def key(self) -> int:
        """A key of hashes."""
        return int(self._words[self._take(1)][0])

    def unit(self) -> float:
        """A number above 0 and up to 1."""
        return 1 - float(unit(self._words[self._take(1)])[0])

    def normal(self, *shape: int) -> Floats:
        """Standard normal numbers."""
        return self._normal[self._take(math.prod(shape))].reshape(shape)

    def gamma(self, shape: Floats | float, n: int) -> Floats:
        """Gamma numbers of scale 1."""
        out: Floats = gammaincinv(shape, interior(self._words[self._take(n)]))
        return out


@dataclass(slots=True, eq=False)
class LevelState:
    """What changes about the columns of one level: latents (q, n), coefficients (p, q), cuts, shapes, step sizes."""

    z: Floats
    beta: Floats
    cuts: Floats
    shapes: Floats
    steps: Floats


@dataclass(slots=True, eq=False)
class State:
    """Where a chain is.

    Attributes
    ----------
    u : ndarray of shape (n_clusters, e, q)
    omega_e : ndarray of shape (q, q)
    omega_2 : ndarray of shape (e q + q2, e q + q2)
    scales_e, scales_2 : ndarray
        Of the prior of variances.
    """

    chain: int
    sweep: int
    one: LevelState
    two: LevelState
    u: Floats
    omega_e: Floats
    omega_2: Floats
    scales_e: Floats
    scales_2: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Review:
    """Rows, or clusters, of which values that are filled in are also covariates of another model.

    Attributes
    ----------
    at : ndarray of shape (m,), dtype=int64
        Their places.
    density : callable
        Log density (m,) of what the other model knows of them, given their latents (q, m), cuts and shapes.
    """

    at: NDArray[np.int64]
    density: Callable[[Floats, Floats, Floats], Floats]


# ---------------------------------------------------------------------------------------------------------------- start


def start(problem: Problem, chain: int, entropy: int) -> State:
    """Where a chain begins: cut points from the margins, little correlation, coefficients scattered around 0."""
    words = Words(entropy, chain, 0, problem.n_words)
    one = _start_level(problem.one, words)
    two = _start_level(problem.two, words)
    q, e = problem.one.layout.q, len(problem.effects)
    d = e * q + problem.two.layout.q
    omega_2 = np.eye(d)
    omega_2[e * q :, e * q :] = problem.two.layout.start()
    omega_2[: e * q, : e * q] *= 0.05 + 0.4 * words.unit()
    u = np.zeros((problem.n_clusters, e, q))
    return State(chain, 0, one, two, u, problem.one.layout.start(), omega_2, np.ones(q), np.ones(d))


def _start_level(level: Level, words: Words) -> LevelState:
    layout, z = level.layout, level.z.copy()
    beta = np.zeros((len(level.x), layout.q))
    beta[0] = 0.3 * words.normal(layout.q)
    cuts = np.zeros(layout.n_cuts)
    for c, (kind, i, first, size) in enumerate(layout.table):
        if kind == ORDERED:
            at = ndtri(np.cumsum(shares_of(layout, level.codes, c))[:-1])
            beta[0, c] -= at[0]
            cuts[first : first + size + 1] = [-np.inf, *(at - at[0]), np.inf]
            # Between the cuts; half a unit beyond the outer ones.
            middle = np.convolve([-1.0, *(at - at[0]), at[-1] - at[0] + 1.0], [0.5, 0.5], "valid")
            z[c] = np.where(level.codes[i] >= 0, middle[level.codes[i]], 0)
        elif kind == UNORDERED:
            z[c] = np.where(level.codes[i] == c - first, 0.5, -0.5)
    return LevelState(z, beta, cuts, level.shapes.copy(), np.zeros(len(level.powers) + len(level.thresholds)))


# ---------------------------------------------------------------------------------------------------------------- sweep


def sweep(
    problem: Problem,
    state: State,
    entropy: int,
    adapt: bool,
    reviews: tuple[Review | None, Review | None] = (None, None),
) -> None:
    """Change a state into the next. O(n q (p + q)), and O(q^4) at most for what does not depend on rows.

    Parameters
    ----------
    adapt : bool
        Whether step sizes change, which they do in burn-in only.
    reviews : tuple of Review or None
        Of rows, and of clusters, whose new latents are a proposal.
    """
    state.sweep += 1
    words = Words(entropy, state.chain, state.sweep, problem.n_words)
    one, now = problem.one, state.one
    # Robbins and Monro (1951).
    gain = state.sweep**-0.6 if adapt else 0.0
    precision = _inverse(state.omega_e)
    rows = Rows(one, now, precision, None, problem.cluster, problem.effects, state.u)
    sums = np.zeros((problem.n_clusters, len(problem.effects), one.layout.q))
    zz, xz = _draw_level(rows, words, gain, sums, reviews[0])
    root_e = _factor(state.omega_e)
    _draw_coefficients(one, now, xz - np.einsum("jkp,jkq->pq", problem.by_cluster, state.u), root_e, words)
    if len(problem.effects):
        _draw_clusters(problem, state, sums, precision, words, gain, reviews[1])
    # The prior of coefficients counts as one row for each of them.
    squares = _sum_of_squares(problem, state, zz, xz, sums) + RIDGE * now.beta.T @ now.beta
    state.omega_e, state.scales_e = draw_covariance(
        squares, sum(one.x.shape), state.omega_e, state.scales_e, one.layout.constrained, one.pairs, words
    )


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows of one level in one sweep: latents z = x beta + offset + effects + noise with a precision matrix."""

    level: Level
    now: LevelState
    precision: Floats
    offset: Floats | None
    cluster: Codes
    effects: Codes
    u: Floats

    @property
    def sd(self) -> Floats:
        """Standard deviation of each latent given the others."""
        return 1 / np.sqrt(np.diagonal(self.precision))

    def some(self, at: NDArray[np.int64]) -> Rows:
        """A copy of some rows."""
        level = replace(self.level, x=self.level.x.take(at, axis=1), codes=self.level.codes.take(at, axis=1))
        now = replace(self.now, z=self.now.z.take(at, axis=1))
        offset = None if self.offset is None else self.offset[:, at]
        cluster = self.cluster[at] if len(self.cluster) else self.cluster
        return replace(self, level=level, now=now, offset=offset, cluster=cluster)

    def filled(self) -> Rows:
        """These rows with the levels that latents stand for where they are missing."""
        codes, layout = self.level.codes.copy(), self.level.layout
        for i in np.unique(layout.table[layout.constrained, 1]):
            at = np.flatnonzero(codes[i] < 0)
            codes[i, at] = layout.levels_of(i, self.now.z[:, at], self.now.cuts)
        return replace(self, level=replace(self.level, codes=codes))

    def visit(
        self,
        order: Codes,
        key: int,
        wanted: int = -1,
        proposed: Floats = EMPTY,
        gap: Floats = EMPTY,
        sums: Floats = NOTHING,
        moments: tuple[Floats, Floats] | None = None,
    ) -> float:
        """Draw latents in blocks, as ``_latent.draw_latents`` does; add z'z and x'z to moments."""
        z, beta, sd, ratio = self.now.z, self.now.beta.T, self.sd, 0.0
        residual = np.empty((len(z), TILE))
        for first in range(0, z.shape[1], BLOCK):
            block = slice(first, first + BLOCK)
            x, of_block = self.level.x[:, block], z[:, block]
            mean = beta @ x
            if self.offset is not None:
                mean += self.offset[:, block]
            ratio += _latent.draw_latents(
                of_block, mean, self.level.codes[:, block], self.level.layout.table, self.now.cuts, self.precision, sd,
                x, self.effects, self.u, self.cluster[block], order, wanted, proposed, key, first, normal_table(),
                residual, gap[block], sums,
            )  # fmt: skip
            if moments is not None:
                moments[0][:] += of_block @ of_block.T
                moments[1][:] += x @ of_block.T
        return ratio


def _draw_level(rows: Rows, words: Words, adapt: float, sums: Floats, review: Review | None) -> tuple[Floats, Floats]:
    """Powers, thresholds and latents of one level; z'z and x'z, and sums by cluster in ``sums``."""
    level, now = rows.level, rows.now
    for i, power in enumerate(level.powers):
        now.steps[i] += adapt * _draw_power(rows, power, now.steps[i], words, review)
    filled = rows if review is None or not level.thresholds else rows.filled()
    waiting = NO_CODES
    for i, thresholds in enumerate(level.thresholds, len(level.powers)):
        now.steps[i] += adapt * _draw_thresholds(filled, thresholds, waiting, now.steps[i], words)
        waiting = np.array([thresholds.latent], np.int32)
    q = level.layout.q
    moments = np.zeros((q, q)), np.zeros((len(level.x), q))
    if review is None:
        rows.visit(np.concatenate([waiting, level.latents]), words.key(), sums=sums, moments=moments)
        return moments
    # New cuts come with latents between them; only then may levels change.
    filled.visit(waiting, words.key())
    old = now.z.take(review.at, axis=1)
    order = np.concatenate([np.array([of.latent for of in level.thresholds], np.int32), level.latents])
    rows.visit(order, words.key(), sums=sums, moments=moments)
    _review(rows, review, old, order[::-1].copy(), words, sums, moments)
    return moments


def _review(
    rows: Rows, review: Review, old: Floats, back: Codes, words: Words, sums: Floats, moments: tuple[Floats, Floats]
) -> None:
    """Draw latents of some rows backwards, too; put old ones back where the other model says so; correct the sums.

    Forwards and backwards is a reversible step, of which the likelihood ratio of the other model makes a Metropolis
    step for both: what is proposed knows the joint model only.
    """
    now, at = rows.now, review.at
    drawn, some = now.z.take(at, axis=1), rows.some(at)
    some.visit(back, words.key())
    chance = 1 - unit(hashed(np.arange(len(at), dtype=np.uint64), np.uint64(words.key())))
    with np.errstate(invalid="ignore"):
        ratio = review.density(some.now.z, now.cuts, now.shapes) - review.density(old, now.cuts, now.shapes)
    new = np.where(np.log(chance) < ratio, some.now.z, old)
    now.z[:, at] = new
    moments[0][:] += new @ new.T - drawn @ drawn.T
    moments[1][:] += some.level.x @ (new - drawn).T
    for k, effect in enumerate(rows.effects if len(sums) else ()):
        for c, change in enumerate((new - drawn) * some.level.x[effect]):
            sums[:, k, c] += np.bincount(some.cluster, change, len(sums))


def _draw_power(rows: Rows, power: Power, step: float, words: Words, review: Review | None) -> float:
    """Propose another power of a Box-Cox column; how far acceptance is from what is wanted.

    Whatever the power, latents have the mean and the standard deviation that they began with, so a new one goes with
    the coefficients and covariances there are. Those of missing numbers stay, and stand for other numbers then.
    """
    now, c = rows.now, power.latent
    variance = 1 / rows.precision[c, c]
    gap = np.empty(now.z.shape[1])
    rows.visit(NO_CODES, words.key(), wanted=c, gap=gap)
    value = now.shapes[power.column, 0] + 2 * np.exp(step) / np.sqrt(len(power.rows)) * float(words.normal(1)[0])
    chance = words.unit()
    if not POWERS[0] < value < POWERS[1]:
        return -ACCEPTED
    numbers = box_cox(power.logs, value)
    location, scale = numbers.mean(), numbers.std()
    numbers = (numbers - location) / scale
    change = numbers - now.z[c, power.rows]
    ratio = -0.5 * float(change @ (change + 2 * gap[power.rows])) / variance
    ratio -= len(power.rows) * np.log(scale / now.shapes[power.column, 2])
    if review is not None:
        shapes, z = now.shapes.copy(), now.z.take(review.at, axis=1)
        shapes[power.column] = value, location, scale
        ratio += float((review.density(z, now.cuts, shapes) - review.density(z, now.cuts, now.shapes)).sum())
    if np.log(chance) >= ratio:
        return -ACCEPTED
    now.z[c, power.rows] = numbers
    now.shapes[power.column] = value, location, scale
    return 1 - ACCEPTED


def _draw_thresholds(rows: Rows, thresholds: Thresholds, waiting: Codes, step: float, words: Words) -> float:
    """Propose all cuts of a column anew, the first one too: it goes into the intercept; as ``_draw_power``.

    Latents that wait for being drawn are, before.
    """
    now, c = rows.now, thresholds.latent
    # Cuts of unordered columns are none of those that are kept.
    inner = slice(thresholds.first + 1, thresholds.first + thresholds.size)
    ordered = rows.level.layout.table[c, 0] == ORDERED
    cuts = (now.cuts[inner] if ordered else 0) + np.exp(step) * thresholds.root @ words.normal(thresholds.size - 1)
    chance = words.unit()
    possible = bool((np.diff(cuts) > 0).all())
    proposed = np.array([-np.inf, *cuts, np.inf])
    ratio = rows.visit(waiting, words.key(), wanted=c if possible else -1, proposed=proposed)
    intercepts = now.beta[0].copy()
    intercepts[c] -= cuts[0]
    ratio -= RIDGE / 2 * float(intercepts @ rows.precision @ intercepts - now.beta[0] @ rows.precision @ now.beta[0])
    if not possible or np.log(chance) >= ratio:
        return -ACCEPTED
    if ordered:
        now.cuts[inner] = cuts - cuts[0]
    now.beta[0] = intercepts
    return 1 - ACCEPTED


def _draw_coefficients(level: Level, now: LevelState, xz: Floats, root: Floats, words: Words) -> None:
    """Coefficients given x'z and a factor of the covariance of z."""
    now.beta = level.inverse @ xz + level.root @ words.normal(*xz.shape) @ root.T


def _draw_clusters(
    problem: Problem,
    state: State,
    sums: Floats,
    precision: Floats,
    words: Words,
    adapt: float,
    review: Review | None,
) -> None:
    """Effects of clusters, the columns of level 2, and the covariance matrix of both."""
    two, now = problem.two, state.two
    n, e, q = state.u.shape
    d = e * q
    slope, given = _given(state.omega_2, slice(d))
    mean = (now.z.T - two.x.T @ now.beta) @ slope
    left = sums - problem.by_cluster @ state.one.beta
    flat = (left @ precision).reshape(n, d) + mean @ _inverse(given)
    crossed = problem.by_cluster[:, :, problem.effects]
    state.u = draw_effects(crossed, precision, given, flat, words).reshape(n, e, q)
    for k in range(e):
        _shift(problem, state, k, mean, given, precision, words)
    _rescale(problem, state, sums, precision, words)
    effects = state.u.reshape(n, d)
    if two.layout.q:
        slope, covariance = _given(state.omega_2, slice(d, None))
        offset = (effects @ slope).T
        rows = Rows(two, now, _inverse(covariance), offset, NO_CODES, NO_CODES, NOTHING)
        _, xz = _draw_level(rows, words, adapt, NOTHING, review)
        _draw_coefficients(two, now, xz - two.x @ offset.T, _factor(covariance), words)
    both = np.hstack([effects, now.z.T - two.x.T @ now.beta])
    constrained = np.concatenate([np.zeros(d, bool), two.layout.constrained])
    state.omega_2, state.scales_2 = draw_covariance(
        both.T @ both, n, state.omega_2, state.scales_2, constrained, two.pairs, words
    )


def draw_effects(crossed: Floats, precision: Floats, covariance: Floats, linear: Floats, words: Words) -> Floats:
    """Effects of all clusters from normal distributions of precision Z'Z x K + C^-1.

    With effects of the intercept only, K and C^-1 are made diagonal together, and a cluster costs O(q^2); else
    O((e q)^3).

    Parameters
    ----------
    crossed : ndarray of shape (n_clusters, e, e)
        Z'Z of each cluster.
    precision : ndarray of shape (q, q)
        K, of the latents of a row.
    covariance : ndarray of shape (e q, e q)
        C, of the effects of a cluster before its rows.
    linear : ndarray of shape (n_clusters, e q)
        Precision times mean.
    """
    n, d = linear.shape
    noise = words.normal(n, d)
    root = _factor(covariance)
    if crossed.shape[1] == 1:
        value, vector = np.linalg.eigh(root.T @ precision @ root)
        vector = root @ vector
        weight = 1 / (crossed[:, 0] * value + 1)
        return np.asarray((linear @ vector * weight + np.sqrt(weight) * noise) @ vector.T)
    out = np.empty((n, d))
    inverse, size = _inverse(covariance), max(BATCH // d**2, 1)
    for first in range(0, n, size):
        batch = slice(first, first + size)
        whole = np.einsum("jkl,ab->jkalb", crossed[batch], precision).reshape(-1, d, d) + inverse
        factor = np.linalg.cholesky(whole)
        half = np.linalg.solve(factor, linear[batch, :, None]) + noise[batch, :, None]
        out[batch] = np.linalg.solve(factor.transpose(0, 2, 1), half)[:, :, 0]
    return out


def _shift(
    problem: Problem, state: State, k: int, mean: Floats, covariance: Floats, precision: Floats, words: Words
) -> None:
    """Move what is common to all clusters between effects of kind k and coefficients, latents staying as they are.

    Given the sums of both, the common part is normal as if effects were data; without this step coefficients of what
    varies between clusters only would hardly move where clusters are large (Liu and Sabatti 2000). The prior of the
    coefficients decides on acceptance.
    """
    n, e, q = state.u.shape
    mine = slice(k * q, (k + 1) * q)
    flat = state.u.reshape(n, e * q) - mean
    slope, conditional = _given(covariance, mine)
    left = flat[:, mine] - np.delete(flat, mine, axis=1) @ slope
    h = problem.h if k == 0 else problem.h[:, :1]
    columns = problem.between if k == 0 else problem.effects[k : k + 1]
    root = _triangular(_factor(h.T @ h)).T
    move = root @ root.T @ (h.T @ left) + root @ words.normal(h.shape[1], q) @ _factor(conditional).T
    old, new = state.one.beta[columns], state.one.beta[columns] + move
    ratio = RIDGE / 2 * float(np.sum((old @ precision) * old) - np.sum((new @ precision) * new))
    if np.log(words.unit()) < ratio:
        state.one.beta[columns] = new
        state.u[:, k] -= h @ move


def _rescale(problem: Problem, state: State, sums: Floats, precision: Floats, words: Words) -> None:
    """Multiply effects of each kind by a factor, and their covariances and prior scales with them.

    What effects have to do with their covariances stays as it is, so the rows alone, and the half-t prior, have a say:
    factors are normal. Without this step small variances would hardly move. Liu and Wu (1999), Parameter expansion
    for data augmentation, JASA 94; Gelman, van Dyk, Huang and Boscardin (2008), Using redundant parameterizations to
    fit hierarchical models, JCGS 17.
    """
    n, e, q = state.u.shape
    d = e * q
    # Sums over rows of what each effect adds, times residuals before effects, and times what each other effect adds.
    residuals = (sums - problem.by_cluster @ state.one.beta) @ precision
    target = np.einsum("jkq,jkq->kq", state.u, residuals).ravel()
    crossed = problem.by_cluster[:, :, problem.effects]
    added = [state.u[:, k].T @ (crossed[:, k, :, None] * state.u).reshape(n, d) for k in range(e)]
    weight = np.vstack(added) * np.tile(precision, (e, e)) + np.diag(2 * state.scales_2[:d] / A**2)
    root = _triangular(_factor(weight))
    factors = root.T @ (root @ target + words.normal(d))
    state.u = state.u * factors.reshape(e, q)
    turn = np.concatenate([factors, np.ones(len(state.omega_2) - d)])
    state.omega_2 = state.omega_2 * np.outer(turn, turn)
    state.scales_2 = state.scales_2 * turn**2


def _sum_of_squares(problem: Problem, state: State, zz: Floats, xz: Floats, sums: Floats) -> Floats:
    """Residuals' sums of squares and products, from sums alone."""
    beta = state.one.beta
    cross = beta.T @ xz
    out = zz - cross - cross.T + beta.T @ problem.one.xx @ beta
    if len(problem.effects):
        left = sums - problem.by_cluster @ beta
        fitted = problem.by_cluster[:, :, problem.effects] @ state.u
        # z - x beta - u: twice the products of effects with what they are to explain, less those with what they do.
        n = state.u.shape[0] * state.u.shape[1]
        cross = state.u.reshape(n, -1).T @ left.reshape(n, -1)
        out += state.u.reshape(n, -1).T @ fitted.reshape(n, -1) - cross - cross.T
    return out


def draw_covariance(
    squares: Floats, n: int, omega: Floats, scales: Floats, constrained: NDArray[np.bool_], pairs: Codes, words: Words
) -> tuple[Floats, Floats]:
    """A covariance matrix from sums of squares of n rows. O(q^4) at most, whatever n.

    Latents with fixed variance come first, their free covariances one after the other (``_latent.draw_covariances``);
    the others are regressed on them, with an inverse Wishart distribution of what is left: exact, with nothing to tune.

    Parameters
    ----------
    squares : ndarray of shape (q, q)
    omega : ndarray of shape (q, q)
        The present one.
    scales : ndarray of shape (q,)
        Of the prior of the variances that are free.
    constrained : ndarray of shape (q,), dtype=bool
        Latents with fixed variance.
    pairs : ndarray of shape (m, 2), dtype=int32
        Their free covariances.

    Returns
    -------
    omega : ndarray of shape (q, q)
    scales : ndarray of shape (q,)
    """
    out, (c, f, cc, cf, fc, ff) = np.array(omega), _split(constrained.tobytes())
    fixed = np.ascontiguousarray(omega[cc])
    of_fixed = squares[cc]
    if len(pairs):
        precision = _inverse(fixed)
        spread = precision @ (of_fixed + LITTLE * np.eye(len(c))) @ precision
        width = min(2.0, 8 / np.sqrt(n + 1))
        _latent.draw_covariances(fixed, precision, spread, pairs, float(n), width, words.key(), np.empty((4, len(c))))
        out[cc] = fixed
    if not len(f):
        return out, scales
    # One row of prior knowledge about each slope: none.
    root = _triangular(_factor(of_fixed + np.eye(len(c)))).T
    slope = root @ (root.T @ squares[cf])
    left = squares[ff] - squares[fc] @ slope + 2 * NU * np.diag(scales[f])
    free, inverse = draw_inverse_wishart(left, n + NU + len(f) - 1, words)
    slope = slope + root @ words.normal(len(c), len(f)) @ _factor(free).T
    across = fixed @ slope
    out[cf], out[fc], out[ff] = across, across.T, free + slope.T @ across
    scales = scales.copy()
    scales[f] = words.gamma((NU + len(f)) / 2, len(f)) / (1 / A**2 + NU * np.diagonal(inverse))
    return out, scales


@functools.lru_cache(maxsize=16)
def _split(constrained: bytes) -> tuple[Any, ...]:
    """Places of latents of fixed variance and of the others, and what picks their parts out of a matrix."""
    which = np.frombuffer(constrained, bool)
    c, f = np.flatnonzero(which), np.flatnonzero(~which)
    return c, f, np.ix_(c, c), np.ix_(c, f), np.ix_(f, c), np.ix_(f, f)


def draw_inverse_wishart(scale: Floats, df: float, words: Words) -> tuple[Floats, Floats]:
    """A matrix with an inverse Wishart distribution, and its inverse, by Bartlett's decomposition."""
    k = len(scale)
    # Only the lower triangle counts.
    factor = words.normal(k, k)
    np.fill_diagonal(factor, np.sqrt(2 * words.gamma((df - np.arange(k)) / 2, k)))
    factor = _factor(_inverse(scale)) @ np.tril(factor)
    root = _triangular(factor)
    return root.T @ root, factor @ factor.T


def _given(omega: Floats, mine: slice) -> tuple[Floats, Floats]:
    """Slopes (others, mine) of some variables on the others, and their covariance matrix given these."""
    own, across = omega[mine, mine], np.delete(omega[:, mine], mine, axis=0)
    if not len(across):
        return across, own
    slope = _inverse(np.delete(np.delete(omega, mine, axis=0), mine, axis=1)) @ across
    return slope, own - across.T @ slope


# LAPACK itself: with matrices this small, a check that numpy makes costs more than the factor. What is symmetric is so
# in either order of its elements.


def _inverse(matrix: Floats) -> Floats:
    """Inverse of a symmetric positive definite matrix."""
    if not len(matrix):
        return matrix
    return _possible(*lapack.dposv(matrix, np.eye(len(matrix)), lower=1)[1:]).T


def _factor(matrix: Floats) -> Floats:
    """Lower triangular factor of a symmetric positive definite matrix."""
    return _possible(*lapack.dpotrf(matrix, lower=1)) if len(matrix) else matrix


def _triangular(factor: Floats) -> Floats:
    """Inverse of a lower triangular matrix."""
    return _possible(*lapack.dtrtri(factor, lower=1)) if len(factor) else factor


def _possible(result: Floats, info: int) -> Floats:
    if info:
        raise np.linalg.LinAlgError("Not positive definite.")
    return result
