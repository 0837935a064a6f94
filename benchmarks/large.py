"""Census-like tables larger than memory: seconds, peak memory and bytes, Parquet to Parquet by the command line.

    python benchmarks/large.py make 67_000_000 FOLDER           write the table, a file for each million rows
    python benchmarks/large.py run FOLDER [options of fastsynth synthesize]

``run`` writes the copies to a temporary folder beside the table and removes them; it prints a JSON line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

FILE_ROWS = 1_000_000


def make(n: int, folder: Path) -> None:
    """Write n rows; the values of a block come from its own seed."""
    import census

    folder.mkdir(parents=True)
    for i, start in enumerate(range(0, n, FILE_ROWS)):
        frame = census.make(min(FILE_ROWS, n - start), seed=i + 1)
        frame.write_parquet(folder / f"people_{i:04}.parquet")


def run(source: Path, options: list[str]) -> dict[str, object]:
    """Synthesise the table, m = 1 unless told otherwise."""
    with tempfile.TemporaryDirectory(dir=source.absolute().parent) as folder:
        out = Path(folder) / "out"
        words = [sys.executable, "-m", "fastsynth", "synthesize", str(source), "-o", str(out), "--random-state", "1"]
        start = time.perf_counter()
        process = subprocess.Popen([*words, *(options or ["-m", "1"])], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        if status:
            raise SystemExit("the run failed")
        files = sorted(out.rglob("*.parquet"))
        rows = sum(pq.ParquetFile(file).metadata.num_rows for file in files)
        size = sum(file.stat().st_size for file in files)
    read = pl.scan_parquet(source / "*.parquet" if source.is_dir() else source).select(pl.len()).collect().item()
    figures = {"rows": read, "drawn": rows, "options": " ".join(options)}
    return figures | {
        "seconds": round(seconds, 1),
        "peak_gib": round(usage.ru_maxrss / 2**20, 2),
        "out_mb": size // 10**6,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"] and len(sys.argv) == 4:
        make(int(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1:2] == ["run"] and len(sys.argv) >= 3:
        print(json.dumps(run(Path(sys.argv[2]), sys.argv[3:])))
    else:
        raise SystemExit(__doc__)
