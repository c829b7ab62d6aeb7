"""Environment steps until a training is solved, over seeds: ours beside Stable-Baselines3, the same hyperparameters.

Solved: the mean return of the last 20 episodes of training reaches the goal. Goals: the median at most 1.10 of the peer's, and not
fewer seeds solved. A seed that is not solved counts as the whole budget. Thirty seeds, because over ten the ratio of two medians of
CartPole, where seeds differ threefold, lies anywhere from 0.8 to 1.4: see the interval (bootstrap over seeds, 95 %).

    python -m bench.ppo_solve [--seeds 30] [--only cartpole,pendulum]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from statistics import median, quantiles
from typing import Any

from bench import peers
from bench.ppo_speed import PEER, TASKS, trained

WINDOW = 20  # episodes
SOLVED = {"cartpole": (475.0, 100_000), "acrobot": (-100.0, 300_000), "pendulum": (-250.0, 100_000)}  # return, budget of steps
GOAL = 1.10


def interval(ours: list[int], peers_: list[int]) -> tuple[float, float]:
    """Where the ratio of the medians lies, had other seeds been drawn."""
    rng = random.Random(0)
    ratios = [median(rng.choices(ours, k=len(ours))) / median(rng.choices(peers_, k=len(peers_))) for _ in range(2000)]
    cuts = quantiles(ratios, n=40)
    return round(cuts[0], 2), round(cuts[-1], 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--only", default="", help="names, separated by commas")
    options = parser.parse_args()
    peer, said = peers.python_with(*PEER)
    if peer is None:
        print(f"peer: not there: {said}")
    print(f"{'training':<10} {'return':>7} {'budget':>8} {'ours':>8} {'solved':>7} {'peer':>8} {'solved':>7} {'ratio':>6} {'95 %':>14}")
    rows = []
    for name in options.only.split(",") if options.only else SOLVED:
        goal, budget = SOLVED[name]
        steps: dict[str, list[int | None]] = {"ours": [], "peer": []}
        for seed in range(options.seeds):
            task: dict[str, Any] = {
                **TASKS[name], "total": budget, "seed": seed, "backend": "numpy", "solved": {"goal": goal, "window": WINDOW}
            }  # fmt: skip
            steps["ours"].append(trained(sys.executable, "our_ppo.py", task)["solved_at"])
            if peer:
                steps["peer"].append(trained(peer, "sb3_ppo.py", task)["solved_at"])
        medians = {who: median(budget if s is None else s for s in each) if each else None for who, each in steps.items()}
        solved = {who: sum(s is not None for s in each) for who, each in steps.items()}
        ratio = round(medians["ours"] / medians["peer"], 3) if medians["ours"] and medians["peer"] else None
        between = interval([s or budget for s in steps["ours"]], [s or budget for s in steps["peer"]]) if ratio else None
        passed = None if ratio is None else ratio <= GOAL and solved["ours"] >= solved["peer"]
        rows.append(
            {"training": name, "steps": steps, "median": medians, "solved": solved, "ratio": ratio, "interval": between, "passed": passed}
        )
        shown = [f"{medians[who] or 0:>8,.0f} {solved[who]:>4}/{options.seeds}" for who in ("ours", "peer")]
        verdict = "" if passed is None else "ok" if passed else "MISSED"
        print(f"{name:<10} {goal:>7} {budget:>8,}", *shown, f"{ratio or float('nan'):>6.2f} {between or ''!s:>14}  {verdict}", flush=True)
    print(json.dumps({"bench": "ppo_solve", "seeds": options.seeds, "rows": rows, "passed": all(r["passed"] is not False for r in rows)}))


if __name__ == "__main__":
    main()
