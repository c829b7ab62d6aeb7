"""Workers: parts find them while they are fitted, batches are predicted side by side, and no bit changes."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression

import recipeline
from recipeline import parallel, registry, settings
from recipeline.batch import run_batch
from recipeline.components.classification import Classification, ClassificationInterface
from recipeline.components.evaluators import TabularEvaluator
from recipeline.contracts import FitContext
from recipeline.errors import DataError, RecipeError
from recipeline.pipeline import Pipeline
from recipeline.settings import Joblib

RECIPE = """
model:
  class_path: CLASS
  loader: {source_uri: recipes/data/breast_cancer.csv}
  data_interface: {task_type: classification, target_col: diagnosis}
hyperparameter_tuning: {enabled: ENABLED, n_trials: 2, folds: 2}
evaluation: {metrics: [accuracy, log_loss], validation: {method: cross_validation, folds: 2}}
"""
SEEN: list[tuple[str, int, str]] = []


class Witness(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Notes which workers joblib would give it."""

    def __init__(self, C: float = 1.0) -> None:
        self.C = C

    def fit(self, X: Any, y: Any) -> Witness:
        self._note("fit")
        self.inner_ = LogisticRegression(C=self.C, max_iter=5000).fit(X / 100, y)
        self.classes_ = self.inner_.classes_
        return self

    def predict(self, X: Any) -> Any:
        return self.inner_.predict(X / 100)

    def predict_proba(self, X: Any) -> Any:
        self._note("predict")
        return self.inner_.predict_proba(X / 100)

    def _note(self, what: str) -> None:
        backend, _ = joblib.parallel.get_active_backend()
        SEEN.append((what, joblib.effective_n_jobs(None), type(backend).__name__))


@pytest.fixture
def witness() -> Iterator[str]:
    registry.register("model", "witness", Witness)
    SEEN.clear()
    yield "witness"
    registry.unregister("model", "witness")


def trained(project: Path, model: str, *overrides: str, tuned: bool = False, space: str = "") -> recipeline.Run:
    text = RECIPE.replace("CLASS", model).replace("ENABLED", str(tuned).lower())
    path = project / "parallel.yaml"
    path.write_text(text.replace("  loader:", f"  hyperparameters: {space}\n  loader:") if space else text)
    given = ["execution.report=false", "execution.champion=false", "security.allow_pickle=true", *overrides]
    return recipeline.train(path, settings=settings.load(project=project, overrides=given, environ={}))


# --- fitting -------------------------------------------------------------------------------------------------------------


def test_parts_find_their_workers_while_they_are_fitted(project: Path, witness: str) -> None:
    """In every fold and every trial; a prediction stays in its own thread, else a forest's last digit would differ."""
    space = "{C: {type: float, low: 0.1, high: 1.0}}"
    trained(project, witness, "execution.joblib.n_jobs=3", "execution.joblib.backend=threading", tuned=True, space=space)
    fits = [seen for seen in SEEN if seen[0] == "fit"]
    assert len(fits) == 3 * 2 * 2 + 3  # two trials of two folds in each of three searches; two folds and the one of all rows
    assert set(fits) == {("fit", 3, "ThreadingBackend")}
    assert {seen[1] for seen in SEEN if seen[0] == "predict"} == {1}


def test_without_a_word_nothing_is_changed(project: Path, witness: str) -> None:
    """The default names no backend: with loky, parts that prefer threads would start processes."""
    trained(project, witness)
    assert {seen[1] for seen in SEEN} == {1}
    with parallel.fitting(Joblib()):
        assert joblib.parallel_config is not None
        assert joblib.effective_n_jobs(None) == 1
    with parallel.fitting(Joblib(n_jobs=2)):
        assert joblib.effective_n_jobs(None) == 2


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_workers_change_no_bit(project: Path, backend: str) -> None:
    """Forests in an ensemble, over folds: metrics and answers are those of one worker."""
    space = (
        "{voting: soft, estimators: [{name: rf, estimator: {class_path: sklearn.ensemble.RandomForestClassifier, "
        "hyperparameters: {n_estimators: 5}}}, {name: lr, estimator: {class_path: sklearn.naive_bayes.GaussianNB}}]}"
    )
    alone = trained(project, "sklearn.ensemble.VotingClassifier", space=space)
    many = trained(
        project, "sklearn.ensemble.VotingClassifier", "execution.joblib.n_jobs=2", f"execution.joblib.backend={backend}", space=space
    )
    assert many.metrics == alone.metrics
    rows = pd.read_csv(project / "recipes" / "data" / "breast_cancer.csv")
    pd.testing.assert_frame_equal(recipeline.load(many.artifact).predict(rows), recipeline.load(alone.artifact).predict(rows))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"backend": "dask"}, "dask needs the address"),
        ({"address": "tcp://127.0.0.1:8786"}, "with backend: dask only"),
        ({"backend": "lokky"}, "lokky"),
        ({"backend": "loky", "n_jobs": 0}, "0 jobs"),
    ],
)
def test_a_configuration_that_would_be_ignored_is_an_error(project: Path, given: dict[str, Any], words: str) -> None:
    """At the line of the configuration, before anything is read."""
    overrides = [f"execution.joblib.{key}={value}" for key, value in given.items()]
    with pytest.raises(RecipeError, match=words):
        settings.load(project=project, overrides=overrides, environ={})


@pytest.mark.skipif(importlib.util.find_spec("distributed") is not None, reason="it is installed")
def test_dask_that_is_not_installed_names_its_extra(project: Path, command: Callable[..., Any]) -> None:
    """One line, exit 3."""
    told = ("--set", "execution.joblib.backend=dask", "--set", "execution.joblib.address=tcp://127.0.0.1:1")
    answer = command("train", "--recipe-file", "recipes/quickstart/quickstart.yaml", *told)
    assert answer.code == 3, answer
    assert "pip install 'recipeline[dask]'" in answer.err


# --- batches -------------------------------------------------------------------------------------------------------------


class Memory:
    """Rows without a file."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame

    def load(self) -> pd.DataFrame:
        return self.frame


def table(n: int) -> pd.DataFrame:
    random = np.random.default_rng(5)
    x, z = random.normal(size=n), random.normal(size=n)
    return pd.DataFrame({"id": range(n), "x": x, "z": z, "y": (x + z > 0).astype(int)})


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    task = Classification(ClassificationInterface(target_col="y", entity_cols=("id",)))
    frame = table(400)
    schema = task.describe(frame)
    made = Pipeline(task=task, schema=schema, model=LogisticRegression())
    return made.fit(task.select(frame, schema, targets=True), FitContext(seed=0, folder=Path()))


def content(path: Path) -> dict[str, bytes]:
    return {str(one.relative_to(path)): one.read_bytes() for one in sorted(path.rglob("*")) if one.is_file()}


@pytest.mark.parametrize("output", ["p.parquet", "p.csv", "parts/"])
@pytest.mark.parametrize("rows", [7, 100, 1000])
def test_the_output_of_several_workers_is_the_same_to_the_byte(output: str, rows: int, pipeline: Pipeline, tmp_path: Path) -> None:
    """More workers than batches, too; scores included."""
    told = {}
    for workers in (1, 3, 16):
        folder = tmp_path / str(workers)
        folder.mkdir()
        place = f"{folder / output}/" if output.endswith("/") else str(folder / output)
        result = run_batch(
            pipeline, Memory(table(500)), run_id="r", output=place, rows=rows, workers=workers,
            evaluate=TabularEvaluator(), metrics=("accuracy", "log_loss"),
        )  # fmt: skip
        told[workers] = (content(folder), result.rows, result.metrics)
    assert told[1][1] == 500
    assert told[3] == told[16] == told[1]


def test_batches_are_predicted_by_threads_of_their_own(pipeline: Pipeline, tmp_path: Path) -> None:
    """Two at a time: each waits for the other, which one thread alone never could."""
    meeting = threading.Barrier(2, timeout=60)

    class Waiting(Pipeline):
        def predict(self, rows: Any, *, augmented: bool = False) -> pd.DataFrame:
            meeting.wait()
            return super().predict(rows, augmented=augmented)

    waiting = Waiting(task=pipeline.task, schema=pipeline.schema, model=pipeline.model)
    result = run_batch(waiting, Memory(table(400)), run_id="r", output=str(tmp_path / "p.parquet"), rows=100, workers=2)
    assert result.rows == 400


def test_rows_that_break_the_contract_stop_all_workers(pipeline: Pipeline, tmp_path: Path) -> None:
    """The first of them is named, and nothing is left."""
    frame = table(400)
    frame.loc[[250, 350], "x"] = np.inf
    with pytest.raises(DataError, match=r"rows 200 to 299.*row 50"):
        run_batch(pipeline, Memory(frame), run_id="r", output=str(tmp_path / "p.parquet"), rows=100, workers=3)
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_says_how_many(project: Path, command: Callable[..., Any]) -> None:
    """`execution.batch.workers`, through the command."""
    run = command("train", "--recipe-file", "recipes/quickstart/quickstart.yaml", "--json").json["run_id"]
    told = ("batch-inference", "--run-id", run, "--set", "execution.batch.rows=50", "--json", "--output")
    rows = command(*told, "one.csv").json["rows"]
    assert rows > 500
    assert command(*told, "four.csv", "--set", "execution.batch.workers=4").json["rows"] == rows
    assert (project / "four.csv").read_bytes() == (project / "one.csv").read_bytes()
