"""A trainer for loops written by hand: collect, update, look, decide.

    trainer = PPOTrainer(state_dim=40, action_dim=60)
    for step in range(10_000):
        reward = trainer.collect_rollout(env, n_steps=2048)
        told = trainer.train_step(n_epochs=10, batch_size=64)

It is a `Learner` taken apart; recipes and `training.train` use that as it is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recipeline.errors import DataError, MissingLibrary, RecipelineError, TrainingFailed
from recipeline.stores import files
from recipeline_ppo import rollout
from recipeline_ppo.checkpoints import read_checkpoint, write_checkpoint
from recipeline_ppo.config import SCHEDULED, Config
from recipeline_ppo.environments import Environments
from recipeline_ppo.learner import Learner, State
from recipeline_ppo.policy import Policy
from recipeline_ppo.ppo import Batch, explained_variance

RECENT = 20  # episodes whose mean return stands for training where none ended in a rollout


class PPOTrainer:
    """PPO on one environment that is given rollout by rollout.

    state_dim   numbers in an observation         action_dim  actions to choose from; for a Box the numbers in an action
    config      hyperparameters; learning_rate, ent_coef and clip may be changed at any time by `optimizer`, `entropy_coef`, `clip_epsilon`

    `Config(backend="torch")`, or another `policy` than mlp, trains with torch; everything else stays as it is. `network.state_dict()`
    has tensors where there is no numpy network behind them.

    Until the first rollout shows the environment, actions are taken to be Discrete(action_dim).
    """

    def __init__(self, state_dim: int, action_dim: int, *, config: Config | None = None, seed: int = 0) -> None:
        self.state_dim, self.action_dim, self.seed = state_dim, action_dim, seed
        self.config = config or Config(ent_coef=0.01)
        self._env: Any = None
        self._batch: Batch | None = None
        self._updates = self._loads = 0
        self._recent: list[float] = []
        self._learner = _Stepwise(self.config, Environments(_blank(state_dim, action_dim)), seed=seed)
        self.network, self.optimizer = Network(self), Optimizer(self)

    @property
    def learner(self) -> Learner:
        return self._learner

    @property
    def entropy_coef(self) -> float:
        return self._learner.hparam("ent_coef")

    @entropy_coef.setter
    def entropy_coef(self, value: float) -> None:
        self._learner.set_hparam("ent_coef", value)

    @property
    def clip_epsilon(self) -> float:
        return self._learner.hparam("clip")

    @clip_epsilon.setter
    def clip_epsilon(self, value: float) -> None:
        self._learner.set_hparam("clip", value)

    def collect_rollout(self, env: Any, n_steps: int = 2048) -> float:
        """Steps in the environment under the present policy; `train_step` learns from them.

        returns  the mean return of the episodes that ended; where none did, that of the last known ones, and before the first the
                 reward of the running one so far
        DataError where observations or actions are not of the trainer's sizes, or are others than it was trained on
        """
        if n_steps < 1:
            raise DataError(f"n_steps is {n_steps}, and must be at least 1")
        if env is not self._env:
            self._meet(env)
        self._batch = self._learner.collect(n_steps)
        worlds = self._learner.environments
        self._recent = [*self._recent, *(r for r, _ in worlds.episodes)][-RECENT:]
        ended = [r for r, _ in worlds.episodes] or self._recent
        return math.fsum(ended) / len(ended) if ended else float(worlds.returns[0])

    def train_step(self, n_epochs: int = 10, batch_size: int = 64) -> dict[str, float]:
        """One update from the last rollout: policy_loss, value_loss, entropy, approx_kl, clip_fraction, gradient_norm,
        explained_variance, epochs. A NaN among them says that parameters or gradients are not finite.
        """
        if self._batch is None:
            raise TrainingFailed("there is no rollout to learn from", hint="call collect_rollout first; each rollout is learned from once")
        if n_epochs < 1 or batch_size < 1:
            raise DataError(f"n_epochs and batch_size are at least 1; got {n_epochs} and {batch_size}")
        batch, self._batch = self._batch, None
        self._updates += 1
        return self._learner.learn(batch, n_epochs, min(batch_size, max(1, len(batch))))

    def policy(self) -> Policy:
        """The policy as it is now; training on does not change it."""
        return self._learner.policy()

    def save_checkpoint(self, path: str | Path) -> None:
        """Everything that training needs to go on, as a folder (`checkpoints`)."""
        step = self._learner.step
        info = {"step": step, "status": "candidate", "score": None, "pinned": False}
        write_checkpoint(path, {"state": self._whole()}, info=info)

    def load_checkpoint(self, path: str | Path, *, exact: bool = False) -> None:
        """Go back to a checkpoint of an `OperationsManager` or of `save_checkpoint`: parameters, moments, hyperparameters, environment.

        The random stream moves on, so that what led astray does not repeat itself; with `exact` training repeats to the bit.
        Damaged (9) where it is not what was written, DataError where it is another network's.
        """
        state = read_checkpoint(path)["state"]["state"]
        self._batch = None
        self._loads += 1
        if "learner" in state:
            kept = state["learner"]
            self._learner.restore(State(kept["arrays"], kept["info"]), advance=0 if exact else self._loads)
            self._recent = list(kept.get("recent", []))
        elif state.get("model"):
            self.network.load_state_dict(state["model"])
        else:
            raise DataError("holds no network", hint="give network.state_dict() to on_training_step", where=files.shown(path))

    # --- inside ---

    def _whole(self) -> dict[str, Any]:
        state = self._learner.state()
        return {"learner": {"arrays": state.arrays, "info": state.info, "recent": list(self._recent)}}

    def _meet(self, env: Any) -> None:
        """An environment that was not seen before: of the same spaces, or the first one, by which the networks are made."""
        worlds = Environments(_factory(env))
        if not _copies(env):
            worlds.exact = False
        now = self._learner.environments
        if (worlds.observation.info(), worlds.action.info()) != (now.observation.info(), now.action.info()):
            width, action = worlds.observation.width, worlds.action
            size = sum(action.sizes) if action.sizes else action.width
            if width != self.state_dim or size != self.action_dim:
                told = f"the environment has {width} numbers in an observation and {size} in an action"
                raise DataError(f"{told}; the trainer has {self.state_dim} and {self.action_dim}", slug="other-environment")
            if self._updates or self._loads:
                told = "the environment has other spaces than the one trained on"
                raise DataError(told, hint="make a PPOTrainer of its own for it", slug="other-environment")
            chosen = {name: self._learner.hparam(name) for name in SCHEDULED}
            self._learner = _Stepwise(self.config, worlds, seed=self.seed)
            for name, value in chosen.items():
                self._learner.set_hparam(name, value)
        else:
            self._learner.move(worlds)
        self._env = env


class Network:
    """The networks as a mapping of named arrays, as torch modules have it."""

    def __init__(self, trainer: PPOTrainer) -> None:
        self._trainer = trainer

    def state_dict(self) -> StateDict:
        """Parameters by name; not copies. A checkpoint made of it holds all of the training."""
        return StateDict(self._trainer._learner.parameters(), self._trainer._whole)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Parameters from arrays or tensors of the same names and shapes; DataError names what differs."""
        mine = self._trainer._learner.parameters()
        different = mine.keys() ^ state.keys()
        if different:
            raise DataError(f"parameters differ: {', '.join(sorted(different))}", slug="other-policy")
        for name, array in mine.items():
            if tuple(array.shape) != tuple(state[name].shape):
                raise DataError(f"has shape {list(state[name].shape)}, not {list(array.shape)}", slug="other-policy", where=name)
        for name, array in mine.items():
            value = state[name]
            value = value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
            if hasattr(array, "detach"):
                array.detach().copy_(array.new_tensor(value))
            else:
                array[...] = value
        self._trainer._learner.backend.follow()


class StateDict(dict[str, Any]):
    """Parameters by name; `whole()` gives the state of the training that they belong to."""

    def __init__(self, parameters: Mapping[str, Any], whole: Callable[[], dict[str, Any]]) -> None:
        super().__init__(parameters)
        self.whole = whole


class Optimizer:
    """What is in force of the optimiser: `param_groups[0]["lr"]` may be read and written."""

    def __init__(self, trainer: PPOTrainer) -> None:
        self.param_groups = [Group(trainer)]


class Group(MutableMapping[str, Any]):
    """lr; eps and betas are fixed."""

    def __init__(self, trainer: PPOTrainer) -> None:
        self._trainer = trainer

    def __getitem__(self, key: str) -> Any:
        if key == "lr":
            return self._trainer._learner.hparam("learning_rate")
        return {"eps": self._trainer.config.adam_epsilon, "betas": (0.9, 0.999)}[key]

    def __setitem__(self, key: str, value: Any) -> None:
        if key != "lr":
            raise DataError(f"{key} cannot change while training; lr can")
        self._trainer._learner.set_hparam("learning_rate", value)

    def __delitem__(self, key: str) -> None:
        raise DataError(f"{key} cannot be removed")

    def __iter__(self) -> Iterator[str]:
        return iter(("lr", "eps", "betas"))

    def __len__(self) -> int:
        return 3


class _Stepwise(Learner):
    """A learner whose rollout and update are called one by one."""

    def collect(self, steps: int) -> Batch:
        worlds, config = self.environments, self.config
        worlds.episodes = []
        self.backend.follow()  # whoever holds the state_dict may have written to it
        if not self._sound():
            raise TrainingFailed(
                f"parameters of the policy are not finite at step {self.step}",
                hint="load a checkpoint, and lower the learning rate",
                slug="nonfinite-parameters",
            )
        with self.backend.pinned(), np.errstate(all="ignore"):
            stretch = rollout.collect(
                worlds, self.backend, self._x, self._random["actions"], steps=steps, normalizer=self.normalizer, rewards=self._rewards
            )
            self._x = stretch.observations[-1].copy()
            return rollout.transitions(stretch, self.backend, gamma=config.gamma, gae_lambda=config.gae_lambda)

    def learn(self, batch: Batch, epochs: int, batch_size: int) -> dict[str, float]:
        backend: Any = self.backend
        if not len(batch):
            raise TrainingFailed("every transition of the rollout had a NaN or infinite reward or observation", slug="nonfinite-rollout")
        backend.config = replace(self.config, n_steps=max(self.config.n_steps, batch_size), epochs=epochs, batch_size=batch_size)
        with backend.pinned(), np.errstate(all="ignore"):
            told = dict(backend.update(batch, self._random["shuffle"], **{name: self.hparam(name) for name in SCHEDULED}))
            told["explained_variance"] = explained_variance(batch)
        if not self._sound():
            told = {**told, "policy_loss": math.nan, "value_loss": math.nan}
        return told

    def move(self, worlds: Environments) -> None:
        """Go on in another environment of the same spaces."""
        worlds.max_nonfinite = self.config.max_nonfinite
        worlds.start(np.random.SeedSequence([self.seed, self.step]))
        worlds.steps, worlds.nonfinite = self.environments.steps, self.environments.nonfinite
        self.environments = worlds
        self._x = self._seen(worlds.observations)
        if self.backend.memory is not None:
            self.backend.memory[:] = 0  # an episode begins


def _blank(state_dim: int, action_dim: int) -> Callable[[], Any]:
    """An environment that only has its spaces."""
    try:
        from gymnasium import spaces
    except ImportError:
        raise MissingLibrary("gymnasium", "ppo") from None

    class Blank:
        observation_space = spaces.Box(-np.inf, np.inf, (state_dim,), np.float32)
        action_space = spaces.Discrete(action_dim)

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            return np.zeros(state_dim, dtype=np.float32), {}

        def step(self, action: Any) -> Any:
            raise TrainingFailed("there is no environment yet", hint="give one to collect_rollout")

    return Blank


def _factory(env: Any) -> Callable[[], Any]:
    """The environment itself first, copies of it afterwards."""
    given = [env]
    return lambda: given.pop() if given else copy.deepcopy(env)


def _copies(env: Any) -> bool:
    """Whether a copy of the environment can be made, on which the replay of an episode is tried out."""
    try:
        copy.deepcopy(env)
    except RecipelineError:
        raise
    except Exception:  # noqa: BLE001  somebody else's environment; without a copy its episodes are not brought back, and that is said
        return False
    return True
