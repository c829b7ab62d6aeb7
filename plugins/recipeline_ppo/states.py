"""States of an environment as columns of a frame, and back: what batch, server and library are asked about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recipeline.errors import DataError
from recipeline.schema import Column, InputSchema
from recipeline_ppo.spaces import MASK_KEY, ActionSpec, Leaf, ObservationSpec

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 5  # mistakes that one message lists


class States(NamedTuple):
    """What a policy is asked about: observations (n, d) float32 as a network reads them, masks (n, k) or None."""

    observations: NDArray[np.float32]
    masks: NDArray[np.bool_] | None

    def __len__(self) -> int:
        return len(self.observations)


@dataclass(frozen=True)
class StateColumns:
    """The columns of a state: one for each number of an observation, one for each action that a mask may forbid.

    Named `observation_0` …, in a Dict by its keys; one number alone has no index. Discrete numbers are int64 columns.

    low, high  bounds of each column; None where there is none
    masked     the environment gives masks, so a state has one
    """

    observation: ObservationSpec
    action: ActionSpec
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    masked: bool = False
    names: tuple[str, ...] = field(init=False)
    masks: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = tuple(name for leaf in self.observation.leaves for name in _names(leaf))
        twice = sorted({name for name in names if names.count(name) > 1 or name.startswith(f"{MASK_KEY}_")})
        if twice:
            raise DataError(f"two entries of the observation would be called {twice[0]}", hint="rename the keys of the Dict")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "masks", tuple(f"{MASK_KEY}_{i}" for i in range(self.action.mask_width)) if self.masked else ())

    @classmethod
    def from_spaces(cls, observation: Any, action: Any, *, masked: bool) -> StateColumns:
        """Of gymnasium's spaces; DataError where one is not supported."""
        spec = ObservationSpec.from_space(observation)
        bounds = [_bounds(leaf, observation) for leaf in spec.leaves]
        low, high = (tuple(value for pair in bounds for value in pair[side]) for side in (0, 1))
        return cls(spec, ActionSpec.from_space(action), low, high, masked)

    @classmethod
    def unbounded(cls, observation: ObservationSpec, action: ActionSpec, *, masked: bool) -> StateColumns:
        """Where only the policy's side of the spaces is known."""
        free = (None,) * sum(_columns(leaf) for leaf in observation.leaves)
        return cls(observation, action, free, free, masked)

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> StateColumns:
        """From what `info` gave."""
        return cls(
            ObservationSpec.of(info["observation"]), ActionSpec.of(info["action"]), tuple(info["low"]), tuple(info["high"]), info["masked"]
        )

    def info(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "observation": self.observation.info(), "action": self.action.info(), "low": list(self.low), "high": list(self.high),
            "masked": self.masked,
        }  # fmt: skip

    @property
    def actions(self) -> tuple[str, ...]:
        """The columns of an action."""
        return ("action",) if self.action.width == 1 else tuple(f"action_{i}" for i in range(self.action.width))

    def schema(self, example: Sequence[Any], mask: Sequence[bool] | None, **extras: Any) -> InputSchema:
        """The input contract; `example` are the numbers of one observation, column by column."""
        columns = [
            Column(name, "int64" if whole else "float64", example=int(value) if whole else float(value))
            for name, whole, value in zip(self.names, self._whole, example, strict=True)
        ]
        allowed = mask if mask is not None else [True] * len(self.masks)
        columns += [Column(name, "bool", example=bool(value)) for name, value in zip(self.masks, allowed, strict=True)]
        record = {column.name: column.example for column in columns}
        return InputSchema(tuple(columns), extras={"states": self.info(), "example": [record], **extras})

    def states(self, frame: pd.DataFrame) -> States:
        """The states in a frame that fits the contract.

        Raises DataError (slug `state`) for numbers outside of the space and masks that allow nothing, with rows and columns.
        """
        numbers = frame[list(self.names)].to_numpy(np.float64).reshape(len(frame), len(self.names))
        masks = frame[list(self.masks)].to_numpy(np.bool_).reshape(len(frame), len(self.masks)) if self.masked else None
        wrong = [*self._outside(numbers), *([] if masks is None else self._nothing_allowed(masks))]
        if wrong:
            more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
            hint = "see the bounds in extras.states of the input contract"
            raise DataError("; ".join(wrong[:SHOWN]) + more, hint=hint, slug="state")
        return States(self.rows(numbers), masks)

    def numbers(self, observation: Any) -> NDArray[np.float64]:
        """(columns,): the numbers of one observation of the environment, nested as it gives them."""
        found = []
        for leaf in self.observation.leaves:
            value = observation
            for key in leaf.path:
                value = value[key]
            found.append(np.asarray(value, dtype=np.float64).reshape(-1))
        return np.concatenate(found)

    def rows(self, numbers: NDArray[np.float64]) -> NDArray[np.float32]:
        """(n, d) as a network reads them, from numbers (n, columns): discrete ones one-hot."""
        if self.observation.plain:
            return np.ascontiguousarray(numbers, dtype=np.float32)
        found = np.zeros((len(numbers), self.observation.width), np.float32)
        column = at = 0
        for leaf in self.observation.leaves:
            wide = _columns(leaf)
            part = numbers[:, column : column + wide]
            if leaf.sizes:
                places = np.cumsum((0, *leaf.sizes[:-1])) + part.astype(np.int64) - leaf.start
                np.put_along_axis(found[:, at : at + leaf.width], places, 1.0, axis=1)
            else:
                found[:, at : at + leaf.width] = part
                if leaf.scale != 1.0:
                    found[:, at : at + leaf.width] /= leaf.scale
            column, at = column + wide, at + leaf.width
        return found

    def frame(self, actions: NDArray[Any], value: NDArray[Any], log_prob: NDArray[Any]) -> pd.DataFrame:
        """The output: actions (n,) or (n, …) as the environment takes them, a column for each of their numbers."""
        import pandas as pd

        flat = np.asarray(actions).reshape(len(value), self.action.width)
        columns = {name: flat[:, i] for i, name in enumerate(self.actions)}
        return pd.DataFrame({**columns, "value": np.asarray(value, np.float64), "log_prob": np.asarray(log_prob, np.float64)})

    def outside(self, numbers: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of numbers (n, columns) lie outside of the space; compared as float32, which is how bounds are given."""
        low = np.array([-np.inf if one is None else one for one in self.low], np.float32)
        high = np.array([np.inf if one is None else one for one in self.high], np.float32)
        single = numbers.astype(np.float32)
        found: NDArray[np.bool_] = (single < low) | (single > high) | ~np.isfinite(single)
        return found

    def choices(self) -> list[slice]:
        """Parts of a mask of which each must allow something: the values of one choice."""
        sizes = [2] * self.action.sizes[0] if self.action.kind == "multibinary" else list(self.action.sizes)
        ends = np.cumsum(sizes)
        return [slice(int(end) - size, int(end)) for size, end in zip(sizes, ends, strict=True)]

    @property
    def _whole(self) -> list[bool]:
        return [leaf.kind != "box" for leaf in self.observation.leaves for _ in range(_columns(leaf))]

    def _outside(self, numbers: NDArray[np.float64]) -> list[str]:
        return [
            f"row {row}: column {self.names[column]!r}: {numbers[row, column]:g} lies outside of {self.bounds(int(column))}"
            for row, column in np.argwhere(self.outside(numbers))
        ]

    def bounds(self, column: int) -> str:
        """[-4.8, 4.8] in words."""
        low, high = self.low[column], self.high[column]
        return f"[{'-inf' if low is None else f'{low:g}'}, {'inf' if high is None else f'{high:g}'}]"

    def _nothing_allowed(self, masks: NDArray[np.bool_]) -> list[str]:
        return [
            f"row {row}: {MASK_KEY} allows no action ({self.masks[part.start]} to {self.masks[part.stop - 1]})"
            for part in self.choices()
            for row in np.flatnonzero(~masks[:, part].any(axis=1))
        ]


def _columns(leaf: Leaf) -> int:
    return len(leaf.sizes) if leaf.sizes else leaf.width


def _names(leaf: Leaf) -> list[str]:
    name = "_".join(leaf.path) or "observation"
    return [name] if leaf.kind == "discrete" else [f"{name}_{i}" for i in range(_columns(leaf))]


def _bounds(leaf: Leaf, space: Any) -> tuple[list[float | None], list[float | None]]:
    for key in leaf.path:
        space = space.spaces[key]
    if leaf.sizes:
        return [float(leaf.start)] * len(leaf.sizes), [float(leaf.start + size - 1) for size in leaf.sizes]
    if leaf.kind == "multibinary":
        return [0.0] * leaf.width, [1.0] * leaf.width
    low, high = (
        [float(one) if np.isfinite(one) else None for one in np.asarray(bound, np.float64).reshape(-1)] for bound in (space.low, space.high)
    )
    return low, high
