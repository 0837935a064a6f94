"""Leaf guards."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

import fastsynth as fs
from fastsynth.climb import Ascent
from fastsynth.errors import OptionError

N = 2_000


@pytest.fixture(scope="module")
def table():
    """A category that follows from two others but for one group, and a number of which parts are constant."""
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 6, N), rng.integers(0, 6, N)
    disease = np.where(a < 4, "none", np.where(rng.random(N) < 0.5, "flu", "cold"))
    pay = np.where(b < 3, 100 * b, rng.integers(1_000, 9_000, N))
    return pl.DataFrame({"a": a.astype(str), "b": b.astype(str), "pay": pay, "disease": disease})


def fit(table, method="cart", **options):
    return fs.Synthesizer(method=method, m=2, visit_sequence="table", random_state=1, **options).fit(table)


def leaf_values(tree):
    is_leaf = tree.nodes["feature"] == 0xFFFF
    return [tree.donors[low : low + n] for low, n in zip(tree.nodes["left"][is_leaf], tree.count[is_leaf])]


@pytest.mark.parametrize("slot", [2, 3])
def test_no_leaf_has_fewer_different_values(table, slot):
    plain = fit(table).model_.fits[0][slot].values
    assert min(len(set(v.tolist())) for v in leaf_values(plain)) == 1
    tree = fit(table, guard=fs.Guard(l_diversity=3)).model_.fits[0][slot].values
    assert min(len(set(v.tolist())) for v in leaf_values(tree)) >= 3
    assert tree.n_leaves == plain.n_leaves
    assert sorted(tree.donors.tolist()) == sorted(plain.donors.tolist())


def test_a_leaf_draws_from_the_first_node_above_that_has_enough(table):
    """The slow way: walk up from every leaf, and collect the donors below."""
    plain = fit(table).model_.fits[0][2].values
    tree = fit(table, guard=fs.Guard(l_diversity=4)).model_.fits[0][2].values
    parent = Ascent.of(plain, by_leaf=True).parent
    leaves = np.flatnonzero(plain.nodes["feature"] == 0xFFFF)
    below = {node: [] for node in range(len(plain.nodes))}
    for leaf in leaves:
        values = plain.donors[plain.nodes["left"][leaf] : plain.nodes["left"][leaf] + plain.count[leaf]].tolist()
        node = leaf
        while node >= 0:
            below[node] += values
            node = parent[node]
    for leaf in leaves:
        node = leaf
        while len(set(below[node])) < 4:
            node = parent[node]
        low = tree.nodes["left"][leaf]
        assert sorted(tree.donors[low : low + tree.count[leaf]].tolist()) == sorted(below[node])


def test_tilted_shares_are_those_of_a_node_above(table):
    column = fit(table, "calibrated", guard=fs.Guard(l_diversity=3)).model_.fits[0][3]
    assert ((column.tilt.counts > 0).sum(1) >= 3).all()
    plain = fit(table, "calibrated").model_.fits[0][3]
    assert ((plain.tilt.counts > 0).sum(1) < 3).any()
    root = plain.tilt.counts.sum(0)
    for before, after in zip(plain.tilt.counts, column.tilt.counts):
        assert (after >= before).all()
        assert (after <= root).all()
        assert (before == after).all() == ((before > 0).sum() >= 3)


def test_people_are_counted_once_in_bootstrap_samples(table):
    guard = fs.Guard(distinct_donors=5)
    numbered = table.with_columns(id=pl.int_range(N) * 3)
    for proper in (False, True):
        model = fit(numbered, columns={"id": fs.Column(guard=guard, method="cart")}, proper=proper).model_
        people = min(len(set(v.tolist())) for v in leaf_values(model.fits[0][4].values))
        assert people >= 5
    plain = fit(numbered, columns={"id": fs.Column(method="cart")}, proper=True).model_.fits[0][4].values
    assert min(len(set(v.tolist())) for v in leaf_values(plain)) < 5


@pytest.mark.parametrize("options", [{}, {"strata": ["a"]}, {"fit_rows": 800}, {"proper": True}])
def test_no_value_is_copied_more_often_than_allowed(table, options):
    rng = np.random.default_rng(5)
    rows = table.with_columns(income=pl.Series(rng.permutation(N) * 7))
    columns = {"income": fs.Column(method="cart", predictors=["pay"])}
    plain = fit(rows, columns=columns, **options).sample(k=800)
    assert max(copy["income"].value_counts()["count"].max() for copy in plain) > 2
    syn = fit(rows, columns=columns, guard=fs.Guard(max_copies=2), **options).sample(k=800)
    again = fit(rows, columns=columns, guard=fs.Guard(max_copies=2), threads=1, **options).sample(k=800)
    for copy, same in zip(syn, again):
        assert copy.equals(same)
        if not options.get("proper"):
            assert copy["income"].value_counts()["count"].max() <= 2


def test_values_that_several_people_have_may_be_copied_more_often(table):
    syn = fit(table, guard=fs.Guard(max_copies=1)).sample()
    for copy in syn:
        counts = copy["pay"].value_counts().join(table["pay"].value_counts(), on="pay", suffix="_real")
        assert (counts["count"] <= counts["count_real"]).all()


def test_guards_go_with_limits_missing_values_and_the_model_file(table, tmp_path):
    rows = table.with_columns(pay=pl.when(pl.col("a") == "5").then(None).otherwise(pl.col("pay")))
    columns = {"pay": fs.Column(bounds=(0, 8_000), guard=fs.Guard(max_copies=2, l_diversity=2))}
    kept = rows.filter(pl.col("pay").is_null() | (pl.col("pay") <= 8_000))
    s = fit(kept, columns=columns, forbid=["a = '0' and pay > 5000"])
    s.save(tmp_path / "model")
    loaded = fs.Synthesizer.load(tmp_path / "model")
    assert loaded.columns["pay"].guard == fs.Guard(max_copies=2, l_diversity=2)
    for copy, same in zip(s.sample(), loaded.sample()):
        assert copy.equals(same)
        assert not copy.filter((pl.col("a") == "0") & (pl.col("pay") > 5_000)).height
        assert (copy["pay"].drop_nulls() <= 8_000).all()
        assert copy.filter(pl.col("a") == "5")["pay"].is_null().all()


def test_spikes_need_no_donor(table):
    rng = np.random.default_rng(6)
    rows = table.with_columns(gain=pl.Series(np.where(rng.random(N) < 0.9, 0, rng.integers(1, 10**6, N))))
    for method in ("cart", "calibrated"):
        columns = {"gain": fs.Column(method=method, semicont=[0], guard=fs.Guard(max_copies=2))}
        copy = fit(rows, columns=columns).sample(m=1)[0]
        assert copy.filter(pl.col("gain") > 0)["gain"].value_counts()["count"].max() <= 2


def test_more_rows_than_copies_are_allowed_are_refused(table):
    s = fit(table, guard=fs.Guard(max_copies=2))
    with pytest.raises(OptionError, match="max_copies=2 column"):
        s.sample(k=3 * N)


@pytest.mark.parametrize(
    "bad", [{"l_diversity": 0}, {"distinct_donors": 1.5}, {"max_copies": -1}, {"l_diversity": None}]
)
def test_bad_guards_are_refused(bad):
    with pytest.raises(OptionError, match="at least 1"):
        fs.Guard(**bad)


def test_a_guard_is_a_record(table):
    with pytest.raises(OptionError, match="must be a Guard"):
        fit(table, guard=2)
    with pytest.raises(OptionError, match="must be a Guard"):
        fs.Column(guard={"l_diversity": 2})
    with pytest.raises(OptionError, match="takes no guard"):
        fs.Column(method="keep", guard=fs.Guard())


def test_rows_for_which_there_is_no_other_donor_keep_theirs_and_are_told(table):
    rng = np.random.default_rng(8)
    rows = table.with_columns(income=pl.Series(rng.permutation(N) * 7))
    columns = {"income": fs.Column(method="cart", guard=fs.Guard(max_copies=1))}
    plain = fit(rows, columns={"income": fs.Column(method="cart")}, strata=["a"]).sample(m=1)[0]
    syn = fit(rows, columns=columns, strata=["a"]).sample(m=1)
    counts = syn[0]["income"].value_counts()["count"]
    assert counts.max() <= plain["income"].value_counts()["count"].max()
    assert (counts - 1).sum() <= syn.climbed["income"]
    assert (counts - 1).sum() < 0.1 * (plain["income"].value_counts()["count"] - 1).sum()
