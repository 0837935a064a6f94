"""Two-way S_pMSE and identical rows of copies of a table, for comparison with other systems.

    python benchmarks/fidelity.py adult.parquet [--drop native_country] [-m 5] [--method calibrated] [--order table]

For every pair of columns the original and a copy are tabulated, numbers in five groups by quantiles of the pooled
values, nulls as a group of their own; S_pMSE is sum (s - o)^2 / ((s + o) / 2) over the cells, by their number less
one: 1 for a correct model (Raab, Nowok and Dibben 2021).
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl

import fastsynth as fs
from fastsynth.disclosure import identical_rows
from fastsynth.source import read_table


def groups(real: pl.Series, synthetic: pl.Series) -> tuple[np.ndarray, np.ndarray]:
    """Group numbers of both columns from 0; numbers in five quantile groups of the pooled values, 0 for null."""
    pooled = pl.concat([real, synthetic])
    if pooled.dtype.is_numeric():
        values = pooled.cast(pl.Float64).to_numpy()
        edges = np.unique(np.nanquantile(values, [0.2, 0.4, 0.6, 0.8]))
        codes = np.where(np.isnan(values), 0, 1 + np.searchsorted(edges, values))
    else:
        codes = pooled.cast(pl.String).rank("dense").fill_null(0).to_numpy()
    codes = codes.astype(np.int64)
    return codes[: len(real)], codes[len(real) :]


def two_way(real: pl.DataFrame, synthetic: pl.DataFrame) -> dict[tuple[str, str], float]:
    """S_pMSE of every pair of columns; both tables have the same number of rows."""
    coded = {name: groups(real[name], synthetic[name]) for name in real.columns}
    result = {}
    for a, b in combinations(real.columns, 2):
        width = 1 + max(coded[b][0].max(), coded[b][1].max())
        cells = [coded[a][i] * width + coded[b][i] for i in (0, 1)]
        size = 1 + max(c.max() for c in cells)
        o, s = (np.bincount(c, minlength=size) for c in cells)
        used = o + s > 0
        o, s = o[used], s[used]
        result[a, b] = float(((s - o) ** 2 / ((s + o) / 2)).sum() / max(used.sum() - 1, 1))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--drop", nargs="*", default=[])
    parser.add_argument("-m", type=int, default=5)
    parser.add_argument("--method", choices=["cart", "calibrated"], default="cart")
    parser.add_argument("--minbucket", type=int)
    parser.add_argument("--order", choices=["auto", "table"], default="auto", help="visit sequence")
    options = parser.parse_args()
    real = pl.read_parquet(options.source).drop(options.drop)
    kind = fs.Cart if options.method == "cart" else fs.Calibrated
    method = kind() if options.minbucket is None else kind(minbucket=options.minbucket)
    syn = fs.synthesize(real, m=options.m, method=method, visit_sequence=options.order, random_state=1)
    scores = [two_way(real, copy) for copy in syn]
    means = {pair: float(np.mean([score[pair] for score in scores])) for pair in scores[0]}
    worst = sorted(means.items(), key=lambda item: -item[1])[:5]
    by_copy = [float(np.mean(list(score.values()))) for score in scores]
    rows = identical_rows(read_table(real)[0], (syn.arrow(i) for i in range(syn.m)))
    size = f"{real.height:,} rows x {real.width} columns"
    print(f"{options.source.name}: {size}, m = {syn.m}, {method}, order {options.order}")
    print(f"mean two-way S_pMSE {np.mean(by_copy):.2f} (sd over copies {np.std(by_copy, ddof=1):.2f})")
    print("worst pairs: " + ", ".join(f"{a} x {b} {value:.1f}" for (a, b), value in worst))
    print(f"rows identical to a real row {100 * rows.share:.2f} %, expected of a fresh sample {100 * rows.fresh:.2f} %")


if __name__ == "__main__":
    main()
