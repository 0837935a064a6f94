"""Joint models of several columns: what the caller says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fastsynth.errors import OptionError, check_column_list, check_count

Transform = Literal["none", "boxcox", "scores"]
TRANSFORMS: tuple[Transform, ...] = ("none", "boxcox", "scores")


@dataclass(frozen=True, slots=True, init=False)
class LatentNormal:
    """Columns of any kind drawn together, as one latent multivariate normal of one or two levels (Goldstein et al.).

    Numbers are normal, as they are or transformed; a category is what intervals, or the largest, of hidden normals say.
    With ``cluster=`` each cluster has random effects on all of them, correlated with its level-2 columns. The model is
    sampled by Markov chains, in which missing values are filled in: **copies have none**, each copy is drawn from a
    posterior draw of its own (proper synthesis), and ``pool`` knows both.

    Parameters
    ----------
    *columns : str
        The columns drawn together; none for all that have no method of their own. Columns that are kept, and blocks
        before this one, are what they are predicted from (x).
    transform : str or dict of str to str, default "none"
        Of numbers: "none" (normal as they are), "boxcox" (positive ones; the power is learned) or "scores" (normal
        scores of the ranks: skewed or bounded numbers keep their distribution), for all or by column.
    slopes : list of str, default ()
        Numbers among x whose slopes differ between clusters, as the intercept does.
    interactions : list of tuple of str, default ()
        Columns of the block whose combinations are modelled as one category, so that their interaction is kept:
        ``[("age", "sex")]``. Numbers are cut into groups; cells of fewer than 20 rows are merged with a neighbour.
    model : str, optional
        The analyst's model of one column of the block, ``"ks4 ~ ks2*female + eal + (1|school)"``: the largest one that
        has to hold. That column is drawn last, from this model, as it is (``transform`` is of the others); the others
        from the joint one, their missing values so that they fit to it (Goldstein, Carpenter and Browne 2014; jomo's
        ``smc``). It is a number, a category of two levels, or an ordered one; covariates are columns of the block, or
        those that it is predicted from, without missing values. Needs formulaic.
    burn_in : int, default 1000
        Sweeps of each chain before draws are kept.
    thin : int, default 100
        Sweeps between posterior draws that are kept (jomo's ``nbetween``, 1000 there).
    chains : int, default 2
        Chains, run side by side; R-hat compares them.
    most_sweeps : int, default 20,000
        Chains of which a parameter has not converged (R-hat above 1.05, or an effective sample size below 50) go on,
        twice as long each time, up to so many sweeps; what has not converged then is named in a warning.

    Raises
    ------
    OptionError
        A value that is not allowed.

    Notes
    -----
    O(n q^2) a sweep for n rows and q latent normals (one for a number or an ordered or two-level category, levels
    less one for an unordered one); ``Copula`` is for very many rows. Interactions that are not named, and relations
    that are not monotone, are lost.

    References
    ----------
    Goldstein, Carpenter, Kenward and Levin (2009), Multilevel models with multivariate mixed response types,
    Statistical Modelling 9:173. Carpenter and Kenward (2013), Multiple Imputation and its Application.

    Examples
    --------
    >>> LatentNormal("ks4", "ks2", transform={"ks4": "scores"})
    LatentNormal('ks4', 'ks2', transform={'ks4': 'scores'})
    """

    columns: tuple[str, ...]
    transform: str | Mapping[str, str]
    slopes: tuple[str, ...]
    interactions: tuple[tuple[str, ...], ...]
    model: str | None
    burn_in: int
    thin: int
    chains: int
    most_sweeps: int
    name: ClassVar[str] = "joint"

    def __init__(
        self,
        *columns: str,
        transform: str | Mapping[str, str] = "none",
        slopes: Sequence[str] = (),
        interactions: Sequence[Sequence[str]] = (),
        model: str | None = None,
        burn_in: int = 1000,
        thin: int = 100,
        chains: int = 2,
        most_sweeps: int = 20_000,
    ) -> None:
        _set_columns(self, columns, interactions)
        given = transform.values() if isinstance(transform, Mapping) else [transform]
        if not all(isinstance(one, str) and one in TRANSFORMS for one in given):
            allowed = ", ".join(map(repr, TRANSFORMS))
            raise OptionError(f"transform={transform!r}: allowed are {allowed}, for all columns or by column.")
        if model is not None and not isinstance(model, str):
            raise OptionError(f"model={model!r}: must be a formula, for example 'income ~ age*sex + (1|region)'.")
        object.__setattr__(self, "transform", dict(transform) if isinstance(transform, Mapping) else transform)
        object.__setattr__(self, "slopes", tuple(check_column_list("slopes", slopes)) if len(slopes) else ())
        object.__setattr__(self, "model", model)
        counts = {"burn_in": burn_in, "thin": thin, "chains": chains, "most_sweeps": most_sweeps}
        for name, value in counts.items():
            object.__setattr__(self, name, check_count(name, value))

    def over(self, columns: Sequence[str]) -> LatentNormal:
        """The same for these columns."""
        options = {name: getattr(self, name) for name in _DEFAULTS}
        return LatentNormal(*columns, **options)

    def transform_of(self, column: str) -> str:
        """The transformation of a column."""
        return self.transform if isinstance(self.transform, str) else self.transform.get(column, "none")

    def __repr__(self) -> str:
        return _shown(self)


@dataclass(frozen=True, slots=True, init=False)
class Copula:
    """Columns drawn together by a Gaussian copula: their margins, and a correlation for each pair.

    One pass over the rows counts a table for each pair; after that nothing depends on how many rows there are. For very
    many rows and columns, where a chain of ``LatentNormal`` is too slow. Missing values stay missing. Rows are taken as
    independent: with ``cluster=`` it is refused.

    Parameters
    ----------
    *columns : str
        The columns drawn together; none for all that have no method of their own.
    interactions : list of tuple of str, default ()
        As in ``LatentNormal``.

    Raises
    ------
    OptionError
        A value that is not allowed.

    Notes
    -----
    O(n p^2) to fit, O(k p^2) to draw p columns. Relations that are not monotone, interactions that are not named, and
    spreads that depend on other columns are lost: intervals for what depends on them are wrong.

    References
    ----------
    Olsson (1979), Maximum likelihood estimation of the polychoric correlation coefficient, Psychometrika 44:443.
    Schaefer and Strimmer (2005), A shrinkage approach to large-scale covariance matrix estimation, SAGMB 4:32.

    Examples
    --------
    >>> Copula("age", "income")
    Copula('age', 'income')
    """

    columns: tuple[str, ...]
    interactions: tuple[tuple[str, ...], ...] = field(default=())
    name: ClassVar[str] = "copula"

    def __init__(self, *columns: str, interactions: Sequence[Sequence[str]] = ()) -> None:
        _set_columns(self, columns, interactions)

    def over(self, columns: Sequence[str]) -> Copula:
        """The same for these columns."""
        return Copula(*columns, interactions=self.interactions)

    def __repr__(self) -> str:
        return _shown(self)


Block = LatentNormal | Copula
BLOCKS: dict[str, type[LatentNormal] | type[Copula]] = {block.name: block for block in (LatentNormal, Copula)}
_DEFAULTS: dict[str, Any] = {
    "transform": "none",
    "slopes": (),
    "interactions": (),
    "model": None,
    "burn_in": 1000,
    "thin": 100,
    "chains": 2,
    "most_sweeps": 20_000,
}


@dataclass(frozen=True, slots=True, eq=False)
class Belonging:
    """Clusters of some rows of a copy.

    Attributes
    ----------
    place : ndarray of shape (n,), dtype=int64
        Of the cluster of each row, among those that follow.
    donors : ndarray of shape (n_clusters,), dtype=int32
        Their donors in the original.
    codes : ndarray of shape (n_clusters, n_slots), dtype=uint16
        Columns of clusters.
    words : ndarray of shape (n_words, n_clusters), dtype=uint64
    """

    place: NDArray[np.int64]
    donors: NDArray[np.int32]
    codes: NDArray[np.uint16]
    words: NDArray[np.uint64]


class BlockModel(Protocol):
    """A fitted joint model of some columns."""

    @property
    def slots(self) -> tuple[int, ...]:
        """The columns, those of level 2 first."""

    @property
    def n_words(self) -> int:
        """Random words that a row needs."""

    @property
    def n_cluster_words(self) -> int:
        """Random words that a cluster needs."""

    @property
    def note(self) -> str:
        """What was fitted, for ``summary``."""

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What a file keeps: a record for JSON, and arrays by name."""

    def draw(
        self,
        copy: int,
        level: int,
        codes: NDArray[np.uint16],
        words: NDArray[np.uint64],
        belonging: Belonging | None,
    ) -> dict[int, tuple[NDArray[np.unsignedinteger[Any]], NDArray[np.float64]]]:
        """Draw the columns of a level.

        Parameters
        ----------
        copy : int
        level : int
            2: ``codes`` and ``words`` are of clusters, in the order of ``belonging``; 1: of rows.
        codes : ndarray of shape (n, n_slots), dtype=uint16
            Earlier columns.
        words : ndarray of shape (n_words, n), dtype=uint64

        Returns
        -------
        dict
            By slot, ranks (n,) and numbers (n,), NaN where the rank counts; empty for a column of ranks.
        """


def _set_columns(block: Any, columns: Sequence[str], interactions: Sequence[Sequence[str]]) -> None:
    if len(columns) == 1 and isinstance(columns[0], list | tuple):
        named = ", ".join(map(repr, columns[0]))
        raise OptionError(f"Columns are named one by one: {type(block).__name__}({named}).")
    object.__setattr__(block, "columns", tuple(check_column_list("columns", columns)) if columns else ())
    if len(set(columns)) < len(columns):
        raise OptionError(f"{type(block).__name__}({', '.join(map(repr, columns))}): a column is named twice.")
    if isinstance(interactions, str) or any(isinstance(group, str) for group in interactions):
        raise OptionError(f"interactions={interactions!r}: must be a list of tuples of columns, [('age', 'sex')].")
    groups = tuple(tuple(check_column_list("interactions", group)) for group in interactions)
    named = [name for group in groups for name in group]
    if any(len(group) < 2 for group in groups) or len(set(named)) < len(named):
        raise OptionError(
            f"interactions={interactions!r}: each must name two columns or more, and no column may be in two of them."
        )
    outside = sorted(set(named) - set(columns)) if columns else []
    if outside:
        raise OptionError(f"interactions: {', '.join(map(repr, outside))} are not among the columns of the block.")
    object.__setattr__(block, "interactions", groups)


def _shown(block: Any) -> str:
    options = {name: getattr(block, name) for name in _DEFAULTS if hasattr(block, name)}
    shown = [f"{name}={value!r}" for name, value in options.items() if value != _DEFAULTS[name]]
    return f"{type(block).__name__}({', '.join([*map(repr, block.columns), *shown])})"
