"""The service on an honest daemon: what is shared, kept, forced, calibrated, refused; breaker and cold models."""

from __future__ import annotations

import asyncio
import logging
import threading

import numpy as np
import pytest

from recipeline import measures
from recipeline.errors import DataError, Refused
from recipeline_tsfm.client import TollamaClient
from recipeline_tsfm.fake_tollama import forecast
from recipeline_tsfm.payloads import Series
from recipeline_tsfm.seams import Calibration, Forecaster, Licences, ServiceConfig
from recipeline_tsfm.service import ForecastService
from tsfm_service import HASTY, Clock, Y, must_be_valid, question, serving


def run(test):
    """An async test, on a loop of its own."""
    return asyncio.run(test())


async def until(condition):
    """Wait for something that happens in the background."""
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not happen")


class Shift:
    """A calibration that moves the outer levels outwards by a fixed amount."""

    def __init__(self, amount=0.01, residuals=None):
        self.amount, self.learnt = amount, residuals

    @property
    def key(self):
        return f"shift-{self.amount}"

    def apply(self, levels, path, segment):
        if segment.get("category") == "unknown":
            raise DataError("not calibrated for it")
        moved = path.copy()
        moved[:, 0] -= self.amount
        moved[:, -1] += self.amount
        return moved

    def residuals(self, levels, horizon, segment):
        return self.learnt


class Permits:
    """Licences: nothing but `allowed`, and what the server's own tag makes of it."""

    def __init__(self, *allowed):
        self.allowed, self.heard = set(allowed), []

    def check(self, model):
        if model not in self.allowed:
            raise Refused(f"model {model} may not be used", slug="license_not_allowed")

    def reconcile(self, model, licence):
        self.heard.append((model, licence))
        if licence != "apache-2.0":
            self.allowed.clear()


# --- the happy path ---


def test_the_parts_fit_the_seams():
    """What stands behind the protocols satisfies them."""
    assert isinstance(Shift(), Calibration)
    assert isinstance(Permits(), Licences)
    assert isinstance(ForecastService(TollamaClient()), Forecaster)


def test_the_seeds_question_gets_the_models_own_numbers():
    """In order, in [0, 1], equal to what the daemon computes from the logits, on a regular grid of real timestamps in minutes."""

    async def test():
        async with serving() as (service, fake):
            request = question()
            answer = await service.forecast(request)
            must_be_valid(answer, request)
            meta = answer.meta
            assert (meta.runtime, meta.fallback_used, meta.cache_hit, meta.input_len, meta.batch_size, meta.upstream_calls) == (
                "tollama", False, False, 32, 1, 1,
            )  # fmt: skip
            (body,) = fake.calls
            (series,) = body["series"]
            assert body["model"] == "chronos2"
            assert series["freq"] == "5min"
            assert (series["timestamps"][0], series["timestamps"][-1]) == ("2026-02-20T09:25:00Z", "2026-02-20T12:00:00Z")
            np.testing.assert_allclose(series["target"], np.log(Y) - np.log1p(-np.array(Y)), rtol=1e-11)  # twelve digits travel
            told = forecast(series, 12, [0.1, 0.5, 0.9])["quantiles"]
            expected = 1 / (1 + np.exp(-np.array(list(told.values())).T))
            assert (expected[:, -1] - expected[:, 0]).min() > 0.02
            np.testing.assert_allclose(answer.path, expected, rtol=1e-12)

    run(test)


def test_only_the_last_points_are_sent_and_only_they_matter():
    """300 points at lookback 288; another beginning is the same question."""

    async def test():
        async with serving() as (service, fake):
            y = 0.5 + 0.1 * np.sin(np.arange(300.0))
            first = await service.forecast(question(target=y))
            assert first.meta.input_len == 288
            assert len(fake.calls[0]["series"][0]["target"]) == 288
            second = await service.forecast(question(target=np.concatenate([[0.9], y[1:]])))
            assert second.meta.cache_hit

    run(test)


def test_unknown_values_are_filled_on_the_way_and_said():
    """Null is refused on the wire: gaps are interpolated in model space, an open end carried on, a missing beginning left out."""

    async def test():
        async with serving() as (service, fake):
            y = np.array(Y + Y)
            y[[0, 1, 10, 63]] = np.nan
            request = question(target=y)
            answer = await service.forecast(request)
            must_be_valid(answer, request)
            assert answer.meta.warnings == ("missing_filled x2",)
            sent = fake.calls[0]["series"][0]
            assert len(sent["target"]) == 62
            assert sent["timestamps"][-1] == "2026-02-20T12:00:00Z"
            assert sent["target"][-1] == sent["target"][-2]
            np.testing.assert_allclose(sent["target"][8], (sent["target"][7] + sent["target"][9]) / 2)

    run(test)


def test_points_with_timestamps_are_laid_on_the_grid_that_ends_at_as_of():
    """Late, doubled and missing points; covariates go along."""

    async def test():
        async with serving() as (service, fake):
            end = np.datetime64("2026-02-20T12:00:00")
            minutes = np.array([5 * k for k in range(60, 1, -1)] + [6, 4])  # the last two share a place, the very last one is missing
            request = question(
                timestamps=end - minutes.astype("timedelta64[m]"), target=0.5 + 0.2 * np.sin(np.arange(len(minutes))),
                past_covariates={"vol": np.arange(len(minutes), dtype=float)}, future_covariates={"vol": np.ones(12)},
            )  # fmt: skip
            answer = await service.forecast(request)
            must_be_valid(answer, request)
            assert answer.meta.warnings[:3] == ("resampled", "covariate_filled:vol", "missing_filled")
            sent = fake.calls[0]["series"][0]
            assert len(sent["target"]) == 61
            assert sent["timestamps"][-1] == "2026-02-20T12:00:00Z"
            assert sent["past_covariates"]["vol"][-3:] == [58.0, 60.0, 60.0]
            assert sent["target"][-1] == sent["target"][-2]

    run(test)


def test_covariates_without_a_past_are_left_out_and_named():
    """The daemon refuses a future without a past; an answer without that covariate is better than none."""

    async def test():
        async with serving() as (service, fake):
            request = question(
                past_covariates={"a": np.full(32, np.nan), "b": np.ones(32)}, future_covariates={"a": np.ones(12), "c": np.ones(12)}
            )
            answer = await service.forecast(request)
            assert answer.meta.runtime == "tollama"
            assert answer.meta.warnings == ("covariate_dropped:a x2", "covariate_dropped:c")
            assert fake.calls[0]["series"][0]["past_covariates"] == {"b": [1.0] * 32}

    run(test)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"horizon": 0}, "horizon lies between"),
        ({"quantiles": (0.9, 0.1)}, "ascending"),
        ({"quantiles": ()}, "quantiles are 1 to 99"),
        ({"quantiles": (0.0, 0.5)}, "ascending numbers in"),
        ({"target": np.array([0.5])}, "2 to 20,000 values"),
        ({"target": np.full(40, np.nan)}, "no value is known"),
        ({"target": np.array([0.5, np.inf] * 20)}, "logit needs values in|infinite"),
        ({"target": np.array([0.5, 1.5] * 20)}, "logit needs values in"),
        ({"target": np.array([0.5, -2.0] * 20), "space": "log1p"}, "log1p needs values above"),
        ({"eps": 0.5}, "eps lies in"),
        ({"provider": "somebody"}, "provider is tollama"),
        ({"options": {"base_url": "http://elsewhere"}}, "must not hold base_url"),
        ({"past_covariates": {"v": np.ones(3)}}, "covariate 'v' has 3 past values"),
        ({"future_covariates": {"v": np.ones(3)}}, "covariate 'v' has 3 future values"),
        ({"timestamps": np.array(["2026-02-20"], dtype="datetime64[s]")}, "y_ts has 1 moments"),
        ({"timestamps": np.datetime64("2026-02-21") + np.arange(32).astype("timedelta64[m]")}, "beyond as_of"),
        ({"timestamps": np.datetime64("2026-02-20") - np.arange(32).astype("timedelta64[m]")}, "ascends"),
        ({"as_of": np.datetime64("NaT")}, "no moment"),
        ({"freq": "5 months"}, "no sampling interval"),
        ({"options": {"temperature": float("nan")}}, "JSON has no place"),
        ({"options": {"f": object()}}, "JSON has no place"),
        ({"horizon": 0, "eps": 1.0}, "horizon lies.*eps lies"),
    ],
)  # fmt: skip
def test_a_question_nobody_can_answer_is_a_data_error_and_asks_nothing(changes, words):
    """All mistakes at once, nothing sent."""

    async def test():
        async with serving() as (service, fake):
            with pytest.raises(DataError, match=words):
                await service.forecast(question(**changes))
            with pytest.raises(DataError, match=words):
                await service.forecast_many([question(), question(**changes)])
            assert fake.calls == []

    run(test)


# --- sharing and keeping ---


def test_sixty_four_identical_questions_at_once_are_one_call():
    """One flight; 63 say so; a second round is answered from the cache."""

    async def test():
        async with serving(fake={"latency": 0.05}) as (service, fake):
            answers = await asyncio.gather(*(service.forecast(question(series_id=f"m-{k}")) for k in range(64)))
            assert len(fake.calls) == 1
            assert sum(answer.meta.deduplicated for answer in answers) == 63
            assert all(answer.path is answers[0].path for answer in answers)
            again = await service.forecast(question())
            assert again.meta.cache_hit
            assert len(fake.calls) == 1

    run(test)


def test_who_leaves_cancels_nobody_not_even_the_first():
    """The first asker goes away; the other gets the answer, of the one call."""

    async def test():
        async with serving(fake={"latency": 0.1}) as (service, fake):
            first = asyncio.create_task(service.forecast(question()))
            await asyncio.sleep(0.02)
            second = asyncio.create_task(service.forecast(question()))
            await asyncio.sleep(0.02)
            first.cancel()
            answer = await second
            assert answer.meta.runtime == "tollama"
            assert answer.meta.deduplicated
            assert len(fake.calls) == 1
            with pytest.raises(asyncio.CancelledError):
                await first

    run(test)


def test_different_questions_share_calls_behind_a_daemon_that_does_one_thing_at_a_time():
    """64 submitted at once leave together; 32 clients that keep asking need at most a quarter as many calls as questions."""

    async def test():
        async with serving(fake={"latency": 0.03}) as (service, fake):
            answers = await asyncio.gather(*(service.forecast(question(k * 1e-4)) for k in range(64)))
            assert len(fake.calls) == 1
            assert {answer.meta.batch_size for answer in answers} == {64}
            fake.calls.clear()

            async def client(number):
                return [(await service.forecast(question(0.1 + (number * 8 + k) * 1e-4))).meta.runtime for k in range(8)]

            runtimes = await asyncio.gather(*(client(number) for number in range(32)))
            assert {runtime for some in runtimes for runtime in some} == {"tollama"}
            assert len(fake.calls) <= 64
            assert sum(len(call["series"]) for call in fake.calls) == 256
            assert fake.most <= 2

    run(test)


def test_a_series_that_the_daemon_refuses_does_not_take_its_neighbours_along():
    """Named by the daemon: one further call. Not named: halves until it is alone. Too long: halves that fit."""

    async def test(named, limit):
        async with serving(fake={"poison": 0.0, "named": named, "limit": limit}) as (service, fake):
            requests = [question(k * 1e-3, space="identity") for k in range(16)]
            target = np.array(Y)
            target[5] = 0.0
            requests.insert(3, question(target=target, space="identity"))
            answers = await asyncio.gather(*(service.forecast(request) for request in requests))
            reasons = [answer.meta.fallback_reason for answer in answers]
            assert reasons[3] == "upstream_rejected:400"
            assert reasons[:3] + reasons[4:] == [""] * 16
            assert service.upstream.state("chronos2") == "closed"
            return len(fake.calls)

    assert asyncio.run(test(True, 10_000_000)) == 2
    assert 2 < asyncio.run(test(False, 10_000_000)) <= 11
    assert asyncio.run(test(True, 4_000)) > 4


@pytest.mark.parametrize(
    "changes",
    [
        {"as_of": np.datetime64("2026-02-20T12:05:00")}, {"freq": "1h"}, {"horizon": 11}, {"quantiles": (0.1, 0.5, 0.8)},
        {"target": np.array([*Y[:-1], 0.44])}, {"model": "timesfm"}, {"model_version": "v2"}, {"options": {"temperature": 0.5}},
        {"space": "identity"}, {"eps": 1e-5}, {"segment": {"category": "sport"}}, {"max_gap_minutes": 60.0},
        {"past_covariates": {"v": np.ones(32)}}, {"past_covariates": {"v": np.ones(32)}, "future_covariates": {"v": np.ones(12)}},
        {"timestamps": np.datetime64("2026-02-20T12:00:00") + (np.arange(-31, 1) * 5).astype("timedelta64[m]")},
    ],
    ids=str,
)  # fmt: skip
def test_the_cache_tells_every_question_apart(changes):
    """The key is over every input that changes the answer; the id of the series is none."""

    async def test():
        async with serving() as (service, _):
            await service.forecast(question())
            assert (await service.forecast(question(series_id="another", request_id="r", warnings=("ignored:x",)))).meta.cache_hit
            assert not (await service.forecast(question(**changes))).meta.cache_hit
            assert (await service.forecast(question(**changes))).meta.cache_hit

    run(test)


def test_answers_keep_for_a_minute_and_for_another_when_the_daemon_fails():
    """Fresh up to 60 s, asked anew after that, stale up to 120 s where asking fails, then the baseline; never cached as fresh."""

    async def test():
        clock = Clock()
        async with serving(clock=clock, config={"breaker_failures": None, "breaker_requests": 100}) as (service, fake):
            first = await service.forecast(question())
            clock.now += 60
            kept = await service.forecast(question(request_id="r-9", warnings=("ignored:x",)))
            assert (kept.meta.cache_hit, kept.meta.cache_stale, kept.meta.age_s, kept.meta.request_id) == (True, False, 60, "r-9")
            assert kept.meta.warnings == ("ignored:x",)
            assert (kept.meta.batch_size, kept.meta.upstream_calls) == (0, 0)
            fake.set_faults("500")
            clock.now += 1
            stale = await service.forecast(question())
            assert (stale.meta.cache_hit, stale.meta.cache_stale, stale.meta.age_s) == (True, True, 61)
            assert stale.meta.fallback_reason == "upstream_5xx:500"
            assert "stale_if_error" in stale.meta.warnings
            assert not stale.meta.fallback_used
            assert stale.path is first.path
            clock.now += 60
            last = await service.forecast(question())
            assert last.meta.fallback_used
            assert len(fake.calls) == 3
            fake.set_faults()
            assert (await service.forecast(question())).meta.runtime == "tollama"

    run(test)


def test_no_reader_can_change_what_the_next_one_gets():
    """Paths are frozen."""

    async def test():
        async with serving(calibration=Shift()) as (service, _):
            answer = await service.forecast(question())
            for path in (answer.path, answer.conformal):
                with pytest.raises(ValueError, match="read-only"):
                    path[0, 0] = 0.0

    run(test)


def test_memory_is_bounded_by_the_cache_and_flat_in_the_ids_of_markets():
    """Ids leave nothing behind; questions leave what the cache holds."""

    async def test():
        async with serving(config={"cache_size": 8}) as (service, fake):
            for k in range(200):
                await service.forecast(question(series_id=f"market-{k}"))
            assert len(fake.calls) == 1
            await asyncio.gather(*(service.forecast(question(k * 1e-4)) for k in range(1, 60)))
            assert len(service._cache) == 8
            assert not service._flights._tasks
            assert len(service.upstream._mine().batcher) == 0
            for k in range(300):
                service.upstream.breaker(f"model-{k}")
            assert len(service.upstream._breakers) == 256

    run(test)


# --- the baseline ---


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target": np.array(Y[:31])}, "too_few_points"),
        ({"target": np.array([np.nan, *Y[1:]])}, "too_few_points"),
        ({"segment": {"liquidity_bucket": "low"}}, "baseline_only_liquidity_bucket"),
        ({"target": np.array(Y + [np.nan] * 4 + Y), "max_gap_minutes": 24.0}, "max_gap_exceeded"),
        ({"target": np.array(Y + [np.nan] * 3), "max_gap_minutes": 14.0}, "max_gap_exceeded"),
        ({"target": np.array(Y + [np.nan] * 4 + Y), "max_gap_minutes": 25.0}, ""),
        ({"target": np.array(Y), "max_gap_minutes": 5.0}, ""),
        ({"segment": {"liquidity_bucket": "high"}}, ""),
    ],
    ids=str,
)  # fmt: skip
def test_some_questions_go_to_the_baseline_without_asking(changes, reason):
    """Too few points, low liquidity, a gap too long; counted on what is known, at the very limit still asked."""

    async def test():
        async with serving() as (service, fake):
            request = question(**changes)
            answer = await service.forecast(request)
            must_be_valid(answer, request)
            assert answer.meta.fallback_reason == reason
            assert len(fake.calls) == (0 if reason else 1)
            assert len(service._cache) == len(fake.calls)

    run(test)


def test_a_gap_between_timestamps_is_measured_by_them():
    """Ten minutes between two points and up to as_of, whatever the grid says."""
    end = np.datetime64("2026-02-20T12:00:00")
    minutes = np.array([5 * k for k in range(50, 6, -1)] + [30, 25, 20, 10, 0])

    async def test():
        async with serving() as (service, _):
            for limit, reason in ((10.0, ""), (9.9, "max_gap_exceeded")):
                request = question(
                    timestamps=end - minutes.astype("timedelta64[m]"), target=np.full(len(minutes), 0.4), max_gap_minutes=limit
                )
                assert (await service.forecast(request)).meta.fallback_reason == reason

    run(test)


# --- calibration and licences ---


def test_calibration_widens_every_step_and_its_state_is_part_of_the_question():
    """Another state is another question; one that does not fit is left out and said; its bounds and order are ours."""

    async def test():
        calibration = Shift()
        async with serving(calibration=calibration) as (service, fake):
            answer = await service.forecast(question())
            np.testing.assert_allclose(answer.conformal - answer.path, np.tile([-0.01, 0, 0.01], (12, 1)), atol=1e-15)
            calibration.amount = -5.0  # turns the interval inside out
            other = await service.forecast(question())
            must_be_valid(other, question())
            assert not other.meta.cache_hit
            assert len(fake.calls) == 2
            unfit = await service.forecast(question(segment={"category": "unknown"}))
            assert unfit.conformal is None
            assert unfit.meta.warnings == ("calibration_does_not_fit",)
            fake.set_faults("500")
            assert (await service.forecast(question(0.1))).conformal is None

    run(test)


def test_an_answer_calibrated_by_a_state_that_is_over_is_not_kept():
    """What was learnt while the call was under way makes it the answer to no question that its key names."""

    async def test():
        calibration = Shift()
        async with serving(calibration=calibration, fake={"latency": 0.05}) as (service, fake):
            waiting = asyncio.create_task(service.forecast(question()))
            await until(lambda: fake.calls)
            calibration.amount = 0.02
            answer = await waiting
            np.testing.assert_allclose(answer.conformal[:, 2] - answer.path[:, 2], 0.02)
            calibration.amount = 0.01
            assert not (await service.forecast(question())).meta.cache_hit

    run(test)


def test_calibration_of_one_model_says_nothing_about_another():
    """`calibrated_model` names it, by alias or name."""

    async def test():
        async with serving(calibration=Shift(), config={"calibrated_model": "chronos"}) as (service, _):
            assert (await service.forecast(question())).conformal is not None
            assert (await service.forecast(question(model="chronos2"))).conformal is not None
            assert (await service.forecast(question(model="timesfm"))).conformal is None

    run(test)


def test_a_point_forecast_gets_the_residual_quantiles_that_calibration_has_learnt():
    """Mean plus residuals in original units; without them the baseline's spread around the model's mean, flagged point_only."""
    residuals = np.tile([-0.05, 0.0, 0.08], (12, 1))

    async def test():
        async with serving("no_quantiles", calibration=Shift(0.0, residuals)) as (learnt, fake), serving("no_quantiles") as (bare, _):
            answer = await learnt.forecast(question())
            mean = 1 / (1 + np.exp(-np.array(forecast(fake.calls[0]["series"][0], 12, [])["mean"])))
            np.testing.assert_allclose(answer.path, mean[:, None] + residuals, rtol=1e-12)
            assert answer.meta.warnings == ("point_only_with_residual_quantiles",)
            flagged = await bare.forecast(question())
            must_be_valid(flagged, question())
            np.testing.assert_allclose(flagged.path[:, 1], mean, rtol=1e-12)
            assert "point_only" in flagged.meta.warnings
            assert (np.diff(flagged.path[:, 2] - flagged.path[:, 0]) > 0).all()

    run(test)


def test_a_model_that_is_not_licensed_is_refused_before_anything_is_asked():
    """Refused with its own code, in one question and in many, also where the answer lies in the cache."""

    async def test():
        permits = Permits("chronos")
        async with serving(licences=permits) as (service, fake):
            with pytest.raises(Refused) as refused:
                await service.forecast(question(model="moirai"))
            assert refused.value.slug == "license_not_allowed"
            with pytest.raises(Refused):
                await service.forecast_many([question(), question(model="moirai")])
            assert fake.requests == []
            await service.forecast(question())
            permits.allowed.clear()
            with pytest.raises(Refused):
                await service.forecast(question())

    run(test)


def test_what_the_daemon_says_about_a_licence_is_heard_before_its_first_answer_is_given():
    """The stricter one wins: a model allowed here whose server says non-commercial is refused; asked once an hour."""

    async def test():
        permits = Permits("chronos", "moirai")
        clock = Clock()
        async with serving(licences=permits, clock=clock) as (service, fake):
            for shift in (0.0, 0.01):
                await service.forecast(question(shift))
            assert permits.heard == [("chronos2", "apache-2.0")]
            clock.now += 3601
            await service.forecast(question(0.02))
            assert len(permits.heard) == 2
            with pytest.raises(Refused):
                await service.forecast(question(model="moirai"))
            assert permits.heard[-1] == ("moirai-2.0-R-small", "cc-by-nc-4.0")
            assert ("POST", "/api/pull") not in fake.requests

    run(test)


# --- breaker and cold models ---


def opened(service):
    return service.upstream.state("chronos2") == "open"


def test_five_failures_in_a_row_open_the_breaker_and_two_probes_close_it():
    """Open: nobody is asked. Half-open: two probes, the others get the baseline and do not re-open it. Two successes: closed."""

    async def test():
        clock = Clock()
        config = {"breaker_jitter": 0.0, "batch_wait": 0.0}
        async with serving("500", clock=clock, config=config, fake={"latency": 0.1}) as (service, fake):
            for k in range(5):
                await service.forecast(question(k * 1e-3))
            assert len(fake.calls) == 5
            assert opened(service)
            fake.set_faults()
            refused = await service.forecast(question())
            assert refused.meta.fallback_reason == "circuit_open"
            assert refused.meta.circuit_breaker_state == "open"
            assert len(fake.calls) == 5
            clock.now += 120
            answers = await asyncio.gather(*(service.forecast(question(0.01 + k * 1e-3)) for k in range(10)))
            assert len(fake.calls) == 7
            assert sorted(answer.meta.fallback_reason for answer in answers) == [""] * 2 + ["circuit_open"] * 8
            assert service.upstream.state("chronos2") == "closed"
            assert (await service.forecast(question(0.05))).meta.runtime == "tollama"

    run(test)


def test_one_failed_probe_opens_it_again_whatever_the_other_says():
    """The second probe's success belongs to a state that is over."""

    async def test():
        clock = Clock()
        async with serving("500:5", clock=clock, config={"breaker_jitter": 0.0}) as (service, fake):
            for k in range(5):
                await service.forecast(question(k * 1e-3))
            clock.now += 120
            fake.set_faults("500:1")
            await asyncio.gather(*(service.forecast(question(0.01 + k * 1e-3)) for k in range(2)))
            assert opened(service)
            clock.now += 119
            assert opened(service)
            clock.now += 1
            assert service.upstream.state("chronos2") == "half-open"

    run(test)


def test_a_stale_answer_is_given_while_the_breaker_is_open():
    """Better than the baseline, and flagged."""

    async def test():
        clock = Clock()
        async with serving(clock=clock, config={"breaker_failures": 1}) as (service, fake):
            await service.forecast(question())
            fake.set_faults("500")
            clock.now += 61
            await service.forecast(question(0.1))
            assert opened(service)
            stale = await service.forecast(question())
            assert stale.meta.cache_stale
            assert stale.meta.fallback_reason == "circuit_open"

    run(test)


def test_breakers_of_two_models_know_nothing_of_each_other():
    """One per server and model."""

    async def test():
        async with serving("500:5") as (service, _):
            for k in range(5):
                await service.forecast(question(k * 1e-3))
            assert opened(service)
            assert (await service.forecast(question(model="timesfm"))).meta.runtime == "tollama"
            assert service.health()["breakers"] == {"chronos2": "open", "timesfm-2.5-200m": "closed"}

    run(test)


def test_time_that_was_spent_waiting_here_does_not_speak_against_the_daemon():
    """The second call begins with a third of its time left; its timeout is not counted."""

    async def test():
        config = {**HASTY, "attempt": 0.6, "deadline": 0.9, "batch_calls": 1, "breaker_failures": 2, "breaker_rate": None}
        async with serving("hang", config=config) as (service, fake):
            first = asyncio.create_task(service.forecast(question()))
            await until(lambda: fake.calls)
            second = await service.forecast(question(0.01))
            assert second.meta.fallback_reason == "upstream_timeout"
            await first
            await until(
                lambda: len(fake.calls) == 2 and not service.upstream._mine()._tasks and not service.upstream._mine().batcher._tasks
            )
            breaker = service.upstream.breaker("chronos2")
            assert breaker.state == "closed"
            breaker.failure()
            assert breaker.state == "open"  # the second one: the first was that of the first call

    run(test)


def test_a_cold_model_is_warmed_up_in_the_background_and_is_no_failure():
    """The first asker gets the baseline in time, those after it at once or the model, and the breaker hears nothing."""

    async def test():
        async with serving(config={**HASTY, "breaker_failures": 1}, fake={"cold": 1.0}) as (service, fake):
            first = await service.forecast(question())
            assert first.meta.fallback_reason == "upstream_timeout"
            await until(lambda: service.health()["warming_up"] == ["chronos2"])
            second = await service.forecast(question(0.01))
            assert second.meta.fallback_reason == "model_warming_up"
            await until(lambda: not service.health()["warming_up"])
            assert service.upstream.state("chronos2") == "closed"
            assert (await service.forecast(question(0.02))).meta.runtime == "tollama"
            assert len(fake.calls) == 3

    run(test)


def test_models_are_warmed_up_at_the_start_and_a_request_waits_for_that():
    """`warm_up` names them; starting does not wait; a short warm-up delays the first answer instead of spoiling it."""

    async def test():
        async with serving(config={"warm_up": ("chronos",)}, fake={"cold": 0.2}) as (service, fake):
            await service.start()
            assert fake.calls == []
            answer = await service.forecast(question())
            assert answer.meta.runtime == "tollama"
            assert len(fake.calls) == 2

    run(test)


# --- doors ---


def test_stopping_answers_those_who_wait():
    """With the baseline, and a reason of its own; the breaker hears nothing."""

    async def test():
        async with serving("hang", config={"breaker_failures": 1}) as (service, fake):
            waiting = [asyncio.create_task(service.forecast(question(k * 1e-3))) for k in range(3)]
            await until(lambda: fake.calls)
            waiting.append(asyncio.create_task(service.forecast(question(0.1))))
            await until(lambda: len(service._flights._tasks) == 4)
            await asyncio.sleep(0.1)
            await service.stop()
            for answer in await asyncio.gather(*waiting):
                assert answer.meta.fallback_reason == "service_stopped"
            assert service.upstream.state("chronos2") == "closed"

    run(test)


def test_minutes_stay_minutes_even_where_a_caller_forgets_the_canonical_word():
    """Never "5m" on the wire: months, to the daemon."""

    async def test():
        async with serving() as (service, fake):
            await service.forecast(question(freq="5m"))
            assert fake.calls[0]["series"][0]["freq"] == "5min"

    run(test)


def test_names_that_no_encoding_knows_do_no_harm():
    """Halves of surrogates, control characters, quotes: in names of covariates, models, segments."""

    async def test():
        name = 'a"\n\x00\ud800'
        async with serving() as (service, _):
            request = question(past_covariates={name: np.full(32, np.nan)}, segment={name: name}, options={name: name})
            must_be_valid(await service.forecast(request), request)
            request = question(past_covariates={name: np.ones(32)}, model=name, model_version=name)
            answer = await service.forecast(request)
            must_be_valid(answer, request)
            assert answer.meta.fallback_reason == "model_not_installed"

    run(test)


def test_an_answer_much_longer_than_the_question_deserves_is_not_read_to_its_end():
    """Parsing it would keep everybody else waiting."""

    async def test():
        async with serving(lambda body: {**body, "explanation": "x" * 1_500_000}) as (service, _):
            return await service.forecast(question())

    assert run(test).meta.fallback_reason == "invalid_payload:too_long"


def test_the_cache_is_bounded_in_bytes_too():
    """4,096 steps of 99 levels are 3 MB; a few of them push the others out instead of filling the memory."""

    async def test():
        async with serving(config={"cache_bytes": 50_000}) as (service, _):
            levels = tuple(np.round(np.linspace(0.01, 0.99, 99), 2).tolist())
            for k in range(6):
                await service.forecast(question(k * 1e-3, horizon=24, quantiles=levels))
            assert 1 <= len(service._cache) <= 2
            assert service._cache.weight <= 50_000
            long = question(horizon=200, quantiles=levels)
            assert not (await service.forecast(long)).meta.cache_hit
            assert not (await service.forecast(long)).meta.cache_hit

    run(test)


def test_synchronous_callers_share_one_thread_with_one_loop():
    """Batches of many series from any thread; closing ends the thread; the service can be used again."""

    async def fake_in_a_thread():
        from recipeline_tsfm.fake_tollama import FakeTollama

        return await FakeTollama().start()

    from recipeline_tsfm.loops import LoopThread

    world = LoopThread("fake")
    fake = world.run(fake_in_a_thread())
    service = ForecastService(TollamaClient(fake.url), ServiceConfig(environment="dev", deadline=8.0, attempt=6.0))
    try:
        requests = [question(k * 1e-4) for k in range(200)]
        answers = service.forecast_all(requests)
        for request, answer in zip(requests, answers, strict=True):
            must_be_valid(answer, request)
            assert answer.meta.runtime == "tollama"
        assert len(fake.calls) <= 8
        assert sum("tsfm-forecasts" in thread.name for thread in threading.enumerate()) == 1
        assert service.forecast_all(requests[:3])[2].meta.cache_hit
        with pytest.raises(DataError):
            service.forecast_all([question(horizon=0)])
        service.close()
        service.close()
        assert not any("tsfm-forecasts" in thread.name for thread in threading.enumerate())
        assert len(service.forecast_all([question(0.2)])) == 1
    finally:
        service.close()
        world.run(fake.stop())
        world.close()


def test_the_service_speaks_of_itself_in_plain_data():
    """health() is JSON, and names no secret."""
    import json

    async def test():
        async with serving() as (service, _):
            service.client._token = "tok-CANARY-123456"
            await service.forecast(question())
            return json.dumps(service.health())

    said = run(test)
    assert "CANARY" not in said
    assert '"chronos2": "closed"' in said


def test_the_numbers_for_prometheus_are_counted():
    """Requests by runtime and reason, calls, batches, cache, crossings, widths; a user's model name makes no label."""
    measures.reset()

    async def test():
        async with serving("crossed:1", fake={"models": ["chronos2", "somebody-made-this-up"]}) as (service, fake):
            await service.forecast(question())
            await service.forecast(question())
            await service.forecast(question(model="somebody-made-this-up"))
            fake.set_faults("500")
            await service.forecast(question(0.1))
            return measures.exposition()[0].decode()

    text = run(test)
    measures.reset()
    for line in (
        'tsfm_requests_total{reason="none",runtime="tollama"} 3.0', 'tsfm_requests_total{reason="upstream_5xx",runtime="baseline"} 1.0',
        'tsfm_upstream_calls_total{model="chronos2",outcome="ok"} 1.0',
        'tsfm_upstream_calls_total{model="chronos2",outcome="upstream_5xx"} 1.0',
        'tsfm_upstream_calls_total{model="other",outcome="ok"} 1.0', "tsfm_batch_size_count 3.0", 'tsfm_cache_total{state="fresh"} 1.0',
        'tsfm_cache_total{state="miss"} 3.0', "tsfm_quantile_crossings_total 12.0", "tsfm_interval_width_count 2.0",
    ):  # fmt: skip
        assert line in text, line
    assert "made-this-up" not in text


def test_the_token_is_in_no_text(caplog):
    """Not in logs of any level, answers, errors or reprs; a daemon that repeats it is not repeated."""
    token = "tok-CANARY-abcdef"
    caplog.set_level(logging.DEBUG)
    for name in ("asyncio", "httpcore2", "httpx2"):  # commands of other tests have made them quieter
        caplog.set_level(logging.DEBUG, logger=name)

    async def test():
        from recipeline_tsfm.fake_tollama import STATUSES

        async with serving(fake={"token": token}) as (service, fake):
            locked_out = await service.forecast(question())
            assert locked_out.meta.fallback_reason == "upstream_unauthorized"
            await service.client.aclose()
            service.client = service.upstream.client = TollamaClient(fake.url, token=token)
            let_in = await service.forecast(question())
            assert let_in.meta.runtime == "tollama"
            STATUSES["400"], before = (400, f"bad header Bearer {token}"), STATUSES["400"]
            try:
                fake.set_faults("400")
                one = Series("5min", np.datetime64("2026-02-20T12:00:00"), np.arange(40.0), {}, {})
                with pytest.raises(Exception, match="rejected") as error:
                    await service.client.forecast("chronos", 1, (0.5,), [one])
            finally:
                STATUSES["400"] = before
            return repr((locked_out, let_in, service.client, vars(error.value), error.value)) + str(error.value)

    assert token not in run(test)
    assert caplog.records
    assert all(token not in repr(vars(record)) for record in caplog.records)
