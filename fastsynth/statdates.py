"""Dates and times as the numbers that SPSS, Stata and SAS write for them, and back, without a loss."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Family = Literal["spss", "stata", "sas"]
Numbers = NDArray[np.float64]

# Days from the origin of the family to 1970; units in a day, microseconds in a unit of date-times and times.
ORIGIN_DAYS = {"spss": 141_428, "stata": 3_653, "sas": 3_653}
DAY_UNITS = {"spss": 86_400, "stata": 1, "sas": 1}
UNIT_MICROSECONDS = {"spss": 1_000_000, "stata": 1_000, "sas": 1_000_000}
DAY_MICROSECONDS = 86_400_000_000
# Days from 1970 of the years 1 to 9999, which Python's dates can hold.
FIRST_DAY, LAST_DAY = -719_162, 2_932_896
TEMPORAL = {
    "spss": {
        "date": r"([AEJS]?DATE|MOYR|QYR|WKYR)[\d.]*",
        "datetime": r"(DATETIME|YMDHMS)[\d.]*",
        "time": r"[DM]?TIME[\d.]*",
    },
    "stata": {"date": r"%-?(td|d).*", "datetime": r"%-?t[cC](?!HH).*", "time": r"%-?t[cC]HH.*"},
    "sas": {
        "date": r"(DATE|WEEKDAT[EX]|WORDDAT[EX]|MONYY|(DDMMYY|MMDDYY|YYMMDD)[BCDNPS]?|(IS|E|B)8601DA)[\d.]*",
        "datetime": r"(DATETIME|DATEAMPM|MDYAMPM|DTDATE|(IS|E|B)8601D[TN])[\d.]*",
        "time": r"(TIME|TIMEAMPM|TOD|HHMM|(IS|E|B)8601TM)[\d.]*",
    },
}
FORMATS = {
    "spss": {"date": "DATE11", "datetime": "DATETIME20", "time": "TIME8"},
    "stata": {"date": "%td", "datetime": "%tc", "time": "%tcHH:MM:SS"},
    "sas": {"date": "DATE9", "datetime": "DATETIME20", "time": "TIME8"},
}


def temporal_format(dtype: pa.DataType, family: Family) -> str | None:
    """Format that makes numbers dates, date-times or times; None for other types."""
    if not pa.types.is_temporal(dtype):
        return None
    return FORMATS[family][
        "date" if pa.types.is_date(dtype) else "datetime" if pa.types.is_timestamp(dtype) else "time"
    ]


def from_numbers(numbers: Numbers, null: NDArray[np.bool_], said: str, family: Family) -> pa.Array | None:
    """Dates, date-times or times of the numbers of a file.

    Parameters
    ----------
    numbers : ndarray of shape (n_rows,), dtype=float64
    null : ndarray of shape (n_rows,), dtype=bool
        Rows whose number does not count.
    said : str
        Format of the column.
    family : {"spss", "stata", "sas"}

    Returns
    -------
    pyarrow.Array of type date32, timestamp("us") or time64("us"), or None
        None where the format means something else, or the very same numbers would not come back: durations of more than
        a day, dates with a time, years beyond 9999.
    """
    kind = next((kind for kind, names in TEMPORAL[family].items() if re.fullmatch(names, said)), None)
    if kind is None or null.all():
        return None
    numbers = np.where(null, numbers[~null][0], numbers)
    array = _convert(numbers, null, kind, family)
    return array if array is not None and (to_numbers(array, family)[~null] == numbers[~null]).all() else None


def _convert(numbers: Numbers, null: NDArray[np.bool_], kind: str, family: Family) -> pa.Array | None:
    unit, origin = UNIT_MICROSECONDS[family], ORIGIN_DAYS[family]
    days = numbers / (DAY_UNITS[family] if kind == "date" else DAY_MICROSECONDS // unit)
    low, high = (0, 1) if kind == "time" else (FIRST_DAY + origin, LAST_DAY + 1 + origin)
    if not ((days >= low) & (days < high)).all():
        return None
    if kind == "date":
        return pa.array(np.floor(days).astype(np.int32) - origin, mask=null).cast(pa.date32())
    whole = np.floor(numbers)
    since = whole.astype(np.int64) * unit + np.rint((numbers - whole) * unit).astype(np.int64)
    if kind == "datetime":
        return pa.array(since - origin * DAY_MICROSECONDS, mask=null).cast(pa.timestamp("us"))
    return pa.array(np.minimum(since, DAY_MICROSECONDS - 1), mask=null).cast(pa.time64("us"))


def to_numbers(array: pa.Array, family: Family) -> Numbers:
    """Numbers of shape (n_rows,) that a file holds for dates, date-times or times; any number for a null."""
    unit, origin = UNIT_MICROSECONDS[family], ORIGIN_DAYS[family]
    if pa.types.is_date(array.type):
        days = array.cast(pa.date32()).cast(pa.int32()).fill_null(0).to_numpy(zero_copy_only=False)
        return np.asarray((days.astype(float) + origin) * DAY_UNITS[family])
    if pa.types.is_timestamp(array.type):
        since = array.cast(pa.timestamp("us", array.type.tz), safe=False).cast(pa.int64())
    else:
        since, origin = array.cast(pa.time64("us"), safe=False).cast(pa.int64()), 0
    counts = since.fill_null(0).to_numpy(zero_copy_only=False) + origin * DAY_MICROSECONDS
    return np.asarray(counts // unit + counts % unit / unit)
