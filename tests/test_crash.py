"""kill -9, SIGINT and SIGTERM at exact moments of real commands: nothing is torn, and the same command goes on.

`crashing.Nursery` says how the moments are made. The phase of every kill is read from the log in the work folder.
"""

from __future__ import annotations

import bisect
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from crashing import Ended, Event, Nursery
from recipeline import artifact, settings, tracking
from recipeline.stores import files
from recipeline.work import PHASES

pytestmark = pytest.mark.xdist_group("crash")  # one undisturbed run for all of them

RECIPE = """
name: small
seed: 2
model:
  class_path: sklearn.ensemble.RandomForestRegressor
  hyperparameters:
    n_estimators: 12
    max_depth: {type: int, low: 2, high: 10, default: 1}
    min_samples_leaf: {type: int, low: 1, high: 20}
  loader: {name: default_loader, source_uri: diabetes.csv}
  data_interface: {task_type: regression, target_col: target}
hyperparameter_tuning: {enabled: true, n_trials: 5, folds: 2, metric: rmse, pruning: {enabled: true, n_startup_trials: 2}}
evaluation:
  metrics: [rmse, r2]
  validation: {method: cross_validation, folds: 2, random_state: 1}
"""
EARLIER = """
name: earlier
model:
  class_path: sklearn.linear_model.Ridge
  loader: {name: default_loader, source_uri: diabetes.csv}
  data_interface: {task_type: regression, target_col: target}
evaluation: {metrics: [rmse], validation: {method: train_test_split}}
"""
TRAIN = ("train", "--recipe-file", "small.yaml", "--json")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery, recipe_data: Path, empty_store: Path) -> Path:
    """A project with two recipes, their data, and one finished run."""
    folder = tmp_path_factory.mktemp("crash") / "template"
    (folder / "config").mkdir(parents=True)
    (folder / "config" / "base.yaml").write_text("logging: {level: INFO}\n")
    (folder / "config" / "local.yaml").write_text("execution: {batch: {rows: 100}}\n")
    shutil.copy(recipe_data / "diabetes.csv", folder)
    shutil.copy(empty_store, folder / "mlflow.db")
    (folder / "small.yaml").write_text(RECIPE)
    (folder / "earlier.yaml").write_text(EARLIER)
    done = nursery.run(folder, "train", "--recipe-file", "earlier.yaml", "--json")
    assert done.code == 0, done
    return folder


@pytest.fixture
def home(template: Path, tmp_path: Path) -> Path:
    return _fresh(template, tmp_path / "home")


def _fresh(template: Path, folder: Path) -> Path:
    shutil.copytree(template, folder)
    return folder


class Whole:
    """The run that nobody disturbed."""

    def __init__(self, ended: Ended) -> None:
        self.events = ended.events
        self.metrics, self.best = ended.json["metrics"], ended.json["best_params"]
        self.predictions, self.history, self.folds = _results(Path(ended.json["artifact"]))

    def numbers(self, *phases: str) -> list[int]:
        """The events that fell into these phases."""
        return [number for number, event in enumerate(self.events) if event.phase in phases]


@pytest.fixture(scope="module")
def whole(nursery: Nursery, template: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = _fresh(template, tmp_path_factory.mktemp("whole") / "home")
    ended = nursery.run(folder, *TRAIN, record=True)
    assert ended.code == 0, ended
    made = Whole(ended)
    # A search that is interrupted gives up its last draw, so that the total stays exact: it must not be the one that won.
    searches = [json.loads(line.split("event trial ")[1]) for line in ended.err.splitlines() if "event trial " in line]
    for begin in range(0, 15, 5):
        values = [trial["value"] if trial["state"] == "complete" else float("inf") for trial in searches[begin : begin + 5]]
        assert values.index(min(values)) in {1, 2, 3}, values
    assert any(trial["state"] == "pruned" for trial in made.history)
    return made


def _results(model: Path) -> tuple[pd.DataFrame, list[dict[str, Any]], list[Any]]:
    """(predictions of the sealed rows, trials without their seconds, metrics of the folds)"""
    trials = artifact.read_json(model / "hpo.json")["optimization_history"]
    history = [{name: value for name, value in trial.items() if name not in {"number", "seconds"}} for trial in trials]
    return pd.read_parquet(model / "tables" / "predictions.parquet"), history, artifact.read_json(model / "metrics.json")["folds"]


# --- what is checked after every kill --------------------------------------------------------------------------------------


def _statuses(home: Path) -> dict[str, str]:
    return {run.run_id: run.status for run in tracking.list_runs(settings.load(project=home, environ={}), limit=1000)}


def _models(home: Path) -> dict[str, Path]:
    """{run id: its artifact} of all that can be seen."""
    return {path.parents[1].name: path for path in home.glob("mlruns/*/*/artifacts/model")}


def _hashes(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): files.sha256(path) for path in folder.rglob("*") if path.is_file()}


def _phase(home: Path) -> str:
    """Where the killed run stood, by the log in its work folder."""
    logs = list((home / ".recipeline" / "work").glob("*/log.txt"))
    if not logs:
        return "load"  # there is no log before there is a run
    said = [line.split(" phase ")[1].split()[0] for line in logs[0].read_text().splitlines() if " phase " in line]
    return said[-1] if said else "load"


def _remains(home: Path) -> list[str]:
    """Temporary files and work folders, which nobody wants to find."""
    return [str(path.relative_to(home)) for path in home.rglob("*") if path.name.startswith(".tmp-")] + [
        str(path.relative_to(home)) for path in (home / ".recipeline" / "work").glob("*")
    ]


def _survives(
    nursery: Nursery, whole: Whole, home: Path, *, resume: bool, at: int | tuple[str, str], after: float = 0.0
) -> tuple[str, bool]:
    """Kill a training at a moment and start it again; (the phase it was killed in, whether an unfinished folder lay there)."""
    ((before, earlier),) = _models(home).items()
    untouched = _hashes(earlier)
    killed = nursery.run(home, *TRAIN, at=at, after=after)
    if killed.code == 0:  # the moment was behind its end
        return "over", False
    assert killed.code == -signal.SIGKILL, killed
    phase, unfinished = _phase(home), any(path.is_dir() and path.name.startswith(".tmp-") for path in home.rglob("*"))

    # what a reader finds now: no torn artifact, no half run that is counted
    for model in _models(home).values():
        artifact.verify(model)
    statuses = _statuses(home)
    assert statuses.pop(before) == "FINISHED"
    assert len(statuses) <= 1
    assert all(run in _models(home) for run, status in statuses.items() if status == "FINISHED"), phase
    assert all(status in {"RUNNING", "FINISHED"} for status in statuses.values())
    assert _hashes(earlier) == untouched

    owned = any((path / "state.json").is_file() for path in (home / ".recipeline" / "work").glob("[!.]*"))
    again = nursery.run(home, *TRAIN, *(["--resume"] if resume and owned else []))
    assert again.code == 0, (phase, again)
    answer = again.json
    assert answer["resumed"] is owned
    finished = _statuses(home)
    assert set(finished.values()) == {"FINISHED"}
    if owned and statuses:
        assert answer["run_id"] in statuses  # the same run, opened again
    assert len(finished) == 2 + (not owned and bool(statuses))  # finished before it was killed: that run stays, too
    assert answer["metrics"] == whole.metrics
    assert answer["best_params"] == whole.best
    predictions, history, folds = _results(Path(answer["artifact"]))
    pd.testing.assert_frame_equal(predictions, whole.predictions, check_exact=True)
    assert folds == whole.folds
    drawn = [trial for trial in history if trial.get("reason") != "interrupted"]
    assert drawn == whole.history[: len(drawn)]
    assert len(history) == len(whole.history) <= len(drawn) + 1
    for model in _models(home).values():
        artifact.verify(model)
    assert _hashes(earlier) == untouched
    assert _remains(home) == []
    return phase, unfinished


# --- train --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", PHASES)
def test_a_training_killed_in_any_phase_goes_on(nursery: Nursery, whole: Whole, home: Path, phase: str) -> None:
    """kill -9, then the same command: the same run, the same numbers, nothing left over."""
    moments: dict[str, int | tuple[str, str]] = {"fit": ("fit", "_parallel_build_trees"), "split": ("split", "split")}
    numbers = whole.numbers(phase)
    at = moments[phase] if phase in moments else numbers[len(numbers) // 2]
    assert _survives(nursery, whole, home, resume=phase in {"tune", "commit"}, at=at)[0] == phase


def test_a_run_that_was_opened_and_not_yet_remembered_is_found_again(nursery: Nursery, whole: Whole, home: Path) -> None:
    """Killed between opening the run and writing down which: it is taken up, and no second one stays RUNNING."""
    last = max(number for number in whole.numbers("load") if whole.events[number].name == "sqlite3.connect")
    created = next(number for number in range(last + 1, len(whole.events)) if "state.json" in whole.events[number].path)
    killed = nursery.run(home, *TRAIN, at=created)
    assert killed.code == -signal.SIGKILL
    (state,) = (home / ".recipeline" / "work").glob("*/state.json")
    assert json.loads(state.read_text())["run_id"] == ""
    (orphan,) = [run for run, status in _statuses(home).items() if status == "RUNNING"]
    again = nursery.run(home, *TRAIN)
    assert again.code == 0, again
    assert again.json["run_id"] == orphan
    assert set(_statuses(home).values()) == {"FINISHED"}


def test_killed_three_times_in_one_training(nursery: Nursery, whole: Whole, home: Path) -> None:
    """Each attempt goes on where the one before was killed; the log of the run tells of all of them."""
    for phase in ("tune", "save", "commit"):
        killed = nursery.run(home, *TRAIN, at=(phase, {"tune": "judge", "save": "sync_tree", "commit": "sync_tree"}[phase]))
        assert killed.code == -signal.SIGKILL
        assert _phase(home) == phase
    again = nursery.run(home, *TRAIN, "--resume", "latest")
    assert again.code == 0, again
    assert again.json["metrics"] == whole.metrics
    said = Path(again.json["artifact"], "log.txt").read_text()
    assert said.count(" phase tune 0") == 2
    assert said.count(" phase tune 1") == 1
    assert _remains(home) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_training_that_is_stopped_is_killed_in_tracking_and_can_go_on(
    nursery: Nursery, whole: Whole, home: Path, number: int, code: int
) -> None:
    """SIGINT and SIGTERM: cleaned up, one line, its run KILLED with its log; and `--resume` ends it as if nothing had been."""
    for at in (("tune", 10), ("save", 40), ("commit", 30)):  # each goes on with what the one before had done
        stopped = nursery.run(home, *TRAIN, at=at, kill=number)
        assert stopped.code == code, stopped
        slug = {130: "interrupted", 143: "terminated"}[code]
        assert stopped.err.splitlines()[-1].startswith(f"error[{slug}]")
        assert stopped.json["error"]["slug"] == slug
        assert "Traceback" not in stopped.err
        (run,) = [run for run, status in _statuses(home).items() if status == "KILLED"]
        assert not (home / "mlruns" / "0" / run / "artifacts" / "model").exists()
        assert "phase tune" in (home / "mlruns" / "0" / run / "artifacts" / "log.txt").read_text()
        assert not list(home.rglob(".tmp-*"))
    refused = nursery.run(home, "batch-inference", "--run-id", run, "--json")
    assert refused.code == 5
    assert "KILLED" in refused.err
    again = nursery.run(home, *TRAIN, "--resume", run[:8])
    assert again.code == 0, again
    assert again.json["run_id"] == run
    assert again.json["metrics"] == whole.metrics
    assert set(_statuses(home).values()) == {"FINISHED"}
    (found,) = [one for one in tracking.list_runs(settings.load(project=home, environ={})) if one.run_id == run]
    assert "recipeline.error" not in found.tags  # it ended well
    assert _remains(home) == []


def test_a_run_that_lives_is_not_taken_up(nursery: Nursery, whole: Whole, home: Path) -> None:
    """While another process holds the work folder: exit 8, with its process; and the run that lives is left alone."""
    assert nursery.run(home, *TRAIN, at=whole.numbers("save")[3]).code == -signal.SIGKILL
    (folder,) = (home / ".recipeline" / "work").iterdir()
    before = {name: digest for name, digest in _hashes(folder).items() if name != "lock"}
    with files.Lock(folder / "lock"):
        for more in ([], ["--resume"]):
            refused = nursery.run(home, *TRAIN, *more)
            assert refused.code == 8
            assert refused.json["error"]["slug"] == "locked"
            assert "is in use by process" in refused.err
        assert {name: digest for name, digest in _hashes(folder).items() if name != "lock"} == before
    again = nursery.run(home, *TRAIN)
    assert again.code == 0, again
    assert again.json["metrics"] == whole.metrics
    assert Counter(_statuses(home).values()) == {"FINISHED": 2}  # a refused attempt is no training that failed


def test_what_changed_since_the_crash_is_not_resumed(nursery: Nursery, whole: Whole, home: Path) -> None:
    """With other data, or another recipe, `--resume` is a conflict that says what changed; the old one can still go on."""
    assert nursery.run(home, *TRAIN, at=whole.numbers("save")[3]).code == -signal.SIGKILL
    data, recipe = (home / "diabetes.csv").read_text(), (home / "small.yaml").read_text()
    (home / "diabetes.csv").write_text("\n".join(data.splitlines()[:-1]) + "\n")
    refused = nursery.run(home, *TRAIN, "--resume")
    assert refused.code == 8
    assert "another data" in refused.err
    (home / "diabetes.csv").write_text(data)
    (home / "small.yaml").write_text(recipe.replace("n_estimators: 12", "n_estimators: 13"))
    refused = nursery.run(home, *TRAIN, "--resume")
    assert refused.code == 8
    assert "another recipe" in refused.err
    (home / "small.yaml").write_text(recipe)
    again = nursery.run(home, *TRAIN, "--resume")
    assert again.code == 0, again
    assert again.json["metrics"] == whole.metrics


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_fresh_process_is_stopped_as_a_user_does_it(whole: Whole, home: Path, number: int, code: int) -> None:
    """From outside, while it imports or trains: one line, no run that stays RUNNING, and the same command ends what was begun."""
    command = [sys.executable, "-m", "recipeline", *TRAIN]
    for wait in (0.5, 1.5, 3.0, 4.0):
        with subprocess.Popen(command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            time.sleep(wait)
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
        began = "recipeline/cli.py" in said or "KeyboardInterrupt" not in said  # else Python was still on its way to our code
        if process.returncode and began:  # else it was faster
            # CPython ends by SIGINT itself where KeyboardInterrupt went through an `exec` of some import: 130 for a shell, too.
            assert process.returncode in {code, -number}, said
            assert said.splitlines()[-1].startswith("error["), said
            assert "Traceback" not in said
        assert set(_statuses(home).values()) <= {"FINISHED", "KILLED"}
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout)["metrics"] == whole.metrics
    assert _remains(home) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_random_kills(nursery: Nursery, whole: Whole, template: Path, tmp_path: Path) -> None:
    """Half at random times, half right before a random event of save and commit; the table says where they fell."""
    seed = random.SystemRandom().randrange(2**32)
    rng = random.Random(seed)
    print(f"\nseed {seed}, {len(whole.events)} events")
    kills: Counter[str] = Counter()
    unfinished = 0
    times = [event.seconds for event in whole.events]
    inside = whole.numbers("save", "commit")
    number = 0
    while sum(kills.values()) < 220:
        at, after = rng.choice(inside), 0.0
        if number % 2:
            moment = rng.uniform(0, times[-1])
            at = max(bisect.bisect(times, moment) - 1, 0)
            after = max(moment - times[at], 0.0)
        home = _fresh(template, tmp_path / f"home-{number}")
        try:
            phase, open_folder = _survives(nursery, whole, home, resume=rng.random() < 0.5, at=at, after=after)
        except AssertionError as error:
            event = whole.events[at]
            raise AssertionError(f"seed {seed}, kill {number}, {after:.4f} s after event {at} {event}: {error}") from error
        if phase != "over":
            kills[phase] += 1
            unfinished += open_folder
        shutil.rmtree(home)
        number += 1
    print("".join(f"{phase:<10}{kills[phase]:>5} kills\n" for phase in PHASES) + f"with an unfinished folder {unfinished}")
    assert kills["save"] + kills["commit"] >= 30
    assert unfinished >= 30


# --- batch inference ------------------------------------------------------------------------------------------------------


def _batch(output: str) -> tuple[str, ...]:
    return ("batch-inference", "--run-id", "latest", "--name", "earlier", "--input", "diabetes.csv", "--output", output, "--json")


def _killed_batch(nursery: Nursery, home: Path, output: str, events: tuple[Event, ...], at: int, expected: dict[str, str]) -> None:
    """Kill it right before an event; then what is seen is all or nothing, and the same command makes it byte-identical."""
    command = _batch(output)
    killed = nursery.run(home, *command, at=at)
    assert killed.code == -signal.SIGKILL, killed
    place = home / output
    if place.is_file() or (place.is_dir() and any(place.iterdir())):
        seen = _hashes(home / "out")
        assert {name: seen[name] for name in expected} == expected, (at, events[at])
    again = nursery.run(home, *command)
    assert again.code == 0, (at, events[at], again)
    assert again.json["rows"] == 442
    assert _hashes(home / "out") == expected, (at, events[at])
    shutil.rmtree(home / "out")


def _boundaries(nursery: Nursery, home: Path, output: str) -> tuple[tuple[Event, ...], dict[str, str]]:
    done = nursery.run(home, *_batch(output), record=True)
    assert done.code == 0, done
    expected = _hashes(home / "out")
    assert expected
    assert not [name for name in expected if ".tmp-" in name]
    once_more = nursery.run(home, *_batch(output))
    assert once_more.json["already_done"] is True
    shutil.rmtree(home / "out")
    return done.events, expected


@pytest.mark.parametrize("output", ["out/a.parquet", "out/a.csv", "out/parts/"])
def test_a_batch_killed_at_a_boundary_is_made_again_byte_by_byte(nursery: Nursery, home: Path, output: str) -> None:
    """Eight of the moments; the slow test takes all."""
    events, expected = _boundaries(nursery, home, output)
    writing = [number for number, event in enumerate(events) if event.path.startswith("out")]
    for at in {writing[len(writing) * part // 8] for part in range(8)}:
        _killed_batch(nursery, home, output, events, at, expected)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("output", ["out/a.parquet", "out/a.csv", "out/parts/"])
def test_a_batch_killed_at_every_boundary(nursery: Nursery, home: Path, output: str) -> None:
    """Everything that it opens, makes, renames and removes."""
    events, expected = _boundaries(nursery, home, output)
    for at in range(len(events)):
        _killed_batch(nursery, home, output, events, at, expected)
    print(f"\n{output}: {len(events)} kills")


@pytest.mark.parametrize("output", ["out/a.parquet", "out/a.csv", "out/parts/"])
def test_a_killed_overwrite_leaves_the_old_output_or_the_new(nursery: Nursery, home: Path, output: str) -> None:
    """With `--overwrite`, too; the same command then makes the new one."""
    assert nursery.run(home, *_batch(output)).code == 0
    old = _hashes(home / "out")
    (home / "other.csv").write_text("\n".join((home / "diabetes.csv").read_text().splitlines()[:50]) + "\n")
    command = [*_batch(output), "--overwrite"]
    command[command.index("diabetes.csv")] = "other.csv"
    shutil.copytree(home / "out", home / "kept")
    done = nursery.run(home, *command, record=True)
    assert done.code == 0, done
    new = _hashes(home / "out")
    writing = [number for number, event in enumerate(done.events) if event.path.startswith("out")]
    rows = [name for name in new if not name.endswith(".commit.json")]
    for at in [writing[len(writing) * part // 6] for part in range(6)] + writing[-3:]:
        shutil.rmtree(home / "out")
        shutil.copytree(home / "kept", home / "out")
        assert nursery.run(home, *command, at=at).code == -signal.SIGKILL
        seen = _hashes(home / "out")
        assert {name: seen[name] for name in rows} in ({name: old[name] for name in rows}, {name: new[name] for name in rows})
        assert nursery.run(home, *command).code == 0
        assert _hashes(home / "out") == new, done.events[at]
