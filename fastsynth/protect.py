"""Protection after synthesis: measures on finished copies, and what each does to inference.

``protect`` applies measures one after the other to copies in memory or in files, measures utility and disclosure after
each, and gives new copies: the caller's are never changed. Measures are in ``fastsynth.controls``.

Coarser coding (``Round``, ``TopCode``, ``MergeLevels``) is public: an intruder codes what he knows in the same way.
Disclosure is therefore measured against the original coded alike, utility against the original as it is.
"""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from fastsynth.compared import Compared, open_compared
from fastsynth.controls import (
    KeepRows,
    Label,
    Measure,
    MergeLevels,
    RemoveUniques,
    Rename,
    Round,
    Setting,
    Smooth,
    Swap,
    TopCode,
    columns_of,
    name_of,
)
from fastsynth.copies import FileCopy, Synthesis
from fastsynth.disclosure import disclosure
from fastsynth.errors import OptionError, check_column_list
from fastsynth.expressions import parse
from fastsynth.identical import count_identical
from fastsynth.output import Output
from fastsynth.pooling import align
from fastsynth.relations import Relations
from fastsynth.run import part_names
from fastsynth.sdc import is_number
from fastsynth.source import Frame
from fastsynth.streams import PROTECT, Words, random_words, siphash
from fastsynth.synthesis import RandomState, _entropy
from fastsynth.tally import Mask
from fastsynth.utility import utility

# Of the limits of ``until`` the one that measures must not break, where the others are what they are for.
CEILING = "S_pMSE"
# Longer effects go on in the next line of the printed table.
WIDEST = 80


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Protected:
    """Protected copies, and what was done.

    Attributes
    ----------
    synthesis : Synthesis
        The protected copies, with the design of the given ones but for the new k, and without a recipe: it would make
        copies that are not protected.
    steps : polars.DataFrame
        One row for each measure in the order in which they were applied, after a first one of the copies as given:
        measure, column, options, changed (cells or rows, mean over copies), effect (on inference), k, and after the
        measure S_pMSE (mean over pairs of columns) and the figures of disclosure, in percent.
    tried : polars.DataFrame or None
        With ``until``: all measures that were tried, also those that were taken back: measure, column, options, kept,
        and the figures with it. Of many that are tried some look well by chance, so figures of the ones that were kept
        are a little too good.
    limits : dict of str to float
        What ``until`` asked for.
    """

    synthesis: Synthesis
    steps: pl.DataFrame
    tried: pl.DataFrame | None
    limits: dict[str, float]

    @property
    def figures(self) -> dict[str, float]:
        """Figures of the protected copies, by name."""
        return {name: float(self.steps[name][-1]) for name in self.steps.columns[6:]}

    def __repr__(self) -> str:
        names = self.steps.columns[6:]
        head = ("measure", "changed", "k", *names, "effect on inference")
        lines: list[tuple[str, ...]] = []
        for row in self.steps.iter_rows(named=True):
            first, *others = textwrap.wrap(row["effect"], WIDEST)
            cells = (
                " ".join(filter(None, (row["measure"], row["column"], row["options"]))),
                f"{row['changed']:,.{0 if row['changed'] >= 10 else 1}f}".removesuffix(".0"),
                f"{row['k']:,}",
                *(f"{row[name]:.3g}" for name in names),
            )
            lines += [(*cells, first), *((*[""] * len(cells), other) for other in others)]
        title = f"Protected: m={self.synthesis.m} copies"
        if self.tried is not None:
            percent = ", ".join(f"{name} {limit:g}" for name, limit in self.limits.items() if name != CEILING)
            ceiling = f"; {CEILING} at most {self.limits[CEILING]:g}" if CEILING in self.limits else ""
            tried = f"{self.tried.height} measure{'' if self.tried.height == 1 else 's'} tried"
            title += f", limits (percent): {percent}{ceiling}; {tried}"
        return f"{title}\n{align([head, *lines], [False, *[True] * (len(head) - 2), False])}"


def protect(
    original: Any,
    synthesis: Synthesis | str | os.PathLike[str],
    measures: Sequence[Measure] | Measure | None = None,
    *,
    until: Mapping[str, float] | None = None,
    keys: Sequence[str] | None = None,
    target: str | Sequence[str] | None = None,
    random_state: RandomState = 0,
    out: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    client: Any = None,
    memory_limit: int | str | None = None,
) -> Protected:
    """Protect finished copies: by measures that are named, or by the mildest ones that keep limits.

    Parameters
    ----------
    original : table or path
        The table that the copies are of.
    synthesis : Synthesis or path
        Copies, or a folder of them. They are not changed.
    measures : list of measures, optional
        ``Smooth``, ``Noise``, ``TopCode``, ``Round``, ``MergeLevels``, ``RemoveUniques``, ``RedrawUniques``,
        ``KeepRows``, ``Swap``, ``Label``, ``Rename``, applied in this order; those that only name come last. After a
        measure that leaves rows out or changes values, each ``RemoveUniques`` before it comes again where it finds any.
    until : dict of str to float, optional
        Instead of measures: limits in percent of figures of ``disclosure`` (repU, DiSCO, UiOiS, ...), or of
        "identical", the share of synthetic rows that equal a real one; beside them perhaps "S_pMSE", not in percent,
        which no measure may lift above its limit. Measures are tried from mild to strong, and measured: one that lowers
        no figure that is too high, or breaks the limit of S_pMSE, is taken back. Mild to strong is: leaving out
        replicated uniques, smoothing of numeric keys and targets, rounding of numeric keys, merging rare levels of keys
        and targets, top coding, leaving out all uniques that are in the original, swapping, fewer rows.
    keys : list of str, optional
        What an intruder may know, for ``disclosure``; needed with ``until``.
    target : str or list of str, optional
        What he may want to know; the default is all other columns.
    random_state : int, numpy SeedSequence or Generator, optional
        Together with the rows of the original it gives the random numbers; so who does not have the original cannot
        undo noise, even where the default, 0, is kept. None draws new ones each time.
    out : path, optional
        New or empty folder for the protected copies; needed if the given ones are in files. They are read one at a
        time; a temporary folder beside it holds them meanwhile.
    threads, client, memory_limit
        As in ``synthesize``, for reading and measuring.

    Returns
    -------
    Protected
        ``.synthesis``, ``.steps``; printed as a table.

    Raises
    ------
    OptionError
        Neither or both of ``measures`` and ``until``; limits that cannot be kept, with the figures that were reached; a
        column that does not exist or must not be changed, because passive columns, rules or limits use it; rows left
        out of partially synthetic copies, whose rows are those of the original.
    OutputError
        The folder is not empty.

    Notes
    -----
    A measure costs O(m k), measuring after each what ``utility`` and ``disclosure`` cost: of p columns p^2 / 2 tables.

    Valid inference is promised for copies as they were drawn. Each measure takes something off it: ``steps`` tells
    what, and the change of S_pMSE how much. Measure again and publish which measures were used, not their seed.

    References
    ----------
    Raab, Nowok and Dibben (2024), Practical privacy metrics for synthetic data, arXiv 2406.16826 (repU, DiSCO).
    Hundepool et al. (2012), Statistical Disclosure Control.

    Examples
    --------
    >>> import fastsynth as fs
    >>> from fastsynth.controls import Smooth, TopCode
    >>> from fastsynth.protect import protect
    >>> boys = fs.load_boys()
    >>> syn = fs.synthesize(boys, m=2, random_state=1)
    >>> done = protect(boys, syn, [Smooth("hgt"), TopCode("wgt", high=90)])
    >>> done.synthesis[0]["wgt"].max()
    90.0
    """
    # One of our own, because the recipe is taken from it in the end.
    given = _opened(synthesis)[:]
    if given.private is not None:
        raise OptionError(
            "protect: measures that look at the real data would end the guarantee of differentially private copies."
        )
    if (measures is None) == (until is None):
        raise OptionError("protect takes measures=[...] or until={...}, one of them.")
    chosen = [measures] if isinstance(measures, Measure) else list(measures or ())
    _check_given(given, chosen, until, keys, out)
    reading = {"threads": threads, "client": client, "memory_limit": memory_limit}
    compared = open_compared(original, given, **reading)
    entropy, *key_of_words = _secret(compared, random_state)

    def words(key: tuple[int, ...], n: int) -> Words:
        return siphash(random_words(entropy, key, n), *key_of_words)

    setting = Setting(original, compared, {}, set(), set(), words)
    for measure in chosen:
        refusal = _refusal(measure, given, setting)
        if refusal is not None:
            raise OptionError(refusal)
    with ExitStack() as stack:
        folder = None if out is None else stack.enter_context(_temporary(out))
        options = {name: value for name, value in reading.items() if value is not None}
        work = _Work(setting, given, folder, _Figures(original, keys, target, dict(until or {}), options))
        if until is not None:
            work.keep_limits(target)
        for measure in [*(x for x in chosen if not x.names), *(x for x in chosen if x.names)]:
            work.apply(measure)
        done = work.synthesis if out is None else _write(work.synthesis, out)
    done.recipe = None
    tried = None if until is None else pl.DataFrame(work.tried, infer_schema_length=None)
    return Protected(done, pl.DataFrame(work.steps, infer_schema_length=None), tried, dict(until or {}))


@dataclass(frozen=True, slots=True, eq=False)
class _Figures:
    """What is measured after each step."""

    original: Any
    keys: Sequence[str] | None
    target: str | Sequence[str] | None
    limits: dict[str, float]
    options: dict[str, Any]

    def of(self, setting: Setting, synthesis: Synthesis) -> dict[str, float]:
        """S_pMSE against the original as it is, disclosure against the original coded alike."""
        found = {"S_pMSE": float(utility(self.original, synthesis, **self.options)["S_pMSE"])}
        if self.keys is None:
            return found
        risk = disclosure(setting.alike(), synthesis, keys=list(self.keys), target=self.target, **self.options)
        for name in [x for x in self.limits if x != CEILING] or ("repU", "DiSCO"):
            if name not in set(risk):
                raise OptionError(
                    f"until: disclosure has no figure {name!r}; there are {', '.join(map(str, risk))}, and {CEILING}."
                )
            found[name] = float(risk[name])
        return found


class _Work:
    """Copies while measures are applied to them."""

    def __init__(self, setting: Setting, synthesis: Synthesis, folder: str | None, figures: _Figures) -> None:
        self.setting = setting
        self.synthesis = synthesis
        self.figures = figures
        self.reached = figures.of(setting, synthesis)
        self.steps: list[dict[str, Any]] = []
        self._folder = folder
        self._n_tried = 0
        self._removals: list[RemoveUniques] = []
        self.tried: list[dict[str, Any]] = []
        self._note(None, 0.0)

    def _note(self, measure: Measure | None, changed: float) -> None:
        effect = "none" if measure is None else measure.effect
        if measure is not None and measure.columns and not measure.names:
            effect += self._equal_again()
        self.steps.append(
            _shown(measure) | {"changed": changed, "effect": effect, "k": self.synthesis.k} | self.reached
        )

    def _equal_again(self) -> str:
        """Words about rows that equal a unique real one in copies made without such; the audit has their number."""
        exact = self.synthesis.exact
        if exact is None or exact["policy"] != "none":
            return ""
        both = open_compared(self.figures.original, self.synthesis, **self.figures.options)
        n = round(count_identical(both, None).unique_share * self.synthesis.m * self.synthesis.k)
        if n == 0:
            return ""
        self.synthesis.protection[-1]["equal_to_unique_real_rows"] = n
        return f'; copies="none" holds no longer: {n:,} rows of all copies equal a unique real row'

    def apply(self, measure: Measure) -> None:
        """Apply a measure that was asked for."""
        self._apply(measure, *self._try(measure, self.setting))
        if isinstance(measure, RemoveUniques):
            self._removals.append(measure)
        if not measure.names and self._removals not in ([], [measure]):
            self._remove_again()

    def _apply(self, measure: Measure, synthesis: Synthesis, changed: float) -> None:
        before, self.synthesis = self.synthesis, synthesis
        if not measure.names:
            self.reached = self.figures.of(self.setting, synthesis)
        self._accept(measure, changed, before)

    def _remove_again(self) -> None:
        """Leave out uniques that came back, until there are none; rows only become fewer, so it ends."""
        found = True
        while found:
            found = False
            for removal in self._removals:
                synthesis, changed = self._try(removal, self.setting)
                if changed:
                    self._apply(removal, synthesis, changed)
                    found = True
                else:
                    self._forget(synthesis)

    def _accept(self, measure: Measure, changed: float, before: Synthesis) -> None:
        self.setting.changed.update(measure.columns)
        self._note(measure, changed)
        self._forget(before)

    def _try(self, measure: Measure, setting: Setting) -> tuple[Synthesis, float]:
        """The copies after a measure; all with as many rows as the shortest."""
        self._n_tried += 1
        of, step = self.synthesis, measure.prepare(setting, self.synthesis)
        copies: list[pa.Table | FileCopy] = []
        changed: list[int] = []
        sizes: list[int] = []
        schema = None
        for i in range(len(of)):
            table = of.arrow(i)
            after, n = step(table, setting.words((PROTECT, self._n_tried, i, 0), table.num_rows))
            schema = after.schema
            changed.append(n)
            sizes.append(after.num_rows)
            copies.append(self._put(after, f"{self._n_tried}_{i}.parquet"))
        frame = replace(of._frame, schema=schema)
        k = self._cut(measure, setting, copies, sizes, schema)
        return _derived(of, copies, frame, k, measure, changed), float(np.mean(changed))

    def _cut(
        self, measure: Measure, setting: Setting, copies: list[pa.Table | FileCopy], sizes: list[int], schema: pa.Schema
    ) -> int:
        """Cut copies in place to the k of the shortest; to fewer where the measure cannot be kept with that many."""

        def whole(i: int) -> pa.Table:
            copy = copies[i]
            return copy.read().cast(schema) if isinstance(copy, FileCopy) else copy

        def kept(i: int, k: int) -> Mask | None:
            if sizes[i] == k:
                return np.ones(k, bool)
            return measure.cut(setting, whole(i), k, setting.words((PROTECT, self._n_tried, i, 1), sizes[i]))

        for k in range(min(sizes), 0, -1):
            rows = [kept(i, k) for i in range(len(copies))]
            if any(of_copy is None for of_copy in rows):
                continue
            for i, of_copy in enumerate(rows):
                if sizes[i] > k:
                    copies[i] = self._put(whole(i).filter(pa.array(of_copy)), f"{self._n_tried}_{i}.parquet")
            return k
        raise OptionError(f"{name_of(measure)} leaves no rows in a copy. Take fewer or coarser keys.")

    def _put(self, table: pa.Table, name: str) -> pa.Table | FileCopy:
        if self._folder is None:
            return table
        pq.write_table(table, f"{self._folder}/{name}", compression="zstd")
        return FileCopy(self._folder, [name])

    def _forget(self, synthesis: Synthesis) -> None:
        """Temporary files of copies that are not needed any more."""
        for copy in synthesis._copies:
            if isinstance(copy, FileCopy) and copy.folder == self._folder:
                for path in copy.paths():
                    os.remove(path)

    def exceeded(self) -> dict[str, float]:
        """Figures above their limits."""
        limits = {name: limit for name, limit in self.figures.limits.items() if name != CEILING}
        return {name: self.reached[name] for name, limit in limits.items() if not self.reached[name] <= limit}

    def _is_dear(self, figures: dict[str, float]) -> bool:
        """Whether utility is beyond its limit."""
        return CEILING in self.figures.limits and not figures[CEILING] <= self.figures.limits[CEILING]

    def _helps(self, measure: Measure) -> bool:
        """Apply a measure, and take it back unless it lowers a figure that is too high."""
        if _refusal(measure, self.synthesis, self.setting) is not None:
            return False
        trial = self.setting.trial()
        try:
            synthesis, changed = self._try(measure, trial)
        except OptionError:
            # Not for this column (its missing codes are not known), or for these copies (no row would be left).
            return False
        figures = self.figures.of(trial, synthesis) if changed else self.reached
        lowers = any(figures[name] < value for name, value in self.exceeded().items())
        kept = bool(changed) and lowers and not self._is_dear(figures)
        self.tried.append(_shown(measure) | {"kept": kept} | figures)
        if kept:
            before, self.synthesis, self.setting, self.reached = self.synthesis, synthesis, trial, figures
            self._accept(measure, changed, before)
        else:
            self._forget(synthesis)
        return kept

    def keep_limits(self, target: str | Sequence[str] | None) -> None:
        """Apply the mildest measures until all limits are kept."""
        keys = list(self.figures.keys or ())
        others = [name for name in self.setting.compared.names if name not in keys]
        targets = [target] if isinstance(target, str) else others if target is None else list(target)
        if self._is_dear(self.reached):
            raise self._failure()
        for measure in _ladder(self.setting, keys, targets):
            if not self.exceeded():
                return
            # What changes keys makes new uniques: the mildest measure comes again before a stronger one.
            if self._helps(measure) and self.exceeded() and not isinstance(measure, RemoveUniques):
                self._helps(RemoveUniques(keys))
        if self.exceeded():
            raise self._failure()

    def _failure(self) -> OptionError:
        limits = self.figures.limits
        reached = [f"{name} {self.reached[name]:.3g} (limit {limits[name]:g})" for name in limits if name != CEILING]
        ceiling = f" (limit {limits[CEILING]:g})" if CEILING in limits else ""
        steps = [" ".join(filter(None, (x["measure"], x["column"], x["options"]))) for x in self.steps[1:]]
        return OptionError(
            f"until: the limits cannot be kept. Reached: {', '.join(reached)}; {CEILING} {self.reached[CEILING]:.3g}"
            f"{ceiling}, before {self.steps[0][CEILING]:.3g}; tried {len(self.tried)} "
            f"measure{'' if len(self.tried) == 1 else 's'}, kept: {'; '.join(steps) or 'none'}. Allow more, take fewer "
            "or coarser keys, drop columns, or make copies with larger leaves (minbucket)."
        )


def _ladder(setting: Setting, keys: list[str], targets: list[str]) -> Iterator[Measure]:
    """Measures from mild to strong."""
    dtypes = {name: setting.column(name).dtype for name in [*keys, *(x for x in targets if x not in keys)]}
    levels = [name for name, dtype in dtypes.items() if isinstance(dtype, pl.String | pl.Categorical | pl.Enum)]
    numbers = [name for name, dtype in dtypes.items() if is_number(dtype)]
    yield RemoveUniques(keys)
    yield from (Smooth(name) for name in numbers)
    for name in keys:
        if dtypes[name].is_numeric():
            yield from (Round(name, to) for to in _steps_of(setting.column(name)))
    for fewer_than in (10, 50):
        yield from (MergeLevels(name, fewer_than) for name in levels)
    yield from (TopCode(name) for name in numbers)
    yield RemoveUniques(keys, "in_original")
    if len(keys) > 1 and any(name in levels for name in keys):
        # What has most levels is most like a region.
        region = max((name for name in keys if name in levels), key=lambda name: setting.column(name).n_unique())
        for swaprate in (0.05, 0.2, 0.5):
            yield Swap([region], [name for name in keys if name != region], swaprate=swaprate)
    for share in (0.5, 0.5, 0.5):
        yield KeepRows(share)


def _shown(measure: Measure | None) -> dict[str, str]:
    """A measure in words, or the copies as given."""
    if measure is None:
        return {"measure": "as given", "column": "", "options": ""}
    options = ", ".join(f"{name}={_plain(value)}" for name, value in measure.options().items() if value is not None)
    return {"measure": name_of(measure), "column": ", ".join(measure.columns), "options": options}


def _plain(value: Any) -> str:
    """An option as text, whole numbers as such."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _steps_of(values: pl.Series) -> list[float]:
    """Round numbers below a tenth, a quarter, half and all of the standard deviation, and twice as much."""
    numbers = values.cast(pl.Float64).fill_nan(None).drop_nulls()
    spread = float(numbers.std() or 0.0) if len(numbers) > 1 else 0.0  # type: ignore[arg-type]
    steps: list[float] = []
    for part in (0.1, 0.25, 0.5, 1, 2):
        if spread > 0:
            size = 10.0 ** math.floor(math.log10(part * spread))
            step = float(f"{max(x * size for x in (1, 2, 5) if x * size <= part * spread * (1 + 1e-9)):.3g}")
            whole = values.dtype.is_integer()
            if step not in steps and not (whole and step < 2):
                steps.append(step)
    return steps


def _derived(
    of: Synthesis, copies: list[pa.Table | FileCopy], frame: Frame, k: int, measure: Measure, changed: list[int]
) -> Synthesis:
    """A synthesis of other copies; it knows what was done."""
    records, climbed, exact = of._records, of.climbed, of.exact
    if isinstance(measure, Rename):
        predictors = [{"predictors": [measure.name(x) for x in record["predictors"]]} for record in records]
        records = [r | {"column": measure.name(r["column"])} | p for r, p in zip(records, predictors, strict=True)]
        climbed = {measure.name(x) if x else "": n for x, n in climbed.items()} if climbed is not None else None
        exact = exact | {"column": measure.name(exact["column"])} if exact is not None else None
    done = Synthesis(copies, frame, replace(of.design, k=k), of.random_state_, records, of._partitions)
    done.climbed, done.exact = climbed, exact
    done.recipe = of.recipe
    done.protection = [*of.protection, measure.audit() | {"changed": changed}]
    return done


def _opened(synthesis: Any) -> Synthesis:
    if isinstance(synthesis, Synthesis):
        return synthesis
    if isinstance(synthesis, str | os.PathLike):
        return Synthesis.read(synthesis)
    raise OptionError(
        f"protect needs the Synthesis that synthesize gave, or a folder of copies, not {type(synthesis).__name__}."
    )


def _check_given(
    synthesis: Synthesis,
    measures: list[Any],
    until: Mapping[str, float] | None,
    keys: Sequence[str] | None,
    out: str | os.PathLike[str] | None,
) -> None:
    wrong = [x for x in measures if not isinstance(x, Measure)]
    if wrong or (until is None and not measures):
        raise OptionError(f"measures={measures!r}: must be a list of measures, such as [Smooth('income')].")
    if until is not None:
        if not isinstance(until, Mapping) or not until:
            raise OptionError(f"until={until!r}: must be limits in percent, such as {{'repU': 0.1, 'DiSCO': 5}}.")
        for name, limit in until.items():
            number = isinstance(limit, int | float) and not isinstance(limit, bool)
            if name == CEILING:
                if not number or not limit > 0:
                    raise OptionError(
                        f"until: the limit of {name!r} is {limit!r}: must be a positive number, such as 2."
                    )
            elif not number or not 0 <= limit <= 100:
                raise OptionError(f"until: the limit of {name!r} is {limit!r}: must be between 0 and 100 percent.")
        if set(until) == {CEILING}:
            raise OptionError(f"until: {CEILING} is what measures must not break; name a figure of disclosure, too.")
        if keys is None:
            raise OptionError("until= needs keys=[...]: the columns that an intruder may know.")
    if keys is not None:
        check_column_list("keys", keys)
    if out is not None:
        Output(out)
    elif any(isinstance(copy, FileCopy) for copy in synthesis._copies):
        raise OptionError("These copies are in files: name with out= a new folder for the protected ones.")


def _refusal(measure: Measure, synthesis: Synthesis, setting: Setting) -> str | None:
    """Why a measure must not be applied."""
    name = name_of(measure)
    if measure.removes and synthesis.design.partial:
        return f"{name}: rows of partially synthetic copies are those of the original; none can be left out."
    if isinstance(measure, Label):
        return None
    others = [column for column in getattr(measure, "keys", ()) if column not in setting.compared.names]
    for column in [*measure.columns, *others]:
        if column in synthesis.identifiers:
            return f"{name}: {column!r} is an identifier, which was made anew already."
        if column not in setting.compared.names:
            known = ", ".join(setting.compared.names)
            return f"{name}: no column {column!r} in the original and the copies; there are {known}."
    for column in measure.columns:
        used = _used_by(column, synthesis)
        if used is not None:
            return (
                f"{name}: column {column!r} {used}, which would no longer hold. Protect what it is computed from, "
                "leave it as it is, or drop one of them from the table."
            )
    return None


def _used_by(column: str, synthesis: Synthesis) -> str | None:
    """What fixes a column or is computed of it, as far as that is known."""
    for record in synthesis._records:
        if record["action"] == "passive" and column == record["column"]:
            return "is computed from others"
        if record["action"] == "passive" and column in record["predictors"]:
            return f"is what the passive column {record['column']!r} is computed from"
    for name, record in columns_of(synthesis).items():
        conditions = [parse("when", rule.when) for rule in record.rules]
        if (name == column and record.rules) or _mention(column, conditions):
            return f"is in the rules of {name!r}"
        limits = record.limits(name)
        if (name == column and limits) or _mention(column, limits):
            return f"is in the bounds of {name!r}"
    for forbidden in _forbidden(synthesis):
        if _mention(column, [parse("forbid", forbidden)]):
            return "is in what is forbidden"
    return None


def _mention(column: str, expressions: Sequence[pl.Expr]) -> bool:
    return any(column in expression.meta.root_names() for expression in expressions)


def _forbidden(synthesis: Synthesis) -> list[Any]:
    if synthesis.recipe is None:
        return []
    relations = synthesis.recipe.relations
    return [*synthesis.recipe.forbid, *(relations.forbid if isinstance(relations, Relations) else ())]


def _temporary(out: str | os.PathLike[str]) -> tempfile.TemporaryDirectory[str]:
    """A folder on the disk of ``out``, which has room for copies, unless that is elsewhere."""
    parent = os.path.dirname(os.path.abspath(out)) if "://" not in os.fspath(out) else ""
    return tempfile.TemporaryDirectory(prefix=".fastsynth-", dir=parent if os.path.isdir(parent) else None)


def _write(synthesis: Synthesis, out: str | os.PathLike[str]) -> Synthesis:
    synthesis.write_parquet(out)
    place = Output(out, resume=True).folder
    copies = [FileCopy(place, names) for names in part_names(synthesis.m, synthesis.k)]
    written = Synthesis(
        copies,
        synthesis._frame,
        synthesis.design,
        synthesis.random_state_,
        synthesis._records,
        synthesis._partitions,
    )
    written.climbed, written.exact, written.protection = synthesis.climbed, synthesis.exact, synthesis.protection
    return written


def _secret(compared: Compared, random_state: RandomState) -> tuple[int, int, int]:
    """A seed and a key of the random state and the real rows: who knows only the first cannot make the noise again."""
    digest = hashlib.sha256(str(_entropy(random_state)).encode())
    for name in compared.names:
        column = compared.frame(0, [name])[name]
        # Text is the same in all versions of polars; not all times have one.
        plain = column.to_physical() if column.dtype.is_temporal() else column
        digest.update(plain.to_frame().write_csv().encode())
    seed = digest.digest()
    first, second = (int.from_bytes(part, "little") for part in (seed[16:24], seed[24:]))
    return int.from_bytes(seed[:16], "little"), first, second
