"""Rows that equal a real one."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import fastsynth as fs
from fastsynth import source
from fastsynth.columns import encode
from fastsynth.errors import OptionError, PlanError
from fastsynth.exact import Exact, row_hashes
from fastsynth.source import read_table

N = 3_000


@pytest.fixture(scope="module")
def table():
    """Rows that plain leaves copy: four categories and a number that they tell almost exactly."""
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 4, (4, N))
    number = (codes * [[64], [16], [4], [1]]).sum(0) * 10 + rng.integers(0, 900, N)
    names = dict(zip("abcd", codes.astype(str), strict=True))
    return pl.DataFrame({**names, "number": number, "flag": rng.random(N) < 0.3})


def unique_rows(frame):
    return frame.filter(frame.is_unique())


def share_of_unique(frame, copy):
    return copy.join(unique_rows(frame), on=frame.columns, how="semi", nulls_equal=True).height / copy.height


def test_hashes_tell_rows_apart_as_their_values_do():
    frame = pl.DataFrame({"a": [1, 1, 2, None, None, 1], "b": ["x", "x", "x", None, "y", None]})
    coded = encode(*read_table(frame))
    hashes = row_hashes(coded.variables, coded.ranks)
    assert hashes[0] == hashes[1]
    assert len(set(hashes.tolist())) == 5
    exact = Exact.of("fresh", hashes, 0)
    assert exact.expected == 2 / 6
    assert len(exact.hashes) == 4
    copy = pl.DataFrame({"a": [1, 2, 7, None], "b": ["x", "x", "x", "y"]}, schema=frame.schema)
    assert exact.find(coded.variables, arrays(copy)).tolist() == [1, 3]


def arrays(frame):
    return [column.combine_chunks() for column in read_table(frame)[0].columns]


@pytest.mark.parametrize("policy", ["keep", "fresh", "none"])
@pytest.mark.parametrize("method", ["cart", "calibrated"])
def test_copies_come_down_to_the_share_of_a_fresh_sample_or_to_none(table, policy, method):
    syn = fs.synthesize(table, m=4, method=method, copies=policy, random_state=2)
    share = np.mean([share_of_unique(table, copy) for copy in syn])
    if policy == "keep":
        assert syn.exact is None
        return
    twice = table.filter(table.is_duplicated()).group_by(pl.all()).len().filter(pl.col("len") == 2).height
    assert syn.exact["expected"] == pytest.approx(2 * twice / N, abs=1e-6)
    assert syn.exact["column"] == "number"
    assert syn.audit["copies"] == syn.exact
    limit = 0.0 if policy == "none" else syn.exact["expected"]
    assert share <= limit + 4 * np.sqrt(max(limit, 0) / (4 * N)) + (0.01 if policy == "fresh" else 0)
    # Only that column is another one.
    kept = fs.synthesize(table, m=4, method=method, random_state=2)
    if policy == "fresh":
        for before, after in zip(kept, syn):
            assert before.drop("number").equals(after.drop("number"))
            assert not before.equals(after) or syn.exact["found"] <= syn.exact["expected"]


def test_the_bytes_do_not_depend_on_threads_pieces_or_files(table, tmp_path, monkeypatch):
    whole = fs.synthesize(table, m=2, method="cart", copies="fresh", random_state=3, threads=1)
    table.write_parquet(tmp_path / "table.parquet", row_group_size=700)
    monkeypatch.setattr(source, "PIECE_ROWS", 1_000)
    options = {"m": 2, "method": "cart", "copies": "fresh", "random_state": 3, "threads": 2, "memory_limit": 10**5}
    parts = fs.synthesize(tmp_path / "table.parquet", out=tmp_path / "out", **options)
    assert [a.equals(b) for a, b in zip(whole, parts)] == [True, True]
    assert fs.Synthesis.read(tmp_path / "out").exact == whole.exact
    with pytest.raises(fs.errors.OutputError):
        fs.synthesize(tmp_path / "table.parquet", out=tmp_path / "out", resume=True, **{**options, "copies": "keep"})


def test_partitions_know_the_rows_of_all_others(table, tmp_path, monkeypatch):
    table.write_parquet(tmp_path / "table.parquet", row_group_size=500)
    monkeypatch.setattr(source, "PIECE_ROWS", 500)
    monkeypatch.setattr("fastsynth.partition.LEAST_PARTITION", 1_000)
    syn = fs.synthesize(
        tmp_path / "table.parquet",
        m=2,
        method="cart",
        copies="none",
        fit="partition",
        out=tmp_path / "out",
        random_state=1,
    )
    assert [share_of_unique(table, copy) for copy in syn] == [0.0, 0.0]


def test_it_is_kept_in_the_model_file(table, tmp_path):
    s = fs.Synthesizer(method="cart", copies="fresh", m=2, random_state=5).fit(table)
    s.save(tmp_path / "model")
    loaded = fs.Synthesizer.load(tmp_path / "model")
    assert loaded.copies == "fresh"
    assert [a.equals(b) for a, b in zip(s.sample(), loaded.sample())] == [True, True]
    with pytest.raises(OptionError, match="knows every real row"):
        s.save(tmp_path / "other", releasable=True)


@pytest.mark.parametrize("options", [{"strata": ["a"]}, {"proper": True}, {"fit_rows": 1_000, "fresh_rows": True}])
def test_it_works_with_strata_and_with_fits_of_their_own(table, options):
    syn = fs.synthesize(table, m=2, method="cart", copies="none", random_state=1, **options)
    assert [share_of_unique(table, copy) for copy in syn] == [0.0, 0.0]


def test_limits_of_the_redrawn_column_still_hold(table):
    limits = {"number": fs.Column(bounds=(100, 2_000), rules=[fs.Rule(when=pl.col("a") == "3", value=150)])}
    rows = table.with_columns(
        pl.when(pl.col("a") == "3").then(150).otherwise(pl.col("number").clip(100, 2000)).alias("number")
    )
    syn = fs.synthesize(rows, m=2, method="cart", columns=limits, copies="fresh", random_state=1)
    for copy in syn:
        assert copy["number"].is_between(100, 2_000).all()
        assert (copy.filter(pl.col("a") == "3")["number"] == 150).all()


def test_columns_that_decide_on_others_are_not_redrawn(table):
    both = table.with_columns(double=pl.col("number") * 2)
    passive = {"double": fs.Column(passive=pl.col("number") * 2)}
    syn = fs.synthesize(both, m=1, method="cart", columns=passive, copies="none", random_state=1)
    assert syn.exact["column"] != "number"
    assert (syn[0]["double"] == 2 * syn[0]["number"]).all()
    assert share_of_unique(both, syn[0]) == 0


def test_a_table_of_categories_is_left_alone_unless_nothing_may_match():
    rng = np.random.default_rng(4)
    frame = pl.DataFrame({name: rng.integers(0, 6, 400).astype(str) for name in "abcd"})
    assert fs.synthesize(frame, m=1, copies="fresh", random_state=1).exact is None
    syn = fs.synthesize(frame, m=1, copies="none", random_state=1)
    assert share_of_unique(frame, syn[0]) == 0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"copies": "few"}, OptionError, "allowed are 'keep', 'fresh', 'none'"),
        ({"copies": "fresh", "where": {"number": "flag"}}, OptionError, "where="),
        (
            {"copies": "none", "forbid": ["a = '1' and b = '1' and c = '1' and d = '1' and number > 0 and flag"]},
            PlanError,
            "every column",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(table, options, error, words):
    if "forbid" in options:
        options = options | {"visit_sequence": ["flag", "number", "a", "b", "c", "d"]}
        options["columns"] = {"d": fs.Column(passive=pl.col("c"))}
    with pytest.raises(error, match=words):
        fs.synthesize(table, m=1, random_state=1, **options)


def test_a_given_column_is_not_redrawn(table):
    s = fs.Synthesizer(visit_sequence=["number", "a", "b", "c", "d", "flag"], method="cart", copies="fresh").fit(table)
    with pytest.raises(OptionError, match="which is given"):
        s.sample(m=1, given=table.select("number"))


def test_where_there_are_no_other_rows_it_says_so():
    frame = pl.DataFrame({"a": list("ab"), "b": list("xx")})
    with pytest.raises(PlanError, match="few combinations"):
        fs.synthesize(frame, m=1, copies="none", method=fs.Cart(minbucket=1), random_state=1)
