"""Utility of copies, against slow twins, and the same however the rows are read."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import fastsynth as fs
from fastsynth import source, tables
from fastsynth.errors import DataError, OptionError
from fastsynth.measures import MEASURES
from fastsynth.utility import _patterns, _worst_cells
from tests.conftest import to_pandas


@pytest.fixture(scope="module")
def copies(mixed):
    return list(fs.synthesize(mixed, m=2, random_state=1))


@pytest.fixture(scope="module")
def u(mixed, copies):
    return fs.utility(mixed, copies)


def everything(u):
    """All of a result, for comparing."""
    names = ("oneway", "twoway", "threeway", "by_copy", "model", "density", "correlations", "quantiles", "missing")
    found = {name: None if getattr(u, name) is None else getattr(u, name).to_dict(as_series=False) for name in names}
    found["margins"] = {
        name: (x.labels, None if x.edges is None else x.edges.tolist(), x.original.tolist(), x.copies.tolist())
        for name, x in u.margins.items()
    }
    return repr((dict(u), found, u.references, u.left_out, str(u)))


def naive_s_pmse(real, copy, a, b):
    """S_pMSE of a pair of columns with cells counted by polars."""

    def groups(name):
        pooled = pl.concat([real[name], copy[name]])
        if not pooled.dtype.is_numeric() or pooled.n_unique() <= 6:
            return pooled.cast(pl.String).fill_null("-")
        edges = np.unique([pooled.quantile(q, "nearest") for q in (0.2, 0.4, 0.6, 0.8)])
        return pl.Series(np.searchsorted(edges, pooled.cast(pl.Float64).to_numpy())).set(pooled.is_null(), 99)

    cells = pl.DataFrame({"a": groups(a), "b": groups(b), "s": np.repeat([0, 1], [real.height, copy.height])})
    counts = cells.group_by("a", "b").agg(s=pl.col("s").sum(), o=(1 - pl.col("s")).sum())
    o, s = counts["o"].to_numpy(), counts["s"].to_numpy()
    c = copy.height / cells.height
    return (((s - o * c / (1 - c)) ** 2) / (c * (o + s))).sum() / (counts.height - 1)


def test_two_way_tables_are_those_of_a_slow_twin(mixed):
    copy = fs.synthesize(mixed, m=1, k=300, random_state=2)[0]
    copy, real = (frame.with_columns(pl.col("region").cast(pl.String)) for frame in (copy, mixed))
    found = fs.utility(real, copy.with_columns(pl.col("region").cast(pl.String)))
    pairs = {(a, b): value for a, b, value in found.twoway.select("first", "second", "S_pMSE").iter_rows()}
    assert set(pairs) == set(combinations(mixed.columns, 2))
    for (a, b), value in pairs.items():
        # Quantiles of the slow twin weigh rows, not sides.
        tolerance = 1e-9 if {a, b} <= {"sex", "job", "region"} else 0.5
        assert value == pytest.approx(naive_s_pmse(real, copy, a, b), rel=tolerance), (a, b)


def test_a_copy_of_a_correct_model_and_another_sample(u):
    rng = np.random.default_rng(1)
    real, other = (pl.DataFrame({f"c{i}": rng.integers(0, 5, 4000) for i in range(6)}) for _ in range(2))
    found = fs.utility(real, [real.sample(4000, with_replacement=True, seed=1), other])
    by_copy = found.by_copy.filter(pl.col("second").is_not_null()).group_by("copy", maintain_order=True)
    correct, fresh = by_copy.agg(pl.col("S_pMSE").mean())["S_pMSE"]
    assert correct == pytest.approx(1, abs=0.25)
    assert fresh == pytest.approx(2, abs=0.5)
    assert found.references == {"correct": 1.0, "fresh": 2.0}


def test_what_it_gives(u, mixed):
    assert (u.n, u.k, u.m, u.n_effective) == (500, 500, 2, 500)
    assert u.oneway.columns == ["column", *MEASURES]
    assert u.twoway.columns == ["first", "second", *MEASURES]
    assert u.threeway is u.model is u.density is u.sample is None
    assert (u.oneway.height, u.twoway.height, u.by_copy.height) == (5, 10, 2 * 15)
    assert u.twoway["S_pMSE"].is_sorted(descending=True)
    assert u["S_pMSE"] == pytest.approx(u.twoway["S_pMSE"].mean())
    assert u["S_pMSE_max"] == u.twoway["S_pMSE"][0]
    assert set(u) == set(dict(u))
    assert len(u) == len(list(u))
    assert all(isinstance(value, float) for value in u.values())
    with pytest.raises(KeyError):
        u["nothing"]
    first = u.twoway.row(0, named=True)
    both = u.by_copy.filter((pl.col("first") == first["first"]) & (pl.col("second") == first["second"]))
    assert both["copy"].to_list() == [1, 2]
    for name in MEASURES:
        assert first[name] == pytest.approx(both[name].mean())


def test_cells_of_a_table(u, mixed, copies):
    cells = u.cells("job", "sex")
    assert cells.columns == ["job", "sex", "original", "synthetic", "z"]
    assert u.cells("sex", "job").select(cells.columns).sort("job", "sex").equals(cells.sort("job", "sex"))
    assert cells["z"].abs().is_sorted(descending=True)
    for job, sex, o, s, _ in cells.iter_rows():
        here = pl.col("job").is_null() if job == "(missing)" else pl.col("job") == job
        assert o == mixed.filter(here, pl.col("sex") == sex).height
        assert s == np.mean([copy.filter(here, pl.col("sex") == sex).height for copy in copies])
    assert u.cells("age")["original"].sum() == 500
    for bad in (("age", "age"), ("age", "q"), (), ("age", "sex", "job")):
        with pytest.raises(OptionError, match="cells"):
            u.cells(*bad)
    odd = pl.DataFrame({"z": [1, 2], "original": ["a", "b"]})
    assert fs.utility(odd, odd).cells("z", "original").columns == ["z", "original", "original_", "synthetic", "z_"]


def test_three_way_tables(mixed, copies, monkeypatch):
    found = fs.utility(mixed, copies, threeway=True)
    assert found.threeway.height == 10
    assert found.cells("job", "age", "sex")["original"].sum() == 500
    assert found["S_pMSE_threeway"] == pytest.approx(found.threeway["S_pMSE"].mean())
    monkeypatch.setattr(fs.utility.__globals__["_slots"].__globals__["np"], "prod", lambda x: 10**7)
    left = fs.utility(mixed, copies, threeway=True)
    assert left.threeway.height == 0
    assert left.left_out["age x sex x job"] == "more than 1,000,000 cells"


def test_margins_have_all_rows(u, mixed):
    assert list(u.margins) == mixed.columns
    age, job = u.margins["age"], u.margins["job"]
    assert (age.kind, job.kind) == ("number", "level")
    assert len(age.edges) == len(age.labels) + 1 == len(age.original) + 1
    assert age.copies.shape == (2, len(age.labels))
    inside = np.clip(mixed["age"], age.edges[0], age.edges[-1])  # the outer classes have what lies beyond
    assert age.original.tolist() == np.histogram(inside, age.edges)[0].tolist()
    assert job.labels == ("(missing)", "a", "b", "c")
    assert job.original.tolist() == [mixed["job"].null_count(), *[(mixed["job"] == x).sum() for x in "abc"]]
    assert u.margins["income"].original.sum() == mixed["income"].count()


def test_correlations_use_rows_where_both_are_known(u, mixed, copies):
    ((first, second, own, synthetic, difference),) = u.correlations.rows()
    assert (first, second) == ("age", "income")

    def of(frame):
        known = frame.drop_nulls("income")
        return np.corrcoef(known["age"], known["income"])[0, 1]

    assert own == pytest.approx(of(mixed), abs=1e-8)
    assert synthetic == pytest.approx(np.mean([of(copy) for copy in copies]), abs=1e-8)
    assert difference == pytest.approx(synthetic - own)


def test_a_constant_has_no_correlation():
    real = pl.DataFrame({"a": [0.1] * 50, "b": range(50), "c": range(0, 100, 2)})
    found = fs.utility(real, real).correlations
    assert found["original"].to_list() == [pytest.approx(1), None, None]
    assert fs.utility(real[["a"]], real[["a"]]).correlations.height == 0


def test_quantiles_are_values_of_the_column(u, mixed, copies):
    found = u.quantiles.filter(pl.col("column") == "income")
    values = np.sort(mixed["income"].drop_nulls().to_numpy())
    expected = np.quantile(values, found["quantile"].to_numpy(), method="inverted_cdf")
    assert found["original"].to_list() == expected.tolist()
    assert found["quantile"].to_list() == [0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999]


def test_missing_values_by_column_and_pattern(mixed):
    copy = mixed.with_columns(job=pl.lit("a"), income=pl.lit(None, pl.Float64))
    found = fs.utility(mixed, copy).missing
    columns = {row[1]: row[2:] for row in found.filter(pl.col("kind") == "column").iter_rows()}
    assert columns["income"][:2] == (mixed["income"].null_count() / 500, 1)
    assert columns["job"][:2] == (mixed["job"].null_count() / 500, 0)
    p = (1 + mixed["income"].null_count() / 500) / 2
    z = (1 - mixed["income"].null_count() / 500) / np.sqrt(p * (1 - p) / 500)
    assert columns["income"][2] == pytest.approx(z)
    patterns = {row[1]: row[2:4] for row in found.filter(pl.col("kind") == "pattern").iter_rows()}
    neither = mixed.filter(pl.col("job").is_not_null() & pl.col("income").is_not_null()).height / 500
    assert patterns["(none)"] == (neither, 0)
    assert patterns["income"][1] == 1
    assert sum(own for own, _ in patterns.values()) == pytest.approx(1)


def test_columns_that_were_kept_take_degrees_of_freedom(mixed):
    syn = fs.synthesize(
        mixed, m=2, random_state=1, columns={name: fs.Column(method="keep") for name in ("sex", "region")}
    )
    found = fs.utility(mixed, syn)
    rows = {tuple(row[:2]): row[2:] for row in found.twoway.select("first", "second", "df", "S_pMSE", "VW").iter_rows()}
    assert rows["sex", "region"] == (0, None, 0)
    # Of 2 x 4 cells the shares within each sex are free.
    assert rows["sex", "job"][0] == 6
    # Both regions and their sizes are given.
    assert rows["job", "region"][0] == 12
    assert found.oneway.filter(pl.col("column") == "sex")["S_pMSE"].to_list() == [None]


def test_weights(mixed, copies):
    weight = pl.Series("w", np.arange(500) % 4 + 0.5)
    found = fs.utility(mixed.with_columns(weight), copies, weights="w", model="logit")
    assert found.left_out == {"w": "survey weights"}
    assert found.n_effective == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    assert found.references["fresh"] == 1 + 500 / found.n_effective
    cells = found.cells("sex")
    of_sex = mixed.with_columns(weight).group_by("sex").agg(pl.col("w").sum())
    expected = dict(zip(of_sex["sex"], of_sex["w"] / weight.sum() * found.n_effective))
    for sex, o, *_ in cells.iter_rows():
        assert o == pytest.approx(expected[sex])
    assert "of equal weight" in str(found)
    # Weights that are all the same change nothing.
    same = fs.utility(mixed.with_columns(w=pl.lit(3)), copies, weights="w")
    assert same["S_pMSE"] == pytest.approx(fs.utility(mixed, copies)["S_pMSE"])
    assert same.correlations["original"].to_list() == pytest.approx(fs.utility(mixed, copies).correlations["original"])


def test_copies_in_which_holes_were_filled_are_told_from_those_that_lost_them(mixed):
    told = "no missing values of"
    filled = mixed.select(pl.all().fill_null(strategy="backward").fill_null(strategy="forward"))
    lines = str(fs.utility(mixed, [filled])).splitlines()
    assert sum(told in line for line in lines) == 1
    assert told not in str(fs.utility(mixed, [mixed]))
    assert told not in str(fs.utility(filled, [filled]))


def test_missing_codes_are_no_numbers(mixed, copies):
    coded = [frame.with_columns(pl.col("income").fill_null(-9)) for frame in (mixed, *copies)]
    found = fs.utility(coded[0], coded[1:], cont_na={"income": [-9]})
    plain = fs.utility(mixed, copies)
    assert found["S_pMSE"] == pytest.approx(plain["S_pMSE"])
    assert found.correlations.equals(plain.correlations)
    assert found.quantiles.equals(plain.quantiles)
    assert found.missing.equals(plain.missing)


def test_models_and_density(mixed, copies, monkeypatch):
    monkeypatch.setitem(fs.utility.__globals__["density_ratio"].__globals__, "DENSITY_PERMUTATIONS", 4)
    found = fs.utility(mixed, copies, model=["logit", "cart"], density=True, sample=300)
    assert found.model.select("model", "null").rows() == [
        ("logit", "closed"),
        ("logit", "pairs"),
        ("cart", "permutation"),
        ("cart", "pairs"),
    ]
    assert found.model.columns == ["model", "null", "pMSE", "expected", "S_pMSE", "z", "SPECKS", "PO50", "U"]
    assert found.density["copy"].to_list() == [1, 2]
    assert found.sample == 300
    assert found["S_pMSE_logit"] == found.model["S_pMSE"][0]
    assert {"pMSE_cart", "PE"} <= set(found)
    text = str(found)
    assert "at most 300 rows a side" in text
    assert "Density ratio" in text
    again = fs.utility(mixed, copies, model=["logit", "cart"], density=True, sample=300, threads=1)
    assert everything(again) == everything(found)
    other = fs.utility(mixed, copies, model="cart", sample=300, random_state=2)
    assert other.model["pMSE"][0] == found.model["pMSE"][2]
    assert other.model["expected"][0] != found.model["expected"][2]


def test_the_same_bytes_however_rows_are_read(mixed, copies, tmp_path, monkeypatch):
    options = {"threeway": True, "model": ["logit", "cart"]}
    expected = everything(fs.utility(mixed, copies, **options))
    monkeypatch.setattr(tables, "SLICE_ROWS", 31)
    monkeypatch.setattr(source, "PIECE_ROWS", 77)
    assert everything(fs.utility(mixed, copies, **options, threads=2)) == expected
    for i, frame in enumerate((mixed, *copies)):
        (tmp_path / str(i)).mkdir()
        frame[:200].write_parquet(tmp_path / str(i) / "0.parquet", row_group_size=50)
        frame[200:].write_parquet(tmp_path / str(i) / "1.parquet", row_group_size=120)
    files = [str(tmp_path / str(i)) for i in range(3)]
    assert everything(fs.utility(files[0], files[1:], **options, memory_limit=1)) == expected
    pandas = [to_pandas(frame) for frame in (mixed, *copies)]
    assert everything(fs.utility(pandas[0], pandas[1:], **options)) == expected
    arrow = [frame.to_arrow() for frame in (mixed, *copies)]
    assert everything(fs.utility(arrow[0], arrow[1:], **options)) == expected


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_cluster_gives_the_same(mixed, copies, tmp_path):
    from distributed import Client, LocalCluster

    mixed.write_parquet(tmp_path / "real.parquet", row_group_size=90)
    options = {"model": "logit"}
    expected = everything(fs.utility(mixed, copies, **options))
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1") as cluster,
        Client(cluster) as client,
    ):
        path = str(tmp_path / "real.parquet")
        assert everything(fs.utility(path, copies, **options, client=client, memory_limit=1)) == expected


def test_every_type_is_compared(every_type):
    found = fs.utility(every_type, [every_type, every_type.reverse()])
    assert found["S_pMSE"] == 0
    assert found.left_out == {}
    assert found.correlations["difference"].drop_nulls().abs().max() < 1e-8
    assert str(found)


def test_folders_of_copies_and_identifiers(mixed, tmp_path):
    real = mixed.with_columns(id=pl.int_range(pl.len()).cast(pl.String) + "-x")
    with pytest.warns(fs.errors.DataWarning):
        fs.synthesize(real, m=2, random_state=1, out=tmp_path / "copies")
    found = fs.utility(real, tmp_path / "copies", columns=None)
    assert found.left_out == {"id": "identifiers are made anew"}
    assert "Left out: id" in str(found)
    some = fs.utility(real, tmp_path / "copies", columns=["age", "sex"])
    assert some.twoway.height == 1


def test_one_column():
    real = pl.DataFrame({"a": [1, 2, 3] * 10})
    found = fs.utility(real, real[:20], model="logit")
    assert found.twoway.height == 0
    assert np.isnan(found["S_pMSE"])
    assert "1 one-way" in str(found)


def test_it_reads_well(u):
    lines = str(u).splitlines()
    assert repr(u) == str(u)
    assert lines[0] == "Utility of 2 copies of 500 rows (original: 500 rows)"
    assert lines[1] == "S_pMSE of tables (a correct model: 1; another sample of the population: 2.00)"
    assert lines[3].startswith("  10 two-way: mean ")
    assert max(map(len, lines)) < 120


def test_printed_counts_are_on_one_scale(mixed, copies, u):
    assert "scaled" not in str(u)
    fifth = fs.utility(mixed, [copy[:100] for copy in copies])
    assert f"(synthetic rows scaled from 100 to {mixed.height})" in str(fifth)
    *_, original, synthetic, _ = _worst_cells(fifth).row(0)
    first, second = fifth.twoway.row(0)[:2]
    cell = fifth.cells(first, second)
    assert original == cell["original"][0]
    assert synthetic == round(cell["synthetic"][0] * mixed.height / 100)
    # The table of cells has counts as they are.
    assert cell["synthetic"].sum() == pytest.approx(100)
    weighted = fs.utility(mixed.with_columns(w=pl.int_range(1, pl.len() + 1)), copies, weights="w")
    assert f"(synthetic rows scaled from {weighted.k} to {weighted.n_effective:.0f})" in str(weighted)


def test_weights_of_patterns_are_added_up_in_any_order():
    rng = np.random.default_rng(1)
    missing = rng.random((200_000, 12)) < 0.3
    weight = rng.lognormal(0, 2, len(missing))
    first = _patterns(missing, weight)
    assert sum(first.values()) == pytest.approx(1)
    some = next(iter(first))
    mask = (np.packbits(missing, axis=1) == np.frombuffer(some, np.uint8)).all(axis=1)
    assert first[some] == pytest.approx(weight[mask].sum() / weight.sum())
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(missing))
        assert _patterns(missing[order], weight[order]) == first


@pytest.mark.parametrize(("n", "k"), [(1, 20), (20, 1)])
def test_one_row_on_a_side(mixed, copies, n, k):
    found = fs.utility(mixed[:n], [copies[0][:k]], model=["logit", "cart"])
    assert found.model.height == 2
    with pytest.raises(DataError, match="at least 2 rows"):
        fs.utility(mixed[:n], [copies[0][:k]], density=True)


def test_the_caller_s_tables_stay_as_they_are(mixed, copies):
    before = [frame.clone() for frame in (mixed, *copies)]
    fs.utility(mixed, copies, model=["logit", "cart"])
    assert all(a.equals(b) for a, b in zip(before, (mixed, *copies)))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"groups": 1}, OptionError, "groups=1"),
        ({"groups": 101}, OptionError, "from 2 to 100"),
        ({"groups": "5"}, OptionError, "groups='5'"),
        ({"model": "forest"}, OptionError, "'logit', 'cart'"),
        ({"model": ["logit", 3]}, OptionError, "'logit', 'cart'"),
        ({"sample": 5}, OptionError, "at least 100"),
        ({"sample": -5}, OptionError, "sample=-5"),
        ({"random_state": -1}, OptionError, "random_state=-1"),
        ({"random_state": True}, OptionError, "random_state=True"),
        ({"weights": "q"}, OptionError, "must be a column of the original"),
        ({"density": 2}, OptionError, "density=2: must be True or False"),
        ({"threeway": "yes"}, OptionError, "threeway='yes': must be True or False"),
        ({"weights": "sex"}, OptionError, "weights are numbers"),
        ({"weights": "income"}, DataError, "missing, negative or infinite"),
        ({"weights": "age", "columns": ["age"]}, OptionError, "no other column"),
        ({"columns": ["q"]}, OptionError, "allowed are"),
        ({"cont_na": {"sex": ["f"]}}, OptionError, "cont_na of 'sex'"),
        ({"cont_na": {"q": [1]}}, OptionError, "cont_na names 'q'"),
        ({"threads": 0}, OptionError, "threads=0"),
    ],
    ids=str,
)
def test_bad_options_are_refused(mixed, copies, options, error, words):
    with pytest.raises(error, match=words):
        fs.utility(mixed, copies, **options)


def test_examples_of_the_page_run():
    page = (Path(__file__).parent.parent / "docs" / "utility.md").read_text()
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, names)
    shown = str(names["u"]).splitlines()
    (printed,) = re.findall(r"```\n(Utility of.*?)```", page, re.DOTALL)
    assert printed.splitlines()[:2] == shown[:2]
