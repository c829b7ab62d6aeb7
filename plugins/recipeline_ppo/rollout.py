"""Steps of all environments under one policy, and the transitions that the update learns from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recipeline.errors import RecipelineError
from recipeline.operations import DiscountedNormalizer, WindowedNormalizer
from recipeline_ppo.distributions import Distribution
from recipeline_ppo.environments import Environments, broken
from recipeline_ppo.gae import gae
from recipeline_ppo.normalizer import ObservationNormalizer
from recipeline_ppo.ppo import Batch, Order

Floats = NDArray[np.floating[Any]]
RewardNormalizer = DiscountedNormalizer | WindowedNormalizer


class Networks(Protocol):
    """What a rollout asks of a backend."""

    pi: Distribution
    memory: Floats | None  # (n, m) of the environments, changed by `policy`; None where the network has none

    def policy(self, x: Floats) -> Floats: ...
    def value(self, x: Floats, memory: Floats | None = None) -> Floats: ...


@dataclass(frozen=True)
class Stretch:
    """A rollout as it was collected: T steps of n environments, before values are known.

    observations (T + 1, n, d) as the networks see them, the last row is what comes next     outputs (T, n, k) of the policy
    actions (T, n) or (T, n, k)    masks (T, n, m) or None    rewards, terminated, ended (T, n)
    valid (T, n)  False where a transition was dropped, or never made at the ragged end
    finals        (t, copy, observation, memory) after a truncation
    memory        (T + 1, n, m) before each step, and `fresh` (T, n) where an episode began; None where the network has no memory
    """

    observations: Floats
    outputs: Floats
    actions: NDArray[Any]
    masks: NDArray[np.bool_] | None
    rewards: Floats
    terminated: NDArray[np.bool_]
    ended: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    finals: list[tuple[int, int, Floats, Floats | None]]
    memory: Floats | None = None
    fresh: NDArray[np.bool_] | None = None


def collect(
    environments: Environments, networks: Networks, x: Floats, rng: np.random.Generator, *, steps: int,
    normalizer: ObservationNormalizer | None = None, rewards: RewardNormalizer | None = None, exactly: bool = True,
) -> Stretch:  # fmt: skip
    """Environment steps with drawn actions: `steps` in all, or up to n - 1 more where not `exactly`.

    x        (n, d) the present observations as the networks see them
    exactly  the last row is ragged where steps do not divide by the number of copies
    """
    n, pi = environments.n_envs, networks.pi
    rows = -(-steps // n) + environments.slack
    width, discrete = x.shape[1], environments.action.kind == "discrete"
    noise = pi.noise(rng, rows, n)
    observations = np.empty((rows + 1, n, width), dtype=np.float32)
    outputs = np.empty((rows, n, pi.outputs), dtype=np.float32)
    kind: Any = np.float32 if environments.action.kind == "box" else np.int64
    actions = np.empty((rows, n) if discrete else (rows, n, environments.action.width), dtype=kind)
    masks = None if environments.masks is None else np.empty((rows, *environments.masks.shape), dtype=bool)
    earned, terminated = np.empty((rows, n), dtype=np.float32), np.empty((rows, n), dtype=bool)
    ended, valid = np.empty((rows, n), dtype=bool), np.ones((rows, n), dtype=bool)
    finals: list[tuple[int, int, Floats, Floats | None]] = []
    memory = networks.memory
    memories = None if memory is None else np.empty((rows + 1, *memory.shape), dtype=np.float32)
    fresh = np.equal(environments.lengths, 0)
    begun = None if memory is None else np.empty((rows, n), dtype=bool)
    observations[0] = x
    mask, left, t = None, steps, 0
    while left > 0 and t < rows:
        if masks is not None:
            mask = masks[t]
            mask[:] = environments.masks
        if memory is not None and memories is not None and begun is not None:
            memories[t], begun[t] = memory, fresh
        outputs[t] = out = networks.policy(observations[t])
        actions[t] = action = pi.sample(out, noise[t], mask)
        active, before = min(n, left) if exactly else n, environments.steps
        try:
            gained, terminated[t], ended[t], dropped = environments.step(pi.native(action), active)
        except RecipelineError:
            raise
        except Exception as error:
            raise broken(error, f"step {environments.steps}") from error
        if dropped:
            valid[t, dropped] = False
        earned[t] = gained if rewards is None else _normalised(rewards, gained, ended[t], dropped, active)
        if normalizer is None:
            observations[t + 1] = environments.observations
        else:
            normalizer.update(environments.observations)
            observations[t + 1] = normalizer.transform(environments.observations)
        for copy, final in environments.finals:
            seen = final if normalizer is None else normalizer.transform(final[None])[0]
            finals.append((t, copy, seen, None if memory is None else memory[copy].copy()))
        if memory is not None:
            fresh = np.equal(environments.lengths, 0)
            memory[fresh] = 0
        left -= environments.steps - before
        t += 1
    if memory is not None and memories is not None:
        memories[t] = memory
    return Stretch(
        observations[: t + 1], outputs[:t], actions[:t], None if masks is None else masks[:t], earned[:t], terminated[:t], ended[:t],
        valid[:t], finals, None if memories is None else memories[: t + 1], None if begun is None else begun[:t],
    )  # fmt: skip


def _normalised(
    rewards: RewardNormalizer, gained: Any, ended: NDArray[np.bool_], dropped: list[int], active: int
) -> list[float] | NDArray[np.float64]:
    """Rewards as the networks learn from them; what was dropped teaches nothing, and its episode is over."""
    known = np.array(gained, dtype=np.float64)
    if dropped:
        known[dropped] = np.nan
    if isinstance(rewards, WindowedNormalizer):
        return [rewards(reward) for reward in known.tolist()]
    over = ended
    if dropped:
        over = ended.copy()
        over[[copy for copy in dropped if copy < active]] = True
    return rewards(known, over)


def transitions(stretch: Stretch, networks: Networks, *, gamma: float, gae_lambda: float) -> Batch:
    """Values, advantages and log-probabilities of a stretch, all rows at once; without what was dropped."""
    rows, n, width = stretch.observations.shape
    memory = None if stretch.memory is None else stretch.memory.reshape(rows * n, -1)
    values = networks.value(stretch.observations.reshape(rows * n, width), memory).reshape(rows, n)
    after = values[1:].copy()
    if stretch.finals:  # a truncated episode goes on in truth: its value is that of the final observation (Pardo et al. 2018)
        at, copies, final, remembered = zip(*stretch.finals, strict=True)
        after[list(at), list(copies)] = networks.value(np.stack(final), None if memory is None else np.stack(remembered))
    values = values[:-1]
    rewards, terminated, cut = stretch.rewards, stretch.terminated, stretch.ended
    whole = bool(stretch.valid.all())
    if not whole:  # delta = 0 where a transition is missing: the one before it is bootstrapped from its value
        lost = ~stretch.valid
        rewards, terminated, cut = np.where(lost, values, rewards), terminated | lost, cut | lost
    advantages = gae(rewards, values, after, terminated, cut, gamma=gamma, lam=gae_lambda)
    count = (rows - 1) * n
    actions = stretch.actions.reshape(count, *stretch.actions.shape[2:])
    masks = None if stretch.masks is None else stretch.masks.reshape(count, -1)
    log_prob = networks.pi.log_prob(stretch.outputs.reshape(count, -1), actions, masks)
    batch = Batch(
        stretch.observations[:-1].reshape(count, width), actions, log_prob, advantages.reshape(-1),
        (advantages + values).reshape(-1), values.reshape(-1), masks,
    )  # fmt: skip
    if memory is not None and stretch.fresh is not None:
        order = Order((rows - 1, n), memory[:count], stretch.fresh.reshape(-1), stretch.valid.reshape(-1))
        return replace(batch, order=order)
    return batch if whole else batch.take(np.flatnonzero(stretch.valid))
