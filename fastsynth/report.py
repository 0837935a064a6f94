"""Pictures and tables for people."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from fastsynth.copies import Synthesis
from fastsynth.errors import FastsynthError
from fastsynth.pooling import Comparison

# Categories shown before the rest is summed up.
MOST_LEVELS = 12
# Panels side by side.
PANELS = 3
GREY, BLUE = "#b8bcc4", "#1f5fbf"


def plot_marginals(original: pa.Table, synthesis: Synthesis, path: Path) -> None:
    """Draw the original and the synthetic margin of every column into one PNG.

    Parameters
    ----------
    original : pyarrow.Table
    synthesis : Synthesis
        Numeric columns: share of rows by class, the original filled, a line for each copy. Other columns: share of
        rows by category, a bar for the original, a dot for each copy.
    path : Path
        File to write.

    Raises
    ------
    FastsynthError
        matplotlib is not installed.
    """
    names = original.column_names
    rows = math.ceil(len(names) / PANELS)
    figure = _figure(4.2 * PANELS, 2.7 * rows)
    copies = [pl.DataFrame(synthesis.arrow(i)) for i in range(synthesis.m)]
    real = pl.DataFrame(original)
    for i, name in enumerate(names):
        axes = figure.add_subplot(rows, PANELS, i + 1)
        if real[name].dtype.is_numeric() or real[name].dtype.is_temporal():
            _draw_numbers(axes, real[name], [copy[name] for copy in copies])
        else:
            _draw_levels(axes, real[name], [copy[name] for copy in copies])
        axes.set_title(name, loc="left", fontsize=10, fontweight="bold")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    handles = [
        figure.axes[0].fill_between([], [], color=GREY, label=f"original (n = {synthesis.n:,})"),
        *figure.axes[0].plot([], [], color=BLUE, label=f"synthetic ({synthesis.m} copies of {synthesis.k:,})"),
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=2, frameon=False)
    _save(figure, path)


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
    if not isinstance(comparison, Comparison):
        raise FastsynthError("plot_coefficients needs what Pooled.compare gives for a fit of the original.")
    table = comparison.table
    figure = _figure(6.4, 1.2 + 0.32 * table.height)
    axes = figure.add_subplot()
    place = np.arange(table.height)[::-1]
    original, low, high = (table[name].to_numpy() for name in ("original", "original_low", "original_high"))
    unit = np.where(high > low, (high - low) / 2, 1.0)
    for name, shift, color in (("original", 0.13, "#8a8f99"), ("synthetic", -0.13, BLUE)):
        middle, left, right = (
            (table[column].to_numpy() - original) / unit for column in (name, f"{name}_low", f"{name}_high")
        )
        axes.hlines(place + shift, left, right, color=color, linewidth=2)
        axes.plot(middle, place + shift, "o", color=color, markersize=4, label=name)
    axes.axvline(0, color="#8a8f99", linewidth=1, linestyle=":")
    axes.set_yticks(place, table["term"].to_list())
    axes.set_xlabel("distance from the original estimate, in half widths of its interval")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    _save(figure, path)


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
    # No date and no version in the file: the same copies give the same bytes.
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _draw_numbers(axes: Any, real: pl.Series, copies: list[pl.Series]) -> None:
    numbers = [_numbers(s) for s in (real, *copies)]
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


def _numbers(series: pl.Series) -> NDArray[np.float64]:
    present = series.drop_nulls()
    physical = present.to_physical() if series.dtype.is_temporal() else present
    return physical.cast(pl.Float64).drop_nans().to_numpy()


def _draw_levels(axes: Any, real: pl.Series, copies: list[pl.Series]) -> None:
    shares = [_shares(s) for s in (real, *copies)]
    levels = real.dtype.categories.to_list() if isinstance(real.dtype, pl.Enum) else []
    levels = levels or sorted(shares[0], key=lambda level: (-shares[0][level], level))
    if "(missing)" in shares[0] and "(missing)" not in levels:
        levels.append("(missing)")
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
    labels = [level if len(level) <= 14 else f"{level[:13]}…" for level in shown] + ["other"] * bool(rest)
    crowded = sum(map(len, labels)) > 30
    axes.set_xticks(list(place), labels, rotation=40 if crowded else 0, ha="right" if crowded else "center")


def _shares(series: pl.Series) -> dict[str, float]:
    counts = series.alias("level").cast(pl.String).fill_null("(missing)").value_counts()
    return dict(zip(counts["level"], counts["count"] / len(series), strict=True))
