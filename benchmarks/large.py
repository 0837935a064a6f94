"""Census-like tables larger than memory: seconds, peak memory and bytes, Parquet to Parquet by the command line.

    python benchmarks/large.py make 67_000_000 FOLDER           write the table, a file for each million rows
    python benchmarks/large.py run FOLDER [options of fastsynth synthesize]
    python benchmarks/large.py cluster FOLDER                   two workers of a local cluster against two threads
    python benchmarks/large.py levels 10_000_000                a category with 50,000 levels
    python benchmarks/large.py memory FOLDER PICTURE.png        peak memory over rows, fit_rows = 500,000, limit 6 GB

``run`` writes the copies to a temporary folder beside the table and removes them; each prints a JSON line.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

import fastsynth as fs

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
        words = [sys.executable, "-m", "fastsynth", "synthesize", str(source), "-o", str(out)]
        words += ["--random-state", "1", "--visit-sequence", "table", *(options or ["-m", "1"])]
        start = time.perf_counter()
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
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


def cluster(source: Path) -> dict[str, object]:
    """The same call on threads and on a cluster, each three times in turn; start of the cluster not counted."""
    from distributed import Client, LocalCluster

    seconds: dict[str, list[float]] = {"threads": [], "cluster": []}
    options = {"m": 1, "method": "cart", "visit_sequence": "table", "random_state": 1, "progress": False}
    hashes = set()
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as workers, Client(workers) as client:
        for repeat in range(6):
            where = ("threads", "cluster")[repeat % 2]
            with tempfile.TemporaryDirectory(dir=source.absolute().parent) as folder:
                out = Path(folder) / "out"
                how = {"client": client} if where == "cluster" else {"threads": 2}
                start = time.perf_counter()
                fs.synthesize(source, out=out, **options, **how)
                seconds[where].append(round(time.perf_counter() - start, 1))
                digest = hashlib.sha256()
                for file in sorted(out.rglob("*.parquet")):
                    digest.update(file.read_bytes())
                hashes.add(digest.hexdigest())
    ratio = statistics.median(seconds["cluster"]) / statistics.median(seconds["threads"])
    return seconds | {"ratio": round(ratio, 2), "same bytes": len(hashes) == 1}


def memory(folder: Path, picture: Path) -> None:
    """Run the first 1, 2, 5, ... files of a folder, and draw their peak memory; finished runs are not repeated."""
    from matplotlib.figure import Figure

    results = Path(__file__).parent / "results" / "memory.jsonl"
    records = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    files = sorted(folder.glob("*.parquet"))
    for count in (1, 2, 5, 10, 20, 40, 67):
        if count <= len(files) and count * FILE_ROWS not in {record["rows"] for record in records}:
            with tempfile.TemporaryDirectory(dir=folder.absolute().parent) as some:
                for file in files[:count]:
                    (Path(some) / file.name).symlink_to(file.absolute())
                records.append(
                    run(Path(some), ["-m", "1", "--method", "cart", "--fit-rows", "500000", "--memory-limit", "6 GB"])
                )
            with results.open("a") as out:
                out.write(json.dumps(records[-1]) + "\n")
    records.sort(key=lambda record: record["rows"])
    axes = (figure := Figure(figsize=(6, 3.2), layout="constrained")).add_subplot()
    axes.semilogx([r["rows"] for r in records], [r["peak_gib"] for r in records], "o-", color="#1f5fbf")
    axes.set(xlabel="rows of 20 columns", ylabel="peak memory, GiB", ylim=(0, 6.1))
    axes.axhline(6e9 / 2**30, color="#8a8f99", linestyle=":")
    axes.annotate("memory_limit", (1e6, 5.65), color="#8a8f99", va="bottom")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=110, metadata={"Software": None})


def levels(n: int) -> dict[str, object]:
    """A category with 50,000 levels among n rows, most of them rare."""
    rng = np.random.default_rng(1)
    age = rng.integers(0, 100, n).astype(np.int16)
    place = np.minimum(rng.zipf(1.3, n) + 7 * age.astype(np.int64), 50_000)
    place[:50_000] = np.arange(1, 50_001)
    names = np.array([f"place {i:05}" for i in range(50_001)])
    frame = pl.DataFrame(
        {"age": age, "place": pl.Series(names[place]), "income": (rng.lognormal(3, 1, n) + age).round(1)}
    )
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        options = {"m": 1, "method": "cart", "visit_sequence": "table", "random_state": 1, "progress": False}
        synthesis = fs.synthesize(frame, out=Path(folder) / "out", **options)
        drawn = synthesis.scan(0).select(pl.col("place").n_unique()).collect().item()
    rare = {record["column"]: record["n_rare_levels"] for record in synthesis.audit["columns"]}
    return {"rows": n, "levels": drawn, "rare levels": rare["place"], "seconds": round(time.perf_counter() - start, 1)}


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"] and len(sys.argv) == 4:
        make(int(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1:2] == ["run"] and len(sys.argv) >= 3:
        print(json.dumps(run(Path(sys.argv[2]), sys.argv[3:])))
    elif sys.argv[1:2] == ["cluster"] and len(sys.argv) == 3:
        print(json.dumps(cluster(Path(sys.argv[2]))))
    elif sys.argv[1:2] == ["memory"] and len(sys.argv) == 4:
        memory(Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1:2] == ["levels"] and len(sys.argv) == 3:
        print(json.dumps(levels(int(sys.argv[2]))))
    else:
        raise SystemExit(__doc__)
