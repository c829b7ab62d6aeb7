"""What a recipe says of the science and the configuration of the place, as strict models with their defaults.

`problems` compares the arguments of a part with them; keys of mistakes are relative to those arguments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from recipeline.document import validation_problems
from recipeline.errors import Problem
from recipeline.stores.places import Places
from recipeline.timeseries.intervals import symmetric_pairs
from recipeline_tsfm.calibration import RATE, SEGMENTS, Method
from recipeline_tsfm.licences import FILE, ModelLicences, forbidden_options
from recipeline_tsfm.schemas import HORIZON_MOST, QUANTILES_MOST
from recipeline_tsfm.seams import ServiceConfig, Space

M = TypeVar("M", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_unset(cls, value: Any) -> Any:
        """A `${NAME:}` that is not set leaves the default."""
        return (
            {name: inner for name, inner in value.items() if inner is not None or name in NULLABLE} if isinstance(value, Mapping) else value
        )


NULLABLE = ("window", "max_gap_minutes", "failures", "rate")


# --- the science -----------------------------------------------------------------------------------------------------------


class Transform(_Strict):
    """space where the model forecasts: logit for values in [0, 1], log1p for those above -1, identity; eps keeps 0 and 1 finite."""

    space: Space = "logit"
    eps: float = Field(default=1e-6, gt=0, lt=0.5)


class Width(_Strict):
    """Least and largest width of the outermost interval, for values in [0, 1] only."""

    least: float = Field(default=0.02, ge=0, le=1)
    most: float = Field(default=0.6, ge=0, le=1)

    @model_validator(mode="after")
    def _in_order(self) -> Width:
        if self.least > self.most:
            raise ValueError(f"least {self.least:g} is more than most {self.most:g}")
        return self


class Conformal(_Strict):
    """How intervals are calibrated.

    coverage  of the pair of quantiles that must be right        window  latest origins that calibrate, of each group
    step      grid steps between origins; None: the horizon, fewer where the data are short
    group_by  category, liquidity_bucket, tte_bucket: columns of the data   rate  of tracking
    """

    method: Method = "cqr"
    coverage: float = Field(default=0.8, gt=0, lt=1)
    window: int = Field(default=300, ge=2, le=100_000)
    step: int | None = Field(default=None, ge=1)
    group_by: tuple[str, ...] = ()
    rate: float = Field(default=RATE, gt=0, le=1)

    @field_validator("group_by")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in SEGMENTS]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: markets are grouped by {', '.join(SEGMENTS)}")
        return names


class Fallback(_Strict):
    """What answers where the model must not or cannot: exponential smoothing, and when it is not even asked."""

    method: Literal["ewma"] = "ewma"
    alpha: float = Field(default=0.2, gt=0, le=1)
    min_points: int = Field(default=32, ge=2, le=20_000)
    baseline_only_liquidity: tuple[str, ...] = ("low",)
    max_gap_minutes: float | None = Field(default=None, gt=0)


# --- the place -------------------------------------------------------------------------------------------------------------


class Timeouts(_Strict):
    """Seconds: one attempt and all of them for a request; the same for training and batches, where a model may be cold."""

    attempt: float = Field(default=1.2, gt=0, le=600)
    deadline: float = Field(default=1.6, gt=0, le=600)
    batch_attempt: float = Field(default=30.0, gt=0, le=3600)
    batch_deadline: float = Field(default=60.0, gt=0, le=3600)
    warm_up: float = Field(default=60.0, gt=0, le=3600)


class Pool(_Strict):
    """Connections to the server, in all and kept open."""

    connections: int = Field(default=200, ge=1, le=10_000)
    keepalive: int = Field(default=50, ge=0, le=10_000)


class BreakerArguments(_Strict):
    """When a server that fails is left alone, and for how long (seconds); `recipeline.resilience.Breaker`."""

    failures: int | None = Field(default=5, ge=1)
    rate: float | None = Field(default=1.0, gt=0, le=1)
    requests: int = Field(default=5, ge=1)
    window: float = Field(default=300.0, gt=0)
    cooldown: float = Field(default=120.0, gt=0)
    probes: int = Field(default=2, ge=1)
    successes: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _opens(self) -> BreakerArguments:
        if self.failures is None and self.rate is None:
            raise ValueError("a breaker needs failures or rate, else it never opens")
        return self


class CacheArguments(_Strict):
    """Answers kept, how long they are fresh, and how old one may be when there is no other (seconds)."""

    size: int = Field(default=50_000, ge=1, le=1_000_000)
    ttl: float = Field(default=60.0, ge=0)
    stale_if_error: float = Field(default=120.0, ge=0)


class BatchArguments(_Strict):
    """Series of one call, how long one waits for others (seconds), and calls under way at once."""

    series: int = Field(default=64, ge=1, le=1024)
    wait: float = Field(default=0.008, ge=0, le=1)
    calls: int = Field(default=2, ge=1, le=64)


GROUPS: Mapping[str, type[BaseModel]] = {
    "transform": Transform, "width": Width, "conformal": Conformal, "fallback": Fallback,
    "timeouts": Timeouts, "pool": Pool, "breaker": BreakerArguments, "cache": CacheArguments, "batch": BatchArguments,
}  # fmt: skip


def read(kind: type[M], value: Any) -> M:
    """The group of arguments; ValidationError where `problems` would have said so before."""
    return kind.model_validate({} if value is None else value)


def licences(path: str | None, places: Places | None) -> ModelLicences:
    """The list that holds in a place: the one that is named, else the project's own, else the one that is shipped."""
    environment = places.environment if places is not None else ""
    if places is None:
        return ModelLicences.read(None if path is None else Path(path), environment)
    if path is not None:
        return ModelLicences.read(places.project / path, environment)
    own = places.project / "config" / FILE
    return ModelLicences.read(own if own.is_file() else None, environment)


def problems(params: Mapping[str, Any]) -> list[Problem]:
    """Every mistake in the arguments but that of the licence."""
    found: list[Problem] = []
    groups: dict[str, Any] = {}
    for name, kind in GROUPS.items():
        value = params.get(name)
        if value is not None and not isinstance(value, Mapping):
            found.append(Problem("bad-value", (name,), f"{value!r} is no mapping", f"write {name}: {{…}}", "value"))
            continue
        try:
            groups[name] = read(kind, value)
        except ValidationError as error:
            found += validation_problems(error, value or {}, (name,), kind)
    found += [*_numbers(params), *_quantiles(params, groups.get("conformal"))]
    options = params.get("options") or {}
    if not isinstance(options, Mapping):
        found.append(Problem("bad-value", ("options",), f"{options!r} is no mapping", "write options: {temperature: 0.0}", "value"))
    elif refused := forbidden_options(options):
        what = f"options cannot carry {', '.join(refused)}"
        found.append(Problem("refused", ("options",), what, "model names the model, the configuration its server", exit_code=4))
    return found


def _numbers(params: Mapping[str, Any]) -> list[Problem]:
    found = []
    for name, most in (("horizon", HORIZON_MOST), ("lookback", 20_000)):
        value = params.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most):
            found.append(Problem("bad-value", (name,), f"{value!r} is no number of steps from 1 to {most}", at="value"))
    return found


def _quantiles(params: Mapping[str, Any], conformal: Conformal | None) -> list[Problem]:
    levels = params.get("quantiles")
    if levels is None:
        levels = (0.1, 0.5, 0.9)
    number = (int, float)
    if not isinstance(levels, list | tuple) or not levels or not all(isinstance(level, number) and 0 < level < 1 for level in levels):
        hint = "write quantiles: [0.1, 0.5, 0.9]"
        return [Problem("bad-value", ("quantiles",), "levels between 0 and 1 expected", hint, "value")]
    if list(levels) != sorted(set(levels)) or len(levels) > QUANTILES_MOST:
        what = f"{list(levels)[:8]} is not in ascending order, each level once, at most {QUANTILES_MOST} of them"
        return [Problem("bad-value", ("quantiles",), what, "sort them", "value")]
    if conformal is None or conformal.method == "none":
        return []
    if not any(math.isclose(nominal, conformal.coverage, abs_tol=1e-9) for _, _, nominal in symmetric_pairs(levels)):
        low = (1 - conformal.coverage) / 2
        what = f"no pair of the quantiles {', '.join(f'{level:g}' for level in levels)} has coverage {conformal.coverage:g}"
        key = ("conformal", "coverage") if (params.get("conformal") or {}).get("coverage") is not None else ("quantiles",)
        return [Problem("bad-value", key, what, f"add the quantiles {low:.6g} and {1 - low:.6g}, or method: none", "value")]
    return []


def config(arguments: Mapping[str, Any], environment: str, names: Mapping[str, str], *, batch: bool) -> ServiceConfig:
    """The numbers of the service.

    names  alias -> name at the server, of the licence list     batch  with the deadlines of training and batches
    """
    width, fallback = read(Width, arguments["width"]), read(Fallback, arguments["fallback"])
    timeouts, breaker = read(Timeouts, arguments["timeouts"]), read(BreakerArguments, arguments["breaker"])
    cache, together = read(CacheArguments, arguments["cache"]), read(BatchArguments, arguments["batch"])
    return ServiceConfig(
        environment=environment,
        lookback=arguments["lookback"],
        min_points=fallback.min_points,
        baseline_only_liquidity=fallback.baseline_only_liquidity,
        ewma_alpha=fallback.alpha,
        min_width=width.least,
        max_width=width.most,
        deadline=timeouts.batch_deadline if batch else timeouts.deadline,
        attempt=timeouts.batch_attempt if batch else timeouts.attempt,
        cache_size=cache.size,
        cache_ttl=cache.ttl,
        stale_if_error=cache.stale_if_error,
        breaker_failures=breaker.failures,
        breaker_rate=breaker.rate,
        breaker_requests=breaker.requests,
        breaker_window=breaker.window,
        breaker_cooldown=breaker.cooldown,
        breaker_probes=breaker.probes,
        breaker_successes=breaker.successes,
        batch_series=together.series,
        batch_wait=together.wait,
        batch_calls=together.calls,
        calibrated_model=arguments["model"],
        warm_up=tuple(arguments["warm_up"] or ()),
        warm_up_deadline=timeouts.warm_up,
        aliases=dict(names),
    )
