"""Strangers' plugins: installed by pip into an environment of their own, used on the whole line, uninstalled, broken on purpose."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

HERE = Path(__file__).parent / "third_party"
SERIES = """
name: tides
model:
  class_path: seasonal_linear
  hyperparameters: {{lookback: 24, horizon: 12, epochs: {epochs}, learning_rate: {rate}}}
  loader: {{name: default_loader, source_uri: tides.csv}}
  data_interface: {{task_type: series, target_col: level, timestamp_col: day, series_col: harbour}}
{tuning}
evaluation:
  metrics: [mae, pinball, coverage]
  validation: {{method: moving_origin, horizon: 12, n_windows: 3}}
"""
WORLD = """
name: walk
model:
  class_path: q_learning
  hyperparameters:
    episodes: 200
    exploration: {class_path: linear_decay, hyperparameters: {end: 0.02}}
  loader: {name: gridworld, params: {size: 4}}
  data_interface: {task_type: control}
evaluation: {metrics: [return_mean, success_rate], validation: {method: evaluation_episodes, episodes: 20}}
"""


class Guest:
    """An environment that has everything of this one, and what is installed into it by pip."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.python = str(folder / "bin" / "python")
        here = [path for path in sys.path if path.endswith("site-packages")]
        packages = subprocess.run(
            [self.python, "-c", "import site; print(site.getsitepackages()[0])"], check=True, capture_output=True, text=True
        )
        # addsitedir, not a plain path: it reads the .pth file through which an editable recipeline is found
        lines = [f"import site; site.addsitedir({path!r})" for path in here]
        Path(packages.stdout.strip(), "parent.pth").write_text("\n".join(lines) + "\n")

    def pip(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "pip", "--python", self.python, "--quiet", "--disable-pip-version-check", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def install(self, name: str) -> None:
        self.pip("install", "--no-deps", "--no-index", "--no-build-isolation", str(HERE / name))

    def uninstall(self, name: str) -> None:
        self.pip("uninstall", "--yes", name)


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Guest:
    made = Guest(tmp_path_factory.mktemp("guest") / "venv")
    made.install("seasonal_forecast")
    made.install("gridworld_control")
    return made


@pytest.fixture
def run(process: Callable[..., Any], guest: Guest) -> Callable[..., Any]:
    def command(*arguments: str | Path, **more: Any) -> Any:
        return process(*arguments, python=guest.python, **more)

    return command


@pytest.fixture
def tides(project: Path) -> Path:
    """Three harbours, 160 days: a season of 12 days, a slow wave, noise."""
    rng, days = np.random.default_rng(5), pd.date_range("2024-01-01", periods=160, freq="D")
    rows = []
    for number, harbour in enumerate(["Busan", "Oslo", "Porto"]):
        level = np.sin(np.arange(160) * 2 * np.pi / 12 + number) + 0.3 * np.cos(np.arange(160) / 30) + rng.normal(0, 0.1, 160)
        rows.append(pd.DataFrame({"harbour": harbour, "day": days.strftime("%Y-%m-%d"), "level": level}))
    pd.concat(rows).to_csv(project / "tides.csv", index=False)
    return project / "tides.csv"


def recipe(project: Path, *, epochs: int | str = 60, rate: str = "0.05", tuning: str = "") -> Path:
    path = project / "tides.yaml"
    path.write_text(SERIES.format(epochs=epochs, rate=rate, tuning=tuning))
    return path


def test_installed_parts_are_listed_with_their_distribution(run: Callable[..., Any]) -> None:
    """`list parts` shows name, role, distribution and one line of doc."""
    listed = {(row["role"], row["name"]): row for row in run("list", "parts", "--json").json["parts"]}
    for role, name, distribution in [
        ("model", "seasonal_linear", "seasonal-forecast"), ("task", "series", "seasonal-forecast"),
        ("splitter", "moving_origin", "seasonal-forecast"), ("loader", "gridworld", "gridworld-control"),
        ("part", "linear_decay", "gridworld-control"), ("exporter", "policy_json", "gridworld-control"),
    ]:  # fmt: skip
        assert listed[role, name]["distribution"] == distribution
        assert listed[role, name]["summary"]


def test_a_forecaster_goes_the_whole_line(run: Callable[..., Any], project: Path, tides: Path) -> None:
    """Trained, judged on moving origins with its own figure, and batch inference writes its own rows: time, horizon, quantiles."""
    trained = run("train", "--recipe-file", recipe(project), "--json")
    assert trained.code == 0, trained
    answer = trained.json
    assert answer["metrics"]["mae"] < 0.3
    assert 0.5 < answer["metrics"]["coverage"] <= 1
    report = Path(answer["artifact"], "report.html").read_text()
    assert "Forecast fan" in report
    done = run("batch-inference", "--run-id", answer["run_id"], "--output", "forecast.csv", "--json")
    assert done.code == 0, done
    rows = pd.read_csv(project / "forecast.csv")
    assert list(rows.columns) == ["harbour", "day", "step", "prediction", "q0.1", "q0.5", "q0.9"]
    assert len(rows) == 36
    assert rows["day"].min() == "2024-06-09"  # the day after the last one of the data


@pytest.mark.slow
def test_a_forecaster_is_tuned_and_the_search_prunes_it(run: Callable[..., Any], project: Path, tides: Path) -> None:
    """Trials that report a poor score at every epoch are stopped early; the iterations of the first fold are the clock."""
    pruning = "pruning: {enabled: true, n_startup_trials: 3, n_warmup_steps: 5}"
    path = recipe(
        project,
        rate="{type: float, low: 0.0001, high: 0.1, log: true, default: 0.05}",
        tuning=f"hyperparameter_tuning: {{enabled: true, n_trials: 12, metric: mae, folds: 2, {pruning}}}",
    )
    trained = run("train", "--recipe-file", path, "--json")
    assert trained.code == 0, trained
    hpo = json.loads(Path(trained.json["artifact"], "hpo.json").read_text())
    states = [trial["state"] for trial in hpo["optimization_history"]]
    assert len(states) == hpo["total_trials"] == 12
    assert states.count("pruned") == hpo["pruned_trials"] > 0
    assert 0.0001 <= trained.json["best_params"]["learning_rate"] <= 0.1


@pytest.mark.slow
def test_a_forecaster_killed_in_training_goes_on_from_its_checkpoint(
    run: Callable[..., Any], guest: Guest, project: Path, tides: Path
) -> None:
    """kill -9 in the middle of the epochs: the same command goes on in the same run and ends with the same bits."""
    path = recipe(project, epochs=1500, rate="0.01")
    whole = run("train", "--recipe-file", path, "--json", env={"RECIPELINE__EXECUTION__WORK_FOLDER": str(project / "elsewhere")}).json
    process = subprocess.Popen(
        [guest.python, "-m", "recipeline", "train", "--recipe-file", path],
        cwd=project,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoint = _wait_for(lambda: next((project / ".recipeline" / "work").glob("*/fold-0/fit/checkpoint.npz"), None))
    assert checkpoint is not None
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert checkpoint.is_file(), "the training was over before it could be killed"
    resumed = run("train", "--recipe-file", path, "--resume", "--json")
    assert resumed.code == 0, resumed
    answer = resumed.json
    assert answer["resumed"] is True
    assert '"epoch"' in Path(answer["artifact"], "log.txt").read_text()  # the model said at which epoch it went on
    assert answer["metrics"] == whole["metrics"]
    weights = [np.load(Path(one["artifact"], "parts/model/weights.npz"))["weights"] for one in (whole, answer)]
    assert (weights[0] == weights[1]).all()
    runs = {row["run_id"]: row["status"] for row in run("list", "runs", "--json").json["runs"]}
    assert runs == {whole["run_id"]: "FINISHED", answer["run_id"]: "FINISHED"}


def _wait_for(found: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (value := found()) is not None:
            return value
        time.sleep(0.02)
    return None


@pytest.fixture
def served(guest: Guest, project: Path) -> Iterator[Callable[[str], str]]:
    """Serve a run on a free port until the test is over; gives the address."""
    processes = []

    def start(run_id: str) -> str:
        command = [guest.python, "-m", "recipeline", "serve-api", "--run-id", run_id, "--port", "0", "--set", "api_serving.enabled=true"]
        with (project / "serve.log").open("w") as log:
            processes.append(subprocess.Popen(command, cwd=project, stdout=log, stderr=subprocess.STDOUT, env=os.environ.copy()))
        import re

        def address() -> str | None:
            found = re.search(r"http://127\.0\.0\.1:([1-9][0-9]*)", (project / "serve.log").read_text())
            return found.group() if found else None

        made = _wait_for(address)
        assert made, (project / "serve.log").read_text()
        return str(made)

    yield start
    for process in processes:
        process.terminate()
        assert process.wait(timeout=20) in (0, 143, -signal.SIGTERM)


def _post(url: str, body: object) -> tuple[int, Any]:
    import httpx

    def answered() -> Any:
        try:
            return httpx.post(url, json=body, timeout=20)
        except httpx.TransportError:
            return None

    response = _wait_for(answered)
    return response.status_code, response.json()


def test_a_forecaster_is_served_with_its_own_route(
    run: Callable[..., Any], project: Path, tides: Path, served: Callable[[str], str]
) -> None:
    """The route that the model brings is mounted with it, and answers as its predict does."""
    answer = run("train", "--recipe-file", recipe(project), "--json").json
    address = served(answer["run_id"])
    history = pd.read_csv(tides, float_precision="round_trip")
    busan = history[history["harbour"] == "Busan"]
    status, body = _post(f"{address}/series/forecast", {"y": busan["level"].tolist(), "start": "2024-06-09"})
    assert status == 200
    run("batch-inference", "--run-id", answer["run_id"], "--output", "forecast.parquet")
    expected = pd.read_parquet(project / "forecast.parquet").query("harbour == 'Busan'")["prediction"]
    # The route multiplies one series where the batch multiplied three: BLAS may differ in the last digit.
    np.testing.assert_allclose(body["prediction"], expected, rtol=0, atol=1e-12)
    status, body = _post(f"{address}/series/forecast", {"y": [1.0], "start": "2024-06-09"})
    assert status == 422
    assert "24 values are needed" in body["detail"]


def test_an_agent_goes_the_whole_line(run: Callable[..., Any], project: Path) -> None:
    """The loader brings an environment, a nested part explores, the evaluator plays, the exporter writes, states become actions."""
    (project / "walk.yaml").write_text(WORLD)
    trained = run("train", "--recipe-file", "walk.yaml", "--json")
    assert trained.code == 0, trained
    answer = trained.json
    assert answer["metrics"]["success_rate"] == 1.0
    assert answer["metrics"]["return_mean"] > answer["baselines"]["random_walk"]["return_mean"] + 5
    pd.DataFrame({"row": [0, 2, 3], "column": [0, 3, 2]}).to_csv(project / "states.csv", index=False)
    done = run("batch-inference", "--run-id", answer["run_id"], "--input", "states.csv", "--output", "actions.csv", "--json")
    assert done.code == 0, done
    actions = pd.read_csv(project / "actions.csv")["prediction"].tolist()
    exported = run("export", "--run-id", answer["run_id"], "--format", "policy_json", "--output", "policy", "--json")
    assert exported.code == 0, exported
    policy = json.loads((project / "policy" / "policy.json").read_text())["actions"]
    assert actions == [policy[0][0], policy[2][3], policy[3][2]]


def test_mistakes_that_only_the_part_can_know_get_their_line(run: Callable[..., Any], project: Path, tides: Path) -> None:
    """`check` of a plugin is asked before any data are read; the engine adds file, line and column."""
    path = recipe(project)
    path.write_text(path.read_text().replace("epochs: 60", "epochs: 60, quantiles: [0.9, 0.1]"))
    answer = run("validate", "--recipe-file", path, "--json")
    assert answer.code == 3
    (problem,) = answer.json["errors"]
    assert problem["key"] == "model.hyperparameters.quantiles"
    assert problem["line"] == 5
    assert "not sorted" in problem["message"]


def test_a_stranger_runs_the_contract_suite_over_its_own_parts(guest: Guest) -> None:
    """`recipeline.checks` is importable by third parties; every part of the two plugins passes every check that applies."""
    program = """
import pathlib, sys, tempfile
from recipeline.checks import parts_and_checks
failed = []
for distribution in ("seasonal-forecast", "gridworld-control"):
    for part, check in parts_and_checks(distribution):
        with tempfile.TemporaryDirectory() as folder:
            try:
                check(part, pathlib.Path(folder))
            except AssertionError as error:
                failed.append(f"{part} {check}: {error}")
            else:
                print(part, check)
sys.exit("\\n".join(failed) or 0)
"""
    done = subprocess.run([guest.python, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) > 40


def test_uninstalled_leaves_the_rest_untouched(process: Callable[..., Any], tmp_path: Path, project: Path) -> None:
    """Installed and uninstalled again: its recipes are refused with what is known, all others go on."""
    guest = Guest(tmp_path / "venv")
    guest.install("gridworld_control")
    (project / "walk.yaml").write_text(WORLD)
    assert process("validate", "--recipe-file", "walk.yaml", python=guest.python).code == 0
    guest.uninstall("gridworld-control")
    refused = process("validate", "--recipe-file", "walk.yaml", python=guest.python)
    assert refused.code == 3
    assert "q_learning" in refused.err
    assert process("validate", "--recipe-file", "recipes/quickstart/quickstart.yaml", python=guest.python).code == 0


def test_a_broken_plugin_harms_only_recipes_that_use_it(process: Callable[..., Any], tmp_path: Path, project: Path) -> None:
    """A plugin whose import fails: `--help`, `list` and other recipes do not notice; its own recipe gets one clear line."""
    guest = Guest(tmp_path / "venv")
    broken = tmp_path / "broken"
    (broken / "src" / "broken_part").mkdir(parents=True)
    (broken / "src" / "broken_part" / "__init__.py").write_text("raise RuntimeError('not today')\n")
    (broken / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "broken-part"\nversion = "1"\n'
        '[project.entry-points."recipeline.model"]\nbroken = "broken_part:Broken"\n'
        '[tool.hatch.build.targets.wheel]\npackages = ["src/broken_part"]\n'
    )
    guest.pip("install", "--no-deps", "--no-index", "--no-build-isolation", str(broken))
    assert process("--help", python=guest.python).code == 0
    listed = process("list", "parts", "--json", python=guest.python)
    assert listed.code == 0
    assert "broken" in {row["name"] for row in listed.json["parts"]}
    quickstart = Path("recipes/quickstart/quickstart.yaml")
    assert process("validate", "--recipe-file", quickstart, python=guest.python).code == 0
    text = (project / quickstart).read_text().replace("sklearn.linear_model.LogisticRegression", "broken").replace("{max_iter: 1000}", "{}")
    (project / "recipes" / "quickstart" / "uses_it.yaml").write_text(text)
    refused = process("validate", "--recipe-file", "recipes/quickstart/uses_it.yaml", python=guest.python)
    assert refused.code == 3
    assert "broken-part" in refused.err
    assert "not today" in refused.err
    assert "Traceback" not in refused.err
