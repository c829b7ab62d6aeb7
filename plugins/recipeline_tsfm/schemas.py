"""The bodies of POST /tsfm/forecast and POST /tsfm/forecast/batch, and what becomes of them.

A body of the wrong shape is 422, one whose parts do not fit together 400. Keys that nobody knows are ignored, and named in
`meta.warnings`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from recipeline.errors import DataError, UsageError
from recipeline.timeseries.frames import quantile_column
from recipeline_tsfm.frequencies import PATTERN, canonical, seconds
from recipeline_tsfm.licences import forbidden_options
from recipeline_tsfm.seams import ForecastAnswer, ForecastRequest, Space

HORIZON_MOST, QUANTILES_MOST, POINTS_MOST, COVARIATES_MOST, MARKETS_MOST = 4096, 99, 20_000, 64, 256
NAMED_MOST = 20
"""Ignored keys that one answer names."""
YEARS = (1900, 2200)

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Bucket = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Past = Annotated[list[Number | None], Field(max_length=POINTS_MOST)]
Future = Annotated[list[Number | None], Field(max_length=HORIZON_MOST)]
Level = Annotated[float, Field(strict=True, gt=0, lt=1)]


def _timestamp(value: Any) -> Any:
    """ISO 8601 text only: a bare number could be seconds, milliseconds or a year, also as text."""
    if not isinstance(value, datetime) and not (isinstance(value, str) and re.match(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]", value)):
        raise ValueError("a time as ISO 8601 expected, such as 2026-02-20T12:00:00Z")
    return value


Timestamp = Annotated[datetime, BeforeValidator(_timestamp)]


class _Lenient(BaseModel):
    """Takes keys that it does not know, so that they can be named."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())


class Transform(_Lenient):
    """space: where the model forecasts; eps keeps 0 and 1 finite in logit."""

    space: Space | None = None
    eps: Annotated[float, Field(strict=True, gt=0, lt=0.5)] | None = None


class Model(_Lenient):
    """Which model is asked, and what it is given beside the series."""

    provider: Literal["tollama"] = "tollama"
    model_name: Name | None = None
    model_version: Name | None = None
    params: Mapping[str, Any] = Field(default_factory=dict)


class TSFMForecastRequest(_Lenient):
    """One market to forecast; what is left out is as the served recipe says.

    y  oldest first, null where nothing was observed: the regular grid of `freq` that ends at as_of_ts, or at the times y_ts
    """

    market_id: Name
    as_of_ts: Timestamp
    freq: Annotated[str, Field(max_length=16, pattern=PATTERN)] | None = None
    horizon_steps: Annotated[int, Field(strict=True, ge=1, le=HORIZON_MOST)] | None = None
    quantiles: Annotated[list[Level], Field(min_length=1, max_length=QUANTILES_MOST)] | None = None
    y: Annotated[list[Number | None], Field(min_length=2, max_length=POINTS_MOST)]
    y_ts: Annotated[list[Timestamp], Field(min_length=2, max_length=POINTS_MOST)] | None = None
    x_past: Annotated[dict[Name, Past], Field(max_length=COVARIATES_MOST)] = Field(default_factory=dict)
    x_future: Annotated[dict[Name, Future], Field(max_length=COVARIATES_MOST)] = Field(default_factory=dict)
    transform: Transform = Field(default_factory=Transform)
    model: Model = Field(default_factory=Model)
    liquidity_bucket: Bucket | None = None
    category: Bucket | None = None
    tte_bucket: Bucket | None = None
    max_gap_minutes: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] | None = None

    @field_validator("x_past", "x_future", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("transform", "model", mode="before")
    @classmethod
    def _left_out(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("quantiles")
    @classmethod
    def _each_once(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and len({f"{level:g}" for level in value}) != len(value):
            raise ValueError("each quantile once")
        return value

    def ignored(self) -> list[str]:
        """The keys that nobody knows, as `model.temperature`."""
        places: list[tuple[str, BaseModel]] = [("", self), ("transform.", self.transform), ("model.", self.model)]
        return sorted(f"{where}{name}" for where, part in places for name in part.model_extra or ())


class TSFMForecastBatch(_Lenient):
    """Many markets in one body."""

    requests: Annotated[list[TSFMForecastRequest], Field(min_length=1, max_length=MARKETS_MOST)]


class TSFMMeta(BaseModel):
    """How an answer came about."""

    model_config = ConfigDict(protected_namespaces=())

    runtime: Literal["tollama", "baseline"]
    model_name: str
    model_version: str | None
    latency_ms: float
    input_len: int
    transform: str
    warnings: list[str]
    fallback_used: bool
    fallback_reason: str | None
    cache_hit: bool
    cache_stale: bool
    age_s: float
    circuit_breaker_state: str
    request_id: str
    batch_size: int
    deduplicated: bool
    upstream_calls: int


class TSFMForecastResponse(BaseModel):
    """Quantile paths: `yhat_q["0.1"][0]` is the 10 % quantile of the first step after as_of_ts.

    conformal_yhat_q, conformal_last_step   the same after calibration, all steps and the last one; null where there is none
    """

    market_id: str
    as_of_ts: datetime
    freq: str
    horizon_steps: int
    quantiles: list[float]
    yhat_q: dict[str, list[float]]
    conformal_yhat_q: dict[str, list[float]] | None
    conformal_last_step: dict[str, float] | None
    meta: TSFMMeta


class TSFMForecastBatchResponse(BaseModel):
    """Answers in the order of the requests."""

    responses: list[TSFMForecastResponse]


class TSFMHealth(BaseModel):
    """status: `ok`, or `degraded` while the breaker of a model is not closed."""

    model_config = ConfigDict(extra="allow")

    status: Literal["ok", "degraded"]
    calibration: str | None
    environment: str
    allowed_models: list[str]


# --- from the body to the question, and from the answer to the body ------------------------------------------------------


@dataclass(frozen=True)
class Defaults:
    """What holds where a request leaves something out: the hyperparameters of the recipe or run that is served."""

    model: str = "chronos"
    horizon: int = 12
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)
    freq: str | None = None
    space: Space = "logit"
    eps: float = 1e-6
    options: tuple[tuple[str, Any], ...] = ()
    max_gap_minutes: float | None = None


def question(body: TSFMForecastRequest, defaults: Defaults, *, where: str = "") -> ForecastRequest:
    """The question that a body asks.

    where  what stands before the names of fields in messages

    Raises UsageError (HTTP 400) for parts that do not fit together: lengths, times, values outside of the transform's space.
    """
    freq = body.freq or defaults.freq
    if freq is None:
        raise _misfit(f"{where}freq: is missing, and the recipe names no step", "as 5min, 1h, 1D")
    try:
        freq = canonical(freq)
    except DataError as error:
        raise _misfit(f"{where}freq: {error.message}", error.hint) from None
    horizon = body.horizon_steps or defaults.horizon
    if horizon * seconds(freq) > 100 * 366 * 86_400:
        raise _misfit(f"{where}horizon_steps: {horizon} steps of {freq} are more than a hundred years", "forecast fewer steps")
    warnings = [f"ignored key {name[:60]}" for name in body.ignored()[:NAMED_MOST]]
    if len(body.ignored()) > NAMED_MOST:
        warnings.append(f"ignored {len(body.ignored()) - NAMED_MOST} more keys")
    as_of = _moment(body.as_of_ts, f"{where}as_of_ts")
    if body.as_of_ts.tzinfo is None:
        warnings.append("as_of_ts has no zone, taken for UTC")
    target = _numbers(body.y)
    space: Space = body.transform.space or defaults.space
    _check_target(target, space, where)
    timestamps = None if body.y_ts is None else _times(body.y_ts, len(target), as_of, where)
    past = {name: _numbers(values) for name, values in body.x_past.items()}
    future = {name: _numbers(values) for name, values in body.x_future.items()}
    _check_covariates(past, future, len(target), horizon, where)
    same_model = body.model.model_name in (None, defaults.model)
    options = (dict(defaults.options) if same_model else {}) | dict(body.model.params)
    refused = forbidden_options(options)
    if refused:
        what = f"{where}model.params: {', '.join(refused)} cannot be chosen by a request"
        raise _misfit(what, "remove it; model.model_name chooses the model")
    segment = {name: value for name in ("liquidity_bucket", "category", "tte_bucket") if (value := getattr(body, name)) is not None}
    return ForecastRequest(
        series_id=body.market_id, as_of=as_of, freq=freq, horizon=horizon,
        quantiles=tuple(sorted(body.quantiles or defaults.quantiles)), target=target, timestamps=timestamps, past_covariates=past,
        future_covariates=future, model=body.model.model_name or defaults.model, model_version=body.model.model_version, options=options,
        provider=body.model.provider, space=space, eps=defaults.eps if body.transform.eps is None else body.transform.eps,
        segment=segment, max_gap_minutes=body.max_gap_minutes or defaults.max_gap_minutes, warnings=tuple(warnings),
    )  # fmt: skip


def response(asked: ForecastRequest, answer: ForecastAnswer) -> TSFMForecastResponse:
    """The body of an answer."""
    meta, names = answer.meta, [quantile_column(level)[1:] for level in answer.quantiles]
    conformal = None if answer.conformal is None else _by_level(names, answer.conformal)
    told = {name: getattr(meta, name) for name in TSFMMeta.model_fields}
    told |= {"warnings": list(meta.warnings), "fallback_reason": meta.fallback_reason or None}
    return TSFMForecastResponse(
        market_id=asked.series_id,
        as_of_ts=datetime.fromtimestamp(int(asked.as_of.astype("datetime64[us]").astype(np.int64)) / 1e6, UTC),
        freq=asked.freq,
        horizon_steps=asked.horizon,
        quantiles=list(answer.quantiles),
        yhat_q=_by_level(names, answer.path),
        conformal_yhat_q=conformal,
        conformal_last_step=None if conformal is None else {name: values[-1] for name, values in conformal.items()},
        meta=TSFMMeta(**told),
    )


def _by_level(names: Sequence[str], path: Any) -> dict[str, list[float]]:
    return {name: path[:, place].tolist() for place, name in enumerate(names)}


def _misfit(what: str, hint: str) -> UsageError:
    return UsageError(re.sub(r"[\x00-\x1f\x7f]", " ", what), hint=hint, slug="bad-request")


def _numbers(values: Sequence[float | None]) -> Any:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _moment(value: datetime, where: str) -> np.datetime64:
    if not YEARS[0] <= value.year <= YEARS[1]:
        raise _misfit(f"{where}: the year {value.year} is out of {YEARS[0]} to {YEARS[1]}", "look at the time")
    plain = value if value.tzinfo is None else value.astimezone(UTC).replace(tzinfo=None)
    return np.datetime64(plain, "ns")


def _times(values: Sequence[datetime], count: int, as_of: np.datetime64, where: str) -> Any:
    if len(values) != count:
        raise _misfit(f"{where}y_ts: {len(values)} times for {count} values of y", "one time for each value")
    times = np.array([_moment(value, f"{where}y_ts[{number}]") for number, value in enumerate(values)])
    late = np.flatnonzero(times[1:] <= times[:-1])
    if len(late):
        raise _misfit(f"{where}y_ts[{int(late[0]) + 1}]: is not after the time before it", "oldest first, each time once")
    if times[-1] > as_of:
        raise _misfit(f"{where}y_ts: the last time is after as_of_ts", "leave out what was not known then")
    return times


def _check_target(target: Any, space: Space, where: str) -> None:
    if np.isnan(target).all():
        raise _misfit(f"{where}y: holds no number, only nulls", "give its history")
    outside = {
        "logit": ((target < 0) | (target > 1), "lies outside of 0 to 1, which logit needs"),
        "log1p": (target <= -1, "is not above -1, which log1p needs"),
        "identity": (np.abs(target) > 1e100, "is larger than any measurement"),
    }
    bad, why = outside[space]
    if bad.any():
        place = int(np.argmax(bad))
        raise _misfit(f"{where}y[{place}]: {target[place]:g} {why}", "choose another transform.space: identity takes any number")


def _check_covariates(past: Mapping[str, Any], future: Mapping[str, Any], count: int, horizon: int, where: str) -> None:
    for name, values in past.items():
        if len(values) != count:
            raise _misfit(f"{where}x_past.{name}: {len(values)} values, and y has {count}", "one value for each of y")
    for name, values in future.items():
        if name not in past:
            raise _misfit(f"{where}x_future.{name}: its past is not in x_past", "what is known ahead is known of the past too")
        if len(values) != horizon:
            raise _misfit(f"{where}x_future.{name}: {len(values)} values for {horizon} steps", "one value for each step")
        if np.isnan(values).any():
            raise _misfit(f"{where}x_future.{name}: is null at step {int(np.argmax(np.isnan(values))) + 1}", "it must be known there")
