"""The front end as its users see it."""

from __future__ import annotations

import gc
import io
import itertools
import json
import re
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
import sklearn
import statsmodels.api as sm
from hypothesis import HealthCheck, given, settings
from polars.testing import assert_frame_equal
from polars.testing.parametric import dataframes

import fastsynth as fs
from fastsynth import output, partition, run, source
from fastsynth.errors import DataError, DataWarning, NotFittedError, OptionError, OutputError, PlanError
from tests.conftest import KINDS, as_arrow

NESTED = [pl.List, pl.Array, pl.Struct, pl.Binary, pl.Object]


def values(syn):
    """All copies as plain values, whatever the kind of table."""
    return [pl.DataFrame(as_arrow(copy)) for copy in syn]


def same(a, b):
    for left, right in zip(values(a), values(b), strict=True):
        assert_frame_equal(left, right, check_dtypes=False, categorical_as_str=True)


def test_copies_are_the_same_kind_of_table_with_the_same_types(every_type, kind):
    name, make = kind
    data = make(every_type)
    syn = fs.synthesize(data, m=2, k=300, random_state=1)
    assert type(syn[0]) is type(data)
    real, copy = as_arrow(data), as_arrow(syn[1])
    assert copy.schema.equals(real.schema, check_metadata=name != "pandas")
    assert copy.num_rows == 300
    if name == "pandas":
        assert (syn[0].dtypes == data.dtypes).all()
    if name == "polars":
        assert syn[0].schema == data.schema


def test_caller_table_is_not_changed(every_type):
    before = every_type.clone()
    fs.synthesize(every_type, m=1, random_state=1)
    assert_frame_equal(every_type, before)


@pytest.mark.parametrize("proper", [False, True])
def test_same_bytes_for_threads_and_runs(mixed, proper):
    options = {"m": 3, "k": 70_000, "random_state": 7, "proper": proper}
    once = fs.synthesize(mixed, threads=1, **options)
    for threads in (1, 2, 3):
        again = fs.synthesize(mixed, threads=threads, **options)
        assert all(once.arrow(i).equals(again.arrow(i)) for i in range(3))


def test_same_values_for_every_kind_of_table(mixed):
    frame = mixed.with_columns(pl.col("region").cast(pl.String))
    reference = fs.synthesize(frame, m=2, random_state=3)
    for make in KINDS.values():
        same(reference, fs.synthesize(make(frame), m=2, random_state=3))
        same(reference, fs.synthesize(make(mixed), m=2, random_state=3))


def test_same_values_for_files(tmp_path, mixed):
    frame = mixed.with_columns(pl.col("region").cast(pl.String))
    frame.write_parquet(tmp_path / "a.parquet")
    frame.write_csv(tmp_path / "a.csv")
    reference = fs.synthesize(frame, m=1, random_state=3)
    same(reference, fs.synthesize(tmp_path / "a.parquet", m=1, random_state=3))
    same(reference, fs.synthesize(str(tmp_path / "a.csv"), m=1, random_state=3))


def test_random_states(mixed):
    draw = lambda state: fs.synthesize(mixed, m=1, random_state=state)  # noqa: E731
    unseeded = draw(None)
    assert not unseeded[0].equals(draw(None)[0])
    assert unseeded[0].equals(draw(unseeded.random_state_)[0])
    assert draw(np.random.SeedSequence(3))[0].equals(draw(np.random.SeedSequence(3))[0])
    assert draw(np.random.default_rng(3))[0].equals(draw(np.random.default_rng(3))[0])
    generator = np.random.default_rng(3)
    assert not draw(generator)[0].equals(draw(generator)[0])


def test_global_random_state_is_not_touched(mixed):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    fs.synthesize(mixed, m=1)
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_copies_differ_and_rows_are_not_linked(mixed):
    syn = fs.synthesize(mixed, m=2, random_state=1)
    assert not syn[0].equals(syn[1])
    own = (syn[0]["age"] == mixed["age"]).mean()
    chance = (mixed["age"].value_counts()["count"] / mixed.height).pow(2).sum()
    assert abs(own - chance) < 4 * np.sqrt(chance / mixed.height)


def test_rare_outcomes_keep_their_associations():
    """METHODS 2.4: P(y = 1) = .14, log-odds (.80, .54); pruning on misclassification gives (.05, -.07)."""
    n = 20_000
    rng = np.random.default_rng(8)
    x1, x2 = rng.integers(0, 2, n), rng.integers(0, 3, n)
    y = rng.random(n) < 1 / (1 + np.exp(2.95 - 0.80 * x1 - 0.54 * x2))
    frame = pl.DataFrame({"x1": x1, "x2": x2, "y": pl.Series(np.where(y, "yes", "no"))})

    def logit(d):
        design = sm.add_constant(d.select("x1", "x2").to_numpy().astype(float))
        return sm.Logit((d["y"] == "yes").to_numpy().astype(float), design).fit(disp=0)

    assert 0.12 < y.mean() < 0.16
    pooled = fs.pool(fs.synthesize(frame, m=5, random_state=1).analyse(logit))
    estimate = pooled.table["estimate"].to_numpy()[1:]
    np.testing.assert_allclose(estimate, [0.80, 0.54], atol=0.1)
    np.testing.assert_allclose(estimate, logit(frame).params[1:], atol=0.1)


def test_margins_are_kept(mixed):
    """Shares of every category over 20 copies lie within four standard errors of the real ones."""
    syn = fs.synthesize(mixed, m=20, random_state=4)
    for name in ("sex", "job", "region"):
        real = mixed[name].cast(pl.String).value_counts(normalize=True)
        drawn = pl.concat([copy[name].cast(pl.String) for copy in syn]).value_counts(normalize=True)
        both = real.join(drawn, on=name, how="full", nulls_equal=True).fill_null(0)
        p, q = both["proportion"].to_numpy(), both["proportion_right"].to_numpy()
        # Trees add a noise of their own to that of 20 copies; both together stay below that of one sample.
        assert (np.abs(p - q) < 4 * np.sqrt(p * (1 - p) / mixed.height)).all()


def test_pooled_intervals_cover():
    """Coverage of T_s for a mean, small version of benchmarks/boys.py: 200 samples, tolerance four binomial errors."""
    rng = np.random.default_rng(21)
    hits = 0
    for i in range(200):
        x = rng.normal(size=200)
        frame = pl.DataFrame({"x": x, "y": x + rng.normal(size=200)})
        syn = fs.synthesize(frame, m=5, random_state=i, threads=1)
        low, high = (
            fs.pool(syn.analyse(lambda d: (d["y"].mean(), d["y"].var() / d.height)))
            .table.select("conf_low", "conf_high")
            .row(0)
        )
        hits += low <= 0 <= high
    assert 0.95 - 4 * np.sqrt(0.95 * 0.05 / 200) <= hits / 200


def test_proper_synthesis_has_more_variance_between_copies():
    rng = np.random.default_rng(2)
    frame = pl.DataFrame({"x": rng.normal(size=400), "y": rng.normal(size=400)})

    def between(proper):
        syn = fs.synthesize(frame, m=200, proper=proper, random_state=1)
        return np.var([copy["x"].mean() for copy in syn], ddof=1) / (frame["x"].var() / 400)

    # Simple: V, proper: 2 V. The variance of 200 draws has a relative standard error of .1.
    assert 0.6 < between(False) < 1.4
    assert 1.2 < between(True) < 2.8


@pytest.mark.parametrize("k", [1, 10, 5000])
def test_k_other_than_n(mixed, k):
    syn = fs.synthesize(mixed, m=2, k=k, random_state=1)
    assert [copy.height for copy in syn] == [k, k]
    assert (syn.k, syn.n, syn.m, len(syn)) == (k, 500, 2, 2)


def test_kept_columns_stay_and_make_it_partial(mixed):
    syn = fs.synthesize(mixed, m=2, columns={"age": fs.Column(method="keep")}, random_state=1)
    assert all((copy["age"] == mixed["age"]).all() for copy in syn)
    assert syn.design.partial
    assert fs.pool(syn.analyse(lambda d: (d["income"].mean(), d["income"].var() / 400))).rule == "reiter2003"
    with pytest.raises(OptionError, match="'age' are kept, so k must be 500"):
        fs.synthesize(mixed, k=100, columns={"age": fs.Column(method="keep")})


def test_constant_and_missing_columns_work(every_type):
    copy = fs.synthesize(every_type, m=1, random_state=1)[0]
    assert (copy["constant"] == "same").all()
    assert copy["void"].null_count() == copy.height
    assert copy["empty"].null_count() == copy.height


def test_sequence_of_copies(mixed):
    syn = fs.synthesize(mixed, m=3, random_state=1)
    assert len(list(syn)) == 3
    assert len(syn[1:]) == 2
    assert syn[-1].equals(syn[2])
    assert syn.scan(0).collect().equals(syn[0])
    with pytest.raises(IndexError):
        syn[3]
    assert "m=3 fully synthetic copies of k=500 rows x 5 columns" in repr(syn)


def test_analyse_needs_a_function(mixed):
    with pytest.raises(OptionError, match="needs a function"):
        fs.synthesize(mixed, m=1).analyse("age ~ income")


def test_audit_is_json_without_values(mixed):
    syn = fs.synthesize(mixed, m=1, visit_sequence="table", random_state=9)
    text = json.dumps(syn.audit)
    assert syn.audit["random_state"] == 9
    assert [c["column"] for c in syn.audit["columns"]] == mixed.columns
    assert not re.search(r'"(f|m|a|b|c|n|e|s|w)"(?!:)', text)


def test_write_parquet(tmp_path, every_type):
    syn = fs.synthesize(every_type, m=2, random_state=1)
    files = syn.write_parquet(tmp_path / "new" / "out")
    assert [Path(f).name for f in files] == ["copy_1.parquet", "copy_2.parquet"]
    assert_frame_equal(pl.read_parquet(files[0]), syn[0])
    assert_frame_equal(pl.DataFrame(pq.read_table(files[1])), syn[1])
    assert json.loads((tmp_path / "new" / "out" / "audit.json").read_text())["m"] == 2
    with pytest.raises(OutputError, match="not empty"):
        syn.write_parquet(tmp_path / "new" / "out")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file"):
        syn.write_parquet(tmp_path / "file")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "new"]


def test_write_parquet_leaves_nothing_after_an_error(tmp_path, mixed, monkeypatch):
    syn = fs.synthesize(mixed, m=2, random_state=1)
    write = output._write

    def fail(folder, name, content):
        if "copy_2" in name:
            raise OutputError("Cannot write to it.")
        write(folder, name, content)

    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(output, "_write", fail)
    for name in ("new", "empty"):
        with pytest.raises(OutputError, match="Cannot write"):
            syn.write_parquet(tmp_path / name)
    assert [p.name for p in tmp_path.rglob("*")] == ["empty"]


def test_write_parquet_into_the_working_folder_and_through_a_link(tmp_path, mixed, monkeypatch):
    syn = fs.synthesize(mixed, m=1, random_state=1)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert Path(syn.write_parquet(tmp_path / "link")[0]).exists()
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    assert Path(syn.write_parquet(".")[0]).exists()


def test_numpy_integers_are_integers(tmp_path, mixed):
    method = fs.Cart(minbucket=np.int64(7), cp=np.float32(0.5))
    s = fs.Synthesizer(m=np.int64(2), method=method, random_state=np.int64(1)).fit(mixed)
    syn = s.sample(k=np.int32(10))
    syn.write_parquet(tmp_path / "out")
    s.save(tmp_path / "m.fsyn")
    assert json.dumps(syn.audit)


def test_enum_with_many_unused_levels_is_no_identifier(mixed):
    levels = pl.Enum([f"l{i}" for i in range(600)])
    frame = mixed.with_columns(e=pl.format("l{}", pl.int_range(500) % 3).cast(levels))
    assert fs.synthesize(frame, m=1)[0].schema["e"] == levels


def test_written_files_are_the_same_bytes(tmp_path, mixed):
    for name in ("a", "b"):
        fs.synthesize(mixed, m=1, random_state=1).write_parquet(tmp_path / name)
    assert (tmp_path / "a" / "copy_1.parquet").read_bytes() == (tmp_path / "b" / "copy_1.parquet").read_bytes()


def test_scikit_learn_manners(mixed):
    s = fs.Synthesizer(m=2, method=fs.Cart(minbucket=7), random_state=1)
    assert s.get_params()["method"] == fs.Cart(minbucket=7)
    clone = sklearn.clone(s)
    assert clone.get_params() == s.get_params()
    assert s.set_params(m=3) is s
    assert s.m == 3
    with pytest.raises(OptionError, match="No parameter 'n_jobs'"):
        s.set_params(n_jobs=2)
    with pytest.raises(NotFittedError, match="call fit"):
        s.sample()
    assert s.fit(mixed) is s
    assert repr(s) == "Synthesizer(m=3, method=Cart(minbucket=7, cp=1e-08, refill=False), random_state=1)"


def test_two_doors_one_room(mixed):
    one = fs.synthesize(mixed, m=2, k=50, random_state=5)
    two = fs.Synthesizer(random_state=5).fit(mixed).sample(m=2, k=50)
    three = fs.Synthesizer().fit(mixed).sample(m=2, k=50, random_state=5)
    same(one, two)
    same(one, three)


def test_summary(mixed):
    columns = {"sex": fs.Column(method="sample"), "age": fs.Column(method="keep")}
    s = fs.Synthesizer(columns=columns, visit_sequence="table").fit(mixed)
    table = s.summary()
    assert table["column"].to_list() == mixed.columns
    assert table["action"].to_list() == ["keep", "draw", "draw", "draw", "draw"]
    assert table["n_predictors"].to_list() == [0, 0, 2, 3, 4]
    assert table["predictors"].to_list()[1:3] == [[], mixed.columns[:2]]
    assert table["smallest_leaf"].drop_nulls().min() >= 5


@pytest.fixture(scope="module")
def wide():
    """70 columns of noise, but the last one follows the fourth: high where that is near its middle."""
    rng = np.random.default_rng(3)
    columns = {f"x{i}": rng.normal(size=600).round(2) for i in range(68)}
    columns["x20"] = rng.choice(["a", "b", "c"], 600)
    columns["group"] = np.array(["p", "q", "r"])[np.searchsorted([-0.5, 0.5], columns["x5"])]
    columns["y"] = np.abs(columns["x3"]) + 0.1 * rng.normal(size=600)
    return pl.DataFrame(columns)


def test_wide_tables_find_the_useful_predictors(wide):
    s = fs.Synthesizer(m=1, random_state=1).fit(wide)
    table = s.summary()
    assert table["n_predictors"].to_list() == [min(i, 20) for i in range(70)]
    predictors = dict(zip(table["column"], table["predictors"].to_list()))
    assert "x3" in predictors["y"]
    assert "x5" in predictors["group"]
    assert [record["predictors"] for record in s.sample().audit["columns"]] == table["predictors"].to_list()
    copy = s.sample()[0]
    assert np.corrcoef(np.abs(copy["x3"]), copy["y"])[0, 1] > 0.8
    everything = fs.Synthesizer(predictors="all").fit(wide).summary()
    assert everything["n_predictors"].to_list() == list(range(70))


def test_predictors_are_the_same_for_files_and_threads(wide, tmp_path):
    wide.write_parquet(tmp_path / "wide.parquet", row_group_size=100)
    options = {"m": 1, "random_state": 1, "columns": {"x9": fs.Column(predictors=["x0"])}}
    assert isinstance(source.open_source(tmp_path / "wide.parquet", 1_200_000), source.FileSource)  # in pieces
    one = fs.synthesize(wide, threads=1, **options)
    two = fs.synthesize(tmp_path / "wide.parquet", threads=2, memory_limit=1_200_000, **options)
    assert one.audit == two.audit
    assert one.audit["columns"][9]["predictors"] == ["x0"]
    assert one[0].equals(two[0])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"m": 0}, OptionError, "m=0: must be an integer of at least 1"),
        ({"m": 2.0}, OptionError, "m=2.0"),
        ({"k": 0}, OptionError, "k=0"),
        ({"k": -5}, OptionError, "k=-5"),
        ({"threads": 0}, OptionError, "threads=0"),
        ({"random_state": -1}, OptionError, "random_state=-1"),
        ({"random_state": "x"}, OptionError, "random_state='x'"),
        ({"random_state": True}, OptionError, "random_state=True"),
        ({"progress": "yes"}, OptionError, "progress='yes'"),
        ({"predictors": np.ones((2, 2))}, OptionError, "must be 'auto' or 'all'"),
        ({"k": 10**12}, OptionError, r"need at least [\d,.]+ GiB"),
        ({"method": "rf"}, OptionError, "method='rf'"),
        ({"columns": {"nope": fs.Column()}}, PlanError, "no column 'nope'"),
    ],
)
def test_bad_options_are_refused(mixed, options, error, message):
    with pytest.raises(error, match=message):
        fs.synthesize(mixed, **options)


def test_proper_fits_are_for_as_many_copies(mixed):
    s = fs.Synthesizer(m=2, proper=True, random_state=1).fit(mixed)
    assert len(s.sample()) == 2
    with pytest.raises(OptionError, match="models of 2 copies were fitted"):
        s.sample(m=3)


def test_identifiers_are_made_anew(mixed):
    frame = mixed.with_columns(name=pl.format("person {}", pl.int_range(500)))
    with pytest.warns(DataWarning, match="'name' identify people: fresh identifiers"):
        syn = fs.synthesize(frame, m=2, random_state=1)
    for copy in syn:
        assert copy["name"].n_unique() == 500
        assert copy["name"].str.contains(r"^person \d+$").all()
    assert not syn[0]["name"].equals(syn[1]["name"])
    agreed = fs.synthesize(frame, m=2, random_state=1, columns={"name": fs.Column(method="identifier")})
    assert agreed[0].equals(syn[0])
    model = fs.Synthesizer(columns={"name": fs.Column(method="identifier")}).fit(frame).model_
    assert len(model.variables[-1].values) == 1  # no real identifier lives on
    assert fs.synthesize(frame, m=1, columns={"name": fs.Column(method="sample")}).m == 1
    with pytest.raises(PlanError, match="'name' cannot predict"):
        fs.synthesize(
            frame.select("name", "age"),
            columns={"name": fs.Column(method="identifier"), "age": fs.Column(predictors=["name"])},
        )
    with pytest.raises(DataError, match="'job' has method='identifier', but its values follow no pattern"):
        fs.synthesize(mixed, columns={"job": fs.Column(method="identifier")})


def test_free_text_is_left_out(mixed):
    rng = np.random.default_rng(1)
    words = np.array(["the", "boss", "is", "away", "again", "since", "monday", "and", "I", "wait"])
    text = [" ".join(rng.choice(words, rng.integers(3, 30))) for _ in range(500)]
    frame = mixed.with_columns(notes=pl.Series(text))
    with pytest.warns(DataWarning, match="'notes' hold free text"):
        synthesizer = fs.Synthesizer(random_state=1).fit(frame)
    assert synthesizer.dropped_ == ["notes"]
    assert synthesizer.sample(m=1)[0].columns == mixed.columns
    assert synthesizer.sample(m=1)[0].equals(fs.synthesize(mixed, m=1, random_state=1)[0])


def test_nothing_is_printed(mixed, capfd):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        fs.synthesize(mixed, m=1)
    captured = capfd.readouterr()
    assert out.getvalue() + err.getvalue() + captured.out + captured.err == ""


def test_progress(mixed, capfd):
    events = []
    fs.synthesize(mixed, m=2, progress=lambda *event: events.append(event))
    assert events[:2] == [("read", 500, 500), ("fit", 1, 5)]
    assert events[-1] == ("draw", 1000, 1000)
    fs.synthesize(mixed, m=2, progress=True)
    shown = capfd.readouterr().err
    assert "draw" in shown
    assert "row/s" in shown


# Tables in files, and models of some rows


@pytest.fixture
def pieces(monkeypatch):
    """Files are read in pieces of about 70 rows."""
    monkeypatch.setattr(source, "PIECE_ROWS", 70)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threads": 2},
        {"proper": True},
        {"method": "calibrated"},
        {"fit_rows": 200},
        {"fit_rows": 200, "fresh_rows": True},
        {"fit_rows": 60, "method": fs.Cart(refill=True)},
        {"fit_rows": 150, "proper": True},
        {"fit_rows": 10_000},
    ],
    ids=str,
)
def test_files_in_pieces_give_the_bytes_of_a_table_in_memory(tmp_path, every_type, pieces, options):
    path = tmp_path / "a.parquet"
    every_type.write_parquet(path, row_group_size=61)
    whole = fs.synthesize(path, m=2, k=300, random_state=1, **options)
    # In one case codes stay in memory, in the other they go to a file.
    for limit in (10_000, 100_000):
        assert isinstance(source.open_source(path, limit), source.FileSource)
        out = tmp_path / str(limit)
        parts = fs.synthesize(path, m=2, k=300, random_state=1, memory_limit=limit, out=out, **options)
        for i in range(2):
            assert_frame_equal(pl.DataFrame(parts.arrow(i)), pl.DataFrame(whole.arrow(i)), categorical_as_str=True)
            assert parts.arrow(i).schema.equals(whole.arrow(i).schema, check_metadata=True)
        assert parts.audit == whole.audit
    if options != {"fit_rows": 10_000}:
        assert whole.design.fit_rows == options.get("fit_rows")


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(frame=dataframes(min_cols=2, max_cols=4, min_size=2, max_size=60, allow_null=True, excluded_dtypes=NESTED))
def test_any_file_gives_the_same_in_pieces(tmp_path_factory, frame):
    folder = tmp_path_factory.mktemp("any")
    frame.write_parquet(folder / "a.parquet", row_group_size=7)
    with mock.patch.object(source, "PIECE_ROWS", 10):
        options = {"columns": {name: fs.Column(method="cart") for name in frame.columns}, "m": 1, "random_state": 1}
        try:
            whole = fs.synthesize(folder / "a.parquet", **options)
        except DataError as error:
            with pytest.raises(DataError, match=re.escape(str(error))):
                fs.synthesize(folder / "a.parquet", memory_limit=1, **options)
            return
        parts = fs.Synthesizer(**options, memory_limit=1).fit(folder / "a.parquet")
        parts.memory_limit = None
        assert_frame_equal(parts.sample()[0], whole[0], check_exact=True)


def test_kept_and_passive_columns_of_files(tmp_path, mixed, pieces):
    path = tmp_path / "a.parquet"
    frame = mixed.with_columns(double=pl.col(mixed.columns[0]) * 2)
    frame.write_parquet(path, row_group_size=50)
    columns = {"double": fs.Column(passive=f"{mixed.columns[0]} * 2"), mixed.columns[1]: fs.Column(method="keep")}
    for extra in ({}, {"fit_rows": 200}):
        whole = fs.synthesize(path, m=1, random_state=1, columns=columns, **extra)
        s = fs.Synthesizer(m=1, random_state=1, columns=columns, memory_limit=20_000, **extra).fit(path)
        s.memory_limit = None
        assert s.sample().arrow(0).equals(whole.arrow(0))
        assert_frame_equal(whole[0].select(mixed.columns[1]), frame.select(mixed.columns[1]))
        assert s.differences_ == {"double": 0}


def test_columns_without_predictors_and_levels_come_from_all_rows():
    rng = np.random.default_rng(1)
    n = 20_000
    rare = np.where(np.arange(n) < 20, "rare", "often")
    frame = pl.DataFrame({"a": rng.permutation(rare), "b": rng.integers(0, 5, n), "c": rng.normal(size=n)})
    s = fs.Synthesizer(m=1, method="cart", visit_sequence="table", random_state=1, fit_rows=100).fit(frame)
    first = s.model_.fits[0][0].values
    assert len(first.donors) == n
    assert (first.donors == 2).sum() == 20  # ranks are in the order of the values: null, often, rare
    assert len(s.model_.fits[0][2].values.donors) == 100
    s = fs.Synthesizer(m=1, method=fs.Cart(refill=True), visit_sequence="table", random_state=1, fit_rows=100)
    s.fit(frame)
    assert len(s.model_.fits[0][2].values.donors) == 800  # eight rows in a leaf for each that it was grown on


def test_models_of_some_rows_pool_by_their_rule(tmp_path, mixed):
    s = fs.Synthesizer(m=3, method="cart", random_state=1, fit_rows=200, fresh_rows=True).fit(mixed)
    s.save(tmp_path / "model")
    for synthesizer in (s, fs.Synthesizer.load(tmp_path / "model")):
        syn = synthesizer.sample()
        assert (syn.design.fit_rows, syn.design.fresh, syn.design.proper) == (200, True, False)
        assert syn.audit["fit_rows"] == 200
        with pytest.raises(OptionError, match="models of 3 copies"):
            synthesizer.sample(m=4)
    assert fs.synthesize(mixed, m=2, fit_rows=500).design.fit_rows is None
    column = mixed.columns[0]
    pooled = fs.pool(syn.analyse(lambda d: (d[column].mean(), d[column].var() / d.height)))
    assert pooled.rule == "subsample"
    assert "200" in pooled.reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit_rows": 0}, "fit_rows=0"),
        ({"fit_rows": 2.5}, "fit_rows=2.5"),
        ({"fresh_rows": 1, "fit_rows": 9}, "fresh_rows=1"),
        ({"memory_limit": "lots"}, "memory_limit='lots'"),
    ],
)
def test_bad_sizes_are_refused(mixed, options, message):
    with pytest.raises(OptionError, match=message):
        fs.synthesize(mixed, **options)


def test_temporary_files_go_also_after_an_error(tmp_path, mixed, pieces, monkeypatch):
    path = tmp_path / "a.csv"
    mixed.write_csv(path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    seen = []

    def fail(shared, *_):
        seen.extend(p.name for p in (tmp_path / "tmp").rglob("*"))
        raise RuntimeError("stop")

    monkeypatch.setattr(run, "fit_step", fail)
    with pytest.raises(RuntimeError, match="stop"):
        fs.synthesize(path, memory_limit=1_000, out=tmp_path / "out")
    gc.collect()
    assert "codes" in seen
    assert list((tmp_path / "tmp").iterdir()) == []


def test_rare_levels_are_counted(tmp_path):
    levels = ["a"] * 100 + ["b"] * 10 + ["c"] * 9 + ["d"]
    frame = pl.DataFrame({"x": range(120), "job": levels, "enum": pl.Series(levels, dtype=pl.Enum(list("dcbaz")))})
    frame = frame.with_columns(null=pl.lit(None, pl.String), some=pl.when(pl.col("x") > 1).then(pl.col("job")))
    frame.write_parquet(tmp_path / "a.parquet")
    for memory in (None, 1):
        s = fs.Synthesizer(m=1, visit_sequence="table", memory_limit=memory).fit(tmp_path / "a.parquet")
        counts = dict(s.summary().select("column", "n_rare_levels").iter_rows())
        assert counts == {"x": None, "job": 2, "enum": 2, "null": 0, "some": 2}
    s.memory_limit = None
    assert s.sample().audit["columns"][1]["n_rare_levels"] == 2
    s.save(tmp_path / "model")
    assert fs.Synthesizer.load(tmp_path / "model").rare_levels_ == s.rare_levels_


def in_files(frame, folder, cuts):
    """Write runs of rows as files of their own."""
    for i, (start, stop) in enumerate(itertools.pairwise([0, *cuts, frame.height])):
        frame[start:stop].write_parquet(folder / f"{i}.parquet")
    return folder


@pytest.fixture
def relation():
    rng = np.random.default_rng(1)
    x = rng.normal(size=4_000)
    label = np.where(np.arange(4_000) < 3_000, "early", rng.choice(["late", "early"], 4_000))
    return pl.DataFrame({"x": x, "y": 0.8 * x + 0.6 * rng.normal(size=4_000), "label": label})


def test_every_partition_draws_its_share(tmp_path, relation, monkeypatch):
    monkeypatch.setattr(partition, "LEAST_PARTITION", 500)
    (tmp_path / "in").mkdir()
    path = in_files(relation, tmp_path / "in", [800, 800, 803, 2_000, 3_000, 3_950])
    for name, options in {"a": {}, "b": {"threads": 1, "memory_limit": 1}}.items():
        syn = fs.synthesize(path, m=2, random_state=1, fit="partition", out=tmp_path / name, **options)
    written = [{p.name: p.read_bytes() for p in (tmp_path / name).rglob("*.parquet")} for name in "ab"]
    assert len(written[0]) == 4  # partitions of 800, 1,200, 1,000 and 1,000 rows
    assert written[0] == written[1]
    copy = syn[1]
    assert copy.height == 4_000
    assert copy.schema == relation.schema
    # The partition that has the other level draws it, in its rows; the others cannot.
    assert copy["label"][:3_000].unique().to_list() == ["early"]
    assert abs((copy["label"][3_000:] == "late").mean() - 0.5) < 0.1
    assert abs(np.corrcoef(copy["x"], copy["y"])[0, 1] - 0.8) < 0.05
    assert fs.pool(syn.analyse(lambda d: (d["y"].mean(), d["y"].var() / d.height))).rule == "raab2016"
    (tmp_path / "a" / "copy_2" / "part_3.parquet").unlink()
    fs.synthesize(path, m=2, random_state=1, fit="partition", out=tmp_path / "a", resume=True)
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").rglob("*.parquet")} == written[0]
    with pytest.raises(OutputError, match="differs in"):
        fs.synthesize(path, m=2, random_state=1, out=tmp_path / "a", resume=True)


def test_partitions_with_other_options(tmp_path, relation, monkeypatch):
    monkeypatch.setattr(partition, "LEAST_PARTITION", 500)
    columns = {"x": fs.Column(method="keep"), "y": fs.Column(passive="x * 2")}
    options = {"m": 2, "random_state": 1, "fit": "partition"}
    for name, frame in {"in memory": relation.with_columns(y=pl.col("x") * 2)}.items():
        syn = fs.synthesize(frame, **options, columns=columns, out=tmp_path / name)
        assert_frame_equal(syn[0].select("x", "y"), frame.select("x", "y"))
    proper = fs.synthesize(relation, **options, proper=True, k=77, out=tmp_path / "proper")
    assert [len(copy) for copy in proper] == [77, 77]
    assert fs.pool(proper.analyse(lambda d: (d["y"].mean(), 1.0))).reason != ""


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        ([0, 10], [(0, 1, 10)]),
        ([0, 4, 8, 12, 30], [(0, 2, 8), (2, 4, 22)]),
        ([0, 0, 7, 7, 14, 15], [(0, 2, 7), (2, 5, 8)]),
        ([0, 3], [(0, 1, 3)]),
        ([0, 20, 22], [(0, 2, 22)]),
    ],
)
def test_small_pieces_join_to_partitions(starts, expected, monkeypatch):
    monkeypatch.setattr(partition, "LEAST_PARTITION", 6)
    shares = partition.partitions(starts, 100)
    assert [(s.pieces.start, s.pieces.stop, s.n_rows) for s in shares] == expected
    assert sum(s.k for s in shares) == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit": "partition"}, "say with out="),
        ({"fit": "parts"}, "fit='parts'"),
        ({"fit": "partition", "out": True, "fit_rows": 9}, "leave out fit_rows"),
        ({"fit": "partition", "out": True, "columns": {"x": fs.Column(method="keep")}, "k": 5}, "k must be 4000"),
    ],
)
def test_misuse_of_partitions(tmp_path, relation, options, message):
    if options.get("out"):
        options = options | {"out": tmp_path / "out"}
    with pytest.raises(OptionError, match=message):
        fs.synthesize(relation, **options)


def test_numbers_that_name_people_are_made_anew():
    rng = np.random.default_rng(1)
    frame = pl.DataFrame({"id": rng.permutation(2_000) + 10**6, "x": rng.normal(size=2_000)})
    with pytest.warns(DataWarning, match="'id' identify people"):
        copy = fs.synthesize(frame, m=1)[0]
    assert copy["id"].n_unique() == 2_000
    fs.synthesize(frame, m=1, columns={"id": fs.Column(method="sample")})
    fs.synthesize(frame.with_columns(id=pl.col("id") // 2), m=1)


def test_copies_on_disk_are_opened_with_how_they_were_made(tmp_path, mixed):
    options = {"method": "cart", "fit_rows": 100, "fresh_rows": True}
    written = fs.synthesize(mixed, m=3, k=300, random_state=1, out=tmp_path / "out", **options)
    opened = fs.Synthesis.read(tmp_path / "out")
    assert opened.design == written.design
    assert opened.audit == written.audit
    assert opened.summary().equals(written.summary())
    analysis = fs.mean("age")
    a, b = (fs.pool(syn.analyse(analysis)) for syn in (written, opened))
    assert a.rule == b.rule == "subsample"
    assert a.table.equals(b.table)
    assert_frame_equal(opened[2], written[2], categorical_as_str=True)
    (tmp_path / "out" / "audit.json").unlink()
    with pytest.raises(OutputError, match="no finished copies"):
        fs.Synthesis.read(tmp_path / "out")
    with pytest.raises(OutputError, match="no finished copies"):
        fs.Synthesis.read(tmp_path / "nowhere")


def test_fewer_rows_than_a_leaf_needs_are_refused(mixed):
    with pytest.raises(OptionError, match="minbucket=20"):
        fs.synthesize(mixed, m=1, fit_rows=19)
    with pytest.raises(OptionError, match="minbucket=5"):
        fs.synthesize(mixed, m=1, method="cart", fit_rows=4)


def test_a_slice_is_a_synthesis_of_some_copies(mixed):
    syn = fs.synthesize(mixed, m=5, random_state=1)
    some = syn[1:4]
    assert (some.m, len(some)) == (3, 3)
    assert_frame_equal(some[0], syn[1])
    assert fs.pool(some.analyse(fs.mean("age"))).m == 3


def test_ordered_categories_of_pandas_keep_their_order_in_files(tmp_path, mixed):
    frame = mixed.to_pandas()
    levels = ["low", "mid", "top"]
    frame["grade"] = pd.Categorical(np.tile(levels, 200)[: len(frame)], levels, ordered=True)
    fs.synthesize(frame, m=1, random_state=1).write_parquet(tmp_path / "out")
    copy = fs.Synthesis.read(tmp_path / "out")[0]
    assert copy["grade"].dtype == pl.Enum(levels)


def test_fresh_rows_alone_are_as_many_as_a_bootstrap_sample_holds(mixed):
    s = fs.Synthesizer(m=2, random_state=1, fresh_rows=True).fit(mixed)
    assert s.model_.fit_rows == round(0.632 * mixed.height)
    assert len(s.model_.fits) == 2


def test_v_is_near_zero_for_calibrated_trees_and_pool_says_where_it_is_not():
    rng = np.random.default_rng(1)
    x = 0.6 * rng.normal(size=(500, 1)) + 0.8 * rng.normal(size=(500, 6))
    frame = pl.DataFrame({f"x{i}": x[:, i] for i in range(6)} | {"y": x.sum(1) + rng.normal(size=500)})
    plain, calibrated = (fs.synthesize(frame, m=2, method=name, random_state=1) for name in ("cart", "calibrated"))
    assert plain.v > 0.15 > 0.1 > abs(calibrated.v)
    assert "cover about" in str(fs.pool(plain.analyse(fs.mean("y"))))
    assert "cover about" not in str(fs.pool(calibrated.analyse(fs.mean("y"))))
    assert "cover about" not in str(fs.pool(plain.analyse(fs.mean("y")), target="sample"))


def test_more_identifiers_than_there_are_codes(tmp_path):
    """Identifiers are no categories, so that their number has no limit; real ones live on nowhere."""
    n = 70_000
    frame = pl.DataFrame({"id": pl.int_range(n, eager=True).shuffle(1), "x": np.arange(n) % 50, "y": np.arange(n) % 7})
    frame = frame.with_columns(id=pl.format("DE-{}", pl.col("id").cast(pl.String).str.zfill(7)))
    columns = {"id": fs.Column(method="identifier")}
    s = fs.Synthesizer(columns=columns, method="cart", random_state=1).fit(frame)
    copy = s.sample(m=1)[0]
    assert copy["id"].n_unique() == n
    assert copy["id"].str.contains(r"^DE-\d{7}$").all()
    s.save(tmp_path / "m.fsyn")
    assert fs.Synthesizer.load(tmp_path / "m.fsyn").sample(m=1)[0].equals(copy)
    frame.write_parquet(tmp_path / "x.parquet", row_group_size=20_000)
    options = {"columns": columns, "method": "cart", "random_state": 1, "memory_limit": 3_000_000}
    assert fs.synthesize(tmp_path / "x.parquet", m=1, **options)[0].equals(copy)
    with pytest.raises(DataError, match="'id' has 70,000 categories"):
        fs.synthesize(frame, columns={"id": fs.Column(method="cart")})
    with pytest.raises(DataError, match="'id' has 66,000 categories"):
        fs.synthesize(pl.DataFrame({"id": np.arange(80_000) % 66_000, "x": np.arange(80_000)}).cast({"id": pl.String}))
