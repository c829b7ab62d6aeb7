"""What every answer has to pass, whoever made it: finite, inside the transform's bounds, in order, neither too narrow nor too wide."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recipeline.timeseries.transforms import back
from recipeline_tsfm.failures import invalid
from recipeline_tsfm.payloads import normal
from recipeline_tsfm.seams import Space

if TYPE_CHECKING:
    Floats = NDArray[np.float64]

BOUNDS: dict[Space, tuple[float, float]] = {"logit": (0.0, 1.0), "log1p": (-1.0, np.inf), "identity": (-np.inf, np.inf)}


@dataclass(frozen=True, slots=True)
class Widths:
    """Least and largest width of the outermost interval, in original units; for bounded targets only."""

    least: float = 0.02
    most: float = 0.6

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.most <= 1:
            raise ValueError("0 <= least <= most <= 1")


def original(z: Floats, space: Space) -> Floats:
    """A finite path of the model space in original units, within the bounds; UpstreamError where that is not finite.

    Clipping is the function's own: expit ends in [0, 1] whatever it gets, expm1 at -1."""
    if space == "logit":
        return back(z, space)
    with np.errstate(over="ignore"):
        path = back(z, space)
    if not np.isfinite(path).all():
        raise invalid("not_finite")
    return path


def ordered(path: Floats) -> tuple[Floats, int]:
    """(H, Q) with each step's levels in order, and how many steps were not."""
    if path.shape[1] < 2:
        return path, 0
    crossed = path[:, 1:] < path[:, :-1]
    if not crossed.any():
        return path, 0
    return np.sort(path, axis=1), int(crossed.any(axis=1).sum())


@functools.lru_cache(maxsize=512)
def _shape(levels: tuple[float, ...]) -> tuple[int, float, tuple[float, ...]] | None:
    """Where 0.5 stands: (number of levels below it, share of the way from there to the next), and the levels' normal z, from 0 at
    the lowest to 1 at the highest. None where the levels are no interval around the median."""
    if len(levels) < 2 or not levels[0] < 0.5 < levels[-1]:
        return None
    below = sum(level < 0.5 for level in levels)
    left, right = normal(levels[below - 1]), normal(levels[below])
    low, high = normal(levels[0]), normal(levels[-1])
    return below, -left / (right - left), tuple((normal(level) - low) / (high - low) for level in levels)


def widened(path: Floats, levels: tuple[float, ...], widths: Widths) -> tuple[Floats, int, int]:
    """(H, Q) whose outermost interval is as wide as `widths` allow, and how many steps were widened and narrowed.

    The median stays where it is, and inside; its distances to the other levels are stretched by one factor, so that the skew is
    kept; an interval that would leave [0, 1] is shifted back, the levels between following in proportion. An interval without any
    width takes the normal's shape. Levels that are no interval around the median are left alone. In: ordered, in [0, 1].
    """
    shape = _shape(levels)
    if shape is None:
        return path, 0, 0
    width = path[:, -1] - path[:, 0]  # (H,)
    if width.min() >= widths.least and width.max() <= widths.most:
        return path, 0, 0
    narrow, wide = width < widths.least, width > widths.most
    count_narrow, count_wide = int(narrow.sum()), int(wide.sum())
    below, share, z = shape
    path = path.copy()
    rows = narrow | wide
    some = path[rows]  # (k, Q)
    width = width[rows]
    target = np.where(width < widths.least, widths.least, widths.most)  # (k,)
    middle = some[:, below - 1] * (1 - share) + some[:, below] * share
    flat = width <= 1e-9 * widths.least  # rounding noise has no shape worth keeping
    some = np.where(flat[:, None], middle[:, None] + (np.asarray(z) - z_middle(z, below, share)) * widths.least, some)
    width = np.where(flat, widths.least, width)
    low = middle - (middle - some[:, 0]) * target / width
    low = np.clip(low, 0.0, 1.0 - target)
    high = low + target
    # what lies between goes with its end: below the median towards `low`, above it towards `high`
    down, up = middle - some[:, 0], some[:, -1] - middle
    new_down, new_up = middle - low, high - middle
    offset = some - middle[:, None]
    lower = np.minimum(offset, 0.0) / np.where(down > 0, down, 1.0)[:, None] * new_down[:, None]  # a share in [-1, 0] of the way
    upper = np.maximum(offset, 0.0) / np.where(up > 0, up, 1.0)[:, None] * new_up[:, None]
    moved = middle[:, None] + lower + upper
    moved[:, 0], moved[:, -1] = low, high
    path[rows] = np.sort(np.clip(moved, 0.0, 1.0), axis=1)
    return path, count_narrow, count_wide


def z_middle(z: Sequence[float], below: int, share: float) -> float:
    """Where the median stands on the scale of `_shape`'s z."""
    return z[below - 1] * (1 - share) + z[below] * share


def sealed(path: Floats) -> Floats:
    """The same array, read-only: it may be shared by many answers."""
    path.setflags(write=False)
    return path
