"""Copies of an environment stepped together: unwrapped, with a time limit, statistics, masks and snapshots of our own.

An environment is anything with gymnasium's `reset` and `step`; nothing of the library is imported here.
"""

from __future__ import annotations

import base64
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from recipeline.errors import DataError
from recipeline_ppo.distributions import impossible
from recipeline_ppo.spaces import MASK_KEY, ActionSpec, ObservationSpec

Floats = NDArray[np.floating[Any]]
Factory = Callable[[], Any]

PEELED = (
    "TimeLimit",
    "OrderEnforcing",
    "PassiveEnvChecker",
    "RecordEpisodeStatistics",
)  # gymnasium's, which cost time and whose work is done here
LONGEST_REPLAY = 200_000  # steps of an episode beyond which replaying it would take longer than it is worth
PROOFS = 3  # snapshots whose replay is tried out on a spare copy before replaying is trusted


class Environments:
    """`n_envs` copies of what `factory()` builds.

    max_episode_steps   episodes are truncated there; None: the limit that the environment came with, or none
    observation, action what a policy needs to know of the spaces (DataError of kinds that are not supported)
    observations        (n_envs, width) float32, the present ones
    masks               (n_envs, mask_width) True where an action is allowed, or None where the environment has no masks
    steps               environment steps done, exact: a copy that is only reset counts none
    exact               whether snapshots bring back episodes that are running; None while nobody knows

    After a step that ends an episode the copy is reset at once; the true final observation of one that was truncated is in `finals`.
    A transition with a NaN or infinite reward or observation is dropped: counted in `nonfinite`, its episode abandoned, the copy
    reset. More than `max_nonfinite` of them are a DataError.
    """

    _first: tuple[Any, int | None] | None = None  # the copy that was looked at, and its limit
    _batch: Any = None

    def __new__(cls, factory: Factory, n_envs: int = 1, *, max_episode_steps: int | None = None, **_: Any) -> Self:
        """One that steps all copies in one call, where the environment offers that (see `batched`)."""
        if cls is not Environments or n_envs < 1:
            return super().__new__(cls)
        from recipeline_ppo import batched  # which builds on this module

        first = None if batched.offered(factory) else limit_of(factory())
        batch = batched.find(factory, first, n_envs, max_episode_steps)
        self = super().__new__(cls if batch is None else cast("type[Self]", batched.BatchedEnvironments))
        self._first, self._batch = first, batch
        return self

    def __init__(self, factory: Factory, n_envs: int = 1, *, max_episode_steps: int | None = None, max_nonfinite: int = 100) -> None:
        if n_envs < 1:
            raise DataError(f"n_envs is {n_envs}, and must be at least 1")
        if max_episode_steps is not None and max_episode_steps < 1:
            raise DataError(f"max_episode_steps is {max_episode_steps}, and must be at least 1")
        self._factory, self.n_envs, self.max_nonfinite = factory, n_envs, max_nonfinite
        found = [self._first or limit_of(factory()), *(limit_of(factory()) for _ in range(n_envs - 1))]
        self._copies = [env for env, _ in found]
        self.max_episode_steps = max_episode_steps if max_episode_steps is not None else found[0][1]
        self._limit = self.max_episode_steps or math.inf
        self.observation = ObservationSpec.from_space(self._copies[0].observation_space)
        self.action = ActionSpec.from_space(self._copies[0].action_space)
        self.observations = np.zeros((n_envs, self.observation.width), dtype=np.float32)
        self.masks: NDArray[np.bool_] | None = None
        self._flat = self.observations.reshape(-1)
        self._direct = self.observation.plain and len(self.observation.shape) == 1
        self._stepping = [env.step for env in self._copies]
        self._keeps_state = all(callable(inner(env, "get_state")) and callable(inner(env, "set_state")) for env in self._copies)
        self._replays = not self._keeps_state and all(generator_of(env) is not None for env in self._copies)
        self.exact: bool | None = True if self._keeps_state else None if self._replays else False
        self._proofs = 0
        self._spare: Any = None
        self.steps = self.nonfinite = 0
        self.returns, self.lengths = [0.0] * n_envs, [0] * n_envs
        self.episodes: list[tuple[float, int]] = []  # (return, length) of those that ended since the list was emptied
        self.finals: list[tuple[int, Floats]] = []  # (copy, final observation (width,)) of the last step's truncations
        self._histories: list[list[Any]] = [[] for _ in range(n_envs)]  # actions since the episode's reset
        self._before: list[Any] = [None] * n_envs  # the random state before it

    @property
    def slack(self) -> int:
        """Rows beyond steps / n_envs that a rollout may need, because some steps of some copies only reset them."""
        return 0

    def start(self, seed: np.random.SeedSequence) -> None:
        """Seed every copy with a child of its own, and reset it."""
        for i, child in enumerate(seed.spawn(self.n_envs)):
            observation, info = self._copies[i].reset(seed=int(child.generate_state(1)[0]))
            if i == 0:
                self._find_masks(observation, info)
            self._begin(i)
        self._check_masks()

    def step(self, actions: NDArray[Any], active: int | None = None) -> tuple[list[float], list[bool], list[bool], list[int]]:
        """One step of every copy, or of the first `active` ones.

        actions (n_envs,) or (n_envs, *shape), as `ActionSpec.native` gives them
        returns  rewards, terminated, ended (terminated or truncated), each of n_envs; and the copies whose transition is to be dropped
        """
        n = self.n_envs if active is None else active
        told = actions.tolist() if actions.ndim == 1 else actions
        rows, masking = self.observations, self.masks is not None
        terminated, ended = [False] * self.n_envs, [False] * self.n_envs
        dropped = list(range(n, self.n_envs))
        if self.finals:
            self.finals = []
        self.steps += n
        seen, earned, over, cut, infos = zip(
            *[advance(action) for action, advance in zip(told, self._stepping[:n], strict=False)], strict=True
        )
        self._write(seen)
        if self._replays:
            for history, action in zip(self._histories, told, strict=False):
                history.append(action)
        rewards = [float(reward) for reward in earned]
        returns, lengths = self.returns, self.lengths
        for i, reward in enumerate(rewards):
            returns[i] += reward
            lengths[i] += 1
        total = sum(rewards)
        if total - total != 0.0 or any(over) or any(cut) or max(lengths) >= self._limit:  # few steps are of interest
            for i in range(n):
                self._close(i, rewards, bool(over[i]), bool(cut[i]), terminated, ended, dropped)
        for i in range(n) if masking else ():
            if not ended[i] and i not in dropped:  # those begin anew, and had theirs read then
                self._read_mask(i, seen[i], infos[i])
        rewards += [0.0] * (self.n_envs - n)
        if not math.isfinite(np.vdot(self._flat, self._flat)):  # a sum that overflows is looked at again, row by row
            for i in np.flatnonzero(~np.isfinite(rows).all(axis=1)).tolist():
                self._drop(i, "observation")
                dropped.append(i)
                rewards[i] = 0.0
        if masking:
            self._check_masks()
        return rewards, terminated, ended, dropped

    def _write(self, seen: Sequence[Any]) -> None:
        """Observations of the first copies into their rows."""
        if self._direct:
            np.concatenate(seen, out=self._flat[: len(seen) * self.observations.shape[1]])  # in one call, not in one for each copy
        else:
            for observation, row in zip(seen, self.observations, strict=False):
                self.observation.write(observation, row)

    def _close(
        self, i: int, rewards: list[float], over: bool, cut: bool, terminated: list[bool], ended: list[bool], dropped: list[int]
    ) -> None:
        """What a step of copy i means for its episode, which may end, or be abandoned."""
        reward = rewards[i]
        if not math.isfinite(reward):
            self._drop(i, f"reward {reward}")
        elif not (over or cut or self.lengths[i] >= self._limit):
            return
        elif not np.isfinite(self.observations[i]).all():
            self._drop(i, "observation")
        else:
            ended[i], terminated[i] = True, over
            if not over:
                self.finals.append((i, self.observations[i].copy()))
            self.episodes.append((self.returns[i], self.lengths[i]))
            self._begin(i)
            return
        dropped.append(i)
        rewards[i] = 0.0

    def snapshot(self) -> dict[str, Any]:
        """All that is needed to go on from here, as JSON; episodes that are running come back where `exact` says so."""
        return self.capture()()

    def capture(self) -> Callable[[], dict[str, Any]]:
        """What makes the snapshot of this moment, now or later: of most nobody ever asks."""
        if self._replays and self._proofs < PROOFS and self.exact is not False and any(self._histories):
            self.exact = self._proved()
            self._proofs += 1
        observations, masks = self.observations.copy(), None if self.masks is None else self.masks.copy()
        returns, lengths, discrete = list(self.returns), list(self.lengths), self.action.kind == "discrete"
        counts = {"steps": self.steps, "nonfinite": self.nonfinite, "exact": self.exact is not False}
        if self._keeps_state:
            states = [plain(inner(env, "get_state")()) for env in self._copies]
        else:  # lists of actions only grow, and an episode begins a new one
            replays = [
                (before, history, len(history)) if self.exact is not False and len(history) <= LONGEST_REPLAY else _random_of(env)
                for env, before, history in zip(self._copies, self._before, self._histories, strict=True)
            ]

        def replay(kept: Any) -> dict[str, Any]:
            if not isinstance(kept, tuple):
                return {"random": kept}
            before, history, length = kept  # playing it again brings back the random state, too
            actions = history[:length] if discrete else plain(np.asarray(history[:length]))
            return {"before": _as_json(before), "actions": actions}

        def made() -> dict[str, Any]:
            copies = [{"state": state} for state in states] if self._keeps_state else [replay(kept) for kept in replays]
            told = {"copies": copies, "observations": plain(observations), "returns": returns, "lengths": lengths}
            return {**told, **counts, "masks": None if masks is None else plain(masks)}

        return made

    def restore(self, snapshot: Mapping[str, Any]) -> bool:
        """Go on from a snapshot; False where a running episode could not be brought back and was started anew.

        DataError where it is of another number of environments.
        """
        if "copies" not in snapshot:
            raise DataError("the checkpoint has a batch, this training separate environments", slug="other-environments")
        if len(snapshot["copies"]) != self.n_envs:
            raise DataError(
                f"the checkpoint has {len(snapshot['copies'])} environments, this training {self.n_envs}",
                hint=f"set n_envs to {len(snapshot['copies'])}", slug="other-environments",
            )  # fmt: skip
        self.steps, self.nonfinite, self.episodes, self.finals = snapshot["steps"], snapshot["nonfinite"], [], []
        whole = True
        last = unplain(snapshot["observations"])
        for i, kept in enumerate(snapshot["copies"]):
            if self._bring_back(i, kept, last[i]):
                self.returns[i], self.lengths[i] = snapshot["returns"][i], snapshot["lengths"][i]
                continue
            whole = False
            generator = generator_of(self._copies[i])
            if generator is not None and kept.get("random") is not None:
                generator.bit_generator.state = _from_json(kept["random"])
            self._begin(i)
        if self.masks is not None and whole and snapshot["masks"] is not None:
            self.masks[:] = unplain(snapshot["masks"])
        if not whole:
            self.exact = False
        return whole

    def close(self) -> None:
        for env in (*self._copies, *([self._spare] if self._spare is not None else [])):
            if hasattr(env, "close"):
                env.close()

    def _begin(self, i: int) -> None:
        """Reset a copy, again while its first observation is not finite."""
        env = self._copies[i]
        while True:
            if self._replays:
                generator = generator_of(env)
                self._before[i] = None if generator is None else generator.bit_generator.state
                self._histories[i] = []
            observation, info = env.reset()
            self.observation.write(observation, self.observations[i])
            self.returns[i], self.lengths[i] = 0.0, 0
            if np.isfinite(self.observations[i]).all():
                break
            self._count(i, "first observation")
        if self.masks is not None:
            self._read_mask(i, observation, info)

    def _drop(self, i: int, what: str) -> None:
        self._count(i, what)
        self._begin(i)

    def _count(self, i: int, what: str) -> None:
        self.nonfinite += 1
        if self.nonfinite > self.max_nonfinite:
            raise DataError(
                f"environment {i} gave a {what} that is not finite at step {self.steps}, the {self.nonfinite}th such transition",
                hint="mend the environment, or raise max_nonfinite", slug="nonfinite-environment",
            )  # fmt: skip

    # --- masks ---------------------------------------------------------------------------------------

    def _find_masks(self, observation: Any, info: Mapping[str, Any]) -> None:
        method = callable(inner(self._copies[0], "action_masks"))
        if not (self.observation.masked or MASK_KEY in info or method):
            return
        if not self.action.mask_width:
            raise DataError("the environment masks actions of a Box, which cannot be masked", slug="unsupported-space")
        self._mask_from = "observation" if self.observation.masked else "info" if MASK_KEY in info else "method"
        self.masks = np.ones((self.n_envs, self.action.mask_width), dtype=bool)

    def _read_mask(self, i: int, observation: Any, info: Mapping[str, Any]) -> None:
        assert self.masks is not None
        try:
            if self._mask_from == "method":
                mask = inner(self._copies[i], "action_masks")()
            else:
                mask = (observation if self._mask_from == "observation" else info)[MASK_KEY]
            mask = np.concatenate([np.asarray(part).reshape(-1) for part in mask]) if isinstance(mask, tuple | list) else np.asarray(mask)
            self.masks[i] = mask.reshape(-1)
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(
                f"environment {i} gave no action mask of {self.action.mask_width} entries at step {self.steps}: {error}", slug="bad-mask"
            ) from None

    def _check_masks(self) -> None:
        if self.masks is None:
            return
        nothing = impossible(self.action, self.masks)
        if nothing.any():
            raise DataError(
                f"the action mask of environment {int(np.argmax(nothing))} allows no action at step {self.steps}",
                hint="end the episode where nothing can be done", slug="empty-mask",
            )  # fmt: skip

    # --- going back ----------------------------------------------------------------------------------

    def _bring_back(self, i: int, kept: Mapping[str, Any], last: Floats) -> bool:
        """Whether copy i stands where its last observation was seen."""
        env = self._copies[i]
        if "state" in kept and self._keeps_state:
            inner(env, "set_state")(unplain(kept["state"]))
            self.observations[i] = last
            return True
        if "before" not in kept or not self._replays:
            return False
        told = kept["actions"]
        history = list(told) if isinstance(told, list) else list(unplain(told))
        self._before[i], self._histories[i] = _from_json(kept["before"]), history
        observation, info = _replay(env, self._before[i], history)
        self.observation.write(observation, self.observations[i])
        if not np.array_equal(self.observations[i], last):
            return False
        if self.masks is not None:
            self._read_mask(i, observation, info)
        return True

    def _proved(self) -> bool:
        """Whether a spare copy, given the random state and the actions of the longest running episode, comes to the same observation."""
        longest = max(range(self.n_envs), key=lambda i: len(self._histories[i]))
        everywhere = np.random.get_state(), random.getstate()  # what an environment may use without our knowing
        try:
            if self._spare is None:
                self._spare = limit_of(self._factory())[0]
                self._spare.reset(seed=0)
            observation, _ = _replay(self._spare, self._before[longest], self._histories[longest])
            row = np.empty_like(self.observations[longest])
            self.observation.write(observation, row)
        finally:
            np.random.set_state(everywhere[0])
            random.setstate(everywhere[1])
        return np.array_equal(row, self.observations[longest])


def broken(error: Exception, when: str, name: str = "") -> DataError:
    """What an environment raised, as an error of ours: it is somebody else's, and not the estimator that failed."""
    words = str(error).strip().partition("\n")[0] or "no reason given"
    hint = "mend the environment; the same command again goes on from what is there"
    return DataError(f"the environment raised {type(error).__name__} in {when}: {words}", hint=hint, slug="environment-failed", where=name)


def limit_of(env: Any) -> tuple[Any, int | None]:
    """The environment inside the wrappers whose work is done here, and its time limit."""
    limit = None
    while type(env).__name__ in PEELED and hasattr(env, "env"):
        limit = getattr(env, "_max_episode_steps", limit)
        env = env.env
    return env, limit


def inner(env: Any, name: str) -> Any:
    """An attribute of the environment or of one inside it; None where none has it."""
    while True:
        if name in vars(env) or hasattr(type(env), name):  # not hasattr(env): gymnasium's wrappers warn of what is inside them
            return getattr(env, name)
        if "env" not in vars(env):
            return None
        env = env.env


def generator_of(env: Any) -> np.random.Generator | None:
    try:
        generator = env.unwrapped.np_random
    except AttributeError:
        generator = getattr(getattr(env, "unwrapped", env), "np_random", None)
    return generator if isinstance(generator, np.random.Generator) else None


def _replay(env: Any, before: Any, actions: Sequence[Any]) -> tuple[Any, Mapping[str, Any]]:
    """The last observation and info of an episode that starts with a random state and takes these actions."""
    generator = generator_of(env)
    if generator is not None:
        generator.bit_generator.state = before
    observation, info = env.reset()
    for action in actions:
        observation, _, _, _, info = env.step(action)
    return observation, info


def _random_of(env: Any) -> Any:
    generator = generator_of(env)
    return None if generator is None else _as_json(generator.bit_generator.state)


def _as_json(state: Any) -> Any:
    """A bit generator's state; that of most is JSON as it is."""
    return state if state.get("bit_generator") == "PCG64" else plain(state)


def _from_json(state: Any) -> Any:
    return state if "bit_generator" in state else unplain(state)


def plain(value: Any) -> Any:
    """Nests of arrays, numbers and words as JSON, exact to the bit; `unplain` reads it."""
    kind = type(value)
    if kind is int or kind is str or value is None or kind is bool:
        return value
    if kind is dict:
        return {"items": [[plain(key), plain(item)] for key, item in value.items()]}
    if isinstance(value, np.ndarray):
        told = np.ascontiguousarray(value)
        return {"array": base64.b64encode(told.tobytes()).decode(), "dtype": told.dtype.str, "shape": list(value.shape)}
    if isinstance(value, Mapping):
        return {"items": [[plain(key), plain(item)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [plain(item) for item in value]}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return {"scalar": plain(np.asarray(value))}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise DataError(f"get_state of the environment gave a {type(value).__name__}", hint="give arrays, numbers, words and nests of them")


def unplain(value: Any) -> Any:
    if isinstance(value, list):
        return [unplain(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "array" in value:
        return np.frombuffer(base64.b64decode(value["array"]), dtype=value["dtype"]).reshape(value["shape"]).copy()
    if "items" in value:
        return {unplain(key): unplain(item) for key, item in value["items"]}
    if "tuple" in value:
        return tuple(unplain(item) for item in value["tuple"])
    if "scalar" in value:
        return unplain(value["scalar"])[()]
    return float(value["float"])
