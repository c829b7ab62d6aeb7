"""Figures of merit for tables: scikit-learn's, under its own names and the common ones.

Classes reach a metric as the model knows them: booleans ("is the positive class") where there are two, the codes
0 … k-1 of the sorted classes where there are more. So precision, recall and f1 mean the positive class for two classes
and the unweighted mean over the classes (macro) for more; `_macro`, `_micro` and `_weighted` say it explicitly.
Several targets are averaged with equal weights. A metric that is undefined on the rows given (one class only, one row)
is a DataError, never a number.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from recipeline.contracts import Direction, Metric, Needs
from recipeline.errors import DataError, Problem, RecipeError, did_you_mean, nearest

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Values = NDArray[Any]
    Floats = NDArray[np.float64]

# Rank metrics of two classes need an order of the rows only, so decision values serve where there are no probabilities.
RANKING = frozenset({"roc_auc", "roc_auc_ovr_weighted", "roc_auc_ovo", "roc_auc_ovo_weighted", "average_precision"})


@dataclass(frozen=True)
class Observed:
    """What was and what a pipeline said, in the form metrics take.

    actual       (n,) booleans, codes 0 … k-1, or values; (n, m) values for m targets
    predicted    like `actual`
    probability  (n, k), columns in the order of `classes`; None where the model has none
    score        (n,) decision values for the positive class; None where the model has none or there are more classes
    weight       (n,) or None
    classes      labels in the order of the codes; with two classes the positive one is last. None for regression
    targets      names of the m target columns
    """

    actual: Values
    predicted: Values
    frame: pd.DataFrame
    probability: Floats | None = None
    score: Floats | None = None
    weight: Floats | None = None
    classes: tuple[Any, ...] | None = None
    targets: tuple[str, ...] = ()

    @property
    def confidence(self) -> Floats | None:
        """(n,) what orders the rows by how positive they look, for two classes; None otherwise."""
        if self.classes is None or len(self.classes) != 2:
            return None
        return self.score if self.probability is None else self.probability[:, 1]

    def take(self, rows: NDArray[np.intp], *, frame: bool = True) -> Observed:
        """The rows at these positions; without `frame` that one stays whole, for it costs more than most metrics."""
        changed: dict[str, Any] = {
            name: None if (value := getattr(self, name)) is None else value[rows]
            for name in ("actual", "predicted", "probability", "score", "weight")
        }
        return replace(self, frame=self.frame.iloc[rows] if frame else self.frame, **changed)


def measure(metric: Metric, observed: Observed) -> float:
    """One figure of merit.

    Raises RecipeError where the model does not give what the metric needs, DataError where it is undefined on these rows.
    """
    predicted: Any = observed.predicted
    if metric.needs == "frame":
        predicted = observed.frame
    elif metric.needs == "score":
        predicted = _given(metric, observed.confidence, "decision values of two classes")
    elif metric.needs == "probability":
        given = observed.confidence if metric.name in RANKING and observed.probability is None else observed.probability
        predicted = _given(metric, given, "probabilities")
    elif metric.needs == "quantiles":
        predicted = _given(metric, None, "quantiles")
    try:
        return float(metric.function(observed.actual, predicted, weight=observed.weight))
    except (ValueError, ZeroDivisionError) as error:  # input that a metric is not defined on; weights that are all zero
        raise DataError(f"{metric.name} cannot be computed: {error}", slug="undefined-metric", hint="choose another metric") from error


def _given(metric: Metric, values: Floats | None, what: str) -> Floats:
    if values is None:
        raise RecipeError(
            Problem(
                "metric-needs",
                ("evaluation", "metrics"),
                f"{metric.name} needs {what}, and the model gives none",
                "choose a metric of predictions, or a model with predict_proba",
            )
        )
    return values


def resolve(names: Iterable[str], known: Sequence[Metric]) -> tuple[Metric, ...]:
    """The metrics that names or aliases mean.

    Raises RecipeError with every name that is not known, and the nearest one.
    """
    table = {name: metric for metric in reversed(known) for name in (metric.name, *metric.aliases)}
    wanted = list(dict.fromkeys(names))
    problems = [
        Problem(
            "unknown-metric",
            ("evaluation", "metrics"),
            f"{n!r} is not a metric of this task",
            did_you_mean(n, table),
            "value",
            nearest(n, table),
        )
        for n in wanted
        if n not in table
    ]
    if problems:
        raise RecipeError(problems)
    return tuple(dict.fromkeys(table[name] for name in wanted))


def _undefined(name: str, reason: str) -> DataError:
    return DataError(
        f"{name} is undefined: {reason}", hint="choose another metric, stratify the split, or judge on more rows", slug="undefined-metric"
    )


# --- classification -------------------------------------------------------------------------------

Average = Literal["macro", "micro", "weighted"]


def _accuracy(actual: Values, predicted: Values, *, weight: Floats | None = None) -> float:
    return float(np.average(actual == predicted, weights=weight))


def _balanced_accuracy(actual: Values, predicted: Values, *, weight: Floats | None = None) -> float:
    # scikit-learn's function warns when a class was predicted that these rows do not hold; the figure is the same.
    counts = confusion(actual, predicted, weight=weight)
    held = counts.sum(axis=1)
    return float(np.mean(np.diag(counts)[held > 0] / held[held > 0]))


def confusion(actual: Values, predicted: Values, *, weight: Floats | None = None, classes: int | None = None) -> Values:
    """(k, k) counts (or sums of weights), rows the true class, columns the predicted one."""
    from sklearn.metrics import confusion_matrix

    labels = np.union1d(actual, predicted) if classes is None else np.arange(classes)
    return np.asarray(confusion_matrix(actual, predicted, labels=labels, sample_weight=weight))


def _per_class(actual: Values, predicted: Values, *, function: str, average: Average | None = None, weight: Floats | None = None) -> float:
    """precision, recall, f1, jaccard; 0 where nothing was predicted as the class, as scikit-learn has it."""
    from sklearn import metrics

    chosen = average or ("binary" if actual.dtype == bool else "macro")
    if chosen == "binary" and function == "recall_score" and not actual.any():
        raise _undefined("recall", "no row is of the positive class")
    return float(getattr(metrics, function)(actual, predicted, average=chosen, sample_weight=weight, zero_division=0.0))


def _roc_auc(actual: Values, confidence: Floats, *, scheme: str = "ovr", average: Average = "macro", weight: Floats | None = None) -> float:
    """Area under the ROC curve; over all classes against the rest (ovr) or over all pairs (ovo) when there are more than two."""
    from sklearn.metrics import roc_auc_score

    if actual.dtype == bool:
        if actual.all() or not actual.any():
            raise _undefined("roc_auc", "the rows hold one class only")
        return float(roc_auc_score(actual, confidence if confidence.ndim == 1 else confidence[:, 1], sample_weight=weight))
    k = confidence.shape[1]
    missing = k - len(np.unique(actual))
    if missing:
        raise _undefined("roc_auc", f"{missing} of the {k} classes are not among the rows")
    return float(roc_auc_score(actual, confidence, multi_class=scheme, average=average, labels=np.arange(k), sample_weight=weight))


def _average_precision(actual: Values, confidence: Floats, *, weight: Floats | None = None) -> float:
    """Area under the precision-recall curve as a step function; the mean over classes against the rest when there are more than two."""
    from sklearn.metrics import average_precision_score

    if actual.dtype == bool:
        if not actual.any():
            raise _undefined("average_precision", "no row is of the positive class")
        return float(average_precision_score(actual, confidence if confidence.ndim == 1 else confidence[:, 1], sample_weight=weight))
    k = confidence.shape[1]
    missing = k - len(np.unique(actual))
    if missing:
        raise _undefined("average_precision", f"{missing} of the {k} classes are not among the rows")
    return float(np.mean([average_precision_score(actual == c, confidence[:, c], sample_weight=weight) for c in range(k)]))


def _log_loss(actual: Values, probability: Floats, *, weight: Floats | None = None) -> float:
    _sum_to_one(probability)
    nearly = np.finfo(np.float64).eps  # scikit-learn clips there, too
    chosen = np.clip(probability[np.arange(len(actual)), actual.astype(np.intp)], nearly, 1 - nearly)
    return float(np.average(-np.log(chosen), weights=weight))


def _brier(actual: Values, probability: Floats, *, weight: Floats | None = None) -> float:
    """Mean squared error of the probability; for two classes of the positive one, for more summed over the classes."""
    if actual.dtype == bool:
        return float(np.average((actual - probability[:, 1]) ** 2, weights=weight))
    _sum_to_one(probability)
    happened = actual.astype(np.intp)[:, None] == np.arange(probability.shape[1])
    return float(np.average(((happened - probability) ** 2).sum(axis=1), weights=weight))


def _sum_to_one(probability: Floats) -> None:
    """scikit-learn's warning, at a tolerance that the probabilities of a model in single precision (XGBoost) pass."""
    if not np.allclose(probability.sum(axis=1), 1.0, rtol=0.0, atol=1e-5):
        warnings.warn("the probabilities of some rows do not sum to one", UserWarning, stacklevel=2)


def _mcc(actual: Values, predicted: Values, *, weight: Floats | None = None) -> float:
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(actual, predicted, sample_weight=weight))


def _kappa(actual: Values, predicted: Values, *, weight: Floats | None = None) -> float:
    from sklearn.metrics import cohen_kappa_score

    if len(np.union1d(actual, predicted)) < 2:
        raise _undefined("cohen_kappa", "the rows hold one class only")
    return float(cohen_kappa_score(actual, predicted, sample_weight=weight))


def _negative(actual: Values, predicted: Values, *, of: Callable[..., float], weight: Floats | None = None) -> float:
    return -of(actual, predicted, weight=weight)


def _averages(name: str, function: str, summary: str) -> tuple[Metric, ...]:
    own = Metric(
        name,
        "maximize",
        "prediction",
        partial(_per_class, function=function),
        (function,),
        f"{summary}; of the positive class for two classes, macro mean for more",
    )
    kinds: tuple[Average, ...] = ("macro", "micro", "weighted")
    return own, *(
        Metric(
            f"{name}_{kind}", "maximize", "prediction", partial(_per_class, function=function, average=kind), (), f"{summary}, {kind} mean"
        )
        for kind in kinds
    )


CLASSIFICATION: tuple[Metric, ...] = (
    Metric("accuracy", "maximize", "prediction", _accuracy, ("accuracy_score", "acc"), "share of rows predicted right"),
    *_averages("precision", "precision_score", "share of rows predicted as a class that are of it"),
    *_averages("recall", "recall_score", "share of the rows of a class that were found"),
    *_averages("f1", "f1_score", "harmonic mean of precision and recall"),
    *_averages("jaccard", "jaccard_score", "intersection over union of predicted and true rows"),
    Metric(
        "roc_auc",
        "maximize",
        "probability",
        _roc_auc,
        ("auc", "auroc", "roc_auc_score", "roc_auc_ovr"),
        "area under the ROC curve; mean over one class against the rest for more than two",
    ),
    Metric(
        "roc_auc_ovr_weighted",
        "maximize",
        "probability",
        partial(_roc_auc, average="weighted"),
        (),
        "roc_auc weighted by the size of the classes",
    ),
    Metric("roc_auc_ovo", "maximize", "probability", partial(_roc_auc, scheme="ovo"), (), "roc_auc, mean over all pairs of classes"),
    Metric(
        "roc_auc_ovo_weighted",
        "maximize",
        "probability",
        partial(_roc_auc, scheme="ovo", average="weighted"),
        (),
        "roc_auc over all pairs of classes, weighted by their size",
    ),
    Metric(
        "average_precision",
        "maximize",
        "probability",
        _average_precision,
        ("pr_auc", "average_precision_score"),
        "area under the precision-recall curve; macro mean for more than two classes",
    ),
    Metric("log_loss", "minimize", "probability", _log_loss, ("logloss", "cross_entropy"), "mean negative log-likelihood, nats"),
    Metric("neg_log_loss", "maximize", "probability", partial(_negative, of=_log_loss), (), "log_loss with its sign turned"),
    Metric("brier", "minimize", "probability", _brier, ("brier_score", "brier_score_loss"), "mean squared error of the probabilities"),
    Metric("neg_brier_score", "maximize", "probability", partial(_negative, of=_brier), (), "brier with its sign turned"),
    Metric(
        "balanced_accuracy",
        "maximize",
        "prediction",
        _balanced_accuracy,
        ("balanced_accuracy_score",),
        "mean over the classes of the share found",
    ),
    Metric("mcc", "maximize", "prediction", _mcc, ("matthews_corrcoef",), "Matthews correlation of predicted and true classes"),
    Metric("cohen_kappa", "maximize", "prediction", _kappa, ("kappa", "cohen_kappa_score"), "agreement beyond chance"),
)


# --- regression -----------------------------------------------------------------------------------


def _regression(actual: Values, predicted: Values, *, function: str, weight: Floats | None = None) -> float:
    """One of scikit-learn's; targets are averaged with equal weights."""
    from sklearn import metrics

    return float(getattr(metrics, function)(actual, predicted, sample_weight=weight))


def _explained(actual: Values, predicted: Values, *, function: str, weight: Floats | None = None) -> float:
    """r2 and its relatives compare with the mean, which one row or constant values make meaningless."""
    if len(actual) < 2:
        raise _undefined(function.removesuffix("_score"), "there is one row only")
    if (np.ptp(actual, axis=0) == 0).any():
        raise _undefined(function.removesuffix("_score"), "the target is constant on these rows")
    return _regression(actual, predicted, function=function, weight=weight)


def _max_error(actual: Values, predicted: Values, *, weight: Floats | None = None) -> float:  # a maximum has no weights
    return float(np.mean(np.max(np.abs(actual - predicted), axis=0)))


def _loss(name: str, negative: str, function: Callable[..., float], aliases: tuple[str, ...], summary: str) -> tuple[Metric, Metric]:
    return (
        Metric(name, "minimize", "prediction", function, aliases, summary),
        Metric(negative, "maximize", "prediction", partial(_negative, of=function), (), f"{name} with its sign turned"),
    )


def _of(function: str) -> Callable[..., float]:
    return partial(_regression, function=function)


REGRESSION: tuple[Metric, ...] = (
    Metric(
        "r2",
        "maximize",
        "prediction",
        partial(_explained, function="r2_score"),
        ("r2_score",),
        "share of the variance explained, against the mean",
    ),
    *_loss(
        "rmse",
        "neg_root_mean_squared_error",
        _of("root_mean_squared_error"),
        ("root_mean_squared_error",),
        "root mean squared error, units of the target",
    ),
    *_loss("mse", "neg_mean_squared_error", _of("mean_squared_error"), ("mean_squared_error",), "mean squared error"),
    *_loss(
        "mae", "neg_mean_absolute_error", _of("mean_absolute_error"), ("mean_absolute_error",), "mean absolute error, units of the target"
    ),
    *_loss(
        "mape",
        "neg_mean_absolute_percentage_error",
        _of("mean_absolute_percentage_error"),
        ("mean_absolute_percentage_error",),
        "mean absolute error over the true value, as a fraction; very large where that is zero",
    ),
    *_loss(
        "medae",
        "neg_median_absolute_error",
        _of("median_absolute_error"),
        ("median_absolute_error",),
        "median absolute error, units of the target",
    ),
    *_loss(
        "msle", "neg_mean_squared_log_error", _of("mean_squared_log_error"), ("mean_squared_log_error",), "mean squared error of log(1 + y)"
    ),
    *_loss(
        "rmsle",
        "neg_root_mean_squared_log_error",
        _of("root_mean_squared_log_error"),
        ("root_mean_squared_log_error",),
        "root mean squared error of log(1 + y)",
    ),
    *_loss("max_error", "neg_max_error", _max_error, (), "largest absolute error, units of the target"),
    Metric(
        "explained_variance",
        "maximize",
        "prediction",
        partial(_explained, function="explained_variance_score"),
        ("explained_variance_score",),
        "r2 without the penalty for a constant offset",
    ),
    Metric(
        "d2_absolute_error",
        "maximize",
        "prediction",
        partial(_explained, function="d2_absolute_error_score"),
        ("d2_absolute_error_score",),
        "share of the absolute error explained, against the median",
    ),
)

__all__ = ["CLASSIFICATION", "REGRESSION", "Direction", "Needs", "Observed", "confusion", "measure", "resolve"]
