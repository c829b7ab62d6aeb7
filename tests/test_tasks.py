"""Tasks on tables: hand-written scikit-learn is the second road."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from pydantic import ValidationError
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    BaggingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.multioutput import MultiOutputRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from recipeline.components.classification import Classification, best_threshold
from recipeline.components.evaluators import TabularEvaluator
from recipeline.components.preprocessing import DefaultPreprocessor
from recipeline.components.regression import Regression
from recipeline.components.splitters import TrainTestSplit
from recipeline.contracts import FitContext, Part
from recipeline.errors import DataError, RecipeError
from recipeline.pipeline import Pipeline
from recipeline.schema import InputSchema


def task_of(kind: Any, **keys: Any) -> Any:
    return kind(kind.Interface.model_validate(keys))


def trained(task: Any, frame: pd.DataFrame, model: Any, folder: Path, rows: Any = None, **preprocessing: Any) -> Pipeline:
    """The pipeline that the engine would fit on these rows."""
    schema = task.describe(frame)
    selected = task.select(frame, schema, targets=True).take(rows)
    pipeline = Pipeline(task=task, schema=schema, model=model, preprocessor=DefaultPreprocessor(**preprocessing))
    return pipeline.fit(selected, FitContext(42, folder))


# --- the reference figures ------------------------------------------------------------------------------------

REFERENCE = [
    (load_iris, lambda: LogisticRegression(random_state=42), "standard", {"accuracy": 0.9333, "roc_auc": 0.9967}),
    (load_wine, lambda: LogisticRegression(random_state=42), "standard", {"accuracy": 0.9722, "roc_auc": 1.0}),
    (load_breast_cancer, lambda: LogisticRegression(random_state=42), "standard", {"accuracy": 0.9825, "roc_auc": 0.9954}),
    (load_digits, lambda: LogisticRegression(random_state=42), "standard", {"accuracy": 0.9722, "roc_auc": 0.9991}),
    (load_breast_cancer, lambda: RandomForestClassifier(200, random_state=42), "none", {"accuracy": 0.9561, "roc_auc": 0.9931}),
    (load_diabetes, lambda: Ridge(random_state=42), "none", {"r2": 0.4192, "rmse": 55.474}),
    (load_diabetes, lambda: RandomForestRegressor(200, random_state=42), "none", {"r2": 0.4402, "rmse": 54.461}),
]


@pytest.mark.parametrize(("load", "made", "scale", "figures"), REFERENCE)
def test_the_figures_of_a_hand_written_script_are_reached(
    load: Callable[..., Any], made: Callable[[], Any], scale: str, figures: dict[str, float], tmp_path: Path
) -> None:
    """Predictions bit for bit, and the metrics known from outside (four digits)."""
    frame = load(as_frame=True).frame
    task = task_of(Regression if load is load_diabetes else Classification, target_col="target")
    selected = task.select(frame, task.describe(frame), targets=True)
    fold = TrainTestSplit(0.2, stratify=load is not load_diabetes, random_state=42).split(selected, task).folds[0]
    pipeline = trained(task, frame, made(), tmp_path, fold.train, numerical_strategy=scale)
    output = pipeline.predict(frame.iloc[fold.test])

    X, y = load(return_X_y=True)
    X_train, X_test, y_train, _ = train_test_split(X, y, test_size=0.2, random_state=42, stratify=None if load is load_diabetes else y)
    by_hand = make_pipeline(StandardScaler() if scale == "standard" else None, made()).fit(X_train, y_train)
    np.testing.assert_array_equal(output["prediction"], by_hand.predict(X_test))
    if load is not load_diabetes:
        np.testing.assert_array_equal(output.filter(like="probability_"), by_hand.predict_proba(X_test))
    part = Part(frame.iloc[fold.test], selected.take(fold.test), tuple(figures), detail=False)
    judged = TabularEvaluator().judge(pipeline, part).metrics
    assert judged == {name: pytest.approx(value, abs=5e-5 if value < 10 else 5e-4) for name, value in figures.items()}


@pytest.mark.parametrize(
    "made",
    [
        lambda: HistGradientBoostingClassifier(max_iter=20, random_state=0),
        lambda: DecisionTreeClassifier(random_state=0),
        KNeighborsClassifier,
        GaussianNB,
        SVC,
        lambda: LinearSVC(random_state=0),
        lambda: BaggingClassifier(n_estimators=5, random_state=0),
        lambda: VotingClassifier([("a", GaussianNB()), ("b", DecisionTreeClassifier(random_state=0))], voting="soft"),
        lambda: VotingClassifier([("a", GaussianNB()), ("b", DecisionTreeClassifier(random_state=0))]),
        lambda: CalibratedClassifierCV(GaussianNB()),
    ],
)
@pytest.mark.parametrize("load", [load_wine, load_breast_cancer])
def test_every_kind_of_classifier_predicts_as_it_does_alone(load: Any, made: Callable[[], Any], tmp_path: Path) -> None:
    """Asking a forest once for its probabilities instead of twice changes nothing; decision values come as `score`."""
    frame = load(as_frame=True).frame.sample(frac=1, random_state=0)
    X, y = frame.drop(columns="target").to_numpy().copy(order="C"), frame["target"].to_numpy()
    pipeline = trained(task_of(Classification, target_col="target"), frame, made(), tmp_path, np.arange(100))
    output, by_hand = pipeline.predict(frame.iloc[100:]), made().fit(X[:100], y[:100])
    np.testing.assert_array_equal(output["prediction"], by_hand.predict(X[100:]))
    if hasattr(by_hand, "predict_proba"):
        np.testing.assert_array_equal(output.filter(like="probability_"), by_hand.predict_proba(X[100:]))
    elif load is load_breast_cancer and hasattr(by_hand, "decision_function"):
        np.testing.assert_array_equal(output["score"], by_hand.decision_function(X[100:]))
    else:
        assert list(output.columns) == ["prediction"]


@pytest.mark.parametrize(
    "made",
    [
        lambda: MultiOutputRegressor(HistGradientBoostingRegressor(max_iter=5, random_state=0)),
        LinearRegression,
        KNeighborsRegressor,
        lambda: MultiOutputRegressor(Ridge()),
    ],
)
def test_several_targets_are_learned_together(made: Callable[[], Any], tmp_path: Path) -> None:
    """One column of output per target; the same numbers as by hand."""
    frame = load_diabetes(as_frame=True).frame.assign(other=lambda data: data["bmi"] * 100 + data["target"])
    output = trained(task_of(Regression, target_col=["other", "target"]), frame, made(), tmp_path).predict(frame)
    X, Y = load_diabetes().data, frame[["other", "target"]].to_numpy().copy(order="C")
    assert list(output.columns) == ["prediction_other", "prediction_target"]
    np.testing.assert_array_equal(output.to_numpy(), made().fit(X, Y).predict(X))


def test_a_list_of_one_target_is_one_target(tmp_path: Path) -> None:
    """Its output is `prediction`, and integers are values too."""
    frame = load_diabetes(as_frame=True).frame.astype({"target": int})
    output = trained(task_of(Regression, target_col=["target"]), frame, LinearRegression(), tmp_path).predict(frame)
    X, y = load_diabetes(return_X_y=True)
    np.testing.assert_array_equal(output["prediction"], LinearRegression().fit(X, y).predict(X))


# --- labels ---------------------------------------------------------------------------------------------------


@pytest.fixture
def people() -> pd.DataFrame:
    random = np.random.default_rng(31)
    n = 80
    age = random.integers(18, 80, n)
    return pd.DataFrame(
        {
            "user_id": [f"u{at}" for at in range(n)],
            "age": age,
            "income": np.round(random.gamma(3.0, size=n), 3),
            "city": random.choice(["Seoul", "Busan"], n),
            "seen": pd.date_range("2024-03-01", periods=n, freq="h"),
            "trust": random.random(n) + 0.1,
            "shop": random.integers(8, size=n),
            "churned": np.where(age + 20 * random.random(n) > 55, "yes", "no"),
        }
    )


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [
        (["no", "yes"], object),
        ([False, True], bool),
        ([7, 3], np.int64),
        ([10, 2], np.int32),
        ([1.0, 2.0], np.float64),
        (["no", "yes"], "category"),
        (["no", "yes"], "string"),
    ],
)
def test_labels_come_back_in_their_own_type(people: pd.DataFrame, labels: list[Any], dtype: Any, tmp_path: Path) -> None:
    """Codes are 0 … k-1 in sorted order; the output holds the labels themselves, and a column per class in that order."""
    column = pd.Series(np.where(people["churned"] == "yes", labels[1], labels[0]))
    column = column.astype(dtype) if not isinstance(labels[0], bool) else column.astype(bool)
    frame = people.assign(churned=column).drop(columns=["user_id", "seen", "city", "trust", "shop"])
    task = task_of(Classification, target_col="churned")
    pipeline = trained(task, frame, DecisionTreeClassifier(random_state=0), tmp_path)
    output = pipeline.predict(frame)
    kept = InputSchema.from_json(pipeline.schema.to_json())
    assert list(kept.target["classes"]) == sorted(set(labels))
    assert output["prediction"].tolist() == column.tolist()  # a full tree has learned every row
    assert output.columns.tolist() == ["prediction", *(f"probability_{label}" for label in sorted(set(labels)))]
    selected = task.select(frame, pipeline.schema, targets=True)
    np.testing.assert_array_equal(selected.y, [sorted(set(labels)).index(label) for label in column])


def test_a_class_that_a_fold_lacks_has_probability_zero(people: pd.DataFrame, tmp_path: Path) -> None:
    """The columns of the output are those of the contract, whatever the training rows held."""
    frame = people.assign(churned=np.array(["a", "b", "c"])[np.arange(len(people)) % 3])
    for model in (GaussianNB(), RandomForestClassifier(5, random_state=0)):
        task = task_of(Classification, target_col="churned", entity_cols=["user_id"], timestamp_col="seen")
        pipeline = trained(task, frame, model, tmp_path, np.flatnonzero(frame["churned"] != "b"))
        output = pipeline.predict(frame)
        assert (output["probability_b"] == 0).all()
        assert set(output["prediction"]) <= {"a", "c"}
        np.testing.assert_allclose(output.filter(like="probability_").sum(axis=1), 1.0)


def test_key_columns_come_first_and_may_be_missing(people: pd.DataFrame, tmp_path: Path) -> None:
    """Entity and time columns are carried, are no features, and a prediction works without them."""
    task = task_of(Classification, target_col="churned", entity_cols=["user_id"], timestamp_col="seen", group_col="shop")
    pipeline = trained(task, people, GaussianNB(), tmp_path)
    assert pipeline.schema.features == ("age", "income", "city", "trust")
    assert task.output(pipeline.schema).keys == ("user_id", "seen")
    output = pipeline.predict(people)
    assert output.columns.tolist() == ["user_id", "seen", "prediction", "probability_no", "probability_yes"]
    assert output["user_id"].tolist() == people["user_id"].tolist()
    assert tuple(output.columns) == (*task.output(pipeline.schema).keys, *task.output(pipeline.schema).values)
    without = pipeline.predict(people[["trust", "city", "income", "age"]])
    pd.testing.assert_frame_equal(without, output.drop(columns=["user_id", "seen"]))
    selected = task.select(people, pipeline.schema, targets=True)
    np.testing.assert_array_equal(selected.groups, people["shop"])
    np.testing.assert_array_equal(selected.times, people["seen"])


# --- what training data must be ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frame: frame.rename(columns={"churned": "churn"}), "no column 'churned'; did you mean churn?"),
        (lambda frame: frame.assign(churned=frame["churned"].where(frame.index > 2)), "has 3 nulls in 80 rows, the first in row 0"),
        (lambda frame: frame.assign(churned="yes"), "one class only, 'yes'"),
        (lambda frame: frame.assign(churned=frame["income"]), "use task_type: regression"),
        (lambda frame: frame.assign(churned=frame["seen"]), "holds time stamps"),
        (lambda frame: frame.rename(columns={"user_id": "userid"}), "entity_cols: the data have no column 'user_id'; did you mean userid?"),
        (lambda frame: frame.iloc[:0], "no rows"),
        (lambda frame: frame[["user_id", "churned"]], "no feature column"),
        (lambda frame: pd.concat([frame, frame[["age"]]], axis=1), "age is there twice"),
        (lambda frame: frame.rename(columns={"user_id": "prediction", "age": "user_id"}).rename(columns={}), None),
    ],
)
def test_data_that_cannot_be_learned_from_are_refused(people: pd.DataFrame, change: Any, words: str | None) -> None:
    """One line each that says what is wrong and what to do; exit code 5."""
    task = task_of(Classification, target_col="churned", entity_cols=["user_id"])
    if words is None:
        task.describe(change(people))  # a feature may be called prediction; it never meets the output
        return
    with pytest.raises(DataError) as caught:
        task.describe(change(people))
    assert words in str(caught.value)
    assert caught.value.code == 5


def test_a_key_with_the_name_of_an_output_column_is_refused(people: pd.DataFrame) -> None:
    """Two columns of one name would leave nobody knowing which is which."""
    with pytest.raises(DataError, match="'prediction' has the name of an output column"):
        task_of(Classification, target_col="churned", entity_cols=["prediction"]).describe(people.rename(columns={"user_id": "prediction"}))


def test_a_target_of_a_regression_holds_finite_numbers(people: pd.DataFrame) -> None:
    """Text asks for classification; an infinite value is refused when it is read."""
    with pytest.raises(DataError, match="use task_type: classification"):
        task_of(Regression, target_col="city").describe(people)
    task = task_of(Regression, target_col="income")
    schema = task.describe(people)
    with pytest.raises(DataError, match="infinite"):
        task.select(people.assign(income=np.inf), schema, targets=True)
    with pytest.raises(DataError, match="80 nulls"):
        task.select(people.assign(income=np.nan), schema, targets=True)


def test_a_class_that_training_did_not_have_cannot_be_judged(people: pd.DataFrame) -> None:
    """Evaluating other rows: the unknown label is named."""
    task = task_of(Classification, target_col="churned")
    schema = task.describe(people)
    with pytest.raises(DataError, match="class 'perhaps' was not there in training"):
        task.select(people.assign(churned="perhaps"), schema, targets=True)


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        (Classification, {}),
        (Classification, {"target_col": "y", "targetcol": "z"}),
        (Classification, {"target_col": ["y"]}),
        (Classification, {"target_col": "y", "entity_cols": ["y"]}),
        (Classification, {"target_col": "y", "decision_threshold": 1.5}),
        (Classification, {"target_col": "y", "decision_threshold": "best"}),
        (Classification, {"target_col": "y", "threshold_metric": "f1"}),
        (Classification, {"target_col": "y", "positive_class": ["a"]}),
        (Classification, {"target_col": "y", "sample_weight_col": "id", "entity_cols": ["id"]}),
        (Regression, {"target_col": []}),
        (Regression, {"target_col": ["y", "y"]}),
        (Regression, {"target_col": "y", "positive_class": 1}),
    ],
)
def test_a_wrong_data_interface_is_one_error(kind: Any, keys: dict[str, Any]) -> None:
    """Unknown keys, columns with two roles, thresholds outside (0, 1), keys that would be ignored."""
    with pytest.raises(ValidationError) as caught:
        kind.Interface.model_validate(keys)
    assert caught.value.error_count() == 1


# --- weights, thresholds, positive class ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "given"),
    [
        (LogisticRegression, "sample_weight"),
        (lambda: make_pipeline(StandardScaler(), LogisticRegression()), "logisticregression__sample_weight"),
        (lambda: VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], voting="soft"), "sample_weight"),
        (lambda: GridSearchCV(LogisticRegression(), {"C": [0.1, 1.0]}, cv=2), "sample_weight"),
    ],
)
def test_weights_reach_the_estimator(people: pd.DataFrame, made: Callable[[], Any], given: str, tmp_path: Path) -> None:
    """The same model as by hand, and another one than without weights."""
    frame = people[["age", "income", "trust", "churned"]]
    pipeline = trained(task_of(Classification, target_col="churned", sample_weight_col="trust"), frame, made(), tmp_path)
    X, y = frame[["age", "income"]].to_numpy(np.float64).copy(order="C"), (frame["churned"] == "yes").to_numpy().astype(int)
    by_hand = made().fit(X, y, **{given: frame["trust"].to_numpy()})
    output = pipeline.predict(frame)[["probability_no", "probability_yes"]].to_numpy()
    np.testing.assert_array_equal(output, by_hand.predict_proba(X))
    assert not np.array_equal(output, made().fit(X, y).predict_proba(X))
    assert pipeline.schema.features == ("age", "income")


@pytest.mark.parametrize(
    "model",
    [
        KNeighborsClassifier(),
        make_pipeline(StandardScaler(), KNeighborsClassifier()),
        VotingClassifier([("a", GaussianNB()), ("b", KNeighborsClassifier())]),
        GridSearchCV(KNeighborsClassifier(), {"n_neighbors": [3]}),
    ],
)
def test_weights_that_nobody_takes_are_an_error(people: pd.DataFrame, model: Any, tmp_path: Path) -> None:
    """Never silently ignored."""
    frame = people[["age", "income", "trust", "churned"]]
    with pytest.raises(RecipeError, match="takes no sample weights"):
        trained(task_of(Classification, target_col="churned", sample_weight_col="trust"), frame, model, tmp_path)


@pytest.mark.parametrize("bad", [np.nan, -1.0, np.inf])
def test_weights_are_finite_and_not_negative(people: pd.DataFrame, bad: float) -> None:
    """A null weight would be a row that nobody knows what to do with."""
    task = task_of(Classification, target_col="churned", sample_weight_col="trust")
    frame = people.assign(trust=people["trust"].where(people.index != 4, bad))
    with pytest.raises(DataError, match="none below 0"):
        task.select(frame, task.describe(frame), targets=True)


@pytest.mark.parametrize("positive", [None, "yes", "no"])
def test_the_positive_class_is_the_one_that_the_recipe_says(people: pd.DataFrame, positive: str | None, tmp_path: Path) -> None:
    """Precision is its precision, the threshold is its threshold; the default is the last of the sorted labels."""
    frame = people[["income", "trust", "churned"]]
    task = task_of(Classification, target_col="churned", positive_class=positive, decision_threshold=0.3)
    pipeline = trained(task, frame, GaussianNB(), tmp_path)
    meant = positive or "yes"
    output = pipeline.predict(frame)
    other = "no" if meant == "yes" else "yes"
    np.testing.assert_array_equal(output["prediction"], np.where(output[f"probability_{meant}"] >= 0.3, meant, other))
    part = Part(frame, task.select(frame, pipeline.schema, targets=True), ("precision", "f1"), detail=False)
    judged = TabularEvaluator().judge(pipeline, part).metrics
    assert judged["precision"] == precision_score(frame["churned"], output["prediction"], pos_label=meant)
    assert judged["f1"] == f1_score(frame["churned"], output["prediction"], pos_label=meant)


def test_a_positive_class_must_be_one_of_two(people: pd.DataFrame) -> None:
    """A label that is not there, and a target of three classes."""
    with pytest.raises(DataError, match="the classes are 'no' and 'yes'"):
        task_of(Classification, target_col="churned", positive_class="Yes").describe(people)
    with pytest.raises(DataError, match="needs two classes, and target 'shop' has 8"):
        task_of(Classification, target_col="shop", decision_threshold=0.4).describe(people)
    with pytest.raises(DataError, match="positive_class True"):
        task_of(Classification, target_col="churned", positive_class=True).describe(people.assign(churned=people["age"] % 2))


def test_a_threshold_needs_probabilities(people: pd.DataFrame, tmp_path: Path) -> None:
    """A model that has none is a mistake of the recipe."""
    frame = people[["income", "trust", "churned"]]
    pipeline = trained(task_of(Classification, target_col="churned", decision_threshold=0.4), frame, LinearSVC(), tmp_path)
    with pytest.raises(RecipeError, match="needs probabilities"):
        pipeline.predict(frame)
    with pytest.raises(RecipeError, match="needs probabilities"):
        trained(task_of(Classification, target_col="churned", decision_threshold="tune"), frame, LinearSVC(), tmp_path)


@pytest.mark.parametrize("positive", ["yes", "no"])
def test_a_tuned_threshold_is_the_best_out_of_fold(people: pd.DataFrame, positive: str, tmp_path: Path) -> None:
    """By hand: out-of-fold probabilities, every cut between two of them, the best balanced accuracy. Kept by skops."""
    frame = people[["age", "income", "churned"]]
    task = task_of(Classification, target_col="churned", decision_threshold="tune", positive_class=positive)
    pipeline = trained(task, frame, GaussianNB(), tmp_path)
    X, y = frame[["age", "income"]].to_numpy(np.float64), (frame["churned"] == "yes").to_numpy().astype(int)
    code = int(positive == "yes")
    held = np.empty(len(y))
    for train, test in StratifiedKFold(5, shuffle=True, random_state=42).split(X, y):
        held[test] = GaussianNB().fit(X[train], y[train]).predict_proba(X[test])[:, code]
    levels = np.unique(held)
    cuts = (levels[1:] + levels[:-1]) / 2
    scores = [balanced_accuracy_score(y == code, held >= cut) for cut in cuts]
    best = [cut for cut, score in zip(cuts, scores, strict=True) if score == max(scores)]
    assert pipeline.model.threshold == min(best, key=lambda cut: abs(cut - 0.5))
    output = pipeline.predict(frame)
    np.testing.assert_array_equal(output["prediction"] == positive, output[f"probability_{positive}"] >= pipeline.model.threshold)
    np.testing.assert_array_equal(output["probability_yes"], GaussianNB().fit(X, y).predict_proba(X)[:, 1])
    read = skops.io.loads(skops.io.dumps(pipeline.model), trusted=["numpy.dtype", "sklearn.frozen._frozen.FrozenEstimator"])
    np.testing.assert_array_equal(read.predict(X), pipeline.model.predict(X))


def test_a_threshold_of_one_level_only_is_one_half() -> None:
    """A model that says the same of every row gives nothing to choose from."""
    accuracy = next(metric for metric in Classification.metrics if metric.name == "accuracy")
    assert best_threshold(np.array([True, False]), np.array([0.7, 0.7]), accuracy) == 0.5


# --- the model's side of the contract ----------------------------------------------------------------------------------


class Curious(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A model that asks for its context."""

    def fit(self, X: Any, y: Any, *, context: FitContext) -> Curious:
        self.seed_, self.classes_ = context.seed, np.unique(y)
        return self

    def predict(self, X: Any) -> Any:
        return np.full((len(X), 1), self.classes_[0])  # a column, as some libraries give


def test_a_model_that_asks_gets_its_context(people: pd.DataFrame, tmp_path: Path) -> None:
    """And predictions that come as a column are rows all the same."""
    pipeline = trained(task_of(Classification, target_col="churned"), people.drop(columns="seen"), Curious(), tmp_path)
    assert pipeline.model.seed_ == 42
    assert set(pipeline.predict(people)["prediction"]) == {"no"}


def test_baselines_learn_nothing_from_the_features(people: pd.DataFrame, tmp_path: Path) -> None:
    """The most frequent class with the shares as probabilities; the mean."""
    task = task_of(Classification, target_col="churned")
    schema = task.describe(people)
    dummy = Pipeline(task=task, schema=schema, model=task.baselines(schema)["dummy"])
    output = dummy.fit(task.select(people, schema, targets=True), FitContext(1, tmp_path)).predict(people)
    shares = people["churned"].value_counts(normalize=True)
    assert set(output["prediction"]) == {shares.idxmax()}
    np.testing.assert_allclose(output["probability_yes"], shares["yes"], rtol=1e-15)
    assert isinstance(dummy.model, DummyClassifier)
    task = task_of(Regression, target_col="income")
    schema = task.describe(people)
    dummy = Pipeline(task=task, schema=schema, model=task.baselines(schema)["dummy"])
    output = dummy.fit(task.select(people, schema, targets=True), FitContext(1, tmp_path)).predict(people)
    np.testing.assert_allclose(output["prediction"], people["income"].mean(), rtol=1e-14)


def test_no_rows_in_no_rows_out(people: pd.DataFrame, tmp_path: Path) -> None:
    """An empty batch is answered with the same columns."""
    task = task_of(Classification, target_col="churned", entity_cols=["user_id"], timestamp_col="seen")
    pipeline = trained(task, people, GaussianNB(), tmp_path)
    empty = pipeline.predict(people.iloc[:0])
    assert len(empty) == 0
    assert empty.columns.tolist() == pipeline.predict(people).columns.tolist()
