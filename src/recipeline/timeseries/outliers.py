"""Observations that are not believed, judged by what came before them alone."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MAD = 1.4826
"""Median absolute deviation times this estimates the standard deviation of normal data (Hampel 1974)."""
LEAST = 5
"""Observations that a window must hold before anything is judged by it."""
CHUNK = 1 << 20  # cells sorted at once


def hampel(values: ArrayLike, window: int, threshold: float = 6.0) -> Bools:
    """Where a value lies more than `threshold` times 1.4826·MAD from the median of the `window` rows before it.

    values   (T,) or (T, C), NaN where missing
    returns  the same shape; False where missing, where the window holds fewer than 5 observations, and where half of them or
             more are equal (MAD 0 says nothing about the spread)

    The value itself is not in its window, and rejected ones stay in the windows of others: after a true shift of level the
    median follows within half a window (Pearson et al. 2016, "Generalized Hampel filters", with a one-sided window).
    """
    array = np.asarray(values, dtype=np.float64)
    matrix = array if array.ndim == 2 else array[:, None]
    flagged = np.zeros(matrix.shape, dtype=bool)
    for column in range(matrix.shape[1]):
        padded = np.concatenate([np.full(window, np.nan), matrix[:, column]])
        pasts = sliding_window_view(padded, window)[:-1]  # (T, window): rows t - window … t - 1
        for start in range(0, len(matrix), max(1, CHUNK // window)):
            part = slice(start, start + max(1, CHUNK // window))
            flagged[part, column] = _far(matrix[part, column], pasts[part], threshold)
    return flagged.reshape(array.shape)


def _far(values: Floats, pasts: Floats, threshold: float) -> Bools:
    """(n,), (n, window) -> (n,)"""
    count = (~np.isnan(pasts)).sum(axis=1)
    middle = _median(pasts, count)
    spread = MAD * _median(np.abs(pasts - middle[:, None]), count)
    with np.errstate(invalid="ignore"):  # NaN compares False
        far: Bools = (np.abs(values - middle) > threshold * spread) & (spread > 0) & (count >= LEAST)
    return far


def _median(rows: Floats, count: NDArray[np.int64]) -> Floats:
    """(n,) of the first `count` of each sorted row; NaN sorts to the end."""
    ascending = np.sort(rows, axis=1)
    at = np.arange(len(rows))
    middle: Floats = (ascending[at, np.maximum(count - 1, 0) // 2] + ascending[at, np.minimum(count // 2, rows.shape[1] - 1)]) / 2
    return middle
