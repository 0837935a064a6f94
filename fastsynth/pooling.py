"""``pool``: one estimate and one honest standard error from the analyses of m synthetic copies."""

from __future__ import annotations

import html
import math
import os
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.special import chdtr, chdtrc, stdtr, stdtrit

from fastsynth.errors import PoolError, PoolWarning, check_count
from fastsynth.estimates import LEVEL, SCALES, Estimates, Floats, is_singular, read_fit
from fastsynth.rules import (
    Design,
    Moments,
    RuleName,
    Target,
    Wald,
    choose_rule,
    lack_of_fit,
    moments,
    population_share,
    singular,
    variances,
    wald,
)

INTERCEPTS = ("const", "intercept", "(intercept)")
# Degrees of freedom of a smaller share of the rows are not counted in rows.
FEW_DF = 0.02
# v from which a pooled table says that its intervals are short.
V_NOTED = 0.15
# Copies that behave as declared are doubted in this share of analyses.
DOUBT = 1e-6
PRIVATE = (
    "the copies are differentially private: the noise of their models is shared by all of them and counted by no rule, "
    "so intervals are too short, and associations may be too weak (docs/private.md)."
)
# Scales on which 0 is no hypothesis of interest.
UNTESTED = ("logit", "log", "r_squared")
SHOWN = ("term", "estimate", "std_error", "statistic", "df", "p_value", "conf_low", "conf_high")


class Analyses(list[Any]):
    """Results of one analysis on each copy, with how the copies were made."""

    def __init__(self, fits: Iterable[Any], design: Design) -> None:
        super().__init__(fits)
        self.design = design

    def __getitem__(self, i: Any) -> Any:
        """One result, or for a slice the analyses of some of the copies."""
        some = super().__getitem__(i)
        if not isinstance(i, slice) or self.design.imputed:
            return some
        return Analyses(some, replace(self.design, m=len(some)))


@dataclass(frozen=True, slots=True, eq=False)
class Pooled:
    """Pooled estimates. Prints as mice's ``summary(pool(...), conf.int = TRUE)``, and as a table in notebooks.

    Attributes
    ----------
    table : polars.DataFrame
        One row a term: term, estimate, std_error, statistic, df, p_value, conf_low, conf_high, ubar, b, t, m.
        Limits are 95 %; b is null for m = 1; m counts the copies (or imputed tables) with the term. For terms with a
        scale of their own (correlations, shares, ...) estimate and limits are transformed back, std_error is by the
        delta method, and ubar, b, t are on the scale; statistic and p_value test 0 (null where that is
        no hypothesis: "logit", "log", "r_squared").
    rule : str
    reason : str
        Why this rule.
    m : int
    target : str
        "population" or "sample".
    notes : tuple of str
        What was warned of.
    """

    table: pl.DataFrame
    rule: str
    reason: str
    m: int
    target: str
    notes: tuple[str, ...]
    _design: Design
    _moments: Moments
    _share: float
    _dfcom: float
    _scale: tuple[str, ...]
    _one: Floats  # covariance of one copy: that of several may hide that coefficients add up to a constant in each

    def test(self, terms: str | Sequence[str] | None = None, null: Any = None) -> Wald:
        """Test several coefficients together.

        Parameters
        ----------
        terms : str or list of str, optional
            Names of coefficients; a single text may also be the name of a factor or column, and stands for all its
            coefficients then (not those of its interactions). The default is all but the intercept.
        null : float, list of float, or dict by term
            Values under the hypothesis, on the scale of the terms. The default is 0; shares and spread have none.

        Returns
        -------
        Wald
            statistic (F), df1, df2, p_value, terms.

        Raises
        ------
        PoolError
            Unknown terms, coefficients that some copies lack, a singular covariance matrix, too few copies.

        Notes
        -----
        The test of the rule that pooled (module ``fastsynth.rules``). Cost p^3.

        Examples
        --------
        >>> fits = [({"a": 1.0 + i / 10, "b": 0.1 - i / 8}, [0.04, 0.09]) for i in range(5)]
        >>> print(pool(fits, rule="raab2016").test(["a", "b"]))
        F(2, inf) = 15.104, p = 2.76e-07: a, b
        """
        names = self.table["term"].to_list()
        chosen = _find_terms(names, terms)
        places = [names.index(name) for name in chosen]
        if null is None and any(self._scale[place] in UNTESTED for place in places):
            raise PoolError(
                "Say with null which values are tested, on the scale of the terms: logit(.5) = 0 for shares."
            )
        null = 0.0 if null is None else null
        unknown = [term for term in null if term not in names] if isinstance(null, Mapping) else []
        if unknown:
            raise PoolError(f"null: no term {', '.join(map(repr, unknown))}; there are {names}.")
        part = _part(self._moments, places)
        lacking = [name for name, m in zip(chosen, part.m, strict=True) if m != self._moments.m.max()]
        if lacking:
            raise PoolError(
                f"Some copies lack {', '.join(map(repr, lacking))}: only single coefficients can be tested."
            )
        if is_singular(self._one[np.ix_(places, places)]):
            raise singular()
        found = wald(self.rule, self._design, self._share, part, _null_values(null, chosen), self._dfcom)
        return replace(found, terms=tuple(chosen))

    def compare(self, other: Any) -> Any:
        """Compare with a nested model, or with a fit to the original data where one may see them.

        Parameters
        ----------
        other : Pooled, or what ``pool`` can read of one fit
            A Pooled of the same copies whose terms are some of these, or the other way round: the coefficients that
            it leaves out are tested together. A fit of the original: with the same terms.

        Returns
        -------
        Wald or Comparison

        Raises
        ------
        PoolError
            Models that are not nested, or terms other than the pooled ones.

        Examples
        --------
        >>> pooled = pool([(0.62, 0.141**2 / 2)], rule="raab2016")
        >>> pooled.compare((0.5, 0.01)).table["overlap"].round(3).to_list()
        [0.768]
        """
        if not isinstance(other, Pooled):
            return _compare(self, read_fit(other))
        larger, smaller = (self, other) if self.table.height >= other.table.height else (other, self)
        names, fewer = larger.table["term"].to_list(), smaller.table["term"].to_list()
        extra = [name for name in names if name not in fewer]
        if larger._design != smaller._design or larger.rule != smaller.rule:
            raise PoolError("The models were not fitted to the same copies, or not pooled by the same rule.")
        if not extra or len(extra) + len(fewer) != len(names):
            raise PoolError(
                "The models are not nested: the terms of one, with the same copies, must be some of the other's."
            )
        return larger.test(extra)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the whole table."""
        self.table.write_csv(Path(path))

    def to_html(self) -> str:
        """Give the shown columns as an HTML table."""
        head, *rows = [[html.escape(cell) for cell in row] for row in _cells(self._shown())]
        lines = ["<table>", "<thead><tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr></thead>", "<tbody>"]
        lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
        return "\n".join([*lines, "</tbody>", "</table>", f"<p>{html.escape(self._footer())}</p>"])

    def to_latex(self) -> str:
        """Give the shown columns as a LaTeX tabular, with the rules of package booktabs."""
        head, *rows = [[_latex(cell) for cell in row] for row in _cells(self._shown())]
        lines = [rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\toprule", " & ".join(head) + r" \\", r"\midrule"]
        lines += [" & ".join(row) + r" \\" for row in rows]
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])

    def _shown(self) -> pl.DataFrame:
        same = self.table["m"].n_unique() == 1
        return self.table.select(*SHOWN, *(() if same else ("m",)))

    def _footer(self) -> str:
        notes = [*self.notes, *self._v_note()]
        return "\n".join([f"Rule: {self.rule} ({self.reason})", *(f"Note: {note}" for note in notes)])

    def _v_note(self) -> list[str]:
        """What noise and misfit of the models do to these intervals, where it does something."""
        v, covered = self._design.v, self._design.true_coverage()
        if v is None or covered is None or v < V_NOTED:
            return []
        if self.target != "population" or self.rule not in ("raab2016", "subsample"):
            return []
        return [
            f"slopes between numeric columns of the copies vary by v = {v:.2f} of their variance beyond what the rule "
            f"counts, noise or misfit of the models; such intervals of 95 % cover about {100 * covered:.0f} %."
        ]

    def _repr_html_(self) -> str:
        return self.to_html()

    def __str__(self) -> str:
        return f"{format_table(self._shown())}\n{self._footer()}"

    __repr__ = __str__


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Pooled estimates beside those of the original.

    Attributes
    ----------
    table : polars.DataFrame
        term, original, synthetic, std_difference (in standard errors of the original), overlap (Karr et al. 2006: mean
        share that the 95 % intervals have in common of either; negative when they are apart), and the limits
        original_low, original_high, synthetic_low, synthetic_high.
    lack_of_fit : Wald or None
        Whether all differences together are more than synthesis explains: F near 1 if not. None where nothing is known:
        copies of imputed tables, partial synthesis with fewer copies than coefficients, a singular covariance matrix.
    expected : float or None
        Mean absolute std_difference of copies from a correct model; None where it is not known.

    References
    ----------
    Karr, Kohnen, Oganian, Reiter and Sanil (2006), The American Statistician 60:224.
    Raab, Nowok and Dibben (2021), Assessing, visualizing and improving the utility of synthetic data.
    """

    table: pl.DataFrame
    lack_of_fit: Wald | None
    expected: float | None

    def __str__(self) -> str:
        table = self.table.select("term", "original", "synthetic", "std_difference", "overlap")
        overlap = self.table["overlap"].to_numpy().mean()
        size = np.abs(self.table["std_difference"].to_numpy()).mean()
        reference = "" if self.expected is None else f" (of a correct model: {self.expected:.3f})"
        lines = [
            format_table(table),
            f"Mean overlap {overlap:.3f}, mean absolute std_difference {size:.3f}{reference}",
        ]
        if self.lack_of_fit is not None:
            fit = self.lack_of_fit
            lines.append(f"Lack of fit: F({fit.df1:g}, {fit.df2:g}) = {fit.statistic:.3f}, p = {fit.p_value:.3g}")
        return "\n".join(lines)

    __repr__ = __str__


def pool(
    fits: Sequence[Any],
    rule: RuleName | None = None,
    *,
    target: Target = "population",
    n: int | None = None,
    k: int | None = None,
    proper: bool | None = None,
    partial: bool | None = None,
    fit_rows: int | None = None,
    fresh: bool | None = None,
    imputed: bool | None = None,
    syntheses: int | None = None,
    sampled: float = 0.0,
    dfcom: float | None = None,
) -> Pooled:
    """Combine the analyses of synthetic copies.

    Parameters
    ----------
    fits : sequence of length m
        What ``Synthesis.analyse`` returned, or any list of fitted results (statsmodels, linearmodels, pyfixest,
        lifelines, or anything with ``params`` and ``cov_params()``), or of (estimates, covariance) pairs. Estimates may
        be numbers, arrays or mappings by term; a covariance may be a matrix, or variances.
    rule : str, optional
        One of ``fastsynth.rules``: "raab2016", "subsample", "reiter2003", "raghunathan2003", "rubin1987", "reiter2004",
        "onestep". The default is the valid rule for how the copies were made. For plain lists it has to be given.
    target : {"population", "sample"}, default "population"
        What the intervals are for: the population the original was drawn from, or what the original itself would give
        (also where it is the whole population; Vink and van Buuren 2014).
    n, k : int, optional
        Rows of the original and of a copy. Known for ``analyse``; elsewhere k = n is assumed when both are left out.
    proper : bool, optional
        Whether the copies were made by proper synthesis; known for ``analyse``, else False.
    partial : bool, optional
        Whether some columns of the analysis keep original values; known for ``analyse``, else False.
    fit_rows : int, optional
        Rows of the original that the models were fitted on, with n and k; known for ``analyse``, else all.
    fresh : bool, optional
        Whether each copy had its own choice of these rows; known for ``analyse``, else False. Proper copies have.
    imputed : bool, optional
        Whether missing values were filled in (anew for each imputed table) before the synthesis; else False.
    syntheses : int, optional
        With ``imputed``, copies of each imputed table, standing side by side in ``fits``; 1 by default, 0 for imputed
        tables that were not synthesised.
    sampled : float, default 0
        Share of a finite population that the original is, for inference about that population.
    dfcom : float, optional
        Complete-data degrees of freedom, a bound for the degrees of freedom of every rule. The default takes the
        residual degrees of freedom of fits that use t quantiles, and infinity for others (synthpop: always infinity).

    Returns
    -------
    Pooled

    Raises
    ------
    PoolError
        No fits, an invalid rule for how the copies were made (the valid one is named), too few copies for the rule,
        estimates or variances that are not finite in any copy, negative variances, other scales.

    Warns
    -----
    PoolWarning
        Coefficients that some copies lack or that are not finite there (they are pooled over the others). Variances
        between copies that copies made as declared do not have: something is not synthetic, or more than synthesis
        differs.

    Notes
    -----
    A copy with more rows buys no precision: the factor k/n takes it back.

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

    >>> fits, rows = [(0.5 + i / 50, 0.0004) for i in range(5)], {"n": 10_000, "k": 10_000}
    >>> pool(fits, "raab2016", **rows).table["t"].round(5).item()
    0.00048
    >>> pool(fits, "subsample", **rows, fit_rows=2_000, fresh=True).table["t"].round(5).item()
    0.0008
    >>> pool(fits, "subsample", **rows, fit_rows=2_000).table["t"].round(5).item()
    0.00208

    What the original would give, instead of the population:

    >>> pool(fits, "raab2016", target="sample").table["t"].round(5).item()
    8e-05
    """
    if hasattr(fits, "params") or not isinstance(fits, Iterable):
        raise PoolError(f"fits is one {type(fits).__name__}: pass a list with one fitted result for each copy.")
    fits = fits if isinstance(fits, Analyses) else list(fits)
    if not fits:
        raise PoolError("There is nothing to pool: pass one fitted result for each copy.")
    given = {
        "n": n,
        "k": k,
        "proper": proper,
        "partial": partial,
        "fit_rows": fit_rows,
        "fresh": fresh,
        "imputed": imputed,
        "syntheses": syntheses,
    }
    design = _design(fits, given)
    name, reason = choose_rule(isinstance(fits, Analyses), design, rule, target)
    if sampled and target == "sample":
        raise PoolError("target='sample' leaves sampling out: give either that or sampled.")
    if sampled and name == "raghunathan2003":
        raise PoolError("rule='raghunathan2003' has no version for a finite population. Use 'raab2016'.")
    if not 0 <= sampled < 1:
        raise PoolError(f"sampled={sampled}: the share of the population that was sampled is at least 0 and below 1.")
    read = [read_fit(fit) for fit in fits]
    terms, scale = _terms(read)
    q, u = _stack(read, terms)
    fitted = not any(isinstance(fit, Estimates) for fit in fits)
    notes = _check_present(q, terms, design, fitted)
    of = moments(q, u, design)
    _check_copies(name, of, terms)
    share = population_share(design, target, sampled)
    if dfcom is not None and not dfcom > 0:
        raise PoolError(f"dfcom={dfcom}: complete-data degrees of freedom must be positive.")
    complete = _complete_df(read, terms, design) if dfcom is None else np.full(len(terms), float(dfcom))
    dfcom = float(complete.min())
    t, df = variances(name, design, share, of, complete)
    if name in ("raab2016", "subsample") and not design.partial:
        notes += _doubts(terms, of, design)
    if design.private:
        notes += [PRIVATE]
    for note in notes:
        warnings.warn(note, PoolWarning, stacklevel=2)
    table = _table(terms, scale, of, t, df)
    return Pooled(table, name, reason, len(read), target, tuple(notes), design, of, share, dfcom, scale, u[0])


def _design(fits: Sequence[Any], given: dict[str, Any]) -> Design:
    """How the copies were made: known, or as it is said."""
    if isinstance(fits, Analyses):
        said = [name for name, value in given.items() if value is not None]
        if said:
            raise PoolError(f"{', '.join(said)}: known from how the copies were made; leave them out.")
        if len(fits) != fits.design.m:
            raise PoolError(f"There are {len(fits)} analyses of {fits.design.m} copies. Pool one for each copy.")
        return fits.design
    n, k, fit_rows, fresh, syntheses = (given[name] for name in ("n", "k", "fit_rows", "fresh", "syntheses"))
    if (n is None) != (k is None):
        raise PoolError("Give both n (rows of the original) and k (rows of a copy), or neither when they are equal.")
    for label, value in (("n", n), ("k", k), ("fit_rows", fit_rows), ("syntheses", syntheses or None)):
        if value is not None:
            check_count(label, value, PoolError)
    if fit_rows is not None and n is None:
        raise PoolError(
            f"fit_rows={fit_rows} is a part of n rows: give n (rows of the original) and k (rows of a copy)."
        )
    if fit_rows is not None and n is not None and fit_rows > n:
        raise PoolError(f"fit_rows={fit_rows} is more than n={n} rows of the original. Were they exchanged?")
    if fresh is not None and fit_rows is None:
        raise PoolError(f"fresh={fresh} is about a choice of rows: give fit_rows, the rows the models were fitted on.")
    if given["proper"] and fresh is False:
        raise PoolError("proper=True: each copy has its own bootstrap sample. Leave fresh=False out.")
    if syntheses is not None and not given["imputed"]:
        raise PoolError(f"syntheses={syntheses} counts the copies of each imputed table: pass imputed=True as well.")
    return Design(
        n or 1,
        k or 1,
        len(fits),
        bool(given["proper"]),
        bool(given["partial"]),
        fit_rows,
        bool(fresh),
        bool(given["imputed"]),
        1 if syntheses is None else syntheses,
    )


def _terms(read: list[Estimates]) -> tuple[list[str], tuple[str, ...]]:
    """Terms of all fits in the order of their first appearance, and their scales."""
    scales: dict[str, str] = {}
    for i, fit in enumerate(read):
        if len(set(fit.terms)) != len(fit.terms):
            raise PoolError(f"Fit {i + 1} has terms of the same name. Name them differently.")
        for j, term in enumerate(fit.terms):
            if scales.setdefault(term, fit.scale_of(j)) != fit.scale_of(j):
                raise PoolError(
                    f"Term {term!r} is on scale {fit.scale_of(j)!r} in fit {i + 1}, {scales[term]!r} before."
                )
    return list(scales), tuple(scales.values())


def _stack(read: list[Estimates], terms: list[str]) -> tuple[Floats, Floats]:
    """Estimates (m, p) and covariances (m, p, p); nan where a fit lacks a term or it is not finite."""
    m, p = len(read), len(terms)
    q, u = np.full((m, p), np.nan), np.full((m, p, p), np.nan)
    place = {term: j for j, term in enumerate(terms)}
    for i, fit in enumerate(read):
        at = np.array([place[term] for term in fit.terms])
        good = np.isfinite(fit.estimate) & np.isfinite(np.diag(fit.covariance))
        q[i, at[good]] = fit.estimate[good]
        u[i][np.ix_(at[good], at[good])] = fit.covariance[np.ix_(good, good)]
    return q, u


def _check_present(q: Floats, terms: list[str], design: Design, fitted: bool) -> list[str]:
    """Notes on terms that some copies lack; refuses those that none has, or that nested copies lack."""
    present = np.isfinite(q).sum(0)
    none = [term for term, m in zip(terms, present, strict=True) if m == 0]
    if none:
        raise PoolError(f"Estimates or variances of {', '.join(none)} are not finite. Was the model identified?")
    some = [f"{term!r} ({len(q) - m} of {len(q)})" for term, m in zip(terms, present, strict=True) if m < len(q)]
    sizes = np.isfinite(q).sum(1)
    factors = {re.split(r"[\[.=]", term)[0] for term, m in zip(terms, present, strict=True) if m < len(q)}
    if fitted and len(factors) == 1 and len(some) > 1 and (sizes == sizes[0]).all():
        raise PoolError(
            f"Every copy has {sizes[0]} terms, but not the same: {', '.join(some)} lack some. Is the reference level "
            "that of the rows' order? Give the categories one order, the same in all copies: cast to an Enum, or to "
            "pandas' Categorical with sorted categories."
        )
    if some and design.imputed and design.syntheses > 1:
        raise PoolError(
            f"Some copies lack {', '.join(some)}, which the rule for nested copies cannot do without: merge the level, "
            "or leave the term out."
        )
    return [f"Some copies lack {', '.join(some)}; pooled over the copies that have them."] if some else []


def _check_copies(rule: str, of: Moments, terms: list[str]) -> None:
    if rule in ("raab2016", "subsample"):
        return
    once = [term for term, m in zip(terms, of.m, strict=True) if m < 2]
    if once:
        raise PoolError(
            f"Only one copy has {', '.join(map(repr, once))}: rule={rule!r} needs the variance between copies."
        )


def _complete_df(read: list[Estimates], terms: list[str], design: Design) -> Floats:
    """Degrees of freedom that each term would have in the original.

    A fit of p coefficients to a share of the k rows would be one to the same share of the n rows, or of those that the
    models of all copies saw. Terms with degrees of freedom of their own are fits of one coefficient.
    """
    place = {term: j for j, term in enumerate(terms)}
    least = np.full(len(terms), math.inf)
    for fit in read:
        p = len(fit.terms) if np.ndim(fit.df) == 0 else 1
        rows = design.n_s if design.shared else design.n
        # Far fewer than there are rows: of clusters, say, which are as many in the original.
        share = np.where(np.asarray(fit.df) + p > FEW_DF * design.k, rows / design.k, 1.0)
        at = [place[term] for term in fit.terms]
        least[at] = np.minimum(least[at], (np.asarray(fit.df) + p) * share - p)
    return np.asarray(np.maximum(least, 1.0))


def _doubts(terms: list[str], of: Moments, design: Design) -> list[str]:
    """Whether copies differ as much as copies made as declared: (m - 1) b / (c ubar) is chi-squared (m - 1)."""
    m = of.m
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.diag(of.b) / (design.c * np.diag(of.u))
    known = ~np.isnan(ratio) & (m > 1)
    if not known.any():
        return []
    x, df = (m[known] - 1) * ratio[known], m[known] - 1
    # Columns without predictors are drawn from all rows, whatever the models saw.
    least = design.c if design.subsampled and not design.proper else 1.0
    p_value = 2 * np.minimum(chdtr(df, least * x), chdtrc(df, x))
    worst = int(np.argmin(p_value))
    if p_value[worst] * known.sum() >= DOUBT:
        return []
    place = np.flatnonzero(known)[worst]
    found = f"b/ubar of {terms[place]!r} is {ratio[place] * design.c:.2f} where about {design.c:.2f} is expected"
    if ratio[place] < 1:
        return [f"{found}: do the copies hold original values, or were they drawn with the same random state?"]
    return [f"{found}: were missing values filled in, or models fitted on other rows, for each copy anew?"]


def _part(of: Moments, places: list[int]) -> Moments:
    square = np.ix_(places, places)
    return Moments(of.q[places], of.u[square], of.b[square], of.within[square], of.m[places], of.r)


def _find_terms(names: list[str], terms: str | Sequence[str] | None) -> list[str]:
    if terms is None:
        # Intercepts, also of the equations of a multinomial model, and thresholds of an ordered one ("G1|G2").
        free = [name for name in names if name.rpartition(":")[2].lower() not in INTERCEPTS]
        return [name for name in free if "|" not in name] or names
    if isinstance(terms, str):
        if terms in names:
            return [terms]
        # phb[T.2], phb.L, phb^4, phb=P2, C(phb, Poly).Linear: the name, with what is no part of a name around it.
        # Of an interaction each part is such a name; equations of a multinomial model stand before ("1:age").
        parts = [rf"(\w+\()?{re.escape(part)}(?!\w)[^:]*" for part in terms.split(":")]
        pattern = re.compile(r"(\d+:)?" + ":".join(parts))
        found = [name for name in names if pattern.fullmatch(name)]
        if not found:
            raise PoolError(f"No term {terms!r}, and none that belongs to a column {terms!r}; there are {names}.")
        return found
    unknown = [term for term in terms if term not in names]
    if unknown or not terms:
        raise PoolError(f"No term {', '.join(map(repr, unknown)) or 'given'}; there are {names}.")
    return list(terms)


def _null_values(null: Any, terms: list[str]) -> Floats:
    values = [null.get(term, 0.0) for term in terms] if isinstance(null, Mapping) else null
    array = np.asarray(values, np.float64)
    if array.ndim == 0:
        array = np.full(len(terms), float(array))
    if array.shape != (len(terms),) or not np.isfinite(array).all():
        raise PoolError(f"null must be a number, or a finite one for each of {terms}.")
    return array


def _table(terms: list[str], scale: tuple[str, ...], of: Moments, t: Floats, df: Floats) -> pl.DataFrame:
    se = np.sqrt(t)
    half = _t_quantile(df) * se
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = of.q / se
    p_value = 2 * stdtr(df, -np.abs(statistic))
    untested = np.isin(scale, UNTESTED)
    back = {name: _back(scale, z) for name, z in (("q", of.q), ("low", of.q - half), ("high", of.q + half))}
    # Delta method; the derivative of every scale is smooth where estimates are.
    step = 1e-6
    slope = (_back(scale, of.q + step) - _back(scale, of.q - step)) / (2 * step)
    slope = np.where(np.array(scale) == "identity", 1.0, slope)
    return pl.DataFrame(
        {
            "term": terms,
            "estimate": back["q"],
            "std_error": se * np.abs(slope),
            "statistic": np.where(untested, np.nan, statistic),
            "df": df,
            "p_value": np.where(untested, np.nan, p_value),
            "conf_low": back["low"],
            "conf_high": back["high"],
            "ubar": np.diag(of.u),
            "b": np.diag(of.b),
            "t": t,
            "m": of.m.astype(np.int64),
        }
    ).with_columns(
        pl.col("b").fill_nan(None),
        *(pl.when(~pl.Series(untested)).then(pl.col(name)).alias(name) for name in ("statistic", "p_value")),
    )


def _back(scale: tuple[str, ...], z: Floats) -> Floats:
    """Estimates or limits from their scales."""
    names = np.array(scale)
    out = z.copy()
    for name in set(scale) - {"identity"}:
        at = names == name
        out[at] = SCALES[name](z[at])
    return out


def _t_quantile(df: Floats) -> Floats:
    return np.asarray(stdtrit(df, (1 + LEVEL) / 2))


def _compare(pooled: Pooled, fit: Estimates) -> Comparison:
    terms = pooled.table["term"].to_list()
    if sorted(fit.terms) != sorted(terms):
        raise PoolError(f"The original has terms {list(fit.terms)}, the pooled table {terms}.")
    at = [fit.terms.index(term) for term in terms]
    estimate, covariance = fit.estimate[at], fit.covariance[np.ix_(at, at)]
    scale = tuple(fit.scale_of(i) for i in at)
    if scale != pooled._scale:
        raise PoolError(f"The original has scales {list(scale)}, the pooled estimates {list(pooled._scale)}.")
    se = np.sqrt(np.diag(covariance))
    half = _t_quantile(np.broadcast_to(fit.df, len(at))[at]) * se
    of, t, df = pooled._moments, pooled.table["t"].to_numpy(), pooled.table["df"].to_numpy()
    own = _t_quantile(df) * np.sqrt(t)
    d = of.q - estimate
    with np.errstate(divide="ignore", invalid="ignore"):
        table = pl.DataFrame(
            {
                "term": terms,
                "original": _back(scale, estimate),
                "synthetic": pooled.table["estimate"],
                "std_difference": d / se,
                "overlap": interval_overlap(estimate - half, estimate + half, of.q - own, of.q + own),
                "original_low": _back(scale, estimate - half),
                "original_high": _back(scale, estimate + half),
                "synthetic_low": pooled.table["conf_low"],
                "synthetic_high": pooled.table["conf_high"],
            }
        )
    design = pooled._design
    try:
        fit_test = lack_of_fit(design, d, covariance, of)
    except np.linalg.LinAlgError:
        fit_test = None
    expected = None
    if not (design.imputed or design.partial):
        expected = math.sqrt(2 / math.pi * design.n / design.k * design.synthesis_variance())
    return Comparison(table, fit_test, expected)


def interval_overlap(low_o: Floats, high_o: Floats, low_s: Floats, high_s: Floats) -> Floats:
    """Mean share that two intervals have in common (Karr et al. 2006); negative when they are apart."""
    shared = np.minimum(high_o, high_s) - np.maximum(low_o, low_s)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (shared / (high_o - low_o) + shared / (high_s - low_s)) / 2


def format_table(table: pl.DataFrame) -> str:
    """A plain text table: text to the left, numbers to the right with three decimals, small ones as powers of ten."""
    return align(_cells(table), [dtype.is_numeric() for dtype in table.dtypes])


def align(lines: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """Lines of cells below each other, those of some columns to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)).rstrip()
        for line in lines
    )


def _cells(table: pl.DataFrame) -> list[list[str]]:
    """Names of the columns, then the rows, as text."""
    return [table.columns, *([_cell(value) for value in row] for row in table.iter_rows())]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if value == 0 or abs(value) >= 0.001 else f"{value:.2e}"


def _latex(text: str) -> str:
    return (
        re.sub(r"([&%$#_{}])", r"\\\1", text.replace("\\", r"\textbackslash "))
        .replace("^", r"\^{}")
        .replace("~", r"\~{}")
    )
