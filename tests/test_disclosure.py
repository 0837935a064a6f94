"""Disclosure counts against vectors of synthpop and against slow, plain oracles."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import fastsynth as fs
from fastsynth import disclosure as is_a_function
from fastsynth import source
from fastsynth.attribution import ATTRIBUTE, IDENTITY, identity_measures
from fastsynth.disclosure import identical_rows
from fastsynth.errors import DataError, OptionError

# METHODS 6.1, checked against synthpop 1.9-3; TCAP of Little and others by hand.
VECTOR = {
    "UiO": 40, "UiS": 40, "UiOiS": 30, "repU": 10, "Dorig": 80, "Dsyn": 80, "iS": 90, "DiS": 80, "DiSCO": 70,
    "DiSDiO": 60, "max_denom": 2, "mean_denom": 1.4, "baseCAPd": 52, "CAPd": 90, "CAPs": 90, "DCAP": 75,
    "TCAP_synthpop": 77.77777777777777, "TCAP": 87.5,
}  # fmt: skip


def table(text):
    rows = [(word[0], word[1], word[2]) for word in text.split()]
    return pl.DataFrame(rows, schema=["k1", "k2", "t"], orient="row")


REAL = table("a1x a1x a2y b1x b1y b2y c1x c1x d1y e2x")
COPY = table("a1x a1x a2y b1y b2y b2y c1x d1x d1y f1x")


def count(real, copies, **options):
    return fs.disclosure(real, copies, ["k1", "k2"], "t", **options)


def oracle(real, copy, excluded=lambda q, t: False, near=lambda a, b: a == b, sizes=None):
    """The measures of METHODS 6.1 row by row; rows are (q, t), and sizes those of the tables if rows are left out."""
    d_q, s_q = Counter(q for q, _ in real), Counter(q for q, _ in copy)
    d_tq = Counter(real)
    d_of, s_of = defaultdict(set), defaultdict(set)
    for q, t in real:
        d_of[q].add(t)
    for q, t in copy:
        s_of[q].add(t)
    n_d, n_s = sizes or (len(real), len(copy))
    used = [(q, t) for q, t in real if not excluded(q, t)]
    correct = [(q, t) for q, t in used if s_of[q] == {t}]
    sums = {
        "UiO": sum(d_q[q] == 1 for q, _ in real) / n_d,
        "UiS": sum(s_q[q] == 1 for q, _ in copy) / n_s,
        "UiOiS": sum(d_q[q] == 1 and s_q[q] > 0 for q, _ in real) / n_d,
        "repU": sum(d_q[q] == 1 and s_q[q] == 1 for q, _ in real) / n_d,
        "Dorig": sum(len(d_of[q]) == 1 for q, _ in used) / n_d,
        "Dsyn": sum(len(s_of[q]) == 1 for q, t in copy if not excluded(q, t)) / n_s,
        "iS": sum(s_q[q] > 0 for q, _ in used) / n_d,
        "DiS": sum(len(s_of[q]) == 1 and not excluded(q, *s_of[q]) for q, _ in used) / n_d,
        "DiSCO": len(correct) / n_d,
        "DiSDiO": sum(len(d_of[q]) == 1 for q, _ in correct) / n_d,
        "baseCAPd": sum(near(t, u) for _, t in used for _, u in real) / n_d**2,
        "CAPd": sum(sum(p == q and near(t, u) for p, u in real) / d_q[q] for q, t in used) / n_d,
        "CAPs": sum(
            sum(p == q and near(t, u) for p, u in copy) / s_q[q] for q, t in copy if not excluded(q, t)
        ) / n_s,
        "DCAP": sum(sum(p == q and near(t, u) for p, u in copy) / s_q[q] for q, t in used if s_q[q]) / n_d,
    }  # fmt: skip
    found = {name: 100 * value for name, value in sums.items()}
    cells = {d_tq[cell] for cell in correct}
    found["max_denom"] = max(cells, default=0)
    found["mean_denom"] = np.mean([d_tq[cell] for cell in set(correct)]) if correct else float("nan")
    found["TCAP"] = 100 * found["DiSCO"] / found["DiS"] if found["DiS"] else float("nan")
    found["TCAP_synthpop"] = 100 * found["DiSCO"] / found["iS"] if found["iS"] else float("nan")
    return found


def cells_of(frame, keys, target):
    return [(tuple(row[key] for key in keys), row[target]) for row in frame.iter_rows(named=True)]


def test_the_vector_of_synthpop():
    d = count(REAL, COPY)
    assert {name: d[name] for name in VECTOR} == pytest.approx(VECTOR, abs=1e-12)
    assert oracle(cells_of(REAL, ["k1", "k2"], "t"), cells_of(COPY, ["k1", "k2"], "t")) == pytest.approx(VECTOR)
    assert dict(d).keys() == {*VECTOR, "identical", "identical_unique"}
    assert len(d) == len(list(d))
    assert (d.n, d.k, d.m, d.key_columns, d.targets, d.left_out) == (10, 10, 1, ["k1", "k2"], ["t"], {})
    assert is_a_function is fs.disclosure


small = st.integers(1, 25).flatmap(
    lambda n: st.lists(
        st.tuples(
            st.sampled_from(["a", "b", None]),
            st.sampled_from([1.5, -0.0, 0.0, None]),
            st.sampled_from([0, 1, 2, 9, None]),
        ),
        min_size=n,
        max_size=n,
    )
)
SCHEMA = {"text": pl.String, "number": pl.Float64, "len": pl.Int64}


@settings(max_examples=40, deadline=None)
@given(small, small, st.booleans(), st.sampled_from([1, 2, None]), st.sampled_from([None, 1.0]))
def test_measures_equal_the_oracle(real, copy, nulls, limit, tolerance):
    keys = ["text", "number"]
    real, copy = (pl.DataFrame(rows, schema=SCHEMA, orient="row") for rows in (real, copy))
    options = {"key_nulls": ["number"], "target_nulls": False} if not nulls else {}
    if limit:
        options |= {"denom_lim": limit, "exclude_ov_denom_lim": True}
    d = fs.disclosure(real, [copy], keys, "len", tolerance=tolerance, **options)
    own, other = (cells_of(frame, keys, "len") for frame in (real, copy))
    own, other = (
        [((text, number if number is None else abs(number)), t) for (text, number), t in of] for of in (own, other)
    )

    def near(a, b):
        return a == b or (None not in (a, b) and tolerance is not None and abs(a - b) <= tolerance)

    def no_information(q, t):
        return not nulls and (q[0] is None or t is None)

    found = oracle(own, other, near=near, excluded=no_information)
    for name in IDENTITY if nulls else ():
        assert d[name] == pytest.approx(found[name])
    if limit:
        # Large cells are taken out of both tables before anything else; shares stay of all rows.
        small = [[cell for cell in of if Counter(of)[cell] <= limit] for of in (own, other)]
        found = oracle(*small, near=near, excluded=no_information, sizes=(len(own), len(other)))
    for name in ATTRIBUTE:
        assert d[name] == pytest.approx(found[name], nan_ok=True), name
    assert d.records.filter(pl.col("n_disclosed") > 0).height == round(d["DiSCO"] * real.height / 100)
    if nulls:
        assert d.records["replicated"].sum() == round(d["repU"] * real.height / 100)
        assert d.rows["replicated_unique"].sum() == d.records["replicated"].sum()


def test_means_over_copies_and_the_largest_over_targets():
    real = REAL.with_columns(u=pl.Series(list("pqpqpqpqpq")))
    copy = COPY.with_columns(u=pl.Series(list("qqqqqppppp")))
    d = fs.disclosure(real, [copy, real, copy[:6]], ["k1", "k2"])
    assert d.m == 3
    assert d.targets == ["t", "u"]
    assert d.identity["copy"].to_list() == [1, 2, 3]
    assert d["repU"] == pytest.approx(d.identity["repU"].mean())
    assert d.identity["UiS"][2] == pytest.approx(100 * 2 / 6)
    for target in ("t", "u"):
        of_copies = d.attribute_by_copy.filter(target=target)
        (row,) = d.attribute.filter(target=target).rows(named=True)
        assert row["DiSCO"] == pytest.approx(of_copies["DiSCO"].mean())
        assert row["max_denom"] == of_copies["max_denom"].max()
        assert of_copies["DiSCO"].to_list() == [
            fs.disclosure(real, [one], ["k1", "k2"], target)["DiSCO"] for one in (copy, real, copy[:6])
        ]
    assert d["DiSCO"] == d.attribute["DiSCO"].max() == d.attribute["DiSCO"][0]


def test_no_target_is_left_when_all_columns_are_keys():
    d = fs.disclosure(REAL, COPY, REAL.columns)
    assert d.targets == []
    assert "DiSCO" not in d
    assert d.attribute.height == d.checks.height == 0
    assert "repU" in str(d)
    assert set(d.rows["targets"].list.len()) == {0}


@pytest.mark.parametrize("rows", [3, 7])
def test_pieces_files_and_kinds_of_tables_give_the_same(kind, every_type, tmp_path, monkeypatch, rows):
    _, make = kind
    frame = every_type.drop("void", "span", "time", "dec", "u64")
    real, copy = frame[:200], frame[200:350]
    keys, targets = ["i8", "bool", "cat"], ["enum", "f64", "date", "text"]
    options = {"ngroups_keys": {"i8": 4}, "tolerance": {"f64": 0.5}, "random_state": 1}
    # pandas has no NaN beside null.
    real, copy = (x.with_columns(pl.col("f64").fill_nan(None)) for x in (real, copy))
    expected = fs.disclosure(real, [copy], keys, targets, **options)
    assert expected.records.height
    monkeypatch.setattr(source, "PIECE_ROWS", 41 * rows)
    given = fs.disclosure(make(real), [make(copy)], keys, targets, threads=1, **options)
    paths = []
    for label, whole in (("real", real), ("copy", copy)):
        (tmp_path / label).mkdir()
        for i, start in enumerate(range(0, whole.height, 60)):
            whole[start : start + 60].write_parquet(tmp_path / label / f"{i}.parquet", row_group_size=9)
        paths.append(tmp_path / label)
    in_files = fs.disclosure(paths[0], [paths[1]], keys, targets, memory_limit=20_000, **options)
    for other in (given, in_files):
        assert dict(other).keys() == dict(expected).keys()
        for attribute in ("identity", "attribute", "attribute_by_copy", "checks", "records", "rows"):
            assert_frame_equal(getattr(other, attribute), getattr(expected, attribute), check_exact=True)
        assert other.identical == expected.identical


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cluster_gives_the_same(tmp_path):
    boys = fs.load_boys()
    syn = fs.synthesize(boys, m=2, random_state=1)
    boys.write_parquet(tmp_path / "boys.parquet", row_group_size=300)
    syn.write_parquet(tmp_path / "copies")
    expected = fs.disclosure(boys, syn, ["reg", "gen"], ["phb", "tv"])
    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        other = fs.disclosure(
            tmp_path / "boys.parquet", tmp_path / "copies", ["reg", "gen"], ["phb", "tv"], client=client, memory_limit=1
        )
        for attribute in ("identity", "attribute_by_copy", "checks", "records", "rows"):
            assert_frame_equal(getattr(other, attribute), getattr(expected, attribute), check_exact=True)
        assert other.identical == expected.identical


def test_targets_in_several_passes_give_the_same(monkeypatch):
    import sys

    boys = fs.load_boys()
    syn = fs.synthesize(boys, m=2, random_state=1)
    expected = fs.disclosure(boys, syn, ["reg", "gen"])
    expected.records  # noqa: B018
    monkeypatch.setattr(sys.modules["fastsynth.disclosure"], "MOST_CELLS", 1500)
    other = fs.disclosure(boys, syn, ["reg", "gen"])
    assert_frame_equal(other.attribute, expected.attribute, check_exact=True)
    assert_frame_equal(other.records, expected.records, check_exact=True)
    assert_frame_equal(other.rows, expected.rows, check_exact=True)


def test_every_type_can_be_a_key_and_a_target(every_type):
    names = every_type.columns
    d = fs.disclosure(every_type, [every_type[100:]], names[:3], names[3:])
    assert d.attribute.height == len(names) - 3
    d = fs.disclosure(every_type, [every_type], names[3:], names[:3])
    assert d["UiO"] == d["repU"] == 100
    assert d.identical.share == 1
    assert not d.attribute["DiSCO"].is_null().any()


def test_copies_of_other_types_compare():
    real = pl.DataFrame({"k": pl.Series(["x", "y", "y"], dtype=pl.Categorical), "t": [1, 2, 2]})
    copy = pd.DataFrame({"k": ["x", "y"], "t": [1.0, 2.0]})
    d = fs.disclosure(real, [copy], "k", "t")
    assert d["DiSCO"] == 100
    assert d["repU"] == pytest.approx(100 / 3)


def test_examples_of_the_page_run(capsys):
    page = (Path(__file__).parent.parent / "docs/disclosure.md").read_text()
    names: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    assert "How to read" in capsys.readouterr().out


# What everybody knows


def test_levels_and_pairs_that_are_known_disclose_nothing():
    base = {"t": "x"}
    d = count(REAL, COPY, known_levels={"t": ["x"]})
    own, other = (cells_of(frame, ["k1", "k2"], "t") for frame in (REAL, COPY))
    found = oracle(own, other, excluded=lambda q, t: t == base["t"])
    assert {name: d[name] for name in found} == pytest.approx(found)
    assert d.attribute["excluded"].item() == 60
    d = count(REAL, COPY, known_pairs=[("t", "x", "k1", "a"), ("t", "y", "k2", "1")])
    found = oracle(own, other, excluded=lambda q, t: (t, q[0]) == ("x", "a") or (t, q[1]) == ("y", "1"))
    assert {name: d[name] for name in ("DiSCO", "DiS", "iS", "Dorig", "DiSDiO", "DCAP", "CAPd")} == pytest.approx(
        {name: found[name] for name in ("DiSCO", "DiS", "iS", "Dorig", "DiSDiO", "DCAP", "CAPd")}
    )
    assert d["repU"] == VECTOR["repU"]


def test_a_key_that_tells_an_excluded_level_tells_nothing():
    # Of the keys a, the copy says what is known anyway; of b it says what is true of one in two.
    real, copy = table("a1x a1y b1y b1x"), table("a1x a1x b1y b1y")
    plain = count(real, copy)
    assert (plain["DiS"], plain["DiSCO"], plain["TCAP"], plain["baseCAPd"]) == (100, 50, 50, 50)
    d = count(real, copy, known_levels={"t": ["x"]})
    assert (d["DiS"], d["DiSCO"], d["TCAP"], d["baseCAPd"]) == (25, 25, 100, 25)
    null = [frame.with_columns(pl.col("t").replace("x", None)) for frame in (real, copy)]
    d = count(*null, target_nulls=False)
    assert (d["DiS"], d["DiSCO"], d["TCAP"], d["baseCAPd"]) == (25, 25, 100, 25)


def test_large_cells_leave_the_tables():
    real, copy = table("a1x a1x a1x a1y b1y"), table("a1x a1x a1y b1x b1x b1x")
    assert count(real, copy)["DiSCO"] == 0
    d = count(real, copy, denom_lim=1, exclude_ov_denom_lim=True)
    # What is left of a is y, in the original and in the copy; nothing is left of b in the copy.
    assert (d["Dorig"], d["DiSCO"], d["DiSDiO"], d["iS"], d["TCAP"]) == (40, 20, 20, 20, 100)
    assert (d["DCAP"], d["CAPd"], d["baseCAPd"]) == pytest.approx((20, 40, 16))
    assert d["Dsyn"] == d["CAPs"] == pytest.approx(100 / 6)
    assert d["UiO"] == count(real, copy)["UiO"]
    assert d.attribute["excluded"].item() == pytest.approx(60)
    assert d.records.filter(n_disclosed=1)["row"].to_list() == [3]


def test_levels_that_are_known_may_be_nulls_classes_or_of_a_copy():
    real = pl.DataFrame({"k": [1, 1, 2, 2], "t": ["x", None, "y", "y"], "x": [1, 2, 3, 4]})
    copy = real.with_columns(t=pl.Series(["x", None, "z", "y"]))
    for level in ("x", None, "z"):
        fs.disclosure(real, copy, "k", "t", known_levels={"t": [level]})
    options = {"ngroups_target": 2, "target": "x"}
    d = fs.disclosure(real, copy, "k", known_levels={"x": ["over 2"]}, **options)
    assert d.attribute["excluded"].item() == 50
    with pytest.raises(OptionError, match="'over 3' does not occur in 'x'"):
        fs.disclosure(real, copy, "k", known_levels={"x": ["over 3"]}, **options)


def test_checks_name_levels_and_pairs():
    n = 400
    real = pl.DataFrame(
        {
            "town": ["a"] * 200 + ["b"] * 200,
            "age": [i % 10 for i in range(n)],
            "job": ["none"] * 195 + ["clerk"] * 5 + [f"job {i % 20}" for i in range(200)],
        }
    )
    copy = real.with_columns(job=pl.when(town="a").then(pl.lit("none")).otherwise("job"))
    d = fs.disclosure(real, [copy, copy], ["town", "age"], "job")
    (row,) = d.attribute.rows(named=True)
    assert row["check_1way"] == "none"
    assert row["check_2way"] == "none with town=a"
    one, two = d.checks.filter(copy=2).rows(named=True)
    assert (one["check"], one["level"], one["key"], one["n"], one["percent"]) == ("1way", "none", None, 195, 100)
    assert (two["check"], two["key"], two["key_level"], two["n"], two["percent"]) == ("2way", "town", "a", 195, 97.5)
    assert "none with town=a" in str(d)
    shared = d.public()
    assert shared.attribute["check_2way"].to_list() == ["yes"]
    assert shared.checks.height == 0
    assert dict(shared) == dict(d)
    for name in ("records", "rows"):
        with pytest.raises(OptionError, match="public"):
            getattr(shared, name)
    quiet = fs.disclosure(real, copy, ["town", "age"], "job", thresh_1way=(500, 90), thresh_2way=(4, 99))
    assert quiet.checks.height == 0
    assert quiet.attribute["check_1way"].to_list() == [None]
    known = fs.disclosure(real, copy, ["town", "age"], "job", known_pairs=[("job", "none", "town", "a")])
    assert known.checks.height == 0


def test_groups_are_quantiles_of_the_original():
    rng = np.random.default_rng(0)
    real = pl.DataFrame(
        {"age": rng.integers(0, 80, 300), "pay": np.where(rng.random(300) < 0.7, 0.0, rng.normal(size=300))}
    )
    real = real.with_columns(pay=pl.when(pl.col("age") > 5).then("pay"))
    copy = real.sample(200, with_replacement=True, seed=1)
    d = fs.disclosure(real, copy, "age", "pay", ngroups_keys=5, ngroups_target=4)
    edges = {"age": [], "pay": []}
    for name, groups in (("age", 5), ("pay", 4)):
        values = sorted(real[name].drop_nulls())
        for j in range(1, groups):
            edge = values[int(np.ceil(len(values) * j / groups)) - 1]
            if edge < values[-1] and edge not in edges[name]:
                edges[name].append(edge)
    assert len(edges["pay"]) < 3  # zeros fill more than a quarter

    def group(name, value):
        return None if value is None else sum(value > edge for edge in edges[name])

    own, other = ([(group("age", a), group("pay", p)) for a, p in x.iter_rows()] for x in (real, copy))
    found = oracle(own, other)
    assert {name: d[name] for name in found} == pytest.approx(found, nan_ok=True)
    one = fs.disclosure(real.with_columns(pay=0.0), copy.with_columns(pay=1.0), "age", "pay", ngroups_target=2)
    assert (one["baseCAPd"], one["Dorig"]) == (100, 100)
    void = fs.disclosure(real.with_columns(pay=pl.lit(None, pl.Float64)), copy, "age", "pay", ngroups_target=2)
    assert void["Dorig"] == 100


# Exact copies


def test_identical_rows_by_hand():
    real = pl.DataFrame(
        {
            "a": [1, 1, 2, None],
            "b": pl.Series(["x", "x", "y", None], dtype=pl.Categorical),
            "f": [0.5, 0.5, float("nan"), None],
        }
    ).to_arrow()
    copy = pa.table({"a": [1, 2, None, 2], "b": ["x", "y", None, "x"], "f": [0.5, float("nan"), None, 0.5]})
    found = identical_rows(real, [copy, copy.slice(3)])
    assert found.share == pytest.approx((0.75 + 0) / 2)
    assert found.unique_share == pytest.approx((0.5 + 0) / 2)
    assert found.fresh == pytest.approx(0.5)
    assert found.fresh_unique == pytest.approx(2 * 1 / 4)
    odd = pa.table({"len": [1, 1, 2], "count": [3, 3, 3]})
    assert identical_rows(odd, [odd]).fresh == pytest.approx(2 / 3)


def test_a_fresh_sample_has_the_shares_that_are_expected_of_it():
    # 60 populations of 400 rows from 300 kinds of people, some of them common.
    rng = np.random.default_rng(5)
    chance = rng.dirichlet(np.full(300, 0.3))
    differences = []
    for _ in range(60):
        real, fresh = (pl.DataFrame({"a": rng.choice(300, 400, p=chance)}) for _ in range(2))
        found = identical_rows(real, [fresh])
        differences.append((found.share - found.fresh, found.unique_share - found.fresh_unique))
    mean, error = np.mean(differences, axis=0), np.std(differences, axis=0, ddof=1) / np.sqrt(60)
    assert (np.abs(mean) < 3.5 * error).all()


def test_a_holdout_has_shares_of_its_own():
    d = count(REAL, COPY, holdout=table("a1x d1y q1x d1y " * 5))
    assert (d.identical.holdout, d.identical.holdout_unique) == (0.75, 0.5)
    assert "hold-out: 75.00 %" in str(d)
    real = pl.DataFrame({"k": [1, 2, 3], "t": [1, 1, 2]})
    copy, held = real.cast(pl.Float64), pl.DataFrame({"k": [1, 9] * 10, "t": [1] * 20})
    assert fs.disclosure(real, copy, "k", holdout=held).identical.holdout == 0.5
    with pytest.raises(DataError, match="hold-out"):
        fs.disclosure(real, real, "k", holdout=held.cast(pl.Float64))


# Which rows


def test_planted_records_that_leak_are_named():
    rng = np.random.default_rng(2)
    n = 600
    crowd = pl.DataFrame(
        {"age": rng.integers(20, 30, n), "town": rng.choice(["a", "b"], n), "pay": rng.integers(0, 5, n)}
    )
    planted = pl.DataFrame({"age": range(101, 121), "town": ["z"] * 20, "pay": range(1000, 1020)}, schema=crowd.schema)
    real = pl.concat([crowd[:300], planted, crowd[300:]])
    leaks = [3, 4, 9, 15, 19]
    clean = crowd.with_columns(pay=pl.col("pay") + 50)
    copy = pl.concat([planted[leaks[:2]], clean, planted[leaks[2:]]])
    d = fs.disclosure(real, [clean, copy], ["age", "town"])
    named = d.records.filter(exact_copy=True)
    assert sorted(named["row"]) == [300 + i for i in leaks]
    assert sorted(d.records["row"][:5]) == [300 + i for i in leaks]
    assert named["replicated"].all()
    assert named["is_unique"].all()
    assert named["n_exact_copies"].to_list() == named["n_replicated"].to_list() == [1] * 5
    assert named["n_measures"].to_list() == [3] * 5
    assert named["disclosed"].to_list() == [["pay"]] * 5
    assert d.records["replicated"].sum() == 5
    rows = d.rows.filter(exact_copy=True)
    assert rows.select("copy", "row").rows() == [(2, 0), (2, 1), (2, 602), (2, 603), (2, 604)]
    assert rows["replicated_unique"].all()
    assert rows["targets"].to_list() == [["pay"]] * 5
    assert d.records is d.records


def test_rows_equal_the_oracle_over_copies():
    rng = np.random.default_rng(7)
    real, *copies = (
        pl.DataFrame({"a": rng.integers(0, 12, n), "b": rng.integers(0, 5, n), "c": rng.integers(0, 3, n)})
        for n in (60, 60, 40)
    )
    d = fs.disclosure(real, copies, ["a", "b"])
    rows = real.rows()
    d_q, d_all = Counter(row[:2] for row in rows), Counter(rows)
    expected_records, expected_rows = {}, []
    for i, (a, b, c) in enumerate(rows):
        per = []
        for copy in copies:
            s_q = [row[2] for row in copy.rows() if row[:2] == (a, b)]
            per.append(
                (
                    d_all[a, b, c] == 1 and (a, b, c) in copy.rows(),
                    d_q[a, b] == 1 and len(s_q) == 1,
                    set(s_q) == {c},
                )
            )
        counts = tuple(sum(column) for column in zip(*per))
        if any(counts):
            expected_records[i] = (d_q[a, b] == 1, *counts)
    for number, copy in enumerate(copies, 1):
        of_copy = copy.rows()
        for i, (a, b, c) in enumerate(of_copy):
            same = {row[2] for row in of_copy if row[:2] == (a, b)}
            n_same = sum(row[:2] == (a, b) for row in of_copy)
            exact, replicated = d_all[a, b, c] == 1, d_q[a, b] == 1 and n_same == 1
            discloses = same == {c} and (a, b, c) in d_all
            if exact or replicated or discloses:
                expected_rows.append((number, i, exact, replicated, discloses))
    found = d.records.select("row", "is_unique", "n_exact_copies", "n_replicated", "n_disclosed")
    assert {row[0]: row[1:] for row in found.rows()} == expected_records
    assert d.rows.drop("targets").rows() == expected_rows
    order = d.records.select("n_measures", "n_exact_copies", "n_replicated", "n_disclosed").rows()
    assert order == sorted(order, reverse=True)


def test_partial_copies_tell_of_matches():
    boys = fs.load_boys()
    syn = fs.synthesize(boys, m=2, random_state=1, columns={"reg": fs.Column(method="keep")})
    d = fs.disclosure(boys, syn, ["reg", "gen", "age"], "phb", match_window={"age": 0.1})
    assert d.matching["copy"].to_list() == [1, 2]
    assert d["expected_match_risk"] == d.matching["expected_match_risk"].mean()
    assert 0 < d["expected_match_risk"] < 20
    assert "record j" in str(d)
    grouped = fs.disclosure(boys, syn, ["reg", "age"], "phb", ngroups_keys=4)
    assert grouped["expected_match_risk"] > 0
    assert count(REAL, COPY).matching is None
    assert fs.disclosure(boys, fs.synthesize(boys, m=1, random_state=1), "reg", "phb").matching is None


# Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"keys": []}, "keys is empty"),
        ({"keys": ["k1", "k1"]}, "twice"),
        ({"keys": ["q"]}, "'q' is not compared. Allowed are k1, k2, t, x"),
        ({"keys": 3}, "not compared"),
        ({"target": "k1"}, "cannot be a key and a target"),
        ({"target": ["y"]}, r"'y' is not compared \(not in the copies\)"),
        ({"denom_lim": 0}, "denom_lim"),
        ({"key_nulls": ["t"]}, "no key"),
        ({"known_levels": {"q": ["x"]}}, "no target"),
        ({"known_levels": ["x"]}, "dict of lists"),
        ({"known_levels": {"t": "x"}}, "dict of lists"),
        ({"known_levels": {"x": ["secret"]}}, "not of its type, Int64"),
        ({"known_levels": {"t": ["x", "w"]}}, "'w' does not occur in 't'"),
        ({"known_pairs": [("t", "x", "k1", "r")]}, "'r' does not occur in 'k1'"),
        ({"target_nulls": "no"}, "target_nulls='no': must be True or False"),
        ({"exclude_ov_denom_lim": 5}, "exclude_ov_denom_lim=5: must be True or False"),
        ({"distances": None}, "distances=None: must be True or False"),
        ({"tolerance": 1, "target": "t"}, "tolerance names 't': allowed are the numeric ones, none"),
        ({"ngroups_target": 3, "target": ["t"]}, "ngroups_target names 't'"),
        ({"match_window": 0.1}, "match_window names 'k1'"),
        ({"shadows": 7}, "even number of at least 8"),
        ({"shadows": True}, "shadows=True"),
        ({"known_pairs": [("t", "x", "k1")]}, "list of"),
        ({"known_pairs": [("t", "x", "k9", "a")]}, "keys are k1, k2"),
        ({"ngroups_target": 1}, "integer of at least 2"),
        ({"ngroups_target": {"t": 2}}, "numeric ones, x"),
        ({"ngroups_keys": {"k1": 2}}, "numeric ones, none"),
        ({"ngroups_keys": 2.5}, "integer of at least 2"),
        ({"thresh_1way": 3}, "thresh_1way=3"),
        ({"thresh_2way": (4, -1)}, "two numbers"),
        ({"tolerance": -1}, "at least 0"),
        ({"tolerance": {"x": float("nan")}}, "at least 0"),
        ({"tolerance": 1, "ngroups_target": 3}, "'x' is counted in groups"),
        ({"match_window": 1.0}, "above 0 and below 1"),
    ],
    ids=str,
)
def test_options_that_are_refused(options, words):
    real, copy = (frame.with_columns(x=pl.int_range(10)) for frame in (REAL.with_columns(y=1), COPY))
    with pytest.raises(OptionError, match=words) as error:
        fs.disclosure(real, copy, **{"keys": ["k1", "k2"], **options})
    assert "secret" not in str(error.value)


def test_identity_of_counts_alone():
    d, s = np.array([1, 1, 3, 0]), np.array([1, 0, 1, 2])
    assert identity_measures(d, s) == pytest.approx({"UiO": 40, "UiS": 50, "UiOiS": 20, "repU": 20})
    used = np.array([False, True, True, True])
    assert identity_measures(d, s, used) == pytest.approx({"UiO": 20, "UiS": 25, "UiOiS": 0, "repU": 0})


# Attacks


@pytest.fixture(scope="module")
def attacked():
    boys = fs.load_boys()
    made_from, held = boys[::2], boys[1::2]
    leaky = fs.synthesize(made_from, m=3, method=fs.Cart(minbucket=1), random_state=1)
    return made_from, held, leaky


def value(d, attack, statistic):
    return d.attacks.filter((pl.col("attack") == attack) & (pl.col("statistic") == statistic))["value"].item()


def test_a_hold_out_shows_what_is_true_of_members_only(attacked):
    made_from, held, leaky = attacked
    d = fs.disclosure(made_from, leaky, ["age", "reg"], ["tv"], holdout=held)
    assert value(d, "membership (distance)", "AUC") > 0.9
    assert d.records["called_member"].sum() > 0
    assert "inference of tv" in set(d.attacks["attack"])
    assert not d.attacks["attack"].is_in(["distances"]).any()
    fresh = fs.disclosure(made_from, [held[::2]], ["age", "reg"], ["tv"], holdout=held[1::2], distances=True)
    auc, low = (
        fresh.attacks.filter(statistic="AUC", attack="membership (distance)")[n].item() for n in ("value", "low")
    )
    # Half the width of the interval once more, since it is one for 95 %.
    assert low - (auc - low) / 2 < 0.5
    assert "alarm" in " ".join(fresh.attacks.filter(attack="distances")["note"])


def test_a_share_is_held_out_from_siblings_of_the_copies(attacked):
    made_from, _, leaky = attacked
    d = fs.disclosure(made_from, leaky, ["age"], ["tv"], holdout=0.3)
    again = fs.disclosure(made_from, leaky, ["age"], ["tv"], holdout=0.3, threads=1)
    assert d.attacks.equals(again.attacks)
    assert value(d, "membership (distance)", "AUC") > 0.9
    assert d.records["row"].max() < made_from.height


def test_a_hold_out_of_the_same_rows_is_refused(attacked):
    made_from, _, leaky = attacked
    for wrong in (made_from, made_from.reverse(), made_from[:40]):
        with pytest.raises(OptionError, match="all its rows are rows of the original"):
            fs.disclosure(made_from, leaky, ["age"], ["tv"], holdout=wrong)
    # Every row has a twin: those of another sample do, too, but not all in the same numbers.
    rng = np.random.default_rng(1)
    real, other = (pl.DataFrame({"a": rng.integers(0, 4, 60), "b": rng.integers(0, 2, 60)}) for _ in range(2))
    assert fs.disclosure(real, [real], "a", holdout=other).identical.holdout == 1
    with pytest.raises(OptionError, match="all its rows"):
        fs.disclosure(real, [other], "a", holdout=real[::-1])


def test_private_copies_have_no_recipe(tmp_path):
    real = pl.DataFrame({"a": ["x", "y"] * 50, "b": [1, 2] * 50})
    method = fs.DpCart(epsilon=1.0, domains={"a": ["x", "y"], "b": [1, 2]})
    syn = fs.synthesize(real, method=method, m=1, k=100)
    syn.write_parquet(tmp_path / "copies")
    for copies in (syn, tmp_path / "copies"):
        for options in ({"shadows": 8}, {"holdout": 0.2}):
            with pytest.raises(OptionError, match="not for DpCart"):
                fs.disclosure(real, copies, "a", **options)


def test_shadow_models_tell_leaky_leaves_from_the_default(attacked):
    made_from, _, leaky = attacked
    bad = fs.disclosure(made_from, leaky, ["age"], [], shadows=16)
    good = fs.disclosure(made_from, fs.synthesize(made_from, m=3, random_state=1), ["age"], [], shadows=16)
    assert value(bad, "shadow models (all)", "AUC") > 0.9
    assert value(good, "shadow models (all)", "AUC") < 0.8


def test_copies_without_a_recipe_need_one_for_refits(attacked, tmp_path):
    made_from, _, leaky = attacked
    leaky.write_parquet(tmp_path / "copies")
    with pytest.raises(OptionError, match="give recipe="):
        fs.disclosure(made_from, tmp_path / "copies", ["age"], ["tv"], holdout=0.2)
    with pytest.raises(OptionError, match="give recipe="):
        fs.disclosure(made_from, tmp_path / "copies", ["age"], ["tv"], shadows=8)
    d = fs.disclosure(made_from, tmp_path / "copies", ["age"], ["tv"], shadows=8, recipe=leaky.recipe)
    assert set(d.attacks["attack"]) == {f"shadow models ({group})" for group in ("all", "outlying", "random")}
    with pytest.raises(OptionError, match=r"holdout=1\.5"):
        fs.disclosure(made_from, leaky, ["age"], ["tv"], holdout=1.5)
    with pytest.raises(OptionError, match="shadows"):
        fs.disclosure(made_from, leaky, ["age"], ["tv"], shadows=-3)
