"""The task `classification`: labels and their codes, decisions, and probabilities that mean what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, field_validator, model_validator

from recipeline.components.columns import CLASSES_MOST, codes_of, keyed, length_of, no_nulls, target_type
from recipeline.components.fitting import fit_estimator, refuse_unused, weight_argument
from recipeline.components.metrics import CLASSIFICATION, Observed
from recipeline.components.tabular import Tabular, TabularInterface
from recipeline.contracts import FitContext, Fold, Metric, Output, Selected, takes_context
from recipeline.errors import DataError, Problem, RecipeError, TrainingFailed
from recipeline.schema import InputSchema

if TYPE_CHECKING:
    from numpy.typing import NDArray


THRESHOLDS_MOST = 500


class ClassificationInterface(TabularInterface):
    """`data_interface` of `task_type: classification`.

    positive_class      which of two classes precision, recall, f1 and the threshold mean; the last of the sorted ones by default
    decision_threshold  probability from which a row is called positive (two classes): a number in (0, 1), or `tune`:
                        the one that is best for `threshold_metric` on inner folds of the training rows
    threshold_metric    what `decision_threshold: tune` maximises
    calibration         how probabilities are made to mean what they say: by a sigmoid (Platt 1999), an isotonic step function
                        (Zadrozny & Elkan 2002) or one temperature (Guo et al. 2017), learned on the rows that
                        `validation.calibration_size` holds back, or without it out of fold on the training rows
    """

    task_type: Literal["classification"] = "classification"
    target_col: str
    positive_class: Any = None
    decision_threshold: Any = None
    threshold_metric: Literal["balanced_accuracy", "accuracy", "f1", "precision", "recall", "mcc", "jaccard"] = "balanced_accuracy"
    calibration: Literal["sigmoid", "isotonic", "temperature"] | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.target_col,)

    @field_validator("positive_class")
    @classmethod
    def _is_a_label(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, str | int | float | bool):
            raise ValueError("one label of the target expected: text, a number, true or false")
        return value

    @field_validator("decision_threshold")
    @classmethod
    def _is_a_threshold(cls, value: Any) -> Any:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None or value == "tune" or (number and 0 < value < 1):
            return value
        raise ValueError("a number between 0 and 1, or tune, expected")

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        if "threshold_metric" in self.model_fields_set and self.decision_threshold != "tune":
            raise ValueError("threshold_metric is used only with decision_threshold: tune")
        return self


class Classification(Tabular):
    """One label per row. Labels are encoded 0 … k-1 in sorted order, and decoded with their own type in the output."""

    Interface: ClassVar[type[BaseModel]] = ClassificationInterface
    metrics: ClassVar[tuple[Metric, ...]] = CLASSIFICATION
    maybe: ClassVar[tuple[str, ...]] = ("score",)

    def __init__(self, interface: ClassificationInterface) -> None:
        self.interface: ClassificationInterface = interface

    def classes(self, schema: InputSchema) -> NDArray[Any]:
        """Labels (k,) in the order of their codes, in the target's own type."""
        labels: Sequence[Any] = schema.target["classes"]
        dtype = schema.target["dtype"]
        return np.array(labels, dtype=object if dtype == "string" else dtype)

    def positive(self, schema: InputSchema) -> int:
        """The code of the positive one of two classes."""
        wanted = self.interface.positive_class
        return 1 if wanted is None else list(schema.target["classes"]).index(wanted)

    def output(self, schema: InputSchema) -> Output:
        probabilities = tuple(f"probability_{label}" for label in schema.target["classes"])
        return Output(self._present_keys(schema), ("prediction", *probabilities))

    def fit(self, model: Any, selected: Selected, context: FitContext) -> Any:
        """The fitted model, calibrated and below a tuned threshold where `data_interface` asks for them.

        Raises RecipeError for a regressor: its numbers are no classes.
        """
        _refuse_regressor(model)
        method, tune = self.interface.calibration, self.interface.decision_threshold == "tune"
        if not method and not tune:
            refuse_unused(model, context)
            return fit_estimator(model, selected, context)
        if method:
            _refuse_without_scores(model)
        if context.validation is None:
            return self._tuned(model, selected, context) if tune else _calibrated(model, selected, context, str(method))
        fitted = fit_estimator(model, selected, context)
        if method:
            fitted = _calibrated_on(fitted, context.validation, str(method))
        return self._tuned_on(fitted, context.validation) if tune else fitted

    def rows(self, model: Any, selected: Selected, schema: InputSchema) -> pd.DataFrame:
        """Keys, `prediction`, and `probability_<class>` for a model with `predict_proba`.

        A model of two classes with decision values only gives them as `score`, positive for the last class.
        """
        classes = self.classes(schema)
        n = length_of(selected.X)
        columns = keyed(selected)
        probability = score = None
        if hasattr(model, "predict_proba"):
            probability = _probabilities(model, selected.X, n, len(classes)) if n else np.empty((0, len(classes)))
        elif len(classes) == 2 and hasattr(model, "decision_function"):
            score = np.asarray(model.decision_function(selected.X), dtype=np.float64).reshape(n) if n else np.empty(0)
        codes = self._decided(model, selected.X, n, probability, schema) if n else np.empty(0, np.intp)
        columns["prediction"] = classes.take(codes.astype(np.intp, copy=False))
        if probability is not None:
            for position, label in enumerate(schema.target["classes"]):
                columns[f"probability_{label}"] = probability[:, position]
        elif score is not None:
            columns["score"] = score
        return pd.DataFrame(columns, copy=False)

    def _decided(self, model: Any, X: Any, n: int, probability: NDArray[np.float64] | None, schema: InputSchema) -> NDArray[Any]:
        """The code of each row (n,): above the threshold, else as the model itself decides."""
        threshold = self.interface.decision_threshold
        if threshold is not None and threshold != "tune":
            if probability is None:
                raise RecipeError(_no_threshold(model))
            positive = self.positive(schema)
            return np.asarray(np.where(probability[:, positive] >= threshold, positive, 1 - positive))
        if probability is not None and _predicts_by_probability(model):
            return np.asarray(np.argmax(probability, axis=1))
        return np.asarray(model.predict(X)).reshape(n)

    def baselines(self, schema: InputSchema) -> Mapping[str, Any]:
        """Always the most frequent class, with the shares of the classes as probabilities."""
        from sklearn.dummy import DummyClassifier

        return {"dummy": DummyClassifier(strategy="prior")}

    def observed(self, output: pd.DataFrame, selected: Selected, schema: InputSchema) -> Observed:
        """Truth and output side by side, as the metrics take them."""
        labels = self.classes(schema)
        predicted = codes_of(labels, output["prediction"].to_numpy())
        names = [f"probability_{label}" for label in schema.target["classes"]]
        # Column by column: a frame of the probabilities alone would cost the metric of a small fold over again.
        probability = np.column_stack([output[name].to_numpy() for name in names]) if names[0] in output.columns else None
        score = output["score"].to_numpy() if "score" in output.columns else None
        actual = np.asarray(selected.y)
        if len(labels) != 2:
            return Observed(actual, predicted, output, probability, None, selected.weight, tuple(schema.target["classes"]))
        positive = self.positive(schema)
        if positive == 0:  # the positive class stands last, as the metrics expect it
            probability = None if probability is None else probability[:, ::-1]
            score = None if score is None else -score
        ordered = tuple(schema.target["classes"][code] for code in (1 - positive, positive))
        return Observed(actual == positive, predicted == positive, output, probability, score, selected.weight, ordered)

    def _target(self, data: pd.DataFrame) -> dict[str, Any]:
        name = self.interface.target_col
        values = data[name]
        no_nulls(name, values)
        dtype = target_type(values)
        if dtype in {"datetime", "datetime_utc"}:
            raise DataError(f"target {name!r} holds time stamps", hint="labels are text, whole numbers or booleans", slug="bad-target")
        raw = values.to_numpy()
        if dtype == "int64" and (int(raw.min()) < -(2**63) or int(raw.max()) >= 2**63):
            raise DataError(f"target {name!r} holds integers of more than 64 bits with sign", hint="write them as text", slug="bad-target")
        if dtype == "string":
            labels: list[Any] = sorted(set(raw.tolist()))
        else:
            labels = np.unique(raw.astype({"int64": np.int64, "bool": np.bool_, "float64": np.float64}[dtype])).tolist()
        if dtype == "float64" and not all(float(label).is_integer() for label in labels):
            raise DataError(
                f"target {name!r} holds {len(labels)} different fractions, not classes", hint="use task_type: regression", slug="bad-target"
            )
        if len(labels) < 2:
            raise DataError(
                f"target {name!r} holds one class only, {labels[0]!r}", hint="two classes are needed to learn from", slug="one-class"
            )
        if len(labels) > CLASSES_MOST:
            raise DataError(
                f"target {name!r} holds {len(labels)} classes", hint="is it an identifier, or a number to predict?", slug="bad-target"
            )
        self._check_positive(labels)
        return {"names": [name], "dtype": dtype, "classes": labels}

    def _check_positive(self, labels: Sequence[Any]) -> None:
        interface = self.interface
        binary = len(labels) == 2
        for key in ("positive_class", "decision_threshold"):
            if getattr(interface, key) is not None and not binary:
                raise DataError(
                    f"{key} needs two classes, and target {interface.target_col!r} has {len(labels)}",
                    hint=f"leave {key} out",
                    slug="bad-target",
                )
        wanted = interface.positive_class
        if wanted is not None and not any(wanted == label and isinstance(wanted, bool) == isinstance(label, bool) for label in labels):
            raise DataError(
                f"positive_class {wanted!r} is not a class of {interface.target_col!r}",
                hint=f"the classes are {labels[0]!r} and {labels[1]!r}",
                slug="bad-target",
            )

    def _encode(self, data: pd.DataFrame, schema: InputSchema) -> NDArray[Any]:
        name = self.interface.target_col
        values = data[name]
        no_nulls(name, values)
        labels = self.classes(schema)
        codes = codes_of(labels, values.to_numpy())
        if (codes < 0).any():
            unknown = values.to_numpy()[codes < 0]
            raise DataError(
                f"target {name!r}: class {unknown[0]!r} was not there in training ({len(unknown)} rows)",
                hint=f"training had {', '.join(str(label) for label in labels[:12])}",
                slug="unknown-class",
            )
        return codes

    def _tuned(self, model: Any, selected: Selected, context: FitContext) -> Any:
        """The model below the threshold that is best out of fold.

        The folds are cut as the validation method cuts, and the model is cloned and fitted for each; their rows were
        preprocessed together, so a supervised encoder has seen the held-out ones. The sealed part has been seen by nothing.
        """
        from sklearn.base import clone

        if takes_context(model) or not hasattr(model, "predict_proba"):
            raise RecipeError(_no_threshold(model))
        positive = self._positive_code(selected)
        confidence = np.full(len(selected.y), np.nan)
        for fold in _inside(selected, context, "decision_threshold: tune"):
            part = fit_estimator(clone(model), selected.take(fold.train), context)
            held = selected.take(fold.test)
            confidence[fold.test] = _probabilities(part, held.X, len(held.y), 2)[:, positive]
        judged = np.flatnonzero(~np.isnan(confidence))
        return self._below(fit_estimator(model, selected, context), selected.take(judged), confidence[judged])

    def _tuned_on(self, fitted: Any, held: Selected) -> Any:
        """A fitted model below the threshold that is best on rows that it was not fitted on."""
        if not hasattr(fitted, "predict_proba"):
            raise RecipeError(_no_threshold(fitted))
        confidence = _probabilities(fitted, held.X, len(held.y), 2)[:, self._positive_code(held)]
        return self._below(fitted, held, confidence)

    def _below(self, fitted: Any, judged: Selected, confidence: NDArray[np.float64]) -> Any:
        from sklearn.frozen import FrozenEstimator
        from sklearn.model_selection import FixedThresholdClassifier

        positive = self._positive_code(judged)
        metric = next(metric for metric in CLASSIFICATION if metric.name == self.interface.threshold_metric)
        threshold = best_threshold(np.asarray(judged.y) == positive, confidence, metric, weight=judged.weight)
        fixed = FixedThresholdClassifier(FrozenEstimator(fitted), threshold=threshold, pos_label=positive, response_method="predict_proba")
        return fixed.fit(judged.X, judged.y)  # fits nothing: the model inside is frozen

    def _positive_code(self, selected: Selected) -> int:
        """As `positive`, from the training rows: the code that stands beside the label."""
        wanted = self.interface.positive_class
        codes = np.asarray(selected.y)
        if len(np.unique(codes)) < 2:
            raise DataError("the rows that tune the threshold hold one class only", hint="stratify, or give more rows", slug="too-few-rows")
        return 1 if wanted is None else int(codes[np.asarray(selected.extras["target"]) == wanted][0])


def _inside(selected: Selected, context: FitContext, what: str) -> Sequence[Fold]:
    """Five folds inside the rows fitted on, as the validation method cuts; fewer where a class has fewer rows."""
    most = min(5, int(np.bincount(np.asarray(selected.y), minlength=2).min()))
    if most < 2:
        raise DataError(f"{what} needs two rows of each class", hint="give more rows, or leave it out", slug="too-few-rows")
    if context.inner is not None:
        return context.inner(most)
    from sklearn.model_selection import StratifiedKFold

    cut = StratifiedKFold(most, shuffle=True, random_state=context.seed)
    return [Fold(train, test) for train, test in cut.split(np.zeros(len(selected.y)), selected.y)]


def _calibrated(model: Any, selected: Selected, context: FitContext, method: str) -> Any:
    """The model fitted on all rows, its probabilities mapped by what models of the inner folds said of rows they had not seen."""
    from sklearn.calibration import CalibratedClassifierCV

    if takes_context(model):
        hint = "add calibration_size: 0.2 to evaluation.validation"
        raise RecipeError(f"{type(model).__name__} can be calibrated only on rows that are held back", hint=hint, slug="no-calibration")
    folds = [(fold.train, fold.test) for fold in _inside(selected, context, "calibration")]
    made = CalibratedClassifierCV(model, method=method, cv=folds, ensemble=False)
    weight = {} if selected.weight is None else {weight_argument(model): selected.weight}
    return made.fit(selected.X, selected.y, **weight)


def _calibrated_on(fitted: Any, held: Selected, method: str) -> Any:
    """A fitted model, its probabilities mapped by what it said of rows that it was not fitted on."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    missing = set(np.asarray(fitted.classes_).tolist()) - set(np.asarray(held.y).tolist())
    if missing:
        hint = "make calibration_size larger, or leave calibration out"
        raise DataError(f"{len(missing)} classes have no row among those held back to calibrate", hint=hint, slug="too-few-rows")
    made = CalibratedClassifierCV(FrozenEstimator(fitted), method=method)
    return made.fit(held.X, held.y, **({} if held.weight is None else {"sample_weight": held.weight}))


def _refuse_without_scores(model: Any) -> None:
    if not hasattr(model, "predict_proba") and not hasattr(model, "decision_function"):
        raise RecipeError(
            Problem(
                "no-calibration",
                ("model", "data_interface", "calibration"),
                f"{type(model).__name__} gives neither probabilities nor decision values that could be calibrated",
                "leave calibration out, or choose a model with predict_proba",
            )
        )


def _refuse_regressor(model: Any) -> None:
    from sklearn.base import is_regressor
    from sklearn.utils import all_estimators

    if not hasattr(model, "__sklearn_tags__") or not is_regressor(model):
        return
    name = type(model).__name__
    known = {made for made, _ in all_estimators("classifier")}
    twin = next((word for word in (name.replace("Regressor", "Classifier"), f"{name}Classifier") if word in known), None)
    hint = f"take a classifier{f', as {twin}' if twin else ''}, or say task_type: regression"
    raise RecipeError(Problem("wrong-kind", ("model", "class_path"), f"{name} is a regressor, and the task is classification", hint))


def best_threshold(actual: NDArray[Any], confidence: NDArray[np.float64], metric: Metric, *, weight: Any = None) -> float:
    """The probability from which calling a row positive maximises the metric.

    actual      (n,) booleans       confidence  (n,) probability of the positive class, from models that did not see the row

    Candidates lie midway between neighbouring probabilities, at most `THRESHOLDS_MOST` of them; ties go to the one nearest 0.5.
    """
    levels = np.unique(confidence)
    candidates = (levels[1:] + levels[:-1]) / 2
    if len(candidates) == 0:
        return 0.5
    if len(candidates) > THRESHOLDS_MOST:
        candidates = np.unique(np.quantile(candidates, np.linspace(0, 1, THRESHOLDS_MOST), method="nearest"))
    scores = np.array([metric.function(actual, confidence >= level, weight=weight) for level in candidates])
    best = candidates[scores >= scores.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def _probabilities(model: Any, X: Any, n: int, k: int) -> NDArray[np.float64]:
    """(n, k) in the order of the codes; a class that was not among the rows a model was fitted on has probability 0."""
    given = np.asarray(model.predict_proba(X), dtype=np.float64)
    seen = np.asarray(getattr(model, "classes_", np.arange(k)))
    if given.shape == (n, k) and np.array_equal(seen, np.arange(k)):
        return given
    if given.shape != (n, len(seen)):
        raise TrainingFailed(f"predict_proba gave {given.shape} for {n} rows and {len(seen)} classes", where=type(model).__name__)
    aligned = np.zeros((n, k))
    aligned[:, seen.astype(np.intp)] = given
    return aligned


# scikit-learn's classifiers whose `predict` is the first largest of `predict_proba` and nothing else: asking once halves the work.
_BY_PROBABILITY = frozenset(
    {
        ("sklearn.ensemble._forest", "ForestClassifier"),
        ("sklearn.ensemble._bagging", "BaggingClassifier"),
        ("sklearn.calibration", "CalibratedClassifierCV"),
        ("lightgbm.sklearn", "LGBMClassifier"),
        ("xgboost.sklearn", "XGBClassifier"),
    }
)


def _predicts_by_probability(model: Any) -> bool:
    if type(model).__name__ == "VotingClassifier" and type(model).__module__ == "sklearn.ensemble._voting":
        return bool(model.voting == "soft")
    for base in type(model).__mro__:
        if "predict" in vars(base) or "predict_proba" in vars(base):
            return (base.__module__, base.__name__) in _BY_PROBABILITY
    return False


def _no_threshold(model: Any) -> Problem:
    return Problem(
        "no-threshold",
        ("model", "data_interface", "decision_threshold"),
        f"a decision threshold needs probabilities, which {type(model).__name__} does not give in a way that can be used here",
        "leave decision_threshold out, or choose a model with predict_proba",
    )
