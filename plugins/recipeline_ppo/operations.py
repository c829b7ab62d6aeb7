"""A manager for training loops written by hand: one call per step, and the loop is told what to do.

    manager = OperationsManager(checkpoint_dir="./checkpoints")
    for step in range(10_000):
        told = manager.on_training_step(step, {"loss": loss, "reward": reward}, trainer.network.state_dict())
        trainer.entropy_coef = told["entropy_coef"]
        if told["rollback_path"]:
            trainer.load_checkpoint(told["rollback_path"])

`python -m recipeline_ppo.operations` shows it at work. Recipes do not need it: `training.train` carries the same callbacks.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from recipeline.errors import Conflict, DataError
from recipeline.operations import (
    KLBlowup,
    LossSpike,
    NonFinite,
    OpsHarness,
    Relative,
    ReturnDrop,
    Rollback,
    Rotation,
    Rule,
    Schedule,
    WindowedNormalizer,
)
from recipeline.resilience import Breaker
from recipeline.stores import files
from recipeline_ppo.checkpoints import CheckpointFolder, copied, read_checkpoint
from recipeline_ppo.feedback import Mode, Retuner, RetunerSettings

MOST_SERVICES = 64


@dataclass(frozen=True)
class LearningScheduleConfig:
    """entropy_decay_type is a shape of `recipeline.operations.Schedule`; reward_norm_window counts rewards."""

    entropy_coef_start: float = 0.01
    entropy_coef_end: float = 0.001
    entropy_decay_steps: int = 10_000
    entropy_decay_type: Literal["cosine", "linear", "exponential", "constant"] = "cosine"
    reward_norm_window: int = 1000
    reward_norm_warm_up: int = 100
    reward_norm_clip: float = 10.0
    learning_rate: float = 3e-4
    clip_epsilon: float = 0.2


@dataclass(frozen=True)
class CheckpointConfig:
    """mode robust: the rules of `recipeline.operations`: a loss spike against its median warns, a fall of the reward by more than half
    of all it ever moved goes back. mode seed: the literal rules, loss above `loss_spike_threshold` times the one before, reward below
    `reward_drop_threshold` times the one before; both go back, and references of zero or less are refused (DataError).

    probation   updates without an alarm after which a checkpoint may be gone back to
    strict      a checkpoint that cannot be written ends training; else it is told and training goes on
    """

    save_interval_steps: int = 500
    max_checkpoints: int = 5
    loss_spike_threshold: float = 2.0
    reward_drop_threshold: float = 0.5
    enable_auto_rollback: bool = True
    mode: Literal["robust", "seed"] = "robust"
    probation: int = 10
    max_rollbacks: int = 5
    strict: bool = False

    def rules(self) -> list[Rule]:
        if self.mode == "seed":
            return [
                NonFinite(),
                Relative("loss", self.loss_spike_threshold, severity="rollback", cooldown=0),
                Relative("reward", self.reward_drop_threshold, severity="rollback", cooldown=0),
            ]
        return [
            NonFinite(),
            SignedLossSpike("loss", ratio=self.loss_spike_threshold),
            ReturnDrop("return_recent", fraction=1 - self.reward_drop_threshold),
            KLBlowup("approx_kl"),
        ]


@dataclass(frozen=True)
class CircuitBreakerConfig:
    """Seconds. The open time of a tier grows by `growth` each time it opens without closing in between, ± `jitter`."""

    failure_threshold: int = 3
    downshift_duration: float = 300.0
    success_threshold: int = 3
    growth: float = 2.0
    jitter: float = 0.1
    longest: float = 3600.0
    normal_ttl: int = 3600
    reduced_ttl: int = 300
    tiers: tuple[str, ...] = ("creative", "balanced", "fast")


@dataclass(frozen=True)
class RetuningConfig:
    """Judged at min_samples ratings and then per `every` new ones, the newest max_samples count. `mode` apply changes what
    `on_training_step` returns from then on; suggest only tells.
    """

    min_samples: int = 100
    max_samples: int = 300
    every: int = 100
    low_rating: float = 3.0
    high_rating: float = 4.0
    rating_sd: float = 1.5
    entropy_factor: float = 2.0
    learning_rate_factor: float = 1 / 3
    clip_factor: float = 0.5
    user_share: float = 0.1
    cooldown: int = 100
    mode: Mode = "apply"

    def settings(self) -> RetunerSettings:
        return RetunerSettings(
            first=self.min_samples,
            every=self.every,
            window=self.max_samples,
            share=self.user_share,
            low=self.low_rating,
            high=self.high_rating,
            noisy=self.rating_sd,
            explore=self.entropy_factor,
            exploit=self.clip_factor,
            calm=self.learning_rate_factor,
            cooldown=self.cooldown,
            at_least=min(50, self.min_samples),
            mode=self.mode,
            names=("entropy_coef", "learning_rate", "clip_epsilon"),
        )


class SignedLossSpike(LossSpike):
    """A loss spike for a series that may also be negative, as a policy loss: as long as it is positive by factors; from the first
    value that is not on by |x|, above its median by `ratio` and by 6 robust standard deviations of log |x|, and then only tenfold:
    a mean that wanders about zero is near it now and then, which makes twice of it an everyday thing.
    """

    name = "loss_spike"
    moving: ClassVar[tuple[str, ...]] = ("logs", "signed")

    def __init__(self, metric: str = "loss", *, ratio: float = 2.0, window: int = 100, **rest: Any) -> None:
        super().__init__(metric, ratio=ratio, window=window, **rest)
        self.signed = False

    def judge(self, metrics: Mapping[str, Any]) -> str | None:
        x = metrics.get(self.metric)
        if x is None:
            return None
        if x <= 0 and not self.signed:
            self.signed, self.ratio = True, max(10.0, self.ratio)
            self._calm_for = 0
        return self._judge(abs(float(x)) if self.signed else float(x))

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        if self.signed:
            self.ratio = max(10.0, self.ratio)


class RewardNormalizer(WindowedNormalizer):
    def get_stats(self) -> dict[str, float]:
        """mean and std of the window, and how many rewards it holds."""
        return {"mean": self.mean, "std": self.sd, "count": float(len(self.values)), "dropped": float(self.dropped)}


class Downshift:
    """For each service a ladder of tiers with a breaker each; failures lead down, time and success lead up again. Thread-safe.

    A failure counts against the tier in force. `recipeline.resilience.Ladder` is the same for who wants the calls made, too.
    """

    def __init__(
        self,
        config: CircuitBreakerConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
        listener: Callable[[str, str, str], None] | None = None,
    ) -> None:
        if len(config.tiers) < 1 or len(set(config.tiers)) < len(config.tiers):
            raise ValueError("tiers are different names, at least one")
        self.config, self._clock, self._listener = config, clock, listener
        self._lock = threading.Lock()
        self._services: dict[str, tuple[Breaker, ...]] = {}

    def _breakers(self, service: str) -> tuple[Breaker, ...]:
        with self._lock:
            found = self._services.get(service)
            if found is None:
                if len(self._services) >= MOST_SERVICES:
                    raise DataError(f"more than {MOST_SERVICES} services; a name per request is no service", where="service")
                c = self.config
                found = self._services[service] = tuple(
                    Breaker(
                        f"{service}:{tier}",
                        failures=c.failure_threshold,
                        cooldown=c.downshift_duration,
                        successes=c.success_threshold,
                        growth=c.growth,
                        jitter=c.jitter,
                        longest=max(c.longest, c.downshift_duration),
                        clock=self._clock,
                        uniform=random.uniform,
                    )
                    for tier in c.tiers
                )
            return found

    def _place(self, service: str) -> int:
        """Position of the best tier that is not open; of the last when all are."""
        breakers = self._breakers(service)
        return next((place for place, breaker in enumerate(breakers) if breaker.state != "open"), len(breakers) - 1)

    def record_failure(self, service: str) -> None:
        before = self._place(service)
        self._breakers(service)[before].failure()
        after = self._place(service)
        if after > before and self._listener is not None:
            self._listener(service, self.config.tiers[before], self.config.tiers[after])

    def record_success(self, service: str) -> None:
        self._breakers(service)[self._place(service)].success()

    def state(self, service: str) -> str:
        """closed, half-open or open: that of the top tier."""
        return self._breakers(service)[0].state

    def current_mode(self, service: str | None = None) -> str:
        """The tier in force; without a service, the lowest of any."""
        services = [service] if service is not None else list(self._services)
        return self.config.tiers[max((self._place(name) for name in services), default=0)]

    def should_use_downshift(self, service: str | None = None) -> bool:
        return bool(self._services) and self.current_mode(service) != self.config.tiers[0]  # most programs never ask a service

    def get_current_ttl(self, service: str | None = None) -> int:
        """Seconds for which cached answers count as fresh now: a function of the tier in force, never stored with a value."""
        return self.config.reduced_ttl if self.should_use_downshift(service) else self.config.normal_ttl


class OperationsManager:
    """Schedules, reward normalisation, checkpoints with rollback, downshifting and retuning around any training loop.

    checkpoint_dir   where checkpoints, and the table of feedback, are kept; found again after a restart
    configs          may be given here or assigned later: what is assigned takes effect from the next call on

    Steps may be anything that grows. The state of the loop itself, its weights, is what it gives as `model_state`: a mapping of
    arrays or tensors. `recipeline_ppo.PPOTrainer` gives its whole state with it, moments and random streams included.
    """

    def __init__(
        self,
        checkpoint_dir: str | Path = "./checkpoints",
        *,
        schedule_config: LearningScheduleConfig | None = None,
        checkpoint_config: CheckpointConfig | None = None,
        circuit_breaker_config: CircuitBreakerConfig | None = None,
        retuning_config: RetuningConfig | None = None,
        events: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = Path(checkpoint_dir)
        self._clock, self._events = clock, _Passing(events)
        self._schedule_config = schedule_config or LearningScheduleConfig()
        self._checkpoint_config = checkpoint_config or CheckpointConfig()
        self._circuit_breaker_config = circuit_breaker_config or CircuitBreakerConfig()
        self._retuning_config = retuning_config or RetuningConfig()
        self._writer = CheckpointFolder(self.folder, share=1.0, events=self._events)
        self._retuner: Retuner | None = None
        self._step = 0
        self._told = {"entropy_coef": self._schedule_config.entropy_coef_start}
        self._started = False
        self.reward_normalizer = self._normalizer()
        self.circuit_breaker = Downshift(self._circuit_breaker_config, clock=clock, listener=self._downgraded)
        self._harness = self._made()
        if (self.folder / "feedback.db").exists():
            self._harness.retune.update(self._feedback().factors())

    # --- configuration ---

    @property
    def schedule_config(self) -> LearningScheduleConfig:
        return self._schedule_config

    @schedule_config.setter
    def schedule_config(self, config: LearningScheduleConfig) -> None:
        self._schedule_config = config
        old = self.reward_normalizer
        self.reward_normalizer = self._normalizer()
        ordered = old.values[old.place :] + old.values[: old.place]
        for reward in ordered[-config.reward_norm_window :]:
            self.reward_normalizer(reward)
        self._harness.hparams["entropy_coef"] = self._entropy()
        self._told["entropy_coef"] = self._harness.value("entropy_coef", self._step)

    @property
    def checkpoint_config(self) -> CheckpointConfig:
        return self._checkpoint_config

    @checkpoint_config.setter
    def checkpoint_config(self, config: CheckpointConfig) -> None:
        self._checkpoint_config = config
        old, self._harness = self._harness, self._made()
        self._harness.retune, self._harness.episodes = old.retune, old.episodes
        self._harness.rotation.last = old.rotation.last
        for name in ("updates", "rollbacks", "restored", "backoff", "backoff_from"):
            setattr(self._harness, name, getattr(old, name))

    @property
    def circuit_breaker_config(self) -> CircuitBreakerConfig:
        return self._circuit_breaker_config

    @circuit_breaker_config.setter
    def circuit_breaker_config(self, config: CircuitBreakerConfig) -> None:
        self._circuit_breaker_config = config
        self.circuit_breaker = Downshift(config, clock=self._clock, listener=self._downgraded)

    @property
    def retuning_config(self) -> RetuningConfig:
        return self._retuning_config

    @retuning_config.setter
    def retuning_config(self, config: RetuningConfig) -> None:
        config.settings()  # what is wrong with it is said now
        self._retuning_config = config
        self._retuner = None

    # --- calls ---

    def on_training_step(self, step: int, metrics: Mapping[str, Any], model_state: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """After each update.

        metrics   loss, reward (the mean of this update), and anything else; approx_kl and value_loss are watched where they stand
        returns   entropy_coef; metrics with normalized_reward; checkpoint_path of a checkpoint just written, or None; anomaly, in
                  words, or None; rollback_path, the checkpoint to load, or None; should_downshift; current_ttl in seconds
        """
        harness, self._step = self._harness, step
        reward = metrics.get("reward")
        watched: Mapping[str, Any] = metrics
        if reward is None:
            out = dict(metrics)
        else:
            out = {**metrics, "normalized_reward": self.reward_normalizer(reward)}
            episodes = harness.episodes
            episodes.add(step, (reward,))
            recent = episodes.mean()
            if recent is not None:
                watched = {**metrics, "return_recent": recent}
        if not self._started:
            self._begin(step, model_state)
        outcome = harness.update(step, watched, lambda: _whole(model_state), _loaded_by_the_loop, self._tell)
        breaker = self.circuit_breaker
        downshift = breaker.should_use_downshift()
        return {
            "step": step,
            "entropy_coef": self._told["entropy_coef"],
            "metrics": out,
            "checkpoint_path": self._path(outcome.saved) if outcome.saved is not None else None,
            "anomaly": "; ".join(f"{a.rule}: {a.reason}" for a in outcome.anomalies) if outcome.anomalies else None,
            "rollback_path": self._path(outcome.restored) if outcome.restored is not None else None,
            "should_downshift": downshift,
            "current_ttl": breaker.config.reduced_ttl if downshift else breaker.config.normal_ttl,
        }

    def on_llm_success(self, service: str = "llm") -> None:
        self.circuit_breaker.record_success(service)

    def on_llm_failure(self, service: str = "llm") -> None:
        self.circuit_breaker.record_failure(service)

    def on_user_feedback(self, feedback: Mapping[str, Any]) -> dict[str, float] | None:
        """{hyperparameter: its new value}, or None where nothing changes. Keys: entropy_coef, learning_rate, clip_epsilon."""
        retuning = self._feedback().add(feedback)
        return {name: float(f"{value:.12g}") for name, value in retuning.values.items()} if retuning is not None else None

    # --- inside ---

    def _begin(self, step: int, model_state: Mapping[str, Any] | None) -> None:
        """The state before the first update is the first that may be gone back to; or this goes on where an earlier process was."""
        self._started = True
        infos = self._writer.infos()
        if not infos:
            if model_state is not None:
                self._harness.start(step, lambda: _whole(model_state), self._tell)
            return
        latest = max(info["step"] for info in infos.values())
        if step < latest:
            raise Conflict(
                f"holds checkpoints of another training, up to step {latest}; this one is at step {step}",
                hint="name a fresh checkpoint_dir, or load the newest checkpoint and go on from its step",
                slug="other-training",
                where=files.shown(self.folder),
            )
        self._harness.rotation.last = latest

    def _normalizer(self) -> RewardNormalizer:
        c = self._schedule_config
        return RewardNormalizer(c.reward_norm_window, clip=c.reward_norm_clip, warm_up=min(c.reward_norm_warm_up, c.reward_norm_window))

    def _entropy(self) -> Schedule:
        c = self._schedule_config
        return Schedule(c.entropy_decay_type, c.entropy_coef_start, c.entropy_coef_end, c.entropy_decay_steps)

    def _made(self) -> OpsHarness:
        c = self._checkpoint_config
        return OpsHarness(
            hparams={"entropy_coef": self._entropy()},
            rules=c.rules(),
            rotation=Rotation(
                self._writer,
                every=c.save_interval_steps,
                keep=c.max_checkpoints,
                probation=c.probation,
                strict=c.strict,
                events=self._events,
            ),
            rollback=Rollback(per_run=c.max_rollbacks, stop=False) if c.enable_auto_rollback else None,
            events=self._events,
        )

    def _feedback(self) -> Retuner:
        if self._retuner is None:
            self._retuner = Retuner(
                self.folder / "feedback.db",
                settings=self._retuning_config.settings(),
                value=self._value,
                apply=self._retune,
                events=self._events,
            )
        return self._retuner

    def _value(self, name: str) -> float:
        if name == "entropy_coef":
            return self._harness.value(name, self._step)
        base = {"learning_rate": self._schedule_config.learning_rate, "clip_epsilon": self._schedule_config.clip_epsilon}[name]
        return base * self._harness.retune.get(name, 1.0)

    def _retune(self, name: str, factor: float) -> None:
        self._harness.retune[name] = self._harness.retune.get(name, 1.0) * factor
        if name == "entropy_coef":
            self._tell(name, self._harness.value(name, self._step))

    def _tell(self, name: str, value: float) -> None:
        self._told[name] = value

    def _path(self, name: str) -> str:
        return str(self._writer.path(name))

    def _downgraded(self, service: str, before: str, after: str) -> None:
        self._events.emit("downgrade", service=service, before=before, after=after)


class _Passing:
    """Events go on to whoever was named, if anybody was."""

    def __init__(self, listener: Any) -> None:
        self.listener = listener

    def emit(self, name: str, /, **fields: Any) -> None:
        if self.listener is not None:
            self.listener.emit(name, **fields)


def _whole(model_state: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a checkpoint keeps: all that the trainer can give, else the weights."""
    whole = getattr(model_state, "whole", None)
    return whole() if whole is not None else {"model": copied(model_state or {})}


def _loaded_by_the_loop(state: Any, advance: int) -> None:
    """The loop loads `rollback_path` itself."""


def load_model_state(path: str | Path) -> dict[str, Any]:
    """The weights of a checkpoint that a manager wrote, {name: array}; Damaged (9) where it is not what was written."""
    state: dict[str, Any] = read_checkpoint(path)["state"]["state"]["model"]
    return state


def simulate() -> None:
    """What the manager does, in a temporary folder."""
    rng = random.Random(0)  # noqa: S311  a simulation
    print("=== Operations simulation ===")
    with tempfile.TemporaryDirectory() as folder:
        manager = OperationsManager(Path(folder) / "training")
        print("\n1. Training steps")
        for step in range(1, 1001):
            metrics = {"loss": 1.0 + rng.gauss(0, 0.05), "reward": step / 100 + rng.gauss(0, 0.5)}
            if manager.on_training_step(step, metrics, {"weight": [[float(step)]]})["checkpoint_path"]:
                print(f"  Step {step}: Checkpoint saved")
        print("\n2. Qwen failures")
        for failure in range(1, 4):
            manager.on_llm_failure("qwen")
            if manager.circuit_breaker.should_use_downshift():
                mode, ttl = manager.circuit_breaker.current_mode("qwen"), manager.circuit_breaker.get_current_ttl()
                print(f"  Failure {failure}: Downshift activated! ({mode}, answers are kept {ttl} s)")
        print("\n3. User feedback and retuning")
        manager = OperationsManager(Path(folder) / "serving")
        for number in range(1, 101):
            rating = 5 if rng.random() < 0.25 else 1
            suggestions = manager.on_user_feedback({"rating": rating, "user_id": f"user_{number % 40}", "formula_id": "F001"})
            if suggestions:
                print(f"  ✓ Retuning triggered after {number} samples")
                print(f"  Suggestions: {suggestions}")
    print("\nDone!")


if __name__ == "__main__":
    simulate()
