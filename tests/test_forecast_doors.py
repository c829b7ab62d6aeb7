"""Forecasts through the doors: library, batch, HTTP and MLflow's own. A history goes in, whole series by series; forecasts come out."""

from __future__ import annotations

import re
import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

import recipeline
from crashing import Nursery
from recipeline import settings
from recipeline.errors import DataError
from shipped import lay_out

pytestmark = [
    pytest.mark.xdist_group("forecast-doors"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

TIME = {"co2_weekly": "date", "shop_sales": "day"}


@dataclass(frozen=True)
class Doors:
    name: str
    home: Path
    nursery: Nursery
    run: dict[str, Any]
    url: str
    shown: str
    asked: pd.DataFrame

    def library(self, rows: pd.DataFrame) -> pd.DataFrame:
        return recipeline.load(Path(self.run["artifact"]), settings=settings.load(project=self.home, environ={})).predict(rows)

    def batch(self, rows: pd.DataFrame, kind: str = "parquet", *more: str) -> Any:
        given, output = self.home / f"given.{kind}", self.home / "out" / f"out.{kind}"
        shutil.rmtree(output.parent, ignore_errors=True)
        rows.to_parquet(given, index=False) if kind == "parquet" else rows.to_csv(given, index=False)
        ended = self.nursery.run(
            self.home, "batch-inference", "--run-id", self.run["run_id"], "--input", given, "--output", output, "--json", *more
        )
        if ended.code != 0:
            assert not output.exists()
            return ended
        return pd.read_parquet(output) if kind == "parquet" else pd.read_csv(output, float_precision="round_trip")

    def post(self, rows: pd.DataFrame) -> httpx.Response:
        plain = rows.assign(**{TIME[self.name]: rows[TIME[self.name]].dt.strftime("%Y-%m-%dT%H:%M:%S")})
        records = [{k: None if pd.isna(v) else v for k, v in record.items()} for record in plain.to_dict("records")]
        return httpx.post(f"{self.url}/predict", json={"records": records}, timeout=60)

    def http(self, rows: pd.DataFrame) -> pd.DataFrame:
        answer = self.post(rows)
        assert answer.status_code == 200, answer.text
        return pd.DataFrame(answer.json()["predictions"])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, recipe_data: Path, empty_store: Path) -> Path:
    folder = tmp_path_factory.mktemp("forecast-doors") / "home"
    lay_out(folder, recipe_data, empty_store)
    (folder / "config" / "local.yaml").write_text("execution: {report: false}\napi_serving: {enabled: true}\n")
    return folder


@pytest.fixture(scope="module", params=sorted(TIME))
def doors(request: pytest.FixtureRequest, home: Path, nursery: Nursery) -> Iterator[Doors]:
    name = request.param
    trained = nursery.run(home, "train", "--recipe-file", f"recipes/forecasting/{name}.yaml", "--json")
    assert trained.code == 0, trained
    server = nursery.start(home, "serve-api", "--run-id", trained.json["run_id"], "--port", "0")
    source = {"co2_weekly": "co2.csv", "shop_sales": "shops_next.csv"}[name]
    asked = pd.read_csv(home / "recipes" / "data" / source, parse_dates=[TIME[name]])
    if name == "co2_weekly":
        asked = asked.tail(200).reset_index(drop=True)
    end = time.monotonic() + 60
    while not (found := re.search(r"http://127\.0\.0\.1:[1-9][0-9]*", server.out.read_text())):
        assert time.monotonic() < end, server.err.read_text()
        time.sleep(0.02)
    try:
        yield Doors(name, home, nursery, trained.json, found.group(), server.out.read_text(), asked)
    finally:
        assert nursery.stop(server) in (0, 143)


def same(one: pd.DataFrame, other: pd.DataFrame, time: str) -> None:
    """Columns, order and every bit; stamps as stamps."""
    assert list(one.columns) == list(other.columns)
    both = [frame.assign(**{time: pd.to_datetime(frame[time]).astype("datetime64[ns]")}).reset_index(drop=True) for frame in (one, other)]
    pd.testing.assert_frame_equal(*both, check_exact=True, check_dtype=False)


def test_one_history_gives_the_same_bits_through_every_door(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    """Library, batch to Parquet and to CSV, HTTP, MLflow; batches never cut a series."""
    expected = doors.library(doors.asked)
    horizon = {"co2_weekly": 24, "shop_sales": 14}[doors.name]
    assert (expected["step"].to_numpy().reshape(-1, horizon) == range(1, horizon + 1)).all()
    for answered in (
        doors.batch(doors.asked), doors.batch(doors.asked, "csv"), doors.http(doors.asked),
        doors.batch(doors.asked, "parquet", "--set", "execution.batch.rows=7"), doors.http(doors.asked.sample(frac=1, random_state=3)),
    ):  # fmt: skip
        same(answered, expected, TIME[doors.name])
    import mlflow

    monkeypatch.chdir(doors.home)
    same(mlflow.pyfunc.load_model(doors.run["artifact"]).predict(doors.asked), expected, TIME[doors.name])


def test_a_server_is_ready_and_its_example_works_as_printed(doors: Doors) -> None:
    """The example is a history: a single record could not be forecast from."""
    assert httpx.get(f"{doors.url}/health/ready").status_code == 200
    command = next(line for line in doors.shown.splitlines() if "curl" in line)
    words = shlex.split(command[command.index("curl") :])
    answer = httpx.post(f"{doors.url}/predict", content=words[words.index("-d") + 1], headers={"content-type": "application/json"})
    assert answer.status_code == 200, answer.text
    assert [one["step"] for one in answer.json()["predictions"]][:3] == [1, 2, 3]


@pytest.mark.parametrize("doors", ["shop_sales"], indirect=True)
def test_a_series_never_seen_is_answered_alone(doors: Doors) -> None:
    """shop-12 is not among those of training; what it is told does not depend on who else asks."""
    alone = doors.asked[doors.asked["shop"] == "shop-12"].reset_index(drop=True)
    renamed = alone.assign(shop="anybody")
    same(doors.http(renamed).assign(shop="shop-12"), doors.http(alone), "day")
    together = doors.library(doors.asked).query("shop == 'shop-12'").reset_index(drop=True)
    for name in ("prediction", "q0.05", "q0.95"):
        assert doors.http(alone)[name].tolist() == pytest.approx(together[name].tolist(), rel=1e-12)


def test_a_history_that_is_too_short_is_refused_alike(doors: Doors) -> None:
    """With the series and what is needed; and the next good one is answered."""
    short = doors.asked.tail(20)
    words = "lookback is"
    with pytest.raises(DataError, match=words):
        doors.library(short)
    ended = doors.batch(short)
    assert ended.code == 5
    assert words in ended.json["error"]["message"]
    answer = doors.post(short)
    assert answer.status_code == 422
    assert words in answer.json()["detail"]
    assert doors.post(doors.asked).status_code == 200


@pytest.mark.parametrize("doors", ["co2_weekly"], indirect=True)
def test_a_table_without_rows_gives_a_table_without_rows(doors: Doors) -> None:
    """With the columns of the answer."""
    empty = doors.batch(doors.asked.head(0))
    assert len(empty) == 0
    assert list(empty.columns) == ["date", "step", "prediction", "q0.1", "q0.5", "q0.9"]


@pytest.mark.parametrize("doors", ["co2_weekly"], indirect=True)
def test_a_table_with_what_came_is_scored(doors: Doors) -> None:
    """`--evaluate` judges the last steps from what stands before them."""
    output = doors.home / "out" / "scored.parquet"
    ended = doors.nursery.run(
        doors.home, "batch-inference", "--run-id", doors.run["run_id"], "--output", output, "--evaluate", "--json", "--overwrite"
    )
    assert ended.code == 0, ended
    table = pd.read_parquet(Path(doors.run["artifact"]) / "tables" / "predictions.parquet").tail(24)
    kept = doors.library(pd.read_csv(doors.home / "recipes" / "data" / "co2.csv", parse_dates=["date"]).iloc[:-24])
    assert kept["date"].tolist() == table["date"].tolist()
    assert ended.json["metrics"]["mae"] == pytest.approx((table["y"] - table["prediction"]).abs().mean(), rel=1e-12)
