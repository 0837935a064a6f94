"""A table as a household survey gives it: every kind of column, missing codes, spikes, nested codes, planted relations.

Thirty columns, any number of rows. Exactly the relations of ``PLANTED`` hold by construction, and what follows from
them (``FOLLOWS``), or from ranges that do not overlap (``hh_size`` is below ``age``). Wherever another would hold by
accident, some rows break it: 12-year-olds who work, married people who live alone, weights in pounds, and in most
columns 3 % of answers that are another person's. In small tables a relation may still hold by chance.

Terms
-----
code
    A number that is a kind of missing value: -8 (does not know) and -9 (refused) of ``hh_income``, -8 of ``hours``.
spike
    A value on which a number piles up: 0 of ``wage``, ``transfers`` and ``capital``.
heap
    A value to which people round: 35, 38 and 40 of ``hours``. Not given in ``records``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fastsynth import Column

Kind = Literal["copy", "function", "sum", "ratio", "order", "rule", "empty"]


class Planted(NamedTuple):
    """A relation that holds in every row. The last column is the one that is given by the others, or tied to them."""

    kind: Kind
    columns: tuple[str, ...]
    text: str


PLANTED: tuple[Planted, ...] = (
    Planted("copy", ("region", "region_name"), "region_name is the name of region, one to one"),
    Planted("function", ("age", "age_group"), "age_group is the decade of age, 80+ the last"),
    Planted("function", ("occ2", "occ1"), "occ1 is the first digit of occ2, null where occ2 is"),
    Planted("function", ("occ3", "occ2"), "occ2 is the first three digits of occ3, null where occ3 is"),
    Planted("sum", ("wage", "transfers", "capital", "total_income"), "total_income = wage + transfers + capital"),
    Planted("ratio", ("wgt", "hgt", "bmi"), "bmi = wgt / (hgt / 100)^2, rounded to 1 digit, null where one of them is"),
    Planted("ratio", ("total_income", "income_month"), "income_month = total_income / 12, rounded to 0 digits"),
    Planted("order", ("job_start", "job_end"), "job_start <= job_end where both are known"),
    Planted("rule", ("age", "marital"), "age < 16 -> marital is single"),
    Planted("rule", ("employed", "hours"), "not employed -> hours is null"),
    Planted("rule", ("employed", "occ1"), "not employed -> occ1 is null"),
    Planted("empty", ("tenure", "dwelling"), "no tenure owner with dwelling shelter"),
)

# Columns between which relations hold that follow from those above, and from the sizes of the units (bmi <= wgt). The
# last ones: hardly ever do parts that are not 0 add up to 0.
FOLLOWS: tuple[tuple[str, ...], ...] = (
    ("occ1", "occ3"),
    ("employed", "occ2"),
    ("employed", "occ3"),
    ("hgt", "bmi"),
    ("wgt", "bmi"),
    ("wage", "transfers", "capital", "income_month"),
    *((part, whole) for part in ("wage", "transfers", "capital") for whole in ("total_income", "income_month")),
)

REGIONS = {
    11: "Northmark", 14: "Eastvale", 23: "Highmoor", 27: "Lakeside", 32: "Greenfield", 38: "Stonebridge",
    45: "Southport", 51: "Westhaven", 63: "Redcliff", 70: "Ashford", 82: "Millbrook", 94: "Farpoint",
}  # fmt: skip
AGE_GROUPS = ["10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70-79", "80+"]
MARITAL = ["single", "married", "cohabiting", "divorced", "widowed"]
EDUCATION = ["none", "primary", "lower secondary", "upper secondary", "bachelor", "master"]
TENURE = ["owner", "private rent", "social rent", "rent free"]
DWELLING = ["detached", "terraced", "flat", "mobile", "shelter"]

# Codes, spikes, heaps and limits, by column.
CODES = {"hours": (-8,), "hh_income": (-8, -9)}
SPIKES = {"wage": (0,), "transfers": (0,), "capital": (0,)}
HEAPS = {"hours": (35, 38, 40)}
BOUNDS: dict[str, tuple[int | None, int | None]] = {
    "hours": (1, 80),
    "wage": (0, None),
    "hh_income": (0, None),
    "score": (0, 98),
}

# What computed columns are; survey, records and violations all use these.
COMPUTED: dict[str, pl.Expr] = {
    "region_name": pl.col("region").replace_strict(REGIONS, default=None, return_dtype=pl.String),
    "age_group": (pl.col("age").clip(10, 80) // 10 - 1).replace_strict(
        dict(enumerate(AGE_GROUPS)), return_dtype=pl.Enum(AGE_GROUPS)
    ),
    "total_income": pl.col("wage") + pl.col("transfers") + pl.col("capital"),
    "income_month": (pl.col("total_income").cast(pl.Float64) / 12).round().cast(pl.Int32),
    "bmi": (pl.col("wgt") / (pl.col("hgt") / 100) ** 2).round(1),
}

# Conditions that no row may meet.
BROKEN: dict[str, pl.Expr] = {
    "order job_start <= job_end": pl.col("job_start") > pl.col("job_end"),
    "rule age < 16 -> single": (pl.col("age") < 16) & pl.col("marital").cast(pl.String).ne_missing("single"),
    "rule not employed -> hours null": ~pl.col("employed") & pl.col("hours").is_not_null(),
    "rule not employed -> occ1 null": ~pl.col("employed") & pl.col("occ1").is_not_null(),
    "rule not employed -> occ2 null": ~pl.col("employed") & pl.col("occ2").is_not_null(),
    "rule not employed -> occ3 null": ~pl.col("employed") & pl.col("occ3").is_not_null(),
    "empty owner x shelter": (pl.col("tenure") == "owner") & (pl.col("dwelling").cast(pl.String) == "shelter"),
    "weekend registered": pl.col("registered").dt.weekday() > 5,
}

SURVEY_DAY = np.datetime64("2024-06-30", "D")


def _occupations() -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]], list[str], list[str]]:
    """Shares of the middle codes within each coarse one and sex, of the fine within each middle one and education,
    and the texts of both; always the same.
    """
    rng = np.random.default_rng(7)
    sizes2 = rng.permutation([4, 5, 6, 7, 8, 8, 9, 10, 11, 12])
    codes2 = [f"{1 + i}{j + 1:02d}" if i < 9 else f"0{j + 1:02d}" for i, size in enumerate(sizes2) for j in range(size)]
    sizes3 = 2 + rng.integers(0, 12, len(codes2))
    codes3 = [f"{code}{j + 1:02d}" for code, size in zip(codes2, sizes3, strict=True) for j in range(size)]
    shares2 = [0.02 + rng.dirichlet(np.full(size, 1.5)) for size in np.repeat(sizes2, 2)]
    shares3 = [0.02 + rng.dirichlet(np.full(size, 1.5)) for size in np.repeat(sizes3, 2)]
    return shares2, shares3, codes2, codes3


def _pick(rng: np.random.Generator, shares: Any, key: NDArray[Any]) -> NDArray[np.int64]:
    """One category a row, from the shares (of any sum) of the row's key."""
    ends = [np.cumsum(s) / np.sum(s) for s in shares]
    for end in ends:
        end[-1] = 1
    flat = np.concatenate([i + end for i, end in enumerate(ends)])
    starts = np.concatenate([[0], np.cumsum([len(end) for end in ends])])
    # Less than 1, for the last limit of a key is the next key's 0.
    drawn = np.minimum(rng.random(len(key)), 1 - 1e-9)
    return np.searchsorted(flat, key + drawn, side="right") - starts[key]


def _logit(rng: np.random.Generator, score: NDArray[np.float64]) -> NDArray[np.bool_]:
    """True with the probability that has this logit."""
    return rng.random(len(score)) < 1 / (1 + np.exp(-score))


def _softmax(rng: np.random.Generator, scores: list[NDArray[np.float64]]) -> NDArray[np.int64]:
    """One category a row, by its scores on the scale of logits."""
    weights = np.exp(np.stack(scores))
    ends = weights.cumsum(0)
    return (rng.random(weights.shape[1]) * ends[-1] >= ends[:-1]).sum(0)


def _mix_up(rng: np.random.Generator, *columns: NDArray[Any], among: NDArray[np.bool_] | None = None) -> None:
    """Exchange the answers of 3 % of the rows with each other, in place, the same rows of all columns."""
    mixed = rng.random(len(columns[0])) < 0.03
    rows = np.flatnonzero(mixed if among is None else mixed & among)
    others = rng.permutation(rows)
    for column in columns:
        column[rows] = column[others]


def _level(index: NDArray[np.int64], levels: list[Any], dtype: Any, null: NDArray[np.bool_] | None = None) -> pl.Series:
    """Levels by their number, null where asked."""
    index = index if null is None else np.where(null, len(levels), index)
    return pl.Series([*levels, None], dtype=dtype).gather(index)


def _holes(values: NDArray[Any], dtype: Any, null: NDArray[np.bool_]) -> pl.Series:
    """Numbers, null where asked."""
    return pl.Series(values).cast(dtype).set(pl.Series(null), None)


def _people(rng: np.random.Generator, n: int) -> dict[str, NDArray[Any]]:
    """Who they are: place, sex, age, family, education."""
    region = rng.choice(12, n, p=np.arange(14, 2, -1) / 102)
    female = rng.random(n) < 0.51
    years = np.arange(10, 98)
    weight = (1 + 0.15 * np.sin(years / 12)) / (1 + np.exp((years - 78) / 6))
    age = rng.choice(years, n, p=weight / weight.sum())
    t = (age - 45) / 30
    marital = _softmax(
        rng,
        [
            1.2 - 2.6 * t,
            1.6 + 0.6 * t - 1.5 * t**2 - (age < 20),
            0.5 - 1.2 * t,
            0.1 + 0.6 * t - t**2,
            -2.5 + 2.8 * t + 0.5 * female,
        ],
    )
    marital[age < 16] = 0
    partner = (marital == 1) | (marital == 2)
    size = 1 + (partner & (rng.random(n) < 0.95)) + rng.poisson(0.25 + 0.9 * np.exp(-(t**2) * 2) + 1.4 * (age < 20))
    size = np.minimum(size, 9)
    _mix_up(rng, marital, among=age >= 16)
    _mix_up(rng, size)
    latent = 3.2 - 0.5 * t - 0.25 * t**2 + 0.1 * female - 0.04 * region + rng.normal(0, 1.05, n)
    latent -= np.clip((22 - age) * 0.25, 0, 2.2)
    education = np.clip(np.rint(latent), 0, 5).astype(int)
    wrong = rng.random(n) < 0.02
    education[wrong] = rng.integers(0, 6, wrong.sum())
    return {
        "region": region,
        "female": female,
        "age": age,
        "marital": marital,
        "partner": partner,
        "hh_size": size,
        "education": education,
        "no_education": _logit(rng, -3.6 + 1.3 * (age > 70) + 0.12 * region),
    }


def _work(rng: np.random.Generator, n: int, p: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Work: whether, which occupation, how many hours, and since when."""
    age, education, female = p["age"], p["education"], p["female"]
    ages = np.select([age < 16, age < 20, age < 25, age < 62, age < 67], [-2.7, -0.7, 0.9, 1.5, 0.1], -2.4)
    employed = _logit(rng, ages - 0.02 * np.maximum(age - 67, 0) + 0.25 * (education - 2.5) - 0.35 * female)
    classes = 0.5 + 6 * np.exp(-(((np.arange(10) - np.arange(8.5, -1, -1.6)[:, None]) / 2.2) ** 2))
    shares2, shares3, codes2, codes3 = _occupations()
    occ1 = _pick(rng, classes, education)
    starts2 = np.concatenate([[0], np.cumsum([len(s) for s in shares2[::2]])])
    occ2 = starts2[occ1] + _pick(rng, shares2, 2 * occ1 + female)
    starts3 = np.concatenate([[0], np.cumsum([len(s) for s in shares3[::2]])])
    occ3 = starts3[occ2] + _pick(rng, shares3, 2 * occ2 + (education > 2))
    kind = _softmax(
        rng,
        [0.9 - 0.8 * female, 0.6 + 0.0 * age, 0.1 + 0.5 * female, 0.5 + 0.9 * female + 0.5 * (age > 60) + (age < 22)],
    )
    free = np.rint(np.clip(rng.normal(30 - 5 * female - 10 * (age < 20) + 1.2 * education, 11), 1, 80))
    hours = np.where(kind == 3, free, np.array([40, 38, 35, 0])[kind]).astype(int)
    _mix_up(rng, hours, among=employed)
    unknown = _logit(rng, -3.4 + 0.9 * (age < 25) + 0.7 * (occ1 > 6))
    return {
        "employed": employed,
        "occ1": occ1,
        "occ2": occ2,
        "occ3": occ3,
        "codes2": np.array(codes2),
        "codes3": np.array(codes3),
        "no_occ": ~employed | _logit(rng, -3.6 + 0.8 * (p["region"] > 6) + 0.9 * (age > 60)),
        "hours": hours,
        "hours_answer": np.where(unknown, -8, hours),
        "no_hours": ~employed | _logit(rng, -4.0 + 0.8 * (education < 2) + 0.6 * (age > 55)),
        **_job_dates(rng, n, age, employed),
    }


def _job_dates(
    rng: np.random.Generator, n: int, age: NDArray[Any], employed: NDArray[np.bool_]
) -> dict[str, NDArray[Any]]:
    """Start and end of the present or last job, in days since 1970; starts pile up on firsts of months."""
    year = 365.25
    today = int(SURVEY_DAY.astype(np.int64))
    room = (age - 9) * year
    # The present job began, or the last one ended, so many days ago; some begin a job soon.
    ago = np.minimum(rng.gamma(0.9, 7.5 * year, n), room)
    length = np.minimum(rng.gamma(1.1, 5 * year, n), np.minimum(room, 45 * year))
    soon = rng.random(n) < 0.03
    start = np.where(employed, today - ago, today - ago * 0.6 - length)
    start = np.where(soon, today + rng.integers(1, 120, n), start)
    misdated = rng.random(n) < 0.02
    start = np.where(misdated, start - rng.random(n) * 40 * year, start).astype(np.int64)
    days = start.astype("datetime64[D]")
    start = np.where(rng.random(n) < 0.6, days.astype("datetime64[M]").astype("datetime64[D]"), days).astype(np.int64)
    planned = np.maximum(start, today) + rng.exponential(300, n)
    fixed = rng.random(n) < np.where(employed, 0.85, 0.02)
    end = np.where(fixed, planned, np.minimum(start + length, planned))
    end = np.where(rng.random(n) < 0.005, start, end).astype(np.int64)
    last = ((end.astype("datetime64[D]").astype("datetime64[M]") + 1).astype("datetime64[D]") - 1).astype(np.int64)
    end = np.where(rng.random(n) < 0.45, last, end)
    had = employed | soon | fixed | (rng.random(n) < np.select([age < 16, age < 25], [0.04, 0.45], 0.85))
    known = np.where(employed, 0.2 + 0.25 * (age < 30), 0.9)
    no_start = ~had | _logit(rng, -3.9 + 1.1 * (age > 65))
    no_end = ~had | (rng.random(n) >= known)
    _mix_up(rng, start, end, no_start, no_end)
    return {"job_start": start, "job_end": end, "no_start": no_start, "no_end": no_end}


def _money(
    rng: np.random.Generator, n: int, p: dict[str, NDArray[Any]], w: dict[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Parts of the income of last year (wage and capital in cents), and what the household has in a month."""
    age, education, employed, female = p["age"], p["education"], w["employed"], p["female"]
    t = (np.minimum(age, 70) - 45) / 30
    level = 8.6 + 0.15 * education + 0.032 * w["hours"] + 0.35 * t - 0.7 * t**2 + 0.3 * np.cos(w["occ1"])
    pay = np.exp(level - 0.12 * female + rng.normal(0, 0.4, n) - (~employed) * rng.exponential(1, n))
    paid = rng.random(n) < np.where(employed, 0.96, np.where(age < 67, 0.2, 0.08))
    cents = np.where(rng.random(n) < 0.4, np.rint(pay) * 100, np.rint(pay * 100)) * paid
    chance = np.select([age > 66, age < 16, ~employed], [2.6, -0.3, 1.0], -0.6)
    gets = _logit(rng, chance + 0.22 * (p["hh_size"] - 2) - 0.1 * (education - 2))
    pension = np.exp(9.5 + 0.1 * education + rng.normal(0, 0.35, n))
    other = np.exp(7.6 + 0.2 * p["hh_size"] + 0.9 * (~employed & (age > 17)) + rng.normal(0, 0.55, n))
    pays = rng.random(n) < np.where(p["marital"] == 3, 0.16, 0.012)
    transfers = np.where(gets, np.rint(np.where(age > 66, pension, other)), 0)
    transfers = np.where(pays, -np.rint(np.exp(7.8 + rng.normal(0, 0.6, n))), transfers)
    _mix_up(rng, cents)
    _mix_up(rng, transfers)
    owns = _logit(rng, -2.2 + 0.35 * education + 0.5 * t)
    capital = (
        owns * np.where(rng.random(n) < 0.08, -1, 1) * np.exp(6.2 + 0.3 * education + 0.8 * t + rng.normal(0, 1.3, n))
    )
    _mix_up(rng, capital)
    own = cents / 100 + transfers + capital
    others = p["partner"] * np.exp(9.6 + 0.12 * education + rng.normal(0, 0.6, n)) + 6_000 * (p["hh_size"] - 1)
    month = np.maximum(own * np.exp(rng.normal(0, 0.15, n)) + others, 0) / 12 + rng.exponential(150, n)
    _mix_up(rng, month)
    refused = _logit(rng, -3.2 + 0.25 * education + 0.6 * (age > 50))
    unknown = _logit(rng, -3.3 + 2.2 * (age < 20) + 0.4 * (p["hh_size"] > 3))
    return {
        "wage": cents,
        "transfers": transfers.astype(np.int64),
        "capital": np.rint(capital * 100),
        "own": own,
        "hh_income": np.where(refused, -9, np.where(unknown, -8, np.rint(month / 50) * 50)).astype(np.int64),
    }


def _life(
    rng: np.random.Generator, n: int, p: dict[str, NDArray[Any]], own: NDArray[np.float64]
) -> dict[str, NDArray[Any]]:
    """Housing, body, well-being, and how the interview went."""
    age, female, education = p["age"], p["female"], p["education"]
    t = (age - 45) / 30
    rich = np.tanh(own / 40_000)
    tenure = _softmax(
        rng, [0.6 + t + 0.9 * rich + 0.4 * p["partner"], 0.8 - 0.8 * t, 0.7 - rich + 0.03 * p["region"], -1.2 - 0.2 * t]
    )
    shares = np.array([[45, 35, 18, 2, 0], [14, 26, 56, 2, 2], [4, 32, 58, 2, 4], [26, 22, 36, 9, 7]], float)
    city = np.array([[1.0, 1, 1, 1, 1], [0.5, 0.9, 1.6, 0.6, 1.3]])
    dwelling = _pick(rng, (shares[:, None] * city).reshape(8, 5), 2 * tenure + (p["region"] < 4))
    growth = np.clip(17 - age, 0, 7)
    hgt = np.rint(np.clip(178 - 13 * female - 5.2 * growth - 3 * np.maximum(t, 0) + rng.normal(0, 6.8, n), 105, 212))
    smoker = _logit(rng, -0.4 - 0.3 * education - 0.3 * female - 1.1 * t**2 - 2.0 * (age < 16))
    mass = 26 + 2.0 * t - 2.4 * t**2 - 0.3 * education - 0.6 * smoker - 0.35 * growth
    mass = np.clip(mass + rng.normal(0, 3.3, n) + rng.exponential(1.6, n), 11, 70)
    wgt = mass * (hgt / 100) ** 2
    wgt = np.where(rng.random(n) < 0.5, np.rint(wgt), np.rint(wgt * 10) / 10)
    pounds = rng.random(n) < 0.015
    wgt = np.where(pounds, np.rint(wgt / 0.4536), wgt)
    _mix_up(rng, hgt, wgt)
    mood = -0.1 + 0.9 * rich + 0.4 * p["partner"] - 0.5 * smoker - 0.05 * (mass - 25) - 0.4 * t + rng.normal(0, 1.9, n)
    day = np.minimum(rng.gamma(3, 55, n) + 14 * p["region"] + 40 * (age < 30), 521 - 10 * rng.random(n))
    date = np.busday_offset(np.datetime64("2022-07-01"), day.astype(int), roll="forward")
    minute = np.where(rng.random(n) < 0.04, rng.random(n) * 1440, np.clip(rng.normal(820 - 60 * t, 170), 0, 1439))
    registered = date.astype(np.int64) * 1440 + minute.astype(np.int64)
    _mix_up(rng, registered)
    seconds = rng.gamma(9, 120 + 30 * p["hh_size"] + 50 * np.maximum(t, 0) + 25 * (education < 2))
    return {
        "tenure": tenure,
        "dwelling": dwelling,
        "hgt": hgt,
        "no_hgt": _logit(rng, -3.8 + 1.2 * (age > 70) + 0.5 * (tenure == 2)),
        "wgt": wgt,
        "no_wgt": _logit(rng, -3.4 + 0.8 * female + 0.06 * (mass - 25)),
        "score": np.clip(np.floor(99 / (1 + np.exp(-mood))), 0, 98),
        "smoker": smoker,
        "no_smoker": _logit(rng, -3.7 + 1.6 * (age < 18) + 0.7 * smoker),
        "registered": registered,
        "interview_length": np.rint(seconds / 10).astype(np.int64) * 10,
    }


def survey(n: int, seed: int = 1) -> pl.DataFrame:
    """The table: ``n`` people of 10 to 97 years, in 30 columns.

    Parameters
    ----------
    n : int
        Rows; a million take about three seconds.
    seed : int, default 1

    Notes
    -----
    Nulls: ``education`` (with age and region), ``occ1`` to ``occ3`` together and ``hours`` (not employed, and some who
    are, with age, education and region), ``job_start`` and ``job_end`` (with age and employed), ``hgt`` (with age and
    tenure), ``wgt`` (with sex and weight itself), ``smoker`` (with age and smoking itself).
    """
    rng = np.random.default_rng(seed)
    p = _people(rng, n)
    w = _work(rng, n, p)
    m = _money(rng, n, p, w)
    x = _life(rng, n, p, m["own"])
    codes2, codes3 = w["codes2"].tolist(), w["codes3"].tolist()
    money = pl.Decimal(10, 2)
    data = {
        "region": pl.Series(list(REGIONS), dtype=pl.Int16).gather(p["region"]),
        "sex": _level(p["female"].astype(int), ["male", "female"], pl.String),
        "age": pl.Series(p["age"]).cast(pl.Int16),
        "marital": _level(p["marital"], MARITAL, pl.Categorical),
        "hh_size": pl.Series(p["hh_size"]).cast(pl.Int8),
        "education": _level(p["education"], EDUCATION, pl.Enum(EDUCATION), p["no_education"]),
        "employed": pl.Series(w["employed"]),
        "occ1": _level(w["occ1"], [*"1234567890"], pl.Categorical, w["no_occ"]),
        "occ2": _level(w["occ2"], codes2, pl.String, w["no_occ"]),
        "occ3": _level(w["occ3"], codes3, pl.String, w["no_occ"]),
        "hours": _holes(w["hours_answer"], pl.Int16, w["no_hours"]),
        "job_start": _holes(w["job_start"].astype(np.int32), pl.Date, w["no_start"]),
        "job_end": _holes(w["job_end"].astype(np.int32), pl.Date, w["no_end"]),
        "wage": pl.Series(m["wage"] / 100).cast(money),
        "transfers": pl.Series(m["transfers"]).cast(pl.Int32),
        "capital": pl.Series(m["capital"] / 100).cast(money),
        "hh_income": pl.Series(m["hh_income"]).cast(pl.Int32),
        "tenure": _level(x["tenure"], TENURE, pl.String),
        "dwelling": _level(x["dwelling"], DWELLING, pl.Categorical),
        "hgt": _holes(x["hgt"], pl.Int16, x["no_hgt"]),
        "wgt": _holes(x["wgt"], pl.Float64, x["no_wgt"]),
        "score": pl.Series(x["score"]).cast(pl.Int16),
        "smoker": _holes(x["smoker"], pl.Boolean, x["no_smoker"]),
        "registered": pl.Series(x["registered"] * 60_000_000).cast(pl.Datetime("us")),
        "interview_length": pl.Series(x["interview_length"] * 1000).cast(pl.Duration("ms")),
    }
    total = COMPUTED["total_income"].cast(money).alias("total_income")
    frame = pl.DataFrame(data).with_columns(total)
    frame = frame.with_columns(COMPUTED[name].alias(name) for name in COMPUTED if name != "total_income")
    return frame.select(COLUMNS)


# Parents come before what is computed from them.
COLUMNS = [
    "region", "region_name", "sex", "age", "age_group", "marital", "hh_size", "education", "employed", "occ1",
    "occ2", "occ3", "hours", "job_start", "job_end", "wage", "transfers", "capital", "total_income", "income_month",
    "hh_income", "tenure", "dwelling", "hgt", "wgt", "bmi", "score", "smoker", "registered", "interview_length",
]  # fmt: skip


def records() -> tuple[dict[str, Column], list[pl.Expr]]:
    """What a statistician would write by hand for this table: ``columns`` and ``forbid`` of ``synthesize``.

    All of ``PLANTED`` is in it, the codes, the spikes, the limits, and that nobody registers at weekends. The heaps of
    ``hours`` are not.
    """
    from fastsynth import Column, Nested, Rule

    idle = ~pl.col("employed")
    columns = {name: Column(passive=expression) for name, expression in COMPUTED.items()}
    columns |= {
        "marital": Column(rules=[Rule(when=pl.col("age") < 16, value="single")]),
        "occ1": Column(rules=[Rule(when=idle, value=None)]),
        "occ2": Column(method=Nested(within="occ1")),
        "occ3": Column(method=Nested(within="occ2")),
        "hours": Column(cont_na=CODES["hours"], rules=[Rule(when=idle, value=None)], bounds=BOUNDS["hours"]),
        "job_end": Column(bounds=pl.col("job_start") <= pl.col("job_end")),
        "wage": Column(semicont=SPIKES["wage"], bounds=BOUNDS["wage"]),
        "transfers": Column(semicont=SPIKES["transfers"]),
        "capital": Column(semicont=SPIKES["capital"]),
        "hh_income": Column(cont_na=CODES["hh_income"], bounds=BOUNDS["hh_income"]),
        "score": Column(bounds=BOUNDS["score"]),
        "registered": Column(bounds=pl.col("registered").dt.weekday() <= 5),
    }
    return columns, [(pl.col("tenure") == "owner") & (pl.col("dwelling") == "shelter")]


def violations(original: pl.DataFrame, copy: pl.DataFrame) -> dict[str, int]:
    """Rows of a copy that break something of the table, by what it is; all 0 of ``violations(df, df)``.

    Keys begin with what they are of: dtype (1 for a wrong type), category (rows with one that the original lacks),
    computed (rows in which a copy, function, sum or ratio is not exact), nested (rows with a pair of codes that the
    original lacks), order, rule, empty, weekend, bounds, code (rows between or around the codes: below the limit, and
    no code), spike and heap (1 where the share of the value is off by more than five standard errors; codes are looked
    at as well). A column of the wrong type is looked at no further.
    """
    found = {f"dtype {name}": int(copy.schema.get(name) != original.schema[name]) for name in original.columns}
    if any(found.values()):
        return found
    for name, dtype in original.schema.items():
        if isinstance(dtype, pl.String | pl.Categorical | pl.Enum | pl.Boolean) or name == "region":
            values = original[name].cast(pl.String).unique()
            found[f"category {name}"] = int(
                (~copy[name].cast(pl.String).is_in(values.implode(), nulls_equal=True)).sum()
            )
    for name, expression in COMPUTED.items():
        found[f"computed {name}"] = _differences(copy, name, expression)
    for coarse, fine in (("occ1", "occ2"), ("occ2", "occ3")):
        pairs = original.select(pl.col(coarse, fine).cast(pl.String)).unique()
        drawn = copy.select(pl.col(coarse, fine).cast(pl.String))
        found[f"nested {coarse} x {fine}"] = drawn.join(pairs, on=[coarse, fine], how="anti", nulls_equal=True).height
    for name, condition in BROKEN.items():
        found[name] = int(copy.select(condition.fill_null(False).sum()).item())
    for name, (low, high) in BOUNDS.items():
        below = copy[name] < low
        if name in CODES:
            below &= ~copy[name].is_in(CODES[name])
        found[f"{'code' if name in CODES else 'bounds'} {name} >= {low}"] = int(below.sum())
        if high is not None:
            found[f"bounds {name} <= {high}"] = int((copy[name] > high).sum())
    for what, table in (("code", CODES), ("spike", SPIKES), ("heap", HEAPS)):
        for name, values in table.items():
            for value in values:
                found[f"{what} {name} = {value}"] = int(_share_is_off(original[name], copy[name], value))
    return found


def _differences(copy: pl.DataFrame, name: str, expression: pl.Expr) -> int:
    """Rows in which a computed column is something else; floats may differ by rounding of the last bit."""
    dtype = copy.schema[name]
    given, wanted = copy[name], copy.select(expression.cast(dtype, strict=False).alias(name)).to_series()
    if dtype.is_float():
        wrong = ((given - wanted).abs() > 1e-9).fill_null(False) | (given.is_null() != wanted.is_null())
        return int(wrong.sum())
    return int(given.ne_missing(wanted).sum())


def _share_is_off(original: pl.Series, copy: pl.Series, value: int) -> bool:
    """Whether the value's share of a copy is more than five standard errors from that of the original."""
    share = float((original == value).fill_null(False).mean())
    other = float((copy == value).fill_null(False).mean())
    return abs(other - share) > 5 * np.sqrt(share * (1 - share) / len(copy))
