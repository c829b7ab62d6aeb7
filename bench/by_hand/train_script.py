"""What a careful person writes by hand: read, split, fit, save, read back, judge, track. Peer of `bench.train_overhead`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import skops.io
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def searched(X: np.ndarray, y: np.ndarray) -> float:
    """The best C of 30 trials by five folds; pruned and kept in a journal, so that a crash does not lose the search."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folds = list(StratifiedKFold(5, shuffle=True, random_state=42).split(X, y))

    def objective(trial: optuna.Trial) -> float:
        C = trial.suggest_float("C", 0.001, 100.0, log=True)
        scores: list[float] = []
        for step, (fit, judge) in enumerate(folds):
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, C=C)).fit(X[fit], y[fit])
            scores.append(roc_auc_score(y[judge], model.predict_proba(X[judge])[:, 1]))
            trial.report(float(np.mean(scores)), step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return float(np.mean(scores))

    with tempfile.TemporaryDirectory() as folder:
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(f"{folder}/study.log")),
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=42), pruner=optuna.pruners.NopPruner(),
        )  # fmt: skip
        study.enqueue_trial({"C": 1.0})
        study.optimize(objective, n_trials=30)
        return float(study.best_params["C"])


def main(name: str) -> None:
    mlflow.set_tracking_uri("sqlite:///by_hand.db")
    if mlflow.get_experiment_by_name("by_hand") is None:
        mlflow.create_experiment("by_hand", artifact_location=Path("by_hand_runs").absolute().as_uri())
    mlflow.set_experiment("by_hand")
    data = pd.read_csv("breast_cancer.csv")
    y = (data["diagnosis"] == "malignant").astype(int)
    X = data.drop(columns=["diagnosis", "patient_id"])
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, stratify=y, random_state=42)
    params: dict[str, Any] = {"n_estimators": 200, "random_state": 42} if name == "forest" else {"max_iter": 1000}
    if name == "tuned":
        params["C"] = searched(X_train.to_numpy(), y_train.to_numpy())
    model = RandomForestClassifier(**params) if name == "forest" else make_pipeline(StandardScaler(), LogisticRegression(**params))
    with mlflow.start_run() as run:
        mlflow.log_params({**params, "model": type(model).__name__, "test_size": 0.2, "random_state": 42})
        model.fit(X_train.to_numpy(), y_train)
        # Not mlflow.sklearn.log_model, which imports every flavour of MLflow: a careful person saves what is needed.
        skops.io.dump(model, "model.skops")
        mlflow.log_artifact("model.skops")
        saved = Path(run.info.artifact_uri.removeprefix("file://")) / "model.skops"
        read = skops.io.load(saved, trusted=["numpy.dtype", "sklearn.tree._tree.Tree"])
        probability = read.predict_proba(X_test.to_numpy())[:, 1]
        dummy = DummyClassifier(strategy="prior").fit(X_train, y_train)
        mlflow.log_metrics(
            {
                "accuracy": accuracy_score(y_test, read.predict(X_test.to_numpy())),
                "roc_auc": roc_auc_score(y_test, probability),
                "dummy.accuracy": accuracy_score(y_test, dummy.predict(X_test)),
                "dummy.roc_auc": roc_auc_score(y_test, dummy.predict_proba(X_test)[:, 1]),
            }
        )


if __name__ == "__main__":
    main(sys.argv[1])
