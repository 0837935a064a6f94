"""How well an attack did: rates, ROC curves and their uncertainty, and the records that hold them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fastsynth.streams import ATTACK, below, random_words

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Draws of a bootstrap, and the .975 quantile of the normal distribution.
DRAWS, Z = 400, 1.959963984540054
FALSE_POSITIVES = {"TPR at FPR 1 %": 0.01, "TPR at FPR 0.1 %": 0.001}


@dataclass(frozen=True, slots=True)
class Statistic:
    """One number of an attack.

    Attributes
    ----------
    name : str
        "AUC", "TPR at FPR 1 %", "risk", ...
    value : float or None
        None where there are too few rows for it; ``note`` says so.
    low, high : float or None
        Limits of a 95 % interval.
    baseline : float or None
        What the number would be without any leak.
    note : str
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    baseline: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Attack:
    """What an attack achieved.

    Attributes
    ----------
    name : str
    n_targets : int
        Members that were attacked; of "distances" the synthetic rows, of singling out the predicates.
    statistics : tuple of Statistic
    note : str
        What was sampled, and other limits.
    records : polars.DataFrame or None
        Of attacks on membership, one row for each member attacked, ``row`` numbered in the table of the members from 0:
        score and false_positives (share of the non-members whose score is as high), called (the score is above that of
        99 % of the non-members); of shadow models group ("outlying", "random") and AUC.
    """

    name: str
    n_targets: int
    statistics: tuple[Statistic, ...]
    note: str = ""
    records: pl.DataFrame | None = None

    def __getitem__(self, statistic: str) -> float | None:
        """Value of a statistic."""
        for found in self.statistics:
            if found.name == statistic:
                return found.value
        raise KeyError(statistic)


def attacks_table(attacks: Sequence[Attack]) -> pl.DataFrame:
    """All statistics of some attacks as one table.

    Returns
    -------
    polars.DataFrame
        attack, statistic, value, low, high, baseline, n_targets, note.

    Examples
    --------
    >>> attacks_table([Attack("linkability", 50, (Statistic("risk", 0.1, 0.0, 0.2, 0.0),))]).row(0)
    ('linkability', 'risk', 0.1, 0.0, 0.2, 0.0, 50, '')
    """
    numbers = dict.fromkeys(("value", "low", "high", "baseline"), pl.Float64)
    schema = {"attack": pl.String, "statistic": pl.String, **numbers, "n_targets": pl.Int64, "note": pl.String}
    rows = [
        (a.name, s.name, s.value, s.low, s.high, s.baseline, a.n_targets, " ".join(filter(None, (s.note, a.note))))
        for a in attacks
        for s in a.statistics
    ]
    return pl.DataFrame(rows, schema, orient="row")


def roc(scores: Floats, member: Bools, weights: Floats | None = None) -> dict[str, Floats]:
    """AUC, advantage and true-positive rates at low false-positive rates, for many weightings of the targets at once.

    Parameters
    ----------
    scores : ndarray of shape (n,)
        Higher means more likely a member.
    member : ndarray of shape (n,), dtype=bool
    weights : ndarray of shape (b, n), optional
        How often each target counts; the default is once.

    Returns
    -------
    dict of str to ndarray of shape (b,)
        "AUC": probability that a member scores higher than a non-member, ties half. "TPR at FPR 1 %", "TPR at FPR
        0.1 %": share of the members above the lowest threshold that at most so many non-members exceed (Carlini et al.
        2022). "advantage": largest TPR - FPR of any threshold (Yeom et al. 2018).

    Notes
    -----
    O(n log n + b n).

    Examples
    --------
    >>> found = roc(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False]))
    >>> float(found["AUC"][0]), float(found["advantage"][0])
    (0.875, 0.5)
    """
    weights = np.ones((1, len(scores))) if weights is None else weights
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    found: dict[str, list[Floats]] = {}
    for some in np.array_split(weights, -(-weights.size // 2_000_000)):
        ordered, is_member = some[:, order], member[order]
        tpr, fpr = (np.cumsum(ordered * side, axis=1)[:, ends] for side in (is_member, ~is_member))
        with np.errstate(invalid="ignore"):
            tpr, fpr = (np.pad(rate, ((0, 0), (1, 0))) / rate[:, -1:] for rate in (tpr, fpr))
        part = {"AUC": (np.diff(fpr) * (tpr[:, 1:] + tpr[:, :-1])).sum(axis=1) / 2}
        for name, share in FALSE_POSITIVES.items():
            part[name] = np.where(fpr <= share + 1e-12, tpr, 0.0).max(axis=1)
        part["advantage"] = (tpr - fpr).max(axis=1)
        for name, values in part.items():
            found.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in found.items()}


def roc_statistics(scores: Floats, member: Bools, weights: Floats, what: str) -> tuple[Statistic, ...]:
    """Statistics of ``roc`` with percentile intervals of a bootstrap, given as weights of its draws."""
    value, draws = roc(scores, member), roc(scores, member, weights)
    n, n_others = int(member.sum()), int((~member).sum())
    # Mean of the largest distance between the ROC curve and the diagonal if scores tell nothing.
    expected = math.sqrt(math.pi / 8 * (1 / n + 1 / n_others))
    baselines = {"AUC": 0.5, "advantage": expected, **FALSE_POSITIVES}
    found = []
    for name, baseline in baselines.items():
        fewest = round(1 / FALSE_POSITIVES.get(name, 1.0))
        if n_others < fewest:
            note = f"Needs {fewest:,} {what}, there are {n_others:,}."
            found.append(Statistic(name, None, baseline=baseline, note=note))
            continue
        # A draw that has no member, or no other, says nothing.
        low, high = np.nanquantile(draws[name], [0.025, 0.975])
        found.append(Statistic(name, float(value[name][0]), float(low), float(high), baseline))
    return tuple(found)


def bootstrap(n: int, entropy: int, *key: int) -> Floats:
    """How often each of n is drawn, in each of some draws of n with replacement: (DRAWS, n)."""
    drawn = below(random_words(entropy, (ATTACK, *key), DRAWS * n), n) + np.repeat(np.arange(DRAWS) * n, n)
    return np.bincount(drawn, minlength=DRAWS * n).reshape(DRAWS, n).astype(np.float64)


def wilson(successes: int, attacks: int) -> tuple[float, float]:
    """Centre and half width of the 95 % interval of Wilson (1927) for a success rate.

    Examples
    --------
    >>> [round(x, 4) for x in wilson(10, 100)]
    [0.1148, 0.0596]
    """
    total = attacks + Z**2
    half = Z / total * math.sqrt(successes * (attacks - successes) / attacks + Z**2 / 4)
    return (successes + Z**2 / 2) / total, half


def risk(main: tuple[int, int], control: tuple[int, int]) -> tuple[float, float, float]:
    """Excess of an attack's success over that of the control, as a share of what the control left to achieve.

    Parameters
    ----------
    main, control : tuple of int
        Successes and attacks, against members and against rows that the copies were not made from.

    Returns
    -------
    tuple of float
        (r - c) / (1 - c) for the centres r, c of Wilson intervals, and the limits of a 95 % interval by propagation of
        their half widths; all between 0 and 1.

    References
    ----------
    Giomi, Boenisch, Wehmeyer and Tasnadi (2023), A unified framework for quantifying privacy risk in synthetic data,
    PoPETs 2023(2):312.

    Examples
    --------
    >>> [round(x, 4) for x in risk((50, 100), (10, 100))]
    [0.4352, 0.3201, 0.5503]
    """
    (r, r_half), (c, c_half) = wilson(*main), wilson(*control)
    value = (r - c) / (1 - c)
    half = math.hypot(r_half / (1 - c), c_half * (1 - r) / (1 - c) ** 2)
    return min(max(value, 0.0), 1.0), min(max(value - half, 0.0), 1.0), min(max(value + half, 0.0), 1.0)


def risk_statistics(main: Bools, control: Bools, naive: float) -> tuple[Statistic, ...]:
    """Success rates of the attack, the control and a guess, and the risk."""
    counts = [(int(side.sum()), len(side)) for side in (main, control)]
    rates = [successes / attacks for successes, attacks in counts]
    limits = []
    for successes, attacks in counts:
        centre, half = wilson(successes, attacks)
        limits.append((max(centre - half, 0.0), min(centre + half, 1.0)))
    value, low, high = risk(*counts)
    weak = "" if rates[0] > naive else "A guess succeeds as often."
    return (
        Statistic("risk", value, low, high, 0.0, weak),
        Statistic("success", rates[0], *limits[0], naive),
        Statistic("control", rates[1], *limits[1], naive),
    )


def called_members(attacks: Sequence[Attack]) -> Integers:
    """Numbers of the rows that some attack on membership calls members at 1 % false positives, ascending."""
    called = [
        attack.records.filter("called")["row"].to_numpy()
        for attack in attacks
        if attack.records is not None and "called" in attack.records.columns
    ]
    return np.unique(np.concatenate([*called, np.zeros(0, np.int64)])).astype(np.int64)
