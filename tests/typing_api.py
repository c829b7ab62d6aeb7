"""A program that exists only to be type-checked (`make lint`): the library as its users call it. Nothing runs it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, assert_type

import numpy as np
import pandas as pd
from pydantic import BaseModel

import recipeline
from recipeline.contracts import (
    Augmenter,
    Checked,
    Evaluation,
    Evaluator,
    Exporter,
    FitContext,
    Fold,
    Kept,
    Loader,
    Metric,
    Model,
    Output,
    Part,
    Predictor,
    Preprocessor,
    Progress,
    Route,
    Selected,
    Silent,
    Split,
    Splitter,
    Streams,
    Task,
)
from recipeline.errors import DataError, Problem, RecipeError, RecipelineError
from recipeline.schema import Column, InputSchema
from recipeline.settings import Settings
from recipeline.settings import load as load_settings

if TYPE_CHECKING:
    import pyarrow as pa


# --- the library -----------------------------------------------------------------------------------------------------


def train_and_predict(recipe: str | Path, rows: pd.DataFrame) -> pd.DataFrame:
    settings = load_settings(overrides=["execution.report=false"])
    assert_type(settings, Settings)
    assert_type(settings.api_serving.limits.max_rows, int)
    try:
        run = recipeline.train(recipe, params={"date": "2026-01-01"}, settings=settings, progress=Silent(), resume=None)
    except RecipeError as error:
        assert_type(error.problems, tuple[Problem, ...])
        raise
    except DataError as error:
        assert_type(error.code, int)
        raise
    assert_type(run, recipeline.Run)
    assert_type(run.metrics, Mapping[str, float])
    assert_type(run.artifact, Path)
    assert_type(run.as_dict(), dict[str, Any])
    pipeline = recipeline.load(run.id, settings=settings)
    assert_type(pipeline, recipeline.Pipeline)
    assert_type(pipeline.run_id, str)
    assert_type(pipeline.schema.features, tuple[str, ...])
    return pipeline.predict(rows)


def other_ways() -> None:
    recipe = recipeline.load_recipe({"name": "x", "model": {}})
    assert_type(recipe, recipeline.Recipe)
    recipeline.train(recipe)
    recipeline.train({"name": "x", "model": {}})
    recipeline.load(Path("mlruns/0/7f3c/artifacts/model"))
    assert_type(recipe.resolved({}), dict[str, Any])
    assert_type(recipeline.parse_select_columns("SELECT a FROM t", dialect="sqlite"), list[str])
    recipeline.register("model", "mean", Mean)
    problem: RecipelineError = DataError("no rows", hint="load some", slug="no-rows", where="data.csv")
    raise problem


class Judge(recipeline.BaseEvaluator):
    """An evaluator that only compares."""

    def evaluate(self, y_true: Any, y_pred: Any, **kwargs: Any) -> dict[str, float]:
        return {"bias": float(np.mean(np.asarray(y_pred) - np.asarray(y_true)))}


# --- parts: each a class of a stranger, held against its seam ----------------------------------------------------------


class Numbers:
    def __init__(self, n: int = 3) -> None:
        self.n = n

    def load(self) -> pd.DataFrame:
        return pd.DataFrame({"x": range(self.n)})

    def batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        raise NotImplementedError

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:
        return [] if params.get("n", 3) > 0 else [Problem("bad-value", ("n",), "must be more than 0", at="value")]


class Doubled:
    def augment(self, frame: pd.DataFrame, *, online: bool) -> pd.DataFrame:
        return frame.assign(twice=2 * frame["x"])


class Centred:
    def fit(self, X: Any, y: Any = None) -> Centred:
        self.mean_ = np.mean(X, axis=0)
        return self

    def transform(self, X: Any) -> Any:
        return X - self.mean_


class Mean:
    def fit(self, X: Any, y: Any = None, *, context: FitContext | None = None) -> Mean:
        self.mean_ = float(np.mean(y))
        if context is not None and context.progress.report(0, self.mean_):
            context.events.emit("stopped", at=0)
        return self

    def predict(self, X: Any) -> Any:
        return np.full(len(X), self.mean_)

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path) -> Mean:
        return cls()

    def routes(self) -> list[Route]:
        return [Route("GET", "/mean", None, None, lambda: {"mean": self.mean_}, summary="The mean")]


class LastRow:
    def split(self, selected: Selected, task: Any) -> Split:
        n = len(selected.X)
        return Split((Fold(np.arange(n - 1), np.arange(n - 1, n)),), keep="last", audit={"rows": n})

    def inner(self, selected: Selected, task: Any, folds: int) -> tuple[Fold, ...]:
        return self.split(selected, task).folds * folds


def bias(actual: Any, predicted: Any, *, weight: Any = None) -> float:
    return float(np.average(predicted - actual, weights=weight))


BIAS = Metric("bias", "minimize", "prediction", bias, aliases=("mean_error",))


class Compared:
    measures: Sequence[Metric] = (BIAS,)

    def judge(self, pipeline: Predictor, part: Part) -> Evaluation:
        said = pipeline.predict(part.rows, augmented=True)
        return Evaluation({"bias": bias(part.selected.y, said["prediction"].to_numpy())}, {"said": said} if part.detail else {})


class Interface(BaseModel):
    target_col: str


class Levels:
    Interface: ClassVar[type[BaseModel]] = Interface
    metrics: ClassVar[tuple[Metric, ...]] = (BIAS,)
    splitter: ClassVar[str] = "last_row"
    evaluator: ClassVar[str] = "compared"
    streams: ClassVar[Literal["rows", "groups", "whole"]] = "rows"

    def __init__(self, interface: Any) -> None:
        self.interface = interface

    def describe(self, data: Any) -> InputSchema:
        return InputSchema((Column("x", "float64"),), target={"names": ["y"]})

    def select(self, data: Any, schema: InputSchema, *, targets: bool) -> Selected:
        return Selected(X=data[["x"]], y=data["y"].to_numpy() if targets else None)

    def fit(self, model: Any, selected: Selected, context: FitContext) -> Any:
        return model.fit(selected.X, selected.y)

    def rows(self, model: Any, selected: Selected, schema: InputSchema) -> pd.DataFrame:
        return pd.DataFrame({"prediction": model.predict(selected.X)})

    def output(self, schema: InputSchema) -> Output:
        return Output(keys=(), values=("prediction",))

    def baselines(self, schema: InputSchema) -> Mapping[str, Any]:
        return {"mean": Mean()}


class Text:
    def export(self, pipeline: Any, folder: Path, **options: Any) -> dict[str, Any]:
        return {"files": 0}


class Bar:
    def report(self, step: int, value: float) -> bool:
        return False

    def advance(self, done: int, total: int | None = None, label: str = "") -> None: ...


loader: Loader = Numbers()
streams: Streams = Numbers()
checked: type[Checked] = Numbers
augmenter: Augmenter = Doubled()
preprocessor: Preprocessor = Centred()
model: Model = Mean()
kept: Kept = Mean()
splitter: Splitter = LastRow()
evaluator: Evaluator = Compared()
task: type[Task] = Levels
exporter: Exporter = Text()
progress: Progress = Bar()
context = FitContext(seed=7, folder=Path(), progress=progress)
