"""Windows of long series: from 1e6 rows × 8 columns ≤ 0.2 CPU s and ≤ 1.2 × the memory of the rows; one origin cleaned ≤ 1 ms.

python -m bench.windows [--times 5]

The first figures are of `recipeline.timeseries.windows` (any family), then those of a panel that `recipeline_spline` cleans: the
rows scaled and laid out once, its table of origins, a batch of 128 windows, and a question from one series of 400 rows, from
the long frame to the inputs of a network. Time is that of one thread, memory what Python and numpy ask for (tracemalloc).
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from recipeline.timeseries.windows import windows
from recipeline_spline.cleaning import SplinePreprocessor

ROWS, COLUMNS, LOOKBACK, HORIZON = 1_000_000, 8, 96, 24


def cost(work: Callable[[], Any], times: int) -> tuple[float, float]:
    """(CPU seconds, median; peak of memory in bytes)"""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    spent = []
    for _ in range(times):
        begin = time.process_time()
        work()
        spent.append(time.process_time() - begin)
    return median(spent), peak


def question(gaps: bool) -> Callable[[], Any]:
    """One origin, from the long frame to the inputs of a network."""
    random = np.random.default_rng(0)
    stamps = pd.date_range("2024-01-01", periods=4_000, freq="h")
    frame = pd.DataFrame({"series_id": "a", "timestamp": stamps, "target": random.normal(size=4_000).cumsum()})
    if gaps:
        frame.loc[random.random(4_000) < 0.05, "target"] = np.nan
    made = SplinePreprocessor().introduce(LOOKBACK, HORIZON).fit(frame)
    last = frame.iloc[-400:].reset_index(drop=True)

    def ask() -> Any:
        for _ in range(20):
            ready = made.transform(last)
            ready.gather(ready.last, LOOKBACK, HORIZON)

    ask()
    return ask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    times = parser.parse_args().times
    values = np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).cumsum(axis=0)
    made = SplinePreprocessor().introduce(LOOKBACK, HORIZON).fit_arrays(values)
    ready = made.arrays(values)
    origins = ready.origins(LOOKBACK, HORIZON, future=True)
    batch = np.random.default_rng(0).choice(origins, 128)
    jobs: list[tuple[str, Callable[[], Any], float, float | None, float]] = [  # what, work, goal s, goal memory, runs of it
        ("windows of an array", lambda: windows(values, lookback=LOOKBACK, horizon=HORIZON), 0.2, 1.2, 1),
        ("cleaned panel: scaled and laid out", lambda: made.arrays(values), 0.2, None, 1),
        ("cleaned panel: table of origins", lambda: ready.origins(LOOKBACK, HORIZON, future=True), 0.2, None, 1),
        ("cleaned panel: 128 windows", lambda: ready.gather(batch, LOOKBACK, HORIZON), 0.008, None, 1),
        ("one origin, no gap", question(gaps=False), 0.001, None, 20),
        ("one origin, 5 % gaps", question(gaps=True), 0.001, None, 20),
    ]
    rows, failed = [], False
    for what, work, goal, most, runs in jobs:
        cpu, peak = cost(work, times)
        cpu, memory = cpu / runs, (values.nbytes + peak) / values.nbytes if runs == 1 else None  # the rows themselves count
        passed = cpu <= goal and (most is None or (memory or 0) <= most)
        failed = failed or not passed
        rows.append({"what": what, "cpu_s": round(cpu, 6), "goal_s": goal, "memory": memory and round(memory, 2), "passed": passed})
        said = f"memory × {memory:.2f}" if memory else ""
        print(f"{what:<36} {1000 * cpu:9.3f} CPU ms   goal {1000 * goal:<6g} {said:<15} {'ok' if passed else 'MISSED'}")
    print(json.dumps({"bench": "windows", "rows": rows, "passed": not failed}))


if __name__ == "__main__":
    main()
