"""Counting pairs of columns: the same from memory, from pieces and in another process."""

from __future__ import annotations

import pickle

import numpy as np

from fastsynth.copula_counts import Counting, Margin, count_piece, count_rows
from fastsynth.execute import Threads
from fastsynth.learn import learn
from fastsynth.source import open_source


def test_what_runs_elsewhere_can_be_pickled(mixed):
    learned = learn(open_source(mixed), Threads(1), lambda _: None)
    margins = [Margin.of(slot, v, rows, 32) for slot, (v, rows) in enumerate(zip(learned.variables, learned.rows))]
    counting = Counting.of(margins)
    shared = (counting, learned.source, dict(enumerate(learned.variables)), {}, np.zeros(0, np.uint64))
    function, again = pickle.loads(pickle.dumps((count_piece, shared)))
    here = count_rows((counting, learned.table.ranks, np.zeros(0, np.uint64)), 0, 500)
    assert np.array_equal(function(again, 0), here)
    assert here[0, : margins[0].n_groups].sum() == 500
