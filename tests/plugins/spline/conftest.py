"""A project with the recipes of the family, of fewer epochs and stations, and the runs of them: trained once for all tests."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import recipeline
from recipeline import settings
from recipeline.cli import main
from shipped import lay_out

EPOCHS = {"co2_forecast": 6, "stations_panel": 2, "stations_covariates": 2}
STATIONS = "station-10"
"""Those before it are trained on."""


class Ended:
    """What a command printed, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit {self.code}\n{self.out}\n{self.err}"

    @property
    def json(self) -> Any:
        return json.loads(self.out.splitlines()[-1])


@pytest.fixture(scope="session")
def run_command() -> Callable[..., Ended]:
    """A command of the CLI in this process: torch is imported once."""

    def run(*words: str | Path) -> Ended:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main([str(word) for word in words])
        return Ended(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def spline_home(tmp_path_factory: pytest.TempPathFactory, recipe_data: Path, empty_store: Path) -> Path:
    folder = tmp_path_factory.mktemp("spline") / "home"
    lay_out(folder, recipe_data, empty_store)
    (folder / "config" / "local.yaml").write_text("api_serving: {enabled: true}\n")
    for name, epochs in EPOCHS.items():
        path = folder / "recipes" / "spline" / f"{name}.yaml"
        text = re.sub(r"max_epochs: \d+", f"max_epochs: {epochs}", path.read_text())
        path.write_text(text.replace("n_windows: 3", "n_windows: 1"))
    stations = pd.read_csv(folder / "recipes" / "data" / "stations.csv")
    stations[stations["station"] < STATIONS].to_csv(folder / "recipes" / "data" / "stations.csv", index=False)
    return folder


@pytest.fixture
def home(spline_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory of the test."""
    monkeypatch.chdir(spline_home)
    monkeypatch.delenv("APP_ENV", raising=False)
    return spline_home


@pytest.fixture(scope="session")
def trained(spline_home: Path) -> Callable[[str], recipeline.Run]:
    """The run of a recipe, trained once."""
    runs: dict[str, recipeline.Run] = {}

    def run(name: str) -> recipeline.Run:
        if name not in runs:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(spline_home)
                runs[name] = recipeline.train(f"recipes/spline/{name}.yaml", settings=settings.load(project=spline_home, environ={}))
        return runs[name]

    return run
