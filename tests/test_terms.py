"""The analyst's model: read, and as a matrix, held against formulaic's own."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from formulaic import model_matrix

from fastsynth.errors import DataError, FastsynthError, OptionError
from fastsynth.terms import Design, Terms

N = 200


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(2010, 3, N),
        "w": rng.gamma(2, 5, N),
        "job": rng.integers(0, 3, N).astype(np.int32),
        "my sex": rng.integers(0, 2, N).astype(np.int32),
    }


LEVELS = {"job": 3, "my sex": 2}


@pytest.mark.parametrize(
    ("model", "fixed"),
    [
        ("y ~ x", [(), ("x",)]),
        ("y ~ 1", [()]),
        ("y ~ x*g + `my sex`", [(), ("x",), ("g",), ("my sex",), ("x", "g")]),
        ("y ~ x:g", [(), ("x",), ("g",), ("x", "g")]),
        ("y ~ (a + b)**2", [(), ("a",), ("b",), ("a", "b")]),
        ("y ~ a*b + b:a", [(), ("a",), ("b",), ("a", "b")]),
        ("y ~ a/b", [(), ("a",), ("b",), ("a", "b")]),
        ("y ~ a*b*c - a:b:c", [(), ("a",), ("b",), ("c",), ("a", "b"), ("a", "c"), ("b", "c")]),
    ],
)
def test_fixed_terms(model, fixed):
    assert Terms.parse(model).fixed == tuple(fixed)


@pytest.mark.parametrize(
    ("part", "random"),
    [("1", [()]), ("x", [(), ("x",)]), ("1 + x", [(), ("x",)]), ("x*g", [(), ("x",), ("g",), ("x", "g")])],
)
def test_random_terms(part, random):
    terms = Terms.parse(f"y ~ x*g + ({part} | `the school`)")
    assert terms.random == tuple(random)
    assert terms.cluster == "the school"
    assert terms.fixed == ((), ("x",), ("g",), ("x", "g"))
    assert terms.covariates == ("x", "g")


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (7, "an outcome, a tilde and terms"),
        ("x + g", "an outcome, a tilde and terms"),
        ("y ~ x ~ g", "an outcome, a tilde and terms"),
        ("y ~ x +", "cannot be read"),
        ("y ~ .", "cannot be read"),
        ("y ~ 2*x", "cannot be read"),
        ("y ~ log(x)", r"'log\(x\)' is a transformation"),
        ("y ~ x + {x**2}", "is a transformation"),
        ("log(y) ~ x", "is a transformation"),
        ("y ~ x - 1", "without an intercept"),
        ("y ~ x + (0 + x | school)", "without an intercept"),
        ("y + w ~ x", "one column"),
        ("y:w ~ x", "one column"),
        (" ~ x", "one column"),
        ("y ~ x + y", "'y' is the outcome and a covariate"),
        ("y ~ x + (1 | school) + (1 | town)", "One random part"),
        ("y ~ x + (x || school)", "with one bar"),
        ("y ~ x + 1 | school", "with one bar"),
        ("y ~ x + (1 | school/class)", "one column, that of the clusters"),
        ("y ~ x + (g | school)", "'g' is random"),
        ("y ~ x + school + (1 | school)", "is the column of the clusters and a term"),
    ],
)
def test_models_that_cannot_be_read(model, what):
    with pytest.raises(OptionError, match=what):
        Terms.parse(model)


def test_without_formulaic_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "formulaic.parser", None)
    with pytest.raises(FastsynthError, match=r"fastsynth\[analysis\]"):
        Terms.parse("y ~ x")


@pytest.mark.parametrize("model", ["x*job", "x*w*job + `my sex`", "job*`my sex` + w", "1"])
def test_predictions_are_those_of_the_plain_matrix(values, model):
    """formulaic's treatment coding, on numbers as they are, gives the same predictions from natural coefficients."""
    design = Design.of(Terms.parse(f"y ~ {model}"), values, LEVELS)
    frame = pd.DataFrame(values).astype({"job": "category", "my sex": "category"})
    plain = model_matrix(model, frame)
    beta = np.random.default_rng(1).normal(size=len(design.columns))
    order = [_plain(name) for name in design.names]
    assert sorted(order) == sorted(_sorted(name) for name in plain.columns)
    plain.columns = [_sorted(name) for name in plain.columns]
    np.testing.assert_allclose(
        design.matrix(values) @ beta, plain[order].to_numpy(float) @ (design.natural() @ beta), rtol=1e-6, atol=1e-6
    )


def _plain(name):
    factors = [f"{f[:-3]}[T.{f[-2]}]" if f.endswith("]") else f for f in name.split(":")]
    return "Intercept" if name == "intercept" else ":".join(sorted(factors))


def _sorted(name):
    return ":".join(sorted(name.split(":")))


def test_random_columns_and_models_of_an_intercept(values):
    terms = Terms.parse("y ~ x*job + w + (job | school)")
    design = Design.of(terms, values, LEVELS)
    assert [design.names[i] for i in design.random] == ["intercept", "job[1]", "job[2]"]
    whole = design.matrix(values)
    assert whole.flags.f_contiguous
    np.testing.assert_allclose(whole[:, 1].std(), 1)
    alone = Design.of(Terms.parse("y ~ 1"), {}, {})
    np.testing.assert_array_equal(alone.matrix({}, 3), np.ones((3, 1)))


def test_a_constant_number_is_no_error(values):
    values["x"][:] = 3
    assert not Design.of(Terms.parse("y ~ x"), values, LEVELS).matrix(values)[:, 1].any()


def test_bad_columns(values):
    design = Design.of(Terms.parse("y ~ x + job"), values, LEVELS)
    for name, missing in (("x", np.nan), ("job", -1)):
        holes = {**values, name: values[name].copy()}
        holes[name][7] = missing
        with pytest.raises(DataError, match=f"'{name}' has missing values"):
            design.matrix(holes)
    with pytest.raises(DataError, match="'x' has no value"):
        Design.of(Terms.parse("y ~ x"), {"x": np.full(3, np.nan)}, {})
    with pytest.raises(DataError, match="'job:town' brings the model to 642 coefficients"):
        Design.of(Terms.parse("y ~ job*town"), values, {"job": 3, "town": 214})
