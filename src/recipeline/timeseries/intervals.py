"""Intervals that hold their promise: split conformal, conformalised quantiles, a width factor, and quantile tracking.

Sources: Vovk, Gammerman and Shafer 2005, and Lei et al. 2018 (split conformal); Romano, Patterson and Candès 2019
("Conformalized quantile regression", CQR); Gibbs and Candès 2021, and Angelopoulos, Candès and Tibshirani 2023
("Conformal PID control for time series prediction", quantile tracking).

Arrays are (n, H): n forecasts (origins), H horizon steps. Split conformal on points is CQR with `lower = upper = point`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recipeline.errors import DataError

Floats = NDArray[np.float64]


def conformal_quantile(scores: ArrayLike, coverage: float) -> float:
    """The ceil((n + 1) * coverage)-th smallest of n scores (NaN left out): a new one is at most that with probability `coverage`.

    DataError when n * (1 - coverage) < 1, naming the smallest n.
    """
    if not 0 < coverage < 1:
        raise ValueError(f"coverage lies in (0, 1); got {coverage}")
    known = np.asarray(scores, dtype=np.float64).ravel()
    known = known[~np.isnan(known)]
    needed = math.ceil(1 / (1 - coverage) - 1e-9)  # 1 / (1 - 0.8) is a hair above 5
    if len(known) < needed:
        raise DataError(
            f"{len(known)} calibration scores are too few for coverage {coverage:g}: at least {needed} are needed",
            hint="more calibration windows or a smaller coverage",
            slug="too-short",
        )
    rank = min(len(known), math.ceil((len(known) + 1) * coverage - 1e-9))
    return float(np.partition(known, rank - 1)[rank - 1])


class Conformal:
    """CQR: both ends of an interval are moved outwards by one amount per horizon bucket (inwards when it is negative).

    method  "cqr" adds the amount; "scale" shifts the interval by the median residual and multiplies its half-width by a factor
    buckets (H,) bucket of each step, numbered from 0 (None: each step is its own); `adjustment` holds one amount per bucket
    window  only so many latest forecasts calibrate (None: all)
    """

    def __init__(
        self, coverage: float = 0.8, *, method: str = "cqr", buckets: Sequence[int] | None = None, window: int | None = None
    ) -> None:
        if method not in ("cqr", "scale"):
            raise ValueError(f"method is cqr or scale; got {method!r}")
        self.coverage, self.method, self.window = coverage, method, window
        self.buckets = None if buckets is None else tuple(int(b) for b in buckets)
        self.adjustment = np.zeros(0)
        self.shift = np.zeros(0)

    def fit(self, actual: ArrayLike, lower: ArrayLike, upper: ArrayLike, *, mask: ArrayLike | None = None) -> Conformal:
        """Learn from forecasts of the past and what came, each (n, H), oldest first. NaN, and where the mask is False, does not count."""
        y, low, high = (np.atleast_2d(np.asarray(a, dtype=np.float64)) for a in (actual, lower, upper))
        if mask is not None:
            y = np.where(np.asarray(mask, dtype=bool), y, np.nan)
        if self.window is not None:
            y, low, high = y[-self.window :], low[-self.window :], high[-self.window :]
        place = self._place(y.shape[1])
        count = int(place.max()) + 1
        self.shift = np.zeros(count)
        self.adjustment = np.zeros(count)
        for bucket in range(count):
            b_y, b_low, b_high = y[:, place == bucket], low[:, place == bucket], high[:, place == bucket]
            if self.method == "cqr":
                scores = np.maximum(b_low - b_y, b_y - b_high)
            else:
                half = np.maximum((b_high - b_low) / 2, 1e-12)
                residual = b_y - (b_high + b_low) / 2
                self.shift[bucket] = np.nanmedian(residual) if np.isfinite(residual).any() else 0.0
                scores = np.abs(residual - self.shift[bucket]) / half
            self.adjustment[bucket] = conformal_quantile(scores, self.coverage)
        return self

    def apply(self, lower: ArrayLike, upper: ArrayLike) -> tuple[Floats, Floats]:
        """The calibrated interval, same shape (…, H). Where an amount is so negative that the ends cross, both are the middle."""
        low, high = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
        if not len(self.adjustment):
            raise DataError("not calibrated yet", hint="call fit first")
        place = self._place(low.shape[-1])
        if place.max() >= len(self.adjustment):
            raise DataError(f"calibrated for {len(self.adjustment)} buckets of the horizon, asked for {int(place.max()) + 1}")
        amount, middle = self.adjustment[place], (low + high) / 2
        if self.method == "scale":
            half = amount * np.maximum((high - low) / 2, 1e-12)
            return middle + self.shift[place] - half, middle + self.shift[place] + half
        low, high = low - amount, high + amount
        crossed = low > high
        return np.where(crossed, middle, low), np.where(crossed, middle, high)

    def _place(self, steps: int) -> NDArray[np.int64]:
        if self.buckets is None:
            return np.arange(steps)
        if len(self.buckets) < steps:
            raise DataError(f"{len(self.buckets)} steps have buckets, the forecast has {steps}")
        return np.asarray(self.buckets[:steps], dtype=np.int64)

    def to_json(self) -> dict[str, Any]:
        kept = {"coverage": self.coverage, "method": self.method, "window": self.window}
        buckets = None if self.buckets is None else list(self.buckets)
        return {**kept, "buckets": buckets, "adjustment": self.adjustment.tolist(), "shift": self.shift.tolist()}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Conformal:
        made = cls(state["coverage"], method=state["method"], buckets=state["buckets"], window=state["window"])
        made.adjustment, made.shift = np.asarray(state["adjustment"], float), np.asarray(state["shift"], float)
        return made


class QuantileTracker:
    """Adjusts the amount of each step online: up by `rate * coverage * scale` per miss, down by `rate * (1 - coverage) * scale` per hit.

    The outcome of step h arrives h time units after the forecast; until then the forecast waits here (at most `horizon` of
    them for each of `series_most` series; the series that was forecast longest ago goes first). `scale` is the largest
    absolute score of the last 100 outcomes of that step, so that `rate` has no unit.
    Long-run coverage holds for any sequence whatever, without assumptions on it; of several series together, not of each.
    """

    RECENT = 100

    def __init__(
        self, horizon: int, coverage: float = 0.8, *, rate: float = 0.05, start: ArrayLike = 0.0, series_most: int = 10_000
    ) -> None:
        if horizon < 1 or not 0 < coverage < 1 or not rate > 0 or series_most < 1:
            raise ValueError("horizon and series_most are at least 1, coverage lies in (0, 1), rate is positive")
        self.horizon, self.coverage, self.rate, self.series_most = horizon, coverage, rate, series_most
        self.amount = np.broadcast_to(np.asarray(start, dtype=np.float64), (horizon,)).copy()
        self._scores: list[list[float]] = [[] for _ in range(horizon)]
        # series -> origin -> lower, upper, amount in force
        self._waiting: dict[str, dict[int, tuple[list[float], list[float], list[float]]]] = {}

    def issue(self, origin: int, lower: ArrayLike, upper: ArrayLike, *, series: str = "") -> tuple[Floats, Floats]:
        """The interval (H,) in force for the forecast made at this time; it waits for its outcomes."""
        low, high = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
        waiting = self._waiting[series] = self._waiting.pop(series, {})  # now the latest
        waiting[int(origin)] = (low.tolist(), high.tolist(), self.amount.tolist())
        for old in [t for t in waiting if t <= origin - self.horizon]:
            del waiting[old]
        while len(self._waiting) > self.series_most:
            del self._waiting[next(iter(self._waiting))]
        steps = np.minimum(np.arange(len(low)), self.horizon - 1)
        wide_low, wide_high = low - self.amount[steps], high + self.amount[steps]
        crossed, middle = wide_low > wide_high, (low + high) / 2
        return np.where(crossed, middle, wide_low), np.where(crossed, middle, wide_high)

    def observe(self, time: int, actual: float, *, series: str = "") -> bool:
        """What came at this time: the feedback for every forecast that had a step there, once. NaN says nothing.

        Returns whether any forecast was waiting for it.
        """
        if math.isnan(actual):
            return False
        waits, heard = self._waiting.get(series, {}), False
        for step in range(1, self.horizon + 1):
            waiting = waits.get(time - step)
            if waiting is None or step > len(waiting[0]) or math.isnan(waiting[0][step - 1]):
                continue
            h, heard = step - 1, True
            score = max(waiting[0][h] - actual, actual - waiting[1][h])
            waiting[0][h] = math.nan  # told
            recent = self._scores[h]
            recent.append(abs(score))
            del recent[: -self.RECENT]
            missed = score > waiting[2][h]
            self.amount[h] += self.rate * max(recent) * ((1.0 if missed else 0.0) - (1 - self.coverage))
        return heard

    def forget(self) -> None:
        """No forecast waits any longer."""
        self._waiting.clear()

    def to_json(self) -> dict[str, Any]:
        told = {name: {str(origin): list(held) for origin, held in held_of.items()} for name, held_of in self._waiting.items()}
        waiting = {name: {origin: [_nulls(held[0]), *held[1:]] for origin, held in held_of.items()} for name, held_of in told.items()}
        kept = {"horizon": self.horizon, "coverage": self.coverage, "rate": self.rate, "series_most": self.series_most}
        return {**kept, "amount": self.amount.tolist(), "scores": self._scores, "waiting": waiting}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> QuantileTracker:
        most = state.get("series_most", 10_000)
        made = cls(state["horizon"], state["coverage"], rate=state["rate"], start=state["amount"], series_most=most)
        made._scores = [list(scores) for scores in state["scores"]]
        made._waiting = {
            name: {int(origin): ([math.nan if x is None else x for x in held[0]], held[1], held[2]) for origin, held in waits.items()}
            for name, waits in state["waiting"].items()
        }
        return made


def _nulls(values: Sequence[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]


def symmetric_pairs(levels: Sequence[float]) -> list[tuple[int, int, float]]:
    """(position of the lower, of the upper, coverage) of every central interval among the quantile levels, widest first."""
    pairs = []
    for i, low in enumerate(levels):
        for j, high in enumerate(levels):
            if low < 0.5 and math.isclose(low + high, 1.0, abs_tol=1e-9):
                pairs.append((i, j, high - low))
    return sorted(pairs, key=lambda pair: -pair[2])
