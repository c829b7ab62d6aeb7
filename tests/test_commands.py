"""The commands around training: a new project, schemas, comparing runs, explaining a recipe, examining the place."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from recipeline import comparing, document, editors, health, origins, projects, recipe, settings, tracking, work
from recipeline.components.evaluators import observe
from recipeline.components.metrics import CLASSIFICATION, REGRESSION, resolve
from recipeline.contracts import Metric
from recipeline.stores import files
from recipeline.tracking.spool import Spool
from recipeline.tracking.store import store_of

pytestmark = pytest.mark.xdist_group("commands")  # one set of trained runs, copied for each test that wants them

PROJECT = Path(__file__).parents[1]
QUICKSTART = "recipes/quickstart/quickstart.yaml"
SHIPPED = sorted(path.relative_to(PROJECT).as_posix() for path in (PROJECT / "recipes").glob("*/*.yaml"))
CONFIGS = sorted(path.relative_to(PROJECT).as_posix() for path in (PROJECT / "config").glob("*.yaml") if path.stem != "tsfm_models")
"""The layers of the configuration; beside them stands a list that a part reads."""


def test_a_command_does_not_hide_the_function_of_its_name() -> None:
    """`recipeline.train` is the function, also after the module of that name was imported."""
    import importlib

    import recipeline

    module = importlib.import_module("recipeline.train")
    assert recipeline.train is module.train


# --- init ------------------------------------------------------------------------------------------------------------------


def test_a_new_project_trains_predicts_and_explains_itself(
    command: Callable[..., Any], empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`init`, then what it says to type: both recipes train, from the file and from the database, and a batch comes out."""
    folder = tmp_path / "churn"
    answer = command("init", folder, "--json")
    assert answer.code == 0, answer
    assert answer.json["recipe"] == "recipes/first.yaml"
    assert {"Makefile", "README.md", ".gitignore", "sql/customers.sql", *CONFIGS} <= set(answer.json["files"])
    assert answer.json["files"] == sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    monkeypatch.chdir(folder)
    shutil.copy(empty_store, folder / "mlflow.db")
    for name in ("first", "from_sql"):
        trained = command("train", "--recipe-file", f"recipes/{name}.yaml", "--set", "execution.report=false", "--json")
        assert trained.code == 0, trained
        assert trained.json["metrics"]["roc_auc"] > trained.json["baselines"]["dummy"]["roc_auc"] + 0.15
    batch = command("batch-inference", "--run-id", "latest:first", "--input", "data/customers.csv", "--output", "x.csv", "--json")
    assert batch.json["rows"] == projects.ROWS
    doctor = command("doctor", "--json")
    assert doctor.code == 0, doctor
    assert {check["status"] for check in doctor.json["checks"]} == {"ok"}


def test_the_new_project_is_the_same_on_every_machine(tmp_path: Path) -> None:
    """Names, texts and data do not depend on where or when it is written; only the project's name is its own."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        projects.create(tmp_path / name / "shop")
    for path in projects.create(tmp_path / "shop"):
        texts = [(tmp_path / name / "shop" / path).read_bytes() for name in ("one", "other")]
        assert texts[0] == texts[1], path
        assert b"@NAME" not in texts[0]
    assert 'experiment_name: "shop"' in (tmp_path / "shop" / "config" / "base.yaml").read_text()


def test_every_command_of_the_new_project_is_one(command: Callable[..., Any], tmp_path: Path) -> None:
    """What README and Makefile of the project tell is understood by the parser, and its configurations load."""
    from recipeline import cli

    projects.create(tmp_path / "shop")
    for path in ("README.md", "Makefile"):
        for line in (tmp_path / "shop" / path).read_text().splitlines():
            if line.startswith(("    recipeline ", "\trecipeline ")):
                words = re.split("  +", line.strip())[0].split()
                cli._parser(words[1:]).parse_args(words[1:])
    for environment in ("local", "dev", "prod"):
        assert settings.load(project=tmp_path / "shop", environment=environment, environ={}).environment == environment


@pytest.mark.parametrize("planted", ["folder", "file"])
def test_init_overwrites_nothing(command: Callable[..., Any], tmp_path: Path, planted: str) -> None:
    """A folder with anything in it, or a file, is left as it is: wrong use, exit 2."""
    place = tmp_path / "mine"
    kept = place / "notes.txt" if planted == "folder" else place
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    answer = command("init", place, "--json")
    assert (answer.code, answer.json["error"]["slug"]) == (2, "not-empty")
    assert kept.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "project"]
    assert place.is_file() or [path.name for path in place.iterdir()] == ["notes.txt"]


def test_init_fills_the_folder_one_stands_in(command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`init .` in an empty folder; a name that YAML would not take for text is made one."""
    folder = tmp_path / "2026: a shop"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert command("init", ".").code == 0
    assert settings.load(project=folder, environ={}).mlflow.experiment_name == "2026_a_shop"


# --- schema ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recipe_schema() -> Draft202012Validator:
    schema = editors.recipe_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.fixture(scope="module")
def config_schema() -> Draft202012Validator:
    schema = editors.config_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def shipped(text: str) -> Any:
    return document.parse(text).data


@pytest.mark.parametrize("path", SHIPPED)
def test_an_editor_accepts_every_shipped_recipe(recipe_schema: Draft202012Validator, path: str) -> None:
    """No line under a recipe that trains."""
    assert [error.message for error in recipe_schema.iter_errors(shipped((PROJECT / path).read_text()))] == []


@pytest.mark.parametrize("path", CONFIGS)
def test_an_editor_accepts_every_shipped_configuration(config_schema: Draft202012Validator, path: str) -> None:
    """References and null sections included."""
    assert [error.message for error in config_schema.iter_errors(shipped((PROJECT / path).read_text()))] == []


def test_an_editor_accepts_what_init_writes(recipe_schema: Draft202012Validator, config_schema: Draft202012Validator) -> None:
    """The project's own recipes and configuration."""
    for path, text in projects.TEXTS.items():
        if path.endswith(".yaml"):
            chosen = recipe_schema if path.startswith("recipes/") else config_schema
            assert [error.message for error in chosen.iter_errors(shipped(text.replace("@NAME", "x").replace("@", "")))] == [], path


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda data: data.update(modle={}), []),
        (lambda data: data["model"].pop("loader"), ["model"]),
        (lambda data: data["model"].update(name="also"), ["model"]),
        (lambda data: data["model"]["loader"].update(source_url="x"), ["model", "loader"]),
        (lambda data: data["model"]["data_interface"].pop("target_col"), ["model", "data_interface"]),
        (lambda data: data["evaluation"]["validation"].pop("method"), ["evaluation", "validation"]),
        (lambda data: data.update(seed=-1), ["seed"]),
    ],
    ids=["misspelt", "missing", "two-names", "unknown-key", "no-target", "no-method", "seed"],
)
def test_an_editor_underlines_a_mistake(recipe_schema: Draft202012Validator, change: Callable[[Any], Any], where: list[str]) -> None:
    """At the section where it is; the same recipe without it has none."""
    data = shipped((PROJECT / QUICKSTART).read_text())
    assert recipe_schema.is_valid(data)
    change(data)
    assert where in [list(error.absolute_path) for error in recipe_schema.iter_errors(data)]


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("api_serving: {port: 8000}", True),
        ("api_serving: {port: '${PORT:8000}'}", True),
        ("api_serving:", True),
        ("api_serving: {port: high}", False),
        ("logging: {level: LOUD}", False),
        ("logging: {level: '${LEVEL}'}", True),
        ("mlflow: {traking_uri: x}", False),
    ],
)
def test_an_editor_knows_references_from_mistakes(config_schema: Draft202012Validator, text: str, valid: bool) -> None:
    """As the loader: a number may be `${NAME}`, a section null, an unknown key is none."""
    assert config_schema.is_valid(shipped(text)) is valid


def test_the_schema_suggests_what_is_installed(command: Callable[..., Any]) -> None:
    """Registered names, tasks, metrics and methods as enumerations; arguments with defaults for a part that is named."""
    schema = command("schema", "recipe", "--json").json
    assert schema == json.loads(json.dumps(editors.recipe_schema()))
    model = schema["properties"]["model"]["properties"]
    enumerated = lambda field: next(one["enum"] for one in field["anyOf"] if "enum" in one)  # noqa: E731
    assert "default_preprocessor" in enumerated(model["preprocessor"]["properties"]["name"])
    assert {"classification", "regression", "forecasting"} <= set(enumerated(model["data_interface"]["properties"]["task_type"]))
    evaluation = schema["properties"]["evaluation"]["properties"]
    assert {"roc_auc", "rmse"} <= set(enumerated(evaluation["metrics"]["items"]))
    told = {one["if"]["properties"]["method"]["const"]: one["then"]["properties"] for one in evaluation["validation"]["allOf"]}
    assert told["train_test_split"]["test_size"] == {"default": 0.2}


def test_schema_writes_a_file_where_asked(command: Callable[..., Any], project: Path) -> None:
    """`--output`; on stdout it is the schema and nothing else."""
    assert command("schema", "config", "--output", ".recipeline/config.schema.json").code == 0
    written = json.loads((project / ".recipeline" / "config.schema.json").read_text())
    assert written == json.loads(command("schema", "config").out) == command("schema", "config", "--json").json
    answer = command("schema", "recipes")
    assert answer.code == 2
    assert "did you mean recipe?" in answer.err


# --- compare ---------------------------------------------------------------------------------------------------------------

FOREST = """
name: forest
model:
  class_path: sklearn.tree.DecisionTreeClassifier
  hyperparameters: {max_depth: 3}
  loader: {name: default_loader, source_uri: ../data/breast_cancer.csv}
  data_interface: {task_type: classification, target_col: diagnosis, positive_class: malignant, entity_cols: [patient_id]}
evaluation:
  metrics: [accuracy, roc_auc, log_loss]
  validation: {method: train_test_split, test_size: 0.2, stratify: true, random_state: 42}
"""

WINE = """
name: wine
model:
  class_path: sklearn.tree.DecisionTreeClassifier
  loader: {name: default_loader, source_uri: ../data/wine.csv}
  data_interface: {task_type: classification, target_col: target}
evaluation:
  metrics: [accuracy, roc_auc]
  validation: {method: train_test_split, test_size: 0.3, stratify: true}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, recipe_data: Path, empty_store: Path) -> dict[str, str]:
    """Runs by name: the quickstart and a tree on the same rows, the tree on other rows, and one of every kind of target."""
    from recipeline.train import train

    folder = tmp_path_factory.mktemp("commands") / "project"
    shutil.copytree(PROJECT / "recipes", folder / "recipes", ignore=shutil.ignore_patterns("*.csv", "*.sqlite"))
    shutil.copytree(recipe_data, folder / "recipes" / "data", dirs_exist_ok=True)
    shutil.copy(empty_store, folder / "mlflow.db")
    (folder / "recipes" / "mine").mkdir()
    flags = (recipe_data / "wine.csv").read_text().splitlines()
    lines = [flags[0], *(f"{line.rpartition(',')[0]},{str(line.endswith(',1')).lower()}" for line in flags[1:])]
    (folder / "recipes" / "data" / "flags.csv").write_text("\n".join(lines) + "\n")
    texts = {
        "forest": FOREST,
        "elsewhere": FOREST.replace("random_state: 42", "random_state: 43"),
        "linnerud": (PROJECT / "recipes/tabular/linnerud_targets.yaml")
        .read_text()
        .replace("cross_validation, folds: 4", "train_test_split"),
        "wine": WINE,
        "flags": WINE.replace("name: wine", "name: flags").replace("wine.csv", "flags.csv"),
        "progress": (PROJECT / "recipes/tabular/diabetes_ridge.yaml").read_text().replace("cross_validation, folds: 5", "train_test_split"),
        "ridge": (PROJECT / "recipes/tabular/diabetes_ridge.yaml").read_text(),
    }
    configuration = settings.load(project=folder, overrides=["execution.report=false"], environ={})
    made = {"quickstart": train(folder / QUICKSTART, settings=configuration).id}
    for name, text in texts.items():
        path = folder / "recipes" / "mine" / f"{name}.yaml"
        path.write_text(text)
        made[name] = train(path, settings=configuration).id
    return made | {"folder": str(folder)}


@pytest.fixture
def trained(project: Path, finished: dict[str, str]) -> dict[str, str]:
    """The finished runs in the project of the test."""
    shutil.copy(Path(finished["folder"]) / "mlflow.db", project)
    shutil.copytree(Path(finished["folder"]) / "mlruns", project / "mlruns")
    return finished


def compared(command: Callable[..., Any], a: str, b: str, *more: str) -> Any:
    answer = command("compare", a, b, "--resamples", "60", "--json", *more)
    assert answer.code == 0, answer
    return answer.json


def test_two_runs_on_the_same_rows_get_an_interval(command: Callable[..., Any], trained: dict[str, str]) -> None:
    """Recipe, data, rows, metrics; the interval holds the difference, changes its sign with the order, and has a seed."""
    answer = compared(command, trained["quickstart"], trained["forest"])
    changed = {row["key"]: (row["a"], row["b"]) for row in answer["recipe"]}
    assert changed["model.class_path"] == ("sklearn.linear_model.LogisticRegression", "sklearn.tree.DecisionTreeClassifier")
    assert changed["model.hyperparameters.max_depth"] == (None, 3)
    assert "model.loader.source_uri" not in changed
    assert answer["data"]["same"] is True
    assert answer["sealed"] == {"same": True, "a": 1, "b": 1}
    rows = {row["metric"]: row for row in answer["metrics"]}
    assert rows["accuracy"]["difference"] == rows["accuracy"]["b"] - rows["accuracy"]["a"]
    assert rows["roc_auc"]["better"] == "a"
    assert rows["log_loss"]["a"] is None
    assert rows["log_loss"]["interval"] is None
    assert rows["log_loss"]["direction"] == "minimize"
    low, high = rows["roc_auc"]["interval"]
    assert low <= rows["roc_auc"]["difference"] <= high < 0.05
    again = compared(command, trained["quickstart"], trained["forest"])
    assert again["metrics"] == answer["metrics"]
    turned = {row["metric"]: row for row in compared(command, trained["forest"], trained["quickstart"])["metrics"]}
    assert turned["roc_auc"]["interval"] == pytest.approx([-high, -low], abs=1e-12)
    assert turned["roc_auc"]["better"] == "b"


def test_a_run_is_no_better_than_itself(command: Callable[..., Any], trained: dict[str, str]) -> None:
    """No difference anywhere, and the interval has no width."""
    answer = compared(command, trained["forest"], trained["forest"])
    assert answer["recipe"] == answer["parameters"] == answer["versions"] == []
    assert {row["better"] for row in answer["metrics"]} == {"same"}
    assert {tuple(row["interval"]) for row in answer["metrics"]} == {(0.0, 0.0)}


@pytest.mark.parametrize(
    ("other", "reason"),
    [("elsewhere", "judged on different rows"), ("ridge", "judged on different rows")],
)
def test_where_the_rows_differ_it_says_why_there_is_no_interval(
    command: Callable[..., Any], trained: dict[str, str], other: str, reason: str
) -> None:
    """The metrics are shown all the same."""
    answer = compared(command, trained["forest"], trained[other])
    assert reason in answer["intervals"]["why_none"]
    assert all(row["interval"] is None for row in answer["metrics"])
    assert answer["sealed"]["same"] is False
    assert answer["data"]["same"] is (other == "elsewhere")


def test_over_folds_there_is_no_interval(command: Callable[..., Any], trained: dict[str, str]) -> None:
    """Five models judged on five parts are not one model on one part; a spread over folds has no direction."""
    answer = compared(command, trained["ridge"], trained["ridge"])
    assert "over 5 folds" in answer["intervals"]["why_none"]
    directions = {row["metric"]: row["direction"] for row in answer["metrics"]}
    assert directions["rmse"] == "minimize"
    assert directions["rmse_sd"] is None


def test_several_targets_are_compared(command: Callable[..., Any], trained: dict[str, str]) -> None:
    """Each figure of a target goes by the direction of its metric; the metrics themselves have intervals."""
    answer = compared(command, trained["linnerud"], trained["linnerud"])
    rows = {row["metric"]: row for row in answer["metrics"]}
    assert {row["direction"] for row in rows.values()} == {"minimize"}
    assert rows["rmse"]["interval"] == [0.0, 0.0]
    assert rows["rmse_Weight"]["interval"] is None


@pytest.mark.parametrize("name", ["wine", "flags", "progress"])
def test_every_kind_of_target_is_read_back(command: Callable[..., Any], trained: dict[str, str], name: str) -> None:
    """Whole numbers of three classes, booleans, values: the kept predictions give every metric of the run again."""
    answer = compared(command, trained[name], trained[name])
    assert {row["metric"]: row["interval"] for row in answer["metrics"]} == {row["metric"]: [0.0, 0.0] for row in answer["metrics"]}


@pytest.mark.parametrize(
    ("truth", "target", "codes"),
    [
        (np.array(["b", "a"], dtype=object), {"classes": ["a", "b"]}, [1, 0]),
        (np.array(["b", "c"], dtype=object), {"classes": ["a", "b"]}, None),
        (np.array([1.5, 2.0]), {}, [1.5, 2.0]),
        (np.array(["b", "c"], dtype=object), {}, None),
    ],
)
def test_a_truth_that_is_none_is_no_truth(truth: Any, target: Any, codes: Any) -> None:
    """A label that training had not, text where numbers were: nothing is compared."""
    found = comparing._encoded(truth, target)
    assert codes == (None if found is None else found.tolist())


def test_the_table_says_it_in_words(command: Callable[..., Any], trained: dict[str, str]) -> None:
    """Without --json: both runs, what differs, the metrics, and how the interval was made or why there is none."""
    answer = command("compare", trained["quickstart"], trained["forest"], "--resamples", "60")
    assert answer.code == 0
    assert trained["quickstart"][:8] in answer.out
    assert "sealed rows: the same" in answer.out
    assert "paired percentile bootstrap, 95%, 60 resamples, seed 42" in answer.out
    assert "no interval: the runs were judged on different rows" in command("compare", trained["forest"], trained["elsewhere"]).out


def test_an_unknown_run_is_said(command: Callable[..., Any], trained: dict[str, str]) -> None:
    """Exit 5; a damaged one 9; a wrong number of resamples 2."""
    assert command("compare", trained["forest"], "nothing").code == 5
    assert command("compare", trained["forest"], trained["forest"], "--resamples", "0").code == 2


def test_a_damaged_run_is_not_compared(command: Callable[..., Any], trained: dict[str, str], project: Path) -> None:
    """The predictions of a run are under its manifest: a changed byte is exit 9."""
    (table,) = (project / "mlruns").glob(f"*/{trained['forest']}/artifacts/model/tables/predictions.parquet")
    table.write_bytes(table.read_bytes() + b"x")
    assert command("compare", trained["quickstart"], trained["forest"]).code == 9


def test_the_interval_is_that_of_the_definition() -> None:
    """Against a plain loop: draw rows with replacement, take both figures on them, the 2.5 and 97.5 percent of B - A."""
    random = np.random.default_rng(5)
    truth = random.normal(size=40)
    a, b = observe(truth, truth + random.normal(size=40)), observe(truth, truth + 0.5 * random.normal(size=40))
    metrics = resolve(["mae", "r2"], REGRESSION)
    found = comparing.paired_bootstrap(metrics, a, b, resamples=200, seed=9)
    again = np.random.default_rng(9)
    drawn = []
    for _ in range(200):
        rows = again.integers(0, 40, 40)
        size = [float(np.mean([abs(truth[i] - one.predicted[i]) for i in rows])) for one in (a, b)]
        spread = sum((truth[i] - truth[rows].mean()) ** 2 for i in rows)
        share = [1 - sum((truth[i] - one.predicted[i]) ** 2 for i in rows) / spread for one in (a, b)]
        drawn.append((size[1] - size[0], share[1] - share[0]))
    for interval, values in zip(found, zip(*drawn, strict=True), strict=True):
        assert interval is not None
        assert [interval.low, interval.high] == pytest.approx(list(np.quantile(values, [0.025, 0.975])), abs=1e-12)


def test_the_interval_covers_as_often_as_it_says() -> None:
    """The true difference of two errors of known spread lies inside in 95 of 100 data sets, give or take three standard errors."""
    random = np.random.default_rng(17)
    metrics = [Metric("mse", "minimize", "prediction", lambda actual, said, weight=None: float(np.mean((actual - said) ** 2)))]
    n, sets, inside = 120, 120, 0
    for _ in range(sets):
        truth = random.normal(size=n)
        a, b = observe(truth, truth + random.normal(size=n)), observe(truth, truth + 1.2 * random.normal(size=n))
        (interval,) = comparing.paired_bootstrap(metrics, a, b, resamples=200)
        assert interval is not None
        inside += interval.low <= 1.44 - 1.0 <= interval.high
    assert abs(inside / sets - 0.95) <= 3 * (0.95 * 0.05 / sets) ** 0.5, inside


def test_a_metric_that_is_undefined_on_most_resamples_has_no_interval() -> None:
    """One positive row in ten is missing from a third of the resamples: roc_auc is not told from the rest; accuracy is."""
    truth = np.array([1, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    said = observe(truth, truth, y_proba=np.linspace(0.9, 0.1, 10))
    auc, accuracy = comparing.paired_bootstrap(resolve(["roc_auc", "accuracy"], CLASSIFICATION), said, said, resamples=100)
    assert auc is None
    assert accuracy == comparing.Interval(0.0, 0.0)


def test_what_an_evaluator_computed_otherwise_has_no_interval(
    command: Callable[..., Any], trained: dict[str, str], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a figure that the kept predictions give again is resampled."""
    again = comparing._again
    monkeypatch.setattr(comparing, "_again", lambda metric, *rest: metric.name == "accuracy" and again(metric, *rest))
    rows = {row["metric"]: row for row in compared(command, trained["quickstart"], trained["forest"])["metrics"]}
    assert rows["accuracy"]["interval"] is not None
    assert rows["roc_auc"]["interval"] is None


def test_differences_are_of_type_and_value() -> None:
    """1 and true and 1.0 are three; lists are one value, lists of named parts go by place."""
    a = {"x": 1, "same": [1, 2], "list": [1], "parts": [{"name": "a", "k": 1}], "gone": {}}
    b = {"x": True, "same": [1, 2], "list": [1, 2], "parts": [{"name": "a", "k": 2}]}
    found = {row["key"]: (row["a"], row["b"]) for row in comparing.differences(a, b)}
    assert found == {"x": (1, True), "list": ([1], [1, 2]), "parts[0].k": (1, 2), "gone": ({}, None)}


# --- show --resolved -------------------------------------------------------------------------------------------------------


def resolved(command: Callable[..., Any], *arguments: str) -> dict[tuple[str, str], Any]:
    answer = command("show", "--resolved", *arguments, "--json")
    assert answer.code == 0, answer
    return {(value["of"], value["key"]): value for value in answer.json["values"]}


def test_every_value_has_its_origin(command: Callable[..., Any], project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of the recipe, a default and whose, the seed, a file of the configuration, a variable, an option."""
    monkeypatch.setenv("RECIPELINE__EXECUTION__BATCH__ROWS", "7")
    monkeypatch.setenv("SQL_CONNECTION_URI", "sqlite:///x.db")
    values = resolved(command, QUICKSTART, "--set", "logging.level=ERROR")

    def told(of: str, key: str) -> tuple[Any, str, str]:
        value = values[of, key]
        return value["value"], value["source"], value["from"]

    assert told("recipe", "model.hyperparameters.max_iter") == (1000, "recipe", f"{QUICKSTART}:5")
    assert told("recipe", "model.hyperparameters.C") == (1.0, "default", "default of LogisticRegression")
    assert told("recipe", "model.hyperparameters.random_state") == (42, "seed", "seed of the recipe")
    assert told("recipe", "seed") == (42, "default", "default")
    assert told("recipe", "model.data_interface.group_col") == (None, "default", "default of classification")
    assert told("recipe", "evaluation.validation.random_state") == (42, "recipe", f"{QUICKSTART}:11")
    assert told("recipe", "evaluation.evaluator.name") == ("tabular_evaluator", "default", "default of classification")
    assert told("configuration", "environment") == ("local", "default", "default")
    assert told("configuration", "mlflow.tracking_uri") == ("sqlite:///mlflow.db", "default", "default")
    assert told("configuration", "execution.batch.rows") == (7, "variable", "RECIPELINE__EXECUTION__BATCH__ROWS")
    assert told("configuration", "logging.level") == ("ERROR", "option", "--set logging.level")
    line = (project / "config/local.yaml").read_text().splitlines().index("hyperparameter_tuning:") + 2
    assert told("configuration", "hyperparameter_tuning.enabled") == (True, "configuration", f"config/local.yaml:{line}")
    assert values["configuration", "data_adapters.adapters.sql.config.connection_uri"]["from"].endswith("SQL_CONNECTION_URI is set")


@pytest.mark.parametrize("path", SHIPPED)
def test_every_leaf_of_a_recipe_is_explained(command: Callable[..., Any], project: Path, path: str) -> None:
    """Nothing written is left out, no key is told twice, and the line named is the line where it stands."""
    found = recipe.load(Path(path))
    values = origins.explain(found, settings.load(project=project, environ={}))
    keys = [(value.of, value.key) for value in values]
    assert len(keys) == len(set(keys))
    lines = Path(path).read_text().splitlines()
    written = [value for value in values if value.source == "recipe"]
    for value in written:
        line = lines[int(value.origin.rpartition(":")[2]) - 1]
        named = [step for step in value.key if isinstance(step, str)][-1]
        assert named in line, value
    assert json.dumps([value.as_dict() for value in values], allow_nan=False)


def test_a_part_configured_by_the_place_says_so(command: Callable[..., Any], project: Path) -> None:
    """An argument that the configuration gives a part stands in the recipe's tree, with the file of the configuration."""
    text = "parts:\n  preprocessor:\n    default_preprocessor:\n      missing_strategy: mean\n"
    (project / "config" / "local.local.yaml").write_text(text)
    value = resolved(command, QUICKSTART)["recipe", "model.preprocessor.params.missing_strategy"]
    assert (value["value"], value["source"], value["from"]) == ("mean", "configuration", "config/local.local.yaml:4")


def test_a_search_is_explained(command: Callable[..., Any]) -> None:
    """A range is one value; what the search fills in has its reason; choices not taken have no defaults in force."""
    values = resolved(command, "recipes/tabular/breast_cancer_tuned.yaml")
    ranges = [value for (_, _), value in values.items() if isinstance(value["value"], dict) and "type" in value["value"]]
    assert ranges
    assert values["recipe", "hyperparameter_tuning.seeds_per_trial"]["from"] == "default of hyperparameter_tuning"


def test_no_secret_is_explained(command: Callable[..., Any], project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the table nor in JSON: references stay references, written passwords are masked."""
    (project / "config" / "local.local.yaml").write_text(
        "data_adapters:\n  adapters:\n    sql:\n      class_name: SqlAdapter\n      config:\n"
        "        connection_uri: postgresql://user:${CANARY}@host/base\n    other:\n      class_name: SqlAdapter\n      config:\n"
        "        connection_uri: postgresql://user:canary-two@host/base\n"
    )
    monkeypatch.setenv("CANARY", "canary-one")
    for arguments in (["show", "--resolved", QUICKSTART], ["doctor"]):
        for json_form in ([], ["--json"]):
            answer = command(*arguments, *json_form)
            assert "canary-" not in answer.out + answer.err, answer
    path = Path("recipes/quickstart/secret.yaml")
    path.write_text(Path(QUICKSTART).read_text().replace("../data/breast_cancer.csv", "s3://user:canary-three@host/x.csv"))
    answer = command("show", "--resolved", path)
    assert "s3://user:" in answer.out
    assert "canary-" not in answer.out
    told = comparing.differences({"uri": "s3://user:canary-three@host/x"}, {"uri": "s3://user:canary-four@host/x"})
    assert [row["key"] for row in told] == ["uri"]
    assert "canary-" not in str(told)
    loaded = settings.load(project=project)
    assert "canary-one" in loaded.adapter("sql")[1]["connection_uri"]  # the control: the secret did reach the configuration


def test_resolved_is_of_a_recipe_file(command: Callable[..., Any]) -> None:
    """A run is refused as wrong use, a recipe with mistakes with all of them."""
    assert command("show", "--resolved", "latest").code == 2
    path = Path("recipes/quickstart/wrong.yaml")
    path.write_text(Path(QUICKSTART).read_text().replace("max_iter", "max_iterr").replace("f1", "f2"))
    answer = command("show", "--resolved", path)
    assert answer.code == 3
    assert answer.err.count("error[") == 2


def test_the_table_of_origins(command: Callable[..., Any]) -> None:
    """Two tables, aligned, long values cut."""
    out = command("show", "--resolved", QUICKSTART).out
    assert out.splitlines()[0].split() == ["recipe", "value", "from"]
    assert any(line.split() == ["configuration", "value", "from"] for line in out.splitlines())


# --- doctor, sync ------------------------------------------------------------------------------------------------------------


def checks(answer: Any) -> dict[str, Any]:
    return {check["check"]: check for check in answer.json["checks"]}


@pytest.fixture
def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.fixture
def open_port() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield int(listening.getsockname()[1])


def test_a_sound_project_is_found_sound(command: Callable[..., Any], trained: dict[str, str]) -> None:
    """Every line ok, exit 0; the database is asked, the newest run named; nothing in the project changes."""
    before = sorted(Path().rglob("*"))
    answer = command("doctor", "--json")
    assert answer.code == 0, answer
    assert answer.json["ok"] is True
    found = checks(answer)
    assert {name: check["status"] for name, check in found.items() if check["status"] != "ok"} == {}
    assert "config/base.yaml, config/local.yaml" in found["project"]["message"]
    assert "answers, read-only" in found["adapter sql"]["message"]
    assert "newest run" in found["mlflow"]["message"]
    assert "serving" in found["extras"]["message"]
    assert sorted(Path().rglob("*")) == before
    assert [line.split()[0] for line in command("doctor").out.splitlines()] == ["ok"] * len(answer.json["checks"])


def test_a_tracking_server_that_is_away_is_exit_6(command: Callable[..., Any], closed_port: int) -> None:
    """And the line says where it was looked for, without its password."""
    answer = command("doctor", "--set", f"mlflow.tracking_uri=http://user:canary@127.0.0.1:{closed_port}", "--json")
    assert answer.code == 6, answer
    assert checks(answer)["mlflow"]["status"] == "fail"
    assert f"127.0.0.1:{closed_port} does not answer" in checks(answer)["mlflow"]["message"]
    assert "canary" not in answer.out + answer.err


def test_the_ports_of_other_services_are_asked(command: Callable[..., Any], project: Path, open_port: int, closed_port: int) -> None:
    """Feature store and scheduler: who listens is ok, who does not is exit 6."""
    (project / "config" / "local.local.yaml").write_text(
        "feature_store:\n  enabled: true\n  feast_config:\n    project: x\n"
        f"    online_store: {{type: redis, connection_string: '127.0.0.1:{open_port},password=canary'}}\n"
        f"    offline_store: {{type: postgresql, host: 127.0.0.1, port: {closed_port}, user: u, password: canary}}\n"
        f"execution: {{joblib: {{backend: dask, address: 'tcp://127.0.0.1:{open_port}'}}}}\n"
    )
    answer = command("doctor", "--json")
    found = checks(answer)
    assert answer.code == 6
    assert {name: found[name]["status"] for name in ("feast online", "feast offline", "scheduler")} == {
        "feast online": "ok", "feast offline": "fail", "scheduler": "ok",
    }  # fmt: skip
    assert "canary" not in answer.out


def test_a_configuration_that_cannot_work_is_exit_3(command: Callable[..., Any], project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that nobody set, production without keys; a database file that is not there yet is a warning."""
    (project / "recipes" / "data" / "samples.sqlite").unlink()
    answer = command("doctor", "--json")
    assert answer.code == 0
    assert checks(answer)["adapter sql"]["status"] == "warn"
    assert checks(answer)["adapter sql"]["message"].startswith("recipes/data/samples.sqlite")
    monkeypatch.setenv("APP_ENV", "prod")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    answer = command("doctor", "--json")
    assert answer.code == 3
    found = [check for check in answer.json["checks"] if check["status"] == "fail"]
    assert {"configuration", "mlflow", "adapter sql"} <= {check["check"] for check in found}
    assert any("RECIPELINE_API_KEY_SHA256" in check["message"] for check in found)
    (project / "config" / "prod.yaml").write_text("mlfow: {}\n")
    assert command("doctor").code == 3


def test_a_damaged_database_is_said(command: Callable[..., Any], project: Path) -> None:
    """A file that is no database fails, and so does a work folder that cannot be written."""
    (project / "recipes" / "data" / "samples.sqlite").write_text("not a database, but long enough to be read as the head of one")
    (project / "afile").write_text("")
    answer = command("doctor", "--json", "--set", "execution.work_folder=afile/work")
    assert answer.code == 3
    assert "not a readable SQLite database" in checks(answer)["adapter sql"]["message"]
    assert checks(answer)["work folder"]["status"] == "fail"


def test_unfinished_and_spooled_runs_are_offered(command: Callable[..., Any], project: Path, closed_port: int) -> None:
    """A run that died can be gone on with, one that lives is in progress, one that the server never saw waits for `sync`."""
    configuration = settings.load(project=project, environ={})
    root = configuration.execution.work_folder
    with work.Work.open(root, {"recipe": "dead"}) as dead:
        dead.remember("dead0000" * 4)
    with work.Work.open(root, {"recipe": "living"}) as living:
        living.remember("living00" * 4)
        answer = command("doctor", "--json")
    said = {check["message"]: check["status"] for check in answer.json["checks"] if check["check"] == "runs"}
    assert said == {"in progress: living00": "ok", "unfinished: dead0000": "warn"}
    assert answer.code == 0
    store = store_of(configuration)
    files.write_json(store.spool / "abc" / "run.json", {"store": "elsewhere"})
    spool = checks(command("doctor", "--json"))["spool"]
    assert spool["status"] == "warn"
    assert "recipeline sync" in spool["hint"]


def test_sync_replays_the_spool(command: Callable[..., Any], project: Path) -> None:
    """A run spooled for this store is given to it, and the spool is empty then; with nothing spooled it says so."""
    assert command("sync").out == "nothing is spooled\n"
    store = store_of(settings.load(project=project, environ={}))
    spool = Spool.begin(store, "f" * 32, "spooled", at_server=False)
    spool.add({"do": "tags", "tags": {tracking.RECIPE_TAG: "spooled"}}, None)
    spool.add({"do": "metrics", "metrics": {"accuracy": 0.5}, "step": 0, "time": 1}, None)
    spool.add({"do": "finish", "status": "FINISHED", "time": 2}, None)
    spool.close()
    assert checks(command("doctor", "--json"))["spool"]["status"] == "warn"
    given = command("sync", "--json")
    assert given.code == 0, given
    assert list(given.json["synced"]) == ["f" * 32]
    assert tracking.spooled(settings.load(project=project, environ={})) == []
    assert given.json["synced"]["f" * 32] in {run["run_id"] for run in command("list", "runs", "--json").json["runs"]}


def test_a_place_without_a_project(command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults hold, and doctor says how to begin."""
    (tmp_path / "nowhere").mkdir()
    monkeypatch.chdir(tmp_path / "nowhere")
    answer = command("doctor", "--json")
    assert answer.code == 0
    assert "recipeline init" in checks(answer)["project"]["hint"]


def test_an_adapter_of_ones_own_is_looked_up(command: Callable[..., Any], project: Path) -> None:
    """Its class must be there and allowed; connecting is its own affair. A timeout must be a number above 0."""
    (project / "config" / "local.local.yaml").write_text("data_adapters: {adapters: {mine: {class_name: nowhere.Adapter}}}\n")
    answer = command("doctor", "--json")
    assert answer.code == 3
    assert checks(answer)["adapter mine"]["status"] == "fail"
    assert command("doctor", "--timeout", "0").code == 2


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("postgresql+psycopg://u:p@db:6000/x", ("db", 6000)),
        ("postgresql://db/x", ("db", 5432)),
        ("redis://cache", ("cache", 6379)),
        ("sqlite:///studies.db", None),
        ("journal.log", None),
        ("http://host:port/", None),
        ("", None),
    ],
)
def test_addresses_lead_to_hosts(text: str, place: tuple[str, int] | None) -> None:
    """Host and port, with the usual port of the scheme; files have none."""
    assert health._host(text) == place
