"""A square to walk through: from one corner to the other, over a floor that is slippery."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # north, east, south, west


@dataclass(frozen=True)
class Gridworld:
    """Size × size cells; every step costs 1, the far corner ends the episode; with probability `slip` a random move is made."""

    size: int
    slip: float

    @property
    def goal(self) -> tuple[int, int]:
        return self.size - 1, self.size - 1

    def step(self, state: tuple[int, int], action: int, rng: np.random.Generator) -> tuple[tuple[int, int], float, bool]:
        if rng.random() < self.slip:
            action = int(rng.integers(4))
        row = min(max(state[0] + MOVES[action][0], 0), self.size - 1)
        column = min(max(state[1] + MOVES[action][1], 0), self.size - 1)
        return (row, column), -1.0, (row, column) == self.goal


class GridworldLoader:
    """Brings the environment; there are no rows to load."""

    def __init__(self, size: int = 5, slip: float = 0.1) -> None:
        self.size, self.slip = size, slip

    def load(self) -> Gridworld:
        return Gridworld(self.size, self.slip)

    def fingerprint(self) -> str:
        return f"gridworld {self.size} {self.slip}"
