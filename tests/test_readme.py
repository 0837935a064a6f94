"""What the README and the page on inference show, runs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import fastsynth as fs
from fastsynth.cli import CONFIG_KEYS

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


def test_configuration_example_has_known_keys():
    (text,) = blocks("toml")
    assert set(tomllib.loads(text)) <= set(CONFIG_KEYS)
