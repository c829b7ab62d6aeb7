"""What the tests share: a project folder of their own, the data of the recipes, and the real commands."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import skips
from answers import Answer
from shipped import lay_out

pytest_plugins = ["canaries"]

PROJECT = Path(__file__).parents[1]

# The tests of this suite share two cores with each other; a thread pool per process only makes them wait.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["DO_NOT_TRACK"] = "true"


def pytest_configure(config: pytest.Config) -> None:
    skips.watch(config)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers must collect the same tests in the same order, and the order of a set is another one in every process."""
    for item in items:
        for mark in item.iter_markers("parametrize"):
            if isinstance(mark.args[1], set | frozenset):
                raise pytest.UsageError(f"{item.nodeid} is parametrized over a set: sort it")


@pytest.fixture(autouse=True)
def _secrets_of_one_test() -> Iterator[None]:
    """What a test masks is not masked in the next one: a password `pass` would hide half of the word `password`."""
    from recipeline import logs

    before = dict(logs._secrets)
    yield
    logs._secrets.clear()
    logs._secrets.update(before)


@pytest.fixture(scope="session")
def recipe_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data files of the shipped recipes."""
    folder = tmp_path_factory.mktemp("data")
    subprocess.run([sys.executable, PROJECT / "recipes" / "data" / "write.py", folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated MLflow store; a copy of it saves every test the second that migrating costs."""
    from recipeline import settings, tracking

    folder = tmp_path_factory.mktemp("store")
    tracking.prepare(settings.load(project=folder, environ={}))
    return folder / "mlflow.db"


@pytest.fixture(scope="session")
def nursery() -> Iterator[Any]:
    """Runs commands in processes of their own, without the seconds of their imports; kills them where a test wants that."""
    from crashing import Nursery

    with Nursery() as started:
        yield started


@pytest.fixture
def project(tmp_path: Path, recipe_data: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with the shipped recipes, their data and configuration; the current directory of the test."""
    folder = tmp_path / "project"
    lay_out(folder, recipe_data, empty_store)
    (folder / "config" / "local.local.yaml").write_text("parts: {loader: {nobody: {token: '${RECIPELINE_CANARY}'}}}\n")
    monkeypatch.chdir(folder)
    for name in list(os.environ):
        if name.startswith("RECIPELINE__") or name in {"APP_ENV", "BATCH_SIZE", "LOG_LEVEL"}:
            monkeypatch.delenv(name)
    return folder


@pytest.fixture
def command(project: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run a command of the CLI in this process: `command("train", "--recipe-file", "x.yaml")`."""
    from recipeline.cli import main

    def run(*arguments: str | Path) -> Answer:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Answer(code, captured.out, captured.err)

    return run


@pytest.fixture
def process(project: Path) -> Callable[..., Answer]:
    """Run a command of the CLI in a process of its own, as a user does."""

    def run(*arguments: str | Path, python: str = sys.executable, env: dict[str, str] | None = None) -> Answer:
        done = subprocess.run(
            [python, "-m", "recipeline", *map(str, arguments)],
            cwd=project, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip
        return Answer(done.returncode, done.stdout, done.stderr)

    return run
