"""Files import only downward, and importing the package stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fastsynth"
FLOORS = {
    "_calibrate": 0,
    "_copula": 0,
    "_count": 0,
    "_latent": 0,
    "_tree": 0,
    "datasets": 0,
    "errors": 0,
    "execute": 0,
    "statdates": 0,
    "streams": 0,
    "version": 0,
    "estimates": 1,
    "convergence": 1,
    "correlations": 1,
    "measures": 1,
    "noise": 1,
    "normals": 1,
    "scores": 1,
    "source": 1,
    "space": 1,
    "terms": 1,
    "statcolumns": 1,
    "columns": 2,
    "blocks": 2,
    "clusters": 3,
    "estimators": 2,
    "expressions": 2,
    "output": 2,
    "recode": 3,
    "rules": 2,
    "sdc": 2,
    "association": 3,
    "calibration": 3,
    "domains": 3,
    "exact": 3,
    "formulas": 3,
    "identifiers": 3,
    "latents": 3,
    "pooling": 3,
    "products": 3,
    "regressions": 3,
    "slopes": 3,
    "statfiles": 3,
    "effects": 1,
    "substantive": 3,
    "blur": 3.5,
    "copula": 6,
    "copula_counts": 4,
    "copula_fits": 5,
    "gibbs": 5,
    "joint_data": 4,
    "methods": 4,
    "private": 4,
    "outcome": 5.5,
    "calibrate": 5,
    "climb": 5,
    "reem": 5.5,
    "joint": 6,
    "nested": 5,
    "options": 5,
    "plan": 5.7,
    "plan_checks": 5.6,
    "visit_sequence": 5.5,
    "guards": 6,
    "model": 6,
    "patterns": 6,
    "rowwise": 6,
    "draw": 7,
    "draw_rows": 7.3,
    "learn": 7,
    "impute": 5.8,
    "imputation": 7.5,
    "block_fits": 7.5,
    "rows": 8,
    "run": 8,
    "dask": 9,
    "model_file": 9,
    "partition": 9,
    "relations": 9,
    "copies": 10,
    "compared": 11,
    "shadows": 11,
    "synthesis": 11,
    "ampute": 12,
    "attacks": 12,
    "tables": 12,
    "tally": 12,
    "attribution": 13,
    "controls": 13,
    "identical": 13,
    "matching": 13,
    "propensity": 13,
    "disclosure": 14,
    "utility": 14,
    "pictures": 15,
    "protect": 15,
    "page": 16,
    "public": 16.5,
    "sections": 17,
    "report": 18,
    "__init__": 19,
    "cli": 19,
    "__main__": 20,
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
