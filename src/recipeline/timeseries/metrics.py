"""Errors of forecasts. Every function takes `actual` and `predicted` of one shape, (S, H) for S series (or origins) and H steps.

mask   bool, same shape: what counts (None: all). Masked values may be anything, NaN included. Unmasked NaN is a DataError.
axis   what is averaged over: None for one number, 0 per horizon step, 1 per series; several for arrays of more axes. NaN where
       nothing counts.

Sources: Hyndman and Koehler 2006, "Another look at measures of forecast accuracy" (MASE); Makridakis, Spiliotis and
Assimakopoulos 2020, "The M4 competition" (sMAPE in percent, MSIS); Gneiting and Raftery 2007, "Strictly proper scoring
rules" (pinball, interval score, CRPS); Kolassa and Schütz 2007 (WAPE, there MAD/mean).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recipeline.errors import DataError

Floats = NDArray[np.float64]
Axis = int | tuple[int, ...] | None


def mae(actual: ArrayLike, predicted: ArrayLike, *, mask: ArrayLike | None = None, axis: Axis = None) -> Any:
    y, p, m = _ready(actual, predicted, mask)
    return _mean(np.abs(y - p), m, axis)


def mse(actual: ArrayLike, predicted: ArrayLike, *, mask: ArrayLike | None = None, axis: Axis = None) -> Any:
    y, p, m = _ready(actual, predicted, mask)
    return _mean((y - p) ** 2, m, axis)


def rmse(actual: ArrayLike, predicted: ArrayLike, *, mask: ArrayLike | None = None, axis: Axis = None) -> Any:
    return np.sqrt(mse(actual, predicted, mask=mask, axis=axis))


def bias(actual: ArrayLike, predicted: ArrayLike, *, mask: ArrayLike | None = None, axis: Axis = None) -> Any:
    """Mean of predicted - actual: positive when the forecast is too high."""
    y, p, m = _ready(actual, predicted, mask)
    return _mean(p - y, m, axis)


def mape(actual: ArrayLike, predicted: ArrayLike, *, mask: ArrayLike | None = None, axis: Axis = None) -> Any:
    """In percent; actual zeros are left out (`zeros` counts them)."""
    y, p, m = _ready(actual, predicted, mask)
    some = m & (y != 0)
    return _mean(100 * np.abs(y - p) / np.abs(np.where(some, y, 1.0)), some, axis)


def zeros(actual: ArrayLike, *, mask: ArrayLike | None = None, axis: Axis = None) -> Any:
    """How many actual values `mape` leaves out."""
    y, _, m = _ready(actual, actual, mask)
    return np.sum(m & (y == 0), axis=axis)


def smape(actual: ArrayLike, predicted: ArrayLike, *, mask: ArrayLike | None = None, axis: Axis = None) -> Any:
    """M4's: 200 |y - p| / (|y| + |p|), in percent from 0 to 200; 0 where both are zero."""
    y, p, m = _ready(actual, predicted, mask)
    size = np.abs(y) + np.abs(p)
    return _mean(200 * np.abs(y - p) / np.where(size > 0, size, 1.0), m, axis)


def wape(actual: ArrayLike, predicted: ArrayLike, *, mask: ArrayLike | None = None, axis: Axis = None) -> Any:
    """Sum of absolute errors over sum of absolute actual values; NaN where the latter is 0."""
    y, p, m = _ready(actual, predicted, mask)
    total = np.sum(np.where(m, np.abs(y), 0.0), axis=axis)
    return np.where(total > 0, np.sum(np.where(m, np.abs(y - p), 0.0), axis=axis) / np.where(total > 0, total, 1.0), np.nan)[()]


def seasonal_error(history: ArrayLike, season: int = 1, *, mask: ArrayLike | None = None) -> float:
    """Mean absolute error in sample of the seasonal naive forecast of one series (T,): what MASE and MSIS divide by.

    Pairs with a missing partner (NaN or masked) are left out. DataError when no pair is left or all are equal."""
    values = np.asarray(history, dtype=np.float64)
    if mask is not None:
        values = np.where(np.asarray(mask, dtype=bool), values, np.nan)
    changes = np.abs(values[season:] - values[:-season])
    changes = changes[~np.isnan(changes)]
    if not len(changes) or changes.sum() == 0:
        why = "is constant" if len(changes) else f"is shorter than season {season} and one more"
        raise DataError(f"a history of {len(values)} values that {why} has no scale", slug="no-scale")
    return float(changes.mean())


def mase(actual: ArrayLike, predicted: ArrayLike, scale: ArrayLike, *, mask: ArrayLike | None = None, axis: Axis = None) -> Any:
    """`scale` is the `seasonal_error` of each series, shaped (S, 1), or one number."""
    y, p, m = _ready(actual, predicted, mask)
    return _mean(np.abs(y - p) / np.asarray(scale, dtype=np.float64), m, axis)


def pinball(actual: ArrayLike, quantiles: ArrayLike, levels: Sequence[float], *, mask: ArrayLike | None = None, axis: Axis = None) -> Any:
    """Mean over all levels of the quantile loss; quantiles (S, H, Q) in the order of `levels`."""
    y, q, m = _fan(actual, quantiles, levels, mask)
    tau = np.asarray(levels, dtype=np.float64)
    short = y[..., None] - q
    return _mean(np.mean(np.maximum(tau * short, (tau - 1) * short), axis=-1), m, axis)


def crps(actual: ArrayLike, quantiles: ArrayLike, levels: Sequence[float], *, mask: ArrayLike | None = None, axis: Axis = None) -> Any:
    """Twice the mean pinball loss: the integral over all levels by an even grid of them; comparable only for equal levels."""
    return 2 * pinball(actual, quantiles, levels, mask=mask, axis=axis)


def coverage(actual: ArrayLike, lower: ArrayLike, upper: ArrayLike, *, mask: ArrayLike | None = None, axis: Axis = None) -> Any:
    """Share of actual values within the interval, its ends included."""
    y, low, m = _ready(actual, lower, mask)
    _, high, _ = _ready(actual, upper, mask)
    return _mean(((low <= y) & (y <= high)).astype(np.float64), m, axis)


def width(lower: ArrayLike, upper: ArrayLike, *, mask: ArrayLike | None = None, axis: Axis = None) -> Any:
    low, high, m = _ready(lower, upper, mask)
    return _mean(high - low, m, axis)


def msis(
    actual: ArrayLike, lower: ArrayLike, upper: ArrayLike, scale: ArrayLike, level: float = 0.95,
    *, mask: ArrayLike | None = None, axis: Axis = None,
) -> Any:  # fmt: skip
    """Mean scaled interval score of a central interval of probability `level`; `scale` as in `mase`."""
    y, low, m = _ready(actual, lower, mask)
    _, high, _ = _ready(actual, upper, mask)
    penalty = 2 / (1 - level)
    score = high - low + penalty * (np.maximum(low - y, 0) + np.maximum(y - high, 0))
    return _mean(score / np.asarray(scale, dtype=np.float64), m, axis)


POINT: Mapping[str, Callable[..., Any]] = {"mae": mae, "rmse": rmse, "mse": mse, "mape": mape, "smape": smape, "wape": wape, "bias": bias}


def tables(names: Sequence[str], actual: ArrayLike, predicted: ArrayLike, *, mask: ArrayLike | None = None) -> dict[str, dict[str, Any]]:
    """{name: {"all": number, "horizon": (H,), "series": (S,)}} of metrics from POINT, for (S, H)."""
    return {
        name: {"all": float(POINT[name](actual, predicted, mask=mask))}
        | {key: POINT[name](actual, predicted, mask=mask, axis=axis) for key, axis in (("horizon", 0), ("series", 1))}
        for name in names
    }


def _ready(actual: ArrayLike, predicted: ArrayLike, mask: ArrayLike | None) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    y, p = np.asarray(actual, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if y.shape != p.shape:
        raise DataError(f"actual {y.shape} and predicted {p.shape} differ in shape", slug="bad-shape")
    m = np.ones(y.shape, dtype=bool) if mask is None else np.broadcast_to(np.asarray(mask, dtype=bool), y.shape)
    missing = m & (np.isnan(y) | np.isnan(p))
    if missing.any():
        first = tuple(int(i) for i in np.argwhere(missing)[0])
        raise DataError(f"{'actual' if np.isnan(y[first]) else 'predicted'} is NaN at {first}", hint="mask what does not count", slug="nan")
    return np.where(m, y, 0.0), np.where(m, p, 0.0), m


def _fan(
    actual: ArrayLike, quantiles: ArrayLike, levels: Sequence[float], mask: ArrayLike | None
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    q = np.asarray(quantiles, dtype=np.float64)
    if not levels or q.shape != (*np.shape(actual), len(levels)):
        raise DataError(f"quantiles {q.shape} are not actual {np.shape(actual)} by {len(levels)} levels", slug="bad-shape")
    y, _, m = _ready(actual, q.sum(axis=-1), mask)
    return y, np.where(m[..., None], q, 0.0), m


def _mean(values: Floats, mask: NDArray[np.bool_], axis: Axis) -> Any:
    count = mask.sum(axis=axis)
    return np.where(count > 0, np.where(mask, values, 0.0).sum(axis=axis) / np.maximum(count, 1), np.nan)[()]
