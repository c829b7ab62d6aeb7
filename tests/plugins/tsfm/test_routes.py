"""What the handlers do beside calling the service: tracking learns from later requests, health is summed up."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipeline.errors import Refused
from recipeline_tsfm.calibration import ConformalCalibration, Windows, calibrate
from recipeline_tsfm.client import TollamaClient
from recipeline_tsfm.fake_tollama import FakeTollama
from recipeline_tsfm.licences import ModelLicences
from recipeline_tsfm.routes import TSFMRoutes
from recipeline_tsfm.schemas import Defaults, TSFMForecastBatch, TSFMForecastRequest
from recipeline_tsfm.seams import ServiceConfig
from recipeline_tsfm.service import ForecastService

PROJECT = Path(__file__).parents[3]
LEVELS = (0.1, 0.5, 0.9)


def calibration(method: str = "tracking", horizon: int = 3) -> ConformalCalibration:
    rng = np.random.default_rng(0)
    y = 0.5 + 0.02 * rng.standard_normal(200 + horizon)
    path = np.tile([0.48, 0.5, 0.52], (200, horizon, 1))
    actual = np.lib.stride_tricks.sliding_window_view(y[1:], horizon)[:200]
    return calibrate(Windows(LEVELS, path, np.array(actual), np.arange(200), np.full(200, "a")), method=method)


def routes(url: str, state: ConformalCalibration | None, environment: str = "local") -> TSFMRoutes:
    licences = ModelLicences.read(None, environment)
    return TSFMRoutes(
        lambda: ForecastService(TollamaClient(url), ServiceConfig(environment=environment), licences=licences, calibration=state),
        Defaults(horizon=3, freq="5min"), licences, state,
    )  # fmt: skip


def body(tick: int, series: np.ndarray, **more: Any) -> TSFMForecastRequest:
    """What is known at a tick of five minutes."""
    stamp = np.datetime64("2026-02-20T00:00:00") + tick * np.timedelta64(5, "m")
    y = [None if np.isnan(value) else float(value) for value in series[: tick + 1]]
    return TSFMForecastRequest.model_validate({"market_id": "m", "as_of_ts": f"{stamp}Z", "y": y, **more})


@pytest.mark.parametrize("method", ["tracking", "cqr"])
def test_a_server_that_tracks_learns_from_the_histories_of_later_requests(method: str) -> None:
    """Prices begin to jump: with tracking the intervals of one market widen tick by tick, under another key; cqr stays as it was."""
    rng = np.random.default_rng(1)
    series = np.clip(0.5 + 0.002 * rng.standard_normal(80), 0, 1)
    series[40:] = 0.5 + 0.2 * rng.standard_normal(40).clip(-1, 1)
    state = calibration(method)

    async def ask() -> tuple[list[float], list[str]]:
        widths, keys = [], []
        async with FakeTollama() as fake:
            served = routes(fake.url, state)
            await served.start()
            for tick in range(36, 80):
                answer = await served.forecast(body(tick, series))
                assert answer.conformal_yhat_q is not None
                given = answer.yhat_q["0.9"][0] - answer.yhat_q["0.1"][0]
                widths.append(answer.conformal_yhat_q["0.9"][0] - answer.conformal_yhat_q["0.1"][0] - given)
                keys.append((await served.health()).calibration or "")
            await served.stop()
        return widths, keys

    widths, keys = asyncio.run(ask())
    if method == "cqr":
        assert len(set(keys)) == 1
        assert max(widths) - min(widths) < 0.02
        return
    assert len(set(keys)) > 40
    assert np.mean(widths[-8:]) > np.mean(widths[:4]) + 0.02


def test_feedback_comes_from_the_same_market_and_once() -> None:
    """Asked twice at one tick, and in a batch of two markets: each outcome is heard once, and of its own market."""
    state = calibration()
    series = np.full(50, 0.5)

    async def ask() -> list[str]:
        keys = []
        async with FakeTollama() as fake:
            served = routes(fake.url, state)
            await served.start()
            for bodies in ([body(40, series)], [body(41, series)], [body(41, series)], [body(41, series, market_id="other")]):
                await served.batch(TSFMForecastBatch(requests=bodies))
                keys.append(state.key)
            await served.stop()
        return keys

    first, second, again, other = asyncio.run(ask())
    assert first.count(".") == 0
    assert second == f"{first}.1"
    assert again == other == second


def test_a_server_of_a_model_that_may_not_be_used_does_not_start() -> None:
    """`start` of the routes: refused before anything is asked."""
    served = routes("http://127.0.0.1:9", None, environment="prod")
    served.defaults = Defaults(model="moirai")
    with pytest.raises(Refused) as refused:
        asyncio.run(served.start())
    assert refused.value.slug == "license_not_allowed"
