"""Latents of columns and their correlations, from counted tables.

The words are those of ``fastsynth.copula``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from fastsynth import _copula
from fastsynth.copula_counts import Counting, Margin
from fastsynth.correlations import completed, polychoric, reliability
from fastsynth.streams import Words

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

# Rows of independence added to every table, which matters for the smallest ones only.
PRIOR_ROWS = 1.0
# Times that correlations are found anew, given those within columns.
COMPLETIONS = 4
# Points by which the cuts of a tree are found, and that a split needs of them.
POINTS, LEAST_POINTS = 1 << 17, 100


@dataclass(frozen=True, slots=True, eq=False)
class Latents:
    """The latents of a column, as fitted once.

    Attributes
    ----------
    missing : float
        Share of the rows that are missing.
    ends : ndarray of shape (n_groups,), dtype=float64
        Of the rows with a value, the share up to each group, 0 for that of missing. Only where values have an order.
    cut : ndarray of shape (n_splits,), dtype=float64
        Values of a split's latent beyond it go right. Only where values have no order.
    child : ndarray of shape (n_splits, 2), dtype=int32
        Split to the left and to the right, or -1 - group; splits come before their children.
    """

    missing: float
    ends: Floats
    cut: Floats
    child: NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """A fit to all rows, or to a bootstrap sample of them.

    Attributes
    ----------
    latents : tuple of Latents
        By column.
    correlation : ndarray of shape (n_latents, n_latents), dtype=float64
        Column by column; that of whether it is missing first.
    """

    latents: tuple[Latents, ...]
    correlation: Floats


def fit_counts(shared: tuple[Counting, bool], counts: Counts) -> Fit:
    """Fit the latents and their correlations to counted tables (n_cells,), shrunken or not."""
    counting, shrink = shared
    margins, p = counting.margins, len(counting.margins)
    tables = counting.tables(counts)
    rows = [tables[i, -1] for i in range(p)]
    latents = []
    for i, margin in enumerate(margins):
        profiles = [np.zeros((margin.n_groups, 0))]
        if not margin.ordered and margin.n_groups > 2:
            others = ((j, tables[i, j] if i < j else tables[j, i].T) for j in range(p) if j != i)
            profiles += [_profile(margins[j], table) for j, table in others]
        latents.append(_latents(margin, rows[i], np.hstack(profiles)))
    classes = [_classes(margin, own) for margin, own in zip(margins, latents, strict=True)]
    first = np.append(0, np.cumsum([len(of) for of in classes]))
    seen, variance = _correlations(classes, tables, first)
    if shrink:
        above = np.isfinite(variance)
        seen[above] *= reliability(seen[above], variance[above])
    shares = [
        of_rows[of >= 0].sum() / max(of_rows.sum(), 1) for own, of_rows in zip(classes, rows, strict=True) for of in own
    ]
    correlation = _law_of(seen, list(map(_lost, margins, latents)), first, np.array(shares))
    cut = [
        _fixed_cuts(own, of_rows, correlation[high - len(own.cut) : high, high - len(own.cut) : high])
        for own, of_rows, high in zip(latents, rows, first[1:], strict=True)
    ]
    return Fit(tuple(replace(own, cut=fixed) for own, fixed in zip(latents, cut, strict=True)), correlation)


def _law_of(seen: Floats, lost: Sequence[Floats], first: Counts, shares: Floats) -> Floats:
    """Correlations (q, q) of all latents from those that are seen.

    What latents of a column have in common is free, but matters for what others have in common with them: it begins at
    nothing, and is what the nearest matrix leaves it.
    """
    q = len(seen)
    all_lost = np.zeros((q, q))
    for own, low, high in zip(lost, first[:-1], first[1:], strict=True):
        all_lost[low:high, low:high] = own
    found = np.eye(q)
    for _ in range(COMPLETIONS):
        r = np.zeros((q, q))
        _copula.unselected(seen, all_lost, found, first.astype(np.int32), r)
        wanted = r + r.T + np.eye(q)
        found = completed(wanted, first, shares)
        if found is wanted:
            break
    return found


def _lost(margin: Margin, latents: Latents) -> Floats:
    """Variance (n_latents, n_latents) that a latent, by columns, loses in the rows that another one says something of.

    Rows with a value are those whose latent of missing is below its cut; a split has those that came its way.
    """
    q = margin.n_latents
    lost = np.zeros((q, q))
    start = int(margin.has_missing)
    if start:
        lost[1:, 0] = _truncation(ndtri(np.array([1 - latents.missing])))[0, 0]
    of_sides = _truncation(latents.cut)
    for split, sides in enumerate(latents.child.tolist()):
        for side, child in enumerate(sides):
            if child >= 0:
                lost[start + child] = lost[start + split]
                lost[start + child, start + split] = of_sides[side, split]
    return lost


def _truncation(cut: Floats) -> Floats:
    """Variance (2, n) that standard normal variables lose where only values below a cut are left, and only above."""
    with np.errstate(all="ignore"):
        density = np.exp(-0.5 * cut**2) / np.sqrt(2 * np.pi)
        share = _shares(cut)
        below, above = density / share, density / (1 - share)
        lost = np.stack([below * (below + cut), above * (above - cut)])
    # A side without rows has no latents that say something about it.
    return np.where(np.isfinite(lost), np.clip(lost, 0.0, 1.0), 0.0)


def _shares(z: Floats) -> Floats:
    share = np.empty(z.shape)
    _copula.shares(np.ascontiguousarray(z), share)
    return share


def _correlations(
    classes: Sequence[list[NDArray[np.int8]]],
    tables: Mapping[tuple[int, int], Floats],
    first: Counts,
) -> tuple[Floats, Floats]:
    """Correlations (q, q) of latents of different columns, above the diagonal; variances, infinite elsewhere."""
    q = int(first[-1])
    r, variance = np.zeros((q, q)), np.full((q, q), np.inf)
    known = [(i, *_indicators(own)) for i, own in enumerate(classes) if own]
    for (i, inside_a, first_a), (j, inside_b, first_b) in combinations(known, 2):
        at = slice(first[i], first[i + 1]), slice(first[j], first[j + 1])
        r[at], variance[at] = polychoric(inside_a @ tables[i, j] @ inside_b.T, first_a, first_b, PRIOR_ROWS)
    return r, variance


def _profile(margin: Margin, table: Floats) -> Floats:
    """What another column tells of the groups of a category: sums (n_groups, k) over rows, of a common scale.

    Of values in order only the mean normal score counts, as nothing else can be kept of them; of others the rows in
    each group, by which distances are those of chi-square.
    """
    parts = []
    if margin.ordered and margin.n_groups > 2:
        score = _scores(table[:, 1:].sum(0))
        parts.append((table[:, 1:] @ score)[:, None] / max(float((table[:, 1:].sum(0) @ score**2) ** 0.5), 1e-9))
        table = np.stack([table[:, 0], table[:, 1:].sum(1)], 1)
    if margin.has_missing or not margin.ordered or margin.n_groups < 3:
        parts.append(table / np.sqrt(np.maximum(table.sum(0), 1)))
    return np.hstack(parts) if parts else np.zeros((len(table), 0))


def _scores(rows: Floats) -> Floats:
    """Mean of a standard normal variable in each of some classes; 0 in one without rows."""
    share = np.append(0, np.cumsum(rows)) / max(rows.sum(), 1)
    with np.errstate(all="ignore"):
        density = np.exp(-0.5 * np.square(ndtri(np.minimum(share, 1.0)))) / np.sqrt(2 * np.pi)
        score = -np.diff(density) / np.diff(share)
    return np.where(rows > 0, score, 0.0)


def _latents(margin: Margin, rows: Floats, profiles: Floats) -> Latents:
    total, values = rows.sum(), rows[1:].sum()
    missing = float(rows[0] / total) if total else 0.0
    none, no_split = np.zeros(0), np.zeros((0, 2), np.int32)
    if margin.ordered:
        ends = np.cumsum(np.append(0.0, rows[1:])) / max(values, 1)
        return Latents(missing, np.minimum(ends, 1.0), none, no_split)
    if margin.n_groups < 3:
        return Latents(missing, none, none, no_split)
    child = grow_tree(rows[1:], profiles[1:])
    return Latents(missing, none, ndtri(_left_shares(child, rows)), child)


def _left_shares(child: NDArray[np.int32], rows: Floats) -> Floats:
    """Share of the rows of each split (n_splits,) that go left."""
    sides = np.array([[rows[groups_below(child, side)].sum() for side in pair] for pair in child.tolist()])
    total = sides.sum(1)
    return np.asarray(np.where(total > 0, sides[:, 0] / np.where(total > 0, total, 1), 0.5))


def groups_below(child: NDArray[np.int32], at: int) -> list[int]:
    """Groups below a split, or the group itself."""
    return [-1 - at] if at < 0 else [group for side in child[at].tolist() for group in groups_below(child, side)]


def grow_tree(rows: Floats, profiles: Floats) -> NDArray[np.int32]:
    """A tree of the levels of a category: what is alike is parted last.

    Levels are merged two by two, those first of which the merging loses least of what other columns tell of them: so
    the first splits say most of other columns, and they are of most rows.

    Parameters
    ----------
    rows : ndarray of shape (n_levels,), dtype=float64
    profiles : ndarray of shape (n_levels, k), dtype=float64
        Sums over the rows of each level, scaled such that squares of their means are comparable.

    Returns
    -------
    ndarray of shape (n_levels - 1, 2), dtype=int32
        As in ``Latents.child``: level i is -2 - i, because group 0 is missing.

    Notes
    -----
    The criterion of Ward (1963), for profiles of tables as in Greenacre (1988), Clustering the rows and columns of a
    contingency table. O(n_levels^3 k).

    Examples
    --------
    >>> grow_tree(np.ones(3), np.array([[0.0], [5.0], [0.1]])).tolist()
    [[1, -3], [-2, -4]]
    """
    k = len(rows)
    mass = np.maximum(rows, 1e-9)
    profile = profiles / mass[:, None]
    name = list(range(-2, -2 - k, -1))
    merged: list[tuple[int, int]] = []
    while len(name) > 1:
        square = np.square(profile).sum(1)
        apart = np.maximum(square[:, None] + square - 2 * profile @ profile.T, 0)
        loss = apart * mass[:, None] * mass / (mass[:, None] + mass)
        loss[np.tril_indices(len(name))] = np.inf
        a, b = (int(x) for x in np.unravel_index(loss.argmin(), loss.shape))
        profile[a] = (mass[a] * profile[a] + mass[b] * profile[b]) / (mass[a] + mass[b])
        mass[a] += mass[b]
        merged.append((name[a], name[b]))
        # Splits are numbered from the last merger, which is the root.
        name[a] = k - 1 - len(merged)
        del name[b]
        mass, profile = np.delete(mass, b), np.delete(profile, b, axis=0)
    return np.array(merged[::-1], np.int32).reshape(-1, 2)


def _fixed_cuts(latents: Latents, rows: Floats, correlation: Floats) -> Floats:
    """Cuts of splits whose latents are correlated, so that every level keeps its share.

    Those that come to a split are selected by the splits before it. Points spread evenly over the distribution go
    down the tree, and each split is cut where it parts those that come to it as it should.
    """
    child, cut = latents.child, latents.cut.copy()
    if len(child) < 2 or np.array_equal(correlation, np.eye(len(child))):
        return cut
    # The multiples of irrational numbers (Richtmyer 1951), as 64 bits each.
    step = np.array([int(np.sqrt(prime) % 1 * 2.0**64) for prime in _primes(len(child))], np.uint64)
    words: Words = np.multiply.outer(step, np.arange(1, POINTS + 1, dtype=np.uint64))
    normal = np.empty((len(child), POINTS))
    _copula.normals(words, normal)
    z = np.linalg.cholesky(correlation) @ normal
    at = np.zeros(POINTS, np.int32)
    for split, share in enumerate(_left_shares(child, rows)):
        here = np.flatnonzero(at == split)
        if len(here) >= LEAST_POINTS:
            cut[split] = np.quantile(z[split, here], share)
        at[here] = child[split][(z[split, here] > cut[split]).astype(np.int64)]
    return cut


def _primes(n: int) -> list[int]:
    found = [2]
    while len(found) < n:
        found.append(next(k for k in range(found[-1] + 1, 2 * found[-1] + 1) if all(k % prime for prime in found)))
    return found[:n]


def _classes(margin: Margin, latents: Latents) -> list[NDArray[np.int8]]:
    """Class of each group (n_groups,) by each latent of a column."""
    found = []
    groups = np.arange(margin.n_groups)
    if margin.has_missing:
        found.append(np.where(groups == 0, 1, 0).astype(np.int8))
    if margin.ordered and margin.n_groups > 2:
        found.append((groups - 1).astype(np.int8))
    for pair in latents.child:
        classes = np.full(margin.n_groups, -1, np.int8)
        for i, side in enumerate(pair):
            classes[groups_below(latents.child, int(side))] = i
        found.append(classes)
    return found


def _indicators(classes: Sequence[NDArray[np.int8]]) -> tuple[Floats, NDArray[np.int32]]:
    """Which groups (n_classes, n_groups) are in each class of each latent, and the first class of each latent."""
    inside = [(np.arange(of.max() + 1)[:, None] == of).astype(np.float64) for of in classes]
    first = np.append(0, np.cumsum([len(of) for of in inside])).astype(np.int32)
    return np.vstack(inside), first
