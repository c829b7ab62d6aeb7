"""Forecasts and walks through time as whole runs: what recipes refuse, what is fitted when, and what is the same twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest

import recipeline
from recipeline import recipe, registry, settings
from recipeline.assemble import check
from recipeline.components.forecasters import Baseline
from recipeline.contracts import FitContext
from recipeline.errors import DataError, RecipeError

SERIES = """
name: series
model:
  class_path: {model}
  hyperparameters: {hyperparameters}
  loader: {{source_uri: series.csv}}
  data_interface: {{task_type: forecasting, target_col: y, timestamp_col: t, series_col: s}}
{more}
evaluation: {{metrics: [mae, mase], validation: {{{validation}}}}}
"""
ROWS = """
name: rows
model:
  class_path: sklearn.linear_model.Ridge
  loader: {source_uri: rows.csv}
  data_interface: {task_type: regression, target_col: y, timestamp_col: t}
evaluation: {metrics: [rmse], validation: {method: walk_forward, window: 20D, step: 5D, gap: 12h, refit: every_k, every: 2}}
"""


@pytest.fixture
def train(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], recipeline.Run]:
    import shutil

    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "base.yaml").write_text("execution: {report: false}\n")
    (tmp_path / "config" / "local.yaml").write_text("")
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    random = np.random.default_rng(5)
    days = pd.date_range("2024-01-01", periods=80)
    panel = [
        pd.DataFrame({"s": name, "t": days, "y": size * (5 + np.sin(2 * np.pi * np.arange(80) / 7) + 0.1 * random.normal(size=80))})
        for name, size in (("a", 1.0), ("b", 50.0))
    ]
    pd.concat(panel).to_csv("series.csv", index=False)
    hours = pd.date_range("2024-01-01", periods=240, freq="6h")
    x = random.normal(size=240)
    pd.DataFrame({"t": hours, "x": x, "y": 2 * x + random.normal(size=240)}).to_csv("rows.csv", index=False)

    def trained(text: str) -> recipeline.Run:
        return recipeline.train(text, settings=settings.load(project=tmp_path, environ={}))

    return trained


def text(model: str = "lagged_regression", validation: str = "method: walk_forward, n_windows: 3", more: str = "", **arguments: Any) -> str:
    given = {"horizon": 4, **arguments}
    return SERIES.format(model=model, hyperparameters=json.dumps(given), validation=validation, more=more)


def test_a_search_over_a_forecaster_never_moves_its_horizon(train: Callable[[str], recipeline.Run]) -> None:
    """Its other arguments are searched on windows inside the training side; the same recipe again gives the same run."""
    asked = text(
        lookback={"type": "int", "low": 7, "high": 21, "step": 7}, quantiles=[0.25, 0.75],
        more="hyperparameter_tuning: {n_trials: 3, metric: mase, folds: 2}",
    )  # fmt: skip
    run = train(asked)
    assert set(run.best_params) == {"lookback"}
    assert all(run.metrics["mase"] < baseline["mase"] for baseline in run.baselines.values())
    again = train(asked)
    assert again.metrics == run.metrics
    assert again.best_params == run.best_params
    split = json.loads((run.artifact / "split.json").read_text())
    assert split["method"] == "walk_forward"
    assert [border["test"] for border in split["borders"]] == [8, 8, 8]


@pytest.mark.parametrize(
    ("change", "slug", "line"),
    [
        ({"horizon": {"type": "int", "low": 2, "high": 9}}, "not-searchable", 5),
        ({"validation": "method: time_split"}, "conflict", 9),
        ({"validation": "method: cross_validation, folds: 3"}, "conflict", 9),
        ({"validation": "method: walk_forward, refit: sometimes"}, "bad-value", 9),
        ({"quantiles": [0.9, 0.1]}, "bad-value", 5),
        ({"lookback": 0}, "bad-value", 5),
        ({"calibration": 2.0}, "bad-value", 5),
    ],
)
def test_mistakes_of_forecasting_recipes_are_seen_before_any_data(tmp_path: Path, change: dict[str, Any], slug: str, line: int) -> None:
    """At their line."""
    more = "hyperparameter_tuning: {enabled: true}" if "horizon" in change else "seed: 3"
    asked = text(**{"lookback": 14, "more": more, **change})
    problems = check(recipe.draft(asked), settings.load(project=tmp_path, environ={}))
    assert [(problem.slug, problem.line) for problem in problems] == [(slug, line)], problems


def test_a_model_without_a_horizon_is_refused(train: Callable[[str], recipeline.Run]) -> None:
    """Before the data are cut."""
    with pytest.raises(RecipeError, match="does not say how many steps"):
        train(text("sklearn.linear_model.Ridge").replace('{"horizon": 4}', "{}"))


class Counting(Baseline):
    """Naive, and remembers which fit it is."""

    heard: ClassVar[list[tuple[str, int | None]]] = []

    def __init__(self, horizon: int) -> None:
        super().__init__("naive", horizon)

    def fit(self, X: pd.DataFrame, y: Any = None, *, context: FitContext) -> Counting:  # type: ignore[override]
        self.number = 0 if context.previous is None else context.previous.number + 1
        Counting.heard.append((str(X["timestamp"].max().date()), None if context.previous is None else context.previous.number))
        return super().fit(X, y)  # type: ignore[return-value]


@pytest.fixture
def counting() -> Iterator[None]:
    Counting.heard.clear()
    registry.register("model", "counting", Counting)
    yield
    registry.unregister("model", "counting")


def test_a_warm_start_hands_the_fitted_model_on(train: Callable[[str], recipeline.Run], counting: None) -> None:
    """From window to window, saved and read back in between."""
    train(text("counting", "method: walk_forward, n_windows: 3, refit: warm_start"))
    assert Counting.heard == [("2024-03-08", None), ("2024-03-12", 0), ("2024-03-16", 1)]


def test_rows_walk_through_time(train: Callable[[str], recipeline.Run]) -> None:
    """Regression, with lengths as durations: eight windows of five days, each fit on twenty days, every second one fitted anew."""
    run = train(ROWS)
    split = json.loads((run.artifact / "split.json").read_text())
    assert [border["refit"] for border in split["borders"]] == [True, False] * 3 + [True]
    assert {border["test"] for border in split["borders"]} == {20}
    assert {border["train"] for border in split["borders"]} == {80}
    data = pd.read_csv("rows.csv", parse_dates=["t"])
    from sklearn.linear_model import Ridge

    scores = []
    end = data["t"].max()
    for window in range(7):
        origin = end - pd.Timedelta("12h") - pd.Timedelta("5D") * (7 - window)
        fitted = origin - pd.Timedelta("5D") * (window % 2)
        past = data[(data["t"] <= fitted) & (data["t"] > fitted - pd.Timedelta("20D"))]
        judged = data[(data["t"] > origin + pd.Timedelta("12h")) & (data["t"] <= origin + pd.Timedelta("5.5D"))]
        residual = Ridge(random_state=42).fit(past[["x"]], past["y"]).predict(judged[["x"]]) - judged["y"]
        scores.append(np.sqrt(np.mean(residual**2)))
    assert run.metrics["rmse"] == pytest.approx(np.mean(scores), rel=1e-9)


def test_series_too_short_for_the_windows_end_the_run_in_words(train: Callable[[str], recipeline.Run]) -> None:
    """One line, before anything is fitted."""
    with pytest.raises(DataError, match="30 windows of 4 steps of D leave 0 steps of D of 80 steps of D to train on"):
        train(text(lookback=14, validation="method: walk_forward, n_windows: 30"))
