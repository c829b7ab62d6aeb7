"""XGBoost, LightGBM and CatBoost: by hand and by recipe, through every door, alone and inside ensembles."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.model_selection import train_test_split
from sklearn.multioutput import MultiOutputRegressor

import recipeline
from recipeline import artifact, boosters, logs, settings
from recipeline.cli import main
from recipeline.errors import RecipeError, TrainingFailed
from recipeline.serve import app
from shipped import lay_out

xgboost = pytest.importorskip("xgboost")
lightgbm = pytest.importorskip("lightgbm")
catboost = pytest.importorskip("catboost")

pytestmark = [
    pytest.mark.xdist_group("boosting"),  # every model is trained once
    # What `import mlflow.pyfunc` says about MLflow's own type hints.
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

QUIET: Mapping[str, Mapping[str, Any]] = {
    "xgboost": {"n_jobs": 1},
    "lightgbm": {"n_jobs": 1, "verbosity": -1},
    "catboost": {"thread_count": 1, "verbose": False, "allow_writing_files": False},
}
THREADS = {"xgboost": "n_jobs", "lightgbm": "n_jobs", "catboost": "thread_count"}
MODELS = {
    "xgboost.XGBClassifier": xgboost.XGBClassifier,
    "xgboost.XGBRegressor": xgboost.XGBRegressor,
    "lightgbm.LGBMClassifier": lightgbm.LGBMClassifier,
    "lightgbm.LGBMRegressor": lightgbm.LGBMRegressor,
    "catboost.CatBoostClassifier": catboost.CatBoostClassifier,
    "catboost.CatBoostRegressor": catboost.CatBoostRegressor,
}
FEATURES = ["income [kr/mo]", 'size<{"m"}', "size<{'m'}", "net worth", "net_worth", "나이"]


def houses(n: int = 240) -> pd.DataFrame:
    """Columns that no library likes the names of, text to encode, weights, three classes as text, three numbers to predict."""
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"id": [f"h{number}" for number in range(n)], **{name: rng.normal(size=n) for name in FEATURES}})
    frame["region"] = rng.choice(["n,orth", 'w"est', "e[a]st"], n)
    frame["weight"] = rng.uniform(0.5, 2.0, n)
    price = frame[FEATURES[0]] + 2 * frame[FEATURES[1]] * (frame["region"] == 'w"est') + rng.normal(0, 0.3, n)
    frame["class"] = np.select([price > 0.7, price > -0.7], ["dear", "fair"], "cheap")
    frame["price"], frame["rent"], frame["tax"] = price, price**2, price - frame["나이"]
    return frame


TARGETS = ["class", "price", "rent", "tax"]


def encoded(frame: pd.DataFrame) -> np.ndarray:
    """What the default preprocessor gives a model, by hand: columns in their order, text as one column per sorted category."""
    regions = [(frame["region"] == label).to_numpy(float)[:, None] for label in sorted(frame["region"].unique())]
    return np.hstack([frame[FEATURES].to_numpy(float), *regions])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, recipe_data: Path, empty_store: Path) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("boosting") / "project"
    lay_out(folder, recipe_data, empty_store)
    for kept in (["class"], ["price"], ["price", "rent", "tax"]):
        rows = houses().drop(columns=[name for name in TARGETS if name not in kept])
        rows.to_parquet(folder / f"{'_'.join(kept)}.parquet", index=False)
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    return home


def described(model: Mapping[str, Any], target: Any, task: str, *, rest: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        "name": "houses",
        "model": {
            "loader": {"source_uri": f"{target if isinstance(target, str) else '_'.join(target)}.parquet"},
            "data_interface": {"task_type": task, "target_col": target, "entity_cols": ["id"], "sample_weight_col": "weight"},
            **model,
        },
        "evaluation": {"metrics": ["log_loss" if task == "classification" else "rmse"], "validation": {
            "method": "train_test_split", "test_size": 0.25, "random_state": 3, "stratify": task == "classification"}},
        **(rest or {}),
    }  # fmt: skip


def configured(home: Path, *overrides: str) -> settings.Settings:
    return settings.load(project=home, environ={}, overrides=["execution.report=false", *overrides])


@dataclass(frozen=True)
class Trained:
    run: recipeline.Run
    rows: pd.DataFrame
    expected: pd.DataFrame  # by hand, on all rows
    model: Any  # by hand


def by_hand(model: Any, target: Any, task: str) -> tuple[Any, pd.DataFrame]:
    """Split, weights and labels as anyone would write them; predictions for all rows."""
    data = houses()
    X, y = encoded(data), data[target].to_numpy()
    labels = np.unique(y) if task == "classification" else None
    codes = y if labels is None else np.searchsorted(labels, y)
    rows, _ = train_test_split(np.arange(len(data)), test_size=0.25, random_state=3, stratify=codes if labels is not None else None)
    model.fit(X[rows], codes[rows], sample_weight=data["weight"].to_numpy()[rows])
    predicted = np.asarray(model.predict(X))
    frame = data[["id"]].copy()
    if labels is None:
        names = ["prediction"] if isinstance(target, str) else [f"prediction_{name}" for name in target]
        frame[names] = predicted.reshape(len(data), len(names)).astype(float)
    else:
        frame["prediction"] = labels[predicted.reshape(-1).astype(int)]
        frame[[f"probability_{label}" for label in labels]] = np.asarray(model.predict_proba(X), dtype=float)
    return model, frame


def _single(path: str) -> tuple[dict[str, Any], Any, Any, str]:
    library = path.partition(".")[0]
    task, target = ("classification", "class") if "Classifier" in path else ("regression", "price")
    given = {"n_estimators": 12, THREADS[library]: 1}
    return {"class_path": path, "hyperparameters": given}, MODELS[path](**{**QUIET[library], **given, "random_state": 42}), target, task


def _vote() -> tuple[dict[str, Any], Any, Any, str]:
    forest = {"class_path": "sklearn.ensemble.RandomForestClassifier", "hyperparameters": {"n_estimators": 10}}
    parts = {"rf": forest} | {path.partition(".")[0]: _single(path)[0] for path in MODELS if "Classifier" in path}
    named = [{"name": name, "estimator": spec} for name, spec in parts.items()]
    hand = [("rf", RandomForestClassifier(10, random_state=42))]
    hand += [(path.partition(".")[0], _single(path)[1]) for path in MODELS if "Classifier" in path]
    spec = {"class_path": "sklearn.ensemble.VotingClassifier", "hyperparameters": {"estimators": named, "voting": "soft"}}
    return spec, VotingClassifier(hand, voting="soft"), "class", "classification"


def _targets() -> tuple[dict[str, Any], Any, Any, str]:
    inner, hand, _, _ = _single("xgboost.XGBRegressor")
    spec = {"class_path": "sklearn.multioutput.MultiOutputRegressor", "hyperparameters": {"estimator": inner}}
    return spec, MultiOutputRegressor(hand), ["price", "rent", "tax"], "regression"


CASES: dict[str, Callable[[], tuple[dict[str, Any], Any, Any, str]]] = {
    **{path: lambda path=path: _single(path) for path in MODELS},
    "vote": _vote,
    "targets": _targets,
}


@pytest.fixture(scope="module", params=CASES)
def trained(request: pytest.FixtureRequest, home: Path) -> Trained:
    spec, hand, target, task = CASES[request.param]()
    run = recipeline.train(described(spec, target, task), settings=configured(home))
    model, expected = by_hand(hand, target, task)
    return Trained(run, houses().drop(columns=TARGETS), expected, model)


def test_a_recipe_predicts_what_a_script_predicts(trained: Trained) -> None:
    """Every label and every bit: text encoded, rows weighted, classes as text, columns under names the libraries refuse."""
    output = recipeline.load(trained.run.artifact).predict(trained.rows)
    pd.testing.assert_frame_equal(output, trained.expected, check_exact=True)


def test_every_door_gives_the_same_bits(here: Path, trained: Trained) -> None:
    """Library, batch to a file, and HTTP."""
    rows = trained.rows.head(60)
    expected = trained.expected.head(60)
    pipeline = recipeline.load(trained.run.artifact)
    pd.testing.assert_frame_equal(pipeline.predict(rows), expected, check_exact=True)
    rows.to_parquet("asked.parquet", index=False)
    code = main(["batch-inference", "--run-id", trained.run.id, "--input", "asked.parquet", "--output", "answered.parquet", "--overwrite"])
    assert code == 0
    pd.testing.assert_frame_equal(pd.read_parquet("answered.parquet"), expected, check_exact=True)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app(pipeline, configured(here, "api_serving.enabled=true")))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.post("/predict", json=rows.to_dict("records"))

    answered = asyncio.run(ask())
    assert answered.status_code == 200, answered.text
    said = pd.json_normalize(answered.json()["predictions"])
    said.columns = [name.replace("probabilities.", "probability_") for name in said.columns]
    pd.testing.assert_frame_equal(said[list(expected.columns)], expected, check_exact=True)


def test_it_is_kept_without_a_pickle(trained: Trained) -> None:
    """skops, from a fixed table of types; the requirements name the library."""
    folder = trained.run.artifact / "parts" / "model"
    assert json.loads((folder / "part.json").read_text())["format"] == "skops"
    assert not list(trained.run.artifact.rglob("*.pkl"))
    libraries = {boosters.library(type(one)) for one in boosters.inside(trained.model)}
    required = (trained.run.artifact / "requirements.txt").read_text()
    assert libraries
    assert all(f"{library}==" in required for library in libraries)
    written = json.loads((folder / "part.json").read_text())["versions"]
    assert written == {library: version(library) for library in libraries}


def test_mlflows_own_door_gives_the_same_bits(here: Path, trained: Trained) -> None:
    """`mlflow.pyfunc.load_model` on the artifact."""
    import mlflow

    rows = trained.rows.head(60)
    predicted = mlflow.pyfunc.load_model(str(trained.run.artifact)).predict(rows)
    pd.testing.assert_frame_equal(predicted, trained.expected.head(60), check_exact=True)


def test_another_version_of_the_library_is_a_warning_with_both(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Said before its bytes are read; another library's version does not matter."""
    data = houses()
    model = lightgbm.LGBMRegressor(n_estimators=3, n_jobs=1, verbosity=-1).fit(encoded(data), data["price"])
    folder = tmp_path / "part"
    artifact.keep(model, folder, "model", "b")
    artifact.take_up(folder, "model", "b", type)
    assert not caplog.records
    about = json.loads((folder / "part.json").read_text())
    about["versions"] = {"lightgbm": "1.2.3"}
    (folder / "part.json").write_text(json.dumps(about))
    artifact.take_up(folder, "model", "b", type)
    assert f"written with lightgbm 1.2.3, this is {version('lightgbm')}" in caplog.text


@pytest.mark.parametrize("path", MODELS)
def test_a_type_outside_the_table_is_never_saved_as_a_run(here: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """What the file asks for counts for nothing: the training itself fails, with the name of the type."""
    spec, hand, target, task = _single(path)
    kind = f"{type(hand).__module__}.{type(hand).__qualname__}"
    monkeypatch.setattr(artifact, "TRUSTED", tuple(name for name in artifact.TRUSTED if name != kind))
    with pytest.raises(TrainingFailed, match=re.escape(kind)) as caught:
        recipeline.train({**described(spec, target, task), "name": "untrusted"}, settings=configured(here))
    assert (caught.value.slug, caught.value.code) == ("untrusted-type", 10)


@pytest.mark.parametrize("path", ["xgboost.XGBClassifier", "lightgbm.LGBMClassifier"])
@pytest.mark.parametrize("classes", [2, 4])
def test_a_label_is_the_likeliest_class(home: Path, path: str, classes: int) -> None:
    """The library is asked once for probabilities; the label is the one that its own `predict` gives, ties and poor models too."""
    rng = np.random.default_rng(classes)
    data = pd.DataFrame({"a": rng.integers(0, 5, 600).astype(float), "b": rng.integers(0, 3, 600).astype(float)})
    data["y"] = rng.integers(0, classes, 600)
    data.to_parquet(home / "coarse.parquet", index=False)
    recipe = {
        "name": "coarse",
        "model": {
            "class_path": path,
            "hyperparameters": {"n_estimators": 2, "n_jobs": 1},
            "loader": {"source_uri": "coarse.parquet"},
            "data_interface": {"task_type": "classification", "target_col": "y"},
        },
    }
    pipeline = recipeline.load(recipeline.train(recipe, settings=configured(home)).artifact)
    assert (pipeline.predict(data)["prediction"] == pipeline.model.predict(data[["a", "b"]].to_numpy())).all()


def test_nothing_is_printed_and_nothing_is_left_behind(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The defaults of LightGBM and CatBoost print a line per tree, and CatBoost leaves a folder."""
    before = set(here.iterdir())
    for path in MODELS:
        spec, _, target, task = _single(path)
        recipeline.train(described(spec, target, task), settings=configured(here))
    assert capfd.readouterr().out == ""
    assert set(here.iterdir()) - before <= {here / "mlruns", here / ".recipeline"}


@pytest.mark.parametrize(
    ("path", "more", "words"),
    [
        ("lightgbm.LGBMRegressor", {"verbose": 1}, "[LightGBM] [Info]"),
        ("catboost.CatBoostRegressor", {"verbose": 5}, "learn: "),
        ("xgboost.XGBRegressor", {"verbosity": 3}, "UpdateTree"),
    ],
)
def test_what_a_library_says_goes_to_the_log(
    here: Path, capfd: pytest.CaptureFixture[str], path: str, more: dict[str, Any], words: str
) -> None:
    """Where a recipe asks for it: in log.txt, never on stdout."""
    spec, _, target, task = _single(path)
    spec["hyperparameters"] |= more
    run = recipeline.train(described(spec, target, task), settings=configured(here))
    assert capfd.readouterr().out == ""
    assert words in (run.artifact / "log.txt").read_text()


def test_prints_of_trainings_side_by_side_end_in_the_log_and_stdout_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever ends last gives stdout back, in whatever order they began."""
    before, first, second = sys.stdout, threading.Event(), threading.Event()

    def one() -> None:
        with logs.printed():
            first.set()
            second.wait(10)
            print("one\nand half", end="")

    with caplog.at_level(logging.INFO, "recipeline"):
        worker = threading.Thread(target=one)
        worker.start()
        first.wait(10)
        with logs.printed():
            print("two")
            second.set()
            worker.join()
            assert sys.stdout is not before
            print("three")
    assert sys.stdout is before
    assert {"one", "two", "three"} <= {record.message for record in caplog.records}


# --- what a recipe may say ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "argument", "words"),
    [
        ("xgboost.XGBClassifier", {"early_stopping_rounds": 5}, "add calibration_size: 0.2"),
        ("lightgbm.LGBMClassifier", {"early_stopping_rounds": 5}, "add calibration_size: 0.2"),
        ("lightgbm.LGBMClassifier", {"n_iter_no_change": 5}, "add calibration_size: 0.2"),
        ("catboost.CatBoostClassifier", {"early_stopping_rounds": 5}, "add calibration_size: 0.2"),
        ("lightgbm.LGBMClassifier", {"cat_feature": [6]}, "leave categories to the preprocessor"),
        ("catboost.CatBoostClassifier", {"od_wait": 5}, "write early_stopping_rounds"),
        ("catboost.CatBoostClassifier", {"train_dir": "/tmp/elsewhere"}, "remove it"),
        ("catboost.CatBoostClassifier", {"save_snapshot": True}, "remove it"),
    ],
)
def test_an_argument_that_could_not_do_what_it_says_is_refused(path: str, argument: dict[str, Any], words: str) -> None:
    """Early stopping without rows held back, files where the recipe says: before any data is read."""
    from recipeline.assemble import assemble
    from recipeline.recipe import load

    recipe = load(described({"class_path": path, "hyperparameters": argument}, "class", "classification"))
    with pytest.raises(RecipeError) as caught:
        assemble(recipe, settings.load(project=Path(), environ={}))
    (problem,) = caught.value.problems
    assert problem.slug == "unusable-argument"
    assert problem.key == ("model", "hyperparameters", *argument)
    assert words in str(problem)
    assert problem.exit_code == 3


PATIENT = {
    "xgboost.XGBClassifier": ("early_stopping_rounds", lambda model: model.best_iteration + 1),
    "lightgbm.LGBMClassifier": ("n_iter_no_change", lambda model: model.best_iteration_),
    "catboost.CatBoostClassifier": ("early_stopping_rounds", lambda model: model.tree_count_),
}


@pytest.mark.parametrize("path", PATIENT)
def test_a_booster_stops_early_by_rows_held_back(home: Path, path: str) -> None:
    """Under any of the argument's names, on columns under any name; inside another estimator there are no such rows."""
    from recipeline.assemble import check
    from recipeline.recipe import draft

    word, trees = PATIENT[path]
    spec, _, target, task = _single(path)
    spec["hyperparameters"] |= {"n_estimators": 300, "learning_rate": 0.5, word: 4}
    recipe = described(spec, target, task)
    recipe["evaluation"]["validation"]["calibration_size"] = 0.2
    recipe["model"]["preprocessor"] = {"class_path": "sklearn.preprocessing.FunctionTransformer"}
    recipe["model"]["loader"] = {"source_uri": "no_text.parquet"}
    pd.read_parquet(home / "class.parquet").drop(columns="region").to_parquet(home / "no_text.parquet", index=False)
    run = recipeline.train(recipe, settings=configured(home))
    assert 1 < trees(recipeline.load(run.artifact).model) < 100
    recipe["model"] |= {"class_path": "sklearn.ensemble.BaggingClassifier", "hyperparameters": {"estimator": spec}}
    del recipe["model"]["preprocessor"]
    (problem,) = check(draft(recipe), configured(home))
    assert problem.slug == "unusable-argument"
    assert problem.key == ("model", "hyperparameters", "estimator", "hyperparameters", word)
    assert "search the number of trees" in str(problem)


@pytest.mark.parametrize(
    ("path", "given", "kept"),
    [
        ("lightgbm.LGBMClassifier", {"verbose": 2, "deterministic": False}, {"verbosity": 2, "deterministic": False}),
        ("lightgbm.LGBMClassifier", {}, {"verbosity": -1, "deterministic": True}),
        ("catboost.CatBoostClassifier", {"logging_level": "Verbose"}, {"logging_level": "Verbose", "allow_writing_files": False}),
        ("catboost.CatBoostClassifier", {"random_seed": 7}, {"random_seed": 7, "verbose": False, "allow_writing_files": False}),
        ("catboost.CatBoostClassifier", {}, {"random_state": 42, "verbose": False, "allow_writing_files": False}),
        ("xgboost.XGBClassifier", {"seed": 7}, {"random_state": 7}),
    ],
)
def test_what_the_engine_adds_gives_way_to_the_recipe(path: str, given: dict[str, Any], kept: dict[str, Any]) -> None:
    """And to the recipe's word for it: one argument under two names is an error in these libraries."""
    from recipeline.assemble import assemble
    from recipeline.recipe import load

    recipe = load(described({"class_path": path, "hyperparameters": given}, "class", "classification"))
    _, model = assemble(recipe, settings.load(project=Path(), environ={})).pipeline()
    found = model.get_params()
    assert {name: found.get(name) for name in kept} == kept
    assert not ({"verbosity", "verbose"} <= {name for name, value in found.items() if value is not None})


ALIASES = {
    "xgboost.XGBRegressor": [
        ({"eta": 0.5}, {"learning_rate": 0.5}), ({"lambda": 40}, {"reg_lambda": 40}), ({"alpha": 9}, {"reg_alpha": 9}),
        ({"min_split_loss": 20}, {"gamma": 20}), ({"seed": 3, "subsample": 0.5}, {"random_state": 3, "subsample": 0.5}),
    ],
    "lightgbm.LGBMRegressor": [
        ({"eta": 0.5}, {"learning_rate": 0.5}), ({"lambda_l1": 9}, {"reg_alpha": 9}), ({"l2_regularization": 50}, {"reg_lambda": 50}),
        ({"num_boost_round": 3}, {"n_estimators": 3}), ({"max_leaf_nodes": 3}, {"num_leaves": 3}), ({"app": "mae"}, {"objective": "mae"}),
        ({"min_data": 60}, {"min_child_samples": 60}), ({"sub_feature": 0.4}, {"colsample_bytree": 0.4}),
        ({"bagging": 0.5, "bagging_freq": 1, "seed": 3}, {"subsample": 0.5, "subsample_freq": 1, "random_state": 3}),
    ],
    "catboost.CatBoostRegressor": [
        ({"eta": 0.2}, {"learning_rate": 0.2}), ({"num_trees": 3}, {"iterations": 3}), ({"max_depth": 2}, {"depth": 2}),
        ({"reg_lambda": 50}, {"l2_leaf_reg": 50}), ({"objective": "MAE"}, {"loss_function": "MAE"}),
        ({"random_state": 3, "rsm": 0.3}, {"random_seed": 3, "colsample_bylevel": 0.3}),
    ],
}  # fmt: skip


@pytest.mark.parametrize("path", ALIASES)
def test_an_alias_does_what_the_argument_does(path: str) -> None:
    """The predictions change, and are those of the argument: LightGBM itself ignores `eta` beside its default learning_rate."""
    from recipeline.assemble import assemble
    from recipeline.recipe import load

    library = path.partition(".")[0]
    data = houses()
    X, y = encoded(data), data["price"].to_numpy()

    def predicted(given: dict[str, Any]) -> np.ndarray:
        hyperparameters = {"n_estimators": 5, THREADS[library]: 1, **given}
        if {"num_boost_round", "num_trees", "iterations"} & set(given):
            del hyperparameters["n_estimators"]
        recipe = load(described({"class_path": path, "hyperparameters": hyperparameters}, "price", "regression"))
        _, model = assemble(recipe, settings.load(project=Path(), environ={})).pipeline()
        return np.asarray(model.fit(X, y).predict(X))

    plain = predicted({})
    for alias, own in ALIASES[path]:
        by_hand = MODELS[path](**{**QUIET[library], "random_state" if "random_seed" not in own else "random_seed": 42,
            **({} if "iterations" in own else {"n_estimators": 5}), **own})  # fmt: skip
        assert (predicted(alias) == by_hand.fit(X, y).predict(X)).all(), alias
        assert (predicted(alias) != plain).any(), alias


def test_trials_at_the_same_time_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each booster of each trial gets its part, where the recipe says nothing; at any depth."""
    import joblib

    monkeypatch.setattr(joblib, "cpu_count", lambda: 16)
    model = VotingClassifier([(name, kind()) for name, kind in MODELS.items() if "Classifier" in name])
    model.estimators.append(("own", lightgbm.LGBMClassifier(num_threads=9)))
    boosters.share_cores(model, 5)
    found = {name: one.get_params() for name, one in model.estimators}
    assert found["xgboost.XGBClassifier"]["n_jobs"] == 3
    assert found["lightgbm.LGBMClassifier"]["n_jobs"] == 3
    assert found["catboost.CatBoostClassifier"]["thread_count"] == 3
    assert (found["own"]["num_threads"], found["own"]["n_jobs"]) == (9, None)
    boosters.share_cores(model, 100)
    assert found["xgboost.XGBClassifier"]["n_jobs"] == 3  # set once


def test_names_are_changed_for_those_who_refuse_them_only() -> None:
    """Unique again, in the same order; the caller's frame keeps its names."""
    frame = pd.DataFrame(np.zeros((2, 5)), columns=["a b", "a_b", "a<b", "x[1]", "y:2"])
    assert boosters.plain_names(frame, RandomForestClassifier()) is frame
    assert boosters.plain_names(frame, catboost.CatBoostRegressor()) is frame
    assert list(boosters.plain_names(frame, xgboost.XGBRegressor()).columns) == ["a b", "a_b", "a_b_2", "x_1_", "y:2"]
    assert list(boosters.plain_names(frame, lightgbm.LGBMRegressor()).columns) == ["a_b_2", "a_b", "a<b", "x_1_", "y_2"]
    both = VotingClassifier([("x", xgboost.XGBClassifier()), ("l", lightgbm.LGBMClassifier())])
    assert list(boosters.plain_names(frame, both).columns) == ["a_b_2", "a_b", "a_b_3", "x_1_", "y_2"]
    assert list(frame.columns) == ["a b", "a_b", "a<b", "x[1]", "y:2"]
    array = frame.to_numpy()
    assert boosters.plain_names(array, xgboost.XGBRegressor()) is array


@pytest.mark.parametrize("path", [path for path in MODELS if "Regressor" in path])
def test_a_preprocessor_that_keeps_the_frame_may_keep_its_names(home: Path, path: str) -> None:
    """`FunctionTransformer` hands the columns on as they are called; the model refuses some of the names by itself."""
    spec, hand, target, task = _single(path)
    recipe = described(spec, target, task)
    recipe["model"]["preprocessor"] = {"class_path": "sklearn.preprocessing.FunctionTransformer"}
    data = houses()[["id", *FEATURES, "weight", "price"]]
    data.to_parquet(home / "numbers.parquet", index=False)
    recipe["model"]["loader"] = {"source_uri": str(home / "numbers.parquet")}
    run = recipeline.train(recipe, settings=configured(home))
    rows, _ = train_test_split(np.arange(len(data)), test_size=0.25, random_state=3)
    X = data[FEATURES].to_numpy()
    expected = hand.fit(X[rows], data["price"].to_numpy()[rows], sample_weight=data["weight"].to_numpy()[rows]).predict(X)
    assert (recipeline.load(run.artifact).predict(data)["prediction"].to_numpy() == expected).all()


# --- compositions -------------------------------------------------------------------------------------------------------


BOOSTED = {"class_path": "lightgbm.LGBMClassifier", "hyperparameters": {"n_estimators": 8, "n_jobs": 1}}
COMPOSED: dict[str, dict[str, Any]] = {
    "stacking": {
        "class_path": "sklearn.ensemble.StackingClassifier",
        "hyperparameters": {
            "estimators": [
                {"name": "cat", "estimator": {"class_path": "catboost.CatBoostClassifier", "hyperparameters": {"iterations": 8}}},
                {"name": "light", "estimator": BOOSTED},
            ],
            "final_estimator": {"class_path": "sklearn.linear_model.LogisticRegression"},
            "cv": 3,
        },
    },
    "bagging": {"class_path": "sklearn.ensemble.BaggingClassifier", "hyperparameters": {"estimator": BOOSTED, "n_estimators": 3}},
    "calibrated": {
        "class_path": "sklearn.calibration.CalibratedClassifierCV",
        "hyperparameters": {"estimator": BOOSTED, "cv": 3, "method": "isotonic"},
    },
    "columns": {
        "class_path": "sklearn.pipeline.Pipeline",
        "hyperparameters": {
            "steps": [
                {"name": "columns", "transformer": {"class_path": "sklearn.compose.ColumnTransformer", "hyperparameters": {
                    "transformers": [
                        {"name": "scaled", "transformer": {"class_path": "sklearn.preprocessing.StandardScaler"}, "columns": [0, 1]},
                        {"name": "kept", "transformer": "passthrough", "columns": [2, 3, 4]},
                    ]}}},
                {"name": "chosen", "transformer": {"class_path": "sklearn.feature_selection.SelectFromModel", "hyperparameters": {
                    "estimator": BOOSTED}}},
                {"name": "model", "estimator": {"class_path": "xgboost.XGBClassifier", "hyperparameters": {
                    "n_estimators": 8, "n_jobs": 1}}},
            ],
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("name", COMPOSED)
def test_boosters_inside_scikit_learns_compositions(home: Path, name: str) -> None:
    """Trained twice: the same bits, better than the baseline, kept without a pickle."""
    recipe = described(COMPOSED[name], "class", "classification")
    outputs = []
    for _ in range(2):
        run = recipeline.train(recipe, settings=configured(home))
        assert json.loads((run.artifact / "parts" / "model" / "part.json").read_text())["format"] == "skops"
        assert run.metrics["log_loss"] < run.baselines["dummy"]["log_loss"]
        outputs.append(recipeline.load(run.artifact).predict(houses()))
    pd.testing.assert_frame_equal(*outputs, check_exact=True)


def families(n_trials: int) -> dict[str, Any]:
    """The whole estimator is the choice."""
    choices = [
        {"class_path": "sklearn.linear_model.LogisticRegression", "hyperparameters": {
            "C": {"type": "float", "low": 0.01, "high": 10, "log": True, "default": 1.0}, "max_iter": 500}},
        {"class_path": "sklearn.ensemble.RandomForestClassifier", "hyperparameters": {
            "n_estimators": 10, "max_depth": {"type": "int", "low": 2, "high": 6}}},
        {"class_path": "xgboost.XGBClassifier", "hyperparameters": {
            "n_estimators": 10, "n_jobs": 1, "eta": {"type": "float", "low": 0.1, "high": 0.6},
            "max_depth": {"type": "int", "low": 1, "high": 4}}},
    ]  # fmt: skip
    step = {"name": "model", "estimator": {"type": "categorical", "choices": choices}}
    return described(
        {"class_path": "sklearn.pipeline.Pipeline", "hyperparameters": {"steps": [step]}, "data_interface": {
            "task_type": "classification", "target_col": "class", "entity_cols": ["id"]}}, "class", "classification",
        rest={"hyperparameter_tuning": {"enabled": True, "n_trials": n_trials, "metric": "log_loss", "folds": 3}},
    )  # fmt: skip


def test_a_search_over_families_keeps_the_best_of_them(home: Path) -> None:
    """Names one can read, only the ranges of the family that was tried, the best trial's family in the artifact, and the report."""
    run = recipeline.train(families(24), settings=settings.load(project=home, environ={}))
    hpo = json.loads((run.artifact / "hpo.json").read_text())
    complete = [trial for trial in hpo["optimization_history"] if trial["state"] == "complete"]
    own = {
        "LogisticRegression": {"C"},
        "RandomForestClassifier": {"max_depth"},
        "XGBClassifier": {"eta", "max_depth"},
    }  # fmt: skip
    for trial in hpo["optimization_history"]:
        family = trial["params"]["model"]
        assert set(trial["params"]) - {"model"} <= {f"model.{family}.{name}" for name in own[family]}
    assert {trial["params"]["model"] for trial in complete} == set(own)
    best = min(complete, key=lambda trial: trial["value"])
    assert run.best_params == best["params"]
    (step,) = recipeline.load(run.artifact).model.steps
    assert step[0] == "model"
    assert type(step[1]).__name__ == best["params"]["model"]
    for name, value in best["params"].items():
        if name != "model":
            own_word = {"eta": "learning_rate"}.get(name.rpartition(".")[2], name.rpartition(".")[2])
            assert step[1].get_params()[own_word] == value
    assert hpo["importances"]
    assert set(hpo["importances"]) <= {"model"} | {f"model.{family}.{name}" for family, names in own.items() for name in names}
    text = (run.artifact / "report.html").read_text()
    assert "Trials through their parameters" in text
    assert "What mattered" in text
    again = recipeline.train(families(24), settings=configured(home))
    assert again.best_params == run.best_params
    assert again.metrics == run.metrics


def test_pruning_stops_poor_boosters(home: Path) -> None:
    """The clock is the mean after each inner fold; stopped trials are counted and none of them wins."""
    spec, _, target, task = _single("lightgbm.LGBMClassifier")
    spec["hyperparameters"]["learning_rate"] = {"type": "float", "low": 0.0001, "high": 0.5, "log": True, "default": 0.1}
    pruning = {"enabled": True, "algorithm": "MedianPruner", "n_startup_trials": 3}
    tuning = {"enabled": True, "n_trials": 12, "metric": "log_loss", "folds": 4, "pruning": pruning}
    run = recipeline.train(described(spec, target, task, rest={"hyperparameter_tuning": tuning}), settings=configured(home))
    hpo = json.loads((run.artifact / "hpo.json").read_text())
    states = [trial["state"] for trial in hpo["optimization_history"]]
    assert hpo["pruned_trials"] == states.count("pruned") >= 2
    assert "pruned" not in states[:3]
    assert hpo["notes"] == []


def test_trials_in_threads_give_a_result_too(home: Path) -> None:
    """Three at a time, with all three libraries."""
    recipe = families(9)
    run = recipeline.train(recipe, settings=configured(home, "hyperparameter_tuning.parallelization.n_jobs=3"))
    assert json.loads((run.artifact / "hpo.json").read_text())["total_trials"] == 9
    assert run.metrics["log_loss"] < run.baselines["dummy"]["log_loss"]


# --- what is not installed ------------------------------------------------------------------------------------------------


ABSENT = """
import sys
import importlib.abc, importlib.machinery
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {library!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.partition(".")[0] == {library!r} else real(name, package)
from recipeline.cli import main
sys.exit(main(sys.argv[1:]))
"""
BROKEN = """
import ctypes, sys
class Without(ctypes.CDLL):
    def __init__(self, name, *rest, **more):
        if {library!r} in str(name):
            raise OSError("libgomp.so.1: cannot open shared object file: No such file or directory")
        super().__init__(name, *rest, **more)
ctypes.CDLL = Without
ctypes.cdll = ctypes.LibraryLoader(Without)
from recipeline.cli import main
sys.exit(main(sys.argv[1:]))
"""


def _validated(home: Path, program: str, path: str) -> Any:
    (home / "missing.yaml").write_text(json.dumps(described({"class_path": path}, "class", "classification"), indent=1))
    command = [sys.executable, "-c", program, "validate", "--recipe-file", "missing.yaml", "--json"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 3, done
    assert "Traceback" not in done.stderr
    (error,) = json.loads(done.stdout.splitlines()[-1])["errors"]
    assert error["slug"] == "missing-library"
    assert "pip install 'recipeline[boosting]'" in error["message"]
    return error


@pytest.mark.parametrize("path", [path for path in MODELS if "Classifier" in path])
def test_a_library_that_is_absent_names_its_extra(home: Path, path: str) -> None:
    """Exit 3, the line to type, and where the recipe asks for it."""
    error = _validated(home, ABSENT.format(library=path.partition(".")[0]), path)
    assert error["key"] == "model.class_path"


@pytest.mark.parametrize("path", [path for path in MODELS if "Classifier" in path and "catboost" not in path])
def test_a_system_library_that_is_absent_is_said(home: Path, path: str) -> None:
    """Without libgomp, LightGBM and XGBoost are there and cannot be loaded; CatBoost brings its own."""
    error = _validated(home, BROKEN.format(library=f"lib_{path[:8]}" if "light" in path else "libxgboost"), path)
    assert f"{path.partition('.')[0]} cannot be loaded: libgomp.so.1: cannot open shared object file" in error["message"]
    assert "install that system library" in error["message"]
    assert sys.prefix not in error["message"]
