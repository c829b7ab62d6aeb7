"""Tracking: MLflow remembers the runs (the only module that imports mlflow, and late: it costs seconds).

    start      a run is opened, or an unfinished one opened again
    Tracked    parameters, metrics, files and the finished artifact of a run
    describe   makes an artifact a pyfunc model that MLflow loads and serves
    find_run   from what a person types (`latest`, a prefix, `models:/name@alias`) to a run and its artifact
    sync       what was spooled while the tracking server was away reaches it

A local store is a SQLite file with `mlruns/` beside it; finding a run in it needs no MLflow. Of a remote store, and of a
spooled run, the artifact also stands under `<project>/.recipeline/runs/<run>/`; what a server that does not answer has to
be told waits under `<project>/.recipeline/spool/<run>/`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import math
import os
import re
import shutil
import sqlite3
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import quote, unquote, urlsplit

from recipeline import logs
from recipeline.errors import (
    Conflict,
    DataError,
    Exhausted,
    Problem,
    RecipeError,
    RecipelineError,
    Unavailable,
    UnknownRun,
    UsageError,
    nearest,
)
from recipeline.resilience import retry
from recipeline.stores import files

if TYPE_CHECKING:
    import pandas as pd

    from recipeline.schema import InputSchema
    from recipeline.settings import Settings

T = TypeVar("T")
Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]

MODEL = "model"
"""The artifact folder stands under this name among the run's artifacts."""

RECIPE_TAG = "recipeline.recipe"
LOCAL_TAG = "recipeline.local_id"
PUBLISHED_TAG = "recipeline.artifact"
ERROR_TAG = "recipeline.error"
MESSAGE_TAG = "recipeline.message"

LONGEST = {"key": 250, "param": 6000, "tag": 5000}
"""Characters that every MLflow server since 2.8 takes; what is longer is cut, and ends in an ellipsis."""

BATCH = 100  # parameters or tags in one request; metrics could be 1,000

log = logging.getLogger("recipeline.tracking")


# --- where runs are remembered ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Store:
    """What `mlflow.tracking_uri` means for this project.

    uri       as MLflow takes it, credentials included
    kind      sqlite: a file of ours; database and folder: other local stores; server: HTTP and whatever plugins bring
    root      where the artifacts of new experiments go: a local path for the first three kinds, or an address; empty: the server knows
    """

    uri: str = field(repr=False)
    kind: Literal["sqlite", "database", "folder", "server"]
    project: Path
    root: str
    database: Path | None
    experiment: str

    @property
    def shown(self) -> str:
        return files.shown(self.database) if self.database else files.without_credentials(self.uri)

    @property
    def spool(self) -> Path:
        return self.project / ".recipeline" / "spool"

    @property
    def runs(self) -> Path:
        return self.project / ".recipeline" / "runs"


def _store(settings: Settings, experiment: str | None = None) -> _Store:
    project, configured = settings.project.resolve(), settings.mlflow
    uri, name = configured.tracking_uri, experiment or configured.experiment_name
    root = configured.artifact_location or ""
    if root and "://" not in root:
        root = str(project / root)
    scheme = urlsplit(uri).scheme
    if scheme == "sqlite":
        path = unquote(uri.partition(":///")[2].partition("?")[0])
        if path in {"", ":memory:"}:
            raise _misconfigured(f"{uri} names no file", "write sqlite:///mlflow.db")
        database = (project / path).resolve()
        return _Store(f"sqlite:///{database}", "sqlite", project, root or str(database.parent / "mlruns"), database, name)
    if scheme.partition("+")[0] in {"postgresql", "mysql", "mssql"}:
        return _Store(uri, "database", project, root or str(project / "mlruns"), None, name)
    if scheme in {"", "file"}:
        folder = (project / (_path_of(uri) or uri)).resolve()
        return _Store(folder.as_uri(), "folder", project, root or str(folder), None, name)
    return _Store(uri, "server", project, root, None, name)


def _misconfigured(message: str, hint: str, slug: str = "tracking") -> RecipeError:
    return RecipeError(Problem(slug, ("mlflow", "tracking_uri"), logs.mask(message), hint, file="configuration"))


def _path_of(uri: str) -> Path | None:
    """The local path of an artifact URI; None where the artifacts are elsewhere."""
    parts = urlsplit(uri)
    if parts.scheme == "" or not uri.startswith(f"{parts.scheme}:"):
        return Path(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


# --- the door to MLflow ----------------------------------------------------------------------------------------------


def _mlflow(*, sql: bool) -> Any:
    """MLflow's client class. Its own log handler is kept out, its telemetry off, its retries short: we bound them ourselves."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    }.items():
        os.environ.setdefault(name, value)
    before = os.environ.get("MLFLOW_CONFIGURE_LOGGING")
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it uses what its own libraries deprecate; nothing that a user could mend
            from mlflow import MlflowClient

            if sql:
                import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    finally:
        if before is None:  # a server that this process starts later shall log as it always does
            del os.environ["MLFLOW_CONFIGURE_LOGGING"]
    return MlflowClient


def _client(store: _Store) -> Any:
    client = _mlflow(sql=store.kind in {"sqlite", "database"})
    if store.database is not None and not store.database.exists():
        _make_database(store)
    return client(tracking_uri=store.uri, registry_uri=store.uri)


def _sql_store(uri: str, root: str) -> Any:
    """MLflow's own store on a database, which `MlflowClient` would give an artifact root in the working folder."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    return SqlAlchemyStore(uri, root)  # type: ignore[no-untyped-call]


def _make_database(store: _Store) -> None:
    """A new SQLite store, there whole or not at all: MLflow's migrations are neither atomic nor safe against a second process."""
    assert store.database is not None
    with files.Lock(store.project / ".recipeline" / "mlflow.lock", wait=120.0):
        if not store.database.exists():
            with files.atomic_path(store.database) as unfinished:
                _sql_store(f"sqlite:///{unfinished}", store.root)._dispose_engine()


def prepare(settings: Settings) -> None:
    """Make store and experiment where there are none. `start` does it too, for 0.5 CPU seconds once in a project."""
    store = _store(settings)
    try:
        _experiment(_client(store), store)
    except _failures() as error:
        raise _translated(error, store) from error


def _experiment(client: Any, store: _Store) -> str:
    """Id of the experiment, made where there is none; its artifacts stand below the store's own root."""
    found = client.get_experiment_by_name(store.experiment)
    if found is None:
        try:
            if store.kind in {"sqlite", "database"}:
                return str(_sql_store(store.uri, store.root).create_experiment(store.experiment))
            place = f"{store.root.rstrip('/')}/{quote(store.experiment, safe='')}" if store.root and store.kind == "server" else None
            return str(client.create_experiment(store.experiment, artifact_location=place))
        except _failures() as error:
            if getattr(error, "error_code", "") != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(store.experiment)  # another process was faster
    if found.lifecycle_stage != "active":
        raise RecipeError(
            Problem(
                "tracking",
                ("mlflow", "experiment_name"),
                f"experiment {store.experiment} was deleted",
                f"restore it (mlflow experiments restore --experiment-id {found.experiment_id}) or name another",
                file="configuration",
            )
        )
    _follow_the_project(store, found)
    return str(found.experiment_id)


def _follow_the_project(store: _Store, experiment: Any) -> None:
    """MLflow keeps the absolute path of `mlruns/`; in a project that was moved, copied or mounted elsewhere it leads astray.

    Its API cannot change where an experiment keeps its artifacts, so this one column is set in the database itself.
    """
    tail = f"/mlruns/{experiment.experiment_id}"
    here, there = f"{store.root}/{experiment.experiment_id}", experiment.artifact_location
    if store.database is None or there == here or not (there.endswith(tail) and here.endswith(tail)):
        return
    with contextlib.closing(sqlite3.connect(store.database, timeout=20.0)) as connection, connection:
        connection.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (here, experiment.experiment_id))
    log.info("new artifacts of experiment %s go to %s", store.experiment, files.shown(here))


def _failures() -> tuple[type[Exception], ...]:
    """What talking to MLflow can raise: its own exception, and what requests and the file system raise below it."""
    if "mlflow" not in sys.modules:
        return (OSError,)
    from mlflow.exceptions import MlflowException

    return (MlflowException, OSError)


_AWAY = frozenset({"TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL_ERROR"})
_CLOSED = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED"})


def _away(error: BaseException) -> bool:
    """The server did not answer, or answered that it cannot now; asking again may help."""
    if isinstance(error, OSError):  # of requests, too
        response = getattr(error, "response", None)
        if response is not None:
            return response.status_code >= 500 or response.status_code in {408, 429}
        return error.errno not in {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EDQUOT}
    code = getattr(error, "error_code", "")
    return code in _AWAY and "out-of-date database schema" not in str(error)


def _ask(call: Callable[[], T]) -> T:
    """One question to the store, asked up to three times within 30 s while it is away."""
    return retry(on=_away, attempts=3, timeout=30.0)(call)()


def _translated(error: Exception, store: _Store) -> RecipelineError:
    """MLflow's and the system's words as one of our errors."""
    words = logs.mask(next(iter(str(error).strip().splitlines()), type(error).__name__))[:300]
    code = getattr(error, "error_code", "")
    if "out-of-date database schema" in words:
        uri = files.without_credentials(store.uri)
        return _misconfigured(f"{store.shown} was written by another version of MLflow", f"mlflow db upgrade {uri}", "tracking-schema")
    if code in _CLOSED:
        hint = "see the user and password of the tracking server"
        return _misconfigured(f"{store.shown} refuses these credentials: {words}", hint, "tracking-credentials")
    if "disk is full" in words or "readonly database" in words or getattr(error, "errno", None) in {errno.ENOSPC, errno.EROFS}:
        return Exhausted(f"{store.shown} cannot be written: {words}", hint="make room, or choose another folder", slug="disk")
    if _away(error):
        return Unavailable(
            f"{store.shown} does not answer ({_reason(error) or words})", hint="try again, or see mlflow.tracking_uri", slug="tracking"
        )
    return DataError(f"{store.shown} refuses: {words}", slug="tracking")


def _reason(error: BaseException | None) -> str:
    """What went wrong on the line, in one word: MLflow wraps it in a text with addresses and objects."""
    while error is not None:
        if isinstance(error, OSError):
            response = getattr(error, "response", None)
            return type(error).__name__ if response is None else f"HTTP {response.status_code}"
        error = error.__cause__ or error.__context__
    return ""


# --- a run -----------------------------------------------------------------------------------------------------------


class Tracked:
    """An open run. Everything may be said twice: a run that was reopened after a crash is told what it knows already.

    run_id    MLflow's, or a local one for a run that began while the server was away
    resumed   it was opened again
    """

    def __init__(self, store: _Store, run_id: str, name: str, *, writer: _Writer | None, spool: _Spool | None, resumed: bool) -> None:
        self.run_id, self.name, self.resumed = run_id, name, resumed
        self._store, self._writer, self._spool = store, writer, spool

    @property
    def spooled(self) -> bool:
        """Whether something of it waits for the server."""
        return self._spool is not None

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Nested mappings become dotted names; values are bounded, and secrets masked."""
        flat = {_name(key): _value(value, LONGEST["param"]) for key, value in _flat(params)}
        self._do({"do": "params", "params": flat})

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        numbers = {_name(key): float(value) for key, value in metrics.items()}
        self._do({"do": "metrics", "metrics": {key: _spell(value) for key, value in numbers.items()}, "step": step or 0, "time": _now()})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self._do({"do": "tags", "tags": {_name(key): _value(value, LONGEST["tag"]) for key, value in tags.items()}})

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows as `<name>.json` in the form of MLflow's own tables, so that its pages show it as one."""
        columns = list(dict.fromkeys(str(column) for row in rows for column in row))
        data = [[_cell(row.get(column)) for column in columns] for row in rows]
        self.log_text(f"{name}.json", files.to_json({"columns": columns, "data": data}, null_for_nan=True))
        self.set_tags({"mlflow.loggedArtifacts": json.dumps([{"path": f"{name}.json", "type": "table"}])})

    def log_trials(self, history: Sequence[Mapping[str, Any]]) -> None:
        """The trials of a search (`optimization_history`), one row each, parameters as columns."""
        rows = []
        for trial in history:
            params = {f"params.{key}": value for key, value in dict(trial.get("params") or {}).items()}
            rows.append({**{key: value for key, value in trial.items() if key != "params"}, **params})
        self.log_table("trials", rows)

    def log_text(self, name: str, text: str) -> None:
        """A small file among the run's artifacts, beside `model/`."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            files.write_text(path, logs.mask(text))
            self._do({"do": "file", "name": name}, path)

    def publish(self, folder: Path) -> Path:
        """The artifact folder becomes `model/` of the run, whole or not at all; returns a local folder that holds it."""
        place = self._local_place()
        if place.resolve() != folder.resolve():
            _put_folder(folder, place)
        self._do({"do": "publish"}, place)
        self._do({"do": "tags", "tags": {PUBLISHED_TAG: MODEL}})
        return place

    def finish(self, status: Status = "FINISHED") -> None:
        """The end. A spooled run is given to its server now, if that is there again."""
        self._do({"do": "finish", "status": status, "time": _now()})
        spool, store = self._spool, self._store
        if spool is None:
            if (store.runs / self.run_id / MODEL).is_dir():
                _note(store, self.run_id, status=status, name=self.name, experiment=store.experiment, ended=_now())
            return
        spool.close()
        try:
            if _replay(store, spool.folder) is not None:
                self._spool = None
        except RecipelineError as error:
            place = files.shown(spool.folder)
            log.warning("run %s stays spooled in %s and is synced with a later run: %s", self.run_id, place, error.message)

    def fail(self, *, status: Status = "FAILED", slug: str = "", message: str = "", recipe: str = "", log: str = "") -> None:
        """The end without a result: status, reason, recipe and log stay, an artifact does not.

        Never raises an error of the tracking itself: the one that ended the run is on its way to the user.
        """
        texts = [(name, text) for name, text in (("recipe.yaml", recipe), ("log.txt", log)) if text]
        steps: list[Callable[[], object]] = [
            lambda: self.set_tags({ERROR_TAG: slug, MESSAGE_TAG: message}),
            *(functools.partial(self.log_text, name, text) for name, text in texts),
            lambda: shutil.rmtree(self._local_place(), ignore_errors=True),
            lambda: self.finish(status),
        ]
        for step in steps:
            try:
                step()
            except RecipelineError as error:  # the steps after it are still worth taking
                logging.getLogger(__name__).warning("run %s could not be marked %s: %s", self.run_id, status, error)

    def _local_place(self) -> Path:
        own = self._writer.model if self._writer is not None and self._spool is None else None
        return own or self._store.runs / self.run_id / MODEL

    def _do(self, step: dict[str, Any], source: Path | None = None) -> None:
        """One step, done at the server or spooled; after the first that failed, the others wait behind it."""
        if self._spool is None:
            assert self._writer is not None
            writer = self._writer
            try:
                _ask(lambda: writer.do(step, source))
                return
            except _failures() as error:
                if self._store.kind in {"sqlite", "folder"}:
                    raise _translated(error, self._store) from error
                reason = _translated(error, self._store)
            log.warning("the tracking server is lost, run %s is spooled from here on: %s", self.run_id, reason.message)
            self._spool = _Spool.begin(self._store, self.run_id, self.name, at_server=True)
        self._spool.add(step, source)


def start(
    settings: Settings,
    *,
    name: str,
    experiment: str | None = None,
    run_id: str | None = None,
    tags: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
) -> Tracked:
    """Open a run, or the unfinished run `run_id` again.

    name        the recipe's; `latest` of a recipe goes by it
    experiment  instead of `mlflow.experiment_name`

    A run that the store does not know (it was deleted) is replaced by a new one, and the log says so. Where the server is
    away the run is spooled. Raises RecipeError for a configuration that cannot work, Exhausted for a store that cannot
    be written.
    """
    store = _store(settings, experiment)
    _check_room(store)
    given = {RECIPE_TAG: name, "mlflow.source.type": "LOCAL", "mlflow.source.name": f"recipeline {_version('recipeline')}"}
    given |= {_name(key): _value(value, LONGEST["tag"]) for key, value in (tags or {}).items()}
    if run_id is not None and (store.spool / run_id / "run.json").is_file():
        run = Tracked(store, run_id, name, writer=None, spool=_Spool.reopen(store, run_id), resumed=True)
    else:
        known = _facts(store, run_id) if run_id is not None else {}
        run = _open(store, name, known.get("at_server", run_id), given)
        if not run.spooled:
            _catch_up(store)
    if params:
        run.log_params(params)
    return run


def _check_room(store: _Store) -> None:
    """Exhausted where artifacts could not be written in the end: better known before anything is trained."""
    place = _path_of(store.root) if store.root else None
    if place is None:
        return
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        hint = "artifacts go there; check its permissions, or choose another folder"
        raise Exhausted("may not be written", hint=hint, slug="read-only", where=files.shown(place))


def unfinished(settings: Settings, *, name: str, tag: str, value: str) -> str | None:
    """Id of the newest run of recipe `name` that carries this tag and never came to an end; None where there is none.

    So a process that died right after it had opened a run, before it could write down which, finds it again.
    """
    store = _store(settings)
    try:
        running = _ask(lambda: _search(store, name=name, status="RUNNING", limit=1000))
    except _failures() as error:
        if not _away(error):
            raise _translated(error, store) from error
        return None  # the server is away: what is opened now is spooled
    return next((run.run_id for run in running if run.tags.get(tag) == value), None)


def _open(store: _Store, name: str, run_id: str | None, tags: dict[str, str]) -> Tracked:
    try:
        client = _ask(lambda: _client(store))
        opened = _reopen(client, run_id) if run_id is not None else None
        resumed = opened is not None
        if opened is None:
            experiment = _ask(lambda: _experiment(client, store))
            opened = _ask(lambda: client.create_run(experiment, tags=tags, run_name=name))
    except _failures() as error:
        if store.kind in {"sqlite", "folder"} or not _away(error):
            raise _translated(error, store) from error
        local = run_id or uuid.uuid4().hex
        log.warning("%s; run %s is spooled", _translated(error, store).message, local)
        spool = _Spool.begin(store, local, name, at_server=run_id is not None)
        spool.add({"do": "tags", "tags": tags}, None)
        _note(store, local, tags=tags)
        return Tracked(store, local, name, writer=None, spool=spool, resumed=run_id is not None)
    return Tracked(store, opened.info.run_id, name, writer=_Writer(client, opened), spool=None, resumed=resumed)


def _reopen(client: Any, run_id: str) -> Any:
    """The run, RUNNING again; None where the store has no such run."""
    try:
        run = _ask(lambda: client.get_run(run_id))
    except _failures() as error:
        if getattr(error, "error_code", "") not in {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}:
            raise
        run = None
    if run is None or run.info.lifecycle_stage != "active":
        log.warning("the tracking store has no run %s any more; a new one is opened", run_id)
        return None
    _ask(lambda: client.update_run(run_id, status="RUNNING"))
    for tag in {ERROR_TAG, MESSAGE_TAG} & set(run.data.tags):  # why it was stopped says nothing of how it ends
        _ask(lambda tag=tag: client.delete_tag(run_id, tag))  # type: ignore[misc]
    return run


class _Writer:
    """Steps, done through MLflow's client; each may be done again.

    model  where the artifact stands when the run's artifacts are local; None for a remote store
    """

    def __init__(self, client: Any, run: Any) -> None:
        self.client, self.run_id = client, run.info.run_id
        self.params: dict[str, str] = dict(run.data.params)
        self.told = {(metric.key, metric.step): metric.value for metric in run.data._metric_objs}
        root = _path_of(run.info.artifact_uri)
        self.model = root / MODEL if root is not None else None

    def do(self, step: Mapping[str, Any], source: Path | None) -> None:
        getattr(self, f"_{step['do']}")(step, source)

    def _tags(self, step: Mapping[str, Any], _: Path | None) -> None:
        from mlflow.entities import RunTag

        for some in _batches(step["tags"]):
            self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in some.items()])

    def _params(self, step: Mapping[str, Any], _: Path | None) -> None:
        from mlflow.entities import Param

        fresh = {key: value for key, value in step["params"].items() if key not in self.params}
        for some in _batches(fresh):
            self.client.log_batch(self.run_id, params=[Param(key, value) for key, value in some.items()])
            self.params |= some
        # A parameter of a run cannot change. Where a resumed run comes to another value, both are to be seen.
        changed = {f"recipeline.param.{key}"[: LONGEST["key"]]: value for key, value in step["params"].items() if self.params[key] != value}
        if changed:
            log.warning("run %s: parameters differ from those it began with: %s", self.run_id, ", ".join(sorted(changed)))
            self._tags({"tags": {key: _cut(value, LONGEST["tag"]) for key, value in changed.items()}}, None)

    def _metrics(self, step: Mapping[str, Any], _: Path | None) -> None:
        from mlflow.entities import Metric

        at = int(step["step"])
        fresh = {key: float(value) for key, value in step["metrics"].items()}
        fresh = {key: value for key, value in fresh.items() if self.told.get((key, at)) != value}
        for some in _batches(fresh):
            self.client.log_batch(self.run_id, metrics=[Metric(key, value, int(step["time"]), at) for key, value in some.items()])
        self.told |= {(key, at): value for key, value in fresh.items()}

    def _file(self, step: Mapping[str, Any], source: Path | None) -> None:
        assert source is not None
        if self.model is not None:
            files.write_bytes(self.model.parent / step["name"], source.read_bytes())
        else:
            self.client.log_artifact(self.run_id, str(source))

    def _publish(self, _: Mapping[str, Any], source: Path | None) -> None:
        assert source is not None
        if self.model is None:
            self.client.log_artifacts(self.run_id, str(source), MODEL)
        elif source.resolve() != self.model.resolve():
            _put_folder(source, self.model)

    def _finish(self, step: Mapping[str, Any], _: Path | None) -> None:
        self.client.set_terminated(self.run_id, step["status"], int(step["time"]))


def _put_folder(source: Path, target: Path) -> None:
    """A copy of a folder, there whole or not at all; one with the same manifest is left as it is."""
    if target.is_dir():
        ours, theirs = source / "manifest.json", target / "manifest.json"
        if ours.is_file() and theirs.is_file() and ours.read_bytes() == theirs.read_bytes():
            return
        shutil.rmtree(target)
    with files.atomic_folder(target) as partial:
        shutil.copytree(source, partial, dirs_exist_ok=True)


# --- spool: what a server that is away has to be told ----------------------------------------------------------------


class _Spool:
    """`run.json` says which run, `steps.jsonl` what happened in order, `files/` what goes with it; the lock, that it goes on."""

    def __init__(self, store: _Store, run_id: str, steps: list[dict[str, Any]]) -> None:
        self.store, self.run_id, self.steps = store, run_id, steps
        self.folder = store.spool / run_id
        self._lock = files.Lock(store.spool / f"{run_id}.lock").acquire()

    @classmethod
    def begin(cls, store: _Store, run_id: str, name: str, *, at_server: bool) -> _Spool:
        if (store.spool / run_id / "run.json").is_file():
            return cls.reopen(store, run_id)
        files.remove(store.spool / run_id)
        spool = cls(store, run_id, [])
        about = {"name": name, "experiment": store.experiment, "started": _now()}
        with files.atomic_folder(spool.folder) as partial:
            files.write_json(partial / "run.json", {**about, "run_id": run_id, "store": store.shown, "at_server": at_server})
        _note(store, run_id, **about, status="RUNNING", spooled=True)
        return spool

    @classmethod
    def reopen(cls, store: _Store, run_id: str) -> _Spool:
        spool = cls(store, run_id, [])
        spool.steps = [step for step in _read_steps(spool.folder) if step["do"] != "finish"]
        _note(store, run_id, status="RUNNING")
        return spool

    def add(self, step: dict[str, Any], source: Path | None) -> None:
        if step["do"] == "file" and source is not None:
            files.write_bytes(self.folder / "files" / step["name"], source.read_bytes())
        self.steps.append(step)
        files.write_text(self.folder / "steps.jsonl", "".join(json.dumps(each, sort_keys=True) + "\n" for each in self.steps))
        if step["do"] == "finish":
            metrics = {key: value for each in self.steps if each["do"] == "metrics" for key, value in each["metrics"].items()}
            tags = {key: value for each in self.steps if each["do"] == "tags" for key, value in each["tags"].items()}
            _note(self.store, self.run_id, status=step["status"], ended=step["time"], metrics=metrics, tags=tags)

    def close(self) -> None:
        self._lock.release()


def _read_steps(folder: Path) -> list[dict[str, Any]]:
    path = folder / "steps.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def sync(settings: Settings) -> dict[str, str]:
    """Give every spooled run to the server: {spooled id: id at the server}.

    Runs that another process is still writing are left alone. Raises Unavailable when the server is still away; what
    was given before that stays given, and a second call goes on with the rest.
    """
    store = _store(settings)
    done = {}
    for folder in _spooled(store):
        if (given := _replay(store, folder)) is not None:
            done[folder.name] = given
    return done


def spooled(settings: Settings) -> list[str]:
    """Runs that wait for the server, by their ids here; the server is not asked."""
    return [folder.name for folder in _spooled(_store(settings))]


def _spooled(store: _Store) -> list[Path]:
    return sorted(path.parent for path in store.spool.glob("*/run.json")) if store.spool.is_dir() else []


def _catch_up(store: _Store) -> None:
    """After a run could be opened: earlier ones that could not reach the server now do, if it is the server they meant."""
    for folder in _spooled(store):
        try:
            _replay(store, folder)
        except RecipelineError as error:
            log.warning("run %s stays spooled: %s", folder.name, error.message)


def _replay(store: _Store, folder: Path) -> str | None:
    """One spooled run, told to the server, and the spool removed; None where it is not ours to tell."""
    run_id = folder.name
    lock = files.Lock(store.spool / f"{run_id}.lock")
    try:
        lock.acquire()
    except Conflict:
        return None  # a living run still writes it
    try:
        if not folder.is_dir():
            return None
        about = files.read_json(folder / "run.json")
        if about["store"] != store.shown:
            log.warning("run %s was spooled for %s and waits for it", run_id, about["store"])
            return None
        store = replace(store, experiment=about["experiment"])
        run = _ask(lambda: _at_server(store, about))
        writer = _Writer(_client(store), run)
        for step in _read_steps(folder):
            source = {"file": folder / "files" / step.get("name", ""), "publish": store.runs / run_id / MODEL}.get(step["do"])
            if step["do"] == "publish" and source is not None and not source.is_dir():
                continue  # withdrawn by a failure that came after it
            _ask(lambda step=step, source=source: writer.do(step, source))  # type: ignore[misc]
    except _failures() as error:
        raise _translated(error, store) from error
    else:
        at_server = str(run.info.run_id)
        _note(store, run_id, spooled=False, at_server=at_server)
        (folder / "run.json").unlink()  # without it the folder is no spooled run; a crash while deleting leaves none
        files.remove(folder)
        log.info("run %s, spooled before, is now run %s at %s", run_id, at_server, store.shown)
        return at_server
    finally:
        lock.release()


def _at_server(store: _Store, about: Mapping[str, Any]) -> Any:
    """The server's run for a spooled one; a second attempt finds the run that the first one made."""
    client = _client(store)
    run_id = str(about["run_id"])
    if about["at_server"]:
        return client.get_run(run_id)
    experiment = _experiment(client, store)
    if known := client.search_runs([experiment], f"tags.`{LOCAL_TAG}` = '{run_id}'", max_results=1):
        return known[0]
    return client.create_run(experiment, start_time=int(about["started"]), tags={LOCAL_TAG: run_id}, run_name=str(about["name"]))


def _note(store: _Store, run_id: str, **facts: Any) -> None:
    """What this machine knows of a remote or spooled run, beside its artifact: enough to find it without the server."""
    files.write_json(store.runs / run_id / "run.json", {"run_id": run_id, **_facts(store, run_id), **facts})


def _facts(store: _Store, run_id: str) -> dict[str, Any]:
    path = store.runs / run_id / "run.json"
    known: dict[str, Any] = files.read_json(path) if path.is_file() else {}
    return known


# --- finding runs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunInfo:
    """What is known of a run. `started` and `ended` in milliseconds since 1970; None where it was not said."""

    run_id: str
    name: str
    status: str
    experiment: str
    started: int | None = None
    ended: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    spooled: bool = False
    artifact_uri: str = field(default="", repr=False)


@dataclass(frozen=True)
class FoundRun(RunInfo):
    """A run whose artifact is at hand, in a local folder."""

    artifact: Path = Path()


_RUN = re.compile(r"[0-9A-Za-z][0-9A-Za-z_\-]{0,63}")
_MODEL_URI = re.compile(r"models:/(?P<name>[^/@:%\\]+)(?:@(?P<alias>[\w\-]+)|/(?P<version>[0-9]{1,9}))")
_FORMS = "give a run id, a unique beginning of one, latest, latest:<recipe> or models:/<name>@<alias>"


def find_run(settings: Settings, reference: str, *, name: str | None = None) -> FoundRun:
    """The run that a person means.

    reference  a run id, a unique beginning of one, `latest` (the newest finished one, of recipe `name` where that is
               given; also `latest:<name>`), `models:/<model>@<alias>` or `models:/<model>/<version>`

    Raises UsageError for what is none of these or fits several runs, UnknownRun where there is no such run or it has no
    artifact, Unavailable where the store would have to be asked and does not answer.
    """
    store, text = _store(settings), reference.strip()
    if text.startswith("runs:/"):
        text = text.removeprefix("runs:/").removesuffix(f"/{MODEL}")
    if match := _MODEL_URI.fullmatch(text):
        if ".." in match["name"]:
            raise UsageError(f"{reference!r} is not a reference to a run", hint=_FORMS)
        text = _asked(store, lambda: _registered(store, match["name"], match["alias"], match["version"]))
    latest, mark, wanted = text.partition(":")
    if latest == "latest" and (not mark or wanted):
        return _latest(store, wanted or name)
    if not _RUN.fullmatch(text):
        raise UsageError(f"{logs.mask(reference)!r} is not a reference to a run", hint=_FORMS)
    if (here := _noted(store, text)) is not None and here.status == "FINISHED" and (place := _artifact(store, here)) is not None:
        return _found(here, place)
    fitting = _asked(store, lambda: _search(store, prefix=text))
    exact = [run for run in fitting if run.run_id == text]
    if not exact and len(fitting) > 1:
        listed = ", ".join(run.run_id[: len(text) + 6] for run in fitting[:5])
        raise UsageError(f"{text} fits {len(fitting)} runs ({listed} …)", hint="give more of the run id", slug="ambiguous-run")
    if not fitting:
        raise UnknownRun(f"there is no run {text}", hint=_near(store, text))
    return _with_artifact(store, (exact or fitting)[0])


def list_runs(settings: Settings, limit: int = 20, *, name: str | None = None) -> list[RunInfo]:
    """The newest runs of the configured experiment first, spooled ones included."""
    store = _store(settings)
    return _asked(store, lambda: _search(store, name=name, limit=limit))


def _latest(store: _Store, name: str | None) -> FoundRun:
    for run in _asked(store, lambda: _search(store, name=name, status="FINISHED", limit=50)):
        if (place := _artifact(store, run)) is not None:
            return _found(run, place)
    of = f" of {name}" if name else ""
    known = sorted({run.name for run in _asked(store, lambda: _search(store, limit=200))})
    hint = f"did you mean {near}?" if name and (near := nearest(name, known)) else "train first"
    raise UnknownRun(f"there is no finished run{of} in experiment {store.experiment}", hint=hint)


def _with_artifact(store: _Store, run: RunInfo) -> FoundRun:
    if run.status in {"FAILED", "KILLED"}:
        reason = run.tags.get(ERROR_TAG)
        because = f" ({reason})" if reason else ""
        raise UnknownRun(f"run {run.run_id} has no artifact: its status is {run.status}{because}", hint="choose a run that is FINISHED")
    if (place := _asked(store, lambda: _artifact(store, run))) is not None:
        return _found(run, place)
    hint = "wait until it is FINISHED, or resume it" if run.status == "RUNNING" else "it was not made by recipeline, or its files are gone"
    raise UnknownRun(f"run {run.run_id} has no artifact: its status is {run.status}", hint=hint)


def _found(run: RunInfo, place: Path) -> FoundRun:
    return FoundRun(**{**vars(run), "artifact": place})


def _near(store: _Store, text: str) -> str:
    runs = _asked(store, lambda: _search(store, limit=200))
    if not runs:
        return f"experiment {store.experiment} has no runs yet"
    near = nearest(text, (run.run_id for run in runs))
    newest = ", ".join(f"{run.run_id[:12]} ({run.name})" for run in runs[:3])
    return (f"did you mean {near}? " if near else "") + f"the newest are {newest}"


def _asked(store: _Store, call: Callable[[], T]) -> T:
    try:
        return _ask(call)
    except _failures() as error:
        raise _translated(error, store) from error


def _artifact(store: _Store, run: RunInfo) -> Path | None:
    """The local folder that holds the run's artifact, fetched where it is remote; None where there is none."""
    own = _path_of(run.artifact_uri) if run.artifact_uri else None
    candidates = [store.runs / run.run_id / MODEL]
    if store.root and (root := _path_of(store.root)) is not None:  # before what MLflow says: the project may have been moved
        candidates += sorted(root.glob(f"*/{run.run_id}/artifacts/{MODEL}"))
    candidates += [own / MODEL] if own else []
    for place in candidates:
        if (place / "manifest.json").is_file():
            return place
    if run.artifact_uri and own is None and run.tags.get(PUBLISHED_TAG) == MODEL:
        return _fetch(store, run)
    return None


def _fetch(store: _Store, run: RunInfo) -> Path:
    place, client = store.runs / run.run_id / MODEL, _client(store)
    try:
        with files.atomic_folder(place) as partial, tempfile.TemporaryDirectory(dir=partial) as fresh:
            for path in Path(client.download_artifacts(run.run_id, MODEL, fresh)).iterdir():
                path.rename(partial / path.name)
    except Conflict:
        log.info("run %s was fetched by another process", run.run_id)
    _note(store, run.run_id, **{key: getattr(run, key) for key in ("name", "status", "experiment", "started", "ended", "tags", "metrics")})
    return place


def _noted(store: _Store, run_id: str) -> RunInfo | None:
    """A remote or spooled run as this machine knows it."""
    facts = _facts(store, run_id)
    if not facts:
        return None
    keys = ("name", "status", "experiment", "started", "ended", "tags", "metrics", "spooled")
    given = {key: facts[key] for key in keys if key in facts}
    given["metrics"] = {key: float(value) for key, value in given.get("metrics", {}).items()}
    return RunInfo(**{"name": "", "status": "RUNNING", "experiment": "", **given, "run_id": run_id})


def _search(store: _Store, *, prefix: str = "", name: str | None = None, status: str | None = None, limit: int = 50) -> list[RunInfo]:
    """Runs of ours, newest first; by prefix over all experiments, else in the configured one."""
    here = {path.parent.name for path in store.runs.glob("*/run.json")}
    local = [run for run_id in sorted(here) if run_id.startswith(prefix) and (run := _noted(store, run_id)) is not None and run.spooled]
    if not prefix:
        local = [run for run in local if run.experiment == store.experiment]
    runs = {run.run_id: run for run in local if name in {None, run.name} and status in {None, run.status}}
    search = _search_sqlite if store.kind == "sqlite" else _search_client
    try:
        stored = search(store, prefix, name, status, limit)
    except _failures() as error:
        if not (runs and _away(error)):
            raise
        log.warning("%s; only runs of this machine are seen", _translated(error, store).message)
        stored = []
    runs |= {run.run_id: run for run in stored if run.tags.get(LOCAL_TAG) not in runs}
    return sorted(runs.values(), key=lambda run: run.started or 0, reverse=True)[:limit]


def _search_sqlite(store: _Store, prefix: str, name: str | None, status: str | None, limit: int) -> list[RunInfo]:
    """As `_search_client`, from the tables themselves: MLflow takes 2.7 CPU seconds to import for a query of a millisecond.

    Only columns that MLflow's schema has had since 1.0; where they are not there, MLflow is asked.
    """
    assert store.database is not None
    if not store.database.is_file():
        return []
    query = """
        SELECT r.run_uuid, coalesce(t.value, r.name, ''), r.status, e.name, r.start_time, r.end_time, r.artifact_uri
        FROM runs r JOIN experiments e ON e.experiment_id = r.experiment_id
        LEFT JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = ?
        WHERE r.lifecycle_stage = 'active' AND e.lifecycle_stage = 'active'
          AND substr(r.run_uuid, 1, ?) = ?
          AND (? <> '' OR (e.name = ? AND t.value IS NOT NULL))
          AND (? IS NULL OR t.value = ?) AND (? IS NULL OR r.status = ?)
        ORDER BY r.start_time DESC, r.rowid DESC LIMIT ?
    """
    given = (RECIPE_TAG, len(prefix), prefix, prefix, store.experiment, name, name, status, status, limit)
    try:
        with contextlib.closing(sqlite3.connect(f"{store.database.as_uri()}?mode=ro", uri=True, timeout=20.0)) as connection:
            rows = connection.execute(query, given).fetchall()
            return [_row(connection, *row) for row in rows]
    except sqlite3.OperationalError as error:
        if "no such" not in str(error):
            raise Unavailable(f"{store.shown} cannot be read: {error}", hint="try again", slug="tracking") from error
        return _search_client(store, prefix, name, status, limit)
    except sqlite3.DatabaseError as error:
        raise DataError(f"{store.shown} is not an MLflow store: {error}", hint="move the file away", slug="tracking") from error


def _row(
    connection: sqlite3.Connection, run_id: str, name: str, status: str, experiment: str, started: int, ended: int | None, uri: str
) -> RunInfo:
    tags = dict(connection.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run_id,)))
    metrics = connection.execute("SELECT key, value, is_nan FROM latest_metrics WHERE run_uuid = ?", (run_id,))
    numbers = {key: math.nan if nan else float(value) for key, value, nan in metrics}
    return RunInfo(run_id, name, status, experiment, started, ended, tags, numbers, artifact_uri=uri)


def _search_client(store: _Store, prefix: str, name: str | None, status: str | None, limit: int) -> list[RunInfo]:
    client = _client(store)
    experiments = {found.experiment_id: found.name for found in client.search_experiments()}
    chosen = [key for key, label in experiments.items() if prefix or label == store.experiment]
    if not chosen:
        return []
    terms = [f"attributes.run_id LIKE '{prefix}%'"] if prefix else []
    terms += [f"tags.`{RECIPE_TAG}` = '{_quoted(name)}'"] if name is not None else ([f"tags.`{RECIPE_TAG}` != ''"] if not prefix else [])
    terms += [f"attributes.status = '{status}'"] if status else []
    found = client.search_runs(chosen, " AND ".join(terms), max_results=limit, order_by=["attributes.start_time DESC"])
    return [
        RunInfo(
            run.info.run_id, run.data.tags.get(RECIPE_TAG) or run.info.run_name or "", run.info.status, experiments[run.info.experiment_id],
            run.info.start_time, run.info.end_time, dict(run.data.tags), dict(run.data.metrics), artifact_uri=run.info.artifact_uri,
        )
        for run in found
        if run.info.run_id.startswith(prefix)
    ]  # fmt: skip


def _quoted(text: str) -> str:
    if "'" in text:  # the filter language has no way to write one
        raise UsageError(f"{text!r} is not the name of a recipe", hint=_FORMS)
    return text


def _registered(store: _Store, name: str, alias: str | None, version: str | None) -> str:
    """The run id behind a registered model."""
    client = _client(store)
    try:
        found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)
    except _failures() as error:
        if getattr(error, "error_code", "") not in {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE"}:
            raise
        known = sorted(model.name for model in client.search_registered_models())
        near = nearest(name, known)
        hint = f"did you mean {near}?" if near and near != name else f"registered are {', '.join(known[:12]) or 'none'}"
        raise UnknownRun(f"there is no registered model {name}" + (f"@{alias}" if alias else f"/{version}"), hint=hint) from error
    if not found.run_id:
        raise UnknownRun(f"model {name} was not registered from a run", hint="register runs:/<run id>/model")
    return str(found.run_id)


# --- the artifact as a pyfunc model ----------------------------------------------------------------------------------

_TYPES = {"int64": "long", "float64": "double", "bool": "boolean", "string": "string", "datetime": "datetime"}
"""MLflow's enforcement has no type for times with a zone, nor for keys that may be anything: those are `any`."""

_REQUIRED = ("recipeline", "mlflow", "numpy", "pandas", "scikit-learn", "skops", "pyarrow")
_BOOSTERS = ("xgboost", "lightgbm", "catboost")


def describe(
    folder: Path, *, schema: InputSchema, example: pd.DataFrame | None = None, run_id: str = "", requirements: Iterable[str] = ()
) -> None:
    """Write what MLflow wants to find into an artifact folder, before its manifest is sealed.

    MLmodel, requirements.txt, conda.yaml, python_env.yaml, and with `example` (some rows) the two input examples. Written
    here and not by `mlflow.pyfunc.save_model`, which gives the same and costs the import of MLflow's model flavours.

    requirements  names of further distributions that loading needs, or lines such as `torch>=2`
    """
    import yaml

    names = [*_REQUIRED, *(name for name in _BOOSTERS if name in sys.modules)]
    lines = [f"{name}=={known}" for name in names if (known := _version(name))]
    lines += [line if re.search(r"[=<>~!@ ]", line) else f"{line}=={_version(line)}" for line in requirements]
    python = ".".join(str(part) for part in sys.version_info[:3])
    signature = [
        {"type": "any" if column.role == "key" else _TYPES.get(column.dtype, "any"), "name": column.name, "required": not column.optional}
        for column in schema.columns
    ]
    model: dict[str, Any] = {
        **({"run_id": run_id, "artifact_path": MODEL} if run_id else {}),
        "flavors": {
            "python_function": {
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                "loader_module": "recipeline.tracking",
                "python_version": python,
            }
        },
        "mlflow_version": _version("mlflow"),
        "model_uuid": uuid.uuid4().hex,
        "signature": {"inputs": json.dumps(signature, ensure_ascii=False), "outputs": None, "params": None},
        "utc_time_created": time.strftime("%Y-%m-%d %H:%M:%S.000000", time.gmtime()),
    }
    if example is not None:
        model["saved_input_example_info"] = {
            "artifact_path": "input_example.json",
            "pandas_orient": "split",
            "serving_input_path": "serving_input_example.json",
            "type": "dataframe",
        }
        split = json.loads(example.to_json(orient="split", index=False, date_format="iso"))
        files.write_json(folder / "input_example.json", split)
        files.write_json(folder / "serving_input_example.json", {"dataframe_split": split})
    conda = {"name": "mlflow-env", "channels": ["conda-forge"], "dependencies": [f"python={python}", "pip", {"pip": lines}]}
    files.write_text(folder / "requirements.txt", "".join(f"{line}\n" for line in lines))
    files.write_text(folder / "conda.yaml", yaml.safe_dump(conda, sort_keys=False))
    virtual = {"python": python, "dependencies": ["-r requirements.txt"]}
    files.write_text(folder / "python_env.yaml", yaml.safe_dump(virtual, sort_keys=False))
    files.write_text(folder / "MLmodel", yaml.safe_dump(model, sort_keys=False, allow_unicode=True))


class PyfuncWrapper:
    """What MLflow calls: `mlflow.pyfunc.load_model("runs:/<id>/model").predict(frame)`.

    hyperparameter_optimization  the content of hpo.json
    python_model                 itself, so that `unwrap_python_model()` gives it
    """

    def __init__(self, pipeline: Any, hyperparameter_optimization: dict[str, Any]) -> None:
        self.pipeline, self.hyperparameter_optimization = pipeline, hyperparameter_optimization

    @property
    def python_model(self) -> PyfuncWrapper:
        return self

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """The output frame of the pipeline; a mapping, or rows as mappings, are taken as well.

        Raises UsageError for `params`: a recipeline model takes none at prediction.
        """
        import pandas as pd

        if params:
            raise UsageError("this model takes no params at prediction", hint="leave them out")
        frame = model_input if isinstance(model_input, pd.DataFrame) else pd.DataFrame(model_input)
        result: pd.DataFrame = self.pipeline.predict(frame)
        return result


def _load_pyfunc(path: str) -> PyfuncWrapper:
    """MLflow's `loader_module` protocol: the model in an artifact folder."""
    import importlib

    folder = Path(path)
    pipeline = importlib.import_module("recipeline").load(folder)
    hpo = folder / "hpo.json"
    return PyfuncWrapper(pipeline, files.read_json(hpo) if hpo.is_file() else {"enabled": False})


# --- words and numbers -----------------------------------------------------------------------------------------------


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""


def _now() -> int:
    return time.time_ns() // 1_000_000


def _flat(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping) and value:
            yield from _flat(value, name)
        else:
            yield name, value


def _name(key: object) -> str:
    """A key of the characters that MLflow allows."""
    return _cut(re.sub(r"[^\w\-. :/]", "_", str(key)), LONGEST["key"]).strip("/") or "_"


def _value(value: Any, longest: int) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False) if isinstance(value, (list, tuple, dict)) else str(value)
    return _cut(logs.mask(text), longest)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _spell(value: float) -> float | str:
    """JSON has no NaN; `float` reads what stands here instead."""
    return value if math.isfinite(value) else str(value)


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else json.dumps(value, default=str)


def _batches(items: Mapping[str, T]) -> Iterator[dict[str, T]]:
    pairs = list(items.items())
    for begin in range(0, len(pairs), BATCH):
        yield dict(pairs[begin : begin + BATCH])
