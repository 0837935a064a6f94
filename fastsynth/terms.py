"""The analyst's model in words, and the matrix of its terms.

::

    ks4 ~ ks2*job + (1 + ks2 | school)      ks2 a number, job a category of three levels

    column of the matrix     0    1     2        3        4             5
                             1   ks2  job[1]   job[2]  ks2:job[1]   ks2:job[2]
    random                   *    *

Numbers enter the matrix centred and scaled, also in products: a sampler walks better that way, and a weak prior means
the same for every column. ``Design.natural`` gives coefficients of the numbers as they are.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsynth.errors import DataError, FastsynthError, OptionError

Floats = NDArray[np.float64]
# A term is the columns that are multiplied; the intercept has none.
Term = tuple[str, ...]
# What a column of the matrix is the product of: a number (level 0), or whether a category has a level.
Factor = tuple[str, int]
MOST_COLUMNS = 500
# Share of a predictor's sum of squares below which earlier ones explain it all.
ALIASED = 1e-9
RANDOM_PART = re.compile(r"\(([^()|]*)\|([^()|]*)\)")


@dataclass(frozen=True, slots=True)
class Terms:
    """A parsed model.

    Attributes
    ----------
    outcome : str
    fixed : tuple of tuple of str
        Terms, the intercept (an empty tuple) first, those of fewer columns before those of more.
    random : tuple of tuple of str
        Terms whose coefficients differ between clusters, the intercept first; none without clusters.
    cluster : str or None

    Notes
    -----
    A product brings all that it is made of along, written or not: ``a:b`` is ``a + b + a:b``. The model names what has
    to survive in the copies, and more terms never harm.

    Examples
    --------
    >>> Terms.parse("ks4 ~ ks2*female + (1 + ks2 | school)")  # doctest: +NORMALIZE_WHITESPACE
    Terms(outcome='ks4', fixed=((), ('ks2',), ('female',), ('ks2', 'female')), random=((), ('ks2',)),
          cluster='school')
    """

    outcome: str
    fixed: tuple[Term, ...]
    random: tuple[Term, ...] = ()
    cluster: str | None = None

    @classmethod
    def parse(cls, model: str) -> Terms:
        """Read a model such as ``"ks4 ~ ks2*female + eal + (1 | school)"``.

        ``+``, ``:``, ``*``, ``/`` and ``**`` are those of formulaic, names with spaces stand in backticks, and one part
        in brackets says which coefficients differ between clusters.

        Raises
        ------
        OptionError
            The text cannot be read; a term is a transformation; the outcome is not one column, or is a covariate; there
            is no intercept; several random parts, or one whose terms are not among the fixed ones.
        FastsynthError
            formulaic is not installed.
        """
        if not isinstance(model, str) or model.count("~") != 1:
            raise _unreadable(model, "It needs an outcome, a tilde and terms")
        left, right = model.split("~")
        parts = RANDOM_PART.findall(right)
        if len(parts) > 1:
            raise _unreadable(model, "One random part is possible, as there are two levels: put its terms together")
        # An intercept more changes nothing.
        fixed = _closed(_read(RANDOM_PART.sub("1", right), model))
        outcome = _read(left, model)[1:]
        if len(outcome) != 1 or len(outcome[0]) != 1:
            raise _unreadable(model, "Left of the tilde stands one column")
        name = outcome[0][0]
        if any(name in term for term in fixed):
            raise _unreadable(model, f"{name!r} is the outcome and a covariate")
        if not parts:
            return cls(name, fixed)
        random, cluster = _closed(_read(parts[0][0], model)), _read(parts[0][1], model)[1:]
        if len(cluster) != 1 or len(cluster[0]) != 1:
            raise _unreadable(model, "Right of the bar stands one column, that of the clusters")
        for term in random:
            if not any(set(term) == set(other) for other in fixed):
                raise _unreadable(model, f"{':'.join(term)!r} is random: name it among the other terms, too")
        if any(cluster[0][0] in (name, *term) for term in fixed):
            raise _unreadable(model, f"{cluster[0][0]!r} is the column of the clusters and a term")
        return cls(name, fixed, random, cluster[0][0])

    @property
    def covariates(self) -> tuple[str, ...]:
        """Columns of the terms, in their order."""
        return tuple(dict.fromkeys(name for term in self.fixed for name in term))


def _read(text: str, model: str) -> list[Term]:
    """Terms of one side, the intercept first."""
    try:
        from formulaic.errors import FormulaicError
        from formulaic.parser import DefaultFormulaParser
    except ImportError:
        raise FastsynthError("Models in words need formulaic: pip install 'fastsynth[analysis]'.") from None
    if "|" in text:
        raise _unreadable(model, "A random part is written (1 + x | cluster), with one bar, and a sum with the rest")
    try:
        # The parser gives a set of terms, and sides of a formula if there are any.
        found = [term.factors for term in DefaultFormulaParser().get_terms(text).root]
    except (FormulaicError, AttributeError):
        raise _unreadable(model, "It cannot be read") from None
    for factor in itertools.chain.from_iterable(found):
        if factor.eval_method.name == "PYTHON":
            what = f"{factor.expr!r} is a transformation: make a column of it, as only products are possible"
            raise _unreadable(model, what)
    terms = [tuple(factor.expr for factor in factors if factor.eval_method.name == "LOOKUP") for factors in found]
    if () not in terms:
        raise _unreadable(model, "A model without an intercept is not possible")
    return sorted(terms, key=len)


def _closed(terms: Sequence[Term]) -> tuple[Term, ...]:
    """The terms and all that they are made of, each once."""
    every: dict[frozenset[str], Term] = {}
    for term in terms:
        for size in range(len(term) + 1):
            for part in itertools.combinations(term, size):
                every.setdefault(frozenset(part), part)
    return tuple(sorted(every.values(), key=len))


def _unreadable(model: Any, what: str) -> OptionError:
    return OptionError(f"model={model!r}: {what}. Write it like 'ks4 ~ ks2*female + eal + (1|school)'.")


@dataclass(frozen=True, slots=True)
class Design:
    """How rows become the matrix of a model's terms.

    Attributes
    ----------
    columns : tuple of tuple of (str, int)
        What each column of the matrix is the product of: numbers (level 0), and levels 1 and above of categories, whose
        level 0 is the reference. The intercept comes first and is the product of nothing.
    random : tuple of int
        Columns whose coefficients differ between clusters.
    centre, scale : dict of str to float
        Of the numbers.

    Examples
    --------
    >>> terms = Terms.parse("y ~ x*job")
    >>> values = {"x": np.array([1.0, 2.0, 3.0]), "job": np.array([0, 1, 2], np.int32)}
    >>> design = Design.of(terms, values, {"job": 3})
    >>> design.names
    ('intercept', 'x', 'job[1]', 'job[2]', 'x:job[1]', 'x:job[2]')
    >>> design.matrix(values).round(3).tolist()[2]
    [1.0, 1.225, 0.0, 1.0, 0.0, 1.225]
    """

    columns: tuple[tuple[Factor, ...], ...]
    random: tuple[int, ...]
    centre: dict[str, float]
    scale: dict[str, float]

    @classmethod
    def of(cls, terms: Terms, values: Mapping[str, NDArray[Any]], n_levels: Mapping[str, int]) -> Design:
        """Learn the centre and scale of the numbers.

        Parameters
        ----------
        terms : Terms
        values : mapping of str to ndarray of shape (n,)
            The covariates: float64, NaN where missing, or codes of a category.
        n_levels : mapping of str to int
            Levels of those that are categories.

        Raises
        ------
        DataError
            There are more than 500 columns; a number has no value.
        """
        columns: list[tuple[Factor, ...]] = []
        random: list[int] = []
        loose = {frozenset(term) for term in terms.random}
        for term in terms.fixed:
            factors = [
                [(name, level) for level in range(1, n_levels[name])] if name in n_levels else [(name, 0)]
                for name in term
            ]
            made = list(itertools.product(*factors))
            if frozenset(term) in loose:
                random += range(len(columns), len(columns) + len(made))
            columns += made
            if len(columns) > MOST_COLUMNS:
                raise DataError(
                    f"model: {':'.join(term)!r} brings the model to {len(columns)} coefficients, and at most "
                    f"{MOST_COLUMNS} are possible. Leave the term out, or put levels together."
                )
        centre, scale = {}, {}
        for name in terms.covariates:
            if name not in n_levels:
                known = values[name][np.isfinite(values[name])]
                if not len(known):
                    raise DataError(f"model: column {name!r} has no value. Leave it out of the model.")
                centre[name], scale[name] = float(known.mean()), float(known.std()) or 1.0
        return cls(tuple(columns), tuple(random), centre, scale)

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each column of the matrix, as "x", "job[2]" or "x:job[2]"."""
        factors = (":".join(f"{name}[{level}]" if level else name for name, level in column) for column in self.columns)
        return tuple(name or "intercept" for name in factors)

    def matrix(self, values: Mapping[str, NDArray[Any]], n: int | None = None) -> Floats:
        """The columns (n, n_columns), Fortran order, of n rows without missing values. O(n n_columns).

        Parameters
        ----------
        values : mapping of str to ndarray of shape (n,)
        n : int, optional
            For a model without covariates.

        Raises
        ------
        DataError
            A covariate has missing values.
        """
        factors: dict[Factor, Floats] = {}
        for name, level in dict.fromkeys(itertools.chain.from_iterable(self.columns)):
            given = values[name]
            if (np.isnan(given) if name in self.centre else given < 0).any():
                raise DataError(f"model: column {name!r} has missing values that were not filled.")
            factors[name, level] = (given == level).astype(np.float64) if level else self._standard(name, given)
        n = len(next(iter(values.values()))) if n is None else n
        out = np.ones((n, len(self.columns)), order="F")
        for i, column in enumerate(self.columns):
            for factor in column:
                out[:, i] *= factors[factor]
        return out

    def _standard(self, name: str, given: Floats) -> Floats:
        return (given - self.centre[name]) / self.scale[name]

    def natural(self) -> Floats:
        """What turns coefficients of the matrix into those of the numbers as they are (n_columns, n_columns).

        ``natural() @ beta`` are coefficients of products of the numbers, neither centred nor scaled.
        """
        place = {frozenset(column): i for i, column in enumerate(self.columns)}
        to = np.zeros((len(self.columns), len(self.columns)))
        for i, column in enumerate(self.columns):
            dummies = [factor for factor in column if factor[1]]
            numbers = [factor for factor in column if not factor[1]]
            for size in range(len(numbers) + 1):
                for kept in itertools.combinations(numbers, size):
                    weight = 1.0
                    for name, level in numbers:
                        weight *= (1.0 if (name, level) in kept else -self.centre[name]) / self.scale[name]
                    to[place[frozenset((*dummies, *kept))], i] += weight
        return to


def aliased(square: Floats) -> NDArray[np.bool_]:
    """Which predictors (p,) are linear combinations of earlier ones, from their products (p, p). O(p^3)."""
    left, found = square.copy(), np.zeros(len(square), bool)
    for j in range(len(square)):
        found[j] = left[j, j] <= ALIASED * square[j, j]
        if not found[j]:
            left[j + 1 :] -= np.outer(left[j + 1 :, j] / left[j, j], left[j])
    return found
