"""Environments that step all their copies in one call of numpy, behind the interface of `Environments`.

Such a batch has gymnasium's interface of a vector environment: `num_envs`, `single_observation_space`, `single_action_space`,
`reset(seed=, options=)`, `step(actions)`, and `metadata["autoreset_mode"]`:

Disabled   an episode that ended is begun anew by `reset(options={"reset_mask": mask})`; the mode to offer, our time limit works with it
SameStep   the batch resets by itself, the final observation is in `info["final_obs"]`
NextStep   the batch resets by itself in the next step; that step is none of the copies concerned, and is not counted
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipeline.errors import DataError
from recipeline_ppo.environments import Environments, generator_of, inner, plain, unplain
from recipeline_ppo.spaces import MASK_KEY, ActionSpec, ObservationSpec

FEWEST = 16  # copies from which a gymnasium batch costs less than as many environments; CartPole: 61 and 80 µs for 8, 63 and 164 for 16
TWIN_STEPS = 50  # for which a twin, restored from a snapshot, has to do what the batch does before snapshots count as exact


def offered(factory: Any) -> bool:
    """Whether a factory itself makes batches: `factory.batched(n_envs)`."""
    return callable(getattr(factory, "batched", None))


def find(factory: Any, first: tuple[Any, int | None] | None, n_envs: int, limit: int | None) -> Any:
    """The batch that goes with a factory, or None: one that it offers, or from `FEWEST` copies on the `spec.vector_entry_point` of an
    environment from gymnasium's registry that is wrapped in nothing.

    first  an environment of the factory and the limit that it came with; None where a batch is `offered`
    limit  of an episode's steps, where one was asked for
    """
    if first is None:
        batch = factory.batched(n_envs)
        if limit is not None and mode_of(batch) != "Disabled":
            raise DataError("max_episode_steps needs a batch with autoreset_mode Disabled", hint="leave max_episode_steps out")
        return batch
    env, own = first
    limit = limit if limit is not None else own
    spec = getattr(env, "spec", None)
    entry = getattr(spec, "vector_entry_point", None)
    if n_envs < FEWEST or entry is None or env.unwrapped is not env or inner(env, "get_state") is not None:
        return None
    module, _, name = entry.partition(":")
    kind: Any = getattr(importlib.import_module(module), name)
    given = {key: value for key, value in (getattr(spec, "kwargs", None) or {}).items() if key != "render_mode"}
    if "max_episode_steps" in inspect.signature(kind).parameters:
        given["max_episode_steps"] = limit or 2**31 - 1
    elif limit is not None and str(getattr(kind, "metadata", {}).get("autoreset_mode", "")).rpartition(".")[2] != "DISABLED":
        return None  # nobody would end its episodes in time
    return kind(num_envs=n_envs, **given)


def mode_of(batch: Any) -> str:
    mode = batch.metadata.get("autoreset_mode", "NextStep")
    return str(getattr(mode, "value", mode))


class BatchedEnvironments(Environments):
    """`Environments` over one batch.

    Where fewer copies than all are to step, all do; the surplus is neither counted nor learned from.
    """

    def __init__(self, factory: Any, n_envs: int = 1, *, max_episode_steps: int | None = None, max_nonfinite: int = 100) -> None:
        self._another = partial(find, factory, self._first, n_envs, max_episode_steps)
        if self._batch is None:
            self._batch = self._another()
        if self._batch.num_envs != n_envs:
            raise DataError(f"the batch has {self._batch.num_envs} environments, not n_envs {n_envs}")
        self.n_envs, self.max_nonfinite, self.max_episode_steps = n_envs, max_nonfinite, max_episode_steps
        self._mode = mode_of(self._batch)
        self._limit = max_episode_steps if max_episode_steps is not None and self._mode == "Disabled" else np.inf
        self.observation = ObservationSpec.from_space(self._batch.single_observation_space)
        self.action = ActionSpec.from_space(self._batch.single_action_space)
        self.observations = np.zeros((n_envs, self.observation.width), dtype=np.float32)
        self.masks = None
        self._keeps_state = callable(getattr(self._batch, "get_state", None)) and callable(getattr(self._batch, "set_state", None))
        self.exact = True if self._keeps_state else None
        self.steps = self.nonfinite = 0
        self._returns, self._lengths = np.zeros(n_envs), np.zeros(n_envs, dtype=np.int64)
        self._waiting = np.zeros(n_envs, dtype=bool)  # copies whose next step is only a reset
        self.episodes, self.finals = [], []
        self._twin: tuple[Any, int] | None = None

    @property
    def returns(self) -> list[float]:  # type: ignore[override]
        return list(self._returns.tolist())

    @property
    def lengths(self) -> list[int]:  # type: ignore[override]
        return list(self._lengths.tolist())

    @property
    def slack(self) -> int:
        """Rows beyond n that a rollout of n full rows may need."""
        return 16 if self._mode == "NextStep" else 0

    def start(self, seed: np.random.SeedSequence) -> None:
        observations, info = self._batch.reset(seed=int(seed.generate_state(1)[0]))
        if MASK_KEY in info or self.observation.masked:
            if not self.action.mask_width:
                raise DataError("the environment masks actions of a Box, which cannot be masked", slug="unsupported-space")
            self.masks = np.ones((self.n_envs, self.action.mask_width), dtype=bool)
        self._see(observations, info)
        wrong = np.flatnonzero(~np.isfinite(self.observations).all(axis=1))
        if len(wrong):
            self._count(int(wrong[0]), "first observation")
            self.start(seed.spawn(1)[0])
        elif not self._keeps_state:
            twin = self._another()
            twin.reset(seed=0)
            _restore(twin, _snapshot(self._batch))
            self._twin = (twin, TWIN_STEPS)

    def step(self, actions: NDArray[Any], active: int | None = None) -> tuple[Any, Any, Any, list[int]]:
        waiting = self._waiting
        counted = ~waiting
        if active is not None:
            counted[active:] = False
        observations, rewards, terminated, truncated, info = self._batch.step(actions)
        if self._twin is not None:
            self._compare(actions, observations)
        rewards = np.array(rewards, dtype=np.float64)
        terminated = np.array(terminated, dtype=bool)
        ended = terminated | np.asarray(truncated, dtype=bool)
        self._see(observations, info)
        self._returns += np.where(waiting, 0, rewards)
        self._lengths += ~waiting
        ended |= self._lengths >= self._limit
        final = self.observations
        if self._mode == "SameStep" and ended.any():
            final = self.observation.rows(_filled(info["final_obs"], ended, observations))
        bad = ~(np.isfinite(final).all(axis=1) & np.isfinite(rewards)) & ~waiting
        for i in np.flatnonzero(bad):
            self._count(int(i), "reward or observation")
        self.finals = [(int(i), final[i].copy()) for i in np.flatnonzero(ended & ~terminated & ~bad & counted)]
        self.episodes += [(float(self._returns[i]), int(self._lengths[i])) for i in np.flatnonzero(ended & ~bad)]
        over = ended | bad
        if over.any():
            self._returns[over] = 0
            self._lengths[over] = 0
        self._renew(over, bad & ~ended)
        self.steps += int(counted.sum())
        dropped = np.flatnonzero(bad | ~counted)
        if len(dropped):
            rewards[dropped], ended[dropped], terminated[dropped] = 0.0, False, False
        self._check_masks()
        return rewards, terminated, ended, dropped.tolist()

    def capture(self) -> Callable[[], dict[str, Any]]:
        kept = self._snapshot()
        return lambda: kept

    def _snapshot(self) -> dict[str, Any]:
        state = plain(self._batch.get_state() if self._keeps_state else _snapshot(self._batch))
        return {
            "batch": state, "observations": plain(self.observations), "returns": plain(self._returns), "lengths": plain(self._lengths),
            "waiting": plain(self._waiting), "masks": None if self.masks is None else plain(self.masks),
            "steps": self.steps, "nonfinite": self.nonfinite, "exact": self.exact is not False,
        }  # fmt: skip

    def restore(self, snapshot: Mapping[str, Any]) -> bool:
        if "batch" not in snapshot or len(unplain(snapshot["returns"])) != self.n_envs:
            told = "separate environments" if "batch" not in snapshot else f"{len(unplain(snapshot['returns']))} environments"
            what, hint = f"the checkpoint has {told}, this training a batch of {self.n_envs}", "set n_envs as it was"
            raise DataError(what, hint=hint, slug="other-environments")
        self.steps, self.nonfinite, self.episodes, self.finals = snapshot["steps"], snapshot["nonfinite"], [], []
        self._twin = None
        if not snapshot["exact"]:
            self.exact = False
            self._renew(np.ones(self.n_envs, dtype=bool), np.ones(self.n_envs, dtype=bool))
            self._returns[:] = 0
            self._lengths[:] = 0
            return False
        state = unplain(snapshot["batch"])
        if self._keeps_state:
            self._batch.set_state(state)
        else:
            _restore(self._batch, state)
        self.observations[:] = unplain(snapshot["observations"])
        self._returns, self._lengths = unplain(snapshot["returns"]), unplain(snapshot["lengths"])
        self._waiting = unplain(snapshot["waiting"])
        if self.masks is not None:
            self.masks[:] = unplain(snapshot["masks"])
        return True

    def close(self) -> None:
        self._batch.close()

    def _see(self, observations: Any, info: Mapping[str, Any]) -> None:
        if isinstance(observations, Mapping):
            rows = [{key: value[i] for key, value in observations.items()} for i in range(self.n_envs)]
            self.observations[:] = self.observation.rows(rows)
        else:
            self.observations[:] = self.observation.rows(np.asarray(observations))
        if self.masks is not None:
            told = observations[MASK_KEY] if self.observation.masked else info[MASK_KEY]
            self.masks[:] = np.asarray(told).reshape(self.n_envs, -1)

    def _renew(self, over: NDArray[np.bool_], unasked: NDArray[np.bool_]) -> None:
        """Begin anew where an episode is over; `unasked`: where the batch does not know of it, which only mode Disabled can be told."""
        if self._mode == "NextStep":
            self._waiting = over & ~unasked
        if self._mode == "Disabled" and over.any():
            observations, info = self._batch.reset(options={"reset_mask": over})
            self._see(observations, info)
        elif unasked.any():
            raise DataError(
                f"environment {int(np.argmax(unasked))} of a batch that resets itself gave a value that is not finite at step {self.steps}",
                hint="offer autoreset_mode Disabled, so that one copy can be begun anew", slug="nonfinite-environment",
            )  # fmt: skip

    def _compare(self, actions: NDArray[Any], observations: Any) -> None:
        assert self._twin is not None
        twin, left = self._twin
        same = np.array_equal(np.asarray(twin.step(actions)[0]), np.asarray(observations), equal_nan=True)
        self.exact = same
        self._twin = (twin, left - 1) if same and left > 1 else None


def _filled(final: Any, ended: NDArray[np.bool_], observations: Any) -> Any:
    """Final observations where there are any, else the present ones."""
    if isinstance(final, np.ndarray) and final.dtype != object:
        return final
    return [final[i] if ended[i] else observations[i] for i in range(len(ended))]


KEPT = (np.ndarray, np.generic, bool, int, float, str, type(None))


def _snapshot(batch: Any) -> dict[str, Any]:
    """All plain values that a batch without `get_state` has for attributes, and its random numbers."""
    values = {
        name: value for name, value in vars(batch).items() if isinstance(value, KEPT) and not (name == "render_mode" or _objects(value))
    }
    generator = generator_of(batch)
    return {"values": values, "random": None if generator is None else generator.bit_generator.state}


def _restore(batch: Any, state: Mapping[str, Any]) -> None:
    for name, value in state["values"].items():
        setattr(batch, name, value.copy() if isinstance(value, np.ndarray) else value)
    generator = generator_of(batch)
    if generator is not None and state["random"] is not None:
        generator.bit_generator.state = state["random"]


def _objects(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == object
