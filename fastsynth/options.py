"""What callers say of columns: records of options, each checked by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from fastsynth.blocks import BLOCKS, Block
from fastsynth.blur import KINDS
from fastsynth.errors import OptionError, check_count, is_real
from fastsynth.expressions import parse
from fastsynth.methods import METHODS, Identifier, Method, Nested
from fastsynth.recode import check_rare


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
        stays. Correlations with columns that are drawn before it, or jointly, shrink by sqrt(1 + noise^2): .1 takes
        half a percent off. Later columns are drawn at the noisy value, by the model of the clean one, so what relates
        them to it stays; but a ratio or index of it inherits noise that is large beside small values.
        ``fs.slopes(..., corrected=True)`` takes the declared noise out of slopes.

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
        check_guard(self.guard)
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


def check_guard(guard: Any) -> None:
    """Refuse what is neither a Guard nor None."""
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
    if isinstance(method, Block) or (isinstance(method, str) and method in BLOCKS):
        raise OptionError(
            f"method={method!r} is for all columns together, or for some of them: blocks=[LatentNormal('a', 'b')]."
        )
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]()
    allowed = ", ".join(repr(name) for name in [*METHODS, "keep"] if name != Nested.name)
    allowed += f" (for a whole table also {', '.join(map(repr, BLOCKS))})"
    raise OptionError(f"method={method!r}: allowed are {allowed}, or a method object such as Calibrated(minbucket=20).")
