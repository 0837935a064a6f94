"""Disclosure counts: what the copies tell about real people, beside what no copy could hide.

Identity: who is alone with their keys in the original, and in a copy as well. Attribute: whose keys lead to one value
of a target in a copy, and whether it is theirs. Exact copies: synthetic rows that equal a real row. The measures are
those of Raab, Nowok and Dibben (2024) and Taub, Elliot and others (2018); docs/disclosure.md says how to read them.

All are made of counts of rows by key combination and target level (``fastsynth.tally``). Weights play no part: people
are counted, not what they stand for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from fastsynth.attacks import attack_copies, attack_recipe
from fastsynth.attribution import (
    ATTRIBUTE,
    CHECKS,
    IDENTITY,
    Options,
    attribute_measures,
    face,
    identity_measures,
    name_checks,
)
from fastsynth.columns import is_numeric
from fastsynth.compared import Compared, as_synthesis, open_compared
from fastsynth.errors import DataError, OptionError, check_count, is_real, is_whole
from fastsynth.identical import IdenticalRows, count_identical, hash_rows, identical_rows
from fastsynth.matching import match_risk
from fastsynth.pooling import format_table
from fastsynth.scores import Attack, attacks_table, called_members
from fastsynth.shadows import SHADOW_TARGETS, check_shadows, shadow_models
from fastsynth.source import Source
from fastsynth.synthesis import Synthesizer
from fastsynth.tally import HASHES, Classes, Counts, Mask, Tally, number, pack, padded, quantile_classes, tally

__all__ = ["Disclosure", "IdenticalRows", "disclosure", "identical_rows"]

# Cells of one side that are held at once, about: tables with more rows take their targets in several passes.
MOST_CELLS = 40_000_000


def _passes(both: Compared, options: Options, with_rows: bool = False) -> Iterator[tuple[bool, int, Tally, Tally]]:
    """The counts of the original and of each copy, for as many targets at a time as memory allows.

    Yields whether these are the first targets, the number of the copy, and the two.
    """
    width = max(1, MOST_CELLS // max(both.n, both.k))
    blocks = [options.targets[i : i + width] for i in range(0, len(options.targets), width)] or [()]
    for i, targets in enumerate(blocks):
        view = options.view(targets, with_rows)
        real = tally(both, view, 0)
        for copy in range(1, both.m + 1):
            yield i == 0, copy, real, tally(both, view, copy, real)


# The result


@dataclass(frozen=True, eq=False, repr=False)
class Disclosure(Mapping[str, float]):
    """What copies disclose, in percent, beside baselines.

    ``d["repU"]`` is the mean over the copies, and for measures of targets the largest over these; iteration gives all
    names. Printing shows the tables.

    Attributes
    ----------
    key_columns, targets : list of str
        (``keys()`` is that of a mapping.)
    n, k, m : int
        Rows of the original and of a copy, and copies.
    identity : polars.DataFrame
        One row for each copy: copy (from 1), UiO, UiS, UiOiS, repU.
    attribute : polars.DataFrame
        One row for each target, largest DiSCO first: target, Dorig, Dsyn, iS, DiS, DiSCO, DiSDiO, max_denom (largest
        over the copies), mean_denom, baseCAPd, CAPd, CAPs, DCAP, TCAP, TCAP_synthpop (means over the copies),
        check_1way and check_2way (null, or what deserves a look), excluded (percent of the real rows that do not
        count).
    attribute_by_copy : polars.DataFrame
        The same measures by target and copy.
    checks : polars.DataFrame
        What check_1way and check_2way name: target, copy, check, level, key, key_level, n (real rows disclosed) and
        percent (of these, or of real rows with the key's level).
    identical : IdenticalRows
    matching : polars.DataFrame or None
        For partial synthesis, one row for each copy: expected_matches, expected_match_risk, true_match_rate,
        false_match_rate, n_targets (module ``fastsynth.matching``).
    attacks : polars.DataFrame or None
    left_out : dict of str to str
        Columns that are not compared, and why.

    Notes
    -----
    ``checks``, ``records`` and ``rows``, and check_1way and check_2way of ``attribute``, hold values or places of the
    statistician's data: ``public()`` is the same without them.
    """

    key_columns: list[str]
    targets: list[str]
    n: int
    k: int
    m: int
    identity: pl.DataFrame
    attribute: pl.DataFrame
    attribute_by_copy: pl.DataFrame
    checks: pl.DataFrame
    identical: IdenticalRows
    matching: pl.DataFrame | None
    attacks: pl.DataFrame | None
    left_out: dict[str, str]
    _find: Callable[[], tuple[pl.DataFrame, pl.DataFrame]] | None

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    @cached_property
    def _values(self) -> dict[str, float]:
        values = {name: self.identity[name].to_numpy().mean() for name in IDENTITY}
        for name in ATTRIBUTE if self.targets else ():
            values[name] = self.attribute[name].max()
        values["identical"] = 100 * self.identical.share
        values["identical_unique"] = 100 * self.identical.unique_share
        if self.matching is not None:
            for name in ("expected_match_risk", "true_match_rate", "false_match_rate"):
                values[name] = self.matching[name].mean()
        return {name: float("nan") if value is None else float(value) for name, value in values.items()}

    @property
    def records(self) -> pl.DataFrame:
        """Every real record that something touches, the most touched first.

        Columns: row (from 0, in the order in which the original is read), is_unique (alone with its keys), exact_copy
        (alone in the original with its values in all columns, and equal to a synthetic row) and n_exact_copies (of the
        m copies), replicated (unique on its keys in the original and in a copy) and n_replicated, disclosed (targets
        for which DiSCO holds in a copy) and n_disclosed (targets times copies), called_member (of the records that were
        attacked, those that an attack on membership names at 1 % false positives; null without attacks), n_measures (of
        exact_copy, replicated, disclosed, called_member). Read when first asked for, and kept: it reads all rows again.
        """
        return self._found[0]

    @property
    def rows(self) -> pl.DataFrame:
        """Every synthetic row that is risky, and why.

        Columns: copy (from 1), row (from 0), exact_copy (equal to a real row that no other real row equals),
        replicated_unique (alone with its keys in the copy and in the original), discloses, and targets: those that
        its keys disclose of a real record. Read when first asked for, and kept, as ``records``.
        """
        return self._found[1]

    @cached_property
    def _found(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        if self._find is None:
            raise OptionError("Records and rows are left out of what public() gives. Ask the Disclosure it came from.")
        return self._find()

    def public(self) -> Disclosure:
        """The same without values and places: checks say how many, records and rows cannot be had."""
        count = [
            pl.when(pl.col(name).is_not_null()).then(pl.lit("yes")).alias(name) for name in ("check_1way", "check_2way")
        ]
        return replace(
            self, attribute=self.attribute.with_columns(count), checks=pl.DataFrame(schema=CHECKS), _find=None
        )

    def __str__(self) -> str:
        lines = [
            f"Disclosure by {', '.join(self.key_columns)}: {self.n:,} real rows, {self.m} x {self.k:,} synthetic rows",
            "",
            "Identity, percent of the real rows (UiS: of the synthetic), mean over the copies:",
            format_table(self.identity.select(pl.col(IDENTITY).mean()).select("repU", "UiOiS", "UiS", "UiO")),
        ]
        if self.targets:
            table = self.attribute.select(
                "target", "DiSCO", "DiSDiO", "Dorig", "DCAP", "CAPd", "baseCAPd", "TCAP", "check_1way", "check_2way"
            )
            checks = [name for name in ("check_1way", "check_2way") if table[name].null_count() == table.height]
            lines += ["", "Attribute, percent of the real rows, worst target first:", format_table(table.drop(checks))]
        lines += ["", _identical_line(self.identical, self.m * self.k)]
        if self.matching is not None:
            lines += ["", "Matches of records (row j of a copy is record j), percent:", format_table(self.matching)]
        if self.attacks is not None:
            shown = pl.col("statistic").is_in(["AUC", "TPR at FPR 1 %", "risk", "closer to members"])
            table = self.attacks.filter(shown).select("attack", "statistic", "value", "low", "high", "baseline")
            lines += ["", "Attacks (AUC .5 is a guess; risk is beyond that of people who were not in the data):"]
            lines.append(format_table(table))
        return "\n".join([*lines, "", _READING])

    __repr__ = __str__


_READING = """\
How to read: compare repU with UiO, DiSCO with Dorig (what the real table itself gives away), DCAP with baseCAPd (a
guess without keys), and identical rows with those of a fresh sample. What lies far above them needs a look."""


def _identical_line(found: IdenticalRows, rows: int) -> str:
    lines = []
    for words, share, fresh, held in (
        ("a real row", found.share, found.fresh, found.holdout),
        ("a unique real row", found.unique_share, found.fresh_unique, found.holdout_unique),
    ):
        beside = f"fresh sample: {100 * fresh:.2f} %" + ("" if held is None else f", hold-out: {100 * held:.2f} %")
        lines.append(f"Synthetic rows equal to {words}: {round(share * rows):,} = {100 * share:.2f} % ({beside})")
    return "\n".join(lines)


def disclosure(
    original: Any,
    synthetic: Any,
    keys: Sequence[str] | str,
    target: Sequence[str] | str | None = None,
    *,
    denom_lim: int = 5,
    exclude_ov_denom_lim: bool = False,
    key_nulls: bool | Sequence[str] = True,
    target_nulls: bool = True,
    known_levels: Mapping[str, Sequence[Any]] | None = None,
    known_pairs: Sequence[tuple[str, Any, str, Any]] = (),
    ngroups_target: int | Mapping[str, int] | None = None,
    ngroups_keys: int | Mapping[str, int] | None = None,
    thresh_1way: tuple[float, float] = (50, 90),
    thresh_2way: tuple[float, float] = (4, 80),
    tolerance: float | Mapping[str, float] | None = None,
    match_window: float | Mapping[str, float] | None = None,
    holdout: Any = None,
    shadows: int = 0,
    recipe: Synthesizer | None = None,
    distances: bool = False,
    random_state: int = 0,
    threads: int | None = None,
    client: Any = None,
    memory_limit: int | str | None = None,
) -> Disclosure:
    """Count what copies disclose: identity, attributes, and real rows that come out again.

    Parameters
    ----------
    original
        Any table or path that ``synthesize`` reads.
    synthetic : Synthesis, table, path, or list of tables or paths
        Copies; a folder that ``synthesize(out=...)`` wrote is opened as it is.
    keys : str or list of str
        Quasi-identifiers: what somebody may know about a person.
    target : str or list of str, optional
        What they may want to learn; the default is every other column that is compared.
    denom_lim : int
        With ``exclude_ov_denom_lim``, cells (one combination of keys, one level of the target) of more rows are taken
        out of the original and of the copies before anything of the target is counted: what many people share is known
        anyway. Whose keys then have one level left counts as disclosed.
    exclude_ov_denom_lim : bool
    key_nulls : bool or list of str
        Keys whose nulls are values like any other. Rows with a null in another key do not count.
    target_nulls : bool
        Whether a null of a target can be disclosed.
    known_levels : dict of str to list, optional
        By target, levels that disclose nothing, for example ``{"capital_gain": [0]}``; they have to occur.
    known_pairs : list of (target, level, key, key level), optional
        What everybody knows: a level of a target that goes with a level of a key. ``checks`` names candidates.
    ngroups_target, ngroups_keys : int or dict of str to int, optional
        Classes by quantiles of the original in which numeric targets, or keys, are counted, at least 2; the default
        takes numbers as they are. Nulls and NaN are one class more.
    thresh_1way : tuple of (rows, percent)
        A level of the target with more rows than this of DiSCO, and more than this share of them, is named.
    thresh_2way : tuple of (rows, percent)
        A level of the target that more than this share of the real rows with some level of a key have is named, if a
        cell of more rows than this is disclosed.
    tolerance : float or dict of str to float, optional
        In units of a numeric target: a guess this near counts as right in baseCAPd, CAPd, CAPs and DCAP.
    match_window : float or dict of str to float, optional
        For partial synthesis: numeric keys agree within this share of the real value, for example 0.1; the default is
        that they have to be equal.
    holdout : any table, or a share, optional
        Real rows that the copies were not made from: membership inference, singling out, linkability and inference are
        tried on the copies, with these rows as control (docs/attacks.md). A share such as 0.2 holds so many rows out,
        makes copies of the others as ``recipe`` says, and attacks those: siblings of the copies, not the copies.
    shadows : int
        Runs of shadow models, an even number of at least 8, which fit ``recipe`` to halves of some rows; 0 for none.
    recipe : Synthesizer, optional
        Options of the copies, where attacks make others. The default is what the Synthesis remembers; copies from a
        folder or of a loaded model have none.
    distances : bool
        With ``holdout``, distances to the closest record: alarms, and no evidence of safety (Yao and others 2025).
    random_state : int
        Of the attacks; counts need none. Not that of the synthesis.
    threads, client, memory_limit
        As in ``synthesize``.

    Returns
    -------
    Disclosure

    Raises
    ------
    DataError
        Copies that cannot be compared with the original.
    OptionError
        An option with a value that is not allowed.

    Notes
    -----
    O(n + m k) for each target. Counts are those of synthpop, except that identity is the same for every target and
    option, that groups come from the original alone, and that TCAP is that of Little and others (2022).

    References
    ----------
    Raab, Nowok and Dibben (2024), Practical privacy metrics for synthetic data, arXiv:2406.16826. Taub, Elliot,
    Pampaka and Smith (2018), Differential correct attribution probability for synthetic data, PSD 2018. Little, Elliot
    and Allmendinger (2022), Comparing the utility and disclosure risk of synthetic data with samples of microdata, PSD
    2022.

    Examples
    --------
    >>> import fastsynth as fs
    >>> boys = fs.load_boys()
    >>> d = fs.disclosure(boys, fs.synthesize(boys, m=2, random_state=1), keys=["reg", "gen"], target=["phb", "tv"])
    >>> d["repU"] <= d["UiO"], d.attribute["target"].to_list()
    (True, ['phb', 'tv'])
    """
    both = open_compared(original, synthetic, threads=threads, client=client, memory_limit=memory_limit)
    key_names = _columns(both, "keys", keys)
    if not key_names:
        raise OptionError("keys is empty: name the columns that somebody may know about a person.")
    targets = [name for name in both.names if name not in key_names]
    if target is not None:
        targets = _columns(both, "target", target)
        if set(targets) & set(key_names):
            raise OptionError(f"target={target!r}: a column cannot be a key and a target. Take it out of one of them.")
    exclude_over = check_count("denom_lim", denom_lim)
    groups = {
        **_by_column(both, "ngroups_keys", ngroups_keys, key_names, "an integer of at least 2", _is_groups),
        **_by_column(both, "ngroups_target", ngroups_target, targets, "an integer of at least 2", _is_groups),
    }
    for option, given in (
        ("exclude_ov_denom_lim", exclude_ov_denom_lim),
        ("target_nulls", target_nulls),
        ("distances", distances),
    ):
        if not isinstance(given, bool):
            raise OptionError(f"{option}={given!r}: must be True or False.")
    if isinstance(shadows, bool) or shadows != 0:
        check_shadows(shadows)
    near = _by_column(both, "tolerance", tolerance, targets, "a number of at least 0", _is_tolerance)
    windows = _by_column(both, "match_window", match_window, key_names, "a number above 0 and below 1", _is_share)
    both_ways = sorted(set(groups) & (set(near) | set(windows)))
    if both_ways:
        raise OptionError(f"Column {both_ways[0]!r} is counted in groups: it cannot have a tolerance or a window, too.")
    classes = {name: quantile_classes(both, name, count) for name, count in groups.items()}
    options = Options(
        tuple(key_names),
        tuple(targets),
        exclude_over if exclude_ov_denom_lim else None,
        _not_null(both, key_nulls, key_names),
        target_nulls,
        _known_levels(both, known_levels, targets, classes),
        _known_pairs(both, known_pairs, targets, key_names, classes),
        _threshold("thresh_1way", thresh_1way),
        _threshold("thresh_2way", thresh_2way),
        near,
        windows,
        classes,
    )
    sources = {"threads": threads, "client": client, "memory_limit": memory_limit}
    share = holdout if isinstance(holdout, float) else None
    held = None if holdout is None or share is not None else _open_holdout(both, original, holdout, **sources)
    identical = count_identical(both, held)
    if held is not None:
        _refuse_same_rows(both, held, identical)
    recipe = getattr(synthetic, "recipe", None) if recipe is None else recipe
    if recipe is None and (share is not None or shadows):
        _refuse_without_recipe(synthetic, share, shadows)
    attacks = _attack(both, options, held, share, shadows, recipe, distances, random_state, threads)
    identity, by_copy, checks, excluded = _measure(both, options)
    return Disclosure(
        key_names,
        targets,
        both.n,
        both.k,
        both.m,
        identity,
        _summarise(by_copy, checks, excluded),
        by_copy,
        checks,
        identical,
        _match(both, options),
        attacks_table(attacks) if attacks else None,
        both.left_out,
        lambda: _touched(both, options, called_members(attacks) if attacks else None),
    )


def _measure(both: Compared, options: Options) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, dict[str, float]]:
    """Identity by copy, attribute by target and copy, checks, and the percentage of the real rows not counted."""
    identity, attribute, checks = [], [], []
    excluded: dict[str, float] = {}
    for is_first, copy, real, synthetic in _passes(both, options):
        if is_first:
            d = padded(real.n, len(synthetic.n))
            identity.append({"copy": copy, **identity_measures(d, synthetic.n, synthetic.no_null)})
        for name in real.cells:
            of = face(real, synthetic, name, options)
            attribute.append({"target": name, "copy": copy, **attribute_measures(of, options.tolerance.get(name))})
            checks += name_checks(of, real, name, copy, options)
            excluded[name] = 100 * (both.n - int(of.real.n[of.real_used].sum())) / both.n
    schema = {"target": pl.String, "copy": pl.Int64, **dict.fromkeys(ATTRIBUTE, pl.Float64)}
    return pl.DataFrame(identity), pl.DataFrame(attribute, schema=schema), pl.DataFrame(checks, schema=CHECKS), excluded


def _summarise(by_copy: pl.DataFrame, checks: pl.DataFrame, excluded: Mapping[str, float]) -> pl.DataFrame:
    """One row for each target: means over the copies, and what the checks name in any of them."""
    means = (pl.col(name).max() if name == "max_denom" else pl.col(name).mean() for name in ATTRIBUTE)
    table = by_copy.group_by("target", maintain_order=True).agg(*means)
    text = [
        checks.filter(check=kind)
        .group_by("target", "level", "key", "key_level", maintain_order=True)
        .agg(pl.col("n").max())
        .sort("n", descending=True, maintain_order=True)
        .group_by("target", maintain_order=True)
        .agg((words.first() + _more(pl.len())).alias(f"check_{kind}"))
        for kind, words in (
            ("1way", pl.col("level")),
            ("2way", pl.format("{} with {}={}", "level", "key", "key_level")),
        )
    ]
    for named in text:
        table = table.join(named, on="target", how="left", maintain_order="left")
    share = pl.col("target").replace_strict(excluded, default=0.0, return_dtype=pl.Float64).alias("excluded")
    return table.with_columns(share).sort("DiSCO", descending=True, maintain_order=True)


def _more(number_of: pl.Expr) -> pl.Expr:
    return pl.when(number_of > 1).then(pl.format(" and {} more", number_of - 1)).otherwise(pl.lit(""))


def _match(both: Compared, options: Options) -> pl.DataFrame | None:
    """Risk of matches where row j of a copy is record j."""
    if both.design is None or not both.design.partial or both.n != both.k:
        return None
    sides = (both.frame(side, options.keys) for side in range(both.m + 1))
    real, *copies = (
        side.with_columns(of.label(side[name]).alias(name) for name, of in options.classes.items() if name in side)
        for side in sides
    )
    found = [asdict(match_risk(real, copy, options.windows)) for copy in copies]
    schema = {"false_match_rate": pl.Float64}
    return pl.DataFrame(found, schema_overrides=schema).select(pl.int_range(1, pl.len() + 1).alias("copy"), pl.all())


def _attack(
    both: Compared,
    options: Options,
    held: Compared | None,
    share: float | None,
    shadows: int,
    recipe: Synthesizer | None,
    distances: bool,
    random_state: int,
    threads: int | None,
) -> list[Attack]:
    """Attacks on the copies with a hold-out, on copies that leave a share of the rows out, and by shadow models."""
    keys, targets = list(options.keys), list(options.targets)
    common: dict[str, Any] = {"random_state": random_state, "threads": threads}
    found = []
    if held is not None:
        copies = [both.frame(side) for side in range(1, both.m + 1)]
        sides = (both.frame(0), copies, held.frame(1, both.names))
        found += attack_copies(*sides, keys=keys, targets=targets, distances=distances, **common)
    if recipe is None or (share is None and not shadows):
        return found
    whole = _every_column(both.sides[0])
    if share is not None:
        asked: dict[str, Any] = {"keys": keys, "targets": targets, "distances": distances}
        found += attack_recipe(whole, recipe, holdout=share, m=both.m, **asked, **common)
    if shadows:
        targets_of = min(SHADOW_TARGETS, whole.height)
        found += shadow_models(whole, recipe, shadows=shadows, m=both.m, targets=targets_of, **common)
    return found


def _refuse_without_recipe(synthetic: Any, share: float | None, shadows: int) -> None:
    """Attacks that make new copies need to know how."""
    asked = f"holdout={share!r}" if share is not None else f"shadows={shadows!r}"
    of = as_synthesis(synthetic)
    if of is not None and of.private is not None:
        raise OptionError(
            f"{asked}: attacks that make new copies are not for DpCart, whose budget bounds what any attack can find. "
            "Those on the copies themselves take a hold-out as a table."
        )
    raise OptionError(
        f"{asked}: attacks that make new copies need to know how: give recipe=, a Synthesizer with the options of "
        "these copies, or a hold-out as a table."
    )


def _refuse_same_rows(both: Compared, held: Compared, identical: IdenticalRows) -> None:
    """A hold-out that the copies were made from would show that they tell nothing."""
    if identical.holdout != 1:
        return
    # Rows of common values are in any sample, but so many of them hardly are by chance.
    same = identical.fresh**held.k < 1e-6
    if not same and held.k == both.n:
        real, given = (pl.concat(of.map(hash_rows, None, None, [side])[0]) for of, side in ((both, 0), (held, 1)))
        same = real.sort(HASHES).equals(given.sort(HASHES))
    if same:
        raise OptionError(
            "holdout: all its rows are rows of the original. It must hold people that the copies were not made from: "
            "hold some out before the synthesis, or give a share such as holdout=0.2."
        )


def _every_column(source: Source) -> pl.DataFrame:
    """The original as it is: what a recipe was made for."""
    pieces = [batch for job in source.jobs() for batch in source.batches(*job)]
    return pl.DataFrame(pa.concat_tables(pieces))


# Which rows


def _touched(both: Compared, options: Options, called: Counts | None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The tables ``records`` and ``rows``."""
    real_hashes = pl.concat(both.map(hash_rows, None, None, [0])[0])
    number_of, _ = number(real_hashes)
    alone = real_hashes.with_row_index("row").filter(pl.Series(np.bincount(number_of)[number_of] == 1))
    n_exact, n_replicated = (np.zeros(both.n, dtype=np.int64) for _ in range(2))
    n_disclosed = {name: np.zeros(both.n, dtype=np.int64) for name in options.targets}
    is_unique = np.zeros(both.n, dtype=np.bool_)
    of_rows: dict[int, dict[str, Mask]] = {copy: {} for copy in range(1, both.m + 1)}
    for is_first, copy, real, synthetic in _passes(both, options, with_rows=True):
        own, other = real.rows[""], synthetic.rows[""]
        if is_first:
            hashes = pl.concat(both.map(hash_rows, None, None, [copy])[0]).with_row_index("at")
            n_exact[alone.join(hashes, on=HASHES, how="semi")["row"].to_numpy()] += 1
            exact = np.zeros(len(other), dtype=np.bool_)
            exact[hashes.join(alone, on=HASHES, how="semi")["at"].to_numpy()] = True
            d = padded(real.n, len(synthetic.n))
            is_unique = d[own] == 1
            replicated = (d == 1) & (synthetic.n == 1) & synthetic.no_null
            n_replicated += replicated[own]
            of_rows[copy] = {"exact_copy": exact, "replicated_unique": replicated[other]}
        for name in real.cells:
            of = face(real, synthetic, name, options)
            told = of.real.packed[of.correct]
            n_disclosed[name] += np.isin(pack(own, real.rows[name]), told)
            of_rows[copy][f"= {name}"] = np.isin(other, (told >> np.uint64(32)).astype(np.uint32))
    records = _records(is_unique, n_exact, n_replicated, n_disclosed, called)
    return records, pl.concat(_risky(copy, masks) for copy, masks in of_rows.items())


def _records(
    is_unique: Mask, n_exact: Counts, n_replicated: Counts, n_disclosed: Mapping[str, Counts], called: Counts | None
) -> pl.DataFrame:
    """The real records that something touches, the most touched first."""
    total = sum(n_disclosed.values(), np.zeros(len(n_exact), dtype=np.int64))
    is_called = np.zeros(len(n_exact), dtype=np.bool_)
    is_called[[] if called is None else called] = True
    at = np.flatnonzero((n_exact > 0) | (n_replicated > 0) | (total > 0) | is_called)
    table = pl.DataFrame(
        {
            "row": at,
            "is_unique": is_unique[at],
            "exact_copy": n_exact[at] > 0,
            "n_exact_copies": n_exact[at],
            "replicated": n_replicated[at] > 0,
            "n_replicated": n_replicated[at],
            "disclosed": _names_of({name: count[at] > 0 for name, count in n_disclosed.items()}, len(at)),
            "n_disclosed": total[at],
            "called_member": is_called[at] if called is not None else [None] * len(at),
        }
    )
    measures = [pl.col(name).cast(pl.Int64) for name in ("exact_copy", "replicated", "called_member")]
    table = table.with_columns(pl.sum_horizontal(*measures, pl.col("n_disclosed").clip(0, 1)).alias("n_measures"))
    order = ["n_measures", "n_exact_copies", "n_replicated", "n_disclosed", "row"]
    return table.sort(order, descending=[True, True, True, True, False])


def _risky(copy: int, masks: Mapping[str, Mask]) -> pl.DataFrame:
    """The risky rows of a copy, of masks exact_copy, replicated_unique, and "= name" for each target."""
    at = np.flatnonzero(np.logical_or.reduce(list(masks.values())))
    names = _names_of({name[2:]: mask[at] for name, mask in masks.items() if name.startswith("= ")}, len(at))
    return pl.DataFrame(
        {
            "copy": np.full(len(at), copy),
            "row": at,
            "exact_copy": masks["exact_copy"][at],
            "replicated_unique": masks["replicated_unique"][at],
            "discloses": names.list.len() > 0,
            "targets": names,
        }
    )


def _names_of(masks: Mapping[str, Mask], height: int) -> pl.Series:
    """For each row, the names of the masks that hold."""
    if not masks:
        return pl.repeat([], height, dtype=pl.List(pl.String), eager=True)
    table = pl.DataFrame({str(i): mask for i, mask in enumerate(masks.values())})
    names = [pl.when(pl.col(str(i))).then(pl.lit(name)) for i, name in enumerate(masks)]
    return table.select(pl.concat_list(names).list.drop_nulls()).to_series()


# Options


def _columns(both: Compared, option: str, given: Any) -> list[str]:
    """Columns that an option names."""
    names = [given] if isinstance(given, str) else list(given) if isinstance(given, Iterable) else [given]
    unknown = [name for name in names if name not in both.names]
    if unknown:
        why = f" ({both.left_out[unknown[0]]})" if unknown[0] in both.left_out else ""
        raise OptionError(
            f"{option}={given!r}: {unknown[0]!r} is not compared{why}. Allowed are {', '.join(both.names)}."
        )
    if len(set(names)) < len(names):
        raise OptionError(f"{option}={given!r}: names a column twice.")
    return names


def _by_column(
    both: Compared, option: str, given: Any, columns: Sequence[str], words: str, check: Callable[[Any], bool]
) -> dict[str, Any]:
    """A number for each numeric column: the same for all, or by name."""
    if given is None:
        return {}
    numeric = [name for name in columns if is_numeric(both.schema.field(name).type)]
    if not isinstance(given, Mapping):
        # One number for all is refused by the name of a column if none of them is numeric.
        given = dict.fromkeys(numeric or columns or [""], given)
    for name, value in given.items():
        if not check(value):
            raise OptionError(f"{option}={value!r}: must be {words}, or a dict of such by column.")
        if name not in numeric:
            raise OptionError(f"{option} names {name!r}: allowed are the numeric ones, {', '.join(numeric) or 'none'}.")
    return dict(given)


def _is_groups(value: Any) -> bool:
    return is_whole(value) and value >= 2


def _is_tolerance(value: Any) -> bool:
    return is_real(value) and 0 <= value < float("inf")


def _is_share(value: Any) -> bool:
    return is_real(value) and 0 < value < 1


def _threshold(option: str, given: Any) -> tuple[float, float]:
    if not (isinstance(given, Sequence) and len(given) == 2 and all(map(is_real, given)) and min(given) >= 0):
        raise OptionError(f"{option}={given!r}: must be two numbers of at least 0, rows and percent.")
    return float(given[0]), float(given[1])


def _not_null(both: Compared, key_nulls: Any, keys: Sequence[str]) -> tuple[str, ...]:
    """Keys whose nulls tell nothing."""
    if isinstance(key_nulls, bool):
        return () if key_nulls else tuple(keys)
    counted = _columns(both, "key_nulls", key_nulls)
    others = [name for name in counted if name not in keys]
    if others:
        raise OptionError(f"key_nulls names {others[0]!r}, which is no key. Keys are {', '.join(keys)}.")
    return tuple(name for name in keys if name not in counted)


def _known_levels(
    both: Compared, given: Any, targets: Sequence[str], grouped: Mapping[str, Classes]
) -> dict[str, pl.Series]:
    """Levels of each target that everybody knows."""
    given = {} if given is None else given
    if not isinstance(given, Mapping) or any(
        isinstance(of, str) or not isinstance(of, Iterable) for of in given.values()
    ):
        raise OptionError("known_levels must be a dict of lists of levels by target.")
    for name in given:
        if name not in targets:
            raise OptionError(f"known_levels names {name!r}, which is no target. Targets are {', '.join(targets)}.")
    return {name: _as_levels(both, "known_levels", name, list(of), grouped) for name, of in given.items()}


def _known_pairs(
    both: Compared, given: Any, targets: Sequence[str], keys: Sequence[str], grouped: Mapping[str, Classes]
) -> tuple[tuple[str, pl.Series, str, pl.Series], ...]:
    """Pairs of a level of a target and a level of a key that everybody knows."""
    pairs = []
    for pair in given:
        if not (isinstance(pair, tuple | list) and len(pair) == 4 and pair[0] in targets and pair[2] in keys):
            raise OptionError(
                "known_pairs must be a list of (target, level, key, key level). "
                f"Targets are {', '.join(targets)}; keys are {', '.join(keys)}."
            )
        target, level, key, key_level = pair
        pairs.append(
            (
                target,
                _as_levels(both, "known_pairs", target, [level], grouped),
                key,
                _as_levels(both, "known_pairs", key, [key_level], grouped),
            )
        )
    return tuple(pairs)


def _as_levels(both: Compared, option: str, name: str, levels: list[Any], grouped: Mapping[str, Classes]) -> pl.Series:
    """Levels in the type of their column; the text of categories and of groups. Each has to occur."""
    dtype = pl.DataFrame(pa.schema([both.schema.field(name)]).empty_table()).dtypes[0]
    if name in grouped or dtype in (pl.Categorical, pl.Enum):
        dtype = pl.String()
    try:
        wanted = pl.Series(levels, dtype=dtype, strict=True)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
        raise OptionError(f"{option}: a level given for {name!r} is not of its type, {dtype}.") from None
    present = pl.concat([part for side in both.map(_present, grouped.get(name), [name]) for part in side])
    occurs = wanted.is_in(present.implode(), nulls_equal=True)
    if not occurs.all():
        absent = levels[int((~occurs).arg_max() or 0)]
        raise OptionError(
            f"{option}: {absent!r} does not occur in {name!r}, neither in the original nor in a copy. Take it out, "
            "or write it as the column does."
        )
    return wanted


def _present(classes: Classes | None, rows: pl.DataFrame, _first: int) -> pl.Series:
    """The levels of a column, or its classes, in a piece; of categories their text."""
    values = rows.to_series() if classes is None else classes.label(rows.to_series())
    levels = values.unique()
    return levels.cast(pl.String) if isinstance(levels.dtype, pl.Categorical | pl.Enum) else levels


def _open_holdout(both: Compared, original: Any, holdout: Any, **options: Any) -> Compared:
    """The hold-out beside the original, in the types in which the copies are compared."""
    try:
        held = open_compared(original, [holdout], columns=both.names, **options)
    except DataError as error:
        if "A copy lacks" not in str(error):
            raise
        raise DataError("The hold-out lacks a column that is compared. Give it all columns of the original.") from None
    for mine, theirs in zip(held.schema, both.schema, strict=True):
        # A wider type of the copies holds what the original holds, and so what the hold-out does.
        if mine.type not in (theirs.type, both.sides[0].frame.schema.field(mine.name).type):
            raise DataError(f"Column {mine.name!r} of the hold-out is not {theirs.type} as elsewhere. Cast it to that.")
    return replace(held, schema=both.schema)
