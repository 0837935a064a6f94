"""The analyst's model of one column, beside a joint model of its covariates: in a chain, drawn from, and saved.

The joint chain knows nothing of the outcome. What it fills in for missing covariates is a proposal, on which the
outcome has its say (``Companion.reviews``); then the outcome's model has a sweep of its own, with covariates completed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsynth.errors import DataError
from fastsynth.gibbs import LevelState, Review, State
from fastsynth.joint_data import JointData, Level, Problem
from fastsynth.latents import Codes, Floats, Values, missing
from fastsynth.streams import Words
from fastsynth.substantive import Kind, Parameters, Substantive, Sums, chain_words
from fastsynth.terms import Design, Terms

# What follows CHAIN in the keys of these chains, and a purpose beside those of ``Substantive``.
OUTCOME, COMPLETE = 1, 20
MODEL_RECORD = ("kind", "n_levels", "random", "n_clusters", "centre", "scale")
MODEL_ARRAYS = ("used", "cuts", "steps")
DRAWN = ("beta", "sigma2", "thresholds", "tau2", "u")


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """The column that the analyst's model is of, and covariates that are not among the columns of the joint model.

    Attributes
    ----------
    terms : Terms
        Covariates are columns of the joint model or given ones.
    kind : {"continuous", "binary", "ordered"}
    n_levels : int
        0 for a number.
    values : ndarray of shape (n,)
        Numbers as float64, NaN where missing; levels as int32 from 0, -1 where missing.
    given : dict of str to ndarray of shape (n,)
        Likewise, but nothing is missing.
    given_levels : dict of str to int
        Levels of those that are categories.
    """

    terms: Terms
    kind: Kind
    n_levels: int
    values: Values
    given: Mapping[str, Values]
    given_levels: Mapping[str, int]


@dataclass(slots=True, eq=False)
class OutcomeState:
    """Where the chain of an outcome is: parameters, the matrix of the terms (n, p), and its sums."""

    parameters: Parameters
    x: Floats
    sums: Sums


@dataclass(frozen=True, slots=True, eq=False)
class Covariates:
    """Where the terms of the analyst's model come from.

    Attributes
    ----------
    design : Design
    given : dict of str to ndarray of shape (n,)
        Those that are not in the joint model.
    known : dict of str to ndarray
        Columns of the joint model, (n,) or at level 2 (n_clusters,): NaN or -1 where missing.
    problem : Problem
    cluster : ndarray of shape (n,), dtype=int32, or None
    """

    design: Design
    given: Mapping[str, Values]
    known: Mapping[str, Values]
    problem: Problem
    cluster: Codes | None

    @classmethod
    def of(cls, outcome: Outcome, data: JointData, problem: Problem) -> Covariates:
        """Refuse given covariates with missing values."""
        terms, given = outcome.terms, outcome.given
        for name, values in given.items():
            if missing(values).any():
                raise DataError(
                    f"model: column {name!r} has missing values, and is kept or of an earlier joint model. Put it into "
                    "the block, which fills in what is missing, or leave it out of the model."
                )
        pairs = zip(data.columns, data.values, strict=True)
        used = {column.name: (column.n_levels, values) for column, values in pairs if column.name in terms.covariates}
        known = {name: values for name, (_, values) in used.items()}
        n_levels = {name: n for name, (n, _) in used.items() if n} | dict(outcome.given_levels)
        design = Design.of(terms, {**known, **given}, n_levels)
        return cls(design, given, known, problem, data.cluster)

    def holes(self, level: Level) -> NDArray[np.int64]:
        """Rows, or clusters, of which a covariate of this level is missing."""
        out = np.zeros(level.x.shape[1], bool)
        for column in level.columns:
            if column.name in self.known:
                out |= missing(self.known[column.name])
        return np.flatnonzero(out)

    def matrix(self, rows: NDArray[np.int64], one: LevelState, two: LevelState) -> Floats:
        """Terms of some rows; latents of level 1 are theirs alone (q, len(rows)), of level 2 those of all clusters."""
        values = {name: of[rows] for name, of in self.given.items()}
        values |= self._filled(self.problem.one, one, rows)
        if self.cluster is not None:
            every = np.arange(self.problem.n_clusters)
            of_clusters = self._filled(self.problem.two, two, every)
            values |= {name: of[self.cluster[rows]] for name, of in of_clusters.items()}
        return self.design.matrix(values, len(rows))

    def _filled(self, level: Level, now: LevelState, at: NDArray[np.int64]) -> dict[str, Values]:
        """Columns of a level, what is missing being what latents (q, len(at)) stand for."""
        out: dict[str, Values] = {}
        for i, (column, scale) in enumerate(zip(level.columns, level.scales, strict=True)):
            if column.name not in self.known:
                continue
            out[column.name] = of = self.known[column.name][at]
            holes = np.flatnonzero(missing(of))
            z = now.z[:, holes]
            if column.kind == "continuous":
                of[holes] = scale.numbers(column, z[level.layout.first_of(i)], now.shapes[i])
            else:
                of[holes] = scale.levels[level.layout.levels_of(i, z, now.cuts)]
        return out


@dataclass(frozen=True, slots=True, eq=False)
class Companion:
    """The analyst's model beside the chains of a joint model: what does not change.

    Attributes
    ----------
    name : str
        Of the outcome.
    covariates : Covariates
    model : Substantive
    y : ndarray of shape (n,)
    rows, clusters : ndarray, dtype=int64
        Rows, and clusters, of which a covariate is missing.
    inside, places : ndarray, dtype=int64
        The rows of these clusters, and the place of the cluster of each.
    """

    name: str
    covariates: Covariates
    model: Substantive
    y: Values
    rows: NDArray[np.int64]
    clusters: NDArray[np.int64]
    inside: NDArray[np.int64]
    places: NDArray[np.int64]

    @classmethod
    def of(cls, outcome: Outcome, data: JointData, problem: Problem, state: State) -> Companion:
        """Look at the data, missing covariates being filled in as at the start of a chain.

        Raises
        ------
        DataError
            A given covariate has missing values, or the outcome cannot be modelled (``Substantive.of``).
        """
        covariates, terms = Covariates.of(outcome, data, problem), outcome.terms
        x = covariates.matrix(np.arange(len(data.x)), state.one, state.two)
        random, n_clusters = (covariates.design.random, data.n_clusters) if terms.cluster else ((), 0)
        model = Substantive.of(outcome.kind, outcome.n_levels, x, outcome.values, random, n_clusters, terms.outcome)
        rows, clusters = covariates.holes(problem.one), covariates.holes(problem.two)
        inside = places = np.zeros(0, np.int64)
        if len(clusters):
            assert data.cluster is not None
            inside = np.flatnonzero(np.isin(data.cluster, clusters))
            places = np.searchsorted(clusters, data.cluster[inside])
        return cls(terms.outcome, covariates, model, outcome.values, rows, clusters, inside, places)

    @property
    def names(self) -> list[str]:
        """Names of the free parameters, as "ks4: beta[ks2]"; ``vector`` has their values."""
        return [f"{self.name}: {name}" for name in self.model.names(self.covariates.design)]

    def vector(self, own: OutcomeState) -> Floats:
        """Free parameters, in the units of the data."""
        return own.parameters.vector(self.covariates.design)

    def start(self, state: State, entropy: int) -> OutcomeState:
        """Where a chain starts."""
        x = self.covariates.matrix(np.arange(len(self.y)), state.one, state.two)
        parameters = self.model.start(self._words(state, entropy))
        return OutcomeState(parameters, x, self.model.sums(x, self.y, self._cluster))

    def reviews(self, state: State, own: OutcomeState) -> tuple[Review | None, Review | None]:
        """What the outcome has to say of new values of missing covariates, of level 1 and 2."""

        def of_rows(z: Floats, cuts: Floats, shapes: Floats) -> Floats:
            proposed = replace(state.one, z=z, cuts=cuts, shapes=shapes)
            return self._density(own, self.rows, proposed, state.two)

        def of_clusters(z: Floats, cuts: Floats, shapes: Floats) -> Floats:
            every = state.two.z.copy()
            every[:, self.clusters] = z
            proposed = replace(state.two, z=every, cuts=cuts, shapes=shapes)
            density = self._density(own, self.inside, _of_rows(state.one, self.inside), proposed)
            return np.asarray(np.bincount(self.places, density, len(self.clusters)), np.float64)

        return (
            Review(self.rows, of_rows) if len(self.rows) else None,
            Review(self.clusters, of_clusters) if len(self.clusters) else None,
        )

    def sweep(self, state: State, own: OutcomeState, entropy: int) -> None:
        """New parameters of the outcome, given covariates as the joint chain left them. O(n p (p + q))."""
        changed = np.union1d(self.rows, self.inside)
        if len(changed):
            own.x[changed] = self.covariates.matrix(changed, _of_rows(state.one, changed), state.two)
            own.sums = self.model.sums(own.x, self.y, self._cluster)
        words = self._words(state, entropy)
        own.parameters = self.model.sweep(own.parameters, own.x, self.y, self._cluster, words, own.sums)

    def imputed(self, state: State, own: OutcomeState, entropy: int) -> Values:
        """Outcomes of the rows that miss one."""
        words = self._words(state, entropy)(COMPLETE, len(self.y))
        return self.model.completed(own.parameters, own.x, self.y, self._cluster, words)[missing(self.y)]

    @property
    def _cluster(self) -> Codes | None:
        return self.covariates.cluster if self.model.random else None

    def _density(self, own: OutcomeState, rows: NDArray[np.int64], one: LevelState, two: LevelState) -> Floats:
        x = self.covariates.matrix(rows, one, two)
        cluster = None if self._cluster is None else self._cluster[rows]
        return self.model.log_density(own.parameters, x, self.y[rows], cluster)

    def _words(self, state: State, entropy: int) -> partial[Words]:
        return partial(chain_words, entropy, (OUTCOME, state.chain), state.sweep)


def _of_rows(now: LevelState, rows: NDArray[np.int64]) -> LevelState:
    return replace(now, z=now.z.take(rows, axis=1))


@dataclass(frozen=True, slots=True, eq=False)
class OutcomeModel:
    """Posterior draws of the analyst's model, one for each copy. Holds no rows, but effects of the real clusters.

    Attributes
    ----------
    design : Design
    model : Substantive
    draws : tuple of Parameters
    """

    design: Design
    model: Substantive
    draws: tuple[Parameters, ...]

    @property
    def n_words(self) -> int:
        """Random words needed for one row."""
        return 1

    @property
    def n_words2(self) -> int:
        """Random words needed for one cluster."""
        return len(self.model.random)

    def draw(
        self,
        copy: int,
        values: Mapping[str, NDArray[Any]],
        words: Words,
        cluster: Codes | None = None,
        words2: Words | None = None,
    ) -> NDArray[Any]:
        """Outcomes (n,) of the rows of a copy: float64, or int32 codes.

        Parameters
        ----------
        copy : int
            Its number; of more copies than draws, the draws are used again.
        values : mapping of str to ndarray of shape (n,)
            The covariates, as ``Design`` takes them.
        words : ndarray of shape (1, n), dtype=uint64
        cluster : ndarray of shape (n,), dtype=int32, optional
            Synthetic clusters from 0, or with no ``words2`` the original's.
        words2 : ndarray of shape (n_words2, n_clusters), dtype=uint64, optional
            For new clusters. Without them clusters are kept, with effects drawn from their posterior distribution.
        """
        parameters = self.draws[copy % len(self.draws)]
        u = None if words2 is None else self.model.effects(parameters, words2)
        return self.model.draw(parameters, self.design.matrix(values), words[0], cluster, u)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What ``of_state`` makes the same model of: a record for JSON, and arrays by name."""
        design, model = self.design, self.model
        record = {name: getattr(design, name) for name in ("columns", "random", "centre", "scale")}
        own = {name: getattr(model, name) for name in MODEL_RECORD}
        arrays = {name: getattr(model, name) for name in MODEL_ARRAYS}
        drawn = {f"draws.{name}": np.array([getattr(draw, name) for draw in self.draws]) for name in DRAWN}
        return {"design": record, "model": own}, arrays | drawn

    @classmethod
    def of_state(cls, record: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> OutcomeModel:
        """The model that gave this state."""
        design = record["design"]
        columns = tuple(tuple((name, level) for name, level in column) for column in design["columns"])
        own = {name: record["model"][name] for name in MODEL_RECORD} | {name: arrays[name] for name in MODEL_ARRAYS}
        model = Substantive(**own | {"random": tuple(own["random"])})
        draws = zip(*(arrays[f"draws.{name}"] for name in DRAWN), strict=True)
        return cls(
            Design(columns, tuple(design["random"]), design["centre"], design["scale"]),
            model,
            tuple(Parameters(beta, float(sigma2), *rest) for beta, sigma2, *rest in draws),
        )
