"""Pictures of a search: how the score went, which parameters mattered, where the good trials lie."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recipeline.contracts import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXES = 10  # parameters in the parallel picture; the most important ones
BELOW = -0.16  # where words stand on an axis of numbers


def figures(hpo: Mapping[str, Any]) -> dict[str, Figure]:
    """{name: Figure}, those that there is something to show for; `hpo` in the form of hpo.json."""
    trials = hpo["optimization_history"]
    scored = [trial for trial in trials if trial["state"] == "complete"]
    maximize = hpo.get("direction", "maximize") == "maximize"
    found: dict[str, Figure] = {}
    if len(scored) > 1:
        found["search-history"] = Figure(
            "Score of every trial",
            lambda axes: _history(axes, trials, maximize=maximize),
            f"Trial 0 is the defaults. Higher is {'better' if maximize else 'worse'}; the line is the best so far.",
        )
    if hpo.get("importances"):
        found["search-importances"] = Figure(
            "What mattered",
            lambda axes: _importances(axes, hpo["importances"]),
            "Share of each parameter in what separates the best tenth of the trials from the rest (PED-ANOVA).",
        )
    names = _varied(hpo, scored)
    if len(scored) > 3 and names:
        found["search-parallel"] = Figure(
            "Trials through their parameters",
            lambda axes: _parallel(axes, scored, names, maximize=maximize),
            "One line per trial that was scored; the best tenth is coloured.",
        )
    return found


def _history(axes: Axes, trials: Sequence[Mapping[str, Any]], *, maximize: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    scored = [trial for trial in trials if trial["state"] == "complete"]
    axes.plot([t["number"] for t in scored], [t["value"] for t in scored], "o", color="C0", label="scored", alpha=0.75)
    # A pruned trial's last report covers fewer folds, so it is no score: both kinds stand at the foot.
    for state, colour, height in (("pruned", "C7", 0.02), ("failed", "C5", 0.05)):
        numbers = [trial["number"] for trial in trials if trial["state"] == state]
        if numbers:
            axes.plot(numbers, [height] * len(numbers), "x", color=colour, label=state, transform=axes.get_xaxis_transform())
    best, steps = scored[0]["value"], []
    for trial in scored:
        best = max(best, trial["value"]) if maximize else min(best, trial["value"])
        steps.append(best)
    axes.step([t["number"] for t in scored], steps, where="post", color="C1", label="best so far")
    # The interesting part: where the better three quarters lie, with the best; hopeless trials may leave the picture.
    low, high = _window([t["value"] for t in scored], maximize=maximize)
    axes.set_ylim(low, high)
    axes.set_xlabel("trial")
    axes.set_ylabel("score on the inner folds")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4)


def _window(values: Sequence[float], *, maximize: bool) -> tuple[float, float]:
    """Limits that show all values, but for the far worse ones beyond three times the spread of the better three quarters."""
    ordered = sorted(values, reverse=maximize)
    best, quarter = ordered[0], ordered[(3 * (len(ordered) - 1)) // 4]
    spread = abs(best - quarter) or abs(best) * 0.01 or 1.0
    worst = ordered[-1]
    limit = max(worst, best - 3 * spread) if maximize else min(worst, best + 3 * spread)
    low, high = (limit, best) if maximize else (best, limit)
    margin = 0.08 * (high - low or spread)
    return low - 2 * margin, high + margin


def _importances(axes: Axes, shares: Mapping[str, float]) -> None:
    shown = list(shares.items())[:12][::-1]
    bars = axes.barh([_short(name) for name, _ in shown], [share for _, share in shown], color="C0", height=0.62)
    axes.bar_label(bars, labels=[f"{share:.0%}" for _, share in shown], padding=3, fontsize=8)
    axes.set_xlim(0, max(max(shares.values()) * 1.15, 1e-9))
    axes.grid(visible=False)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)


def _varied(hpo: Mapping[str, Any], scored: Sequence[Mapping[str, Any]]) -> list[str]:
    """Parameters with more than one value among the scored trials, the most important first."""
    seen: dict[str, set[str]] = {}
    for trial in scored:
        for name, value in trial["params"].items():
            seen.setdefault(name, set()).add(repr(value))
    shares = hpo.get("importances") or {}
    varied = [name for name, values in seen.items() if len(values) > 1]
    return sorted(varied, key=lambda name: -shares.get(name, 0.0))[:AXES]


def _parallel(axes: Axes, scored: Sequence[Mapping[str, Any]], names: Sequence[str], *, maximize: bool) -> None:
    from matplotlib.collections import LineCollection

    axes.get_figure(root=True).set_size_inches(11, 3.6)  # type: ignore[union-attr]
    columns = [_Scale([_value(trial["params"], name) for trial in scored]) for name in names]
    columns.append(_Scale([trial["value"] for trial in scored]))
    order = sorted(range(len(scored)), key=lambda i: scored[i]["value"], reverse=maximize)
    best = set(order[: max(1, math.ceil(len(order) / 10))])
    for chosen, colour, width, alpha in ((False, "C7", 0.7, 0.35), (True, "C1", 1.8, 0.95)):
        lines = []
        for i in reversed(order):
            if (i in best) == chosen:
                # A parameter that is not active under this trial's choice is a gap.
                lines += _runs([(x, column.places[i]) for x, column in enumerate(columns)])
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=width, alpha=alpha))
    for x, column in enumerate(columns):
        axes.axvline(x, color=axes.spines["left"].get_edgecolor(), linewidth=0.6, zorder=0)
        for place, label in column.marks:
            axes.text(x + 0.03, place, label, fontsize=7, va="center", zorder=5)
    axes.set_xlim(-0.05, len(columns) - 1 + 0.35)
    axes.set_ylim(min(place for column in columns for place, _ in column.marks) - 0.06, 1.06)
    axes.set_xticks(range(len(columns)), [*(_short(name, 22) for name in names), "score"], rotation=18 if len(columns) > 7 else 0)
    axes.grid(visible=False)
    axes.yaxis.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)


class _Scale:
    """Values of one parameter as places between 0 and 1 (None: not there), with the marks of its axis.

    What is no number among numbers (a default of "sqrt") stands below the axis.
    """

    def __init__(self, values: Sequence[Any]) -> None:
        numbers = [value for value in values if _numeric(value)]
        words = sorted({str(value) for value in values if value is not None and not _numeric(value)})
        self.places: list[float | None]
        self.marks: list[tuple[float, str]] = []
        if len(set(numbers)) < 2 or len(words) > 1:
            labels = sorted({str(value) for value in values if value is not None})
            where = {label: number / (len(labels) - 1) if len(labels) > 1 else 0.5 for number, label in enumerate(labels)}
            self.places = [None if value is None else where[str(value)] for value in values]
            self.marks = [(place, _short(label, 16)) for label, place in where.items()]
            return
        low, high = min(numbers), max(numbers)
        log = low > 0 and high / low >= 20
        scale = math.log if log else float
        a, b = scale(low), scale(high)
        self.places = [None if value is None else (scale(value) - a) / (b - a) if _numeric(value) else BELOW for value in values]
        middle = math.exp((a + b) / 2) if log else (a + b) / 2
        if all(isinstance(value, int) for value in numbers):
            middle = round(middle)
        self.marks = [((scale(value) - a) / (b - a), _number(value)) for value in dict.fromkeys((low, middle, high))]
        self.marks += [(BELOW, word) for word in words]


def _value(params: Mapping[str, Any], name: str) -> Any:
    """The value, "null" for a null, and None where the parameter was not active."""
    return "null" if name in params and params[name] is None else params.get(name)


def _numeric(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _runs(points: Sequence[tuple[float, float | None]]) -> list[list[tuple[float, float]]]:
    """The pieces of a line between its gaps."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if len(run) > 1]


def _number(value: float) -> str:
    return f"{value:.3g}"


def _short(name: str, limit: int = 34) -> str:
    return name if len(name) <= limit else f"…{name[1 - limit :]}"
