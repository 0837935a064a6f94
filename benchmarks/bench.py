"""Seconds, memory and quality of fastsynth beside scikit-learn, LightGBM, synthpop-py and R (rpart, synthpop, mice).

    python benchmarks/bench.py --size small      run what is not yet in the results file
    python benchmarks/bench.py --table           print the ratios of the results file
    python benchmarks/bench.py --plot FILE.png   draw them

Every case runs in a process of its own, which sends back one JSON line per target. What is in the results file is not
run again, fastsynth excepted when its source has a new revision.

How the peers are treated. Categories are ordered codes for all, as scikit-learn knows nothing else, in the case of R
because rpart tries all partitions of unordered levels when there are three classes or more. scikit-learn gets its
matrix ready made; encoding counts for fastsynth, an equal share for every target (in the speed-up of growth, all of
it for the one target; the exponents and the plot are of the fit alone); building its Dataset counts for LightGBM.
LightGBM grows one tree for each class when there are three or more, so those targets are left out. synthpop-py gets
the labels, which it encodes itself.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "bench.jsonl"
SYNTHPOP_VENV = HERE / "results" / "synthpop-venv"
# Target name under which the seconds of encoding the whole table are kept.
ENCODING = "(encoding)"
REPEATS = 3
# An action that takes longer than this in all is not repeated any more.
REPEAT_SECONDS = 15
# A run that takes longer is stopped, and said to have been.
LIMIT_SECONDS = {"small": 150, "large": 4 * 3600}
LEVELS = (20, 10_000)
SOME_MISSING = ("edu", "occ", "tenure", "hours", "income", "bmi")
MINBUCKET = 5

Record = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """What is measured, on how many rows, and which implementations take part; size 0 is the rows of the file."""

    name: str
    measures: str
    small: tuple[int, ...]
    large: tuple[int, ...]
    peers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Implementation:
    """Who is measured, the package that tells the version, where it runs, and the most rows it is asked for."""

    name: str
    package: str
    where: str = "here"
    most_rows: int = 100_000_000


@dataclass(frozen=True)
class Job:
    """What the process of one run has to know. ``leaves`` are those of fastsynth's trees, by target."""

    case: str
    implementation: str
    n: int
    todo: tuple[str, ...]
    repeats: int
    adult: str | None
    leaves: dict[str, int]


CASES = [
    Case(
        "fit",
        "all targets of the census table, and how pure the leaves are",
        (20_000,),
        (1_000_000,),
        ("scikit-learn", "LightGBM", "rpart"),
    ),
    Case("draw", "walking the tree of bmi and drawing donors", (20_000,), (1_000_000,)),
    Case("unordered", "categories left unordered against ordered", (20_000,), (1_000_000,)),
    Case("missing", "5 % of the cells of six columns null against complete", (20_000,), (1_000_000,)),
    Case("levels", "10,000 levels against 20, of the target and of a predictor", (50_000,), (1_000_000,)),
    Case("threads", "Synthesizer.fit with two threads against one", (20_000,), (1_000_000,)),
    Case("growth", "the fit of bmi as rows grow", (10_000, 100_000), (1_000_000, 10_000_000), ("scikit-learn",)),
    Case("memory", "bytes a row of the fit of bmi, beside the encoded table", (200_000,), (1_000_000,)),
    Case("adult", "all targets of the adult table", (0,), (), ("scikit-learn",)),
    Case("diamonds", "all targets of a table like diamonds", (50_000,), (), ("scikit-learn",)),
    Case("synthesis", "one whole copy of the census table", (20_000,), (), ("synthpop-py", "synthpop", "mice")),
]
IMPLEMENTATIONS = [
    Implementation("fastsynth", "fastsynth"),
    Implementation("scikit-learn", "scikit-learn", most_rows=1_000_000),
    Implementation("LightGBM", "lightgbm"),
    Implementation("synthpop-py", "synthpop-py", "synthpop-venv"),
    Implementation("rpart", "rpart", "R", most_rows=100_000),
    Implementation("synthpop", "synthpop", "R"),
    Implementation("mice", "mice", "R"),
]
CASE = {case.name: case for case in CASES}
IMPLEMENTATION = {implementation.name: implementation for implementation in IMPLEMENTATIONS}

# Arguments: CSV of the table, repeats.
SYNTHPOP_PY = """
import json, statistics, sys, time, warnings
from importlib.metadata import version
import pandas as pd
from synthpop import Synthesiser
from synthpop.methods import tune_cart

warnings.simplefilter("ignore")
table = pd.read_csv(sys.argv[1])
seconds = []
for _ in range(int(sys.argv[2])):
    start = time.perf_counter()
    Synthesiser(random_seed=1, default_syn_method=tune_cart(n_leaves=5)).fit(table).generate()
    seconds.append(time.perf_counter() - start)
versions = {name: version(name) for name in ("numpy", "scikit-learn", "synthpop-py")}
versions["python"] = sys.version.split()[0]
print(json.dumps({"target": "all", "seconds": statistics.median(seconds), "versions": versions}))
"""

# Arguments: package, CSV of the table, repeats, names of categories, targets (rpart).
R_SCRIPT = r"""
args <- commandArgs(TRUE)
task <- args[1]
repeats <- as.integer(args[3])
categories <- strsplit(args[4], ",")[[1]]
targets <- strsplit(args[5], ",")[[1]]
if (!requireNamespace(task, quietly = TRUE)) {
  cat('{"absent": true}\n')
  quit()
}
table <- read.csv(args[2], stringsAsFactors = FALSE)
for (name in categories) table[[name]] <- factor(table[[name]], ordered = TRUE)
set.seed(1)
timed <- function(action) median(sapply(seq_len(repeats), function(i) system.time(action())[["elapsed"]]))
report <- function(target, seconds, more = "") cat(sprintf(
  '{"target": "%s", "seconds": %.6f, %s"versions": {"R": "%s", "%s": "%s"}}\n', target, seconds, more,
  paste(R.version$major, R.version$minor, sep = "."), task, as.character(packageVersion(task))))
impurity <- function(y, leaf) {
  if (is.numeric(y)) return(sum((y - ave(y, leaf))^2))
  counts <- table_of(leaf, y)
  sum(rowSums(counts) - rowSums(counts^2) / rowSums(counts))
}
table_of <- base::table
if (task == "rpart") {
  control <- rpart::rpart.control(minbucket = 5, minsplit = 10, cp = 0, xval = 0, maxcompete = 0, maxsurrogate = 0)
  for (target in targets) {
    data <- table[seq_len(match(target, names(table)))]
    if (is.factor(data[[target]])) data[[target]] <- factor(data[[target]], ordered = FALSE)
    method <- if (is.factor(data[[target]])) "class" else "anova"
    fit <- NULL
    seconds <- timed(function()
      fit <<- rpart::rpart(as.formula(paste(target, "~ .")), data, method = method, control = control, y = FALSE))
    report(target, seconds, sprintf('"quality": %.9g, "leaves": %d, ', impurity(data[[target]], fit$where),
      length(unique(fit$where))))
  }
} else if (task == "synthpop") {
  report("all", timed(function() synthpop::syn(table, method = "cart", m = 1, cart.minbucket = 5, maxfaclevels = 100,
    print.flag = FALSE, minnumlevels = 0)))
} else {
  p <- ncol(table)
  earlier <- lower.tri(diag(p)) * 1
  dimnames(earlier) <- list(names(table), names(table))
  everything <- matrix(TRUE, nrow(table), p)
  report("all", timed(function() mice::mice(table, m = 1, maxit = 1, method = c("sample", rep("cart", p - 1)),
    predictorMatrix = earlier, where = everything, minbucket = 5, printFlag = FALSE)))
}
"""


# Tables


def diamonds(n: int = 50_000, seed: int = 1):
    """A table like diamonds: three ordered grades, a price, and measures of which one follows from the others."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(seed)
    carat = np.round(np.clip(np.exp(rng.normal(-0.4, 0.58, n)), 0.2, 5), 2)
    grades = {"cut": 5, "color": 7, "clarity": 8}
    codes = {name: np.clip(rng.normal(k / 2 - carat / 3, k / 4, n), 0, k - 1).astype(int) for name, k in grades.items()}
    depth = np.round(rng.normal(61.7, 1.4, n) - 0.2 * codes["cut"], 1)
    quality = 0.05 * codes["cut"] + 0.08 * codes["color"] + 0.12 * codes["clarity"]
    x = np.round(6.5 * np.cbrt(carat) + rng.normal(0, 0.03, n), 2)
    y = np.round(x + rng.normal(0, 0.03, n), 2)
    frame = {"carat": carat, **codes, "depth": depth, "table": np.round(rng.normal(57.5, 2.2, n))}
    frame["price"] = np.round(np.exp(7.6 + 1.7 * np.log(carat) + quality + rng.normal(0, 0.12, n))).astype(int)
    frame |= {"x": x, "y": y, "z": np.round(depth / 100 * (x + y) / 2, 2)}
    labels = [pl.format("{}{}", pl.lit(name), pl.col(name)).alias(name) for name in grades]
    return ordered(pl.DataFrame(frame).with_columns(labels))


def grouped(n: int, role: str, levels: int, seed: int = 1):
    """Five numbers and a category of many levels, last when it is the target, first when it is a predictor."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(seed)
    x = {f"x{i}": np.round(rng.random(n), 4) for i in range(5)}
    if role == "target":
        group = (levels * np.clip(x["x0"] + rng.normal(0, 0.02, n), 0, 0.999999)).astype(int)
    else:
        group = rng.integers(0, levels, n)
    label = pl.Series("group", group).cast(pl.String).cast(pl.Categorical)
    if role == "target":
        return pl.DataFrame(x).with_columns(label)
    y = np.round(rng.normal(size=levels)[group] + x["x0"] + rng.normal(size=n), 2)
    return pl.DataFrame([label]).with_columns(**{name: pl.Series(v) for name, v in x.items()}, y=pl.Series(y))


def ordered(frame):
    """The table with all categories ordered by name, so that fastsynth cuts them as the numbers that peers get.

    A missing category is a level of its own, the lowest one: scikit-learn knows nothing else.
    """
    import polars as pl

    names = frame.select(pl.selectors.by_dtype(pl.String, pl.Categorical, pl.Boolean)).columns
    frame = frame.with_columns(pl.col(names).cast(pl.String).fill_null(""))
    return frame.with_columns(pl.col(name).cast(pl.Enum(frame[name].unique().sort().to_list())) for name in names)


def with_nulls(frame, names: tuple[str, ...], share: float = 0.05):
    """The table with this share of the cells of some columns set to null."""
    import numpy as np
    import polars as pl

    rng = np.random.default_rng(2)
    masks = {name: pl.Series(rng.random(frame.height) < share) for name in names}
    return frame.with_columns(
        pl.when(pl.lit(mask)).then(None).otherwise(pl.col(name)).alias(name) for name, mask in masks.items()
    )


def make_table(case: str, n: int, adult: str | None):
    """The table of a case, categories ordered where peers take part."""
    import polars as pl

    if case == "adult":
        return ordered(pl.read_parquet(adult))
    if case == "diamonds":
        return diamonds(n)
    import census

    frame = census.make(n)
    return ordered(frame) if case in ("fit", "draw", "growth", "memory", "synthesis") else frame


def targets_of(case: str, adult: str | None) -> tuple[str, ...]:
    """What the records of a case are called."""
    if case in ("fit", "adult", "diamonds"):
        return tuple(make_table(case, 2, adult).columns[1:])
    return {
        "draw": ("bmi",),
        "growth": ("bmi",),
        "memory": ("bmi",),
        "unordered": ("ordered", "unordered"),
        "missing": ("complete", "missing"),
        "levels": tuple(f"{role} {levels}" for role in ("target", "predictor") for levels in LEVELS),
        "threads": ("1", "2"),
        "synthesis": ("all",),
    }[case]


# Measures


def timed(action: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Median seconds of an action, and what it gave last."""
    seconds, result = [], None
    while len(seconds) < repeats and sum(seconds) < REPEAT_SECONDS:
        result = None  # the memory of one repeat is free before the next
        start = time.perf_counter()
        result = action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def peak_bytes(who: int = resource.RUSAGE_SELF) -> int:
    """Peak resident memory; macOS gives bytes, others KiB."""
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def codes_of(column):
    """A column as numbers: categories by position, missing ones as -1."""
    import polars as pl

    return (column.to_physical().cast(pl.Int64) if column.dtype == pl.Enum else column).fill_null(-1).to_numpy()


def impurity(leaf, column) -> float:
    """Sum of squares within leaves, or for categories rows times Gini impurity."""
    import numpy as np
    import polars as pl

    y = codes_of(column)
    _, leaf, rows = np.unique(leaf, return_inverse=True, return_counts=True)
    if column.dtype == pl.Enum:
        pairs, counts = np.unique(leaf * (int(y.max()) + 2) + y + 1, return_counts=True)
        return float(len(y) - np.sum(counts.astype(float) ** 2 / rows[pairs // (int(y.max()) + 2)]))
    mean = np.bincount(leaf, y) / rows
    return float(np.sum((y - mean[leaf]) ** 2))


def n_classes(column) -> int:
    """Number of classes of a target, 0 for numbers."""
    import polars as pl

    return column.n_unique() if column.dtype == pl.Enum else 0


# fastsynth


def encoded(frame):
    """The table as fastsynth sees it."""
    from fastsynth.columns import encode
    from fastsynth.source import read_table

    return encode(*read_table(frame))


def fit_one(table, target: int):
    """Fit one column on all columns before it, as deep as minbucket allows."""
    import numpy as np

    from fastsynth.methods import Cart, fit_column

    rows = np.arange(table.n_rows, dtype=np.uint32)
    return fit_column(table, target, tuple(range(target)), Cart(minbucket=MINBUCKET, cp=0), rows)


def fit_all(frame) -> None:
    """Encode a table and fit all its columns but the first, one after the other."""
    table = encoded(frame)
    for target in range(1, len(table.variables)):
        fit_one(table, target)


def leaves_of_rows(tree, table):
    """Leaf of every training row."""
    import numpy as np

    from fastsynth import _tree

    n = table.n_rows
    rows, words, leaf = np.arange(n, dtype=np.uint32), np.zeros(n, np.uint64), np.empty(n, np.uint32)
    codes = np.ascontiguousarray(table.codes.T)
    _tree.apply(tree.nodes, tree.count, tree.level_mask, tree.levels, codes, rows, words, leaf)
    return leaf


def fit_fastsynth(frame, job: Job) -> Iterator[Record]:
    """Encode the table once, fit its targets one at a time."""
    encoded(frame.head(100))  # loading Arrow's functions takes a tenth of a second, once
    seconds, table = timed(lambda: encoded(frame), 3)
    yield {"target": ENCODING, "seconds": seconds}
    for target in job.todo:
        slot = frame.columns.index(target)
        seconds, model = timed(lambda slot=slot: fit_one(table, slot), job.repeats)
        yield {
            "target": target,
            "seconds": seconds,
            "quality": impurity(leaves_of_rows(model.values, table), frame[target]),
            "leaves": model.values.n_leaves,
            "classes": n_classes(frame[target]),
        }


def draw_fastsynth(frame, job: Job) -> Iterator[Record]:
    """Draw a bmi for every row of the table."""
    import numpy as np

    table, slot = encoded(frame), frame.columns.index("bmi")
    tree = fit_one(table, slot).values
    codes, n = np.ascontiguousarray(table.codes.T), table.n_rows
    rows, out = np.arange(n, dtype=np.uint32), np.zeros(n, table.ranks[slot].dtype)
    words = np.random.PCG64DXSM(1).random_raw(n)
    seconds, _ = timed(lambda: tree.draw(codes, rows, words, out), 5)
    yield {"target": "bmi", "seconds": seconds, "quality": n / seconds}


def unordered_fastsynth(frame, job: Job) -> Iterator[Record]:
    """Encode and fit the table with its categories ordered, and as they are."""
    for target in job.todo:
        variant = frame if target == "unordered" else ordered(frame)
        yield {"target": target, "seconds": timed(lambda v=variant: fit_all(v), job.repeats)[0]}


def missing_fastsynth(frame, job: Job) -> Iterator[Record]:
    """Encode and fit the table as it is, and with some cells null."""
    for target in job.todo:
        variant = with_nulls(frame, SOME_MISSING) if target == "missing" else frame
        yield {"target": target, "seconds": timed(lambda v=variant: fit_all(v), job.repeats)[0]}


def levels_fastsynth(_, job: Job) -> Iterator[Record]:
    """Fit the last column of small tables, of which one column has few or many levels; encoding included."""
    for target in job.todo:
        role, levels = target.split()
        frame = grouped(job.n, role, int(levels))
        seconds, model = timed(lambda f=frame: fit_one(encoded(f), f.width - 1), job.repeats)
        yield {"target": target, "seconds": seconds, "leaves": model.values.n_leaves}


def threads_fastsynth(frame, job: Job) -> Iterator[Record]:
    """Fit all columns through the front end."""
    import fastsynth as fs

    for target in job.todo:
        synthesizer = fs.Synthesizer(
            method="cart", visit_sequence="table", threads=int(target), random_state=1, progress=False
        )
        yield {"target": target, "seconds": timed(lambda s=synthesizer: s.fit(frame), job.repeats)[0]}


def memory_fastsynth(_, job: Job) -> Iterator[Record]:
    """Peak of one fit, above what the process held before.

    Another process makes and encodes the table: its own peak would hide that of the fit.
    """
    import pickle

    import numpy as np

    from fastsynth.columns import EncodedTable
    from fastsynth.methods import Cart, fit_column

    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, __file__, "--encode", folder, str(job.n)]
        subprocess.run(words, check=True)
        variables = pickle.loads((Path(folder) / "variables").read_bytes())
        codes = np.load(Path(folder) / "codes.npy")
    target = len(variables) - 1
    assert variables[target].bins is None  # the codes of bmi are its ranks
    table = EncodedTable(variables, (None,) * target + (codes[target],), codes, None)
    rows, method = np.arange(job.n, dtype=np.uint32), Cart(minbucket=MINBUCKET, cp=0)
    # What a first fit loads belongs to no row.
    fit_column(table, target, tuple(range(target)), method, rows[:100])
    before = peak_bytes()
    start = time.perf_counter()
    fit_column(table, target, tuple(range(target)), method, rows)
    seconds = time.perf_counter() - start
    yield {"target": "bmi", "seconds": seconds, "quality": (peak_bytes() - before) / job.n}


def encode_into(folder: Path, n: int) -> None:
    """Leave the encoded columns up to bmi in a folder, without the distinct values of predictors."""
    import pickle
    from dataclasses import replace

    import numpy as np

    frame = make_table("memory", n, None)
    table = encoded(frame[:, : frame.columns.index("bmi") + 1])
    slim = [v if v.bins is None else replace(v, values=v.values[:1], bins=v.bins[-1:]) for v in table.variables]
    np.save(folder / "codes.npy", table.codes)
    (folder / "variables").write_bytes(pickle.dumps(tuple(slim)))


def synthesis_fastsynth(frame, job: Job) -> Iterator[Record]:
    """One copy by one thread, as all peers use one."""
    import fastsynth as fs

    def action():
        return fs.synthesize(
            frame, m=1, method="cart", visit_sequence="table", random_state=1, threads=1, progress=False
        )

    yield {"target": "all", "seconds": timed(action, job.repeats)[0]}


# Peers in Python


def matrix(frame, target: str):
    """The columns before the target as the numbers that scikit-learn works with."""
    import numpy as np

    names = frame.columns[: frame.columns.index(target)]
    return np.column_stack([codes_of(frame[name]).astype(np.float32) for name in names])


def fit_sklearn(frame, job: Job) -> Iterator[Record]:
    """Fit one tree a target; the matrix is made before the clock starts."""
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    for target in job.todo:
        x, y, classes = matrix(frame, target), codes_of(frame[target]), n_classes(frame[target])
        kind = DecisionTreeClassifier if classes else DecisionTreeRegressor
        y = y if classes else y.astype(float)
        seconds, tree = timed(
            lambda kind=kind, x=x, y=y: kind(min_samples_leaf=MINBUCKET, random_state=0).fit(x, y), job.repeats
        )
        quality = impurity(tree.apply(x), frame[target])
        yield {"target": target, "seconds": seconds, "quality": quality, "leaves": int(tree.get_n_leaves())}


def fit_lightgbm(frame, job: Job) -> Iterator[Record]:
    """Grow one tree of as many leaves as fastsynth's, Dataset included."""
    import lightgbm

    for target in job.todo:
        x, y = matrix(frame, target), codes_of(frame[target])
        options = {
            "objective": "binary" if n_classes(frame[target]) else "regression",
            # LightGBM takes no more than 2^17 leaves.
            "num_leaves": min(max(job.leaves[target], 2), 131_072),
            "min_data_in_leaf": MINBUCKET,
            "min_sum_hessian_in_leaf": 0,
            "learning_rate": 1,
            "num_threads": 1,
            "force_col_wise": True,
            "histogram_pool_size": 1024,
            "seed": 0,
            "verbosity": -1,
        }

        def action(x=x, y=y, options=options):
            return lightgbm.train(options, lightgbm.Dataset(x, y, params=options), num_boost_round=1)

        seconds, booster = timed(action, job.repeats)
        leaf = booster.predict(x, pred_leaf=True).reshape(-1)
        yield {
            "target": target,
            "seconds": seconds,
            "quality": impurity(leaf, frame[target]),
            "leaves": len(set(leaf.tolist())),
        }


# Peers elsewhere


def run_elsewhere(frame, job: Job) -> Iterator[Record]:
    """Hand the table as CSV to R or to the environment of synthpop-py, where the clock runs."""
    import polars as pl

    categories = frame.select(pl.selectors.enum()).columns
    with tempfile.TemporaryDirectory() as folder:
        source, script = Path(folder) / "table.csv", Path(folder) / "script"
        frame.write_csv(source)
        if job.implementation == "synthpop-py":
            script.write_text(SYNTHPOP_PY)
            words = [str(SYNTHPOP_VENV / "bin" / "python"), str(script), str(source), str(job.repeats)]
        else:
            script.write_text(R_SCRIPT)
            words = ["Rscript", str(script), job.implementation, str(source), str(job.repeats)]
            words += [",".join(categories), ",".join(job.todo)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if line.startswith("{"):
                    yield json.loads(line)
    if process.returncode:
        raise SystemExit(f"{job.implementation} failed")


FITTERS = {"fastsynth": fit_fastsynth, "scikit-learn": fit_sklearn, "LightGBM": fit_lightgbm}
OWN = {
    "draw": draw_fastsynth,
    "unordered": unordered_fastsynth,
    "missing": missing_fastsynth,
    "levels": levels_fastsynth,
    "threads": threads_fastsynth,
    "memory": memory_fastsynth,
    "synthesis": synthesis_fastsynth,
}


def child(job: Job) -> None:
    """Run one implementation on one case, and print a JSON line for each target as it is done."""
    implementation = IMPLEMENTATION[job.implementation]
    # These two make their tables themselves, one outside this process.
    frame = None if job.case in ("levels", "memory") else make_table(job.case, job.n, job.adult)
    if job.case == "growth":
        frame = frame[:, : frame.columns.index("bmi") + 1]
    elsewhere = implementation.where != "here"
    work = run_elsewhere if elsewhere else OWN.get(job.case, FITTERS.get(job.implementation))
    for record in work(frame, job):
        if "absent" not in record and not elsewhere:
            names = ("numpy", implementation.package)
            record["versions"] = {"python": platform.python_version()} | {name: version(name) for name in names}
        # The child of this process has no peak before it ends; ``parent`` fills it in.
        record["peak_mib"] = None if elsewhere else round(peak_bytes() / 2**20, 1)
        print(json.dumps(record), flush=True)
    if elsewhere:
        print(json.dumps({"peak_mib": round(peak_bytes(resource.RUSAGE_CHILDREN) / 2**20, 1)}), flush=True)


# The process that starts the others


def revision() -> str:
    """Last commit of the package's source, "-changed" after it when files differ from it."""
    source = ["--", "fastsynth", "setup.py"]

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(HERE.parent), *words], capture_output=True, text=True).stdout.strip()

    commit = git("log", "-1", "--format=%h", *source) or "unknown"
    return commit + ("-changed" if git("status", "--porcelain", *source) else "")


def machine() -> Record:
    """Processor and number of cores."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {"processor": names[0] if names else platform.machine(), "cores": os.cpu_count()}


def read_records(path: Path) -> list[Record]:
    """All records of a results file; a line that was cut off is passed over."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def finished(records: list[Record], case: str, implementation: str, n: int, rev: str) -> set[str]:
    """Targets that need not run again. Source that differs from its commit is always run."""
    return {
        r["target"]
        for r in records
        if (r["case"], r["implementation"], r["n"]) == (case, implementation, n)
        and (implementation != "fastsynth" or (r["revision"] == rev and not rev.endswith("-changed")))
    }


def obstacle(implementation: Implementation, case: str, adult: str | None) -> str | None:
    """Why a run cannot be, or None. Makes the environment of synthpop-py when it is first needed."""
    if case == "adult" and (adult is None or not Path(adult).is_file()):
        return "no adult table; give its path with --adult"
    if implementation.where == "R" and shutil.which("Rscript") is None:
        return "Rscript is not on the PATH"
    if implementation.where == "synthpop-venv" and not (SYNTHPOP_VENV / ".ready").exists():
        python = SYNTHPOP_VENV / "bin" / "python"
        commands = (
            [sys.executable, "-m", "venv", SYNTHPOP_VENV],
            [python, "-m", "pip", "install", "-q", "synthpop-py"],
        )
        if any(subprocess.run(words).returncode for words in commands):
            return "its environment could not be made"
        (SYNTHPOP_VENV / ".ready").touch()
    return None


def start(job: Job, limit: float) -> Iterator[Record]:
    """Records of a run as they come; the run and all it started is killed at the limit."""
    words = [sys.executable, str(Path(__file__).resolve()), "--child", json.dumps(asdict(job))]
    # One thread for whoever reads these, so that peers and encoding get what the kernel gets.
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ if job.case == "threads" else os.environ | dict.fromkeys(names, "1")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    timer = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    try:
        for line in process.stdout:
            yield json.loads(line)
        process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode == -signal.SIGKILL:
        print(f"  stopped: killed, or not done after {limit} s", flush=True)
    elif process.returncode:
        print(f"  failed with status {process.returncode}", flush=True)


def run(job: Job, results: Path, rev: str, limit: float) -> None:
    """Run one job and append its records."""
    common = {"case": job.case, "implementation": job.implementation, "n": job.n}
    where = {"machine": machine()} | ({"revision": rev} if job.implementation == "fastsynth" else {})
    held = []
    for record in start(job, limit):
        if record.get("absent"):
            print("  skipped: the R package is not installed", flush=True)
        elif "target" in record and record["peak_mib"] is None:
            held.append(record)
        else:
            for line in held or [record] * ("target" in record):
                append(results, common | line | {"peak_mib": record["peak_mib"]} | where)
            held = []
    for line in held:  # the run was stopped: what it measured stays, without a peak
        append(results, common | line | where)


def append(results: Path, record: Record) -> None:
    """Write a record to the file and to the screen."""
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a") as file:
        file.write(json.dumps(record) + "\n")
    print(f"  {record['target']}: {record['seconds']:.3f} s", flush=True)


def sizes(case: Case, size: str, adult: str | None) -> tuple[int, ...]:
    """Rows of a case; those of adult are in its file."""
    if case.name == "adult" and size == "small" and adult is not None and Path(adult).is_file():
        import polars as pl

        return (pl.scan_parquet(adult).select(pl.len()).collect().item(),)
    return getattr(case, size)


def run_all(size: str, only: list[str], adult: str | None, results: Path) -> None:
    """Run every case, implementation and size that is not finished; fastsynth first, as LightGBM needs its leaves."""
    rev = revision()
    for case in CASES:
        if only and case.name not in only:
            continue
        for n in sizes(case, size, adult):
            for name in ("fastsynth", *case.peers):
                implementation = IMPLEMENTATION[name]
                label = f"{case.name}, {name}, n = {n:,}"
                problem = obstacle(implementation, case.name, adult)
                if problem is None and n > implementation.most_rows:
                    problem = f"at most {implementation.most_rows:,} rows"
                if problem is not None:
                    print(f"{label}: skipped: {problem}", flush=True)
                    continue
                run_unfinished(case, name, n, size, adult, results, rev, label)


def run_unfinished(
    case: Case, name: str, n: int, size: str, adult: str | None, results: Path, rev: str, label: str
) -> None:
    """Run one implementation on the targets of a case that are not finished."""
    records = read_records(results)
    done = finished(records, case.name, name, n, rev)
    todo = [target for target in targets_of(case.name, adult) if target not in done]
    trees = latest(records).get((case.name, "fastsynth", n), {})
    if name == "LightGBM":
        todo = [target for target in todo if target in trees and trees[target]["classes"] <= 2]
    if not todo:
        print(f"{label}: finished before", flush=True)
        return
    print(label, flush=True)
    leaves = {target: record["leaves"] for target, record in trees.items() if "leaves" in record}
    repeats = REPEATS if IMPLEMENTATION[name].where == "here" else 1
    run(Job(case.name, name, n, tuple(todo), repeats, adult, leaves), results, rev, LIMIT_SECONDS[size])


# What comes out


def latest(records: list[Record]) -> dict[tuple[str, str, int], dict[str, Record]]:
    """The last record of every target, by case, implementation and rows."""
    found: dict[tuple[str, str, int], dict[str, Record]] = {}
    for record in records:
        found.setdefault((record["case"], record["implementation"], record["n"]), {})[record["target"]] = record
    return found


def seconds_of(runs: dict[str, Record]) -> dict[str, float]:
    """Seconds of each target, with an equal share of the encoding."""
    seconds = {target: record["seconds"] for target, record in runs.items() if target != ENCODING}
    share = runs[ENCODING]["seconds"] / len(seconds) if ENCODING in runs and seconds else 0
    return {target: value + share for target, value in seconds.items()}


def versus(own: dict[str, Record], peer: dict[str, Record]) -> tuple[dict[str, float], float, dict[str, float]]:
    """Speed-up of each target both have, of their sum, and impurity of fastsynth's leaves over the peer's."""
    a, b = seconds_of(own), seconds_of(peer)
    both = [target for target in a if target in b]
    purity = {}
    for target in both:
        ours, theirs = own[target].get("quality"), peer[target].get("quality")
        if ours is not None and theirs is not None:
            purity[target] = ours / theirs if theirs else (1.0 if not ours else math.inf)
    return {t: b[t] / a[t] for t in both}, sum(b[t] for t in both) / sum(a[t] for t in both), purity


def peer_rows(found) -> Iterator[tuple[str, ...]]:
    """Rows of the table that compare with a peer."""
    for (case, name, n), peer in found.items():
        own = found.get((case, "fastsynth", n))
        if name == "fastsynth" or own is None:
            continue
        speed, total, purity = versus(own, peer)
        if not speed:
            continue
        slow, fast = min(speed, key=speed.get), max(speed, key=speed.get)
        text = f"{total:.1f} times as fast"
        span = f"{slow} {speed[slow]:.1f}, {fast} {speed[fast]:.1f}" if len(speed) > 1 else ""
        worst = max(purity, key=purity.get) if purity else None
        quality = f"median {statistics.median(purity.values()):.4f}, {worst} {purity[worst]:.4f}" if purity else ""
        both = [(own[t]["leaves"], peer[t]["leaves"]) for t in speed if "leaves" in own[t] and "leaves" in peer[t]]
        leaves = f"{sum(a for a, _ in both) / sum(b for _, b in both):.4f}" if both else ""
        yield case, f"{n:,}", f"{name}, {len(speed)} target(s)", text, span, quality, leaves


PAIRS = {
    "unordered": [("ordered", "unordered")],
    "missing": [("complete", "missing")],
    "levels": [("target 20", "target 10000"), ("predictor 20", "predictor 10000")],
    "threads": [("1", "2")],
}


def own_rows(found) -> Iterator[tuple[str, ...]]:
    """Rows of the table that compare fastsynth with itself."""
    for (case, name, n), runs in found.items():
        if name != "fastsynth":
            continue
        for base, other in PAIRS.get(case, ()):
            if base in runs and other in runs:
                a, b = runs[base]["seconds"], runs[other]["seconds"]
                text = f"{a / b:.2f} times as fast" if case == "threads" else f"{b / a:.2f} times the seconds"
                yield case, f"{n:,}", f"itself, {other} against {base}", text, f"{a:.3f} s, {b:.3f} s", "", ""
        if case == "draw":
            yield case, f"{n:,}", "", f"{runs['bmi']['quality'] / 1e6:.1f} million values a second", "", "", ""
        if case == "memory":
            yield case, f"{n:,}", "", f"{runs['bmi']['quality']:.1f} bytes a row", "", "", ""


def growth_rows(found) -> Iterator[tuple[str, ...]]:
    """Fitted exponents: of log n in the seconds a row, and of n in the seconds."""
    import numpy as np

    for name in IMPLEMENTATION:
        points = sorted((n, r["bmi"]["seconds"]) for (c, i, n), r in found.items() if (c, i) == ("growth", name))
        if len(points) > 1:
            n, seconds = np.array(points).T
            log = np.polyfit(np.log(np.log(n)), np.log(seconds / n), 1)[0]
            power = np.polyfit(np.log(n), np.log(seconds), 1)[0]
            span = f"{n[0]:,.0f} to {n[-1]:,.0f}"
            text = f"seconds a row as (log n)^{log:.2f}; seconds as n^{power:.3f}"
            yield "growth", span, name, text, ", ".join(f"{s:.3f} s" for s in seconds), "", ""


def table(records: list[Record]) -> str:
    """The results as a Markdown table."""
    found = latest(records)
    head = ("case", "rows", "against", "fastsynth is", "least and most favourable target", "impurity", "leaves")
    rows = [head, ("---",) * len(head), *peer_rows(found), *own_rows(found), *growth_rows(found)]
    revisions = sorted({r["revision"] for runs in found.values() for r in runs.values() if "revision" in r})
    machines = sorted({f"{r['machine']['processor']}, {r['machine']['cores']} cores" for r in records})
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    notes = [f"fastsynth at {', '.join(revisions)}; {'; '.join(machines)}."]
    notes += ["Impurity: within the leaves, fastsynth over peer, median and worst target; below 1 is better."]
    notes += ["Leaves: of all targets, fastsynth over peer."]
    return "\n".join([*lines, "", *notes])


def plot(records: list[Record], path: Path) -> None:
    """Fit seconds over rows on the left, speed-up of each target on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    found = latest(records)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
    for name in IMPLEMENTATION:
        points = sorted((n, r["bmi"]["seconds"]) for (c, i, n), r in found.items() if (c, i) == ("growth", name))
        if points:
            left.loglog(*zip(*points, strict=True), marker="o", label=name)
    left.set(xlabel="rows", ylabel="seconds to fit bmi")
    left.legend()
    n = max((n for case, _, n in found if case == "fit"), default=0)
    for name in IMPLEMENTATION:
        if name != "fastsynth" and ("fit", name, n) in found and ("fit", "fastsynth", n) in found:
            speed = versus(found["fit", "fastsynth", n], found["fit", name, n])[0]
            right.semilogy(list(speed), list(speed.values()), "o", label=name)
    right.axhline(1, color="grey", linewidth=0.8)
    right.set(ylabel="times as fast as the peer", title=f"census-like table, {n:,} rows")
    right.tick_params(axis="x", rotation=90)
    right.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=["small", "large"])
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], choices=list(CASE))
    parser.add_argument("--adult", metavar="PATH", help="Parquet file of the adult table")
    parser.add_argument("--results", type=Path, metavar="FILE", default=RESULTS)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--encode", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(Job(**json.loads(options.child)))
    if options.encode:
        return encode_into(Path(options.encode[0]), int(options.encode[1]))
    if not (options.size or options.table or options.plot):
        parser.error("give --size, --table or --plot")
    if options.size:
        run_all(options.size, options.only, options.adult, options.results)
    if options.table or options.plot:
        records = [r for r in read_records(options.results) if not options.only or r["case"] in options.only]
    if options.table:
        print(table(records))
    if options.plot:
        plot(records, options.plot)
    return None


if __name__ == "__main__":
    main()
