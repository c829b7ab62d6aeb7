"""Answers that are kept for a while, and questions that are asked once though many ask them."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from recipeline.errors import Unavailable

T = TypeVar("T")


def freeze(value: Any) -> Any:
    """The same value, unchangeable: lists become tuples, sets frozensets, mappings read-only views of a copy, arrays read-only copies.

    Anything else must be hashable, as changeable values are not (a frozen dataclass is); otherwise TypeError.
    """
    if isinstance(value, Mapping):
        return MappingProxyType({key: freeze(item) for key, item in value.items()})
    if type(value) in (list, tuple):
        return tuple(freeze(item) for item in value)
    if isinstance(value, set):
        return frozenset(value)
    if hasattr(value, "setflags") and hasattr(value, "dtype"):
        copy = value.copy()
        copy.setflags(write=False)
        return copy
    try:
        hash(value)
    except TypeError as error:
        raise TypeError(f"{type(value).__name__} can be changed after it was cached; cache bytes or a frozen dataclass") from error
    return value


@dataclass(frozen=True)
class Hit:
    value: Any
    age: float  # seconds since it was stored
    stale: bool  # older than its time to live


class StaleCache:
    """The last `size` answers used; fresh for `ttl` seconds, and for `stale` more when asked with `stale_ok` (RFC 5861, stale-if-error).

    `budget` limits the weight of all together, as `put` tells it (bytes, say), where answers may differ much in size; one that is
    heavier than that is not kept. Values are frozen, so that no reader can change what the next one gets. Monotonic injected
    clock; thread-safe.
    """

    def __init__(
        self,
        size: int = 1024,
        *,
        ttl: float = 60.0,
        stale: float = 0.0,
        budget: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if size < 1 or ttl < 0 or stale < 0 or not budget > 0:
            raise ValueError("size is at least 1; ttl and stale are not negative; budget is positive")
        self.size, self.ttl, self.stale, self.budget, self._clock = size, ttl, stale, budget, clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, tuple[float, Any, float]] = OrderedDict()
        self.weight = 0.0  # of all that is kept
        self.hits = self.misses = 0

    def put(self, key: Hashable, value: Any, *, weight: float = 1.0) -> None:
        frozen = freeze(value)
        with self._lock:
            old = self._entries.pop(key, None)
            self.weight -= old[2] if old else 0.0
            if weight > self.budget:
                return
            self._entries[key] = (self._clock(), frozen, weight)
            self.weight += weight
            while len(self._entries) > self.size or self.weight > self.budget:
                self.weight -= self._entries.popitem(last=False)[1][2]

    def get(self, key: Hashable, *, ttl: float | None = None, stale_ok: bool = False) -> Hit | None:
        """The answer, or None. `ttl` replaces the cache's own for this one question."""
        fresh = self.ttl if ttl is None else ttl
        with self._lock:
            entry = self._entries.get(key)
            age = self._clock() - entry[0] if entry else 0.0
            if entry is None or age > fresh + (self.stale if stale_ok else 0.0):
                self.misses += 1
                return None
            self.hits += 1
            self._entries.move_to_end(key)
            return Hit(entry[1], age, age > fresh)

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self.weight = 0.0

    def __len__(self) -> int:
        return len(self._entries)


class SingleFlight:
    """Identical questions that come while one is under way share its answer, or its error; nothing is kept afterwards.

    Who leaves cancels nobody: a waiter that times out just goes; when the one who calls is interrupted, a waiter calls anew;
    in asyncio the call is a task of its own that outlives whoever began it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[Hashable, Future[Any]] = {}
        self._tasks: dict[tuple[int, Hashable], asyncio.Future[Any]] = {}

    def run(self, key: Hashable, function: Callable[[], T], *, timeout: float | None = None) -> tuple[T, bool]:
        """(the answer, whether it was another's). TimeoutError for a waiter after `timeout` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                future = self._calls.get(key)
                if future is None:
                    mine: Future[Any] = Future()
                    self._calls[key] = mine
                    break
            try:
                return future.result(None if end is None else max(0.0, end - time.monotonic())), True
            except CancelledError:  # the caller was interrupted; the question is still open
                continue
        try:
            value = function()
        except BaseException as error:
            self._drop(key)
            if isinstance(error, Exception):
                mine.set_exception(error)
            else:
                mine.cancel()
            raise
        self._drop(key)
        mine.set_result(value)
        return value, False

    def _drop(self, key: Hashable) -> None:
        with self._lock:
            del self._calls[key]

    async def arun(self, key: Hashable, function: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """The same in asyncio; put time limits around it (`asyncio.timeout`) and inside `function`."""
        loop = asyncio.get_running_loop()
        place = (id(loop), key)
        task = self._tasks.get(place)
        shared = task is not None
        if task is None:
            task = asyncio.ensure_future(function())
            self._tasks[place] = task

            def done(finished: asyncio.Future[Any]) -> None:
                del self._tasks[place]
                if not finished.cancelled():
                    finished.exception()  # seen, even when everybody left

            task.add_done_callback(done)
        if not task.done():
            waiter: asyncio.Future[None] = loop.create_future()  # unlike awaiting the task, being cancelled here does not cancel it

            def wake(_: asyncio.Future[Any]) -> None:
                if not waiter.done():
                    waiter.set_result(None)

            task.add_done_callback(wake)
            try:
                await waiter
            finally:
                task.remove_done_callback(wake)
        if task.cancelled():
            raise Unavailable("the shared call was cancelled from inside")
        return task.result(), shared
