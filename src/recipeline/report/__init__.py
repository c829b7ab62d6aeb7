"""report.html: one page per run that a person can read, keep, print and send; it needs no network and runs no script.

`write(path, ReportContent(...))`. Everything that comes from users (names, values, recipes, captions) is escaped by the
template engine; figures are drawn as SVG with their text as text, in colours that follow the reader's light or dark theme.
The same content gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import TYPE_CHECKING, Any

from recipeline.report.page import render
from recipeline.stores import files

if TYPE_CHECKING:
    import pandas as pd

    from recipeline.contracts import Direction, Figure

__all__ = ["ReportContent", "summarise", "write"]

BINS = 14  # of the small histogram beside each column
SHOWN_CATEGORIES = 5


@dataclass(frozen=True)
class ReportContent:
    """What a report tells.

    title       name of the recipe
    run_id      of the tracked run
    recipe      YAML text, as resolved
    metrics     {part: {name: value}}; the first part is the headline (the sealed test rows). `<name>_sd` beside `<name>`
                is its standard deviation over the folds
    directions  {metric: "maximize" | "minimize"}, for those that have one
    baselines   {name: {metric: value}} on the rows of the first part
    folds       one mapping per fold: "fold", then metrics
    audit       what was separated and how it was checked; nested mappings and lists of mappings are fine
    schema      `InputSchema.to_json()`
    data        `summarise(frame)` of the training data
    hpo         the form of hpo.json
    figures     {name: Figure} of the evaluation, and `more_figures` of anybody else
    tables      {name: frame}; the first rows of each are shown
    summed      tables are of all folds, and so are the figures whose captions say it
    versions    {library: version}
    seconds     wall time of the run
    finished    when, as a person writes it; part of the content, so that the same content gives the same bytes
    about       further facts for the foot of the page: data fingerprint, git commit …
    """

    title: str
    run_id: str
    recipe: str
    metrics: Mapping[str, Mapping[str, float]]
    directions: Mapping[str, Direction] = field(default_factory=dict)
    baselines: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    folds: Sequence[Mapping[str, Any]] = ()
    audit: Mapping[str, Any] = field(default_factory=dict)
    schema: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    hpo: Mapping[str, Any] | None = None
    figures: Mapping[str, Figure] = field(default_factory=dict)
    more_figures: Mapping[str, Figure] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    summed: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    seconds: float | None = None
    task: str = ""
    finished: str = ""
    warnings: Sequence[str] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


def write(path: str | PathLike[str], content: ReportContent) -> None:
    """One self-contained HTML file, whole or not at all.

    A figure whose drawing fails is replaced by the reason, in the page and in the log: a picture is no cause to lose a run.
    """
    files.write_text(path, render(content))


def summarise(frame: pd.DataFrame) -> dict[str, Any]:
    """What the report says of training data: JSON-like, no single row of it.

    `{"rows": n, "columns": {name: {nulls, distinct, low, mean, high, bins, top}}}`; low, mean, high and `bins` (counts in
    equal steps from low to high) of numbers, low and high of time stamps, `top` ((value, count), most frequent first) of the rest.
    """
    return {"rows": len(frame), "columns": {str(name): _column(frame.iloc[:, position]) for position, name in enumerate(frame.columns)}}


def _column(values: pd.Series[Any]) -> dict[str, Any]:
    import numpy as np
    import pandas as pd

    known = values.dropna()
    facts: dict[str, Any] = {"nulls": len(values) - len(known), "distinct": None}
    if not len(known):
        return facts
    if pd.api.types.is_datetime64_any_dtype(known.dtype):
        return facts | {"low": known.min().isoformat(), "high": known.max().isoformat()}
    if pd.api.types.is_numeric_dtype(known.dtype) and not pd.api.types.is_bool_dtype(known.dtype):
        numbers = known.to_numpy(np.float64)
        low, high = float(numbers.min()), float(numbers.max())
        mean = float(numbers.mean())
        facts |= {"low": low, "mean": 0.0 if abs(mean) < 1e-12 * (high - low) else mean, "high": high}  # not -2.5e-19 for centred data
        if math.isfinite(high - low) and high > low:
            facts["bins"] = np.histogram(numbers, bins=BINS, range=(low, high))[0].tolist()
        return facts
    counts = known.astype(str).value_counts()
    counts = counts.iloc[np.lexsort((counts.index.to_numpy(dtype=str), -counts.to_numpy()))]  # ties by name: the same page every time
    return facts | {
        "distinct": len(counts),
        "top": [(name, int(count)) for name, count in counts.iloc[:SHOWN_CATEGORIES].items()],
    }
