"""Pictures: of columns and coefficients by matplotlib, and small SVG figures for the HTML report.

The SVG figures are text with shapes: sizes in the units of their viewBox, so that they scale with the page, and classes
instead of colours, so that the page decides on light and dark. ``<title>`` and ``<desc>`` say to a screen reader what
they show. The same numbers give the same bytes.
"""

from __future__ import annotations

import html
import itertools
import math
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from fastsynth.compared import open_compared
from fastsynth.errors import FastsynthError, OptionError
from fastsynth.imputation import Imputation
from fastsynth.joint import Chains
from fastsynth.measures import Floats
from fastsynth.pooling import Comparison
from fastsynth.tables import MISSING, floats_of

# Categories shown before the rest is summed up.
MOST_LEVELS = 12
# Panels side by side.
PANELS = 3
GREY, BLUE = "#b8bcc4", "#1f5fbf"
# Of chains, of which there are five by default.
CHAINS = (BLUE, "#c26a2d", "#4d8f5c", "#8a8f99", "#8b5fa8")
# Parameters whose traces are shown.
TRACES = 8
# From where a two-way S_pMSE is coloured darker: 3 and 10 are the limits of good and acceptable (Raab et al. 2021).
HEAT = (3.0, 10.0, 30.0)
HEAT_LABELS = ("below 3", "3 to 10", "10 to 30", "30 and more")
# From where a cell's z is coloured darker.
SIZES = (2.0, 4.0)
# Width of a figure of one column of the page, and of a letter, in units.
WIDTH, LETTER = 340.0, 6.7


def plot_compare(
    original: Any,
    synthetic: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    columns: Sequence[str] | None = None,
    threads: int | None = None,
    client: Any = None,
    memory_limit: int | str | None = None,
) -> Any:
    """Draw the original and the synthetic margin of every column with matplotlib.

    Parameters
    ----------
    original
        Any table or path that ``synthesize`` reads.
    synthetic : Synthesis, table, path, or list of tables or paths
        Numeric columns: share of rows by class, the original filled, a line for each copy. Other columns: share of
        rows by category, a bar for the original, a mark for each copy.
    path : path, optional
        File to write: PNG, or what else its suffix says (PDF, SVG).
    columns : list of str, optional
        The default is all that the copies have.
    threads, client, memory_limit
        As in ``synthesize``.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    FastsynthError
        matplotlib is not installed.
    DataError, OptionError
        As ``utility``.

    Notes
    -----
    Columns are read one after another, so that memory is needed for one column of all tables. Cost O((n + m k) p).
    Axes show the least and the greatest value: such pictures are for those who may see the original.

    Examples
    --------
    >>> import fastsynth as fs
    >>> boys = fs.load_boys()
    >>> figure = fs.plot_compare(boys, fs.synthesize(boys, m=2, random_state=1), columns=["hgt", "reg"])
    >>> [axes.get_title(loc="left") for axes in figure.axes]
    ['hgt', 'reg']
    """
    compared = open_compared(
        original, synthetic, columns=columns, threads=threads, client=client, memory_limit=memory_limit
    )
    names = compared.names
    rows, panels = math.ceil(len(names) / PANELS), min(len(names), PANELS)
    figure = _figure(4.2 * panels, 0.4 + 2.7 * rows)
    for i, name in enumerate(names):
        axes = figure.add_subplot(rows, panels, i + 1)
        real, *copies = (compared.frame(side, [name])[name] for side in range(compared.m + 1))
        if real.dtype.is_numeric() or real.dtype.is_temporal():
            _draw_numbers(axes, real, copies)
        else:
            _draw_levels(axes, real, copies)
        axes.set_title(name, loc="left", fontsize=10, fontweight="bold")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    handles = [
        figure.axes[0].fill_between([], [], color=GREY, label=f"original (n = {compared.n:,})"),
        *figure.axes[0].plot([], [], color=BLUE, label=f"synthetic ({compared.m} copies of {compared.k:,})"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False)
    if path is not None:
        _save(figure, path)
    return figure


def plot_coefficients(comparison: Comparison, path: str | os.PathLike[str]) -> None:
    """Draw pooled coefficients and their 95 % intervals beside those of the original into one PNG.

    Parameters
    ----------
    comparison : Comparison
        What ``Pooled.compare`` gave for a fit of the original.
    path : path
        File to write.

    Raises
    ------
    FastsynthError
        matplotlib is not installed.

    Notes
    -----
    In half widths of the original interval around its estimates, so that coefficients of all sizes can be seen: the
    original intervals (grey) are of one length, and a pooled estimate at the dotted line equals the original one.
    """
    intervals = _intervals(comparison, "plot_coefficients")
    terms = comparison.table["term"].to_list()
    figure = _figure(6.4, 1.2 + 0.32 * len(terms))
    axes = figure.add_subplot()
    place = np.arange(len(terms))[::-1]
    for name, shift, color in (("original", 0.13, "#8a8f99"), ("synthetic", -0.13, BLUE)):
        middle, left, right = intervals[name]
        axes.hlines(place + shift, left, right, color=color, linewidth=2)
        axes.plot(middle, place + shift, "o", color=color, markersize=4, label=name)
    axes.axvline(0, color="#8a8f99", linewidth=1, linestyle=":")
    axes.set_yticks(place, terms)
    axes.set_xlabel("distance from the original estimate, in half widths of its interval")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    _save(figure, path)


def plot_chains(
    chains: Chains | Imputation, path: str | os.PathLike[str], parameters: Sequence[str] | None = None
) -> None:
    """Draw traces of chains into one PNG: of a latent normal model, or of those that fill in missing values.

    Parameters
    ----------
    chains : Chains or Imputation
        One of ``Synthesizer.chains_``, or ``Synthesizer.imputation_``.
    path : path
        File to write.
    parameters : list of str, optional
        Names of its table. The default are the eight of the largest R-hat.

    Raises
    ------
    FastsynthError
        matplotlib is not installed.
    OptionError
        No such parameters.

    Notes
    -----
    Left of the dotted line is burn-in. Chains that have mixed look alike, and like hairy caterpillars; those of
    imputation, of few sweeps, show no trend and cross each other.
    """
    if not isinstance(chains, Chains | Imputation):
        raise OptionError(
            "plot_chains: these are no chains. Pass one of chains_, or imputation_, of a Synthesizer that was fitted "
            "here; model files do not keep them."
        )
    known = chains.notes
    parameters = list(known)[:TRACES] if parameters is None else parameters
    unknown = [name for name in parameters if name not in known]
    if unknown or not len(parameters):
        raise OptionError(f"plot_chains: no parameters {unknown!r}; the chains have {', '.join(known)}.")
    figure = _figure(6.4, 0.4 + 1.3 * len(parameters))
    trace, sweeps = chains.trace, chains.sweeps
    for i, name in enumerate(parameters):
        axes = figure.add_subplot(len(parameters), 1, i + 1)
        for of_chain, color in zip(trace[name], itertools.cycle(CHAINS), strict=False):
            axes.plot(sweeps, of_chain, color=color, linewidth=0.6)
        axes.axvline(chains.burnt, color="#8a8f99", linewidth=1, linestyle=":")
        axes.set_title(f"{name}   {known[name]}", fontsize=8, loc="left")
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _intervals(comparison: Comparison, function: str) -> dict[str, tuple[Floats, Floats, Floats]]:
    """Estimates and limits of both, from the original's estimates in half widths of its intervals."""
    if not isinstance(comparison, Comparison):
        raise FastsynthError(f"{function} needs what Pooled.compare gives for a fit of the original.")
    table = comparison.table
    original, low, high = (table[name].to_numpy() for name in ("original", "original_low", "original_high"))
    unit = np.where(high > low, (high - low) / 2, 1.0)
    found = {}
    for name in ("original", "synthetic"):
        middle, left, right = ((table[c].to_numpy() - original) / unit for c in (name, f"{name}_low", f"{name}_high"))
        found[name] = (middle, left, right)
    return found


def _figure(width: float, height: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise FastsynthError("Pictures need matplotlib: pip install 'fastsynth[report]'.") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: str | os.PathLike[str]) -> None:
    # No date, no version and no random names in the file: the same copies give the same bytes.
    import matplotlib as mpl

    suffix = os.path.splitext(os.fspath(path))[1].lower()
    metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(suffix, {"Software": None})
    try:
        with mpl.rc_context({"svg.hashsalt": "fastsynth"}):
            figure.savefig(path, dpi=110, metadata=metadata if suffix in (".pdf", ".svg", ".png", "") else None)
    except ValueError:
        raise OptionError(f"path={os.fspath(path)!r}: pictures are PNG, PDF or SVG; name such a file.") from None


def _draw_numbers(axes: Any, real: pl.Series, copies: list[pl.Series]) -> None:
    numbers = [values[~np.isnan(values)] for values in map(floats_of, (real, *copies))]
    whole = np.concatenate(numbers)
    if not len(whole):
        return
    low, high = whole.min(), whole.max()
    distinct = np.unique(whole)
    step = np.diff(distinct).min() if len(distinct) > 1 else max(1.0, abs(low))
    # Classes of equal width: one for each value on a coarse grid, else thirty.
    steps = round((high - low) / step)
    edges = low + step * (np.arange(steps + 2) - 0.5) if steps <= 60 else np.linspace(low, high, 31)
    for i, values in enumerate(numbers):
        share = np.histogram(values, edges)[0] / max(len((real, *copies)[i]), 1)
        if i == 0:
            axes.stairs(share, edges, fill=True, color=GREY)
        else:
            axes.stairs(share, edges, color=BLUE, alpha=0.6, linewidth=1)


def _draw_levels(axes: Any, real: pl.Series, copies: list[pl.Series]) -> None:
    shares = [_shares(s) for s in (real, *copies)]
    levels = real.dtype.categories.to_list() if isinstance(real.dtype, pl.Enum) else []
    levels = levels or sorted(shares[0], key=lambda level: (-shares[0][level], level))
    if MISSING in shares[0] and MISSING not in levels:
        levels.append(MISSING)
    shown, rest = levels[:MOST_LEVELS], levels[MOST_LEVELS:]
    place = range(len(shown) + bool(rest))
    for i, share in enumerate(shares):
        heights = [share.get(level, 0.0) for level in shown]
        if rest:
            heights.append(1 - sum(heights))
        if i == 0:
            axes.bar(place, heights, color=GREY)
        else:
            axes.plot(place, heights, "_", color=BLUE, alpha=0.8, markersize=12)
    labels = [shorten(level, 14) for level in shown] + ["other"] * bool(rest)
    crowded = sum(map(len, labels)) > 30
    axes.set_xticks(list(place), labels, rotation=40 if crowded else 0, ha="right" if crowded else "center")


def _shares(series: pl.Series) -> dict[str, float]:
    counts = series.alias("level").cast(pl.String).fill_null(MISSING).value_counts()
    return dict(zip(counts["level"], counts["count"] / len(series), strict=True))


# Figures of the report.


@dataclass(slots=True)
class Drawing:
    """An SVG figure that is being drawn, x to the right and y down."""

    title: str
    description: str
    width: float
    height: float
    parts: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, style: str = "", anchor: str = "start") -> None:
        """Write words; ``anchor`` is start, middle or end."""
        where = "" if anchor == "start" else f' text-anchor="{anchor}"'
        look = f' class="{style}"' if style else ""
        self.parts.append(f'<text x="{_fixed(x)}" y="{_fixed(y)}"{where}{look}>{escape(words)}</text>')

    def path(self, style: str, commands: Sequence[str]) -> None:
        """Draw a path of commands such as ``M1 2``, ``h3``."""
        if commands:
            self.parts.append(f'<path class="{style}" d="{"".join(commands)}"/>')

    def boxes(self, style: str, places: Sequence[tuple[float, float, float, float]]) -> None:
        """Draw rectangles (left, top, width, height) as one path."""
        self.path(style, [f"M{_fixed(x)} {_fixed(y)}h{_fixed(w)}v{_fixed(h)}h{_fixed(-w)}z" for x, y, w, h in places])

    def dots(self, style: str, places: Sequence[tuple[float, float]]) -> None:
        """Draw points as one path; the width of its line is their size."""
        self.path(style, [f"M{_fixed(x)} {_fixed(y)}h0" for x, y in places])

    def line(self, style: str, places: Sequence[tuple[float, float]]) -> None:
        """Draw a line through points; it begins anew after a point that is not finite."""
        commands, pen = [], "M"
        for x, y in places:
            if math.isfinite(x) and math.isfinite(y):
                commands.append(f"{pen}{_fixed(x)} {_fixed(y)}")
                pen = "L"
            else:
                pen = "M"
        self.path(style, commands)

    def finish(self) -> str:
        """Give the SVG element."""
        size = f"{_fixed(self.width)} {_fixed(self.height)}"
        head = f"<title>{escape(self.title)}</title><desc>{escape(self.description)}</desc>"
        # A width of its own keeps letters at their size where a figure is wider than the page.
        limits = f"min-width:{_fixed(self.width)}px;max-width:{_fixed(1.15 * self.width)}px"
        style = f' style="{limits}"' if self.width > WIDTH else ""
        return f'<svg role="img" viewBox="0 0 {size}"{style}>{head}{"".join(self.parts)}</svg>'


def clean(words: str) -> str:
    """Text without control characters, which HTML and XML do not know."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]", "\ufffd", words)


def escape(words: str) -> str:
    """Text for HTML and SVG."""
    return html.escape(clean(words))


def shorten(words: str, length: int) -> str:
    """At most so many letters."""
    return words if len(words) <= length else f"{words[: length - 1]}…"


def _fixed(x: float) -> str:
    """A coordinate in tenths of a unit."""
    text = f"{x:.1f}"
    return text[:-2].replace("-0", "0") if text in ("-0.0",) else text.removesuffix(".0")


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers between two limits, about so many."""
    if not (math.isfinite(low) and math.isfinite(high) and high > low):
        return [low] if math.isfinite(low) else []
    rough = (high - low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * f for f in (1, 2, 2.5, 5, 10) if size * f >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def plain(x: float) -> str:
    """A number as a person writes it on an axis."""
    if x == 0:
        return "0"
    if 1e-4 <= abs(x) < 1e7:
        digits = max(0, 3 - math.floor(math.log10(abs(x))))
        text = f"{x:,.{digits}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        text = f"{x:.3g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    return text.replace("-", "\N{MINUS SIGN}")


def draw_numbers(
    name: str,
    description: str,
    edges: Floats,
    original: Floats,
    copies: Floats,
    open_ends: bool = False,
    labels: Sequence[str] = (),
) -> str:
    """Draw a numeric margin: the original filled, the mean of the copies as a line, their range as a band.

    Parameters
    ----------
    name, description : str
    edges : ndarray of shape (b + 1,), dtype=float64
        Of classes, ascending.
    original : ndarray of shape (b,), dtype=float64
        Shares, at most 1.
    copies : ndarray of shape (m, b), dtype=float64
    open_ends : bool
        Whether the outer classes have no outer limits, and the others different widths: heights are then those of a
        class of the median width.
    labels : sequence of str, length b, optional
        Of classes, where edges are not numbers that people read: dates.
    """
    left, right, top, bottom = 34.0, 6.0, 16.0, 34.0 if open_ends else 22.0
    drawing = Drawing(name, description, WIDTH, 168.0)
    width, height = WIDTH - left - right, drawing.height - top - bottom
    unit = float(np.median(np.diff(edges)))
    per = unit / np.diff(edges) if open_ends else np.ones(len(original))
    heights, copied = original * per, copies * per
    most = max(float(heights.max(initial=0)), float(copied.max(initial=0)), 1e-9)

    def across(x: float) -> float:
        return left + width * (x - float(edges[0])) / float(edges[-1] - edges[0])

    def up(share: float) -> float:
        return top + height * (1 - share / most)

    for share in ticks(0, 100 * most, 3):
        drawing.path("grid", [f"M{_fixed(left)} {_fixed(up(share / 100))}h{_fixed(width)}"])
        drawing.text(left - 4, up(share / 100) + 4, plain(share), "small", "end")
    drawing.text(0, 10, "% of rows", "small")
    places = [across(float(x)) for x in edges]
    drawing.boxes(
        "original",
        [
            (x, up(h), places[i + 1] - x, height + top - up(h))
            for i, (x, h) in enumerate(zip(places[:-1], heights, strict=True))
        ],
    )
    if len(copies) > 1:
        upper, lower = _steps(places, copied.max(axis=0), up), _steps(places, copied.min(axis=0), up)
        drawing.path("band", [*_joined([*upper, *lower[::-1]]), "z"])
    drawing.line("synthetic", _steps(places, copied.mean(axis=0), up))
    _number_axis(drawing, edges, across, open_ends, labels)
    return drawing.finish()


def _number_axis(drawing: Drawing, edges: Floats, across: Any, open_ends: bool, labels: Sequence[str]) -> None:
    floor = drawing.height - (34.0 if open_ends else 22.0)
    drawing.path("axis", [f"M34 {_fixed(floor)}H{_fixed(WIDTH - 6)}"])
    low, high = (float(edges[1]), float(edges[-2])) if open_ends else (float(edges[0]), float(edges[-1]))
    if labels:
        for x, label, anchor in ((34.0, labels[0], "start"), (WIDTH - 6, labels[-1], "end")):
            drawing.text(x, floor + 14, shorten(label, 24), "small", anchor)
        return
    marks = ticks(low, high)
    for mark in marks:
        anchor = "middle" if across(mark) < WIDTH - 30 else "end"
        drawing.path("axis", [f"M{_fixed(across(mark))} {_fixed(floor)}v4"])
        drawing.text(across(mark), floor + 15, plain(mark), "small", anchor)
    if open_ends:
        drawing.text(34, floor + 29, f"first class: up to {plain(low)}", "small")
        drawing.text(WIDTH - 6, floor + 29, f"last class: above {plain(high)}", "small", "end")


def _steps(places: Sequence[float], heights: Floats, up: Any) -> list[tuple[float, float]]:
    return [(x, up(float(h))) for i, h in enumerate(heights) for x in (places[i], places[i + 1])]


def _joined(places: Sequence[tuple[float, float]]) -> Iterator[str]:
    for i, (x, y) in enumerate(places):
        yield f"{'L' if i else 'M'}{_fixed(x)} {_fixed(y)}"


def draw_levels(name: str, description: str, labels: Sequence[str], original: Floats, copies: Floats) -> str:
    """Draw a margin of categories: a bar for the original, a mark for the mean of the copies, a line for their range.

    Parameters
    ----------
    name, description : str
    labels : sequence of str, length b
    original : ndarray of shape (b,), dtype=float64
        Shares, at most 1.
    copies : ndarray of shape (m, b), dtype=float64
    """
    left, right, step = min(118.0, 14 + LETTER * max((len(label) for label in labels), default=0)), 46.0, 19.0
    drawing = Drawing(name, description, WIDTH, 18 + step * len(labels))
    most = max(float(original.max(initial=0)), float(copies.max(initial=0)), 1e-9)
    unit = (WIDTH - left - right) / most
    drawing.text(WIDTH, 10, "% of rows", "small", "end")
    for i, label in enumerate(labels):
        y = 16 + step * i
        drawing.text(left - 6, y + 13, shorten(label, int((left - 6) / LETTER)), "", "end")
        drawing.boxes("original", [(left, y + 2, max(float(original[i]) * unit, 0.5), step - 5)])
        shares = copies[:, i]
        if len(shares) > 1 and shares.max() > shares.min():
            begin = left + float(shares.min()) * unit
            drawing.path("synthetic", [f"M{_fixed(begin)} {_fixed(y + 9)}H{_fixed(left + float(shares.max()) * unit)}"])
        drawing.path("mark", [f"M{_fixed(left + float(shares.mean()) * unit)} {_fixed(y)}v{_fixed(step - 1)}"])
        drawing.text(WIDTH, y + 13, f"{100 * float(original[i]):.1f}", "small", "end")
    return drawing.finish()


def draw_heat(names: Sequence[str], values: Floats, title: str, description: str) -> str:
    """Draw S_pMSE of pairs as the lower half of a square, with each name on the diagonal.

    Parameters
    ----------
    names : sequence of str, length p
    values : ndarray of shape (p, p), dtype=float64
        Symmetric; NaN where there is none.
    title, description : str
    """
    step = max(13.0, min(26.0, (WIDTH - 80) / max(len(names), 1)))
    letters = min(max((len(name) for name in names), default=0), 20)
    key = 22.0
    drawing = Drawing(
        title, description, max(WIDTH, step * len(names) + LETTER * letters + 10), step * len(names) + key
    )
    places: list[list[tuple[float, float, float, float]]] = [[] for _ in (*HEAT, 0)]
    unknown = []
    for i in range(len(names)):
        for j in range(i):
            place = (step * j + 0.5, key + step * i + 0.5, step - 1, step - 1)
            if math.isfinite(values[i, j]):
                places[int(np.searchsorted(HEAT, values[i, j], side="right"))].append(place)
            else:
                unknown.append(place)
        drawing.text(step * i + 2, key + step * (i + 0.5) + 4, shorten(names[i], 20))
    for grade, some in enumerate(places):
        drawing.boxes(f"heat{grade}", some)
    drawing.boxes("unknown", unknown)
    x = 0.0
    for grade, label in enumerate(HEAT_LABELS):
        drawing.boxes(f"heat{grade}", [(x, 2, 11, 11)])
        drawing.text(x + 15, 12, label, "small")
        x += 24 + LETTER * 0.9 * len(label)
    return drawing.finish()


def draw_cells(
    title: str, description: str, rows: Sequence[str], columns: Sequence[str], z: Floats, names: tuple[str, str]
) -> str:
    """Draw the cells of a two-way table with their z, orange where the copies have too many rows, blue for too few.

    Parameters
    ----------
    title, description : str
    rows, columns : sequence of str, lengths a and b
        Labels of the classes.
    z : ndarray of shape (a, b), dtype=float64
        NaN for cells that are not shown.
    names : tuple of str
        Of the column down the side and of that along the top.
    """
    letters = min(max((len(label) for label in (*rows, f"{names[0]}  ")), default=0), 16)
    left, step, top = 10 + LETTER * letters, 20.0, 44.0
    wide = max(38.0, min(8 + LETTER * max((len(label) for label in columns), default=0), 90.0))
    drawing = Drawing(title, description, max(WIDTH, left + wide * len(columns) + 2), top + step * len(rows) + 2)
    drawing.text(left, 12, shorten(f"{names[1]} \N{RIGHTWARDS ARROW}", int((drawing.width - left) / LETTER)), "strong")
    drawing.text(0, top - 8, shorten(f"{names[0]} \N{DOWNWARDS ARROW}", max(4, int(left / LETTER) - 1)), "strong")
    for j, label in enumerate(columns):
        drawing.text(left + wide * (j + 0.5), top - 8, shorten(label, max(3, int(wide / LETTER))), "small", "middle")
    for i, label in enumerate(rows):
        drawing.text(left - 5, top + step * i + 14, shorten(label, 16), "small", "end")
        for j in range(len(columns)):
            value = float(z[i, j])
            place = (left + wide * j + 0.5, top + step * i + 0.5, wide - 1, step - 1)
            if not math.isfinite(value):
                drawing.boxes("unknown", [place])
                continue
            size = int(np.searchsorted(SIZES, abs(value), side="right"))
            drawing.boxes(f"{'more' if value > 0 else 'fewer'}{size}", [place])
            drawing.text(left + wide * (j + 0.5), top + step * i + 14, _signed(value), f"cell{size}", "middle")
    return drawing.finish()


def _signed(value: float) -> str:
    return plain(round(value)) if round(value) <= 0 else f"+{round(value):,}"


def draw_scatter(title: str, description: str, original: Floats, synthetic: Floats) -> str:
    """Draw correlations in the copies against those in the original, both from -1 to 1."""
    left, top, size = 40.0, 14.0, 250.0
    drawing = Drawing(title, description, WIDTH, top + size + 38)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + size * (x + 1) / 2, top + size * (1 - y) / 2

    for mark in (-1.0, -0.5, 0.0, 0.5, 1.0):
        drawing.line("grid", [place(mark, -1), place(mark, 1)])
        drawing.line("grid", [place(-1, mark), place(1, mark)])
        drawing.text(place(mark, -1)[0], top + size + 15, plain(mark), "small", "middle")
        drawing.text(left - 5, place(-1, mark)[1] + 4, plain(mark), "small", "end")
    drawing.line("axis", [place(-1, -1), place(1, 1)])
    drawing.text(0, 9, "copies", "small")
    drawing.text(left + size / 2, top + size + 32, "original", "small", "middle")
    known = np.isfinite(original) & np.isfinite(synthetic)
    drawing.dots("dot", [place(float(x), float(y)) for x, y in zip(original[known], synthetic[known], strict=True)])
    return drawing.finish()


def draw_intervals(comparison: Comparison, title: str, description: str) -> str:
    """Draw what ``plot_coefficients`` draws: pooled estimates and 95 % intervals beside those of the original."""
    intervals = _intervals(comparison, "draw_intervals")
    terms = comparison.table["term"].to_list()
    letters = min(max(map(len, terms)), 24)
    left, step, top = 10 + LETTER * letters, 24.0, 8.0
    drawing = Drawing(title, description, max(WIDTH, left + 300), top + step * len(terms) + 36)
    whole = np.concatenate([part for of in intervals.values() for part in of])
    whole = whole[np.isfinite(whole)]
    low, high = min(float(whole.min()), -1.1), max(float(whole.max()), 1.1)
    floor = top + step * len(terms)

    def across(x: float) -> float:
        return left + (drawing.width - left - 8) * (x - low) / (high - low)

    drawing.path("axis", [f"M{_fixed(left)} {_fixed(floor)}H{_fixed(drawing.width - 8)}"])
    for mark in ticks(low, high, 5):
        drawing.path("axis zero" if mark == 0 else "grid", [f"M{_fixed(across(mark))} {_fixed(top)}V{_fixed(floor)}"])
        drawing.text(across(mark), floor + 14, plain(mark), "small", "middle")
    drawing.text(drawing.width - 8, floor + 30, "half widths of the original's interval", "small", "end")
    for i, term in enumerate(terms):
        drawing.text(left - 6, top + step * (i + 0.5) + 4, shorten(term, 24), "", "end")
        for name, shift in (("original", -4.0), ("synthetic", 4.0)):
            middle, begin, end = (across(float(part[i])) for part in intervals[name])
            y = top + step * (i + 0.5) + shift
            drawing.line(f"bar-{name}", [(begin, y), (end, y)])
            drawing.dots(f"dot-{name}", [(middle, y)] if math.isfinite(middle) else [])
    return drawing.finish()
