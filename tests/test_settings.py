"""The configuration: its layers, its references, its secrets."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from recipeline import document, settings
from recipeline.errors import Problem, RecipeError, UsageError
from recipeline.settings import Settings

PROJECT = Path(__file__).parents[1]
CANARY = "hunter2-canary"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder is the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes configuration files into a project that is the working directory."""

    def write(**files: str) -> Path:
        (tmp_path / "config").mkdir(exist_ok=True)
        for name, text in files.items():
            (tmp_path / "config" / f"{name.replace('__', '.')}.yaml").write_text(text)
        return tmp_path

    return write


def refused(**how: object) -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        settings.load(**{"environ": {}, **how})  # type: ignore[arg-type]
    assert caught.value.code == 3
    return list(caught.value.problems)


# --- layers ---------------------------------------------------------------------------------------


def test_without_any_file_the_defaults_work_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LOCAL needs no configuration: tracking, artifacts and work stay below the folder."""
    monkeypatch.chdir(tmp_path)
    found = settings.load(environ={})
    assert (found.environment, found.project) == ("local", tmp_path)
    assert found.mlflow.tracking_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert found.mlflow.artifact_location == str(tmp_path / "mlruns")
    assert found.execution.work_folder == tmp_path / ".recipeline" / "work"
    assert found.execution.batch.rows == 65_536
    assert found.security.allowed_namespaces == ("sklearn", "xgboost", "lightgbm", "catboost", "causalml", "gymnasium")
    assert found.hyperparameter_tuning.enabled is True
    assert found.api_serving.enabled is False
    assert (found.api_serving.limits.max_bytes, found.api_serving.limits.max_rows, found.api_serving.limits.timeout) == (
        8_388_608,
        10_000,
        30.0,
    )
    assert list(tmp_path.iterdir()) == []


def test_each_layer_lies_over_those_before_it(folder: Callable[..., Path]) -> None:
    """base, environment, its local file, variables, --set; mappings merge and lists are replaced."""
    folder(
        base="mlflow: {experiment_name: a}\nexecution: {batch: {rows: 1, workers: 2}}\nsecurity: {allowed_namespaces: [sklearn, mine]}\n",
        dev="execution: {batch: {rows: 2}}\napi_serving: {port: 1, host: b}\nsecurity: {allowed_namespaces: [other]}\n",
        dev__local="api_serving: {port: 2}\nhyperparameter_tuning: {timeout: 5}\n",
    )
    environ = {"APP_ENV": "dev", "RECIPELINE__API_SERVING__PORT": "3", "RECIPELINE__HYPERPARAMETER_TUNING__TIMEOUT": "6"}
    found = settings.load(environ=environ, overrides=["hyperparameter_tuning.timeout=7"])
    assert found.mlflow.experiment_name == "a"
    assert (found.execution.batch.rows, found.execution.batch.workers) == (2, 2)
    assert found.security.allowed_namespaces == ("other",)
    assert (found.api_serving.host, found.api_serving.port, found.hyperparameter_tuning.timeout) == ("b", 3, 7)


def test_every_value_knows_its_layer(folder: Callable[..., Path]) -> None:
    folder(base="mlflow:\n  experiment_name: a\n", local="execution:\n  batch: {rows: 1}\n")
    found = settings.load(environ={"RECIPELINE__API_SERVING__PORT": "3"}, overrides=["logging.format=json"])
    assert found.origin(("mlflow", "experiment_name")) == "config/base.yaml:2"
    assert found.origin(("execution", "batch", "rows")) == "config/local.yaml:2"
    assert found.origin(("api_serving", "port")) == "RECIPELINE__API_SERVING__PORT"
    assert found.origin(("logging", "format")) == "--set logging.format"
    assert found.origin(("api_serving", "host")) == "default"


def test_the_variables_of_the_guide_are_heard() -> None:
    """BATCH_SIZE and LOG_LEVEL, the latter in any case; ours win over them."""
    found = settings.load(environ={"BATCH_SIZE": "1000", "LOG_LEVEL": "debug"})
    assert (found.execution.batch.rows, found.logging.level) == (1000, "DEBUG")
    found = settings.load(environ={"BATCH_SIZE": "1000", "RECIPELINE__EXECUTION__BATCH__ROWS": "5"})
    assert found.execution.batch.rows == 5
    (problem,) = refused(environ={"BATCH_SIZE": "many"})
    assert (problem.file, problem.key) == ("BATCH_SIZE", ("execution", "batch", "rows"))


def test_a_null_section_is_an_empty_one(folder: Callable[..., Path]) -> None:
    """As the guide's `config:` with nothing but comments below it."""
    folder(
        base="""\
logging:
sources:
parts:
data_adapters:
  adapters:
    storage:
      class_name: StorageAdapter
      config:
        # fsspec decides by the scheme
"""
    )
    found = settings.load(environ={})
    assert found.adapter("storage") == ("StorageAdapter", {})
    assert found.logging.level == "INFO"


def test_a_null_value_takes_a_value_back(folder: Callable[..., Path]) -> None:
    folder(base="hyperparameter_tuning: {timeout: 5}\n", local="hyperparameter_tuning: {timeout: null}\n")
    assert settings.load(environ={}).hyperparameter_tuning.timeout is None


def test_a_changed_class_drops_the_configuration_of_the_class_before(folder: Callable[..., Path]) -> None:
    """The same class keeps it and merges."""
    base = "data_adapters: {adapters: {sql: {class_name: SqlAdapter, config: {connection_uri: 'sqlite:///x', pool: 5}}}}\n"
    root = folder(base=base, local="data_adapters: {adapters: {sql: {class_name: Mine, config: {token_file: t}}}}\n")
    assert settings.load(project=root, environ={}).adapter("sql") == ("Mine", {"token_file": "t"})
    folder(local="data_adapters: {adapters: {sql: {class_name: SqlAdapter, config: {pool: 6}}}}\n")
    assert settings.load(project=root, environ={}).adapter("sql") == ("SqlAdapter", {"connection_uri": "sqlite:///x", "pool": 6})
    folder(local="data_adapters: {adapters: {sql: {config: {pool: 7}}}}\n")
    assert settings.load(project=root, environ={}).adapter("sql")[1]["pool"] == 7


def test_values_given_as_text_are_read_as_yaml_reads_them() -> None:
    overrides = [
        "api_serving.enabled=true",
        "hyperparameter_tuning.timeout=1e3",
        "security.allowed_namespaces=[sklearn, mine]",
        "mlflow.experiment_name='17'",
        "sources.customers={uri: data/x.csv}",
        "parts.model.ppo.threads=4",
        "data_adapters.adapters.sql.class_name=SqlAdapter",
        "data_adapters.adapters.sql.config.password=[0123",
    ]
    found = settings.load(environ={}, overrides=overrides)
    assert found.api_serving.enabled is True
    assert found.hyperparameter_tuning.timeout == 1000.0
    assert found.security.allowed_namespaces == ("sklearn", "mine")
    assert found.mlflow.experiment_name == "17"
    assert found.source("customers") == {"uri": "data/x.csv"}
    assert found.part("model", "ppo") == {"threads": 4}
    assert found.adapter("sql")[1] == {"password": "[0123"}


@pytest.mark.parametrize("override", ["api_serving.enabled", "=1", "a..b=1", ""])
def test_a_malformed_override_is_a_wrong_use_of_the_command(override: str) -> None:
    with pytest.raises(UsageError) as caught:
        settings.load(environ={}, overrides=[override])
    assert caught.value.code == 2


def test_variables_find_names_that_are_written_in_capitals(folder: Callable[..., Path]) -> None:
    folder(base="data_adapters: {adapters: {Lake: {class_name: StorageAdapter, config: {Root: a}}}}\n")
    found = settings.load(environ={"RECIPELINE__DATA_ADAPTERS__ADAPTERS__LAKE__CONFIG__ROOT": "b"})
    assert found.adapter("Lake") == ("StorageAdapter", {"Root": "b"})


# --- which project, which environment --------------------------------------------------------------


def test_the_project_is_the_nearest_folder_with_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the recipe, else above the working directory, else the working directory; a folder given is the project."""
    inner = tmp_path / "project" / "recipes" / "deep"
    other = tmp_path / "other" / "below"
    for path in (inner, other, tmp_path / "project" / "config", tmp_path / "other" / "config"):
        path.mkdir(parents=True)
    (inner / "a.yaml").write_text("")
    monkeypatch.chdir(inner)
    assert settings.load(environ={}).project == tmp_path / "project"
    monkeypatch.chdir(other)
    assert settings.load(environ={}).project == tmp_path / "other"
    assert settings.load(project=inner / "a.yaml", environ={}).project == tmp_path / "project"
    monkeypatch.chdir(tmp_path)
    assert settings.load(environ={}).project == tmp_path
    assert settings.load(project=inner, environ={}).project == inner


def test_an_environment_without_its_file_is_an_error(folder: Callable[..., Path]) -> None:
    """With the nearest that there is; local needs no file."""
    folder(base="", dev="", prod="")
    assert settings.load(environ={}).environment == "local"
    assert settings.load(environ={"APP_ENV": ""}).environment == "local"
    (problem,) = refused(environ={"APP_ENV": "prd"})
    assert problem.slug == "missing-environment"
    assert problem.suggestion == "prod"
    assert "config/prd.yaml" in problem.message
    (problem,) = refused(environ={"APP_ENV": "../secrets"})
    assert "not the name of an environment" in problem.message


def test_an_environment_needs_a_configuration_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (problem,) = refused(environ={"APP_ENV": "dev"})
    assert problem.slug == "missing-environment"


def test_a_file_may_say_its_environment_and_not_another(folder: Callable[..., Path]) -> None:
    folder(dev="environment: dev\n")
    assert settings.load(environment="dev", environ={}).environment == "dev"
    folder(dev="environment: prod\n")
    (problem,) = refused(environment="dev")
    assert (problem.file, problem.line) == ("config/dev.yaml", 1)


# --- mistakes --------------------------------------------------------------------------------------


def test_mistakes_are_reported_at_once_each_in_its_own_file(folder: Callable[..., Path]) -> None:
    """With line, column and the nearest name."""
    folder(
        base="mlflow:\n  tracking_url: x\nexecutoin: {}\n",
        local="api_serving:\n  prot: 1\n  limits: {max_row: 5}\nsources: {a: {urj: x}}\nparts: {modle: {}}\nlogging: 5\n",
    )
    found = refused(environ={"RECIPELINE__LOGING__LEVEL": "INFO"}, overrides=["mlflow.experimentname=x"])
    assert sorted((problem.file, problem.line, problem.suggestion) for problem in found if problem.suggestion) == [
        ("--set mlflow.experimentname", 0, "experiment_name"),
        ("RECIPELINE__LOGING__LEVEL", 0, "logging"),
        ("config/base.yaml", 2, "tracking_uri"),
        ("config/base.yaml", 3, "execution"),
        ("config/local.yaml", 2, "port"),
        ("config/local.yaml", 3, "max_rows"),
        ("config/local.yaml", 4, "uri"),
        ("config/local.yaml", 5, "model"),
    ]
    assert [(problem.file, problem.line) for problem in found if not problem.suggestion] == [("config/local.yaml", 6)]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("api_serving:\n  port: 70000\n", 2, "at most 65535"),
        ("api_serving:\n  port: many\n", 2, "a whole number"),
        ("api_serving:\n  enabled: maybe\n", 2, "true or false"),
        ("execution:\n  batch:\n    rows: 0\n", 3, "at least 1"),
        ("execution:\n  joblib: {n_jobs: 0}\n", 2, "0 jobs"),
        ("logging:\n  level: LOUD\n", 2, "DEBUG, INFO"),
        ("logging:\n  format: jsn\n", 2, "did you mean json?"),
        ("security:\n  allowed_namespaces: sklearn\n", 2, "a list"),
        ("security:\n  allowed_namespaces: [sklearn, 5]\n", 2, "text"),
        ("api_serving:\n  auth:\n    keys: [secret]\n", 3, "SHA-256"),
        ("data_adapters:\n  adapters:\n    sql: {config: {}}\n", 3, "class_name"),
        ("data_adapters:\n  adapters: [sql]\n", 2, "a mapping"),
        ("hyperparameter_tuning:\n  timeout: -1\n", 2, "more than 0"),
        ("hyperparameter_tuning:\n  timeout: .inf\n", 2, "finite"),
        ("parts:\n  model: {ppo: 5}\n", 2, "a mapping"),
        ("mlflow:\n  tracking_uri: 5\n", 2, "text"),
        ("a: [\n", 2, "not valid YAML"),
        ("logging: {}\nlogging: {}\n", 2, "written twice"),
    ],
)
def test_a_wrong_value_is_reported_where_it_stands(folder: Callable[..., Path], text: str, line: int, words: str) -> None:
    folder(local=text)
    (problem,) = refused()
    assert (problem.file, problem.line) == ("config/local.yaml", line)
    assert words in str(problem)


def test_adapters_and_sources_that_are_not_there_are_answered_with_the_nearest(folder: Callable[..., Path]) -> None:
    folder(base="data_adapters: {adapters: {storage: {class_name: S}}}\nsources: {customers: {adapter: sql, table: c}}\n")
    found = settings.load(environ={})
    with pytest.raises(RecipeError, match="did you mean storage"):
        found.adapter("storge")
    with pytest.raises(RecipeError, match="did you mean customers"):
        found.source("customer")
    assert found.source("customers") == {"adapter": "sql", "table": "c"}
    assert found.sources["customers"].table == "c"


# --- references --------------------------------------------------------------------------------------


def test_references_are_looked_up_where_the_value_is_used(folder: Callable[..., Path]) -> None:
    folder(
        base="""\
mlflow: {tracking_uri: '${URI:http://localhost:5000}', experiment_name: '${EXPERIMENT:17}'}
api_serving: {port: "${PORT}", enabled: '${SERVE:true}'}
execution:
  batch:
    rows: ${ROWS:7}
hyperparameter_tuning: {timeout: '${TIMEOUT:}'}
"""
    )
    found = settings.load(environ={"PORT": "81"})
    assert (found.mlflow.tracking_uri, found.api_serving.port, found.execution.batch.rows) == ("http://localhost:5000", 81, 7)
    assert (found.mlflow.experiment_name, found.api_serving.enabled, found.hyperparameter_tuning.timeout) == ("17", True, None)
    assert settings.load(environ={"PORT": "81", "URI": "http://a"}).mlflow.tracking_uri == "http://a"


def test_an_unset_variable_is_an_error_of_who_needs_it_and_of_nobody_else(folder: Callable[..., Path]) -> None:
    """It names variable and key, and never a default stands in silently."""
    folder(base="api_serving:\n  port: ${PORT}\n  auth:\n    keys: ['${KEY}']\nsources:\n  a: {uri: '${WHERE}/x'}\n")
    found = settings.load(environ={})
    assert found.api_serving.host == "127.0.0.1"
    for ask, line, name in (
        (lambda: found.api_serving.port, 2, "PORT"),
        (lambda: found.api_serving.auth.keys, 4, "KEY"),
        (lambda: found.source("a"), 6, "WHERE"),
        (lambda: found.sources["a"].uri, 6, "WHERE"),
    ):
        with pytest.raises(RecipeError) as caught:
            ask()
        (problem,) = caught.value.problems
        assert (problem.slug, problem.file, problem.line) == ("unset-variable", "config/base.yaml", line)
        assert f"environment variable {name} is not set" in problem.message
    with pytest.raises(AttributeError):
        found.api_serving.no_such_setting  # noqa: B018


def test_free_form_values_keep_the_type_that_they_would_have_had(folder: Callable[..., Path]) -> None:
    """Without quotes a number is a number; in quotes, inside other text, or as a password it is text."""
    folder(
        base="""\
parts:
  model:
    tsfm: {timeout: '${T}', pool: 5, nested: [{a: "${T}"}]}
    ppo:
      threads: ${T}
      url: h:${T}
      password: ${P}
"""
    )
    found = settings.load(environ={"T": "30", "P": "0123"})
    assert found.part("model", "tsfm") == {"timeout": "30", "pool": 5, "nested": [{"a": "30"}]}
    assert found.part("model", "ppo") == {"threads": 30, "url": "h:30", "password": "0123"}
    assert found.part("model", "none") == {}
    assert found.part("loader", "none") == {}


def test_recipes_are_not_looked_up() -> None:
    """References belong to the configuration only."""
    assert document.parse("a: ${HOME}\n").data == {"a": "${HOME}"}


# --- secrets -----------------------------------------------------------------------------------------


def test_no_secret_is_shown_anywhere(folder: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    """Not by public(), repr, str, errors or logs; what is written back is the reference."""
    folder(
        base=f"""\
mlflow: {{tracking_uri: 'http://user:{CANARY}@host:5000'}}
data_adapters:
  adapters:
    sql: {{class_name: SqlAdapter, config: {{connection_uri: 'postgresql://u:${{PASSWORD}}@h/db', password: '${{PASSWORD:{CANARY}}}'}}}}
    lake: {{class_name: StorageAdapter, config: {{key: a, secret_access_key: {CANARY}, api_token: {CANARY}, account_key: '{CANARY}'}}}}
hyperparameter_tuning: {{storage: '${{STORAGE}}'}}
parts: {{model: {{tsfm: {{token: '${{TOKEN}}', url: 'http://x:{CANARY}@y'}}}}}}
"""
    )
    environ = {"PASSWORD": CANARY, "TOKEN": CANARY, "STORAGE": f"postgresql://u:{CANARY}@h/optuna"}
    found = settings.load(environ=environ)
    assert found.hyperparameter_tuning.storage == environ["STORAGE"]
    assert found.adapter("sql")[1] == {"connection_uri": f"postgresql://u:{CANARY}@h/db", "password": CANARY}
    assert found.part("model", "tsfm")["token"] == CANARY
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("x").info("%s %r %s", found, found.mlflow, found.public())
    shown = [json.dumps(found.public()), repr(found), str(found), caplog.text, document.dump(found.public())]
    shown += [repr(section) for section in (found.mlflow, found.data_adapters, found.hyperparameter_tuning)]
    assert CANARY not in "\n".join(shown)
    public = found.public()
    assert public["data_adapters"]["adapters"]["sql"]["config"] == {
        "connection_uri": "postgresql://u:${PASSWORD}@h/db",
        "password": "${PASSWORD}",
    }
    assert public["parts"]["model"]["tsfm"] == {"token": "${TOKEN}", "url": "http://x:***@y"}
    assert public["mlflow"]["tracking_uri"] == "http://user:***@host:5000"
    assert CANARY in found.secrets()


def test_errors_do_not_quote_secrets(folder: Callable[..., Path]) -> None:
    folder(base="logging: {level: '${LEVEL}'}\napi_serving: {auth: {keys: ['${KEY}']}, port: '${PORT}'}\n")
    found = refused(environ={"LEVEL": CANARY, "KEY": CANARY, "PORT": CANARY})
    assert len(found) == 3
    text = "\n".join(map(str, found))
    assert CANARY not in text
    assert "the value of ${PORT}" in text or "${PORT} is not a whole number" in text


def test_hashes_of_keys_are_no_secrets_but_must_be_hashes() -> None:
    found = settings.load(environ={}, overrides=[f"api_serving.auth.keys=[{'A' * 64}]"])
    assert found.api_serving.auth.keys == ("a" * 64,)


# --- production ------------------------------------------------------------------------------------


def test_production_refuses_stores_in_files_and_open_doors(folder: Callable[..., Path]) -> None:
    text = """\
mlflow: {experiment_name: x}
data_adapters:
  adapters:
    sql: {class_name: SqlAdapter, config: {connection_uri: 'sqlite:///x.db'}}
feature_store:
  feast_config: {online_store: {type: sqlite}}
api_serving:
  enabled: true
"""
    folder(prod=text, dev=text)
    assert settings.load(environment="dev", environ={}).production_problems() == []
    found = settings.load(environment="prod", environ={}).production_problems()
    assert [(".".join(map(str, problem.key)), problem.line) for problem in found] == [
        ("mlflow.tracking_uri", 1),
        ("data_adapters.adapters.sql.config.connection_uri", 4),
        ("feature_store.feast_config.online_store.type", 6),
        ("api_serving.auth.keys", 7),
    ]
    assert {problem.exit_code for problem in found} == {3}
    assert len(settings.load(environment="prod", environ={}).production_problems(serving=False)) == 3


def problems_of(environ: dict[str, str]) -> list[str]:
    return [problem.slug for problem in settings.load(project=PROJECT, environment="prod", environ=environ).production_problems()]


def test_production_with_servers_and_keys_is_in_order() -> None:
    """The shipped file, with its variables set; without them each is named when it is needed."""
    environ = {
        "MLFLOW_TRACKING_URI": "https://mlflow.example",
        "WAREHOUSE_URI": "bigquery://project/dataset",
        "RECIPELINE_API_KEY_SHA256": "0" * 64,
    }
    assert problems_of(environ) == []
    assert problems_of({}) == ["unset-variable"]
    found = settings.load(project=PROJECT, environment="prod", environ={})
    with pytest.raises(RecipeError, match="MLFLOW_TRACKING_URI"):
        found.mlflow.tracking_uri  # noqa: B018
    environ["WAREHOUSE_URI"] = "sqlite:///x.db"
    assert problems_of(environ) == ["unsafe-production"]


# --- the shipped files, and the guide's ------------------------------------------------------------


@pytest.mark.parametrize(("environment", "serving"), [("local", False), ("dev", True), ("prod", True)])
def test_the_shipped_files_are_read(environment: str, serving: bool) -> None:
    found = settings.load(project=PROJECT, environment=environment, environ={})
    assert found.api_serving.enabled is serving
    assert found.hyperparameter_tuning.enabled is True
    assert found.environment == environment


def test_the_shipped_development_names_the_stack() -> None:
    """PostgreSQL and Redis; Feast calls the first `postgres`."""
    found = settings.load(project=PROJECT, environment="dev", environ={"POSTGRES_PASSWORD": "x"})
    assert found.adapter("sql")[1] == {"connection_uri": "postgresql://mlpipeline_user:x@localhost:5432/mlpipeline_db"}
    feast = found.reveal(found.feature_store.feast_config)
    assert (feast["offline_store"]["type"], feast["offline_store"]["port"], feast["online_store"]["type"]) == ("postgres", 5432, "redis")
    assert found.hyperparameter_tuning.timeout == 600


def test_the_configuration_blocks_of_the_guide_are_read(folder: Callable[..., Path]) -> None:
    folder(
        base="""\
data_adapters:
  adapters:
    sql:
      class_name: SqlAdapter
      config:
        connection_uri: "postgresql://user:pass@localhost:5432/db"
    storage:
      class_name: StorageAdapter
      config:
        # fsspec decides by the scheme
feature_store:
  feast_config:
    offline_store:
      type: "file"
    online_store:
      type: "sqlite"
""",
        dev="""\
feature_store:
  feast_config:
    offline_store:
      type: "postgresql"
    online_store:
      type: "redis"
hyperparameter_tuning:
  enabled: true
  timeout: 600
""",
        prod="""\
feature_store:
  feast_config:
    offline_store:
      type: "bigquery"
hyperparameter_tuning:
  enabled: true
  timeout: 7200
  parallelization:
    n_jobs: 8
""",
    )
    assert settings.load(environ={}).feature_store.feast_config["offline_store"]["type"] == "file"
    assert settings.load(environ={"APP_ENV": "dev"}).feature_store.feast_config["offline_store"]["type"] == "postgres"
    prod = settings.load(environ={"APP_ENV": "prod"})
    assert (prod.hyperparameter_tuning.timeout, prod.hyperparameter_tuning.parallelization.n_jobs) == (7200, 8)
    assert prod.feature_store.feast_config["online_store"]["type"] == "sqlite"


# --- what else is promised ---------------------------------------------------------------------------


def test_settings_are_frozen_and_can_be_pickled_and_copied(folder: Callable[..., Path]) -> None:
    folder(base="mlflow: {tracking_uri: '${URI}'}\nparts: {model: {a: {b: '${T}'}}}\n")
    found = settings.load(environ={"T": "5"})
    with pytest.raises(ValueError, match="frozen"):
        found.environment = "x"
    for again in (pickle.loads(pickle.dumps(found)), copy.deepcopy(found)):
        assert again.public() == found.public()
        assert again.part("model", "a") == {"b": "5"}
        with pytest.raises(RecipeError, match="URI"):
            again.mlflow.tracking_uri  # noqa: B018


def test_relative_stores_start_from_the_project(folder: Callable[..., Path]) -> None:
    root = folder(
        base="""\
mlflow: {tracking_uri: 'sqlite:///runs/m.db'}
hyperparameter_tuning: {storage: 'sqlite:///s.db'}
execution: {work_folder: w}
"""
    )
    found = settings.load(environ={})
    assert found.mlflow.tracking_uri == f"sqlite:///{root}/runs/m.db"
    assert found.hyperparameter_tuning.storage == f"sqlite:///{root}/s.db"
    assert found.execution.work_folder == root / "w"
    absolute = settings.load(environ={}, overrides=["mlflow.tracking_uri=sqlite:////abs/m.db"])
    assert absolute.mlflow.tracking_uri == "sqlite:////abs/m.db"


def test_public_has_no_path_of_this_machine(folder: Callable[..., Path]) -> None:
    """It stands in artifacts that travel."""
    root = folder(base="")
    assert str(root) not in json.dumps(settings.load(environ={}).public())


def test_public_is_a_configuration_again(folder: Callable[..., Path]) -> None:
    folder(base="sources: {a: {uri: x}}\nparts: {model: {m: {k: 1}}}\nlogging: {level: DEBUG}\n")
    public = settings.load(environ={}).public()
    (Path("config") / "base.yaml").write_text(document.dump(public))
    assert settings.load(environ={}).public() == public


def test_the_json_schema_accepts_the_shipped_files() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = settings.json_schema()
    for name in ("base", "local"):
        data = document.read(PROJECT / "config" / f"{name}.yaml").data
        jsonschema.validate(_without_nulls(data), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"mlflw": {}}, schema)


def _without_nulls(data: object) -> object:
    return {name: _without_nulls(value) for name, value in data.items() if value is not None} if isinstance(data, dict) else data


def test_every_setting_has_a_default() -> None:
    """So that an empty folder is a project."""
    public = Settings().public()
    assert set(public) == {
        "environment", "mlflow", "data_adapters", "feature_store", "sources", "hyperparameter_tuning",
        "execution", "api_serving", "security", "logging", "parts",
    }  # fmt: skip
    assert re.fullmatch(r"sqlite:///[^/]+", public["mlflow"]["tracking_uri"])
