"""A Gaussian copula of tables: shares, associations, categories, missing values, bootstrap, given columns."""

from __future__ import annotations

import json
import pickle

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from scipy import integrate, stats

import fastsynth as fs
from fastsynth import _copula, copula
from fastsynth.copula import CopulaModel, fit_copula
from fastsynth.datasets import load_boys
from fastsynth.errors import OptionError
from fastsynth.execute import Threads
from fastsynth.learn import learn
from fastsynth.source import open_source
from fastsynth.streams import random_words


def learned_of(frame):
    return learn(open_source(frame), Threads(1), lambda _: None)


def fit(frame, slots=None, threads=1, **options):
    learned = frame if hasattr(frame, "variables") else learned_of(frame)
    slots = range(len(learned.variables)) if slots is None else slots
    return fit_copula(
        learned.source, learned.variables, learned.rows, learned.table, slots, Threads(threads), **options
    )


def words_of(model, n, seed=1):
    return random_words(seed, (99,), model.n_words * n).reshape(model.n_words, n)


def draw(frame, n=None, seed=1, **options):
    """A copy as polars."""
    learned = learned_of(frame)
    model = fit(learned, **options)
    ranks = model.draw(0, words_of(model, n or frame.height, seed))
    return pl.from_arrow(
        pa.table({learned.variables[slot].name: learned.variables[slot].decode(of) for slot, of in ranks.items()})
    )


def normals(n, r, seed=0):
    """Rows of standard normal columns with equal correlations r, or with a matrix of them."""
    matrix = np.asarray(r)
    return np.random.default_rng(seed).normal(size=(n, len(matrix))) @ np.linalg.cholesky(matrix).T


def test_quantiles_and_shares_of_the_kernel():
    words = np.append(random_words(1, (5,), 100_000), np.array([0, 2**64 - 1, 2**40], np.uint64)).reshape(1, -1)
    z, u = np.empty(words.shape), np.empty(words.shape[1])
    _copula.normals(words, z)
    share = ((words[0] >> np.uint64(12)) + 0.5) / 2**52
    np.testing.assert_allclose(z[0], stats.norm.ppf(share), rtol=1e-13, atol=1e-14)
    _copula.shares(z[0], u)
    np.testing.assert_allclose(u, share, rtol=1e-12)


def test_inverse_finds_the_first_rank_beyond_a_share():
    rng = np.random.default_rng(1)
    ends = np.cumsum(rng.integers(0, 4, 300)) / 1.0
    ends /= ends[-1]
    u = np.append(rng.random(10_000), [0.0, 1.0])
    for size in (1, 7, 300, 5000):
        guide = np.searchsorted(ends, np.arange(size) / size, side="right").astype(np.int32)
        out = np.empty(len(u), np.uint16)
        _copula.inverse(u, ends, guide, out)
        expected = np.minimum(np.searchsorted(ends, u, side="right"), len(ends) - 1)
        assert np.array_equal(out, expected)


def test_correlations_are_recovered_from_cut_columns():
    n, q = 40_000, 6
    rng = np.random.default_rng(5)
    a = rng.normal(size=(q, 2))
    truth = a @ a.T + np.eye(q)
    truth /= np.sqrt(np.outer(np.diag(truth), np.diag(truth)))
    z = normals(n, truth, 1)
    frame = pl.DataFrame(
        {
            "raw": z[:, 0],
            "skewed": np.exp(z[:, 1]).round(1),
            "yes": z[:, 2] > 0.7,
            "grade": pl.Series(
                np.array(["a", "b", "c"])[np.digitize(z[:, 3], [-1, 0.2])], dtype=pl.Enum(["a", "b", "c"])
            ),
            "spike": np.maximum(z[:, 4], 0),
            "count": np.floor(2 * z[:, 5]).astype(int),
        }
    )
    model = fit(frame)
    assert model.n_words == q
    # True is the second level, and right of the cut. The least informative pair has a standard error of .011.
    np.testing.assert_allclose(model.fits[0].correlation, truth, atol=0.035)


def test_a_copy_has_the_shares_of_every_value(mixed):
    copy = draw(mixed, 200_000)
    for name in mixed.columns:
        own, other = (t[name].value_counts(normalize=True).rename({"proportion": "p"}) for t in (mixed, copy))
        both = own.join(other, on=name, how="full", nulls_equal=True, coalesce=True)
        assert both.null_count().select("p", "p_right").sum_horizontal().item() == 0
        error = (both["p"] - both["p_right"]).to_numpy()
        limit = 5 * np.sqrt(both["p"].to_numpy() / 200_000) + 2e-4
        assert (np.abs(error) < limit).all(), name


def test_missing_values_depend_on_other_columns():
    rng = np.random.default_rng(2)
    z = rng.normal(size=(30_000, 2))
    known = rng.random(30_000) > stats.norm.cdf(z[:, 0] - 0.5)
    frame = pl.DataFrame({"age": z[:, 0], "income": np.where(known, z[:, 0] + z[:, 1], np.nan)}).with_columns(
        pl.col("income").fill_nan(None)
    )
    copy = draw(frame)
    for t in (frame, copy):
        gone = t["income"].is_null()
        assert gone.mean() == pytest.approx(frame["income"].is_null().mean(), abs=0.015)
    means = [t.filter(pl.col("income").is_null())["age"].mean() for t in (frame, copy)]
    assert means[0] > 0.4
    assert means[1] == pytest.approx(means[0], abs=0.05)
    slopes = [t.drop_nulls().select(pl.corr("age", "income")).item() for t in (frame, copy)]
    assert slopes[1] == pytest.approx(slopes[0], abs=0.04)


def test_kinds_of_missing_keep_their_shares():
    rng = np.random.default_rng(4)
    income = rng.normal(size=20_000).round(1) + 100
    kind = rng.choice(4, 20_000, p=[0.05, 0.1, 0.2, 0.65])
    values = np.choose(kind, [-8.0, -9.0, np.nan, income])
    frame = pl.DataFrame({"x": rng.normal(size=20_000), "income": values})
    learned = learn(open_source(frame), Threads(1), lambda _: None, {"income": [-8, -9]})
    model = fit(learned)
    ranks = model.draw(0, words_of(model, 20_000))[1]
    first = learned.variables[1].first
    assert first == 4
    shares = np.bincount(ranks, minlength=first)[:first] / 20_000
    np.testing.assert_allclose(shares, learned.rows[1][:first] / 20_000, atol=5 * (0.2 / 20_000) ** 0.5)


def nominal(n=40_000, seed=6):
    """Columns of which two have levels without an order, one a function of the other's group."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 3))
    scores = np.column_stack([z[:, 0], z[:, 1], -z[:, 0] + 0.3, 0.5 * z[:, 2], -0.5 * z[:, 1]])
    job = (scores + rng.gumbel(size=scores.shape)).argmax(1)
    place = np.where(rng.random(n) < 0.6, job // 2, rng.integers(0, 3, n))
    return pl.DataFrame(
        {
            "job": np.array(list("abcde"))[job],
            "place": np.array(["north", "east", "south"])[place],
            "x": z[:, 0] + 0.3 * rng.normal(size=n),
            "y": z[:, 1] > 0,
        }
    )


def test_two_way_tables_of_categories_are_kept():
    frame = nominal()
    copy = draw(frame)
    for pair in (["job", "place"], ["job", "y"], ["place", "y"]):
        own, other = (t.group_by(pair).agg(pl.len().cast(pl.Int64)).sort(pair) for t in (frame, copy))
        expected = frame.group_by(pair[0]).len().join(frame.group_by(pair[1]).len(), how="cross")
        expected = expected.select(*pair, pl.col("len") * pl.col("len_right") / frame.height).sort(pair)
        distance = np.abs(own["len"].to_numpy() - other["len"].to_numpy()).sum()
        blind = np.abs(own["len"].to_numpy() - expected["len"].to_numpy()).sum()
        assert distance < 0.15 * blind, pair
    for t in (frame, copy):
        means = t.group_by("job").agg(pl.col("x").mean()).sort("job")["x"].to_numpy()
        if t is frame:
            wanted = means
    np.testing.assert_allclose(means, wanted, atol=0.06)


def test_two_way_tables_of_a_real_table_are_kept():
    frame = load_boys()
    two_way = [
        fs.utility(frame, copy).twoway["S_pMSE"].mean()
        for copy in (draw(frame), pl.DataFrame([column.shuffle(seed=i) for i, column in enumerate(frame)]))
    ]
    assert two_way[0] < 0.4 * two_way[1]


@pytest.mark.parametrize("slots", [[], [1, 1]])
def test_every_column_is_named_once(mixed, slots):
    with pytest.raises(OptionError, match="each once"):
        fit(mixed, slots=slots)


def test_every_level_keeps_its_share_where_splits_are_correlated():
    rng = np.random.default_rng(8)
    z = rng.normal(size=30_000)
    frame = pl.DataFrame({"x": z, "level": np.array(list("cabde"))[np.digitize(z, [-1.5, -0.5, 0.4, 1.4])]})
    model = fit(frame)
    within = model.fits[0].correlation[1:, 1:]
    assert np.abs(within[np.triu_indices(4, 1)]).max() > 0.3
    copy = draw(frame, 100_000)
    own, other = (t["level"].value_counts(normalize=True).sort("level")["proportion"].to_numpy() for t in (frame, copy))
    np.testing.assert_allclose(other, own, atol=5 * (0.25 / 100_000) ** 0.5)
    means = [t.group_by("level").agg(pl.col("x").mean()).sort("level")["x"].to_numpy() for t in (frame, copy)]
    np.testing.assert_allclose(means[1], means[0], atol=0.25)


def test_many_levels_share_a_group():
    rng = np.random.default_rng(9)
    level = np.minimum(rng.geometric(0.03, 20_000), 150)
    frame = pl.DataFrame({"x": rng.normal(size=20_000) + level / 50, "level": [f"l{k:03}" for k in level]})
    model = fit(frame)
    assert list(model.notes) == ["level"]
    assert model.n_words == 1 + copula.MOST_GROUPS - 1
    copy = draw(frame, 60_000)
    own, other = (t["level"].value_counts().sort("level") for t in (frame, copy))
    assert set(other["level"]) <= set(own["level"])
    assert other.height > 0.95 * own.height
    rare = own.filter(pl.col("count") < 60)["level"]
    shares = [t["level"].is_in(rare.implode()).mean() for t in (frame, copy)]
    assert shares[1] == pytest.approx(shares[0], abs=0.005)


def test_shrinkage_helps_with_few_rows_and_many_columns():
    n, p = 200, 60
    truth = np.eye(p)
    for i in range(0, p, 6):
        truth[i : i + 6, i : i + 6] = 0.5
    np.fill_diagonal(truth, 1)
    frame = pl.DataFrame({f"x{i}": column for i, column in enumerate(normals(n, truth, 11).T)})
    errors = [np.square(fit(frame, shrink=shrink).fits[0].correlation - truth).sum() for shrink in (True, False)]
    assert errors[0] < 0.8 * errors[1]


def test_blind_to_threads_and_to_memory(tmp_path):
    frame = nominal(6_000).with_columns(
        pl.when(pl.col("x") > 1.5).then(None).otherwise(pl.col("x")).alias("x"),
        pl.Series("n", np.random.default_rng(1).integers(0, 500, 6_000)),
    )
    for k in range(3):
        frame.slice(2_000 * k, 2_000).write_parquet(tmp_path / f"{k}.parquet")
    from_files = learn(open_source(tmp_path, memory_limit=1), Threads(2), lambda _: None)
    assert from_files.table is None
    for options in ({}, {"proper": True, "m": 2, "entropy": 3}):
        ticks = []
        models = [
            fit(frame, **options),
            fit(frame, threads=2, **options),
            fit(from_files, threads=2, tick=ticks.append, **options),
        ]
        words = words_of(models[0], 3_000)
        copies = [[model.draw(copy, words) for copy in (0, 1)] for model in models]
        assert sum(ticks) == 6_000
        for other in copies[1:]:
            for a, b in zip(copies[0], other):
                assert all(np.array_equal(a[slot], b[slot]) for slot in range(5))
        differ = any(not np.array_equal(copies[0][0][slot], copies[0][1][slot]) for slot in range(5))
        assert differ == bool(options)


def test_every_type_is_counted_alike_from_files(every_type, tmp_path):
    frame = every_type.drop("cat", "enum")
    for k in range(2):
        frame.slice(200 * k, 200).write_parquet(tmp_path / f"{k}.parquet")
    from_files = learn(open_source(tmp_path, memory_limit=1), Threads(1), lambda _: None)
    assert from_files.table is None
    (_, here), (_, there) = fit(frame).state(), fit(from_files).state()
    assert here.keys() == there.keys()
    assert all(np.array_equal(here[name], there[name]) for name in here)


def test_bootstrap_fits_differ_as_much_as_samples_do():
    """Standard deviations of 40 fits are known to 11 %."""
    frame = pl.DataFrame(normals(1_000, [[1, 0.6], [0.6, 1]], 3), schema=["a", "b"])
    fits = fit(frame, proper=True, m=40, shrink=False).fits
    r = np.array([own.correlation[0, 1] for own in fits])
    assert r.std() == pytest.approx((1 - 0.36) / 1000**0.5, rel=0.4)
    ends = np.array([own.latents[0].ends[16] for own in fits])
    assert ends.std() == pytest.approx((0.25 / 1000) ** 0.5, rel=0.4)


@pytest.mark.parametrize("given", [["a"], ["job"], ["a", "job"], ["a", "yes", "job"]])
def test_columns_are_drawn_given_others(given):
    n = 30_000
    rng = np.random.default_rng(4)
    z = normals(n, np.full((3, 3), 0.6) + 0.4 * np.eye(3), 4)
    frame = pl.DataFrame(
        {
            "a": z[:, 0].round(2),
            "b": z[:, 1],
            "yes": z[:, 2] > 0.3,
            "job": np.array(list("xyz"))[np.digitize(z.sum(1) + rng.normal(size=n), [-1.5, 1])],
        }
    )
    learned = learned_of(frame)
    model = fit(learned)
    kept = {frame.columns.index(name): learned.table.ranks[frame.columns.index(name)] for name in given}
    ranks = model.draw(0, words_of(model, n), kept)
    assert set(ranks) == set(range(4)) - set(kept)
    ranks |= kept
    copy = pl.from_arrow(pa.table({v.name: v.decode(ranks[slot]) for slot, v in enumerate(learned.variables)}))
    plain = [
        t.select(pl.corr("a", "b"), pl.corr("b", "yes").alias("by"), pl.corr("a", "yes").alias("ay")).row(0)
        for t in (frame, copy)
    ]
    np.testing.assert_allclose(plain[1], plain[0], atol=0.03)
    means = [t.group_by("job").agg(pl.col("b").mean()).sort("job")["b"].to_numpy() for t in (frame, copy)]
    np.testing.assert_allclose(means[1], means[0], atol=0.08)


def test_given_values_may_be_missing(mixed):
    learned = learned_of(mixed)
    model = fit(learned)
    kept = {slot: learned.table.ranks[slot] for slot in (2, 3)}
    ranks = model.draw(0, words_of(model, mixed.height), kept)
    assert set(ranks) == {0, 1, 4}
    assert all(len(of) == mixed.height for of in ranks.values())
    everything = model.draw(0, words_of(model, mixed.height), dict(enumerate(learned.table.ranks)))
    assert everything == {}


def test_a_column_that_the_model_does_not_have_cannot_be_given(mixed):
    model = fit(mixed, slots=[0, 1])
    with pytest.raises(OptionError, match=r"given=\[4\]"):
        model.draw(0, words_of(model, 3), {4: np.zeros(3, np.uint16)})


def test_every_type_can_be_drawn(every_type):
    copy = draw(every_type, 1_000)
    assert copy.columns == every_type.columns
    for name in every_type.columns:
        if name not in ("f64",):
            assert set(copy[name].unique().to_list()) <= set(every_type[name].unique().to_list()), name
    assert copy["void"].null_count() == copy["empty"].null_count() == 1_000


@pytest.mark.parametrize("n", [2, 3, 5])
def test_few_rows(n):
    frame = pl.DataFrame(
        {"a": [1.0, None, 2.0, 2.5, 7.0][:n], "b": list("xyxzz")[:n], "c": [True, False, None, True, True][:n]}
    )
    copy = draw(frame, 50)
    assert copy.height == 50


def test_one_column_and_constants():
    frame = pl.DataFrame({"a": ["x", "y", "z"] * 10, "b": [1] * 30})
    model = fit(frame, slots=[0])
    assert model.n_words == 2
    assert set(model.draw(0, words_of(model, 100))[0]) == {1, 2, 3}
    model = fit(frame, slots=[1])
    assert model.n_words == 0
    assert set(model.draw(0, words_of(model, 100))[1]) == {1}


def test_a_model_is_the_same_from_its_state(mixed):
    model = fit(mixed, proper=True, m=2)
    record, arrays = model.state()
    again = CopulaModel.of_state(json.loads(json.dumps(record)), arrays)
    picked = pickle.loads(pickle.dumps(model))
    words = words_of(model, 300)
    for copy in (0, 1):
        here = model.draw(copy, words)
        for other in (again, picked):
            there = other.draw(copy, words)
            assert all(np.array_equal(here[slot], there[slot]) for slot in here)


def test_arrays_of_the_caller_stay_as_they_are(mixed):
    learned = learned_of(mixed)
    before = [of.copy() for of in (*learned.table.ranks, *learned.rows)]
    model = fit(learned)
    words = words_of(model, 500)
    same = words.copy()
    model.draw(0, words, {0: learned.table.ranks[0]})
    assert np.array_equal(words, same)
    assert all(np.array_equal(a, b) for a, b in zip(before, (*learned.table.ranks, *learned.rows)))


def test_truncated_values_far_out():
    low, high = np.array([-40.0, 8.0, -np.inf, 30.0, 2.0]), np.array([-30.0, 9.0, -10.0, np.inf, 2.0])
    z = copula._truncated(low, high, np.full(5, 0.5))
    assert ((z >= low) & (z <= high)).all()
    tail = integrate.quad(lambda x: np.exp(-x * x / 2), 8, 9)[0]
    share = integrate.quad(lambda x: np.exp(-x * x / 2), 8, z[1])[0] / tail
    assert share == pytest.approx(0.5, abs=1e-6)
