"""Rewards on a scale that a network can learn from; the raw ones are for the log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


class WindowedNormalizer:
    """(reward - mean) / sd of the last `window` rewards, clipped; as they come until `warm_up` of them are known. O(1) per reward.

    A reward that is not finite is counted in `dropped`, taught nothing and returned as 0.
    """

    def __init__(self, window: int = 1000, *, clip: float = 10.0, warm_up: int = 100) -> None:
        self.window, self.clip, self.warm_up = window, clip, warm_up
        self.values: list[float] = []
        self.place = self.dropped = 0
        self._mean = self._square = 0.0  # mean, and sum of squared deviations from it

    def __call__(self, reward: float) -> float:
        x = float(reward)
        if not math.isfinite(x):
            self.dropped += 1
            return 0.0
        if len(self.values) < self.window:
            self.values.append(x)
            change = x - self._mean
            self._mean += change / len(self.values)
            self._square += change * (x - self._mean)
        else:
            old, self.values[self.place] = self.values[self.place], x
            self.place = (self.place + 1) % self.window
            before = self._mean
            self._mean += (x - old) / self.window
            self._square += (x - old) * (x - self._mean + old - before)
            if self.place == 0:  # rounding must not add up over a long run
                self._exactly()
        if len(self.values) < self.warm_up:
            return max(-self.clip, min(self.clip, x))
        return max(-self.clip, min(self.clip, (x - self._mean) / (self.sd + 1e-8)))

    @property
    def mean(self) -> float:
        return self._mean

    @property
    def sd(self) -> float:
        return math.sqrt(max(0.0, self._square) / len(self.values)) if self.values else 0.0

    def _exactly(self) -> None:
        self._mean = math.fsum(self.values) / len(self.values)
        self._square = math.fsum((v - self._mean) ** 2 for v in self.values)

    def state(self) -> dict[str, Any]:
        return {"values": list(self.values), "place": self.place, "dropped": self.dropped, "mean": self._mean, "square": self._square}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.values, self.place, self.dropped = list(state["values"]), state["place"], state["dropped"]
        self._mean, self._square = state["mean"], state["square"]


class DiscountedNormalizer:
    """reward / sd of the running discounted return, clipped (Engstrom et al. 2020, "Implementation matters in deep RL"; as in
    gymnasium's NormalizeReward). The sign of a reward stays. One discounted return per environment.

    rewards (n_envs,), done (n_envs,) True where the episode ended with this reward. Not finite: as in WindowedNormalizer.
    """

    def __init__(self, n_envs: int = 1, *, gamma: float = 0.99, clip: float = 10.0, warm_up: int = 100) -> None:
        self.gamma, self.clip, self.warm_up = gamma, clip, warm_up
        self.returns = np.zeros(n_envs)
        self.count = self.dropped = 0
        self.mean = self.square = 0.0

    def __call__(self, rewards: ArrayLike, done: ArrayLike = False) -> NDArray[np.float64]:
        r = np.atleast_1d(np.asarray(rewards, dtype=np.float64))
        over = np.asarray(done, dtype=bool)
        if math.isfinite(r.dot(r)):
            self.returns = known = self.returns * self.gamma + r
        else:
            good = np.isfinite(r)
            self.dropped += int((~good).sum())
            r = np.where(good, r, 0.0)
            self.returns = np.where(good, self.returns * self.gamma + r, self.returns)
            known = self.returns[good]
        n = len(known)
        if n:  # Chan, Golub and LeVeque 1983: the moments of two sets together
            mean = float(np.add.reduce(known)) / n
            deviations = known - mean
            total, gap = self.count + n, mean - self.mean
            self.square += float(deviations.dot(deviations)) + gap**2 * self.count * n / total
            self.mean += gap * n / total
            self.count = total
        if over.any():
            self.returns = np.where(over, 0.0, self.returns)
        scale = self.sd + 1e-8 if self.count >= self.warm_up else 1.0
        r = r / scale
        return np.minimum(np.maximum(r, -self.clip, out=r), self.clip, out=r)

    @property
    def sd(self) -> float:
        return math.sqrt(self.square / self.count) if self.count else 0.0

    def state(self) -> dict[str, Any]:
        kept = {"count": self.count, "dropped": self.dropped, "mean": self.mean, "square": self.square}
        return {**kept, "returns": self.returns.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.count, self.dropped, self.mean, self.square = (state[k] for k in ("count", "dropped", "mean", "square"))
        self.returns = np.asarray(state["returns"], dtype=np.float64)
