"""Columns that training left out: rows to predict need not have them, through any door."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import recipeline
from recipeline.components.preprocessing import DefaultPreprocessor
from recipeline.errors import DataError, RecipeError
from recipeline.serve.rows import RowReader

RECIPE = """
name: left_out
model:
  class_path: sklearn.linear_model.LogisticRegression
  loader: {name: default_loader, source_uri: customers.csv}
  preprocessor:
    name: default_preprocessor
    params:
      exclude_cols: [note, signed_up, churned]
      numerical_strategy: standard
  data_interface: {task_type: classification, target_col: churned, entity_cols: [customer]}
evaluation:
  metrics: [accuracy]
  validation: {method: train_test_split, test_size: 0.25, random_state: 1}
"""


@pytest.fixture
def customers() -> pd.DataFrame:
    random = np.random.default_rng(3)
    n = 80
    age, spent = random.integers(18, 80, n), random.gamma(2.0, 100.0, n).round(2)
    return pd.DataFrame(
        {
            "customer": [f"c{number}" for number in range(n)],
            "note": random.choice(["called", "wrote", "came"], n),
            "age": age,
            "signed_up": pd.date_range("2020-01-01", periods=n).strftime("%Y-%m-%d"),
            "spent": spent,
            "churned": (age + spent / 10 + random.normal(0, 5, n) > 65).astype(int),
        }
    )


@pytest.fixture
def run(project: Path, customers: pd.DataFrame) -> recipeline.Run:
    customers.to_csv(project / "customers.csv", index=False)
    (project / "left_out.yaml").write_text(RECIPE)
    return recipeline.train(project / "left_out.yaml")


def test_rows_need_not_have_what_the_preprocessor_never_reads(
    run: recipeline.Run, customers: pd.DataFrame, command: Callable[..., Any], tmp_path: Path
) -> None:
    """Library, batch and server answer rows with only the columns that count, and rows with all of them, with the same bits."""
    pipeline = recipeline.load(run.id)
    assert pipeline.schema.features == ("age", "spent")
    everything = pipeline.predict(customers)
    needed = customers[["customer", "spent", "age"]]
    pd.testing.assert_frame_equal(pipeline.predict(needed), everything)
    strange = customers.assign(note=0.5, signed_up=None)
    pd.testing.assert_frame_equal(pipeline.predict(strange), everything)
    with pytest.raises(DataError, match="'age' is missing"):
        pipeline.predict(customers.drop(columns="age"))

    needed.to_csv(tmp_path / "few.csv", index=False)
    answer = command("batch-inference", "--run-id", run.id, "--input", tmp_path / "few.csv", "--output", tmp_path / "few.parquet", "--json")
    assert answer.code == 0, answer
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "few.parquet"), everything, check_dtype=False)

    reader = RowReader(pipeline.schema, max_rows=100)
    sent = reader.read(json.dumps({"records": json.loads(needed.to_json(orient="records"))}).encode())
    pd.testing.assert_frame_equal(pipeline.predict(sent.frame), everything)
    assert reader.read(json.dumps({"age": 40, "spent": 3.5, "note": 7}).encode()).extra == 1


def test_the_artifact_says_which_columns_are_needed(run: recipeline.Run) -> None:
    """The stored contract, and the signature that MLflow reads, have no column that is never read."""
    stored = json.loads((run.artifact / "input_schema.json").read_text())
    assert [column["name"] for column in stored["columns"]] == ["customer", "age", "spent"]
    told = (run.artifact / "MLmodel").read_text()
    assert "signed_up" not in told
    assert "spent" in told


def test_a_preprocessor_that_was_fitted_with_the_columns_it_leaves_out_still_answers(customers: pd.DataFrame) -> None:
    """Artifacts of before keep positions among all columns, and a contract with all of them."""
    frame = customers[["note", "age", "signed_up", "spent"]]
    now = DefaultPreprocessor(exclude_cols=["note", "signed_up"]).fit(frame)
    before = DefaultPreprocessor(exclude_cols=["note", "signed_up"]).fit(frame)
    before.feature_names_in_, before.n_features_in_ = np.array(frame.columns, dtype=object), 4
    before.numeric_ = np.array([1, 3])
    np.testing.assert_array_equal(before.transform(frame), now.transform(frame))
    np.testing.assert_array_equal(now.transform(frame), now.transform(frame[["spent", "age"]]))


def test_a_search_may_choose_what_is_left_out(project: Path, customers: pd.DataFrame) -> None:
    """The contract is that of the pipeline that won."""
    customers.to_csv(project / "customers.csv", index=False)
    choice = "exclude_cols: {type: categorical, choices: [[note, signed_up, spent, age], [note, signed_up, spent]]}"
    text = RECIPE.replace("exclude_cols: [note, signed_up, churned]", choice) + "hyperparameter_tuning: {enabled: true, n_trials: 3}\n"
    (project / "left_out.yaml").write_text(text)
    run = recipeline.train(project / "left_out.yaml")
    assert recipeline.load(run.id).schema.features == ("age",)


def test_a_column_cannot_be_left_out_and_go_through_a_step(customers: pd.DataFrame) -> None:
    """It would be read and not read."""
    from sklearn.preprocessing import StandardScaler

    part = DefaultPreprocessor(exclude_cols=["age"], steps=[("scaled", StandardScaler(), ["age"])])
    with pytest.raises(RecipeError, match="column age is in exclude_cols as well"):
        part.fit(customers[["age", "spent"]])
