"""Interactions with and without the analyst's model in a joint model: what is left of the slopes in copies.

    python benchmarks/substantive.py [--seeds 40] [--rows 2000] [-m 3] [--missing .2] [--kinds ...] [--output FILE]

Data: x, w normal, g binary, all correlated; z = .3 + .5 x + .2 w - .3 g + .6 x g + u_j + e in 100 clusters of variance
.3; the outcome y is z, whether it is above 0, or in which of four levels it lies. A share of x, w, g and y is missing.
Copies are synthesised by

* "model": LatentNormal("y", "x", "w", "g", model="y ~ x*g + w + (1 | j)"), new clusters;
* "joint": the same without model=.

Printed, over seeds: share of coefficients of which the truth lies within 2 posterior standard deviations of the
posterior mean; and slopes of the copies (posterior means of the same model, fitted to them) over true ones.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import polars as pl

import fastsynth as fs
from fastsynth.errors import ConvergenceWarning
from fastsynth.execute import Threads
from fastsynth.joint import run_chains
from fastsynth.joint_data import JointData
from fastsynth.outcome import Outcome
from fastsynth.terms import Terms

CASES = {"continuous": [], "binary": [0.0], "ordered": [0.0, 0.6, 1.4]}
CLUSTERS, TAU2 = 100, 0.3
MODEL = "y ~ x*g + w + (1 | j)"
TRUTH = {"intercept": 0.3, "x": 0.5, "g[1]": -0.3, "w": 0.2, "x:g[1]": 0.6}
CORRELATION = np.array([[1, 0.3, 0.4], [0.3, 1, 0.2], [0.4, 0.2, 1]])


def simulate(kind: str, n: int, missing: float, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    x, w, latent = rng.multivariate_normal(np.zeros(3), CORRELATION, n).T
    g, cluster = latent > 0, rng.integers(0, CLUSTERS, n)
    z = 0.3 + 0.5 * x + 0.2 * w - 0.3 * g + 0.6 * x * g
    z += rng.normal(0, np.sqrt(TAU2), CLUSTERS)[cluster] + rng.normal(size=n)
    y = pl.Series(z)
    if CASES[kind]:
        levels = [str(level) for level in range(len(CASES[kind]) + 1)]
        y = pl.Series(np.searchsorted(CASES[kind], z)).cast(pl.String).cast(pl.Enum(levels))
    frame = pl.DataFrame({"j": cluster, "x": x, "w": w, "g": g, "y": y})
    gone = {name: pl.Series(rng.random(n) < missing) for name in "xwgy"}
    return frame.with_columns(pl.when(of).then(None).otherwise(pl.col(name)).alias(name) for name, of in gone.items())


def synthesised(frame: pl.DataFrame, model: str | None, m: int, seed: int) -> tuple[list[pl.DataFrame], dict]:
    """Copies, and each parameter of the chains by its name."""
    block = fs.LatentNormal("y", "x", "w", "g", model=model, burn_in=300, thin=300, chains=2, most_sweeps=2_000)
    synthesizer = fs.Synthesizer(m=m, cluster="j", blocks=[block], random_state=seed).fit(frame)
    (chains,) = synthesizer.chains_.values()
    return list(synthesizer.sample()), {parameter.name: parameter for parameter in chains.parameters}


def refitted(frame: pl.DataFrame, kind: str, seed: int) -> dict[str, float]:
    """Posterior means of the model in a copy."""
    y, g = frame["y"].to_physical().to_numpy(), frame["g"].to_numpy().astype(np.int32)
    cluster = np.unique(frame["j"].to_numpy(), return_inverse=True)[1].astype(np.int32)
    values = {"x": frame["x"].to_numpy(), "w": frame["w"].to_numpy(), "g": g}
    n_levels = len(CASES[kind]) + 1 if CASES[kind] else 0
    outcome = Outcome(Terms.parse(MODEL), kind, n_levels, y.astype(np.int32) if n_levels else y, values, {"g": 2})
    data = JointData((), (), np.ones((len(y), 1)), None, cluster, int(cluster.max()) + 1)
    options = {"n_draws": 1, "burn_in": 150, "thin": 400, "chains": 1, "entropy": seed, "executor": Threads(1)}
    return {parameter.name: parameter.mean for parameter in run_chains(data, outcome, **options).parameters}


def one_seed(kind: str, n: int, m: int, missing: float, seed: int) -> dict[str, dict[str, float]]:
    frame = simulate(kind, n, missing, seed)
    truth = {f"y: beta[{name}]": value for name, value in TRUTH.items()} | {"y: tau2[intercept, intercept]": TAU2}
    found: dict[str, dict[str, float]] = {"covered": {}, "model": {}, "joint": {}}
    for way, model in (("model", MODEL), ("joint", None)):
        copies, parameters = synthesised(frame, model, m, seed)
        again = [refitted(copy, kind, seed) for copy in copies]
        for name, value in truth.items():
            found[way][name] = float(np.mean([of[name] for of in again])) / value
            if model is not None:
                found["covered"][name] = float(abs(parameters[name].mean - value) < 2 * parameters[name].sd)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("-m", type=int, default=3)
    parser.add_argument("--missing", type=float, default=0.2)
    parser.add_argument("--kinds", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    for kind in options.kinds:
        start = time.perf_counter()
        found = [one_seed(kind, options.rows, options.m, options.missing, seed) for seed in range(options.seeds)]
        seconds = time.perf_counter() - start
        names = list(found[0]["covered"])
        print(f"\n{kind}, {options.rows} rows, {options.missing:.0%} missing, {options.seeds} seeds, {seconds:.0f} s")
        print("| parameter | truth within 2 sd | copies with model= | copies without |")
        print("|---|---|---|---|")
        record = {name: getattr(options, name) for name in ("rows", "seeds", "m", "missing")}
        record |= {"kind": kind, "seconds": seconds}
        for name in names:
            means = {way: float(np.mean([f[way][name] for f in found])) for way in found[0]}
            error = {way: float(np.std([f[way][name] for f in found]) / np.sqrt(len(found))) for way in found[0]}
            record[name] = {"mean": means, "standard_error": error}
            cells = [f"{means['covered']:.2f}"] + [f"{means[way]:.3f} ({error[way]:.3f})" for way in ("model", "joint")]
            print("| " + " | ".join([name, *cells]) + " |", flush=True)
        every = [value for f in found for value in f["covered"].values()]
        print(f"all: {np.mean(every):.3f} of {len(every)}", flush=True)
        if options.output:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            with options.output.open("a") as lines:
                lines.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
