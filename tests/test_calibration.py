"""The kernels of calibrated models beside the same in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsynth import _calibrate
from fastsynth.calibration import CLIP, Combination, Features, Grid, Linear, Tilt

N_CODES = (7, 300, 4)


def table(seed, n=500):
    rng = np.random.default_rng(seed)
    codes = np.array([rng.integers(0, size, n) for size in N_CODES], np.uint16)
    return rng, codes


def some_features(rng):
    """Column 0: a number and whether it is missing, with a hinge; 1: a number; 2: two dummies; and a product."""
    numbers = [np.append(0.0, rng.normal(size=size - 1)) for size in N_CODES[:2]]
    missing = np.zeros(7)
    missing[0] = 1
    dummies = [np.eye(4)[code] for code in (1, 3)]
    hinge = np.maximum(numbers[0], 0.2)
    slots = [0, 0, 1, 2, 2, 0]
    tables = [numbers[0], missing, numbers[1], *dummies, hinge]
    return Features.of(slots, tables, np.array([[2, 0]], np.int32), 5)


def by_hand(features, codes, rows):
    plain = [table[codes[slot, rows]] for slot, table in zip(features.slots, features.tables, strict=True)]
    return np.array([*plain, *(plain[a] * plain[b] for a, b in features.pairs)])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_features_and_their_combinations(seed, row_by_row):
    rng, codes = table(seed)
    if row_by_row:  # as they stand while rows are drawn
        codes = np.ascontiguousarray(codes.T).T
    rows = np.sort(rng.choice(500, rng.integers(0, 300), replace=False)).astype(np.uint32)
    features = some_features(rng)
    expected = by_hand(features, codes, rows)
    assert np.array_equal(features.matrix(codes, rows), expected)
    weights = rng.normal(size=features.size)
    assert Combination.of(features, weights)(codes, rows) == pytest.approx(weights @ expected)


def test_codes_beyond_a_table_add_nothing():
    rng, codes = table(1)
    features = some_features(rng)
    combination = Combination.of(features, rng.normal(size=features.size))
    codes[:, 0] = (3, 65_535, 65_535)
    alone = codes[:, :1].copy()
    alone[1:] = 0
    rows = np.zeros(1, np.uint32)
    at_zero = sum(combination.tables[combination.offset[slot]] for slot in (1, 2))
    assert combination(codes, rows) == pytest.approx(combination(alone, rows) - at_zero)
    tilt = some_tilt(rng, features)
    leaf = np.zeros(1, np.uint32)
    assert tilt.shares(codes, rows, leaf).sum() == pytest.approx(1)


def some_tilt(rng, features, n_leaves=5, k=6):
    counts = rng.integers(0, 4, (n_leaves, k)).astype(float)
    counts[:, 2] += 1
    weights, centre = rng.normal(size=(features.n_linear, k)), rng.normal(size=(n_leaves, k))
    return Tilt(Linear.of(features), weights, counts, centre, np.arange(10, 10 + k, dtype=np.uint16))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_tilted_shares_and_their_gradient(seed):
    rng, codes = table(seed)
    features = some_features(rng)
    tilt = some_tilt(rng, features)
    rows = np.arange(500, dtype=np.uint32)
    leaf = rng.integers(0, 5, 500).astype(np.uint32)
    phi = by_hand(features, codes, rows)[: features.n_linear]
    shares = tilt.counts[leaf] * np.exp(np.clip(phi.T @ tilt.weights - tilt.centre[leaf], -CLIP, CLIP))
    shares /= shares.sum(1, keepdims=True)
    assert tilt.shares(codes, rows, leaf) == pytest.approx(shares, rel=1e-9)

    class_of = rng.integers(0, 6, 20).astype(np.int32)
    ranks = rng.integers(0, 20, 500).astype(np.uint16)
    gradient, by_leaf = np.zeros((features.n_linear, 6)), np.zeros((5, 6))
    arrays = (tilt.weights, tilt.centre, tilt.counts)
    _calibrate.add_gradient(
        codes, rows, leaf, ranks, class_of, *tilt.linear.arguments, *arrays, CLIP, gradient, by_leaf
    )
    left = np.eye(6)[class_of[ranks]] - shares
    assert gradient == pytest.approx(phi @ left, abs=1e-6)
    assert by_leaf == pytest.approx(np.eye(5)[leaf].T @ left, abs=1e-6)


def test_draws_have_the_shares_and_no_class_without_any():
    rng, codes = table(3, 40_000)
    features = some_features(rng)
    tilt = some_tilt(rng, features, 1)
    tilt.counts[0, 4] = 0
    codes[:] = codes[:, :1]
    rows = np.arange(40_000, dtype=np.uint32)
    words = np.random.PCG64DXSM(1).random_raw(40_000)
    leaf = np.zeros(40_000, np.uint32)
    drawn = tilt.draw(codes, rows, leaf, words)
    expected = tilt.shares(codes, rows[:1], leaf[:1])[0]
    found = np.bincount(drawn - 10, minlength=6) / 40_000
    assert found[4] == 0
    assert (np.abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / 40_000)).all()
    # The largest word there is.
    last = tilt.draw(codes, rows[:1], leaf[:1], np.array([2**64 - 1], np.uint64))
    assert tilt.counts[0, last[0] - 10] > 0


def test_sums_by_leaf():
    rng, codes = table(4)
    features = some_features(rng)
    rows, leaf = np.arange(500, dtype=np.uint32), rng.integers(0, 5, 500).astype(np.uint32)
    phi = features.matrix(codes, rows)
    out = np.zeros((5, features.size))
    _calibrate.add_by_leaf(phi, leaf, out)
    assert out == pytest.approx(np.eye(5)[leaf].T @ phi.T)
    out = np.zeros((5, features.n_linear))
    _calibrate.sum_linear(codes, rows, leaf, *Linear.of(features).arguments, out)
    assert out == pytest.approx(np.eye(5)[leaf].T @ phi[: features.n_linear].T)
    counts, class_of = np.zeros((5, 3)), rng.integers(0, 3, 300).astype(np.int32)
    _calibrate.count_classes(leaf, codes[1], rows, class_of, counts)
    assert counts == pytest.approx(np.eye(5)[leaf].T @ np.eye(3)[class_of[codes[1]]])


def test_nearest_stays_within_range():
    assert Grid(5, 10, 0, 10.0, 25.0).nearest(np.array([-3.0, 12.4, 12.6, 99.0])).tolist() == [10, 10, 15, 25]
