"""Dates as numbers of statistics packages, and back."""

from __future__ import annotations

import datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastsynth.statdates import FORMATS, from_numbers, temporal_format, to_numbers

DATE, DATETIME, TIME = datetime.date(2024, 2, 29), datetime.datetime(2024, 2, 29, 12, 30, 1), datetime.time(23, 59, 59)


def read(numbers, said, family):
    numbers = np.array(numbers, float)
    return from_numbers(numbers, np.isnan(numbers), said, family)


@pytest.mark.parametrize(
    ("number", "said", "family", "value"),
    [
        (13_928_544_000, "DATE11", "spss", DATE),
        (13_928_544_000, "EDATE10", "spss", DATE),
        (13_928_589_001, "DATETIME20", "spss", DATETIME),
        (13_928_589_001, "YMDHMS19", "spss", DATETIME),
        (86_399, "TIME8", "spss", TIME),
        (23_435, "%td", "stata", DATE),
        (23_435, "%tdCCYY-NN-DD", "stata", DATE),
        (2_024_829_001_000, "%tc", "stata", DATETIME),
        (86_399_000, "%tcHH:MM:SS", "stata", TIME),
        (23_435, "YYMMDD10.", "sas", DATE),
        (23_435, "E8601DA10.", "sas", DATE),
        (2_024_829_001, "DATETIME20", "sas", DATETIME),
        (86_399, "TIME20.3", "sas", TIME),
    ],
)
def test_formats(number, said, family, value):
    assert read([number, np.nan], said, family).to_pylist() == [value, None]


@pytest.mark.parametrize(
    ("numbers", "said", "family"),
    [
        ([13_928_544_000.5], "DATE11", "spss"),  # a date with a time
        ([13_928_544_000, -9], "DATE11", "spss"),  # a declared missing value that is no day
        ([1e300], "DATE11", "spss"),
        ([-1e300], "%tc", "stata"),
        ([86_400], "TIME8", "spss"),  # a duration
        ([-1], "DTIME", "spss"),
        ([86_399.9999999], "TIME8", "spss"),
        ([0.1 + 1e-9], "DATETIME20", "sas"),  # finer than microseconds
        ([23_435], "F8.2", "spss"),
        ([23_435], "%9.0g", "stata"),
        ([23_435], "%tm", "stata"),
        ([23_435], "BEST12", "sas"),
        ([23_435], "", "sas"),
        ([np.nan], "DATE11", "spss"),
    ],
)
def test_what_would_not_come_back_stays_a_number(numbers, said, family):
    assert read(numbers, said, family) is None


@pytest.mark.parametrize("family", ["spss", "stata", "sas"])
@given(
    dates=st.lists(st.dates() | st.none(), min_size=1),
    times=st.lists(st.times() | st.none(), min_size=1),
    moments=st.lists(
        st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1)) | st.none(), min_size=1
    ),
)
def test_round_trip(family, dates, times, moments):
    for kind, values, dtype in (
        ("date", dates, pa.date32()),
        ("time", times, pa.time64("us")),
        ("datetime", moments, pa.timestamp("us")),
    ):
        array = pa.array(values, dtype)
        null = array.is_null().to_numpy(zero_copy_only=False)
        numbers = to_numbers(array, family)
        again = from_numbers(numbers, null, FORMATS[family][kind], family)
        assert temporal_format(dtype, family) == FORMATS[family][kind]
        if null.all():
            assert again is None
        elif kind == "date":
            assert again.equals(array)
        else:
            # Doubles are coarser than microseconds far from the origin; the numbers are the same all the same.
            assert np.array_equal(to_numbers(again, family)[~null], numbers[~null])
            ahead = np.array(again.cast(pa.int64()).fill_null(0)) - np.array(array.cast(pa.int64()).fill_null(0))
            assert (np.abs(ahead) <= 2).all()


def test_other_types_of_arrow():
    tz = pa.array([DATETIME], pa.timestamp("ms", "UTC"))
    assert to_numbers(tz, "sas").tolist() == [2_024_829_001]
    assert to_numbers(pa.array([TIME], pa.time32("s")), "stata").tolist() == [86_399_000]
    assert to_numbers(pa.array([DATE], pa.date64()), "spss").tolist() == [13_928_544_000]
    assert temporal_format(pa.float64(), "spss") is None
