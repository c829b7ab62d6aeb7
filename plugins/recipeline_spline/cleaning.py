"""From rows as they come to a prepared panel: checked, on a grid, filled, smoothed, scaled, so that no origin sees what is after it.

The order is that of the steps in `SplinePreprocessor`. The non-linear part of a scale (log1p, asinh) comes first of all that
is reckoned with values: gaps are filled and curves smoothed in the space in which the network sees them, so that no polynomial
of a positive series goes below zero. For all other scales filling and scaling commute.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recipeline.contracts import Selected
from recipeline.errors import Damaged, DataError, Problem, RecipeError, did_you_mean
from recipeline.stores import files
from recipeline.timeseries import fills, smoothing, transforms
from recipeline.timeseries.frames import SERIES, TARGET, TIME, Clock, Layout, example, places, season_of, text_of
from recipeline.timeseries.grid import Aggregate, aggregated, as_seconds
from recipeline.timeseries.outliers import hampel
from recipeline_spline import calendars
from recipeline_spline.observations import (
    Duplicates,
    Findings,
    NonMonotonic,
    Observations,
    is_given,
    is_text,
    observations,
    parsed_stamps,
    require,
)
from recipeline_spline.prepared import Gaps, Names, Prepared, Spline

if TYPE_CHECKING:
    import pandas as pd

    from recipeline.contracts import Evaluation

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]
Short = Literal["error", "drop_series", "pad"]
Use = Literal["fit", "history", "question"]
Edge = Literal["carry", "damped_season"]
Outliers = Literal["none", "hampel"]
Masks = Literal["auto", "always", "never"]
Scaling = Literal["standard", "robust", "minmax", "log1p", "asinh", "none"]

VERSION = 2
MOST_CATEGORIES = 64
"""Values that a covariate may have: each of one that changes in time becomes a channel."""
OLDEST = 1000.0  # grid steps; older is as old


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


class SplinePreprocessor:
    """Cleans series for a network: checks, grid, outliers, fill, smooth, scale, covariates; every step knows the past alone.

    fill             linear, pchip, akima, makima, cubic, hermite_bdiff, ffill: the curve through a gap between values known
    max_fill         longest time between the ends of a gap that is filled, in grid steps or as 12h; longer ones stay empty
    edge             what an open gap is filled with: carry (the last value) or damped_season (it, plus edge_damping^k times what
                     one season before moved)
    smooth           none, one_sided_exp, local_linear, spline_window: one more channel for each target, what smoothing adds to the raw
                     value; targets are never smoothed
    smooth_strength  grid steps over which it smooths: the time constant of the first two, the fourth root of the spline's λ
    scale, level     standard, robust, minmax, log1p, asinh, none; of each series, global, or of each window
    outliers         none or hampel: inputs further than outlier_threshold · 1.4826 MAD from the median of the outlier_window rows
                     before them count as missing; labels keep them
    duplicates       two rows of one time stamp: error, last, mean; rows that are wholly equal are dropped and counted
    non_monotonic    rows out of order: error or sort
    short            series shorter than lookback (+ horizon in training): error, drop_series (in training), pad (with nothing known)
    agg              rows that meet at one grid point: mean, sum, last            freq  step of the grid; null takes it from the data
    min_coverage     share of a window's targets that must be observed; others are left out of training and flagged in prediction
    max_missing      share of missing targets above which a series is refused
    calendar         minute, hour, weekday, monthday, yearday, as sine and cosine; auto chooses by the step
    time_zone        where days begin, when stamps are UTC
    masks            channels of what was observed and how long ago: auto (columns with gaps in training), always, never
    series_codes     each series of training is a category
    """

    online = True
    any_layout = True

    def __init__(
        self,
        *,
        fill: fills.Kind = "pchip",
        max_fill: float | str | None = None,
        edge: Edge = "carry",
        edge_damping: float = 0.9,
        smooth: smoothing.Kind = "none",
        smooth_strength: float = 4.0,
        scale: Scaling = "standard",
        level: transforms.Level = "series",
        outliers: Outliers = "none",
        outlier_window: int = 48,
        outlier_threshold: float = 6.0,
        duplicates: Duplicates = "error",
        non_monotonic: NonMonotonic = "error",
        short: Short = "error",
        agg: Aggregate = "mean",
        freq: str | float | None = None,
        min_coverage: float = 0.5,
        max_missing: float = 1.0,
        calendar: Literal["auto"] | Sequence[calendars.Cycle] = (),
        time_zone: str | None = None,
        masks: Masks = "auto",
        series_codes: bool = False,
    ) -> None:
        self.fill, self.max_fill, self.edge, self.edge_damping = fill, max_fill, edge, edge_damping
        self.smooth, self.smooth_strength = smooth, smooth_strength
        self.scale, self.level = scale, level
        self.outliers, self.outlier_window, self.outlier_threshold = outliers, outlier_window, outlier_threshold
        self.duplicates, self.non_monotonic, self.short, self.agg = duplicates, non_monotonic, short, agg
        self.freq, self.min_coverage, self.max_missing = freq, min_coverage, max_missing
        self.calendar, self.time_zone, self.masks, self.series_codes = calendar, time_zone, masks, series_codes
        self.lookback = self.horizon = 0
        self.layout: Layout | None = None

    # --- what it is told ---

    def expect(self, schema: Any) -> None:
        """The input contract of the task: grid and roles of covariates."""
        self.layout = Layout.of(schema)

    def introduce(self, lookback: int, horizon: int) -> Self:
        """What the model looks back at and forecasts; `short`, `spline_window` and questions go by it."""
        self.lookback, self.horizon = lookback, horizon
        return self

    @property
    def params(self) -> dict[str, Any]:
        """Constructor arguments, JSON-like."""
        return {name: list(value) if isinstance(value := getattr(self, name), tuple) else value for name in PARAMETERS}

    @property
    def merging(self) -> dict[str, Any]:
        """What becomes of rows that meet, for those that judge the forecasts and for baselines (`frames.Layout`)."""
        return {"duplicates": self.duplicates, "aggregate": self.agg}

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        """Arguments that cannot be, all at once."""
        return problems(params)

    # --- fitting ---

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:
        """Learn from training rows, a long frame: scales from observed values, medians of covariates, categories, which columns
        have gaps. `findings_` says what was odd.

        Raises DataError where the rows cannot be used, naming series, row, column and value.
        """
        self._refuse_bad_arguments()
        layout = self._layout_of(X)
        findings = Findings()
        columns = Columns.of(X, layout)
        rows = self._rows(X, layout, columns, findings)
        grid, rows = self._on_grid(rows, layout, columns, findings, "fit")
        self.layout_ = layout
        self.targets_: tuple[str, ...] = (TARGET,)
        self._learn(grid, columns, rows, findings)
        return self

    def fit_arrays(
        self, values: ArrayLike, *, freq: str | float = 1.0, season: int = 1, start: Any = 0.0, targets: Sequence[str] = ()
    ) -> Self:
        """Learn from one series of several targets, (T,) or (T, K), on a regular grid, NaN where missing."""
        self._refuse_bad_arguments()
        matrix = _matrix(values)
        self.layout_ = Layout(freq, season)
        width = matrix.shape[1]
        self.targets_ = tuple(targets) or ((TARGET,) if width == 1 else tuple(f"{TARGET}{number}" for number in range(width)))
        if len(self.targets_) != matrix.shape[1]:
            raise DataError(f"{len(self.targets_)} names for {matrix.shape[1]} targets", slug="bad-shape")
        findings = Findings(rows=len(matrix))
        self._learn(self._array_grid(matrix, start), Columns(), None, findings)
        return self

    def _learn(self, grid: Gridded, columns: Columns, rows: Observations | None, findings: Findings) -> None:
        width = len(self.targets_)
        believed = self._believed(grid, width, findings)
        self._remark(grid, columns, width, findings)
        parts = [(str(name), grid.part(number)) for number, name in enumerate(grid.names)]
        known = ~np.isnan(believed)
        scaler = transforms.Scaler(self.scale, self.level)
        self.scaler_ = scaler.fit({name: grid.values[part, :width] for name, part in parts}, {name: known[part] for name, part in parts})
        real = np.concatenate([np.arange(part.start, part.stop) for _, part in parts])
        statistics = {name: _statistics(grid.values[real, width + at]) for at, name in enumerate(columns.numbers)}
        gapped = [name for at, name in enumerate(columns.numbers) if np.isnan(grid.values[real, width + at]).any()]
        if not known[real].all():
            gapped = [*self.targets_, *gapped]
        categories = {name: _categories(grid.texts[name][real], name, MOST_CATEGORIES) for name in columns.texts}
        if rows is not None:
            numbers, texts = _statics(rows, columns)
            statistics |= {name: _statistics(numbers[:, at]) for at, name in enumerate(columns.static_numbers)}
            categories |= {name: _categories(texts[name], name) for name in columns.static_texts}
        self.columns_ = replace(columns, statistics=statistics, categories=categories, gapped=tuple(gapped))
        self.names_ = tuple(name for name, _ in parts)
        self.cycles_ = calendars.useful(grid.clock) if isinstance(self.calendar, str) else tuple(self.calendar)
        self.findings_ = findings
        self.fingerprint_ = fingerprint(grid)

    # --- transforming ---

    def transform(self, X: pd.DataFrame) -> Prepared:
        """A question: the forecast after the last row of every series (`Prepared.last`); where there are future covariates, the
        last `horizon` grid points of the frame are the steps to forecast.

        Raises DataError where the rows cannot be used, and for a future covariate that is missing, naming column and time.
        """
        return self._prepared(X, "question")

    def history(self, X: pd.DataFrame) -> Prepared:
        """Training and validation: every row has happened. Series that are too short for a window have none."""
        return self._prepared(X, "history")

    def arrays(self, values: ArrayLike, *, start: Any = 0.0) -> Prepared:
        """As `history`, of one series on a regular grid, (T,) or (T, K)."""
        findings = Findings()
        matrix = _matrix(values)
        if matrix.shape[1] != len(self.targets_):
            raise DataError(f"{matrix.shape[1]} columns, training had {len(self.targets_)}", slug="bad-shape")
        return self._assembled(self._array_grid(matrix, start), None, findings)

    def account(self, X: pd.DataFrame, *, processed: bool = False) -> Evaluation:
        """What it does to the history X at an origin: the table and the picture `cleaning`; `processed` holds every row (`account`)."""
        from recipeline_spline.account import account

        return account(self, X, processed=processed)

    def remarks(self, X: pd.DataFrame) -> list[str]:
        """What is odd about the data, as sentences; nothing is learned.

        Raises DataError for rows that no other argument could make good; what a search may choose otherwise is said in fitting."""
        trial = type(self)(**self.params).introduce(self.lookback, self.horizon)
        trial.layout, trial.short = self.layout, "drop_series"
        layout = trial._layout_of(X)
        kinds = Columns.of(X, layout)
        trial._rows(X, layout, kinds, Findings())
        try:
            return trial.fit(X).findings_.lines()
        except DataError:
            return []

    def _prepared(self, X: pd.DataFrame, use: Use) -> Prepared:
        findings = Findings()
        rows = self._rows(X, self.layout_, self.columns_, findings)
        grid, rows = self._on_grid(rows, self.layout_, self.columns_, findings, use)
        if use == "question":
            self._require_future(grid)
        return self._assembled(grid, rows, findings)

    def _assembled(self, grid: Gridded, rows: Observations | None, findings: Findings) -> Prepared:
        columns, width = self.columns_, len(self.targets_)
        believed = self._believed(grid, width, findings)
        observed, age = _observed(believed if grid.values.shape[1] == width else np.hstack([believed, grid.values[:, width:]]), grid)
        centre, spread, since = self._scales(grid, believed)
        affine = self.level != "window"
        series = np.repeat(np.arange(len(grid.lengths)), grid.lengths) if len(grid.lengths) > 1 else 0
        shift, size = centre[series], spread[series]

        def scaled(x: Floats) -> NDArray[Any]:
            if not affine:
                return x
            centred = x - shift
            centred /= size
            return centred.astype(np.float32)

        filled, gaps, blank = self._filled(grid, believed, centre if affine else None, spread)
        blocks: list[NDArray[Any]] = [scaled(filled)]
        if self.smooth == "spline_window":
            blocks.append(np.zeros((len(believed), width)))  # of each origin its own: see Prepared.gather
        elif self.smooth != "none":
            blocks.append(scaled(self._filtered(grid, believed, blank)))
        spline = self._spline(scaled(believed)) if self.smooth == "spline_window" else None
        if affine and self.smooth == "none":  # what is not known is 0; elsewhere it must be told apart until the window is known
            blocks = [np.nan_to_num(block, copy=False, nan=0.0) for block in blocks]
            gaps = gaps and replace(gaps, variants=np.nan_to_num(gaps.variants, nan=0.0))
        covariates = self._covariates(grid)
        words, future_words = self._words(grid, findings)
        circles = self._circles(grid)
        blocks += [covariates, words, circles]
        for name in self._masked:
            at = (*self.targets_, *columns.numbers).index(name)
            young = np.log1p(np.minimum(age[:, at], OLDEST)) / np.log1p(OLDEST)
            blocks += [observed[:, at : at + 1], young[:, None]]
        blocks = [block for block in blocks if block.shape[1]]
        table = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1, dtype=np.float32 if affine else np.float64)
        known_ahead = [at for at, name in enumerate(columns.numbers) if name in self.layout_.future]
        static, codes = self._static_inputs(grid, rows, findings)
        target = grid.values[:, :width]
        return Prepared(
            layout=self.layout_, clock=grid.clock, names=grid.names, first=grid.first, pads=grid.pads, lengths=grid.lengths,
            ahead=grid.ahead, channels=self.channels, target=target, observed=observed, age=age, table=np.ascontiguousarray(table),
            future=np.concatenate([covariates[:, known_ahead], future_words, circles], axis=1, dtype=np.float32), static=static,
            codes=codes, scaler=self.scaler_, centre=centre, spread=spread, since=since,
            labels=scaled(transforms.into(target, space_of(self.scale))), gaps=gaps, spline=spline,
            blank=np.isnan(filled) if gaps is not None else None, min_coverage=self.min_coverage, findings=findings,
        )  # fmt: skip

    # --- the steps ---

    def _refuse_bad_arguments(self) -> None:
        if found := problems(self.params):
            raise RecipeError(found)

    def _layout_of(self, X: pd.DataFrame) -> Layout:
        require(X, (TIME, TARGET))
        if self.layout is not None:
            return self.layout if self.freq is None else replace(self.layout, freq=self.freq)
        known = [str(name) for name in X.columns if name not in (SERIES, TIME, TARGET)]
        if self.freq is not None:
            return Layout(self.freq, season_of(self.freq), past=tuple(known))
        return Layout.of(X if X[TIME].dtype.kind in "Mfiu" else X.assign(**{TIME: parsed_stamps(X)}))

    def _rows(self, X: pd.DataFrame, layout: Layout, columns: Columns, findings: Findings) -> Observations:
        return observations(
            X, layout, numbers=(TARGET, *columns.numbers, *columns.static_numbers), texts=(*columns.texts, *columns.static_texts),
            findings=findings, duplicates=self.duplicates, non_monotonic=self.non_monotonic,
        )  # fmt: skip

    def _on_grid(self, rows: Observations, layout: Layout, columns: Columns, findings: Findings, use: Use) -> tuple[Gridded, Observations]:
        """Rows on their grids, with room for what is ahead and for what is missing before; series that are too short by `short`."""
        clock, width = layout.clock, 1 + len(columns.numbers)
        first, lengths, place = places(rows.names, rows.codes, rows.stamps, clock)
        at = place - (np.cumsum(lengths) - lengths)[rows.codes]
        asked = use == "question" and bool(layout.future)  # then the last rows are those to forecast
        known = lengths - self.horizon if asked else lengths
        past = at < known[rows.codes]
        seen = np.bincount(rows.codes[past & ~np.isnan(rows.numbers[:, 0])], minlength=len(lengths)) > 0
        need = max(1, self.lookback + (0 if use == "question" else self.horizon))
        if asked and (~past & ~np.isnan(rows.numbers[:, 0])).any():
            row = int(np.argmax(~past & ~np.isnan(rows.numbers[:, 0])))
            raise DataError(
                f"series {str(rows.names[rows.codes[row]])!r}: the last {self.horizon} steps are to be forecast, and "
                f"{text_of(rows.stamps[row])} has a target",
                hint="add the rows of the next steps, with their covariates and no target",
                slug="missing-future",
            )
        pads = np.zeros(len(lengths), np.int64)
        short = known < need
        if short.any() or not seen.all():
            keep = self._kept(rows.names, known, short, seen, need, findings, use)
            pads = np.where(short & keep, need - known, 0) if self.short == "pad" else pads
            if not keep.all():
                rows, at = rows.only(keep), at[keep[rows.codes]]
                first, lengths, pads = first[keep], lengths[keep], pads[keep]
        full = pads + lengths + (0 if asked else self.horizon)
        place = (np.cumsum(full) - full + pads)[rows.codes] + at
        total = int(full.sum())
        values = aggregated(place, rows.numbers[:, :1], total, self.agg)
        if width > 1:
            values = np.hstack([values, aggregated(place, rows.numbers[:, 1:width], total, "mean")])
        texts = {}
        for name in columns.texts:
            texts[name] = np.full(total, None, dtype=object)
            given = is_given(rows.texts[name])
            texts[name][place[given]] = rows.texts[name][given]
        findings.series += len(full)
        return Gridded(rows.names, first, pads, full, self.horizon, values, texts, clock), rows

    def _kept(self, names: NDArray[Any], known: Integers, short: Bools, seen: Bools, need: int, findings: Findings, use: Use) -> Bools:
        """(S,) which series stay, where some are too short or were never observed."""
        if use == "history":
            return np.ones(len(names), bool)
        question = use == "question"
        dropping = self.short == "drop_series" and not question
        if not dropping and not seen.all():
            more = int((~seen).sum()) - 1
            raise DataError(
                f"series {str(names[~seen][0])!r} has no observed {TARGET}" + (f" (and {more} more)" if more else ""),
                hint="leave it out" if question else "leave it out, or choose short: drop_series",
                slug="no-history",
            )
        if short.any() and not dropping and self.short != "pad":
            worst = int(np.argmax(short))
            raise DataError(
                f"series {str(names[worst])!r} has {max(0, int(known[worst]))} grid points, {need} are needed: lookback {self.lookback}"
                + ("" if question else f" and horizon {self.horizon}"),
                hint="give a longer history, shorten lookback, or choose short: pad" + ("" if question else " or drop_series"),
                slug="too-short",
            )
        keep = seen & ~short if dropping else np.ones(len(names), bool)
        findings.dropped += [str(name) for name in names[~keep]]
        findings.padded += [str(name) for name in names[short & keep]] if self.short == "pad" else []
        if not keep.any():
            raise DataError(f"no series has {need} grid points", hint="shorten lookback or horizon", slug="too-short")
        return keep

    def _array_grid(self, matrix: Floats, start: Any) -> Gridded:
        if np.isinf(matrix).any():
            row, column = np.argwhere(np.isinf(matrix))[0]
            raise DataError(f"row {row}, {self.targets_[column]}: {matrix[row, column]:g} is infinite", slug="infinite")
        if len(matrix) < self.lookback:
            raise DataError(f"{len(matrix)} rows, lookback {self.lookback} needs more", hint="shorten lookback", slug="too-short")
        room = np.full((self.horizon, matrix.shape[1]), np.nan)
        first = np.array([np.datetime64(start, "ns") if isinstance(self.layout_.freq, str) else float(start)])
        return Gridded(
            np.array([TARGET], dtype=object), first, np.zeros(1, np.int64), np.array([len(matrix) + self.horizon]), self.horizon,
            np.concatenate([matrix, room]) if self.horizon else matrix, {}, self.layout_.clock,
        )  # fmt: skip

    def _believed(self, grid: Gridded, width: int, findings: Findings) -> Floats:
        """(T, K) target values that inputs are made of, in the space of the scale; NaN where missing or an outlier."""
        target = grid.values[:, :width]
        if self.scale == "log1p" and (target <= -1).any():
            row, column = np.argwhere(target <= -1)[0]
            number = int(np.searchsorted(grid.starts, row, side="right")) - 1
            stamp = text_of(grid.clock.ahead(grid.first[number : number + 1], [row - grid.part(number).start])[0, 0])
            raise DataError(
                f"series {str(grid.names[number])!r} ({stamp}): {self.targets_[column]} {target[row, column]:g} has no log1p",
                hint="choose scale: asinh or standard for values of -1 and below",
                slug="out-of-space",
            )
        believed = transforms.into(target, space_of(self.scale))
        if self.outliers == "none":
            return believed
        believed = believed.copy()
        for number in range(len(grid.lengths)):
            part = grid.part(number)
            far = hampel(target[part], self.outlier_window, self.outlier_threshold)
            believed[part][far] = np.nan
            findings.outliers += int(far.sum())
        return believed

    def _remark(self, grid: Gridded, columns: Columns, width: int, findings: Findings) -> None:
        """Shares of missing values, the longest gap, constant series; DataError beyond `max_missing`."""
        real = np.zeros(len(grid.values), dtype=bool)
        for number, name in enumerate(grid.names):
            part = grid.part(number)
            real[part] = True
            values = grid.values[part, :width]
            share = float(np.isnan(values).mean())
            if share > self.max_missing:
                raise DataError(
                    f"series {str(name)!r}: {share:.1%} of the grid points have no {TARGET}, max_missing is {self.max_missing:g}",
                    hint="leave it out, or raise max_missing",
                    slug="too-many-missing",
                )
            with np.errstate(invalid="ignore"):
                low, high = np.fmin.reduce(values), np.fmax.reduce(values)
            if bool((low == high).any()):
                findings.constant.append(str(name))
        names = (*self.targets_, *columns.numbers)
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

    def _scales(self, grid: Gridded, believed: Floats) -> tuple[Floats, Floats, Integers]:
        """(S, K) centre and spread, and the first row (S,) that may be an origin."""
        count, width = len(grid.lengths), believed.shape[1]
        since = grid.starts.copy()
        if self.level == "window":
            return np.zeros((count, width)), np.ones((count, width)), since
        centre, spread = np.empty((count, width)), np.empty((count, width))
        linear: transforms.Kind = "standard" if space_of(self.scale) != "identity" else self.scale
        for number, name in enumerate(grid.names):
            if self.level == "global" or str(name) in self.scaler_.scales:
                scale = self.scaler_.of(str(name))
            else:  # never seen: what is known at the last origin, so no earlier row can be one
                scale = transforms.scale_of(believed[grid.part(number)], linear)
                since[number] = grid.part(number).stop - 1
            centre[number], spread[number] = scale.shift, scale.scale
        return centre, spread, since

    def _filled(self, grid: Gridded, believed: Floats, centre: Floats | None, spread: Floats) -> tuple[Floats, Gaps | None, Bools | None]:
        """(T, K) gaps as the last row sees them, what nearer origins see (scaled), and where an open gap is too long to carry."""
        missing = np.isnan(believed)
        parts = [grid.part(number) for number in range(len(grid.lengths))]
        holed = [number for number, part in enumerate(parts) if missing[part].any()]
        if not holed:
            return believed, None, None
        filled, blank = believed.copy(), np.zeros(believed.shape, bool)
        cells = np.full(believed.shape, -1, np.int32)
        knots = np.full(believed.shape, -1, np.int32)
        unsettled = np.zeros(len(believed), bool)
        variants: list[Floats] = []
        count = 0
        season = self.layout_.season if self.edge == "damped_season" and self.layout_.season > 1 else 0
        for number in holed:
            part = parts[number]
            times, step = self._times(grid, number)
            seen = fills.layers(believed[part], times, self.fill, self._longest(step), season=season, damping=self.edge_damping)
            absent = missing[part]
            filled[part] = seen.values[-1]
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
        whole = np.concatenate(variants, axis=1)
        return filled, Gaps(cells, whole if centre is None else whole.astype(np.float32), knots, unsettled), blank

    def _times(self, grid: Gridded, number: int) -> tuple[Floats, float]:
        """Seconds (or the unit of numeric stamps) of the real rows of a series since the first, and the usual step."""
        part = grid.part(number)
        steps = np.arange(part.stop - part.start)
        if grid.clock.step is not None:
            step = grid.clock.step / 1e9 if isinstance(grid.clock.freq, str) else float(grid.clock.step)
            return steps * step, step
        seconds = as_seconds(grid.clock.ahead(grid.first[number : number + 1], steps)[0])
        return seconds, float(np.median(np.diff(seconds))) if len(seconds) > 1 else 1.0

    def _longest(self, step: float) -> float | None:
        """`max_fill` in the unit of `_times`."""
        if isinstance(self.max_fill, str):
            return duration(self.max_fill)
        return None if self.max_fill is None else self.max_fill * step

    def _filtered(self, grid: Gridded, believed: Floats, blank: Bools | None) -> Floats:
        """(T, K) each row smoothed by what is before it."""
        smooth = smoothing.one_sided_exp if self.smooth == "one_sided_exp" else smoothing.local_linear
        smoothed = np.full(believed.shape, np.nan)
        for number in range(len(grid.lengths)):
            part = grid.part(number)
            for column in range(believed.shape[1]):
                smoothed[part, column] = smooth(believed[part, column], self.smooth_strength)
        if blank is not None:
            smoothed[blank] = np.nan
        return smoothed

    def _spline(self, believed: NDArray[Any]) -> Spline:
        return Spline(believed, self.smooth_strength**4)

    def _covariates(self, grid: Gridded) -> Floats:
        """(T, …) numeric covariates: gaps carry the value before, then the median of training; standardised."""
        width, names = len(self.targets_), self.columns_.numbers
        values = grid.values[:, width:]
        if not names:
            return values
        statistics = np.array([self.columns_.statistics[name] for name in names])
        if np.isnan(values).any():
            values = np.take_along_axis(values, np.maximum(_last_seen(~np.isnan(values), grid), 0), axis=0)
            values = np.where((_last_seen(~np.isnan(grid.values[:, width:]), grid) < 0) | np.isnan(values), statistics[:, 0], values)
        scaled: Floats = (values - statistics[:, 1]) / statistics[:, 2]
        return scaled

    def _words(self, grid: Gridded, findings: Findings) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(T, …) one channel for each value of each category that changes in time, and of those known ahead; unknown is 0 in all."""
        past: list[NDArray[np.float32]] = [np.empty((len(grid.values), 0), np.float32)]
        future = past.copy()
        for name in self.columns_.texts:
            known = self.columns_.categories[name]
            codes = _coded(grid.texts[name], name, known, findings)
            carried = _last_seen((codes >= 0)[:, None], grid)[:, 0]
            codes = np.where(carried >= 0, codes[np.maximum(carried, 0)], 0)
            channels = (codes[:, None] == np.arange(1, len(known) + 1)).astype(np.float32)
            past.append(channels)
            if name in self.layout_.future:
                future.append(channels)
        return np.concatenate(past, axis=1), np.concatenate(future, axis=1)

    def _circles(self, grid: Gridded) -> NDArray[np.float32]:
        """(T, …) calendar channels; 0 in padded rows."""
        found = np.zeros((len(grid.values), 2 * len(self.cycles_)), np.float32)
        if not self.cycles_:
            return found
        for number, start in enumerate(grid.starts):
            rows = slice(start + grid.pads[number], start + grid.lengths[number])
            stamps = grid.clock.ahead(grid.first[number : number + 1], np.arange(rows.stop - rows.start))[0]
            found[rows] = calendars.channels(stamps, self.cycles_, self.time_zone)
        return found

    def _require_future(self, grid: Gridded) -> None:
        """DataError, naming column and time, where a future covariate is not known at a step to forecast."""
        width = len(self.targets_)
        for name in self.layout_.future:
            texts = name in self.columns_.texts
            known = is_given(grid.texts[name]) if texts else ~np.isnan(grid.values[:, width + self.columns_.numbers.index(name)])
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

    def _static_inputs(self, grid: Gridded, rows: Observations | None, findings: Findings) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        columns, count = self.columns_, len(grid.names)
        static, codes = np.empty((count, 0), np.float32), np.empty((count, 0), np.int64)
        if rows is not None and (columns.static_numbers or columns.static_texts):
            numbers, texts = _statics(rows, columns)
            if columns.static_numbers:
                statistics = np.array([columns.statistics[name] for name in columns.static_numbers])
                numbers = np.where(np.isnan(numbers), statistics[:, 0], numbers)
                static = ((numbers - statistics[:, 1]) / statistics[:, 2]).astype(np.float32)
            found = [np.maximum(_coded(texts[name], name, columns.categories[name], findings), 0) for name in columns.static_texts]
            codes = np.stack([*codes.T, *found], axis=1) if found else codes
        if self.series_codes:
            numbered = {name: number + 1 for number, name in enumerate(self.names_)}
            own = np.array([numbered.get(str(name), 0) for name in grid.names], np.int64)
            codes = np.concatenate([codes, own[:, None]], axis=1)
        return static, codes

    # --- what comes out ---

    @property
    def _masked(self) -> tuple[str, ...]:
        every = (*self.targets_, *self.columns_.numbers)
        return {"auto": self.columns_.gapped, "always": every, "never": ()}[self.masks]

    @property
    def channels(self) -> Names:
        """What the last axes of inputs are; known once fitted."""
        columns, layout = self.columns_, self.layout_
        circles = calendars.names_of(self.cycles_)
        smooth = () if self.smooth == "none" else tuple(f"{name}:smooth" for name in self.targets_)
        words = {name: tuple(f"{name}={value}" for value in columns.categories[name]) for name in columns.texts}
        own = ("series_id",) if self.series_codes else ()
        ahead = [name for name in columns.numbers if name in layout.future]
        return Names(
            targets=self.targets_,
            past=(*self.targets_, *smooth, *columns.numbers, *(w for name in columns.texts for w in words[name]), *circles,
                  *(f"{name}:{what}" for name in self._masked for what in ("mask", "age"))),
            future=(*ahead, *(w for name in columns.texts if name in layout.future for w in words[name]), *circles),
            static=columns.static_numbers,
            codes=(*columns.static_texts, *own),
            sizes=(*(len(columns.categories[name]) + 1 for name in columns.static_texts), *((len(self.names_) + 1,) if own else ())),
        )  # fmt: skip

    # --- keeping ---

    def state(self) -> dict[str, Any]:
        """Everything that was learned, JSON-like."""
        learned: dict[str, Any] = {}
        if hasattr(self, "columns_"):
            learned = {
                "layout": self.layout_.to_json(),
                "targets": list(self.targets_),
                "series": list(self.names_),
                "cycles": list(self.cycles_),
                "columns": asdict(self.columns_),
                "scaler": self.scaler_.to_json(),
                "findings": asdict(self.findings_),
                "fingerprint": self.fingerprint_,
            }
        told = {"lookback": self.lookback, "horizon": self.horizon}
        return {"version": VERSION, "params": self.params, **told, "learned": learned}

    @property
    def digest(self) -> str:
        """SHA-256 of the state: a model remembers the preprocessor that it was trained with."""
        return hashlib.sha256(json.dumps(self.state(), sort_keys=True).encode()).hexdigest()

    def save(self, folder: Path) -> None:
        files.write_json(folder / STATE, self.state())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises Damaged for a state that is none of this version."""
        state = files.read_json(folder / STATE)
        if not isinstance(state, dict) or state.get("version") != VERSION:
            raise Damaged(f"{STATE} is no preprocessor of this version", hint="train again", slug="bad-state")
        made = cls(**state["params"]).introduce(state["lookback"], state["horizon"])
        learned = state["learned"]
        if learned:
            made.layout_ = Layout.from_json(learned["layout"])
            made.targets_, made.names_, made.cycles_ = (tuple(learned[name]) for name in ("targets", "series", "cycles"))
            made.columns_ = Columns.from_json(learned["columns"])
            made.scaler_ = transforms.Scaler.from_json(learned["scaler"])
            made.findings_, made.fingerprint_ = Findings(**learned["findings"]), learned["fingerprint"]
        return made

    # --- for the contract suite ---

    @classmethod
    def example_data(cls) -> Selected:
        """Two series of 60 days, three of them not observed."""
        frame = example(unobserved=(10, 11, 75))
        return Selected(X=frame, y=frame[TARGET].to_numpy())


STATE = "preprocessor.json"
PARAMETERS = tuple(name for name in inspect.signature(SplinePreprocessor).parameters)


def space_of(scale: Scaling) -> transforms.Space:
    return scale if scale in ("log1p", "asinh") else "identity"


def fingerprint(grid: Gridded) -> str:
    """SHA-256 of the data on their grid."""
    found = hashlib.sha256()
    for part in (grid.first, grid.lengths, grid.values):
        found.update(np.ascontiguousarray(part).tobytes())
    for words in (grid.names, *grid.texts.values()):
        found.update(json.dumps([None if word is None else str(word) for word in words]).encode())
    return found.hexdigest()


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


def _matrix(values: ArrayLike) -> Floats:
    matrix = np.asarray(values, dtype=np.float64)
    matrix = matrix if matrix.ndim != 1 else matrix[:, None]
    if matrix.ndim != 2 or not matrix.size:
        raise DataError(f"an array (T,) or (T, K) is expected, got {matrix.shape}", slug="bad-shape")
    return matrix


def _observed(values: Floats, grid: Gridded) -> tuple[Bools, NDArray[np.float32]]:
    """Mask (T, V) and age in grid steps (T, V); inf before the first observation of a series."""
    mask = ~np.isnan(values)
    real = int((grid.lengths - grid.pads).sum()) - grid.ahead * len(grid.lengths)
    if not grid.pads.any() and int(mask.sum()) == real * mask.shape[1]:  # all but what is ahead
        return mask, np.broadcast_to(np.float32(0), mask.shape)
    last = _last_seen(mask, grid)
    return mask, np.where(last >= 0, np.arange(len(mask))[:, None] - last, np.inf).astype(np.float32)


def _last_seen(mask: Bools, grid: Gridded) -> Integers:
    """(T, V) row of the last observation of the same series at or before each row, -1 where there is none."""
    rows = np.arange(len(mask))[:, None]
    last = np.maximum.accumulate(np.where(mask, rows, -1), axis=0)
    begins = np.repeat(grid.starts, grid.lengths)[:, None]
    return np.where(last >= begins, last, -1)


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


def _statics(rows: Observations, columns: Columns) -> tuple[Floats, dict[str, NDArray[np.object_]]]:
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


def _duration(time: Any) -> str:
    import pandas as pd

    return str(pd.Timedelta(time)) if isinstance(time, np.timedelta64) else f"{float(time):g}"
