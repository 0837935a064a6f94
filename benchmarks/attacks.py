"""Attacks on copies by method: the tables of docs/attacks.md.

    python benchmarks/attacks.py adult.parquet --drop native_country [--round fnlwgt] [--shadows 48] [-m 5]

Shadow models of 2,000 rows (half of them fitted in each run), and attacks on copies of half of at most ``--rows`` rows
with the other half as hold-out. ``--round`` rounds columns to two digits.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import polars as pl

import fastsynth as fs
from fastsynth.attacks import attack_recipe, shadow_models
from fastsynth.space import sample_rows

METHODS = {
    "Cart(minbucket=1)": fs.Cart(minbucket=1),
    "Cart(minbucket=5)": fs.Cart(),
    "Cart(minbucket=20)": fs.Cart(minbucket=20),
    "Calibrated()": fs.Calibrated(),
    "Sample()": fs.Sample(),
}


def shadow_row(real: pl.DataFrame, method: object, shadows: int, m: int) -> list[float]:
    """AUC of all, outlying and random targets, their TPR at FPR 1 %, and seconds."""
    start = time.perf_counter()
    found = shadow_models(real, fs.Synthesizer(method=method), shadows=shadows, m=m)
    seconds = time.perf_counter() - start
    return [*(a["AUC"] for a in found), found[0]["TPR at FPR 1 %"], found[0]["AUC, worst tenth of targets"], seconds]


def copy_row(real: pl.DataFrame, method: object, m: int, keys: list[str], target: str) -> list[float]:
    """AUCs of membership, risks, and the share closer to members."""
    recipe = fs.Synthesizer(method=method)
    found = attack_recipe(real, recipe, holdout=0.5, m=m, keys=keys, targets=[target], distances=True)
    by_name = {attack.name: attack for attack in found}
    aucs = [by_name[f"membership ({name})"]["AUC"] for name in ("distance", "density ratio", "values")]
    names = ("singling out (univariate)", "singling out (multivariate)", "linkability", f"inference of {target}")
    risks = [by_name[name]["risk"] if name in by_name else None for name in names]
    return [*aucs, *risks, by_name["distances"]["closer to members"]]


def line(label: str, values: list[float | None]) -> str:
    cells = ["" if v is None else f"{v:.0f}" if v > 1.5 else f"{v:.3f}" for v in values]
    return "| " + " | ".join([label, *cells]) + " |"


def read(path: Path) -> pl.DataFrame:
    return fs.load_boys() if str(path) == "boys" else pl.read_parquet(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="Parquet file, or boys")
    parser.add_argument("--drop", nargs="*", default=[])
    parser.add_argument("--round", nargs="*", default=[])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--shadows", type=int, default=48)
    parser.add_argument("--keys", nargs="+", default=["age", "sex", "race", "marital_status", "occupation"])
    parser.add_argument("--target", default="income")
    parser.add_argument("-m", type=int, default=5)
    options = parser.parse_args()
    real = read(options.source).drop(options.drop).with_columns(pl.col(options.round).round_sig_figs(2))
    real = sample_rows(real, options.rows, 0, 99)[0]
    print(f"{options.source.name}: {real.height:,} rows x {real.width} columns, m = {options.m}")
    print("\n| method | AUC, all | outlying | random | TPR at FPR 1 % | AUC, worst tenth | seconds |")
    print("|---|---|---|---|---|---|---|")
    for label, method in METHODS.items():
        print(line(label, shadow_row(real, method, options.shadows, options.m)), flush=True)
    print("\n| method | distance | density ratio | values | single out 1 | single out 2+ | link | infer | closer |")
    print("|---|---|---|---|---|---|---|---|---|")
    for label, method in METHODS.items():
        print(line(label, copy_row(real, method, options.m, options.keys, options.target)), flush=True)


if __name__ == "__main__":
    main()
