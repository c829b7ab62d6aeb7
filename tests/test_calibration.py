"""Rows held back from fitting, and what is learned on them: calibrated probabilities, a threshold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import LinearSVC

import recipeline
from recipeline.components.classification import Classification, ClassificationInterface
from recipeline.components.splitters import CrossValidation, GroupSplit, TimeSeriesSplit, TimeSplit, TrainTestSplit
from recipeline.contracts import FitContext, Selected, Split
from recipeline.errors import DataError, RecipeError
from recipeline.pipeline import Pipeline

Command = Callable[..., Any]


def selected_of(n: int = 300, *, seed: int = 0) -> Selected:
    random = np.random.default_rng(seed)
    return Selected(
        X=pd.DataFrame(random.normal(size=(n, 2)), columns=["a", "b"]),
        y=random.integers(0, 2, n),
        groups=random.integers(0, 40, n),
        times=random.permutation(n // 2).repeat(2),
    )


TASK = Classification(ClassificationInterface(target_col="y"))


def written(folder: Path, data: Any, **sections: Any) -> Path:
    """A recipe of GaussianNB on a data set of scikit-learn, with its sections changed."""
    frame = data.frame.rename(columns=str)
    frame["row"] = np.arange(len(frame))
    frame.to_csv(folder / "rows.csv", index=False)
    recipe = {
        "name": "calibrated",
        "model": {
            "class_path": sections.get("model", "sklearn.naive_bayes.GaussianNB"),
            "loader": {"name": "default_loader", "source_uri": "rows.csv"},
            "data_interface": {"task_type": "classification", "target_col": "target", "timestamp_col": "row"}
            | sections.get("interface", {}),
        },
        "evaluation": {"metrics": ["log_loss"], "validation": sections["validation"]},
    }
    path = folder / "calibrated.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


# --- which rows are held back ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "splitter",
    [
        TrainTestSplit(calibration_size=0.25, stratify=True, random_state=1),
        TrainTestSplit(calibration_size=30, shuffle=False),
        CrossValidation(4, calibration_size=0.2, random_state=1),
        GroupSplit(calibration_size=0.2, random_state=1),
        TimeSplit(calibration_size=0.2, gap=3),
        TimeSeriesSplit(4, calibration_size=0.2),
    ],
    ids=lambda splitter: type(splitter).__name__,
)
def test_held_back_rows_stand_between_training_and_the_sealed_ones(splitter: Any) -> None:
    """They are in no other part; groups and times are not cut; the folds inside the training side hold back as well."""
    selected = selected_of()
    split: Split = splitter.split(selected, TASK)
    inner = splitter.inner(selected, TASK, 3)
    for fold in (*split.folds, *inner):
        assert fold.train is not None
        assert fold.test is not None
        assert fold.validation is not None
        assert 0 < len(fold.validation) < len(fold.train)
        parts = (fold.train, fold.validation, fold.test)
        assert len(np.unique(np.concatenate(parts))) == sum(map(len, parts))
        if isinstance(splitter, GroupSplit):
            assert not set(selected.groups[fold.train]) & set(selected.groups[fold.validation])
        if isinstance(splitter, TimeSplit | TimeSeriesSplit):
            assert selected.times[fold.train].max() < selected.times[fold.validation].min()
            assert selected.times[fold.validation].max() < selected.times[fold.test].min()
    border = split.audit["borders"][0]
    assert split.folds[0].train is not None
    assert border["fitted"] == len(split.folds[0].train)
    assert border["calibration"] > 0
    if split.keep == "all":
        assert split.final is not None
        assert split.final.validation is not None
        assert split.final.test is None


def test_without_a_size_nothing_is_held_back() -> None:
    """The default."""
    split = TrainTestSplit(random_state=1).split(selected_of(), TASK)
    assert split.folds[0].validation is None
    assert "calibration" not in split.audit["borders"][0]


def test_more_than_there_is_is_a_data_error() -> None:
    """With the numbers."""
    with pytest.raises(DataError, match="calibration_size 500 leaves no row to fit on"):
        TimeSplit(calibration_size=500).split(selected_of(), TASK)
    with pytest.raises(DataError, match="cannot be split"):
        TrainTestSplit(calibration_size=500).split(selected_of(), TASK)


# --- calibration ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["sigmoid", "isotonic", "temperature"])
@pytest.mark.parametrize("size", [0, 0.25])
def test_calibrated_as_by_hand(project: Path, method: str, size: float) -> None:
    """The run's sealed probabilities are those of scikit-learn's own calibration, through artifact and all."""
    data = load_breast_cancer(as_frame=True)
    validation: dict[str, Any] = {"method": "train_test_split", "stratify": True, "test_size": 0.2}
    interface = {"calibration": method}
    path = written(project, data, validation=validation | ({"calibration_size": size} if size else {}), interface=interface)
    run = recipeline.train(path)
    X, y = data.data.to_numpy(), data.target.to_numpy()
    train, test = train_test_split(np.arange(len(y)), test_size=0.2, stratify=y, random_state=42)
    if size:
        fitted, held = train_test_split(train, test_size=size, stratify=y[train], random_state=42)
        model = GaussianNB().fit(X[fitted], y[fitted])
        by_hand = CalibratedClassifierCV(FrozenEstimator(model), method=method).fit(X[held], y[held])
    else:
        cut = StratifiedKFold(5, shuffle=True, random_state=42)
        by_hand = CalibratedClassifierCV(GaussianNB(), method=method, cv=cut, ensemble=False).fit(X[train], y[train])
    table = pd.read_parquet(run.artifact / "tables" / "predictions.parquet")
    np.testing.assert_array_equal(table["row"], test)
    np.testing.assert_allclose(table["probability_1"], by_hand.predict_proba(X[test])[:, 1], atol=1e-12)
    assert run.metrics["log_loss"] == pytest.approx(log_loss(y[test], by_hand.predict_proba(X[test])), abs=1e-12)
    raw = GaussianNB().fit(X[train], y[train]).predict_proba(X[test])
    if method != "isotonic":  # a step function is sure of a row too soon with so few of them
        assert run.metrics["log_loss"] < log_loss(y[test], raw)


def test_three_classes_in_folds_and_a_model_without_probabilities(project: Path) -> None:
    """The margins of a linear machine become probabilities; every row is judged once, the table says in which fold."""
    validation = {"method": "cross_validation", "folds": 3, "calibration_size": 0.2}
    data = load_iris(as_frame=True)
    run = recipeline.train(
        written(project, data, validation=validation, model="sklearn.svm.LinearSVC", interface={"calibration": "sigmoid"})
    )
    table = pd.read_parquet(run.artifact / "tables" / "predictions.parquet")
    assert sorted(table["row"]) == list(range(150))
    assert table.groupby("fold").size().tolist() == [50, 50, 50]
    np.testing.assert_allclose(table[[f"probability_{label}" for label in range(3)]].sum(axis=1), 1.0)
    assert run.metrics["log_loss"] < 0.5
    loaded = recipeline.load(run.id)
    assert isinstance(loaded.model, CalibratedClassifierCV)
    assert isinstance(loaded.model.estimator, FrozenEstimator)


def test_a_threshold_is_tuned_on_the_calibrated_probabilities_of_the_rows_held_back(project: Path) -> None:
    """As by hand: fit, calibrate, choose the cut with the best balanced accuracy."""
    data = load_breast_cancer(as_frame=True)
    interface = {"calibration": "sigmoid", "decision_threshold": "tune"}
    run = recipeline.train(written(project, data, validation={"method": "time_split", "calibration_size": 0.3}, interface=interface))
    X, y = data.data.to_numpy(), data.target.to_numpy()
    train = np.arange(len(y) - int(np.ceil(0.2 * len(y))))
    held = train[len(train) - int(np.ceil(0.3 * len(train))) :]
    fitted = train[: held[0]]
    by_hand = CalibratedClassifierCV(FrozenEstimator(GaussianNB().fit(X[fitted], y[fitted]))).fit(X[held], y[held])
    said = by_hand.predict_proba(X[held])[:, 1]
    model = recipeline.load(run.id).model
    right = np.mean([np.mean((said >= model.threshold)[y[held] == label] == label) for label in (0, 1)])
    levels = np.unique(said)
    best = max(np.mean([np.mean((said >= cut)[y[held] == label] == label) for label in (0, 1)]) for cut in (levels[1:] + levels[:-1]) / 2)
    assert right == pytest.approx(best, abs=1e-12)
    np.testing.assert_allclose(model.predict_proba(X), by_hand.predict_proba(X), atol=1e-12)


class Recording(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Remembers the rows of every fit, of its clones too."""

    fits: list[Any] = []  # noqa: RUF012  # shared on purpose

    def fit(self, X: Any, y: Any) -> Recording:
        self.classes_ = np.unique(y)
        self.fits.append(X)
        return self

    def predict_proba(self, X: Any) -> Any:
        one = 1 / (1 + np.exp(-np.asarray(X)[:, 0]))
        return np.column_stack([1 - one, one])

    def predict(self, X: Any) -> Any:
        return (np.asarray(X)[:, 0] > 0).astype(int)


@pytest.mark.parametrize("wanted", [{"decision_threshold": "tune"}, {"calibration": "sigmoid"}], ids=["threshold", "calibration"])
def test_folds_inside_keep_groups_together(tmp_path: Path, wanted: dict[str, Any]) -> None:
    """What is learned out of fold is cut as the validation method cuts: no group stands in a fit and in its held-out fold."""
    random = np.random.default_rng(3)
    frame = pd.DataFrame({"a": random.normal(size=200), "group": random.integers(0, 20, 200), "y": random.integers(0, 2, 200)})
    task = Classification(ClassificationInterface(target_col="y", group_col="group", **wanted))
    schema = task.describe(frame)
    splitter = GroupSplit(random_state=42)
    Recording.fits.clear()
    pipeline = Pipeline(task=task, schema=schema, model=Recording())
    pipeline.fit(
        task.select(frame, schema, targets=True), FitContext(42, tmp_path), inner=lambda rows, folds: splitter.inner(rows, task, folds)
    )
    inside = [fit for fit in Recording.fits if len(fit) < len(frame)]
    assert len(inside) == 5
    for fit in inside:
        used = frame["a"].isin(np.asarray(fit)[:, 0])
        assert not set(frame["group"][used]) & set(frame["group"][~used])


# --- early stopping -------------------------------------------------------------------------------------------------------

STOPPING = {
    "xgboost.XGBClassifier": (
        {"n_estimators": 400, "learning_rate": 0.5, "early_stopping_rounds": 5},
        lambda model: model.best_iteration + 1,
    ),
    "lightgbm.LGBMClassifier": (
        {"n_estimators": 400, "learning_rate": 0.5, "early_stopping_round": 5, "verbose": -1},
        lambda model: model.best_iteration_,
    ),
    "catboost.CatBoostClassifier": (
        {"iterations": 400, "learning_rate": 0.5, "early_stopping_rounds": 5, "verbose": False, "allow_writing_files": False},
        lambda model: model.tree_count_,
    ),
    "sklearn.ensemble.HistGradientBoostingClassifier": (
        {"max_iter": 400, "learning_rate": 0.5, "early_stopping": True, "n_iter_no_change": 5},
        lambda model: model.n_iter_,
    ),
}


@pytest.mark.parametrize("path", STOPPING)
def test_boosters_stop_by_the_rows_held_back(tmp_path: Path, path: str) -> None:
    """By hand: the same number of trees and the same probabilities as with those rows given to `fit`."""
    package, _, name = path.rpartition(".")
    kind = getattr(pytest.importorskip(package), name)
    arguments, trees = STOPPING[path]
    data = load_breast_cancer(as_frame=True)
    frame = data.data.rename(columns=lambda column: column.replace(" ", "_")).assign(y=data.target)
    task = Classification(ClassificationInterface(target_col="y"))
    schema = task.describe(frame)
    rows = task.select(frame, schema, targets=True)
    fitted, held = rows.take(np.arange(400)), rows.take(np.arange(400, 569))
    made = Pipeline(task=task, schema=schema, model=kind(**arguments, random_state=3))
    made.fit(fitted, FitContext(42, tmp_path), validation=held)
    assert trees(made.model) < 400
    by_hand = kind(**arguments, random_state=3)
    if path.startswith("sklearn"):
        by_hand.fit(fitted.X, fitted.y, X_val=held.X, y_val=held.y)
    elif path.startswith("lightgbm"):
        by_hand.fit(fitted.X, fitted.y, eval_X=held.X, eval_y=held.y)
    else:
        by_hand.fit(fitted.X, fitted.y, eval_set=[(held.X, held.y)], verbose=False)
    np.testing.assert_array_equal(made.predict(frame)["probability_1"], by_hand.predict_proba(rows.X)[:, 1])


def test_stopping_early_needs_rows_held_back(project: Path, command: Command) -> None:
    """Exit 3 with what to add, not the library's own words about an evaluation set."""
    pytest.importorskip("xgboost")
    path = written(project, load_iris(as_frame=True), validation={"method": "train_test_split"}, model="xgboost.XGBClassifier")
    recipe = yaml.safe_load(path.read_text())
    recipe["model"]["hyperparameters"] = {"early_stopping_rounds": 5}
    path.write_text(yaml.safe_dump(recipe))
    answer = command("train", "--recipe-file", path)
    assert answer.code == 3
    assert "add calibration_size: 0.2" in answer.err


# --- what is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("validation", "interface", "words"),
    [
        ({"method": "time_split"}, {"calibration": "sigmoid"}, "calibration needs rows of its own"),
        ({"method": "train_test_split"}, {"calibration": "sigmoid", "decision_threshold": "tune"}, "need rows of their own"),
        ({"method": "train_test_split", "calibration_size": 1.5}, {"calibration": "sigmoid"}, "1.5 is neither a share"),
        ({"method": "train_test_split"}, {"calibration": "platt"}, "calibration"),
    ],
)
def test_mistakes_are_found_before_any_data(command: Command, project: Path, validation: Any, interface: Any, words: str) -> None:
    """Exit 3 from `validate`, at the line."""
    path = written(project, load_iris(as_frame=True), validation=validation, interface=interface)
    answer = command("validate", "--recipe-file", path)
    assert answer.code == 3
    assert words in answer.err


def test_rows_held_back_for_nothing_are_a_mistake(command: Command, project: Path) -> None:
    """Exit 3: nobody would notice that a fifth of the data is lost."""
    path = written(project, load_iris(as_frame=True), validation={"method": "train_test_split", "calibration_size": 0.2})
    answer = command("train", "--recipe-file", path)
    assert answer.code == 3
    assert "GaussianNB has no use for them" in answer.err


def test_a_model_that_wants_its_context_is_calibrated_on_rows_held_back_only(tmp_path: Path) -> None:
    """It cannot be cloned and fitted again behind the engine's back."""

    class Curious(Recording):
        def fit(self, X: Any, y: Any, *, context: FitContext | None = None) -> Recording:
            return super().fit(X, y)

    random = np.random.default_rng(3)
    frame = pd.DataFrame({"a": random.normal(size=100), "y": random.integers(0, 2, 100)})
    task = Classification(ClassificationInterface(target_col="y", calibration="sigmoid"))
    schema = task.describe(frame)
    rows = task.select(frame, schema, targets=True)
    with pytest.raises(RecipeError, match="only on rows that are held back"):
        Pipeline(task=task, schema=schema, model=Curious()).fit(rows, FitContext(42, tmp_path))
    made = Pipeline(task=task, schema=schema, model=Curious())
    made.fit(rows.take(np.arange(70)), FitContext(42, tmp_path), validation=rows.take(np.arange(70, 100)))
    assert isinstance(made.model, CalibratedClassifierCV)


def test_a_model_without_scores_cannot_be_calibrated(tmp_path: Path) -> None:
    """Nothing to map."""

    class Plain(Recording):
        predict_proba = None  # type: ignore[assignment]

        def __getattribute__(self, name: str) -> Any:
            if name == "predict_proba":
                raise AttributeError(name)
            return super().__getattribute__(name)

    frame = pd.DataFrame({"a": np.arange(40.0), "y": np.arange(40) % 2})
    task = Classification(ClassificationInterface(target_col="y", calibration="isotonic"))
    schema = task.describe(frame)
    with pytest.raises(RecipeError, match="neither probabilities nor decision values"):
        Pipeline(task=task, schema=schema, model=Plain()).fit(task.select(frame, schema, targets=True), FitContext(42, tmp_path))
    assert hasattr(LinearSVC(), "decision_function")
