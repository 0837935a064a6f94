"""Divide and combine: every partition of the rows is fitted by itself, and draws its share of every copy."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from fastsynth.columns import EncodedTable, Variable
from fastsynth.exact import Exact
from fastsynth.execute import Executor, Tick
from fastsynth.learn import Learned, code_piece
from fastsynth.methods import ColumnModel
from fastsynth.model import Model
from fastsynth.output import Output, Part
from fastsynth.plan import Plan
from fastsynth.run import FIT_BYTES, Cells, Setting, choose_rows, draw_part, fit_step, fits_at_once, with_exact
from fastsynth.slopes import Slopes
from fastsynth.source import Source
from fastsynth.streams import PARTITION

# Pieces are put together to partitions of at least this many rows: models of a few rows would give them away.
LEAST_PARTITION = 10_000


@dataclass(frozen=True, slots=True)
class Share:
    """A partition: pieces that follow each other, and the k rows of a copy that they draw, from ``first`` on."""

    pieces: range
    n_rows: int
    first: int
    k: int


def partitions(starts: Sequence[int], k: int) -> list[Share]:
    """Put pieces together until they have enough rows; a small rest goes to the last partition."""
    bounds = [0]
    for piece in range(1, len(starts)):
        if starts[piece] - starts[bounds[-1]] >= LEAST_PARTITION:
            bounds.append(piece)
    if len(bounds) == 1 or bounds[-1] != len(starts) - 1:
        bounds[max(len(bounds) - 1, 1) :] = [len(starts) - 1]
    n = starts[-1]
    return [
        Share(range(a, b), starts[b] - starts[a], starts[a] * k // n, starts[b] * k // n - starts[a] * k // n)
        for a, b in itertools.pairwise(bounds)
    ]


def write_partitions(
    learned: Learned,
    plan: Plan,
    exact: Exact | None,
    shares: list[Share],
    names: list[list[str]],
    m: int,
    entropy: int,
    memory: int,
    output: Output,
    executor: Executor,
    tick: Tick,
) -> None:
    """Fit every partition by itself and write its part of every copy; what is finished is passed over."""
    jobs, pieces = [], learned.source.jobs()
    for number, share in enumerate(shares):
        todo = [names[copy][number] for copy in range(m)]
        if all(name in output.finished for name in todo):
            tick(m * share.k)
            continue
        held = [pieces[piece][1:] for piece in share.pieces]
        # What a cluster holds of a piece is handed over as an argument of its own.
        jobs.append((number, share, todo, *itertools.chain.from_iterable(held)))

    def done(i: int, parts: list[Part]) -> None:
        for part in parts:
            output.add(part)
        tick(m * jobs[i][1].k)

    k = sum(share.k for share in shares)
    shared = (learned.source, learned.variables, plan, exact, m, entropy, output.folder, k)
    # Codes and ranks twice, models, and a part that is drawn.
    bytes_a_row = FIT_BYTES + 40 * len(learned.variables)
    at_most = fits_at_once(memory, bytes_a_row * max(max(share.n_rows, share.k) for share in shares))
    executor.map(synthesise_partition, shared, jobs, done, at_most)


def synthesise_partition(
    shared: tuple[Source, tuple[Variable, ...], Plan, Exact | None, int, int, str, int],
    number: int,
    share: Share,
    names: list[str],
    *held: Any,
) -> list[Part]:
    """Fit one partition, draw its rows of every copy, write them."""
    source, variables, plan, exact, m, entropy, folder, k = shared
    ruled_steps = tuple(step for step in plan.steps if step.rules)
    blocks = [
        block
        for i, piece in enumerate(share.pieces)
        for block in code_piece((source, variables, None, (), ruled_steps), piece, *held[i : i + 1])
    ]
    codes = np.concatenate([block.codes for block in blocks], axis=1)
    ranks = tuple(
        codes[slot] if v.codes_are_ranks else np.concatenate([block.ranks[slot] for block in blocks])
        for slot, v in enumerate(variables)
    )
    ruled = {step.slot: np.concatenate([block.ruled[step.slot] for block in blocks]) for step in ruled_steps}
    table = EncodedTable(variables, ranks, codes, source.frame, ruled)
    own = int(np.random.SeedSequence(entropy, spawn_key=(PARTITION, number)).generate_state(1, np.uint64)[0])
    rows = choose_rows(share.n_rows, None, plan.proper, False, m, own)
    setting = Setting.of(table, rows, own, Cells())
    fits: tuple[dict[int, ColumnModel], ...] = tuple(
        {step.slot: fit_step(setting, copy, step) for step in plan.steps if step.action == "draw"}
        for copy in range(len(rows.shapes))
    )
    kept = {step.slot: ranks[step.slot] for step in plan.steps if step.action == "keep"}
    slopes = Slopes.of(pa.table({}), ())
    model = Model(plan, variables, source.frame, share.n_rows, None, fits, kept, slopes)
    model = replace(with_exact(model, exact, own), extent=(entropy, share.first, k))
    return [draw_part(model, own, copy, 0, share.k, folder, name) for copy, name in enumerate(names)]
