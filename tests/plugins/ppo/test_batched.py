"""Batches that step all copies at once do what separate copies do, in every way of beginning anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from plugins.ppo.test_learner import same, through_json
from plugins.ppo.worlds import Corridor
from recipeline.errors import DataError
from recipeline_ppo.batched import BatchedEnvironments
from recipeline_ppo.config import Config
from recipeline_ppo.environments import Environments
from recipeline_ppo.learner import Learner


class Walk(gymnasium.Env):  # type: ignore[type-arg]
    """Left or right from a place that the number of episodes decides; ends at 4 or more from 0."""

    observation_space = spaces.Box(-9, 9, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.episode = -1

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.episode = 0 if seed is not None else self.episode + 1
        self.x = float(self.episode % 3 - 1)
        return np.array([self.x], dtype=np.float32), {}

    def step(self, action: Any) -> Any:
        self.x += 2 * int(action) - 1
        return np.array([self.x], dtype=np.float32), -abs(self.x), abs(self.x) >= 4, False, {}


class Walks(VectorEnv):  # type: ignore[type-arg]
    """The same, n at once, begun anew when told."""

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012 - as gymnasium has it

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = Walk.observation_space, Walk.action_space
        self.episode, self.x = np.zeros(num_envs, dtype=np.int64), np.zeros(num_envs)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=bool))
        # a copy on its own is reset twice at the start, the first time to be seeded
        self.episode[mask] = 1 if seed is not None else self.episode[mask] + 1
        self.x[mask] = self.episode[mask] % 3 - 1
        return self.x[:, None].astype(np.float32), {}

    def step(self, actions: Any) -> Any:
        self.x = self.x + 2 * np.asarray(actions) - 1
        return self.x[:, None].astype(np.float32), -np.abs(self.x), np.abs(self.x) >= 4, np.zeros(self.num_envs, dtype=bool), {}


def offering(batched: Callable[[int], Any], single: Callable[[], Any] = Walk) -> Callable[[], Any]:
    def factory() -> Any:
        return single()

    factory.batched = batched  # type: ignore[attr-defined]
    return factory


def test_a_batch_does_what_separate_copies_do() -> None:
    """Limit, returns, final observations, beginnings: all equal over 300 steps."""
    one = Environments(Walk, 5, max_episode_steps=9)
    many = Environments(offering(Walks), 5, max_episode_steps=9)
    assert isinstance(many, BatchedEnvironments)
    for worlds in (one, many):
        worlds.start(np.random.SeedSequence(0))
    rng = np.random.default_rng(0)
    for _ in range(300):
        actions = rng.integers(2, size=5)
        told = [worlds.step(actions) for worlds in (one, many)]
        for mine, theirs in zip(*told, strict=True):
            np.testing.assert_array_equal(mine, theirs)
        np.testing.assert_array_equal(one.observations, many.observations)
        assert [(i, row.tolist()) for i, row in one.finals] == [(i, row.tolist()) for i, row in many.finals]
        assert one.returns == pytest.approx(many.returns)
        assert one.lengths == many.lengths
    assert one.episodes == many.episodes
    assert one.steps == many.steps == 1500


def test_training_on_a_batch_is_training_on_copies() -> None:
    config = Config(hidden=(8, 8), n_steps=20, batch_size=25, epochs=2)
    trained = []
    for factory in (Walk, offering(Walks)):
        training = Learner(config, Environments(factory, 5, max_episode_steps=9), seed=3)
        while training.step < 333:
            training.iterate(333)
        assert training.step == 333
        trained.append(training.state().arrays)
    for name in trained[0]:
        if name != "observations":  # the surplus copies of the last row have stepped on
            np.testing.assert_array_equal(trained[0][name], trained[1][name], err_msg=name)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_batches_that_begin_anew_by_themselves(mode: AutoresetMode) -> None:
    """Episodes of a corridor of 3 have the return 1 + 2 + 3; a step that only resets is none, and nothing is learned of it."""
    worlds = Environments(offering(lambda n: SyncVectorEnv([lambda: Corridor(3)] * n, autoreset_mode=mode), Corridor), 2)
    training = Learner(Config(hidden=(4,), n_steps=9, batch_size=18), worlds, seed=0)
    told = training.iterate()
    assert training.step == 18
    assert told["episode_returns"] == [6.0] * 6
    assert told["episode_lengths"] == [3] * 6
    assert sum(told["episode_lengths"]) + sum(worlds.lengths) == 18


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_the_final_observation_of_a_truncation_is_the_true_one(mode: AutoresetMode) -> None:
    def limited() -> Any:
        return gymnasium.wrappers.TimeLimit(Corridor(), 3)

    worlds = Environments(offering(lambda n: SyncVectorEnv([limited] * n, autoreset_mode=mode), limited), 2)
    worlds.start(np.random.SeedSequence(0))
    for _ in range(3):
        _, terminated, ended, _ = worlds.step(np.zeros(2, dtype=np.int64))
    assert (list(terminated), list(ended)) == ([False, False], [True, True])
    assert [(i, row.tolist()) for i, row in worlds.finals] == [(0, [3.0]), (1, [3.0])]
    if mode is AutoresetMode.NEXT_STEP:
        assert worlds.step(np.zeros(2, dtype=np.int64))[3] == [0, 1]
        assert worlds.steps == 6
    assert worlds.observations.tolist() == [[0.0], [0.0]]


def cartpoles(seed: int) -> Learner:
    config = Config(hidden=(8, 8), n_steps=16, batch_size=64, epochs=2)
    return Learner(config, Environments(lambda: gymnasium.make("CartPole-v1"), 16), seed=seed)


def test_gymnasiums_own_batch_is_used_and_its_state_goes_on_to_the_bit() -> None:
    whole = cartpoles(1)
    assert isinstance(whole.environments, BatchedEnvironments)
    lengths: list[int] = []
    for _ in range(3):
        lengths += whole.iterate()["episode_lengths"]
    assert len(lengths) > 5
    assert sum(lengths) + sum(whole.environments.lengths) == whole.step < 3 * (256 + 16)
    assert whole.environments.exact is True
    middle = through_json(whole.state())
    told = [whole.iterate() for _ in range(3)]
    again = cartpoles(2)
    assert again.restore(middle)
    assert [again.iterate() for _ in range(3)] == told
    same(again.state(), whole.state())


def test_few_copies_are_stepped_one_by_one() -> None:
    assert not isinstance(Environments(lambda: gymnasium.make("CartPole-v1"), 8), BatchedEnvironments)
    assert not isinstance(Environments(lambda: gymnasium.make("Pendulum-v1"), 32), BatchedEnvironments)


def test_a_batch_whose_state_is_elsewhere_says_that_it_is_not_exact() -> None:
    hidden = np.random.default_rng(0)

    class Elsewhere(Walks):
        def step(self, actions: Any) -> Any:
            self.x = self.x + hidden.normal(size=self.num_envs) * 0.01
            return super().step(actions)

    worlds = Environments(offering(Elsewhere), 3)
    worlds.start(np.random.SeedSequence(0))
    worlds.step(np.zeros(3, dtype=np.int64))
    snapshot = json.loads(json.dumps(worlds.snapshot()))
    assert snapshot["exact"] is False
    assert worlds.restore(snapshot) is False
    assert worlds.lengths == [0, 0, 0]


def test_one_copy_with_nan_is_begun_anew() -> None:
    class Broken(Walks):
        def step(self, actions: Any) -> Any:
            observations, rewards, *rest = super().step(actions)
            rewards[1] = np.nan
            return observations, rewards, *rest

    worlds = Environments(offering(Broken), 3, max_nonfinite=2)
    worlds.start(np.random.SeedSequence(0))
    rewards, _, _, dropped = worlds.step(np.zeros(3, dtype=np.int64))
    assert (dropped, rewards[1]) == ([1], 0.0)
    assert worlds.lengths == [1, 0, 1]
    worlds.step(np.zeros(3, dtype=np.int64))
    with pytest.raises(DataError, match="environment 1 gave a reward or observation that is not finite at step 6"):
        worlds.step(np.zeros(3, dtype=np.int64))


def test_mistakes_with_batches_are_named() -> None:
    with pytest.raises(DataError, match="not n_envs 3"):
        Environments(offering(lambda n: Walks(n + 1)), 3)
    with pytest.raises(DataError, match="needs a batch with autoreset_mode Disabled"):
        Environments(offering(lambda n: SyncVectorEnv([Walk] * n)), 3, max_episode_steps=5)
    one, many = Environments(Walk, 3), Environments(offering(Walks), 3)
    for worlds in (one, many):
        worlds.start(np.random.SeedSequence(0))
    with pytest.raises(DataError, match="has separate environments"):
        many.restore(one.snapshot())
    with pytest.raises(DataError, match="has a batch"):
        one.restore(many.snapshot())
