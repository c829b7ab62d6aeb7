"""What a clustering is worth on rows that nothing was fitted on: how tight and how far apart, and against known labels.

Tightness is measured where the model works, in the preprocessed features of the sealed rows, with the clusters that
`pipeline.predict` gives them. Between models whose preprocessing differs such figures do not compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recipeline.components.cluster_figures import Found, of_clusters
from recipeline.components.clustering import AGAINST, WITHIN
from recipeline.components.metrics import resolve
from recipeline.contracts import Evaluation, Metric, Part, Predictor
from recipeline.errors import DataError, Problem, RecipeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

CATEGORIES_SHOWN = 5
"""Most frequent values of a text column that a profile counts."""


class ClusteringEvaluator:
    """scikit-learn's figures of clusters; for the report: sizes, silhouettes, a map, profiles, labels against clusters.

    silhouette_rows   of more sealed rows, this many are drawn (seeded) for the silhouette, whose cost grows with their square
    interface         given by the engine: data_interface
    """

    def __init__(self, *, silhouette_rows: int = 5000, interface: Mapping[str, Any] | None = None) -> None:
        self.silhouette_rows, self.interface = silhouette_rows, interface

    @property
    def measures(self) -> Sequence[Metric]:
        """The figures that labels allow are there where `data_interface.label_col` is."""
        return (*WITHIN, *AGAINST) if (self.interface or {}).get("label_col") else WITHIN

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        rows = params.get("silhouette_rows")
        if rows is None or (isinstance(rows, int) and not isinstance(rows, bool) and rows >= 10):
            return []
        return [Problem("bad-value", ("silhouette_rows",), f"{rows!r} is not a number of rows, 10 or more", at="value")]

    def judge(self, pipeline: Predictor, part: Part) -> Evaluation:
        """Predict the part and measure; tables and figures when `part.detail`.

        Raises DataError for a metric that is undefined: with one cluster only, or as many as rows; RecipeError where a
        metric needs the features of the rows and nobody kept them (`--evaluate` of a batch).
        """
        output = pipeline.predict(part.rows, augmented=True)
        labels = output["cluster"].to_numpy()
        asked = resolve(part.metrics, (*WITHIN, *AGAINST))
        inside = [metric for metric in asked if metric.needs == "features"]
        if inside and part.features is None:
            raise RecipeError(_no_features(inside[0]))
        features = _matrix(part.features()) if part.features is not None and (inside or part.detail) else None
        metrics: dict[str, float] = {}
        for metric in asked:
            if metric.needs == "features":
                assert features is not None
                metrics[metric.name] = self._within(metric, features, labels, part.seed)
            else:
                metrics[metric.name] = _against(metric, part, labels)
        if not part.detail:
            return Evaluation(metrics)
        found = self._found(features, labels, output, part)
        return Evaluation(metrics, _tables(found), of_clusters(found))

    def _within(self, metric: Metric, features: Matrix, labels: NDArray[np.int64], seed: int) -> float:
        if metric.name == "silhouette":
            rows = self._drawn(len(labels), seed)
            features, labels = features[rows], labels[rows]
        clusters, n = len(np.unique(labels)), len(labels)
        if not 2 <= clusters < n:
            what = "one cluster only was found" if clusters < 2 else f"each of the {n} rows is a cluster of its own"
            raise DataError(
                f"{metric.name} is undefined: {what}", slug="undefined-metric",
                hint="look for another number of clusters, scale the features, or judge on more rows",
            )  # fmt: skip
        return float(metric.function(features, labels))

    def _drawn(self, n: int, seed: int) -> NDArray[np.intp]:
        if n <= self.silhouette_rows:
            return np.arange(n)
        return np.sort(np.random.default_rng(seed).choice(n, self.silhouette_rows, replace=False))

    def _found(self, features: Matrix | None, labels: NDArray[np.int64], output: pd.DataFrame, part: Part) -> Found:
        rows, silhouettes = self._drawn(len(labels), part.seed), None
        if features is not None and 2 <= len(np.unique(labels[rows])) < len(rows):
            from sklearn.metrics import silhouette_samples

            silhouettes = silhouette_samples(features[rows], labels[rows])
        truth = part.selected.extras.get("target")
        return Found(
            labels, output, None if features is None else features[rows], labels[rows], silhouettes,
            _profiles(part.selected.X, labels), None if truth is None else np.asarray(truth, dtype=object),
        )  # fmt: skip


def _matrix(features: Any) -> Matrix:
    """What a preprocessor gave, as numbers (n, d).

    Raises RecipeError where that is no table of numbers: distances between such rows mean nothing.
    """
    dense = features.toarray() if hasattr(features, "toarray") else features
    try:
        matrix = np.asarray(dense, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise RecipeError(
            Problem("metric-needs", ("evaluation", "metrics"), "the preprocessed features are not numbers, so rows have no distance",
                    "let the preprocessor encode text")
        ) from error  # fmt: skip
    return matrix.reshape(len(matrix), -1)


def _against(metric: Metric, part: Part, labels: NDArray[np.int64]) -> float:
    """On the rows whose label is known."""
    truth = np.asarray(part.selected.extras["target"], dtype=object)
    known = ~pd.isna(truth)
    if not known.any():
        raise DataError(
            f"{metric.name} is undefined: no row has a known label", hint="judge on rows that have one", slug="undefined-metric"
        )
    return float(metric.function(pd.factorize(truth[known])[0], labels[known]))


def _no_features(metric: Metric) -> Problem:
    what = f"{metric.name} needs the features of the rows that are judged, and a batch does not keep them"
    return Problem("metric-needs", ("evaluation", "metrics"), what, "score a batch by metrics of label_col, as adjusted_rand")


# --- tables -------------------------------------------------------------------------------------------


def _tables(found: Found) -> dict[str, pd.DataFrame]:
    """`clusters` (size, silhouette, distance), `profiles`, `predictions`, and `labels` against clusters where labels are known."""
    numbers, counts = np.unique(found.labels, return_counts=True)
    clusters = pd.DataFrame({"cluster": numbers, "rows": counts, "share": counts / max(len(found.labels), 1)})
    if found.silhouettes is not None:
        each = [found.silhouettes[found.drawn_labels == number] for number in numbers]
        clusters["silhouette"] = [float(one.mean()) if len(one) else np.nan for one in each]
        clusters["below_zero"] = [float((one < 0).mean()) if len(one) else np.nan for one in each]
    if "distance" in found.output:
        clusters["distance"] = [float(found.output["distance"].to_numpy()[found.labels == number].mean()) for number in numbers]
    tables = {"clusters": clusters, "profiles": found.profiles, "predictions": found.output.copy()}
    if found.truth is not None:
        tables["predictions"]["label"] = found.truth
        tables["labels"] = contingency(found.truth, found.labels)
    return tables


def contingency(truth: NDArray[Any], labels: NDArray[np.int64]) -> pd.DataFrame:
    """Rows of each known label (first column) in each cluster."""
    known = ~pd.isna(truth)
    table = pd.crosstab(pd.Series(truth[known].astype(str), name="label"), labels[known])
    table.columns = [f"cluster_{number}" for number in table.columns]
    return table.reset_index()


def _profiles(X: Any, labels: NDArray[np.int64]) -> pd.DataFrame:
    """What is special about each cluster: of every feature, mean and sd over all rows, and the mean in each cluster.

    Text columns are counted: `name=value` is the share of the rows with this value, for the most frequent ones. Columns
    without spread say nothing and are left out. Features that are no frame have no profile.
    """
    numbers = np.unique(labels)
    columns = ["feature", "mean", "sd", *(f"cluster_{number}" for number in numbers)]
    if not isinstance(X, pd.DataFrame):
        return pd.DataFrame(columns=columns)
    lines = []
    for name, values in _as_numbers(X):
        known = ~np.isnan(values)
        sd = float(values[known].std()) if known.any() else 0.0
        if sd > 0:
            means = [_mean(values[known & (labels == number)]) for number in numbers]
            lines.append([name, float(values[known].mean()), sd, *means])
    return pd.DataFrame(lines, columns=columns)


def _mean(values: Matrix) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _as_numbers(X: pd.DataFrame) -> list[tuple[str, Matrix]]:
    """(name, values (n,)) of numbers and booleans as they are, of text by its most frequent values; times have none."""
    found: list[tuple[str, Matrix]] = []
    for name in X.columns:
        column = X[name]
        if pd.api.types.is_datetime64_any_dtype(column.dtype):
            continue
        if pd.api.types.is_numeric_dtype(column.dtype):
            found.append((str(name), column.to_numpy(dtype=np.float64, na_value=np.nan)))
            continue
        text = column.astype(object)
        frequent = text.dropna().astype(str).value_counts().index[:CATEGORIES_SHOWN]
        found += [(f"{name}={value}", np.where(text.isna(), np.nan, text.astype(str) == value).astype(np.float64)) for value in frequent]
    return found


__all__ = ["ClusteringEvaluator", "contingency"]
