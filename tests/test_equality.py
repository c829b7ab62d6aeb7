"""The engine against hand-written scikit-learn: same rows, same model, same numbers to 1e-12."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score, roc_auc_score, root_mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import recipeline

SCALED = {"name": "default_preprocessor", "params": {"numerical_strategy": "standard"}}
CLASSIFIERS: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
    "logistic regression": (
        {"class_path": "sklearn.linear_model.LogisticRegression", "hyperparameters": {"max_iter": 1000}, "preprocessor": SCALED},
        lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, random_state=42)),
    ),
    "forest": (
        {"class_path": "sklearn.ensemble.RandomForestClassifier", "hyperparameters": {"n_estimators": 200}},
        lambda: RandomForestClassifier(200, random_state=42),
    ),
    "hist-GB": (
        {"class_path": "sklearn.ensemble.HistGradientBoostingClassifier", "hyperparameters": {"max_iter": 20}},
        lambda: HistGradientBoostingClassifier(max_iter=20, random_state=42),
    ),
}
REGRESSORS: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
    "ridge": ({"class_path": "sklearn.linear_model.Ridge"}, lambda: Ridge(random_state=42)),
    "forest": (
        {"class_path": "sklearn.ensemble.RandomForestRegressor", "hyperparameters": {"n_estimators": 200}},
        lambda: RandomForestRegressor(200, random_state=42),
    ),
    "hist-GB": (
        {"class_path": "sklearn.ensemble.HistGradientBoostingRegressor", "hyperparameters": {"max_iter": 20}},
        lambda: HistGradientBoostingRegressor(max_iter=20, random_state=42),
    ),
}
# engine.md's reference figures: (accuracy, roc_auc) or (r2, rmse), rounded to four digits there
REFERENCE = {
    ("iris", "logistic regression"): (0.9333, 0.9967),
    ("wine", "logistic regression"): (0.9722, 1.0),
    ("breast_cancer", "logistic regression"): (0.9825, 0.9954),
    ("digits", "logistic regression"): (0.9722, 0.9991),
    ("breast_cancer", "forest"): (0.9561, 0.9931),
    ("diabetes", "ridge"): (0.4192, 55.474),
    ("diabetes", "forest"): (0.4402, 54.461),
}


def written(name: str, folder: Path) -> tuple[Path, pd.DataFrame, np.ndarray]:
    bunch = getattr(datasets, f"load_{name}")(as_frame=True)
    path = folder / f"{name}.parquet"
    bunch.data.assign(target=bunch.target).to_parquet(path, index=False)
    return path, bunch.data, bunch.target.to_numpy()


def trained(model: dict[str, Any], path: Path, task: str, metrics: list[str]) -> Any:
    return recipeline.train(
        {
            "name": "equality",
            "model": {
                **model,
                "loader": {"name": "default_loader", "source_uri": str(path)},
                "data_interface": {"task_type": task, "target_col": "target"},
            },
            "evaluation": {
                "metrics": metrics,
                "validation": {"method": "train_test_split", "test_size": 0.2, "random_state": 42, "stratify": task == "classification"},
            },
        }
    )


@pytest.mark.parametrize("data", ["iris", "wine", "breast_cancer", "digits"])
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classification_equals_scikit_learn(project: Path, data: str, name: str) -> None:
    """Labels exactly, probabilities and metrics to 1e-12, and the published reference to its four digits."""
    path, X, y = written(data, project)
    recipe, by_hand = CLASSIFIERS[name]
    train_rows, test_rows = train_test_split(np.arange(len(y)), test_size=0.2, random_state=42, stratify=y)
    reference = by_hand().fit(X.to_numpy(float)[train_rows], y[train_rows])
    probability = reference.predict_proba(X.to_numpy(float)[test_rows])
    run = trained(recipe, path, "classification", ["accuracy", "roc_auc"])
    auc = roc_auc_score(y[test_rows], probability[:, 1] if probability.shape[1] == 2 else probability, multi_class="ovr")
    accuracy = accuracy_score(y[test_rows], reference.predict(X.to_numpy(float)[test_rows]))
    assert run.metrics["accuracy"] == pytest.approx(accuracy, abs=1e-12)
    assert run.metrics["roc_auc"] == pytest.approx(auc, abs=1e-12)
    output = recipeline.load(run.id).predict(X.iloc[test_rows])
    assert (output["prediction"].to_numpy() == reference.predict(X.to_numpy(float)[test_rows])).all()
    ours = output[[f"probability_{label}" for label in np.unique(y)]].to_numpy()
    assert np.abs(ours - probability).max() <= 1e-12
    if (data, name) in REFERENCE:
        assert (accuracy, auc) == pytest.approx(REFERENCE[data, name], abs=5.1e-5)


@pytest.mark.parametrize("name", REGRESSORS)
def test_regression_equals_scikit_learn(project: Path, name: str) -> None:
    """Predictions and metrics to 1e-12 relative, and the published reference."""
    path, X, y = written("diabetes", project)
    recipe, by_hand = REGRESSORS[name]
    train_rows, test_rows = train_test_split(np.arange(len(y)), test_size=0.2, random_state=42)
    reference = by_hand().fit(X.to_numpy(float)[train_rows], y[train_rows])
    expected = reference.predict(X.to_numpy(float)[test_rows])
    run = trained(recipe, path, "regression", ["r2", "rmse"])
    r2, rmse = r2_score(y[test_rows], expected), root_mean_squared_error(y[test_rows], expected)
    assert run.metrics["r2"] == pytest.approx(r2, abs=1e-12)
    assert run.metrics["rmse"] == pytest.approx(rmse, rel=1e-12)
    ours = recipeline.load(run.id).predict(X.iloc[test_rows])["prediction"].to_numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-12)
    if ("diabetes", name) in REFERENCE:
        assert (r2, rmse) == pytest.approx(REFERENCE["diabetes", name], abs=5.1e-4)
