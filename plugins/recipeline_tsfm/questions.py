"""From a request to what the model gets: the checks, the key in the cache, the regular grid, the last points, the model space."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recipeline.errors import DataError
from recipeline.timeseries.fills import fill
from recipeline.timeseries.transforms import into
from recipeline_tsfm import frequencies
from recipeline_tsfm.payloads import Series, printable
from recipeline_tsfm.seams import ForecastRequest, ServiceConfig

if TYPE_CHECKING:
    Floats = NDArray[np.float64]

FORBIDDEN_OPTIONS = frozenset({"model", "modelfile", "data_url", "base_url", "url", "token"})
MOST_POINTS, MOST_HORIZON, MOST_LEVELS, MOST_COVARIATES = 20_000, 4096, 99, 64


_NO_COVARIATES: Mapping[str, Floats] = MappingProxyType({})


@dataclass(frozen=True, eq=False, slots=True)
class History:
    """The last points of a request on a regular grid that ends at `as_of`.

    target (n,) original units, from the first known value on, NaN where unknown; known counts the others
    gap    the longest time without a known value in minutes, the one up to `as_of` included; NaN where nobody asked
    past, future   covariates, cut alike and filled
    """

    target: Floats
    known: int
    gap: float
    past: Mapping[str, Floats]
    future: Mapping[str, Floats]
    warnings: tuple[str, ...]


@functools.lru_cache(maxsize=256)
def _ascending(levels: tuple[float, ...]) -> bool:
    return 1 <= len(levels) <= MOST_LEVELS and levels[0] > 0 and levels[-1] < 1 and all(a < b for a, b in pairwise(levels))


def check(request: ForecastRequest) -> None:
    """DataError that names all mistakes which would make a question nobody can answer."""
    n = len(request.target)
    wrong = []
    if request.provider != "tollama":
        wrong.append(f"model.provider {request.provider[:40]!r} is unknown; the provider is tollama")
    if not 1 <= request.horizon <= MOST_HORIZON:
        wrong.append(f"horizon lies between 1 and {MOST_HORIZON}; got {request.horizon}")
    if not _ascending(request.quantiles):
        wrong.append(f"quantiles are 1 to {MOST_LEVELS} ascending numbers in (0, 1)")
    if not 2 <= n <= MOST_POINTS or request.target.ndim != 1:
        wrong.append(f"y holds 2 to {MOST_POINTS:,} values; got {n}")
    if not 0 < request.eps < 0.5:
        wrong.append(f"transform.eps lies in (0, 0.5); got {request.eps:g}")
    if np.isnat(request.as_of):
        wrong.append("as_of is no moment")
    frequencies.canonical(request.freq)
    if request.timestamps is not None:
        wrong += _stamps(request, n)
    if request.options:
        wrong += _no_json(request)
    if request.options and not FORBIDDEN_OPTIONS.isdisjoint(request.options):
        wrong.append(f"model.params must not hold {', '.join(sorted(FORBIDDEN_OPTIONS & set(request.options)))}")
    if len(request.past_covariates) > MOST_COVARIATES or len(request.future_covariates) > MOST_COVARIATES:
        wrong.append(f"at most {MOST_COVARIATES} covariates")
    wrong += [f"covariate {name[:40]!r} has {len(v)} past values, y has {n}" for name, v in request.past_covariates.items() if len(v) != n]
    wrong += [
        f"covariate {name[:40]!r} has {len(v)} future values, the horizon is {request.horizon}"
        for name, v in request.future_covariates.items() if len(v) != request.horizon
    ]  # fmt: skip
    if wrong:
        raise DataError("; ".join(wrong), slug="bad-request")


def _no_json(request: ForecastRequest) -> list[str]:
    try:
        json.dumps(dict(request.options), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return ["model.params holds what JSON has no place for"]
    return []


def _stamps(request: ForecastRequest, n: int) -> list[str]:
    stamps = request.timestamps
    assert stamps is not None
    if len(stamps) != n:
        return [f"y_ts has {len(stamps)} moments, y has {n} values"]
    if np.isnat(stamps).any() or (np.diff(stamps) < np.timedelta64(0)).any():
        return ["y_ts ascends"]
    return ["y_ts goes beyond as_of"] if stamps[-1] > request.as_of else []


def key_of(request: ForecastRequest, model: str, lookback: int, calibration: str) -> bytes:
    """Names everything that the answer depends on. The id of the series is not among it: equal questions have equal answers."""
    # only the last points are looked at; where they bear timestamps, any may lie on the grid that is cut later
    target = request.target if request.timestamps is not None else request.target[-lookback:]
    head = (
        model, request.model_version, request.freq, request.horizon, request.quantiles, request.space, request.eps, request.max_gap_minutes,
        options_of(request), sorted(request.segment.items()), calibration, str(request.as_of), len(target), lookback,
    )  # fmt: skip
    digest = blake2b(ascii(head).encode(), digest_size=16)
    digest.update(target.tobytes())
    if request.timestamps is not None:
        digest.update(request.timestamps.astype("datetime64[us]").tobytes())
    for covariates in (request.past_covariates, request.future_covariates):
        for name in sorted(covariates):
            values = np.asarray(covariates[name], dtype=np.float64)
            digest.update(f"|{name!a}:{len(values)}|".encode())
            digest.update(values.tobytes())
        digest.update(b"/")
    return digest.digest()


def history(request: ForecastRequest, lookback: int) -> History:
    """The last `lookback` places of the grid. DataError where no value is known, or one has no place in the model space."""
    warnings: list[str] = []
    target, rows = request.target, None
    if request.timestamps is not None:
        rows, size = _places(request, lookback, warnings)
        target = _laid_out(request.target, rows, size)
    else:
        target = target[-lookback:]
    if request.max_gap_minutes is None and not request.past_covariates and not request.future_covariates and np.isfinite(target).all():
        return History(target, len(target), np.nan, _NO_COVARIATES, _NO_COVARIATES, tuple(warnings))  # as most of them are
    unknown = np.isnan(target)
    known = len(target) - int(unknown.sum())
    if known == 0:
        raise DataError(f"no value is known among the last {lookback} places", hint="y needs one number at least", slug="bad-request")
    if not np.isfinite(target[~unknown] if known < len(target) else target).all():
        raise DataError("y holds an infinite value", slug="bad-request")
    gap = np.nan if request.max_gap_minutes is None else _gap(request, unknown, lookback)
    first = int(np.argmin(unknown))
    past = {}
    for name, values in request.past_covariates.items():
        whole = np.asarray(values, dtype=np.float64)
        cut = _laid_out(whole, rows, len(target)) if rows is not None else whole[-lookback:]
        cut_from = cut[first:]
        filled = _filled(cut_from)
        if filled is None:
            warnings.append(f"covariate_dropped:{printable(name)}")
        else:
            past[name] = filled
            warnings += [f"covariate_filled:{printable(name)}"] if filled is not cut_from else []
    future = {}
    for name, values in request.future_covariates.items():
        whole = np.asarray(values, dtype=np.float64)
        filled = _filled(whole)
        if name not in past or filled is None:
            warnings.append(f"covariate_dropped:{printable(name)}")
        else:
            future[name] = filled
            warnings += [f"covariate_filled:{printable(name)}"] if filled is not whole else []
    return History(target[first:], known, gap, past, future, tuple(warnings))


def _places(request: ForecastRequest, lookback: int, warnings: list[str]) -> tuple[NDArray[np.int64], int]:
    """The place of each point on the grid that ends at `as_of` (negative: before it), and how many places there are."""
    assert request.timestamps is not None
    step = frequencies.seconds(request.freq) * 1_000_000
    before = (request.as_of.astype("datetime64[us]") - request.timestamps.astype("datetime64[us]")).astype(np.int64)  # µs
    back = (before + step // 2) // step
    if (back * step != before).any() or (len(back) > 1 and (np.diff(back) == 0).any()):
        warnings.append("resampled")
    size = int(min(lookback, back[0] + 1))
    return size - 1 - back, size


def _laid_out(values: Floats, rows: NDArray[np.int64], size: int) -> Floats:
    """On the grid; the last known of those that share a place stands there."""
    laid = np.full(size, np.nan)
    usable = (rows >= 0) & ~np.isnan(values)
    laid[rows[usable]] = values[usable]
    return laid


def _gap(request: ForecastRequest, unknown: NDArray[np.bool_], lookback: int) -> float:
    """Minutes. Points that bear timestamps are measured by them, others by the grid."""
    if request.timestamps is None:
        places = np.append(np.flatnonzero(~unknown), len(unknown) - 1)
        return float(np.diff(places).max(initial=0)) * frequencies.seconds(request.freq) / 60
    seen = request.timestamps[~np.isnan(request.target)].astype("datetime64[us]")
    window = request.as_of.astype("datetime64[us]") - frequencies.step(request.freq) * lookback
    moments = np.append(seen[seen >= window], request.as_of.astype("datetime64[us]"))
    return float(np.diff(moments.astype(np.int64)).max(initial=0)) / 60e6


def _filled(values: Floats) -> Floats | None:
    """Gaps interpolated, the last value carried on, the first one back; None where nothing is finite."""
    good = np.isfinite(values)
    if good.all():
        return values
    if not good.any():
        return None
    places = np.arange(len(values))
    filled: Floats = np.interp(places, places[good], values[good])
    return filled


def model_space(past: History, request: ForecastRequest) -> tuple[Floats, int]:
    """(n,) finite values of the space the model works in, and how many of them were filled: gaps linearly, an open end carried on."""
    z = into(past.target, request.space, request.eps)
    missing = len(z) - past.known
    if missing:
        z = fill(z, np.arange(len(z)), "linear")[:, 0]
    return z, missing


def series(past: History, request: ForecastRequest, z: Floats) -> Series:
    return Series(frequencies.canonical(request.freq), request.as_of.astype("datetime64[s]"), z, past.past, past.future)


def forced(past: History, request: ForecastRequest, config: ServiceConfig) -> str:
    """Why the baseline answers though nobody asked the model: "" when it does not."""
    if past.known < config.min_points:
        return "too_few_points"
    if request.segment and request.segment.get("liquidity_bucket") in config.baseline_only_liquidity:
        return "baseline_only_liquidity_bucket"
    if request.max_gap_minutes is not None and past.gap > request.max_gap_minutes:
        return "max_gap_exceeded"
    return ""


def counted(warnings: list[str]) -> tuple[str, ...]:
    """Each warning once, in the order of their first coming, with " x3" behind those that came three times."""
    if len(warnings) < 2:
        return tuple(warnings)
    counts: dict[str, int] = {}
    for warning in warnings:
        counts[warning] = counts.get(warning, 0) + 1
    return tuple(text if count == 1 else f"{text} x{count}" for text, count in counts.items())


def options_of(request: ForecastRequest) -> str:
    """The options as one text, for questions of one kind to be recognised."""
    return json.dumps(dict(request.options), sort_keys=True) if request.options else ""
