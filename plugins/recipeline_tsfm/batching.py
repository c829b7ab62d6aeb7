"""Many small questions in one call: a server that takes 90 ms per call, however many series it holds, is asked rarely."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

J = TypeVar("J")
R = TypeVar("R")


class Seat(Generic[J, R]):
    """One job on its way, and the place where its result is put: as soon as it is known, not when the whole batch is."""

    __slots__ = ("future", "job")

    def __init__(self, job: J, future: asyncio.Future[R]) -> None:
        self.job, self.future = job, future

    @property
    def left(self) -> bool:
        """Nobody waits for it any more."""
        return self.future.done()

    def settle(self, result: R) -> None:
        if not self.future.done():
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class _Line(Generic[J, R]):
    """What waits and what is under way, of one kind."""

    __slots__ = ("due", "running", "seats", "size", "timer")

    def __init__(self, size: int) -> None:
        self.seats: list[Seat[J, R]] = []
        self.size = size
        self.running = 0
        self.timer: asyncio.Handle | None = None
        self.due = False  # they have waited long enough


class MicroBatcher(Generic[J, R]):
    """Jobs of one kind travel together. For one event loop.

    Nothing under way: they leave at the end of this turn of the loop, so that those submitted together leave together. Else when
    `size` of them wait or the first has waited `wait` seconds, but not while `calls` of that kind are under way: behind a server
    that does one thing at a time, they gather here instead of there.

    call(kind, seats)   settles every seat; what it leaves open fails with its error
    """

    def __init__(
        self, call: Callable[[Hashable, list[Seat[J, R]]], Awaitable[None]], *, size: int = 64, wait: float = 0.008, calls: int = 2
    ) -> None:
        if size < 1 or calls < 1 or wait < 0:
            raise ValueError("size and calls are at least 1, wait is not negative")
        self._call, self._size, self._wait, self._calls = call, size, wait, calls
        self._lines: dict[Hashable, _Line[J, R]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: Exception | None = None

    async def submit(self, kind: Hashable, job: J, *, size: int | None = None) -> R:
        """The job's result; `size` is the most that a batch of this kind may hold, where that is less than the batcher's own."""
        loop = asyncio.get_running_loop()
        line = self._lines.get(kind)
        if line is None:
            line = self._lines[kind] = _Line(min(self._size, size or self._size))
        seat: Seat[J, R] = Seat(job, loop.create_future())
        line.seats.append(seat)
        if (line.running == 0 and not line.due) or len(line.seats) >= line.size:
            self._hurry(kind, line)
        elif line.timer is None and not line.due:
            line.timer = loop.call_later(self._wait, self._hurry, kind, line)
        return await seat.future

    def __len__(self) -> int:
        """Kinds that wait or are under way."""
        return len(self._lines)

    def _hurry(self, kind: Hashable, line: _Line[J, R]) -> None:
        """They have waited long enough: off they go at the end of this turn, if a call is free."""
        if line.timer is not None:
            line.timer.cancel()
            line.timer = None
        if not line.due:
            line.due = True
            asyncio.get_running_loop().call_soon(self._leave, kind, line)

    def _leave(self, kind: Hashable, line: _Line[J, R]) -> None:
        while line.due and line.seats and line.running < self._calls:
            seats = [seat for seat in line.seats[: line.size] if not seat.left]
            del line.seats[: line.size]
            # what a full batch leaves behind waits for company of its own, unless nothing is under way
            line.due = len(line.seats) >= line.size
            if not seats:
                line.due = True
                continue
            line.running += 1
            task = asyncio.get_running_loop().create_task(self._run(kind, line, seats))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if not line.seats:
            line.due = False
            if line.running == 0:
                self._lines.pop(kind, None)
        elif not line.due and line.timer is None:
            line.timer = asyncio.get_running_loop().call_later(self._wait, self._hurry, kind, line)

    async def _run(self, kind: Hashable, line: _Line[J, R], seats: list[Seat[J, R]]) -> None:
        try:
            await self._call(kind, seats)
        except BaseException as error:
            for seat in seats:
                seat.fail(error if isinstance(error, Exception) else self._closing or asyncio.CancelledError())
            if not isinstance(error, Exception):
                raise
        finally:
            line.running -= 1
            for seat in seats:
                seat.fail(RuntimeError("a batch ended without settling this job"))
            if line.seats and (line.running == 0 or line.due):
                line.due = True
                if line.timer is not None:
                    line.timer.cancel()
                    line.timer = None
            self._leave(kind, line)

    async def aclose(self, error: Exception) -> None:
        """Cancel what is under way; all jobs fail with `error`."""
        self._closing = error
        for line in self._lines.values():
            if line.timer is not None:
                line.timer.cancel()
            for seat in line.seats:
                seat.fail(error)
            line.seats.clear()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._lines.clear()
        self._closing = None
