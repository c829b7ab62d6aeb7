"""How near calibrated intervals come to their coverage, where it is known what they should be.

An AR(1) process in logit space; the forecaster knows its mean, and takes its noise for smaller than it is, so that its central
80 % interval covers 73 %. Halfway its variance grows to 1.5 times, and in a harder run, that no goal stands for, to 2.25
times. Every origin is calibrated by what was known at it.

    python -m bench.tsfm_calibration [--seeds 20]

Last line: JSON. Exit 1 where a goal is missed: per step within .02 of .80 before the shift, mean within .015 after it, the
origins right after it included, at which nothing of it can be known yet.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from time import process_time

import numpy as np

from recipeline.timeseries.transforms import back
from recipeline_tsfm.calibration import Method, Windows, rolling

COVERAGE, LEVELS, HORIZON, WINDOW = 0.8, (0.1, 0.5, 0.9), 12, 300
PHI, NOISE, GROWTH, TOO_SMALL = 0.97, 0.15, 1.5, 0.8607  # P(|Z| < 1.2816 * 0.8607) = 0.73
Z = 1.2815515655446004
ROLLING: tuple[Method, ...] = ("scale", "cqr", "tracking")
HARDER = 2.25
GOAL_STEP, GOAL_SHIFT = 0.02, 0.015


def windows(seed: int, origins: int = 3000, growth: float = GROWTH) -> Windows:
    """Forecasts from every grid step of one series, and what came."""
    rng = np.random.default_rng(seed)
    total = origins + HORIZON
    noise = NOISE * np.where(np.arange(total) < origins // 2, 1.0, math.sqrt(growth))
    x = np.zeros(total)
    for t in range(1, total):
        x[t] = PHI * x[t - 1] + noise[t] * rng.standard_normal()
    steps = np.arange(1, HORIZON + 1)
    spread = NOISE * TOO_SMALL * np.sqrt((1 - PHI ** (2 * steps)) / (1 - PHI**2))  # (H,)
    middle = x[:origins, None] * PHI**steps  # (n, H)
    path = back(np.stack([middle - Z * spread, middle, middle + Z * spread], axis=2), "logit")
    actual = back(np.lib.stride_tricks.sliding_window_view(x[1:], HORIZON)[:origins], "logit")
    return Windows(LEVELS, path, np.array(actual), np.arange(origins), np.full(origins, "a"))


def covered(seed: int, origins: int = 3000, growth: float = GROWTH) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Method -> coverage per step (H,) before the shift, once the window is full, and from the shift on."""
    given = windows(seed, origins, growth)
    found = {}
    for method in ("none", *ROLLING):
        ends = given.path[:, :, [0, 2]] if method == "none" else rolling(given, method, coverage=COVERAGE, window=WINDOW)
        inside = (given.actual >= ends[:, :, 0]) & (given.actual <= ends[:, :, 1])
        found[method] = inside[WINDOW + HORIZON : origins // 2 - HORIZON].mean(axis=0), inside[origins // 2 :].mean(axis=0)
    return found


def measure(seeds: int, origins: int = 3000, growth: float = GROWTH) -> dict[str, dict[str, float]]:
    """Means over seeds: before the shift (mean, lowest and highest step), and after it."""
    runs = [covered(seed, origins, growth) for seed in range(seeds)]
    told = {}
    for method in runs[0]:
        before, after = (np.mean([run[method][which] for run in runs], axis=0) for which in (0, 1))
        told[method] = {
            "before": float(before.mean()), "lowest": float(before.min()), "highest": float(before.max()), "after": float(after.mean()),
        }  # fmt: skip
    return told


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=20)
    options = parser.parse_args()
    begun = process_time()
    told, harder = measure(options.seeds), measure(options.seeds, growth=HARDER)
    print(f"{'method':<10}{'before':>8}{'steps':>16}{'variance x 1.5':>18}{'x 2.25':>10}")
    for method, of in told.items():
        later = f"{of['after']:>18.3f}{harder[method]['after']:>10.3f}"
        print(f"{method:<10}{of['before']:>8.3f}{of['lowest']:>8.3f} – {of['highest']:.3f}{later}")
    goals = {}
    for method in ("cqr", "tracking"):
        of = told[method]
        goals[f"{method}_step"] = max(abs(of["lowest"] - COVERAGE), abs(of["highest"] - COVERAGE)) <= GOAL_STEP
        goals[f"{method}_shift"] = abs(of["after"] - COVERAGE) <= GOAL_SHIFT
    print(
        json.dumps({"coverage": told, "harder": harder, "goals": goals, "seeds": options.seeds, "cpu_s": round(process_time() - begun, 1)})
    )
    return 0 if all(goals.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
