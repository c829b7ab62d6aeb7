"""A linear map from the last values to the next ones, learned by gradient descent, one epoch after the other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel

from recipeline.contracts import FitContext, Route, Selected
from recipeline.errors import DataError, Problem
from recipeline.stores import files


class ForecastRequest(BaseModel):
    y: list[float]
    start: str


class ForecastResponse(BaseModel):
    prediction: list[float]


class SeasonalLinear:
    """Direct forecasts of `horizon` steps from the last `lookback` values, with residual quantiles.

    lookback, horizon  steps; learning_rate per epoch; epochs at most, a checkpoint after each
    """

    def __init__(
        self,
        lookback: int = 24,
        horizon: int = 12,
        quantiles: tuple[float, ...] | list[float] = (0.1, 0.5, 0.9),
        epochs: int = 60,
        learning_rate: float = 0.05,
    ) -> None:
        self.lookback, self.horizon = lookback, horizon
        self.quantiles, self.epochs, self.learning_rate = quantiles, epochs, learning_rate

    @classmethod
    def example(cls) -> dict[str, Any]:
        """For the contract suite: constructor arguments."""
        return {"lookback": 8, "horizon": 4, "epochs": 5}

    @classmethod
    def example_data(cls) -> Selected:
        """For the contract suite: one series of 60 days."""
        y = np.sin(np.arange(60) / 3)
        return Selected(X=pd.DataFrame({"series": "a", "time": pd.date_range("2024-01-01", periods=60), "y": y}), y=y)

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:
        quantiles = params.get("quantiles", (0.1, 0.5, 0.9))
        if isinstance(quantiles, (list, tuple)) and list(quantiles) != sorted(set(quantiles)):
            return [Problem("bad-value", ("quantiles",), f"{list(quantiles)} is not sorted", "write them in ascending order", at="value")]
        return []

    def fit(self, X: pd.DataFrame, y: Any = None, *, context: FitContext) -> Self:
        past, future = self._windows(X)
        cut = max(1, int(0.85 * len(past)))
        self.weights_, moment, epoch = np.zeros((self.lookback + 1, self.horizon)), np.zeros((self.lookback + 1, self.horizon)), 0
        checkpoint = context.folder / "checkpoint.npz"
        if checkpoint.is_file():
            with np.load(checkpoint) as kept:
                self.weights_, moment, epoch = kept["weights"], kept["moment"], int(kept["epoch"])
            context.events.emit("resumed", epoch=epoch)
        self.resumed_from_ = epoch
        for number in range(epoch, self.epochs):
            error = past[:cut] @ self.weights_ - future[:cut]
            moment = 0.9 * moment + past[:cut].T @ error / cut
            self.weights_ = self.weights_ - self.learning_rate * moment / self.lookback
            with files.atomic_path(checkpoint) as target, target.open("wb") as stream:
                np.savez(stream, weights=self.weights_, moment=moment, epoch=number + 1)
            context.progress.advance(number + 1, self.epochs, "epochs")
            held_back = future[cut:] if cut < len(past) else future
            score = float(np.mean(np.abs((past[cut:] if cut < len(past) else past) @ self.weights_ - held_back)))
            if context.progress.report(number, score):
                break
        residuals = (past @ self.weights_ - future)[cut // 2 :]
        self.offsets_ = np.quantile(-residuals, list(self.quantiles), axis=0)  # (Q, horizon)
        return self

    def predict(self, X: pd.DataFrame) -> pd.DataFrame:
        """(series, time, step, prediction, q…) for the `horizon` steps after the last row of every series."""
        frames = []
        for name, rows in X.groupby("series", sort=True):
            ordered = rows.sort_values("time")
            values, step = ordered["y"].to_numpy()[-self.lookback :], ordered["time"].diff().median()
            if len(values) < self.lookback:
                raise DataError(f"series {name} has {len(values)} values, {self.lookback} are needed", where="seasonal_linear")
            center = self._forecast(values)
            frame = pd.DataFrame({"series": name, "time": [ordered["time"].iloc[-1] + step * (k + 1) for k in range(self.horizon)]})
            frame["step"], frame["prediction"] = np.arange(1, self.horizon + 1), center
            for level, offset in zip(self.quantiles, self.offsets_, strict=True):
                frame[f"q{level:g}"] = center + offset
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def _forecast(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        level = values[-1]
        row = np.append(values - level, 1.0)
        result: np.ndarray[Any, Any] = row @ self.weights_ + level
        return result

    def _windows(self, X: pd.DataFrame) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        pasts, futures = [], []
        for _, rows in X.groupby("series", sort=True):
            y = rows.sort_values("time")["y"].to_numpy()
            if len(y) < self.lookback + self.horizon:
                continue
            pairs = np.lib.stride_tricks.sliding_window_view(y, self.lookback + self.horizon)
            level = pairs[:, [self.lookback - 1]]
            pasts.append(np.column_stack([pairs[:, : self.lookback] - level, np.ones(len(pairs))]))
            futures.append(pairs[:, self.lookback :] - level)
        if not pasts:
            raise DataError(f"no series has {self.lookback + self.horizon} values", where="seasonal_linear")
        return np.concatenate(pasts), np.concatenate(futures)

    # --- kept in a plain format of its own ---

    def save(self, folder: Path) -> None:
        arguments = {name: getattr(self, name) for name in ("lookback", "horizon", "epochs", "learning_rate")}
        files.write_json(folder / "model.json", {**arguments, "quantiles": list(self.quantiles)})
        with files.atomic_path(folder / "weights.npz") as target, target.open("wb") as stream:
            np.savez(stream, weights=self.weights_, offsets=self.offsets_)

    @classmethod
    def load(cls, folder: Path) -> Self:
        model = cls(**json.loads((folder / "model.json").read_text(encoding="utf-8")))
        with np.load(folder / "weights.npz") as kept:
            model.weights_, model.offsets_ = kept["weights"], kept["offsets"]
        return model

    # --- an HTTP route of its own ---

    def routes(self) -> list[Route]:
        def forecast(request: ForecastRequest) -> ForecastResponse:
            if len(request.y) < self.lookback:
                raise DataError(f"{self.lookback} values are needed, got {len(request.y)}")
            return ForecastResponse(prediction=self._forecast(np.array(request.y[-self.lookback :])).tolist())

        return [Route("POST", "/series/forecast", ForecastRequest, ForecastResponse, forecast, summary="Forecast one series")]
