"""What the parts of this family promise each other: the question, the answer, and who may stand behind the service.

H steps of the horizon, Q quantile levels, n past points. A path is (H, Q): step by step, the levels in ascending order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]

Space: TypeAlias = Literal["logit", "identity", "log1p"]
Runtime: TypeAlias = Literal["tollama", "baseline"]
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def _nothing() -> Mapping[str, Any]:
    return _NOTHING


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class ForecastRequest:
    """One series to forecast; the HTTP schema and the recipe model have validated and translated it already.

    as_of      datetime64, UTC; the last point of `target` where `timestamps` is None, and the moment before the first step
    freq       canonical (`frequencies.canonical`): "5min", never "5m"
    quantiles  ascending, unique, in (0, 1)
    target     (n,) float64 in original units, NaN where unknown
    timestamps (n,) datetime64 ascending, not after `as_of`; None: `target` is a regular grid that ends at `as_of`
    past_covariates    name -> (n,)      future_covariates  name -> (horizon,)
    model      alias or name, as the user gave it; `options` go to the model as they are
    segment    liquidity_bucket, category, tte_bucket … ; what calibration and the forced baseline look at
    warnings   what the caller wants to see in `Meta.warnings` (ignored keys); they are no part of the question
    """

    series_id: str
    as_of: np.datetime64
    freq: str
    horizon: int
    quantiles: tuple[float, ...]
    target: Floats
    model: str
    timestamps: NDArray[np.datetime64] | None = None
    past_covariates: Mapping[str, Floats] = field(default_factory=_nothing)
    future_covariates: Mapping[str, Floats] = field(default_factory=_nothing)
    model_version: str | None = None
    options: Mapping[str, Any] = field(default_factory=_nothing)
    provider: str = "tollama"
    space: Space = "logit"
    eps: float = 1e-6
    segment: Mapping[str, str] = field(default_factory=_nothing)
    max_gap_minutes: float | None = None
    request_id: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class Meta:
    """How an answer came about.

    runtime          "tollama", or "baseline" where the fallback answered
    latency_ms       of this request, waiting included
    input_len        points that the forecast was made from
    warnings         each once, with " x3" behind it where it happened three times
    fallback_reason  "" unless `fallback_used`; `cache_stale` answers name here why a fresh one could not be had
    age_s            seconds since the answer was made, 0 unless `cache_hit`
    batch_size       series in the upstream call; `upstream_calls` attempts made for it; both 0 where none was needed
    deduplicated     an identical request was under way and its answer is shared
    """

    runtime: Runtime
    model_name: str
    model_version: str | None
    latency_ms: float
    input_len: int
    transform: str
    warnings: tuple[str, ...] = ()
    fallback_used: bool = False
    fallback_reason: str = ""
    cache_hit: bool = False
    cache_stale: bool = False
    age_s: float = 0.0
    circuit_breaker_state: str = "closed"
    request_id: str = ""
    batch_size: int = 0
    deduplicated: bool = False
    upstream_calls: int = 0


@dataclass(frozen=True, eq=False, kw_only=True, slots=True)
class ForecastAnswer:
    """Finite, ordered, within the transform's bounds, and of the right length, whatever the daemon did.

    quantiles  levels (Q,), ascending
    path       (H, Q) in original units, read-only
    conformal  (H, Q) after calibration, read-only; None without a calibration, and for answers of the fallback
    """

    quantiles: tuple[float, ...]
    path: Floats
    conformal: Floats | None
    meta: Meta


@runtime_checkable
class Calibration(Protocol):
    """What `fit` has learnt about the model's intervals."""

    @property
    def key(self) -> str:
        """Names the state: another state has another key, so that no cached answer outlives it."""
        ...

    def apply(self, levels: Sequence[float], path: Floats, segment: Mapping[str, str]) -> Floats:
        """The calibrated path (H, Q) in original units; DataError where it was not calibrated for such a question."""
        ...

    def residuals(self, levels: Sequence[float], horizon: int, segment: Mapping[str, str]) -> Floats | None:
        """Quantiles (H, Q) of actual minus point forecast, original units; None where they were not learnt."""
        ...


@runtime_checkable
class Licences(Protocol):
    """Which models may be used here; aliases and the server's names are both understood."""

    def check(self, model: str) -> None:
        """Refused with the slug `license_not_allowed` where it may not."""
        ...

    def reconcile(self, model: str, licence: str | None) -> None:
        """Hear what the server says about its licence (an SPDX name or None); the stricter of both holds from then on."""
        ...


@runtime_checkable
class Forecaster(Protocol):
    """What `service.ForecastService` offers to the routes and to the recipe model."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...

    async def forecast(self, request: ForecastRequest) -> ForecastAnswer:
        """Refused (licence) and DataError (the question itself) are the only errors."""
        ...

    async def forecast_many(self, requests: Sequence[ForecastRequest]) -> list[ForecastAnswer]:
        """Answers in the same order; a request that cannot be answered raises for all, before anything is asked."""
        ...

    def forecast_all(self, requests: Sequence[ForecastRequest]) -> list[ForecastAnswer]:
        """The same for callers without an event loop: one loop in a worker thread, reused until `close`."""
        ...

    def close(self) -> None:
        """End the worker thread of `forecast_all`; harmless where there is none."""
        ...

    def health(self) -> dict[str, Any]:
        """Plain data: breakers, cache, models that are warm or not installed."""
        ...


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """The numbers of the service; seconds unless the name says otherwise.

    environment        APP_ENV; anything but local, dev and test counts as prod
    lookback           latest points that are sent upstream
    min_points         fewer known points than that are answered by the baseline
    min_width, max_width   of the outermost interval, for bounded targets (logit) only
    cache_size, cache_bytes   answers that are kept, and about how much memory they may take
    cache_ttl          for so long an answer is fresh; `stale_if_error`: up to that age it stands in when a fresh one cannot be had
    batch_series, batch_wait, batch_calls   series of one upstream call, how long one waits for company while others are under
                       way, and how many calls of one kind are under way at most
    calibrated_model   the model that the calibration was learnt for; None: all
    warm_up            models to warm up at the start; `warm_up_deadline` is what a cold model may take
    """

    environment: str = "prod"
    lookback: int = 288
    min_points: int = 32
    baseline_only_liquidity: tuple[str, ...] = ("low",)
    ewma_alpha: float = 0.2
    min_width: float = 0.02
    max_width: float = 0.6
    deadline: float = 1.6
    attempt: float = 1.2
    attempts: int = 2
    backoff: float = 0.05
    cache_size: int = 50_000
    cache_bytes: int = 250_000_000
    cache_ttl: float = 60.0
    stale_if_error: float = 120.0
    not_installed_ttl: float = 30.0
    breaker_failures: int | None = 5
    breaker_rate: float | None = 1.0
    breaker_requests: int = 5
    breaker_window: float = 300.0
    breaker_cooldown: float = 120.0
    breaker_jitter: float = 0.1
    breaker_probes: int = 2
    breaker_successes: int = 2
    batch_series: int = 64
    batch_wait: float = 0.008
    batch_calls: int = 2
    calibrated_model: str | None = None
    warm_up: tuple[str, ...] = ()
    warm_up_deadline: float = 60.0
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def production(self) -> bool:
        return self.environment not in ("local", "dev", "test")
