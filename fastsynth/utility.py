"""How close copies are to the original: tables of all columns and pairs, models that tell them apart, correlations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, permutations
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from fastsynth.columns import is_numeric
from fastsynth.compared import Compared, open_compared
from fastsynth.errors import OptionError, check_count, check_random_state
from fastsynth.measures import MEASURES, Floats, measure, z_scores
from fastsynth.pooling import format_table
from fastsynth.propensity import ModelName, density_ratio, draw_samples, propensity
from fastsynth.tables import (
    MOST_CELLS,
    MOST_GROUPS,
    Column,
    Grouping,
    Moments,
    Seen,
    Tables,
    check_tables,
    columns_of,
    count,
    group,
    look,
    mixture,
    pairs,
    plot_classes,
    pooled,
    quantile,
    spread_of,
    weights_of,
)

QUANTILES = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
# Rows a side that models look at unless told otherwise.
SAMPLE_ROWS = 50_000
# Patterns of missing values that are listed, and tables that are printed.
MOST_PATTERNS, WORST = 20, 5
MODELS: tuple[ModelName, ...] = ("logit", "cart")
# Measures of which the mean over all two-way tables has a name.
NAMED = ("pMSE", "S_pMSE", "S_FT", "S_G", "JSD", "S_JSD", "SPECKS", "PO50", "MabsDD", "S_WMabsDD", "dBhatt")


@dataclass(frozen=True, slots=True, eq=False)
class Margin:
    """Counts of one column, for a picture.

    Attributes
    ----------
    name : str
    kind : {"number", "level"}
    labels : tuple of str, length n_cells
        Classes of a number, date or time, or levels (with null as one of them).
    edges : ndarray of shape (n_cells + 1,), or None
        Borders of the classes; what lies beyond them is in the first and last class. Dates and times as Arrow stores
        them. Missing values are in no class (``Utility.missing`` has them).
    original : ndarray of shape (n_cells,)
        Rows, or weights scaled to the effective number of rows.
    copies : ndarray of shape (m, n_cells)
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    edges: Floats | None
    original: Floats
    copies: Floats


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Utility(Mapping[str, float]):
    """What ``utility`` found. Holds counts of the original, also small ones: it is for who may see the data.

    ``u["S_pMSE"]`` is the mean of S_pMSE over all two-way tables and copies; iteration gives all names.

    Attributes
    ----------
    n, k, m : int
        Rows of the original and of a copy, number of copies.
    n_effective : float
        n, or Kish's effective size if the original has weights.
    oneway, twoway, threeway : polars.DataFrame
        One row for each table, the worst S_pMSE first: its columns (``column``; ``first``, ``second``; ``third``), then
        the measures, as means over the copies. ``threeway`` is None unless asked for.
    by_copy : polars.DataFrame
        The same for each copy, numbered from 1 in ``copy``: ``first``, ``second`` and ``third`` are null where a table
        has fewer columns.
    model : polars.DataFrame or None
        One row for each model and null: model, null, pMSE, expected, S_pMSE, z, SPECKS, PO50, U; means over copies.
    density : polars.DataFrame or None
        One row for each copy: copy, PE, PE_reversed, p_value, sigma, lambda.
    correlations : polars.DataFrame
        first, second, original, synthetic (mean over copies), difference; the largest difference first.
    quantiles : polars.DataFrame
        column, quantile, original, synthetic (of all copies together); numbers only, not dates.
    missing : polars.DataFrame
        kind ("column" or "pattern"), columns (those that are missing together), shares original and synthetic, z.
    margins : dict of str to Margin
    references : dict of str to float
        What S_pMSE is for copies of a correct model, and for another sample of the population.
    left_out : dict of str to str
        Columns and tables that are not compared, and why.
    sample : int or None
        Rows a side that the models looked at, at most.
    """

    n: int
    k: int
    m: int
    n_effective: float
    oneway: pl.DataFrame
    twoway: pl.DataFrame
    threeway: pl.DataFrame | None
    by_copy: pl.DataFrame
    model: pl.DataFrame | None
    density: pl.DataFrame | None
    correlations: pl.DataFrame
    quantiles: pl.DataFrame
    missing: pl.DataFrame
    margins: dict[str, Margin]
    references: dict[str, float]
    left_out: dict[str, str]
    sample: int | None
    _values: dict[str, float] = field(default_factory=dict)
    _tables: Tables | None = None
    _labels: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def cells(self, *columns: str) -> pl.DataFrame:
        """The cells of one table, those that deviate most first.

        Parameters
        ----------
        columns : str
            One or two columns, or three if three-way tables were asked for.

        Returns
        -------
        polars.DataFrame
            A column of labels for each of ``columns``, named like it; original and synthetic, counts on their own
            scales: of n rows (with weights, of n_effective), and of k rows, as the mean over copies. Printing scales
            the latter to the former. z, (s - o k/n) / sqrt(c (o + s)) with c = k / (n + k), the mean over copies: about
            -2 to 2 in one copy of a correct model.

        Raises
        ------
        OptionError
            No such table.
        """
        assert self._tables is not None
        names = list(self._labels)
        if len(set(columns)) != len(columns) or not all(name in names for name in columns):
            raise OptionError(f"cells{columns!r}: must be different columns that were compared: {', '.join(names)}.")
        wanted = [tuple(names.index(name) for name in order) for order in permutations(columns)]
        slots = next((table for table in wanted if table in self._tables.slots), None)
        if slots is None:
            raise OptionError(f"cells{columns!r}: tables have one or two columns, or three with threeway=True.")
        o, s, z = _cells(self._tables, slots)
        shape = [self._tables.widths[slot] for slot in slots]
        labels = {
            names[slot]: np.array(self._labels[names[slot]], object)[place.ravel()].tolist()
            for slot, place in zip(slots, np.indices(shape), strict=True)
        }
        table = pl.DataFrame({name: labels[name] for name in columns}, dict.fromkeys(columns, pl.String))
        # A column may have the name of a measure.
        counts = {name: name if name not in columns else f"{name}_" for name in ("original", "synthetic", "z")}
        table = table.with_columns(
            pl.Series(counts[name], values) for name, values in zip(counts, (o, s, z), strict=True)
        )
        some = table.filter(pl.col(counts["original"]) + pl.col(counts["synthetic"]) > 0)
        return some.sort(pl.col(counts["z"]).abs(), descending=True, maintain_order=True)

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    __repr__ = __str__


def utility(
    original: Any,
    synthetic: Any,
    *,
    columns: Sequence[str] | None = None,
    groups: int = 5,
    threeway: bool = False,
    model: ModelName | Sequence[ModelName] | None = None,
    density: bool = False,
    weights: str | None = None,
    cont_na: Mapping[str, Sequence[Any]] | None = None,
    sample: int | None = None,
    random_state: int = 0,
    threads: int | None = None,
    client: Any = None,
    memory_limit: int | str | None = None,
) -> Utility:
    """Measure how close copies are to the original.

    Parameters
    ----------
    original
        Any table or path that ``synthesize`` reads.
    synthetic : Synthesis, folder, table, or list of tables
        Copies, of any system.
    columns : list of str, optional
        What to compare; the default is all that the copies have, but for identifiers.
    groups : int
        Groups of about equally many rows that numbers, dates and times are cut into, 2 to 100; null, NaN and missing
        codes are groups of their own. A category has a group for each of its 250 most common levels.
    threeway : bool
        Whether to make tables of all triples of columns, too.
    model : {"logit", "cart"}, or list of these, optional
        Models of which rows are synthetic, for pMSE of all columns together: logistic regression with main effects,
        and a tree.
    density : bool
        Whether to estimate the ratio of densities, with a permutation test.
    weights : str, optional
        Column of survey weights in the original, which is then counted by weight, as if it had Kish's effective number
        of rows. It is not compared.
    cont_na : dict of str to list, optional
        Values of numbers and dates that are kinds of missing, as in ``synthesize``.
    sample : int, optional
        Rows a side that the models look at; the default is 50,000. The density ratio takes at most 2,000 of these.
    random_state : int
        Of permutations, and of the rows of an original with weights.
    threads, client, memory_limit
        As in ``synthesize``; never part of the result.

    Returns
    -------
    Utility

    Raises
    ------
    OptionError
        An option that is not allowed, an unknown column, more than 200,000 tables.
    DataError
        A column that cannot be compared, infinite numbers, weights that are none, density with one row on a side.

    Notes
    -----
    Tables, correlations and margins are of all rows; quantiles, groups and patterns of missing values are found on up
    to a million rows a side, evenly spread. The rows are read twice. O((n + m k) p^2), about half a nanosecond for
    each row and pair of columns.

    References
    ----------
    Raab, Nowok and Dibben (2021), Assessing, visualizing and improving the utility of synthetic data, arXiv 2109.12717.
    Snoke, Raab, Nowok, Dibben and Slavkovic (2018), J. R. Statist. Soc. A 181:663.

    Examples
    --------
    >>> import fastsynth as fs
    >>> boys = fs.load_boys()
    >>> u = fs.utility(boys, fs.synthesize(boys, m=5, random_state=1))
    >>> u["S_pMSE"] < 3
    True
    >>> u.twoway.columns[:4]
    ['first', 'second', 'pMSE', 'S_pMSE']
    """
    models = _checked(groups, model, sample, random_state, {"threeway": threeway, "density": density})
    both = open_compared(
        original, synthetic, columns=columns, threads=threads, client=client, memory_limit=memory_limit
    )
    survey = None
    if weights is not None:
        both = _without_weights(both, weights)
        survey = weights_of(both, weights)
    of_columns = columns_of(both, cont_na)
    spread = spread_of(both, of_columns)
    seen = look(both, of_columns, spread, survey)
    groupings = group(of_columns, seen, groups)
    n = float(both.n) if survey is None else survey.effective
    of_plots = _plots(of_columns, seen, groupings)
    slots, left_out = _slots(groupings, threeway)
    wanted = slots + [(len(groupings) + i,) for i in range(len(of_plots))]
    scales = _scales(of_columns, seen)
    complete = not any(seen_side.missing[:, [c.is_number for c in of_columns]].any() for seen_side in seen)
    complete = complete and not any(g.first for g in groupings if g.edges is not None)
    tables, moments = count(
        both, [*groupings, *(plot for plot, _ in of_plots.values())], wanted, survey, scales, complete
    )
    fixed = _fixed(tables, slots, groupings, both.kept)
    by_copy = _by_copy(tables, slots, groupings, fixed)
    ways = {way: _mean_over_copies(by_copy, way) for way in (1, 2, 3)}
    frames = {}
    if models or density:
        samples = draw_samples(both, of_columns, sample or SAMPLE_ROWS, survey, random_state)
        if models:
            frames["model"] = pl.DataFrame(
                [row for name in models for row in propensity(both, samples, name)], infer_schema_length=None
            ).with_columns(pl.col("S_pMSE", "z").cast(pl.Float64))
        if density:
            frames["density"] = pl.DataFrame(density_ratio(both, samples))
    correlations = _correlations(list(scales), moments)
    result = Utility(
        n=both.n,
        k=both.k,
        m=both.m,
        n_effective=n,
        oneway=ways[1],
        twoway=ways[2],
        threeway=ways[3] if threeway else None,
        by_copy=by_copy,
        model=frames.get("model"),
        density=frames.get("density"),
        correlations=correlations,
        quantiles=_quantiles(of_columns, seen),
        missing=_missing(of_columns, groupings, tables, seen),
        margins=_margins(groupings, of_plots, tables),
        references={"correct": 1.0, "fresh": 1 + both.k / n},
        left_out=both.left_out | left_out,
        sample=(sample or SAMPLE_ROWS) if frames else None,
        _tables=tables,
        _labels={grouping.name: grouping.labels for grouping in groupings},
    )
    return replace(result, _values=_named(result))


def _checked(
    groups: int, model: Any, sample: int | None, random_state: int, switches: Mapping[str, Any]
) -> list[ModelName]:
    """Check the options; give back the models."""
    for name, given in switches.items():
        if not isinstance(given, bool):
            raise OptionError(f"{name}={given!r}: must be True or False.")
    if check_count("groups", groups) not in range(2, MOST_GROUPS + 1):
        raise OptionError(f"groups={groups!r}: must be from 2 to {MOST_GROUPS}.")
    if sample is not None and check_count("sample", sample) < 100:
        raise OptionError(f"sample={sample!r}: must be at least 100 rows.")
    check_random_state(random_state)
    models: list[Any] = [] if model is None else [model] if isinstance(model, str) else list(model)
    if any(name not in MODELS for name in models):
        raise OptionError(f"model={model!r}: must be None, 'logit', 'cart', or a list of these.")
    return models


def _without_weights(both: Compared, name: str) -> Compared:
    """What is compared, without the weights.

    Raises
    ------
    OptionError
        The original has no such column, or it is no number, or the only one.
    """
    schema = both.sides[0].frame.schema
    if name not in schema.names:
        raise OptionError(f"weights={name!r}: must be a column of the original: {', '.join(schema.names)}.")
    dtype = schema.field(name).type
    if not is_numeric(dtype):
        raise OptionError(f"weights={name!r}: the column is {dtype}, and weights are numbers.")
    left = [of_column for of_column in both.schema if of_column.name != name]
    if not left:
        raise OptionError(f"weights={name!r}: there is no other column to compare.")
    return replace(both, schema=pa.schema(left), left_out=both.left_out | {name: "survey weights"})


# Tables


def _slots(groupings: Sequence[Grouping], threeway: bool) -> tuple[list[tuple[int, ...]], dict[str, str]]:
    """The tables to make, and those that are left out."""
    p = len(groupings)
    check_tables(p * (p - 1) // 2, "All pairs of columns")
    slots, left_out = pairs(p), {}
    if threeway:
        check_tables(p * (p - 1) * (p - 2) // 6, "threeway=True")
        for table in combinations(range(p), 3):
            if np.prod([len(groupings[slot].labels) for slot in table]) <= MOST_CELLS:
                slots.append(table)
            else:
                left_out[" x ".join(groupings[slot].name for slot in table)] = f"more than {MOST_CELLS:,} cells"
    return slots, left_out


def _fixed(tables: Tables, slots: list[tuple[int, ...]], groupings: Sequence[Grouping], kept: frozenset[str]) -> Floats:
    """For each table and copy, sums that the synthesis keeps: cells of the margin of columns that it kept."""
    fixed = np.ones((len(tables.copies), len(slots)))
    for i, table in enumerate(slots):
        margin = tuple(slot for slot in table if groupings[slot].name in kept)
        if margin:
            o, s = tables.table(margin)
            fixed[:, i] = (o + s > 0).reshape(len(s), -1).sum(axis=1)
    return fixed


def _by_copy(
    tables: Tables, slots: list[tuple[int, ...]], groupings: Sequence[Grouping], fixed: Floats
) -> pl.DataFrame:
    """Measures of every table and copy."""
    stop = int(tables.first[len(slots)]) if len(slots) < len(tables.first) else len(tables.original)
    names = [*(grouping.name for grouping in groupings), None]
    place = np.array([(*table, -1, -1)[:3] for table in slots])
    frames = []
    for i, copy in enumerate(tables.copies):
        values = measure(tables.original[:stop], copy[:stop], tables.first[: len(slots)], fixed[i])
        frames.append(
            pl.DataFrame(
                {
                    **{
                        name: pl.Series([names[slot] for slot in place[:, j]], dtype=pl.String)
                        for j, name in enumerate(("first", "second", "third"))
                    },
                    "copy": pl.Series(np.full(len(slots), i + 1)),
                    **dict(zip(MEASURES, values, strict=True)),
                }
            )
        )
    return pl.concat(frames).with_columns(pl.col(MEASURES).fill_nan(None))


def _mean_over_copies(by_copy: pl.DataFrame, way: int) -> pl.DataFrame:
    """Means over copies of the tables of so many columns, worst first."""
    names = ["first", "second", "third"][:way]
    n_columns = sum(pl.col(name).is_not_null().cast(pl.Int8) for name in ("first", "second", "third"))
    of_way = by_copy.filter(n_columns == way).group_by(names, maintain_order=True).agg(pl.col(MEASURES).mean())
    of_way = of_way.sort("S_pMSE", descending=True, nulls_last=True, maintain_order=True)
    return of_way.rename({"first": "column"}) if way == 1 else of_way


def _cells(tables: Tables, slots: tuple[int, ...]) -> tuple[Floats, Floats, Floats]:
    """Original counts, mean synthetic counts and mean z of the cells of a table."""
    o, s = tables.table(slots)
    flat, copies = o.ravel(), s.reshape(len(s), -1)
    return flat, copies.mean(axis=0), np.mean([z_scores(flat, copy) for copy in copies], axis=0)


# What else is compared


def _scales(columns: Sequence[Column], seen: Sequence[Seen]) -> dict[str, tuple[float, float]]:
    """Centre and scale of the numbers, of the original: products of standardised values do not lose digits."""
    found = {}
    for column in columns:
        if column.is_number:
            values, rows = seen[0].values[column.name]
            centre = float(np.average(values, weights=rows)) if rows.sum() else 0.0
            spread = float(np.sqrt(np.average((values - centre) ** 2, weights=rows))) if rows.sum() else 0.0
            found[column.name] = (centre, spread if spread > 0 else 1.0)
    return found


def _correlations(names: list[str], moments: Sequence[Moments]) -> pl.DataFrame:
    schema = {"first": pl.String, "second": pl.String, "original": pl.Float64, "synthetic": pl.Float64}
    rows = []
    if len(names) > 1:
        found = [np.broadcast_to(of_side.correlations(), (len(names),) * 2) for of_side in moments]
        mean = np.mean(found[1:], axis=0)
        rows = [(names[i], names[j], found[0][i, j], mean[i, j]) for i, j in combinations(range(len(names)), 2)]
    table = pl.DataFrame(rows, schema, orient="row").with_columns(pl.col("original", "synthetic").fill_nan(None))
    table = table.with_columns(difference=pl.col("synthetic") - pl.col("original"))
    return table.sort(pl.col("difference").abs(), descending=True, nulls_last=True, maintain_order=True)


def _quantiles(columns: Sequence[Column], seen: Sequence[Seen]) -> pl.DataFrame:
    rows = []
    for column in columns:
        if not column.is_number or pa.types.is_temporal(column.dtype):
            continue
        own = seen[0].values[column.name]
        values, share = mixture([side.values[column.name] for side in seen[1:]], [1.0] * (len(seen) - 1))
        if len(own[0]) and len(values):
            both = zip(quantile(*own, QUANTILES), quantile(values, share, QUANTILES), strict=True)
            rows += [(column.name, q, *pair) for q, pair in zip(QUANTILES, both, strict=True)]
    schema = {"column": pl.String, "quantile": pl.Float64, "original": pl.Float64, "synthetic": pl.Float64}
    return pl.DataFrame(rows, schema, orient="row")


def _missing(
    columns: Sequence[Column], groupings: Sequence[Grouping], tables: Tables, seen: Sequence[Seen]
) -> pl.DataFrame:
    """Shares that are missing, by column in all rows, and by pattern in those that were looked at."""
    rows = []
    for i, grouping in enumerate(groupings):
        first = grouping.first if grouping.edges is not None else int(grouping.has_null)
        if first:
            o, s = tables.table((i,))
            shares = s[:, :first].sum(axis=1) / s.sum(axis=1)
            rows.append(_share("column", grouping.name, o[:first].sum() / o.sum(), shares, s.sum(axis=1)))
    rows.sort(key=lambda row: -abs(row[-1] or 0))
    ever = np.flatnonzero(np.any([side.missing.any(axis=0) for side in seen], axis=0))
    if len(ever):
        patterns = [_patterns(side.missing[:, ever], side.weight) for side in seen]
        mean = {
            pattern: sum(of.get(pattern, 0.0) for of in patterns[1:]) / (len(seen) - 1)
            for of in patterns
            for pattern in of
        }
        common = sorted(mean, key=lambda pattern: (-(mean[pattern] + patterns[0].get(pattern, 0.0)), pattern))
        for pattern in common[:MOST_PATTERNS]:
            bits = np.unpackbits(np.frombuffer(pattern, np.uint8), count=len(ever)).astype(bool)
            names = ", ".join(columns[i].name for i in ever[bits]) or "(none)"
            shares = np.array([of.get(pattern, 0.0) for of in patterns[1:]])
            sizes = np.array([len(side.missing) for side in seen[1:]])
            rows.append(_share("pattern", names, patterns[0].get(pattern, 0.0), shares, sizes))
    schema = {"kind": pl.String, "columns": pl.String, **dict.fromkeys(("original", "synthetic", "z"), pl.Float64)}
    return pl.DataFrame(rows, schema, orient="row")


def _share(kind: str, name: str, own: float, shares: Floats, sizes: Floats) -> tuple[str, str, float, float, float]:
    """A row of ``missing``; z is how far shares of copies are from the original's, in standard deviations."""
    p = (own + shares) / 2
    spread = np.sqrt(p * (1 - p) / sizes)
    z = np.divide(shares - own, spread, out=np.zeros(len(shares)), where=spread > 0)
    return kind, name, float(own), float(shares.mean()), float(z.mean())


def _patterns(missing: Any, weight: Floats | None) -> dict[bytes, float]:
    """Share of the rows by pattern."""
    packed = np.packbits(missing, axis=1)
    table = pl.DataFrame(packed, schema=[f"b{i}" for i in range(packed.shape[1])], orient="row")
    # Whole numbers have the same sum in any order, and polars adds up in any.
    whole = (
        np.ones(len(missing), np.int64) if weight is None else np.rint(weight * _unit_scale(weight)).astype(np.int64)
    )
    table = table.with_columns(pl.Series("weight", whole))
    counted = table.group_by(pl.exclude("weight")).agg(pl.col("weight").sum()).sort(pl.exclude("weight"))
    total = counted["weight"].sum()
    return {bytes(row[:-1]): row[-1] / total for row in counted.iter_rows()}


def _unit_scale(weight: Floats) -> float:
    """A power of 2 that makes weights whole numbers of which all can be added."""
    most = len(weight) * float(weight.max(initial=0))
    return 2.0 ** math.floor(math.log2(2.0**61 / most)) if most > 0 else 1.0


def _plots(
    columns: Sequence[Column], seen: Sequence[Seen], groupings: Sequence[Grouping]
) -> dict[str, tuple[Grouping, Floats]]:
    """Classes of the numbers for pictures, and their borders."""
    return {
        column.name: plot_classes(column, *pooled([side.values[column.name] for side in seen]), grouping)
        for column, grouping in zip(columns, groupings, strict=True)
        if column.is_number
    }


def _margins(
    groupings: Sequence[Grouping], plots: Mapping[str, tuple[Grouping, Floats]], tables: Tables
) -> dict[str, Margin]:
    found, place = {}, {name: len(groupings) + i for i, name in enumerate(plots)}
    for i, grouping in enumerate(groupings):
        name = grouping.name
        o, s = tables.table((place.get(name, i),))
        if name not in plots:
            found[name] = Margin(name, "level", grouping.labels, None, o, s)
            continue
        plot, borders = plots[name]
        values = slice(plot.first, plot.first + max(len(borders) - 1, 0))
        found[name] = Margin(name, "number", plot.labels[values], borders, o[values], s[:, values])
    return found


# What is shown


def _named(u: Utility) -> dict[str, float]:
    """Numbers that have a name."""
    values = {name: _mean(u.twoway[name]) for name in NAMED}
    values["S_pMSE_max"] = _most(u.twoway["S_pMSE"])
    values |= {"S_pMSE_oneway": _mean(u.oneway["S_pMSE"]), "S_pMSE_oneway_max": _most(u.oneway["S_pMSE"])}
    if u.threeway is not None:
        values |= {"S_pMSE_threeway": _mean(u.threeway["S_pMSE"]), "S_pMSE_threeway_max": _most(u.threeway["S_pMSE"])}
    if u.model is not None:
        for name in u.model["model"].unique(maintain_order=True):
            row = u.model.row(by_predicate=(pl.col("model") == name) & (pl.col("null") != "pairs"), named=True)
            values |= {f"pMSE_{name}": row["pMSE"], f"S_pMSE_{name}": _number(row["S_pMSE"])}
    if u.density is not None:
        values["PE"] = _mean(u.density["PE"])
    values["correlation_difference"] = _mean(u.correlations["difference"].abs())
    return values


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _mean(values: pl.Series) -> float:
    return _number(values.mean())


def _most(values: pl.Series) -> float:
    return _number(values.max())


def _lines(u: Utility) -> Iterator[str]:
    rows = f"{u.n:,} rows" if u.n_effective == u.n else f"{u.n:,} rows, {u.n_effective:,.0f} of equal weight"
    yield f"Utility of {u.m} {'copy' if u.m == 1 else 'copies'} of {u.k:,} rows (original: {rows})"
    fresh = u.references["fresh"]
    yield f"S_pMSE of tables (a correct model: 1; another sample of the population: {fresh:.2f})"
    for name, table in (("one-way", u.oneway), ("two-way", u.twoway), ("three-way", u.threeway)):
        if table is not None and table["S_pMSE"].count():
            worst = " x ".join(table.select(pl.exclude(MEASURES)).row(0))
            numbers_ = f"mean {_mean(table['S_pMSE']):.2f}, worst {_most(table['S_pMSE']):.2f} ({worst})"
            yield f"  {table.height:,} {name}: {numbers_}"
    shown = _worst_cells(u)
    if shown.height:
        scaled = "" if u.k == u.n_effective else f" (synthetic rows scaled from {u.k:,} to {u.n_effective:,.0f})"
        yield f"Worst two-way tables, and the cell of each that deviates most{scaled}"
        yield from ("  " + line for line in format_table(shown).splitlines())
    if u.model is not None:
        yield f"pMSE of models (of at most {u.sample:,} rows a side)"
        table = u.model.select("model", "null", "pMSE", "S_pMSE", "z", "SPECKS", "PO50")
        yield from ("  " + line for line in format_table(table).splitlines())
    if u.density is not None:
        p = _number(u.density["p_value"].min())
        yield f"Density ratio: PE {_mean(u.density['PE']):.4f} (0: the same), smallest p {p:.3f}"
    if u.correlations["difference"].count():
        first, second, *_, largest = u.correlations.row(0)
        mean = _mean(u.correlations["difference"].abs())
        yield f"Correlations: mean absolute difference {mean:.4f}, largest {largest:+.4f} ({first}, {second})"
    of_columns = u.missing.filter(pl.col("kind") == "column")
    if of_columns.height:
        _, name, own, synthetic, z = of_columns.row(0)
        yield f"Missing values: {name} deviates most, {own:.2%} and in copies {synthetic:.2%} (z {z:+.1f})"
        filled = of_columns.filter((pl.col("original") > 0) & (pl.col("synthetic") == 0))["columns"].to_list()
        if filled:
            told = f"{', '.join(filled[:WORST])}{', ...' if len(filled) > WORST else ''}"
            yield f"  copies have no missing values of {told}; if these were filled in, compare with a completed table"
    if u.left_out:
        some = [f"{name} ({why})" for name, why in list(u.left_out.items())[:WORST]]
        yield f"Left out: {', '.join(some)}" + (f" and {len(u.left_out) - WORST:,} more" * (len(u.left_out) > WORST))


def _worst_cells(u: Utility) -> pl.DataFrame:
    """The worst two-way tables, each with the cell that deviates most: synthetic counts as if there were n rows."""
    rows = []
    for first, second, value in (
        u.twoway.drop_nulls("S_pMSE").select("first", "second", "S_pMSE").head(WORST).iter_rows()
    ):
        *labels, original, synthetic, z = u.cells(first, second).row(0)
        cell = " x ".join(label if len(label) <= 24 else f"{label[:23]}…" for label in labels)
        rows.append((f"{first} x {second}", value, cell, round(original), round(synthetic * u.n_effective / u.k), z))
    schema = {"table": pl.String, "S_pMSE": pl.Float64, "cell": pl.String}
    schema |= {"original": pl.Int64, "synthetic": pl.Int64, "z": pl.Float64}
    return pl.DataFrame(rows, schema, orient="row")
