"""The series of a long frame as questions see them: on equal steps, with their covariates and what the market was then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from recipeline.errors import DataError
from recipeline.timeseries.frames import SERIES, TIME, Layout, Panel, panel, stamps_of
from recipeline_tsfm.calibration import SEGMENTS
from recipeline_tsfm.frequencies import DAY

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


def fixed(freq: str | float) -> str:
    """The step of a grid as the server is told it: `5min`, `1h`, `1D`.

    Raises DataError for calendars and for numbers: the server needs steps of one length, and times.
    """
    step = None if not isinstance(freq, str) else Layout(freq).clock.step
    if step is None or step % 1_000_000_000:
        what = f"a step of {freq!r} cannot be forecast by a server of models: it needs equal steps of whole seconds"
        raise DataError(what, hint="such are 5min, h, D", slug="bad-freq")
    seconds = int(step) // 1_000_000_000
    for length, unit in ((DAY, "D"), (3600, "h"), (60, "min")):
        if seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


@dataclass(frozen=True)
class Histories:
    """The series of a long frame on their grids, with the segments of the markets.

    columns   covariates that are sent: numbers, and no segment names       offsets (S,) first grid point of each series
    """

    layout: Layout
    line: Panel
    columns: tuple[str, ...]
    freq: str
    offsets: NDArray[np.int64]
    segments: tuple[Mapping[str, tuple[NDArray[Any], NDArray[Any]]], ...]

    @classmethod
    def of(cls, X: pd.DataFrame, layout: Layout) -> Histories:
        import pandas as pd

        freq = fixed(layout.freq)
        if X[TIME].dtype.kind in "iuf":
            raise DataError("series on numbers instead of times cannot be sent to a server of models", slug="bad-stamps")
        numeric = [name for name in (*layout.past, *layout.future) if name not in SEGMENTS]
        texts = [name for name in numeric if not pd.api.types.is_numeric_dtype(X[name].dtype) and X[name].notna().any()]
        if texts:
            hint = f"encode it by numbers in the source, leave it out, or call it one of {', '.join(SEGMENTS)}"
            raise DataError(f"covariate {texts[0]!r} holds text, numbers expected", hint=hint, slug="bad-covariate")
        line = panel(X, layout, numeric)
        offsets = line.clock.steps(line.first.min(), line.first)
        named = [name for name in SEGMENTS if name in layout.covariates]
        return cls(layout, line, tuple(numeric), freq, offsets, cls._segments(X, line, named))

    @staticmethod
    def _segments(X: pd.DataFrame, line: Panel, named: Sequence[str]) -> tuple[Mapping[str, tuple[NDArray[Any], NDArray[Any]]], ...]:
        """For every series: name -> (stamps, values) of the rows that have one, in order."""
        if not named:
            return tuple({} for _ in line.names)
        stamps = stamps_of(X[TIME])
        of_series = X.groupby(SERIES, sort=False).indices
        found = []
        for series in line.names:
            rows = np.asarray(of_series[series])
            rows = rows[np.argsort(stamps[rows], kind="stable")]
            mine = {}
            for name in named:
                values = X[name].to_numpy(object)[rows]
                there = np.array([value is not None and value == value for value in values], dtype=bool)
                mine[name] = (stamps[rows][there], values[there])
            found.append(mine)
        return tuple(found)

    @property
    def end(self) -> int:
        """The last grid point of all series, on the grid that they share."""
        return int((self.offsets + self.line.lengths).max()) - 1

    def moment(self, stamp: Any) -> int:
        return int(self.line.clock.steps(self.line.first.min(), np.array([stamp]))[0])

    def number(self, series: int, at: int) -> int:
        return int(self.offsets[series]) + at

    def stamp(self, series: int, at: int) -> Any:
        return self.line.clock.ahead(self.line.first[series : series + 1], [at])[0, 0]

    def segment(self, series: int, at: int) -> dict[str, str]:
        """What the market was at that moment: the last value of each segment column up to it."""
        stamp, found = self.stamp(series, at), {}
        for name, (stamps, values) in self.segments[series].items():
            place = int(np.searchsorted(stamps, stamp, side="right")) - 1
            if place >= 0:
                found[name] = str(values[place])
        return found

    def group(self, series: int, names: Sequence[str]) -> tuple[str, ...]:
        held = self.segments[series]
        return tuple(str(held[name][1][-1]) if name in held and len(held[name][1]) else "" for name in names)

    def actual(self, series: int, at: int, horizon: int) -> Floats:
        """(H,) what came after a grid point, NaN where nothing was observed or the series ends."""
        came = np.full(horizon, np.nan)
        values = self.line.of(series)[at + 1 : at + 1 + horizon, 0]
        came[: len(values)] = values
        return came

    def known(self, series: int, at: int, lookback: int) -> bool:
        values = self.line.of(series)[max(0, at + 1 - lookback) : at + 1, 0]
        return bool((~np.isnan(values)).any())

    def usable(self, series: int, at: int, least: int, lookback: int, horizon: int) -> bool:
        """Whether an origin can calibrate: points enough before it, and something observed after it."""
        if at < 0 or at >= int(self.line.lengths[series]) - 1:
            return False
        values = self.line.of(series)[max(0, at + 1 - lookback) : at + 1, 0]
        return int((~np.isnan(values)).sum()) >= least and bool((~np.isnan(self.actual(series, at, horizon))).any())
