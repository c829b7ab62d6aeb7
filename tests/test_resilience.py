"""resilience: retry, deadline, breaker, ladder, cache and single-flight, on a clock that the tests move."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from recipeline.errors import Unavailable
from recipeline.resilience import (
    Breaker,
    CircuitOpenError,
    Deadline,
    DeadlineExceeded,
    Ladder,
    SingleFlight,
    StaleCache,
    Tier,
    freeze,
    retry,
    without_waiting,
)  # fmt: skip


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Down(Exception):
    pass


def down(*args, **kwargs):
    raise Down("service down")


# --- retry and deadline ---


@pytest.fixture
def no_waiting():
    with without_waiting():
        yield


def test_retry_calls_again_after_the_named_errors_only(no_waiting):
    """Three attempts by default, the last error comes through, other errors at once."""
    calls = []

    @retry(Down)
    def ask(error):
        calls.append(error)
        raise error

    with pytest.raises(Down):
        ask(Down())
    assert len(calls) == 3
    with pytest.raises(KeyError):
        ask(KeyError("x"))
    assert len(calls) == 4


def test_retry_returns_the_first_good_answer_sync_and_async(no_waiting):
    """Arguments and results pass through unchanged."""
    left = [Down(), Down()]

    def body(x, *, y):
        if left:
            raise left.pop()
        return x + y

    assert retry(Down)(body)(1, y=2) == 3

    async def abody(x):
        if left:
            raise left.pop()
        return x

    left[:] = [Down()]
    assert asyncio.run(retry(Down)(abody)(7)) == 7


def test_a_hook_decides_what_is_worth_a_retry(no_waiting):
    """False stops, True or seconds go on."""
    calls = []

    @retry(lambda error: "again" in str(error), attempts=5)
    def ask():
        calls.append(1)
        raise Down("again" if len(calls) < 3 else "never")

    with pytest.raises(Down, match="never"):
        ask()
    assert len(calls) == 3


def test_retry_refuses_to_be_careless():
    """Exception is no name of an error; attempts and timeout have limits."""
    for careless in (Exception, BaseException, (ValueError, Exception), ()):
        with pytest.raises(ValueError, match="name the errors"):
            retry(careless)
    with pytest.raises(ValueError, match="positive"):
        retry(Down, attempts=0)
    with pytest.raises(ValueError, match="positive"):
        retry(Down, timeout=0)


def test_arguments_of_a_retried_call_reach_no_log(no_waiting, caplog):
    """A token among the arguments stays out of the log records, their extras included."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises(Down):
        retry(Down)(down)("tok-SECRET", token="tok-SECRET")
    assert caplog.records
    assert all("SECRET" not in repr(vars(record)) for record in caplog.records)


def test_a_deadline_is_handed_down_and_ends_the_retries():
    """No attempt begins after it; an expired one asks nothing at all."""
    clock = Clock()
    deadline = Deadline(2.0, clock=clock)
    assert deadline.remaining() == 2.0
    clock.now += 1.5
    assert deadline.check() == 0.5
    clock.now += 1.0
    assert deadline.expired
    assert deadline.remaining() == 0.0
    calls = []
    with pytest.raises(DeadlineExceeded, match=r"within 2 s"):
        retry(Down, deadline=deadline)(calls.append)(1)
    assert calls == []
    began = time.monotonic()
    with pytest.raises(Down):
        retry(Down, attempts=50, deadline=Deadline(0.15), wait_initial=0.02, wait_jitter=0.0)(down)()
    assert time.monotonic() - began < 2.0  # 50 attempts with doubling waits would take an hour


# --- breaker ---


def breaker(clock, **changes):
    arguments = {"failures": 3, "cooldown": 10.0, "jitter": 0.0, "clock": clock, **changes}
    return Breaker("svc", **arguments)


def test_a_breaker_opens_cools_down_probes_and_closes():
    """The life of a breaker, each change told to the listener."""
    clock, told = Clock(), []
    b = breaker(clock, successes=2, listener=lambda *change: told.append(change))
    for _ in range(3):
        with pytest.raises(Down):
            b.call(down)
    assert b.state == "open"
    with pytest.raises(CircuitOpenError) as refused:
        b.call(down)
    assert refused.value.retry_after == 10.0
    assert isinstance(refused.value, Unavailable)
    clock.now += 10
    assert b.state == "half-open"
    assert b.call(lambda: 1) == 1
    assert b.state == "half-open"
    b.call(lambda: 1)
    assert b.state == "closed"
    assert told == [("svc", "closed", "open"), ("svc", "open", "half-open"), ("svc", "half-open", "closed")]


def test_half_open_lets_so_many_probes_through_and_the_others_do_not_open_it_again():
    """Two of five get a ticket; the refused ones change nothing; two successes close."""
    clock = Clock()
    b = breaker(clock, probes=2, successes=2)
    [b.failure() for _ in range(3)]
    clock.now += 10
    tickets = [b.ticket() for _ in range(5)]
    assert [t is not None for t in tickets] == [True, True, False, False, False]
    assert b.state == "half-open"
    b.success(tickets[0])
    b.success(tickets[1])
    assert b.state == "closed"


def test_a_lost_probe_gives_its_place_back_after_a_cooldown():
    """A caller that vanished does not keep the breaker half-open for ever."""
    clock = Clock()
    b = breaker(clock)
    [b.failure() for _ in range(3)]
    clock.now += 10
    assert b.ticket() is not None
    assert b.ticket() is None
    clock.now += 10
    assert b.ticket() is not None


def test_each_reopening_cools_longer_up_to_the_longest_and_within_the_jitter():
    """10, 20, 40, 40 seconds; ± 10 % with jitter."""
    clock = Clock()
    b = breaker(clock, growth=2.0, longest=40.0)
    [b.failure() for _ in range(3)]
    waits = []
    for _ in range(4):
        waits.append(b.retry_after)
        clock.now += b.retry_after
        b.failure(b.ticket())
    assert waits == [10, 20, 40, 40]
    spread = []
    for _ in range(200):
        b = breaker(clock, jitter=0.1)
        [b.failure() for _ in range(3)]
        spread.append(b.retry_after)
    assert 9 <= min(spread) < 9.5
    assert 10.5 < max(spread) <= 11


def test_excluded_and_cancelled_calls_say_nothing():
    """A bad request counts neither as success nor as failure; nor does a cancelled call."""
    b = breaker(Clock(), excluded=(ValueError,))
    for _ in range(2):
        with pytest.raises(Down):
            b.call(down)
        with pytest.raises(ValueError):
            b.call(int, "x")

    async def cancelled():
        with b.guard():
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert b.state == "closed"
    with pytest.raises(Down):
        b.call(down)
    assert b.state == "open"


def test_a_failure_rate_needs_enough_requests_within_the_window():
    """4 failures of 4 do not open at requests=5; old ones leave the window."""
    clock = Clock()
    b = Breaker(failures=None, rate=0.5, requests=5, window=60.0, clock=clock)
    [b.failure() for _ in range(4)]
    assert b.state == "closed"
    clock.now += 61
    for outcome in "sssff":
        b.success() if outcome == "s" else b.failure()
    assert b.state == "closed"  # 2 of 5
    b.failure()
    assert b.state == "open"  # 3 of 6


def test_the_window_moves_in_sixtieths():
    """A failure counts for 59 of its sixtieths and is gone with the sixtieth."""
    for later, state in ((59.0, "open"), (60.0, "closed")):
        clock = Clock()
        b = Breaker(failures=None, rate=1.0, requests=2, window=60.0, clock=clock)
        b.failure()
        clock.now += later
        b.failure()
        assert b.state == state


def test_a_breaker_that_could_never_open_is_refused():
    """So are numbers without meaning."""
    for wrong in ({"failures": None}, {"rate": 1.5}, {"failures": 0}, {"probes": 0}, {"cooldown": 0}, {"growth": 0.5}, {"jitter": 1.0}):
        with pytest.raises(ValueError):
            Breaker(**wrong)


@dataclass
class Reference:
    """The breaker as its docstring says it, from a list of all outcomes, without cleverness."""

    failures: int | None
    rate: float | None
    requests: int
    window: float
    cooldown: float
    growth: float
    probes: int
    successes: int

    def __post_init__(self):
        self.state, self.era, self.until, self.opened = "closed", 0, 0.0, 0
        self.outcomes: list[tuple[float, bool]] = []  # of this era
        self.flying: dict[object, float] = {}

    def enter(self, state):
        self.state, self.era, self.outcomes, self.flying = state, self.era + 1, [], {}

    def tick(self, now):
        if self.state == "open" and now >= self.until:
            self.enter("half-open")

    def may(self, now, name):
        if self.state == "half-open":
            self.flying = {k: v for k, v in self.flying.items() if now - v < self.cooldown}
            if len(self.flying) >= self.probes:
                return False
            self.flying[name] = now
        return self.state != "open"

    def outcome(self, now, good, era, name):
        self.flying.pop(name, None)
        if self.state == "open" or era != self.era or good is None:
            return
        self.outcomes.append((now, good))
        width = self.window / 60
        recent = [ok for when, ok in self.outcomes if math.floor(when / width) > math.floor(now / width) - 60]
        tail = 0
        for _, ok in reversed(self.outcomes):
            if ok:
                break
            tail += 1
        if self.state == "half-open" and good and sum(ok for _, ok in self.outcomes) >= self.successes:
            self.opened = 0
            self.enter("closed")
        elif not good and (
            self.state == "half-open"
            or (self.failures is not None and tail >= self.failures)
            or (self.rate is not None and len(recent) >= self.requests and recent.count(False) >= self.rate * len(recent))
        ):
            self.until = now + min(3600.0, self.cooldown * self.growth**self.opened)
            self.opened += 1
            self.enter("open")


class BreakerMachine(RuleBasedStateMachine):
    @initialize(
        failures=st.sampled_from([None, 1, 3]),
        rate=st.sampled_from([0.5, 1.0]),
        requests=st.integers(1, 4),
        growth=st.sampled_from([1.0, 2.0]),
        probes=st.integers(1, 3),
        successes=st.integers(1, 3),
    )
    def begin(self, **settings):
        self.clock = Clock()
        settings |= {"window": 60.0, "cooldown": 10.0}
        self.real = Breaker(jitter=0.0, clock=self.clock, **settings)
        self.model = Reference(**settings)
        self.tickets: list[tuple[object, int]] = []

    @rule(seconds=st.sampled_from([0.5, 1.0, 7.0, 10.0, 30.0, 61.0]))
    def wait(self, seconds):
        self.clock.now += seconds
        self.model.tick(self.clock.now)

    @rule()
    def take(self):
        ticket = self.real.ticket()
        name = ticket.number if ticket else None
        assert (ticket is not None) == self.model.may(self.clock.now, name)
        if ticket:
            self.tickets.append((ticket, self.model.era))

    @precondition(lambda self: getattr(self, "tickets", None))
    @rule(data=st.data(), good=st.sampled_from([True, False, False, None]))
    def report(self, data, good):
        ticket, era = self.tickets.pop(data.draw(st.integers(0, len(self.tickets) - 1)))
        {True: self.real.success, False: self.real.failure, None: self.real.cancel}[good](ticket)
        self.model.outcome(self.clock.now, good, era, ticket.number)

    @rule(good=st.booleans())
    def report_without_ticket(self, good):
        (self.real.success if good else self.real.failure)()
        self.model.outcome(self.clock.now, good, self.model.era, None)

    @invariant()
    def same_state(self):
        if hasattr(self, "real"):
            assert self.real.state == self.model.state
            assert self.real.retry_after == (self.model.until - self.clock.now if self.model.state == "open" else 0.0)


TestBreakerAgainstReference = BreakerMachine.TestCase
TestBreakerAgainstReference.settings = settings(max_examples=150, stateful_step_count=40, deadline=None, derandomize=True)


def test_eight_threads_never_get_more_probes_than_the_quota():
    """While half-open, at most two calls are inside at any moment; the breaker ends in a state that follows."""
    b = Breaker(failures=3, cooldown=0.002, jitter=0.0, probes=2, successes=1000, growth=1.0)
    inside, worst, lock, served = 0, 0, threading.Lock(), 0
    [b.failure() for _ in range(3)]
    time.sleep(0.003)
    b._cooldown = 60.0  # from here on no probe counts as lost

    def work():
        nonlocal inside, worst, served
        for _ in range(300):
            try:
                with b.guard():
                    with lock:
                        inside += 1
                        worst = max(worst, inside)
                    time.sleep(0)
                    with lock:
                        inside -= 1
                        served += 1
            except CircuitOpenError:
                time.sleep(0)

    threads = [threading.Thread(target=work) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert 1 <= worst <= 2
    assert served > 0
    assert b.state == ("closed" if served >= 1000 else "half-open")
    assert not b._in_flight


def test_eight_threads_lose_no_failure():
    """800 failures from 8 threads open at exactly the 800th."""
    b = Breaker(failures=800)
    barrier = threading.Barrier(8)

    def work(count):
        barrier.wait()
        [b.failure() for _ in range(count)]

    threads = [threading.Thread(target=work, args=(99 if n == 0 else 100,)) for n in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert b.state == "closed"
    b.failure()
    assert b.state == "open"


# --- ladder ---


def ladder(clock, calls, **arguments):
    names = ("creative", "balanced", "fast")
    tiers = [Tier(n, calls[n], breaker(clock, successes=3), ttl=3600.0 if n == "creative" else 300.0) for n in names]
    return Ladder(tiers, **arguments)


def test_a_failing_call_moves_a_rung_down_and_the_ladder_climbs_again():
    """Three failures open the top; after the cooldown one probe at a time, three successes."""
    clock = Clock()
    calls = {"creative": down, "balanced": lambda x: ("balanced", x), "fast": lambda x: ("fast", x)}
    steps = ladder(clock, calls)
    for _ in range(3):
        answer = steps.ask(1)
        assert (answer.value, answer.tier) == (("balanced", 1), "balanced")
        assert isinstance(answer.errors["creative"], Down)
    assert steps.tier.name == "balanced"
    assert steps.ttl == 300.0
    assert isinstance(steps.ask(2).errors["creative"], CircuitOpenError)
    clock.now += 10
    object.__setattr__(steps.tiers[0], "call", lambda x: ("creative", x))
    assert [steps.ask(3).tier for _ in range(3)] == ["creative"] * 3
    assert steps.tiers[0].breaker.state == "closed"
    assert steps.ttl == 3600.0


def test_a_ladder_of_plain_callables_has_the_usual_breakers():
    """Three failures, 300 s, three successes; answers of the top keep an hour, those below five minutes."""
    clock, good = Clock(), set()

    def service(name):
        def call():
            if name not in good:
                raise Down(name)
            return name

        return call

    steps = Ladder.of({name: service(name) for name in ("creative", "balanced", "fast")}, clock=clock, jitter=0.0)
    good |= {"balanced", "fast"}
    assert [steps.ask().tier for _ in range(3)] == ["balanced"] * 3
    assert (steps.tier.name, steps.ttl) == ("balanced", 300.0)
    good.add("creative")
    clock.now += 299
    assert steps.ask().tier == "balanced"
    clock.now += 2
    assert [steps.ask().tier for _ in range(3)] == ["creative"] * 3
    assert steps.tiers[0].breaker.state == "closed"
    assert steps.ttl == 3600.0


USUAL = {"failures": 3, "rate": None, "requests": 5, "window": 300.0, "cooldown": 300.0, "growth": 2.0, "probes": 1, "successes": 3}


class LadderMachine(RuleBasedStateMachine):
    """A ladder of three against three references that are asked from the top, with a clock that only the machine moves."""

    NAMES = ("creative", "balanced", "fast")

    def __init__(self):
        super().__init__()
        self.clock = Clock()
        self.broken = set()
        self.models = {name: Reference(**USUAL) for name in self.NAMES}
        self.real = Ladder.of({name: self.service(name) for name in self.NAMES}, clock=self.clock, jitter=0.0)

    def service(self, name):
        def call():
            if name in self.broken:
                raise Down(name)
            return name

        return call

    @rule(name=st.sampled_from(NAMES), down=st.booleans())
    def weather(self, name, down):
        (self.broken.add if down else self.broken.discard)(name)

    @rule(seconds=st.sampled_from([1.0, 150.0, 300.0, 700.0, 4000.0]))
    def wait(self, seconds):
        self.clock.now += seconds
        for model in self.models.values():
            model.tick(self.clock.now)

    @rule()
    def ask(self):
        expected, asked = None, False
        for name, model in self.models.items():
            if not model.may(self.clock.now, name):
                continue
            asked, good = True, name not in self.broken
            model.outcome(self.clock.now, good, model.era, name)
            if good:
                expected = name
                break
        if expected is not None:
            answer = self.real.ask()
            assert (answer.value, answer.tier) == (expected, expected)
        else:
            with pytest.raises(Down if asked else CircuitOpenError):
                self.real.ask()

    @invariant()
    def same_rungs(self):
        assert [tier.breaker.state for tier in self.real.tiers] == [model.state for model in self.models.values()]
        at = next((place for place, model in enumerate(self.models.values()) if model.state != "open"), 2)
        assert self.real.ttl == (3600.0 if at == 0 else 300.0)


TestLadderAgainstReferences = LadderMachine.TestCase
TestLadderAgainstReferences.settings = settings(max_examples=60, stateful_step_count=40, deadline=None, derandomize=True)


def test_eight_threads_on_one_ladder_agree_on_the_rung():
    """The top fails throughout: asked three times and never more, whoever asks; every answer is from the second."""
    clock, calls, lock = Clock(), [], threading.Lock()

    def creative():
        with lock:
            calls.append(1)
        raise Down

    steps = Ladder.of({"creative": creative, "balanced": lambda: "text"}, clock=clock)
    barrier, answers = threading.Barrier(8), []

    def work():
        barrier.wait()
        for _ in range(40):
            answers.append(steps.ask().tier)  # noqa: PERF401  appending is the point: from eight threads

    threads = [threading.Thread(target=work) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert answers == ["balanced"] * 320
    assert 3 <= len(calls) <= 10  # three that opened it, and those of other threads that were under way
    assert steps.tiers[0].breaker.state == "open"


def test_a_hanging_tier_is_left_within_the_deadline():
    """The answer comes from the next rung before the whole deadline; the overstayer counts as a failure."""
    stop = threading.Event()
    calls = {"creative": lambda: stop.wait(20), "balanced": lambda: "b", "fast": lambda: "f"}
    steps = ladder(Clock(), calls, deadline=0.3)
    began = time.monotonic()
    answer = steps.ask()
    took = time.monotonic() - began
    stop.set()
    assert answer.tier == "balanced"
    assert isinstance(answer.errors["creative"], DeadlineExceeded)
    assert took < 0.3
    assert steps.tiers[0].breaker.state == "closed"  # one failure of three


def test_all_open_gives_the_cached_value_or_an_error():
    """And the error is the breaker's, not that of a service that was not asked."""
    clock = Clock()
    working = {"on": True}

    def call(question):
        if not working["on"]:
            raise Down
        return question.upper()

    cache = StaleCache(ttl=60, stale=1e6, clock=clock)
    steps = ladder(clock, dict.fromkeys(("creative", "balanced", "fast"), call), cache=cache)
    assert steps.ask("a", key="a").tier == "creative"
    assert steps.ask("a", key="a").tier is None  # fresh, nobody asked
    working["on"] = False
    clock.now += 4000
    with pytest.raises(Down):
        steps.ask("b", key="b")
    [tier.breaker.failure() for tier in steps.tiers for _ in range(3)]
    old = steps.ask("a", key="a")
    assert (old.value, old.tier, old.stale, old.age) == ("A", None, True, 4000)
    with pytest.raises(CircuitOpenError):
        steps.ask("b", key="b")


def test_coming_down_shortens_the_life_of_what_is_cached_already():
    """The TTL belongs to the tier in force, not to the entry."""
    clock = Clock()
    asked = []
    calls = dict.fromkeys(("creative", "balanced", "fast"), asked.append)
    steps = ladder(clock, calls, cache=StaleCache(clock=clock))
    steps.ask(1, key="q")
    clock.now += 1000
    steps.ask(1, key="q")
    assert len(asked) == 1
    [steps.tiers[0].breaker.failure() for _ in range(3)]
    steps.ask(1, key="q")
    assert len(asked) == 2


def test_the_callers_own_mistake_does_not_move_down():
    """An excluded error comes through and the lower tiers are not asked."""
    asked = []
    tiers = [Tier("top", int, breaker(Clock(), excluded=(ValueError,))), Tier("low", asked.append, breaker(Clock()))]
    with pytest.raises(ValueError):
        Ladder(tiers).ask("x")
    assert asked == []


# --- cache ---


class CacheMachine(RuleBasedStateMachine):
    """StaleCache against a plain list of what was put and used, oldest use first."""

    @initialize(size=st.integers(1, 4))
    def begin(self, size):
        self.clock, self.size = Clock(), size
        self.real = StaleCache(size, ttl=10, stale=5, budget=6, clock=self.clock)
        self.model: list[list] = []  # [key, value, stored, weight]

    @rule(seconds=st.sampled_from([1.0, 4.0, 10.0, 15.0]))
    def wait(self, seconds):
        self.clock.now += seconds

    @rule(key=st.integers(0, 5), value=st.integers(), weight=st.sampled_from([1, 1, 2, 4, 7]))
    def put(self, key, value, weight):
        self.real.put(key, value, weight=weight)
        self.model = [e for e in self.model if e[0] != key]
        if weight <= 6:
            self.model = [*self.model, [key, value, self.clock.now, weight]][-self.size :]
        while sum(e[3] for e in self.model) > 6:
            self.model.pop(0)

    @rule(key=st.integers(0, 5), stale_ok=st.booleans(), ttl=st.sampled_from([None, 2.0]))
    def get(self, key, stale_ok, ttl):
        found = [e for e in self.model if e[0] == key and self.clock.now - e[2] <= (ttl or 10) + 5 * stale_ok]
        hit = self.real.get(key, ttl=ttl, stale_ok=stale_ok)
        assert (hit is not None) == bool(found)
        if hit:
            assert (hit.value, hit.age, hit.stale) == (found[0][1], self.clock.now - found[0][2], hit.age > (ttl or 10))
            self.model = [e for e in self.model if e[0] != key] + found

    @invariant()
    def bounded(self):
        if hasattr(self, "real"):
            assert len(self.real) == len(self.model) <= self.size
            assert self.real.weight == sum(e[3] for e in self.model) <= 6


TestCacheAgainstReference = CacheMachine.TestCase
TestCacheAgainstReference.settings = settings(max_examples=100, stateful_step_count=30, deadline=None, derandomize=True)


def test_the_least_recently_used_goes_first():
    """Reading keeps an entry in."""
    cache = StaleCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    cache.get("a")
    cache.put("c", 3)
    assert [key for key in "abc" if cache.get(key)] == ["a", "c"]


def test_what_is_cached_cannot_be_changed_by_a_reader():
    """Containers and arrays come back frozen, and apart from what was put."""
    cache = StaleCache()
    array = np.arange(3.0)
    answer = {"q": [1, 2], "array": array}
    cache.put("k", answer)
    answer["q"].append(3)
    array[0] = 9
    value = cache.get("k").value
    assert value["q"] == (1, 2)
    assert value["array"][0] == 0
    with pytest.raises(TypeError):
        value["q2"] = 1
    with pytest.raises(ValueError, match="read-only"):
        value["array"][0] = 1
    with pytest.raises(TypeError, match="bytearray can be changed"):
        freeze(bytearray(b"x"))


# --- single-flight ---


def test_identical_questions_from_threads_are_asked_once():
    """Eight threads, one call; nothing is kept afterwards."""
    flight, calls, gate, results = SingleFlight(), [], threading.Event(), []

    def function():
        calls.append(1)
        gate.wait(5)
        return "answer"

    threads = [threading.Thread(target=lambda: results.append(flight.run("k", function))) for _ in range(8)]
    [t.start() for t in threads]
    while not calls:
        time.sleep(0.001)
    with pytest.raises(TimeoutError):
        flight.run("k", function, timeout=0.01)  # leaving cancels nobody
    gate.set()
    [t.join() for t in threads]
    assert {value for value, _ in results} == {"answer"}
    assert sum(not shared for _, shared in results) == len(calls)
    assert flight.run("k", lambda: "new") == ("new", False)


def test_an_error_is_shared_but_an_interrupt_is_not():
    """Waiters get the error of the one call; when its caller is interrupted a waiter calls anew."""
    flight, gate, seen = SingleFlight(), threading.Event(), []

    def first(error):
        with pytest.raises(type(error)):
            flight.run("k", lambda: (gate.wait(5), (_ for _ in ()).throw(error)))

    def second():
        try:
            seen.append(flight.run("k", lambda: "own"))
        except Down as error:
            seen.append(error)

    for error in (Down("shared"), KeyboardInterrupt()):
        gate.clear()
        leader = threading.Thread(target=first, args=(error,))
        leader.start()
        while "k" not in flight._calls:
            time.sleep(0.001)
        waiter = threading.Thread(target=second)
        waiter.start()
        time.sleep(0.02)  # so that the waiter waits; if it came late, the next line would see its own call
        gate.set()
        leader.join()
        waiter.join()
    assert isinstance(seen[0], Down)
    assert seen[1] == ("own", False)


def test_in_asyncio_a_leaver_cancels_nobody_not_even_the_first():
    """64 at once, one call; the first and others leave, the rest get the answer."""
    calls = []

    async def function():
        calls.append(1)
        await asyncio.sleep(0.05)
        return "answer"

    async def main():
        flight = SingleFlight()
        tasks = [asyncio.create_task(flight.arun("k", function)) for _ in range(64)]
        await asyncio.sleep(0.01)
        [task.cancel() for task in tasks[:10]]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(r, asyncio.CancelledError) for r in results[:10])
        assert results[10:] == [("answer", True)] * 54
        assert not flight._tasks

    asyncio.run(main())
    assert len(calls) == 1


def test_in_asyncio_an_error_nobody_waited_for_is_quiet_and_a_cancelled_call_is_unavailable():
    """No "never retrieved" message; waiters of a call that cancelled itself are not cancelled."""
    complaints = []

    async def fails():
        await asyncio.sleep(0.01)
        raise Down

    async def cancels():
        raise asyncio.CancelledError

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        flight = SingleFlight()
        task = asyncio.create_task(flight.arun("k", fails))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0.03)
        with pytest.raises(Unavailable):
            await flight.arun("c", cancels)

    asyncio.run(main())
    import gc

    gc.collect()
    assert complaints == []
