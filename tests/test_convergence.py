"""R-hat and effective sample sizes: against ArviZ, and against chains whose autocorrelation is known."""

from __future__ import annotations

import numpy as np
import pytest

from fastsynth.convergence import effective_size, r_hat


def chains(rho, chains, n, seed):
    rng = np.random.default_rng(seed)
    x = np.zeros((chains, n))
    for t in range(1, n):
        x[:, t] = rho * x[:, t - 1] + rng.normal(size=chains)
    return x


# What az.rhat and az.ess of ArviZ 0.23.4 say about the same draws.
@pytest.mark.parametrize(
    ("rho", "n_chains", "n", "hat", "size"),
    [
        (0.9, 2, 500, 1.0252440021344893, 43.773857067066665),
        (0.5, 4, 501, 1.006994830013824, 777.9677839277492),
        (-0.3, 2, 1000, 1.0000996361900816, 3689.4526431496442),
    ],
)
def test_they_are_those_of_arviz(rho, n_chains, n, hat, size):
    draws = chains(rho, n_chains, n, 1)[:, :, None]
    assert r_hat(draws)[0] == pytest.approx(hat, rel=1e-9)
    assert effective_size(draws)[0] == pytest.approx(size, rel=1e-9)


def test_ties_and_different_spreads():
    x = chains(0.5, 2, 400, 1)
    wide = x * np.array([[1], [3]])
    draws = np.stack([np.floor(x), wide], axis=2)
    np.testing.assert_allclose(r_hat(draws), [1.0115335621312156, 1.198917025573824], rtol=1e-9)
    np.testing.assert_allclose(effective_size(draws), [324.6021497763856, 332.85125999004043], rtol=1e-9)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_the_size_of_an_autoregression(rho):
    n = 20_000
    size = effective_size(chains(rho, 2, n, 2)[:, :, None])[0]
    assert size == pytest.approx(2 * n * (1 - rho) / (1 + rho), rel=0.15)


def test_one_chain_is_split():
    drifting = np.linspace(0, 1, 400)[None, :, None] + 0.01 * chains(0, 1, 400, 3)[:, :, None]
    assert r_hat(drifting)[0] > 1.5
    assert r_hat(chains(0, 1, 400, 3)[:, :, None])[0] < 1.01


def test_too_few_draws_and_what_does_not_vary():
    for draws in (np.zeros((2, 7, 3)), np.ones((2, 100, 3)), np.zeros((1, 0, 3))):
        assert np.isnan(r_hat(draws)).all()
        assert np.isnan(effective_size(draws)).all()


def test_chains_that_stand_still_at_different_places():
    draws = np.ones((2, 100, 1)) * np.array([0.0, 1.0])[:, None, None]
    assert not r_hat(draws)[0] < 1.05
