"""Exact noise: every sampler against its probabilities, and the vectors of the reference."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import chisquare

from fastsynth.noise import (
    SecretBits,
    bernoulli_exp,
    choice_shares,
    choose,
    discrete_gaussian,
    discrete_laplace,
    epsilon_of_rho,
    rho_of_epsilon,
)

# Chance of each statistical test to fail where nothing is wrong; the seeds are fixed.
DOUBT = 1e-4


def fits(drawn, shares):
    """Whether whole numbers come with the given shares, those of few expected draws and all others taken together."""
    counts = np.array([np.sum(np.array(drawn) == value) for value in shares])
    expected = len(drawn) * np.array(list(shares.values()))
    kept = expected >= 10
    counts, expected = counts[kept], expected[kept]
    counts, expected = np.append(counts, len(drawn) - counts.sum()), np.append(expected, len(drawn) - expected.sum())
    return chisquare(counts[expected > 1e-6], expected[expected > 1e-6], sum_check=False).pvalue > DOUBT


def laplace_pmf(x, scale):
    decay = math.exp(-1 / scale)
    return (1 - decay) / (1 + decay) * decay ** abs(x)


def gaussian_pmf(x, variance):
    total = sum(math.exp(-(y**2) / (2 * variance)) for y in range(-200, 201))
    return math.exp(-(x**2) / (2 * variance)) / total


def test_streams_are_told_apart_and_repeat():
    def words(secret, key):
        return [SecretBits(secret, key).below(2**64) for _ in range(1)]

    assert words(1, "a") == words(1, "a")
    assert len({words(1, "a")[0], words(1, "b")[0], words(2, "a")[0], words(2**200, "a")[0]}) == 4


def test_the_stream_is_that_of_all_versions():
    bits = SecretBits(1, "column 0")
    assert [bits.below(100) for _ in range(6)] == [0, 22, 68, 70, 37, 76]


@pytest.mark.parametrize("n", [2, 6, 255, 256, 257])
def test_below_is_uniform(n):
    bits = SecretBits(5, "x")
    drawn = [bits.below(n) for _ in range(20 * n + 2_000)]
    assert fits(drawn, dict.fromkeys(range(n), 1 / n))


def test_numbers_are_below():
    bits = SecretBits(5, "x")
    assert bits.below(1) == 0
    assert all(0 <= bits.below(10**40) < 10**40 for _ in range(2_000))


@pytest.mark.parametrize(("up", "down"), [(0, 1), (3, 10), (1, 1), (27, 10), (6, 1)])
def test_bernoulli_exp(up, down):
    bits, n = SecretBits(7, f"{up}/{down}"), 20_000
    p = math.exp(-up / down)
    hits = sum(bernoulli_exp(bits, up, down) for _ in range(n))
    assert abs(hits - n * p) <= 4 * math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("scale", [Fraction(1, 3), Fraction(1), Fraction(7, 2), Fraction(20)])
def test_discrete_laplace(scale):
    bits = SecretBits(8, str(scale))
    drawn = [discrete_laplace(bits, scale) for _ in range(20_000)]
    assert fits(drawn, {x: laplace_pmf(x, scale) for x in range(-200, 201)})


@pytest.mark.parametrize("variance", [Fraction(1, 5), Fraction(1), Fraction(4), Fraction(90, 7)])
def test_discrete_gaussian(variance):
    bits = SecretBits(9, str(variance))
    drawn = [discrete_gaussian(bits, variance) for _ in range(20_000)]
    assert fits(drawn, {x: gaussian_pmf(x, float(variance)) for x in range(-60, 61)})


def test_discrete_gaussian_of_the_reference():
    for x, share in {0: 0.199471, 1: 0.176033, 2: 0.120985, 5: 0.008764}.items():
        assert gaussian_pmf(x, 4.0) == pytest.approx(share, abs=5e-7)
    assert sum(x**2 * gaussian_pmf(x, 4.0) for x in range(-200, 201)) == pytest.approx(4.0)


def test_the_exponential_mechanism_has_the_shares_of_the_reference():
    shares = choice_shares([12, 10, 3], 0.5 / 2)
    assert shares == pytest.approx([0.584136, 0.354296, 0.061567], abs=5e-7)
    bits = SecretBits(10, "x")
    drawn = [choose(bits, [12, 10, 3], Fraction(1, 4)) for _ in range(30_000)]
    assert fits(drawn, dict(enumerate(shares)))


def test_equal_utilities_are_equally_likely_and_far_ones_hopeless():
    bits = SecretBits(11, "x")
    drawn = [choose(bits, [10**12, 10**12, 0], Fraction(1, 10)) for _ in range(2_000)]
    assert fits(drawn, {0: 0.5, 1: 0.5, 2: 0.0})


def test_zcdp_of_the_reference():
    assert epsilon_of_rho(0.125, 1e-6) == pytest.approx(2.753261, abs=5e-7)
    for rho in (1e-6, 0.01, 0.125, 3.0):
        back = rho_of_epsilon(epsilon_of_rho(rho, 1e-6), 1e-6)
        assert rho * (1 - 1e-8) < back < rho


def gaussian_epsilon(sigma, delta):
    """Epsilon of Gaussian noise for sensitivity 1, exactly (Balle and Wang 2018)."""
    return brentq(
        lambda e: ndtr(0.5 / sigma - e * sigma) - math.exp(e) * ndtr(-0.5 / sigma - e * sigma) - delta,
        0,
        50,
        xtol=1e-13,
    )


def test_zcdp_promises_no_more_than_the_exact_gaussian():
    exact = gaussian_epsilon(2.0, 1e-6)
    assert exact == pytest.approx(2.254085, abs=5e-7)
    assert epsilon_of_rho(1 / (2 * 2.0**2), 1e-6) > exact
    classic = math.sqrt(2 * math.log(1.25 / 1e-6)) / 0.5
    assert classic == pytest.approx(10.5976, abs=5e-5)
    assert gaussian_epsilon(classic, 1e-6) < 0.5


@pytest.mark.parametrize("variance", [2.0, 9.0])
def test_the_discrete_gaussian_keeps_what_rho_promises(variance):
    rho, delta = 1 / (2 * variance), 1e-4
    epsilon = epsilon_of_rho(rho, delta)
    p = np.array([gaussian_pmf(x, variance) for x in range(-100, 101)])
    beyond = np.maximum(p[1:] - math.exp(epsilon) * p[:-1], 0).sum()
    assert beyond <= delta
