"""Fit a plan, write copies drawn from the fitted model.

Flat maps over an executor: one task for each (fit, stratum, column), each (copy, block of rows). A task needs nothing
of another task.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fastsynth import draw
from fastsynth.block_fits import fit_blocks
from fastsynth.calibrate import MOST_VALUES, NO_PREDICTORS, Job, find_blur, fit_calibrated
from fastsynth.clusters import Clusters
from fastsynth.columns import FIRST, EncodedTable, Ranks, Variable
from fastsynth.draw_rows import draw_rows
from fastsynth.errors import DataError
from fastsynth.exact import Exact
from fastsynth.execute import Executor, Tick
from fastsynth.guards import guarded, kinds_of
from fastsynth.imputation import Imputation, begin, find_gaps
from fastsynth.impute import ImputePlan
from fastsynth.joint import Chains
from fastsynth.learn import Learned, code
from fastsynth.methods import (
    Calibrated,
    Cart,
    ColumnModel,
    Nested,
    Sample,
    Words,
    fit_column,
    fit_groups,
    fit_margin,
    refill,
)
from fastsynth.model import Model, Strata, with_states
from fastsynth.nested import fit_nested
from fastsynth.output import Output, Part, part_name, write_part
from fastsynth.plan import Fixed, Limit, Plan, Step, without_clusters
from fastsynth.private import PrivateModel
from fastsynth.reem import fit_clustered
from fastsynth.slopes import Slopes, add_up, excess_variance
from fastsynth.source import filesystem
from fastsynth.streams import BOOTSTRAP, REFILL, SUBSAMPLE, WEIGHT, below, hashed, random_words, unit

# Rows of a file. Part of the result: another size would give other bytes.
PART_ROWS = 8 * draw.BLOCK_ROWS
# With ``Cart(refill=True)``, leaves are filled from this many times ``fit_rows`` rows, if there are.
FILL = 8
# Bytes that one fit needs beside the codes for a row that trees are grown on, a little more than measured; for a row of
# calibrated leaves; and what a calibrated number keeps of it.
FIT_BYTES, LEAF_BYTES, KEPT_BYTES = 64, 24, 4
# Share of the memory limit that codes may take before they go to a file.
CODES_SHARE = 0.4
# With weights, leaves hold rows as often as they weigh, so many times as many in all, but not more than so many.
WEIGHT_ROWS, MOST_WEIGHT_ROWS = 8, 8_000_000
# A stratum needs so many times the rows of a leaf.
STRATUM_LEAVES = 5


# Fit


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows that models are fitted on.

    Attributes
    ----------
    coded : ndarray of shape (n_coded,), dtype=uint32, or None
        All that are needed, ascending; None for all.
    shapes : list of ndarray, dtype=uint32
        For each fit the rows that trees are grown on, as places in ``coded``. One fit for all copies, or with
        ``proper`` or ``fresh`` one for each.
    leaves : list of ndarray, dtype=uint32, or None
        For each fit the rows that leaves are filled with, those of the shape among them; None: no more than those.
    weighted : bool
        Whether leaves hold rows as often as they weigh.
    """

    coded: NDArray[np.uint32] | None
    shapes: list[NDArray[np.uint32]]
    leaves: list[NDArray[np.uint32]] | None
    weighted: bool = False

    def for_tables(self, m: int, whole: bool) -> Rows:
        """The same for m completed tables; ``whole`` if all rows have to be completed."""
        rows = self
        if whole and self.coded is not None:
            leaves = None if self.leaves is None else [self.coded[own] for own in self.leaves]
            rows = Rows(None, [self.coded[own] for own in self.shapes], leaves)
        if len(rows.shapes) > 1:
            return rows
        return replace(rows, shapes=rows.shapes * m, leaves=None if rows.leaves is None else rows.leaves * m)


def choose_rows(n: int, fit_rows: int | None, proper: bool, fresh: bool, m: int, entropy: int, fill: int = 1) -> Rows:
    """Choose the rows that models are fitted on: all n, bootstrap samples, or the rows with the smallest hashes.

    Trees are grown on the ``fit_rows`` rows with the smallest hashes. Leaves may be filled with the ``fill`` times as
    many rows with the smallest ones: a leaf gets a uniform sample of all its rows, and nobody has to look at the rest.
    A bootstrap sample is a draw of the population, so its leaves keep their rows.
    """
    if proper:
        samples = [_bootstrap(n, fit_rows or n, copy, entropy) for copy in range(m)]
        if fit_rows is None:
            return Rows(None, samples, None)
        coded = np.unique(np.concatenate(samples))
        return Rows(coded, [_places(coded, sample) for sample in samples], None)
    if fit_rows is None:
        return Rows(None, [np.arange(n, dtype=np.uint32)], None)
    copies = range(m if fresh else 1)
    shapes = [_subsample(n, fit_rows, copy, entropy) for copy in copies]
    if fill > 1 and fill * fit_rows >= n:
        return Rows(None, shapes, [np.arange(n, dtype=np.uint32)] * len(shapes))
    leaves = shapes if fill == 1 else [_subsample(n, min(fill * fit_rows, n), copy, entropy) for copy in copies]
    coded = leaves[0] if len(leaves) == 1 else np.unique(np.concatenate(leaves))
    filling = None if fill == 1 else [_places(coded, rows) for rows in leaves]
    return Rows(coded, [_places(coded, rows) for rows in shapes], filling)


def _places(among: NDArray[np.uint32], rows: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return np.searchsorted(among, rows).astype(np.uint32)


def _bootstrap(n: int, size: int, copy: int, entropy: int) -> NDArray[np.uint32]:
    """Rows drawn with replacement: sorted, which does not change the sample and reads memory in order."""
    words = random_words(entropy, (BOOTSTRAP, copy), size)
    return np.sort(below(words, n).astype(np.uint32))


def _subsample(n: int, size: int, copy: int, entropy: int) -> NDArray[np.uint32]:
    """The rows whose numbers have the smallest hashes: it matters neither who looks at a row nor when."""
    key = random_words(entropy, (SUBSAMPLE, copy), 1)
    # A little more than the expected share is looked at, and all rows in the rare case that this was too little.
    share = min((size + 6 * size**0.5 + 10) / n, 1.0)
    while True:
        bound = np.uint64(min(int(share * 2.0**64), 2**64 - 1))
        found_rows, found_hashes = [], []
        for start in range(0, n, 1 << 20):
            rows = np.arange(start, min(start + (1 << 20), n), dtype=np.uint64)
            hashes = hashed(rows, key)
            low = hashes <= bound
            found_rows.append(rows[low])
            found_hashes.append(hashes[low])
        hashes = np.concatenate(found_hashes)
        if len(hashes) >= size:
            break
        share = 1.0
    # Hashes of different rows differ: the function is a bijection.
    smallest = np.argpartition(hashes, size - 1)[:size]
    return np.sort(np.concatenate(found_rows)[smallest]).astype(np.uint32)


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """What the caller says of single rows.

    Attributes
    ----------
    where : dict
        By slot, the rows (n,) that are replaced, for columns of which not all are.
    weights : ndarray of shape (n,), dtype=float64, or None
    holes : dict
        By slot, the rows (n,) that are filled in, of columns of which the caller says so.
    ignored : ndarray of shape (n,), dtype=bool, or None
        Rows that nothing is fitted to that fills in.
    """

    where: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    weights: NDArray[np.float64] | None = None
    holes: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    ignored: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Imputing:
    """What is to be filled in before anything is synthesised.

    Attributes
    ----------
    plan : ImputePlan
    syntheses : int
        Copies of each completed table; 0 for these themselves.
    so_far : Imputation or None
        Chains to go on with.
    sweeps : int
        Of each chain, from now on.
    tick : callable
        Called with the number of chains that made a sweep.
    """

    plan: ImputePlan
    syntheses: int
    so_far: Imputation | None
    sweeps: int
    tick: Tick

    def run(
        self, table: EncodedTable, cells: Cells, coded: NDArray[np.uint32] | None, m: int, entropy: int,
        executor: Executor, memory: int,
    ) -> Imputation:  # fmt: skip
        """Fill in the holes of coded rows."""
        chains = self.so_far
        if chains is None:
            some = slice(None) if coded is None else coded
            ignored = None if cells.ignored is None else cells.ignored[some]
            where = {slot: of[some] for slot, of in cells.holes.items()}
            chains = begin(find_gaps(table, self.plan, where, ignored, entropy), m)
        return chains.continued(self.sweeps, executor, memory, self.tick)


def fit_plan(
    learned: Learned,
    plan: Plan,
    cells: Cells,
    fit_rows: int | None,
    fresh: bool,
    m: int,
    entropy: int,
    memory: int,
    executor: Executor,
    tick: Tick,
    imputing: Imputing | None = None,
) -> tuple[Model, dict[str, Chains], Imputation | None]:
    """Fit all columns on the observed earlier columns: all fits are independent, the biggest go first.

    Simple synthesis fits once for all copies; proper synthesis fits each copy on a bootstrap sample of the rows. With
    ``fit_rows`` trees are grown on so many rows, all copies on the same ones or with ``fresh`` each on its own; columns
    without predictors are drawn from all rows nevertheless, but for proper synthesis. Where missing values are filled
    in first, m completed tables are fitted. Chains of joint models, and of imputation, are given back beside the model.
    """
    n, strata = learned.n_rows, None
    syntheses = 1 if imputing is None else max(imputing.syntheses, 1)
    drawn = [step for step in plan.steps if step.action == "draw"]
    calibrated = any(isinstance(step.method, Calibrated) for step in drawn)
    # Calibrated leaves, nested codes and effects of clusters come from all rows, whatever the shape was grown on.
    nested = any(isinstance(step.method, Nested) for step in drawn)
    whole = calibrated or nested or plan.cluster is not None
    fill = -(-n // (fit_rows or n)) if whole else FILL if any(map(_refills, drawn)) else 1
    by_cluster = plan.cluster is not None and plan.proper
    rows = choose_rows(n, fit_rows, plan.proper and not by_cluster, fresh, m * syntheses, entropy, fill)
    if imputing is not None:
        rows = rows.for_tables(m, bool(plan.partial))
    if cells.weights is not None and not by_cluster:
        rows = weighted_rows(rows, cells.weights, plan.proper, entropy)
    kept = {step.slot for step in plan.steps if step.action in ("keep", "structure", "cluster")}
    kept |= cells.where.keys() | set(plan.strata)
    n_coded = n if rows.coded is None else len(rows.coded)
    needed = n_coded * sum(2 + (not v.codes_are_ranks) * v.rank_dtype().itemsize for v in learned.variables)
    mapped = learned.table is None and needed > CODES_SHARE * memory
    shape_rows, leaf_rows = (max((len(of_fit) for of_fit in of or ()), default=0) for of in (rows.shapes, rows.leaves))
    one_fit = FIT_BYTES * shape_rows
    if whole:
        leaf_rows = max(leaf_rows, shape_rows)
        one_fit += LEAF_BYTES * leaf_rows
        kept_bytes = sum(_kept_bytes(step, learned, shape_rows, leaf_rows) for step in drawn)
        needed += len(rows.shapes) * kept_bytes
    at_most = fits_at_once(memory - (0 if mapped else needed), one_fit)
    with tempfile.TemporaryDirectory(prefix="fastsynth-", ignore_cleanup_errors=True) as folder:
        place = Path(folder) if mapped else None
        # Completed tables keep their columns, but rules say what is filled in.
        ruled = plan.steps if imputing is None else imputing.plan.whole.steps
        table, all_ranks = code(learned, rows.coded, sorted(kept), ruled, place, executor, lambda _: None)
        clusters = None
        if plan.strata:
            of_columns = [all_ranks[slot] for slot in plan.strata]
            strata = Strata.of(plan.strata, of_columns)
            number = strata.numbers(of_columns)
            own = number if rows.coded is None else number[rows.coded]
            setting = Setting.of(table, rows, entropy, cells, own, len(strata.rows))
            _refuse_small_strata(setting, drawn)
        elif plan.cluster is not None:
            clusters, cluster = find_clusters(plan, plan.cluster, learned, all_ranks, cells.weights, entropy)
            if by_cluster and clusters.rows is not None:
                rows = bootstrap_within(clusters, cluster, m, entropy)
            elif by_cluster:
                rows, clusters = bootstrap_clusters(clusters, cluster, m, entropy)
            if by_cluster and cells.weights is not None:
                rows = weighted_rows(rows, cells.weights, True, entropy)
            own_cluster = cluster if rows.coded is None else cluster[rows.coded]
            stratum, turns = None, 1
            if clusters.led:
                stratum, turns = _lead(table, own_cluster), 2
            setting = Setting.of(table, rows, entropy, cells, stratum, turns)
            setting = replace(setting, cluster=own_cluster, clusters=clusters)
        else:
            setting = Setting.of(table, rows, entropy, cells)
        imputation = None
        if imputing is not None:
            room = memory - (0 if mapped else needed)
            imputation = imputing.run(table, cells, rows.coded, m, entropy, executor, room)
        fits: tuple[dict[int, ColumnModel], ...] = tuple({} for _ in range(len(rows.shapes) * setting.n_strata))
        # What is constant within clusters is drawn as the first row is.
        jobs = [(i, step) for i in range(len(fits)) for step in drawn if step.level == 1 or i % setting.n_strata == 0]
        plain = imputation is None and cells.weights is None and strata is None and clusters is None
        if fit_rows is not None and not plan.proper and plain:
            margins = [job for job in jobs if not job[1].predictors and job[1].slot not in setting.free]
            for fit, step in margins:
                variable, of_ranks = learned.variables[step.slot], learned.rows[step.slot]
                note = NO_PREDICTORS if isinstance(step.method, Calibrated) else ""
                margin = replace(fit_margin(variable, of_ranks), note=note)
                fits[fit][step.slot] = _blurred(margin, step, variable, of_ranks)
                tick(1)
            jobs = [job for job in jobs if job not in margins]
        jobs.sort(key=lambda job: -len(job[1].predictors))
        for of_table, its_jobs in _by_table(setting, jobs, imputation, syntheses if plan.proper else 1):

            def done(i: int, model: ColumnModel) -> None:
                fit, step = its_jobs[i]  # noqa: B023
                fits[fit][step.slot] = model
                tick(1)

            executor.map(fit_step, of_table, its_jobs, done, at_most)
        for i, of_fit in enumerate(fits):
            of_fit.update({step.slot: fits[i - i % setting.n_strata][step.slot] for step in drawn if step.level == 2})
        every = np.arange(table.n_rows, dtype=np.uint32)
        of_strata = [every] if strata is None else _split(every, own, len(strata.rows))
        blocks, imputed, chains = fit_blocks(
            plan, learned, table, of_strata, setting.cluster, clusters, m, entropy, executor
        )
        del table, setting
    if strata is not None and cells.weights is not None:
        number = strata.numbers([all_ranks[slot] for slot in plan.strata])
        scaled = np.bincount(number, cells.weights, len(strata.rows)) * (2**31 / cells.weights.sum())
        strata = replace(strata, rows=np.maximum(np.rint(scaled), 1).astype(np.int64))
    not_kept = {step.slot for step in plan.steps if step.action in ("stratum", "structure", "cluster")}
    all_ranks = {slot: ranks for slot, ranks in all_ranks.items() if slot not in not_kept}
    slopes = learned.slopes if cells.weights is None else Slopes.of(pa.table({}), ())
    if plan.cluster is not None:
        # Names of clusters are no numbers.
        slopes = slopes.without([learned.variables[plan.cluster].name])
    model = Model(
        plan,
        without_clusters(learned.variables, plan),
        learned.source.frame,
        n,
        fit_rows,
        fits,
        all_ranks,
        slopes,
        strata,
        cells.where,
        _effective_rows(cells.weights),
        clusters=clusters,
        blocks=blocks,
        imputed=imputed or imputation is not None,
        syntheses=1 if imputing is None else imputing.syntheses,
        filled=None if imputation is None else imputation.filled(sorted(all_ranks)),
    )
    return model, chains, imputation


def _by_table(
    setting: Setting, jobs: list[tuple[int, Step]], imputation: Imputation | None, fits_a_table: int
) -> Iterator[tuple[Setting, list[tuple[int, Step]]]]:
    """Fits with the table that they are of: the coded one, or each completed one in turn."""
    if imputation is None:
        yield setting, jobs
        return
    each = fits_a_table * setting.n_strata
    for i in range(len(setting.by_fit) // each):
        own = [job for job in jobs if job[0] // each == i]
        if own:
            yield replace(setting, table=imputation.completed(i)), own


def find_clusters(
    plan: Plan,
    slot: int,
    learned: Learned,
    ranks: Mapping[int, Ranks],
    weights: NDArray[np.float64] | None,
    entropy: int,
) -> tuple[Clusters, NDArray[np.int32]]:
    """Clusters of the original, and that of each row (n,); ``ranks`` are of all rows."""
    first, sizes = learned.variables[slot].first, learned.rows[slot][learned.variables[slot].first :]
    cluster = ranks[slot].astype(np.int32) - first
    if not sizes.all():
        # Categories that no row has are no clusters.
        cluster, sizes = (np.cumsum(sizes > 0) - 1).astype(np.int32)[cluster], sizes[sizes > 0]
    order = np.argsort(cluster, kind="stable")
    structure = {step.slot: ranks[step.slot][order] for step in plan.steps if step.action == "structure"}
    pools: tuple[NDArray[np.int32], ...] = ()
    if weights is not None:
        total = np.bincount(cluster, weights, len(sizes))
        pools = (np.repeat(np.arange(len(sizes), dtype=np.int32), _times(total / sizes, entropy)),)
    if any(step.slot == slot and step.action == "keep" for step in plan.steps):
        return Clusters(slot, sizes, rows=cluster, first_rows=order[np.cumsum(sizes) - sizes]), cluster
    counts = {}
    for variable in learned.variables:
        if variable.calendar is not None and variable.calendar[0] == slot and "=" in variable.calendar[1]:
            of, rank = map(int, variable.calendar[1].split("="))
            counts[variable.calendar[1]] = np.bincount(cluster[ranks[of] == rank], minlength=len(sizes))
    return Clusters(slot, sizes, structure, pools=pools, led=bool(structure), counts=counts), cluster


def _lead(table: EncodedTable, cluster: NDArray[np.int32]) -> NDArray[np.int64]:
    """Fill in what the first rows of clusters have, for their other rows; 0 for each first row, 1 for the others."""
    rows = np.arange(table.n_rows)
    first = np.zeros(int(cluster.max()) + 1, np.int64)
    # Written backwards, so that the first row of each cluster is what stays.
    first[cluster[::-1]] = rows[::-1]
    for slot, variable in enumerate(table.variables):
        if variable.calendar is not None and variable.calendar[1] == FIRST:
            table.codes[slot] = table.codes[variable.calendar[0], first[cluster]]
    other: NDArray[np.int64] = (first[cluster] != rows).astype(np.int64)
    return other


def bootstrap_clusters(clusters: Clusters, cluster: NDArray[np.int32], m: int, entropy: int) -> tuple[Rows, Clusters]:
    """Bootstrap samples of whole clusters: their rows, and the clusters that donors are drawn from in each copy."""
    order = np.argsort(cluster, kind="stable").astype(np.uint32)
    starts = np.cumsum(clusters.sizes) - clusters.sizes
    pool = clusters.pools[0] if clusters.pools else np.arange(clusters.n_clusters, dtype=np.int32)
    samples, pools = [], []
    for copy in range(m):
        # Of weighted clusters rows weigh afterwards, so each is as likely.
        drawn = below(random_words(entropy, (BOOTSTRAP, copy), clusters.n_clusters), clusters.n_clusters)
        size = clusters.sizes[drawn]
        within = np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size, size)
        samples.append(np.sort(order[np.repeat(starts[drawn], size) + within]))
        times = np.bincount(drawn, minlength=clusters.n_clusters)
        pools.append(np.repeat(pool, times[pool]))
    return Rows(None, samples, None), replace(clusters, pools=tuple(pools))


def bootstrap_within(clusters: Clusters, cluster: NDArray[np.int32], m: int, entropy: int) -> Rows:
    """Bootstrap samples of the rows of each cluster: clusters that are kept have to be in every sample."""
    order = np.argsort(cluster, kind="stable").astype(np.uint32)
    starts = np.cumsum(clusters.sizes) - clusters.sizes
    own = cluster[order]
    samples = []
    for copy in range(m):
        words = random_words(entropy, (BOOTSTRAP, copy), len(order))
        samples.append(np.sort(order[starts[own] + below(words, clusters.sizes[own])]))
    return Rows(None, samples, None)


def _effective_rows(weights: NDArray[np.float64] | None) -> float | None:
    """Kish (1965), Survey Sampling: the rows of a simple random sample with means as precise."""
    return None if weights is None else float(weights.sum() ** 2 / np.square(weights).sum())


def weighted_rows(rows: Rows, weights: NDArray[np.float64], proper: bool, entropy: int) -> Rows:
    """Rows whose leaves hold every row as often as it weighs, drawn systematically; trees are grown on each row once.

    So a leaf still has ``minbucket`` different rows, and its shares are those of the population.
    """
    n, times = len(weights), _times(weights, entropy)
    numbers = np.arange(n) if rows.coded is None else rows.coded
    shapes = [shape[times[numbers[shape]] > 0] for shape in rows.shapes]
    leaves = [np.repeat(own, times[numbers[own]]) for own in rows.leaves or rows.shapes]
    # A bootstrap sample holds rows twice: a tree of it is grown on each once, as of all others.
    shapes = [np.unique(shape) for shape in shapes] if proper else shapes
    return Rows(rows.coded, shapes, leaves, weighted=True)


def _times(weights: NDArray[np.float64], entropy: int) -> NDArray[np.int64]:
    """How often each row is repeated, in proportion to its weight: systematic sampling."""
    n = len(weights)
    total = n * max(1, min(WEIGHT_ROWS, MOST_WEIGHT_ROWS // n))
    start = float(unit(random_words(entropy, (WEIGHT,), 1))[0])
    ends = np.floor(np.cumsum(weights) * (total / weights.sum()) + start).astype(np.int64)
    return np.diff(np.append(0, ends))


def _free(table: EncodedTable, rows: Rows, cells: Cells) -> dict[int, NDArray[np.bool_]]:
    """By slot, the coded rows that a column is fitted on, if not all: those that no rule sets, and that are replaced.

    Reiter (2003), Inference for partially synthetic, public use microdata sets: what decides which cells are replaced
    may depend on their values, so their model is that of the cells that are replaced.
    """
    free = {slot: ~under for slot, under in table.ruled.items()}
    for slot, where in cells.where.items():
        own = where if rows.coded is None else where[rows.coded]
        free[slot] = own & free[slot] if slot in free else own
    return free


def _refuse_small_strata(setting: Setting, drawn: list[Step]) -> None:
    least = STRATUM_LEAVES * max((getattr(step.method, "minbucket", 1) for step in drawn), default=1)
    sizes = [len(np.unique(shape)) for shape, _ in setting.by_fit]
    small = sum(size < least for size in sizes[: setting.n_strata])
    if min(sizes) < least:
        raise DataError(
            f"strata: {small or 'some'} of {setting.n_strata} strata have fewer than {least} rows to fit models on. "
            "Use coarser strata, more fit_rows, or a smaller minbucket."
        )


def _by_stratum(
    rows: Rows, stratum: NDArray[np.int64] | None, n_strata: int
) -> list[tuple[NDArray[np.uint32], NDArray[np.uint32] | None]]:
    """For each fit, and in it for each stratum, the rows of shapes and those that fill leaves if they are others."""
    leaves: list[NDArray[np.uint32] | None] = (
        list(rows.leaves) if rows.leaves is not None else [None] * len(rows.shapes)
    )
    if stratum is None:
        return list(zip(rows.shapes, leaves, strict=True))
    found = []
    for shape, filling in zip(rows.shapes, leaves, strict=True):
        shapes = _split(shape, stratum, n_strata)
        fillings = [None] * n_strata if filling is None else _split(filling, stratum, n_strata)
        found += list(zip(shapes, fillings, strict=True))
    return found


def _split(rows: NDArray[np.uint32], stratum: NDArray[np.int64], n_strata: int) -> list[NDArray[np.uint32]]:
    order = np.argsort(stratum[rows], kind="stable")
    ends = np.searchsorted(stratum[rows][order], np.arange(n_strata), side="right")
    return np.split(rows[order], ends[:-1])


@dataclass(frozen=True, slots=True, eq=False)
class Setting:
    """What all fits share.

    Attributes
    ----------
    table : EncodedTable
    rows : Rows
    entropy : int
    free : dict
        By slot, the rows of the table (n_coded,) that a column is fitted on, if not all.
    n_strata : int
    by_fit : list of tuple
        For each fit, and in it for each stratum, the rows of shapes and those that fill leaves if they are others.
    cluster : ndarray of shape (n_coded,), dtype=int32, or None
        That of each row of the table.
    clusters : Clusters or None
    """

    table: EncodedTable
    rows: Rows
    entropy: int
    free: dict[int, NDArray[np.bool_]]
    n_strata: int
    by_fit: list[tuple[NDArray[np.uint32], NDArray[np.uint32] | None]]
    cluster: NDArray[np.int32] | None = None
    clusters: Clusters | None = None

    @classmethod
    def of(
        cls,
        table: EncodedTable,
        rows: Rows,
        entropy: int,
        cells: Cells,
        stratum: NDArray[np.int64] | None = None,
        n_strata: int = 1,
    ) -> Setting:
        """``stratum`` is that of each row of the table."""
        return cls(table, rows, entropy, _free(table, rows, cells), n_strata, _by_stratum(rows, stratum, n_strata))

    def chosen(self, fit: int, step: Step) -> tuple[NDArray[np.uint32], NDArray[np.uint32] | None]:
        """Rows that give a column's trees their shape, and those that fill the leaves if they are others."""
        shape, leaves = self.by_fit[fit]
        if step.level == 2:
            shape = shape if leaves is None else leaves
            # First rows are one of each cluster.
            shape, leaves = shape if self.n_strata == 2 else self._one_a_cluster(shape), None
        if step.slot not in self.free:
            return shape, leaves
        free, least = self.free[step.slot], getattr(step.method, "minbucket", 1)
        few, filling = shape[free[shape]], None if leaves is None else leaves[free[leaves]]
        if filling is not None and len(few) < 2 * least:
            # Too few of the rows that the column is fitted on are among those that give the shape.
            few = np.unique(filling)
        return (few, filling) if len(few) >= least else (shape, leaves)

    def is_alone(self, fit: int, step: Step) -> bool:
        """Whether there is one row of each cluster, so that effects of clusters cannot be told from what is left."""
        first = self.clusters is not None and self.clusters.led and fit % self.n_strata == 0
        return self.clusters is None or step.level == 2 or first

    def _one_a_cluster(self, rows: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """One row of each cluster among some rows, as often as it is among them as a whole."""
        assert self.cluster is not None
        assert self.clusters is not None
        found, first, count = np.unique(self.cluster[rows], return_index=True, return_counts=True)
        return np.repeat(rows[first], np.maximum(count // self.clusters.sizes[found], 1))


def fits_at_once(memory: int, one_fit: int) -> int:
    """How many tasks of so many bytes the memory has room for, at least one."""
    return max(1, memory // max(one_fit, 1))


def _kept_bytes(step: Step, learned: Learned, shape_rows: int, leaf_rows: int) -> int:
    """Bytes that a fitted calibrated column keeps: something of every row, or two numbers of each leaf and class."""
    variable = learned.variables[step.slot]
    if not isinstance(step.method, Calibrated) or not step.predictors:
        return 0
    if variable.kind == "numeric" and variable.n_used > MOST_VALUES:
        return KEPT_BYTES * leaf_rows
    return 16 * min(variable.n_used, MOST_VALUES) * shape_rows // step.method.minbucket


def _refills(step: Step) -> bool:
    return isinstance(step.method, Cart) and step.method.refill


def fit_step(setting: Setting, fit: int, step: Step) -> ColumnModel:
    """Fit one column on the rows of one fit and stratum, and guard its leaves."""
    key = random_words(setting.entropy, (REFILL, fit // setting.n_strata, step.slot), 1)
    words = partial(_row_words, setting.rows.coded, key)
    shape, leaves = setting.chosen(fit, step)
    led = setting.clusters is not None and setting.clusters.led
    if led and fit % setting.n_strata:
        step = replace(step, predictors=tuple(sorted({*step.predictors, *step.first})))
    model = _fit_step(setting, fit, step, shape, leaves, words)
    rows = shape if leaves is None else leaves
    if step.guard is not None:
        model = guarded(model, step.guard, setting.table, step.slot, rows, words)
    variable, ranks = setting.table.variables[step.slot], setting.table.ranks[step.slot]
    if not _may_blur(step, variable):
        return model
    # People who stand in leaves more than once (bootstrap samples, weights) are one all the same.
    held = np.bincount(ranks[np.unique(rows)], minlength=len(variable.values))
    return _blurred(model, step, variable, held)


def _is_margin(step: Step) -> bool:
    """Whether a column is a calibrated one that has nothing to be moved along, and nothing else is asked for it."""
    asked = step.smoothing is not None or step.noise > 0
    return isinstance(step.method, Calibrated) and not step.predictors and not step.groups and not asked


def _may_blur(step: Step, variable: Variable) -> bool:
    return variable.kind == "numeric" and (step.smoothing is not None or step.noise > 0 or _is_margin(step))


def _blurred(model: ColumnModel, step: Step, variable: Variable, rows: NDArray[np.int64]) -> ColumnModel:
    """The column with what is done to its numbers, learned from the people who have each rank (n_ranks,).

    Calibrated numbers are new values. Where there are no predictors to move them along, those that few people have are
    moved among their neighbours.
    """
    if not _may_blur(step, variable) or (_is_margin(step) and model.shift is not None):
        return model
    held = rows.copy()
    held[: variable.first] = 0
    held[[rank for rank in kinds_of(model).tolist() if rank < len(held)]] = 0
    if model.values is None or not held.any():
        return model
    enough = step.method.minbucket if isinstance(step.method, Calibrated) else 0
    return replace(model, blur=find_blur(variable, held, step.smoothing, step.noise, enough))


def _fit_step(
    setting: Setting,
    fit: int,
    step: Step,
    shape: NDArray[np.uint32],
    leaves: NDArray[np.uint32] | None,
    words: Words,
) -> ColumnModel:
    table, rows, method = setting.table, setting.rows, step.method
    filling = shape if leaves is None else leaves
    if isinstance(method, Calibrated) or (setting.clusters is not None and not setting.is_alone(fit, step)):
        minbucket = 1 if isinstance(method, Sample) else method.minbucket  # type: ignore[union-attr]
        special = (step.spikes, step.groups, rows.weighted)
        job = Job(table, step.slot, step.predictors, minbucket, shape, filling, words, *special)
        if setting.clusters is None or setting.cluster is None or setting.is_alone(fit, step):
            return fit_calibrated(job)
        assert isinstance(method, Cart | Sample | Calibrated)
        return fit_clustered(job, setting.cluster, setting.clusters.n_clusters, method)
    if isinstance(method, Nested):
        within = next(slot for slot in step.predictors if table.variables[slot].name == method.within)
        of_copy = fit // setting.n_strata
        every = rows.shapes[of_copy] if rows.leaves is None else rows.leaves[of_copy]
        return fit_nested(table, step.slot, step.predictors, within, method.minbucket, filling, every, words)
    assert isinstance(method, Cart | Sample)
    if step.groups:
        model = fit_groups(table, step.slot, step.predictors, method, shape, step.spikes, step.groups)
    else:
        model = fit_column(table, step.slot, step.predictors, method, shape, step.spikes)
    if leaves is None or not (rows.weighted or _refills(step)):
        return model
    return refill(table, step.slot, model, leaves, words, step.spikes)


def _row_words(
    coded: NDArray[np.uint32] | None, key: NDArray[np.uint64], places: NDArray[np.uint32]
) -> NDArray[np.uint64]:
    """A random word for each row that fills leaves, by its number in the table."""
    numbers = places if coded is None else coded[places]
    return hashed(numbers.astype(np.uint64), key)


def fingerprint(*what: Any) -> str:
    """Eight digits that differ, but for chance, when something does; too few to tell anything of it.

    Steps of a plan, variables, tables, schemas, arrays, bytes, iterables of these, and what ``repr`` shows as it is.
    """
    digest = hashlib.sha256()
    for item in what:
        if isinstance(item, np.ndarray):
            digest.update(np.ascontiguousarray(item).data)
        elif isinstance(item, pa.Table):
            digest.update(
                fingerprint(item.schema, [_ipc(batch) for batch in item.combine_chunks().to_batches()]).encode()
            )
        elif isinstance(item, bytes):
            digest.update(item)
        elif isinstance(item, pa.Schema):
            digest.update(item.serialize())
        elif isinstance(item, Variable):
            digest.update(_ipc(pa.record_batch([item.values], ["values"])))
            digest.update(repr((item.first, item.has_nan, item.calendar)).encode())
        elif isinstance(item, Step):
            options = (item.method, item.predictors, item.spikes, item.groups, item.pattern, item.level, item.first)
            what = (item.name, item.action, *options, item.guard, item.smoothing, item.noise)
            digest.update(repr(what).encode())
            for rule in item.rules:
                digest.update(repr((rule.rank, rule.parents)).encode())
            conditions: tuple[Fixed | Limit, ...] = (*item.rules, *item.limits)
            for expression in (item.expression, *(of.expression for of in conditions)):
                digest.update(b"" if expression is None else expression.meta.serialize())
        elif isinstance(item, Iterable) and not isinstance(item, str):
            digest.update(fingerprint(*item).encode())
        else:
            digest.update(repr(item).encode())
    return digest.hexdigest()[:8]


def _ipc(batch: pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return bytes(sink.getvalue())


def model_arrays(model: Model) -> Iterator[NDArray[Any]]:
    """Every array of a model, in a fixed order."""
    for fit in model.fits:
        for slot in sorted(fit):
            for tree in (fit[slot].missing, fit[slot].means, fit[slot].values):
                if tree is not None:
                    yield from (tree.nodes, tree.count, tree.level_mask, tree.levels, tree.donors)
            pools = fit[slot].pools
            if pools is not None:
                yield from (pools.lowest, pools.offset, pools.donors)
            shift = fit[slot].shift
            if shift is not None:
                regression = shift.regression
                yield from (regression.tables, regression.numbers, regression.weights, shift.means)
            for tilt in (fit[slot].tilt_missing, fit[slot].tilt):
                if tilt is not None:
                    yield from (tilt.weights, tilt.counts, tilt.centre)
    for part in with_states(model):
        record, arrays = part[1].state()
        yield np.frombuffer(json.dumps(record, sort_keys=True).encode(), np.uint8)
        yield from (arrays[name] for name in sorted(arrays))
    for slot in sorted(model.kept):
        yield model.kept[slot]
    for slot in sorted(model.where):
        yield model.where[slot]
    if model.strata is not None:
        yield from (model.strata.ranks, model.strata.rows)
    if model.exact is not None:
        yield model.exact.hashes


# Draw


def generate(
    model: Model | PrivateModel, copies: Iterable[int], k: int, entropy: int, executor: Executor, tick: Tick
) -> tuple[list[pa.Table], Counter[str]]:
    """Draw copies of k rows each, and count rows that found nothing admissible where they should."""
    model, total = _for_copies(model, entropy, k), Counter[str]()
    starts = range(0, k, draw.BLOCK_ROWS)
    jobs = [(entropy, copy, start, min(start + draw.BLOCK_ROWS, k)) for copy in copies for start in starts]

    def done(i: int, drawn: tuple[pa.RecordBatch, Counter[str]]) -> pa.RecordBatch:
        tick(jobs[i][3] - jobs[i][2])
        total.update(drawn[1])
        return drawn[0]

    batches = executor.map(draw_any, model, jobs, done)
    tables = [
        pa.Table.from_batches(batches[i : i + len(starts)], schema=model.frame.schema)
        for i in range(0, len(batches), len(starts))
    ]
    return tables, total


def with_exact(model: Model, exact: Exact | None, entropy: int) -> Model:
    """The model with what is done about rows that equal a real one: their share is found in a first draw."""
    if exact is None:
        return model
    rows = min(model.n_rows, draw.BLOCK_ROWS)
    batch, _ = draw_rows(replace(model.without_max_copies(), extent=(entropy, 0, rows)), entropy, 0, 0, rows)
    return replace(model, exact=exact.with_found(len(exact.find(model.variables, batch.columns)) / rows))


def write_copies(
    model: Model | PrivateModel, m: int, k: int, entropy: int, output: Output, executor: Executor, tick: Tick
) -> None:
    """Draw copies of k rows each into a folder; parts that it lists as finished are passed over."""
    names = part_names(m, k)
    jobs = [
        (entropy, copy, part * PART_ROWS, min((part + 1) * PART_ROWS, k), output.folder, name)
        for copy, of_copy in enumerate(names)
        for part, name in enumerate(of_copy)
        if name not in output.finished
    ]
    tick(m * k - sum(job[3] - job[2] for job in jobs))

    def done(i: int, part: Part) -> None:
        output.add(part)
        tick(jobs[i][3] - jobs[i][2])

    executor.map(draw_part, _for_copies(model, entropy, k), jobs, done)


def _for_copies(model: Model | PrivateModel, entropy: int, k: int) -> Model | PrivateModel:
    return model if isinstance(model, PrivateModel) else replace(model, extent=(entropy, 0, k))


def draw_any(
    model: Model | PrivateModel, entropy: int, copy: int, start: int, stop: int
) -> tuple[pa.RecordBatch, Counter[str]]:
    """Draw rows [start, stop) of one copy, as ``draw_rows``."""
    if isinstance(model, PrivateModel):
        return model.draw(entropy, copy, start, stop), Counter()
    return draw_rows(model, entropy, copy, start, stop)


def part_names(m: int, k: int, n_parts: int | None = None) -> list[list[str]]:
    """Names of the parts of each copy; partitions have one part each."""
    n_parts = -(-k // PART_ROWS) if n_parts is None else n_parts
    return [[part_name(copy, m, part, n_parts) for part in range(n_parts)] for copy in range(m)]


def write_table(table: pa.Table, output: Output, names: list[str]) -> None:
    """Write a copy that is in memory."""
    for part, name in enumerate(names):
        output.add(write_part(output.folder, name, table.slice(part * PART_ROWS, PART_ROWS)))


def draw_part(
    model: Model | PrivateModel, entropy: int, copy: int, start: int, stop: int, folder: str, name: str
) -> Part:
    """Draw rows [start, stop) of one copy and write them as a file."""
    batch, counts = draw_any(model, entropy, copy, start, stop)
    return replace(write_part(folder, name, pa.Table.from_batches([batch])), counts=dict(sorted(counts.items())))


def find_v(model: Model, copies: list[list[pa.Table | str]], executor: Executor) -> float | None:
    """Find v of copies, each given as tables or paths of files."""
    # Declared noise is none of the models'.
    noisy = [step.name for step in model.plan.steps if step.noise]
    slopes = model.slopes.without(noisy)
    names = slopes.names
    if len(names) < 2:
        return None
    jobs = [(part,) for parts in copies for part in parts]
    found = executor.map(_slopes_of, names, jobs, lambda _, part: part)
    ends = np.cumsum([len(parts) for parts in copies])
    of_copies = [add_up(found[end - len(parts) : end]) for end, parts in zip(ends, copies, strict=True)]
    kept = {step.name for step in model.plan.steps if step.action == "keep"}
    return excess_variance(slopes, of_copies, np.array([name in kept for name in names], bool))


def _slopes_of(names: tuple[str, ...], part: pa.Table | str) -> Slopes:
    if isinstance(part, str):
        system, inside = filesystem(part)
        part = pq.ParquetFile(inside, filesystem=system).read(columns=list(names))
    return Slopes.of(part, names)
