"""Models that try to tell synthetic rows from original ones: propensity scores, and the ratio of densities.

They look at a sample of the rows, of every side the same share. What they would give for a correct synthesis takes
that into account (``inflation``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.lapack import dpstrf
from scipy.special import expit
from threadpoolctl import threadpool_limits

from fastsynth._tree import LEAF
from fastsynth.columns import EncodedTable, encode
from fastsynth.compared import Compared
from fastsynth.errors import DataError, OptionError
from fastsynth.measures import Floats, classified
from fastsynth.methods import grow
from fastsynth.source import Frame, spread_rows
from fastsynth.streams import NULL, hashed, random_words, unit
from fastsynth.tables import Column, Spread, Weights, floats_of, weighted

ModelName = Literal["logit", "cart"]
Null = Literal["closed", "permutation", "pairs"]
# Levels of fewer rows share a dummy.
RARE_ROWS = 10
MOST_COEFFICIENTS = 1000
# Units in which variances are added up.
NOISE_UNITS = 2**24
# Fits to permuted rows, of all copies together, and how many a task makes.
PERMUTATIONS, TASK_PERMUTATIONS = 50, 5
# Pairs of copies that are compared with each other.
MOST_PAIRS = 10
# Trees that tell sides apart grow until leaves would have fewer rows than these, at least so large a share of all. They
# are not pruned: pruned trees say nothing of most samples, and a relation that is lost takes two splits to see. Small
# leaves would fit noise; with these S_pMSE is 1 for bootstrap samples, 2 for other samples, and largest for bad copies.
MINBUCKET, LEAF_SHARE = 20, 50
CP = 1e-9
# Of density ratios: rows of a side, centres of kernels, widths and penalties tried, permutations of the test.
DENSITY_ROWS, CENTRES, DENSITY_PERMUTATIONS = 2_000, 100, 100
WIDTHS, PENALTIES = np.linspace(0.05, 0.95, 10), np.logspace(3, -3, 20)


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Some rows of all sides.

    Attributes
    ----------
    frames : list of polars.DataFrame
        Of the original, then of the copies.
    columns : tuple of Column
    kept : frozenset of str
        Columns that hold original values in all rows of the copies.
    noise : float
        Sum over the rows of the original of the variance of how often they are in its sample: 0 if that has all rows.
    random_state : int
    """

    frames: list[pl.DataFrame]
    columns: tuple[Column, ...]
    kept: frozenset[str]
    noise: float
    random_state: int

    def inflation(self, copy: int) -> float:
        """How much more a measure is expected to be than if all rows of the original had been looked at.

        Means of the copy have 1 / k_s of the variance of the values, those of the sample noise / n_s^2 of it.
        """
        return 1 + len(self.frames[copy]) * self.noise / len(self.frames[0]) ** 2


def draw_samples(
    both: Compared, columns: Sequence[Column], size: int, weights: Weights | None, random_state: int
) -> Samples:
    """Read about ``size`` rows of each side, evenly spread; of an original with weights in proportion to them.

    Rows of an original with weights come as often as their weight says, as if it had no others: what stands for its
    rows has to be as near to their weights as the number of rows allows, since what is rounded off is noise.
    """
    spread = Spread(size, max(side.starts[-1] for side in both.sides))
    if weights is None:
        frames = [pl.concat(pieces) for pieces in both.map(_take, spread)]
        noise = len(frames[0]) * (1 - len(frames[0]) / both.n)
    else:
        rate = min(size, both.n) / (both.n * weights.mean)
        key = int(random_words(random_state, (NULL, 0), 1)[0])
        names = [*both.names, weights.name]
        (taken,) = weighted(both, weights.name).map(_take_weighted, (weights.name, rate, key), names, [0])
        pieces = [[rows for rows, _ in taken], *both.map(_take, spread, None, range(1, len(both.sides)))]
        frames = [pl.concat(of_side).select(both.names) for of_side in pieces]
        noise = sum(units for _, units in taken) / NOISE_UNITS
    return Samples(frames, tuple(columns), both.kept, noise, random_state)


def _take(spread: Spread, rows: pl.DataFrame, first: int) -> pl.DataFrame:
    return rows[spread.rows(first, rows.height)]


def _take_weighted(shared: tuple[str, float, int], rows: pl.DataFrame, first: int) -> tuple[pl.DataFrame, int]:
    """Each row so often that rate times its weight is what is expected: the whole part, and one more by chance.

    Also the variance of that, summed over the rows: in whole units, whose sums are the same for any pieces.
    """
    name, rate, key = shared
    chance = unit(hashed(np.arange(first, first + rows.height, dtype=np.uint64), np.uint64(key)))
    wanted = rows[name].to_numpy() * rate
    part = wanted - np.floor(wanted)
    taken = rows[np.repeat(np.arange(rows.height), np.floor(wanted + chance).astype(np.int64))]
    return taken, int(np.rint(part * (1 - part) * NOISE_UNITS).astype(np.int64).sum())


# Propensity scores


def propensity(both: Compared, samples: Samples, model: ModelName) -> list[dict[str, Any]]:
    """Fit a model to the original and each copy, and to what a correct synthesis would give.

    Returns
    -------
    list of dict
        One record for each null: model, null, pMSE, expected, S_pMSE, z, SPECKS, PO50, U; means over copies.
    """
    copies = range(1, len(samples.frames))
    inflation = np.array([samples.inflation(copy) for copy in copies])
    if model == "logit":
        designs = design(samples.frames, samples.columns)
        fits = both.executor.map(_logit_of, (samples, designs), [(0, copy) for copy in copies], lambda _, x: x)
        expected = np.array([closed_null(fit[1], *_sizes(samples, i)) for i, fit in enumerate(fits, 1)])
        e0, sd = (expected * inflation[:, None]).T
        scores = np.array([fit[0] for fit in fits])
        nulls: list[tuple[Null, Floats, Floats | None]] = [("closed", e0, sd)]
    else:
        scores = np.array(both.executor.map(_cart_of, samples, [(0, copy) for copy in copies], lambda _, x: x))
        nulls = [("permutation", *_permutation_null(both, samples))]
    of_pairs = list(combinations(copies, 2))
    if of_pairs:
        some = [of_pairs[i] for i in spread_rows(len(of_pairs), min(MOST_PAIRS, len(of_pairs)))]
        if model == "logit":
            found = [fit[0][0] for fit in both.executor.map(_logit_of, (samples, designs), some, lambda _, x: x)]
        else:
            found = [fit[0] for fit in both.executor.map(_cart_of, samples, some, lambda _, x: x)]
        c = np.array([_share(samples, copy) for copy in copies])
        nulls.append(("pairs", 8 * c**2 * (1 - c) ** 2 * np.mean(found) * inflation, None))
    return [_record(model, null, scores, e0, sd) for null, e0, sd in nulls]


def _record(model: ModelName, null: Null, scores: Floats, expected: Floats, sd: Floats | None) -> dict[str, Any]:
    pmse, specks, po50, u = scores.mean(axis=0)
    e0 = expected.mean()
    z = None if sd is None or not (sd > 0).all() else float(((scores[:, 0] - expected) / sd).mean())
    return {
        "model": model,
        "null": null,
        "pMSE": float(pmse),
        "expected": float(e0),
        "S_pMSE": float(pmse / e0) if e0 > 0 else None,
        "z": z,
        "SPECKS": float(specks),
        "PO50": float(po50),
        "U": float(u),
    }


def closed_null(df: float, n: int, k: int) -> tuple[float, float]:
    """Mean and standard deviation of pMSE by logistic regression, for a correct synthesis.

    Parameters
    ----------
    df : float
        Coefficients but for the intercept, not counting aliased ones, nor those of columns that are not synthetic.
    n, k : int
        Rows of the original and of the copy.

    References
    ----------
    Snoke, Raab, Nowok, Dibben and Slavkovic (2018), J. R. Statist. Soc. A 181:663.

    Examples
    --------
    >>> mean, sd = closed_null(3, 100, 100)
    >>> mean, round(sd, 6)
    (0.001875, 0.001531)
    """
    c = k / (n + k)
    unit_mean = c * (1 - c) ** 2 / (n + k)
    return df * unit_mean, float(np.sqrt(2 * df)) * unit_mean


def _sizes(samples: Samples, copy: int) -> tuple[int, int]:
    return len(samples.frames[0]), len(samples.frames[copy])


def _share(samples: Samples, copy: int) -> float:
    n, k = _sizes(samples, copy)
    return k / (n + k)


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """Regressors of all sides.

    Attributes
    ----------
    sides : list of ndarray of shape (n_rows, q)
        The first one is 1; numbers are standardised by the original, 0 where missing, with an indicator of each kind
        of missing; dummies of levels but for the most common one.
    column : list of str
        Which column each is of; "" for the first.
    """

    sides: list[Floats]
    column: list[str]


def design(frames: Sequence[pl.DataFrame], columns: Sequence[Column]) -> Design:
    """Regressors of a model with main effects.

    Raises
    ------
    OptionError
        More than 1,000 of them.
    """
    features: list[tuple[str, list[Floats]]] = [("", [np.ones(len(frame)) for frame in frames])]
    for column in columns:
        sides = [frame[column.name] for frame in frames]
        made = _number_features(column, sides) if column.is_number else _level_features(sides)
        features += [(column.name, feature) for feature in made]
        if len(features) > MOST_COEFFICIENTS:
            raise OptionError(
                f"model='logit' would need more than {MOST_COEFFICIENTS:,} coefficients. Name fewer columns with "
                "columns=[...], or use model='cart'."
            )
    names = [name for name, _ in features]
    return Design([np.column_stack([of[i] for _, of in features]) for i in range(len(frames))], names)


def _number_features(column: Column, sides: list[pl.Series]) -> list[list[Floats]]:
    numbers = [floats_of(side) for side in sides]
    nulls = [side.is_null().to_numpy() for side in sides]
    kinds = [nulls, [np.isnan(x) & ~null for x, null in zip(numbers, nulls, strict=True)]]
    kinds += [[x == code for x in numbers] for code in column.codes]
    known = [~np.logical_or.reduce(kinds_of_side) for kinds_of_side in zip(*kinds, strict=True)]
    own = numbers[0][known[0]]
    centre, scale = (own.mean(), own.std()) if len(own) else (0.0, 0.0)
    scale = scale if scale > 0 else 1.0
    number = [
        np.where(ok, (np.where(ok, x, centre) - centre) / scale, 0.0) for x, ok in zip(numbers, known, strict=True)
    ]
    return [number, *([k.astype(np.float64) for k in kind] for kind in kinds if any(k.any() for k in kind))]


def _level_features(sides: list[pl.Series]) -> list[list[Floats]]:
    text = [side.cast(pl.String) for side in sides]
    counts = pl.concat(text).alias("level").value_counts(name="rows").sort(["rows", "level"], descending=[True, False])
    common = [level for level, rows in counts.iter_rows() if rows >= RARE_ROWS]
    n_groups = len(common) + (len(common) < counts.height)
    number = {level: i for i, level in enumerate(common)} or {None: 0}
    place = [side.replace_strict(number, default=len(common), return_dtype=pl.Int64).to_numpy() for side in text]
    return [[(of_side == i).astype(np.float64) for of_side in place] for i in range(1, n_groups)]


def independent(gram: Floats) -> NDArray[np.int64]:
    """Which regressors are no combination of others, by a pivoted Cholesky factor of their products (q, q)."""
    size = np.sqrt(np.diag(gram))
    used = np.flatnonzero(size > 0)
    scaled = gram[np.ix_(used, used)] / np.outer(size[used], size[used])
    _, pivot, rank, _ = dpstrf(scaled, tol=1e-9)
    return np.sort(used[pivot[:rank] - 1])


def fit_logit(x: Floats, y: Floats) -> Floats:
    """Probabilities of a logistic regression, by iteratively reweighted least squares.

    Parameters
    ----------
    x : ndarray of shape (n_rows, q)
        Regressors of which none is a combination of others.
    y : ndarray of shape (n_rows,)
        0 or 1.
    """
    beta = np.zeros(x.shape[1])
    before = np.inf
    for _ in range(30):
        # Where the sides can be told apart for certain, coefficients have no limit: scores stop short of 0 and 1.
        eta = np.clip(x @ beta, -30, 30)
        p: Floats = expit(eta)
        deviance = -2 * float(np.sum(np.where(y > 0, np.log(p), np.log1p(-p))))
        if abs(before - deviance) < 1e-8 * (abs(deviance) + 0.1):
            break
        before, w = deviance, np.maximum(p * (1 - p), 1e-10)
        hessian = (x * w[:, None]).T @ x
        # Makes steps a little shorter, and does not move where they end.
        hessian[np.diag_indices_from(hessian)] *= 1 + 1e-6
        beta = beta + cho_solve(cho_factor(hessian), x.T @ (y - p))
    return p


def _logit_of(shared: tuple[Samples, Design], a: int, b: int) -> tuple[tuple[float, float, float, float], int]:
    """Measures of the scores that tell side b from side a, and degrees of freedom."""
    samples, regressors = shared
    with threadpool_limits(1, user_api="blas"):
        x = np.concatenate([regressors.sides[a], regressors.sides[b]])
        y = np.repeat([0.0, 1.0], [len(regressors.sides[a]), len(regressors.sides[b])])
        gram = x.T @ x
        free = independent(gram)
        kept = [i for i, name in enumerate(regressors.column) if not name or name in samples.kept]
        df = len(free) - len(independent(gram[np.ix_(kept, kept)]))
        return classified(fit_logit(x[:, free], y), y > 0), df


def _stacked(samples: Samples, a: int, b: int) -> EncodedTable:
    frame = pl.concat([samples.frames[a], samples.frames[b]])
    # A table of codes has at least two columns; trees are told which ones to use.
    frame = frame.with_columns(pl.lit(0).alias("".join(frame.columns) + "."))
    table = frame.to_arrow()
    return encode(table, Frame("polars", False, table.schema))


def _tree_scores(table: EncodedTable, p: int, synthetic: NDArray[np.bool_]) -> Floats:
    """Share of synthetic rows in the leaf of each row."""
    n = len(synthetic)
    rows, ranks = np.arange(n, dtype=np.uint32), synthetic.astype(np.uint16)
    tree = grow(table, tuple(range(p)), max(MINBUCKET, n // LEAF_SHARE), CP, 0.0, rows, ranks, np.array([0, 1]), 0)
    leaf = tree.nodes["feature"] == LEAF
    # The rows of a leaf stand together among the donors.
    start, size = tree.nodes["left"][leaf].astype(np.int64), tree.count[leaf].astype(np.int64)
    order = np.argsort(start)
    start, size = start[order], size[order]
    shares = np.add.reduceat(synthetic[tree.donors].astype(np.float64), start) / size
    scores = np.empty(n)
    scores[tree.donors] = np.repeat(shares, size)
    return scores


def _cart_of(samples: Samples, a: int, b: int) -> tuple[float, float, float, float]:
    synthetic = np.repeat([False, True], [len(samples.frames[a]), len(samples.frames[b])])
    return classified(_tree_scores(_stacked(samples, a, b), len(samples.columns), synthetic), synthetic)


def _permutation_null(both: Compared, samples: Samples) -> tuple[Floats, Floats]:
    """Expected pMSE of each copy, and its standard deviation, from trees that tell rows apart by chance.

    Rows that change sides make two samples of one population. A copy is closer to its original than that: the original
    is what it was drawn from, and has no error of its own. So it is (1 - c) of what permutations give; synthpop always
    takes half of it.
    """
    m = len(samples.frames) - 1
    each = -(-PERMUTATIONS // m)
    jobs = [
        (copy, start, min(each, start + TASK_PERMUTATIONS))
        for copy in range(1, m + 1)
        for start in range(0, each, TASK_PERMUTATIONS)
    ]
    found: list[list[float]] = [[] for _ in range(m)]
    for (copy, _, _), of_job in zip(jobs, both.executor.map(_permuted, samples, jobs, lambda _, x: x), strict=True):
        found[copy - 1] += of_job
    factor = np.array([(1 - _share(samples, copy)) * samples.inflation(copy) for copy in range(1, m + 1)])
    return factor * np.array([np.mean(x) for x in found]), factor * np.array([np.std(x, ddof=1) for x in found])


def _permuted(samples: Samples, copy: int, start: int, stop: int) -> list[float]:
    table = _stacked(samples, 0, copy)
    n, k = _sizes(samples, copy)
    found = []
    for i in range(start, stop):
        synthetic = np.zeros(n + k, bool)
        synthetic[shuffled(samples.random_state, (NULL, 1, copy, i), n + k)[:k]] = True
        found.append(classified(_tree_scores(table, len(samples.columns), synthetic), synthetic)[0])
    return found


def shuffled(random_state: int, key: tuple[int, ...], n: int) -> NDArray[np.int64]:
    """Numbers from 0 to n - 1 in random order."""
    return np.argsort(random_words(random_state, key, n), kind="stable")


# Density ratio


def ulsif(numerator: Floats, denominator: Floats, penalty: float) -> Floats:
    """Weights of kernels whose sum is the ratio of two densities: unconstrained least-squares importance fitting.

    Parameters
    ----------
    numerator, denominator : ndarray of shape (n_rows, n_centres)
        Kernels at the rows of either sample.
    penalty : float
        Above 0.

    Returns
    -------
    ndarray of shape (n_centres,)

    References
    ----------
    Kanamori, Hido and Sugiyama (2009), J. Machine Learning Research 10:1391.
    """
    h = denominator.T @ denominator / len(denominator)
    h[np.diag_indices_from(h)] += penalty
    weights: Floats = np.linalg.solve(h, numerator.mean(axis=0))
    return weights


def pearson_divergence(numerator: Floats, denominator: Floats, weights: Floats) -> float:
    """How far the two densities are apart, from the ratio that ``ulsif`` found; 0 if they are the same."""
    return float((numerator @ weights).mean() / 2 - (denominator @ weights).mean() + 0.5)


def density_ratio(both: Compared, samples: Samples) -> list[dict[str, Any]]:
    """Compare the density of the original with that of each copy.

    Returns
    -------
    list of dict
        One record for each copy: copy, PE (original over copy), PE_reversed, p_value, sigma, lambda.

    Raises
    ------
    DataError
        A side of one row: no row can be left out.

    References
    ----------
    Volker, de Wolf and van Kesteren (2024), A density ratio framework for evaluating the utility of synthetic data,
    arXiv 2408.13167.
    """
    few = [frame[spread_rows(len(frame), min(DENSITY_ROWS, len(frame)))] for frame in samples.frames]
    if min(map(len, few)) < 2:
        raise DataError("density=True needs at least 2 rows of the original and of every copy. Leave it out.")
    # Column 0 is the intercept.
    sides = [side[:, 1:] for side in design(few, samples.columns).sides]
    m, step = len(sides) - 1, 1 + DENSITY_PERMUTATIONS // 4
    stops = range(step, DENSITY_PERMUTATIONS + step, step)
    jobs = [(copy, stop - step, min(stop, DENSITY_PERMUTATIONS)) for copy in range(1, m + 1) for stop in stops]
    found = both.executor.map(_densities, (sides, samples.random_state), jobs, lambda _, x: x)
    records = []
    for copy in range(1, m + 1):
        of_copy = [of_job for job, of_job in zip(jobs, found, strict=True) if job[0] == copy]
        forward, backward, sigma, penalty = of_copy[0][0]
        chance = [pe for _, permuted in of_copy for pe in permuted]
        beyond = sum(pe >= max(forward, backward) for pe in chance)
        p = min(1.0, 2 * (1 + beyond) / (1 + len(chance)))
        records.append(
            {"copy": copy, "PE": forward, "PE_reversed": backward, "p_value": p, "sigma": sigma, "lambda": penalty}
        )
    return records


def _densities(
    shared: tuple[list[Floats], int], copy: int, start: int, stop: int
) -> tuple[tuple[float, float, float, float], list[float]]:
    """PE of a copy in both directions with what was chosen for the first, and PE of rows that change sides."""
    sides, random_state = shared
    with threadpool_limits(1, user_api="blas"):
        x = np.concatenate([sides[0], sides[copy]])
        n, k = len(sides[0]), len(sides[copy])
        sigmas, kernels = _kernels(x, x[spread_rows(len(x), min(CENTRES, len(x)))])
        rows = np.arange(n + k)
        given = (np.nan,) * 4
        if start == 0:
            forward, which, penalty = _best(kernels, rows[:n], rows[n:])
            given = (forward, _best(kernels, rows[n:], rows[:n])[0], float(sigmas[which]), penalty)
        orders = [shuffled(random_state, (NULL, 2, copy, i), n + k) for i in range(start, stop)]
        return given, [_best(kernels, order[:n], order[n:])[0] for order in orders]


def _kernels(x: Floats, centres: Floats) -> tuple[Floats, list[Floats]]:
    """Gaussian kernels of all rows around the centres, of several widths: quantiles of the distances."""
    squared = np.maximum((x**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1) - 2 * x @ centres.T, 0)
    found = np.quantile(squared, WIDTHS)
    sigmas = np.sqrt(np.unique(found[found > 1e-9] if (found > 1e-9).any() else [1.0]) / 2)
    return sigmas, [np.exp(squared / (-2 * sigma**2)) for sigma in sigmas]


def _best(kernels: list[Floats], nu: NDArray[np.int64], de: NDArray[np.int64]) -> tuple[float, int, float]:
    """PE with the width and penalty that leave the least error in rows left out; which width, and the penalty."""
    scores = np.array([_left_out(kernel[nu], kernel[de]) for kernel in kernels])
    which, penalty = np.unravel_index(scores.argmin(), scores.shape)
    chosen = float(PENALTIES[penalty])
    numerator, denominator = kernels[int(which)][nu], kernels[int(which)][de]
    return pearson_divergence(numerator, denominator, ulsif(numerator, denominator, chosen)), int(which), chosen


def _left_out(numerator: Floats, denominator: Floats) -> Floats:
    """Leave-one-out error for each penalty (Kanamori et al. 2009, section 3.2, without their clipping of weights).

    With the eigenvectors of H as coordinates its inverse is a division, for all penalties at once.
    """
    n_nu, n_de = len(numerator), len(denominator)
    n = min(n_nu, n_de)
    values, vectors = np.linalg.eigh(denominator.T @ denominator / n_de)
    a, c = (denominator[:n] @ vectors).T, (numerator[:n] @ vectors).T
    h = numerator.mean(axis=0) @ vectors
    inverse = 1 / (np.maximum(values, 0) + PENALTIES[:, None] * (n_de - 1) / n_de)
    aa, ac, cc = inverse @ (a * a), inverse @ (a * c), inverse @ (c * c)
    ha, hc = (inverse * h) @ a, (inverse * h) @ c
    alpha, beta = ha / (n_de - aa), ac / (n_de - aa)
    factor = (n_de - 1) / (n_de * (n_nu - 1))
    w_de = factor * (n_nu * (ha + alpha * aa) - ac - beta * aa)
    w_nu = factor * (n_nu * (hc + alpha * ac) - cc - beta * ac)
    error: Floats = (w_de**2).sum(axis=1) / (2 * n) - w_nu.sum(axis=1) / n
    return error
