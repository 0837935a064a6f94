"""What the README shows, runs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import fastsynth as fs
from fastsynth.cli import CONFIG_KEYS

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_examples_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(block, names)
    assert "Rule: raab2016" in capsys.readouterr().out
    assert isinstance(names["syn"], fs.Synthesis)
    assert (tmp_path / "boys.fsyn").exists()


def test_configuration_example_has_known_keys():
    (text,) = blocks("toml")
    assert set(tomllib.loads(text)) <= set(CONFIG_KEYS)
