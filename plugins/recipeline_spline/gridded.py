"""Series on one time grid, one after the other, and what is odd about them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from recipeline.errors import DataError
from recipeline.timeseries.frames import TARGET, places, text_of
from recipeline.timeseries.grid import aggregated
from recipeline_spline.observations import is_given

if TYPE_CHECKING:
    from recipeline.timeseries.frames import Clock, Layout
    from recipeline.timeseries.grid import Aggregate
    from recipeline_spline.covariates import Columns
    from recipeline_spline.observations import Findings, Observations
    from recipeline_spline.options import Short

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]
Use = Literal["fit", "history", "question"]


@dataclass(frozen=True)
class Gridded:
    """Series on their grids, with room before and after: T rows, of which `real` hold data.

    values (T, V) and texts by column (T,) as observed; first stamps (S,) are those of the first real rows; pads (S,), lengths (S,)
    real (T,)     in question mode the rows of the horizon are not real, but may hold future covariates
    """

    names: NDArray[Any]
    first: NDArray[Any]
    pads: Integers
    lengths: Integers
    ahead: int
    values: Floats
    texts: Mapping[str, NDArray[np.object_]]
    clock: Clock

    @cached_property
    def starts(self) -> Integers:
        return np.cumsum(self.lengths) - self.lengths

    def part(self, number: int) -> slice:
        """The rows of one series that hold data."""
        start = int(self.starts[number])
        return slice(start + int(self.pads[number]), start + int(self.lengths[number]) - self.ahead)


def on_grid(
    rows: Observations,
    layout: Layout,
    columns: Columns,
    findings: Findings,
    use: Use,
    *,
    lookback: int,
    horizon: int,
    short: Short,
    agg: Aggregate,
) -> tuple[Gridded, Observations]:
    """Rows on their grids, with room for what is ahead and for what is missing before; series that are too short by `short`.

    Raises DataError for series that are too short or were never observed, where `short` does not allow them, and for rows to forecast
    that have a target.
    """
    clock, width = layout.clock, 1 + len(columns.numbers)
    first, lengths, place = places(rows.names, rows.codes, rows.stamps, clock)
    at = place - (np.cumsum(lengths) - lengths)[rows.codes]
    asked = use == "question" and bool(layout.future)  # then the last rows are those to forecast
    known = lengths - horizon if asked else lengths
    past = at < known[rows.codes]
    seen = np.bincount(rows.codes[past & ~np.isnan(rows.numbers[:, 0])], minlength=len(lengths)) > 0
    need = max(1, lookback + (0 if use == "question" else horizon))
    if asked and (~past & ~np.isnan(rows.numbers[:, 0])).any():
        row = int(np.argmax(~past & ~np.isnan(rows.numbers[:, 0])))
        raise DataError(
            f"series {str(rows.names[rows.codes[row]])!r}: the last {horizon} steps are to be forecast, and "
            f"{text_of(rows.stamps[row])} has a target",
            hint="add the rows of the next steps, with their covariates and no target",
            slug="missing-future",
        )
    pads = np.zeros(len(lengths), np.int64)
    few = known < need
    if few.any() or not seen.all():
        keep = _kept(rows.names, known, few, seen, need, findings, use, short, lookback, horizon)
        pads = np.where(few & keep, need - known, 0) if short == "pad" else pads
        if not keep.all():
            rows, at = rows.only(keep), at[keep[rows.codes]]
            first, lengths, pads = first[keep], lengths[keep], pads[keep]
    full = pads + lengths + (0 if asked else horizon)
    place = (np.cumsum(full) - full + pads)[rows.codes] + at
    total = int(full.sum())
    values = aggregated(place, rows.numbers[:, :1], total, agg)
    if width > 1:
        values = np.hstack([values, aggregated(place, rows.numbers[:, 1:width], total, "mean")])
    texts = {}
    for name in columns.texts:
        texts[name] = np.full(total, None, dtype=object)
        given = is_given(rows.texts[name])
        texts[name][place[given]] = rows.texts[name][given]
    findings.series += len(full)
    return Gridded(rows.names, first, pads, full, horizon, values, texts, clock), rows


def _kept(
    names: NDArray[Any], known: Integers, few: Bools, seen: Bools, need: int, findings: Findings, use: Use, short: Short, lookback: int,
    horizon: int,
) -> Bools:  # fmt: skip
    """(S,) which series stay, where some are too short or were never observed."""
    if use == "history":
        return np.ones(len(names), bool)
    question = use == "question"
    dropping = short == "drop_series" and not question
    if not dropping and not seen.all():
        more = int((~seen).sum()) - 1
        raise DataError(
            f"series {str(names[~seen][0])!r} has no observed {TARGET}" + (f" (and {more} more)" if more else ""),
            hint="leave it out" if question else "leave it out, or choose short: drop_series",
            slug="no-history",
        )
    if few.any() and not dropping and short != "pad":
        worst = int(np.argmax(few))
        raise DataError(
            f"series {str(names[worst])!r} has {max(0, int(known[worst]))} grid points, {need} are needed: lookback {lookback}"
            + ("" if question else f" and horizon {horizon}"),
            hint="give a longer history, shorten lookback, or choose short: pad" + ("" if question else " or drop_series"),
            slug="too-short",
        )
    keep = seen & ~few if dropping else np.ones(len(names), bool)
    findings.dropped += [str(name) for name in names[~keep]]
    findings.padded += [str(name) for name in names[few & keep]] if short == "pad" else []
    if not keep.any():
        raise DataError(f"no series has {need} grid points", hint="shorten lookback or horizon", slug="too-short")
    return keep


def remark(grid: Gridded, targets: Sequence[str], numbers: Sequence[str], max_missing: float, findings: Findings) -> None:
    """Shares of missing values, the longest gap, constant series; DataError beyond `max_missing`."""
    width = len(targets)
    real = np.zeros(len(grid.values), dtype=bool)
    for number, name in enumerate(grid.names):
        part = grid.part(number)
        real[part] = True
        values = grid.values[part, :width]
        share = float(np.isnan(values).mean())
        if share > max_missing:
            raise DataError(
                f"series {str(name)!r}: {share:.1%} of the grid points have no {TARGET}, max_missing is {max_missing:g}",
                hint="leave it out, or raise max_missing",
                slug="too-many-missing",
            )
        with np.errstate(invalid="ignore"):
            low, high = np.fmin.reduce(values), np.fmax.reduce(values)
        if bool((low == high).any()):
            findings.constant.append(str(name))
    names = (*targets, *numbers)
    findings.missing = {name: float(np.isnan(grid.values[real, at]).mean()) for at, name in enumerate(names)}
    series = np.repeat(np.arange(len(grid.lengths)), grid.lengths)
    longest = 0
    for column in range(width):
        rows = np.flatnonzero(~np.isnan(grid.values[:, column]))
        missing = np.where(np.diff(series[rows]) == 0, np.diff(rows) - 1, 0)
        if len(missing) and missing.max() > longest:
            longest, before = int(missing.max()), int(rows[np.argmax(missing)])
            number = int(series[before])
            at = before - grid.part(number).start
            after, until = grid.clock.ahead(grid.first[number : number + 1], [at, at + longest + 1])[0]
            findings.longest_gap = {
                "series": str(grid.names[number]), "steps": longest, "after": text_of(after), "time": _duration(until - after),
            }  # fmt: skip


def observed(values: Floats, grid: Gridded) -> tuple[Bools, NDArray[np.float32]]:
    """Mask (T, V) and age in grid steps (T, V); inf before the first observation of a series."""
    mask = ~np.isnan(values)
    real = int((grid.lengths - grid.pads).sum()) - grid.ahead * len(grid.lengths)
    if not grid.pads.any() and int(mask.sum()) == real * mask.shape[1]:  # all but what is ahead
        return mask, np.broadcast_to(np.float32(0), mask.shape)
    last = last_seen(mask, grid)
    return mask, np.where(last >= 0, np.arange(len(mask))[:, None] - last, np.inf).astype(np.float32)


def last_seen(mask: Bools, grid: Gridded) -> Integers:
    """(T, V) row of the last observation of the same series at or before each row, -1 where there is none."""
    rows = np.arange(len(mask))[:, None]
    last = np.maximum.accumulate(np.where(mask, rows, -1), axis=0)
    begins = np.repeat(grid.starts, grid.lengths)[:, None]
    return np.where(last >= begins, last, -1)


def fingerprint(grid: Gridded) -> str:
    """SHA-256 of the data on their grid."""
    found = hashlib.sha256()
    for part in (grid.first, grid.lengths, grid.values):
        found.update(np.ascontiguousarray(part).tobytes())
    for words in (grid.names, *grid.texts.values()):
        found.update(json.dumps([None if word is None else str(word) for word in words]).encode())
    return found.hexdigest()


def _duration(time: Any) -> str:
    import pandas as pd

    return str(pd.Timedelta(time)) if isinstance(time, np.timedelta64) else f"{float(time):g}"
