"""What the tests of the forecasting service share: a question, a service on a fake daemon, and what makes an answer valid."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

from recipeline_tsfm.client import TollamaClient
from recipeline_tsfm.fake_tollama import FakeTollama
from recipeline_tsfm.guards import BOUNDS
from recipeline_tsfm.seams import ForecastAnswer, ForecastRequest, ServiceConfig
from recipeline_tsfm.service import ForecastService

# The seed's curl.
Y = [0.41, 0.42, 0.40, 0.43, 0.44, 0.45, 0.46, 0.45, 0.44, 0.43, 0.42, 0.41, 0.40, 0.41, 0.42, 0.43,
     0.44, 0.45, 0.46, 0.47, 0.48, 0.47, 0.46, 0.45, 0.44, 0.43, 0.42, 0.41, 0.40, 0.41, 0.42, 0.43]  # fmt: skip
PATIENT = {"environment": "dev", "deadline": 8.0, "attempt": 6.0, "backoff": 0.001}
HASTY = {"environment": "dev", "deadline": 0.4, "attempt": 0.3, "backoff": 0.001}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def question(shift: float = 0.0, **changes: Any) -> ForecastRequest:
    """The seed's question; `shift` makes it another one."""
    given = {
        "series_id": "m-1", "as_of": np.datetime64("2026-02-20T12:00:00"), "freq": "5min", "horizon": 12, "quantiles": (0.1, 0.5, 0.9),
        "target": np.array(Y) + shift, "model": "chronos",
    }  # fmt: skip
    return ForecastRequest(**{**given, **changes})


@asynccontextmanager
async def serving(
    *faults: Any, config: dict[str, Any] | None = None, fake: dict[str, Any] | None = None, **service: Any
) -> AsyncIterator[Any]:
    """(service, fake) on a socket of this machine."""
    async with FakeTollama(faults, **(fake or {})) as daemon:
        made = ForecastService(TollamaClient(daemon.url), ServiceConfig(**{**PATIENT, **(config or {})}), **service)
        try:
            yield made, daemon
        finally:
            await made.stop()


def must_be_valid(answer: ForecastAnswer, request: ForecastRequest) -> None:
    """Finite, ordered, within bounds, of the right length and unchangeable; flagged where the model did not make it."""
    meta = answer.meta
    assert answer.quantiles == request.quantiles
    for path in (answer.path, answer.conformal):
        if path is None:
            continue
        assert path.shape == (request.horizon, len(request.quantiles))
        assert path.dtype == np.float64
        assert np.isfinite(path).all()
        assert (np.diff(path, axis=1) >= 0).all()
        low, high = BOUNDS[request.space]
        assert low <= path.min()
        assert path.max() <= high
        assert not path.flags.writeable
    assert meta.fallback_used == (meta.runtime == "baseline")
    assert bool(meta.fallback_reason) == (meta.fallback_used or meta.cache_stale)
    assert not (meta.cache_stale and not meta.cache_hit)
    assert len(set(meta.warnings)) == len(meta.warnings)
    json.dumps(meta.warnings, ensure_ascii=False).encode()
    levels = request.quantiles
    if request.space == "logit" and len(levels) > 1 and levels[0] < 0.5 < levels[-1]:
        width = answer.path[:, -1] - answer.path[:, 0]
        assert width.min() >= 0.02 - 1e-9
        assert width.max() <= 0.6 + 1e-9
