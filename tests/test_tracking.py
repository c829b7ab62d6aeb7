"""Runs in MLflow: a local store, a server that goes away, models that MLflow itself loads and serves."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import recipeline
from recipeline import resilience, settings, tracking
from recipeline.artifact import EXEMPT, verify
from recipeline.errors import Conflict, DataError, Exhausted, RecipeError, Unavailable, UnknownRun, UsageError
from recipeline.schema import Column, InputSchema
from recipeline.stores import files
from recipeline.tracking.search import search_client, search_sqlite
from recipeline.tracking.store import store_of

PROJECT = Path(__file__).parents[1]

# What `import mlflow.pyfunc` says about MLflow's own type hints.
pytestmark = [
    pytest.mark.xdist_group("tracking"),  # one server and one trained run for all of them
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
    pytest.mark.filterwarnings("ignore:Using `httpx` with"),  # of starlette's test client
]


@pytest.fixture(autouse=True)
def no_pauses() -> Iterator[None]:
    """Retries happen, but nobody waits for them."""
    with resilience.without_waiting():
        yield


def configured(folder: Path, *overrides: str) -> settings.Settings:
    return settings.load(project=folder, overrides=overrides, environ={})


@pytest.fixture
def home(tmp_path: Path, empty_store: Path) -> settings.Settings:
    """A project with an empty local store."""
    folder = tmp_path / "home"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    return configured(folder)


def artifact_in(folder: Path, text: str = "x") -> Path:
    """A small artifact folder."""
    folder.mkdir(parents=True)
    files.write_text(folder / "recipe.yaml", text)
    files.write_text(folder / "parts" / "model" / "part.json", "{}")
    files.write_json(folder / "manifest.json", {"files": {"recipe.yaml": text}})
    return folder


def finished(where: settings.Settings, name: str, tmp_path: Path, text: str = "x") -> tracking.Tracked:
    run = tracking.start(where, name=name)
    run.publish(artifact_in(tmp_path / f"made-{run.run_id}", text))
    run.finish()
    return run


def client(where: settings.Settings) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(where.mlflow.tracking_uri)


# --- a local store ---------------------------------------------------------------------------------------------------


def test_an_empty_folder_becomes_a_store_with_its_artifacts_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mlflow.db and mlruns/<experiment>/<run>/artifacts/model stand in the project, wherever the command was started."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    project.mkdir(), elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run = finished(configured(project), "first", tmp_path)
    assert (project / "mlruns" / "0" / run.run_id / "artifacts" / "model" / "recipe.yaml").is_file()
    assert (project / "mlflow.db").is_file()
    assert list(elsewhere.iterdir()) == []


def test_first_runs_at_the_same_moment_make_one_store(tmp_path: Path) -> None:
    """Nobody sees a store whose migrations are under way, and no run is lost."""
    where = configured(tmp_path)
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda number: tracking.start(where, name=f"r{number}"), range(4)))
    assert {run.run_id for run in runs} == {run.run_id for run in tracking.list_runs(where)}
    assert sorted(path.name for path in tmp_path.iterdir()) == [".recipeline", "mlflow.db"]


def test_a_run_has_what_was_said_of_it(home: settings.Settings) -> None:
    """Parameters flat, metrics, tags, trials as a table, all to be read by MLflow's own client."""
    run = tracking.start(home, name="churn", tags={"team": "growth"}, params={"model": {"depth": 3, "list": [1, 2]}, "seed": 42})
    run.log_metrics({"accuracy": 0.9, "not a number": float("nan"), "odd/näme!": 1})
    run.log_metrics({"loss": 0.5}, step=3)
    trials = [{"number": 0, "value": 0.1, "params": {"depth": 2}, "state": "COMPLETE"}, {"number": 1, "value": float("nan"), "params": {}}]
    run.log_trials(trials)
    run.finish()
    seen = client(home).get_run(run.run_id)
    assert seen.info.status == "FINISHED"
    assert seen.info.run_name == "churn"
    assert seen.data.params == {"model.depth": "3", "model.list": "[1, 2]", "seed": "42"}
    assert seen.data.metrics["accuracy"] == 0.9
    assert "not a number" in seen.data.metrics
    assert seen.data.tags["team"] == "growth"
    assert client(home).get_metric_history(run.run_id, "loss")[0].step == 3
    table = json.loads(Path(client(home).download_artifacts(run.run_id, "trials.json")).read_text())
    assert table == {"columns": ["number", "value", "state", "params.depth"], "data": [[0, 0.1, "COMPLETE", 2], [1, None, None, None]]}
    assert json.loads(seen.data.tags["mlflow.loggedArtifacts"]) == [{"path": "trials.json", "type": "table"}]


def test_a_thousand_long_parameters_fit(home: settings.Settings) -> None:
    """Requests are cut into batches and values to what every server takes; nothing is refused."""
    run = tracking.start(home, name="many", params={f"p{number}": "v" * 10_000 for number in range(250)})
    params = client(home).get_run(run.run_id).data.params
    assert len(params) == 250
    assert set(map(len, params.values())) == {tracking.LONGEST["param"]}
    assert params["p0"].endswith("…")


def test_secrets_do_not_reach_the_store(home: settings.Settings) -> None:
    """A password in an address that a recipe names is masked before it is logged."""
    run = tracking.start(home, name="secret", params={"uri": "postgresql://me:hunter2hunter@host/db"}, tags={"note": "token=abcdefgh"})
    run.fail(slug="data", message="cannot reach postgresql://me:hunter2hunter@host/db", log="password: hunter2hunter", recipe="a: 1")
    everything = b"".join(path.read_bytes() for path in home.project.rglob("*") if path.is_file())
    assert b"hunter2hunter" not in everything
    assert b"abcdefgh" not in everything


def test_a_reopened_run_may_be_told_everything_again(home: settings.Settings, tmp_path: Path) -> None:
    """Resuming after a crash at any point leaves one run, each metric once, and the artifact whole."""
    folder = artifact_in(tmp_path / "made")
    run = tracking.start(home, name="again", params={"a": 1})
    for attempt in range(3):
        again = tracking.start(home, name="again", run_id=run.run_id, params={"a": 1, "b": 2})
        assert (again.run_id, again.resumed) == (run.run_id, True)
        assert client(home).get_run(run.run_id).info.status == "RUNNING"
        again.log_metrics({"accuracy": 0.5})
        published = again.publish(folder)
        again.finish("KILLED" if attempt < 2 else "FINISHED")
    assert files.read_json(published / "manifest.json") == files.read_json(folder / "manifest.json")
    seen = client(home).get_run(run.run_id)
    assert (seen.info.status, seen.data.params) == ("FINISHED", {"a": "1", "b": "2"})
    assert len(client(home).get_metric_history(run.run_id, "accuracy")) == 1
    assert len(tracking.list_runs(home)) == 1


def test_a_parameter_that_changed_is_said_and_both_values_stay(home: settings.Settings, caplog: pytest.LogCaptureFixture) -> None:
    """MLflow cannot change a parameter; the new value becomes a tag and the log warns."""
    run = tracking.start(home, name="change", params={"depth": 1})
    tracking.start(home, name="change", run_id=run.run_id, params={"depth": 2})
    seen = client(home).get_run(run.run_id).data
    assert (seen.params["depth"], seen.tags["recipeline.param.depth"]) == ("1", "2")
    assert "depth" in caplog.text


def test_a_run_that_was_deleted_is_replaced_by_a_new_one(home: settings.Settings, caplog: pytest.LogCaptureFixture) -> None:
    """A work folder may remember a run that the store has forgotten."""
    run = tracking.start(home, name="gone")
    client(home).delete_run(run.run_id)
    again = tracking.start(home, name="gone", run_id=run.run_id)
    assert again.run_id != run.run_id
    assert not again.resumed
    assert "a new one is opened" in caplog.text


def test_publishing_replaces_another_artifact_and_leaves_no_half_one(home: settings.Settings, tmp_path: Path) -> None:
    """A copy that breaks in the middle leaves nothing under model/, and the next one is whole."""
    run = tracking.start(home, name="publish")
    broken = artifact_in(tmp_path / "broken")
    (broken / "unreadable").symlink_to(broken / "nowhere")
    with pytest.raises((OSError, DataError, Exhausted, shutil.Error)):
        run.publish(broken)
    place = home.project / "mlruns" / "0" / run.run_id / "artifacts"
    assert not place.exists() or list(place.iterdir()) == []
    run.publish(artifact_in(tmp_path / "one", "one"))
    run.publish(artifact_in(tmp_path / "two", "two"))
    assert (place / "model" / "recipe.yaml").read_text() == "two"
    assert [path.name for path in place.iterdir()] == ["model"]


def test_a_failed_run_has_slug_recipe_and_log_and_no_artifact(home: settings.Settings, tmp_path: Path) -> None:
    """Even one that failed after its artifact was published."""
    run = tracking.start(home, name="fails")
    run.publish(artifact_in(tmp_path / "made"))
    run.fail(slug="training-failed", message="RandomForestClassifier: no", recipe="name: fails\n", log="INFO phase fit\n")
    seen = client(home).get_run(run.run_id)
    assert seen.info.status == "FAILED"
    assert seen.data.tags["recipeline.error"] == "training-failed"
    assert {item.path for item in client(home).list_artifacts(run.run_id)} == {"recipe.yaml", "log.txt"}
    with pytest.raises(UnknownRun, match=r"its status is FAILED \(training-failed\)"):
        tracking.find_run(home, run.run_id)


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a place where not even root may write")
def test_a_store_that_cannot_be_written_is_exhausted(tmp_path: Path) -> None:
    """Exit 7, before anything was trained."""
    with pytest.raises(Exhausted, match="may not be written") as raised:
        tracking.start(configured(tmp_path, "mlflow.tracking_uri=sqlite:////sys/kernel/mlflow.db"), name="no")
    assert raised.value.code == 7


def test_a_store_of_another_mlflow_says_how_to_upgrade(home: settings.Settings) -> None:
    """A configuration error that names the command, not a traceback."""
    with contextlib.closing(sqlite3.connect(home.project / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'bda7b8c39065'")
    with pytest.raises(RecipeError, match="mlflow db upgrade") as raised:
        tracking.start(home, name="old")
    assert raised.value.code == 3


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:"])
def test_a_store_without_a_file_is_refused(tmp_path: Path, uri: str) -> None:
    """Its runs would be gone with the process."""
    with pytest.raises(RecipeError, match="names no file"):
        tracking.start(configured(tmp_path, f"mlflow.tracking_uri={uri}"), name="x")


def test_runs_of_a_copied_project_go_to_the_copy(home: settings.Settings, tmp_path: Path) -> None:
    """MLflow keeps absolute paths; a project that was moved or copied still finds old runs and keeps new ones to itself."""
    old = finished(home, "one", tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(home.project, copy)
    there = configured(copy)
    assert tracking.find_run(there, old.run_id).artifact.is_relative_to(copy)
    new = finished(there, "two", tmp_path)
    assert tracking.find_run(there, "latest").artifact == copy / "mlruns" / "0" / new.run_id / "artifacts" / "model"
    assert not (home.project / "mlruns" / "0" / new.run_id).exists()


# --- finding runs ----------------------------------------------------------------------------------------------------


def test_a_run_is_found_by_id_prefix_latest_name_and_alias(home: settings.Settings, tmp_path: Path) -> None:
    """Everything that --run-id takes."""
    iris, wine = finished(home, "iris", tmp_path), finished(home, "wine", tmp_path)
    tracking.start(home, name="wine")  # RUNNING: never the latest
    assert tracking.find_run(home, iris.run_id).run_id == iris.run_id
    assert tracking.find_run(home, f" {iris.run_id[:10]} ").run_id == iris.run_id
    assert tracking.find_run(home, f"runs:/{iris.run_id}/model").run_id == iris.run_id
    assert tracking.find_run(home, "latest").run_id == wine.run_id
    assert tracking.find_run(home, "latest", name="iris").run_id == iris.run_id
    assert tracking.find_run(home, "latest:iris").run_id == iris.run_id
    registry = client(home)
    registry.create_registered_model("flowers")
    registry.create_model_version("flowers", f"runs:/{iris.run_id}/model", iris.run_id)
    registry.set_registered_model_alias("flowers", "champion", "1")
    for reference in ("models:/flowers@champion", "models:/flowers/1"):
        found = tracking.find_run(home, reference)
        assert (found.run_id, found.name, found.status) == (iris.run_id, "iris", "FINISHED")
        assert (found.artifact / "recipe.yaml").is_file()
    with pytest.raises(UnknownRun, match="did you mean flowers"):
        tracking.find_run(home, "models:/flower@champion")
    with pytest.raises(UnknownRun, match="no registered model flowers@challenger"):
        tracking.find_run(home, "models:/flowers@challenger")


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "../../x",
        "..",
        "%2e%2e%2fx",
        "....//....//x",
        "a/b",
        "a\\b",
        "models:/../x@y",
        "models:/..@x",
        "models:/x",
        "latest:",
        "a b",
        "a\0b",
        "x" * 65,
        "ab%",
        "runs:/../x/model",
    ],
)
def test_what_is_no_reference_is_wrong_use(home: settings.Settings, reference: str) -> None:
    """Paths, encoded or doubled dots and wildcards are refused by their form, without asking any store."""
    with pytest.raises(UsageError, match="is not a reference to a run") as raised:
        tracking.find_run(home, reference)
    assert raised.value.code == 2


def test_an_unknown_run_comes_with_the_runs_there_are(home: settings.Settings, tmp_path: Path) -> None:
    """Near ids first; an empty store says so."""
    with pytest.raises(UnknownRun, match="has no runs yet"):
        tracking.find_run(home, "abc")
    with pytest.raises(UnknownRun, match="no finished run of iris"):
        tracking.find_run(home, "latest", name="iris")
    run = finished(home, "iris", tmp_path)
    typo = run.run_id[:-1] + ("0" if run.run_id[-1] != "0" else "1")
    with pytest.raises(UnknownRun, match=f"did you mean {run.run_id}") as raised:
        tracking.find_run(home, typo)
    assert raised.value.code == 5
    with pytest.raises(UnknownRun, match="did you mean iris"):
        tracking.find_run(home, "latest", name="irsi")
    going = tracking.start(home, name="wine")
    with pytest.raises(UnknownRun, match="no finished run of wine") as raised:
        tracking.find_run(home, "latest", name="wine")
    assert f"the newest, {going.run_id[:12]}, is RUNNING" in str(raised.value)
    going.finish()


def test_an_ambiguous_beginning_is_not_guessed(home: settings.Settings, tmp_path: Path) -> None:
    """Two runs that begin alike are listed."""
    one, two = finished(home, "a", tmp_path), finished(home, "b", tmp_path)
    with contextlib.closing(sqlite3.connect(home.project / "mlflow.db")) as connection, connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("UPDATE runs SET run_uuid = ? WHERE run_uuid = ?", (one.run_id[:-1] + "z", two.run_id))
    with pytest.raises(UsageError, match="fits 2 runs"):
        tracking.find_run(home, one.run_id[:12])
    assert tracking.find_run(home, one.run_id).run_id == one.run_id


def test_a_run_that_is_not_finished_says_so(home: settings.Settings) -> None:
    """RUNNING without an artifact is not found, and the message tells why."""
    run = tracking.start(home, name="busy")
    with pytest.raises(UnknownRun, match="its status is RUNNING; wait"):
        tracking.find_run(home, run.run_id)


def test_the_tables_say_what_the_client_says(home: settings.Settings, tmp_path: Path) -> None:
    """The short way through SQLite and the long one through MLflow give the same runs."""
    for name in ("a", "b", "a"):
        run = tracking.start(home, name=name, params={"p": 1})
        run.log_metrics({"accuracy": 0.25})
        run.publish(artifact_in(tmp_path / run.run_id))
        run.finish()
        time.sleep(0.002)
    client(home).create_run("0")  # of somebody else
    store = store_of(home)
    for question in (("", None, None), ("", "a", None), ("", "b", "FINISHED"), ("", None, "FAILED"), (run.run_id[:7], None, None)):
        short, long = search_sqlite(store, *question, 50), search_client(store, *question, 50)
        assert short == long
    assert [info.name for info in tracking.list_runs(home, 2)] == ["a", "b"]
    assert tracking.list_runs(home)[0].metrics == {"accuracy": 0.25}


def test_a_local_run_is_found_without_mlflow(home: settings.Settings, tmp_path: Path) -> None:
    """A server or a batch that starts does not pay for the import."""
    run = finished(home, "lean", tmp_path)
    code = f"""
import sys
from recipeline import settings, tracking
where = settings.load(project={str(home.project)!r}, environ={{}})
assert tracking.find_run(where, "latest").run_id == {run.run_id!r}
assert tracking.find_run(where, {run.run_id[:8]!r}).run_id == {run.run_id!r}
print(sorted({{"mlflow", "pandas", "sqlalchemy"}} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_file_that_is_no_store_is_a_data_error(tmp_path: Path) -> None:
    """One line, and the file is left alone."""
    (tmp_path / "mlflow.db").write_text("this is no database, however long it may be" * 10)
    with pytest.raises(DataError, match="is not an MLflow store"):
        tracking.find_run(configured(tmp_path), "latest")


def test_looking_for_runs_makes_no_store(tmp_path: Path) -> None:
    """Reading leaves an empty folder empty."""
    assert tracking.list_runs(configured(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


# --- the artifact as a pyfunc model ----------------------------------------------------------------------------------


class Trained:
    def __init__(self, where: settings.Settings, run: recipeline.Run) -> None:
        self.where, self.run = where, run
        self.rows = pd.read_csv(where.project / "recipes" / "data" / "breast_cancer.csv").head(20)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, recipe_data: Path, empty_store: Path) -> Trained:
    """The quickstart, trained once for all."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "config").mkdir()
    shutil.copytree(PROJECT / "recipes" / "quickstart", folder / "recipes" / "quickstart")
    shutil.copytree(recipe_data, folder / "recipes" / "data")
    shutil.copy(empty_store, folder / "mlflow.db")
    where = configured(folder)
    return Trained(where, recipeline.train(folder / "recipes" / "quickstart" / "quickstart.yaml", settings=where))


@pytest.fixture
def mlflow_here(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """MLflow's fluent interface, as a user has it, in the trained project."""
    import mlflow

    before = mlflow.get_tracking_uri()
    monkeypatch.chdir(trained.where.project)
    mlflow.set_tracking_uri(trained.where.mlflow.tracking_uri)
    yield mlflow
    mlflow.set_tracking_uri(before)
    os.environ.pop("MLFLOW_TRACKING_URI", None)


def test_mlflow_loads_the_run_as_a_pyfunc(trained: Trained, mlflow_here: Any) -> None:
    """`runs:/<id>/model` predicts what the pipeline predicts, and shows the search."""
    model = mlflow_here.pyfunc.load_model(f"runs:/{trained.run.id}/model")
    ours = recipeline.load(trained.run.artifact).predict(trained.rows)
    pd.testing.assert_frame_equal(model.predict(trained.rows), ours, check_exact=True)
    wrapper = model.unwrap_python_model()
    assert isinstance(wrapper, tracking.PyfuncWrapper)
    assert wrapper.hyperparameter_optimization["enabled"] is False
    assert [column.name for column in model.metadata.signature.inputs][:2] == list(ours_schema(trained).names)[:2]
    with pytest.raises(UsageError, match="takes no params"):
        wrapper.predict(trained.rows, params={"x": 1})


def ours_schema(trained: Trained) -> InputSchema:
    return InputSchema.from_json(files.read_json(trained.run.artifact / "input_schema.json"))


def test_a_registered_model_is_loaded_and_the_artifact_stays_whole(trained: Trained, mlflow_here: Any) -> None:
    """`register_model`, an alias, `models:/`: MLflow writes into the folder, and the manifest still holds."""
    from mlflow.store.artifact.models_artifact_repo import REGISTERED_MODEL_META_FILE_NAME

    version = mlflow_here.register_model(f"runs:/{trained.run.id}/model", "cancer")
    client(trained.where).set_registered_model_alias("cancer", "champion", version.version)
    for uri in (f"models:/cancer/{version.version}", "models:/cancer@champion"):
        assert len(mlflow_here.pyfunc.load_model(uri).predict(trained.rows)) == len(trained.rows)
    assert REGISTERED_MODEL_META_FILE_NAME in EXEMPT
    assert (trained.run.artifact / REGISTERED_MODEL_META_FILE_NAME).is_file()
    verify(trained.run.artifact)
    assert tracking.find_run(trained.where, "models:/cancer@champion").artifact == trained.run.artifact


def test_mlflow_s_scoring_server_answers(trained: Trained, mlflow_here: Any) -> None:
    """The application behind `mlflow models serve`, in this process."""
    from fastapi.testclient import TestClient
    from mlflow.pyfunc import scoring_server

    model = mlflow_here.pyfunc.load_model(f"runs:/{trained.run.id}/model")
    records = json.loads(trained.rows.drop(columns="diagnosis").to_json(orient="records"))
    answer = TestClient(scoring_server.init(model)).post("/invocations", json={"dataframe_records": records})
    assert answer.status_code == 200, answer.text
    ours = recipeline.load(trained.run.artifact).predict(trained.rows)
    assert [row["prediction"] for row in answer.json()["predictions"]] == list(ours["prediction"])


@pytest.mark.slow
def test_mlflow_models_serve_accepts_the_run(trained: Trained) -> None:
    """The command itself, env_manager local, in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    model = f"runs:/{trained.run.id}/model"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", model, "--env-manager", "local", "-p", str(port)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "MLFLOW_TRACKING_URI": trained.where.mlflow.tracking_uri, "PATH": path}
    with ended(subprocess.Popen(command, cwd=trained.where.project, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)):
        wait_for(f"http://127.0.0.1:{port}/ping")
        body = json.dumps({"dataframe_split": json.loads(trained.rows.to_json(orient="split", index=False))}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert len(json.load(answer)["predictions"]) == len(trained.rows)


def test_the_signature_says_what_the_contract_says(tmp_path: Path) -> None:
    """Types, what may be missing, the example; written without importing MLflow and read by it."""
    from mlflow.models import Model
    from mlflow.pyfunc import get_model_dependencies

    schema = InputSchema(
        (
            Column("id", "int64", role="key"),
            Column("n", "int64"),
            Column("x ü", "float64", nullable=True),
            Column("b", "bool"),
            Column("s", "string", nullable=True),
            Column("t", "datetime"),
            Column("z", "datetime_utc"),
        )
    )
    example = pd.DataFrame({"id": [1], "n": [1], "x ü": [0.5], "b": [True], "s": [None], "t": pd.to_datetime(["2020-01-02"])})
    tracking.describe(tmp_path, schema=schema, example=example, run_id="r1", requirements=["torch>=2", "pyyaml"])
    model = Model.load(str(tmp_path))
    types = {column.name: (str(column.type), column.required) for column in model.signature.inputs}
    assert types["n"] == ("DataType.long", True)
    assert types["x ü"] == ("DataType.double", False)
    assert types["b"] == ("DataType.boolean", True)
    assert types["s"] == ("DataType.string", False)
    assert types["t"] == ("DataType.datetime", True)
    assert not types["id"][1]
    assert model.run_id == "r1"
    loaded = model.load_input_example(str(tmp_path))
    assert list(loaded.columns) == list(example.columns)
    assert loaded["t"][0] == pd.Timestamp("2020-01-02")
    lines = Path(get_model_dependencies(str(tmp_path))).read_text().splitlines()
    assert "torch>=2" in lines
    assert any(line.startswith("scikit-learn==") for line in lines)
    assert any(line.startswith("recipeline==") for line in lines)


# --- a tracking server -----------------------------------------------------------------------------------------------


def wait_for(url: str, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


@contextlib.contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The process and its children, ended by their ids."""
    import psutil

    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for one in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.terminate()
            psutil.wait_procs(family, timeout=20)
        process.wait(timeout=20)


class Line:
    """The way to a server, which can be cut and mended: a forwarder on a port of its own."""

    def __init__(self, target: int) -> None:
        self.target, self.port = target, 0
        self.listener: socket.socket | None = None
        self.open: list[socket.socket] = []
        self.requests = 0
        self.cut_after: int | None = None
        self.mend()

    def mend(self) -> None:
        self.cut_after = None
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self.listener,), daemon=True).start()

    def cut(self) -> None:
        """New connections are refused, open ones are reset."""
        if self.listener is not None:
            with contextlib.suppress(OSError):
                self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
            self.listener = None
        for one in self.open:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self.open.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            self.open += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(one, other, one is near), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket, counts: bool) -> None:
        try:
            while data := one.recv(65536):
                if counts and data[:5] in {b"POST ", b"GET /", b"PUT /", b"PATCH"}:
                    self.requests += 1
                    if self.cut_after is not None and self.requests > self.cut_after:
                        self.cut()
                        return
                other.sendall(data)
        except OSError:
            pass
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[int]:
    """A real MLflow server that proxies artifacts; its port."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "mlflow.db")
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE experiments SET artifact_location = 'mlflow-artifacts:/0'")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
    ]  # fmt: skip
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with ended(subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)):
        wait_for(f"http://127.0.0.1:{port}/health")
        yield port


@pytest.fixture
def line(server: int) -> Iterator[Line]:
    way = Line(server)
    yield way
    way.cut()


@pytest.fixture
def remote(tmp_path: Path, line: Line) -> settings.Settings:
    """A project whose runs are tracked by the server, each test in an experiment of its own."""
    folder = tmp_path / "remote"
    folder.mkdir()
    return configured(
        folder, f"mlflow.tracking_uri=http://user:open-sesame@127.0.0.1:{line.port}", f"mlflow.experiment_name={tmp_path.name}"
    )


def test_a_remote_run_is_tracked_found_and_fetched(remote: settings.Settings, tmp_path: Path) -> None:
    """Its artifact is at the server; another machine fetches it once, and this one has it already."""
    run = tracking.start(remote, name="far", params={"a": 1})
    run.log_metrics({"accuracy": 0.75})
    run.log_trials([{"number": 0, "params": {}}])
    published = run.publish(artifact_in(tmp_path / "made", "remote"))
    run.finish()
    assert not run.spooled
    assert tracking.find_run(remote, run.run_id).artifact == published
    assert [info.name for info in tracking.list_runs(remote)] == ["far"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    there = remote.model_copy(update={"project": elsewhere})
    for reference in (run.run_id[:9], "latest", run.run_id):
        found = tracking.find_run(there, reference)
        assert found.artifact.is_relative_to(elsewhere)
        assert sorted(path.name for path in found.artifact.rglob("*")) == sorted(path.name for path in published.rglob("*"))
    assert found.status == "FINISHED"
    assert {item.path for item in client(remote).list_artifacts(run.run_id)} == {"model", "trials.json"}
    with pytest.raises(UnknownRun, match="the newest are"):
        tracking.find_run(there, "ffffffffffffffff")


def say(run: tracking.Tracked, folder: Path) -> None:
    """Everything that a training says."""
    run.log_params({"a": 1, "b": {"c": 2}})
    run.log_metrics({"accuracy": 0.75})
    run.log_trials([{"number": 0, "value": 1.0, "params": {}}])
    run.publish(folder)
    run.finish()


def seen_at_server(where: settings.Settings) -> list[Any]:
    at = client(where)
    experiment = at.get_experiment_by_name(where.mlflow.experiment_name)
    return list(at.search_runs([experiment.experiment_id])) if experiment else []


@pytest.mark.parametrize("cut_after", [0, 1, 3, 5, 8])
def test_a_server_that_goes_down_in_the_middle_loses_nothing(
    remote: settings.Settings, line: Line, tmp_path: Path, caplog: pytest.LogCaptureFixture, cut_after: int
) -> None:
    """Wherever the line breaks, the run goes on, is spooled with a warning, is usable at once, and reaches the server later."""
    tracking.prepare(remote)
    line.cut_after = line.requests + cut_after
    run = tracking.start(remote, name="cut")
    say(run, artifact_in(tmp_path / "made", "spooled"))
    assert run.spooled
    assert "spooled" in caplog.text
    assert "open-sesame" not in caplog.text
    found = tracking.find_run(remote, run.run_id)
    assert found.spooled
    assert (found.status, (found.artifact / "recipe.yaml").read_text()) == ("FINISHED", "spooled")
    assert tracking.find_run(remote, "latest", name="cut").run_id == run.run_id
    with pytest.raises(Unavailable):
        tracking.sync(remote)
    line.mend()
    assert list(tracking.sync(remote)) == [run.run_id]
    assert tracking.sync(remote) == {}
    (known,) = seen_at_server(remote)
    assert known.info.status == "FINISHED"
    assert known.data.params == {"a": "1", "b.c": "2"}
    assert known.data.metrics == {"accuracy": 0.75}
    assert known.data.tags["recipeline.recipe"] == "cut"
    assert {item.path for item in client(remote).list_artifacts(known.info.run_id)} == {"model", "trials.json"}
    assert tracking.find_run(remote, known.info.run_id).artifact.is_dir()
    assert tracking.find_run(remote, run.run_id).artifact == found.artifact
    spooled = b"".join(path.read_bytes() for path in (remote.project / ".recipeline").rglob("*") if path.is_file())
    assert b"open-sesame" not in spooled


def test_a_short_outage_heals_by_itself(remote: settings.Settings, line: Line, tmp_path: Path) -> None:
    """What was spooled in the middle is at the server when the run ends; the next run brings what an earlier one left."""
    run = tracking.start(remote, name="short")
    line.cut()
    run.log_params({"a": 1})
    assert run.spooled
    line.mend()
    say(run, artifact_in(tmp_path / "made"))
    assert not run.spooled
    line.cut()
    left = tracking.start(remote, name="left")
    say(left, artifact_in(tmp_path / "left"))
    line.mend()
    tracking.start(remote, name="next").finish()
    assert sorted((run.data.tags["recipeline.recipe"], run.info.status) for run in seen_at_server(remote)) == [
        ("left", "FINISHED"), ("next", "FINISHED"), ("short", "FINISHED"),
    ]  # fmt: skip
    assert not list((remote.project / ".recipeline" / "spool").iterdir())


def test_a_spooled_run_that_was_stopped_is_resumed(remote: settings.Settings, line: Line, tmp_path: Path) -> None:
    """With the server still away, and with the server back: one run in the end."""
    line.cut()
    run = tracking.start(remote, name="stopped")
    run.fail(status="KILLED", slug="stopped", message="SIGTERM", log="one line")
    with pytest.raises(UnknownRun, match="KILLED"):
        tracking.find_run(remote, run.run_id)
    again = tracking.start(remote, name="stopped", run_id=run.run_id)
    assert (again.run_id, again.resumed) == (run.run_id, True)
    with pytest.raises(Conflict):
        tracking.start(remote, name="stopped", run_id=run.run_id)  # a living run holds it
    again.fail(status="KILLED", slug="stopped", message="SIGTERM")
    line.mend()
    tracking.sync(remote)
    third = tracking.start(remote, name="stopped", run_id=run.run_id)
    assert third.resumed
    say(third, artifact_in(tmp_path / "made"))
    (known,) = seen_at_server(remote)
    assert (known.info.run_id, known.info.status) == (third.run_id, "FINISHED")


def test_a_spool_for_another_server_waits_for_it(
    remote: settings.Settings, line: Line, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A run never lands at a server that it was not meant for."""
    line.cut()
    say(tracking.start(remote, name="faithful"), artifact_in(tmp_path / "made"))
    line.mend()
    other = configured(remote.project, "mlflow.tracking_uri=sqlite:///other.db")
    assert tracking.sync(other) == {}
    assert "waits for it" in caplog.text
    assert len(tracking.sync(remote)) == 1


def test_without_its_server_a_project_still_finds_what_it_has(remote: settings.Settings, line: Line, tmp_path: Path) -> None:
    """An exact id needs no server where the artifact is here; anything else is Unavailable, exit 6."""
    run = finished(remote, "kept", tmp_path)
    line.cut()
    assert tracking.find_run(remote, run.run_id).run_id == run.run_id
    with pytest.raises(Unavailable) as raised:
        tracking.find_run(remote, "latest")
    assert raised.value.code == 6
    assert "open-sesame" not in str(raised.value)


def test_a_server_killed_by_its_process_id_loses_no_run(tmp_path: Path, server: int) -> None:
    """The last test of this server: no warning, no goodbye."""
    import psutil

    where = configured(tmp_path, f"mlflow.tracking_uri=http://127.0.0.1:{server}")
    run = tracking.start(where, name="killed")
    listening = [one for one in psutil.net_connections("tcp") if one.status == "LISTEN" and one.laddr.port == server]
    for process in [psutil.Process(one.pid) for one in listening]:
        process.kill()
        process.wait(timeout=20)
    say(run, artifact_in(tmp_path / "made"))
    assert run.spooled
    assert tracking.find_run(where, "latest").run_id == run.run_id
