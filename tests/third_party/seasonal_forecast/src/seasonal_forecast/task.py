"""What a forecast is: which columns name a row, what is cut where, what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from recipeline.contracts import FitContext, Fold, Metric, Output, Selected, Split, takes_context
from recipeline.errors import DataError
from recipeline.schema import InputSchema
from seasonal_forecast import scores


class SeriesInterface(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    task_type: Literal["series"]
    target_col: str
    timestamp_col: str
    series_col: str


class Series:
    """Forecasting of a panel of regular series in long form: one row per series and time."""

    Interface = SeriesInterface
    metrics = (
        Metric("mae", "minimize", "frame", scores.mae, summary="mean absolute error of the median"),
        Metric("pinball", "minimize", "frame", scores.pinball, summary="mean pinball loss over steps and quantiles"),
        Metric("coverage", "maximize", "frame", scores.coverage, summary="share of actual values inside the outer quantiles"),
    )
    preprocessor = None  # the model takes the rows as they are
    splitter = "moving_origin"
    evaluator = "series_evaluator"
    streams: Literal["groups"] = "groups"

    def __init__(self, interface: SeriesInterface) -> None:
        self.interface = interface

    @property
    def columns(self) -> tuple[str, str, str]:
        return self.interface.series_col, self.interface.timestamp_col, self.interface.target_col

    def describe(self, data: pd.DataFrame) -> InputSchema:
        missing = [name for name in self.columns if name not in data.columns]
        if missing:
            raise DataError(f"no column {', '.join(missing)}", where="data")
        return InputSchema.of(data, list(self.columns))

    def select(self, data: pd.DataFrame, schema: InputSchema, *, targets: bool) -> Selected:
        series, time, target = self.columns
        times = pd.to_datetime(data[time])
        frame = pd.DataFrame({"series": data[series].astype(str), "time": times, "y": data[target].astype(np.float64)})
        return Selected(X=frame.reset_index(drop=True), y=frame["y"].to_numpy(), groups=frame["series"].to_numpy(), times=times.to_numpy())

    def fit(self, model: Any, selected: Selected, context: FitContext) -> Any:
        return model.fit(selected.X, context=context) if takes_context(model) else model.fit(selected.X)

    def rows(self, model: Any, selected: Selected, schema: InputSchema) -> pd.DataFrame:
        series, time, _ = self.columns
        forecast: pd.DataFrame = model.predict(selected.X)
        text = forecast["time"].dt.strftime("%Y-%m-%d")
        return forecast.assign(time=text).rename(columns={"series": series, "time": time})

    def output(self, schema: InputSchema) -> Output:
        return Output(keys=(self.interface.series_col, self.interface.timestamp_col), values=("step", "prediction"))

    def baselines(self, schema: InputSchema) -> Mapping[str, Any]:
        return {}


class MovingOrigin:
    """`n_windows` forecasts of `horizon` steps, each from an origin that moves on by `horizon`; nothing after an origin is seen."""

    def __init__(self, horizon: int, n_windows: int = 3, refit: Literal["never", "always"] = "never") -> None:
        self.horizon, self.n_windows, self.refit = horizon, n_windows, refit

    @classmethod
    def example(cls) -> dict[str, Any]:
        return {"horizon": 4, "n_windows": 2}

    def split(self, selected: Selected, task: Any) -> Split:
        folds = self._folds(selected, self.n_windows)
        borders = [str(pd.Timestamp(selected.times[fold.test].min())) for fold in folds]
        return Split(folds, keep="last", audit={"method": "moving_origin", "first sealed time": borders})

    def inner(self, selected: Selected, task: Any, folds: int) -> tuple[Fold, ...]:
        return self._folds(selected, folds)

    def _folds(self, selected: Selected, count: int) -> tuple[Fold, ...]:
        stamps = np.unique(selected.times)
        if len(stamps) <= count * self.horizon + 2:
            raise DataError(f"{len(stamps)} time stamps are too few for {count} windows of {self.horizon}")
        folds = []
        for number in range(count):
            start = len(stamps) - (count - number) * self.horizon
            known = np.flatnonzero(selected.times < stamps[start])
            sealed = np.flatnonzero((selected.times >= stamps[start]) & (selected.times <= stamps[start + self.horizon - 1]))
            folds.append(Fold(known, sealed, refit=number == 0 or self.refit == "always", past=known, label=str(number)))
        return tuple(folds)
