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
        values, window, before = self.values, self.window, self._mean
        if len(values) < window:
            values.append(x)
            change = x - before
            self._mean = mean = before + change / len(values)
            self._square += change * (x - mean)
        else:
            place = self.place
            old, values[place] = values[place], x
            self.place = place = (place + 1) % window
            change = x - old
            self._mean = mean = before + change / window
            self._square += change * (x - mean + old - before)
            if place == 0:  # rounding must not add up over a long run
                self._exactly()
        if len(values) >= self.warm_up:
            square = self._square
            x = (x - self._mean) / ((math.sqrt(square / len(values)) if square > 0.0 else 0.0) + 1e-8)
        clip = self.clip
        return -clip if x < -clip else min(x, clip)

    @property
    def mean(self) -> float:
        return self._mean

    @property
    def sd(self) -> float:
        return math.sqrt(self._square / len(self.values)) if self._square > 0.0 else 0.0

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
