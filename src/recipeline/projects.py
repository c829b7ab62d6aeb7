"""A new project: a folder with configuration, two recipes, their data, SQL and a Makefile, that trains at once."""

from __future__ import annotations

import csv
import io
import math
import random
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from recipeline.errors import DataError, UsageError
from recipeline.settings import NAMESPACES
from recipeline.stores import files

FIRST = "recipes/first.yaml"
ROWS = 400
SEED = 7
COLUMNS = ("customer_id", "age", "plan", "monthly_fee", "months", "support_calls", "churned")


def create(folder: Path) -> list[str]:
    """Write a project into `folder`, which is new or empty; the names of its files, sorted.

    A new folder is there whole or not at all. Raises UsageError where something is in the folder already.
    """
    if folder.is_dir() and not any(folder.iterdir()):
        return _fill(folder)  # not replaced: someone may stand in it
    if folder.exists() or folder.is_symlink():
        what = "is not empty" if folder.is_dir() else "is a file"
        raise UsageError(f"{files.shown(folder)} {what}", hint="name a new or empty folder", slug="not-empty")
    with files.atomic_folder(folder) as partial:
        return _fill(partial, folder.name)


def _fill(folder: Path, name: str = "") -> list[str]:
    name = re.sub(r"[^\w-]+", "_", name or folder.resolve().name).strip("_-") or "project"
    for path, text in TEXTS.items():
        files.write_text(folder / path, text.replace("@NAME@", name).replace("@NAMESPACES@", ", ".join(NAMESPACES)))
    rows = list(customers())
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    files.write_text(folder / "data" / "customers.csv", table.getvalue())
    with files.atomic_path(folder / "data" / "customers.sqlite") as unfinished:
        _database(unfinished, rows)
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _database(path: Path, rows: list[tuple[object, ...]]) -> None:
    try:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(
                "CREATE TABLE customers (customer_id TEXT PRIMARY KEY, age INTEGER, plan TEXT, monthly_fee REAL, "
                "months INTEGER, support_calls INTEGER, churned TEXT)"
            )
            database.executemany("INSERT INTO customers VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    except sqlite3.Error as error:
        raise DataError(f"cannot be written: {error}", slug="no-database", where="data/customers.sqlite") from error


def customers() -> Iterator[tuple[object, ...]]:
    """ROWS invented customers in the order of COLUMNS; the same on every machine.

    They leave with probability 1 / (1 + exp(-u)), u = 0.3 + 0.9 (calls - 1) - 0.07 months + 0.03 (fee - 40), one on a
    yearly plan half as often; so a model can learn something, and cannot be right about everyone.
    """
    draw = random.Random(SEED)  # noqa: S311  # example data, no secret
    for number in range(1, ROWS + 1):
        plan = draw.choices(("basic", "plus", "yearly"), (5, 3, 2))[0]
        fee = round({"basic": 25.0, "plus": 45.0, "yearly": 38.0}[plan] + draw.uniform(-5, 20), 2)
        months, calls = draw.randint(1, 48), min(int(draw.expovariate(0.8)), 9)
        leaves = 1 / (1 + math.exp(-(0.3 + 0.9 * (calls - 1) - 0.07 * months + 0.03 * (fee - 40))))
        churned = "yes" if draw.random() < leaves * (0.5 if plan == "yearly" else 1.0) else "no"
        yield f"C{number:04d}", draw.randint(18, 80), plan, fee, months, calls, churned


# --- the texts -------------------------------------------------------------------------------------------------------

TEXTS = {
    "README.md": """\
# @NAME@

    recipeline train --recipe-file recipes/first.yaml              train; the answer names the run and its report
    recipeline list runs
    recipeline batch-inference --run-id latest --input data/customers.csv --output predictions/customers.csv
    recipeline serve-api --run-id latest --set api_serving.enabled=true
    recipeline doctor                                              is everything there that the configuration names?

`make` says what else there is. A recipe says the science, `config/` says the place: `base.yaml` holds everywhere, over it
lies `local.yaml`, `dev.yaml` or `prod.yaml` (`APP_ENV=dev recipeline …`), over that `config/<APP_ENV>.local.yaml`, which is
yours and not in git.

    config/     where things are, what they may cost
    recipes/    first.yaml reads a file, from_sql.yaml a database
    sql/        queries, one SELECT each
    data/       400 invented customers, as CSV and as SQLite; replace them by yours
""",
    "Makefile": """\
RECIPE ?= recipes/first.yaml
RUN ?= latest

.PHONY: help check train predict serve runs doctor schema
help:
	@echo "make check | train | predict | serve | runs | doctor | schema      RECIPE=$(RECIPE) RUN=$(RUN)"

check:
	@for recipe in recipes/*.yaml; do recipeline validate --recipe-file "$$recipe" || exit; done

train:
	recipeline train --recipe-file $(RECIPE)

predict:
	recipeline batch-inference --run-id $(RUN) --input data/customers.csv --output predictions/customers.csv --overwrite

serve:
	recipeline serve-api --run-id $(RUN) --set api_serving.enabled=true

runs:
	recipeline list runs

doctor:
	recipeline doctor

# JSON Schemas for an editor; docs/howto/start-a-project.md of recipeline says how.
schema:
	recipeline schema recipe --output .recipeline/recipe.schema.json
	recipeline schema config --output .recipeline/config.schema.json
""",
    ".gitignore": """\
.recipeline/
mlflow.db
mlflow.db-*
mlruns/
predictions/
config/*.local.yaml
.env
__pycache__/
""",
    "config/base.yaml": """\
# What holds everywhere. Over it lie config/<APP_ENV>.yaml, config/<APP_ENV>.local.yaml (yours, not in git),
# the variables RECIPELINE__SECTION__KEY and --set section.key=value.
# ${VARIABLE} and ${VARIABLE:default} are looked up when a command needs the value; passwords belong there, never here.

mlflow:
  experiment_name: "@NAME@"

data_adapters:
  adapters:
    storage:
      class_name: StorageAdapter # the scheme of a URI decides: file://, s3://, gs://, abfs://
    sql:
      class_name: SqlAdapter
      config:
        connection_uri: ${SQL_CONNECTION_URI}

security:
  # Packages whose classes a recipe may name; those of installed plugins are added. Add your own package here.
  allowed_namespaces: [@NAMESPACES@]

parts:
  model:
    tsfm: # forecasts of foundation models: the server that is asked
      base_url: ${TOLLAMA_BASE_URL:http://127.0.0.1:11435}
      token: ${TOLLAMA_TOKEN:}

logging:
  level: INFO
  format: text
""",
    "config/local.yaml": """\
# LOCAL: no service outside this folder. Runs are tracked in mlflow.db and mlruns/.

data_adapters:
  adapters:
    sql:
      class_name: SqlAdapter
      config:
        connection_uri: ${SQL_CONNECTION_URI:sqlite:///data/customers.sqlite} # below the project
""",
    "config/dev.yaml": """\
# DEV: a shared tracking server. The database stays the one of SQL_CONNECTION_URI.

mlflow:
  tracking_uri: ${MLFLOW_TRACKING_URI:http://localhost:5000}

hyperparameter_tuning:
  timeout: 600 # seconds

api_serving:
  enabled: true
""",
    "config/prod.yaml": """\
# PROD: a tracking server and API keys; SQLite and open doors are refused here.

mlflow:
  tracking_uri: ${MLFLOW_TRACKING_URI}

hyperparameter_tuning:
  timeout: 7200 # seconds

api_serving:
  enabled: true
  host: 0.0.0.0
  auth:
    keys:
      - ${RECIPELINE_API_KEY_SHA256} # SHA-256 of the key, in hex

logging:
  format: json
""",
    FIRST: """\
# Which customers leave? A file, a scaler, a logistic regression, judged on the fifth of the rows that it never saw.
name: first
model:
  class_path: sklearn.linear_model.LogisticRegression
  hyperparameters: {max_iter: 1000}
  loader: {name: default_loader, source_uri: data/customers.csv}
  preprocessor: {name: default_preprocessor, params: {numerical_strategy: standard}}
  data_interface: {task_type: classification, target_col: churned, positive_class: "yes", entity_cols: [customer_id]}
evaluation:
  metrics: [accuracy, roc_auc, f1]
  validation: {method: train_test_split, test_size: 0.2, stratify: true, random_state: 42}
""",
    "recipes/from_sql.yaml": """\
# The same question to a database, answered by a forest.
name: from_sql
model:
  class_path: sklearn.ensemble.RandomForestClassifier
  hyperparameters: {n_estimators: 100, min_samples_leaf: 5}
  loader: {name: default_loader, source_uri: sql/customers.sql}
  data_interface: {task_type: classification, target_col: churned, positive_class: "yes", entity_cols: [customer_id]}
evaluation:
  metrics: [accuracy, roc_auc, f1]
  validation: {method: train_test_split, test_size: 0.2, stratify: true, random_state: 42}
""",
    "sql/customers.sql": """\
SELECT customer_id, age, plan, monthly_fee, months, support_calls, churned
FROM customers
ORDER BY customer_id
""",
}
"""File to text. @NAME@ is the project's name, @NAMESPACES@ the packages that a recipe may name."""
