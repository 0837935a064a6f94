"""Differentially private trees: what one row adds to the copies is bounded by a number that the user chooses.

The other methods show the data to the trees, and are careful; this one bounds what anybody can learn of any row,
whatever else he knows. The price is in docs/private.md.

Terms
-----
neighbours
    Two tables of which one has one row more. How many rows there are is a secret, too.
domain
    What a column may hold, said by the user without looking at the data: a list of levels, or bins of numbers. A value
    is a code from here on, its place in the domain; null is the last code, where the domain has it.
budget
    Epsilon (or rho), divided between the columns, and within a column between the levels of its tree and its leaves.

For each column, given the columns before it: a tree of a fixed depth. At each node the exponential mechanism chooses
among all cuts of the domains of the predictors, a leaf holds a histogram of the column's codes with discrete noise. A
row is in one node of each level, so a level costs what one node does, and a column the sum of its levels and its
leaves. All else (shares, draws) uses only these noisy numbers, and costs nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import numbers
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from fastsynth.domains import Counts, Domain, Floats, Numbers, as_said, bind, read_domain
from fastsynth.errors import DataError, ModelFileError, OptionError
from fastsynth.execute import Executor, Threads, Tick
from fastsynth.noise import SecretBits, choose, discrete_gaussian, discrete_laplace, epsilon_of_rho, rho_of_epsilon
from fastsynth.source import Frame, Source, TableSource
from fastsynth.streams import DRAW, random_words

Codes = NDArray[np.unsignedinteger[Any]]

# Levels of a tree.
MOST_DEPTH = 10
# Budget of the leaves of a column, in units of that of one level of splits.
LEAF_UNITS = 3
# Scores of splits are whole multiples of 1/SCALE, rounded down twice: that widens what a row can change by 4.
SCALE, ROUNDING = 2**20, 4
# Rows that are tabulated at a time, and rows that share a stream of random words, which is part of the result.
CHUNK_ROWS, BLOCK_ROWS = 1_048_576, 65_536
FORMAT, FORMAT_VERSION = "fastsynth private model", 1


# What the user says


@dataclass(frozen=True, slots=True)
class DpCart:
    """Trees and leaves by noisy counts: copies that are differentially private.

    The method of a whole table: ``synthesize(data, method=DpCart(...), k=...)``.

    Parameters
    ----------
    epsilon : float
        The budget of the whole table, all columns and copies together: positive. Below 1 is strong, above 10 hardly a
        guarantee.
    domains : dict of str to list, tuple or Bins
        For every column a list of its levels, or ``(low, high, count)`` or ``Bins`` for numbers, dates and times; None
        among them says that the column may be null. What is not in a list counts as its last level, and so does null
        without None: put an "other" there. **Domains are public: take them from the questionnaire or the register's
        description, never from the data.**
    depth : int, default 3
        Levels of splits of each tree, from 0 to 10.
    delta : float, default 0
        0 is pure differential privacy (geometric noise). Above, (epsilon, delta) by way of zero-concentrated
        differential privacy with discrete Gaussian noise, which is less noise for the same epsilon when there are many
        columns. Far below one by the number of rows: 1e-9.

    Raises
    ------
    OptionError
        A value that is not allowed.

    Notes
    -----
    Fit O(n p^2 depth) for n rows and p columns, with a byte or two for each value; draw O(k p depth).

    References
    ----------
    Dwork, McSherry, Nissim and Smith (2006), Calibrating noise to sensitivity in private data analysis, TCC.
    Friedman and Schuster (2010), Data mining with differential privacy, KDD, for the splits of trees.
    Durfee and Rogers (2019), NeurIPS, and Cesar and Rogers (2021), ALT, for what the exponential mechanism costs.

    Examples
    --------
    >>> DpCart(epsilon=1.0, domains={"age": (0, 110, 22), "sex": ["F", "M", None]}).domains["age"]
    Bins(edges=(0, 110), count=22, step=None, null=False)
    """

    epsilon: float
    domains: Mapping[str, Any]
    depth: int = 3
    delta: float = 0.0
    name: ClassVar[str] = "dp_cart"

    def __post_init__(self) -> None:
        if not _is_real(self.epsilon) or not 0 < self.epsilon < 1e6:
            raise OptionError(f"epsilon={self.epsilon!r}: must be a positive number; 1 is usual.")
        if not _is_real(self.delta) or not 0 <= self.delta < 0.5:
            raise OptionError(f"delta={self.delta!r}: must be 0, or a small positive number such as 1e-9.")
        whole = isinstance(self.depth, numbers.Integral) and not isinstance(self.depth, bool)
        if not whole or not 0 <= self.depth <= MOST_DEPTH:
            raise OptionError(f"depth={self.depth!r}: must be an integer from 0 to {MOST_DEPTH}.")
        if not isinstance(self.domains, Mapping) or not self.domains:
            raise OptionError("domains: must be a dict with the domain of every column.")
        object.__setattr__(self, "epsilon", float(self.epsilon))
        object.__setattr__(self, "delta", float(self.delta))
        object.__setattr__(self, "depth", int(self.depth))
        object.__setattr__(self, "domains", {name: as_said(name, domain) for name, domain in self.domains.items()})


def _is_real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


# Budget


@dataclass(frozen=True, slots=True)
class Spend:
    """What one column costs.

    Attributes
    ----------
    column : str
    depth : int
        Levels of splits.
    split, leaf : float
        Of each level of splits and of the leaves: epsilon, or with delta rho.
    """

    column: str
    depth: int
    split: float
    leaf: float

    @property
    def total(self) -> float:
        """Of the column."""
        return self.depth * self.split + self.leaf


@dataclass(frozen=True, slots=True)
class Budget:
    """What the guarantee is, and where it goes.

    Attributes
    ----------
    epsilon, delta : float
    rho : float or None
        Of zero-concentrated differential privacy, where delta is not 0.
    spends : tuple of Spend
        By column, in the order of the synthesis. Columns of one code cost nothing.
    """

    epsilon: float
    delta: float
    rho: float | None
    spends: tuple[Spend, ...]

    @classmethod
    def of(cls, method: DpCart, columns: Iterable[tuple[str, int]]) -> Budget:
        """Divide a budget between columns, each a name and the depth of its tree, -1 for no tree at all.

        One level of splits gets one share of each column, its leaves three.
        """
        columns = list(columns)
        units = sum(depth + LEAF_UNITS for _, depth in columns if depth >= 0)
        rho = rho_of_epsilon(method.epsilon, method.delta) if method.delta else None
        # What is spent is rounded down, so that sums do not exceed the budget by a last digit.
        share = (method.epsilon if rho is None else rho) / max(units, 1) * (1 - 1e-12)
        spends = [
            Spend(name, max(depth, 0), share if depth > 0 else 0.0, share * LEAF_UNITS if depth >= 0 else 0.0)
            for name, depth in columns
        ]
        return cls(method.epsilon, method.delta, rho, tuple(spends))

    def composed(self) -> tuple[float, float]:
        """Epsilon and delta of all that was spent: what they add up to, and for rho what this amounts to."""
        total = math.fsum(spend.total for spend in self.spends)
        return (total, 0.0) if self.rho is None else (epsilon_of_rho(total, self.delta), self.delta)

    def split_epsilon(self, spend: Spend) -> Fraction:
        """Epsilon of the exponential mechanism at a node, which costs epsilon^2 / 8 of rho (Cesar and Rogers 2021)."""
        return Fraction(spend.split if self.rho is None else math.sqrt(8 * spend.split) * (1 - 1e-12))

    def noise(self, spend: Spend) -> Fraction:
        """Scale of the geometric noise of a leaf's counts, or with delta the variance of the discrete Gaussian."""
        return 1 / (Fraction(spend.leaf) if self.rho is None else 2 * Fraction(spend.leaf))

    def variance(self, spend: Spend) -> float:
        """Variance of the noise of a leaf's counts."""
        if self.rho is not None:
            return float(self.noise(spend))
        return 2 * math.exp(-spend.leaf) / math.expm1(-spend.leaf) ** 2

    def statement(self) -> str:
        """What is guaranteed, and what is not, in words."""
        kind = f"epsilon = {self.epsilon:g}" + (f", delta = {self.delta:g}" if self.delta else "")
        # To replace a row is to take one away and to add one; rho grows with the square of the rows.
        replaced = 2 * self.epsilon if self.rho is None else epsilon_of_rho(4 * self.rho, self.delta)
        return (
            f"Differentially private: {kind}, for two tables of which one lacks a row of the other; where one row is "
            f"another, epsilon = {replaced:.4g}. It covers the model and any number of copies drawn from it. It takes "
            "as public: names, order and types of the columns, their domains, depth, and the number of rows asked for. "
            "It does not cover what else is computed from the data (measures of utility and disclosure, how long the "
            "run took), several rows of one person, or whoever knows the random state. The noise is shared by all "
            "copies, so their differences do not show it, and intervals from them are too short. Whatever else is "
            "released of the same people adds its own epsilon."
        )


# Trees


@dataclass(frozen=True, slots=True, eq=False)
class PrivateTree:
    """A tree of full depth and its noisy leaves.

    Attributes
    ----------
    splits : ndarray of shape (2^depth - 1, 3), dtype=int64
        Node i has the children 2 i + 1 and 2 i + 2. Slot of the predictor, and the run of its codes [low, high) that
        goes left.
    counts : ndarray of shape (2^depth, n_codes), dtype=int64
        Rows of each code in each leaf, with noise: some are below 0.
    variance : float
        Of the noise.
    """

    splits: Counts
    counts: Counts
    variance: float
    _ends: Floats = field(init=False)

    def __post_init__(self) -> None:
        # Leaf i ends at i + 1: one sorted list for all leaves.
        ends = np.cumsum(leaf_shares(self.counts), axis=1)
        ends[:, -1] = 1.0
        object.__setattr__(self, "_ends", (np.minimum(ends, 1.0) + np.arange(len(ends))[:, None]).ravel())

    @property
    def depth(self) -> int:
        """Levels of splits."""
        return len(self.counts).bit_length() - 1

    def leaves(self, codes: Sequence[Codes | None], n: int) -> NDArray[np.int64]:
        """Leaf of each row. O(n depth)."""
        node = np.zeros(n, np.int64)
        for level in range(self.depth):
            own = slice(2**level - 1, 2 ** (level + 1) - 1)
            node = 2 * node + ~_goes_left(self.splits[own], node, codes)
        return node

    def draw(self, leaves: NDArray[np.int64], words: NDArray[np.uint64]) -> NDArray[np.int64]:
        """A code for each leaf and random word."""
        width = self.counts.shape[1]
        place = (words >> np.uint64(32)) / 2.0**32
        found = np.searchsorted(self._ends, leaves + place, side="right") - leaves * width
        code: NDArray[np.int64] = np.clip(found, 0, width - 1)
        return code


def _goes_left(splits: Counts, node: NDArray[np.integer[Any]], codes: Sequence[Codes | None]) -> NDArray[np.bool_]:
    """Whether each row goes left at its node."""
    slot, low, high = splits[:, 0][node], splits[:, 1][node], splits[:, 2][node]
    value = np.zeros(len(node), np.int64)
    for x in np.unique(splits[:, 0]).tolist():
        column, here = codes[x], slot == x
        assert column is not None
        value[here] = column[here]
    left: NDArray[np.bool_] = (low <= value) & (value < high)
    return left


def leaf_shares(counts: Counts) -> Floats:
    """Shares of the codes in each leaf: of the nearest counts that are not negative and have the same sum.

    To cut counts off at 0 instead would give the rare codes what it takes from the others.

    Parameters
    ----------
    counts : ndarray of shape (leaves, n_codes), dtype=int64
        With noise.

    Returns
    -------
    ndarray of shape (leaves, n_codes), dtype=float64
        Equal shares where noise leaves nothing at all.

    References
    ----------
    Duchi, Shalev-Shwartz, Singer and Chandra (2008), Efficient projections onto the l1-ball, ICML.

    Examples
    --------
    >>> leaf_shares(np.array([[60, 40, -6]])).round(3).tolist()
    [[0.606, 0.394, 0.0]]
    """
    given = counts.astype(np.float64)
    total = given.sum(1, keepdims=True)
    ordered = -np.sort(-given, axis=1)
    excess = (np.cumsum(ordered, axis=1) - total) / np.arange(1, given.shape[1] + 1)
    n_kept = np.maximum((ordered > excess).sum(1, keepdims=True), 1)
    kept = np.maximum(given - np.take_along_axis(excess, n_kept - 1, axis=1), 0)
    sums = np.where(total > 0, kept.sum(1, keepdims=True), 1)
    shares: Floats = np.where(total > 0, kept / sums, 1 / given.shape[1])
    return shares


def split_scores(table: Counts, splits: Sequence[tuple[int, int]], places: Counts | None) -> NDArray[np.object_]:
    """Scores of the splits of some nodes by one predictor: squared distances between children, in 1/SCALE.

    Parameters
    ----------
    table : ndarray of shape (nodes, n_predictor_codes, n_codes), dtype=int64
        Rows.
    splits : list of (low, high)
        Runs of predictor codes that go left.
    places : ndarray of shape (n_codes, d), dtype=int64, or None
        Points of the codes; None for one axis each: then it is n times half the Gini gain, else a sum of squares.

    Returns
    -------
    ndarray of shape (nodes, splits), dtype=object
        Python's whole numbers, which have no last digit. Only differences within a node mean something.
    """
    total = np.concatenate([np.zeros_like(table[:, :1]), np.cumsum(table, axis=1)], axis=1)
    low, high = np.array(splits).T
    left = total[:, high] - total[:, low]
    scores: NDArray[np.object_] = np.zeros(left.shape[:2], object)
    for side in (left, total[:, -1:] - left):
        # Sums of squared counts are at most n^2, other sums may be beyond 64 bits.
        squares = (side * side).sum(2) if places is None else ((side @ places).astype(object) ** 2).sum(2)
        scores = scores + squares.astype(object) * SCALE // np.maximum(side.sum(2), 1).astype(object)
    return scores


def _tabulate(node: NDArray[np.uint16], n_nodes: int, x: Codes | None, n_x: int, y: Codes, n_y: int) -> Counts:
    """Rows by node, code of a predictor and code of the target: (nodes, n_x, n_y)."""
    counts = np.zeros(n_nodes * n_x * n_y, np.int64)
    for start in range(0, len(y), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        cell = node[rows].astype(np.int64)
        if x is not None:
            cell = cell * n_x + x[rows]
        counts += np.bincount(cell * n_y + y[rows], minlength=len(counts))
    return counts.reshape(n_nodes, n_x, n_y)


def fit_tree(
    shared: tuple[Sequence[Codes], Sequence[Domain], Budget, int], slot: int, predictors: tuple[int, ...], spend: Spend
) -> PrivateTree:
    """Fit one column: the only place, beside ``code_piece``, that sees data. O(n depth predictors)."""
    codes, domains, budget, entropy = shared
    bits = SecretBits(entropy, f"column {slot}")
    y, target = codes[slot], domains[slot]
    places, diameter = target.places
    rate = budget.split_epsilon(spend) / (SCALE * diameter + ROUNDING)
    node = np.zeros(len(y), np.uint16)
    splits = np.zeros((0, 3), np.int64)
    candidates = [(x, low, high) for x in predictors for low, high in domains[x].splits]
    for level in range(spend.depth):
        parts = []
        for x in predictors:
            table = _tabulate(node, 2**level, codes[x], domains[x].n_codes, y, target.n_codes)
            parts.append(split_scores(table, domains[x].splits, places))
        chosen = [candidates[choose(bits, scores, rate)] for scores in np.concatenate(parts, axis=1).tolist()]
        own = np.array(chosen, np.int64)
        for start in range(0, len(y), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            node[rows] = 2 * node[rows] + ~_goes_left(own, node[rows], [column[rows] for column in codes])
        splits = np.vstack([splits, own])
    counts = _tabulate(node, 2**spend.depth, None, 1, y, target.n_codes)[:, 0]
    draw = discrete_laplace if budget.rho is None else discrete_gaussian
    scale = budget.noise(spend)
    noise = np.array([draw(bits, scale) for _ in range(counts.size)], np.int64).reshape(counts.shape)
    return PrivateTree(splits, counts + noise, budget.variance(spend))


# The whole table


@dataclass(frozen=True, slots=True, eq=False)
class PrivateModel:
    """A fitted private synthesis. All of it may be released: it holds noisy counts, and what the user said.

    Attributes
    ----------
    frame : Frame
        The caller's kind of table; what notes of the schema said of the data is left out.
    domains : tuple of Domain
        By slot.
    order : tuple of int
        Slots in the order in which they are drawn.
    trees : dict of int to PrivateTree
        By slot; columns of one code have none.
    budget : Budget
    n_rows : int
        Rows of the original, an estimate from the noisy counts; at least 2.
    """

    frame: Frame
    domains: tuple[Domain, ...]
    order: tuple[int, ...]
    trees: dict[int, PrivateTree]
    budget: Budget
    n_rows: int

    def draw(self, entropy: int, copy: int, start: int, stop: int) -> pa.RecordBatch:
        """Draw rows [start, stop) of one copy; ``start`` is that of a block of 65,536 rows. Costs no budget."""
        n = stop - start
        codes: list[Codes | None] = [None] * len(self.domains)
        arrays: list[pa.Array] = [None] * len(self.domains)
        for slot in self.order:
            domain = self.domains[slot]
            words = self._words(entropy, copy, slot, start, stop)
            drawn = np.zeros(n, np.int64)
            if slot in self.trees:
                tree = self.trees[slot]
                drawn = tree.draw(tree.leaves(codes, n), words[0])
            codes[slot] = drawn.astype(np.uint16)
            arrays[slot] = domain.decode(drawn, words[1])
        return pa.RecordBatch.from_arrays(arrays, schema=self.frame.schema)

    def _words(self, entropy: int, copy: int, slot: int, start: int, stop: int) -> NDArray[np.uint64]:
        """Two random words a row; each block of rows has a stream of its own."""
        parts = []
        for low in range(start, stop, BLOCK_ROWS):
            n = min(low + BLOCK_ROWS, stop) - low
            parts.append(random_words(entropy, (DRAW, copy, slot, low // BLOCK_ROWS), 2 * n).reshape(2, n))
        return np.concatenate(parts, axis=1)

    def records(self) -> list[dict[str, Any]]:
        """One record for each column in the order of the synthesis, ready for JSON."""
        names = self.frame.schema.names
        found = []
        for slot, spend in zip(self.order, self.budget.spends, strict=True):
            tree = self.trees.get(slot)
            of = "epsilon" if self.budget.rho is None else "rho"
            before = [names[x] for x in self.order[: self.order.index(slot)] if x in self.trees and spend.depth]
            found.append(
                {
                    "column": spend.column,
                    "kind": "numeric" if isinstance(self.domains[slot], Numbers) else "unordered",
                    "action": "draw",
                    "method": "DpCart",
                    "predictors": before,
                    "n_leaves": None if tree is None else len(tree.counts),
                    "smallest_leaf": None,
                    "n_rare_levels": None,
                    "leaf_spread": [],
                    "decision": f"{of} {spend.total:.4g} ({spend.depth} x {spend.split:.4g} + {spend.leaf:.4g})",
                    "n_missing_kinds": int(self.domains[slot].null),
                    "n_spikes": None,
                    "n_differ": None,
                    "n_coded": None,
                    "protection": [],
                }
            )
        return found

    def audit(self) -> dict[str, Any]:
        """The guarantee, ready for JSON."""
        return {**asdict(self.budget), "neighbours": "one row more or less", "statement": self.budget.statement()}

    def to_state(self) -> dict[str, Any]:
        """All of the model, ready for JSON."""
        trees = {
            str(slot): {"splits": tree.splits.tolist(), "counts": tree.counts.tolist(), "variance": tree.variance}
            for slot, tree in self.trees.items()
        }
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "statement": self.budget.statement(),
            "backend": self.frame.backend,
            "lazy": self.frame.lazy,
            "schema": base64.b64encode(self.frame.schema.serialize().to_pybytes()).decode(),
            "domains": [domain.state() for domain in self.domains],
            "order": list(self.order),
            "trees": trees,
            "budget": asdict(self.budget),
            "n_rows": self.n_rows,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> PrivateModel:
        """The model of a state.

        Raises
        ------
        ModelFileError
            No state of a private model, or a damaged one.
        """
        if state.get("format") != FORMAT or state.get("format_version") != FORMAT_VERSION:
            raise ModelFileError(f"This is no {FORMAT} of version {FORMAT_VERSION}.")
        try:
            return _read_state(state)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError, binascii.Error, pa.ArrowException):
            raise ModelFileError("The private model is damaged: fetch it again.") from None


def _read_state(state: Mapping[str, Any]) -> PrivateModel:
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(state["schema"], validate=True)))
    domains = tuple(read_domain(f.type, of) for f, of in zip(schema, state["domains"], strict=True))
    order = tuple(state["order"])
    trees = {int(slot): _read_tree(of, int(slot), order, domains) for slot, of in state["trees"].items()}
    modelled = {slot for slot, domain in enumerate(domains) if domain.n_codes > 1}
    spends = tuple(Spend(**spend) for spend in state["budget"]["spends"])
    if sorted(order) != list(range(len(domains))) or set(trees) != modelled or len(spends) != len(order):
        raise ValueError
    budget = Budget(**{**state["budget"], "spends": spends})
    return PrivateModel(
        Frame(state["backend"], state["lazy"], schema), domains, order, trees, budget, int(state["n_rows"])
    )


def _read_tree(state: Mapping[str, Any], slot: int, order: Sequence[int], domains: Sequence[Domain]) -> PrivateTree:
    splits = np.array(state["splits"], np.int64).reshape(-1, 3)
    counts = np.array(state["counts"], np.int64)
    size, known = len(counts), set(order[: order.index(slot)])
    whole = size & (size - 1) == 0 and len(splits) == size - 1 and counts.shape == (size, domains[slot].n_codes)
    if not whole or not set(splits[:, 0].tolist()) <= known:
        raise ValueError
    return PrivateTree(splits, counts, float(state["variance"]))


def fit_private(
    data: pa.Table | Source,
    method: DpCart,
    entropy: int,
    order: Sequence[str] | str = "table",
    executor: Executor | None = None,
    tick: Tick = lambda _: None,
) -> PrivateModel:
    """Fit private trees to all columns.

    Parameters
    ----------
    data : pyarrow.Table or Source
        Any number of rows: whether there are any is a secret, too.
    method : DpCart
    entropy : int
        What the noise is made of. **Whoever knows it can take the noise away**: 128 bits from the system, kept as the
        data are, or thrown away.
    order : list of str or {"auto", "table"}, default "table"
        Order of the synthesis; both words are that of the table.
    executor : Executor, optional
        One task for each piece of the rows, then one for each column. The result is the same for all.
    tick : callable
        Called with 1 for each column that is fitted.

    Returns
    -------
    PrivateModel

    Raises
    ------
    OptionError
        Columns without a domain, domains without a column or not of its type, an order of other columns.

    Examples
    --------
    >>> table = pa.table({"age": [33, 71, 25] * 200, "sex": ["F", "M", None] * 200})
    >>> method = DpCart(epsilon=2.0, domains={"age": (0, 110, 11), "sex": ["F", "M", None]})
    >>> model = fit_private(table, method, entropy=2**127 + 1)
    >>> model.draw(1, 0, 0, 3).schema.names
    ['age', 'sex']
    """
    source = TableSource(data, Frame("pyarrow", False, data.schema)) if isinstance(data, pa.Table) else data
    executor = executor or Threads(1)
    schema = public_schema(source.frame.schema, method)
    domains = tuple(bind(field, method.domains[field.name]) for field in schema)
    slots = _slots(schema.names, order)
    columns: list[tuple[str, int]] = []
    jobs: list[tuple[int, tuple[int, ...]]] = []
    open_slots: list[int] = []
    for slot in slots:
        modelled = domains[slot].n_codes > 1
        columns.append((schema.names[slot], (method.depth if open_slots else 0) if modelled else -1))
        jobs.append((slot, tuple(open_slots)))
        open_slots += [slot] * modelled
    budget = Budget.of(method, columns)
    codes = _code(source, domains, executor)
    tasks = [(*job, spend) for job, spend in zip(jobs, budget.spends, strict=True) if domains[job[0]].n_codes > 1]

    def done(_: int, tree: PrivateTree) -> PrivateTree:
        tick(1)
        return tree

    secret = _noise_secret(entropy, codes, domains, slots, budget)
    fitted = executor.map(fit_tree, (codes, domains, budget, secret), tasks, done)
    trees = {task[0]: tree for task, tree in zip(tasks, fitted, strict=True)}
    frame = replace(source.frame, schema=schema)
    return PrivateModel(frame, domains, slots, trees, budget, _estimate_rows(trees.values()))


def _noise_secret(
    entropy: int, codes: Sequence[Codes], domains: Sequence[Domain], slots: Sequence[int], budget: Budget
) -> int:
    """What the noise of one fit is made of: other data, domains or options get other noise from the same entropy.

    Else two fits with one random state would share their noise, and their difference would show the data without any.
    To whoever does not know the entropy it is as good as drawn anew (as the nonces of RFC 6979).
    """
    digest = hashlib.sha256(json.dumps([[d.state() for d in domains], list(slots), asdict(budget)]).encode())
    for column in codes:
        digest.update(len(column).to_bytes(8, "little"))
        digest.update(column.data)
    return SecretBits(entropy, digest.hexdigest()).below(2**256)


def draw_entropy(secret: int) -> int:
    """What copies are drawn with: it tells nothing of the secret that the noise was made of, so copies may carry it."""
    return SecretBits(secret, "draw").below(2**128)


def _slots(names: list[str], order: Sequence[str] | str) -> tuple[int, ...]:
    if isinstance(order, str) and order in ("auto", "table"):
        return tuple(range(len(names)))
    given = order if isinstance(order, Collection) and not isinstance(order, str) else ()
    if len(given) != len(names) or set(given) != set(names):
        raise OptionError(
            f"visit_sequence={order!r}: with DpCart it must name every column once, in an order that does not come "
            f"from the data; the columns are {', '.join(names)}."
        )
    return tuple(names.index(name) for name in given)


def public_schema(schema: pa.Schema, method: DpCart) -> pa.Schema:
    """Names and types of the columns, without what notes beside them may say of the data.

    pandas notes how many rows and categories there are; only the types of its columns are kept. How long the indices
    of a dictionary are goes with the number of levels in the data: they become those that Arrow takes by default, which
    are enough for any domain. An Enum gets the levels of its domain.
    """
    lacking = [name for name in schema.names if name not in method.domains]
    unknown = [name for name in method.domains if name not in schema.names]
    if lacking or unknown:
        what = [f"no domain for {', '.join(map(repr, lacking))}"] * bool(lacking)
        what += [f"no column {', '.join(map(repr, unknown))}"] * bool(unknown)
        raise OptionError(
            f"domains: {'; '.join(what)}. DpCart needs the domain of every column; drop columns that need not be in "
            "the copies."
        )
    fields = []
    for column in schema:
        notes = {key: note for key, note in (column.metadata or {}).items() if key.startswith(b"_PL_")}
        dtype = column.type
        if any(key.startswith(b"_PL_ENUM") for key in notes):
            dtype, notes = _public_enum(column, notes, method.domains[column.name])
        elif pa.types.is_dictionary(dtype) and not notes:
            dtype = pa.dictionary(pa.int32(), dtype.value_type, dtype.ordered)
        fields.append(pa.field(column.name, dtype, column.nullable, notes or None))
    pandas = schema.pandas_metadata
    return pa.schema(fields, None if pandas is None else {b"pandas": json.dumps(_pandas_types(pandas)).encode()})


def _public_enum(column: pa.Field, notes: dict[bytes, bytes], domain: Any) -> tuple[pa.DataType, dict[bytes, bytes]]:
    """The type of an Enum with the levels of the domain, in its order, and the notes that polars reads it by."""
    levels = [level for level in domain if level is not None] if isinstance(domain, list) else []
    declared = pl.DataFrame(pa.schema([column]).empty_table()).schema[column.name]
    if not isinstance(declared, pl.Enum) or not levels or not set(levels) <= set(declared.categories):
        return column.type, notes  # such a domain is refused where it is bound, or has no levels
    enum = pl.DataFrame(schema={"x": pl.Enum(list(dict.fromkeys(levels)))}).to_arrow().schema.field(0)
    return enum.type, enum.metadata


def _pandas_types(notes: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("name", "field_name", "pandas_type", "numpy_type")
    columns = [{**{key: column.get(key) for key in kept}, "metadata": None} for column in notes["columns"]]
    for column in columns:
        if column["pandas_type"] == "categorical":
            column["numpy_type"] = "int8"  # of its codes, and so told by the number of categories; pandas needs some
    names = ("column_indexes", "creator", "pandas_version")
    return {"index_columns": [], "columns": columns, **{name: notes[name] for name in names if name in notes}}


def _code(source: Source, domains: Sequence[Domain], executor: Executor) -> list[Codes]:
    """Codes of all columns, one pass over the rows; one or two bytes a value."""
    n = source.starts[-1]
    if n >= 2**31:
        raise DataError("DpCart takes at most 2^31 - 1 rows.")
    codes: list[Codes] = [np.empty(n, np.uint8 if domain.n_codes <= 256 else np.uint16) for domain in domains]

    def place(i: int, parts: list[NDArray[np.int64]]) -> None:
        for column, part in zip(codes, parts, strict=True):
            column[source.starts[i] : source.starts[i + 1]] = part

    executor.map(code_piece, (source, domains), source.jobs(), place)
    return codes


def code_piece(shared: tuple[Source, Sequence[Domain]], piece: int, *held: Any) -> list[NDArray[Any]]:
    """Codes of the rows of one piece."""
    source, domains = shared
    batches = [
        [domain.codes(column).astype(np.uint16) for domain, column in zip(domains, batch.columns, strict=True)]
        for batch in source.batches(piece, *held)
    ]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def _estimate_rows(trees: Iterable[PrivateTree]) -> int:
    """Rows of the original: every tree counts all of them; trees of little noise count more."""
    # Noise of a huge budget may vanish in floating point.
    weights = [(1 / (tree.counts.size * max(tree.variance, 1e-9)), int(tree.counts.sum())) for tree in trees]
    if not weights:
        return 2
    mean = sum(weight * total for weight, total in weights) / sum(weight for weight, _ in weights)
    return max(round(mean), 2)
