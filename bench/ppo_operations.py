"""Whether PPO's safeguards save a training that goes wrong, leave a healthy one alone, and what they cost.

    python -m bench.ppo_operations [--seeds 20] [--healthy 10] [--only nan,rate,noise,healthy,cost]

Injections on CartPole-v1 with rl-zoo3's hyperparameters, 100,000 steps, checkpoints every 500; solved: the mean return of the last
100 training episodes is at least 475. Steps count what was undone as well. Peer: the same seeds without an injection.

    nan      a NaN in rewards, observations, gradients, parameters or moments, early (step 5,000) or late (30,000): noticed within one
             update, all solve, at most 1.10 times the median steps
    rate     the learning rate times 300 for six updates from step 15,000: at least 9 of 10 solve, at most 1.4 times
    noise    normal noise of standard deviation 1 on every parameter at step 15,000: the same
    healthy  CartPole-v1, Acrobot-v1, Pendulum-v1 with the very same operations: no rollback
    cost     CPU of everything but `Learner.iterate`, as a share of it, in the same runs, all operations on: at most 2 %;
             OperationsManager.on_training_step: at most 5 microseconds
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from recipeline.operations import RollbacksExhausted
from recipeline.stores.ledgers import Ledger
from recipeline_ppo.config import Config
from recipeline_ppo.environments import Environments
from recipeline_ppo.learner import Learner
from recipeline_ppo.normalizer import ObservationNormalizer
from recipeline_ppo.operations import OperationsManager
from recipeline_ppo.training import EVENTS, Operations, Training, train

OPERATIONS: dict[str, Any] = {"checkpoint": {"every_steps": 500, "keep": 5}, "anomaly": {}, "rollback": {}}


@dataclass(frozen=True)
class World:
    """rl-zoo3's hyperparameters, and when an environment counts as solved."""

    id: str
    n_envs: int
    steps: int
    solved: float
    config: Mapping[str, Any]
    normalized: bool = False
    limit: int = 500


CARTPOLE = World(
    "CartPole-v1", 8, 100_000, 475.0,
    {
        "n_steps": 32, "batch_size": 256, "epochs": 20, "gamma": 0.98, "gae_lambda": 0.8,
        "learning_rate": {"schedule": "linear", "start": 1e-3, "end": 0}, "clip": {"schedule": "linear", "start": 0.2, "end": 0},
    },
)  # fmt: skip
ACROBOT = World("Acrobot-v1", 16, 150_000, -100.0, {"n_steps": 256, "epochs": 4, "gae_lambda": 0.94}, normalized=True)
PENDULUM = World("Pendulum-v1", 4, 100_000, -250.0, {"n_steps": 1024, "gamma": 0.9, "learning_rate": 1e-3}, limit=200)


def learner(world: World, seed: int, factory: Callable[[], Any] | None = None) -> Learner:
    worlds = Environments(factory or (lambda: gymnasium.make(world.id)), world.n_envs, max_episode_steps=world.limit)
    return Learner(
        Config(total_steps=world.steps, **world.config), worlds, seed=seed, normalizer=ObservationNormalizer() if world.normalized else None
    )


class Poisoned(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Gives one NaN, as reward or as observation."""

    def __init__(self, env: Any, what: str, at: int) -> None:
        super().__init__(env)
        self.what, self.at, self.n = what, at, 0

    def step(self, action: Any) -> Any:
        self.n += 1
        observation, reward, over, cut, info = self.env.step(action)
        if self.n == self.at:
            if self.what == "rewards":
                reward = math.nan
            else:
                observation = np.full_like(observation, np.nan)
        return observation, reward, over, cut, info


class Injection:
    """Spoils a learner once, from a step on; `updates` says at which update that was."""

    def __init__(self, one: Learner, what: str, at: int, seed: int) -> None:
        self.one, self.what, self.at, self.left = one, what, at, 6
        self.rng = np.random.default_rng(seed)
        self.done = False
        self.seen = 0
        self.when: int | None = None
        if what == "rate":
            plain, iterate = one.hparam, one.iterate

            def hparam(name: str) -> float:
                spoiled = name == "learning_rate" and self.left > 0 and one.step >= at
                return plain(name) * (300 if spoiled else 1)

            def counted(until: int | None = None) -> dict[str, Any]:
                began = one.step
                told = iterate(until)
                self.left -= began >= at and self.left > 0
                return told

            one.hparam, one.iterate = hparam, counted  # type: ignore[method-assign]

    def __call__(self, step: int) -> None:
        """After an update."""
        self.seen += 1
        if self.done or step < self.at or self.what in ("rate", "rewards", "observations", "none"):
            return
        self.done, self.when = True, self.seen
        network = self.one.backend.network  # type: ignore[attr-defined]
        if self.what == "parameters":
            network.parameters[int(self.rng.integers(len(network.parameters)))] = np.nan
        elif self.what == "moments":
            self.one.backend.adam.second[int(self.rng.integers(len(network.parameters)))] = np.nan  # type: ignore[attr-defined]
        elif self.what == "noise":
            network.parameters += self.rng.normal(size=len(network.parameters)).astype(np.float32)
        elif self.what == "gradients":
            backward = network.backward

            def spoiled(*arguments: Any) -> None:
                backward(*arguments)
                network.gradient[0] = np.nan
                network.backward = backward

            network.backward = spoiled


@dataclass(frozen=True)
class Course:
    """One training: steps until solved (None: not), rollbacks, updates from the injection until it was noticed (None: never)."""

    solved: int | None
    rollbacks: int
    noticed: int | None
    training: Training


def course(world: World, seed: int, what: str = "none", at: int = 0, folder: Path | None = None, *, to_the_end: bool = False) -> Course:
    factory = None
    if what in ("rewards", "observations"):
        first = iter([True])  # in one of the copies

        def factory() -> Any:
            env = gymnasium.make(world.id).unwrapped
            return Poisoned(env, what, at // world.n_envs) if next(first, False) else env

    one = learner(world, seed, factory)
    spoil = Injection(one, what, at, seed)
    recent: deque[float] = deque(maxlen=100)
    found: dict[str, int] = {}
    highest = [0, 0]  # step before, steps undone

    def each(step: int, metrics: Mapping[str, Any]) -> bool:
        recent.extend(metrics["episode_returns"])
        if len(recent) == 100 and statistics.fmean(recent) >= world.solved and "solved" not in found:
            found["solved"] = step
        spoil(step)
        highest[0] = step
        return "solved" in found and step >= at + 5_000 and not to_the_end

    with tempfile.TemporaryDirectory() as temporary:
        place = folder or Path(temporary)
        try:
            done = train(one, world.steps, Operations(**OPERATIONS), place, each=each)
        except RollbacksExhausted as error:  # given up, which is not solved
            sys.stderr.write(f"{error}\n")
            events = Ledger(place / EVENTS).read()
            done = Training(one.step, [], events, sum(e["event"] == "rollback" for e in events))
            found.pop("solved", None)
    solved = found.get("solved")
    told = f"{world.id} seed {seed} {what} at {at}: solved {solved}, {done.rollbacks} rollbacks, {done.undone_steps} steps undone\n"
    sys.stderr.write(told)
    undone = sum(e["step"] - e["restored_step"] for e in done.events if e["event"] == "rollback")
    noticed = None
    if what in ("rewards", "observations"):
        noticed = 1 if any(e["event"] == "transitions_dropped" for e in done.events) else None
    elif what != "none":
        alarms = [e for e in done.events if e["event"] == "anomaly" and e["severity"] == "rollback" and e["step"] >= at]
        if alarms:
            row = next((r for r in done.history if r["step"] == alarms[0]["step"]), None)
            noticed = row["update"] - (spoil.when if spoil.when is not None else row["update"]) if row else None
    return Course(solved + undone if solved is not None else None, done.rollbacks, noticed, done)


def summary(courses: list[Course], healthy: list[Course]) -> dict[str, Any]:
    steps = [c.solved if c.solved is not None else 10**9 for c in courses]
    base = statistics.median(c.solved if c.solved is not None else 10**9 for c in healthy)
    return {
        "runs": len(courses),
        "solved": sum(c.solved is not None for c in courses),
        "median_steps": statistics.median(steps),
        "ratio": round(statistics.median(steps) / base, 3),
        "rollbacks": sum(c.rollbacks for c in courses),
    }


NANS = ("rewards", "observations", "gradients", "parameters", "moments")


def injected(kinds: set[str], seeds: int) -> dict[str, Any]:
    healthy = [course(CARTPOLE, seed) for seed in range(seeds)]
    result: dict[str, Any] = {"none": summary(healthy, healthy)}
    if "nan" in kinds:
        runs = [(what, at) for at in (5_000, 30_000) for what in NANS]
        spoiled = [course(CARTPOLE, seed, *runs[seed % len(runs)]) for seed in range(seeds)]
        result["nan"] = {**summary(spoiled, healthy), "noticed_in_one": sum(c.noticed in (0, 1) for c in spoiled)}
    for what in ("rate", "noise"):
        if what in kinds:
            result[what] = summary([course(CARTPOLE, seed, what, 15_000) for seed in range(seeds)], healthy)
    return result


def left_alone(runs: int) -> dict[str, Any]:
    found = {}
    for world in (CARTPOLE, ACROBOT, PENDULUM):
        done = [course(world, 100 + seed, to_the_end=True) for seed in range(runs)]
        alarms: dict[str, int] = {}
        for one in done:
            for event in one.training.events:
                if event["event"] == "anomaly":
                    alarms[event["rule"]] = alarms.get(event["rule"], 0) + 1
        found[world.id] = {"runs": runs, "rollbacks": sum(c.rollbacks for c in done), "alarms": alarms}
    return found


def share(world: World, seed: int, steps: int) -> float:
    """CPU of everything but `Learner.iterate`, divided by that of `Learner.iterate`, in one run."""
    one, inside = learner(world, seed), [0.0]
    iterate = one.iterate

    def timed(until: int | None = None) -> dict[str, Any]:
        began = time.process_time()
        told = iterate(until)
        inside[0] += time.process_time() - began
        return told

    one.iterate = timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        operations = Operations(**OPERATIONS, metrics={"textfile": f"{folder}/ppo.prom"})
        began = time.process_time()
        train(one, steps, operations, Path(folder) / "t")
        return (time.process_time() - began - inside[0]) / inside[0]


def per_call(calls: int = 20_000) -> float:
    """Seconds of CPU of one quiet `on_training_step`."""
    rng = np.random.default_rng(0)
    given = [
        {"loss": 1 + float(x), "reward": 100 * (1 - math.exp(-n / 3000)) + float(y)}
        for n, (x, y) in enumerate(rng.normal(0, 0.1, (calls, 2)))
    ]
    state = {"weight": np.zeros(4)}
    with tempfile.TemporaryDirectory() as folder:
        manager = OperationsManager(folder)
        manager.on_training_step(0, given[0], state)
        manager._harness.rotation.every = 10**9  # what a checkpoint costs is the disk's
        began = time.process_time()
        for step, metrics in enumerate(given):
            manager.on_training_step(step, metrics, state)
        return (time.process_time() - began) / calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--healthy", type=int, default=10, help="runs on each of the three environments")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="nan,rate,noise,healthy,cost")
    options = parser.parse_args()
    kinds = set(options.only.split(","))
    result: dict[str, Any] = {}
    if kinds & {"nan", "rate", "noise"}:
        result["injections"] = injected(kinds, options.seeds)
        sys.stdout.write("injection   solved   median steps   ratio   rollbacks   noticed in one update\n")
        for name, row in result["injections"].items():
            noticed = row.get("noticed_in_one", "")
            told = f"{name:10}  {row['solved']:>3}/{row['runs']:<3}  {row['median_steps']:>12,.0f}  {row['ratio']:>6}"
            sys.stdout.write(f"{told}  {row['rollbacks']:>9}   {noticed}\n")
        sys.stdout.flush()
    if "healthy" in kinds:
        result["healthy"] = left_alone(options.healthy)
        for name, row in result["healthy"].items():
            sys.stdout.write(f"healthy {name:14} {row['runs']} runs, {row['rollbacks']} rollbacks, alarms {row['alarms']}\n")
        sys.stdout.flush()
    if "cost" in kinds:
        share(CARTPOLE, 0, 2_000)  # what is imported on first use is no part of training
        worlds = (CARTPOLE, ACROBOT, PENDULUM)
        shares = {world.id: statistics.median(share(world, seed, 100_000) for seed in range(options.rounds)) for world in worlds}
        result["cost"] = {name: round(value, 4) for name, value in shares.items()}
        result["on_training_step_us"] = round(min(per_call() for _ in range(options.rounds)) * 1e6, 2)
        for name, value in shares.items():
            sys.stdout.write(f"operations cost {value:.2%} of the CPU of {name}\n")
        sys.stdout.write(f"on_training_step {result['on_training_step_us']} us\n")
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
