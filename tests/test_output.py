"""Copies written part by part: interrupted, resumed, refused."""

from __future__ import annotations

import itertools
import json

import boto3
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer
from polars.testing import assert_frame_equal

import fastsynth as fs
from fastsynth import draw, output, partition, run, source
from fastsynth.errors import OptionError, OutputError
from fastsynth.output import Output


@pytest.fixture
def people():
    rng = np.random.default_rng(2)
    n = 1_000
    age = rng.integers(0, 90, n)
    return pl.DataFrame(
        {"age": age, "job": rng.choice(["a", "b", "c"], n), "income": (age * rng.lognormal(5, 1, n)).round(2)}
    ).with_columns(job=pl.when(pl.col("age") > 15).then(pl.col("job")))


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of 100 rows, of two blocks each, and a manifest that is always up to date."""
    monkeypatch.setattr(draw, "BLOCK_ROWS", 50)
    monkeypatch.setattr(run, "PART_ROWS", 100)
    monkeypatch.setattr(output, "MANIFEST_SECONDS", 0)


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_out_holds_the_copies_that_memory_would(tmp_path, people, small_parts):
    inside = fs.synthesize(people, m=2, k=730, random_state=4)
    written = fs.synthesize(people, m=2, k=730, random_state=4, out=tmp_path / "out")
    assert len(files(tmp_path / "out")) == 2 * 8 + 2
    for i in range(2):
        assert_frame_equal(written[i], inside[i])
        assert written.arrow(i).schema.equals(inside.arrow(i).schema)
        assert_frame_equal(written.scan(i).collect(), inside[i])
        assert_frame_equal(pl.read_parquet(tmp_path / "out" / f"copy_{i + 1}" / "*.parquet"), inside[i])
    assert written.analyse(lambda d: (d["age"].mean(), 1.0)) == inside.analyse(lambda d: (d["age"].mean(), 1.0))
    assert written.audit == inside.audit
    inside.write_parquet(tmp_path / "again")
    again, out = files(tmp_path / "again"), files(tmp_path / "out")
    del again["manifest.json"], out["manifest.json"]  # only the second knows the model
    assert again == out


@pytest.mark.parametrize("after", [0, 1, 5, 15])
@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupted_run_goes_on(tmp_path, people, small_parts, monkeypatch, after, threads):
    options = {"m": 2, "k": 790, "random_state": 4, "threads": threads}
    fs.synthesize(people, **options, out=tmp_path / "whole")
    write, written = run.write_part, []

    def fail(folder, name, table):
        if len(written) == after:
            (tmp_path / "out" / "copy_1").mkdir(parents=True, exist_ok=True)
            (tmp_path / "out" / "copy_1" / ".unfinished-x-part_1.parquet").write_text("half")
            raise KeyboardInterrupt
        written.append(name)
        return write(folder, name, table)

    monkeypatch.setattr(run, "write_part", fail)
    with pytest.raises(KeyboardInterrupt):
        fs.synthesize(people, **options, out=tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert len(manifest["parts"]) <= len(written)
    assert not (tmp_path / "out" / "audit.json").exists()
    drawn = []
    monkeypatch.setattr(run, "write_part", lambda folder, name, table: drawn.append(name) or write(folder, name, table))
    with pytest.raises(OutputError, match=r"resume=True .--resume. goes on"):
        fs.synthesize(people, **options, out=tmp_path / "out")
    syn = fs.synthesize(people, **options, out=tmp_path / "out", resume=True)
    assert not set(drawn) & {part["name"] for part in manifest["parts"]}
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert len(syn[1]) == 790
    drawn.clear()
    fs.synthesize(people, **options, out=tmp_path / "out", resume=True)
    assert drawn == []


def test_damaged_and_lost_parts_are_drawn_again(tmp_path, people, small_parts):
    options = {"m": 1, "k": 500, "random_state": 4, "out": tmp_path / "out"}
    fs.synthesize(people, **options)
    before = files(tmp_path / "out")
    (tmp_path / "out" / "copy_1" / "part_2.parquet").write_bytes(b"PAR1")
    (tmp_path / "out" / "copy_1" / "part_4.parquet").unlink()
    fs.synthesize(people, **options, resume=True)
    assert files(tmp_path / "out") == before


def test_a_run_without_random_state_goes_on_with_its_own(tmp_path, people, small_parts):
    syn = fs.synthesize(people, m=1, out=tmp_path / "out")
    before = files(tmp_path / "out")
    (tmp_path / "out" / "copy_1" / "part_04.parquet").unlink()
    again = fs.synthesize(people, m=1, out=tmp_path / "out", resume=True)
    assert again.random_state_ == syn.random_state_
    assert files(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"m": 3}, "m, models"),
        ({"k": 400}, "k"),
        ({"random_state": 5}, "models, random_state"),
        ({"method": fs.Cart(minbucket=20)}, "models, options"),
        ({"data": "reversed"}, "models"),
        ({"columns": {"job": fs.Column(method="keep")}, "k": None}, "k, models, options"),
    ],
)
def test_another_run_does_not_go_on(tmp_path, people, small_parts, change, differs):
    options = {"m": 2, "k": 500, "random_state": 4, "proper": True, "out": tmp_path / "out"}
    fs.synthesize(people, **options)
    before = files(tmp_path / "out")
    data = people.reverse() if change.pop("data", None) else people
    with pytest.raises(OutputError, match=f"differs in {differs}:"):
        fs.synthesize(data, **(options | change), resume=True)
    assert files(tmp_path / "out") == before


def test_misuse(tmp_path, people):
    with pytest.raises(OptionError, match="resume=True needs out="):
        fs.synthesize(people, resume=True)
    with pytest.raises(OptionError, match="resume=True needs out="):
        fs.Synthesizer(m=1).fit(people).sample(resume=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    for resume in (True, False):
        with pytest.raises(OutputError, match="not empty"):
            fs.synthesize(people, out=tmp_path / "full", resume=resume)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text('{"run": 3')
    with pytest.raises(OutputError, match="cannot be read"):
        fs.synthesize(people, out=tmp_path / "broken", resume=True)
    with pytest.raises(OutputError, match="is a file"):
        fs.synthesize(people, out=tmp_path / "full" / "note.txt")
    assert files(tmp_path / "full") == {"note.txt": b"mine"}


def test_out_is_looked_at_before_anything_is_fitted(tmp_path, people, monkeypatch):
    (tmp_path / "note").write_text("")
    monkeypatch.setattr(fs.Synthesizer, "fit", lambda *_: pytest.fail("fitted"))
    with pytest.raises(OutputError):
        fs.synthesize(people, out=tmp_path)


def test_a_uri_is_a_folder_too(tmp_path, people):
    syn = fs.synthesize(people, m=2, random_state=1, out="memory://synthetic/here")
    assert_frame_equal(syn[1], fs.synthesize(people, m=2, random_state=1)[1])
    with pytest.raises(OutputError, match="not empty"):
        fs.synthesize(people, m=2, random_state=1, out="memory://synthetic/here")


@pytest.fixture
def bucket(monkeypatch):
    """An object store on this machine that speaks S3's protocol."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    store = boto3.client("s3")
    store.create_bucket(Bucket="office")
    yield store
    server.stop()


def test_object_stores(tmp_path, people, small_parts, bucket, monkeypatch):
    people.write_parquet(tmp_path / "people.parquet")
    bucket.upload_file(str(tmp_path / "people.parquet"), "office", "people/year=1/a.parquet")
    options = {"m": 2, "random_state": 1, "memory_limit": 10_000}
    local = fs.synthesize(people.with_columns(year=pl.lit(1, pl.Int32)), m=2, random_state=1)
    write, written = run.write_part, []

    def fail(folder, name, table):
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(name)
        return write(folder, name, table)

    monkeypatch.setattr(run, "write_part", fail)
    with pytest.raises(KeyboardInterrupt):
        fs.synthesize("s3://office/people", **options, threads=1, out="s3://office/synthetic")
    monkeypatch.setattr(run, "write_part", lambda *given: written.append(given[1]) or write(*given))
    with pytest.raises(OutputError, match=r"resume=True .--resume. goes on"):
        fs.synthesize("s3://office/people", **options, out="s3://office/synthetic")
    syn = fs.synthesize("s3://office/people", **options, out="s3://office/synthetic", resume=True)
    assert len(written) == len(set(written)) == 20
    names = {item["Key"] for item in bucket.list_objects_v2(Bucket="office", Prefix="synthetic/")["Contents"]}
    assert {name for name in names if "unfinished" in name} == set()
    for i in range(2):
        assert_frame_equal(syn[i], local[i])


def test_sample_writes_too(tmp_path, people):
    s = fs.Synthesizer(m=2, random_state=1).fit(people)
    s.save(tmp_path / "model")
    loaded = fs.Synthesizer.load(tmp_path / "model")
    a = loaded.sample(k=50, out=tmp_path / "a")
    assert_frame_equal(a[0], s.sample(k=50)[0])
    loaded.sample(k=50, out=tmp_path / "a", resume=True)


def test_what_an_interrupted_run_left_counts_as_empty(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"{output.TEMPORARY}1234-manifest.json").write_text("{")
    Output(tmp_path / "out")


@pytest.mark.parametrize("fit", ["whole", "partition"])
def test_resume_refuses_what_is_not_the_same_run(tmp_path, people, small_parts, monkeypatch, fit):
    """Other names of levels, literals of expressions, types of time and cuts of the rows are told apart."""
    monkeypatch.setattr(partition, "LEAST_PARTITION", 100)
    people = people.with_columns(
        job=pl.col("job").cast(pl.Categorical), day=pl.datetime(2020, 1, 1) + pl.duration(days="age"), old=pl.lit(0)
    )
    path = tmp_path / "a.parquet"

    def synthesise(frame, sizes=(500, 500), high=60, **options):
        table, start = frame.to_arrow(), 0
        with pq.ParquetWriter(path, table.schema) as writer:
            for size in sizes:
                writer.write_table(table.slice(start, size), row_group_size=size)
                start += size
        columns = {"old": fs.Column(passive=pl.col("age").replace_strict([0, 89], [0, high], default=1))}
        options = {"m": 2, "random_state": 4, "fit": fit, "columns": columns, "out": tmp_path / "out"} | options
        monkeypatch.setattr(source, "PIECE_ROWS", 200)
        return fs.synthesize(path, memory_limit=20_000_000 if fit == "whole" else None, **options)

    calls = itertools.count()

    def write(*arguments):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return output.write_part(*arguments)

    monkeypatch.setattr(run, "write_part", write)
    with pytest.raises(KeyboardInterrupt):
        synthesise(people, threads=1)
    names = people["job"].cast(pl.String).replace({"a": "x"}).cast(pl.Categorical)
    others = [
        {"frame": people.with_columns(job=names)},
        {"frame": people.with_columns(day=pl.col("day").dt.replace_time_zone("UTC"))},
        {"frame": people, "high": 61},
        {"frame": people, "proper": True},
    ]
    if fit == "partition":
        others.append({"frame": people, "sizes": (400, 600)})
    for other in others:
        with pytest.raises(OutputError, match="differs in"):
            synthesise(**other, resume=True)
    assert synthesise(people, resume=True).k == 1_000
