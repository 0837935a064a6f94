"""Boys, bootstrap samples x m copies: margins beside the true ones, coverage of the pooled intervals.

The design of Volker and Vink (2021): the 748 completed boys are the population, each repeat draws 748 of them with
replacement, synthesises the sample (cart, minbucket 3, cp 1e-8, bmi passive), and pools hgt ~ age + phb.

    python benchmarks/boys.py [--repeats 200] [-m 5] [--minbucket 3]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import polars as pl
import statsmodels.api as sm

import fastsynth as fs
from fastsynth.pooling import format_table

BMI = (pl.col("wgt") / (pl.col("hgt") / 100) ** 2).truncate(2)
NUMBERS = ["age", "hgt", "wgt", "bmi", "hc", "tv"]
TERMS = ["(Intercept)", "age", "phb.L", "phb.Q", "phb.C", "phb^4", "phb^5"]


def polynomial_contrasts(levels: int) -> np.ndarray:
    """Orthogonal polynomials over 1..levels, as R's contr.poly."""
    x = np.arange(levels) - (levels - 1) / 2
    q, r = np.linalg.qr(np.vander(x, levels, increasing=True))
    return (q * np.sign(np.diag(r)))[:, 1:]


CONTRASTS = polynomial_contrasts(6)


def fit(boys: pl.DataFrame):
    stage = CONTRASTS[boys["phb"].to_physical().to_numpy()]
    design = np.column_stack([np.ones(boys.height), boys["age"].to_numpy(), stage])
    return sm.OLS(boys["hgt"].to_numpy(), design).fit()


def margins(boys: pl.DataFrame) -> np.ndarray:
    values = boys.select(NUMBERS).to_numpy()
    return np.array([values.mean(0), values.std(0, ddof=1), np.median(values, 0)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("-m", type=int, default=5)
    parser.add_argument("--minbucket", type=int, default=3)
    options = parser.parse_args()
    boys = fs.load_boys()
    truth = fit(boys).params
    rng = np.random.default_rng(2021)
    drawn, estimates, errors, seconds = [], [], [], 0.0
    covered = {"bootstrap": [], "raab2016": [], "reiter2003": []}
    for repeat in range(options.repeats):
        sample = boys[rng.integers(0, boys.height, boys.height).tolist()]
        start = time.perf_counter()
        syn = fs.synthesize(
            sample,
            m=options.m,
            method=fs.Cart(minbucket=options.minbucket),
            columns={"bmi": fs.Column(passive=BMI)},
            random_state=repeat,
        )
        seconds += time.perf_counter() - start
        drawn.append(np.mean([margins(copy) for copy in syn], 0))
        real = fit(sample)
        low, high = real.conf_int().T
        covered["bootstrap"].append((low <= truth) & (truth <= high))
        errors.append(real.bse)
        fits = syn.analyse(fit)
        for rule in ("raab2016", "reiter2003"):
            table = fs.pool(fits, rule=rule).table
            covered[rule].append((table["conf_low"].to_numpy() <= truth) & (truth <= table["conf_high"].to_numpy()))
        estimates.append(table["estimate"].to_numpy())

    true, got = margins(boys), np.mean(drawn, 0)
    print(f"{options.repeats} bootstrap samples x m = {options.m}, minbucket {options.minbucket}\n")
    print("Margins (paper, table 2: largest difference of a mean .003 sd)\n")
    columns = {"column": NUMBERS}
    for i, what in enumerate(("mean", "sd", "median")):
        columns |= {f"{what} (true)": true[i], f"{what} (synthetic)": got[i]}
    print(format_table(pl.DataFrame(columns | {"difference / sd": (got[0] - true[0]) / true[1]})))
    print("\nhgt ~ age + phb (paper, table 4: coverage .912 to .958, of the bootstrap itself .915 to .970)\n")
    bias = np.mean(estimates, 0) - truth
    print(
        format_table(
            pl.DataFrame(
                {
                    "term": TERMS,
                    "true": truth,
                    "bias": bias,
                    "bias / se": bias / np.mean(errors, 0),
                    "coverage (bootstrap)": np.mean(covered["bootstrap"], 0),
                    "coverage (T_s)": np.mean(covered["raab2016"], 0),
                    "coverage (Reiter)": np.mean(covered["reiter2003"], 0),
                }
            )
        )
    )
    means = ", ".join(f"{rule} {np.mean(hits):.3f}" for rule, hits in covered.items())
    print(
        f"\nMean coverage: {means}; Monte Carlo error of one coefficient {np.sqrt(0.05 * 0.95 / options.repeats):.3f}"
    )
    print(f"Synthesis: {seconds:.1f} s, {seconds / options.repeats:.4f} s a sample")


if __name__ == "__main__":
    main()
