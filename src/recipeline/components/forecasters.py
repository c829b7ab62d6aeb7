"""Built-in forecasters: the forecasts that any model has to beat, and a regression on lags with any of scikit-learn's regressors.

Both are global: one model for all series of a panel, that answers for series it has never seen. Their quantiles come from
their own errors at earlier origins, in units of how much a series moves (split conformal; Vovk, Gammerman and Shafer 2005).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import Ridge

from recipeline.contracts import FitContext, Selected
from recipeline.errors import DataError, Problem
from recipeline.timeseries import baselines
from recipeline.timeseries.fills import Layers, forward, layers
from recipeline.timeseries.frames import TARGET, TIME, Layout, Panel, example, forecasts, ordered, panel
from recipeline.timeseries.windows import windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Integers = NDArray[np.int64]

Kind = Literal["naive", "seasonal_naive", "drift", "moving_average", "nlinear"]
BASELINES: tuple[Kind, ...] = get_args(Kind)
LOOK = 8
"""Grid points that a baseline looks back at least; two seasons where these are more."""
RESIDUALS_MOST = 20_000
"""Earlier origins whose errors make the quantiles of a baseline, or from which it learns; of more an even selection."""
BLOCKS = 5
"""Parts of the earlier origins, each forecast by what was learned from the others: the errors of a baseline that learns."""


# --- baselines -------------------------------------------------------------------------------------------------------


class Baseline(BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """A forecast by rule: naive, seasonal naive, drift or moving average (Hyndman and Athanasopoulos 2021, 5.2); or NLinear.

    kind       naive: the last value; seasonal_naive: the value one season before; drift: the line through the ends of the last
               two seasons; moving_average: the mean of the last season; nlinear: a ridge regression on the values looked back
               at, all as differences from the last one (Zeng et al. 2023), one for all series; the toughest of the cheap rivals
    horizon    steps forecast          season     grid points; None takes that of the data
    quantiles  levels, from the errors at earlier origins          layout     what the columns are; `expect` tells it
    lookback   grid points looked back at, where these are more than two seasons

    A value that was not observed is the last one observed; for seasonal_naive that of one season before, where there is one. A
    series that is shorter than two seasons is continued to the left with its first value. nlinear without any window to learn
    from is what its ridge shrinks to: naive. Its errors at earlier origins are those of regressions that had not seen them.
    """

    def __init__(
        self,
        kind: Kind,
        horizon: int,
        *,
        season: int | None = None,
        quantiles: Sequence[float] = (),
        layout: Layout | None = None,
        lookback: int | None = None,
    ) -> None:
        self.kind, self.horizon, self.season, self.quantiles, self.layout = kind, horizon, season, quantiles, layout
        self.lookback = lookback

    def expect(self, schema: Any) -> None:
        self.layout = Layout.of(schema)

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:
        """Learn the regression, where there is one, and how far off the forecasts were; else there is nothing to learn.

        Raises DataError where the series are too short for the quantiles.
        """
        layout = self.layout or Layout.of(X)
        self.layout_, self.season_ = layout.to_json(), self.season or layout.season
        self.offsets_ = np.zeros((len(self.quantiles), self.horizon))
        self.line_: baselines.NLinear | None = None
        if not len(self.quantiles) and self.kind != "nlinear":
            return self
        past, future = self._history(panel(X, layout))
        if self.kind == "nlinear":
            self.line_ = _regression(past, future)
        if len(self.quantiles):
            point = _left_out(past, future) if self.kind == "nlinear" else self._point(past)
            self.offsets_ = offsets((future - point) / _movement(past)[:, None], self.quantiles)
        return self

    def _history(self, line: Panel) -> tuple[Floats, Floats]:
        """Windows (N, look) and what came (N, horizon) of all series, of very many an even selection."""
        found = [self._windows(line.of(number)[:, 0]) for number in range(len(line.names))]
        total = sum(len(past) for past, _ in found)
        chosen = np.linspace(0, total - 1, min(total, RESIDUALS_MOST)).astype(np.intp)
        ends = np.cumsum([len(past) for past, _ in found])
        parts = np.split(chosen, np.searchsorted(chosen, ends[:-1]))
        starts = [0, *ends[:-1]]
        pasts = [past[rows - start] for (past, _), rows, start in zip(found, parts, starts, strict=True)]
        futures = [future[rows - start] for (_, future), rows, start in zip(found, parts, starts, strict=True)]
        return np.concatenate(pasts), np.concatenate(futures)

    def predict(self, X: pd.DataFrame) -> pd.DataFrame:
        """series_id, step, prediction and q… after the last row of every series of a long frame."""
        layout = Layout.from_json(self.layout_)
        line = panel(X, layout)
        ahead = self.horizon if layout.future else 0
        past = np.stack([self._padded(self._carried(line.of(i)[: line.lengths[i] - ahead, 0])) for i in range(len(line.names))])
        point = self._point(past)
        if not len(self.quantiles):
            return forecasts(line.names, point)
        fan = point[:, :, None] + _movement(past)[:, None, None] * self.offsets_.T[None]
        return forecasts(line.names, point, fan, tuple(self.quantiles))

    @property
    def _look(self) -> int:
        return max(LOOK, 2 * self.season_, self.lookback or 0)

    def _point(self, past: Floats) -> Floats:
        """(N, look) -> (N, horizon)"""
        if self.kind == "nlinear" and self.line_ is not None:
            return self.line_.predict(past)
        if self.kind == "seasonal_naive":
            return baselines.seasonal_naive(past, self.horizon, self.season_)
        if self.kind == "drift":
            return baselines.drift(past[:, -max(LOOK, 2 * self.season_) :], self.horizon)
        if self.kind == "moving_average":
            return baselines.moving_average(past, self.horizon, self.season_ if self.season_ > 1 else LOOK)
        return baselines.naive(past, self.horizon)

    def _carried(self, values: Floats) -> Floats:
        return _carried(values, self.season_ if self.kind == "seasonal_naive" else 1)

    def _padded(self, carried: Floats) -> Floats:
        lacking = max(0, self._look - len(carried))
        return np.concatenate([np.full(lacking, carried[0]), carried[-self._look :]])

    def _windows(self, values: Floats) -> tuple[Floats, Floats]:
        """Histories (N, look) and what came (N, horizon), from origins that have at least two seasons, or half of a short series."""
        known = np.flatnonzero(~np.isnan(values))
        if not len(known):
            return np.empty((0, self._look)), np.empty((0, self.horizon))
        values = values[known[0] : known[-1] + 1]
        least = min(self._look, max(2, len(values) // 2))
        if len(values) < least + self.horizon:
            return np.empty((0, self._look)), np.empty((0, self.horizon))
        carried = self._carried(values)
        padded = np.concatenate([np.full(self._look - least, carried[0]), carried])
        past = sliding_window_view(padded[: len(padded) - self.horizon], self._look)
        return past, sliding_window_view(values[least:], self.horizon)


def _regression(past: Floats, future: Floats) -> baselines.NLinear | None:
    """The ridge regression of what came (N, horizon) on histories (N, look); None where there is nothing to learn from.

    Where most windows hold a step that was not observed, each step is learned from the windows in which it was.
    """
    seen = ~np.isnan(future)
    whole = seen.all(axis=1)
    if 2 * int(whole.sum()) >= len(past) > 0:
        return baselines.fit_nlinear(past, future)
    if not seen.any(axis=0).all():
        return None
    steps = [baselines.fit_nlinear(past, future[:, step : step + 1]) for step in range(future.shape[1])]
    return baselines.NLinear(np.column_stack([one.weights for one in steps]), np.concatenate([one.intercept for one in steps]))


def _left_out(past: Floats, future: Floats) -> Floats:
    """(N, horizon) forecasts from each history by a regression on the other blocks of them."""
    said = np.repeat(past[:, -1:], future.shape[1], axis=1)
    for block in np.array_split(np.arange(len(past)), BLOCKS):
        others = np.setdiff1d(np.arange(len(past)), block)
        found = _regression(past[others], future[others])
        if found is not None and len(block):
            said[block] = found.predict(past[block])
    return said


class SeasonalNaive(Baseline):
    """The value of one season before: what any forecaster has to beat.

    horizon    steps forecast
    season     grid points; None takes that of the data: data_interface.season, else by the frequency
    quantiles  levels, from the errors at earlier origins
    """

    def __init__(self, horizon: int, *, season: int | None = None, quantiles: Sequence[float] = ()) -> None:
        super().__init__("seasonal_naive", horizon, season=season, quantiles=quantiles)

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        return _check(params, ("horizon", "season"))

    @classmethod
    def example(cls) -> dict[str, Any]:
        return {"horizon": 3, "season": 7, "quantiles": [0.1, 0.9]}

    @classmethod
    def example_data(cls) -> Selected:
        return _example()


# --- regression on lags ------------------------------------------------------------------------------------------------


class LaggedRegression(BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """The next `horizon` values as regressions on the last `lookback` ones: direct, one output per step, one model for all series.

    What is regressed are differences from the last value, in units of how much the window moves, as NLinear does without the
    units (Zeng et al. 2023, "Are transformers effective for time series forecasting?"); so level and size of a series do not
    matter, and an unseen one is answered. Past covariates enter by their last value and their mean over the lookback, future
    ones by their values at every step, static ones as they are (text by one column per value).

    horizon      steps forecast                 lookback  grid points looked back at
    estimator    any regressor of scikit-learn's manner; Ridge by default. One that takes a single target is fitted per step
    quantiles    levels, from the errors on rows held back: `calibration_size` of the validation method, else the last
                 `calibration` of the windows, on which the regressors that are kept are fitted afterwards as well
    calibration  share of the windows

    Inputs that were not observed are interpolated between what the origin knows, at its edge carried; outputs never are: a
    window counts for the steps that were observed. Windows of which less than half was observed are not learned from.
    """

    def __init__(
        self,
        horizon: int,
        lookback: int,
        *,
        estimator: Any = None,
        quantiles: Sequence[float] = (),
        calibration: float = 0.2,
    ) -> None:
        self.horizon, self.lookback, self.estimator = horizon, lookback, estimator
        self.quantiles, self.calibration = quantiles, calibration

    def expect(self, schema: Any) -> None:
        self.layout = Layout.of(schema)

    def fit(self, X: pd.DataFrame, y: Any = None, *, context: FitContext | None = None) -> Self:
        """Learn from all windows of a long frame.

        Raises DataError where no series is as long as lookback and horizon, or too few windows are left for the quantiles.
        """
        layout = getattr(self, "layout", None) or Layout.of(X)
        self.layout_ = layout.to_json()
        held = None if context is None else context.validation
        whole = X if held is None else pd.concat([X, held.X], ignore_index=True)
        self.statics_ = _categories(whole, layout)
        sight = _Sight(whole, layout, self.lookback, self.statics_)
        found = windows(sight.line.values[:, :1], lookback=self.lookback, horizon=self.horizon, lengths=sight.line.lengths.tolist())
        origins = found.origins.astype(np.int64)
        future = found.batch().future[:, :, 0].astype(np.float64)
        ends = sight.numbers(origins) + self.horizon
        learn = np.ones(len(origins), dtype=bool)
        if held is not None:
            border = sight.number_of(held.X[TIME].min())
            learn, judged = ends < border, sight.numbers(origins) + 1 >= border
        elif len(self.quantiles):
            starts = ends - self.horizon
            border = int(np.quantile(starts, 1 - self.calibration, method="higher"))
            learn, judged = ends < border, starts >= border
        if not learn.any():
            hint = "give longer series, or make lookback, horizon or the held-back part smaller"
            raise DataError("no window is left to learn from beside those held back", hint=hint, slug="too-short")
        self._learn(sight, origins[learn], future[learn])
        self.offsets_ = np.zeros((len(self.quantiles), self.horizon))
        if len(self.quantiles):
            point, spread = self._forecast(sight, origins[judged])
            self.offsets_ = offsets((future[judged] - point) / spread[:, None], self.quantiles)
            if held is None:
                self._learn(sight, origins, future)
        return self

    def predict(self, X: pd.DataFrame) -> pd.DataFrame:
        """series_id, step, prediction and q… after the last row of every series of a long frame."""
        layout = Layout.from_json(self.layout_)
        sight = _Sight(X, layout, self.lookback, self.statics_)
        ahead = self.horizon if layout.future else 0
        short = sight.line.lengths - ahead < self.lookback
        if short.any():
            name, length = sight.line.names[short][0], int(sight.line.lengths[short][0]) - ahead
            more = f" (and {int(short.sum()) - 1} more series)" if short.sum() > 1 else ""
            what = f"series {name!r} has a history of {length} grid points, lookback is {self.lookback}{more}"
            raise DataError(what, hint="give more history, null where nothing was observed", slug="too-short")
        point, spread = self._forecast(sight, sight.line.starts + sight.line.lengths - 1 - ahead)
        if not len(self.quantiles):
            return forecasts(sight.line.names, point)
        fan = point[:, :, None] + spread[:, None, None] * self.offsets_.T[None]
        return forecasts(sight.line.names, point, fan, tuple(self.quantiles))

    def _learn(self, sight: _Sight, origins: Integers, future: Floats) -> None:
        features, last, spread = sight.features(origins, self.horizon)
        covariates = features[:, self.lookback :]
        with np.errstate(invalid="ignore"):
            self.middle_ = np.array([np.median(column[~np.isnan(column)]) if (~np.isnan(column)).any() else 0.0 for column in covariates.T])
            known = np.where(np.isnan(covariates), self.middle_, covariates)
            self.size_ = np.where(known.std(axis=0) > 0, known.std(axis=0), 1.0)
        inputs = self._inputs(features)
        outputs = (future - last[:, None]) / spread[:, None]
        estimator = Ridge() if self.estimator is None else self.estimator
        seen = ~np.isnan(outputs)
        if _many_outputs(estimator) and seen.all():
            self.estimators_ = [clone(estimator).fit(inputs, outputs if self.horizon > 1 else outputs[:, 0])]
            return
        self.estimators_ = []
        for step in range(self.horizon):
            rows = seen[:, step]
            if not rows.any():
                raise DataError(f"step {step + 1} of the horizon was never observed", hint="look at the targets", slug="too-short")
            self.estimators_.append(clone(estimator).fit(inputs[rows], outputs[rows, step]))

    def _inputs(self, features: Floats) -> Floats:
        """Lags as they are, covariates in units of how much they vary, unknown ones at their training median."""
        covariates = features[:, self.lookback :]
        known = (np.where(np.isnan(covariates), self.middle_, covariates) - self.middle_) / self.size_
        return np.ascontiguousarray(np.column_stack([features[:, : self.lookback], known]))

    def _forecast(self, sight: _Sight, origins: Integers) -> tuple[Floats, Floats]:
        """Points (N, horizon) and how much each window moves (N,)."""
        features, last, spread = sight.features(origins, self.horizon)
        inputs = self._inputs(features)
        said = [np.asarray(one.predict(inputs), dtype=np.float64).reshape(len(inputs), -1) for one in self.estimators_]
        return np.concatenate(said, axis=1) * spread[:, None] + last[:, None], spread

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        problems = _check(params, ("horizon", "lookback"))
        share = params.get("calibration", 0.2)
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share < 1:
            problems.append(Problem("bad-value", ("calibration",), f"{share!r} is not a share between 0 and 1", at="value"))
        return problems

    @classmethod
    def example(cls) -> dict[str, Any]:
        return {"horizon": 3, "lookback": 7, "quantiles": [0.1, 0.5, 0.9]}

    @classmethod
    def example_data(cls) -> Selected:
        return _example()


@dataclass(frozen=True)
class _Sight:
    """What a long frame lets an origin see."""

    frame: pd.DataFrame
    layout: Layout
    lookback: int
    statics: Mapping[str, Sequence[Any]]

    @cached_property
    def line(self) -> Panel:
        for name in (*self.layout.past, *self.layout.future):
            if self.frame[name].dtype == object and not self.frame[name].isna().all():
                kinds = pd.api.types.infer_dtype(self.frame[name], skipna=True)
                if kinds != "boolean":
                    hint = "encode it by numbers in the source, or make it a static covariate"
                    raise DataError(f"covariate {name!r} holds {kinds} values, numbers expected", hint=hint, slug="bad-covariate")
        return panel(self.frame, self.layout, (*self.layout.past, *self.layout.future))

    @cached_property
    def filled(self) -> Layers:
        parts = [layers(self.line.of(i)[:, 0], np.arange(n), "linear") for i, n in enumerate(self.line.lengths)]
        return Layers.join(parts)

    @cached_property
    def covariates(self) -> Floats:
        """(T, C) past and future ones, gaps carried forward."""
        pieces = [forward(self.line.of(i)[:, 1:]) for i in range(len(self.line.names))]
        return np.concatenate(pieces) if pieces else np.empty((0, 0))

    def numbers(self, origins: Integers) -> Integers:
        """(N,) where origins stand on the one grid of all series."""
        line = self.line
        begins = line.clock.steps(line.first.min(), line.first)
        series = np.searchsorted(line.starts, origins, side="right") - 1
        return begins[series] + origins - line.starts[series]

    def number_of(self, stamp: Any) -> int:
        from recipeline.timeseries.frames import stamps_of

        return int(self.line.clock.steps(self.line.first.min(), stamps_of(pd.Series([stamp])))[0])

    def features(self, origins: Integers, horizon: int) -> tuple[Floats, Floats, Floats]:
        """Lags and covariates (N, lookback + …), the last value (N,) and how much the window moves (N,)."""
        past = self.filled.at(origins, self.lookback)[:, :, 0]
        first = np.argmax(~np.isnan(past), axis=1)
        past = np.where(np.isnan(past), past[np.arange(len(past)), first][:, None], past)  # before the first observation
        if np.isnan(past).any():
            series = int(np.searchsorted(self.line.starts, origins[np.isnan(past).any(axis=1)][0], side="right")) - 1
            what = f"series {self.line.names[series]!r} has no observed value in a window of {self.lookback} grid points"
            raise DataError(what, hint="give more history", slug="no-history")
        last = past[:, -1]
        spread = np.mean(np.abs(past - last[:, None]), axis=1)
        spread = np.where(spread > 1e-9 * np.abs(last), spread, 1.0)
        blocks = [(past - last[:, None]) / spread[:, None]]
        for column in range(len(self.layout.past)):
            seen = sliding_window_view(self.covariates[:, column], self.lookback)[origins - self.lookback + 1]
            count = np.sum(~np.isnan(seen), axis=1)
            mean = np.where(count > 0, np.nansum(seen, axis=1) / np.maximum(count, 1), np.nan)
            blocks += [seen[:, -1:], mean[:, None]]
        for column in range(len(self.layout.past), len(self.layout.past) + len(self.layout.future)):
            blocks.append(sliding_window_view(self.covariates[:, column], horizon + 1)[origins])
        blocks.append(self._static()[np.searchsorted(self.line.starts, origins, side="right") - 1])
        return np.column_stack(blocks), last, spread

    def _static(self) -> Floats:
        """(S, ·) one row per series."""
        if not self.layout.static:
            return np.empty((len(self.line.names), 0))
        order, _, codes, _ = ordered(self.frame)
        of_series = self.frame.iloc[order[np.flatnonzero(np.diff(codes, prepend=-1))]]
        blocks = []
        for name in self.layout.static:
            values = of_series[name]
            known = self.statics.get(name)
            if known is None:
                blocks.append(values.to_numpy(dtype=np.float64, na_value=np.nan)[:, None])
            else:
                blocks.append((values.astype(str).to_numpy()[:, None] == np.asarray(known)[None]).astype(np.float64))
        return np.column_stack(blocks)


def offsets(errors: Floats, levels: Sequence[float]) -> Floats:
    """(Q, horizon) quantiles of past errors (n, horizon), NaN left out: the (n + 1) q-th smallest, between neighbours by a line.

    DataError where n is too small for the outermost level, naming the smallest n.
    """
    outer = min(min(level, 1 - level) for level in levels)
    needed = math.ceil(1 / outer - 1e-9) - 1
    count = np.sum(~np.isnan(errors), axis=0) if len(errors) else np.zeros(errors.shape[1])
    if count.min() < needed:
        raise DataError(
            f"{int(count.min())} earlier forecasts are too few for the quantile {outer:g}: at least {needed} are needed",
            hint="give longer series, a larger calibration part, or quantiles nearer to 0.5",
            slug="too-short",
        )
    return np.stack([np.nanquantile(errors, level, axis=0, method="weibull") for level in levels])


def _movement(past: Floats) -> Floats:
    """(N,) mean absolute change within histories (N, L); 1 where nothing moves."""
    change = np.mean(np.abs(np.diff(past, axis=1)), axis=1)
    return np.where(change > 1e-9 * np.abs(past[:, -1]), change, 1.0)


def _carried(values: Floats, season: int) -> Floats:
    """(T,) gaps filled by the value one season before, else by the last one observed; before the first observation by it."""
    padded = np.concatenate([values, np.full(-len(values) % season, np.nan)]).reshape(-1, season)
    seasonal = forward(padded).ravel()[: len(values)]
    carried = forward(seasonal[:, None])[:, 0]
    known = carried[~np.isnan(carried)]
    return np.where(np.isnan(carried), known[0], carried)


def _categories(frame: pd.DataFrame, layout: Layout) -> dict[str, list[str]]:
    """The values of static covariates that are text."""
    text = [name for name in layout.static if frame[name].dtype == object or isinstance(frame[name].dtype, pd.StringDtype)]
    return {name: sorted(frame[name].dropna().astype(str).unique().tolist()) for name in text}


def _many_outputs(estimator: Any) -> bool:
    from sklearn.utils import get_tags

    return bool(get_tags(estimator).target_tags.multi_output)


def _check(params: Mapping[str, Any], counts: Sequence[str]) -> list[Problem]:
    problems = []
    for name in counts:
        value = params.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            problems.append(Problem("bad-value", (name,), f"{value!r} is not a number of steps, 1 or more", at="value"))
    levels = params.get("quantiles") or ()
    if not isinstance(levels, list | tuple) or not all(isinstance(level, int | float) and 0 < level < 1 for level in levels):
        problems.append(
            Problem("bad-value", ("quantiles",), "levels between 0 and 1 expected", "write quantiles: [0.1, 0.5, 0.9]", "value")
        )
    elif list(levels) != sorted(set(levels)):
        problems.append(
            Problem("bad-value", ("quantiles",), f"{list(levels)} is not in ascending order", "each level once, sorted", "value")
        )
    return problems


def _example() -> Selected:
    """Two series of 60 days, three of them not observed."""
    frame = example(unobserved=(20, 33, 90))
    return Selected(X=frame, y=frame[TARGET].to_numpy())
