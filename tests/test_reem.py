"""Trees with effects of clusters: intra-class correlation of draws, slopes, every kind of column, bad input."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from threadpoolctl import threadpool_limits

from fastsynth import climb
from fastsynth.calibrate import Job
from fastsynth.columns import encode
from fastsynth.effects import variance_components
from fastsynth.errors import DataError
from fastsynth.methods import Calibrated, Cart, Sample
from fastsynth.reem import Setting, fit_clustered
from fastsynth.source import read_table

METHODS = {"cart": Cart(), "calibrated": Calibrated(), "sample": Sample()}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """As executors hold BLAS: its threads wait for each other more than they work on matrices this small."""
    with threadpool_limits(1, "blas"):
        yield


def words_of(rows):
    return rows.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)


def fitted(frame, cluster, method, rows=None, shape=None, **options):
    """The table and the model of its last column."""
    table = encode(*read_table(pl.DataFrame(frame)))
    rows = np.arange(table.n_rows, dtype=np.uint32) if rows is None else rows
    slot = len(table.variables) - 1
    minbucket = getattr(METHODS[method], "minbucket", 5)
    job = Job(
        table, slot, tuple(range(slot)), minbucket, rows if shape is None else shape, rows, words_of, (), **options
    )
    return table, fit_clustered(job, cluster, int(cluster.max()) + 1, METHODS[method])


def draw(table, model, rows, donor, seed=0):
    """Ranks and numbers of new rows with the predictors of some rows of the table."""
    codes = np.ascontiguousarray(table.codes[:, rows].T)
    n = len(rows)
    words = np.random.PCG64DXSM(seed).random_raw(model.n_words * n).reshape(model.n_words, n)
    variable = table.variables[-1]
    ranks, numbers = np.zeros(n, variable.rank_dtype), np.full(n, np.nan)
    model.draw(codes, np.arange(n, dtype=np.uint32), words, ranks, numbers, donor)
    if variable.kind != "numeric":
        return ranks, None
    return ranks, np.where(np.isnan(numbers), variable.numbers()[ranks], numbers)


def new_clusters(cluster, seed):
    """Clusters drawn with replacement: rows of their donors, numbers of the new ones, donors of the rows."""
    n_clusters = int(cluster.max()) + 1
    donors = np.random.default_rng(seed).integers(0, n_clusters, n_clusters)
    order = np.argsort(cluster, kind="stable")
    ends = np.searchsorted(cluster[order], np.arange(n_clusters + 1))
    rows = np.concatenate([order[ends[d] : ends[d + 1]] for d in donors])
    sizes = np.diff(ends)[donors]
    return rows, np.repeat(np.arange(n_clusters), sizes), np.repeat(donors, sizes).astype(np.int32)


def variances(y, cluster):
    """Between and within clusters."""
    size = np.bincount(cluster).astype(float)
    mean = np.bincount(cluster, y) / np.maximum(size, 1)
    seen = size > 0
    within = float(np.square(y - mean[cluster]).sum())
    return variance_components(size[seen], mean[seen], within, np.zeros(int(seen.sum()), np.int64))


def left_over(y, *x):
    design = np.column_stack([np.ones(len(y)), *x])
    beta = np.linalg.lstsq(design, y, rcond=None)[0]
    return y - design @ beta, beta


def two_levels(seed, n_clusters=100, size=20, tau=0.5):
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(n_clusters, dtype=np.int32), size)
    x = rng.normal(size=(2, len(cluster)))
    y = 0.6 * x[0] + 0.4 * np.maximum(x[1], 0) + tau * rng.normal(size=n_clusters)[cluster]
    return cluster, {"x0": x[0], "x1": x[1], "y": y + rng.normal(size=len(cluster))}


@pytest.mark.parametrize("method", ["cart", "calibrated"])
@pytest.mark.parametrize(("n_clusters", "size"), [(100, 20), (200, 5)])
def test_numbers_have_the_intra_class_correlation_of_the_original(method, n_clusters, size):
    """METHODS section 4: 20 repeats of one copy; the mean ratio within .1 and two standard errors of it."""
    ratios, slopes = [], []
    for seed in range(20):
        cluster, frame = two_levels(seed, n_clusters, size)
        table, model = fitted(frame, cluster, method)
        rows, new, donor = new_clusters(cluster, seed)
        y = draw(table, model, rows, donor, seed)[1]
        parts = [frame["x0"], np.maximum(frame["x1"], 0)]
        own, beta = left_over(frame["y"], *parts)
        drawn, drawn_beta = left_over(y, *(part[rows] for part in parts))
        icc = [a / (a + b) for a, b in (variances(own, cluster), variances(drawn, new))]
        ratios.append(icc[1] / icc[0])
        slopes.append(drawn_beta[1] - beta[1])
    error = np.std(ratios) / np.sqrt(20)
    assert np.mean(ratios) == pytest.approx(1, abs=0.1 + 2 * error)
    assert np.mean(slopes) == pytest.approx(0, abs=0.02 + 4 * np.std(slopes) / np.sqrt(20))


def test_without_clusters_trees_lose_what_rows_of_a_cluster_have_in_common():
    cluster, frame = two_levels(1)
    table, model = fitted(frame, np.zeros(len(cluster), np.int32), "cart")
    assert model.effects is None
    rows, new, _ = new_clusters(cluster, 1)
    drawn, _ = left_over(draw(table, model, rows, None)[1], frame["x0"][rows], np.maximum(frame["x1"], 0)[rows])
    tau2, sigma2 = variances(drawn, new)
    assert tau2 / (tau2 + sigma2) < 0.1


def test_clusters_that_are_kept_keep_their_effects():
    cluster, frame = two_levels(2)
    table, model = fitted(frame, cluster, "calibrated")
    rows = np.arange(len(cluster))
    y = draw(table, model, rows, cluster)[1]
    means = [np.bincount(cluster, left_over(of, frame["x0"])[0]) for of in (frame["y"], y)]
    assert np.corrcoef(means)[0, 1] > 0.7
    assert model.effects.icc == pytest.approx(0.2, abs=0.06)


def test_columns_of_clusters_keep_their_slopes_and_add_no_variance():
    """A tree that is let loose on columns of clusters would put each cluster in a leaf of its own."""
    ratios, slopes = [], []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        cluster, frame = two_levels(seed)
        w = rng.normal(size=(2, 100))[:, cluster]
        frame = {"w0": w[0], "w1": w[1]} | frame
        frame["y"] = frame["y"] + 0.3 * w[0]
        table, model = fitted(frame, cluster, "cart")
        rows, new, donor = new_clusters(cluster, seed)
        y = draw(table, model, rows, donor, seed)[1]
        parts = [w[0], frame["x0"]]
        own, beta = left_over(frame["y"], *parts)
        drawn, drawn_beta = left_over(y, *(part[rows] for part in parts))
        ratios.append(variances(drawn, new)[0] / variances(own, cluster)[0])
        slopes.append(drawn_beta[1] - beta[1])
    assert np.mean(ratios) == pytest.approx(1, abs=0.1 + 2 * np.std(ratios) / np.sqrt(10))
    assert np.mean(slopes) == pytest.approx(0, abs=0.02 + 3 * np.std(slopes) / np.sqrt(10))


def in_common(indicators, cluster):
    """Covariance of two rows of a cluster, added up over indicators (n, k)."""
    left = indicators - indicators.mean(0)
    size, total = np.bincount(cluster), 0.0
    for column in left.T:
        sums = np.bincount(cluster, column)
        total += float((sums**2).sum() - (column**2).sum())
    return total / float((size * (size - 1.0)).sum())


def outcome(kind, seed, n_clusters=120, size=20):
    rng = np.random.default_rng(seed)
    cluster = np.repeat(np.arange(n_clusters, dtype=np.int32), size)
    x, n = rng.normal(size=len(cluster)), len(cluster)
    u = 0.8 * rng.normal(size=(3, n_clusters))[:, cluster]
    if kind == "binary":
        y = np.where(0.8 * x - 0.5 + u[0] + rng.logistic(size=n) > 0, "yes", "no")
    elif kind == "nominal":
        utility = np.stack([0.8 * x + u[0], 0.5 + u[1], -0.5 + u[2], np.zeros(n)])
        y = np.array(list("abcd"))[(utility + rng.gumbel(size=utility.shape)).argmax(0)]
    elif kind == "ordered":
        levels = ["low", "middle", "high"]
        codes = np.digitize(0.8 * x + u[0] + rng.normal(size=n), [-0.5, 0.7])
        y = pl.Series([levels[code] for code in codes], dtype=pl.Enum(levels))
    else:
        y = np.where(0.5 * x - 1 + u[0] + rng.logistic(size=n) > 0, None, np.round(x + u[1] + rng.normal(size=n), 1))
        y = pl.Series(y.tolist(), dtype=pl.Float64)
    return cluster, {"x": x, "y": y}


@pytest.mark.parametrize("method", ["cart", "calibrated", "sample"])
@pytest.mark.parametrize("kind", ["binary", "nominal", "ordered", "missing"])
def test_shares_differ_between_clusters_as_in_the_original(kind, method):
    """Three tables, four copies each; single ratios vary by some 15 %, their mean by some 8 %."""
    ratios = []
    for seed in range(3):
        cluster, frame = outcome(kind, seed)
        table, model = fitted(frame, cluster, method)
        n_ranks = 1 if kind == "missing" else len(table.variables[-1].values)

        def indicators(ranks, n_ranks=n_ranks):
            return (ranks[:, None] == np.arange(n_ranks)).astype(float)

        own, drawn = in_common(indicators(table.ranks[-1]), cluster), []
        for copy in range(4):
            rows, new, donor = new_clusters(cluster, copy)
            ranks, numbers = draw(table, model, rows, donor, copy)
            if kind == "missing":
                ranks = np.where(np.isnan(numbers), 0, 1)
            drawn.append(in_common(indicators(ranks), new))
        ratios.append(np.mean(drawn) / own)
        shares = [indicators(of).mean(0) for of in (table.ranks[-1], ranks)]
        assert np.abs(shares[0] - shares[1]).max() < 0.06
    assert np.mean(ratios) == pytest.approx(1, abs=0.3)


def test_values_and_kinds_of_a_column_have_effects_of_their_own():
    cluster, frame = outcome("missing", 3)
    y = frame["y"].to_numpy().copy()
    y[::7] = 0.0  # a spike
    _, model = fitted({"x": frame["x"], "y": pl.Series(y).fill_nan(None)}, cluster, "cart")
    assert model.effects.numbers is not None
    assert model.effects.kinds is not None
    assert model.effects.classes is None
    assert model.n_spikes == 1
    assert model.effects.kinds.loadings.shape[0] == 3


def test_has_value_says_what_is_drawn():
    cluster, frame = outcome("missing", 4)
    table, model = fitted(frame, cluster, "calibrated")
    codes = np.ascontiguousarray(table.codes.T)
    rows = np.arange(len(cluster), dtype=np.uint32)
    words = np.random.PCG64DXSM(5).random_raw(2 * len(rows)).reshape(2, -1)
    ranks, numbers = np.zeros(len(rows), table.variables[-1].rank_dtype), np.full(len(rows), np.nan)
    model.draw(codes, rows, words, ranks, numbers, cluster)
    present = model.has_value(codes, rows, words[0], ranks.dtype, cluster)
    assert (present == ~np.isnan(numbers)).all()
    some = np.ascontiguousarray(rows[3::5])
    ranks2, numbers2 = np.zeros_like(ranks), np.full(len(rows), np.nan)
    model.draw(codes, some, np.ascontiguousarray(words[:, some]), ranks2, numbers2, cluster)
    # Rows are drawn alike whatever other rows are drawn with them.
    assert np.array_equal(numbers2[some], numbers[some], equal_nan=True)


@pytest.mark.parametrize("kind", ["number", "binary", "missing"])
def test_ways_up_the_tree_go_with_the_effects(kind):
    cluster, frame = two_levels(6) if kind == "number" else outcome(kind, 6)
    table, model = fitted(frame, cluster, "cart")
    codes = np.ascontiguousarray(table.codes.T)
    rows = np.arange(0, len(cluster), 5, dtype=np.uint32)
    words = np.random.PCG64DXSM(7).random_raw(len(rows))
    ranks, numbers = np.zeros(len(cluster), table.variables[-1].rank_dtype), np.full(len(cluster), np.nan)
    if kind == "missing":
        lost = climb.climb_kinds(
            model, codes, rows, words, lambda rows, rank, number: np.ones(len(rank), bool), ranks, numbers, cluster
        )
        assert not len(lost)
        assert not ranks[rows].any()
        return
    wanted = 1 if kind == "binary" else 1.5
    lost, climbed = climb.climb(
        model,
        codes,
        rows,
        words,
        lambda rows, rank, number: rank == wanted if kind == "binary" else number > wanted,
        ranks,
        numbers,
        cluster,
    )
    found = np.setdiff1d(rows, lost)
    if kind == "number":
        # Clusters far below have nobody so far above.
        assert climbed
        assert len(found) > 0.6 * len(rows)
        assert (numbers[found] > 1.5).all()
        return
    assert not len(lost)
    assert (ranks[rows] == 1).all()
    # Of all classes: as often as they are drawn.
    climb.climb(model, codes, rows, words, lambda rows, rank, number: np.ones(len(rank), bool), ranks, numbers, cluster)
    leaf = model.values.nodes["left"][model.values.leaves(codes, rows, words)]
    shares = model.effects.classes.shares(model.tilt.shares(codes.T, rows, leaf), cluster[rows])
    assert (ranks[rows] == 1).mean() == pytest.approx(shares[:, 0].mean(), abs=4 * 0.5 / np.sqrt(len(rows)))


def test_codes_of_very_many_levels_have_effects_of_the_commonest():
    rng = np.random.default_rng(8)
    cluster = np.repeat(np.arange(80, dtype=np.int32), 15)
    common = rng.random(1_200) < 1 / (1 + np.exp(-1.2 * rng.normal(size=80)[cluster]))
    y = np.where(common, "home", np.char.add("k", rng.integers(0, 400, 1_200).astype(str)))
    table, model = fitted({"x": rng.normal(size=1_200), "y": y}, cluster, "cart")
    assert model.effects.kinds is not None
    assert model.effects.classes is None
    rows, new, donor = new_clusters(cluster, 1)
    ranks, _ = draw(table, model, rows, donor)
    home = table.variables[-1].rank_of("home")
    assert np.isin(ranks, table.ranks[-1]).all()
    own, drawn = (
        in_common((of == home)[:, None].astype(float), by) for of, by in ((table.ranks[-1], cluster), (ranks, new))
    )
    assert drawn == pytest.approx(own, rel=0.6)
    assert (ranks == home).mean() == pytest.approx(common.mean(), abs=0.08)


def test_levels_between_those_that_a_tilt_and_that_a_table_can_have():
    rng = np.random.default_rng(9)
    cluster = np.repeat(np.arange(60, dtype=np.int32), 25)
    y = (rng.integers(0, 30, 1_500) + 30 * (rng.random(60) < 0.5)[cluster]).astype(str)
    _, model = fitted({"x": rng.normal(size=1_500), "y": y}, cluster, "calibrated")
    assert model.effects.classes.loadings.shape == (60, model.effects.classes.scores.shape[1])
    # All rare ones together are one class.
    assert len(np.unique(model.effects.classes.loadings.round(6), axis=0)) <= 40


def test_bounded_and_huge_numbers_are_drawn_as_groups_of_quantiles():
    rng = np.random.default_rng(10)
    cluster = np.repeat(np.arange(80, dtype=np.int32), 20)
    u = rng.normal(size=80)[cluster]
    share = 1 / (1 + np.exp(-3 * (u + rng.normal(size=1_600))))
    for y in (np.round(share, 4), (2**60 + np.round(share * 1e6)).astype(np.int64)):
        table, model = fitted({"x": rng.normal(size=1_600), "y": y}, cluster, "cart")
        assert model.pools is not None
        assert model.effects.classes is not None
        assert "groups of quantiles" in model.note
        rows, new, donor = new_clusters(cluster, 2)
        ranks, drawn = draw(table, model, rows, donor)
        assert np.isin(ranks, table.ranks[-1]).all()
        own, drawn = variances(y - y.mean(), cluster), variances(drawn - drawn.mean(), new)
        assert drawn[0] / sum(drawn) == pytest.approx(own[0] / sum(own), abs=0.1)


def test_groups_with_missing_values_draw_all_members():
    rng = np.random.default_rng(11)
    cluster = np.repeat(np.arange(50, dtype=np.int32), 20)
    y = np.where(rng.random(1_000) < 0.2, np.nan, (rng.random(50)[cluster] + rng.random(1_000)).round(5))
    table, model = fitted({"x": np.arange(1_000.0), "y": pl.Series(y).fill_nan(None)}, cluster, "sample", groups=4)
    assert len(model.pools.lowest) == 4
    ranks, _ = draw(table, model, np.tile(np.arange(1_000), 20), np.tile(cluster, 20))
    seen = np.bincount(ranks, minlength=len(table.variables[-1].values))[1:]
    assert (seen > 0).mean() > 0.99


def test_positive_numbers_on_the_scale_of_their_logarithm():
    rng = np.random.default_rng(12)
    cluster = np.repeat(np.arange(100, dtype=np.int32), 20)
    x = rng.normal(size=2_000)
    y = np.exp(3 + x + 0.7 * rng.normal(size=100)[cluster] + rng.normal(size=2_000))
    table, model = fitted({"x": x, "y": y}, cluster, "calibrated")
    assert model.shift.logarithm
    rows, new, donor = new_clusters(cluster, 3)
    drawn = draw(table, model, rows, donor)[1]
    assert (drawn > 0).all()
    own, got = (
        variances(left_over(np.log(of), by)[0], at)[0] for of, by, at in ((y, x, cluster), (drawn, x[rows], new))
    )
    assert got == pytest.approx(own, rel=0.5)


def test_rows_that_are_repeated_say_nothing_of_others():
    cluster, frame = two_levels(13, 200, 5)
    rng = np.random.default_rng(1)
    again = np.sort(rng.integers(0, 1_000, 1_000)).astype(np.uint32)
    _, model = fitted(frame, cluster, "cart", again)
    # Two draws of a person in the place of two persons would give an intra-class correlation of .35.
    assert model.effects.icc < 0.29
    assert len(model.effects.numbers) == 200
    assert model.effects.numbers.std() == pytest.approx(np.sqrt(model.effects.tau2), rel=0.2)
    weighted = np.repeat(np.arange(1_000), rng.integers(1, 4, 1_000)).astype(np.uint32)
    shape = np.arange(1_000, dtype=np.uint32)
    table, model = fitted(frame, cluster, "calibrated", weighted, shape, weighted=True)
    assert model.effects.icc == pytest.approx(0.2, abs=0.09)
    few = np.ascontiguousarray(shape[::3])
    table, model = fitted(frame, cluster, "cart", shape, few)
    assert len(model.values.donors) == 1_000
    assert np.isfinite(draw(table, model, np.arange(1_000), cluster)[1]).all()


def test_the_same_input_gives_the_same_bytes():
    cluster, frame = outcome("nominal", 14)
    (table, a), (_, b) = (fitted(frame, cluster, "calibrated") for _ in range(2))
    assert a.tilt.counts.tobytes() == b.tilt.counts.tobytes()
    rows = np.arange(len(cluster))
    assert np.array_equal(draw(table, a, rows, cluster)[0], draw(table, b, rows, cluster)[0])


def test_predictors_that_are_constant_within_clusters():
    cluster, frame = two_levels(15, 30, 10)
    frame = {"w": np.arange(30.0)[cluster] % 7} | frame
    table = encode(*read_table(pl.DataFrame(frame)))
    rows = np.arange(300, dtype=np.uint32)
    setting = Setting.of(Job(table, 3, (0, 1, 2), 5, rows, rows, words_of), cluster, 30, Cart())
    assert setting.level2 == {0}
    others = setting.others(0)
    assert not np.isin(setting.part[cluster[others.shape]], 0).any()
    assert others.predictors == (0, 1, 2)


@pytest.mark.parametrize("method", ["cart", "calibrated", "sample"])
@pytest.mark.parametrize("column", ["constant", "void", "one", "alone", "between", "few", "category"])
def test_odd_columns_and_clusters(method, column):
    """One cluster, clusters of one row, columns without values or differences: fitted, and drawn, without an error."""
    rng = np.random.default_rng(16)
    cluster, x = np.repeat(np.arange(20, dtype=np.int32), 6), rng.normal(size=120)
    y = pl.Series(x + rng.normal(size=120))
    if column == "constant":
        y = pl.Series([3.5] * 120)
    elif column == "void":
        y = pl.Series([None] * 120, dtype=pl.Float64)
    elif column == "one":
        cluster = np.zeros(120, np.int32)
    elif column == "alone":
        cluster = np.arange(120, dtype=np.int32)
    elif column == "between":
        y = pl.Series(np.arange(20.0)[cluster])
    elif column == "few":
        y = pl.Series([1.0, 2.0, None] * 40)
    else:
        y = pl.Series(["a"] * 119 + ["b"])
    table, model = fitted({"x": x, "y": y}, cluster, method)
    ranks, numbers = draw(table, model, np.arange(120), cluster)
    if column in ("constant", "void", "one", "alone"):
        assert model.effects is None
    if column == "constant":
        assert set(numbers) == {3.5}
    elif column == "void":
        assert not ranks.any()
    elif column == "between":
        assert np.corrcoef(np.bincount(cluster, numbers), np.arange(20))[0, 1] > (0.5 if method == "sample" else 0.9)
    elif column == "category":
        assert (ranks == 1).mean() > 0.9


@pytest.mark.parametrize("cluster", [np.zeros(5, np.int32), np.full(120, -1, np.int32), np.full(120, 20, np.int32)])
def test_rows_without_a_cluster(cluster):
    table = encode(*read_table(pl.DataFrame({"x": np.arange(120.0), "y": np.arange(120.0)})))
    rows = np.arange(120, dtype=np.uint32)
    with pytest.raises(DataError, match="Column 'y': rows without a cluster"):
        fit_clustered(Job(table, 1, (0,), 5, rows, rows, words_of), cluster, 20, Cart())
