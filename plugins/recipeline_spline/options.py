"""What the preprocessor may be told: mistakes in its arguments are found before any data is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

from recipeline.errors import DataError, Problem, did_you_mean
from recipeline.timeseries import fills, smoothing, transforms
from recipeline.timeseries.frames import Clock, Duplicates
from recipeline.timeseries.grid import Aggregate
from recipeline_spline import calendars
from recipeline_spline.observations import NonMonotonic

Short = Literal["error", "drop_series", "pad"]
Edge = Literal["carry", "damped_season"]
Outliers = Literal["none", "hampel"]
Masks = Literal["auto", "always", "never"]
Scaling = Literal["standard", "robust", "minmax", "log1p", "asinh", "none"]


def space_of(scale: Scaling) -> transforms.Space:
    return scale if scale in ("log1p", "asinh") else "identity"


def duration(text: str) -> float:
    """Seconds of 12h, 30min, 2D.

    Raises DataError for what is no length of time."""
    import pandas as pd

    try:
        seconds = float(pd.Timedelta(text).total_seconds())
    except ValueError as error:
        raise DataError(f"{text!r} is no length of time", hint="write 12h, 30min or 2D", slug="bad-value") from error
    if not seconds > 0:
        raise DataError(f"{text!r} is no length of time", hint="write 12h, 30min or 2D", slug="bad-value")
    return seconds


def problems(params: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with arguments, all at once; keys relative to them."""
    found: list[Problem] = []

    def wrong(name: str, what: str, hint: str) -> None:
        found.append(Problem("bad-value", (name,), f"{params[name]!r} {what}", hint, at="value"))

    for name, (low, high, words) in RANGES.items():
        value = params.get(name)
        if isinstance(value, int | float) and not (low < value <= high):
            wrong(name, f"is not {words}", f"write a number {words}")
    for name, choices in CHOICES.items():
        value = params.get(name, ())
        for one in [value] if isinstance(value, str) else value or ():
            if one not in choices and (name, value) != ("calendar", "auto"):
                wrong(name, "is not known", did_you_mean(str(one), choices))
    for name, (meant, what, hint) in MEANINGS.items():
        value = params.get(name)
        if value is not None:
            try:
                meant(value)
            except (DataError, ValueError, OSError, KeyError):  # an unknown zone is a KeyError, one with odd letters a ValueError
                wrong(name, what, hint)
    return found


def _longest(value: float | str) -> None:
    if isinstance(value, str):
        duration(value)
    elif not value > 0:
        raise ValueError(value)


MEANINGS: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "max_fill": (_longest, "is no length of time", "write grid steps, or a time: 12h"),
    "freq": (Clock, "is no frequency", "such are 5min, h, D, W-SAT, ME, or a number where stamps are numbers"),
    "time_zone": (ZoneInfo, "is no time zone", "write one like Europe/Berlin"),
}
RANGES: dict[str, tuple[float, float, str]] = {
    "edge_damping": (0, 1, "above 0 and at most 1"),
    "smooth_strength": (0, 1e4, "above 0 and at most 10000"),
    "outlier_window": (4, 1e6, "of 5 or more"),
    "outlier_threshold": (0, 1e6, "above 0"),
    "min_coverage": (-1e-300, 1, "from 0 to 1"),
    "max_missing": (-1e-300, 1, "from 0 to 1"),
}
CHOICES: dict[str, tuple[str, ...]] = {
    "fill": fills.KINDS, "smooth": smoothing.KINDS, "scale": get_args(Scaling), "level": transforms.LEVELS, "outliers": get_args(Outliers),
    "edge": get_args(Edge), "duplicates": get_args(Duplicates), "non_monotonic": get_args(NonMonotonic), "short": get_args(Short),
    "agg": get_args(Aggregate), "masks": get_args(Masks), "calendar": calendars.CYCLES,
}  # fmt: skip
