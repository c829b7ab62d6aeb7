"""Bootstrap intervals: how far a figure would move on other rows of the same kind.

What is drawn with replacement is the unit that was sampled: a row, or a whole group where rows of a group belong together
(Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 8; Field and Welsh 2007 for groups). The ends are
bias-corrected and accelerated (BCa: Efron 1987, Better bootstrap confidence intervals, JASA 82). An interval tells of the
rows that a model is judged on, not of another training.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from recipeline.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.intp]
    Floats = NDArray[np.float64]
    Statistic = Callable[[Rows], float]

log = logging.getLogger("recipeline")

UNDEFINED_MOST = 0.05
"""Share of resamples on which a figure may be undefined (a class that was not drawn) and still get an interval."""
BLOCKS_MOST = 200
"""Units are left out one by one for the acceleration, or in so many blocks; its scale does not depend on their size."""
NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """From low to high, or neither and a note that says why."""

    low: float
    high: float
    note: str = ""


def bootstrap(
    statistics: Mapping[str, Statistic],
    n: int,
    *,
    groups: NDArray[np.object_] | None = None,
    level: float,
    resamples: int,
    seed: int,
) -> dict[str, Interval]:
    """An interval of each statistic of n rows.

    statistics  by name; each takes positions of rows, with repetitions, and may raise DataError where it is undefined
    groups      (n,) labels; whole groups are drawn where they are given
    level       share of such intervals that hold the true value, as 0.95
    """
    random = np.random.default_rng(seed)
    units = _units(n, groups)
    count = len(units)
    if count < 2:
        return dict.fromkeys(statistics, _without("there is one unit only to draw from"))
    drawn = np.empty((resamples, len(statistics)))
    for number in range(resamples):
        drawn[number] = _all(statistics, _rows(units, random.integers(0, count, count)))
    blocks = np.array_split(random.permutation(count), min(count, BLOCKS_MOST))
    left_out = np.array([_all(statistics, _rows(units, np.setdiff1d(np.arange(count), block))) for block in blocks])
    whole = _all(statistics, np.arange(n))
    return {name: _interval(whole[at], drawn[:, at], left_out[:, at], level) for at, name in enumerate(statistics)}


def _units(n: int, groups: NDArray[np.object_] | None) -> Rows | Sequence[Rows]:
    """Rows, or the rows of each group."""
    if groups is None:
        return np.arange(n)
    codes = np.unique(groups.astype(str), return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)


def _rows(units: Rows | Sequence[Rows], chosen: Rows) -> Rows:
    if isinstance(units, np.ndarray):
        return units[chosen]
    return np.concatenate([units[at] for at in chosen])


def _all(statistics: Mapping[str, Statistic], rows: Rows) -> Floats:
    """Each statistic of the rows; NaN where it is undefined on them."""
    found = np.full(len(statistics), np.nan)
    for at, statistic in enumerate(statistics.values()):
        try:
            found[at] = statistic(rows)
        except DataError:
            continue  # counted by `_interval`
    return found


def _interval(value: float, drawn: Floats, left_out: Floats, level: float) -> Interval:
    defined = drawn[np.isfinite(drawn)]
    missing = len(drawn) - len(defined)
    if missing > UNDEFINED_MOST * len(drawn):
        return _without(f"undefined on {missing} of {len(drawn)} resamples")
    if np.ptp(defined) <= 1e-12 * max(1.0, abs(value)):
        return _without("every resample gives the same: these rows cannot tell how sure it is")
    below = (float((defined < value).sum()) + 0.5 * float((defined == value).sum())) / len(defined)
    if not 0 < below < 1:
        return _without("every resample lies on one side of the figure")
    bias, acceleration = NORMAL.inv_cdf(below), _acceleration(left_out[np.isfinite(left_out)])
    tail = (1 - level) / 2
    ends = []
    for share in (tail, 1 - tail):
        z = bias + NORMAL.inv_cdf(share)
        ends.append(NORMAL.cdf(bias + z / (1 - acceleration * z)))
    low, high = np.quantile(defined, ends)
    return Interval(float(low), float(high))


def _acceleration(left_out: Floats) -> float:
    """A sixth of the skewness of the jackknife values (Efron 1987, equation 6.6)."""
    away = left_out.mean() - left_out if len(left_out) else left_out
    spread = float((away**2).sum())
    return 0.0 if spread == 0 else float((away**3).sum() / (6 * spread**1.5))


def _without(note: str) -> Interval:
    return Interval(float("nan"), float("nan"), note)


__all__ = ["Interval", "bootstrap"]
