"""Calibrated trees beside plain ones: coverage where the truth is known.

    python benchmarks/calibrated.py [--repeats 200] [--rows 500] [--only SCENARIO ...]

m = 5 copies of tables whose truth is known, pooled by T_s (complete, simple synthesis). Of the coefficients of each
analysis but the intercept: coverage of 95 % intervals (mean, and lowest), bias in standard errors of the original (mean
and largest), and v, what the estimates vary about those of their originals beyond 1/m, in units of the original
variance. A JSON line for each scenario and method. Of adult: ``benchmarks/fidelity.py --method calibrated --auto``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import polars as pl
import statsmodels.api as sm

import fastsynth as fs

M = 5
METHODS = ("cart", "calibrated")


def correlated(rng: np.random.Generator, n: int, p: int) -> np.ndarray:
    return 0.6 * rng.normal(size=(n, 1)) + 0.8 * rng.normal(size=(n, p))


def linear(p: int) -> Callable[..., tuple]:
    def make(rng: np.random.Generator, n: int) -> tuple[dict, np.ndarray]:
        x = correlated(rng, n, p)
        slopes = np.resize([1.0, 0.5, -0.5, 0.3, 0.8, -0.2], p) / np.sqrt(p / 6)
        columns = {f"x{i}": x[:, i] for i in range(p)} | {"y": x @ slopes + 1.5 * rng.normal(size=n)}
        return columns, np.append(0, slopes)

    return make


def product(rng: np.random.Generator, n: int) -> tuple[dict, np.ndarray]:
    x = correlated(rng, n, 2)
    y = x[:, 0] + 0.5 * x[:, 1] + 0.5 * x[:, 0] * x[:, 1] + rng.normal(size=n)
    return {"x0": x[:, 0], "x1": x[:, 1], "y": y}, np.array([0, 1, 0.5, 0.5])


def curve(rng: np.random.Generator, n: int) -> tuple[dict, np.ndarray]:
    x = correlated(rng, n, 2)
    y = np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] ** 2 + rng.normal(size=n)
    return {"x0": x[:, 0], "x1": x[:, 1], "y": y}, np.array([0, 1, 0.5])


def skew(rng: np.random.Generator, n: int) -> tuple[dict, np.ndarray]:
    x = np.column_stack([np.exp(rng.normal(size=n)), rng.normal(size=n)])
    y = x @ [1.0, 0.5] + 1.5 * rng.normal(size=n)
    return {"x0": x[:, 0], "x1": x[:, 1], "y": y}, np.array([0, 1, 0.5])


def zeros(rng: np.random.Generator, n: int) -> tuple[dict, np.ndarray]:
    """The probability of a zero, by a logit: half of the rows are zero, the rest lognormal."""
    x = correlated(rng, n, 2)
    some = rng.random(n) < 1 / (1 + np.exp(-(x[:, 0] - 0.5 * x[:, 1])))
    y = np.where(some, np.exp(1 + 0.5 * x[:, 0] + rng.normal(size=n)), 0.0)
    return {"x0": x[:, 0], "x1": x[:, 1], "y": y}, np.array([0, 1, -0.5])


def rare(rng: np.random.Generator, n: int) -> tuple[dict, np.ndarray]:
    x = correlated(rng, n, 2)
    y = rng.random(n) < 1 / (1 + np.exp(-(-3.2 + 0.8 * x[:, 0] - 0.4 * x[:, 1])))
    return {"x0": x[:, 0], "x1": x[:, 1], "y": np.where(y, "yes", "no")}, np.array([-3.2, 0.8, -0.4])


def spread(rng: np.random.Generator, n: int) -> tuple[dict, np.ndarray]:
    """Heavy tails whose spread grows with x."""
    x = correlated(rng, n, 2)
    y = x @ [1.0, 0.5] + np.exp(0.5 * x[:, 0]) * rng.standard_t(4, n)
    return {"x0": x[:, 0], "x1": x[:, 1], "y": y}, np.array([0, 1, 0.5])


def ols(*names: str) -> Callable[[dict], tuple[np.ndarray, np.ndarray]]:
    def fit(d: dict) -> tuple[np.ndarray, np.ndarray]:
        columns = {
            "product": lambda: d["x0"] * d["x1"],
            "sine": lambda: np.sin(2 * d["x0"]),
            "square": lambda: d["x1"] ** 2,
        }
        x = np.column_stack([np.ones(len(d["y"])), *(columns[n]() if n in columns else d[n] for n in names)])
        result = sm.OLS(d["y"], x).fit()
        return result.params, result.cov_params()

    return fit


def logit(d: dict) -> tuple[np.ndarray, np.ndarray]:
    y = d["y"] == "yes" if d["y"].dtype.kind in "OUT" else d["y"] > 0
    result = sm.GLM(y.astype(float), np.column_stack([np.ones(len(y)), d["x0"], d["x1"]]), sm.families.Binomial()).fit()
    return result.params, result.cov_params()


SCENARIOS = {
    "linear, 3": (linear(3), ols("x0", "x1", "x2")),
    "linear, 6": (linear(6), ols(*(f"x{i}" for i in range(6)))),
    "linear, 30": (linear(30), ols(*(f"x{i}" for i in range(30)))),
    "product": (product, ols("x0", "x1", "product")),
    "sine and square": (curve, ols("sine", "square")),
    "skewed predictor": (skew, ols("x0", "x1")),
    "zeros or not": (zeros, logit),
    "rare outcome": (rare, logit),
    "spread and tails": (spread, ols("x0", "x1")),
}


def repeat(job: tuple[str, int, int, str]) -> tuple[np.ndarray, ...]:
    name, n, seed, method = job
    make, analyse = SCENARIOS[name]
    columns, true = make(np.random.default_rng(seed), n)
    frame = pl.DataFrame(columns)
    syn = fs.synthesize(frame, m=M, method=method, random_state=seed, threads=1, progress=False)
    fits = [analyse({c: copy[c].to_numpy() for c in copy.columns}) for copy in syn]
    pooled = fs.pool(fits, "raab2016").table
    own, covariance = analyse({c: frame[c].to_numpy() for c in frame.columns})
    se = np.sqrt(np.diag(covariance))
    low, high = pooled["conf_low"].to_numpy(), pooled["conf_high"].to_numpy()
    # Of a curve or of many slopes the intercept is of no interest.
    shown = slice(1, None)
    found = (
        (low <= true) & (true <= high),
        np.abs(own - true) <= 1.96 * se,
        (pooled["estimate"].to_numpy() - own) / se,
    )
    return tuple(part[shown] for part in found)


def coverage(repeats: int, n: int, only: list[str]) -> None:
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(2) as pool:
        for name in SCENARIOS:
            if only and name not in only:
                continue
            for method in METHODS:
                start = time.perf_counter()
                rows = list(pool.map(repeat, [(name, n, seed, method) for seed in range(repeats)]))
                covered, real, z = (np.array([row[i] for row in rows]) for i in range(3))
                record = {
                    "scenario": name,
                    "method": method,
                    "n": n,
                    "repeats": repeats,
                    "coverage": round(covered.mean(), 3),
                    "lowest": round(covered.mean(0).min(), 3),
                    "real data": round(real.mean(), 3),
                    "bias": round(np.abs(z.mean(0)).mean(), 3),
                    "largest bias": round(np.abs(z.mean(0)).max(), 3),
                    "v": round(z.var(0).mean() - 1 / M, 3),
                    "seconds": round(time.perf_counter() - start, 1),
                }
                print(json.dumps(record), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--only", nargs="+", metavar="SCENARIO", default=[])
    options = parser.parse_args()
    coverage(options.repeats, options.rows, options.only)
