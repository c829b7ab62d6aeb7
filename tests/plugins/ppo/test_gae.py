"""Advantages against their definition, and with a value that is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plugins.ppo.worlds import Corridor
from recipeline_ppo.config import Config
from recipeline_ppo.environments import Environments
from recipeline_ppo.gae import gae
from recipeline_ppo.learner import Learner
from recipeline_ppo.rollout import collect, transitions


def by_definition(rewards, values, after, terminated, cut, gamma, lam):  # type: ignore[no-untyped-def]
    """A_t = sum over k of (gamma lambda)^k delta_{t+k}, up to the end of the episode; O(T^2)."""
    T, n = rewards.shape
    found = np.zeros((T, n))
    for i in range(n):
        for t in range(T):
            for k in range(t, T):
                bootstrap = 0.0 if terminated[k, i] else gamma * after[k, i]
                found[t, i] += (gamma * lam) ** (k - t) * (rewards[k, i] + bootstrap - values[k, i])
                if cut[k, i]:
                    break
    return found


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(1, 30), st.integers(1, 4), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_gae_is_its_definition(T: int, n: int, gamma: float, lam: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rewards, values, after = rng.standard_normal((3, T, n))
    terminated = rng.random((T, n)) < 0.1
    cut = terminated | (rng.random((T, n)) < 0.1)
    found = gae(rewards, values, after, terminated, cut, gamma=gamma, lam=lam)
    np.testing.assert_allclose(found, by_definition(rewards, values, after, terminated, cut, gamma, lam), rtol=0, atol=1e-12)


@pytest.mark.parametrize("ends", ["terminated", "truncated"])
def test_truncation_is_bootstrapped_with_the_true_final_observation(ends: str) -> None:
    """The value network is made to say V(place) = 10 place; with lambda 0 an advantage is r + gamma V(s') - V(s) itself."""
    config = Config(hidden=(4,), activation="relu", n_steps=7, batch_size=7, gamma=0.9, gae_lambda=0.0)
    worlds = Environments(lambda: Corridor(3 if ends == "terminated" else 1000), 1, max_episode_steps=3)
    training = Learner(config, worlds, seed=0)
    for array in training.parameters().values():
        array[:] = 0
    training.parameters()["value.0.weight"][0, 0], training.parameters()["value.1.weight"][0, 0] = 1.0, 10.0
    stretch = collect(worlds, training.backend, worlds.observations.copy(), np.random.default_rng(0), steps=7)
    batch = transitions(stretch, training.backend, gamma=0.9, gae_lambda=0.0)
    np.testing.assert_array_equal(batch.values, [0, 10, 20, 0, 10, 20, 0])
    final = 3 + 0.9 * 30 * (ends == "truncated") - 20
    np.testing.assert_allclose(batch.advantages, [1 + 9, 2 + 18 - 10, final, 1 + 9, 2 + 18 - 10, final, 1 + 9], rtol=1e-6)


def test_what_was_dropped_is_not_learned_from_and_the_step_before_is_bootstrapped() -> None:
    """The third step has no reward: it is left out, its neighbour is worth r + gamma V(s'), and the episode begins anew."""
    config = Config(hidden=(4,), activation="relu", n_steps=6, batch_size=2, gamma=0.9, gae_lambda=0.5)
    worlds = Environments(lambda: Corridor(spoil={3: "reward"}), 1)
    training = Learner(config, worlds, seed=0)
    for array in training.parameters().values():
        array[:] = 0
    training.parameters()["value.0.weight"][0, 0], training.parameters()["value.1.weight"][0, 0] = 1.0, 10.0
    stretch = collect(worlds, training.backend, worlds.observations.copy(), np.random.default_rng(0), steps=6)
    batch = transitions(stretch, training.backend, gamma=0.9, gae_lambda=0.5)
    np.testing.assert_array_equal(batch.observations[:, 0], [0, 1, 0, 1, 2])
    second = 2 + 0.9 * 20 - 10
    assert batch.advantages[1] == pytest.approx(second)
    assert batch.advantages[0] == pytest.approx(1 + 9 + 0.9 * 0.5 * second)
    assert worlds.nonfinite == 1
    assert worlds.steps == 6


@pytest.mark.parametrize("kind", ["discounted", "windowed"])
def test_what_was_dropped_teaches_the_reward_normaliser_nothing(kind: str) -> None:
    """Rewards 1, 2, then one that is lost, 1, 2 of a new episode; the last row of two copies is ragged."""
    config = Config(hidden=(4,), n_steps=5, batch_size=2, gamma=0.5, reward_normalizer=kind)
    training = Learner(config, Environments(lambda: Corridor(spoil={3: "observation"}), 2), seed=0)
    training.iterate(9)
    told = training.state().info["rewards"]
    if kind == "windowed":
        assert sorted(told["values"]) == [1, 1, 1, 1, 2, 2, 2]
    else:  # 1, 2 + 1/2, and again from the beginning
        assert told["count"] == 7
        assert told["mean"] == pytest.approx((4 * 1 + 3 * 2.5) / 7)
        assert told["returns"] == [2.5, 1.0]
