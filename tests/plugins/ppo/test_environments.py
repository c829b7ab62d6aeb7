"""Stepping: limits, statistics, masks, what is not finite, spaces, and going back."""

from __future__ import annotations

import itertools
import json
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from plugins.ppo.worlds import ACTIONS, Corridor, Drift, Masked, drift
from recipeline.errors import DataError
from recipeline_ppo.config import Config
from recipeline_ppo.environments import Environments, plain, unplain
from recipeline_ppo.learner import Learner
from recipeline_ppo.spaces import ActionSpec, ObservationSpec


def started(factory: Any, n_envs: int = 1, seed: int = 0, **options: Any) -> Environments:
    worlds = Environments(factory, n_envs, **options)
    worlds.start(np.random.SeedSequence(seed))
    return worlds


def played(worlds: Environments, steps: int, seed: int = 0) -> list[Any]:
    """Random actions; everything that could be seen."""
    rng, told = np.random.default_rng(seed), []
    for _ in range(steps):
        n = worlds.n_envs
        actions: Any
        if worlds.action.kind == "box":
            actions = worlds.action.native(rng.standard_normal((n, worlds.action.width)).astype(np.float32))
        elif worlds.action.kind == "discrete":
            actions = rng.integers(worlds.action.sizes[0], size=n)
        else:
            sizes = worlds.action.sizes if worlds.action.kind == "multidiscrete" else (2,) * worlds.action.sizes[0]
            actions = worlds.action.native(rng.integers(sizes, size=(n, len(sizes))))
        step = worlds.step(actions)
        told.append((worlds.observations.tolist(), *step, list(worlds.returns), list(worlds.lengths), len(worlds.episodes)))
    return told


def test_a_limit_of_our_own_truncates_and_the_copy_starts_again_at_once() -> None:
    worlds = started(Corridor, 2, max_episode_steps=3)
    for number in range(1, 7):
        rewards, terminated, ended, dropped = worlds.step(np.zeros(2, dtype=np.int64))
        last = number % 3 == 0
        assert rewards == [(number - 1) % 3 + 1.0] * 2
        assert (ended, terminated, dropped) == ([last] * 2, [False] * 2, [])
        assert worlds.observations.tolist() == [[number % 3]] * 2
        assert [(copy, row.tolist()) for copy, row in worlds.finals] == ([(0, [3]), (1, [3])] if last else [])
    assert worlds.episodes == [(6.0, 3)] * 4
    assert worlds.steps == 12


def test_the_limit_that_came_with_the_environment_holds_without_its_wrapper() -> None:
    worlds = started(lambda: gymnasium.make("CartPole-v1", max_episode_steps=5))
    assert worlds.max_episode_steps == 5
    assert type(worlds._copies[0]).__name__ == "CartPoleEnv"
    played(worlds, 5)
    assert worlds.episodes == [(5.0, 5)]


def test_a_wrapper_of_the_users_stays() -> None:
    class Doubled(gymnasium.RewardWrapper):  # type: ignore[type-arg]
        def reward(self, reward: Any) -> Any:
            return 2 * reward

    worlds = started(lambda: gymnasium.wrappers.TimeLimit(Doubled(gymnasium.make("CartPole-v1")), 4))
    assert worlds.step(np.zeros(1, dtype=np.int64))[0] == [2.0]
    assert worlds.max_episode_steps == 4


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_a_transition_that_is_not_finite_is_dropped_and_counted(what: str) -> None:
    worlds = started(lambda: Corridor(spoil={2: what, 4: what}), max_nonfinite=1)
    assert worlds.step(np.zeros(1, dtype=np.int64))[3] == []
    rewards, _, ended, dropped = worlds.step(np.zeros(1, dtype=np.int64))
    assert (rewards, ended, dropped) == ([0.0], [False], [0])
    assert worlds.observations.tolist() == [[0.0]]
    assert worlds.episodes == []
    worlds.step(np.zeros(1, dtype=np.int64))
    with pytest.raises(DataError, match=rf"environment 0 gave a {what}.* at step 4, the 2th") as caught:
        worlds.step(np.zeros(1, dtype=np.int64))
    assert caught.value.slug == "nonfinite-environment"


def test_an_environment_that_begins_with_nan_is_told_of() -> None:
    class Broken(Corridor):
        def reset(self, **options: Any) -> Any:
            return np.array([np.nan], dtype=np.float32), super().reset(**options)[1]

    with pytest.raises(DataError, match="first observation that is not finite"):
        started(Broken, max_nonfinite=3)


@pytest.mark.parametrize("kind", ["discrete", "multidiscrete", "multibinary"])
@pytest.mark.parametrize("where", ["info", "dict", "method"])
def test_what_is_masked_is_never_done_and_the_rest_is_trained(where: str, kind: str) -> None:
    """The environment itself asserts it. One choice alone is left at every step: there is nothing to learn but the value."""
    config = Config(hidden=(8, 8), n_steps=12, batch_size=12, epochs=2)
    training = Learner(config, Environments(lambda: Masked(where, kind=kind), 2, max_episode_steps=7), seed=0)
    before = training.state().arrays
    for _ in range(3):
        told = training.iterate()
    assert told["entropy"] == 0
    assert told["approx_kl"] == 0
    after = training.state().arrays
    np.testing.assert_array_equal(before["policy.1.weight"], after["policy.1.weight"])
    assert not np.array_equal(before["value.1.weight"], after["value.1.weight"])


@pytest.mark.parametrize("where", ["info", "dict", "method"])
def test_a_mask_that_allows_nothing_names_environment_and_step(where: str) -> None:
    copies = itertools.count()
    worlds = started(lambda: Masked(where, empty_at=3 if next(copies) == 1 else None), 2)
    for _ in range(2):
        worlds.step(worlds.masks.argmax(axis=1))  # type: ignore[union-attr]
    with pytest.raises(DataError, match="environment 1 allows no action at step 6"):
        worlds.step(worlds.masks.argmax(axis=1))  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ACTIONS)
def test_a_snapshot_brings_running_episodes_back(kind: str) -> None:
    worlds = started(drift(kind), 3, max_episode_steps=9)
    played(worlds, 13)
    snapshot = json.loads(json.dumps(worlds.snapshot()))
    assert snapshot["exact"]
    told = played(worlds, 25, seed=1)
    again = started(drift(kind), 3, seed=8, max_episode_steps=9)
    assert again.restore(snapshot)
    worlds.episodes.clear()
    assert [row[:-1] for row in played(again, 25, seed=1)] == [row[:-1] for row in told]
    assert again.steps == worlds.steps


@pytest.mark.parametrize("name", ["CartPole-v1", "Acrobot-v1", "Pendulum-v1", "MountainCarContinuous-v0", "FrozenLake-v1"])
def test_snapshots_of_known_environments_are_exact(name: str) -> None:
    worlds = started(lambda: gymnasium.make(name), 2)
    played(worlds, 33)
    snapshot = worlds.snapshot()
    assert worlds.exact
    told = played(worlds, 40, seed=1)
    again = started(lambda: gymnasium.make(name), 2, seed=3)
    assert again.restore(snapshot)
    assert [row[:-1] for row in played(again, 40, seed=1)] == [row[:-1] for row in told]


def test_an_environment_that_keeps_its_own_state_is_asked_for_it() -> None:
    class Kept(Drift):
        def get_state(self) -> dict[str, Any]:
            return {"x": self.x, "random": self.np_random.bit_generator.state, "pair": (1, np.float32(2))}

        def set_state(self, state: dict[str, Any]) -> None:
            self.x, self.np_random.bit_generator.state = state["x"], state["random"]

    worlds = started(Kept, 2)
    played(worlds, 5)
    snapshot = json.loads(json.dumps(worlds.snapshot()))
    assert "actions" not in snapshot["copies"][0]
    told = played(worlds, 30, seed=1)
    again = started(Kept, 2, seed=5)
    assert again.restore(snapshot)
    assert [row[:-1] for row in played(again, 30, seed=1)] == [row[:-1] for row in told]


def test_one_that_cannot_be_brought_back_says_so_when_it_is_saved() -> None:
    """Its noise comes from elsewhere. The episode begins anew, and training goes on."""
    hidden = np.random.default_rng(0)

    class Elsewhere(Drift):
        def step(self, action: Any) -> Any:
            self.x += hidden.normal(size=3)
            return super().step(action)

    worlds = started(lambda: Elsewhere(far=1e9), 2)
    played(worlds, 7)
    snapshot = worlds.snapshot()
    assert not snapshot["exact"]
    again = started(lambda: Elsewhere(far=1e9), 2, seed=5)
    assert again.restore(snapshot) is False
    assert again.lengths == [0, 0]
    assert again.exact is False
    played(again, 5)


def test_a_spare_copy_that_draws_from_numpys_global_numbers_leaves_them_alone() -> None:
    class Everywhere(Drift):
        def step(self, action: Any) -> Any:
            self.x += np.random.normal(size=3)
            return super().step(action)

    worlds = started(lambda: Everywhere(far=1e9))
    played(worlds, 7)
    before = np.random.get_state()
    assert not worlds.snapshot()["exact"]
    after = np.random.get_state()
    assert before[2] == after[2]  # how many of its numbers were used
    np.testing.assert_array_equal(before[1], after[1])


def test_plain_is_exact() -> None:
    value = {"a": [1, 2.5, None, "x", True], ("b", 2): (np.float32(0.1), np.arange(6).reshape(2, 3)), "n": float("nan"), "i": float("-inf")}
    again = unplain(json.loads(json.dumps(plain(value), allow_nan=False)))
    assert again["a"] == value["a"]
    assert again["b", 2][0] == np.float32(0.1)
    assert isinstance(again["b", 2][0], np.float32)
    np.testing.assert_array_equal(again["b", 2][1], np.arange(6).reshape(2, 3))
    assert np.isnan(again["n"])
    assert again["i"] == -np.inf
    with pytest.raises(DataError, match="gave a set"):
        plain({1, 2})


def test_spaces_become_rows() -> None:
    space = spaces.Dict(
        {
            "where": spaces.Discrete(3, start=1),
            "image": spaces.Box(0, 255, (2, 2), np.uint8),
            "inner": spaces.Dict({"bits": spaces.MultiBinary(2), "many": spaces.MultiDiscrete([2, 3])}),
            "action_mask": spaces.MultiBinary(4),
        }
    )
    spec = ObservationSpec.from_space(space)
    assert spec.masked
    assert ObservationSpec.of(json.loads(json.dumps(spec.info()))) == spec
    image = np.array([[1, 2], [3, 4]], dtype=np.uint8)
    inner = {"bits": np.array([1, 0]), "many": np.array([1, 2])}
    rows = spec.rows([{"where": 3, "image": image, "inner": inner}])
    np.testing.assert_allclose(rows, [[*np.array([1, 2, 3, 4]) / 255, 1, 0, 0, 1, 0, 0, 1, 0, 0, 1]], rtol=1e-6)
    with pytest.raises(DataError, match="does not fit"):
        spec.rows([{"where": 4, "image": image, "inner": inner}])
    with pytest.raises(DataError, match="does not fit"):
        spec.rows([{"where": 3}])


@pytest.mark.parametrize(
    "space",
    [spaces.Discrete(3, start=-1), spaces.MultiDiscrete([[2, 3], [4, 5]]), spaces.MultiBinary((2, 2)), spaces.Box(-1, np.inf, (2, 2))],
    ids=str,
)
def test_actions_come_out_as_the_space_wants_them(space: Any) -> None:
    spec = ActionSpec.from_space(space)
    assert ActionSpec.of(json.loads(json.dumps(spec.info(), allow_nan=False))) == spec
    raw: Any = {"discrete": np.array([2]), "multidiscrete": np.array([[1, 2, 3, 4]]), "multibinary": np.array([[1, 0, 1, 1]])}.get(
        spec.kind, np.array([[-5, 0, 1, 99]], dtype=np.float32)
    )
    assert space.contains(spec.native(raw)[0])


@pytest.mark.parametrize("space", [spaces.Text(3), spaces.Sequence(spaces.Discrete(2)), spaces.Box(0, 3, (1,), np.int64)], ids=str)
def test_a_space_that_is_not_supported_is_named(space: Any) -> None:
    class Odd(Corridor):
        def __init__(self) -> None:
            super().__init__()
            self.action_space = space

    with pytest.raises(DataError, match=f"action space {type(space).__name__}.* is not supported") as caught:
        Environments(Odd)
    assert caught.value.slug == "unsupported-space"


def test_a_box_cannot_be_masked() -> None:
    class Told(Drift):
        def action_masks(self) -> Any:
            return np.ones(2)

    with pytest.raises(DataError, match="cannot be masked"):
        started(lambda: Told("box"))
