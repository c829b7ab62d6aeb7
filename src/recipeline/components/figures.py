"""Pictures of how a pipeline judged on a table did. Nothing is computed or drawn before somebody asks for the picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from recipeline.components.metrics import Observed, confusion
from recipeline.contracts import Figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

WRAPPED_MOST = 5
CURVES_MOST = 10
"""Curves in one picture; of more classes the most frequent are drawn."""
POINTS_MOST = 2000
"""Points in a scatter plot; of more rows an even selection is drawn."""
NUMBERED_MOST = 20
"""Classes up to which the cells of a confusion matrix carry their number."""
BARS_MOST = 20
NAME_MOST = 28
"""Bars of importances; letters of a name beside a bar or a tile."""


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
        more = " Thick: the predicted class; thin: each class against all others." if len(observed.classes or ()) > 2 else ""
        found["calibration"] = Figure(
            "Calibration",
            _calibration(observed, curves),
            f"Share observed against probability given, in ten groups of equal size; on the diagonal both agree.{more}",
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
        names = [name if len(name) <= NAME_MOST else f"{name[: NAME_MOST - 1]}…" for name in table["feature"].astype(str)]
        spread = {"ecolor": "grey", "elinewidth": 1.2}
        height = min(0.8, 0.15 * len(names))
        axes.barh(
            np.arange(len(names)),
            table["importance"].to_numpy(),
            xerr=table["sd"].to_numpy(),
            height=height,
            color="tab:blue",
            error_kw=spread,
        )
        axes.set_yticks(np.arange(len(names)), names)
        axes.axvline(0.0, color="grey", linewidth=0.8)
        axes.set_xlabel(f"{loss} lost")
        axes.grid(visible=False, axis="y")

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


def _calibration(observed: Observed, curves: Sequence[tuple[str, Any, Any]]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        given, happened = _certainty(observed)
        if len(observed.classes or ()) > 2:
            axes.plot(*_reliability(given, happened), marker="o", color="black", linewidth=2.2, label="predicted class")
            for label, actual, confidence in curves:
                axes.plot(*_reliability(confidence, actual), linewidth=1.0, label=label)
            axes.legend(loc="upper left", fontsize="small")
        else:
            axes.plot(*_reliability(given, happened), marker="o")
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--")
        axes.set_xlabel("probability given")
        axes.set_ylabel("share observed")

    return draw


def _reliability(given: NDArray[np.float64], happened: NDArray[np.bool_]) -> tuple[list[float], list[float]]:
    """Mean probability and share of rows where it came so, in at most ten groups of equal size from the least to the most sure."""
    groups = [part for part in np.array_split(np.argsort(given, kind="stable"), 10) if len(part)]
    return [float(given[part].mean()) for part in groups], [float(happened[part].mean()) for part in groups]


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
        if len(labels) <= NUMBERED_MOST:
            tiles(axes, shares, [[str(count) for count in row] for row in counts], labels, labels)
            axes.set_aspect("equal")
        else:
            axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
        axes.set_xlabel("predicted")
        axes.set_ylabel("actual")

    return draw


def tiles(axes: Axes, shades: NDArray[np.float64], words: Sequence[Sequence[str]], down: Sequence[str], across: Sequence[str]) -> None:
    """A table of tiles: the first row on top, each in the first colour (below zero the second) as strongly as its shade (-1 to 1) says.

    Drawn with transparency over the page, so that nothing shines in a dark theme.
    """
    for (row, column), shade in np.ndenumerate(shades):
        strength = 0.9 * min(abs(float(shade)), 1.0) if np.isfinite(shade) else 0.0
        if strength > 0:
            left, right, top, bottom = column - 0.5, column + 0.5, row - 0.5, row + 0.5
            colour = "C0" if shade > 0 else "C1"
            axes.fill([left, right, right, left], [top, top, bottom, bottom], facecolor=colour, alpha=strength, linewidth=0)
        ink: dict[str, Any] = {"color": "white"} if strength > 0.6 else {}
        axes.text(column, row, words[row][column], ha="center", va="center", fontsize="small", **ink)
    axes.set_xlim(-0.5, len(across) - 0.5)
    axes.set_ylim(len(down) - 0.5, -0.5)
    long = max(map(len, across), default=0) * len(across) > 40
    axes.set_xticks(range(len(across)), across, rotation=45 if long else 0, ha="right" if long else "center")
    axes.set_yticks(range(len(down)), [name if len(name) <= NAME_MOST else f"{name[: NAME_MOST - 1]}…" for name in down])
    axes.grid(visible=False)
    axes.tick_params(length=0)


# --- what was learned, step by step -----------------------------------------------------------------


def of_learning(model: Any) -> Figure | None:
    """The training curve of a model that keeps one: scikit-learn's boosting and MLP, XGBoost, LightGBM, CatBoost; None for others.

    scikit-learn's HistGradientBoosting keeps scores only while it stops early or is given `scoring`.
    """
    for part in _inside(model):
        curves = _learned(part)
        if curves:
            return Figure(
                "Training", _learning(curves), "What was optimised, after each iteration, on the rows it was fitted on and held back."
            )
    return None


def _inside(model: Any) -> list[Any]:
    """A model and what it wraps: a threshold, a calibration on held-back rows, the last step of a pipeline."""
    found = [model]
    while len(found) < WRAPPED_MOST:
        last = found[-1]
        steps = getattr(last, "steps", None)
        inner = (
            steps[-1][1]
            if steps
            else next((got for name in ("estimator_", "estimator") if (got := getattr(last, name, None)) is not None), None)
        )
        if inner is None:
            break
        found.append(inner)
    return found


def _learned(model: Any) -> list[tuple[str, str, NDArray[np.float64]]]:
    """(unit, which rows, values by iteration)."""
    boosted = getattr(model, "evals_result_", None)
    if isinstance(boosted, Mapping):  # {rows: {unit: values}}
        return [
            (str(unit), str(rows), np.asarray(values, dtype=np.float64))
            for rows, units in boosted.items()
            for unit, values in list(units.items())[:1]
            if len(values) > 1
        ]
    kept = {
        "loss_curve_": ("loss", "training"),
        "validation_scores_": ("validation score", "held back"),
        "train_score_": ("score" if hasattr(model, "validation_score_") else "loss", "training"),
        "validation_score_": ("score", "held back"),
    }
    found = [(unit, rows, np.asarray(values, dtype=np.float64)) for name, (unit, rows) in kept.items()
             if (values := getattr(model, name, None)) is not None and np.size(values) > 1]  # fmt: skip
    return [(unit, rows, values) for unit, rows, values in found if values.ndim == 1 and np.isfinite(values).all()]


def _learning(curves: Sequence[tuple[str, str, NDArray[np.float64]]]) -> Callable[[Axes], None]:
    def draw(axes: Axes) -> None:
        units = list(dict.fromkeys(unit for unit, _, _ in curves))
        sides = {unit: axes if at == 0 else axes.twinx() for at, unit in enumerate(units)}
        for at, (unit, rows, values) in enumerate(curves):
            shown = np.unique(np.linspace(0, len(values) - 1, min(len(values), POINTS_MOST)).astype(np.intp))
            sides[unit].plot(shown + 1, values[shown], color=f"C{at}", label=rows if len(units) == 1 else f"{rows} ({unit})")
        for at, (unit, side) in enumerate(sides.items()):
            side.set_ylabel(unit)
            if at:
                side.spines["right"].set_visible(True)
                side.grid(visible=False)
        axes.set_xlabel("iteration")
        lines = [line for side in sides.values() for line in side.get_lines()]
        axes.legend(lines, [str(line.get_label()) for line in lines], loc="center right", fontsize="small")

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
        axes.scatter(x, y, s=14 if len(x) <= 300 else 8, alpha=0.7 if len(x) <= 300 else 0.5, linewidths=0, label=target)
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
