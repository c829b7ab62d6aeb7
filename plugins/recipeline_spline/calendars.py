"""Where a time stamp stands in its day, week and year, as points on circles: known for every future step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from recipeline.errors import DataError
from recipeline.timeseries.frames import Clock

Cycle = Literal["minute", "hour", "weekday", "monthday", "yearday"]
CYCLES: tuple[Cycle, ...] = get_args(Cycle)
DAY = 86_400 * 10**9


def useful(clock: Clock) -> tuple[Cycle, ...]:
    """Day and week, where a step is shorter than these; the year for steps of a day and longer."""
    step = clock.step
    if not isinstance(clock.freq, str):
        return ()
    if step is None or step >= 7 * DAY:
        return ("yearday",)
    if step >= DAY:
        return ("weekday", "yearday")
    return ("hour", "weekday")


def names_of(cycles: Sequence[Cycle]) -> tuple[str, ...]:
    """Two channels for each: `hour:sin`, `hour:cos`."""
    return tuple(f"{cycle}:{half}" for cycle in cycles for half in ("sin", "cos"))


def channels(stamps: NDArray[Any], cycles: Sequence[Cycle], zone: str | None) -> NDArray[np.float32]:
    """(T, 2 · cycles): sine and cosine of the share of each cycle that has passed at datetime64[ns] stamps (T,).

    zone  where days begin, for stamps in UTC: an hour of Berlin is one in summer and in winter. None takes stamps as they are
    """
    if not cycles:
        return np.empty((len(stamps), 0), np.float32)
    if stamps.dtype.kind != "M":
        raise DataError("time stamps are numbers, and numbers have no calendar", hint="leave calendar out", slug="bad-stamps")
    local = stamps.astype("datetime64[ns]")
    if zone is not None:
        import pandas as pd

        local = pd.DatetimeIndex(local).tz_localize("UTC").tz_convert(zone).tz_localize(None).to_numpy()
    columns = []
    for cycle in cycles:
        angle = 2 * np.pi * _passed(local, cycle)
        columns += [np.sin(angle), np.cos(angle)]
    return np.stack(columns, axis=1).astype(np.float32)


def _passed(stamps: NDArray[Any], cycle: Cycle) -> NDArray[np.float64]:
    """The share of a cycle that has passed."""
    if cycle in ("minute", "hour", "weekday"):
        length = {"minute": DAY // 24, "hour": DAY, "weekday": 7 * DAY}[cycle]
        since = stamps.astype(np.int64) + (3 * DAY if cycle == "weekday" else 0)  # the epoch was a Thursday
        short: NDArray[np.float64] = (since % length) / length
        return short
    unit = "M" if cycle == "monthday" else "Y"
    begin = stamps.astype(f"datetime64[{unit}]")
    first, end = begin.astype("datetime64[ns]"), (begin + 1).astype("datetime64[ns]")
    share: NDArray[np.float64] = (stamps - first).astype(np.int64) / (end - first).astype(np.int64)
    return share
