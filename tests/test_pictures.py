"""The picture of the margins."""

from __future__ import annotations

import sys

import pytest

import fastsynth as fs
from fastsynth.errors import FastsynthError
from fastsynth.report import plot_marginals
from fastsynth.source import read_table


def test_marginals_of_every_type(tmp_path, every_type):
    syn = fs.synthesize(every_type, m=2, random_state=1)
    original, _ = read_table(every_type)
    for name in ("a.png", "b.png"):
        plot_marginals(original, syn, tmp_path / name)
    content = (tmp_path / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) > 20_000
    assert content == (tmp_path / "b.png").read_bytes()


def test_without_matplotlib_the_extra_is_named(tmp_path, mixed, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    syn = fs.synthesize(mixed, m=1)
    with pytest.raises(FastsynthError, match=r"fastsynth\[report\]"):
        plot_marginals(read_table(mixed)[0], syn, tmp_path / "a.png")


def test_coefficients(tmp_path):
    fits = [({"(Intercept)": 60 + i, "age": 7 - i / 10, "phb.L": -12.0 - i}, [4.0, 0.02, 2.0]) for i in range(5)]
    compared = fs.pool(fits, "reiter2003").compare(({"(Intercept)": 61, "age": 7.1, "phb.L": -12.2}, [3.0, 0.02, 1.5]))
    for name in ("a.png", "b.png"):
        fs.plot_coefficients(compared, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").stat().st_size > 8_000
