"""What a careful person writes by hand: read, split, fit, save, read back, judge, track. Peer of `bench.train_overhead`."""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow
import pandas as pd
import skops.io
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def main(name: str) -> None:
    mlflow.set_tracking_uri("sqlite:///by_hand.db")
    if mlflow.get_experiment_by_name("by_hand") is None:
        mlflow.create_experiment("by_hand", artifact_location=Path("by_hand_runs").absolute().as_uri())
    mlflow.set_experiment("by_hand")
    data = pd.read_csv("breast_cancer.csv")
    y = (data["diagnosis"] == "malignant").astype(int)
    X = data.drop(columns=["diagnosis", "patient_id"])
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.2, stratify=y, random_state=42)
    params = {"max_iter": 1000} if name == "logistic" else {"n_estimators": 200, "random_state": 42}
    model = make_pipeline(StandardScaler(), LogisticRegression(**params)) if name == "logistic" else RandomForestClassifier(**params)
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
