"""Slopes and two-level models against plain numpy and statsmodels; corrections by simulation; what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import polars as pl
import pytest
import scipy.stats
import statsmodels.formula.api as smf

import fastsynth as fs
from fastsynth.errors import DataError, OptionError
from fastsynth.regressions import AddedNoise, informed

Z = scipy.stats.norm.ppf(0.975)


def noisy(x, share, rng):
    """Noise as of Column(noise=share)."""
    return x.mean() + (x - x.mean() + share * x.std() * rng.normal(size=len(x))) / np.sqrt(1 + share**2)


def errors(estimates) -> np.ndarray:
    return np.sqrt(np.diag(estimates.covariance))


@pytest.fixture(scope="module")
def people() -> pl.DataFrame:
    """400 rows; values are missing here and there, the more of x the larger it is."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=400)
    z = 100 + 0.5 * x + rng.normal(size=400)
    y = 1 + 0.7 * x - 0.4 * z + rng.normal(size=400) * (1 + np.abs(x))
    y[rng.random(400) < 0.05 + 0.2 * (x > 1)] = np.nan
    return pl.DataFrame({"x": x, "z": z, "y": y, "s": rng.choice(["a", "b"], 400)})


@pytest.fixture(scope="module")
def pupils() -> pl.DataFrame:
    """900 pupils in 120 schools of 1 to 20, a level-2 column w."""
    rng = np.random.default_rng(6)
    size = rng.integers(1, 15, 120)
    school = np.repeat(np.arange(120), size)
    x, female, w = rng.normal(5, 2, len(school)), rng.random(len(school)) < 0.4, rng.normal(size=120)[school]
    y = 2 + 0.5 * x - 0.3 * female + 0.2 * w + 0.6 * rng.normal(size=120)[school] + rng.normal(size=len(school))
    return pl.DataFrame({"school": school, "y": y, "x": x, "female": female, "w": w})


# Slopes


def test_slopes_are_those_of_statsmodels(people):
    found = fs.slopes("y", ["x", "z"])(people)
    fit = smf.ols("y ~ x + z", people.to_pandas()).fit(cov_type="HC1")
    assert found.terms == ("x", "z")
    np.testing.assert_allclose(found.estimate, fit.params.iloc[1:], rtol=1e-9)
    np.testing.assert_allclose(found.covariance, fit.cov_params().iloc[1:, 1:], rtol=1e-9)
    assert found.df == fit.df_resid


def test_expressions_booleans_and_scale(pupils):
    x = (pl.col("x") * 1e6).alias("big")
    found = fs.slopes("y", [x, "female"])(pupils.lazy())
    plain = fs.slopes("y", ["x", pl.col("female").cast(float)])(pupils)
    assert found.terms == ("big", "female")
    np.testing.assert_allclose(found.estimate * [1e6, 1], plain.estimate, rtol=1e-9)


def naive_slopes(data, weights, noise) -> np.ndarray:
    """Corrected slopes with a weight for each row; columns are y first, then x."""
    complete = np.isfinite(data).all(1)
    w = weights * complete
    d = np.where(complete[:, None], data, 0) - w @ np.where(complete[:, None], data, 0) / w.sum()
    moments = (d * w[:, None]).T @ d / w.sum()
    for j, share in enumerate(noise):
        seen = np.isfinite(data[:, j]) * weights
        x = np.nan_to_num(data[:, j])
        variance = seen @ (x - seen @ x / seen.sum()) ** 2 / seen.sum()
        c = np.sqrt(1 + share**2)
        moments[j] *= c
        moments[:, j] *= c
        moments[j, j] -= share**2 * variance
    return np.linalg.solve(moments[1:, 1:], moments[1:, 0])


def test_corrected_slopes_and_their_sandwich_by_weights(people):
    data = people.select("y", "x", "z").to_numpy()
    noise, n = (0.3, 0.6, 0.0), int(np.isfinite(data).all(1).sum())
    found = fs.slopes("y", ["x", "z"], corrected={"y": 0.3, "x": 0.6})(people)
    np.testing.assert_allclose(found.estimate, naive_slopes(data, np.ones(400), noise), rtol=1e-9)
    adds, step = [], 1e-5
    for i in range(400):
        up, down = np.ones(400), np.ones(400)
        up[i] += step
        down[i] -= step
        adds.append((naive_slopes(data, up, noise) - naive_slopes(data, down, noise)) / (2 * step))
    adds = np.array(adds)
    np.testing.assert_allclose(found.covariance, adds.T @ adds * n / (n - 3), rtol=1e-5)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_correction_undoes_noise_on_finished_columns(share):
    rng, repeats = np.random.default_rng(1), 200
    true, found, plain = np.array([0.7, -0.4]), [], []
    given = {"x": share, "z": share, "y": share / 2}
    for _ in range(repeats):
        x = rng.normal(size=500)
        z = 0.5 * x + rng.normal(size=500)
        y = 0.7 * x - 0.4 * z + rng.normal(size=500)
        frame = pl.DataFrame({name: noisy(v, given[name], rng) for name, v in zip("xzy", (x, z, y))})
        estimates = fs.slopes("y", ["x", "z"], corrected=given)(frame)
        found.append((estimates.estimate, errors(estimates)))
        plain.append(fs.slopes("y", ["x", "z"])(frame).estimate)
    q, se = np.array(found).transpose(1, 0, 2)
    # Of ratios the median is nearly unbiased, the mean is not; its error is 1.25 times that of a mean.
    np.testing.assert_array_less(np.abs(np.median(q, 0) - true), 4 * 1.25 * q.std(0) / np.sqrt(repeats))
    assert (np.abs(np.mean(plain, 0)) < np.abs(true) / np.sqrt(1 + share**2)).all()
    covered = (np.abs(q - true) < Z * se).mean()
    # Both slopes of a repeat count as one.
    assert abs(covered - 0.95) < 0.01 + 3 * np.sqrt(0.95 * 0.05 / repeats)


def test_noise_that_was_added_while_drawing_counts_by_turn():
    """Columns of a large copy, drawn one by one or two together, each from those before with their noise."""
    rng, n = np.random.default_rng(2), 400_000
    root = np.linalg.cholesky([[1, 0.6], [0.6, 1.2]])

    def drawn(x_share, u_share, y_share):
        x = rng.normal(size=n)
        x = noisy(x, x_share, rng)
        u, v = 0.5 * x + root @ rng.normal(size=(2, n)) - 0.2 * x
        u = noisy(u, u_share, rng)
        y = 0.4 * x - 0.3 * u + 0.6 * v + rng.normal(size=n)
        y = noisy(y, y_share, rng)
        return pl.DataFrame({"x": x, "u": u, "v": v, "y": y, "z": 0.3 * y + 0.2 * u + rng.normal(size=n)})

    clean, copy = drawn(0, 0, 0), drawn(0.5, 0.8, 0.4)
    noise = AddedNoise({"x": 0.5, "u": 0.8, "y": 0.4}, {"x": 0, "u": 1, "v": 1, "y": 2, "z": 3})
    for y, x in (("y", ["x", "u", "v", "z"]), ("u", ["x", "v", "y", "z"]), ("z", ["y", "v", "u", "x"])):
        wanted = fs.slopes(y, x)(clean)
        found = informed(fs.slopes(y, x, corrected=True), noise)(copy)
        gap = np.sqrt(np.diag(found.covariance) + np.diag(wanted.covariance))
        np.testing.assert_array_less(np.abs(found.estimate - wanted.estimate), 4 * gap)
    # Those of the regression need x, which both are drawn from.
    for also, near in ((["x"], True), ([], False)):
        wanted = fs.slopes("y", ["v", "u"])(clean)
        found = informed(fs.slopes("y", ["v", "u"], corrected=True, also=also), noise)(copy)
        gap = np.sqrt(np.diag(found.covariance) + np.diag(wanted.covariance))
        assert found.terms == ("v", "u")
        assert (np.abs(found.estimate - wanted.estimate) < 4 * gap).all() == near
    assert np.abs(fs.slopes("u", ["x", "v"])(copy).estimate - fs.slopes("u", ["x", "v"])(clean).estimate).max() > 0.05
    # Later columns were drawn at the noisy values: nothing to correct.
    first = AddedNoise({"x": 0.5}, {"x": 0, "v": 1})
    both = informed(fs.slopes("v", "x", corrected=True), first)(copy), fs.slopes("v", "x")(copy)
    np.testing.assert_allclose(both[0].estimate, both[1].estimate, rtol=1e-9)


def test_noise_of_both_kinds():
    rng, n = np.random.default_rng(3), 300_000
    y = rng.normal(size=n)
    x = noisy(noisy(0.6 * y + 0.8 * rng.normal(size=n), 0.5, rng), 0.4, rng)
    noise = AddedNoise({"x": 0.5}, {"y": 0, "x": 1}, {"x": 0.4})
    found = informed(fs.slopes("y", "x", corrected=True), noise)(pl.DataFrame({"x": x, "y": y}))
    assert abs(found.estimate.item() - 0.6) < 4 * errors(found).item()


def test_what_is_known_reaches_only_slopes_that_ask_for_it(people):
    noise = AddedNoise(after={"x": 0.5})
    asked = fs.slopes("y", ["x", "z"], corrected=True)
    said = fs.slopes("y", ["x", "z"], corrected={"x": 0.5})
    assert (informed(asked, noise)(people).estimate == said(people).estimate).all()
    for analysis in (said, fs.slopes("y", "x"), fs.mean("x")):
        assert informed(analysis, noise) is analysis
    alias = fs.slopes("y", [pl.col("x").alias("income"), "z"], corrected={"x": 0.5})(people)
    assert alias.terms[0] == "income"
    assert (alias.estimate == said(people).estimate).all()
    again = pickle.loads(pickle.dumps(said))
    assert (again(people).covariance == said(people).covariance).all()
    assert "slopes of y, x, z" in repr(asked)


def test_noise_on_copies_by_trees_is_undone_in_their_pool():
    rng = np.random.default_rng(4)
    x = rng.normal(size=1_500)
    y = 0.6 * x + 0.8 * rng.normal(size=1_500)
    frame = pl.DataFrame({"y": y, "x": x})
    syn = fs.synthesize(
        frame, m=5, visit_sequence=["y", "x"], columns={"x": fs.Column(noise=0.7)}, random_state=1, progress=False
    )
    noise = AddedNoise({"x": 0.7}, {"y": 0, "x": 1})
    raw = fs.pool(syn.analyse(fs.slopes("y", "x"))).table
    undone = fs.pool(syn.analyse(informed(fs.slopes("y", "x", corrected=True), noise))).table
    truth = fs.slopes("y", "x")(frame).estimate.item()
    assert raw["estimate"].item() < 0.9 * truth
    assert abs(undone["estimate"].item() - truth) < 3 * undone["std_error"].item()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fs.slopes("y", []), "0 columns x"),
        (lambda: fs.slopes("y", [f"x{i}" for i in range(21)]), "21 columns x"),
        (lambda: fs.slopes("y", [f"x{i}" for i in range(19)], corrected=True, also=["u", "v"]), "and 2 others"),
        (lambda: fs.slopes("y", "x", also=["z"]), "leave it out"),
        (lambda: fs.slopes("y", ["x", "y"]), "more than once"),
        (lambda: fs.slopes("y", 3), "names or polars expressions"),
        (lambda: fs.slopes("y", "x", corrected=0.5), "a dict with the noise"),
        (lambda: fs.slopes("y", "x", corrected={"z": 0.5}), "no column"),
        (lambda: fs.slopes("y", "x", corrected={"x": -0.5}), "standard deviation of what was added"),
        (lambda: fs.slopes("y", "x", corrected={"x": True}), "standard deviation of what was added"),
        (lambda: fs.slopes("y", pl.col("x").log(), corrected={"x": 0.5}), "is computed of 'x'"),
        (lambda: informed(fs.slopes("y", "x", corrected=True), AddedNoise({"x": 0.5}, {"x": 1})), "give its turn"),
        (lambda: fs.mixed("y", [f"x{i}" for i in range(21)], groups="g"), "21 columns x"),
        (lambda: fs.mixed("y", "x", groups=["g", "h"]), "must be one column"),
        (lambda: fs.mixed("y", "x", groups="x"), "more than once"),
        (lambda: fs.mixed("y", "x", groups=7), "names or polars expressions"),
    ],
)
def test_options_that_are_refused(make, message):
    with pytest.raises(OptionError, match=message):
        make()


def test_tables_that_are_refused(people):
    with pytest.raises(OptionError, match="takes the noise that"):
        fs.slopes("y", "x", corrected=True)(people)
    with pytest.raises(OptionError, match="numbers are needed"):
        fs.slopes("y", "s")(people)
    with pytest.raises(OptionError, match="no column 'nobody'"):
        fs.slopes("y", "nobody")(people)
    with pytest.raises(DataError, match="3 rows have all 3 columns"):
        fs.slopes("y", ["x", "z"])(people.drop_nulls().drop_nans().head(3))
    with pytest.raises(DataError, match="are sums of each other, or have one value"):
        fs.slopes("y", ["x", (2 * pl.col("x")).alias("twice")])(people)
    with pytest.raises(DataError, match="are sums of each other, or have one value"):
        fs.slopes("y", (0 * pl.col("x") + 0.1).alias("constant"))(people)
    turns = AddedNoise({"z": 0.5}, {"y": 2, "x": 0, "twice": 0, "z": 1})
    analysis = informed(fs.slopes("y", ["x", "z"], corrected=True, also=["twice"]), turns)
    with pytest.raises(DataError, match="are sums of each other"):
        analysis(people.with_columns(twice=2 * pl.col("x")))
    rng = np.random.default_rng(1)
    close = people.with_columns(w=pl.col("x") + 0.3 * pl.Series(rng.normal(size=400)))
    with pytest.raises(DataError, match="or noise is nearly all"):
        fs.slopes("y", ["x", "w"], corrected={"x": 1.0, "w": 1.0})(close)


# Two levels


def dense_reml(frame, terms, level_2, residual):
    """Fixed effects, their covariance, -2 log-likelihood and the expected information, by matrices of all rows."""
    y, n = frame["y"].to_numpy(), frame.height
    x = np.column_stack([np.ones(n), *(frame[name].cast(float).to_numpy() for name in terms)])
    same = (frame["school"].to_numpy()[:, None] == frame["school"].to_numpy()).astype(float)
    inverse = np.linalg.inv(level_2 * same + residual * np.eye(n))
    covariance = np.linalg.inv(x.T @ inverse @ x)
    beta = covariance @ x.T @ inverse @ y
    p = inverse - inverse @ x @ covariance @ x.T @ inverse
    value = -np.linalg.slogdet(inverse)[1] - np.linalg.slogdet(covariance)[1] + y @ p @ y
    by = (p @ same, p)
    score = np.array([np.trace(a) - y @ a @ p @ y for a in by])
    return beta, covariance, value, score, np.array([[np.sum(a * b.T) / 2 for b in by] for a in by])


def test_mixed_is_reml_by_matrices_of_all_rows(pupils):
    terms = ["x", "female", "w"]
    found = fs.mixed("y", terms, groups="school")(pupils)
    assert found.terms == ("Intercept", *terms, "var(school)", "var(residual)")
    beta, covariance, value, score, information = dense_reml(pupils, terms, *found.estimate[4:])
    np.testing.assert_allclose(found.estimate[:4], beta, rtol=1e-8)
    np.testing.assert_allclose(found.covariance[:4, :4], covariance, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.covariance[4:, 4:], np.linalg.inv(information), rtol=1e-8)
    assert (found.covariance[:4, 4:] == 0).all()
    np.testing.assert_allclose(score, 0, atol=1e-6)
    for step in (0.9, 1.1):
        assert dense_reml(pupils, terms, step * found.estimate[4], found.estimate[5])[2] > value


def test_mixed_is_that_of_statsmodels(pupils):
    found = fs.mixed("y", ["x", "female", "w"], groups="school")(pupils)
    frame = pupils.with_columns(pl.col("female").cast(float)).to_pandas()
    fit = smf.mixedlm("y ~ x + female + w", frame, groups="school").fit(reml=True)
    np.testing.assert_allclose(found.estimate[:4], fit.fe_params, rtol=1e-4)
    np.testing.assert_allclose(errors(found)[:4], fit.bse_fe, rtol=1e-3)
    np.testing.assert_allclose(found.estimate[4:], [fit.cov_re.iloc[0, 0], fit.scale], rtol=1e-4)


def test_mixed_of_groups_of_the_same_size_is_the_analysis_of_variance():
    rng = np.random.default_rng(7)
    y = rng.normal(size=(30, 6)) + rng.normal(size=(30, 1)) + 1e4
    found = fs.mixed("y", groups="g")(pl.DataFrame({"y": y.ravel(), "g": np.repeat(np.arange(30), 6)}))
    within = y.var(1, ddof=1).mean()
    between = y.mean(1).var(ddof=1) - within / 6
    np.testing.assert_allclose(found.estimate, [y.mean(), between, within], rtol=1e-7)
    level = between + within / 6
    np.testing.assert_allclose(found.covariance[0, 0], level / 30, rtol=1e-6)
    variances = [2 * level**2 / 29 + 2 * within**2 / (36 * 150), 2 * within**2 / 150]
    np.testing.assert_allclose(np.diag(found.covariance)[1:], variances, rtol=1e-6)


def test_mixed_leaves_out_rows_and_takes_any_type_of_group(pupils):
    holes = pupils.with_columns(
        pl.when(pl.col("x") > 8).then(None).otherwise(pl.col("x")).alias("x"),
        pl.format("school {}", pl.when(pl.col("school") == 5).then(None).otherwise("school")).alias("school"),
    )
    found = fs.mixed("y", "x", groups="school")(holes)
    plain = fs.mixed("y", "x", groups="school")(pupils.filter(pl.col("x") <= 8, pl.col("school") != 5))
    np.testing.assert_allclose(found.estimate, plain.estimate, rtol=1e-9)
    np.testing.assert_allclose(found.covariance, plain.covariance, rtol=1e-9, atol=1e-14)


def test_a_level_2_variance_that_would_be_negative_is_0():
    rng = np.random.default_rng(8)
    y = rng.normal(size=(40, 5))
    y -= 0.95 * y.mean(1, keepdims=True)
    found = fs.mixed("y", groups="g")(pl.DataFrame({"y": y.ravel(), "g": np.repeat(np.arange(40), 5)}))
    assert found.estimate[1] == 0
    assert 0 < errors(found)[1] < 0.2
    np.testing.assert_allclose(found.estimate[2], y.var(ddof=1), rtol=1e-9)


def test_intervals_of_mixed_cover():
    rng, repeats = np.random.default_rng(9), 200
    size = rng.integers(2, 20, 100)
    school, true = np.repeat(np.arange(100), size), np.array([1.0, 0.5, 0.25, 1.0])
    covered = []
    for _ in range(repeats):
        x = rng.normal(size=len(school)) + 0.5 * rng.normal(size=100)[school]
        y = 1 + 0.5 * x + 0.5 * rng.normal(size=100)[school] + rng.normal(size=len(school))
        found = fs.mixed("y", "x", groups="school")(pl.DataFrame({"y": y, "x": x, "school": school}))
        covered.append(np.abs(found.estimate - true) < Z * errors(found))
    assert (np.abs(np.mean(covered, 0) - 0.95) < 0.01 + 3 * np.sqrt(0.95 * 0.05 / repeats)).all()


def test_mixed_is_pooled(pupils):
    syn = fs.synthesize(pupils, m=2, random_state=1, progress=False)
    table = fs.pool(syn.analyse(fs.mixed("y", ["x", "female"], groups="school"))).table
    assert table["term"].to_list() == ["Intercept", "x", "female", "var(school)", "var(residual)"]


def test_groups_that_say_nothing_are_refused(pupils):
    with pytest.raises(DataError, match="the largest of 1 rows"):
        fs.mixed("y", groups="row")(pupils.with_row_index("row"))
    with pytest.raises(DataError, match="has 1 groups"):
        fs.mixed("y", groups="one")(pupils.with_columns(one=pl.lit("a")))
    with pytest.raises(DataError, match="differ in nothing but"):
        fs.mixed("w", groups="school")(pupils)
    with pytest.raises(DataError, match="are sums of each other"):
        fs.mixed("y", ["x", (pl.col("x") + 1).alias("more")], groups="school")(pupils)
    with pytest.raises(DataError, match="0 rows have all 2 columns"):
        fs.mixed("y", "x", groups="none")(pupils.with_columns(none=pl.lit(None, pl.Int64)))
