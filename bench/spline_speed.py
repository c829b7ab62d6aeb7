"""How fast `spline_lstm` trains and answers (S1, S2, S3, S5).

S1  training, lookback 96, horizon 24, hidden 64, batch 128, one CPU thread: windows per CPU second, everything of an epoch included
S2  the plain `lstm` encoder against neuralforecast's LSTM of the same size, interleaved, each process for itself. Its environment is
    told by RECIPELINE_NEURALFORECAST (a python that can import it); both fit the same number of batches of 128 windows, on one thread,
    revin scaler there, no checkpoints and no validation on either side, the import of libraries not counted
S3  CPU seconds to train to A1's accuracy (RECIPELINE_BENCH_DATA, see `spline_accuracy`), data to forecasts
S5  one forecast in process, cleaning included: a frame of 120 rows in, a frame of 24 out, median of 300

    python -m bench.spline_speed [--rounds 5] [--only S1 S2 S3 S5]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recipeline_spline.model import SplineLSTM

LOOKBACK, HORIZON, BATCH, ROWS = 96, 24, 128, 8640
STEPS = 30  # batches of the plain LSTM, on either side
PEER = Path(__file__).parent / "by_hand" / "neuralforecast_lstm.py"


def series(rows: int = ROWS) -> np.ndarray:
    at = np.arange(rows)
    return 10 * np.sin(2 * np.pi * at / 24) + np.cumsum(np.random.default_rng(0).normal(size=rows)) / 10


def trained(encoder: str, epochs: int, epoch_windows: int | None, values: np.ndarray) -> float:
    """Windows per CPU second of a training without validation to speak of, calibration or checkpoints."""
    model = SplineLSTM(HORIZON, LOOKBACK, encoder=encoder, batch_size=BATCH, max_epochs=epochs, patience=epochs, calibrate=False,
                       epoch_windows=epoch_windows, random_state=0)  # type: ignore[arg-type]  # fmt: skip
    start = time.process_time()
    model.fit(values[:-HORIZON], validation=values[-HORIZON:])
    seconds = time.process_time() - start
    windows = epoch_windows or len(values) - LOOKBACK - 2 * HORIZON + 1
    return epochs * windows / seconds


def s1(rounds: int) -> dict[str, Any]:
    values = series()
    trained("seglstm", 1, BATCH, values)  # libraries
    found = {name: statistics.median(trained(name, 2, None, values) for _ in range(rounds)) for name in ("seglstm", "linear")}
    found |= {name: statistics.median(trained(name, 1, STEPS * BATCH, values) for _ in range(rounds)) for name in ("lstm", "gru")}
    for name, rate in found.items():
        print(f"S1   {name:<10} {rate:8,.0f} windows per CPU second")
    return {"rates": found, "must": found["seglstm"] >= 15_000, "aim": found["seglstm"] >= 40_000}


def s2(rounds: int) -> dict[str, Any]:
    peer = os.environ.get("RECIPELINE_NEURALFORECAST")
    if not peer:
        return {"skipped": "RECIPELINE_NEURALFORECAST does not name a python that has neuralforecast"}
    clean = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    work = f"trained('lstm', 1, BATCH, series()); print(trained('lstm', 1, {STEPS} * BATCH, series()))"
    ours_command = [sys.executable, "-c", f"from bench.spline_speed import *; {work}"]
    peer_command = [peer, str(PEER), str(LOOKBACK), str(HORIZON), str(BATCH), str(STEPS), str(ROWS)]
    ours, theirs = [], []
    for _ in range(rounds):
        for command, rates in ((ours_command, ours), (peer_command, theirs)):
            done = subprocess.run(command, env=clean, capture_output=True, text=True, check=True)
            rates.append(float(done.stdout.split()[-1]))
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    print(f"S2   lstm {statistics.median(ours):,.0f}   neuralforecast {statistics.median(theirs):,.0f}   ratio {ratio:.2f}")
    return {"ours": ours, "theirs": theirs, "ratio": ratio, "must": ratio >= 1.1, "aim": ratio >= 1.2}


def s3() -> dict[str, Any]:
    place = os.environ.get("RECIPELINE_BENCH_DATA")
    if not place:
        return {"skipped": "RECIPELINE_BENCH_DATA is not set"}
    from bench.spline_accuracy import A1, OT, Data, etth1

    rows = [etth1(Data(Path(place)), OT, A1, seed) for seed in range(3)]
    seconds, mse = (float(np.mean([row[key] for row in rows])) for key in ("cpu_s", "mse"))
    print(f"S3   {seconds:.1f} CPU s to a test MSE of {mse:.4f}")
    return {"cpu_s": seconds, "mse": mse, "must": seconds <= 25 and mse <= 0.0275, "aim": seconds <= 12 and mse <= 0.0265}


def s5() -> dict[str, Any]:
    values = series(1200)
    frame = pd.DataFrame({"series_id": "a", "timestamp": pd.date_range("2024-01-01", periods=len(values), freq="h"), "target": values})
    model = SplineLSTM(HORIZON, LOOKBACK, max_epochs=1, random_state=0).fit(frame)
    history = frame[-120:]
    wall, cpu = [], []
    for _ in range(320):
        began, start = time.perf_counter(), time.process_time()
        model.predict(history)
        wall.append(1000 * (time.perf_counter() - began))
        cpu.append(1000 * (time.process_time() - start))
    p50, spent = statistics.median(wall[20:]), statistics.median(cpu[20:])
    print(f"S5   p50 {p50:.2f} ms, CPU {spent:.2f} ms")
    return {"p50_ms": p50, "cpu_ms": spent, "must": p50 <= 2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=["S1", "S2", "S3", "S5"])
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for name, run in (("S1", lambda: s1(options.rounds)), ("S2", lambda: s2(options.rounds)), ("S3", s3), ("S5", s5)):
        if name in options.only:
            results[name] = run()
            if "skipped" in results[name]:
                print(f"{name}   skipped: {results[name]['skipped']}")
    print(json.dumps({"bench": "spline_speed", "results": results}))


if __name__ == "__main__":
    main()
