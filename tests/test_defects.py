"""What public pipelines were found to do wrong. Each check is run twice: on the product, and with the defect put back.

A check states the promise through a door that a user takes; `put_back` changes the product's own functions so that it makes
the old mistake. The check must hold before and must fail after: a check that cannot fail proves nothing.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import recipeline
from recipeline import folds, settings
from recipeline.assemble import _Assembly
from recipeline.components.preprocessing import DefaultPreprocessor
from recipeline.errors import RecipelineError, Refused
from recipeline.pipeline import Pipeline
from recipeline.stores import sql

PROJECT = Path(__file__).parents[1]
SECRET = "canary-of-the-defects"

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Defect:
    """check     raises AssertionError where the promise does not hold
    put_back  makes the product break it
    """

    name: str
    check: Callable[[Path], None]
    put_back: Callable[[Path, Patch], None]


# --- small recipes ------------------------------------------------------------------------------------------------------


def rows(n: int = 240) -> pd.DataFrame:
    """Two numbers, a text and a binary target that depends on one of them."""
    random = np.random.default_rng(3)
    frame = pd.DataFrame({"a": random.normal(size=n), "b": random.normal(size=n), "city": random.choice(["x", "y", "z"], n)})
    frame["last_update"] = random.integers(0, 9, n)
    frame["y"] = (frame["a"] + random.normal(0, 1.0, n) > 0).astype(int)
    return frame


def recipe(source: str = "rows.parquet", **changes: Any) -> dict[str, Any]:
    """A recipe for `rows`; changes by section: `model`, `hyperparameter_tuning`, `evaluation`."""
    base: dict[str, Any] = {
        "name": "defect",
        "model": {
            "class_path": "sklearn.linear_model.LogisticRegression",
            "loader": {"name": "default_loader", "source_uri": source},
            "data_interface": {"task_type": "classification", "target_col": "y"},
        },
        "evaluation": {"metrics": ["roc_auc"], "validation": {"method": "train_test_split", "random_state": 0}},
    }
    for section, value in changes.items():
        base[section] = {**base.get(section, {}), **value} if isinstance(value, Mapping) else value
    return base


def train(project: Path, document: Mapping[str, Any], **rest: Any) -> recipeline.Run:
    """Through the library, without the report."""
    where = settings.load(project=project, overrides=["execution.report=false"])
    return recipeline.train(document, settings=where, **rest)


def refusal(call: Callable[[], Any]) -> RecipelineError:
    """The error that a call must raise; AssertionError where it raises none."""
    try:
        answer = call()
    except RecipelineError as error:
        return error
    raise AssertionError(f"nothing was refused: {answer!r}")


def database(project: Path, frame: pd.DataFrame) -> str:
    """`frame` as the table `events` of an SQLite file that the configuration names."""
    connection = sqlite3.connect(project / "events.sqlite")
    frame.to_sql("events", connection, index=False)
    connection.close()
    (project / "config" / "local.local.yaml").write_text(
        "data_adapters: {adapters: {sql: {class_name: SqlAdapter, config: {connection_uri: 'sqlite:///events.sqlite'}}}}\n"
    )
    return "events"


def hpo(run: recipeline.Run) -> Any:
    return json.loads((run.artifact / "hpo.json").read_text())


# --- 1. the tuned metric is looked up under another name, every trial scores 0 ------------------------------------------


def a_trial_has_the_score_of_its_metric(project: Path) -> None:
    """The first trial, which is the defaults, scores what scikit-learn gives by hand; so the alias means the metric."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, train_test_split

    frame = rows()[["a", "b", "y"]]
    frame.to_parquet(project / "rows.parquet")
    document = recipe(model={"hyperparameters": {"C": {"type": "float", "low": 0.5, "high": 2.0}}})
    document["hyperparameter_tuning"] = {"enabled": True, "n_trials": 2, "metric": "auc", "folds": 3}
    history = hpo(train(project, document))["optimization_history"]
    training, _ = train_test_split(np.arange(len(frame)), test_size=0.2, random_state=0)
    X, y = frame[["a", "b"]].to_numpy()[training], frame["y"].to_numpy()[training]
    scores = [
        roc_auc_score(y[test], LogisticRegression().fit(X[train], y[train]).predict_proba(X[test])[:, 1])
        for train, test in StratifiedKFold(3, shuffle=True, random_state=0).split(X, y)
    ]
    assert history[0]["value"] == pytest.approx(np.mean(scores), rel=1e-9)


def look_the_metric_up_under_another_name(project: Path, patch: Patch) -> None:
    scored = folds.Trial._scored

    def zero(self: Any, *arguments: Any) -> float:
        scored(self, *arguments)
        return {"roc_auc_macro": 1.0}.get(self.metric, 0.0)

    patch.setattr(folds.Trial, "_scored", zero)


# --- 2. a misspelt hyperparameter is swallowed --------------------------------------------------------------------------


def a_misspelt_hyperparameter_is_refused(project: Path) -> None:
    """Before any data are read: there are none. With the word that was meant."""
    error = refusal(lambda: train(project, recipe("missing.parquet", model={"hyperparameters": {"max_itr": 5}})))
    assert (error.slug, error.code) == ("unknown-key", 3)
    assert "model.hyperparameters.max_itr" in str(error)
    assert "did you mean max_iter?" in str(error)


def drop_unknown_hyperparameters(project: Path, patch: Patch) -> None:
    rows().drop(columns="city").to_parquet(project / "missing.parquet")
    build = _Assembly.build

    def tolerant(self: Any, spec: Any, *rest: Any) -> Any:
        known = {name: value for name, value in spec.arguments.items() if name != "max_itr"}
        return build(self, replace(spec, arguments=known), *rest)

    patch.setattr(_Assembly, "check_names", lambda *_: None)
    patch.setattr(_Assembly, "build", tolerant)


# --- 3. unknown keys are accepted ---------------------------------------------------------------------------------------


def unknown_keys_are_refused(project: Path) -> None:
    """On every level of a recipe, all of them at once; and in the configuration."""
    document = recipe("missing.parquet", model={"prepocessor": {"name": "default_preprocessor"}})
    document["descripton"] = "…"
    document["model"]["data_interface"]["targt"] = "y"
    document["evaluation"]["metrcs"] = ["f1"]
    document["hyperparameter_tuning"] = {"enabled": False, "trials": 3}
    error = refusal(lambda: train(project, document))
    listed = {".".join(map(str, problem.key)) for problem in error.problems if problem.slug == "unknown-key"}  # type: ignore[attr-defined]
    assert listed == {"descripton", "model.prepocessor", "model.data_interface.targt", "evaluation.metrcs", "hyperparameter_tuning.trials"}
    wrong = refusal(lambda: settings.load(project=project, overrides=["execution.reprot=false"]))
    assert wrong.slug == "unknown-key"


def accept_unknown_keys(project: Path, patch: Patch) -> None:
    from recipeline.recipe.keys import Keys

    rows().drop(columns="city").to_parquet(project / "missing.parquet")
    patch.setattr(Keys, "unknown", lambda *_: {})
    check = _Assembly.check_interface

    def without_unknown(self: Any) -> None:
        interface = dict(self.draft.interface)
        known = {name: value for name, value in interface.items() if name in self.task.Interface.model_fields}
        self.draft = replace(self.draft, interface=known)
        check(self)

    patch.setattr(_Assembly, "check_interface", without_unknown)


# --- 4. a preprocessor or a feature store fails at prediction, and zeros are returned -----------------------------------


class Store:
    """Features by city. It is down for rows of a city that nobody knows."""

    def augment(self, frame: pd.DataFrame, *, online: bool) -> pd.DataFrame:
        if online and (frame["city"] == "nowhere").any():
            raise ConnectionError("the store does not answer")
        return frame.assign(people=frame["city"].map({"x": 1.0, "y": 2.0, "z": 3.0}))


def a_part_that_fails_at_prediction_is_an_error(project: Path) -> None:
    """Neither zeros nor any other number: an error with the words of the part that failed."""
    rows().to_parquet(project / "rows.parquet")
    new = rows(5).drop(columns="y").assign(city="atlantis")
    encoder = {"class_path": "sklearn.preprocessing.OrdinalEncoder"}  # refuses what training did not have
    steps = [{"name": "cities", "transformer": encoder, "columns": ["city"]}]
    run = train(project, recipe(model={"preprocessor": {"name": "custom_preprocessor", "params": {"steps": steps}}}))
    error = refusal(lambda: recipeline.load(run.artifact).predict(new))
    assert error.slug == "prediction-failed"
    assert "unknown categories" in str(error)
    recipeline.register("augmenter", "defect_store", Store)
    run = train(project, recipe(model={"augmenter": {"type": "defect_store"}}))
    error = refusal(lambda: recipeline.load(run.artifact).predict(new.assign(city="nowhere")))
    assert error.slug == "prediction-failed"
    assert "does not answer" in str(error)


def return_zeros_where_a_part_fails(project: Path, patch: Patch) -> None:
    predict = Pipeline.predict

    def swallowing(self: Any, given: Any, **rest: Any) -> pd.DataFrame:
        try:
            return predict(self, given, **rest)
        except RecipelineError:
            return pd.DataFrame({"prediction": np.zeros(len(given))})

    patch.setattr(Pipeline, "predict", swallowing)


# --- 5. `${PASSWORD}` is resolved into the saved configuration ----------------------------------------------------------


def a_password_is_nowhere_in_what_is_written(project: Path) -> None:
    """Neither in the configuration as it is shown and kept, nor in any byte that a training leaves behind."""
    rows().to_parquet(project / "rows.parquet")
    (project / "config" / "local.local.yaml").write_text(
        "data_adapters: {adapters: {warehouse: {class_name: SqlAdapter, config: "
        "{connection_uri: 'postgresql://user:${DEFECT_PASSWORD}@host/base'}}}}\n"
    )
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DEFECT_PASSWORD", SECRET)
        where = settings.load(project=project, overrides=["execution.report=true"])
        assert SECRET in where.adapter("warehouse")[1]["connection_uri"]  # it is looked up where it is needed
        run = recipeline.train(recipe(), settings=where)
        kept = json.dumps(where.public())
        (project / "configuration.json").write_text(kept)
    assert "${DEFECT_PASSWORD}" in kept
    files = [path for path in project.rglob("*") if path.is_file()]
    assert run.artifact / "recipe.yaml" in files
    assert [path.name for path in files if SECRET.encode() in path.read_bytes()] == []


def keep_the_configuration_as_resolved(project: Path, patch: Patch) -> None:
    patch.setattr(settings.Settings, "public", lambda self: self.reveal(self._tree))


# --- 6. the values of a template are pasted as text ---------------------------------------------------------------------


INJECTION = "x' OR '1'='1"


def a_value_of_a_template_is_only_a_value(project: Path) -> None:
    """A text with a quote in it selects the rows that have this text: one, and not all of them."""
    frame = rows()
    frame.loc[:39, "city"] = INJECTION
    database(project, frame)
    (project / "spine.sql.j2").write_text("SELECT a, b, city, y FROM events WHERE city = '{{ city }}'\n")
    run = train(project, recipe("spine.sql.j2"), params={"city": INJECTION})
    split = json.loads((run.artifact / "split.json").read_text())
    assert split["rows"] == 40


def paste_values_as_text(project: Path, patch: Patch) -> None:
    from jinja2 import Template

    from recipeline.stores import templates

    def pasting(path: Path, params: Mapping[str, Any], *, dialect: str, name: str = "") -> templates.Compiled:
        text = path.read_text()
        return templates.Compiled(Template(text).render(params), {}, {path.name: text})

    patch.setattr(templates, "compile_template", pasting)


# --- 7. a list of keywords guards the database --------------------------------------------------------------------------


def the_guard_reads_the_statement_not_its_letters(project: Path) -> None:
    """`last_update` is a column; a DROP stays one, whatever blank follows it, and is refused before the database hears of it."""
    table = database(project, rows())
    try:
        run = train(project, recipe(f"SELECT a, b, last_update, y FROM {table}"))
    except Refused as error:
        raise AssertionError("a column is taken for a statement") from error
    assert recipeline.load(run.artifact).schema.features == ("a", "b", "last_update")
    for statement in (f"DROP\tTABLE {table}", f"SELECT 1; DROP\tTABLE {table}", f"DELETE\nFROM {table}"):
        error = refusal(lambda statement=statement: sql.prove(statement, "sqlite"))
        assert (error.code, error.slug) in {(4, "sql-not-select"), (4, "sql-statements")}


def guard_by_keywords(project: Path, patch: Patch) -> None:
    def guard(text: str, *_: Any, **__: Any) -> str:
        for word in ("DROP TABLE", "DELETE FROM", "UPDATE", "INSERT INTO"):
            if word in text.upper():
                raise Refused(f"the query holds {word}", slug="sql-refused")
        return text

    patch.setattr(sql, "prove", guard)


# --- 8. `SELECT *` is served as a field named after the table -----------------------------------------------------------


def select_star_is_served_as_its_columns(project: Path) -> None:
    """The fields of a request are the columns that training had, less the target."""
    import httpx

    from recipeline import serve

    table = database(project, rows())
    run = train(project, recipe(f"SELECT * FROM {table}"))
    where = settings.load(project=project, overrides=["api_serving.enabled=true"])
    gate = serve.app(recipeline.load(run.artifact), where)

    async def documented() -> Any:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=gate), base_url="http://127.0.0.1") as client:
            return (await client.get("/openapi.json")).json()

    schemas = asyncio.run(documented())["components"]["schemas"]
    assert list(schemas["Record"]["properties"]) == ["a", "b", "city", "last_update"]


def serve_the_words_after_select(project: Path, patch: Patch) -> None:
    from recipeline.schema import Column
    from recipeline.serve.rows import RowReader

    made = RowReader.__init__

    def guessing(self: Any, schema: Any, **rest: Any) -> None:
        made(self, replace(schema, columns=(Column("events", "string", False, "feature"),)), **rest)

    patch.setattr(RowReader, "__init__", guessing)


# --- 9. a target encoder is fitted and applied on the same rows ---------------------------------------------------------


def a_column_of_noise_does_not_spoil_a_model(project: Path) -> None:
    """800 training rows, a column of 400 random texts, encoded by the target: nearly as good as without that column."""
    random = np.random.default_rng(1)
    frame = pd.DataFrame({"a": random.normal(size=1000), "noise": random.integers(0, 400, 1000).astype(str)})
    frame["y"] = (frame["a"] + random.normal(0, 1.0, 1000) > 0).astype(int)
    frame.to_parquet(project / "rows.parquet")
    preprocessor = {"name": "default_preprocessor", "params": {"categorical_strategy": "target"}}
    encoded = train(project, recipe(model={"preprocessor": preprocessor})).metrics["roc_auc"]
    params = {"exclude_cols": ["noise"]}
    without = train(project, recipe(model={"preprocessor": {"name": "default_preprocessor", "params": params}})).metrics["roc_auc"]
    assert without > 0.75
    assert encoded > without - 0.02


def encode_the_rows_that_were_fitted_on(project: Path, patch: Patch) -> None:
    cross_fitted = DefaultPreprocessor.fit_transform

    def naive(self: Any, X: Any, y: Any = None) -> Any:
        cross_fitted(self, X, y)
        return self.transform(X)

    patch.setattr(DefaultPreprocessor, "fit_transform", naive)


# --- 10. a pruner that can never prune ----------------------------------------------------------------------------------


def a_pruner_prunes(project: Path) -> None:
    """A range whose one half is hopeless: some of its trials are stopped before their last fold, and counted."""
    rows().drop(columns="city").to_parquet(project / "rows.parquet")
    document = recipe(model={"hyperparameters": {"C": {"type": "float", "low": 1e-6, "high": 1.0, "log": True}}})
    document["hyperparameter_tuning"] = {
        "enabled": True, "n_trials": 12, "metric": "log_loss", "folds": 4,
        "pruning": {"enabled": True, "algorithm": "MedianPruner", "n_startup_trials": 2, "n_warmup_steps": 0},
    }  # fmt: skip
    found = hpo(train(project, document))
    assert found["pruned_trials"] == sum(trial["state"] == "pruned" for trial in found["optimization_history"])
    assert found["pruned_trials"] >= 1


def report_nothing_to_the_pruner(project: Path, patch: Patch) -> None:
    score = folds.Trial.score
    patch.setattr(folds.Trial, "score", lambda self, values, report: score(self, values, lambda step, value: False))


# --- 11. seconds for --help ---------------------------------------------------------------------------------------------


HEAVY = ("numpy", "pandas", "pyarrow", "sklearn", "scipy", "mlflow", "optuna", "matplotlib", "fastapi", "sqlalchemy", "torch")


def help_loads_nothing_heavy(project: Path) -> None:
    """What `--help` costs is what it loads; what it loads is counted, not timed."""
    look = (
        "import json, sys\nsys.path[:0] = sys.argv[1:]\nfrom recipeline.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    )
    first = [str(project / "slow")] if (project / "slow").is_dir() else []
    done = subprocess.run([sys.executable, "-c", look, *first], capture_output=True, text=True, check=True)
    assert "usage: " in done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == []


def import_everything_at_the_top(project: Path, patch: Patch) -> None:
    """A copy of the package whose command line imports the engine where others do: at the top."""
    shutil.copytree(PROJECT / "src" / "recipeline", project / "slow" / "recipeline", ignore=shutil.ignore_patterns("__pycache__"))
    cli = project / "slow" / "recipeline" / "cli.py"
    head, line, rest = cli.read_text().partition("from __future__ import annotations\n")
    cli.write_text(f"{head}{line}import recipeline.folds\n{rest}")


# --- the same checks, twice ---------------------------------------------------------------------------------------------


DEFECTS = (
    Defect("metric-under-another-name", a_trial_has_the_score_of_its_metric, look_the_metric_up_under_another_name),
    Defect("misspelt-hyperparameter-swallowed", a_misspelt_hyperparameter_is_refused, drop_unknown_hyperparameters),
    Defect("unknown-keys-accepted", unknown_keys_are_refused, accept_unknown_keys),
    Defect("zeros-for-a-failed-part", a_part_that_fails_at_prediction_is_an_error, return_zeros_where_a_part_fails),
    Defect("password-in-saved-config", a_password_is_nowhere_in_what_is_written, keep_the_configuration_as_resolved),
    Defect("template-values-pasted", a_value_of_a_template_is_only_a_value, paste_values_as_text),
    Defect("keywords-as-sql-guard", the_guard_reads_the_statement_not_its_letters, guard_by_keywords),
    Defect("select-star-as-a-field", select_star_is_served_as_its_columns, serve_the_words_after_select),
    Defect("target-encoder-on-its-own-rows", a_column_of_noise_does_not_spoil_a_model, encode_the_rows_that_were_fitted_on),
    Defect("pruner-that-never-prunes", a_pruner_prunes, report_nothing_to_the_pruner),
    Defect("slow-help", help_loads_nothing_heavy, import_everything_at_the_top),
)
every_defect = pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a check registers is unknown to the next one."""
    from recipeline import registry

    yield
    registry.unregister("augmenter", "defect_store")


@every_defect
def test_the_product_does_not_have_the_defect(defect: Defect, project: Path) -> None:
    defect.check(project)


@every_defect
def test_with_the_defect_put_back_the_check_fails(defect: Defect, project: Path) -> None:
    """By an assertion: an error that the patch itself caused would be no proof."""
    with pytest.MonkeyPatch.context() as patch:
        defect.put_back(project, patch)
        try:
            defect.check(project)
        except AssertionError:
            return
    pytest.fail(f"the check does not notice {defect.name}")
