"""Joint models of several columns, fitted to the rows of a table and drawn for the rows of a copy.

What stands between columns, which are ranks and codes, and samplers, which know arrays of numbers and levels::

    column           ranks  ->  numbers, NaN where missing | levels, -1 where missing  ->  chain
    predictors       codes  ->  matrix x: one or more numbers for each code, looked up
    drawn            numbers  ->  the column's grid and type  | levels  ->  ranks
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fastsynth.blocks import Belonging, BlockModel, Copula, LatentNormal
from fastsynth.blur import Blur
from fastsynth.calibrate import exact_to, find_blur, find_grid
from fastsynth.calibration import Grid
from fastsynth.clusters import Clusters
from fastsynth.columns import Codes, EncodedTable, Ranks, Variable
from fastsynth.copula import CopulaModel, fit_copula
from fastsynth.errors import ConvergenceWarning, DataError
from fastsynth.execute import Executor, Threads
from fastsynth.joint import Chains, run_chains
from fastsynth.joint_data import JointData
from fastsynth.latents import JointModel, LatentColumn, missing
from fastsynth.learn import Learned, code
from fastsynth.outcome import Outcome, OutcomeModel
from fastsynth.plan import Plan, Step
from fastsynth.products import Product
from fastsynth.source import spread_rows
from fastsynth.streams import CHAIN, hashed, random_words
from fastsynth.terms import Terms, aliased

Floats = NDArray[np.float64]
Rows = NDArray[np.uint32]
Drawn = dict[int, tuple[Ranks, Floats]]
Arrays = Mapping[str, NDArray[Any]]
State = tuple[dict[str, Any], dict[str, NDArray[Any]]]
NO_NUMBERS = np.zeros(0)
# A level has a dummy of its own if so many rows have it; rarer ones share one.
DUMMY_ROWS = 3
# With normal scores, numbers of so few values are levels with an order, and no value may have a larger share.
FEW_VALUES, MOST_TIED = 20, 0.05
# Cells of columns whose interaction is kept: each but one is a latent normal.
MOST_CELLS = 12
# Numbers that fewer rows have are moved among their neighbours.
MARGIN_ROWS = 20
# Rows that the cells of columns of a copula are learned from, and what makes other words of those of its latents.
PRODUCT_ROWS, PRODUCT_WORDS = 200_000, np.uint64(0x510E527FADE682D1)


# Predictors


@dataclass(frozen=True, slots=True, eq=False)
class Lookup:
    """Predictors as numbers, looked up by code; the first one is 1 for all rows.

    Attributes
    ----------
    slots : tuple of int
        Column of each predictor but the first.
    tables : tuple of ndarray of shape (n_codes,), dtype=float64
    names : tuple of str
        "age", "job=3" (the third level), "age missing".
    """

    slots: tuple[int, ...]
    tables: tuple[Floats, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, table: EncodedTable, slots: Sequence[int], rows: Rows) -> Lookup:
        """Numbers standardised, 0 where they are missing, and whether they are; dummies of categories."""
        found: list[tuple[int, Floats, str]] = []
        for slot in slots:
            variable = table.variables[slot]
            count = np.bincount(table.codes[slot, rows], minlength=variable.n_codes)
            if variable.kind == "numeric":
                found += _of_number(slot, variable, table.numbers_of_codes(slot), count)
            else:
                levels = np.flatnonzero(count)
                often = np.setdiff1d(levels[count[levels] >= DUMMY_ROWS], levels[np.argmax(count[levels])])
                dummies = np.eye(len(count))[often]
                found += [(slot, dummy, f"{variable.name}={i}") for i, dummy in zip(often, dummies, strict=True)]
                rare = (count > 0) & (count < DUMMY_ROWS)
                if rare.any() and rare.sum() < len(levels):
                    found.append((slot, rare.astype(np.float64), f"{variable.name} rare"))
        whole = cls(tuple(of[0] for of in found), tuple(of[1] for of in found), tuple(of[2] for of in found))
        return whole.without_aliased(table.codes, rows)

    def without_aliased(self, codes: Codes, rows: Rows) -> Lookup:
        """The same without predictors that are linear combinations of earlier ones."""
        x = self.matrix(codes[:, rows].T)
        return self._some(np.flatnonzero(~aliased(x.T @ x)[1:]).tolist())

    def _some(self, kept: Sequence[int]) -> Lookup:
        slots, tables, names = self.slots, self.tables, self.names
        return Lookup(tuple(slots[i] for i in kept), tuple(tables[i] for i in kept), tuple(names[i] for i in kept))

    def matrix(self, codes: Codes) -> Floats:
        """Predictors (n, 1 + p) of rows of codes (n, n_slots)."""
        out = np.ones((len(codes), 1 + len(self.slots)))
        for j, (slot, table) in enumerate(zip(self.slots, self.tables, strict=True), 1):
            out[:, j] = table[codes[:, slot]]
        return out


def _of_number(
    slot: int, variable: Variable, numbers: Floats, count: NDArray[np.int64]
) -> list[tuple[int, Floats, str]]:
    known = ~np.isnan(numbers)
    rows = count * known
    mean = float(rows @ np.where(known, numbers, 0.0) / max(rows.sum(), 1))
    sd = float(np.sqrt(rows @ np.where(known, numbers - mean, 0.0) ** 2 / max(rows.sum(), 1)))
    found: list[tuple[int, Floats, str]] = []
    if sd > 0:
        found.append((slot, np.where(known, numbers - mean, 0.0) / sd, variable.name))
    if count[~known].any() and rows.any():
        found.append((slot, (~known).astype(np.float64), f"{variable.name} missing"))
    return found


# Columns of a chain


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """One column of a chain: a column of the table, or several whose combinations are its levels.

    Attributes
    ----------
    slots : tuple of int
    ranks : ndarray of shape (n_levels,), dtype=uint32
        What the levels of a category stand for.
    grid : Grid or None
        Of a number.
    product : Product or None
    blur : Blur or None
        Noise on a number.
    """

    slots: tuple[int, ...]
    ranks: NDArray[np.uint32]
    grid: Grid | None = None
    product: Product | None = None
    blur: Blur | None = None

    @property
    def n_words(self) -> int:
        """Random words of a row beside those of the chain's model."""
        return int(self.product is not None or self.blur is not None)

    def state(self) -> State:
        """What ``of_state`` makes the same of."""
        record = {
            "slots": self.slots,
            "grid": self.grid and asdict(self.grid),
            "product": None,
            "blur": None,
        }
        arrays: dict[str, NDArray[Any]] = {"ranks": self.ranks}
        if self.product is not None:
            record["product"], own = self.product.state()
            arrays |= {f"product_{name}": array for name, array in own.items()}
        if self.blur is not None:
            record["blur"], own = self.blur.state()
            arrays |= {f"blur_{name}": array for name, array in own.items()}
        return record, arrays

    @classmethod
    def of_state(cls, record: Mapping[str, Any], arrays: Arrays) -> Field:
        """The field that gave this state."""
        grid = record["grid"] and Grid(**record["grid"])
        product = record["product"] and Product.of_state(record["product"], _within(arrays, "product_"))
        blur = record["blur"] and Blur.of_state(record["blur"], _within(arrays, "blur_"))
        return cls(tuple(record["slots"]), arrays["ranks"], grid, product, blur)

    def put(self, values: NDArray[Any], words: NDArray[np.uint64], variables: Sequence[Variable]) -> Drawn:
        """Ranks and numbers of the columns, from what the model drew and words (n_words, n)."""
        if self.product is not None:
            drawn = self.product.split(values, words[0])
            return {slot: (ranks, NO_NUMBERS) for slot, ranks in zip(self.slots, drawn, strict=True)}
        slot = self.slots[0]
        dtype = variables[slot].rank_dtype
        if self.grid is None:
            return {slot: (self.ranks[values].astype(dtype), NO_NUMBERS)}
        numbers = self.grid.nearest(values)
        if self.blur is not None:
            numbers = self.blur.of_numbers(numbers, self.blur.secret(words[0]))
        return {slot: (np.zeros(len(numbers), dtype), numbers)}


def _field(step: Step, variable: Variable, ranks: Ranks, transform: str) -> tuple[Field, str, NDArray[Any]]:
    """A column as a field, its kind, and its values by rank.

    Ranks of a number that many rows share are no normal scores: few values are levels with an order instead.
    """
    count = np.bincount(ranks, minlength=len(variable.values))
    used = np.flatnonzero(count[variable.first :]) + variable.first
    by_rank: NDArray[Any]
    scores = variable.kind == "numeric" and transform == "scores"
    if variable.kind != "numeric" or len(used) == 2 or (scores and len(used) <= FEW_VALUES):
        by_rank = np.full(len(count), -1, np.int32)
        by_rank[used] = np.arange(len(used))
        kind = "binary" if len(used) == 2 else "ordered" if scores else variable.kind
        return Field((step.slot,), used.astype(np.uint32)), kind, by_rank
    if scores and count[used].max() > max(MOST_TIED * count[used].sum(), FEW_VALUES):
        share = 100 * count[used].max() / count[used].sum()
        raise DataError(
            f"transform='scores' of {variable.name!r}: {share:.0f} % of the rows have one value, whose scores would "
            "not be normal. Leave the column out of the block, so that trees draw it."
        )
    numbers = variable.numbers()
    grid = find_grid(numbers[used], exact_to(variable))
    low, high = _room(variable)
    count[: variable.first] = 0
    blur = find_blur(variable, count, None, step.noise, 0) if step.noise else None
    return (
        Field((step.slot,), np.zeros(0, np.uint32), replace(grid, low=low, high=high), blur=blur),
        "continuous",
        numbers,
    )


def _room(variable: Variable) -> tuple[float, float]:
    """What the column's type can hold."""
    dtype = variable.values.type
    if pa.types.is_time(variable.dtype):
        return 0.0, float({"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[variable.dtype.unit] * 86_400 - 1)
    if pa.types.is_integer(dtype):
        # Numbers are composed by way of 64 bits with a sign.
        limits = np.iinfo(dtype.to_pandas_dtype())
        return float(limits.min), float(np.nextafter(min(float(limits.max), 2.0**63), 0))
    if pa.types.is_decimal(dtype):
        most = 10.0 ** (min(dtype.precision, 18) - dtype.scale) * (1 - 1e-9)
        return -most, most
    return -np.inf, np.inf


# Latent normal


@dataclass(frozen=True, slots=True, eq=False)
class OutcomeBlock:
    """The column of a block that is drawn by the analyst's model, given the others.

    Attributes
    ----------
    field : Field
    model : OutcomeModel
    places : dict of str to int
        Covariates among the fields of the block.
    given : dict of str to tuple
        Other covariates: slot, and value of each code.
    """

    field: Field
    model: OutcomeModel
    places: Mapping[str, int]
    given: Mapping[str, tuple[int, NDArray[Any]]]

    @property
    def n_words(self) -> int:
        """Random words of a row."""
        return self.model.n_words + self.field.n_words

    def state(self) -> State:
        """What ``of_state`` makes the same of."""
        record, arrays = self.model.state()
        field, own = self.field.state()
        arrays = {f"model_{name}": array for name, array in arrays.items()}
        arrays |= {f"field_{name}": array for name, array in own.items()}
        given = []
        for i, (name, (slot, values)) in enumerate(self.given.items()):
            given.append((name, slot))
            arrays[f"given_{i}"] = values
        return {"model": record, "field": field, "places": dict(self.places), "given": given}, arrays

    @classmethod
    def of_state(cls, record: Mapping[str, Any], arrays: Arrays, variables: Sequence[Variable]) -> OutcomeBlock:
        """The one that gave this state."""
        given = {name: (slot, arrays[f"given_{i}"]) for i, (name, slot) in enumerate(record["given"])}
        if any(len(values) != variables[slot].n_codes for slot, values in given.values()):
            raise ValueError("Covariates of the analyst's model do not fit the columns.")
        model = OutcomeModel.of_state(record["model"], _within(arrays, "model_"))
        return cls(Field.of_state(record["field"], _within(arrays, "field_")), model, record["places"], given)

    def draw(
        self,
        copy: int,
        codes: Codes,
        fields: Sequence[Field],
        values: Sequence[NDArray[Any]],
        words: NDArray[np.uint64],
        cluster: NDArray[np.int32] | None,
        words2: NDArray[np.uint64] | None,
    ) -> NDArray[Any]:
        """Outcomes of some rows given the values (n,) of the fields of the block, numbers as their grid has them."""
        covariates = {name: of[codes[:, slot]] for name, (slot, of) in self.given.items()}
        for name, place in self.places.items():
            grid = fields[place].grid
            covariates[name] = values[place] if grid is None else grid.nearest(values[place])
        return self.model.draw(copy, covariates, words[: self.model.n_words], cluster, words2)


@dataclass(frozen=True, slots=True, eq=False)
class LatentBlock:
    """A latent normal model of some columns, one posterior draw for each copy.

    Attributes
    ----------
    fields : tuple of Field
        As the columns of the model.
    levels : tuple of int
        1 or 2, of each field.
    x, x2 : Lookup
        Predictors of rows, and of clusters.
    model : JointModel
    outcome : OutcomeBlock or None
        The column of the analyst's model, if there is one.
    kept : bool
        Whether clusters are those of the original, and have their effects.
    variables : tuple of Variable
    note : str
    """

    fields: tuple[Field, ...]
    levels: tuple[int, ...]
    x: Lookup
    x2: Lookup
    model: JointModel
    outcome: OutcomeBlock | None
    kept: bool
    variables: tuple[Variable, ...]
    note: str

    @property
    def slots(self) -> tuple[int, ...]:
        """The columns, those of level 2 first."""
        order = sorted(zip(self.levels, self.fields, strict=True), key=lambda of: -of[0])
        last = () if self.outcome is None else self.outcome.field.slots
        return (*(slot for _, of in order for slot in of.slots), *last)

    @property
    def n_words(self) -> int:
        """Random words of a row."""
        own = 0 if self.outcome is None else self.outcome.n_words
        return self.model.n_words + sum(of.n_words for of in self.fields) + own

    @property
    def n_cluster_words(self) -> int:
        """Random words of a cluster."""
        return self.model.n_words2 + (0 if self.outcome is None else self.outcome.model.n_words2)

    def state(self) -> State:
        """What ``of_state`` makes the same of."""
        record, arrays = self.model.state()
        record = {"model": record, "levels": self.levels, "kept": self.kept, "note": self.note, "fields": []}
        arrays = {f"model_{name}": array for name, array in arrays.items()}
        for name, lookup in (("x", self.x), ("x2", self.x2)):
            record[name] = {"slots": lookup.slots, "names": lookup.names}
            arrays |= {f"{name}_{j}": table for j, table in enumerate(lookup.tables)}
        for i, of in enumerate(self.fields):
            own, more = of.state()
            record["fields"].append(own)
            arrays |= {f"field{i}_{name}": array for name, array in more.items()}
        record["outcome"] = None
        if self.outcome is not None:
            record["outcome"], own = self.outcome.state()
            arrays |= {f"outcome_{name}": array for name, array in own.items()}
        return record, arrays

    @classmethod
    def of_state(cls, record: Mapping[str, Any], arrays: Arrays, variables: Sequence[Variable]) -> LatentBlock:
        """The block that gave this state."""
        fields = [Field.of_state(own, _within(arrays, f"field{i}_")) for i, own in enumerate(record["fields"])]
        lookups = {}
        for name in ("x", "x2"):
            slots = tuple(record[name]["slots"])
            tables = tuple(arrays[f"{name}_{j}"] for j in range(len(slots)))
            lookups[name] = Lookup(slots, tables, tuple(record[name]["names"]))
            if any(len(table) != variables[slot].n_codes for slot, table in zip(slots, tables, strict=True)):
                raise ValueError("Predictors of a joint model do not fit the columns.")
        model = JointModel.of_state(record["model"], _within(arrays, "model_"))
        levels, known, outcome = tuple(record["levels"]), tuple(variables), record["outcome"]
        outcome = outcome and OutcomeBlock.of_state(outcome, _within(arrays, "outcome_"), variables)
        x, x2, kept, note = lookups["x"], lookups["x2"], record["kept"], record["note"]
        return cls(tuple(fields), levels, x, x2, model, outcome, kept, known, note)

    def draw(
        self, copy: int, level: int, codes: Codes, words: NDArray[np.uint64], belonging: Belonging | None
    ) -> Drawn:
        """As in ``BlockModel``."""
        clusters: dict[str, Any] = {}
        q2 = self.model.n_words2
        if belonging is not None:
            clusters = {
                "cluster": belonging.place.astype(np.int32),
                "n_clusters": len(belonging.donors),
                "words2": belonging.words[:q2],
                "x2": self.x2.matrix(belonging.codes) if 2 in self.levels else None,
                "u": self.model.u(copy % len(self.model))[belonging.donors] if self.kept else None,
            }
        rows = codes if level == 1 else codes[:0]
        own = words[: self.model.n_words, : len(rows)]
        values = self.model.draw(copy % len(self.model), self.x.matrix(rows), own, **clusters)
        drawn: Drawn = {}
        at = self.model.n_words
        for of, of_level, of_field in zip(self.fields, self.levels, values, strict=True):
            if of_level == level:
                drawn |= of.put(of_field, words[at : at + of.n_words], self.variables)
            at += of.n_words
        if self.outcome is not None and level == 1:
            drawn |= self._draw_outcome(self.outcome, copy, codes, values, words[at:], belonging)
        return drawn

    def _draw_outcome(
        self,
        outcome: OutcomeBlock,
        copy: int,
        codes: Codes,
        values: Sequence[NDArray[Any]],
        words: NDArray[np.uint64],
        belonging: Belonging | None,
    ) -> Drawn:
        """The outcome of rows, of which the block has these values; those of level 2 are of clusters."""
        cluster, words2 = None, None
        if belonging is not None:
            pairs = zip(values, self.levels, strict=True)
            values = [of[belonging.place] if level == 2 else of for of, level in pairs]
            # Kept clusters have their own effects, others new ones.
            cluster = (belonging.donors[belonging.place] if self.kept else belonging.place).astype(np.int32)
            words2 = None if self.kept else belonging.words[self.model.n_words2 :]
        drawn = outcome.draw(copy, codes, self.fields, values, words, cluster, words2)
        return outcome.field.put(drawn, words[outcome.model.n_words :], self.variables)


def _fit_latent(
    block: LatentNormal,
    steps: Sequence[Step],
    table: EncodedTable,
    rows: Rows,
    cluster: NDArray[np.int32] | None,
    clusters: Clusters | None,
    m: int,
    entropy: int,
    stratum: int,
    executor: Executor,
) -> tuple[LatentBlock, bool, Chains]:
    """Fit a chain; also, whether missing values were filled in."""
    variables = table.variables
    own = None if cluster is None else cluster[rows]
    n_clusters = 0 if clusters is None else clusters.n_clusters
    one = np.zeros(0, np.uint32) if own is None else rows[np.unique(own, return_index=True)[1]]
    fields, levels, columns, values = [], [], [], []
    imputed = False
    by_name = {step.name: step for step in steps}
    terms = None if block.model is None else Terms.parse(block.model)
    last = None if terms is None else by_name[terms.outcome]
    groups = [tuple(by_name[name] for name in group) for group in block.interactions]
    together = {step.name for group in groups for step in group}
    single = [step for step in steps if step.name not in together and step is not last]
    for group in [*groups, *((step,) for step in single)]:
        step = group[0]
        of_rows = rows if step.level == 1 else one
        if len(group) > 1:
            of, kind, of_field = _product_field(group, table, of_rows)
            imputed |= bool((of_field < 0).any())
        else:
            of, kind, of_field, missing = _single_field(step, table, of_rows, block.transform_of(step.name))
            imputed |= missing
        transform = block.transform_of(step.name) if kind == "continuous" else "none"
        n_levels = 0 if kind == "continuous" else of.product.n_cells if of.product is not None else len(of.ranks)
        name = " x ".join(one.name for one in group)
        columns.append(LatentColumn(name, kind, n_levels, step.level, transform))  # type: ignore[arg-type]
        fields.append(of)
        levels.append(step.level)
        values.append(of_field)
    upper = [step for step in steps if step.level == 2]
    lower = [step for step in steps if step.level == 1]
    x = Lookup.of(table, lower[0].predictors, rows)
    x2 = Lookup.of(table, upper[0].predictors, one) if upper else Lookup((), (), ())
    slopes = tuple(1 + x.names.index(name) for name in block.slopes)
    of_clusters: dict[str, Any] = {}
    if own is not None:
        of_clusters = {
            "cluster": own.astype(np.int32),
            "n_clusters": n_clusters,
            "slopes": slopes,
        }
    if upper:
        of_clusters |= {"x2": x2.matrix(table.codes[:, one].T), "x2_names": ("1", *x2.names)}
    matrix = x.matrix(table.codes[:, rows].T)
    data = JointData(tuple(columns), tuple(values), matrix, x_names=("1", *x.names), **of_clusters)
    outcome, of_outcome = None, None
    given: dict[str, tuple[int, NDArray[Any]]] = {}
    if terms is not None and last is not None:
        of_outcome, kind, y, missing = _single_field(last, table, rows, "none")
        imputed |= missing
        names = [column.name for column in columns]
        outcome, given = _outcome(terms, kind, len(of_outcome.ranks), y, table, rows, names)
    kept = clusters is not None and clusters.rows is not None
    key = int(random_words(entropy, (CHAIN, steps[0].slot, stratum), 1)[0])
    chains = run_chains(
        data,
        outcome,
        n_draws=m,
        burn_in=block.burn_in,
        thin=block.thin,
        chains=min(block.chains, m),
        entropy=key,
        # Here, whoever does the rest: what a chain adds up would end in other digits elsewhere.
        executor=executor if isinstance(executor, Threads) else Threads(),
        effects=kept,
    ).until_converged(block.most_sweeps)
    by_model, drawn = None, chains.outcome
    if of_outcome is not None and terms is not None and drawn is not None:
        places = {column.name: i for i, column in enumerate(columns) if column.name in terms.covariates}
        by_model = OutcomeBlock(of_outcome, drawn, places, given)
    note = _note(chains) + ("" if terms is None else f"; {terms.outcome} by {block.model}")
    fitted = LatentBlock(tuple(fields), tuple(levels), x, x2, chains.model, by_model, kept, variables, note)
    return fitted, imputed, chains


def _single_field(step: Step, table: EncodedTable, rows: Rows, transform: str) -> tuple[Field, str, NDArray[Any], bool]:
    """A column as a field, its kind, its values in some rows, and whether some are missing."""
    ranks = table.ranks[step.slot][rows]
    of, kind, by_rank = _field(step, table.variables[step.slot], ranks, transform)
    values = by_rank[ranks]
    holes = missing(values)
    under = table.ruled.get(step.slot)
    if under is not None:
        # What a rule sets tells nothing of the others, and what it leaves out is no hole.
        holes &= ~under[rows]
        values[under[rows]] = np.nan if kind == "continuous" else -1
    return of, kind, values, bool(holes.any())


def _outcome(
    terms: Terms, kind: str, n_levels: int, y: NDArray[Any], table: EncodedTable, rows: Rows, names: Sequence[str]
) -> tuple[Outcome, dict[str, tuple[int, NDArray[Any]]]]:
    """The column of the analyst's model for a chain; and covariates outside the block, by name: slot, value by code."""
    slots = {variable.name: slot for slot, variable in enumerate(table.variables) if variable.calendar is None}
    given, n_levels_of = {}, {}
    for name in terms.covariates:
        if name in names:
            continue
        slot = slots[name]
        values = _value_of_codes(table, slot, rows)
        given[name] = slot, values
        if values.dtype == np.int32:
            n_levels_of[name] = int(values.max()) + 1
    in_rows = {name: values[table.codes[slot, rows]] for name, (slot, values) in given.items()}
    return Outcome(terms, kind, n_levels, y, in_rows, n_levels_of), given  # type: ignore[arg-type]


def _value_of_codes(table: EncodedTable, slot: int, rows: Rows) -> NDArray[Any]:
    """Number of each code of a column; of a category the levels that rows have, numbered, the first for all others."""
    variable = table.variables[slot]
    if variable.kind == "numeric":
        return table.numbers_of_codes(slot)
    used = np.flatnonzero(np.bincount(table.codes[slot, rows], minlength=variable.n_codes)[variable.first_code :])
    values = np.zeros(variable.n_codes, np.int32)
    values[: variable.first_code] = -1
    values[variable.first_code + used] = np.arange(len(used))
    return values


def _within(arrays: Arrays, prefix: str) -> dict[str, NDArray[Any]]:
    """Arrays whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _product_field(group: Sequence[Step], table: EncodedTable, rows: Rows) -> tuple[Field, str, NDArray[np.int32]]:
    """Columns whose combinations are levels of one category, and the level of each row."""
    variables = [table.variables[step.slot] for step in group]
    ranks = [table.ranks[step.slot][rows] for step in group]
    kinds, first = [v.kind for v in variables], [v.first for v in variables]
    numbers = sum(kind == "numeric" for kind in kinds)
    levels = int(np.prod([v.n_used for v in variables if v.kind != "numeric"]))
    bins = max(int((MOST_CELLS / levels) ** (1 / max(numbers, 1))), 2)
    product = Product.of(ranks, kinds, first, bins=bins, names=[step.name for step in group])
    slots = tuple(step.slot for step in group)
    return Field(slots, np.zeros(0, np.uint32), product=product), "unordered", product.codes(ranks)


def _note(chains: Chains) -> str:
    """What ``summary`` says of a chain."""
    worst = max(parameter.r_hat for parameter in chains.parameters)
    least = min(parameter.ess for parameter in chains.parameters)
    return f"{len(chains.parameters)} parameters, R-hat at most {worst:.2f}, effective sample size at least {least:.0f}"


def _warn_unconverged(block: LatentNormal, chains: Chains) -> None:
    names = chains.not_converged
    if names:
        some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        warnings.warn(
            f"{block!r}: {len(names)} of {len(chains.parameters)} parameters have not converged ({some}): the chains "
            f"differ, or moved too slowly. Look at chains_ (plot_chains), raise most_sweeps ({block.most_sweeps:,}), "
            "or leave rare levels and interactions out.",
            ConvergenceWarning,
            stacklevel=6,
        )


# Copula


@dataclass(frozen=True, slots=True, eq=False)
class CopulaBlock:
    """A Gaussian copula of some columns.

    Attributes
    ----------
    slots, given : tuple of int
        Columns that are drawn, and those that they are drawn given.
    model : CopulaModel
    products : dict of int to tuple
        By slot in the model, columns that are drawn as cells of their combinations, and the cells.
    blurs : dict of int to Blur
        What is done to drawn numbers, by slot.
    variables : tuple of Variable
    """

    slots: tuple[int, ...]
    given: tuple[int, ...]
    model: CopulaModel
    products: Mapping[int, tuple[tuple[int, ...], Product]]
    blurs: Mapping[int, Blur]
    variables: tuple[Variable, ...]

    @property
    def n_words(self) -> int:
        """Random words of a row."""
        return self.model.n_words

    @property
    def n_cluster_words(self) -> int:
        """None: rows are independent."""
        return 0

    @property
    def note(self) -> str:
        """What ``summary`` says."""
        return "; ".join(f"{name}: {note}" for name, note in self.model.notes.items()) or "Gaussian copula"

    def state(self) -> State:
        """What ``of_state`` makes the same of."""
        record, arrays = self.model.state()
        arrays = {f"model_{name}": array for name, array in arrays.items()}
        blurs = {}
        for slot, blur in self.blurs.items():
            blurs[str(slot)], own = blur.state()
            arrays |= {f"blur{slot}_{name}": array for name, array in own.items()}
        products = {}
        for slot, (group, product) in self.products.items():
            of, own = product.state()
            products[str(slot)] = {"slots": group, "product": of}
            arrays |= {f"product{slot}_{name}": array for name, array in own.items()}
        return {
            "model": record,
            "slots": self.slots,
            "given": self.given,
            "blurs": blurs,
            "products": products,
        }, arrays

    @classmethod
    def of_state(cls, record: Mapping[str, Any], arrays: Arrays, variables: Sequence[Variable]) -> CopulaBlock:
        """The block that gave this state."""
        model = CopulaModel.of_state(record["model"], _within(arrays, "model_"))
        blurs = {
            int(slot): Blur.of_state(own, _within(arrays, f"blur{slot}_")) for slot, own in record["blurs"].items()
        }
        products = {
            int(slot): (tuple(of["slots"]), Product.of_state(of["product"], _within(arrays, f"product{slot}_")))
            for slot, of in record["products"].items()
        }
        return cls(tuple(record["slots"]), tuple(record["given"]), model, products, blurs, tuple(variables))

    def draw(
        self, copy: int, level: int, codes: Codes, words: NDArray[np.uint64], belonging: Belonging | None
    ) -> Drawn:
        """As in ``BlockModel``."""
        assert level == 1
        assert belonging is None
        given = {slot: self.variables[slot].lowest_ranks(codes[:, slot]) for slot in self.given}
        drawn = self.model.draw(copy, words, given)
        for slot, (group, product) in self.products.items():
            cells = drawn.pop(slot).astype(np.int32) - 1
            drawn |= dict(zip(group, product.split(cells, hashed(words[-1], PRODUCT_WORDS)), strict=True))
        out: Drawn = {}
        for slot in self.slots:
            blur = self.blurs.get(slot)
            # Every column needs words of its own: those of the latents chose the ranks.
            own = hashed(words[0], np.uint64(slot))
            out[slot] = drawn[slot], NO_NUMBERS if blur is None else blur.of_ranks(drawn[slot], blur.secret(own))
        return out


# What makes a fitted block of its state, by the name of the option.
BLOCK_MODELS: dict[str, Callable[[Any, Any, Any], BlockModel]] = {
    LatentNormal.name: LatentBlock.of_state,
    Copula.name: CopulaBlock.of_state,
}


def fit_blocks(
    plan: Plan,
    learned: Learned,
    table: EncodedTable,
    rows: Sequence[Rows],
    cluster: NDArray[np.int32] | None,
    clusters: Clusters | None,
    m: int,
    entropy: int,
    executor: Executor,
) -> tuple[tuple[tuple[BlockModel, ...], ...], bool, dict[str, Chains]]:
    """Fit all joint models of a plan.

    Parameters
    ----------
    rows : list of ndarray, dtype=uint32
        Rows of each stratum, or all.
    cluster : ndarray of shape (n_rows,), dtype=int32, or None
        Of each row of the table.

    Returns
    -------
    blocks : tuple of tuple
        For each block a model for each stratum.
    imputed : bool
        Whether missing values were filled in.
    chains : dict of str to Chains
        By columns of the block, and with strata the number of the stratum.
    """
    blocks: list[tuple[BlockModel, ...]] = []
    imputed, chains = False, {}
    for block in plan.blocks:
        steps = plan.steps_of(block)
        if isinstance(block, Copula):
            blocks.append((_fit_copula(block, steps, plan, learned, m, entropy, executor),))
            continue
        of_strata: list[BlockModel] = []
        for stratum, own in enumerate(rows):
            fitted, filled, found = _fit_latent(
                block, steps, table, own, cluster, clusters, m, entropy, stratum, executor
            )
            _warn_unconverged(block, found)
            of_strata.append(fitted)
            imputed |= filled
            name = ", ".join(block.columns)
            chains[name if len(rows) == 1 else f"{name}; stratum {stratum}"] = found
        blocks.append(tuple(of_strata))
    return tuple(blocks), imputed, chains


def _fit_copula(
    block: Copula, steps: Sequence[Step], plan: Plan, learned: Learned, m: int, entropy: int, executor: Executor
) -> CopulaBlock:
    slots, given = tuple(step.slot for step in steps), steps[0].predictors
    by_name = {step.name: step.slot for step in steps}
    groups = [tuple(by_name[name] for name in group) for group in block.interactions]
    products = _products(groups, learned, executor) if groups else {}
    single = tuple(slot for slot in slots if not any(slot in group for group in groups))
    model = fit_copula(
        learned.source,
        learned.variables,
        learned.rows,
        learned.table,
        (*given, *single),
        executor,
        m=m if plan.proper else 1,
        proper=plan.proper,
        entropy=entropy,
        products=products,
    )
    blurs = {}
    for step in steps:
        variable, held = learned.variables[step.slot], learned.rows[step.slot].copy()
        held[: variable.first] = 0
        if variable.kind != "numeric" or not held.any():
            continue
        blur = find_blur(variable, held, step.smoothing, step.noise, MARGIN_ROWS)
        if blur is not None:
            blurs[step.slot] = blur
    return CopulaBlock(slots, given, model, products, blurs, learned.variables)


def _products(
    groups: Sequence[tuple[int, ...]], learned: Learned, executor: Executor
) -> dict[int, tuple[tuple[int, ...], Product]]:
    """Columns whose interaction is kept, by slots below 0: their cells are learned from rows spread evenly."""
    rows = spread_rows(learned.n_rows, PRODUCT_ROWS).astype(np.uint32)
    table, _ = code(learned, rows, (), (), None, executor, lambda _: None)
    found = {}
    for i, group in enumerate(groups):
        variables = [table.variables[slot] for slot in group]
        holes = [v.name for v, slot in zip(variables, group, strict=True) if learned.rows[slot][: v.first].any()]
        if holes:
            raise DataError(
                f"interactions: {', '.join(map(repr, holes))} have missing values, which a Copula keeps: their "
                "combinations are unknown. Leave them out, or use LatentNormal, which fills them in."
            )
        ranks = [table.ranks[slot] for slot in group]
        names = [v.name for v in variables]
        found[-1 - i] = group, Product.of(ranks, [v.kind for v in variables], [v.first for v in variables], names=names)
    return found
