"""Groups of columns, and their counts from pieces."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import numpy as np
import polars as pl
import pytest

from fastsynth import source, tables
from fastsynth.compared import open_compared
from fastsynth.errors import DataError, OptionError
from fastsynth.tables import (
    MISSING,
    OTHERS,
    Spread,
    columns_of,
    count,
    group,
    look,
    pairs,
    plot_classes,
    pooled,
    quantile,
    spread_of,
    weights_of,
)


def grouped(real, copies, groups=5, cont_na=None, weights=None):
    both = open_compared(real, copies)
    columns = columns_of(both, cont_na)
    seen = look(both, columns, spread_of(both, columns), weights)
    return both, columns, seen, group(columns, seen, groups)


def one(values, copy=None, dtype=None, groups=5, cont_na=None):
    """The grouping of one column, and counts of original and copy."""
    real = pl.DataFrame({"a": pl.Series(values, dtype=dtype)})
    other = real if copy is None else pl.DataFrame({"a": pl.Series(copy, dtype=dtype)})
    both, _, _, groupings = grouped(real, other, groups, cont_na)
    found, _ = count(both, groupings, [(0,)])
    return groupings[0], found.original.tolist(), found.copies[0].tolist()


def test_numbers_are_cut_at_quantiles_of_both_sides():
    grouping, o, s = one(list(range(0, 100)), list(range(100, 200)))
    assert grouping.edges.tolist() == [39, 79, 119, 159]
    assert grouping.labels == ("up to 39", "over 39 to 79", "over 79 to 119", "over 119 to 159", "over 159")
    assert o == [40, 40, 20, 0, 0]
    assert s == [0, 0, 20, 40, 40]


def test_the_copies_weigh_as_much_as_the_original():
    real, few = pl.DataFrame({"a": range(100)}), pl.DataFrame({"a": range(100, 110)})
    (grouping,) = grouped(real, [few, few], 2)[3]
    assert grouping.edges.tolist() == [99]
    (grouping,) = grouped(real, [few, few], 4)[3]
    assert grouping.edges.tolist() == [49, 99, 104]


def test_few_values_are_a_group_each():
    grouping, o, s = one([1, 1, 1, 1, 1, 1, 1, 1, 1, 0], [1] * 9 + [2])
    assert grouping.labels == ("0", "1", "2")
    assert (o, s) == ([1, 9, 0], [0, 9, 1])


def test_a_frequent_value_at_either_end_is_not_lost():
    low = one([0] * 90 + list(range(1, 11)))
    assert low[0].labels == ("up to 0", "over 0")
    assert low[1] == [90, 10]
    high = one([10] * 90 + list(range(10)))
    assert high[0].labels == ("up to 9", "over 9")
    assert high[1] == [10, 90]


def test_kinds_of_missing_are_groups_of_their_own():
    values = [None, float("nan"), -8.0, -9.0, 1.0, 2.0, 3.0, None]
    grouping, o, _ = one(values, cont_na={"a": [-9, -8]}, groups=3)
    assert grouping.labels == (MISSING, "NaN", "-9", "-8", "1", "2", "3")
    assert o == [2, 1, 1, 1, 1, 1, 1]
    # Without codes they are numbers.
    assert one(values, groups=5)[0].labels == (MISSING, "NaN", "-9", "-8", "1", "2", "3")


def test_rare_levels_are_one_group():
    values = [f"l{i:03}" for i in range(300) for _ in range(1 + (i < 250))]
    grouping, o, _ = one(values)
    assert len(grouping.levels) == 250
    assert grouping.labels[-1] == OTHERS
    assert o == [2] * 250 + [50]


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical])
def test_levels_of_one_side_only(dtype):
    grouping, o, s = one(["b", "a", None, "a"], ["c", "a", "a", "a"], dtype)
    assert grouping.labels == (MISSING, "a", "b", "c")
    assert (o, s) == ([1, 2, 1, 0], [0, 3, 0, 1])


def test_ordered_levels_keep_their_order():
    grouping, o, _ = one(["low", "high", "low"], dtype=pl.Enum(["low", "mid", "high"]))
    assert grouping.labels == ("low", "high")
    assert o == [2, 1]


@pytest.mark.parametrize(
    ("values", "dtype", "labels"),
    [
        ([True, False, None], pl.Boolean, (MISSING, "false", "true")),
        ([None, None], pl.Null, (MISSING,)),
        ([None, None], pl.Int64, (MISSING, "no value")),
        ([None, None], pl.String, (MISSING,)),
        ([Decimal("1.50"), Decimal("2.25")], pl.Decimal(10, 2), ("1.5", "2.25")),
        ([dt.date(2020, 2, 1), dt.date(2021, 1, 1)], pl.Date, ("2020-02-01", "2021-01-01")),
        ([dt.datetime(2020, 2, 1, 3)] * 2, pl.Datetime("ms"), ("2020-02-01 03:00:00.000",)),
        ([dt.timedelta(hours=5)] * 2, pl.Duration("us"), ("5:00:00",)),
        ([dt.time(5, 30)] * 2, pl.Time, ("05:30:00",)),
        ([2**63, 2**63 + 5000], pl.UInt64, ("9.22337e+18", "9.22337e+18")),
    ],
    ids=str,
)
def test_every_type_has_groups_and_labels(values, dtype, labels):
    grouping, o, s = one(values, dtype=dtype)
    assert grouping.labels == labels
    assert o == s
    assert sum(o) == len(values)


def test_missing_codes_of_dates():
    unknown = dt.date(9999, 1, 1)
    grouping, o, _ = one([unknown, dt.date(2020, 1, 1), unknown], dtype=pl.Date, cont_na={"a": [unknown]})
    assert grouping.labels == ("9999-01-01", "2020-01-01")
    assert o == [2, 1]


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DataError, match="infinite"):
        one([1.0, float("inf")])
    with pytest.raises(DataError, match="'a' has type"):
        one([[1], [2]])
    with pytest.raises(OptionError, match="cont_na names 'b'"):
        one([1, 2], cont_na={"b": [1]})
    with pytest.raises(OptionError, match="101 codes"):
        one([1, 2], cont_na={"a": range(101)})
    with pytest.raises(OptionError, match="cont_na of 'a'"):
        one(["x", "y"], cont_na={"a": ["x"]})
    with pytest.raises(OptionError, match="20,708,500 tables"):
        tables.check_tables(20_708_500, "threeway=True")


@pytest.mark.parametrize("share", [[1, 1, 1, 1, 1], [0.1, 0.2, 0.3, 0.2, 0.2]])
def test_quantiles_are_values(share):
    values, share = np.arange(5.0), np.array(share, float)
    q = [0.001, 0.1, 0.2, 0.6, 0.999]
    expected = np.quantile(values, q, weights=share, method="inverted_cdf")
    assert quantile(values, share, q).tolist() == expected.tolist()


def test_a_spread_takes_the_same_share_of_every_side():
    assert Spread(100, 100).rows(7, 3).tolist() == [0, 1, 2]
    spread = Spread(10, 1000)
    assert len(spread.rows(0, 1000)) == 10
    assert len(spread.rows(0, 500)) == 5
    pieces = [first + spread.rows(first, 77) for first in range(0, 1001, 77)]
    assert np.concatenate(pieces)[:10].tolist() == spread.rows(0, 1000).tolist()


def test_classes_of_pictures():
    _, columns, seen, groupings = grouped(*[pl.DataFrame({"a": [0] * 95 + list(range(1, 101)) + [10**6]})] * 2)
    plot, borders = plot_classes(columns[0], *pooled([side.values["a"] for side in seen]), groupings[0])
    assert borders[0] == -0.5
    assert borders[-1] >= 100
    assert len(borders) <= 31
    assert (np.diff(borders) == np.diff(borders)[0]).all()
    assert len(plot.labels) == len(borders) - 1
    _, columns, seen, groupings = grouped(*[pl.DataFrame({"a": [1.5, None, 2.5]})] * 2)
    plot, borders = plot_classes(columns[0], *pooled([side.values["a"] for side in seen]), groupings[0])
    assert borders.tolist() == [1.0, 2.0, 3.0]
    assert plot.labels == (MISSING, "1.5", "2.5")


# Counts


def naive(frame, groupings, slots):
    """Counts of one table, row by row."""
    shape = [len(groupings[slot].labels) for slot in slots]
    out = np.zeros(shape)
    for row in frame.select([groupings[slot].name for slot in slots]).iter_rows():
        place = []
        for slot, value in zip(slots, row):
            grouping = groupings[slot]
            if value is None:
                place.append(0)
            elif grouping.edges is None:
                found = grouping.levels.index(value) if value in grouping.levels else len(grouping.levels)
                place.append(grouping.has_null + found)
            elif value != value:
                place.append(int(grouping.has_null))
            else:
                place.append(grouping.first + int((grouping.edges < value).sum()))
        out[tuple(place)] += 1
    return out


@pytest.fixture(scope="module")
def sides(mixed):
    real = mixed.with_columns(pl.col("region").cast(pl.String), nan=pl.col("income").fill_null(float("nan")))
    return real, [real.sample(400, seed=seed, with_replacement=True) for seed in (1, 2)]


@pytest.mark.parametrize(("piece", "held", "threads"), [(10**6, 10**7, 1), (123, 10**7, 2), (77, 0, 1)])
def test_counts_are_those_of_rows_however_they_are_cut(sides, monkeypatch, piece, held, threads):
    real, copies = sides
    monkeypatch.setattr(source, "PIECE_ROWS", piece)
    monkeypatch.setattr(tables, "HELD_CELLS", held)
    monkeypatch.setattr(tables, "MOST_CELLS", 60 if not held else 10**6)
    both = open_compared(real, copies, threads=threads)
    columns = columns_of(both, None)
    groupings = group(columns, look(both, columns, spread_of(both, columns), None), 5)
    slots = [*pairs(len(groupings)), (0, 1, 2), (1, 2, 4)]
    found, _ = count(both, groupings, slots)
    for table in slots:
        o, s = found.table(table)
        assert (o == naive(real, groupings, table)).all()
        for copy, of_copy in zip(copies, s, strict=True):
            assert (of_copy == naive(copy, groupings, table)).all()


def test_weights_count_rows_as_if_repeated():
    rng = np.random.default_rng(2)
    real = pl.DataFrame({"a": rng.integers(0, 9, 200), "b": rng.choice(["x", "y"], 200), "w": rng.integers(0, 5, 200)})
    both = open_compared(real, real.drop("w"))
    weights = weights_of(both, "w")
    w = real["w"].to_numpy()
    assert weights.effective == pytest.approx(w.sum() ** 2 / (w**2).sum())
    columns = columns_of(both, None)
    groupings = group(columns, look(both, columns, spread_of(both, columns), weights), 5)
    found, moments = count(both, groupings, pairs(2), weights, {"a": (4.0, 2.0)}, True)
    repeated = real[np.repeat(np.arange(200), w)]
    for table in pairs(2):
        expected = naive(repeated, groupings, table)
        assert found.table(table)[0] == pytest.approx(expected * weights.effective / w.sum(), rel=1e-9)
        assert found.table(table)[1].sum() == 200
    assert moments[0].rows[0, 0] == w.sum()


@pytest.mark.parametrize("bad", [[1.0, None], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_bad_weights_are_refused(bad):
    both = open_compared(pl.DataFrame({"a": [1, 2], "w": bad}), pl.DataFrame({"a": [1, 2]}))
    with pytest.raises(DataError, match="weights='w'"):
        weights_of(both, "w")
