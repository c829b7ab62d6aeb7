"""A policy with a memory through every door: what it remembers goes from step to step, and is blank where an episode begins."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

import recipeline
from answers import Answer
from plugins.ppo.agents import CARTPOLE
from plugins.ppo.worlds import Drift
from recipeline import registry, settings
from recipeline.pipeline import Pipeline
from recipeline_ppo.model import PPO

pytestmark = pytest.mark.xdist_group("agents")

STEPS, SEEDS, EACH = 15, (3, 4, 5), 2


class Drifting(Drift):
    max_episode_steps = STEPS

    def __init__(self) -> None:
        super().__init__("box", far=2.0)  # of a continuous action every difference of memories shows in the return


@pytest.fixture
def pipeline(project: Path, command: Callable[..., Answer]) -> Iterator[Pipeline]:
    """Trained for a moment, judged on two episodes of each of three seeds, saved and read back."""
    recipeline.register("part", "drifting", Drifting)
    text = (
        CARTPOLE.replace("id: CartPole-v1, n_envs: 4", "environment: {class_path: drifting}, n_envs: 2")
        .replace("hidden: [16, 16]", "policy: lstm\n    hidden: [8]\n    sequence: 8")
        .replace("total_steps: 2048", "total_steps: 512")
        .replace("1.0e-3", "3.0e-2")
        .replace(", success_rate", ", episode_length")
        .replace("episodes: 10", f"episodes: {len(SEEDS) * EACH}, seeds: {list(SEEDS)}")
    )
    Path("drift.yaml").write_text(text)
    trained = command("train", "--recipe-file", "drift.yaml", "--json", "--set", "execution.report=false")
    assert trained.code == 0, trained
    yield recipeline.load(trained.json["artifact"], settings=settings.load(project=project, environ={}))
    registry.unregister("part", "drifting")


def by_hand(decide: Callable[[Any, Any], tuple[Any, Any]], *, forgetful: bool = False) -> pd.DataFrame:
    """The episodes one after the other, each from a blank memory; `decide(observation, memory)` gives action and memory."""
    rows = []
    for seed in SEEDS:
        environment = Drifting()
        for number in range(EACH):
            observation, _ = environment.reset(seed=seed) if number == 0 else environment.reset()
            memory, total, length, over = None, 0.0, 0, False
            while not over and length < STEPS:
                action, memory = decide(observation, None if forgetful else memory)
                observation, reward, over, _, _ = environment.step(action)
                total, length = total + reward, length + 1
            rows.append({"seed": seed, "return": total, "length": length, "truncated": not over})
    return pd.DataFrame(rows)


def test_a_memory_goes_from_step_to_step_through_every_door(pipeline: Pipeline, command: Callable[..., Answer]) -> None:
    """The evaluation is what stepping by hand gives, through `act` and through the bodies of POST /predict; a batch begins anew in each
    row; a memory of another length, or with a NaN, is refused where it stands."""
    model = pipeline.model
    assert isinstance(model, PPO)
    folder = next(Path("mlruns").glob("*/*/artifacts/model"))
    judged = pd.read_parquet(folder / "tables" / "episodes.parquet")[["seed", "return", "length", "truncated"]]

    def acts(observation: Any, memory: Any) -> tuple[Any, Any]:
        said = model.act(observation[None], memory=memory)
        return said.action[0], said.memory

    # The evaluation asks for several episodes at once: float32 in another order of summation.
    pd.testing.assert_frame_equal(by_hand(acts), judged, rtol=1e-4)
    assert not np.allclose(by_hand(acts, forgetful=True)["return"], judged["return"], rtol=1e-2), "the memory makes no difference here"

    route = model.routes()[0]
    asked = route.request
    assert asked is not None

    def posts(observation: Any, memory: Any) -> tuple[Any, Any]:
        body = {"observation": observation.tolist(), **({} if memory is None else {"memory": memory})}
        said = json.loads(json.dumps(model.answer(asked.model_validate(body))))
        return np.array(said["action"], np.float32), said["memory"]

    pd.testing.assert_frame_equal(by_hand(posts), by_hand(acts), check_exact=True)

    states = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 3)), columns=[f"observation_{k}" for k in range(3)])
    states.to_csv("states.csv", index=False)
    ended = command("batch-inference", "--run-id", "latest", "--input", "states.csv", "--output", "actions.csv")
    assert ended.code == 0, ended
    alone = np.concatenate([model.act(row[None]).action for row in states.to_numpy(np.float32)])
    np.testing.assert_allclose(pd.read_csv("actions.csv")[["action_0", "action_1"]], alone, rtol=1e-4, atol=1e-6)

    width = model.policy.memory_width
    for memory in ([0.0] * (width - 1), [0.0] * (width - 1) + [float("nan")], "x"):
        with pytest.raises(ValidationError) as told:
            asked.model_validate({"observation": [0.0, 0.0, 0.0], "memory": memory})
        assert told.value.errors()[0]["loc"][0] == "memory"
