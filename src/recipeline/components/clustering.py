"""Clustering: groups of rows that are alike, found without a target, and the group of every row to come.

A row of output is the cluster as a number, and how sure the model is of it: the probability of every component of a
mixture, else the distance to the centre of the own cluster. Numbers are the estimator's own: they name clusters and mean
nothing else, and a model that is fitted on other rows may give them in another order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, model_validator

from recipeline.components.columns import CLASSES_MOST, keyed, length_of, target_type
from recipeline.components.tabular import Tabular, TabularInterface
from recipeline.contracts import FitContext, Metric, Output, Selected
from recipeline.errors import DataError, Problem, RecipeError, TrainingFailed
from recipeline.schema import InputSchema

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]
    Labels = NDArray[np.int64]

NOT_HERE = ("classifier", "regressor", "outlier_detector")
"""Kinds of scikit-learn's estimators that answer another question than which rows are alike."""


# --- data_interface -------------------------------------------------------------------------------


class ClusteringInterface(TabularInterface):
    """`data_interface` of `task_type: clustering`.

    label_col   known groups of the rows, for judging only (`adjusted_rand`, `normalized_mutual_info` …): never a feature, not
                needed at prediction; rows where it is null are left out of these metrics
    """

    task_type: Literal["clustering"] = "clustering"
    label_col: str | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        return () if self.label_col is None else (self.label_col,)

    @model_validator(mode="after")
    def _labels_are_no_other_column(self) -> Self:
        if self.label_col is not None and self.label_col in (self.group_col, self.sample_weight_col):
            raise ValueError(f"{self.label_col} cannot be label_col and have another role")
        return self


# --- metrics --------------------------------------------------------------------------------------


def _inside(name: str) -> Any:
    """One of scikit-learn's figures of labels (n,) and the features (n, d) they were found in; weights do not count."""

    def function(features: Any, labels: Labels, *, weight: Any = None) -> float:
        from sklearn import metrics

        return float(getattr(metrics, name)(features, labels))

    return function


def _against(name: str) -> Any:
    """One of scikit-learn's figures of labels (n,) against known groups (n,); the numbers of clusters do not matter."""

    def function(actual: Any, labels: Labels, *, weight: Any = None) -> float:
        from sklearn import metrics

        return float(getattr(metrics, name)(actual, labels))

    return function


WITHIN: tuple[Metric, ...] = (
    Metric(
        "silhouette", "maximize", "features", _inside("silhouette_score"), ("silhouette_score",),
        "how much nearer rows are to their own cluster than to the next, mean of -1 to 1 (Rousseeuw 1987)",
    ),
    Metric(
        "davies_bouldin", "minimize", "features", _inside("davies_bouldin_score"), ("davies_bouldin_score",),
        "spread of the clusters over the distance of their centres, worst neighbour of each (Davies and Bouldin 1979)",
    ),
    Metric(
        "calinski_harabasz", "maximize", "features", _inside("calinski_harabasz_score"), ("calinski_harabasz_score", "variance_ratio"),
        "variance between the clusters over variance within, per degree of freedom (Calinski and Harabasz 1974)",
    ),
)  # fmt: skip
"""Judged by where the rows lie, in the preprocessed features."""

AGAINST: tuple[Metric, ...] = (
    Metric(
        "adjusted_rand", "maximize", "prediction", _against("adjusted_rand_score"), ("adjusted_rand_score", "ari"),
        "share of pairs of rows that labels and clusters treat alike, less what chance gives (Hubert and Arabie 1985)",
    ),
    Metric(
        "adjusted_mutual_info", "maximize", "prediction", _against("adjusted_mutual_info_score"), ("adjusted_mutual_info_score", "ami"),
        "what clusters tell of the labels, less what chance tells (Vinh, Epps and Bailey 2010)",
    ),
    Metric(
        "normalized_mutual_info", "maximize", "prediction", _against("normalized_mutual_info_score"),
        ("normalized_mutual_info_score", "nmi"), "what clusters tell of the labels, 0 to 1; grows with the number of clusters",
    ),
    Metric(
        "homogeneity", "maximize", "prediction", _against("homogeneity_score"), ("homogeneity_score",),
        "1 where no cluster holds rows of two labels",
    ),
    Metric(
        "completeness", "maximize", "prediction", _against("completeness_score"), ("completeness_score",),
        "1 where no label lies in two clusters",
    ),
    Metric(
        "v_measure", "maximize", "prediction", _against("v_measure_score"), ("v_measure_score",),
        "harmonic mean of homogeneity and completeness",
    ),
    Metric(
        "fowlkes_mallows", "maximize", "prediction", _against("fowlkes_mallows_score"), ("fowlkes_mallows_score",),
        "geometric mean of precision and recall over pairs of rows",
    ),
)  # fmt: skip
"""Judged by `label_col`."""


# --- the task -------------------------------------------------------------------------------------


class Clustering(Tabular):
    """The cluster of every row. There is no target; known labels judge what was found, and nothing else."""

    Interface: ClassVar[type[BaseModel]] = ClusteringInterface
    metrics: ClassVar[tuple[Metric, ...]] = (*WITHIN, *AGAINST)
    evaluator: ClassVar[str] = "clustering_evaluator"
    maybe: ClassVar[tuple[str, ...]] = ("distance",)
    target_key: ClassVar[str] = "label_col"

    def __init__(self, interface: ClusteringInterface) -> None:
        self.interface: ClusteringInterface = interface

    def select(self, data: Any, schema: InputSchema, *, targets: bool) -> Selected:
        """The data taken apart; `y` is always None, `extras["target"]` holds the known labels (n,) where there are some."""
        selected = super().select(data, schema, targets=targets)
        return selected if self.interface.label_col is not None else replace(selected, extras={})

    def fit(self, model: Any, selected: Selected, context: FitContext) -> Any:
        """The fitted model.

        Raises RecipeError for an estimator that learns from a target, or looks for outliers.
        """
        kind = _kind(model)
        if kind in NOT_HERE:
            what = f"{type(model).__name__} is a {kind.replace('_', ' ')}, and clustering has no target"
            raise RecipeError(Problem("wrong-kind", ("model",), what, "use an estimator of sklearn.cluster or sklearn.mixture"))
        return super().fit(model, selected, context)

    def output(self, schema: InputSchema) -> Output:
        return Output(self._present_keys(schema), ("cluster",))

    def rows(self, model: Any, selected: Selected, schema: InputSchema) -> pd.DataFrame:
        """Keys, then `cluster`, the estimator's own number (-1 where it calls a row noise).

        `probability_<k>` for a model with `predict_proba` (mixtures), else `distance`, Euclidean, to the centre of the own
        cluster in the space of the preprocessed features, for a model with `cluster_centers_`.
        """
        n = length_of(selected.X)
        columns = keyed(selected)
        labels = np.asarray(model.predict(selected.X)).reshape(n) if n else np.empty(0, np.int64)
        if labels.dtype.kind not in "iu":
            raise TrainingFailed(f"predict gave {labels.dtype}, where numbers of clusters are expected", where=type(model).__name__)
        columns["cluster"] = labels.astype(np.int64)
        centres = getattr(model, "cluster_centers_", None)
        if hasattr(model, "predict_proba"):
            chances = np.asarray(model.predict_proba(selected.X), dtype=np.float64) if n else np.empty((0, _components(model)))
            columns |= {f"probability_{k}": chances[:, k] for k in range(chances.shape[1])}
        elif centres is not None:
            columns["distance"] = _distances(selected.X, np.asarray(centres), labels) if n else np.empty(0)
        return pd.DataFrame(columns, copy=False)

    def baselines(self, schema: InputSchema) -> Mapping[str, Any]:
        """`dummy`: two clusters drawn at random; `halves`: the rows cut in two along their widest direction.

        What no structure at all gives, and what any cloud gives when it is cut through the middle. Both have two clusters of
        one size, and are judged in the features of the model, like the model.
        """
        numbers = tuple(c.name for c in schema.columns if c.role == "feature" and c.dtype in ("int64", "float64"))
        return {"dummy": Shuffled(), **({"halves": Halves(numbers)} if numbers else {})}

    def _target(self, data: pd.DataFrame) -> dict[str, Any]:
        name = self.interface.label_col
        if name is None:
            return {}
        known = data[name].dropna()
        if not len(known):
            raise DataError(f"label {name!r} holds nulls only", hint="leave label_col out", slug="null-target")
        dtype = target_type(known)
        if dtype in ("datetime", "datetime_utc"):
            raise DataError(f"label {name!r} holds time stamps", hint="labels are text, whole numbers or booleans", slug="bad-target")
        labels = sorted(set(known.tolist()))
        if len(labels) < 2:
            raise DataError(f"label {name!r} holds {labels[0]!r} only", hint="two labels are needed to judge by", slug="one-class")
        if len(labels) > CLASSES_MOST or (dtype == "float64" and not all(float(label).is_integer() for label in labels)):
            raise DataError(f"label {name!r} holds {len(labels)} different values, not labels", hint="leave it out", slug="bad-target")
        return {"names": [name], "dtype": dtype, "classes": labels, "use": "judging"}

    def _encode(self, data: pd.DataFrame, schema: InputSchema) -> None:
        return None


def _kind(model: Any) -> str:
    """What scikit-learn says an estimator is; empty for those of other people that do not say."""
    if not hasattr(model, "__sklearn_tags__"):
        return ""
    from sklearn.utils import get_tags

    return str(get_tags(model).estimator_type or "")


def _components(model: Any) -> int:
    """How many clusters a fitted mixture has."""
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    return len(getattr(last, "weights_", ()))


def _distances(X: Any, centres: Matrix, labels: Labels) -> Matrix:
    """(n,) from each row (n, d) to the centre (k, d) of its own cluster; each row by itself, so no chunking changes a bit."""
    points = np.asarray(X.toarray() if hasattr(X, "toarray") else X, dtype=np.float64)
    held = labels >= 0
    found = np.full(len(points), np.nan)  # noise has no centre
    found[held] = np.sqrt(((points[held] - centres[labels[held]]) ** 2).sum(axis=1))
    return found


# --- what to beat ---------------------------------------------------------------------------------


class Shuffled:
    """Two clusters of one size, drawn at random over the rows that are asked about; the same for the same number of rows."""

    def fit(self, X: Any, y: Any = None) -> Shuffled:
        return self

    def predict(self, X: Any) -> Labels:
        return np.random.default_rng(0).permutation(np.arange(length_of(X)) % 2)


class Halves:
    """The rows that are asked about, cut into two halves along the first principal component of the scaled numbers.

    columns  names of the features that are numbers; nulls count as the mean
    """

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.columns = columns

    def fit(self, X: pd.DataFrame, y: Any = None) -> Halves:
        values = X[list(self.columns)].to_numpy(dtype=np.float64, na_value=np.nan)
        with np.errstate(invalid="ignore"):
            known = ~np.isnan(values)
            counts = np.maximum(known.sum(axis=0), 1)
            self.mean_ = np.where(known, values, 0.0).sum(axis=0) / counts
            spread = np.sqrt((np.where(known, values - self.mean_, 0.0) ** 2).sum(axis=0) / counts)
        self.scale_ = np.where(spread > 0, spread, 1.0)
        scaled = self._scaled(values)
        self.direction_ = np.linalg.eigh(scaled.T @ scaled)[1][:, -1]
        return self

    def predict(self, X: pd.DataFrame) -> Labels:
        along = self._scaled(X[list(self.columns)].to_numpy(dtype=np.float64, na_value=np.nan)) @ self.direction_
        labels = np.zeros(len(along), dtype=np.int64)
        labels[np.argsort(along, kind="stable")[len(along) // 2 :]] = 1
        return labels

    def _scaled(self, values: Matrix) -> Matrix:
        return np.where(np.isnan(values), 0.0, (values - self.mean_) / self.scale_)


__all__ = ["AGAINST", "WITHIN", "Clustering", "ClusteringInterface", "Halves", "Shuffled"]
