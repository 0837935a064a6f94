"""Clustered tables with known parameters, and what copies keep of them.

    python benchmarks/multilevel.py goldstein parametric joint ... [--repeats 200] [-m 10] [--jobs 2]
    python benchmarks/multilevel.py noise [--share 0.5] [--repeats 200] [--jobs 2]
    python benchmarks/multilevel.py table latent.csv [-n 3000] [-J 150] [--missing 0.1] [--seed 1]

``goldstein`` draws 9,084 pupils in 464 schools from the first column of Goldstein's table, synthesises them, fits the
model with random intercepts to each copy and pools: estimates beside those of the original, standard errors beside its
own, coverage of the true values; and intra-class correlations, of the outcome and of what the covariates leave.
Ways to synthesise: parametric (schools drawn with their covariates, outcomes from the fitted model: what the rules are
made for), joint (all columns in one latent normal model), kept (its outcome alone; covariates and schools are kept),
trees and cart (cluster="school", the outcome last), auto (trees in the default order, where categories come after the
outcome), blind (trees with the school as a category).

``noise`` adds noise to columns as they are drawn, and pools slopes as they come and corrected ones.

``table`` writes the table that ``benchmarks/r/jomo.R`` is measured on.

Every repeat of ``goldstein`` and ``noise`` appends a line to benchmarks/results/multilevel.jsonl; those that are there
are not run again, unless the package has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import polars as pl
from bench import read_records, revision
from numpy.typing import NDArray

import fastsynth as fs
from fastsynth.regressions import AddedNoise, informed

Floats = NDArray[np.float64]
Record = dict[str, Any]
Z = NormalDist().inv_cdf(0.975)
RESULTS = Path(__file__).resolve().parent / "results" / "multilevel.jsonl"

# Goldstein's table, first column: the model of the original.
FIXED = {"Intercept": -4.497, "ks2": 0.955, "female": 0.179, "eal": 0.251, "fsm": -0.268}
LEVEL_2, LEVEL_1 = 0.063, 0.336
PUPILS, SCHOOLS = 9_084, 464
MODEL = fs.mixed("ks4", ["ks2", "female", "eal", "fsm"], groups="school")
EMPTY = fs.mixed("ks4", groups="school")
TRUE = FIXED | {"var(school)": LEVEL_2, "var(residual)": LEVEL_1}

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


def pupils(seed: int) -> pl.DataFrame:
    """Goldstein's pupils: schools of about 20, gamma distributed, that differ in all covariates.

    Only the model of ks4 is known. The covariates are ours: ks2 varies so that the variance of ks4 is about 1, as
    Goldstein's, a tenth of it between schools; eal is concentrated in some schools, fsm goes with lower ks2.
    """
    rng = np.random.default_rng([464, seed])
    share = rng.gamma(4.0, size=SCHOOLS)
    size = 2 + rng.multinomial(PUPILS - 2 * SCHOOLS, share / share.sum())
    school = np.repeat(np.arange(SCHOOLS), size)
    poor, foreign, level, u = rng.normal(size=(4, SCHOOLS))[:, school]
    female = rng.random(PUPILS) < 0.5
    fsm = -1.1 + 0.5 * poor + rng.normal(size=PUPILS) > 0
    eal = -1.7 + 0.9 * foreign + 0.2 * fsm + rng.normal(size=PUPILS) > 0
    ks2 = 4.75 + 0.24 * level - 0.1 * poor - 0.35 * fsm - 0.25 * eal + 0.05 * female + 0.7 * rng.normal(size=PUPILS)
    covariates = {"ks2": ks2, "female": female, "eal": eal, "fsm": fsm}
    expected = FIXED["Intercept"] + sum(FIXED[name] * x for name, x in covariates.items())
    ks4 = expected + np.sqrt(LEVEL_2) * u + np.sqrt(LEVEL_1) * rng.normal(size=PUPILS)
    return pl.DataFrame({"school": school.astype(np.int32), **covariates, "ks4": ks4})


def parametric(frame: pl.DataFrame, m: int, seed: int) -> list[pl.DataFrame]:
    """Copies of schools drawn with replacement, with outcomes from the fitted model."""
    rng = np.random.default_rng([1, seed])
    *beta, level_2, level_1 = MODEL(frame).estimate
    x = frame.select(pl.lit(1.0), *(pl.col(name).cast(float) for name in list(FIXED)[1:])).to_numpy() @ beta
    size = np.bincount(frame["school"])
    start = np.cumsum(size) - size
    copies = []
    for _ in range(m):
        donor = rng.integers(0, SCHOOLS, SCHOOLS)
        school = np.repeat(np.arange(SCHOOLS), size[donor])
        place = np.arange(len(school)) - np.repeat(np.cumsum(size[donor]) - size[donor], size[donor])
        rows = np.repeat(start[donor], size[donor]) + place
        u = np.sqrt(level_2) * rng.normal(size=SCHOOLS)[school]
        ks4 = x[rows] + u + np.sqrt(level_1) * rng.normal(size=len(rows))
        copies.append(frame[rows].with_columns(school=school.astype(np.int32), ks4=ks4))
    return copies


def synthesised(frame: pl.DataFrame, m: int, seed: int, **options: Any) -> fs.Synthesis:
    """Copies by the package."""
    return fs.synthesize(frame, m=m, random_state=seed, threads=1, progress=False, **options)


def blind(frame: pl.DataFrame, m: int, seed: int) -> fs.Synthesis:
    """Copies by trees to which the school is a category like any other."""
    return synthesised(frame.with_columns(pl.col("school").cast(pl.String)), m, seed, visit_sequence="table")


def joint(frame: pl.DataFrame, m: int, seed: int) -> fs.Synthesis:
    """Copies by one latent normal model of all columns."""
    block = fs.LatentNormal("ks4", "ks2", "female", "eal", "fsm")
    return synthesised(frame, m, seed, cluster="school", blocks=[block])


def kept(frame: pl.DataFrame, m: int, seed: int) -> fs.Synthesis:
    """Copies in which the outcome alone is replaced, by a latent normal model given the other columns."""
    keep = {name: fs.Column(method="keep") for name in ("school", "ks2", "female", "eal", "fsm")}
    return synthesised(frame, m, seed, cluster="school", blocks=[fs.LatentNormal("ks4")], columns=keep)


SYNTHESISERS: dict[str, Callable[[pl.DataFrame, int, int], Sequence[Any]]] = {
    "parametric": parametric,
    "joint": joint,
    "kept": kept,
    "trees": partial(synthesised, cluster="school", visit_sequence="table"),
    "cart": partial(synthesised, cluster="school", visit_sequence="table", method="cart"),
    "auto": partial(synthesised, cluster="school"),
    "blind": blind,
}


def pooled(copies: Sequence[Any], analysis: Any, n: int) -> pl.DataFrame:
    """Table of the pooled analysis; plain lists are complete, simple synthesis of n rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fs.errors.PoolWarning)
        if isinstance(copies, fs.Synthesis):
            return fs.pool(copies.analyse(analysis)).table
        return fs.pool([analysis(copy) for copy in copies], "raab2016", n=n, k=n).table


def share_of(table: pl.DataFrame) -> float:
    """Intra-class correlation: share of the level-2 variance."""
    level_2, level_1 = table.filter(pl.col("term").str.starts_with("var("))["estimate"]
    return float(level_2 / (level_2 + level_1))


def goldstein_repeat(job: tuple[str, int, int]) -> Record:
    """Estimates of the original and of pooled copies, of one sample of pupils."""
    way, m, seed = job
    frame = pupils(seed)
    started = time.perf_counter()
    copies = SYNTHESISERS[way](frame, m, seed)
    seconds = time.perf_counter() - started
    original = MODEL(frame)
    table = pooled(copies, MODEL, frame.height)
    m_copies = table["m"].max()
    return {
        "case": "goldstein",
        "way": way,
        "m": m,
        "seed": seed,
        "seconds": round(seconds, 3),
        "term": table["term"].to_list(),
        "original": original.estimate.tolist(),
        "original_se": np.sqrt(np.diag(original.covariance)).tolist(),
        "estimate": table["estimate"].to_list(),
        "se": table["std_error"].to_list(),
        "low": table["conf_low"].to_list(),
        "high": table["conf_high"].to_list(),
        "rubin_se": (table["ubar"] + (1 + 1 / m_copies) * table["b"]).sqrt().to_list(),
        "icc": [share_of(pooled(copies, analysis, frame.height)) for analysis in (EMPTY, MODEL)],
        "original_icc": [share_of(pooled([frame], analysis, frame.height)) for analysis in (EMPTY, MODEL)],
    }


def goldstein_table(records: list[Record]) -> str:
    """Means over repeats."""
    terms = records[0]["term"]
    true = np.array([TRUE[term] for term in terms])
    names = ("original", "original_se", "estimate", "se", "low", "high", "rubin_se", "icc", "original_icc")
    of = {name: np.array([record[name] for record in records]) for name in names}
    apart = (of["estimate"] - of["original"]) / of["original_se"]
    ratio, rubin = of["se"] / of["original_se"], of["rubin_se"] / of["original_se"]
    covered = ((of["low"] <= true) & (true <= of["high"])).mean(0)
    # What the originals' own intervals cover of the same repeats: the copies can do no better.
    own = (np.abs(of["original"] - true) < Z * of["original_se"]).mean(0)
    lines = [
        f"{records[0]['way']}: {len(records)} repeats, m = {records[0]['m']}, "
        f"{np.mean([record['seconds'] for record in records]):.1f} s a synthesis",
        f"{'term':<15}{'true':>8}{'original':>10}{'pooled':>9}{'apart':>7}{'within 1':>9}{'se ratio':>9}{'Rubin':>7}"
        f"{'se / sd':>9}{'covered':>9}{'original':>10}",
    ]
    for i, term in enumerate(terms):
        sd = of["estimate"][:, i].std(ddof=1) if len(records) > 1 else np.nan
        lines.append(
            f"{term:<15}{true[i]:>8.3f}{of['original'][:, i].mean():>10.4f}{of['estimate'][:, i].mean():>9.4f}"
            f"{apart[:, i].mean():>+7.2f}{(np.abs(apart[:, i]) < 1).mean():>9.2f}{ratio[:, i].mean():>9.3f}"
            f"{rubin[:, i].mean():>7.2f}{of['se'][:, i].mean() / sd:>9.2f}{covered[i]:>9.3f}{own[i]:>10.3f}"
        )
    level_2 = of["estimate"][:, -2] / of["original"][:, -2]
    icc = of["icc"] / of["original_icc"]
    lines.append(f"level-2 variance over the original's: mean {level_2.mean():.3f}, sd {level_2.std():.3f}")
    lines.append(
        f"intra-class correlation over the original's: of ks4 {icc[:, 0].mean():.3f}, given x {icc[:, 1].mean():.3f}"
    )
    return "\n".join(lines)


# Noise that is added while columns are drawn

# A chain of columns: each is linear in all before it.
ORDER = ("z", "x", "y", "v")
SLOPES = {"z": [], "x": [0.5], "y": [0.3, 0.6], "v": [0.2, -0.4, 0.5]}
TARGETS = {"y on x and z": ("y", ["x", "z"]), "v on y, x and z": ("v", ["y", "x", "z"])}


def chain(n: int, seed: int) -> pl.DataFrame:
    """The columns, with residual variance 1."""
    rng = np.random.default_rng([2, seed])
    columns: dict[str, Floats] = {}
    for name, beta in SLOPES.items():
        columns[name] = sum((b * x for b, x in zip(beta, columns.values(), strict=True)), rng.normal(size=n))
    return pl.DataFrame(columns)


def noise_repeat(job: tuple[float, tuple[str, ...], int, int]) -> Record:
    """Slopes of pooled copies with noise on x and y, as they come and corrected."""
    share, order, m, seed = job
    frame = chain(2_000, seed)
    noisy = {name: fs.Column(noise=share) for name in ("x", "y")}
    copies = synthesised(frame, m, seed, columns=noisy, visit_sequence=list(order))
    known = AddedNoise(dict.fromkeys(noisy, share), {name: i for i, name in enumerate(order)})
    found: Record = {"case": "noise", "way": ", ".join(order), "share": share, "m": m, "seed": seed}
    for name, (y, x) in TARGETS.items():
        others = [other for other in ORDER if other not in (y, *x)]
        asked = informed(fs.slopes(y, x, corrected=True, also=others), known)
        for what, analysis in (("as they come", fs.slopes(y, x)), ("corrected", asked)):
            table = pooled(copies, analysis, frame.height)
            found[f"{name}, {what}"] = (
                table.select("estimate", "std_error", "conf_low", "conf_high").to_numpy().T.tolist()
            )
    return found


def noise_table(records: list[Record]) -> str:
    """Bias and coverage over repeats."""
    lines = [f"noise {records[0]['share']:g} on x and y, drawn in order {records[0]['way']}: {len(records)} repeats"]
    big = chain(2_000_000, 0)
    for name, (y, x) in TARGETS.items():
        true = fs.slopes(y, x)(big).estimate
        for what in ("as they come", "corrected"):
            q, se, low, high = np.array([record[f"{name}, {what}"] for record in records]).transpose(1, 0, 2)
            bias, sd = q.mean(0) - true, q.std(0)
            covered = ((low <= true) & (true <= high)).mean(0)
            cells = ", ".join(
                f"{term} {bias[i]:+.3f} (se / sd {se[:, i].mean() / sd[i]:.2f}, covered {covered[i]:.3f})"
                for i, term in enumerate(x)
            )
            lines.append(f"  {name}, {what}: bias of {cells}")
    return "\n".join(lines)


def repeats(case: Callable[[Any], Record], jobs: list[Any], known: list[Record], options: argparse.Namespace) -> None:
    """Run what is not there yet, in processes; each appends its line as soon as it is done."""
    rev = revision()
    options.results.parent.mkdir(exist_ok=True)
    # Polars has threads, which a fork would not bring along; with one each, processes do not get in each other's way.
    os.environ["POLARS_MAX_THREADS"] = "1"
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for record in pool.map(case, jobs):
            known.append(record | {"revision": rev})
            with options.results.open("a") as file:
                file.write(json.dumps(known[-1]) + "\n")


def _found(options: argparse.Namespace, **wanted: Any) -> list[Record]:
    rev = revision()
    records = [record for record in read_records(options.results) if record["revision"] == rev]
    return [
        r for r in records if all(r.get(key) == value for key, value in wanted.items()) and r["seed"] < options.repeats
    ]


def goldstein(options: argparse.Namespace) -> None:
    """Goldstein's table, by each way to synthesise."""
    for way in options.ways:
        known = _found(options, case="goldstein", way=way, m=options.m)
        done = {record["seed"] for record in known}
        jobs = [(way, options.m, seed) for seed in range(options.repeats) if seed not in done]
        repeats(goldstein_repeat, jobs, known, options)
        print(goldstein_table(known))


def noise(options: argparse.Namespace) -> None:
    """Slopes with noise on two columns, drawn from the first to the last and the other way round."""
    for order in (ORDER, ORDER[::-1]):
        wanted = {"case": "noise", "way": ", ".join(order), "share": options.share, "m": options.m}
        known = _found(options, **wanted)
        done = {record["seed"] for record in known}
        jobs = [(options.share, order, options.m, seed) for seed in range(options.repeats) if seed not in done]
        repeats(noise_repeat, jobs, known, options)
        print(noise_table(known))


def table(options: argparse.Namespace) -> None:
    """Write the table of mixed columns."""
    latent_table(options.n, options.clusters, options.missing, options.seed).write_csv(options.path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--repeats", type=int, default=200)
    common.add_argument("--jobs", type=int, default=os.cpu_count())
    common.add_argument("--results", type=Path, metavar="FILE", default=RESULTS)
    command = commands.add_parser("goldstein", parents=[common])
    command.add_argument("ways", nargs="+", choices=list(SYNTHESISERS))
    command.add_argument("-m", type=int, default=10)
    command = commands.add_parser("noise", parents=[common])
    command.add_argument("--share", type=float, default=0.5)
    command.add_argument("-m", type=int, default=5)
    command = commands.add_parser("table")
    command.add_argument("path", type=Path)
    command.add_argument("-n", type=int, default=3_000)
    command.add_argument("-J", "--clusters", type=int, default=150)
    command.add_argument("--missing", type=float, default=0.1)
    command.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    {"goldstein": goldstein, "noise": noise, "table": table}[options.command](options)


if __name__ == "__main__":
    main()
