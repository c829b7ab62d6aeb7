"""What a person sees while something long runs: bars on a terminal, nothing elsewhere. Answers go to stdout, this to stderr."""

from __future__ import annotations

import shutil
import sys
import textwrap
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
        return self

    def _begin(self) -> None:
        """The first bar: a short command leaves the terminal as it is."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._drawn = Progress(
            TextColumn("{task.description}", markup=False), BarColumn(bar_width=None), MofNCompleteColumn(), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), console=Console(stderr=True), transient=True, redirect_stdout=False,
            refresh_per_second=5, expand=True,
        )  # fmt: skip
        self._drawn.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._drawn is not None:
            self._drawn.stop()

    def report(self, step: int, value: float) -> bool:
        """A bar never prunes."""
        self.goes_on()
        return False

    def advance(self, done: int, total: int | None = None, label: str = "") -> None:
        self.goes_on()
        if not self.enabled:
            return
        if self._drawn is None:
            self._begin()
        name = label.partition(",")[0] or "working"
        if name not in self._tasks:
            self._tasks[name] = self._drawn.add_task(name, total=total)
        self._drawn.update(self._tasks[name], completed=done, total=total, description=label or name)


NARROW = 12
"""A column is not made narrower than this."""


def table(rows: list[dict[str, Any]], columns: list[str], *, width: int | None = None) -> str:
    """Rows as text, columns aligned; plain, so that it can be piped.

    width  of the terminal: cells are broken into lines to fit. None asks the terminal; where stdout is none, lines are as long as
           they are
    """
    cells = [columns, *[[_cell(row.get(column, "")) for column in columns] for row in rows]]
    widths = [max(len(line[position]) for line in cells) for position in range(len(columns))]
    if width is None and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    if width is not None:
        room = width - 2 * (len(columns) - 1)
        words = [max(len(word) for line in cells for word in line[position].split() or [""]) for position in range(len(columns))]
        _shrink(widths, room, words)
        _shrink(widths, room, [NARROW] * len(columns))
    return "\n".join(text for line in cells for text in _lines(line, widths))


def _shrink(widths: list[int], room: int, least: list[int]) -> None:
    """Take from the widest column that has more than its least, the last of several, until all fit."""
    while sum(widths) > room:
        wider = [position for position in range(len(widths)) if widths[position] > least[position]]
        if not wider:
            return
        widths[max(wider, key=lambda position: (widths[position], position))] -= 1


def _lines(cells: list[str], widths: list[int]) -> list[str]:
    """One row of a table: as many lines as its tallest cell has."""
    broken = [
        [cell] if len(cell) <= width else textwrap.wrap(cell, width, break_on_hyphens=False)
        for cell, width in zip(cells, widths, strict=True)
    ]
    height = max(map(len, broken))
    return [
        "  ".join((lines[at] if at < len(lines) else "").ljust(width) for lines, width in zip(broken, widths, strict=True)).rstrip()
        for at in range(height)
    ]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
