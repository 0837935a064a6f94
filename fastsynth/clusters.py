"""Clusters of rows: people in households, pupils in schools.

Rows of a copy are laid out cluster by cluster. Every cluster of it has a donor, a cluster of the original drawn with
replacement, which gives its size, what is resampled of it as a whole (``structure``) and, to trees, its random
effects; nothing else. Which cluster a row belongs to, and its donor, depend on random state, copy and k only, so any
task can find it out::

    copy       | cluster 0 | cluster 1     | cluster 2 ...
    row        | 0   1   2 | 3   4   5   6 | 7
    donor      | 17        | 4             | 17
    row of the
    original   | its three | its four      | the same three
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsynth.columns import SIZE, Ranks
from fastsynth.errors import OptionError
from fastsynth.streams import CLUSTER, below, random_words

Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Cluster:
    """The column that says which rows belong together, and what of such a cluster stays together.

    Parameters
    ----------
    column : str
        Household, school, firm: every row has one. Its values are replaced by fresh ones of the same pattern; with
        ``Column(method="keep")`` the clusters are those of the original, and so is their order.
    structure : list of str, default ()
        Columns whose values in a cluster are taken together from one donor cluster, row by row: the relation of each
        member to the head of a household, so that no copy has two heads, or none. Name few and harmless ones: what is
        named is copied, household by household. The others are then drawn for the first row of each cluster, and for
        its other rows given what the first one has: put the head of a household first.

    Raises
    ------
    OptionError
        Something that is no column name.

    Notes
    -----
    A cluster of a copy takes its size from a donor cluster, drawn with replacement; the last one is cut off where k is
    reached. Columns that are constant within all clusters (level 2) are drawn once a cluster, before all others. Of
    the other columns, numbers have leaves for what is expected of them, and random effects of the donor cluster on
    top (RE-EM trees; Sela and Simonoff 2012), reflated to the variance that they have in the population (Carpenter,
    Goldstein and Rasbash 2003); classes have random effects on the log shares of their leaves.

    Examples
    --------
    >>> Cluster("household", structure=["relation"])
    Cluster(column='household', structure=('relation',))
    """

    column: str
    structure: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.column, str):
            raise OptionError(f"cluster={self.column!r}: must be the name of a column, or Cluster(column, ...).")
        given = self.structure
        if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(n, str) for n in given):
            raise OptionError(f"structure={given!r}: must be a list of column names.")
        object.__setattr__(self, "structure", tuple(given))

    @classmethod
    def of(cls, given: Any) -> Cluster | None:
        """From what a caller may give: a name, a record, or None."""
        return given if given is None or isinstance(given, Cluster) else cls(given)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Clusters of one copy.

    Attributes
    ----------
    starts : ndarray of shape (n_clusters + 1,), dtype=int64
        First row of each, and k.
    donors : ndarray of shape (n_clusters,), dtype=int32
        Clusters of the original.
    """

    starts: Numbers
    donors: NDArray[np.int32]

    @property
    def n_clusters(self) -> int:
        """How many there are."""
        return len(self.donors)

    def of_rows(self, rows: Numbers) -> Numbers:
        """Cluster of each row of the copy."""
        return np.searchsorted(self.starts, rows, side="right") - 1


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """Clusters of the original, as far as drawing needs them.

    Attributes
    ----------
    slot : int
        Of the column that names them.
    sizes : ndarray of shape (n_clusters,), dtype=int64
        Rows of each.
    structure : dict
        By slot, ranks (n_rows,) of columns that are resampled, cluster by cluster.
    rows : ndarray of shape (n_rows,), dtype=int32, or None
        Cluster of each row of the original, where clusters are kept.
    first_rows : ndarray of shape (n_clusters,), dtype=int64
        Of each in the original, where clusters are kept.
    pools : tuple of ndarray, dtype=int32
        For each fit the clusters that donors are drawn from, with repeats where the fit is to a bootstrap sample;
        empty: from all.
    led : bool
        Whether the first row of a cluster is drawn before the others, which are drawn given what it has.
    counts : dict
        By part of the column, rows of some kind of each cluster (n_clusters,): of a level of a column that is
        resampled.
    """

    slot: int
    sizes: Numbers
    structure: dict[int, Ranks] = field(default_factory=dict)
    rows: NDArray[np.int32] | None = None
    first_rows: Numbers = field(default_factory=lambda: np.zeros(0, np.int64))
    pools: tuple[NDArray[np.int32], ...] = ()
    led: bool = False
    counts: dict[str, Numbers] = field(default_factory=dict)
    _layouts: dict[tuple[int, int, int], Layout] = field(default_factory=dict, init=False, repr=False)

    @property
    def n_clusters(self) -> int:
        """Clusters of the original."""
        return len(self.sizes)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What ``of_state`` makes the same of: a record for JSON, and arrays by name."""
        arrays: dict[str, NDArray[Any]] = {"sizes": self.sizes, "first_rows": self.first_rows}
        arrays |= {f"structure_{slot}": ranks for slot, ranks in self.structure.items()}
        arrays |= {f"pool_{i}": pool for i, pool in enumerate(self.pools)}
        if self.rows is not None:
            arrays["rows"] = self.rows
        arrays |= {f"count_{part}": counts for part, counts in self.counts.items()}
        record = {"slot": self.slot, "structure": list(self.structure), "pools": len(self.pools), "led": self.led}
        return record | {"counts": list(self.counts)}, arrays

    @classmethod
    def of_state(cls, record: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Clusters:
        """The clusters that gave this state."""
        return cls(
            record["slot"],
            arrays["sizes"],
            {slot: arrays[f"structure_{slot}"] for slot in record["structure"]},
            arrays.get("rows"),
            arrays["first_rows"],
            tuple(arrays[f"pool_{i}"] for i in range(record["pools"])),
            record["led"],
            {part: arrays[f"count_{part}"] for part in record["counts"]},
        )

    def layout(self, entropy: int, copy: int, k: int) -> Layout:
        """Clusters of a copy of k rows, drawn until they have so many; found once for all tasks of a copy. O(k)."""
        key = (entropy, copy, k)
        if key not in self._layouts:
            if len(self._layouts) >= 2:
                # Tasks of few copies run at a time.
                self._layouts.clear()
            self._layouts[key] = self._drawn(entropy, copy, k)
        return self._layouts[key]

    def _drawn(self, entropy: int, copy: int, k: int) -> Layout:
        if self.pools:
            pool = self.pools[copy if len(self.pools) > 1 else 0]
        else:
            pool = np.arange(self.n_clusters, dtype=np.int32)
        drawn, rows, run = [np.zeros(0, np.int32)], 0, 0
        while rows < k:
            n = int((k - rows) / self.sizes[pool].mean()) + 16
            some = pool[below(random_words(entropy, (CLUSTER, copy, run), n), len(pool))]
            drawn.append(some)
            rows, run = rows + int(self.sizes[some].sum()), run + 1
        donors = np.concatenate(drawn)
        ends = np.cumsum(self.sizes[donors])
        n = int(np.searchsorted(ends, k)) + 1
        return Layout(np.concatenate([[0], ends[: n - 1], [k]]), donors[:n])

    def counted(self, part: str) -> Numbers | None:
        """Rows, or rows of some kind, of each cluster; None for what is no count."""
        return self.sizes if part == SIZE else self.counts.get(part)

    def of_structure(self, slot: int, layout: Layout, rows: Numbers, cluster: Numbers) -> Ranks:
        """Ranks of a column that is resampled, at some rows of a copy that are in these clusters of it."""
        first = np.cumsum(self.sizes) - self.sizes
        place = first[layout.donors[cluster]] + rows - layout.starts[cluster]
        found: Ranks = self.structure[slot][place]
        return found
