"""Forecasts that any model has to beat, as plain functions on histories (N, L) -> (N, horizon); the newest value stands last.

Naive, seasonal naive, drift: Hyndman and Athanasopoulos, "Forecasting: principles and practice", 5.2. NLinear: Zeng et al.
2023, "Are transformers effective for time series forecasting?", here with the ridge solution instead of gradient descent.
Missing values are the caller's to fill (`fills`): NaN in a history is NaN in its forecast.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recipeline.errors import DataError

Floats = NDArray[np.float64]


def naive(history: ArrayLike, horizon: int) -> Floats:
    """The last value."""
    return np.repeat(_rows(history)[:, -1:], horizon, axis=1)


def seasonal_naive(history: ArrayLike, horizon: int, season: int) -> Floats:
    """The value of one season ago; DataError when the history has no whole season."""
    rows = _rows(history, season)
    return rows[:, -season:][:, np.arange(horizon) % season]


def drift(history: ArrayLike, horizon: int) -> Floats:
    """The line from the first value through the last."""
    rows = _rows(history, 2)
    slope = (rows[:, -1:] - rows[:, :1]) / (rows.shape[1] - 1)
    line: Floats = rows[:, -1:] + slope * np.arange(1, horizon + 1)
    return line


def moving_average(history: ArrayLike, horizon: int, window: int) -> Floats:
    """The mean of the last `window` values."""
    return np.repeat(_rows(history, window)[:, -window:].mean(axis=1, keepdims=True), horizon, axis=1)


@dataclass(frozen=True)
class NLinear:
    """Future minus the last value, as a linear map of past minus the last value. weights (lookback, horizon), intercept (horizon,)."""

    weights: Floats
    intercept: Floats

    def predict(self, past: ArrayLike) -> Floats:
        """(N, lookback) -> (N, horizon)"""
        rows = _rows(past)
        if rows.shape[1] != len(self.weights):
            raise DataError(f"fitted on {len(self.weights)} past values, got {rows.shape[1]}", slug="bad-shape")
        last = rows[:, -1:]
        forecast: Floats = (rows - last) @ self.weights + self.intercept + last
        return forecast


def fit_nlinear(past: ArrayLike, future: ArrayLike, *, ridge: float = 1.0) -> NLinear:
    """Least squares on windows (N, lookback), (N, horizon) with `ridge` times the mean square of the inputs on the weights.

    Windows with a NaN are left out; DataError when none is left."""
    x, y = _rows(past), _rows(future)
    whole = ~(np.isnan(x).any(axis=1) | np.isnan(y).any(axis=1))
    x, y = x[whole], y[whole]
    if not len(x):
        raise DataError("no window without a missing value to learn from", slug="too-short")
    last = x[:, -1:]
    x, y = x - last, y - last
    x_mean, y_mean = x.mean(axis=0), y.mean(axis=0)
    centred = x - x_mean
    gram = centred.T @ centred
    gram[np.diag_indices_from(gram)] += ridge * max(float(np.mean(centred**2)), 1e-300)
    weights = np.linalg.solve(gram, centred.T @ (y - y_mean))
    return NLinear(weights, y_mean - x_mean @ weights)


def _rows(history: ArrayLike, at_least: int = 1) -> Floats:
    rows = np.atleast_2d(np.asarray(history, dtype=np.float64))
    if rows.shape[1] < at_least:
        raise DataError(f"a history of {rows.shape[1]} values is too short, {at_least} are needed", slug="too-short")
    return rows
