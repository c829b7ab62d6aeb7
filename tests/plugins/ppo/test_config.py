"""Every mistake in the hyperparameters is named with its field; what the seed's recipe says is none."""

from __future__ import annotations

from typing import Any

import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from recipeline_ppo.config import Config
from recipeline_ppo.threads import single_threaded


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("gamma", 1.01), ("gamma", "0.9"), ("gae_lambda", -0.1), ("clip", -0.2), ("clip", 0), ("learning_rate", 0.0),
        ("learning_rate", {"schedule": "linear", "start": -1, "end": 0}), ("learning_rate", {"schedule": "cubic"}),
        ("learning_rate", {"schedule": "linear", "begin": 1}), ("ent_coef", float("nan")), ("ent_coef", None),
        ("hidden", ()), ("hidden", (64, 0)), ("hidden", 64),
        ("n_steps", 0), ("batch_size", 1.5), ("epochs", True), ("total_steps", -1), ("vf_coef", -1), ("max_grad_norm", 0),
        ("value_loss", "mae"), ("value_clip", 0), ("target_kl", -0.1), ("normalize_advantage", 1), ("backend", "jax"),
        ("policy", "transformer"), ("activation", "gelu"), ("reward_normalizer", "yes"), ("log_std", 30), ("max_nonfinite", -1),
    ],
)  # fmt: skip
def test_a_mistake_names_its_field(field: str, value: Any) -> None:
    found = Config(**{field: value}).problems()
    assert [name for name, _ in found] == [field]
    assert found[0][1]


def test_what_belongs_together_is_checked_together() -> None:
    assert Config(policy="cnn", backend="numpy").problems()[0][0] == "backend"
    assert Config(n_steps=32, batch_size=256).problems(8) == []
    assert "n_envs * n_steps = 4 * 32 = 128" in Config(n_steps=32, batch_size=256).problems(4)[0][1]
    assert {name for name, _ in Config(gamma=2, clip=-1, n_steps=1).problems(1)} == {"gamma", "clip", "batch_size"}


def test_schedules_run_over_the_whole_training_unless_they_say_otherwise() -> None:
    config = Config(
        total_steps=100,
        hidden=[32],  # type: ignore[arg-type]  # as YAML has it
        learning_rate={"schedule": "linear", "start": 1e-3, "end": 0},
        ent_coef={"schedule": "cosine", "start": 0.01, "end": 0.001, "steps": 10},
    )
    assert config.problems() == []
    assert config.hidden == (32,)
    assert config.schedule("learning_rate")(50) == pytest.approx(5e-4)
    assert config.schedule("ent_coef")(10) == pytest.approx(0.001)


def test_wide_networks_are_for_torch() -> None:
    assert Config(hidden=(512,)).numpy_suffices()
    assert not Config(hidden=(513,)).numpy_suffices()
    assert Config(hidden=(513,), backend="numpy").numpy_suffices()
    assert not Config(backend="torch").numpy_suffices()


def test_threads_are_one_inside_and_as_before_afterwards() -> None:
    def threads() -> list[int]:
        return [pool["num_threads"] for pool in ThreadpoolController().info()]

    with threadpool_limits(limits=2):
        before = threads()
        with single_threaded():
            assert set(threads()) == {1}
        assert threads() == before
        with pytest.raises(ZeroDivisionError), single_threaded():
            _ = 1 / 0
        assert threads() == before
    assert 2 in before
