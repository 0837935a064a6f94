"""Joint models in a synthesis: latent normal models and copulas of columns of a table."""

from __future__ import annotations

import datetime
import warnings

import numpy as np
import polars as pl
import pytest

import fastsynth as fs
from fastsynth import draw
from fastsynth.errors import ConvergenceWarning, DataError, OptionError, OutputError, PlanError

KEEP = fs.Column(method="keep")
SHORT = {"burn_in": 200, "thin": 20, "most_sweeps": 1}


@pytest.fixture(autouse=True)
def _short_chains() -> None:
    # Chains of tests are short; that they say so is tested once.
    warnings.simplefilter("ignore", ConvergenceWarning)


def people(n: int = 1500, n_clusters: int = 60, seed: int = 1) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    of = np.sort(rng.integers(0, n_clusters, n))
    u = rng.normal(0, 0.6, n_clusters)
    size = np.round(50 + 20 * u + rng.normal(0, 10, n_clusters))
    x = rng.normal(0, 1, n)
    y = 0.8 * x + u[of] + rng.normal(0, 0.8, n)
    level = np.digitize(0.7 * y + rng.normal(0, 1, n), [-1, 1])
    kind = np.argmax(np.stack([0.5 * y, -0.5 * y, np.zeros(n)]) + rng.gumbel(size=(3, n)), axis=0)
    frame = pl.DataFrame(
        {
            "school": [f"S{j:03}" for j in of],
            "size": size[of].astype(int),
            "x": x.round(3),
            "y": y.round(2),
            "income": np.exp(7 + 0.5 * y).round(),
            "passed": y + rng.normal(0, 1, n) > 0,
            "level": pl.Series(level).cast(pl.String).replace({"0": "low", "1": "mid", "2": "high"}),
            "kind": pl.Series(kind).cast(pl.String),
            "born": [datetime.date(2000, 1, 1) + datetime.timedelta(days=round(300 * value)) for value in x],
        }
    )
    frame = frame.with_columns(pl.col("level").cast(pl.Enum(["low", "mid", "high"])))
    gone = rng.random(n) < 0.1
    return frame.with_columns(pl.when(pl.Series(gone)).then(None).otherwise(pl.col("y")).alias("y"))


PEOPLE = people()
COLUMNS = ("x", "y", "income", "passed", "level", "kind", "born")


def described(frame: pl.DataFrame) -> dict[str, float]:
    number = frame.with_columns(
        pl.col("level").to_physical().cast(float), pl.col("passed").cast(float), born=pl.col("born").cast(int) / 100
    ).drop_nulls()
    pairs = [("x", "y"), ("y", "passed"), ("y", "level"), ("x", "born"), ("passed", "level")]
    found = {f"{a} {b}": number.select(pl.corr(a, b)).item() for a, b in pairs}
    found |= {f"kind {k}": (frame["kind"] == k).mean() for k in "012"}
    found |= {f"y of {k}": number.filter(pl.col("kind") == k)["y"].mean() for k in "012"}
    return found | {"passed": number["passed"].mean(), "low": (frame["level"] == "low").mean()}


# Latent normal


@pytest.mark.parametrize("cluster", [None, "school"])
def test_columns_of_every_kind_keep_margins_and_associations(cluster: str | None) -> None:
    block = fs.LatentNormal(*COLUMNS, transform={"income": "boxcox", "y": "scores"}, **SHORT)
    syn = fs.synthesize(PEOPLE, m=4, cluster=cluster, blocks=[block], random_state=1)
    real = described(PEOPLE)
    found = [described(copy) for copy in syn]
    for name, value in real.items():
        # Standard errors of both are about .03 in 1,500 rows; of means within kinds .05, and posterior draws differ.
        assert abs(np.mean([of[name] for of in found]) - value) < (0.2 if name.startswith("y of") else 0.09), name
    for copy in syn:
        assert copy.schema == PEOPLE.schema
        assert copy.select(COLUMNS).null_count().sum_horizontal().item() == 0
        assert copy["income"].min() > 0
    assert syn.design.proper
    assert syn.design.imputed
    fits = syn.analyse(lambda d: (d["x"].mean(), d["x"].var() / d.height))
    assert fs.pool(fits).rule == "onestep"


def test_level_2_columns_belong_to_clusters_and_to_effects() -> None:
    block = fs.LatentNormal("size", "x", "y", **SHORT)
    syn = fs.synthesize(
        PEOPLE.select("school", "size", "x", "y"), m=4, cluster="school", blocks=[block], random_state=3
    )
    real = PEOPLE.group_by("school").agg(pl.col("size").first(), pl.col("y").mean()).select(pl.corr("size", "y")).item()
    found = []
    for copy in syn:
        of = copy.group_by("school").agg(
            pl.col("size").n_unique().alias("one"), pl.col("size").first(), pl.col("y").mean()
        )
        assert of["one"].max() == 1
        found.append(of.select(pl.corr("size", "y")).item())
    # Of 60 clusters.
    assert abs(np.mean(found) - real) < 0.25


def test_method_joint_takes_all_columns_that_have_no_method() -> None:
    frame = PEOPLE.select("school", "x", "passed", "kind")
    columns = {"kind": fs.Column(method="cart")}
    syn = fs.synthesize(frame, m=2, method=fs.LatentNormal(**SHORT), cluster="school", columns=columns, random_state=1)
    actions = {r["column"]: r["action"] for r in syn.audit["columns"]}
    assert actions == {"school": "cluster", "x": "joint", "passed": "joint", "kind": "draw"}
    assert "R-hat" in syn.summary().filter(pl.col("column") == "x")["decision"].item()


def test_kept_columns_are_what_the_others_are_drawn_given() -> None:
    frame = PEOPLE.select("x", "passed", "kind", "y")
    columns = {"x": KEEP, "kind": KEEP}
    syn = fs.synthesize(frame, m=3, method=fs.LatentNormal(**SHORT), columns=columns, random_state=1)
    for copy in syn:
        assert copy["x"].equals(frame["x"])
        assert abs(copy.select(pl.corr("x", "y")).item() - frame.drop_nulls().select(pl.corr("x", "y")).item()) < 0.08
        of_kind = {k: copy.filter(pl.col("kind") == k)["y"].mean() for k in "01"}
        assert of_kind["0"] > of_kind["1"] + 0.3
    assert syn.design.partial


def test_kept_clusters_have_their_effects() -> None:
    frame = PEOPLE.select("school", "x", "y")
    columns = {"school": KEEP, "x": KEEP}
    syn = fs.synthesize(
        frame,
        m=2,
        blocks=[fs.LatentNormal("y", slopes=["x"], **SHORT)],
        cluster="school",
        columns=columns,
        random_state=1,
    )
    real = frame.group_by("school", maintain_order=True).agg(pl.col("y").mean())["y"].to_numpy()
    for copy in syn:
        assert copy["school"].equals(frame["school"])
        found = copy.group_by("school", maintain_order=True).agg(pl.col("y").mean())["y"].to_numpy()
        assert np.corrcoef(real, found)[0, 1] > 0.8


def test_interactions_that_are_named_survive() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 2, 2000), rng.integers(0, 3, 2000)
    y = np.where((a == 1) & (b == 2), 2.0, 0.0) + rng.normal(0, 0.5, 2000)
    frame = pl.DataFrame({"a": a, "b": b.astype(str), "y": y.round(2)})
    for block in (fs.LatentNormal(interactions=[("a", "b")], **SHORT), fs.Copula(interactions=[("a", "b")])):
        copy = fs.synthesize(frame, m=1, method=block, random_state=1)[0]
        inside = copy.filter((pl.col("a") == 1) & (pl.col("b") == "2"))["y"].mean()
        outside = copy.filter((pl.col("a") == 0) & (pl.col("b") == "2"))["y"].mean()
        # Additive effects would leave 2/3 of 2.
        assert inside - outside > 1.1
        assert abs(copy.filter(pl.col("a") == 1)["b"].value_counts(normalize=True)["proportion"].min() - 1 / 3) < 0.06


def test_bounds_rules_and_forbidden_combinations_hold() -> None:
    frame = PEOPLE.select("x", "y", "passed", "kind").drop_nulls().filter(pl.col("x") + pl.col("y") < 3)
    columns = {"x": fs.Column(bounds=(-1, 2)), "passed": fs.Column(rules=[fs.Rule("kind = '1'", False)])}
    frame = frame.filter(pl.col("x").is_between(-1, 2))
    for block in (fs.LatentNormal("kind", "x", "y", "passed", **SHORT), fs.Copula("kind", "x", "y", "passed")):
        copy = fs.synthesize(frame, m=1, blocks=[block], columns=columns, forbid=["x + y >= 3"], random_state=1)[0]
        assert copy["x"].is_between(-1, 2).all()
        assert not copy.filter(pl.col("x") + pl.col("y") >= 3).height
        assert not copy.filter((pl.col("kind") == "1") & pl.col("passed")).height


def test_strata_have_chains_of_their_own() -> None:
    frame = PEOPLE.select("kind", "x", "passed")
    s = fs.Synthesizer(m=2, method=fs.LatentNormal(**SHORT), strata=["kind"], random_state=1).fit(frame)
    assert len(s.chains_) == 3
    copy = s.sample()[0]
    for k in "01":
        real, found = (f.filter(pl.col("kind") == k)["passed"].mean() for f in (frame, copy))
        assert abs(real - found) < 0.1


def test_two_blocks_are_drawn_one_given_the_other() -> None:
    blocks = [fs.LatentNormal("x", "kind", **SHORT), fs.LatentNormal("y", "passed", **SHORT)]
    copy = fs.synthesize(PEOPLE.select("x", "kind", "y", "passed", "level"), m=1, blocks=blocks, random_state=1)[0]
    assert abs(copy.select(pl.corr("x", "y")).item() - 0.62) < 0.1


def test_noise_is_added_to_jointly_drawn_numbers() -> None:
    frame = PEOPLE.select("x", "born", "passed")
    block = fs.LatentNormal(**SHORT)
    plain = fs.synthesize(frame, m=1, method=block, random_state=1)[0]
    noisy = fs.synthesize(frame, m=1, method=block, columns={"x": fs.Column(noise=0.5)}, random_state=1)
    assert noisy.noise.drawn == {"x": 0.5}
    of = [f.select(pl.corr("x", pl.col("born").cast(int))).item() for f in (plain, noisy[0])]
    assert abs(of[1] - of[0] / np.sqrt(1.25)) < 0.03


@pytest.mark.parametrize("block", [fs.LatentNormal(**SHORT), fs.Copula()])
def test_same_bytes_for_threads_blocks_files_and_kinds_of_table(block, tmp_path) -> None:
    frame = PEOPLE.select("x", "y", "passed", "kind", "level")
    one = fs.synthesize(frame, m=3, method=block, random_state=1, threads=1)
    two = fs.synthesize(frame.to_arrow(), m=3, method=block, random_state=1, threads=2)
    assert two[2].equals(one.arrow(2))
    path = tmp_path / "p.parquet"
    frame.write_parquet(path, row_group_size=200)
    limit = {"memory_limit": 1_000_000, "out": tmp_path / "out"}
    files = fs.synthesize(path, m=3, method=block, random_state=1, **limit)
    assert files[2].cast(one[2].schema).equals(one[2])


@pytest.mark.parametrize(
    "options",
    [
        {"method": fs.LatentNormal(transform="scores", **SHORT), "cluster": "school"},
        {"method": fs.LatentNormal(interactions=[("passed", "kind")], **SHORT)},
        {"method": fs.Copula(), "proper": True, "columns": {"x": KEEP}},
        {"blocks": [fs.Copula("x", "y")], "columns": {"x": fs.Column(noise=0.1)}},
    ],
)
def test_saved_models_draw_the_same(options: dict, tmp_path) -> None:
    frame = (
        PEOPLE.select("school", "size", "x", "y", "passed", "kind")
        if "cluster" in options
        else PEOPLE.select("x", "y", "passed", "kind")
    )
    s = fs.Synthesizer(m=2, random_state=1, **options).fit(frame)
    s.save(tmp_path / "m.fsyn")
    loaded = fs.Synthesizer.load(tmp_path / "m.fsyn")
    assert loaded.sample()[1].equals(s.sample()[1])
    with pytest.raises(OptionError, match="releasable"):
        s.save(tmp_path / "r.fsyn", releasable=True)


def test_short_chains_say_what_has_not_converged() -> None:
    warnings.simplefilter("always", ConvergenceWarning)
    s = fs.Synthesizer(m=2, method=fs.LatentNormal(burn_in=20, thin=10, most_sweeps=1), random_state=1)
    with pytest.warns(ConvergenceWarning, match=r"beta\[.*raise most_sweeps"):
        s.fit(PEOPLE.select("passed", "kind"))


# The analyst's model


def interacting(n: int = 1_500, n_clusters: int = 50, seed: int = 4) -> pl.DataFrame:
    """A number, a category and clusters with an interaction, and outcomes of three kinds."""
    rng = np.random.default_rng(seed)
    of = np.sort(rng.integers(0, n_clusters, n))
    x = rng.normal(5, 1, n).round(2)
    sex = rng.normal(0, 1, n) + 0.4 * (x - 5) > 0
    size = rng.normal(0, 1, n_clusters).round(2)
    u = rng.normal(0, [[0.4], [0.2]], (2, n_clusters))
    y = 2 + 0.5 * (x - 5) - 0.3 * sex + 0.8 * (x - 5) * sex + 0.3 * size[of] + u[0, of] + u[1, of] * (x - 5)
    y += rng.normal(0, 1, n)
    return pl.DataFrame(
        {
            "school": of,
            "size": size[of],
            "x": x,
            "sex": pl.Series(np.where(sex, "m", "f")),
            "y": y.round(2),
            "passed": y > 2,
            "grade": pl.Series(np.digitize(y, [1, 2, 3])).cast(pl.String).cast(pl.Enum(list("0123"))),
        }
    )


PUPILS = interacting()


def pierced(frame: pl.DataFrame, *names: str, share: float = 0.25) -> pl.DataFrame:
    rng = np.random.default_rng(8)
    gone = {name: pl.Series(rng.random(frame.height) < share) for name in names}
    return frame.with_columns(pl.when(of).then(None).otherwise(pl.col(name)).alias(name) for name, of in gone.items())


def least_squares(frame: pl.DataFrame, outcome: str) -> np.ndarray:
    """Slopes of x, of sex and of their product."""
    x, sex = frame["x"].to_numpy() - 5, (frame["sex"] == "m").to_numpy()
    y = frame[outcome].to_physical().cast(pl.Float64).to_numpy()
    return np.linalg.lstsq(np.column_stack([np.ones(len(x)), x, sex, x * sex]), y, rcond=None)[0][1:]


@pytest.mark.parametrize("outcome", ["y", "passed", "grade"])
@pytest.mark.parametrize("missing", [False, True])
def test_an_interaction_of_the_analysts_model_is_in_the_copies(outcome: str, missing: bool) -> None:
    frame = PUPILS.select("school", "x", "sex", outcome)
    real = least_squares(frame, outcome)
    frame = pierced(frame, "x", "sex", outcome) if missing else frame
    found = {}
    for model in (f"{outcome} ~ x*sex + (1 + x | school)", None):
        block = fs.LatentNormal(outcome, "x", "sex", model=model, **SHORT)
        syn = fs.synthesize(frame, m=4, cluster="school", blocks=[block], random_state=1)
        found[model] = np.mean([least_squares(copy, outcome) for copy in syn], axis=0)
        assert syn.design.proper
        assert syn.design.imputed == missing
        for copy in syn:
            assert copy.schema == frame.schema
            assert copy.null_count().sum_horizontal().item() == 0
    with_model, without = found.values()
    # Standard errors of slopes are .04 of sd(y), and .06 of the product; twice that for posterior draws and copies.
    scale = PUPILS[outcome].to_physical().cast(pl.Float64).std() / PUPILS["y"].std()
    assert (np.abs(with_model - real) < np.array([0.17, 0.25, 0.25]) * scale).all()
    assert abs(without[2]) < 0.5 * real[2]


def between(frame: pl.DataFrame) -> float:
    """Correlation of rows of one school, by analysis of variance."""
    of = frame.group_by("school").agg(pl.col("y").mean().alias("mean"), pl.col("y").var().alias("var"), pl.len())
    within = (of["var"].fill_null(0) * (of["len"] - 1)).sum() / (of["len"] - 1).sum()
    effects = of["mean"].var() - within * (1 / of["len"]).mean()
    return effects / (effects + within)


def test_covariates_of_clusters_and_those_that_are_kept() -> None:
    """Level-2 covariates are of the block, missing for some clusters, or kept; clusters are new or their own."""
    gone = pl.col("school").is_in(list(range(0, 50, 6)))
    frame = PUPILS.select("school", "size", "x", "sex", "y")
    holes = frame.with_columns(pl.when(gone).then(None).otherwise(pl.col("size")).alias("size"))
    block = fs.LatentNormal("y", "x", "size", "sex", model="y ~ x*sex + size + (1 | school)", **SHORT)
    syn = fs.synthesize(holes, m=4, cluster="school", blocks=[block], random_state=1)
    of_size = [
        copy.group_by("school").agg(pl.col("size").first(), pl.col("y").mean()).select(pl.corr("size", "y")).item()
        for copy in syn
    ]
    # .3 and .4 are the standard deviations of what size and schools say, less what is due to few rows.
    assert abs(np.mean(of_size) - 0.57) < 0.25
    assert all(copy.group_by("school").agg(pl.col("size").n_unique())["size"].max() == 1 for copy in syn)
    assert abs(np.mean([between(copy) for copy in syn]) - between(frame)) < 0.08
    kept = dict.fromkeys(("school", "size", "x", "sex"), KEEP)
    block = fs.LatentNormal("y", model="y ~ x*sex + size + (1 | school)", **SHORT)
    syn = fs.synthesize(frame, m=2, cluster="school", blocks=[block], columns=kept, random_state=1)
    for copy in syn:
        assert copy["x"].equals(frame["x"])
        assert abs(least_squares(copy, "y")[2] - least_squares(frame, "y")[2]) < 0.3
        means = [of.group_by("school", maintain_order=True).agg(pl.col("y").mean())["y"] for of in (copy, frame)]
        assert np.corrcoef(*means)[0, 1] > 0.7


def test_covariates_of_an_earlier_block_strata_noise_and_more_rows() -> None:
    frame = PUPILS.with_columns(half=pl.int_range(pl.len()) % 2 == 0).select("half", "x", "sex", "y", "grade")
    blocks = [fs.LatentNormal("x", "sex", **SHORT), fs.LatentNormal("y", "grade", model="y ~ x*sex", **SHORT)]
    s = fs.Synthesizer(m=2, blocks=blocks, strata=["half"], columns={"y": fs.Column(noise=0.3)}, random_state=1)
    s.fit(frame)
    assert len(s.chains_) == 4
    assert any(name.startswith("y: beta[x:sex") for name in s.chains_["y, grade; stratum 1"].trace)
    copy = s.sample(k=4_000)[0]
    assert copy.height == 4_000
    # Noise is drawn back to keep the spread.
    assert abs(least_squares(copy, "y")[2] * np.sqrt(1.09) - least_squares(frame, "y")[2]) < 0.3
    assert abs(copy["y"].std() / frame["y"].std() - 1) < 0.08


def test_models_are_the_same_for_threads_and_files(tmp_path) -> None:
    frame = pierced(PUPILS.select("school", "size", "x", "sex", "grade"), "x", "sex", "grade")
    block = fs.LatentNormal("grade", "x", "sex", "size", model="grade ~ x*sex + size + (1 | school)", **SHORT)
    options = {"m": 3, "blocks": [block], "cluster": "school", "random_state": 1}
    one, two = (fs.Synthesizer(**options, threads=threads).fit(frame) for threads in (1, 2))
    copies = one.sample()
    assert copies[2].equals(two.sample()[2])
    one.save(tmp_path / "m.fsyn")
    assert fs.Synthesizer.load(tmp_path / "m.fsyn").sample()[2].equals(copies[2])


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        ("y ~ log(x)", {}, OptionError, "transformation"),
        ("y + x", {}, OptionError, "needs an outcome"),
        ("y ~ x*age", {}, PlanError, "no column 'age'"),
        ("grade ~ x", {}, OptionError, "'grade' has to be a column of the block"),
        ("kind ~ x", {}, DataError, "4 levels without order"),
        ("y ~ x + (1|school)", {"cluster": None}, OptionError, "rows have no clusters"),
        ("y ~ x + (1|kind)", {}, OptionError, "cluster='school'"),
        ("y ~ x + grade", {}, OptionError, "'grade' are drawn after the block"),
        ("size ~ x", {}, OptionError, "'size' is constant within clusters"),
        ("y ~ x", {"transform": {"y": "scores"}}, OptionError, "is the outcome of model="),
        ("y ~ x", {"interactions": [("x", "sex")]}, OptionError, "'x' are columns of model="),
        ("y ~ holes", {"cluster": None, "columns": {"holes": KEEP}}, DataError, "'holes' has missing values"),
    ],
)
def test_models_that_do_not_fit(model: str, options: dict, error: type[Exception], message: str) -> None:
    frame = PUPILS.with_columns(pl.lit("a").alias("kind") + (pl.int_range(pl.len()) % 4).cast(pl.String))
    frame = frame.with_columns(holes=pl.col("x")).pipe(pierced, "holes").drop("passed")
    of_block = {name: value for name, value in options.items() if name in ("transform", "interactions")}
    rest = {"cluster": "school"} | {name: value for name, value in options.items() if name not in of_block}
    block = fs.LatentNormal("y", "x", "sex", "kind", "size", model=model, **of_block, **SHORT)
    with pytest.raises(error, match=message):
        fs.synthesize(frame, m=1, blocks=[block], random_state=1, **rest)


# Copula


def test_a_copula_keeps_margins_associations_and_what_is_missing() -> None:
    syn = fs.synthesize(PEOPLE.drop("school", "size"), m=4, method="copula", random_state=1)
    real, found = described(PEOPLE), [described(copy) for copy in syn]
    for name, value in real.items():
        assert abs(np.mean([of[name] for of in found]) - value) < (0.2 if name.startswith("y of") else 0.09), name
    for copy in syn:
        assert abs(copy["y"].null_count() / copy.height - 0.1) < 0.04
    assert not syn.design.proper
    assert fs.pool(syn.analyse(lambda d: (d["x"].mean(), d["x"].var() / d.height))).rule == "raab2016"


def test_a_copula_draws_given_kept_columns_and_trees_follow() -> None:
    frame = PEOPLE.select("x", "y", "passed", "kind")
    syn = fs.synthesize(frame, m=2, blocks=[fs.Copula("y", "passed")], columns={"x": KEEP}, random_state=1)
    for copy in syn:
        assert copy["x"].equals(frame["x"])
        real = frame.drop_nulls().select(pl.corr("x", "y")).item()
        assert abs(copy.drop_nulls().select(pl.corr("x", "y")).item() - real) < 0.08


def test_rare_numbers_of_a_copula_are_no_real_ones() -> None:
    frame = PEOPLE.select("x", "passed")
    copy = fs.synthesize(frame.with_columns(pl.col("x") * 1.23456), m=1, method="copula", random_state=1)[0]
    assert np.isin(copy["x"].to_numpy(), frame["x"].to_numpy() * 1.23456).mean() < 0.05


# Refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": fs.LatentNormal("x")}, OptionError, "name none"),
        ({"method": "joint", "blocks": [fs.Copula("x")]}, OptionError, "leave out blocks"),
        ({"blocks": fs.Copula("x")}, OptionError, "must be a list"),
        ({"blocks": ["joint"]}, OptionError, "must be a list"),
        ({"blocks": [fs.Copula()]}, OptionError, "names no columns"),
        ({"blocks": [fs.Copula("nothing")]}, PlanError, "no column 'nothing'"),
        ({"blocks": [fs.Copula("x", "y"), fs.Copula("y")]}, OptionError, "in two blocks"),
        ({"blocks": [fs.Copula("x", "y")], "columns": {"x": KEEP}}, OptionError, "is kept"),
        ({"blocks": [fs.Copula("x", "y")], "columns": {"x": fs.Column(method="cart")}}, OptionError, "takes no method"),
        ({"blocks": [fs.Copula("x", "y")], "columns": {"x": fs.Column(predictors=[])}}, OptionError, "no predictors"),
        ({"blocks": [fs.LatentNormal("x", "y")], "columns": {"x": fs.Column(cont_na=[-9])}}, OptionError, "fills in"),
        ({"blocks": [fs.LatentNormal("x", "y", transform={"kind": "scores"})]}, PlanError, "not among the columns"),
        ({"blocks": [fs.LatentNormal("x", "kind", transform={"kind": "scores"})]}, OptionError, "for numbers"),
        ({"blocks": [fs.LatentNormal("x", "y", slopes=["passed"])]}, OptionError, "say with cluster="),
        ({"blocks": [fs.LatentNormal("x", "y", slopes=["x"])], "cluster": "school"}, OptionError, "must be numbers"),
        ({"blocks": [fs.LatentNormal("x", slopes=["y"])], "cluster": "school"}, PlanError, "drawn after the block"),
        (
            {"blocks": [fs.LatentNormal("x", "size", interactions=[("x", "size")])], "cluster": "school"},
            PlanError,
            "cannot be drawn together",
        ),
        ({"blocks": [fs.LatentNormal("size")], "cluster": "school"}, PlanError, "constant within clusters"),
        (
            {
                "blocks": [fs.LatentNormal("size", "x")],
                "cluster": "school",
                "columns": {"size": fs.Column(bounds=(0, 9))},
            },
            PlanError,
            "drawing it again",
        ),
        ({"blocks": [fs.LatentNormal("x", "y", transform="boxcox")]}, DataError, "positive"),
        ({"blocks": [fs.LatentNormal("x", "y")], "weights": "income"}, OptionError, "weights"),
        ({"blocks": [fs.LatentNormal("x", "y")], "fit_rows": 100}, OptionError, "fit_rows"),
        ({"blocks": [fs.Copula("x", "y")], "weights": "income"}, OptionError, "weights"),
        ({"blocks": [fs.Copula("x", "y")], "strata": ["kind"]}, OptionError, "strata"),
        ({"blocks": [fs.Copula("x", "y")], "where": {"x": True}}, OptionError, "where"),
        (
            {"blocks": [fs.LatentNormal("x", "y")], "copies": "fresh", "method": "joint"},
            OptionError,
            "leave out blocks",
        ),
        ({"columns": {"x": fs.Column(method="cart")}, "method": "joins"}, OptionError, "allowed are"),
    ],
)
def test_refused(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fs.synthesize(PEOPLE, m=1, random_state=1, **options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fs.LatentNormal("x", "x"), "twice"),
        (lambda: fs.LatentNormal("x", transform="log"), "allowed are 'none'"),
        (lambda: fs.LatentNormal("x", transform={"x": 3}), "allowed are 'none'"),
        (lambda: fs.LatentNormal("x", burn_in=0), "burn_in"),
        (lambda: fs.LatentNormal("x", thin=1.5), "thin"),
        (lambda: fs.LatentNormal("x", chains=0), "chains"),
        (lambda: fs.LatentNormal("x", model=3), "formula"),
        (lambda: fs.LatentNormal("x", slopes="z"), "slopes"),
        (lambda: fs.Copula("x", "y", interactions=[("x", "z")]), "not among"),
        (lambda: fs.Copula("x", "y", interactions=[("x",)]), "two columns or more"),
        (lambda: fs.Copula("x", "y", interactions="xy"), "list of tuples"),
        (lambda: fs.Copula("x", "y", "z", interactions=[("x", "y"), ("y", "z")]), "in two of them"),
        (lambda: fs.Copula(3), "columns"),
        (lambda: fs.LatentNormal(["x", "y"]), "one by one"),
        (lambda: fs.Column(method="joint"), "for all columns together"),
    ],
)
def test_options_are_checked_at_the_door(make, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make()


def test_columns_that_a_latent_normal_cannot_have() -> None:
    frame = PEOPLE.select("x").with_columns(one=pl.lit(1), many=pl.int_range(pl.len()).mod(60).cast(pl.String))
    for name, message in (("one", "fewer than two"), ("many", "levels without order")):
        with pytest.raises(DataError, match=message):
            fs.synthesize(frame, m=1, blocks=[fs.LatentNormal("x", name)], random_state=1)
    twice = PEOPLE.select("x", z=pl.col("x"))
    with pytest.raises(DataError):
        fs.synthesize(twice, m=1, method=fs.LatentNormal(**SHORT), random_state=1)


def test_given_columns_and_partitions_are_refused(tmp_path) -> None:
    s = fs.Synthesizer(m=1, method="copula", random_state=1).fit(PEOPLE.select("x", "passed"))
    with pytest.raises(OptionError, match="given"):
        s.sample(given=PEOPLE.select("x"))
    with pytest.raises(OptionError, match="blocks"):
        fs.synthesize(PEOPLE, m=1, method="copula", fit="partition", out=tmp_path / "o", random_state=1)


def test_blocks_of_rows_of_a_joint_model_with_clusters_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "BLOCK_ROWS", 64)
    block = fs.LatentNormal("size", "x", "y", **SHORT)
    syn = fs.synthesize(
        PEOPLE.select("school", "size", "x", "y"), m=1, cluster="school", blocks=[block], random_state=1
    )
    assert syn[0].group_by("school").agg(pl.col("size").n_unique())["size"].max() == 1


def test_members_of_households_are_drawn_jointly_too() -> None:
    frame = PEOPLE.select("school", "x", "passed", role=pl.int_range(pl.len()).mod(3).cast(pl.String))
    cluster = fs.Cluster("school", structure=["role"])
    for options in ({"blocks": [fs.LatentNormal("x", **SHORT)]}, {"method": fs.LatentNormal(**SHORT)}):
        copy = fs.synthesize(frame, m=1, cluster=cluster, random_state=1, **options)[0]
        assert not copy.null_count().sum_horizontal().item()


def test_more_clusters_than_a_block_has_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "BLOCK_ROWS", 32)
    block = fs.LatentNormal("size", "x", **SHORT)
    copy = fs.synthesize(
        PEOPLE.select("school", "size", "x"), m=1, k=3000, cluster="school", blocks=[block], random_state=1
    )
    assert copy[0].group_by("school").agg(pl.col("size").n_unique())["size"].max() == 1


def test_times_and_large_numbers_stay_what_their_types_hold() -> None:
    rng = np.random.default_rng(0)
    seconds = np.clip(rng.normal(80_000, 5_000, 400), 0, 86_399).astype(int)
    frame = pl.DataFrame(
        {
            "a": rng.normal(size=400),
            "t": [datetime.time(s // 3600, s // 60 % 60) for s in seconds.tolist()],
            "small": (rng.normal(size=400) * 20 + 100).astype(np.uint8),
        }
    )
    copy = fs.synthesize(frame, m=1, method=fs.LatentNormal(**SHORT), random_state=1)[0]
    assert not copy.null_count().sum_horizontal().item()
    assert copy["small"].dtype == pl.UInt8
    assert copy["small"].max() - copy["small"].min() < 200


def test_chains_show_no_values_and_strata_have_their_own_random_numbers() -> None:
    frame = pl.concat([PEOPLE.select("x", "born").with_columns(s=pl.lit(i)) for i in (0, 1)])
    s = fs.Synthesizer(m=2, method=fs.LatentNormal(**SHORT), strata=["s"], random_state=1).fit(frame)
    one, other = s.chains_.values()
    assert repr(one).startswith("Chains: 2 of ")
    assert len(repr(one)) < 200
    assert one.table.columns == ["name", "mean", "sd", "low", "high", "r_hat", "ess"]
    assert one.parameters[0].mean != other.parameters[0].mean


def test_holes_that_a_rule_explains_are_not_imputed() -> None:
    frame = PEOPLE.select("x", "passed", "kind").with_columns(x=pl.when(pl.col("kind") != "1").then("x"))
    columns = {"kind": KEEP, "x": fs.Column(rules=[fs.Rule("kind = '1'")])}
    syn = fs.synthesize(frame, m=2, method=fs.LatentNormal(**SHORT), columns=columns, random_state=1)
    assert not syn.design.imputed
    assert syn[0].filter(pl.col("kind") == "1")["x"].null_count() == frame.filter(pl.col("kind") == "1").height
    both = fs.LatentNormal(interactions=[("y", "passed")], **SHORT)
    assert fs.synthesize(PEOPLE.select("y", "passed", "x"), m=2, method=both, random_state=1).design.imputed


def test_ruled_rows_may_be_out_of_bounds() -> None:
    frame = PEOPLE.select("x", "kind").with_columns(x=pl.when(pl.col("kind") == "1").then(-99.0).otherwise("x"))
    columns = {"kind": KEEP, "x": fs.Column(rules=[fs.Rule("kind = '1'", -99.0)], bounds=(-20, None))}
    copy = fs.synthesize(frame, m=1, method=fs.LatentNormal(**SHORT), columns=columns, random_state=1)[0]
    assert (copy.filter(pl.col("kind") == "1")["x"] == -99).all()


def test_rare_levels_of_kept_columns_count() -> None:
    rng = np.random.default_rng(1)
    g = np.repeat(["a", "b", "c"], [280, 12, 8])
    frame = pl.DataFrame({"g": g, "y": np.where(g == "b", 5.0, 0.0) + rng.normal(size=300)})
    copy = fs.synthesize(frame, m=1, method=fs.LatentNormal(**SHORT), columns={"g": KEEP}, random_state=1)[0]
    assert copy.filter(pl.col("g") == "b")["y"].mean() > 3


def test_a_few_strong_correlations_among_many_columns_stay() -> None:
    rng = np.random.default_rng(3)
    z = rng.normal(size=(4000, 30))
    z[:, 1] = 0.3 * z[:, 0] + np.sqrt(1 - 0.09) * z[:, 1]
    frame = pl.DataFrame(z, schema=[f"c{i}" for i in range(30)])
    copy = fs.synthesize(frame, m=1, method="copula", random_state=1)[0]
    assert copy.select(pl.corr("c0", "c1")).item() > 0.25


def test_resumed_runs_of_other_data_are_refused(tmp_path) -> None:
    rng = np.random.default_rng(1)
    a = np.arange(200.0)
    b = a + rng.normal(size=200)
    options = {"blocks": [fs.LatentNormal("a", "b", **SHORT)], "random_state": 1, "m": 2, "out": tmp_path / "o"}
    fs.synthesize(pl.DataFrame({"a": a, "b": b}), **options)
    (tmp_path / "o" / "copy_2.parquet").unlink()
    with pytest.raises(OutputError):
        fs.synthesize(pl.DataFrame({"a": a, "b": b[::-1]}), resume=True, **options)


def test_what_a_latent_normal_cannot_keep_is_refused() -> None:
    frame = PEOPLE.select("school", "size", "x").with_columns(spike=pl.when(pl.col("x") > 0).then("x").otherwise(0.0))
    with pytest.raises(DataError, match="have one value"):
        fs.synthesize(frame, m=1, blocks=[fs.LatentNormal("x", "spike", transform="scores")], random_state=1)
    with pytest.raises(PlanError, match="drawing it again"):
        fs.synthesize(
            frame,
            m=1,
            cluster="school",
            blocks=[fs.LatentNormal("size", "x")],
            columns={"size": fs.Column(bounds=(0, 99))},
            random_state=1,
        )


def test_normal_scores_of_few_values_are_levels_with_an_order() -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(size=2000)
    frame = pl.DataFrame({"z": z, "scale": np.digitize(z + rng.normal(size=2000), [-1.2, -0.4, 0.4, 1.2])})
    copy = fs.synthesize(frame, m=1, method=fs.LatentNormal(transform="scores", **SHORT), random_state=1)[0]
    assert abs(copy["scale"].var() / frame["scale"].var() - 1) < 0.08
    assert set(copy["scale"].unique()) == set(range(5))


def test_saved_models_of_covariates_outside_the_block_can_be_loaded(tmp_path) -> None:
    frame = PEOPLE.select("x", "y", "passed", "kind").drop_nulls()
    model = fs.LatentNormal("y", "passed", model="y ~ x*passed", **SHORT)
    for i, options in enumerate(
        ({"blocks": [model], "columns": {"x": KEEP}}, {"blocks": [fs.LatentNormal("x", "kind", **SHORT), model]})
    ):
        s = fs.Synthesizer(m=2, random_state=1, **options).fit(frame)
        s.save(tmp_path / f"{i}.fsyn")
        assert fs.Synthesizer.load(tmp_path / f"{i}.fsyn").sample()[1].equals(s.sample()[1])
