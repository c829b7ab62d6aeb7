"""The answer when there is no other: exponential smoothing in model space, with the spread of its own one-step errors.

Level and error: simple exponential smoothing (Brown 1959; Hyndman and Athanasopoulos, "Forecasting: principles and practice",
8.1). The spread grows with the square root of the step, as that of a random walk: wider than the model's own
`1 + (k - 1) * alpha**2`, on purpose, for what comes here is what nothing better could be said about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recipeline_tsfm.payloads import normal

if TYPE_CHECKING:
    Floats = NDArray[np.float64]


def smooth(values: Floats, alpha: float) -> tuple[float, float]:
    """(level after the last value, root mean square of the one-step errors) of finite values (n,), n at least 1; one has no error."""
    level, *rest = values.tolist()
    keep, squares = 1.0 - alpha, 0.0
    for value in rest:
        error = value - level
        squares += error * error
        level = keep * level + alpha * value
    return level, math.sqrt(squares / len(rest)) if rest else 0.0


def fan(centre: Floats, spread: float, levels: Sequence[float]) -> Floats:
    """(H, Q) around centre (H,): centre + z(level) * spread * sqrt(k) at step k = 1 … H."""
    with np.errstate(over="ignore", invalid="ignore"):  # whether the result is finite is asked later, of every path
        growth = spread * np.sqrt(np.arange(1, len(centre) + 1))  # (H,)
        path: Floats = centre[:, None] + growth[:, None] * np.array([normal(level) for level in levels])
    return path


def ewma(values: Floats, horizon: int, levels: Sequence[float], alpha: float = 0.2) -> Floats:
    """(H, Q) in the space of `values` (n,)."""
    level, spread = smooth(values, alpha)
    return fan(np.full(horizon, level), spread, levels)
