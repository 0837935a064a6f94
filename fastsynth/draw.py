"""Draw some rows of a copy column by column, every one at the synthetic earlier ones.

Random numbers come from a key of meanings (copy, column, block of rows), so threads, their number and their timing
cannot change a byte.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fastsynth.blocks import Belonging, Block, BlockModel
from fastsynth.climb import climb, climb_kinds
from fastsynth.clusters import Layout
from fastsynth.columns import Codes, Ranks, taken
from fastsynth.exact import Exact, value_hashes
from fastsynth.identifiers import fresh
from fastsynth.methods import ColumnModel, people_of_ranks
from fastsynth.model import Model
from fastsynth.plan import Step
from fastsynth.rowwise import evaluate, table_of, under_rules, within_limit
from fastsynth.streams import CLUSTER, DRAW, GUARD, IDENTIFIER, STRATUM, hashed, random_words, unit

# Rows that share a stream of random numbers. Part of the result: another size would give other bytes.
BLOCK_ROWS = 65_536
# Times that a row is drawn again in its leaf, where all admissible candidates of the rest are looked up.
TRIES = 8
# Rounds in which rows get other donors, because a value was drawn too often.
SPREADS = 20

Rows = NDArray[np.uint32]


@dataclass(frozen=True, slots=True, eq=False)
class Upper:
    """Clusters of some rows of a copy, and what is drawn of them::

        row of the copy        0  1  2  3  4  5      cluster   the cluster of the copy that each row is in
        cluster                7  7  7  8  8  9      place     its place among the clusters of these rows
        place                  0  0  0  1  1  2
        clusters               7     8     9
        donors, codes, arrays  .     .     .         one entry for each of them

    Any task that has a row of a cluster finds the same of it: its random words come from its number.

    Attributes
    ----------
    layout : Layout or None
        None where clusters are those of the original.
    cluster, place : ndarray of shape (n_rows,), dtype=int64
    clusters : ndarray of shape (n_clusters,), dtype=int64
    donors : ndarray of shape (n_clusters,), dtype=int32
        Cluster of the original whose size each has.
    codes : ndarray of shape (n_clusters, n_slots), dtype=uint16
    arrays : list of pyarrow.Array of length n_clusters
        By slot; None for columns of rows.
    """

    layout: Layout | None
    cluster: NDArray[np.int64]
    place: NDArray[np.int64]
    clusters: NDArray[np.int64]
    donors: NDArray[np.int32]
    codes: Codes
    arrays: list[Any]


def concat(a: pa.Array, b: pa.Array) -> pa.Array:
    """One array behind the other, with one dictionary."""
    if pa.types.is_string_view(a.type):
        return concat(a.cast(pa.large_string()), b.cast(pa.large_string())).cast(a.type)
    whole = pa.chunked_array([a, b])
    return (whole.unify_dictionaries() if pa.types.is_dictionary(a.type) else whole).combine_chunks()


def mixed(a: pa.Array, b: pa.Array, take_b: NDArray[np.bool_]) -> pa.Array:
    """Values of b where wanted, else of a."""
    if take_b.all():
        return b
    return taken(concat(a, b), np.arange(len(a)) + len(a) * take_b)


class Drawing:
    """Some rows of a copy.

    The codes are kept row by row, because a tree walk reads many columns of one row::

        codes[row, slot]    | age sex job ... |   filled from left to right in visit sequence

    A column is drawn for all rows before the next, so that its tree comes to the cache once.

    Parameters
    ----------
    numbers : ndarray of shape (n,), dtype=int64
        Of the rows within the copy; at level 2, of the clusters.
    attempt : int
        0, or how often these rows were drawn before.
    level : int
        2 to draw clusters instead of rows.
    upper : Upper or None
        The rows' clusters; at level 2, those that are drawn.
    observed : bool
        Whether numbers that are drawn stand for the observed ones nearest to them, which limits then look at.
    """

    def __init__(
        self,
        model: Model,
        entropy: int,
        copy: int,
        numbers: NDArray[np.int64],
        attempt: int,
        counts: Counter[str],
        level: int = 1,
        upper: Upper | None = None,
        observed: bool = False,
    ) -> None:
        self.model = model
        self.entropy = entropy
        self.copy = copy
        self.numbers = numbers
        self.attempt = attempt
        self.counts = counts
        self.level = level
        self.upper = upper
        self.arrays: list[Any] = [None] * len(model.frame.schema)
        self.dead = np.zeros(len(numbers), bool)
        self.observed = observed
        self.donor: NDArray[np.int32] | None = None
        if upper is None or level == 2:
            self.codes = np.zeros((len(numbers), len(model.variables)), np.uint16)
        else:
            self.codes = upper.codes[upper.place]
            self.donor = upper.donors[upper.place]
        clusters = model.clusters
        self.leader: NDArray[np.int64] | None = None
        if clusters is not None and clusters.led and upper is not None and level == 1:
            # Rows come in whole clusters, so the first of each is its first row.
            self.leader = np.searchsorted(upper.cluster, upper.cluster)

    @functools.cached_property
    def predictors(self) -> set[int]:
        """Slots of all predictors, which have to be coded."""
        return {slot for step in self.model.plan.steps for slot in step.predictors}

    def run(self) -> tuple[list[pa.Array], NDArray[np.int64]]:
        """The columns, and the places of rows for which no value of some column was admissible."""
        rows = np.arange(len(self.numbers), dtype=np.uint32)
        self.rows_of_strata = [rows] if self.leader is None else [rows[self.leader == rows], rows[self.leader != rows]]
        strata = self.model.strata
        if self.level == 2 and self.upper is not None:
            self._set_sizes(self.upper.donors)
        for step in self.model.plan.steps:
            if self.level == 2:
                if step.level == 2 and step.action != "cluster":
                    self._draw_upper(step)
            elif step.level == 2 and step.action != "keep":
                self._take_upper(step)
            elif self.model.given is not None and step.name in self.model.given.column_names:
                self._set(step, taken(self.model.given.column(step.name).combine_chunks(), self.numbers))
            elif step.action == "passive":
                self._compute(step)
            elif step.action == "identifier":
                self._identify(step)
            elif step.action == "keep":
                self._set_ranks(step, self.model.kept_ranks(self.copy, step.slot, self.numbers))
            elif step.action == "stratum":
                self._draw_stratum(step)
            elif step.action == "structure":
                self._resample(step)
            elif step.action == "joint":
                self._draw_jointly(step)
            else:
                self.draw_step(step)
            if strata is not None and step.slot == strata.slots[-1]:
                self._part_by_stratum()
        dead = self.dead if self.leader is None else np.bincount(self.leader, self.dead, len(rows))[self.leader] > 0
        return self.arrays, np.flatnonzero(dead)

    def hold(self, arrays: list[pa.Array], rows: NDArray[np.int64]) -> None:
        """Take over rows that were drawn already."""
        self.rows_of_strata = [np.arange(len(rows), dtype=np.uint32)]
        for step in self.model.plan.steps:
            if step.action == "cluster":
                self.arrays[step.slot] = taken(arrays[step.slot], rows)
            else:
                self._set(step, taken(arrays[step.slot], rows))
        if self.model.strata is not None:
            self._part_by_stratum()

    def unlike(
        self, exact: Exact, step: Step, arrays: list[pa.Array], rows: NDArray[np.int64]
    ) -> tuple[pa.Array, NDArray[np.bool_]]:
        """The column with values for these rows that make them equal to no real row, from their leaves or up the tree.

        Also, for which of the rows there was such a value.
        """
        self.hold(arrays, rows)
        variable = self.model.variables[step.slot]
        others, new = np.zeros(len(rows), np.uint64), np.ones(len(rows), bool)
        for slot, array in enumerate(self.arrays):
            if slot != step.slot:
                others ^= value_hashes(self.model.variables[slot], slot, array)[0]

        def admissible(rows: Rows, rank: Ranks, number: NDArray[np.float64]) -> NDArray[np.bool_]:
            own = variable.compose(rank, number) if np.isfinite(number).any() else variable.decode(rank)
            hashes, unknown = value_hashes(variable, step.slot, own)
            ok = unknown | ~exact.holds(others[rows] ^ hashes)
            return ok & self._within_limits(step, rows, rank, number)

        ranks: Ranks = np.zeros(len(rows), variable.rank_dtype)
        numbers = np.full(len(rows), np.nan)
        for _, under in under_rules(step, self._table(_parents(step))) if step.rules else ():
            new &= ~under
        columns = self.model.columns(self.copy, step.slot)
        words = self._words_of(step, columns, 0)[-1]
        for column, of_stratum in zip(columns, self.rows_of_strata, strict=True):
            here = of_stratum[new[of_stratum]]
            lost, _ = climb(column, self.codes, here, words[here], admissible, ranks, numbers, self.donor)
            new[lost] = False
        drawn = variable.compose(ranks, numbers) if np.isfinite(numbers).any() else variable.decode(ranks)
        place = np.arange(len(arrays[step.slot]))
        place[rows[new]] = len(place) + np.flatnonzero(new)
        return taken(concat(arrays[step.slot], drawn), place), new

    def _set(self, step: Step, array: pa.Array) -> None:
        self.arrays[step.slot] = array
        for slot in self._used(step):
            self.codes[:, slot] = self.model.variables[slot].nearest_codes(array)
            if slot != step.slot:
                # A missing code is no date.
                self.codes[self.codes[:, step.slot] < self.model.variables[step.slot].first_code, slot] = 0
        self._lead(step)

    def _used(self, step: Step) -> list[int]:
        """The slot of a column and of parts of its dates, if some column is predicted from it: others have no codes."""
        slots = self.model.slots_of(step.slot)
        return slots if self.predictors.intersection(slots) or self.leader is not None else []

    def _set_ranks(self, step: Step, ranks: Ranks) -> None:
        variable = self.model.variables[step.slot]
        for slot in self._used(step):
            self.codes[:, slot] = self.model.variables[slot].codes(ranks)
        self.arrays[step.slot] = variable.decode(ranks)
        self._lead(step)

    def _set_drawn(self, step: Step, ranks: Ranks, numbers: NDArray[np.float64]) -> None:
        """Set a column of ranks, and of numbers (n,) where these are not NaN; or of ranks alone, if there are none."""
        if len(numbers):
            self._set(step, self.model.variables[step.slot].compose(ranks, numbers))
        else:
            self._set_ranks(step, ranks)

    def _lead(self, step: Step) -> None:
        """Tell all rows of a cluster what the first one has of a column."""
        slot = self.model.first_of(step.slot)
        if slot is not None and self.leader is not None:
            self.codes[:, slot] = self.codes[self.leader, step.slot]

    def _column(self, slot: int) -> pa.Array:
        return self.arrays[slot]

    def _table(self, slots: tuple[int, ...]) -> pa.Table:
        return table_of(slots, self._column, self.model.variables, self.model.frame.schema)

    def words(self, kind: int, slot: int, n_words: int, attempt: int, some: slice = slice(None)) -> NDArray[np.uint64]:
        """Random words (n_words, n): each block of rows has a stream of its own, and so has each further attempt.
        ``some`` are all rows of some blocks.

        Those of a cluster come from its number, because several tasks may have rows of it; and those of rows from
        theirs, where tasks draw whole clusters.
        """
        if self.level == 2 or self.leader is not None:
            return self._words_of_clusters(self.numbers[some], (slot, kind, attempt, self.level), n_words)
        parts, blocks = [], self.numbers[some] // BLOCK_ROWS
        starts = [0, *(np.flatnonzero(np.diff(blocks)) + 1).tolist(), len(blocks)]
        for low, high in itertools.pairwise(starts):
            n, block = high - low, int(blocks[low])
            key = (kind, self.copy, slot, block) + ((attempt,) if attempt else ())
            parts.append(random_words(self.entropy, key, n * n_words).reshape(n_words, n))
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]

    def _words_of_clusters(self, numbers: NDArray[np.int64], key: tuple[int, ...], n_words: int) -> NDArray[np.uint64]:
        """Random words (n_words, n) from the numbers of clusters, or rows."""
        keys = random_words(self.entropy, (CLUSTER, self.copy, *key), n_words)
        return hashed(numbers.astype(np.uint64)[None, :], keys[:, None])

    # Clusters

    def _draw_upper(self, step: Step) -> None:
        """A column of clusters."""
        own = self.model.clusters
        assert own is not None
        if step.action == "keep":
            self._set_ranks(step, self.model.kept[step.slot][own.first_rows[self.numbers]])
        elif step.action == "passive":
            self._compute(step)
        elif step.action == "joint":
            self._draw_jointly(step)
        else:
            self.draw_step(step)

    def _take_upper(self, step: Step) -> None:
        """A column of clusters, for rows; their codes are there from the start."""
        upper = self.upper
        assert upper is not None
        if step.action != "cluster":
            self.arrays[step.slot] = taken(upper.arrays[step.slot], upper.place)
            return
        assert upper.layout is not None
        assert step.pattern is not None
        key = int(random_words(self.model.extent[0], (IDENTIFIER, self.copy, step.slot), 1)[0])
        start, stop = int(upper.cluster.min()), int(upper.cluster.max()) + 1
        dtype = self.model.frame.schema.field(step.name).type
        names = fresh(step.pattern, key, start, stop, upper.layout.n_clusters, dtype)
        self.arrays[step.slot] = taken(names, upper.cluster - start)

    def _set_sizes(self, donors: NDArray[np.int32]) -> None:
        """Codes of how many rows the clusters have, of all kinds and of some."""
        own = self.model.clusters
        assert own is not None
        for slot in self.model.slots_of(own.slot)[1:]:
            part = self.model.variables[slot].calendar
            counts = None if part is None else own.counted(part[1])
            if counts is not None:
                known = self.model.variables[slot].numbers()[1:]
                self.codes[:, slot] = np.searchsorted(known, counts[donors]) + 1

    def _resample(self, step: Step) -> None:
        """A column that is taken from donor clusters, row by row."""
        own, upper = self.model.clusters, self.upper
        assert own is not None
        assert upper is not None
        assert upper.layout is not None
        self._set_ranks(step, own.of_structure(step.slot, upper.layout, self.numbers, upper.cluster))

    # Joint models

    def _draw_jointly(self, step: Step) -> None:
        """All columns of a joint model that are of this level, when the turn comes to the first of them."""
        model, plan = self.model, self.model.plan
        assert isinstance(step.method, Block)
        steps = [one for one in plan.steps_of(step.method) if one.level == self.level]
        if step is not steps[0]:
            return
        fitted = model.blocks[plan.blocks.index(step.method)]
        drawn = self._jointly(fitted, steps, np.arange(len(self.numbers)), 0)
        bad = self._set_jointly(steps, drawn)
        for attempt in range(1, TRIES + 1):
            if not len(bad):
                return
            again = self._jointly(fitted, steps, bad, attempt)
            for slot, (ranks, numbers) in again.items():
                drawn[slot][0][bad] = ranks
                if len(numbers):
                    drawn[slot][1][bad] = numbers
            bad = self._set_jointly(steps, drawn)
        self.dead[bad] = True

    def _jointly(
        self, fitted: tuple[BlockModel, ...], steps: list[Step], rows: NDArray[np.int64], attempt: int
    ) -> dict[int, tuple[Ranks, NDArray[np.float64]]]:
        """Ranks and numbers of the columns of a joint model for some rows, by slot."""
        model = self.model
        drawn: dict[int, tuple[Ranks, NDArray[np.float64]]] = {}
        stratum = np.zeros(len(self.numbers), np.int64)
        # First rows of clusters and the others are strata for trees only.
        for number, of_stratum in enumerate(self.rows_of_strata if model.strata is not None else ()):
            stratum[of_stratum] = number
        times = attempt + self.attempt * (TRIES + 2)
        # Many words a row: those of one block of rows are in memory at a time.
        starts = np.flatnonzero(np.diff(self.numbers // BLOCK_ROWS, prepend=-1))
        for low, high in itertools.pairwise([*starts.tolist(), len(self.numbers)]):
            words = self.words(DRAW, steps[0].slot, fitted[0].n_words, times, slice(low, high))
            first, last = np.searchsorted(rows, [low, high])
            for number, block in enumerate(fitted):
                place = first + np.flatnonzero(stratum[rows[first:last]] == number)
                here = rows[place]
                whole = len(here) == high - low
                own = block.draw(
                    self.copy,
                    self.level,
                    self.codes[low:high] if whole else self.codes[here],
                    words if whole else words[:, here - low],
                    self._belonging(block, here),
                )
                for slot, (ranks, numbers) in own.items():
                    if slot not in drawn:
                        dtype = model.variables[slot].rank_dtype
                        drawn[slot] = np.zeros(len(rows), dtype), np.full(len(rows) if len(numbers) else 0, np.nan)
                    drawn[slot][0][place] = ranks
                    if len(numbers):
                        drawn[slot][1][place] = numbers
        return drawn

    def _belonging(self, block: BlockModel, rows: Rows) -> Belonging | None:
        """Clusters of some rows for a joint model, which draws a row's effects and its cluster's columns together."""
        upper = self.upper
        if upper is None:
            return None
        key = (block.slots[0], DRAW, 0, 0, 0)
        if self.level == 2:
            words = self._words_of_clusters(self.numbers[rows], key, block.n_cluster_words)
            return Belonging(np.zeros(0, np.int64), upper.donors[rows], self.codes[rows], words)
        words = self._words_of_clusters(upper.clusters, key, block.n_cluster_words)
        return Belonging(upper.place[rows], upper.donors, upper.codes, words)

    def _set_jointly(self, steps: list[Step], drawn: dict[int, tuple[Ranks, NDArray[np.float64]]]) -> NDArray[np.int64]:
        """Set the columns of a joint model, and what rules say of them; the rows that break a limit."""
        ok = np.ones(len(self.numbers), bool)
        every = np.arange(len(self.numbers), dtype=np.uint32)
        for step in steps:
            ranks, numbers = drawn[step.slot][0].copy(), drawn[step.slot][1].copy()
            ruled = np.zeros(len(ranks), bool)
            for rank, under in under_rules(step, self._table(_parents(step))) if step.rules else ():
                ranks[under], ruled[under] = rank, True
                if len(numbers):
                    numbers[under] = np.nan
            self._set_drawn(step, ranks, numbers)
            if step.limits:
                known = numbers if len(numbers) else np.full(len(ranks), np.nan)
                # What a rule sets need not be within the bounds, but must not be forbidden.
                ok &= np.where(
                    ruled,
                    self._within_limits(step, every, ranks, known, False),
                    self._within_limits(step, every, ranks, known),
                )
        return np.flatnonzero(~ok)

    # Strata

    def _draw_stratum(self, step: Step) -> None:
        strata = self.model.strata
        assert strata is not None
        drawn = strata.draw(self.words(STRATUM, 0, 1, self.attempt * (TRIES + 2))[0])
        of_slot = strata.ranks[drawn, strata.slots.index(step.slot)]
        self._set_ranks(step, of_slot.astype(self.model.variables[step.slot].rank_dtype))

    def _part_by_stratum(self) -> None:
        strata = self.model.strata
        assert strata is not None
        number = strata.numbers([self.model.variables[slot].match(self.arrays[slot])[0] for slot in strata.slots])
        order = np.argsort(number, kind="stable").astype(np.uint32)
        ends = np.searchsorted(number[order], np.arange(len(strata.rows)), side="right")
        self.rows_of_strata = [np.sort(part) for part in np.split(order, ends[:-1])]

    # Columns

    def _compute(self, step: Step) -> None:
        schema = self.model.frame.schema
        array = evaluate(step, self._table(step.predictors), schema)
        where = self.model.where.get(step.slot)
        if where is not None:
            ranks = self.model.kept[step.slot][self.numbers]
            # Where a parent was filled in, the column is computed, too.
            variable = self.model.variables[step.slot]
            lost = (ranks <= variable.has_nan) & self.model.imputed
            array = mixed(variable.decode(ranks), array, where[self.numbers] | lost)
        self._set(step, array)

    def _identify(self, step: Step) -> None:
        assert step.pattern is not None
        field = self.model.frame.schema.field(step.name)
        entropy, first, k = self.model.extent
        key = int(random_words(entropy, (IDENTIFIER, self.copy, step.slot), 1)[0])
        start, stop = int(self.numbers.min()), int(self.numbers.max()) + 1
        made = fresh(step.pattern, key, first + start, first + stop, k, field.type)
        # A place that is null makes a value that is null.
        place = self.numbers - start
        missing = unit(self.words(DRAW, step.slot, 1, self.attempt * (TRIES + 2))[0]) < step.pattern.missing / 1e4
        self.arrays[step.slot] = taken(made, pa.array(place, mask=missing))

    def draw_step(self, step: Step) -> None:
        """Draw a column by its own model."""
        model, variable = self.model, self.model.variables[step.slot]
        n, columns = len(self.numbers), model.columns(self.copy, step.slot)[: len(self.rows_of_strata)]
        where = model.where.get(step.slot)
        replaced = np.ones(n, bool) if where is None else where[self.numbers]
        if where is None:
            ranks: Ranks = np.zeros(n, variable.rank_dtype)
        else:
            ranks = model.kept_ranks(self.copy, step.slot, self.numbers)
        numbers = np.full(n if any(column.has_numbers for column in columns) else 0, np.nan)
        of_strata = list(zip(columns, self.rows_of_strata, strict=True))
        # The first row of a cluster is drawn before the others, which are drawn given it.
        for turn in [of_strata] if self.leader is None else [[one] for one in of_strata]:
            here = replaced
            if self.leader is not None:
                here = np.zeros(n, bool)
                here[turn[0][1]] = True
            self.draw_turn(step, turn, ranks, numbers, here)
            self._set_drawn(step, ranks, numbers)

    def draw_turn(
        self,
        step: Step,
        of_strata: list[tuple[ColumnModel, Rows]],
        ranks: Ranks,
        numbers: NDArray[np.float64],
        replaced: NDArray[np.bool_],
    ) -> None:
        """Draw the rows of some strata that are replaced, into ``ranks``, and ``numbers`` where these are not empty."""
        columns = [column for column, _ in of_strata]
        words = self._words_of(step, columns, 0)
        for column, rows in of_strata:
            for part in _parts(rows[replaced[rows]]):
                column.draw(self.codes, part, _of_rows(words, part), ranks, numbers, self.donor)
        free = replaced
        if step.rules:
            free = replaced.copy()
            for rank, under in under_rules(step, self._table(_parents(step))):
                under &= replaced
                ranks[under], free[under] = rank, False
                if len(numbers):
                    numbers[under] = np.nan
        if step.limits:
            self._admit(step, of_strata, ranks, numbers, replaced, free)
        if step.guard is not None and step.guard.max_copies is not None and not len(numbers):
            self._spread(step, of_strata, ranks, free, step.guard.max_copies)

    def _words_of(self, step: Step, columns: list[ColumnModel], attempt: int) -> NDArray[np.uint64]:
        n_words = max(column.n_words for column in columns)
        return self.words(DRAW, step.slot, n_words, attempt + self.attempt * (TRIES + 2))

    # Copies of donors

    def _spread(
        self,
        step: Step,
        of_strata: list[tuple[ColumnModel, Rows]],
        ranks: Ranks,
        free: NDArray[np.bool_],
        max_copies: int,
    ) -> None:
        """Give rows other donors where a value is drawn too often for the people who have it."""
        held = people_of_ranks([column for column, _ in of_strata], len(self.model.variables[step.slot].values))
        allowed = np.where(held > 0, max_copies * held, len(ranks))
        block = (self.numbers // BLOCK_ROWS - self.numbers[0] // BLOCK_ROWS).astype(np.int64)
        numbers, words = np.full(len(ranks), np.nan), self.words(GUARD, step.slot, SPREADS, self.attempt)
        first, settled = ranks.copy(), ~free
        for turn in range(SPREADS):
            place = block * len(held) + ranks
            order = np.argsort(place, kind="stable")
            starts = np.searchsorted(place[order], place[order])
            over = order[np.arange(len(order)) - starts >= allowed[ranks[order]]]
            over = np.sort(over[~settled[over]]).astype(np.uint32)
            if not len(over):
                return
            # Back to what was drawn: rows that find nothing now keep it, and are told.
            ranks[over] = first[over]
            if turn == SPREADS - 1:
                self.counts[step.name] += len(over)
                return
            room = np.tile(allowed, int(block[-1]) + 1) - np.bincount(place, minlength=len(held) * (int(block[-1]) + 1))

            def admissible(rows: Rows, rank: Ranks, number: NDArray[np.float64]) -> NDArray[np.bool_]:
                has_room: NDArray[np.bool_] = room[block[rows] * len(held) + rank] > 0  # noqa: B023
                return has_room & self._within_limits(step, rows, rank, number)

            for column, rows in of_strata:
                here = np.intersect1d(over, rows, assume_unique=True)
                lost, _ = climb(column, self.codes, here, words[turn][here], admissible, ranks, numbers, self.donor)
                settled[lost] = True
                self.counts[step.name] += len(lost)

    # Limits

    def _admit(
        self,
        step: Step,
        of_strata: list[tuple[ColumnModel, Rows]],
        ranks: Ranks,
        numbers: NDArray[np.float64],
        replaced: NDArray[np.bool_],
        free: NDArray[np.bool_],
    ) -> None:
        """Draw rows that break a limit again: in their leaves, and up the tree where these have nothing admissible.

        A row that has a value keeps having one: limits do not move the share of what is missing or piles up.
        """

        def admissible(rows: Rows, rank: Ranks, number: NDArray[np.float64]) -> NDArray[np.bool_]:
            return self._within_limits(step, rows, rank, number)

        shifted = numbers if len(numbers) else np.full(len(ranks), np.nan)
        # What a rule sets need not be within the bounds, but must not be forbidden.
        ruled = np.flatnonzero(replaced & ~free).astype(np.uint32)
        self.dead[ruled[~self._within_limits(step, ruled, ranks[ruled], shifted[ruled], False)]] = True
        bad = np.flatnonzero(free).astype(np.uint32)
        bad = bad[~admissible(bad, ranks[bad], shifted[bad])]
        if not len(bad):
            return
        columns = [column for column, _ in of_strata]
        # Words that choose the kind: once it is admissible, or a value, it stays.
        held = self._words_of(step, columns, 0)[0].copy()
        for attempt in range(1, TRIES + 1):
            words = self._words_of(step, columns, attempt)
            for column, rows in of_strata:
                here = np.intersect1d(bad, rows, assume_unique=True)
                again = _of_rows(words, here)
                if len(again) > 1:
                    stays = column.has_value(self.codes, here, held[here], ranks.dtype, self.donor)
                    again[0] = held[here] = np.where(stays, held[here], again[0])
                column.draw(self.codes, here, again, ranks, numbers, self.donor)
            bad = bad[~admissible(bad, ranks[bad], shifted[bad])]
            if not len(bad):
                return
        words = self._words_of(step, columns, TRIES + 1)
        for column, rows in of_strata:
            here = np.intersect1d(bad, rows, assume_unique=True)
            own = _of_rows(words, here)[-1]
            lost, climbed = climb(column, self.codes, here, own, admissible, ranks, shifted, self.donor)
            if len(lost):
                # Where no value will do, what is missing or piles up may.
                lost = climb_kinds(column, self.codes, lost, words[-1][lost], admissible, ranks, shifted, self.donor)
            self.counts[step.name] += climbed
            self.dead[lost] = True

    def _within_limits(
        self, step: Step, rows: Rows, rank: Ranks, number: NDArray[np.float64], bounds: bool = True
    ) -> NDArray[np.bool_]:
        """Whether rows with these values meet the limits of a column, or only what is forbidden."""
        model, variable = self.model, self.model.variables[step.slot]
        if not np.isfinite(number).any():
            own = variable.decode(rank)
        elif self.observed:
            own = variable.decode(np.where(np.isfinite(number), variable.nearest_ranks(number), rank))
        else:
            own = variable.compose(rank, number)
        whole = np.array_equal(rows, np.arange(len(self.numbers)))

        def column(slot: int) -> pa.Array:
            if slot == step.slot:
                return own
            return self.arrays[slot] if whole else taken(self.arrays[slot], rows)

        ok: NDArray[np.bool_] = np.ones(len(rows), bool)
        for limit in step.limits if len(rows) else ():
            if bounds or not limit.values_only:
                ok &= within_limit(step.name, limit, column, model.plan, model.variables, model.frame.schema)
        return ok


def _parents(step: Step) -> tuple[int, ...]:
    return tuple(sorted({slot for rule in step.rules for slot in rule.parents}))


def _of_rows(words: NDArray[np.uint64], rows: Rows) -> NDArray[np.uint64]:
    """Random words (n_words, n) of some rows."""
    return words if len(rows) == words.shape[1] else np.ascontiguousarray(words[:, rows])


def _parts(rows: Rows) -> Iterator[Rows]:
    """The rows, so many at a time that their codes stay in the cache."""
    return (rows[low : low + BLOCK_ROWS] for low in range(0, len(rows), BLOCK_ROWS))
