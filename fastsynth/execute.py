"""What runs tasks: threads here, a cluster elsewhere (``fastsynth.dask``)."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Protocol, TypeVar

from threadpoolctl import ThreadpoolController

Result = TypeVar("Result")
Kept = TypeVar("Kept")
# Called with how much was done: rows or columns.
Tick = Callable[[int], object]


class Executor(Protocol):
    """What runs the tasks: threads here, a cluster elsewhere."""

    def map(
        self,
        function: Callable[..., Result],
        shared: Any,
        jobs: Sequence[tuple[Any, ...]],
        done: Callable[[int, Result], Kept],
        at_most: int | None = None,
    ) -> list[Kept]:
        """Run ``function(shared, *job)`` for all jobs, at most so many at once.

        ``done(i, result)`` is called here as job i ends, one call at a time; what it returns is kept and returned in
        the order of the jobs, the results themselves are not. It may append jobs to the list that follow from the
        result. An error stops the jobs that have not begun.
        """


class Threads:
    """Run tasks on threads; the kernels release the interpreter.

    Parameters
    ----------
    threads : int or None
        None means the processors this process may use.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads or available_threads()

    def map(
        self,
        function: Callable[..., Result],
        shared: Any,
        jobs: Sequence[tuple[Any, ...]],
        done: Callable[[int, Result], Kept],
        at_most: int | None = None,
    ) -> list[Kept]:
        """As in ``Executor``."""
        workers = min(self.threads, len(jobs), at_most or self.threads)
        # What a task computes by BLAS is added up in the same order for any number of threads, and threads of BLAS do
        # not fight ours for the processors.
        with _libraries(len(sys.modules)).limit(limits=1, user_api="blas"):
            if workers <= 1:
                return [done(i, function(shared, *job)) for i, job in enumerate(jobs)]
            return self._share(function, shared, jobs, done, workers)

    def _share(
        self,
        function: Callable[..., Result],
        shared: Any,
        jobs: Sequence[tuple[Any, ...]],
        done: Callable[[int, Result], Kept],
        workers: int,
    ) -> list[Kept]:
        kept: dict[int, Kept] = {}
        begun = 0
        running: dict[Future[Result], int] = {}
        with ThreadPoolExecutor(workers) as pool:
            try:
                while len(kept) < len(jobs):
                    # One job more than there are threads is handed out, so that results cannot pile up unseen.
                    while begun < len(jobs) and len(running) <= workers:
                        running[pool.submit(function, shared, *jobs[begun])] = begun
                        begun += 1
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        i = running.pop(future)
                        kept[i] = done(i, future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [kept[i] for i in range(len(jobs))]


@functools.lru_cache(maxsize=1)
def _libraries(n_modules: int) -> ThreadpoolController:  # noqa: ARG001
    """Libraries with threads of their own; looked for again only where modules were loaded, because it takes 3 ms."""
    return ThreadpoolController()


def available_threads() -> int:
    """Processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
