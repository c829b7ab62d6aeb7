"""The evaluator of forecasts: what was forecast from each origin beside what came.

It predicts through `pipeline.predict` and nothing else, from a history that ends at the origin: so what is measured is what
is served. Rows without a target count in nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recipeline.components import forecast_figures as figures
from recipeline.components import forecast_summary as summary
from recipeline.components.forecast_metrics import FORECASTING
from recipeline.components.metrics import resolve
from recipeline.contracts import Evaluation, Figure, Metric, Part, Predictor
from recipeline.errors import DataError, RecipeError
from recipeline.timeseries import metrics as of
from recipeline.timeseries.fills import forward
from recipeline.timeseries.frames import (
    PREDICTION,
    STEP,
    TIME,
    Layout,
    coded,
    levels_of,
    quantile_column,
    stamps_of,
    text_of,
    without_duplicates,
)
from recipeline.timeseries.grid import aggregated

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger("recipeline")

HELPERS = ("scale", "naive")


class ForecastEvaluator:
    """Forecasts from each origin against what came: by step, by series and in all, beside the seasonal naive forecast.

    season              grid steps for scaled errors and skill; by default that of the data
    processed           True: a preprocessor that accounts for its work also keeps the rows it made, as table `processed`
    registered_metrics  given by the engine: metrics of plugins that the recipe names; they take (observed (n,), joined frame)

    Tables: `predictions` (series, origin, step, time stamp, y, prediction, quantiles); `errors.csv` (every metric in all, by
    step, by series, by origin); `rivals` (the forecasts of the baselines for the same rows) and `skill` (beside each of them,
    with an interval); `drift` (the rows judged beside the history before them); `history.csv` (a row per epoch) and
    `training`, of a model that has a `history()`; and what a preprocessor with an `account(X)` says it did to the rows.
    A series without any history before the origin cannot be forecast: it is left out, counted and logged.
    """

    judges_histories = True

    def __init__(self, *, season: int | None = None, processed: bool = False, registered_metrics: Sequence[Metric] = ()) -> None:
        self.season, self.processed = season, processed
        self._told: list[pd.DataFrame] = []
        self.measures: tuple[Metric, ...] = (*FORECASTING, *(metric for metric in registered_metrics if metric.needs == "frame"))

    def judge(self, pipeline: Predictor, part: Part) -> Evaluation:
        """Forecast from the origin of the part, and compare.

        Without an origin the last `horizon` grid steps of the rows are judged by what stands before them.

        Raises DataError where nothing of what is to be judged was observed, or no series has a history.
        """
        asked = resolve(part.metrics, self.measures)
        question = _Question.of(pipeline, part, self.season)
        joined = question.answered(pipeline)
        observed = joined[joined["y"].notna()]
        if not len(observed):
            raise DataError("none of the steps to judge was observed", hint="judge another part of the data", slug="no-rows")
        actual = observed["y"].to_numpy()
        metrics = {metric.name: float(metric.function(actual, observed)) for metric in asked}
        if not part.detail:
            return Evaluation(metrics)
        tables = {"predictions": joined.drop(columns=list(HELPERS)), "errors": summary.errors(joined)}
        pictures = figures.of_forecasts(joined, question.shown())
        if part.rivals:
            tables["rivals"] = question.rivals(joined, part.rivals)
        tables["drift"] = question.drift()
        if callable(told := getattr(pipeline.model, "history", None)) and len(history := told()):
            tables |= {"history.csv": history, "training": summary.training(history)}
            pictures["loss"] = figures.of_training(history)
        if callable(account := getattr(getattr(pipeline, "preprocessor", None), "account", None)):
            said = account(question.known(pipeline), processed=self.processed)
            tables, pictures = {**tables, **said.tables}, {**pictures, **said.figures}
        summary.tell(part.fold or text_of(question.origin), tables, self._told)
        return Evaluation(metrics, tables, pictures)

    def summarise(self, tables: Mapping[str, pd.DataFrame]) -> Evaluation:
        """Errors over all origins instead of those of each, skill beside every rival, and the pictures of all origins."""
        kept = {name: frame for name, frame in tables.items() if name != "errors"}
        pictures: dict[str, Figure] = {}
        if "history.csv" in kept:
            kept["history.csv"] = histories = summary.without_repeats(kept["history.csv"])
            if "fold" in histories:
                trained = kept["training"]["fold"].isin(set(histories["fold"]))
                kept["training"] = kept["training"][trained].reset_index(drop=True)
        if "rivals" not in kept:
            return Evaluation({}, {**kept, "errors.csv": tables["errors"]})
        joined, rivals = summary.joined_of(kept["predictions"], kept["rivals"]), kept["rivals"]
        names = list(rivals.columns[list(rivals.columns).index(summary.REFERENCE) + 1 :])
        kept["errors.csv"] = summary.errors(joined)
        kept["skill"] = summary.skill(rivals, joined[PREDICTION].to_numpy(), names)
        pictures = figures.of_all(joined, kept["skill"])
        return Evaluation({}, kept, pictures)


@dataclass(frozen=True)
class _Question:
    """What is asked of a pipeline at one origin, and what came.

    history  raw rows before the origin of the series that are judged, null rows up to the origin, and the rows to forecast
             where there are future covariates
    actual   series, step and y of what is judged            past  series, stamps and y of what was known
    inputs   series, step, the target and the covariates that are numbers, of both
    """

    series: str
    time: str
    layout: Layout
    season: int
    origin: Any
    history: pd.DataFrame
    actual: pd.DataFrame
    past: pd.DataFrame
    inputs: pd.DataFrame

    @classmethod
    def of(cls, pipeline: Predictor, part: Part, season: int | None) -> _Question:
        interface, schema = pipeline.task.interface, pipeline.schema
        layout, horizon = Layout.of(schema), int(schema.extras["horizon"])
        time, series = interface.timestamp_col, interface.series_col or "series"
        if part.origin is None:
            rows = part.rows
        elif part.past is None:
            raise RecipeError("forecasts need the history before what is judged", hint="use walk_forward or rolling_origin")
        else:
            rows = pd.concat([part.past, part.rows], ignore_index=True)
        rows = rows.reset_index(drop=True)
        table = pd.DataFrame(
            {
                "series": rows[interface.series_col].to_numpy() if interface.series_col else interface.target_col,
                TIME: stamps_of(schema.conform(rows)[time]),
                "y": rows[interface.target_col].to_numpy(dtype=np.float64, na_value=np.nan),
            }
        )
        origin = part.origin
        if origin is None:
            known = table.loc[table["y"].notna(), TIME]
            if not len(known):
                raise DataError("no row has a target to be scored by", slug="no-target")
            zero = table[TIME].min()
            last = int(layout.clock.steps(_stamp(zero), np.array([_stamp(known.max())]))[0])
            origin = layout.clock.ahead(np.array([_stamp(zero)]), [max(last - horizon, 0)])[0, 0]
        steps = layout.clock.steps(_stamp(origin), table[TIME].to_numpy())
        judged = (steps > 0) & (steps <= horizon)
        if part.origin is not None:
            judged &= np.arange(len(rows)) >= len(part.past)
        before = steps <= 0
        table[STEP] = steps
        histories = set(table.loc[before & table["y"].notna().to_numpy(), "series"])
        wanted = set(table.loc[judged & table["y"].notna().to_numpy(), "series"])
        if layout.future:
            ahead = table[judged].groupby("series")[STEP].nunique()
            whole = set(ahead.index[ahead == horizon])
            _tell(wanted - whole, wanted, "are not known for every step to forecast")
            wanted &= whole
        _tell(wanted - histories, wanted, "have no history before the origin")
        wanted &= histories
        if not wanted:
            raise DataError("no series that is to be judged has a history", hint="move the origin to a later time", slug="no-history")
        mine = table["series"].isin(wanted).to_numpy()
        sent = rows[mine & (before | judged)] if layout.future else rows[mine & before]
        history = _asked(sent, table, interface, layout, origin, mine & before)
        met = _once(table[mine & judged], layout).groupby(["series", STEP], sort=True)["y"]
        actual = (met.sum(min_count=1) if layout.aggregate == "sum" else getattr(met, layout.aggregate)()).reset_index()  # NaN where unseen
        usual = season or layout.season
        inputs = table.loc[mine & (before | judged), ["series", STEP]].assign(**{interface.target_col: table["y"]})
        for name in (*interface.past_covariates, *interface.future_covariates):
            if rows[name].dtype.kind in "iufb":
                inputs[name] = rows[name].astype(np.float64)
        return cls(series, time, layout, usual, origin, history, actual, _once(table[mine & before], layout), inputs)

    def rivals(self, joined: pd.DataFrame, rivals: Mapping[str, Predictor]) -> pd.DataFrame:
        """The point forecasts of each rival for the rows joined, beside what scaled errors and skill need."""
        table = joined[[self.series, summary.ORIGIN, STEP, "y", "scale"]].assign(**{summary.REFERENCE: joined["naive"]})
        for name, rival in rivals.items():
            table[name] = self._compared(rival)[PREDICTION].to_numpy()
        return table

    def drift(self) -> pd.DataFrame:
        """The target and the covariates that are numbers, judged beside before."""
        return summary.drift(self.inputs[self.inputs[STEP] <= 0], self.inputs[self.inputs[STEP] > 0])

    def known(self, pipeline: Predictor) -> Any:
        """What the preprocessor was given: the history, with the rows to forecast where there are future covariates."""
        return pipeline.task.select(pipeline.schema.conform(self.history), pipeline.schema, targets=False).X

    def answered(self, pipeline: Predictor) -> pd.DataFrame:
        """Forecast and actual side by side, one row per series and judged step."""
        joined = self._compared(pipeline)
        scale, naive = self._seasonal()
        joined["scale"] = joined["series"].map(scale).astype(np.float64)
        joined["naive"] = [naive[name][(step - 1) % self.season] for name, step in zip(joined["series"], joined[STEP], strict=True)]
        joined.insert(1, "origin", np.repeat(np.asarray([self.origin]), len(joined)))
        order = ["series", "origin", STEP, self.time, "y", PREDICTION]
        joined = joined[[*order, *(name for name in joined.columns if name not in order)]]
        return joined.rename(columns={"series": self.series})

    def _compared(self, pipeline: Predictor) -> pd.DataFrame:
        output = pipeline.predict(self.history, augmented=True)
        named = self.series in output.columns
        left = pd.DataFrame({"series": output[self.series] if named else self.actual["series"].iloc[0], STEP: output[STEP]})
        left[self.time] = output[self.time].array
        for name in (PREDICTION, *map(quantile_column, levels_of(output.columns))):
            left[name] = output[name].to_numpy()
        joined = self.actual.merge(left, on=["series", STEP], how="left", validate="one_to_one")
        if joined[PREDICTION].isna().any():
            lost = joined[joined[PREDICTION].isna()].iloc[0]
            raise DataError(f"step {lost[STEP]} of series {lost['series']!r} was not forecast", slug="bad-forecast")
        return joined

    def _seasonal(self) -> tuple[dict[Any, float], dict[Any, NDArray[np.float64]]]:
        """In-sample error of the seasonal naive forecast, NaN where there is none, and its next season, by series."""
        codes, names = coded(self.past["series"])
        steps, y = self.past[STEP].to_numpy(), self.past["y"].to_numpy()
        starts = np.full(len(names), 0)
        np.minimum.at(starts, codes, steps)
        offsets = np.cumsum(1 - starts) - (1 - starts)
        grid = aggregated(offsets[codes] + steps - starts[codes], y[:, None], int((1 - starts).sum()), self.layout.aggregate)[:, 0]
        scale, naive = {}, {}
        for name, history in zip(names, np.split(grid, offsets[1:]), strict=True):
            try:
                scale[name] = of.seasonal_error(history, self.season)
            except DataError:
                scale[name] = np.nan  # a constant or short series has no scale; the metric says so where none has
            carried = forward(history[:, None])[:, 0]
            first = carried[np.argmax(~np.isnan(carried))]
            carried = np.where(np.isnan(carried), first, carried)
            naive[name] = np.concatenate([np.full(max(0, self.season - len(carried)), carried[-1]), carried])[-self.season :]
        return scale, naive

    def shown(self) -> pd.DataFrame:
        """The last of the histories, for pictures."""
        recent = self.past[self.past[STEP] > -max(4 * len(self.actual[STEP].unique()), 2 * min(self.season, 200))]
        return recent.sort_values(["series", STEP])


def _once(table: pd.DataFrame, layout: Layout) -> pd.DataFrame:
    """The rows of `table`, each series and stamp once, in order."""
    codes, _ = coded(table["series"])
    stamps, y = table[TIME].to_numpy(), table["y"].to_numpy()[:, None]
    order = np.lexsort((stamps, codes))
    kept, values = without_duplicates(codes[order], stamps[order], y[order], "last" if layout.duplicates == "last" else "mean")
    return table.iloc[order[kept]].assign(y=values[:, 0])


def _asked(sent: pd.DataFrame, table: pd.DataFrame, interface: Any, layout: Layout, origin: Any, before: NDArray[np.bool_]) -> pd.DataFrame:
    """The rows to predict from: a null row at the origin where a series has none, targets unknown after it."""
    sent = sent.copy()
    after = (table.loc[sent.index, STEP] > 0).to_numpy()
    if after.any():
        sent.loc[after, [interface.target_col, *interface.past_covariates]] = None
    if layout.future:
        return sent
    known = table[before]
    ends = known.loc[known.groupby("series", sort=True)[STEP].idxmax()]
    late = ends[ends[STEP] < 0]
    if not len(late):
        return sent
    pads = sent.loc[late.index].copy()
    pads[[interface.target_col, *interface.past_covariates]] = None
    firsts = known.loc[known.groupby("series", sort=True)[TIME].idxmin()].set_index("series").loc[late["series"]]
    stamps = layout.clock.ahead(firsts[TIME].to_numpy(), -firsts[[STEP]].to_numpy())[:, 0]
    pads[interface.timestamp_col] = _like(stamps, sent[interface.timestamp_col])
    for name in (interface.target_col, *interface.past_covariates):
        if sent[name].dtype.kind in "iufb":
            pads[name] = np.full(len(pads), np.nan)
    return pd.concat([sent, pads], ignore_index=True)


def _like(stamps: NDArray[Any], column: pd.Series[Any]) -> Any:
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        return pd.DatetimeIndex(stamps).tz_localize("UTC").tz_convert(column.dt.tz)
    if column.dtype.kind in "iu":
        return np.round(stamps).astype(np.int64)
    return stamps


def _stamp(value: Any) -> Any:
    return value.to_datetime64().astype("datetime64[ns]") if isinstance(value, pd.Timestamp) else value


def _tell(left_out: set[Any], wanted: set[Any], why: str) -> None:
    if left_out:
        log.warning("%d of %d series %s and are not judged: %s", len(left_out), len(wanted), why, ", ".join(sorted(map(str, left_out))[:5]))
