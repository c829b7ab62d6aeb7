"""One study, three processes, one of them killed: the trials are counted exactly, and what the resumed one finds is served."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from optuna.exceptions import StorageInternalError

from crashing import Nursery, Started

pytestmark = pytest.mark.xdist_group("workers")  # three processes are enough at a time

TRIALS = 12
RECIPE = f"""
name: shared
model:
  class_path: sklearn.ensemble.RandomForestClassifier
  hyperparameters:
    n_estimators: {{type: int, low: 250, high: 500}}
    max_depth: {{type: int, low: 2, high: 9}}
  loader: {{name: default_loader, source_uri: rows.parquet}}
  data_interface: {{task_type: classification, target_col: y}}
hyperparameter_tuning: {{enabled: true, n_trials: {TRIALS}, folds: 2, metric: roc_auc}}
evaluation: {{metrics: [roc_auc], validation: {{method: train_test_split, random_state: 0}}}}
"""


def trials(storage: str) -> list[Any]:
    """Every trial of the one study, read by Optuna itself."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    opened: Any
    if storage.startswith("sqlite"):
        opened = optuna.storages.RDBStorage(storage, skip_table_creation=True, skip_compatibility_check=True)
    else:
        opened = optuna.storages.JournalStorage(JournalFileBackend(storage))
    try:
        names = optuna.study.get_all_study_names(opened)
        return optuna.load_study(study_name=names[0], storage=opened).get_trials(deepcopy=True) if names else []
    finally:
        if hasattr(opened, "engine"):
            opened.remove_session()
            opened.engine.dispose()


def state(trial: Any) -> str:
    """`surplus` is a number that a worker gave back at once, because another was faster; no values were tried."""
    return "surplus" if trial.user_attrs.get("end", {}).get("reason") == "surplus" else trial.state.name.lower()


def worker_of(trial: Any) -> str:
    """Which of the three; nothing in the moment before it has written who it is."""
    folder: str = trial.user_attrs.get("start", {}).get("worker", "")
    return folder.rpartition("/.work/")[2].partition("/")[0]


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def address(server: Started) -> str:
    def found() -> str | None:
        match = re.search(r"http://127\.0\.0\.1:[1-9][0-9]*", server.out.read_text())
        return match and match.group()

    return str(wait_for(found))


@pytest.fixture
def home(tmp_path: Path, empty_store: Path) -> Path:
    """A project whose runs are tracked in one store."""
    folder = tmp_path / "home"
    (folder / "config").mkdir(parents=True)
    (folder / "config" / "base.yaml").write_text("execution: {report: false}\napi_serving: {enabled: true}\n")
    (folder / "config" / "local.yaml").write_text("")
    shutil.copy(empty_store, folder / "mlflow.db")
    random = np.random.default_rng(9)
    frame = pd.DataFrame(random.normal(size=(150, 4)), columns=list("abcd"))
    frame["y"] = (frame["a"] + frame["b"] * frame["c"] + random.normal(size=150) > 0).astype(int)
    frame.to_parquet(folder / "rows.parquet")
    (folder / "shared.yaml").write_text(RECIPE)
    return folder


@pytest.mark.parametrize("kind", ["database", "journal"])
def test_three_workers_one_killed(home: Path, nursery: Nursery, kind: str) -> None:
    """Three commands on one storage. One is killed in the middle of a trial: that trial is failed when its worker comes back,
    the draw it had is not lost without a word, no trial is made twice, none too many, and the resumed run answers requests.
    """
    storage = f"sqlite:///{home / 'studies.db'}" if kind == "database" else str(home / "studies.log")

    def command(worker: str) -> list[str]:
        places = ("--set", f"hyperparameter_tuning.storage={storage}", "--set", f"execution.work_folder=.work/{worker}")
        return ["train", "--recipe-file", "shared.yaml", "--json", *places]

    started = {worker: nursery.start(home, *command(worker)) for worker in ("one", "two", "three")}

    victim = started.pop("two")

    def held() -> Any:
        """The trial that worker two is in the middle of, once a few have ended; it stands still until it is killed."""
        found = trials(storage)
        if sum(state(trial) == "complete" for trial in found) < 3:
            return None
        os.kill(victim.process, signal.SIGSTOP)
        try:
            running = [one for one in trials(storage) if state(one) == "running" and worker_of(one) == "two"]
        except StorageInternalError:  # it was stopped in the middle of a commit, and holds the database's lock: not now
            running = []
        if not running:
            os.kill(victim.process, signal.SIGCONT)
        return running

    try:
        wait_for(lambda: any("event trial" in one.err.read_text() for one in (*started.values(), victim)))  # the tables are made
        (killed,) = wait_for(held)
    except AssertionError as error:
        raise AssertionError("\n".join(f"{worker}: {one.err.read_text()}" for worker, one in started.items())) from error
    assert nursery.stop(victim, signal.SIGKILL) == -signal.SIGKILL
    for worker, process in started.items():
        assert nursery.stop(process, 0) == 0, (worker, process.err.read_text())
    left = [state(trial) for trial in trials(storage)]
    assert Counter(left)["running"] == 1  # nobody else may say that it is dead before it was silent for a minute
    assert Counter(left)["complete"] == TRIALS - 1

    resumed = nursery.run(home, *command("two"))
    assert resumed.code == 0, resumed
    answer = resumed.json
    assert answer["resumed"]
    found = [trial for trial in trials(storage) if state(trial) != "surplus"]
    assert Counter(map(state, found)) == {"complete": TRIALS - 1, "fail": 1}
    assert [trial.number for trial in found if state(trial) == "fail"] == [killed.number]
    hpo = json.loads((Path(answer["artifact"]) / "hpo.json").read_text())
    assert (hpo["total_trials"], hpo["failed_trials"]) == (TRIALS, 1)
    (failed,) = [trial for trial in hpo["optimization_history"] if trial["state"] == "failed"]
    assert (failed["number"], failed["reason"]) == (killed.number, "interrupted")
    best = max(trial.value for trial in found if state(trial) == "complete")
    assert hpo["best_score"] == best
    assert set(map(worker_of, found)) == {"one", "two", "three"}

    server = nursery.start(home, "serve-api", "--run-id", answer["run_id"], "--port", "0")
    try:
        row = pd.read_parquet(home / "rows.parquet").drop(columns="y").iloc[0].to_dict()
        said = httpx.post(f"{address(server)}/predict", json=row, timeout=30)
        assert said.status_code == 200, said.text
        assert said.json()["run_id"] == answer["run_id"]
        metadata = httpx.get(f"{address(server)}/model/metadata", timeout=30).json()
        assert metadata["hpo"]["best_params"] == answer["best_params"]
    finally:
        assert nursery.stop(server) in (0, 143)
