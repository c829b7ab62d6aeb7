"""PPO by Stable-Baselines3, as its users run it. Peer of `bench.ppo_speed` and `bench.ppo_solve`; runs in the peer's environment.

    python sb3_ppo.py '{"env": …, "n_envs": …, "total": …, "seed": …, "normalize": …, "hyperparameters": {…}, "solved": null}'

Prints a JSON line: steps, CPU seconds of training alone, and the step at which it was solved.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections import deque
from typing import Any

warnings.filterwarnings("ignore")

import torch  # noqa: E402
from stable_baselines3 import PPO  # noqa: E402
from stable_baselines3.common.callbacks import BaseCallback  # noqa: E402
from stable_baselines3.common.env_util import make_vec_env  # noqa: E402
from stable_baselines3.common.vec_env import VecNormalize  # noqa: E402


class Solved(BaseCallback):
    """Stops as soon as the mean return of the last `window` episodes of training reaches the goal."""

    def __init__(self, goal: float, window: int) -> None:
        super().__init__()
        self.goal, self.returns, self.at = goal, deque[float](maxlen=window), None

    def _on_step(self) -> bool:
        self.returns.extend(info["episode"]["r"] for info in self.locals["infos"] if "episode" in info)
        if len(self.returns) == self.returns.maxlen and sum(self.returns) / len(self.returns) >= self.goal:
            self.at = self.num_timesteps
            return False
        return True


def scheduled(value: Any) -> Any:
    if isinstance(value, dict):
        return lambda left: value["end"] + (value["start"] - value["end"]) * left
    return value


def build(task: dict[str, Any]) -> PPO:
    worlds = make_vec_env(task["env"], task["n_envs"], seed=task["seed"])
    h = dict(task["hyperparameters"])
    if task["normalize"]:
        worlds = VecNormalize(worlds, gamma=h.get("gamma", 0.99))
    hidden = h.pop("hidden", [64, 64])
    names = {"epochs": "n_epochs", "clip": "clip_range"}
    given = {names.get(name, name): scheduled(value) for name, value in h.items()}
    return PPO("MlpPolicy", worlds, seed=task["seed"], device="cpu", policy_kwargs={"net_arch": hidden}, **given)


def main() -> None:
    task = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    build({**task, "n_envs": 1, "hyperparameters": {"n_steps": 64, "batch_size": 64}}).learn(64)  # what is imported late is not training
    model = build(task)
    goal = Solved(task["solved"]["goal"], task["solved"]["window"]) if task["solved"] else None
    before = time.process_time()
    model.learn(task["total"], callback=goal)
    cpu = time.process_time() - before
    print(json.dumps({"steps": model.num_timesteps, "cpu": cpu, "solved_at": goal.at if goal else None}))


if __name__ == "__main__":
    main()
