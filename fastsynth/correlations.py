"""Correlations of normal variables of which only tables of classes are seen: estimates, shrinkage, nearest matrix."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from fastsynth import _copula

# Standard errors by which a correlation is shrunk, at most.
MOST_MOVED = 0.5
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

# Smallest eigenvalue of a matrix of correlations, and rounds of the search for one.
FLOOR = 1e-6
ROUNDS = 60


def polychoric(
    counts: Floats,
    first_a: NDArray[np.int32],
    first_b: NDArray[np.int32],
    prior: float = 0.0,
) -> tuple[Floats, Floats]:
    """Polychoric correlations of tables that stand in one array: cuts from the margins, then maximum likelihood.

    Parameters
    ----------
    counts : ndarray of shape (n_classes_a, n_classes_b), dtype=float64
        Rows; a table for each pair of latents, whose classes follow each other.
    first_a, first_b : ndarray of shape (n_latents + 1,), dtype=int32
        First class of each latent; at most 64 classes each.
    prior : float
        Rows of independence added to every table.

    Returns
    -------
    r, variance : ndarray of shape (n_latents_a, n_latents_b), dtype=float64
        From -.9999 to .9999; 0 and 1 for a table of one row or one column.

    Notes
    -----
    Olsson (1979), Maximum likelihood estimation of the polychoric correlation coefficient, Psychometrika 44:443.

    Examples
    --------
    >>> one = np.array([0, 2], np.int32)
    >>> r, variance = polychoric(np.array([[40.0, 10.0], [20.0, 30.0]]), one, one)
    >>> r.round(6)
    array([[0.607073]])
    """
    below_a = _shares_below(np.add.reduceat(counts, first_b[:-1], axis=1), first_a)
    below_b = _shares_below(np.add.reduceat(counts, first_a[:-1], axis=0).T, first_b).T.copy()
    r, variance = np.empty((2, len(first_a) - 1, len(first_b) - 1))
    cuts = ndtri(below_a), ndtri(below_b)
    tables = np.ascontiguousarray(counts), first_a, first_b, below_a, below_b, *cuts
    _copula.polychoric(*tables, *_quadrature(), prior, r, variance)
    return r, variance


@functools.lru_cache(maxsize=1)
def _quadrature() -> tuple[Floats, Floats]:
    nodes, weights = np.polynomial.legendre.leggauss(24)
    # The kernel's interval is from 0 to 1, its weights are those of -1 to 1.
    return (nodes + 1) / 2, weights


def _shares_below(rows: Floats, first: NDArray[np.int32]) -> Floats:
    """Share of the rows (n_classes, n) up to each class, latent by latent."""
    below = np.cumsum(rows, axis=0)
    before = np.vstack([np.zeros(rows.shape[1]), below])[first]
    size = np.diff(first)
    total = np.repeat(np.diff(before, axis=0), size, axis=0)
    share: Floats = (below - np.repeat(before[:-1], size, axis=0)) / np.where(total > 0, total, 1)
    return np.ascontiguousarray(np.minimum(share, 1.0))


def reliability(r: Floats, variance: Floats) -> Floats:
    """Factors that shrink correlations to 0: the share of what they would vary by, were they known without error.

    Where all have the same variance this is the shrinkage of Schaefer and Strimmer (2005), A shrinkage approach to
    large-scale covariance matrix estimation, Statistical Applications in Genetics 4:32, whose intensity is the sum of
    the variances over that of the squares. Here correlations from few rows are shrunk more than others, and none by
    more than half its standard error: where most columns are unrelated, the few relations there are stay (limited
    translation; Efron and Morris 1972).

    Parameters
    ----------
    r, variance : ndarray of shape (n,), dtype=float64

    Returns
    -------
    ndarray of shape (n,), dtype=float64
        From 0 to 1.
    """
    if not len(r):
        return np.ones(0)
    spread = float(np.square(r).mean())
    for _ in range(50):
        if not spread:
            break
        weight = np.square(spread / (spread + variance))
        spread = max(float((weight * (np.square(r) - variance)).sum() / weight.sum()), 0.0)
    least = 1 - MOST_MOVED * np.sqrt(variance) / np.maximum(np.abs(r), 1e-300)
    return np.asarray(np.maximum(spread / (spread + variance), least))


def completed(correlation: Floats, first: Counts, shares: Floats) -> Floats:
    """The nearest matrix of correlations, where what latents of one column have in common may be anything.

    Two latents of a column are not seen together, so their correlation is free: it is what those with other columns
    leave room for. Elsewhere latents that say something of few rows give way first.

    Parameters
    ----------
    correlation : ndarray of shape (q, q), dtype=float64
        Symmetric with a diagonal of 1; 0 within columns.
    first : ndarray of shape (n_columns + 1,), dtype=int64
        First latent of each column.
    shares : ndarray of shape (q,), dtype=float64
        Rows that each latent says something about, as a share of all.

    Returns
    -------
    ndarray of shape (q, q), dtype=float64
        With eigenvalues of at least 1e-6 or nearly; the same if it had them.

    Notes
    -----
    Higham (2002), Computing the nearest correlation matrix, IMA J. Numerical Analysis 22:329: projections in turn,
    corrected after Dykstra. O(q^3) a round, at most 60 rounds.
    """
    q = len(correlation)
    if not q or np.linalg.eigvalsh(correlation)[0] >= FLOOR:
        return correlation
    column = np.repeat(np.arange(len(first) - 1), np.diff(first))
    free = (column[:, None] == column) & ~np.eye(q, dtype=bool)
    root = np.sqrt(np.maximum(shares, 1e-6))
    weight = root[:, None] * root
    found, surplus = correlation.copy(), np.zeros((q, q))
    for _ in range(ROUNDS):
        wanted = found - surplus
        values, vectors = np.linalg.eigh(wanted * weight)
        nearest = (vectors * np.maximum(values, 10 * FLOOR)) @ vectors.T / weight
        surplus = nearest - wanted
        last, found = found, np.where(free, nearest, correlation)
        if np.abs(found - last).max() < 1e-6:
            break
    return _floored(_unit(nearest))


def _floored(correlation: Floats) -> Floats:
    """The matrix with eigenvalues of at least the floor, and a diagonal of 1."""
    values, vectors = np.linalg.eigh(correlation)
    return _unit((vectors * np.maximum(values, FLOOR)) @ vectors.T)


def _unit(matrix: Floats) -> Floats:
    scale = 1 / np.sqrt(np.diag(matrix))
    matrix = matrix * scale[:, None] * scale
    matrix = (matrix + matrix.T) / 2
    np.fill_diagonal(matrix, 1.0)
    return matrix
