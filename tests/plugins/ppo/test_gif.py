"""An episode as a moving picture: `recipeline export --format gif`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

from recipeline.contracts import FitContext
from recipeline.errors import DataError, MissingLibrary, UsageError
from recipeline.pipeline import Pipeline
from recipeline_ppo.gif import GifExporter
from recipeline_ppo.gymnasium_loader import EnvironmentFactory, GymnasiumLoader
from recipeline_ppo.inventory import Inventory
from recipeline_ppo.task import RandomPolicy, Reinforcement, ReinforcementInterface

TASK = Reinforcement(ReinforcementInterface(task_type="reinforcement"))


class Drawn(gymnasium.Env):  # type: ignore[misc]
    """Three steps, each a picture of its own; or one that needs a library, or none at all."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    observation_space, action_space = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)
    what = "array"

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.at = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.at += 1
        return np.zeros(1, np.float32), 1.0, self.at == 3, False, {}

    def render(self) -> Any:
        if self.what == "library":
            raise gymnasium.error.DependencyNotInstalled('pygame is not installed, run `pip install "gymnasium[classic-control]"`')
        return np.full((900, 30, 3), 60 * self.at, np.uint8) if self.what == "array" else None


def exported(make: Any, folder: Path, **options: str) -> dict[str, Any]:
    loader = GymnasiumLoader(environment=make)
    data = loader.load()
    schema = TASK.describe(data)
    pipeline = Pipeline(task=TASK, schema=schema, model=RandomPolicy())
    pipeline.fit(TASK.select(data, schema, targets=True), FitContext(0, folder))
    return GifExporter().export(pipeline, folder, loader=loader, **options)


def test_every_step_of_an_episode_is_a_frame_at_the_speed_of_the_environment(tmp_path: Path) -> None:
    """The first state, then each step; large pictures are thinned."""
    assert exported(Drawn, tmp_path) == {"steps": 3, "return": 3.0, "frames": 4, "file": "episode.gif"}
    with Image.open(tmp_path / "episode.gif") as picture:
        assert (picture.n_frames, picture.size, picture.info["duration"]) == (4, (10, 300), 50)  # type: ignore[attr-defined]


def test_a_long_episode_is_cut_at_the_steps_asked_for(tmp_path: Path) -> None:
    """84 days, of which 10 are shown."""
    assert exported(Inventory, tmp_path, steps="10", fps="5")["frames"] == 11
    with Image.open(tmp_path / "episode.gif") as picture:
        assert (picture.n_frames, picture.size) == (11, (320, 120))  # type: ignore[attr-defined]


@pytest.mark.parametrize("option", [{"steps": "many"}, {"steps": "0"}, {"seed": "-1"}, {"fps": "1000"}])
def test_options_that_are_no_such_number_are_refused(option: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="whole number"):
        exported(Drawn, tmp_path, **option)


def test_what_cannot_be_drawn_says_why(tmp_path: Path) -> None:
    """No such render mode, nothing in the picture, a library that is missing and what brings it."""

    class Blind(Drawn):
        metadata = {"render_modes": []}  # noqa: RUF012

    class Empty(Drawn):
        what = "nothing"

    class Lacking(Drawn):
        what = "library"

    with pytest.raises(DataError, match="no render mode rgb_array"):
        exported(Blind, tmp_path)
    with pytest.raises(DataError, match="not of uint8"):
        exported(Empty, tmp_path)
    with pytest.raises(MissingLibrary, match=r"pygame is not installed.*pip install 'gymnasium\[classic-control\]'"):
        exported(Lacking, tmp_path)
    assert not list(tmp_path.glob("*.gif"))


def test_the_command_draws_the_environment_of_the_run(project: Path, command: Callable[..., Any]) -> None:
    """Through the recipe: the loader of the run, a folder that appears whole, and no second loader."""
    text = (
        Path("recipes/ppo/inventory.yaml")
        .read_text()
        .replace("total_steps: 200000", "total_steps: 4096")
        .replace("episodes: 100", "episodes: 2")
    )
    Path("recipes/ppo/inventory.yaml").write_text(text)
    run = command("train", "--recipe-file", "recipes/ppo/inventory.yaml", "--json", "--set", "execution.report=false").json
    answer = command("export", "--run-id", run["run_id"], "--format", "gif", "--output", "picture", "--option", "steps=5", "--json")
    assert answer.code == 0, answer
    assert answer.json["frames"] == 6
    assert (project / "picture" / "episode.gif").is_file()
    assert command("export", "--run-id", run["run_id"], "--format", "gif", "--output", "x", "--option", "loader=y").code == 2


def test_a_registered_environment_is_asked_for_its_render_modes() -> None:
    """Before it is made to draw."""
    data = GymnasiumLoader("Blackjack-v1").load()
    assert isinstance(data, EnvironmentFactory)
    with pytest.raises(DataError, match="no render mode film"):
        data(render_mode="film")
