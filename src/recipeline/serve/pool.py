"""Where predictions run: a few threads behind a bounded queue, so that the event loop always has time for the next request."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from recipeline.serve.problems import busy

T = TypeVar("T")

THREADS = min(4, os.cpu_count() or 1)
WAITING = 64
LATE = "the answer took too long; try again with fewer rows"


class Pool:
    """Runs blocking work.

    threads  work that runs at the same time
    waiting  work that may wait for a thread; more than that is refused with 503
    """

    def __init__(self, threads: int = THREADS, waiting: int = WAITING) -> None:
        self.threads, self.waiting = threads, waiting
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="predict")
        self._lock = threading.Lock()
        self._inside = 0

    @property
    def inside(self) -> int:
        """Work that runs or waits."""
        return self._inside

    async def run(self, function: Callable[..., T], *arguments: Any, deadline: float | None = None) -> T:
        """What the function returns.

        deadline  by the clock of the loop; work that has not begun by then never does, work that has keeps its place until done

        Raises HTTPProblem 503 where the queue is full or the deadline passes.
        """
        with self._lock:
            if self._inside >= self.threads + self.waiting:
                raise busy("busy", "too many requests are waiting; try again")
            self._inside += 1
        future = self._executor.submit(function, *arguments)
        future.add_done_callback(self._left)
        return await self.wait(asyncio.wrap_future(future), deadline=deadline)

    async def wait(self, work: Awaitable[T], *, deadline: float | None = None) -> T:
        """What work of the event loop gives, under the same deadline."""
        try:
            async with asyncio.timeout_at(deadline) as limit:
                return await work
        except TimeoutError:
            if not limit.expired():
                raise
            raise busy("timeout", LATE) from None

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _left(self, _: Future[Any]) -> None:
        with self._lock:
            self._inside -= 1
