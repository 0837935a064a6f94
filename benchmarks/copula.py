"""A Gaussian copula for very many rows: seconds and peak memory of its parts, Parquet to Parquet.

    python benchmarks/copula.py make 10_000_000 FOLDER       write the table of 50 columns, a file for each million rows
    python benchmarks/copula.py run FOLDER [pieces]          learn, fit and draw one copy on two threads; prints a JSON
                                                             line. pieces: never the whole table in memory
    python benchmarks/copula.py pairs TABLE.parquet          how well two-way tables are kept, against trees

Of the 50 columns 20 are numbers (amounts with cents, counts, zero-heavy ones; three have missing values), 5 ordered
categories, 12 binary and 13 unordered categories of 3 to 25 levels. ``run`` writes the copy to a temporary folder
beside the table and removes it.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

import fastsynth as fs
from fastsynth.copula import CopulaModel, fit_copula
from fastsynth.execute import Threads
from fastsynth.learn import Learned, learn
from fastsynth.source import open_source
from fastsynth.streams import DRAW, random_words

FILE_ROWS, BLOCK_ROWS, FACTORS = 1_000_000, 65_536, 6
LEVELS = (3, 3, 4, 4, 5, 5, 6, 8, 8, 10, 12, 17, 25)


def block(n: int, seed: int) -> pl.DataFrame:
    """Rows of the table: columns that depend on a few common factors."""
    loads, rng = np.random.default_rng(0), np.random.default_rng(seed)
    factors = rng.normal(size=(n, FACTORS))

    def latent() -> np.ndarray:
        own = loads.normal(size=FACTORS)
        return factors @ (0.8 * own / np.linalg.norm(own)) + 0.6 * rng.normal(size=n)

    table: dict[str, object] = {}
    for i in range(8):
        table[f"amount{i}"] = np.round(np.exp(7 + 0.8 * latent()), 2)
    for i in range(7):
        table[f"count{i}"] = np.floor(np.exp(2.5 + 0.6 * latent())).astype(np.int32)
    for i in range(5):
        z = latent()
        table[f"partly{i}"] = np.where(z > 0, np.round(1000 * z), 0.0)
    for i in range(5):
        names = [f"grade {k}" for k in range(5)]
        codes = np.digitize(latent(), [-1.2, -0.3, 0.4, 1.3])
        table[f"grade{i}"] = pl.Series(np.array(names)[codes], dtype=pl.Enum(names))
    for i in range(12):
        table[f"yes{i}"] = latent() > loads.normal()
    for i, k in enumerate(LEVELS):
        scores = factors @ loads.normal(size=(FACTORS, k)) + loads.normal(size=k)
        codes = (scores + rng.gumbel(size=scores.shape)).argmax(1)
        table[f"group{i}"] = pl.Series(np.array([f"level {j}" for j in range(k)])[codes], dtype=pl.Categorical)
    frame = pl.DataFrame(table)
    holes = {name: pl.Series(rng.random(n) < 0.1) for name in ("amount1", "count2", "partly3")}
    return frame.with_columns(pl.when(~hole).then(pl.col(name)).alias(name) for name, hole in holes.items())


def make(n: int, folder: Path) -> None:
    """Write n rows; the values of a quarter of a million rows come from their own seed."""
    folder.mkdir(parents=True)
    for i, start in enumerate(range(0, n, FILE_ROWS)):
        rows, size = min(FILE_ROWS, n - start), FILE_ROWS // 4
        blocks = [block(min(size, rows - low), 1 + 4 * i + low // size) for low in range(0, rows, size)]
        pl.concat(blocks).write_parquet(folder / f"rows_{i:04}.parquet")


def write_rows(shared: tuple[Learned, CopulaModel, Path], start: int, stop: int) -> int:
    """Draw and write some rows of copy 0, a row group for each block."""
    learned, model, folder = shared
    schema = learned.source.frame.schema
    with pq.ParquetWriter(folder / f"{start:012}.parquet", schema, compression="zstd") as file:
        for low in range(start, stop, BLOCK_ROWS):
            n = min(BLOCK_ROWS, stop - low)
            words = random_words(1, (DRAW, 0, low // BLOCK_ROWS), model.n_words * n).reshape(model.n_words, n)
            ranks = model.draw(0, words)
            arrays = [variable.decode(ranks[slot]) for slot, variable in enumerate(learned.variables)]
            file.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return stop - start


def run(folder: Path, pieces: bool) -> dict[str, object]:
    """Seconds of each part."""
    executor, seconds = Threads(2), {}
    start = time.perf_counter()
    learned = learn(open_source(folder, 1 if pieces else None), executor, lambda _: None)
    seconds["learn"] = time.perf_counter() - start
    start = time.perf_counter()
    slots = range(len(learned.variables))
    model = fit_copula(learned.source, learned.variables, learned.rows, learned.table, slots, executor)
    seconds["fit"] = time.perf_counter() - start
    n, size = learned.n_rows, 8 * BLOCK_ROWS
    with tempfile.TemporaryDirectory(dir=folder.absolute().parent) as out:
        start = time.perf_counter()
        jobs = [(low, min(low + size, n)) for low in range(0, n, size)]
        executor.map(write_rows, (learned, model, Path(out)), jobs, lambda _, rows: rows)
        seconds["draw and write"] = time.perf_counter() - start
    return {
        "rows": n,
        "columns": len(slots),
        "latents": model.n_words,
        "in memory": learned.table is not None,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "total": round(sum(seconds.values()), 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def pairs(path: Path) -> dict[str, object]:
    """Mean and median S_pMSE over all two-way tables of a copy by the copula and by trees."""
    frame, found = pl.read_parquet(path), {}
    learned = learn(open_source(frame), Threads(), lambda _: None)
    slots = range(frame.width)
    model = fit_copula(learned.source, learned.variables, learned.rows, learned.table, slots)
    words = random_words(1, (DRAW, 0), model.n_words * frame.height).reshape(model.n_words, frame.height)
    ranks = model.draw(0, words)
    arrays = [variable.decode(ranks[slot]) for slot, variable in enumerate(learned.variables)]
    copies = {"copula": pl.DataFrame(pa.Table.from_arrays(arrays, schema=learned.source.frame.schema))}
    for method in ("cart", "calibrated"):
        synthesis = fs.synthesize(frame, m=1, method=method, random_state=1, progress=False)
        copies[method] = synthesis[0]
    for method, copy in copies.items():
        two_way = fs.utility(frame, copy).twoway["S_pMSE"]
        found[method] = {"mean": round(float(two_way.mean()), 2), "median": round(float(two_way.median()), 2)}
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"] and len(sys.argv) == 4:
        make(int(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1:2] == ["run"] and len(sys.argv) in (3, 4):
        print(json.dumps(run(Path(sys.argv[2]), sys.argv[3:] == ["pieces"])))
    elif sys.argv[1:2] == ["pairs"] and len(sys.argv) == 3:
        print(json.dumps(pairs(Path(sys.argv[2]))))
    else:
        raise SystemExit(__doc__)
