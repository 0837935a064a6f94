"""Expected match risk against pairs compared one by one."""

from __future__ import annotations

import sys

import numpy as np
import polars as pl
import pytest

from fastsynth.matching import match_risk


def slow(real, copy, windows):
    """Every record beside every row."""

    def agrees(x, y, name):
        if name not in windows or x is None or y is None or x != x or y != y:
            return x == y or (x is not None and y is not None and x != x and y != y)
        return x * y >= 0 and (x == 0) == (y == 0) and abs(y - x) <= windows[name] * abs(x) * (1 + 1e-12)

    expected, true, false = [], 0, 0
    others = copy.rows(named=True)
    for j, record in enumerate(real.iter_rows(named=True)):
        found = [all(agrees(record[name], row[name], name) for name in record) for row in others]
        c, own = sum(found), found[j]
        expected.append(own / c if c else 0)
        true += c == 1 and own
        false += c == 1 and not own
    n = len(others)
    return sum(expected), 100 * true / n, 100 * false / (true + false) if true + false else None


@pytest.mark.parametrize("windows", [{}, {"x": 0.1}, {"x": 0.1, "y": 0.25}, {"x": 0.3, "y": 0.2, "z": 0.5}], ids=str)
def test_risk_equals_the_oracle(windows):
    rng = np.random.default_rng(3)
    n = 150

    def numbers(size):
        values = np.round(rng.normal(0, 40, size))
        return pl.Series([None if rng.random() < 0.1 else float("nan") if rng.random() < 0.05 else v for v in values])

    real = pl.DataFrame({"k": rng.choice(["a", "b", "c"], n), "x": numbers(n), "y": numbers(n), "z": numbers(n)})
    keep = rng.random(n) < 0.7
    noise = pl.DataFrame({name: rng.normal(1, 0.1, n) for name in "xyz"})
    copy = real.with_columns(
        pl.when(keep).then(pl.col(name) * noise[name]).otherwise(name).alias(name) for name in "xyz"
    )
    found = match_risk(real, copy, windows)
    expected, true, false = slow(real, copy, windows)
    assert found.expected_matches == pytest.approx(expected)
    assert found.expected_match_risk == pytest.approx(100 * expected / n)
    assert found.true_match_rate == pytest.approx(true)
    assert found.false_match_rate == pytest.approx(false)
    assert found.n_targets == n


def test_ends_of_windows_belong_to_them():
    real = pl.DataFrame({"x": [100, 200, -50]})
    copy = pl.DataFrame({"x": [110, 180, -45]})
    assert match_risk(real, copy, {"x": 0.1}).true_match_rate == 100
    assert match_risk(real, copy, {"x": 0.0999}).true_match_rate == 0


def test_without_matches_there_is_no_false_match_rate():
    found = match_risk(pl.DataFrame({"x": ["a", "a"]}), pl.DataFrame({"x": ["b", "b"]}))
    assert (found.expected_match_risk, found.true_match_rate, found.false_match_rate) == (0, 0, None)


def test_boxes_are_counted_around_some_records_only(monkeypatch):
    rng = np.random.default_rng(0)
    real = pl.DataFrame({"x": rng.lognormal(5, 1, 3000), "y": rng.lognormal(5, 1, 3000)})
    windows = {"x": 0.1, "y": 0.1}
    whole = match_risk(real, real, windows)
    monkeypatch.setattr(sys.modules["fastsynth.matching"], "MOST_BOXES", 1000)
    some = match_risk(real, real, windows)
    assert some.n_targets == 1000
    assert some.expected_match_risk == pytest.approx(whole.expected_match_risk, abs=4)
