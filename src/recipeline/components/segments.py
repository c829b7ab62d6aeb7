"""How a pipeline does on parts of the sealed rows: one customer segment, one plant, one quarter of the range of a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recipeline.contracts import Figure
from recipeline.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    Rows = NDArray[np.intp]

FEW = 30
"""A segment with fewer rows is marked: its figures are mostly chance."""
VALUES_MOST = 10
"""Numbers and times with more different values than this are cut at their quartiles."""
SEGMENTS_MOST = 20
"""Segments per column; of more values the most frequent have their own, the others stand together."""
SHOWN_MOST = 30


def segments(rows: pd.DataFrame, columns: Sequence[str]) -> list[tuple[str, str, Rows]]:
    """(column, segment, positions of its rows) of sealed rows, in the order of the values.

    Raises DataError for a column that the data do not have.
    """
    found: list[tuple[str, str, Rows]] = []
    for name in columns:
        if name not in rows.columns:
            hint = did_you_mean(name, [str(column) for column in rows.columns])
            raise DataError(f"segments: the data have no column {name!r}", hint=hint, slug="missing-column")
        found += [(name, label, at) for label, at in _of_column(rows[name])]
    return found


def _of_column(values: pd.Series[Any]) -> list[tuple[str, Rows]]:
    known = values.dropna()
    number = pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype)
    if (number or pd.api.types.is_datetime64_any_dtype(values.dtype)) and known.nunique() > VALUES_MOST:
        labelled = _quartiles(values)
    else:
        labelled = _values(values)
    if len(known) < len(values):
        labelled.append(("missing", np.flatnonzero(values.isna().to_numpy())))
    return labelled


def _quartiles(values: pd.Series[Any]) -> list[tuple[str, Rows]]:
    """Cut at the quartiles of these rows; a quartile that a frequent value fills is not cut."""
    cut, edges = pd.qcut(values, 4, retbins=True, duplicates="drop", labels=False)
    places = cut.to_numpy(dtype=np.float64, na_value=np.nan)
    words = [edge.isoformat() if hasattr(edge, "isoformat") else f"{edge:.4g}" for edge in edges]
    return [(f"{words[at]} to {words[at + 1]}", np.flatnonzero(places == at)) for at in range(len(words) - 1)]


def _values(values: pd.Series[Any]) -> list[tuple[str, Rows]]:
    text = values.astype(object).where(values.notna(), None)
    counts = text.dropna().value_counts()  # of a categorical column the empty categories are no segments
    own = sorted(counts.index[:SEGMENTS_MOST], key=lambda value: (isinstance(value, str), value))
    found = [(str(value), np.flatnonzero((text == value).to_numpy())) for value in own]
    if len(counts) > SEGMENTS_MOST:
        rest = text.notna() & ~text.isin(own)
        found.append((f"{len(counts) - SEGMENTS_MOST} others", np.flatnonzero(rest.to_numpy())))
    return found


def table(found: Sequence[tuple[str, str, Rows]], n: int, statistics: Mapping[str, Callable[[Rows], float]]) -> pd.DataFrame:
    """One line per segment: column, segment, rows, share, few (fewer than FEW rows), each figure, and a note on those undefined there."""
    lines = []
    for column, label, rows in found:
        line: dict[str, Any] = {"column": column, "segment": label, "rows": len(rows), "share": len(rows) / n, "few": len(rows) < FEW}
        notes = []
        for name, statistic in statistics.items():
            try:
                line[name] = statistic(rows)
            except DataError as error:
                line[name] = float("nan")
                notes.append(error.message)
        lines.append({**line, "note": "; ".join(notes)})
    return pd.DataFrame(lines, columns=["column", "segment", "rows", "share", "few", *statistics, "note"])


def figure(told: pd.DataFrame, metric: str, whole: float) -> Figure:
    """One point per segment, beside the figure of all rows."""

    def draw(axes: Axes) -> None:
        shown = told[np.isfinite(told[metric])].head(SHOWN_MOST).iloc[::-1]
        places = np.arange(len(shown))
        few = shown["few"].to_numpy(dtype=bool)
        axes.hlines(places, whole, shown[metric], color="C0", linewidth=1.0, alpha=0.6)
        axes.scatter(shown[metric][~few], places[~few], s=28, color="C0", zorder=3)
        axes.scatter(shown[metric][few], places[few], s=28, facecolors="none", edgecolors="C0", linewidths=1.2, zorder=3)
        axes.axvline(whole, color="grey", linewidth=1.0, linestyle="--")
        names = [
            f"{column} = {segment}  ({rows:,})" for column, segment, rows in shown[["column", "segment", "rows"]].itertuples(index=False)
        ]
        axes.set_yticks(places, [name if len(name) <= 44 else f"{name[:43]}…" for name in names])
        axes.set_xlabel(metric)
        if len(shown) > 10:
            canvas = axes.get_figure(root=True)
            assert canvas is not None
            canvas.set_size_inches(5.4, 0.26 * len(shown) + 1.1)

    return Figure("Segments", draw, f"{metric} on parts of the sealed rows; dashed: all of them; hollow: fewer than {FEW} rows.")


__all__ = ["figure", "segments", "table"]
