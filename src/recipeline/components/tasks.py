"""Tasks on tables: classification and regression, what they learn from and what a row of their output is.

A task owns what the engine would otherwise ask with `if task == …`: the model of `data_interface`, the stored input
contract, how labels are encoded, how a model is fitted and what its predictions look like.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from recipeline.components.metrics import CLASSIFICATION, REGRESSION, Observed
from recipeline.contracts import FitContext, Metric, Output, Selected, take, takes_context
from recipeline.errors import DataError, Problem, RecipeError, TrainingFailed, did_you_mean
from recipeline.schema import InputSchema, dtype_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


THRESHOLDS_MOST = 500
CLASSES_MOST = 10_000
"""More classes than this is a target that was meant for regression, or an identifier."""


# --- data_interface -------------------------------------------------------------------------------


def _names(value: Any) -> Any:
    """One name may stand for a list of one."""
    return (value,) if isinstance(value, str) else value


class TabularInterface(BaseModel):
    """Keys of `data_interface` that all tasks on tables share.

    entity_cols        columns that name a row; carried to the output, never features, optional at prediction
    timestamp_col      the same for the time of a row
    group_col          rows of one group never stand on both sides of a split; not a feature
    sample_weight_col  weight of a row in fitting; not a feature
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=False)

    entity_cols: tuple[str, ...] = ()
    timestamp_col: str | None = None
    group_col: str | None = None
    sample_weight_col: str | None = None

    @field_validator("entity_cols", mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        return _names(() if value is None else value)

    @property
    def targets(self) -> tuple[str, ...]:
        raise NotImplementedError

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns that name a row in the output, in their order there."""
        return tuple(dict.fromkeys((*self.entity_cols, *((self.timestamp_col,) if self.timestamp_col else ()))))

    @model_validator(mode="after")
    def _one_role_each(self) -> Self:
        named = {"entity_cols": self.entity_cols, "timestamp_col": (self.timestamp_col,), "group_col": (self.group_col,)}
        named["sample_weight_col"] = (self.sample_weight_col,)
        for key, columns in named.items():
            for column in columns:
                if column is not None and column in self.targets:
                    raise ValueError(f"{column} is the target and cannot be in {key} as well")
        if self.sample_weight_col is not None and self.sample_weight_col in self.keys:
            raise ValueError(f"{self.sample_weight_col} cannot be a weight and name a row")
        return self


class ClassificationInterface(TabularInterface):
    """`data_interface` of `task_type: classification`.

    positive_class      which of two classes precision, recall, f1 and the threshold mean; the last of the sorted ones by default
    decision_threshold  probability from which a row is called positive (two classes): a number in (0, 1), or `tune`:
                        the one that is best for `threshold_metric` on inner folds of the training rows
    threshold_metric    what `decision_threshold: tune` maximises
    """

    task_type: Literal["classification"] = "classification"
    target_col: str
    positive_class: Any = None
    decision_threshold: Any = None
    threshold_metric: Literal["balanced_accuracy", "accuracy", "f1", "precision", "recall", "mcc", "jaccard"] = "balanced_accuracy"

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


class RegressionInterface(TabularInterface):
    """`data_interface` of `task_type: regression`; `target_col` may name several columns."""

    task_type: Literal["regression"] = "regression"
    target_col: tuple[str, ...] = Field(min_length=1)

    @field_validator("target_col", mode="before")
    @classmethod
    def _one_target(cls, value: Any) -> Any:
        return _names(value)

    @field_validator("target_col")
    @classmethod
    def _different(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a target is named twice")
        return value

    @property
    def targets(self) -> tuple[str, ...]:
        return self.target_col


# --- what both tasks share ------------------------------------------------------------------------


class _Tabular:
    """Rows in, one row of output each."""

    splitter: ClassVar[str] = "train_test_split"
    evaluator: ClassVar[str] = "tabular_evaluator"
    streams: ClassVar[Literal["rows", "groups", "whole"]] = "rows"
    maybe: ClassVar[tuple[str, ...]] = ()  # columns that some models add to the output
    interface: TabularInterface

    def describe(self, data: Any) -> InputSchema:
        """The input contract that training data (n, ·) set: every column but target, weight and group.

        Raises DataError for missing columns (with the nearest names), null targets (with their number), a target that
        does not suit the task, or data without rows or features.
        """
        interface = self.interface
        _require_frame(data)
        if len(data) == 0:
            raise DataError("the training data have no rows", slug="no-rows")
        _require_columns(data, "target_col", interface.targets)
        _require_columns(data, "entity_cols", interface.entity_cols)
        for key in ("timestamp_col", "group_col", "sample_weight_col"):
            name = getattr(interface, key)
            if name is not None:
                _require_columns(data, key, (name,))
        aside = {*interface.targets, *interface.keys, interface.group_col, interface.sample_weight_col}
        features = [name for name in data.columns if name not in aside]
        if not features:
            raise DataError(
                "there is no feature column", hint="the target, keys, weight and group are all that the data hold", slug="no-features"
            )
        schema = InputSchema.of(data, features, keys=interface.keys, target=self._target(data))
        taken = set(interface.keys) & {*self.output(schema).values, *self.maybe}
        if taken:
            raise DataError(f"column {min(taken)!r} has the name of an output column", hint="rename it in the source", slug="schema")
        return schema

    def select(self, data: Any, schema: InputSchema, *, targets: bool) -> Selected:
        """The data taken apart.

        targets  True: raw data, brought into the contract here, with their target, weight and groups;
                 False: rows that conform to the contract already

        `X` is a frame of the features in the order of the contract, `y` the encoded target, `keys` a frame of the
        columns that name a row. `extras["target"]` keeps the target as it was.
        """
        interface = self.interface
        rows = schema.conform(data) if targets else data
        features = schema.features
        X = rows if len(rows.columns) == len(features) else rows[list(features)]
        present = [name for name in interface.keys if name in rows.columns]
        keys = rows[present] if present else None
        if not targets:
            return Selected(X=X, keys=keys)
        _require_columns(data, "target_col", interface.targets)
        weight = groups = times = None
        if interface.sample_weight_col is not None:
            _require_columns(data, "sample_weight_col", (interface.sample_weight_col,))
            weight = _weights(data[interface.sample_weight_col])
        if interface.group_col is not None:
            _require_columns(data, "group_col", (interface.group_col,))
            groups = _groups(data[interface.group_col])
        if interface.timestamp_col is not None and interface.timestamp_col in data.columns:
            times = data[interface.timestamp_col].to_numpy()
        names = list(interface.targets)
        raw = data[names[0] if len(names) == 1 else names].to_numpy()
        return Selected(X, self._encode(data, schema), keys, weight, groups, times, {"target": raw})

    def fit(self, model: Any, selected: Selected, context: FitContext) -> Any:
        """The fitted model; `selected.X` is preprocessed. Weights reach the estimator or are an error, never dropped."""
        return _fit(model, selected, context)

    def _present_keys(self, schema: InputSchema) -> tuple[str, ...]:
        return tuple(name for name in self.interface.keys if name in schema.keys)

    def _target(self, data: pd.DataFrame) -> dict[str, Any]:
        raise NotImplementedError

    def _encode(self, data: pd.DataFrame, schema: InputSchema) -> NDArray[Any]:
        raise NotImplementedError

    def output(self, schema: InputSchema) -> Output:
        raise NotImplementedError


# --- classification -------------------------------------------------------------------------------


class Classification(_Tabular):
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
        """The fitted model, below a tuned threshold where `decision_threshold: tune` asks for one."""
        if self.interface.decision_threshold != "tune":
            return _fit(model, selected, context)
        return self._tuned(model, selected, context)

    def rows(self, model: Any, selected: Selected, schema: InputSchema) -> pd.DataFrame:
        """Keys, `prediction`, and `probability_<class>` for a model with `predict_proba`.

        A model of two classes with decision values only gives them as `score`, positive for the last class.
        """
        classes = self.classes(schema)
        n = _length(selected.X)
        columns = _keyed(selected)
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
        predicted = _codes(labels, output["prediction"].to_numpy())
        names = [f"probability_{label}" for label in schema.target["classes"]]
        probability = output[names].to_numpy() if names[0] in output.columns else None
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
        _no_nulls(name, values)
        dtype = _target_type(values)
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
        _no_nulls(name, values)
        labels = self.classes(schema)
        codes = _codes(labels, values.to_numpy())
        if (codes < 0).any():
            unknown = values.to_numpy()[codes < 0]
            raise DataError(
                f"target {name!r}: class {unknown[0]!r} was not there in training ({len(unknown)} rows)",
                hint=f"training had {', '.join(str(label) for label in labels[:12])}",
                slug="unknown-class",
            )
        return codes

    def _tuned(self, model: Any, selected: Selected, context: FitContext) -> Any:
        """scikit-learn's fixed threshold over the model, at the value that is best out of fold.

        The folds are cut from the rows given and the model is cloned and fitted for each; those rows were preprocessed
        together, so a supervised encoder has seen the held-out ones. The sealed part has not been seen by anything.
        """
        from sklearn.base import clone
        from sklearn.frozen import FrozenEstimator
        from sklearn.model_selection import FixedThresholdClassifier, StratifiedKFold

        if takes_context(model) or not hasattr(model, "predict_proba"):
            raise RecipeError(_no_threshold(model))
        y = np.asarray(selected.y)
        positive = self._positive_code(selected)
        folds = min(5, int(np.bincount(y, minlength=2).min()))
        if folds < 2:
            raise DataError("decision_threshold: tune needs two rows of each class", hint="give a number instead", slug="too-few-rows")
        confidence = np.empty(len(y))
        for train, held in StratifiedKFold(folds, shuffle=True, random_state=context.seed).split(y, y):
            part = _fit(clone(model), selected.take(train), context)
            confidence[held] = _probabilities(part, take(selected.X, held), len(held), 2)[:, positive]
        metric = next(metric for metric in CLASSIFICATION if metric.name == self.interface.threshold_metric)
        threshold = best_threshold(y == positive, confidence, metric, weight=selected.weight)
        whole = FrozenEstimator(_fit(model, selected, context))
        fixed = FixedThresholdClassifier(whole, threshold=threshold, pos_label=positive, response_method="predict_proba")
        return fixed.fit(selected.X, y)  # fits nothing: the model inside is frozen

    def _positive_code(self, selected: Selected) -> int:
        """As `positive`, from the training rows: the code that stands beside the label."""
        wanted = self.interface.positive_class
        if wanted is None:
            return 1
        return int(np.asarray(selected.y)[np.asarray(selected.extras["target"]) == wanted][0])


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


# --- regression -----------------------------------------------------------------------------------


class Regression(_Tabular):
    """One number per row, or one for each of several targets."""

    Interface: ClassVar[type[BaseModel]] = RegressionInterface
    metrics: ClassVar[tuple[Metric, ...]] = REGRESSION

    def __init__(self, interface: RegressionInterface) -> None:
        self.interface: RegressionInterface = interface

    def _columns(self, schema: InputSchema) -> tuple[str, ...]:
        names = schema.target["names"]
        return ("prediction",) if len(names) == 1 else tuple(f"prediction_{name}" for name in names)

    def output(self, schema: InputSchema) -> Output:
        return Output(self._present_keys(schema), self._columns(schema))

    def rows(self, model: Any, selected: Selected, schema: InputSchema) -> pd.DataFrame:
        """Keys, then `prediction`, or `prediction_<target>` for several targets."""
        n = _length(selected.X)
        names = self._columns(schema)
        said = model.predict(selected.X) if n else ()
        predicted = np.asarray(said, dtype=np.float64).reshape(n, len(names))
        _refuse_endless(predicted)
        columns = _keyed(selected)
        for position, name in enumerate(names):
            columns[name] = predicted[:, position]
        return pd.DataFrame(columns, copy=False)

    def baselines(self, schema: InputSchema) -> Mapping[str, Any]:
        """Always the mean of the training rows."""
        from sklearn.dummy import DummyRegressor

        return {"dummy": DummyRegressor(strategy="mean")}

    def observed(self, output: pd.DataFrame, selected: Selected, schema: InputSchema) -> Observed:
        """Truth and output side by side, as the metrics take them."""
        names = self._columns(schema)
        predicted = output[names[0]].to_numpy() if len(names) == 1 else output[list(names)].to_numpy()
        return Observed(np.asarray(selected.y), predicted, output, weight=selected.weight, targets=tuple(schema.target["names"]))

    def _target(self, data: pd.DataFrame) -> dict[str, Any]:
        for name in self.interface.target_col:
            _no_nulls(name, data[name])
            dtype = _target_type(data[name])
            if dtype not in {"int64", "float64"}:
                raise DataError(
                    f"target {name!r} holds {dtype} values, not numbers", hint="use task_type: classification", slug="bad-target"
                )
        return {"names": list(self.interface.target_col), "dtype": "float64"}

    def _encode(self, data: pd.DataFrame, schema: InputSchema) -> NDArray[Any]:
        columns = []
        for name in schema.target["names"]:
            _no_nulls(name, data[name])
            try:
                values = data[name].to_numpy(dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise DataError(f"target {name!r}: float64 expected, got {data[name].dtype}", slug="bad-target") from error
            if not np.isfinite(values).all():
                raise DataError(f"target {name!r}: finite numbers expected, got an infinite one", slug="bad-target")
            columns.append(values)
        return columns[0] if len(columns) == 1 else np.column_stack(columns)


# --- fitting and predicting ------------------------------------------------------------------------


def _fit(model: Any, selected: Selected, context: FitContext) -> Any:
    arguments: dict[str, Any] = {}
    if selected.weight is not None:
        arguments[_weight_argument(model)] = selected.weight
    if takes_context(model):
        arguments["context"] = context
    fitted = model.fit(selected.X, selected.y, **arguments)
    return model if fitted is None else fitted


def _weight_argument(model: Any) -> str:
    """The name under which `model.fit` takes sample weights.

    Raises RecipeError where it takes none: weights that are asked for and ignored would be a silent mistake.
    """
    found = _finds_weight(model)
    if found is None:
        raise RecipeError(
            Problem(
                "no-sample-weight",
                ("model", "data_interface", "sample_weight_col"),
                f"{type(model).__name__} takes no sample weights in fit",
                "leave sample_weight_col out, or choose a model that takes them",
            )
        )
    return found


def _finds_weight(model: Any) -> str | None:
    parameters = inspect.signature(model.fit).parameters
    steps = getattr(model, "steps", None)
    if steps:  # a Pipeline hands `<step>__sample_weight` on to that step
        name, last = steps[-1]
        inner = _finds_weight(last)
        return None if inner is None else f"{name}__{inner}"
    inside = [estimator for _, estimator in getattr(model, "estimators", None) or [] if not isinstance(estimator, str)]
    inside += [part for key in ("estimator", "base_estimator", "regressor") if hasattr(part := getattr(model, key, None), "fit")]
    open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    if "sample_weight" not in parameters and not (open_ended and inside):
        return None
    return "sample_weight" if all(_finds_weight(part) == "sample_weight" for part in inside) else None


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
_BY_PROBABILITY = frozenset({("sklearn.ensemble._forest", "ForestClassifier"), ("sklearn.ensemble._bagging", "BaggingClassifier")})


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


# --- looking at columns ----------------------------------------------------------------------------


def _refuse_endless(predicted: NDArray[np.float64]) -> None:
    """A model that overflowed has no answer, and an infinite one must not pass for one."""
    finite = np.isfinite(predicted)
    if not finite.all():
        rows = np.flatnonzero(~finite.all(axis=1))
        hint = "the model overflowed; look at the values of this row"
        raise DataError(f"no finite prediction for {len(rows)} rows, the first is row {int(rows[0])}", hint=hint, slug="not-finite")


def _require_frame(data: Any) -> None:
    if not isinstance(data, pd.DataFrame):
        raise DataError(f"a frame is expected, the loader gave {type(data).__name__}", slug="schema")
    if not data.columns.is_unique:
        twice = sorted({str(name) for name in data.columns[data.columns.duplicated()]})
        raise DataError(f"column {', '.join(twice)} is there twice", hint="rename one of them", slug="duplicate-column")


def _require_columns(data: pd.DataFrame, key: str, names: Iterable[str]) -> None:
    known = [str(name) for name in data.columns]
    for name in names:
        if name not in data.columns:
            raise DataError(f"{key}: the data have no column {name!r}", hint=did_you_mean(name, known), slug="missing-column")


def _no_nulls(name: str, values: pd.Series[Any]) -> None:
    nulls = values.isna().to_numpy()
    if nulls.any():
        raise DataError(
            f"target {name!r} has {int(nulls.sum())} nulls in {len(nulls)} rows, the first in row {int(np.flatnonzero(nulls)[0])}",
            hint="remove these rows in the source",
            slug="null-target",
        )


def _target_type(values: pd.Series[Any]) -> str:
    try:
        return dtype_of(values)
    except DataError as error:
        raise DataError(f"target: {error.message}", hint=error.hint, slug="bad-target") from error


def _weights(values: pd.Series[Any]) -> NDArray[np.float64]:
    try:
        weight = values.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise DataError(f"weight {values.name!r}: numbers expected, got {values.dtype}", slug="bad-weight") from error
    if not np.isfinite(weight).all() or (weight < 0).any() or not (weight > 0).any():
        raise DataError(f"weight {values.name!r}: finite numbers expected, none below 0 and not all 0", slug="bad-weight")
    return weight


def _groups(values: pd.Series[Any]) -> NDArray[Any]:
    if values.isna().any():
        raise DataError(f"group {values.name!r} has {int(values.isna().sum())} nulls", hint="every row needs its group", slug="null-group")
    return values.to_numpy()


def _codes(labels: NDArray[Any], values: NDArray[Any]) -> NDArray[np.intp]:
    """Positions (n,) of values among the sorted labels (k,); -1 for what is not one of them."""
    if labels.dtype == object or values.dtype == object:
        found: NDArray[np.intp] = pd.Index(labels, dtype=object).get_indexer(pd.Index(values, dtype=object))
        return found
    at = np.minimum(np.searchsorted(labels, values), len(labels) - 1)
    return np.where(labels[at] == values, at, -1)


def _length(X: Any) -> int:
    return int(X.shape[0]) if hasattr(X, "shape") else len(X)


def _keyed(selected: Selected) -> dict[str, Any]:
    """The columns that name a row, to begin a row of output with."""
    if selected.keys is None:
        return {}
    return {name: selected.keys[name].array for name in selected.keys.columns}
