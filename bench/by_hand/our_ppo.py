"""PPO by recipeline_ppo's learner, told as `sb3_ppo.py` is; prints the same line."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from typing import Any

import gymnasium

from recipeline_ppo.config import Config
from recipeline_ppo.environments import Environments
from recipeline_ppo.learner import Learner
from recipeline_ppo.normalizer import ObservationNormalizer


def build(task: dict[str, Any]) -> Learner:
    config = Config(
        total_steps=task["total"],
        backend=task["backend"],
        reward_normalizer="discounted" if task["normalize"] else None,
        **task["hyperparameters"],
    )
    worlds = Environments(lambda: gymnasium.make(task["env"]), task["n_envs"])
    return Learner(config, worlds, seed=task["seed"], normalizer=ObservationNormalizer() if task["normalize"] else None)


def main() -> None:
    task = json.loads(sys.argv[1])
    build({**task, "n_envs": 1, "total": 64, "hyperparameters": {"n_steps": 64, "batch_size": 64}}).iterate()
    learner = build(task)
    solved_at, returns = None, deque[float](maxlen=task["solved"]["window"] if task["solved"] else 1)
    before = time.process_time()
    while learner.step < task["total"] and solved_at is None:
        at = learner.step
        for number, earned in enumerate(told := learner.iterate(task["total"])["episode_returns"], start=1):
            returns.append(earned)
            if task["solved"] and len(returns) == returns.maxlen and sum(returns) / len(returns) >= task["solved"]["goal"]:
                solved_at = at + round((learner.step - at) * number / len(told))  # within the rollout, by its episodes in their order
                break
    cpu = time.process_time() - before
    print(json.dumps({"steps": learner.step, "cpu": cpu, "solved_at": solved_at}))


if __name__ == "__main__":
    main()
