"""What a server that is away has to be told waits here, and reaches it later."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipeline.errors import Conflict, RecipelineError
from recipeline.stores import files
from recipeline.tracking.client import ask, client_of, experiment_of, failures, translated
from recipeline.tracking.store import Store, note, store_of
from recipeline.tracking.words import LOCAL_TAG, MODEL, now
from recipeline.tracking.writer import Writer

if TYPE_CHECKING:
    from recipeline.settings import Settings

log = logging.getLogger("recipeline.tracking")


class Spool:
    """`run.json` says which run, `steps.jsonl` what happened in order, `files/` what goes with it; the lock, that it goes on."""

    def __init__(self, store: Store, run_id: str, steps: list[dict[str, Any]]) -> None:
        self.store, self.run_id, self.steps = store, run_id, steps
        self.folder = store.spool / run_id
        self._lock = files.Lock(store.spool / f"{run_id}.lock").acquire()

    @classmethod
    def begin(cls, store: Store, run_id: str, name: str, *, at_server: bool) -> Spool:
        if (store.spool / run_id / "run.json").is_file():
            return cls.reopen(store, run_id)
        files.remove(store.spool / run_id)
        spool = cls(store, run_id, [])
        about = {"name": name, "experiment": store.experiment, "started": now()}
        with files.atomic_folder(spool.folder) as partial:
            files.write_json(partial / "run.json", {**about, "run_id": run_id, "store": store.shown, "at_server": at_server})
        note(store, run_id, **about, status="RUNNING", spooled=True)
        return spool

    @classmethod
    def reopen(cls, store: Store, run_id: str) -> Spool:
        spool = cls(store, run_id, [])
        spool.steps = [step for step in _read_steps(spool.folder) if step["do"] != "finish"]
        note(store, run_id, status="RUNNING")
        return spool

    def add(self, step: dict[str, Any], source: Path | None) -> None:
        if step["do"] == "file" and source is not None:
            files.write_bytes(self.folder / "files" / step["name"], source.read_bytes())
        self.steps.append(step)
        files.write_text(self.folder / "steps.jsonl", "".join(json.dumps(each, sort_keys=True) + "\n" for each in self.steps))
        if step["do"] == "finish":
            metrics = {key: value for each in self.steps if each["do"] == "metrics" for key, value in each["metrics"].items()}
            tags = {key: value for each in self.steps if each["do"] == "tags" for key, value in each["tags"].items()}
            note(self.store, self.run_id, status=step["status"], ended=step["time"], metrics=metrics, tags=tags)

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
    store = store_of(settings)
    done = {}
    for folder in _spooled(store):
        if (given := replay(store, folder)) is not None:
            done[folder.name] = given
    return done


def spooled(settings: Settings) -> list[str]:
    """Runs that wait for the server, by their ids here; the server is not asked."""
    return [folder.name for folder in _spooled(store_of(settings))]


def _spooled(store: Store) -> list[Path]:
    return sorted(path.parent for path in store.spool.glob("*/run.json")) if store.spool.is_dir() else []


def catch_up(store: Store) -> None:
    """After a run could be opened: earlier ones that could not reach the server now do, if it is the server they meant."""
    for folder in _spooled(store):
        try:
            replay(store, folder)
        except RecipelineError as error:
            log.warning("run %s stays spooled: %s", folder.name, error.message)


def replay(store: Store, folder: Path) -> str | None:
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
        run = ask(lambda: _at_server(store, about))
        writer = Writer(client_of(store), run)
        for step in _read_steps(folder):
            source = {"file": folder / "files" / step.get("name", ""), "publish": store.runs / run_id / MODEL}.get(step["do"])
            if step["do"] == "publish" and source is not None and not source.is_dir():
                continue  # withdrawn by a failure that came after it
            ask(lambda step=step, source=source: writer.do(step, source))  # type: ignore[misc]
    except failures() as error:
        raise translated(error, store) from error
    else:
        at_server = str(run.info.run_id)
        note(store, run_id, spooled=False, at_server=at_server)
        (folder / "run.json").unlink()  # without it the folder is no spooled run; a crash while deleting leaves none
        files.remove(folder)
        log.info("run %s, spooled before, is now run %s at %s", run_id, at_server, store.shown)
        return at_server
    finally:
        lock.release()


def _at_server(store: Store, about: Mapping[str, Any]) -> Any:
    """The server's run for a spooled one; a second attempt finds the run that the first one made."""
    client = client_of(store)
    run_id = str(about["run_id"])
    if about["at_server"]:
        return client.get_run(run_id)
    experiment = experiment_of(client, store)
    if known := client.search_runs([experiment], f"tags.`{LOCAL_TAG}` = '{run_id}'", max_results=1):
        return known[0]
    return client.create_run(experiment, start_time=int(about["started"]), tags={LOCAL_TAG: run_id}, run_name=str(about["name"]))
