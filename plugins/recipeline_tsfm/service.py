"""The guarded service: a valid, flagged answer to every valid question, whatever the daemon does.

In this order: check, licence, cache, forced baseline, breaker, last points and model space, single-flight, micro-batch, one call
within the deadline, checks of the answer, back into original units, bounds, order, width, calibration, cache. What fails on the
way is answered from the cache where it is not too old, else by the baseline; such answers say so and are never kept as fresh.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recipeline.errors import DataError, Refused
from recipeline.resilience import Deadline, SingleFlight, StaleCache
from recipeline_tsfm import failures, fallback, guards, meters, questions
from recipeline_tsfm.client import TollamaClient
from recipeline_tsfm.failures import UpstreamError
from recipeline_tsfm.loops import LoopThread
from recipeline_tsfm.seams import Calibration, ForecastAnswer, ForecastRequest, Licences, Meta, Runtime, ServiceConfig
from recipeline_tsfm.upstream import Job, Kind, Told, Upstream

if TYPE_CHECKING:
    Floats = NDArray[np.float64]

ENTRY_BYTES = 1000  # what an entry takes beside its numbers, about
LICENCE_TTL = 3600.0  # seconds for which what the daemon said about a licence is believed


@dataclass(frozen=True, eq=False, slots=True)
class Entry:
    """What is kept of an answer: path and conformal (H, Q), read-only."""

    path: Floats
    conformal: Floats | None
    warnings: tuple[str, ...]
    input_len: int
    batch_size: int
    attempts: int


class ForecastService:
    """Forecasts through one tollama server. Usable from any number of event loops and threads; `forecast_all` needs none.

    client       of the server
    licences     who may be asked (None: everybody; then the caller has checked)
    calibration  of the intervals (None: `ForecastAnswer.conformal` is None)
    clock        seconds, monotonic; for cache, breaker and what is remembered. Deadlines follow the event loop's own.
    rng          for the breaker's jitter
    """

    def __init__(
        self,
        client: TollamaClient,
        config: ServiceConfig | None = None,
        *,
        licences: Licences | None = None,
        calibration: Calibration | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.client, self.config = client, config or ServiceConfig()
        self.licences, self.calibration = licences, calibration
        if self.config.aliases:
            client.aliases = {**client.aliases, **self.config.aliases}
        self._calibrated = client.resolve(self.config.calibrated_model) if self.config.calibrated_model else None
        self._widths = guards.Widths(self.config.min_width, self.config.max_width)
        self.upstream = Upstream(client, self.config, clock=clock, uniform=(rng or random.Random()).uniform)  # noqa: S311  jitter
        ttl = self.config.cache_ttl
        self._cache = StaleCache(
            self.config.cache_size, ttl=ttl, stale=max(0.0, self.config.stale_if_error - ttl), budget=self.config.cache_bytes, clock=clock
        )  # fmt: skip
        self._flights = SingleFlight()
        self._licensed: dict[str, float] = {}  # model -> until when what the daemon said is believed; only models that are allowed
        self._clock = clock
        self._thread = LoopThread("tsfm-forecasts")

    # --- life ---

    async def start(self) -> None:
        """Begin to warm up the models that the configuration names; does not wait for them."""
        for model in self.config.warm_up:
            if self.licences is not None:
                self.licences.check(model)
            self.upstream.warm_up(self.client.resolve(model))

    async def stop(self) -> None:
        """End what this event loop has under way, and its connections."""
        await self.upstream.aclose()

    def close(self) -> None:
        """End the worker thread of `forecast_all`."""
        if self._thread.running:
            self._thread.run(self.stop())
        self._thread.close()

    def health(self) -> dict[str, Any]:
        """Plain data, without a call to the daemon."""
        cache = {"entries": len(self._cache), "size": self._cache.size, "hits": self._cache.hits, "misses": self._cache.misses}
        return {**self.upstream.health(), "cache": cache, "calibrated": self.calibration is not None}

    # --- questions ---

    async def forecast(self, request: ForecastRequest) -> ForecastAnswer:
        """The answer, at the latest soon after `config.deadline` seconds. DataError for a question that has no answer, Refused
        (`license_not_allowed`) for a model that may not be used: nothing else is raised."""
        began = time.perf_counter()
        questions.check(request)
        if self.licences is not None:
            self.licences.check(request.model)
        model = self.client.resolve(request.model)
        calibration = self._calibration_of(model)
        state = calibration.key if calibration is not None else ""
        key = questions.key_of(request, model, self.config.lookback, state)
        hit = self._cache.get(key)
        if hit is not None:
            meters.CACHE.inc(state="fresh")
            return self._answer(request, model, began, hit.value, age=hit.age, cached=True)
        meters.CACHE.inc(state="miss")
        deadline = Deadline(self.config.deadline)
        past = questions.history(request, self.config.lookback)
        z, filled = questions.model_space(past, request)
        notes = [*past.warnings, *(["missing_filled"] * filled)]
        reason = questions.forced(past, request, self.config)
        if reason:
            return self._baseline(request, model, began, z, notes, reason)
        if self.upstream.state(model) == "open":
            return self._without(request, model, began, key, z, notes, failures.open_circuit())
        job = Job(questions.series(past, request, z), deadline, request.options)
        kind = Kind(model, request.horizon, request.quantiles, job.series.freq, questions.options_of(request))
        try:
            async with asyncio.timeout(deadline.remaining()):
                outcome, shared = await self._flights.arun(key, lambda: self._fly(request, kind, job, key, notes, calibration, state))
        except TimeoutError:
            outcome, shared = failures.timeout(), False
        if isinstance(outcome, Refused):
            raise outcome
        if isinstance(outcome, UpstreamError):
            return self._without(request, model, began, key, z, notes, outcome, shared=shared)
        return self._answer(request, model, began, outcome, shared=shared)

    async def forecast_many(self, requests: Sequence[ForecastRequest]) -> list[ForecastAnswer]:
        """Answers in the same order. What would raise for one is found before anything is asked, and raises for all.

        Two batches are under way at a time; the deadline of a request begins when its turn comes.
        """
        for request in requests:
            questions.check(request)
            if self.licences is not None:
                self.licences.check(request.model)
            questions.model_space(questions.history(request, self.config.lookback), request)
        gate = asyncio.Semaphore(2 * self.config.batch_series)

        async def one(request: ForecastRequest) -> ForecastAnswer:
            async with gate:
                return await self.forecast(request)

        return list(await asyncio.gather(*(one(request) for request in requests)))

    def forecast_all(self, requests: Sequence[ForecastRequest]) -> list[ForecastAnswer]:
        """`forecast_many` for callers without an event loop."""
        return self._thread.run(self.forecast_many(requests))

    # --- the way to the daemon and back ---

    async def _fly(
        self, request: ForecastRequest, kind: Kind, job: Job, key: bytes, notes: list[str], calibration: Calibration | None, state: str
    ) -> Entry | UpstreamError | Refused:
        """One question, once, however many ask it; errors are values here, as many may receive them."""
        licence = None
        if self.licences is not None and self._licensed.get(kind.model, -np.inf) < self._clock():
            licence = asyncio.ensure_future(self._hear_licence(kind.model))
        try:
            told = await self.upstream.ask(kind, job)
            if licence is not None and self.licences is not None:
                await licence
                self.licences.check(request.model)
            entry = self._entry(request, told, job.series.target, notes, calibration)
        except (UpstreamError, Refused) as error:
            return error
        finally:
            if licence is not None:
                licence.cancel()
        if calibration is None or calibration.key == state:  # else it has learnt something meanwhile, and `key` names the old state
            self._cache.put(key, entry, weight=entry.path.nbytes * (1 if entry.conformal is None else 2) + ENTRY_BYTES)
        return entry

    async def _hear_licence(self, model: str) -> None:
        """What the daemon says about the licence, told to `licences`; a daemon that does not say is asked again next time."""
        assert self.licences is not None
        try:
            said = await self.client.licence(model, deadline=self.config.attempt)
        except UpstreamError:
            return
        self.licences.reconcile(model, said)
        self._licensed[model] = self._clock() + LICENCE_TTL

    def _entry(self, request: ForecastRequest, told: Told, z: Floats, notes: list[str], calibration: Calibration | None) -> Entry:
        """From the daemon's numbers, in the model's space, to an answer."""
        notes = [*notes, *told.forecast.warnings]
        levels = request.quantiles
        if told.forecast.path is not None:
            path = guards.original(told.forecast.path, request.space)
        else:
            assert told.forecast.mean is not None
            path = self._around(request, told.forecast.mean, z, notes, calibration)
        path, conformal = self._guarded(request, path, notes), None
        if calibration is not None:
            conformal = self._calibrated_path(request, calibration, path, notes)
        if request.space == "logit" and len(levels) > 1:
            meters.WIDTH.observe(float((path[:, -1] - path[:, 0]).sum()) / len(path))
        return Entry(guards.sealed(path), conformal, questions.counted(notes), len(z), told.batch_size, told.attempts)

    def _around(self, request: ForecastRequest, mean: Floats, z: Floats, notes: list[str], calibration: Calibration | None) -> Floats:
        """Quantiles around a mean (H,) of the model's space that came alone: those of the residuals that calibration has learnt,
        else, flagged `point_only`, as far from it as the baseline's are from its own."""
        if calibration is not None:
            try:
                residuals = calibration.residuals(request.quantiles, request.horizon, request.segment)
            except DataError:  # learnt for other questions than this one
                residuals = None
            if residuals is not None and np.isfinite(residuals).all():
                notes.append("point_only_with_residual_quantiles")
                low, high = guards.BOUNDS[request.space]
                return np.clip(guards.original(mean, request.space)[:, None] + residuals, low, high)
        notes.append("point_only")
        _, spread = fallback.smooth(z, self.config.ewma_alpha)
        return guards.original(fallback.fan(mean, spread, request.quantiles), request.space)

    def _guarded(self, request: ForecastRequest, path: Floats, notes: list[str]) -> Floats:
        path, crossed = guards.ordered(path)
        if crossed:
            meters.CROSSINGS.inc(crossed)
            notes += ["quantile_crossing_fixed"] * crossed
        if request.space == "logit":
            path, narrow, wide = guards.widened(path, request.quantiles, self._widths)
            notes += ["interval_widened"] * narrow + ["interval_narrowed"] * wide
        return path

    def _calibration_of(self, model: str) -> Calibration | None:
        return self.calibration if self._calibrated in (None, model) else None

    def _calibrated_path(self, request: ForecastRequest, calibration: Calibration, path: Floats, notes: list[str]) -> Floats | None:
        """Calibrated, in bounds and in order; None, flagged, where the calibration does not fit the question."""
        try:
            calibrated = np.array(calibration.apply(request.quantiles, path, request.segment), dtype=np.float64)
        except DataError:
            notes.append("calibration_does_not_fit")
            return None
        if calibrated.shape != path.shape or not np.isfinite(calibrated).all():
            notes.append("calibration_failed")
            return None
        low, high = guards.BOUNDS[request.space]
        np.maximum(calibrated, low, out=calibrated)
        np.minimum(calibrated, high, out=calibrated)
        calibrated.sort(axis=1)
        return guards.sealed(calibrated)

    # --- answers ---

    def _without(
        self, request: ForecastRequest, model: str, began: float, key: bytes, z: Floats, notes: list[str], error: UpstreamError,
        *, shared: bool = False,
    ) -> ForecastAnswer:  # fmt: skip
        """No fresh answer: the last one where it is not too old, else the baseline."""
        hit = self._cache.get(key, stale_ok=True)
        if hit is None:
            return self._baseline(request, model, began, z, notes, error.reason, attempts=error.attempts, shared=shared)
        meters.CACHE.inc(state="stale")
        return self._answer(request, model, began, hit.value, age=hit.age, cached=True, reason=error.reason, shared=shared)

    def _baseline(
        self, request: ForecastRequest, model: str, began: float, z: Floats, notes: list[str], reason: str,
        *, attempts: int = 0, shared: bool = False,
    ) -> ForecastAnswer:  # fmt: skip
        """Exponential smoothing in the model's space; never cached, never calibrated."""
        notes = list(notes)
        path = fallback.ewma(z, request.horizon, request.quantiles, self.config.ewma_alpha)
        try:
            path = guards.original(path, request.space)
        except UpstreamError:  # exp or the square of a huge number overflowed: the last value is finite, whatever it is
            notes.append("baseline_without_spread")
            path = guards.original(np.full_like(path, z[-1]), request.space)
        path = guards.sealed(self._guarded(request, path, notes))
        entry = Entry(path, None, questions.counted(notes), len(z), 0, attempts)
        return self._answer(request, model, began, entry, reason=reason, baseline=True, shared=shared)

    def _answer(
        self, request: ForecastRequest, model: str, began: float, entry: Entry, *, age: float = 0.0, cached: bool = False,
        reason: str = "", baseline: bool = False, shared: bool = False,
    ) -> ForecastAnswer:  # fmt: skip
        warnings = entry.warnings if not request.warnings else questions.counted([*request.warnings, *entry.warnings])
        stale = cached and bool(reason)
        if stale:
            warnings = (*warnings, "stale_if_error")
        runtime: Runtime = "baseline" if baseline else "tollama"
        meters.REQUESTS.inc(runtime=runtime, reason=reason.partition(":")[0] or "none")
        meta = Meta(
            runtime=runtime, model_name=request.model, model_version=request.model_version,
            latency_ms=(time.perf_counter() - began) * 1000, input_len=entry.input_len, transform=request.space, warnings=warnings,
            fallback_used=baseline, fallback_reason=reason, cache_hit=cached, cache_stale=stale, age_s=age,
            circuit_breaker_state=self.upstream.state(model), request_id=request.request_id,
            batch_size=0 if cached else entry.batch_size, deduplicated=shared, upstream_calls=0 if cached else entry.attempts,
        )  # fmt: skip
        return ForecastAnswer(quantiles=request.quantiles, path=entry.path, conformal=entry.conformal, meta=meta)
