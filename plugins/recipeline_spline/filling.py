"""Targets without gaps, and smoothed ones, so that no origin sees what is after it: `timeseries.fills` and `.smoothing` on a panel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recipeline.timeseries import fills, smoothing
from recipeline.timeseries.grid import as_seconds
from recipeline_spline.gridded import Gridded
from recipeline_spline.options import duration
from recipeline_spline.prepared import Gaps

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Filling:
    """How gaps are closed.

    kind      of curve            max_fill  longest time between the ends of a gap: grid steps, or a text as 12h; None: any
    season    grid points after which an open gap repeats, damped by `damping`; 0: it carries the last value
    """

    kind: fills.Kind
    max_fill: float | str | None
    season: int
    damping: float

    def longest(self, step: float) -> float | None:
        """`max_fill` in the unit of `_times`."""
        if isinstance(self.max_fill, str):
            return duration(self.max_fill)
        return None if self.max_fill is None else self.max_fill * step


def filled(
    grid: Gridded, believed: Floats, centre: Floats | None, spread: Floats, how: Filling
) -> tuple[Floats, Gaps | None, Bools | None]:
    """(T, K) gaps as the last row sees them, what nearer origins see (scaled), and where an open gap is too long to carry."""
    missing = np.isnan(believed)
    parts = [grid.part(number) for number in range(len(grid.lengths))]
    holed = [number for number, part in enumerate(parts) if missing[part].any()]
    if not holed:
        return believed, None, None
    whole, blank = believed.copy(), np.zeros(believed.shape, bool)
    cells = np.full(believed.shape, -1, np.int32)
    knots = np.full(believed.shape, -1, np.int32)
    unsettled = np.zeros(len(believed), bool)
    variants: list[Floats] = []
    count = 0
    for number in holed:
        part = parts[number]
        times, step = _times(grid, number)
        seen = fills.layers(believed[part], times, how.kind, how.longest(step), season=how.season, damping=how.damping)
        absent = missing[part]
        whole[part] = seen.values[-1]
        blank[part] = np.isnan(seen.values[0])
        knots[part] = seen.knots
        cells[part][absent] = np.arange(count, count + int(absent.sum()))
        near = seen.values[:-1, absent]  # (1 + reach, m)
        if centre is not None:
            column = np.nonzero(absent)[1]
            near = (near - centre[number, column]) / spread[number, column]
        variants.append(near)
        count += near.shape[1]
        unsettled[part] = _unsettled(seen.knots, absent, len(seen.values) - 2)
    near_by = np.concatenate(variants, axis=1)
    return whole, Gaps(cells, near_by if centre is None else near_by.astype(np.float32), knots, unsettled), blank


def filtered(grid: Gridded, believed: Floats, blank: Bools | None, kind: smoothing.Kind, strength: float) -> Floats:
    """(T, K) each row smoothed by what is before it."""
    smooth = smoothing.one_sided_exp if kind == "one_sided_exp" else smoothing.local_linear
    smoothed = np.full(believed.shape, np.nan)
    for number in range(len(grid.lengths)):
        part = grid.part(number)
        for column in range(believed.shape[1]):
            smoothed[part, column] = smooth(believed[part, column], strength)
    if blank is not None:
        smoothed[blank] = np.nan
    return smoothed


def _times(grid: Gridded, number: int) -> tuple[Floats, float]:
    """Seconds (or the unit of numeric stamps) of the real rows of a series since the first, and the usual step."""
    part = grid.part(number)
    steps = np.arange(part.stop - part.start)
    if grid.clock.step is not None:
        step = grid.clock.step / 1e9 if isinstance(grid.clock.freq, str) else float(grid.clock.step)
        return steps * step, step
    seconds = as_seconds(grid.clock.ahead(grid.first[number : number + 1], steps)[0])
    return seconds, float(np.median(np.diff(seconds))) if len(seconds) > 1 else 1.0


def _unsettled(knots: Integers, missing: Bools, reach: int) -> Bools:
    """(T,) rows that, as origins, see a gap with at most `reach` knots between: rows of (T, K) `missing`, `knots` as in Layers."""
    found = np.zeros(len(knots), dtype=bool)
    rows = np.arange(len(knots))
    for column in range(knots.shape[1]):
        at = np.flatnonzero(~missing[:, column])
        earliest = knots[:, column] - reach  # the first knot after which a gap is not settled
        begin = np.where(earliest >= 0, at[np.maximum(earliest, 0)] if len(at) else -1, -1)
        among = np.where(earliest >= 0, reach, knots[:, column] + 1)
        found |= rows - begin > among
    return found
