"""Saved models: the same bytes without the data, and damage found."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import fastsynth as fs
from fastsynth import model_file
from fastsynth.errors import ModelFileError, NotFittedError, OptionError, OutputError


@pytest.mark.parametrize("proper", [False, True])
def test_sampling_from_a_file_gives_the_same_bytes(tmp_path, every_type, proper):
    columns = {"i8": fs.Column(method="keep"), "u16": fs.Column(method="sample")}
    s = fs.Synthesizer(m=2, columns=columns, proper=proper, method=fs.Cart(minbucket=4), random_state=1).fit(every_type)
    s.save(tmp_path / "a.fsyn")
    loaded = fs.Synthesizer.load(tmp_path / "a.fsyn", threads=1)
    a, b = s.sample(), loaded.sample()
    assert all(a.arrow(i).equals(b.arrow(i)) or a[i].equals(b[i]) for i in range(2))
    assert b[0].schema == every_type.schema
    assert a.audit == b.audit
    assert a.design == b.design
    assert loaded.summary().equals(s.summary())
    loaded.save(tmp_path / "b.fsyn")
    assert (tmp_path / "a.fsyn").read_bytes() == (tmp_path / "b.fsyn").read_bytes()


def test_kind_of_table_and_passive_columns_survive(tmp_path, kind):
    _, make = kind
    boys = fs.load_boys().with_columns(pl.col("bmi").round(0))
    bmi = (pl.col("wgt") / (pl.col("hgt") / 100) ** 2).round(0)
    data = make(boys)
    s = fs.Synthesizer(columns={"bmi": fs.Column(passive=bmi)}, random_state=1).fit(data)
    s.save(tmp_path / "m.fsyn")
    copy = fs.Synthesizer.load(tmp_path / "m.fsyn").sample(m=1)[0]
    assert type(copy) is type(data)


def test_binned_columns_survive(tmp_path):
    frame = pl.DataFrame({"x": pl.Series(range(100_000)) * 0.1, "y": np.arange(100_000) // 40_000})
    s = fs.Synthesizer(random_state=1).fit(frame)
    s.save(tmp_path / "m.fsyn")
    assert fs.Synthesizer.load(tmp_path / "m.fsyn").sample(m=1)[0].equals(s.sample(m=1)[0])


def test_a_loaded_synthesizer_can_be_fitted_again(tmp_path, mixed):
    s = fs.Synthesizer(columns={"sex": fs.Column(method="sample")}, random_state=1).fit(mixed)
    s.save(tmp_path / "m.fsyn")
    loaded = fs.Synthesizer.load(tmp_path / "m.fsyn")
    assert loaded.fit(mixed).sample(m=1)[0].equals(s.sample(m=1)[0])


def test_python_code_is_not_saved(tmp_path, mixed):
    with pytest.warns(pl.exceptions.PolarsInefficientMapWarning):
        twice = pl.col("age").map_elements(lambda a: a + 1, return_dtype=pl.Int64)
    s = fs.Synthesizer(columns={"income": fs.Column(passive=twice)}).fit(mixed)
    with pytest.raises(OptionError, match="'income' calls Python code"):
        s.save(tmp_path / "m.fsyn")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path, mixed):
    """Least of all the data: fit IN -o IN."""
    path = tmp_path / "people.csv"
    path.write_text("precious")
    with pytest.raises(OutputError, match="exists"):
        fs.Synthesizer().fit(mixed).save(path)
    assert path.read_text() == "precious"


def test_only_the_owner_can_read_a_model(saved):
    assert saved.stat().st_mode & 0o077 == 0


def test_unfitted_is_not_saved(tmp_path):
    with pytest.raises(NotFittedError):
        fs.Synthesizer().save(tmp_path / "m.fsyn")


@pytest.fixture
def saved(tmp_path, mixed):
    path = tmp_path / "m.fsyn"
    fs.Synthesizer(random_state=1).fit(mixed).save(path)
    return path


def rewrite(path, change):
    """Write the archive again with parts changed."""
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    change(parts)
    with zipfile.ZipFile(path, "w") as file:
        for name, part in parts.items():
            file.writestr(name, part)


def flip(name):
    def change(parts):
        parts[name] = parts[name][:-9] + bytes([parts[name][-9] ^ 1]) + parts[name][-8:]

    return change


def edit(**values):
    def change(parts):
        parts["manifest.json"] = json.dumps(json.loads(parts["manifest.json"]) | values).encode()

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (flip("fit_0000_0001_v_donors.arrow"), "checksum of fit_0000_0001_v_donors.arrow differs"),
        (flip("column_0000.arrow"), "checksum of column_0000.arrow"),
        (lambda parts: parts.pop("schema.arrow"), "not a whole fastsynth model"),
        (lambda parts: parts.pop("manifest.json"), "not a whole fastsynth model"),
        (edit(format="other"), "not a fastsynth model"),
        (edit(format_version=99), "format version 99"),
        (edit(steps=[{}]), "not a whole fastsynth model"),
    ],
)
def test_damage_is_found(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(ModelFileError, match=message):
        fs.Synthesizer.load(saved)


def test_other_files_are_refused(tmp_path, saved):
    with pytest.raises(ModelFileError, match="No file"):
        fs.Synthesizer.load(tmp_path / "nothing.fsyn")
    (tmp_path / "text").write_text("not a zip")
    with pytest.raises(ModelFileError, match="not a whole"):
        fs.Synthesizer.load(tmp_path / "text")
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(ModelFileError, match="not a whole"):
        fs.Synthesizer.load(saved)


@pytest.mark.parametrize(
    "expression",
    [
        {"AnonymousFunction": {"function": [128, 5]}},
        {"BinaryExpr": {"left": {"Column": "age"}, "op": "Plus", "right": {"AnonymousFunction": {}}}},
        {"Function": {"input": [{"Column": "age"}], "function": {"FfiPlugin": {"lib": "/tmp/x.so"}}}},
        {"Function": {"input": [], "function": "PythonUdf"}},
    ],
)
@pytest.mark.parametrize("escaped", [False, True])
def test_smuggled_code_is_not_run(saved, expression, escaped):
    def change(parts):
        manifest = json.loads(parts["manifest.json"])
        manifest["steps"][2] |= {"action": "passive", "expression": expression}
        text = json.dumps(manifest)
        for word in ("Anonymous", "Ffi", "Python"):
            text = text.replace(word, f"\\u{ord(word[0]):04x}{word[1:]}") if escaped else text
        parts["manifest.json"] = text.encode()

    rewrite(saved, change)
    with pytest.raises(ModelFileError, match="may carry code"):
        fs.Synthesizer.load(saved)


def test_words_in_data_are_no_code(tmp_path, mixed):
    rule = pl.when(pl.col("age") > 40).then(pl.lit("Python")).otherwise(pl.lit("Plugin"))
    frame = mixed.with_columns(rule.alias("Ffi"))
    s = fs.Synthesizer(columns={"Ffi": fs.Column(passive=rule)}, random_state=1).fit(frame)
    s.save(tmp_path / "m.fsyn")
    assert fs.Synthesizer.load(tmp_path / "m.fsyn").sample(m=1)[0].equals(s.sample(m=1)[0])


@pytest.mark.parametrize(
    ("field", "value"), [("left", 2**31), ("left", 0), ("feature", 77), ("count", 2**32 - 1), ("count", 0)]
)
def test_trees_that_point_outside_themselves_are_refused(saved, field, value):
    """The checksums fit, as an attacker would make them fit; the kernel must never see such nodes."""

    def change(parts):
        name = "fit_0000_0003_v_nodes.arrow"
        table = pa.ipc.open_file(pa.BufferReader(parts[name])).read_all()
        column = table[field].to_numpy().copy()
        column[-1 if field == "count" else 0] = value
        position = table.column_names.index(field)
        table = table.set_column(position, field, pa.array(column, table.schema.field(field).type))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        parts[name] = sink.getvalue().to_pybytes()
        manifest = json.loads(parts["manifest.json"])
        manifest["sha256"][name] = hashlib.sha256(parts[name]).hexdigest()
        parts["manifest.json"] = json.dumps(manifest).encode()

    rewrite(saved, change)
    with pytest.raises(ModelFileError, match="points outside itself"):
        fs.Synthesizer.load(saved)


def test_expressions_are_read_by_the_polars_that_wrote_them(tmp_path, mixed):
    path = tmp_path / "m.fsyn"
    fs.Synthesizer(columns={"income": fs.Column(passive=pl.col("age") * 2.0)}).fit(mixed).save(path)
    rewrite(path, edit(polars="0.1.0"))
    with pytest.raises(ModelFileError, match=r"polars 0\.1\.0"):
        fs.Synthesizer.load(path)


def test_a_folder_that_does_not_exist(tmp_path, mixed):
    with pytest.raises(OutputError, match="No folder"):
        fs.Synthesizer().fit(mixed).save(tmp_path / "none" / "m.fsyn")


def test_releasable_models_hold_no_value_of_one_person(tmp_path):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2_000, 2))
    y = np.where(rng.random(2_000) < 0.3, 0.0, 5 + x[:, 0] - x[:, 1] + np.exp(0.3 * x[:, 0]) * rng.normal(size=2_000))
    frame = pl.DataFrame(
        {
            "a": rng.integers(0, 9, 2_000),
            "x": x[:, 0] + 0.3 * rng.integers(0, 9, 2_000),
            "y": y,
            "day": pl.Series(np.rint(20 * x[:, 1] + 5 * x[:, 0] + 10_000).astype(int)).cast(pl.Int32).cast(pl.Date),
            "c": np.where(x[:, 0] + rng.logistic(size=2_000) > 0, "yes", "no"),
        }
    )
    s = fs.Synthesizer(random_state=1, m=1).fit(frame)
    s.save(tmp_path / "own.fsyn")
    s.save(tmp_path / "all.fsyn", releasable=True)
    other = fs.Synthesizer.load(tmp_path / "all.fsyn")
    for slot in (1, 2):
        own, released = (set(m.model_.variables[slot].numbers().tolist()) for m in (s, other))
        assert len(own & released) <= 1  # of y the zero, on which it piles up
        bits = [set(m.model_.fits[0][slot].values.donors.tolist()) for m in (s, other)]
        assert len(bits[0] & bits[1]) < 0.01 * len(bits[0])
        grid = other.model_.fits[0][slot].shift.grid
        assert frame[:, slot].min() < grid.low < grid.high < frame[:, slot].max() or slot == 2
    a, b = (model.sample(k=40_000)[0] for model in (s, other))
    assert b.schema == frame.schema
    assert (b["y"] == 0).mean() == pytest.approx((a["y"] == 0).mean(), abs=0.02)
    for one, two in (("x", "y"), ("x", "day")):
        r = [copy.select(pl.corr(one, pl.col(two).cast(float))).item() for copy in (a, b)]
        assert r[0] == pytest.approx(r[1], abs=0.03)
    for name in ("x", "y"):
        assert b[name].std() == pytest.approx(a[name].std(), rel=0.05)
        assert b[name].quantile(0.1) == pytest.approx(a[name].quantile(0.1), abs=0.1 * a[name].std())
    for options in ({"method": "cart"}, {"columns": {"c": fs.Column(method="keep")}}):
        refused = fs.Synthesizer(random_state=1, **options).fit(frame)
        with pytest.raises(OptionError, match="releasable=True: "):
            refused.save(tmp_path / "no.fsyn", releasable=True)
    assert not (tmp_path / "no.fsyn").exists()


def test_calibrated_parts_that_contradict_each_other_are_refused(tmp_path):
    """The kernels do not look: a column with shift and tilt, donors and leaves that are none, ranks beyond."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=300)
    frame = pl.DataFrame({"x": x, "c": rng.choice(list("abc"), 300), "y": x + rng.normal(size=300)})
    model = fs.Synthesizer(m=1, random_state=1).fit(frame).model_
    fit = model.fits[0]
    tilt = fit[1].tilt
    broken = {
        "both": {2: replace(fit[2], values=fit[2].values.numbered(), tilt=tilt)},
        "no means": {2: replace(fit[2], means=None)},
        "ranks": {1: replace(fit[1], tilt=replace(tilt, ranks=tilt.ranks + np.uint16(9)))},
        "counts": {1: replace(fit[1], tilt=replace(tilt, counts=0 * tilt.counts))},
        "nan": {1: replace(fit[1], tilt=replace(tilt, weights=np.nan * tilt.weights))},
        "kinds": {1: replace(fit[1], tilt_missing=tilt)},
    }
    for name, columns in broken.items():
        model_file.save(tmp_path / name, replace(model, fits=({**fit, **columns},)), {})
        with pytest.raises(ModelFileError):
            model_file.load(tmp_path / name)
