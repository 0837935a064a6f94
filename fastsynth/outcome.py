"""The analyst's model of a column with its posterior draws: fitted, drawn from for each copy, saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsynth.execute import Executor, Tick
from fastsynth.streams import Words
from fastsynth.substantive import Parameters, Substantive, chain_words
from fastsynth.terms import Design

Floats = NDArray[np.float64]
Integers = NDArray[np.int32]
# What follows CHAIN in the keys of these chains; values of a parameter that a trace has, about.
OUTCOME, TRACED = 1, 2_000
MODEL_RECORD = ("kind", "n_levels", "random", "n_clusters", "centre", "scale")
MODEL_ARRAYS = ("used", "cuts", "steps")
DRAWN = ("beta", "sigma2", "thresholds", "tau2", "u")


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
        cluster: Integers | None = None,
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


def fit_outcome(
    design: Design,
    model: Substantive,
    values: Mapping[str, NDArray[Any]],
    y: NDArray[Any],
    cluster: Integers | None = None,
    *,
    n_draws: int,
    burn_in: int,
    thin: int,
    chains: int,
    entropy: int,
    executor: Executor,
    tick: Tick = lambda _: None,
) -> tuple[OutcomeModel, dict[str, Floats]]:
    """Draw the parameters given covariates without missing values.

    Parameters
    ----------
    design : Design
    model : Substantive
    values : mapping of str to ndarray of shape (n,)
    y : ndarray of shape (n,), dtype=float64 or int32
        Rows without an outcome are left out.
    cluster : ndarray of shape (n,), dtype=int32, optional
        With random effects.
    n_draws : int
        Draws that are kept, dealt over the chains.
    burn_in, thin : int
        Sweeps of each chain before the first draw, and between draws.
    chains : int
    entropy : int
    executor : Executor
        Chains are its tasks.
    tick : callable
        Is told of the sweeps of a chain when it ends.

    Returns
    -------
    OutcomeModel
    dict of str to ndarray of shape (chains, n_sweeps), dtype=float64
        Each parameter after burn-in, at every ``thin``-th sweep or at about 2,000 if these are more.
    """
    x = design.matrix(values)
    each = -(-n_draws // chains)
    shared = (design, model, x, y, cluster, model.sums(x, y, cluster), burn_in, thin, each, entropy)
    ended = partial(_ended, tick, burn_in + each * thin)
    found = executor.map(_run_chain, shared, [(chain,) for chain in range(chains)], ended)
    draws = tuple(found[i % chains][0][i // chains] for i in range(n_draws))
    trace = np.array([of[1] for of in found])
    named = {name: trace[:, :, i] for i, name in enumerate(model.names(design))}
    return OutcomeModel(design, model, draws), named


def _ended(tick: Tick, n_sweeps: int, _: int, result: Any) -> Any:
    tick(n_sweeps)
    return result


def _run_chain(shared: Any, chain: int) -> tuple[list[Parameters], Floats]:
    """Draws of one chain, and its trace (n_sweeps, n_parameters)."""
    design, model, x, y, cluster, sums, burn_in, thin, n_draws, entropy = shared
    words = partial(chain_words, entropy, (OUTCOME, chain))
    parameters = model.start(partial(words, 0))
    every = min(thin, max(1, n_draws * thin // TRACED))
    draws, trace = [], []
    for sweep in range(1, burn_in + n_draws * thin + 1):
        parameters = model.sweep(parameters, x, y, cluster, partial(words, sweep), sums)
        after = sweep - burn_in
        if after > 0 and after % every == 0:
            trace.append(parameters.vector(design))
        if after > 0 and after % thin == 0:
            draws.append(parameters)
    return draws, np.array(trace)
