"""The visit sequence: which column is drawn after which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise

import polars as pl

from fastsynth.blocks import Block
from fastsynth.clusters import Cluster
from fastsynth.columns import Variable
from fastsynth.errors import OptionError, PlanError, check_known
from fastsynth.methods import Nested
from fastsynth.options import PLAIN, Column

# Whose turn comes when: kept columns are there from the start, what is drawn once a cluster comes before what has a
# value in each row, and joint models before single columns.
KEPT, STRATA, CLUSTER, JOINT_2, UPPER, STRUCTURE, JOINT, SINGLE = range(8)


def needs(columns: Mapping[str, Column]) -> dict[str, list[str]]:
    """Columns that have to come before others: parents of passive ones, conditions of rules, coarse codes."""
    needed: dict[str, list[str]] = {}
    for name, column in columns.items():
        expressions = [column.expression(), *(rule.expression() for rule in column.rules)]
        before = [root for expression in expressions if expression is not None for root in expression.meta.root_names()]
        if isinstance(column.method, Nested):
            before.append(column.method.within)
        if before:
            needed[name] = before
    return needed


def find_turns(
    names: Sequence[str],
    kept: Collection[str],
    strata: Sequence[str],
    cluster: Cluster | None,
    level2: Collection[str],
    blocks: Sequence[Block],
    expressions: Mapping[str, pl.Expr],
) -> dict[str, tuple[int, int]]:
    """Whose turn comes when, and the place within the turn where that is not the caller's."""
    block = {name: number for number, of in enumerate(blocks) for name in of.columns}
    upper = {
        name
        for name in level2
        if name not in kept
        and (name not in expressions or set(expressions[name].meta.root_names()) <= {*level2, *kept})
    }

    def turn(name: str) -> tuple[int, int]:
        if name in kept:
            return KEPT, 0
        if name in strata:
            return STRATA, list(strata).index(name)
        if cluster is not None and name == cluster.column:
            return CLUSTER, 0
        if cluster is not None and name in cluster.structure:
            return STRUCTURE, 0
        if name in block:
            return JOINT_2 if name in upper else JOINT, block[name]
        return UPPER if name in upper else SINGLE, 0

    return {name: turn(name) for name in names}


def check_turns(order: Sequence[str], turn: Mapping[str, tuple[int, int]], block_of: Mapping[str, Block]) -> None:
    """Refuse columns that others need before their turn."""
    for before, name in pairwise(order):
        if turn[name] < turn[before]:
            what = "in a joint model" if name in block_of else "once for each cluster, within which it is constant"
            raise PlanError(
                f"{name!r} is drawn {what}, before {before!r}, but a rule or a passive expression of it needs columns "
                "that come later. Leave the rule out, or take the column out of the joint model."
            )


def find_order(
    variables: Sequence[Variable],
    given: Sequence[str] | str,
    columns: Mapping[str, Column],
    turn: Mapping[str, tuple[int, int]],
    needed: dict[str, list[str]],
) -> list[str]:
    """The visit sequence: by turns, and within a turn the caller's order, or that of "auto" or of the table with each
    column after those that it needs.
    """
    _refuse_cycle(needed)
    names = [v.name for v in variables]
    first = sorted((name for name in names if turn[name][0] <= STRATA), key=turn.__getitem__)
    if isinstance(given, str) and given == "auto":
        by_kind = sorted(variables, key=lambda v: (turn[v.name], _place(v, columns.get(v.name, PLAIN))))
        return _after_needed([v.name for v in by_kind if v.name not in first], first, needed)
    outcomes = [name for name in names if columns.get(name, PLAIN).outcome]
    if outcomes:
        raise OptionError(
            f"outcome=True of {', '.join(map(repr, outcomes))} needs visit_sequence='auto', the default; "
            "in a sequence of your own put the column last."
        )
    if isinstance(given, str) and given == "table":
        by_turn = sorted((name for name in names if name not in first), key=turn.__getitem__)
        return _after_needed(by_turn, first, needed)
    if isinstance(given, str) or not isinstance(given, Collection) or not all(isinstance(name, str) for name in given):
        raise OptionError(f"visit_sequence={given!r}: must be a list of column names, 'auto' or 'table'.")
    check_known("visit_sequence", given, names)
    twice = sorted(name for name, count in Counter(given).items() if count > 1)
    if twice:
        raise PlanError(f"visit_sequence names {', '.join(map(repr, twice))} more than once.")
    absent = sorted(set(names) - set(given) - set(first), key=names.index)
    if absent:
        raise PlanError(
            f"visit_sequence lacks {', '.join(map(repr, absent))}. Name every column; drop it from the table, or set "
            "Column(method='keep') to release its original values."
        )
    return [*first, *sorted((name for name in given if name not in first), key=turn.__getitem__)]


def _refuse_cycle(needed: dict[str, list[str]]) -> None:
    try:
        TopologicalSorter({name: [p for p in of if p in needed] for name, of in needed.items()}).prepare()
    except CycleError as error:
        circle = ", ".join(map(repr, sorted(set(error.args[1]))))
        raise PlanError(
            f"Columns depend on each other in a circle (passive expressions, rules, coarse codes): {circle}."
        ) from None


def _after_needed(names: list[str], first: list[str], needed: dict[str, list[str]]) -> list[str]:
    """The names in their order, each moved behind the last one that it needs."""
    order = list(first)
    waiting: list[str] = []
    for name in names:
        waiting.append(name)
        while ready := [w for w in waiting if all(other in order for other in needed.get(w, ()))]:
            order += ready
            waiting = [w for w in waiting if w not in ready]
    return order


def _place(variable: Variable, column: Column) -> tuple[bool, bool, int]:
    """Key of the visit sequence "auto": numbers, then categories by rising number of levels; outcomes last."""
    numeric = variable.kind == "numeric"
    return column.outcome, not numeric, 0 if numeric else variable.n_used


def check_earlier(name: str, others: Sequence[str], position: Mapping[str, int], role: str) -> None:
    """Refuse columns that are visited too late to be what another one is drawn from."""
    late = [other for other in others if position[other] >= position[name] and other != name]
    if name in others:
        raise PlanError(f"{name!r} cannot be its own {role}.")
    if late:
        raise PlanError(
            f"{role} {', '.join(map(repr, late))} of {name!r} is visited later than {name!r}. Give a "
            "visit_sequence, a list of all columns, in which it comes before, or leave it out."
        )
