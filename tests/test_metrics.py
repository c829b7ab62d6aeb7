"""Metrics: scikit-learn's own functions are the second road; names, directions and what is undefined."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as theirs

from recipeline.components.metrics import CLASSIFICATION, REGRESSION, Observed, measure, resolve
from recipeline.contracts import Metric
from recipeline.errors import DataError, RecipeError

ALL = {metric.name: metric for metric in (*CLASSIFICATION, *REGRESSION)}


@pytest.fixture
def binary() -> Observed:
    random = np.random.default_rng(3)
    actual = random.random(200) < 0.35
    positive = np.clip(0.3 * actual + 0.7 * random.random(200), 0.001, 0.999)
    return Observed(
        actual, positive > 0.5, pd.DataFrame(), np.column_stack([1 - positive, positive]), weight=random.random(200), classes=("no", "yes")
    )


@pytest.fixture
def several() -> Observed:
    random = np.random.default_rng(4)
    actual = random.integers(4, size=300)
    probability = random.dirichlet(np.ones(4), size=300)
    probability[np.arange(300), actual] += 0.4
    probability /= probability.sum(axis=1, keepdims=True)
    return Observed(actual, probability.argmax(axis=1), pd.DataFrame(), probability, weight=random.random(300), classes=tuple("abcd"))


@pytest.fixture
def values() -> Observed:
    random = np.random.default_rng(5)
    actual = random.gamma(3.0, size=150)
    return Observed(actual, actual * (0.7 + 0.6 * random.random(150)), pd.DataFrame(), weight=random.random(150), targets=("y",))


BINARY = {
    "accuracy": lambda o: theirs.accuracy_score(o.actual, o.predicted, sample_weight=o.weight),
    "precision": lambda o: theirs.precision_score(o.actual, o.predicted, sample_weight=o.weight),
    "recall": lambda o: theirs.recall_score(o.actual, o.predicted, sample_weight=o.weight),
    "f1": lambda o: theirs.f1_score(o.actual, o.predicted, sample_weight=o.weight),
    "f1_macro": lambda o: theirs.f1_score(o.actual, o.predicted, average="macro", sample_weight=o.weight),
    "f1_weighted": lambda o: theirs.f1_score(o.actual, o.predicted, average="weighted", sample_weight=o.weight),
    "jaccard": lambda o: theirs.jaccard_score(o.actual, o.predicted, sample_weight=o.weight),
    "roc_auc": lambda o: theirs.roc_auc_score(o.actual, o.probability[:, 1], sample_weight=o.weight),
    "average_precision": lambda o: theirs.average_precision_score(o.actual, o.probability[:, 1], sample_weight=o.weight),
    "log_loss": lambda o: theirs.log_loss(o.actual, o.probability[:, 1], sample_weight=o.weight),
    "brier": lambda o: theirs.brier_score_loss(o.actual, o.probability[:, 1], sample_weight=o.weight),
    "balanced_accuracy": lambda o: theirs.balanced_accuracy_score(o.actual, o.predicted, sample_weight=o.weight),
    "mcc": lambda o: theirs.matthews_corrcoef(o.actual, o.predicted, sample_weight=o.weight),
    "cohen_kappa": lambda o: theirs.cohen_kappa_score(o.actual, o.predicted, sample_weight=o.weight),
}

SEVERAL = {
    "accuracy": lambda o: theirs.accuracy_score(o.actual, o.predicted, sample_weight=o.weight),
    "precision": lambda o: theirs.precision_score(o.actual, o.predicted, average="macro", sample_weight=o.weight),
    "recall_weighted": lambda o: theirs.recall_score(o.actual, o.predicted, average="weighted", sample_weight=o.weight),
    "f1_micro": lambda o: theirs.f1_score(o.actual, o.predicted, average="micro", sample_weight=o.weight),
    "f1": lambda o: theirs.f1_score(o.actual, o.predicted, average="macro", sample_weight=o.weight),
    "roc_auc": lambda o: theirs.roc_auc_score(o.actual, o.probability, multi_class="ovr", sample_weight=o.weight),
    "roc_auc_ovr_weighted": lambda o: theirs.roc_auc_score(
        o.actual, o.probability, multi_class="ovr", average="weighted", sample_weight=o.weight
    ),
    "log_loss": lambda o: theirs.log_loss(o.actual, o.probability, sample_weight=o.weight),
    "neg_log_loss": lambda o: -theirs.log_loss(o.actual, o.probability, sample_weight=o.weight),
    "brier": lambda o: theirs.brier_score_loss(o.actual, o.probability, sample_weight=o.weight),
    "average_precision": lambda o: theirs.average_precision_score(np.eye(4)[o.actual], o.probability, sample_weight=o.weight),
    "balanced_accuracy": lambda o: theirs.balanced_accuracy_score(o.actual, o.predicted, sample_weight=o.weight),
    "mcc": lambda o: theirs.matthews_corrcoef(o.actual, o.predicted, sample_weight=o.weight),
}

VALUES = {
    "r2": theirs.r2_score,
    "rmse": theirs.root_mean_squared_error,
    "mse": theirs.mean_squared_error,
    "mae": theirs.mean_absolute_error,
    "mape": theirs.mean_absolute_percentage_error,
    "medae": theirs.median_absolute_error,
    "msle": theirs.mean_squared_log_error,
    "rmsle": theirs.root_mean_squared_log_error,
    "explained_variance": theirs.explained_variance_score,
    "d2_absolute_error": theirs.d2_absolute_error_score,
}


@pytest.mark.parametrize("name", BINARY)
def test_two_classes_are_judged_as_scikit_learn_does(name: str, binary: Observed) -> None:
    """Bit for bit, weights included: precision, recall and f1 are those of the positive class."""
    assert measure(ALL[name], binary) == BINARY[name](binary)


@pytest.mark.parametrize("name", SEVERAL)
def test_more_classes_are_judged_as_scikit_learn_does(name: str, several: Observed) -> None:
    """The plain names mean the unweighted mean over the classes; 1e-15 because means over classes may be summed in another order."""
    assert measure(ALL[name], several) == pytest.approx(SEVERAL[name](several), rel=1e-15)


@pytest.mark.parametrize("name", VALUES)
def test_values_are_judged_as_scikit_learn_does(name: str, values: Observed) -> None:
    """Bit for bit, weights included."""
    assert measure(ALL[name], values) == VALUES[name](values.actual, values.predicted, sample_weight=values.weight)


@pytest.mark.parametrize("name", [*VALUES, "max_error"])
def test_several_targets_are_averaged_with_equal_weights(name: str) -> None:
    """The figure for two targets is the mean of their two figures."""
    random = np.random.default_rng(6)
    actual, predicted = random.gamma(3.0, size=(2, 80, 2))
    both = measure(ALL[name], Observed(actual, predicted, pd.DataFrame(), targets=("a", "b")))
    each = [measure(ALL[name], Observed(actual[:, at], predicted[:, at], pd.DataFrame(), targets=("a",))) for at in (0, 1)]
    assert both == pytest.approx(np.mean(each), rel=1e-14)


def test_every_scorer_name_of_scikit_learn_that_fits_a_table_is_known() -> None:
    """`get_scorer_names()` less those for clustering, multi-label targets and Tweedie families."""
    words = {word for metric in ALL.values() for word in (metric.name, *metric.aliases)}
    left_out = {
        "adjusted_mutual_info_score", "adjusted_rand_score", "completeness_score", "fowlkes_mallows_score", "homogeneity_score",
        "mutual_info_score", "normalized_mutual_info_score", "rand_score", "v_measure_score", "f1_samples", "precision_samples",
        "recall_samples", "jaccard_samples", "neg_mean_gamma_deviance", "neg_mean_poisson_deviance", "neg_negative_likelihood_ratio",
        "positive_likelihood_ratio", "top_k_accuracy", "d2_brier_score", "d2_log_loss_score",
    }  # fmt: skip
    assert set(theirs.get_scorer_names()) - left_out - words == set()


def test_a_scorer_name_has_the_direction_of_scikit_learn() -> None:
    """Every `neg_…` is better when larger and is the plain loss with its sign turned."""
    for name, metric in ALL.items():
        if name.startswith("neg_"):
            assert metric.direction == "maximize"
    losses = {"log_loss", "brier", "rmse", "mse", "mae", "mape", "medae", "msle", "rmsle", "max_error"}
    assert {name for name, metric in ALL.items() if metric.direction == "minimize"} == losses


def test_one_class_only_is_an_error_and_no_number(binary: Observed) -> None:
    """An area under a curve that does not exist is not 0.5."""
    nobody = Observed(np.zeros(5, bool), np.zeros(5, bool), pd.DataFrame(), binary.probability[:5], classes=("no", "yes"))
    for name in ("roc_auc", "average_precision", "recall", "cohen_kappa"):
        with pytest.raises(DataError, match="undefined"):
            measure(ALL[name], nobody)


def test_a_class_that_is_not_among_the_rows_makes_the_area_undefined(several: Observed) -> None:
    """The message says how many classes are missing."""
    kept = several.actual != 2
    less = Observed(several.actual[kept], several.predicted[kept], pd.DataFrame(), several.probability[kept], classes=tuple("abcd"))
    with pytest.raises(DataError, match="1 of the 4 classes"):
        measure(ALL["roc_auc"], less)


def test_a_constant_target_has_no_r2() -> None:
    """Nor has a single row."""
    for actual in (np.ones(4), np.ones(1)):
        with pytest.raises(DataError, match="undefined"):
            measure(ALL["r2"], Observed(actual, actual + 0.1, pd.DataFrame(), targets=("y",)))


def test_what_scikit_learn_refuses_is_a_data_error_with_its_words() -> None:
    """Logarithms of negative values: one line, no traceback."""
    with pytest.raises(DataError, match="msle cannot be computed"):
        measure(ALL["msle"], Observed(np.array([-3.0, 1.0]), np.array([1.0, 1.0]), pd.DataFrame(), targets=("y",)))


def test_precision_without_a_positive_prediction_is_zero_without_a_warning() -> None:
    """scikit-learn's convention; the worst value there is, so nothing looks better than it is."""
    never = Observed(np.array([True, False]), np.array([False, False]), pd.DataFrame(), classes=(0, 1))
    assert measure(ALL["precision"], never) == 0.0


def test_decision_values_serve_rank_metrics_only(binary: Observed) -> None:
    """An area needs an order; a log-loss needs probabilities."""
    scored = Observed(binary.actual, binary.predicted, pd.DataFrame(), None, binary.probability[:, 1] * 9 - 3, classes=binary.classes)
    expected = theirs.roc_auc_score(binary.actual, binary.probability[:, 1])
    assert measure(ALL["roc_auc"], scored) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(RecipeError, match="log_loss needs probabilities"):
        measure(ALL["log_loss"], scored)


def test_unknown_names_are_all_reported_with_the_nearest() -> None:
    """One error for two misspelt names; aliases lead to the one metric."""
    with pytest.raises(RecipeError) as caught:
        resolve(["accurracy", "auc", "f2"], CLASSIFICATION)
    assert len(caught.value.problems) == 2
    assert "did you mean accuracy?" in str(caught.value)
    assert [metric.name for metric in resolve(["auc", "roc_auc_score", "acc"], CLASSIFICATION)] == ["roc_auc", "accuracy"]


def test_a_metric_of_the_whole_frame_sees_the_output(values: Observed) -> None:
    """`needs: frame` gives the output frame of the pipeline."""
    seen = Metric("rows", "maximize", "frame", lambda actual, frame, *, weight=None: float(len(frame)))
    assert measure(seen, Observed(values.actual, values.predicted, pd.DataFrame({"a": [1, 2, 3]}))) == 3.0


def test_no_metric_is_nan_on_ordinary_rows(binary: Observed, several: Observed, values: Observed) -> None:
    """Every name of both lists can be computed for what it is for."""
    for metric in CLASSIFICATION:
        assert math.isfinite(measure(metric, binary)), metric.name
        unweighted = Observed(several.actual, several.predicted, several.frame, several.probability, classes=several.classes)
        assert math.isfinite(measure(metric, unweighted)), metric.name
    for metric in REGRESSION:
        assert math.isfinite(measure(metric, values)), metric.name
