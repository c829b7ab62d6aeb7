"""What cleaning did to a history: how much is missing, how much smoothing took away, and a picture of both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recipeline.contracts import Evaluation, Figure
from recipeline.timeseries import transforms
from recipeline.timeseries.frames import SERIES, TARGET, TIME

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from recipeline_spline.cleaning import SplinePreprocessor
    from recipeline_spline.prepared import Prepared

    Floats = NDArray[np.float64]

WINDOWS = 4
"""Windows at the end of a series that are shown, each as the origin at its end sees it."""


def account(cleaner: SplinePreprocessor, X: pd.DataFrame, *, processed: bool = False) -> Evaluation:
    """Tables `cleaning` (a line per series) and, where it is asked for, `processed` (every row on the grid); figure `cleaning`.

    X  the history at an origin, a long frame; with future covariates the rows to forecast as well

    `variance_removed` is the variance of what smoothing took away over that of the values; `roughness` is the mean square of second
    differences over the variance, before and after. Roughness is what should go; much of the variance is signal that is lost.
    """
    panel = cleaner.transform(X)
    shown = {int(number): _shown(panel, int(number), cleaner.lookback) for number in range(len(panel.names))}
    lines = [_line(panel, number, curves) for number, curves in shown.items()]
    tables = {"cleaning": pd.DataFrame(lines)}
    if processed:
        tables["processed"] = _processed(panel)
    richest = int(np.argmax([line["observed"] for line in lines]))
    return Evaluation({}, tables, {"cleaning": _figure(panel, richest, shown[richest], cleaner)})


def _part(panel: Prepared, number: int) -> slice:
    """The rows of one series that hold data."""
    start = int(panel.starts[number])
    return slice(start + int(panel.pads[number]), int(panel.last[number]) + 1)


def _shown(panel: Prepared, number: int, lookback: int) -> dict[str, Floats]:
    """The end of a series: grid position, raw, filled and, where there is one, smoothed; each window as its origin saw it."""
    last, begin = int(panel.last[number]), int(panel.starts[number])
    origins = np.arange(last, begin + lookback - 2, -lookback)[:WINDOWS][::-1]
    inputs = panel.gather(origins, lookback, 1)
    width = len(panel.channels.targets)
    restore = transforms.back
    rows = (origins[:, None] + np.arange(1 - lookback, 1)).ravel()

    def curve(*channels: int) -> Floats:
        scaled = inputs.past[:, :, channels].astype(np.float64).sum(axis=2)
        return restore(scaled * inputs.spread[:, None, 0] + inputs.centre[:, None, 0], inputs.space).ravel()

    curves = {"row": rows.astype(np.float64), "raw": panel.target[rows, 0], "filled": curve(0)}
    if f"{panel.channels.targets[0]}:smooth" in panel.channels.past:
        curves["smoothed"] = curve(0, width)
    return curves


def _line(panel: Prepared, number: int, curves: dict[str, Floats]) -> dict[str, Any]:
    seen = panel.observed[_part(panel, number), 0]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], ~seen, [False]]).astype(np.int8)))
    line: dict[str, Any] = {
        "series": str(panel.names[number]),
        "grid_points": len(seen),
        "observed": int(seen.sum()),
        "missing": float(1 - seen.mean()) if len(seen) else 0.0,
        "longest_gap": int((edges[1::2] - edges[::2]).max()) if len(edges) else 0,
    }
    if "smoothed" in curves:
        variance = float(np.var(curves["filled"]))
        line["variance_removed"] = float(np.var(curves["filled"] - curves["smoothed"])) / variance if variance > 0 else 0.0
        line |= {f"roughness_{name}": _roughness(curves[name], variance) for name in ("filled", "smoothed")}
    return line


def _roughness(values: Floats, variance: float) -> float:
    return float(np.mean(np.diff(values, 2) ** 2)) / variance if variance > 0 and len(values) > 2 else 0.0


def _processed(panel: Prepared) -> pd.DataFrame:
    """Every grid point that holds data: series, stamp, target as observed (null where not) and the channels that networks see, as the
    last row sees them; of `spline_window`, where each origin has a curve of its own, without the smoothed one."""
    rows = np.concatenate([np.arange(_part(panel, number).start, _part(panel, number).stop) for number in range(len(panel.names))])
    columns = {SERIES: panel.names[panel.series_of(rows)], TIME: panel.stamps(rows), TARGET: panel.target[rows, 0]}
    table, width = panel.table[rows], len(panel.channels.targets)
    own = 2 * width if panel.smoothed else width
    if panel.smoothed:
        table[:, width:own] -= table[:, :width]
    table[:, :own] = np.nan_to_num(table[:, :own], nan=0.0)
    left_out = panel.channels.past[width:own] if panel.spline is not None else ()
    channels = {f"input {name}": table[:, at] for at, name in enumerate(panel.channels.past) if name not in left_out}
    return pd.DataFrame({**columns, **channels})


def _figure(panel: Prepared, number: int, curves: dict[str, Floats], cleaner: SplinePreprocessor) -> Figure:
    smooth = "smoothed" in curves
    name, raw = str(panel.names[number]), curves["raw"]
    x = curves["row"] - float(panel.last[number])

    def draw(axes: Axes) -> None:
        axes.plot(x, curves["filled"], color="tab:blue", linewidth=1.0, label=f"filled ({cleaner.fill})")
        axes.plot(x, raw, color="grey", marker=".", markersize=3, linestyle="none", label="observed")
        if smooth:
            axes.plot(x, curves["smoothed"], color="tab:orange", label=f"smoothed ({cleaner.smooth})")
        axes.set_xlabel("grid points from the origin")
        axes.legend()

    title = "Original and smoothed" if smooth else "Original and filled"
    caption = f"Series {name}, as origins {cleaner.lookback} steps apart saw it; nothing is known of what came after each of them."
    return Figure(title, draw, caption)
