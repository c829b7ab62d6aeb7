"""A process with everything imported that forks a child for every command, and kills it at an exact moment.

The commands run as a user's do, in processes of their own; only the seconds that imports take are paid once. A moment is the
number of an event, which is Python opening, renaming, making or removing something below the project folder, or connecting
to a database there (`sys.addaudithook`: the code under test is the real one and does not know), and a delay after it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

EVENTS = frozenset({"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.scandir", "sqlite3.connect"})


class Event(NamedTuple):
    """One thing that a command did: seconds since its start, the phase it said it was in, and what it touched."""

    seconds: float
    phase: str
    name: str
    path: str


class Ended(NamedTuple):
    """code: exit status, negative for a signal. events: where they were asked for."""

    code: int
    out: str
    err: str
    seconds: float
    events: tuple[Event, ...]

    @property
    def json(self) -> Any:
        return json.loads(self.out.splitlines()[-1])


class Nursery:
    """Use it in a `with` statement; `run` starts one command and waits for its end."""

    def __enter__(self) -> Nursery:
        # -X utf8 off, no site tricks: the interpreter of the tests, as it is
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(timeout=20) == 0

    def run(
        self,
        project: Path,
        *arguments: str | Path,
        at: int | None = None,
        after: float = 0.0,
        kill: int = signal.SIGKILL,
        record: bool = False,
    ) -> Ended:
        """at: the signal is sent right before event `at` happens (from 0), or `after` seconds later."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        notes = project.with_name(f"{project.name}.notes")
        notes.mkdir(exist_ok=True)
        job = {
            "project": str(project), "arguments": list(map(str, arguments)), "notes": str(notes),
            "at": at, "after": after, "kill": int(kill), "record": record,
        }  # fmt: skip
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        events = json.loads((notes / "events").read_text()) if record else []
        texts = [(notes / name).read_text() for name in ("out", "err")]
        return Ended(answer["code"], texts[0], texts[1], answer["seconds"], tuple(Event(*event) for event in events))


# --- the process ---------------------------------------------------------------------------------------------------------


def main() -> None:
    _import_everything()
    for line in sys.stdin:
        job = json.loads(line)
        began = time.monotonic()
        signs, said = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(signs)
            os._exit(_run(job, said))
        os.close(said)
        if os.read(signs, 1):  # the moment has come; nothing where the child ended before
            time.sleep(job["after"])
            os.kill(child, job["kill"])
        os.close(signs)
        _, status = os.waitpid(child, 0)
        answer = {"code": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - began}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _run(job: dict[str, Any], said: int) -> int:
    os.chdir(job["project"])
    notes = Path(job["notes"])
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(notes / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdin.close()
    watch = _Watch(job, said)
    logging.getLogger("recipeline").addHandler(watch)
    sys.addaudithook(watch.audit)
    from recipeline.cli import main as command

    code = command(job["arguments"])
    sys.stdout.flush()
    watch.on = False
    if job["record"]:
        (notes / "events").write_text(json.dumps(watch.events))
    return code


class _Watch(logging.Handler):
    """Counts events, knows the phase, and sends the signal."""

    def __init__(self, job: dict[str, Any], said: int) -> None:
        super().__init__(logging.INFO)
        self.below, self.at, self.said = job["project"] + os.sep, job["at"], said
        self.at_once = job["kill"] if job["after"] == 0 and job["kill"] == signal.SIGKILL else None
        self.count, self.phase, self.began, self.on = 0, "load", time.monotonic(), True
        self.events: list[Event] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith("phase "):
            self.phase = text.split()[1]

    def audit(self, name: str, arguments: Sequence[Any]) -> None:
        if not self.on or name not in EVENTS or not arguments:
            return
        path = arguments[0]
        text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
        if not text.removeprefix("file:").startswith(self.below):
            return
        if self.count == self.at:
            if self.at_once is not None:
                os.kill(os.getpid(), self.at_once)
            os.write(self.said, b"!")
        self.events.append(Event(time.monotonic() - self.began, self.phase, name, text.removeprefix("file:")[len(self.below) :]))
        self.count += 1


def _import_everything() -> None:
    """What a command imports on its way, so that a child need not; nothing is opened and no thread is started."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot
    import mlflow
    import mlflow.store.tracking.sqlalchemy_store
    import optuna
    import pandas as pd
    import pyarrow.csv
    import pyarrow.parquet
    import scipy.stats
    import skops.io
    import sklearn.ensemble
    import sklearn.linear_model
    import sklearn.metrics

    import recipeline.batch
    import recipeline.components.evaluators
    import recipeline.components.tasks
    import recipeline.report
    import recipeline.runs
    import recipeline.train
    import recipeline.tune  # noqa: F401

    del mlflow, optuna, pd, pyarrow, scipy, skops, sklearn, matplotlib


if __name__ == "__main__":
    main()
