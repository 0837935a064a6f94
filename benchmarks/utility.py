"""Seconds and memory of the utility of copies, all two-way tables.

    python benchmarks/utility.py adult.parquet [-m 5]     a table and copies of it
    python benchmarks/utility.py census [-n 1000000]      20 columns in Parquet files; the copy is another sample

The second one also says how long plain numpy takes to tabulate the same pairs, from groups that are coded already.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
from census import make

import fastsynth as fs

REPEATS = 3
BLOCK = 1_000_000


def timed(original: object, synthetic: object, repeats: int = REPEATS, **options: object) -> fs.Utility:
    """Print seconds, the median of some runs, and the highest memory so far."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        found = fs.utility(original, synthetic, **options)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{statistics.median(seconds):.2f} s (median of {repeats}), peak memory {peak:.2f} GiB, options {options}")
    return found


def numpy_pairs(n: int) -> float:
    """Seconds that numpy takes to count all pairs of 20 columns of n coded rows."""
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 8, (20, n), dtype=np.uint8)
    start = time.perf_counter()
    for a, b in combinations(codes, 2):
        np.bincount(a.astype(np.int64) * 8 + b, minlength=64)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a Parquet file, or census")
    parser.add_argument("-n", type=int, default=1_000_000)
    parser.add_argument("-m", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--memory-limit", default="2 GB")
    options = parser.parse_args()
    if options.source != "census":
        real = pl.read_parquet(options.source)
        syn = fs.synthesize(real, m=options.m, visit_sequence="table", random_state=1)
        timed(real, syn, options.repeats)
        print(timed(real, syn, 1, threeway=True, model=["logit", "cart"]))
        return
    with tempfile.TemporaryDirectory() as folder:
        for side in (0, 1):
            (Path(folder) / str(side)).mkdir()
            for i, start in enumerate(range(0, options.n, BLOCK)):
                rows = make(min(BLOCK, options.n - start), seed=1 + 2 * i + side)
                rows.write_parquet(Path(folder) / str(side) / f"{i:04}.parquet")
        del rows
        sides = [str(Path(folder) / str(side)) for side in (0, 1)]
        print(timed(*sides, options.repeats, memory_limit=options.memory_limit))
    rows = min(options.n, BLOCK)
    print(f"numpy counts all pairs of {rows:,} coded rows in {numpy_pairs(rows):.2f} s")


if __name__ == "__main__":
    main()
