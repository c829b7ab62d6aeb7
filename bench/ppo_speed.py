"""Training steps per CPU second of PPO, ours beside Stable-Baselines3 in an environment of its own: the same hyperparameters.

The first three are rl-zoo3's (Pendulum without gSDE, which only the peer has); the others are shapes that no goal names. One thread
each, in interleaved runs; the ratio is the median of the pairs'. CPU seconds of training alone, after everything is imported.
Goals: CartPole 4, Acrobot 3.5, Pendulum 6 times the peer; the torch backend 1.7 in geometric mean over these three.

    python -m bench.ppo_speed [--repeats 3] [--scale 1.0] [--only cartpole,pendulum]
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from statistics import median
from typing import Any

from bench import peers, processes

HERE = Path(__file__).parent
PEER = ("stable-baselines3==2.9.*", "torch==2.13.0")


def falling(start: float) -> dict[str, Any]:
    return {"schedule": "linear", "start": start, "end": 0.0}


CARTPOLE = {"n_steps": 32, "batch_size": 256, "epochs": 20, "gamma": 0.98, "gae_lambda": 0.8}
TASKS: dict[str, dict[str, Any]] = {
    "cartpole": {
        "env": "CartPole-v1", "n_envs": 8, "total": 40_000, "normalize": False, "goal": 4.0,
        "hyperparameters": {**CARTPOLE, "learning_rate": falling(1e-3), "clip": falling(0.2)},
    },
    "acrobot": {
        "env": "Acrobot-v1", "n_envs": 16, "total": 40_960, "normalize": True, "goal": 3.5,
        "hyperparameters": {"n_steps": 256, "batch_size": 64, "epochs": 4, "gamma": 0.99, "gae_lambda": 0.94},
    },
    "pendulum": {
        "env": "Pendulum-v1", "n_envs": 4, "total": 20_480, "normalize": False, "goal": 6.0,
        "hyperparameters": {"n_steps": 1024, "batch_size": 64, "epochs": 10, "gamma": 0.9, "gae_lambda": 0.95, "learning_rate": 1e-3},
    },
    "mountaincar": {
        "env": "MountainCar-v0", "n_envs": 16, "total": 40_960, "normalize": True, "goal": None,
        "hyperparameters": {"n_steps": 16, "batch_size": 64, "epochs": 4, "gamma": 0.99, "gae_lambda": 0.98},
    },
    "cartpole_64_copies": {
        "env": "CartPole-v1", "n_envs": 64, "total": 65_536, "normalize": False, "goal": None,
        "hyperparameters": {"n_steps": 64, "batch_size": 512, "epochs": 4},
    },
    "cartpole_256_wide": {
        "env": "CartPole-v1", "n_envs": 4, "total": 8_192, "normalize": False, "goal": None,
        "hyperparameters": {"n_steps": 512, "batch_size": 128, "epochs": 10, "hidden": [256, 256]},
    },
    "pendulum_one_copy": {
        "env": "Pendulum-v1", "n_envs": 1, "total": 8_192, "normalize": True, "goal": None,
        "hyperparameters": {"n_steps": 2048, "batch_size": 64, "epochs": 10},
    },
    "frozenlake": {
        "env": "FrozenLake-v1", "n_envs": 8, "total": 20_480, "normalize": False, "goal": None,
        "hyperparameters": {"n_steps": 128, "batch_size": 128, "epochs": 6, "ent_coef": 0.01},
    },
}  # fmt: skip
TORCH_GOAL = 1.7


def trained(python: str, script: str, task: dict[str, Any]) -> dict[str, Any]:
    """What one process tells of one training."""
    output = processes.run([python, str(HERE / "by_hand" / script), json.dumps(task)], cwd=HERE.parent).output
    found: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of steps")
    parser.add_argument("--only", default="", help="names, separated by commas")
    options = parser.parse_args()
    peer, said = peers.python_with(*PEER)
    print(f"peer: {peers.versions(peer, ['stable-baselines3', 'torch', 'gymnasium', 'numpy']) if peer else 'not there: ' + said}")
    print(f"{'training':<20} {'numpy':>9} {'torch':>9} {'peer':>9} {'numpy/peer':>11} {'torch/peer':>11}  goal")
    rows = []
    for name in options.only.split(",") if options.only else TASKS:
        task = {**TASKS[name], "solved": None, "total": int(TASKS[name]["total"] * options.scale)}
        speeds: dict[str, list[float]] = {"numpy": [], "torch": [], "peer": []}
        for repeat in range(options.repeats):
            for who, each in speeds.items():
                if who == "peer" and peer is None:
                    continue
                script = "sb3_ppo.py" if who == "peer" else "our_ppo.py"
                python = peer if who == "peer" and peer else sys.executable
                told = trained(python, script, {**task, "seed": repeat, "backend": who})
                each.append(told["steps"] / told["cpu"])
        row: dict[str, Any] = {"training": name, **{who: round(median(each)) if each else None for who, each in speeds.items()}}
        for who in ("numpy", "torch"):
            pairs = [mine / theirs for mine, theirs in zip(speeds[who], speeds["peer"], strict=False)]
            row[f"{who}_ratio"] = round(median(pairs), 2) if pairs else None
        row["passed"] = None if row["numpy_ratio"] is None or task["goal"] is None else row["numpy_ratio"] >= task["goal"]
        rows.append(row)
        shown = [f"{row[who]:>9,}" if row[who] else f"{'-':>9}" for who in speeds]
        ratios = [f"{row[f'{who}_ratio'] or math.nan:>11.2f}" for who in ("numpy", "torch")]
        verdict = "" if row["passed"] is None else "ok" if row["passed"] else "MISSED"
        print(f"{name:<20}", *shown, *ratios, f" {task['goal'] or ''} {verdict}", flush=True)
    named = [row["torch_ratio"] for row in rows if TASKS[row["training"]]["goal"] and row["torch_ratio"]]
    mean = round(math.exp(sum(map(math.log, named)) / len(named)), 2) if named else None
    print(f"torch backend, geometric mean of the trainings with a goal: {mean} (goal {TORCH_GOAL})")
    passed = all(row["passed"] is not False for row in rows) and (mean is None or mean >= TORCH_GOAL)
    print(json.dumps({"bench": "ppo_speed", "rows": rows, "torch_geometric_mean": mean, "passed": passed}))


if __name__ == "__main__":
    main()
