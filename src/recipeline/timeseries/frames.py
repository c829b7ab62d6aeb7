"""Long frames of series: what their columns are called, where their time grid stands, and how forecasts are written down.

A long frame has one row per series and time stamp, in the columns `series_id`, `timestamp`, `target`, and covariates under
names of their own. The grid of a series begins with its first stamp and goes on in equal steps (`5min`, `h`, `D`, a number),
or stands on the dates of a calendar (`W-SAT`, `ME`, `B`); an observation belongs to the nearest grid point.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recipeline.errors import DataError
from recipeline.timeseries.grid import Aggregate, aggregated, calendar, step_of

if TYPE_CHECKING:
    import pandas as pd

    from recipeline.schema import InputSchema

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Duplicates = Literal["error", "last", "mean"]

SERIES, TIME, TARGET = "series_id", "timestamp", "target"
STEP, PREDICTION = "step", "prediction"
CALENDAR_SEASONS = {"W": 52, "B": 5, "C": 5, "M": 12, "BM": 12, "CBM": 12, "Q": 4, "BQ": 4}
SPARSE = 100
"""A grid with more points per row than this is a stray time stamp, not a series."""


@dataclass(frozen=True)
class Layout:
    """What the columns of a long frame are, beside the three that every one has.

    freq    a pandas frequency, or a number where stamps are numbers     season  grid points after which things repeat
    past    covariates known up to the origin
    future  covariates known beyond it: at prediction the last `horizon` grid points of every series are the rows to forecast
    static  covariates that do not change within a series
    duplicates  what becomes of different rows with one stamp: error, the last one, their mean
    aggregate   what becomes of rows with different stamps that belong to one grid point
    """

    freq: str | float
    season: int = 1
    past: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    duplicates: Duplicates = "error"
    aggregate: Aggregate = "mean"

    @property
    def covariates(self) -> tuple[str, ...]:
        return (*self.past, *self.future, *self.static)

    @property
    def clock(self) -> Clock:
        return _clock(self.freq)

    def to_json(self) -> dict[str, Any]:
        roles = {role: list(getattr(self, role)) for role in ("past", "future", "static")}
        return {"freq": self.freq, "season": self.season, **roles, "duplicates": self.duplicates, "aggregate": self.aggregate}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Layout:
        past, future, static = (tuple(state[role]) for role in ("past", "future", "static"))
        merging = {name: state[name] for name in ("duplicates", "aggregate") if name in state}
        return cls(state["freq"], state["season"], past, future, static, **merging)

    @classmethod
    def of(cls, told: InputSchema | pd.DataFrame) -> Layout:
        """As the input contract of a forecasting task says it; of a bare long frame by its stamps, all else being past covariates."""
        import pandas as pd

        if not isinstance(told, pd.DataFrame):
            return cls.from_json(told.extras["layout"])
        groups = np.zeros(len(told)) if SERIES not in told.columns else told[SERIES].to_numpy()
        freq = infer_freq(groups, stamps_of(told[TIME]))
        return cls(freq, season_of(freq), tuple(str(name) for name in told.columns if name not in (SERIES, TIME, TARGET)))


# --- the grid --------------------------------------------------------------------------------------------------------


def stamps_of(values: pd.Series[Any]) -> NDArray[Any]:
    """(n,) datetime64[ns] (UTC where the column has a zone) or float64."""
    import pandas as pd

    if isinstance(values.dtype, pd.DatetimeTZDtype):
        utc: NDArray[Any] = values.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(dtype="datetime64[ns]")
        return utc
    array = values.to_numpy()
    return array.astype("datetime64[ns]") if array.dtype.kind == "M" else array.astype(np.float64)


def text_of(stamp: Any) -> str:
    """A stamp in words: 2001-12-29, 2024-05-01T13:00:00, 17."""
    import pandas as pd

    if isinstance(stamp, np.datetime64 | pd.Timestamp):
        return pd.Timestamp(stamp).isoformat().removesuffix("T00:00:00")
    return f"{float(stamp):g}"


def infer_freq(series: ArrayLike, stamps: NDArray[Any]) -> str | float:
    """The common step of all series, by the rule of `grid.infer_step` on the differences within each; else DataError."""
    import pandas as pd

    codes = coded(series)[0]
    order = np.lexsort((stamps, codes))
    times, codes = stamps[order], codes[order]
    seconds = (times - times[0]).astype("timedelta64[ns]").astype(np.int64) / 1e9 if times.dtype.kind == "M" else times
    step = step_of(np.diff(seconds)[np.diff(codes) == 0], "s" if times.dtype.kind == "M" else "")
    if times.dtype.kind != "M":
        return float(step)
    return str(pd.tseries.frequencies.to_offset(pd.Timedelta(round(step * 1e9), "ns")).freqstr)


def season_of(freq: str | float) -> int:
    """Grid points after which a series of that frequency usually repeats: a day of hours, a week of days, a year of months."""
    import pandas as pd

    if not isinstance(freq, str):
        return 1
    clock = Clock(freq)
    if clock.step is not None:
        seconds = clock.step / 1e9
        cycle = next((c for below, c in ((60, 3600), (86_400, 86_400), (604_800, 604_800)) if seconds < below), None)
        if cycle is None:
            return max(1, round(365.25 * 86_400 / seconds))
        return max(1, round(cycle / seconds))
    name = str(pd.tseries.frequencies.to_offset(freq).rule_code).partition("-")[0]
    return CALENDAR_SEASONS.get(name.removesuffix("E").removesuffix("S") if len(name) > 1 else name, 1)


class Clock:
    """Counts in grid steps.

    step  nanoseconds (or the unit of numeric stamps) of a fixed step; None where the grid stands on a calendar
    """

    def __init__(self, freq: str | float) -> None:
        import pandas as pd

        self.freq = freq
        self.step: float | int | None = None
        if not isinstance(freq, str):
            self.step = float(freq)
            if not self.step > 0:
                raise DataError(f"a step is positive; got {freq!r}", slug="bad-freq")
            return
        try:
            offset = pd.tseries.frequencies.to_offset(freq)
        except ValueError as error:
            raise DataError(f"{freq!r} is no frequency", hint="such are 5min, h, D, W-SAT, ME", slug="bad-freq") from error
        if isinstance(offset, pd.tseries.offsets.Tick | pd.tseries.offsets.Day):
            self.step = int(pd.Timedelta(offset.n, "D").value) if isinstance(offset, pd.tseries.offsets.Day) else int(offset.nanos)
        if offset.n < 1:
            raise DataError(f"{freq!r} does not go forward", hint="such are 5min, h, D, W-SAT, ME", slug="bad-freq")

    def steps(self, since: Any, stamps: NDArray[Any]) -> Integers:
        """(n,) grid points from `since`, a stamp or one per stamp, to each; the nearest, and the later one halfway."""
        if self.step is None:
            both = self._numbered(np.concatenate([np.atleast_1d(since), stamps]))
            many = np.ndim(since) > 0
            apart: Integers = both[len(stamps) :] - both[: len(stamps)] if many else both[1:] - both[0]
            return apart
        if stamps.dtype.kind == "M":
            apart_in_years = np.abs(stamps.astype(np.float64) - np.asarray(since).astype(np.float64)) / 3.2e16
            if len(stamps) and apart_in_years.max() > 280:  # nanoseconds would wrap around
                raise DataError("time stamps are more than 280 years apart", hint="look for a stray one", slug="sparse")
            whole, rest = np.divmod((stamps - since).astype("timedelta64[ns]").astype(np.int64), int(self.step))
            rounded: Integers = whole + (2 * rest >= int(self.step))
            return rounded
        steps: Integers = np.floor((stamps - since) / self.step + 0.5).astype(np.int64)
        return steps

    def ahead(self, since: NDArray[Any], steps: ArrayLike) -> NDArray[Any]:
        """(S, H) stamps of the grid points so many `steps` (H,) or (S, H), 0 or more, after each `since` (S,), in its type."""
        count = np.asarray(steps, dtype=np.int64)
        if self.step is None:
            grid = self._grid(since, int(count.max(initial=0)))
            stamps: NDArray[Any] = grid[self._nearest(grid, since)[:, None] + count]
        elif since.dtype.kind == "M":
            stamps = since[:, None] + (count * int(self.step)).astype("timedelta64[ns]")
        else:
            stamps = since[:, None] + count * self.step
        return stamps

    def _numbered(self, stamps: NDArray[Any]) -> Integers:
        return self._nearest(self._grid(stamps, 0), stamps)

    def _grid(self, stamps: NDArray[Any], after: int) -> NDArray[Any]:
        """The dates of the calendar around some stamps, and so many after them."""
        return _dates(str(self.freq), stamps.min(), stamps.max(), after)

    @staticmethod
    def _nearest(grid: NDArray[Any], stamps: NDArray[Any]) -> Integers:
        right = np.clip(np.searchsorted(grid, stamps), 1, len(grid) - 1)
        left = right - 1
        return np.where(stamps - grid[left] < grid[right] - stamps, left, right).astype(np.int64)


@lru_cache(maxsize=64)  # one evaluation asks for the same dates again and again
def _dates(freq: str, first: Any, last: Any, after: int) -> NDArray[Any]:
    import pandas as pd

    offset = pd.tseries.frequencies.to_offset(freq)
    dates = calendar(pd.Timestamp(first) - offset, pd.Timestamp(last) + (after + 1) * offset, freq)
    dates.flags.writeable = False
    return dates


@lru_cache(maxsize=64)
def _clock(freq: str | float) -> Clock:
    return Clock(freq)


# --- many series on their grids ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """All series on their grids, one after the other.

    names    (S,) ascending            first    (S,) stamp of the first grid point of each
    lengths  (S,) grid points of each  values   (T, C) NaN where nothing was observed; the target, then the columns asked for
    """

    names: NDArray[Any]
    first: NDArray[Any]
    lengths: Integers
    values: Floats
    clock: Clock

    @property
    def starts(self) -> Integers:
        return np.cumsum(self.lengths) - self.lengths

    def of(self, number: int) -> Floats:
        """(length, C) of one series."""
        start = self.starts[number]
        return self.values[start : start + self.lengths[number]]


def panel(frame: pd.DataFrame, layout: Layout, columns: Sequence[str] = ()) -> Panel:
    """A long frame on the grids of its series; what becomes of rows that meet is said by the layout.

    Raises DataError for two different rows with one stamp where `layout.duplicates` is error, and for a stamp that is far away
    from all others.
    """
    order, names, codes, stamps = ordered(frame)
    values = np.column_stack([_numbers(frame[name], name) for name in (TARGET, *columns)])[order]
    if layout.duplicates == "error":
        refuse_duplicates(names, codes, stamps, values)
    kept, values = without_duplicates(codes, stamps, values, "last" if layout.duplicates == "error" else layout.duplicates)
    codes, stamps = codes[kept], stamps[kept]
    first, lengths, place = places(names, codes, stamps, layout.clock)
    grid = aggregated(place, values, int(lengths.sum()), layout.aggregate)
    return Panel(names, first, lengths, grid, layout.clock)


def places(names: NDArray[Any], codes: Integers, stamps: NDArray[Any], clock: Clock) -> tuple[NDArray[Any], Integers, Integers]:
    """The grids of series, one after the other: first stamps (S,), lengths (S,), and the row of each observation (n,).

    codes, stamps  (n,) in the order of `ordered`

    Raises DataError for a stamp that is far away from all others.
    """
    begins = np.flatnonzero(np.diff(codes, prepend=-1))
    first = stamps[begins]
    at = clock.steps(first[codes], stamps) if len(stamps) else np.zeros(0, np.int64)
    ends = np.append(begins[1:], len(codes)) - 1
    lengths = at[ends] + 1 if len(begins) else np.zeros(0, np.int64)
    far = lengths > SPARSE * (ends - begins + 1) + 10_000 if len(begins) else np.zeros(0, bool)
    if far.any():
        name, points, rows = names[far][0], int(lengths[far][0]), int((ends - begins + 1)[far][0])
        raise DataError(
            f"series {name!r}: {rows} rows are spread over {points} grid points of {clock.freq}",
            hint="look for a time stamp that is far away from the others, or give a larger freq",
            slug="sparse",
        )
    return first, lengths, (np.cumsum(lengths) - lengths)[codes] + at


def ordered(frame: pd.DataFrame) -> tuple[Integers, NDArray[Any], Integers, NDArray[Any]]:
    """How a long frame is put in order: positions by series and time, names (S,), and in that order codes and stamps (n,)."""
    stamps = stamps_of(frame[TIME])
    codes, names = coded(frame[SERIES])
    order = np.lexsort((stamps, codes))
    return order, names, codes[order], stamps[order]


def coded(series: ArrayLike | pd.Series[Any]) -> tuple[Integers, NDArray[Any]]:
    """The number (n,) of each row's series, and the names (S,) in ascending order."""
    import pandas as pd

    codes, names = pd.factorize(np.asarray(series), sort=True)
    return codes.astype(np.int64), np.asarray(names)


def refuse_duplicates(names: NDArray[Any], codes: Integers, stamps: NDArray[Any], values: Floats) -> None:
    """DataError for two rows of one series with one stamp that say different things; in the order of `ordered`."""
    same = (codes[1:] == codes[:-1]) & (stamps[1:] == stamps[:-1])
    if same.any():
        differ = same & ~((values[1:] == values[:-1]) | (np.isnan(values[1:]) & np.isnan(values[:-1]))).all(axis=1)
        if differ.any():
            row = int(np.argmax(differ))
            raise DataError(
                f"series {names[codes[row]]!r} has different rows for {text_of(stamps[row])} ({int(differ.sum())} such pairs)",
                hint="keep one row per series and time stamp",
                slug="duplicate-stamps",
            )


def without_duplicates(
    codes: Integers, stamps: NDArray[Any], values: Floats, how: Literal["last", "mean"]
) -> tuple[NDArray[np.intp], Floats]:
    """Each series and stamp once: positions (m,) of the rows that stay, and their values (m, C); in the order of `ordered`.

    Rows that say the same are one. `last` keeps the last row as it is, `mean` takes the mean of what is known in each column.
    """
    same = (codes[1:] == codes[:-1]) & (stamps[1:] == stamps[:-1])
    final = np.flatnonzero(np.append(~same, True))
    if how == "last" or not same.any():
        return final, values[final]
    import pandas as pd

    group = np.concatenate([[0], np.cumsum(~same)])
    new = ~pd.DataFrame(np.column_stack([group, values])).duplicated().to_numpy()
    means: Floats = aggregated(group[new], values[new], len(final), "mean")
    return final, means


def _numbers(values: pd.Series[Any], name: str) -> Floats:
    try:
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise DataError(f"column {name!r}: numbers expected, got {values.dtype}", slug="schema") from error


# --- forecasts ---------------------------------------------------------------------------------------------------------


def quantile_column(level: float) -> str:
    """`q0.1`"""
    return f"q{level:g}"


def levels_of(columns: Iterable[Any]) -> tuple[float, ...]:
    """The quantile levels among column names, ascending."""
    found = []
    for name in columns:
        if isinstance(name, str) and name.startswith("q0."):
            try:
                found.append(float(name[1:]))
            except ValueError:
                continue
    return tuple(sorted(found))


def forecasts(
    names: ArrayLike,
    point: ArrayLike,
    quantiles: ArrayLike | None = None,
    levels: Sequence[float] = (),
    *,
    stamps: ArrayLike | None = None,
    flags: Mapping[str, ArrayLike] | None = None,
) -> pd.DataFrame:
    """The long form of forecasts: `series_id`, `step` 1 … H, `prediction`, `q…`, series after series.

    names (S,), point (S, H), quantiles (S, H, Q) in the order of `levels`
    stamps (S H,) add the column `timestamp`, and flags (S H,) their own at the end
    """
    import pandas as pd

    middle = np.asarray(point, dtype=np.float64)
    count, horizon = middle.shape
    columns: dict[str, Any] = {SERIES: np.repeat(np.asarray(names), horizon)}
    if stamps is not None:
        columns[TIME] = stamps
    columns |= {STEP: np.tile(np.arange(1, horizon + 1), count), PREDICTION: middle.ravel()}
    if quantiles is not None:
        fan = np.asarray(quantiles, dtype=np.float64)
        columns |= {quantile_column(level): fan[:, :, at].ravel() for at, level in enumerate(levels)}
    return pd.DataFrame({**columns, **(flags or {})})


def example(unobserved: Sequence[int] = ()) -> pd.DataFrame:
    """A long frame to try a part on: two series of 60 days with a week in them; the rows named have no target."""
    import pandas as pd

    day = np.arange(60)
    pieces = []
    for number, name in enumerate(("a", "b")):
        value = 10.0 * (number + 1) + np.sin(2 * np.pi * day / 7) + 0.3 * np.cos(day * (1.7 + number))
        pieces.append(pd.DataFrame({SERIES: name, TIME: pd.date_range("2024-01-01", periods=60), TARGET: value}))
    frame = pd.concat(pieces, ignore_index=True)
    frame.loc[list(unobserved), TARGET] = np.nan
    return frame
