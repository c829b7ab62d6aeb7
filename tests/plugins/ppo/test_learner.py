"""Training as a whole: it learns, counts exactly, repeats itself to the bit, and goes on from a state as if nothing had happened."""

from __future__ import annotations

import json
import math
from typing import Any

import gymnasium
import numpy as np
import pytest

from plugins.ppo.worlds import ACTIONS, drift
from recipeline.errors import DataError, RecipeError, TrainingFailed
from recipeline_ppo.config import Config
from recipeline_ppo.environments import Environments
from recipeline_ppo.learner import Learner, State
from recipeline_ppo.normalizer import ObservationNormalizer

QUICK = {"hidden": (16, 16), "n_steps": 16, "batch_size": 16, "epochs": 2, "total_steps": 400, "learning_rate": 1e-2, "ent_coef": 0.01}


def learner(
    kind: str = "discrete", *, seed: int = 1, normal: bool = False, n_envs: int = 3, limit: int | None = 20, **changed: Any
) -> Learner:
    worlds = Environments(drift(kind), n_envs, max_episode_steps=limit)
    return Learner(Config(**{**QUICK, **changed}), worlds, seed=seed, normalizer=ObservationNormalizer() if normal else None)


def through_json(state: State) -> State:
    """What a file would keep of it."""
    return State({name: array.copy() for name, array in state.arrays.items()}, json.loads(json.dumps(state.info, allow_nan=False)))


def same(one: State, other: State) -> None:
    assert one.arrays.keys() == other.arrays.keys()
    for name in one.arrays:
        np.testing.assert_array_equal(one.arrays[name], other.arrays[name], err_msg=name)
    assert json.dumps(one.info, sort_keys=True) == json.dumps(other.info, sort_keys=True)


def test_cartpole_is_learned() -> None:
    """Untrained it falls after about 20 steps; after 30,000 steps of ten seeds it stands for 234 to 500."""
    config = Config(
        n_steps=32, batch_size=256, epochs=20, gamma=0.98, gae_lambda=0.8, total_steps=100_000,
        learning_rate={"schedule": "linear", "start": 1e-3, "end": 0}, clip={"schedule": "linear", "start": 0.2, "end": 0},
    )  # fmt: skip
    training = Learner(config, Environments(lambda: gymnasium.make("CartPole-v1"), 8), seed=0)
    returns: list[float] = []
    while training.step < 30_000:
        returns += training.iterate(30_000)["episode_returns"]
    assert training.step == 30_000
    assert np.mean(returns[:50]) < 40
    assert np.mean(returns[-20:]) > 120


@pytest.mark.parametrize("normal", [False, True], ids=["raw", "normalised"])
@pytest.mark.parametrize("kind", ACTIONS)
def test_a_state_goes_on_to_the_bit(kind: str, normal: bool) -> None:
    """train(N) equals train(k), a new process, restore, train on; the reward normaliser and running episodes included."""
    whole = learner(kind, normal=normal, reward_normalizer="discounted")
    for _ in range(3):
        whole.iterate()
    middle = through_json(whole.state())
    told = [whole.iterate() for _ in range(3)]
    again = learner(kind, seed=99, normal=normal, reward_normalizer="discounted")
    assert again.restore(middle)
    assert [again.iterate() for _ in range(3)] == told
    same(again.state(), whole.state())


def test_a_rollback_goes_on_with_other_random_numbers() -> None:
    training = learner()
    training.iterate()
    state = training.state()
    ways = []
    for advance in (0, 0, 1, 2):
        training.restore(state, advance=advance)
        training.iterate()
        ways.append(training.state().arrays["policy.0.weight"])
    np.testing.assert_array_equal(ways[0], ways[1])
    assert not np.array_equal(ways[0], ways[2])
    assert not np.array_equal(ways[2], ways[3])


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    states = []
    for seed in (5, 5, 6):
        training = learner(seed=seed)
        for _ in range(2):
            training.iterate()
        states.append(training.state())
    same(states[0], states[1])
    assert not np.array_equal(states[0].arrays["value.0.weight"], states[2].arrays["value.0.weight"])


@pytest.mark.parametrize("total", [1, 47, 48, 49, 100])
def test_steps_are_counted_exactly(total: int) -> None:
    """48 are in a rollout of 3 environments; the last one is cut where the total is, in the middle of a row too."""
    done = 0

    class Counting(type(drift()())):  # type: ignore[misc]
        def step(self, action: Any) -> Any:
            nonlocal done
            done += 1
            return super().step(action)

    training = Learner(Config(**QUICK), Environments(Counting, 3), seed=1)
    while training.step < total:
        training.iterate(total)
    assert training.step == done == total
    with pytest.raises(ValueError, match="not before"):
        training.iterate(total)


def test_evaluating_does_not_change_training() -> None:
    def trained(evaluate: bool) -> State:
        training = learner(normal=True)
        for _ in range(3):
            training.iterate()
            if evaluate:
                policy = training.policy()
                policy.act(np.ones((5, 3), dtype=np.float32))
                policy.act(np.ones((5, 3), dtype=np.float32), deterministic=False, rng=np.random.default_rng(0))
        return training.state()

    same(trained(False), trained(True))


def test_a_policy_stays_as_it_was() -> None:
    training = learner(normal=True)
    training.iterate()
    policy, rows = training.policy(), np.ones((2, 3), dtype=np.float32)
    before = policy.act(rows)
    training.iterate()
    np.testing.assert_array_equal(policy.act(rows).value, before.value)
    assert not np.array_equal(training.policy().act(rows).value, before.value)
    with pytest.raises(ValueError, match="read-only"):
        policy.arrays()["policy.0.weight"][:] = 0


def test_values_in_force_follow_the_schedule_until_they_are_set() -> None:
    training = learner(learning_rate={"schedule": "linear", "start": 1.0e-2, "end": 0}, total_steps=96)
    assert training.iterate()["learning_rate"] == 1e-2
    assert training.hparam("learning_rate") == pytest.approx(5e-3)
    training.set_hparam("learning_rate", 1e-3)
    assert training.iterate()["learning_rate"] == 1e-3
    again = learner(learning_rate={"schedule": "linear", "start": 1.0e-2, "end": 0}, total_steps=96)
    again.restore(training.state())
    assert again.hparam("learning_rate") == 1e-3
    with pytest.raises(ValueError, match="gamma cannot change"):
        training.set_hparam("gamma", 0.5)
    with pytest.raises(ValueError, match="at least 0"):
        training.set_hparam("clip", math.nan)


def test_all_mistakes_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        learner(gamma=1.2, clip=-0.1, batch_size=1000, squash=True)
    assert {problem.key for problem in caught.value.problems} == {("gamma",), ("clip",), ("batch_size",), ("squash",)}
    assert "make n_steps at least 334" in str(caught.value)


@pytest.mark.parametrize("where", ["policy.0.weight", "value.2.bias"])
def test_parameters_that_are_not_finite_are_told_once_and_never_used(where: str) -> None:
    training = learner()
    training.iterate()
    good = training.state()
    training.parameters()[where][:] = math.nan
    before = training.step
    told = training.iterate()
    assert math.isnan(told["policy_loss"])
    assert training.step == before
    training.restore(good, advance=1)
    assert math.isfinite(training.iterate()["policy_loss"])
    training.parameters()[where][:] = math.nan
    training.iterate()
    with pytest.raises(TrainingFailed, match="not finite at step"):
        training.iterate()


def test_another_number_of_environments_is_named() -> None:
    state = learner().state()
    with pytest.raises(DataError, match="has 3 environments, this training 2"):
        learner(n_envs=2).restore(state)
    with pytest.raises(DataError, match="another hidden"):
        learner(hidden=(8, 8)).restore(state)
    with pytest.raises(DataError, match="without observation_normalizer"):
        learner(normal=True).restore(state)
