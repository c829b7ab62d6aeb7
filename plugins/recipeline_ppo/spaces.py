"""Observations and actions as plain data: what a policy needs to know of an environment, without the library that it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipeline.errors import DataError

MASK_KEY = "action_mask"  # of a Dict observation, and of the info that `reset` and `step` give

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Leaf:
    """One array inside an observation: `path` of keys to it, and how it becomes numbers.

    box           the values over `scale`: 255 for an image of bytes, else 1        multibinary   the bits
    discrete      one of `sizes[0]` places      multidiscrete one of `sizes[i]` places for each entry
    """

    path: tuple[str, ...]
    kind: str
    shape: tuple[int, ...]
    sizes: tuple[int, ...] = ()
    start: int = 0
    scale: float = 1.0

    @property
    def width(self) -> int:
        return sum(self.sizes) if self.sizes else int(np.prod(self.shape, dtype=np.int64))

    def write(self, value: Any, row: Floats) -> None:
        """`value` as `width` numbers into `row`; ValueError where it does not fit."""
        if self.kind in ("box", "multibinary"):
            row[:] = np.asarray(value, dtype=np.float32).reshape(-1)
            if self.scale != 1.0:
                row /= self.scale
            return
        numbers = np.asarray(value).reshape(-1) - self.start
        if len(numbers) != len(self.sizes) or (numbers < 0).any() or (numbers >= self.sizes).any():
            raise ValueError(f"{value} is outside of the space")
        row[:] = 0
        row[np.cumsum((0, *self.sizes[:-1])) + numbers] = 1


@dataclass(frozen=True)
class ObservationSpec:
    """Observations of an environment; for a network each is a row of `width` float32.

    A Dict is flattened in the order of its sorted keys, without `action_mask`, which `masked` tells of. Discrete numbers become one-hot.
    """

    leaves: tuple[Leaf, ...]
    masked: bool = False

    @cached_property
    def width(self) -> int:
        return sum(leaf.width for leaf in self.leaves)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of the array for which a network with convolutions is built; (width,) where there are several."""
        return self.leaves[0].shape if len(self.leaves) == 1 and self.leaves[0].kind == "box" else (self.width,)

    @cached_property
    def plain(self) -> bool:
        """A Box whose values are the row."""
        return len(self.leaves) == 1 and self.leaves[0].kind == "box" and not self.leaves[0].path and self.leaves[0].scale == 1.0

    def write(self, observation: Any, row: Floats) -> None:
        """One observation into one row (width,)."""
        at = 0
        for leaf in self.leaves:
            value = observation
            for key in leaf.path:
                value = value[key]
            leaf.write(value, row[at : at + leaf.width])
            at += leaf.width

    def rows(self, observations: Any) -> Floats:
        """A batch as rows (n, width): an array (n, *shape), or a sequence of observations. DataError where one does not fit."""
        try:
            if self.plain and isinstance(observations, np.ndarray):
                if observations.dtype != np.float32:
                    with np.errstate(over="ignore"):  # it becomes infinite, which who asked for rows has to look for
                        observations = observations.astype(np.float32)
                return np.ascontiguousarray(observations).reshape(len(observations), self.width)
            found = np.empty((len(observations), self.width), dtype=np.float32)
            for row, observation in zip(found, observations, strict=True):
                self.write(observation, row)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise DataError(f"an observation does not fit the space of the policy, {self}: {error}") from None
        return found

    def __str__(self) -> str:
        told = [f"{'.'.join(leaf.path)} " * bool(leaf.path) + f"{leaf.kind} {list(leaf.sizes or leaf.shape)}" for leaf in self.leaves]
        return told[0] if len(told) == 1 else f"dict of {', '.join(told)}"

    def info(self) -> dict[str, Any]:
        """As JSON; `of` reads it."""
        leaves = [
            {"path": list(x.path), "kind": x.kind, "shape": list(x.shape), "sizes": list(x.sizes), "start": x.start, "scale": x.scale}
            for x in self.leaves
        ]
        return {"leaves": leaves, "masked": self.masked}

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> ObservationSpec:
        leaves = tuple(
            Leaf(tuple(x["path"]), x["kind"], tuple(x["shape"]), tuple(x["sizes"]), x["start"], x["scale"]) for x in info["leaves"]
        )
        return cls(leaves, info["masked"])

    @classmethod
    def from_space(cls, space: Any) -> ObservationSpec:
        """Of a gymnasium space; DataError names one that is not supported."""
        masked = type(space).__name__ == "Dict" and MASK_KEY in space.spaces
        leaves = tuple(_leaves(space, ()))
        if not leaves:
            raise DataError("the observation space has nothing but a mask in it", slug="unsupported-space")
        return cls(leaves, masked)


def _leaves(space: Any, path: tuple[str, ...]) -> Sequence[Leaf]:
    name = type(space).__name__
    if name == "Dict":
        return [leaf for key, inner in sorted(space.spaces.items()) if (*path, key) != (MASK_KEY,) for leaf in _leaves(inner, (*path, key))]
    if name == "Box":
        scale = 255.0 if space.dtype == np.uint8 and len(space.shape) >= 2 else 1.0
        return [Leaf(path, "box", tuple(int(n) for n in space.shape), scale=scale)]
    if name == "Discrete":
        return [Leaf(path, "discrete", (), (int(space.n),), int(space.start))]
    if name == "MultiBinary":
        return [Leaf(path, "multibinary", tuple(int(n) for n in space.shape))]
    if name == "MultiDiscrete" and not np.any(getattr(space, "start", 0)):
        return [Leaf(path, "multidiscrete", tuple(space.nvec.shape), tuple(int(n) for n in space.nvec.reshape(-1)))]
    where = f" at {'.'.join(path)}" if path else ""
    raise DataError(
        f"observation space {name}{where} is not supported",
        hint="use Box, Discrete, MultiDiscrete, MultiBinary or a Dict of them",
        slug="unsupported-space",
    )


@dataclass(frozen=True)
class ActionSpec:
    """Actions of an environment.

    discrete       one of sizes[0], from `start`                  mask of `sizes[0]`
    multidiscrete  one of each of `sizes`                         mask of sum(sizes), choice after choice
    multibinary    sizes[0] bits                                  mask of 2 * sizes[0]: may it be 0, may it be 1, bit after bit
    box            real numbers of `shape` within `low`, `high`   no mask
    """

    kind: str
    sizes: tuple[int, ...] = ()
    shape: tuple[int, ...] = ()
    start: int = 0
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    dtype: str = "int64"

    @property
    def mask_width(self) -> int:
        return {"discrete": sum(self.sizes), "multidiscrete": sum(self.sizes), "multibinary": 2 * sum(self.sizes), "box": 0}[self.kind]

    @property
    def width(self) -> int:
        """Numbers in one action; a discrete one is a single number."""
        return {"discrete": 1, "multidiscrete": len(self.sizes), "multibinary": sum(self.sizes), "box": len(self.low)}[self.kind]

    def native(self, actions: NDArray[Any]) -> NDArray[Any]:
        """A batch as the environment takes it: (n,) or (n, *shape), clipped to the bounds of a Box."""
        if self.kind == "discrete":
            return actions + self.start if self.start else actions
        if self.kind == "box":
            bounded: NDArray[Any] = np.minimum(np.maximum(actions, self._low), self._high)
            return bounded.reshape(len(actions), *self.shape).astype(self.dtype, copy=False)
        return actions.reshape(len(actions), *self.shape).astype(self.dtype, copy=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_low", np.asarray(self.low, dtype=np.float32))
        object.__setattr__(self, "_high", np.asarray(self.high, dtype=np.float32))

    _low: Any = field(init=False, repr=False, compare=False)  # the bounds as arrays
    _high: Any = field(init=False, repr=False, compare=False)

    def info(self) -> dict[str, Any]:
        """As JSON, an infinite bound as null; `of` reads it."""

        def bounds(values: tuple[float, ...]) -> list[float | None]:
            return [v if np.isfinite(v) else None for v in values]

        return {
            "kind": self.kind, "sizes": list(self.sizes), "shape": list(self.shape), "start": self.start,
            "low": bounds(self.low), "high": bounds(self.high), "dtype": self.dtype,
        }  # fmt: skip

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> ActionSpec:
        low = tuple(-np.inf if v is None else v for v in info["low"])
        high = tuple(np.inf if v is None else v for v in info["high"])
        return cls(info["kind"], tuple(info["sizes"]), tuple(info["shape"]), info["start"], low, high, info["dtype"])

    @classmethod
    def from_space(cls, space: Any) -> ActionSpec:
        """Of a gymnasium space; DataError names one that is not supported."""
        name = type(space).__name__
        shape = tuple(int(n) for n in space.shape or ())
        if name == "Discrete":
            return cls("discrete", (int(space.n),), start=int(space.start))
        if name == "MultiDiscrete" and not np.any(getattr(space, "start", 0)):
            return cls("multidiscrete", tuple(int(n) for n in space.nvec.reshape(-1)), shape, dtype=str(space.dtype))
        if name == "MultiBinary":
            return cls("multibinary", (int(np.prod(shape)),), shape, dtype=str(space.dtype))
        if name == "Box" and np.issubdtype(space.dtype, np.floating):
            low, high = (tuple(float(v) for v in bound.reshape(-1)) for bound in (space.low, space.high))
            return cls("box", (), shape, 0, low, high, str(space.dtype))
        told = f"{name} of {space.dtype}" if name in ("Box", "MultiDiscrete") else name
        raise DataError(
            f"action space {told} is not supported",
            hint="use Discrete, MultiDiscrete, MultiBinary or a Box of floats",
            slug="unsupported-space",
        )
