"""Pictures of how a pipeline judged on a table did. Nothing is computed or drawn before somebody asks for the picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from recipeline.components.metrics import Observed, confusion
from recipeline.contracts import Figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

CURVES_MOST = 10
"""Curves in one picture; of more classes the most frequent are drawn."""
POINTS_MOST = 2000
"""Points in a scatter plot; of more rows an even selection is drawn."""
NUMBERED_MOST = 20
"""Classes up to which the cells of a confusion matrix carry their number."""
BARS_MOST = 20


def of_classes(observed: Observed) -> dict[str, Figure]:
    """Confusion always; ROC, precision-recall and calibration where the model says how sure it is."""
    found = {
        "confusion": Figure(
            "Confusion matrix",
            _confusion(observed),
            "Rows are the true classes, columns the predicted ones; shade is the share of the row.",
        )
    }
    curves = [curve for curve in _curves(observed) if 0 < curve[1].sum() < len(curve[1])]
    if curves:
        rest = " One curve per class against all others." if len(observed.classes or ()) > 2 else ""
        found["roc"] = Figure("ROC", _roc(curves), f"Share of positives found against share of negatives wrongly called positive.{rest}")
        found["precision_recall"] = Figure(
            "Precision and recall", _precision_recall(curves), f"As the threshold falls, from left to right.{rest}"
        )
    if observed.probability is not None:
        found["calibration"] = Figure(
            "Calibration",
            _calibration(observed),
            "Share observed against probability given, in ten groups of equal size; on the diagonal both agree.",
        )
    return found


def of_values(observed: Observed) -> dict[str, Figure]:
    """Predicted against actual, and residuals against predicted; one colour per target."""
    return {
        "predicted_actual": Figure("Predicted and actual", _predicted_actual(observed), "On the diagonal both are equal."),
        "residuals": Figure("Residuals", _residuals(observed), "Actual minus predicted; no pattern should be left."),
    }


def of_importances(compute: Callable[[], pd.DataFrame], loss: str) -> Figure:
    """Bars of the permutation importances; `compute` gives columns feature, importance, sd."""

    def draw(axes: Axes) -> None:
        table = compute().head(BARS_MOST).iloc[::-1]
        axes.barh(table["feature"].astype(str).tolist(), table["importance"].to_numpy(), xerr=table["sd"].to_numpy(), color="tab:blue")
        axes.axvline(0.0, color="grey", linewidth=0.8)
        axes.set_xlabel(f"{loss} lost")

    return Figure(
        "Permutation importances",
        draw,
        f"How much worse {loss} becomes on sealed rows when one column is shuffled; bars are standard deviations.",
    )


# --- classes ----------------------------------------------------------------------------------------


def _curves(observed: Observed) -> list[tuple[str, NDArray[np.bool_], NDArray[np.float64]]]:
    """(label, is it this class, how sure) for the positive class of two, or for each class of more."""
    labels = observed.classes or ()
    if observed.confidence is not None:
        return [(str(labels[1]), observed.actual.astype(bool), observed.confidence)]
    if observed.probability is None:
        return []
    counts = np.bincount(observed.actual, minlength=len(labels))
    shown = np.sort(np.argsort(-counts, kind="stable")[:CURVES_MOST])
    return [(str(labels[code]), observed.actual == code, observed.probability[:, code]) for code in shown]


def _roc(curves: Sequence[tuple[str, Any, Any]]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        from sklearn.metrics import auc, roc_curve

        for label, actual, confidence in curves:
            wrong, found, _ = roc_curve(actual, confidence)
            axes.plot(wrong, found, label=f"{label} (area {auc(wrong, found):.3f})")
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--")
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        axes.legend(loc="lower right", fontsize="small")

    return draw


def _precision_recall(curves: Sequence[tuple[str, Any, Any]]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        from sklearn.metrics import precision_recall_curve

        for label, actual, confidence in curves:
            precision, recall, _ = precision_recall_curve(actual, confidence)
            axes.step(recall, precision, where="post", label=f"{label} (share {actual.mean():.3f})")
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        axes.set_ylim(0.0, 1.05)
        axes.legend(loc="lower left", fontsize="small")

    return draw


def _calibration(observed: Observed) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        given, happened = _certainty(observed)
        order = np.argsort(given, kind="stable")
        groups = [part for part in np.array_split(order, 10) if len(part)]
        axes.plot([given[part].mean() for part in groups], [happened[part].mean() for part in groups], marker="o")
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--")
        axes.set_xlabel("probability given")
        axes.set_ylabel("share observed")

    return draw


def _certainty(observed: Observed) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The probability that was given and whether it came so: of the positive class, or of the predicted one of more."""
    probability = observed.probability
    assert probability is not None
    if probability.shape[1] == 2:
        return probability[:, 1], observed.actual.astype(bool)
    best = probability.argmax(axis=1)
    return probability[np.arange(len(best)), best], np.asarray(observed.actual == best)


def _confusion(observed: Observed) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        labels = [str(label) for label in observed.classes or ()]
        counts = confusion(observed.actual.astype(np.intp), observed.predicted.astype(np.intp), classes=len(labels))
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        if len(labels) <= NUMBERED_MOST:
            axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
            axes.set_yticks(range(len(labels)), labels)
            for row in range(len(labels)):
                for column in range(len(labels)):
                    shade = "white" if shares[row, column] > 0.5 else "black"
                    axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=shade, fontsize="small")
        axes.set_xlabel("predicted")
        axes.set_ylabel("actual")

    return draw


# --- values -----------------------------------------------------------------------------------------


def _columns(observed: Observed) -> list[tuple[str, NDArray[np.float64], NDArray[np.float64]]]:
    """(target, actual, predicted) of at most POINTS_MOST rows, evenly selected."""
    n = len(observed.actual)
    shown = np.unique(np.linspace(0, n - 1, min(n, POINTS_MOST)).astype(np.intp))
    actual, predicted = np.atleast_2d(observed.actual[shown].T), np.atleast_2d(observed.predicted[shown].T)
    return list(zip(observed.targets, actual, predicted, strict=True))


def _scatter(axes: Axes, named: Sequence[tuple[str, Any, Any]]) -> None:
    for target, x, y in named:
        axes.scatter(x, y, s=8, alpha=0.5, linewidths=0, label=target)
    if len(named) > 1:
        axes.legend(fontsize="small")


def _predicted_actual(observed: Observed) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        columns = _columns(observed)
        _scatter(axes, columns)
        everything = np.concatenate([np.concatenate(pair) for _, *pair in columns])
        ends = [everything.min(), everything.max()]
        axes.plot(ends, ends, color="grey", linewidth=0.8, linestyle="--")
        axes.set_xlabel("actual")
        axes.set_ylabel("predicted")

    return draw


def _residuals(observed: Observed) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        _scatter(axes, [(target, predicted, actual - predicted) for target, actual, predicted in _columns(observed)])
        axes.axhline(0.0, color="grey", linewidth=0.8, linestyle="--")
        axes.set_xlabel("predicted")
        axes.set_ylabel("actual - predicted")

    return draw
