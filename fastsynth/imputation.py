"""Chained equations: m chains that fill in what is missing, judged, continued.

All of it is done on coded rows. What a chain has filled in is the rank of an observed value for each hole, so a chain
is kept as few numbers, and a completed table is the coded one with these written into it::

    column        codes of the table        holes (rows)     state of chain 1      state of chain 2
    gen           3 1 0 0 2 0 ...           2 3 5 ...        1 1 4 ...             2 1 5 ...

A sweep goes through the columns with holes: it fits a tree where the column is observed, on the bootstrap sample of
this sweep, given all other columns as they stand, and draws the holes from its leaves. Random numbers come from chain,
sweep and column, so a chain is the same on any number of threads and goes on as if it had never stopped.

Sources
-------
van Buuren and Groothuis-Oudshoorn (2011), JSS 45(3). Burgette and Reiter (2010), American Journal of Epidemiology
172:1070. Rubin (1987), Multiple Imputation for Nonresponse in Surveys, on proper imputation.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import f as f_distribution

from fastsynth import association
from fastsynth.calibrate import Job, fit_calibrated
from fastsynth.columns import EncodedTable, Ranks, Variable
from fastsynth.draw import Drawing, mixed
from fastsynth.errors import OptionError
from fastsynth.execute import Executor, Tick
from fastsynth.impute import Forest, ImputePlan
from fastsynth.methods import Calibrated, Cart, ColumnModel, Sample, class_ids, fit_column, grow, refill, scaled
from fastsynth.model import Filled, Model
from fastsynth.plan import AUTO_COLUMNS, AUTO_PREDICTORS, Step
from fastsynth.rowwise import evaluate, table_of, under_rules
from fastsynth.slopes import Slopes
from fastsynth.source import spread_rows
from fastsynth.streams import IMPUTE, below, hashed, random_words, unit

Floats = NDArray[np.float64]
Rows = NDArray[np.uint32]
# Ranks of the holes of each column, by slot.
State = dict[int, Ranks]
# Trees are grown on at most so many rows; in the last sweep all rows fill the leaves.
MOST_ROWS = 100_000
# Chains that have not mixed would look like this, or worse, by chance once in so many columns.
CHANCE = 1e-3
# An R-hat of at most this has never done harm.
R_HAT = 1.05
# Means that differ by less are equal but for rounding.
ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Gaps:
    """What chains share.

    Attributes
    ----------
    table : EncodedTable
        With nothing filled in.
    plan : ImputePlan
    holes : dict of int to ndarray, dtype=uint32
        By slot, the rows to fill in; of passive columns those to compute.
    known : dict of int to ndarray of shape (n_rows,), dtype=bool
        By slot, the rows that models may be fitted to: those with a value.
    together : dict of int to tuple
        By slot, the block that a column belongs to, and the rows that lack all of it.
    entropy : int
    """

    table: EncodedTable
    plan: ImputePlan
    holes: dict[int, Rows]
    known: dict[int, NDArray[np.bool_]]
    together: dict[int, tuple[tuple[int, ...], Rows]]
    entropy: int

    @property
    def is_monotone(self) -> bool:
        """Whether rows that lack a column lack all that are visited later: one sweep then says all there is to say."""
        visited = [self.holes[step.slot] for step in self.plan.steps]
        return all(len(np.setdiff1d(a, b)) == 0 for a, b in itertools.pairwise(visited))

    @property
    def bytes_a_chain(self) -> int:
        """Memory that a running chain needs for itself."""
        table = self.table
        return 3 * table.codes.nbytes + sum(table.ranks[slot].nbytes for slot in self.holes)


def find_gaps(
    table: EncodedTable,
    plan: ImputePlan,
    where: Mapping[int, NDArray[np.bool_]],
    ignored: NDArray[np.bool_] | None,
    entropy: int,
) -> Gaps:
    """Find the holes of a coded table, and what each column is predicted from in a wide one.

    Parameters
    ----------
    where : dict of int to ndarray of shape (n_rows,), dtype=bool
        By slot, the cells to fill in, of columns of which the caller says so.
    ignored : ndarray of shape (n_rows,), dtype=bool, or None
        Rows that nothing is fitted to.

    Raises
    ------
    OptionError
        A cell to fill in has a value; no row has a value of a column, or of all columns of a block, to fill in.
    """
    holes, known = {}, {}
    for step in plan.steps:
        lost, has_value = is_hole(table, step.slot, where), table.ranks[step.slot] >= table.variables[step.slot].first
        seen = int((lost & has_value).sum())
        if seen:
            raise OptionError(
                f"where of {step.name!r} in Impute names {seen:,} cells with a value. What was observed stays: name "
                "cells that are null, NaN, or a code of cont_na."
            )
        holes[step.slot] = np.flatnonzero(lost & ~_skipped(table, step, lost)).astype(np.uint32)
        known[step.slot] = has_value if step.slot not in table.ruled else has_value & ~table.ruled[step.slot]
        if ignored is not None:
            known[step.slot] &= ~ignored
        if len(holes[step.slot]) and not known[step.slot].any():
            raise OptionError(
                f"impute: no row has a value of {step.name!r} that missing ones could be filled in from (rows under "
                f"its rules, and rows that are ignored, do not count). Leave the column out, or say "
                f"Impute(method={{{step.name!r}: ''}})."
            )
    for step in plan.passive:
        holes[step.slot] = np.flatnonzero(is_hole(table, step.slot, {})).astype(np.uint32)
    holes = {slot: rows for slot, rows in holes.items() if len(rows)}
    together = _together(table, plan.blocks, holes, known)
    steps = tuple(step for step in plan.steps if step.slot in holes)
    passive = tuple(step for step in plan.passive if step.slot in holes)
    if len(table.frame.schema) > AUTO_COLUMNS:
        steps = _narrowed(table, steps, plan.given)
    return Gaps(table, replace(plan, steps=steps, passive=passive), holes, known, together, entropy)


def _together(
    table: EncodedTable,
    blocks: Sequence[tuple[int, ...]],
    holes: Mapping[int, Rows],
    known: Mapping[int, NDArray[np.bool_]],
) -> dict[int, tuple[tuple[int, ...], Rows]]:
    """For each column of a block the block, and the rows that lack all of it."""
    found = {}
    for block in blocks:
        if not np.all([known[slot] for slot in block], axis=0).any():
            names = ", ".join(repr(table.variables[slot].name) for slot in block)
            raise OptionError(f"blocks of Impute: no row has values of all of {names}, so there is no donor.")
        shared = functools.reduce(np.intersect1d, [holes.get(slot, np.zeros(0, np.uint32)) for slot in block])
        found.update(dict.fromkeys(block, (block, shared)))
    return found


def _skipped(table: EncodedTable, step: Step, lost: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Missing cells that a rule wants to be missing."""
    skipped = np.zeros(table.n_rows, bool)
    under = table.ruled.get(step.slot)
    if under is None or not (under & lost).any():
        return skipped
    rows = np.flatnonzero(under & lost)
    parents = sorted({slot for rule in step.rules for slot in rule.parents})

    def column(slot: int) -> Any:
        return table.variables[slot].decode(table.ranks[slot][rows])

    for rank, of_rule in under_rules(step, table_of(parents, column, table.variables, table.frame.schema)):
        # The later rule counts.
        skipped[rows[of_rule]] = rank < table.variables[step.slot].first
    return skipped


def is_hole(table: EncodedTable, slot: int, where: Mapping[int, NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """Cells of a column that are null or NaN, or that the caller says."""
    if slot in where:
        return where[slot]
    lost: NDArray[np.bool_] = table.ranks[slot] <= int(table.variables[slot].has_nan)
    return lost


def _narrowed(table: EncodedTable, steps: tuple[Step, ...], given: Collection[int]) -> tuple[Step, ...]:
    """In a wide table the columns that each one goes with most, where the caller has not said what predicts it."""
    rows = spread_rows(table.n_rows, association.n_rows(len(table.variables)))
    codes = np.take(table.codes, rows, axis=1)
    free = [step.slot for step in steps if step.slot not in given]
    found = association.strongest(codes, range(len(codes)), free, len(codes), earlier=False)

    def of(step: Step) -> Step:
        allowed = set(step.predictors)
        best = itertools.islice((slot for slot in found[step.slot] if slot in allowed), AUTO_PREDICTORS)
        return replace(step, predictors=tuple(sorted(best)))

    return tuple(step if step.slot in given else of(step) for step in steps)


class Chain:
    """One completed table on its way: the coded table with what a chain has filled in so far."""

    def __init__(self, gaps: Gaps, state: State) -> None:
        self.gaps = gaps
        table = gaps.table
        codes, own = np.array(table.codes), list(table.ranks)
        for slot in gaps.holes:
            own[slot] = codes[slot] if table.variables[slot].codes_are_ranks else np.array(own[slot])
        self.table = EncodedTable(table.variables, tuple(own), codes, table.frame, table.ruled)
        self.parts: dict[int, list[int]] = {}
        for place, variable in enumerate(table.variables):
            if variable.calendar is not None:
                self.parts.setdefault(variable.calendar[0], []).append(place)
        for slot, ranks in state.items():
            self.put(slot, gaps.holes[slot], ranks)
        if state:
            self.compute()

    def put(self, slot: int, rows: Rows, ranks: Ranks) -> None:
        """Write ranks into a column, and into parts of its dates."""
        table = self.table
        table.ranks[slot][rows] = ranks
        for place in (slot, *self.parts.get(slot, ())):
            table.codes[place][rows] = table.variables[place].codes(ranks)

    def compute(self, slot: int | None = None) -> None:
        """Compute passive columns where they are missing: all, or those that depend on a column."""
        changed, table = {slot}, self.table
        for step in self.gaps.plan.passive:
            if slot is not None and not changed & set(step.predictors):
                continue
            changed.add(step.slot)
            rows = self.gaps.holes[step.slot]
            array = self.computed(step, rows)
            for place in (step.slot, *self.parts.get(step.slot, ())):
                table.codes[place][rows] = table.variables[place].nearest_codes(array)

    def computed(self, step: Step, rows: Rows) -> Any:
        """Values of a passive column for some rows."""
        passive = {of.slot: of for of in self.gaps.plan.passive}

        def column(slot: int) -> Any:
            # A value that is computed need not be one that occurs, so parents that are passive are computed again.
            if slot in passive and len(np.intersect1d(rows, self.gaps.holes[slot])):
                return self._mixed(passive[slot], rows)
            return self.table.variables[slot].decode(self.table.ranks[slot][rows])

        parents = table_of(step.predictors, column, self.table.variables, self.table.frame.schema)
        return evaluate(step, parents, self.table.frame.schema)

    def _mixed(self, step: Step, rows: Rows) -> Any:
        """A passive column for some rows: what is observed, or computed where it was missing."""
        own = self.table.variables[step.slot].decode(self.table.ranks[step.slot][rows])
        lost = np.isin(rows, self.gaps.holes[step.slot])
        return mixed(own, self.computed(step, rows), lost)

    def state(self) -> State:
        """What was filled in."""
        return {step.slot: self.table.ranks[step.slot][self.gaps.holes[step.slot]] for step in self.gaps.plan.steps}

    # A sweep

    def sweep(self, number: int, sweep: int, last: bool) -> Counter[str]:
        """Fill in all columns anew; counts by column the rows for which nothing was admissible."""
        gaps, stuck = self.gaps, Counter[str]()
        rows = self._rows(number, sweep)
        seen = set(range(len(self.table.variables))) - set(gaps.holes)
        for step in gaps.plan.steps:
            if sweep == 0:
                # Columns not filled in yet say nothing so far.
                step = replace(step, predictors=tuple(s for s in step.predictors if self._source(s) in seen))
            entropy = _entropy(gaps.entropy, number, sweep, step.slot)
            block, shared = gaps.together.get(step.slot, ((step.slot,), np.zeros(0, np.uint32)))
            if step.slot == block[0] and len(shared):
                self._draw_together(step, block, shared, rows, entropy, last)
            left = np.setdiff1d(gaps.holes[step.slot], shared, assume_unique=True)
            if len(left):
                self._draw(step, left, rows, entropy, last, stuck)
            for slot in block:
                self.compute(slot)
            seen |= {step.slot, *(of.slot for of in gaps.plan.passive if set(of.predictors) <= seen | {step.slot})}
        return stuck

    def _source(self, slot: int) -> int:
        """The column that a slot belongs to."""
        calendar = self.table.variables[slot].calendar
        return slot if calendar is None else calendar[0]

    def _rows(self, number: int, sweep: int) -> Rows:
        """The bootstrap sample of a sweep: of all rows, so that columns share it."""
        n = self.table.n_rows
        if not self.gaps.plan.proper:
            return np.arange(n, dtype=np.uint32)
        return np.sort(below(random_words(self.gaps.entropy, (IMPUTE, number, sweep), n), n).astype(np.uint32))

    def _fit(self, step: Step, rows: Rows, entropy: int, last: bool) -> ColumnModel:
        """The model of a column on the rows of the sample in which it is known."""
        own = rows[self.gaps.known[step.slot][rows]]
        if not len(own):
            # A sample that has missed all of the few rows that there are.
            own = np.flatnonzero(self.gaps.known[step.slot]).astype(np.uint32)
        shape = _some(own, entropy)
        method = step.method
        assert isinstance(method, Cart | Sample | Calibrated)
        key = random_words(entropy, (IMPUTE, 2), 1)

        def words(places: Rows) -> NDArray[np.uint64]:
            return hashed(places.astype(np.uint64), key)

        if isinstance(method, Calibrated):
            filling = own if last else shape
            job = Job(
                self.table, step.slot, step.predictors, method.minbucket, shape, filling, words, step.spikes, 0, False
            )
            return fit_calibrated(job)
        model = fit_column(self.table, step.slot, step.predictors, method, shape, step.spikes, spread=False)
        if last and len(own) > len(shape):
            model = refill(self.table, step.slot, model, own, words, step.spikes)
        return model

    def _draw(self, step: Step, holes: Rows, rows: Rows, entropy: int, last: bool, stuck: Counter[str]) -> None:
        """Draw the holes of a column."""
        method = self.gaps.plan.methods[step.slot]
        if not isinstance(method, Forest):
            self._draw_from(step, self._fit(step, rows, entropy, last), holes, entropy, stuck)
            return
        key = random_words(entropy, (IMPUTE, 3), 1)
        tree = (hashed(holes.astype(np.uint64), key) >> np.uint64(32)).astype(np.int64) * method.n_trees >> 32
        parts = [holes[tree == number] for number in range(method.n_trees)]
        for number, part in enumerate(parts):
            if len(part):
                again = below(random_words(entropy, (IMPUTE, 4, number), len(rows)), len(rows))
                own = _entropy(entropy, number, 0, 0)
                self._draw_from(step, self._fit(step, np.sort(rows[again]), own, last), part, own, stuck)

    def _draw_from(self, step: Step, model: ColumnModel, holes: Rows, entropy: int, stuck: Counter[str]) -> None:
        table, plan = self.table, self.gaps.plan
        variable = table.variables[step.slot]
        holder = Model(plan.whole, table.variables, table.frame, table.n_rows, None, ({step.slot: model},), {}, NONE)
        drawing = Drawing(holder, entropy, 0, holes.astype(np.int64), 0, Counter(), observed=True)
        drawing.codes = np.ascontiguousarray(table.codes[:, holes].T)
        passive = {of.slot: of for of in plan.passive}
        for slot in plan.used(step):
            if slot in passive:
                drawing.arrays[slot] = self._mixed(passive[slot], holes)
            else:
                drawing.arrays[slot] = table.variables[slot].decode(table.ranks[slot][holes])
        every = np.arange(len(holes), dtype=np.uint32)
        ranks = np.zeros(len(holes), variable.rank_dtype)
        numbers = np.full(len(holes) if model.has_numbers else 0, np.nan)
        drawing.draw_turn(step, [(model, every)], ranks, numbers, np.ones(len(holes), bool))
        if len(numbers):
            ranks = np.where(np.isfinite(numbers), variable.nearest_ranks(numbers), ranks).astype(ranks.dtype)
        if drawing.dead.any():
            # What stood there before may be admissible; in the first sweep nothing is.
            stuck[step.name] += int(drawing.dead.sum())
            before = table.ranks[step.slot][holes]
            ranks = np.where(drawing.dead & (before > variable.has_nan), before, ranks)
        self.put(step.slot, holes, ranks)

    def _draw_together(
        self, step: Step, block: Sequence[int], holes: Rows, rows: Rows, entropy: int, last: bool
    ) -> None:
        """Draw all columns of a block from one donor each, found by the first."""
        table = self.table
        whole = np.all([self.gaps.known[slot] for slot in block], axis=0)
        donors = rows[whole[rows]]
        donors = donors if len(donors) else np.flatnonzero(whole).astype(np.uint32)
        donors = donors if last else _some(donors, entropy)
        predictors = tuple(slot for slot in step.predictors if slot not in block)
        variable, ranks = table.variables[step.slot], table.ranks[step.slot]
        if variable.kind == "numeric":
            y, n_classes = scaled(variable.numbers(), len(donors)), 0
        else:
            occurs = np.bincount(ranks[donors], minlength=len(variable.values)) > 0
            y, n_classes = class_ids(occurs)
        method = step.method
        minbucket = method.minbucket if isinstance(method, Cart | Calibrated) else len(donors)
        tree = grow(table, predictors, minbucket, 1e-8, 0.0, donors, ranks, y, n_classes, spread=False)
        tree = replace(tree, donors=donors[tree.donors])
        found = np.zeros(len(holes), np.uint32)
        words = random_words(entropy, (IMPUTE, 5), len(holes))
        tree.draw(np.ascontiguousarray(table.codes[:, holes].T), np.arange(len(holes), dtype=np.uint32), words, found)
        for slot in block:
            self.put(slot, holes, table.ranks[slot][found])

    def moments(self) -> Floats:
        """Mean and standard deviation of what was filled in, by column (columns, 2); of categories of their numbers."""
        out = np.full((len(self.gaps.plan.steps), 2), np.nan)
        for i, step in enumerate(self.gaps.plan.steps):
            numbers = _values(self.table.variables[step.slot])[self.table.ranks[step.slot][self.gaps.holes[step.slot]]]
            known = numbers[~np.isnan(numbers)]
            if len(known):
                out[i, 0] = known.mean()
            if len(known) > 1:
                out[i, 1] = known.std(ddof=1)
        return out


NONE = Slopes.of(pl.DataFrame().to_arrow(), ())


def _some(rows: Rows, entropy: int) -> Rows:
    """The rows that trees are grown on."""
    if len(rows) <= MOST_ROWS:
        return rows
    return rows[unit(random_words(entropy, (IMPUTE, 1), len(rows))) < MOST_ROWS / len(rows)]


def _values(variable: Variable) -> Floats:
    """A number for each rank: the value, or which category it is; NaN for missing."""
    if variable.kind == "numeric":
        return variable.numbers()
    ranks = np.arange(len(variable.values), dtype=np.float64)
    return np.where(ranks < variable.first, np.nan, ranks - variable.first + 1)


def _entropy(entropy: int, number: int, sweep: int, slot: int) -> int:
    high, low = random_words(entropy, (IMPUTE, number, sweep, slot, 0), 2).tolist()
    return int(high) << 64 | int(low)


def advance(gaps: Gaps, number: int, sweep: int, end: int, state: State) -> tuple[State, Floats, Counter[str]]:
    """A sweep of one chain: what it has filled in, moments (columns, 2), rows for which nothing was admissible."""
    chain = Chain(gaps, state)
    stuck = chain.sweep(number, sweep, sweep == end - 1)
    return chain.state(), chain.moments(), stuck


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Imputation:
    """m chains as they stand, and how well they have mixed.

    Attributes
    ----------
    n_holes : dict of str to int
        Cells that were filled in, by column, in visit sequence.
    maxit : int
        Sweeps of each chain so far.
    monotone : bool
        Whether one sweep was enough.
    stuck : dict of str to int
        Cells for which the last sweeps found nothing that rules and bounds admit.
    """

    n_holes: dict[str, int]
    maxit: int
    monotone: bool
    stuck: dict[str, int]
    _gaps: Gaps
    _states: list[State]
    _traces: Floats

    def __repr__(self) -> str:
        cells = f"{sum(self.n_holes.values()):,} cells of {len(self.n_holes)} columns"
        told = "monotone: one sweep is all"
        if not self.monotone:
            judged = self.table["converged"].count()
            told = f"{self.maxit} sweeps, " + (
                f"{len(self.not_converged)} of {judged} traces not converged" if judged else "too few to be judged"
            )
        return f"Imputation: {len(self._states)} chains, {cells}, {told}"

    @property
    def trace(self) -> dict[str, Floats]:
        """``mean[column]`` and ``sd[column]`` of what was filled in: ndarray of shape (chains, sweeps) each."""
        return {
            f"{what}[{name}]": self._traces[:, :, i, j]
            for i, name in enumerate(self.n_holes)
            for j, what in enumerate(("mean", "sd"))
        }

    @property
    def table(self) -> pl.DataFrame:
        """parameter, mean (of the last sweeps of all chains), r_hat, bound, converged; worst first.

        The first third of the sweeps is left out, and each chain is cut into two. With few sweeps R-hat is far from 1
        by chance, so it is held against ``bound``, which it exceeds once in a thousand tables of chains that have
        mixed, and never below 1.05. Few chains of few sweeps say little: 5 of 10 are held against 1.8, 10 of 20 against
        1.14. NaN, and ``converged`` null, where there are fewer than five sweeps, or nothing varies.
        """
        rows = []
        for name, trace in self.trace.items():
            ratio, bound = split_r_hat(trace, 2 * len(self.n_holes))
            known = trace[:, -max(trace.shape[1] // 2, 1) :]
            mean = float(known.mean()) if not np.isnan(known).any() else np.nan
            rows.append((name, mean, ratio, bound, None if np.isnan(ratio) else ratio <= bound))
        schema = {"parameter": pl.String, "mean": pl.Float64, "r_hat": pl.Float64, "bound": pl.Float64}
        frame = pl.DataFrame(rows, schema | {"converged": pl.Boolean}, orient="row")
        worse = pl.col("r_hat").fill_nan(0) / pl.col("bound").fill_nan(1)
        return frame.sort(worse, descending=True, maintain_order=True)

    @property
    def notes(self) -> dict[str, str]:
        """What plots say of each parameter, worst first."""
        rows = self.table.iter_rows(named=True)
        return {row["parameter"]: f"R-hat {row['r_hat']:.2f}, by chance up to {row['bound']:.2f}" for row in rows}

    @property
    def sweeps(self) -> NDArray[np.int64]:
        """Numbers of the sweeps."""
        return np.arange(1, self.maxit + 1)

    @property
    def burnt(self) -> int:
        """Sweeps that R-hat does not look at."""
        return self.maxit // 3

    @property
    def not_converged(self) -> list[str]:
        """Parameters whose chains have not mixed."""
        return [] if self.monotone else self.table.filter(~pl.col("converged"))["parameter"].to_list()

    def completed(self, i: int) -> EncodedTable:
        """The coded table as chain i has it."""
        return Chain(self._gaps, self._states[i]).table

    def filled(self, slots: Sequence[int]) -> Filled:
        """What was filled in of some columns."""
        holes = {slot: self._gaps.holes[slot] for slot in slots if slot in self._gaps.holes}
        drawn = {step.slot for step in self._gaps.plan.steps}
        return Filled(
            {slot: rows for slot, rows in holes.items() if slot in drawn},
            tuple({slot: state[slot] for slot in holes if slot in drawn} for state in self._states),
            self.record,
        )

    @property
    def record(self) -> dict[str, Any]:
        """Names and counts, for the audit."""
        return {
            "cells": self.n_holes,
            "maxit": self.maxit,
            "monotone": self.monotone,
            "stuck": self.stuck,
            "not_converged": self.not_converged,
        }

    def continued(self, sweeps: int, executor: Executor, memory: int, tick: Tick) -> Imputation:
        """More sweeps from where the chains stand; these stay as they are."""
        gaps, m, asked = self._gaps, len(self._states), sweeps
        sweeps = int(not self.maxit) if self.monotone else sweeps
        if not sweeps:
            tick(m * asked)
            return self
        states, stuck, end = list(self._states), Counter[str](), self.maxit + sweeps
        own = np.empty((m, sweeps, len(gaps.plan.steps), 2))
        jobs: list[tuple[int, int, int, State]] = [(i, self.maxit, end, states[i]) for i in range(m)]

        def done(number: int, result: tuple[State, Floats, Counter[str]]) -> None:
            """Begin the next sweep of a chain; chains do not wait for each other."""
            i, sweep = jobs[number][:2]
            jobs[number] = (i, sweep, end, {})
            states[i], own[i, sweep - self.maxit] = result[:2]
            if sweep + 1 < end:
                jobs.append((i, sweep + 1, end, states[i]))
                tick(1)
            else:
                stuck.update(result[2])
                tick(asked - sweeps + 1)

        executor.map(advance, gaps, jobs, done, max(1, memory // max(gaps.bytes_a_chain, 1)))
        traces = np.concatenate([self._traces, own], axis=1)
        return replace(self, maxit=end, stuck=dict(sorted(stuck.items())), _states=states, _traces=traces)


def begin(gaps: Gaps, m: int) -> Imputation:
    """M chains that have not begun."""
    names = {step.name: len(gaps.holes[step.slot]) for step in gaps.plan.steps}
    empty = np.empty((m, 0, len(names), 2))
    return Imputation(names, 0, gaps.is_monotone, {}, gaps, [{} for _ in range(m)], empty)


def split_r_hat(trace: Floats, n_traces: int) -> tuple[float, float]:
    """R-hat of halves of chains (Gelman and Rubin 1992), and how large it may be by chance.

    Parameters
    ----------
    trace : ndarray of shape (chains, sweeps)
    n_traces : int
        Of how many this is one.

    Examples
    --------
    >>> calm = np.random.default_rng(1).normal(size=(5, 10))
    >>> ratio, bound = split_r_hat(calm, 2)
    >>> ratio < bound
    True
    >>> split_r_hat(calm + np.arange(5)[:, None], 2)[0] > bound
    True
    """
    n = trace.shape[1]
    half = (n - n // 3) // 2
    if half < 2 or np.isnan(trace).any():
        return np.nan, np.nan
    last = trace[:, n - 2 * half :].reshape(-1, half)
    groups = len(last)
    within = last.var(axis=1, ddof=1).mean()
    between = half * last.mean(axis=1).var(ddof=1)
    if np.ptp(last) <= ROUNDING * np.abs(last).max():
        return np.nan, np.nan
    if within <= 0:
        return np.inf, R_HAT
    chance = float(f_distribution.isf(CHANCE / n_traces, groups - 1, groups * (half - 1)))
    return float(np.sqrt((half - 1 + between / within) / half)), max(R_HAT, float(np.sqrt((half - 1 + chance) / half)))
