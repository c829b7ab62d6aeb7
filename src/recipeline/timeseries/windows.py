"""Windows of a series without copying: one contiguous array, a strided view, an index table of valid origins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from recipeline.errors import DataError

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
Integers = NDArray[np.signedinteger[Any]]


@dataclass(frozen=True)
class Batch:
    """past (B, lookback, C), future (B, horizon, C), and where each was observed (same shapes, bool)."""

    past: Floats
    future: Floats
    past_mask: Bools
    future_mask: Bools


@dataclass(frozen=True)
class Windows:
    """Every (past, future) pair of one or many series; beside the values it keeps four bytes per window.

    values   (T, C) contiguous, all series one after the other
    mask     (T, C) True where observed; None: where the value is not NaN
    origins  (N,) the last known row of each window: past is rows o - lookback + 1 … o, future o + 1 … o + horizon
    starts   (S,) first row of each series
    targets  columns that count for coverage; None: all
    """

    values: Floats
    mask: Bools | None
    origins: Integers
    starts: Integers
    targets: tuple[int, ...] | None
    lookback: int
    horizon: int

    def __len__(self) -> int:
        return len(self.origins)

    @property
    def series(self) -> Integers:
        """(N,) number of the series of each window."""
        return np.searchsorted(self.starts, self.origins, side="right") - 1

    @property
    def label_ends(self) -> Integers:
        """(N,) the last row whose value a window's labels use."""
        return self.origins + self.horizon

    @property
    def coverage(self) -> Floats:
        """(N,) share of the past that was observed (of the target columns)."""
        counts = _observed(self.values, self.mask, self.targets)
        width = self.values.shape[1] if self.targets is None else len(self.targets)
        return (counts[self.origins + 1] - counts[self.origins - self.lookback + 1]) / (self.lookback * width)

    def pasts(self) -> Floats:
        """(T - lookback + 1, lookback, C) view: row i is the past of origin i + lookback - 1, valid or not."""
        return _view(self.values, self.lookback)

    def select(self, keep: ArrayLike) -> Windows:
        """The windows at these positions, or where this mask is True: `w.select(w.label_ends < boundary)`."""
        return replace(self, origins=self.origins[np.asarray(keep)])

    def batch(self, rows: ArrayLike | None = None) -> Batch:
        """The windows at these positions (None: all), gathered. Without a future (`future=False`) its arrays have no steps."""
        origins = self.origins if rows is None else self.origins[np.asarray(rows)]
        past, past_mask = self._gather(origins - self.lookback + 1, self.lookback)
        future, future_mask = self._gather(origins + 1, self.horizon)
        return Batch(past, future, past_mask, future_mask)

    def _gather(self, first: Integers, steps: int) -> tuple[Floats, Bools]:
        if steps == 0:
            nothing = np.empty((len(first), 0, self.values.shape[1]), self.values.dtype)
            return nothing, nothing.astype(bool)
        values = _view(self.values, steps)[first]
        return values, ~np.isnan(values) if self.mask is None else _view(self.mask, steps)[first]


def windows(
    values: Floats,
    *,
    lookback: int,
    horizon: int,
    lengths: Sequence[int] | None = None,
    mask: Bools | None = None,
    targets: Sequence[int] | None = None,
    stride: int = 1,
    min_observed: float = 0.5,
    future: bool = True,
) -> Windows:
    """The table of all valid origins, oldest first, series by series.

    values        (T, C) or (T,) on a regular grid; becomes contiguous, else is used as it is
    lengths       rows of each series, adding up to T (None: one series); no window crosses from one to the next
    targets       columns that count for coverage and labels (None: all)
    stride        rows between origins, counted from the first valid one of each series
    min_observed  windows with a smaller share of their past observed are left out (0: all are kept, `coverage` tells)
    future        True: the horizon must lie inside the series, with at least one observed label (training);
                  False: the past is enough (prediction), and batches have no future
    """
    matrix = np.ascontiguousarray(values if values.ndim == 2 else values[:, None])
    spans = np.asarray([len(matrix)] if lengths is None else lengths, dtype=np.int64)
    if lookback < 1 or horizon < 1 or stride < 1:
        raise ValueError(f"lookback, horizon and stride are at least 1; got {lookback}, {horizon}, {stride}")
    if spans.sum() != len(matrix):
        raise ValueError(f"lengths add up to {spans.sum()}, values have {len(matrix)} rows")
    ahead = horizon if future else 0
    starts = np.cumsum(spans) - spans
    small: type[np.signedinteger[Any]] = np.int32 if len(matrix) < 2**31 - 1 else np.int64
    tables = [np.arange(start + lookback - 1, start + span - ahead, stride, dtype=small) for start, span in zip(starts, spans, strict=True)]
    origins = tables[0] if len(tables) == 1 else np.concatenate(tables)
    if not len(origins):
        raise DataError(
            f"the longest series has {spans.max(initial=0)} rows, one window needs {lookback + ahead}",
            hint=f"shorten lookback ({lookback})" + (f" or horizon ({horizon})" if ahead else ""),
            slug="too-short",
        )
    chosen = None if targets is None else tuple(targets)
    seen = None if mask is None else np.ascontiguousarray(np.reshape(mask, matrix.shape))
    found = Windows(matrix, seen, origins, starts, chosen, lookback, ahead)
    with np.errstate(over="ignore", invalid="ignore"):
        whole = bool(np.isfinite(matrix.sum())) if seen is None else bool(seen.all())
    if whole:
        return found
    counts = _observed(matrix, seen, chosen)
    keep = found.coverage >= min_observed
    if ahead:
        keep &= counts[origins + 1 + ahead] > counts[origins + 1]
    return found.select(keep)


def _observed(values: Floats, mask: Bools | None, targets: tuple[int, ...] | None) -> Integers:
    """(T + 1,) how many target values were observed before each row."""
    columns: Any = slice(None) if targets is None else list(targets)
    seen = ~np.isnan(values[:, columns]) if mask is None else mask[:, columns]
    counts = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(seen.sum(axis=1, dtype=np.int64), out=counts[1:])
    return counts


def _view(array: NDArray[Any], length: int) -> NDArray[Any]:
    """(T - length + 1, length, C) view of (T, C)."""
    return sliding_window_view(array, length, axis=0).swapaxes(1, 2)
