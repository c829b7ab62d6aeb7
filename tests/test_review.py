"""What a review found by trying: each test failed before it was mended."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import recipeline
from recipeline import artifact, folds, registry, settings, tune, work
from recipeline.components.classification import Classification, ClassificationInterface
from recipeline.components.splitters import TimeSeriesSplit, TimeSplit
from recipeline.contracts import Selected
from recipeline.errors import Damaged, DataError, RecipelineError, TrainingFailed
from recipeline.schema import InputSchema

PROJECT = Path(__file__).parents[1]
Train = Callable[..., Any]


def _rows(n: int = 60) -> pd.DataFrame:
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"x": random.normal(size=n), "z": random.normal(size=n)})
    return frame.assign(y=(frame["x"] + 0.3 * random.normal(size=n) > 0).astype(int))


@pytest.fixture
def project(tmp_path: Path, empty_store: Path) -> settings.Settings:
    shutil.copytree(PROJECT / "config", tmp_path / "config")
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return settings.load(project=tmp_path, overrides=["execution.report=false"], environ={})


@pytest.fixture
def train(project: settings.Settings) -> Train:
    """Train on a frame, by a recipe that says no more than it must."""

    def train(data: Any, *, model: Mapping[str, Any] | None = None, **top: Any) -> Any:
        class Memory:
            def load(self) -> Any:
                return data() if callable(data) else data.copy()

            def fingerprint(self) -> str:
                return "memory"

        recipeline.register("loader", "review_memory", Memory)
        document = {
            "name": "review",
            "model": {
                "class_path": "sklearn.tree.DecisionTreeClassifier",
                "loader": {"name": "review_memory"},
                "data_interface": {"task_type": "classification", "target_col": "y"},
                **(model or {}),
            },
            **top,
        }
        try:
            return recipeline.train(document, settings=project)
        finally:
            registry.unregister("loader", "review_memory")

    return train


# --- the gap ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("splitter", [TimeSplit(0.2, time_on="t", gap=85), TimeSeriesSplit(4, time_on="t", gap=25)])
def test_a_gap_larger_than_the_past_is_an_error(splitter: Any) -> None:
    """A negative end of a slice had given rows from inside the gap."""
    frame = pd.DataFrame({"t": np.arange(100), "y": np.tile([0, 1], 50)})
    task = Classification(ClassificationInterface(target_col="y"))
    with pytest.raises(DataError, match="no row is left"):
        splitter.split(Selected(frame[["t"]], frame["y"].to_numpy()), task)


# --- columns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(np.array([2**63 + 5, 3], dtype=np.uint64), id="uint64 wrapped to a negative number"),
        pytest.param(pd.Series([2**70, 1], dtype=object), id="integers of Python"),
        pytest.param([dt.date(9999, 12, 31)] * 2, id="the end of time"),
        pytest.param(np.array(["9999-12-31"] * 2, dtype="datetime64[s]"), id="the end of time in seconds"),
        pytest.param([pd.Timestamp("2020-01-01", tz="UTC"), pd.Timestamp("2020-01-01", tz="Asia/Seoul")], id="two zones"),
    ],
)
def test_values_that_no_column_type_can_hold_are_data_errors(values: Any) -> None:
    frame = pd.DataFrame({"u": pd.Series(values, dtype=object if isinstance(values, list) else None)})
    with pytest.raises(DataError, match="'u'"):
        InputSchema.of(frame, ["u"]).conform(frame)


@pytest.mark.parametrize("rows", [{"u": [1.0]}, np.ones((1, 1)), [[1.0]], None])
def test_what_is_no_frame_is_a_data_error(rows: Any) -> None:
    schema = InputSchema.of(pd.DataFrame({"u": [1.0]}), ["u"])
    with pytest.raises(DataError, match="a frame is expected"):
        schema.conform(rows)


def test_categories_of_integers_may_have_nulls() -> None:
    frame = pd.DataFrame({"u": pd.Series([1, 2, None], dtype="Int64").astype("category")})
    schema = InputSchema.of(frame, ["u"])
    assert (schema.column("u").dtype, schema.column("u").nullable) == ("float64", True)
    np.testing.assert_array_equal(schema.conform(frame)["u"], [1.0, 2.0, np.nan])


def test_integer_classes_beyond_64_bits_are_refused() -> None:
    task = Classification(ClassificationInterface(target_col="y"))
    frame = pd.DataFrame({"x": [1.0, 2.0], "y": np.array([2**63 + 1, 2**63 + 5], dtype=np.uint64)})
    with pytest.raises(DataError, match="64 bits") as caught:
        task.describe(frame)
    assert caught.value.slug == "bad-target"


def test_a_key_called_score_is_refused() -> None:
    """Decision values of a model without probabilities had replaced it."""
    task = Classification(ClassificationInterface(target_col="y", entity_cols=("score",)))
    with pytest.raises(DataError, match="'score'"):
        task.describe(_rows().assign(score=1))


def test_weights_that_are_all_zero_on_the_sealed_rows_are_a_data_error(train: Train) -> None:
    interface = {"task_type": "classification", "target_col": "y", "sample_weight_col": "w"}
    with pytest.raises(DataError) as caught:
        train(
            _rows().assign(w=np.where(np.arange(60) < 48, 1.0, 0.0)),
            model={"data_interface": interface},
            evaluation={
                "evaluator": {"name": "tabular_evaluator", "params": {"weighted": True}},
                "validation": {"method": "train_test_split", "shuffle": False, "test_size": 12},
            },
        )
    assert caught.value.slug == "undefined-metric"


# --- refit on all rows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("validation", "searches"), [({"refit_on": "all"}, 1), ({"method": "cross_validation", "folds": 3}, 4)])
def test_a_refit_on_all_rows_keeps_the_values_that_were_judged(
    train: Train, monkeypatch: pytest.MonkeyPatch, validation: dict[str, Any], searches: int
) -> None:
    """It had searched again, sealed rows included, and saved values that no metric speaks of."""
    found: list[Any] = []

    def counted(*given: Any, search: Any = tune.tune, **named: Any) -> Any:
        found.append(search(*given, **named))
        return found[-1]

    monkeypatch.setattr(tune, "tune", counted)
    run = train(
        _rows(),
        model={
            "class_path": "sklearn.tree.DecisionTreeClassifier",
            "hyperparameters": {"max_depth": {"type": "int", "low": 1, "high": 9}},
        },
        hyperparameter_tuning={"enabled": True, "n_trials": 4, "folds": 3},
        evaluation={"validation": {"method": "train_test_split", **validation}},
    )
    assert len(found) == searches
    assert dict(run.best_params) == dict(found[-1].values)
    assert json.loads((run.artifact / "split.json").read_text())["saved"] == "the pipeline fitted on all rows"


# --- parts of others -------------------------------------------------------------------------------------------------


def test_what_a_strange_loader_raises_is_no_bug_of_ours(train: Train) -> None:
    def broken() -> Any:
        raise KeyError("nothing there")

    with pytest.raises(DataError) as caught:
        train(broken)
    assert caught.value.slug == "loader-failed"
    assert "nothing there" in caught.value.message


@pytest.mark.parametrize(("role", "slug", "code"), [("augmenter", "augmenter-failed", 5), ("evaluator", "evaluation-failed", 10)])
def test_what_other_strange_parts_raise(train: Train, role: str, slug: str, code: int) -> None:
    class Broken(recipeline.BaseEvaluator):
        def augment(self, frame: Any, *, online: bool) -> Any:
            raise OSError("broken")

        def evaluate(self, y_true: Any, y_pred: Any, **kwargs: Any) -> dict[str, float]:
            raise ZeroDivisionError("broken")

    recipeline.register(role, "review_broken", Broken)
    part = {"name": "review_broken"}
    try:
        with pytest.raises(RecipelineError) as caught:
            train(_rows(), **({"model": {"augmenter": part}} if role == "augmenter" else {"evaluation": {"evaluator": part}}))
    finally:
        registry.unregister(role, "review_broken")
    assert (caught.value.slug, caught.value.code) == (slug, code)
    assert "broken" in caught.value.message


def test_an_augmenter_may_lose_no_row_of_a_prediction(train: Train, project: settings.Settings) -> None:
    """Half of the answers had come back, without saying of which rows."""

    class Half:
        def augment(self, frame: Any, *, online: bool) -> Any:
            return frame.iloc[::2] if online else frame

        def load(self) -> Any: ...

    recipeline.register("augmenter", "review_half", Half)
    try:
        run = train(_rows(), model={"augmenter": {"name": "review_half"}})
        recipeline.register("loader", "review_memory", Half)  # a run knows its loader, and predicts without asking it
        with pytest.raises(TrainingFailed, match="60 rows went in and 30 came out"):
            recipeline.load(run.artifact, settings=project).predict(_rows().drop(columns="y"))
    finally:
        registry.unregister("augmenter", "review_half")
        registry.unregister("loader", "review_memory")


# --- resume ----------------------------------------------------------------------------------------------------------


def _stopped_before_judging(train: Train, monkeypatch: pytest.MonkeyPatch, project: settings.Settings) -> Path:
    """A training that was interrupted; its work folder."""

    def stop(*given: Any, **named: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(folds.Line, "_judged", stop)
        with pytest.raises(KeyboardInterrupt):
            train(_rows())
    (state,) = project.execution.work_folder.glob("*/state.json")
    return state.parent


def test_a_damaged_fold_of_an_earlier_attempt_is_made_again(
    train: Train, monkeypatch: pytest.MonkeyPatch, project: settings.Settings
) -> None:
    """The recipe could not be trained again until somebody found and removed the folder."""
    folder = _stopped_before_judging(train, monkeypatch, project)
    (folder / "fold-0" / "saved" / "input_schema.json").write_text("{}")
    assert train(_rows()).resumed


def test_another_version_does_not_go_on_with_what_this_one_fitted(
    train: Train, monkeypatch: pytest.MonkeyPatch, project: settings.Settings
) -> None:
    """The artifact had named the versions of the second attempt over parts of the first."""
    _stopped_before_judging(train, monkeypatch, project)
    now = artifact.versions()
    monkeypatch.setattr(artifact, "versions", lambda: {**now, "scikit-learn": "1.2.0"})
    assert not train(_rows()).resumed


@pytest.mark.parametrize("text", ["{bad", '{"old": 1}', "[]", "null"])
def test_a_work_folder_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "aaaa").mkdir()
    (tmp_path / "aaaa" / "state.json").write_text(text)
    for reference in ("latest", "abc"):
        with pytest.raises(RecipelineError) as caught:
            work.find(tmp_path, reference)
        assert caught.value.code == 5


# --- safety ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["recipeline.tune._Shared", "recipeline.stores.files.FrameSink", "recipeline.stores.sql.SqlAdapter"])
def test_a_recipe_reaches_no_class_of_the_engine(path: str) -> None:
    """`recipeline` had been allowed as a whole, because its own parts are entry points too."""
    allow = registry.AllowList.of(("sklearn",))
    with pytest.raises(RecipelineError) as caught:
        registry.find("part", path, allow)
    assert caught.value.code == 4
    assert registry.find("preprocessor", "recipeline.components.preprocessing.DefaultPreprocessor", allow)


def test_a_manifest_of_nothing_is_damaged(tmp_path: Path) -> None:
    (tmp_path / artifact.MANIFEST).write_text("null")
    with pytest.raises(Damaged):
        artifact.verify(tmp_path)
