"""What a search may cost is said by the place: the guide's blocks for DEV and PROD, from the file to the finished run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recipeline import folds, settings, tracking, tune

GUIDE = {
    "dev": "hyperparameter_tuning:\n  enabled: true\n  timeout: 600\n",
    "prod": "hyperparameter_tuning:\n  enabled: true\n  timeout: 7200\n  parallelization:\n    n_jobs: 8\n",
}
RECIPE = """\
name: limited
model:
  class_path: sklearn.tree.DecisionTreeClassifier
  hyperparameters:
    max_depth: {type: int, low: 1, high: 12}
    min_samples_leaf: {type: int, low: 1, high: 60}
  loader: {source_uri: recipes/data/breast_cancer.csv}
  data_interface: {task_type: classification, target_col: diagnosis}
hyperparameter_tuning: {enabled: true, n_trials: TRIALS, metric: roc_auc, direction: maximize, folds: 2}
evaluation: {metrics: [accuracy, roc_auc]}
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the search was told, each time; it really runs."""
    seen: list[dict[str, Any]] = []
    real = tune.tune

    def told(*arguments: Any, **given: Any) -> Any:
        seen.append(given)
        return real(*arguments, **given)

    monkeypatch.setattr(folds.tune, "tune", told)
    return seen


def recipe(project: Path, trials: int) -> Path:
    path = project / "limited.yaml"
    path.write_text(RECIPE.replace("TRIALS", str(trials)))
    return path


@pytest.mark.parametrize(("environment", "timeout", "n_jobs"), [("dev", 600.0, 1), ("prod", 7200.0, 8)])
def test_the_shipped_configuration_has_the_guides_limits(project: Path, environment: str, timeout: float, n_jobs: int) -> None:
    """Ten minutes in DEV, two hours and eight jobs in PROD."""
    found = settings.load(project=project, environ={"APP_ENV": environment}).hyperparameter_tuning
    assert (found.enabled, found.timeout, found.parallelization.n_jobs) == (True, timeout, n_jobs)
    guide = settings.load(project=project, environ={"APP_ENV": environment})
    assert guide.origin(("hyperparameter_tuning", "timeout")).startswith(f"config/{environment}.yaml:")


@pytest.mark.parametrize(("block", "timeout", "n_jobs"), [("dev", 600.0, 1), ("prod", 7200.0, 8)])
def test_the_guides_block_reaches_the_search(
    project: Path,
    command: Callable[..., Any],
    asked: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    block: str,
    timeout: float,
    n_jobs: int,
) -> None:
    """As it stands in the guide, in the file of an environment; trials side by side make as many as asked for."""
    (project / "config" / "staging.yaml").write_text(GUIDE[block])
    monkeypatch.setenv("APP_ENV", "staging")
    answer = command("train", "--recipe-file", recipe(project, 9), "--json")
    assert answer.code == 0, answer
    (given,) = asked
    assert (given["timeout"], given["n_jobs"]) == (timeout, n_jobs)
    hpo = json.loads((Path(answer.json["artifact"]) / "hpo.json").read_text())
    assert hpo["total_trials"] == 9
    assert len(hpo["optimization_history"]) == 9
    assert hpo["best_score"] == max(trial["value"] for trial in hpo["optimization_history"] if trial["state"] == "complete")


def test_a_place_may_switch_searches_off(project: Path, command: Callable[..., Any], asked: list[dict[str, Any]]) -> None:
    """Both switches must be on; the ranges then take the constructor's own values, and the log says so."""
    answer = command("train", "--recipe-file", recipe(project, 9), "--set", "hyperparameter_tuning.enabled=false", "--json")
    assert answer.code == 0, answer
    assert asked == []
    assert answer.json["best_params"] == {}
    assert "tuning is switched off by the configuration" in answer.err


@pytest.mark.parametrize("n_jobs", [1, 4])
def test_a_timeout_ends_the_search_with_a_result(project: Path, command: Callable[..., Any], n_jobs: int) -> None:
    """Far fewer trials than asked for, and the best of them is fitted, judged, tracked and predicts."""
    limits = ("--set", "hyperparameter_tuning.timeout=1.0", "--set", f"hyperparameter_tuning.parallelization.n_jobs={n_jobs}")
    answer = command("train", "--recipe-file", recipe(project, 100_000), *limits, "--json")
    assert answer.code == 0, answer
    folder = Path(answer.json["artifact"])
    hpo = json.loads((folder / "hpo.json").read_text())
    assert 1 <= hpo["total_trials"] < 100_000
    assert {trial["state"] for trial in hpo["optimization_history"]} <= {"complete", "pruned"}
    assert hpo["pruned_trials"] <= n_jobs  # those that were under way
    assert answer.json["best_params"] == hpo["best_params"]
    assert answer.json["metrics"]["accuracy"] > answer.json["baselines"]["dummy"]["accuracy"]
    (run,) = tracking.list_runs(settings.load(project=project, environ={}))
    assert (run.status, run.metrics["total_trials"]) == ("FINISHED", hpo["total_trials"])
    assert not list((project / ".recipeline" / "work").glob("*/state.json"))  # nothing is left to resume
    told = ("--run-id", run.run_id, "--input", "recipes/data/breast_cancer.csv", "--output", "a.csv", "--json")
    assert command("batch-inference", *told).json["rows"] > 500
