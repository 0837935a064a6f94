"""Shadow models: attacks on membership by someone who can run the synthesis himself."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from fastsynth.copies import executor_of
from fastsynth.errors import DataError, DataWarning, OptionError, check_count, check_random_state, is_whole
from fastsynth.model import Model
from fastsynth.run import generate
from fastsynth.scores import DRAWS, Attack, Bools, Floats, Integers, Statistic, bootstrap, roc, roc_statistics
from fastsynth.space import (
    Points,
    Space,
    compared_columns,
    nearest,
    sample_rows,
    sampled_note,
    squared_distances,
)
from fastsynth.streams import ATTACK, random_words

# Rows that shadow models are made of, and targets among them.
SHADOW_ROWS, SHADOW_TARGETS = 2_000, 200


@dataclass(frozen=True, slots=True, eq=False)
class _Shadows:
    """What all shadow runs share."""

    population: pl.DataFrame
    recipe: Any
    space: Space
    targets: Points
    radii: Floats
    m: int
    entropy: int


def shadow_models(
    original: pl.DataFrame,
    recipe: Any,
    *,
    targets: int = SHADOW_TARGETS,
    shadows: int = 48,
    m: int = 5,
    rows: int = SHADOW_ROWS,
    random_state: int = 0,
    threads: int | None = None,
) -> list[Attack]:
    """Tell members from non-members by someone who can run the synthesis as often as he likes.

    1. Draw a population of ``rows`` rows and targets among them: half are the most outlying (furthest from the nearest
       other row), half are drawn at random from the rest.
    2. Split the population at random in two halves, fit ``recipe`` to each, and draw m copies as large as the half. So
       each target is a member in one of two runs. Repeat this until there are ``shadows`` runs.
    3. Describe, for each run and target, what is in all m copies around the target: distances to the nearest rows, rows
       equal in all columns or all but a few, rows with the target's value of each column, the gap to its numbers.
    4. In three quarters of the pairs of runs, learn how these differ between runs with and without the target: each
       feature from the target's own mean in its own standard deviations (a likelihood-ratio attack as LiRA), all
       features together by a linear discriminant of all targets. Score the runs that are left. Each is scored once.

    This is a strong attacker, who knows the recipe and all rows, but not which half the copies were made from. Copies
    of more rows tell less about each of them.

    Parameters
    ----------
    original : polars.DataFrame
    recipe : Synthesizer
        Options of the synthesis (``Synthesis.recipe``); it is cloned, not fitted.
    targets : int, default 200
        At least 4.
    shadows : int, default 48
        Runs; an even number of at least 8.
    m : int, default 5
        Copies of each run; the more there are, the more they tell.
    rows : int, default 2,000
        Rows of the population; all, if there are fewer.
    random_state : int, default 0
    threads : int, optional

    Returns
    -------
    list of Attack
        "shadow models (all)", "(outlying)" and "(random)", with AUC and true-positive rates over pairs of target and
        run, 95 % intervals of a bootstrap that draws targets and pairs of runs, and "AUC, worst tenth of targets": the
        .9 quantile of the targets' own AUCs (baseline: the .9 quantile if scores tell nothing).

    Raises
    ------
    OptionError, DataError
        Counts as above; fewer rows than targets, or than the recipe can be fitted to.

    Notes
    -----
    Costs ``shadows`` fits to half of ``rows`` rows; with 14 columns .1 to .3 s each.

    References
    ----------
    Stadler, Oprisanu and Troncoso (2022), Synthetic data - anonymisation groundhog day, USENIX Security.
    Carlini, Chien, Nasr, Song, Terzis and Tramer (2022), Membership inference attacks from first principles, IEEE S&P.
    Owen (2007), The pigeonhole bootstrap, AOAS 1:386.
    """
    check_shadows(shadows)
    counts = {"targets": (targets, 4), "m": (m, 1), "rows": (rows, 8)}
    for name, (count, least) in counts.items():
        if check_count(name, count) < least:
            raise OptionError(f"{name}={count}: must be at least {least}.")
    entropy = check_random_state(random_state)
    population, kept = sample_rows(original, rows, entropy, 10)
    if population.height < targets:
        raise DataError(f"targets={targets}: there are only {population.height} rows. Attack fewer targets.")
    job, chosen = _prepare_shadows(population, recipe, targets, m, entropy)
    with warnings.catch_warnings():
        # Whoever made the copies was told.
        warnings.simplefilter("ignore", DataWarning)
        pairs = [(run,) for run in range(shadows)]
        runs = executor_of(threads, None).map(_shadow_run, job, pairs, lambda _, x: x)
    features, member = (np.stack(part) for part in zip(*((f, np.isin(chosen, half)) for half, f in runs), strict=True))
    scores = _cross_fitted(features, member)
    note = sampled_note((population.height, original.height, "rows"))
    note = " ".join(filter(None, (f"{shadows} runs of {population.height // 2:,} rows, m = {m}.", note)))
    outlying = np.arange(targets) < targets // 2
    own = np.array([roc(scores[:, t], member[:, t])["AUC"][0] for t in range(targets)])
    records = pl.DataFrame({"row": kept[chosen], "group": np.where(outlying, "outlying", "random"), "AUC": own})
    groups = {"all": np.ones(targets, np.bool_), "outlying": outlying, "random": ~outlying}
    return [
        Attack(
            f"shadow models ({name})",
            int(group.sum()),
            _shadow_statistics(scores[:, group], member[:, group], own[group], entropy),
            note,
            records.filter(group).sort("row"),
        )
        for name, group in groups.items()
    ]


def check_shadows(shadows: Any) -> None:
    """Refuse numbers of runs that are not possible."""
    if not is_whole(shadows) or shadows < 8 or shadows % 2:
        raise OptionError(
            f"shadows={shadows!r}: must be an even number of at least 8, because runs come in pairs that share the "
            "rows out."
        )


def _prepare_shadows(
    population: pl.DataFrame, recipe: Any, n_targets: int, m: int, entropy: int
) -> tuple[_Shadows, Integers]:
    """Find the targets, outlying ones first."""
    names = compared_columns(population, sample(recipe, population, 1, entropy))
    space = Space.of([population.select(names)])
    points = space.points(population)
    distances = nearest(points, points, min(6, len(points)))[0].astype(np.float64)
    outlying = np.argsort(-distances[:, 1], kind="stable")[: n_targets // 2]
    rest = np.setdiff1d(np.arange(len(points)), outlying)
    drawn = np.argsort(random_words(entropy, (ATTACK, 11), len(rest)), kind="stable")[: n_targets - len(outlying)]
    chosen = np.concatenate([outlying, rest[drawn]])
    radii = distances[chosen][:, [1, -1]]
    return _Shadows(population, recipe, space, points.rows(chosen), radii, m, entropy), chosen


def _shadow_run(job: _Shadows, run: int) -> tuple[Integers, Floats]:
    """Rows that a run was fitted to, and what its copies show of the targets."""
    n = job.population.height // 2
    order = np.argsort(random_words(job.entropy, (ATTACK, 12, run // 2), job.population.height), kind="stable")
    half = np.sort(order[:n] if run % 2 == 0 else order[n : 2 * n])
    copies = sample(job.recipe, job.population[half], job.m, job.entropy + run)
    copied = Points.stack([job.space.points(copy) for copy in copies])
    return half, _describe(job.targets, copied, job.radii)


def _describe(targets: Points, copied: Points, radii: Floats) -> Floats:
    """Features of each target: what is in the copies around it."""
    squared = squared_distances(targets, copied)
    width = len(targets.ranks)
    equal = np.zeros(squared.shape, np.uint8 if width < 256 else np.uint16)
    columns = []
    for j, is_number in enumerate(targets.is_number):
        same = targets.ranks[j][:, None] == copied.ranks[j]
        equal += same
        columns.append(np.log1p(same.sum(axis=1)))
        if is_number:
            gap = np.abs(targets.values[j][:, None] - copied.values[j]).min(axis=1)
            columns.append(np.log(gap.astype(np.float64) + 1e-4))
    k = min(10, squared.shape[1])
    near = np.sqrt(np.sort(np.partition(squared, k - 1, axis=1)[:, :k], axis=1)).astype(np.float64)
    near = np.pad(near, ((0, 0), (0, 10 - k)), mode="edge")
    almost = [np.log1p((equal >= width - less).sum(axis=1)) for less in range(min(5, width))]
    within = [np.log1p((squared <= (share * r)[:, None] ** 2).sum(axis=1)) for r in radii.T for share in (0.5, 1.0)]
    distances = np.log(np.column_stack([near[:, [0, 1, 4, 9]], near[:, :5].mean(axis=1)]) + 0.01)
    return np.column_stack([distances, *almost, *within, *columns])


def _cross_fitted(features: Floats, member: Bools) -> Floats:
    """Score each run by what the runs of other folds teach; features are (runs, targets, features)."""
    scores = np.empty(member.shape)
    folds = np.arange(len(member)) // 2 % 4
    for fold in range(4):
        learn, is_in = folds != fold, member[folds != fold][:, :, None]
        some = features[learn]
        inside, outside = ((some * side).sum(axis=0) / side.sum(axis=0) for side in (is_in, ~is_in))
        left = some - np.where(is_in, inside, outside)
        # Each target's own variance, held to that of all targets as if four runs more had been seen.
        common = (left**2).mean(axis=(0, 1))
        spread = np.sqrt(((left**2).sum(axis=0) + 4 * common) / (len(some) + 2)) + 1e-9
        centred = (features - (inside + outside) / 2) / spread
        a, y = centred[learn].reshape(-1, features.shape[2]), is_in.ravel()
        means = [a[side].mean(axis=0) for side in (y, ~y)]
        within = a - np.where(y[:, None], *means)
        covariance = within.T @ within / len(a) + 0.05 * np.eye(a.shape[1])
        scores[~learn] = centred[~learn] @ np.linalg.solve(covariance, means[0] - means[1])
    return scores


def _shadow_statistics(scores: Floats, member: Bools, own: Floats, entropy: int) -> tuple[Statistic, ...]:
    runs, targets = scores.shape
    by_pair, by_target = bootstrap(runs // 2, entropy, 13), bootstrap(targets, entropy, 14)
    weights = (np.repeat(by_pair, 2, axis=1)[:, :, None] * by_target[:, None, :]).reshape(DRAWS, -1)
    found = roc_statistics(scores.ravel(), member.ravel(), weights, "pairs of target and run")
    # The .9 quantile of an AUC whose scores tell nothing, of as many runs with as without (Mann and Whitney 1947).
    none = 0.5 + 1.2816 * math.sqrt((runs + 1) / (3 * runs**2))
    return (*found, Statistic("AUC, worst tenth of targets", float(np.quantile(own, 0.9)), baseline=min(none, 1.0)))


def sample(recipe: Any, rows: pl.DataFrame, m: int, entropy: int, threads: int | None = 1) -> list[pl.DataFrame]:
    """Copies of some rows by a clone of the recipe, without identifiers, which are made anew."""
    options = recipe.get_params() | {"m": m, "random_state": entropy, "threads": threads, "client": None}
    fitted = type(recipe)(**options | {"progress": None}).fit(rows)
    model = getattr(fitted, "model_", None)
    if not isinstance(model, Model) or _is_checked(model):
        synthesis = fitted.sample(m=m, random_state=entropy)
        return [copy.drop(synthesis.identifiers) for copy in synthesis]
    # The same rows without what pooling needs to know, whose estimate takes a draw as large as all copies.
    tables, _ = generate(model, range(m), rows.height, entropy, executor_of(threads, None), lambda _: None)
    return [pl.DataFrame(model.frame.native(table)) for table in tables]


def _is_checked(model: Model) -> bool:
    """Whether ``Synthesizer.sample`` may refuse to draw so many rows."""
    return any(
        step.action == "identifier" or (step.guard is not None and step.guard.max_copies is not None)
        for step in model.plan.steps
    )
