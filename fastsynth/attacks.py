"""Attacks on copies: who was in the data, who can be singled out, linked, or have a value inferred.

Every attack has a control: the same attack on hold-out rows, real rows of the same population that the copies were not
made from. What succeeds against them as often is a property of the population, not a leak. An attack that fails is no
proof of safety: another one may succeed.

Terms: *members* are rows that the copies were made from, *non-members* are not; a *target* is a row that is attacked.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fastsynth.copies import executor_of
from fastsynth.errors import (
    DataError,
    DataWarning,
    OptionError,
    check_column_list,
    check_count,
    check_random_state,
    is_real,
)
from fastsynth.scores import (
    FALSE_POSITIVES,
    Attack,
    Bools,
    Floats,
    Integers,
    Statistic,
    Z,
    attacks_table,
    bootstrap,
    risk_statistics,
    roc_statistics,
)
from fastsynth.shadows import SHADOW_TARGETS, sample, shadow_models
from fastsynth.space import (
    UNSEEN,
    Points,
    Space,
    compared_columns,
    nearest,
    sample_copies,
    sample_rows,
    sampled_note,
)
from fastsynth.streams import ATTACK, HOLDOUT, below, random_words, unit
from fastsynth.synthesis import Synthesizer

__all__ = [
    "Attack",
    "attack_copies",
    "attack_recipe",
    "attacks_table",
    "inference",
    "linkability",
    "membership",
    "record_distances",
    "shadow_models",
    "singling_out",
]

# Most rows that are attacked, and most that they are compared with.
MOST_TARGETS, MOST_INDEX = 10_000, 50_000
# Nearest reference rows of a density.
NEIGHBOURS = 5
# Fewest hold-out rows; each half of them is a group of its own.
FEWEST_HOLDOUT = 20
ALARM = (
    "An alarm only, no evidence of safety: copies that pass tests of distance have been attacked with success "
    "(Yao et al. 2025, The DCR delusion)."
)


# --- Membership ---


def membership(
    members: pl.DataFrame,
    nonmembers: pl.DataFrame,
    copies: Sequence[pl.DataFrame],
    reference: pl.DataFrame | None = None,
    *,
    random_state: int = 0,
    threads: int | None = None,
) -> list[Attack]:
    """Tell members from non-members by how near synthetic rows are to them.

    Parameters
    ----------
    members : polars.DataFrame
        Rows that the copies were made from; at most 10,000 of them are attacked.
    nonmembers : polars.DataFrame
        Rows of the same population that they were not made from; at most 10,000.
    copies : list of polars.DataFrame
        All m copies; the attacker sees all of them (at most 50,000 rows, as many of each).
    reference : polars.DataFrame, optional
        Further real rows that are neither: what the attacker knows of the population.

    Returns
    -------
    list of Attack
        "membership (distance)": the score is less the distance to the nearest synthetic row. With ``reference`` also
        "membership (density ratio)", as DOMIAS of van Breugel et al. (2023): log density of the copies less that of the
        reference, by the nearest synthetic row and the five nearest real ones, so that it does not take rows for
        members that lie where everybody does; and "membership (values)": the same for each column by itself, counting
        rows with the target's value, added up. That finds copies of values that nobody else has.

    Raises
    ------
    DataError
        Tables without common columns or rows.

    Notes
    -----
    O(targets (copies + reference) columns). Intervals are percentiles of 400 bootstrap draws of members and
    non-members.

    References
    ----------
    van Breugel, Sun, Qian and van der Schaar (2023), Membership inference attacks against synthetic data through
    overfitting detection, AISTATS.

    Examples
    --------
    >>> import fastsynth as fs
    >>> boys = fs.load_boys()
    >>> leak = membership(boys[::2], boys[1::2], [boys[::2]])[0]
    >>> leak["AUC"] > 0.95
    True
    """
    entropy, executor = check_random_state(random_state), executor_of(threads, None)
    sides, index, note = _sampled(members, nonmembers, copies, entropy, 0)
    others = [] if reference is None else [sample_rows(reference, MOST_INDEX, entropy, 2)[0]]
    space = Space.of([sides[0][0], sides[1][0], index, *others])
    targets = Points.stack([space.points(rows) for rows, _ in sides])
    copied = space.points(index)
    synthetic = nearest(targets, copied, 1, executor)[0]
    scores = {"membership (distance)": -synthetic[:, 0].astype(np.float64)}
    if others:
        known = space.points(others[0])
        real = nearest(targets, known, min(NEIGHBOURS, len(known)), executor)[0]
        scores["membership (density ratio)"] = _log_mean(real) - _log_mean(synthetic)
        scores["membership (values)"] = _log_frequency(targets, copied) - _log_frequency(targets, known)
    is_member = np.arange(len(targets)) < len(sides[0][1])
    weights = np.hstack([bootstrap(len(rows), entropy, 3, i) for i, (_, rows) in enumerate(sides)])
    return [
        Attack(
            name,
            len(sides[0][1]),
            roc_statistics(score, is_member, weights, "non-members"),
            note,
            _called(score, is_member, sides[0][1]),
        )
        for name, score in scores.items()
    ]


def _sampled(
    members: pl.DataFrame, nonmembers: pl.DataFrame, copies: Sequence[pl.DataFrame], entropy: int, key: int
) -> tuple[list[tuple[pl.DataFrame, Integers]], pl.DataFrame, str]:
    """Members and non-members to attack, each with their row numbers; rows of all copies; what was sampled."""
    sides = [sample_rows(side, MOST_TARGETS, entropy, key + i) for i, side in enumerate((members, nonmembers))]
    index = sample_copies(copies, MOST_INDEX, entropy)
    note = sampled_note(
        (sides[0][0].height, members.height, "members"),
        (sides[1][0].height, nonmembers.height, "non-members"),
        (index.height, sum(copy.height for copy in copies), "synthetic rows"),
    )
    return sides, index, note


def _log_mean(distances: NDArray[np.float32]) -> Floats:
    """Mean logarithm of the distances to neighbours; less it, times the dimension, is a log density."""
    # A row that is equal is as near as one that differs by a hundredth of a typical difference.
    logs: Floats = np.log(distances.astype(np.float64) + 0.01)
    return np.asarray(logs.mean(axis=1))


def _log_frequency(targets: Points, index: Points) -> Floats:
    """Sum over columns of the logarithm of how many rows have the target's value."""
    found = np.zeros(len(targets))
    for own, ranks in zip(targets.ranks - UNSEEN, index.ranks - UNSEEN, strict=True):
        counts = np.bincount(ranks, minlength=int(own.max()) + 1)
        found += np.log(counts[own] + 0.5)
    return found


def _called(scores: Floats, member: Bools, rows: Integers) -> pl.DataFrame:
    """For each member attacked, the share of non-members that score as high."""
    others = np.sort(scores[~member])
    own = scores[member]
    above = (len(others) - np.searchsorted(others, own, side="left")) / len(others)
    enough = len(others) >= round(1 / FALSE_POSITIVES["TPR at FPR 1 %"])
    called = (above <= FALSE_POSITIVES["TPR at FPR 1 %"]) & enough
    return pl.DataFrame({"row": rows, "score": own, "false_positives": above, "called": called}).sort("row")


# --- Singling out, linking, inferring ---


def singling_out(
    members: pl.DataFrame,
    nonmembers: pl.DataFrame,
    copies: Sequence[pl.DataFrame],
    *,
    attacks: int = 1_000,
    random_state: int = 0,
) -> list[Attack]:
    """Guess predicates that are true of exactly one real row.

    *Univariate*: a column has a value that one row of a copy has, or is at least its largest, at most its smallest
    number. *Multivariate*: a random synthetic row gives conditions on a random subset of two columns or more (equal to
    its category; on the far side of its number, seen from the median), kept if one row of that copy meets them.

    A predicate succeeds if exactly one row of a sample of the members meets it; the control asks the same of the
    non-members. Both have the same number of rows, because it is easier to be alone among few. Of members that are more
    than the non-members only as many are attacked, so that a leak looks smaller by that share. The guess to compare
    with has the same columns, and each value from a non-member of its own: it knows the margins of the population only.

    Parameters
    ----------
    members, nonmembers : polars.DataFrame
    copies : list of polars.DataFrame
    attacks : int, default 1,000
        Predicates of either kind, at most.

    Returns
    -------
    list of Attack
        "singling out (univariate)", if there is such a predicate, and "(multivariate)": risk, success, control.

    References
    ----------
    Cohen and Nissim (2020), Towards formalizing the GDPR's notion of singling out, PNAS 117:8344.
    Giomi, Boenisch, Wehmeyer and Tasnadi (2023), A unified framework for quantifying privacy risk in synthetic data,
    PoPETs 2023(2):312.
    """
    attacks, entropy = check_count("attacks", attacks), check_random_state(random_state)
    size = min(members.height, nonmembers.height, MOST_INDEX)
    sides = [sample_rows(side, size, entropy, 20 + i)[0] for i, side in enumerate((members, nonmembers))]
    drawn = [sample_rows(copy, MOST_INDEX, entropy, 22, i)[0] for i, copy in enumerate(copies)]
    space = Space.of([*sides, *drawn])
    real, other = (space.points(side) for side in sides)
    synthetic = [space.points(copy) for copy in drawn]
    note = sampled_note((size, members.height, "members"), (size, nonmembers.height, "non-members"))
    found = []
    for kind, make in (("univariate", _univariate), ("multivariate", _multivariate)):
        predicates = make(synthetic, attacks, entropy)
        guesses = _guessed(predicates, other, entropy)
        if predicates:
            main, control, naive = (
                np.array([_meets(predicate, points).sum() == 1 for predicate in some])
                for some, points in ((predicates, real), (predicates, other), (guesses, real))
            )
            statistics = risk_statistics(main, control, float(naive.mean()))
            found.append(Attack(f"singling out ({kind})", len(predicates), statistics, note))
    return found


# A predicate: columns, one of "equal", "least", "most" for each (at least, at most), and ranks.
Predicate = tuple[tuple[int, str, int], ...]


def _meets(predicate: Predicate, points: Points) -> Bools:
    """Rows for which all conditions hold."""
    holds = np.ones(len(points), np.bool_)
    for column, side, rank in predicate:
        ranks = points.ranks[column]
        if side == "equal":
            holds &= ranks == rank
        else:
            holds &= (ranks >= rank) if side == "least" else (ranks <= rank) & (ranks >= 0)
    return holds


def _univariate(copies: Sequence[Points], most: int, entropy: int) -> list[Predicate]:
    found: set[Predicate] = set()
    for points in copies:
        for j, is_number in enumerate(points.is_number):
            values, counts = np.unique(points.ranks[j], return_counts=True)
            found |= {((j, "equal", int(value)),) for value in values[counts == 1]}
            if is_number and values[-1] >= 0:
                found.add(((j, "least", int(values[-1])),))
                found.add(((j, "most", int(values[values >= 0][0])),))
    ordered = sorted(found)
    kept = np.sort(np.argsort(random_words(entropy, (ATTACK, 23), len(ordered)), kind="stable")[:most])
    return [ordered[i] for i in kept]


def _multivariate(copies: Sequence[Points], most: int, entropy: int) -> list[Predicate]:
    width = len(copies[0].ranks)
    medians = [[np.median(ranks[ranks >= 0]) if (ranks >= 0).any() else 0 for ranks in c.ranks] for c in copies]
    # Four tries for each predicate: not every one is true of a single row.
    tries = 4 * most
    rows, sizes = (unit(random_words(entropy, (ATTACK, 25, i), tries)) for i in range(2))
    order = np.argsort(random_words(entropy, (ATTACK, 26), tries * width).reshape(tries, width), axis=1, kind="stable")
    found: dict[Predicate, None] = {}
    for i in range(tries):
        which = i % len(copies)
        points, row = copies[which], int(rows[i] * len(copies[which]))
        columns = np.sort(order[i, : min(2 + int(sizes[i] * (width - 1)), width)])
        predicate = tuple(_condition(points, medians[which], int(j), row) for j in columns)
        if predicate not in found and _meets(predicate, points).sum() == 1:
            found[predicate] = None
        if len(found) == most:
            break
    return list(found)


def _condition(points: Points, medians: Sequence[float], column: int, row: int) -> tuple[int, str, int]:
    rank = int(points.ranks[column, row])
    if not points.is_number[column] or rank < 0:
        return column, "equal", rank
    return column, "least" if rank >= medians[column] else "most", rank


def _guessed(predicates: Sequence[Predicate], rows: Points, entropy: int) -> list[Predicate]:
    """The same predicates with each value taken from a row drawn for it alone."""
    width = len(rows.ranks)
    drawn = below(random_words(entropy, (ATTACK, 24), len(predicates) * width), len(rows)).reshape(-1, width)
    return [
        tuple((j, side, int(rows.ranks[j, drawn[i, j]])) for j, side, _ in predicate)
        for i, predicate in enumerate(predicates)
    ]


def linkability(
    members: pl.DataFrame,
    nonmembers: pl.DataFrame,
    copies: Sequence[pl.DataFrame],
    first: Sequence[str],
    second: Sequence[str],
    *,
    neighbours: int = 5,
    random_state: int = 0,
    threads: int | None = None,
) -> Attack:
    """Link two sources about the same person by the copies.

    The attacker has some columns of a target in one source and other columns in another. He links them if a synthetic
    row is among the nearest ones in both.

    Parameters
    ----------
    members, nonmembers : polars.DataFrame
        At most 10,000 of each are attacked.
    copies : list of polars.DataFrame
        At most 50,000 rows of them.
    first, second : list of str
        Columns of the two sources; none in both.
    neighbours : int, default 5
        How many nearest rows count.

    Returns
    -------
    Attack
        "linkability": risk, success, control; the baseline is the chance that two random sets of rows overlap.

    Raises
    ------
    OptionError
        No columns, unknown ones, or a column in both lists.

    References
    ----------
    Giomi, Boenisch, Wehmeyer and Tasnadi (2023), PoPETs 2023(2):312.
    """
    names, entropy = members.columns, check_random_state(random_state)
    sets = [check_column_list(option, columns, names) for option, columns in (("first", first), ("second", second))]
    if set(sets[0]) & set(sets[1]):
        raise OptionError("first and second may not share a column.")
    (real, other, synthetic), note, space = _three(members, nonmembers, copies, [*sets[0], *sets[1]], entropy)
    k = min(check_count("neighbours", neighbours), len(synthetic))
    linked = []
    for targets in (real, other):
        near = []
        for names_of_set in sets:
            chosen = [space.names.index(name) for name in names_of_set]
            near.append(nearest(targets.columns(chosen), synthetic.columns(chosen), k, executor_of(threads, None))[1])
        linked.append((near[0][:, :, None] == near[1][:, None, :]).any(axis=(1, 2)))
    free = np.arange(len(synthetic) - k, len(synthetic) - 2 * k, -1)
    naive = 1 - float(np.prod(np.maximum(free, 0) / np.arange(len(synthetic), len(synthetic) - k, -1)))
    return Attack("linkability", len(real), risk_statistics(linked[0], linked[1], naive), note)


def inference(
    members: pl.DataFrame,
    nonmembers: pl.DataFrame,
    copies: Sequence[pl.DataFrame],
    keys: Sequence[str],
    target: str,
    *,
    tolerance: float = 0.05,
    random_state: int = 0,
    threads: int | None = None,
) -> Attack:
    """Guess a value of a target from the synthetic row that is nearest in the columns that are known.

    Parameters
    ----------
    members, nonmembers : polars.DataFrame
        At most 10,000 of each are attacked.
    copies : list of polars.DataFrame
        At most 50,000 rows of them.
    keys : list of str
        What the attacker knows.
    target : str
        What he guesses. A category has to be right; a number may be off by ``tolerance`` of the true one's size.
    tolerance : float, default 0.05

    Returns
    -------
    Attack
        "inference of <target>": risk, success, control. The baseline is the success of the commonest synthetic value.

    Raises
    ------
    OptionError
        Unknown columns, a target that is a key, a tolerance that is negative or not a finite number.

    References
    ----------
    Giomi, Boenisch, Wehmeyer and Tasnadi (2023), PoPETs 2023(2):312.
    """
    names, entropy = members.columns, check_random_state(random_state)
    known = check_column_list("keys", keys, names)
    check_column_list("target", [target], names)
    if target in known:
        raise OptionError(f"target={target!r}: must not be one of the keys.")
    if not is_real(tolerance) or not math.isfinite(tolerance) or tolerance < 0:
        raise OptionError(f"tolerance={tolerance!r}: must be a number of at least 0.")
    (real, other, synthetic), note, space = _three(members, nonmembers, copies, [*known, target], entropy)
    chosen, which = [space.names.index(name) for name in known], space.names.index(target)
    levels, counts = np.unique(synthetic.ranks[which], return_counts=True)
    commonest = np.full(len(real), levels[np.argmax(counts)])

    def right(targets: Points, guesses: NDArray[np.int32]) -> Bools:
        return space.agree(which, guesses, targets.ranks[which], float(tolerance))

    found = []
    for targets in (real, other):
        rows = nearest(targets.columns(chosen), synthetic.columns(chosen), 1, executor_of(threads, None))[1][:, 0]
        found.append(right(targets, synthetic.ranks[which][rows]))
    naive = float(right(real, commonest).mean())
    return Attack(f"inference of {target}", len(real), risk_statistics(found[0], found[1], naive), note)


def _three(
    members: pl.DataFrame, nonmembers: pl.DataFrame, copies: Sequence[pl.DataFrame], names: Sequence[str], entropy: int
) -> tuple[list[Points], str, Space]:
    """Members, non-members and all copies as points, and what was sampled."""
    tables = [table.select(names) for table in (members, nonmembers, *copies)]
    sides, index, note = _sampled(tables[0], tables[1], tables[2:], entropy, 30)
    frames = [*(rows for rows, _ in sides), index]
    space = Space.of(frames)
    return [space.points(frame) for frame in frames], note, space


# --- Distances ---


def closest(distances: NDArray[Any]) -> tuple[Floats, Floats]:
    """Distance to the closest record (DCR) and ratio to the second closest (NNDR; 0/0 is 1).

    Parameters
    ----------
    distances : ndarray of shape (n, 2)
        To the nearest and the second nearest real row.

    Examples
    --------
    >>> closest(np.array([[0.1, 0.9], [0.0, 0.0]]))[1].round(6).tolist()
    [0.111111, 1.0]
    """
    first, second = np.asarray(distances, np.float64).T
    return first, np.divide(first, second, out=np.ones_like(first), where=second > 0)


def record_distances(
    members: pl.DataFrame,
    holdout: pl.DataFrame,
    copies: Sequence[pl.DataFrame],
    *,
    random_state: int = 0,
    threads: int | None = None,
) -> Attack:
    """Distances of synthetic rows to members and to hold-out rows: on request, because they prove nothing.

    Members and hold-out are cut to the same size, at most 50,000, and at most 10,000 synthetic rows are looked at.

    Returns
    -------
    Attack
        "distances": "closer to members" is the share of synthetic rows that are nearer to a member than to any hold-out
        row, ties half, with the interval of a share (baseline .5; Platzer and Reutterer 2021); "z" is its distance from
        .5 in standard errors; "DCR, 5 % quantile", "DCR, median", "NNDR, 5 % quantile" and "NNDR, median" to the
        members, each with that to the hold-out as baseline.

    References
    ----------
    Platzer and Reutterer (2021), Holdout-based empirical assessment of mixed-type synthetic data, Front. Big Data 4.
    Yao, Krco, Ganev and de Montjoye (2025), The DCR delusion, ESORICS.
    """
    entropy, executor = check_random_state(random_state), executor_of(threads, None)
    size = min(members.height, holdout.height, MOST_INDEX)
    sides = [sample_rows(side, size, entropy, 40 + i)[0] for i, side in enumerate((members, holdout))]
    drawn = sample_copies(copies, MOST_TARGETS, entropy)
    space = Space.of([*sides, drawn])
    synthetic = space.points(drawn)
    found = [closest(nearest(synthetic, space.points(side), 2, executor)[0]) for side in sides]
    (own, own_ratio), (other, other_ratio) = found
    share, k = float((own < other).mean() + (own == other).mean() / 2), len(synthetic)
    half = Z * math.sqrt(0.25 / k)
    statistics = [
        Statistic("closer to members", share, max(share - half, 0.0), min(share + half, 1.0), 0.5),
        Statistic("z", (share - 0.5) / math.sqrt(0.25 / k), baseline=0.0),
    ]
    for name, of_members, of_others in (("DCR", own, other), ("NNDR", own_ratio, other_ratio)):
        for label, p in (("5 % quantile", 0.05), ("median", 0.5)):
            both = [float(np.quantile(side, p)) for side in (of_members, of_others)]
            statistics.append(Statistic(f"{name}, {label}", both[0], baseline=both[1]))
    sampled = sampled_note(
        (size, members.height, "members"),
        (size, holdout.height, "hold-out rows"),
        (k, sum(copy.height for copy in copies), "synthetic rows"),
    )
    return Attack("distances", k, tuple(statistics), " ".join(filter(None, (ALARM, sampled))))


# --- All of them ---


def attack_copies(
    original: pl.DataFrame,
    copies: Sequence[pl.DataFrame],
    holdout: pl.DataFrame,
    *,
    keys: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    distances: bool = False,
    random_state: int = 0,
    threads: int | None = None,
) -> list[Attack]:
    """Attack copies with all attacks that need no refit.

    Parameters
    ----------
    original : polars.DataFrame
        Rows that the copies were made from.
    copies : list of polars.DataFrame
    holdout : polars.DataFrame
        At least 20 rows of the same population that they were *not* made from. A random half of them is the reference
        of the density ratio, the other half are its non-members; all are the control of the other attacks.
    keys, targets : list of str, optional
        What an attacker knows of a person, and what he would like to know: inference of each target from all keys. With
        ``keys``, linkability is between keys and the other columns, else between every other column and the rest.
        ``targets`` without ``keys`` are inferred from all other columns.
    distances : bool, default False
        Whether to report DCR, NNDR and their likes.
    random_state : int, default 0
        What is sampled; not the random state of the synthesis.
    threads : int, optional

    Returns
    -------
    list of Attack

    Raises
    ------
    DataError, OptionError
        Columns that cannot be compared, too few rows, unknown columns.

    Examples
    --------
    >>> import fastsynth as fs
    >>> boys = fs.load_boys()
    >>> made_from, holdout = boys[::2], boys[1::2]
    >>> syn = fs.synthesize(made_from, m=2, random_state=1)
    >>> found = attack_copies(made_from, list(syn), holdout, keys=["age", "reg"], targets=["tv"])
    >>> [attack.name for attack in found][3:]
    ['singling out (univariate)', 'singling out (multivariate)', 'linkability', 'inference of tv']
    """
    if not copies:
        raise DataError("There is nothing to attack: give at least one copy.")
    names = compared_columns(original, copies)
    known = [] if keys is None else check_column_list("keys", keys, names)
    wanted = [] if targets is None else check_column_list("targets", targets, names)
    if holdout.height < FEWEST_HOLDOUT:
        raise DataError(f"Attacks need a hold-out of at least {FEWEST_HOLDOUT} rows; there are {holdout.height}.")
    missing = [name for name in names if name not in holdout.columns]
    if missing:
        raise DataError(f"The hold-out lacks column {missing[0]!r} of the original.")
    original, holdout = original.select(names), holdout.select(names)
    copies = [copy.select(names) for copy in copies]
    entropy = check_random_state(random_state)
    order = np.argsort(random_words(entropy, (HOLDOUT, 1), holdout.height), kind="stable")
    reference, nonmembers = (holdout[np.sort(half)] for half in np.array_split(order, 2))
    common: dict[str, Any] = {"random_state": entropy, "threads": threads}
    found = membership(original, nonmembers, copies, reference, **common)
    found += singling_out(original, holdout, copies, random_state=entropy)
    first = [name for name in names if name in known] if known else names[::2]
    second = [name for name in names if name not in first]
    if second:
        found.append(linkability(original, holdout, copies, first, second, **common))
    for target in wanted:
        by = [name for name in (known or names) if name != target]
        if by:
            found.append(inference(original, holdout, copies, by, target, **common))
    if distances:
        found.append(record_distances(original, holdout, copies, **common))
    return found


def attack_recipe(
    original: pl.DataFrame,
    recipe: Synthesizer,
    *,
    holdout: float = 0.2,
    m: int = 5,
    shadows: int = 0,
    keys: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    distances: bool = False,
    random_state: int = 0,
    threads: int | None = None,
) -> list[Attack]:
    """Attack the way in which copies were made: hold rows out, synthesise the others the same way, attack that.

    The copies that are attacked are not those that will be released, but siblings of them.

    Parameters
    ----------
    original : polars.DataFrame
    recipe : Synthesizer
        Options of the synthesis (``Synthesis.recipe``); it is cloned, not fitted.
    holdout : float, default 0.2
        Share of the rows that is held out.
    m : int, default 5
        Copies to attack.
    shadows : int, default 0
        Runs of ``shadow_models``; 0 leaves them out.
    keys, targets, distances, random_state, threads
        As in ``attack_copies``.

    Returns
    -------
    list of Attack
        Row numbers of ``records`` are those of ``original``.

    Raises
    ------
    OptionError
        A share that is not between 0 and 1, no recipe.
    DataError
        Too few rows to hold some out.

    Notes
    -----
    One fit, ``shadows`` fits of at most 1,000 rows each, and the cost of ``attack_copies``.
    """
    if not isinstance(recipe, Synthesizer):
        raise OptionError("attack_recipe needs a Synthesizer; copies of a folder or of a loaded model have no recipe.")
    if not is_real(holdout) or not 0 < holdout < 1:
        raise OptionError(f"holdout={holdout!r}: must be a share of the rows, between 0 and 1.")
    n, entropy = original.height, check_random_state(random_state)
    n_out = round(n * float(holdout))
    if n_out < FEWEST_HOLDOUT or n - n_out < FEWEST_HOLDOUT:
        raise DataError(
            f"{n} rows with holdout={holdout}: at least {FEWEST_HOLDOUT} rows have to be held out, and as many kept."
        )
    order = np.argsort(random_words(entropy, (HOLDOUT, 0), n), kind="stable")
    out, kept = np.sort(order[:n_out]), np.sort(order[n_out:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        copies = sample(recipe, original[kept], check_count("m", m), entropy, threads)
    common: dict[str, Any] = {"random_state": entropy, "threads": threads}
    found = attack_copies(
        original[kept], copies, original[out], keys=keys, targets=targets, distances=distances, **common
    )
    found = [
        attack if attack.records is None else replace(attack, records=_numbered(attack.records, kept))
        for attack in found
    ]
    if shadows:
        targets_of = min(SHADOW_TARGETS, n)
        found += shadow_models(original, recipe, shadows=shadows, m=m, targets=targets_of, **common)
    return found


def _numbered(records: pl.DataFrame, rows: Integers) -> pl.DataFrame:
    return records.with_columns(pl.Series("row", rows[records["row"].to_numpy()]))
