"""Estimates of one analysis: what ``pool`` reads from fitted models of many libraries, or from plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from fastsynth.errors import PoolError

Floats = NDArray[np.float64]
# Level of all intervals.
LEVEL = 0.95


def _r_squared(z: Floats) -> Floats:
    # A limit below 0 is one of 0: squared as it is, it could exceed the estimate.
    return np.asarray(np.tanh(np.maximum(z, 0)) ** 2)


# How estimates come back from the scale on which they are nearly normal. For r_squared that is atanh of R (Harel 2009).
SCALES: dict[str, Callable[[Floats], Floats]] = {
    "identity": lambda z: z,
    "fisher_z": np.tanh,
    "logit": expit,
    "log": np.exp,
    "r_squared": _r_squared,
}


@dataclass(frozen=True, slots=True, eq=False)
class Estimates:
    """Estimates of one analysis of one table.

    Attributes
    ----------
    terms : tuple of str, length p
    estimate : ndarray of shape (p,), dtype=float64
        On the scale of the term.
    covariance : ndarray of shape (p, p), dtype=float64
        Likewise.
    df : float or ndarray of shape (p,)
        Residual degrees of freedom, of each term where they have their own; inf where the fit uses normal quantiles.
    scale : tuple of str, length p or 0
        Where each estimate is nearly normal: "identity" (all, if empty), "fisher_z", "logit", "log" or "r_squared".
    """

    terms: tuple[str, ...]
    estimate: Floats
    covariance: Floats
    df: float | Floats = math.inf
    scale: tuple[str, ...] = ()

    def scale_of(self, i: int) -> str:
        """Scale of term i."""
        return self.scale[i] if self.scale else "identity"


def read_fit(fit: Any) -> Estimates:
    """Read estimates from a fitted result, or from a pair (estimates, variances or covariance matrix).

    Results of statsmodels, linearmodels, pyfixest and lifelines are known by what they have, not by their classes.
    Thresholds of statsmodels' OrderedModel come as such (as R's polr has them), not as logarithms of differences; of
    MixedLM the fixed effects are read.

    Raises
    ------
    PoolError
        Something else, shapes that do not fit, negative variances.
    """
    if isinstance(fit, Estimates):
        return fit
    if isinstance(fit, tuple | list) and len(fit) == 2:
        terms, estimate = _named(fit[0])
        covariance, df = _covariance(fit[1], terms), math.inf
    else:
        terms, estimate, covariance, df = _read_result(fit)
        estimate = _without_aliased(fit, terms, estimate, covariance)
    p = len(estimate)
    if covariance.ndim < 2 and covariance.size == p:
        covariance = np.diag(np.atleast_1d(covariance))
    if covariance.shape != (p, p):
        raise PoolError(f"There are {p} estimates but a covariance of shape {covariance.shape}; it must be ({p}, {p}).")
    if (np.diag(covariance) < 0).any():
        raise PoolError(
            "A variance is negative. Pass variances or a covariance matrix, not standard errors of another kind."
        )
    return Estimates(terms, estimate, covariance, df)


def _read_result(fit: Any) -> tuple[tuple[str, ...], Floats, Floats, float]:
    """Terms, estimates, covariance and degrees of freedom of a fitted result."""
    df = math.inf
    if hasattr(fit, "fe_params") and hasattr(fit, "cov_params"):
        # statsmodels' MixedLM: variances of random effects follow, on a scale of their own.
        terms, estimate = _named(fit.fe_params)
        p = len(terms)
        covariance = np.asarray(fit.cov_params(), np.float64)[:p, :p]
    elif hasattr(fit, "params") and hasattr(fit, "cov_params"):
        terms, estimate = _named(fit.params, _model_names(fit))
        covariance = np.asarray(fit.cov_params(), np.float64)
        if getattr(fit, "use_t", False):
            # Of clustered errors statsmodels counts the clusters.
            df = float(getattr(fit, "df_resid_inference", getattr(fit, "df_resid", math.inf)))
        if hasattr(getattr(fit, "model", None), "transform_threshold_params"):
            # As polr names them.
            cuts = fit.model.k_levels - 1
            terms = (*terms[:-cuts], *(term.replace("/", "|") for term in terms[-cuts:]))
            estimate, covariance = _thresholds(fit.model, estimate, covariance)
    elif hasattr(fit, "params") and hasattr(fit, "cov"):
        # linearmodels; its intervals are normal unless it was told to be debiased.
        terms, estimate = _named(fit.params)
        covariance = _covariance(fit.cov, terms)
        df = float(fit.df_resid) if getattr(fit, "debiased", getattr(fit, "_debiased", False)) else math.inf
    elif hasattr(fit, "params_") and hasattr(fit, "variance_matrix_"):
        # lifelines
        terms, estimate = _named(fit.params_)
        covariance = np.asarray(fit.variance_matrix_, np.float64)
    elif callable(getattr(fit, "coef", None)) and hasattr(fit, "_vcov"):
        # pyfixest
        terms, estimate = _named(fit.coef())
        covariance = np.asarray(fit._vcov, np.float64)
        df = float(fit._df_t) if getattr(fit, "_method", "feols") == "feols" else math.inf
    else:
        raise PoolError(
            f"Cannot read estimates from a {type(fit).__name__}. Pass a fitted result with params and "
            "cov_params(), or a pair (estimates, covariance)."
        )
    return terms, estimate, covariance, df


def _without_aliased(fit: Any, terms: tuple[str, ...], estimate: Floats, covariance: Floats) -> Floats:
    """Estimates with nan for what a pseudo-inverse makes of a column of zeros, as an empty level has."""
    aliased = (np.abs(estimate) < 1e-12) & (np.diag(covariance) < 1e-24)
    good = ~aliased & np.isfinite(np.diag(covariance))
    if is_singular(covariance[np.ix_(good, good)], 1e-12):
        raise PoolError(
            f"A {type(fit).__name__} with {len(terms)} terms has a singular covariance matrix: its coefficients are "
            "not identified. Is the reference level of a category empty in a copy? Merge it, or take another reference."
        )
    return np.where(aliased, np.nan, estimate)


def is_singular(covariance: Floats, least: float = 1e-10) -> bool:
    """Whether one of the coefficients is a sum of others, or has no variance."""
    if not len(covariance) or not np.isfinite(covariance).all():
        return False  # a copy that lacks a coefficient tells nothing
    size = np.sqrt(np.diag(covariance))
    if not (size > 0).all():
        return True
    return bool(np.linalg.eigvalsh(covariance / size / size[:, None])[0] < least)


def _model_names(fit: Any) -> list[str] | None:
    """Names of coefficients that come as a plain array."""
    names = getattr(getattr(fit, "model", None), "exog_names", None)
    return None if names is None else list(names)


def _thresholds(model: Any, estimate: Floats, covariance: Floats) -> tuple[Floats, Floats]:
    """Thresholds of an ordered model, which it holds as the first and the logarithms of the differences."""
    n_slopes = len(estimate) - (model.k_levels - 1)
    steps = np.exp(estimate[n_slopes + 1 :])
    cuts = estimate[n_slopes] + np.append(0, np.cumsum(steps))
    jacobian = np.eye(len(estimate))
    jacobian[n_slopes:, n_slopes:] = np.tril(np.append(1, steps)[None, :].repeat(len(cuts), 0))
    return np.append(estimate[:n_slopes], cuts), jacobian @ covariance @ jacobian.T


def _covariance(values: Any, terms: tuple[str, ...]) -> Floats:
    """A covariance matrix or variances, brought into the order of the terms where they are labelled."""
    labels = list(values) if isinstance(values, Mapping) else getattr(values, "index", None)
    if labels is None or callable(labels):
        return np.asarray(values, np.float64)
    labels = [_label(label) for label in labels]
    if sorted(labels) != sorted(terms):
        raise PoolError(f"Estimates are of {list(terms)}, variances of {labels}.")
    order = [labels.index(term) for term in terms]
    array = np.asarray(list(values.values()) if isinstance(values, Mapping) else values, np.float64)
    return array[order] if array.ndim == 1 else array[np.ix_(order, order)]


def _named(values: Any, names: list[str] | None = None) -> tuple[tuple[str, ...], Floats]:
    """Terms and numbers of a mapping, a pandas Series or DataFrame, an array or a number."""
    if isinstance(values, Mapping):
        return tuple(map(str, values)), np.array(list(values.values()), np.float64)
    try:
        array = np.atleast_1d(np.asarray(values, np.float64))
    except (TypeError, ValueError):
        raise PoolError(f"Estimates are a {type(values).__name__}; numbers are needed.") from None
    index = getattr(values, "index", None)
    rows = None if index is None or callable(index) else [_label(label) for label in index]
    if array.ndim == 2:
        # A column for each equation, as statsmodels' MNLogit has them; their covariances go equation by equation.
        if rows is None:
            rows = names if names is not None and len(names) == len(array) else [str(i + 1) for i in range(len(array))]
        columns: Iterable[Any] = getattr(values, "columns", range(1, array.shape[1] + 1))
        return tuple(f"{column}:{row}" for column in columns for row in rows), array.ravel("F")
    if array.ndim != 1:
        raise PoolError(f"Estimates have shape {array.shape}; a vector or a number is needed.")
    if rows is None:
        rows = names if names is not None and len(names) == len(array) else [str(i + 1) for i in range(len(array))]
    return tuple(rows), array


def _label(label: Any) -> str:
    """Name of a term; those of several parts (lifelines' parameters of a distribution) are joined as equations are."""
    return ":".join(map(str, label)) if isinstance(label, tuple) else str(label)
