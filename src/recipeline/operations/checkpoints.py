"""Checkpoints that rotate, and that count as good only after a probation."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from recipeline.contracts import Events, Silent


class CheckpointWriter(Protocol):
    """Where checkpoints are kept. `info` is a small JSON mapping that can be rewritten without the state.

    `infos` is asked at every update: a writer on disk reads the folder once and keeps the answer in memory.
    """

    def write(self, name: str, state: Any, info: Mapping[str, Any]) -> Any: ...
    def read(self, name: str) -> Any: ...
    def mark(self, name: str, info: Mapping[str, Any]) -> None: ...
    def delete(self, name: str) -> None: ...
    def infos(self) -> dict[str, dict[str, Any]]: ...


class InMemory:
    """A CheckpointWriter for programs that need rollback but no file."""

    def __init__(self) -> None:
        self.states: dict[str, Any] = {}
        self._infos: dict[str, dict[str, Any]] = {}

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

    def infos(self) -> dict[str, dict[str, Any]]:
        return {name: dict(info) for name, info in self._infos.items()}


@dataclass
class Rotation:
    """A checkpoint at the first update past every `every` steps; `keep` newest stay, and the best, the pinned and the newest good one.

    A checkpoint is a *candidate* until `probation` clean updates have passed, then *good*; those of a bad stretch become *bad*.
    A state that is not finite everywhere is never written. An OSError of the writer is told as an event, or raised when `strict`.
    """

    writer: CheckpointWriter = field(default_factory=InMemory)
    every: int = 500
    keep: int = 5
    probation: int = 10
    strict: bool = False
    events: Events = field(default_factory=Silent)
    last: int = 0  # the step of the last save or crossing

    def due(self, step: int) -> bool:
        return step // self.every > self.last // self.every

    def save(self, step: int, state: Any, *, score: float | None = None, status: str = "candidate", pinned: bool = False) -> str | None:
        """The checkpoint's name, or None when it was not written."""
        self.last = step
        where = nonfinite_in(state)
        if where is not None:
            self.events.emit("checkpoint_refused", step=step, reason=f"not finite: {where}")
            return None
        name = f"checkpoint_{step:09d}"
        info = {"step": step, "status": status, "clean": 0, "score": score, "pinned": pinned}
        try:
            self.writer.write(name, state, info)
            self._rotate()
        except OSError as error:
            if self.strict:
                raise
            self.events.emit("checkpoint_failed", step=step, reason=str(error))
            return None
        self.events.emit("checkpoint_saved", step=step, checkpoint=name)
        return name

    def clean(self) -> None:
        """One more update without an alarm: candidates come nearer to being good."""
        for name, info in self.writer.infos().items():
            if info["status"] == "candidate":
                info["clean"] += 1
                if info["clean"] >= self.probation:
                    info["status"] = "good"
                    self.events.emit("checkpoint_good", step=info["step"], checkpoint=name)
                self.writer.mark(name, info)

    def condemn(self, after: int, *, also: str | None = None) -> None:
        """Checkpoints of step `after` or later, and the one named, are bad."""
        for name, info in self.writer.infos().items():
            if info["status"] != "bad" and ((info["step"] >= after and not info["pinned"]) or name == also):
                self.writer.mark(name, {**info, "status": "bad"})
                self.events.emit("checkpoint_bad", step=info["step"], checkpoint=name)

    def rewind(self, infos: Mapping[str, Mapping[str, Any]]) -> None:
        """Status and clean updates as they were, so that a resumed run promotes checkpoints when the uninterrupted one would."""
        for name, info in self.writer.infos().items():
            fresh = {**info, "clean": 0, "status": "good" if info["pinned"] else "candidate"}
            self.writer.mark(name, infos.get(name, fresh))

    def newest(self, *statuses: str) -> str | None:
        """The newest checkpoint of these statuses (none named: any but bad)."""
        found = [(i["step"], n) for n, i in self.writer.infos().items() if (i["status"] in statuses if statuses else i["status"] != "bad")]
        return max(found)[1] if found else None

    def _rotate(self) -> None:
        infos = self.writer.infos()
        usable = sorted((n for n, i in infos.items() if i["status"] != "bad"), key=lambda n: infos[n]["step"])
        stay = set(usable[-self.keep :]) | {n for n, i in infos.items() if i["pinned"]}
        scored = [n for n in usable if infos[n]["score"] is not None]
        if scored:
            stay.add(max(scored, key=lambda n: infos[n]["score"]))
        stay |= {n for n in [self.newest("good")] if n}
        for name in infos.keys() - stay:
            self.writer.delete(name)


def nonfinite_in(value: Any, where: str = "") -> str | None:
    """The place of the first NaN or infinity in numbers, arrays and nests of them; None when all are finite."""
    if isinstance(value, Mapping):
        found = (nonfinite_in(item, f"{where}.{key}" if where else str(key)) for key, item in value.items())
        return next((place for place in found if place), None)
    if isinstance(value, list | tuple):
        found = (nonfinite_in(item, f"{where}[{n}]") for n, item in enumerate(value))
        return next((place for place in found if place), None)
    if isinstance(value, float):
        return None if math.isfinite(value) else (where or "value")
    if getattr(getattr(value, "dtype", None), "kind", "") in ("f", "c"):
        return None if np.isfinite(value).all() else (where or "value")
    if hasattr(value, "isfinite"):  # a torch tensor
        return None if bool(value.isfinite().all()) else (where or "value")
    return None
