"""Looking at the columns of a frame: is it there, is it whole, what is it, and which code has a label."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recipeline.contracts import Selected
from recipeline.errors import DataError, did_you_mean
from recipeline.schema import dtype_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


CLASSES_MOST = 10_000
"""More classes than this is a target that was meant for regression, or an identifier."""


def require_frame(data: Any) -> None:
    if not isinstance(data, pd.DataFrame):
        raise DataError(f"a frame is expected, the loader gave {type(data).__name__}", slug="schema")
    if not data.columns.is_unique:
        twice = sorted({str(name) for name in data.columns[data.columns.duplicated()]})
        raise DataError(f"column {', '.join(twice)} is there twice", hint="rename one of them", slug="duplicate-column")


def require_columns(data: pd.DataFrame, key: str, names: Iterable[str]) -> None:
    known = [str(name) for name in data.columns]
    for name in names:
        if name not in data.columns:
            raise DataError(f"{key}: the data have no column {name!r}", hint=did_you_mean(name, known), slug="missing-column")


def no_nulls(name: str, values: pd.Series[Any]) -> None:
    nulls = values.isna().to_numpy()
    if nulls.any():
        raise DataError(
            f"target {name!r} has {int(nulls.sum())} nulls in {len(nulls)} rows, the first in row {int(np.flatnonzero(nulls)[0])}",
            hint="remove these rows in the source",
            slug="null-target",
        )


def target_type(values: pd.Series[Any]) -> str:
    try:
        return dtype_of(values)
    except DataError as error:
        raise DataError(f"target: {error.message}", hint=error.hint, slug="bad-target") from error


def weights_of(values: pd.Series[Any]) -> NDArray[np.float64]:
    try:
        weight = values.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise DataError(f"weight {values.name!r}: numbers expected, got {values.dtype}", slug="bad-weight") from error
    if not np.isfinite(weight).all() or (weight < 0).any() or not (weight > 0).any():
        raise DataError(f"weight {values.name!r}: finite numbers expected, none below 0 and not all 0", slug="bad-weight")
    return weight


def groups_of(values: pd.Series[Any]) -> NDArray[Any]:
    if values.isna().any():
        raise DataError(f"group {values.name!r} has {int(values.isna().sum())} nulls", hint="every row needs its group", slug="null-group")
    return values.to_numpy()


def codes_of(labels: NDArray[Any], values: NDArray[Any]) -> NDArray[np.intp]:
    """Positions (n,) of values among the sorted labels (k,); -1 for what is not one of them."""
    if labels.dtype == object or values.dtype == object:
        found: NDArray[np.intp] = pd.Index(labels, dtype=object).get_indexer(pd.Index(values, dtype=object))
        return found
    at = np.minimum(np.searchsorted(labels, values), len(labels) - 1)
    return np.where(labels[at] == values, at, -1)


def length_of(X: Any) -> int:
    return int(X.shape[0]) if hasattr(X, "shape") else len(X)


def keyed(selected: Selected) -> dict[str, Any]:
    """The columns that name a row, to begin a row of output with."""
    if selected.keys is None:
        return {}
    return {name: selected.keys[name].array for name in selected.keys.columns}
