"""A Dask cluster as executor, and Dask DataFrames as sources. The only file that knows Dask.

The tasks are those that threads run, so the bytes are the same for any number of workers and partitions. What all
tasks of a map share (a source, codes, a model) is sent to every worker once. Workers that write parts of copies send
back their names, numbers of rows and checksums only.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
from dask.sizeof import sizeof
from distributed import CancelledError, Client, KilledWorker, as_completed

from fastsynth.errors import ClusterError, DataError
from fastsynth.source import Frame, check_names

if TYPE_CHECKING:
    import pandas as pd

Result = TypeVar("Result")
Kept = TypeVar("Kept")
# Times that what tasks share is sent again after all workers that held it were lost.
ATTEMPTS = 3
# Bytes of a job above which it goes to a worker without passing through the scheduler.
LARGE_JOB = 1_000_000


class Cluster:
    """Run tasks on the workers of a Dask cluster.

    Parameters
    ----------
    client : distributed.Client
    """

    def __init__(self, client: Client) -> None:
        if not isinstance(client, Client) or client.asynchronous:
            raise ClusterError(f"client must be a distributed.Client that is not asynchronous, not {client!r}.")
        self.client = client

    def map(
        self,
        function: Callable[..., Result],
        shared: Any,
        jobs: Sequence[tuple[Any, ...]],
        done: Callable[[int, Result], Kept],
        at_most: int | None = None,  # noqa: ARG002
    ) -> list[Kept]:
        """As in ``fastsynth.execute.Executor``; every worker has memory of its own, so ``at_most`` does not count here.

        Raises
        ------
        ClusterError
            No workers, or a task during which workers died again and again (as they do when memory runs out).
        """
        kept: dict[int, Kept] = {}
        for _ in range(ATTEMPTS):
            try:
                self._run(function, shared, jobs, done, kept)
                return [kept[i] for i in range(len(jobs))]
            except CancelledError:
                # All workers that held what is shared are gone: send it to those there are now, and do the rest.
                continue
            except KilledWorker as error:
                raise ClusterError(
                    f"Workers died while they ran {function.__name__}, the last at {error.last_worker.address}. Did "
                    "they run out of memory? Give them more, fit on fewer rows (fit_rows), or use fewer threads each."
                ) from None
            except RuntimeError as error:
                if self.client.status not in ("closed", "closing"):
                    raise
                raise ClusterError(f"The client is closed ({type(error).__name__}). Connect a new one.") from None
            except TimeoutError:
                raise ClusterError("The cluster has no workers. Start some, or wait for them.") from None
        raise ClusterError(f"All workers were lost {ATTEMPTS} times while they ran {function.__name__}.")

    def _run(
        self,
        function: Callable[..., Result],
        shared: Any,
        jobs: Sequence[tuple[Any, ...]],
        done: Callable[[int, Result], Kept],
        kept: dict[int, Kept],
    ) -> None:
        """Run the jobs that are not in ``kept`` yet, a few more at a time than there are threads."""
        if all(i in kept for i in range(len(jobs))):
            return
        held = self.client.scatter(shared, broadcast=True, hash=False)
        at = 0
        running: dict[Any, int] = {}

        def submit(number: int) -> list[Any]:
            nonlocal at
            futures: list[Any] = []
            while at < len(jobs) and len(futures) < number:
                if at not in kept:
                    job = jobs[at] if sizeof(jobs[at]) < LARGE_JOB else self.client.scatter([*jobs[at]], hash=False)
                    future = self.client.submit(function, held, *job, pure=False)
                    running[future] = at
                    futures.append(future)
                at += 1
            return futures

        threads = sum(self.client.nthreads().values())
        completed = as_completed(submit(2 * max(threads, 1)), with_results=True)
        try:
            for future, result in completed:
                if isinstance(result, CancelledError):
                    raise result
                i = running.pop(future)
                kept[i] = done(i, result)
                completed.update(submit(1))
        finally:
            self.client.cancel(list(running))


class DaskSource:
    """The partitions of a Dask DataFrame; they stay on the workers.

    Parameters
    ----------
    data : dask.dataframe.DataFrame
        Its index is dropped.
    client : distributed.Client
    """

    def __init__(self, data: Any, client: Client) -> None:
        check_names(list(data.columns))
        self._partitions = client.compute(data.to_delayed())
        described = client.gather(client.map(_describe, self._partitions, pure=False))
        self.frame = Frame("pandas", False, _common_schema([schema for schema, _ in described]))
        self.starts = [0, *np.cumsum([rows for _, rows in described]).tolist()]

    def without(self, names: Sequence[str]) -> DaskSource:
        """The same rows without some columns."""
        slim = copy.copy(self)
        schema = self.frame.schema
        slim.frame = replace(self.frame, schema=pa.schema([f for f in schema if f.name not in names], schema.metadata))
        return slim

    def __getstate__(self) -> dict[str, Any]:
        # Workers get partitions with their jobs.
        return {"frame": self.frame, "starts": self.starts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.frame = state["frame"]
        self.starts = state["starts"]

    def jobs(self) -> list[tuple[Any, ...]]:
        """Arguments of ``batches`` for all pieces."""
        return list(enumerate(self._partitions))

    def batches(self, piece: int, *held: Any) -> Iterator[pa.Table]:
        """The rows of a partition, which is handed over by the cluster or else fetched from it."""
        (partition,) = held or (self._partitions[piece].result(),)
        schema = self.frame.schema
        try:
            yield pa.Table.from_pandas(partition, schema=schema, preserve_index=False).cast(schema)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise DataError(
                f"Partition {piece} has other types than the first ones ({type(error).__name__}). Give every column "
                "one type with astype."
            ) from None


def _describe(partition: pd.DataFrame) -> tuple[pa.Schema, int]:
    try:
        return pa.Schema.from_pandas(partition, preserve_index=False), len(partition)
    except (pa.ArrowException, TypeError, ValueError) as error:
        # Arrow's own message quotes a value.
        raise DataError(
            f"A partition has a column that Arrow cannot hold ({type(error).__name__}). Give every column one type of "
            "plain values with astype."
        ) from None


def _common_schema(schemas: list[pa.Schema]) -> pa.Schema:
    """Of each column the first type that is one: a partition without values knows none."""
    fields = []
    for i, field in enumerate(schemas[0]):
        known = [schema.field(i) for schema in schemas if not pa.types.is_null(schema.field(i).type)]
        fields.append(known[0] if known else field)
    return pa.schema(fields, schemas[0].metadata)
