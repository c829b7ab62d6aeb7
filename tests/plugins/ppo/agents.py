"""What the tests of the recipe half share: a small recipe, a project for it, and ways to read what a run left."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from recipeline_ppo.checkpoints import read_checkpoint

CARTPOLE = """
name: pole
seed: 7
model:
  class_path: ppo
  hyperparameters:
    hidden: [16, 16]
    total_steps: 2048
    n_steps: 32
    batch_size: 64
    epochs: 4
    learning_rate: 1.0e-3
    operations: {class_path: operations, hyperparameters: {checkpoint: {every_steps: 256, share: 1}}}
  loader: {name: gymnasium, params: {id: CartPole-v1, n_envs: 4}}
  preprocessor: {name: observation_normalizer}
  data_interface: {task_type: reinforcement}
evaluation:
  metrics: [return_mean, success_rate]
  validation: {method: episodes, episodes: 10}
"""
MODEL = "parts/model"


def lay_out(folder: Path, store: Path, *, report: bool = False) -> Path:
    """A project without anything but configuration and a migrated tracking store."""
    (folder / "config").mkdir(parents=True)
    (folder / "config" / "base.yaml").write_text(f"execution: {{report: {str(report).lower()}}}\napi_serving: {{enabled: true}}\n")
    (folder / "config" / "local.yaml").write_text("")
    shutil.copy(store, folder / "mlflow.db")
    return folder


def arrays(artifact: str | Path) -> dict[str, np.ndarray[Any, Any]]:
    """The parameters of the policy in an artifact."""
    found: dict[str, np.ndarray[Any, Any]] = read_checkpoint(Path(artifact) / MODEL / "policy")["state"]["arrays"]
    return found


def same(one: dict[str, np.ndarray[Any, Any]], other: dict[str, np.ndarray[Any, Any]]) -> bool:
    """To the bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def wait_for(found: Callable[[], Any], seconds: float = 60.0) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.005)
    raise AssertionError("it did not happen in time")


def address(out: Path) -> str:
    """Of a server that tells it in this file."""
    return str(wait_for(lambda: re.search(r"http://127\.0\.0\.1:[1-9][0-9]*", out.read_text())).group())
