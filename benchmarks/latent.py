"""The latent normal model: seconds of a sweep, effective draws of a second, and parameters that are known.

    python benchmarks/latent.py speed [--rows 100000 1000000]
    python benchmarks/latent.py mixing
    python benchmarks/latent.py recovery [--seeds 20]

Tables are two-level, with a continuous, a Box-Cox (recovery) or a second continuous, a binary, an ordered and a nominal
column, and a variable of level 2 (not in mixing); 10 % of all values are missing. Seconds are those of one
processor. Lines of JSON go to benchmarks/results/latent.jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).parent.parent))

from fastsynth.execute import Threads
from fastsynth.gibbs import start, sweep
from fastsynth.joint import run_chains
from fastsynth.joint_data import JointData, prepare
from tests.test_joint import two_level

RESULTS = Path(__file__).parent / "results" / "latent.jsonl"


def speed(rows: int, sweeps: int = 20) -> dict[str, float]:
    """Processor time of a sweep by row and column, 20 rows a cluster."""
    data, _ = two_level(rows, rows // 20, plain=True)
    problem = prepare(data)
    state = start(problem, 0, 1)
    with threadpool_limits(1):
        for _ in range(3):
            sweep(problem, state, 1, True)
        begun = time.process_time()
        for _ in range(sweeps):
            sweep(problem, state, 1, False)
        seconds = (time.process_time() - begun) / sweeps
    columns, latents = len(data.columns) - 1, problem.one.layout.q
    per_row = 1e9 * seconds / rows
    return {
        "rows": rows, "ms per sweep": 1e3 * seconds, "ns per row and column": per_row / columns,
        "ns per row and latent": per_row / latents,
    }  # fmt: skip


def mixing(sweeps: int = 1_500, chains: int = 8) -> dict[str, float]:
    """3,000 rows of five columns in 150 clusters: effective draws of all free parameters.

    No sweep of so short chains is left out of the trace.
    """
    data, _ = two_level(plain=True)
    five = JointData(data.columns[:5], data.values[:5], data.x, None, data.cluster, data.n_clusters)
    begun = time.process_time()
    ran = run_chains(five, n_draws=chains, burn_in=500, thin=sweeps, chains=chains, entropy=1, executor=Threads(1))
    seconds = time.process_time() - begun
    done = chains * (500 + sweeps)
    per_sweep = np.array([parameter.ess for parameter in ran.parameters]) / (chains * sweeps)
    return {
        "ms per sweep": 1e3 * seconds / done, "parameters": len(per_sweep),
        "effective draws per sweep, least": per_sweep.min(), "median": float(np.median(per_sweep)),
        "effective draws per second, least": per_sweep.min() * done / seconds,
        "median per second": float(np.median(per_sweep)) * done / seconds,
    }  # fmt: skip


def recovery(seeds: int) -> dict[str, float]:
    """How often true parameters are within one and two posterior standard deviations."""
    away: list[float] = []
    for seed in range(seeds):
        data, truth = two_level(seed=100 + seed)
        chains = run_chains(data, n_draws=20, burn_in=500, thin=150, entropy=seed, executor=Threads(1))
        away += [abs(p.mean - truth[p.name]) / p.sd for p in chains.parameters if p.name in truth]
    found = np.array(away)
    shares = {"within 1": (found < 1).mean(), "within 2": (found < 2).mean()}
    return {"seeds": seeds, "parameters": len(found) // seeds, **shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "mixing", "recovery"])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    runs = {
        "speed": lambda: map(speed, options.rows),
        "mixing": lambda: [mixing()],
        "recovery": lambda: [recovery(options.seeds)],
    }
    RESULTS.parent.mkdir(exist_ok=True)
    for record in runs[options.what]():
        line = json.dumps({"what": options.what} | {k: round(float(v), 4) for k, v in record.items()})
        print(line, flush=True)
        with RESULTS.open("a") as out:
            out.write(line + "\n")


if __name__ == "__main__":
    main()
