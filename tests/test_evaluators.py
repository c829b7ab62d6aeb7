"""Evaluators: judged through `pipeline.predict`; scikit-learn is the second road; pictures are drawn only when asked for."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as Canvas
from sklearn import metrics as theirs
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from distributions import install, on_path
from recipeline import registry
from recipeline.components import evaluators, figures
from recipeline.components.classification import Classification
from recipeline.components.evaluators import BaseEvaluator, TabularEvaluator, permutation_importances
from recipeline.components.metrics import CLASSIFICATION, REGRESSION, resolve
from recipeline.components.preprocessing import DefaultPreprocessor
from recipeline.components.regression import Regression
from recipeline.contracts import FitContext, Metric, Part
from recipeline.errors import DataError, RecipeError, TrainingFailed
from recipeline.pipeline import Pipeline


def setting(task: Any, frame: pd.DataFrame, model: Any, folder: Path, metrics: tuple[str, ...], **more: Any) -> tuple[Pipeline, Part]:
    """A pipeline fitted on the even rows and the odd ones to judge it on."""
    schema = task.describe(frame)
    selected = task.select(frame, schema, targets=True)
    train, test = np.arange(0, len(frame), 2), np.arange(1, len(frame), 2)
    pipeline = Pipeline(task=task, schema=schema, model=model, preprocessor=DefaultPreprocessor())
    pipeline.fit(selected.take(train), FitContext(1, folder))
    return pipeline, Part(frame.iloc[test], selected.take(test), metrics, seed=5, **more)


def classes(
    folder: Path, metrics: tuple[str, ...], load: Any = load_breast_cancer, model: Any = None, **more: Any
) -> tuple[Pipeline, Part]:
    frame = load(as_frame=True).frame.sample(frac=1, random_state=0, ignore_index=True)
    names = np.array(["malignant", "benign", "other"])
    frame["target"] = names[frame["target"]]
    frame.insert(0, "id", np.arange(len(frame)))
    task = Classification(Classification.Interface.model_validate({"target_col": "target", "entity_cols": ["id"]}))
    return setting(task, frame, GaussianNB() if model is None else model, folder, metrics, **more)


def values(folder: Path, metrics: tuple[str, ...], targets: Any = "target") -> tuple[Pipeline, Part]:
    frame = load_diabetes(as_frame=True).frame
    frame["other"] = frame["target"] / 2 + frame["bmi"]
    if targets == "target":
        frame = frame.drop(columns="other")
    task = Regression(Regression.Interface.model_validate({"target_col": targets}))
    return setting(task, frame, LinearRegression(), folder, metrics)


def drawn(figure: Any) -> Any:
    """The axes after drawing on them, as the report does."""
    axes = Canvas().add_subplot()
    figure.draw(axes)
    axes.figure.canvas.draw()
    assert figure.title
    assert figure.caption
    return axes


# --- metrics --------------------------------------------------------------------------------------------------


def test_it_reports_what_was_asked_for_and_nothing_else(tmp_path: Path) -> None:
    """The figures of scikit-learn for the labels as the data have them; aliases lead to the one name."""
    pipeline, part = classes(tmp_path, ("acc", "f1", "roc_auc", "log_loss"), detail=False)
    judged = TabularEvaluator().judge(pipeline, part)
    X = part.rows.drop(columns=["id", "target"]).to_numpy().copy(order="C")
    said, probability = pipeline.model.predict(X), pipeline.model.predict_proba(X)
    actual = (part.rows["target"] == "malignant").to_numpy()  # the last of the sorted labels
    assert judged.metrics == {
        "accuracy": theirs.accuracy_score(actual, said),
        "f1": theirs.f1_score(actual, said),
        "roc_auc": theirs.roc_auc_score(actual, probability[:, 1]),
        "log_loss": theirs.log_loss(actual, probability),
    }
    assert judged.tables == {}
    assert judged.figures == {}


def test_only_predict_is_asked(tmp_path: Path) -> None:
    """An evaluator sees of a pipeline what a client sees: another pipeline with the same answers gets the same marks."""

    class Answers:
        def __init__(self, pipeline: Pipeline) -> None:
            self.task, self.schema, self.model, self.calls = pipeline.task, pipeline.schema, None, []
            self.pipeline = pipeline

        def predict(self, rows: Any, *, augmented: bool = False) -> pd.DataFrame:
            self.calls.append(augmented)
            return self.pipeline.predict(rows, augmented=augmented)

    pipeline, part = classes(tmp_path, ("accuracy", "brier"), detail=False)
    other = Answers(pipeline)
    assert TabularEvaluator().judge(other, part) == TabularEvaluator().judge(pipeline, part)
    assert other.calls == [True]


def test_decision_values_give_an_area(tmp_path: Path) -> None:
    """A model without probabilities: roc_auc from its decision values, log_loss refused."""
    pipeline, part = classes(tmp_path, ("roc_auc",), model=LinearSVC(random_state=0))
    judged = TabularEvaluator().judge(pipeline, part)
    score = pipeline.model.decision_function(part.rows.drop(columns=["id", "target"]).to_numpy().copy(order="C"))
    assert judged.metrics == {"roc_auc": theirs.roc_auc_score(part.rows["target"] == "malignant", score)}
    assert "calibration" not in judged.figures
    with pytest.raises(RecipeError, match="log_loss needs probabilities"):
        TabularEvaluator().judge(pipeline, Part(part.rows, part.selected, ("log_loss",)))


def test_several_targets_are_reported_one_by_one_too(tmp_path: Path) -> None:
    """The mean under the plain name, each under `<metric>_<target>`, with and without detail."""
    pipeline, part = values(tmp_path, ("r2", "rmse"), ["target", "other"])
    judged = TabularEvaluator().judge(pipeline, part)
    output = pipeline.predict(part.rows)
    for name in ("target", "other"):
        assert judged.metrics[f"r2_{name}"] == theirs.r2_score(part.rows[name], output[f"prediction_{name}"])
    assert judged.metrics["rmse"] == pytest.approx((judged.metrics["rmse_target"] + judged.metrics["rmse_other"]) / 2, rel=1e-14)
    plain = TabularEvaluator().judge(pipeline, Part(part.rows, part.selected, part.metrics, detail=False))
    assert plain.metrics == judged.metrics
    assert {"actual_other", "prediction_other", "residual_other"} <= set(judged.tables["predictions"].columns)


def test_weights_count_only_when_asked_for(tmp_path: Path) -> None:
    """`weighted: true` without weights is a mistake of the recipe."""
    frame = load_wine(as_frame=True).frame.sample(frac=1, random_state=0)
    task = Classification(Classification.Interface.model_validate({"target_col": "target", "sample_weight_col": "ash"}))
    pipeline, part = setting(task, frame, GaussianNB(), tmp_path, ("accuracy",))
    right = (pipeline.predict(part.rows)["prediction"].to_numpy() == part.rows["target"].to_numpy()).astype(float)
    assert TabularEvaluator().judge(pipeline, part).metrics["accuracy"] == right.mean()
    weighted = TabularEvaluator(weighted=True).judge(pipeline, part).metrics["accuracy"]
    assert weighted == np.average(right, weights=part.rows["ash"]) != right.mean()
    pipeline, part = classes(tmp_path, ("accuracy",))
    with pytest.raises(RecipeError, match="sample_weight_col"):
        TabularEvaluator(weighted=True).judge(pipeline, part)


def test_one_class_only_is_an_error(tmp_path: Path) -> None:
    """Exit code 5, and the metric is named."""
    pipeline, part = classes(tmp_path, ("roc_auc",))
    rows = np.flatnonzero((part.rows["target"] == "benign").to_numpy())
    with pytest.raises(DataError, match="roc_auc is undefined: the rows hold one class only"):
        TabularEvaluator().judge(pipeline, Part(part.rows.iloc[rows], part.selected.take(rows), ("roc_auc",)))
    judged = TabularEvaluator().judge(pipeline, Part(part.rows.iloc[rows], part.selected.take(rows), ("accuracy",)))
    assert "roc" not in judged.figures  # a curve that does not exist is not drawn
    assert np.isnan(judged.tables["per_class"]["recall"].iloc[1])


# --- tables and figures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine])
def test_tables_of_a_classification_are_scikit_learns(load: Any, tmp_path: Path) -> None:
    """Predictions row by row, confusion, precision and recall per class, thresholds for two classes."""
    pipeline, part = classes(tmp_path, ("accuracy",), load)
    tables = TabularEvaluator().judge(pipeline, part).tables
    labels = list(pipeline.schema.target["classes"])
    output = pipeline.predict(part.rows)
    pd.testing.assert_frame_equal(tables["predictions"].drop(columns="actual"), output)
    assert tables["predictions"]["actual"].tolist() == part.rows["target"].tolist()
    counts = theirs.confusion_matrix(part.rows["target"], output["prediction"], labels=labels)
    np.testing.assert_array_equal(tables["confusion"].filter(like="predicted_"), counts)
    assert tables["confusion"]["actual"].tolist() == labels
    by_hand = theirs.precision_recall_fscore_support(part.rows["target"], output["prediction"], labels=labels)
    np.testing.assert_allclose(tables["per_class"][["precision", "recall", "f1", "rows"]].to_numpy().T, by_hand, rtol=1e-15)
    assert ("thresholds" in tables) == (load is load_breast_cancer)
    if load is load_breast_cancer:
        for row in tables["thresholds"].iloc[::17].itertuples():
            called = output["probability_malignant"] >= row.threshold
            actual = part.rows["target"].to_numpy() == "malignant"
            assert row.called_positive == called.sum()
            assert row.precision == pytest.approx(theirs.precision_score(actual, called), rel=1e-15)
            assert row.recall == pytest.approx(theirs.recall_score(actual, called), rel=1e-15)
            assert row.accuracy == pytest.approx(theirs.accuracy_score(actual, called), rel=1e-15)


@pytest.mark.parametrize("load", [load_breast_cancer, load_wine])
def test_pictures_of_a_classification_can_be_drawn(load: Any, tmp_path: Path) -> None:
    """On the axes they are given; the areas in the legend are those of the metric."""
    pipeline, part = classes(tmp_path, ("accuracy",), load)
    figures = TabularEvaluator().judge(pipeline, part).figures
    assert set(figures) == {"confusion", "roc", "precision_recall", "calibration", "importances"}
    shown = {name: drawn(figure) for name, figure in figures.items()}
    labels = list(pipeline.schema.target["classes"])
    output = pipeline.predict(part.rows)
    curves = [text.get_text() for text in shown["roc"].get_legend().get_texts()]
    wanted = labels[1:] if len(labels) == 2 else labels
    areas = [theirs.roc_auc_score(part.rows["target"] == label, output[f"probability_{label}"]) for label in wanted]
    assert curves == [f"{label} (area {area:.3f})" for label, area in zip(wanted, areas, strict=True)]
    assert len(shown["confusion"].texts) == len(labels) ** 2


def test_tables_and_pictures_of_a_regression(tmp_path: Path) -> None:
    """Residuals are actual minus predicted; every picture can be drawn."""
    for targets in ("target", ["target", "other"]):
        pipeline, part = values(tmp_path, ("r2",), targets)
        judged = TabularEvaluator().judge(pipeline, part)
        assert set(judged.figures) == {"predicted_actual", "residuals", "importances"}
        for figure in judged.figures.values():
            drawn(figure)
    pipeline, part = values(tmp_path, ("r2",))
    tables = TabularEvaluator().judge(pipeline, part).tables
    residuals = part.rows["target"].to_numpy() - pipeline.predict(part.rows)["prediction"].to_numpy()
    np.testing.assert_array_equal(tables["predictions"]["residual"], residuals)
    errors = tables["errors"].iloc[0]
    assert errors[["mean", "sd", "abs_q0.5", "abs_q1"]].tolist() == pytest.approx(
        [residuals.mean(), residuals.std(), np.median(np.abs(residuals)), np.abs(residuals).max()], rel=1e-14
    )


def test_nothing_is_computed_before_a_picture_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importances cost predictions, so they wait; then they are computed once, however often they are drawn."""
    calls: list[int] = []
    real = permutation_importances
    monkeypatch.setattr(evaluators, "permutation_importances", lambda *given: calls.append(1) or real(*given))
    pipeline, part = classes(tmp_path, ("accuracy",))
    figure = TabularEvaluator().judge(pipeline, part).figures["importances"]
    assert calls == []
    drawn(figure)
    drawn(figure)
    assert calls == [1]
    judged = TabularEvaluator(importances=True).judge(pipeline, part)
    assert judged.tables["importances"].columns.tolist() == ["feature", "importance", "sd"]
    assert calls == [1, 1]


def test_importances_agree_with_scikit_learns(tmp_path: Path) -> None:
    """Another draw of shuffles: the means agree within the spread of both, and the useless column gains nothing."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(500, 4)), columns=["big", "small", "none", "text"])
    frame["target"] = np.where(3 * frame["big"] + frame["small"] + 0.3 * random.normal(size=500) > 0, "b", "a")
    frame["text"] = np.where(frame["text"] > 0, "x", "y")
    task = Classification(Classification.Interface.model_validate({"target_col": "target"}))
    pipeline, part = setting(task, frame, RandomForestClassifier(30, random_state=0), tmp_path, ("accuracy",))
    loss = resolve(["accuracy"], CLASSIFICATION)[0]
    ours = permutation_importances(pipeline, part, loss).set_index("feature")

    class Wrapped:
        classes_ = np.array(["a", "b"])

        def fit(self, X: Any, y: Any) -> None: ...

        def score(self, X: Any, y: Any) -> float:
            return float((pipeline.predict(X)["prediction"].to_numpy() == y).mean())

    features = part.rows.drop(columns="target")
    by_hand = permutation_importance(Wrapped(), features, part.rows["target"].to_numpy(), n_repeats=10, random_state=1)
    for at, name in enumerate(features.columns):
        spread = 3 * (ours.loc[name, "sd"] + by_hand.importances_std[at]) + 0.01
        assert abs(ours.loc[name, "importance"] - by_hand.importances_mean[at]) < spread
    assert ours.index[0] == "big"
    assert abs(ours.loc["none", "importance"]) < 0.05
    pd.testing.assert_frame_equal(permutation_importances(pipeline, part, loss).set_index("feature"), ours)  # from the seed of the part


def test_the_rows_that_are_judged_are_left_alone(tmp_path: Path) -> None:
    """Shuffling happens on copies."""
    pipeline, part = classes(tmp_path, ("accuracy",))
    before = part.rows.copy(deep=True)
    for figure in TabularEvaluator(importances=True).judge(pipeline, part).figures.values():
        drawn(figure)
    pd.testing.assert_frame_equal(part.rows, before)


@pytest.mark.parametrize(
    ("model", "curves"),
    [
        (HistGradientBoostingClassifier(max_iter=8, early_stopping=True), {"training": 9, "held back": 9}),
        (GradientBoostingClassifier(n_estimators=7), {"training": 7}),
        (
            MLPClassifier((3,), early_stopping=True, max_iter=30, random_state=0, n_iter_no_change=30),
            {"training (loss)": 30, "held back (validation score)": 30},
        ),
        (FixedThresholdClassifier(GradientBoostingClassifier(n_estimators=7), threshold=0.4), {"training": 7}),
        (make_pipeline(StandardScaler(), GradientBoostingClassifier(n_estimators=6)), {"training": 6}),
        (GaussianNB(), None),
        (HistGradientBoostingClassifier(max_iter=8), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_model_that_keeps_its_training_curve_shows_it(model: Any, curves: dict[str, int] | None, tmp_path: Path) -> None:
    """As many points as iterations, training and held back; nothing for the others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        pipeline, part = classes(tmp_path, ("accuracy",), model=model)
    judged = TabularEvaluator().judge(pipeline, part)
    if curves is None:
        assert "learning" not in judged.figures
        return
    axes = drawn(judged.figures["learning"])
    lines = [line for one in axes.figure.axes for line in one.get_lines()]
    assert {line.get_label(): len(line.get_xdata()) for line in lines} == curves


def test_training_curves_of_the_boosting_libraries() -> None:
    """XGBoost and LightGBM where they were given rows to watch, CatBoost always."""
    catboost, lightgbm, xgboost = (pytest.importorskip(name) for name in ("catboost", "lightgbm", "xgboost"))
    X, y = load_breast_cancer(return_X_y=True)
    watched = xgboost.XGBClassifier(n_estimators=6).fit(X, y, eval_set=[(X, y)], verbose=False)
    assert [len(line.get_xdata()) for line in drawn(figures.of_learning(watched)).get_lines()] == [6]
    watched = lightgbm.LGBMClassifier(n_estimators=6, verbose=-1).fit(X, y, eval_X=X, eval_y=y)
    assert drawn(figures.of_learning(watched)).get_ylabel() == "binary_logloss"
    alone = catboost.CatBoostClassifier(iterations=6, verbose=0, allow_writing_files=False).fit(X, y)
    assert drawn(figures.of_learning(alone)).get_ylabel() == "Logloss"
    assert figures.of_learning(xgboost.XGBClassifier(n_estimators=2).fit(X, y)) is None


def test_tiles_carry_their_numbers(tmp_path: Path) -> None:
    """One tile per cell that is not empty, a number in each, the first row on top."""
    pipeline, part = classes(tmp_path, ("accuracy",), load_wine)
    judged = TabularEvaluator().judge(pipeline, part)
    axes = drawn(judged.figures["confusion"])
    counts = judged.tables["confusion"].iloc[:, 1:].to_numpy()
    assert [text.get_text() for text in axes.texts] == [str(count) for count in counts.ravel()]
    assert len(axes.patches) == (counts > 0).sum()
    assert axes.get_ylim() == (2.5, -0.5)
    lines = drawn(judged.figures["calibration"]).get_lines()
    assert [line.get_label() for line in lines[:4]] == ["predicted class", "benign", "malignant", "other"]


# --- the guide's evaluator ------------------------------------------------------------------------------------


class CustomEvaluator(BaseEvaluator):
    """As the guide writes it."""

    def evaluate(self, y_true: Any, y_pred: Any, **kwargs: Any) -> dict[str, float]:
        metrics = super().evaluate(y_true, y_pred, **kwargs)
        metrics["custom_metric"] = self._calculate_custom_metric(y_true, y_pred)
        return metrics

    def _calculate_custom_metric(self, y_true: Any, y_pred: Any) -> float:
        return float(((y_true == "malignant") & (y_pred == "benign")).sum())


def test_an_evaluator_of_the_guide_adds_its_figure(tmp_path: Path) -> None:
    """It sees the labels as the data have them; `super().evaluate` gives the metrics asked for."""
    pipeline, part = classes(tmp_path, ("accuracy", "roc_auc"))
    judged = CustomEvaluator(interface={"task_type": "classification"}).judge(pipeline, part)
    missed = ((part.rows["target"].to_numpy() == "malignant") & (pipeline.predict(part.rows)["prediction"].to_numpy() == "benign")).sum()
    assert judged.metrics["custom_metric"] == missed
    assert judged.metrics["roc_auc"] == TabularEvaluator().judge(pipeline, part).metrics["roc_auc"]
    assert "confusion" in judged.figures


def test_what_an_evaluator_can_report_is_known_before_any_data() -> None:
    """The metrics of the task that the recipe names; a subclass announces its own."""
    assert CustomEvaluator(interface={"task_type": "regression"}).measures == REGRESSION
    assert CustomEvaluator(interface={"task_type": "classification"}).measures == CLASSIFICATION

    class Announced(CustomEvaluator):
        measures = (*CLASSIFICATION, Metric("custom_metric", "minimize", "prediction", lambda a, p, *, weight=None: 0.0))

    assert Announced(interface={"task_type": "classification"}).measures[-1].name == "custom_metric"


def test_an_evaluator_that_forgets_a_metric_is_told(tmp_path: Path) -> None:
    """What was asked for and is not reported is an error, not a gap."""

    class Forgetful(BaseEvaluator):
        def evaluate(self, y_true: Any, y_pred: Any, **kwargs: Any) -> dict[str, float]:
            return {"mine": 1.0}

    pipeline, part = classes(tmp_path, ("accuracy",))
    with pytest.raises(TrainingFailed, match=r"no accuracy.*super"):
        Forgetful().judge(pipeline, part)


def test_evaluate_works_without_a_pipeline() -> None:
    """For a notebook: labels or values, and probabilities where there are some."""
    y, said = np.array(["a", "b", "b", "a"]), np.array(["a", "b", "a", "a"])
    told = BaseEvaluator().evaluate(y, said)
    assert told == {"accuracy": 0.75, "precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3)}
    told = BaseEvaluator().evaluate(y, said, y_proba=np.array([0.1, 0.9, 0.4, 0.2]), metrics=["roc_auc", "log_loss"])
    assert told["roc_auc"] == 1.0
    assert told["log_loss"] == pytest.approx(theirs.log_loss(y == "b", [0.1, 0.9, 0.4, 0.2]), rel=1e-14)
    three = BaseEvaluator().evaluate(np.array([0, 1, 2, 2]), np.array([0, 2, 2, 2]))
    assert three["f1"] == pytest.approx(theirs.f1_score([0, 1, 2, 2], [0, 2, 2, 2], average="macro"))
    assert BaseEvaluator().evaluate(np.array([1.5, 2.5]), np.array([1.0, 3.0]))["mae"] == 0.5
    assert BaseEvaluator().evaluate(np.ones((3, 2)) * [[1], [2], [3]], np.ones((3, 2)), metrics=["mae"])["mae_1"] == 1.0
    with pytest.raises(RecipeError, match="did you mean"):
        BaseEvaluator().evaluate(y, said, metrics=["accurcy"])


# --- the page that tells how ------------------------------------------------------------------------------------------

HOWTO = Path(__file__).parents[1] / "docs" / "howto" / "custom-metric-or-evaluator.md"


@pytest.fixture
def shop(project: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A project with the modules of the page, as typed there; with a parameter these entry points of theirs are installed."""
    typed = re.findall(r"^```python file=(\S+)\n(.*?)^```$", HOWTO.read_text(), re.DOTALL | re.MULTILINE)
    modules = {name.removesuffix(".py").replace("/", "."): text for name, text in typed}
    assert set(modules) == {"shop.metrics", "shop.evaluator"}
    install(project, "shop", modules, getattr(request, "param", {}))
    with on_path(project, monkeypatch):
        registry.refresh()
        yield project
    registry.refresh()


def quickstart(project: Path, evaluation: str, rest: str = "") -> Path:
    text = (project / "recipes" / "quickstart" / "quickstart.yaml").read_text().replace("name: quickstart", "name: mine")
    path = project / "recipes" / "quickstart" / "mine.yaml"
    path.write_text(text.replace("  metrics: [accuracy, roc_auc, f1]\n", evaluation) + rest)
    return path


@pytest.mark.parametrize("shop", [{"metric": {"missed_share": "shop.metrics:MISSED"}}], indirect=True, ids=["registered"])
def test_a_metric_of_a_plugin_is_reported_and_tuned_for(shop: Path, command: Callable[..., Any]) -> None:
    """It stands beside scikit-learn's, gets an interval, and is what the search minimises; one that is misspelt is refused."""
    evaluation = """  metrics: [recall, missed_share]
  evaluator: {name: tabular_evaluator, params: {intervals: 0.9, resamples: 100}}
"""
    path = quickstart(shop, evaluation, "hyperparameter_tuning: {n_trials: 2, metric: missed_share, folds: 2}\n")
    path.write_text(path.read_text().replace("{max_iter: 1000}", "{max_iter: 1000, C: {type: float, low: 0.1, high: 1, default: 0.5}}"))
    answer = command("train", "--recipe-file", path, "--json")
    assert answer.code == 0, answer
    assert answer.json["metrics"]["missed_share"] == pytest.approx(1 - answer.json["metrics"]["recall"], rel=1e-12)
    table = pd.read_parquet(Path(answer.json["artifact"]) / "tables" / "intervals.parquet").set_index("metric")
    assert table.loc["missed_share", "high"] == pytest.approx(1 - table.loc["recall", "low"], abs=0.05)
    hpo = json.loads((Path(answer.json["artifact"]) / "hpo.json").read_text())
    assert hpo["direction"] == "minimize"
    path.write_text(path.read_text().replace("[recall, missed_share]", "[recall, mised_share]"))
    refused = command("validate", "--recipe-file", path, "--json")
    assert [error["slug"] for error in refused.json["errors"]] == ["unknown-metric"]


def test_the_guides_evaluator_trains_as_typed(shop: Path, command: Callable[..., Any]) -> None:
    """`evaluation.evaluator: {class_path}`: refused until its package is allowed; then its figure is in the metrics and of the baseline."""
    path = quickstart(shop, "  metrics: [accuracy]\n  evaluator: {class_path: shop.evaluator.CustomEvaluator}\n")
    allowed = "security.allowed_namespaces=[sklearn, shop]"
    assert command("train", "--recipe-file", path, "--set", "security.allowed_namespaces=[sklearn]").code == 4
    answer = command("train", "--recipe-file", path, "--set", allowed, "--json")
    assert answer.code == 0, answer
    table = pd.read_parquet(Path(answer.json["artifact"]) / "tables" / "predictions.parquet")
    missed = ((table["actual"] == "malignant") & (table["prediction"] == "benign")).sum()
    assert answer.json["metrics"] == {"accuracy": (table["actual"] == table["prediction"]).mean(), "custom_metric": 20.0 * missed}
    assert answer.json["baselines"]["dummy"]["custom_metric"] == 20.0 * (table["actual"] == "malignant").sum()
