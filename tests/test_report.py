"""The report: what an audience may see, the verdicts, and a page that is one file, sound and the same every time."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import fastsynth as fs
from fastsynth import page, sections
from fastsynth.cli import main
from fastsynth.errors import FastsynthError, OptionError, OutputError
from fastsynth.page import Line, Shown, merge_levels, merge_numbers, round_classes
from fastsynth.public import public_utility
from tests.measured import Identical, Margin, attacks, measured_disclosure, measured_utility

EVIL = "</title><script src='https://evil.example/x.js'>\x00&\"'"
INTERNAL, PUBLIC = Shown(False, 0.0), Shown(True, 10 / 748)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def boys():
    """The boys, copies, and stand-ins for what was measured."""
    data = fs.load_boys()
    syn = fs.synthesize(data, m=2, random_state=1)
    utility = measured_utility(data, list(syn))
    return SimpleNamespace(data=data, syn=syn, utility=utility, disclosure=measured_disclosure(["age"], ["phb", "tv"]))


def write(boys, path, **options):
    given = {"utility": boys.utility, "disclosure": boys.disclosure} | options
    fs.report(boys.data, boys.syn, path, **given)
    return path.read_text(encoding="utf-8")


# A page that is sound


class Checker(HTMLParser):
    """What the page is made of; elements are closed in the order in which they were opened."""

    void = ("meta", "link", "br", "img", "input", "hr")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.headings, self.ids, self.links, self.named = [], [], [], [], [], {}
        self.regions = 0
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if re.fullmatch(r"h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag not in self.void:
            self.open.append((tag, attrs))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag


def check(text):
    """Structure that keyboard and screen reader need, and nothing from elsewhere."""
    found = Checker(text)
    tags = [tag for tag, _ in found.tags]
    assert text.startswith("<!DOCTYPE html>")
    assert dict(found.tags[tags.index("html")][1])["lang"] == "en"
    assert not {"script", "link", "img", "iframe", "object", "form", "base"} & set(tags)
    for tag, attrs in found.tags:
        assert "src" not in attrs
        assert not any(name.startswith("on") for name in attrs)
        if "href" in attrs:
            assert attrs["href"][0] == "#"
            assert attrs["href"][1:] in found.ids
        if "aria-labelledby" in attrs:
            assert attrs["aria-labelledby"] in found.ids
        if attrs.get("role") == "region":
            assert attrs["aria-label"]
            assert attrs["tabindex"] == "0"
        if tag == "svg":
            assert attrs["role"] == "img"
        if tag == "th":
            assert attrs["scope"] in ("col", "row")
    assert not re.search(r"url\(|@import|https?://", text)
    assert len(set(found.ids)) == len(found.ids)
    assert found.headings[0] == 1
    assert found.headings.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(found.headings, found.headings[1:]))
    assert tags.count("caption") == tags.count("table")
    # The title of the page, and one of each figure, which also has a description.
    assert tags.count("title") == tags.count("svg") + 1
    assert tags.count("desc") == tags.count("svg")
    assert tags.index("a") < tags.index("header")
    return found


@pytest.mark.parametrize("audience", ["internal", "public"])
def test_a_page_is_sound_and_the_same_every_time(boys, tmp_path, audience):
    options = {"audience": audience, "attacks": {"minbucket 1": attacks(0.7, 0.66)}}
    text = write(boys, tmp_path / "a.html", **options)
    check(text)
    assert text == write(boys, tmp_path / "b.html", **options)
    assert str(tmp_path) not in text
    for words in ("Are they usable?", "Are they safe?", "What to look at?", "How the copies were made", "baseCAPd"):
        assert words in text


def test_names_and_levels_cannot_break_out(tmp_path):
    # Tables of Arrow have no zero byte in the name of a column.
    name = EVIL.replace("\x00", "\x01")
    data = pl.DataFrame({name: [EVIL, "b", "c"] * 40, "x": range(120), "{{ 7 * 7 }}": ["<b>", "&amp;", None] * 40})
    utility = measured_utility(data, [data, data])
    disclosure = measured_disclosure(
        [name], ["x", "{{ 7 * 7 }}"], n=120, attacks=attacks(0.5, 0.5).with_columns(attack=pl.lit(EVIL))
    )
    for audience in ("internal", "public"):
        path = tmp_path / f"{audience}.html"
        fs.report(data, [data, data], path, utility=utility, disclosure=disclosure, audience=audience)
        text = path.read_text(encoding="utf-8").replace("https://evil", "evil")
        check(text)
        assert "<script" not in text
        assert not {"\x00", "\x01"} & set(text)
        assert "{{ 7 * 7 }}" in text


def test_many_columns_stay_a_small_file_and_say_what_is_left_out(tmp_path):
    rng = np.random.default_rng(1)
    data = pl.DataFrame({f"column_{i}": rng.normal(size=60) for i in range(150)})
    utility = measured_utility(data, [data])
    path = tmp_path / "a.html"
    disclosure = measured_disclosure(["column_0"], ["column_1"], n=60, m=1)
    fs.report(data, data, path, utility=utility, disclosure=disclosure)
    text = path.read_text(encoding="utf-8")
    found = check(text)
    assert path.stat().st_size < 1_000_000
    # Margins, the heat map, drawn pairs and correlations.
    assert sum(tag == "svg" for tag, _ in found.tags) == 40 + 1 + 4 + 1
    for words in (
        "the worst 40 of 150 columns",
        "60 columns with the worst pairs, of 150",
        "2,000 pairs that differ most",
    ):
        assert words in text


# Who may see what


def numbers_in(text):
    return re.findall(r"[\d.,]+", text)


def test_public_reports_have_no_records_levels_extremes_or_seed(boys, tmp_path):
    internal, public = (write(boys, tmp_path / f"{a}.html", audience=a) for a in ("internal", "public"))
    assert "Public version" in public
    for words in ("712", "secretlevel", "random_state", "Smallest leaf", "The riskiest records", "99.9 %"):
        assert words in internal
        assert words not in public
    # The greatest head and the least one.
    for value in (boys.data["hc"].max(), boys.data["hc"].min()):
        assert f">{page.figures(value, 6)}<" in internal
        assert f">{page.figures(value, 3)}<" not in public


def test_shares_of_few_rows():
    found = [PUBLIC.percent(x) for x in (0.0, 1.9, 2.1, 51.2, 99.5, None)]
    assert found == ["under 2", "under 2", "2.0", "52.0", "over 98", page.NONE]
    assert INTERNAL.percent(0.134) == "0.13"
    assert np.allclose(PUBLIC.round([0.011, 0.5, 0.999]), [0.02, 0.5, 1])
    # The exact least tells the largest weight: it is rounded upwards, to one digit.
    steps = [Shown(True, x).step for x in (0.0123, 0.02, 0.0951, 1.3e-6, 0.9501, 7.0)]
    assert np.allclose(steps, [0.02, 0.02, 0.1, 2e-6, 1, 1])
    assert np.isclose(PUBLIC.of_known(0.5).least, 20 / 748)
    assert PUBLIC.of_known(0.0).least == 1
    assert INTERNAL.of_known(0.5) == INTERNAL


def test_rare_levels_are_merged_so_that_none_can_be_told():
    original = np.array([700.0, 30, 9, 3, 6]) / 748
    copies = np.array([[700.0, 30, 9, 9, 0]]) / 748
    labels, o, s = merge_levels(list("abcde"), original, copies, PUBLIC)
    assert labels == ["a", "b", "other"]
    assert np.allclose(o * 748, [700, 30, 18])
    assert np.allclose(s * 748, [[700, 30, 18]])
    # One rare level alone would be the rest: another one goes with it.
    labels, o, _ = merge_levels(list("abc"), np.array([0.7, 0.295, 0.005]), copies[:, :3], PUBLIC)
    assert labels == ["a", "other"]
    assert np.allclose(o, [0.7, 0.3])
    labels, o, _ = merge_levels(list("abcde"), original, copies, INTERNAL)
    assert labels == list("abcde")
    labels, o, _ = merge_levels(
        [f"l{i:02}" for i in range(30)], np.full(30, 1 / 30), np.full((1, 30), 1 / 30), INTERNAL
    )
    assert labels[-1] == "other (19)"
    assert len(labels) == 12


@pytest.mark.parametrize("seed", range(5))
def test_classes_of_numbers_have_ten_rows_and_no_outer_limits(seed):
    rng = np.random.default_rng(seed)
    values = np.round(rng.lognormal(3, 0.6, 748), 1)
    counts, edges = np.histogram(values, 30)
    found = merge_numbers(edges[1:-1], counts / 748, counts[None] / 748, PUBLIC)
    assert found is not None
    borders, o, s, starts = found
    assert len(borders) == len(o) + 1 == s.shape[1] + 1
    groups = np.add.reduceat(counts, starts)
    assert groups.min() >= 10
    assert groups[0] >= 7.48
    assert groups[-1] >= 7.48
    assert np.allclose(o / PUBLIC.step, np.round(o / PUBLIC.step))
    assert merge_numbers(edges[1:-1], np.eye(30)[0], np.eye(30)[:1], PUBLIC) is None


def test_weights_count_as_rows_of_the_largest(boys, tmp_path, monkeypatch):
    seen = {}
    real = sections.make_page

    def spy(*given, **options):
        seen["shown"] = given[3]
        return real(*given, **options)

    monkeypatch.setattr(sys.modules["fastsynth.report"], "make_page", spy)
    data = boys.data.with_columns(w=pl.when(pl.col("age") > 20).then(9.0).otherwise(1.0))
    monkeypatch.setattr("fastsynth.source.PIECE_ROWS", 100)
    options = {"utility": boys.utility, "disclosure": boys.disclosure, "audience": "public", "weights": "w"}
    fs.report(data, boys.syn, tmp_path / "a.html", **options)
    assert np.isclose(seen["shown"].least, 10 * 9 / data["w"].sum())


def test_margins_that_tell_too_little_are_not_shown():
    few = Margin("id", "level", [f"l{i}" for i in range(100)], None, np.full(100, 7.0), np.full((1, 100), 7.0))
    assert sections.margin_figure(few, PUBLIC) is None
    assert sections.margin_figure(few, INTERNAL) is not None
    borders = np.array("2000-02-17", "M8[D]") + np.arange(31) * 200
    labels = [f"{a} to {b}" for a, b in itertools.pairwise(borders)]
    day = Margin("day", "number", labels, borders.astype(float), np.full(30, 100.0), np.full((1, 30), 100.0))
    assert ">2000-02-17 to 2000-09" in sections.margin_figure(day, INTERNAL)
    public = sections.margin_figure(day, PUBLIC)
    assert not re.search(r"\d{4}-\d\d|30 classes", public)
    assert "up to 2001<" in public
    assert "from 2016<" in public
    hours = [f"{i:02}:00:00 to {i + 1:02}:00:00" for i in range(20)]
    time = Margin("time", "number", hours, np.arange(21.0), np.full(20, 100.0), np.full((1, 20), 100.0))
    assert sections.margin_figure(time, PUBLIC) is None
    assert sections.margin_figure(time, INTERNAL) is not None


@pytest.mark.parametrize("least", [3.0, 4.0, 17.0, 19.5])
def test_limits_do_not_tell_where_the_classes_begin(least):
    edges = least + 7 * np.arange(31.0)
    labels = [f"{a:g} to {b:g}" for a, b in itertools.pairwise(edges)]
    limits, names, o, s = round_classes(edges, labels, np.full(30, 1 / 30), np.full((2, 30), 1 / 30))
    assert set(np.diff(limits)) == {10}
    assert np.array_equal(limits % 10, np.zeros(len(limits)))
    assert names[0] == f"{limits[0]:g}"
    assert len(o) == s.shape[1] == len(limits) + 1
    assert np.allclose(o[1:-1], 10 / 210)
    assert np.isclose(o.sum(), 1)


def test_limits_of_values_stay_apart():
    values = np.array([0, 1, 2, 3, 5, 8])
    edges = np.concatenate([[-0.5], (values[1:] + values[:-1]) / 2, [9.5]])
    limits, *_ = round_classes(edges, [str(v) for v in values], np.full(6, 1 / 6), np.full((1, 6), 1 / 6))
    assert limits.tolist() == [1, 2, 3, 4, 7]
    months = [f"2001-{month:02}-01" for month in range(1, 13)]
    found = round_classes(np.zeros(13), months, np.full(12, 1 / 12), np.full((1, 12), 1 / 12))
    assert found[1][0] == "2001-02"
    assert np.allclose(found[2][1:-1], 1 / 12)
    assert round_classes(np.zeros(2), ["1"], np.ones(1), np.ones((1, 1))) is None
    numbers = [f"{20010203 + i}" for i in range(6)]
    found = round_classes(20010202.5 + np.arange(7), numbers, np.full(6, 1 / 6), np.full((1, 6), 1 / 6))
    assert found[0].tolist() == [20010204 + i for i in range(5)]


def test_cells_of_few_rows_and_limits_of_numbers_are_left_out(boys):
    (caption, _), internal = sections._pair_figure(boys.utility, "hgt", "reg", INTERNAL)
    _, public = sections._pair_figure(public_utility(boys.utility, PUBLIC), "hgt", "reg", PUBLIC)
    assert caption == "hgt with reg"
    assert internal.count('class="cell') > public.count('class="cell')
    assert "class 1" in public
    assert "≤" in internal
    assert "≤" not in public
    labels = ["over 4.1 to 8", "null", "up to 4.1", "over 12", "over 8 to 12"]
    assert sorted(labels, key=sections._class_key) == ["up to 4.1", "over 4.1 to 8", "over 8 to 12", "over 12", "null"]
    days = ["over 2001-02-01 to 2001-03-01", "over 2001-11-01", "up to 2001-02-01"]
    assert sorted(days, key=sections._class_key) == [days[2], days[0], days[1]]


def few_tables(seed, **columns):
    rng = np.random.default_rng(seed)
    n = len(next(iter(columns.values())))
    return pl.DataFrame({"y": rng.normal(1000, 300, n).round(), "x": rng.normal(size=n), **columns})


RARE = {"g": ["a"] * 200 + ["b"] * 190 + ["rare"] * 5}
THREE = [0] * 3 + [1] * 392
CROSSED = {"a": ["p"] * 200 + ["q"] * 195, "b": ["r"] * 197 + ["s"] * 3 + ["r"] * 95 + ["s"] * 100}


@pytest.mark.parametrize(
    ("formula", "columns", "is_shown"),
    [
        ("y ~ x", RARE, True),
        ("y ~ x + C(g)", RARE, False),
        ("y ~ C(g)", {"g": ["a"] * 3 + ["b"] * 392}, False),
        ("y ~ C(g, Sum)", {"g": ["a"] * 3 + ["b"] * 192 + ["c"] * 200}, False),
        ("y ~ C(g, Helmert)", {"g": ["a"] * 3 + ["b"] * 192 + ["c"] * 200}, False),
        ("y ~ C(g, Sum)", {"g": ["a"] * 30 + ["b"] * 165 + ["c"] * 200}, True),
        # The intercept is the mean of the three, whatever the other value is.
        ("y ~ d", {"d": THREE}, False),
        ("y ~ d", {"d": [1 + d for d in THREE]}, False),
        ("y ~ a * b", CROSSED, False),
        ("y ~ a", CROSSED, True),
        ("o ~ 1", {"o": THREE}, False),
        ("o ~ x", {"o": [0] * 30 + [1] * 365}, True),
        # Twelve people in a level, of whom two have the outcome.
        ("o ~ g", {"g": ["a"] * 12 + ["b"] * 383, "o": [0, 0] + [1] * 10 + [0, 1, 1] * 127 + [1, 1]}, False),
    ],
)
@pytest.mark.filterwarnings("ignore::fastsynth.errors.PoolWarning")
def test_models_of_few_rows_are_not_shown_in_public(tmp_path, formula, columns, is_shown):
    data, *copies = (few_tables(seed, **columns) for seed in range(3))
    utility, disclosure = measured_utility(data, copies), measured_disclosure(["x"], ["y"], n=395)
    options = {"utility": utility, "disclosure": disclosure, "formula": formula}
    texts = {}
    for audience in ("internal", "public"):
        fs.report(data, copies, tmp_path / f"{audience}.html", audience=audience, **options)
        texts[audience] = (tmp_path / f"{audience}.html").read_text(encoding="utf-8")
    assert "Intercept" in texts["internal"]
    assert ("Intercept" in texts["public"]) == is_shown
    assert ("too few rows behind a coefficient" in texts["public"]) != is_shown
    with pytest.raises(OptionError, match="formula as text"):
        fs.report(data, copies, tmp_path / "c.html", audience="public", **(options | {"formula": lambda d: d}))


# What was found by people who tried to undo it


def cells_of(text, caption):
    """Rows of a table of the page."""
    begin = text.index(f"<caption>{caption}")
    body = text[begin : text.index("</table>", begin)]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.S)[1:]
    return [[re.sub("<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in rows]


def written(data, copies, path, **options):
    fs.report(data, copies, path, audience="public", **options)
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("gap", [None, float("nan")])
def test_quantiles_and_classes_count_known_rows(tmp_path, gap):
    rng = np.random.default_rng(2)
    values = np.sort(np.round(rng.lognormal(3, 1, 60), 1))
    data = pl.DataFrame({"x": [*values.tolist(), *[gap] * 940], "z": rng.normal(size=1000)})
    copy = pl.DataFrame({"x": [*np.sort(rng.lognormal(3, 1, 60)).tolist(), *[gap] * 940], "z": rng.normal(size=1000)})
    utility = fs.utility(data, copy)
    shown = Shown(True, 10 / 1000)
    public = public_utility(utility, shown)
    assert np.isclose(public.known["x"], 0.06)
    own = public.quantiles.filter(pl.col("column") == "x")
    # Ten of sixty rows are 17 per cent.
    assert own["quantile"].to_list() == [0.25, 0.5, 0.75]
    assert own["original"].to_list() == [float(f"{np.sort(values)[i]:.2g}") for i in (14, 29, 44)]
    text = written(data, copy, tmp_path / "a.html", utility=utility)
    quantiles = {row[0]: row for row in cells_of(text, "Quantiles")}
    assert quantiles["x"][2:4] == [page.NONE] * 2
    margin = public.margins["x"]
    found = sections.margin_figure(margin, shown.of_known(0.06))
    limits = [float(x) for x in re.findall(r"(?:up to|above) ([\d.]+)<", found or "")]
    assert all(values[9] <= limit <= values[-10] for limit in limits)


def test_quantiles_that_may_be_extremes_are_dashes(tmp_path):
    data = pl.DataFrame({"x": [0] * 600 + [1] * 300 + [7] * 100, "d": [0, 1] * 500})
    text = written(data, data, tmp_path / "a.html")
    assert cells_of(text, "Quantiles")[0] == ["x", "original", *[page.NONE] * 4, "1.0".rstrip(".0"), *[page.NONE] * 2]
    assert {row[0] for row in cells_of(text, "Quantiles")} == {"x"}


def test_no_measure_of_tables_can_be_solved_for_counts(tmp_path):
    data = pl.DataFrame(
        {"a": ["p"] * 500 + ["q"] * 497 + ["r"] * 3, "b": ["s", "t"] * 500, "c": ["u", "u", "v", "v"] * 250}
    )
    copy = data.with_columns(a=pl.Series(["p"] * 400 + ["q"] * 596 + ["r"] * 4))
    utility = fs.utility(data, copy)
    public = public_utility(utility, Shown(True, 0.01))
    assert public.oneway.rows() == [("b", 0.0), ("c", 0.0), ("a", None)]
    assert public.twoway.rows() == [("b", "c", 0.0), ("a", "b", None), ("a", "c", None)]
    assert public["S_pMSE"] == float(f"{utility['S_pMSE']:.1g}")
    assert public["S_pMSE_max"] == 0
    text = written(data, copy, tmp_path / "a.html", utility=utility)
    assert cells_of(text, "Single columns")[-1] == ["a", "too few rows"]
    assert cells_of(text, "Pairs, worst")[0] == ["b, c", "below 3"]
    assert "SPECKS" not in text
    assert ">df<" not in text
    z = public.cells("a", "b").to_series(4).to_list()
    assert {abs(x) for x in z if x is not None} <= {0, 2, 4}
    assert z.count(None) == 2
    assert public.cells("a", "b")["original"].null_count() == 6
    # Of one table the mean is its own.
    one = public_utility(fs.utility(data, copy, columns=["a", "b"]), Shown(True, 0.01))
    assert np.isnan(one["S_pMSE"])
    assert np.isnan(one["S_pMSE_max"])


def test_missing_values_have_no_z_and_whole_per_cents(tmp_path):
    n = 2000
    columns = {"few": 6, "a": 700, "b": 701, "almost": 1995}
    data = pl.DataFrame({name: [None] * x + [float(i % 7) for i in range(n - x)] for name, x in columns.items()})
    copy = pl.DataFrame({name: [None] * (x // 2) + [1.0] * (n - x // 2) for name, x in columns.items()})
    utility = fs.utility(data, copy)
    rows = cells_of(written(data, copy, tmp_path / "a.html", utility=utility), "Columns and patterns of missing")
    assert [row for row in rows if row[0] in columns] == [
        ["a", "35", "18", "too seldom"],
        ["b", "35", "18", "too seldom"],
    ]
    public = public_utility(utility, Shown(True, 10 / n)).missing
    assert set(public["z"].to_list()) <= {-3.0, 0.0, 3.0}


def test_correlations_of_few_rows_are_left_out():
    rng = np.random.default_rng(1)
    n = 800
    u, v, common = np.zeros(n, int), np.zeros(n, int), np.zeros(n, int)
    u[:4], v[2:5], common[::2] = 1, 1, 1
    x, y = rng.normal(size=(2, n))
    twice = np.roll(common, 1)
    twice[:3] = 0
    known = np.where(np.arange(n) < 4, x, np.nan)
    other = np.where(common == 1, rng.integers(0, 2, n), np.nan)
    half = np.where(common == 0, y, np.nan)
    half[0] = 1.0
    frame = {"u": u, "v": v, "x": x, "y": 0.52 * x + y, "common": common, "twice": twice, "known": known}
    data = pl.DataFrame(frame | {"other": other, "half": half}).fill_nan(None)
    utility = fs.utility(data, data)
    public = public_utility(utility, Shown(True, 10 / n)).correlations
    pairs = {(a, b) for a, b in public.select("first", "second").rows()}
    assert not {"u", "v", "known"} & {name for pair in pairs for name in pair}
    assert ("x", "y") in pairs
    # Dummies that never go together but in a few rows, and numbers of which few rows have both.
    assert ("common", "twice") not in pairs
    assert ("other", "half") not in pairs
    assert ("x", "other") in pairs
    values = public.select("original", "synthetic", "difference").to_numpy()
    assert np.array_equal(values, values.round(1))


def test_attacks_do_not_count_targets():
    row = {"n_targets": 5000}
    assert PUBLIC.attack(0.5234, 3, row) == "0.52"
    assert PUBLIC.attack(0.5234, 3, {"n_targets": 40}) == "0.5"
    assert INTERNAL.attack(0.5234, 3, row) == "0.523"
    blocks = sections._attacks_table({"these copies": attacks(0.523, 0.481)}, PUBLIC)
    assert blocks[0].rows[0][1:] == ("0.52 (0.48 to 0.56)", "0.50")
    assert len(blocks) == 1
    same = Identical(holdout=0.01, holdout_unique=0.02)
    assert len(sections._identical_tables(same, INTERNAL)[0].rows) == 3
    assert len(sections._identical_tables(same, PUBLIC)[0].rows) == 2


def test_weighted_results_need_their_weights(boys, tmp_path):
    data = boys.data.with_columns(w=pl.when(pl.col("age") > 20).then(9.7).otherwise(1.0))
    utility = fs.utility(data, boys.syn, weights="w")
    with pytest.raises(OptionError, match="give weights="):
        fs.report(data, boys.syn, tmp_path / "a.html", utility=utility, audience="public")
    text = written(data, boys.syn, tmp_path / "b.html", utility=utility, disclosure=boys.disclosure, weights="w")
    exact = 100 * 10 * 9.7 / data["w"].sum()
    assert f"under {page.coarse(exact):g}" in text
    assert f"under {exact:.3g}" not in text


def test_public_disclosure_has_no_records(boys, tmp_path):
    found = fs.disclosure(boys.data, boys.syn, keys=["age", "reg"], target=["phb"])
    for name, given in (("a", found), ("b", found.public())):
        fs.report(boys.data, boys.syn, tmp_path / f"{name}.html", utility=boys.utility, disclosure=given)
    assert "The riskiest records" in (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "The riskiest records" not in (tmp_path / "b.html").read_text(encoding="utf-8")


def test_protection_while_drawing_is_told(boys, tmp_path):
    columns = {"hgt": fs.Column(smoothing="density", guard=fs.Guard(max_copies=3))}
    syn = fs.synthesize(boys.data, m=2, random_state=1, columns=columns)
    words = next(x[-1] for x in syn.summary()["protection"] if len(x))
    assert words == "smoothing='density'"
    texts = {}
    for audience in ("internal", "public"):
        path = tmp_path / f"{audience}.html"
        fs.report(boys.data, syn, path, utility=boys.utility, disclosure=boys.disclosure, audience=audience)
        texts[audience] = cells_of(path.read_text(encoding="utf-8"), "Columns in visit")
    assert any("smoothing=&#39;density&#39;" in cell for row in texts["internal"] for cell in row)
    assert "Guard, smoothing" in [cell for row in texts["public"] for cell in row]
    assert "density" not in str(texts["public"])


# Verdicts


@pytest.mark.parametrize(
    ("mean", "most", "answer"),
    [
        (1.2, 9.9, "Good"),
        (2.9, 10.0, "Acceptable"),
        (3.0, 9.0, "Acceptable"),
        (10.0, 80.0, "Poor"),
        (float("nan"), 1.0, "Not measured"),
    ],
)
def test_usable(boys, mean, most, answer):
    u = measured_utility(boys.data, list(boys.syn))
    u["S_pMSE"], u["S_pMSE_max"] = mean, most
    assert page.usable(u, None, INTERNAL).answer == answer


def test_safe(boys):
    def answer(table=None, identical=None, **values):
        d = measured_disclosure(["age"], ["phb", "tv"])
        d.update({"repU": 0.5} | values)
        d.attribute = d.attribute.with_columns(DiSCO=pl.lit(3.0))
        own = {} if table is None else {"these copies": table}
        return page.safe(d, identical or Identical(), own, INTERNAL)

    assert answer().answer.startswith("No sign of trouble")
    assert answer().lines[-1] == Line("none", "Membership: not measured. Attacks need a hold-out or shadow models.")
    assert answer(repU=1.0).grade == "look"
    assert answer(repU=5.0).grade == "poor"
    assert answer(identical=Identical(unique_share=0.009, fresh_unique=0.005)).grade == "look"
    assert answer(identical=Identical(unique_share=0.2, fresh_unique=0.005)).grade == "poor"
    assert [answer(attacks(0.6, low)).grade for low in (0.54, 0.55, 0.65)] == ["good", "look", "poor"]
    assert page.safe(None, None, {}, INTERNAL).answer == "Not measured"


def test_what_to_look_at(boys):
    found = page.look_at(boys.utility, boys.disclosure, boys.syn, INTERNAL)
    words = " ".join(line.words for line in found.lines)
    assert found.lines[0].words.startswith("age with hgt: S_pMSE 14")
    for part in ("Missing values of age: z 4.2", "Not compared: id", "two or more measures touch: 1"):
        assert part in words
    utility = public_utility(boys.utility, PUBLIC)
    public = " ".join(line.words for line in page.look_at(utility, boys.disclosure, boys.syn, PUBLIC).lines)
    # Of hgt two rows in a thousand are missing.
    assert "Missing values of hgt" in words
    assert "Missing values of hgt" not in public
    assert "Missing values of age: too often." in public
    assert " z " not in public
    assert "two or more" not in public


def test_attacks_stand_beside_each_other():
    both = {"these copies": attacks(0.52, 0.48), "minbucket 1": attacks(0.71, 0.68)}
    table, note = sections._attacks_table(both, INTERNAL)
    assert table.head == ("Attack", "these copies", "minbucket 1", "Baseline")
    assert table.rows[0] == (
        "Membership (shadow models): AUC",
        "0.520 (0.480 to 0.560)",
        "0.710 (0.680 to 0.750)",
        "0.500",
    )
    assert table.rows[1][1:] == (page.NONE, page.NONE, "0.001")
    assert note.words == "Needs 1,000 non-members."


# The model


def test_models_are_compared(boys, tmp_path):
    text = write(boys, tmp_path / "a.html", formula="hgt ~ age + C(reg)")
    assert "raab2016" in text
    assert "C(reg)[T.west]" in text
    found = fs.report(
        boys.data, boys.syn, tmp_path / "b.html", formula="hgt ~ age", utility=boys.utility, disclosure=boys.disclosure
    )
    assert found.comparison.table["term"].to_list() == ["Intercept", "age"]
    fits = boys.syn.analyse(
        lambda d: __import__("statsmodels.formula.api").formula.api.ols("hgt ~ age", d.to_pandas()).fit()
    )
    assert np.allclose(found.comparison.table["synthetic"], fs.pool(fits).table["estimate"])


def test_outcomes_of_two_values_are_logistic(boys, tmp_path):
    data, *copies = (
        pl.DataFrame({"old ness": [i % 3 == 0 for i in range(300)], "x": np.sin(np.arange(300.0) * by)})
        for by in (1, 3, 5)
    )
    utility = measured_utility(data, copies)
    disclosure = measured_disclosure(["x"], ["old ness"], n=300)
    options = {"utility": utility, "disclosure": disclosure, "formula": "Q('old ness') ~ x"}
    found = fs.report(data, copies, tmp_path / "a.html", **options)
    assert np.isclose(found.comparison.table["original"][0], np.log(0.5), atol=0.01)


def test_models_as_functions(boys, tmp_path):
    def mean(table):
        return {"mean": table["hgt"].mean()}, [table["hgt"].var() / len(table)]

    assert "the given function" in write(boys, tmp_path / "a.html", formula=mean)


@pytest.mark.parametrize(
    ("formula", "words"), [("nothing ~ at_all", "no column"), ("reg ~ age", "cannot be fitted"), ("hgt ~", "cannot be")]
)
def test_formulas_that_cannot_be_fitted(boys, tmp_path, formula, words):
    with pytest.raises(OptionError, match=words) as caught:
        write(boys, tmp_path / "a.html", formula=formula)
    assert "city" not in str(caught.value)
    assert not (tmp_path / "a.html").exists()


# The front end


def test_refusals(boys, tmp_path, monkeypatch):
    path = tmp_path / "a.html"
    with pytest.raises(OptionError, match="audience"):
        write(boys, path, audience="press")
    with pytest.raises(OutputError, match="No folder"):
        write(boys, tmp_path / "no" / "a.html")
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        write(boys, path)
    assert path.read_text() == "mine"
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(FastsynthError, match=r"fastsynth\[report\]"):
        write(boys, tmp_path / "b.html")


def test_copies_as_plain_tables(boys, tmp_path):
    options = {"utility": boys.utility, "disclosure": boys.disclosure}
    fs.report(boys.data, list(boys.syn), tmp_path / "a.html", **options)
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "how they were made is not known" in text
    assert "Visit" not in text


def test_a_report_is_a_record(boys, tmp_path):
    found = fs.report(boys.data, boys.syn, tmp_path / "a.html", utility=boys.utility, disclosure=boys.disclosure)
    assert [field.name for field in dataclasses.fields(found)] == ["utility", "disclosure", "comparison", "path"]
    assert found.utility is boys.utility
    assert found.path == tmp_path / "a.html"


def test_command_line(boys, tmp_path, monkeypatch):
    boys.data.with_row_index("id").write_parquet(tmp_path / "boys.parquet")
    boys.syn.write_parquet(tmp_path / "copies")
    given = {}

    def spy(original, copies, path, **options):
        given.update(options, columns_read=original.frame.schema.names, copies=copies, path=path)
        return SimpleNamespace(path=path)

    monkeypatch.setattr("fastsynth.cli.report", spy)
    words = [
        "report",
        tmp_path / "boys.parquet",
        tmp_path / "copies",
        "-o",
        tmp_path / "a.html",
        "--key",
        "age",
        "--key",
        "reg",
    ]
    words += ["--target", "phb", "--formula", "hgt ~ age", "--shadows", 3, "--audience", "public", "--drop", "id"]
    words += ["--holdout", tmp_path / "boys.parquet", "--threads", 1, "--memory-limit", "1 GB", "--random-state", 5]
    done = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert done.output == f"Report: {tmp_path / 'a.html'} (public)\n"
    assert given["keys"] == ["age", "reg"]
    assert given["target"] == ["phb"]
    assert given["columns_read"] == boys.data.columns
    assert given["copies"].m == 2
    assert (given["shadows"], given["formula"], given["threads"], given["random_state"]) == (3, "hgt ~ age", 1, 5)
    assert given["holdout"].starts[-1] == 748
    (tmp_path / "a.html").write_text("mine")
    refused = CliRunner().invoke(main, [str(word) for word in words])
    assert refused.exit_code == 1
    assert "exists" in refused.output


# In a browser


def chromium(*words):
    """Run a browser without a window, in a profile of its own."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no chromium on PATH: the page was not opened in a browser")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    flags += ["--disable-background-networking", "--disable-component-update", "--no-first-run", "--disable-sync"]
    return subprocess.run([found, *flags, *map(str, words)], capture_output=True, timeout=120, check=True)


@pytest.fixture(scope="module")
def opened(boys, tmp_path_factory):
    """An internal report with everything on it."""
    place = tmp_path_factory.mktemp("browser")
    write(
        boys,
        place / "a.html",
        formula="hgt ~ age",
        disclosure=measured_disclosure(["age"], ["phb"], attacks=attacks(0.6, 0.57)),
        attacks={"minbucket 1": attacks(0.7, 0.66)},
    )
    return place


def test_a_browser_opens_it_without_errors_or_requests(opened, tmp_path):
    log = tmp_path / "net.json"
    url = (opened / "a.html").as_uri()
    words = ["--enable-logging=stderr", "--v=0", f"--log-net-log={log}", "--virtual-time-budget=3000"]
    done = chromium(f"--user-data-dir={tmp_path / 'profile'}", *words, "--dump-dom", url)
    assert b"Are they usable?" in done.stdout
    assert b"CONSOLE" not in done.stderr
    # Browsers themselves ask for updates and the time; what a page asks for has an initiator.
    assert not asked_by_page(log)
    trap = tmp_path / "trap.html"
    trap.write_text("<img src='http://example.invalid/x.png'><script>console.log('heard')</script>")
    done = chromium(f"--user-data-dir={tmp_path / 'profile'}", *words, "--dump-dom", trap.as_uri())
    assert b"CONSOLE" in done.stderr
    assert asked_by_page(log) == {"http://example.invalid/x.png"}


def asked_by_page(log):
    """Addresses that a page asked for, of a log of the network."""
    events = [event.get("params", {}) for event in json.loads(log.read_text())["events"]]
    return {p["url"] for p in events if "url" in p and p.get("initiator", "not an origin") != "not an origin"}


@pytest.mark.parametrize(("scheme", "ground"), [(1, (255, 255, 255)), (0, (20, 23, 28))])
def test_light_and_dark(opened, tmp_path, scheme, ground):
    image = pytest.importorskip("PIL.Image")
    shot = tmp_path / "shot.png"
    words = [f"--blink-settings=preferredColorScheme={scheme}", "--window-size=800,900", f"--screenshot={shot}"]
    chromium(f"--user-data-dir={tmp_path / 'profile'}", *words, (opened / "a.html").as_uri())
    with image.open(shot) as picture:
        assert picture.convert("RGB").getpixel((2, 600)) == ground


def test_it_fits_a_phone_and_prints(opened, tmp_path):
    # A window cannot be narrower than 500: a frame can. What it measures comes back as the title.
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<iframe id=f src='{(opened / 'a.html').as_uri()}' style='width:390px;height:800px'></iframe>"
        "<script>f.onload = () => { const d = f.contentDocument.documentElement;"
        "document.title = JSON.stringify([d.scrollWidth, d.clientWidth]) }</script>"
    )
    words = ["--allow-file-access-from-files", "--virtual-time-budget=3000", "--dump-dom", frame.as_uri()]
    done = chromium(f"--user-data-dir={tmp_path / 'profile'}", *words)
    inner, outer = json.loads(re.search(rb"<title>(.*?)</title>", done.stdout)[1])
    assert inner <= outer <= 390
    pdf = tmp_path / "a.pdf"
    chromium(f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={pdf}", (opened / "a.html").as_uri())
    assert pdf.read_bytes().startswith(b"%PDF")


def test_protection_and_copies_of_real_rows_are_told(boys, tmp_path):
    syn = fs.synthesize(boys.data, m=2, random_state=1, copies="none")
    syn.protection = [{"measure": "TopCode", "columns": ["hgt"], "high": 193.4, "changed": {"hgt": 12}}]
    texts = {}
    for audience in ("internal", "public"):
        path = tmp_path / f"{audience}.html"
        fs.report(boys.data, syn, path, utility=boys.utility, disclosure=boys.disclosure, audience=audience)
        texts[audience] = path.read_text(encoding="utf-8")
        assert "all got another value of" in texts[audience]
        assert "TopCode" in texts[audience]
    assert "high 193.4; changed hgt 12" in texts["internal"]
    assert "193.4" not in texts["public"]
