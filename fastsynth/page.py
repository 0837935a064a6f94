"""What stands on the page of a report: plain records of text, what an audience may see, and the verdicts in words.

Every limit that a verdict goes by is one of the constants below, and stands on the page, too.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import polars as pl

from fastsynth.copies import Synthesis
from fastsynth.errors import OptionError
from fastsynth.measures import Floats
from fastsynth.pictures import HEAT, HEAT_LABELS, MOST_LEVELS, plain
from fastsynth.pooling import V_NOTED, Comparison

NONE = "\N{EN DASH}"
Grade = Literal["good", "look", "poor", "none"]

# A public report shows nothing of fewer real rows, and no class of the outer per cent of a number.
SMALLEST_CELL, TAIL = 10, 0.01
# S_pMSE below which copies are good, and acceptable (Raab, Nowok and Dibben 2021).
GOOD, ACCEPTABLE = 3.0, 10.0
# repU in per cent: below, a line is good; from the second on it is poor.
REPLICATED = (1.0, 5.0)
# DiSCO in per cent that is too little to speak of, whatever the baseline.
FEW_DISCLOSED = 5.0
# AUC of an attack on membership, by the lower end of its interval.
AUC = (0.55, 0.65)
# Of shadow models, an attacker who knows all rows, on runs of few rows, which tell much more about each than many.
SHADOW_AUC = (0.6, 0.9)
# Copies of unique rows: so many times those of a fresh sample, and so many more, is no more than chance; then poor.
COPIED, COPIED_MORE, COPIED_POOR = 1.5, 0.001, 0.05
# p value of the lack of fit of a model, z of missing values, difference of a correlation: what is worth a look.
UNFIT, FAR, APART = 0.01, 3.0, 0.1


@dataclass(frozen=True, slots=True)
class Table:
    """A table of texts. The first cell of a row is its head; ``numbers`` says which columns stand to the right."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[bool, ...]
    kind: str = "table"


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures with captions (a name, and what follows it), side by side where the page is wide enough."""

    svg: tuple[tuple[tuple[str, str], str], ...]
    kind: str = "figures"


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph, or the heading of what follows."""

    words: str
    kind: str = "prose"


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page."""

    anchor: str
    title: str
    blocks: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """One finding of a verdict."""

    grade: Grade
    words: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer in words, and what it rests on."""

    question: str
    answer: str
    grade: Grade
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """What an audience may see.

    Attributes
    ----------
    public : bool
    least : float
        Share of the original's rows, or of those that are known, below which nothing is shown; 0 for internal reports.
    """

    public: bool
    least: float

    @property
    def step(self) -> float:
        """What shares are rounded to: the least in one digit, upwards, for the exact one tells the largest weight."""
        return min(1.0, coarse(self.least))

    def of_known(self, known: float) -> Shown:
        """The same for shares of the rows in which a column is not missing, which are ``known`` of all."""
        return replace(self, least=min(1.0, self.least / known) if known > 0 else 1.0) if self.public else self

    def enough(self, shares: Any) -> Any:
        """Whether shares of the original's rows are those of ten rows or more."""
        return np.asarray(shares, np.float64) >= self.least * (1 - 1e-9)

    def round(self, shares: Any) -> Floats:
        """Shares in steps of ten rows or a little more."""
        found: Floats = np.asarray(shares, np.float64)
        return np.minimum(np.rint(found / self.step) * self.step, 1.0) if self.public else found

    def percent(self, percent: Any) -> str:
        """A share of the original's rows, given in per cent."""
        if missing(percent):
            return NONE
        if not self.public:
            return f"{percent:.2f}"
        if percent / 100 < self.step:
            return f"under {100 * self.step:g}"
        if percent / 100 > 1 - self.step:
            return f"over {100 * (1 - self.step):g}"
        return f"{100 * float(self.round(percent / 100)):.1f}"

    def fit(self, value: Any, digits: int = 2) -> str:
        """S_pMSE of a table; in public, where it is the lower end of a class, the class."""
        if not self.public:
            return decimal(value, digits)
        return "too few rows" if missing(value) else HEAT_LABELS[int(np.searchsorted(HEAT, value, side="right"))]

    def mean(self, value: Any) -> str:
        """A mean of S_pMSE; in public it has few digits already."""
        return decimal(value) if not self.public else NONE if missing(value) else plain(value)

    def attack(self, value: Any, digits: int, row: Mapping[str, Any]) -> str:
        """A figure of an attack; in public with so few digits that it does not count the targets."""
        if self.public:
            digits = 1 if (row.get("n_targets") or 100) < 100 else 2
        return f"{value:.{digits}f}"


def coarse(x: float) -> float:
    """A number in one digit, upwards."""
    if not x > 0:
        return 0.0
    unit = 10.0 ** math.floor(math.log10(x))
    return float(f"{math.ceil(x / unit - 1e-9) * unit:.1g}")


def merge_levels(labels: list[str], original: Floats, copies: Floats, shown: Shown) -> tuple[list[str], Floats, Floats]:
    """Put rare levels together: those that a public report may not show, and those beyond the first twelve.

    What is put together has ten rows at least, too, or else it could be told from the rest.
    """
    order = sorted(range(len(labels)), key=lambda i: (-original[i], i))
    allowed = [i for i in order if original[i] >= shown.least] if shown.public else order
    few = len(order) > MOST_LEVELS
    kept = allowed[: MOST_LEVELS - 1] if few else allowed
    rest = [i for i in order if i not in kept]
    while shown.public and rest and kept and original[rest].sum() < shown.least:
        rest.append(kept.pop())
    kept = kept if few else sorted(kept)
    if not rest:
        return [labels[i] for i in kept], original[kept], copies[:, kept]
    other = f"other ({len(rest)})" if not shown.public else "other"
    return (
        [*(labels[i] for i in kept), other],
        np.append(original[kept], original[rest].sum()),
        np.column_stack([copies[:, kept], copies[:, rest].sum(axis=1)]),
    )


def merge_numbers(
    limits: Floats, original: Floats, copies: Floats, shown: Shown
) -> tuple[Floats, Floats, Floats, list[int]] | None:
    """Put classes together until each has ten rows, and the outer ones 1 % each; their outer limits are hidden.

    ``limits`` are those between the classes. None for fewer than four classes. The last result says with which class
    each begins.
    """
    tail = max(shown.least, TAIL * float(original.sum()))
    groups: list[list[int]] = []
    for i in range(len(original)):
        # A class is full once it has enough; the first one needs more.
        need = tail if len(groups) == 1 else shown.least
        if groups and original[groups[-1]].sum() < need:
            groups[-1].append(i)
        else:
            groups.append([i])
    while len(groups) > 1 and original[groups[-1]].sum() < tail:
        last = groups.pop()
        groups[-1] += last
    if len(groups) < 4:
        return None
    starts = [of[0] for of in groups]
    inner = np.asarray(limits, np.float64)[np.array(starts[1:]) - 1]
    width = float(np.median(np.diff(inner)))
    borders = np.concatenate([[inner[0] - width], inner, [inner[-1] + width]])
    merged = shown.round(np.add.reduceat(original, starts)), shown.round(np.add.reduceat(copies, starts, axis=1))
    return (borders, *merged, starts)


def round_classes(
    edges: Floats, labels: Sequence[str], original: Floats, copies: Floats
) -> tuple[Floats, list[str], Floats, Floats] | None:
    """Classes of a number between round limits, and these limits as numbers and as text.

    Classes of equal width begin at the least value, or at a quantile: their limits would tell it. Shares between round
    limits are found as if rows were spread evenly in a class. Where each value is a class, limits are only rounded.
    Dates become months or years. None for times of day, and where there is nothing between.
    """
    if len(original) < 2:
        return None
    if ":" in labels[0][:5] or _date(labels[0]) is not None:
        return _date_classes(labels, original, copies)
    if " to " not in labels[0]:
        unit = _round_number(float(np.diff(edges[1:-1]).min()) if len(edges) > 3 else 1.0, -1)
        # Halves go up, so that no two limits become one.
        limits = np.floor(edges[1:-1] / unit + 0.5) * unit
        return limits, [plain(float(x)) for x in limits], original, copies
    unit = _round_number(float(edges[-1] - edges[0]) / len(original), 1)
    limits = np.arange(math.floor(edges[0] / unit) + 1, math.ceil(edges[-1] / unit)) * unit
    return limits, [plain(float(x)) for x in limits], *_between(limits, edges, original, copies)


def _between(limits: Floats, edges: Floats, original: Floats, copies: Floats) -> tuple[Floats, Floats]:
    """Shares between other limits."""

    def shares(of: Floats) -> Floats:
        until = np.interp(limits, edges, np.append(0.0, of.cumsum()))
        return np.diff(np.concatenate([[0.0], until, [of.sum()]]))

    return shares(original), np.array([shares(of) for of in copies])


def _date_classes(
    labels: Sequence[str], original: Floats, copies: Floats
) -> tuple[Floats, list[str], Floats, Floats] | None:
    starts = [_date(label) for label in labels]
    end = _date(labels[-1].partition(" to ")[2]) or starts[-1]
    known = [day for day in starts if day is not None]
    if len(known) < len(labels) or end is None:
        return None
    edges = np.array([day.toordinal() for day in (*known, end)], np.float64)
    width = (edges[-1] - edges[0]) / len(labels)
    months = next((step for step in (1, 3, 6, 12, 24, 60, 120, 240, 600, 1200) if 30.4 * step >= width), 2400)
    found = []
    for month in range(12 * known[0].year // months * months, 12 * end.year + 12, months):
        if datetime.MINYEAR <= month // 12 <= datetime.MAXYEAR:
            first = datetime.date(month // 12, month % 12 + 1, 1)
            if edges[0] < first.toordinal() < edges[-1]:
                found.append(first)
    if not found:
        return None
    limits = np.array([day.toordinal() for day in found], np.float64)
    names = [f"{day.year}" if months >= 12 else f"{day.year}-{day.month:02}" for day in found]
    return limits, names, *_between(limits, edges, original, copies)


def _date(label: str) -> datetime.date | None:
    """The day with which a class of dates or times begins."""
    try:
        # Whole numbers may look like dates without signs between.
        return datetime.date.fromisoformat(label[:10]) if label[4:5] == "-" else None
    except ValueError:
        return None


def _round_number(x: float, side: int) -> float:
    """The next of 1, 2, 5, 10, ...: the largest not above a number, or the least not below it (``side`` 1)."""
    size = 10.0 ** math.floor(math.log10(x))
    steps = [size * f for f in (1, 2, 5, 10)]
    if side > 0:
        return next((step for step in steps if step >= x * (1 - 1e-9)), steps[-1])
    return next((step for step in steps[::-1] if step <= x * (1 + 1e-9)), steps[0])


def worst(lines: Iterable[Line]) -> Grade:
    """The gravest grade of some lines; "none" if nothing was measured."""
    grades = {line.grade for line in lines}
    return next((grade for grade in ("poor", "look", "good") if grade in grades), "none")


def usable(utility: Any, comparison: Comparison | None, shown: Shown) -> Verdict:
    """Answer whether the copies can be used."""
    lines = []
    if not missing(utility["S_pMSE"]):
        mean, most = utility["S_pMSE"], utility["S_pMSE_max"]
        grade: Grade = "good" if mean < GOOD else "look" if mean < ACCEPTABLE else "poor"
        fresh = plain(round(utility.references["fresh"], 2))
        lines.append(
            Line(
                grade,
                f"Pairs of columns: mean S_pMSE {plain(round(mean, 2))}; a correct model has 1, a new sample {fresh}.",
            )
        )
        if not missing(most):
            size = shown.fit(most) if shown.public else plain(round(most, 1))
            which = "The worst pair that may be shown" if shown.public else "The worst pair"
            lines.append(Line("good" if most < ACCEPTABLE else "look", f"{which}: S_pMSE {size}."))
    if comparison is not None:
        overlap = float(comparison.table["overlap"].to_numpy().mean())
        fit = comparison.lack_of_fit
        words = f"The model: its 95 % intervals overlap with those of the original by {100 * overlap:.0f} % on average"
        if fit is None:
            lines.append(Line("none", f"{words}."))
        else:
            more = fit.p_value < UNFIT
            words += f"; its coefficients differ {'more than' if more else 'no more than'} synthesis explains"
            lines.append(Line("look" if more else "good", f"{words} (p = {fit.p_value:.2g})."))
    grade = worst(lines)
    answers = {"good": "Good", "look": "Acceptable", "poor": "Poor", "none": "Not measured"}
    return Verdict("Are they usable?", answers[grade], grade, tuple(lines))


def safe(disclosure: Any, identical: Any, attacks: Mapping[str, pl.DataFrame], shown: Shown) -> Verdict:
    """Answer whether the copies give people away, as far as that was measured."""
    lines = [] if identical is None else [_copies_line(identical, shown)]
    lines += [] if disclosure is None else _disclosure_lines(disclosure, shown)
    membership = _attack_lines(attacks, shown)
    lines += membership or [Line("none", "Membership: not measured. Attacks need a hold-out or shadow models.")]
    if disclosure is None:
        lines.append(Line("none", "Identity and attributes: not measured, because no keys were named."))
    grade = worst(lines)
    answers = {
        "good": "No sign of trouble in what was measured",
        "look": "Look before release",
        "poor": "Not for release as they are",
        "none": "Not measured",
    }
    return Verdict("Are they safe?", answers[grade], grade, tuple(lines))


def _copies_line(same: Any, shown: Shown) -> Line:
    limit = COPIED * same.fresh_unique + COPIED_MORE
    more = same.unique_share - limit
    grade: Grade = "poor" if more > COPIED_POOR else "look" if more > 0 else "good"
    words = (
        f"Exact copies: {shown.percent(100 * same.unique_share)} % of synthetic rows equal a unique real row; of a new "
        f"sample {shown.percent(100 * same.fresh_unique)} %."
    )
    return Line(grade, words)


def _disclosure_lines(disclosure: Any, shown: Shown) -> list[Line]:
    lines = []
    replicated = disclosure["repU"]
    grade: Grade = "good" if replicated < REPLICATED[0] else "look" if replicated < REPLICATED[1] else "poor"
    lines.append(
        Line(
            grade,
            f"Identity: repU {shown.percent(replicated)} % of real rows are unique by the keys and so is a copy; "
            f"{shown.percent(disclosure['UiO'])} % are unique in the original.",
        )
    )
    first = disclosure.attribute.row(0, named=True) if disclosure.attribute.height else None
    if first is not None:
        found, guess = first["DiSCO"], first["baseCAPd"]
        lines.append(
            Line(
                "good" if found <= max(guess, FEW_DISCLOSED) else "look",
                f"Attributes: the keys disclose {first['target']} rightly for {shown.percent(found)} % of real rows "
                f"(DiSCO); a guess from its margin is right for {shown.percent(guess)} %, and the original's "
                f"own table would disclose {shown.percent(first['Dorig'])} %.",
            )
        )
    return lines


def _attack_lines(attacks: Mapping[str, pl.DataFrame], shown: Shown) -> list[Line]:
    own = attacks.get("these copies")
    lines: list[Line] = []
    for row in () if own is None else own.iter_rows(named=True):
        value, low, baseline = row["value"], row["low"], row["baseline"]
        if missing(value):
            continue
        if row["statistic"] == "AUC":
            certain = value if missing(low) else low
            good, look = SHADOW_AUC if row["attack"].startswith("shadow") else AUC
            grade: Grade = "good" if certain < good else "look" if certain < look else "poor"
            size = f"AUC {shown.attack(value, 2, row)}{_interval(row, shown)}"
            words = f"{row['attack'].capitalize()}: {size}; a guess has 0.50."
        elif row["statistic"] == "risk" and not missing(baseline):
            grade = "good" if (value if missing(low) else low) <= baseline else "look"
            size, usual = (shown.attack(x, 3, row) for x in (value, baseline))
            words = f"{row['attack'].capitalize()}: risk {size}{_interval(row, shown)}; without a leak {usual}."
        else:
            continue
        lines.append(Line(grade, words))
    return lines


def _interval(row: Mapping[str, Any], shown: Shown) -> str:
    if missing(row["low"]):
        return ""
    return f" ({shown.attack(row['low'], 2, row)} to {shown.attack(row['high'], 2, row)})"


def look_at(utility: Any, disclosure: Any, synthesis: Synthesis | None, shown: Shown) -> Verdict:
    """What deserves a closer look, gravest first."""
    words = []

    def size(value: float) -> str:
        return shown.fit(value) if shown.public else plain(round(value, 1))

    for row in _worst(utility.twoway, "S_pMSE", GOOD, 5):
        words.append(f"{row['first']} with {row['second']}: S_pMSE {size(row['S_pMSE'])}.")
    for row in _worst(utility.oneway, "S_pMSE", GOOD, 3):
        words.append(f"The margin of {row['column']}: S_pMSE {size(row['S_pMSE'])}.")
    for row in _worst(utility.missing, "z", FAR, 3):
        z = f"z {plain(round(row['z'], 1))}" if not shown.public else apart(row["z"])
        words.append(f"Missing values of {pattern(row)}: {z}.")
    for row in _worst(utility.correlations, "difference", APART, 3):
        change = (
            f"{row['difference']:+.1f}".replace("-", "\N{MINUS SIGN}") if shown.public else signed(row["difference"])
        )
        words.append(f"The correlation of {row['first']} and {row['second']}: {change}.")
    if synthesis is not None and synthesis.v is not None and synthesis.v >= V_NOTED:
        words.append(f"Slopes vary by v = {synthesis.v:.2f} beyond what pooling counts: intervals are too short.")
    if synthesis is not None and synthesis.climbed:
        total = sum(synthesis.climbed.values())
        if total > 0.01 * synthesis.m * synthesis.k:
            words.append(f"{total:,} draws had to leave their leaf to meet limits and rules.")
    records = None if shown.public else records_of(disclosure)
    if records is not None and records.height:
        several = int((records["n_measures"] >= 2).sum())
        words += [f"Real records that two or more measures touch: {several:,}."] if several else []
    if utility.left_out:
        names = ", ".join(sorted(utility.left_out)[:8]) + (", ..." if len(utility.left_out) > 8 else "")
        words.append(f"Not compared: {names}.")
    answer = f"{len(words)} point{'s' * (len(words) > 1)}" if words else "Nothing stands out"
    return Verdict("What to look at?", answer, "look" if words else "good", tuple(Line("none", w) for w in words))


def _worst(table: pl.DataFrame | None, column: str, limit: float, most: int) -> list[dict[str, Any]]:
    """Rows with the largest absolute values, of those from a limit on."""
    if table is None or not table.height:
        return []
    size = pl.col(column).cast(pl.Float64).abs()
    found = table.filter(size.is_not_nan() & (size >= limit)).sort(size, descending=True, maintain_order=True)
    return found.head(most).to_dicts()


def records_of(disclosure: Any) -> pl.DataFrame | None:
    """Real records that something touches; None where nothing was measured, or ``public()`` left them out."""
    try:
        return None if disclosure is None else disclosure.records
    except OptionError:
        return None


def apart(z: float) -> str:
    """How far shares of missing values are apart, in words."""
    return "about as often" if abs(z) < FAR else "too often" if z > 0 else "too seldom"


def pattern(row: Mapping[str, Any]) -> str:
    """What is missing, of a row of ``Utility.missing``."""
    return row["columns"] if row["kind"] == "column" else f"{row['columns']}, and no other"


def missing(x: Any) -> bool:
    """Whether there is no number."""
    return x is None or (isinstance(x, float) and math.isnan(x))


def number(x: Any) -> str:
    """A number of any size in a table: two decimals, fewer of large ones, three figures of small ones."""
    if missing(x):
        return NONE
    if x == 0 or not math.isfinite(x):
        return "0" if x == 0 else str(x)
    digits = 0 if abs(x) >= 1000 or float(x).is_integer() else 1 if abs(x) >= 100 else 2
    text = f"{x:,.{digits}f}" if abs(x) >= 0.1 else f"{x:.2g}"
    return text.replace("-", "\N{MINUS SIGN}")


def figures(x: Any, digits: int) -> str:
    """A number in so many figures; a date as it is."""
    if not isinstance(x, int | float):
        return NONE if x is None else str(x)
    return NONE if missing(x) else plain(float(f"{x:.{digits}g}"))


def decimal(x: Any, digits: int = 2) -> str:
    """A number with so many decimals."""
    return NONE if missing(x) else f"{round(x, digits) + 0.0:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def signed(x: float) -> str:
    """A number with its sign."""
    return f"{x:+.2f}".replace("-", "\N{MINUS SIGN}")


def count(x: Any) -> str:
    """A whole number."""
    return NONE if x is None else f"{x:,}"


def limits() -> list[tuple[str, str]]:
    """What the verdicts go by, in words that stand on the page."""
    return [
        (
            "Usable",
            f"Mean S_pMSE of pairs below {GOOD:g} is good, below {ACCEPTABLE:g} acceptable (Raab, Nowok and Dibben "
            f"2021). A pair from {ACCEPTABLE:g} on deserves a look, and so does a model whose lack of fit has p below "
            f"{UNFIT:g}.",
        ),
        (
            "Safe",
            f"repU below {REPLICATED[0]:g} % is good, from {REPLICATED[1]:g} % on poor. DiSCO is good up to "
            f"{FEW_DISCLOSED:g} %, or up to what a guess from the margin gets right. Copies of unique rows are good "
            f"up to {COPIED:g} times those of a new sample and {100 * COPIED_MORE:g} % more, poor beyond another "
            f"{100 * COPIED_POOR:g} %. The lower end of the AUC of a membership attack is good below {AUC[0]:g}, poor "
            f"from {AUC[1]:g} on (of shadow models, which know all rows: {SHADOW_AUC[0]:g} and {SHADOW_AUC[1]:g}); "
            f"another attack is good where its lower end does not exceed its baseline. These "
            "are rules of thumb of this program.",
        ),
        (
            "Look at",
            f"Pairs and columns with S_pMSE from {GOOD:g} on, missing values with z beyond {FAR:g}, correlations that "
            f"differ by {APART:g}, v from {V_NOTED:g} on.",
        ),
    ]
