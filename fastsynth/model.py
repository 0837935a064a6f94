"""A fitted plan: all that drawing needs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fastsynth.blocks import BlockModel
from fastsynth.clusters import Clusters
from fastsynth.columns import FIRST, Ranks, Variable
from fastsynth.errors import OptionError
from fastsynth.exact import Exact
from fastsynth.methods import ColumnModel, Nested
from fastsynth.plan import Plan
from fastsynth.slopes import Slopes
from fastsynth.source import Frame
from fastsynth.streams import below


@dataclass(frozen=True, slots=True, eq=False)
class Strata:
    """Combinations of values of the columns that tell strata apart.

    Attributes
    ----------
    slots : tuple of int
    ranks : ndarray of shape (n_strata, n_slots), dtype=uint32
        Ascending.
    rows : ndarray of shape (n_strata,), dtype=int64
        Rows of the original in each.
    """

    slots: tuple[int, ...]
    ranks: NDArray[np.uint32]
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, slots: tuple[int, ...], ranks: list[Ranks]) -> Strata:
        """The combinations that occur among the ranks of all rows."""
        sizes = [int(of_slot.max()) + 1 for of_slot in ranks]
        _, first, rows = np.unique(_keys(ranks, sizes), return_index=True, return_counts=True)
        return cls(slots, np.column_stack([of_slot[first] for of_slot in ranks]).astype(np.uint32), rows)

    def numbers(self, ranks: list[Ranks]) -> NDArray[np.int64]:
        """Number of the stratum of each row, -1 for a combination that the original does not have."""
        sizes = (self.ranks.max(0) + 1).tolist()
        known = _keys(list(self.ranks.T), sizes)
        keys = _keys(ranks, sizes)
        found = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        inside = np.all([of_slot < size for of_slot, size in zip(ranks, sizes, strict=True)], axis=0)
        return np.where(inside & (known[found] == keys), found, -1)

    def draw(self, words: NDArray[np.uint64]) -> NDArray[np.int64]:
        """A stratum for each random word, in proportion to its rows."""
        ends = np.cumsum(self.rows)
        return np.searchsorted(ends, below(words, int(ends[-1])), side="right")


def _keys(ranks: list[Ranks], sizes: list[int]) -> NDArray[np.int64]:
    """One number for each combination, in their order."""
    if math.prod(sizes) >= 2**62:
        raise OptionError("strata: the columns have too many different values together. Name fewer, or coarser ones.")
    keys = np.zeros(len(ranks[0]), np.int64)
    for of_slot, size in zip(ranks, sizes, strict=True):
        keys = keys * size + of_slot
    return keys


@dataclass(frozen=True, slots=True, eq=False)
class Filled:
    """What was filled in of columns that are kept.

    Attributes
    ----------
    rows : dict of int to ndarray, dtype=uint32
        By slot the rows, ascending.
    ranks : tuple of dict of int to ndarray
        For each imputation, the ranks of these rows by slot.
    record : dict
        What is told of all that was filled in: names and counts.
    """

    rows: dict[int, NDArray[np.uint32]]
    ranks: tuple[dict[int, Ranks], ...]
    record: dict[str, Any]

    def into(self, ranks: Ranks, imputation: int, slot: int, numbers: NDArray[np.int64]) -> Ranks:
        """Ranks of some rows of a column with what was filled in."""
        rows = self.rows[slot]
        place = np.minimum(np.searchsorted(rows, numbers), len(rows) - 1)
        filled: Ranks = np.where(rows[place] == numbers, self.ranks[imputation][slot][place], ranks)
        return filled

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What ``of_state`` makes the same of: a record for JSON, and arrays by name."""
        arrays: dict[str, NDArray[Any]] = {f"rows_{slot}": rows for slot, rows in self.rows.items()}
        arrays |= {f"ranks_{i}_{slot}": own for i, of in enumerate(self.ranks) for slot, own in of.items()}
        return {"slots": list(self.rows), "imputations": len(self.ranks), "told": self.record}, arrays

    @classmethod
    def of_state(cls, record: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Filled:
        """What gave this state."""
        slots = record["slots"]
        return cls(
            {slot: arrays[f"rows_{slot}"] for slot in slots},
            tuple({slot: arrays[f"ranks_{i}_{slot}"] for slot in slots} for i in range(record["imputations"])),
            record["told"],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A fitted plan. Holds real values in its leaves, and all rows of columns that are kept.

    Attributes
    ----------
    plan : Plan
    variables : tuple of Variable
        The columns, and behind them parts of dates.
    frame : Frame
        The caller's kind of table.
    n_rows : int
        Rows of the original.
    fit_rows : int or None
        Rows the models were fitted on, where not all were used.
    fits : tuple of dict
        Column model by slot: for each fit (one for all copies, or one for each where each has rows of its own) one
        for each stratum.
    kept : dict
        Ranks of all rows by slot, for columns of which some cells are not synthesised.
    slopes : Slopes
        Of the original's numeric columns; without any in models of one partition.
    strata : Strata or None
    where : dict
        By slot, the rows (n_rows,) that are replaced, for columns of which not all are.
    effective : float or None
        With weights, the number of rows that the original is worth (Kish).
    given : pyarrow.Table or None
        Columns that the caller fixes, for the rows of a copy.
    extent : tuple of int
        For identifiers, which differ between all rows of a copy: random state, the copy's first row that this model
        draws, rows of the copy.
    exact : Exact or None
        What is done with rows that equal a real one.
    clusters : Clusters or None
    blocks : tuple of BlockModel
        Joint models of the plan, in its order, each for all fits; with strata one for each stratum.
    imputed : bool
        Whether missing values were filled in before models were fitted, or meanwhile.
    syntheses : int
        Copies of each completed table; 0 for the completed tables themselves.
    filled : Filled or None
        Of completed tables, what was filled in of columns of which some cells are not synthesised.
    """

    plan: Plan
    variables: tuple[Variable, ...]
    frame: Frame
    n_rows: int
    fit_rows: int | None
    fits: tuple[dict[int, ColumnModel], ...]
    kept: dict[int, Ranks]
    slopes: Slopes
    strata: Strata | None = None
    where: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    effective: float | None = None
    given: pa.Table | None = None
    extent: tuple[int, int, int] = (0, 0, 0)
    exact: Exact | None = None
    clusters: Clusters | None = None
    blocks: tuple[tuple[BlockModel, ...], ...] = ()
    imputed: bool = False
    syntheses: int = 1
    filled: Filled | None = None

    @property
    def n_strata(self) -> int:
        """Number of strata, 1 without; 2 where first rows of clusters have models of their own."""
        if self.clusters is not None and self.clusters.led:
            return 2
        return 1 if self.strata is None else len(self.strata.rows)

    @property
    def most_copies(self) -> int | None:
        """Copies that there are models of, or completed tables for; None for any number."""
        if self.plan.proper or self.is_fresh:
            return self.n_fits
        return None if self.filled is None else len(self.filled.ranks) * max(self.syntheses, 1)

    @property
    def n_fits(self) -> int:
        """Fits, each of all strata: 1, or one for each copy."""
        return len(self.fits) // self.n_strata

    @property
    def is_fresh(self) -> bool:
        """Whether each copy has a fit of its own to rows of its own (``fresh_rows``)."""
        return not self.plan.proper and self.n_fits > 1 and self.filled is None

    def columns(self, copy: int, slot: int) -> list[ColumnModel]:
        """Models of a column for a copy, one for each stratum."""
        fit = copy if self.plan.proper else self.imputation(copy)
        fit = fit if self.n_fits > 1 else 0
        return [of_stratum[slot] for of_stratum in self.fits[fit * self.n_strata : (fit + 1) * self.n_strata]]

    def imputation(self, copy: int) -> int:
        """Completed table that a copy is of: those of one table stand side by side."""
        return copy // max(self.syntheses, 1)

    def kept_ranks(self, copy: int, slot: int, numbers: NDArray[np.int64]) -> Ranks:
        """Ranks of some rows of a column of which cells are kept, for a copy."""
        ranks: Ranks = self.kept[slot][numbers]
        if self.filled is None or slot not in self.filled.rows:
            return ranks
        return self.filled.into(ranks, self.imputation(copy), slot, numbers)

    def slots_of(self, slot: int) -> list[int]:
        """The slot of a column, and of parts of its dates."""
        return [slot, *(i for i, of, part in self._parts() if of == slot and part != FIRST)]

    def first_of(self, slot: int) -> int | None:
        """The slot that holds what the first row of a cluster has of a column."""
        return next((i for i, of, part in self._parts() if of == slot and part == FIRST), None)

    def _parts(self) -> Iterator[tuple[int, int, str]]:
        """Slots of further variables, the columns that they are parts of, and which."""
        for i, variable in enumerate(self.variables[len(self.frame.schema) :], len(self.frame.schema)):
            assert variable.calendar is not None
            yield i, *variable.calendar

    def without_max_copies(self) -> Model:
        """The same model for draws of any size, which nobody gets to see."""
        steps = (
            step if step.guard is None else replace(step, guard=replace(step.guard, max_copies=None))
            for step in self.plan.steps
        )
        return replace(self, plan=replace(self.plan, steps=tuple(steps)))

    @property
    def learned_rows(self) -> int | None:
        """``fit_rows``, unless every column that has predictors is calibrated: then all rows count, not their share."""
        columns = [
            fit[step.slot]
            for fit in self.fits
            for step in self.plan.steps
            if step.action == "draw" and step.predictors and not isinstance(step.method, Nested)
        ]
        whole = all(column.shift is not None or column.tilt is not None or column.is_margin for column in columns)
        return None if whole and not self.plan.proper else self.fit_rows


def with_states(model: Model) -> Iterator[tuple[str, Any]]:
    """Parts of a model that say themselves what has to be kept, by name."""
    if model.clusters is not None:
        yield "clusters", model.clusters
    if model.filled is not None:
        yield "filled", model.filled
    for number, of_strata in enumerate(model.blocks):
        for stratum, block in enumerate(of_strata):
            yield f"block_{number:02}_{stratum:04}", block
    for copy, fit in enumerate(model.fits):
        for slot, column in sorted(fit.items()):
            if column.effects is not None:
                yield f"effects_{copy:04}_{slot:04}", column.effects
