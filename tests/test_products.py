"""Products of columns: cells, merging, and donors, held against slow twins."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fastsynth.errors import DataError, OptionError
from fastsynth.products import Product
from fastsynth.streams import random_words


def table(n, seed=0):
    """Sex, a skewed number with a spike and missing values, and a job that women of one sex never have."""
    rng = np.random.default_rng(seed)
    sex = rng.integers(1, 3, n)
    income = np.where(rng.random(n) < 0.2, 1, 1 + rng.gamma(2, 20, n).astype(int))
    income[rng.random(n) < 0.05] = 0
    job = np.where(sex == 1, rng.integers(1, 4, n), rng.choice([1, 3], n))
    return [sex.astype(np.uint16), income.astype(np.uint32), job.astype(np.uint16)]


KINDS = ("unordered", "numeric", "unordered")
FIRST = (1, 1, 1)


def test_each_cell_holds_its_rows_and_the_rows_of_no_other():
    ranks = table(4_000)
    product = Product.of(ranks, KINDS, FIRST)
    codes = product.codes(ranks)
    known = ranks[1] > 0
    assert (codes[~known] == -1).all()
    assert np.bincount(codes[known], minlength=product.n_cells).tolist() == product.rows.tolist()
    assert product.rows.min() >= 20
    rows = np.diff(np.append(0, product.ends))
    for cell in range(product.n_cells):
        here = slice(*np.searchsorted(product.ends, product.offset[cell : cell + 2], side="right"))
        donors = np.repeat(np.array([of[here] for of in product.donors]), rows[here], axis=1)
        own = np.array([of[codes == cell] for of in ranks])
        assert sorted(map(tuple, donors.T.tolist())) == sorted(map(tuple, own.T.tolist()))


def test_cells_without_merging_are_bins_times_levels_that_occur():
    sex, _, job = table(4_000)
    income = np.arange(4_000, dtype=np.uint32) + 1
    product = Product.of([sex, income, job], KINDS, FIRST, min_rows=1, bins=4)
    levels = list(zip(sex.tolist(), ((income - 1) // 1_000).tolist(), job.tolist()))
    number = {level: i for i, level in enumerate(sorted(set(levels)))}
    assert product.codes([sex, income, job]).tolist() == [number[level] for level in levels]
    assert product.n_cells == 4 * 5


def test_a_value_on_which_many_rows_pile_up_has_a_bin_of_its_own():
    number = np.concatenate([np.full(500, 1), np.arange(2, 502)]).astype(np.uint16)
    product = Product.of([number, np.ones(1_000, np.uint16)], ("numeric", "unordered"), (1, 1), bins=10)
    assert product.rows[0] == 500
    assert product.n_cells == 6


def test_small_cells_go_to_the_next_bin_of_the_same_level_first():
    """Levels a and b, bins 1 to 4; the small cells are a3, which has a neighbour on both sides, and b1."""
    rows = {(1, 1): 30, (1, 2): 40, (1, 3): 5, (1, 4): 25, (2, 1): 3, (2, 2): 50, (2, 3): 60, (2, 4): 60}
    counts = np.array(list(rows.values()))
    level, number = np.array(list(rows), np.uint16).T
    product = Product.of([level, number], ("unordered", "numeric"), (1, 1), bins=4, counts=counts)
    cell = dict(zip(rows, product.codes([level, number]).tolist()))
    assert cell[1, 3] in (cell[1, 2], cell[1, 4])
    assert cell[2, 1] == cell[2, 2]
    assert len(set(cell.values())) == 6


def test_a_level_of_few_rows_goes_to_the_level_that_shares_its_place():
    rows = {(1, 1): 40, (1, 2): 40, (2, 1): 40, (2, 2): 40, (3, 1): 5}
    counts = np.array(list(rows.values()))
    level, number = np.array(list(rows), np.uint16).T
    product = Product.of([level, number], ("unordered", "ordered"), (1, 1), counts=counts)
    cell = dict(zip(rows, product.codes([level, number]).tolist()))
    assert cell[3, 1] in (cell[1, 1], cell[2, 1])
    assert product.n_cells == 4


def test_few_rows_make_one_cell():
    product = Product.of([np.array([1, 2, 3, 4], np.uint16)] * 2, ("unordered", "numeric"), (1, 1))
    assert product.n_cells == 1
    assert product.rows.tolist() == [4]


def test_counts_are_rows_and_their_order_does_not_matter():
    ranks = table(2_000)
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 4, 2_000)
    places = rng.permutation(np.repeat(np.arange(2_000), counts))
    once = Product.of(ranks, KINDS, FIRST, counts=counts)
    often = Product.of([of[places] for of in ranks], KINDS, FIRST)
    first, second = once.state(), often.state()
    assert first[0] == second[0]
    for name, array in first[1].items():
        np.testing.assert_array_equal(array, second[1][name])


def test_split_gives_each_row_of_a_cell_with_equal_probability():
    """The chi-square of the donors' shares lies within 4 standard deviations of its degrees of freedom."""
    ranks = table(3_000)
    ranks[1] = np.minimum(ranks[1], 40)
    product = Product.of(ranks, KINDS, FIRST, bins=1)
    n = 200_000
    cell = product.n_cells - 1
    drawn = product.split(np.full(n, cell, np.int32), random_words(5, (1,), n))
    assert [of.dtype for of in drawn] == [of.dtype for of in ranks]
    own = product.codes(ranks) == cell
    numbers = [
        (of.astype(np.int64) * np.array([[10_000], [10], [1]])).sum(axis=0)
        for of in (np.array(drawn), np.array([of[own] for of in ranks]))
    ]
    distinct, wanted = np.unique(numbers[1], return_counts=True)
    place = np.searchsorted(distinct, numbers[0])
    assert (distinct[place] == numbers[0]).all()
    wanted = wanted / wanted.sum() * n
    chi2 = ((np.bincount(place, minlength=len(distinct)) - wanted) ** 2 / wanted).sum()
    df = len(distinct) - 1
    assert abs(chi2 - df) < 4 * np.sqrt(2 * df)


def test_cells_that_do_not_occur_are_never_drawn():
    ranks = table(3_000)
    product = Product.of(ranks, KINDS, FIRST, min_rows=200)
    words = random_words(5, (2,), 50_000)
    sex, _, job = product.split((np.arange(50_000) % product.n_cells).astype(np.int32), words)
    assert not ((sex == 2) & (job == 2)).any()
    last = product.split(np.arange(product.n_cells, dtype=np.int32), np.full(product.n_cells, 2**64 - 1, np.uint64))
    assert product.codes(last).tolist() == list(range(product.n_cells))


def test_rows_of_levels_that_do_not_occur_together_have_no_cell():
    ranks = table(3_000)
    product = Product.of(ranks, KINDS, FIRST)
    new = [np.array([2, 3, 1, 1], np.uint16), np.array([5, 5, 5, 10_000], np.uint32), np.array([2, 1, 0, 1], np.uint16)]
    assert product.codes(new)[:3].tolist() == [-1, -1, -1]
    assert product.codes(new)[3] >= 0


def test_an_interaction_of_a_number_survives():
    """Income depends on age for one sex only: slopes within each sex from cells drawn anew, by their shares."""
    rng = np.random.default_rng(3)
    n = 20_000
    sex, age = rng.integers(0, 2, n), rng.normal(size=n)
    y = np.where(sex == 1, 0.8 * age, 0) + rng.normal(size=n)
    ranks = [sex + 1, np.argsort(np.argsort(age)) + 1, np.argsort(np.argsort(y)) + 1]
    ranks = [of.astype(np.uint32) for of in ranks]
    product = Product.of(ranks, ("unordered", "numeric", "numeric"), FIRST, bins=16)
    cells = rng.choice(product.n_cells, n, p=product.rows / n).astype(np.int32)
    drawn = [of.astype(np.int64) - 1 for of in product.split(cells, random_words(5, (3,), n))]
    ages, ys = np.sort(age)[drawn[1]], np.sort(y)[drawn[2]]
    slopes = [np.polyfit(ages[drawn[0] == s], ys[drawn[0] == s], 1)[0] for s in (0, 1)]
    # Standard errors of the two slopes are .01, and 1/256 of the variance is lost by bins of donors.
    assert abs(slopes[0]) < 0.05
    assert abs(slopes[1] - 0.8) < 0.05


def test_state_goes_through_json_and_gives_the_same_product():
    ranks = table(1_000)
    product = Product.of(ranks, KINDS, FIRST)
    record, arrays = product.state()
    again = Product.of_state(json.loads(json.dumps(record)), arrays)
    words = random_words(1, (4,), 1_000)
    codes = product.codes(ranks)
    np.testing.assert_array_equal(again.codes(ranks), codes)
    for a, b in zip(product.split(np.maximum(codes, 0), words), again.split(np.maximum(codes, 0), words)):
        np.testing.assert_array_equal(a, b)


def test_the_number_of_bins_follows_from_the_rows():
    number = np.arange(1, 100_001, dtype=np.uint32)
    few = np.tile(np.arange(1, 5, dtype=np.uint16), 25_000)
    assert Product.of([number, few], ("numeric", "unordered"), (1, 1)).n_cells == 64
    assert Product.of([number[:800], few[:800]], ("numeric", "unordered"), (1, 1)).n_cells == 40
    assert Product.of([number, number], ("numeric", "numeric"), (1, 1)).n_cells == 8


def test_input_is_not_changed():
    ranks = table(500)
    before = [of.copy() for of in ranks]
    counts = np.ones(500, np.int64)
    Product.of(ranks, KINDS, FIRST, counts=counts).codes(ranks)
    for a, b in zip(ranks, before):
        np.testing.assert_array_equal(a, b)
    assert (counts == 1).all()


def test_bad_input():
    one = np.ones(30, np.uint16)
    two = [one, one]
    kinds = ("unordered", "unordered")
    with pytest.raises(OptionError, match="at least two columns, and sex was given"):
        Product.of([one], ("unordered",), (1,), names=["sex"])
    for option in ({"min_rows": 0}, {"min_rows": 2.5}, {"bins": 0}, {"bins": True}):
        with pytest.raises(OptionError, match="must be an integer of at least 1"):
            Product.of(two, kinds, (1, 1), **option)
    with pytest.raises(DataError, match="no row has values in all of sex, age"):
        Product.of([one, one * 0], kinds, (1, 1), names=["sex", "age"])
    many = np.arange(1, 5_001, dtype=np.uint16)
    with pytest.raises(DataError, match="a, b have 5000 cells, and at most 4096"):
        Product.of([many, many], kinds, (1, 1), names=["a", "b"])
    with pytest.raises(DataError, match="have too many cells"):
        Product.of([many] * 6, ("unordered",) * 6, (1,) * 6)
