"""Univariate methods: options, the fit of one column, the draw of one column.

A fitted column is one or two trees. A column without predictors is a tree with one leaf, so drawing from it is
drawing with replacement from the observed values (method "sample"). A numeric column with missing values is two
trees: one for which rows are missing, and in what way, one for the values of the rest.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastsynth import _tree
from fastsynth.blur import Blur
from fastsynth.calibration import Shift, Tilt
from fastsynth.columns import Codes, EncodedTable, Ranks, Variable
from fastsynth.effects import ClassEffects, Effects
from fastsynth.errors import OptionError, check_count
from fastsynth.streams import below, hashed


@dataclass(frozen=True, slots=True)
class Cart:
    """Classification and regression trees with donor draws from the leaves (Reiter 2005; synthpop's ``cart``).

    Parameters
    ----------
    minbucket : int, default 5
        Fewest rows in a leaf. A control of privacy (a leaf of one row gives that row's value away) and of bias at
        once. There is no ``minsplit``: a node of 2 * minbucket rows may split, where rpart asks for 3 * minbucket.
    cp : float, default 1e-8
        A split is kept when it lowers the impurity (sum of squares; rows times Gini impurity for categories) by
        at least this share of the root's. rpart instead prunes afterwards, for categories on the number of
        misclassified rows, which removes every split that only sharpens probabilities: so synthpop and mice lose
        the associations of rare outcomes. ``cp=0`` also keeps splits without gain.
    refill : bool, default False
        With ``fit_rows``, draw from leaves that hold eight times as many rows as the tree was grown on (beside
        calibrated columns all rows): more people in each leaf. Leaves that are too wide for all these rows bias
        relations towards zero (slopes of trees grown on 200 of 1,000 rows: 27 % too small with, 6 % without), and no
        combining rule mends that.

    Raises
    ------
    OptionError
        minbucket is not a positive integer, cp is negative or not a finite number, refill is not a bool.

    Notes
    -----
    Fit O(n p depth), draw O(k depth), for n rows, p predictors, k drawn rows. Draws with replacement give only
    values that were observed. Depth is not limited (rpart: 30).

    References
    ----------
    Breiman, Friedman, Olshen and Stone (1984), Classification and Regression Trees.
    Reiter (2005), Using CART to generate partially synthetic public use microdata, JOS 21:441.

    Examples
    --------
    >>> Cart(minbucket=10)
    Cart(minbucket=10, cp=1e-08, refill=False)
    """

    minbucket: int = 5
    cp: float = 1e-8
    refill: bool = False
    name: ClassVar[str] = "cart"

    def __post_init__(self) -> None:
        object.__setattr__(self, "minbucket", check_count("minbucket", self.minbucket))
        if not isinstance(self.cp, numbers.Real) or not math.isfinite(self.cp) or self.cp < 0:
            raise OptionError(f"cp={self.cp!r}: must be a number of at least 0 (1e-8 is the default).")
        object.__setattr__(self, "cp", float(self.cp))
        if not isinstance(self.refill, bool):
            raise OptionError(f"refill={self.refill!r}: must be True or False.")


@dataclass(frozen=True, slots=True)
class Sample:
    """Draws with replacement from the observed column, whatever the other columns are (synthpop's ``sample``).

    Keeps the margin, loses every association. For columns that stand alone.

    Examples
    --------
    >>> Sample()
    Sample()
    """

    name: ClassVar[str] = "sample"


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Trees with calibrated leaves: regression-adjusted donors for numbers, tilted class shares for categories.

    Plain leaf donors (``Cart``) weight people by how often the *synthetic* predictors fall into their leaf. That adds a
    variance which no combining rule sees, so intervals are too short, and asks for small leaves, which copy people.
    Here the tree explains what a regression on the predictors leaves over, and draws are moved along that regression
    from the donor to the synthetic row; leaves can be four times as large.

    Parameters
    ----------
    minbucket : int, default 20
        Fewest rows in a leaf; a quarter of it in leaves of plain donors, where a column falls back to them.

    Raises
    ------
    OptionError
        minbucket is not a positive integer.

    Notes
    -----
    Numbers: least squares on linear, hinge and product features (at most 60), a tree of the means that this leaves
    over, a pooled regression within its leaves, a second tree of the spread of what is left, whose leaves give the
    donors, and back to the grid and range of the observed values. Relations that the features describe keep their size,
    whatever the size of the leaves.

    Categories, and numbers of few values: shares of the classes in the leaves of a tree, tilted by a multinomial logit
    on the linear features. Numbers that people heap on (hours worked: 35, 40, 45) or that lie at no regular distance,
    of up to 256 values, are tilted in proportion to the value. More than 40 categories keep plain leaf shares.

    Values on which a number piles up are drawn first, as classes. Numbers with categories as only predictors, bounded
    ones that would often be drawn beyond their range, and few rows keep plain donors. ``summary`` says what was decided
    for each column, and why.

    With ``fit_rows`` only the shape of the trees is learned from so many rows; features, leaves and shares come from
    all rows. If that holds for all columns (none of them drawn from donors), ``pool`` needs no rule of its own for it.

    References
    ----------
    Reiter (2005), Using CART to generate partially synthetic public use microdata, JOS 21:441, for the leaves; the
    calibration is this package's own, with its evidence in docs/calibrated.md.

    Examples
    --------
    >>> Calibrated()
    Calibrated(minbucket=20)
    """

    minbucket: int = 20
    name: ClassVar[str] = "calibrated"

    def __post_init__(self) -> None:
        object.__setattr__(self, "minbucket", check_count("minbucket", self.minbucket))


@dataclass(frozen=True, slots=True)
class Nested:
    """A fine code drawn within its coarse code: a tree of its own for the rows of each coarse code.

    Only pairs of codes that occur together are drawn (synthpop's ``nested``, which draws from all rows of the coarse
    code; here from leaves of trees on the other predictors). For codes of tens of thousands of levels.

    Parameters
    ----------
    within : str
        The column of coarse codes; it must come earlier in the visit sequence.
    minbucket : int, default 5
        Fewest rows in a leaf, but for coarse codes of fewer rows.

    Raises
    ------
    OptionError
        within is no column name, minbucket is not a positive integer.

    Examples
    --------
    >>> Nested(within="occupation1")
    Nested(within='occupation1', minbucket=5)
    """

    within: str
    minbucket: int = 5
    name: ClassVar[str] = "nested"

    def __post_init__(self) -> None:
        if not isinstance(self.within, str):
            raise OptionError(f"within={self.within!r}: must be the name of the column of coarse codes.")
        object.__setattr__(self, "minbucket", check_count("minbucket", self.minbucket))


@dataclass(frozen=True, slots=True)
class Identifier:
    """Fresh identifiers of the pattern of the real ones, in which no real one lives on.

    Examples
    --------
    >>> Identifier()
    Identifier()
    """

    name: ClassVar[str] = "identifier"


Method = Cart | Sample | Calibrated | Nested | Identifier
# Random words of rows of a table, by their places in it.
Words = Callable[[NDArray[np.uint32]], NDArray[np.uint64]]
# Shares of classes, rows times classes, that are in memory at a time.
SHARES = 1 << 21
# Makes other words of those that chose a group.
POOL_WORDS = np.uint64(0x3C6EF372FE94F82B)
# Rows that are walked down a tree at a time when its leaves are refilled. Never part of the result.
REFILL_ROWS = 65_536
# Leaves, and rows of each, that the spread within leaves is taken from.
SPREAD_LEAVES, SPREAD_ROWS = 100, 50
# Nodes of more than this many times minbucket rows are split at any gain.
FREE = 50
METHODS: dict[str, Callable[..., Method]] = {
    method.name: method for method in (Cart, Sample, Calibrated, Nested, Identifier)
}


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """A fitted tree with its donors. Holds real values: whoever has it has much of the data.

    Trees of calibrated models whose leaves hold shares or means have no donors: ``left`` numbers the leaf then.

    Attributes
    ----------
    nodes : ndarray of shape (n_nodes,), dtype=_tree.NODE
    count : ndarray of shape (n_nodes,), dtype=uint32
        Training rows of each node.
    level_mask, levels : ndarray, dtype=uint64, uint32
        Levels of splits on unordered predictors.
    donors : ndarray of shape (n_rows,), dtype=uint16 or uint32
        Ranks of the target by leaf; of shifted numbers, the bits of what is left of them in single precision.
    spread : tuple of float
        Of each predictor the share of its variance that is left within leaves; NaN for categories.
    """

    nodes: NDArray[np.void]
    count: NDArray[np.uint32]
    level_mask: NDArray[np.uint64]
    levels: NDArray[np.uint32]
    donors: Ranks
    spread: tuple[float, ...] = ()

    @property
    def n_leaves(self) -> int:
        """Number of leaves."""
        return (len(self.nodes) + 1) // 2

    @property
    def smallest_leaf(self) -> int:
        """Training rows of the smallest leaf."""
        return int(self.count[self.nodes["feature"] == _tree.LEAF].min())

    def leaves(self, codes: Codes, rows: NDArray[np.uint32], words: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """Node numbers of the leaves of some rows of ``codes`` (n_rows, n_slots), C order.

        The words decide where a node has not seen a level.
        """
        leaf = np.zeros(len(rows), np.uint32)
        if len(self.nodes) > 1:
            _tree.apply(self.nodes, self.count, self.level_mask, self.levels, codes, rows, words, leaf)
        return leaf

    def numbered(self) -> Tree:
        """The same tree without donors, its leaves numbered."""
        nodes = self.nodes.copy()
        leaf = nodes["feature"] == _tree.LEAF
        nodes["left"][leaf] = np.arange(self.n_leaves)
        return replace(self, nodes=nodes, donors=np.zeros(0, np.uint16))

    def draw(self, codes: Codes, rows: NDArray[np.uint32], words: NDArray[np.uint64], out: Ranks) -> None:
        """Set ``out[rows]`` to donors of the leaves of these rows. ``codes`` is (n_rows, n_slots), C order."""
        _tree.draw(self.nodes, self.count, self.level_mask, self.levels, self.donors, codes, rows, words, out)


@dataclass(frozen=True, slots=True, eq=False)
class Pools:
    """Groups of quantiles of a number: the lowest rank of a group stands for it.

    Attributes
    ----------
    lowest : ndarray of shape (n_groups,)
        Ranks, ascending.
    offset : ndarray of shape (n_groups + 1,), dtype=int64
        Where the donors of each group begin and end.
    donors : ndarray of shape (n_rows,)
        Ranks of the rows, by group.
    """

    lowest: Ranks
    offset: NDArray[np.int64]
    donors: Ranks

    @classmethod
    def of(cls, ranks: Ranks, members: NDArray[np.int64], n_groups: int) -> Pools:
        """Groups of about equal size of the rows' ranks of which the ascending ``members`` belong to some group."""
        donors = np.sort(ranks[np.isin(ranks, members)])
        cuts = donors[np.linspace(0, len(donors), n_groups, endpoint=False).astype(np.int64)] if len(donors) else donors
        lowest = np.unique(cuts)
        return cls(lowest, np.append(np.searchsorted(donors, lowest), len(donors)), donors)

    def groups(self, ranks: Ranks, members: NDArray[np.bool_]) -> Ranks:
        """The lowest rank of the group of each rank; ranks that are no ``members`` stay."""
        if not len(self.lowest):
            return ranks
        place = np.maximum(np.searchsorted(self.lowest, ranks, side="right") - 1, 0)
        return np.where(members[ranks], self.lowest[place], ranks)

    def refilled(self, ranks: Ranks, members: NDArray[np.bool_]) -> Pools:
        """The same groups with the ranks of other rows, those of the first group's lowest one and above."""
        donors = np.sort(ranks[members[ranks]])
        offset = np.append(np.searchsorted(donors, self.lowest), len(donors))
        offset[0] = 0
        return Pools(self.lowest, offset, donors)

    def draw(self, drawn: Ranks, words: NDArray[np.uint64]) -> Ranks:
        """Ranks in which every lowest one of a group is replaced by a donor of the group."""
        if not len(self.lowest):
            return drawn
        place = np.minimum(np.searchsorted(self.lowest, drawn), len(self.lowest) - 1)
        size = self.offset[place + 1] - self.offset[place]
        chosen = self.offset[place] + below(words, size)
        stands = (self.lowest[place] == drawn) & (size > 0)
        replaced: Ranks = np.where(stands, self.donors[np.where(stands, chosen, 0)], drawn)
        return replaced


@dataclass(frozen=True, slots=True, eq=False)
class ColumnModel:
    """The fitted model of one column.

    Attributes
    ----------
    missing : Tree or None
        Draws the kind of missing value (ranks below ``first``) or ``first`` for "present". None where the column
        has no missing values, and for categories, whose missing value is a level.
    values : Tree or None
        Draws the rank of the value. None for a column that is missing throughout.
    first : int
        Lowest rank that is a value.
    tilt_missing, tilt : Tilt or None
        Of calibrated models, what the shares of kinds and of classes are tilted by.
    shift : Shift or None
        Of calibrated models, what turns the donors of ``values`` into numbers.
    means : Tree or None
        With ``shift``, the tree whose leaves have its means.
    present : int or None
        What ``missing`` draws for "present", if not ``first``: where values on which a column piles up are kinds, too.
    pools : Pools or None
        What drawn ranks are replaced by, where they stand for a group of values.
    note : str
        What was decided when a calibrated model was fitted.
    blur : Blur or None
        What is done to the numbers drawn.
    effects : Effects or None
        Of clusters. ``donor`` has to be given then where rows are drawn.
    """

    missing: Tree | None
    values: Tree | None
    first: int
    tilt_missing: Tilt | None = None
    tilt: Tilt | None = None
    shift: Shift | None = None
    means: Tree | None = None
    present: int | None = None
    pools: Pools | None = None
    note: str = ""
    blur: Blur | None = None
    effects: Effects | None = None

    @property
    def has_numbers(self) -> bool:
        """Whether it draws numbers, and not only ranks."""
        return self.shift is not None or self.blur is not None

    @property
    def is_margin(self) -> bool:
        """Whether it is a calibrated column of one leaf: all rows are in it, whatever gave the shape."""
        trees = (tree for tree in (self.missing, self.values) if tree is not None)
        return bool(self.note) and all(tree.n_leaves == 1 for tree in trees)

    @property
    def n_kinds(self) -> int:
        """Rows that were missing, or spikes: drawn as kinds, and not from the leaves of ``values``."""
        if self.missing is None:
            return 0
        present = self.first if self.present is None else self.present
        if self.tilt_missing is None:
            return int((self.missing.donors != present).sum())
        return int(self.tilt_missing.counts[:, self.tilt_missing.ranks != present].sum())

    @property
    def n_spikes(self) -> int:
        """Values on which the column piles up, drawn as classes of their own."""
        if self.missing is None or self.present is None:
            return 0
        ranks = np.unique(self.missing.donors) if self.tilt_missing is None else self.tilt_missing.ranks
        return int(((ranks >= self.first) & (ranks != self.present)).sum())

    @property
    def n_words(self) -> int:
        """Random words needed for one row."""
        return 2 if self.missing is not None or self.pools is not None else 1

    def draw(
        self,
        codes: Codes,
        rows: NDArray[np.uint32],
        words: NDArray[np.uint64],
        ranks: Ranks,
        numbers: NDArray[np.float64],
        donor: NDArray[np.int32] | None = None,
    ) -> None:
        """Draw some rows.

        Parameters
        ----------
        codes : ndarray of shape (n_rows, n_slots), dtype=uint16, C order
            Earlier columns of the synthetic rows.
        rows : ndarray of shape (n,), dtype=uint32
            Those to draw.
        words : ndarray of shape (n_words, n), dtype=uint64
        ranks : ndarray of shape (n_rows,), dtype=uint16 or uint32
            Set to the ranks drawn.
        numbers : ndarray of shape (n_rows,), dtype=float64
            With ``shift`` or ``blur``, set to the numbers drawn, NaN where the rank counts.
        donor : ndarray of shape (n_rows,), dtype=int32
            With ``effects``, the cluster of the original whose effects each row has.
        """
        if self.blur is not None:
            words = self.blur.secret(words)
        first, last = words[0], words[-1]
        if self.missing is not None:
            _draw_part(self.missing, self.tilt_missing, codes, rows, first, ranks, self._kind_effects, donor)
            present = ranks[rows] == (self.first if self.present is None else self.present)
            if self.has_numbers:
                numbers[rows] = np.nan
            rows, last = rows[present], np.ascontiguousarray(last[present])
            first = last
        if self.values is None or not len(rows):
            return
        if self.shift is not None and self.means is not None:
            donors = np.zeros(len(codes), np.uint32)
            self.values.draw(codes, rows, last, donors)
            expected = self.expected(codes, rows, last, donor)
            drawn = self.shift.apply(expected, donors[rows].view(np.float32), last)
            numbers[rows] = drawn if self.blur is None else self.blur.of_numbers(drawn, last)
            return
        _draw_part(self.values, self.tilt, codes, rows, first, ranks, self._class_effects, donor)
        if self.pools is not None:
            # What chose the group must not choose its member as well.
            own = last if self.missing is None else hashed(last, POOL_WORDS)
            ranks[rows] = self.pools.draw(ranks[rows], own)
        if self.blur is not None:
            numbers[rows] = self.blur.of_ranks(ranks[rows], last)

    def has_value(
        self,
        codes: Codes,
        rows: NDArray[np.uint32],
        words: NDArray[np.uint64],
        dtype: np.dtype[Any],
        donor: NDArray[np.int32] | None = None,
    ) -> NDArray[np.bool_]:
        """Which rows have a value by these words (n,), the first of ``draw``, and are of no other kind."""
        if self.missing is None:
            return np.ones(len(rows), bool)
        kinds: Ranks = np.zeros(len(codes), dtype)
        _draw_part(self.missing, self.tilt_missing, codes, rows, words, kinds, self._kind_effects, donor)
        value: NDArray[np.bool_] = kinds[rows] == (self.first if self.present is None else self.present)
        return value

    def expected(
        self,
        codes: Codes,
        rows: NDArray[np.uint32],
        words: NDArray[np.uint64],
        donor: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float64]:
        """What the regression, the leaves of means and the effects of clusters say of some rows."""
        assert self.shift is not None
        assert self.means is not None
        leaf = self.means.nodes["left"][self.means.leaves(codes, rows, words)]
        expected = self.shift.expected(codes.T, rows, leaf)
        if self.effects is not None and self.effects.numbers is not None:
            assert donor is not None
            expected += self.effects.numbers[donor[rows]]
        return expected

    @property
    def _kind_effects(self) -> ClassEffects | None:
        return None if self.effects is None else self.effects.kinds

    @property
    def _class_effects(self) -> ClassEffects | None:
        return None if self.effects is None else self.effects.classes


def _draw_part(
    tree: Tree,
    tilt: Tilt | None,
    codes: Codes,
    rows: NDArray[np.uint32],
    words: NDArray[np.uint64],
    out: Ranks,
    effects: ClassEffects | None,
    donor: NDArray[np.int32] | None,
) -> None:
    if tilt is None:
        tree.draw(codes, rows, words, out)
        return
    leaf = tree.nodes["left"][tree.leaves(codes, rows, words)]
    if effects is None:
        out[rows] = tilt.draw(codes.T, rows, leaf, words)
        return
    assert donor is not None
    # Shares of all classes are in memory for so many rows at a time.
    step = max(1, SHARES // len(tilt.ranks))
    for start in range(0, len(rows), step):
        some = slice(start, start + step)
        shares = tilt.shares(codes.T, rows[some], leaf[some])
        out[rows[some]] = tilt.ranks[effects.draw(shares, donor[rows[some]], words[some])]


def leaves_of(table: EncodedTable, tree: Tree, rows: NDArray[np.uint32], words: Words) -> NDArray[np.uint32]:
    """Node number of the leaf of each row of a table."""
    leaf = np.empty(len(rows), np.uint32)
    for start in range(0, len(rows), REFILL_ROWS):
        block = slice(start, start + REFILL_ROWS)
        # A walk reads many columns of one row, so a few rows at a time are laid out row by row.
        codes = np.ascontiguousarray(table.codes[:, rows[block]].T)
        leaf[block] = tree.leaves(codes, np.arange(len(codes), dtype=np.uint32), words(rows[block]))
    return leaf


def kinds_of_ranks(
    n_ranks: int, first: int, spikes: tuple[int, ...] | NDArray[np.int64]
) -> tuple[NDArray[np.int64], int]:
    """Kind of each rank: kinds of missing and spikes are their own, all else is of one; and what this one is called."""
    present = n_ranks if len(spikes) else first
    kinds = np.full(n_ranks, present)
    kinds[:first] = np.arange(first)
    kinds[list(spikes)] = list(spikes)
    return kinds, present


def fit_column(
    table: EncodedTable,
    target: int,
    predictors: tuple[int, ...],
    method: Cart | Sample,
    rows: NDArray[np.uint32],
    spikes: tuple[int, ...] = (),
    spread: bool = True,
) -> ColumnModel:
    """Fit the model of one column on observed rows.

    Parameters
    ----------
    table : EncodedTable
    target : int
        Slot of the column.
    predictors : tuple of int
        Slots of its predictors.
    method : Cart or Sample
    rows : ndarray of shape (n,), dtype=uint32
        Training rows, with repeats for a bootstrap sample.
    spikes : tuple of int
        Ranks of values of a number that are drawn as classes, apart from the others.
    spread : bool
        Whether the spread of predictors within leaves is wanted, too.
    """
    variable, ranks = table.variables[target], table.ranks[target]
    if isinstance(method, Sample):
        predictors, method = (), Cart()
    fit = partial(_fit_tree, table, target, predictors, method, spread)
    rows = np.ascontiguousarray(rows, np.uint32)
    seen = np.zeros(len(variable.values), np.uint8)
    _tree.occurring(ranks, rows, seen)
    occurs = seen.astype(bool)
    if variable.kind != "numeric":
        return ColumnModel(None, fit(rows, *class_ids(occurs)), variable.first)
    missing = values = None
    kinds, present = kinds_of_ranks(len(occurs), variable.first, spikes)
    if occurs[kinds != present].any():
        of_kind = np.zeros(len(occurs) + 1, bool)
        of_kind[kinds[occurs]] = True
        y, n_classes = class_ids(of_kind)
        tree = fit(rows, y[kinds], n_classes)
        as_ranks: Ranks = kinds.astype(variable.rank_dtype)
        missing = replace(tree, donors=as_ranks[tree.donors])
        rows = rows[kinds[ranks[rows]] == present]
    if len(rows):
        values = fit(rows, scaled(np.where(kinds == present, variable.numbers(), np.nan), len(rows)), 0)
    return ColumnModel(missing, values, variable.first, present=present if present != variable.first else None)


def refill(
    table: EncodedTable,
    target: int,
    model: ColumnModel,
    rows: NDArray[np.uint32],
    words: Words,
    spikes: tuple[int, ...] = (),
) -> ColumnModel:
    """Keep the shape of a fitted column, and fill its leaves with the values of other rows.

    Parameters
    ----------
    table : EncodedTable
    target : int
        Slot of the column.
    model : ColumnModel
        Fitted on some of ``rows``.
    rows : ndarray of shape (n,), dtype=uint32
    words : callable
        Gives random words of rows: levels that a node has not seen go left or right by them.
    spikes : tuple of int
        As in ``fit_column``.
    """
    ranks, variable = table.ranks[target], table.variables[target]
    missing, values, pools = model.missing, model.values, model.pools
    if pools is not None and values is not None:
        kinds, present = kinds_of_ranks(len(variable.values), model.first, spikes)
        grouped = pools.groups(ranks, kinds == present)
        values = refill_tree(table, values, grouped, rows, words)
        return replace(model, values=values, pools=pools.refilled(ranks[rows], kinds == present))
    if missing is not None:
        kinds, present = kinds_of_ranks(len(variable.values), model.first, spikes)
        as_ranks: Ranks = kinds.astype(variable.rank_dtype)
        of_rows = as_ranks[ranks]
        missing = refill_tree(table, missing, of_rows, rows, words)
        rows = rows[of_rows[rows] == present]
    if values is not None:
        values = refill_tree(table, values, ranks, rows, words)
    elif len(rows):
        # No row that gave the shape has a value.
        values = fit_column(table, target, (), Sample(), rows).values
    return replace(model, missing=missing, values=values)


def fit_groups(
    table: EncodedTable,
    target: int,
    predictors: tuple[int, ...],
    method: Cart | Sample,
    rows: NDArray[np.uint32],
    spikes: tuple[int, ...],
    n_groups: int,
) -> ColumnModel:
    """Fit a number as groups of its quantiles, which are classes, and keep the values of each group."""
    variable, ranks = table.variables[target], table.ranks[target]
    pools, grouped = group(variable, ranks, rows, spikes, n_groups)
    seen = np.zeros(len(variable.values), np.uint8)
    _tree.occurring(grouped, rows, seen)
    tree = grow_classes(table, predictors if isinstance(method, Cart) else (), method, rows, grouped, seen.astype(bool))
    return ColumnModel(None, tree, variable.first, pools=pools)


def group(
    variable: Variable, ranks: Ranks, rows: NDArray[np.uint32], spikes: tuple[int, ...], n_groups: int
) -> tuple[Pools, Ranks]:
    """Groups of a number's values but for spikes, and the lowest rank of the group of each row of the table."""
    kinds, present = kinds_of_ranks(len(variable.values), variable.first, spikes)
    members = kinds == present
    pools = Pools.of(ranks[rows], np.flatnonzero(members), n_groups)
    return pools, pools.groups(ranks, members)


def grow_classes(
    table: EncodedTable,
    predictors: tuple[int, ...],
    method: Cart | Sample,
    rows: NDArray[np.uint32],
    ranks: Ranks,
    used: NDArray[np.bool_],
) -> Tree:
    """Grow a tree for classes, given by row of the table, and keep its donors."""
    method = Cart() if isinstance(method, Sample) else method
    y, n_classes = class_ids(used)
    tree = grow(table, predictors, method.minbucket, method.cp, 0.0, rows, ranks, y, n_classes)
    return with_donors(tree, ranks, rows)


def with_donors(tree: Tree, ranks: Ranks, rows: NDArray[np.uint32]) -> Tree:
    """The tree with ranks as donors instead of places in ``rows``."""
    donors = np.empty(len(rows), ranks.dtype)
    _tree.donors_of(ranks, rows, tree.donors, donors)
    return replace(tree, donors=donors)


def one_leaf(donors: Ranks) -> Tree:
    """A tree of one leaf."""
    leaf = np.array([(_tree.LEAF, min(len(donors), 0xFFFF), 0)], _tree.NODE)
    return Tree(leaf, np.array([len(donors)], np.uint32), np.zeros(0, np.uint64), np.zeros(0, np.uint32), donors)


def refill_tree(table: EncodedTable, tree: Tree, ranks: Ranks, rows: NDArray[np.uint32], words: Words) -> Tree:
    """Keep the shape of a tree, and fill its leaves with the values of other rows."""
    leaf = leaves_of(table, tree, rows, words)
    nodes, count, donors = tree.nodes.copy(), tree.count.copy(), np.empty(len(rows), ranks.dtype)
    _tree.refill(leaf, ranks[rows], nodes, count, donors)
    return replace(tree, nodes=nodes, count=count, donors=donors)


def fit_margin(variable: Variable, rows: NDArray[np.int64]) -> ColumnModel:
    """The model of a column without predictors, from the rows of each rank (n_ranks,): draws with replacement."""
    donors: Ranks = np.repeat(np.arange(len(rows), dtype=variable.rank_dtype), rows)
    return ColumnModel(None, one_leaf(donors), variable.first)


def people_of_ranks(columns: Sequence[ColumnModel], n_ranks: int) -> NDArray[np.int64]:
    """How many donors have each value (n_ranks,), over the strata of a column; 0 for what is not drawn from donors."""
    held = np.zeros(n_ranks, np.int64)
    for column in columns:
        if column.values is not None and column.tilt is None and column.shift is None:
            donors = column.values.donors if column.pools is None else column.pools.donors
            held += np.bincount(donors, minlength=n_ranks)
    return held


def class_ids(occurs: NDArray[np.bool_]) -> tuple[NDArray[np.int64], int]:
    """Class ids by rank, and their number; 0 for two classes, which are a 0/1 number: the Gini gain is then twice the
    gain in sum of squares.
    """
    n_classes = int(occurs.sum())
    return np.cumsum(occurs) - 1, n_classes if n_classes > 2 else 0


def scaled(values: NDArray[np.float64], n_rows: int) -> NDArray[np.int64]:
    """Centre and scale values to integers of which ``n_rows`` can be added without loss, in any order.

    The scale is a power of two: decimal ties stay ties where the values are few bits apart. For n rows the
    integers have 61 - log2(n) bits, so a value 1e12 times the bulk still leaves the bulk distinct. Missing values,
    given as NaN, become 0.
    """
    present = np.isfinite(values)
    low, high = float(values[present].min()), float(values[present].max())
    half = high / 2 - low / 2
    if half == 0:
        return np.zeros(len(values), np.int64)
    centre = low / 2 + high / 2
    bits = 61 - math.ceil(math.log2(n_rows))
    centred = np.where(present, values, centre) - centre
    return np.rint(np.ldexp(centred, bits - math.frexp(half)[1])).astype(np.int64)


def _fit_tree(
    table: EncodedTable,
    target: int,
    predictors: tuple[int, ...],
    method: Cart,
    spread: bool,
    rows: NDArray[np.uint32],
    y: NDArray[np.int64],
    n_classes: int,
) -> Tree:
    """Grow a tree for the target whose value is ``y`` by rank."""
    ranks = table.ranks[target]
    tree = grow(table, predictors, method.minbucket, method.cp, 0.0, rows, ranks, y, n_classes, spread)
    return with_donors(tree, ranks, rows)


def grow(
    table: EncodedTable,
    predictors: tuple[int, ...],
    minbucket: int,
    cp: float,
    beyond: float,
    rows: NDArray[np.uint32],
    ranks: Ranks,
    y: NDArray[np.int64],
    n_classes: int,
    spread: bool = True,
) -> Tree:
    """Grow a tree on some rows of a table; ``ranks`` are by row of the table, the target ``y`` by rank.

    Donors of the tree are places in ``rows``. With ``beyond`` small nodes are split only where the gain is that much
    beyond chance.
    """
    variables = [table.variables[slot] for slot in predictors]
    nodes, count, level_mask, levels, order = _tree.grow(
        table.codes,
        np.array(predictors, np.int32),
        np.array([v.n_codes for v in variables], np.int32),
        np.array([_predictor_kind(v) for v in variables], np.uint8),
        rows,
        ranks,
        y,
        n_classes,
        minbucket,
        cp,
        beyond,
        FREE * minbucket,
    )
    found = leaf_spread(table, predictors, rows, nodes, count, order) if spread else ()
    return Tree(nodes, count, level_mask, levels, order, found)


def leaf_spread(
    table: EncodedTable,
    predictors: tuple[int, ...],
    rows: NDArray[np.uint32],
    nodes: NDArray[np.void],
    count: NDArray[np.uint32],
    order: NDArray[np.uint32],
) -> tuple[float, ...]:
    """Share of each predictor's variance that is left within leaves, NaN for categories; of up to 5,000 rows.

    Slopes of what is drawn from plain leaves are attenuated by about this share.
    """
    is_leaf = nodes["feature"] == _tree.LEAF
    starts, sizes = nodes["left"][is_leaf].astype(np.int64), count[is_leaf].astype(np.int64)
    by_place = np.argsort(starts)
    starts, sizes = starts[by_place], sizes[by_place]
    # Leaves by their share of the rows, at most 50 rows of each.
    some = np.unique(np.searchsorted(starts, np.linspace(0, len(order) - 1, SPREAD_LEAVES), side="right") - 1)
    sizes = np.minimum(sizes[some], SPREAD_ROWS)
    ends = np.cumsum(sizes)
    within = np.arange(ends[-1]) + np.repeat(starts[some] - (ends - sizes), sizes)
    leaf = np.repeat(np.arange(len(some)), sizes)
    spread_evenly = np.linspace(0, len(order) - 1, min(len(order), SPREAD_LEAVES * SPREAD_ROWS)).astype(np.int64)
    near, all_over = rows[order[within]], rows[order[spread_evenly]]
    found = []
    for slot in predictors:
        variable = table.variables[slot]
        share = np.nan
        if variable.kind == "numeric":
            x, other = (variable.numbers_at(table.codes[slot, some_rows]) for some_rows in (near, all_over))
            known = ~np.isnan(x)
            size = np.maximum(np.bincount(leaf[known], minlength=len(some)), 1)
            mean = np.bincount(leaf[known], weights=x[known], minlength=len(some)) / size
            other = other[~np.isnan(other)]
            # Squares of huge numbers overflow.
            with np.errstate(over="ignore", invalid="ignore"):
                total = other.var() if len(other) else 0.0
                within_leaves = np.square(x[known] - mean[leaf[known]]).mean() if known.any() else 0.0
            if 0 < total < np.inf:
                share = float(min(within_leaves / total, 1.0))
        found.append(share)
    return tuple(found)


def _predictor_kind(variable: Variable) -> int:
    # The levels of a two-level category, with or without missing values, have no order to find.
    kind = _tree.UNORDERED if variable.kind == "unordered" and variable.n_codes > 3 else 0
    return kind | (_tree.HAS_MISSING if variable.has_missing else 0)
