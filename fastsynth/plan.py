"""Options in, a plan out: which column is drawn when, how, and from what.

Pure: no randomness, no rows. Every check of options is made here; after ``make_plan`` no option is looked at again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

import polars as pl

from fastsynth._tree import MAX_SLOTS
from fastsynth.blur import KINDS
from fastsynth.columns import Variable
from fastsynth.errors import DataError, OptionError, PlanError, check_count, is_real
from fastsynth.expressions import parse
from fastsynth.identifiers import Pattern
from fastsynth.methods import METHODS, Identifier, Method, Nested, Sample
from fastsynth.recode import check_rare

Action = Literal["draw", "keep", "passive", "identifier", "stratum"]
Predictors = Literal["auto", "all"]
# Called with the slots of all columns in visit sequence, those to choose for, and how many predictors for each.
Strongest = Callable[[Sequence[int], Sequence[int], int], Mapping[int, tuple[int, ...]]]

# Tables of more columns than this predict each from so many earlier ones; benchmarks/predictors.py chose the number.
AUTO_COLUMNS = 60
AUTO_PREDICTORS = 20


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """Rows of which a column is known (synthpop's ``rules`` and ``rvalues``): they are not drawn, but set.

    Parameters
    ----------
    when : polars.Expr or str
        True for the rows under the rule; text is read as SQL. It may use columns that come earlier in the visit
        sequence. Missing codes count as the numbers that they are.
    value : optional
        What the column has in these rows: a value that occurs in the column, or by default None for missing. It need
        not be within the column's bounds.

    Raises
    ------
    OptionError
        ``when`` is no expression, or names no column.

    Examples
    --------
    >>> import polars as pl
    >>> Rule(when=pl.col("age") < 16, value="single").value
    'single'
    >>> Rule(when="age < 16", value="single").value
    'single'
    """

    when: pl.Expr | str
    value: Any = None

    def __post_init__(self) -> None:
        if not self.expression().meta.root_names():
            raise OptionError("Rule(when=...) names no column. Say which rows are under the rule.")

    def expression(self) -> pl.Expr:
        """The condition, parsed."""
        return parse("when", self.when)

    def broken(self, name: str) -> pl.Expr:
        """True for rows in which the column of this name breaks the rule."""
        return self.expression() & pl.col(name).ne_missing(pl.lit(self.value))


@dataclass(frozen=True, slots=True)
class Guard:
    """What a leaf must hold before copies draw from it; one with less draws from the first node above that has enough.

    Relations that pure leaves would keep are weakened, and rare values become more frequent, because pure leaves borrow
    them (an illness of .7 % of the rows had 1.5 to 2.4 % with ``l_diversity=2``): ``utility`` shows by how much. What a
    category must be (no pregnant men) belongs into a rule or ``forbid``. Nested codes, numbers that calibrated trees
    move along a regression, and smoothed ones are not concerned.

    Parameters
    ----------
    distinct_donors : int, default 1
        Fewest different people. ``minbucket`` counts rows; bootstrap samples (``proper``) hold people more than once.
    l_diversity : int, default 1
        Fewest different values of the column, or all that it has: in a leaf of one value, who knows that somebody
        belongs to it knows the value (Machanavajjhala et al. 2007).
    max_copies : int, optional
        How often a value may be drawn from donors for each person that has it, in every 65,536 rows of a copy (but for
        rows that are drawn anew). More find another donor, further up the tree if need be; those for which there is
        none, in their stratum, keep theirs, and count in ``climbed``. Missing values, spikes, and classes with tilted
        shares have no donors.

    Raises
    ------
    OptionError
        Something that is no positive integer.

    References
    ----------
    Machanavajjhala, Kifer, Gehrke and Venkitasubramaniam (2007), l-diversity: Privacy beyond k-anonymity, ACM TKDD 1:3.

    Examples
    --------
    >>> Guard(l_diversity=2, max_copies=3)
    Guard(distinct_donors=1, l_diversity=2, max_copies=3)
    """

    distinct_donors: int = 1
    l_diversity: int = 1
    max_copies: int | None = None

    def __post_init__(self) -> None:
        for name in ("distinct_donors", "l_diversity", "max_copies"):
            value = getattr(self, name)
            if value is not None or name != "max_copies":
                object.__setattr__(self, name, check_count(name, value))

    @property
    def of_leaves(self) -> bool:
        """Whether anything is asked of leaves."""
        return self.distinct_donors > 1 or self.l_diversity > 1


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """What is special about one column.

    Parameters
    ----------
    method : str, Calibrated, Cart, Sample, Nested or Identifier, optional
        "calibrated", "cart", "sample", "identifier", a method object with its own options, or "keep" to leave the
        column as it is. The default is the method of the whole synthesis.
    predictors : list of str, optional
        Columns to predict from; they must come earlier in the visit sequence. The default is what the whole synthesis
        says.
    passive : polars.Expr or str, optional
        The column is computed from synthetic columns, row by row, instead of drawn. Text is read as SQL by polars.
        As in mice, where it is written ``~ I(wgt / (hgt / 100)^2)``.
    outcome : bool, default False
        The visit sequence "auto", the default, draws the column after all that are no outcomes.
    cont_na : list, default ()
        Values of a number or date that are no values but kinds of missing, such as -8 (does not apply) and -9 (no
        answer). They are kept apart, drawn as classes, and told apart by the columns that come later. Null and NaN are
        kinds without being named; of a category every level is one already.
    semicont : list, default ()
        Values of a number on which it piles up, such as 0 of an income: drawn as classes, apart from the rest. With the
        method "calibrated" values that 5 % of the rows have are found without being named.
    rules : list of Rule, default ()
        Rows under a rule are left out of the fit, and set in the draw. Where rules overlap the later one counts.
    bounds : (low, high) or polars.Expr or str, optional
        What the column may be: two limits, each a value, an expression, SQL text, or None for no limit; or one
        expression that has to be true (``pl.col("start") <= pl.col("end")``). Draws outside are replaced by others of
        the same leaf, not moved to the limit. Missing values, and missing codes, are within all bounds.
    numtocat : int, optional
        Draw which of about so many groups of its quantiles a number belongs to, as a class, and then one of the group's
        observed values (synthpop's ``numtocat`` and ``catgroups``).

    coding : (low, high), optional
        Top and bottom coding, before anything is learned: values beyond a limit become the limit (None: no limit), but
        for missing codes. Means and tails of the copies are those of the coded column.
    rare_levels : (fewer_than, level), optional
        Levels that fewer rows have become this level, before anything is learned; with None they become null. Where
        they are too few even together, the next rarest join them. ``recoded_`` of the synthesizer counts the rows.

    guard : Guard, optional
        What its leaves must hold; the default is what the whole synthesis says.
    smoothing : {"density", "spline", "rmean"}, optional
        What becomes of a drawn number, so that no observed value lives on (synthpop's ``smoothing``, but learned from
        the observed column, and before later columns are drawn): a draw from a normal kernel around it, whose bandwidth
        is that of Sheather and Jones; or the place of its rank on a smoothing spline or on running means (of 5) of the
        sorted observed values. It stays on the column's grid (a column of few whole numbers keeps their values) and
        within its range. A value that more than 70 % have, a top code, and spikes stay as they are. A kernel widens the
        column by its bandwidth, and weakens relations accordingly.
    noise : float, optional
        Normal noise of so many standard deviations of the column, drawn back towards the mean so that the variance
        stays. Correlations with other columns shrink by sqrt(1 + noise^2): .1 takes half a percent off. Later columns
        are drawn at the noisy value: a ratio or index of it inherits noise that is large beside small values.

    Raises
    ------
    OptionError
        An unknown method; passive, "keep" or "identifier" together with what they exclude; limits that contradict each
        other; fewer than 2 groups; something of another type.

    Examples
    --------
    >>> import polars as pl
    >>> bmi = Column(passive=pl.col("wgt") / (pl.col("hgt") / 100) ** 2)
    >>> job = Column(method="cart", predictors=["age", "sex"])
    >>> income = Column(cont_na=[-8, -9], semicont=[0], bounds=(0, None))
    >>> marital = Column(rules=[Rule(when=pl.col("age") < 16, value="single")])
    """

    method: str | Method | None = None
    predictors: Sequence[str] | None = None
    passive: pl.Expr | str | None = None
    outcome: bool = False
    cont_na: Sequence[Any] = ()
    semicont: Sequence[Any] = ()
    rules: Sequence[Rule] = ()
    bounds: tuple[Any, Any] | pl.Expr | str | None = None
    numtocat: int | None = None
    coding: tuple[Any, Any] | None = None
    rare_levels: tuple[int, str | None] | None = None
    guard: Guard | None = None
    smoothing: str | None = None
    noise: float | None = None

    def __post_init__(self) -> None:
        if self.method is not None and self.method != "keep":
            find_method(self.method)
        for name in ("predictors", "cont_na", "semicont", "rules"):
            given = getattr(self, name)
            if isinstance(given, str | bytes | Rule) or not (given is None or isinstance(given, Sequence)):
                raise OptionError(f"{name}={given!r}: must be a list.")
        if not all(isinstance(name, str) for name in self.predictors or ()):
            raise OptionError(f"predictors={self.predictors!r}: must be a list of column names.")
        if not all(isinstance(rule, Rule) for rule in self.rules):
            raise OptionError("rules must be a list of Rule(when=..., value=...).")
        if not isinstance(self.outcome, bool):
            raise OptionError(f"outcome={self.outcome!r}: must be True or False.")
        _check_guard(self.guard)
        if self.smoothing is not None and self.smoothing not in KINDS:
            raise OptionError(f"smoothing={self.smoothing!r}: allowed are {', '.join(map(repr, KINDS))}.")
        if self.noise is not None and not (is_real(self.noise) and 0 < self.noise <= 1):
            raise OptionError(f"noise={self.noise!r}: must be above 0 and at most 1 standard deviation of the column.")
        if self.numtocat is not None and check_count("numtocat", self.numtocat) < 2:
            raise OptionError("numtocat=1: at least 2 groups are needed.")
        special = self.special()
        self.limits("")
        if self.rare_levels is not None:
            check_rare(self.rare_levels)
        if self.coding is not None:
            _check_coding(self.coding)
        if self.passive is not None:
            parse("passive", self.passive)
            given = [n for n in ("method", "coding", "rare_levels") if getattr(self, n) is not None] + special
            if given:
                named = ", ".join(given)
                raise OptionError(
                    f"A passive column is computed: it takes no {named}. Put rules into its expression "
                    "(pl.when(...)), and bounds into forbid=[...]."
                )
        if self.method == "keep" and special:
            raise OptionError(f"A kept column is not drawn: it takes no {', '.join(special)}.")
        if special and self.method is not None and self.method != "keep":
            _check_alone(find_method(self.method), special)

    def special(self) -> list[str]:
        """Fields that say how the column is drawn, beside its method, and are set."""
        lists, others = ("semicont", "rules"), ("predictors", "bounds", "numtocat", "guard", "smoothing", "noise")
        return [n for n in lists if getattr(self, n)] + [n for n in others if getattr(self, n) is not None]

    def expression(self) -> pl.Expr | None:
        """The passive expression, parsed."""
        return None if self.passive is None else parse("passive", self.passive)

    def limits(self, name: str) -> list[pl.Expr]:
        """Bounds of the column of this name as expressions that have to be true."""
        if self.bounds is None:
            return []
        if isinstance(self.bounds, pl.Expr | str):
            return [parse("bounds", self.bounds)]
        if not isinstance(self.bounds, Sequence) or len(self.bounds) != 2:
            raise OptionError(
                f"bounds={self.bounds!r}: must be a pair (low, high), or an expression that has to be true."
            )
        low, high = (parse("bounds", b) if isinstance(b, str) else b for b in self.bounds)
        wide = [isinstance(b, pl.Expr) or b is None for b in (low, high)]
        try:
            empty = not any(wide) and bool(low > high)
        except TypeError:
            empty = True
        if empty:
            raise OptionError(f"bounds={self.bounds!r}: the lower limit must not be beyond the upper one.")
        column = pl.col(name)
        return [*([] if low is None else [column >= low]), *([] if high is None else [column <= high])]


def _check_guard(guard: Any) -> None:
    if guard is not None and not isinstance(guard, Guard):
        raise OptionError(f"guard={guard!r}: must be a Guard, for example Guard(l_diversity=2).")


def _check_coding(coding: Any) -> None:
    pair = isinstance(coding, Sequence) and not isinstance(coding, str) and len(coding) == 2
    try:
        if pair and any(limit is not None for limit in coding) and (None in coding or coding[0] <= coding[1]):
            return
    except TypeError:
        pass
    raise OptionError(f"coding={coding!r}: must be a pair (low, high), low not above high, of which one may be None.")


PLAIN = Column()


def _check_alone(method: Method, special: list[str]) -> None:
    """Refuse fields that a method has no use for."""
    if isinstance(method, Identifier):
        raise OptionError(f"Identifiers are made anew: method='identifier' takes no {', '.join(special)}.")
    useless = [name for name in special if name in ("semicont", "numtocat", "smoothing", "noise", "guard")]
    if isinstance(method, Nested) and useless:
        raise OptionError(f"Nested codes are classes: they take no {', '.join(useless)}.")


def find_method(method: Any) -> Method:
    """A method from its name or itself."""
    if isinstance(method, Method):
        return method
    if method == Nested.name:
        raise OptionError("method='nested': say within which column, as in Nested(within='occupation1').")
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]()
    allowed = ", ".join(repr(name) for name in [*METHODS, "keep"] if name != Nested.name)
    raise OptionError(f"method={method!r}: allowed are {allowed}, or a method object such as Calibrated(minbucket=20).")


@dataclass(frozen=True, slots=True, eq=False)
class Fixed:
    """A rule, as it is applied.

    Attributes
    ----------
    expression : polars.Expr
        True for the rows under the rule.
    parents : tuple of int
        Slots of the columns it uses.
    rank : int
        Rank of the value that the column has there.
    """

    expression: pl.Expr
    parents: tuple[int, ...]
    rank: int


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """What has to be true of a row, or null, checked while the last of its columns is drawn.

    Attributes
    ----------
    expression : polars.Expr
    parents : tuple of int
        Slots of the columns it uses.
    passive : tuple of int
        Slots of passive columns that have to be computed first, in visit sequence.
    values_only : bool
        Whether missing codes count as missing: so in bounds; in what is forbidden they are the numbers that they are.
    """

    expression: pl.Expr
    parents: tuple[int, ...]
    passive: tuple[int, ...] = ()
    values_only: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One column's turn.

    Attributes
    ----------
    slot : int
        Position of the column in the table.
    name : str
    action : {"draw", "keep", "passive", "identifier", "stratum"}
    method : Cart, Sample, ... or None
    predictors : tuple of int
        Slots to predict from; for a passive column, its parents.
    expression : polars.Expr or None
        Of a passive column.
    rules : tuple of Fixed
    limits : tuple of Limit
        Those of which this is the last column that is drawn.
    spikes : tuple of int
        Ranks of values on which the column piles up, as the caller says.
    groups : int
        Groups of quantiles that are drawn first; 0 for none.
    pattern : Pattern or None
        Of identifiers.
    guard : Guard or None
    smoothing : str or None
    noise : float
    """

    slot: int
    name: str
    action: Action
    method: Method | None = None
    predictors: tuple[int, ...] = ()
    expression: pl.Expr | None = None
    rules: tuple[Fixed, ...] = ()
    limits: tuple[Limit, ...] = ()
    spikes: tuple[int, ...] = ()
    groups: int = 0
    pattern: Pattern | None = None
    guard: Guard | None = None
    smoothing: str | None = None
    noise: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """All steps, in visit sequence.

    Attributes
    ----------
    steps : tuple of Step
    proper : bool
    strata : tuple of int
        Slots of the columns that tell strata apart; they come first, but for kept ones.
    where : bool
        Whether only some cells are replaced.
    """

    steps: tuple[Step, ...]
    proper: bool = False
    strata: tuple[int, ...] = ()
    where: bool = False

    @property
    def partial(self) -> bool:
        """Whether some cells keep their original values."""
        return self.where or any(step.action == "keep" for step in self.steps)


def make_plan(
    variables: Sequence[Variable],
    *,
    method: str | Method = "calibrated",
    columns: Mapping[str, Column] | None = None,
    visit_sequence: Sequence[str] | str = "auto",
    predictors: Predictors = "auto",
    proper: bool = False,
    strongest: Strongest | None = None,
    forbid: Sequence[pl.Expr | str] = (),
    strata: Sequence[str] = (),
    where: Collection[str] | None = None,
    patterns: Mapping[str, Pattern] | None = None,
    guard: Guard | None = None,
) -> Plan:
    """Turn options into a plan.

    Parameters
    ----------
    variables : sequence of Variable
        The columns, in table order, and behind them parts of dates.
    method, columns, visit_sequence, predictors, proper, forbid, strata
        As in ``synthesize``.
    strongest : callable, optional
        Chooses the predictors of "auto" in a wide table, as ``association.strongest`` does. Without it they are all
        earlier columns.
    where : collection of str, optional
        Columns of which some cells are replaced; all others are kept.
    patterns : dict of str to Pattern, optional
        Columns that identify people, and the pattern of fresh identifiers.
    guard : Guard, optional
        Of columns that have none of their own.

    Raises
    ------
    PlanError
        Unknown columns, a predictor or a passive parent visited later than its target, a passive cycle.
    OptionError, DataError
        As in ``synthesize``.
    """
    parts: dict[int, list[int]] = {}
    for place, variable in enumerate(variables):
        if variable.calendar is not None:
            parts.setdefault(variable.calendar[0], []).append(place)
    n_all, variables = len(variables), [v for v in variables if v.calendar is None]
    names = [v.name for v in variables]
    check_columns(columns, names)
    _check_guard(guard)
    columns, patterns = dict(columns or {}), dict(patterns or {})
    if n_all > MAX_SLOTS:
        raise DataError(f"The table has {len(names):,} columns; at most {MAX_SLOTS:,} are possible.")
    if method == "keep":
        raise OptionError("method='keep' for the whole table would synthesise nothing. Set it for single columns.")
    default = find_method(method)
    if isinstance(default, Nested | Identifier):
        raise OptionError(f"method={default!r} is for single columns: columns={{name: Column(method=...)}}.")
    if not isinstance(predictors, str) or predictors not in ("auto", "all"):
        raise OptionError(
            f"predictors={predictors!r}: must be 'auto' or 'all'. For one column use Column(predictors=[...])."
        )
    if not isinstance(proper, bool):
        raise OptionError(f"proper={proper!r}: must be True or False.")
    slot = {name: i for i, name in enumerate(names)}
    expressions = {
        name: _passive(name, column, names) for name, column in columns.items() if column.passive is not None
    }
    kept = [name for name in names if columns.get(name, PLAIN).method == "keep"]
    if where is not None:
        _check_known("where", where, names)
        if set(where) & set(strata):
            raise OptionError(
                f"where names {', '.join(map(repr, sorted(set(where) & set(strata))))}, which make strata."
            )
        kept = _kept_beside(where, names, expressions, columns)
    if len(kept) == len(names):
        raise OptionError("All columns are kept: nothing would be synthesised.")
    _check_strata(strata, names, columns, patterns)
    needed = {name: [n for n in before if n in slot] for name, before in needs(columns).items()}
    order = _order(variables, visit_sequence, columns, kept, [name for name in strata if name not in kept], needed)
    position = {name: i for i, name in enumerate(order)}
    _refuse_limits_of(patterns, columns, forbid)
    if where is not None and not isinstance(forbid, str | pl.Expr):
        # What is kept has to fit to what is drawn.
        forbid = [*forbid, *(rule.broken(name) for name in kept for rule in columns.get(name, PLAIN).rules)]
    free = [name for name in order if name not in {*kept, *patterns, *strata}]
    limits = _limits(columns, forbid, names, expressions, order, free, where is not None)
    narrow = predictors == "auto" and len(names) > AUTO_COLUMNS and strongest is not None
    steps: list[Step] = []
    open_slots = []
    earlier: list[str] = []
    for name in order:
        column, variable = columns.get(name, PLAIN), variables[slot[name]]
        if name in kept:
            steps.append(Step(slot[name], name, "keep"))
        elif name in expressions:
            parents = sorted(set(expressions[name].meta.root_names()), key=names.index)
            _check_earlier(name, parents, position, "passive parent")
            steps.append(Step(slot[name], name, "passive", None, tuple(slot[p] for p in parents), expressions[name]))
        elif name in strata:
            steps.append(Step(slot[name], name, "stratum"))
        elif name in patterns:
            steps.append(Step(slot[name], name, "identifier", Identifier(), pattern=patterns[name]))
        else:
            _check_blur(variable, column)
            own = default if column.method is None else find_method(column.method)
            given: Sequence[str] = earlier
            if column.predictors is not None:
                _refuse_identifiers(name, column.predictors, patterns)
                _check_earlier(name, column.predictors, position, "predictor")
                given = [n for n in column.predictors if n not in strata]
            if isinstance(own, Nested):
                _check_nested(name, own, names, position, patterns)
                given = [*given, own.within]
            if isinstance(own, Sample):
                given = ()
            elif narrow and column.predictors is None:
                open_slots.append(slot[name])
                given = ()
            steps.append(
                Step(
                    slot[name],
                    name,
                    "draw",
                    own,
                    _with_parts([slot[other] for other in given], parts),
                    rules=tuple(_fixed(rule, variable, slot, position) for rule in column.rules),
                    limits=tuple(limits.get(name, ())),
                    spikes=_spikes(variable, column),
                    groups=_groups(variable, column),
                    guard=None if isinstance(own, Nested) else guard if column.guard is None else column.guard,
                    smoothing=column.smoothing,
                    noise=float(column.noise or 0),
                )
            )
        if name not in patterns and name not in strata:
            earlier.append(name)
    if open_slots and strongest is not None:
        able = [slot[name] for name in order if name not in patterns and name not in strata]
        chosen = strongest(able, open_slots, AUTO_PREDICTORS)
        chosen = {of: _with_parts(predictors_of, parts) for of, predictors_of in chosen.items()}
        steps = [_with_predictors(step, chosen, slot) for step in steps]
    return Plan(tuple(steps), proper, tuple(slot[name] for name in strata), where is not None)


def redrawn_column(plan: Plan, variables: Sequence[Variable]) -> int | None:
    """Slot of the column with the most different values among those that can be drawn anew by themselves.

    No other column is computed from it, nested in it, or limited by it. None if there is none.
    """
    used = {slot for step in plan.steps if step.action == "passive" for slot in step.predictors} | set(plan.strata)
    for step in plan.steps:
        used |= {slot for rule in step.rules for slot in rule.parents}
        used |= {slot for limit in step.limits for slot in (*limit.parents, *limit.passive) if slot != step.slot}
        if isinstance(step.method, Nested):
            used |= {slot for slot in step.predictors if variables[slot].name == step.method.within}
    free = [step.slot for step in plan.steps if step.action == "draw" and step.slot not in used]
    return max(free, key=lambda slot: (variables[slot].n_used, slot), default=None)


def _with_parts(slots: Iterable[int], parts: Mapping[int, list[int]]) -> tuple[int, ...]:
    """Slots and those of the parts of dates among them, ascending."""
    own = set(slots)
    return tuple(sorted(own.union(*(parts[slot] for slot in own & parts.keys()))))


def _with_predictors(step: Step, chosen: Mapping[int, tuple[int, ...]], slot: Mapping[str, int]) -> Step:
    if step.slot not in chosen:
        return step
    coarse = {slot[step.method.within]} if isinstance(step.method, Nested) else set()
    return replace(step, predictors=tuple(sorted({*chosen[step.slot], *coarse})))


def _place(variable: Variable, column: Column) -> tuple[bool, bool, int]:
    """Key of the visit sequence "auto": numbers, then categories by rising number of levels; outcomes last."""
    numeric = variable.kind == "numeric"
    return column.outcome, not numeric, 0 if numeric else variable.n_used


def check_columns(columns: Mapping[str, Column] | None, names: Sequence[str]) -> dict[str, Sequence[Any]]:
    """Refuse records of other kinds or of unknown columns; give back the missing codes of each column that has some."""
    if columns is None:
        return {}
    if not isinstance(columns, Mapping):
        raise OptionError(f"columns must be a dict of name: Column(...), not {type(columns).__name__}.")
    _check_known("columns", columns, names)
    for name, column in columns.items():
        if not isinstance(column, Column):
            raise OptionError(f"columns[{name!r}] must be a Column(...), not {type(column).__name__}.")
        _check_known(f"predictors of {name!r}", column.predictors or (), names)
        for rule in column.rules:
            _check_known(f"rule of {name!r}", rule.expression().meta.root_names(), names)
    return {name: column.cont_na for name, column in columns.items() if len(column.cont_na)}


def _check_known(where: str, given: Any, names: Sequence[str]) -> None:
    unknown = [name for name in given if name not in names]
    if unknown:
        known = ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
        raise PlanError(f"{where}: no column {', '.join(map(repr, unknown))}. The table has {known}.")


def _check_strata(
    strata: Sequence[str], names: list[str], columns: Mapping[str, Column], patterns: Mapping[str, Pattern]
) -> None:
    if isinstance(strata, str) or not all(isinstance(name, str) for name in strata):
        raise OptionError("strata must be a list of column names.")
    _check_known("strata", strata, names)
    for name in strata:
        column = columns.get(name, PLAIN)
        if name in patterns or column.method not in (None, "keep") or column.passive is not None or column.special():
            raise OptionError(
                f"strata: {name!r} is drawn as part of the strata, or kept with Column(method='keep'); it takes no "
                "other method and no rules."
            )


def _kept_beside(
    where: Collection[str], names: list[str], expressions: Mapping[str, pl.Expr], columns: Mapping[str, Column]
) -> list[str]:
    """Columns of which no cell is replaced: not named, and not computed from one that is."""
    named = [name for name in where if columns.get(name, PLAIN).method == "keep" or name in expressions]
    if named:
        raise OptionError(
            f"where names {', '.join(map(repr, named))}: kept columns are not replaced, and passive ones follow their "
            "parents. Leave them out."
        )
    replaced = set(where)
    for _ in expressions:
        replaced |= {name for name, of in expressions.items() if replaced & set(of.meta.root_names())}
    return [name for name in names if name not in replaced]


def needs(columns: Mapping[str, Column]) -> dict[str, list[str]]:
    """Columns that have to come before others: parents of passive ones, conditions of rules, coarse codes."""
    needed: dict[str, list[str]] = {}
    for name, column in columns.items():
        expressions = [column.expression(), *(rule.expression() for rule in column.rules)]
        before = [root for expression in expressions if expression is not None for root in expression.meta.root_names()]
        if isinstance(column.method, Nested):
            before.append(column.method.within)
        if before:
            needed[name] = before
    return needed


def _fixed(rule: Rule, variable: Variable, slot: Mapping[str, int], position: Mapping[str, int]) -> Fixed:
    expression = rule.expression()
    parents = sorted(set(expression.meta.root_names()), key=slot.__getitem__)
    _check_earlier(variable.name, parents, position, "column of a rule")
    rank = variable.rank_of(rule.value)
    if rank is None:
        raise OptionError(
            f"Rule(value={rule.value!r}) of {variable.name!r}: the column has no such value. Give one that occurs in "
            "it, or None for missing."
        )
    return Fixed(expression, tuple(slot[name] for name in parents), rank)


def _spikes(variable: Variable, column: Column) -> tuple[int, ...]:
    if column.semicont and variable.kind != "numeric":
        raise OptionError(f"semicont of {variable.name!r}: the column is no number; its levels are classes already.")
    ranks = [variable.rank_of(value) for value in column.semicont]
    for value, rank in zip(column.semicont, ranks, strict=True):
        if rank is None or rank < variable.first:
            raise OptionError(f"semicont={value!r} of {variable.name!r}: the column has no such value.")
    return tuple(sorted({rank for rank in ranks if rank is not None}))


def _check_blur(variable: Variable, column: Column) -> None:
    if variable.kind != "numeric" and (column.smoothing is not None or column.noise is not None):
        what = "smoothing" if column.smoothing is not None else "noise"
        raise OptionError(f"Column {variable.name!r} is {variable.dtype}: {what} is for numbers and dates.")


def _groups(variable: Variable, column: Column) -> int:
    if column.numtocat is None:
        return 0
    if variable.kind != "numeric":
        raise OptionError(f"numtocat of {variable.name!r}: the column is no number.")
    return check_count("numtocat", column.numtocat)


def _check_nested(
    name: str, method: Nested, names: list[str], position: Mapping[str, int], patterns: Mapping[str, Pattern]
) -> None:
    _check_known(f"within of {name!r}", [method.within], names)
    _refuse_identifiers(name, [method.within], patterns)
    _check_earlier(name, [method.within], position, "column of coarse codes")


def _refuse_identifiers(name: str, others: Sequence[str], patterns: Mapping[str, Pattern]) -> None:
    fresh = [other for other in others if other in patterns]
    if fresh:
        raise PlanError(
            f"{', '.join(map(repr, fresh))} cannot predict {name!r}: identifiers are made anew and say nothing. Leave "
            "them out, or give them another method."
        )


def _refuse_limits_of(
    patterns: Mapping[str, Pattern], columns: Mapping[str, Column], forbid: Sequence[pl.Expr | str]
) -> None:
    """Nothing can be said of identifiers that are made anew."""
    asked = list(forbid) if isinstance(forbid, Sequence) and not isinstance(forbid, str) else []
    expressions = [parse("forbid", given) for given in asked] + [
        expression for name, column in columns.items() for expression in column.limits(name)
    ]
    for column in columns.values():
        own = [column.expression(), *(rule.expression() for rule in column.rules)]
        expressions += [expression for expression in own if expression is not None]
    named = sorted({name for expression in expressions for name in expression.meta.root_names()} & patterns.keys())
    if named:
        raise PlanError(
            f"{', '.join(map(repr, named))}: identifiers are made anew, so no rule, limit or expression can use them."
        )


def _limits(
    columns: Mapping[str, Column],
    forbid: Sequence[pl.Expr | str],
    names: list[str],
    expressions: Mapping[str, pl.Expr],
    order: list[str],
    free: list[str],
    partial: bool,
) -> dict[str, list[Limit]]:
    """What has to be true, by the last column drawn of those it depends on; passive ones depend on their parents."""
    if isinstance(forbid, str | pl.Expr) or not isinstance(forbid, Sequence):
        raise OptionError("forbid must be a list of expressions that are true for rows that may not occur.")
    wanted = [("forbid", ~parse("forbid", given), False) for given in forbid]
    for name, column in columns.items():
        wanted += [(f"bounds of {name!r}", expression, True) for expression in column.limits(name)]
    found: dict[str, list[Limit]] = {}
    for what, expression, values_only in wanted:
        roots = list(dict.fromkeys(expression.meta.root_names()))
        _check_known(what, roots, names)
        if not roots:
            raise PlanError(f"{what}: the expression names no column.")
        behind = set(roots)
        for _ in expressions:
            behind |= {p for name in behind & set(expressions) for p in expressions[name].meta.root_names()}
        drawn = [name for name in order if name in behind and name in free and name not in expressions]
        if not drawn and partial:
            continue  # all of them are kept as they are
        if not drawn:
            raise PlanError(
                f"{what}: {', '.join(map(repr, roots))} are not drawn (kept, strata, or identifiers), so nothing can "
                "be excluded."
            )
        last = drawn[-1]
        later = set(order[order.index(last) :])
        computed = [name for name in order if name in behind and name in expressions and name in later]
        slots = tuple(names.index(name) for name in roots), tuple(names.index(name) for name in computed)
        found.setdefault(last, []).append(Limit(expression, *slots, values_only))
    return found


def _passive(name: str, column: Column, names: list[str]) -> pl.Expr:
    expression = column.expression()
    assert expression is not None
    parents = expression.meta.root_names()
    _check_known(f"passive expression of {name!r}", parents, names)
    if not parents:
        raise PlanError(f"passive expression of {name!r} names no column. Compute it from at least one.")
    return expression


def _order(
    variables: Sequence[Variable],
    given: Sequence[str] | str,
    columns: Mapping[str, Column],
    kept: list[str],
    strata: list[str],
    needed: dict[str, list[str]],
) -> list[str]:
    """The visit sequence: kept columns first, for they are there from the start; then strata; then the caller's order,
    or that of "auto" or of the table with each column after those that it needs.
    """
    _refuse_cycle(needed)
    names = [v.name for v in variables]
    first = [*kept, *strata]
    if isinstance(given, str) and given == "auto":
        by_kind = sorted(variables, key=lambda v: _place(v, columns.get(v.name, PLAIN)))
        return _after_needed([v.name for v in by_kind if v.name not in first], first, needed)
    outcomes = [name for name in names if columns.get(name, PLAIN).outcome]
    if outcomes:
        raise OptionError(
            f"outcome=True of {', '.join(map(repr, outcomes))} needs visit_sequence='auto', the default; "
            "in a sequence of your own put the column last."
        )
    if isinstance(given, str) and given == "table":
        return _after_needed([name for name in names if name not in first], first, needed)
    if isinstance(given, str) or not isinstance(given, Collection) or not all(isinstance(name, str) for name in given):
        raise OptionError(f"visit_sequence={given!r}: must be a list of column names, 'auto' or 'table'.")
    _check_known("visit_sequence", given, names)
    twice = sorted(name for name, count in Counter(given).items() if count > 1)
    if twice:
        raise PlanError(f"visit_sequence names {', '.join(map(repr, twice))} more than once.")
    absent = sorted(set(names) - set(given) - set(first), key=names.index)
    if absent:
        raise PlanError(
            f"visit_sequence lacks {', '.join(map(repr, absent))}. Name every column; drop it from the table, or set "
            "Column(method='keep') to release its original values."
        )
    return [*first, *(name for name in given if name not in first)]


def _refuse_cycle(needed: dict[str, list[str]]) -> None:
    try:
        TopologicalSorter({name: [p for p in of if p in needed] for name, of in needed.items()}).prepare()
    except CycleError as error:
        circle = ", ".join(map(repr, sorted(set(error.args[1]))))
        raise PlanError(
            f"Columns depend on each other in a circle (passive expressions, rules, coarse codes): {circle}."
        ) from None


def _after_needed(names: list[str], first: list[str], needed: dict[str, list[str]]) -> list[str]:
    """The names in their order, each moved behind the last one that it needs."""
    order = list(first)
    waiting: list[str] = []
    for name in names:
        waiting.append(name)
        while ready := [w for w in waiting if all(other in order for other in needed.get(w, ()))]:
            order += ready
            waiting = [w for w in waiting if w not in ready]
    return order


def _check_earlier(name: str, others: Sequence[str], position: Mapping[str, int], role: str) -> None:
    late = [other for other in others if position[other] >= position[name] and other != name]
    if name in others:
        raise PlanError(f"{name!r} cannot be its own {role}.")
    if late:
        raise PlanError(
            f"{role} {', '.join(map(repr, late))} of {name!r} is visited later than {name!r}. Give a "
            "visit_sequence, a list of all columns, in which it comes before, or leave it out."
        )
