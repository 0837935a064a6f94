"""Analyses by linear models: slopes, where wished corrected for noise that was added; fixed effects and variances of
two levels.

Each function returns an ``Analysis``, as those of ``fastsynth.estimators`` do, and reads a copy in the same way: rows
that lack a column are left out, and sums are taken by polars around the means, so that no table is held as a whole.

Terms
-----
noise
    Normal noise of so many standard deviations of a column, after which the column is drawn back towards its mean, so
    that its variance stays (``Column(noise=...)``, ``controls.Noise``).
turn
    When a column was drawn. Those of one turn were drawn together, before noise was added to any of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fastsynth.errors import DataError, OptionError, is_real
from fastsynth.estimates import Estimates, Floats
from fastsynth.estimators import Analysis, ColumnOrExpr, Rows, aggregate, analysis_of, as_numbers, collect, output_name

# Columns of a regression: sums of products of four of them are taken.
MOST_PREDICTORS = 20
# Columns that are sums of others but for this share of their variance are not told apart from these.
LEAST_TOLERANCE = 1e-10
# Where the share of the level-2 variance is looked for first, between 0 and 1; and how near 1 it may come.
GRID, MOST_SHARE = 64, 1 - 1e-9


@dataclass(frozen=True, slots=True)
class AddedNoise:
    """Noise that a copy has, by column.

    Attributes
    ----------
    drawn : dict of str to float
        Standard deviations of noise that was added as the column was drawn, in units of the column's. Columns of later
        turns were drawn at the noisy values, so that what relates them to these is not weaker for it.
    turn : dict of str to int
        When each column was drawn; needed for all columns of an analysis, if one of them is in ``drawn``.
    after : dict of str to float
        Likewise, of noise that was added to the finished copy.
    partly : collection of str
        Columns of which noise moved some values only (spikes stay): nothing can be corrected for them.

    Raises
    ------
    OptionError
        Noise that is no positive number.
    """

    drawn: Mapping[str, float] = field(default_factory=dict)
    turn: Mapping[str, int] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    partly: Collection[str] = ()

    def __post_init__(self) -> None:
        for name, share in (*self.drawn.items(), *self.after.items()):
            if not is_real(share) or not 0 < share < math.inf:
                raise OptionError(
                    f"Noise of column {name!r} is {share!r}: give the standard deviation of what was added, in units "
                    "of the column's, such as 0.3. Leave out columns without noise."
                )


def slopes(
    y: ColumnOrExpr,
    x: ColumnOrExpr | Sequence[ColumnOrExpr],
    *,
    corrected: bool | Mapping[str, float] = False,
    also: Sequence[ColumnOrExpr] = (),
) -> Analysis:
    """Slopes of a linear regression of y on x together, where wished without what added noise did to them.

    Parameters
    ----------
    y : str or polars.Expr
        Numbers, decimals or booleans.
    x : str or polars.Expr, or list of these
        At most 20 columns of the same types; an intercept is always there, and not given.
    corrected : bool or dict of str to float, default False
        Whether slopes are those that the copies would have without the noise that was added to columns of them. True
        takes what ``Synthesis.analyse`` knows of the noise. A dict says it for any other table: for each column with
        noise its standard deviation, in units of the column's, as in ``controls.Noise``.
    also : list of str or polars.Expr, default ()
        Columns of numbers that are not in the regression, but that columns of it with noise were drawn from: the
        correction needs them (see Notes). Rows that lack one are left out. At most 20 together with x.

    Returns
    -------
    Analysis
        Estimates on the identity scale, named as the columns x. Covariance by the sandwich, which assumes no equal
        variances, times rows / (rows - terms), and counts that variances and covariances of noisy columns are estimated
        before they are corrected. Degrees of freedom: rows less terms.

    Raises
    ------
    OptionError
        As ``mean``; more than 20 columns x; ``corrected=True`` for a table of which nothing is known; noise on a column
        of which an expression is computed; ``also`` without a correction.
    DataError
        Fewer rows than terms; columns x that are sums of others, or are so after the correction: noise is then nearly
        all of what they differ in.

    Notes
    -----
    Noise of a standard deviations of column w, after which w is drawn back by c = sqrt(1 + a^2), leaves the variance
    s^2 as it is and takes 1/c off each covariance. So c times the covariances, and c^2 var(w) - a^2 s^2 for variances,
    are those without noise (Fuller's corrected normal equations; with reliabilities 1 / (1 + a^2) of y and x known).
    Noise on y leaves slopes on clean columns too small by c, too, for it is drawn back as well.

    Noise that is added while columns are drawn weakens only relations to columns that were drawn before, or in the same
    block: later ones were drawn at the noisy values, by models of the values without noise. Covariances are therefore
    put together turn by turn, each column from its regression on those before. That is exact where these are linear,
    and where all columns are named that noisy ones were drawn from and that others in the analysis depend on: those
    that are not in the regression with ``also``.

    Noise on spikes and missing codes, which is not added, and reflection at the ends of the range are not counted: the
    correction is of no use for columns of many spikes, and a little too large for columns that pile up at an end.

    O(k q^3) for q columns, in three passes.

    References
    ----------
    Fuller (1987), Measurement Error Models, Wiley, 2.2 and 3.1.
    White (1980), A heteroskedasticity-consistent covariance matrix estimator, Econometrica 48:817.
    Goldstein, Browne and Charlton (2018), A Bayesian model for measurement and misclassification errors alongside
    missing data, Journal of Applied Statistics 45:918.

    Examples
    --------
    >>> import fastsynth as fs
    >>> boys = fs.load_boys()
    >>> fs.slopes("wgt", ["hgt", "age"])(boys).estimate.round(3).tolist()
    [0.192, 2.325]

    The first column has noise of half its standard deviation:

    >>> fs.slopes("wgt", ["hgt", "age"], corrected={"hgt": 0.5})
    Analysis: slopes of wgt, hgt, age
    """
    xs, others = _listed(x), _listed(also)
    if not xs or len(xs) + len(others) > MOST_PREDICTORS:
        named = f"{len(xs)} columns x" + (f" and {len(others)} others" if others else "")
        raise OptionError(f"slopes: {named}; 1 to {MOST_PREDICTORS} are possible.")
    if others and corrected is False:
        raise OptionError("slopes: also names columns that a correction needs: leave it out, or take corrected=True.")
    analysis = analysis_of("slopes", partial(_slopes_not_known, q=len(xs)), (y, *xs, *others), None)
    if corrected is True:
        return analysis
    noise = AddedNoise() if corrected is False else _given(corrected, analysis)
    return informed(analysis, noise)


def mixed(y: ColumnOrExpr, x: ColumnOrExpr | Sequence[ColumnOrExpr] = (), *, groups: ColumnOrExpr) -> Analysis:
    """Fixed effects and both variances of a linear model with random intercepts of groups, by REML.

    Parameters
    ----------
    y : str or polars.Expr
        Numbers, decimals or booleans.
    x : str or polars.Expr, or list of these, default ()
        At most 20 columns of the same types, of either level; for products and levels give expressions, such as
        ``(pl.col("ks2") * pl.col("female")).alias("ks2:female")``.
    groups : str or polars.Expr
        Column of groups (level 2), of any type. Rows without one are left out.

    Returns
    -------
    Analysis
        Terms "Intercept", the columns x, "var(school)" for groups in column school, and "var(residual)", all on the
        identity scale. Covariances of fixed effects are those of generalised least squares; those of variances the
        inverse of the expected information; between the two there are none. Normal quantiles.

    Raises
    ------
    OptionError
        As ``mean``; more than 20 columns x.
    DataError
        Fewer than 2 groups, or none of 2 rows; too few rows; columns x that are sums of others; nothing left between
        rows of the same group.

    Notes
    -----
    Every group counts by its number of rows and its sums, so that after two passes over the rows the likelihood of the
    ratio of the variances costs O(g q^2) for g different sizes of groups. A level-2 variance that would be negative is
    0, with a standard error. Where there are few groups its interval is a rough one: of 1,000 samples of groups of 15
    rows with variances .25 and 1 it covered .84 with 10 groups, .90 with 25, .93 with 50, .94 with 100.

    References
    ----------
    Patterson and Thompson (1971), Recovery of inter-block information when block sizes are unequal, Biometrika 58:545.
    Searle, Casella and McCulloch (1992), Variance Components, Wiley, 6.6.

    Examples
    --------
    >>> import fastsynth as fs
    >>> boys = fs.load_boys()
    >>> fs.mixed("hgt", ["age"], groups="reg")(boys).terms
    ('Intercept', 'age', 'var(reg)', 'var(residual)')
    """
    xs = _listed(x)
    if len(xs) > MOST_PREDICTORS:
        raise OptionError(f"mixed: {len(xs)} columns x; at most {MOST_PREDICTORS} are possible.")
    analysis = analysis_of("mixed", _mixed, (y, *xs), groups)
    if len(analysis.by) != 1:
        raise OptionError(f"mixed: groups={groups!r}: must be one column.")
    return analysis


def informed(analysis: Analysis, noise: AddedNoise) -> Analysis:
    """The same analysis with what is known of noise in the copies; others than corrected slopes do not need it.

    Parameters
    ----------
    analysis : Analysis
        Any; those of ``slopes(corrected=True)`` become ones that can be called.
    noise : AddedNoise
        Of the copies that it is going to be called with.

    Raises
    ------
    OptionError
        An expression is computed of a column with noise; the turn of a column is not known.

    Examples
    --------
    >>> analysis = informed(slopes("y", ["x", "z"], corrected=True), AddedNoise({"x": 0.5}, {"z": 0, "x": 1, "y": 2}))
    >>> analysis
    Analysis: slopes of y, x, z
    """
    compute = analysis.compute
    if not isinstance(compute, partial) or compute.func is not _slopes_not_known:
        return analysis
    return replace(analysis, compute=partial(_slopes, noise=_noise_of(analysis, noise), **compute.keywords))


# At the door


def _listed(x: Any) -> list[Any]:
    return list(x) if isinstance(x, list | tuple) else [x]


def _given(corrected: Any, analysis: Analysis) -> AddedNoise:
    if isinstance(corrected, bool) or not isinstance(corrected, Mapping):
        raise OptionError(
            f"slopes: corrected={corrected!r}: must be True, False, or a dict with the noise of each column that has "
            "some, in standard deviations of the column."
        )
    roots = {root for column in analysis.columns for root in column.meta.root_names()}
    unknown = [name for name in corrected if name not in roots]
    if unknown:
        raise OptionError(
            f"slopes: corrected names {', '.join(map(repr, unknown))}, of which the analysis has no column. Leave it "
            "out, or correct its name."
        )
    return AddedNoise(after=dict(corrected))


def _noise_of(analysis: Analysis, noise: AddedNoise) -> Noise:
    """Noise of the columns of an analysis, in their order."""
    after, drawn, turn = [], [], []
    roots = [column.meta.root_names() for column in analysis.columns]
    noisy = {root for of in roots for root in of if root in noise.drawn or root in noise.after}
    partly = sorted({root for of in roots for root in of if root in noise.partly})
    if partly:
        raise OptionError(
            f"slopes: noise moved some values of {', '.join(map(repr, partly))} only, as others are spikes or were "
            "left. Slopes of it cannot be corrected; corrected=False gives them as they come."
        )
    for column, of in zip(analysis.columns, roots, strict=True):
        computed = not column.meta.undo_aliases().meta.is_column()
        mixed_up = [root for root in of if root in noisy]
        if computed and mixed_up:
            raise OptionError(
                f"slopes: {output_name(column)!r} is computed of {mixed_up[0]!r}, which has noise. Only columns as "
                "they are can be corrected: take those, or corrected=False for slopes as they come."
            )
        if any(root in noise.drawn for root in noisy) and not all(root in noise.turn for root in of):
            raise OptionError(f"slopes: when column {output_name(column)!r} was drawn is not known: give its turn.")
        after.append(noise.after.get(of[0], 0.0))
        drawn.append(noise.drawn.get(of[0], 0.0))
        turn.append(max(noise.turn.get(root, 0) for root in of))
    return Noise(np.array(after), np.array(drawn), np.array(turn))


# From rows to sums


@dataclass(frozen=True, slots=True, eq=False)
class Noise:
    """Noise of the columns of an analysis.

    Attributes
    ----------
    after, drawn : ndarray of shape (p,), dtype=float64
        Standard deviations in units of the column's; 0 for none.
    turn : ndarray of shape (p,), dtype=int64
        When they were drawn.
    """

    after: Floats
    drawn: Floats
    turn: NDArray[np.int64]

    @property
    def noisy(self) -> NDArray[np.bool_]:
        """Which columns have some, of shape (p,)."""
        return (self.after > 0) | (self.drawn > 0)


@dataclass(frozen=True, slots=True, eq=False)
class Complete:
    """Rows that have all columns, and what the columns are around their means.

    Attributes
    ----------
    n : int
    mean, sd : ndarray of shape (p,), dtype=float64
        A column of one value has sd 1.
    frame : polars.LazyFrame
        z0, z1, ...: the columns less their mean, over their sd, and the keys; null for x where another one lacks.
    correlation : ndarray of shape (p, p), dtype=float64
        Means of products of the z.
    """

    n: int
    mean: Floats
    sd: Floats
    frame: pl.LazyFrame
    correlation: Floats


def _complete(rows: Rows, statistic: str) -> Complete:
    """Means first, then products around them: in one pass a small spread far from zero would be lost."""
    rows = as_numbers(rows)
    p = len(rows.columns)
    xs = [pl.col(x) for x in rows.xs]
    seen = pl.all_horizontal(pl.col([*rows.xs, *rows.keys]).is_not_null())
    first = collect(rows.frame.filter(seen).select(pl.len(), *(x.mean().alias(f"m{i}") for i, x in enumerate(xs))))
    n, *mean = first.row(0)
    if n <= p:
        raise DataError(
            f"{statistic}: {n} rows have all {p} columns, and there are {p} terms. Take fewer columns, or fill in what "
            "is missing."
        )
    d = [pl.when(seen).then(x - m) for x, m in zip(xs, mean, strict=True)]
    products = _products(rows.frame.select(*(x.alias(f"z{i}") for i, x in enumerate(d))), p) / n
    sd = np.sqrt(np.diag(products))
    # What rounding leaves of a constant is no spread.
    sd = np.where(sd > 1e-14 * np.abs(mean), sd, 0.0)
    scale = np.where(sd > 0, sd, 1.0)
    frame = rows.frame.with_columns((x / s).alias(f"z{i}") for i, (x, s) in enumerate(zip(d, scale, strict=True)))
    return Complete(n, np.array(mean), scale, frame, products / np.outer(scale, scale))


def _products(frame: pl.LazyFrame, p: int) -> Floats:
    """Sums of products of z0, z1, ..., of shape (p, p)."""
    pairs = list(itertools.combinations_with_replacement(range(p), 2))
    sums = collect(frame.select((pl.col(f"z{a}") * pl.col(f"z{b}")).sum().alias(f"{a} {b}") for a, b in pairs)).row(0)
    products = np.empty((p, p))
    for (a, b), total in zip(pairs, sums, strict=True):
        products[a, b] = products[b, a] = total
    return products


# Slopes


def _slopes_not_known(rows: Rows, q: int) -> Estimates:  # noqa: ARG001
    raise OptionError(
        f"slopes of {rows.columns[0]!r}: corrected=True takes the noise that Synthesis.analyse knows of; of other "
        "tables nothing is known. Say it: corrected={'income': 0.3}; for the original take corrected=False."
    )


def _slopes(rows: Rows, noise: Noise, q: int) -> Estimates:
    """Slopes of the first column on the q next ones."""
    found = _complete(rows, "slopes")
    n, p, x = found.n, len(found.mean), slice(1, 1 + q)
    spread, squares = _spread(found, noise)
    if noise.drawn.any():
        _refuse_sums(_cleared(found.correlation, spread, noise.after), "slopes", rows.columns, noise.noisy)
    clean = _without_noise(found.correlation, spread, noise)
    _refuse_sums(clean[x, x], "slopes", rows.columns[x], noise.noisy[x])
    by_products, by_spread = _derivatives(found.correlation, spread, noise, q)
    # What each row adds to the slopes, to the first order; nulls add nothing.
    z = [pl.col(f"z{a}") for a in range(p)]
    adds = []
    for k in range(q):
        forms = [z[a] * pl.sum_horizontal(z[b] * w for b, w in enumerate(by_products[k, a])) for a in range(p)]
        constant = float((by_products[k] * found.correlation).sum())
        parts = [(pl.sum_horizontal(forms) - constant) / n]
        parts += [(square - spread[j]) * (by_spread[k, j] / of) for j, square, of in squares]
        adds.append(pl.sum_horizontal(pl.when(z[0].is_not_null()).then(parts[0]), *parts[1:]).alias(f"z{k}"))
    covariance = _products(found.frame.select(adds), q) * n / (n - q - 1)
    scale = found.sd[0] / found.sd[x]
    estimate = _solution(clean, q) * scale
    return Estimates(rows.columns[x], estimate, covariance * np.outer(scale, scale), float(n - q - 1))


def _spread(found: Complete, noise: Noise) -> tuple[Floats, list[tuple[int, pl.Expr, int]]]:
    """Variances of the columns with noise over all rows that have them, (p,), in units of those of complete rows.

    Noise is in units of these. With each column the squares that its variance is the mean of, and of how many.
    """
    spread = np.ones(len(found.mean))
    xs = {int(j): (pl.col(f"x{j}") - found.mean[j]) / found.sd[j] for j in np.flatnonzero(noise.noisy)}
    if not xs:
        return spread, []
    both = [(x.mean().alias(f"m{j}"), x.count().alias(f"n{j}")) for j, x in xs.items()]
    first = collect(found.frame.select(itertools.chain.from_iterable(both))).row(0, named=True)
    squares = [(j, (x - first[f"m{j}"]) ** 2, int(first[f"n{j}"])) for j, x in xs.items()]
    means = collect(found.frame.select(square.mean().alias(str(j)) for j, square, _ in squares)).row(0)
    spread[list(xs)] = means
    return spread, squares


def _without_noise(moments: Any, spread: Any, noise: Noise) -> Any:
    """Covariances that columns would have without noise.

    Parameters
    ----------
    moments : ndarray of shape (p, p), float64 or complex128
        Covariances in the copy.
    spread : ndarray of shape (p,)
        Variances that noise is in units of.
    noise : Noise

    Notes
    -----
    Noise of finished copies is taken off first. Then turn by turn: the regression of a column without its own noise on
    those before, with theirs, is the one that it was drawn by, at values that stood for those without noise.
    """
    moments = _cleared(moments, spread, noise.after)
    if not noise.drawn.any():
        return moments
    clean = np.zeros_like(moments)
    for turn in np.unique(noise.turn):
        before, now = np.flatnonzero(noise.turn < turn), np.flatnonzero(noise.turn == turn)
        # As drawn: without the noise of this turn, with that of those before.
        own = np.where(noise.turn == turn, noise.drawn, 0.0)
        drawn = _cleared(moments, spread, own)
        beta = np.linalg.solve(drawn[np.ix_(before, before)], drawn[np.ix_(before, now)])
        rest = drawn[np.ix_(now, now)] - beta.T @ drawn[np.ix_(before, now)]
        part = clean[np.ix_(before, before)] @ beta
        clean[np.ix_(before, now)], clean[np.ix_(now, before)] = part, part.T
        clean[np.ix_(now, now)] = rest + beta.T @ part
    return clean


def _cleared(moments: Any, spread: Any, share: Floats) -> Any:
    """Covariances without noise of so many standard deviations on each column, that depended on nothing."""
    c = np.sqrt(1 + share**2)
    return moments * np.outer(c, c) - np.diag(share**2 * spread)


def _solution(moments: Any, q: int) -> Any:
    return np.linalg.solve(moments[1 : 1 + q, 1 : 1 + q], moments[1 : 1 + q, 0])


def _derivatives(correlation: Floats, spread: Floats, noise: Noise, q: int) -> tuple[Floats, Floats]:
    """Derivatives of the slopes: by products of two columns (q, p, p), by variances that noise is in units of (q, p).

    Of products that stand twice each has half. By steps along the imaginary axis, which lose no digits (Squire and
    Trapp 1998, Using complex variables to estimate derivatives of real functions, SIAM Review 40:110).
    """
    p, step = len(correlation), 1e-40
    by_products, by_spread = np.zeros((q, p, p)), np.zeros((q, p))
    for a, b in itertools.combinations_with_replacement(range(p), 2):
        moved = correlation.astype(np.complex128)
        moved[a, b] += 1j * step
        moved[b, a] = moved[a, b]
        slope = _solution(_without_noise(moved, spread, noise), q).imag / step
        by_products[:, a, b] = by_products[:, b, a] = slope if a == b else slope / 2
    for j in np.flatnonzero(noise.noisy):
        moved = spread.astype(np.complex128)
        moved[j] += 1j * step
        by_spread[:, j] = _solution(_without_noise(correlation, moved, noise), q).imag / step
    return by_products, by_spread


def _refuse_sums(correlation: Floats, statistic: str, names: Sequence[str], noisy: NDArray[np.bool_]) -> None:
    """Refuse columns that are sums of others, given their covariances."""
    variances = np.diag(correlation)
    if (variances > LEAST_TOLERANCE).all():
        root = np.sqrt(variances)
        if np.linalg.eigvalsh(correlation / np.outer(root, root))[:1].min(initial=1.0) > LEAST_TOLERANCE:
            return
    why = ", or noise is nearly all of what they differ in" if noisy.any() else ", or have one value"
    raise DataError(
        f"{statistic}: columns {', '.join(map(repr, names))} are sums of each other{why}. Take fewer of them."
    )


# Two levels


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """What the likelihood needs: columns are 1, x1, ..., y, around their means and over their standard deviations.

    Attributes
    ----------
    size : ndarray of shape (g,), dtype=float64
        Different numbers of rows of a group.
    count : ndarray of shape (g,), dtype=float64
        Groups of that size.
    between : ndarray of shape (g, p + 1, p + 1), dtype=float64
        Sums over these groups of products of their sums.
    total : ndarray of shape (p + 1, p + 1), dtype=float64
        Sums of products over all rows.
    """

    size: Floats
    count: Floats
    between: Floats
    total: Floats

    @property
    def n(self) -> float:
        """Rows."""
        return float(self.size @ self.count)

    def less(self, share: Floats) -> Floats:
        """Products of all rows, less a share (g,) of those of the sums of groups of each size."""
        return self.total - self.sums(share)

    def sums(self, weight: Floats) -> Floats:
        """Products of the sums of groups, those of each size with a weight (g,)."""
        weighted: Floats = np.einsum("g,gab->ab", weight, self.between)
        return weighted


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """Twice the negative profile log-likelihood of REML at a ratio of variances, and what comes with it.

    Attributes
    ----------
    value, slope : float
        Up to a constant; by the ratio.
    inverse : ndarray of shape (p, p), dtype=float64
        Of the products of the x, weighted: times the residual variance, the covariance of the fixed effects.
    beta : ndarray of shape (p,), dtype=float64
    residual : float
        Residual variance.
    """

    value: float
    slope: float
    inverse: Floats
    beta: Floats
    residual: float


def _mixed(rows: Rows) -> Estimates:
    found = _complete(rows, "mixed")
    _refuse_sums(found.correlation[1:, 1:], "mixed", rows.columns[1:], np.zeros(1, bool))
    groups = _groups(found, rows)
    ratio, best = _best(groups, rows.by[0])
    variances = best.residual * np.array([ratio, 1.0])
    p = len(rows.columns)
    covariance = np.zeros((p + 2, p + 2))
    # Back from columns around their means and over their standard deviations.
    back = np.diag(found.sd[0] / np.append(1.0, found.sd[1:]))
    back[0, 1:] = -found.mean[1:] * found.sd[0] / found.sd[1:]
    covariance[:p, :p] = best.residual * back @ best.inverse @ back.T
    covariance[p:, p:] = found.sd[0] ** 4 * best.residual**2 * np.linalg.inv(_information(groups, ratio, best.inverse))
    estimate = np.append(back @ best.beta, found.sd[0] ** 2 * variances)
    estimate[0] += found.mean[0]
    terms = ("Intercept", *rows.columns[1:], f"var({rows.by[0]})", "var(residual)")
    return Estimates(terms, estimate, covariance)


def _groups(found: Complete, rows: Rows) -> Groups:
    p = len(found.mean)
    # y comes last.
    z = [pl.col(f"z{i}") for i in (*range(1, p), 0)]
    frame = found.frame.filter(pl.col("z0").is_not_null())
    sums = [x.sum().alias(f"s{i}") for i, x in enumerate(z, 1)]
    of_group = aggregate(frame, rows.keys, [pl.len().cast(pl.Float64).alias("s0"), *sums])
    largest = float(of_group.select(pl.col("s0").max().fill_null(0.0)).item())
    if of_group.height < 2 or largest < 2:
        raise DataError(
            f"mixed: column {rows.by[0]!r} has {of_group.height} groups in rows that lack nothing, the largest of "
            f"{largest:.0f} rows. At least 2 groups are needed, and one of 2 rows."
        )
    pairs = list(itertools.combinations_with_replacement(range(p + 1), 2))
    products = [(pl.col(f"s{a}") * pl.col(f"s{b}")).sum().alias(f"{a} {b}") for a, b in pairs]
    sized = of_group.lazy().with_columns(size="s0")
    by_size = aggregate(sized, ["size"], [pl.len().cast(pl.Float64).alias("count"), *products])
    between = np.empty((by_size.height, p + 1, p + 1))
    for a, b in pairs:
        between[:, a, b] = between[:, b, a] = by_size[f"{a} {b}"].to_numpy()
    total = np.zeros((p + 1, p + 1))
    order = [*range(1, p), 0]
    total[1:, 1:] = found.n * found.correlation[np.ix_(order, order)]
    total[0] = total[:, 0] = of_group.select(pl.col(f"s{i}").sum() for i in range(p + 1)).row(0)
    return Groups(by_size["size"].to_numpy(), by_size["count"].to_numpy(), between, total)


def _best(groups: Groups, name: str) -> tuple[float, Profile]:
    """The ratio of the level-2 variance to the residual one that has the highest likelihood."""
    from scipy.optimize import brentq

    # Of the level-2 variance in both.
    shares = np.append(np.linspace(0, 1, GRID, endpoint=False), MOST_SHARE)
    profiles = [_profile(groups, share) for share in shares]
    minima = [0.0] if profiles[0].slope >= 0 else []
    for low, high, left, right in zip(shares[:-1], shares[1:], profiles[:-1], profiles[1:], strict=True):
        if left.slope < 0 <= right.slope:
            minima.append(brentq(lambda share: _profile(groups, share).slope, low, high, xtol=1e-15, rtol=1e-13))
    if not minima:
        raise DataError(
            f"mixed: rows of the same group of column {name!r} differ in nothing but the columns x. Take the means of "
            "the groups."
        )
    share = min(minima, key=lambda share: _profile(groups, share).value)
    return share / (1 - share), _profile(groups, share)


def _profile(groups: Groups, share: float) -> Profile:
    ratio = share / (1 - share)
    kept = 1 / (1 + groups.size * ratio)
    p = len(groups.total) - 1
    weighted = groups.less(ratio * kept)
    inverse = np.asarray(np.linalg.inv(weighted[:p, :p]), np.float64)
    beta: Floats = inverse @ weighted[:p, p]
    # Not below what rounding leaves.
    squares = max(float(weighted[p, p] - beta @ weighted[:p, p]), 1e-14 * groups.n)
    rest = groups.n - p
    moved = groups.sums(kept**2)
    v = np.append(-beta, 1.0)
    value = groups.count @ -np.log(kept) + np.linalg.slogdet(weighted[:p, :p])[1] + rest * math.log(squares)
    slope = groups.count @ (groups.size * kept) - np.sum(inverse * moved[:p, :p]) - rest / squares * (v @ moved @ v)
    return Profile(float(value), float(slope), inverse, beta, squares / rest)


def _information(groups: Groups, ratio: float, inverse: Floats) -> Floats:
    """Expected information of REML on the level-2 and the residual variance, (2, 2), for residual variance 1.

    Half the traces of P V_a P V_b, where V_a is the derivative of the covariance matrix V by variance a, and P that of
    what is left by the fixed effects (Searle, Casella and McCulloch 1992, 6.6). V has 1 and 1 / kept as eigenvalues.
    """
    n, p = groups.size, len(inverse)
    kept = 1 / (1 + n * ratio)
    once = [groups.sums(kept**2), groups.less((1 - kept**2) / n)]
    twice = {
        (0, 0): groups.sums(n * kept**3),
        (0, 1): groups.sums(kept**3),
        (1, 1): groups.less((1 - kept**3) / n),
    }
    plain = {(0, 0): n**2 * kept**2, (0, 1): n * kept**2, (1, 1): n - 1 + kept**2}
    information = np.empty((2, 2))
    for (a, b), both in twice.items():
        left, right = inverse @ once[a][:p, :p], inverse @ once[b][:p, :p]
        trace = groups.count @ plain[a, b] - 2 * np.sum(inverse * both[:p, :p]) + np.sum(left * right.T)
        information[a, b] = information[b, a] = trace / 2
    return information
