"""Clusters: layouts of copies, columns of clusters, effects, households, and all that goes with them."""

from __future__ import annotations

import pickle

import numpy as np
import polars as pl
import pytest

import fastsynth as fs
from fastsynth import draw, source
from fastsynth.clusters import Clusters
from fastsynth.errors import DataError, OptionError, PlanError

KEEP = fs.Column(method="keep")


def icc(frame: pl.DataFrame, y: str, cluster: str = "school") -> float:
    """Intra-class correlation by analysis of variance."""
    own = frame.drop_nulls(y).group_by(cluster).agg(pl.col(y).mean().alias("m"), pl.col(y).var().alias("v"), n=pl.len())
    n, j = own["n"].sum(), len(own)
    between = (((own["m"] - frame[y].mean()) ** 2) * own["n"]).sum() / (j - 1)
    within = (own["v"].fill_null(0) * (own["n"] - 1)).sum() / (n - j)
    tau2 = (between - within) / ((n - (own["n"] ** 2).sum() / n) / (j - 1))
    return tau2 / (tau2 + within)


def schools(n_clusters: int = 60, seed: int = 1) -> pl.DataFrame:
    """Pupils, in no order of their schools."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 30, n_clusters)
    of = rng.permutation(np.repeat(np.arange(n_clusters), sizes))
    n = len(of)
    u = rng.normal(0, 0.7, n_clusters)[of]
    x = rng.normal(0, 1, n)
    y = 0.8 * x + u + rng.normal(0, 1, n)
    eal = np.where(rng.random(n) < 1 / (1 + np.exp(1 - 1.2 * u)), "yes", "no")
    score = pl.Series("score", (10 * y).round(), dtype=pl.Float64)
    return pl.DataFrame(
        {
            "school": [f"S{1000 + 3 * j}" for j in of],
            "funding": rng.choice(["state", "church"], n_clusters)[of],
            "founded": rng.integers(1850, 2000, n_clusters)[of],
            "x": x.round(2),
            "eal": eal,
            "y": y.round(2),
            "score": score.set(pl.Series(rng.random(n) < 0.1), None),
        }
    )


def households(n_clusters: int = 300, seed: int = 1) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    rows = []
    for h in range(n_clusters):
        age, group = int(rng.integers(20, 80)), str(rng.choice(["a", "b"], p=[0.7, 0.3]))
        rows.append((h, int(h % 3), "head", age, group))
        if rng.random() < 0.6:
            own = group if rng.random() < 0.9 else "b"
            rows.append((h, int(h % 3), "spouse", int(np.clip(age + rng.normal(-2, 3), 18, 90)), own))
        rows += [
            (h, int(h % 3), "child", int(max(age - 28 + rng.normal(0, 4), 0)), group)
            for _ in range(rng.poisson(0.7) if age < 60 else 0)
        ]
    return pl.DataFrame(rows, schema=["hh", "region", "relation", "age", "group"], orient="row")


SCHOOLS, HOUSEHOLDS = schools(), households()


# Layouts


def test_a_layout_fills_k_rows_with_whole_donors_but_for_the_last() -> None:
    clusters = Clusters(0, np.array([3, 1, 5]))
    layout = clusters.layout(7, 0, 1000)
    sizes = np.diff(layout.starts)
    assert layout.starts[0] == 0
    assert layout.starts[-1] == 1000
    assert (sizes[:-1] == clusters.sizes[layout.donors[:-1]]).all()
    assert 0 < sizes[-1] <= clusters.sizes[layout.donors[-1]]
    assert layout.of_rows(np.array([0, sizes[0] - 1, sizes[0], 999])).tolist() == [0, 0, 1, layout.n_clusters - 1]


def test_layouts_depend_on_random_state_copy_and_k_only() -> None:
    clusters = Clusters(0, np.arange(1, 50))
    first = clusters.layout(1, 0, 5000)
    clusters.layout(1, 1, 5000), clusters.layout(1, 2, 5000)  # more than are held
    assert (clusters.layout(1, 0, 5000).donors == first.donors).all()
    assert not np.array_equal(clusters.layout(1, 1, 5000).donors[:50], first.donors[:50])


def test_donors_are_equally_likely() -> None:
    clusters = Clusters(0, np.array([1, 1, 1, 1]))
    counts = np.bincount(clusters.layout(3, 0, 40_000).donors, minlength=4)
    # Four standard deviations of a binomial with share 1/4.
    assert np.abs(counts - 10_000).max() < 4 * np.sqrt(40_000 * 3 / 16)


def test_rows_of_a_structure_are_those_of_the_donor_in_their_order() -> None:
    clusters = Clusters(0, np.array([2, 3]), {1: np.array([10, 11, 20, 21, 22])})
    layout = clusters.layout(1, 0, 100)
    rows = np.arange(100)
    found = clusters.of_structure(1, layout, rows, layout.of_rows(rows))
    for c in range(layout.n_clusters - 1):
        wanted = [10, 11] if layout.donors[c] == 0 else [20, 21, 22]
        assert found[layout.starts[c] : layout.starts[c + 1]].tolist() == wanted


# Copies


@pytest.mark.parametrize("method", ["cart", "calibrated", "sample"])
def test_copies_have_new_clusters_and_constant_columns_of_them(method: str) -> None:
    syn = fs.synthesize(SCHOOLS, m=2, cluster="school", method=method, random_state=1)
    for copy in syn:
        assert copy.schema == SCHOOLS.schema
        assert copy.height == SCHOOLS.height
        of = copy.group_by("school").agg(pl.col("funding", "founded").n_unique())
        assert of["funding"].max() == of["founded"].max() == 1
        assert copy["school"].str.contains(r"^S\d{4}$").all()
        # Sizes come from donors.
        assert abs(len(of) - SCHOOLS["school"].n_unique()) < 25
    assert not syn.design.partial


def test_rows_of_a_cluster_have_in_common_what_they_have_in_the_original() -> None:
    frame = schools(200, seed=4)
    true = icc(frame, "y")
    for method in ("cart", "calibrated"):
        syn = fs.synthesize(frame, m=4, cluster="school", method=method, random_state=2)
        found = np.mean([icc(copy, "y") for copy in syn])
        # The standard error of one such correlation in 200 clusters is about .04; four copies share donors.
        assert abs(found - true) < 0.06
    blind = fs.synthesize(frame.drop("school"), m=1, random_state=2)
    assert abs(icc(blind[0].with_columns(frame["school"]), "y")) < 0.06


def test_a_column_of_the_clusters_is_drawn_given_others_of_them() -> None:
    frame = SCHOOLS.with_columns(old=pl.col("founded") < 1900)
    syn = fs.synthesize(frame, m=1, cluster="school", random_state=1, method=fs.Cart(minbucket=1))
    wrong = syn[0].filter(pl.col("old") != (pl.col("founded") < 1900)).height
    assert wrong < 0.05 * frame.height
    assert {r["column"] for r in syn.audit["columns"] if r["level"] == 2} == {"school", "funding", "founded", "old"}


def test_kept_clusters_keep_rows_sizes_and_effects() -> None:
    syn = fs.synthesize(SCHOOLS, m=2, cluster="school", columns={"school": KEEP}, random_state=1)
    for copy in syn:
        assert copy["school"].equals(SCHOOLS["school"])
        assert copy.group_by("school").agg(pl.col("funding").n_unique())["funding"].max() == 1
        means = copy.group_by("school").agg(pl.col("y").mean(), n=pl.len()).filter(pl.col("n") > 10)
        real = SCHOOLS.group_by("school").agg(pl.col("y").mean().alias("real"))
        assert means.join(real, on="school").select(pl.corr("y", "real")).item() > 0.5
    assert syn.design.partial
    kept = fs.synthesize(SCHOOLS, m=1, cluster="school", columns={"school": KEEP, "founded": KEEP}, random_state=1)
    assert kept[0]["founded"].equals(SCHOOLS["founded"])


@pytest.mark.parametrize(
    "options",
    [{"proper": True}, {"k": 2500}, {"fit_rows": 300}, {"fresh_rows": True}, {"copies": "fresh"}, {"copies": "none"}],
)
def test_clusters_go_together_with(options: dict) -> None:
    k = options.get("k", SCHOOLS.height)
    a = fs.synthesize(SCHOOLS, m=2, cluster="school", random_state=1, threads=1, **options)
    b = fs.synthesize(SCHOOLS.to_pandas(), m=2, cluster="school", random_state=1, threads=2, **options)
    assert a[1].height == k
    assert a[1].group_by("school").agg(pl.col("founded").n_unique())["founded"].max() == 1
    assert a[1].equals(pl.from_pandas(b[1]).cast(a[1].schema))


def test_blocks_of_rows_that_cut_clusters_agree_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "BLOCK_ROWS", 64)
    syn = fs.synthesize(SCHOOLS, m=1, cluster="school", random_state=1)
    of = syn[0].group_by("school").agg(pl.col("funding", "founded").n_unique())
    assert of["funding"].max() == of["founded"].max() == 1


def test_files_in_pieces_give_the_same_bytes(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = SCHOOLS.with_columns(n=pl.len().over("school"))
    frame.write_parquet(tmp_path / "schools.parquet", row_group_size=100)
    whole = fs.synthesize(frame, m=2, cluster="school", random_state=1)
    monkeypatch.setattr(source, "PIECE_ROWS", 100)
    path = tmp_path / "schools.parquet"
    pieces = fs.synthesize(path, m=2, cluster="school", random_state=1, memory_limit=1_000_000, out=tmp_path / "out")
    assert pieces[1].equals(whole[1].cast(pieces[1].schema))


def test_columns_that_differ_in_one_cluster_of_another_piece_are_no_columns_of_clusters(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = pl.DataFrame({"c": np.repeat(np.arange(50), 4), "a": np.repeat(np.arange(50), 4), "x": np.arange(200) % 7})
    frame = pl.concat([frame, pl.DataFrame({"c": [0], "a": [9], "x": [1]})])
    frame.write_parquet(tmp_path / "f.parquet", row_group_size=50)
    monkeypatch.setattr(source, "PIECE_ROWS", 50)
    for data in (frame, tmp_path / "f.parquet"):
        limit = {} if isinstance(data, pl.DataFrame) else {"memory_limit": 1_000_000}
        s = fs.Synthesizer(cluster="c", m=1, random_state=1, method="cart", **limit).fit(data)
        assert {r["column"]: r["level"] for r in s.sample().audit["columns"]} == {"c": 2, "a": 1, "x": 1}


def test_saved_and_loaded_models_draw_the_same(tmp_path) -> None:
    for i, options in enumerate(
        (
            {"cluster": "school"},
            {"cluster": "school", "columns": {"school": KEEP}},
            {"cluster": "school", "proper": True},
        )
    ):
        s = fs.Synthesizer(m=2, random_state=1, **options).fit(SCHOOLS)
        s.save(tmp_path / f"{i}.fsyn")
        loaded = fs.Synthesizer.load(tmp_path / f"{i}.fsyn")
        assert loaded.sample()[1].equals(s.sample()[1])
        assert loaded.cluster == fs.Cluster("school")


def test_nothing_of_real_clusters_is_in_a_model_file_but_sizes_and_effects() -> None:
    s = fs.Synthesizer(m=1, random_state=1, cluster="school").fit(SCHOOLS)
    variable = next(v for v in s.model_.variables if v.name == "school")
    assert len(variable.values) == 1
    with pytest.raises(OptionError, match="real clusters"):
        s.save("never.fsyn", releasable=True)


def test_rows_in_any_order_and_clusters_of_one() -> None:
    frame = pl.DataFrame({"c": [1, 2, 2, 3, 4, 4, 4, 5] * 20, "x": np.arange(160) % 11, "y": np.arange(160) % 2})
    frame = frame.with_columns(c=pl.col("c") + 10 * (pl.int_range(pl.len()) // 8))
    copy = fs.synthesize(frame, m=1, cluster="c", random_state=1)[0]
    assert set(copy.group_by("c").len()["len"].to_list()) <= {1, 2, 3}


def test_weights_make_clusters_of_large_weight_more_frequent() -> None:
    frame = pl.DataFrame({"c": np.repeat(np.arange(100), 5), "x": np.arange(500) % 13})
    frame = frame.with_columns(big=pl.col("c") < 20, w=pl.when(pl.col("c") < 20).then(4.0).otherwise(1.0))
    copy = fs.synthesize(frame, m=1, k=20_000, cluster="c", weights="w", random_state=1, method="cart")[0]
    # 20 of 100 clusters weigh 4 times as much: half of the population. 4,000 clusters were drawn.
    assert abs(copy["big"].mean() - 0.5) < 4 * np.sqrt(0.25 / 4000)


# Households


@pytest.mark.parametrize("method", ["cart", "calibrated"])
def test_households_keep_their_structure_and_what_members_have_in_common(method: str) -> None:
    cluster = fs.Cluster("hh", structure=["relation"])
    syn = fs.synthesize(HOUSEHOLDS, m=2, cluster=cluster, method=method, random_state=1)

    def described(frame: pl.DataFrame) -> dict[str, float]:
        first = frame.with_columns(pl.col("age", "group").first().over("hh").name.suffix("_of_head"))
        spouses = first.filter(pl.col("relation") == "spouse")
        return {
            "age": spouses.select(pl.corr("age", "age_of_head")).item(),
            "group": (first["group"] == first["group_of_head"]).mean(),
        }

    real = described(HOUSEHOLDS)
    for copy in syn:
        of = copy.group_by("hh", maintain_order=True).agg(
            pl.col("relation").first(), heads=(pl.col("relation") == "head").sum(), regions=pl.col("region").n_unique()
        )
        # The last household may be cut off, but not its head.
        assert (of["heads"] == 1).all()
        assert (of["relation"] == "head").all()
        assert of["regions"].max() == 1
        found = described(copy)
        # Of 180 couples; draws widen what hardly differs.
        assert found["age"] > real["age"] - 0.1
        assert found["group"] > real["group"] - 0.05


def test_blocks_of_rows_do_not_matter_where_the_first_row_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"m": 1, "cluster": fs.Cluster("hh", structure=["relation"]), "random_state": 1}
    rule = fs.Rule("relation = 'child' and age < 5", "a")
    options["columns"] = {"age": fs.Column(bounds=(0, 80)), "group": fs.Column(rules=[rule])}
    options["forbid"] = ["relation = 'spouse' and age < 25"]
    whole = fs.synthesize(HOUSEHOLDS, **options)
    monkeypatch.setattr(draw, "BLOCK_ROWS", 50)
    cut = fs.synthesize(HOUSEHOLDS, **options)
    assert cut[0].equals(whole[0])
    assert whole[0]["age"].max() <= 80
    assert not whole[0].filter((pl.col("relation") == "spouse") & (pl.col("age") < 25)).height
    assert (whole[0].filter((pl.col("relation") == "child") & (pl.col("age") < 5))["group"] == "a").all()


def test_households_saved_proper_and_of_other_k(tmp_path) -> None:
    cluster = fs.Cluster("hh", structure=["relation"])
    s = fs.Synthesizer(m=2, cluster=cluster, proper=True, random_state=1).fit(HOUSEHOLDS)
    s.save(tmp_path / "hh.fsyn")
    loaded = fs.Synthesizer.load(tmp_path / "hh.fsyn")
    assert loaded.cluster == cluster
    assert loaded.sample(k=1000)[1].equals(s.sample(k=1000)[1])


# Refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"cluster": "nowhere"}, PlanError, "no column 'nowhere'"),
        ({"cluster": 3}, OptionError, "must be the name of a column"),
        ({"cluster": fs.Cluster("school", structure=["nothing"])}, PlanError, "no column 'nothing'"),
        ({"cluster": fs.Cluster("school", structure=["funding"])}, OptionError, "same in all rows"),
        ({"cluster": "school", "strata": ["funding"]}, OptionError, "strata"),
        ({"cluster": "school", "where": {"x": True}}, OptionError, "where"),
        ({"cluster": "school", "columns": {"x": KEEP}}, PlanError, "Keep 'school' as well"),
        ({"cluster": "school", "columns": {"school": fs.Column(method="cart")}}, OptionError, "fresh names"),
        ({"cluster": "school", "columns": {"y": fs.Column(predictors=["school"])}}, PlanError, "cannot predict"),
        ({"cluster": "school", "columns": {"funding": fs.Column(predictors=["x"])}}, PlanError, "cannot predict"),
        (
            {"cluster": "school", "columns": {"founded": fs.Column(rules=[fs.Rule("x > 1", None)])}},
            PlanError,
            "once for each cluster",
        ),
        ({"cluster": "school", "columns": {"y": fs.Column(method=fs.Nested("eal"))}}, PlanError, "nothing of clusters"),
        ({"cluster": "eal", "visit_sequence": "table", "columns": {"eal": fs.Column(noise=0.1)}}, OptionError, "fresh"),
        ({"cluster": "school", "columns": {"school": fs.Column(rare_levels=(3, "x"))}}, OptionError, "fresh names"),
        ({"cluster": "school", "forbid": ["school = 'S1003'"]}, PlanError, "made anew"),
        (
            {"cluster": "school", "columns": {"funding": fs.Column(guard=fs.Guard(max_copies=2))}},
            PlanError,
            "max_copies of 'funding'",
        ),
        (
            {"cluster": fs.Cluster("school", structure=["eal"]), "guard": fs.Guard(max_copies=2)},
            PlanError,
            "max_copies",
        ),
        ({"cluster": "school", "proper": True, "fit_rows": 100}, OptionError, "bootstrap sample of whole clusters"),
        ({"cluster": "score"}, DataError, "have no 'score'"),
        ({"cluster": "school", "method": "copula"}, OptionError, "rows as independent"),
        (
            {"cluster": fs.Cluster("school", structure=["eal"]), "columns": {"school": KEEP}},
            OptionError,
            "nothing is resampled",
        ),
        (
            {"cluster": fs.Cluster("school", structure=["eal"]), "columns": {"eal": fs.Column(method="cart")}},
            OptionError,
            "taken from donor clusters",
        ),
        ({"cluster": fs.Cluster("school", structure=["eal"]), "copies": "fresh"}, OptionError, "given its first row"),
    ],
)
def test_refused(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fs.synthesize(SCHOOLS, m=1, random_state=1, **options)


def test_clusters_that_are_none() -> None:
    frame = SCHOOLS.with_columns(row=pl.int_range(pl.len()), one=pl.lit("x"), day=pl.lit("2020-01-01").str.to_date())
    frame = frame.with_columns(day=pl.col("day") + pl.duration(days=pl.col("row") % 20))
    for name, message in (("row", "each row is one"), ("one", "all rows are in one"), ("day", "fresh names")):
        with pytest.raises(DataError, match=message):
            fs.synthesize(frame, m=1, cluster=name, random_state=1)
    kept = fs.synthesize(frame.drop("row", "one"), m=1, cluster="day", columns={"day": KEEP}, random_state=1)
    assert kept[0]["day"].equals(frame["day"])


def test_partitions_and_given_columns_are_refused(tmp_path) -> None:
    with pytest.raises(OptionError, match="cluster"):
        fs.synthesize(SCHOOLS, m=1, cluster="school", fit="partition", out=tmp_path / "o", random_state=1)
    s = fs.Synthesizer(m=1, cluster="school", random_state=1).fit(SCHOOLS)
    with pytest.raises(OptionError, match="given"):
        s.sample(given=SCHOOLS.select("funding"))


def test_more_clusters_than_names_are_refused() -> None:
    frame = pl.DataFrame({"c": [f"K{j:02}" for j in np.repeat(np.arange(0, 60, 2), 4)], "x": np.arange(120) % 7})
    s = fs.Synthesizer(m=1, cluster="c", random_state=1, method="cart").fit(frame)
    with pytest.raises(OptionError, match="'c'"):
        s.sample(k=100_000)


def test_limits_are_met_where_leaves_have_effects_of_clusters() -> None:
    columns = {"y": fs.Column(bounds=(-1, 1.5)), "score": fs.Column(bounds=(0, None)), "eal": fs.Column(method="cart")}
    frame = SCHOOLS.filter(pl.col("y").is_between(-1, 1.5) & (pl.col("score").is_null() | (pl.col("score") >= 0)))
    for method in ("cart", "calibrated"):
        copy = fs.synthesize(
            frame,
            m=1,
            cluster="school",
            method=method,
            columns=columns,
            forbid=["eal = 'yes' and y > 1.2"],
            guard=fs.Guard(max_copies=3),
            random_state=1,
        )[0]
        assert copy["y"].is_between(-1, 1.5).all()
        assert copy["score"].drop_nulls().min() >= 0
        assert not copy.filter((pl.col("eal") == "yes") & (pl.col("y") > 1.2)).height


def test_kept_clusters_have_their_effects_in_every_bootstrap_sample() -> None:
    rng = np.random.default_rng(0)
    of = np.repeat(np.arange(100), 20)
    u = 2 * rng.normal(size=100)
    frame = pl.DataFrame({"s": of, "y": u[of] + rng.normal(size=2000), "g": rng.integers(0, 2, 2000)})
    syn = fs.synthesize(frame, m=2, cluster="s", columns={"s": KEEP}, proper=True, random_state=1)
    for copy in syn:
        means = copy.group_by("s", maintain_order=True).agg(pl.col("y").mean())["y"].to_numpy()
        assert np.corrcoef(u, means)[0, 1] > 0.9


def test_columns_computed_from_kept_clusters_are_computed_row_by_row() -> None:
    frame = SCHOOLS.with_columns(school=pl.col("school").str.slice(1).cast(int))
    frame = frame.with_columns(district=pl.col("school") // 10, doubled=2 * pl.col("founded"))
    columns = {
        "school": KEEP,
        "district": fs.Column(passive="school // 10"),
        "doubled": fs.Column(passive=2 * pl.col("founded")),
    }
    copy = fs.synthesize(frame, m=1, cluster="school", columns=columns, random_state=1)[0]
    assert copy["district"].equals(frame["district"])
    assert (copy["doubled"] == 2 * copy["founded"]).all()


def test_default_k_finds_names_where_the_pattern_is_nearly_full() -> None:
    frame = pl.DataFrame({"c": [f"S{j:02}" for j in np.repeat(np.arange(100), 6)], "x": np.arange(600) % 7})
    for seed in range(5):
        fs.synthesize(frame, m=2, cluster="c", method="sample", random_state=seed)


def test_no_name_of_a_real_cluster_lives_on(tmp_path) -> None:
    for dtype in (pl.String, pl.Categorical):
        frame = SCHOOLS.with_columns(pl.col("school").cast(dtype))
        s = fs.Synthesizer(m=1, cluster="school", random_state=1).fit(frame)
        held = pickle.dumps(s.model_.variables)
        assert not any(name.encode() in held for name in SCHOOLS["school"].unique())
    coded = SCHOOLS.with_columns(school=pl.col("school").str.slice(1).cast(int))
    assert "school" not in fs.Synthesizer(m=1, cluster="school", random_state=1).fit(coded).model_.slopes.names


def test_the_head_knows_who_lives_in_the_household() -> None:
    cluster = fs.Cluster("hh", structure=["relation"])
    frame = households(1500, seed=2)
    copy = fs.synthesize(frame, m=1, cluster=cluster, random_state=1)[0]

    def head(frame: pl.DataFrame) -> pl.DataFrame:
        of = frame.group_by("hh").agg(
            pl.col("age").first(), pl.len(), children=(pl.col("relation") == "child").sum(), n=pl.len()
        )
        return of.filter(pl.col("n") == 2).group_by("children").agg(pl.col("age").mean()).sort("children")

    real, found = head(frame)["age"], head(copy)["age"]
    # Couples, and parents of one child: of two persons both, of very different ages.
    assert real[0] - real[1] > 10
    assert np.abs((real - found).to_numpy()).max() < 3.5


def test_a_loaded_synthesizer_fits_as_the_first_one_did(tmp_path) -> None:
    frame = households(200).with_columns(pl.col("group").alias("second"))
    options = {"columns": {"age": fs.Column(predictors=[])}, "random_state": 1, "m": 1}
    copies = []
    for i, structure in enumerate((["relation", "second"], ["second", "relation"])):
        s = fs.Synthesizer(cluster=fs.Cluster("hh", structure), **options).fit(frame)
        s.save(tmp_path / f"{i}.fsyn")
        loaded = fs.Synthesizer.load(tmp_path / f"{i}.fsyn")
        again = fs.Synthesizer(**loaded.get_params()).fit(frame)
        assert again.sample()[0].equals(s.sample()[0])
        copies.append(s.sample()[0])
    assert copies[0].equals(copies[1])
