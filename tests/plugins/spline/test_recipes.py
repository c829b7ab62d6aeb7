"""The spline family through the doors: train, batch, HTTP, search, resume, what is refused; with fewer epochs than the recipes have."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

import recipeline
from recipeline import settings
from recipeline.errors import Damaged
from recipeline.serve import app
from recipeline_spline.model import SplineLSTM


def pipeline_of(run: recipeline.Run, home: Path) -> Any:
    return recipeline.load(run.id, settings=settings.load(project=home, environ={}))


def post(pipeline: Any, home: Path, *bodies: Any) -> list[httpx.Response]:
    configured = settings.load(project=home, environ={})

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app(pipeline, configured))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return [await client.post("/predict", json={"records": body}) for body in bodies]

    return asyncio.run(ask())


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return json.loads(frame.to_json(orient="records", date_format="iso"))


# --- one command --------------------------------------------------------------------------------------------------------------


def test_one_command_from_raw_rows_to_a_report(home: Path, trained: Callable[[str], recipeline.Run]) -> None:
    """CO2 with its 59 gaps: everything of the run is there, and it beats every rule."""
    run = trained("co2_forecast")
    for rule in ("naive", "seasonal_naive", "drift", "moving_average"):
        assert run.metrics["mae"] < 0.6 * run.baselines[rule]["mae"], rule
        assert run.metrics["crps"] < run.baselines[rule]["crps"], rule
    tables = {path.name for path in (run.artifact / "tables").iterdir()}
    assert tables == {
        "predictions.parquet", "rivals.parquet", "errors.csv", "skill.parquet", "drift.parquet", "history.csv", "training.parquet",
        "cleaning.parquet",
    }  # fmt: skip
    history = pd.read_csv(run.artifact / "tables" / "history.csv")
    assert history["epoch"].tolist() == list(range(6))  # judged by five windows, told once
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    assert len(pd.read_parquet(run.artifact / "tables" / "training.parquet")) == 1
    rows = pd.read_parquet(run.artifact / "tables" / "predictions.parquet")
    assert len(rows) == 5 * 24
    assert (rows["q0.1"] <= rows["q0.5"]).all()
    assert (rows["q0.5"] <= rows["q0.9"]).all()
    page = (run.artifact / "report.html").read_text()
    for title in ("Forecast and actual", "Error by step", "Original and filled", "Autocorrelation of residuals", "Coverage by level",
                  "Loss by epoch", "Skill beside the baselines"):  # fmt: skip
        assert f'aria-label="{title}"' in page, title
    cleaning = pd.read_parquet(run.artifact / "tables" / "cleaning.parquet").groupby("series").last()
    assert cleaning["grid_points"].item() - cleaning["observed"].item() == 59


def test_the_same_seed_gives_the_same_run(home: Path, trained: Callable[[str], recipeline.Run]) -> None:
    """Another name makes it another run; nothing else differs, so every figure is equal."""
    once = trained("stations_panel")
    text = Path("recipes/spline/stations_panel.yaml").read_text()
    assert "seed:" not in text
    Path("recipes/spline/again.yaml").write_text(text.replace("name: stations_panel", "name: again"))
    again = recipeline.train("recipes/spline/again.yaml", settings=settings.load(project=home, environ={}))
    assert again.metrics == once.metrics
    Path("recipes/spline/seeded.yaml").write_text(text.replace("name: stations_panel", "name: seeded\nseed: 8"))
    other = recipeline.train("recipes/spline/seeded.yaml", settings=settings.load(project=home, environ={}))
    assert other.metrics != once.metrics


def test_smoothing_is_shown_beside_the_original_and_rows_are_kept_where_asked(home: Path) -> None:
    """How much of the variance it took is in a table; `processed` holds what the network saw."""
    text = Path("recipes/spline/co2_forecast.yaml").read_text().replace("name: co2_forecast", "name: smoothed")
    text = text.replace("smooth: none", "smooth: local_linear").replace("max_epochs: 6", "max_epochs: 1")
    text = text.replace("n_windows: 5", "n_windows: 1").replace(
        "evaluation:\n", "evaluation:\n  evaluator: {name: forecast_evaluator, params: {processed: true}}\n"
    )
    Path("recipes/spline/smoothed.yaml").write_text(text)
    run = recipeline.train("recipes/spline/smoothed.yaml", settings=settings.load(project=home, environ={}))
    line = pd.read_parquet(run.artifact / "tables" / "cleaning.parquet").iloc[0]
    assert 0 < line["variance_removed"] < 0.5
    assert line["roughness_smoothed"] < line["roughness_filled"]
    assert 'aria-label="Original and smoothed"' in (run.artifact / "report.html").read_text()
    rows = pd.read_parquet(run.artifact / "tables" / "processed.parquet")
    assert rows["target"].isna().sum() == 59
    assert rows.filter(like="input ").notna().all(axis=None)


@pytest.mark.parametrize(
    ("rule", "value"),
    [("duplicates: last", lambda first, second: second), ("duplicates: mean", lambda first, second: (first + second) / 2),
     ("agg: sum", lambda first, second: first + second)],
)  # fmt: skip
def test_rows_that_meet_are_judged_as_they_are_learned(home: Path, rule: str, value: Callable[[Any, Any], Any]) -> None:
    """Two measurements a week, of one day or (sum) of two: what is judged, baselines and forecasts follow the rule."""
    first = pd.read_csv("recipes/data/co2.csv", parse_dates=["date"]).tail(400)
    second = first.assign(co2=first["co2"] + 40)
    if rule == "agg: sum":
        second["date"] -= pd.Timedelta("1D")
    pd.concat([first, second]).sort_values("date", kind="stable").to_csv("recipes/data/twice.csv", index=False)
    text = Path("recipes/spline/co2_forecast.yaml").read_text().replace("name: co2_forecast", f"name: twice_{rule.split()[1]}")
    text = text.replace("co2.csv", "twice.csv").replace("fill: pchip", f"fill: pchip, {rule}").replace("seglstm", "linear")
    text = text.replace("max_epochs: 6", "max_epochs: 1").replace("n_windows: 5", "n_windows: 1")
    Path("recipes/spline/twice.yaml").write_text(text)
    run = recipeline.train("recipes/spline/twice.yaml", settings=settings.load(project=home, environ={}))
    said = pd.read_parquet(run.artifact / "tables" / "predictions.parquet")
    expected = value(first["co2"], second["co2"]).to_numpy()[-24:]
    np.testing.assert_allclose(said["y"], expected)
    assert np.abs(said["prediction"] - said["y"]).max() < 10
    rivals = pd.read_parquet(run.artifact / "tables" / "rivals.parquet")
    for name in ("naive", "seasonal_naive", "nlinear"):
        assert np.abs(rivals[name] - rivals["y"]).max() < 20, name


# --- panels, covariates, histories never seen -----------------------------------------------------------------------------------


def test_a_series_never_seen_and_a_new_history_are_answered_without_training(home: Path, trained: Callable[[str], recipeline.Run]) -> None:
    """station-50 is not in training; more rides lift its forecast; HTTP says what the library says."""
    pipeline = pipeline_of(trained("stations_panel"), home)
    recent = pd.read_csv("recipes/data/stations_recent.csv")
    new = recent[recent["station"] == "station-50"].reset_index(drop=True)
    assert "station-50" not in set(pd.read_csv("recipes/data/stations.csv")["station"])
    busier = new.assign(rides=new["rides"] * 3)
    columns = ["station", "day", "rides"]
    first, second = post(pipeline, home, records(new[columns]), records(busier[columns]))
    assert (first.status_code, second.status_code) == (200, 200), (first.text, second.text)
    said, more = (pd.DataFrame(answer.json()["predictions"]) for answer in (first, second))
    assert len(said) == 14
    assert (more["prediction"] > 2 * said["prediction"]).all()
    expected = pipeline.predict(new.assign(day=pd.to_datetime(new["day"])))
    assert said["prediction"].tolist() == expected["prediction"].tolist()
    assert {"q0.1", "q0.5", "q0.9"} <= set(said.columns)


def test_batch_forecasts_are_for_exactly_the_steps_after_each_history(
    home: Path, trained: Callable[[str], recipeline.Run], run_command: Callable[..., Any]
) -> None:
    """Fourteen days after the last row of every series, null or not; the rows to come where there are future covariates."""
    for name, source, begin in (("stations_panel", "stations_recent.csv", None), ("stations_covariates", "stations_next.csv", 14)):
        ended = run_command(
            "batch-inference", "--run-id", trained(name).id, "--input", f"recipes/data/{source}", "--output", f"out/{name}.csv", "--json"
        )
        assert ended.code == 0, ended
        said, asked = pd.read_csv(f"out/{name}.csv"), pd.read_csv(f"recipes/data/{source}")
        for station, rows in said.groupby("station"):
            given = asked[asked["station"] == station]["day"]
            if begin is None:
                wanted = pd.date_range(given.max(), periods=15)[1:].strftime("%Y-%m-%d").tolist()
            else:
                wanted = given.tail(begin).tolist()
            assert rows["day"].str[:10].tolist() == wanted
        assert set(said["station"]) == set(asked["station"])
        assert np.isfinite(said[["prediction", "q0.1", "q0.9"]].to_numpy()).all()


def test_covariates_are_used_and_an_unknown_category_is_answered(
    home: Path, trained: Callable[[str], recipeline.Run], caplog: pytest.LogCaptureFixture
) -> None:
    """A holiday to come changes its own day; a kind of station that training never saw is the unknown token."""
    pipeline = pipeline_of(trained("stations_covariates"), home)
    caplog.clear()  # what training said, where this is the first test that asks for it
    asked = pd.read_csv("recipes/data/stations_next.csv", parse_dates=["day"])
    plain = pipeline.predict(asked)
    festive = pipeline.predict(asked.assign(holiday=1))
    assert (festive["prediction"] != plain["prediction"]).mean() > 0.9
    assert not caplog.messages
    strange = pipeline.predict(asked.assign(kind="harbour"))
    assert caplog.messages == ["kind: 'harbour' unknown from training, taken as the unknown category"]
    assert np.isfinite(strange["prediction"]).all()
    assert (strange["prediction"] != plain["prediction"]).any()


def test_half_a_history_missing_is_answered_and_flagged(home: Path, trained: Callable[[str], recipeline.Run]) -> None:
    """`low_coverage` is true where less than half of the window was observed."""
    pipeline = pipeline_of(trained("stations_panel"), home)
    recent = pd.read_csv("recipes/data/stations_recent.csv", parse_dates=["day"])
    thin = recent["station"].eq("station-05") & (np.arange(len(recent)) % 4 > 0)
    said = pipeline.predict(recent.assign(rides=recent["rides"].mask(thin)))
    flags = said.groupby("station")["low_coverage"].first()
    assert flags.index[flags].tolist() == ["station-05"]


# --- what is refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("stations_covariates", lambda d: d.assign(holiday=d["holiday"].where(d["day"] != "2023-09-20")), "holiday.*2023-09-20"),
        ("stations_covariates", lambda d: d.drop(columns="holiday"), "holiday"),
        ("stations_covariates", lambda d: d[d["day"] != "2023-09-25"], "2023-09-25"),
        ("stations_panel", lambda d: d.assign(rides=np.nan), "no observed rides"),
        ("stations_panel", lambda d: d.assign(rides=np.inf), "inf"),
        ("stations_panel", lambda d: d.assign(rides="N/A"), "rides"),
        ("stations_panel", lambda d: d.assign(rides="1,234"), "rides"),
        ("stations_panel", lambda d: d.assign(rides=-5.0), "log1p"),
        ("stations_panel", lambda d: d.assign(rides=1e308), "too large"),
        ("stations_panel", lambda d: d.assign(day="soon"), "day"),
        ("stations_panel", lambda d: d.assign(day=d["day"].where(d.index != 5, "2023-08-01T00:00+09:00")), "day.*in row 5 has a time zone"),
        ("stations_panel", lambda d: pd.concat([d, d.assign(rides=1.0)]), "2023-0"),
        ("co2_forecast", lambda d: d.head(1), "1 grid points, 96 are needed"),
        ("co2_forecast", lambda d: d.tail(60), "96"),
    ],
)  # fmt: skip
def test_a_bad_history_is_refused_and_nothing_is_written(
    home: Path, trained: Callable[[str], recipeline.Run], name: str, spoil: Any, words: str, run_command: Callable[..., Any]
) -> None:
    """Exit 5 with column, series or time; no output, and the next good question is answered."""
    source = {"co2_forecast": "co2.csv", "stations_panel": "stations_recent.csv", "stations_covariates": "stations_next.csv"}[name]
    good = pd.read_csv(f"recipes/data/{source}")
    Path("out").mkdir(exist_ok=True)
    spoil(good).to_csv("out/bad.csv", index=False)
    asked = ("batch-inference", "--run-id", trained(name).id, "--input", "out/bad.csv", "--output", "out/refused.csv", "--json")
    ended = run_command(*asked)
    assert ended.code == 5, ended
    assert re.search(words, json.dumps(ended.json["error"])), ended.json
    assert str(home) not in ended.out
    assert not Path("out/refused.csv").exists()
    good.to_csv("out/bad.csv", index=False)
    assert run_command(*asked).code == 0
    Path("out/refused.csv").unlink()


ODD = """name: odd
model:
  class_path: spline_lstm
  hyperparameters: {encoder: seglstm, segment: 7, lookback: 24, horizon: 6, hidden_size: 4, max_epochs: 1}
  loader: {source_uri: ../data/odd.csv}
  preprocessor: {name: spline, params: {calendar: [yearday]}}
  data_interface:
    task_type: forecasting
    target_col: "전력 (kW)"
    timestamp_col: "측정 시각"
    series_col: "지점 이름"
    past_covariates: ["기온 °C"]
    freq: ME
evaluation:
  metrics: [mae, smape]
  validation: {method: walk_forward, n_windows: 1, refit: never}
"""


def test_a_file_that_is_odd_in_every_allowed_way_goes_through_every_door(home: Path, run_command: Callable[..., Any]) -> None:
    """BOM, CRLF, Korean and spaced names, series between one another, ends of months, a constant series, integers beyond 2^24, segments
    that do not divide the lookback: forecasts are for the next six ends of months, by file and by HTTP alike; an output that cannot be
    written is exit 7."""
    months = pd.date_range("2014-01-31", periods=96, freq="ME")
    pieces = [
        pd.DataFrame({"지점 이름": name, "측정 시각": months.strftime("%Y-%m-%d"), "기온 °C": np.arange(96) % 12, "전력 (kW)": values})
        for name, values in (("서울 1", 2**24 + np.arange(96)), ("부산", np.full(96, 5)))
    ]
    rows = pd.concat(pieces).sort_values("측정 시각", kind="stable")
    Path("recipes/data/odd.csv").write_bytes(b"\xef\xbb\xbf" + rows.to_csv(index=False).replace("\n", "\r\n").encode())
    Path("recipes/spline/odd.yaml").write_text(ODD)
    ended = run_command("train", "--recipe-file", "recipes/spline/odd.yaml", "--json")
    assert ended.code == 0, ended
    asked = ("batch-inference", "--run-id", ended.json["run_id"], "--json", "--output")
    assert run_command(*asked, "out/odd.csv").code == 0
    said = pd.read_csv("out/odd.csv")
    assert said["지점 이름"].unique().tolist() == ["부산", "서울 1"]
    wanted = pd.date_range("2022-01-31", periods=6, freq="ME").strftime("%Y-%m-%d").tolist()
    for name, near in (("부산", 5), ("서울 1", 2**24 + 98)):
        mine = said[said["지점 이름"] == name]
        assert mine["측정 시각"].str[:10].tolist() == wanted
        assert np.abs(mine["prediction"] - near).max() < 60
    pipeline = recipeline.load(ended.json["run_id"], settings=settings.load(project=home, environ={}))
    [answer] = post(pipeline, home, records(rows))
    assert answer.status_code == 200, answer.text
    np.testing.assert_array_equal([one["prediction"] for one in answer.json()["predictions"]], said["prediction"])
    Path("out/taken").write_text("a file, not a folder")
    refused = run_command(*asked, "out/taken/odd.csv")
    assert (refused.code, refused.json["error"]["slug"]) == (7, "cannot-write"), refused
    assert Path("out/taken").read_text() == "a file, not a folder"


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (("quantiles: [0.1, 0.5, 0.9]", "quantiles: [0.9, 0.5]"), 3, "ascending"),
        (("encoder: seglstm", "encoder: transformer"), 3, "transformer"),
        (("horizon: 24", "horizon: {type: int, low: 12, high: 24}"), 3, "horizon"),
        (("fill: pchip", "fill: spline"), 3, "spline"),
        (("lookback: 96", "lookback: 9600"), 5, "lookback"),
        (("horizon: 24", "horizon: 2400"), 5, "leave"),
        (("target_col: co2", "target_col: co3"), 5, "co3"),
    ],
)  # fmt: skip
def test_a_mistake_in_the_recipe_or_too_little_data_ends_before_training(
    home: Path, change: tuple[str, str], code: int, words: str, run_command: Callable[..., Any]
) -> None:
    """Mistakes of the recipe with exit 3 and their line, before any data; too little data with 5."""
    text = Path("recipes/spline/co2_forecast.yaml").read_text()
    assert change[0] in text
    Path("recipes/spline/wrong.yaml").write_text(text.replace(*change).replace("name: co2_forecast", "name: wrong"))
    ended = run_command("train", "--recipe-file", "recipes/spline/wrong.yaml", "--json")
    assert ended.code == code, ended
    assert words in json.dumps(ended.json["error"]), ended.json


def test_one_row_and_no_row_are_refused_in_training(home: Path, run_command: Callable[..., Any]) -> None:
    """With what is lacking; an unwritable project as well, before anything is trained."""
    text = Path("recipes/spline/co2_forecast.yaml").read_text()
    for rows in (0, 1):
        pd.read_csv("recipes/data/co2.csv").head(rows).to_csv("recipes/data/few.csv", index=False)
        Path("recipes/spline/few.yaml").write_text(text.replace("co2.csv", "few.csv").replace("name: co2_forecast", "name: few"))
        ended = run_command("train", "--recipe-file", "recipes/spline/few.yaml", "--json")
        assert ended.code == 5, ended


def copied(run: recipeline.Run, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(run.artifact, folder)
    return folder


def test_a_swapped_preprocessor_and_a_truncated_checkpoint_are_refused(
    home: Path, trained: Callable[[str], recipeline.Run], tmp_path: Path
) -> None:
    """By the artifact before a byte is read, exit 9; by the model itself, where only its folder is at hand."""
    panel, co2 = trained("stations_panel"), trained("co2_forecast")
    where = Path("parts/model/preprocessor/preprocessor.json")
    folder = copied(co2, tmp_path)
    shutil.copy(panel.artifact / where, folder / where)
    with pytest.raises(Damaged, match=r"preprocessor\.json differs") as refused:
        recipeline.load(folder)
    assert refused.value.code == 9
    with pytest.raises(Damaged, match="not the one that this model was trained with"):
        SplineLSTM.load(folder / "parts" / "model")
    shutil.copytree(panel.artifact / "parts" / "preprocessor", folder / "parts" / "preprocessor", dirs_exist_ok=True)
    with pytest.raises(Damaged):
        recipeline.load(folder)
    weights = copied(co2, tmp_path / "other") / "parts" / "model" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(Damaged, match=r"weights\.safetensors"):
        recipeline.load(weights.parents[2])
    with pytest.raises(Damaged, match=r"weights\.safetensors"):
        SplineLSTM.load(weights.parent)


# --- search and resume -------------------------------------------------------------------------------------------------------------


def test_a_search_stops_hopeless_trials_and_goes_on_after_an_interruption(
    home: Path, run_command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learning rates that learn nothing are stopped before their last epoch. Interrupted in its third trial, the same command proposes
    that trial again and goes on to the number that was asked for; the winner is trained."""
    text = Path("recipes/spline/co2_forecast.yaml").read_text().replace("name: co2_forecast", "name: searched")
    text = text.replace("learning_rate: 0.001", "learning_rate: {type: categorical, choices: [0.003, 0.0000001]}").replace(
        "max_epochs: 6", "max_epochs: 4"
    )
    text = text.replace("n_windows: 5", "n_windows: 1")
    text = text.replace(
        "evaluation:\n",
        "hyperparameter_tuning:\n  n_trials: 6\n  metric: mae\n  folds: 2\n"
        "  pruning: {enabled: true, n_startup_trials: 1, n_warmup_steps: 1}\nevaluation:\n",
    )
    Path("recipes/spline/searched.yaml").write_text(text)
    words = ("train", "--recipe-file", "recipes/spline/searched.yaml", "--json")
    learn, begun = SplineLSTM._learn, []

    def interrupted(self: SplineLSTM, *given: Any) -> None:
        begun.append(self.learning_rate)
        if len(begun) == 5:  # two folds each, where a trial is not stopped
            raise KeyboardInterrupt
        learn(self, *given)

    monkeypatch.setattr(SplineLSTM, "_learn", interrupted)
    stopped = run_command(*words)
    assert stopped.code == 130, stopped
    ended = run_command(*words)
    assert (ended.code, ended.json["resumed"]) == (0, True), ended
    [artifact] = (path.parent for path in Path("mlruns").glob("*/*/artifacts/model/recipe.yaml") if "name: searched" in path.read_text())
    hpo = json.loads((artifact / "hpo.json").read_text())
    assert hpo["best_params"] == {"learning_rate": 0.003}
    assert hpo["pruned_trials"] >= 1
    assert hpo["total_trials"] == 6
    cut = next(trial for trial in hpo["optimization_history"] if trial["state"] == "failed")
    assert (cut["reason"], hpo["failed_trials"]) == ("interrupted", 1)
    again = hpo["optimization_history"][cut["number"] + 1]
    assert again["params"] == cut["params"]
    assert begun[5] == begun[4] == cut["params"]["learning_rate"]


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [0, 2, 4])
def test_kill_9_in_an_epoch_and_again_is_the_run_that_was_never_stopped(
    home: Path, trained: Callable[[str], recipeline.Run], epoch: int
) -> None:
    """The same command goes on from the last epoch that was written, and every figure is that of the other run."""
    name = f"killed_{epoch}"
    text = Path("recipes/spline/co2_forecast.yaml").read_text().replace("name: co2_forecast", f"name: {name}")
    Path(f"recipes/spline/{name}.yaml").write_text(text)
    words = [sys.executable, "-m", "recipeline", "train", "--recipe-file", f"recipes/spline/{name}.yaml", "--json"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if f'"epoch": {epoch},' in line:
                process.kill()
                break
        assert process.wait() == -signal.SIGKILL
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    again = json.loads(done.stdout.splitlines()[-1])
    assert again["resumed"]
    assert f'"epoch": {epoch + 2},' in done.stderr or epoch == 4
    assert '"epoch": 0,' not in done.stderr or epoch == 0
    assert again["metrics"] == trained("co2_forecast").metrics


def test_a_warm_start_goes_on_from_the_network_before(home: Path) -> None:
    """`refit: warm_start`: the second window's training begins with a loss near the end of the first one's."""
    text = Path("recipes/spline/co2_forecast.yaml").read_text().replace("name: co2_forecast", "name: warm")
    text = text.replace("n_windows: 5, step: 24, refit: never", "n_windows: 2, step: 24, refit: warm_start")
    Path("recipes/spline/warm.yaml").write_text(text)
    run = recipeline.train("recipes/spline/warm.yaml", settings=settings.load(project=home, environ={}))
    history = pd.read_csv(run.artifact / "tables" / "history.csv")
    first, second = (rows["train_loss"].to_numpy() for _, rows in history.groupby("fold", sort=False))
    assert second[0] < 0.7 * first[0]
