"""Fit joint models of several columns to the rows of a table."""

from __future__ import annotations

from typing import Any

from fastsynth.blocks import BlockModel
from fastsynth.execute import Executor, Tick
from fastsynth.learn import Learned
from fastsynth.plan import Plan


def fit_blocks(
    plan: Plan, setting: Any, learned: Learned, m: int, entropy: int, executor: Executor, tick: Tick
) -> tuple[tuple[tuple[BlockModel, ...], ...], bool, tuple[Any, ...]]:
    """Fit all joint models of a plan."""
    return (), False, ()
