"""Pictures by matplotlib, and the SVG figures of the report."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastsynth as fs
from fastsynth.errors import DataError, FastsynthError, OptionError
from fastsynth.pictures import (
    draw_cells,
    draw_heat,
    draw_intervals,
    draw_levels,
    draw_numbers,
    draw_scatter,
    plain,
    shorten,
    ticks,
)

EVIL = "<script>alert(1)</script>\x00&\"'"


def test_margins_of_every_type(tmp_path, every_type):
    syn = fs.synthesize(every_type, m=2, random_state=1)
    figure = fs.plot_compare(every_type, syn, tmp_path / "a.png")
    assert len(figure.axes) == every_type.width
    content = (tmp_path / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 20_000
    some = every_type.columns[8:14]
    for name in ("b.png", "c.png"):
        fs.plot_compare(every_type, syn, tmp_path / name, columns=some)
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()


def test_margins_of_files_in_pieces_and_of_some_columns(tmp_path, mixed, monkeypatch):
    monkeypatch.setattr("fastsynth.source.PIECE_ROWS", 100)
    syn = fs.synthesize(mixed, m=2, random_state=1, out=tmp_path / "copies")
    mixed.write_parquet(tmp_path / "people.parquet")
    for name in ("a.svg", "b.svg"):
        fs.plot_compare(tmp_path / "people.parquet", tmp_path / "copies", tmp_path / name, columns=["age", "job"])
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    figure = fs.plot_compare(mixed.to_pandas(), [syn[0]], columns=["age"], memory_limit="1 MB")
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["age"]


def test_plot_compare_refuses(tmp_path, mixed):
    with pytest.raises(OptionError, match="PNG, PDF or SVG"):
        fs.plot_compare(mixed, mixed, tmp_path / "a.xyz", columns=["age"])
    with pytest.raises(OptionError, match="columns="):
        fs.plot_compare(mixed, mixed, columns=["nothing"])
    with pytest.raises(DataError):
        fs.plot_compare(mixed, [])


def test_without_matplotlib_the_extra_is_named(mixed, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(FastsynthError, match=r"fastsynth\[report\]"):
        fs.plot_compare(mixed, mixed)


def comparison():
    fits = [({"(Intercept)": 60 + i, "age": 7 - i / 10, "phb.L": -12.0 - i}, [4.0, 0.02, 2.0]) for i in range(5)]
    original = ({"(Intercept)": 61, "age": 7.1, "phb.L": -12.2}, [3.0, 0.02, 1.5])
    return fs.pool(fits, "reiter2003").compare(original)


def test_coefficients(tmp_path):
    for name in ("a.png", "b.png"):
        fs.plot_coefficients(comparison(), tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").stat().st_size > 8_000
    with pytest.raises(FastsynthError, match=r"Pooled\.compare"):
        fs.plot_coefficients("no", tmp_path / "c.png")


# SVG


def parsed(svg):
    """The element; it has a name and a description for screen readers, and nothing lies outside of its frame."""
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    assert root[0].tag == "title"
    assert root[1].tag == "desc"
    assert root[0].text
    assert root[1].text
    width, height = (float(x) for x in root.get("viewBox").split()[2:])
    for text in root.iter("text"):
        assert -1 <= float(text.get("x")) <= width + 1
        assert -1 <= float(text.get("y")) <= height + 1
    assert "nan" not in svg
    assert "inf" not in svg.replace("&", "")
    return root


def texts(root):
    return [text.text for text in root.iter("text")]


def test_numbers():
    edges = np.array([0.0, 10, 20, 30])
    original, copies = np.array([0.2, 0.5, 0.3]), np.array([[0.1, 0.6, 0.3], [0.3, 0.4, 0.3]])
    svg = draw_numbers("age", "words", edges, original, copies)
    root = parsed(svg)
    assert {path.get("class") for path in root.iter("path")} == {"grid", "original", "band", "synthetic", "axis"}
    assert {"0", "10", "20", "30", "% of rows"} <= set(texts(root))
    assert svg == draw_numbers("age", "words", edges, original, copies)
    assert "band" not in draw_numbers("age", "words", edges, original, copies[:1])
    opened = texts(parsed(draw_numbers("age", "words", edges, original, copies, open_ends=True)))
    assert opened[-2:] == ["first class: up to 10", "last class: above 20"]
    assert "30" not in opened
    dated = texts(
        parsed(draw_numbers("day", "words", edges, original, copies, labels=["2001-01-01", "b", "2003-01-01"]))
    )
    assert dated[-2:] == ["2001-01-01", "2003-01-01"]


def test_levels():
    root = parsed(draw_levels("sex", "words", ["f", "m" * 40], np.array([0.4, 0.6]), np.array([[0.5, 0.5]])))
    assert "40.0" in texts(root)
    assert any(text.endswith("…") for text in texts(root))


def test_heat_map_grades():
    values = np.array([[np.nan, 2.9, 3.0, 10], [2.9, np.nan, 30, np.nan], [3, 30, np.nan, 1], [10, np.nan, 1, np.nan]])
    root = parsed(draw_heat(list("abcd"), values, "title", "words"))
    boxes = Counter()
    for path in root.iter("path"):
        boxes[path.get("class")] += path.get("d").count("M")
    # With one of each grade in the key.
    assert boxes == {"heat0": 3, "heat1": 2, "heat2": 2, "heat3": 2, "unknown": 1}
    assert [*texts(root)][:4] == list("abcd")


def test_cells():
    z = np.array([[5.0, -5.0, 0.4], [2.5, -2.5, np.nan]])
    root = parsed(draw_cells("a with b", "words", ["x", "y"], ["u", "v", "w"], z, ("a", "b")))
    classes = [path.get("class") for path in root.iter("path")]
    assert classes == ["more2", "fewer2", "more0", "more1", "fewer1", "unknown"]
    assert [text for text in texts(root) if text[0] in "+\N{MINUS SIGN}0"] == [
        "+5",
        "\N{MINUS SIGN}5",
        "0",
        "+2",
        "\N{MINUS SIGN}2",
    ]


def test_scatter_and_intervals():
    root = parsed(draw_scatter("r", "words", np.array([0.5, np.nan]), np.array([0.4, 0.1])))
    assert [path.get("d").count("M") for path in root.iter("path") if path.get("class") == "dot"] == [1]
    root = parsed(draw_intervals(comparison(), "title", "words"))
    assert {"(Intercept)", "age", "phb.L"} <= set(texts(root))


@pytest.mark.parametrize("name", [EVIL, "]]>", "a" * 300, "שלום"])
def test_names_are_escaped(name):
    one = np.array([0.4, 0.6])
    for svg in (
        draw_levels(name, name, [name, "b"], one, one[None]),
        draw_numbers(name, name, np.array([0.0, 1, 2]), one, one[None], labels=[name, name]),
        draw_heat([name, "b"], np.full((2, 2), 2.0), name, name),
        draw_cells(name, name, [name], [name], np.array([[1.0]]), (name, name)),
    ):
        root = parsed(svg)
        assert not list(root.iter("script"))
        assert "<script" not in svg


@given(st.floats(-1e12, 1e12), st.floats(1e-9, 1e12))
def test_ticks_are_few_round_and_inside(low, width):
    high = low + width
    found = ticks(low, high)
    assert len(found) <= 10
    assert all(low - 1e-6 * width <= x <= high + 1e-6 * width for x in found)


def test_numbers_as_people_write_them():
    assert [plain(x) for x in (0, 0.5, -3.0, 1234567, 1e-7, 2e9)] == [
        "0",
        "0.5",
        "\N{MINUS SIGN}3",
        "1,234,567",
        "1e\N{MINUS SIGN}7",
        "2e9",
    ]
    assert ticks(1.0, 1.0) == [1.0]
    assert ticks(float("nan"), 1.0) == []
    assert shorten("abcdef", 4) == "abc…"


def test_empty_columns_are_drawn():
    assert (
        len(fs.plot_compare(pl.DataFrame({"a": [None, None]}, {"a": pl.Int32}), [pl.DataFrame({"a": [1]})]).axes) == 1
    )
