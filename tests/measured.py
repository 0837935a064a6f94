"""Stand-ins for what ``utility`` and ``disclosure`` give: the same names, with made up numbers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

MEASURES = ("pMSE", "S_pMSE", "df", "MabsDD", "SPECKS")


class Measured(dict):
    """A mapping of names with tables as attributes."""

    def __init__(self, values, **tables):
        super().__init__(values)
        self.__dict__.update(tables)


@dataclass
class Margin:
    name: str
    kind: str
    labels: list[str]
    edges: Any
    original: Any
    copies: Any


@dataclass
class Identical:
    share: float = 0.012
    unique_share: float = 0.004
    fresh: float = 0.010
    fresh_unique: float = 0.005
    holdout: float | None = None
    holdout_unique: float | None = None


def margin_of(real: pl.Series, copies: list[pl.Series]) -> Margin:
    """Counts of 20 classes of equal width without missing values, or of levels with null as one of them."""
    if real.dtype.is_numeric():
        low, high = (np.quantile(real.drop_nulls().cast(float), q) for q in (0.005, 0.995))
        edges = np.linspace(low, max(high, low + 1), 21)
        labels = [f"{a:.4g} to {b:.4g}" for a, b in itertools.pairwise(edges)]

        def counts(s):
            return np.histogram(np.clip(s.drop_nulls().cast(float), edges[0], edges[-1]), edges)[0].astype(float)
    else:
        edges = None
        texts = [s.cast(pl.String).fill_null("null") for s in (real, *copies)]
        labels = sorted({v for s in texts for v in s.unique()})

        def counts(s):
            found = s.cast(pl.String).fill_null("null").to_list()
            return np.array([found.count(v) for v in labels], float)

    made = np.array([counts(s) for s in copies])
    return Margin(real.name, "level" if edges is None else "number", labels, edges, counts(real), made)


def measured_utility(original: pl.DataFrame, copies: list[pl.DataFrame], most: float = 14.0) -> Measured:
    """Utility; the pairs get S_pMSE from ``most`` down to 0.5."""
    names = original.columns
    margins = {name: margin_of(original[name], [copy[name] for copy in copies]) for name in names}
    pairs = list(itertools.combinations(names, 2))
    falling = np.geomspace(most, 0.5, len(pairs))
    measures = {"pMSE": falling / 1e4, "S_pMSE": falling, "df": np.full(len(pairs), 24), "MabsDD": falling / 100}
    twoway = pl.DataFrame({"first": [a for a, _ in pairs], "second": [b for _, b in pairs], **measures})
    own = np.linspace(2.2, 0.4, len(names))
    oneway = {"column": names, "pMSE": own / 1e4, "S_pMSE": own, "df": [4] * len(names), "MabsDD": own / 100}
    numbers = [name for name in names if original[name].dtype.is_numeric()]
    correlated = list(itertools.combinations(numbers, 2))
    r = np.linspace(-0.9, 0.95, len(correlated))
    apart = np.where(np.arange(len(correlated)) % 3 == 0, 0.12, -0.02)

    def cells(first, second=None):
        rows = []
        if second is None:
            margin = margins[first]
            table = {first: margin.labels, "original": margin.original, "synthetic": margin.copies.mean(axis=0)}
            return pl.DataFrame(table).with_columns(z=pl.lit(1.0))
        for i, a in enumerate(_groups(margins[first])):
            for j, b in enumerate(_groups(margins[second])):
                count = 60.0 - 9 * i - 5 * j
                rows.append((a, b, max(count, 1.0), max(count + (i - j) * 4, 0.5), (i - j) * 1.3))
        table = pl.DataFrame(rows, ["a", "b", "original", "synthetic", "z"], orient="row")
        table = table.sort(pl.col("z").abs(), descending=True)
        return table.rename({"a": first, "b": second})

    return Measured(
        {"S_pMSE": float(falling.mean()), "S_pMSE_max": float(falling.max()), "S_pMSE_oneway": float(own.mean())},
        oneway=pl.DataFrame({**oneway, "SPECKS": own / 50}),
        twoway=twoway.with_columns(SPECKS=pl.col("MabsDD") / 2),
        threeway=None,
        model=None,
        density=None,
        correlations=pl.DataFrame(
            {
                "first": [a for a, _ in correlated],
                "second": [b for _, b in correlated],
                "original": r,
                "synthetic": r + apart,
                "difference": apart,
            },
            schema={"first": pl.String, "second": pl.String}
            | dict.fromkeys(("original", "synthetic", "difference"), pl.Float64),
        ),
        quantiles=pl.DataFrame(
            [
                (name, q, float(original[name].quantile(q) or 0), float(copies[0][name].quantile(q) or 0))
                for name in numbers
                for q in (0.0, 0.001, 0.05, 0.5, 0.95, 0.999, 1.0)
            ],
            ["column", "quantile", "original", "synthetic"],
            orient="row",
        ),
        missing=pl.DataFrame(
            {
                "kind": ["column", "column", "pattern"],
                "columns": [names[0], names[1], f"{names[0]}, {names[1]}"],
                "original": [0.2, 0.002, 0.1],
                "synthetic": [0.27, 0.01, 0.1],
                "z": [4.2, 5.0, 0.0],
            }
        ),
        margins=margins,
        cells=cells,
        references={"correct": 1.0, "fresh": 2.0},
        left_out={"id": "identifiers are made anew"},
        n=original.height,
        k=copies[0].height,
        m=len(copies),
    )


def _groups(margin: Margin) -> list[str]:
    """Five groups of a number, as tables have them, or levels."""
    if margin.kind == "level":
        return margin.labels
    cuts = [f"{x:.4g}" for x in margin.edges[[4, 8, 12, 16]]]
    middle = [f"over {a} to {b}" for a, b in itertools.pairwise(cuts)]
    return [
        *(label for label in margin.labels if label == "(missing)"),
        f"up to {cuts[0]}",
        *middle,
        f"over {cuts[-1]}",
    ]


def measured_disclosure(keys: list[str], targets: list[str], n: int = 748, attacks: Any = None, m: int = 2) -> Measured:
    """Disclosure; ``attacks`` as ``attacks_table`` gives it."""
    disco = np.linspace(22.0, 1.0, len(targets))
    attribute = pl.DataFrame(
        {
            "target": targets,
            "Dorig": disco * 1.5,
            "Dsyn": disco * 1.2,
            "iS": disco + 40,
            "DiS": disco * 1.1,
            "DiSCO": disco,
            "DiSDiO": disco * 0.8,
            "max_denom": [14.0] * len(targets),
            "mean_denom": [2.0] * len(targets),
            "baseCAPd": [18.0] * len(targets),
            "check_1way": ["secretlevel"] + [None] * (len(targets) - 1),
            "check_2way": [None] * len(targets),
        }
    )
    identity = pl.DataFrame(
        {"copy": [1, 2], "UiO": [8.0, 8.0], "UiS": [7.5, 8.5], "UiOiS": [3.0, 3.2], "repU": [2.0, 2.4]}
    )
    return Measured(
        {"repU": 2.2, "UiO": 8.0, "UiS": 8.0, "UiOiS": 3.1, "DiSCO": 22.0, "Dorig": 33.0},
        identity=identity,
        attribute=attribute,
        identical=Identical(),
        matching=None,
        attacks=attacks,
        records=pl.DataFrame(
            {
                "row": [712, 3],
                "exact_copy": [True, False],
                "replicated": [True, True],
                "disclosed": [targets[:2], []],
                "n_measures": [3, 1],
            },
            schema_overrides={"disclosed": pl.List(pl.String)},
        ),
        key_columns=keys,
        targets=targets,
        n=n,
        k=n,
        m=m,
        left_out={},
    )


def attacks(auc: float, low: float) -> pl.DataFrame:
    """A table of attacks with an AUC and its lower limit, a risk, and a number that too few rows leave out."""
    rows = [
        ("membership (shadow models)", "AUC", auc, low, auc + 0.04, 0.5, 100, ""),
        ("membership (shadow models)", "TPR at FPR 0.1 %", None, None, None, 0.001, 100, "Needs 1,000 non-members."),
        ("linkability", "risk", 0.021, 0.0, 0.06, 0.0, 748, ""),
    ]
    names = ["attack", "statistic", "value", "low", "high", "baseline", "n_targets", "note"]
    return pl.DataFrame(rows, names, orient="row", infer_schema_length=None)
