"""A Gaussian copula for very many rows: seconds and peak memory of its parts, Parquet to Parquet.

    python benchmarks/copula.py make 10_000_000 FOLDER       write the table of 50 columns, a file for each million rows
    python benchmarks/copula.py run FOLDER [MEMORY]          fit and draw one copy on two threads; prints a JSON line.
                                                             MEMORY is a limit such as "4 GB": the table in pieces
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

import fastsynth as fs

FILE_ROWS, FACTORS = 1_000_000, 6
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


def run(folder: Path, memory_limit: str | None) -> dict[str, object]:
    """Seconds of the fit and of one copy, from files to files."""
    options = {"m": 1, "method": "copula", "random_state": 1, "threads": 2, "progress": False}
    start = time.perf_counter()
    synthesizer = fs.Synthesizer(**options, memory_limit=memory_limit).fit(folder)
    seconds = {"fit": time.perf_counter() - start}
    with tempfile.TemporaryDirectory(dir=folder.absolute().parent) as out:
        start = time.perf_counter()
        synthesizer.sample(out=Path(out) / "copies")
        seconds["draw and write"] = time.perf_counter() - start
    return {
        "rows": synthesizer.n_rows_,
        "columns": len(synthesizer.summary()),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "total": round(sum(seconds.values()), 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def pairs(path: Path) -> dict[str, object]:
    """Mean and median S_pMSE over all two-way tables of a copy by the copula and by trees."""
    frame, found = pl.read_parquet(path), {}
    for method in ("copula", "cart", "calibrated"):
        copy = fs.synthesize(frame, m=1, method=method, random_state=1, progress=False)
        two_way = fs.utility(frame, copy).twoway["S_pMSE"]
        found[method] = {"mean": round(float(two_way.mean()), 2), "median": round(float(two_way.median()), 2)}
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"] and len(sys.argv) == 4:
        make(int(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1:2] == ["run"] and len(sys.argv) in (3, 4):
        print(json.dumps(run(Path(sys.argv[2]), sys.argv[3] if len(sys.argv) == 4 else None)))
    elif sys.argv[1:2] == ["pairs"] and len(sys.argv) == 3:
        print(json.dumps(pairs(Path(sys.argv[2]))))
    else:
        raise SystemExit(__doc__)
