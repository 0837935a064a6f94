"""The command line, as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import fastsynth as fs
from fastsynth.cli import main
from tests.survey import survey


def call(*words):
    return CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def people(tmp_path, mixed):
    path = tmp_path / "people.parquet"
    mixed.write_parquet(path)
    return path


def test_demo_prints_the_pooled_table_and_writes_copies_and_picture(tmp_path):
    result = call("demo", "--out", tmp_path / "demo")
    assert result.exit_code == 0
    for number in ("63.087", "7.174", "-12.250", "-1.376", "-3.564", "-0.431", "2.064"):
        assert number in result.output
    for word in ("overlap", "raab2016", "identical to a real row", "phb.L", "copy_1.parquet", "marginals.png"):
        assert word in result.output
    names = sorted(p.name for p in (tmp_path / "demo").iterdir())
    assert names == ["audit.json", *[f"copy_{i}.parquet" for i in range(1, 6)], "manifest.json", "marginals.png"]
    copy = pl.read_parquet(tmp_path / "demo" / "copy_3.parquet")
    bmi = copy["wgt"] / (copy["hgt"] / 100) ** 2
    assert ((bmi - copy["bmi"]).is_between(-1e-6, 0.01)).all()
    assert copy.schema == fs.load_boys().schema


def test_synthesize_parquet(tmp_path, people, mixed):
    out = tmp_path / "out"
    result = call("synthesize", people, "-o", out, "-m", 2, "--random-state", 1, "--minbucket", 8, "-k", 100)
    assert result.exit_code == 0
    copies = [pl.read_parquet(out / f"copy_{i}.parquet") for i in (1, 2)]
    expected = fs.synthesize(mixed, m=2, k=100, method=fs.Calibrated(minbucket=8), random_state=1)
    assert all(a.equals(b) for a, b in zip(copies, expected))


def test_synthesize_csv(tmp_path, mixed):
    mixed.write_csv(tmp_path / "people.csv")
    assert call("synthesize", tmp_path / "people.csv", "-o", tmp_path / "out", "-m", 1).exit_code == 0
    assert pl.read_parquet(tmp_path / "out" / "copy_1.parquet").columns == mixed.columns


def test_fit_then_sample(tmp_path, people, mixed):
    assert call("fit", people, "-o", tmp_path / "m.fsyn", "--random-state", 4).exit_code == 0
    assert call("sample", tmp_path / "m.fsyn", "-o", tmp_path / "out", "-m", 1, "-k", 77).exit_code == 0
    copy = pl.read_parquet(tmp_path / "out" / "copy_1.parquet")
    assert copy.equals(fs.synthesize(mixed, m=1, k=77, random_state=4)[0])


def test_config_file(tmp_path, people):
    config = tmp_path / "c.toml"
    config.write_text(
        """
        m = 3
        predictors = "all"
        drop = ["region"]
        method = { name = "cart", minbucket = 6 }
        [columns.sex]
        method = "sample"
        [columns.job]
        method = { name = "cart", minbucket = 20 }
        predictors = ["age"]
        [columns.income]
        passive = "age * 2.0"
        """
    )
    result = call("synthesize", people, "-o", tmp_path / "out", "--config", config, "-m", 1)
    assert result.exit_code == 0
    copy = pl.read_parquet(tmp_path / "out" / "copy_1.parquet")
    assert copy.columns == ["age", "sex", "job", "income"]
    assert (copy["income"] == 2 * copy["age"]).all()
    audit = json.loads((tmp_path / "out" / "audit.json").read_text())
    methods = {c["column"]: c["method"] for c in audit["columns"]}
    assert methods["age"] == "Cart(minbucket=6, cp=1e-08, refill=False)"
    assert methods["job"] == "Cart(minbucket=20, cp=1e-08, refill=False)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("m = [", "not a TOML file"),
        ("n_jobs = 2", "unknown key n_jobs"),
        ("method = 'rf'", "method='rf'"),
        ("method = { name = 'rf' }", "name must be one of"),
        ("method = { name = 'cart', depth = 3 }", "unknown option of cart"),
        ("columns = 3", "columns must be tables"),
        ("drop = 'sex'", "drop must be a list"),
        ("predictors = ['age']", "must be 'auto' or 'all'"),
        ("visit_sequence = 3", "visit_sequence must be a list"),
        ("visit_sequence = 'levels'", "must be a list of column names or 'auto' or 'table'"),
        ("[columns.sex]\nsmooth = 1", r"may hold method, predictors, passive"),
    ],
)
def test_bad_config_is_refused(tmp_path, people, text, message):
    (tmp_path / "c.toml").write_text(text)
    result = call("synthesize", people, "-o", tmp_path / "out", "--config", tmp_path / "c.toml")
    assert result.exit_code == 1
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_order_of_columns(tmp_path, people, mixed):
    by_kind = ["age", "income", "sex", "job", "region"]
    own = ["region", "sex", "job", "income", "age"]

    def order(name, text="", *words):
        (tmp_path / "c.toml").write_text(text)
        result = call("fit", people, "-o", tmp_path / name, "--config", tmp_path / "c.toml", *words)
        assert result.exit_code == 0, result.output
        return fs.Synthesizer.load(tmp_path / name).summary()["column"].to_list()

    assert order("a") == by_kind
    assert order("b", "visit_sequence = 'table'") == order("c", "", "--visit-sequence", "table") == mixed.columns
    assert order("d", f"visit_sequence = {own}") == own
    assert order("e", f"visit_sequence = {own}", "--visit-sequence", "auto") == by_kind


def test_minbucket_changes_the_method_and_no_more(tmp_path, people):
    (tmp_path / "c.toml").write_text("k = 50\nmethod = { name = 'cart', cp = 0.5 }")
    words = ["--config", tmp_path / "c.toml", "--minbucket", 7]
    assert call("fit", people, "-o", tmp_path / "m.fsyn", *words).exit_code == 0
    assert fs.Synthesizer.load(tmp_path / "m.fsyn").summary()["method"][0] == "Cart(minbucket=7, cp=0.5, refill=False)"
    (tmp_path / "c.toml").write_text("method = 'sample'")
    result = call("fit", people, "-o", tmp_path / "other.fsyn", *words)
    assert (result.exit_code, "option of methods cart" in result.output) == (1, True)


def test_errors_are_one_line_and_nothing_is_written(tmp_path, people):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    cases = [
        (["synthesize", people, "-o", tmp_path / "full"], "not empty"),
        (["synthesize", tmp_path / "none.parquet", "-o", tmp_path / "out"], "No file"),
        (["synthesize", people, "-o", tmp_path / "out", "-m", "0"], "m=0"),
        (["synthesize", people, "-o", tmp_path / "out", "-k", "0"], "k=0"),
        (["synthesize", people, "-o", tmp_path / "out", "--minbucket", "-1"], "minbucket=-1"),
        (["synthesize", people, "-o", tmp_path / "out", "--drop", "zzz"], "no column 'zzz'"),
        (["fit", people, "-o", tmp_path / "none" / "m.fsyn"], "No folder"),
        (["fit", people, "-o", people], "exists"),
        (["sample", tmp_path / "none.fsyn", "-o", tmp_path / "out"], "No file"),
        (["demo", "--out", tmp_path / "full"], "not empty"),
    ]
    for words, message in cases:
        result = call(*words)
        assert result.exit_code == 1, words
        assert message in result.output
        assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["x"]


def test_module_and_version():
    done = subprocess.run([sys.executable, "-m", "fastsynth", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["fastsynth,", "version", fs.__version__]


def test_rules_and_cells_in_a_config_file(tmp_path):
    frame = survey(1_500).select(
        "region", "sex", "age", "marital", "tenure", "dwelling", "score", "job_start", "job_end"
    )
    frame = frame.with_columns(w=pl.col("age") + 1.0)
    frame.write_parquet(tmp_path / "in.parquet")
    (tmp_path / "c.toml").write_text(
        """
        m = 2
        random_state = 1
        weights = "w"
        forbid = ["tenure = 'owner' and dwelling = 'shelter'"]
        [columns.marital]
        rules = [{ when = "age < 16", value = "single" }, { when = "age > 90" }]
        [columns.score]
        bounds = { low = 20 }
        numtocat = 10
        [columns.job_end]
        bounds = "job_start <= job_end"
        """
    )
    words = ["-o", tmp_path / "out", "--config", tmp_path / "c.toml", "--strata", "sex"]
    result = call("synthesize", tmp_path / "in.parquet", *words)
    assert result.exit_code == 0, result.output
    copy = pl.read_parquet(tmp_path / "out" / "copy_1.parquet")
    assert "w" not in copy.columns
    assert (copy.filter(pl.col("age") < 16)["marital"] == "single").all()
    assert copy.filter(pl.col("age") > 90)["marital"].is_null().all()
    assert copy["score"].min() >= 20
    assert copy.filter(pl.sql_expr("job_start > job_end or (tenure = 'owner' and dwelling = 'shelter')")).height == 0
    (tmp_path / "w.toml").write_text("m = 1\n[where]\nscore = 'age > 50'")
    result = call("synthesize", tmp_path / "in.parquet", "-o", tmp_path / "part", "--config", tmp_path / "w.toml")
    assert result.exit_code == 0, result.output
    copy = pl.read_parquet(tmp_path / "part" / "copy_1.parquet")
    others = pl.exclude("score").cast(pl.String)
    assert copy.select(others).equals(frame.select(others))
    assert copy.filter(pl.col("age") <= 50)["score"].equals(frame.filter(pl.col("age") <= 50)["score"])


def test_relations_and_given_columns(tmp_path):
    survey(4_000).write_parquet(tmp_path / "in.parquet")
    words = ["-m", 1, "--random-state", 1, "--relations", "auto"]
    assert call("fit", tmp_path / "in.parquet", "-o", tmp_path / "m.fsyn", *words).exit_code == 0
    pl.DataFrame({"region": [11, 20] * 20}).write_csv(tmp_path / "given.csv")
    result = call("sample", tmp_path / "m.fsyn", "-o", tmp_path / "out", "--given", tmp_path / "given.csv")
    assert result.exit_code == 0, result.output
    copy = pl.read_parquet(tmp_path / "out" / "copy_1.parquet")
    assert copy["region"].to_list() == [11, 20] * 20
    assert copy["region_name"].n_unique() == 2
    assert (copy["total_income"] == copy["wage"] + copy["transfers"] + copy["capital"]).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[columns.age]\nrules = 'age < 3'", "must be a list such as"),
        ("[columns.age]\nrules = [{value = 3}]", "must be a list such as"),
        ("[columns.age]\nbounds = {lowest = 3}", "a table with low or high"),
        ("[columns.age]\nbounds = 3", "must be a pair"),
        ("forbid = 'age < 3'", "forbid must be a list of SQL texts"),
        ("strata = 'sex'", "strata must be a list"),
        ("[columns.job]\nmethod = { name = 'nested' }", "unknown option"),
        ("[columns.job]\nmethod = 'nested'", "within which column"),
    ],
)
def test_bad_rules_in_a_config_file_are_refused(tmp_path, people, text, message):
    (tmp_path / "c.toml").write_text(text)
    result = call("synthesize", people, "-o", tmp_path / "out", "--config", tmp_path / "c.toml")
    assert (result.exit_code, message in result.output) == (1, True), result.output


def test_warnings_are_one_line(tmp_path, mixed):
    mixed.with_columns(id=pl.format("K{}", pl.int_range(pl.len()) + 100)).write_parquet(tmp_path / "in.parquet")
    words = [
        sys.executable,
        "-m",
        "fastsynth",
        "synthesize",
        tmp_path / "in.parquet",
        "-o",
        tmp_path / "out",
        "-m",
        "1",
    ]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True)
    assert "Warning: 'id' identify people" in done.stderr
    assert "DataWarning" not in done.stderr


@pytest.mark.filterwarnings("ignore::fastsynth.errors.ConvergenceWarning")
def test_clusters_and_joint_models_on_the_command_line(tmp_path):
    rng = np.random.default_rng(1)
    of = np.repeat(np.arange(40), 5)
    frame = pl.DataFrame({"school": of, "x": rng.normal(size=200), "y": rng.normal(size=200), "z": of % 3})
    frame.write_parquet(tmp_path / "in.parquet")
    words = ["synthesize", tmp_path / "in.parquet", "-m", 1, "--random-state", 1]
    result = call(*words, "-o", tmp_path / "a", "--cluster", "school", "--method", "cart")
    assert result.exit_code == 0, result.output
    copy = pl.read_parquet(tmp_path / "a" / "copy_1.parquet")
    assert copy.group_by("school").agg(pl.col("z").n_unique())["z"].max() == 1
    (tmp_path / "c.toml").write_text(
        """
        cluster = { column = "school", structure = ["x"] }
        blocks = [{ name = "joint", columns = ["y", "z"], burn_in = 50, thin = 10, most_sweeps = 1 }]
        """
    )
    result = call(*words, "-o", tmp_path / "b", "--config", tmp_path / "c.toml")
    assert result.exit_code == 0, result.output
    audit = json.loads((tmp_path / "b" / "audit.json").read_text())
    actions = {record["column"]: record["action"] for record in audit["columns"]}
    assert actions == {"school": "cluster", "x": "structure", "y": "joint", "z": "joint"}
    (tmp_path / "d.toml").write_text("method = { name = 'copula' }\ndrop = ['school']")
    assert call(*words, "-o", tmp_path / "d", "--config", tmp_path / "d.toml").exit_code == 0
    assert call(*words, "-o", tmp_path / "e", "--method", "copula", "--drop", "school").exit_code == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cluster = { name = 'school' }", "column and structure"),
        ("blocks = 'joint'", "must be a list"),
        ("blocks = [{ name = 'cart' }]", "must be a list"),
        ("blocks = [{ name = 'joint', columns = ['x'], thinning = 3 }]", "unknown option"),
    ],
)
def test_bad_clusters_and_blocks_in_a_config_file_are_refused(tmp_path, people, text, message):
    (tmp_path / "c.toml").write_text(text)
    result = call("synthesize", people, "-o", tmp_path / "out", "--config", tmp_path / "c.toml")
    assert result.exit_code == 1
    assert message in result.output


def test_missing_values_are_filled_in(people, tmp_path):
    """By the flag with all defaults, by the file as it says; both together are the file's."""
    config = tmp_path / "options.toml"
    config.write_text(
        "[impute]\nmaxit = 1\nsyntheses = 2\nmethod = { size = { name = 'forest', n_trees = 2 }, city = 'sample' }\n"
    )
    holed = pl.read_parquet(people)
    names = [name for name in holed.columns if holed[name].null_count()]
    config.write_text(config.read_text().replace("size", names[0]).replace("city", names[-1]))
    result = call("synthesize", people, "-o", tmp_path / "a", "-m", 2, "--impute", "--random-state", 1)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "a" / "audit.json").read_text())["imputation"]["maxit"] in (1, 10)
    options = ("--impute", "--config", config, "--random-state", 1)
    result = call("synthesize", people, "-o", tmp_path / "b", "-m", 2, *options)
    assert result.exit_code == 0, result.output
    assert "4 copies" in result.output
    audit = json.loads((tmp_path / "b" / "audit.json").read_text())
    assert (audit["imputation"]["maxit"], audit["syntheses"], audit["m"]) == (1, 2, 4)
    method = {names[0]: fs.Forest(2), names[-1]: "sample"}
    impute = fs.Impute(maxit=1, syntheses=2, method=method)
    assert fs.Synthesis.read(tmp_path / "b")[3].equals(fs.synthesize(holed, m=2, impute=impute, random_state=1)[3])


def test_completed_tables_are_called_real(people, tmp_path):
    config = tmp_path / "options.toml"
    config.write_text("[impute]\nsyntheses = 0\nmaxit = 1\nmethod = { name = 'forest', n_trees = 2 }\n")
    result = call("synthesize", people, "-o", tmp_path / "c", "-m", 2, "--config", config)
    assert result.exit_code == 0, result.output
    assert "2 completed tables (real rows)" in result.output
    config.write_text("[impute]\nmethod = { name = 'forest', trees = 2 }\n")
    result = call("synthesize", people, "-o", tmp_path / "d", "--config", config)
    assert result.exit_code == 1
    assert "must be a name (cart, forest, sample, calibrated)" in result.output
