"""Which runs there are: of this machine, from the tables of a local store, or from a server."""

from __future__ import annotations

import contextlib
import logging
import math
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from recipeline.errors import DataError, Unavailable, UsageError
from recipeline.tracking.client import ask, asked, away, client_of, failures, translated
from recipeline.tracking.store import Store, facts_of, store_of
from recipeline.tracking.words import LOCAL_TAG, RECIPE_TAG

if TYPE_CHECKING:
    from recipeline.settings import Settings

log = logging.getLogger("recipeline.tracking")


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


def list_runs(settings: Settings, limit: int = 20, *, name: str | None = None) -> list[RunInfo]:
    """The newest runs of the configured experiment first, spooled ones included."""
    store = store_of(settings)
    return asked(store, lambda: search(store, name=name, limit=limit))


def unfinished(settings: Settings, *, name: str, tag: str, value: str) -> str | None:
    """Id of the newest run of recipe `name` that carries this tag and never came to an end; None where there is none.

    So a process that died right after it had opened a run, before it could write down which, finds it again.
    """
    store = store_of(settings)
    try:
        running = ask(lambda: search(store, name=name, status="RUNNING", limit=1000))
    except failures() as error:
        if not away(error):
            raise translated(error, store) from error
        return None  # the server is away: what is opened now is spooled
    return next((run.run_id for run in running if run.tags.get(tag) == value), None)


def search(store: Store, *, prefix: str = "", name: str | None = None, status: str | None = None, limit: int = 50) -> list[RunInfo]:
    """Runs of ours, newest first; by prefix over all experiments, else in the configured one."""
    here = {path.parent.name for path in store.runs.glob("*/run.json")}
    local = [run for run_id in sorted(here) if run_id.startswith(prefix) and (run := noted(store, run_id)) is not None and run.spooled]
    if not prefix:
        local = [run for run in local if run.experiment == store.experiment]
    runs = {run.run_id: run for run in local if name in {None, run.name} and status in {None, run.status}}
    ask_store = search_sqlite if store.kind == "sqlite" else search_client
    try:
        stored = ask_store(store, prefix, name, status, limit)
    except failures() as error:
        if not (runs and away(error)):
            raise
        log.warning("%s; only runs of this machine are seen", translated(error, store).message)
        stored = []
    runs |= {run.run_id: run for run in stored if run.tags.get(LOCAL_TAG) not in runs}
    return sorted(runs.values(), key=lambda run: run.started or 0, reverse=True)[:limit]


def noted(store: Store, run_id: str) -> RunInfo | None:
    """A remote or spooled run as this machine knows it."""
    facts = facts_of(store, run_id)
    if not facts:
        return None
    keys = ("name", "status", "experiment", "started", "ended", "tags", "metrics", "spooled")
    given = {key: facts[key] for key in keys if key in facts}
    given["metrics"] = {key: float(value) for key, value in given.get("metrics", {}).items()}
    return RunInfo(**{"name": "", "status": "RUNNING", "experiment": "", **given, "run_id": run_id})


def search_sqlite(store: Store, prefix: str, name: str | None, status: str | None, limit: int) -> list[RunInfo]:
    """As `search_client`, from the tables themselves: MLflow takes 2.7 CPU seconds to import for a query of a millisecond.

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
        return search_client(store, prefix, name, status, limit)
    except sqlite3.DatabaseError as error:
        raise DataError(f"{store.shown} is not an MLflow store: {error}", hint="move the file away", slug="tracking") from error


def _row(
    connection: sqlite3.Connection, run_id: str, name: str, status: str, experiment: str, started: int, ended: int | None, uri: str
) -> RunInfo:
    tags = dict(connection.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run_id,)))
    metrics = connection.execute("SELECT key, value, is_nan FROM latest_metrics WHERE run_uuid = ?", (run_id,))
    numbers = {key: math.nan if nan else float(value) for key, value, nan in metrics}
    return RunInfo(run_id, name, status, experiment, started, ended, tags, numbers, artifact_uri=uri)


def search_client(store: Store, prefix: str, name: str | None, status: str | None, limit: int) -> list[RunInfo]:
    client = client_of(store)
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


FORMS = "give a run id, a unique beginning of one, latest, latest:<recipe> or models:/<name>@<alias>"


def _quoted(text: str) -> str:
    if "'" in text:  # the filter language has no way to write one
        raise UsageError(f"{text!r} is not the name of a recipe", hint=FORMS)
    return text
