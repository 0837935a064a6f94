"""Normal variates within bounds, held against mpmath and against moments."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest

from fastsynth.normals import chi2, interior, log_between, normal, truncated
from fastsynth.streams import random_words

ENDS = np.array([0, 2**64 - 1], np.uint64)
# Words spread evenly: means over them are integrals.
GRID = (np.arange(20_000, dtype=np.uint64) * np.uint64(2**64 // 20_000)) + np.uint64(2**63 // 20_000)


def test_no_word_gives_an_infinite_number():
    assert (interior(ENDS) > 0).all()
    assert (interior(ENDS) < 1).all()
    assert np.isfinite(normal(ENDS)).all()
    assert np.isfinite(chi2(np.array([0.5, 1e7]), ENDS)).all()


def test_conditional_latent_of_a_positive_one():
    """METHODS 3.2: mean .11, variance .82, above 0."""
    s = math.sqrt(0.82)
    low = np.full(len(GRID), -0.11 / s)
    z = 0.11 + s * truncated(low, np.full(len(GRID), np.inf), GRID)
    assert z.min() > 0
    assert abs(z.mean() - 0.763975) < 1e-5


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (-1, 2),
        (0, math.inf),
        (-math.inf, -3),
        (5, 5.5),
        (8, 9),
        (29, 31),
        (33, math.inf),
        (-200, -100),
        (300, math.inf),
    ],
)
def test_quantiles_and_probabilities_are_exact(low, high):
    """By mpmath, to 50 digits: the quantile of a number is the number."""
    with mpmath.workdps(50):

        def between(a, b):
            if a + b > 0:
                a, b = -b, -a
            return mpmath.ncdf(b) - (mpmath.ncdf(a) if math.isfinite(a) else 0)

        total = between(mpmath.mpf(low), mpmath.mpf(high))
        bounds = np.array([float(low)]), np.array([float(high)])
        assert abs(log_between(*bounds)[0] / float(mpmath.log(total)) - 1) < 1e-12
        for word in (2**60, 2**63, 2**64 - 2**58):
            given = np.array([word], np.uint64)
            z = truncated(*bounds, given)[0]
            assert low <= z <= high
            u = mpmath.mpf(float(interior(given)[0]))
            # Intervals in the upper half are mirrored, and so is the word.
            share = (
                between(mpmath.mpf(low), mpmath.mpf(z)) / total
                if low + high <= 0
                else (between(mpmath.mpf(z), mpmath.mpf(high)) / total)
            )
            # The slope of the share in z is about |z|, so that digits of z are worth less far out.
            assert abs(share - u) < 1e-12 * max(1, z * z)


def test_an_empty_interval_has_no_probability():
    assert log_between(np.array([1.0]), np.array([1.0]))[0] == -np.inf
    assert truncated(np.array([1.0]), np.array([1.0]), ENDS[:1])[0] == 1.0


def test_each_word_counts_alone():
    words = random_words(1, (1,), 1_000)
    low, high = np.full(1_000, -0.3), np.full(1_000, np.inf)
    whole = truncated(low, high, words)
    np.testing.assert_array_equal(truncated(low[7:99], high[7:99], words[7:99]), whole[7:99])


@pytest.mark.parametrize("df", [0.5, 3.0, 1e6])
def test_chi2_moments(df):
    x = chi2(np.full(len(GRID), df), GRID)
    assert abs(x.mean() / df - 1) < 1e-3
    assert abs(x.var() / (2 * df) - 1) < 0.01
