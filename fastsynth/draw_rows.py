"""Draw rows of copies from a fitted model: clusters first, then rows, then again what may not stay as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fastsynth.columns import Codes, taken
from fastsynth.draw import Drawing, Upper, concat
from fastsynth.errors import PlanError
from fastsynth.exact import Exact
from fastsynth.model import Model
from fastsynth.streams import FRESH, unit

# Times that a row is drawn again as a whole, because it has no admissible value in some column.
WHOLE_TRIES = 20
# So many are enough if none of so many rows was helped.
HOPELESS = (3, 100)
# Times that one column of a row that equals a real one is redrawn.
COPY_TRIES = 10
# Times that it is drawn as a whole, where none may.
MOST_TRIES = 200


def draw_rows(model: Model, entropy: int, copy: int, start: int, stop: int) -> tuple[pa.RecordBatch, Counter[str]]:
    """Draw rows [start, stop) of one copy; ``start`` is that of a block.

    Returns
    -------
    batch : pyarrow.RecordBatch
    counts : Counter
        By column, rows for which no donor of the leaf was admissible; under "" rows that were drawn anew as a whole.
    """
    counts: Counter[str] = Counter()
    numbers = np.arange(start, stop, dtype=np.int64)
    upper = None
    if model.clusters is not None:
        # Where the first row of a cluster leads, all rows of it are drawn, though some are of other blocks.
        numbers = _whole_clusters(model, copy, numbers) if model.clusters.led else numbers
        upper = _draw_clusters(model, entropy, copy, numbers)
    arrays, _ = _until_alive(
        lambda some, attempt: Drawing(model, entropy, copy, numbers[some], attempt, counts, 1, _at(upper, some)),
        len(numbers),
    )
    if model.exact is not None and model.exact.keep < 1:
        arrays = _without_copies(model, model.exact, entropy, copy, numbers, arrays, upper)
    arrays = [array.slice(start - numbers[0], stop - start) for array in arrays]
    return pa.RecordBatch.from_arrays(arrays, schema=model.frame.schema), counts


def _until_alive(make: Callable[[NDArray[np.int64], int], Drawing], n: int) -> tuple[list[Any], Codes]:
    """Columns and codes of n rows, of which those without admissible values are drawn anew as a whole."""
    drawn = make(np.arange(n), 0)
    arrays, dead = drawn.run()
    codes = drawn.codes
    n_dead, attempt = len(dead), 0
    while len(dead):
        attempt += 1
        drawn.counts[""] += len(dead)
        drawn = make(dead, attempt)
        again, still = drawn.run()
        if len(still) and (attempt == WHOLE_TRIES or (len(still) == n_dead >= HOPELESS[1] and attempt == HOPELESS[0])):
            raise _nothing_admissible(drawn.model, len(still), attempt)
        place = np.arange(n)
        place[dead] = n + np.arange(len(dead))
        pairs = zip(arrays, again, strict=True)
        arrays = [None if old is None else taken(concat(old, new), place) for old, new in pairs]
        codes[dead] = drawn.codes
        dead = dead[still]
    return arrays, codes


def _nothing_admissible(model: Model, n_rows: int, attempt: int) -> PlanError:
    names = sorted({step.name for step in model.plan.steps if step.limits})
    return PlanError(
        f"{n_rows} row(s) found no admissible values in {attempt} tries. What is forbidden and the bounds of "
        f"{', '.join(map(repr, names))} leave them none: do they contradict each other, a rule, or kept columns?"
    )


def _whole_clusters(model: Model, copy: int, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """All rows of the clusters that some successive rows are in."""
    assert model.clusters is not None
    layout = model.clusters.layout(model.extent[0], copy, model.extent[2])
    low, high = layout.of_rows(numbers[[0, -1]])
    return np.arange(layout.starts[low], layout.starts[high + 1])


def _draw_clusters(model: Model, entropy: int, copy: int, numbers: NDArray[np.int64]) -> Upper:
    """Draw what is constant within clusters, once for each cluster of some rows."""
    own = model.clusters
    assert own is not None
    layout = None if own.rows is not None else own.layout(model.extent[0], copy, model.extent[2])
    cluster = own.rows[numbers].astype(np.int64) if own.rows is not None else layout.of_rows(numbers)  # type: ignore
    clusters, place = np.unique(cluster, return_inverse=True)
    donors = clusters.astype(np.int32) if layout is None else layout.donors[clusters]
    blank = np.zeros((len(clusters), len(model.variables)), np.uint16)
    upper = Upper(layout, cluster, place, clusters, donors, blank, [])
    # Counts of clusters would be counted again by each task that has some rows of it.
    alone = Counter[str]()
    arrays, codes = _until_alive(
        lambda some, attempt: Drawing(
            model, entropy, copy, clusters[some], attempt, alone, 2, replace(upper, donors=donors[some])
        ),
        len(clusters),
    )
    return replace(upper, arrays=arrays, codes=codes)


def _at(upper: Upper | None, rows: NDArray[np.int64]) -> Upper | None:
    """The clusters of some of the rows."""
    return None if upper is None else replace(upper, cluster=upper.cluster[rows], place=upper.place[rows])


def _without_copies(
    model: Model,
    exact: Exact,
    entropy: int,
    copy: int,
    numbers: NDArray[np.int64],
    arrays: list[pa.Array],
    upper: Upper | None,
) -> list[pa.Array]:
    """Redraw one column of the rows that equal a real row, but for the share that a fresh sample would have.

    Whole rows drawn anew would deplete the rare cells in which copies lie; one column leaves all others as they are.
    Where chance finds no other value in ten draws, one is looked up, further up the tree if need be. Where nobody's row
    is to be met (``copies="none"``) the rows that still equal one are drawn anew as a whole.
    """
    step = next(step for step in model.plan.steps if step.slot == exact.slot)
    lost = Counter[str]()

    def keeping(rows: NDArray[np.int64], attempt: int) -> Drawing:
        return Drawing(model, entropy, copy, numbers[rows], attempt, lost, 1, _at(upper, rows))

    bad = exact.find(model.variables, arrays)
    stays = unit(keeping(bad, 0).words(FRESH, 0, 1, 0)[0]) < exact.keep if len(bad) else np.zeros(0, bool)
    bad = bad[~stays]
    for attempt in range(1, COPY_TRIES + 1):
        if not len(bad):
            return arrays
        draw = keeping(bad, WHOLE_TRIES + attempt)
        draw.hold(arrays, bad)
        draw.draw_step(step)
        place = np.arange(len(numbers))
        place[bad[~draw.dead]] = len(numbers) + np.flatnonzero(~draw.dead)
        arrays[step.slot] = taken(concat(arrays[step.slot], draw.arrays[step.slot]), place)
        bad = bad[exact.find(model.variables, [taken(array, bad) for array in arrays])]
    if len(bad):
        draw = keeping(bad, WHOLE_TRIES + COPY_TRIES + 1)
        arrays[step.slot], found = draw.unlike(exact, step, arrays, bad)
        bad = bad[~found]
    attempt = WHOLE_TRIES + COPY_TRIES + 1
    while exact.policy == "none" and len(bad):
        attempt += 1
        if attempt > MOST_TRIES:
            raise PlanError(
                f"copies='none': {len(bad)} row(s) equal a real row however often they are drawn. The table has few "
                "combinations of values; copies='fresh' leaves as many such rows as chance would."
            )
        again, dead = keeping(bad, attempt).run()
        place, alive = np.arange(len(numbers)), np.delete(np.arange(len(bad)), dead)
        place[bad[alive]] = len(numbers) + alive
        arrays = [taken(concat(old, new), place) for old, new in zip(arrays, again, strict=True)]
        bad = bad[exact.find(model.variables, [taken(array, bad) for array in arrays])]
    return arrays
