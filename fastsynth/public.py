"""Results of ``utility`` with nothing left in them that tells of few people: what public reports are made from.

Readers have the copies, too, so that an exact measure of a small table can be solved for its real counts. Measures are
therefore given in classes, shares in steps, and what rests on fewer than ten real rows is null or left out. The order
of tables goes by their classes, for that of exact measures would tell, too.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from fastsynth.errors import OptionError
from fastsynth.page import FAR, TAIL, Shown, missing
from fastsynth.pictures import HEAT, SIZES

# From so many tables on, two digits of the mean of their S_pMSE do not tell that of one.
MANY_TABLES = 10


@dataclass(frozen=True, slots=True)
class PublicUtility:
    """What stands in for ``Utility``.

    Attributes
    ----------
    values : dict of str to float
        S_pMSE and S_pMSE_oneway in two digits, or one of fewer than ten tables; S_pMSE_max is the lower end of a class.
    oneway, twoway : polars.DataFrame
        Columns and S_pMSE: the lower end of a class (0, 3, 10 or 30), or null where a cell has too few rows.
    known : dict of str to float
        Share of the rows in which a column is not missing, of those that have missing values; not to be shown.
    cells : callable
        As ``Utility.cells`` of two columns; z is 0, 2 or 4 with its sign, null where a cell has too few rows.
    """

    n: int
    k: int
    m: int
    values: dict[str, float]
    oneway: pl.DataFrame
    twoway: pl.DataFrame | None
    model: pl.DataFrame | None
    density: pl.DataFrame | None
    correlations: pl.DataFrame | None
    quantiles: pl.DataFrame | None
    missing: pl.DataFrame | None
    margins: Any
    references: dict[str, float]
    left_out: dict[str, str]
    known: dict[str, float]
    cells: Callable[[str, str], pl.DataFrame]

    def __getitem__(self, name: str) -> float:
        return self.values[name]

    def __contains__(self, name: str) -> bool:
        return name in self.values


def public_utility(utility: Any, shown: Shown) -> PublicUtility:
    """Leave out, round and put into classes what ``utility`` gave."""
    cells = functools.cache(utility.cells)
    oneway = _in_classes(utility.oneway, ["column"], cells, shown)
    twoway = None if utility.twoway is None else _in_classes(utility.twoway, ["first", "second"], cells, shown)
    values = {
        name: _mean(utility[name], table, graded)
        for name, table, graded in (
            ("S_pMSE_oneway", utility.oneway, oneway),
            ("S_pMSE", utility.twoway, twoway),
        )
        if name in utility and table is not None and graded is not None
    }
    values.setdefault("S_pMSE", math.nan)
    worst = None if twoway is None else twoway["S_pMSE"].max()
    values["S_pMSE_max"] = math.nan if worst is None else float(worst)  # type: ignore[arg-type]
    known = known_shares(utility.missing)
    return PublicUtility(
        n=utility.n,
        k=utility.k,
        m=utility.m,
        values=values,
        oneway=oneway,
        twoway=twoway,
        model=utility.model,
        density=utility.density,
        correlations=_correlations(utility, cells, shown),
        quantiles=_quantiles(utility.quantiles, known, shown),
        missing=_missing(utility.missing, shown),
        margins=utility.margins,
        references=utility.references,
        left_out=utility.left_out,
        known=known,
        cells=lambda first, second: _cells(cells(first, second), shown),
    )


def known_shares(table: pl.DataFrame | None) -> dict[str, float]:
    """Share of the rows in which a column is not missing, by ``Utility.missing``."""
    if table is None:
        return {}
    columns = table.filter(pl.col("kind") == "column")
    return {name: 1 - share for name, share in columns.select("columns", "original").iter_rows()}


def _in_classes(table: pl.DataFrame, names: list[str], cells: Any, shown: Shown) -> pl.DataFrame:
    """S_pMSE of tables as the lower end of its class, null where a cell has too few rows; the worst class first."""
    found = [
        None if missing(row[-1]) or not _full(cells, row[:-1], shown) else _lower(abs(row[-1]), HEAT)
        for row in table.select(*names, "S_pMSE").iter_rows()
    ]
    graded = table.select(names).with_columns(S_pMSE=pl.Series(found, dtype=pl.Float64))
    return graded.sort("S_pMSE", *names, descending=[True, *[False] * len(names)], nulls_last=True)


def _lower(size: float, limits: tuple[float, ...]) -> float:
    return float((0.0, *limits)[int(np.searchsorted(limits, size, side="right"))])


def _full(cells: Any, names: tuple[str, ...], shown: Shown) -> bool:
    """Whether every cell of a table, empty ones included that only copies fill, has rows enough."""
    counts = cells(*names).to_series(len(names)).to_numpy()
    return len(counts) > 0 and bool(shown.enough(counts / max(counts.sum(), 1e-300)).all())


def _mean(value: float, table: pl.DataFrame, graded: pl.DataFrame) -> float:
    tables = table["S_pMSE"].drop_nulls().drop_nans().len()
    if missing(value) or (tables == 1 and graded["S_pMSE"].null_count() == graded.height):
        return math.nan
    return float(f"{value:.{2 if tables >= MANY_TABLES else 1}g}")


def _cells(table: pl.DataFrame, shown: Shown) -> pl.DataFrame:
    # By position: a column may be named as a measure.
    first, second, original, _, z = table.columns
    rows = table[original].to_numpy()
    enough = shown.enough(rows / max(rows.sum(), 1e-300))
    coarse = [
        None if missing(value) or not here else math.copysign(_lower(abs(value), SIZES), value) + 0.0
        for value, here in zip(table[z], enough, strict=True)
    ]
    found = table.with_columns(pl.Series(z, coarse, dtype=pl.Float64))
    return found.with_columns(pl.lit(None, pl.Float64).alias(name) for name in table.columns[2:4]).sort(
        pl.col(z).abs(), first, second, descending=[True, False, False], nulls_last=True
    )


def _missing(table: pl.DataFrame | None, shown: Shown) -> pl.DataFrame | None:
    """Shares in whole per cent, or in steps of ten rows where these are larger; of z the sign, where it is large."""
    if table is None:
        return None
    step = max(0.01, shown.step)
    large = pl.col("z").is_not_null() & pl.col("z").is_not_nan() & (pl.col("z").abs() >= FAR)
    enough = shown.enough(table["original"].to_numpy()) & shown.enough(1 - table["original"].to_numpy())
    found = table.filter(pl.Series(enough, dtype=pl.Boolean)).with_columns(
        *((pl.col(side) / step).round() * step for side in ("original", "synthetic")),
        pl.when(large).then(pl.col("z").sign() * FAR).otherwise(0.0).alias("z"),
    )
    return found.sort(pl.col("z").abs(), "kind", "columns", descending=[True, False, False])


def _quantiles(table: pl.DataFrame | None, known: dict[str, float], shown: Shown) -> pl.DataFrame | None:
    """Ten known rows beyond on either side, and no value that may be the least or greatest.

    Three digits, or two where fewer than a thousand rows are known, each of which may be a quantile itself.
    """
    if table is None or not table.height:
        return table
    edge = {name: max(TAIL, shown.of_known(known.get(name, 1.0)).least) for name in table["column"].unique()}
    for side in ("original", "synthetic"):
        # A quantile that is that of one in a thousand, too, may be the least or greatest value.
        ends = (pl.col(side).min().over("column"), pl.col(side).max().over("column"))
        table = table.with_columns(pl.when(pl.col(side).is_between(*ends, closed="none")).then(pl.col(side)))
    beyond = pl.col("column").replace_strict(edge, return_dtype=pl.Float64)
    table = table.filter(pl.col("quantile").is_between(beyond - 1e-12, 1 - beyond + 1e-12))
    sides = pl.col("original", "synthetic")
    table = table.with_columns(pl.when(beyond > TAIL).then(sides.round_sig_figs(2)).otherwise(sides.round_sig_figs(3)))
    return table.filter(pl.col("original").is_not_null().any().over("column"))


def _correlations(utility: Any, cells: Any, shown: Shown) -> pl.DataFrame | None:
    """One decimal, of pairs that do not rest on few rows."""
    table: pl.DataFrame | None = utility.correlations
    if table is None or not table.height:
        return table
    kept = [
        not missing(value) and _correlated(utility, cells, first, second, shown)
        for first, second, value in table.select("first", "second", "original").iter_rows()
    ]
    found = table.filter(pl.Series(kept, dtype=pl.Boolean)).with_columns(pl.col("original", "synthetic").round(1))
    found = found.with_columns(difference=(pl.col("synthetic") - pl.col("original")).round(1))
    return found.sort(pl.col("difference").abs(), "first", "second", descending=[True, False, False], nulls_last=True)


def _correlated(utility: Any, cells: Any, first: str, second: str, shown: Shown) -> bool:
    """Whether ten rows know both numbers and ten differ from the most common value of each; of dummies, each cell."""
    try:
        table = cells(first, second)
    except OptionError:
        return False
    counts = table.to_series(2).to_numpy()
    total = max(counts.sum(), 1e-300)
    labels = [table.to_series(i).to_list() for i in (0, 1)]
    known = np.array(
        [
            _is_value(a, utility.margins[first]) and _is_value(b, utility.margins[second])
            for a, b in zip(*labels, strict=True)
        ],
        bool,
    )
    counts = counts[known] / total
    sizes = [np.unique(np.array(of, object)[known].astype(str), return_inverse=True) for of in labels]
    if not len(counts):
        return False
    if any(not shown.enough(counts.sum() - np.bincount(place, counts).max()) for _, place in sizes):
        return False
    binary = all(len(levels) <= 2 for levels, _ in sizes)
    return not binary or (len(counts) == 4 and bool(shown.enough(counts).all()))


def _is_value(label: str, margin: Any) -> bool:
    """Whether a class holds values, and is not one of missing values or their codes."""
    return label in margin.labels or label.startswith(("up to ", "over "))
