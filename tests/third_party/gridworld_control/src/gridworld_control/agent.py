"""Tabular Q-learning (Watkins 1989), its exploration, and its policy as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import numpy as np

from gridworld_control.world import Gridworld
from recipeline.contracts import FitContext, Selected
from recipeline.stores import files


class LinearDecay:
    """Exploration that falls from `start` to `end` over the training."""

    def __init__(self, start: float = 1.0, end: float = 0.05) -> None:
        self.start, self.end = start, end

    def __call__(self, share: float) -> float:
        return self.start + (self.end - self.start) * share


class QLearning:
    """exploration: share of the training done (0 to 1) → probability of a random action"""

    def __init__(self, exploration: Any = None, learning_rate: float = 0.2, discount: float = 0.98, episodes: int = 300) -> None:
        self.exploration, self.learning_rate, self.discount, self.episodes = exploration, learning_rate, discount, episodes

    @classmethod
    def example_data(cls) -> Selected:
        """For the contract suite: what it learns from is a world."""
        return Selected(X=Gridworld(size=3, slip=0.0))

    @classmethod
    def example_rows(cls) -> np.ndarray[Any, Any]:
        """For the contract suite: what it answers are states."""
        return np.array([[0, 0], [1, 2]])

    def fit(self, X: Any, y: Any = None, *, context: FitContext) -> Self:
        world, rng = X, np.random.default_rng(context.seed)
        explore = self.exploration or LinearDecay()
        self.values_ = np.zeros((world.size, world.size, 4))
        for episode in range(self.episodes):
            state = (0, 0)
            for _ in range(20 * world.size):
                greedy = int(np.argmax(self.values_[state]))
                action = int(rng.integers(4)) if rng.random() < explore(episode / self.episodes) else greedy
                after, reward, done = world.step(state, action, rng)
                target = reward + (0.0 if done else self.discount * self.values_[after].max())
                self.values_[state][action] += self.learning_rate * (target - self.values_[state][action])
                state = after
                if done:
                    break
            context.progress.advance(episode + 1, self.episodes, "episodes")
        return self

    def predict(self, X: Any) -> np.ndarray[Any, Any]:
        """Greedy actions (n,) for states (n, 2)."""
        states = np.asarray(X, dtype=int)
        actions: np.ndarray[Any, Any] = self.values_[states[:, 0], states[:, 1]].argmax(axis=1)
        return actions

    def save(self, folder: Path) -> None:
        arguments = {"learning_rate": self.learning_rate, "discount": self.discount, "episodes": self.episodes}
        files.write_json(folder / "agent.json", {"arguments": arguments, "values": self.values_.tolist()})

    @classmethod
    def load(cls, folder: Path) -> Self:
        kept = json.loads((folder / "agent.json").read_text(encoding="utf-8"))
        agent = cls(**kept["arguments"])
        agent.values_ = np.array(kept["values"])
        return agent


class RandomWalk:
    """The agent to beat."""

    def fit(self, X: Any, y: Any = None, *, context: FitContext) -> Self:
        self.rng_ = np.random.default_rng(context.seed)
        return self

    def predict(self, X: Any) -> np.ndarray[Any, Any]:
        return self.rng_.integers(4, size=len(X))


class PolicyExporter:
    """The greedy action of every cell, as JSON that needs no Python to read."""

    def export(self, pipeline: Any, folder: Path, **options: Any) -> dict[str, Any]:
        actions = pipeline.model.values_.argmax(axis=2)
        files.write_json(folder / "policy.json", {"run": pipeline.run_id, "actions": actions.tolist()})
        return {"cells": int(actions.size)}
