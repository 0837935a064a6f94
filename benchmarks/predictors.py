"""How many predictors a wide table needs: two-way S_pMSE of copies with the q strongest predictors, and with all.

    python benchmarks/predictors.py [--rows 10000] [--columns 300] [--block 20] [--number 10 20 30 40]

The columns come in blocks that share a hidden number, blocks are weakly related, and a column is a number, a number
with a spike, skewed, U-shaped in its hidden number, or a category; a fifth have nulls that depend on another block.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import polars as pl
from fidelity import two_way

import fastsynth as fs
from fastsynth import plan


def block_table(n: int, p: int, block: int, relation: float, seed: int) -> pl.DataFrame:
    """Columns of neighbouring blocks alternate, so that no block comes first."""
    rng = np.random.default_rng(seed)
    n_blocks = max(p // block, 1)
    mixing = np.eye(n_blocks) + relation * rng.normal(size=(n_blocks, n_blocks)) / np.sqrt(n_blocks)
    hidden = rng.normal(size=(n, n_blocks)) @ mixing
    columns = {}
    for j in range(p):
        kind = rng.integers(0, 6)
        of_block = hidden[:, j % n_blocks]
        signal = of_block**2 if kind == 5 else of_block
        load = rng.uniform(0.3, 0.9)
        x = load * (signal - signal.mean()) / signal.std() + np.sqrt(1 - load**2) * rng.normal(size=n)
        if kind == 0:
            column = pl.Series(np.exp(x).round(2))
        elif kind == 1:
            column = pl.Series(np.where(x < 0, 0.0, np.round(x * 10)))
        elif kind in (2, 3):
            cuts = np.quantile(x, np.sort(rng.uniform(0.05, 0.95, rng.integers(1, 7))))
            column = pl.Series(np.searchsorted(cuts, x)).cast(pl.String)
        else:
            column = pl.Series(x.round(2))
        if rng.random() < 0.2:
            missing = hidden[:, (j + 1) % n_blocks] + rng.normal(size=n) > 1.5
            column = pl.select(pl.when(pl.lit(pl.Series(missing))).then(None).otherwise(column)).to_series()
        columns[f"c{j}"] = column
    return pl.DataFrame(columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--columns", type=int, default=300)
    parser.add_argument("--block", type=int, default=20)
    parser.add_argument("--relation", type=float, default=0.4)
    parser.add_argument("--number", type=int, nargs="*", default=[10, 15, 20, 25, 30, 40])
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    real = block_table(options.rows, options.columns, options.block, options.relation, options.seed)
    print(f"{real.height:,} rows x {real.width} columns in blocks of {options.block}, m = 1")
    for number in ["all", *options.number]:
        predictors = "all" if number == "all" else "auto"
        if predictors == "auto":
            plan.AUTO_PREDICTORS = number
        start = time.perf_counter()
        syn = fs.synthesize(real, m=1, method="cart", visit_sequence="table", predictors=predictors, random_state=1)
        seconds = time.perf_counter() - start
        scores = np.array(list(two_way(real, syn[0]).values()))
        print(
            f"{number} predictors: {seconds:.1f} s, S_pMSE mean {scores.mean():.2f}, median {np.median(scores):.2f}, "
            f"99 % {np.quantile(scores, 0.99):.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
