"""Files import only downward, and importing the package stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fastsynth"
FLOORS = {
    "_tree": 0,
    "_calibrate": 0,
    "errors": 0,
    "version": 0,
    "datasets": 0,
    "execute": 0,
    "streams": 0,
    "source": 1,
    "estimates": 1,
    "_count": 0,
    "sdc": 2,
    "tables": 12,
    "private": 4,
    "columns": 2,
    "expressions": 2,
    "recode": 2,
    "guards": 6,
    "blur": 3.5,
    "output": 2,
    "rules": 2,
    "estimators": 2,
    "exact": 3,
    "slopes": 3,
    "calibration": 3,
    "pooling": 3,
    "association": 3,
    "statdates": 0,
    "statcolumns": 1,
    "identifiers": 3,
    "statfiles": 3,
    "methods": 4,
    "plan": 5,
    "calibrate": 5,
    "climb": 5,
    "rowwise": 6,
    "model": 6,
    "learn": 7,
    "draw": 7,
    "rows": 8,
    "run": 8,
    "dask": 9,
    "partition": 9,
    "model_file": 9,
    "formulas": 3,
    "patterns": 6,
    "relations": 9,
    "nested": 5,
    "copies": 10,
    "synthesis": 11,
    "compared": 11,
    "utility": 12,
    "disclosure": 13,
    "attacks": 12,
    "controls": 13,
    "protect": 14,
    "pictures": 13,
    "page": 14,
    "sections": 15,
    "report": 16,
    "cli": 17,
    "__init__": 17,
    "__main__": 18,
}


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            if node.module == "fastsynth":
                yield from (alias.name if alias.name in FLOORS else "__init__" for alias in node.names)
            elif node.module and node.module.startswith("fastsynth."):
                yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "fastsynth":
                    yield [*alias.name.split("."), "__init__"][1]


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda p: p.stem)
def test_a_file_imports_only_from_lower_floors(path):
    for name in imported(path):
        assert FLOORS[name] < FLOORS[path.stem], f"{path.stem} imports {name}"


def test_importing_the_package_is_light():
    heavy = ("dask", "sklearn", "matplotlib", "pandas", "click")
    code = f"import sys, fastsynth; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
