"""Interactions through the analyst's model, and through a plain joint normal model: what is left of the slopes.

    python benchmarks/substantive.py [--seeds 40] [--rows 2000] [-m 3] [--output results/substantive.jsonl]

Data: x, w normal, g binary, all correlated; z = .3 + .5 x + .2 w - .3 g + .6 x g + u_j + e in 100 clusters of variance
.3; the outcome is z, whether it is above 0, or in which of four levels it lies. Copies have covariates of a joint
normal model with the true latent correlations, and the outcome

* "model": by ``y ~ x*g + w + (1 | j)``, posterior draws, new clusters;
* "joint": in the joint normal model itself.

Printed, over seeds: share of coefficients of which the truth lies within 2 posterior standard deviations of the
posterior mean; and slopes of the copies (posterior means of the same model, fitted to them) over true ones.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from fastsynth.execute import Threads
from fastsynth.outcome import fit_outcome
from fastsynth.streams import random_words
from fastsynth.substantive import Substantive
from fastsynth.terms import Design, Terms

CASES = {"continuous": [], "binary": [0.0], "ordered": [0.0, 0.6, 1.4]}
CLUSTERS, TAU2 = 100, 0.3
TERMS = Terms.parse("y ~ x*g + w + (1 | j)")
TRUTH = {"intercept": 0.3, "x": 0.5, "g[1]": -0.3, "w": 0.2, "x:g[1]": 0.6}
CORRELATION = np.array([[1, 0.3, 0.4], [0.3, 1, 0.2], [0.4, 0.2, 1]])


def simulate(n: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
    """Covariates, the latent outcome, clusters, and all latents together (n, 4)."""
    rng = np.random.default_rng(seed)
    x, w, g = rng.multivariate_normal(np.zeros(3), CORRELATION, n).T
    values = {"x": x, "w": w, "g": (g > 0).astype(np.int32)}
    cluster = rng.integers(0, CLUSTERS, n).astype(np.int32)
    part = values["g"]
    fixed = 0.3 + 0.5 * x + 0.2 * w - 0.3 * part + 0.6 * x * part
    z = fixed + rng.normal(0, np.sqrt(TAU2), CLUSTERS)[cluster] + rng.normal(size=n)
    return values, z, cluster, np.column_stack([x, w, g, z])


def outcome(kind: str, z: np.ndarray) -> np.ndarray:
    return np.searchsorted(CASES[kind], z).astype(np.int32) if CASES[kind] else z


def fit(kind: str, values: dict, y: np.ndarray, cluster: np.ndarray, sweeps: int, m: int, seed: int):
    design = Design.of(TERMS, values, {"g": 2})
    n_levels = len(CASES[kind]) + 1 if CASES[kind] else 0
    model = Substantive.of(kind, n_levels, design.matrix(values), y, design.random, CLUSTERS)
    options = {"n_draws": m, "burn_in": 150, "thin": sweeps // m, "chains": 1, "entropy": seed}
    return fit_outcome(design, model, values, y, cluster, executor=Threads(1), **options)


def joint_copy(latents: np.ndarray, n_rows: int, rng: np.random.Generator) -> np.ndarray:
    return rng.multivariate_normal(latents.mean(0), np.cov(latents.T), n_rows)


def one_seed(kind: str, n: int, m: int, seed: int) -> dict[str, dict[str, float]]:
    values, z, cluster, latents = simulate(n, seed)
    model, trace = fit(kind, values, outcome(kind, z), cluster, 800, m, seed)
    found = {"covered": {}, "model": {}, "joint": {}}
    truth = {f"beta[{name}]": value for name, value in TRUTH.items()} | {"tau2[intercept, intercept]": TAU2}
    for name, value in truth.items():
        found["covered"][name] = float(abs(trace[name].mean() - value) < 2 * trace[name].std())
    rng = np.random.default_rng([seed, 1])
    for copy in range(m):
        drawn = joint_copy(latents, n, rng)
        new = {"x": drawn[:, 0], "w": drawn[:, 1], "g": (drawn[:, 2] > 0).astype(np.int32)}
        words = random_words(seed, (copy, 0), n)[None], random_words(seed, (copy, 1), CLUSTERS)[None]
        for way, y in (
            ("model", model.draw(copy, new, words[0], cluster, words[1])),
            ("joint", outcome(kind, drawn[:, 3])),
        ):
            again = fit(kind, new, y, cluster, 400, 1, seed)[1]
            for name, value in truth.items():
                found[way][name] = found[way].get(name, 0) + float(again[name].mean()) / value / m
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("-m", type=int, default=3)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    for kind in CASES:
        start = time.perf_counter()
        found = [one_seed(kind, options.rows, options.m, seed) for seed in range(options.seeds)]
        seconds = time.perf_counter() - start
        names = list(found[0]["covered"])
        print(f"\n{kind}, {options.rows} rows, {options.seeds} seeds, {seconds:.0f} s")
        print("| parameter | truth within 2 sd | copies by the model | copies of a joint normal model |")
        print("|---|---|---|---|")
        record = {"kind": kind, "rows": options.rows, "seeds": options.seeds, "m": options.m, "seconds": seconds}
        for name in names:
            means = {way: float(np.mean([f[way][name] for f in found])) for way in found[0]}
            error = {way: float(np.std([f[way][name] for f in found]) / np.sqrt(len(found))) for way in found[0]}
            record[name] = {"mean": means, "standard_error": error}
            cells = [f"{means['covered']:.2f}"] + [f"{means[way]:.3f} ({error[way]:.3f})" for way in ("model", "joint")]
            print("| " + " | ".join([name, *cells]) + " |")
        every = [value for f in found for value in f["covered"].values()]
        print(f"all: {np.mean(every):.3f} of {len(every)}")
        if options.output:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            with options.output.open("a") as lines:
                lines.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
