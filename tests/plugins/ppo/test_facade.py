"""The manager, the trainer and the metrics for loops written by hand: the description's own blocks, run as they stand."""

from __future__ import annotations

import builtins
import math
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from plugins.ppo.worlds import Drift
from recipeline import measures
from recipeline.errors import Conflict, Damaged, DataError, TrainingFailed
from recipeline_ppo.checkpoints import CheckpointFolder
from recipeline_ppo.config import Config
from recipeline_ppo.monitoring import OperationsMetricsCollector
from recipeline_ppo.operations import (
    CheckpointConfig,
    CircuitBreakerConfig,
    LearningScheduleConfig,
    OperationsManager,
    RetuningConfig,
    load_model_state,
)
from recipeline_ppo.trainer import PPOTrainer

HERE = Path(__file__).parent


def block(name):
    text = (HERE / "blocks.md").read_text(encoding="utf-8")
    return re.search(rf"^## {name}\n\n```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL).group(1)


def run(name, **names):
    """The block in these names, which are given back with what it added."""
    exec(compile(block(name), f"blocks.md {name}", "exec"), names)
    return names


class Formulas(gymnasium.Env):
    """Forty numbers, sixty actions; the reward is high where the action is the largest number's."""

    def __init__(self):
        self.observation_space, self.action_space = spaces.Box(-np.inf, np.inf, (40,), np.float32), spaces.Discrete(60)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.n, self.x = 0, self.np_random.normal(size=40).astype(np.float32)
        return self.x, {}

    def step(self, action):
        self.n += 1
        reward = float(action == self.x.argmax())
        self.x = self.np_random.normal(size=40).astype(np.float32)
        return self.x, reward, self.n >= 50, False, {}


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    measures.reset()


def small(**rest):
    return PPOTrainer(state_dim=3, action_dim=3, config=Config(hidden=(8,), n_steps=64, batch_size=32, **rest))


# --- the blocks ---


def test_the_entropy_coefficient_decays_along_a_cosine():
    """Ten thousand steps as they stand: from 0.01 to 0.001 and by the formula on the way."""
    seen = {}

    class Watched(PPOTrainer):
        entropy_coef = property(PPOTrainer.entropy_coef.fget, lambda self, v: seen.setdefault(len(seen), v))

    trainer = Watched(state_dim=3, action_dim=3, config=Config(hidden=(8,), n_steps=64))
    names = run("entropy", trainer=trainer, loss=0.5, reward=1.0)
    assert len(seen) == 10_000
    assert seen[0] == pytest.approx(0.01)
    assert seen[9999] == pytest.approx(0.001, abs=1e-9)
    for step in (2500, 5000, 7500):
        assert seen[step] == pytest.approx(0.001 + 0.009 * (1 + math.cos(math.pi * step / 10_000)) / 2)
    steps = sorted(info["step"] for info in names["ops_manager"]._writer.infos().values())
    assert steps[-5:] == [7500, 8000, 8500, 9000, 9500]
    assert sorted(p.name for p in Path("checkpoints").iterdir()) == sorted(names["ops_manager"]._writer.infos())


def test_rewards_are_normalised_over_a_thousand_steps(capsys):
    """The block's reward is (reward - mean) / sd of the last thousand; the statistics are theirs."""
    manager, rng = OperationsManager("./checkpoints"), np.random.default_rng(0)
    rewards = rng.normal(50, 7, 1500)
    for step, reward in enumerate(rewards[:-1]):
        manager.on_training_step(step, {"loss": 1.0, "reward": reward}, {})
    names = run("normalisation", ops_manager=manager, step=1499, metrics={"loss": 1.0, "reward": rewards[-1]}, model_state={})
    last = rewards[-1000:]
    assert names["normalized_reward"] == pytest.approx((rewards[-1] - last.mean()) / last.std(), abs=1e-6)
    assert capsys.readouterr().out == f"Reward mean: {last.mean():.3f}, std: {last.std():.3f}\n"


def test_a_checkpoint_every_five_hundred_steps(capsys):
    """The block says where; what stands there are the weights."""
    trainer, manager = small(), OperationsManager("./checkpoints")
    model_state = trainer.network.state_dict()
    for step in range(1001):
        run("saving", ops_manager=manager, step=step, metrics={"loss": 1.0, "reward": 1.0}, model_state=model_state)
    assert re.findall(r"checkpoint_(\d+)", capsys.readouterr().out) == ["000000500", "000001000"]
    kept = CheckpointFolder("checkpoints").read("checkpoint_000001000")["state"]["learner"]["arrays"]
    for name, array in model_state.items():
        assert np.array_equal(kept[name], array)


@pytest.mark.parametrize("what", ["nan", "drop"])
def test_an_anomaly_goes_back_by_itself(what, capsys):
    """A NaN at once, a reward that falls by more than half for six updates: the block loads the checkpoint and says why."""
    trainer, manager = small(), OperationsManager("./checkpoints")
    rng = np.random.default_rng(1)
    good = None
    for step in range(600):
        names = {"ops_manager": manager, "step": step, "trainer": trainer, "model_state": trainer.network.state_dict()}
        reward = 100 * (1 - math.exp(-step / 100)) + rng.normal(0, 3)
        if step == 500:
            good = {name: array.copy() for name, array in trainer.network.state_dict().items()}
        if step == 501:
            for array in trainer.network.state_dict().values():
                array += 1
        if step >= 560:
            reward = math.nan if what == "nan" else 5.0
        run("rollback", metrics={"loss": rng.normal(0, 0.1), "reward": reward}, **names)
        out = capsys.readouterr().out
        if out:
            break
    assert out.splitlines()[0].startswith("❌ Anomaly detected: " + {"nan": "nonfinite", "drop": "return_drop"}[what])
    assert "🔄 Rolled back to: checkpoints/checkpoint_000000500" in out
    assert step == 560 if what == "nan" else 565 <= step <= 585
    for name, array in trainer.network.state_dict().items():
        assert np.array_equal(array, good[name])


def test_three_failures_downshift_for_five_minutes_and_shorten_the_ttl(capsys):
    """Failures told by the block itself; the TTL is 300 while down, 3600 before and after; three successes close for good."""
    clock = Clock()
    manager = OperationsManager("./checkpoints", clock=clock)
    stored = {}
    cache = SimpleNamespace(set=lambda key, value, ttl: stored.update({key: (value, ttl)}))

    def ttl():
        return run("ttl", ops_manager=manager, cache=cache, key="k", value="v")["current_ttl"]

    def fails(prompt):
        raise TimeoutError

    assert ttl() == 3600
    for failure in range(1, 4):
        run("downshift", ops_manager=manager, qwen_model=SimpleNamespace(generate=fails), prompt="p")
        assert ("🔻 Using downshift mode: balanced" in capsys.readouterr().out) is (failure == 3)
    assert ttl() == 300
    assert stored["k"] == ("v", 300)
    assert manager.circuit_breaker.current_mode("qwen") == "balanced"
    clock.now += 269
    assert manager.circuit_breaker.should_use_downshift()
    clock.now += 62  # the open time is 300 s, give or take a tenth
    assert not manager.circuit_breaker.should_use_downshift()
    assert ttl() == 3600
    for _ in range(3):
        run("downshift", ops_manager=manager, qwen_model=SimpleNamespace(generate=lambda prompt: "text"), prompt="p")
    assert manager.circuit_breaker.state("qwen") == "closed"


def test_failures_lead_down_to_fast_and_one_more_after_the_cooldown_opens_again():
    """Six failures: fast. Half open, one failure, and the top is open for twice as long."""
    clock = Clock()
    manager = OperationsManager("./checkpoints", clock=clock)
    for _ in range(6):
        manager.on_llm_failure("qwen")
    assert manager.circuit_breaker.current_mode() == "fast"
    clock.now += 331
    manager.on_llm_failure("qwen")
    assert manager.circuit_breaker.current_mode("qwen") != "creative"
    clock.now += 400
    assert manager.circuit_breaker.state("qwen") == "open"
    assert manager.circuit_breaker.current_mode("other") == "creative"


def test_feedback_retunes_the_trainer(capsys):
    """A hundred ratings through the block: divided and bad ones, so more entropy and a third of the rate; the schedule carries it on."""
    manager = OperationsManager("./checkpoints")
    trainer = small(ent_coef=0.01)
    rng = np.random.default_rng(0)
    for number in range(100):
        text = block("feedback").replace('"rating": 4.5', f'"rating": {rng.choice([1, 1, 5])}').replace("user_123", f"user_{number % 40}")
        exec(text, {"ops_manager": manager, "trainer": trainer})
        assert (capsys.readouterr().out != "") is (number == 99)
    assert trainer.entropy_coef == pytest.approx(0.02)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)
    assert manager.on_training_step(0, {"loss": 1.0, "reward": 1.0}, {})["entropy_coef"] == pytest.approx(0.02)
    again = OperationsManager("./checkpoints")
    assert again.on_training_step(1, {"loss": 1.0, "reward": 1.0}, {})["entropy_coef"] == pytest.approx(0.02, rel=1e-4)


def test_good_feedback_of_one_user_alone_changes_nothing_and_that_of_many_halves_the_clip():
    """The block as it stands is one user with 4.5; a tenth of the ratings at most are one user's."""
    manager, trainer = OperationsManager("./checkpoints"), small()
    for _ in range(150):
        run("feedback", ops_manager=manager, trainer=trainer)
    assert trainer.clip_epsilon == 0.2
    manager = OperationsManager("./others")
    for number in range(100):
        exec(block("feedback").replace("user_123", f"user_{number % 20}"), {"ops_manager": manager, "trainer": trainer})
    assert trainer.clip_epsilon == pytest.approx(0.1)


def test_all_of_it_together(capsys):
    """The whole loop with forty numbers, sixty actions and rollouts of 2,048 steps; `range` ends it after three turns."""
    names = run("together", env=Formulas(), range=lambda n: builtins.range(min(n, 3)))
    out = capsys.readouterr().out
    assert re.search(r"Step 0:\n  Entropy coef: 0\.0100\n  Reward: -?\d+\.\d{3}\n  TTL: 3600s\n", out)
    assert names["trainer"].learner.step == 3 * 2048
    assert names["trainer"].entropy_coef == names["ops_result"]["entropy_coef"] < 0.01
    assert names["ops_result"]["anomaly"] is None
    assert all(math.isfinite(v) for v in names["train_stats"].values())


def test_configurations_take_effect_when_they_are_assigned():
    """The block's own: entropy from 0.02 to 0.0005 linearly, a window of 2,000, a checkpoint every 1,000 steps, spikes from 1.5."""
    names = run("configs", OperationsManager=OperationsManager)
    manager, rng = names["ops_manager"], np.random.default_rng(3)
    saved, told = [], {}
    for step in range(2500):
        loss = 1.8 if step >= 2490 else 1.0 + rng.normal(0, 0.02)
        told = manager.on_training_step(step, {"loss": loss, "reward": float(step)}, {"w": np.zeros(2)})
        saved += [told["checkpoint_path"]] if told["checkpoint_path"] else []
        if step == 1250:
            assert told["entropy_coef"] == pytest.approx(0.02 + (0.0005 - 0.02) * 0.125)
        if told["anomaly"]:
            break
    assert [Path(p).name for p in saved] == ["checkpoint_000001000", "checkpoint_000002000"]
    assert told["anomaly"].startswith("loss_spike: loss 1.8")  # 1.8 times the median is above 1.5; patience is three
    assert step == 2492
    assert manager.reward_normalizer.get_stats()["count"] == 2000


def test_metrics_are_counted_under_their_names():
    """The block, and what Prometheus then reads."""
    manager = OperationsManager("./checkpoints")
    for _ in range(3):
        manager.on_llm_failure("llm")
    names = {"ops_manager": manager, "step": 0, "metrics": {"loss": 1.0, "reward": 2.0}, "model_state": {}}
    run("metrics", train_stats={"policy_loss": -0.25, "value_loss": 0.5}, avg_reward=7.0, cache_size=12, **names)
    text = measures.exposition()[0].decode()
    for line in (
        'rl_update_total{algorithm="ppo"} 1.0',
        'rl_loss{algorithm="ppo",loss_type="policy"} -0.25',
        'rl_loss{algorithm="ppo",loss_type="value"} 0.5',
        'rl_reward{algorithm="ppo"} 7.0',
        'rl_entropy{algorithm="ppo"} 0.01',
        'circuit_breaker_downgrade_total{from_profile="creative",service="llm",to_profile="balanced"} 1.0',
        'cache_size{cache_type="llm"} 12.0',
    ):
        assert line in re.sub(r"\{(.*?)\}", lambda m: "{" + ",".join(sorted(m[1].split(","))) + "}", text), (
            line
        )  # the order of labels means nothing


def test_the_simulation_prints_what_the_description_shows():
    """`python -m recipeline_ppo.operations`, in English."""
    done = subprocess.run([sys.executable, "-m", "recipeline_ppo.operations"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    for line in (
        "=== Operations simulation ===", "1. Training steps", "  Step 500: Checkpoint saved", "  Step 1000: Checkpoint saved",
        "2. Qwen failures", "  Failure 3: Downshift activated!", "3. User feedback and retuning",
        "  ✓ Retuning triggered after 100 samples", "  Suggestions: {'entropy_coef': 0.02, 'learning_rate': 0.0001}", "Done!",
    ):  # fmt: skip
        assert line in done.stdout, line
    assert done.stdout.count("Checkpoint saved") == 2
    assert done.stdout.count("Downshift activated!") == 1


# --- beyond the blocks ---


def test_every_configuration_can_be_assigned():
    """Breaker and retuning, too; frozen, so that a changed field cannot be without effect."""
    manager = OperationsManager("./checkpoints")
    manager.circuit_breaker_config = CircuitBreakerConfig(failure_threshold=1, reduced_ttl=60, tiers=("slow", "quick"))
    manager.on_llm_failure("qwen")
    assert manager.circuit_breaker.get_current_ttl() == 60
    assert manager.circuit_breaker.current_mode() == "quick"
    manager.retuning_config = RetuningConfig(min_samples=20, entropy_factor=3.0, mode="suggest")
    told = [manager.on_user_feedback({"rating": 1, "user_id": f"u{n}"}) for n in range(20)]
    assert told[-1] == {"entropy_coef": 0.03}
    assert manager.on_training_step(0, {}, {})["entropy_coef"] == 0.01
    manager.schedule_config = LearningScheduleConfig(entropy_coef_start=0.5, entropy_coef_end=0.5)
    assert manager.on_training_step(1, {}, {})["entropy_coef"] == 0.5
    with pytest.raises(AttributeError):
        manager.schedule_config.entropy_coef_start = 1.0
    with pytest.raises(ValueError, match="mode"):
        manager.retuning_config = RetuningConfig(mode="always")


def test_without_automatic_rollback_alarms_only_speak():
    manager = OperationsManager("./checkpoints", checkpoint_config=CheckpointConfig(enable_auto_rollback=False))
    manager.on_training_step(0, {"loss": 1.0, "reward": 1.0}, {"w": np.zeros(1)})
    told = manager.on_training_step(1, {"loss": math.nan, "reward": 1.0}, {"w": np.zeros(1)})
    assert told["anomaly"].startswith("nonfinite: loss")
    assert told["rollback_path"] is None


def test_the_literal_mode_goes_back_at_once_and_refuses_what_it_cannot_judge():
    """mode seed: twice the loss before, less than half of the reward before; a reference of zero is an error."""
    for bad in ({"loss": 2.1, "reward": 1.0}, {"loss": 1.0, "reward": 0.4}):
        manager = OperationsManager(f"./c{bad['loss']}", checkpoint_config=CheckpointConfig(mode="seed"))
        for step in range(12):
            manager.on_training_step(step, {"loss": 1.0, "reward": 1.0}, {"w": np.zeros(1)})
        told = manager.on_training_step(12, bad, {"w": np.ones(1)})
        assert told["anomaly"].startswith("relative")
        assert not load_model_state(told["rollback_path"])["w"].any()
    manager = OperationsManager("./d", checkpoint_config=CheckpointConfig(mode="seed"))
    manager.on_training_step(0, {"loss": 1.0, "reward": -5.0}, {})
    with pytest.raises(DataError, match="reward was -5"):
        manager.on_training_step(1, {"loss": 1.0, "reward": -5.0}, {})


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.01, -3.0), (100.0, -2000.0)])
def test_healthy_training_with_negative_losses_and_rewards_is_left_alone(scale, shift):
    """391 updates of policy losses about zero and returns of any sign: the literal rule raised some 360 alarms on these."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        manager = OperationsManager(f"./c{seed}")
        alarms = 0
        for step in range(391):
            metrics = {"loss": rng.normal(-0.01, 0.02), "reward": scale * (200 * (1 - math.exp(-step / 100)) + rng.normal(0, 15)) + shift}
            alarms += manager.on_training_step(step, metrics, {})["anomaly"] is not None
        assert alarms == 0, seed


def test_a_folder_of_another_training_is_not_mixed_up():
    """A new loop from step 0 in the folder of an old one is a Conflict; going on from its last step is not."""
    manager = OperationsManager("./checkpoints")
    for step in range(1200):
        manager.on_training_step(step, {"loss": 1.0, "reward": 1.0}, {"w": np.zeros(1)})
    with pytest.raises(Conflict, match="up to step 1000"):
        OperationsManager("./checkpoints").on_training_step(0, {"loss": 1.0}, {"w": np.zeros(1)})
    told = OperationsManager("./checkpoints").on_training_step(1500, {"loss": 1.0}, {"w": np.zeros(1)})
    assert told["checkpoint_path"].endswith("checkpoint_000001500")


def test_the_trainer_learns_and_its_policy_answers():
    """A few rollouts of a small task: the return rises; the policy acts without trainer and environment."""
    trainer, env = small(ent_coef=0.0, learning_rate=3e-3), Drift()
    first = trainer.collect_rollout(env, 512)
    for _ in range(15):
        told = trainer.train_step(n_epochs=6, batch_size=64)
        last = trainer.collect_rollout(env, 512)
    assert last > first
    assert told["epochs"] == 6
    assert trainer.learner.step == 16 * 512
    assert trainer.policy().act(np.zeros((4, 3), np.float32)).action.shape == (4,)


@pytest.mark.parametrize("kind", ["discrete", "multidiscrete", "multibinary", "box"])
def test_a_checkpoint_brings_all_of_a_trainer_back(kind):
    """Exactly: the same bits go on. Else the random stream moves on, from the same weights."""
    size = {"discrete": 3, "multidiscrete": 5, "multibinary": 3, "box": 2}[kind]

    def some(trainer, env, n):
        for _ in range(n):
            trainer.collect_rollout(env, 64)
            trainer.train_step(2, 32)
        return np.concatenate([a.reshape(-1) for a in trainer.network.state_dict().values()])

    trainer, env = PPOTrainer(3, size, config=Config(hidden=(8,), n_steps=64)), Drift(kind)
    kept = some(trainer, env, 2).copy()
    trainer.optimizer.param_groups[0]["lr"] = 1e-3
    trainer.save_checkpoint("c")
    after = some(trainer, env, 2).copy()
    trainer.load_checkpoint("c", exact=True)
    assert np.array_equal(np.concatenate([a.reshape(-1) for a in trainer.network.state_dict().values()]), kept)
    assert trainer.optimizer.param_groups[0]["lr"] == 1e-3
    assert np.array_equal(some(trainer, env, 2), after)
    trainer.load_checkpoint("c")
    assert not np.array_equal(some(trainer, env, 2), after)


def test_the_trainer_says_what_is_wrong():
    """No rollout, another size of environment, a damaged checkpoint, one without a network, foreign parameters, fixed options."""
    trainer = small()
    with pytest.raises(TrainingFailed, match="no rollout to learn"):
        trainer.train_step()
    with pytest.raises(DataError, match=r"40 numbers in an observation and 60 in an action; the trainer has 3 and 3"):
        trainer.collect_rollout(Formulas())
    trainer.save_checkpoint("c")
    path = Path("c/state.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Damaged, match=r"c/state\.safetensors"):
        trainer.load_checkpoint("c")
    manager = OperationsManager("./m")
    empty = [manager.on_training_step(step, {"loss": 1.0}, {})["checkpoint_path"] for step in range(501)][-1]
    with pytest.raises(DataError, match="holds no network"):
        trainer.load_checkpoint(empty)
    with pytest.raises(DataError, match="parameters differ"):
        trainer.network.load_state_dict({"w": np.zeros(1)})
    with pytest.raises(DataError, match="eps cannot change"):
        trainer.optimizer.param_groups[0]["eps"] = 1.0
    with pytest.raises(ValueError, match="at least 0"):
        trainer.clip_epsilon = -1


def test_on_training_step_costs_microseconds():
    """Far below what an update takes; the figure is the bench's."""
    manager, state = OperationsManager("./checkpoints"), {"w": np.zeros(4)}
    manager.on_training_step(0, {"loss": 1.0, "reward": 0.0}, state)
    given = [{"loss": 1.0 + (n % 7) / 10, "reward": float(n % 5)} for n in range(400)]
    began = time.process_time()
    for n, metrics in enumerate(given):
        manager.on_training_step(n, metrics, state)
    assert (time.process_time() - began) / 400 < 1e-3


def test_odd_numbers_leave_the_gauges_as_they_were():
    """A NaN is the anomaly rules' business."""
    collector = OperationsMetricsCollector()
    collector.record_rl_update("ppo", reward=3.0)
    collector.record_rl_update("ppo", reward=math.nan, policy_loss=math.inf)
    assert 'rl_reward{algorithm="ppo"} 3.0' in collector.exposition()
    assert 'rl_update_total{algorithm="ppo"} 2.0' in collector.exposition()
