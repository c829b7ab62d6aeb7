"""The networks, the optimiser and the update on numpy, for multilayer perceptrons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipeline_ppo import ppo
from recipeline_ppo.config import Config
from recipeline_ppo.distributions import DiagGaussian, distribution
from recipeline_ppo.networks import ActorCritic, Layout
from recipeline_ppo.spaces import ActionSpec, ObservationSpec
from recipeline_ppo.threads import single_threaded

Floats = NDArray[np.floating[Any]]


class NumpyBackend:
    """One policy with its value and its optimiser."""

    memory: Floats | None = None

    def __init__(self, config: Config, observation: ObservationSpec, action: ActionSpec, rng: np.random.Generator) -> None:
        self.config = config
        self.pi = distribution(action, squash=config.squash)
        self.network = ActorCritic(Layout(observation.width, config.hidden, self.pi.outputs, self.pi.free), activation=config.activation)
        self.network.initialise(rng, config.log_std)
        self.adam = ppo.Adam(self.network.layout.size, config.adam_epsilon)
        if isinstance(self.pi, DiagGaussian):
            self.pi.log_std = self.network.at["log_std"]
        self.policy = self.network.policy

    def pinned(self) -> AbstractContextManager[None]:
        """The threads that this backend wants while it works."""
        return single_threaded()

    def value(self, x: Floats, memory: Floats | None = None) -> Floats:
        return self.network.value(x)

    def update(self, batch: ppo.Batch, rng: np.random.Generator, *, learning_rate: float, clip: float, ent_coef: float) -> dict[str, float]:
        return ppo.update(
            self.network, self.pi, self.adam, batch, self.config, rng, learning_rate=learning_rate, clip=clip, ent_coef=ent_coef
        )

    def sound(self) -> bool:
        """Whether every parameter and moment is finite."""
        return all(bool(np.isfinite(a).all()) for a in (self.network.parameters, self.adam.first, self.adam.second))

    def named(self) -> dict[str, Floats]:
        """Parameters by name; views that may be written to."""
        return self.network.layout.named(self.network.parameters)

    def follow(self) -> None:
        """Nothing to do: what changes the parameters by their views has changed them everywhere."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Copies of parameters by name, and of the moments."""
        return self.capture()[1]()

    def capture(self) -> tuple[tuple[NDArray[Any], ...], Callable[[], dict[str, NDArray[Any]]]]:
        """Copies of all numbers, and what names them."""
        parameters, first, second = self.network.parameters.copy(), self.adam.first.copy(), self.adam.second.copy()
        named = self.network.layout.named
        return (parameters, first, second), lambda: {**named(parameters), "adam.first": first, "adam.second": second}

    def info(self) -> dict[str, Any]:
        return {"adam_steps": self.adam.steps}

    def restore(self, arrays: Mapping[str, NDArray[Any]], info: Mapping[str, Any]) -> None:
        """KeyError or ValueError where arrays are missing or have other shapes."""
        self.network.load(arrays)
        self.adam.first[:], self.adam.second[:] = arrays["adam.first"], arrays["adam.second"]
        self.adam.steps = info["adam_steps"]
