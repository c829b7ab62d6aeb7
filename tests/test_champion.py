"""The last model of the recipe beside the new one: judged on the same sealed rows, where it saw none of them."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

import recipeline
from recipeline import artifact, settings
from recipeline.champion import ALIAS
from recipeline.contracts import Fold, Selected
from recipeline.record import Rows, rows_of, trained_on

METRICS = ["accuracy", "log_loss"]


def recipe(folder: Path, frame: pd.DataFrame, *, model: str = "sklearn.naive_bayes.GaussianNB", **more: Any) -> Path:
    """A recipe over these rows."""
    frame.to_csv(folder / "rows.csv", index=False)
    interface = {"task_type": "classification", "target_col": "y", "timestamp_col": "day"} | more.get("interface", {})
    tree = {
        "name": more.get("name", "rolling"),
        "model": {"class_path": model, "loader": {"source_uri": "rows.csv"}, "data_interface": interface},
        "evaluation": {"metrics": more.get("metrics", METRICS), "validation": more.get("validation", {"method": "time_split"})},
    }
    path = folder / "rolling.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def days(n: int, *, seed: int = 0) -> pd.DataFrame:
    """Rows of `n` days, ten a day, of which the first are always the same."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 2, n * 10)
    a, b = random.normal(size=(2, n * 10))
    return pd.DataFrame({"day": np.arange(n).repeat(10), "a": y + a, "b": y - b, "y": y})


def results(run: recipeline.Run) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((run.artifact / "metrics.json").read_text())
    return found


def test_the_first_run_has_none(project: Path) -> None:
    """Only the dummy."""
    run = recipeline.train(recipe(project, days(30)))
    assert set(run.baselines) == {"dummy"}
    assert "champion" not in results(run)


def test_on_the_same_rows_the_champion_scores_what_it_scored_before(project: Path) -> None:
    """Same cut, so it saw none of the sealed rows: its figures are those of its own run, to the last bit."""
    first = recipeline.train(recipe(project, days(30)))
    second = recipeline.train(recipe(project, days(30), model="sklearn.linear_model.LogisticRegression"))
    assert second.baselines["champion"] == first.metrics
    assert results(second)["champion"] == {"run_id": first.id, "reason": ""}
    assert second.metrics != first.metrics
    text = (second.artifact / "report.html").read_text()
    assert "champion" in text


def test_next_months_rows_judge_both(project: Path) -> None:
    """Newer rows are sealed for the champion as well; what it says of them is what the library says."""
    first = recipeline.train(recipe(project, days(30)))
    longer = days(45)
    longer.loc[: 30 * 10 - 1] = days(30)
    second = recipeline.train(recipe(project, longer))
    assert set(second.baselines) == {"dummy", "champion"}
    sealed = longer[longer["day"] >= 36]
    output = recipeline.load(first.id).predict(sealed)
    assert second.baselines["champion"]["accuracy"] == pytest.approx(
        (output["prediction"].to_numpy() == sealed["y"].to_numpy()).mean(), abs=1e-12
    )


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({"validation": {"method": "time_split", "refit_on": "all"}}, {}, "fitted on 60 of the rows that are sealed now"),
        ({"validation": {"method": "train_test_split"}}, {}, "of the rows that are sealed now"),
        ({"validation": {"method": "time_split", "test_size": 0.1}}, {}, "fitted on 30 of the rows that are sealed now"),
        ({"interface": {"positive_class": 0}}, {}, "answers another question: positive_class differ"),
        ({"model": "sklearn.svm.LinearSVC", "metrics": ["accuracy"]}, {}, "log_loss needs probabilities"),
    ],
)
def test_where_it_would_not_be_fair_it_says_why(
    project: Path, caplog: pytest.LogCaptureFixture, first: dict[str, Any], second: dict[str, Any], words: str
) -> None:
    """No figure that means something else: no champion, and the reason in the log and in metrics.json."""
    frame = days(30)
    before = recipeline.train(recipe(project, frame, **first))
    after = recipeline.train(recipe(project, frame, **second))
    assert set(after.baselines) == {"dummy"}
    about = results(after)["champion"]
    assert about["run_id"] == before.id
    assert words in about["reason"]
    assert words in caplog.text
    assert words in html.unescape((after.artifact / "report.html").read_text())


def test_a_new_column_is_no_reason_where_rows_have_names(project: Path) -> None:
    """Rows that a key tells apart are known by it; without one, other columns are other rows."""
    frame = days(30)
    recipeline.train(recipe(project, frame.drop(columns="b"), name="nameless"))
    nameless = recipeline.train(recipe(project, frame, name="nameless"))
    assert "have other columns" in results(nameless)["champion"]["reason"]
    frame["id"] = np.arange(len(frame))
    interface = {"entity_cols": ["id"]}
    before = recipeline.train(recipe(project, frame.drop(columns="b"), interface=interface))
    after = recipeline.train(recipe(project, frame, interface=interface))
    assert after.baselines["champion"] == before.metrics


def test_an_alias_names_the_champion(project: Path) -> None:
    """`models:/<recipe>@champion` comes before the last run."""
    first = recipeline.train(recipe(project, days(30)))
    import mlflow  # late: where it is the first to come, it sets up a logging of its own

    configured = settings.load(project=project)
    mlflow.set_tracking_uri(str(configured.mlflow.tracking_uri))
    try:
        client = mlflow.MlflowClient()
        client.create_registered_model("rolling")
        version = client.create_model_version("rolling", str(first.artifact), run_id=first.id)
        client.set_registered_model_alias("rolling", ALIAS, version.version)
    finally:
        mlflow.set_tracking_uri(None)
    second = recipeline.train(recipe(project, days(30), model="sklearn.linear_model.LogisticRegression"))
    third = recipeline.train(recipe(project, days(30), model="sklearn.tree.DecisionTreeClassifier"))
    assert results(second)["champion"]["run_id"] == results(third)["champion"]["run_id"] == first.id


def test_a_damaged_champion_is_a_warning(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The new model is trained all the same, and nothing of the damaged one was read."""
    first = recipeline.train(recipe(project, days(30)))
    part = first.artifact / "parts" / "model" / "part.skops"
    part.write_bytes(part.read_bytes()[:-1] + b"!")
    second = recipeline.train(recipe(project, days(30)))
    assert set(second.baselines) == {"dummy"}
    assert "cannot be opened" in results(second)["champion"]["reason"]
    assert "cannot be opened" in caplog.text


def test_the_switch(project: Path) -> None:
    """`execution.champion: false` asks for none."""
    recipeline.train(recipe(project, days(30)))
    second = recipeline.train(recipe(project, days(30)), settings=settings.load(project=project, overrides=["execution.champion=false"]))
    assert set(second.baselines) == {"dummy"}


def test_over_folds_every_fold_asks(project: Path, command: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """A pipeline fitted on all rows saw each fold; the command's answer holds what was judged."""
    validation = {"method": "cross_validation", "folds": 3}
    recipeline.train(recipe(project, days(30), validation=validation))
    answer = command("train", "--recipe-file", recipe(project, days(30), validation=validation), "--json")
    assert answer.code == 0
    assert set(answer.json["baselines"]) == {"dummy"}
    assert "fitted on 300 of the rows" in caplog.text


def test_many_rows_are_remembered_by_a_sample() -> None:
    """At most the number promised; a leak among many rows is still seen."""
    random = np.random.default_rng(0)
    rows = Rows(("a",), random.integers(0, 2**63, 1_000_000, dtype=np.uint64))
    table, every = rows.sample(np.arange(800_000))
    assert 25_000 < len(table) <= 100_000
    assert every == 16
    assert np.isin(table["hash"], rows.hashes[:800_000]).all()
    assert np.isin(rows.hashes[700_000:], table["hash"].to_numpy()).sum() == pytest.approx(100_000 / every, rel=0.1)


def test_rows_are_known_by_their_keys() -> None:
    """By the columns that name a row where there are any: a corrected value does not make a row new."""
    frame = pd.DataFrame({"id": [1, 2], "a": [0.5, 0.7]})
    keyed = Selected(X=frame[["a"]], keys=frame[["id"]])
    corrected = Selected(X=frame[["a"]] + 1, keys=frame[["id"]])
    one, other = rows_of(keyed, frame), rows_of(corrected, frame.assign(a=frame["a"] + 1))
    assert one is not None
    assert other is not None
    np.testing.assert_array_equal(one.hashes, other.hashes)
    twice = rows_of(Selected(X=frame[["a"]], keys=pd.DataFrame({"id": [1, 1]})), frame)  # a key that does not tell rows apart
    assert twice is not None
    assert twice.columns == ("id", "a")
    assert rows_of(Selected(X=object()), object()) is None
    np.testing.assert_array_equal(trained_on(Fold(np.arange(3), None, validation=np.arange(3, 5))), np.arange(5))


def test_the_artifact_still_verifies(project: Path) -> None:
    """The rows remembered are a file like any other."""
    run = recipeline.train(recipe(project, days(30)))
    assert "fitted_rows.parquet" in artifact.verify(run.artifact).files
