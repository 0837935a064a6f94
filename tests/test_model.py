"""Strata of a model, and streams of random numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsynth import streams
from fastsynth.errors import OptionError
from fastsynth.model import Strata


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 300), st.integers(0, 2)), min_size=1, max_size=60))
def test_strata_are_the_combinations_that_occur(rows):
    ranks = [np.array(column, np.uint32) for column in zip(*rows, strict=True)]
    strata = Strata.of((0, 1, 2), ranks)
    assert [tuple(row) for row in strata.ranks.tolist()] == sorted(set(rows))
    assert strata.rows.tolist() == [rows.count(row) for row in sorted(set(rows))]
    assert [tuple(strata.ranks[number]) for number in strata.numbers(ranks)] == rows
    odd = [np.append(column, 400).astype(np.uint32) for column in ranks]
    assert strata.numbers(odd)[-1] == -1


def test_strata_are_drawn_in_proportion():
    strata = Strata((0,), np.arange(3, dtype=np.uint32)[:, None], np.array([500, 300, 200]))
    drawn = strata.draw(streams.random_words(1, (0,), 100_000))
    assert np.abs(np.bincount(drawn) / 100_000 - [0.5, 0.3, 0.2]).max() < 4 * 0.5 / np.sqrt(100_000)


def test_too_many_combinations_are_refused():
    with pytest.raises(OptionError, match="too many different values"):
        Strata.of(tuple(range(5)), [np.array([0, 2**14], np.uint32)] * 5)


def test_numbers_of_words():
    words = np.array([0, 2**63, 2**64 - 1], np.uint64)
    assert streams.below(words, 10).tolist() == [0, 5, 9]
    assert streams.below(words, np.array([1, 2, 2**32])).tolist() == [0, 1, 2**32 - 1]
    assert streams.unit(words).tolist() == [0.0, 0.5, 1 - 2.0**-53]
    hashes = streams.hashed(np.arange(10_000, dtype=np.uint64), np.uint64(7))
    assert len(np.unique(hashes)) == 10_000
    assert abs(streams.unit(hashes).mean() - 0.5) < 4 * np.sqrt(1 / 12 / 10_000)
