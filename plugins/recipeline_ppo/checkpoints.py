"""Checkpoints as folders that one can open by hand, and that are whole or not there.

    checkpoint_000005000/
        state.safetensors   every array: parameters, moments, normalisers, what was carried over from the last rollout
        state.json          everything else: steps, random streams, detectors, environments; `identity` says whose it is
        hashes.json         SHA-256 of the two
        status.json         step, candidate | good | bad, score, pinned; rewritten as these change

Nothing here is pickled. The index is what stands in the folder, so a killed process leaves none that is wrong.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recipeline.contracts import Events, Silent
from recipeline.errors import Conflict, Damaged, DataError, MissingLibrary
from recipeline.stores import files
from recipeline.stores.atomic import TEMPORARY

FORMAT = 1
SHARE = 0.005
ARRAYS, DOCUMENT, HASHES, STATUS = "state.safetensors", "state.json", "hashes.json", "status.json"
PLACE = "$array"  # in the document, where an array was


@dataclass
class _Held:
    """One checkpoint: its state while it is in memory, and how much of it the disk knows."""

    info: Mapping[str, Any]  # replaced, never changed
    state: Any = None
    stored: bool = False  # the disk has this state
    told: Any = None  # the status that the disk has


class CheckpointFolder:
    """A CheckpointWriter (`recipeline.operations`) on disk.

    identity   {name: JSON value}: whose checkpoints these are; one that was written under another is not touched, and named in `foreign`
    share      of the time that may go into writing: training that makes a checkpoint every few milliseconds would spend its time
               in fsync, so those that come too quickly wait, until writing all that wait, at the pace of the last time, stays
               within the share; those that were replaced meanwhile are never written.
               With 0.005 a crash costs at most two hundred times what writing takes, a few seconds as a rule. 1: each at once

    In memory the checkpoints of this process stay as they are, so rolling back needs no disk. Raises Exhausted (7) for a full
    disk or a read-only folder: what was written before is whole, and is written again the next time.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        identity: Mapping[str, Any] | None = None,
        share: float = SHARE,
        events: Events | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share lies in (0, 1]; got {share}")
        _library()  # missing, it is said before anything is trained; and the first checkpoint takes no longer than others
        self.folder, self.share = Path(folder), share
        self.identity = json.loads(files.to_json(dict(identity or {})))
        self.events = events or Silent()
        self.before: Callable[[], None] | None = None  # called before anything is written: a record that must not lag behind
        self._clock = clock
        self._began = clock()
        self._spent = 0.0  # seconds in which others were written
        self._each = 0.0  # seconds for one checkpoint in the last flush
        self._over = False
        self._held: dict[str, _Held] = {}
        self._gone: set[str] = set()  # deleted, but still on the disk
        self.foreign: dict[str, str] = {}
        self.damaged: dict[str, str] = {}
        self._index()

    # --- CheckpointWriter ---

    def write(self, name: str, state: Any, info: Mapping[str, Any]) -> None:
        self._held[name] = _Held(dict(info), state)
        self._gone.discard(name)
        if self.share == 1 or (not self._over and self._affordable()):
            self.flush()

    def read(self, name: str) -> Any:
        """What was written, arrays as fresh copies. Damaged (9) where the folder is not what was written."""
        held = self._held.get(name)
        if held is None:
            raise DataError("there is no such checkpoint", slug="no-checkpoint", where=name)
        return copied(held.state) if held.state is not None else read_checkpoint(self.folder / name)["state"]

    def mark(self, name: str, info: Mapping[str, Any]) -> None:
        held = self._held[name]
        held.info = dict(info)
        if self.share == 1 and held.stored:
            self._tell(name, held)

    def delete(self, name: str) -> None:
        held = self._held.pop(name)
        if held.stored:
            self._gone.add(name)
            if self.share == 1:
                self._remove()

    def infos(self) -> dict[str, Mapping[str, Any]]:
        return {name: held.info for name, held in self._held.items()}

    # --- the disk ---

    def settle(self) -> None:
        """Training is over but for its last checkpoint, which `flush` writes; what is in memory only, and could only have become
        something in more of it, is then forgotten.
        """
        self._over = True

    def _forget(self) -> None:
        newest = max(self._held, key=lambda name: self._held[name].info["step"], default="")
        scored = [name for name, held in self._held.items() if held.info["score"] is not None]
        best = max(scored, key=lambda name: self._held[name].info["score"], default="")
        for name, held in list(self._held.items()):
            if not held.stored and held.info["status"] == "candidate" and not held.info["pinned"] and name not in (newest, best):
                del self._held[name]

    def flush(self) -> None:
        """The disk holds what memory holds when this returns: new ones first, then what became of the others, then removals."""
        if self._over:
            self._forget()
        waiting = self._waiting()
        began = self._clock()
        try:
            self._write_all()
        finally:
            took = self._clock() - began
            self._spent += took
            self._each = took / max(1, waiting)

    def _waiting(self) -> int:
        return sum(not held.stored for held in self._held.values())

    def _affordable(self) -> bool:
        """Whether writing stays within its share of the time; the first is written at once."""
        if self._spent == 0.0:
            return True
        return self._spent + self._each * self._waiting() <= self.share * (self._clock() - self._began)

    def _write_all(self) -> None:
        if self.before is not None:
            self.before()
        for name, held in sorted(self._held.items(), key=lambda item: item[1].info["step"]):
            if held.stored:
                self._tell(name, held)
            else:
                status = _status(held.info)
                write_checkpoint(self.folder / name, held.state, identity=self.identity, info=status)
                held.stored, held.told = True, status
        self._remove()

    def _tell(self, name: str, held: _Held) -> None:
        status = _status(held.info)
        if held.told != status:
            files.write_json(self.folder / name / STATUS, status)
            held.told = status

    def _remove(self) -> None:
        for name in sorted(self._gone):
            files.discard(self.folder / name)
            self._gone.discard(name)

    def path(self, name: str) -> Path:
        """Where the checkpoint stands, whole."""
        if not self._held[name].stored:
            self.flush()
        return self.folder / name

    def _index(self) -> None:
        if not self.folder.is_dir():
            return
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith(TEMPORARY):
                if not files.owner_lives(path):
                    files.remove(path)
                continue
            if not path.is_dir() or not path.name.startswith("checkpoint_"):
                continue
            try:
                info, identity = _about(path)
            except (Damaged, DataError) as error:
                self.damaged[path.name] = str(error)
                self.events.emit("checkpoint_damaged", checkpoint=path.name, reason=str(error))
                continue
            different = _difference(self.identity, identity)
            if different:
                self.foreign[path.name] = different
                self.events.emit("checkpoint_foreign", checkpoint=path.name, reason=different)
                continue
            self._held[path.name] = _Held({"clean": 0, **info}, stored=True, told=info)

    def refuse_foreign(self) -> None:
        """Conflict when the folder holds checkpoints, and all of them are another's."""
        if self.foreign and not self._held:
            name, why = next(iter(self.foreign.items()))
            hint = "train in a fresh folder, or with what the checkpoint was written with"
            raise Conflict(f"does not belong to this training: {why}", hint=hint, slug="foreign-checkpoint", where=name)


def write_checkpoint(path: str | Path, state: Any, *, identity: Mapping[str, Any] | None = None, info: Mapping[str, Any]) -> None:
    """One checkpoint as a folder, whole or not at all; it takes the place of one of that name."""
    safetensors, refusal = _library()
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    document = {"format": FORMAT, "identity": dict(identity or {}), "versions": _versions(), "state": _take(state, "", arrays)}
    try:
        packed: bytes = safetensors.save(arrays)
    except refusal as error:
        raise DataError(f"an array of this kind cannot be kept: {error}", slug="checkpoint-type", where=Path(path).name) from error
    text = json.dumps(document, allow_nan=False, separators=(",", ":")).encode() + b"\n"
    hashes = {ARRAYS: hashlib.sha256(packed).hexdigest(), DOCUMENT: hashlib.sha256(text).hexdigest()}
    with files.atomic_folder(path, replace=True) as partial:
        (partial / ARRAYS).write_bytes(packed)
        (partial / DOCUMENT).write_bytes(text)
        (partial / HASHES).write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")
        (partial / STATUS).write_text(json.dumps(dict(info), indent=2) + "\n", encoding="utf-8")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """{"state", "identity", "versions", "info"}; Damaged (9) unless every byte is as written, DataError for another kind of folder."""
    folder = Path(path)
    info, _ = _about(folder)
    expected = _document(folder / HASHES)
    contents = {}
    for name in (ARRAYS, DOCUMENT):
        contents[name] = _bytes(folder / name)
        if hashlib.sha256(contents[name]).hexdigest() != expected.get(name):
            raise _damage(folder / name)
    arrays = _library()[0].load(contents[ARRAYS])
    document = json.loads(contents[DOCUMENT])
    return {**document, "state": _put(document["state"], arrays), "info": info}


# --- inside ---

_PLAIN = frozenset({int, float, str, bool, type(None)})  # JSON as it is


def _status(info: Mapping[str, Any]) -> dict[str, Any]:
    return {key: info[key] for key in ("step", "status", "score", "pinned")}


def _about(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(status, identity) of a checkpoint, without its hashes being proved."""
    info, document = _document(folder / STATUS), _document(folder / DOCUMENT)
    if document.get("format") != FORMAT:
        hint = "it was written by another version" if "format" in document else "it is no checkpoint of ours"
        raise DataError("is of an unknown format", hint=hint, slug="foreign-checkpoint", where=_shown(folder))
    if not isinstance(info.get("step"), int) or info.get("status") not in ("candidate", "good", "bad"):
        raise _damage(folder / STATUS)
    return {"score": None, "pinned": False, **info}, dict(document.get("identity", {}))


def _difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """The first thing in which two identities differ, in words; "" for none."""
    for key in sorted(ours.keys() | theirs.keys()):
        if ours.get(key) != theirs.get(key):
            return f"{key} was {_short(theirs.get(key))}, and is {_short(ours.get(key))} now"
    return ""


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        raise _damage(path) from None


def _document(path: Path) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(_bytes(path))
        if isinstance(value, dict):
            return value
    raise _damage(path)


def _damage(path: Path) -> Damaged:
    return Damaged(
        "is not what was written", hint="remove this checkpoint; an older one is used", slug="damaged-checkpoint", where=_shown(path)
    )


def _shown(path: Path) -> str:
    return str(Path(*path.parts[-2:])) if path.suffix else path.name


def _take(value: Any, where: str, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    """The value with its arrays taken out into `arrays`, under their place."""
    if isinstance(value, Mapping):
        return {
            str(key): item if type(item) in _PLAIN else _take(item, f"{where}.{key}" if where else str(key), arrays)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        if _PLAIN.issuperset(map(type, value)):  # long windows of numbers: nothing to take out
            return list(value)
        return [item if type(item) in _PLAIN else _take(item, f"{where}.{number}", arrays) for number, item in enumerate(value)]
    if isinstance(value, np.generic):
        return value.item()
    array = _as_array(value)
    if array is None:
        return value
    arrays[where] = array
    return {PLACE: where}


def _put(value: Any, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Any:
    if isinstance(value, dict):
        return arrays[value[PLACE]] if value.keys() == {PLACE} else {key: _put(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return value if _PLAIN.issuperset(map(type, value)) else [_put(item, arrays) for item in value]
    return value


def copied(value: Any) -> Any:
    """A copy that nobody else changes: arrays and tensors as arrays."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return list(value) if _PLAIN.issuperset(map(type, value)) else [copied(item) for item in value]
    array = _as_array(value)
    return value if array is None else array.copy()


def _as_array(value: Any) -> np.ndarray[Any, Any] | None:
    """A C-ordered array of an array or a torch tensor; None for anything else."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return np.asarray(value, order="C") if isinstance(value, np.ndarray) else None


def _library() -> tuple[Any, type[Exception]]:
    """The library, and what it raises."""
    try:
        import safetensors
        import safetensors.numpy
    except ImportError:
        raise MissingLibrary("safetensors", "ppo") from None
    return safetensors.numpy, safetensors.SafetensorError


def _versions() -> dict[str, str]:
    return {"numpy": np.__version__}
