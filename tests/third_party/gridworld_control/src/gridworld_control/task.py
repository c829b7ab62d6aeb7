"""What control is: an environment instead of rows, episodes instead of a test set, an action for a state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from gridworld_control.agent import RandomWalk
from recipeline.contracts import Evaluation, Figure, FitContext, Fold, Metric, Output, Part, Predictor, Selected, Split
from recipeline.schema import Column, InputSchema


class ControlInterface(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    task_type: Literal["control"]


def _mean(returns: pd.DataFrame) -> float:
    return float(returns["return"].mean())


def _success(returns: pd.DataFrame) -> float:
    return float(returns["reached"].mean())


class Control:
    """An agent in an environment; at prediction a row is a state and the output an action."""

    Interface = ControlInterface
    metrics = (
        Metric("return_mean", "maximize", "frame", _mean, summary="mean return of the evaluation episodes"),
        Metric("success_rate", "maximize", "frame", _success, summary="share of episodes that reached the goal"),
    )
    preprocessor = None  # the model takes the rows as they are
    splitter = "evaluation_episodes"
    evaluator = "control_evaluator"
    streams: Literal["rows"] = "rows"

    def __init__(self, interface: ControlInterface) -> None:
        self.interface = interface

    def describe(self, data: Any) -> InputSchema:
        return InputSchema((Column("row", "int64", example=0), Column("column", "int64", example=0)), extras={"size": data.size})

    def select(self, data: Any, schema: InputSchema, *, targets: bool) -> Selected:
        return Selected(X=data if targets else data[["row", "column"]].to_numpy())

    def fit(self, model: Any, selected: Selected, context: FitContext) -> Any:
        return model.fit(selected.X, context=context)

    def rows(self, model: Any, selected: Selected, schema: InputSchema) -> pd.DataFrame:
        return pd.DataFrame({"prediction": model.predict(selected.X)})

    def output(self, schema: InputSchema) -> Output:
        return Output(keys=(), values=("prediction",))

    def baselines(self, schema: InputSchema) -> Mapping[str, Any]:
        return {"random_walk": RandomWalk()}


class EvaluationEpisodes:
    """Seal the seeds of the evaluation episodes, not rows."""

    def __init__(self, episodes: int = 30) -> None:
        self.episodes = episodes

    def split(self, selected: Selected, task: Any) -> Split:
        return Split((Fold(None, None, label="episodes"),), audit={"method": "evaluation_episodes", "episodes": self.episodes})

    def inner(self, selected: Selected, task: Any, folds: int) -> tuple[Fold, ...]:
        return tuple(Fold(None, None, label=f"inner{number}") for number in range(folds))


class ControlEvaluator:
    """Play episodes that training never saw the seeds of."""

    measures = Control.metrics

    def __init__(self, episodes: int = 30) -> None:
        self.episodes = episodes

    def judge(self, pipeline: Predictor, part: Part) -> Evaluation:
        world, played = part.rows, []
        for number in range(self.episodes):
            rng = np.random.default_rng([part.seed, 77, number])
            state, total, reached = (0, 0), 0.0, False
            for _ in range(20 * world.size):
                action = int(pipeline.model.predict(np.array([state]))[0])
                state, reward, reached = world.step(state, action, rng)
                total += reward
                if reached:
                    break
            played.append({"episode": number, "return": total, "reached": reached})
        frame = pd.DataFrame(played)
        functions = {metric.name: metric.function for metric in self.measures}
        metrics = {name: functions[name](frame) for name in part.metrics}

        def draw(axes: Any) -> None:
            axes.plot(frame["episode"], frame["return"], marker="o")
            axes.set_xlabel("episode")
            axes.set_ylabel("return")

        figures = {"episodes": Figure("Evaluation episodes", draw, "Return of every sealed episode.")}
        return Evaluation(metrics, {"episodes": frame} if part.detail else {}, figures if part.detail else {})
