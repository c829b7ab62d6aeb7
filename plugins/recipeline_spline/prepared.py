"""A cleaned panel on a grid, and the windows that a network is given of it.

What an origin may see is a pure function of the data at or before it, by construction: `gather` is the only way to inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from recipeline.errors import DataError
from recipeline.timeseries import transforms
from recipeline.timeseries.frames import SERIES, TIME
from recipeline.timeseries.smoothing import WindowSpline, roughness
from recipeline.timeseries.windows import windows
from recipeline_spline.observations import Findings

if TYPE_CHECKING:
    import pandas as pd

    from recipeline.timeseries.frames import Clock, Layout

Floats = NDArray[np.floating[Any]]
Doubles = NDArray[np.float64]
Singles = NDArray[np.float32]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Names:
    """What the last axes of `Inputs` are.

    targets  K names, the first K channels of `past` and the last axis of `labels`
    past     C channels: targets, `<target>:smooth` (what smoothing added: smoothed less raw), covariates (past, then future ones),
             calendar, then `<name>:mask` and `<name>:age` of columns that had gaps in training
    future   F channels: future covariates, then calendar           static  K numbers of a series
    codes    G categories of a series                               sizes   (G,) codes of each, the unknown token 0 included
    """

    targets: tuple[str, ...]
    past: tuple[str, ...]
    future: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Inputs:
    """B windows, ready for a network; all float32 and contiguous but where said.

    past    (B, L, C) scaled, 0 where nothing is known      future      (B, H, F)
    static  (B, J)                                          codes       (B, G) int64, 0 is the unknown token
    labels  (B, H, K) scaled, 0 where not observed          label_mask  (B, H, K) bool, True where observed
    centre  (B, K) float64, spread (B, K) float64           coverage    (B,) share of the targets' past that was observed
    series  (B,) int64 number of the series of each window  space       the non-linear part of the scale
    """

    past: Singles
    future: Singles
    static: Singles
    codes: Integers
    centre: Doubles
    spread: Doubles
    labels: Singles
    label_mask: Bools
    coverage: Singles
    series: Integers
    space: transforms.Space = "identity"

    def __len__(self) -> int:
        return len(self.past)

    def restore(self, scaled: ArrayLike) -> Doubles:
        """Original units, float64, of scaled values (B, H, K) or, with quantiles, (B, H, K, Q)."""
        values = np.asarray(scaled, dtype=np.float64)
        shape = (len(self.centre), 1, self.centre.shape[1]) + (1,) * (values.ndim - 3)
        return transforms.back(values * self.spread.reshape(shape) + self.centre.reshape(shape), self.space)


@dataclass(frozen=True)
class Curves:
    """One window to look at: stamps (n,); observed, filled and smoothed (n, K) in original units; smoothed None where nothing is.

    What is not known, because a gap is too long, stands at the centre of the scale, as the network sees it.
    """

    stamps: NDArray[Any]
    observed: Doubles
    filled: Doubles
    smoothed: Doubles | None


@dataclass(frozen=True)
class Gaps:
    """What an origin sees in gaps that are near to it, where that differs from what later origins see (`timeseries.fills`).

    cells      (T, K) number of each missing cell, -1 where observed
    variants   (1 + reach, M) scaled: layer e of a cell is what is seen when e knots lie between it and the origin
    knots      (T, K) number of the last knot at or before each row
    unsettled  (T,) an origin here may see such a gap
    """

    cells: NDArray[np.int32]
    variants: Floats
    knots: NDArray[np.int32]
    unsettled: Bools


SPLINE_LOOKBACKS = 4
"""A spline before an origin passes through the values of so many lookbacks."""
KEPT_MOST = 1 << 26
"""Cells of smoothed windows that are kept, where the same origins are asked for again (every epoch does)."""


_window_spline = lru_cache(maxsize=8)(WindowSpline)


class Spline:
    """A smoothing spline of its own for each origin, through the values of the last four lookbacks before it.

    values  (T, K) scaled, NaN where missing          lam  λ, time in grid steps
    """

    def __init__(self, values: Floats, lam: float) -> None:
        self.values, self.lam = values, lam
        self._lookback = 0

    def windows(self, origins: Integers, begins: Integers, lookback: int) -> Floats:
        """(B, lookback, K) of origins (B,), whose series begin at `begins` (B,); NaN where nothing is known."""
        if lookback != self._lookback:
            self._lookback = lookback
            self._curve = _window_spline(SPLINE_LOOKBACKS * lookback, self.lam)
            self._place = np.full(len(self.values), -1, np.int32)
            self._kept: list[Floats] = []
            self._room = KEPT_MOST // (lookback * self.values.shape[1])
        new = np.unique(origins[self._place[origins] < 0])
        if len(new) and len(new) + sum(map(len, self._kept)) <= self._room:
            at = np.searchsorted(origins, new) if (np.diff(origins) >= 0).all() else [int(np.argmax(origins == one)) for one in new]
            held = sum(map(len, self._kept))
            self._kept.append(self._of(new, begins[at], lookback))
            self._place[new] = np.arange(held, held + len(new))
        if (self._place[origins] < 0).any():
            return self._of(origins, begins, lookback)
        if len(self._kept) > 1:
            self._kept = [np.concatenate(self._kept)]
        return self._kept[0][self._place[origins]]

    def _of(self, origins: Integers, begins: Integers, lookback: int) -> Floats:
        span = SPLINE_LOOKBACKS * lookback
        rows = origins[:, None] + np.arange(1 - span, 1)
        values = np.where((rows >= begins[:, None])[:, :, None], self.values[np.maximum(rows, 0)], np.nan)
        columns = [self._curve.smooth(values[:, :, column].astype(np.float64))[:, -lookback:] for column in range(values.shape[2])]
        return np.stack(columns, axis=2).astype(self.values.dtype)


@dataclass(frozen=True, eq=False)
class Prepared:
    """All series on their grids, one after the other: T rows, S series, K targets.

    names     (S,) ascending               first   (S,) stamp of the first row of each that holds data
    lengths   (S,) rows of each            ahead   how many of them, at the end, lie beyond the origin of a question
    pads      (S,) how many of them, at the beginning, were added to a short series and hold nothing
    target    (T, K) float64, original units, NaN where not observed: labels, never filled and never smoothed
    observed  (T, V) bool: the mask m of the targets, then of the covariates; outliers that were not believed count as missing
    age       (T, V) float32: time since the last observation, in grid steps; inf before the first
    table     (T, C) past channels, scaled, gaps as their last row sees them, smoothed targets as they are; at level `window` float64
              and not scaled
    future    (T, F) float32               static  (S, J) float32          codes  (S, G) int64
    centre, spread  (S, K) float64 of the scale of each series; of level `window` they are those of each window
    since     (S,) the first row that may be an origin: after the rows that a series unseen in training took its scale from
    blank     (T, K) where the last row sees nothing of a target: gaps longer than max_fill, and before the first value
    labels    (T, K) scaled targets, NaN where not observed; at level `window` not scaled
    """

    layout: Layout
    clock: Clock
    names: NDArray[Any]
    first: NDArray[Any]
    pads: Integers
    lengths: Integers
    ahead: int
    channels: Names
    target: Doubles
    observed: Bools
    age: Singles
    table: Floats
    future: Singles
    static: Singles
    codes: Integers
    scaler: transforms.Scaler
    centre: Doubles
    spread: Doubles
    since: Integers
    labels: Floats
    gaps: Gaps | None = None
    spline: Spline | None = None
    blank: Bools | None = None
    min_coverage: float = 0.5
    findings: Findings = field(default_factory=Findings)

    def __len__(self) -> int:
        """Grid points that hold data."""
        return int((self.lengths - self.pads - self.ahead).sum())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """(T, C) the past channels."""
        return np.array(self.table, dtype=dtype)

    @cached_property
    def starts(self) -> Integers:
        """(S,) first row of each series."""
        return np.cumsum(self.lengths) - self.lengths

    @property
    def last(self) -> Integers:
        """(S,) the origin of the question that each series asks: its last row that is not ahead."""
        return np.cumsum(self.lengths) - 1 - self.ahead

    @property
    def space(self) -> transforms.Space:
        kind = self.scaler.kind
        return kind if kind in ("log1p", "asinh", "logit") else "identity"

    @property
    def _linear(self) -> transforms.Kind:
        """What is left of the scale once values are in its space."""
        return self.scaler.kind if self.space == "identity" else "standard"

    def series_of(self, rows: ArrayLike) -> Integers:
        """The number of the series of each row."""
        return np.searchsorted(self.starts, np.asarray(rows), side="right").astype(np.int64) - 1

    def stamps(self, rows: ArrayLike) -> NDArray[Any]:
        """(N,) the time stamps of rows, not padded ones, in the type of the data (datetime64[ns] UTC, or numbers)."""
        at = np.asarray(rows, dtype=np.int64)
        number = self.series_of(at)
        return self.clock.ahead(self.first[number], (at - (self.starts + self.pads)[number])[:, None])[:, 0]

    def origins(self, lookback: int, horizon: int, *, future: bool, min_observed: float | None = None, stride: int = 1) -> Integers:
        """(N,) rows that are origins, oldest first, series by series (`series_of` numbers them).

        future        True: the whole horizon lies inside the data and one label at least was observed (training);
                      False: every row with a past (prediction)
        min_observed  windows with a smaller share of their past observed are left out (None: `min_coverage`)

        Raises DataError where no series is long enough.
        """
        width = len(self.channels.targets)
        found = windows(
            self.target, lookback=lookback, horizon=horizon, lengths=self.lengths.tolist(), mask=self.observed[:, :width],
            stride=stride, min_observed=self.min_coverage if min_observed is None else min_observed, future=future,
        )  # fmt: skip
        series = found.series
        ends = found.label_ends if future else found.origins
        rows: Integers = found.origins[(ends <= self.last[series]) & (found.origins >= self.since[series])].astype(np.int64)
        return rows

    def gather(self, origins: ArrayLike, lookback: int, horizon: int) -> Inputs:
        """The windows of these rows: past o - lookback + 1 … o, horizon o + 1 … o + horizon.

        Raises DataError for an origin with too little before or after it.
        """
        o = np.asarray(origins, dtype=np.int64)
        series = self.series_of(o)
        begin, end = self.starts[series], (self.starts + self.lengths)[series]
        if len(o) and ((o - lookback + 1 < begin) | (o + horizon >= end)).any():
            bad = int(np.argmax((o - lookback + 1 < begin) | (o + horizon >= end)))
            before, after = o[bad] - begin[bad] + 1, end[bad] - 1 - o[bad]
            raise DataError(
                f"series {self.names[series[bad]]!r}: {before} rows up to the origin and {after} after it, "
                f"lookback {lookback} and horizon {horizon} need more",
                hint="shorten lookback, or choose short: pad",
                slug="too-short",
            )
        width = len(self.channels.targets)
        before = o - (lookback - 1)
        past = _view(self.table, lookback)[before]
        if self.gaps is not None:
            self._as_seen(past, o, before, lookback)
        seen = _view(self.observed[:, :width], lookback)[before]
        coverage = seen.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)
        centre, spread = self.centre[series], self.spread[series]
        label = _view(self.labels, horizon)[o + 1]
        own = width
        if self.spline is not None:
            own = 2 * width
            smooth = self.spline.windows(o, begin, lookback)
            past[:, :, width:own] = np.where(np.isnan(past[:, :, :width]), np.nan, smooth)
        if self.scaler.level == "window":
            own = 2 * width if self.smoothed else width
            scale = transforms.scale_of(np.where(seen, past[:, :, :width], np.nan), self._linear, axis=1)  # (B, 1, K)
            label = (label - scale.shift) / scale.scale
            past[:, :, :own] = (past[:, :, :own] - np.tile(scale.shift, own // width)) / np.tile(scale.scale, own // width)
            centre, spread = scale.shift[:, 0], scale.scale[:, 0]
        if self.smoothed:  # as a difference it stays in the range of training when the level of the series leaves it
            own = 2 * width
            past[:, :, width:own] -= past[:, :, :width]
        if self.smoothed or self.scaler.level == "window":
            past[:, :, :own] = np.nan_to_num(past[:, :, :own], nan=0.0)
        known = ~np.isnan(label)
        return Inputs(
            past=np.ascontiguousarray(past, dtype=np.float32),
            future=_view(self.future, horizon)[o + 1],
            static=self.static[series],
            codes=self.codes[series],
            centre=centre,
            spread=spread,
            labels=np.where(known, label, 0).astype(np.float32),
            label_mask=known,
            coverage=coverage,
            series=series,
            space=self.space,
        )

    # --- to look at ---

    def curves(self, origin: int, lookback: int) -> Curves:
        """What one origin sees of the targets, in original units."""
        width = len(self.channels.targets)
        rows = np.arange(origin - lookback + 1, origin + 1)
        seen = self.gather([origin], lookback, 1)
        own = rows >= (self.starts + self.pads)[seen.series[0]]

        def units(channels: Doubles) -> Doubles:
            return transforms.back(channels[own] * seen.spread + seen.centre, self.space)

        raw = seen.past[0, :, :width].astype(np.float64)
        smooth = units(raw + seen.past[0, :, width : 2 * width]) if self.smoothed else None
        return Curves(self.stamps(rows[own]), self.target[rows[own]], units(raw), smooth)

    def smoothing(self, lookback: int, *, most: int = 200) -> list[dict[str, Any]]:
        """How much smoothing changes what networks see, for each target, over at most so many windows (empty where nothing is
        smoothed): `variance_removed`, the share Var(raw - smooth) / Var(raw), and the `roughness` of both, the mean square of
        second differences in units of the scale."""
        if not self.smoothed:
            return []
        width = len(self.channels.targets)
        origins = self.origins(lookback, max(1, self.ahead), future=False, min_observed=0.0)
        chosen = origins[np.unique(np.linspace(0, len(origins) - 1, min(most, len(origins))).astype(np.int64))]
        past = self.gather(chosen, lookback, max(1, self.ahead)).past.astype(np.float64)
        said = []
        for number, name in enumerate(self.channels.targets):
            raw, added = past[:, :, number], past[:, :, width + number]
            total = float(np.var(raw, axis=1).sum())
            said.append(
                {
                    "target": name,
                    "windows": len(chosen),
                    "variance_removed": float(np.var(added, axis=1).sum()) / total if total > 0 else float("nan"),
                    "roughness_raw": roughness(raw),
                    "roughness_smoothed": roughness(raw + added),
                }
            )
        return said

    def frame(self) -> pd.DataFrame:
        """Every grid point as the last row sees it, original units: series_id, timestamp, for each target its value as observed,
        `:filled`, `:smooth`, `:mask` and `:age` (grid steps)."""
        import pandas as pd

        width, count = len(self.channels.targets), self.lengths - self.pads - self.ahead
        begin = self.starts + self.pads
        rows = np.concatenate([np.arange(a, a + n) for a, n in zip(begin, count, strict=True)])
        number = np.repeat(np.arange(len(count)), count)
        centre, spread = (0.0, 1.0) if self.scaler.level == "window" else (self.centre[number], self.spread[number])

        def units(block: Floats) -> Doubles:
            values = transforms.back(block.astype(np.float64) * spread + centre, self.space)
            return values if self.blank is None else np.where(self.blank[rows], np.nan, values)

        filled = units(self.table[rows, :width])
        smooth = units(self.table[rows, width : 2 * width]) if self.smoothed and self.spline is None else None
        columns: dict[str, Any] = {SERIES: self.names[number], TIME: self.stamps(rows)}
        for at, name in enumerate(self.channels.targets):
            told = self.observed[rows, at]  # as it is, not as single precision has it
            columns |= {name: self.target[rows, at], f"{name}:filled": np.where(told, self.target[rows, at], filled[:, at])}
            if smooth is not None:
                columns[f"{name}:smooth"] = smooth[:, at]
            columns |= {f"{name}:mask": self.observed[rows, at], f"{name}:age": self.age[rows, at]}
        return pd.DataFrame(columns)

    @property
    def smoothed(self) -> bool:
        """Whether each target has a smoothed channel beside it."""
        return f"{self.channels.targets[0]}:smooth" in self.channels.past

    def _as_seen(self, past: Floats, o: Integers, before: Integers, lookback: int) -> None:
        """Put into the targets' gaps near the origin what was known then."""
        gaps = self.gaps
        assert gaps is not None
        some = np.flatnonzero(gaps.unsettled[o])
        if not len(some):
            return
        rows = before[some, None] + np.arange(lookback)
        cells = gaps.cells[rows]  # (b, L, K)
        beyond = gaps.knots[o[some]][:, None, :] - gaps.knots[rows]
        window, step, column = np.nonzero((cells >= 0) & (beyond < len(gaps.variants)))
        past[some[window], step, column] = gaps.variants[beyond[window, step, column], cells[window, step, column]]


def _view(array: NDArray[Any], length: int) -> NDArray[Any]:
    """(T - length + 1, length, C) view of (T, C)."""
    return sliding_window_view(array, length, axis=0).swapaxes(1, 2)
