"""An episode of a policy as a moving picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from recipeline.errors import DataError, UsageError
from recipeline.stores import files
from recipeline_ppo.episodes import LONGEST, mask_of
from recipeline_ppo.gymnasium_loader import missing_library
from recipeline_ppo.states import StateColumns

FRAMES = 2_000
MOST_PIXELS = 400  # of the longer side of a frame; larger ones are thinned


class GifExporter:
    """`recipeline export --format gif`: one episode of the run's policy in its environment, as episode.gif.

    Options: `seed` of the episode (0), `steps` to show at most (500), `fps` (of the environment, else 30). The environment must
    have the render mode rgb_array.
    """

    def export(self, pipeline: Any, folder: Path, *, loader: Any, seed: str = "0", steps: str = "500", fps: str = "") -> dict[str, Any]:
        """{steps, return, frames, file}

        Raises UsageError for options that are no numbers, DataError where the environment cannot be drawn, MissingLibrary where
        drawing it needs a library that is not there.
        """
        number, most = _number("seed", seed, 0, 2**31 - 1), _number("steps", steps, 1, FRAMES)
        factory = loader.load()
        columns = StateColumns.of(pipeline.schema.extras["states"])
        environment = factory(render_mode="rgb_array")
        try:
            rate = _number("fps", fps, 1, 100) if fps else int(environment.metadata.get("render_fps", 30))
            pictures, total, length = self._played(environment, pipeline.model, columns, number, most, factory.name)
        finally:
            environment.close()
        files.write_bytes(folder / "episode.gif", _gif(pictures, rate))
        return {"steps": length, "return": total, "frames": len(pictures), "file": "episode.gif"}

    def _played(self, environment: Any, agent: Any, columns: StateColumns, seed: int, most: int, name: str) -> tuple[list[Any], float, int]:
        observation, info = environment.reset(seed=seed)
        pictures, total, length, memory, over = [_frame(environment, name)], 0.0, 0, None, False
        while not over and length < min(most, LONGEST):
            row = columns.rows(columns.numbers(observation)[None])
            mask = mask_of(environment, observation, info) if columns.masked else None
            known: dict[str, Any] = {} if memory is None else {"memory": memory}
            answered = agent.act(row, None if mask is None else mask[None], deterministic=True, **known)
            memory = answered.memory
            observation, reward, terminated, truncated, info = environment.step(answered.action[0])
            total, length, over = total + float(reward), length + 1, bool(terminated or truncated)
            pictures.append(_frame(environment, name))
        return pictures, total, length


def _frame(environment: Any, name: str) -> Any:
    import gymnasium
    from PIL import Image

    try:
        drawn = environment.render()
    except gymnasium.error.DependencyNotInstalled as error:
        raise missing_library(name, error) from error
    array = np.asarray(drawn)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        what = f"render gave an array {list(array.shape)} of {array.dtype}, not of uint8 (height, width, 3)"
        raise DataError(what, slug="cannot-render", where=name)
    step = -(-max(array.shape[:2]) // MOST_PIXELS)
    return Image.fromarray(np.ascontiguousarray(array[::step, ::step])).quantize(64)


def _gif(pictures: list[Any], fps: int) -> bytes:
    stream = io.BytesIO()
    pictures[0].save(stream, format="GIF", save_all=True, append_images=pictures[1:], duration=max(20, round(1000 / fps)), loop=0)
    return stream.getvalue()


def _number(name: str, text: str, low: int, high: int) -> int:
    if not text.isdecimal() or not low <= int(text) <= high:
        raise UsageError(f"{name} is {text}", hint=f"write a whole number from {low} to {high}", where=f"--option {name}")
    return int(text)
