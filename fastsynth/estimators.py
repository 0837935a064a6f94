"""Analyses that need no model: means, totals, shares, quantiles, correlations, spread.

Each function returns an ``Analysis``. Called with one copy it gives ``Estimates``, which ``pool`` combines; called with
any other table it gives those of that table, as ``Pooled.compare`` needs them of the original.

Terms
-----
scale
    Where estimates are nearly normal, so that their mean over copies and symmetric intervals suit them:
    Fisher's z for correlations, the logit for shares, the log for spread. ``Estimates`` are given there.
rows
    Missing values (null or NaN) are left out, and so are rows whose group is missing; only rows used are counted.
term
    "bmi", "bmi 50%" (a quantile), "gen=G1" (a level), "hgt~bmi" (a correlation); of groups "bmi[reg=city]".

Variances are those of a simple random sample of as many rows as the copy has; ``pool`` turns them into those of the
original. Copies are read as polars expressions on the streaming engine, so a LazyFrame of files is never held as a
whole. This module knows neither how copies were made nor how they are pooled.
"""

from __future__ import annotations

import itertools
import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from scipy.special import ndtri

from fastsynth.errors import DataError, OptionError, check_count
from fastsynth.estimates import LEVEL, Estimates, Floats
from fastsynth.source import read_table

ColumnOrExpr = str | pl.Expr
By = str | pl.Expr | Sequence[str | pl.Expr] | None
# Terms, estimates of shape (p,), covariances of shape (p, p), and whether each can be estimated, of shape (p,).
Block = tuple[list[str], Floats, Floats, NDArray[np.bool_]]

# Terms of one analysis: their covariances are a full matrix, 32 MB here.
MOST_TERMS = 2_000
# Columns of one analysis: every pair of them is a sum of its own.
MOST_COLUMNS = 50
# Correlations beyond this are taken as this, where Fisher's z is still finite.
MOST_CORRELATION = 1 - 1e-12
N_ROWS = pl.len().cast(pl.Int64).alias("rows")


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What an analysis sees of a copy.

    Attributes
    ----------
    frame : polars.LazyFrame
        The columns of the analysis as x0, x1, ..., those of its groups as g0, g1, ...; what is missing is null.
    columns, by : tuple of str
        Their names in terms.
    """

    frame: pl.LazyFrame
    columns: tuple[str, ...]
    by: tuple[str, ...]

    @property
    def xs(self) -> list[str]:
        """Columns of the analysis in the frame."""
        return [f"x{i}" for i in range(len(self.columns))]

    @property
    def keys(self) -> list[str]:
        """Columns of the groups in the frame."""
        return [f"g{i}" for i in range(len(self.by))]


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """An analysis of one copy, for ``Synthesis.analyse``; calling it gives the estimates of any table.

    Attributes
    ----------
    statistic : str
        The function it comes from.
    columns, by : tuple of polars.Expr
    compute : callable
        Gives the Estimates of Rows.

    Examples
    --------
    >>> import fastsynth as fs
    >>> analysis = fs.mean("hgt", by="reg")
    >>> analysis
    Analysis: mean of hgt by reg
    >>> analysis(fs.load_boys()).terms[:2]
    ('hgt[reg=city]', 'hgt[reg=east]')
    """

    statistic: str
    columns: tuple[pl.Expr, ...]
    by: tuple[pl.Expr, ...]
    compute: Callable[[Rows], Estimates]

    def __call__(self, copy: Any) -> Estimates:
        """Estimate from one table.

        Parameters
        ----------
        copy : polars DataFrame or LazyFrame, pandas DataFrame, pyarrow Table, any object with ``__arrow_c_stream__``

        Returns
        -------
        Estimates

        Raises
        ------
        DataError
            Nothing can be estimated for want of rows; infinite values; no table.
        OptionError
            Unknown columns, columns of a type that the statistic is not for, too many terms.
        """
        columns, by = (tuple(map(output_name, part)) for part in (self.columns, self.by))
        estimates = self.compute(Rows(_select(copy, self), columns, by))
        if not estimates.terms:
            raise DataError(f"{self}: no group has enough rows with different values that are not missing.")
        if not (np.isfinite(estimates.estimate).all() and np.isfinite(estimates.covariance).all()):
            raise DataError(f"{self}: there are infinite values, or such that their powers are. Set them to null.")
        return estimates

    def __repr__(self) -> str:
        columns, by = (", ".join(map(output_name, part)) for part in (self.columns, self.by))
        return f"Analysis: {self.statistic} of {columns}" + (f" by {by}" if by else "")


def mean(column: ColumnOrExpr, *more: ColumnOrExpr, by: By = None) -> Analysis:
    """Means of columns of numbers.

    Parameters
    ----------
    column, *more : str or polars.Expr
        Numbers, decimals or booleans, at most 50 columns. Terms have the column's name; an expression has that of its
        first column unless ``alias`` gives it one of its own.
    by : str or polars.Expr, or list of these, optional
        Columns of groups. Those with fewer than 2 rows have no term.

    Returns
    -------
    Analysis
        Estimates on the identity scale. Variance s^2 / rows; means of one group have covariances from the rows that
        have both values; groups are independent. Degrees of freedom of each term: rows of its group less 1.

    Raises
    ------
    OptionError
        No names or expressions, a column named twice.

    Notes
    -----
    O(k q^2) for q columns, in two passes: sums are taken around the mean of each group, so nothing is lost to rounding.

    Examples
    --------
    >>> import fastsynth as fs
    >>> boys = fs.load_boys()
    >>> estimates = fs.mean("hgt", "wgt")(boys)
    >>> estimates.estimate.round(2).tolist() == [round(boys["hgt"].mean(), 2), round(boys["wgt"].mean(), 2)]
    True
    >>> syn = fs.synthesize(boys, m=2, random_state=1)
    >>> fs.pool(syn.analyse(fs.mean("hgt", by="reg"))).table["term"].to_list()[:2]
    ['hgt[reg=city]', 'hgt[reg=east]']
    """
    return analysis_of("mean", _means, (column, *more), by)


def total(column: ColumnOrExpr, *more: ColumnOrExpr, by: By = None, rows: int | None = None) -> Analysis:
    """Totals of columns of numbers; of booleans, numbers of rows that are true.

    Parameters
    ----------
    column, *more, by
        As in ``mean``.
    rows : int, optional
        Size of the population (or of the original) that the total is for. The default is the rows of the copy: the
        plain sum. Give ``rows=syn.n`` where copies have other numbers of rows than the original.

    Returns
    -------
    Analysis
        Estimates on the identity scale: sum times rows / k for a copy of k rows. Variance rows^2 s^2 / k, where s^2 is
        that of the column with zero for rows that are missing or in other groups: how many there are of them is as
        random as the values. Groups are therefore dependent. Degrees of freedom: k - 1.

    Raises
    ------
    OptionError
        As ``mean``; rows is not a positive integer.

    Notes
    -----
    O(k q^2) for q columns. A missing value adds nothing. If values are missing where there are some, take the mean.

    References
    ----------
    Cochran (1977), Sampling Techniques, 3rd ed., section 2.12 (subpopulations).

    Examples
    --------
    >>> import fastsynth as fs
    >>> boys = fs.load_boys()
    >>> fs.total("tv")(boys).estimate.item() == boys["tv"].sum()
    True
    >>> fs.total("tv", rows=1_000_000)(boys).estimate.round(-4).item()
    8430000.0
    """
    rows = None if rows is None else check_count("total: rows", rows)
    return analysis_of("total", partial(_totals, wanted=rows), (column, *more), by)


def proportion(column: ColumnOrExpr, level: Any = None, by: By = None) -> Analysis:
    """Shares of the levels of a column, or of the rows that meet a condition.

    Parameters
    ----------
    column : str or polars.Expr
        Any column of values that repeat, or a condition such as ``(pl.col("bmi") > 25).alias("overweight")``.
    level : value, or list of values, optional
        Whose share. The default is every level: of an Enum all that are declared, else those that the copy has; of a
        boolean, True alone.
    by
        As in ``mean``; shares are within the group.

    Returns
    -------
    Analysis
        Estimates on the logit scale. Variance 1 / (rows p (1 - p)), multinomial covariances. All levels add up to 1, so
        a test of several has to leave one out. Terms "gen=G1", "overweight".

    Raises
    ------
    OptionError
        As ``mean``; a level that the column's type cannot hold, or given twice.

    Notes
    -----
    O(k). No row of a level (or no other) would put the logit at infinity, yet says only that the share is small. There
    half a row is added to both sides (Gart and Zweifel 1967): the estimate is 0.5 / (rows + 1), the upper limit of one
    copy about 8 / rows. So copies that lack a level stay in the pool; the others alone would overstate it. Name the
    levels where some copies may lack one. Terms with half a row have no covariances with others.

    References
    ----------
    Gart and Zweifel (1967), On the bias of various estimators of the logit, Biometrika 54:181.

    Examples
    --------
    >>> import fastsynth as fs
    >>> import polars as pl
    >>> boys = fs.load_boys()
    >>> fs.proportion("gen", level=["G4", "G5"])(boys).terms
    ('gen=G4', 'gen=G5')
    >>> tall = fs.proportion((pl.col("hgt") > 180).alias("tall"), by="reg")(boys)
    >>> tall.terms[0], tall.scale[0]
    ('tall[reg=city]', 'logit')
    """
    levels = None if level is None else list(level) if isinstance(level, list | tuple) else [level]
    return analysis_of("proportion", partial(_proportions, levels=levels), (column,), by)


def table(*columns: ColumnOrExpr) -> Analysis:
    """Shares of the cells of a cross table.

    Parameters
    ----------
    *columns : str or polars.Expr
        As in ``proportion``. The table has every combination of their levels, also those without a row.

    Returns
    -------
    Analysis
        Estimates as of ``proportion``: shares of all rows that have all the values. Terms "gen=G1, phb=P2".
        Times ``syn.n`` they are counts. For shares within rows of the table take ``proportion(..., by=...)``.

    Raises
    ------
    OptionError
        As ``mean``; no columns.

    Notes
    -----
    O(k) and memory for each combination that occurs.

    Examples
    --------
    >>> import fastsynth as fs
    >>> len(fs.table("gen", "phb")(fs.load_boys()).terms)
    30
    """
    if not columns:
        raise OptionError("table: name at least one column.")
    return analysis_of("table", _shares, columns, None)


def quantile(column: ColumnOrExpr, probability: float | Sequence[float] = 0.5, by: By = None) -> Analysis:
    """Quantiles of a column of numbers.

    Parameters
    ----------
    column, by
        As in ``mean``.
    probability : float or list of floats, default 0.5
        Between 0 and 1, without these.

    Returns
    -------
    Analysis
        Estimates on the identity scale, with linear interpolation as in numpy. Variance from Woodruff's interval: the
        quantiles at p -+ 1.96 sqrt(p (1 - p) / rows) lie 2 * 1.96 standard errors apart (beyond 0 or 1 the part within
        counts). Quantiles p < q of one group correlate by sqrt(p (1 - q) / (q (1 - p))), as in a Brownian bridge.
        Terms "bmi 50%".

    Raises
    ------
    OptionError
        As ``mean``; a probability that is not between 0 and 1, or given twice.

    Notes
    -----
    O(k) in two passes: rows are counted by value to three digits, and those that share these with a wanted quantile by
    exact value. So few values are held at a time, unless all agree in three digits. A quantile within many equal values
    has variance 0, as its whole interval is that value. Far out in small groups intervals are a little short (for the
    90 % quantile of 300 skew values they cover .93).

    References
    ----------
    Woodruff (1952), Confidence intervals for medians and other position measures, JASA 47:635.
    Csorgo (1983), Quantile Processes with Statistical Applications, SIAM (joint distribution).

    Examples
    --------
    >>> import fastsynth as fs
    >>> boys = fs.load_boys()
    >>> estimates = fs.quantile("bmi", [0.25, 0.5])(boys)
    >>> dict(zip(estimates.terms, estimates.estimate.round(3).tolist(), strict=True))
    {'bmi 25%': 15.878, 'bmi 50%': 17.45}
    """
    given = list(probability) if isinstance(probability, Iterable) else [probability]
    if not given or not all(isinstance(p, numbers.Real) and 0 < p < 1 for p in given) or len(set(given)) < len(given):
        raise OptionError(f"quantile: probability={probability!r}: give one between 0 and 1, or different ones.")
    return analysis_of("quantile", partial(_quantiles, wanted=np.array(given, np.float64)), (column,), by)


def correlation(x: ColumnOrExpr, y: ColumnOrExpr, *more: ColumnOrExpr, by: By = None) -> Analysis:
    """Pearson correlations of all pairs of columns of numbers.

    Parameters
    ----------
    x, y, *more, by
        As in ``mean``. Rows that lack one of the columns are left out, so that all correlations are of the same rows.
        Groups with fewer than 4 such rows have no terms, nor have columns of one value.

    Returns
    -------
    Analysis
        Estimates on Fisher's z scale. Variance 1 / (rows - 3), covariances those of correlations of normal columns
        (Olkin and Siotani). Terms "x~y".

    Raises
    ------
    OptionError
        As ``mean``.

    Notes
    -----
    O(k q^2) for q columns, in two passes. Fisher's variance is for normal columns; heavy tails widen the truth. A
    correlation of 1 is taken as 1 - 1e-12, where z is finite, and has no covariances with others.

    References
    ----------
    Olkin and Siotani (1976), in: Essays in Probability and Statistics, 235; Steiger (1980), Psych. Bulletin 87:245.

    Examples
    --------
    >>> import fastsynth as fs
    >>> estimates = fs.correlation("hgt", "wgt", "bmi")(fs.load_boys())
    >>> estimates.terms
    ('hgt~wgt', 'hgt~bmi', 'wgt~bmi')
    """
    return analysis_of("correlation", _correlations, (x, y, *more), by)


def std(column: ColumnOrExpr, *more: ColumnOrExpr, by: By = None) -> Analysis:
    """Standard deviations of columns of numbers.

    Parameters
    ----------
    column, *more, by
        As in ``mean``. Columns of one value have no term.

    Returns
    -------
    Analysis
        Estimates on the log scale. Variance (kurtosis - (rows - 3) / (rows - 1)) / (4 rows), which assumes no
        distribution; covariances of columns from the rows that have both values.

    Raises
    ------
    OptionError
        As ``mean``.

    Notes
    -----
    O(k q^2) for q columns, in two passes. In few rows the kurtosis of heavy tails comes out too small, and with it the
    variance (for 300 values of a gamma distribution with shape 2 intervals cover .92).

    References
    ----------
    Cramer (1946), Mathematical Methods of Statistics, 27.4 (variance of s^2).

    Examples
    --------
    >>> import fastsynth as fs
    >>> import numpy as np
    >>> boys = fs.load_boys()
    >>> np.exp(fs.std("hgt")(boys).estimate).round(6).item() == round(boys["hgt"].std(), 6)
    True
    """
    return analysis_of("std", partial(_spread, power=0.5), (column, *more), by)


def variance(column: ColumnOrExpr, *more: ColumnOrExpr, by: By = None) -> Analysis:
    """Variances of columns of numbers: the squares of ``std``, with the same options on the same scale.

    Examples
    --------
    >>> import fastsynth as fs
    >>> boys = fs.load_boys()
    >>> (fs.variance("hgt")(boys).estimate == 2 * fs.std("hgt")(boys).estimate).all().item()
    True
    """
    return analysis_of("variance", partial(_spread, power=1.0), (column, *more), by)


# At the door


def analysis_of(statistic: str, compute: Callable[[Rows], Estimates], columns: Sequence[Any], by: Any) -> Analysis:
    """Check what was named, before any copy is there."""
    groups = [] if by is None else list(by) if isinstance(by, list | tuple) else [by]
    for column in (*columns, *groups):
        if not isinstance(column, str | pl.Expr):
            raise OptionError(
                f"{statistic}: columns are names or polars expressions, one by one; this is a {type(column).__name__}."
            )
    if len(columns) > MOST_COLUMNS:
        raise OptionError(
            f"{statistic}: {len(columns)} columns; at most {MOST_COLUMNS} are possible. Take fewer at a time."
        )
    expressions = [pl.col(column) if isinstance(column, str) else column for column in (*columns, *groups)]
    names = [output_name(expression) for expression in expressions]
    for expression, name in zip(expressions, names, strict=True):
        if not expression.meta.root_names():
            raise OptionError(f"{statistic}: expression {name!r} names no column. Compute it from at least one.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise OptionError(
            f"{statistic}: {', '.join(map(repr, twice))} is named more than once among columns and by. "
            "Leave it out, or give an expression a name of its own with alias()."
        )
    return Analysis(statistic, tuple(expressions[: len(columns)]), tuple(expressions[len(columns) :]), compute)


def output_name(expression: pl.Expr) -> str:
    """Name of a column, or of what an expression gives."""
    try:
        return expression.meta.output_name()
    except pl.exceptions.PolarsError:
        raise OptionError("An expression stands for several columns, or for none. Name columns one by one.") from None


def _select(copy: Any, analysis: Analysis) -> pl.LazyFrame:
    """Columns of the analysis as x0, x1, ... and g0, g1, ..., with null for NaN."""
    expressions = (*analysis.columns, *analysis.by)
    roots = sorted({root for expression in expressions for root in expression.meta.root_names()})
    table = copy if isinstance(copy, pl.DataFrame | pl.LazyFrame) else read_table(copy)[0]
    known = table.column_names if isinstance(table, pa.Table) else table.collect_schema().names()
    unknown = [root for root in roots if root not in known]
    if unknown:
        there = ", ".join(map(repr, known[:20])) + (", ..." if len(known) > 20 else "")
        raise OptionError(f"{analysis}: no column {', '.join(map(repr, unknown))}. The table has {there}.")
    if isinstance(table, pa.Table):
        table = table.select(roots)
        for i, field in enumerate(table.schema):
            if pa.types.is_decimal256(field.type):  # polars has none
                table = table.set_column(i, field.name, table[i].cast(pa.float64()))
        table = pl.DataFrame(table)
    # Before expressions see it: for polars NaN > 25 is true.
    nan_is_null = pl.selectors.float().fill_nan(None)
    xs = [expression.alias(f"x{i}") for i, expression in enumerate(analysis.columns)]
    keys = [expression.alias(f"g{i}") for i, expression in enumerate(analysis.by)]
    return table.lazy().select(roots).with_columns(nan_is_null).select(*xs, *keys).with_columns(nan_is_null)


def _schema(frame: pl.LazyFrame) -> pl.Schema:
    with _no_values():
        return frame.collect_schema()


def collect(frame: pl.LazyFrame) -> pl.DataFrame:
    """Compute a frame without holding its files as a whole; errors quote no values."""
    with _no_values():
        return frame.collect(engine="streaming")


@contextmanager
def _no_values() -> Iterator[None]:
    """Say what went wrong without the library's own message, which may quote values of the table."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        raise OptionError(
            f"polars cannot compute the columns of the analysis ({type(error).__name__}). Do expressions suit the "
            "types of their columns, and are the files whole? Try copy.select(...)."
        ) from None


def _refuse_many(n_terms: int) -> None:
    if n_terms > MOST_TERMS:
        raise OptionError(
            f"The analysis has {n_terms:,} terms; at most {MOST_TERMS:,} are possible. Group rare levels, or take "
            "fewer columns."
        )


# From rows to sums


def as_numbers(rows: Rows) -> Rows:
    """Columns as floats; refuses those that hold no numbers."""
    schema = _schema(rows.frame)
    for x, name in zip(rows.xs, rows.columns, strict=True):
        if not (schema[x].is_numeric() or schema[x] in (pl.Boolean, pl.Null)):
            raise OptionError(
                f"Column {name!r} has type {schema[x].base_type()}; numbers are needed. Convert it, or take "
                "proportion() for shares of its levels."
            )
    return replace(rows, frame=rows.frame.with_columns(pl.col(rows.xs).cast(pl.Float64)))


def aggregate(frame: pl.LazyFrame, keys: list[str], sums: Sequence[pl.Expr]) -> pl.DataFrame:
    """One row for each group, in their order; a single row without groups."""
    return collect(frame.group_by(keys).agg(sums).sort(keys) if keys else frame.select(sums))


def _labels(groups: pl.DataFrame, rows: Rows) -> list[str]:
    """What the terms of each group end with, such as "[reg=city]"."""
    if not rows.by:
        return [""]
    return [
        "[" + ", ".join(f"{name}={value}" for name, value in zip(rows.by, group, strict=True)) + "]"
        for group in groups.select(rows.keys).iter_rows()
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Sums of each group around its means.

    Attributes
    ----------
    labels : list of str, length n_groups
    center : ndarray of shape (n_groups, q), dtype=float64
        Means of the columns x; NaN where all values are missing.
    varies : ndarray of shape (n_groups, q), dtype=bool
        Whether there are two different values.
    products : ndarray of shape (n_groups, q, q), dtype=float64
        Sums of d_i d_j over the rows that have both values, where d = (x - center)^power.
    sums : ndarray of shape (n_groups, q, q), dtype=float64
        Sums of d_i over the same rows.
    counts : ndarray of shape (n_groups, q, q), dtype=float64
        The same rows.
    """

    labels: list[str]
    center: Floats
    varies: NDArray[np.bool_]
    products: Floats
    sums: Floats
    counts: Floats

    @property
    def n(self) -> Floats:
        """Rows of each column, of shape (n_groups, q)."""
        return _diagonal(self.counts)


def _moments(rows: Rows, n_terms: int, power: int = 1) -> Moments:
    """Means in a first pass, sums around them in a second: in one pass a small spread far from zero would be lost.

    ``n_terms`` is for how many terms a group they are needed.
    """
    keys, q = rows.keys, len(rows.columns)
    frame, xs = rows.frame.drop_nulls(keys), [pl.col(x) for x in rows.xs]
    means = [x.mean().alias(f"c{i}") for i, x in enumerate(xs)]
    first = aggregate(frame, keys, [*means, *((x.min() < x.max()).alias(f"v{i}") for i, x in enumerate(xs))])
    _refuse_many(first.height * n_terms)
    centers = first.select(f"c{i}" for i in range(q))
    if keys:
        frame = frame.join(first.select(*keys, *centers).lazy(), on=keys)
    else:
        frame = frame.with_columns(pl.lit(c, pl.Float64).alias(f"c{i}") for i, c in enumerate(centers.row(0)))
    d = [(x - pl.col(f"c{i}")) ** power for i, x in enumerate(xs)]
    has = [x.is_not_null().cast(pl.Float64) for x in xs]
    pairs = itertools.combinations_with_replacement
    second = aggregate(frame, keys, [(a * b).sum().alias(f"s{i}") for i, (a, b) in enumerate(pairs(d + has, 2))])
    sums = np.empty((first.height, 2 * q, 2 * q))
    for i, (a, b) in enumerate(pairs(range(2 * q), 2)):
        sums[:, a, b] = sums[:, b, a] = second[f"s{i}"].to_numpy()
    varies = first.select(pl.col(f"v{i}").fill_null(False) for i in range(q)).to_numpy()
    labels, center = _labels(first, rows), centers.cast(pl.Float64).to_numpy()
    return Moments(labels, center, varies, sums[:, :q, :q], sums[:, :q, q:], sums[:, q:, q:])


# From sums to estimates


def _means(rows: Rows) -> Estimates:
    m = _moments(as_numbers(rows), len(rows.columns))
    with np.errstate(all="ignore"):
        root = np.sqrt(m.n * (m.n - 1))
        covariance = m.products / _outer(root, root)
    df = (m.n - 1)[m.n >= 2]
    names = [[name + label for name in rows.columns] for label in m.labels]
    return _joined(zip(names, m.center, covariance, m.n >= 2, strict=True), "identity", df)


def _totals(rows: Rows, wanted: int | None) -> Estimates:
    rows = as_numbers(rows)
    k = float(collect(rows.frame.select(pl.len())).item())
    if k < 2:
        return _joined([], "identity")
    m = _moments(rows, len(rows.columns))
    with np.errstate(all="ignore"):
        c = np.where(m.n > 0, m.center, 0.0)
        left = m.sums * c[:, None, :]
        sums = m.n * c + _diagonal(m.sums)
        # Sums of squares and products of columns that are zero in other groups, less k times the means of these.
        covariance = -np.outer(sums, sums) / k
        blocks = m.products + left + left.mT + (m.counts - _outer(m.n, m.n) / k) * _outer(c, c)
        for g, block in enumerate(blocks):
            place = slice(g * c.shape[1], (g + 1) * c.shape[1])
            covariance[place, place] = block
        scale = (k if wanted is None else wanted) / k
        covariance *= scale**2 * k / (k - 1)
    names = [name + label for label in m.labels for name in rows.columns]
    return _joined([(names, sums.ravel() * scale, covariance, (m.n >= 2).ravel())], "identity", k - 1)


def _spread(rows: Rows, power: float) -> Estimates:
    """Logarithms of s^(2 power); of s^2 first."""
    m = _moments(as_numbers(rows), len(rows.columns), power=2)
    with np.errstate(all="ignore"):
        m2 = _diagonal(m.sums) / m.n
        estimate = np.log(m2 * m.n / (m.n - 1))
        # Sums of (d_i^2 - m2_i)(d_j^2 - m2_j).
        left = m.sums * m2[:, None, :]
        products = m.products - left - left.mT + m.counts * _outer(m2, m2)
        covariance = products / _outer(m.n * m2, m.n * m2)
        # The exact variance of s^2 is larger than that of the mean of d^2, for normal columns by n / (n - 1).
        covariance += np.eye(m2.shape[1]) * (2 / (m.n * (m.n - 1)))[:, None, :]
    names = [[name + label for name in rows.columns] for label in m.labels]
    return _joined(zip(names, power * estimate, power**2 * covariance, m.varies, strict=True), "log")


def _correlations(rows: Rows) -> Estimates:
    rows = as_numbers(rows)
    pairs = np.array(list(itertools.combinations(range(len(rows.columns)), 2)))
    m = _moments(replace(rows, frame=rows.frame.drop_nulls(rows.xs)), len(pairs))
    blocks = []
    for label, products, n, varies in zip(m.labels, m.products, m.n[:, 0], m.varies, strict=True):
        with np.errstate(all="ignore"):
            s = np.sqrt(np.diag(products))
            r = products / np.outer(s, s)
            z = np.arctanh(np.clip(r[*pairs.T], -MOST_CORRELATION, MOST_CORRELATION))
            covariance = _fisher_covariance(r, pairs) / (n - 3)
        names = [f"{rows.columns[i]}~{rows.columns[j]}{label}" for i, j in pairs]
        blocks.append((names, z, covariance, varies[pairs].all(1) & (n >= 4)))
    return _joined(blocks, "fisher_z")


def _fisher_covariance(r: Floats, pairs: NDArray[np.int64]) -> Floats:
    """Covariances of Fisher's z of pairs of normal columns, times n.

    Parameters
    ----------
    r : ndarray of shape (q, q), dtype=float64
        Correlations.
    pairs : ndarray of shape (p, 2), dtype=int64
    """
    i, j = pairs[:, :1], pairs[:, 1:]
    k, m = i.T, j.T
    ij, km, ik, im, jk, jm = r[i, j], r[k, m], r[i, k], r[i, m], r[j, k], r[j, m]
    covariance = ij * km * (ik**2 + im**2 + jk**2 + jm**2) / 2 + ik * jm + im * jk
    covariance -= ij * (ik * im + jk * jm) + km * (ik * jk + im * jm)
    covariance /= (1 - ij**2) * (1 - km**2)
    perfect = np.abs(r[*pairs.T]) > MOST_CORRELATION
    covariance[perfect] = covariance[:, perfect] = 0.0
    np.fill_diagonal(covariance, 1.0)
    return covariance


def _proportions(rows: Rows, levels: list[Any] | None) -> Estimates:
    dtype = _schema(rows.frame)["x0"]
    if levels is not None:
        return _shares(rows, _as_levels(levels, dtype, rows.columns[0]))
    return _shares(rows, pl.Series([True]), short=True) if dtype == pl.Boolean else _shares(rows)


def _as_levels(levels: list[Any], dtype: pl.DataType, name: str) -> pl.Series:
    """Levels in the type of the column."""
    try:
        given = pl.Series(levels)
        series = given.cast(dtype)
        fits = len(levels) > 0 and series.cast(given.dtype).equals(given)
        fits = fits and series.n_unique() == len(levels) and not series.has_nulls()
    except (pl.exceptions.PolarsError, TypeError):
        fits = False
    if not fits:
        raise OptionError(
            f"proportion: level={levels!r}: column {name!r} has type {dtype.base_type()}. Give different values of "
            "that type, of an Enum those that are declared; for missing ones take pl.col(...).is_null()."
        )
    return series


def _shares(rows: Rows, given: pl.Series | None = None, short: bool = False) -> Estimates:
    """Shares of all combinations of levels; ``given`` are those of the only column, the default are all."""
    labels, levels, table, n = _counts(rows, given)
    cells = [
        ", ".join(f"{name}={level}" for name, level in zip(rows.columns, cell, strict=True))
        for cell in itertools.product(*levels)
    ]
    if short:
        cells = list(rows.columns)
    blocks = [
        ([cell + label for cell in cells], *_logits(x.ravel(), of), np.full(len(cells), of >= 2))
        for label, x, of in zip(labels, table, n, strict=True)
    ]
    return _joined(blocks, "logit")


def _counts(rows: Rows, given: pl.Series | None) -> tuple[list[str], list[list[Any]], Floats, Floats]:
    """Labels of groups, levels of each column, rows of each group and combination of levels, rows of each group."""
    xs, keys, schema = rows.xs, rows.keys, _schema(rows.frame)
    for x, name in zip(xs, rows.columns, strict=True):
        if schema[x].is_nested() or schema[x] == pl.Object:
            raise OptionError(f"Column {name!r} has type {schema[x].base_type()}, which has no levels. Unnest it.")
    frame = rows.frame.drop_nulls([*keys, *xs])
    if given is not None:
        # Others are not missing: they count among the rows, as a level null that has no term.
        frame = frame.with_columns(pl.when(pl.col("x0").is_in(given.implode())).then("x0"))
    counts = aggregate(frame, [*keys, *xs], [pl.len()])
    levels = [_levels(counts[x]) if given is None else given.to_list() for x in xs]
    groups = counts.select(keys).unique(maintain_order=True)
    _refuse_many(max(len(groups), 1) * math.prod(map(len, levels)))
    labels = _labels(groups, rows)
    group_at = {group: i for i, group in enumerate(groups.rows() if keys else [()])}
    level_at = [{level: i for i, level in enumerate(of_column)} for of_column in levels]
    table, n = np.zeros((len(labels), *map(len, levels))), np.zeros(len(labels))
    for *row, count in counts.iter_rows():
        group, cell = group_at[tuple(row[: len(keys)])], row[len(keys) :]
        n[group] += count
        if None not in cell:
            table[group, *(at[level] for at, level in zip(level_at, cell, strict=True))] = count
    return labels, levels, table, n


def _levels(column: pl.Series) -> list[Any]:
    """Levels that occur, in order; of an Enum all that are declared."""
    return (column.dtype.categories if isinstance(column.dtype, pl.Enum) else column.unique().sort()).to_list()


def _logits(x: Floats, n: float) -> tuple[Floats, Floats]:
    """Logits of the shares x / n of one multinomial sample, and their covariances by the delta method."""
    half = 0.5 * ((x == 0) | (x == n))
    inside, outside = x + half, n - x + half
    covariance = -n / np.outer(outside, outside)
    covariance[half > 0] = covariance[:, half > 0] = 0.0
    np.fill_diagonal(covariance, 1 / inside + 1 / outside)
    return np.log(inside / outside), covariance


def _quantiles(rows: Rows, wanted: Floats) -> Estimates:
    rows = as_numbers(rows)
    keys = rows.keys
    near = pl.col("x0").round_sig_figs(3).alias("near")
    frame = rows.frame.drop_nulls([*keys, "x0"]).with_columns(near)
    # Not in the order of near: rounding to digits can swap neighbours of 1e24 and other powers of ten.
    runs = aggregate(frame, [*keys, "near"], [N_ROWS, pl.col("x0").min().alias("low")]).sort(*keys, "low")
    if runs.is_empty():
        return _joined([], "identity")
    groups = runs.group_by(keys, maintain_order=True).agg(pl.sum("rows")) if keys else runs.select(pl.sum("rows"))
    _refuse_many(len(groups) * len(wanted))
    levels = [_woodruff(wanted, n) for n in groups["rows"]]
    places = [level * (n - 1) for level, n in zip(levels, groups["rows"], strict=True)]
    values = _values_at(frame, keys, runs, places)
    # Covariances of a Brownian bridge, as correlations.
    low, high = np.minimum.outer(wanted, wanted), np.maximum.outer(wanted, wanted)
    bridge = np.sqrt(low * (1 - high) / (high * (1 - low)))
    blocks = []
    for label, n, level, value in zip(_labels(groups, rows), groups["rows"], levels, values, strict=True):
        with np.errstate(all="ignore"):
            error = (value[2] - value[1]) / (level[2] - level[1]) * np.sqrt(wanted * (1 - wanted) / n)
            covariance = bridge * np.outer(error, error)
        names = [f"{rows.columns[0]} {100 * p:.10g}%{label}" for p in wanted]
        blocks.append((names, value[0], covariance, np.full(len(wanted), n >= 2)))
    return _joined(blocks, "identity")


def _values_at(frame: pl.LazyFrame, keys: list[str], runs: pl.DataFrame, places: list[Floats]) -> list[Floats]:
    """Values at places between 0 and n - 1 of each group in order, interpolated.

    Parameters
    ----------
    frame : polars.LazyFrame
        Keys, x0, and near: x0 to three digits.
    runs : polars.DataFrame
        Rows of each value of near, in the order of the values; only those that hold a place are looked into.
    """
    before = pl.col("rows").cum_sum() - pl.col("rows")
    parts = _split(runs.with_columns(below=before.over(keys or pl.lit(0))), keys)
    needed = pl.concat([part[np.unique(_at(part, place))] for part, place in zip(parts, places, strict=True)])
    frame = frame.join(needed.select(*keys, "near", "below").lazy(), on=[*keys, "near"])
    values = aggregate(frame, [*keys, "near", "below", "x0"], [N_ROWS]).sort(*keys, "x0")
    values = values.with_columns(pl.col("below") + before.over([*keys, "near"]))
    found = []
    for part, place in zip(_split(values, keys), places, strict=True):
        first, second = part["x0"].to_numpy()[_at(part, place)]
        with np.errstate(all="ignore"):
            found.append(first + (second - first) * (place % 1))
    return found


def _woodruff(p: Floats, n: int) -> Floats:
    """Probabilities whose quantiles are wanted, of shape (3, len(p)): p and the ends of its interval."""
    half = ndtri((1 + LEVEL) / 2) * np.sqrt(p * (1 - p) / n)
    return np.array([p, np.maximum(p - half, 0), np.minimum(p + half, 1)])


def _split(frame: pl.DataFrame, keys: list[str]) -> list[pl.DataFrame]:
    return frame.partition_by(keys, maintain_order=True) if keys else [frame]


def _at(part: pl.DataFrame, place: Floats) -> NDArray[np.int64]:
    """Rows of a sorted part that hold the whole places next below and above, of shape (2, ...).

    ``below`` says how many values come before each row.
    """
    whole = np.array([np.floor(place), np.ceil(place)])
    return np.searchsorted(part["below"].to_numpy(), whole, side="right") - 1


def _diagonal(matrices: Floats) -> Floats:
    return np.diagonal(matrices, axis1=1, axis2=2)


def _outer(a: Floats, b: Floats) -> Floats:
    return a[:, :, None] * b[:, None, :]


def _joined(blocks: Iterable[Block], scale: str, df: float | Floats = math.inf) -> Estimates:
    """Independent blocks together, without what cannot be estimated."""
    kept = [
        (list(itertools.compress(names, estimable)), estimate[estimable], covariance[np.ix_(estimable, estimable)])
        for names, estimate, covariance, estimable in blocks
    ]
    terms = tuple(itertools.chain.from_iterable(names for names, _, _ in kept))
    p = len(terms)
    covariance = np.zeros((p, p))
    start = 0
    for names, _, block in kept:
        stop = start + len(names)
        covariance[start:stop, start:stop] = block
        start = stop
    estimate = np.concatenate([np.empty(0), *(estimate for _, estimate, _ in kept)])
    return Estimates(terms, estimate, covariance, df, () if scale == "identity" else (scale,) * p)
