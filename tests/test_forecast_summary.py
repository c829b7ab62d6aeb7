"""What an evaluation of forecasts says of all origins together: errors, skill with an interval, drift, training, and the files of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from utilsforecast import losses

import recipeline
from recipeline import settings
from recipeline.components import forecast_summary as summary
from recipeline.components.forecast_evaluator import ForecastEvaluator
from recipeline.components.forecasters import Baseline
from recipeline.components.forecasting import Forecasting, ForecastingInterface
from recipeline.contracts import Evaluation, Figure, FitContext, Part
from recipeline.pipeline import Pipeline
from recipeline.timeseries.frames import Layout

H = 4
RECIPE = """
name: two
model:
  class_path: {model}
  hyperparameters: {{horizon: 4, {more}}}
  loader: {{source_uri: series.csv}}
  data_interface: {{task_type: forecasting, target_col: y, timestamp_col: t, series_col: s, season: 7}}
evaluation: {{metrics: [mae], validation: {{method: walk_forward, n_windows: 4, refit: never}}}}
"""


def predictions(origins: int = 4, series: tuple[str, ...] = ("a", "b", "c"), seed: int = 0) -> pd.DataFrame:
    """Joined rows, some not observed, one zero."""
    random = np.random.default_rng(seed)
    stamps = pd.date_range("2024-01-01", periods=origins, freq="4D")
    rows = pd.DataFrame([(s, o, h) for o in stamps for s in series for h in range(1, H + 1)], columns=["s", "origin", "step"])
    y = random.normal(10, 3, len(rows))
    y[[3, 9]], y[5] = np.nan, 0.0
    point = y + random.normal(0, 1, len(rows))
    point[[3, 9]] = 10.0
    rows = rows.assign(y=y, prediction=point, naive=10.0, scale=rows["s"].map({"a": 2.0, "b": 0.5, "c": np.nan}))
    return rows.assign(**{"q0.1": point - 1, "q0.5": point, "q0.9": point + 1.2})


@pytest.mark.parametrize("by", ["all", "step", "series", "origin"])
def test_errors_are_those_of_utilsforecast(by: str) -> None:
    """Every metric of every group, observed rows only; percent and the mean over levels are this project's words for the same."""
    rows = predictions()
    table = summary.errors(rows)
    table = table[table["by"] == by].set_index("of")
    seen = rows[rows["y"].notna()]
    groups = pd.Series("", seen.index) if by == "all" else seen["s" if by == "series" else by].astype(str)
    frame = seen.assign(unique_id=groups, ds=1, cutoff=1)
    assert set(table.index) == set(groups)

    def said(name: str, **more: Any) -> pd.Series[Any]:
        models = more.pop("models", ["prediction"])
        return getattr(losses, name)(frame, models=models, target_col="y", **more).set_index("unique_id")["prediction"]

    np.testing.assert_allclose(table["mae"], said("mae")[table.index], rtol=1e-12)
    np.testing.assert_allclose(table["rmse"], said("rmse")[table.index], rtol=1e-12)
    np.testing.assert_allclose(table["bias"], said("bias")[table.index], rtol=1e-12)  # theirs, too, is prediction minus actual
    np.testing.assert_allclose(table["wape"], said("nd")[table.index], rtol=1e-12)
    np.testing.assert_allclose(table["smape"], 200 * said("smape")[table.index], rtol=1e-12)
    nonzero = frame[frame["y"] != 0]
    mape = losses.mape(nonzero, models=["prediction"], target_col="y").set_index("unique_id")["prediction"]
    np.testing.assert_allclose(table["mape"], 100 * mape[table.index], rtol=1e-12)
    levels = np.array([0.1, 0.5, 0.9])
    pinball = losses.mqloss(frame, models={"prediction": ["q0.1", "q0.5", "q0.9"]}, quantiles=levels, target_col="y")
    np.testing.assert_allclose(table["pinball"], pinball.set_index("unique_id")["prediction"][table.index], rtol=1e-12)
    np.testing.assert_allclose(table["crps"], 2 * table["pinball"])
    inside = losses.coverage(frame.rename(columns={"q0.1": "m-lo-80", "q0.9": "m-hi-80"}), models=["m"], level=80, target_col="y")
    np.testing.assert_allclose(table["coverage"], inside.set_index("unique_id")["m"][table.index])
    score = losses.winkler_score(frame.rename(columns={"q0.1": "m-lo-80", "q0.9": "m-hi-80"}), models=["m"], level=80, target_col="y")
    if by == "series":  # those are means, and a scale divides each series by one number
        scale = np.array([2.0, 0.5, np.nan])
        np.testing.assert_allclose(table["msis"], score.set_index("unique_id")["m"][table.index] / scale, rtol=1e-9)
        np.testing.assert_allclose(table["mase"], table["mae"] / scale, rtol=1e-12)


def test_zeros_and_unobserved_rows_are_counted() -> None:
    """A step that nobody observed has no line."""
    rows = predictions()
    rows.loc[rows["step"] == 2, "y"] = np.nan
    table = summary.errors(rows).set_index(["by", "of"])
    assert table.loc[("all", ""), "forecasts"] == int(rows["y"].notna().sum())
    assert table.loc[("all", ""), "zeros"] == int((rows["y"] == 0).sum())
    assert ("step", "2") not in table.index
    assert summary.errors(predictions(origins=1)).query("by == 'origin'").empty


# --- skill ----------------------------------------------------------------------------------------------------------------


def rivals(origins: int, series: int, better: float, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    random = np.random.default_rng(seed)
    stamps = pd.date_range("2024-01-01", periods=origins, freq="4D")
    rows = pd.DataFrame([(str(s), o, h) for o in stamps for s in range(series) for h in range(1, H + 1)], columns=["s", "origin", "step"])
    shock = rows["origin"].map(dict(zip(stamps, random.normal(size=origins), strict=True))).to_numpy()
    rows["y"], noise = shock + random.normal(size=len(rows)), random.normal(size=(2, len(rows)))
    rows = rows.assign(scale=1.0, reference=0.0, naive=rows["y"] + 2 * noise[0])
    return rows, (rows["y"] + 2 * better * noise[1]).to_numpy()


def test_skill_is_one_minus_a_ratio_of_errors_and_its_interval_covers() -> None:
    """Of twice 100 walks nine in ten at least hold the true ratio within their 95 % interval; a rival that is equal is within it."""
    held = 0
    for seed in range(100):
        rows, mine = rivals(30, 2, 0.8, seed)
        line = summary.skill(rows, mine, ["naive"]).iloc[0]
        assert line["skill"] == pytest.approx(1 - np.abs(rows["y"] - mine).mean() / np.abs(rows["y"] - rows["naive"]).mean())
        assert line["low"] < line["skill"] < line["high"]
        held += line["low"] <= 0.2 <= line["high"]
    assert held >= 90


def test_what_is_drawn_are_stretches_of_time_or_series_or_nothing() -> None:
    """Few origins of many series draw series; one of each draws nothing, and claims no interval."""
    for origins, series, drawn in ((5, 1, "time"), (1, 8, "series"), (2, 2, "")):
        rows, mine = rivals(origins, series, 0.5)
        line = summary.skill(rows, mine, ["naive"]).iloc[0]
        assert (line["drawn"], line["origins"], line["series"]) == (drawn, origins, series)
        assert np.isnan(line["low"]) == (drawn == "")
    weights = summary._draws(10, 4, 0)
    assert (weights.sum(axis=1) == 12).all()  # three runs of four
    neighbours = np.mean([np.corrcoef(weights[:, i], weights[:, (i + 1) % 10])[0, 1] for i in range(10)])
    apart = np.mean([np.corrcoef(weights[:, i], weights[:, (i + 5) % 10])[0, 1] for i in range(10)])
    assert neighbours > 0.4 > 0 > apart


def test_errors_that_come_together_make_a_wider_interval() -> None:
    """The same errors, alike within an origin or in any order: drawn one by one, both would have the same interval."""
    rows, _ = rivals(24, 1, 1.0)
    random = np.random.default_rng(4)
    mine = (rows["y"] + np.repeat(random.gamma(1.0, 1.0, 24), H)).to_numpy()
    steady = rows.assign(naive=rows["y"] + 1.0)
    shuffled = (rows["y"] + random.permutation(mine - rows["y"])).to_numpy()
    together, apart = (summary.skill(steady, said, ["naive"]).iloc[0] for said in (mine, shuffled))
    assert together["mae"] == pytest.approx(np.abs(rows["y"] - mine).mean()) == pytest.approx(apart["mae"])
    assert together["mae_against"] == pytest.approx(1.0)
    assert together["high"] - together["low"] > 1.4 * (apart["high"] - apart["low"])


def test_a_rival_without_error_has_no_skill_beside_it() -> None:
    """Nothing is divided by zero."""
    rows, mine = rivals(5, 1, 0.5)
    line = summary.skill(rows.assign(naive=rows["y"]), mine, ["naive"]).iloc[0]
    assert np.isnan(line["skill"])


# --- drift and training -----------------------------------------------------------------------------------------------------


def test_drift_is_seen_in_level_and_in_changes_apart() -> None:
    """A trend moves the level, not the changes; a wild window changes both; series count in their own units."""
    random = np.random.default_rng(3)
    steps = np.arange(-199, 21)
    frames = [
        pd.DataFrame({"series": name, "step": steps, "y": size * (0.05 * steps + random.normal(0, 0.2, 220)), "x": random.normal(size=220)})
        for name, size in (("a", 1.0), ("b", 1000.0))
    ]
    data = pd.concat(frames)
    data.loc[data["step"] > 0, "x"] *= 6

    def table(rows: pd.DataFrame) -> pd.DataFrame:
        return summary.drift(rows[rows["step"] <= 0], rows[rows["step"] > 0]).set_index(["column", "of"])

    found = table(data)
    assert found.loc[("y", "level"), "shift"] == pytest.approx(1.85, abs=0.15)
    assert abs(found.loc[("y", "change"), "shift"]) < 0.5
    assert found.loc[("x", "level"), "spread"] == pytest.approx(6, rel=0.4)
    assert found["drifted"].to_dict() == {("y", "level"): False, ("y", "change"): False, ("x", "level"): True, ("x", "change"): True}
    far = data.assign(y=data["y"] + 40 * (data["step"] > 0) * np.where(data["series"] == "a", 1, 1000))
    assert bool(table(far).loc[("y", "level"), "drifted"])
    assert table(data.assign(y=1.0)).index.get_level_values(0).unique().tolist() == ["x"]  # what never varies has no units


@pytest.mark.parametrize(
    ("held_back", "train", "sign"),
    [
        ([3, 2, 1.5, 1.9, 2.2], [3, 2, 1, 0.5, 0.2], True),
        ([3, 2, 1.5, 1.51, 1.5], [3, 2, 1, 0.5, 0.2], False),
        ([3, 2, 1.5, 2], [3, 2, 1, 2], False),
    ],
)  # fmt: skip
def test_overfitting_is_training_down_and_validation_up(held_back: list[float], train: list[float], sign: bool) -> None:
    """Both at once, and more than a ripple; a loss below zero counts as well."""
    for offset in (0.0, -10.0):
        history = pd.DataFrame({"epoch": range(len(train)), "train_loss": np.add(train, offset), "val_loss": np.add(held_back, offset)})
        line = summary.training(history).iloc[0]
        assert (line["best_epoch"], bool(line["overfitting"])) == (2, sign if offset == 0 or held_back[-1] != 1.5 else False)
    assert summary.training(pd.DataFrame({"epoch": [0], "train_loss": [1.0], "val_loss": [np.nan]}))["epochs"].item() == 1


def test_a_model_that_was_judged_twice_tells_its_history_once() -> None:
    """Folds that did not refit repeat the history of the fold before."""
    one, other = (pd.DataFrame({"epoch": [0, 1], "train_loss": [2.0, end], "val_loss": [2.0, 1.0]}) for end in (1.0, 0.5))
    together = pd.concat([frame.assign(fold=label) for label, frame in (("0", one), ("1", one), ("2", other))])
    assert summary.without_repeats(together)["fold"].unique().tolist() == ["0", "2"]
    assert summary.without_repeats(one) is one


# --- what parts tell, and what a run keeps ------------------------------------------------------------------------------------


class Learner(Baseline):
    """A forecaster with a history."""

    def history(self) -> pd.DataFrame:
        return pd.DataFrame({"epoch": [0, 1, 2], "train_loss": [3.0, 2.0, 1.0], "val_loss": [3.0, 2.0, 4.0]})


class Smoother:
    """A preprocessor that says what it did."""

    def fit(self, X: Any, y: Any = None) -> Smoother:
        return self

    def transform(self, X: Any) -> Any:
        return X

    def account(self, X: pd.DataFrame, *, processed: bool = False) -> Evaluation:
        return Evaluation({}, {"cleaning": pd.DataFrame({"rows": [len(X)]})}, {"smooth": Figure("Smooth", lambda axes: None)})


def series(days: int = 60) -> pd.DataFrame:
    random = np.random.default_rng(1)
    stamps = pd.date_range("2024-01-01", periods=days)
    frames = [
        pd.DataFrame({"s": name, "t": stamps, "y": 5 + np.sin(2 * np.pi * np.arange(days) / 7) + random.normal(0, 0.2, days)})
        for name in "ab"
    ]
    return pd.concat(frames, ignore_index=True)


def test_history_and_account_of_the_parts_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Loss curves and the sign of overfitting of a model with a history; whatever a preprocessor tells of the history it was given."""
    task = Forecasting(ForecastingInterface(target_col="y", timestamp_col="t", series_col="s"))
    data, model = series(), Learner("naive", H)
    task.introduce(model)
    schema = task.describe(data)
    selected = task.select(data, schema, targets=True)
    pipeline = Pipeline(task=task, schema=schema, model=model, preprocessor=Smoother()).fit(selected, FitContext(1, tmp_path))
    known = (data["t"] <= "2024-02-25").to_numpy()
    part = Part(data[~known], selected.take(np.flatnonzero(~known)), ("mae",), past=data[known], origin=np.datetime64("2024-02-25", "ns"))
    with caplog.at_level(logging.WARNING, "recipeline"):
        evaluator = ForecastEvaluator()
        found = evaluator.judge(pipeline, part)
        evaluator.judge(pipeline, part)  # the next origin of `refit: never`: the same training
    assert {"history.csv", "training", "cleaning", "drift"} <= set(found.tables)
    assert found.tables["cleaning"]["rows"].item() == known.sum()
    assert {"loss", "smooth"} <= set(found.figures)
    assert caplog.text.count("a sign of overfitting") == 1
    drawn(found.figures["loss"])


def drawn(figure: Figure) -> Any:
    from matplotlib.figure import Figure as Canvas

    axes = Canvas().subplots()
    figure.draw(axes)
    return axes


def test_pictures_of_all_origins_show_all_of_them() -> None:
    """Errors of every origin, a bar per rival with its interval."""
    rows, mine = rivals(5, 2, 0.5)
    joined = rows.assign(prediction=mine, **{"q0.1": mine - 1, "q0.9": mine + 1}).drop(columns="reference")
    found = ForecastEvaluator().summarise(
        {"predictions": joined.drop(columns=["naive", "scale"]), "rivals": rows, "errors": pd.DataFrame(), "drift": pd.DataFrame()}
    )
    assert {"error_by_step", "coverage", "skill"} == set(found.figures)
    assert "all 5 origins" in found.figures["error_by_step"].caption
    line = drawn(found.figures["error_by_step"]).lines[0]
    np.testing.assert_allclose(line.get_ydata(), np.abs(rows["y"] - mine).groupby(rows["step"]).mean())
    assert len(drawn(found.figures["skill"]).patches) == 1
    assert set(found.tables) == {"predictions", "rivals", "errors.csv", "skill", "drift"}


@pytest.fixture
def train(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], recipeline.Run]:
    import shutil

    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "base.yaml").write_text("")
    (tmp_path / "config" / "local.yaml").write_text("")
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    series().to_csv("series.csv", index=False)
    return lambda text: recipeline.train(text, settings=settings.load(project=tmp_path, environ={}))


def test_a_run_keeps_one_table_of_each_kind_over_all_origins(train: Callable[[str], recipeline.Run]) -> None:
    """Errors as CSV, the forecasts of every rival beside those of the model, and skill against each; the report says of what they are."""
    run = train(RECIPE.format(model="lagged_regression", more="lookback: 14, quantiles: [0.1, 0.5, 0.9]"))
    tables = run.artifact / "tables"
    assert {path.name for path in tables.iterdir()} == {
        "predictions.parquet",
        "errors.csv",
        "rivals.parquet",
        "skill.parquet",
        "drift.parquet",
    }
    errors = pd.read_csv(tables / "errors.csv", keep_default_na=False)
    assert errors["by"].value_counts().to_dict() == {"all": 1, "step": 4, "series": 2, "origin": 4}
    assert float(errors["mae"].iloc[0]) == pytest.approx(run.metrics["mae"])  # windows of one size
    rows = pd.read_parquet(tables / "predictions.parquet")
    assert len(rows) == 4 * 2 * H == len(rows.drop_duplicates(["s", "origin", "step"]))
    skill = pd.read_parquet(tables / "skill.parquet").set_index("against")
    assert set(skill.index) == set(run.baselines) == {"naive", "seasonal_naive", "drift", "moving_average", "nlinear"}
    for name, line in skill.iterrows():
        assert line["mae_against"] == pytest.approx(run.baselines[name]["mae"])
        assert line["skill"] == pytest.approx(1 - run.metrics["mae"] / run.baselines[name]["mae"])
    page = (run.artifact / "report.html").read_text()
    assert "Tables are of all folds" in page
    assert "Skill beside the baselines" in page


# --- NLinear among the baselines -------------------------------------------------------------------------------------------------


def frame(values: np.ndarray, name: str = "a") -> pd.DataFrame:
    return pd.DataFrame({"series_id": name, "timestamp": pd.date_range("2024-01-01", periods=len(values)), "target": values})


def test_nlinear_beats_every_other_baseline_where_there_is_something_to_learn() -> None:
    """Two seasons at once, one of them not the data's; its quantiles are of errors that it had not seen."""
    t = np.arange(400)
    random = np.random.default_rng(0)
    values = 10 + np.sin(2 * np.pi * t / 7) + 2 * np.sin(2 * np.pi * t / 11) + random.normal(0, 0.1, 400)
    data, future = frame(values[:-7]), values[-7:]
    error = {}
    for kind in ("naive", "seasonal_naive", "drift", "moving_average", "nlinear"):
        model = Baseline(kind, 7, layout=Layout("D", 7), lookback=28, quantiles=[0.1, 0.9]).fit(data)
        answer = model.predict(data)
        error[kind] = np.abs(answer["prediction"].to_numpy() - future).mean()
    assert error["nlinear"] < 0.25 * min(value for kind, value in error.items() if kind != "nlinear")
    assert 0.1 < (answer["q0.9"] - answer["q0.1"]).mean() < 1.0


def test_nlinear_learns_a_step_from_the_windows_in_which_it_was_observed() -> None:
    """Where most windows have a hole; and where there is none to learn from it is naive."""
    t = np.arange(300)
    values = np.sin(2 * np.pi * t / 7)
    values[::5] = np.nan
    model = Baseline("nlinear", 7, layout=Layout("D", 7)).fit(frame(values))
    answer = model.predict(frame(values))["prediction"].to_numpy()
    np.testing.assert_allclose(answer, np.sin(2 * np.pi * (300 + np.arange(7)) / 7), atol=0.15)
    short = frame(np.array([1.0, 2.0, 4.0]))
    assert Baseline("nlinear", 7, layout=Layout("D", 7)).fit(short).predict(short)["prediction"].tolist() == [4.0] * 7


def test_of_very_many_windows_an_even_selection_is_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """From every series, and in their order."""
    from recipeline.components import forecasters
    from recipeline.timeseries.frames import panel

    data = pd.concat([frame(np.arange(100.0), "a"), frame(np.arange(1000.0, 1050.0), "b")])
    monkeypatch.setattr(forecasters, "RESIDUALS_MOST", 30)
    model = Baseline("nlinear", 7, layout=Layout("D", 7)).fit(data)
    past, future = model._history(panel(data, Layout("D", 7)))
    assert len(past) == len(future) == 30
    assert (past[:, -1] + 1 == future[:, 0]).all()
    assert 5 < (past[:, -1] >= 1000).sum() < 15
    assert (np.diff(past[past[:, -1] < 1000, -1]) > 0).all()
