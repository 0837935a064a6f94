"""Sections of a report: what ``utility`` and ``disclosure`` measured, as tables and figures that an audience may see.

All that is known of their results and of how copies were made is read here, in one function for each section.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np
import polars as pl

from fastsynth.copies import Synthesis
from fastsynth.measures import Floats
from fastsynth.page import (
    GOOD,
    NONE,
    SMALLEST_CELL,
    Figures,
    Section,
    Shown,
    Table,
    Text,
    apart,
    count,
    decimal,
    figures,
    limits,
    look_at,
    merge_levels,
    merge_numbers,
    missing,
    number,
    pattern,
    records_of,
    round_classes,
    safe,
    signed,
    usable,
)
from fastsynth.pictures import draw_cells, draw_heat, draw_intervals, draw_levels, draw_numbers, draw_scatter, plain
from fastsynth.pooling import Comparison, Pooled
from fastsynth.public import public_utility
from fastsynth.rules import Design

# What a page shows at most, of the worst: margins, columns of the heat map, pairs as tables and drawn, records.
MOST_MARGINS, MOST_HEAT, MOST_PAIRS, MOST_DRAWN, MOST_RECORDS = 40, 60, 20, 4, 20
MOST_ROWS, MOST_CELLS, MOST_DOTS = 100, 12, 2_000


def make_page(
    utility: Any,
    disclosure: Any,
    synthesis: Synthesis | None,
    shown: Shown,
    *,
    identical: Any = None,
    formula: str = "",
    pooled: Pooled | None = None,
    comparison: Comparison | None = None,
    too_few: bool = False,
    attacks: Mapping[str, pl.DataFrame] | None = None,
) -> dict[str, Any]:
    """Everything that the template shows.

    ``identical`` are exact copies where no disclosure was measured; ``too_few`` says that a model rests on too few rows
    to be shown.
    """
    if shown.public:
        utility = public_utility(utility, shown)
    if too_few:
        pooled = comparison = None
    identical = identical if disclosure is None else disclosure.identical
    beside = {"these copies": None if disclosure is None else disclosure.attacks, **(attacks or {})}
    tables = {name: table for name, table in beside.items() if table is not None}
    sections = [
        _numbers_section(utility, disclosure, identical, comparison, tables, shown),
        _making_section(utility, synthesis, shown),
        _margins_section(utility, shown),
        _pairs_section(utility, shown),
        _correlations_section(utility, shown),
        _missing_section(utility, shown),
        _hidden_model(formula) if too_few else _model_section(formula, pooled, comparison),
        _disclosure_section(disclosure, identical, tables, shown),
        None if shown.public else _records_section(records_of(disclosure)),
    ]
    return {
        "title": f"Synthetic copies: {utility.m} of {utility.k:,} rows, from {utility.n:,} real rows",
        "public": shown.public,
        "smallest": SMALLEST_CELL,
        "verdicts": [
            usable(utility, comparison, shown),
            safe(disclosure, identical, tables, shown),
            look_at(utility, disclosure, synthesis, shown),
        ],
        "sections": [section for section in sections if section is not None],
        "limits": limits(),
    }


def _numbers_section(
    utility: Any,
    disclosure: Any,
    same: Any,
    comparison: Comparison | None,
    attacks: Mapping[str, pl.DataFrame],
    shown: Shown,
) -> Section:
    """Each number beside what it is to be compared with."""
    correct, fresh = (plain(round(utility.references[name], 2)) for name in ("correct", "fresh"))
    reference = f"correct model {correct}, new sample {fresh}"
    rows = []
    for name, what, text in (
        ("S_pMSE_oneway", "S_pMSE of single columns, mean", shown.mean),
        ("S_pMSE", "S_pMSE of pairs, mean", shown.mean),
        ("S_pMSE_max", "S_pMSE of the worst pair" + " that may be shown" * shown.public, shown.fit),
    ):
        if name in utility and not missing(utility[name]):
            rows.append((what, text(utility[name]), reference))
    if comparison is not None:
        size = float(np.abs(comparison.table["std_difference"].to_numpy()).mean())
        expected = NONE if comparison.expected is None else f"correct model {comparison.expected:.2f}"
        rows.append(("Coefficients of the model: mean absolute difference in standard errors", f"{size:.2f}", expected))
    if disclosure is not None:
        rows.append(
            (
                "repU, % of real rows",
                shown.percent(disclosure["repU"]),
                f"unique in the original: {shown.percent(disclosure['UiO'])}",
            )
        )
        if disclosure.attribute.height:
            row = disclosure.attribute.row(0, named=True)
            guess, own = shown.percent(row["baseCAPd"]), shown.percent(row["Dorig"])
            beside = f"guess from the margin {guess}, original's own table {own}"
            rows.append((f"DiSCO of {row['target']}, % of real rows", shown.percent(row["DiSCO"]), beside))
    if same is not None:
        for what, share, fresh in (
            ("Copies of real rows", same.share, same.fresh),
            ("Copies of unique real rows", same.unique_share, same.fresh_unique),
        ):
            beside = f"new sample {shown.percent(100 * fresh)}"
            rows.append((f"{what}, % of synthetic rows", shown.percent(100 * share), beside))
    own_attacks = attacks.get("these copies")
    for found in () if own_attacks is None else own_attacks.iter_rows(named=True):
        if missing(found["value"]) or found["statistic"] not in ("AUC", "TPR at FPR 1 %", "risk"):
            continue
        beside = NONE if missing(found["baseline"]) else f"baseline {shown.attack(found['baseline'], 3, found)}"
        value = shown.attack(found["value"], 3, found)
        rows.append((f"{found['attack'].capitalize()}: {found['statistic']}", value, beside))
    table = Table(
        "Each number beside its reference", ("Measure", "Value", "Beside it"), tuple(rows), (False, True, False)
    )
    return Section("numbers", "The numbers", (table,))


def _making_section(utility: Any, synthesis: Synthesis | None, shown: Shown) -> Section:
    blocks: list[Any] = []
    facts = [
        ("Rows of the original (n)", f"{utility.n:,}"),
        ("Rows of a copy (k)", f"{utility.k:,}"),
        ("Copies (m)", f"{utility.m}"),
    ]
    if synthesis is None:
        blocks.append(Text("The copies came as plain tables: how they were made is not known here."))
    else:
        audit, design = synthesis.audit, synthesis.design
        facts += _facts(audit, design)
        facts += [] if shown.public else [("random_state", str(audit["random_state"]))]
    blocks.append(Table("How they were made", ("What", "Value"), tuple(facts), (False, False)))
    if synthesis is not None:
        blocks += _columns_tables(synthesis, shown) + _protection_table(synthesis, shown)
    if utility.left_out:
        rows = tuple(utility.left_out.items())
        blocks += _cut(rows, MOST_ROWS, "columns that are not compared", "first")
        blocks.append(Table("Columns that are not compared", ("Column", "Why"), rows[:MOST_ROWS], (False, False)))
    return Section("making", "How the copies were made", tuple(blocks))


def _facts(audit: Mapping[str, Any], design: Design) -> list[tuple[str, str]]:
    models = f"all {design.n:,} rows"
    if design.subsampled:
        models = f"{design.n_s:,} rows, {'the same' if design.shared else 'others'} for each copy"
    climbed = audit["climbed"]
    return [
        ("Synthesis", f"{'partial' if design.partial else 'full'}, {'proper' if design.proper else 'simple'}"),
        ("Models fitted on", models),
        ("Partitions", NONE if audit["partitions"] is None else str(audit["partitions"])),
        (
            "v, variance of slopes that no rule counts (about 0 is right)",
            NONE if design.v is None else f"{design.v:.3f}",
        ),
        (
            "Draws that left their leaf to meet limits and rules",
            NONE if climbed is None else f"{sum(climbed.values()):,}",
        ),
        ("Rows that equal a real one", _exact(audit.get("copies"))),
        ("Version of fastsynth", str(audit["fastsynth"])),
    ]


def _exact(policy: Mapping[str, Any] | None) -> str:
    """What was done about rows that equal a real one."""
    if policy is None:
        return "left as they were drawn"
    kept = "all" if policy["policy"] == "none" else "all but a fresh sample's share"
    return f"{kept} got another value of {policy['column']}"


def _protection_table(synthesis: Synthesis, shown: Shown) -> list[Any]:
    """What ``protect`` did; limits of top coding may be values of people."""
    rows = []
    for record in synthesis.audit.get("protection", []):
        options = {name: value for name, value in record.items() if name not in ("measure", "columns")}
        words = "; ".join(f"{name} {_words(value)}" for name, value in options.items() if value not in (None, [], {}))
        row = (record["measure"], _words(record["columns"]))
        rows.append(row if shown.public else (*row, words))
    head = ("Measure", "Columns") if shown.public else ("Measure", "Columns", "Options, and what changed")
    return [Table("Protection after the synthesis", head, tuple(rows), (False,) * len(head))] if rows else []


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(x)}" for name, x in value.items())
    return ", ".join(map(_words, value)) if isinstance(value, list | tuple) else str(value)


def _columns_tables(synthesis: Synthesis, shown: Shown) -> list[Any]:
    summary = synthesis.summary()
    protected = bool((summary["protection"].list.len() > 0).any())
    rows = []
    for i, row in enumerate(summary.head(MOST_ROWS).iter_rows(named=True)):
        start: tuple[str, ...] = (
            row["column"],
            str(i + 1),
            row["action"],
            row["method"] or NONE,
            str(row["n_predictors"] or 0),
            *([_protected(row["protection"] or [], shown)] if protected else []),
        )
        more = (count(row["n_leaves"]), count(row["smallest_leaf"]), count(row["n_climbed"]))
        rows.append(start if shown.public else (*start, *more, row["decision"] or ""))
    head: tuple[str, ...] = ("Column", "Visit", "Action", "Method", "Predictors", *["Protection"] * protected)
    more_head = ("Leaves", "Smallest leaf", "Climbed", "Decided from the data")
    numbers = (False, True, False, False, True, *[False] * protected, True, True, True, False)
    head = head if shown.public else (*head, *more_head)
    table = Table("Columns in visit sequence", head, tuple(rows), numbers[: len(head)])
    return [*_cut(summary, MOST_ROWS, "columns", "first"), table]


def _protected(words: Sequence[str], shown: Shown) -> str:
    """What protected a column while it was drawn; in public by name, for options may tell values."""
    return ", ".join(re.split(r"[=(]", word)[0] if shown.public else word for word in words)


def _cut(rows: Sized, most: int, what: str, which: str = "worst") -> list[Text]:
    return [Text(f"Shown are the {which} {most} of {len(rows):,} {what}.")] if len(rows) > most else []


def _margins_section(utility: Any, shown: Shown) -> Section:
    order = utility.oneway["column"].to_list()
    names = [name for name in order if name in utility.margins][:MOST_MARGINS]
    size = dict(zip(order, utility.oneway["S_pMSE"].to_list(), strict=True))
    known = utility.known if shown.public else {}
    hidden: list[str] = []
    svg = []
    for name in names:
        margin = utility.margins[name]
        # Classes of numbers hold no missing values; of levels these are one.
        drawn = margin_figure(margin, shown.of_known(known.get(name, 1.0)) if margin.kind == "number" else shown)
        if drawn is None:
            hidden.append(name)
            continue
        svg.append(((name, f": S_pMSE {shown.fit(size[name])}" if not missing(size[name]) else ""), drawn))
    blocks: list[Any] = [
        Text(
            "Grey is the original, blue the copies: a line or mark for their mean, and a band or line for their range. "
            "The worst come first."
        ),
        *_cut(order, MOST_MARGINS, "columns"),
        Figures(tuple(svg)),
    ]
    if hidden:
        words = "Too few rows in each class to be shown, or no limits that can be rounded"
        blocks.append(Text(f"{words}: {', '.join(hidden)}."))
    worst_first = utility.oneway.head(MOST_MARGINS).to_dicts()
    blocks.append(_fit_table("Single columns, worst first", "Column", [(r["column"], r) for r in worst_first], shown))
    return Section("margins", "Columns one by one", tuple(blocks))


def margin_figure(margin: Any, shown: Shown) -> str | None:
    """Draw a margin; None where too little of it may be shown."""
    original = np.asarray(margin.original, np.float64)
    copies = np.atleast_2d(np.asarray(margin.copies, np.float64))
    original, copies = (
        original / max(original.sum(), 1e-300),
        copies / np.maximum(copies.sum(axis=1, keepdims=True), 1e-300),
    )
    labels = list(margin.labels)
    if margin.kind != "number" or margin.edges is None or len(margin.edges) < 2:
        labels, original, copies = merge_levels(labels, original, copies, shown)
        if shown.public and len(labels) < 2:
            return None
        original, copies = shown.round(original), shown.round(copies)
        return draw_levels(margin.name, _differs(labels, original, copies, shown), labels, original, copies)
    edges = np.asarray(margin.edges, np.float64)
    dated = not _numeric(labels[0])
    if shown.public:
        found = round_classes(edges, labels, original, copies)
        merged = None if found is None else merge_numbers(found[0], *found[2:], shown)
        if found is None or merged is None:
            return None
        edges, original, copies, starts = merged
        # Where the second class and the last one begin.
        ends = [found[1][i - 1] for i in starts[1:]]
        labels = [f"up to {ends[0]}", *(f"from {x}" for x in ends)]
    return draw_numbers(
        margin.name,
        _differs(labels, original, copies, shown),
        edges,
        original,
        copies,
        open_ends=shown.public,
        labels=labels if dated else (),
    )


def _numeric(label: str) -> bool:
    """Whether a class is written as numbers, not as dates or times."""
    return re.match(r"^\W*(-?inf|[-+]?[\d.,]+(e[-+]?\d+)?)(?![\d:-])", label) is not None


def _differs(labels: Sequence[str], original: Floats, copies: Floats, shown: Shown) -> str:
    """What a screen reader says of a margin."""
    if not len(original):
        return "No values."
    mean = copies.mean(axis=0)
    i = int(np.argmax(np.abs(mean - original)))
    classes = "by class" if shown.public else f"in {len(original)} classes"
    return (
        f"Share of rows {classes}. The largest difference: {labels[i]}, "
        f"original {100 * original[i]:.1f} %, copies {100 * mean[i]:.1f} %."
    )


def _fit_table(caption: str, what: str, rows: Sequence[tuple[str, Mapping[str, Any]]], shown: Shown) -> Table:
    """How well tables fit. Where the copies are known, exact measures would give the real counts."""
    if shown.public:
        return Table(
            caption, (what, "S_pMSE"), tuple((name, shown.fit(r["S_pMSE"])) for name, r in rows), (False, True)
        )
    digits = {"S_pMSE": 2, "MabsDD": 3, "SPECKS": 3}
    cells = tuple((name, number(r["df"]), *(decimal(r[c], d) for c, d in digits.items())) for name, r in rows)
    return Table(caption, (what, "df", *digits), cells, (False, *[True] * (1 + len(digits))))


def _pairs_section(utility: Any, shown: Shown) -> Section | None:
    table = utility.twoway
    if table is None or not table.height:
        return None
    names, values = heat_values(table)
    all_names = {*table["first"], *table["second"]}
    pairs = table.height
    many = sum(1 for x in table["S_pMSE"] if not missing(x) and x >= GOOD)
    words = f"{many:,} of {pairs:,} pairs have an S_pMSE of 3 or more"
    if shown.public:
        few = table["S_pMSE"].null_count()
        words += f"; {few:,} have cells of too few rows to be shown." if few else "."
    else:
        words += f"; the worst is {table['first'][0]} with {table['second'][0]}."
    blocks: list[Any] = [Text("S_pMSE of every pair of columns: where a row and a column of the map meet. " + words)]
    if len(all_names) > MOST_HEAT:
        blocks.append(Text(f"The map shows the {MOST_HEAT} columns with the worst pairs, of {len(all_names):,}."))
    blocks.append(Figures(((("S_pMSE of pairs", ""), draw_heat(names, values, "Heat map of S_pMSE of pairs", words)),)))
    worst_first = [(f"{r['first']}, {r['second']}", r) for r in table.head(MOST_PAIRS).to_dicts()]
    blocks += _cut(table, MOST_PAIRS, "pairs")
    blocks.append(_fit_table("Pairs, worst first", "Pair", worst_first, shown))
    blocks += _together(utility, shown)
    tried = [_pair_figure(utility, r["first"], r["second"], shown) for r in table.head(MOST_DRAWN).to_dicts()]
    drawn = [figure for figure in tried if figure is not None]
    if drawn:
        blocks += [
            Text("The worst pairs", "heading"),
            Text(
                "z of each cell: in orange the copies have too many rows (+), in blue too few (\N{MINUS SIGN}); beyond "
                "\N{PLUS-MINUS SIGN}2 it is seldom chance."
                + " 2 stands for 2 to 4, and 4 for 4 and more. Cells of few real rows are left out."
                * shown.public
            ),
            Figures(tuple(drawn)),
        ]
    return Section("pairs", "Pairs of columns", tuple(blocks))


def _together(utility: Any, shown: Shown) -> list[Any]:
    """Measures of all columns at once, where they were asked for."""
    blocks = []
    if utility.model is not None:
        rows = tuple(
            (
                f"{r['model']} ({r['null']})",
                figures(r["S_pMSE"], 2) if shown.public else decimal(r["S_pMSE"]),
                *([] if shown.public else [decimal(r["z"], 1)]),
            )
            for r in utility.model.to_dicts()
        )
        head = ("Model that tells copies from the original (null)", "S_pMSE", *["z"] * (not shown.public))
        blocks.append(Table("All columns together", head, rows, (False, True, True)[: len(head)]))
    if utility.density is not None:
        rows = tuple(
            (str(r["copy"]), decimal(r["PE"], 2 if shown.public else 3), decimal(r["p_value"]))
            for r in utility.density.to_dicts()
        )
        head = ("Copy", "Pearson divergence", "p")
        blocks.append(Table("Ratio of densities", head, rows[:MOST_ROWS], (True, True, True)))
    return blocks


def heat_values(table: pl.DataFrame) -> tuple[list[str], Floats]:
    """Columns of the heat map, those with the worst pairs first, and S_pMSE of their pairs."""
    worst_of: dict[str, float] = {}
    for first, second, value in table.select("first", "second", "S_pMSE").iter_rows():
        for name in (first, second):
            size = -math.inf if missing(value) else value
            worst_of[name] = max(worst_of.get(name, -math.inf), size)
    names = sorted(worst_of, key=lambda name: (-worst_of[name], name))[:MOST_HEAT]
    place = {name: i for i, name in enumerate(names)}
    values = np.full((len(names), len(names)), np.nan)
    for first, second, value in table.select("first", "second", "S_pMSE").iter_rows():
        if first in place and second in place and value is not None:
            values[place[first], place[second]] = values[place[second], place[first]] = value
    return names, values


def _pair_figure(utility: Any, first: str, second: str, shown: Shown) -> tuple[tuple[str, str], str] | None:
    cells = utility.cells(first, second)
    # By position: a column may be named as a measure.
    found = [(a, b, z) for a, b, _, _, z in cells.iter_rows()]
    rows, columns = (_ordered({cell[i] for cell in found}, name, utility) for i, name in enumerate((first, second)))
    z = np.full((len(rows), len(columns)), np.nan)
    for a, b, value in found:
        if not missing(value):
            z[rows.index(a), columns.index(b)] = value
    if not np.isfinite(z).any():
        return None
    # Of many classes those with the worst cells.
    for axis, names in ((0, rows), (1, columns)):
        size = np.nanmax(np.where(np.isfinite(z), np.abs(z), -1), axis=1 - axis)
        keep = sorted(np.argsort(-size, kind="stable")[:MOST_CELLS].tolist())
        if shown.public:
            # A level whose cells are all left out is not named.
            keep = [i for i in keep if size[i] >= 0]
        z = z.take(keep, axis=axis)
        names[:] = [names[i] for i in keep]
    i, j = np.unravel_index(int(np.nanargmax(np.abs(z))), z.shape)
    rows, columns = (_classes(names, name, utility, shown) for names, name in ((rows, first), (columns, second)))
    words = f"The worst cell: {rows[i]} with {columns[j]}, z {plain(round(float(z[i, j])))}."
    return (f"{first} with {second}", ""), draw_cells(
        f"{first} with {second}", words, rows, columns, z, (first, second)
    )


def _ordered(labels: set[str], name: str, utility: Any) -> list[str]:
    """Classes in their order: of numbers by what they begin with, of levels as in the margin."""
    margin = utility.margins.get(name)
    if margin is not None and margin.kind == "number":
        return sorted(labels, key=_class_key)
    known = {label: i for i, label in enumerate([] if margin is None else margin.labels)}
    return sorted(labels, key=lambda label: (known.get(label, len(known)), label))


def _class_key(label: str) -> tuple[Any, ...]:
    """Order of classes of numbers, dates and times; words such as "missing" come last."""
    words = re.sub(r"^(up to|over|from) ", "", label)
    if not re.match(r"[-\d]", words):
        return 1, (), label
    try:
        return 0, tuple(float(part) for part in words.split(" to ")), label
    except ValueError:
        return 0, (), words


def _brief(label: str) -> str:
    """A class of numbers in signs."""
    label = re.sub(r"^up to (?=[-\d])", "\N{LESS-THAN OR EQUAL TO}\N{THIN SPACE}", label)
    label = re.sub(r"^over (?=[-\d])(?!.* to )", ">\N{THIN SPACE}", label)
    return re.sub(r"^over (?=[-\d])(.*) to ", "\\1\N{EN DASH}", label)


def _classes(labels: Sequence[str], name: str, utility: Any, shown: Shown) -> list[str]:
    """Labels in short; in public without the limits of numbers, of which the outer ones may be least and greatest."""
    if utility.margins[name].kind != "number":
        return list(labels)
    if not shown.public:
        return [_brief(label) for label in labels]
    return [f"class {i + 1}" if re.search(r"\d", label) else label for i, label in enumerate(labels)]


def _correlations_section(utility: Any, shown: Shown) -> Section | None:
    blocks: list[Any] = []
    table = utility.correlations
    if table is not None and table.height:
        worst_first = table.sort(pl.col("difference").abs(), descending=True, nulls_last=True, maintain_order=True)
        if table.height > MOST_DOTS:
            blocks.append(Text(f"The figure shows the {MOST_DOTS:,} pairs that differ most, of {table.height:,}."))
        first = worst_first.row(0, named=True)
        digits = 1 if shown.public else 2
        words = (
            f"{table.height:,} pairs. The largest difference: {first['first']} with {first['second']}, "
            f"original {decimal(first['original'], digits)}, copies {decimal(first['synthetic'], digits)}."
        )
        top = worst_first.head(MOST_DOTS)
        svg = draw_scatter(
            "Correlations in the copies against those in the original",
            words,
            *(
                top[name].cast(pl.Float64).fill_null(math.nan).to_numpy().round(digits)
                for name in ("original", "synthetic")
            ),
        )
        blocks.append(
            Figures(((("Correlations", ": each dot is a pair; on the line, the copies are as the original"), svg),))
        )
        rows = tuple(
            (f"{r['first']}, {r['second']}", *(decimal(r[c], digits) for c in ("original", "synthetic", "difference")))
            for r in worst_first.head(MOST_PAIRS).to_dicts()
        )
        blocks += _cut(table, MOST_PAIRS, "pairs")
        blocks.append(
            Table(
                "Correlations, largest differences first",
                ("Pair", "Original", "Copies", "Difference"),
                rows,
                (False, True, True, True),
            )
        )
    blocks += _quantiles(utility, shown)
    return Section("correlations", "Correlations and quantiles", tuple(blocks)) if blocks else None


def _quantiles(utility: Any, shown: Shown) -> list[Any]:
    table = utility.quantiles
    if table is None or not table.height:
        return []
    columns = list(dict.fromkeys(table["column"].to_list()))
    table = table.filter(pl.col("column").is_in(columns[:MOST_MARGINS]))
    digits = 3 if shown.public else 6
    levels = sorted(table["quantile"].unique().to_list())
    found = {(r["column"], r["quantile"]): r for r in table.to_dicts()}
    rows = tuple(
        (name, label, *(_figures_of(found.get((name, q)), side, digits) for q in levels))
        for name in columns[:MOST_MARGINS]
        for label, side in (("original", "original"), ("copies", "synthetic"))
    )
    head = ("Column", "Rows", *(f"{plain(100 * q)} %" for q in levels))
    table_of = Table(
        "Quantiles" + ", in two or three digits" * shown.public, head, rows, (False, False, *[True] * len(levels))
    )
    return [*_cut(columns, MOST_MARGINS, "columns of quantiles", "first"), table_of]


def _figures_of(row: Mapping[str, Any] | None, side: str, digits: int) -> str:
    return NONE if row is None else figures(row[side], digits)


def _missing_section(utility: Any, shown: Shown) -> Section | None:
    table = utility.missing
    if table is None or not table.height:
        return None
    found = table.sort(pl.col("z").abs(), descending=True, nulls_last=True, maintain_order=True)
    rows = tuple((pattern(r), *_missing_cells(r, shown)) for r in found.head(MOST_MARGINS).to_dicts())
    note = [Text("Left out is what is missing, or not missing, in fewer than 10 rows.")] if shown.public else []
    head = ("Missing", "Original, % of rows", "Copies, % of rows", "Copies lack it" if shown.public else "z")
    if not rows:
        return Section("missing", "Missing values", (Text("None that may be shown."),)) if shown.public else None
    caption = "Columns and patterns of missing values, largest z first"
    table_of = Table(caption, head, rows, (False, True, True, not shown.public))
    return Section("missing", "Missing values", (*note, *_cut(found, MOST_MARGINS, "patterns"), table_of))


def _missing_cells(row: Mapping[str, Any], shown: Shown) -> tuple[str, ...]:
    if not shown.public:
        z = NONE if missing(row["z"]) else signed(row["z"])
        return shown.percent(100 * row["original"]), shown.percent(100 * row["synthetic"]), z
    shares = (round(100 * row[side]) for side in ("original", "synthetic"))
    words = ("under 1" if x == 0 else "over 99" if x == 100 else str(x) for x in shares)
    return *words, apart(row["z"])


def _hidden_model(formula: str) -> Section:
    words = f"{formula}: too few rows behind a coefficient, or behind a class of the outcome, for it to be shown."
    return Section("model", "A model fitted to both", (Text(words),))


def _model_section(formula: str, pooled: Pooled | None, comparison: Comparison | None) -> Section | None:
    if pooled is None or comparison is None:
        return None
    table = comparison.table.join(pooled.table.select("term", "std_error"), on="term", maintain_order="left")
    rows = tuple(
        (
            r["term"],
            number(r["original"]),
            number(r["synthetic"]),
            number(r["std_error"]),
            f"{number(r['synthetic_low'])} to {number(r['synthetic_high'])}",
            signed(r["std_difference"]),
            decimal(r["overlap"]),
        )
        for r in table.head(MOST_ROWS).to_dicts()
    )
    if not comparison.table.height:
        return None
    overlap = float(comparison.table["overlap"].to_numpy().mean())
    words = f"{formula}, pooled by {pooled.rule} ({pooled.reason}). Mean overlap of the intervals {overlap:.2f}."
    blocks: list[Any] = [Text(words)]
    fit = comparison.lack_of_fit
    if fit is not None:
        blocks.append(
            Text(
                f"Lack of fit: F({fit.df1:g}, {fit.df2:g}) = {fit.statistic:.2f}, p = {fit.p_value:.2g}: whether all "
                "differences together are more than synthesis explains."
            )
        )
    blocks += [Text(f"Note: {note}") for note in pooled.notes]
    svg = draw_intervals(comparison, "Coefficients of the original and of the copies", f"Mean overlap {overlap:.2f}.")
    blocks.append(Figures(((("Estimates and 95 % intervals", ": the original grey, the copies blue"), svg),)))
    head = (
        "Term",
        "Original",
        "Copies",
        "Standard error",
        "95 % interval",
        "Difference, in standard errors",
        "Overlap",
    )
    blocks.append(Table("Coefficients", head, rows, (False, *[True] * 6)))
    return Section("model", "A model fitted to both", tuple(blocks))


def _disclosure_section(disclosure: Any, identical: Any, attacks: Mapping[str, pl.DataFrame], shown: Shown) -> Section:
    measured = (*_identical_tables(identical, shown), *_attacks_table(attacks, shown))
    if disclosure is None:
        words = "Identity and attribute disclosure were not measured: no keys were named."
        return Section("disclosure", "Disclosure", (Text(words), *measured))
    keys = ", ".join(disclosure.key_columns)
    blocks: list[Any] = [Text(f"Keys, which an intruder may know: {keys}. All values are means over the copies.")]
    rows = (
        ("Unique in the original (UiO), % of real rows", shown.percent(disclosure["UiO"])),
        ("Unique in the copies (UiS), % of synthetic rows", shown.percent(disclosure["UiS"])),
        ("Unique in the original and found in the copies (UiOiS), % of real rows", shown.percent(disclosure["UiOiS"])),
        ("Unique in both (repU), % of real rows", shown.percent(disclosure["repU"])),
    )
    blocks.append(Table("Identity: who can be found by the keys", ("Measure", "Value"), rows, (False, True)))
    if not shown.public and 1 < disclosure.identity.height <= MOST_ROWS:
        by_copy = tuple(
            (str(r["copy"]), *(f"{r[c]:.2f}" for c in ("UiO", "UiS", "UiOiS", "repU")))
            for r in disclosure.identity.to_dicts()
        )
        blocks.append(Table("Identity, copy by copy, %", ("Copy", "UiO", "UiS", "UiOiS", "repU"), by_copy, (True,) * 5))
    blocks.append(_attribute_table(disclosure, shown))
    # Matching counts single rows.
    if disclosure.matching is not None and not shown.public:
        means = tuple((name, number(value)) for name, value in _means(disclosure.matching))
        blocks.append(Table("Matches of records (partial synthesis), %", ("Measure", "Value"), means, (False, True)))
    return Section("disclosure", "Disclosure", (*blocks, *measured))


def _attribute_table(disclosure: Any, shown: Shown) -> Table:
    rows = []
    for r in disclosure.attribute.head(MOST_MARGINS).to_dicts():
        shares: tuple[str, ...] = tuple(shown.percent(r[c]) for c in ("DiSCO", "baseCAPd", "Dorig", "DiSDiO", "iS"))
        checks = "; ".join(str(r[c]) for c in ("check_1way", "check_2way") if r[c] not in (None, "", []))
        rows.append((r["target"], *shares) if shown.public else (r["target"], *shares, number(r["max_denom"]), checks))
    head: tuple[str, ...] = (
        "Target",
        "DiSCO",
        "Guess from the margin (baseCAPd)",
        "Original's own table (Dorig)",
        "DiSDiO",
        "Keys found (iS)",
    )
    head = head if shown.public else (*head, "Largest group", "Check")
    numbers = (False, *[True] * 6, False)[: len(head)]
    return Table("Attributes: what the keys give away, % of real rows, worst first", head, tuple(rows), numbers)


def _identical_tables(same: Any, shown: Shown) -> list[Any]:
    if same is None:
        return []
    rows = [
        ("Copies", same.share, same.unique_share),
        ("New sample (expected)", same.fresh, same.fresh_unique),
    ]
    if not shown.public:
        # Of a hold-out of few rows a share is a count.
        rows.append(("Hold-out", same.holdout, same.holdout_unique))
    cells = tuple((what, *(shown.percent(100 * x) for x in shares)) for what, *shares in rows if shares[0] is not None)
    head = ("Rows", "Equal to a real row, %", "Equal to a unique real row, %")
    return [Table("Exact copies", head, cells, (False, True, True))]


def _means(table: pl.DataFrame) -> list[tuple[str, Any]]:
    return [(name, table[name].mean()) for name in table.columns if name != "copy" and table[name].dtype.is_numeric()]


def _attacks_table(attacks: Mapping[str, pl.DataFrame], shown: Shown) -> list[Any]:
    """Attacks on these copies and on others, side by side."""
    if not attacks:
        return []
    found: dict[tuple[str, str], dict[str, str]] = {}
    baselines: dict[tuple[str, str], str] = {}
    for name, table in attacks.items():
        for row in table.to_dicts():
            what = (str(row["attack"]), str(row["statistic"]))
            value, low, high, baseline = (
                NONE if missing(row[part]) else shown.attack(row[part], 3, row)
                for part in ("value", "low", "high", "baseline")
            )
            interval = "" if missing(row["value"]) or missing(row["low"]) else f" ({low} to {high})"
            found.setdefault(what, {})[name] = value + interval
            if not missing(row["baseline"]):
                baselines.setdefault(what, baseline)
    rows = tuple(
        (f"{what[0].capitalize()}: {what[1]}", *(of.get(name, NONE) for name in attacks), baselines.get(what, NONE))
        for what, of in found.items()
    )
    head = ("Attack", *attacks, "Baseline")
    notes = dict.fromkeys(
        note for table in attacks.values() if "note" in table.columns for note in table["note"] if note
    )
    table_of = Table("Attacks, with 95 % intervals", head, rows, (False, *[True] * (len(attacks) + 1)))
    # Notes count rows.
    return [table_of, *(Text(note) for note in notes if not (shown.public and re.search(r"\d", note)))]


def _records_section(records: pl.DataFrame | None) -> Section | None:
    if records is None or not records.height:
        return None
    measures = [c for c in records.columns if records[c].dtype == pl.Boolean]
    rows = []
    for r in records.head(MOST_RECORDS).to_dicts():
        marks = tuple("yes" if r[c] else "" for c in measures)
        rows.append((f"{r['row']:,}", f"{r['n_measures']}", *marks, ", ".join(r["disclosed"] or [])))
    head = ("Row of the original", "Measures", *measures, "Disclosed targets")
    table = Table(
        "Real records that most measures touch", head, tuple(rows), (True, True, *[False] * (len(measures) + 1))
    )
    words = (
        f"{records.height:,} real records are touched by some measure. Rows are counted from 0. For internal eyes only."
    )
    return Section(
        "records", "The riskiest records", (Text(words), *_cut(records, MOST_RECORDS, "records", "first"), table)
    )
