"""Checkpoints that rotate, and that count as good only after a probation."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from recipeline.contracts import Events, Silent
from recipeline.errors import Exhausted


class CheckpointWriter(Protocol):
    """Where checkpoints are kept. `info` is a small JSON mapping that can be rewritten without the state.

    `infos` is asked often: a writer on disk reads the folder once and keeps the answer in memory. Who asks changes nothing of it, and
    may keep it: `mark` replaces an info. Of its changes only `status`, `score` and `pinned` must outlive the process.
    `write` replaces a checkpoint of that name, and may keep the state as it is: nobody changes it afterwards. Where there is no
    room it raises OSError or `recipeline.errors.Exhausted`.
    """

    def write(self, name: str, state: Any, info: Mapping[str, Any]) -> Any: ...
    def read(self, name: str) -> Any: ...
    def mark(self, name: str, info: Mapping[str, Any]) -> None: ...
    def delete(self, name: str) -> None: ...
    def infos(self) -> Mapping[str, Mapping[str, Any]]: ...


class InMemory:
    """A CheckpointWriter for programs that need rollback but no file."""

    def __init__(self) -> None:
        self.states: dict[str, Any] = {}
        self._infos: dict[str, Mapping[str, Any]] = {}

    def write(self, name: str, state: Any, info: Mapping[str, Any]) -> Any:
        self.states[name] = copy.deepcopy(state)
        self._infos[name] = dict(info)
        return name

    def read(self, name: str) -> Any:
        return copy.deepcopy(self.states[name])

    def mark(self, name: str, info: Mapping[str, Any]) -> None:
        self._infos[name] = dict(info)

    def delete(self, name: str) -> None:
        del self.states[name], self._infos[name]

    def infos(self) -> dict[str, Mapping[str, Any]]:
        return dict(self._infos)


@dataclass
class Rotation:
    """A checkpoint at the first update past every `every` steps; `keep` newest stay, and the best, the pinned and the three newest good.

    A checkpoint is a *candidate* until `probation` clean updates have passed, then *good*; those of a bad stretch become *bad*.
    A state in which `check` finds a place that is not finite is never written. A full disk is told as an event, or raised when
    `strict`.
    """

    writer: CheckpointWriter = field(default_factory=InMemory)
    every: int = 500
    keep: int = 5
    probation: int = 10
    strict: bool = False
    events: Events = field(default_factory=Silent)
    last: int = 0  # the step of the last save or crossing
    check: Callable[[Any], str | None] | None = None  # None: nonfinite_in
    _passed: dict[str, int] | None = None  # clean updates of every candidate; None: as the infos have them

    def due(self, step: int) -> bool:
        return step // self.every > self.last // self.every

    def save(self, step: int, state: Any, *, score: float | None = None, status: str = "candidate", pinned: bool = False) -> str | None:
        """The checkpoint's name, or None when it was not written."""
        self.last = step
        where = nonfinite_in(state) if self.check is None else self.check(state)
        if where is not None:
            self.events.emit("checkpoint_refused", step=step, reason=f"not finite: {where}")
            return None
        name = f"checkpoint_{step:09d}"
        info = {"step": step, "status": status, "clean": 0, "score": score, "pinned": pinned}
        counted = self._counted()
        counted.pop(name, None)
        if status == "candidate":
            counted[name] = 0
        failed = None
        try:
            self.writer.write(name, state, info)
        except (OSError, Exhausted) as error:
            if self.strict:
                raise
            failed = error
        self._rotate()  # also then: a writer may keep in memory what it could not put on the disk
        if failed is not None:
            self.events.emit("checkpoint_failed", step=step, reason=str(failed))
            return None
        self.events.emit("checkpoint_saved", step=step, checkpoint=name)
        return name

    def clean(self) -> None:
        """One more update without an alarm: candidates come nearer to being good."""
        counted = self._passed
        if counted is None:
            counted = self._counted()
        if not counted:
            return
        for name in counted:
            counted[name] += 1
        if max(counted.values()) < self.probation:
            return
        infos = self.writer.infos()
        for name in [name for name, clean in counted.items() if clean >= self.probation]:
            clean, info = counted.pop(name), infos.get(name)
            if info is not None and info["status"] == "candidate":  # it was kept, and nobody has found it damaged meanwhile
                self.events.emit("checkpoint_good", step=info["step"], checkpoint=name)
                self.writer.mark(name, {**info, "clean": clean, "status": "good"})

    def candidates(self) -> Collection[str]:
        """The checkpoints on probation."""
        return self._counted().keys()

    def infos(self) -> dict[str, Mapping[str, Any]]:
        """Those of the writer, with the clean updates of candidates as they are counted now."""
        infos = dict(self.writer.infos())
        for name, clean in self._counted().items():
            if name in infos:
                infos[name] = {**infos[name], "clean": clean}
        return infos

    def _counted(self) -> dict[str, int]:
        if self._passed is None:
            self._passed = {name: info["clean"] for name, info in self.writer.infos().items() if info["status"] == "candidate"}
        return self._passed

    def condemn(self, after: int, *, also: str | None = None) -> None:
        """Checkpoints of step `after` or later, and the one named, are bad."""
        counted = self._counted()
        for name, info in self.writer.infos().items():
            if info["status"] != "bad" and ((info["step"] >= after and not info["pinned"]) or name == also):
                self.writer.mark(name, {**info, "clean": counted.pop(name, info["clean"]), "status": "bad"})
                self.events.emit("checkpoint_bad", step=info["step"], checkpoint=name)

    def rewind(self, infos: Mapping[str, Mapping[str, Any]], *, step: int | None = None) -> None:
        """Status and clean updates as they were in `infos`, so that a resumed run promotes checkpoints when the uninterrupted one
        would. With `step`, that of the checkpoint gone on from, what came later is removed.
        """
        self._passed = None
        known: float = math.inf if step is None else step
        for name, info in self.writer.infos().items():
            if info["step"] > known:
                self.writer.delete(name)
                continue
            fresh = {**info, "clean": 0, "status": "good" if info["pinned"] else "candidate"}
            # The one of this step took the place of any that was known then under its name.
            self.writer.mark(name, infos.get(name, fresh) if info["step"] < known else fresh)
        if step is not None:
            self._rotate()

    def newest(self, *statuses: str) -> str | None:
        """The newest checkpoint of these statuses (none named: any but bad)."""
        found = [(i["step"], n) for n, i in self.writer.infos().items() if (i["status"] in statuses if statuses else i["status"] != "bad")]
        return max(found)[1] if found else None

    def _rotate(self) -> None:
        infos = self.writer.infos()
        usable = [n for _, n in sorted((i["step"], n) for n, i in infos.items() if i["status"] != "bad")]
        stay = set(usable[-self.keep :])
        stay.update(n for n, i in infos.items() if i["pinned"])
        scored = [(i["score"], -i["step"], n) for n in usable if (i := infos[n])["score"] is not None]
        if scored:
            stay.add(max(scored)[2])  # the oldest of equals
        stay.update([n for n in usable if infos[n]["status"] == "good"][-3:])  # to go back to, and twice deeper
        counted = self._counted()
        for name in infos.keys() - stay:
            counted.pop(name, None)
            try:
                self.writer.delete(name)
            except (OSError, Exhausted) as error:  # one more file than wanted is no reason to stop
                self.events.emit("checkpoint_stays", checkpoint=name, reason=str(error))


def nonfinite_in(value: Any, where: str = "") -> str | None:
    """The place of the first NaN or infinity in numbers, arrays and nests of them; None when all are finite."""
    kind = type(value)
    if kind is float or isinstance(value, float):
        return None if value - value == 0.0 else (where or "value")
    if kind in _ALWAYS_FINITE:
        return None
    if kind is np.ndarray:
        return _in_array(value, where)
    if kind is dict or isinstance(value, Mapping):
        for key, item in value.items():
            if type(item) in _ALWAYS_FINITE:  # most of a state: this is asked at every checkpoint
                continue
            found = nonfinite_in(item)
            if found is not None:
                return _place(where, str(key), found)
        return None
    if isinstance(value, list | tuple):
        return _in_list(value, where)
    if hasattr(value, "isfinite"):  # a torch tensor
        return None if bool(value.isfinite().all()) else (where or "value")
    return _in_array(np.asarray(value), where) if hasattr(value, "dtype") else None


def _in_array(value: np.ndarray[Any, Any], where: str) -> str | None:
    if value.dtype.kind not in "fc":
        return None
    flat = value.ravel(order="K")
    # The sum of squares is one pass; where it overflows, every number is looked at.
    return None if math.isfinite(abs(np.vdot(flat, flat))) or np.isfinite(flat).all() else (where or "value")


_ALWAYS_FINITE = frozenset({int, str, bool, type(None)})


def _in_list(value: Sequence[Any], where: str) -> str | None:
    kinds = set(map(type, value))
    if kinds <= _ALWAYS_FINITE:
        return None
    if kinds == {float}:  # a long window of numbers: one sum tells as a rule
        total = sum(value)
        if total - total == 0.0:
            return None
    for number, item in enumerate(value):
        if type(item) in _ALWAYS_FINITE:
            continue
        found = nonfinite_in(item)
        if found is not None:
            return _place(where, f"[{number}]", found)
    return None


def _place(where: str, step: str, rest: str) -> str:
    path = step if rest == "value" else f"{step}{rest}" if rest.startswith("[") else f"{step}.{rest}"
    return path if not where else f"{where}{path}" if path.startswith("[") else f"{where}.{path}"
