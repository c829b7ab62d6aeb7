"""The trainer for loops written by hand is the same on both backends, and with the networks that only torch has."""

from __future__ import annotations

import builtins
import re
from pathlib import Path

import numpy as np
import pytest

from plugins.ppo.test_facade import Formulas, block
from plugins.ppo.worlds import Drift
from recipeline.errors import DataError
from recipeline_ppo.config import Config
from recipeline_ppo.operations import CheckpointConfig, OperationsManager
from recipeline_ppo.trainer import PPOTrainer

NETWORKS = {"numpy": {"backend": "numpy"}, "torch": {"backend": "torch"}, "lstm": {"policy": "lstm"}}


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(params=NETWORKS)
def network(request):
    return request.param


def trainer(network, size=3, **rest):
    return PPOTrainer(3, size, config=Config(hidden=(8,), n_steps=64, batch_size=32, **NETWORKS[network], **rest))


def weights(one):
    """Copies, {name: array}."""
    return {name: np.array(value.tolist(), np.float32) for name, value in one.network.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def test_the_whole_loop_of_the_description_runs(network, capsys):
    """The block with forty numbers and sixty actions; shorter rollouts, two turns."""
    text = block("together").replace("n_steps=2048", "n_steps=128").replace("n_epochs=10", "n_epochs=2")
    text = text.replace("action_dim=60)", "action_dim=60, config=config)")
    names = {
        "env": Formulas(),
        "range": lambda n: builtins.range(min(n, 2)),
        "config": Config(hidden=(8,), ent_coef=0.01, **NETWORKS[network]),
    }
    exec(compile(text, "together", "exec"), names)
    assert re.search(r"Step 0:\n  Entropy coef: 0\.0100\n  Reward: -?\d+\.\d{3}\n  TTL: 3600s\n", capsys.readouterr().out)
    assert names["trainer"].learner.step == 256
    assert (
        type(names["trainer"].learner.backend).__name__
        == {"numpy": "NumpyBackend", "torch": "TorchBackend", "lstm": "RecurrentBackend"}[network]
    )


def test_hyperparameters_are_read_and_written_and_take_effect(network):
    """A rate of zero changes no weight; what is set is what the optimiser of torch has, and outlives a change of the environment."""
    one, env = trainer(network), Drift()
    one.collect_rollout(env, 64)
    assert (one.optimizer.param_groups[0]["lr"], one.entropy_coef, one.clip_epsilon) == (3e-4, 0.0, 0.2)
    one.optimizer.param_groups[0]["lr"], one.entropy_coef, one.clip_epsilon = 0.0, 0.03, 0.05
    before = weights(one)
    one.train_step(2, 32)
    assert same(weights(one), before)
    one.optimizer.param_groups[0]["lr"] = 1e-2
    one.collect_rollout(Drift(), 64)
    one.train_step(2, 32)
    assert not same(weights(one), before)
    assert (one.optimizer.param_groups[0]["lr"], one.entropy_coef, one.clip_epsilon) == (1e-2, 0.03, 0.05)
    if network != "numpy":
        assert one.learner.backend.optimizer.param_groups[0]["lr"] == 1e-2


@pytest.mark.parametrize("kind", ["discrete", "box"])
def test_weights_that_are_loaded_act_at_once(network, kind):
    """In the policy and in the next rollout, which tells the probabilities under which its actions were drawn."""
    size = {"discrete": 3, "box": 2}[kind]
    one, other = trainer(network, size), trainer(network, size)
    one.collect_rollout(Drift(kind), 64)
    one.optimizer.param_groups[0]["lr"] = 3e-2
    one.train_step(4, 32)
    other.collect_rollout(Drift(kind), 64)
    other.network.load_state_dict(one.network.state_dict())
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    ours, theirs = one.policy().act(x), other.policy().act(x)
    assert np.array_equal(ours.action, theirs.action)
    assert np.array_equal(ours.log_prob, theirs.log_prob)
    other.collect_rollout(Drift(kind), 64)
    told = other.train_step(1, 64)
    assert told["approx_kl"] < 0.05  # drawn under the policy that is updated: stale probabilities would show here
    if kind == "box":
        for value in other.network.state_dict().values():
            value[...] = 0  # in place, as a loop by hand may
        other.collect_rollout(Drift(kind), 64)
        assert np.array_equal(np.asarray(other.learner.backend.pi.log_std), np.zeros(2, np.float32))


def test_a_manager_saves_and_brings_back(network):
    """The NaN that a loop wrote into the weights is undone, moments and all; exactly the same bits go on where that is asked for."""
    one, env = trainer(network), Drift()
    manager = OperationsManager("./m", checkpoint_config=CheckpointConfig(save_interval_steps=2, probation=1))
    saved = None
    for step in range(6):
        reward = one.collect_rollout(env, 64)
        told = one.train_step(2, 32)
        answer = manager.on_training_step(step, {"loss": told["policy_loss"], "reward": reward}, one.network.state_dict())
        if answer["checkpoint_path"]:
            saved, kept = answer["checkpoint_path"], weights(one)
    for value in one.network.state_dict().values():
        value[...] = np.nan
    answer = manager.on_training_step(6, {"loss": float("nan"), "reward": 1.0}, one.network.state_dict())
    assert answer["rollback_path"] == saved
    one.load_checkpoint(saved)
    assert same(weights(one), kept)
    runs = []
    for _ in range(2):
        one.load_checkpoint(saved, exact=True)
        one.collect_rollout(env, 64)
        one.train_step(2, 32)
        runs.append(weights(one))
    assert same(*runs)


def test_a_checkpoint_of_one_backend_is_one_of_the_other_and_not_of_another_network():
    one = trainer("torch")
    one.collect_rollout(Drift(), 64)
    one.train_step(2, 32)
    one.save_checkpoint("c")
    other = trainer("numpy")
    other.collect_rollout(Drift(), 64)
    other.load_checkpoint("c", exact=True)
    assert same(weights(other), weights(one))
    with pytest.raises(DataError, match="another network"):
        trainer("lstm").load_checkpoint("c")
    assert Path("c/state.safetensors").is_file()


def test_another_environment_begins_without_the_memory_of_the_last():
    """The rollout in it starts from zeros."""
    one = trainer("lstm")
    one.collect_rollout(Drift(far=1e9), 30)
    assert one.learner.backend.memory.any()
    one.collect_rollout(Drift(far=1e9), 30)
    first = one._batch.order.memory[0]
    assert not first.any()
