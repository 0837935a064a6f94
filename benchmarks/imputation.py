"""Imputation and synthesis in one pass: coverage of T_1, boys beside mice, speed beside mice and miceforest.

    python benchmarks/imputation.py coverage [--repeats 400] [--rows 300 3000] [--patterns outcome both] [--jobs 2]
    python benchmarks/imputation.py boys [--imputer cart]
    python benchmarks/imputation.py table TABLE.csv [--rows 10000]
    python benchmarks/imputation.py speed [--rows 10000]
    python benchmarks/imputation.py miceforest [--rows 10000]      (needs miceforest)
    python benchmarks/imputation.py large [--rows 1000000] [--method cart] [--out FOLDER]

``coverage``: x1, x2 normal with correlation .5, y = x1 + x2 + e, e of variance 1. "outcome": y is missing with a
probability that rises with x1; "both": x2 is missing as well, with one that rises with y where that is observed. Slopes
of y on x1, x2 are pooled by T_1, T_s (T_p), Reiter's rule of 2003 and Rubin's; completed tables by Rubin's, two copies
of each by Reiter's of 2004; the first 5 of 20 are m = 5. Each repeat is a line of benchmarks/results/imputation.jsonl,
and is not run again unless the package has changed.

``boys`` and ``speed`` stand beside benchmarks/results/mice.json, which ``benchmarks/r/mice.R`` wrote.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from bench import peak_bytes, read_records, revision
from scipy.stats import t as student

import fastsynth as fs

Record = dict[str, Any]
RESULTS = Path(__file__).resolve().parent / "results" / "imputation.jsonl"
MICE = RESULTS.with_name("mice.json")
TRUE = {"x1": 1.0, "x2": 1.0}
RULES = ("onestep", "raab2016", "reiter2003", "rubin1987")
# Synthesis (or none), imputation, whether the synthesis is proper, two of each table, or the imputation not proper.
WAYS = ("calibrated/cart", "cart/cart", "cart/cart/proper", "calibrated/calibrated")
WAYS += ("completed/cart", "completed/calibrated", "completed/cart/improper", "cart/cart/twice")
M = 20


def simulate(n: int, missing: float, pattern: str, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng([seed, n])
    x1 = rng.normal(size=n)
    x2 = 0.5 * x1 + np.sqrt(0.75) * rng.normal(size=n)
    y = x1 + x2 + rng.normal(size=n)
    level = {0.15: -2.1, 0.4: -0.5}[missing]
    lost = rng.random(n) < 1 / (1 + np.exp(-(level + x1)))
    also = rng.random(n) < 1 / (1 + np.exp(-(level + np.where(lost, x1, y / 2))))
    frame = pl.DataFrame({"x1": x1, "x2": x2, "y": y}).with_columns(
        y=pl.when(pl.Series(lost)).then(None).otherwise("y")
    )
    if pattern == "outcome":
        return frame
    return frame.with_columns(x2=pl.when(pl.Series(also)).then(None).otherwise("x2"))


def slopes(frame: pl.DataFrame) -> fs.Estimates:
    """Least squares of y on x1 and x2."""
    x = np.column_stack([np.ones(len(frame)), frame["x1"], frame["x2"]])
    y = frame["y"].to_numpy()
    inverse = np.linalg.inv(x.T @ x)
    beta = inverse @ x.T @ y
    s2 = float(((y - x @ beta) ** 2).sum() / (len(y) - 3))
    return fs.Estimates(["x1", "x2"], beta[1:], s2 * inverse[1:, 1:], df=len(y) - 3)


def coverage_repeat(job: tuple[str, str, int, float, int]) -> Record:
    way, pattern, n, missing, seed = job
    frame = simulate(n, missing, pattern, seed)
    method, imputer, *more = way.split("/")
    proper, syntheses = "proper" in more, 0 if method == "completed" else 2 if "twice" in more else 1
    options: Record = {"visit_sequence": ["x1", "x2", "y"]}
    if syntheses:
        options |= {"method": method, "proper": proper}
    impute = fs.Impute(method=imputer, syntheses=syntheses, proper="improper" not in more)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        syn = fs.synthesize(frame, m=M, impute=impute, random_state=seed, threads=1, progress=False, **options)
        found = [slopes(copy) for copy in syn]
    record: Record = {"case": "coverage", "way": way, "pattern": pattern, "n": n, "missing": missing, "seed": seed}
    for m in (5, M):
        for rule in RULES if syntheses == 1 else ["reiter2004"] if syntheses else ["rubin1987"]:
            own = {"imputed": True, "proper": proper} if rule == "onestep" else {"proper": proper}
            if rule in ("rubin1987", "reiter2004"):
                own = {"imputed": True, "syntheses": syntheses if rule == "reiter2004" else 0}
            pooled = fs.pool(found[: m * max(syntheses, 1)], rule=rule, **own).table
            record[f"{rule} {m}"] = pooled.select("estimate", "t", "df").to_dict(as_series=False)
    return record


def coverage_table(records: list[Record]) -> str:
    lines = ["way                   pattern     n missing  m   T (x1, x2)   T/var  bias repeats   T_s/T_p R.2003 Rubin"]
    cells = sorted({(r["way"], r["pattern"], r["n"], r["missing"]) for r in records})
    for cell in cells:
        own = [r for r in records if (r["way"], r["pattern"], r["n"], r["missing"]) == cell]
        for m in (5, M):
            rules = [rule for rule in (*RULES, "reiter2004") if f"{rule} {m}" in own[0]]
            covered = {}
            for rule in rules:
                estimate = np.array([r[f"{rule} {m}"]["estimate"] for r in own])
                t = np.array([r[f"{rule} {m}"]["t"] for r in own])
                df = np.array([[np.inf if v is None else v for v in r[f"{rule} {m}"]["df"]] for r in own])
                covered[rule] = (np.abs(estimate - 1) <= student.isf(0.025, df) * np.sqrt(t)).mean(axis=0)
                if rule == rules[0]:
                    ratio = (t.mean(axis=0) / estimate.var(axis=0, ddof=1)).mean()
                    bias = ((estimate.mean(axis=0) - 1) / estimate.std(axis=0, ddof=1)).mean()
            one = covered[rules[0]]
            others = "   ".join(f"{covered[rule].mean():.3f}" for rule in rules[1:])
            lines.append(
                f"{cell[0]:<21} {cell[1]:<8} {cell[2]:>5}  {cell[3]:>6.2f} {m:>4}   {one.mean():.3f} "
                f"({one[0]:.3f}, {one[1]:.3f})   {ratio:>5.2f}  {bias:>+6.2f}   {len(own):>5}   {others}"
            )
    return "\n".join(lines)


def coverage(options: argparse.Namespace) -> None:
    rev, known = revision(), [r for r in read_records(RESULTS) if r.get("case") == "coverage"]
    known = [r for r in known if r.get("revision") == rev or options.any_revision]
    done = {(r["way"], r["pattern"], r["n"], r["missing"], r["seed"]) for r in known}
    jobs = [
        (way, pattern, n, missing, seed)
        for seed in range(options.repeats)
        for n in options.rows
        for missing in options.missing
        for pattern in options.patterns
        for way in options.ways
    ]
    todo = [job for job in jobs if job not in done]
    RESULTS.parent.mkdir(exist_ok=True)
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool, RESULTS.open("a") as out:
        for record in pool.map(coverage_repeat, todo, chunksize=8):
            record["revision"] = rev
            known.append(record)
            out.write(json.dumps(record) + "\n")
            out.flush()
    wanted = set(jobs)
    print(coverage_table([r for r in known if (r["way"], r["pattern"], r["n"], r["missing"], r["seed"]) in wanted]))


# ---------------------------------------------------------------------------------------------------------------- boys


def of_height(frame: pl.DataFrame) -> fs.Estimates:
    """hgt ~ age + phb, phb as a number, as in mice's vignette of the paper."""
    data = frame.with_columns(pl.col("phb").to_physical() + 1)
    x = np.column_stack([np.ones(len(data)), data["age"], data["phb"]])
    y = data["hgt"].to_numpy()
    inverse = np.linalg.inv(x.T @ x)
    beta = inverse @ x.T @ y
    s2 = float(((y - x @ beta) ** 2).sum() / (len(y) - 3))
    return fs.Estimates(["(Intercept)", "age", "phb"], beta, s2 * inverse, df=len(y) - 3)


def of_stage(frame: pl.DataFrame) -> fs.Estimates:
    """polr(gen ~ age + hc + reg)."""
    from statsmodels.miscmodels.ordinal_model import OrderedModel

    data = frame.to_pandas()
    x = data[["age", "hc"]].astype(float)
    for level in ("east", "west", "south", "city"):
        x[f"reg{level}"] = (data["reg"].astype(str) == level).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = OrderedModel(data["gen"].cat.codes, x, distr="logit").fit(method="bfgs", disp=False, maxiter=500)
    names = list(x.columns)
    return fs.Estimates(names, fit.params[names].to_numpy(), fit.cov_params().loc[names, names].to_numpy())


def boys(options: argparse.Namespace) -> None:
    """Both models, of completed tables by Rubin's rule and of copies by T_1, beside mice's default."""
    frame, mice = fs.load_boys(completed=False), json.loads(MICE.read_text())
    passive = {"bmi": fs.Column(passive=(pl.col("wgt") / (pl.col("hgt") / 100) ** 2).round(2))}
    for name, syntheses in (("completed", 0), ("synthetic", 1)):
        syn = fs.synthesize(
            frame, m=options.m, impute=fs.Impute(maxit=20, syntheses=syntheses, method=options.imputer),
            columns=passive, random_state=1,
            visit_sequence=["age", "hgt", "wgt", "bmi", "hc", "reg", "tv", "gen", "phb"],
        )  # fmt: skip
        young = np.mean([(of.filter(pl.col("age") < 4)["gen"] != "G1").mean() for of in syn])
        theirs = mice["beyond G1 of boys younger than 4"]
        print(f"{name}: boys younger than 4 beyond stage G1: {young:.3f} (mice {theirs:.3f})")
        for from_age in (0, 8):
            for analysis in (of_height, of_stage):
                fits = [analysis(of.filter(pl.col("age") >= from_age)) for of in syn]
                pooled = fs.pool(fits, imputed=True, syntheses=syntheses)
                print(f"{name}, {analysis.__name__}, from age {from_age} (m = {options.m}, {pooled.rule})")
                print("term            mice      se     ours      se   apart in se   se ratio")
                for row in pooled.table.iter_rows(named=True):
                    q, se = mice[f"from {from_age}"][analysis.__name__][row["term"]]
                    apart = (row["estimate"] - q) / row["std_error"]
                    print(
                        f"{row['term']:<12} {q:>8.3f} {se:>7.3f} {row['estimate']:>8.3f} {row['std_error']:>7.3f}   "
                        f"{apart:>+10.2f} {row['std_error'] / se:>10.2f}"
                    )


# --------------------------------------------------------------------------------------------------------------- speed


def mixed_table(n: int, missing: float, seed: int = 1) -> tuple[pl.DataFrame, pl.DataFrame]:
    """20 columns, 14 numbers and 6 categories, that a common factor ties together; whole, and with holes in all."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=n)
    whole: dict[str, Any] = {}
    for j in range(20):
        x = 0.7 * factor + np.sqrt(0.51) * rng.normal(size=n)
        if j < 14:
            whole[f"x{j}"] = np.round(x, 2)
        else:
            levels = [f"l{i}" for i in range(2 + (j - 14) % 4)]
            whole[f"x{j}"] = pl.Series(np.searchsorted(np.linspace(-0.8, 0.8, len(levels) - 1), x)).replace_strict(
                list(range(len(levels))), levels, return_dtype=pl.Enum(levels)
            )
    frame = pl.DataFrame(whole)
    # Missing at random: what is lost of a column depends on its neighbour, of which other cells are lost.
    holes = {}
    for j in range(20):
        score = frame[f"x{(j + 1) % 20}"]
        high = (score.to_physical() if j + 1 >= 14 and j != 19 else score).rank() / n > 0.5
        holes[f"x{j}"] = pl.Series(rng.random(n) < missing * np.where(high, 1.3, 0.7))
    return frame, frame.with_columns(
        pl.when(lost).then(None).otherwise(pl.col(name)).alias(name) for name, lost in holes.items()
    )


def error_of_cells(whole: pl.DataFrame, holed: pl.DataFrame, tables: list[pl.DataFrame]) -> Record:
    """Mean distance between the distributions of imputed and true cells: Kolmogorov's, and total variation."""
    from scipy.stats import ks_2samp

    ks, tv = [], []
    for name in whole.columns:
        lost = holed[name].is_null()
        true = whole[name].filter(lost)
        for table in tables:
            drawn = table[name].filter(lost)
            if true.dtype.is_numeric():
                ks.append(ks_2samp(true, drawn).statistic)
            else:
                shares = [s.cast(pl.String).value_counts(normalize=True, name="p") for s in (true, drawn)]
                both = shares[0].join(shares[1], on=name, how="full", coalesce=True).fill_null(0)
                tv.append(float((both["p"] - both["p_right"]).abs().sum() / 2))
    return {"ks": float(np.mean(ks)), "tv": float(np.mean(tv))}


def own_run(whole: pl.DataFrame, holed: pl.DataFrame, imputer: str) -> Record:
    begun = time.perf_counter()
    impute = fs.Impute(maxit=5, syntheses=0, method=imputer)
    syn = fs.synthesize(holed, m=5, impute=impute, random_state=1, threads=1, progress=False)
    tables = [syn[i] for i in range(5)]
    return {"seconds": time.perf_counter() - begun} | error_of_cells(whole, holed, tables)


def speed(options: argparse.Namespace) -> None:
    whole, holed = mixed_table(options.rows, 0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = [own_run(whole, holed, options.imputer) for _ in range(3)]
    own = sorted(runs, key=lambda r: r["seconds"])[1]
    print(json.dumps({"rows": options.rows, "imputer": options.imputer, "fastsynth, one thread": own}))
    mice = json.loads(MICE.read_text())["speed"] if MICE.exists() else None
    if mice and mice["rows"] == options.rows:
        seconds = mice["seconds_per_sweep"] * 25
        print(f"mice, cart, maxit 5, m 5: {seconds:,.0f} s; ratio {seconds / own['seconds']:.0f}")


def miceforest(options: argparse.Namespace) -> None:
    import miceforest as mf

    whole, holed = mixed_table(options.rows, 0.2)
    data = holed.to_pandas()
    begun = time.perf_counter()
    kernel = mf.ImputationKernel(data, num_datasets=5, random_state=1)
    kernel.mice(5, num_threads=1)
    tables = [pl.from_pandas(kernel.complete_data(i)).cast(dict(whole.schema)) for i in range(5)]
    seconds = time.perf_counter() - begun
    print(json.dumps({"rows": options.rows, "miceforest": {"seconds": seconds} | error_of_cells(whole, holed, tables)}))
    own = own_run(whole, holed, options.imputer)
    print(json.dumps({"fastsynth": own, "ratio": seconds / own["seconds"]}))


def large(options: argparse.Namespace) -> None:
    _, holed = mixed_table(options.rows, 0.1)
    for syntheses in options.syntheses:
        begun = time.perf_counter()
        impute = fs.Impute(maxit=5, syntheses=syntheses, method=options.imputer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fs.synthesize(
                holed, m=5, impute=impute, method=options.method, random_state=1, out=options.out, progress=True
            )
        seconds = time.perf_counter() - begun
        told = {"rows": options.rows, "imputer": options.imputer, "syntheses": syntheses, "method": options.method}
        print(json.dumps(told | {"seconds": round(seconds, 1), "GiB": round(peak_bytes() / 2**30, 2)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("coverage")
    one.add_argument("--repeats", type=int, default=400)
    one.add_argument("--rows", type=int, nargs="+", default=[300, 3_000])
    one.add_argument("--patterns", nargs="+", default=["outcome", "both"])
    one.add_argument("--ways", nargs="+", default=list(WAYS))
    one.add_argument("--missing", type=float, nargs="+", default=[0.15, 0.4])
    one.add_argument("--jobs", type=int, default=2)
    one.add_argument("--any-revision", action="store_true", help="count repeats of other versions of the package too")
    one.set_defaults(run=coverage)
    two = commands.add_parser("boys")
    two.add_argument("-m", type=int, default=20)
    two.add_argument("--imputer", default="cart")
    two.set_defaults(run=boys)
    for name, run in (("table", None), ("speed", speed), ("miceforest", miceforest)):
        other = commands.add_parser(name)
        other.add_argument("--rows", type=int, default=10_000)
        other.add_argument("--imputer", default="cart")
        if run is None:
            other.add_argument("file")
            other.set_defaults(run=lambda o: mixed_table(o.rows, 0.2)[1].write_csv(o.file))
        else:
            other.set_defaults(run=run)
    last = commands.add_parser("large")
    last.add_argument("--rows", type=int, default=1_000_000)
    last.add_argument("--method", default="calibrated")
    last.add_argument("--imputer", default="cart")
    last.add_argument("--syntheses", type=int, nargs="+", default=[1])
    last.add_argument("--out")
    last.set_defaults(run=large)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
