"""Learn columns, fit a plan, draw copies from the fitted model.

Flat maps over an executor: one task for each piece of the rows read, each (fit, column), each (copy, block of rows). A
task needs nothing of another task, and its random numbers come from a key of meanings (copy, column, block), so
threads, their number and their timing cannot change a byte.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from fastsynth import association
from fastsynth.columns import Codes, EncodedTable, Ranks, Tally, Variable, check_size, encode, take
from fastsynth.errors import PlanError
from fastsynth.methods import Cart, ColumnModel, fit_column, fit_margin, refill
from fastsynth.output import Output, Part, part_name, write_part
from fastsynth.plan import Plan, Step
from fastsynth.source import Frame, Source, TableSource

# Rows drawn by one task. Part of the result: another size would give other bytes.
BLOCK_ROWS = 65_536
# Rows of a file. Part of the result, too.
PART_ROWS = 8 * BLOCK_ROWS
# Rows of the real table on which passive expressions are tried before anything is drawn.
TRIAL_ROWS = 10_000
# With ``Cart(refill=True)``, leaves are filled from this many times ``fit_rows`` rows, if there are.
FILL = 8
# Pieces are put together to partitions of at least this many rows: models of a few rows would give them away.
LEAST_PARTITION = 10_000
# Bytes a row that one fit needs beside the codes, a little more than measured.
FIT_BYTES = 64
# Share of the memory limit that codes may take before they go to a file.
CODES_SHARE = 0.4

# First entry of a random stream's key.
BOOTSTRAP, DRAW, SUBSAMPLE, REFILL, PARTITION = 0, 1, 2, 3, 4

Result = TypeVar("Result")
Kept = TypeVar("Kept")
# Called with how much was done: rows or columns.
Tick = Callable[[int], object]


class Executor(Protocol):
    """What runs the tasks: threads here, a cluster elsewhere."""

    def map(
        self,
        function: Callable[..., Result],
        shared: Any,
        jobs: Sequence[tuple[Any, ...]],
        done: Callable[[int, Result], Kept],
        at_most: int | None = None,
    ) -> list[Kept]:
        """Run ``function(shared, *job)`` for all jobs, at most so many at once.

        ``done(i, result)`` is called here as job i ends, one call at a time; what it returns is kept and returned in
        the order of the jobs, the results themselves are not. An error stops the jobs that have not begun.
        """


class Threads:
    """Run tasks on threads; the kernels release the interpreter.

    Parameters
    ----------
    threads : int or None
        None means the processors this process may use.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or available_threads()

    def map(
        self,
        function: Callable[..., Result],
        shared: Any,
        jobs: Sequence[tuple[Any, ...]],
        done: Callable[[int, Result], Kept],
        at_most: int | None = None,
    ) -> list[Kept]:
        """As in ``Executor``."""
        workers = min(self.threads, len(jobs), at_most or self.threads)
        if workers <= 1:
            return [done(i, function(shared, *job)) for i, job in enumerate(jobs)]
        kept: dict[int, Kept] = {}
        waiting = iter(enumerate(jobs))
        running: dict[Future[Result], int] = {}
        with ThreadPoolExecutor(workers) as pool:
            try:
                while len(kept) < len(jobs):
                    # One job more than there are threads is handed out, so that results cannot pile up unseen.
                    for i, job in itertools.islice(waiting, workers + 1 - len(running)):
                        running[pool.submit(function, shared, *job)] = i
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        i = running.pop(future)
                        kept[i] = done(i, future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [kept[i] for i in range(len(jobs))]


def available_threads() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A fitted plan. Holds real values in its leaves, and all rows of kept columns.

    Attributes
    ----------
    plan : Plan
    variables : tuple of Variable
    frame : Frame
        The caller's kind of table.
    n_rows : int
        Rows of the original.
    fit_rows : int or None
        Rows the models were fitted on, where not all were used.
    fits : tuple of dict
        Column model by slot; one dict for all copies, or one for each where each has rows of its own.
    kept : dict
        Ranks of all rows by slot, for columns that are not synthesised.
    """

    plan: Plan
    variables: tuple[Variable, ...]
    frame: Frame
    n_rows: int
    fit_rows: int | None
    fits: tuple[dict[int, ColumnModel], ...]
    kept: dict[int, Ranks]


# Read


@dataclass(frozen=True, slots=True, eq=False)
class Learned:
    """What is known of a table before anything is planned.

    Attributes
    ----------
    source : Source
    variables : tuple of Variable
    rows : tuple of ndarray of shape (n_ranks,), dtype=int64
        Rows of each rank of each column.
    table : EncodedTable or None
        All rows as codes, if the source is in memory.
    """

    source: Source
    variables: tuple[Variable, ...]
    rows: tuple[NDArray[np.int64], ...]
    table: EncodedTable | None

    @property
    def n_rows(self) -> int:
        """Rows of the table."""
        return self.source.starts[-1]


def learn(source: Source, executor: Executor, tick: Tick) -> Learned:
    """Learn what every column holds, from all rows: one pass over files; a table in memory is coded at once."""
    if isinstance(source, TableSource):
        table = encode(source.table, source.frame)
        tick(source.table.num_rows)
        rows = [np.bincount(r, minlength=len(v.values)) for v, r in zip(table.variables, table.ranks, strict=True)]
        return Learned(source, table.variables, tuple(rows), table)
    check_size(source.starts[-1], len(source.frame.schema))
    tallies = [Tally(field.name, field.type) for field in source.frame.schema]

    def merge(i: int, piece: list[Tally]) -> None:
        for tally, more in zip(tallies, piece, strict=True):
            tally.merge(more)
        tick(source.starts[i + 1] - source.starts[i])

    executor.map(tally_piece, source, source.jobs(), merge)
    learned = [tally.variable(keep_unused=source.frame.backend == "pandas") for tally in tallies]
    return Learned(source, tuple(variable for variable, _ in learned), tuple(rows for _, rows in learned), None)


def tally_piece(source: Source, piece: int, *held: Any) -> list[Tally]:
    """Count the values of one piece; ``held`` is what a cluster holds of it."""
    tallies = [Tally(field.name, field.type) for field in source.frame.schema]
    start = source.starts[piece]
    for batch in source.batches(piece, *held):
        for tally, column in zip(tallies, batch.columns, strict=True):
            tally.add(column, start)
        start += len(batch)
    return tallies


def code(
    learned: Learned,
    rows: NDArray[np.uint32] | None,
    whole: Iterable[int],
    folder: Path | None,
    executor: Executor,
    tick: Tick,
) -> tuple[EncodedTable, dict[int, Ranks]]:
    """Code the rows that models are fitted on.

    Parameters
    ----------
    rows : ndarray, dtype=uint32, or None
        Ascending numbers of the rows; None for all.
    whole : iterable of int
        Slots of columns of which the ranks of all rows are wanted, too.
    folder : Path or None
        Where codes go as memory-mapped files; None keeps them in memory.

    Returns
    -------
    table : EncodedTable
    ranks : dict of int to ndarray
        Ranks of all rows by slot.
    """
    source, variables = learned.source, learned.variables
    if learned.table is not None:
        return _take_rows(learned.table, rows), {slot: learned.table.ranks[slot] for slot in whole}
    n = learned.n_rows if rows is None else len(rows)
    codes = _allocate((len(variables), n), np.uint16, folder, "codes")
    ranks = [
        codes[slot] if v.bins is None else _allocate((n,), v.rank_dtype, folder, f"ranks_{slot}")
        for slot, v in enumerate(variables)
    ]
    all_ranks = {slot: np.empty(learned.n_rows, variables[slot].rank_dtype) for slot in whole}

    def place(i: int, blocks: list[CodedBlock]) -> None:
        for block in blocks:
            for slot, of_rows in block.whole.items():
                all_ranks[slot][block.start : block.start + len(of_rows)] = of_rows
            low, high = block.low, block.low + block.codes.shape[1]
            codes[:, low:high] = block.codes
            for slot, of_rows in block.ranks.items():
                ranks[slot][low:high] = of_rows
        tick(source.starts[i + 1] - source.starts[i])

    executor.map(code_piece, (source, variables, rows, tuple(whole)), source.jobs(), place)
    return EncodedTable(variables, tuple(ranks), codes, source.frame), all_ranks


@dataclass(frozen=True, slots=True, eq=False)
class CodedBlock:
    """Some rows of a piece as codes.

    Attributes
    ----------
    start : int
        Number of the first row that was read.
    low : int
        Place of the first row that was coded.
    codes : ndarray of shape (n_columns, n), dtype=uint16
    ranks : dict of int to ndarray of shape (n,)
        Ranks by slot, of columns whose codes are not their ranks.
    whole : dict of int to ndarray
        Ranks of all rows that were read, of columns of which they are wanted.
    """

    start: int
    low: int
    codes: Codes
    ranks: dict[int, Ranks]
    whole: dict[int, Ranks]


def code_piece(
    shared: tuple[Source, tuple[Variable, ...], NDArray[np.uint32] | None, tuple[int, ...]], piece: int, *held: Any
) -> list[CodedBlock]:
    """Code the wanted rows of one piece."""
    source, variables, rows, whole = shared
    start, blocks = source.starts[piece], []
    for batch in source.batches(piece, *held):
        stop = start + len(batch)
        all_ranks = {slot: variables[slot].rank(batch.column(slot)) for slot in whole}
        low, high = start, stop
        if rows is not None:
            low, high = (int(i) for i in np.searchsorted(rows, [start, stop]))
            batch = take(batch, rows[low:high].astype(np.int64) - start)
        codes, ranks = np.empty((len(variables), high - low), np.uint16), {}
        for slot, variable in enumerate(variables):
            of_rows = variable.rank(batch.column(slot))
            codes[slot] = variable.codes(of_rows)
            if variable.bins is not None:
                ranks[slot] = of_rows
        blocks.append(CodedBlock(start, low, codes, ranks, all_ranks))
        start = stop
    return blocks


def _take_rows(table: EncodedTable, rows: NDArray[np.uint32] | None) -> EncodedTable:
    if rows is None:
        return table
    codes = np.take(table.codes, rows, axis=1)
    ranks = tuple(codes[slot] if v.bins is None else table.ranks[slot][rows] for slot, v in enumerate(table.variables))
    return EncodedTable(table.variables, ranks, codes, table.frame)


def _allocate(shape: tuple[int, ...], dtype: Any, folder: Path | None, name: str) -> NDArray[Any]:
    return np.empty(shape, dtype) if folder is None else np.memmap(folder / name, dtype, "w+", shape=shape)


# Fit


def strongest_predictors(
    learned: Learned, executor: Executor, order: Sequence[int], targets: Sequence[int], q: int
) -> Mapping[int, tuple[int, ...]]:
    """Choose predictors as ``association.strongest`` does, by rows spread evenly; files are read once more."""
    rows = spread_rows(learned.n_rows, association.n_rows(len(learned.variables)))
    table, _ = code(learned, rows.astype(np.uint32), (), None, executor, lambda _: None)
    return association.strongest(table.codes, order, targets, q)


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
    """

    coded: NDArray[np.uint32] | None
    shapes: list[NDArray[np.uint32]]
    leaves: list[NDArray[np.uint32]] | None


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
    leaves = shapes if fill == 1 else [_subsample(n, min(fill * fit_rows, n), copy, entropy) for copy in copies]
    coded = leaves[0] if len(leaves) == 1 else np.unique(np.concatenate(leaves))
    filling = None if fill == 1 else [_places(coded, rows) for rows in leaves]
    return Rows(coded, [_places(coded, rows) for rows in shapes], filling)


def _places(among: NDArray[np.uint32], rows: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return np.searchsorted(among, rows).astype(np.uint32)


def _bootstrap(n: int, size: int, copy: int, entropy: int) -> NDArray[np.uint32]:
    """Rows drawn with replacement: sorted, which does not change the sample and reads memory in order."""
    words = random_words(entropy, (BOOTSTRAP, copy), size)
    return np.sort(((words >> np.uint64(32)) * np.uint64(n) >> np.uint64(32)).astype(np.uint32))


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
            hashes = _hash(rows, key)
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


def _hash(rows: NDArray[np.uint64], key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Steele, Lea and Flood (2014), Fast splittable pseudorandom number generators: the finaliser of SplitMix64."""
    z = rows * np.uint64(0x9E3779B97F4A7C15) + key
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def fit_plan(
    learned: Learned,
    plan: Plan,
    fit_rows: int | None,
    fresh: bool,
    m: int,
    entropy: int,
    memory: int,
    executor: Executor,
    tick: Tick,
) -> Model:
    """Fit all columns on the observed earlier columns: all fits are independent, the biggest go first.

    Simple synthesis fits once for all copies; proper synthesis fits each copy on a bootstrap sample of the rows. With
    ``fit_rows`` trees are grown on so many rows, all copies on the same ones or with ``fresh`` each on its own; columns
    without predictors are drawn from all rows nevertheless, but for proper synthesis.
    """
    n = learned.n_rows
    drawn = [step for step in plan.steps if step.action == "draw"]
    fill = FILL if any(map(_refills, drawn)) else 1
    rows = choose_rows(n, fit_rows, plan.proper, fresh, m, entropy, fill)
    kept = [step.slot for step in plan.steps if step.action == "keep"]
    n_coded = n if rows.coded is None else len(rows.coded)
    needed = n_coded * sum(2 + (v.bins is not None) * v.rank_dtype().itemsize for v in learned.variables)
    mapped = learned.table is None and needed > CODES_SHARE * memory
    at_most = fits_at_once(memory - (0 if mapped else needed), max(map(len, rows.shapes)), FIT_BYTES)
    fits: tuple[dict[int, ColumnModel], ...] = tuple({} for _ in rows.shapes)
    jobs = [(copy, step) for copy in range(len(rows.shapes)) for step in drawn]
    if fit_rows is not None and not plan.proper:
        for copy, step in [job for job in jobs if not job[1].predictors]:
            fits[copy][step.slot] = fit_margin(learned.variables[step.slot], learned.rows[step.slot])
            tick(1)
        jobs = [job for job in jobs if job[1].predictors]
    jobs.sort(key=lambda job: -len(job[1].predictors))
    with tempfile.TemporaryDirectory(prefix="fastsynth-", ignore_cleanup_errors=True) as folder:
        table, all_ranks = code(learned, rows.coded, kept, Path(folder) if mapped else None, executor, lambda _: None)

        def done(i: int, model: ColumnModel) -> None:
            copy, step = jobs[i]
            fits[copy][step.slot] = model
            tick(1)

        executor.map(fit_step, (table, rows, entropy), jobs, done, at_most)
        del table
    return Model(plan, learned.variables, learned.source.frame, n, fit_rows, fits, all_ranks)


def fits_at_once(memory: int, rows: int, bytes_a_row: int) -> int:
    """How many tasks of so many rows the memory has room for, at least one."""
    return max(1, int(memory // max(rows * bytes_a_row, 1)))


def _refills(step: Step) -> bool:
    return isinstance(step.method, Cart) and step.method.refill


def fit_step(shared: tuple[EncodedTable, Rows, int], copy: int, step: Step) -> ColumnModel:
    """Fit one column on the rows of one fit."""
    table, rows, entropy = shared
    assert step.method is not None
    model = fit_column(table, step.slot, step.predictors, step.method, rows.shapes[copy])
    if rows.leaves is None or not _refills(step):
        return model
    assert rows.coded is not None
    filling = rows.leaves[copy]
    words = _hash(rows.coded[filling].astype(np.uint64), random_words(entropy, (REFILL, copy, step.slot), 1))
    return refill(table, step.slot, model, filling, words)


def random_words(entropy: int, key: tuple[int, ...], n: int) -> NDArray[np.uint64]:
    """Raw 64-bit words of one stream: numpy keeps raw streams stable between versions, not what is made of them."""
    return np.random.PCG64DXSM(np.random.SeedSequence(entropy, spawn_key=key)).random_raw(n)


def fingerprint(*what: Any) -> str:
    """Eight digits that differ, but for chance, when something does; too few to tell anything of it.

    Steps of a plan, variables, schemas, arrays, iterables of these, and whatever ``repr`` shows as it is.
    """
    digest = hashlib.sha256()
    for item in what:
        if isinstance(item, np.ndarray):
            digest.update(np.ascontiguousarray(item).data)
        elif isinstance(item, pa.Schema):
            digest.update(item.serialize())
        elif isinstance(item, Variable):
            sink = pa.BufferOutputStream()
            batch = pa.record_batch([item.values], ["values"])
            with pa.ipc.new_stream(sink, batch.schema) as stream:
                stream.write_batch(batch)
            digest.update(sink.getvalue())
        elif isinstance(item, Step):
            digest.update(f"{item.name} {item.action} {item.method} {item.predictors}".encode())
            if item.expression is not None:
                digest.update(item.expression.meta.serialize())
        elif isinstance(item, Iterable) and not isinstance(item, str):
            digest.update(fingerprint(*item).encode())
        else:
            digest.update(repr(item).encode())
    return digest.hexdigest()[:8]


def model_arrays(model: Model) -> Iterator[NDArray[Any]]:
    """Every array of a model, in a fixed order."""
    for fit in model.fits:
        for slot in sorted(fit):
            for tree in (fit[slot].missing, fit[slot].values):
                if tree is not None:
                    yield from (tree.nodes, tree.count, tree.level_mask, tree.levels, tree.donors)
    for slot in sorted(model.kept):
        yield model.kept[slot]


# Draw


def generate(
    model: Model, copies: Iterable[int], k: int, entropy: int, executor: Executor, tick: Tick
) -> list[pa.Table]:
    """Draw copies of k rows each."""
    starts = range(0, k, BLOCK_ROWS)
    jobs = [(entropy, copy, start, min(start + BLOCK_ROWS, k)) for copy in copies for start in starts]

    def done(i: int, batch: pa.RecordBatch) -> pa.RecordBatch:
        tick(jobs[i][3] - jobs[i][2])
        return batch

    batches = executor.map(draw_rows, model, jobs, done)
    return [
        pa.Table.from_batches(batches[i : i + len(starts)], schema=model.frame.schema)
        for i in range(0, len(batches), len(starts))
    ]


def write_copies(model: Model, m: int, k: int, entropy: int, output: Output, executor: Executor, tick: Tick) -> None:
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

    executor.map(draw_part, model, jobs, done)


def part_names(m: int, k: int, n_parts: int | None = None) -> list[list[str]]:
    """Names of the parts of each copy; partitions have one part each."""
    n_parts = -(-k // PART_ROWS) if n_parts is None else n_parts
    return [[part_name(copy, m, part, n_parts) for part in range(n_parts)] for copy in range(m)]


def write_table(table: pa.Table, output: Output, names: list[str]) -> None:
    """Write a copy that is in memory."""
    for part, name in enumerate(names):
        output.add(write_part(output.folder, name, table.slice(part * PART_ROWS, PART_ROWS)))


def draw_part(model: Model, entropy: int, copy: int, start: int, stop: int, folder: str, name: str) -> Part:
    """Draw rows [start, stop) of one copy and write them as a file."""
    return write_part(folder, name, pa.Table.from_batches([draw_rows(model, entropy, copy, start, stop)]))


def draw_rows(model: Model, entropy: int, copy: int, start: int, stop: int) -> pa.RecordBatch:
    """Draw rows [start, stop) of one copy: every column at the synthetic earlier ones. ``start`` is that of a block.

    The codes are kept row by row, because a tree walk reads many columns of one row::

        codes[row, slot]    | age sex job ... |   filled from left to right in visit sequence

    A column is drawn for all rows before the next, so that its tree comes to the cache once.
    """
    codes = np.zeros((stop - start, len(model.variables)), np.uint16)
    arrays: list[Any] = [None] * len(model.variables)
    fit = model.fits[copy if len(model.fits) > 1 else 0]
    for step in model.plan.steps:
        variable = model.variables[step.slot]
        if step.action == "passive":
            names = [model.variables[slot].name for slot in step.predictors]
            parents = pa.table(
                [arrays[slot] for slot in step.predictors], schema=_sub_schema(model.frame.schema, names)
            )
            arrays[step.slot] = evaluate(step, parents, model.frame.schema)
            codes[:, step.slot] = variable.nearest_codes(arrays[step.slot])
            continue
        if step.action == "keep":
            ranks = model.kept[step.slot][start:stop]
        else:
            ranks = _draw_ranks(fit[step.slot], codes, (DRAW, copy, step.slot), entropy, start, variable.rank_dtype)
        codes[:, step.slot] = variable.codes(ranks)
        arrays[step.slot] = variable.decode(ranks)
    return pa.RecordBatch.from_arrays(arrays, schema=model.frame.schema)


def _draw_ranks(
    column: ColumnModel,
    codes: Codes,
    key: tuple[int, ...],
    entropy: int,
    start: int,
    dtype: type[np.uint16] | type[np.uint32],
) -> Ranks:
    """Draw one column block by block: each block of rows has a random stream of its own."""
    ranks = []
    for low in range(0, len(codes), BLOCK_ROWS):
        block = codes[low : low + BLOCK_ROWS]
        words = random_words(entropy, (*key, (start + low) // BLOCK_ROWS), len(block) * column.n_words)
        ranks.append(column.draw(block, words, dtype))
    return np.concatenate(ranks)


def _sub_schema(schema: pa.Schema, names: Sequence[str]) -> pa.Schema:
    return pa.schema([schema.field(name) for name in names])


def evaluate(step: Step, parents: pa.Table, schema: pa.Schema) -> pa.Array:
    """Evaluate a passive expression on its parents and give the result the column's type."""
    assert step.expression is not None
    field = schema.field(step.name)
    own = pa.schema([field]).empty_table()
    wanted = pl.DataFrame(own).schema[step.name]
    try:
        computed = pl.DataFrame(parents).select(step.expression.alias(step.name))
    except Exception as error:
        raise PlanError(f"passive expression of {step.name!r} cannot be evaluated ({type(error).__name__}).") from None
    given = computed.schema[step.name]
    if computed.height != parents.num_rows:
        raise PlanError(
            f"passive expression of {step.name!r} gives {computed.height} values for {parents.num_rows} rows."
        )
    if wanted.is_integer() and not (given.is_integer() or given == pl.Boolean):
        raise PlanError(
            f"passive expression of {step.name!r} gives {given} for a column of {wanted}. Round it and cast it, for "
            f"example (...).round().cast(pl.{wanted})."
        )
    if given.is_float() and computed.to_series().is_infinite().any():
        raise PlanError(f"passive expression of {step.name!r} gives infinite values. Does it divide by zero?")
    try:
        array = computed.cast({step.name: wanted}).to_arrow().column(0).combine_chunks()
        return array if array.type == field.type else array.cast(field.type)
    except Exception:
        raise PlanError(
            f"passive expression of {step.name!r} gives values ({given}) that the column's type {wanted} cannot hold."
        ) from None


def try_passive(source: Source, plan: Plan, executor: Executor) -> dict[str, int]:
    """Try every passive expression on up to 10,000 real rows spread over the table, before anything is fitted.

    Returns
    -------
    dict
        Number of rows in which the column holds something else, by column.

    Raises
    ------
    PlanError
        The expression fails, gives another type, or uses other rows.
    """
    names = {
        source.frame.schema.names[slot]
        for step in plan.steps
        if step.action == "passive"
        for slot in (*step.predictors, step.slot)
    }
    if not names:
        return {}
    table = trial_rows(source, names, executor)
    differences = {}
    for step in plan.steps:
        if step.action == "passive":
            parents = table.select([source.frame.schema.names[slot] for slot in step.predictors])
            computed = pl.Series(evaluate(step, parents, table.schema))
            _refuse_other_rows(step, parents, table.schema, computed)
            real = pl.DataFrame(table.select([step.name])).to_series()
            differences[step.name] = _count_differences(computed, real)
    return differences


def trial_rows(source: Source, names: set[str], executor: Executor) -> pa.Table:
    """Some columns of up to 10,000 rows spread evenly over the table."""
    slim = source.without([name for name in source.frame.schema.names if name not in names])
    spread = spread_rows(source.starts[-1], TRIAL_ROWS)
    return pa.concat_tables(executor.map(take_piece, (slim, spread), slim.jobs(), lambda _, rows: rows))


def take_piece(shared: tuple[Source, NDArray[np.int64]], piece: int, *held: Any) -> pa.Table:
    """Those of the rows that are in a piece."""
    source, rows = shared
    start, taken = source.starts[piece], [source.frame.schema.empty_table()]
    for batch in source.batches(piece, *held):
        low, high = np.searchsorted(rows, [start, start + len(batch)])
        taken.append(take(batch, rows[low:high] - start).cast(source.frame.schema))
        start += len(batch)
    return pa.concat_tables(taken)


def spread_rows(n: int, size: int) -> NDArray[np.int64]:
    """Numbers of at most ``size`` of n rows, spread evenly."""
    return np.unique(np.linspace(0, n - 1, size).astype(np.int64))


def _count_differences(a: pl.Series, b: pl.Series) -> int:
    """Rows in which two columns of one type differ, floats by more than rounding."""
    same = a.cast(pl.String).eq_missing(b.cast(pl.String))
    if a.dtype.is_float():
        same |= ((a - b).abs() <= 1e-9 * a.abs()).fill_null(False)
    return int((~same).sum())


def _refuse_other_rows(step: Step, parents: pa.Table, schema: pa.Schema, computed: pl.Series) -> None:
    """Rows are drawn in blocks: in parts and in another order an expression must give what it gives on the whole."""
    n = parents.num_rows
    half = max(n // 2, 1)
    cut = [parents.slice(0, 1), parents.slice(1, half - 1), parents.slice(half)]
    parts = [pl.Series(evaluate(step, part, schema)) for part in cut]
    order = np.random.default_rng(0).permutation(n)
    mixed = pl.Series(evaluate(step, parents.take(pa.array(order)), schema))
    for again in (pl.concat(parts), mixed[np.argsort(order).tolist()]):
        if _count_differences(again, computed):
            raise PlanError(
                f"passive expression of {step.name!r} uses other rows (a mean, a sum, a sort, ...). "
                "It must be computed row by row."
            )


# Divide and combine


@dataclass(frozen=True, slots=True)
class Share:
    """A partition: pieces that follow each other, and the rows of a copy that they draw."""

    pieces: range
    n_rows: int
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
        Share(range(a, b), starts[b] - starts[a], starts[b] * k // n - starts[a] * k // n)
        for a, b in itertools.pairwise(bounds)
    ]


def write_partitions(
    learned: Learned,
    plan: Plan,
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

    shared = (learned.source, learned.variables, plan, m, entropy, output.folder)
    # Codes and ranks twice, models, and a part that is drawn.
    bytes_a_row = FIT_BYTES + 40 * len(learned.variables)
    at_most = fits_at_once(memory, max(max(share.n_rows, share.k) for share in shares), bytes_a_row)
    executor.map(synthesise_partition, shared, jobs, done, at_most)


def synthesise_partition(
    shared: tuple[Source, tuple[Variable, ...], Plan, int, int, str],
    number: int,
    share: Share,
    names: list[str],
    *held: Any,
) -> list[Part]:
    """Fit one partition, draw its rows of every copy, write them."""
    source, variables, plan, m, entropy, folder = shared
    blocks = [
        block
        for i, piece in enumerate(share.pieces)
        for block in code_piece((source, variables, None, ()), piece, *held[i : i + 1])
    ]
    codes = np.concatenate([block.codes for block in blocks], axis=1)
    ranks = tuple(
        codes[slot] if v.bins is None else np.concatenate([block.ranks[slot] for block in blocks])
        for slot, v in enumerate(variables)
    )
    table = EncodedTable(variables, ranks, codes, source.frame)
    own = int(np.random.SeedSequence(entropy, spawn_key=(PARTITION, number)).generate_state(1, np.uint64)[0])
    rows = choose_rows(share.n_rows, None, plan.proper, False, m, own)
    fits: tuple[dict[int, ColumnModel], ...] = tuple(
        {step.slot: fit_step((table, rows, own), copy, step) for step in plan.steps if step.action == "draw"}
        for copy in range(len(rows.shapes))
    )
    kept = {step.slot: ranks[step.slot] for step in plan.steps if step.action == "keep"}
    model = Model(plan, variables, source.frame, share.n_rows, None, fits, kept)
    return [draw_part(model, own, copy, 0, share.k, folder, name) for copy, name in enumerate(names)]
