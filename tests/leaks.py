"""What a recipe scores on sealed rows, many times, for tests of leaks and the bench that prints their table.

Each score is that of the product's own straight line (split, tune, fit, save, read back, judge) in a work folder; only tracking
is left out. A figure is the mean over seeds; each seed has its own split, its own model seed and its own shuffle of the target.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recipeline.assemble import assemble
from recipeline.contracts import Silent
from recipeline.folds import Line
from recipeline.recipe import load
from recipeline.settings import Settings
from recipeline.work import Work

LOGISTIC = "sklearn.linear_model.LogisticRegression"


@dataclass(frozen=True)
class Figure:
    """Mean and standard error of scores; z: how many standard errors lie between the mean and chance."""

    scores: tuple[float, ...]
    chance: float = 0.5

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores))

    @property
    def error(self) -> float:
        return float(np.std(self.scores, ddof=1) / np.sqrt(len(self.scores)))

    @property
    def z(self) -> float:
        away = self.mean - self.chance
        return away / self.error if self.error else math.copysign(math.inf, away)

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.error:.4f}  z {self.z:+.2f}  ({len(self.scores)} seeds)"


def recipe(**changes: Any) -> dict[str, Any]:
    """A logistic regression judged on a fifth of the rows; changes by section, those of `model` one level deeper."""
    document: dict[str, Any] = {
        "name": "leaks",
        "model": {
            "class_path": LOGISTIC,
            "loader": {"name": "default_loader", "source_uri": "given.parquet"},
            "data_interface": {"task_type": "classification", "target_col": "y"},
        },
        "evaluation": {"metrics": ["roc_auc"], "validation": {"method": "train_test_split", "stratify": True}},
    }
    for section, value in changes.items():
        document[section] = {**document.get(section, {}), **value} if isinstance(value, Mapping) else value
    return document


def judge(document: Mapping[str, Any], frame: pd.DataFrame, folder: Path, seed: int = 42) -> dict[str, float]:
    """The metrics of the sealed rows, the mean over the folds where there are several."""
    settings = Settings(environment="local")
    components = assemble(load({**document, "seed": seed}), settings)
    task = components.task
    schema = task.describe(frame)
    selected = task.select(frame, schema, targets=True)
    with Work.open(folder, {"seed": seed, "recipe": document}) as work:
        line = Line(components, frame, selected, schema, work, Silent(), Silent())
        outcome = line.run(components.splitter.split(selected, task))
    shutil.rmtree(work.folder)
    return {name: float(np.mean([fold.metrics[name] for fold in outcome.folds])) for name in outcome.folds[0].metrics}


def permuted(
    document: Mapping[str, Any], frame: Callable[[np.random.Generator], pd.DataFrame], folder: Path, seeds: Iterable[int],
    *, metric: str = "roc_auc",
) -> Figure:  # fmt: skip
    """Scores on targets that were shuffled: nothing can be learned, so what is not chance was leaked."""
    scores = []
    for seed in seeds:
        random = np.random.default_rng([seed, 7])
        given = frame(random)
        given["y"] = random.permutation(given["y"].to_numpy())
        scores.append(judge(document, given, folder, seed)[metric])
    return Figure(tuple(scores))


# --- data ------------------------------------------------------------------------------------------------------------------


def mixed(random: np.random.Generator, n: int = 200) -> pd.DataFrame:
    """Numbers with outliers and nulls, a text of many values and one of few; the target depends on three of them."""
    frame = pd.DataFrame(random.standard_t(3, size=(n, 4)), columns=["a", "b", "c", "d"])
    frame["city"] = random.integers(0, n // 4, n).astype(str)
    frame["plan"] = random.choice(["x", "y", "z"], n)
    score = frame["a"] - frame["b"] + (frame["plan"] == "x")
    frame["y"] = (score + random.normal(size=n) > score.median()).astype(int)
    frame.loc[random.random(n) < 0.15, "c"] = np.nan
    frame.loc[random.random(n) < 0.15, "plan"] = None
    return frame


def wide(random: np.random.Generator, n: int = 100, d: int = 400) -> pd.DataFrame:
    """Far more columns than rows, all noise."""
    frame = pd.DataFrame(random.normal(size=(n, d)), columns=[f"x{at:03d}" for at in range(d)])
    frame["y"] = np.repeat([0, 1], n // 2)
    return frame


def coded(random: np.random.Generator, n: int = 2400, levels: int = 1200, signal: float = 1.0) -> pd.DataFrame:
    """One number that matters by `signal`, and a text of 1,200 values that does not."""
    frame = pd.DataFrame({"a": random.normal(size=n), "code": random.integers(0, levels, n).astype(str)})
    frame["y"] = (signal * frame["a"] + random.logistic(size=n) > 0).astype(int)
    return frame


# --- pipelines -------------------------------------------------------------------------------------------------------------


def preprocessed(**params: Any) -> dict[str, Any]:
    return {"preprocessor": {"name": "default_preprocessor", "params": params}}


def selection(columns: list[str], k: Any = 5) -> dict[str, Any]:
    """`SelectKBest` in `steps:` of the preprocessor."""
    best = {"class_path": "sklearn.feature_selection.SelectKBest", "params": {"k": k}}
    return preprocessed(steps=[{"name": "best", "transformer": best, "columns": columns}])


WIDE = [f"x{at:03d}" for at in range(400)]
NARROW = WIDE[:60]
_BINS = {"n_bins": 4, "quantile_method": "averaged_inverted_cdf"}
_STEPS = [
    {
        "name": "shape",
        "transformer": {"class_path": "sklearn.preprocessing.PowerTransformer"},
        "columns": ["a", "b"],
    },
    {
        "name": "bins",
        "transformer": {"class_path": "sklearn.preprocessing.KBinsDiscretizer", "params": _BINS},
        "columns": ["d"],
    },
    {
        "name": "target",
        "transformer": {"class_path": "sklearn.preprocessing.TargetEncoder"},
        "columns": ["city"],
    },
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    document: Mapping[str, Any]
    frame: Callable[[np.random.Generator], pd.DataFrame] = mixed
    metric: str = "roc_auc"


CASES: dict[str, Case] = {
    "target encoding": Case(recipe(model=preprocessed(categorical_strategy="target"))),
    "outliers left out (iqr)": Case(recipe(model=preprocessed(outlier_detection=True, outlier_method="iqr"))),
    "outliers left out (isolation forest)": Case(recipe(model=preprocessed(outlier_detection=True, outlier_method="isolation_forest"))),
    "nulls filled (mean)": Case(recipe(model=preprocessed(missing_strategy="mean"))),
    "rows with nulls left out": Case(recipe(model=preprocessed(missing_strategy="drop"))),
    "steps of one's own": Case(recipe(model=preprocessed(steps=_STEPS, numerical_strategy="robust"))),
    "SelectKBest in steps": Case(recipe(model=selection(NARROW)), lambda random: wide(random, d=60)),
    "search with the selection nested": Case(
        recipe(
            model={
                **selection(NARROW, {"type": "int", "low": 1, "high": 30}),
                "hyperparameters": {"C": {"type": "float", "low": 0.01, "high": 10.0, "log": True}},
            },
            hyperparameter_tuning={"enabled": True, "n_trials": 3, "folds": 2, "metric": "roc_auc"},
        ),
        lambda random: wide(random, d=60),
    ),
    "decision_threshold: tune": Case(
        recipe(
            model={"data_interface": {"task_type": "classification", "target_col": "y", "decision_threshold": "tune"}},
            evaluation={"metrics": ["balanced_accuracy"]},
        ),
        lambda random: mixed(random, n=80),
        metric="balanced_accuracy",
    ),
    "cross-validation": Case(
        recipe(model=preprocessed(categorical_strategy="target"), evaluation={"validation": {"method": "cross_validation", "folds": 2}})
    ),
}  # fmt: skip
