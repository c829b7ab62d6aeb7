"""The daemon's JSON: writing a question, reading an answer. Pure; every check of an answer is here, for the daemon makes none.

Contract: `POST /v1/forecast` of tollama v0.1 to its head of 2026-04 (`null` in a target refused, unknown keys refused, quantile
keys written by %g, absent for families that give points only).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recipeline_tsfm.failures import UpstreamError, invalid
from recipeline_tsfm.frequencies import seconds

if TYPE_CHECKING:
    Floats = NDArray[np.float64]

NEAR = 1e-6  # %g keeps six digits of a level
NUMBERS = {float, int}


@dataclass(frozen=True, eq=False, slots=True)
class Series:
    """One series as the model sees it: a regular grid of finite numbers (n,) that ends at `end`, datetime64[s] in UTC.

    past holds (n,) per name, future (horizon,) per name, each of which also stands in past.
    """

    freq: str
    end: np.datetime64
    target: Floats
    past: Mapping[str, Floats]
    future: Mapping[str, Floats]


@dataclass(frozen=True, eq=False, slots=True)
class Forecast:
    """One series of an answer, checked: path (H, Q) with NaN in no place, or None and the mean (H,) for a point-only family."""

    path: Floats | None
    mean: Floats | None
    warnings: tuple[str, ...]


@functools.lru_cache(maxsize=512)
def _timestamps(end: int, step: int, count: int) -> str:
    """JSON text of `count` moments, `step` seconds apart, up to `end` (seconds since 1970); many series of one tick share it."""
    moments = np.arange(end - step * (count - 1), end + 1, step).astype("datetime64[s]")
    return "[" + ",".join(f'"{moment}Z"' for moment in np.datetime_as_string(moments)) + "]"


def question(
    model: str,
    horizon: int,
    quantiles: Sequence[float],
    series: Sequence[Series],
    options: Mapping[str, Any],
    keep_alive: str | None = None,
) -> bytes:
    """The body of one call; series are named by their position."""
    parts = []
    for place, one in enumerate(series):
        stamps = _timestamps(int(one.end.astype("datetime64[s]").astype(np.int64)), seconds(one.freq), len(one.target))
        text = f'{{"id":"{place}","freq":"{one.freq}","timestamps":{stamps},"target":{_list(one.target)}'
        for key, covariates in (("past_covariates", one.past), ("future_covariates", one.future)):
            if covariates:
                text += f',"{key}":{{' + ",".join(f"{json.dumps(name)}:{_list(values)}" for name, values in covariates.items()) + "}"
        parts.append(text + "}")
    head: dict[str, Any] = {"model": model, "horizon": horizon, "quantiles": list(quantiles), "options": dict(options)}
    if keep_alive is not None:
        head["keep_alive"] = keep_alive
    return (json.dumps(head, allow_nan=False)[:-1] + ',"series":[' + ",".join(parts) + "]}").encode()


def _list(values: Floats) -> str:
    """Finite numbers as JSON, to twelve digits: five more than the models' float32 have, and a third of the time of all seventeen."""
    return "[" + ("%.12g," * len(values) % tuple(values.tolist()))[:-1] + "]"


def answer_bytes(horizon: int, levels: int) -> int:
    """About how long the answer for one series is: a number takes up to 25 characters."""
    return 25 * horizon * (levels + 1) + 300


def read(payload: Any, model: str, count: int, horizon: int, quantiles: Sequence[float], *, strict: bool) -> list[Forecast | UpstreamError]:
    """What the answer says about each of `count` series, by position; UpstreamError raised where it says nothing at all.

    strict  an answer of another model than asked is refused instead of flagged
    """
    if not isinstance(payload, Mapping):
        raise invalid("shape")
    listed = payload.get("forecasts")
    if not isinstance(listed, list):
        raise invalid("shape")
    general: list[str] = []
    if not _same(payload.get("model"), model):
        if strict:
            raise invalid("model")
        general.append("another_model_answered")
    warned = payload.get("warnings")
    if isinstance(warned, list) and warned:
        general += [f"upstream:{printable(text)}" for text in warned[:20] if isinstance(text, str)]
    found: dict[str, Any] = {}
    twice: set[str] = set()
    for item in listed:
        name = item.get("id") if isinstance(item, Mapping) else None
        if isinstance(name, str):
            twice.update((name,) if name in found else ())
            found[name] = item
    results: list[Forecast | UpstreamError] = []
    for place in range(count):
        item = found.get(str(place))
        if item is None or str(place) in twice:
            results.append(invalid("missing_id" if item is None else "duplicate_id"))
            continue
        try:
            results.append(_forecast(item, horizon, quantiles, general))
        except UpstreamError as error:
            results.append(error)
    return results


def printable(text: str) -> str:
    """A bounded line that can be logged and encoded: a text of somebody else's may hold control characters and halves of surrogates."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:160]) + ("…" if len(text) > 160 else "")


def _same(answered: Any, asked: str) -> bool:
    return isinstance(answered, str) and answered.lower().removesuffix(":latest") == asked.lower().removesuffix(":latest")


def _forecast(item: Mapping[str, Any], horizon: int, quantiles: Sequence[float], general: Sequence[str]) -> Forecast:
    given = item.get("quantiles")
    if given is None or given == {}:
        return Forecast(None, _numbers([item.get("mean")], horizon)[0], tuple(general))
    if not isinstance(given, Mapping):
        raise invalid("quantiles")
    rows = [given.get(f"{level:g}") for level in quantiles]
    if None in rows or len(given) != len(rows):
        rows = _by_value(given, quantiles)
    known = [place for place, row in enumerate(rows) if row is not None]
    if not known or known[0] != 0 or known[-1] != len(rows) - 1:
        raise invalid("missing_quantile")
    path = _numbers([rows[place] for place in known], horizon).T  # (H, known)
    if len(known) < len(rows):
        general = [*general, "quantile_interpolated"]
        path = _between(path, np.array(known), np.array([normal(level) for level in quantiles]))
    return Forecast(path, None, tuple(general))


def _by_value(given: Mapping[Any, Any], quantiles: Sequence[float]) -> list[Any]:
    """The rows of the levels asked for, whatever their spelling: "0.1", "0.10", "q10", "q0.1", "p10", "10%"."""
    rows: list[Any] = [None] * len(quantiles)
    levels = np.asarray(quantiles)
    for key, row in given.items():
        level = _level(key)
        if level is None:
            continue
        place = int(np.argmin(np.abs(levels - level)))
        if abs(levels[place] - level) > NEAR:
            continue
        if rows[place] is not None and rows[place] != row:
            raise invalid("duplicate_quantile")
        rows[place] = row
    return rows


def _level(key: Any) -> float | None:
    if not isinstance(key, str) or len(key) > 24:
        return None
    text = key.strip().lower().removeprefix("quantile_").lstrip("qp_")
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        return None
    return value / 100 if text.endswith("%") or value >= 1 else value


def _numbers(rows: list[Any], horizon: int) -> Floats:
    """(rows, horizon); each row must be a list of so many finite numbers."""
    for row in rows:
        if not isinstance(row, list):
            raise invalid("mean" if row is None else "shape")
        if len(row) != horizon:
            raise invalid("length")
    kinds = set(map(type, chain.from_iterable(rows)))
    if not kinds <= NUMBERS:
        raise invalid("null" if type(None) in kinds else "not_a_number")
    try:
        array = np.array(rows, dtype=np.float64)
    except OverflowError:  # an integer of hundreds of digits
        raise invalid("not_finite") from None
    if not np.isfinite(array).all():
        raise invalid("not_finite")
    return array


def _between(path: Floats, known: NDArray[np.int64], z: Floats) -> Floats:
    """(H, Q) from the columns that are known, linear in the normal z of the level; the outer ones are known."""
    right = np.searchsorted(known, np.arange(len(z)))
    left = np.maximum(right - (known[right] != np.arange(len(z))), 0)
    span = z[known[right]] - z[known[left]]
    share = np.where(span > 0, (z - z[known[left]]) / np.where(span > 0, span, 1.0), 0.0)
    # as a weighted mean: the difference of two huge numbers may be infinite, their mean is not
    filled: Floats = path[:, left] * (1 - share) + path[:, right] * share
    return filled


@functools.lru_cache(maxsize=512)
def normal(level: float) -> float:
    """The standard normal's quantile."""
    return NormalDist().inv_cdf(level)
