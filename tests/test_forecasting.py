"""The forecasting task: its contract, what it asks of forecasters, what bad input meets, and figures by their definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recipeline.components.backtests import RollingOrigin, WalkForward
from recipeline.components.forecast_evaluator import ForecastEvaluator
from recipeline.components.forecasters import BASELINES, Baseline, LaggedRegression, SeasonalNaive
from recipeline.components.forecasting import Forecasting
from recipeline.contracts import FitContext, Part, take
from recipeline.errors import DataError, RecipeError, TrainingFailed
from recipeline.pipeline import Pipeline
from recipeline.timeseries import frames
from recipeline.timeseries.backtests import leaking_origins
from recipeline.timeseries.frames import Layout

LONG = {"task_type": "forecasting", "target_col": "y", "timestamp_col": "t"}
PANEL = {**LONG, "series_col": "s"}
COVARIATES = {**PANEL, "past_covariates": ["p"], "future_covariates": ["f"], "static_covariates": ["size"]}
H = 5


def task_of(interface: dict[str, Any] = PANEL, horizon: int = H, **more: Any) -> Forecasting:
    task = Forecasting(Forecasting.Interface.model_validate({**interface, **more}))
    task.horizon = horizon
    return task


def panel(lengths: dict[str, int] | None = None, seed: int = 3) -> pd.DataFrame:
    """Daily series that all end on one day, with a weekly season, on levels far apart, and covariates that matter."""
    random = np.random.default_rng(seed)
    pieces = []
    for number, (name, length) in enumerate((lengths or {"a": 90, "b": 120, "c": 70}).items()):
        days = pd.date_range("2024-06-30", periods=length, freq="-1D")[::-1]
        week = days.dayofweek.to_numpy()
        f = (random.random(length) < 0.2).astype(float)
        p = random.normal(size=length)
        y = 10.0 ** (number + 1) * (1 + 0.3 * np.sin(2 * np.pi * week / 7) + 0.4 * f + 0.02 * random.normal(size=length))
        size = ("small", "large")[number % 2]
        pieces.append(pd.DataFrame({"s": name, "t": days, "size": size, "p": p, "f": f, "y": y}))
    return pd.concat(pieces, ignore_index=True)


def fitted(task: Forecasting, model: Any, data: pd.DataFrame, tmp_path: Path) -> Pipeline:
    task.introduce(model)
    schema = task.describe(data)
    return Pipeline(task=task, schema=schema, model=model).fit(task.select(data, schema, targets=True), FitContext(7, tmp_path))


def with_future(data: pd.DataFrame, horizon: int = H) -> pd.DataFrame:
    """The same with the rows of the next steps: covariates of the future known, nothing else."""
    pieces = [data]
    for name, rows in data.groupby("s"):
        days = pd.date_range(rows["t"].max(), periods=horizon + 1)[1:]
        pieces.append(pd.DataFrame({"s": name, "t": days, "size": rows["size"].iloc[0], "f": np.arange(horizon) % 2.0}))
    return pd.concat(pieces, ignore_index=True)


# --- what comes out -------------------------------------------------------------------------------------------------------


def test_forecasts_are_for_exactly_the_next_steps_of_every_series(tmp_path: Path) -> None:
    """Series, stamp, step, prediction and quantiles; each series from its own end; in order, whatever the order of the rows."""
    data = panel().loc[lambda d: ~((d["s"] == "b") & (d["t"] > "2024-06-20"))]
    pipeline = fitted(task_of(), LaggedRegression(H, 14, quantiles=[0.1, 0.5, 0.9]), data, tmp_path)
    output = pipeline.predict(data)
    assert list(output.columns) == ["s", "t", "step", "prediction", "q0.1", "q0.5", "q0.9"]
    assert pipeline.task.output(pipeline.schema).values == ("step", "prediction", "q0.1", "q0.5", "q0.9")
    for name, last in (("a", "2024-06-30"), ("b", "2024-06-20"), ("c", "2024-06-30")):
        mine = output[output["s"] == name]
        assert mine["step"].tolist() == [1, 2, 3, 4, 5]
        assert mine["t"].tolist() == pd.date_range(last, periods=H + 1)[1:].tolist()
        assert (mine["q0.1"] < mine["q0.9"]).all()
    shuffled = data.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(pipeline.predict(shuffled), output, check_exact=True)
    unseen = data[data["s"] == "a"].assign(s="new")
    again = pipeline.predict(unseen)
    np.testing.assert_allclose(again["prediction"], output.loc[output["s"] == "a", "prediction"], rtol=1e-12)


@pytest.mark.parametrize(
    ("stamps", "freq", "expected"),
    [
        (pd.date_range("2024-01-06", periods=60, freq="W-SAT"), "W-SAT", ["2025-03-01", "2025-03-08"]),
        (pd.date_range("2020-01-31", periods=60, freq="ME"), "ME", ["2025-01-31", "2025-02-28"]),
        (pd.date_range("2024-01-01", periods=60, freq="B"), "B", ["2024-03-25", "2024-03-26"]),
        (pd.date_range("2024-03-30 20:00", periods=60, freq="h", tz="Europe/Berlin"), None, ["2024-04-02 07:00Z", "2024-04-02 08:00Z"]),
        (pd.date_range("2024-01-01 00:02", periods=60, freq="5min"), None, ["2024-01-01 05:02", "2024-01-01 05:07"]),
    ],
    ids=["weeks", "month ends", "business days", "across a change of the clocks", "five minutes"],
)
def test_the_grid_goes_on_as_its_calendar_does(stamps: pd.DatetimeIndex, freq: str | None, expected: list[str], tmp_path: Path) -> None:
    """In the type of the input; with a zone in UTC."""
    data = pd.DataFrame({"t": stamps, "y": np.arange(60.0)})
    output = fitted(task_of(LONG, freq=freq), Baseline("naive", 2), data, tmp_path).predict(data)
    zone = "UTC" if stamps.tz is not None else None
    assert output["t"].tolist() == [pd.Timestamp(text).tz_convert("UTC") if zone else pd.Timestamp(text) for text in expected]


def test_numbers_are_time_as_well(tmp_path: Path) -> None:
    """A counter of periods; forecasts go on counting, in its type."""
    data = pd.DataFrame({"t": np.arange(0, 120, 2), "y": np.arange(60.0)})
    output = fitted(task_of(LONG), Baseline("drift", 3), data, tmp_path).predict(data)
    assert output["t"].tolist() == [120, 122, 124]
    assert output["t"].dtype == np.int64
    np.testing.assert_allclose(output["prediction"], [60, 61, 62])


def test_a_row_without_target_moves_the_origin_and_is_never_filled(tmp_path: Path) -> None:
    """Null rows at the end are history that was not observed: the forecast begins after them."""
    data = panel({"a": 60})
    pipeline = fitted(task_of(), Baseline("naive", H), data, tmp_path)
    late = data.assign(y=data["y"].where(data["t"] <= "2024-06-25"))
    output = pipeline.predict(late)
    assert output["t"].iloc[0] == pd.Timestamp("2024-07-01")
    assert output["prediction"].iloc[0] == data.loc[data["t"] == "2024-06-25", "y"].item()
    assert pipeline.predict(late[late["y"].notna()])["t"].iloc[0] == pd.Timestamp("2024-06-26")


class Odd:
    """Says whatever it was made with."""

    def __init__(self, answer: Any, horizon: Any = 2, quantiles: Any = ()) -> None:
        self.answer, self.horizon, self.quantiles = answer, horizon, quantiles

    def fit(self, X: pd.DataFrame, y: Any = None) -> Odd:
        assert X["series_id"].is_monotonic_increasing
        np.testing.assert_array_equal(X["target"], y)
        return self

    def predict(self, X: pd.DataFrame) -> Any:
        return self.answer


def test_a_forecaster_may_answer_with_an_array(tmp_path: Path) -> None:
    """(series, horizon), or with quantiles (series, horizon, levels): the point is the median, or the middle of the nearest two."""
    data = panel({"b": 40, "a": 40}).sample(frac=1, random_state=0)
    points = fitted(task_of(), Odd(np.array([[1.0, 2], [3, 4]])), data, tmp_path).predict(data)
    assert points["prediction"].tolist() == [1, 2, 3, 4]
    assert points["s"].tolist() == ["a", "a", "b", "b"]
    fan = np.arange(12.0).reshape(2, 2, 3)
    given = fitted(task_of(), Odd(fan, quantiles=[0.1, 0.5, 0.9]), data, tmp_path).predict(data)
    assert given["prediction"].tolist() == [1, 4, 7, 10]
    assert given["q0.9"].tolist() == [2, 5, 8, 11]
    even = fitted(task_of(), Odd(fan[:, :, :2], quantiles=[0.4, 0.6]), data, tmp_path).predict(data)
    assert even["prediction"].tolist() == [0.5, 3.5, 6.5, 9.5]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (np.zeros((2, 3)), r"\(2, 2\) expected"),
        (np.array([[1.0, np.nan], [0, 0]]), "no finite forecast for series 'a', step 2"),
        (pd.DataFrame({"series_id": ["a"], "step": [1], "prediction": [0.0]}), "steps 1 to 2 of each of 2 series"),
        (pd.DataFrame({"series_id": ["a"], "yhat": [0.0]}), "no column step, prediction"),
    ],
)
def test_a_forecaster_that_answers_something_else_is_named(answer: Any, words: str, tmp_path: Path) -> None:
    """Never a plausible number in the wrong place."""
    data = panel({"a": 40, "b": 40})
    with pytest.raises((TrainingFailed, DataError), match=words):
        fitted(task_of(), Odd(answer), data, tmp_path).predict(data)


@pytest.mark.parametrize("horizon", [None, 0, 2.5, True])
def test_a_model_without_a_horizon_is_refused_before_any_data(horizon: Any) -> None:
    """The validation method cuts by it."""
    with pytest.raises(RecipeError, match="horizon"):
        task_of().introduce(Odd(None, horizon=horizon))


def test_a_forecaster_is_told_the_contract_and_what_was_held_back(tmp_path: Path) -> None:
    """`expect(schema)` before `fit`; the rows held back come in order, right after those of X; and are refused where of no use."""
    heard: dict[str, Any] = {}

    class Listening(Odd):
        def expect(self, schema: Any) -> None:
            heard["layout"] = Layout.of(schema)

        def fit(self, X: pd.DataFrame, y: Any = None, *, context: FitContext) -> Listening:  # type: ignore[override]
            heard.update(X=X, held=context.validation)
            return self

    data = panel()
    task = task_of(COVARIATES)
    task.introduce(Listening(None, horizon=H))
    schema = task.describe(data)
    selected = task.select(data, schema, targets=True)
    (fold,) = RollingOrigin(1, calibration_size=10).split(selected, task).folds
    Pipeline(task=task, schema=schema, model=Listening(None, horizon=H)).fit(
        selected.take(fold.train), FitContext(7, tmp_path), validation=selected.take(fold.validation)
    )
    assert heard["layout"] == Layout("D", 7, ("p",), ("f",), ("size",))
    assert heard["X"]["timestamp"].max() == pd.Timestamp("2024-06-15")
    assert heard["held"].X["timestamp"].min() == pd.Timestamp("2024-06-16")
    assert heard["held"].X["timestamp"].max() == pd.Timestamp("2024-06-25")
    assert len(heard["held"].X) == 30
    with pytest.raises(RecipeError, match="no use for them"):
        Pipeline(task=task, schema=schema, model=SeasonalNaive(H)).fit(
            selected.take(fold.train), FitContext(7, tmp_path), validation=selected.take(fold.validation)
        )


def test_a_model_that_needs_no_fit_is_described_by_its_interface() -> None:
    """As `serve-api --recipe-file` asks: times with a zone, text for series, an example that can be answered."""
    task = task_of({**PANEL, "future_covariates": ["f"]}, freq="5min")
    task.introduce(LaggedRegression(H, 12))
    schema = task.describe(None)
    assert [(column.name, column.dtype) for column in schema.columns] == [
        ("s", "string"), ("t", "datetime_utc"), ("f", "float64"), ("y", "float64"),
    ]  # fmt: skip
    asked = pd.DataFrame(schema.extras["example"]).assign(t=lambda d: pd.to_datetime(d["t"]))
    assert len(asked) == 12 + H
    assert len(task.select(schema.conform(asked), schema, targets=False).X) == 12 + H
    with pytest.raises(RecipeError, match="the step of the grid is not known"):
        task_of(PANEL).describe(None)


# --- bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.drop(columns="y"), "target_col: the data have no column 'y'"),
        (lambda d: d.assign(y=np.nan), "only nulls"),
        (
            lambda d: d.assign(y=d["y"].astype(str).where(d.index != 4, "1,234")),
            "string values, not numbers; the first is '1,234' in row 4",
        ),
        (lambda d: d.assign(y=d["y"].where(d.index != 4, np.inf)), "infinite"),
        (lambda d: d.assign(t=d["t"].astype(str).where(d.index != 3, "soon")), "the first is 'soon' in row 3; write times as ISO 8601"),
        (
            lambda d: d.assign(t=(d["t"].astype(str) + "T00:00:00+01:00").where(d.index != 9, "2024-05-01T00:00:00")),
            "'2024-05-01T00:00:00' in row 9 has no time zone, unlike the rows before it",
        ),
        (lambda d: d.assign(t=d["t"].where(d.index != 3)), "1 nulls, the first in row 3"),
        (lambda d: d.assign(s=d["s"].where(d.index != 5)), "1 nulls, the first in row 5"),
        (
            lambda d: d.assign(t=[x.tz_localize(("UTC", "Asia/Seoul")[i % 2]) for i, x in enumerate(d["t"])]).astype({"t": object}),
            "mixes time zones",
        ),
        (lambda d: d.assign(t=np.cumsum(np.random.default_rng(0).exponential(size=len(d))), s="a"), "no common step"),
        (lambda d: d.assign(t=pd.date_range("1990-01-31", periods=len(d), freq="ME"), s="a"), "no common step.* months and working days"),
        (lambda d: d.iloc[0:0], "no rows"),
        (lambda d: d.rename(columns={"s": "step"}), "series_col: the data have no column 's'"),
    ],
)
def test_training_data_that_are_no_series_are_refused(change: Any, words: str) -> None:
    """One clear DataError each, before anything is fitted."""
    task = task_of()
    data = change(panel({"a": 40, "b": 40}))
    with pytest.raises(DataError, match=words):
        task.select(data, task.describe(data), targets=True)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (Layout("D", duplicates="last"), [3.0, 11.0]),
        (Layout("D", duplicates="mean"), [2.0, 11.0]),
        (Layout("D", duplicates="last", aggregate="sum"), [3.0, 22.0]),
        (Layout("D", duplicates="mean", aggregate="last"), [2.0, 12.0]),
    ],
)
def test_rows_that_meet_on_the_grid_become_what_the_layout_says(layout: Layout, expected: list[float]) -> None:
    """Two different rows of one stamp, one of them there twice; two rows of one grid point at different times; and it is kept as JSON."""
    stamps = pd.to_datetime(["2024-01-01", "2024-01-01", "2024-01-01", "2024-01-01T23:00", "2024-01-02T01:00"], format="ISO8601")
    frame = pd.DataFrame({"series_id": "a", "timestamp": stamps, "target": [1.0, 1.0, 3.0, 10.0, 12.0]})
    line = frames.panel(frame, Layout.from_json(layout.to_json()))
    np.testing.assert_array_equal(line.values[:, 0], expected)
    with pytest.raises(DataError, match="different rows for 2024-01-01"):
        frames.panel(frame, Layout("D"))


def test_one_stamp_twice_is_refused_and_the_same_row_twice_is_not(tmp_path: Path) -> None:
    """The error names series and stamp."""
    data = panel({"a": 60, "b": 60})
    twice = pd.concat([data, data.iloc[[7]]])
    one = fitted(task_of(), LaggedRegression(H, 7), twice, tmp_path).predict(twice)
    pd.testing.assert_frame_equal(one, fitted(task_of(), LaggedRegression(H, 7), data, tmp_path).predict(data), check_exact=True)
    with pytest.raises(DataError, match="series 'a' has different rows for 2024-05-09"):
        fitted(task_of(), LaggedRegression(H, 7), pd.concat([data, data.iloc[[7]].assign(y=0.0)]), tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.iloc[:0], "no history"),
        (lambda d: d.assign(y=d["y"].where(d["s"] != "a")), "series 'a' has no observed y"),
        (lambda d: d.drop(columns="y"), "has no observed y"),
        (lambda d: d[d["t"] > "2024-06-25"], "has a history of 5 grid points, lookback is 14"),
        (lambda d: d.assign(t=d["t"].dt.tz_localize("UTC")), "column 't': datetime expected, got datetime_utc"),
        (lambda d: d.assign(t=d["t"].where(d.index != 0, pd.Timestamp("1750-01-01"))), "spread over"),
        (lambda d: d.assign(y="N/A"), "'y'"),
    ],
)
def test_a_history_that_cannot_be_forecast_from_is_refused(change: Any, words: str, tmp_path: Path) -> None:
    """With the name of the series."""
    data = panel()
    pipeline = fitted(task_of(), LaggedRegression(H, 14), data, tmp_path)
    with pytest.raises(DataError, match=words):
        pipeline.predict(change(data))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d[d["t"] <= "2024-06-30"], "last 5 steps are to be forecast, and 2024-06-26 has a target"),
        (lambda d: d[~((d["s"] == "b") & (d["t"] == "2024-07-03"))], "series 'b': 'f' is not known for 2024-07-03"),
        (lambda d: d.assign(f=d["f"].where((d["s"] != "c") | (d["t"] != "2024-07-02"))), "series 'c': 'f' is null at 2024-07-02"),
        (lambda d: d.drop(columns="f"), "'f' is null at 2024-07-01"),
    ],
)
def test_a_missing_future_covariate_is_named_with_its_time(change: Any, words: str, tmp_path: Path) -> None:
    """Nothing is guessed."""
    data = panel()
    pipeline = fitted(task_of(COVARIATES), LaggedRegression(H, 14), data, tmp_path)
    asked = with_future(data)
    assert pipeline.predict(asked)["t"].min() == pd.Timestamp("2024-07-01")
    with pytest.raises(DataError, match=words):
        pipeline.predict(change(asked))


def test_a_static_covariate_does_not_change(tmp_path: Path) -> None:
    """It would be another kind of covariate."""
    data = panel().assign(size=lambda d: d["p"])
    with pytest.raises(DataError, match="changes within series 'a'"):
        task_of(COVARIATES).describe(data)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"freq": "fortnight"}, "no frequency"),
        ({"freq": "-1D"}, "does not go forward"),
        ({"past_covariates": ["y"]}, "target_col and in past_covariates"),
        ({"future_covariates": "target"}, "cannot be called target"),
        ({"season": 0}, "greater than or equal to 1"),
        ({"series": "s"}, "Extra inputs"),
    ],
)
def test_an_interface_that_contradicts_itself_is_refused(keys: dict[str, Any], words: str) -> None:
    """Before any data."""
    with pytest.raises(ValueError, match=words):
        Forecasting.Interface.model_validate({**PANEL, **keys})


# --- evaluation -----------------------------------------------------------------------------------------------------------


def judged(
    data: pd.DataFrame, model: Any, metrics: tuple[str, ...], tmp_path: Path, interface: dict[str, Any] = PANEL, splitter: Any = None
) -> list[Any]:
    """What the evaluator says of every window, as the engine would ask."""
    task = task_of(interface)
    task.introduce(model)
    schema = task.describe(data)
    selected = task.select(data, schema, targets=True)
    said, pipeline = [], None
    for fold in (splitter or RollingOrigin(3)).split(selected, task).folds:
        if fold.refit:
            pipeline = Pipeline(task=task, schema=schema, model=model).fit(selected.take(fold.train), FitContext(7, tmp_path))
        part = Part(take(data, fold.test), selected.take(fold.test), metrics, past=take(data, fold.past), origin=fold.origin)
        assert pipeline is not None
        said.append(ForecastEvaluator().judge(pipeline, part))
    return said


ALL = (
    "mae", "rmse", "mse", "mape", "smape", "mase", "wape", "bias", "skill", "pinball", "crps", "coverage", "coverage_80",
    "coverage_error", "mean_width", "msis",
)  # fmt: skip


def test_metrics_are_their_definitions(tmp_path: Path) -> None:
    """By hand, from the table of predictions and the data; statsmodels agrees where it has the figure."""
    from statsmodels.tools import eval_measures

    data = panel()
    data.loc[[70, 88, 209, 210], "y"] = np.nan
    for evaluation in judged(data, LaggedRegression(H, 14, quantiles=[0.1, 0.5, 0.9]), ALL, tmp_path):
        table, said = evaluation.tables["predictions"], evaluation.metrics
        origin = table["origin"].iloc[0]
        known = data.set_index(["s", "t"])["y"]
        np.testing.assert_array_equal(table["y"], [known[s, t] for s, t in zip(table["s"], table["t"], strict=True)])
        rows = table[table["y"].notna()]
        y, f, low, mid, high = (rows[name].to_numpy() for name in ("y", "prediction", "q0.1", "q0.5", "q0.9"))
        scale = {s: d[d["t"] <= origin].set_index("t")["y"].diff(7).abs().mean() for s, d in data.groupby("s")}
        naive = {s: d[d["t"] <= origin]["y"].ffill().to_numpy()[-7:] for s, d in data.groupby("s")}
        q = rows["s"].map(scale).to_numpy()
        rival = np.array([naive[s][(h - 1) % 7] for s, h in zip(rows["s"], rows["step"], strict=True)])
        loss = np.mean([np.where(y >= v, a * (y - v), (1 - a) * (v - y)) for a, v in ((0.1, low), (0.5, mid), (0.9, high))])
        inside = (low <= y) & (y <= high)
        expected = {
            "mae": eval_measures.meanabs(y, f), "rmse": eval_measures.rmse(y, f), "mse": eval_measures.mse(y, f),
            "mape": 100 * np.mean(np.abs((y - f) / y)), "smape": np.mean(200 * np.abs(y - f) / (np.abs(y) + np.abs(f))),
            "mase": np.mean(np.abs(y - f) / q), "wape": np.abs(y - f).sum() / np.abs(y).sum(), "bias": eval_measures.bias(f, y),
            "skill": 1 - np.abs(y - f).mean() / np.abs(y - rival).mean(), "pinball": loss, "crps": 2 * loss,
            "coverage": inside.mean(), "coverage_80": inside.mean(), "coverage_error": abs(inside.mean() - 0.8),
            "mean_width": (high - low).mean(),
            "msis": np.mean((high - low + 10 * np.maximum(low - y, 0) + 10 * np.maximum(y - high, 0)) / q),
        }  # fmt: skip
        assert said == pytest.approx(expected, rel=1e-12)
        errors = evaluation.tables["errors"].set_index(["by", "of"])
        assert errors.loc[("all", ""), "forecasts"].item() == len(rows)
        assert errors.loc[("step", "2"), "mae"].item() == pytest.approx(np.abs(y - f)[rows["step"] == 2].mean())
        assert errors.loc[("series", "c"), "rmse"].item() == pytest.approx(np.sqrt(np.mean((y - f)[rows["s"] == "c"] ** 2)))


def test_actual_zeros_are_left_out_of_mape_and_counted(tmp_path: Path) -> None:
    """And where all are zero, it is undefined, not infinite."""
    data = panel({"a": 60}).assign(y=lambda d: np.where(d.index % 2, 0.0, 5.0))
    (evaluation,) = judged(data, Baseline("naive", H), ("mape",), tmp_path, splitter=RollingOrigin(1))
    assert evaluation.tables["errors"]["zeros"].iloc[0] == 3
    with pytest.raises(DataError, match="mape is undefined"):
        judged(data.assign(y=np.where(data.index < 50, 1.0, 0.0)), Baseline("naive", H), ("mape",), tmp_path, splitter=RollingOrigin(1))


def test_what_no_model_gives_is_not_reported(tmp_path: Path) -> None:
    """Quantile metrics need quantiles, and the level that is asked for."""
    with pytest.raises(DataError, match="pinball needs quantiles"):
        judged(panel(), Baseline("naive", H), ("pinball",), tmp_path)
    with pytest.raises(DataError, match=r"add the quantiles 0\.05 and 0\.95"):
        judged(panel(), Baseline("naive", H, quantiles=[0.1, 0.9]), ("coverage_90",), tmp_path)


def test_a_series_without_a_row_at_the_origin_is_forecast_from_there(tmp_path: Path) -> None:
    """Its missing rows are unobserved steps: the forecast covers the window all the same."""
    data = panel({"a": 60, "b": 60})
    gone = data[~((data["s"] == "a") & data["t"].between("2024-06-22", "2024-06-25"))]
    (evaluation,) = judged(gone, Baseline("naive", H), ("mae",), tmp_path, splitter=RollingOrigin(1))
    mine = evaluation.tables["predictions"].query("s == 'a'")
    assert mine["t"].tolist() == pd.date_range("2024-06-26", periods=H).tolist()
    assert (mine["prediction"] == data.loc[(data["s"] == "a") & (data["t"] == "2024-06-21"), "y"].item()).all()


def test_a_series_that_begins_after_the_origin_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """There is no history to forecast it from."""
    data = panel({"a": 60, "b": 3})
    (evaluation,) = judged(data, Baseline("naive", H), ("mae",), tmp_path, splitter=RollingOrigin(1))
    assert evaluation.tables["predictions"]["s"].unique().tolist() == ["a"]
    assert "1 of 2 series have no history before the origin and are not judged: b" in caplog.text


def test_without_an_origin_the_last_steps_are_judged(tmp_path: Path) -> None:
    """Rows to be scored, with what came: the end of each is forecast from what stands before."""
    data = panel()
    pipeline = fitted(task_of(), Baseline("naive", H), data, tmp_path)
    selected = pipeline.task.select(data, pipeline.schema, targets=True)
    evaluation = ForecastEvaluator().judge(pipeline, Part(data, selected, ("mae",)))
    assert evaluation.tables["predictions"]["t"].unique().tolist() == pd.date_range("2024-06-26", periods=H).tolist()


# --- leaks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interface", [PANEL, {**PANEL, "past_covariates": ["p"]}, {**PANEL, "future_covariates": ["f"]}, COVARIATES])
@pytest.mark.parametrize(
    "model",
    [LaggedRegression(H, 14, quantiles=[0.1, 0.9]), SeasonalNaive(H, quantiles=[0.1, 0.9]), *(Baseline(kind, H) for kind in BASELINES)],
    ids=lambda model: getattr(model, "kind", type(model).__name__),
)
def test_nothing_after_an_origin_changes_what_is_forecast_from_it(interface: dict[str, Any], model: Any, tmp_path: Path) -> None:
    """Targets and past covariates after the origin are replaced by noise and gaps: fit and forecast are the same to the last bit."""
    from sklearn.base import clone

    data = panel()
    data.loc[[70, 150], "y"] = np.nan
    columns = ["y", "prediction", "s", "t"]
    for splitter in (RollingOrigin(4, step=3), WalkForward(3, step=4, refit="always", calibration_size=0)):
        whole = [one.tables["predictions"] for one in judged(data, clone(model), ("mae",), tmp_path, interface, splitter)]
        for number, table in enumerate(whole):
            random = np.random.default_rng(number)
            after = (data["t"] > table["origin"].iloc[0]).to_numpy()
            noisy = data.copy()
            noise = np.where(random.random(after.sum()) < 0.2, np.nan, random.normal(scale=1e3, size=after.sum()))
            noisy.loc[after, "y"] = noise
            noisy.loc[noisy.index[after][-1], "y"] = 1.0  # what is judged is observed
            noisy.loc[after, "p"] = random.normal(scale=1e3, size=after.sum())
            noisy.loc[data["t"] == data["t"].max(), "y"] = 5.0  # so the windows stand where they stood
            again = judged(noisy, clone(model), ("mae",), tmp_path, interface, splitter)
            other = next(o.tables["predictions"] for o in again if o.tables["predictions"]["origin"].iloc[0] == table["origin"].iloc[0])
            both = table.merge(other, on=["s", "t"], suffixes=("", "_noisy"))
            assert len(both) >= H
            for name in [c for c in table.columns if c == "prediction" or c.startswith("q0")]:
                np.testing.assert_array_equal(both[name], both[f"{name}_noisy"], err_msg=f"{name}, {columns}")


@pytest.mark.parametrize("interface", [PANEL, {**PANEL, "past_covariates": ["p"]}, {**PANEL, "future_covariates": ["f"]}, COVARIATES])
def test_no_origin_leaks(interface: dict[str, Any], tmp_path: Path) -> None:
    """Twenty origins of one fitted pipeline, asked as the evaluator asks: noise after an origin moves no bit of its forecast."""
    data = panel({"a": 120})
    model = LaggedRegression(H, 14, quantiles=[0.1, 0.9])
    pipeline = fitted(task_of(interface), model, data.iloc[:80], tmp_path)
    stamps = data["t"].to_numpy()

    def said(values: np.ndarray[Any, Any], origin: int) -> Any:
        rows = data.assign(y=values[:, 0], p=values[:, 1])
        rows.loc[rows.index[origin + 1], "y"] = 1.0  # something is observed, so that it is judged
        selected = pipeline.task.select(rows, pipeline.schema, targets=True)
        known, judged = np.arange(origin + 1), np.arange(origin + 1, origin + 1 + H)
        part = Part(rows.iloc[judged], selected.take(judged), ("mae",), past=rows.iloc[known], origin=stamps[origin])
        table = ForecastEvaluator().judge(pipeline, part).tables["predictions"]
        return table.set_index("step")[["prediction", "q0.1", "q0.9"]].to_numpy()

    assert leaking_origins(said, data[["y", "p"]].to_numpy(), range(80, 100)) == ()
    peeking = lambda values, origin: said(values, origin) + np.nan_to_num(values[origin + 1 :, 0]).sum()  # noqa: E731
    assert leaking_origins(peeking, data[["y", "p"]].to_numpy(), range(80, 83)) == (80, 81, 82)


def test_the_leak_test_can_fail(tmp_path: Path) -> None:
    """A forecaster that remembers what it saw of the future is caught: its forecasts change with it."""

    class Peeking(Baseline):
        def fit(self, X: pd.DataFrame, y: Any = None) -> Peeking:
            return self

        def predict(self, X: pd.DataFrame) -> Any:
            return np.full((X["series_id"].nunique(), self.horizon), FUTURE["mean"])

    data = panel()
    FUTURE = {"mean": float(data["y"].iloc[-3:].mean())}
    one = judged(data, Peeking("naive", H), ("mae",), tmp_path)[0].tables["predictions"]["prediction"]
    FUTURE = {"mean": float(data["y"].iloc[-3:].mean() + 1)}
    other = judged(data, Peeking("naive", H), ("mae",), tmp_path)[0].tables["predictions"]["prediction"]
    assert (one != other).all()
