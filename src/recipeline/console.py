"""What a person sees while something long runs: bars on a terminal, nothing elsewhere. Answers go to stdout, this to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self


class Bars:
    """A Progress that draws one bar per label; quiet when stderr is no terminal.

    goes_on  called at every step of the work; raises when it should not
    """

    def __init__(self, *, enabled: bool | None = None, goes_on: Callable[[], None] = lambda: None) -> None:
        self.enabled = sys.stderr.isatty() if enabled is None else enabled
        self.goes_on = goes_on
        self._drawn: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        if self.enabled:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self._drawn = Progress(
                TextColumn("{task.description:<18}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
                console=Console(stderr=True), transient=True, refresh_per_second=5,
            )  # fmt: skip
            self._drawn.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._drawn is not None:
            self._drawn.stop()

    def report(self, step: int, value: float) -> bool:
        """A bar never prunes."""
        self.goes_on()
        return False

    def advance(self, done: int, total: int | None = None, label: str = "") -> None:
        self.goes_on()
        if self._drawn is None:
            return
        name = label or "working"
        if name not in self._tasks:
            self._tasks[name] = self._drawn.add_task(name, total=total)
        self._drawn.update(self._tasks[name], completed=done, total=total)


def table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    """Rows as text, columns aligned; plain, so that it can be piped."""
    cells = [columns, *[[_cell(row.get(column, "")) for column in columns] for row in rows]]
    widths = [max(len(line[position]) for line in cells) for position in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
