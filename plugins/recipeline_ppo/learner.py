"""Training, one rollout and one update at a time, from which it can be stopped and taken up again to the bit."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recipeline.errors import Damaged, DataError, MissingLibrary, Problem, RecipeError, TrainingFailed
from recipeline.operations import DiscountedNormalizer, WindowedNormalizer
from recipeline_ppo import rollout
from recipeline_ppo.config import SCHEDULED, Config
from recipeline_ppo.distributions import Distribution
from recipeline_ppo.environments import Environments
from recipeline_ppo.normalizer import ObservationNormalizer
from recipeline_ppo.numpy_backend import NumpyBackend
from recipeline_ppo.policy import Policy
from recipeline_ppo.ppo import Batch, explained_variance
from recipeline_ppo.spaces import ActionSpec

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class State:
    """All of a training: `arrays` for a file of tensors, `info` as JSON."""

    arrays: dict[str, NDArray[Any]]
    info: dict[str, Any]


class Capture(Mapping[str, Any]):
    """{"arrays": …, "info": …} of a `State`, made when somebody looks: of most checkpoints nobody ever does.

    buffers  every number that was learned, not by name
    rewards  state of the reward normaliser, if there is one
    """

    def __init__(self, buffers: tuple[NDArray[Any], ...], rewards: Mapping[str, Any] | None, make: Callable[[], State]) -> None:
        self.buffers, self.rewards, self._make = buffers, rewards, make
        self._made: dict[str, Any] | None = None

    def __getitem__(self, key: str) -> Any:
        if self._made is None:
            state = self._make()
            self._made = {"arrays": state.arrays, "info": state.info}
        return self._made[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("arrays", "info"))

    def __len__(self) -> int:
        return 2

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return {key: copy.deepcopy(self[key], memo) for key in self}


class Backend(Protocol):
    """The numerical part: `numpy_backend` or `torch_backend`."""

    pi: Distribution
    memory: Floats | None

    def policy(self, x: Floats) -> Floats: ...
    def value(self, x: Floats, memory: Floats | None = None) -> Floats: ...
    def update(self, batch: Batch, rng: np.random.Generator, *, learning_rate: float, clip: float, ent_coef: float) -> dict[str, float]: ...
    def pinned(self) -> AbstractContextManager[None]: ...
    def sound(self) -> bool: ...
    def named(self) -> dict[str, Any]: ...
    def follow(self) -> None: ...
    def arrays(self) -> dict[str, NDArray[Any]]: ...
    def capture(self) -> tuple[tuple[NDArray[Any], ...], Callable[[], dict[str, NDArray[Any]]]]: ...
    def info(self) -> dict[str, Any]: ...
    def restore(self, arrays: Mapping[str, NDArray[Any]], info: Mapping[str, Any]) -> None: ...


class Learner:
    """PPO on some environments. RecipeError with all mistakes of `config` at once.

    One SeedSequence has children for initial weights, actions, shuffling and each environment, so that none disturbs another,
    and nothing outside (an evaluation, a picture) disturbs any.
    """

    def __init__(self, config: Config, environments: Environments, *, seed: int, normalizer: ObservationNormalizer | None = None) -> None:
        problems = config.problems(environments.n_envs)
        problems += _bounds(config, environments.action)
        if problems:
            raise RecipeError([Problem("bad-value", (field,), text, at="value") for field, text in problems])
        self.config, self.environments, self.normalizer, self.seed = config, environments, normalizer, seed
        initial, acting, shuffling, worlds = np.random.SeedSequence(seed).spawn(4)
        self._random = {"actions": np.random.Generator(np.random.PCG64(acting)), "shuffle": np.random.Generator(np.random.PCG64(shuffling))}
        self.backend = _backend(config, environments, np.random.Generator(np.random.PCG64(initial)))
        self._rewards = _reward_normalizer(config, environments.n_envs)
        self._schedules = {name: config.schedule(name) for name in SCHEDULED}
        self._told = config.as_json()
        self._set: dict[str, float] = {}
        self._broken = False
        self._spaces = {"observation": environments.observation.info(), "action": environments.action.info()}
        environments.max_nonfinite = config.max_nonfinite
        environments.start(worlds)
        self._x = self._seen(environments.observations)

    @property
    def step(self) -> int:
        """Environment steps done, exact."""
        return self.environments.steps

    def iterate(self, until: int | None = None) -> dict[str, Any]:
        """One rollout and one update. With `until` training ends at that step exactly: the last rollout is cut there, or made longer
        by less than a minibatch, so that no update is made of a few transitions.

        returns  policy_loss, value_loss, entropy, approx_kl, clip_fraction, gradient_norm, epochs as in `ppo.update`;
                 explained_variance; learning_rate, clip, ent_coef in force; episode_returns, episode_lengths of episodes that ended
                 (raw rewards); nonfinite: transitions dropped in this rollout

        Parameters or moments that are not finite are told once by NaN in the losses, and no step is done with them; where nobody
        mends them before the next call, that is TrainingFailed.
        """
        worlds, config = self.environments, self.config
        force = {name: self.hparam(name) for name in SCHEDULED}
        steps = worlds.n_envs * config.n_steps
        if until is not None:
            if until <= self.step:
                raise ValueError(f"step {self.step} is not before {until}")
            if until - self.step < steps + config.batch_size:  # too little would be left for an update of its own
                steps = until - self.step
        if not self._sound():
            return self._unsound(force)
        self._broken = False
        dropped = worlds.nonfinite
        worlds.episodes = []
        with self.backend.pinned(), np.errstate(all="ignore"):  # what is not finite is looked for, and told in the metrics
            stretch = rollout.collect(
                worlds, self.backend, self._x, self._random["actions"], steps=steps, normalizer=self.normalizer, rewards=self._rewards,
                exactly=until is not None and steps == until - self.step,
            )  # fmt: skip
            self._x = stretch.observations[-1].copy()
            batch = rollout.transitions(stretch, self.backend, gamma=config.gamma, gae_lambda=config.gae_lambda)
            told = self.backend.update(batch, self._random["shuffle"], **force) if len(batch) else _nothing()
            told["explained_variance"] = explained_variance(batch) if len(batch) else math.nan
        if not self._sound():
            told = {**told, "policy_loss": math.nan, "value_loss": math.nan}
        return {
            **told,
            **force,
            "episode_returns": [r for r, _ in worlds.episodes],
            "episode_lengths": [length for _, length in worlds.episodes],
            "nonfinite": worlds.nonfinite - dropped,
        }

    def hparam(self, name: str) -> float:
        """The value in force: the one set, or that of the schedule at this step."""
        return self._set[name] if name in self._set else self._schedules[name](self.step)

    def set_hparam(self, name: str, value: float) -> None:
        """learning_rate, clip or ent_coef from now on, instead of its schedule."""
        if name not in SCHEDULED:
            raise ValueError(f"{name} cannot change while training; {', '.join(SCHEDULED)} can")
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} is {value}; it is a number of at least 0")
        self._set[name] = float(value)

    def parameters(self) -> dict[str, Any]:
        """Parameters by name, as views that may be written to."""
        return self.backend.named()

    def policy(self) -> Policy:
        """The policy as it is now; training on does not change it."""
        arrays = {name: np.array(array, order="C") for name, array in self.backend.arrays().items() if not name.startswith("adam.")}
        return Policy.of({**arrays, **self._moments()}, self._policy_info(), network=self.config.policy)

    def state(self) -> State:
        """Copies of everything that training needs to go on as if it had never stopped."""
        captured = self.capture()
        return State(captured["arrays"], captured["info"])

    def capture(self) -> Capture:
        """The state of this moment, its numbers copied now, the rest put together when it is looked at."""
        buffers, named = self.backend.capture()
        others = {**self._moments(), "observations": self._x.copy()}
        if self.backend.memory is not None:
            others["memory"] = self.backend.memory.copy()
        worlds = self.environments.capture()
        rewards = None if self._rewards is None else self._rewards.state()
        info = {
            "step": self.step,
            "seed": self.seed,
            "backend": self.backend.info(),
            "policy": self._policy_info(),
            "random": {name: rng.bit_generator.state for name, rng in self._random.items()},
            "hparams": dict(self._set),
            "rewards": rewards,
        }
        return Capture(
            (*buffers, *others.values()),
            rewards,
            lambda: State({**named(), **others}, {**info, "environments": worlds(), "config": self._told}),
        )

    def restore(self, state: State, *, advance: int = 0) -> bool:
        """Go on from a state; with `advance` > 0 from the same state with other random numbers, for they may have led astray.

        returns  whether it is exact: False where an environment could not bring back its running episode and began another
        DataError where the state is of other spaces, networks or another number of environments; Damaged where it is incomplete
        """
        info, arrays = state.info, state.arrays
        try:
            self._same_shape(info["policy"])
            self.backend.restore(arrays, info["backend"])
            for name, rng in self._random.items():
                rng.bit_generator.state = info["random"][name]
                if advance:
                    self._random[name] = np.random.Generator(_jumped(rng.bit_generator, advance))
            if self.normalizer is not None:
                self.normalizer.restore(_moments_of(info["policy"]["normalizer"], arrays))
            if self._rewards is not None:
                self._rewards.restore(info["rewards"])
            self._set, self.seed = dict(info["hparams"]), info["seed"]
            whole = self.environments.restore(info["environments"])
            self._x = np.array(arrays["observations"], dtype=np.float32) if whole else self._seen(self.environments.observations)
            if self.backend.memory is not None:
                self.backend.memory[:] = arrays["memory"]
                self.backend.memory[np.equal(self.environments.lengths, 0)] = 0
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise Damaged(f"the checkpoint is incomplete: {error}", hint="take an older one") from None
        self._broken = False
        return whole

    # --- within ----------------------------------------------------------------------------------------

    def _seen(self, rows: Floats) -> Floats:
        """Present observations as the networks see them; the normaliser learns from them."""
        if self.normalizer is None:
            return rows.copy()
        self.normalizer.update(rows)
        return self.normalizer.transform(rows)

    def _sound(self) -> bool:
        moments = self.normalizer.state() if self.normalizer is not None else {}
        return self.backend.sound() and all(bool(np.isfinite(value).all()) for value in moments.values())

    def _unsound(self, force: Mapping[str, float]) -> dict[str, Any]:
        if self._broken:
            raise TrainingFailed(
                f"parameters of the policy are not finite at step {self.step}",
                hint="lower learning_rate, or let operations roll back", slug="nonfinite-parameters",
            )  # fmt: skip
        self._broken = True
        return {
            **_nothing(),
            "explained_variance": math.nan,
            **force,
            "epochs": 0,
            "episode_returns": [],
            "episode_lengths": [],
            "nonfinite": 0,
        }

    def _moments(self) -> dict[str, NDArray[Any]]:
        if self.normalizer is None:
            return {}
        return {f"normalizer.{name}": value for name, value in self.normalizer.state().items() if name != "count"}

    def _policy_info(self) -> dict[str, Any]:
        normal = self.normalizer
        return {
            "network": self.config.network,
            "hidden": list(self.config.hidden),
            "activation": self.config.activation,
            "squash": self.config.squash,
            **self._spaces,
            "normalizer": None if normal is None else {"clip": normal.clip, "epsilon": normal.epsilon, "count": normal.count},
        }

    def _same_shape(self, other: Mapping[str, Any]) -> None:
        mine = self._policy_info()
        for name in ("network", "hidden", "activation", "squash", "observation", "action"):
            if other[name] != mine[name]:
                raise DataError(f"the checkpoint has another {name}: {other[name]}, not {mine[name]}", slug="other-policy")
        if (other["normalizer"] is None) != (mine["normalizer"] is None):
            one, two = ("with", "without") if other["normalizer"] else ("without", "with")
            raise DataError(f"the checkpoint was trained {one} observation_normalizer, this training is {two}", slug="other-policy")


def _backend(config: Config, environments: Environments, rng: np.random.Generator) -> Backend:
    if config.numpy_suffices():
        return NumpyBackend(config, environments.observation, environments.action, rng)
    try:
        from recipeline_ppo.torch_backend import RecurrentBackend, TorchBackend
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        raise MissingLibrary("torch", "torch", "the torch backend of PPO needs it") from None
    kind = RecurrentBackend if config.policy == "lstm" else TorchBackend
    return kind(config, environments.observation, environments.action, rng, environments.n_envs)


def _reward_normalizer(config: Config, n_envs: int) -> DiscountedNormalizer | WindowedNormalizer | None:
    if config.reward_normalizer == "discounted":
        return DiscountedNormalizer(n_envs, gamma=config.gamma)
    return WindowedNormalizer() if config.reward_normalizer == "windowed" else None


def _bounds(config: Config, action: ActionSpec) -> list[tuple[str, str]]:
    if config.squash and (action.kind != "box" or not np.isfinite([*action.low, *action.high]).all()):
        return [("squash", "tanh needs a Box of actions with finite bounds; set squash: false")]
    return []


def _moments_of(info: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    moments = {key: arrays[f"normalizer.{key}"] for key in ("mean", "square") if info["count"]}
    return {"count": info["count"], **moments}


def _jumped(bits: np.random.BitGenerator, times: int) -> np.random.BitGenerator:
    assert isinstance(bits, np.random.PCG64)
    return bits.jumped(times)


def _nothing() -> dict[str, float]:
    """What an update that was not made tells."""
    return {**dict.fromkeys(("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction", "gradient_norm"), math.nan), "epochs": 0}


def with_total(config: Config, total_steps: int) -> Config:
    """The same training, longer or shorter; schedules without `steps` of their own stretch with it."""
    return replace(config, total_steps=total_steps)
