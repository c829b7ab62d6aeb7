"""What is known beside the targets: past, future and static covariates, categories, the calendar, as channels of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recipeline.errors import DataError
from recipeline.timeseries.frames import text_of
from recipeline_spline import calendars
from recipeline_spline.gridded import Gridded, last_seen
from recipeline_spline.observations import is_given, is_text

if TYPE_CHECKING:
    import pandas as pd

    from recipeline.timeseries.frames import Layout
    from recipeline_spline.observations import Findings, Observations

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]

MOST_CATEGORIES = 64
"""Values that a covariate may have: each of one that changes in time becomes a channel."""


@dataclass(frozen=True)
class Columns:
    """What was learned of the columns at fitting.

    numbers     numeric covariates, past then future ones   texts       those that are categories   static_numbers, static_texts
    categories  values seen in training, by column          statistics  (median, mean, spread) of each number
    gapped      columns that had gaps in training
    """

    numbers: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    static_numbers: tuple[str, ...] = ()
    static_texts: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    statistics: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    gapped: tuple[str, ...] = ()

    @classmethod
    def of(cls, frame: pd.DataFrame, layout: Layout) -> Columns:
        """Which columns of a long frame are numbers, and which are categories."""
        texts = {name for name in layout.covariates if name in frame.columns and is_text(frame[name])}
        moving = (*layout.past, *layout.future)
        return cls(
            tuple(name for name in moving if name not in texts),
            tuple(name for name in moving if name in texts),
            tuple(name for name in layout.static if name not in texts),
            tuple(name for name in layout.static if name in texts),
        )

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Columns:
        numbers, texts, static_numbers, static_texts, gapped = (
            tuple(state[key]) for key in ("numbers", "texts", "static_numbers", "static_texts", "gapped")
        )
        categories, statistics = ({name: tuple(values) for name, values in state[key].items()} for key in ("categories", "statistics"))
        return cls(numbers, texts, static_numbers, static_texts, categories, statistics, gapped)

    def learned(self, grid: Gridded, real: Integers, width: int, rows: Observations | None, holed: Sequence[str]) -> Columns:
        """With statistics, categories and `gapped` of training: rows `real` (n,) of the grid, and static values of `rows`.

        holed  targets that had gaps
        """
        statistics = {name: _statistics(grid.values[real, width + at]) for at, name in enumerate(self.numbers)}
        gapped = [name for at, name in enumerate(self.numbers) if np.isnan(grid.values[real, width + at]).any()]
        categories = {name: _categories(grid.texts[name][real], name, MOST_CATEGORIES) for name in self.texts}
        if rows is not None:
            numbers, texts = statics(rows, self)
            statistics |= {name: _statistics(numbers[:, at]) for at, name in enumerate(self.static_numbers)}
            categories |= {name: _categories(texts[name], name) for name in self.static_texts}
        return replace(self, statistics=statistics, categories=categories, gapped=(*holed, *gapped))


def numeric(grid: Gridded, columns: Columns, width: int) -> Floats:
    """(T, …) numeric covariates: gaps carry the value before, then the median of training; standardised."""
    names, values = columns.numbers, grid.values[:, width:]
    if not names:
        return values
    statistics = np.array([columns.statistics[name] for name in names])
    if np.isnan(values).any():
        values = np.take_along_axis(values, np.maximum(last_seen(~np.isnan(values), grid), 0), axis=0)
        values = np.where((last_seen(~np.isnan(grid.values[:, width:]), grid) < 0) | np.isnan(values), statistics[:, 0], values)
    scaled: Floats = (values - statistics[:, 1]) / statistics[:, 2]
    return scaled


def words(grid: Gridded, columns: Columns, ahead: Sequence[str], findings: Findings) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(T, …) one channel for each value of each category that changes in time, and of those known ahead; unknown is 0 in all."""
    past: list[NDArray[np.float32]] = [np.empty((len(grid.values), 0), np.float32)]
    future = past.copy()
    for name in columns.texts:
        known = columns.categories[name]
        codes = _coded(grid.texts[name], name, known, findings)
        carried = last_seen((codes >= 0)[:, None], grid)[:, 0]
        codes = np.where(carried >= 0, codes[np.maximum(carried, 0)], 0)
        channels = (codes[:, None] == np.arange(1, len(known) + 1)).astype(np.float32)
        past.append(channels)
        if name in ahead:
            future.append(channels)
    return np.concatenate(past, axis=1), np.concatenate(future, axis=1)


def circles(grid: Gridded, cycles: Sequence[calendars.Cycle], time_zone: str | None) -> NDArray[np.float32]:
    """(T, …) calendar channels; 0 in padded rows."""
    found = np.zeros((len(grid.values), 2 * len(cycles)), np.float32)
    if not cycles:
        return found
    for number, start in enumerate(grid.starts):
        rows = slice(start + grid.pads[number], start + grid.lengths[number])
        stamps = grid.clock.ahead(grid.first[number : number + 1], np.arange(rows.stop - rows.start))[0]
        found[rows] = calendars.channels(stamps, cycles, time_zone)
    return found


def require_future(grid: Gridded, columns: Columns, ahead: Sequence[str], width: int) -> None:
    """DataError, naming column and time, where a future covariate is not known at a step to forecast."""
    for name in ahead:
        texts = name in columns.texts
        known = is_given(grid.texts[name]) if texts else ~np.isnan(grid.values[:, width + columns.numbers.index(name)])
        for number in range(len(grid.lengths)):
            end = grid.part(number).stop
            lacking = np.flatnonzero(~known[end : end + grid.ahead])
            if len(lacking):
                since = end - grid.part(number).start
                stamp = text_of(grid.clock.ahead(grid.first[number : number + 1], [since + int(lacking[0])])[0, 0])
                raise DataError(
                    f"series {str(grid.names[number])!r}: {name!r} is not known at {stamp}, a step to forecast",
                    hint="a future covariate must be known at every step of the horizon",
                    slug="missing-future",
                )


def static_inputs(
    grid: Gridded, columns: Columns, rows: Observations | None, numbered: Sequence[str] | None, findings: Findings
) -> tuple[NDArray[np.float32], Integers]:
    """(S, J) numbers, scaled, and (S, G) codes of each series; with `numbered`, the series of training, its own code as well."""
    count = len(grid.names)
    static, codes = np.empty((count, 0), np.float32), np.empty((count, 0), np.int64)
    if rows is not None and (columns.static_numbers or columns.static_texts):
        numbers, texts = statics(rows, columns)
        if columns.static_numbers:
            statistics = np.array([columns.statistics[name] for name in columns.static_numbers])
            numbers = np.where(np.isnan(numbers), statistics[:, 0], numbers)
            static = ((numbers - statistics[:, 1]) / statistics[:, 2]).astype(np.float32)
        found = [np.maximum(_coded(texts[name], name, columns.categories[name], findings), 0) for name in columns.static_texts]
        codes = np.stack([*codes.T, *found], axis=1) if found else codes
    if numbered is not None:
        known = {name: number + 1 for number, name in enumerate(numbered)}
        own = np.array([known.get(str(name), 0) for name in grid.names], np.int64)
        codes = np.concatenate([codes, own[:, None]], axis=1)
    return static, codes


def statics(rows: Observations, columns: Columns) -> tuple[Floats, dict[str, NDArray[np.object_]]]:
    """Static covariates (S, J) and texts by column (S,): the first known value of each series.

    Raises DataError for one that changes within a series."""
    count, offset = len(rows.names), 1 + len(columns.numbers)
    numbers = np.full((count, len(columns.static_numbers)), np.nan)
    texts = {name: np.full(count, None, dtype=object) for name in columns.static_texts}
    for at, name in enumerate(columns.static_numbers):
        values = rows.numbers[:, offset + at]
        _once(rows, name, values, ~np.isnan(values), numbers[:, at])
    for name in columns.static_texts:
        _once(rows, name, rows.texts[name], is_given(rows.texts[name]), texts[name])
    return numbers, texts


def _once(rows: Observations, name: str, values: NDArray[Any], given: Bools, into: NDArray[Any]) -> None:
    at = np.flatnonzero(given)
    into[rows.codes[at][::-1]] = values[at][::-1]  # the first one stays
    differs = values[at] != into[rows.codes[at]]
    if differs.any():
        row = at[int(np.argmax(differs))]
        raise DataError(
            f"series {str(rows.names[rows.codes[row]])!r}: {name} is static, but {into[rows.codes[row]]} becomes {values[row]} at "
            f"{text_of(rows.stamps[row])}",
            hint="declare it as a past or future covariate",
            slug="not-static",
        )


def _statistics(values: Floats) -> tuple[float, float, float]:
    """Median, mean and standard deviation (1 for a constant) of what is known; 0, 0, 1 where nothing is."""
    known = values[~np.isnan(values)]
    if not len(known):
        return 0.0, 0.0, 1.0
    mean, spread = float(known.mean()), float(known.std())
    return float(np.median(known)), mean, spread if spread > 1e-12 * abs(mean) else 1.0


def _categories(values: NDArray[np.object_], name: str, most: int | None = None) -> tuple[str, ...]:
    found = tuple(sorted({value for value in values if value is not None}))
    if most is not None and len(found) > most:
        raise DataError(
            f"column {name!r} has {len(found)} different texts; {most} are the most that a covariate may have",
            hint="group the rare ones, or leave the column out",
            slug="too-many-categories",
        )
    return found


def _coded(values: NDArray[np.object_], name: str, known: Sequence[str], findings: Findings) -> Integers:
    """(n,) 1 … for known values, 0 for unknown ones, -1 where missing; the unknown ones are noted."""
    numbers = {value: number + 1 for number, value in enumerate(known)}
    unknown = sorted({value for value in values if value is not None and value not in numbers})
    if unknown:
        findings.unknown.setdefault(name, []).extend(unknown)
    return np.array([-1 if value is None else numbers.get(value, 0) for value in values], np.int64)
