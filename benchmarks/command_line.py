"""Seconds and peak memory of `fastsynth synthesize` on a file, start of Python and writing included.

python benchmarks/command_line.py adult.parquet [-m 5] [--threads 1 2] [--repeats 5] [--method cart]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def run(words: list[str]) -> tuple[float, float]:
    """Seconds and peak resident memory in MiB of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("-m", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--method", choices=["cart", "calibrated"], default="cart")
    options = parser.parse_args()
    for threads in options.threads:
        runs = []
        for _ in range(options.repeats):
            with tempfile.TemporaryDirectory() as folder:
                out = str(Path(folder) / "out")
                words = [sys.executable, "-m", "fastsynth", "synthesize", str(options.source), "-o", out]
                runs.append(
                    run(
                        [
                            *words,
                            "-m",
                            str(options.m),
                            "--method",
                            options.method,
                            "--visit-sequence",
                            "table",
                            "--random-state",
                            "1",
                            "--threads",
                            str(threads),
                        ]
                    )
                )
        seconds, memory = (statistics.median(values) for values in zip(*runs, strict=True))
        case = f"{options.source.name}, m = {options.m}, threads = {threads}"
        print(f"{case}: {seconds:.2f} s, {memory:.0f} MiB at the peak")


if __name__ == "__main__":
    main()
