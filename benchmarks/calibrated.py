"""Calibrated trees beside plain ones: coverage where the truth is known, boys, and an attack.

    python benchmarks/calibrated.py coverage [--rows 500] [--repeats 400] [--only SCENARIO ...]
    python benchmarks/calibrated.py boys [--repeats 1000]
    python benchmarks/calibrated.py attack adult.parquet [--repeats 200]
    python benchmarks/calibrated.py table
    python benchmarks/calibrated.py pictures docs

``coverage``: m = 5 copies of tables whose truth is known, pooled by T_s (complete, simple synthesis). Of the
coefficients of each analysis but the intercept: coverage of 95 % intervals (mean, and lowest), bias in standard errors
of the original (mean and largest), and v, what the estimates vary about those of their originals beyond b/m, in units
of the original variance. ``boys``: the simulation of paper.py. ``attack``: shadow fits with and without a person, and
how well distance and density ratio tell which. A JSON line for each result in results/calibrated.jsonl, which ``table``
prints; what is there is not run again. Of adult: ``benchmarks/fidelity.py --method calibrated``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import polars as pl
import statsmodels.api as sm

import fastsynth as fs

RESULTS = Path(__file__).parent / "results" / "calibrated.jsonl"
M = 5
METHODS = ("cart", "calibrated")


def correlated(rng: np.random.Generator, n: int, p: int) -> np.ndarray:
    return 0.6 * rng.normal(size=(n, 1)) + 0.8 * rng.normal(size=(n, p))


def linear(p: int) -> Callable[..., tuple]:
    def make(rng: np.random.Generator, n: int) -> tuple[dict, np.ndarray]:
        x = correlated(rng, n, p)
        slopes = np.resize([1.0, 0.5, -0.5, 0.3, 0.8, -0.2], p) / np.sqrt(p / 6)
        columns = {f"x{i}": x[:, i] for i in range(p)} | {"y": x @ slopes + 1.5 * rng.normal(size=n)}
        return columns, np.append(0, slopes)

    return make


def product(rng: np.random.Generator, n: int) -> tuple[dict, np.ndarray]:
    x = correlated(rng, n, 2)
    y = x[:, 0] + 0.5 * x[:, 1] + 0.5 * x[:, 0] * x[:, 1] + rng.normal(size=n)
    return {"x0": x[:, 0], "x1": x[:, 1], "y": y}, np.array([0, 1, 0.5, 0.5])


def curve(rng: np.random.Generator, n: int) -> tuple[dict, np.ndarray]:
    x = correlated(rng, n, 2)
    y = np.sin(2 * x[:, 0]) + 0.5 * x[:, 1] ** 2 + rng.normal(size=n)
    return {"x0": x[:, 0], "x1": x[:, 1], "y": y}, np.array([0, 1, 0.5])


def skew(rng: np.random.Generator, n: int) -> tuple[dict, np.ndarray]:
    x = np.column_stack([np.exp(rng.normal(size=n)), rng.normal(size=n)])
    y = x @ [1.0, 0.5] + 1.5 * rng.normal(size=n)
    return {"x0": x[:, 0], "x1": x[:, 1], "y": y}, np.array([0, 1, 0.5])


def zeros(rng: np.random.Generator, n: int) -> tuple[dict, np.ndarray]:
    """The probability of a zero, by a logit: half of the rows are zero, the rest lognormal."""
    x = correlated(rng, n, 2)
    some = rng.random(n) < 1 / (1 + np.exp(-(x[:, 0] - 0.5 * x[:, 1])))
    y = np.where(some, np.exp(1 + 0.5 * x[:, 0] + rng.normal(size=n)), 0.0)
    return {"x0": x[:, 0], "x1": x[:, 1], "y": y}, np.array([0, 1, -0.5])


def rare(rng: np.random.Generator, n: int) -> tuple[dict, np.ndarray]:
    x = correlated(rng, n, 2)
    y = rng.random(n) < 1 / (1 + np.exp(-(-3.2 + 0.8 * x[:, 0] - 0.4 * x[:, 1])))
    return {"x0": x[:, 0], "x1": x[:, 1], "y": np.where(y, "yes", "no")}, np.array([-3.2, 0.8, -0.4])


def spread(rng: np.random.Generator, n: int) -> tuple[dict, np.ndarray]:
    """Heavy tails whose spread grows with x."""
    x = correlated(rng, n, 2)
    y = x @ [1.0, 0.5] + np.exp(0.5 * x[:, 0]) * rng.standard_t(4, n)
    return {"x0": x[:, 0], "x1": x[:, 1], "y": y}, np.array([0, 1, 0.5])


def ols(*names: str, robust: bool = False) -> Callable[[dict], tuple[np.ndarray, np.ndarray]]:
    def fit(d: dict) -> tuple[np.ndarray, np.ndarray]:
        columns = {
            "product": lambda: d["x0"] * d["x1"],
            "sine": lambda: np.sin(2 * d["x0"]),
            "square": lambda: d["x1"] ** 2,
        }
        x = np.column_stack([np.ones(len(d["y"])), *(columns[n]() if n in columns else d[n] for n in names)])
        result = sm.OLS(d["y"], x).fit(cov_type="HC3" if robust else "nonrobust")
        return result.params, result.cov_params()

    return fit


def quartile(d: dict) -> tuple[np.ndarray, np.ndarray]:
    """The first quartile of y, by a density estimate; there is no intercept, so the estimate comes twice."""
    q = np.quantile(d["y"], 0.25)
    width = 1.06 * d["y"].std() * len(d["y"]) ** -0.2
    density = np.exp(-0.5 * ((d["y"] - q) / width) ** 2).mean() / (width * np.sqrt(2 * np.pi))
    variance = 0.25 * 0.75 / len(d["y"]) / density**2
    return np.array([q, q]), np.eye(2) * variance


def logit(d: dict) -> tuple[np.ndarray, np.ndarray]:
    y = d["y"] == "yes" if d["y"].dtype.kind in "OUT" else d["y"] > 0
    result = sm.GLM(y.astype(float), np.column_stack([np.ones(len(y)), d["x0"], d["x1"]]), sm.families.Binomial()).fit()
    return result.params, result.cov_params()


SCENARIOS = {
    "linear, 3": (linear(3), ols("x0", "x1", "x2")),
    "linear, 6": (linear(6), ols(*(f"x{i}" for i in range(6)))),
    "linear, 30": (linear(30), ols(*(f"x{i}" for i in range(30)))),
    "product": (product, ols("x0", "x1", "product")),
    "sine and square": (curve, ols("sine", "square")),
    "skewed predictor": (skew, ols("x0", "x1")),
    "zeros or not": (zeros, logit),
    "rare outcome": (rare, logit),
    "spread and tails": (spread, ols("x0", "x1")),
    "spread and tails, HC3": (spread, ols("x0", "x1", robust=True)),
    "first quartile of y": (product, quartile),
    "linear, 6, k = 5n": (linear(6), ols(*(f"x{i}" for i in range(6)))),
}
# Where the truth is no coefficient: from ten million rows.
TRUE = {"first quartile of y": np.full(2, -0.9853)}


def repeat(job: tuple[str, int, int, str]) -> tuple[np.ndarray, ...]:
    name, n, seed, method = job
    make, analyse = SCENARIOS[name]
    columns, true = make(np.random.default_rng(seed), n)
    true = TRUE.get(name, true)
    frame = pl.DataFrame(columns)
    k = 5 * n if name.endswith("5n") else None
    options = {"visit_sequence": "table", "threads": 1, "progress": False}
    syn = fs.synthesize(frame, m=M, k=k, method=method, random_state=seed, **options)
    fits = [analyse({c: copy[c].to_numpy() for c in copy.columns}) for copy in syn]
    pooled = fs.pool(fits, "raab2016", n=n, k=syn.k).table
    own, covariance = analyse({c: frame[c].to_numpy() for c in frame.columns})
    se = np.sqrt(np.diag(covariance))
    low, high = pooled["conf_low"].to_numpy(), pooled["conf_high"].to_numpy()
    # Of a curve or of many slopes the intercept is of no interest.
    shown = slice(1, None)
    found = (
        (low <= true) & (true <= high),
        np.abs(own - true) <= 1.96 * se,
        (pooled["estimate"].to_numpy() - own) / se,
        pooled["b"].to_numpy() / M / se**2,
    )
    return tuple(part[shown] for part in found)


def known() -> list[dict]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def note(record: dict) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a") as out:
        out.write(json.dumps(record) + "\n")
    print(json.dumps(record), flush=True)


def processes() -> ProcessPoolExecutor:
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    # Polars has threads, which a fork would not bring along.
    return ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("spawn"))


def coverage(repeats: int, n: int, only: list[str]) -> None:
    done = {(record["scenario"], record["n"], record["method"]) for record in known() if "scenario" in record}
    with processes() as pool:
        for name in SCENARIOS:
            for method in METHODS:
                if (only and name not in only) or (name, n, method) in done:
                    continue
                start = time.perf_counter()
                rows = list(pool.map(repeat, [(name, n, seed, method) for seed in range(repeats)]))
                covered, real, z, b = (np.array([row[i] for row in rows]) for i in range(4))
                record = {
                    "scenario": name,
                    "method": method,
                    "n": n,
                    "repeats": repeats,
                    "coverage": round(covered.mean(), 3),
                    "lowest": round(covered.mean(0).min(), 3),
                    "real data": round(real.mean(), 3),
                    "bias": round(np.abs(z.mean(0)).mean(), 3),
                    "largest bias": round(np.abs(z.mean(0)).max(), 3),
                    "v": round((z.var(0) - b.mean(0)).mean(), 3),
                    "seconds": round(time.perf_counter() - start, 1),
                }
                note(record)


def boys(repeats: int) -> None:
    """Tables 4 and 5 of Volker and Vink (2021) with calibrated trees, by the simulation of paper.py."""
    import paper

    start = time.perf_counter()
    with processes() as pool:
        records = list(pool.map(one_boys, range(repeats), chunksize=10))
    for name, found in paper.model_summaries(records).items():
        of = {source: np.round(found[source]["coverage"], 3).tolist() for source in ("bootstrap", "T_s", "Reiter")}
        bias = (found["T_s"]["bias"] - found["bootstrap"]["bias"]) / found["bootstrap"]["se"]
        record = {"boys": name, "repeats": repeats, "fits": found["fits"], **of, "bias": np.round(bias, 2).tolist()}
        note(record | {"v": np.round(found["v"], 2).tolist(), "seconds": round(time.perf_counter() - start, 1)})


def one_boys(repeat: int) -> dict:
    import paper

    paper.VARIANTS["calibrated"] = {"method": fs.Calibrated()}
    return paper.one_variant(repeat, "calibrated")


def attack(source: Path, repeats: int) -> None:
    """Who was in the data? Each shadow fit has 2,000 people; of 200 others each is in it with probability one half.

    Two scores of a person from one copy of as many rows: the distance to the nearest row of the copy, and the log of
    the number of copy rows within the distance of the tenth nearest row of the population (a density ratio). Distance
    counts categories that differ, and numbers by their difference in ranks. For each score the largest difference
    between the share of members and of others above a threshold, chosen on one half of the shadow fits and applied to
    the other, and the area under the ROC curve.
    """
    real = (
        pl.read_parquet(source)
        .drop("native_country", strict=False)
        .drop_nulls()
        .sample(fraction=1, shuffle=True, seed=1)
    )
    with processes() as pool:
        for name in ("cart", "calibrated"):
            start = time.perf_counter()
            found = list(pool.map(shadow, [(real, name, seed) for seed in range(repeats)]))
            member, *scores = (np.array([part[i] for part in found]) for i in range(3))
            record: dict = {"attack": name, "repeats": repeats}
            half = repeats // 2
            for label, score in zip(("distance", "density ratio"), scores, strict=True):
                inside, outside = score[member], score[~member]
                ranks = np.concatenate([inside, outside]).argsort(kind="stable").argsort()[: len(inside)]
                auc = (ranks.mean() - (len(inside) - 1) / 2) / len(outside)
                cuts = np.unique(np.quantile(score, np.linspace(0, 1, 200)))
                gains = [advantage(score[:half], member[:half], cut) for cut in cuts]
                cut = cuts[int(np.argmax(gains))]
                record[label] = {
                    "auc": round(float(auc), 4),
                    "advantage": round(advantage(score[half:], member[half:], cut), 4),
                }
            note(record | {"seconds": round(time.perf_counter() - start, 1)})


def advantage(score: np.ndarray, member: np.ndarray, cut: float) -> float:
    above = score >= cut
    return float(above[member].mean() - above[~member].mean())


def shadow(job: tuple[pl.DataFrame, str, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Members among 200 people, and both scores; the same people and shadow data for every method."""
    real, method, seed = job
    rng = np.random.default_rng(seed)
    people, rest, population = real[:200], real[200:12_000], real[12_000:17_000]
    member = rng.random(200) < 0.5
    others = rest[rng.choice(rest.height, 2_000 - int(member.sum()), replace=False)]
    data = pl.concat([people.filter(pl.Series(member)), others])
    options = {"visit_sequence": "table" if method == "cart" else "auto", "threads": 1, "progress": False}
    copy = fs.synthesize(data, m=1, method=method, random_state=seed, **options)[0]
    to_people = distances(people, copy, real)
    to_population = distances(people, population, real)
    nearest = to_people.min(1)
    radius = np.partition(to_population, 10, axis=1)[:, 10]
    ratio = np.log((to_people <= radius[:, None]).sum(1) + 0.5)
    return member, -nearest, ratio


def distances(a: pl.DataFrame, b: pl.DataFrame, scale: pl.DataFrame) -> np.ndarray:
    """Share of columns in which they differ, numbers by their difference in ranks: (rows of a, rows of b)."""
    total = np.zeros((a.height, b.height), np.float32)
    for name in a.columns:
        if a[name].dtype.is_numeric():
            known = np.sort(scale[name].to_numpy())
            x, y = (np.searchsorted(known, d[name].to_numpy()) / len(known) for d in (a, b))
            total += np.abs(x[:, None] - y[None, :]).astype(np.float32)
        else:
            total += a[name].cast(pl.String).to_numpy()[:, None] != b[name].cast(pl.String).to_numpy()[None, :]
    return total


def table() -> Iterator[str]:
    """Coverage of both methods side by side."""
    records = {(r["n"], r["scenario"], r["method"]): r for r in known() if "scenario" in r}
    yield "| n | | repeats | real data | cart: coverage, lowest | bias | v | calibrated: coverage, lowest | bias | v |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for n, name in dict.fromkeys((n, name) for n, name, _ in sorted(records, key=lambda key: key[0])):
        cells = []
        for r in (records.get((n, name, method)) for method in METHODS):
            if r is not None:
                cells += [f"{r['coverage']:.3f}, {r['lowest']:.3f}", f"{r['bias']}, {r['largest bias']}", f"{r['v']}"]
                common = f"| {n:,} | {name} | {r['repeats']} | {r['real data']:.3f} |"
        yield f"{common} {' | '.join(cells)} |"


def pictures(folder: Path) -> None:
    """Coverage of both methods beside that of the original data, and how a donor is moved."""
    from matplotlib.figure import Figure

    records = [r for r in known() if "scenario" in r]
    sizes = sorted({r["n"] for r in records})
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    for axes, n in zip(figure.subplots(1, len(sizes), sharey=True), sizes, strict=True):
        for place, name in enumerate(reversed(SCENARIOS)):
            of = {r["method"]: r for r in records if r["n"] == n and r["scenario"] == name}
            if len(of) < 2:
                continue
            axes.plot(of["cart"]["coverage"], place, "o", color="#c2571a", label="plain leaves")
            axes.plot(of["calibrated"]["real data"], place, "|", color="#8a8f99", markersize=12, label="original data")
            axes.plot(of["calibrated"]["coverage"], place, "o", color="#1f5fbf", label="calibrated")
        axes.axvspan(0.93, 0.97, color="#1f5fbf", alpha=0.08, linewidth=0)
        axes.set(
            title=f"n = {n:,}", xlim=(0.3, 1.0), yticks=range(len(SCENARIOS)), yticklabels=list(reversed(SCENARIOS))
        )
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=3, frameon=False)
    figure.suptitle("coverage of 95 % intervals (band: .93 to .97; below .3 not shown)", fontsize=9)
    figure.savefig(folder / "coverage_calibrated.png", dpi=110, metadata={"Software": None})

    rng = np.random.default_rng(4)
    x = np.sort(rng.uniform(0, 10, 90))
    y = 2 + 0.8 * x + rng.normal(0, 1.1, 90)
    slope, level = np.polyfit(x, y, 1)
    donor, new = 47, 6.6
    axes = (figure := Figure(figsize=(6, 3.2), layout="constrained")).add_subplot()
    axes.axvspan(x[38], x[62], color="#8a8f99", alpha=0.15, linewidth=0)
    axes.plot(x, y, ".", color="#8a8f99")
    axes.plot(x, level + slope * x, color="#1f5fbf", linewidth=1)
    moved = y[donor] + slope * (new - x[donor])
    axes.plot([x[donor], x[donor]], [level + slope * x[donor], y[donor]], ":", color="#c2571a")
    axes.plot([new, new], [level + slope * new, moved], ":", color="#1f5fbf")
    axes.annotate("", (new, moved), (x[donor], y[donor]), arrowprops={"arrowstyle": "->", "color": "#1f5fbf"})
    axes.plot(x[donor], y[donor], "o", color="#c2571a")
    axes.plot(new, moved, "o", color="#1f5fbf")
    axes.annotate("donor", (x[donor], y[donor]), (-8, 8), textcoords="offset points", ha="right", color="#c2571a")
    axes.annotate("draw at the synthetic x*", (new, moved), (8, 4), textcoords="offset points", color="#1f5fbf")
    axes.annotate("leaf", (x[38], y.min()), (4, 0), textcoords="offset points", color="#8a8f99")
    axes.set(xlabel="x", ylabel="y")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "donor.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["coverage", "boys", "attack", "table", "pictures"])
    parser.add_argument("source", type=Path, nargs="?")
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--only", nargs="+", metavar="SCENARIO", default=[])
    options = parser.parse_args()
    if options.what == "coverage":
        coverage(options.repeats or 400, options.rows, options.only)
    elif options.what == "boys":
        boys(options.repeats or 1000)
    elif options.what == "attack":
        attack(options.source, options.repeats or 200)
    elif options.what == "pictures":
        pictures(options.source)
    else:
        print("\n".join(table()))
