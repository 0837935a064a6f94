"""The packaged table is the published one."""

from __future__ import annotations

import polars as pl
import pytest
import statsmodels.formula.api as smf

import fastsynth as fs


def test_boys_give_the_published_fit():
    """Volker and Vink (2021), table 4: hgt ~ age + phb on the completed data."""
    boys = fs.load_boys()
    assert boys.shape == (748, 9)
    assert boys.null_count().sum_horizontal()[0] == 0
    assert boys.schema["phb"] == pl.Enum(["P1", "P2", "P3", "P4", "P5", "P6"])
    fit = smf.ols("hgt ~ age + C(phb, Poly)", boys.to_pandas()).fit()
    intercept, *contrasts, age = fit.params
    published = [63.087, 7.174, -12.250, -1.376, -3.564, -0.431, 2.064]
    assert [intercept, age, *contrasts] == pytest.approx(published, abs=5e-4)


def test_boys_as_published_are_the_completed_ones_with_holes():
    """Counts of missing values are those of mice's documentation."""
    published, completed = fs.load_boys(completed=False), fs.load_boys()
    assert published.schema == completed.schema
    assert published.null_count().row(0) == (0, 20, 4, 21, 46, 503, 503, 522, 3)
    filled = published.select(pl.col(name).fill_null(completed[name]) for name in published.columns)
    assert filled.equals(completed)
