"""Save and load a fitted model: one zip file of a JSON manifest and Arrow tables, each with its checksum. No pickle.

::

    manifest.json           format, versions, plan, checksums
    schema.arrow            empty table with the caller's schema
    slopes.arrow            moments of pairs of numeric columns
    exact.arrow             hashes of the rows that occur once, if copies of them are redrawn
    column_0000.arrow       values of the column by rank; kept ranks, if the column is kept
    fit_0000_0003_v.arrow   tree of copy 0, column 3: values (v), missing (m) or means of a calibrated column (a)
    clusters_sizes.arrow    arrays of clusters, of joint models (block_00_...) and of effects of clusters (effects_...)

Arrow tables can be read anywhere; nothing in the file is code. It holds real values.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from fastsynth import _calibrate, _tree
from fastsynth.block_fits import BLOCK_MODELS
from fastsynth.blocks import BLOCKS, Block, LatentNormal
from fastsynth.blur import ARRAYS as BLUR_ARRAYS
from fastsynth.blur import Blur
from fastsynth.calibrate import find_tails
from fastsynth.calibration import Combination, Grid, Linear, Shift, Tilt
from fastsynth.clusters import Clusters
from fastsynth.columns import Ranks, Variable, storage_of
from fastsynth.effects import Effects
from fastsynth.errors import ModelFileError, OptionError, OutputError
from fastsynth.exact import POLICIES, Exact
from fastsynth.identifiers import Pattern
from fastsynth.methods import METHODS, ColumnModel, Pools, Tree
from fastsynth.model import Filled, Model, Strata, with_states
from fastsynth.options import Guard
from fastsynth.plan import Fixed, Limit, Plan, Step
from fastsynth.private import FORMAT as PRIVATE_FORMAT
from fastsynth.private import PrivateModel
from fastsynth.slopes import Slopes
from fastsynth.source import Frame
from fastsynth.version import __version__

FORMAT = "fastsynth model"
FORMAT_VERSION = 8
VARIABLE = ("name", "kind", "first", "has_nan", "has_missing", "n_used", "calendar")
NODE_FIELDS = ("feature", "threshold", "left")
# Values and residuals of releasable models are means of so many.
NEIGHBOURS = 5
# Arrays of calibrated models.
COMBINATION = ("slots", "offset", "tables", "numbers", "pairs", "weights")
LINEAR = ("slots", "offset", "index", "value")
SLOPES = ("rows", "mean", "square", "product")
POOLS = ("lowest", "offset", "donors")
EXACT = ("policy", "expected", "slot", "found")
TILT = ("weights", "counts", "centre", "ranks")
# Parts of polars' names for expression nodes that call Python functions or native plugins.
CODE_WORDS = ("Anonymous", "Python", "Ffi", "Plugin")
# A fixed date: the same model gives the same bytes.
ZIP_DATE = (1980, 1, 1, 0, 0, 0)


def save(path: Path, model: Model, state: dict[str, Any]) -> None:
    """Write a model to a new file. ``state`` holds what the front end wants back; it must be ready for JSON."""
    check_new_file(path)
    parts: dict[str, bytes] = {"schema.arrow": _ipc(model.frame.schema.empty_table())}
    parts["slopes.arrow"] = _ipc(pa.table({name: getattr(model.slopes, name).ravel() for name in SLOPES}))
    variables = []
    for slot, v in enumerate(model.variables):
        parts[f"column_{slot:04}.arrow"] = _ipc(pa.table({"values": v.values}))
        if v.bins is not None:
            parts[f"bins_{slot:04}.arrow"] = _ipc(pa.table({"bins": v.bins}))
        if slot in model.kept:
            parts[f"kept_{slot:04}.arrow"] = _ipc(pa.table({"ranks": model.kept[slot]}))
        if slot in model.where:
            parts[f"where_{slot:04}.arrow"] = _ipc(pa.table({"where": model.where[slot]}))
        variables.append({name: getattr(v, name) for name in VARIABLE})
    if model.strata is not None:
        strata = {str(slot): model.strata.ranks[:, i] for i, slot in enumerate(model.strata.slots)}
        parts["strata.arrow"] = _ipc(pa.table(strata | {"rows": model.strata.rows}))
    exact = model.exact
    if exact is not None:
        parts["exact.arrow"] = _ipc(pa.table({"hashes": exact.hashes}))
    states: dict[str, Any] = {}
    for name, of in with_states(model):
        record, arrays = of.state()
        states[name] = {"record": record, "shapes": {key: array.shape for key, array in arrays.items()}}
        parts |= {f"{name}_{key}.arrow": _ipc(pa.table({"x": array.ravel()})) for key, array in arrays.items()}
    notes: dict[str, Any] = {}
    for copy, fit in enumerate(model.fits):
        for slot, column in sorted(fit.items()):
            for letter, tree in (("m", column.missing), ("v", column.values), ("a", column.means)):
                if tree is not None:
                    parts.update(_tree_parts(f"fit_{copy:04}_{slot:04}_{letter}", tree))
            parts.update(_calibration_parts(f"fit_{copy:04}_{slot:04}", column))
            if column.note or column.present is not None or column.blur is not None:
                notes[f"fit_{copy:04}_{slot:04}"] = _calibration_record(column)
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "fastsynth": __version__,
        "polars": pl.__version__,
        "state": state,
        "n_rows": model.n_rows,
        "fit_rows": model.fit_rows,
        "backend": model.frame.backend,
        "lazy": model.frame.lazy,
        "proper": model.plan.proper,
        "n_fits": len(model.fits),
        "strata": model.plan.strata,
        "cluster": model.plan.cluster,
        "blocks": [_block_record(block) for block in model.plan.blocks],
        "imputed": model.imputed,
        "syntheses": model.syntheses,
        "states": states,
        "effective": model.effective,
        "exact": exact and {name: getattr(exact, name) for name in EXACT},
        "slopes": model.slopes.names,
        "calibration": notes,
        "variables": variables,
        "steps": [_step_record(step, model.plan.blocks) for step in model.plan.steps],
        "sha256": {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()},
    }
    parts["manifest.json"] = json.dumps(manifest, indent=1).encode()
    temporary = path.with_name(path.name + ".part")
    try:
        # Real values: only the owner may read them.
        opener = partial(os.open, mode=0o600)
        with open(temporary, "wb", opener=opener) as raw, zipfile.ZipFile(raw, "w") as file:
            for name, part in parts.items():
                file.writestr(zipfile.ZipInfo(name, ZIP_DATE), part)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"Cannot write {str(path)!r} ({error.strerror or type(error).__name__}).") from None


def releasable(model: Model) -> Model:
    """A model that holds nothing of single people that copies would not show.

    What calibrated numbers leave over is that of many people: the quantiles of all leaves together, each a mean of five
    neighbours, times the spread of the leaf. Their observed values, which only sort synthetic ones into bins, become
    means of five neighbours, too, the lowest and the highest included. Class shares and means are of leaves as large as
    ``minbucket``. Values of other columns are what copies show anyway.

    Raises
    ------
    OptionError
        Kept columns, or columns that are drawn from donors: their leaves list values of people.
    """
    if model.exact is not None:
        raise OptionError(
            f"releasable=True: copies={model.exact.policy!r} knows every real row again. Fit with copies='keep'."
        )
    if model.clusters is not None or model.blocks:
        what = "effects and sizes of real clusters" if model.clusters is not None else "values or quantiles of the data"
        raise OptionError(f"releasable=True: the model holds {what}. Release copies instead.")
    listed = [model.variables[slot].name for slot in model.kept]
    spikes: dict[int, set[int]] = {}
    for step in model.plan.steps:
        for column in (fit[step.slot] for fit in model.fits if step.slot in fit):
            trees = (column.missing, column.tilt_missing), (column.values, column.tilt or column.shift)
            if step.predictors and any(tree is not None and calibration is None for tree, calibration in trees):
                listed.append(step.name)
            if column.shift is not None:
                kinds = () if column.tilt_missing is None else column.tilt_missing.ranks.tolist()
                spikes.setdefault(step.slot, set()).update(kinds)
            elif column.blur is not None:
                # What is not moved is shown by copies.
                spikes.setdefault(step.slot, set()).update(column.blur.ranks[~column.blur.moves].tolist())
        of_slot = [fit[step.slot] for fit in model.fits if step.slot in fit]
        if step.slot in spikes and any(column.blur is not None for column in of_slot):
            for column in of_slot:
                if column.blur is None and column.shift is None and column.values is not None:
                    spikes[step.slot].update(column.values.donors.tolist())
    if listed:
        names = ", ".join(map(repr, dict.fromkeys(listed)))
        raise OptionError(
            f"releasable=True: {names} would be saved with values of people (see summary()). Leave them out, or "
            "give them Column(method='sample')."
        )
    variables = list(model.variables)
    for slot, kept in spikes.items():
        variables[slot] = replace(variables[slot], values=_means_of_neighbours(variables[slot], kept))
    for slot, part in enumerate(variables):
        if part.calendar is not None and part.calendar[0] in spikes:
            # Else weekday and month would tell which date was smoothed.
            dates = variables[part.calendar[0]]
            codes = part.nearest_codes(dates.decode(np.arange(len(dates.values)).astype(dates.rank_dtype)))
            codes[(np.arange(len(codes)) < dates.first) | (codes >= part.n_codes)] = 0
            variables[slot] = replace(part, bins=codes)
    fits = tuple(
        {slot: _with_common_residuals(column, variables[slot]) for slot, column in fit.items()} for fit in model.fits
    )
    return replace(model, variables=tuple(variables), fits=fits)


def _means_of_neighbours(variable: Variable, kept: set[int]) -> pa.Array:
    """The values of a column, but for kept ranks each the mean of those of five neighbouring ranks."""
    numbers = variable.numbers()
    free = np.array([rank for rank in range(variable.first, len(numbers)) if rank not in kept])
    numbers[free] = _smooth(numbers[free])
    kept_or_missing = np.setdiff1d(np.arange(len(numbers)), free)
    numbers[kept_or_missing] = np.nan
    ranks: Ranks = np.arange(len(numbers)).astype(variable.rank_dtype)
    return storage_of(variable.compose(ranks, numbers))


def _smooth(x: Any) -> Any:
    """Ascending numbers, of which each five that follow each other become their mean (the last ones up to nine).

    Means of overlapping fives would be so many equations for so many values, and could be solved.
    """
    starts = np.arange(0, max(len(x) - NEIGHBOURS + 1, 1), NEIGHBOURS)
    sizes = np.diff(np.append(starts, len(x)))
    return np.repeat(np.add.reduceat(x, starts) / sizes, sizes) if len(x) else x


def _with_common_residuals(column: ColumnModel, variable: Variable) -> ColumnModel:
    shift, tree = column.shift, column.values
    if column.blur is not None:
        column = replace(column, blur=column.blur.without_values(variable.numbers()))
    if shift is None or tree is None:
        return column
    is_leaf = tree.nodes["feature"] == _tree.LEAF
    starts, sizes = tree.nodes["left"][is_leaf].astype(np.int64), tree.count[is_leaf].astype(np.int64)
    by_place = np.argsort(starts)
    starts, sizes = starts[by_place], sizes[by_place]
    r = tree.donors.view(np.float32).astype(float)
    sd = np.repeat(np.sqrt(np.add.reduceat(r * r, starts) / sizes), sizes)
    common = _smooth(np.sort(np.divide(r, sd, out=np.zeros_like(r), where=sd > 0)))
    place = (np.arange(len(r)) - np.repeat(starts, sizes) + 0.5) / np.repeat(sizes, sizes) * len(r)
    z = common[place.astype(np.int64)]
    z -= np.repeat(np.add.reduceat(z, starts) / sizes, sizes)
    size = np.repeat(np.sqrt(np.add.reduceat(z * z, starts) / sizes), sizes)
    new = np.divide(z, size, out=np.zeros_like(z), where=size > 0) * sd
    numbers = variable.numbers()[variable.first :]
    grid = replace(shift.grid, low=float(np.nanmin(numbers)), high=float(np.nanmax(numbers)))
    donors = new.astype(np.float32).view(np.uint32)
    present = numbers[~np.isnan(numbers)]
    shift = replace(shift, grid=grid, tails=find_tails(present, np.ones(len(present), np.int64)))
    return replace(column, values=replace(tree, donors=donors), shift=shift)


def check_new_file(path: Path) -> None:
    """Refuse a model file that exists, so that nothing is ever overwritten, and one in a folder that does not."""
    if path.exists():
        raise OutputError(f"{str(path)!r} exists. Name a new file for the model, or remove this one.")
    if not path.absolute().parent.is_dir():
        raise OutputError(f"No folder {str(path.absolute().parent)!r} for the model file.")


def save_private(path: Path, model: PrivateModel, state: dict[str, Any]) -> None:
    """Write a private model to a new file, as JSON that can be read by eye: it may be released."""
    check_new_file(path)
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_text(json.dumps(model.to_state() | {"fastsynth": __version__, "state": state}, indent=1))
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"Cannot write {str(path)!r} ({error.strerror or type(error).__name__}).") from None


def load_private(path: Path) -> tuple[PrivateModel, dict[str, Any]] | None:
    """Read a private model and the front end's state; None if the file is none."""
    try:
        with open(path, "rb") as file:
            content = file.read() if file.read(1) == b"{" else None
        if content is None:
            return None
        written = json.loads(b"{" + content)
        return PrivateModel.from_state(written), {"m": int(written["state"]["m"])}
    except OSError:
        return None
    except (ValueError, KeyError, TypeError):
        raise ModelFileError(f"{str(path)!r} is not a whole {PRIVATE_FORMAT}. Fetch it again.") from None


def load(path: Path) -> tuple[Model, dict[str, Any]]:
    """Read a model and the front end's state; every part is checked against its checksum first."""
    try:
        with zipfile.ZipFile(path) as file:
            parts = {name: file.read(name) for name in file.namelist()}
        manifest = json.loads(parts["manifest.json"])
        if manifest["format"] != FORMAT:
            raise ModelFileError(f"{str(path)!r} is not a fastsynth model.")
        if manifest["format_version"] != FORMAT_VERSION:
            raise ModelFileError(
                f"{str(path)!r} has format version {manifest['format_version']}, this fastsynth reads "
                f"{FORMAT_VERSION}. Fit "
                "the model again, or use the fastsynth that wrote it "
                f"({manifest['fastsynth']})."
            )
        for name, checksum in manifest["sha256"].items():
            if hashlib.sha256(parts[name]).hexdigest() != checksum:
                raise ModelFileError(f"{str(path)!r} is damaged: checksum of {name} differs. Fetch or fit it again.")
        if manifest["polars"] != pl.__version__ and any(map(_has_expression, manifest["steps"])):
            raise ModelFileError(
                f"{str(path)!r} holds expressions of polars {manifest['polars']}; installed is {pl.__version__}, which "
                "may read them otherwise. Install that version, or fit the model again."
            )
        return _read(manifest, parts), manifest["state"]
    except FileNotFoundError:
        raise ModelFileError(f"No file {str(path)!r}.") from None
    except ModelFileError:
        raise
    except Exception as error:
        # Whatever else is wrong with the bytes; the parser's message could quote them.
        raise ModelFileError(f"{str(path)!r} is not a whole fastsynth model ({type(error).__name__}).") from None


def _has_expression(step: dict[str, Any]) -> bool:
    return step["expression"] is not None or bool(step["rules"]) or bool(step["limits"])


def _read(manifest: dict[str, Any], parts: dict[str, bytes]) -> Model:
    schema = _table(parts["schema.arrow"]).schema
    variables = []
    kept, where = {}, {}
    for slot, record in enumerate(manifest["variables"]):
        ranks, replaced = _array(parts, f"kept_{slot:04}.arrow"), _array(parts, f"where_{slot:04}.arrow")
        if ranks is not None:
            kept[slot] = ranks
        if not record["first"] > 0:
            raise _unfit(record["name"])
        if replaced is not None:
            where[slot] = replaced
        values = _table(parts[f"column_{slot:04}.arrow"]).column(0).combine_chunks()
        bins = _array(parts, f"bins_{slot:04}.arrow")
        dtype = schema.field(slot).type if slot < len(schema) else values.type
        record["calendar"] = record["calendar"] and tuple(record["calendar"])
        variables.append(Variable(**{name: record[name] for name in VARIABLE}, values=values, dtype=dtype, bins=bins))
    of_plan = tuple(map(_read_block, manifest["blocks"]))
    steps = tuple(_read_step(record, len(variables), of_plan) for record in manifest["steps"])
    fits = tuple(
        {
            step.slot: _read_column(parts, manifest, f"fit_{copy:04}_{step.slot:04}", step.slot, variables)
            for step in steps
            if step.action == "draw"
        }
        for copy in range(manifest["n_fits"])
    )
    n_rows = manifest["n_rows"]
    if any(len(array) != n_rows for array in (*kept.values(), *where.values())):
        raise ModelFileError("Columns that are kept have other numbers of rows. The file is damaged; fit it again.")
    if any(ranks.max(initial=0) >= len(variables[slot].values) for slot, ranks in kept.items()):
        raise ModelFileError("Columns that are kept hold unknown values. The file is damaged; fit it again.")
    for step in steps:
        if any(not 0 <= rule.rank < len(variables[step.slot].values) for rule in step.rules):
            raise _unfit(step.name)
    frame = Frame(manifest["backend"], manifest["lazy"], schema)
    names, sums = tuple(manifest["slopes"]), _table(parts["slopes.arrow"])
    slopes = Slopes(names, *(sums[name].to_numpy().reshape(len(names), len(names)) for name in SLOPES))
    strata = None
    if "strata.arrow" in parts:
        table, slots = _table(parts["strata.arrow"]), tuple(manifest["strata"])
        ranks = np.column_stack([table[str(slot)].to_numpy() for slot in slots])
        strata = Strata(slots, ranks.astype(np.uint32), table["rows"].to_numpy())
        known = all(
            0 <= slot < len(variables) and (ranks[:, i] < len(variables[slot].values)).all()
            for i, slot in enumerate(slots)
        )
        if not known or not len(strata.rows) or (strata.rows < 1).any() or len(fits) % len(strata.rows):
            raise ModelFileError("Strata do not fit the columns. The file is damaged; fit it again.")
    exact = None
    if manifest["exact"] is not None:
        exact = Exact(hashes=_table(parts["exact.arrow"])["hashes"].to_numpy(), **manifest["exact"])
        if exact.policy not in POLICIES or exact.slot not in fits[0]:
            raise ModelFileError("The column that is redrawn is unknown. The file is damaged; fit it again.")
    plan = Plan(steps, manifest["proper"], tuple(manifest["strata"]), bool(where), manifest["cluster"], of_plan)
    n_strata = 1 if strata is None else len(strata.rows)
    blocks = []
    for number, block in enumerate(of_plan):
        numbers = range(n_strata if isinstance(block, LatentNormal) else 1)
        states = [_read_state(parts, manifest, f"block_{number:02}_{stratum:04}") for stratum in numbers]
        blocks.append(tuple(BLOCK_MODELS[block.name](record, arrays, variables) for record, arrays in states))
    clusters = _read_clusters(parts, manifest, variables, fits)
    fit_rows, effective = manifest["fit_rows"], manifest["effective"]
    held = (kept, slopes, strata, where, effective)
    joint = {"clusters": clusters, "blocks": tuple(blocks), "imputed": manifest["imputed"]}
    joint |= {"syntheses": manifest["syntheses"], "filled": _read_filled(parts, manifest, variables, kept)}
    return Model(plan, tuple(variables), frame, n_rows, fit_rows, fits, *held, exact=exact, **joint)


def _read_filled(
    parts: dict[str, bytes], manifest: dict[str, Any], variables: list[Variable], kept: dict[int, Ranks]
) -> Filled | None:
    """What was filled in, which has to be of rows and values that there are."""
    state = _read_state(parts, manifest, "filled")
    if state is None:
        return None
    filled = Filled.of_state(*state)
    sound = filled.rows.keys() <= kept.keys()
    for slot, rows in filled.rows.items():
        sound = sound and bool(len(rows)) and bool((np.diff(rows.astype(np.int64)) > 0).all())
        sound = sound and rows[-1] < manifest["n_rows"]
        for ranks in filled.ranks:
            sound = sound and len(ranks[slot]) == len(rows) and ranks[slot].max() < len(variables[slot].values)
    if not sound:
        raise ModelFileError("What was filled in does not fit the columns. The file is damaged; fit it again.")
    return filled


def _read_clusters(
    parts: dict[str, bytes], manifest: dict[str, Any], variables: list[Variable], fits: tuple[Any, ...]
) -> Clusters | None:
    """Clusters, of which every number has to be one of them."""
    state = _read_state(parts, manifest, "clusters")
    if state is None:
        return None
    clusters, n_rows = Clusters.of_state(*state), manifest["n_rows"]
    n = clusters.n_clusters
    sound = bool(n) and clusters.sizes.min() > 0 and clusters.sizes.sum() == n_rows
    for pool in clusters.pools:
        sound &= bool(len(pool)) and 0 <= pool.min() <= pool.max() < n
    for slot, ranks in clusters.structure.items():
        sound &= len(ranks) == n_rows and 0 <= ranks.min() <= ranks.max() < len(variables[slot].values)
    if clusters.rows is not None:
        sound &= len(clusters.rows) == n_rows and 0 <= clusters.rows.min() <= clusters.rows.max() < n
        sound &= len(clusters.first_rows) == n and 0 <= clusters.first_rows.min() <= clusters.first_rows.max() < n_rows
    effects = [column.effects for fit in fits for column in fit.values() if column.effects is not None]
    sound &= all(of.n_clusters == n for of in effects)
    if not sound:
        raise ModelFileError("Clusters do not fit the columns. The file is damaged; fit it again.")
    return clusters


def _read_state(parts: dict[str, bytes], manifest: dict[str, Any], name: str) -> Any:
    """Record and arrays of such a part; None if there is none."""
    state = manifest["states"].get(name)
    if state is None:
        return None
    shapes = state["shapes"]
    arrays = {key: _array(parts, f"{name}_{key}.arrow").reshape(shape) for key, shape in shapes.items()}
    for key, array in arrays.items():
        # The first and last cut are infinite, and codes of missing values have no number.
        allowed = np.isinf if "cuts" in key else np.isnan if "given_" in key else np.zeros_like
        if array.dtype.kind == "f" and (~np.isfinite(array) & ~allowed(array).astype(bool)).any():
            raise ModelFileError(f"Numbers of {name} are missing. The file is damaged; fit it again.")
    return state["record"], arrays


def _block_record(block: Block) -> dict[str, Any]:
    names = [field.name for field in fields(block) if field.name != "columns"]
    return {"name": block.name, "columns": block.columns, "options": {name: getattr(block, name) for name in names}}


def _read_block(record: dict[str, Any]) -> Block:
    return BLOCKS[record["name"]](*record["columns"], **record["options"])


def _step_record(step: Step, blocks: tuple[Block, ...]) -> dict[str, Any]:
    method: Any = None
    if isinstance(step.method, Block):
        method = blocks.index(step.method)
    elif step.method is not None:
        options = {name: getattr(step.method, name) for name in step.method.__dataclass_fields__}
        method = {"name": step.method.name, **options}
    return {
        "slot": step.slot,
        "name": step.name,
        "action": step.action,
        "method": method,
        "guard": step.guard and {name: getattr(step.guard, name) for name in step.guard.__dataclass_fields__},
        "smoothing": step.smoothing,
        "noise": step.noise,
        "predictors": list(step.predictors),
        "expression": _write_expression(step.name, step.expression),
        "rules": [
            {"expression": _write_expression(step.name, rule.expression), "parents": rule.parents, "rank": rule.rank}
            for rule in step.rules
        ],
        "limits": [
            {
                "expression": _write_expression(step.name, limit.expression),
                "parents": limit.parents,
                "passive": limit.passive,
                "values_only": limit.values_only,
            }
            for limit in step.limits
        ],
        "spikes": step.spikes,
        "groups": step.groups,
        "pattern": None if step.pattern is None else asdict(step.pattern),
        "level": step.level,
    }


def _read_step(record: dict[str, Any], n_slots: int, blocks: tuple[Block, ...]) -> Step:
    method, name = record["method"], record["name"]
    if isinstance(method, int):
        method = blocks[method]
    elif method is not None:
        method = METHODS[method["name"]](**{key: value for key, value in method.items() if key != "name"})
    rules = tuple(
        Fixed(_read_expression(name, rule["expression"]), tuple(rule["parents"]), rule["rank"])
        for rule in record["rules"]
    )
    limits = tuple(
        Limit(
            _read_expression(name, limit["expression"]),
            tuple(limit["parents"]),
            tuple(limit["passive"]),
            limit["values_only"],
        )
        for limit in record["limits"]
    )
    conditions: tuple[Fixed | Limit, ...] = (*rules, *limits)
    slots = [record["slot"], *record["predictors"], *(slot for of in conditions for slot in of.parents)]
    if not all(0 <= slot < n_slots for slot in slots):
        raise _unfit(name)
    return Step(
        record["slot"],
        name,
        record["action"],
        method,
        tuple(record["predictors"]),
        None if record["expression"] is None else _read_expression(name, record["expression"]),
        rules,
        limits,
        tuple(record["spikes"]),
        record["groups"],
        None if record["pattern"] is None else Pattern(**record["pattern"]),
        None if record["guard"] is None else Guard(**record["guard"]),
        record["smoothing"],
        record["noise"],
        record["level"],
    )


def _write_expression(name: str, expression: pl.Expr | None) -> Any:
    if expression is None:
        return None
    written = json.loads(expression.meta.serialize(format="json"))
    if not _is_safe(written):
        raise OptionError(
            f"An expression of {name!r} calls Python code or a plugin, which a model file does not carry. Write it "
            "with polars' own expressions only."
        )
    return written


def _read_expression(name: str, written: Any) -> pl.Expr:
    if not _is_safe(written):
        raise ModelFileError(f"An expression of {name!r} may carry code. It is not read.")
    # What is handed on is written anew from what was checked.
    return pl.Expr.deserialize(io.StringIO(json.dumps(written)), format="json")


def _is_safe(node: Any) -> bool:
    """Whether no node of a serialised expression, parsed from its JSON, calls Python code or a plugin."""
    if isinstance(node, list):
        return all(map(_is_safe, node))
    if not isinstance(node, dict):
        return True
    names = [*node, *(value for key, value in node.items() if key == "function" and isinstance(value, str))]
    return not any(word in name for name in names for word in CODE_WORDS) and all(map(_is_safe, node.values()))


def _tree_parts(name: str, tree: Tree) -> dict[str, bytes]:
    nodes = {field: tree.nodes[field] for field in NODE_FIELDS} | {"count": tree.count}
    if len(tree.level_mask):
        nodes["level_mask"] = tree.level_mask
    parts = {
        f"{name}_nodes.arrow": _ipc(pa.table(nodes)),
        f"{name}_donors.arrow": _ipc(pa.table({"donors": tree.donors})),
        f"{name}_spread.arrow": _ipc(pa.table({"spread": np.array(tree.spread, float)})),
    }
    if len(tree.levels):
        parts[f"{name}_levels.arrow"] = _ipc(pa.table({"levels": tree.levels}))
    return parts


def _read_tree(parts: dict[str, bytes], name: str, n_slots: int, most: int, donors: bool = True) -> Tree | None:
    """A tree; ``most`` is what its donors are below, or without donors the number of its leaves."""
    if f"{name}_nodes.arrow" not in parts:
        return None
    table = _table(parts[f"{name}_nodes.arrow"])
    nodes = np.empty(table.num_rows, _tree.NODE)
    for field in NODE_FIELDS:
        nodes[field] = table[field].to_numpy()
    start = table["level_mask"].to_numpy() if "level_mask" in table.column_names else np.zeros(0, np.uint64)
    levels = _array(parts, f"{name}_levels.arrow")
    levels = np.zeros(0, np.uint32) if levels is None else levels
    donors_, spread = (_array(parts, f"{name}_{part}.arrow") for part in ("donors", "spread"))
    tree = Tree(nodes, table["count"].to_numpy(), start, levels, donors_, tuple(spread.tolist()))
    whole = tree.donors.max() < most if donors else tree.n_leaves == most
    if not whole or not _is_sound(tree, n_slots, donors):
        raise ModelFileError(f"Tree {name} points outside itself. The file is damaged; fetch or fit it again.")
    return tree


def _read_column(
    parts: dict[str, bytes], manifest: dict[str, Any], name: str, slot: int, variables: list[Variable]
) -> ColumnModel:
    record = manifest["calibration"].get(name, {"note": "", "present": None, "blur": None})
    n_ranks, n_slots = len(variables[slot].values), len(variables)
    tilt, kinds = (_read_tilt(parts, f"{name}_{part}", variables) for part in ("tilt", "kinds"))
    shift = _read_shift(parts, f"{name}_shift", record, variables)
    whole = {part: f"{name}_{part}_nodes.arrow" in parts for part in "mva"}
    if (tilt is not None and shift is not None) or (kinds is not None and not whole["m"]):
        raise _unfit(name)
    if (tilt is not None and not whole["v"]) or (shift is not None and not (whole["v"] and whole["a"])):
        raise _unfit(name)
    # One rank more stands for "present" in kinds; the donors of shifted numbers are floats.
    n_kinds = n_ranks + (record["present"] == n_ranks)
    n_values = n_ranks if shift is None else 1 << 32
    for of, most in ((tilt, n_ranks), (kinds, n_kinds)):
        if of is not None and of.ranks.max() >= most:
            raise _unfit(name)
    missing = _read_tree(parts, f"{name}_m", n_slots, n_kinds if kinds is None else len(kinds.counts), kinds is None)
    values = _read_tree(parts, f"{name}_v", n_slots, n_values if tilt is None else len(tilt.counts), tilt is None)
    means = None if shift is None else _read_tree(parts, f"{name}_a", n_slots, len(shift.means), False)
    first, present, note = variables[slot].first, record["present"], record["note"]
    pools = _read_pools(parts, f"{name}_pools", n_ranks)
    blur = _read_blur(parts, name, record["blur"], n_ranks)
    effects = _read_state(parts, manifest, name.replace("fit_", "effects_"))
    if effects is not None:
        effects = Effects.of_state(*effects)
    return ColumnModel(missing, values, first, kinds, tilt, shift, means, present, pools, note, blur, effects)


def _read_blur(parts: dict[str, bytes], name: str, record: dict[str, Any] | None, n_ranks: int) -> Blur | None:
    if record is None:
        return None
    arrays = {key: _array(parts, f"{name}_blur_{key}.arrow") for key in BLUR_ARRAYS}
    ranks = arrays["ranks"]
    if len({len(array) for array in arrays.values()}) != 1 or not len(ranks) or ranks.max() >= n_ranks:
        raise _unfit(name)
    return Blur.of_state(record, arrays)


def _calibration_record(column: ColumnModel) -> dict[str, Any]:
    shift, blur = column.shift, column.blur
    return {
        "note": column.note,
        "present": column.present,
        "grid": None if shift is None else asdict(shift.grid),
        "logarithm": shift is not None and shift.logarithm,
        "blur": None if blur is None else blur.state()[0],
    }


def _calibration_parts(name: str, column: ColumnModel) -> dict[str, bytes]:
    """Arrays of shifts and tilts, each as a file of one column."""
    arrays: dict[str, Any] = {}
    if column.shift is not None:
        arrays |= {f"shift_{key}": getattr(column.shift.regression, key).ravel() for key in COMBINATION}
        arrays |= {"shift_means": column.shift.means, "shift_tails": column.shift.tails.ravel()}
    if column.blur is not None:
        arrays |= {f"blur_{key}": getattr(column.blur, key) for key in BLUR_ARRAYS}
    if column.pools is not None:
        arrays |= {f"pools_{key}": getattr(column.pools, key) for key in POOLS}
    for letter, tilt in (("tilt", column.tilt), ("kinds", column.tilt_missing)):
        if tilt is not None:
            arrays |= {f"{letter}_{key}": getattr(tilt.linear, key) for key in LINEAR}
            arrays |= {f"{letter}_{key}": getattr(tilt, key).ravel() for key in TILT}
    return {f"{name}_{key}.arrow": _ipc(pa.table({"x": array})) for key, array in arrays.items()}


def _read_pools(parts: dict[str, bytes], name: str, n_ranks: int) -> Pools | None:
    if f"{name}_offset.arrow" not in parts:
        return None
    pools = Pools(**{key: _array(parts, f"{name}_{key}.arrow") for key in POOLS})
    offset, whole = pools.offset, len(pools.offset) == len(pools.lowest) + 1
    if not whole or offset[0] < 0 or (np.diff(offset) < 0).any() or offset[-1] > len(pools.donors):
        raise _unfit(name)
    if len(pools.donors) and max(pools.donors.max(), pools.lowest.max()) >= n_ranks:
        raise _unfit(name)
    return pools


def _read_shift(parts: dict[str, bytes], name: str, record: dict[str, Any], variables: list[Variable]) -> Shift | None:
    if f"{name}_means.arrow" not in parts:
        return None
    arrays = {key: _array(parts, f"{name}_{key}.arrow") for key in COMBINATION}
    _check_codes(name, arrays["slots"], arrays["offset"], variables)
    pairs, size = arrays["pairs"].reshape(-1, 2), arrays["offset"][-1]
    whole = len(arrays["tables"]) == len(arrays["numbers"]) == size and len(arrays["weights"]) == len(pairs)
    if not whole or (len(pairs) and not 0 <= pairs.min() <= pairs.max() < len(arrays["slots"])):
        raise _unfit(name)
    regression = Combination(**(arrays | {"pairs": pairs}))
    means, tails = _array(parts, f"{name}_means.arrow"), _array(parts, f"{name}_tails.arrow").reshape(2, -1)
    if not tails.size or not np.isfinite(tails).all():
        raise _unfit(name)
    return Shift(regression, means, Grid(**record["grid"]), record["logarithm"], tails)


def _read_tilt(parts: dict[str, bytes], name: str, variables: list[Variable]) -> Tilt | None:
    if f"{name}_ranks.arrow" not in parts:
        return None
    linear = Linear(**{key: _array(parts, f"{name}_{key}.arrow") for key in LINEAR})
    _check_codes(name, linear.slots, linear.offset, variables)
    arrays = {key: _array(parts, f"{name}_{key}.arrow") for key in TILT}
    shape = (-1, len(arrays["ranks"]))
    arrays |= {key: np.ascontiguousarray(arrays[key].reshape(shape)) for key in ("weights", "counts", "centre")}
    whole = len(linear.index) == len(linear.value) == linear.offset[-1]
    # Without predictors, as with effects of clusters alone, there are no features.
    least, most = linear.index.min(initial=-1), linear.index.max(initial=-1)
    whole = whole and -1 <= least <= most < max(len(arrays["weights"]), 1 - len(linear.index))
    counts, centre, weights = (arrays[key] for key in ("counts", "centre", "weights"))
    whole = whole and counts.shape == centre.shape and shape[1] <= _calibrate.MOST_CLASSES
    if not whole or not all(np.isfinite(array).all() for array in (counts, centre, weights, linear.value)):
        raise _unfit(name)
    if (counts < 0).any() or not (counts.sum(1) > 0).all():
        raise _unfit(name)
    return Tilt(linear, **arrays)


def _check_codes(name: str, slots: Any, offset: Any, variables: list[Variable]) -> None:
    """Every table has an entry for each code of its column; the kernel does not look."""
    sizes = [variables[slot].n_codes for slot in slots if 0 <= slot < len(variables)]
    if len(slots) > _calibrate.MOST_SLOTS or list(offset) != [0, *np.cumsum(sizes)] or len(sizes) != len(slots):
        raise _unfit(name)


def _unfit(name: str) -> ModelFileError:
    return ModelFileError(f"Features of {name} do not fit the columns. The file is damaged; fit it again.")


def _is_sound(tree: Tree, n_slots: int, donors: bool) -> bool:
    """Whether a walk down the tree stays inside its arrays; the kernel does not look."""
    nodes, size, index = tree.nodes, len(tree.nodes), np.arange(len(tree.nodes))
    count, left, feature = (x.astype(np.int64) for x in (tree.count, nodes["left"], nodes["feature"]))
    leaf = feature == _tree.LEAF
    unordered = ~leaf & (feature & _tree.UNORDERED_SPLIT != 0)
    sound = len(count) == size and bool(size)
    # Every node but the first one is the child of one other.
    sound &= bool((np.sort(left[~leaf]) == np.arange(1, size, 2)).all()) and int((~leaf).sum()) == size // 2
    sound &= bool(((left > index) & (left < size - 1) & (feature & _tree.SLOT < n_slots) | leaf).all())
    if donors:
        whole = (left + count <= len(tree.donors)) & (count > 0) & (nodes["threshold"] == np.minimum(count, 0xFFFF))
    else:
        whole = left < tree.n_leaves
    sound &= bool((whole | ~leaf).all())
    if not sound or not unordered.any():
        return sound
    if len(tree.level_mask) != size:
        return False
    n_words = len(tree.levels)
    start = tree.level_mask[unordered & (nodes["threshold"] != 0)]
    if not len(start):
        return True
    if start.max() > n_words - 2:
        return False
    start = start.astype(np.int64)
    length = tree.levels[start + 1].astype(np.int64)
    words = np.where(length >> 31, length & 0x7FFFFFFF, (length + 15) // 16)
    return bool((start + 2 + words <= n_words).all())


def _ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def _table(part: bytes) -> pa.Table:
    return pa.ipc.open_file(pa.BufferReader(part)).read_all()


def _array(parts: dict[str, bytes], name: str) -> Any:
    return None if name not in parts else _table(parts[name]).column(0).to_numpy()
