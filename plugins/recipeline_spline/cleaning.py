"""From rows as they come to a prepared panel: checked, on a grid, filled, smoothed, scaled, so that no origin sees what is after it.

The order is that of the steps in `SplinePreprocessor`. The non-linear part of a scale (log1p, asinh) comes first of all that
is reckoned with values: gaps are filled and curves smoothed in the space in which the network sees them, so that no polynomial
of a positive series goes below zero. For all other scales filling and scaling commute.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recipeline.contracts import Selected
from recipeline.errors import Damaged, DataError, Problem, RecipeError
from recipeline.stores import files
from recipeline.timeseries import fills, smoothing, transforms
from recipeline.timeseries.frames import SERIES, TARGET, TIME, Duplicates, Layout, example, season_of, text_of
from recipeline.timeseries.grid import Aggregate
from recipeline.timeseries.outliers import hampel
from recipeline_spline import calendars, covariates, filling, gridded
from recipeline_spline.covariates import Columns
from recipeline_spline.gridded import Gridded, Use
from recipeline_spline.observations import Findings, NonMonotonic, Observations, observations, parsed_stamps, require
from recipeline_spline.options import Edge, Masks, Outliers, Scaling, Short, problems, space_of
from recipeline_spline.prepared import Names, Prepared, Spline

if TYPE_CHECKING:
    import pandas as pd

    from recipeline.contracts import Evaluation

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

VERSION = 2
OLDEST = 1000.0  # grid steps; older is as old


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
        grid, rows = self._gridded(rows, layout, columns, findings, "fit")
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
        gridded.remark(grid, self.targets_, columns.numbers, self.max_missing, findings)
        parts = [(str(name), grid.part(number)) for number, name in enumerate(grid.names)]
        known = ~np.isnan(believed)
        scaler = transforms.Scaler(self.scale, self.level)
        self.scaler_ = scaler.fit({name: grid.values[part, :width] for name, part in parts}, {name: known[part] for name, part in parts})
        real = np.concatenate([np.arange(part.start, part.stop) for _, part in parts])
        self.columns_ = columns.learned(grid, real, width, rows, () if known[real].all() else self.targets_)
        self.names_ = tuple(name for name, _ in parts)
        self.cycles_ = calendars.useful(grid.clock) if isinstance(self.calendar, str) else tuple(self.calendar)
        self.findings_ = findings
        self.fingerprint_ = gridded.fingerprint(grid)

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
        grid, rows = self._gridded(rows, self.layout_, self.columns_, findings, use)
        if use == "question":
            covariates.require_future(grid, self.columns_, self.layout_.future, len(self.targets_))
        return self._assembled(grid, rows, findings)

    def _assembled(self, grid: Gridded, rows: Observations | None, findings: Findings) -> Prepared:
        columns, width = self.columns_, len(self.targets_)
        believed = self._believed(grid, width, findings)
        observed, age = gridded.observed(believed if grid.values.shape[1] == width else np.hstack([believed, grid.values[:, width:]]), grid)
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

        filled, gaps, blank = filling.filled(grid, believed, centre if affine else None, spread, self._filling)
        blocks: list[NDArray[Any]] = [scaled(filled)]
        if self.smooth == "spline_window":
            blocks.append(np.zeros((len(believed), width)))  # of each origin its own: see Prepared.gather
        elif self.smooth != "none":
            blocks.append(scaled(filling.filtered(grid, believed, blank, self.smooth, self.smooth_strength)))
        spline = Spline(scaled(believed), self.smooth_strength**4) if self.smooth == "spline_window" else None
        if affine and self.smooth == "none":  # what is not known is 0; elsewhere it must be told apart until the window is known
            blocks = [np.nan_to_num(block, copy=False, nan=0.0) for block in blocks]
            gaps = gaps and replace(gaps, variants=np.nan_to_num(gaps.variants, nan=0.0))
        numbers = covariates.numeric(grid, columns, width)
        words, future_words = covariates.words(grid, columns, self.layout_.future, findings)
        circles = covariates.circles(grid, self.cycles_, self.time_zone)
        blocks += [numbers, words, circles]
        for name in self._masked:
            at = (*self.targets_, *columns.numbers).index(name)
            young = np.log1p(np.minimum(age[:, at], OLDEST)) / np.log1p(OLDEST)
            blocks += [observed[:, at : at + 1], young[:, None]]
        blocks = [block for block in blocks if block.shape[1]]
        table = blocks[0] if len(blocks) == 1 else np.concatenate(blocks, axis=1, dtype=np.float32 if affine else np.float64)
        known_ahead = [at for at, name in enumerate(columns.numbers) if name in self.layout_.future]
        static, codes = covariates.static_inputs(grid, columns, rows, self.names_ if self.series_codes else None, findings)
        target = grid.values[:, :width]
        return Prepared(
            layout=self.layout_, clock=grid.clock, names=grid.names, first=grid.first, pads=grid.pads, lengths=grid.lengths,
            ahead=grid.ahead, channels=self.channels, target=target, observed=observed, age=age, table=np.ascontiguousarray(table),
            future=np.concatenate([numbers[:, known_ahead], future_words, circles], axis=1, dtype=np.float32), static=static,
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

    def _gridded(self, rows: Observations, layout: Layout, columns: Columns, findings: Findings, use: Use) -> tuple[Gridded, Observations]:
        return gridded.on_grid(
            rows, layout, columns, findings, use, lookback=self.lookback, horizon=self.horizon, short=self.short, agg=self.agg
        )

    @property
    def _filling(self) -> filling.Filling:
        season = self.layout_.season if self.edge == "damped_season" and self.layout_.season > 1 else 0
        return filling.Filling(self.fill, self.max_fill, season, self.edge_damping)

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


def _matrix(values: ArrayLike) -> Floats:
    matrix = np.asarray(values, dtype=np.float64)
    matrix = matrix if matrix.ndim != 1 else matrix[:, None]
    if matrix.ndim != 2 or not matrix.size:
        raise DataError(f"an array (T,) or (T, K) is expected, got {matrix.shape}", slug="bad-shape")
    return matrix
