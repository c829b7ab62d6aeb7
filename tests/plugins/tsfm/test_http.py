"""The routes over real processes: the seed's curl with and without a daemon, a run's calibration, and everything that is refused."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

import recipeline
from crashing import Nursery, Started
from recipeline import settings
from recipeline_tsfm.fake_tollama import FakeTollama
from shipped import lay_out
from tollama_daemon import running

pytestmark = [
    pytest.mark.xdist_group("tsfm"),  # one daemon, one run and its servers for all that ask them
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

RECIPE = "recipes/tsfm/tsfm_zero_shot.yaml"
QUICK = "recipes/tsfm/quick.yaml"
"""The shipped recipe, judged in two windows instead of eight; the page of the family trains it as it is."""
TOKEN = "daemon-token-of-the-test"
CURL = """
curl -X POST http://127.0.0.1:8000/tsfm/forecast \\
  -H 'content-type: application/json' \\
  -d '{
    "market_id":"m-1",
    "as_of_ts":"2026-02-20T12:00:00Z",
    "freq":"5m",
    "horizon_steps":12,
    "quantiles":[0.1,0.5,0.9],
    "y":[0.41,0.42,0.40,0.43,0.44,0.45,0.46,0.45,0.44,0.43,0.42,0.41,0.40,0.41,0.42,0.43,0.44,0.45,0.46,0.47,0.48,0.47,0.46,0.45,0.44,0.43,0.42,0.41,0.40,0.41,0.42,0.43],
    "transform":{"space":"logit","eps":1e-6},
    "model":{"provider":"tollama","model_name":"chronos","params":{"temperature":0.0}}
  }'
"""  # as the seed has it
SEED = json.loads(shlex.split(CURL)[-1])


@pytest.fixture(scope="module")
def daemon() -> Iterator[FakeTollama]:
    with running(token=TOKEN) as fake:
        yield fake


@pytest.fixture(autouse=True)
def _honest(daemon: FakeTollama) -> None:
    daemon.set_faults()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, recipe_data: Path, empty_store: Path) -> Path:
    folder = tmp_path_factory.mktemp("tsfm") / "home"
    lay_out(folder, recipe_data, empty_store)
    text = (folder / RECIPE).read_text().replace("n_windows: 8", "n_windows: 2")
    (folder / QUICK).write_text(text)
    return folder


@dataclass(frozen=True)
class Served:
    """A server of the project, and what it was started with."""

    home: Path
    nursery: Nursery
    started: Started
    url: str

    def post(self, body: Any, path: str = "/tsfm/forecast", **rest: Any) -> httpx.Response:
        given = {"json": body} if not isinstance(body, bytes) else {"content": body, "headers": {"content-type": "application/json"}}
        return httpx.post(f"{self.url}{path}", timeout=30, **{**given, **rest})

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=30)


def environ(daemon_url: str) -> dict[str, str]:
    return {"TOLLAMA_BASE_URL": daemon_url, "TOLLAMA_TOKEN": TOKEN, "APP_ENV": "local"}


def serving(home: Path, nursery: Nursery, daemon_url: str, *what: str) -> Iterator[Served]:
    command = ["serve-api", *what, "--set", "api_serving.enabled=true", "--port", "0"]
    started = nursery.start(home, *command, environ=environ(daemon_url))
    end = time.monotonic() + 60
    while not (found := re.search(r"http://127\.0\.0\.1:[1-9][0-9]*", started.out.read_text())):
        assert time.monotonic() < end, started.err.read_text()
        time.sleep(0.02)
    try:
        yield Served(home, nursery, started, found.group())
    finally:
        assert nursery.stop(started) in (0, 143)
        assert TOKEN not in started.out.read_text() + started.err.read_text()


@pytest.fixture(scope="module")
def trained(home: Path, nursery: Nursery, daemon: FakeTollama) -> dict[str, Any]:
    daemon.set_faults()
    before = len(daemon.calls)
    answer = nursery.run(home, "train", "--recipe-file", QUICK, "--set", "execution.report=false", "--json", environ=environ(daemon.url))
    assert answer.code == 0, answer
    return {**answer.json, "asked": sum(len(call["series"]) for call in daemon.calls[before:])}


@pytest.fixture(scope="module")
def of_recipe(home: Path, nursery: Nursery, daemon: FakeTollama) -> Iterator[Served]:
    yield from serving(home, nursery, daemon.url, "--recipe-file", RECIPE)


@pytest.fixture(scope="module")
def alone(home: Path, nursery: Nursery) -> Iterator[Served]:
    yield from serving(home, nursery, "http://127.0.0.1:9", "--recipe-file", RECIPE)


@pytest.fixture(scope="module")
def of_run(home: Path, nursery: Nursery, daemon: FakeTollama, trained: dict[str, Any]) -> Iterator[Served]:
    yield from serving(home, nursery, daemon.url, "--run-id", trained["run_id"])


def sound(answer: httpx.Response, horizon: int = 12, levels: tuple[str, ...] = ("0.1", "0.5", "0.9")) -> dict[str, Any]:
    """A 200 whose paths are finite, ordered, within the bounds and of the right length."""
    assert answer.status_code == 200, answer.text
    body = answer.json()
    for name in ("yhat_q", "conformal_yhat_q"):
        if body[name] is not None:
            assert tuple(body[name]) == levels
            path = np.array([body[name][level] for level in levels])
            assert path.shape == (len(levels), horizon)
            assert np.isfinite(path).all()
            assert ((path >= 0) & (path <= 1)).all()
            assert (np.diff(path, axis=0) >= 0).all()
    return body


# --- the seed's curl --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["of_recipe", "alone", "of_run"])
def test_the_curl_of_the_seed_is_answered_word_for_word(request, server):
    """With the daemon by the model, without it by the flagged baseline, of a run calibrated; only the port is another."""
    served = request.getfixturevalue(server)
    command = CURL.strip().replace("http://127.0.0.1:8000", served.url) + " -s -w '\\n%{http_code}'"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, timeout=60)
    text, status = done.stdout.rsplit("\n", 1)
    assert status == "200", text
    body = json.loads(text)
    assert body["quantiles"] == [0.1, 0.5, 0.9]
    assert body["freq"] == "5min"
    assert [len(body["yhat_q"][level]) for level in ("0.1", "0.5", "0.9")] == [12, 12, 12]
    meta = body["meta"]
    assert meta["warnings"] == []
    assert meta["input_len"] == 32
    assert meta["runtime"] == ("baseline" if server == "alone" else "tollama")
    assert meta["fallback_used"] is (server == "alone")
    assert meta["fallback_reason"] == ("upstream_unreachable" if server == "alone" else None)
    assert (body["conformal_yhat_q"] is not None) is (server == "of_run")
    if server == "of_run":
        assert body["conformal_last_step"] == {level: path[-1] for level, path in body["conformal_yhat_q"].items()}


def test_a_server_is_ready_says_what_it_may_and_counts(of_recipe, of_run):
    """Health names the models that are allowed; the measures of the family stand on /metrics."""
    for served, calibrated in ((of_recipe, False), (of_run, True)):
        assert served.get("/health/ready").status_code == 200
        health = served.get("/tsfm/health").json()
        assert health["status"] == "ok"
        assert health["allowed_models"] == ["chronos", "moirai", "timesfm"]
        assert (health["calibration"] is not None) is calibrated
        sound(served.post(SEED))
        assert "tsfm_requests_total" in served.get("/metrics").text
        assert TOKEN not in served.get("/metrics").text + json.dumps(health)


def test_the_run_s_hyperparameters_are_the_defaults(of_run):
    """Horizon, quantiles, step, transform and model may be left out; another model is not calibrated by what was learned of this one."""
    bare = {name: SEED[name] for name in ("market_id", "as_of_ts", "y")}
    body = sound(of_run.post(bare))
    assert (body["freq"], body["horizon_steps"], body["quantiles"]) == ("5min", 12, [0.1, 0.5, 0.9])
    assert body["conformal_yhat_q"] is not None
    other = sound(of_run.post(bare | {"model": {"model_name": "timesfm"}}))
    assert other["meta"]["model_name"] == "timesfm"
    assert other["conformal_yhat_q"] is None
    wide = sound(of_run.post(bare | {"quantiles": [0.95, 0.05, 0.5], "horizon_steps": 30}), 30, ("0.05", "0.5", "0.95"))
    assert wide["conformal_yhat_q"] is not None


def test_a_batch_is_answered_in_order_and_as_its_markets_alone(of_run):
    """Forty markets; each as it is answered alone."""
    bodies = [SEED | {"market_id": f"m-{number}", "y": [round(value + number / 1000, 4) for value in SEED["y"]]} for number in range(40)]
    answer = of_run.post({"requests": bodies}, "/tsfm/forecast/batch")
    assert answer.status_code == 200, answer.text
    told = answer.json()["responses"]
    assert [one["market_id"] for one in told] == [body["market_id"] for body in bodies]
    for body, one in list(zip(bodies, told, strict=True))[::10]:
        assert sound(of_run.post(body))["conformal_yhat_q"] == one["conformal_yhat_q"]


def test_predict_and_forecast_say_the_same(of_run, home, trained):
    """/predict of a run, its library, and /tsfm/forecast: one calibration, the same numbers."""
    rows = pd.read_parquet(home / "recipes" / "data" / "markets_next.parquet")[["market_id", "ts", "y"]]
    rows = rows[rows["market_id"] == "m-03"].tail(100)
    records = [{**row, "ts": row["ts"].isoformat(), "y": None if np.isnan(row["y"]) else row["y"]} for row in rows.to_dict("records")]
    said = of_run.post(records, "/predict").json()["predictions"]
    y = [record["y"] for record in records]
    body = sound(of_run.post({"market_id": "m-03", "as_of_ts": records[-1]["ts"], "y": y}))
    for level in ("0.1", "0.5", "0.9"):
        assert [one[f"q{level}"] for one in said] == pytest.approx(body["conformal_yhat_q"][level], rel=1e-12)
    assert {one["fallback_reason"] for one in said} == {""}


# --- a run ----------------------------------------------------------------------------------------------------------------------------


def test_a_run_keeps_its_calibration_and_batch_inference_takes_another_day(home, nursery, daemon, trained):
    """calibration.json in the artifact, neither address nor token anywhere in it; a batch twice is the same file.

    The daemon was asked 300 times to calibrate, and what was read back from the artifact asked it for 12 markets in 2 windows.
    """
    assert trained["asked"] == 300 + 12 * 2
    artifact = Path(trained["artifact"])
    state = json.loads((artifact / "parts/model/calibration.json").read_text())
    assert (state["method"], state["coverage"], state["counts"]["answered"]) == ("cqr", 0.8, 300)
    for path in artifact.rglob("*"):
        if path.is_file():
            assert TOKEN.encode() not in path.read_bytes(), path
            assert daemon.url.encode() not in path.read_bytes(), path
    command = ["batch-inference", "--run-id", trained["run_id"], "--input", "recipes/data/markets_next.parquet", "--output", "next.parquet"]
    answers = []
    for _ in range(2):
        answer = nursery.run(home, *command, "--overwrite", "--json", environ=environ(daemon.url))
        assert answer.code == 0, answer
        answers.append(hashlib.sha256((home / "next.parquet").read_bytes()).hexdigest())
    assert answers[0] == answers[1]
    said = pd.read_parquet(home / "next.parquet")
    assert len(said) == 12 * 12
    assert (said["fallback_reason"] == "").all()
    assert (said["q0.1"] <= said["prediction"]).all()
    assert (said["prediction"] <= said["q0.9"]).all()


@pytest.mark.slow
def test_a_search_over_the_calibration_asks_nothing_twice_and_markets_are_told_apart(home, nursery, daemon):
    """Three trials on two inner folds, a last fit, two windows: no question reached the daemon twice; the table cuts by segment."""
    text = (
        (home / "recipes/tsfm/tsfm_segments.yaml").read_text().replace("n_windows: 4", "n_windows: 2").replace("n_trials: 4", "n_trials: 3")
    )
    (home / "recipes/tsfm/searched.yaml").write_text(text)
    before = len(daemon.calls)
    quick = ["--set", "execution.report=false", "--json"]
    answer = nursery.run(home, "train", "--recipe-file", "recipes/tsfm/searched.yaml", *quick, environ=environ(daemon.url))
    assert answer.code == 0, answer
    asked = [(one["timestamps"][-1], tuple(one["target"])) for call in daemon.calls[before:] for one in call["series"]]
    assert len(asked) == len(set(asked))
    assert len(asked) > 300
    told = pd.read_parquet(Path(answer.json["artifact"]) / "tables" / "segments.parquet")
    assert set(told["liquidity_bucket"]) == {"all", "high", "mid", "low"}
    assert told["forecasts"].iloc[0] > 12 * 12
    state = json.loads((Path(answer.json["artifact"]) / "parts/model/calibration.json").read_text())
    assert set(state["groups"]) == {"", "high", "mid"}


def test_a_batch_without_a_daemon_is_flagged_in_every_row(home, nursery, trained):
    command = [
        "batch-inference",
        "--run-id",
        trained["run_id"],
        "--input",
        "recipes/data/markets_next.parquet",
        "--output",
        "alone.parquet",
    ]
    answer = nursery.run(home, *command, "--json", environ=environ("http://127.0.0.1:9"))
    assert answer.code == 0, answer
    assert "12 of 12 series were forecast by the baseline" in answer.err
    assert pd.read_parquet(home / "alone.parquet")["fallback_reason"].str.contains("upstream_unreachable|circuit_open").all()


def test_training_without_a_daemon_is_exit_6_and_names_it(home, nursery):
    answer = nursery.run(home, "train", "--recipe-file", QUICK, "--set", "execution.report=false", environ=environ("http://127.0.0.1:9"))
    assert answer.code == 6, answer
    assert "error[tollama-unavailable]: the tollama server at http://127.0.0.1:9 did not answer 300 of 300" in answer.err
    assert TOKEN not in answer.out + answer.err


def test_mlflow_s_own_door_forecasts_with_the_configuration_of_the_place(home, daemon, trained, monkeypatch):
    """pyfunc on the artifact, and the library: told where the server is, as every other door."""
    import mlflow

    monkeypatch.chdir(home)
    for name, value in environ(daemon.url).items():
        monkeypatch.setenv(name, value)
    rows = pd.read_parquet("recipes/data/markets_next.parquet")
    said = mlflow.pyfunc.load_model(trained["artifact"]).predict(rows)
    assert (said["fallback_reason"] == "").all()
    library = recipeline.load(Path(trained["artifact"]), settings=settings.load(project=home)).predict(rows)
    pd.testing.assert_frame_equal(said, library, check_exact=True)


def test_a_run_of_dev_is_not_loaded_in_prod(home, nursery, daemon, tmp_path):
    """Trained with a research model, which dev allows: batch and server refuse it in an environment that counts as prod."""
    folder = tmp_path / "dev"
    shutil.copytree(home, folder, ignore=shutil.ignore_patterns("mlruns", ".recipeline"))
    text = (folder / RECIPE).read_text().replace("model: chronos", "model: moirai").replace("tsfm_zero_shot", "research")
    text = text.replace("method: cqr", "method: none").replace("n_windows: 8", "n_windows: 1")
    (folder / "recipes" / "tsfm" / "research.yaml").write_text(text)
    (folder / "config" / "staging.yaml").write_text("api_serving: {enabled: true}\n")
    given = environ(daemon.url)
    quick = ["--set", "execution.report=false", "--json"]
    done = nursery.run(folder, "train", "--recipe-file", "recipes/tsfm/research.yaml", *quick, environ=given)
    assert done.code == 0, done
    run = done.json["run_id"]
    for command in (
        ["batch-inference", "--run-id", run, "--output", "x.parquet"],
        ["serve-api", "--run-id", run, "--port", "0"],
        ["serve-api", "--recipe-file", "recipes/tsfm/research.yaml", "--port", "0"],
        ["validate", "--recipe-file", "recipes/tsfm/research.yaml"],
    ):
        refused = nursery.run(folder, *command, environ=given | {"APP_ENV": "staging"})
        assert refused.code == 4, refused
        assert "error[license_not_allowed]" in refused.err
        assert "APP_ENV 'staging' counts as it" in refused.err
    assert not (folder / "x.parquet").exists()


# --- what is refused ------------------------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[Any, int, str]] = {
    "empty": (b"", 400, "invalid-json"),
    "no JSON": (b"{", 400, "invalid-json"),
    "NaN": (b'{"market_id": NaN}', 400, ""),
    "infinite": (json.dumps(SEED).replace("0.41", "1e400", 1).encode(), 400, ""),
    "a list": ([SEED], 422, "invalid-request"),
    "a number": (b"7", 422, "invalid-request"),
    "twice the key": (b'{"market_id": "a", "market_id": "b"}', 400, ""),
    "deep": (b'{"x":' * 40 + b"1" + b"}" * 40, 400, ""),
    "not UTF-8": (b'{"market_id": "\xff"}', 400, "invalid-json"),
    "schema": (SEED | {"horizon_steps": 0}, 422, "invalid-request"),
    "semantic": (SEED | {"y": [0.5, 1.5]}, 400, "bad-request"),
    "model not listed": (SEED | {"model": {"model_name": "gpt-ts"}}, 403, "license_not_allowed"),
    "model by an odd name": (SEED | {"model": {"model_name": "../../etc/passwd"}}, 403, "license_not_allowed"),
    "params with base_url": (SEED | {"model": {"params": {"base_url": "http://evil"}}}, 400, "bad-request"),
    "nothing known": (SEED | {"y": [0.5] + [None] * 300}, 422, "bad-request"),
    "too many bytes": (b'{"market_id": "' + b"m" * (9 * 2**20) + b'"}', 413, "too-many-bytes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_bodies_are_refused_and_the_next_good_one_is_answered(of_recipe, name):
    """The status as stated, problem+json without a path or a traceback; never 500."""
    body, status, slug = REFUSED[name]
    answer = of_recipe.post(body)
    if status == 400 and not slug:
        assert answer.status_code in {400, 422}, answer.text
    else:
        assert (answer.status_code, answer.json()["slug"]) == (status, slug), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert "Traceback" not in answer.text
    assert str(of_recipe.home) not in answer.text
    sound(of_recipe.post(SEED))


def test_a_bad_market_refuses_the_whole_batch_by_its_number(of_recipe):
    answer = of_recipe.post({"requests": [SEED, SEED | {"y": [0.5, 7]}]}, "/tsfm/forecast/batch")
    assert answer.status_code == 400
    assert "requests[1].y[1]: 7 lies outside" in answer.json()["detail"]
    for body in ({"requests": []}, {"requests": [SEED] * 257}, {}, {"requests": [SEED, 7]}):
        assert of_recipe.post(body, "/tsfm/forecast/batch").status_code == 422
    refused = of_recipe.post({"requests": [SEED, SEED | {"model": {"model_name": "nobody"}}]}, "/tsfm/forecast/batch")
    assert (refused.status_code, refused.json()["slug"]) == (403, "license_not_allowed")


FAULTS = ("500", "429", "404_model", "401", "garbage", "html", "null", "short", "missing_id", "crossed", "reset", "redirect")


@pytest.mark.parametrize("fault", FAULTS)
def test_nothing_that_the_daemon_does_is_a_500(of_recipe, daemon, fault):
    """200, flagged, sound; a fresh market each time, so that no cache answers."""
    daemon.set_faults(fault)
    body = SEED | {"market_id": fault, "y": [value + (1 + FAULTS.index(fault)) / 1000 for value in SEED["y"]]}
    meta = sound(of_recipe.post(body))["meta"]
    assert meta["fallback_used"] or fault == "crossed"


def test_a_server_with_keys_lets_nobody_in_without_one(home, nursery):
    """401 without a key or with another one; the key opens the routes of the family as all others."""
    key = "a-key-of-the-test"
    hashed = hashlib.sha256(key.encode()).hexdigest()
    given = ["--recipe-file", RECIPE, "--set", f"api_serving.auth.keys=[{hashed}]"]
    for served in serving(home, nursery, "http://127.0.0.1:9", *given):
        for path in ("/tsfm/forecast", "/tsfm/forecast/batch"):
            assert served.post(SEED, path).status_code == 401
            assert served.post(SEED, path, headers={"authorization": "Bearer nonsense"}).status_code == 401
        assert served.get("/tsfm/health").status_code == 401
        sound(served.post(SEED, headers={"authorization": f"Bearer {key}"}))
