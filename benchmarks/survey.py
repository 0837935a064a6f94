"""What is kept of a household survey: relations, codes, spikes, nulls, two-way S_pMSE; tests/survey.py has the table.

    python benchmarks/survey.py copies [-n 100000] [-m 5] [--method calibrated] [--order auto] [--records both]
    python benchmarks/survey.py nulls adult.parquet [-m 5] [--method calibrated] [--order auto] [--threads 2]
    python benchmarks/survey.py relations [-n 1000000]
    python benchmarks/survey.py intervals [--repeats 200]

``copies`` synthesises the survey with the records that a statistician would write for it, and without any, and counts
the rows of all copies that break something. ``nulls`` crosses the null indicator of each column of any table with each
two other columns, numbers in five groups by quantiles: S_pMSE of these three-way tables, 1 for a correct model.
``relations`` looks for relations of which twelve are known to hold. ``intervals`` says what 95 % intervals cover that
are pooled from copies made with survey weights, or of single cells.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import polars as pl
from fidelity import groups, two_way
from numpy.typing import NDArray

import fastsynth as fs

sys.path.append(str(Path(__file__).parents[1]))

from tests.survey import FOLLOWS, PLANTED, records, survey, violations


def numbers(frame: pl.DataFrame) -> pl.DataFrame:
    """The table with dates, times and durations as the whole numbers that they are stored as, to be grouped as such."""
    return frame.with_columns(s.to_physical() for s in frame if s.dtype.is_temporal())


def three_way(real: pl.DataFrame, synthetic: pl.DataFrame) -> dict[str, dict[tuple[str, str], float]]:
    """S_pMSE of the null indicator of each column that has nulls, crossed with each pair of other columns."""
    coded = {name: groups(real[name], synthetic[name]) for name in real.columns}
    width = {name: 1 + int(max(c.max() for c in codes)) for name, codes in coded.items()}
    result: dict[str, dict[tuple[str, str], float]] = {name: {} for name in real.columns if real[name].null_count()}
    for a, b in combinations(real.columns, 2):
        pair = [coded[a][i] * width[b] + coded[b][i] for i in (0, 1)]
        size = width[a] * width[b]
        all_rows = [np.bincount(cells, minlength=size) for cells in pair]
        for name in result:
            if name in (a, b):
                continue
            nulls = [frame[name].is_null().to_numpy() for frame in (real, synthetic)]
            empty = [np.bincount(pair[i][nulls[i]], minlength=size) for i in (0, 1)]
            tables = [np.concatenate([empty[i], all_rows[i] - empty[i]]) for i in (0, 1)]
            result[name][a, b] = _score(*tables)
    return result


def _score(o: NDArray[np.int64], s: NDArray[np.int64]) -> float:
    used = o + s > 0
    o, s = o[used], s[used]
    return float(((s - o) ** 2 / ((s + o) / 2)).sum() / max(used.sum() - 1, 1))


def _synthesise(real: pl.DataFrame, options: argparse.Namespace, **more: object) -> tuple[fs.Synthesis, float]:
    started = time.perf_counter()
    syn = fs.synthesize(
        real,
        m=options.m,
        method=options.method,
        visit_sequence=options.order,
        relations="auto" if options.relations else None,
        threads=options.threads,
        random_state=1,
        **more,
    )
    return syn, time.perf_counter() - started


def _means(scores: list[dict[tuple[str, str], float]]) -> dict[tuple[str, str], float]:
    """Mean over copies of the score of each pair."""
    return {pair: float(np.mean([score[pair] for score in scores])) for pair in scores[0]}


def _worst(means: dict[tuple[str, str], float], n: int) -> str:
    largest = sorted(means.items(), key=lambda item: -item[1])[:n]
    return ", ".join(f"{a} x {b} {value:.1f}" for (a, b), value in largest)


def copies(options: argparse.Namespace) -> None:
    """Copies with records and without: what they break, how alike they are, how long it takes."""
    real = survey(options.n)
    columns, forbid = records()
    for which, more in (("with", {"columns": columns, "forbid": forbid}), ("without", {})):
        if options.records not in ("both", which):
            continue
        syn, seconds = _synthesise(real, options, **more)
        broken: Counter[str] = Counter()
        for copy in syn:
            broken.update(violations(real, copy))
        scores = _means([two_way(numbers(real), numbers(copy)) for copy in syn])
        print(f"{which} records: {options.n:,} rows x {real.width} columns, m = {syn.m}, {options.method}")
        print(f"  {seconds:.1f} s")
        print(f"  violations in all copies: {sum(broken.values()):,} of {len(broken)} kinds counted")
        for what, rows in broken.most_common():
            if rows:
                print(f"    {what}: {rows:,}")
        print(f"  two-way S_pMSE: mean {np.mean(list(scores.values())):.2f}, worst {_worst(scores, 5)}")


def nulls(options: argparse.Namespace) -> None:
    """Where values are missing, given two other columns."""
    read = pl.read_csv if options.source.suffix == ".csv" else pl.read_parquet
    real = read(options.source, **({"null_values": ["", "?", "NA"]} if options.source.suffix == ".csv" else {}))
    real = real.drop(options.drop)
    syn, seconds = _synthesise(real, options)
    by_copy = [three_way(numbers(real), numbers(copy)) for copy in syn]
    size = f"{real.height:,} rows x {real.width} columns"
    print(f"{options.source.name}: {size}, m = {syn.m}, {options.method}, {seconds:.1f} s")
    means = {name: _means([scores[name] for scores in by_copy]) for name in by_copy[0]}
    for name, scores in means.items():
        over = sum(value >= 3 for value in scores.values())
        print(
            f"nulls of {name} ({real[name].null_count():,}) x two columns: mean S_pMSE "
            f"{np.mean(list(scores.values())):.2f}, {over} of {len(scores)} at least 3, worst {_worst(scores, 3)}"
        )
    together = [value for scores in means.values() for value in scores.values()]
    print(f"all: mean {np.mean(together):.2f}, worst {max(together):.2f}" if together else "No column has nulls.")


def relations(options: argparse.Namespace) -> None:
    """Relations that are found, of those that are known; what is reported besides; and what follows from known ones."""
    real = survey(options.n)
    started = time.perf_counter()
    found = fs.find_relations(real)
    seconds = time.perf_counter() - started
    rows = found.table.to_dicts()
    print(f"{options.n:,} rows x {real.width} columns: {len(rows)} relations in {seconds:.1f} s")
    reported = [(row, _columns(row["columns"])) for row in rows]
    known = {frozenset(p.columns) for p in PLANTED}
    for planted in PLANTED:
        # A rule may name columns that are null with the one it is about.
        same = [row for row, columns in reported if columns >= frozenset(planted.columns)]
        exact = [row for row in same if row["kind"] == planted.kind and not row["n_exceptions"]]
        what = exact[0]["text"] if exact else "as " + ", ".join(f"{r['kind']}: {r['text']}" for r in same[:3])
        state = "found" if exact else "OTHERWISE" if same else "MISSED"
        print(f"  {state} {planted.kind} {planted.text}" + (f" [{what}]" if same else ""))
    reported = [(row, columns) for row, columns in reported if not any(columns >= planted for planted in known)]
    follows = [row for row, columns in reported if _follows(real, row["kind"], columns)]
    false = [row for row, columns in reported if not _follows(real, row["kind"], columns)]
    print(f"  {len(follows)} follow from these: " + "; ".join(row["text"] for row in follows))
    print(f"  {len(false)} false")
    for row in false:
        print(f"    {row['kind']} {row['text']} ({row['n_rows']:,} rows, {row['n_exceptions']:,} exceptions)")


def _columns(given: str | list[str]) -> frozenset[str]:
    return frozenset(given.replace(" ", "").split(",") if isinstance(given, str) else given)


def _follows(real: pl.DataFrame, kind: str, columns: frozenset[str]) -> bool:
    """Whether a relation of these columns follows from planted ones, or from ranges that do not overlap.

    ``region_name`` stands for ``region``.
    """
    names = frozenset("region" if name == "region_name" else name for name in columns)
    if names in map(frozenset, FOLLOWS):
        return True
    if kind != "order" or len(columns) != 2:
        return False
    a, b = (real[name] for name in columns)
    return bool(a.max() <= b.min() or b.max() <= a.min())


DESIGNS = {
    "weights that go with a": {"weights": "w"},
    "cells of b that are large": {"where": {"b": "b > 1"}},
    "cells of b and c where a is large": {"where": {"b": "a > 0", "c": "a > 0"}},
}
TRUTH = (("mean of b", 0.0), ("intercept of b on a", 0.0), ("slope", 1.0), ("share of c", 0.5))


def line(frame: pl.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least squares of b on a: coefficients and their covariance."""
    x = np.column_stack([np.ones(frame.height), frame["a"].to_numpy()])
    y = frame["b"].to_numpy()
    inverse = np.linalg.inv(x.T @ x)
    beta = inverse @ x.T @ y
    return beta, inverse * np.square(y - x @ beta).sum() / (len(y) - 2)


def repeat(job: tuple[str, int]) -> NDArray[np.float64]:
    """Covered or not, error, standard error (3, 4) of one synthesis."""
    name, seed = job
    rng = np.random.default_rng(seed)
    a = rng.normal(size=6_000)
    b = a + rng.normal(size=6_000)
    frame = pl.DataFrame({"a": a, "b": b, "c": b + rng.normal(size=6_000) > 0, "w": np.exp(0.5 * a)})
    if "weights" in DESIGNS[name]:
        frame = frame.filter(pl.Series(rng.random(6_000) < 0.2 * np.exp(-0.5 * a)))
    else:
        frame = frame.drop("w").head(600)
    options = {"visit_sequence": "table", "threads": 1, "progress": False} | DESIGNS[name]
    syn = fs.synthesize(frame, random_state=seed, **options)
    tables = [
        fs.pool(syn.analyse(analysis)).table for analysis in (fs.mean("b"), line, fs.mean(pl.col("c").cast(float)))
    ]
    found = pl.concat([table.select("estimate", "std_error", "conf_low", "conf_high") for table in tables]).to_numpy().T
    true = np.array([value for _, value in TRUTH])
    return np.array([(found[2] <= true) & (true <= found[3]), found[0] - true, found[1]])


def intervals(options: argparse.Namespace) -> None:
    """Coverage, bias and length of 95 % intervals."""
    # Polars has threads, which a fork would not bring along.
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for name in DESIGNS:
            runs = np.array(list(pool.map(repeat, [(name, seed) for seed in range(options.repeats)])))
            covered, error, se = runs.mean(0)
            for i, (what, _) in enumerate(TRUTH):
                ratio = se[i] / runs[:, 1, i].std()
                print(f"{name}, {what}: covered {covered[i]:.3f}, bias {error[i] / se[i]:+.2f} se, se / sd {ratio:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-m", type=int, default=5)
    common.add_argument("--method", choices=["cart", "calibrated"], default="calibrated")
    common.add_argument("--order", choices=["auto", "table"], default="table", help="visit sequence")
    common.add_argument("--relations", action="store_true", help="keep relations that are found")
    common.add_argument("--threads", type=int)
    command = commands.add_parser("copies", parents=[common])
    command.add_argument("-n", type=int, default=100_000)
    command.add_argument("--records", choices=["both", "with", "without"], default="both")
    command = commands.add_parser("nulls", parents=[common])
    command.add_argument("source", type=Path)
    command.add_argument("--drop", nargs="*", default=[])
    command = commands.add_parser("relations")
    command.add_argument("-n", type=int, default=1_000_000)
    command = commands.add_parser("intervals")
    command.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    {"copies": copies, "nulls": nulls, "relations": relations, "intervals": intervals}[options.command](options)


if __name__ == "__main__":
    main()
