"""One input through the doors: library, batch, HTTP, and MLflow's own. The same rows in one call give the same bits."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

import recipeline
from crashing import Nursery, Started
from recipeline import settings
from recipeline.errors import DataError

pytestmark = [
    pytest.mark.xdist_group("doors"),  # one run and one server for all that ask them
    # What `import mlflow.pyfunc` says about MLflow's own type hints.
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]

SCALED = "preprocessor: {name: default_preprocessor, params: {numerical_strategy: standard}}"
RECIPES = {
    "mixed": f"""
  class_path: sklearn.linear_model.LogisticRegression
  {SCALED}
  data_interface: {{task_type: classification, target_col: churned, entity_cols: [customer]}}""",
    "numeric": f"""
  class_path: sklearn.linear_model.LogisticRegression
  hyperparameters: {{max_iter: 1000}}
  {SCALED}
  data_interface: {{task_type: classification, target_col: diagnosis, positive_class: malignant, entity_cols: [patient_id]}}""",
    "regression": f"""
  class_path: sklearn.linear_model.Ridge
  {SCALED}
  data_interface: {{task_type: regression, target_col: target}}""",
    "targets": """
  class_path: sklearn.multioutput.MultiOutputRegressor
  hyperparameters: {estimator: {class_path: sklearn.ensemble.RandomForestRegressor, hyperparameters: {n_estimators: 10}}}
  data_interface: {task_type: regression, target_col: [Weight, Waist, Pulse]}""",
    "clusters": f"""
  class_path: sklearn.cluster.KMeans
  hyperparameters: {{n_clusters: 3}}
  {SCALED}
  data_interface: {{task_type: clustering, label_col: target}}""",
    "effects": f"""
  class_path: t_learner
  hyperparameters: {{learner: {{class_path: sklearn.linear_model.LogisticRegression}}}}
  {SCALED}
  data_interface: {{task_type: causal, target_col: bought, treatment_col: coupon, entity_cols: [customer_id]}}""",
}
TARGETS = {
    "mixed": ["churned"],
    "numeric": ["diagnosis"],
    "regression": ["target"],
    "targets": ["Weight", "Waist", "Pulse"],
    "clusters": ["target"],
    "effects": ["bought", "coupon"],
}
DATA = {
    "mixed": "mixed",
    "numeric": "breast_cancer",
    "regression": "diabetes",
    "targets": "linnerud",
    "clusters": "wine",
    "effects": "coupons",
}


def customers(n: int = 400) -> pd.DataFrame:
    """Text, booleans, whole numbers and floats; two of the columns have nulls."""
    rng = np.random.default_rng(11)
    frame = pd.DataFrame(
        {
            "customer": [f"c{number:04d}" for number in range(n)],
            "age": rng.integers(18, 90, n),
            "income": rng.normal(2000.0, 500.0, n),
            "score": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
            "member": rng.random(n) < 0.5,
            "country": rng.choice(["dk", "kr", "nl"], n),
            "plan": np.where(rng.random(n) < 0.2, None, rng.choice(["basic", "plus"], n)),
        }
    )
    frame["churned"] = np.where(frame["income"] + 20 * frame["age"] + 300 * frame["member"] + rng.normal(0, 300, n) > 3200, "yes", "no")
    return frame


@dataclass(frozen=True)
class Doors:
    """A trained run with every way into it."""

    name: str
    home: Path
    nursery: Nursery
    artifact: Path
    run_id: str
    url: str
    rows: pd.DataFrame

    def library(self, rows: pd.DataFrame) -> pd.DataFrame:
        return recipeline.load(self.artifact, settings=settings.load(project=self.home, environ={})).predict(rows)

    def batch(self, rows: pd.DataFrame, *more: str, kind: str = "parquet") -> Any:
        """What `batch-inference` wrote, or how it ended, having written nothing."""
        given, output = self.home / f"given.{kind}", self.home / "out" / f"out.{kind}"
        shutil.rmtree(output.parent, ignore_errors=True)
        _written(rows, given)
        command = ["batch-inference", "--run-id", self.run_id, "--input", given, "--output", output, "--overwrite", "--json", *more]
        ended = self.nursery.run(self.home, *command)
        if ended.code != 0:
            assert not output.parent.exists() or not list(output.parent.iterdir())
            return ended
        return _read(output)

    def post(self, rows: pd.DataFrame | list[dict[str, Any]]) -> httpx.Response:
        return httpx.post(f"{self.url}/predict", json=rows if isinstance(rows, list) else _records(rows), timeout=30)

    def http(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The answers as the frame that the other doors give."""
        answer = self.post(rows)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["run_id"] == self.run_id
        lines = []
        for one in body["predictions"]:
            line = {name: value for name, value in one.items() if name != "probabilities"}
            line |= {f"probability_{label}": value for label, value in one.get("probabilities", {}).items()}
            lines.append(line)
        return pd.DataFrame(lines)


def _written(rows: pd.DataFrame, path: Path) -> None:
    rows.to_parquet(path, index=False) if path.suffix == ".parquet" else rows.to_csv(path, index=False)


def _read(path: Path) -> pd.DataFrame:
    return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, float_precision="round_trip")


def _records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    columns = [column.astype(object).where(column.notna(), None).tolist() for _, column in rows.items()]
    return [dict(zip(rows.columns, values, strict=True)) for values in zip(*columns, strict=True)]


def _same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Columns, order and every bit."""
    assert list(one.columns) == list(other.columns)
    pd.testing.assert_frame_equal(one.reset_index(drop=True), other.reset_index(drop=True), check_exact=True, check_dtype=False)


def _near(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Labels equal, numbers to 1e-12: another chunking, another order of summation in BLAS."""
    for name in one.columns:
        if pd.api.types.is_numeric_dtype(one[name]):
            np.testing.assert_allclose(one[name].to_numpy(), other[name].to_numpy(), rtol=1e-12, atol=1e-12)
        else:
            assert one[name].tolist() == other[name].tolist()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, recipe_data: Path, empty_store: Path) -> Path:
    folder = tmp_path_factory.mktemp("doors") / "home"
    (folder / "config").mkdir(parents=True)
    (folder / "config" / "base.yaml").write_text("execution: {report: false}\napi_serving: {enabled: true}\n")
    (folder / "config" / "local.yaml").write_text("")
    shutil.copy(empty_store, folder / "mlflow.db")
    for name, data in DATA.items():
        frame = customers() if name == "mixed" else pd.read_csv(recipe_data / f"{data}.csv")
        frame.to_parquet(folder / f"{data}.parquet", index=False)
        text = f"name: {name}\nmodel:{RECIPES[name]}\n  loader: {{name: default_loader, source_uri: {data}.parquet}}\n"
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module", params=sorted(RECIPES))
def doors(request: pytest.FixtureRequest, home: Path, nursery: Nursery) -> Iterator[Doors]:
    name = request.param
    trained = nursery.run(home, "train", "--recipe-file", f"{name}.yaml", "--json")
    assert trained.code == 0, trained
    run_id = trained.json["run_id"]
    server = nursery.start(home, "serve-api", "--run-id", run_id, "--port", "0")
    rows = pd.read_parquet(home / f"{DATA[name]}.parquet").drop(columns=TARGETS[name])
    try:
        yield Doors(name, home, nursery, Path(trained.json["artifact"]), run_id, _address(server), rows)
    finally:
        assert nursery.stop(server) in (0, 143)


def _address(server: Started) -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if found := re.search(r"http://127\.0\.0\.1:[1-9][0-9]*", server.out.read_text()):
            return found.group()
        time.sleep(0.02)
    raise AssertionError(server.err.read_text())


# --- the same rows ---------------------------------------------------------------------------------------------------------


def test_the_same_rows_give_the_same_bits_through_every_door(doors: Doors) -> None:
    """Library, batch to Parquet and to CSV, HTTP: the same columns in the same order, to the last bit."""
    expected = doors.library(doors.rows)
    assert len(expected) == len(doors.rows)
    _same(doors.batch(doors.rows), expected)
    _same(doors.batch(doors.rows, kind="csv"), expected)
    _same(doors.http(doors.rows), expected)


def test_mlflows_own_door_gives_the_same_bits(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    """`mlflow.pyfunc.load_model` on the run."""
    import mlflow

    monkeypatch.chdir(doors.home)
    model = mlflow.pyfunc.load_model(str(doors.artifact))
    _same(model.predict(doors.rows), doors.library(doors.rows))


@pytest.mark.parametrize("size", [1, 7])
def test_another_chunking_agrees_to_a_trillionth(doors: Doors, size: int) -> None:
    """One row at a time, or seven: labels equal, numbers to 1e-12; and the same chunking again is bit-equal."""
    rows = doors.rows.head(20)
    expected = doors.library(rows)
    pieces = [doors.library(rows.iloc[begin : begin + size]) for begin in range(0, len(rows), size)]
    _near(pd.concat(pieces, ignore_index=True), expected)
    asked = pd.concat([doors.http(rows.iloc[begin : begin + size]) for begin in range(0, len(rows), size)], ignore_index=True)
    _same(asked, pd.concat(pieces, ignore_index=True))  # the same pieces: the same bits
    batched = doors.batch(rows, "--set", f"execution.batch.rows={size}")
    _same(batched, asked)
    _same(doors.batch(rows, "--set", f"execution.batch.rows={size}"), batched)


# --- rows that are not quite those of training -------------------------------------------------------------------------------


def test_columns_in_another_order_change_nothing(doors: Doors) -> None:
    """Names count, not places."""
    shuffled = doors.rows[doors.rows.columns[::-1]]
    expected = doors.library(doors.rows)
    for answered in (doors.library(shuffled), doors.batch(shuffled), doors.http(shuffled)):
        _same(answered, expected)


def test_whole_numbers_are_taken_for_floats(doors: Doors) -> None:
    """An integer where training had a float is that float."""
    names = [name for name in doors.rows.columns if doors.rows[name].dtype == np.float64 and doors.rows[name].notna().all()]
    assert names
    floats = doors.rows.assign(**{name: (doors.rows[name] * 10).round() for name in names})
    whole = floats.astype(dict.fromkeys(names, np.int64))
    expected = doors.library(floats)
    for answered in (doors.library(whole), doors.batch(whole), doors.batch(whole, kind="csv"), doors.http(whole)):
        _same(answered, expected)


def test_extra_columns_are_ignored(doors: Doors) -> None:
    """The target among them: who has it need not take it away."""
    extra = doors.rows.assign(remark="x", **dict.fromkeys(TARGETS[doors.name], 0))
    expected = doors.library(doors.rows)
    for answered in (doors.library(extra), doors.batch(extra), doors.http(extra)):
        _same(answered, expected)


def test_a_missing_column_is_refused_by_its_name(doors: Doors) -> None:
    """Where training had no nulls: DataError, exit 5, 422 with a pointer."""
    name = next(column for column in doors.rows.columns if doors.rows[column].dtype == np.float64 and doors.rows[column].notna().all())
    less = doors.rows.drop(columns=name)
    with pytest.raises(DataError, match=re.escape(f"column {name!r} is missing")):
        doors.library(less)
    ended = doors.batch(less)
    assert ended.code == 5, ended
    assert repr(name) in ended.json["error"]["message"]
    answer = doors.post(less.head(3))
    assert answer.status_code == 422
    assert {error["pointer"] for error in answer.json()["errors"]} == {f"/rows/{row}/{name}" for row in range(3)}
    _same(doors.http(doors.rows), doors.library(doors.rows))  # and the next good one succeeds


def test_a_null_where_training_had_none_is_refused(doors: Doors) -> None:
    """It is said which column, and the row."""
    name = next(column for column in doors.rows.columns if doors.rows[column].dtype == np.float64 and doors.rows[column].notna().all())
    broken = doors.rows.head(5).copy()
    broken.loc[3, name] = np.nan
    with pytest.raises(DataError, match=re.escape(repr(name))):
        doors.library(broken)
    ended = doors.batch(broken)
    assert ended.code == 5
    assert "row 3" in ended.err
    answer = doors.post(broken)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == [f"/rows/3/{name}"]


@pytest.mark.parametrize("doors", ["mixed"], indirect=True)
def test_a_column_that_had_nulls_may_be_missing_or_null(doors: Doors) -> None:
    """Both mean the same, through every door."""
    without = doors.rows.drop(columns=["score", "plan"])
    nulls = doors.rows.assign(score=np.nan, plan=None)
    expected = doors.library(nulls)
    assert not expected.equals(doors.library(doors.rows))
    for given in (without, nulls):
        for answered in (doors.library(given), doors.batch(given), doors.batch(given, kind="csv"), doors.http(given)):
            _same(answered, expected)


@pytest.mark.parametrize("doors", ["mixed"], indirect=True)
def test_a_category_that_training_did_not_have_is_answered_alike(doors: Doors) -> None:
    """No door knows better than the others what to make of it."""
    strange = doors.rows.assign(country="zz")
    expected = doors.library(strange)
    for answered in (doors.batch(strange), doors.batch(strange, kind="csv"), doors.http(strange)):
        _same(answered, expected)


@pytest.mark.parametrize("doors", ["mixed"], indirect=True)
def test_text_in_a_number_is_refused_everywhere(doors: Doors) -> None:
    """Never a plausible number."""
    broken = doors.rows.head(4).assign(income=["1", "2", "x", "4"])
    with pytest.raises(DataError, match="'income'"):
        doors.library(broken)
    assert doors.batch(broken).code == 5
    assert doors.batch(broken, kind="csv").code == 5
    answer = doors.post(json.loads(broken.to_json(orient="records")))
    assert answer.status_code == 422
    assert "/rows/2/income" in {error["pointer"] for error in answer.json()["errors"]}
