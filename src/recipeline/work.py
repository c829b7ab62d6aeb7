"""The work folder of a run: what survives a crash, and who may go on with it.

Keyed by what the run is (recipe, parameters, data, seed), so the same command after a crash finds it again. Its lock is
held while the run lives: a second one is a Conflict. It goes when the run is done.

    <root>/<key>/
        state.json     identity and run id
        log.txt        every record of the run
        fold-<label>/  hpo/ hpo.json fit/ saved/ judged.json
        artifact/      the finished artifact, until tracking has it
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from recipeline.errors import Conflict, UnknownRun
from recipeline.stores import files

log = logging.getLogger("recipeline")

PHASES = ("load", "split", "tune", "fit", "save", "reload", "evaluate", "report", "commit", "track")


class Work:
    """An opened and locked work folder; use it in a `with` statement.

    resumed  True where an earlier attempt left something to go on with
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any], lock: files.Lock, run_id: str, *, resumed: bool) -> None:
        self.folder, self.identity, self.run_id, self.resumed = folder, identity, run_id, resumed
        self._lock = lock
        self._phase = ("", "")

    @classmethod
    def open(cls, root: Path, identity: Mapping[str, Any], *, resume: str | None = None) -> Work:
        """The work folder of the run that `identity` names, made where there is none.

        resume  a run id, a prefix of one, or `latest`: the folder must exist and be of this identity

        Raises Conflict while a living run holds it, or where the recipe or the data changed since; UnknownRun where
        there is nothing to resume; Exhausted where the folder cannot be written.
        """
        key = digest(identity)[:16]
        folder = root / key
        if resume is not None:
            found = find(root, resume)
            if found != folder:
                raise Conflict(
                    f"run {resume} was started with another {_difference(read_state(found)['identity'], identity)}",
                    hint="resume it with the recipe, parameters and data it had, or train anew without --resume",
                )
        lock = files.Lock(folder / "lock").acquire()
        shutil.rmtree(_grave(folder), ignore_errors=True)  # of one that died while it was being discarded
        state = read_state(folder)
        resumed = bool(state)
        if not state:
            state = {"identity": dict(identity), "run_id": ""}
            files.write_json(folder / "state.json", state)
        return cls(folder, identity, lock, str(state["run_id"]), resumed=resumed)

    @property
    def key(self) -> str:
        return self.folder.name

    def remember(self, run_id: str) -> None:
        """From now on this attempt, and whoever goes on with it, is that run."""
        self.run_id = run_id
        files.write_json(self.folder / "state.json", {"identity": dict(self.identity), "run_id": run_id})

    def phase(self, name: str, detail: str = "") -> None:
        """Say in the log where the run stands; `PHASES` are the names."""
        if name not in PHASES:
            raise ValueError(name)
        if (name, detail) != self._phase:
            self._phase = (name, detail)
            log.info("phase %s%s", name, f" {detail}" if detail else "")

    def discard(self) -> None:
        """The run is done; nothing is left to go on with."""
        grave = _grave(self.folder)
        shutil.rmtree(grave, ignore_errors=True)
        self.folder.rename(grave)  # at once, so that a crash while deleting leaves no half folder under the key
        shutil.rmtree(grave, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._lock.release()


def digest(identity: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON-like mapping, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str, ensure_ascii=False).encode()).hexdigest()


def find(root: Path, reference: str) -> Path:
    """The work folder of an unfinished run, by run id, unique prefix, or `latest`."""
    places = [path.parent for path in root.glob("*/state.json") if not path.parent.name.startswith(".")]
    folders = [folder for folder in places if read_state(folder)]
    if reference == "latest":
        if folders:
            return max(folders, key=lambda folder: (folder / "state.json").stat().st_mtime_ns)
        raise UnknownRun("no unfinished run to resume", hint="train without --resume")
    fitting = [folder for folder in folders if read_state(folder)["run_id"].startswith(reference)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise UnknownRun(f"{reference} fits {len(fitting)} unfinished runs", hint="give more of the run id")
    known = ", ".join(sorted(read_state(folder)["run_id"][:12] for folder in folders)) or "there is none"
    raise UnknownRun(f"no unfinished run {reference}", hint=f"unfinished: {known}")


def _grave(folder: Path) -> Path:
    """Where a work folder goes to be deleted; nobody looks for unfinished runs there."""
    return folder.with_name(f".{folder.name}.done")


def read_state(folder: Path) -> dict[str, Any]:
    """Identity and run id; empty where there is none, or none that this version wrote."""
    try:
        state: Any = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        return {"identity": dict(state["identity"]), "run_id": str(state["run_id"])}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return " and ".join(sorted(key for key in {*then, *now} if then.get(key) != now.get(key))) or "identity"
