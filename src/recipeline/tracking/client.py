"""The door to MLflow: its client, its experiments, and its errors in our words."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import sqlite3
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from recipeline import logs
from recipeline.errors import DataError, Exhausted, Problem, RecipeError, RecipelineError, Unavailable
from recipeline.resilience import retry
from recipeline.stores import files
from recipeline.tracking.store import Store, misconfigured, store_of

if TYPE_CHECKING:
    from recipeline.settings import Settings

T = TypeVar("T")

log = logging.getLogger("recipeline.tracking")


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


def client_of(store: Store) -> Any:
    client = _mlflow(sql=store.kind in {"sqlite", "database"})
    if store.database is not None and not store.database.exists():
        _make_database(store)
    return client(tracking_uri=store.uri, registry_uri=store.uri)


def _sql_store(uri: str, root: str) -> Any:
    """MLflow's own store on a database, which `MlflowClient` would give an artifact root in the working folder."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    return SqlAlchemyStore(uri, root)  # type: ignore[no-untyped-call]


def _make_database(store: Store) -> None:
    """A new SQLite store, there whole or not at all: MLflow's migrations are neither atomic nor safe against a second process."""
    assert store.database is not None
    with files.Lock(store.project / ".recipeline" / "mlflow.lock", wait=120.0):
        if not store.database.exists():
            with files.atomic_path(store.database) as unfinished:
                _sql_store(f"sqlite:///{unfinished}", store.root)._dispose_engine()


def prepare(settings: Settings) -> None:
    """Make store and experiment where there are none. `start` does it too, for 0.5 CPU seconds once in a project."""
    store = store_of(settings)
    try:
        experiment_of(client_of(store), store)
    except failures() as error:
        raise translated(error, store) from error


def experiment_of(client: Any, store: Store) -> str:
    """Id of the experiment, made where there is none; its artifacts stand below the store's own root."""
    found = client.get_experiment_by_name(store.experiment)
    if found is None:
        try:
            if store.kind in {"sqlite", "database"}:
                return str(_sql_store(store.uri, store.root).create_experiment(store.experiment))
            place = f"{store.root.rstrip('/')}/{quote(store.experiment, safe='')}" if store.root and store.kind == "server" else None
            return str(client.create_experiment(store.experiment, artifact_location=place))
        except failures() as error:
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


def _follow_the_project(store: Store, experiment: Any) -> None:
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


def failures() -> tuple[type[Exception], ...]:
    """What talking to MLflow can raise: its own exception, and what requests and the file system raise below it."""
    if "mlflow" not in sys.modules:
        return (OSError,)
    from mlflow.exceptions import MlflowException

    return (MlflowException, OSError)


_AWAY = frozenset({"TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL_ERROR"})

_CLOSED = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED"})


def away(error: BaseException) -> bool:
    """The server did not answer, or answered that it cannot now; asking again may help."""
    if isinstance(error, OSError):  # of requests, too
        response = getattr(error, "response", None)
        if response is not None:
            return response.status_code >= 500 or response.status_code in {408, 429}
        return error.errno not in {errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EDQUOT}
    code = getattr(error, "error_code", "")
    return code in _AWAY and "out-of-date database schema" not in str(error)


def ask(call: Callable[[], T]) -> T:
    """One question to the store, asked up to three times within 30 s while it is away."""
    return retry(on=away, attempts=3, timeout=30.0)(call)()


def asked(store: Store, call: Callable[[], T]) -> T:
    try:
        return ask(call)
    except failures() as error:
        raise translated(error, store) from error


def translated(error: Exception, store: Store) -> RecipelineError:
    """MLflow's and the system's words as one of our errors."""
    words = logs.mask(next(iter(str(error).strip().splitlines()), type(error).__name__))[:300]
    code = getattr(error, "error_code", "")
    if "out-of-date database schema" in words:
        uri = files.without_credentials(store.uri)
        return misconfigured(f"{store.shown} was written by another version of MLflow", f"mlflow db upgrade {uri}", "tracking-schema")
    if code in _CLOSED:
        hint = "see the user and password of the tracking server"
        return misconfigured(f"{store.shown} refuses these credentials: {words}", hint, "tracking-credentials")
    if "disk is full" in words or "readonly database" in words or getattr(error, "errno", None) in {errno.ENOSPC, errno.EROFS}:
        return Exhausted(f"{store.shown} cannot be written: {words}", hint="make room, or choose another folder", slug="disk")
    if away(error):
        return Unavailable(
            f"{store.shown} does not answer ({_reason(error) or _system_words(str(error)) or words})",
            hint="try again, or see mlflow.tracking_uri",
            slug="tracking",
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


def _system_words(text: str) -> str:
    """`Connection refused`, where the text of a library quotes what the system said."""
    found = re.search(r"\[Errno -?\d+\] ([A-Z][\w ]+)", text)
    return found[1] if found else ""
