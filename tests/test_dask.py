"""A cluster gives the bytes that threads give, also when workers are lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from distributed import Client, LocalCluster
from polars.testing import assert_frame_equal

import fastsynth as fs
from fastsynth import dask, draw, output, partition, run
from fastsynth.dask import Cluster, DaskSource
from fastsynth.errors import ClusterError, DataError, OptionError

# The cluster's own libraries leave sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def client():
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": "127.0.0.1:0", "host": "127.0.0.1"}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """Several files; one has no rows, one has three, one has levels that others lack."""
    folder = tmp_path_factory.mktemp("people")
    rng = np.random.default_rng(3)
    for i, n in enumerate((700, 0, 3, 900)):
        age = rng.integers(0, 90, n)
        frame = pl.DataFrame(
            {
                "age": age,
                "job": pl.Series(rng.choice(["a", "b", "c"] if i < 3 else ["c", "d"], n), dtype=pl.String),
                "income": (age * rng.lognormal(5, 1, n)).round(2),
            }
        )
        frame = frame.with_columns(income=pl.when(pl.col("age") > 15).then(pl.col("income")))
        frame.write_parquet(folder / f"{i}.parquet", row_group_size=400)
    return folder


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("options", [{}, {"proper": True}, {"fit_rows": 300}], ids=str)
@pytest.mark.parametrize("limit", [None, 20_000])
def test_the_same_bytes_from_files(tmp_path, client, people, options, limit, monkeypatch):
    monkeypatch.setattr(run, "PART_ROWS", draw.BLOCK_ROWS)
    options = options | {"m": 2, "k": 100_000, "random_state": 1, "memory_limit": limit}
    fs.synthesize(people, **options, out=tmp_path / "threads")
    fs.synthesize(people, **options, out=tmp_path / "cluster", client=client)
    assert files(tmp_path / "cluster") == files(tmp_path / "threads")


SPECIAL = {
    "rules": {
        "columns": {
            "id": fs.Column(method="identifier"),
            "income": fs.Column(
                cont_na=[0.0], bounds=(1, 10**6), rules=[fs.Rule(pl.col("age") < 16, None), fs.Rule("age > 88", 0.0)]
            ),
            "end": fs.Column(bounds='start <= "end"'),
        },
        "forbid": ["job = 'a' and age > 80"],
        "k": 3_000,
    },
    "strata": {"strata": ["job"], "columns": {"id": fs.Column(method="sample")}},
    "weights": {"weights": "w", "columns": {"id": fs.Column(method="sample")}},
    "where": {"where": {"income": "age > 30", "end": "age < 50"}, "columns": {"id": fs.Column(method="keep")}},
}


@pytest.mark.filterwarnings("ignore:where. 'income' is replaced")
@pytest.mark.parametrize("name", SPECIAL)
@pytest.mark.parametrize("limit", [None, 20_000])
def test_rules_and_cells_on_a_cluster(tmp_path, client, people, name, limit):
    """What stands in rules, limits, cells and weights is the same from pieces, from memory, and on workers."""
    whole = pl.read_parquet(people / "*.parquet").with_row_index("id", 1_000)
    start = pl.col("age") % 7
    whole = whole.with_columns(
        id=pl.format("P{}", "id"), start=start, end=start + pl.col("id") % 3, w=pl.col("age") + 1.0
    )
    whole = whole.with_columns(income=pl.when(pl.col("age") > 88).then(0.0).otherwise("income"))
    (tmp_path / "in").mkdir()
    for i in range(3):
        whole.slice(i * 600, 600).write_parquet(tmp_path / "in" / f"{i}.parquet", row_group_size=200)
    options = SPECIAL[name] | {"m": 2, "random_state": 1, "memory_limit": limit}
    fs.synthesize(tmp_path / "in", **options, out=tmp_path / "threads")
    syn = fs.synthesize(tmp_path / "in", **options, out=tmp_path / "cluster", client=client)
    assert files(tmp_path / "cluster") == files(tmp_path / "threads")
    inside = fs.synthesize(whole, **options | {"memory_limit": None})
    assert all(a.equals(b) for a, b in zip(inside, syn, strict=True))
    if name == "rules":
        for copy in syn:
            assert copy.filter(pl.sql_expr("job = 'a' and age > 80 or start > \"end\"")).height == 0
            assert copy["id"].n_unique() == 3_000


@pytest.mark.parametrize("syntheses", [0, 1, 2])
def test_chains_of_imputation_on_a_cluster(tmp_path, client, people, syntheses, monkeypatch):
    """Skips stay by a rule, all else is filled in; from pieces, from memory and on workers alike."""
    # What two chains have filled in so far goes to the workers by itself.
    monkeypatch.setattr(dask, "LARGE_JOB", 1_000 if syntheses else 10**9)
    whole = pl.read_parquet(people / "*.parquet")
    lost = pl.int_range(pl.len()) % 5
    whole = whole.with_columns(
        job=pl.when(lost != 1).then("job"), income=pl.when(lost != 2).then("income"), at=pl.when(lost > 2).then(lost)
    )
    (tmp_path / "in").mkdir()
    for i in range(3):
        whole.slice(i * 600, 600).write_parquet(tmp_path / "in" / f"{i}.parquet", row_group_size=200)
    options = {
        "impute": fs.Impute(maxit=2, syntheses=syntheses, method={"job": fs.Forest(2)}, where={"at": lost == 1}),
        "columns": {"income": fs.Column(rules=[fs.Rule("age < 16", None)])},
        "m": 2,
        "random_state": 1,
    }
    fs.synthesize(tmp_path / "in", **options, memory_limit=20_000, out=tmp_path / "threads")
    syn = fs.synthesize(tmp_path / "in", **options, memory_limit=20_000, out=tmp_path / "cluster", client=client)
    assert files(tmp_path / "cluster") == files(tmp_path / "threads")
    inside = fs.synthesize(whole, **options)
    assert all(a.equals(b) for a, b in zip(inside, syn, strict=True))
    for copy in syn:
        assert copy["job"].null_count() == 0
        assert copy["income"].is_null().equals(copy["age"] < 16)
        assert 0 < copy["at"].null_count() < copy.height
    if not syntheses:
        known = whole["at"].is_not_null()
        assert syn[0]["at"].filter(known).equals(whole["at"].filter(known))


def test_partitions_keep_rules_and_fresh_identifiers(tmp_path, client, people, monkeypatch):
    monkeypatch.setattr(partition, "LEAST_PARTITION", 500)
    whole = pl.read_parquet(people / "*.parquet").with_row_index("id", 1_000).with_columns(id=pl.format("P{}", "id"))
    for i in range(3):
        whole.slice(i * 600, 600).write_parquet(tmp_path / f"{i}.parquet")
    paths = [tmp_path / f"{i}.parquet" for i in range(3)]
    columns = {"id": fs.Column(method="identifier"), "income": fs.Column(rules=[fs.Rule(pl.col("age") < 16, None)])}
    options = {"m": 2, "random_state": 1, "fit": "partition", "columns": columns, "forbid": ["job = 'd' and age > 60"]}
    fs.synthesize(paths, **options, out=tmp_path / "threads")
    syn = fs.synthesize(paths, **options, out=tmp_path / "cluster", client=client)
    assert files(tmp_path / "cluster") == files(tmp_path / "threads")
    assert syn._partitions == 2
    for copy in syn:
        assert copy["id"].n_unique() == copy.height
        assert copy.filter((pl.col("job") == "d") & (pl.col("age") > 60)).height == 0
        assert copy.filter(pl.col("age") < 16)["income"].null_count() == copy.filter(pl.col("age") < 16).height


def test_partitions_of_a_cluster(tmp_path, client, people):
    """Each partition is fitted where it is; threads give the same bytes."""
    data = dd.from_pandas(pl.read_parquet(people / "*.parquet").to_pandas(), npartitions=3, sort=False)
    for name, table in {"frame": data, "files": people}.items():
        options = {"m": 2, "random_state": 1, "fit": "partition"}
        syn = fs.synthesize(table, **options, out=tmp_path / name, client=client)
        assert [len(syn.arrow(i)) for i in range(2)] == [1603, 1603]
    fs.synthesize(people, **options, out=tmp_path / "threads")
    assert files(tmp_path / "files") == files(tmp_path / "threads")


def test_a_table_in_memory_and_copies_in_memory(client, mixed):
    syn = fs.synthesize(mixed, m=2, random_state=1, client=client)
    expected = fs.synthesize(mixed, m=2, random_state=1)
    for i in range(2):
        assert syn.arrow(i).equals(expected.arrow(i))


@pytest.mark.parametrize("npartitions", [1, 4])
def test_dask_data_frames(client, npartitions):
    rng = np.random.default_rng(1)
    n = 2_000
    frame = pd.DataFrame(
        {
            "age": rng.integers(0, 90, n),
            "job": pd.Categorical(rng.choice(["a", "b", "c"], n)),
            "born": pd.Timestamp("1950-01-01") + pd.to_timedelta(rng.integers(0, 9999, n), "D"),
            "income": np.where(rng.random(n) < 0.1, np.nan, rng.normal(size=n)),
        }
    )
    frame["note"] = np.where(np.arange(n) < 600, None, "x")  # a partition of nulls has no type
    data = dd.from_pandas(frame, npartitions=npartitions, sort=False)
    syn = fs.synthesize(data, m=1, random_state=1, client=client)
    expected = fs.synthesize(frame, m=1, random_state=1)
    # Dask holds text as another type of pandas.
    assert isinstance(syn[0], pd.DataFrame)
    found, wanted = pl.DataFrame(syn.arrow(0)), pl.DataFrame(expected.arrow(0))
    assert_frame_equal(found, wanted, check_dtypes=False, categorical_as_str=True)


def test_partitions_of_other_types_are_refused(client):
    data = dd.from_map(lambda i: pd.DataFrame({"a": [1, 2], "b": [[3, 4], ["secret", "x"]][i]}), [0, 1])
    with pytest.raises(DataError, match="Partition 1 has other types") as error:
        fs.synthesize(data, m=1, client=client)
    assert "secret" not in str(error.value)


def test_errors_of_tasks_come_back(client, people):
    with pytest.raises(OptionError, match="m=0"):
        fs.synthesize(people, m=0, client=client)

    def fail(_, i):
        raise DataError(f"job {i}")

    with pytest.raises(DataError, match="job"):
        Cluster(client).map(fail, None, [(i,) for i in range(9)], lambda i, result: result)
    assert Cluster(client).map(pow, 2, [(i,) for i in range(99)], lambda i, x: -x) == [-(2**i) for i in range(99)]
    assert Cluster(client).map(pow, 2, [], lambda i, x: x) == []


def test_misuse():
    with pytest.raises(ClusterError, match="client must be a"):
        fs.synthesize(fs.load_boys(), client="127.0.0.1:8786")


@pytest.fixture
def processes():
    """A scheduler and two workers as processes of their own; the workers, oldest first, and their client."""
    started = []

    def dask(*words):
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    scheduler = dask("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
    address = next(line for line in scheduler.stderr if "Scheduler at" in line).split()[-1]

    def worker(*more):
        return dask("worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny", "--host", "127.0.0.1", *more)

    workers = [worker(), worker()]
    with Client(address) as client:
        client.wait_for_workers(2, timeout=60)
        yield client, workers, worker
    for process in reversed(started):
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize("lost", [1, 2])
def test_workers_that_are_killed(tmp_path, people, processes, monkeypatch, lost):
    """One worker killed, or both and a new one started, while parts are drawn: the same bytes."""
    client, workers, worker = processes
    monkeypatch.setattr(run, "PART_ROWS", draw.BLOCK_ROWS)
    options = {"m": 3, "k": 400_000, "random_state": 1}
    fs.synthesize(people, **options, out=tmp_path / "threads")
    add, parts = output.Output.add, []

    def kill_after_three(self, part):
        parts.append(part)
        if len(parts) == 3:
            for process in workers[:lost]:
                os.kill(process.pid, signal.SIGKILL)
            if lost == 2:
                worker()
        return add(self, part)

    monkeypatch.setattr(output.Output, "add", kill_after_three)
    fs.synthesize(people, **options, out=tmp_path / "cluster", client=client)
    assert files(tmp_path / "cluster") == files(tmp_path / "threads")


def test_a_task_that_kills_workers_stops_with_an_error(processes):
    client, _, worker = processes
    for _ in range(3):
        worker()
    client.wait_for_workers(5, timeout=60)

    def die(_, i):
        os._exit(1)

    with pytest.raises(ClusterError, match=r"died while they ran die|All workers were lost|no workers"):
        Cluster(client).map(die, None, [(0,)], lambda i, result: result)


def test_sources_travel_without_their_partitions(client):
    data = dd.from_pandas(pd.DataFrame({"a": range(10), "b": range(10)}), npartitions=3)
    source = DaskSource(data, client)
    assert source.starts[-1] == 10
    state = source.__getstate__()
    assert set(state) == {"frame", "starts"}
    assert sum(len(batch) for i in range(3) for batch in source.batches(i)) == 10
    assert isinstance(next(iter(source.batches(0))), pa.Table)


def test_copies_are_analysed_on_workers(tmp_path, client, people):
    syn = fs.synthesize(people, m=2, random_state=1, out=tmp_path / "out")
    for function in (fs.mean("age"), lambda d: (d["age"].mean(), d["age"].var() / d.height)):
        here, there = syn.analyse(function), syn.analyse(function, client=client)
        assert fs.pool(here).table.equals(fs.pool(there).table)


@pytest.mark.filterwarnings("ignore::fastsynth.errors.ConvergenceWarning")
@pytest.mark.parametrize("how", ["cluster", "household", "joint", "copula"])
def test_clusters_and_joint_models_give_the_same_bytes(tmp_path, client, how):
    rng = np.random.default_rng(1)
    of = np.repeat(np.arange(150), 6)
    x = rng.normal(size=900)
    frame = pl.DataFrame({"c": of, "z": of % 4, "role": np.tile(["a", "b", "b"], 300), "x": x, "y": x + of % 7})
    frame.write_parquet(tmp_path / "in.parquet", row_group_size=200)
    short = fs.LatentNormal("x", "y", "z", burn_in=20, thin=5, most_sweeps=1)
    options = {
        "cluster": {"cluster": "c"},
        "household": {"cluster": fs.Cluster("c", structure=["role"])},
        "joint": {"cluster": "c", "blocks": [short]},
        "copula": {"method": fs.Copula(), "proper": True},
    }[how]
    options = options | {"m": 2, "random_state": 1, "memory_limit": 20_000}
    fs.synthesize(tmp_path / "in.parquet", **options, out=tmp_path / "threads")
    fs.synthesize(tmp_path / "in.parquet", **options, out=tmp_path / "cluster", client=client)
    assert files(tmp_path / "cluster") == files(tmp_path / "threads")
