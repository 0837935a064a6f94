"""A census-like table for benchmarks: nine categorical and eleven numeric columns, any number of rows.

Counts, zero-heavy amounts, continuous columns, and tax, which is nearly a function of income.
"""

from __future__ import annotations

import numpy as np
import polars as pl

CATEGORIES = {
    "region": 12,
    "sex": 2,
    "marital": 4,
    "emp": 5,
    "occ": 25,
    "ind": 17,
    "ethnic": 8,
    "tenure": 4,
    "smoke": 2,
}


def _choose(rng: np.random.Generator, scores: np.ndarray) -> np.ndarray:
    """One category a row, by the largest of scores plus Gumbel noise (a multinomial logit)."""
    return (scores + rng.gumbel(size=scores.shape)).argmax(1)


def _block(n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    region = rng.choice(12, n, p=np.arange(12, 0, -1) / 78)
    sex = rng.integers(0, 2, n)
    age = np.minimum(rng.gamma(3.2, 13, n).astype(int), 100)
    edu = np.clip(rng.binomial(6, 0.35 + 0.2 * (age < 50) + 0.03 * (region < 3)), 0, 6)
    old, adult = age / 100, age >= 16
    marital = _choose(rng, np.column_stack([3 - 6 * old, 4 * old, 3 * old - 1, 9 * old - 6.5]))
    emp = _choose(
        rng,
        np.column_stack([1 + 0 * old, 2.5 * adult - 3 * (age > 66), 4 * (age > 64), 2.5 * (age < 20), 0.3 * edu - 1]),
    )
    loads = np.random.default_rng(7).normal(size=(64, 3))
    who = np.column_stack([edu / 3 - 1, sex - 0.5, old - 0.4])
    occ = _choose(rng, who @ loads[:25].T * 1.5)
    ind = _choose(rng, who @ loads[25:42].T + 1.5 * np.cos(occ[:, None] + np.arange(17)))
    ethnic = _choose(rng, np.array([4, 1, 1, 0.5, 0, 0, -0.5, -1]) + 0.4 * np.cos(region[:, None] * np.arange(8)))
    tenure = _choose(rng, np.column_stack([3 * old + 0.2 * edu, 1 - old, 0.5 + 0.3 * (region > 6), -1 + 0 * old]))
    smoke = (rng.random(n) < 1 / (1 + np.exp(1 + 0.3 * edu - 0.5 * sex + 2 * np.abs(old - 0.4)))).astype(int)
    hsize = np.clip(1 + rng.poisson(0.4 + 1.6 * (marital == 1) * (age < 60)), 1, 12)
    health = np.clip(np.round(5 - 2.5 * old - 0.4 * smoke + 0.1 * edu + rng.normal(size=n)), 1, 5).astype(int)
    working = (emp == 1) | (emp == 4)
    hours = np.where(working, np.clip(np.round(38 - 6 * sex + rng.normal(0, 8, n)), 1, 98), 0).astype(int)
    wage = np.exp(
        9.2 + 0.14 * edu + 0.012 * hours + 0.2 * np.sin(occ) + 1.5 * old - 1.6 * old**2 + rng.normal(0, 0.5, n)
    )
    income = np.where(working | (age > 64), np.round(wage, 2), 0)
    tax = np.round(np.maximum(income - 9000, 0) * 0.2 + np.maximum(income - 40_000, 0) * 0.2 + rng.normal(0, 20, n), 2)
    rooms = np.clip(np.round(1.5 + 0.6 * hsize + income / 40_000 + (tenure == 0) + rng.normal(0, 1, n)), 1, 15).astype(
        int
    )
    bmi = np.round(
        22 + 8 * old - 7 * old**2 + 0.8 * smoke - 0.15 * edu + 3.5 * rng.normal(size=n) + rng.exponential(1, n), 1
    )
    commute = np.where(working, np.round(rng.gamma(2, 9 + 2 * (region % 4) + income / 30_000, n), 1), 0)
    rent = np.where(tenure > 0, np.round(250 + 90 * rooms + income / 150 + 40 * region + rng.normal(0, 90, n), 0), 0)
    return {
        "region": region,
        "sex": sex,
        "age": age,
        "edu": edu,
        "marital": marital,
        "emp": emp,
        "occ": occ,
        "ind": ind,
        "ethnic": ethnic,
        "tenure": tenure,
        "smoke": smoke,
        "hsize": hsize,
        "health": health,
        "hours": hours,
        "income": income,
        "tax": tax,
        "rooms": rooms,
        "bmi": bmi,
        "commute": commute,
        "rent": np.maximum(rent, 0),
    }


def make(n: int, seed: int = 1) -> pl.DataFrame:
    """The table, categories as text; made in blocks of 250,000 rows to bound memory."""
    rng = np.random.default_rng(seed)
    frames = [pl.DataFrame(_block(min(250_000, n - start), rng)) for start in range(0, n, 250_000)]
    return pl.concat(frames).with_columns(
        pl.format("{}{}", pl.lit(name), pl.col(name)).cast(pl.Categorical).alias(name) for name in CATEGORIES
    )
