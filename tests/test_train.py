"""The straight line: every shipped recipe, what a run leaves behind, what is the same twice."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import recipeline
import tollama_daemon
from recipeline import artifact, settings, tracking
from recipeline.errors import DataError, TrainingFailed
from shipped import lay_out

pytestmark = pytest.mark.xdist_group("train")  # every recipe is trained once

PROJECT = Path(__file__).parents[1]
SHIPPED = {path.stem: path.relative_to(PROJECT) for path in sorted((PROJECT / "recipes").rglob("*.yaml"))}
TUNED = ["breast_cancer_tuned", "wine_ensemble"]
SHORTER = {"acrobot": 24_000, "cartpole": 6_000, "inventory": 24_000, "packing": 12_000, "pendulum": 24_000}
"""Environment steps after which an agent is better than chance; the whole training of each takes five to twenty seconds."""
TOUGH = {"nlinear"}
"""A rival that the report shows, and that not every recipe has to beat: it is as good as it is cheap (Zeng et al. 2023)."""
ONCE = {*SHORTER, "shop_sales", "stations_covariates", "stations_panel", "tsfm_segments"}  # trained a second time by the slow tests only
TWICE = [pytest.param(name, marks=pytest.mark.slow if name in ONCE else ()) for name in SHIPPED]
FOLDED = {"diabetes_ridge": 5, "linnerud_targets": 4, "co2_weekly": 5}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, recipe_data: Path, empty_store: Path) -> Iterator[Path]:
    """A project with the shipped recipes and their data; the current directory while the module runs."""
    folder = tmp_path_factory.mktemp("train") / "project"
    lay_out(folder, recipe_data, empty_store)
    for name, steps in SHORTER.items():
        agent = folder / SHIPPED[name]
        agent.write_text(re.sub(r"total_steps: \d+", f"total_steps: {steps}", agent.read_text()))
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def environ() -> Iterator[dict[str, str]]:
    """What the recipes expect of the environment: a daemon that answers."""
    with tollama_daemon.running() as daemon:
        yield {"TOLLAMA_BASE_URL": daemon.url}


@pytest.fixture(scope="module")
def trained(shared: Path, environ: dict[str, str]) -> Callable[[str], recipeline.Run]:
    """The run of a shipped recipe."""
    runs: dict[str, recipeline.Run] = {}

    def train(name: str) -> recipeline.Run:
        if name not in runs:
            runs[name] = recipeline.train(shared / SHIPPED[name], settings=settings.load(project=shared, environ=environ))
        return runs[name]

    return train


def _hpo(run: recipeline.Run) -> Any:
    return json.loads((run.artifact / "hpo.json").read_text())


# --- every shipped recipe ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_trains(trained: Callable[[str], recipeline.Run], shared: Path, name: str) -> None:
    """Metrics beside baselines and better than them, a whole artifact, a finished run in tracking, nothing left over."""
    run = trained(name)
    assert run.name == name
    assert run.metrics
    assert all(math.isfinite(value) for value in run.metrics.values())
    artifact.verify(run.artifact)
    asked = yaml.safe_load((shared / SHIPPED[name]).read_text())["evaluation"]["metrics"]
    assert set(asked) <= set(run.metrics)
    first = asked[0]
    direction = {"r2": 1, "accuracy": 1, "roc_auc": 1, "f1": 1, "silhouette": 1, "qini": 1, "return_mean": 1}.get(
        first, -1
    )  # else an error or a loss
    assert run.baselines
    for rival, baseline in run.baselines.items():
        assert set(asked) <= set(baseline)
        if rival in TOUGH or name.startswith("tsfm_"):  # the fake daemon is a random walk, no foundation model
            continue
        assert direction * run.metrics[first] > direction * baseline[first]
    (found,) = [one for one in tracking.list_runs(settings.load(project=shared, environ={})) if one.run_id == run.id]
    assert found.status == "FINISHED"
    assert {key: value for key, value in found.metrics.items() if key in run.metrics} == pytest.approx(dict(run.metrics), rel=1e-12)
    assert all(f"{name}.{asked[0]}" in found.metrics for name in run.baselines)
    assert not list((shared / ".recipeline" / "work").iterdir())
    assert not list(shared.rglob(".tmp-*"))


@pytest.mark.parametrize("name", SHIPPED)
def test_its_report_stands_by_itself(trained: Callable[[str], recipeline.Run], name: str) -> None:
    """The recipe, the metrics and pictures in one file, which asks no other host for anything."""
    text = (trained(name).artifact / "report.html").read_text()
    assert name in text
    assert all(baseline in text for baseline in trained(name).baselines)
    assert text.count("<svg") + text.count("data:image/") >= 2
    assert not re.search(r"""(?:src|href)\s*=\s*["'](?:https?:)?//""", text)


@pytest.mark.parametrize("name", TWICE)
def test_its_recipe_as_resolved_is_a_recipe_of_the_same_run(
    trained: Callable[[str], recipeline.Run], shared: Path, environ: dict[str, str], name: str
) -> None:
    """`recipe.yaml` of the artifact has the found values in the place of ranges, and trains to the same metrics."""
    run = trained(name)
    text = (run.artifact / "recipe.yaml").read_text()
    assert not re.search(r"type: (int|float|categorical)\b", text)
    again = shared / SHIPPED[name].parent / f"resolved_{name}.yaml"
    again.write_text(text)
    try:
        resolved = recipeline.train(again, settings=settings.load(project=shared, environ=environ, overrides=["execution.report=false"]))
    finally:
        again.unlink()
    assert resolved.metrics == run.metrics


def test_what_was_judged_is_what_is_served(trained: Callable[[str], recipeline.Run], shared: Path) -> None:
    """The loaded run gives the sealed patients the very answers that the table of predictions has; the metrics are theirs."""
    run = trained("quickstart")
    table = pd.read_parquet(run.artifact / "tables" / "predictions.parquet")
    rows = pd.read_csv(shared / "recipes" / "data" / "breast_cancer.csv").set_index("patient_id").loc[table["patient_id"]].reset_index()
    assert (rows["diagnosis"] == table["actual"]).all()
    output = recipeline.load(run.artifact).predict(rows)
    pd.testing.assert_frame_equal(output, table[list(output.columns)], check_exact=True)
    assert run.metrics["accuracy"] == (table["prediction"] == table["actual"]).mean()


# --- what differs between them ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TUNED)
def test_a_search_begins_with_the_defaults_and_keeps_the_best(trained: Callable[[str], recipeline.Run], shared: Path, name: str) -> None:
    """hpo.json in the promised form; the best of the inner scores, not of the sealed rows."""
    run, hpo = trained(name), _hpo(trained(name))
    assert {
        "enabled", "engine", "best_params", "best_score", "optimization_history", "total_trials", "pruned_trials", "optimization_time",
    } <= set(hpo)  # fmt: skip
    tuning = yaml.safe_load((shared / SHIPPED[name]).read_text())["hyperparameter_tuning"]
    history = hpo["optimization_history"]
    assert [trial["number"] for trial in history] == list(range(tuning["n_trials"]))
    assert hpo["total_trials"] == tuning["n_trials"]
    defaults = {"breast_cancer_tuned": {"n_estimators": 100, "max_depth": None, "max_features": "sqrt"}}
    defaults["wine_ensemble"] = {"forest.n_estimators": 100, "logistic.C": 1.0}
    assert history[0]["params"] == defaults[name]
    assert history[0]["state"] == "complete"
    scores = [trial["value"] for trial in history if trial["state"] == "complete"]
    assert hpo["best_score"] == (max(scores) if tuning["direction"] == "maximize" else min(scores))
    assert run.best_params == hpo["best_params"] == next(trial["params"] for trial in history if trial["value"] == hpo["best_score"])


def test_pruning_prunes(trained: Callable[[str], recipeline.Run]) -> None:
    """Trials that are below the median of the others after a fold are stopped there, and counted."""
    hpo = _hpo(trained("breast_cancer_tuned"))
    states = [trial["state"] for trial in hpo["optimization_history"]]
    assert states.count("pruned") == hpo["pruned_trials"] >= 1
    assert "pruned" not in states[:4]  # n_startup_trials


def test_an_ensemble_is_searched_inside(trained: Callable[[str], recipeline.Run]) -> None:
    """Names of estimators, not indices; and the ensemble that was kept has the values that were found."""
    run = trained("wine_ensemble")
    assert set(run.best_params) == {"forest.n_estimators", "logistic.C"}
    model = recipeline.load(run.artifact).model
    assert [name for name, _ in model.estimators] == ["forest", "logistic", "bayes"]
    assert model.named_estimators_["forest"].n_estimators == run.best_params["forest.n_estimators"]
    assert run.best_params["logistic.C"] == model.named_estimators_["logistic"].C


def test_several_targets_are_predicted_together(trained: Callable[[str], recipeline.Run], shared: Path) -> None:
    """One column of the output for each, in the order of the recipe; metrics for all and for each."""
    run = trained("linnerud_targets")
    assert {"rmse", "rmse_Weight", "rmse_Waist", "rmse_Pulse"} <= set(run.metrics)
    rows = pd.read_csv(shared / "recipes" / "data" / "linnerud.csv")
    output = recipeline.load(run.artifact).predict(rows)
    assert list(output.columns) == ["prediction_Weight", "prediction_Waist", "prediction_Pulse"]
    assert len(output) == 20


@pytest.mark.parametrize("name", FOLDED)
def test_folds_are_given_as_mean_and_deviation(trained: Callable[[str], recipeline.Run], name: str) -> None:
    """The procedure's score: mean over the folds, and their sample standard deviation beside it."""
    run = trained(name)
    folds = json.loads((run.artifact / "metrics.json").read_text())["folds"]
    assert len(folds) == FOLDED[name]
    for metric in ("rmse", "mae"):
        values = [fold[metric] for fold in folds]
        assert len(set(values)) == len(values)
        assert run.metrics[metric] == pytest.approx(np.mean(values), rel=1e-12)
        assert run.metrics[f"{metric}_sd"] == pytest.approx(np.std(values, ddof=1), rel=1e-12)


def test_folds_are_those_of_scikit_learn(trained: Callable[[str], recipeline.Run], shared: Path) -> None:
    """The same five scores as `cross_val_score` by hand, and the model that is kept was fitted on all rows."""
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold, cross_val_score

    run = trained("diabetes_ridge")
    data = pd.read_csv(shared / "recipes" / "data" / "diabetes.csv")
    X, y = data.drop(columns="target").to_numpy(float), data["target"].to_numpy(float)
    by_hand = cross_val_score(Ridge(alpha=0.1, random_state=42), X, y, cv=KFold(5, shuffle=True, random_state=42), scoring="r2")
    folds = json.loads((run.artifact / "metrics.json").read_text())["folds"]
    np.testing.assert_allclose([fold["r2"] for fold in folds], by_hand, rtol=1e-12)
    kept = recipeline.load(run.artifact).predict(data)["prediction"].to_numpy()
    np.testing.assert_allclose(kept, Ridge(alpha=0.1, random_state=42).fit(X, y).predict(X), rtol=1e-12)


def test_rows_may_come_from_a_database(trained: Callable[[str], recipeline.Run], shared: Path) -> None:
    """The SELECT of the recipe on the SQLite file that LOCAL names; the same rows as in the file give the same fingerprint of rows."""
    run = trained("breast_cancer_tuned")
    recipe = yaml.safe_load((run.artifact / "recipe.yaml").read_text())
    assert recipe["model"]["loader"]["source_uri"] == "SELECT * FROM breast_cancer"
    audit = json.loads((run.artifact / "split.json").read_text())
    (fold,) = audit["folds"]
    rows = len(pd.read_csv(shared / "recipes" / "data" / "breast_cancer.csv"))
    assert fold["fitted"] + fold["judged"] == rows


def test_the_sealed_rows_have_a_fingerprint(trained: Callable[[str], recipeline.Run]) -> None:
    """One for each part that was opened."""
    for name, folds in {"quickstart": 1, **FOLDED}.items():
        sealed = json.loads((trained(name).artifact / "split.json").read_text())["sealed"]
        assert len(set(sealed)) == folds


# --- the same twice -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["breast_cancer_tuned", "linnerud_targets", "quickstart"])
def test_the_same_seed_twice_gives_the_same_run(trained: Callable[[str], recipeline.Run], shared: Path, name: str) -> None:
    """Metrics, predictions and trials to the last bit; two runs, for nobody crashed."""
    first = trained(name)
    second = recipeline.train(
        shared / SHIPPED[name], settings=settings.load(project=shared, environ={}, overrides=["execution.report=false"])
    )
    assert second.id != first.id
    assert not second.resumed
    assert second.metrics == first.metrics
    assert second.best_params == first.best_params
    tables = [pd.read_parquet(run.artifact / "tables" / "predictions.parquet") for run in (first, second)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    if name in TUNED:
        histories = [[(one["params"], one["value"], one["state"]) for one in _hpo(run)["optimization_history"]] for run in (first, second)]
        assert histories[0] == histories[1]


def test_another_seed_gives_another_run(project: Path) -> None:
    """The seed at the top reaches the model and the split."""
    text = """
name: seeded
seed: {seed}
model:
  class_path: sklearn.ensemble.RandomForestRegressor
  hyperparameters: {{n_estimators: 5}}
  loader: {{name: default_loader, source_uri: recipes/data/diabetes.csv}}
  data_interface: {{task_type: regression, target_col: target}}
evaluation: {{metrics: [rmse], validation: {{method: train_test_split{more}}}}}
"""
    path = project / "seeded.yaml"

    def sealed(seed: int, more: str = "") -> tuple[Any, float]:
        path.write_text(text.format(seed=seed, more=more))
        run = recipeline.train(path, settings=settings.load(project=project, environ={}, overrides=["execution.report=false"]))
        return json.loads((run.artifact / "split.json").read_text())["sealed"], run.metrics["rmse"]

    one, other = sealed(1), sealed(2)
    assert one[0] != other[0]
    held, moved = sealed(1, ", random_state: 5"), sealed(2, ", random_state: 5")
    assert held[0] == moved[0]  # the split's own seed wins for the split
    assert held[1] != moved[1]  # and the model's seed is still the one at the top


# --- failures --------------------------------------------------------------------------------------------------------------------


FAILING = """
name: failing
model:
  class_path: sklearn.svm.SVC
  hyperparameters: {kernel: precomputed}   # wants a square matrix, which only fit can see
  loader: {name: default_loader, source_uri: recipes/data/wine.csv}
  data_interface: {task_type: classification, target_col: target}
evaluation: {metrics: [accuracy], validation: {method: train_test_split}}
"""


def test_an_estimator_that_raises_fails_the_run(command: Callable[..., Any], project: Path) -> None:
    """Exit 10 and the estimator's own words; the run is FAILED with slug, recipe and log, and there is no artifact."""
    (project / "failing.yaml").write_text(FAILING)
    answer = command("train", "--recipe-file", "failing.yaml", "--json")
    assert answer.code == 10, answer
    assert answer.json["error"]["slug"] == "training-failed"
    assert answer.json["error"]["where"] == "SVC"
    assert "ValueError: Precomputed matrix must be a square matrix" in answer.err
    assert "Traceback" not in answer.err
    (run,) = tracking.list_runs(settings.load(project=project, environ={}))
    assert run.status == "FAILED"
    assert run.tags["recipeline.error"] == "training-failed"
    left = project / "mlruns" / "0" / run.run_id / "artifacts"
    assert {path.name for path in left.iterdir()} == {"recipe.yaml", "log.txt"}
    assert yaml.safe_load((left / "recipe.yaml").read_text())["model"]["class_path"] == "sklearn.svm.SVC"
    assert "phase fit 0" in (left / "log.txt").read_text()
    assert not list((project / ".recipeline" / "work").iterdir())  # nothing to go on with
    refused = command("batch-inference", "--run-id", run.run_id)
    assert refused.code == 5
    assert "its status is FAILED (training-failed)" in refused.err


def test_a_search_whose_trials_all_fail_fails_the_run(project: Path) -> None:
    """With the reason of the trials, not with a score of zero."""
    text = FAILING.replace("{kernel: precomputed}", "{kernel: precomputed, C: {type: float, low: 0.1, high: 10}}")
    (project / "failing.yaml").write_text(f"{text}hyperparameter_tuning: {{enabled: true, n_trials: 3, folds: 2}}\n")
    with pytest.raises(TrainingFailed, match=r"none of 3 trials has a score.*Precomputed matrix must be a square matrix") as caught:
        recipeline.train(project / "failing.yaml")
    assert caught.value.code == 10
    assert caught.value.slug == "every-trial-failed"


def test_data_that_break_the_recipe_fail_the_run(project: Path) -> None:
    """A missing target column: exit 5 with the nearest names; the tracked run says so."""
    text = FAILING.replace("target_col: target", "target_col: traget")
    (project / "failing.yaml").write_text(text)
    with pytest.raises(DataError, match=r"traget.*did you mean target") as caught:
        recipeline.train(project / "failing.yaml")
    assert caught.value.code == 5
    (run,) = tracking.list_runs(settings.load(project=project, environ={}))
    assert (run.status, run.tags["recipeline.error"]) == ("FAILED", caught.value.slug)


def test_a_metric_that_is_no_number_is_a_failure(project: Path) -> None:
    """roc_auc where the sealed rows hold one class: refused in words, never a score."""
    frame = pd.DataFrame({"x": np.arange(60.0), "y": ["a"] * 40 + ["b"] * 20})
    frame.to_csv(project / "ordered.csv", index=False)
    (project / "ordered.yaml").write_text("""
name: ordered
model:
  class_path: sklearn.linear_model.LogisticRegression
  loader: {name: default_loader, source_uri: ordered.csv}
  data_interface: {task_type: classification, target_col: y}
evaluation: {metrics: [roc_auc], validation: {method: train_test_split, shuffle: false, test_size: 0.2}}
""")
    with pytest.raises(DataError, match="roc_auc is undefined: the rows hold one class only"):
        recipeline.train(project / "ordered.yaml")
