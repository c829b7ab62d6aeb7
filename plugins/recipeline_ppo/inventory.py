"""A warehouse with one product: how much to order each day, as one environment and as many in one batch of arrays.

The classical periodic-review problem with lost sales and a lead time (Zipkin 2000, "Foundations of Inventory Management",
chapter 9): for a lead time of more than one day its best policy has no closed form, which is what makes it worth learning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

Floats = NDArray[np.float32]
WEEK = 7
DEMAND = np.array([0.8, 0.8, 0.9, 1.0, 1.3, 1.5, 0.7])
"""Of each day of the week, as a share of the mean."""


class _Rules:
    """The dynamics, for n warehouses at a time; every array has n in front."""

    def __init__(self, mean_demand: float, lots: int, lot: int, capacity: int, lead_time: int, costs: Mapping[str, float]) -> None:
        self.mean_demand, self.lots, self.lot, self.capacity, self.lead_time = mean_demand, lots, lot, capacity, lead_time
        self.costs = costs
        full = [capacity / mean_demand] * (1 + lead_time)
        self.observation_space = spaces.Box(np.zeros(1 + lead_time + WEEK, np.float32), np.array([*full, *[1.0] * WEEK], np.float32))
        self.action_space = spaces.Discrete(lots + 1)

    def observations(self, stock: NDArray[np.int64], ordered: NDArray[np.int64], day: NDArray[np.int64]) -> Floats:
        """(n, 1 + lead_time + 7): stock and orders under way, in mean daily demands, and the day of the week one-hot."""
        found = np.zeros((len(stock), 1 + self.lead_time + WEEK), np.float32)
        found[:, 0] = stock / self.mean_demand
        found[:, 1 : 1 + self.lead_time] = ordered / self.mean_demand
        found[np.arange(len(stock)), 1 + self.lead_time + day % WEEK] = 1.0
        return found

    def masks(self, stock: NDArray[np.int64], ordered: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n, lots + 1): orders that have a place even if nothing is sold; ordering nothing always does."""
        room = self.capacity - stock - ordered.sum(axis=1)
        masks: NDArray[np.bool_] = np.arange(self.lots + 1) * self.lot <= np.maximum(room, 0)[:, None]
        return masks

    def step(
        self, stock: NDArray[np.int64], ordered: NDArray[np.int64], demand: NDArray[np.int64], actions: NDArray[Any]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """(stock, ordered, reward) after a day: the oldest order comes in, customers come, the new order goes out."""
        amount = np.asarray(actions, dtype=np.int64) * self.lot
        if self.lead_time:
            there, rest = stock + ordered[:, 0], np.concatenate([ordered[:, 1:], amount[:, None]], axis=1)
        else:
            there, rest = stock + amount, ordered
        sold = np.minimum(there, demand)
        left = there - sold
        costs = self.costs
        reward = (
            costs["margin"] * sold - costs["lost"] * (demand - sold) - costs["holding"] * left - costs["order"] * (amount > 0)
        ) / self.mean_demand
        return left, rest, reward

    def mean(self, day: NDArray[np.int64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = self.mean_demand * DEMAND[day % WEEK]
        return found


class Inventory(gymnasium.Env):
    """Order for a warehouse: Poisson demand with a week in it, orders in lots with a lead time, lost sales, limited room.

    observation  (1 + lead_time + 7,): stock and orders under way in mean daily demands, day of the week one-hot
    action       how many lots to order, 0 to `lots`; `action_mask` of the info allows those that have room
    reward       margin of what was sold minus costs of lost sales, of what lies over night and of ordering, per mean daily demand

    mean_demand  per day      lot  pieces in one lot      capacity  pieces, those under way included      lead_time  days, 0 or more
    margin, lost, holding     per piece      order  per order, whatever its size      days  of an episode
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012  # gymnasium's own form

    def __init__(
        self,
        mean_demand: float = 20.0,
        lots: int = 8,
        lot: int = 10,
        capacity: int = 120,
        lead_time: int = 2,
        margin: float = 1.0,
        lost: float = 0.5,
        holding: float = 0.05,
        order: float = 5.0,
        days: int = 84,
    ) -> None:
        if min(mean_demand, lots, lot, capacity, days) <= 0 or lead_time < 0:
            raise ValueError("mean_demand, lots, lot, capacity and days are positive, lead_time is not negative")
        costs = {"margin": margin, "lost": lost, "holding": holding, "order": order}
        self.rules = _Rules(mean_demand, lots, lot, capacity, lead_time, costs)
        self.max_episode_steps = days
        self.observation_space, self.action_space = self.rules.observation_space, self.rules.action_space
        self.render_mode: str | None = None
        self._past: list[tuple[int, int, int]] = []
        self._stock, self._ordered, self._day = np.zeros(1, np.int64), np.zeros((1, lead_time), np.int64), np.zeros(1, np.int64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        super().reset(seed=seed)
        full = self.rules.capacity // 2 + 1
        self._stock = np.array([self.np_random.integers(full)])
        self._ordered = np.zeros((1, self.rules.lead_time), np.int64)
        self._day = np.array([self.np_random.integers(WEEK)])
        self._past = []
        return self._seen()

    def step(self, action: Any) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        if not self.action_masks()[int(action)]:
            raise ValueError(f"there is no room for {int(action)} lots")
        demand = np.array([self.np_random.poisson(self.rules.mean(self._day)[0])])
        self._stock, self._ordered, reward = self.rules.step(self._stock, self._ordered, demand, np.array([action]))
        self._day = self._day + 1
        self._past.append((int(self._stock[0]), int(demand[0]), int(action)))
        observation, info = self._seen()
        return observation, float(reward[0]), False, False, info

    def action_masks(self) -> NDArray[np.bool_]:
        """(lots + 1,)"""
        found: NDArray[np.bool_] = self.rules.masks(self._stock, self._ordered)[0]
        return found

    def batched(self, n: int) -> InventoryBatch:
        """As many warehouses of this kind in one, stepped as arrays."""
        return InventoryBatch(n, self.rules, self.max_episode_steps)

    def get_state(self) -> dict[str, Any]:
        """Everything that the future depends on, as JSON."""
        return {
            "stock": self._stock.tolist(), "ordered": self._ordered.tolist(), "day": self._day.tolist(),
            "random": self.np_random.bit_generator.state, "past": [list(one) for one in self._past],
        }  # fmt: skip

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._stock, self._day = np.array(state["stock"], np.int64), np.array(state["day"], np.int64)
        self._ordered = np.array(state["ordered"], np.int64).reshape(1, self.rules.lead_time)
        self.np_random.bit_generator.state = state["random"]
        self._past = [(int(a), int(b), int(c)) for a, b, c in state["past"]]

    def render(self) -> NDArray[np.uint8]:
        """(120, 320, 3): bars of the stock of the last days, orders below them, today's at the right."""
        frame = np.full((120, 320, 3), 255, np.uint8)
        for number, (stock, demand, lots) in enumerate(self._past[-32:]):
            left = number * 10 + 1
            frame[90 - round(80 * stock / self.rules.capacity) : 90, left : left + 8] = (47, 111, 237)
            missed = 90 - min(85, round(80 * demand / self.rules.capacity))
            frame[missed : missed + 2, left : left + 8] = (232, 89, 12)
            frame[94 : 94 + 3 * lots, left : left + 8] = (43, 154, 102)
        return frame

    def _seen(self) -> tuple[Floats, dict[str, Any]]:
        observation: Floats = self.rules.observations(self._stock, self._ordered, self._day)[0]
        return observation, {"action_mask": self.action_masks().astype(np.int8)}


class InventoryBatch(VectorEnv):
    """n warehouses as arrays: one NumPy call where n environments would make n Python calls.

    Those whose days are over are truncated, and begun anew by `reset(options={"reset_mask": mask (n,)})`.
    """

    def __init__(self, n: int, rules: _Rules, days: int) -> None:
        self.num_envs, self.rules, self.days = n, rules, days
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.single_observation_space, self.single_action_space = rules.observation_space, rules.action_space
        self.observation_space = gymnasium.vector.utils.batch_space(rules.observation_space, n)
        self.action_space = gymnasium.vector.utils.batch_space(rules.action_space, n)
        self.random = np.random.default_rng()
        self.stock, self.day, self.age = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.ordered = np.zeros((n, rules.lead_time), np.int64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        if seed is not None:
            self.random = np.random.default_rng(seed)
        which = (options or {}).get("reset_mask")
        self._begin(np.arange(self.num_envs) if which is None else np.flatnonzero(which))
        return self._seen(), {"action_mask": self.action_masks()}

    def step(self, actions: NDArray[Any]) -> tuple[Floats, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        if not self.action_masks()[np.arange(self.num_envs), np.asarray(actions, dtype=np.int64)].all():
            raise ValueError("there is no room for an order")
        demand = self.random.poisson(self.rules.mean(self.day))
        self.stock, self.ordered, rewards = self.rules.step(self.stock, self.ordered, demand, actions)
        self.day = self.day + 1
        self.age = self.age + 1
        truncated = self.age >= self.days
        return self._seen(), rewards, np.zeros(self.num_envs, np.bool_), truncated, {"action_mask": self.action_masks()}

    def action_masks(self) -> NDArray[np.bool_]:
        """(n, lots + 1)"""
        return self.rules.masks(self.stock, self.ordered)

    def get_state(self) -> dict[str, Any]:
        """Everything that the future depends on, as JSON."""
        arrays = {name: getattr(self, name).tolist() for name in ("stock", "ordered", "day", "age")}
        return {**arrays, "random": self.random.bit_generator.state}

    def set_state(self, state: Mapping[str, Any]) -> None:
        for name in ("stock", "day", "age"):
            setattr(self, name, np.array(state[name], np.int64))
        self.ordered = np.array(state["ordered"], np.int64).reshape(self.num_envs, self.rules.lead_time)
        self.random.bit_generator.state = state["random"]

    def _begin(self, which: NDArray[np.intp]) -> None:
        n = len(which)
        self.stock[which] = self.random.integers(self.rules.capacity // 2 + 1, size=n)
        self.day[which] = self.random.integers(WEEK, size=n)
        self.ordered[which], self.age[which] = 0, 0

    def _seen(self) -> Floats:
        return self.rules.observations(self.stock, self.ordered, self.day)
