"""A process with everything imported that forks a child for every command, and kills it at an exact moment.

The commands run as a user's do, in processes of their own; only the seconds that imports take are paid once. A moment is the
number of an event, which is Python opening, renaming, making or removing something below the project folder, or connecting
to a database there (`sys.addaudithook`: the code under test is the real one and does not know), and a delay after it; or it is
the call of a function in a phase.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, Self

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


class Started(NamedTuple):
    """A command that runs, and the files of what it says."""

    process: int
    out: Path
    err: Path


class Nursery:
    """Use it in a `with` statement; `run` starts one command and waits for its end."""

    _started = 0

    def __enter__(self) -> Self:
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=20)
        self._process.stdout.close()

    def run(
        self,
        project: Path,
        *arguments: str | Path,
        at: int | tuple[str, int] | None = None,
        after: float = 0.0,
        kill: int = signal.SIGKILL,
        record: bool = False,
        environ: Mapping[str, str] | None = None,
        site: Path | None = None,
    ) -> Ended:
        """at: the signal is sent right before event `at` happens (from 0), or `after` seconds later; (phase, n): before event n of
        that phase, whatever came before it.

        environ, site: variables, and a folder of installed distributions, that only this command has.
        """
        notes = project.with_name(f"{project.name}.notes")
        notes.mkdir(exist_ok=True)
        job = {
            "project": str(project), "arguments": list(map(str, arguments)), "notes": str(notes),
            "at": at, "after": after, "kill": int(kill), "record": record, "environ": dict(environ or {}), "site": str(site or ""),
        }  # fmt: skip
        answer = self._told(job)
        events = json.loads((notes / "events").read_text()) if record else []
        texts = [(notes / name).read_text() for name in ("out", "err")]
        return Ended(answer["code"], texts[0], texts[1], answer["seconds"], tuple(Event(*event) for event in events))

    def start(self, project: Path, *arguments: str | Path, environ: Mapping[str, str] | None = None, site: Path | None = None) -> Started:
        """A command that goes on until `stop`."""
        self._started += 1
        notes = project.with_name(f"{project.name}.notes-{self._started}")
        notes.mkdir()
        for name in ("out", "err"):
            (notes / name).touch()
        job = {
            "project": str(project), "arguments": list(map(str, arguments)), "notes": str(notes),
            "at": None, "after": 0, "kill": 0, "record": False, "stay": True,
            "environ": dict(environ or {}), "site": str(site or ""),
        }  # fmt: skip
        return Started(self._told(job)["process"], notes / "out", notes / "err")

    def stop(self, started: Started, number: int = signal.SIGTERM) -> int:
        """Send it a signal; its exit code."""
        os.kill(started.process, number)
        code: int = self._told({"wait": started.process})["code"]
        return code

    def _told(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


# --- the process ---------------------------------------------------------------------------------------------------------


def main() -> None:
    _import_everything()
    for line in sys.stdin:
        job = json.loads(line)
        if "wait" in job:
            _tell(code=os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1]))
            continue
        began = time.monotonic()
        signs, said = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(signs)
            os._exit(_run(job, said))
        os.close(said)
        if job.get("stay"):
            os.close(signs)
            _tell(process=child)
            continue
        if os.read(signs, 1):  # the moment has come; nothing where the child ended before
            time.sleep(job["after"])
            os.kill(child, job["kill"])
        os.close(signs)
        _, status = os.waitpid(child, 0)
        _tell(code=os.waitstatus_to_exitcode(status), seconds=time.monotonic() - began)


def _tell(**answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _run(job: dict[str, Any], said: int) -> int:
    os.chdir(job["project"])
    os.environ.update(job["environ"])
    if job["site"]:
        sys.path.insert(0, job["site"])
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
        self.at_once = job["kill"] if job["after"] == 0 else None
        self.count, self.phase, self.began, self.on = 0, "load", time.monotonic(), True
        self.within = 0  # events of this phase
        self.events: list[Event] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text.startswith("phase "):
            before, self.phase = self.phase, text.split()[1]
            self.within = self.within if self.phase == before else 0
            if isinstance(self.at, list) and isinstance(self.at[1], str):
                sys.setprofile(self.called if self.phase == self.at[0] else None)

    def called(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name == self.at[1]:
            sys.setprofile(None)
            self.now()

    def now(self) -> None:
        if self.at_once is not None:
            os.kill(os.getpid(), self.at_once)
        else:
            os.write(self.said, b"!")

    def audit(self, name: str, arguments: Sequence[Any]) -> None:
        if not self.on or name not in EVENTS or not arguments:
            return
        path = arguments[0]
        text = os.fsdecode(path).removeprefix("file:") if isinstance(path, (str, bytes, os.PathLike)) else ""
        if not text or (Path(text).is_absolute() and not text.startswith(self.below)):  # the project is the working folder
            return
        if self.at in (self.count, [self.phase, self.within]):
            self.count, self.within = self.count + 1, self.within + 1
            self.now()
            return
        self.events.append(Event(time.monotonic() - self.began, self.phase, name, text.removeprefix(self.below)))
        self.count, self.within = self.count + 1, self.within + 1


def _import_everything() -> None:
    """What a command imports on its way, so that a child need not; nothing is opened and no thread is started."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import mlflow
    import mlflow.store.tracking.sqlalchemy_store
    import optuna
    import pandas as pd
    import pyarrow.csv
    import pyarrow.parquet
    import scipy.stats
    import sklearn.ensemble
    import sklearn.linear_model
    import sklearn.metrics
    import skops.io

    import recipeline.batch
    import recipeline.components.classification
    import recipeline.components.evaluators
    import recipeline.report
    import recipeline.runs
    import recipeline.serve.server
    import recipeline.train
    import recipeline.tune  # noqa: F401

    del mlflow, optuna, pd, pyarrow, scipy, skops, sklearn, plt


if __name__ == "__main__":
    main()
