"""Batch inference: rows in are rows out, whole or not at all, once."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pickle
import random
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from attempts import spawn
from recipeline import batch
from recipeline.batch import run_batch
from recipeline.components.classification import Classification, ClassificationInterface
from recipeline.components.evaluators import TabularEvaluator
from recipeline.components.loaders import DefaultLoader
from recipeline.components.regression import Regression, RegressionInterface
from recipeline.contracts import FitContext
from recipeline.errors import Conflict, DataError, Exhausted, UsageError
from recipeline.pipeline import Pipeline
from recipeline.stores import files
from recipeline.stores.places import Places

N = 1000


def table(rows: int = N, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"id": np.arange(rows) + 10, "x": rng.normal(size=rows), "z": rng.normal(size=rows)})
    frame["name"] = [f"row {i}" if i % 3 else None for i in range(rows)]
    frame["y"] = np.where(frame["x"] + 0.3 * rng.normal(size=rows) > 0, "yes", "no")
    return frame


def fitted(frame: pd.DataFrame) -> Pipeline:
    task = Classification(ClassificationInterface(target_col="y", entity_cols=("id", "name")))
    schema = task.describe(frame)
    model = make_pipeline(StandardScaler(), LogisticRegression())
    return Pipeline(task=task, schema=schema, model=model).fit(task.select(frame, schema, targets=True), FitContext(seed=0, folder=Path()))


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return fitted(table())


@pytest.fixture
def places(tmp_path: Path) -> Places:
    files.write_frame(tmp_path / "input.parquet", table())
    return Places(project=tmp_path, folder=tmp_path)


@pytest.fixture
def loader(places: Places) -> DefaultLoader:
    return DefaultLoader("input.parquet", places=places)


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with the digest of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()
    }


OUTPUTS = ("out/p.parquet", "out/p.csv", "out/p.csv.gz", "out/parts/")


def read(path: str | Path) -> pd.DataFrame:
    return pd.read_parquet(path) if Path(path).is_dir() else files.read_frame(path)


# --- rows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", OUTPUTS)
def test_rows_in_are_rows_out_in_order(output: str, pipeline: Pipeline, loader: DefaultLoader, tmp_path: Path) -> None:
    """The same content as one call of `predict`: labels equal, probabilities to 1e-12, ids kept."""
    result = run_batch(pipeline, loader, run_id="r1", output=str(tmp_path / output) + "/" * output.endswith("/"), rows=64)
    assert (result.rows, result.already_done, result.metrics) == (N, False, None)
    found, whole = read(tmp_path / output), pipeline.predict(loader.load())
    assert list(found.columns) == list(whole.columns) == ["id", "name", "prediction", "probability_no", "probability_yes"]
    assert found["id"].tolist() == list(range(10, N + 10))
    assert found["name"].where(found["name"].notna(), None).tolist() == whole["name"].tolist()
    assert found["prediction"].tolist() == whole["prediction"].tolist()
    np.testing.assert_allclose(found["probability_yes"], whole["probability_yes"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_rerun_is_the_same_bytes(output: str, pipeline: Pipeline, loader: DefaultLoader, tmp_path: Path) -> None:
    for attempt in ("a", "b"):
        run_batch(pipeline, loader, run_id="r1", output=str(tmp_path / attempt / output) + "/" * output.endswith("/"), rows=64)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_row_groups_of_the_input_do_not_change_the_output(pipeline: Pipeline, places: Places, tmp_path: Path) -> None:
    """Borders of batches are counted from row 0."""
    import pyarrow.parquet as pq

    for name, size in (("a", 7), ("b", 333)):
        pq.write_table(pa.Table.from_pandas(table()), tmp_path / f"{name}.parquet", row_group_size=size)
        loader = DefaultLoader(f"{name}.parquet", places=places)
        run_batch(pipeline, loader, run_id="r1", output=str(tmp_path / name / "p.parquet"), rows=64, fingerprint="same")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


class Foreign:
    """A loader of somebody's own: batches as they come, no source."""

    def __init__(self, frame: pd.DataFrame, sizes: tuple[int, ...] = (3, 100, 1, 896)) -> None:
        self.frame, self.sizes = frame, sizes

    def load(self) -> pd.DataFrame:
        return self.frame

    def batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        begin = 0
        for size in self.sizes:
            yield pa.RecordBatch.from_pandas(self.frame.iloc[begin : begin + size], preserve_index=False)
            begin += size


class Plain:
    """A loader that only loads."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.frame = frame

    def load(self) -> pd.DataFrame:
        return self.frame


def test_foreign_loaders_give_the_same_rows(pipeline: Pipeline, tmp_path: Path) -> None:
    """However they cut them, whether or not they stream: one output, one key."""
    found = []
    for number, loader in enumerate((Foreign(table()), Foreign(table(), (1000,)), Plain(table()))):
        run_batch(pipeline, loader, run_id="r1", output=str(tmp_path / str(number) / "p.parquet"), rows=64)
        found.append(tree(tmp_path / str(number)))
    assert found[0] == found[1] == found[2]


def test_a_key_column_keeps_its_type_through_nulls(pipeline: Pipeline, tmp_path: Path) -> None:
    """Whole numbers with nulls in one batch only, and text that begins with nulls."""
    frame = table(200).drop(columns="y")
    given = pa.RecordBatch.from_pandas(frame, preserve_index=False)
    ids = pa.array([None if i == 150 else i for i in range(200)], type=pa.int64())
    given = given.set_column(0, "id", ids).set_column(3, "name", pa.array([None] * 100 + ["x"] * 100, type=pa.string()))

    class Typed:
        def load(self) -> Any:
            raise NotImplementedError

        def batches(self, rows: int) -> Iterator[pa.RecordBatch]:
            yield given

    run_batch(pipeline, Typed(), run_id="r1", output=str(tmp_path / "p.parquet"), rows=50)
    import pyarrow.parquet as pq

    back = pq.read_table(tmp_path / "p.parquet")
    assert back.schema.field("id").type == pa.int64()
    assert back.column("id").to_pylist() == ids.to_pylist()
    assert back.column("name").to_pylist() == given.column("name").to_pylist()


@pytest.mark.parametrize("output", OUTPUTS)
def test_no_rows_are_an_output_without_rows(output: str, pipeline: Pipeline, places: Places, tmp_path: Path) -> None:
    files.write_frame(tmp_path / "none.parquet", table().head(0))
    result = run_batch(
        pipeline, DefaultLoader("none.parquet", places=places), run_id="r1", output=str(tmp_path / output) + "/" * output.endswith("/")
    )
    assert result.rows == 0
    found = read(tmp_path / output)
    assert list(found.columns) == ["id", "name", "prediction", "probability_no", "probability_yes"]
    assert len(found) == 0


def test_numbers_are_predicted_as_well(places: Places, loader: DefaultLoader, tmp_path: Path) -> None:
    frame = table().assign(y=lambda f: 2 * f["x"] + 1)
    task = Regression(RegressionInterface(target_col=("y",), entity_cols=("id", "name")))
    schema = task.describe(frame)
    pipeline = Pipeline(task=task, schema=schema, model=LinearRegression())
    pipeline.fit(task.select(frame, schema, targets=True), FitContext(seed=0, folder=tmp_path))
    run_batch(pipeline, loader, run_id="r1", output=str(tmp_path / "p.parquet"), rows=64)
    np.testing.assert_allclose(read(tmp_path / "p.parquet")["prediction"], 2 * frame["x"] + 1, rtol=0, atol=1e-12)


class Whole:
    """A task whose rows hang together: each answer is about all of them."""

    streams: ClassVar[str] = "whole"


class Ranked:
    """A pipeline that answers with the rank of each row among all, and leaves one row out."""

    def __init__(self, streams: str) -> None:
        self.task = type("Task", (Whole,), {"streams": streams})()
        self.calls: list[int] = []

    def predict(self, rows: pd.DataFrame, *, augmented: bool = False) -> pd.DataFrame:
        self.calls.append(len(rows))
        return pd.DataFrame({"id": rows["id"], "rank": rows["x"].rank()}).iloc[1:]


@pytest.mark.parametrize("streams", ["whole", "groups"])
def test_a_task_that_may_not_be_cut_is_not_cut(streams: str, loader: DefaultLoader, tmp_path: Path) -> None:
    pipeline = Ranked(streams)
    result = run_batch(pipeline, loader, run_id="r1", output=str(tmp_path / "p.parquet"), rows=64)
    assert pipeline.calls == [N]
    assert result.rows == N - 1
    assert read(tmp_path / "p.parquet")["rank"].max() == N
    assert run_batch(pipeline, Plain(table()), run_id="r1", output=str(tmp_path / "q.parquet"), rows=64).rows == N - 1


def test_a_task_of_rows_that_loses_one_is_an_error(loader: DefaultLoader, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="64 rows went in and 63 came out") as caught:
        run_batch(Ranked("rows"), loader, run_id="r1", output=str(tmp_path / "out" / "p.parquet"), rows=64)
    assert caught.value.where == "rows 0 to 63"
    assert not any((tmp_path / "out").iterdir())


def test_rows_that_break_the_contract_are_found_by_number(pipeline: Pipeline, places: Places, tmp_path: Path) -> None:
    frame = table()
    frame.loc[700, "x"] = np.nan
    files.write_frame(tmp_path / "bad.parquet", frame)
    for output in ("p.parquet", "parts/"):
        with pytest.raises(DataError, match="'x'") as caught:
            run_batch(pipeline, DefaultLoader("bad.parquet", places=places), run_id="r1", output=f"{tmp_path}/out/{output}", rows=64)
        assert caught.value.code == 5
        assert "rows 640 to 703" in str(caught.value)
        assert not any((tmp_path / "out").iterdir())


class Heard:
    def __init__(self) -> None:
        self.steps: list[tuple[int, int | None]] = []
        self.events: list[str] = []

    def report(self, step: int, value: float) -> bool:
        return False

    def advance(self, done: int, total: int | None = None, label: str = "") -> None:
        self.steps.append((done, total))

    def emit(self, name: str, **fields: Any) -> None:
        self.events.append(name)


def test_progress_and_events_are_told(pipeline: Pipeline, loader: DefaultLoader, tmp_path: Path) -> None:
    heard = Heard()
    run_batch(pipeline, loader, run_id="r1", output=str(tmp_path / "p.parquet"), rows=400, progress=heard, events=heard)
    assert heard.steps == [(400, N), (800, N), (1000, N)]
    assert heard.events == ["batch_started", "batch_finished"]


# --- once ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_same_again_is_already_done_and_anything_else_a_conflict(
    output: str, pipeline: Pipeline, loader: DefaultLoader, tmp_path: Path
) -> None:
    target = f"{tmp_path}/{output}"

    def again(**words: Any) -> Any:
        return run_batch(pipeline, loader, **{"run_id": "r1", "output": target, "params": {"day": "2024-01-01"}, "rows": 64, **words})

    assert not again().already_done
    before = tree(tmp_path / "out")
    same = again()
    assert same.already_done
    assert same.rows == N
    assert tree(tmp_path / "out") == before
    for other in ({"run_id": "r2"}, {"params": {"day": "2024-01-02"}}, {"fingerprint": "other"}):
        with pytest.raises(Conflict, match="--overwrite") as caught:
            again(**other)
        assert caught.value.code == 8
    assert tree(tmp_path / "out") == before
    assert not again(run_id="r2", overwrite=True).already_done
    assert again(run_id="r2").already_done
    assert set(tree(tmp_path / "out")) == set(before)
    with pytest.raises(Conflict):
        again()


def test_a_changed_input_is_another_content(pipeline: Pipeline, loader: DefaultLoader, tmp_path: Path) -> None:
    target = str(tmp_path / "p.parquet")
    run_batch(pipeline, loader, run_id="r1", output=target)
    files.write_frame(tmp_path / "input.parquet", table(seed=1))
    with pytest.raises(Conflict):
        run_batch(pipeline, loader, run_id="r1", output=target)


def test_a_query_is_known_by_the_rows_it_gives(pipeline: Pipeline, tmp_path: Path) -> None:
    """The same rows again, in batches of another size: already done. One value changed: a conflict."""
    with sqlite3.connect(tmp_path / "x.db") as connection:
        table().drop(columns="y").to_sql("events", connection, index=False)
    connection.close()
    adapters = {"sql": {"class_name": "SqlAdapter", "config": {"connection_uri": "sqlite:///x.db"}}}
    places = Places(project=tmp_path, folder=tmp_path, adapters=adapters)
    loader = DefaultLoader("SELECT * FROM events WHERE id > :above", places=places, context_params={"above": 50})
    for output in ("out/p.parquet", "out/p.csv", "out/parts/"):
        target = f"{tmp_path}/{output}"
        first = run_batch(pipeline, loader, run_id="r1", output=target, params={"above": 50}, rows=64)
        before = tree(tmp_path / "out")
        again = run_batch(pipeline, loader, run_id="r1", output=target, params={"above": 50}, rows=100)
        assert (first.already_done, again.already_done, again.rows) == (False, True, first.rows)
        assert tree(tmp_path / "out") == before
        with pytest.raises(Conflict):
            run_batch(pipeline, loader, run_id="r2", output=target, params={"above": 50})
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("UPDATE events SET x = x + 1e-9 WHERE id = 700")
    connection.close()
    before = tree(tmp_path / "out")
    for output in ("out/p.parquet", "out/p.csv", "out/parts/"):
        with pytest.raises(Conflict):
            run_batch(pipeline, loader, run_id="r1", output=f"{tmp_path}/{output}", params={"above": 50}, rows=64)
    assert tree(tmp_path / "out") == before


def columns() -> Mapping[str, pa.Array]:
    return {
        "i": pa.array([1, None, 3, 4]), "f": pa.array([0.5, float("nan"), None, -0.0]), "s": pa.array(["a", "", None, "ü"]),
        "b": pa.array([True, None, False, True]), "t": pa.array([0, 1, None, 3], type=pa.timestamp("us")),
        "x": pa.array([b"\0", b"", None, b"1"]),
        "d": pa.array(["a", None, "b", "a"]).dictionary_encode(), "n": pa.nulls(4), "l": pa.array([[1], None, [], [2, 3]]),
        "c": pa.array([1, 2, None, 4], type=pa.decimal128(5, 2)), "day": pa.array([1, 2, None, 3], type=pa.date32()),
    }  # fmt: skip


def digest(batch_of_rows: pa.RecordBatch, cuts: tuple[int, ...]) -> str:
    hashed = batch._RowsHash()
    for begin, end in itertools.pairwise((0, *cuts, batch_of_rows.num_rows)):
        hashed.update(batch_of_rows.slice(begin, end - begin))
    return hashed.hexdigest()


def test_the_digest_of_rows_does_not_depend_on_how_they_are_cut() -> None:
    rows = pa.RecordBatch.from_pydict(dict(columns()))
    whole = digest(rows, ())
    for cuts in ((1,), (2,), (1, 2, 3), (0, 4)):
        assert digest(rows, cuts) == whole
    seen = {whole}
    for name, column in columns().items():  # and it sees every value, null, place and name
        if name == "n":
            continue
        for order in ([1, 0, 2, 3], [0, 1, 3, 2], [0, 1, 2, 2]):
            changed = {**columns(), name: column.take(pa.array(order))}
            seen.add(digest(pa.RecordBatch.from_pydict(changed), ()))
        seen.add(digest(rows.rename_columns([other if other != name else "renamed" for other in rows.schema.names]), ()))
    assert len(seen) == 1 + 10 * 4


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_output_that_was_changed_is_not_taken_for_done(output: str, pipeline: Pipeline, loader: DefaultLoader, tmp_path: Path) -> None:
    target = f"{tmp_path}/{output}"
    run_batch(pipeline, loader, run_id="r1", output=target, rows=64)
    path = Path(target)
    victim = path / "part-00000.parquet" if path.is_dir() else path
    data = victim.read_bytes()
    victim.write_bytes(data[:-3])
    with pytest.raises(Conflict, match="changed"):
        run_batch(pipeline, loader, run_id="r1", output=target, rows=64)
    assert victim.read_bytes() == data[:-3]
    run_batch(pipeline, loader, run_id="r1", output=target, rows=64, overwrite=True)
    assert victim.read_bytes() == data


@pytest.mark.parametrize("output", OUTPUTS)
def test_files_of_others_are_left_alone(output: str, pipeline: Pipeline, loader: DefaultLoader, tmp_path: Path) -> None:
    """Without `overwrite` nothing is touched; a folder with other files in it is not even replaced with it."""
    path = tmp_path / output
    if output.endswith("/"):
        path.mkdir(parents=True)
        (path / "thesis.txt").write_text("years of work")
    else:
        path.parent.mkdir()
        path.write_text("years of work")
    before = tree(tmp_path / "out")
    with pytest.raises(Conflict):
        run_batch(pipeline, loader, run_id="r1", output=f"{tmp_path}/{output}")
    if output.endswith("/"):
        with pytest.raises(Conflict, match="other files"):
            run_batch(pipeline, loader, run_id="r1", output=f"{tmp_path}/{output}", overwrite=True)
    assert tree(tmp_path / "out") == before


def test_an_empty_folder_may_wait_for_the_output(pipeline: Pipeline, loader: DefaultLoader, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    assert run_batch(pipeline, loader, run_id="r1", output=f"{tmp_path}/parts/").rows == N


def test_the_input_is_never_the_output(pipeline: Pipeline, loader: DefaultLoader, tmp_path: Path) -> None:
    before = tree(tmp_path)
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="input itself"):
            run_batch(pipeline, loader, run_id="r1", output=str(tmp_path / "input.parquet"), overwrite=overwrite)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("output", ["s3://bucket/x.parquet", "x.xlsx", "x", ""])
def test_outputs_that_mean_nothing_are_refused_before_anything_is_read(output: str, pipeline: Pipeline) -> None:
    with pytest.raises(UsageError) as caught:
        run_batch(pipeline, Plain(table()), run_id="r1", output=output)
    assert caught.value.code == 2


def test_a_file_uri_is_a_path(pipeline: Pipeline, loader: DefaultLoader, tmp_path: Path) -> None:
    run_batch(pipeline, loader, run_id="r1", output=f"file://{tmp_path}/p.parquet")
    assert (tmp_path / "p.parquet").is_file()


# --- parts -----------------------------------------------------------------------------------------


def test_a_folder_of_parts_says_what_is_in_it(
    pipeline: Pipeline, loader: DefaultLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows and SHA-256 of each part, and the key; parts are whole batches."""
    monkeypatch.setattr(batch, "PART_ROWS", 300)
    run_batch(pipeline, loader, run_id="r1", output=f"{tmp_path}/parts/", rows=64, params={"secret": "canary"})
    commit = json.loads((tmp_path / "parts" / "_commit.json").read_text())
    assert [part["rows"] for part in commit["parts"]] == [256, 256, 256, 232]
    assert commit["rows"] == N
    assert commit["run_id"] == "r1"
    for part in commit["parts"]:
        assert hashlib.sha256((tmp_path / "parts" / part["name"]).read_bytes()).hexdigest() == part["sha256"]
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["_commit.json", *(part["name"] for part in commit["parts"])]
    assert "canary" not in (tmp_path / "parts" / "_commit.json").read_text()
    identity = json.dumps(["r1", commit["input"], '{"secret": "canary"}'])
    assert commit["key"] == hashlib.sha256(identity.encode()).hexdigest()
    assert commit["input"] == files.sha256(tmp_path / "input.parquet")


def test_an_overwritten_folder_has_no_part_of_the_old_one(
    pipeline: Pipeline, loader: DefaultLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "PART_ROWS", 100)
    run_batch(pipeline, loader, run_id="r1", output=f"{tmp_path}/parts/", rows=64)
    monkeypatch.setattr(batch, "PART_ROWS", 10_000)
    run_batch(pipeline, loader, run_id="r2", output=f"{tmp_path}/parts/", rows=64, overwrite=True)
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["_commit.json", "part-00000.parquet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["input.parquet", "parts"]


# --- scores ----------------------------------------------------------------------------------------


def test_rows_that_have_a_target_are_scored(pipeline: Pipeline, places: Places, tmp_path: Path) -> None:
    """By the other road: the metric of scikit-learn on those rows, taken at once."""
    from sklearn.metrics import accuracy_score, log_loss

    frame = table(seed=5)
    frame.loc[frame.index % 4 == 0, "y"] = None
    files.write_frame(tmp_path / "some.parquet", frame)
    loader = DefaultLoader("some.parquet", places=places)
    words: dict[str, Any] = {"evaluate": TabularEvaluator(), "metrics": ("accuracy", "log_loss"), "rows": 64}
    result = run_batch(pipeline, loader, run_id="r1", output=str(tmp_path / "p.parquet"), **words)
    known = frame[frame["y"].notna()]
    answers = pipeline.predict(known)
    assert result.rows == N
    assert result.metrics is not None
    assert result.metrics["accuracy"] == accuracy_score(known["y"], answers["prediction"])
    expected = log_loss(known["y"], answers[["probability_no", "probability_yes"]], labels=["no", "yes"])
    assert result.metrics["log_loss"] == pytest.approx(expected, abs=1e-12)
    again = run_batch(pipeline, loader, run_id="r1", output=str(tmp_path / "p.parquet"), **words)
    assert again.already_done
    assert again.metrics == result.metrics
    assert "metrics" in again.as_dict()


@pytest.mark.parametrize("missing", ["column", "values"])
def test_without_any_target_there_is_nothing_to_score(missing: str, pipeline: Pipeline, places: Places, tmp_path: Path) -> None:
    frame = table().drop(columns="y") if missing == "column" else table().assign(y=None)
    files.write_frame(tmp_path / "bare.parquet", frame)
    with pytest.raises(DataError, match="no row has a target"):
        run_batch(
            pipeline,
            DefaultLoader("bare.parquet", places=places),
            run_id="r1",
            output=str(tmp_path / "p.parquet"),
            evaluate=TabularEvaluator(),
        )


# --- death -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory, pipeline: Pipeline) -> Path:
    """A folder with a pipeline and rows enough to be interrupted in."""
    folder = tmp_path_factory.mktemp("long")
    (folder / "pipeline.pkl").write_bytes(pickle.dumps(pipeline))
    files.write_frame(folder / "input.parquet", table(60_000).drop(columns="y"))
    return folder


def kill_and_rerun(long: Path, output: str, times: int, seed: int) -> None:
    rng = random.Random(seed)
    calm = long / f"calm-{output.replace('/', '-')}"
    words = {"rows": 500}
    process = spawn(long, f"{calm}/{output}", **words)
    begin = time.perf_counter()
    process.join(60)
    seconds = time.perf_counter() - begin
    assert process.exitcode == 0
    expected = tree(calm)
    torn = 0
    for attempt in range(times):
        place = long / f"torn-{seed}-{attempt}-{output.replace('/', '-')}"
        process = spawn(long, f"{place}/{output}", **words)
        time.sleep(rng.uniform(0, seconds))
        process.kill()
        process.join(60)
        torn += process.exitcode != 0
        # What can be seen under the name of the output is all of it. Beside a CSV file its record may be there first.
        seen = {name: digest for name, digest in (tree(place) if place.exists() else {}).items() if not name.startswith(".")}
        if any(not name.endswith(".commit.json") for name in seen):
            assert seen == expected, (seed, attempt)
        process = spawn(long, f"{place}/{output}", **words)
        process.join(60)
        assert process.exitcode == 0, (seed, attempt)
        assert tree(place) == expected, (seed, attempt)  # byte-identical, no leftover, no duplicate
    assert torn > 0


@pytest.mark.parametrize("output", ["p.parquet", "p.csv", "parts/"])
def test_kill_9_and_again_gives_the_same_bytes(output: str, long: Path) -> None:
    kill_and_rerun(long, output, 3, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("output", ["p.parquet", "p.csv", "parts/"])
def test_kill_9_and_again_gives_the_same_bytes_60_times(output: str, long: Path) -> None:
    kill_and_rerun(long, output, 60, seed=2)


def test_two_processes_at_once_write_one_output(long: Path) -> None:
    """Both finish well: one wrote, the other finds it done or wrote the same before."""
    for output in ("both/p.parquet", "both/parts/"):
        processes = [spawn(long, f"{long}/{output}", rows=500) for _ in range(3)]
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(read(long / "both" / "p.parquet")) == 60_000
    assert len(read(long / "both" / "parts")) == 60_000
    assert sorted(path.name for path in (long / "both").iterdir()) == ["p.parquet", "parts"]


def test_a_full_disk_leaves_what_was_there(pipeline: Pipeline, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=False, capture_output=True).returncode:
        pytest.skip("this machine mounts no tmpfs")
    try:
        for output in ("p.parquet", "parts/"):
            run_batch(pipeline, Plain(table()), run_id="r1", output=f"{disk}/{output}")
            before = tree(disk)
            with pytest.raises(Exhausted) as caught:
                run_batch(pipeline, Plain(table(200_000)), run_id="r1", output=f"{disk}/{output}", overwrite=True)
            assert caught.value.slug == "disk-full"
            assert tree(disk) == before
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_memory_does_not_grow_with_the_input(tmp_path: Path, pipeline: Pipeline) -> None:
    """What Arrow holds at most is the same for five times the rows."""
    pool = pa.default_memory_pool()
    held = 0

    class Watch(Heard):
        def advance(self, done: int, total: int | None = None, label: str = "") -> None:
            nonlocal held
            held = max(held, pool.bytes_allocated())

    most = []
    for times in (2, 10):
        with files.FrameWriter(tmp_path / f"{times}.parquet") as out:
            for _ in range(times):
                out.write(table(20_000).drop(columns="y"))
        loader = DefaultLoader(f"{times}.parquet", places=Places(project=tmp_path, folder=tmp_path))
        held = 0
        run_batch(pipeline, loader, run_id="r1", output=str(tmp_path / f"out-{times}.parquet"), rows=5000, progress=Watch())
        most.append(held)
    assert most[1] < most[0] * 1.2
