"""Small environments whose answers are known; gymnasium's interface, one for each kind of action."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

ACTIONS: dict[str, Callable[[], gymnasium.Space]] = {
    "discrete": lambda: spaces.Discrete(3),
    "multidiscrete": lambda: spaces.MultiDiscrete([2, 3]),
    "multibinary": lambda: spaces.MultiBinary(3),
    "box": lambda: spaces.Box(-1, 1, (2,), np.float32),
}


class Drift(gymnasium.Env):
    """A point that drifts at random and by the action; the reward is how near to 0 it stays. Ends where it is far off."""

    def __init__(self, kind: str = "discrete", *, far: float = 3.0) -> None:
        self.kind, self.far = kind, far
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = ACTIONS[kind]()
        self.x = np.zeros(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = self.np_random.normal(size=3)
        return self.x.astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(np.asarray(action, dtype=self.action_space.dtype) if self.kind != "discrete" else action), action
        push = float(np.mean(np.asarray(action, dtype=float)))
        self.x = 0.9 * self.x + 0.3 * push + 0.3 * self.np_random.normal(size=3)
        return self.x.astype(np.float32), float(1 - abs(self.x).mean()), bool(abs(self.x).max() > self.far), False, {}


def drift(kind: str = "discrete", **options: Any) -> Callable[[], gymnasium.Env]:
    return lambda: Drift(kind, **options)


class Corridor(gymnasium.Env):
    """Walk right along a line; the reward of a step is its number. Ends at `length`, where it is not truncated before.

    The observation is the place, so that a rollout shows which observation its values were of.
    """

    def __init__(self, length: int = 1000, spoil: dict[int, str] | None = None) -> None:
        self.length, self.spoil = length, spoil or {}
        self.observation_space = spaces.Box(0, np.inf, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.place = self.done = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = 0
        return np.array([0.0], dtype=np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place += 1
        self.done += 1
        what = self.spoil.get(self.done, "")
        reward = float("nan") if what == "reward" else float(self.place)
        observation = np.array([np.inf if what == "observation" else self.place], dtype=np.float32)
        return observation, reward, self.place >= self.length, False, {}


class Masked(gymnasium.Env):
    """Only one action is allowed, and it changes with every step; the reward is 1 for taking it. `where`: how the mask is told."""

    def __init__(self, where: str = "info", *, kind: str = "discrete", empty_at: int | None = None) -> None:
        self.where, self.kind, self.empty_at = where, kind, empty_at
        place = spaces.Box(0, 3, (1,), np.float32)
        self.width = {"discrete": 4, "multidiscrete": 5, "multibinary": 4}[kind]
        masks = spaces.MultiBinary(self.width)
        self.observation_space = spaces.Dict({"place": place, "action_mask": masks}) if where == "dict" else place
        self.action_space = {
            "discrete": spaces.Discrete(4), "multidiscrete": spaces.MultiDiscrete([2, 3]), "multibinary": spaces.MultiBinary(2),
        }[kind]  # fmt: skip
        self.time = 0
        if where == "method":
            self.action_masks = self._mask

    def _mask(self) -> np.ndarray[Any, Any]:
        mask = np.zeros(self.width, dtype=np.int8)
        if self.time != self.empty_at:
            mask[self.time % 4 if self.kind == "discrete" else [self.time % 2, 2 + self.time % 2]] = 1
        return mask

    def allowed(self, action: Any) -> bool:
        t = self.time
        return {"discrete": lambda: action == t % 4, "multidiscrete": lambda: list(action) == [t % 2, t % 2],
                "multibinary": lambda: list(action) == [t % 2, t % 2]}[self.kind]()  # fmt: skip

    def _told(self) -> tuple[Any, dict[str, Any]]:
        place = np.array([self.time % 4], dtype=np.float32)
        observation = {"place": place, "action_mask": self._mask()} if self.where == "dict" else place
        return observation, {"action_mask": self._mask()} if self.where == "info" else {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        return self._told()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.allowed(action), f"{action} is masked at time {self.time}"
        self.time += 1
        observation, info = self._told()
        return observation, 1.0, False, False, info
