"""Combining rules: one estimate and one honest standard error from the analyses of m synthetic copies.

Terms
-----
q_l, u_l
    Estimate and variance from copy l, computed as if it were real data.
qbar, ubar, b
    Mean of q_l, mean of u_l, variance between the q_l.
t
    Variance of qbar as an estimate of the population value.

Rules
-----
raab2016
    Raab, Nowok and Dibben (2016), J. Privacy and Confidentiality 7(3):67. Complete synthesis, also m = 1.
    T_s = ubar (k/n + 1/m) for simple, T_p = ubar (k/n + (1 + k/n)/m) for proper synthesis.
reiter2003
    Reiter (2003), Survey Methodology 29:181. Partial synthesis, and any other with m >= 2.
    T = ubar k/n + b/m with (m - 1) (1 + m ubar k/n / b)^2 degrees of freedom.

Rubin's (1987) rule for missing data is wrong for synthetic copies and is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from fastsynth.errors import PoolError, check_count

RuleName = Literal["raab2016", "reiter2003"]
RULES = ("raab2016", "reiter2003")
Floats = NDArray[np.float64]
# Level of all intervals.
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Design:
    """How the copies were made.

    Attributes
    ----------
    n : int
        Rows of the original.
    k : int
        Rows of each copy.
    m : int
        Copies.
    proper : bool
        Whether each copy was drawn from a fit to its own bootstrap sample.
    partial : bool
        Whether some columns keep original values.
    """

    n: int
    k: int
    m: int
    proper: bool = False
    partial: bool = False
    fit_rows: int | None = None
    fresh: bool = False


class Analyses(list[Any]):
    """Results of one analysis on each copy, with how the copies were made."""

    def __init__(self, fits: Iterable[Any], design: Design) -> None:
        super().__init__(fits)
        self.design = design


@dataclass(frozen=True, slots=True, eq=False)
class Estimates:
    """Estimates of one fit.

    Attributes
    ----------
    terms : tuple of str, length p
    estimate : ndarray of shape (p,), dtype=float64
    covariance : ndarray of shape (p, p), dtype=float64
    df : float
        Residual degrees of freedom, inf where the fit uses normal quantiles.
    """

    terms: tuple[str, ...]
    estimate: Floats
    covariance: Floats
    df: float


@dataclass(frozen=True, slots=True, eq=False)
class Pooled:
    """Pooled estimates.

    Attributes
    ----------
    table : polars.DataFrame
        One row a term: term, estimate, std_error, statistic, df, p_value, conf_low, conf_high, ubar, b, t.
        Limits are 95 %; b is null for m = 1.
    rule : str
    reason : str
        Why this rule.
    m : int
    """

    table: pl.DataFrame
    rule: str
    reason: str
    m: int

    def compare(self, original: Any) -> pl.DataFrame:
        """Put the pooled estimates beside a fit to the original data, where one may see both.

        Parameters
        ----------
        original : fitted result, or (estimates, covariance)
            As for ``pool``, with the same terms.

        Returns
        -------
        polars.DataFrame
            term, original, synthetic, std_difference (difference in standard errors of the original), and overlap
            (Karr et al. 2006: mean share that the intervals have in common of either; negative when they are apart).

        Raises
        ------
        PoolError
            Other terms than the pooled ones.

        References
        ----------
        Karr, Kohnen, Oganian, Reiter and Sanil (2006), The American Statistician 60:224.

        Examples
        --------
        >>> pooled = pool([(0.62, 0.141**2 / 2)], rule="raab2016")
        >>> pooled.compare((0.5, 0.01))["overlap"].round(3).to_list()
        [0.768]
        """
        fit = read_fit(original)
        if fit.terms != tuple(self.table["term"]):
            raise PoolError(
                f"The original has terms {list(fit.terms)}, the pooled table {self.table['term'].to_list()}."
            )
        se = np.sqrt(np.diag(fit.covariance))
        quantile = _t_quantile(np.full(len(se), fit.df))
        low, high = fit.estimate - quantile * se, fit.estimate + quantile * se
        table = self.table
        return pl.DataFrame(
            {
                "term": table["term"],
                "original": fit.estimate,
                "synthetic": table["estimate"],
                "std_difference": (table["estimate"].to_numpy() - fit.estimate) / se,
                "overlap": interval_overlap(low, high, table["conf_low"].to_numpy(), table["conf_high"].to_numpy()),
            }
        )

    def __str__(self) -> str:
        shown = self.table.select(
            "term", "estimate", "std_error", "statistic", "df", "p_value", "conf_low", "conf_high"
        )
        return f"{format_table(shown)}\nRule: {self.rule} ({self.reason})"

    __repr__ = __str__


def pool(
    fits: Sequence[Any],
    rule: RuleName | None = None,
    *,
    n: int | None = None,
    k: int | None = None,
    proper: bool | None = None,
    dfcom: float | None = None,
) -> Pooled:
    """Combine the analyses of synthetic copies.

    Parameters
    ----------
    fits : sequence of length m
        What ``Synthesis.analyse`` returned, or any list of fitted results (with ``params`` and ``cov_params()``, as
        statsmodels has), or of (estimates, covariance) pairs. Estimates may be numbers, arrays or mappings by
        term; a covariance may be a matrix, or variances.
    rule : {"raab2016", "reiter2003"}, optional
        The default is the valid rule for how the copies were made: raab2016 for complete synthesis, reiter2003 when
        some columns keep original values. For plain lists it has to be given.
    n, k : int, optional
        Rows of the original and of a copy. Known for ``analyse``; elsewhere k = n is assumed when both are left out.
    proper : bool, optional
        Whether the copies were made by proper synthesis; known for ``analyse``, else False.
    dfcom : float, optional
        Complete-data degrees of freedom, a bound for the degrees of freedom of every rule. The default takes the
        residual degrees of freedom of fits that use t quantiles, and infinity for others (synthpop: always infinity).

    Returns
    -------
    Pooled

    Raises
    ------
    PoolError
        No fits, different terms, an invalid rule for how the copies were made, m = 1 with reiter2003, estimates or
        variances that are not finite.

    Notes
    -----
    Inference is for the population. A copy with more rows buys no precision: the factor k/n takes it back.

    Examples
    --------
    >>> q, u = [1.02, 0.95, 1.10, 0.98, 1.05], [0.0100, 0.0121, 0.0110, 0.0105, 0.0114]
    >>> pooled = pool(list(zip(q, u)), rule="raab2016")
    >>> pooled.table["t"].round(4).to_list()
    [0.0132]
    """
    if hasattr(fits, "params") or not isinstance(fits, Iterable):
        raise PoolError(f"fits is one {type(fits).__name__}: pass a list with one fitted result for each copy.")
    fits = fits if isinstance(fits, Analyses) else list(fits)
    if not fits:
        raise PoolError("There is nothing to pool: pass one fitted result for each copy.")
    design = _design(fits, n, k, proper)
    name, reason = _choose_rule(fits, design, rule)
    read = [read_fit(fit) for fit in fits]
    terms = read[0].terms
    for i, fit in enumerate(read):
        if fit.terms != terms:
            raise PoolError(
                f"Fit {i + 1} has terms {list(fit.terms)}, fit 1 has {list(terms)}. A coefficient "
                "that is absent from a copy "
                "(an empty level) has to be absent from all: merge the level or leave the term out."
            )
    q = np.array([fit.estimate for fit in read])
    u = np.array([np.diag(fit.covariance) for fit in read])
    m = len(read)
    ratio = design.k / design.n
    qbar, ubar = q.mean(0), u.mean(0)
    b = q.var(0, ddof=1) if m > 1 else np.full(len(terms), np.nan)
    if name == "raab2016":
        t = ubar * (ratio + (1 + ratio if design.proper else 1) / m)
        df = np.full(len(terms), np.inf)
    else:
        t = ubar * ratio + b / m
        with np.errstate(divide="ignore", invalid="ignore"):
            df = np.where(b > 0, (m - 1) * (1 + m * ubar * ratio / b) ** 2, np.inf)
    if dfcom is None:
        # A fit of p coefficients to a share of the k rows would be one to the same share of the n rows.
        p = len(terms)
        dfcom = max((min(fit.df for fit in read) + p) / ratio - p, 1.0)
    if not dfcom > 0:
        raise PoolError(f"dfcom={dfcom}: complete-data degrees of freedom must be positive.")
    df = np.minimum(df, dfcom)
    return Pooled(_table(terms, qbar, ubar, b, t, df), name, reason, m)


def _design(fits: Sequence[Any], n: int | None, k: int | None, proper: bool | None) -> Design:
    if isinstance(fits, Analyses):
        if n is not None or k is not None or proper is not None:
            raise PoolError("n, k and proper are known from how the copies were made; leave them out.")
        if len(fits) != fits.design.m:
            raise PoolError(f"There are {len(fits)} analyses of {fits.design.m} copies. Pool one for each copy.")
        return fits.design
    if (n is None) != (k is None):
        raise PoolError("Give both n (rows of the original) and k (rows of a copy), or neither when they are equal.")
    for label, value in (("n", n), ("k", k)):
        if value is not None:
            check_count(label, value, PoolError)
    return Design(n or 1, k or 1, len(fits), bool(proper))


def _choose_rule(fits: Sequence[Any], design: Design, rule: str | None) -> tuple[str, str]:
    """The rule and the reason for it; refuses what would be wrong."""
    known = isinstance(fits, Analyses)
    if rule is None:
        if not known:
            raise PoolError(
                "How these copies were made is not known. Pass rule='raab2016' (all columns of the "
                "analysis are synthetic) or "
                "rule='reiter2003' (some keep original values), or pool what Synthesis.analyse returns."
            )
        rule = "reiter2003" if design.partial else "raab2016"
        chosen = "some columns keep original values" if design.partial else _kind(design)
    else:
        chosen = "as asked"
    if rule == "rubin1987":
        raise PoolError(
            "rule='rubin1987' is for missing data: on synthetic copies it is too wide, and too narrow for k > n. "
            f"Use {'reiter2003' if design.partial else 'raab2016'!r}."
        )
    if rule not in RULES:
        raise PoolError(f"rule={rule!r}: allowed are {', '.join(map(repr, RULES))}.")
    if rule == "raab2016" and design.partial and design.m > 1:
        raise PoolError("rule='raab2016' needs all columns synthesised; some keep original values. Use 'reiter2003'.")
    if rule == "reiter2003" and design.m < 2:
        raise PoolError(
            "rule='reiter2003' needs the variance between copies: at least 2, better 5. For one copy "
            "use rule='raab2016'"
            + (", which is an upper bound where columns keep original values." if design.partial else ".")
        )
    if rule == "raab2016":
        formula = "T_p = ubar (k/n + (1 + k/n)/m)" if design.proper else "T_s = ubar (k/n + 1/m)"
        if design.partial:
            chosen = "an upper bound: some columns keep original values"
    else:
        formula = "T = ubar k/n + b/m"
    return rule, f"{chosen}; {formula}, m = {design.m}" + (f", n = {design.n}, k = {design.k}" if known else "")


def _kind(design: Design) -> str:
    return f"complete, {'proper' if design.proper else 'simple'} synthesis"


def read_fit(fit: Any) -> Estimates:
    """Read estimates from a fitted result or an (estimates, covariance) pair."""
    if hasattr(fit, "params") and hasattr(fit, "cov_params"):
        terms, estimate = _named(fit.params)
        covariance = np.asarray(fit.cov_params(), np.float64)
        df = float(getattr(fit, "df_resid", math.inf)) if getattr(fit, "use_t", False) else math.inf
    elif isinstance(fit, tuple | list) and len(fit) == 2:
        terms, estimate = _named(fit[0])
        covariance, df = _covariance(fit[1], terms), math.inf
    else:
        raise PoolError(
            f"Cannot read estimates from a {type(fit).__name__}. Pass a fitted result with params and "
            "cov_params(), or a pair "
            "(estimates, covariance)."
        )
    p = len(estimate)
    if covariance.ndim < 2 and covariance.size == p:
        covariance = np.diag(np.atleast_1d(covariance))
    if covariance.shape != (p, p):
        raise PoolError(f"There are {p} estimates but a covariance of shape {covariance.shape}; it must be ({p}, {p}).")
    if not (np.isfinite(estimate).all() and np.isfinite(covariance).all()):
        bad = [t for t, e, v in zip(terms, estimate, np.diag(covariance), strict=True) if not math.isfinite(e + v)]
        raise PoolError(
            f"Estimates or variances of {', '.join(bad) or 'some terms'} are not finite. Was the model identified?"
        )
    if (np.diag(covariance) < 0).any():
        raise PoolError(
            "A variance is negative. Pass variances or a covariance matrix, not standard errors of another kind."
        )
    return Estimates(terms, estimate, covariance, df)


def _covariance(values: Any, terms: tuple[str, ...]) -> Floats:
    """A covariance matrix or variances, brought into the order of the terms where they are labelled."""
    labels = list(values) if isinstance(values, Mapping) else getattr(values, "index", None)
    if labels is None or callable(labels):
        return np.asarray(values, np.float64)
    labels = [str(label) for label in labels]
    if sorted(labels) != sorted(terms):
        raise PoolError(f"Estimates are of {list(terms)}, variances of {labels}.")
    order = [labels.index(term) for term in terms]
    array = np.asarray(list(values.values()) if isinstance(values, Mapping) else values, np.float64)
    return array[order] if array.ndim == 1 else array[np.ix_(order, order)]


def _named(values: Any) -> tuple[tuple[str, ...], Floats]:
    """Terms and numbers of a mapping, a pandas Series, an array or a number."""
    if isinstance(values, Mapping):
        return tuple(map(str, values)), np.array(list(values.values()), np.float64)
    try:
        array = np.atleast_1d(np.asarray(values, np.float64))
    except (TypeError, ValueError):
        raise PoolError(f"Estimates are a {type(values).__name__}; numbers are needed.") from None
    if array.ndim != 1:
        raise PoolError(f"Estimates have shape {array.shape}; a vector or a number is needed.")
    index = getattr(values, "index", None)
    labels = range(1, len(array) + 1) if index is None or callable(index) else index
    return tuple(str(label) for label in labels), array


def _table(terms: tuple[str, ...], qbar: Floats, ubar: Floats, b: Floats, t: Floats, df: Floats) -> pl.DataFrame:
    se = np.sqrt(t)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = qbar / se
    half = _t_quantile(df) * se
    return pl.DataFrame(
        {
            "term": terms,
            "estimate": qbar,
            "std_error": se,
            "statistic": statistic,
            "df": df,
            "p_value": 2 * stdtr(df, -np.abs(statistic)),
            "conf_low": qbar - half,
            "conf_high": qbar + half,
            "ubar": ubar,
            "b": b,
            "t": t,
        }
    ).with_columns(pl.col("b").fill_nan(None))


def _t_quantile(df: Floats) -> Floats:
    return np.asarray(stdtrit(df, (1 + LEVEL) / 2))


def interval_overlap(low_o: Floats, high_o: Floats, low_s: Floats, high_s: Floats) -> Floats:
    """Mean share that two intervals have in common (Karr et al. 2006); negative when they are apart."""
    shared = np.minimum(high_o, high_s) - np.maximum(low_o, low_s)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (shared / (high_o - low_o) + shared / (high_s - low_s)) / 2


def format_table(table: pl.DataFrame) -> str:
    """A plain text table: text to the left, numbers to the right with three decimals, small ones as powers of ten."""
    cells = [[_cell(value) for value in table[name]] for name in table.columns]
    widths = [max(map(len, [name, *column])) for name, column in zip(table.columns, cells, strict=True)]
    right = [dtype.is_numeric() for dtype in table.dtypes]
    lines = [table.columns, *zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)).rstrip()
        for line in lines
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.2e}"
