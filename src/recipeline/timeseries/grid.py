"""A regular grid from irregular time stamps, with a mask of what was observed and the age of the last observation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recipeline.errors import DataError

Floats = NDArray[np.float64]
Aggregate = Literal["mean", "sum", "last"]


@dataclass(frozen=True)
class Grid:
    """One series on equally spaced (or calendar) stamps.

    stamps  (T,) in the type of the input (datetime64 or numbers)
    values  (T, C) NaN where nothing was observed
    mask    (T, C) True where something was
    age     (T, C) seconds (or the unit of numeric stamps) since the last observation; inf before the first
    """

    stamps: NDArray[Any]
    values: Floats
    mask: NDArray[np.bool_]
    age: Floats

    @property
    def seconds(self) -> Floats:
        """(T,) stamps as floats: seconds since the first, or numbers as they are."""
        return as_seconds(self.stamps, self.stamps[0])


def as_seconds(stamps: NDArray[Any], zero: Any = None) -> Floats:
    """(T,) datetime64 as float seconds since `zero` (the first by default); numbers as float64.

    Differences are taken in whole nanoseconds, so that a day in 2024 keeps them."""
    if stamps.dtype.kind != "M":
        return np.asarray(stamps, dtype=np.float64)
    whole = stamps.astype("datetime64[ns]")
    base = whole[0] if zero is None else np.datetime64(zero, "ns")
    seconds: Floats = (whole - base).astype(np.int64) / 1e9
    return seconds


def infer_step(stamps: ArrayLike) -> float:
    """The step of a series in seconds (or its own unit): the median difference, when at least 90 % of the differences
    are within 1 % of a multiple of it; otherwise DataError, which asks for `freq`."""
    return step_of(np.diff(as_seconds(_ordered(stamps))))


def step_of(differences: Floats, unit: str = "s") -> float:
    """As `infer_step`, of the differences (n,) themselves, which may come from many series."""
    positive = differences[differences > 0]
    if not len(positive):
        raise DataError("fewer than two different time stamps", hint="give `freq`", slug="no-step")
    step = float(np.median(positive))
    multiples = np.maximum(1.0, np.round(positive / step))
    regular = np.mean(np.abs(positive - multiples * step) <= 0.01 * step)
    if regular < 0.9:
        raise DataError(
            f"the time stamps have no common step: {regular:.0%} of the differences are multiples of the median {step:g} {unit}".rstrip(),
            hint="give `freq`; months and working days are ME, MS and B, and stamps that come at any time need a step: h, D …",
            slug="no-step",
        )
    return step


def calendar(first: Any, last: Any, freq: str) -> NDArray[Any]:
    """(T,) datetime64[ns] stamps of a calendar frequency (`W-SAT`, `ME`, `h`), from the one at or before `first` to the one
    at or after `last`."""
    import pandas as pd

    try:
        offset = pd.tseries.frequencies.to_offset(freq)
    except ValueError as error:
        raise DataError(f"{freq!r} is no frequency", hint="such are 5min, h, D, W-SAT, ME", slug="bad-freq") from error
    low = pd.Timestamp(first)
    # pandas 3 no longer counts a day among the ticks
    anchored = low if isinstance(offset, pd.tseries.offsets.Tick | pd.tseries.offsets.Day) else offset.rollback(low.normalize())
    final = anchored
    while final < pd.Timestamp(last):  # one step at most beyond what date_range reaches
        final = max(final + offset, pd.date_range(final, pd.Timestamp(last), freq=offset)[-1])
    return pd.date_range(anchored, final, freq=offset).to_numpy(dtype="datetime64[ns]")


def regular(
    stamps: ArrayLike, values: ArrayLike, *, step: float | None = None, at: ArrayLike | None = None, aggregate: Aggregate = "mean"
) -> Grid:
    """Each observation goes to the nearest grid point, at most half a step away; `aggregate` where several meet.

    stamps  (n,) ascending, datetime64 or numbers       values  (n,) or (n, C), NaN where missing
    step    seconds between grid points, from the first stamp on (None: `infer_step`)
    at      (T,) the grid points themselves, ascending (see `calendar`), instead of a step

    A grid point may hold an observation up to half a step younger than its stamp: an origin at a grid point
    means all that belongs to it, and nothing after.
    """
    when = _ordered(stamps)
    matrix = np.asarray(values, dtype=np.float64)
    matrix = matrix if matrix.ndim == 2 else matrix[:, None]
    if len(matrix) != len(when):
        raise DataError(f"{len(when)} time stamps but {len(matrix)} values", slug="bad-shape")
    if np.isinf(matrix).any():
        row, column = np.argwhere(np.isinf(matrix))[0]
        raise DataError(f"the value is infinite in row {row}, column {column}", slug="infinite")
    times = as_seconds(when)
    if at is None:
        width = infer_step(when) if step is None else float(step)
        if not width > 0:
            raise DataError(f"a step is positive; got {width:g}", slug="bad-freq")
        count = int(np.floor((times[-1] - times[0]) / width + 0.5)) + 1
        since = width * np.arange(count)
        points = times[0] + since
        grid = when[0] + (np.round(since * 1e9).astype("timedelta64[ns]") if when.dtype.kind == "M" else since)
    else:
        grid = _ordered(at)
        points = as_seconds(grid, when[0])
    halves = np.diff(points) / 2 if len(points) > 1 else np.array([np.inf])
    edges = np.concatenate([[points[0] - halves[0]], points[:-1] + halves[: len(points) - 1], [points[-1] + halves[-1]]])
    place = np.searchsorted(edges, times, side="right") - 1
    inside = (place >= 0) & (place < len(points))
    result = aggregated(place[inside], matrix[inside], len(points), aggregate)
    mask = ~np.isnan(result)
    last = np.maximum.accumulate(np.where(mask, np.arange(len(points))[:, None], -1), axis=0)
    age = np.where(last >= 0, points[:, None] - points[np.maximum(last, 0)], np.inf)
    return Grid(grid, result, mask, age)


def aggregated(place: NDArray[np.int64], matrix: Floats, rows: int, how: Aggregate) -> Floats:
    """(rows, C): what of (n, C), in the order of time, belongs to each grid point `place` (n,); NaN where nothing was observed."""
    result = np.full((rows, matrix.shape[1]), np.nan)
    for column in range(matrix.shape[1]):
        known = ~np.isnan(matrix[:, column])
        at, x = place[known], matrix[known, column]
        if how == "last":
            result[at, column] = x  # ascending in time: the last assignment stays
            continue
        count = np.bincount(at, minlength=rows)
        total = np.bincount(at, weights=x, minlength=rows)
        some = count > 0
        result[some, column] = total[some] / count[some] if how == "mean" else total[some]
    return result


def _ordered(stamps: ArrayLike) -> NDArray[Any]:
    array = np.asarray(stamps)
    if array.ndim != 1 or not len(array):
        raise DataError("time stamps are one column with at least one row", slug="bad-stamps")
    if array.dtype.kind not in "Miuf":
        raise DataError(f"time stamps are dates or numbers; got {array.dtype}", slug="bad-stamps")
    missing = np.isnat(array) if array.dtype.kind == "M" else ~np.isfinite(array)
    if missing.any():
        raise DataError(f"the time stamp in row {int(np.argmax(missing))} is missing", slug="bad-stamps")
    back = array[1:] < array[:-1]
    if back.any():
        row = int(np.argmax(back)) + 1
        raise DataError(f"time goes backwards in row {row}: {array[row]} after {array[row - 1]}", hint="sort them", slug="not-monotonic")
    return array
