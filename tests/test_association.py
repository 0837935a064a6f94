"""Associations against explicit contingency tables, and the choice of the strongest."""

from __future__ import annotations

import numpy as np
import pytest

from fastsynth.association import GROUP_ROWS, group, n_groups, n_rows, strongest


def naive_association(a, b, most):
    """phi^2 of the table of the groups of two columns, less its mean under independence."""
    x, y = group(a, most), group(b, most)
    n, r, c = len(x), x.max() + 1, y.max() + 1
    table = np.zeros((r, c))
    np.add.at(table, (x, y), 1)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / n
    phi_squared = ((table - expected) ** 2 / expected).sum() / n
    return round(max(phi_squared - (r - 1) * (c - 1) / (n - 1), 0), 9)


def naive_strongest(codes, order, targets, q):
    most = n_groups(len(codes))
    chosen = {}
    for slot in targets:
        earlier = list(order)[: list(order).index(slot)]
        # Rounded once more, because the naive sum may fall on the other side of a half.
        ranked = sorted((-round(naive_association(codes[slot], codes[e], most), 8), e) for e in earlier)
        chosen[slot] = tuple(e for _, e in ranked[:q])
    return chosen


def mixed_codes(rng, n, p):
    """Columns of few and many values, some with missing ones or a spike, that share two hidden numbers."""
    hidden = rng.normal(size=(2, n))
    codes = np.empty((p, n), np.uint16)
    for slot in range(p):
        x = rng.normal() * hidden[slot % 2] + rng.normal(size=n)
        n_values = [2, 3, 7, 60, 3000][slot % 5]
        codes[slot] = 1 + np.clip((x + 3) / 6 * n_values, 0, n_values - 1).astype(np.uint16)
        if slot % 3 == 0:
            codes[slot][rng.random(n) < 0.2] = 0
        if slot % 4 == 0:
            codes[slot][rng.random(n) < 0.4] = n_values // 2 + 1
    return codes


@pytest.fixture
def rng():
    return np.random.default_rng(11)


@pytest.mark.parametrize("n", [2, 9, 60, 700])
def test_the_choice_is_that_of_explicit_tables(rng, n):
    codes = mixed_codes(rng, n, 17)
    order = rng.permutation(17).tolist()
    targets = [slot for slot in order if slot % 4]
    assert strongest(codes, order, targets, 5) == naive_strongest(codes, order, targets, 5)


def test_blocks_and_order_of_rows_do_not_matter(rng):
    codes = mixed_codes(rng, 400, 40)
    whole = strongest(codes, range(40), range(40), 6)
    for block_groups in (1, 24, 100):
        assert strongest(codes, range(40), range(40), 6, block_groups) == whole
    assert strongest(codes[:, rng.permutation(400)], range(40), range(40), 6) == whole


def test_only_earlier_columns_and_at_most_q(rng):
    codes = mixed_codes(rng, 300, 12)
    order = rng.permutation(12).tolist()
    chosen = strongest(codes, order, order, 4)
    for i, slot in enumerate(order):
        assert len(set(chosen[slot])) == min(i, 4)
        assert set(chosen[slot]) <= set(order[:i])
    assert strongest(codes, order, [], 4) == {}


def test_equals_go_by_table_order(rng):
    x = rng.integers(1, 6, 500).astype(np.uint16)
    noise = rng.integers(1, 6, 500).astype(np.uint16)
    codes = np.stack([noise, x, x, 6 - x, np.ones_like(x), np.ones_like(x), x])
    assert strongest(codes, [5, 3, 4, 2, 0, 1, 6], [6], 3) == {6: (1, 2, 3)}
    constant = strongest(codes, [5, 3, 4, 2, 1, 0, 6], [4], 2)
    assert constant == {4: (3, 5)}  # associated with nothing, so in order


@pytest.mark.parametrize("relation", ["u-shape", "categories", "missing", "spike", "inside a category"])
def test_relations_that_a_correlation_misses(rng, relation):
    n = 2000
    x = rng.normal(size=n)
    rank = 1 + x.argsort().argsort()
    y = rng.integers(1, 900, n)
    if relation == "u-shape":
        y = 1 + (x**2 + 0.3 * rng.normal(size=n)).argsort().argsort()
    elif relation == "categories":
        rank = rng.integers(1, 5, n)
        y = np.array([0, 3, 1, 4, 2])[rank]
    elif relation == "missing":
        y[x > 1] = 0
        rank = rng.permuted(rank)
        rank[(x > 1) & (rng.random(n) < 0.8)] = 0
    elif relation == "spike":
        y[rank > 1200] = 450
    elif relation == "inside a category":  # neighbours among 300 categories are alike
        rank = rng.integers(1, 301, n)
        y = 1 + rank // 40
    columns = [rank, *rng.integers(1, 900, (20, n)), y]
    codes = np.array([columns[i] for i in (*range(1, 11), 0, *range(11, 22))], np.uint16)
    assert strongest(codes, range(22), [21], 1) == {21: (10,)}


def test_chance_is_no_association(rng):
    codes = rng.integers(1, 50, (200, 3000)).astype(np.uint16)
    found = [naive_association(codes[0], codes[i], 8) for i in range(1, 200)]
    assert np.mean(found) < 0.002
    assert np.median(found) == pytest.approx(0, abs=1e-3)


def test_groups():
    some = np.repeat(np.arange(1, 101), 20).astype(np.uint16)
    assert np.bincount(group(some, 5)).tolist() == [400] * 5
    assert (np.diff(group(some, 5).astype(int)) >= 0).all()
    with_missing = np.concatenate([np.zeros(50), np.full(2000, 30), some]).astype(np.uint16)
    groups = group(with_missing, 6)
    assert set(groups[:50]).isdisjoint(groups[50:])  # missing
    assert set(groups[50:2050]).isdisjoint(groups[2050:][some != 30])  # the spike
    assert groups.max() == 5
    few = np.repeat([1, 2, 3, 4], [500, 300, 100, 50]).astype(np.uint16)
    assert np.bincount(group(few, 8)).tolist() == [500, 300, 100, 50]


def test_small_groups_join_the_largest():
    codes = np.repeat([0, 1, 2, 3], [GROUP_ROWS - 1, 500, 90, 3]).astype(np.uint16)
    assert np.bincount(group(codes, 8)).tolist() == [500 + GROUP_ROWS - 1 + 3, 90]
    for codes in (np.zeros(40), np.ones(40), np.arange(1, 8), np.full(40, 65534)):
        assert not group(codes.astype(np.uint16), 8).any()


def test_wide_tables_get_fewer_groups_and_rows():
    assert (n_groups(61), n_rows(61)) == (8, 20_000)
    assert n_groups(1500) == 5
    assert (n_groups(5000), n_rows(5000)) == (4, 1_500)
    for p in (100, 600, 1000, 2000, 3000):
        assert n_rows(p) * (p * n_groups(p)) ** 2 <= 5.1e11
