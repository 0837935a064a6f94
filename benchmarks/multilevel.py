"""Clustered tables with known parameters, and what is kept of them.

    python benchmarks/multilevel.py table latent.csv [-n 3000] [-J 150] [--missing 0.1] [--seed 1]

``table`` writes the table that ``benchmarks/r/jomo.R`` is measured on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Latents of the table of mixed columns: x, y, b, o and two of c; c's own block is that of differences of utilities.
LATENTS = ("x", "y", "b", "o", "c1", "c2")
MEANS = np.array([1.0, -0.5, 0.3, 0.6, 0.2, -0.1])
OMEGA_E = np.array(
    [
        [1.50, 0.50, 0.35, 0.30, 0.25, 0.10],
        [0.50, 1.00, 0.25, 0.30, 0.00, 0.20],
        [0.35, 0.25, 1.00, 0.30, 0.20, 0.10],
        [0.30, 0.30, 0.30, 1.00, 0.10, 0.20],
        [0.25, 0.00, 0.20, 0.10, 1.00, 0.50],
        [0.10, 0.20, 0.10, 0.20, 0.50, 1.00],
    ]
)
# Level-2 variances and correlations of the same latents.
VARIANCES_2, CORRELATION_2 = np.array([0.40, 0.30, 0.25, 0.30, 0.20, 0.20]), 0.3
# Cuts of the latent of o.
CUTS = np.array([0.0, 1.2])


def latent_table(n: int, n_clusters: int, missing: float, seed: int) -> pl.DataFrame:
    """A table of a latent normal model of two levels: numbers x and y, binary b, ordered o and unordered c of 3 levels.

    Clusters have about n / n_clusters rows, at least one; in each column a share ``missing`` of the cells is missing
    completely at random.
    """
    rng = np.random.default_rng(seed)
    extra = rng.multinomial(n - n_clusters, np.full(n_clusters, 1 / n_clusters))
    cluster = np.repeat(np.arange(n_clusters), 1 + extra)
    sd = np.sqrt(VARIANCES_2)
    omega_2 = np.outer(sd, sd) * (CORRELATION_2 + (1 - CORRELATION_2) * np.eye(len(sd)))
    u = rng.normal(size=(n_clusters, len(sd))) @ np.linalg.cholesky(omega_2).T
    z = MEANS + u[cluster] + rng.normal(size=(n, len(sd))) @ np.linalg.cholesky(OMEGA_E).T
    largest = np.where(z[:, 4:].max(1) > 0, z[:, 4:].argmax(1), 2)
    columns = {
        "x": z[:, 0],
        "y": z[:, 1],
        "b": (z[:, 2] > 0).astype(np.int32),
        "o": np.searchsorted(CUTS, z[:, 3]).astype(np.int32),
        "c": largest.astype(np.int32),
    }
    seen = rng.random((n, len(columns))) >= missing
    frame = pl.DataFrame(columns).select(
        pl.when(pl.Series(seen[:, i])).then(pl.col(name)).alias(name) for i, name in enumerate(columns)
    )
    return frame.with_columns(pl.Series("cluster", cluster.astype(np.int32)))


def table(options: argparse.Namespace) -> None:
    """Write the table of mixed columns."""
    latent_table(options.n, options.clusters, options.missing, options.seed).write_csv(options.path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("table")
    command.add_argument("path", type=Path)
    command.add_argument("-n", type=int, default=3_000)
    command.add_argument("-J", "--clusters", type=int, default=150)
    command.add_argument("--missing", type=float, default=0.1)
    command.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    {"table": table}[options.command](options)


if __name__ == "__main__":
    main()
