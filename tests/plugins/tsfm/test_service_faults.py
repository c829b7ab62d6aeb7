"""What a daemon can do wrong, over real sockets, and what the service answers all the same."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipeline_tsfm.fake_tollama import FAULTS
from recipeline_tsfm.loops import LoopThread
from tsfm_service import HASTY, must_be_valid, question, serving

REASONS = {
    "refuse": "upstream_unreachable", "reset": "upstream_unreachable", "close": "upstream_unreachable", "cut": "upstream_unreachable",
    "hang": "upstream_timeout", "drip": "upstream_timeout", "slow_head": "upstream_timeout",
    "no_http": "invalid_payload:http", "redirect": "invalid_payload:redirect", "204": "invalid_payload:status",
    "gzip": "invalid_payload:encoding", "too_long": "invalid_payload:too_long", "too_long_chunked": "invalid_payload:too_long",
    "500": "upstream_5xx:500", "502": "upstream_5xx:502", "503": "upstream_5xx:503", "504": "upstream_5xx:504",
    "503_breaker": "upstream_5xx:503", "503_timeout": "upstream_5xx:503", "503_dependency": "upstream_5xx:503",
    "429": "upstream_rate_limited", "400": "upstream_rejected:400", "413": "upstream_rejected:413", "422": "upstream_rejected:422",
    "418": "upstream_rejected:418", "401": "upstream_unauthorized", "403": "upstream_unauthorized",
    "404_model": "model_not_installed", "404_route": "upstream_route_missing", "409": "upstream_license_not_accepted",
    "garbage": "invalid_payload:json", "empty": "invalid_payload:json", "html": "invalid_payload:json", "ndjson": "invalid_payload:json",
    "deep": "invalid_payload:json", "number": "invalid_payload:shape", "list": "invalid_payload:shape",
    "no_forecasts": "invalid_payload:shape", "null": "invalid_payload:null", "nan": "invalid_payload:not_finite",
    "inf": "invalid_payload:not_finite", "huge_int": "invalid_payload:not_finite", "text": "invalid_payload:not_a_number",
    "bool": "invalid_payload:not_a_number", "short": "invalid_payload:length", "long": "invalid_payload:length",
    "missing_id": "invalid_payload:missing_id", "wrong_id": "invalid_payload:missing_id", "twice": "invalid_payload:duplicate_id",
    "missing_outer_quantile": "invalid_payload:missing_quantile", "nothing": "invalid_payload:mean",
}  # fmt: skip
WARNINGS = {
    "missing_quantile": "quantile_interpolated", "no_quantiles": "point_only", "crossed": "quantile_crossing_fixed x12",
    "trailing_zero": None, "q_names": None, "big": None, "wide": "interval_narrowed x12", "flat": "interval_widened x12",
    "other_model": "another_model_answered", "warned": "upstream:ignoring unsupported covariate: vol x2",
}  # fmt: skip
TRIED_AGAIN = {"reset", "close", "cut", "502", "503", "504", "429"}
NOT_COUNTED = {"400", "401", "403", "404_model", "404_route", "409", "413", "418", "422", "429"}


def test_every_fault_of_the_fake_is_in_one_of_the_tables():
    """Nothing that it can do is left untried."""
    assert set(FAULTS) == REASONS.keys() | WARNINGS.keys()


@pytest.mark.parametrize("fault", REASONS)
def test_a_daemon_that_fails_is_answered_by_the_baseline_with_its_reason(fault):
    """200, finite, ordered, in bounds; retried only where a retry may help; the breaker hears what speaks against the daemon."""
    request = question()

    async def ask():
        config = {**(HASTY if REASONS[fault] == "upstream_timeout" else {}), "breaker_failures": 1}
        async with serving(fault, config=config) as (service, fake):
            answer = await service.forecast(request)
            calls = len(fake.calls)
            for _ in range(100):  # a timeout is judged once `GET /api/ps` has said whether the model was cold
                if fault in NOT_COUNTED or service.upstream.state("chronos2") == "open":
                    break
                await asyncio.sleep(0.02)
            return answer, calls, service.upstream.state("chronos2"), len(service._cache)

    answer, calls, state, cached = asyncio.run(ask())
    must_be_valid(answer, request)
    assert answer.meta.fallback_used
    assert answer.meta.fallback_reason == REASONS[fault]
    assert answer.meta.runtime == "baseline"
    assert cached == 0
    assert state == ("closed" if fault in NOT_COUNTED else "open")
    if fault != "refuse":
        assert calls == (2 if fault in TRIED_AGAIN else 1)
        assert answer.meta.upstream_calls == calls


@pytest.mark.parametrize("fault", WARNINGS)
def test_a_daemon_that_is_merely_odd_is_used_and_what_was_mended_is_said(fault):
    """Spellings by value, gaps between quantiles, crossings, widths."""
    request = question(quantiles=(0.1, 0.3, 0.5, 0.7, 0.9)) if fault == "missing_quantile" else question()

    async def ask():
        async with serving(fault) as (service, _), serving() as (honest, _):
            return await service.forecast(request), await honest.forecast(request)

    answer, honest = asyncio.run(ask())
    must_be_valid(answer, request)
    assert answer.meta.runtime == "tollama"
    warned = WARNINGS[fault]
    assert warned is None or warned in answer.meta.warnings
    if fault in ("trailing_zero", "q_names", "crossed", "other_model", "warned"):
        np.testing.assert_array_equal(answer.path, honest.path)
    if fault == "missing_quantile":
        np.testing.assert_allclose(answer.path, honest.path, atol=1e-6)  # the fake's quantiles are linear in z


def test_another_model_than_asked_is_refused_in_production():
    """A warning in dev, the baseline in prod."""

    async def ask():
        async with serving("other_model", config={"environment": "prod"}) as (service, _):
            return await service.forecast(question())

    assert asyncio.run(ask()).meta.fallback_reason == "invalid_payload:model"


@pytest.mark.parametrize("fault", ["hang", "drip", "slow_head"])
def test_a_daemon_that_hangs_or_drips_does_not_hold_the_answer_past_its_deadline(fault):
    """However many wait; the margin is for a busy test machine, the bench measures it."""

    async def ask():
        async with serving(fault, config=HASTY) as (service, _):
            loop = asyncio.get_running_loop()
            began = loop.time()
            answers = await asyncio.gather(*(service.forecast(question(place * 1e-3)) for place in range(40)))
            return answers, loop.time() - began

    answers, took = asyncio.run(ask())
    assert took < HASTY["deadline"] + 1.0
    assert {answer.meta.fallback_reason for answer in answers} <= {"upstream_timeout", "circuit_open"}


def test_after_one_bad_attempt_the_retry_is_used():
    """502, then an honest answer: two calls, no fallback."""

    async def ask():
        async with serving("502:1") as (service, fake):
            return await service.forecast(question()), len(fake.calls)

    answer, calls = asyncio.run(ask())
    assert calls == 2
    assert answer.meta.runtime == "tollama"
    assert answer.meta.upstream_calls == 2


def test_a_missing_model_is_remembered_for_a_while():
    """404 is asked once in 30 s, per model."""

    async def ask():
        async with serving(fake={"models": ["timesfm-2.5-200m"]}) as (service, fake):
            reasons = [(await service.forecast(question(shift))).meta.fallback_reason for shift in (0.0, 0.01, 0.02)]
            other = await service.forecast(question(model="timesfm"))
            return reasons, len(fake.calls), other.meta.runtime, service.health()["not_installed"]

    reasons, calls, other, missing = asyncio.run(ask())
    assert reasons == ["model_not_installed"] * 3
    assert calls == 2
    assert other == "tollama"
    assert missing == {"chronos2": "model_not_installed"}


numbers = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True), st.integers(-(10**30), 10**30), st.none(), st.text(max_size=3), st.booleans()
)  # fmt: skip
anything = st.recursive(
    numbers, lambda inner: st.lists(inner, max_size=14) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=20
)  # fmt: skip
rows = st.lists(st.floats(-1e308, 1e308), min_size=3, max_size=3)
keys = st.sampled_from(["0.1", "0.5", "0.9", "0.10", "q50", "p90", "x", "1e400", "nan"])
lines = st.one_of(
    st.fixed_dictionaries({"0.1": rows, "q50": rows, "0.90": rows}), st.dictionaries(keys, st.one_of(rows, anything), max_size=5)
)
forecasts = st.fixed_dictionaries(
    {"id": st.one_of(st.just("0"), anything), "mean": st.one_of(rows, anything), "quantiles": st.one_of(lines, anything)}
)  # fmt: skip
bodies = st.one_of(
    st.fixed_dictionaries(
        {
            "model": st.one_of(st.just("chronos2"), anything),
            "forecasts": st.lists(st.one_of(forecasts, anything), max_size=3),
            "warnings": anything,
        }
    ),
    anything,
)
spaces = st.sampled_from(["logit", "identity", "log1p"])


@pytest.fixture(scope="module")
def thread():
    """A service on a fake daemon, in a loop of its own, for tests that ask many times."""
    runner = LoopThread("test")
    setup = serving(config={"breaker_failures": None, "breaker_requests": 100_000})
    service, fake = runner.run(setup.__aenter__())
    yield runner, service, fake
    runner.run(setup.__aexit__(None, None, None))
    runner.close()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=bodies, space=spaces, scale=st.sampled_from([1.0, 1e-9, 0.0]), number=st.integers(0, 10**9))
def test_whatever_the_daemon_sends_the_answer_is_valid_and_flagged(thread, body, space, scale, number):
    """Any JSON at all, in any space: never an exception, never a number that is not one."""
    runner, service, fake = thread
    fake.set_faults(lambda _: body)
    before = len(fake.calls)
    request = question(horizon=3, space=space, target=np.linspace(0, scale, 40), options={"number": number, "before": before})
    must_be_valid(runner.run(service.forecast(request)), request)
    assert len(fake.calls) == before + 1


values = st.floats(-1e308, 1e308)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(values, st.just(math.nan)), min_size=2, max_size=60), st.sampled_from(["identity", "log1p"]), st.integers(1, 5))
def test_whatever_the_past_is_the_baseline_is_valid_or_the_question_is_refused(target, space, horizon):
    """Huge, tiny, missing, constant: a valid answer or a DataError, no warning of numpy's."""
    from recipeline.errors import DataError
    from recipeline_tsfm.client import TollamaClient
    from recipeline_tsfm.seams import ServiceConfig
    from recipeline_tsfm.service import ForecastService

    request = question(target=np.array(target), space=space, horizon=horizon)
    service = ForecastService(TollamaClient("http://127.0.0.1:9"), ServiceConfig(min_points=100))
    try:
        answer = asyncio.run(service.forecast(request))
    except DataError:
        known = [y for y in target if not math.isnan(y)]
        assert not known or (space == "log1p" and min(known) <= -1)
    else:
        must_be_valid(answer, request)
        assert answer.meta.fallback_reason == "too_few_points"


@pytest.mark.slow
def test_a_minute_of_everything_going_wrong():
    """Sixteen clients, every fault at random, models in and out of memory: valid answers in time, and it works again afterwards."""
    rng = np.random.default_rng(11)
    names = [name for name in FAULTS if name != "refuse"]
    seconds, slack = 60.0, 0.5

    async def soak():
        config = {
            "environment": "dev",
            "breaker_cooldown": 0.5,
            "cache_ttl": 0.5,
            "stale_if_error": 2.0,
            "not_installed_ttl": 0.5,
            "backoff": 0.01,
        }
        async with serving(config={**config, "deadline": 0.8, "attempt": 0.5}, fake={"latency": 0.005, "cold": 0.3}) as (service, fake):
            loop = asyncio.get_running_loop()
            end = loop.time() + seconds
            reasons: dict[str, int] = {}

            async def client(number):
                while loop.time() < end:
                    request = question(
                        rng.integers(0, 200) * 1e-3, horizon=int(rng.integers(1, 40)), model=("chronos", "timesfm")[number % 2]
                    )
                    began = loop.time()
                    answer = await service.forecast(request)
                    assert loop.time() - began < 0.8 + slack
                    must_be_valid(answer, request)
                    kind = answer.meta.fallback_reason.partition(":")[0]
                    reasons[kind] = reasons.get(kind, 0) + 1
                    await asyncio.sleep(rng.exponential(0.01))

            async def trouble():
                while loop.time() < end:
                    calm = rng.random() < 0.3
                    fake.set_faults(*(() if calm else (f"{rng.choice(names)}:{rng.integers(1, 4)}" for _ in range(5))))
                    if rng.random() < 0.1:
                        fake.loaded.clear()
                    await asyncio.sleep(rng.exponential(0.3))

            await asyncio.gather(trouble(), *(client(number) for number in range(16)))
            fake.set_faults()
            for k in range(100):
                await asyncio.sleep(0.1)
                if (await service.forecast(question(0.3 + k * 1e-4))).meta.runtime == "tollama":
                    break
            else:
                raise AssertionError("it did not recover")
            assert not service._flights._tasks
            return reasons

    reasons = asyncio.run(soak())
    assert reasons[""] > 100
    assert len(reasons) > 8, reasons
