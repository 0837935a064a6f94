"""The combining rules: what is the variance of a pooled estimate, given how the copies were made.

Terms
-----
q_l, u_l
    Estimate and variance from copy l, computed as if it were real data.
qbar, ubar, b
    Mean of q_l, mean of u_l, variance between the q_l.
B, bbar
    Nested copies (r syntheses of each of m imputed tables): variance between the means of the r, mean variance within.
t
    Variance of qbar as an estimate of the population value.
n, k, n_s
    Rows of the original, of a copy, and of the original that the models were fitted on.
w
    What the choice of those rows adds to the variance of the models, in units of the variance k ubar of one row.
c
    Variance of q_l given the data, in units of ubar: 1 for simple, 1 + k w for proper synthesis or fresh rows.
f
    k/n for inference about the population, (1 - s) k/n for a finite one of which a share s was sampled, 0 for what the
    original itself would give (target "sample").

Rules
-----
raab2016
    Raab, Nowok and Dibben (2016), J. Privacy and Confidentiality 7(3):67. Complete synthesis, also m = 1.
    T_s = ubar (f + 1/m) for simple, T_p = ubar (f + (1 + k/n)/m) for proper synthesis.
subsample
    Complete synthesis by models that saw n_s < n rows, also m = 1; derived here, checked by simulation in the tests.
    T = ubar (f + 1/m + k w/m) where each copy had rows of its own, T = ubar (f + 1/m + k w) where all share one
    choice; w = 1/n_s - 1/n for rows without replacement, w = 1/n_s for bootstrap samples (proper synthesis).
    T_s and T_p are the cases w = 0 and w = 1/n.
reiter2003
    Reiter (2003), Survey Methodology 29:181. Partial synthesis, and any other with m >= 2.
    T = ubar f + b/m with (m - 1) (1 + m ubar f / b)^2 degrees of freedom.
raghunathan2003
    Raghunathan, Reiter and Rubin (2003), J. Official Statistics 19:1, with Reiter's (2002) positive version. Complete,
    proper synthesis; T_p estimates the same and never fails.
    T = (1 + 1/m) b - ubar, or ubar f where that is not positive.
rubin1987
    Rubin (1987), Multiple Imputation for Nonresponse in Surveys; degrees of freedom of Barnard and Rubin (1999). For
    imputed tables not synthesised. T = ubar f + (1 + 1/m) b; with f = 0 it is that of Vink and van Buuren (2014).
reiter2004
    Reiter (2004), Survey Methodology 30:235. m imputed tables, r >= 2 syntheses of each.
    T = ubar f + (1 + 1/m) B - bbar/r, or without the last term where that is not positive.
onestep
    One synthesis of each imputed table, complete; derived here, checked by simulation (docs/coverage.md).
    T_1 = ubar f + (1 + 1/m) max(b, c ubar) - c ubar. A single b cannot tell imputation from synthesis; c ubar does.

Joint tests of p coefficients take the relative variances as traces over p: Li, Raghunathan and Rubin (1991) and Reiter
(2007) for rubin1987, Reiter (2005) for reiter2003 and raghunathan2003, Kinney and Reiter (2010) for reiter2004. That B
is proportional to ubar is assumed by all but the tests of Hotelling's kind for target "sample".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import chdtrc, erf, fdtrc

from fastsynth.errors import PoolError
from fastsynth.estimates import Floats, is_singular

RuleName = Literal["raab2016", "subsample", "reiter2003", "raghunathan2003", "rubin1987", "reiter2004", "onestep"]
RULES = ("raab2016", "subsample", "reiter2003", "raghunathan2003", "rubin1987", "reiter2004", "onestep")
Target = Literal["population", "sample"]
# A smaller number would only say that the variance is hardly known.
LEAST_DF = 1.0


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
        Copies in all.
    proper : bool
        Whether each copy was drawn from a fit to its own bootstrap sample.
    partial : bool
        Whether some columns keep original values.
    fit_rows : int, optional
        Rows that the models were fitted on, or of each bootstrap sample if proper; None or n and more: all.
    fresh : bool
        Whether each copy had its own choice of these rows. Proper copies always have.
    imputed : bool
        Whether missing values were filled in before, anew for each table that was synthesised.
    syntheses : int
        Copies r made of each imputed table, those of one table side by side; 0 for imputed tables themselves.
    v : float, optional
        What slopes of the copies vary around the original's beyond what drawing rows explains, in units of the
        original's variance (module ``fastsynth.slopes``). No rule uses it.
    private : bool
        Whether noise of differential privacy is in the models. All copies share it, and no rule counts it.
    """

    n: int
    k: int
    m: int
    proper: bool = False
    partial: bool = False
    fit_rows: int | None = None
    fresh: bool = False
    imputed: bool = False
    syntheses: int = 1
    v: float | None = None
    private: bool = False

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

    @property
    def w(self) -> float:
        """Variance that the choice of rows adds to the models, in units of that of one row."""
        return 1 / self.n_s if self.proper else 1 / self.n_s - 1 / self.n

    @property
    def c(self) -> float:
        """Variance of a copy's estimate given the data, in units of ubar."""
        return 1.0 if self.shared else 1 + self.k * self.w

    def true_coverage(self) -> float | None:
        """What 95 % intervals by T_s or T_p cover about, given v; None if v is not known."""
        if self.v is None:
            return None
        # In units of the variance of the original, for k/n = n_s/n = 1 and otherwise.
        claimed = 1 + self.synthesis_variance() * self.n / self.k
        return float(erf(1.96 / math.sqrt(2) * math.sqrt(claimed / (claimed + max(self.v, 0)))))

    def synthesis_variance(self, m: int | None = None) -> float:
        """Variance of the mean of m copies' estimates given the data, in units of ubar, for complete synthesis."""
        return self.c / (m or self.m) + (self.k * self.w if self.shared else 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """What the rules need of the fits.

    Attributes
    ----------
    q : ndarray of shape (p,)
        qbar.
    u : ndarray of shape (p, p)
        ubar.
    b : ndarray of shape (p, p)
        Variance between copies, or between imputed tables; nan for one.
    within : ndarray of shape (p, p)
        bbar, between the syntheses of an imputed table; nan for one each.
    m : ndarray of shape (p,)
        Copies, or imputed tables, that have the coefficient.
    r : int
        Syntheses of each imputed table.
    """

    q: Floats
    u: Floats
    b: Floats
    within: Floats
    m: Floats
    r: int


def moments(q: Floats, u: Floats, design: Design) -> Moments:
    """Moments of estimates (M, p) and covariances (M, p, p); coefficients that a copy lacks are nan there."""
    r = max(design.syntheses, 1) if design.imputed else 1
    present = np.isfinite(q)
    m = present.sum(0) / r
    within = np.full(u.shape[1:], np.nan)
    means = q
    if r > 1:
        nested = q.reshape(-1, r, q.shape[1])
        means = nested.mean(1)
        deviations = (nested - means[:, None]).reshape(q.shape)
        within = deviations.T @ deviations / (len(means) * (r - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        centre = np.where(present, q, 0).sum(0) / present.sum(0)
        ubar = np.where(np.isfinite(u), u, 0).sum(0) / np.isfinite(u).sum(0)
        deviations = np.where(np.isfinite(means), means - centre, 0)
        both = np.isfinite(means).astype(float)
        b = deviations.T @ deviations / (both.T @ both - 1)
    return Moments(centre, ubar, np.where(np.isfinite(b), b, np.nan), within, m, r)


def population_share(design: Design, target: str, sampled: float) -> float:
    """The factor f: what sampling contributes, in units of ubar."""
    return design.k / design.n * (1 - sampled) if target == "population" else 0.0


def variances(rule: str, design: Design, f: float, of: Moments, dfcom: float | Floats) -> tuple[Floats, Floats]:
    """Variance t of each pooled coefficient, and its degrees of freedom, at most those of the complete data."""
    u, b, m, r, c = np.diag(of.u), np.diag(of.b), of.m, of.r, design.c
    inf = np.full(len(u), math.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        if rule in ("raab2016", "subsample"):
            t = u * (f + np.array([design.synthesis_variance(j) for j in m]))
            return t, np.minimum(inf, dfcom)
        if rule == "reiter2003":
            t = u * f + b / m
            df = (m - 1) * (t / (b / m)) ** 2
        elif rule == "rubin1987":
            t = u * f + (1 + 1 / m) * b
            df = (m - 1) * (t / ((1 + 1 / m) * b)) ** 2
            if f > 0:
                df = _barnard_rubin((1 + 1 / m) * b / t, m, dfcom)
        elif rule == "raghunathan2003":
            t = (1 + 1 / m) * b - u
            df = np.where(t > 0, (m - 1) * (t / ((1 + 1 / m) * b)) ** 2, inf)
            t = np.where(t > 0, t, u * f)
        elif rule == "reiter2004":
            between, within = (1 + 1 / m) * b, np.diag(of.within) / r
            t = u * f + between - within
            df = 1 / (between**2 / ((m - 1) * t**2) + within**2 / (m * (r - 1) * t**2))
            df = np.where(t > 0, df, (m - 1) * ((between + u * f) / between) ** 2)
            t = np.where(t > 0, t, between + u * f)
        else:
            t = u * f + (1 + 1 / m) * np.maximum(b, c * u) - c * u
            df = np.where(b > c * u, (m - 1) * (t / ((1 + 1 / m) * b)) ** 2, inf)
    df = np.where(np.isnan(df), inf, df)  # no variance at all
    return t, np.minimum(np.maximum(df, LEAST_DF), dfcom)


def _barnard_rubin(share: Floats, m: Floats, dfcom: float | Floats) -> Floats:
    """Degrees of freedom for a share of the variance that is due to missing values."""
    share = np.where(np.isnan(share), 0.0, share)
    finite = np.where(np.isinf(dfcom), 1.0, dfcom)
    observed = (1 - share) * (finite + 1) * finite
    bounded = (m - 1) * observed / ((finite + 3) * (m - 1) + share**2 * observed)
    return np.asarray(np.where(np.isinf(dfcom), (m - 1) / share**2, bounded))


@dataclass(frozen=True, slots=True)
class Wald:
    """A joint test.

    Attributes
    ----------
    statistic : float
        F, distributed as F(df1, df2) if the hypothesis holds.
    df1, df2 : float
    p_value : float
    terms : tuple of str
        The coefficients that were tested.
    """

    statistic: float
    df1: float
    df2: float
    p_value: float
    terms: tuple[str, ...] = ()

    def __str__(self) -> str:
        df2 = "inf" if math.isinf(self.df2) else f"{self.df2:.1f}"
        return f"F({self.df1:g}, {df2}) = {self.statistic:.3f}, p = {self.p_value:.3g}: {', '.join(self.terms)}"


def wald(rule: str, design: Design, f: float, of: Moments, null: Floats, dfcom: float) -> Wald:
    """Test that all p coefficients have the values ``null``.

    Raises
    ------
    PoolError
        ubar is singular, or too few copies for a test of Hotelling's kind.
    """
    d, p, m, r, c = of.q - null, len(of.q), float(of.m.min()), of.r, design.c
    if is_singular(of.u):
        raise singular()
    inverse = np.linalg.inv(of.u)
    distance = float(d @ inverse @ d) / p
    if rule in ("raab2016", "subsample"):
        return _wald(distance / (f + design.synthesis_variance(round(m))), p, dfcom)
    if f == 0 and rule in ("reiter2003", "rubin1987"):
        return _hotelling(d, of.b * (1 / m if rule == "reiter2003" else 1 + 1 / m), p, m)
    t = p * (m - 1)
    share = float(np.trace(of.b @ inverse)) / p
    if rule == "reiter2004":
        rise, within = (1 + 1 / m) * share, float(np.trace(of.within @ inverse)) / (p * r)
        total = f + rise - within
        if total <= 0:
            return _wald(distance / (f + rise), p, min(max(t * ((f + rise) / rise) ** 2, LEAST_DF), dfcom))
        w = 1 / (rise**2 / (t * total**2) + within**2 / (p * m * (r - 1) * total**2))
        return _wald(distance / total, p, min(max(w, LEAST_DF), dfcom))
    if rule == "reiter2003":
        rise, kept = share / m, f
    elif rule == "rubin1987":
        rise, kept = (1 + 1 / m) * share, f
        if math.isfinite(dfcom) and t > 4 and rise > 0:
            return _wald(distance / (f + rise), p, _reiter2007(rise / f * t / (t - 2), t, dfcom))
    elif rule == "raghunathan2003":
        rise, kept = (1 + 1 / m) * share, -1.0
        if rise <= 1:
            # Not positive, as it happens; raab2016 estimates the same.
            return _wald(distance / (f + design.synthesis_variance(round(m))), p, dfcom)
    else:
        rise, kept = (1 + 1 / m) * max(share, c), f - c
    x = kept / rise if rise > 0 else math.inf
    w = 4 + (t - 4) * (1 + (1 - 2 / t) * x) ** 2 if t > 4 else t * (1 + 1 / p) * (1 + x) ** 2 / 2
    return _wald(distance / (kept + rise), p, min(max(w, LEAST_DF), dfcom))


def singular() -> PoolError:
    """What to raise when coefficients cannot be tested together."""
    return PoolError(
        "These coefficients cannot be tested together: their covariance matrix is singular. Are some the sum of "
        "others, as shares of all levels are? Test all but one."
    )


def _wald(statistic: float, df1: float, df2: float) -> Wald:
    p_value = chdtrc(df1, df1 * statistic) if math.isinf(df2) else fdtrc(df1, df2, statistic)
    return Wald(statistic, df1, df2, float(p_value))


def _hotelling(d: Floats, covariance: Floats, p: int, m: float) -> Wald:
    if m <= p:
        raise PoolError(
            f"{p} coefficients cannot be tested with {m:g} copies: at least {p + 1} are needed, or fewer terms."
        )
    if is_singular(covariance):
        raise singular()
    squared = float(d @ np.linalg.solve(covariance, d))
    return _wald((m - p) / (p * (m - 1)) * squared, p, m - p)


def _reiter2007(a: float, t: float, dfcom: float) -> float:
    """Denominator degrees of freedom where the complete data have few (Reiter 2007, Biometrika 94:502)."""
    v = dfcom * (dfcom + 1) / (dfcom + 3)
    c1, c2 = v - 2 * (1 + a), v - 4 * (1 + a)
    if c2 <= 0:
        return 4.0
    z = 1 / c2 + (
        a**2 * c1 / ((1 + a) ** 2 * c2)
        + 8 * a**2 * c1 / ((1 + a) * c2**2)
        + 4 * a**2 / ((1 + a) * c2)
        + 4 * a**2 / (c2 * c1)
        + 16 * a**2 * c1 / c2**3
        + 8 * a**2 / c2**2
    ) / (t - 4)
    return 4 + 1 / z


def lack_of_fit(design: Design, d: Floats, original: Floats, of: Moments) -> Wald | None:
    """Test that pooled and original coefficients (d apart) differ by synthesis alone; None where it is not known how.

    For complete synthesis from the covariance of the original fit, V n/k times the synthesis variance; for partial
    synthesis from the variance between copies (Hotelling). Raab, Nowok and Dibben's lack of fit, with the factor for
    proper synthesis that synthpop leaves out.
    """
    p, m = len(d), float(of.m.min())
    if design.imputed or is_singular(original) or (of.m != design.m).any():
        return None
    if design.partial:
        return _hotelling(d, of.b / m, p, m) if m > p else None
    expected = original * (design.n / design.k) * design.synthesis_variance()
    return _wald(float(d @ np.linalg.solve(expected, d)) / p, p, math.inf)


def choose_rule(known: bool, design: Design, rule: str | None, target: str) -> tuple[str, str]:
    """The rule and the reason for it; refuses what would be wrong. ``known``: the copies say how they were made."""
    if target not in ("population", "sample"):
        raise PoolError(f"target={target!r}: allowed are 'population' and 'sample'.")
    if rule is None and not (known or design.imputed):
        raise PoolError(
            "How these copies were made is not known. Pass rule='raab2016' (all columns of the analysis are "
            "synthetic), rule='subsample' (they are, by models fitted on part of the rows) or "
            "rule='reiter2003' (some keep original values), or pool what Synthesis.analyse returns: "
            "Synthesis.read(folder) opens the folder that copies were written to."
        )
    if rule == "subsample" and not known and design.fit_rows is None:
        raise PoolError("rule='subsample' needs n, k and fit_rows, the rows the models were fitted on.")
    if rule in ("rubin1987", "reiter2004", "onestep") and not known and not design.imputed:
        raise PoolError(
            f"rule={rule!r} is for copies of imputed tables: missing data were filled in, several times. Pass "
            "imputed=True and syntheses=r, the copies made of each imputed table (0: the tables themselves). For "
            "synthetic copies of complete data use 'raab2016', or 'reiter2003' if some columns keep original values."
        )
    valid, why = _valid_rule(design)
    if rule is None:
        rule = valid
    else:
        why = "as asked"
    _refuse_wrong_rule(rule, valid, design, target)
    if (rule not in ("reiter2003", "reiter2004", "rubin1987") and design.partial) or (
        rule == "rubin1987" and design.syntheses > 0
    ):
        why = "an upper bound: some columns keep original values"
    rows = f", n = {design.n}, k = {design.k}" if known or design.n > 1 else ""
    copies = (
        f"{design.m // design.syntheses} x {design.syntheses}" if design.imputed and design.syntheses > 1 else design.m
    )
    what = "" if target == "population" else ", for what the original would give"
    return rule, f"{why}; {_formula(rule, design, target)}, m = {copies}{rows}{what}"


def _valid_rule(design: Design) -> tuple[str, str]:
    """The rule for how the copies were made, and how that was."""
    if design.imputed and design.syntheses == 0:
        return "rubin1987", "imputed tables, not synthesised"
    if design.imputed and design.syntheses > 1:
        return "reiter2004", f"imputed tables, {design.syntheses} copies of each"
    if design.imputed:
        return "onestep", f"one {'proper' if design.proper else 'simple'} copy of each imputed table"
    if design.partial:
        return "reiter2003", "some columns keep original values"
    kind = f"complete, {'proper' if design.proper else 'simple'} synthesis"
    if not design.subsampled:
        return "raab2016", kind
    choice = "shared by all copies" if design.shared else "fresh for each copy"
    return "subsample", f"{kind} by models fitted on {design.n_s} of {design.n} rows, {choice}"


def _refuse_wrong_rule(rule: str, valid: str, design: Design, target: str) -> None:
    if rule not in RULES:
        raise PoolError(f"rule={rule!r}: allowed are {', '.join(map(repr, RULES))}.")
    if design.imputed:
        _refuse_wrong_rule_for_imputed(rule, valid, design, target)
        return
    if design.partial and design.subsampled and (design.shared or design.m == 1):
        raise PoolError(
            f"Some columns keep original values, and all models were fitted on the same {design.n_s} of {design.n} "
            "rows: no valid rule is known. Fit on all rows, or make several copies, each fitted on fresh rows."
        )
    if rule in ("rubin1987", "reiter2004", "onestep"):
        wrong = ": on these synthetic copies it is too wide, or too narrow for k > n" * (rule == "rubin1987")
        raise PoolError(f"rule={rule!r} is for missing data that were filled in{wrong}. Use {valid!r}.")
    if rule == "raab2016" and design.subsampled:
        raise PoolError(
            f"rule='raab2016' takes the models as fitted on all {design.n} rows; they saw {design.n_s}. Use {valid!r}."
        )
    if rule == "raghunathan2003" and (not design.proper or design.partial or design.subsampled or target == "sample"):
        raise PoolError(
            "rule='raghunathan2003' is for complete, proper synthesis by models of all rows, and inference for the "
            "population (for simple synthesis its variance is negative half of the time). "
            f"Use {valid!r}."
        )
    if rule != "reiter2003" and design.partial and design.m > 1:
        raise PoolError(f"rule={rule!r} needs all columns synthesised; some keep original values. Use 'reiter2003'.")
    if rule in ("reiter2003", "raghunathan2003") and design.m < 2:
        raise PoolError(
            f"rule={rule!r} needs the variance between copies: at least 2, better 5. For one copy use "
            + ("rule='raab2016', which is an upper bound here." if design.partial else f"rule={valid!r}.")
        )
    if rule == "reiter2003" and design.subsampled and design.shared:
        raise PoolError(
            "rule='reiter2003' sees the variance of the models in the differences between copies; these share models "
            f"of the same {design.n_s} of {design.n} rows, so it is too narrow. Use 'subsample'; where some columns "
            "keep original values no valid rule is known: fit on all rows, or on fresh rows for each copy."
        )


def _refuse_wrong_rule_for_imputed(rule: str, valid: str, design: Design, target: str) -> None:
    r = design.syntheses
    if design.subsampled and r > 0:
        raise PoolError(
            "No valid rule is known for copies of imputed tables by models of part of the rows. Fit on all."
        )
    if r > 1 and design.m % r:
        raise PoolError(f"There are {design.m} copies, which is no multiple of the {r} of each imputed table.")
    if r == 0 and design.n != design.k:
        raise PoolError(f"Imputed tables have the rows of the original: n={design.n} and k={design.k} differ.")
    if design.m // max(r, 1) < 2:
        raise PoolError(
            "One imputed table does not show what its imputation is worth: at least 2 are needed, better 10."
        )
    bound = r == 1 and design.partial and rule == "rubin1987"
    if r == 1 and design.partial and not bound:
        raise PoolError(
            "Some columns keep original values, and there is one copy of each imputed table: how much of the variance "
            "between copies is due to imputation is not known. Make 2 or more of each (syntheses=2), or pass "
            "rule='rubin1987' for an upper bound."
        )
    if rule != valid and not bound:
        made = {0: "imputed tables that were not synthesised", 1: "one copy of each imputed table"}
        raise PoolError(
            f"rule={rule!r} is not for {made.get(r, f'{r} copies of each imputed table')} (syntheses={r}); that is "
            f"{valid!r}. If syntheses is something else, say so."
        )
    if rule == "onestep" and target == "sample":
        raise PoolError(
            "What the original would give cannot be had from one copy of each imputed table: the variance due to "
            "imputation is the small difference of two numbers. Make 2 or more copies of each (syntheses=2)."
        )


def _formula(rule: str, design: Design, target: str) -> str:
    f = "" if target == "sample" else "k/n + "
    u = "" if target == "sample" else "ubar k/n + "
    w = "1/n_s" if design.proper else "1/n_s - 1/n"
    return {
        "raab2016": f"T_p = ubar ({f}(1 + k/n)/m)" if design.proper else f"T_s = ubar ({f}1/m)",
        "subsample": f"T = ubar ({f}1/m + {'k w' if design.shared else 'k w/m'}), w = {w}, n_s = {design.n_s}",
        "reiter2003": f"T = {u}b/m",
        "raghunathan2003": "T = (1 + 1/m) b - ubar",
        "rubin1987": f"T = {u}(1 + 1/m) b",
        "reiter2004": f"T = {u}(1 + 1/m) B - bbar/r",
        "onestep": f"T_1 = {u}(1 + 1/m) max(b, c ubar) - c ubar, c = {design.c:.3g}",
    }[rule]
