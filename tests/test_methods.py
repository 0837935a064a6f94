"""Fitted columns: options, scaling, behaviour that every method must show."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from fastsynth import Cart, Sample, _tree, methods
from fastsynth.columns import encode
from fastsynth.errors import OptionError
from fastsynth.methods import fit_column, scaled
from fastsynth.source import read_table

METHODS = [Cart(), Cart(minbucket=1, cp=0), Sample()]


def fit_and_draw(frame, target, method, predictors=(), seed=0):
    """Fit a column, draw it at the real predictors, decode."""
    table = encode(*read_table(frame))
    slots = tuple(frame.columns.index(name) for name in predictors)
    model = fit_column(table, frame.columns.index(target), slots, method, np.arange(frame.height, dtype=np.uint32))
    variable = table.variables[frame.columns.index(target)]
    words = np.random.PCG64DXSM(seed).random_raw(model.n_words * frame.height)
    ranks, rows = np.zeros(frame.height, variable.rank_dtype), np.arange(frame.height, dtype=np.uint32)
    codes = np.ascontiguousarray(table.codes.T)
    model.draw(codes, rows, words.reshape(model.n_words, -1), ranks, np.zeros(0))
    return model, pl.Series(variable.decode(ranks))


@pytest.mark.parametrize("bad", [{"minbucket": 0}, {"minbucket": -3}, {"minbucket": 2.5}, {"minbucket": True}])
def test_bad_minbucket_is_refused(bad):
    with pytest.raises(OptionError, match=r"minbucket=.*at least 1"):
        Cart(**bad)


@pytest.mark.parametrize("cp", [-1e-9, math.nan, math.inf, "small"])
def test_bad_cp_is_refused(cp):
    with pytest.raises(OptionError, match="cp="):
        Cart(cp=cp)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", ["constant", "void", "empty", "i8", "f64", "text", "enum", "u64"])
def test_every_method_draws_observed_values(every_type, method, target):
    _, drawn = fit_and_draw(every_type, target, method, ["i64", "bool", "cat"])
    real = every_type[target]
    assert set(drawn.cast(pl.String).to_list()) <= set(real.cast(pl.String).to_list())
    assert len(drawn) == len(real)


@pytest.mark.parametrize("method", METHODS)
def test_missing_share_is_kept(every_type, method):
    _, drawn = fit_and_draw(every_type, "f32", method, ["i64"])
    share = every_type["f32"].null_count() / every_type.height
    assert abs(drawn.null_count() / every_type.height - share) < 4 * math.sqrt(share * (1 - share) / every_type.height)


def test_missingness_is_information():
    """Values are missing for the old only, and another column knows it."""
    n = 2000
    age = np.arange(n) % 100
    income = pl.Series(np.where(age > 60, np.nan, age * 10.0)).fill_nan(None)
    frame = pl.DataFrame({"age": age, "income": income, "retired": ["yes" if a > 60 else "no" for a in age]})
    model, drawn = fit_and_draw(frame, "income", Cart(), ["age"])
    assert model.missing is not None
    assert (drawn.is_null() == (pl.Series(age) > 60)).all()
    assert ((drawn.drop_nulls() - pl.Series(age[age <= 60] * 10.0)).abs() <= 40).all()
    _, retired = fit_and_draw(frame, "retired", Cart(), ["income"])
    assert (retired == frame["retired"]).all()


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_missing_predictors_go_where_they_fit(missing):
    """x is missing for high y: missing has to be able to join the high values, as null and as NaN."""
    n = 4000
    rng = np.random.default_rng(5)
    x = rng.integers(0, 100, n).astype(float)
    y = np.where((x > 60) & (x < 80), 50.0, 0.0) + rng.integers(0, 2, n)
    hide = (y >= 50) & (rng.random(n) < 0.5)
    frame = pl.DataFrame({"x": pl.Series([missing if h else v for h, v in zip(hide, x)]), "y": y})
    _, drawn = fit_and_draw(frame, "y", Cart(), ["x"])
    assert (drawn.to_numpy()[hide] >= 50).all()


def test_null_and_nan_are_kept_apart():
    x = pl.Series([1.0, None, float("nan"), 2.0] * 100)
    frame = pl.DataFrame({"kind": [0, 1, 2, 3] * 100, "x": x})
    _, drawn = fit_and_draw(frame, "x", Cart(), ["kind"])
    assert drawn.is_null().to_list() == x.is_null().to_list()
    assert drawn.is_nan().fill_null(False).to_list() == x.is_nan().fill_null(False).to_list()


def test_leaves_hold_at_least_minbucket_rows(mixed):
    for target in ("income", "job", "region"):
        model, _ = fit_and_draw(mixed, target, Cart(minbucket=9), ["age", "sex"])
        assert model.values.smallest_leaf >= 9
        assert model.missing is None or model.missing.smallest_leaf >= 9


def test_sample_ignores_predictors(mixed):
    model, _ = fit_and_draw(mixed, "income", Sample(), ["age", "sex"])
    assert model.values.n_leaves == 1


@pytest.mark.parametrize(
    "y",
    [
        np.array([1.0, 2.0, 1e8 + 1, 1e8 + 2]),
        np.random.default_rng(0).normal(1e8, 1, 1000),
        np.append(np.random.default_rng(0).normal(size=1000), 1e12),
        np.array([-1.7e308, 0, 1.7e308]),
        np.array([5e-324, 0.0, 1e-323]),
    ],
)
def test_scaled_targets_keep_order_and_cannot_overflow(y):
    z = scaled(y, len(y))
    assert (np.diff(z[np.argsort(y)]) >= 0).all()
    assert np.abs(z).max() * len(z) < 2**62
    assert len(np.unique(z)) > 0.9 * len(np.unique(y))


def test_scaled_constant_is_zero():
    assert (scaled(np.append(np.nan, np.full(5, 0.1)), 5) == 0).all()


@pytest.mark.parametrize("shift", [0, 1e6, 1e8])
def test_a_large_mean_changes_no_tree(shift):
    rng = np.random.default_rng(4)
    x = rng.integers(0, 100, 3000)
    y = np.round(x / 10 + rng.normal(size=3000), 2)
    small, _ = fit_and_draw(pl.DataFrame({"x": x, "y": y}), "y", Cart(), ["x"])
    large, _ = fit_and_draw(pl.DataFrame({"x": x, "y": y + shift}), "y", Cart(), ["x"])
    assert abs(large.values.n_leaves - small.values.n_leaves) <= 0.02 * small.values.n_leaves


def test_refilled_leaves_hold_all_rows_that_reach_them(every_type):
    """Filled with the rows it was grown on, a tree does not change; filled with all, a leaf has those that reach it."""
    table = encode(*read_table(every_type))
    some = np.arange(0, table.n_rows, 3, dtype=np.uint32)
    everybody = np.arange(table.n_rows, dtype=np.uint32)
    rng = np.random.default_rng(1)
    words = rng.integers(0, 2**64, table.n_rows, dtype=np.uint64)
    codes = np.ascontiguousarray(table.codes.T)
    for target in range(1, len(table.variables)):
        model = methods.fit_column(table, target, tuple(range(target)), Cart(), some)
        same = methods.refill(table, target, model, some, words.__getitem__)
        more = methods.refill(table, target, model, everybody, words.__getitem__)
        for before, unchanged, after in zip(
            (model.missing, model.values), (same.missing, same.values), (more.missing, more.values), strict=True
        ):
            assert (before is None) == (after is None)
            if before is None:
                continue
            leaves = before.nodes["feature"] == _tree.LEAF
            assert np.array_equal(unchanged.count, before.count)
            assert np.array_equal(unchanged.nodes[["feature", "threshold"]], before.nodes[["feature", "threshold"]])
            for a, b in zip(slices(unchanged), slices(before), strict=True):
                assert sorted(a) == sorted(b)
            is_missing = after is more.missing
            rows = everybody if is_missing or table.variables[target].kind != "numeric" else None
            ranks = np.minimum(table.ranks[target], model.first) if is_missing else table.ranks[target]
            rows = np.flatnonzero(ranks >= model.first).astype(np.uint32) if rows is None else rows
            leaf = np.empty(len(rows), np.uint32)
            _tree.apply(before.nodes, before.count, before.level_mask, before.levels, codes, rows, words[rows], leaf)
            expected = [sorted(ranks[rows[leaf == node]]) for node in np.flatnonzero(leaves)]
            assert [sorted(x) for x in slices(after)] == expected
            inner = np.flatnonzero(~leaves)
            left = after.nodes["left"][inner]
            assert np.array_equal(after.count[inner], after.count[left] + after.count[left + 1])


def slices(tree):
    """Donors of each leaf."""
    leaves = tree.nodes["feature"] == _tree.LEAF
    pairs = zip(tree.nodes["left"][leaves], tree.count[leaves], strict=True)
    return [tree.donors[start : start + rows].tolist() for start, rows in pairs]
