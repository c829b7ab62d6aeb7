"""A hyperparameter's value for every step of training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

Shape = Literal["constant", "linear", "cosine", "exponential", "piecewise"]


@dataclass(frozen=True)
class Schedule:
    """A value for every step: `start` at step 0 (after `warm_up` steps of rising from 0), `end` from step `steps` on.

    linear       start + (end - start) p                          p = progress from 0 to 1
    cosine       end + (start - end) (1 + cos(pi p)) / 2          Loshchilov and Hutter 2017
    exponential  start (end / start)^p, both positive
    piecewise    straight lines through points ((step, value), …)
    """

    shape: Shape = "constant"
    start: float = 0.0
    end: float = 0.0
    steps: int = 1
    points: tuple[tuple[float, float], ...] = ()
    warm_up: int = 0

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ValueError(f"schedule is one of {', '.join(get_args(Shape))}; got {self.shape!r}")
        if self.shape == "exponential" and not (self.start > 0 and self.end > 0):
            raise ValueError(f"an exponential schedule runs between positive values; got {self.start} to {self.end}")
        if self.shape == "piecewise" and (not self.points or list(self.points) != sorted(self.points)):
            raise ValueError("a piecewise schedule has points (step, value) with ascending steps")
        if self.warm_up < 0 or (self.shape not in ("constant", "piecewise") and self.steps <= self.warm_up):
            raise ValueError(f"a {self.shape} schedule needs more steps ({self.steps}) than warm_up ({self.warm_up})")

    @classmethod
    def of(cls, spec: float | Mapping[str, Any], total: int = 1) -> Schedule:
        """From a recipe: a number, or {schedule, start, end, steps, points, warm_up}; `total` steps where `steps` is not given."""
        if not isinstance(spec, Mapping):
            return cls("constant", start=float(spec))
        known = dict(spec)
        known["shape"] = known.pop("schedule", "constant")
        known["points"] = tuple((float(s), float(v)) for s, v in known.get("points", ()))
        return cls(**{"steps": total, **known})

    def __call__(self, step: float) -> float:
        if step < self.warm_up:
            return self(self.warm_up) * (step + 1) / (self.warm_up + 1)
        if self.shape == "constant":
            return self.start
        if self.shape == "piecewise":
            return float(np.interp(step, [s for s, _ in self.points], [v for _, v in self.points]))
        p = (step - self.warm_up) / (self.steps - self.warm_up)
        if not 0.0 < p < 1.0:  # the ends exactly, whatever the formulas round to
            return self.end if p > 0 else self.start
        if self.shape == "linear":
            return self.start + (self.end - self.start) * p
        if self.shape == "cosine":
            return self.end + (self.start - self.end) * (1 + math.cos(math.pi * p)) / 2
        return float(self.start * (self.end / self.start) ** p)
