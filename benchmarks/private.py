"""Two-way S_pMSE of differentially private copies of the adult table beside the default method.

    python benchmarks/private.py adult.parquet [--epsilon 1 10] [--delta 0 1e-9] [--depth 3] [--runs 3]

Domains are those that the table's documentation lists. S_pMSE is as in benchmarks/fidelity.py. Without fnlwgt and
native_country, and with education only as a number, because the text is a function of it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import polars as pl
from fidelity import two_way

import fastsynth as fs
from fastsynth.execute import Threads
from fastsynth.private import Bins, DpCart, fit_private
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--epsilon", type=float, nargs="*", default=[1.0, 10.0])
    parser.add_argument("--delta", type=float, nargs="*", default=[0.0, 1e-9])
    parser.add_argument("--depth", type=int, nargs="*", default=[3])
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
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
    if "default" not in options:
        print(f"calibrated: {score(fs.synthesize(real, m=options.runs, random_state=1))}")


if __name__ == "__main__":
    main()
