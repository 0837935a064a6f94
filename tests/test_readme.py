"""What the README and the page on inference show, runs."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

import fastsynth as fs
from fastsynth.cli import CONFIG_KEYS, _read_config

ROOT = Path(__file__).parent.parent


def blocks(language, page="README.md"):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_python_examples_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(block, names)
    assert "Rule: raab2016" in capsys.readouterr().out
    assert isinstance(names["syn"], fs.Synthesis)
    assert (tmp_path / "boys.fsyn").exists()


def test_examples_of_inference_run(capsys):
    names: dict[str, object] = {}
    for block in blocks("python", "docs/inference.md"):
        exec(block, names)
    assert "Lack of fit" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::fastsynth.errors.ConvergenceWarning")
def test_examples_of_clusters_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks("python", "docs/multilevel.md"):
        exec(block, names)
    assert (tmp_path / "chains.png").exists()


@pytest.mark.filterwarnings("ignore::fastsynth.errors.ConvergenceWarning")
def test_examples_of_imputation_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks("python", "docs/imputation.md"):
        exec(block, names)
    assert "Rule: onestep" in capsys.readouterr().out
    assert (tmp_path / "chains.png").exists()
    of = names["done"][0]
    assert (of["hours"].is_null() == (of["age"] < 16)).all()
    assert of["income"].unique().sort().to_list() == [-8, 900, 1500, 2100]
    assert of["pension"].is_null().equals(of["age"] < 60)


def test_examples_of_real_tables_run():
    names: dict[str, object] = {}
    for block in blocks("python", "docs/data.md"):
        exec(block, names)
    frame, copy = names["df"], names["copy"]
    assert set(names["s"].differences_.values()) == {0, frame.filter(region="west", job1="A").height}
    assert copy.filter(pl.col("start") > pl.col("end")).height == 0
    assert copy.filter(region="west", job1="A").height == 0
    assert copy["length"].equals(copy["end"] - copy["start"])


def test_configuration_examples_are_read(tmp_path):
    for page in ("README.md", "docs/data.md", "docs/imputation.md"):
        (text,) = blocks("toml", page)
        (tmp_path / "options.toml").write_text(text)
        assert set(_read_config(tmp_path / "options.toml")) <= set(CONFIG_KEYS)
