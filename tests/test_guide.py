"""The developer guide, typed as it stands: every block of `tests/guide/blocks.md`, on small data that fit it.

Blocks that show a part of a recipe are laid into a small whole one; commands are taken apart by a real shell. What the guide
names and this project does otherwise stands in `INSTEAD`, with the reason.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import yaml

import recipeline
from answers import Answer
from crashing import Nursery, Started
from recipeline import registry, settings, tracking
from recipeline.errors import Refused

pytestmark = [
    pytest.mark.xdist_group("guide"),  # one project for all blocks
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

PROJECT = Path(__file__).parents[1]


def _blocks() -> dict[str, str]:
    """`3.1/1` -> the text of the first block of section 3.1."""
    found: dict[str, str] = {}
    section, count, lines = "", 0, None
    for line in (PROJECT / "tests" / "guide" / "blocks.md").read_text(encoding="utf-8").splitlines():
        if lines is None and line.startswith("## "):
            section, count = line.removeprefix("## "), 0
        elif line.startswith("```"):
            if lines is None:
                lines, count = [], count + 1
            else:
                found[f"{section}/{count}"] = "\n".join(lines) + "\n"
                lines = None
        elif lines is not None:
            lines.append(line)
    return found


BLOCKS = _blocks()
INSTEAD = {
    "9.2/1": "the commands of Feast, Redis and PostgreSQL themselves, against the services of DEV",
    "10.2/2": "gunicorn with recipeline.serve:app() for serving.api:app: tests/test_serve.py starts it",
}
"""Blocks that are not typed here, and where what they are for is."""

_typed: dict[str, str] = {}


def types(*blocks: str) -> Callable[[Any], Any]:
    """Says which blocks a test types, so that none is forgotten."""

    def mark(test: Any) -> Any:
        _typed.update(dict.fromkeys(blocks, test.__name__))
        return test

    return mark


# --- a shell, and a project --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A program that a block starts, as the shell hands it over."""

    program: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]


SHIM = """#!{python} -I
import json, os, sys
names = ("APP_ENV", "LOG_LEVEL", "BATCH_SIZE")
call = [os.path.basename(sys.argv[0]), sys.argv[1:], {{name: os.environ[name] for name in names if name in os.environ}}]
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(call) + "\\n")
"""


class Place:
    """A project folder with data for the guide's recipes."""

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        self.folder, self.nursery = folder, nursery
        self.runs: dict[str, recipeline.Run] = {}

    def shell(self, text: str, **variables: str) -> list[Call]:
        """What a block of commands starts, taken apart by bash; the prose under it is cut off."""
        shims, calls = self.folder / "shims", self.folder / "calls"
        if not shims.is_dir():
            shims.mkdir()
            for name in ("uv", "git", "docker-compose", "mlflow"):
                (shims / name).write_text(SHIM.format(python=sys.executable))
                (shims / name).chmod(stat.S_IRWXU)
        calls.write_text("")
        environ = {"PATH": f"{shims}:{os.environ['PATH']}", "CALLS": str(calls), **variables}
        commands = text.partition("특징:")[0]
        subprocess.run(["bash", "-c", commands], cwd=self.folder, env=environ, check=False, capture_output=True)
        return [Call(program, tuple(given), found) for program, given, found in map(json.loads, calls.read_text().splitlines())]

    def recipe(self, name: str, document: Any) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document if isinstance(document, str) else yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        return path

    def settings(self, *overrides: str) -> settings.Settings:
        return settings.load(project=self.folder, overrides=["execution.report=false", *overrides])

    def train(self, name: str, document: Any, *overrides: str, params: Mapping[str, Any] | None = None) -> recipeline.Run:
        """A recipe in a file of the project, trained through the library."""
        return recipeline.train(self.recipe(name, document), settings=self.settings(*overrides), params=params)

    @contextlib.contextmanager
    def serving(self, *arguments: str) -> Iterator[str]:
        """The address of `serve-api`, on a port that is free."""
        server = self.nursery.start(self.folder, *arguments, "--set", "api_serving.enabled=true")
        try:
            yield _address(server)
        finally:
            assert self.nursery.stop(server) in (0, 143)


def _address(server: Started) -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if found := re.search(r"http://127\.0\.0\.1:[1-9][0-9]*", server.out.read_text()):
            return found.group()
        time.sleep(0.02)
    raise AssertionError(server.err.read_text())


def hpo(run: recipeline.Run) -> Any:
    return json.loads((run.artifact / "hpo.json").read_text())


def people(n: int = 240) -> pd.DataFrame:
    """A row for every column that the guide names."""
    random = np.random.default_rng(4)
    frame = pd.DataFrame(
        {
            "user_id": [f"user{at % 120}" for at in range(n)],
            "session_id": np.arange(n),
            "event_timestamp": pd.date_range("2023-12-01", periods=n, freq="3h"),
            "age": random.integers(18, 80, n),
            "income": random.normal(3000, 500, n),
            "purchase_history": random.integers(0, 40, n),
            "category": random.choice(["book", "toy", "food"], n),
            "brand": random.choice(["acme", "apex"], n),
            "region": random.choice(["north", "south"], n),
            "price": random.lognormal(3, 1, n),
            "rating": np.where(random.random(n) < 0.1, np.nan, random.uniform(1, 5, n)),
            "reviews": random.integers(0, 500, n),
        }
    )
    score = (frame["age"] - 50) / 15 + (frame["category"] == "toy") + random.normal(size=n)
    frame["target"] = (score > 0.3).astype(int)
    return frame


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, empty_store: Path, nursery: Nursery) -> Place:
    """The project, once."""
    folder = tmp_path_factory.mktemp("guide") / "project"
    shutil.copytree(PROJECT / "config", folder / "config")
    shutil.copy(PROJECT / "main.py", folder)
    shutil.copy(empty_store, folder / "mlflow.db")
    (folder / "config" / "local.local.yaml").write_text(
        "data_adapters: {adapters: {sql: {class_name: SqlAdapter, config: {connection_uri: 'sqlite:///data/guide.sqlite'}}}}\n"
        "execution: {report: false}\n"
    )
    (folder / "data").mkdir()
    frame = people()
    frame.drop(columns=["category", "brand", "region", "rating"]).to_parquet(folder / "data" / "classification_dataset.parquet")
    plain = frame[["age", "income", "reviews", "target"]]
    for name in ("dataset", "local_file"):
        plain.to_parquet(folder / "data" / f"{name}.parquet")
    frame.drop(columns=["user_id", "session_id", "event_timestamp"]).to_parquet(folder / "data" / "people.parquet")
    connection = sqlite3.connect(folder / "data" / "guide.sqlite")
    plain.to_sql("large_table", connection, index=False)
    events = frame[["user_id", "session_id"]].assign(
        event_timestamp=frame["event_timestamp"].astype(str), event_date=frame["event_timestamp"].dt.strftime("%Y-%m-%d"),
        event_type="purchase", total_spent=frame["price"] * 25,
        date="2024-01-01", feature1=frame["age"], feature2=frame["income"], feature3=frame["price"],
        conversion=frame["target"], revenue=frame["income"] + frame["age"],
    )  # fmt: skip
    events.to_sql("user_events", connection, index=False)
    events.to_sql("events", connection, index=False)
    columns = ["user_id", "age", "income", "purchase_history"]
    frame[columns].assign(
        event_timestamp=frame["event_timestamp"].astype(str), user_id=[f"user{at % 4}" for at in range(len(frame))]
    ).to_sql("feature_table", connection, index=False)
    connection.close()
    return Place(folder, nursery)


@pytest.fixture
def place(made: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The project, as the current directory and without variables of this shell."""
    monkeypatch.chdir(made.folder)
    for name in list(os.environ):
        if name.startswith("RECIPELINE__") or name in {"APP_ENV", "BATCH_SIZE", "LOG_LEVEL"}:
            monkeypatch.delenv(name)
    return made


@pytest.fixture
def main(place: Place, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """`uv run python main.py …` of a block, by the same `main` in this process, with the variables that the shell gave it."""
    from recipeline.cli import main as command

    def run(call: Call, *more: str) -> Answer:
        assert (call.program, call.arguments[:3]) == ("uv", ("run", "python", "main.py"))
        capfd.readouterr()
        with monkeypatch.context() as environment:
            for name, value in call.environment.items():
                environment.setenv(name, value)
            code = command([*call.arguments[3:], *more])
        captured = capfd.readouterr()
        return Answer(code, captured.out, captured.err)

    return run


CLASSES: dict[str, Any] = {
    "name": "guide",
    "model": {
        "class_path": "sklearn.linear_model.LogisticRegression",
        "hyperparameters": {"max_iter": 1000},
        "loader": {"name": "default_loader", "source_uri": "data/dataset.parquet"},
        "preprocessor": {"name": "default_preprocessor", "params": {"numerical_strategy": "standard"}},
        "data_interface": {"task_type": "classification", "target_col": "target"},
    },
    "evaluation": {"metrics": ["accuracy"], "validation": {"method": "train_test_split", "random_state": 42}},
}


def laid_into(block: str, base: Mapping[str, Any] = CLASSES, **changes: Any) -> dict[str, Any]:
    """A part of a recipe, as the guide shows it, in a whole one; `changes` are laid over `model`."""

    def over(below: Any, above: Any) -> Any:
        if not isinstance(below, Mapping) or not isinstance(above, Mapping):
            return above
        return {**below, **{name: over(below.get(name), value) for name, value in above.items()}}

    shown = yaml.safe_load(block)
    found = over(over(copy.deepcopy(dict(base)), {"model": changes}), shown)
    for name in ("hyperparameters", "preprocessor"):  # arguments of another class than the block's
        if name in shown.get("model", {}):
            found["model"][name] = shown["model"][name]
    if "class_path" in shown.get("model", {}) and "hyperparameters" not in shown["model"]:
        found["model"].pop("hyperparameters", None)
    assert isinstance(found, dict)
    return found


# --- 2. environments ---------------------------------------------------------------------------------------------------------


@types("2.1/1")
def test_local_trains_at_once(place: Place, tmp_path: Path) -> None:
    """The line itself, in a real shell and a process of its own; `uv run` is taken for the environment that is active."""
    place.recipe("recipes/my_model.yaml", CLASSES)
    (tmp_path / "uv").write_text(f'#!/bin/sh\nshift 2\nexec "{sys.executable}" "$@"\n')
    (tmp_path / "uv").chmod(stat.S_IRWXU)
    line = BLOCKS["2.1/1"].partition("특징:")[0]
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-ec", line], cwd=place.folder, env=environ, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in done.stdout + done.stderr


@types("2.2/1")
def test_dev_trains_and_keeps_the_run_where_the_server_is_away(
    place: Place, main: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    """Our own stack replaces the clone; nothing of it is needed to train from a file, and no run is lost without it."""
    place.recipe("recipes/my_model.yaml", CLASSES)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port}")
    clone, train = place.shell(BLOCKS["2.2/1"])
    assert clone.program == "git"  # the shell stops there: `cd ../mmp-local-dev` finds nothing
    assert train.environment == {"APP_ENV": "dev"}
    answer = main(train, "--json")
    assert answer.code == 0, answer
    assert answer.json["metrics"]["accuracy"] > 0.5
    listed = main(Call("uv", ("run", "python", "main.py", "list", "runs"), {"APP_ENV": "dev"}))
    assert answer.json["run_id"][:8] in listed.out + listed.err


@pytest.fixture
def free_port() -> int:
    """Of this machine, where nobody listens."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


@types("2.3/1", "8.1/1")
def test_prod_says_what_it_needs(place: Place, main: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of a deployment: LOCAL trains, DEV and PROD name the variable or the store that they miss, exit 3."""
    place.recipe("recipes/my_model.yaml", CLASSES)
    (alone,) = place.shell(BLOCKS["2.3/1"])
    local, dev, prod, serve = place.shell(BLOCKS["8.1/1"])
    assert alone == prod
    assert [call.environment["APP_ENV"] for call in (local, dev, prod, serve)] == ["local", "dev", "prod", "prod"]
    assert serve.arguments[3:] == ("serve-api", "--run-id", "prod-run-id")
    assert main(local).code == 0
    for call, variable in ((prod, "MLFLOW_TRACKING_URI"), (serve, "RECIPELINE_API_KEY_SHA256")):
        answer = main(call)
        assert answer.code == 3, answer
        assert f"the environment variable {variable} is not set" in answer.err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    answer = main(prod)
    assert answer.code == 3, answer
    assert "mlflow.tracking_uri" in answer.err
    refused = main(Call("uv", serve.arguments, {"APP_ENV": "local"}))
    assert refused.code == 4, refused
    assert "api_serving.enabled" in refused.err


# --- 3. recipes --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tuned(place: Place) -> recipeline.Run:
    """The recipe of 3.1, letter by letter; the place allows its search two seconds of the fifty trials."""
    if "3.1" not in place.runs:
        place.runs["3.1"] = place.train(
            "recipes/models/classification/my_classifier.yaml", BLOCKS["3.1/1"], "hyperparameter_tuning.timeout=2"
        )
    return place.runs["3.1"]


@types("3.1/1")
def test_the_whole_recipe_trains(place: Place, tuned: recipeline.Run) -> None:
    """Columns that exclude_cols names are no features, ranges are searched, the five metrics are reported."""
    assert set(tuned.metrics) == {"accuracy", "precision", "recall", "f1", "roc_auc"}
    assert set(tuned.best_params) <= {"max_depth", "min_samples_split"}
    assert 1 <= hpo(tuned)["total_trials"] <= 50
    features = set(recipeline.load(tuned.artifact).preprocessor.get_feature_names_out())
    assert not features & {"user_id", "event_timestamp", "target"}
    assert {"age", "income"} <= features


def _paths(key: str) -> list[str]:
    return re.findall(r'class_path: "([^"]+)"', BLOCKS[key])


@types("3.2/1", "3.2/2")
@pytest.mark.parametrize("path", [*_paths("3.2/1"), *_paths("3.2/2")])
def test_a_listed_class_trains_and_predicts(place: Place, path: str) -> None:
    """scikit-learn's and the boosters', with the arguments they have by themselves."""
    classifies = path.endswith(("Classifier", "SVC", "NB", "LogisticRegression"))
    changes: dict[str, Any] = {"class_path": path}
    if not classifies:
        changes["data_interface"] = {"task_type": "regression", "target_col": "income"}
    document = laid_into(f"model: {{class_path: {path}}}", **changes)
    document["evaluation"]["metrics"] = ["accuracy" if classifies else "r2"]
    run = place.train("recipes/listed.yaml", document)
    assert len(run.metrics) == 1
    rows = pd.read_parquet(place.folder / "data" / "dataset.parquet").head(7)
    assert len(recipeline.load(run.artifact).predict(rows)) == 7


@types("3.2/3")
@pytest.mark.parametrize("path", _paths("3.2/3"))
def test_a_listed_class_of_causalml_trains_or_names_the_nearest(place: Place, path: str) -> None:
    """Two of the three are called otherwise in CausalML: the answer has the nearest name that it has."""
    frame = pd.read_parquet(place.folder / "data" / "dataset.parquet")
    frame["offered"] = np.random.default_rng(5).integers(0, 2, len(frame))
    frame.to_parquet(place.folder / "data" / "offers.parquet")
    interface = {"task_type": "causal", "target_col": "target", "treatment_col": "offered"}
    document = laid_into(f"model: {{class_path: {path}}}", loader={"source_uri": "data/offers.parquet"}, data_interface=interface)
    del document["evaluation"]["metrics"]
    if path.endswith("XGBTRegressor"):
        run = place.train("recipes/causal.yaml", document)
        assert run.metrics
        assert len(recipeline.load(run.artifact).predict(frame.head(5))) == 5
        return
    with pytest.raises(recipeline.RecipelineError, match=r"did you mean causalml\.inference\.meta\.\w+") as refused:
        place.train("recipes/causal.yaml", document)
    assert refused.value.code == 3


# --- 4. SQL templates --------------------------------------------------------------------------------------------------------


def _spine(place: Place, key: str) -> str:
    """The template, in the file that its first line names."""
    text = BLOCKS[key]
    name = text.partition("\n")[0].removeprefix("-- ")
    place.recipe(name, text)
    return name


@types("4.1/1", "4.1/2")
def test_a_template_is_rendered_with_the_parameters_of_the_command(place: Place, main: Callable[..., Answer]) -> None:
    """Its defaults, its LIMIT, and the command as the comment in the recipe has it; then again for another week."""
    assert _spine(place, "4.1/1") == "recipes/sql/user_behavior_spine.sql.j2"
    block = BLOCKS["4.1/2"]
    interface = {"entity_cols": ["user_id"], "timestamp_col": "event_timestamp"}
    place.recipe("recipes/models/classification/templated_model.yaml", laid_into(block, data_interface=interface))
    commented = "\n".join(line.removeprefix("# ") for line in block.partition("# CLI")[2].splitlines()[1:])
    (call,) = place.shell(commented)
    answer = main(call, "--json")
    assert answer.code == 0, answer
    rows = pd.read_parquet(Path(answer.json["artifact"]) / "tables" / "predictions.parquet")
    assert rows["user_id"].str.startswith("user").all()
    other = json.dumps({"target_date": "2024-01-07", "end_date": "2023-12-15"})
    batch = Call("uv", (*call.arguments[:3], "batch-inference", "--run-id", answer.json["run_id"], "--context-params", other), {})
    output = main(batch, "--output", "out/week.parquet", "--json")
    assert output.code == 0, output
    assert output.json["rows"] == 15 * 8  # days of events, eight a day


@types("4.2/1", "4.2/2", "4.2/3")
def test_conditions_and_loops_are_rendered(place: Place, main: Callable[..., Answer]) -> None:
    """The one command of the guide, for each of its two templates; what a template does not use is a warning."""
    (call,) = place.shell(BLOCKS["4.2/3"])
    conditional = laid_into("model: {}", loader={"source_uri": _spine(place, "4.2/1")}, data_interface={"entity_cols": ["user_id"]})
    conditional["model"]["data_interface"]["timestamp_col"] = "event_timestamp"
    place.recipe("recipes/templated_advanced.yaml", conditional)
    answer = main(call, "--json")
    assert answer.code == 0, answer
    assert "does not use the parameters features, user_ids" in answer.err
    features = recipeline.load(answer.json["run_id"], settings=place.settings()).schema.features
    assert features == ("session_id", "feature1", "feature2", "feature3")
    looped = laid_into("model: {}", {**CLASSES, "evaluation": {"metrics": ["r2"]}}, loader={"source_uri": _spine(place, "4.2/2")})
    looped["model"] |= {
        "class_path": "sklearn.linear_model.Ridge",
        "hyperparameters": {},
        "data_interface": {
            "task_type": "regression", "target_col": "purchase_history", "entity_cols": ["user_id"], "timestamp_col": "event_timestamp"
        },
    }  # fmt: skip
    place.recipe("recipes/templated_advanced.yaml", looped)
    answer = main(call, "--json")
    assert answer.code == 0, answer
    split = json.loads((Path(answer.json["artifact"]) / "split.json").read_text())
    assert split["rows"] == 180  # of user1, user2 and user3 of four


# --- 5. adapters -------------------------------------------------------------------------------------------------------------


def _configuration(key: str) -> dict[str, str]:
    """The files of a block of configuration, which a comment begins: `config/dev.yaml` -> its text."""
    pieces = re.split(r"^# (config/\w+\.yaml)[^\n]*\n", BLOCKS[key], flags=re.MULTILINE)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


@pytest.fixture
def configured(tmp_path: Path) -> Callable[[Mapping[str, str]], Path]:
    """A project whose configuration is that of a block, and a recipe with data."""

    def lay(files: Mapping[str, str]) -> Path:
        folder = tmp_path / "configured"
        for name, text in {"config/base.yaml": "", "config/local.yaml": "", **files}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        people(60)[["age", "income", "target"]].to_parquet(folder / "rows.parquet")
        return folder

    return lay


@types("5.1/1")
@pytest.mark.parametrize("uri", re.findall(r'"(\w+://[^"]+)"', BLOCKS["5.1/1"]))
def test_a_database_of_the_guide_is_configured_and_refused_in_words(configured: Callable[..., Path], uri: str) -> None:
    """It is valid configuration; this version opens SQLite and says so, exit 3, and never shows the password."""
    block = re.sub(r'connection_uri: "[^"]+"', f'connection_uri: "{uri}"', BLOCKS["5.1/1"])
    folder = configured({"config/base.yaml": block})
    found = settings.load(project=folder, environ={})
    assert found.data_adapters.adapters["sql"].class_name == "SqlAdapter"
    assert ":pass@" not in json.dumps(found.public())
    document = laid_into("model: {loader: {source_uri: SELECT * FROM events}}")
    with pytest.raises(recipeline.RecipelineError, match="databases are not opened by this version") as refused:
        recipeline.train(document, settings=found)
    assert (refused.value.code, ":pass@" in str(refused.value)) == (3, False)


@types("5.2/1", "5.2/2")
def test_files_of_every_scheme_are_addressed(place: Place, configured: Callable[..., Path]) -> None:
    """`file://` from the project; buckets only where the configuration names them as roots."""
    assert place.train("recipes/local_file.yaml", laid_into(BLOCKS["5.2/2"])).metrics["accuracy"] > 0.5
    found = settings.load(project=configured({"config/base.yaml": BLOCKS["5.2/1"]}), environ={})
    for uri in re.findall(r'# source_uri: "([^"]+)"', BLOCKS["5.2/2"]):
        with pytest.raises(Refused, match="roots") as refused:
            recipeline.train(laid_into(f"model: {{loader: {{source_uri: '{uri}'}}}}"), settings=found)
        assert refused.value.code == 4


@types("5.3/1", "5.3/2")
def test_a_feature_store_is_configured_and_refused_in_words(place: Place, configured: Callable[..., Path]) -> None:
    """LOCAL refuses it with the two ways out; the three configurations are valid, and Feast's `postgresql` means `postgres`."""
    with pytest.raises(recipeline.RecipelineError, match="feature_store is switched off in LOCAL") as refused:
        place.train("recipes/feature_store_model.yaml", laid_into(BLOCKS["5.3/1"]))
    assert refused.value.code == 3
    assert "APP_ENV=dev" in str(refused.value)
    assert "feature_store.enabled: true" in str(refused.value)
    folder = configured(_configuration("5.3/2"))
    stores = {}
    for name in ("local", "dev", "prod"):
        feast = settings.load(project=folder, environment=name, environ={}).feature_store.feast_config
        stores[name] = (feast["offline_store"]["type"], feast["online_store"]["type"])
    assert stores == {"local": ("file", "sqlite"), "dev": ("postgres", "redis"), "prod": ("bigquery", "redis")}


# --- 6. search ---------------------------------------------------------------------------------------------------------------


@types("6.1/1", "6.1/2")
def test_a_search_is_of_the_recipe_and_its_limits_of_the_place(place: Place, configured: Callable[..., Path]) -> None:
    """A hundred trials if two seconds allow them; the limits of the two configurations are read."""
    document = laid_into(BLOCKS["6.1/1"], class_path="xgboost.XGBClassifier")
    document["evaluation"]["metrics"] = ["roc_auc"]
    run = place.train("recipes/hpo_model.yaml", document, "hyperparameter_tuning.timeout=2")
    assert 1 <= hpo(run)["total_trials"] <= 100
    assert set(run.best_params) <= {"n_estimators", "max_depth", "learning_rate", "subsample"}
    folder = configured(_configuration("6.1/2"))
    dev, prod = (settings.load(project=folder, environment=name, environ={}).hyperparameter_tuning for name in ("dev", "prod"))
    assert (dev.timeout, prod.timeout, prod.parallelization.n_jobs) == (600, 7200, 8)


@types("6.2/1", "6.2/2")
def test_a_search_is_tracked_under_the_guides_names(place: Place, tuned: recipeline.Run) -> None:
    """Metrics and parameters of the run in MLflow, and the whole search in the loaded model's wrapper."""
    import mlflow

    (found,) = [one for one in tracking.list_runs(place.settings()) if one.run_id == tuned.id]
    figures = re.findall(r"^- (\w+):", BLOCKS["6.2/1"].partition("# 자동 로깅되는 하이퍼파라미터")[0], flags=re.MULTILINE)
    assert figures == ["best_score", "total_trials", "optimization_time", "pruned_trials"]
    assert set(figures) <= set(found.metrics)
    mlflow.set_tracking_uri(f"sqlite:///{place.folder / 'mlflow.db'}")
    params = mlflow.get_run(tuned.id).data.params
    for name, value in tuned.best_params.items():
        assert any(key.endswith(name) and params[key] == str(value) for key in params), params
    wrapper = mlflow.pyfunc.load_model(f"runs:/{tuned.id}/model").unwrap_python_model()
    search = wrapper.hyperparameter_optimization
    named = set(re.findall(r'^    "(\w+)":', BLOCKS["6.2/2"], flags=re.MULTILINE))
    assert len(named) == 8
    assert named <= set(search)
    assert (search["enabled"], search["engine"], search["best_params"]) == (True, "optuna", dict(tuned.best_params))


# --- 7. patterns -------------------------------------------------------------------------------------------------------------


@types("7.1/1")
def test_several_targets(place: Place) -> None:
    """A search inside of the estimator that is inside; one column of output for each target."""
    frame = pd.read_parquet(place.folder / "data" / "dataset.parquet").drop(columns="target")
    for at in (1, 2, 3):
        frame[f"target{at}"] = frame["age"] * at + frame["income"] / 100
    frame.to_parquet(place.folder / "data" / "targets.parquet")
    document = laid_into(BLOCKS["7.1/1"], loader={"source_uri": "data/targets.parquet"})
    document["evaluation"]["metrics"] = ["r2"]
    document["hyperparameter_tuning"] = {"enabled": True, "n_trials": 2, "folds": 2}
    run = place.train("recipes/multi_task_model.yaml", document)
    assert set(run.best_params) == {"estimator.n_estimators"}
    assert run.metrics["r2"] > 0.8
    assert list(recipeline.load(run.artifact).predict(frame.head(3)).columns) == [f"prediction_target{at}" for at in (1, 2, 3)]


@types("7.2/1")
@pytest.mark.parametrize("outliers", ["iqr", "zscore", "isolation_forest"])
def test_a_preprocessor_of_ones_own(place: Place, outliers: str) -> None:
    """Every strategy that its comments name."""
    for categories in ("onehot", "label", "target"):
        for missing in ("mean", "median", "mode", "drop"):
            block = (
                BLOCKS["7.2/1"].replace('"iqr"', f'"{outliers}"').replace('"onehot"', f'"{categories}"').replace('"median"', f'"{missing}"')
            )
            numbers = {"onehot": "standard", "label": "minmax", "target": "robust"}[categories]
            block = block.replace('"standard"', f'"{numbers}"')
            forest = {"class_path": "sklearn.ensemble.RandomForestClassifier", "hyperparameters": {"n_estimators": 20, "max_iter": None}}
            document = laid_into(block, loader={"source_uri": "data/people.parquet"}, **forest)
            del document["model"]["hyperparameters"]["max_iter"]
            problems = recipeline.load_recipe(document).draft().problems
            assert not problems
            if missing == {"onehot": "median", "label": "drop", "target": "mean"}[categories]:
                assert place.train("recipes/custom_preprocessing.yaml", document).metrics["accuracy"] > 0.5


@types("7.3/1")
def test_an_ensemble(place: Place) -> None:
    """A forest and a booster that vote; both are searched inside, by their names."""
    document = laid_into(BLOCKS["7.3/1"])
    document["hyperparameter_tuning"] = {"enabled": True, "n_trials": 2, "folds": 2}
    run = place.train("recipes/ensemble_model.yaml", document)
    assert set(run.best_params) == {"rf.n_estimators", "xgb.n_estimators"}
    assert [name for name, _ in recipeline.load(run.artifact).model.estimators] == ["rf", "xgb"]


# --- 8. deployment -----------------------------------------------------------------------------------------------------------


@types("8.2/1")
def test_a_weekly_judgement(place: Place, main: Callable[..., Answer]) -> None:
    """Last week's parameters for a template that has one; without `--output` the command chooses a place of its own."""
    place.recipe("recipes/sql/weekly.sql.j2", "SELECT age, income, reviews, target, '{{ evaluation_date }}' AS day FROM large_table\n")
    place.train(
        "recipes/weekly.yaml",
        laid_into("model: {loader: {source_uri: sql/weekly.sql.j2}}"),
        params={"evaluation_date": "2024-01-01"},
    )
    (call,) = place.shell(BLOCKS["8.2/1"])
    assert call.arguments[5] == "latest-model"
    named = Call("uv", (*call.arguments[:5], "latest", *call.arguments[6:]), {})
    answer = main(named, "--json")
    assert answer.code == 0, answer
    assert answer.json["rows"] == 240
    assert main(call).code == 5  # there is no run of that name


@types("8.2/2")
def test_two_models_beside_each_other(place: Place, tuned: recipeline.Run) -> None:
    """A on one port, B on another; each says which run answers."""
    other = place.train("recipes/other.yaml", laid_into("model: {loader: {source_uri: data/classification_dataset.parquet}}",
                        preprocessor={"params": {"exclude_cols": ["user_id", "event_timestamp"]}}))  # fmt: skip
    one, two = place.shell(BLOCKS["8.2/2"], MODEL_A_RUN_ID=tuned.id, MODEL_B_RUN_ID=other.id)
    assert [call.arguments[-1] for call in (one, two)] == ["8000", "8001"]
    record = json.loads(
        pd.read_parquet(place.folder / "data" / "classification_dataset.parquet").drop(columns="target").head(1).to_json(orient="records")
    )
    record[0]["event_timestamp"] = "2023-12-01T00:00:00"
    arguments = [[*call.arguments[3:-1], "0"] for call in (one, two)]  # ports that are free here
    with place.serving(*arguments[0]) as a, place.serving(*arguments[1]) as b:
        assert a != b
        for address, run in ((a, tuned), (b, other)):
            answer = httpx.post(f"{address}/predict", json=record, timeout=30)
            assert answer.status_code == 200, answer.text
            assert answer.json()["run_id"] == run.id


# --- 9. trouble --------------------------------------------------------------------------------------------------------------


@types("9.1/1")
def test_the_log_level_of_the_shell(place: Place, main: Callable[..., Answer]) -> None:
    """LOG_LEVEL=DEBUG says more, and shows the traceback of a failure."""
    detailed = laid_into("model: {preprocessor: {name: default_preprocessor, params: {outlier_detection: true}}}")
    place.recipe("recipes/my_model.yaml", detailed)
    (call,) = place.shell(BLOCKS["9.1/1"])
    assert call.environment == {"LOG_LEVEL": "DEBUG"}
    try:
        answer = main(call)
        assert answer.code == 0, answer
        assert re.search(r"DEBUG +recipeline .* fitting uses \d+ of 192 rows", answer.err)
        assert not re.search(r"\b(SELECT|INSERT)\b", answer.err)  # more, but no statement with its values
        place.recipe("recipes/my_model.yaml", laid_into("model: {data_interface: {target_col: nothing}}"))
        failed = main(call)
    finally:
        logging.getLogger("recipeline").setLevel(logging.NOTSET)
    assert failed.code == 5
    assert "Traceback" in failed.err
    assert "Traceback" not in main(Call("uv", call.arguments, {})).err


@types("9.1/2")
def test_a_sample_by_an_inline_query(place: Place) -> None:
    """A SELECT as the source; `n_trials` alone, without `enabled`, searches nothing."""
    run = place.train("recipes/sample.yaml", laid_into(BLOCKS["9.1/2"]))
    assert run.metrics["accuracy"] > 0.5
    assert hpo(run) == {"enabled": False}


@types("9.3/1")
def test_a_run_is_found_where_mlflow_looks(place: Place, tuned: recipeline.Run) -> None:
    """`mlflow runs describe` knows it, and its model lies where the guide lists it."""
    (describe,) = place.shell(BLOCKS["9.3/1"], RUN_ID=tuned.id)
    assert (describe.program, describe.arguments) == ("mlflow", ("runs", "describe", "--run-id", tuned.id))
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", *describe.arguments], cwd=place.folder,
        env={**os.environ, "PYTHONWARNINGS": "ignore"}, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert tuned.id in done.stdout
    line = next(line for line in BLOCKS["9.3/1"].splitlines() if line.startswith("ls "))
    listed = subprocess.run(
        ["bash", "-ec", line], cwd=place.folder, env={**os.environ, "RUN_ID": tuned.id}, capture_output=True, text=True, check=True
    )
    assert {"MLmodel", "recipe.yaml", "manifest.json", "parts"} <= set(listed.stdout.split())


@types("9.3/2")
def test_the_columns_of_a_select(capsys: pytest.CaptureFixture[str]) -> None:
    """The snippet, with the import renamed; it prints what its comment says."""
    code = BLOCKS["9.3/2"].replace("from src.utils.system.sql_utils import", "from recipeline import")
    exec(compile(code, "9.3", "exec"), {})
    assert capsys.readouterr().out.strip() == re.findall(r"# (\[.*\])", code)[0]


# --- 10. speed ---------------------------------------------------------------------------------------------------------------


@types("10.1/1", "10.1/2")
def test_parquet_and_pruning(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """The file is read. The pruner of this block waits ten steps where a trial of five folds has four: a warning says so."""
    document = laid_into(BLOCKS["10.1/1"], hyperparameters={"C": {"type": "float", "low": 0.1, "high": 10.0, "log": True}})
    document["hyperparameter_tuning"] = yaml.safe_load(BLOCKS["10.1/2"])["hyperparameter_tuning"]
    with caplog.at_level(logging.WARNING, "recipeline"):
        run = place.train("recipes/pruned.yaml", document, "hyperparameter_tuning.timeout=2")
    assert "n_warmup_steps: 10 never ends" in caplog.text
    assert hpo(run)["pruned_trials"] == sum(
        trial["state"] == "pruned" and trial.get("reason") != "out of time" for trial in hpo(run)["optimization_history"]
    ) + sum(trial.get("reason") == "out of time" for trial in hpo(run)["optimization_history"])


@types("10.2/1")
def test_the_size_of_a_batch(place: Place, main: Callable[..., Answer], tuned: recipeline.Run) -> None:
    """BATCH_SIZE of the shell; the same rows come out whatever it is."""
    (call,) = place.shell(BLOCKS["10.2/1"], RUN_ID=tuned.id)
    assert call.environment == {"BATCH_SIZE": "1000"}
    one = main(call, "--output", "out/thousands.parquet", "--overwrite", "--json")
    other = main(Call("uv", call.arguments, {"BATCH_SIZE": "50"}), "--output", "out/fifties.parquet", "--overwrite", "--json")
    assert one.code == other.code == 0, (one, other)
    assert one.json["rows"] == other.json["rows"] == 240
    frames = [pd.read_parquet(place.folder / "out" / name) for name in ("thousands.parquet", "fifties.parquet")]
    pd.testing.assert_frame_equal(*frames, rtol=1e-12)


# --- 11. extensions ----------------------------------------------------------------------------------------------------------


@types("11.1/1", "11.1/2")
def test_an_adapter_of_ones_own(place: Place) -> None:
    """The class with its import renamed, registered by the line that stands for the guide's; rows by its `read`."""
    space: dict[str, Any] = {}
    exec(compile(BLOCKS["11.1/1"].replace("from src.interface.base_adapter", "from recipeline"), "11.1", "exec"), space)
    custom = space["CustomAdapter"]
    assert 'AdapterRegistry.register("custom", CustomAdapter)' in BLOCKS["11.1/2"]

    class Filled(custom):  # type: ignore[misc, valid-type]
        """Where the guide says `pass`."""

        def read(self, query: str, params: Any = None, **kwargs: Any) -> pd.DataFrame:
            assert query == "everything"
            return people(int(self.settings["rows"]))[["age", "income", "target"]]

    recipeline.register("adapter", "custom", Filled)
    try:
        run = place.train(
            "recipes/custom_adapter.yaml",
            laid_into("model: {loader: {source_uri: 'source://mine'}}"),
            "data_adapters.adapters.custom={class_name: custom, config: {rows: 90}}",
            "sources.mine={adapter: custom, query: everything}",
        )
    finally:
        registry.unregister("adapter", "custom")
    split = json.loads((run.artifact / "split.json").read_text())
    assert split["rows"] == 90


@types("11.2/1")
def test_a_metric_of_ones_own(place: Place) -> None:
    """The class as it stands; `custom_score` is what its reader fills in."""
    space: dict[str, Any] = {"BaseEvaluator": recipeline.BaseEvaluator, "custom_score": 0.25}
    exec(compile(BLOCKS["11.2/1"], "11.2", "exec"), space)
    recipeline.register("evaluator", "custom_evaluator", space["CustomEvaluator"])
    document = laid_into("model: {}")
    document["evaluation"]["evaluator"] = {"name": "custom_evaluator"}
    try:
        run = place.train("recipes/custom_metric.yaml", document)
    finally:
        registry.unregister("evaluator", "custom_evaluator")
    assert run.metrics["custom_metric"] == 0.25
    assert run.metrics["accuracy"] > 0.5


# --- all of it ---------------------------------------------------------------------------------------------------------------


def test_every_block_is_typed() -> None:
    """Or stands in `INSTEAD` with its reason; and nothing is named that the guide does not have."""
    assert len(BLOCKS) == 39
    assert sorted({*_typed, *INSTEAD}) == sorted(BLOCKS)
    assert not set(_typed) & set(INSTEAD)
