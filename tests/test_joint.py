"""Chains: parameters that are known are found, chains are reproducible, go on, and say when they have not converged."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest

from fastsynth import joint
from fastsynth.errors import DataError, FastsynthError, OptionError
from fastsynth.execute import Threads
from fastsynth.joint import run_chains
from fastsynth.joint_data import JointData
from fastsynth.latents import LatentColumn
from fastsynth.streams import random_words

SERIAL = Threads(1)
LATENTS = ("y", "inc", "b", "o", "m=0", "m=1")
BETA = np.array([[1.0, -0.5, 0.3, 0.9, 0.3, -0.2], [0.5, 0.3, -0.4, 0.4, 0.2, 0.5]])
OMEGA_E = np.array(
    [[1, 0.4, 0.3, 0.2, 0.2, 0.1], [0.4, 1.5, -0.2, 0.3, 0, 0.2], [0.3, -0.2, 1, 0.3, 0.1, 0.2],
     [0.2, 0.3, 0.3, 1, 0.2, 0.1], [0.2, 0, 0.1, 0.2, 1, 0.5], [0.1, 0.2, 0.2, 0.1, 0.5, 1]]
)  # fmt: skip
CUTS = np.array([0, 0.8, 1.6])


def omega_2():
    root = np.random.default_rng(5).normal(size=(7, 7)) * 0.2
    return root @ root.T + 0.2 * np.eye(7)


def two_level(n=3_000, n_clusters=150, seed=0, missing=0.1, plain=False):
    """Continuous, Box-Cox (or plain), binary, ordered, nominal and a variable of level 2; parameters by name."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, n_clusters, n).astype(np.int32)
    x = np.column_stack([np.ones(n), rng.normal(size=n)])
    between = omega_2()
    u = rng.normal(size=(n_clusters, 7)) @ np.linalg.cholesky(between).T
    z = x @ BETA + u[cluster, :6] + rng.normal(size=(n, 6)) @ np.linalg.cholesky(OMEGA_E).T
    values = [
        z[:, 0], z[:, 1] if plain else np.maximum(1 + 0.5 * (z[:, 1] + 5), 0.01) ** 2, z[:, 2] > 0,
        np.searchsorted(CUTS, z[:, 3]),
        np.where(z[:, 4:].max(axis=1) > 0, z[:, 4:].argmax(axis=1), 2), u[:, 6] + 2,
    ]  # fmt: skip
    for i, v in enumerate(values):
        number = v.dtype == np.float64
        hole = rng.random(len(v)) < missing
        values[i] = np.where(hole, np.nan if number else -1, v).astype(np.float64 if number else np.int32)
    columns = (
        LatentColumn("y", "continuous"),
        LatentColumn("inc", "continuous", transform="none" if plain else "boxcox"),
        LatentColumn("b", "binary", 2), LatentColumn("o", "ordered", 4), LatentColumn("m", "unordered", 3),
        LatentColumn("w", "continuous", level=2),
    )  # fmt: skip
    data = JointData(columns, tuple(values), x, None, cluster, n_clusters, x_names=("1", "age"))
    truth = {"lambda[inc]": 0.5, "threshold[o, 2]": 0.8, "threshold[o, 3]": 1.6, "beta[w, 1]": 2.0}
    for i, one in enumerate(LATENTS):
        truth |= {f"beta[{one}, {name}]": BETA[k, i] for k, name in enumerate(("1", "age"))}
        truth |= {f"omega_e[{one}, {LATENTS[j]}]": OMEGA_E[i, j] for j in range(i + 1)}
    for i, one in enumerate((*LATENTS, "w")):
        truth |= {f"omega_2[{one}, {(*LATENTS, 'w')[j]}]": between[i, j] for j in range(i + 1)}
    fixed = {f"omega_e[{z}, {z}]" for z in LATENTS[2:]} | {"omega_e[m=1, m=0]"}
    # Latents of a Box-Cox column have units of their own.
    other = {name for name in truth if "inc" in name and name != "lambda[inc]"}
    return data, {name: value for name, value in truth.items() if name not in fixed | other}


@pytest.fixture(scope="module")
def recovered():
    data, truth = two_level()
    return run_chains(data, n_draws=12, burn_in=400, thin=150, chains=2, entropy=11, executor=SERIAL), truth


def test_parameters_that_are_known_are_found(recovered):
    """95 % within two posterior standard deviations; in one table misses go together, so a few more may miss."""
    chains, truth = recovered
    by_name = {parameter.name: parameter for parameter in chains.parameters}
    away = np.array([(by_name[name].mean - value) / by_name[name].sd for name, value in truth.items()])
    assert len(away) == len(truth) == 45
    assert (np.abs(away) < 2).mean() > 0.85
    assert (np.abs(away) < 4).all()
    for parameter in chains.parameters:
        assert parameter.low < parameter.mean < parameter.high
        assert parameter.r_hat < 1.2
    assert {parameter.name for parameter in chains.parameters} >= set(truth)


def test_chains_that_converged_are_told_from_those_that_have_not(recovered):
    chains, _ = recovered
    assert len(chains.not_converged) < 0.2 * len(chains.parameters)
    assert set(chains.not_converged) == {p.name for p in chains.parameters if not p.converged}
    data, _ = two_level(n=500, n_clusters=20)
    short = run_chains(data, n_draws=2, burn_in=5, thin=10, entropy=1, executor=SERIAL)
    assert "beta[y, 1]" in short.not_converged


def test_what_is_imputed_is_likely_and_what_is_known_stays(recovered):
    chains, _ = recovered
    data = chains.data
    for i, column in enumerate(data.columns):
        filled, given = chains.imputed(3)[i], data.values[i]
        missing = np.isnan(given) if given.dtype == np.float64 else given < 0
        assert 0.05 < missing.mean() < 0.15
        assert filled.dtype == given.dtype
        assert (filled == given)[~missing].all()
        if column.kind == "continuous":
            assert np.isfinite(filled).all()
        else:
            assert filled.min() >= 0
    # Imputed y have the spread of y, and go with age as y does.
    y, age, missing = data.values[0], data.x[:, 1], np.isnan(data.values[0])
    filled = np.array([chains.imputed(i)[0][missing] for i in range(12)])
    assert filled.std() == pytest.approx(y[~missing].std(), rel=0.1)
    slope = np.mean([np.cov(some, age[missing])[0, 1] for some in filled]) / age[missing].var()
    assert slope == pytest.approx(0.5, abs=4 * y[~missing].std() / np.sqrt(missing.sum()))


def test_copies_have_the_distribution_of_the_data(recovered):
    chains, _ = recovered
    data, model, n = chains.data, chains.model, 3_000
    assert len(model) == 12
    copies = []
    for i in range(12):
        words, words2 = (random_words(i, (1, k), s * m).reshape(s, m) for k, (s, m) in
                         enumerate(((model.n_words, n), (model.n_words2, 150))))  # fmt: skip
        copies.append(model.draw(i, data.x, words, data.cluster, 150, words2))
    for i, column in enumerate(data.columns):
        given, drawn = data.values[i], np.array([copy[i] for copy in copies])
        assert drawn.dtype == given.dtype
        if column.kind == "continuous":
            given = given[~np.isnan(given)]
            # Means of clusters differ from copy to copy.
            assert abs(drawn.mean() - given.mean()) < 4 * drawn.mean(axis=1).std() * np.sqrt(1 + 1 / 12)
            assert drawn.std() == pytest.approx(given.std(), rel=0.1)
        else:
            shares = np.bincount(given[given >= 0]) / (given >= 0).sum()
            of_copies = np.array([np.bincount(d, minlength=len(shares)) / n for d in drawn])
            assert (np.abs(of_copies.mean(axis=0) - shares) < 4 * of_copies.std(axis=0) * np.sqrt(1 + 1 / 12)).all()
    # Clusters differ in copies as they do in the data.
    assert np.mean([between(copy[0], data.cluster) for copy in copies]) == pytest.approx(
        between(data.values[0], data.cluster), rel=0.2
    )


def between(y, cluster):
    """Variance between clusters by analysis of variance."""
    known = ~np.isnan(y)
    y, cluster = y[known], cluster[known]
    n, sums = np.bincount(cluster), np.bincount(cluster, y)
    within = (y - (sums / n)[cluster]) @ (y - (sums / n)[cluster]) / (len(y) - len(n))
    return (n @ (sums / n - y.mean()) ** 2 / (len(n) - 1) - within) / n.mean()


def test_kept_clusters_take_after_those_of_the_data(recovered):
    chains, _ = recovered
    data, model = chains.data, chains.model
    words = random_words(1, (1,), model.n_words * 3_000).reshape(-1, 3_000)
    words2 = random_words(2, (1,), model.n_words2 * 150).reshape(-1, 150)
    known, size = ~np.isnan(data.values[0]), np.bincount(data.cluster, minlength=150)
    mean = np.bincount(data.cluster[known], data.values[0][known], 150) / np.bincount(
        data.cluster[known], minlength=150
    )
    kept = model.draw(0, data.x, words, data.cluster, 150, words2, u=model.u(0))[0]
    fresh = model.draw(0, data.x, words, data.cluster, 150, words2)[0]
    assert np.corrcoef(np.bincount(data.cluster, kept, 150) / size, mean)[0, 1] > 0.8
    assert abs(np.corrcoef(np.bincount(data.cluster, fresh, 150) / size, mean)[0, 1]) < 0.4


# ------------------------------------------------------------------------------------------------------ reproducibility


def small(seed=2):
    return two_level(n=400, n_clusters=30, seed=seed)[0]


OPTIONS = {"n_draws": 5, "burn_in": 20, "thin": 7, "chains": 2, "entropy": 3}


def state_of(chains):
    record, arrays = chains.model.state()
    return record, {name: a.tobytes() for name, a in arrays.items()}, {k: v.tobytes() for k, v in chains.trace.items()}


def test_threads_do_not_matter_and_ticks_count_sweeps():
    ticks = []
    one = run_chains(small(), **OPTIONS, executor=Threads(1), tick=ticks.append)
    two = run_chains(small(), **OPTIONS, executor=Threads(2))
    assert state_of(one) == state_of(two)
    assert sum(ticks) == 2 * (20 + 3 * 7)
    assert state_of(run_chains(small(), **OPTIONS | {"entropy": 4}))[1] != state_of(one)[1]


class Pickled:
    """An executor on other machines: everything is sent there and back."""

    def map(self, function, shared, jobs, done, at_most=None):
        for i, job in enumerate(jobs):
            sent = pickle.loads(pickle.dumps((function, shared, job)))
            done(i, pickle.loads(pickle.dumps(sent[0](sent[1], *sent[2]))))
        return []


def test_chains_run_elsewhere_too():
    assert state_of(run_chains(small(), **OPTIONS, executor=Pickled())) == state_of(run_chains(small(), **OPTIONS))


def test_chains_go_on_as_if_they_had_not_stopped():
    whole = run_chains(small(), **OPTIONS | {"n_draws": 8}, executor=SERIAL)
    begun = run_chains(small(), **OPTIONS, executor=SERIAL)
    before = state_of(begun)
    assert state_of(begun.continued(3)) == state_of(whole)
    # Chains that were continued stay as they were, and can be again.
    assert state_of(begun) == before
    assert state_of(begun.continued(3)) == state_of(whole)
    assert (begun.n_draws, whole.n_draws) == (5, 8)


def test_chains_that_had_not_converged_go_on_without_what_they_drew():
    begun = run_chains(small(), **OPTIONS, executor=SERIAL)
    after = begun.continued(4, discard=True)
    assert (after.n_draws, len(after.model), after.burnt) == (4, 4, 41)
    assert len(after.sweeps) == 41 + 2 * 7
    assert (after.sweeps > after.burnt).sum() == 14
    assert after.trace["beta[y, 1]"].shape == (2, 55)
    assert (after.trace["beta[y, 1]"][:, :41] == begun.trace["beta[y, 1]"]).all()


def test_traces_are_thinned():
    data = JointData((LatentColumn("a", "continuous"),), (np.arange(50.0),), np.ones((50, 1)))
    chains = run_chains(data, n_draws=1, burn_in=0, thin=4_100, chains=1, entropy=1)
    assert chains.trace["beta[a, 1]"].shape == (1, 4_100 // 3)
    assert chains.not_converged == []
    mean = chains.trace["beta[a, 1]"].mean()
    assert mean == pytest.approx(24.5, abs=5 * np.arange(50.0).std() / np.sqrt(50) / np.sqrt(1_000))
    variance = next(p for p in chains.parameters if p.name == "omega_e[a, a]")
    assert variance.mean == pytest.approx(np.arange(50.0).var(), rel=0.1)


def test_effects_of_clusters_need_not_be_kept():
    chains = run_chains(small(), **OPTIONS, effects=False)
    assert chains.model.cluster_effects.shape == (5, 0, 1, 6)
    assert run_chains(small(), **OPTIONS).model.u(4).shape == (30, 1, 6)


def test_random_slopes_are_found_in_the_units_of_the_predictors():
    rng = np.random.default_rng(4)
    n, n_clusters = 4_000, 200
    cluster = np.repeat(np.arange(n_clusters, dtype=np.int32), n // n_clusters)
    x = np.column_stack([np.ones(n), 50 + 10 * rng.normal(size=n)])
    between = np.array([[4.0, 0.02], [0.02, 0.0025]])
    u = rng.normal(size=(n_clusters, 2)) @ np.linalg.cholesky(between).T
    y = 3 + 0.2 * x[:, 1] + u[cluster, 0] + u[cluster, 1] * (x[:, 1]) + rng.normal(size=n)
    data = JointData((LatentColumn("y", "continuous"),), (y,), x, None, cluster, n_clusters, (1,), ("1", "age"))
    chains = run_chains(data, n_draws=2, burn_in=200, thin=600, entropy=1, executor=SERIAL)
    truth = {
        "beta[y, 1]": 3, "beta[y, age]": 0.2, "omega_e[y, y]": 1, "omega_2[y, y]": 4,
        "omega_2[y:age, y]": 0.02, "omega_2[y:age, y:age]": 0.0025,
    }  # fmt: skip
    for parameter in chains.parameters:
        assert abs(parameter.mean - truth[parameter.name]) < 4 * parameter.sd
        assert parameter.r_hat < 1.1
    # Effects of one draw: their reliability is .83.
    assert np.corrcoef(chains.model.u(0)[:, 1, 0], u[:, 1])[0, 1] == pytest.approx(0.83, abs=0.06)


# ------------------------------------------------------------------------------------------------------ awkward tables


def awkward(**columns):
    """Two columns of 300 rows in 15 clusters; what is given replaces values, x, cluster."""
    rng = np.random.default_rng(8)
    n = 300
    x = np.column_stack([np.ones(n), rng.normal(size=n)])
    base = {
        "kind": "binary", "n_levels": 2, "a": x[:, 1] + rng.normal(size=n), "b": (rng.random(n) < 0.5).astype(np.int32),
        "x": x, "cluster": (np.arange(n) // 20).astype(np.int32), "n_clusters": 15,
    } | columns  # fmt: skip
    both = LatentColumn("a", "continuous"), LatentColumn("b", base["kind"], base["n_levels"])
    return JointData(both, (base["a"], base["b"]), base["x"], None, base["cluster"], base["n_clusters"])


ROWS = np.arange(300)
AWKWARD = {
    "clusters of one": {"cluster": np.arange(300, dtype=np.int32), "n_clusters": 300},
    "one cluster": {"cluster": np.zeros(300, np.int32), "n_clusters": 1},
    "clusters without rows": {"cluster": (ROWS % 3 * 7).astype(np.int32), "n_clusters": 40},
    "no clusters": {"cluster": None, "n_clusters": 0},
    "a level with one person": {"kind": "unordered", "n_levels": 4, "b": np.where(ROWS < 1, 3, ROWS % 3)},
    "an ordered level with one person": {"kind": "ordered", "n_levels": 3, "b": np.where(ROWS < 1, 1, ROWS % 2 * 2)},
    "a level with nobody": {"kind": "ordered", "n_levels": 5, "b": ROWS % 3 + 1},
    "perfect separation": {"b": (awkward().x[:, 1] > 0) * 1},
    "a category that follows from a number": {
        "kind": "ordered", "n_levels": 3, "b": np.digitize(awkward().values[0], [-1, 1])
    },
    "a category that follows from clusters": {"b": ROWS // 20 % 2},
}  # fmt: skip


@pytest.mark.parametrize("case", AWKWARD)
def test_awkward_tables_have_finite_chains(case):
    change = AWKWARD[case]
    data = awkward(**{k: v.astype(np.int32) if k == "b" else v for k, v in change.items()})
    chains = run_chains(data, n_draws=2, burn_in=150, thin=150, chains=2, entropy=1, executor=SERIAL)
    assert all(np.isfinite(values).all() for values in chains.trace.values())
    assert max(abs(p.mean) for p in chains.parameters if p.name.startswith(("beta", "omega_e"))) < 100
    words = random_words(1, (1,), 2 * 300 * 3).reshape(-1, 300)[: chains.model.n_words]
    words2 = random_words(2, (1,), 10 * data.n_clusters).reshape(10, -1)[: chains.model.n_words2]
    b = chains.model.draw(0, data.x, words, data.cluster, data.n_clusters, words2)[1]
    assert set(np.unique(b)) <= set(np.unique(data.values[1]))


def test_perfect_separation_is_reported():
    data = awkward(**{"b": (awkward().x[:, 1] > 0).astype(np.int32)})
    chains = run_chains(data, n_draws=2, burn_in=150, thin=150, entropy=1, executor=SERIAL)
    assert "beta[b, x1]" in chains.not_converged


@pytest.mark.parametrize(
    ("option", "value"), [("n_draws", 0), ("thin", 0), ("chains", 1.5), ("burn_in", -1), ("burn_in", True)]
)
def test_numbers_that_are_not_allowed(option, value):
    with pytest.raises(OptionError, match=f"{option}={value!r}"):
        run_chains(awkward(), **{"n_draws": 1, "entropy": 1} | {option: value})


def test_a_column_of_rows_is_needed_without_an_outcome():
    with pytest.raises(OptionError, match="at least one column"):
        run_chains(JointData((), (), np.ones((9, 1))), n_draws=1, entropy=1)


def test_a_chain_that_breaks_down_says_so(monkeypatch):
    def singular(*arguments, **options):
        raise np.linalg.LinAlgError("Singular matrix")

    monkeypatch.setattr(joint, "sweep", singular)
    with pytest.raises(DataError, match=r"\(a, b\) nearly follow from each other"):
        run_chains(awkward(), n_draws=1, entropy=1)


def test_without_arviz_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(FastsynthError, match="fastsynth\\[bayes\\]"):
        run_chains(small(), **OPTIONS).to_arviz()


def test_arviz_gets_the_traces_after_burn_in(monkeypatch):
    class Fake:
        @staticmethod
        def from_dict(posterior):
            return posterior

    monkeypatch.setitem(sys.modules, "arviz", Fake)
    found = run_chains(small(), **OPTIONS).to_arviz()
    assert found["beta[y, 1]"].shape == (2, 21)
