"""A breaker that stops asking a service which does not answer, and a ladder of services to fall back on.

The states and their names are Nygard's (Release It!, chapter "Circuit Breaker"): closed, open, half-open.
"""

from __future__ import annotations

import contextvars
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from recipeline.errors import DataError, Unavailable
from recipeline.resilience.caches import StaleCache
from recipeline.resilience.endpoints import Endpoint, due
from recipeline.resilience.retries import Deadline, DeadlineExceeded

T = TypeVar("T")
State = Literal["closed", "open", "half-open"]
BUCKETS = 60  # the rolling window moves in sixtieths, so that memory does not grow with the traffic


class CircuitOpenError(Unavailable):
    """The breaker lets nothing through; `retry_after` says for how many seconds at most."""

    slug = "circuit-open"

    def __init__(self, name: str, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(f"{name or 'the service'} failed repeatedly and is left alone", hint=f"try again in {retry_after:.0f} s")


@dataclass(frozen=True)
class Ticket:
    """Leave to make one call; handed back with its outcome. `generation` counts the breaker's changes of state."""

    generation: int
    number: int


class Breaker:
    """Opens when a service fails, lets a few probes through after a cooldown, closes when they succeed. Thread-safe.

    failures   so many in a row open it (None: never)
    rate       so large a share of failures within the last `window` seconds opens it, from `requests` calls on (None: never)
    cooldown   seconds open, ± `jitter` (a share), times `growth` for each time it opened without closing in between, at most `longest`
    probes     calls in flight at once while half-open; `successes` of them close it, one failure opens it again
    excluded   errors that say nothing about the service's health (a bad request): neither success nor failure
    listener   called as listener(name, old, new) at each change of state, outside the lock

    The outcome of a call that began before the last change of state is ignored. A probe that is never reported gives
    its place back after one cooldown.
    """

    def __init__(
        self,
        name: str = "",
        *,
        failures: int | None = 5,
        rate: float | None = None,
        requests: int = 5,
        window: float = 300.0,
        cooldown: float = 120.0,
        jitter: float = 0.1,
        growth: float = 1.0,
        longest: float = 3600.0,
        probes: int = 1,
        successes: int = 1,
        excluded: type[BaseException] | tuple[type[BaseException], ...] = (),
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
        listener: Callable[[str, State, State], None] | None = None,
    ) -> None:
        if failures is None and rate is None:
            raise ValueError("a breaker needs `failures` or `rate`, else it never opens")
        if (failures is not None and failures < 1) or (rate is not None and not 0 < rate <= 1) or min(requests, probes, successes) < 1:
            raise ValueError("failures, requests, probes and successes are at least 1, rate lies in (0, 1]")
        if not (window > 0 and cooldown > 0 and 0 <= jitter < 1 and growth >= 1 and longest >= cooldown):
            raise ValueError("window and cooldown are positive, jitter lies in [0, 1), growth >= 1, longest >= cooldown")
        self.name, self.excluded = name, excluded
        self._failures, self._rate, self._requests, self._window = failures, rate, requests, window
        self._cooldown, self._jitter, self._growth, self._longest = cooldown, jitter, growth, longest
        self._probes, self._successes = probes, successes
        self._clock, self._uniform, self._listener = clock, uniform, listener
        self._lock = threading.Lock()
        self._state: State = "closed"
        self._generation = self._issued = 0
        self._opened = 0  # times opened without closing in between
        self._until = 0.0  # end of the cooldown
        self._in_a_row = self._passed = 0
        self._in_flight: dict[int, float] = {}  # probes: ticket number -> when it began
        self._recent: deque[list[int]] = deque()  # [bucket, calls, failures]
        self._told: list[tuple[State, State]] = []

    # --- asking ---

    @property
    def state(self) -> State:
        state = self._state
        if state != "open":  # only an open one changes by the passing of time; one attribute is read whole without the lock
            return state
        with self._locked():
            return self._state

    @property
    def retry_after(self) -> float:
        """Seconds until the first probe may go; 0 unless open."""
        with self._locked():
            return max(0.0, self._until - self._clock()) if self._state == "open" else 0.0

    def ticket(self) -> Ticket | None:
        """Leave for one call, or None. Whoever gets one reports `success`, `failure` or `cancel`."""
        with self._locked():
            if self._state == "open":
                return None
            if self._state == "half-open":
                now = self._clock()
                self._in_flight = {number: began for number, began in self._in_flight.items() if now - began < self._cooldown}
                if len(self._in_flight) >= self._probes:
                    return None
                self._in_flight[self._issued] = now
            self._issued += 1
            return Ticket(self._generation, self._issued - 1)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Around one call, also one that is awaited; CircuitOpenError where the breaker lets nothing through."""
        ticket = self.ticket()
        if ticket is None:
            raise CircuitOpenError(self.name, self.retry_after)
        try:
            yield
        except BaseException as error:
            if isinstance(error, Exception) and not isinstance(error, self.excluded):
                self.failure(ticket)
            else:  # a cancelled or interrupted call says nothing about the service
                self.cancel(ticket)
            raise
        self.success(ticket)

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        with self.guard():
            return function(*args, **kwargs)

    # --- telling ---

    def success(self, ticket: Ticket | None = None) -> None:
        """A call went well; without a ticket it counts as one made now."""
        with self._locked():
            if self._returned(ticket):
                self._in_a_row = 0
                self._count(0)
                if self._state == "half-open":
                    self._passed += 1
                    if self._passed >= self._successes:
                        self._opened = 0
                        self._go("closed")

    def failure(self, ticket: Ticket | None = None) -> None:
        """A call failed in a way that speaks against the service."""
        with self._locked():
            if self._returned(ticket):
                self._in_a_row += 1
                self._count(1)
                if self._state == "half-open" or (self._state == "closed" and self._too_many()):
                    grown = min(self._longest, self._cooldown * self._growth ** min(self._opened, 64))
                    self._until = self._clock() + grown * (1 + self._uniform(-self._jitter, self._jitter))
                    self._opened += 1
                    self._go("open")

    def cancel(self, ticket: Ticket | None = None) -> None:
        """The call ended without saying anything about the service."""
        with self._locked():
            self._returned(ticket)

    # --- inside the lock ---

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lock:
            if self._state == "open" and self._clock() >= self._until:
                self._go("half-open")
            yield
            told, self._told = self._told, []
        for old, new in told if self._listener else ():
            self._listener(self.name, old, new)  # type: ignore[misc]

    def _returned(self, ticket: Ticket | None) -> bool:
        if ticket is None:
            return self._state != "open"
        self._in_flight.pop(ticket.number, None)
        return ticket.generation == self._generation

    def _go(self, state: State) -> None:
        self._told.append((self._state, state))
        self._state = state
        self._generation += 1
        self._in_a_row = self._passed = 0
        self._in_flight.clear()
        self._recent.clear()

    def _count(self, failed: int) -> None:
        bucket = int(self._clock() // (self._window / BUCKETS))
        if not self._recent or self._recent[-1][0] != bucket:
            self._recent.append([bucket, 0, 0])
        self._recent[-1][1] += 1
        self._recent[-1][2] += failed
        while self._recent[0][0] <= bucket - BUCKETS:
            self._recent.popleft()

    def _too_many(self) -> bool:
        if self._failures is not None and self._in_a_row >= self._failures:
            return True
        calls, failed = sum(b[1] for b in self._recent), sum(b[2] for b in self._recent)
        return self._rate is not None and calls >= self._requests and failed >= self._rate * calls


@dataclass(frozen=True)
class Tier:
    """One rung: a service, its breaker, how long its answers keep (`ttl`, seconds) and how long it may take (`timeout`, seconds)."""

    name: str
    call: Callable[..., Any]
    breaker: Breaker
    ttl: float = 300.0
    timeout: float | None = None


@dataclass(frozen=True)
class Answer:
    """value, the tier that gave it (None from the cache), and why higher tiers did not: {tier: error}."""

    value: Any
    tier: str | None
    errors: dict[str, Exception]
    age: float = 0.0
    stale: bool = False


class Ladder:
    """Tiers from best to plainest; a call that fails or takes too long moves a rung down, all within one deadline.

    A tier is any callable; `Endpoint` makes one of a URL. Each runs in a daemon thread and gets its `timeout`, or an equal share of
    what is left; a call that overstays counts as a failure, its late result is dropped, and its breaker keeps such threads from
    piling up.
    Where every tier is open or failed, a value from the cache answers, however old the cache allows.
    How long cached values count as fresh is the `ttl` of the tier now in force, never stored with the value:
    a ladder that came down soon asks for everything anew.
    """

    def __init__(self, tiers: Sequence[Tier], *, deadline: float = 5.0, cache: StaleCache | None = None) -> None:
        if not tiers:
            raise ValueError("a ladder has at least one tier")
        self.tiers, self.deadline, self.cache = tuple(tiers), deadline, cache

    @classmethod
    def of(
        cls,
        services: Mapping[str, Callable[..., Any] | str],
        *,
        ttl: tuple[float, float] = (3600.0, 300.0),
        deadline: float = 5.0,
        cache: StaleCache | None = None,
        **breaker: Any,
    ) -> Ladder:
        """Tiers from best to plainest, {name: call, or URL}: creative, balanced, fast. A URL is an `Endpoint` of it, asked with one JSON.

        ttl      seconds for which answers keep at the top tier, and below it
        breaker  arguments of each tier's Breaker; by default three failures open it for 300 s, ± a tenth and doubling up to an hour,
                 then one probe at a time, and three that succeed close it; a DataError is the caller's own and none of them
        """
        given = {"failures": 3, "cooldown": 300.0, "growth": 2.0, "probes": 1, "successes": 3, "excluded": DataError, **breaker}
        calls = {name: Endpoint(call, timeout=deadline) if isinstance(call, str) else call for name, call in services.items()}
        return cls(
            [Tier(name, call, Breaker(name, **given), ttl=ttl[min(place, 1)]) for place, (name, call) in enumerate(calls.items())],
            deadline=deadline,
            cache=cache,
        )

    @property
    def tier(self) -> Tier | None:
        """The best tier that is not open; None when all are."""
        return next((tier for tier in self.tiers if tier.breaker.state != "open"), None)

    @property
    def ttl(self) -> float:
        """Seconds for which cached values count as fresh now."""
        return (self.tier or self.tiers[-1]).ttl

    def ask(self, *args: Any, key: Hashable = None, deadline: Deadline | None = None, **kwargs: Any) -> Answer:
        """The first answer from the top; `key` names the question in the cache (None: not cached).

        Errors that a tier's breaker excludes are raised at once: they are the caller's. Without any answer: CircuitOpenError
        when no tier could be asked, DeadlineExceeded when time ran out, else the error of the last tier that was asked.
        """
        cache = self.cache if key is not None else None
        if cache is not None and (hit := cache.get(key, ttl=self.ttl)):
            return Answer(hit.value, None, {}, hit.age)
        limit = deadline or Deadline(self.deadline)
        errors: dict[str, Exception] = {}
        asked: Exception | None = None
        for place, tier in enumerate(self.tiers):
            left = limit.remaining()
            if left <= 0:
                break
            allowed = min(left, tier.timeout if tier.timeout is not None else left / (len(self.tiers) - place))
            try:
                with tier.breaker.guard():
                    value = _within(allowed, tier.name, tier.call, *args, **kwargs)
            except CircuitOpenError as error:
                errors[tier.name] = error
            except tier.breaker.excluded:
                raise
            except Exception as error:  # noqa: BLE001  a tier may fail in any way; the error is kept, and raised when it is the last
                errors[tier.name] = asked = error
            else:
                if cache is not None:
                    cache.put(key, value)
                return Answer(value, tier.name, errors)
        if cache is not None and (hit := cache.get(key, ttl=self.ttl, stale_ok=True)):
            return Answer(hit.value, None, errors, hit.age, hit.stale)
        if limit.expired and len(errors) < len(self.tiers):
            limit.check("an answer of any tier")
        raise asked or CircuitOpenError(", ".join(t.name for t in self.tiers), min(t.breaker.retry_after for t in self.tiers))


def _within(seconds: float, name: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """The function's result, or DeadlineExceeded after so many seconds; the thread itself cannot be stopped and is left behind."""
    outcome: list[tuple[bool, Any]] = []
    context = contextvars.copy_context()
    context.run(due.set, Deadline(seconds))

    def work() -> None:
        try:
            outcome.append((True, context.run(function, *args, **kwargs)))
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            outcome.append((False, error))

    thread = threading.Thread(target=work, name=f"ladder-{name}", daemon=True)
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise DeadlineExceeded(f"{name} did not answer within {seconds:.3g} s")
    good, value = outcome[0]
    if good:
        return value  # type: ignore[no-any-return]
    raise value
