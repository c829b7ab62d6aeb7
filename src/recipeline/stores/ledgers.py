"""Ledgers: files that only grow, a line of JSON for each thing that happened."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from recipeline.errors import Damaged
from recipeline.stores import atomic


class Ledger:
    """Lines of JSON, oldest first. A writer that is killed leaves whole lines: a torn last one is cut off by the next writer.

    Lines are kept in memory until `flush`, so that a loop may add one per update. One writer at a time. Exhausted (7) when the
    disk is full or the folder read-only; the lines are then kept for the next flush.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._waiting: list[dict[str, Any]] = []

    def add(self, line: Mapping[str, Any]) -> None:
        """NaN and infinities, which JSON has not, become null. What is inside of `line` stays as it is until it is flushed."""
        self._waiting.append(dict(line))  # text is made of many at once, which costs a third

    def flush(self) -> None:
        if self._waiting:
            atomic.append_lines(self.path, map(_encoded, self._waiting))
            self._waiting.clear()

    def read(self) -> list[dict[str, Any]]:
        """All lines that are whole, those not flushed yet included. Damaged (9) names one that is no JSON."""
        try:
            kept = self.path.read_bytes()
        except FileNotFoundError:
            kept = b""
        lines = kept[: kept.rfind(b"\n") + 1].decode("utf-8", errors="replace").split("\n")[:-1]  # splitlines ends lines at U+2028, too
        return [
            *(self._parsed(line, number) for number, line in enumerate(lines, 1)),
            *(json.loads(_encoded(line)) for line in self._waiting),
        ]

    def _parsed(self, line: str, number: int) -> dict[str, Any]:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            hint = "take that line out, or the file away"
            raise Damaged(f"line {number} is not what was written", hint=hint, where=self.path.name)
        return found

    def cut(self, keep: Callable[[Mapping[str, Any]], bool]) -> list[dict[str, Any]]:
        """Only the lines that `keep` says stay, which are returned; the file is replaced whole."""
        every = self.read()
        stay = [line for line in every if keep(line)]
        if len(stay) != len(every):
            self._waiting.clear()
            atomic.write_text(self.path, _text(stay))
        return stay


def _encoded(line: Mapping[str, Any]) -> str:
    try:
        return _ENCODER.encode(line)
    except (ValueError, TypeError):
        return _ENCODER.encode(json.loads(atomic.to_json(line, null_for_nan=True)))


def _text(lines: Iterable[Mapping[str, Any]]) -> str:
    return "".join(_ENCODER.encode(line) + "\n" for line in lines)


_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"), ensure_ascii=False)
