"""Combining rules: one estimate and one honest standard error from the analyses of m synthetic copies.

Terms
-----
q_l, u_l
    Estimate and variance from copy l, computed as if it were real data.
qbar, ubar, b
    Mean of q_l, mean of u_l, variance between the q_l.
t
    Variance of qbar as an estimate of the population value.
n, k, n_s
    Rows of the original, of a copy, and of the original that the models were fitted on.
w
    What the choice of those rows adds to the variance of the models, in units of the variance k ubar of one row.

Rules
-----
raab2016
    Raab, Nowok and Dibben (2016), J. Privacy and Confidentiality 7(3):67. Complete synthesis, also m = 1.
    T_s = ubar (k/n + 1/m) for simple, T_p = ubar (k/n + (1 + k/n)/m) for proper synthesis.
reiter2003
    Reiter (2003), Survey Methodology 29:181. Partial synthesis, and any other with m >= 2.
    T = ubar k/n + b/m with (m - 1) (1 + m ubar k/n / b)^2 degrees of freedom.
subsample
    Complete synthesis by models that saw n_s < n rows, also m = 1; derived here, checked by simulation in the tests.
    T = ubar (k/n + 1/m + k w/m) where each copy had rows of its own, T = ubar (k/n + 1/m + k w) where all share one
    choice; w = 1/n_s - 1/n for rows without replacement, w = 1/n_s for bootstrap samples (proper synthesis).
    T_s and T_p are the cases w = 0 and w = 1/n.

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

RuleName = Literal["raab2016", "reiter2003", "subsample"]
RULES = ("raab2016", "reiter2003", "subsample")
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
    fit_rows : int, optional
        Rows that the models were fitted on, or of each bootstrap sample if proper; None or n and more: all.
    fresh : bool
        Whether each copy had its own choice of these rows. Proper copies always have.
    """

    n: int
    k: int
    m: int
    proper: bool = False
    partial: bool = False
    fit_rows: int | None = None
    fresh: bool = False

    @property
    def n_s(self) -> int:
        """Rows that the models were fitted on, at most n."""
        return self.n if self.fit_rows is None else min(self.fit_rows, self.n)

    @property
    def subsampled(self) -> bool:
        """Whether the models saw part of the rows only."""
        return self.n_s < self.n

    @property
    def shared(self) -> bool:
        """Whether the models of all copies were fitted on the same rows."""
        return not (self.fresh or self.proper)


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
    fit_rows: int | None = None,
    fresh: bool | None = None,
    dfcom: float | None = None,
) -> Pooled:
    """Combine the analyses of synthetic copies.

    Parameters
    ----------
    fits : sequence of length m
        What ``Synthesis.analyse`` returned, or any list of fitted results (with ``params`` and ``cov_params()``, as
        statsmodels has), or of (estimates, covariance) pairs. Estimates may be numbers, arrays or mappings by
        term; a covariance may be a matrix, or variances.
    rule : {"raab2016", "reiter2003", "subsample"}, optional
        The default is the valid rule for how the copies were made: raab2016 for complete synthesis, subsample if its
        models were fitted on part of the rows, reiter2003 when some columns keep original values. For plain lists it
        has to be given.
    n, k : int, optional
        Rows of the original and of a copy. Known for ``analyse``; elsewhere k = n is assumed when both are left out.
    proper : bool, optional
        Whether the copies were made by proper synthesis; known for ``analyse``, else False.
    fit_rows : int, optional
        Rows of the original that the models were fitted on, with n and k; known for ``analyse``, else all.
    fresh : bool, optional
        Whether each copy had its own choice of these rows; known for ``analyse``, else False. Proper copies have.
    dfcom : float, optional
        Complete-data degrees of freedom, a bound for the degrees of freedom of every rule. The default takes the
        residual degrees of freedom of fits that use t quantiles, and infinity for others (synthpop: always infinity).

    Returns
    -------
    Pooled

    Raises
    ------
    PoolError
        No fits, different terms, an invalid rule for how the copies were made, m = 1 with reiter2003, partial
        synthesis by models that share part of the rows, estimates or variances that are not finite.

    Notes
    -----
    Inference is for the population. A copy with more rows buys no precision: the factor k/n takes it back.

    Models fitted on n_s of the n rows are less certain, and the rule subsample adds that: averaged over the copies
    where each had rows of its own, in full where they share them. The variance between copies shows it in the first
    case only, so reiter2003 is refused in the second (coverage with n = k = 1000, n_s = 200, m = 5: .66).

    Examples
    --------
    >>> q, u = [1.02, 0.95, 1.10, 0.98, 1.05], [0.0100, 0.0121, 0.0110, 0.0105, 0.0114]
    >>> pooled = pool(list(zip(q, u)), rule="raab2016")
    >>> pooled.table["t"].round(4).to_list()
    [0.0132]

    The same five analyses of 10,000 rows, by models fitted on all rows, on 2,000 fresh ones for each copy, and on 2,000
    shared ones:

    >>> fits, rows = [(0.5, 0.0004)] * 5, {"n": 10_000, "k": 10_000}
    >>> pool(fits, "raab2016", **rows).table["t"].round(5).item()
    0.00048
    >>> pool(fits, "subsample", **rows, fit_rows=2_000, fresh=True).table["t"].round(5).item()
    0.0008
    >>> pool(fits, "subsample", **rows, fit_rows=2_000).table["t"].round(5).item()
    0.00208
    """
    if hasattr(fits, "params") or not isinstance(fits, Iterable):
        raise PoolError(f"fits is one {type(fits).__name__}: pass a list with one fitted result for each copy.")
    fits = fits if isinstance(fits, Analyses) else list(fits)
    if not fits:
        raise PoolError("There is nothing to pool: pass one fitted result for each copy.")
    design = _design(fits, n, k, proper, fit_rows, fresh)
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
    if name == "reiter2003":
        t = ubar * ratio + b / m
        with np.errstate(divide="ignore", invalid="ignore"):
            df = np.where(b > 0, (m - 1) * (1 + m * ubar * ratio / b) ** 2, np.inf)
    else:
        t = ubar * (ratio + 1 / m + _model_variance(design))
        df = np.full(len(terms), np.inf)
    if dfcom is None:
        # A fit of p coefficients to a share of the k rows would be one to the same share of the n rows.
        p = len(terms)
        dfcom = max((min(fit.df for fit in read) + p) / ratio - p, 1.0)
    if not dfcom > 0:
        raise PoolError(f"dfcom={dfcom}: complete-data degrees of freedom must be positive.")
    df = np.minimum(df, dfcom)
    return Pooled(_table(terms, qbar, ubar, b, t, df), name, reason, m)


def _model_variance(design: Design) -> float:
    """What the choice of rows for the models adds to the variance of qbar, in units of ubar."""
    w = 1 / design.n_s if design.proper else 1 / design.n_s - 1 / design.n
    return design.k * w / (1 if design.shared else design.m)


def _design(
    fits: Sequence[Any], n: int | None, k: int | None, proper: bool | None, fit_rows: int | None, fresh: bool | None
) -> Design:
    if isinstance(fits, Analyses):
        if any(value is not None for value in (n, k, proper, fit_rows, fresh)):
            raise PoolError("n, k, proper, fit_rows and fresh are known from how the copies were made; leave them out.")
        if len(fits) != fits.design.m:
            raise PoolError(f"There are {len(fits)} analyses of {fits.design.m} copies. Pool one for each copy.")
        return fits.design
    if (n is None) != (k is None):
        raise PoolError("Give both n (rows of the original) and k (rows of a copy), or neither when they are equal.")
    for label, value in (("n", n), ("k", k), ("fit_rows", fit_rows)):
        if value is not None:
            check_count(label, value, PoolError)
    if fit_rows is not None and n is None:
        raise PoolError(
            f"fit_rows={fit_rows} is a part of n rows: give n (rows of the original) and k (rows of a copy)."
        )
    if fresh is not None and fit_rows is None:
        raise PoolError(f"fresh={fresh} is about a choice of rows: give fit_rows, the rows the models were fitted on.")
    if proper and fresh is False:
        raise PoolError("proper=True: each copy has its own bootstrap sample. Leave fresh=False out.")
    return Design(n or 1, k or 1, len(fits), bool(proper), fit_rows=fit_rows, fresh=bool(fresh))


def _choose_rule(fits: Sequence[Any], design: Design, rule: str | None) -> tuple[str, str]:
    """The rule and the reason for it; refuses what would be wrong."""
    known = isinstance(fits, Analyses)
    if rule is None and not known:
        raise PoolError(
            "How these copies were made is not known. Pass rule='raab2016' (all columns of the analysis are "
            "synthetic), rule='subsample' (they are, by models fitted on part of the rows) or "
            "rule='reiter2003' (some keep original values), or pool what Synthesis.analyse returns."
        )
    if rule == "subsample" and not known and design.fit_rows is None:
        raise PoolError("rule='subsample' needs n, k and fit_rows, the rows the models were fitted on.")
    valid, why = _valid_rule(design)
    if rule is None:
        rule = valid
    else:
        why = "as asked"
    _refuse_wrong_rule(rule, valid, design)
    if rule != "reiter2003" and design.partial:
        why = "an upper bound: some columns keep original values"
    rows = f", n = {design.n}, k = {design.k}" if known or rule == "subsample" else ""
    return rule, f"{why}; {_formula(rule, design)}, m = {design.m}{rows}"


def _valid_rule(design: Design) -> tuple[str, str]:
    """The rule for how the copies were made, and how that was."""
    if design.partial:
        return "reiter2003", "some columns keep original values"
    kind = f"complete, {'proper' if design.proper else 'simple'} synthesis"
    if not design.subsampled:
        return "raab2016", kind
    choice = "shared by all copies" if design.shared else "fresh for each copy"
    return "subsample", f"{kind} by models fitted on {design.n_s} of {design.n} rows, {choice}"


def _refuse_wrong_rule(rule: str, valid: str, design: Design) -> None:
    if rule not in (*RULES, "rubin1987"):
        raise PoolError(f"rule={rule!r}: allowed are {', '.join(map(repr, RULES))}.")
    if design.partial and design.subsampled and (design.shared or design.m == 1):
        raise PoolError(
            f"Some columns keep original values, and all models were fitted on the same {design.n_s} of {design.n} "
            "rows: no valid rule is known. Fit on all rows, or make several copies, each fitted on fresh rows."
        )
    if rule == "rubin1987":
        raise PoolError(
            "rule='rubin1987' is for missing data: on synthetic copies it is too wide, and too narrow for k > n. "
            f"Use {valid!r}."
        )
    if rule == "raab2016" and design.subsampled:
        raise PoolError(
            f"rule='raab2016' takes the models as fitted on all {design.n} rows; they saw {design.n_s}. Use {valid!r}."
        )
    if rule != "reiter2003" and design.partial and design.m > 1:
        raise PoolError(f"rule={rule!r} needs all columns synthesised; some keep original values. Use 'reiter2003'.")
    if rule == "reiter2003" and design.m < 2:
        raise PoolError(
            "rule='reiter2003' needs the variance between copies: at least 2, better 5. For one copy use "
            + ("rule='raab2016', which is an upper bound here." if design.partial else f"rule={valid!r}.")
        )
    if rule == "reiter2003" and design.subsampled and design.shared:
        raise PoolError(
            "rule='reiter2003' sees the variance of the models in the differences between copies; these share models "
            f"of the same {design.n_s} of {design.n} rows, so it is too narrow. Use 'subsample'; where some columns "
            "keep original values no valid rule is known: fit on all rows, or on fresh rows for each copy."
        )


def _formula(rule: str, design: Design) -> str:
    if rule == "reiter2003":
        return "T = ubar k/n + b/m"
    if rule == "raab2016":
        return "T_p = ubar (k/n + (1 + k/n)/m)" if design.proper else "T_s = ubar (k/n + 1/m)"
    w = "1/n_s" if design.proper else "1/n_s - 1/n"
    return f"T = ubar (k/n + 1/m + {'k w' if design.shared else 'k w/m'}), w = {w}, n_s = {design.n_s}"


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
