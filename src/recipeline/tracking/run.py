"""A run, from its opening to its end."""

from __future__ import annotations

import functools
import json
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recipeline import logs
from recipeline.errors import Exhausted, RecipelineError
from recipeline.stores import files
from recipeline.tracking.client import ask, away, client_of, experiment_of, failures, translated
from recipeline.tracking.spool import Spool, catch_up, replay
from recipeline.tracking.store import Store, facts_of, note, path_of, store_of
from recipeline.tracking.words import (
    ERROR_TAG,
    LONGEST,
    MESSAGE_TAG,
    MODEL,
    PUBLISHED_TAG,
    RECIPE_TAG,
    cell,
    flattened,
    name_of,
    now,
    spell,
    value_of,
    version_of,
)
from recipeline.tracking.writer import Writer, put_folder

if TYPE_CHECKING:
    from recipeline.settings import Settings

log = logging.getLogger("recipeline.tracking")

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


class Tracked:
    """An open run. Everything may be said twice: a run that was reopened after a crash is told what it knows already.

    run_id    MLflow's, or a local one for a run that began while the server was away
    resumed   it was opened again
    """

    def __init__(self, store: Store, run_id: str, name: str, *, writer: Writer | None, spool: Spool | None, resumed: bool) -> None:
        self.run_id, self.name, self.resumed = run_id, name, resumed
        self._store, self._writer, self._spool = store, writer, spool

    @property
    def spooled(self) -> bool:
        """Whether something of it waits for the server."""
        return self._spool is not None

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Nested mappings become dotted names; values are bounded, and secrets masked."""
        flat = {name_of(key): value_of(value, LONGEST["param"]) for key, value in flattened(params)}
        self._do({"do": "params", "params": flat})

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        numbers = {name_of(key): float(value) for key, value in metrics.items()}
        self._do({"do": "metrics", "metrics": {key: spell(value) for key, value in numbers.items()}, "step": step or 0, "time": now()})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        self._do({"do": "tags", "tags": {name_of(key): value_of(value, LONGEST["tag"]) for key, value in tags.items()}})

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows as `<name>.json` in the form of MLflow's own tables, so that its pages show it as one."""
        columns = list(dict.fromkeys(str(column) for row in rows for column in row))
        data = [[cell(row.get(column)) for column in columns] for row in rows]
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
            put_folder(folder, place)
        self._do({"do": "publish"}, place)
        self._do({"do": "tags", "tags": {PUBLISHED_TAG: MODEL}})
        return place

    def finish(self, status: Status = "FINISHED") -> None:
        """The end. A spooled run is given to its server now, if that is there again."""
        self._do({"do": "finish", "status": status, "time": now()})
        spool, store = self._spool, self._store
        if spool is None:
            if (store.runs / self.run_id / MODEL).is_dir():
                note(store, self.run_id, status=status, name=self.name, experiment=store.experiment, ended=now())
            return
        spool.close()
        try:
            if replay(store, spool.folder) is not None:
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
                logging.getLogger("recipeline.tracking").warning("run %s could not be marked %s: %s", self.run_id, status, error)

    def _local_place(self) -> Path:
        own = self._writer.model if self._writer is not None and self._spool is None else None
        return own or self._store.runs / self.run_id / MODEL

    def _do(self, step: dict[str, Any], source: Path | None = None) -> None:
        """One step, done at the server or spooled; after the first that failed, the others wait behind it."""
        if self._spool is None:
            assert self._writer is not None
            writer = self._writer
            try:
                ask(lambda: writer.do(step, source))
                return
            except failures() as error:
                if self._store.kind in {"sqlite", "folder"}:
                    raise translated(error, self._store) from error
                reason = translated(error, self._store)
            log.warning("the tracking server is lost, run %s is spooled from here on: %s", self.run_id, reason.message)
            self._spool = Spool.begin(self._store, self.run_id, self.name, at_server=True)
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
    store = store_of(settings, experiment)
    _check_room(store)
    given = {RECIPE_TAG: name, "mlflow.source.type": "LOCAL", "mlflow.source.name": f"recipeline {version_of('recipeline')}"}
    given |= {name_of(key): value_of(value, LONGEST["tag"]) for key, value in (tags or {}).items()}
    if run_id is not None and (store.spool / run_id / "run.json").is_file():
        run = Tracked(store, run_id, name, writer=None, spool=Spool.reopen(store, run_id), resumed=True)
    else:
        known = facts_of(store, run_id) if run_id is not None else {}
        run = _open(store, name, known.get("at_server", run_id), given)
        if not run.spooled:
            catch_up(store)
    if params:
        run.log_params(params)
    return run


def _check_room(store: Store) -> None:
    """Exhausted where artifacts could not be written in the end: better known before anything is trained."""
    place = path_of(store.root) if store.root else None
    if place is None:
        return
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        hint = "artifacts go there; check its permissions, or choose another folder"
        raise Exhausted("may not be written", hint=hint, slug="read-only", where=files.shown(place))


def _open(store: Store, name: str, run_id: str | None, tags: dict[str, str]) -> Tracked:
    try:
        client = ask(lambda: client_of(store))
        opened = _reopen(client, run_id) if run_id is not None else None
        resumed = opened is not None
        if opened is None:
            experiment = ask(lambda: experiment_of(client, store))
            opened = ask(lambda: client.create_run(experiment, tags=tags, run_name=name))
    except failures() as error:
        if store.kind in {"sqlite", "folder"} or not away(error):
            raise translated(error, store) from error
        local = run_id or uuid.uuid4().hex
        log.warning("%s; run %s is spooled", translated(error, store).message, local)
        spool = Spool.begin(store, local, name, at_server=run_id is not None)
        spool.add({"do": "tags", "tags": tags}, None)
        note(store, local, tags=tags)
        return Tracked(store, local, name, writer=None, spool=spool, resumed=run_id is not None)
    return Tracked(store, opened.info.run_id, name, writer=Writer(client, opened), spool=None, resumed=resumed)


def _reopen(client: Any, run_id: str) -> Any:
    """The run, RUNNING again; None where the store has no such run."""
    try:
        run = ask(lambda: client.get_run(run_id))
    except failures() as error:
        if getattr(error, "error_code", "") not in {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"}:
            raise
        run = None
    if run is None or run.info.lifecycle_stage != "active":
        log.warning("the tracking store has no run %s any more; a new one is opened", run_id)
        return None
    ask(lambda: client.update_run(run_id, status="RUNNING"))
    for tag in {ERROR_TAG, MESSAGE_TAG} & set(run.data.tags):  # why it was stopped says nothing of how it ends
        ask(lambda tag=tag: client.delete_tag(run_id, tag))  # type: ignore[misc]
    return run
