"""Rows of copies that equal a unique real row, by what is done about them, and what it costs in two-way S_pMSE.

python benchmarks/exact_copies.py adult.parquet [--drop native_country] [-m 5] [--seeds 4]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl

import fastsynth as fs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--drop", nargs="*", default=[])
    parser.add_argument("-m", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    real = pl.read_parquet(options.source).drop(options.drop)
    print("| method | copies | equal to a unique real row, % | of a fresh sample, % | two-way S_pMSE | worst pair |")
    print("|---|---|---|---|---|---|")
    for method in ("cart", "calibrated"):
        for policy in ("keep", "fresh", "none"):
            found = []
            for seed in range(options.seeds):
                syn = fs.synthesize(real, m=options.m, method=method, copies=policy, random_state=seed)
                share = fs.disclosure(real, syn, real.columns[:1], []).identical
                utility = fs.utility(real, syn)
                found.append((share.unique_share, share.fresh_unique, utility["S_pMSE"], utility["S_pMSE_max"]))
            copied, fresh, mean, worst = np.mean(found, axis=0)
            print(
                f"| {method} | {policy} | {100 * copied:.3f} | {100 * fresh:.3f} | {mean:.3f} | {worst:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
