"""Chains of the latent normal model: run, judged, continued.

A chain burns in, then keeps a posterior draw every ``thin`` sweeps; draws are dealt over the chains. Each sweep has
random numbers of its own, by chain and number, so a chain is the same on any number of threads, and goes on as if it
had never stopped.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from fastsynth.convergence import effective_size, r_hat
from fastsynth.errors import DataError, FastsynthError, OptionError, check_count, is_whole
from fastsynth.execute import Executor, Threads, Tick
from fastsynth.gibbs import LevelState, State, start, sweep
from fastsynth.joint_data import JointData, Level, Problem, prepare
from fastsynth.latents import NUMBER, Codes, Floats, JointModel, Layout, Values, missing, values_of
from fastsynth.outcome import Companion, Outcome, OutcomeModel, OutcomeState
from fastsynth.substantive import Parameters

# Sweeps of a trace that are kept, about.
MOST_TRACED = 2_000
# Rows times sweeps of a task.
TASK_ROWS = 500_000
# A parameter has converged with an R-hat of at most, and an effective sample size of at least.
R_HAT, LEAST_SIZE = 1.05, 50.0


@dataclass(frozen=True, slots=True)
class Parameter:
    """The posterior distribution of one parameter, and how well the chains know it.

    Attributes
    ----------
    name : str
        ``beta[y, x]``, ``omega_e[y, z]``, ``omega_2[y, z]``, ``threshold[y, 2]`` or ``lambda[y]``; of the analyst's
        model ``y: beta[x]``, ``y: sigma2``, ``y: tau2[x, z]`` or ``y: threshold[2]``.
    mean, sd, low, high : float
        The last two are the quantiles .025 and .975. Of columns without transform in the units of the data, else of
        the latent variables.
    r_hat : float
    ess : float
        Effective sample size of the middle of the distribution.
    """

    name: str
    mean: float
    sd: float
    low: float
    high: float
    r_hat: float
    ess: float

    @property
    def converged(self) -> bool:
        """Whether R-hat is at most 1.05 and the effective sample size at least 50."""
        return self.r_hat <= R_HAT and self.ess >= LEAST_SIZE


@dataclass(frozen=True, slots=True, eq=False)
class _Given:
    """Parameters of a state for predictors as they were given, numbers standardised."""

    beta: Floats
    alpha: Floats
    omega_2: Floats


@dataclass(frozen=True, slots=True, eq=False)
class _Draw:
    """A posterior draw: arrays of ``JointModel``, what was missing of each column, parameters of the outcome."""

    arrays: dict[str, Floats]
    imputed: list[Values]
    outcome: Parameters | None


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """Where a chain is: of the joint model, and of the outcome's."""

    joint: State
    outcome: OutcomeState | None


@dataclass(frozen=True, slots=True, eq=False)
class _Models:
    """What a chain draws from: the joint model of columns, and the analyst's model of an outcome beside it."""

    data: JointData
    problem: Problem
    vector: _Vector
    companion: Companion | None

    @property
    def names(self) -> list[str]:
        """Names of the free parameters."""
        return self.vector.names + ([] if self.companion is None else self.companion.names)

    def start(self, chain: int, entropy: int) -> _Place:
        """Where a chain begins."""
        joint = start(self.problem, chain, entropy)
        return _Place(joint, None if self.companion is None else self.companion.start(joint, entropy))

    def sweep(self, place: _Place, entropy: int, adapt: bool) -> None:
        """One sweep of both models."""
        if self.companion is None or place.outcome is None:
            sweep(self.problem, place.joint, entropy, adapt)
            return
        if self.data.columns:
            sweep(self.problem, place.joint, entropy, adapt, self.companion.reviews(place.joint, place.outcome))
        else:
            # The outcome is alone.
            place.joint.sweep += 1
        self.companion.sweep(place.joint, place.outcome, entropy)

    def parameters(self, place: _Place) -> Floats:
        """Values of ``names``."""
        own = self.vector.of(self.problem, place.joint)
        if self.companion is None or place.outcome is None:
            return own
        return np.concatenate([own, self.companion.vector(place.outcome)])

    def draw(self, place: _Place, entropy: int, effects: bool) -> _Draw:
        """What is kept of a chain where it is."""
        own = _draw(self.problem, self.vector, place.joint, self.data, effects)
        if self.companion is None or place.outcome is None:
            return own
        parameters = place.outcome.parameters
        filled = self.companion.imputed(place.joint, place.outcome, entropy)
        parameters = parameters if effects else replace(parameters, u=parameters.u[:0])
        return _Draw(own.arrays, [*own.imputed, filled], parameters)


@dataclass(frozen=True, slots=True, eq=False)
class _Schedule:
    """At which sweeps draws are kept, and traced."""

    entropy: int
    burn_in: int
    thin: int
    every: int
    effects: bool


def run_chains(
    data: JointData,
    outcome: Outcome | None = None,
    *,
    n_draws: int,
    burn_in: int = 1_000,
    thin: int = 100,
    chains: int = 2,
    entropy: int,
    executor: Executor | None = None,
    tick: Tick | None = None,
    effects: bool = True,
) -> Chains:
    """Draw from the posterior distribution of a latent normal model, missing values being imputed on the way.

    Parameters
    ----------
    data : JointData
    outcome : Outcome, optional
        A column with a model of its own, of which columns of the joint model are covariates. There may then be no
        column of level 1.
    n_draws : int
        Posterior draws to keep, dealt over the chains.
    burn_in : int
        Sweeps before the first, at least 0.
    thin : int
        Sweeps from one kept draw of a chain to the next.
    chains : int
        They begin at different places and run side by side.
    entropy : int
        Of all random numbers.
    executor : Executor, optional
        What runs the chains; threads, if left out.
    tick : callable, optional
        Called with numbers of sweeps that were done.
    effects : bool
        Whether effects of the clusters of the data are kept, for synthetic clusters that take after them.

    Returns
    -------
    Chains

    Raises
    ------
    DataError
        If the model cannot be fitted to the data: collinear predictors or columns, too few rows.
    OptionError
        If a number is not allowed, or there is nothing to draw.

    Notes
    -----
    A sweep costs O(n q (p + q)) for n rows, p predictors and q latent variables, and O(n_clusters q^2), or
    O(n_clusters (e q)^3) with random slopes. With an outcome, O(n p^2) more for p terms.

    Missing covariates of the outcome are drawn for the joint distribution of both models: proposed by the joint model,
    accepted by the likelihood ratio of the outcome (Goldstein, Carpenter and Browne 2014, JRSS A 177:553).

    Examples
    --------
    >>> import numpy as np
    >>> from fastsynth.joint_data import JointData
    >>> from fastsynth.latents import LatentColumn
    >>> rng = np.random.default_rng(1)
    >>> x = np.column_stack([np.ones(500), rng.normal(size=500)])
    >>> z = x @ [[1.0, 0.2], [0.5, -0.4]] + rng.normal(size=(500, 2))
    >>> columns = LatentColumn("score", "continuous"), LatentColumn("passed", "binary", 2)
    >>> data = JointData(columns, (z[:, 0], (z[:, 1] > 0).astype(np.int32)), x, x_names=("1", "age"))
    >>> chains = run_chains(data, n_draws=2, burn_in=100, thin=200, entropy=1)
    >>> [p.name for p in chains.parameters][:4]
    ['beta[score, 1]', 'beta[passed, 1]', 'beta[score, age]', 'beta[passed, age]']
    >>> len(chains.model)
    2
    """
    for option, value in (("n_draws", n_draws), ("thin", thin), ("chains", chains)):
        check_count(option, value)
    if not is_whole(burn_in) or burn_in < 0:
        raise OptionError(f"burn_in={burn_in!r}: must be an integer of at least 0.")
    if outcome is None and not data.of_level(1):
        raise OptionError("columns: at least one column has to vary within clusters (level=1).")
    problem = prepare(data)
    companion = None if outcome is None else Companion.of(outcome, data, problem, start(problem, 0, entropy))
    models = _Models(data, problem, _Vector.prepared(problem, data), companion)
    total = burn_in + thin * -(-n_draws // chains)
    # As many sweeps after burn-in as before are traced closely enough to tell whether chains have mixed.
    closely = max(total - burn_in, burn_in // 10, 1)
    schedule = _Schedule(entropy, burn_in, thin, -(-closely // MOST_TRACED), effects)
    places = [models.start(chain, entropy) for chain in range(chains)]
    traces = [np.zeros((0, len(models.names)))] * chains
    begun = Chains(data, models, schedule, executor or Threads(), places, traces, [[] for _ in places], 0, burn_in)
    return begun.continued(n_draws, tick=tick)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Chains:
    """Chains of a latent normal model, as ``run_chains`` leaves them.

    Attributes
    ----------
    data : JointData
    n_draws : int
        Posterior draws that were kept; draw i is of chain i modulo the number of chains.
    burnt : int
        Sweeps at the beginning that count as burn-in.
    """

    data: JointData
    _models: _Models
    _schedule: _Schedule
    _executor: Executor
    _places: list[_Place]
    _traces: list[Floats]
    _draws: list[list[_Draw]]
    n_draws: int
    burnt: int

    def __repr__(self) -> str:
        # What a notebook shows has no values of the data.
        table = self.parameters
        worst, least = max(of.r_hat for of in table), min(of.ess for of in table)
        return (
            f"Chains: {len(self._places)} of {self._places[0].joint.sweep:,} sweeps, {self.burnt:,} of them burn-in; "
            f"{len(table)} parameters, R-hat at most {worst:.3f}, effective sample size at least {least:.0f}"
        )

    def continued(
        self, n_more: int, *, discard: bool = False, thin: int | None = None, tick: Tick | None = None
    ) -> Chains:
        """Go on where the chains stand, for more draws; these chains stay as they are.

        Parameters
        ----------
        n_more : int
            Further posterior draws.
        discard : bool
            Count all sweeps so far as burn-in, and forget their draws: for chains that had not converged.
        thin : int, optional
            Sweeps from one further draw of a chain to the next; as before, if left out.
        tick : callable, optional
            Called with numbers of sweeps that were done.
        """
        wanted = check_count("n_more", n_more) + (0 if discard else self.n_draws)
        schedule = self._schedule if thin is None else replace(self._schedule, thin=check_count("thin", thin))
        places = copy.deepcopy(self._places)
        draws = [[] if discard else list(of_chain) for of_chain in self._draws]
        traces = [[trace] for trace in self._traces]
        burnt = max(schedule.burn_in, places[0].joint.sweep) if discard else self.burnt
        until = burnt + schedule.thin * -(-wanted // len(places))
        size = max(TASK_ROWS // len(self.data.x), 1)

        def done(i: int, result: tuple[_Place, Floats, list[_Draw]]) -> int:
            places[i] = result[0]
            traces[i].append(result[1])
            draws[i] += result[2]
            if tick is not None:
                tick(stop - at)
            return 0

        for at in range(places[0].joint.sweep, until, size):
            stop = min(at + size, until)
            jobs = [(place, burnt, stop) for place in places]
            self._executor.map(_advance, (self._models, schedule), jobs, done)
        joined = [np.concatenate(parts) for parts in traces]
        return Chains(self.data, self._models, schedule, self._executor, places, joined, draws, wanted, burnt)

    def until_converged(self, most: int) -> Chains:
        """These chains if they have converged; else they go on, twice as long each time, all before being burn-in.

        Parameters
        ----------
        most : int
            Sweeps of each chain, beyond which they do not go on.
        """
        chains = self
        while chains.not_converged and 2 * chains._places[0].joint.sweep <= most:
            # As many sweeps as there were.
            thin = -(-chains._places[0].joint.sweep * len(chains._places) // chains.n_draws)
            chains = chains.continued(chains.n_draws, discard=True, thin=thin)
        return chains

    def _kept(self) -> list[_Draw]:
        n = len(self._draws)
        return [self._draws[i % n][i // n] for i in range(self.n_draws)]

    @property
    def model(self) -> JointModel:
        """The kept draws, from which copies are drawn."""
        kept = self._kept()
        arrays = {name: np.stack([draw.arrays[name] for draw in kept]) for name in kept[0].arrays}
        data = self.data
        scales = {
            i: scale
            for level, places in _levels(self._models.problem, data)
            for i, scale in zip(places, level.scales, strict=True)
        }
        return JointModel(data.columns, tuple(scales[i] for i in range(len(scales))), data.effects, **arrays)

    @property
    def outcome(self) -> OutcomeModel | None:
        """The analyst's model with its kept draws, which go with those of ``model``; None without one."""
        companion = self._models.companion
        if companion is None:
            return None
        drawn = tuple(draw.outcome for draw in self._kept() if draw.outcome is not None)
        return OutcomeModel(companion.covariates.design, companion.model, drawn)

    def imputed(self, i: int) -> list[Values]:
        """Columns with what was missing filled in, as at draw i: one array a column, that of the outcome last."""
        companion, out = self._models.companion, []
        given = self.data.values if companion is None else (*self.data.values, companion.y)
        for values, found in zip(given, self._kept()[i].imputed, strict=True):
            values = values.copy()
            values[missing(values)] = found
            out.append(values)
        return out

    @property
    def sweeps(self) -> NDArray[np.int64]:
        """Numbers of the sweeps that were traced."""
        every = self._schedule.every
        return np.arange(1, len(self._traces[0]) + 1) * every

    @property
    def trace(self) -> dict[str, Floats]:
        """Each parameter by its name: ndarray of shape (chains, traced sweeps), burn-in included."""
        stacked = np.stack(self._traces)
        return {name: stacked[:, :, i] for i, name in enumerate(self._models.names)}

    @property
    def parameters(self) -> list[Parameter]:
        """All free parameters, from the traced sweeps after burn-in."""
        after = np.stack(self._traces)[:, self.sweeps > self.burnt]
        flat = after.reshape(-1, after.shape[2])
        sizes = r_hat(after), effective_size(after)
        low, high = np.quantile(flat, [0.025, 0.975], axis=0)
        columns = (flat.mean(axis=0), flat.std(axis=0, ddof=1), low, high, *sizes)
        rows = zip(self._models.names, np.column_stack(columns), strict=True)
        return [Parameter(name, *map(float, row)) for name, row in rows]

    @property
    def table(self) -> pl.DataFrame:
        """The same as a table: name, mean, sd, low, high, r_hat, ess; worst R-hat first."""
        return pl.DataFrame([asdict(parameter) for parameter in self.parameters]).sort("r_hat", descending=True)

    @property
    def notes(self) -> dict[str, str]:
        """What plots say of each parameter, worst first."""
        rows = self.table.iter_rows(named=True)
        return {row["name"]: f"R-hat {row['r_hat']:.3f}, ESS {row['ess']:.0f}" for row in rows}

    @property
    def not_converged(self) -> list[str]:
        """Names of parameters whose R-hat is above 1.05, or whose effective sample size is below 50."""
        return [parameter.name for parameter in self.parameters if not parameter.converged]

    def to_arviz(self) -> Any:
        """The traces after burn-in as an ``arviz.InferenceData``, for its plots."""
        try:
            import arviz
        except ImportError:
            raise FastsynthError("Plots of chains need ArviZ: pip install 'fastsynth[bayes]'.") from None
        after = self.sweeps > self.burnt
        return arviz.from_dict(posterior={name: values[:, after] for name, values in self.trace.items()})


def _advance(
    shared: tuple[_Models, _Schedule], place: _Place, burnt: int, until: int
) -> tuple[_Place, Floats, list[_Draw]]:
    """Some sweeps of one chain: where it stands, what was traced, what was kept."""
    models, schedule = shared
    traced: list[Floats] = []
    kept: list[_Draw] = []
    for at in range(place.joint.sweep + 1, until + 1):
        try:
            models.sweep(place, schedule.entropy, adapt=at <= schedule.burn_in)
        except np.linalg.LinAlgError:
            names = [column.name for column in models.data.columns]
            names += [] if models.companion is None else [models.companion.name]
            raise DataError(
                f"Sweep {at:,} of a chain found no covariance matrix: columns of the block ({', '.join(names)}) nearly "
                "follow from each other: leave some out."
            ) from None
        if at % schedule.every == 0:
            traced.append(models.parameters(place))
        if at > burnt and (at - burnt) % schedule.thin == 0:
            kept.append(models.draw(place, schedule.entropy, schedule.effects))
    return place, np.array(traced).reshape(len(traced), len(models.names)), kept


def _levels(problem: Problem, data: JointData) -> list[tuple[Level, list[int]]]:
    return [(problem.one, data.of_level(1)), (problem.two, data.of_level(2))]


def _draw(problem: Problem, vector: _Vector, state: State, data: JointData, effects: bool) -> _Draw:
    given = vector.given(problem, state)
    shapes = np.empty((len(data.columns), 3))
    imputed: list[Values] = [np.zeros(0)] * len(data.columns)
    for (level, places), now in zip(_levels(problem, data), (state.one, state.two), strict=True):
        shapes[places] = now.shapes
        for i, place in enumerate(places):
            rows = np.flatnonzero(level.codes[i] < 0)
            filled = values_of(level.columns, level.scales, level.layout, now.z[:, rows], now.cuts, now.shapes)
            imputed[place] = filled[i]
    arrays = {
        "beta": given.beta,
        "alpha": given.alpha,
        "omega_e": state.omega_e,
        "omega_2": given.omega_2,
        "cuts": state.one.cuts.copy(),
        "cuts2": state.two.cuts.copy(),
        "shapes": shapes,
        "cluster_effects": vector.effects @ (state.u if effects else state.u[:0]),
    }
    return _Draw(arrays, imputed, None)


# ----------------------------------------------------------------------------------------------------------- parameters


@dataclass(frozen=True, slots=True, eq=False)
class _Vector:
    """How a state becomes the vector of its free parameters.

    Attributes
    ----------
    names : list of str
    free, free_2 : ndarray of shape (2, m)
        Free elements of both covariance matrices.
    plain, plain_2 : ndarray of shape (2, m)
        Latents, and columns, of numbers without transform, of both levels.
    effects : ndarray of shape (e, e)
        Effects of predictors as they were given are those of standardised ones times this.
    turn : ndarray of shape (e q + q2, e q + q2)
        The same of effects and latents of level 2.
    """

    names: list[str]
    free: Codes
    free_2: Codes
    plain: Codes
    plain_2: Codes
    effects: Floats
    turn: Floats

    @classmethod
    def prepared(cls, problem: Problem, data: JointData) -> _Vector:
        """What does not change."""
        effects = problem.one.to_given[np.ix_(problem.effects, problem.effects)]
        q, q2 = problem.one.layout.q, problem.two.layout.q
        d = len(effects) * q
        turn = np.eye(d + q2)
        turn[:d, :d] = np.kron(effects, np.eye(q))
        free, free_2 = _free(problem.one.layout, 0), _free(problem.two.layout, d)
        plain = _plain(problem.one), _plain(problem.two)
        return cls(_names(problem, data, free, free_2), free.T, free_2.T, *plain, effects, turn)

    def given(self, problem: Problem, state: State) -> _Given:
        """Parameters for predictors as they were given."""
        beta, alpha = problem.one.to_given @ state.one.beta, problem.two.to_given @ state.two.beta
        return _Given(beta, alpha, self.turn @ state.omega_2 @ self.turn.T)

    def of(self, problem: Problem, state: State) -> Floats:
        """All free parameters in the units of the data."""
        given = self.given(problem, state)
        (location, scale), (location2, scale2) = _units(self.plain, state.one), _units(self.plain_2, state.two)
        beta, alpha = given.beta * scale, given.alpha * scale2
        beta[0] += location
        alpha[0] += location2
        both = np.concatenate([*[scale] * len(self.effects), scale2])
        (j, k), (j2, k2) = self.free, self.free_2
        parts = [beta.ravel(), alpha.ravel()]
        parts += [state.omega_e[j, k] * scale[j] * scale[k], given.omega_2[j2, k2] * both[j2] * both[k2]]
        for level, now in ((problem.one, state.one), (problem.two, state.two)):
            parts += [now.cuts[c.first + 2 : c.first + c.size] for c in level.thresholds]
            parts.append(now.shapes[[power.column for power in level.powers], 0])
        return np.concatenate(parts)


def _names(problem: Problem, data: JointData, free: Codes, free_2: Codes) -> list[str]:
    """Names of the free parameters, in the order of ``_Vector.of``."""
    one, two = problem.one, problem.two
    names = [f"beta[{z}, {x}]" for x in data.x_names for z in one.layout.names]
    names += [f"beta[{w}, {h}]" for h in data.x2_names for w in two.layout.names]
    names += [f"omega_e[{one.layout.names[j]}, {one.layout.names[k]}]" for j, k in free]
    of_effects = [z if a == 0 else f"{z}:{data.x_names[a]}" for a in data.effects for z in one.layout.names]
    both = [*of_effects, *two.layout.names]
    names += [f"omega_2[{both[j]}, {both[k]}]" for j, k in free_2]
    for level in (one, two):
        for c in level.thresholds:
            names += [f"threshold[{level.layout.names[c.latent]}, {k}]" for k in range(2, c.size)]
        names += [f"lambda[{level.columns[power.column].name}]" for power in level.powers]
    return names


def _free(layout: Layout, before: int) -> Codes:
    """Free elements (m, 2) of a covariance matrix, after so many rows that are free."""
    n = before + layout.q
    free = np.ones((n, n), bool)
    column = layout.table[:, 1]
    free[before:, before:] = (column[:, None] != column) | ~layout.constrained
    return np.argwhere(np.tril(free)).astype(np.int32)


def _plain(level: Level) -> Codes:
    """Latents, and columns, of numbers without transform: (2, m)."""
    of_numbers = [(c, i) for c, (kind, i, _, _) in enumerate(level.layout.table) if kind == NUMBER]
    plain = [pair for pair in of_numbers if level.columns[pair[1]].transform == "none"]
    return np.array(plain, np.int32).reshape(-1, 2).T


def _units(plain: Codes, now: LevelState) -> tuple[Floats, Floats]:
    """Mean and standard deviation by which numbers without transform were standardised; 0 and 1 for other latents."""
    units = np.zeros((2, len(now.z)))
    units[1] = 1
    units[:, plain[0]] = now.shapes[plain[1], 1:].T
    return units[0], units[1]
