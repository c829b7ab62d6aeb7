"""Figures of merit of forecasts: `recipeline.timeseries.metrics` on the joined table of an evaluation.

A metric's function takes what was observed (n,) and the joined frame (n rows: series, origin and step) with the columns

    prediction  the point forecast            q0.1 …  quantiles, where the model gives them
    scale       in-sample mean absolute error of the seasonal naive forecast of the series; NaN where it has none
    naive       the seasonal naive forecast of the same step
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from recipeline.contracts import Metric
from recipeline.errors import DataError
from recipeline.timeseries import metrics as of
from recipeline.timeseries.frames import levels_of, quantile_column
from recipeline.timeseries.intervals import symmetric_pairs

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

COVERAGES = (50, 80, 90, 95)


def _point(function: Callable[..., Any], actual: Floats, frame: pd.DataFrame, *, weight: Any = None) -> float:
    return float(function(actual, frame["prediction"].to_numpy()))


def _mape(actual: Floats, frame: pd.DataFrame, *, weight: Any = None) -> float:
    if not (actual != 0).any():
        raise DataError("mape is undefined: every actual value is zero", hint="use wape or mase", slug="undefined-metric")
    return _point(of.mape, actual, frame)


def _wape(actual: Floats, frame: pd.DataFrame, *, weight: Any = None) -> float:
    if not (actual != 0).any():
        raise DataError("wape is undefined: every actual value is zero", hint="use mae or mase", slug="undefined-metric")
    return _point(of.wape, actual, frame)


def _scaled(frame: pd.DataFrame, name: str) -> tuple[Floats, NDArray[np.bool_]]:
    scale = frame["scale"].to_numpy(np.float64)
    usable = ~np.isnan(scale)
    if not usable.any():
        hint = "use mae, or give series that are longer than one season"
        raise DataError(f"{name} is undefined: no series has a history that varies", hint=hint, slug="undefined-metric")
    return scale, usable


def _mase(actual: Floats, frame: pd.DataFrame, *, weight: Any = None) -> float:
    scale, usable = _scaled(frame, "mase")
    return float(of.mase(actual, frame["prediction"].to_numpy(), np.where(usable, scale, 1.0), mask=usable))


def _skill(actual: Floats, frame: pd.DataFrame, *, weight: Any = None) -> float:
    reference = float(of.mae(actual, frame["naive"].to_numpy()))
    if reference == 0:
        raise DataError("skill is undefined: the seasonal naive forecast has no error", hint="use mae", slug="undefined-metric")
    return 1.0 - float(of.mae(actual, frame["prediction"].to_numpy())) / reference


def _fan(frame: pd.DataFrame, name: str) -> tuple[Floats, tuple[float, ...]]:
    levels = levels_of(frame.columns)
    if not levels:
        hint = "choose a metric of the point forecast, or a model with quantiles"
        raise DataError(f"{name} needs quantiles, and the model gives none", hint=hint, slug="metric-needs")
    return frame[[quantile_column(level) for level in levels]].to_numpy(np.float64), levels


def _pinball(actual: Floats, frame: pd.DataFrame, *, weight: Any = None) -> float:
    fan, levels = _fan(frame, "pinball")
    return float(of.pinball(actual, fan, levels))


def _crps(actual: Floats, frame: pd.DataFrame, *, weight: Any = None) -> float:
    fan, levels = _fan(frame, "crps")
    return float(of.crps(actual, fan, levels))


def interval(frame: pd.DataFrame, name: str, percent: int | None = None) -> tuple[Floats, Floats, float]:
    """Lower end, upper end and nominal coverage of the central interval asked for; the widest, where none is."""
    fan, levels = _fan(frame, name)
    pairs = symmetric_pairs(levels)
    found = next((pair for pair in pairs if percent is None or round(100 * pair[2], 6) == percent), None)
    if found is None:
        low = f"{(100 - (percent or 80)) / 200:g}"
        hint = f"add the quantiles {low} and {1 - float(low):g} to the model"
        raise DataError(f"{name} needs an interval that the model does not give", hint=hint, slug="metric-needs")
    return fan[:, found[0]], fan[:, found[1]], found[2]


def _coverage(percent: int | None, actual: Floats, frame: pd.DataFrame, *, weight: Any = None) -> float:
    low, high, _ = interval(frame, "coverage" if percent is None else f"coverage_{percent}", percent)
    return float(of.coverage(actual, low, high))


def _coverage_error(actual: Floats, frame: pd.DataFrame, *, weight: Any = None) -> float:
    low, high, nominal = interval(frame, "coverage_error")
    return abs(float(of.coverage(actual, low, high)) - nominal)


def _mean_width(actual: Floats, frame: pd.DataFrame, *, weight: Any = None) -> float:
    low, high, _ = interval(frame, "mean_width")
    return float(of.width(low, high))


def _msis(actual: Floats, frame: pd.DataFrame, *, weight: Any = None) -> float:
    low, high, nominal = interval(frame, "msis")
    scale, usable = _scaled(frame, "msis")
    return float(of.msis(actual, low, high, np.where(usable, scale, 1.0), nominal, mask=usable))


FORECASTING: tuple[Metric, ...] = (
    Metric("mae", "minimize", "frame", partial(_point, of.mae), ("mean_absolute_error",), "mean absolute error"),
    Metric("rmse", "minimize", "frame", partial(_point, of.rmse), ("root_mean_squared_error",), "root of the mean squared error"),
    Metric("mse", "minimize", "frame", partial(_point, of.mse), ("mean_squared_error",), "mean squared error"),
    Metric("mape", "minimize", "frame", _mape, (), "mean absolute percentage error; actual zeros are left out and counted in `errors`"),
    Metric("smape", "minimize", "frame", partial(_point, of.smape), (), "symmetric percentage error as in M4, from 0 to 200"),
    Metric("mase", "minimize", "frame", _mase, (), "absolute error over the in-sample error of the seasonal naive forecast"),
    Metric("wape", "minimize", "frame", _wape, (), "sum of absolute errors over sum of absolute values"),
    Metric("bias", "minimize", "frame", partial(_point, of.bias), (), "mean of forecast minus actual; best near 0, not to be tuned for"),
    Metric("skill", "maximize", "frame", _skill, (), "1 - mae / mae of the seasonal naive forecast"),
    Metric("pinball", "minimize", "frame", _pinball, ("quantile_loss",), "mean quantile loss over the levels of the model"),
    Metric("crps", "minimize", "frame", _crps, (), "twice the mean quantile loss; comparable for equal levels"),
    Metric("coverage", "maximize", "frame", partial(_coverage, None), (), "share inside the widest interval; best at its level"),
    *(Metric(f"coverage_{p}", "maximize", "frame", partial(_coverage, p), (), f"share inside the {p} % interval") for p in COVERAGES),
    Metric("coverage_error", "minimize", "frame", _coverage_error, (), "distance of coverage from the level of the widest interval"),
    Metric("mean_width", "minimize", "frame", _mean_width, (), "mean width of the widest interval"),
    Metric("msis", "minimize", "frame", _msis, (), "mean scaled interval score of the widest interval"),
)  # fmt: skip
