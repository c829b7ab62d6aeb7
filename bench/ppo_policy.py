"""What an answer of a trained policy costs: one observation at a time, and many at once. One thread.

Goals: p50 of one observation at most 25 µs; at least 500,000 states per second in a batch.

    python -m bench.ppo_policy [--calls 20000] [--states 200000]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from statistics import quantiles

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import gymnasium
import numpy as np

from recipeline_ppo.config import Config
from recipeline_ppo.environments import Environments
from recipeline_ppo.learner import Learner
from recipeline_ppo.normalizer import ObservationNormalizer

ONE, MANY = 25.0, 500_000  # µs, states per second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--states", type=int, default=200_000)
    options = parser.parse_args()
    print(f"{'policy':<24} {'p50 µs':>8} {'p99 µs':>8} {'CPU µs':>8} {'states/s':>12}")
    rows = []
    for env, normal in (("CartPole-v1", False), ("Pendulum-v1", True)):
        worlds = Environments(lambda env=env: gymnasium.make(env), 2)  # type: ignore[misc]
        learner = Learner(Config(n_steps=128), worlds, seed=0, normalizer=ObservationNormalizer() if normal else None)
        learner.iterate()
        policy, rng = learner.policy(), np.random.default_rng(0)
        states = rng.standard_normal((options.states, policy.observation.width), dtype=np.float32)
        each, cpu = [], time.process_time()
        for n in range(options.calls):
            row = states[n % len(states)][None]
            before = time.perf_counter_ns()
            policy.act(row)
            each.append((time.perf_counter_ns() - before) / 1000)
        cpu = (time.process_time() - cpu) * 1e6 / options.calls
        before = time.process_time()
        for _ in range(5):
            policy.act(states)
        many = 5 * options.states / (time.process_time() - before)
        cuts = quantiles(each, n=100)
        passed = cuts[49] <= ONE and many >= MANY
        name = f"{env}{' normalised' if normal else ''}"
        rows.append({"policy": name, "p50": round(cuts[49], 1), "p99": round(cuts[98], 1), "states": round(many), "passed": passed})
        print(f"{name:<24} {cuts[49]:>8.1f} {cuts[98]:>8.1f} {cpu:>8.1f} {many:>12,.0f}  {'ok' if passed else 'MISSED'}")
    print(json.dumps({"bench": "ppo_policy", "rows": rows, "passed": all(row["passed"] for row in rows)}))


if __name__ == "__main__":
    main()
