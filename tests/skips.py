"""Continuous integration fails on a skipped test that is not in the list: a test that nobody runs protects nothing.

The list is `skips.txt`: which tests, what they say when they skip, and why that is right there.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

LIST = Path(__file__).with_name("skips.txt")


@dataclass(frozen=True)
class Allowed:
    """Tests whose node id fits `pattern` may skip with a reason that fits the regular expression `reason`."""

    pattern: str
    reason: str
    why: str

    def covers(self, node: str, reason: str) -> bool:
        return fnmatchcase(node, self.pattern) and re.fullmatch(self.reason, reason) is not None


def read(path: Path = LIST) -> tuple[Allowed, ...]:
    """The list; ValueError for a line that is not `pattern | reason | why`, or gives no reason why."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [part.strip() for part in line.split(" | ")]
        if len(parts) != 3 or not all(parts):
            raise ValueError(f"{path.name}:{number}: write pattern | reason | why")
        found.append(Allowed(*parts))
    return tuple(found)


def watch(config: pytest.Config, path: Path = LIST) -> None:
    """Where CI is true: fail the session for a skip that is not listed. Under xdist only the process that hears of all tests counts."""
    if os.environ.get("CI", "").lower() in {"1", "true"} and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Watch(read(path)), "skips")


class Watch:
    """Hears of every skip, in tests and in whole files."""

    def __init__(self, allowed: tuple[Allowed, ...]) -> None:
        self.allowed = allowed
        self.unlisted: dict[tuple[str, str], None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.hear(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.hear(report)

    def hear(self, report: Any) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        said = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = said.removeprefix("Skipped: ")
        if not any(one.covers(report.nodeid, reason) for one in self.allowed):
            self.unlisted[report.nodeid, reason] = None

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.unlisted and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if not self.unlisted:
            return
        terminalreporter.section("skipped, and not in tests/skips.txt", red=True)
        for node, reason in sorted(self.unlisted):
            terminalreporter.line(f"{node}: {reason}")
        terminalreporter.line("Run them here, or add a line that says why they cannot run: pattern | reason | why")
