"""Two-way S_pMSE of differentially private copies of the adult table beside the default method.

    python benchmarks/private.py adult.parquet [--epsilon 1 10] [--delta 0 1e-9] [--depth 3] [--runs 3]
    python benchmarks/private.py --coverage

Domains are those that the table's documentation lists. S_pMSE is as in benchmarks/fidelity.py. Without fnlwgt and
native_country, and with education only as a number, because the text is a function of it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from fidelity import two_way

import fastsynth as fs
from fastsynth.domains import Bins
from fastsynth.execute import Threads
from fastsynth.private import DpCart, fit_private
from fastsynth.source import open_source

WORK = ["Private", "Self-emp-not-inc", "Self-emp-inc", "Federal-gov", "Local-gov", "State-gov", "Without-pay"]
MARITAL = ["Married-civ-spouse", "Married-AF-spouse", "Married-spouse-absent", "Divorced", "Separated", "Widowed"]
OCCUPATION = ["Exec-managerial", "Prof-specialty", "Tech-support", "Sales", "Adm-clerical", "Protective-serv"]
OCCUPATION += ["Craft-repair", "Machine-op-inspct", "Transport-moving", "Handlers-cleaners", "Farming-fishing"]
DOMAINS = {
    "age": (17, 90, 15),
    "workclass": [*WORK, "Never-worked", None],
    "education_num": list(range(1, 17)),
    "marital_status": [*MARITAL, "Never-married"],
    "occupation": [*OCCUPATION, "Other-service", "Priv-house-serv", "Armed-Forces", None],
    "relationship": ["Husband", "Wife", "Unmarried", "Not-in-family", "Own-child", "Other-relative"],
    "race": ["White", "Black", "Asian-Pac-Islander", "Amer-Indian-Eskimo", "Other"],
    "sex": ["Male", "Female"],
    "capital_gain": Bins([0, 1, 2_000, 4_000, 6_000, 10_000, 20_000, 50_000, 99_999]),
    "capital_loss": Bins([0, 1, 1_000, 1_500, 1_800, 2_000, 2_500, 5_000]),
    "hours_per_week": Bins([1, 10, 20, 21, 30, 35, 36, 40, 41, 45, 46, 50, 51, 60, 61, 80, 99]),
    "income": ["<=50K", ">50K"],
}


def coverage(n: int, epsilon: float, runs: int = 200) -> str:
    """Coverage of 95 % intervals of the last of 8 columns, each of which is the one before it in 60 % of the rows."""
    names = [f"x{i}" for i in range(8)]
    method, true = DpCart(epsilon, {name: [False, True] for name in names}), np.array([0.5, 0.2])
    hits, mean = np.zeros(2), np.zeros(2)
    for run in range(runs):
        rng = np.random.default_rng([n, run])
        columns = [rng.random(n) < 0.5]
        for _ in names[1:]:
            columns.append(rng.random(n) < np.where(columns[-1], 0.6, 0.4))
        model, found = fit_private(pa.table(dict(zip(names, columns, strict=True))), method, 2**99 + run), []
        for copy in range(5):
            drawn = model.draw(run, copy, 0, n)
            a, b = (drawn[name].to_numpy(False).astype(bool) for name in names[-2:])
            share, high, low = b.mean(), b[a].mean(), b[~a].mean()
            variance = high * (1 - high) / a.sum() + low * (1 - low) / (~a).sum()
            found.append([[share, high - low], [share * (1 - share) / n, variance]])
        q, u = np.mean(found, axis=0)
        hits, mean = hits + (np.abs(q - true) <= 1.96 * np.sqrt(u * 1.2)), mean + q / runs
    return f"n {n}, epsilon {epsilon:g}: coverage {hits / runs}, mean {mean.round(3)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, nargs="?")
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--epsilon", type=float, nargs="*", default=[1.0, 10.0])
    parser.add_argument("--delta", type=float, nargs="*", default=[0.0, 1e-9])
    parser.add_argument("--depth", type=int, nargs="*", default=[3])
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    if options.coverage:
        for n in (1_000, 10_000):
            for epsilon in (1.0, 10.0):
                print(coverage(n, epsilon), flush=True)
        return
    real = pl.read_parquet(options.source).select(*DOMAINS)

    def score(copies):
        by_copy = [two_way(real, copy) for copy in copies]
        one = [np.mean(list(scores.values())) for scores in by_copy]
        worst = max(by_copy[0].items(), key=lambda item: item[1])
        return f"{np.mean(one):8.2f} (sd {np.std(one):.2f}; worst {worst[0][0]} x {worst[0][1]} {worst[1]:.0f})"

    for epsilon in options.epsilon:
        for delta in options.delta:
            for depth in options.depth:
                copies, start = [], time.perf_counter()
                for run in range(options.runs):
                    method = DpCart(epsilon, DOMAINS, depth=depth, delta=delta)
                    # A seed that is known makes no secret noise: for a benchmark only.
                    model = fit_private(open_source(real), method, run, executor=Threads())
                    copies.append(pl.from_arrow(model.draw(run, 0, 0, real.height)))
                seconds = (time.perf_counter() - start) / options.runs
                print(f"epsilon {epsilon:g} delta {delta:g} depth {depth}: {score(copies)}, {seconds:.1f} s a fit")
    calibrated = fs.synthesize(real, m=options.runs, visit_sequence="table", random_state=1)
    print(f"calibrated, table order: {score(calibrated)}")


if __name__ == "__main__":
    main()
