"""Asking the daemon on behalf of many: one breaker per model, micro-batches, batches taken apart, cold models warmed up.

What counts against a model is decided here, per call: a timeout only after `GET /api/ps` has said whether the model was loaded at
all, for a cold one may take 18 s and is no failure.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np

from recipeline.resilience import Breaker, Deadline, Ticket
from recipeline_tsfm import failures, meters, payloads
from recipeline_tsfm.batching import MicroBatcher, Seat
from recipeline_tsfm.client import Reply, TollamaClient
from recipeline_tsfm.failures import UpstreamError
from recipeline_tsfm.seams import ServiceConfig

log = logging.getLogger("recipeline")

MOST_MODELS = 256  # breakers that are kept; names come from requests
MOST_ANSWER = 12 * 2**20  # bytes that the answer to one batch may be expected to have, well below the cap of the client
LEAST_READ = 2**20  # bytes that any answer may have; parsing more than it can hold would keep every other request waiting
MOST_PIECES = 24  # calls that taking one batch apart may cost


@dataclass(frozen=True, slots=True)
class Kind:
    """What must be equal for questions to share a call; `model` is the daemon's name, `options` the JSON of the options."""

    model: str
    horizon: int
    quantiles: tuple[float, ...]
    freq: str
    options: str


@dataclass(frozen=True, eq=False, slots=True)
class Job:
    series: payloads.Series
    deadline: Deadline
    options: Mapping[str, Any]


@dataclass(frozen=True, eq=False, slots=True)
class Told:
    """What the daemon said about one series; how many shared the call, and how many attempts that took."""

    forecast: payloads.Forecast
    batch_size: int
    attempts: int


Seats: TypeAlias = "list[Seat[Job, Told | UpstreamError]]"


class Upstream:
    """The daemon as the service sees it; usable from several event loops, each with batches of its own."""

    def __init__(
        self,
        client: TollamaClient,
        config: ServiceConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        from cachetools import LRUCache, TTLCache

        self.client, self.config, self._clock, self._uniform = client, config, clock, uniform
        self._lock = threading.Lock()
        self._breakers: LRUCache[str, Breaker] = LRUCache(MOST_MODELS)
        self._missing: TTLCache[str, UpstreamError] = TTLCache(MOST_MODELS, config.not_installed_ttl, timer=clock)
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = weakref.WeakKeyDictionary()

    # --- asking ---

    async def ask(self, kind: Kind, job: Job) -> Told:
        """UpstreamError where there is no answer."""
        with self._lock:
            missing = self._missing.get(kind.model)
        if missing is not None:
            raise missing.again()
        mine = self._mine()
        await self._until_warm(mine, kind.model, job.deadline)
        breaker = self.breaker(kind.model)
        state = breaker.state
        if state == "half-open":  # a probe is one request, alone: a daemon that recovers is not met by sixty-four at once
            seat: Seat[Job, Told | UpstreamError] = Seat(job, asyncio.get_running_loop().create_future())
            await self._call(kind, [seat])
            outcome = seat.future.result()
        elif state == "open":
            raise failures.open_circuit()
        else:
            most = max(1, MOST_ANSWER // payloads.answer_bytes(kind.horizon, len(kind.quantiles)))
            outcome = await mine.batcher.submit(kind, job, size=most)
        if isinstance(outcome, UpstreamError):
            raise outcome.again()
        return outcome

    def breaker(self, model: str) -> Breaker:
        with self._lock:
            found = self._breakers.get(model)
            if found is None:
                config = self.config
                found = self._breakers[model] = Breaker(
                    model, failures=config.breaker_failures, rate=config.breaker_rate, requests=config.breaker_requests,
                    window=config.breaker_window, cooldown=config.breaker_cooldown, jitter=config.breaker_jitter,
                    probes=config.breaker_probes, successes=config.breaker_successes, clock=self._clock, uniform=self._uniform,
                    listener=_told,
                )  # fmt: skip
            return found

    def state(self, model: str) -> str:
        """The breaker's; a model nobody asked for has a closed one."""
        with self._lock:
            found = self._breakers.get(model)
        return found.state if found is not None else "closed"

    # --- one call ---

    async def _batch(self, kind: Hashable, seats: Seats) -> None:
        await self._call(cast("Kind", kind), seats)

    async def _call(self, kind: Kind, seats: Seats, pieces: list[int] | None = None) -> None:
        """Settle every seat; the breaker may let nothing through."""
        breaker, config = self.breaker(kind.model), self.config
        limit = min(config.deadline, max(seat.job.deadline.remaining() for seat in seats))
        ticket = breaker.ticket()
        if ticket is None or limit <= 0:
            breaker.cancel(ticket) if ticket else None
            _settle(seats, failures.timeout() if ticket else failures.open_circuit())
            return
        meters.BATCH.observe(len(seats))
        model = kind.model

        def tried(seconds: float, error: UpstreamError | None) -> None:
            meters.LATENCY.observe(seconds)
            if error is not None:
                meters.CALLS.inc(model=model, outcome=error.kind)

        try:
            reply = await self.client.forecast(
                model, kind.horizon, kind.quantiles, [seat.job.series for seat in seats], options=seats[0].job.options,
                deadline=limit, attempt=min(config.attempt, limit), attempts=config.attempts, backoff=config.backoff, tried=tried,
                most_bytes=LEAST_READ + 4 * len(seats) * payloads.answer_bytes(kind.horizon, len(kind.quantiles)),
            )  # fmt: skip
            results = self._read(kind, reply, len(seats))
        except UpstreamError as error:
            if error.reason == "upstream_timeout" and limit < min(config.attempt, config.deadline):
                breaker.cancel(ticket)  # waiting here had used up the time that the daemon should have had
            else:
                self._judge(model, ticket, error)
            if error.status in (400, 413, 422) and len(seats) > 1:
                await self._apart(kind, seats, error, [MOST_PIECES] if pieces is None else pieces)
                return
            if error.status == 404:
                with self._lock:
                    self._missing[model] = error
            _settle(seats, error)
            return
        except BaseException:
            breaker.cancel(ticket)
            raise
        if all(isinstance(result, UpstreamError) for result in results):
            breaker.failure(ticket)
        else:
            breaker.success(ticket)
        for seat, result in zip(seats, results, strict=True):
            seat.settle(result if isinstance(result, UpstreamError) else Told(result, len(seats), reply.attempts))

    def _read(self, kind: Kind, reply: Reply, count: int) -> list[payloads.Forecast | UpstreamError]:
        """What a 200 says about each series; UpstreamError where it says nothing at all."""
        model = self.client.resolve(kind.model)
        try:
            results = payloads.read(reply.payload, model, count, kind.horizon, kind.quantiles, strict=self.config.production)
        except UpstreamError as error:
            meters.CALLS.inc(model=kind.model, outcome=error.kind)
            error.attempts = reply.attempts
            raise
        for result in results:
            if isinstance(result, UpstreamError):
                result.attempts = reply.attempts
        bad = next((result for result in results if isinstance(result, UpstreamError)), None)
        meters.CALLS.inc(model=kind.model, outcome=bad.kind if bad is not None else "ok")
        return results

    async def _apart(self, kind: Kind, seats: Seats, error: UpstreamError, pieces: list[int]) -> None:
        """A batch that was refused, in parts: those that the daemon named stay refused and the others go again; else by halves."""
        pieces[0] -= 2
        if pieces[0] < 0:
            _settle(seats, error)
            return
        named = {place for place in error.named if place < len(seats)} if error.status != 413 else set()
        if named and len(named) < len(seats):
            _settle([seats[place] for place in named], error)
            parts = [[seat for place, seat in enumerate(seats) if place not in named]]
        else:
            middle = len(seats) // 2
            parts = [seats[:middle], seats[middle:]]
        for part in parts:
            waiting = [seat for seat in part if not seat.left]
            if waiting:
                await self._call(kind, waiting, pieces)

    def _judge(self, model: str, ticket: Ticket, error: UpstreamError) -> None:
        """What the breaker hears about a call that failed."""
        breaker = self.breaker(model)
        if not error.counts:
            breaker.cancel(ticket)
        elif error.reason == "upstream_timeout":
            self._mine().begin(self._was_it_cold(model, ticket))
        else:
            breaker.failure(ticket)

    # --- cold models ---

    async def _was_it_cold(self, model: str, ticket: Ticket) -> None:
        """After a timeout: a daemon that answers and has not loaded the model is loading it, which is no failure."""
        breaker = self.breaker(model)
        try:
            cold = self.client.resolve(model) not in await self.client.loaded(deadline=min(0.5, self.config.attempt))
        except UpstreamError:
            cold = False
        except BaseException:
            breaker.cancel(ticket)
            raise
        if cold:
            breaker.cancel(ticket)
            self.warm_up(model)
        else:
            breaker.failure(ticket)

    def warm_up(self, model: str) -> asyncio.Task[None]:
        """Load a model in the background; the running task where that has begun."""
        mine = self._mine()
        warming = mine.warming.get(model)
        if warming is None:
            warming = mine.warming[model] = _Warming(mine.begin(self._warm(model)), time.monotonic())

            def done(_: Any) -> None:
                mine.warming.pop(model, None)

            warming.task.add_done_callback(done)
        return warming.task

    async def _warm(self, model: str) -> None:
        flat = payloads.Series("1h", np.datetime64("2026-01-01T00:00:00", "s"), np.sin(np.arange(64.0)), {}, {})
        limit = self.config.warm_up_deadline
        try:
            await self.client.forecast(model, 1, (0.5,), [flat], deadline=limit, attempt=limit, attempts=1)
            log.info("tollama: model %s is warm", _short(model))
        except UpstreamError as error:
            log.warning("tollama: model %s could not be warmed up (%s)", _short(model), error.reason)
            if error.status == 404:
                with self._lock:
                    self._missing[model] = error
            elif error.counts:
                self.breaker(model).failure()

    async def _until_warm(self, mine: _Loop, model: str, deadline: Deadline) -> None:
        """Wait for a warm-up that is under way, as long as an attempt may take; one that has taken longer is not waited for."""
        warming = mine.warming.get(model)
        if warming is None:
            return
        left = min(deadline.remaining(), self.config.attempt - (time.monotonic() - warming.began))
        if left > 0:
            await asyncio.wait([warming.task], timeout=left)
        if not warming.task.done():
            raise UpstreamError("model_warming_up", counts=False)

    # --- loops ---

    def _mine(self) -> _Loop:
        loop = asyncio.get_running_loop()
        mine = self._loops.get(loop)
        if mine is None:
            config = self.config
            batcher: MicroBatcher[Job, Told | UpstreamError] = MicroBatcher(
                self._batch, size=config.batch_series, wait=config.batch_wait, calls=config.batch_calls
            )
            mine = self._loops[loop] = _Loop(batcher)
        return mine

    async def aclose(self) -> None:
        """End what this event loop has under way, and its connections."""
        mine = self._loops.pop(asyncio.get_running_loop(), None)
        if mine is not None:
            await mine.aclose()
        await self.client.aclose()

    def health(self) -> dict[str, Any]:
        with self._lock:
            breakers = {model: breaker.state for model, breaker in self._breakers.items()}
            missing = {model: error.reason for model, error in self._missing.items()}
        warming = sorted({model for mine in tuple(self._loops.values()) for model in tuple(mine.warming)})
        return {"server": self.client.base_url, "breakers": breakers, "not_installed": missing, "warming_up": warming}


@dataclass(frozen=True, slots=True)
class _Warming:
    task: asyncio.Task[None]
    began: float


class _Loop:
    """What belongs to one event loop."""

    def __init__(self, batcher: MicroBatcher[Job, Told | UpstreamError]) -> None:
        self.batcher = batcher
        self.warming: dict[str, _Warming] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """In the background; the task is held until it ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def aclose(self) -> None:
        await self.batcher.aclose(UpstreamError("service_stopped", counts=False))
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _settle(seats: Seats, error: UpstreamError) -> None:
    for seat in seats:
        seat.settle(error)


def _told(model: str, old: str, new: str) -> None:
    meters.BREAKER.set(meters.STATES[new], model=model)
    log.warning("tollama: the breaker of model %s went from %s to %s", _short(model), old, new)


def _short(model: str) -> str:
    """A name from a request, safe to log."""
    return repr(model[:60])
