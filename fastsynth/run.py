"""Fit a plan, draw copies from the fitted model.

Flat maps over an executor: one task for each (fit, column), each (copy, block of rows). A task needs nothing of another
task, and its random numbers come from a key of meanings (copy, column, block), so threads, their number and their
timing cannot change a byte.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fastsynth.calibrate import MOST_VALUES, NO_PREDICTORS, Job, fit_calibrated
from fastsynth.columns import Codes, EncodedTable, Ranks, Variable
from fastsynth.execute import Executor, Tick
from fastsynth.learn import Learned, code
from fastsynth.methods import Calibrated, Cart, ColumnModel, fit_column, fit_margin, refill
from fastsynth.output import Output, Part, part_name, write_part
from fastsynth.passive import evaluate, sub_schema
from fastsynth.plan import Plan, Step
from fastsynth.slopes import Slopes, add_up, excess_variance, numeric_columns
from fastsynth.source import Frame, filesystem

# Rows drawn by one task. Part of the result: another size would give other bytes.
BLOCK_ROWS = 65_536
# Rows of a file. Part of the result, too.
PART_ROWS = 8 * BLOCK_ROWS
# With ``Cart(refill=True)``, leaves are filled from this many times ``fit_rows`` rows, if there are.
FILL = 8
# Bytes that one fit needs beside the codes for a row that trees are grown on, a little more than measured; for a row of
# calibrated leaves; and what a calibrated number keeps of it.
FIT_BYTES, LEAF_BYTES, KEPT_BYTES = 64, 24, 4
# Share of the memory limit that codes may take before they go to a file.
CODES_SHARE = 0.4

# First entry of a random stream's key.
BOOTSTRAP, DRAW, SUBSAMPLE, REFILL, PARTITION = 0, 1, 2, 3, 4


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
    slopes : Slopes
        Of the original's numeric columns; without any in models of one partition.
    """

    plan: Plan
    variables: tuple[Variable, ...]
    frame: Frame
    n_rows: int
    fit_rows: int | None
    fits: tuple[dict[int, ColumnModel], ...]
    kept: dict[int, Ranks]
    slopes: Slopes

    @property
    def learned_rows(self) -> int | None:
        """``fit_rows``, unless every column that has predictors is calibrated: then all rows count, not their share."""
        columns = [
            fit[step.slot] for fit in self.fits for step in self.plan.steps if step.action == "draw" and step.predictors
        ]
        whole = all(column.shift is not None or column.tilt is not None or column.is_margin for column in columns)
        return None if whole and not self.plan.proper else self.fit_rows


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
    calibrated = any(isinstance(step.method, Calibrated) for step in drawn)
    # Calibrated leaves hold all rows, whatever the shape was grown on.
    fill = -(-n // (fit_rows or n)) if calibrated else FILL if any(map(_refills, drawn)) else 1
    rows = choose_rows(n, fit_rows, plan.proper, fresh, m, entropy, fill)
    kept = [step.slot for step in plan.steps if step.action == "keep"]
    n_coded = n if rows.coded is None else len(rows.coded)
    needed = n_coded * sum(2 + (v.bins is not None) * v.rank_dtype().itemsize for v in learned.variables)
    mapped = learned.table is None and needed > CODES_SHARE * memory
    shape_rows, leaf_rows = (max((len(of_fit) for of_fit in of or ()), default=0) for of in (rows.shapes, rows.leaves))
    one_fit = FIT_BYTES * shape_rows
    if calibrated:
        leaf_rows = max(leaf_rows, shape_rows)
        one_fit += LEAF_BYTES * leaf_rows
        kept_bytes = sum(_kept_bytes(step, learned, shape_rows, leaf_rows) for step in drawn)
        needed += len(rows.shapes) * kept_bytes
    at_most = fits_at_once(memory - (0 if mapped else needed), one_fit)
    fits: tuple[dict[int, ColumnModel], ...] = tuple({} for _ in rows.shapes)
    jobs = [(copy, step) for copy in range(len(rows.shapes)) for step in drawn]
    if fit_rows is not None and not plan.proper:
        for copy, step in [job for job in jobs if not job[1].predictors]:
            margin = fit_margin(learned.variables[step.slot], learned.rows[step.slot])
            note = NO_PREDICTORS if isinstance(step.method, Calibrated) else ""
            fits[copy][step.slot] = replace(margin, note=note)
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
    return Model(plan, learned.variables, learned.source.frame, n, fit_rows, fits, all_ranks, learned.slopes)


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


def fit_step(shared: tuple[EncodedTable, Rows, int], copy: int, step: Step) -> ColumnModel:
    """Fit one column on the rows of one fit."""
    table, rows, entropy = shared
    assert step.method is not None
    words = partial(_row_words, rows.coded, random_words(entropy, (REFILL, copy, step.slot), 1))
    if isinstance(step.method, Calibrated):
        shape = rows.shapes[copy]
        filling = shape if rows.leaves is None else rows.leaves[copy]
        job = Job(table, step.slot, step.predictors, step.method.minbucket, shape, filling, words)
        return fit_calibrated(job)
    model = fit_column(table, step.slot, step.predictors, step.method, rows.shapes[copy])
    if rows.leaves is None or not _refills(step):
        return model
    return refill(table, step.slot, model, rows.leaves[copy], words)


def _row_words(
    coded: NDArray[np.uint32] | None, key: NDArray[np.uint64], places: NDArray[np.uint32]
) -> NDArray[np.uint64]:
    """A random word for each row that fills leaves, by its number in the table."""
    numbers = places if coded is None else coded[places]
    return _hash(numbers.astype(np.uint64), key)


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
            for tree in (fit[slot].missing, fit[slot].means, fit[slot].values):
                if tree is not None:
                    yield from (tree.nodes, tree.count, tree.level_mask, tree.levels, tree.donors)
            shift = fit[slot].shift
            if shift is not None:
                regression = shift.regression
                yield from (regression.tables, regression.numbers, regression.weights, shift.means)
            for tilt in (fit[slot].tilt_missing, fit[slot].tilt):
                if tilt is not None:
                    yield from (tilt.weights, tilt.counts, tilt.centre)
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


def find_v(model: Model, copies: list[list[pa.Table | str]], executor: Executor) -> float | None:
    """Find v of copies, each given as tables or paths of files."""
    names = numeric_columns(model.frame.schema)
    jobs = [(part,) for parts in copies for part in parts]
    found = executor.map(_slopes_of, names, jobs, lambda _, part: part)
    ends = np.cumsum([len(parts) for parts in copies])
    of_copies = [add_up(found[end - len(parts) : end]) for end, parts in zip(ends, copies, strict=True)]
    kept = {step.name for step in model.plan.steps if step.action == "keep"}
    return excess_variance(model.slopes, of_copies, np.array([name in kept for name in names], bool))


def _slopes_of(names: list[str], part: pa.Table | str) -> Slopes:
    if isinstance(part, str):
        system, inside = filesystem(part)
        part = pq.ParquetFile(inside, filesystem=system).read(columns=names)
    return Slopes.of(part, names)


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
            parents = pa.table([arrays[slot] for slot in step.predictors], schema=sub_schema(model.frame.schema, names))
            arrays[step.slot] = evaluate(step, parents, model.frame.schema)
            codes[:, step.slot] = variable.nearest_codes(arrays[step.slot])
            continue
        if step.action == "draw" and fit[step.slot].shift is not None:
            arrays[step.slot] = _draw_numbers(fit[step.slot], variable, codes, (DRAW, copy, step.slot), entropy, start)
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
    blocks = _words_of_blocks(column, codes, key, entropy, start)
    return np.concatenate([column.draw(block, words, dtype) for block, words in blocks])


def _draw_numbers(
    column: ColumnModel, variable: Variable, codes: Codes, key: tuple[int, ...], entropy: int, start: int
) -> pa.Array:
    blocks = _words_of_blocks(column, codes, key, entropy, start)
    parts = [column.draw_numbers(block, words, variable.rank_dtype) for block, words in blocks]
    ranks, numbers = (np.concatenate(part) for part in zip(*parts, strict=True))
    return variable.compose(ranks, numbers)


def _words_of_blocks(
    column: ColumnModel, codes: Codes, key: tuple[int, ...], entropy: int, start: int
) -> Iterator[tuple[Codes, NDArray[np.uint64]]]:
    """Blocks of rows with their random words: each has a stream of its own."""
    for low in range(0, len(codes), BLOCK_ROWS):
        block = codes[low : low + BLOCK_ROWS]
        yield block, random_words(entropy, (*key, (start + low) // BLOCK_ROWS), len(block) * column.n_words)
