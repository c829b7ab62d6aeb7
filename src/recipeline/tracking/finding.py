"""From what a person types (`latest`, a prefix, `models:/name@alias`) to a run and its artifact."""

from __future__ import annotations

import logging
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recipeline import logs
from recipeline.errors import Conflict, UnknownRun, UsageError, nearest
from recipeline.stores import files
from recipeline.tracking.client import asked, client_of, failures
from recipeline.tracking.search import FORMS, RunInfo, noted, search
from recipeline.tracking.store import Store, note, path_of, store_of
from recipeline.tracking.words import ERROR_TAG, MODEL, PUBLISHED_TAG

if TYPE_CHECKING:
    from recipeline.settings import Settings

log = logging.getLogger("recipeline.tracking")


@dataclass(frozen=True)
class FoundRun(RunInfo):
    """A run whose artifact is at hand, in a local folder."""

    artifact: Path = Path()


_RUN = re.compile(r"[0-9A-Za-z][0-9A-Za-z_\-]{0,63}")

_MODEL_URI = re.compile(r"models:/(?P<name>[^/@:%\\]+)(?:@(?P<alias>[\w\-]+)|/(?P<version>[0-9]{1,9}))")


def find_run(settings: Settings, reference: str, *, name: str | None = None) -> FoundRun:
    """The run that a person means.

    reference  a run id, a unique beginning of one, `latest` (the newest finished one, of recipe `name` where that is
               given; also `latest:<name>`), `models:/<model>@<alias>` or `models:/<model>/<version>`

    Raises UsageError for what is none of these or fits several runs, UnknownRun where there is no such run or it has no
    artifact, Unavailable where the store would have to be asked and does not answer.
    """
    store, text = store_of(settings), reference.strip()
    if text.startswith("runs:/"):
        text = text.removeprefix("runs:/").removesuffix(f"/{MODEL}")
    if match := _MODEL_URI.fullmatch(text):
        if ".." in match["name"]:
            raise UsageError(f"{reference!r} is not a reference to a run", hint=FORMS)
        text = asked(store, lambda: _registered(store, match["name"], match["alias"], match["version"]))
    latest, mark, wanted = text.partition(":")
    if latest == "latest" and (not mark or wanted):
        return _latest(store, wanted or name)
    if not _RUN.fullmatch(text):
        raise UsageError(f"{logs.mask(reference)!r} is not a reference to a run", hint=FORMS)
    if (here := noted(store, text)) is not None and here.status == "FINISHED" and (place := _artifact(store, here)) is not None:
        return _found(here, place)
    fitting = asked(store, lambda: search(store, prefix=text))
    exact = [run for run in fitting if run.run_id == text]
    if not exact and len(fitting) > 1:
        listed = ", ".join(run.run_id[: len(text) + 6] for run in fitting[:5])
        raise UsageError(f"{text} fits {len(fitting)} runs ({listed} …)", hint="give more of the run id", slug="ambiguous-run")
    if not fitting:
        raise UnknownRun(f"there is no run {text}", hint=_near(store, text))
    return _with_artifact(store, (exact or fitting)[0])


def _latest(store: Store, name: str | None) -> FoundRun:
    for run in asked(store, lambda: search(store, name=name, status="FINISHED", limit=50)):
        if (place := _artifact(store, run)) is not None:
            return _found(run, place)
    of = f" of {name}" if name else ""
    known = asked(store, lambda: search(store, limit=200))
    mine = [run for run in known if run.name == name]
    if mine:
        hint = f"the newest, {mine[0].run_id[:12]}, is {mine[0].status}"
    else:
        hint = f"did you mean {near}?" if name and (near := nearest(name, sorted({run.name for run in known}))) else "train first"
    raise UnknownRun(f"there is no finished run{of} in experiment {store.experiment}", hint=hint)


def _with_artifact(store: Store, run: RunInfo) -> FoundRun:
    if run.status in {"FAILED", "KILLED"}:
        reason = run.tags.get(ERROR_TAG)
        because = f" ({reason})" if reason else ""
        raise UnknownRun(f"run {run.run_id} has no artifact: its status is {run.status}{because}", hint="choose a run that is FINISHED")
    if (place := asked(store, lambda: _artifact(store, run))) is not None:
        return _found(run, place)
    hint = "wait until it is FINISHED, or resume it" if run.status == "RUNNING" else "it was not made by recipeline, or its files are gone"
    raise UnknownRun(f"run {run.run_id} has no artifact: its status is {run.status}", hint=hint)


def _found(run: RunInfo, place: Path) -> FoundRun:
    return FoundRun(**{**vars(run), "artifact": place})


def _near(store: Store, text: str) -> str:
    runs = asked(store, lambda: search(store, limit=200))
    if not runs:
        return f"experiment {store.experiment} has no runs yet"
    near = nearest(text, (run.run_id for run in runs))
    newest = ", ".join(f"{run.run_id[:12]} ({run.name})" for run in runs[:3])
    return (f"did you mean {near}? " if near else "") + f"the newest are {newest}"


def _artifact(store: Store, run: RunInfo) -> Path | None:
    """The local folder that holds the run's artifact, fetched where it is remote; None where there is none."""
    own = path_of(run.artifact_uri) if run.artifact_uri else None
    candidates = [store.runs / run.run_id / MODEL]
    if store.root and (root := path_of(store.root)) is not None:  # before what MLflow says: the project may have been moved
        candidates += sorted(root.glob(f"*/{run.run_id}/artifacts/{MODEL}"))
    candidates += [own / MODEL] if own else []
    for place in candidates:
        if (place / "manifest.json").is_file():
            return place
    if run.artifact_uri and own is None and run.tags.get(PUBLISHED_TAG) == MODEL:
        return _fetch(store, run)
    return None


def _fetch(store: Store, run: RunInfo) -> Path:
    place, client = store.runs / run.run_id / MODEL, client_of(store)
    try:
        with files.atomic_folder(place) as partial, tempfile.TemporaryDirectory(dir=partial) as fresh:
            for path in Path(client.download_artifacts(run.run_id, MODEL, fresh)).iterdir():
                path.rename(partial / path.name)
    except Conflict:
        log.info("run %s was fetched by another process", run.run_id)
    note(store, run.run_id, **{key: getattr(run, key) for key in ("name", "status", "experiment", "started", "ended", "tags", "metrics")})
    return place


def _registered(store: Store, name: str, alias: str | None, version: str | None) -> str:
    """The run id behind a registered model."""
    client = client_of(store)
    try:
        found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)
    except failures() as error:
        if getattr(error, "error_code", "") not in {"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE"}:
            raise
        known = sorted(model.name for model in client.search_registered_models())
        near = nearest(name, known)
        hint = f"did you mean {near}?" if near and near != name else f"registered are {', '.join(known[:12]) or 'none'}"
        raise UnknownRun(f"there is no registered model {name}" + (f"@{alias}" if alias else f"/{version}"), hint=hint) from error
    if not found.run_id:
        raise UnknownRun(f"model {name} was not registered from a run", hint="register runs:/<run id>/model")
    return str(found.run_id)
