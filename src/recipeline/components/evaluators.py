"""Evaluators: what a pipeline is worth on rows that nothing was fitted on.

They judge through `pipeline.predict` and nothing else, so that what is measured is what is served.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recipeline.components import figures, segments
from recipeline.components.intervals import Interval, bootstrap
from recipeline.components.metrics import CLASSIFICATION, REGRESSION, Observed, confusion, measure, resolve
from recipeline.contracts import Evaluation, Figure, Metric, Part, Predictor
from recipeline.errors import Problem, RecipeError, TrainingFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("recipeline")

MEASURES: Mapping[str, tuple[Metric, ...]] = {"classification": CLASSIFICATION, "regression": REGRESSION}

RESAMPLES_LEAST = 100
LEVELS_MOST = 101
"""Rows of the table of thresholds."""
REPEATS = 5
ROWS_PREDICTED = 30_000
ROWS_SAMPLED = 300
"""Permutation importances: shuffles per column, predictions in all, sealed rows looked at; they bound what a report costs."""


class BaseEvaluator:
    """Base of evaluators that compute figures of their own from what was and what was predicted.

        class Costs(BaseEvaluator):
            def evaluate(self, y_true, y_pred, **kwargs):
                metrics = super().evaluate(y_true, y_pred, **kwargs)
                metrics["cost"] = float((y_true != y_pred).sum() * 20)
                return metrics

    A figure of one's own is reported under its name. To name it in `evaluation.metrics` or to tune for it, announce it:
    `measures = (*CLASSIFICATION, Metric("cost", "minimize", …))`.

    weighted     metrics weigh the rows by `data_interface.sample_weight_col`; fitting always does
    importances  compute permutation importances for a table, not only when their picture is drawn
    intervals    level of bootstrap intervals of the metrics, as 0.95, in the table `intervals` and beside the metrics of the
                 report; over rows, or over whole groups where `data_interface.group_col` is
    resamples    draws for the intervals
    segments     columns whose values (of numbers the quartiles) are judged one by one, in the table `segments`
    interface    given by the engine: data_interface
    registered_metrics  given by the engine: the metrics of plugins that the recipe names
    """

    measures: Sequence[Metric] = ()

    def __init__(
        self,
        *,
        weighted: bool = False,
        importances: bool = False,
        intervals: float | None = None,
        resamples: int = 2000,
        segments: str | Sequence[str] = (),
        interface: Mapping[str, Any] | None = None,
        registered_metrics: Sequence[Metric] = (),
    ) -> None:
        self.weighted, self.importances, self.interface = weighted, importances, interface
        self.intervals, self.resamples, self.segments = intervals, resamples, (segments,) if isinstance(segments, str) else segments
        if not self.measures:
            self.measures = MEASURES.get(str((interface or {}).get("task_type")), (*CLASSIFICATION, *REGRESSION))
        self.measures = (*self.measures, *registered_metrics)

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        """A level that is none, draws that are too few or for nothing."""
        problems = []
        level, resamples = params.get("intervals"), params.get("resamples")
        if level is not None and not (isinstance(level, float) and 0.5 <= level < 1):
            problems.append(Problem("bad-value", ("intervals",), f"{level!r} is not a level between 0.5 and 1, as 0.95", at="value"))
        if resamples is not None and level is None:
            problems.append(
                Problem("ignored-key", ("resamples",), "there are no intervals to draw for", "add intervals: 0.95, or remove it")
            )
        elif resamples is not None and (not isinstance(resamples, int) or isinstance(resamples, bool) or resamples < RESAMPLES_LEAST):
            what = f"{resamples!r} is not a number of draws, {RESAMPLES_LEAST} or more"
            problems.append(Problem("bad-value", ("resamples",), what, at="value"))
        return problems

    def evaluate(self, y_true: Any, y_pred: Any, **kwargs: Any) -> dict[str, float]:
        """The metrics asked for, by name.

        y_true, y_pred   (n,) labels or values as the data have them; (n, m) for several targets
        metrics          names; by default accuracy, precision, recall, f1 (and roc_auc, log_loss with probabilities),
                         or r2, rmse, mae
        y_proba          (n, k) probabilities in the order of the sorted classes, or None
        sample_weight    (n,) or None
        observed, known  given by `judge`: the same as metrics take it, and the metrics of the task

        Raises RecipeError for a metric that is unknown or needs what the model does not give, DataError for one that is
        undefined on these rows.
        """
        observed = kwargs.get("observed")
        if observed is None:
            observed = observe(y_true, y_pred, y_proba=kwargs.get("y_proba"), sample_weight=kwargs.get("sample_weight"))
        usual = REGRESSION if observed.classes is None else CLASSIFICATION
        known = (*kwargs.get("known", usual), *self.measures)
        asked = resolve(kwargs["metrics"] if kwargs.get("metrics") is not None else _usual(observed), known)
        found = {metric.name: measure(metric, observed) for metric in asked}
        for target, one in _each_target(observed):
            found |= {f"{metric.name}_{target}": measure(metric, one) for metric in asked if metric.needs == "prediction"}
        return found

    def judge(self, pipeline: Predictor, part: Part) -> Evaluation:
        """Predict the part and compare; tables and figures when `part.detail`."""
        output = pipeline.predict(part.rows, augmented=True)
        observed: Observed = pipeline.task.observed(output, part.selected, pipeline.schema)
        if not self.weighted:
            observed = replace(observed, weight=None)
        elif observed.weight is None:
            raise RecipeError("weighted metrics need data_interface.sample_weight_col", hint="add it, or leave weighted out")
        told = self.evaluate(
            part.selected.extras.get("target", part.selected.y),
            output[list(_said(observed))].to_numpy() if observed.actual.ndim == 2 else output["prediction"].to_numpy(),
            observed=observed,
            known=pipeline.task.metrics,
            metrics=part.metrics,
            y_proba=observed.probability,
            classes=observed.classes,
            sample_weight=observed.weight,
        )
        asked = resolve(part.metrics, (*pipeline.task.metrics, *self.measures))
        silent = [metric.name for metric in asked if metric.name not in told]
        if silent:
            raise TrainingFailed(
                f"evaluate reported no {', '.join(silent)}",
                hint="call super().evaluate(y_true, y_pred, **kwargs)",
                where=type(self).__name__,
            )
        metrics = {str(name): float(value) for name, value in told.items()}
        if not part.detail:
            return Evaluation(metrics)
        tables, drawn = self._detail(pipeline, part, observed)
        if self.intervals is not None:
            tables["intervals"] = self._intervals(self.intervals, part, observed, metrics, asked)
        if self.segments:
            statistics = _statistics(observed, asked)
            tables["segments"] = segments.table(segments.segments(part.rows, self.segments), len(part.rows), statistics)
            first = asked[0].name
            drawn["segments"] = segments.figure(tables["segments"], first, metrics[first])
        return Evaluation(metrics, tables, drawn)

    def _intervals(
        self, level: float, part: Part, observed: Observed, metrics: Mapping[str, float], asked: Sequence[Metric]
    ) -> pd.DataFrame:
        """One line per metric: value, low, high, what was drawn, and a note where there is no interval.

        A figure that `evaluate` computes in a way of its own, not by the function of its metric, has none.
        """
        statistics = _statistics(observed, asked)
        own = [name for name, statistic in statistics.items() if not _agree(statistic, len(observed.actual), metrics[name])]
        drawn = {name: statistic for name, statistic in statistics.items() if name not in own}
        groups = None if part.selected.groups is None else np.asarray(part.selected.groups, dtype=object)
        found = bootstrap(drawn, len(observed.actual), groups=groups, level=level, resamples=self.resamples, seed=part.seed)
        nothing = Interval(float("nan"), float("nan"), "evaluate computes it in a way of its own")
        units = ("rows", len(observed.actual)) if groups is None else ("groups", len(pd.unique(groups)))
        lines = [(name, metrics[name], one.low, one.high, one.note) for name in statistics for one in (found.get(name, nothing),)]
        table = pd.DataFrame(lines, columns=["metric", "value", "low", "high", "note"])
        table.insert(4, "level", level)
        table.insert(5, "drawn", units[0])
        table.insert(6, "units", units[1])
        table.insert(7, "resamples", self.resamples)
        return table

    def _detail(self, pipeline: Predictor, part: Part, observed: Observed) -> tuple[dict[str, pd.DataFrame], dict[str, Figure]]:
        tables = {"predictions": _predictions(part, observed)}
        if observed.classes is None:
            tables["errors"] = _errors(observed)
            drawn = figures.of_values(observed)
        else:
            tables |= _class_tables(observed)
            drawn = figures.of_classes(observed)
        learning = figures.of_learning(pipeline.model)
        if learning is not None:
            drawn["learning"] = learning
        if 0 < len(pipeline.schema.features) <= ROWS_PREDICTED // 50 and len(part.rows) > 1:
            loss = _loss(observed)

            @cache  # the report and tracking may both draw it
            def compute() -> pd.DataFrame:
                return permutation_importances(pipeline, part, loss)

            drawn["importances"] = figures.of_importances(compute, loss.name)
            if self.importances:
                tables["importances"] = compute()
        return tables, drawn


class TabularEvaluator(BaseEvaluator):
    """scikit-learn's metrics, and for the report: predictions, confusion, thresholds, curves, residuals, importances."""

    measures: Sequence[Metric] = (*CLASSIFICATION, *REGRESSION)


def observe(y_true: Any, y_pred: Any, *, y_proba: Any = None, sample_weight: Any = None) -> Observed:
    """Truth and predictions as metrics take them, without a pipeline: fractions are values, everything else is classes."""
    actual, predicted = np.asarray(y_true), np.asarray(y_pred)
    weight = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    frame = pd.DataFrame({"prediction": list(predicted)})
    if actual.ndim == 2 or actual.dtype.kind == "f":
        targets = tuple(str(at) for at in range(actual.shape[1])) if actual.ndim == 2 else ("target",)
        return Observed(actual.astype(np.float64), predicted.astype(np.float64), frame, weight=weight, targets=targets)
    known, codes = np.unique(np.concatenate([actual, predicted]), return_inverse=True)
    probability = None if y_proba is None else np.asarray(y_proba, dtype=np.float64)
    if probability is not None and probability.ndim == 1:
        probability = np.column_stack([1 - probability, probability])
    binary = (len(known) if probability is None else probability.shape[1]) == 2
    true, said = codes[: len(actual)], codes[len(actual) :]
    if binary:
        true, said = true == 1, said == 1
    return Observed(true, said, frame, probability, weight=weight, classes=tuple(known.tolist()))


def permutation_importances(pipeline: Predictor, part: Part, loss: Metric) -> pd.DataFrame:
    """How much worse a metric becomes when one column is shuffled: feature, importance, sd; the largest first.

    On at most ROWS_SAMPLED sealed rows, all shuffles of a few columns in one call, because a call costs more than a row.
    Correlated columns share their importance, or hide it in each other. Breiman (2001), Random forests, section 10.
    """
    random = np.random.default_rng(part.seed)
    names = pipeline.schema.features
    repeats = max(1, min(REPEATS, ROWS_PREDICTED // (50 * len(names))))
    n = min(len(part.rows), ROWS_SAMPLED, ROWS_PREDICTED // (repeats * len(names)))
    chosen = np.sort(random.choice(len(part.rows), n, replace=False))
    rows, selected = part.rows.iloc[chosen].reset_index(drop=True), part.selected.take(chosen)
    sign = 1.0 if loss.direction == "maximize" else -1.0

    def score(output: pd.DataFrame) -> float:
        observed = pipeline.task.observed(output.reset_index(drop=True), selected, pipeline.schema)
        return sign * measure(loss, replace(observed, weight=None))

    whole = score(pipeline.predict(rows, augmented=True))
    together = max(1, 20_000 // (n * repeats))  # columns per call, so that memory stays small
    lost: list[tuple[str, NDArray[np.float64]]] = []
    for start in range(0, len(names), together):
        some = [name for name in names[start : start + together] if name in rows.columns]
        shuffled = pd.concat([rows] * (len(some) * repeats), ignore_index=True)
        for at, name in enumerate(some):
            order = np.concatenate([random.permutation(n) for _ in range(repeats)])
            column = shuffled[name].array.copy()
            column[at * repeats * n : (at + 1) * repeats * n] = rows[name].array[order]
            shuffled[name] = column
        output = pipeline.predict(shuffled, augmented=True) if some else shuffled
        for at, name in enumerate(some):
            first = at * repeats
            scores = [score(output.iloc[(first + again) * n : (first + again + 1) * n]) for again in range(repeats)]
            lost.append((name, whole - np.array(scores)))
    table = pd.DataFrame(
        {
            "feature": [name for name, _ in lost],
            "importance": [float(loss.mean()) for _, loss in lost],
            "sd": [float(loss.std(ddof=1)) if len(loss) > 1 else 0.0 for _, loss in lost],
        }
    )
    return table.sort_values("importance", ascending=False, kind="stable", ignore_index=True)


# --- figures on some of the rows ------------------------------------------------------------------------


def _statistics(observed: Observed, asked: Sequence[Metric]) -> dict[str, Callable[[NDArray[np.intp]], float]]:
    """Every metric as a function of the positions of rows; of several targets for all, then for each."""

    def of(metric: Metric, whole: Observed) -> Callable[[NDArray[np.intp]], float]:
        return lambda rows: measure(metric, whole.take(rows, frame=metric.needs == "frame"))

    found = {metric.name: of(metric, observed) for metric in asked}
    for target, one in _each_target(observed):
        found |= {f"{metric.name}_{target}": of(metric, one) for metric in asked if metric.needs == "prediction"}
    return found


def _each_target(observed: Observed) -> Iterator[tuple[str, Observed]]:
    """What was and what was said of each of several targets; nothing for a single one."""
    if observed.actual.ndim == 2:
        for at, target in enumerate(observed.targets):
            yield target, replace(observed, actual=observed.actual[:, at], predicted=observed.predicted[:, at], targets=(target,))


def _agree(statistic: Callable[[NDArray[np.intp]], float], n: int, value: float) -> bool:
    return abs(statistic(np.arange(n)) - value) <= 1e-9 * max(1.0, abs(value))


# --- names --------------------------------------------------------------------------------------------


def _usual(observed: Observed) -> tuple[str, ...]:
    if observed.classes is None:
        return ("r2", "rmse", "mae")
    return ("accuracy", "precision", "recall", "f1", *(() if observed.probability is None else ("roc_auc", "log_loss")))


def _loss(observed: Observed) -> Metric:
    """A metric that is defined on any rows, for importances."""
    if observed.classes is None:
        return resolve(("rmse",), REGRESSION)[0]
    return resolve(("accuracy" if observed.probability is None else "log_loss",), CLASSIFICATION)[0]


def _said(observed: Observed) -> tuple[str, ...]:
    return tuple(f"prediction_{target}" for target in observed.targets) if observed.actual.ndim == 2 else ("prediction",)


# --- tables -------------------------------------------------------------------------------------------


def _predictions(part: Part, observed: Observed) -> pd.DataFrame:
    """The output with the truth beside it, and the residual where it is a number."""
    table = observed.frame.copy()
    raw = np.asarray(part.selected.extras.get("target", part.selected.y))
    single = observed.actual.ndim == 1
    for at, name in enumerate(_said(observed)):
        suffix = name.removeprefix("prediction")
        table[f"actual{suffix}"] = raw if single else raw[:, at]
        if observed.classes is None:
            table[f"residual{suffix}"] = (observed.actual - observed.predicted) if single else (observed.actual - observed.predicted)[:, at]
    return table


def _errors(observed: Observed) -> pd.DataFrame:
    """Per target: mean and standard deviation of the residuals, and quantiles of their size."""
    residuals = np.atleast_2d((observed.actual - observed.predicted).T)
    levels = (0.5, 0.9, 0.99, 1.0)
    return pd.DataFrame(
        {
            "target": list(observed.targets),
            "mean": residuals.mean(axis=1),
            "sd": residuals.std(axis=1),
            **{f"abs_q{level:g}": np.quantile(np.abs(residuals), level, axis=1) for level in levels},
        }
    )


def _class_tables(observed: Observed) -> dict[str, pd.DataFrame]:
    labels = [str(label) for label in observed.classes or ()]
    actual, predicted = observed.actual.astype(np.intp), observed.predicted.astype(np.intp)
    counts = confusion(actual, predicted, classes=len(labels))
    table = pd.DataFrame(counts, columns=[f"predicted_{label}" for label in labels])
    table.insert(0, "actual", labels)
    right, held, said = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    per_class = pd.DataFrame(
        {
            "class": labels,
            "precision": _ratio(right, said),
            "recall": _ratio(right, held),
            "f1": _ratio(2 * right, held + said),
            "rows": held,
            "predicted": said,
        }
    )
    tables = {"confusion": table, "per_class": per_class}
    if observed.confidence is not None:
        tables["thresholds"] = _thresholds(observed.actual.astype(bool), observed.confidence)
    return tables


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    """NaN where there is nothing to divide by."""
    return np.asarray(np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0))


def _thresholds(actual: NDArray[np.bool_], confidence: NDArray[np.float64]) -> pd.DataFrame:
    """What calling a row positive from each of at most LEVELS_MOST thresholds on would give."""
    levels = np.unique(confidence)
    if len(levels) > LEVELS_MOST:
        levels = np.unique(np.quantile(levels, np.linspace(0, 1, LEVELS_MOST), method="nearest"))
    order = np.argsort(confidence, kind="stable")
    above = len(actual) - np.searchsorted(confidence[order], levels, side="left")  # rows called positive
    found = np.concatenate([np.cumsum(actual[order][::-1])[::-1], [0]])[len(actual) - above]
    positives = int(actual.sum())
    return pd.DataFrame(
        {
            "threshold": levels,
            "called_positive": above,
            "precision": found / above,
            "recall": _ratio(found, np.full(len(levels), positives)),
            "f1": 2 * found / (above + positives),
            "accuracy": (len(actual) - positives - above + 2 * found) / len(actual),
        }
    )
