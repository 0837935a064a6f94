"""Coverage where the truth is known: the combining rules themselves, by repeats of copies of normal data.

    python benchmarks/coverage.py [--repeats 2000] [--only WORD ...] [--cart] [--page docs/coverage.md]

Four normal columns follow each other, each linear in those before. An original of n = 1000 rows is drawn, normal linear
models are fitted to it by least squares, column by column, and copies are drawn from them, each column at the synthetic
values of those before: no tree is involved, and the models are right. The last column is regressed on the others, and
``fastsynth.pool`` combines the copies. Its 95 % intervals of the slopes have to contain the truth in .93 to .97 of the
repeats, its joint tests of all slopes at their true values have to reject in .05.

With --cart, complete cells are run with the package's own trees as well (a fifth of the repeats).

Every cell appends its lines to benchmarks/results/coverage.jsonl; finished cells are not run again, unless the package
has changed. 2000 repeats of all cells take about six minutes on one core, --cart one or two more.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from bench import read_records, revision

import fastsynth as fs

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "coverage.jsonl"
SEED = 2003
N, N_S = 1000, 200
# Repeats that are drawn at once: 12 MB for a copy of 3n rows.
CHUNK = 100
LOW, HIGH = 0.93, 0.97

# Row 0 of a table is a column of ones, rows 1 to 4 are the columns; a table has shape (repeats, 5, rows).
COLUMNS = (1, 2, 3, 4)
EARLIER = {column: list(range(column)) for column in COLUMNS}
LAST = {4: EARLIER[4]}
# What the columns really are: intercept and slopes on those before, variance of the rest.
TRUE_BETA = {1: [0.0], 2: [1.0, 0.5], 3: [0.0, 0.4, -0.3], 4: [1.0, 0.5, 0.3, -0.4]}
TRUE_VARIANCE = {1: 1.0, 2: 0.75, 3: 1.0, 4: 2.0}


@dataclass(frozen=True)
class Cell:
    """How copies are made and analysed.

    Attributes
    ----------
    name : str
    table : str
        Heading of its table.
    k : int
        Rows of a copy.
    proper : bool
        Whether each copy has models of its own bootstrap sample.
    fit_rows : int, optional
        Rows that models are fitted on.
    fresh : bool
        Whether each copy has fit_rows of its own.
    models : dict of int to list of int
        Predictors of the columns that are replaced; the rest keep their values unless all are replaced.
    missing : float
        Share of the last column that is missing, the more likely the larger the first column.
    m : tuple of int
        Copies, or imputations where values are missing; fewer of them are the first of the many.
    r : tuple of int
        Syntheses of each imputation; 0 is none, for completed tables. (1,) where nothing is missing.
    outcome : int
        Column that is regressed on the others.
    """

    name: str
    table: str
    k: int = N
    proper: bool = False
    fit_rows: int | None = None
    fresh: bool = False
    models: dict[int, list[int]] = field(default_factory=lambda: EARLIER)
    missing: float = 0.0
    m: tuple[int, ...] = (1, 5, 20)
    r: tuple[int, ...] = (1,)
    outcome: int = 4

    @property
    def partial(self) -> bool:
        return len(self.models) < len(COLUMNS)

    @property
    def trees(self) -> bool:
        """Whether the cell is also run with trees."""
        return not (self.partial or self.missing or self.outcome != 4)


def make_cells() -> list[Cell]:
    cells = []
    for proper, kind in ((False, "simple"), (True, "proper")):
        for k, size in ((N // 3, "n/3"), (N, "n"), (3 * N, "3n")):
            cells.append(Cell(f"{kind}, k = {size}", "Complete synthesis", k, proper))
        cells.append(Cell(f"{kind}, k = n, first column on the others", "Complete synthesis", proper=proper, outcome=1))
    part = "Complete synthesis by models of n/5 rows"
    cells += [
        Cell("shared rows", part, fit_rows=N_S),
        Cell("shared rows, k = 3n", part, 3 * N, fit_rows=N_S),
        Cell("fresh rows", part, fit_rows=N_S, fresh=True),
        Cell("fresh rows, k = 3n", part, 3 * N, fit_rows=N_S, fresh=True),
        Cell("bootstrap samples of n/5 (proper)", part, proper=True, fit_rows=N_S),
    ]
    some = "Partial synthesis"
    second, many = {2: [0, 1, 3, 4]}, (5, 20)
    cells += [
        Cell("last column, simple", some, models=LAST, m=many),
        Cell("last column, proper", some, proper=True, models=LAST, m=many),
        Cell("second column given all others, simple", some, models=second, m=many),
        Cell("second column given all others, proper", some, proper=True, models=second, m=many),
        Cell("second column, by models of n/5 fresh rows", some, fit_rows=N_S, fresh=True, models=second, m=many),
    ]
    for missing in (0.15, 0.4):
        name = f"{missing:.0%} missing"
        cells.append(Cell(f"{name}, imputed", "Imputation only", missing=missing, m=many, r=(0,)))
        for proper, kind in ((False, "simple"), (True, "proper")):
            cells.append(
                Cell(f"{name}, {kind}", "Imputation, one synthesis of each", proper=proper, missing=missing, m=many)
            )
    one, nested = "Imputation, one synthesis of each", "Imputation, several syntheses of each"
    grid: dict[str, Any] = {"missing": 0.4, "m": many, "r": (2, 5)}
    cells += [
        Cell("40% missing, simple, k = n/3", one, N // 3, missing=0.4, m=many),
        Cell("40% missing, simple, k = 3n", one, 3 * N, missing=0.4, m=many),
        Cell("40% missing, simple", nested, **grid),
        Cell("40% missing, proper", nested, proper=True, **grid),
        Cell("40% missing, second column replaced, simple", nested, models=second, **grid),
    ]
    return cells


# Normal models and copies; every function does all repeats of a chunk at once


class Fit(NamedTuple):
    """Least squares of one column: shapes (repeats, p), (repeats,), (repeats, p, p) and (repeats,)."""

    beta: np.ndarray
    variance: np.ndarray
    inverse: np.ndarray
    df: np.ndarray


def moments(z: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Cross-products of shape (repeats, 5, 5); the first is the number of rows."""
    return (z if weights is None else z * weights[:, None]) @ z.transpose(0, 2, 1)


def regress(products: np.ndarray, column: int, predictors: list[int]) -> Fit:
    inverse = np.linalg.inv(products[:, predictors][:, :, predictors])
    with_column = products[:, predictors, column]
    beta = np.einsum("rij,rj->ri", inverse, with_column)
    df = products[:, 0, 0] - len(predictors)
    rest = products[:, column, column] - (beta * with_column).sum(1)
    return Fit(beta, rest / df, inverse, df)


def fit_models(z: np.ndarray, models: dict[int, list[int]], weights: np.ndarray | None = None) -> dict[int, Fit]:
    products = moments(z, weights)
    return {column: regress(products, column, predictors) for column, predictors in models.items()}


def draw_parameters(fit: Fit, rng: np.random.Generator) -> Fit:
    """A posterior draw of variance and coefficients, with the usual flat prior."""
    variance = fit.variance * fit.df / rng.chisquare(fit.df)
    normal = rng.normal(size=fit.beta.shape)
    shift = np.einsum("rij,rj->ri", np.linalg.cholesky(fit.inverse), normal)
    return fit._replace(beta=fit.beta + np.sqrt(variance)[:, None] * shift, variance=variance)


def draw_column(z: np.ndarray, predictors: list[int], fit: Fit, rng: np.random.Generator) -> np.ndarray:
    mean = (fit.beta[:, None] @ z[:, predictors])[:, 0]
    return mean + np.sqrt(fit.variance)[:, None] * rng.normal(size=mean.shape)


def draw_originals(repeats: int, rng: np.random.Generator) -> np.ndarray:
    z = np.ones((repeats, 5, N))
    for column in COLUMNS:
        mean = np.tensordot(TRUE_BETA[column], z[:, :column], (0, 1))
        z[:, column] = mean + math.sqrt(TRUE_VARIANCE[column]) * rng.normal(size=mean.shape)
    return z


def model_rows(cell: Cell, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray | None:
    """How often each row is among those that models are fitted on, or None for once each."""
    repeats, n = shape
    if cell.proper:
        size = cell.fit_rows or n
        rows = rng.integers(0, n, (repeats, size)) + n * np.arange(repeats)[:, None]
        return np.bincount(rows.ravel(), minlength=repeats * n).reshape(shape).astype(float)
    if cell.fit_rows:
        first = np.broadcast_to(np.arange(n) < cell.fit_rows, shape).astype(float)
        return rng.permuted(first, axis=1)
    return None


def draw_copies(cell: Cell, z: np.ndarray, count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Copies of the tables z, count of each."""
    own = cell.proper or cell.fresh
    for i in range(count):
        if own or i == 0:
            fits = fit_models(z, cell.models, model_rows(cell, z[:, 0].shape, rng))
        copy = z.copy() if cell.partial else np.ones((len(z), 5, cell.k))
        for column, predictors in cell.models.items():
            copy[:, column] = draw_column(copy, predictors, fits[column], rng)
        yield copy


def draw_completed(cell: Cell, z: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Tables whose last column is missing in some rows, imputed by a normal model with parameters drawn for each."""
    threshold = math.sqrt(2) * NormalDist().inv_cdf(1 - cell.missing)
    missing = z[:, 1] + rng.normal(size=z[:, 1].shape) > threshold
    fit = fit_models(z, LAST, (~missing).astype(float))[4]
    for _ in range(max(cell.m)):
        completed = z.copy()
        completed[:, 4] = np.where(missing, draw_column(z, LAST[4], draw_parameters(fit, rng), rng), z[:, 4])
        yield completed


def analyse(z: np.ndarray, outcome: int) -> tuple[np.ndarray, np.ndarray]:
    """Slopes of the outcome on the other columns and their covariance, of shapes (repeats, 3) and (repeats, 3, 3)."""
    predictors = [0, *(column for column in COLUMNS if column != outcome)]
    fit = regress(moments(z), outcome, predictors)
    return fit.beta[:, 1:], fit.variance[:, None, None] * fit.inverse[:, 1:, 1:]


def normal_analyses(cell: Cell, z: np.ndarray, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Analyses of all copies, the syntheses of the first imputation first."""
    if not cell.missing:
        tables = draw_copies(cell, z, max(cell.m), rng)
    elif cell.r == (0,):
        tables = draw_completed(cell, z, rng)
    else:
        tables = (copy for one in draw_completed(cell, z, rng) for copy in draw_copies(cell, one, max(cell.r), rng))
    return (analyse(table, cell.outcome) for table in tables)


def tree_analyses(cell: Cell, z: np.ndarray, rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same from copies that fastsynth's trees draw."""
    names = [f"x{column}" for column in COLUMNS]
    copies = np.ones((max(cell.m), len(z), 5, cell.k))
    for i, table in enumerate(z):
        synthesis = fs.synthesize(
            pl.DataFrame(table[1:].T, schema=names),
            m=max(cell.m),
            k=cell.k,
            method="cart",
            visit_sequence="table",
            proper=cell.proper,
            fit_rows=cell.fit_rows,
            fresh_rows=cell.fresh,
            random_state=int(rng.integers(2**32)),
            threads=1,
        )
        for j, copy in enumerate(synthesis):
            copies[j, i, 1:] = copy.to_numpy().T
    return [analyse(copy, cell.outcome) for copy in copies]


def true_slopes(outcome: int) -> np.ndarray:
    """Slopes of the outcome on the other columns in the population."""
    beta = np.zeros((4, 4))
    for column in COLUMNS:
        beta[column - 1, : column - 1] = TRUE_BETA[column][1:]
    mixing = np.linalg.inv(np.eye(4) - beta)
    covariance = mixing @ np.diag(list(TRUE_VARIANCE.values())) @ mixing.T
    others = [column - 1 for column in COLUMNS if column != outcome]
    return np.linalg.solve(covariance[np.ix_(others, others)], covariance[others, outcome - 1])


# Pooling and scores


def valid_rules(cell: Cell, m: int, r: int, target: str) -> tuple[str, ...]:
    """Rules that allow the cell."""
    if cell.missing:
        if r == 1 and target == "sample":
            return ()  # refused: the variance due to imputation is the small difference of two numbers
        return ("rubin1987",) if r == 0 else ("onestep",) if r == 1 else ("reiter2004",)
    rules = () if cell.partial else ("subsample",) if cell.fit_rows else ("raab2016",)
    if m > 1 and (cell.fresh or cell.proper or not cell.fit_rows):
        rules += ("reiter2003",)
    if m > 1 and cell.proper and not (cell.partial or cell.fit_rows) and target == "population":
        rules += ("raghunathan2003",)
    return rules


def pool_options(cell: Cell, r: int, target: str) -> dict[str, Any]:
    """How the copies were made, in the words of pool."""
    options: dict[str, Any] = {"target": target, "n": N, "k": cell.k, "dfcom": N - len(COLUMNS)}
    if r > 0:
        options |= {"proper": cell.proper, "partial": cell.partial}
    if cell.fit_rows:
        options["fit_rows"] = cell.fit_rows
    if cell.fresh:
        options["fresh"] = True
    if cell.missing:
        options |= {"imputed": True, "syntheses": r}
    return options


class Score:
    """What one rule did in the repeats of a cell."""

    def __init__(self) -> None:
        self.errors: list[np.ndarray] = []
        self.variances: list[np.ndarray] = []
        self.hits: list[np.ndarray] = []
        self.lengths: list[np.ndarray] = []
        self.p_values: list[float] = []

    def add(self, pooled: Any, truth: np.ndarray) -> None:
        estimate, se, low, high = (
            np.asarray(pooled.table[name]) for name in ("estimate", "std_error", "conf_low", "conf_high")
        )
        self.errors.append(estimate - truth)
        self.variances.append(se**2)
        self.hits.append((low <= truth) & (truth <= high))
        self.lengths.append(high - low)
        self.p_values.append(pooled.test(None, null=truth).p_value)

    def summary(self) -> dict[str, float]:
        """Means over slopes; bias is the largest, in true standard errors, length in that of a normal interval."""
        errors, hits = np.array(self.errors), np.array(self.hits)
        variance = errors.var(0, ddof=1)
        lengths = np.array(self.lengths) / (2 * NormalDist().inv_cdf(0.975) * np.sqrt(variance))
        return {
            "coverage": hits.mean(),
            "lowest": hits.mean(0).min(),
            "highest": hits.mean(0).max(),
            "error": hits.mean(1).std(ddof=1) / math.sqrt(len(hits)),
            "ratio": (np.mean(self.variances, 0) / variance).mean(),
            "length": np.median(lengths),
            "length_90": np.quantile(lengths, 0.9),
            "bias": np.abs(errors.mean(0) / np.sqrt(variance)).max(),
            "size": np.mean(np.array(self.p_values) < 0.05),
        }


def run(cell: Cell, source: str, repeats: int) -> list[dict[str, Any]]:
    """Records of all rules, numbers of copies and targets of a cell."""
    start = time.perf_counter()
    rng = np.random.default_rng([SEED, *cell.name.encode(), *cell.table.encode(), *source.encode()])
    scores: dict[tuple[int, int, str, str], Score] = {}
    population = true_slopes(cell.outcome)
    for first in range(0, repeats, CHUNK):
        z = draw_originals(min(CHUNK, repeats - first), rng)
        analyses = (normal_analyses if source == "normal" else tree_analyses)(cell, z, rng)
        q, u = (np.stack(part, 1) for part in zip(*analyses, strict=True))
        of_original = analyse(z, cell.outcome)[0]
        for i in range(len(z)):
            for m, r, target, rule in pooled_ways(cell, source):
                fits = [(q[i, copy], u[i, copy]) for copy in copies_used(cell, m, r)]
                truth = population if target == "population" else of_original[i]
                pooled = fs.pool(fits, rule, **pool_options(cell, r, target))
                scores.setdefault((m, r, target, rule), Score()).add(pooled, truth)
    common = {"cell": cell.name, "table": cell.table, "source": source, "n": N, "repeats": repeats}
    seconds = round(time.perf_counter() - start, 2)
    return [
        common
        | {"m": m, "r": r, "target": target, "rule": rule}
        | {name: round(float(value), 5) for name, value in score.summary().items()}
        | {"seconds": seconds}
        for (m, r, target, rule), score in scores.items()
    ]


def pooled_ways(cell: Cell, source: str) -> list[tuple[int, int, str, str]]:
    targets = ("population", "sample") if source == "normal" else ("population",)
    return [
        (m, r, target, rule)
        for target in targets
        for m in cell.m
        for r in cell.r
        for rule in valid_rules(cell, m, r, target)
    ]


def copies_used(cell: Cell, m: int, r: int) -> list[int]:
    """The first r syntheses of the first m imputations."""
    made = max(*cell.r, 1)
    return [imputation * made + synthesis for imputation in range(m) for synthesis in range(max(r, 1))]


# The page


def wrong_coverage(record: dict[str, Any]) -> bool:
    """Whether intervals of any slope miss .93 to .97."""
    return record["lowest"] < LOW or record["highest"] > HIGH


def wrong_size(record: dict[str, Any]) -> bool:
    """Whether the joint test misses its size by more than four standard errors."""
    return abs(record["size"] - 0.05) > 4 * math.sqrt(0.05 * 0.95 / record["repeats"])


def outside(record: dict[str, Any]) -> bool:
    return wrong_coverage(record) or wrong_size(record)


def share(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def coverage(record: dict[str, Any]) -> str:
    return f"**{share(record['coverage'])}**" if wrong_coverage(record) else share(record["coverage"])


def size(record: dict[str, Any]) -> str:
    return f"**{share(record['size'])}**" if wrong_size(record) else share(record["size"])


def number(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0e}"


def number_of_copies(record: dict[str, Any]) -> str:
    return f"{record['m']} x {record['r']}" if record["r"] > 1 else str(record["m"])


def markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (head, ("---",) * len(head), *rows)] + [""]


def score_rows(records: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            r["cell"],
            number_of_copies(r),
            r["rule"],
            coverage(r),
            share(r["lowest"]),
            share(r["error"]),
            f"{r['ratio']:.2f}",
            f"{r['length']:.2f}",
            number(r["length_90"]),
            size(r),
        )
        for r in records
    ]


def tree_rows(records: list[dict[str, Any]], normal: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    beside = {(r["cell"], r["m"], r["rule"]): r for r in normal if r["target"] == "population"}
    rows = []
    for r in records:
        model = beside.get((r["cell"], r["m"], r["rule"]))
        rows.append(
            (
                r["cell"],
                number_of_copies(r),
                r["rule"],
                share(model["coverage"]) if model else "",
                coverage(r),
                share(r["lowest"]),
                share(r["error"]),
                f"{model['ratio']:.2f}" if model else "",
                f"{r['ratio']:.2f}",
                f"{r['bias']:.2f}",
                size(r),
            )
        )
    return rows


def page(records: list[dict[str, Any]]) -> str:
    latest = {tuple(r[key] for key in ("table", "cell", "source", "m", "r", "target", "rule")): r for r in records}
    order = {(cell.table, cell.name): i for i, cell in enumerate(make_cells())}
    found = sorted(
        (r for r in latest.values() if (r["table"], r["cell"]) in order and r["n"] == N),
        key=lambda r: (order[r["table"], r["cell"]], r["m"], r["r"]),
    )
    normal = [r for r in found if r["source"] == "normal"]
    trees = [r for r in found if r["source"] == "cart"]
    n_outside = sum(map(outside, normal))
    repeats = sorted({r["repeats"] for r in normal})
    lines = [
        "# Coverage where the truth is known",
        "",
        f"Made by `benchmarks/coverage.py`, fastsynth at {', '.join(sorted({r['revision'] for r in found}))}, "
        f"{' or '.join(map(str, repeats))} repeats of every cell.",
        "",
        f"An original of n = {N} rows has four normal columns, each linear in those before. Copies are drawn from "
        "normal linear models of it, column by column at the synthetic values (proper: models of a bootstrap sample "
        "for each copy), so that only the rules are in question, not the trees. The last column is regressed on the "
        "others, and the copies are pooled by `fastsynth.pool`. Where values are missing, they are in the last column, "
        "at random given the first, and are imputed by a normal model with parameters drawn for each imputation.",
        "",
        "coverage: of 95 % intervals, mean over the three slopes; lowest: of the three; s.e.: Monte Carlo standard "
        "error of the mean; T / true: mean T over the variance of the estimate over the repeats; length: of an "
        "interval, over that of a normal one with the true variance, median and 90 % quantile over the repeats; size: "
        "of the joint test of all slopes at 5 %. m x r: r syntheses of each of m imputations. Fewer copies are "
        f"the first of the many, so rows of a cell go together. Bold: coverage of a slope outside {share(LOW)[:-1]} to "
        f"{share(HIGH)[:-1]}, size more than four standard errors from .05: {n_outside} of {len(normal)} rows.",
        "",
    ]
    head = ("cell", "m", "rule", "coverage", "lowest", "s.e.", "T / true", "length", "90 %", "size")
    for target, what in (("population", "the population"), ("sample", "the estimate on the complete original")):
        lines += [f"## Intervals for {what}", ""]
        for title in dict.fromkeys(r["table"] for r in normal):
            rows = [r for r in normal if (r["target"], r["table"]) == (target, title)]
            if rows:
                lines += [f"### {title}", "", *markdown(head, score_rows(rows))]
    if trees:
        head = (
            *("cell", "m", "rule", "coverage, normal models", "coverage, trees", "lowest", "s.e."),
            *("T / true, normal models", "T / true, trees", "bias", "size"),
        )
        lines += [
            "## What the trees cost",
            "",
            f'The same with `fs.synthesize(..., method="cart")`, {trees[0]["repeats"]} repeats. The distance from '
            "the normal models is what trees cost: bias (largest of the slopes, in standard errors), and the "
            "uncertainty of the trees themselves, which T does not contain and which copies with shared trees share.",
            "",
            *markdown(head, tree_rows(trees, normal)),
        ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--only", nargs="+", metavar="WORD", default=[], help="cells with one of these in their names")
    parser.add_argument("--cart", action="store_true", help="complete cells with trees as well")
    parser.add_argument("--results", type=Path, metavar="FILE", default=RESULTS)
    parser.add_argument("--page", type=Path, metavar="FILE.md")
    options = parser.parse_args()
    rev = revision()
    finished = {
        (r["table"], r["cell"], r["source"], r["repeats"])
        for r in read_records(options.results)
        if (r["revision"], r["n"]) == (rev, N) and not rev.endswith("-changed")
    }
    options.results.parent.mkdir(parents=True, exist_ok=True)
    jobs = [(cell, "normal", options.repeats) for cell in make_cells()]
    if options.cart:
        jobs += [(cell, "cart", max(options.repeats // 5, 2)) for cell in make_cells() if cell.trees]
    for cell, source, repeats in jobs:
        text = f"{cell.table}: {cell.name}"
        if options.only and not any(word in text for word in options.only):
            continue
        if (cell.table, cell.name, source, repeats) in finished:
            continue
        records = run(cell, source, repeats)
        with options.results.open("a") as file:
            file.write("".join(json.dumps(record | {"revision": rev}) + "\n" for record in records))
        wide = sum(map(outside, records))
        print(f"{text} ({source}): {records[0]['seconds']:.1f} s, {wide} of {len(records)} rows outside", flush=True)
    if options.page:
        options.page.write_text(page(read_records(options.results)))


if __name__ == "__main__":
    main()
