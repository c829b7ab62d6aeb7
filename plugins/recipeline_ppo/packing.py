"""A knapsack to pack, item by item: an environment in which most actions are soon forbidden."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class Packing(gymnasium.Env):
    """Put items into a bag that does not hold them all; drawn anew for every episode, over when nothing more fits.

    observation  (3 * items + 1,): value, weight and whether it is still there, of each item; room left
    action       the item to put in; `action_mask` of the info allows those that are there and fit
    reward       value of the item, as a share of what the greedy packing by value per weight reaches in this episode:
                 a return above 1 beats it
    """

    metadata = {"render_modes": []}  # noqa: RUF012  # gymnasium's own form

    def __init__(self, items: int = 12, room: float = 0.4) -> None:
        if items < 2 or not 0 < room < 1:
            raise ValueError("there are at least 2 items, and room is a share of their weight between 0 and 1")
        self.items, self.room = items, room
        self.observation_space = spaces.Box(0.0, 1.0, (3 * items + 1,), np.float32)
        self.action_space = spaces.Discrete(items)
        self.render_mode: str | None = None
        self.reward_threshold = 1.0
        self._values = self._weights = np.zeros(items)
        self._there = np.zeros(items, np.bool_)
        self._left = self._greedy = 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        super().reset(seed=seed)
        self._weights = self.np_random.uniform(0.1, 1.0, self.items)
        self._values = np.clip(self._weights + self.np_random.uniform(-0.3, 0.3, self.items), 0.05, 1.0)  # heavy ones are worth more
        self._there = np.ones(self.items, np.bool_)
        # No less than the lightest: something can be packed in every episode.
        self._left = max(self.room * float(self._weights.sum()), float(self._weights.min()))
        self._greedy = self.greedy()
        return self._seen()

    def step(self, action: Any) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        item = int(action)
        if not self.action_masks()[item]:
            raise ValueError(f"item {item} is packed or does not fit")
        self._there[item] = False
        self._left -= float(self._weights[item])
        observation, info = self._seen()
        return observation, float(self._values[item]) / self._greedy, not bool(info["action_mask"].any()), False, info

    def action_masks(self) -> NDArray[np.bool_]:
        """(items,)"""
        found: NDArray[np.bool_] = self._there & (self._weights <= self._left)
        return found

    def greedy(self) -> float:
        """The value of packing by value per weight from the state at hand (Dantzig 1957)."""
        left, value = self._left, 0.0
        for item in np.argsort(-self._values / self._weights):
            if self._there[item] and self._weights[item] <= left:
                left -= float(self._weights[item])
                value += float(self._values[item])
        return value

    def get_state(self) -> dict[str, Any]:
        """Everything that the future depends on, as JSON."""
        return {
            "values": self._values.tolist(), "weights": self._weights.tolist(), "there": self._there.tolist(),
            "left": self._left, "greedy": self._greedy, "random": self.np_random.bit_generator.state,
        }  # fmt: skip

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._values, self._weights = np.array(state["values"]), np.array(state["weights"])
        self._there = np.array(state["there"], np.bool_)
        self._left, self._greedy = float(state["left"]), float(state["greedy"])
        self.np_random.bit_generator.state = state["random"]

    def _seen(self) -> tuple[Floats, dict[str, Any]]:
        total = float(self._weights.sum())
        parts = (self._values, self._weights, self._there, [max(self._left, 0.0) / total if total else 0.0])
        return np.concatenate(parts).astype(np.float32), {"action_mask": self.action_masks().astype(np.int8)}
