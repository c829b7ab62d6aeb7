"""The last agent of a recipe beside the new one: the same episodes, of the same environment."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from answers import Answer
from plugins.ppo.agents import CARTPOLE

pytestmark = pytest.mark.xdist_group("agents")

SMALL = (
    CARTPOLE.replace("total_steps: 2048", "total_steps: 512")
    .replace("hidden: [16, 16]", "hidden: [8]")
    .replace("episodes: 10", "episodes: 4")
)


def test_the_last_agent_is_judged_on_the_same_episodes(project: Path, command: Callable[..., Answer]) -> None:
    """Its figures are those of its own run, to the last bit; another seed plays others; another environment is another question."""

    def train(**changes: str) -> Any:
        text = SMALL
        for old, new in {"rate": "learning_rate: 1.0e-3", "seed": "seed: 7", "id": "CartPole-v1"}.items():
            text = text.replace(new, changes.get(old, new))
        Path("pole.yaml").write_text(text)
        answer = command("train", "--recipe-file", "pole.yaml", "--json", "--set", "execution.report=false")
        assert answer.code == 0, answer
        return answer.json, json.loads(Path(answer.json["artifact"], "metrics.json").read_text())

    first, told = train()
    assert set(first["baselines"]) == {"random"}
    assert "champion" not in told
    second, told = train(rate="learning_rate: 2.0e-2")
    assert second["baselines"]["champion"] == first["metrics"]
    assert told["champion"] == {"run_id": first["run_id"], "reason": ""}
    assert second["metrics"] != first["metrics"]
    third, _ = train(seed="seed: 8")
    assert third["baselines"]["champion"] != second["metrics"]  # four other episodes
    fourth, told = train(id="CartPole-v0")
    assert set(fourth["baselines"]) == {"random"}
    runs = (first, second, third, fourth)
    sealed = [json.loads(Path(run["artifact"], "split.json").read_text())["sealed"] for run in runs]
    assert sealed[0] == sealed[1]  # `compare` says that these two were judged on the same
    assert len({one for (one,) in sealed}) == 3
    assert told["champion"]["reason"] == f"run {third['run_id'][:8]} was trained in another environment"
