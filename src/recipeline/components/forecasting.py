"""The task `forecasting`: histories of series go in, the next `horizon` steps of each come out.

Data are a long frame: one row per series and time stamp. A row without a target was not observed; it is never filled here, and
counts in no metric. What a forecaster is asked, and what it answers, is the seam below; `recipeline.timeseries.frames` has
the means for both sides of it.

The frame `X` that a forecaster sees, in `fit` and in `predict`, has one row per row of the data, ordered by series and time:

    series_id   as the data have it; the name of the target where there is only one series
    timestamp   datetime64[ns], with zone UTC where the data have a zone; or numbers
    target      float64, NaN where not observed
    and every covariate under its own name

A forecaster is a model with

    horizon             an attribute: how many steps it forecasts. Never searched: the validation method cuts by it
    quantiles           an attribute, optional: the levels it gives beside the point forecast
    enough              an attribute, optional: grid points that it answers from, where that is less than its `lookback`
    notes               an attribute, optional: names of columns of text or of true and false of its answer that the output has too
    expect(schema)      optional: told the input contract before it is fitted; `frames.Layout.of(schema)` says the grid and
                        which covariates are past, future or static
    fit(X, y, context)  `y` is X's target (n,); `context` where it asks for it. `context.validation.X` are the rows right after
                        those of X, held back for early stopping and calibration: inputs of their windows may reach back into X
    predict(X)          forecasts for the `horizon` grid steps after the last row of every series, null or not. Where there are
                        future covariates, the last `horizon` steps of X are those rows: their targets are null

`predict` returns a frame `series_id, step (1 … horizon), prediction, q0.1 …`, each series and step once, in any order; or an
array (S, horizon) of points or (S, horizon, Q) in the order of `quantiles`, series in the order of X, where the point is the
level 0.5 (else the mean of the two levels nearest to it). The task adds the time stamps.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from recipeline.components.forecast_metrics import FORECASTING
from recipeline.contracts import FitContext, Metric, Output, Selected, takes_context
from recipeline.errors import DataError, Problem, RecipeError, TrainingFailed, did_you_mean
from recipeline.schema import Column, InputSchema, no_number, no_time
from recipeline.timeseries.frames import (
    PREDICTION,
    SERIES,
    STEP,
    TARGET,
    TIME,
    Clock,
    Layout,
    coded,
    forecasts,
    infer_freq,
    levels_of,
    ordered,
    quantile_column,
    season_of,
    stamps_of,
    text_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("recipeline")

EXAMPLE_SEASONS = 2
"""Seasons of history in the example of the input contract, where the model does not say how much it looks back."""


class ForecastingInterface(BaseModel):
    """`data_interface` of `task_type: forecasting`.

    target_col         what is forecast: numbers, null where not observed
    timestamp_col      the time of a row
    freq               the step of the grid: 5min, h, D, W-SAT, ME … (or a number, where stamps are numbers); null infers it
    series_col         which series a row belongs to; null where there is only one
    season             grid steps after which things repeat, for baselines and scaled errors; null takes it from the frequency
    past_covariates    columns known up to the origin
    future_covariates  columns known beyond it as well: prices, holidays
    static_covariates  columns that say something of the series and do not change within it
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task_type: Literal["forecasting"] = "forecasting"
    target_col: str
    timestamp_col: str
    freq: str | float | None = None
    series_col: str | None = None
    season: int | None = Field(default=None, ge=1)
    past_covariates: tuple[str, ...] = ()
    future_covariates: tuple[str, ...] = ()
    static_covariates: tuple[str, ...] = ()

    @field_validator("past_covariates", "future_covariates", "static_covariates", mode="before")
    @classmethod
    def _one_name(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else () if value is None else value

    @field_validator("freq")
    @classmethod
    def _is_a_frequency(cls, value: Any) -> Any:
        if value is not None:
            try:
                Clock(value)
            except DataError as error:
                raise ValueError(f"{error.message}; {error.hint}") from error
        return value

    @model_validator(mode="after")
    def _one_role_each(self) -> Self:
        roles = {"target_col": (self.target_col,), "timestamp_col": (self.timestamp_col,), "series_col": (self.series_col,)}
        covariates = {name: getattr(self, name) for name in ("past_covariates", "future_covariates", "static_covariates")}
        taken: dict[str, str] = {}
        for key, columns in {**roles, **covariates}.items():
            for column in columns:
                if column in taken:
                    raise ValueError(f"{column} cannot be in {taken[column]} and in {key}")
                if column is not None:
                    taken[column] = key
        for key, columns in covariates.items():
            for column in columns:
                if column in (SERIES, TIME, TARGET):
                    raise ValueError(f"a covariate cannot be called {column}; rename {key} {column}")
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        return (self.target_col,)

    @property
    def keys(self) -> tuple[str, ...]:
        return (*((self.series_col,) if self.series_col else ()), self.timestamp_col)

    @property
    def covariates(self) -> tuple[str, ...]:
        return (*self.past_covariates, *self.future_covariates, *self.static_covariates)


class Forecasting:
    """The next steps of one series, or of each series of a panel, with quantiles where the model gives them."""

    Interface: ClassVar[type[BaseModel]] = ForecastingInterface
    metrics: ClassVar[tuple[Metric, ...]] = FORECASTING
    preprocessor: ClassVar[str | None] = None
    splitter: ClassVar[str] = "rolling_origin"
    evaluator: ClassVar[str] = "forecast_evaluator"
    streams: ClassVar[Literal["rows", "groups", "whole"]] = "groups"
    unsearched: ClassVar[tuple[str, ...]] = ("horizon",)

    def __init__(self, interface: ForecastingInterface) -> None:
        self.interface = interface
        self.horizon = 1
        self.lookback: int | None = None
        self.quantiles: tuple[float, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.freq = interface.freq  # once data were described: theirs
        self.merging: Mapping[str, Any] = {}

    def introduce(self, model: Any, preprocessor: Any = None) -> None:
        """Learn from the unfitted model how far it forecasts, before the data are cut, and from the preprocessor what it makes of rows
        that meet: what is judged, and what baselines are given, is the same.

        Raises RecipeError where it does not say.
        """
        horizon = getattr(model, "horizon", None)
        if not isinstance(horizon, int) or isinstance(horizon, bool) or horizon < 1:
            what = f"{type(model).__name__} does not say how many steps it forecasts"
            if horizon is not None:
                what = f"{horizon!r} is no number of steps to forecast"
            hint = "forecasters have an argument `horizon`, a number of steps; seasonal_naive and lagged_regression are built in"
            raise RecipeError(Problem("no-horizon", ("model", "hyperparameters", "horizon"), what, hint))
        self.horizon = horizon
        lookback = getattr(model, "enough", None) or getattr(model, "lookback", None)
        self.lookback = lookback if isinstance(lookback, int) else None
        self.quantiles = tuple(float(level) for level in getattr(model, "quantiles", None) or ())
        self.notes = tuple(getattr(model, "notes", ()))
        self.merging = getattr(preprocessor, "merging", {})

    # --- the input contract ---

    def describe(self, data: Any) -> InputSchema:
        """The columns of the interface; covariates may be null, and so may the target.

        None are the data of a model that needs no fit: then the grid must be told, times have a zone, series are text, and
        covariates numbers.

        Raises DataError for missing columns, stamps that are null or no time, a target that holds no number, and a grid that
        is not told and cannot be seen.
        """
        interface = self.interface
        if data is None:
            data = self._imagined()
        _require(data, interface)
        names = [name for name in data.columns if name in {*interface.keys, interface.target_col, *interface.covariates}]
        schema = InputSchema.of(data, names)
        known = {column.name: column for column in schema.columns}
        self._check(data, known)
        wanted = tuple(self._column(known[name]) for name in names)
        stamps = stamps_of(data[interface.timestamp_col])
        freq = self._freq(data, stamps)
        self.freq = freq
        layout = Layout(
            freq, interface.season or season_of(freq), interface.past_covariates, interface.future_covariates, interface.static_covariates,
            **self.merging,
        )  # fmt: skip
        extras = {"layout": layout.to_json(), "horizon": self.horizon, "quantiles": list(self.quantiles)}
        extras |= {"notes": list(self.notes)} if self.notes else {}
        bare = InputSchema(wanted, {"names": [interface.target_col], "dtype": "float64"}, extras)
        return InputSchema(bare.columns, bare.target, {**extras, "example": self._example(data, bare, layout)})

    def _imagined(self) -> pd.DataFrame:
        """A history that fits the interface, where there are no data to describe."""
        interface = self.interface
        if not isinstance(interface.freq, str):
            what = "without training data the step of the grid is not known"
            raise RecipeError(Problem("missing-key", ("model", "data_interface", "freq"), what, "write freq: 5min, h, D, W-SAT …"))
        count = (self.lookback or EXAMPLE_SEASONS * (interface.season or season_of(interface.freq))) + self.horizon
        stamps = pd.date_range("2024-01-01", periods=count, freq=interface.freq, tz="UTC")
        columns = {interface.series_col: "a"} if interface.series_col else {}
        target = np.round(0.2 + np.arange(count) % 7 / 10, 1)  # in (0, 1), where every model has a place for it
        numbers = dict.fromkeys(interface.covariates, 0.0)
        return pd.DataFrame({**columns, interface.timestamp_col: stamps, **numbers, interface.target_col: target})

    def _column(self, column: Column) -> Column:
        interface = self.interface
        if column.name in interface.keys:
            return Column(column.name, column.dtype, nullable=False, categories=column.categories, example=column.example)
        dtype = "float64" if column.dtype == "int64" else column.dtype
        changes = column.name in (interface.target_col, *interface.past_covariates, *interface.future_covariates)
        return Column(column.name, dtype, nullable=changes or column.nullable, categories=column.categories, example=column.example)

    def _check(self, data: pd.DataFrame, known: Mapping[str, Column]) -> None:
        interface = self.interface
        target, time = known[interface.target_col], known[interface.timestamp_col]
        if target.dtype not in ("int64", "float64"):
            what = f"target {target.name!r} holds {target.dtype} values, not numbers{no_number(data[target.name])}"
            hint = "write numbers without separators or units, and leave the cell empty where nothing was observed"
            raise DataError(what, hint=hint, slug="bad-target")
        if time.dtype not in ("datetime", "datetime_utc", "int64", "float64"):
            hint = "write times as ISO 8601, such as 2024-01-31T12:00:00, with one time zone or none"
            what = f"timestamp_col {time.name!r} holds {time.dtype} values, not times{no_time(data[time.name])}"
            raise DataError(what, hint=hint, slug="bad-stamps")
        if time.dtype.startswith("datetime") and data[time.name].dtype == object:
            raise DataError(f"timestamp_col {time.name!r} mixes time zones, or dates with other objects{no_time(data[time.name])}",
                            hint="convert them all to UTC", slug="bad-stamps")  # fmt: skip
        for name in interface.keys:
            if known[name].nullable:
                row = int(np.flatnonzero(data[name].isna().to_numpy())[0])
                nulls = int(data[name].isna().sum())
                raise DataError(f"column {name!r} has {nulls} nulls, the first in row {row}", hint="every row needs one", slug="null-key")
        numeric = time.dtype in ("int64", "float64")
        if interface.freq is not None and numeric == isinstance(interface.freq, str):
            kind = "numbers" if numeric else "dates"
            raise DataError(f"freq {interface.freq!r} does not suit stamps that are {kind}", hint="leave freq out", slug="bad-freq")
        if not data[interface.target_col].notna().any():
            raise DataError(f"target {interface.target_col!r} holds no value, only nulls", slug="bad-target")
        taken = {STEP, PREDICTION, *(quantile_column(level) for level in levels_of(list(interface.keys)))} & set(interface.keys)
        if taken:
            raise DataError(f"column {min(taken)!r} has the name of an output column", hint="rename it in the source", slug="schema")
        if interface.series_col is not None:
            seen = data.groupby(interface.series_col, sort=True)[interface.target_col].count()
            empty = [str(name) for name in seen.index[seen == 0]]
            if empty:
                log.warning("%d of %d series have no observed target: %s", len(empty), len(seen), ", ".join(empty[:5]))
            for name in interface.static_covariates:
                many = data.groupby(interface.series_col, sort=True)[name].nunique(dropna=True)
                if (many > 1).any():
                    worst = many.index[many > 1][0]
                    hint = "a covariate that changes belongs to past_covariates or future_covariates"
                    raise DataError(f"static covariate {name!r} changes within series {worst!r}", hint=hint, slug="bad-covariate")

    def _freq(self, data: pd.DataFrame, stamps: NDArray[Any]) -> str | float:
        if self.interface.freq is not None:
            return self.interface.freq
        groups = np.zeros(len(data)) if self.interface.series_col is None else data[self.interface.series_col].to_numpy()
        return infer_freq(groups, stamps)

    def _example(self, data: pd.DataFrame, schema: InputSchema, layout: Layout) -> list[dict[str, Any]]:
        """The end of the history of one series, as records: a question that a model of this contract can answer."""
        frame = self._canonical(schema.conform(data))
        order, names, codes, stamps = ordered(frame)
        observed = ~np.isnan(frame[TARGET].to_numpy()[order])
        richest = int(np.argmax(np.bincount(codes[observed], minlength=len(names))))
        rows = order[codes == richest]
        at = layout.clock.steps(stamps[codes == richest][0], stamps[codes == richest])
        last = int(at[observed[codes == richest]].max())
        need = self.lookback or EXAMPLE_SEASONS * layout.season
        ahead = self.horizon if layout.future else 0
        chosen = data.iloc[rows[(at > last - need - ahead) & (at <= last)]]
        until = int(at[at <= last][-1]) - ahead
        records = _records(chosen[list(schema.names)], schema)
        for record, step in zip(records, at[(at > last - need - ahead) & (at <= last)], strict=True):
            if step > until:
                record |= dict.fromkeys((self.interface.target_col, *layout.past))
        return records

    def grid(self, selected: Selected) -> tuple[NDArray[np.int64], Clock, Any]:
        """Where rows stand on the one time grid of all series: the position of each (n,), its clock, and the stamp of position 0."""
        times = np.asarray(selected.times)
        clock = Clock(infer_freq(selected.groups, times) if self.freq is None else self.freq)
        return clock.steps(times.min(), times), clock, times.min()

    # --- taking apart ---

    def select(self, data: Any, schema: InputSchema, *, targets: bool) -> Selected:
        """The long frame that forecasters see; `y` its target, `groups` its series, `times` its stamps.

        With `targets` its rows stand as those of the data do; else in order, as they are about to be predicted from.

        Raises DataError, without `targets`, for a series that was never observed, and for rows to forecast that lack a
        covariate or have a target.
        """
        frame = self._canonical(schema.conform(data) if targets else data)
        if not targets:
            order, names, codes, stamps = ordered(frame)
            frame = frame.iloc[order].reset_index(drop=True)
            self._check_question(frame, names, codes, stamps, schema)
        return Selected(X=frame, y=frame[TARGET].to_numpy(), groups=frame[SERIES].to_numpy(), times=stamps_of(frame[TIME]))

    def _canonical(self, rows: pd.DataFrame) -> pd.DataFrame:
        interface = self.interface
        name = interface.series_col
        columns = {
            SERIES: rows[name] if name else np.full(len(rows), interface.target_col, dtype=object),
            TIME: rows[interface.timestamp_col],
            TARGET: rows[interface.target_col].astype(np.float64),
        }
        return pd.DataFrame({**columns, **{one: rows[one] for one in interface.covariates}}, index=rows.index)

    def _check_question(
        self, frame: pd.DataFrame, names: NDArray[Any], codes: NDArray[np.int64], stamps: NDArray[Any], schema: InputSchema
    ) -> None:
        if not len(frame):
            raise DataError("there is no history to forecast from", slug="no-rows")
        observed = ~np.isnan(frame[TARGET].to_numpy())
        never = np.bincount(codes[observed], minlength=len(names)) == 0
        if never.any():
            what = f"series {names[never][0]!r} has no observed {self.interface.target_col}"
            more = f" (and {int(never.sum()) - 1} more)" if never.sum() > 1 else ""
            raise DataError(f"{what}{more}", hint="give its history, targets included", slug="no-history")
        layout = Layout.of(schema)
        if not layout.future:
            return
        horizon, begins = int(schema.extras["horizon"]), np.flatnonzero(np.diff(codes, prepend=-1))
        at = layout.clock.steps(stamps[begins][codes], stamps)
        ends = at[np.append(begins[1:], len(codes)) - 1]
        future = at > (ends - horizon)[codes]
        if (observed & future).any():
            row = int(np.argmax(observed & future))
            raise DataError(
                f"series {names[codes[row]]!r}: the last {horizon} steps are to be forecast, and {text_of(stamps[row])} has a target",
                hint="add the rows of the next steps, with their covariates and no target",
                slug="missing-future",
            )
        of, when = codes[future], at[future]
        new = (np.diff(of, prepend=-1) != 0) | (np.diff(when, prepend=-1) != 0)  # rows of one grid point are one step
        short = np.flatnonzero(np.bincount(of[new], minlength=len(names)) < horizon)
        if len(short):
            number = int(short[0])
            there = set(when[of == number].tolist())
            lacking = next(step for step in range(int(ends[number]) - horizon + 1, int(ends[number])) if step not in there)
            stamp = text_of(layout.clock.ahead(stamps[begins[number] : begins[number] + 1], [max(lacking, 0)])[0, 0])
            what = f"series {names[number]!r}: {layout.future[0]!r} is not known for {stamp}, a step to forecast"
            raise DataError(what, hint="every step to forecast needs a row", slug="missing-future")
        for name in layout.future:
            null = frame[name].isna().to_numpy() & future
            if null.any():
                row = int(np.argmax(null))
                raise DataError(f"series {names[codes[row]]!r}: {name!r} is null at {text_of(stamps[row])}, a step to forecast",
                                hint="a future covariate must be known there", slug="missing-future")  # fmt: skip

    # --- fitting and forecasting ---

    def fit(self, model: Any, selected: Selected, context: FitContext) -> Any:
        """The fitted forecaster; rows that nothing preprocessed are given in order."""
        held = context.validation
        if held is not None and not takes_context(model):
            what = f"it holds rows back, and {type(model).__name__} has no use for them"
            raise RecipeError(Problem("ignored", ("evaluation", "validation", "calibration_size"), what, "leave it out"))
        ready = _in_order(selected)
        arguments: dict[str, Any] = {}
        if takes_context(model):
            arguments["context"] = context if held is None else replace(context, validation=_in_order(held))
        fitted = model.fit(ready.X, ready.y, **arguments)
        return model if fitted is None else fitted

    def rows(self, model: Any, selected: Selected, schema: InputSchema) -> pd.DataFrame:
        """Series, time stamp, `step`, `prediction` and quantiles for the next steps of every series, in order."""
        layout, horizon = Layout.of(schema), int(schema.extras["horizon"])
        codes, names = coded(selected.groups)
        begins = np.flatnonzero(np.diff(codes, prepend=-1))
        ends = np.append(begins[1:], len(codes)) - 1
        times = np.asarray(selected.times)
        steps = layout.clock.steps(times[begins], times[ends]) - (horizon if layout.future else 0)
        said = self._said(model.predict(selected.X), model, names, horizon)
        # The grid begins with the first stamp: a jittered last one does not move the steps that are forecast.
        stamps = layout.clock.ahead(times[begins], steps[:, None] + np.arange(1, horizon + 1))
        columns: dict[str, Any] = {}
        if self.interface.series_col:
            columns[self.interface.series_col] = said[SERIES].array
        columns[self.interface.timestamp_col] = _typed(stamps.ravel(), schema.column(self.interface.timestamp_col).dtype)
        columns[STEP] = said[STEP].to_numpy(np.int64)
        for name in (PREDICTION, *map(quantile_column, levels_of(said.columns))):
            columns[name] = said[name].to_numpy(np.float64)
        for name in schema.extras.get("notes", ()):
            if name in said.columns:  # baselines have nothing to note
                columns[name] = said[name].to_numpy(bool if said[name].dtype == bool else object)
        return pd.DataFrame(columns)

    def _said(self, answer: Any, model: Any, names: NDArray[Any], horizon: int) -> pd.DataFrame:
        """The answer of a forecaster as a frame with every series and step once, in order."""
        owner = type(model).__name__
        if not isinstance(answer, pd.DataFrame):
            array = np.asarray(answer, dtype=np.float64)
            levels = tuple(float(level) for level in getattr(model, "quantiles", None) or ())
            if array.shape == (len(names), horizon):
                answer = forecasts(names, array)
            elif levels and array.shape == (len(names), horizon, len(levels)):
                answer = forecasts(names, _middle(array, levels), array, levels)
            else:
                wanted = f"({len(names)}, {horizon})" + (f" or ({len(names)}, {horizon}, {len(levels)})" if levels else "")
                raise TrainingFailed(f"predict gave {array.shape}, {wanted} expected", slug="bad-forecast", where=owner)
        else:
            missing = [name for name in (SERIES, STEP, PREDICTION) if name not in answer.columns]
            if missing:
                raise TrainingFailed(f"predict gave no column {', '.join(missing)}", slug="bad-forecast", where=owner)
            answer = answer.sort_values([SERIES, STEP], kind="stable", ignore_index=True)
            expected = forecasts(names, np.zeros((len(names), horizon)))
            whole = len(answer) == len(expected) and (answer[STEP].to_numpy() == expected[STEP].to_numpy()).all()
            if not whole or not (answer[SERIES].to_numpy() == expected[SERIES].to_numpy()).all():
                what = f"predict gave {len(answer)} rows that are not steps 1 to {horizon} of each of {len(names)} series"
                raise TrainingFailed(what, slug="bad-forecast", where=owner)
        values = answer[[PREDICTION, *map(quantile_column, levels_of(answer.columns))]].to_numpy(np.float64)
        if not np.isfinite(values).all():
            row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
            what = f"no finite forecast for series {answer[SERIES].iloc[row]!r}, step {answer[STEP].iloc[row]}"
            raise DataError(what, hint="the model overflowed or was given nothing; look at this series", slug="not-finite")
        checked: pd.DataFrame = answer
        return checked

    def output(self, schema: InputSchema) -> Output:
        levels = tuple(quantile_column(level) for level in sorted(schema.extras["quantiles"]))
        return Output(self.interface.keys, (STEP, PREDICTION, *levels, *schema.extras.get("notes", ())))

    def baselines(self, schema: InputSchema) -> Mapping[str, Any]:
        """Naive, seasonal naive, drift, moving average and NLinear, with the quantiles of the model from their own past errors."""
        from recipeline.components.forecasters import BASELINES, Baseline

        horizon, levels, layout = int(schema.extras["horizon"]), tuple(schema.extras["quantiles"]), Layout.of(schema)
        looks = {"nlinear": self.lookback}
        return {kind: Baseline(kind, horizon, quantiles=levels, layout=layout, lookback=looks.get(kind)) for kind in BASELINES}

    # --- for the contract suite ---

    @classmethod
    def example(cls) -> dict[str, Any]:
        static = {"static_covariates": ["size"]}
        return {"task_type": "forecasting", "target_col": "sales", "timestamp_col": "day", "series_col": "shop", **static}

    @classmethod
    def example_data(cls) -> pd.DataFrame:
        """Two shops, sixty days, a weekly season; three days were not observed."""
        day = np.arange(60)
        shops = []
        for number, shop in enumerate(("north", "south")):
            sales = 20.0 + 5 * number + 4 * np.sin(2 * np.pi * day / 7) + 0.5 * np.cos(day * (1.7 + number))
            frame = {"shop": shop, "day": pd.date_range("2024-01-01", periods=60), "size": 100.0 * (number + 1), "sales": sales}
            shops.append(pd.DataFrame(frame))
        data = pd.concat(shops, ignore_index=True)
        data.loc[[10, 11, 75], "sales"] = np.nan
        return data


def _require(data: Any, interface: ForecastingInterface) -> None:
    if not isinstance(data, pd.DataFrame):
        raise DataError(f"a frame is expected, the loader gave {type(data).__name__}", slug="schema")
    if not data.columns.is_unique:
        twice = sorted({str(name) for name in data.columns[data.columns.duplicated()]})
        raise DataError(f"column {', '.join(twice)} is there twice", hint="rename one of them", slug="duplicate-column")
    if len(data) == 0:
        raise DataError("the training data have no rows", slug="no-rows")
    keys = {"target_col": interface.targets, "timestamp_col": (interface.timestamp_col,), "series_col": (interface.series_col,)}
    keys |= {role: getattr(interface, role) for role in ("past_covariates", "future_covariates", "static_covariates")}
    known = [str(name) for name in data.columns]
    for key, names in keys.items():
        for name in names:
            if name is not None and name not in data.columns:
                raise DataError(f"{key}: the data have no column {name!r}", hint=did_you_mean(name, known), slug="missing-column")


def _in_order(selected: Selected) -> Selected:
    """Rows by series and time, where X is still the long frame of the task."""
    if not isinstance(selected.X, pd.DataFrame) or not {SERIES, TIME, TARGET} <= set(selected.X.columns):
        return selected
    order = ordered(selected.X)[0]
    if (order[1:] > order[:-1]).all():
        return selected
    return selected.take(order)


def _middle(fan: NDArray[np.float64], levels: Sequence[float]) -> NDArray[np.float64]:
    """(S, H) the median of (S, H, Q), or the mean of the two levels nearest to it."""
    near = np.argsort(np.abs(np.asarray(levels) - 0.5), kind="stable")
    if levels[near[0]] == 0.5 or len(levels) == 1:
        return fan[:, :, near[0]]
    middle: NDArray[np.float64] = fan[:, :, near[:2]].mean(axis=2)
    return middle


def _typed(stamps: NDArray[Any], dtype: str) -> Any:
    """Stamps in the type of the input contract."""
    if dtype == "int64":
        return np.round(stamps).astype(np.int64)
    if dtype == "datetime_utc":
        return pd.DatetimeIndex(stamps).tz_localize("UTC")
    return stamps


def _records(rows: pd.DataFrame, schema: InputSchema) -> list[dict[str, Any]]:
    """Rows as JSON has them."""
    columns = []
    for column in schema.columns:
        values = rows[column.name]
        if column.dtype.startswith("datetime"):
            columns.append([None if pd.isna(value) else pd.Timestamp(value).isoformat() for value in values])
        else:
            plain = {"int64": int, "float64": float, "bool": bool, "string": str}[column.dtype]
            columns.append([None if pd.isna(value) else plain(value) for value in values])
    return [dict(zip(schema.names, values, strict=True)) for values in zip(*columns, strict=True)]
