"""POST /tsfm/forecast, POST /tsfm/forecast/batch and GET /tsfm/health: what `serve-api` serves for this family.

The measures stand with those of the server, on /metrics.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np

from recipeline.contracts import Route
from recipeline_tsfm.calibration import ConformalCalibration
from recipeline_tsfm.frequencies import seconds
from recipeline_tsfm.licences import ModelLicences
from recipeline_tsfm.schemas import (
    Defaults,
    TSFMForecastBatch,
    TSFMForecastBatchResponse,
    TSFMForecastRequest,
    TSFMForecastResponse,
    TSFMHealth,
    question,
    response,
)
from recipeline_tsfm.seams import ForecastAnswer, Forecaster, ForecastRequest


class TSFMRoutes:
    """The handlers; the service begins with the server, and ends with it.

    service      makes the service, in the process that serves
    calibration  of the run that is served; one that tracks learns from the histories that later requests bring
    """

    def __init__(
        self, service: Callable[[], Forecaster], defaults: Defaults, licences: ModelLicences, calibration: ConformalCalibration | None
    ) -> None:
        self._make, self.defaults, self.licences, self.calibration = service, defaults, licences, calibration
        self._service: Forecaster | None = None
        self._feedback = Feedback(calibration) if calibration is not None and calibration.method == "tracking" else None

    @property
    def service(self) -> Forecaster:
        if self._service is None:
            self._service = self._make()
        return self._service

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                "POST", "/tsfm/forecast", TSFMForecastRequest, TSFMForecastResponse, self.forecast, start=self.start, stop=self.stop,
                summary="Quantile forecasts of one market, from the model or, flagged, from the baseline",
            ),
            Route(
                "POST", "/tsfm/forecast/batch", TSFMForecastBatch, TSFMForecastBatchResponse, self.batch,
                summary="Quantile forecasts of many markets",
            ),
            Route("GET", "/tsfm/health", None, TSFMHealth, self.health, summary="The server of the models, as this process sees it"),
        )  # fmt: skip

    async def start(self) -> None:
        """Refused where the model of the recipe or run may not be used here."""
        self.licences.check(self.defaults.model)
        await self.service.start()

    async def stop(self) -> None:
        if self._service is not None:
            await self._service.stop()

    async def forecast(self, body: TSFMForecastRequest) -> TSFMForecastResponse:
        asked = question(body, self.defaults)
        if self._feedback is not None:
            self._feedback.hear(asked)
        answer = await self.service.forecast(asked)
        if self._feedback is not None:
            self._feedback.told(asked, answer)
        return response(asked, answer)

    async def batch(self, body: TSFMForecastBatch) -> TSFMForecastBatchResponse:
        """All or none: a market that cannot be asked about refuses the whole body, by its number."""
        asked = []
        for number, one in enumerate(body.requests):
            asked.append(question(one, self.defaults, where=f"requests[{number}]."))
            if number % 16 == 15:
                await asyncio.sleep(0)  # large bodies leave the loop to others now and then
        if self._feedback is not None:
            for request in asked:
                self._feedback.hear(request)
        answers = await self.service.forecast_many(asked)
        responses = []
        for request, answer in zip(asked, answers, strict=True):
            if self._feedback is not None:
                self._feedback.told(request, answer)
            responses.append(response(request, answer))
        return TSFMForecastBatchResponse(responses=responses)

    async def health(self) -> TSFMHealth:
        told = self.service.health()
        states = told.get("breakers") or {}
        closed = all(str(state if isinstance(state, str) else state.get("state", "closed")) == "closed" for state in states.values())
        known: dict[str, Any] = {
            "status": "ok" if closed else "degraded",
            "calibration": None if self.calibration is None else self.calibration.key,
            "environment": self.licences.environment,
            "allowed_models": self.licences.usable(),
        }
        return TSFMHealth(**{**told, **known})


class Feedback:
    """Outcomes of forecasts that were answered, found in the histories that later requests bring."""

    def __init__(self, calibration: ConformalCalibration) -> None:
        self.calibration = calibration

    def hear(self, asked: ForecastRequest) -> None:
        """What came for this market since: the latest `horizon` values of its history."""
        step, end = seconds(asked.freq), _number(asked)
        count = min(self.calibration.horizon, len(asked.target))
        if asked.timestamps is None:
            at = np.arange(end - count + 1, end + 1)
        else:
            at = _grid(asked.timestamps[-count:], step)
        for time, value in zip(at.tolist(), asked.target[-count:].tolist(), strict=True):
            self.calibration.observe(self._series(asked), time, value, asked.segment)

    def told(self, asked: ForecastRequest, answer: ForecastAnswer) -> None:
        if answer.conformal is not None and not answer.meta.fallback_used:
            self.calibration.issue(self._series(asked), _number(asked), answer.quantiles, answer.path, asked.segment)

    @staticmethod
    def _series(asked: ForecastRequest) -> str:
        return f"{asked.series_id} {asked.freq} {asked.model}"


def _number(asked: ForecastRequest) -> int:
    return int(_grid(np.array([asked.as_of]), seconds(asked.freq))[0])


def _grid(times: Any, step: int) -> Any:
    """(n,) the grid step nearest to each time."""
    moments = times.astype("datetime64[s]").astype(np.int64)
    return (moments + step // 2) // step
