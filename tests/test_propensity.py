"""Models that tell sides apart, against printed vectors, other libraries and simulation."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression

from fastsynth import propensity as p
from fastsynth.compared import open_compared
from fastsynth.errors import DataError, OptionError
from fastsynth.tables import columns_of, weights_of


def from_counts(counts):
    rows = [(a, b) for a, of_a in zip("xy", counts) for b, n in zip("abc", of_a) for _ in range(n)]
    return pl.DataFrame(rows, schema=["p", "q"], orient="row")


def opened(real, copies, size=50_000, cont_na=None, weights=None):
    both = open_compared(real, copies)
    if weights is not None:
        both = open_compared(real, copies, columns=[name for name in both.names if name != weights])
        weights = weights_of(both, weights)
    return both, p.draw_samples(both, columns_of(both, cont_na), size, weights, 1)


def people(n, seed, slope=1.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    y = slope * x + rng.normal(size=n)
    return pl.DataFrame({"x": x, "y": y, "g": rng.choice(["a", "b", "c"], n)})


def test_vector_of_main_effects():
    both, samples = opened(from_counts([[30, 20, 10], [15, 15, 10]]), from_counts([[27, 24, 9], [12, 19, 9]]))
    (found,) = p.propensity(both, samples, "logit")
    assert found["null"] == "closed"
    assert found["pMSE"] == pytest.approx(0.0017012331895074817, rel=1e-9)
    assert found["expected"] == pytest.approx(0.001875)
    assert found["S_pMSE"] == pytest.approx(0.9073243677373236, rel=1e-9)
    assert found["z"] == pytest.approx(-0.11350400531668582, rel=1e-9)


def test_probabilities_are_those_of_another_library():
    rng = np.random.default_rng(1)
    x = np.column_stack([np.ones(500), rng.normal(size=(500, 3)), rng.random(500) < 0.1])
    y = (rng.random(500) < 1 / (1 + np.exp(-x @ [0.2, 1, -1, 0, 2]))).astype(float)
    other = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000).fit(x, y)
    assert p.fit_logit(x, y) == pytest.approx(other.predict_proba(x)[:, 1], abs=1e-5)


def test_sides_that_can_be_told_apart_for_certain():
    x = np.column_stack([np.ones(100), np.arange(100.0)])
    y = (np.arange(100) >= 50).astype(float)
    assert p.fit_logit(x, y) == pytest.approx(y, abs=1e-3)


def test_aliased_and_kept_coefficients_are_not_counted():
    real, copy = people(300, 1), people(300, 2)
    double = [frame.with_columns(twice=pl.col("x") * 2, one=pl.lit(1), h=pl.col("g")) for frame in (real, copy)]
    both, samples = opened(*double)
    # x, y and two dummies of g.
    n = p.closed_null(4, 300, 300)[0]
    assert p.propensity(both, samples, "logit")[0]["expected"] == pytest.approx(n)
    partial = p.Samples(samples.frames, samples.columns, frozenset({"x", "g"}), 0.0, 1)
    assert p.propensity(both, partial, "logit")[0]["expected"] == pytest.approx(n / 4)


def test_missing_values_are_regressors():
    real = pl.DataFrame({"a": [None, float("nan"), -8.0, 1.0, 3.0], "b": [None, "x", "x", "y", "y"]})
    columns = columns_of(open_compared(real, real), {"a": [-8]})
    found = p.design([real, real], columns)
    assert found.column == ["", "a", "a", "a", "a"]
    assert found.sides[0].tolist() == [
        [1, 0, 1, 0, 0],
        [1, 0, 0, 1, 0],
        [1, 0, 0, 0, 1],
        [1, -1, 0, 0, 0],
        [1, 1, 0, 0, 0],
    ]
    many = pl.DataFrame({"b": [None] * 20 + ["x"] * 30 + ["y"] * 10 + ["z"]})
    found = p.design([many], columns_of(open_compared(many, many), None))
    # The most common level has no dummy; those of few rows share one.
    assert found.sides[0].sum(axis=0).tolist() == [61, 20, 10, 1]


def test_too_many_coefficients():
    real = pl.DataFrame({"b": [f"l{i}" for i in range(1100) for _ in range(10)]})
    with pytest.raises(OptionError, match="more than 1,000 coefficients"):
        p.design([real], columns_of(open_compared(real, real), None))


@pytest.mark.parametrize(("n", "k", "size"), [(1200, 1200, 10**6), (1600, 400, 10**6), (2400, 2400, 600)])
def test_nulls_are_right_for_a_correct_model(n, k, size):
    # Copies of a correct model: drawn from the cells of the original.
    rng = np.random.default_rng(4)
    shares = rng.dirichlet(np.full(12, 4.0)).reshape(3, 4)
    cells = rng.multinomial(n, shares.ravel())
    labels = [(f"a{i}", f"b{j}") for i in range(3) for j in range(4)]

    def table(counts):
        rows = np.array(labels)[rng.permutation(np.repeat(np.arange(12), counts))]
        return pl.DataFrame(rows, schema=["a", "b"], orient="row")

    copies = [table(rng.multinomial(k, cells / n)) for _ in range(60)]
    both, samples = opened(table(cells), copies, size)
    assert len(samples.frames[0]) == min(n, size)
    closed, of_pairs = p.propensity(both, samples, "logit")
    # 5 degrees of freedom: the standard error is sqrt(2 / 5 / 60) = .08. Of one sample of the original, its own error
    # is in all copies.
    tolerance = 0.25 if size > n else 0.6
    assert closed["S_pMSE"] == pytest.approx(1, abs=tolerance)
    assert of_pairs["expected"] == pytest.approx(closed["expected"], rel=0.5)


def test_trees_see_what_main_effects_do_not():
    # The copy has the margins of the original, and no relation.
    real, copies = people(2000, 1), [people(2000, seed).with_columns(pl.col("y").reverse()) for seed in (2, 3)]
    both, samples = opened(real, copies)
    logit = p.propensity(both, samples, "logit")[0]
    by_permutation, by_pairs = p.propensity(both, samples, "cart")
    assert logit["S_pMSE"] < 4
    assert by_permutation["z"] > 5
    assert by_permutation["S_pMSE"] > 5
    assert by_permutation["SPECKS"] > 0.3
    assert by_permutation["PO50"] > 10
    assert by_pairs["z"] is None
    assert by_pairs["pMSE"] == by_permutation["pMSE"]


def test_trees_know_correct_copies_and_other_samples():
    real = people(2000, 1)
    same = [real.sample(2000, with_replacement=True, seed=seed) for seed in range(8)]
    correct, of_pairs = p.propensity(*opened(real, same), "cart")
    assert correct["S_pMSE"] == pytest.approx(1, abs=0.12)
    assert abs(correct["z"]) < 1.5
    assert of_pairs["S_pMSE"] == pytest.approx(1, abs=0.12)
    # Another sample has an error of its own.
    fresh, _ = p.propensity(*opened(real, [people(2000, seed) for seed in range(2, 10)]), "cart")
    assert fresh["S_pMSE"] == pytest.approx(2, abs=0.25)


def test_a_column_that_says_nothing():
    both, samples = opened(pl.DataFrame({"a": ["x"] * 50}), pl.DataFrame({"a": ["x"] * 50}))
    for model in ("logit", "cart"):
        (found,) = p.propensity(both, samples, model)
        assert found["pMSE"] == 0
        assert found["S_pMSE"] is None
        assert found["z"] is None


def test_rows_are_drawn_by_weight():
    real = pl.DataFrame({"a": np.repeat([0, 1], [9000, 1000]), "w": np.repeat([1.0, 9.0], [9000, 1000])})
    _, samples = opened(real, pl.DataFrame({"a": [0, 1] * 500}), 2000, weights="w")
    assert samples.frames[0].columns == ["a"]
    assert len(samples.frames[0]) == pytest.approx(2000, abs=150)
    assert samples.frames[0]["a"].mean() == pytest.approx(0.5, abs=0.05)
    # Rows of weight 9 are in it for certain, the others with probability 1/9.
    assert samples.noise == pytest.approx(9000 * 1 / 9 * 8 / 9, rel=1e-5)


def correct_by_weight(n, k, m, size, seed, between=0.0):
    """S_pMSE of copies that are drawn in proportion to the weights; these may go with x."""
    rng = np.random.default_rng(seed)
    real = people(n, seed)
    noise = rng.normal(size=n)
    w = np.exp(0.7 * (between * real["x"].to_numpy() + np.sqrt(1 - between**2) * noise))
    copies = [real[rng.choice(n, k, p=w / w.sum())] for _ in range(m)]
    both, samples = opened(real.with_columns(w=w), copies, size, weights="w")
    closed, of_pairs = p.propensity(both, samples, "logit")
    return closed["S_pMSE"], of_pairs["S_pMSE"]


@pytest.mark.parametrize(
    ("n", "k", "size", "between"), [(1500, 1500, 10**6, 0), (1500, 4500, 10**6, 0.7), (3000, 3000, 800, 0)]
)
def test_the_null_is_right_with_weights(n, k, size, between):
    found = np.array([correct_by_weight(n, k, 4, size, seed, between) for seed in range(40)])
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    assert (error < 0.12).all()
    # Of the pairs, whose mean is divided by: a mean of ratios is a little above the ratio of means.
    assert abs(found.mean(axis=0) - 1) == pytest.approx([0, 0.05], abs=3 * error.max())


def test_weights_of_one_change_nothing():
    real, copy = people(500, 1), people(500, 2)
    plain, by_weight = opened(real, copy), opened(real.with_columns(w=pl.lit(2.0)), copy, weights="w")
    assert by_weight[1].noise == 0
    assert p.propensity(*by_weight, "logit") == p.propensity(*plain, "logit")


# Density ratio


def test_vector_of_ulsif():
    nu, de = np.array([0.0, 1, 2, 3]), np.array([0.5, 1.5, 2.5, 4])
    numerator, denominator = (np.exp(-((x[:, None] - nu) ** 2) / 2) for x in (nu, de))
    theta = p.ulsif(numerator, denominator, 0.1)
    assert theta == pytest.approx([0.8945128112884523, 0.24989675677655618, 0.3598524324471134, 0.6145991240758227])
    ratio = [1.1016111664465635, 1.0938846821138626, 1.0052548340538623, 0.8766176454094492]
    assert numerator @ theta == pytest.approx(ratio)
    assert p.pearson_divergence(numerator, denominator, theta) == pytest.approx(0.11298616245343429)


def test_the_error_of_rows_left_out_is_that_of_leaving_them_out():
    rng = np.random.default_rng(2)
    n, b = 12, 4
    x = [rng.normal(size=n), rng.normal(0.5, 1, n)]
    centres = x[0][:b]
    numerator, denominator = (np.exp(-((side[:, None] - centres) ** 2) / 2) for side in x)
    for error, penalty in zip(p._left_out(numerator, denominator), p.PENALTIES, strict=True):
        errors = []
        for i in range(n):
            others = np.arange(n) != i
            theta = p.ulsif(numerator[others], denominator[others], penalty)
            errors.append((denominator[i] @ theta) ** 2 / 2 - numerator[i] @ theta)
        assert error == pytest.approx(np.mean(errors))


@pytest.mark.parametrize(("n", "k"), [(1, 50), (50, 1)])
def test_densities_need_two_rows(n, k):
    with pytest.raises(DataError, match="at least 2 rows"):
        p.density_ratio(*opened(people(n, 1), people(k, 2)))
    assert p.density_ratio(*opened(people(2, 1), people(2, 2)))[0]["p_value"] > 0


def test_density_ratios_of_good_and_bad_copies(monkeypatch):
    monkeypatch.setattr(p, "DENSITY_PERMUTATIONS", 39)
    monkeypatch.setattr(p, "DENSITY_ROWS", 200)
    monkeypatch.setattr(p, "CENTRES", 40)
    both, samples = opened(people(400, 1), [people(400, 2), people(400, 3, slope=-1)])
    good, bad = p.density_ratio(both, samples)
    assert (good["copy"], bad["copy"]) == (1, 2)
    assert good["p_value"] > 0.05
    assert bad["p_value"] <= 0.05
    assert bad["PE"] > 5 * good["PE"]
    assert p.density_ratio(both, samples) == [good, bad]
