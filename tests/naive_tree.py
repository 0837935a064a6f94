"""A slow tree, written from the definition: the oracle of the kernel.

Pure Python on exact fractions. Every cut is tried by splitting the rows and computing both impurities anew, so
nothing of the kernel's arithmetic is repeated here.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np


def impurity(y, n_classes: int) -> Fraction:
    """Sum of squares about the mean, or rows times the Gini impurity."""
    n = len(y)
    if n_classes:
        return n - Fraction(sum(sum(1 for v in y if v == k) ** 2 for k in set(y)), n)
    mean = Fraction(sum(y), n)
    return sum((v - mean) ** 2 for v in y)


def level_order(codes, y, n_classes: int) -> list[int]:
    """Levels of an unordered predictor in the order in which they are scanned."""
    levels = sorted(set(codes))
    if not n_classes:
        mean = {c: Fraction(sum(v for d, v in zip(codes, y) if d == c), sum(d == c for d in codes)) for c in levels}
        return sorted(levels, key=lambda c: (mean[c], c))
    score, _ = principal_scores(codes, y, n_classes)
    return sorted(levels, key=lambda c: (round(score[c], 9), c))


def principal_scores(codes, y, n_classes: int) -> tuple[dict[int, float], float]:
    """Score of each level on the first principal component of the class shares, and its share of the variance."""
    levels = sorted(set(codes))
    table = np.array([[sum(d == c and v == k for d, v in zip(codes, y)) for k in range(n_classes)] for c in levels])
    weight = table.sum(1) / table.sum()
    share = table / table.sum(1, keepdims=True)
    centred = share - weight @ share
    values, vectors = np.linalg.eigh((centred * weight[:, None]).T @ centred)
    return dict(zip(levels, share @ vectors[:, -1])), (values[-1] - values[-2]) / max(values[-1], 1e-300)


@dataclass
class Node:
    rows: list[int]
    predictor: int = -1
    left_codes: frozenset[int] = frozenset()
    gain: Fraction = Fraction(0)
    left: Node | None = None
    right: Node | None = None

    def leaves(self) -> list[list[int]]:
        if self.left is None:
            return [self.rows]
        return self.left.leaves() + self.right.leaves()


def cuts(codes, y, n_classes, unordered):
    """Sets of codes that may go left, in the order in which ties are broken."""
    levels = sorted(set(codes))
    if unordered:
        order = level_order(codes, y, n_classes)
        return [frozenset(order[:i]) for i in range(1, len(order))]
    out = [frozenset(levels[:i]) for i in range(1, len(levels))]
    if levels[0] == 0:
        out += [frozenset(levels[1:i]) for i in range(2, len(levels) + 1)]
    return out


def best_split(columns, unordered, y, rows, n_classes, minbucket):
    """First predictor and cut of the largest gain, or None."""
    whole = impurity([y[i] for i in rows], n_classes)
    best = None
    if whole == 0 or len(rows) < 2 * minbucket:
        return None
    for f, column in enumerate(columns):
        for left_codes in cuts([column[i] for i in rows], [y[i] for i in rows], n_classes, unordered[f]):
            left = [i for i in rows if column[i] in left_codes]
            right = [i for i in rows if column[i] not in left_codes]
            if min(len(left), len(right)) < minbucket:
                continue
            gain = whole - impurity([y[i] for i in left], n_classes) - impurity([y[i] for i in right], n_classes)
            if best is None or gain > best[0]:
                best = gain, f, left_codes, left, right
    return best


def grow(columns, unordered, y, n_classes=0, minbucket=1, cp=0.0) -> Node:
    """Grow the whole tree; ``columns[f][i]`` are codes, 0 is missing."""
    columns = [[int(v) for v in c] for c in columns]
    y = [int(v) for v in y]
    root = Node(list(range(len(y))))
    least = Fraction(cp) * impurity(y, n_classes)
    waiting = [root]
    while waiting:
        node = waiting.pop()
        split = best_split(columns, unordered, y, node.rows, n_classes, minbucket)
        if split is None or split[0] < least:
            continue
        node.gain, node.predictor, node.left_codes, left, right = split
        node.left, node.right = Node(left), Node(right)
        waiting += [node.left, node.right]
    return root
