"""From the output frame to the bytes of an answer.

Floats are written with the shortest digits that read back to the same bits. NaN and infinities, which JSON has not, are null.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from pydantic_core import to_json

if TYPE_CHECKING:
    from recipeline.pipeline import Pipeline

PROBABILITY = "probability_"


def answer(output: pd.DataFrame, pipeline: Pipeline) -> bytes:
    """`{"predictions": [...], "model_version", "run_id"}`, one prediction per row of output, in its order."""
    return dumps({"predictions": predictions(output), "model_version": pipeline.version, "run_id": pipeline.run_id})


def predictions(output: pd.DataFrame) -> list[dict[str, Any]]:
    """One mapping per row: the columns as they are, those called `probability_<class>` gathered under `probabilities`."""
    plain = [(str(name), values(output.iloc[:, i])) for i, name in enumerate(output.columns) if not _probability(name)]
    chances = [(str(name)[len(PROBABILITY) :], values(output.iloc[:, i])) for i, name in enumerate(output.columns) if _probability(name)]
    names = [name for name, _ in plain]
    rows = (
        [dict(zip(names, row, strict=True)) for row in zip(*(column for _, column in plain), strict=True)]
        if plain
        else [{} for _ in output.index]
    )
    if chances:
        classes = [name for name, _ in chances]
        for row, each in zip(rows, zip(*(column for _, column in chances), strict=True), strict=True):
            row["probabilities"] = dict(zip(classes, each, strict=True))
    return rows


def dumps(document: Mapping[str, Any]) -> bytes:
    return to_json(document, inf_nan_mode="null")


def values(column: pd.Series[Any]) -> list[Any]:
    """A column as JSON has it."""
    if column.dtype.kind in "fiub" and not pd.api.types.is_extension_array_dtype(column.dtype):
        plain: list[Any] = column.to_numpy().tolist()
        return plain
    return [_plain(value) for value in column.astype(object)]


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy's scalars and arrays
        return _plain(value.tolist())
    if value is None or value is pd.NaT or value is pd.NA:
        return None
    return value.isoformat() if hasattr(value, "isoformat") else value


def _probability(name: Any) -> bool:
    return isinstance(name, str) and name.startswith(PROBABILITY)
