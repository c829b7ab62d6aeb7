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
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """past (B, lookback, C), future (B, horizon, C), and where each was observed (same shapes, bool)."""

    past: Floats
    future: Floats
    past_mask: Bools
    future_mask: Bools


@dataclass(frozen=True)
class Windows:
    """Every (past, future) pair of one or many series.

    values    (T, C) contiguous, all series one after the other; NaN or 0 where `mask` is False
    mask      (T, C) True where observed
    origins   (N,) the last known row of each window: past is rows o - lookback + 1 … o, future o + 1 … o + horizon
    series    (N,) number of the series of each window
    coverage  (N,) share of the past that was observed (of the target columns)
    """

    values: Floats
    mask: Bools
    origins: Integers
    series: Integers
    coverage: Floats
    lookback: int
    horizon: int

    def __len__(self) -> int:
        return len(self.origins)

    @property
    def label_ends(self) -> Integers:
        """(N,) the last row whose value a window's labels use."""
        return self.origins + self.horizon

    def pasts(self) -> Floats:
        """(T - lookback + 1, lookback, C) view: row i is the past of origin i + lookback - 1, valid or not."""
        return _view(self.values, self.lookback)

    def select(self, keep: ArrayLike) -> Windows:
        """The windows at these positions, or where this mask is True: `w.select(w.label_ends < boundary)`."""
        chosen = np.asarray(keep)
        return replace(self, origins=self.origins[chosen], series=self.series[chosen], coverage=self.coverage[chosen])

    def batch(self, rows: ArrayLike | None = None) -> Batch:
        """The windows at these positions (None: all), gathered. Without a future (`future=False`) its arrays have no steps."""
        origins = self.origins if rows is None else self.origins[np.asarray(rows)]
        first = origins - self.lookback + 1
        return Batch(
            _view(self.values, self.lookback)[first],
            _view(self.values, self.horizon)[origins + 1] if self.horizon else self.values[:0].reshape(0, 0, self.values.shape[1]),
            _view(self.mask, self.lookback)[first],
            _view(self.mask, self.horizon)[origins + 1] if self.horizon else self.mask[:0].reshape(0, 0, self.mask.shape[1]),
        )


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
    seen = ~np.isnan(matrix) if mask is None else np.ascontiguousarray(mask.reshape(matrix.shape))
    spans = np.asarray([len(matrix)] if lengths is None else lengths, dtype=np.int64)
    if lookback < 1 or horizon < 1 or stride < 1:
        raise ValueError(f"lookback, horizon and stride are at least 1; got {lookback}, {horizon}, {stride}")
    if spans.sum() != len(matrix):
        raise ValueError(f"lengths add up to {spans.sum()}, values have {len(matrix)} rows")
    ahead = horizon if future else 0
    starts = np.cumsum(spans) - spans
    counts = np.maximum(0, -(-(spans - lookback - ahead + 1) // stride))  # windows per series
    series = np.repeat(np.arange(len(spans)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    origins = starts[series] + lookback - 1 + within * stride
    if not len(origins):
        raise DataError(
            f"the longest series has {spans.max(initial=0)} rows, one window needs {lookback + ahead}",
            hint=f"shorten lookback ({lookback})" + (f" or horizon ({horizon})" if ahead else ""),
            slug="too-short",
        )
    watched = seen if targets is None else seen[:, list(targets)]
    observed = np.concatenate([[0], np.cumsum(np.count_nonzero(watched, axis=1))])
    coverage = (observed[origins + 1] - observed[origins - lookback + 1]) / (lookback * watched.shape[1])
    keep = coverage >= min_observed
    if ahead:
        keep &= observed[origins + 1 + ahead] > observed[origins + 1]
    return Windows(matrix, seen, origins[keep], series[keep], coverage[keep], lookback, ahead)


def _view(array: NDArray[Any], length: int) -> NDArray[Any]:
    """(T - length + 1, length, C) view of (T, C)."""
    return sliding_window_view(array, length, axis=0).swapaxes(1, 2)
