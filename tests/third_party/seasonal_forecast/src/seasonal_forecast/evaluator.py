"""Judge forecasts at an origin against what came after it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from recipeline.contracts import Evaluation, Figure, Part, Predictor
from recipeline.errors import DataError
from seasonal_forecast.task import Series


class SeriesEvaluator:
    """Forecast from `part.past`, compare with the sealed rows."""

    measures = Series.metrics

    def judge(self, pipeline: Predictor, part: Part) -> Evaluation:
        series, time, target = pipeline.task.columns
        forecast = pipeline.predict(part.past, augmented=True)
        actual = pd.DataFrame({series: part.rows[series].astype(str), time: pd.to_datetime(part.rows[time]), "y": part.rows[target]})
        joined = forecast.assign(**{time: pd.to_datetime(forecast[time])}).merge(actual, on=[series, time], how="inner")
        if len(joined) != len(actual):
            raise DataError(f"{len(actual)} sealed rows, but only {len(joined)} of them were forecast", where="series_evaluator")
        functions = {metric.name: metric.function for metric in self.measures}
        metrics = {name: functions[name](joined) for name in part.metrics}
        if not part.detail:
            return Evaluation(metrics)
        first = joined[joined[series] == joined[series].iloc[0]]

        def fan(axes: Any) -> None:
            axes.fill_between(first["step"], first["q0.1"], first["q0.9"], alpha=0.3, label="80 %")
            axes.plot(first["step"], first["prediction"], label="forecast")
            axes.plot(first["step"], first["y"], marker="o", linestyle="none", label="actual")
            axes.set_xlabel("steps ahead")
            axes.legend()

        caption = f"Series {first[series].iloc[0]} from the last origin."
        return Evaluation(metrics, {"forecasts": joined}, {"fan": Figure("Forecast fan", fan, caption)})
