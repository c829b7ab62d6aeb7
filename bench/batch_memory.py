"""Batch inference in constant memory: rows x 21 floats through scaler and logistic regression, Parquet to Parquet.

    python -m bench.batch_memory [--rows 2500000 10000000]

Goal: peak memory at most base + 150 MB and the same for both sizes; at least 0.7 million rows per CPU second.
Each size runs in a process of its own; its base is what that process holds when the pipeline is there and has answered
1,000 rows. CPU seconds are those of the whole call: reading, predicting, writing.
The input is made here, in a temporary folder (RECIPELINE_BENCH_DATA names another place with room for it).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FEATURES = 21


def make_input(path: Path, rows: int) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    names = ["id", *(f"f{index:02d}" for index in range(FEATURES))]
    schema = pa.schema([("id", pa.int64()), *((name, pa.float64()) for name in names[1:])])
    with pq.ParquetWriter(path, schema, use_dictionary=False) as out:
        for begin in range(0, rows, 500_000):
            n = min(500_000, rows - begin)
            values = rng.normal(size=(n, FEATURES))
            out.write_table(pa.table([pa.array(np.arange(begin, begin + n)), *values.T.copy()], names=names), row_group_size=n)


def make_pipeline() -> Any:
    import numpy as np
    import pandas as pd
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from recipeline.components.classification import Classification, ClassificationInterface
    from recipeline.contracts import FitContext
    from recipeline.pipeline import Pipeline

    rng = np.random.default_rng(1)
    X = rng.normal(size=(20_000, FEATURES))
    frame = pd.DataFrame(X, columns=[f"f{index:02d}" for index in range(FEATURES)])
    frame.insert(0, "id", np.arange(len(frame)))
    frame["y"] = (X @ rng.normal(size=FEATURES) + rng.normal(size=len(X)) > 0).astype(int)
    task = Classification(ClassificationInterface(target_col="y", entity_cols=("id",)))
    schema = task.describe(frame)
    pipeline = Pipeline(task=task, schema=schema, model=make_pipeline(StandardScaler(), LogisticRegression()), facts={"run_id": "bench"})
    return pipeline.fit(task.select(frame, schema, targets=True), FitContext(seed=0, folder=Path()))


def resident() -> dict[str, float]:
    """MB that this process holds now, and held at most."""
    found = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {name: int(found[key].split()[0]) / 1024 for name, key in (("now", "VmRSS"), ("peak", "VmHWM"))}


def measure(source: Path, output: Path, rows: int) -> dict[str, Any]:
    from recipeline.batch import run_batch
    from recipeline.components.loaders import DefaultLoader
    from recipeline.stores.places import Places

    pipeline = make_pipeline()
    folder = source.parent
    loader = DefaultLoader(source.name, places=Places(project=folder, folder=folder))
    first = next(iter(loader.batches(1000))).to_pandas()
    pipeline.predict(first)
    base = resident()["now"]
    cpu, wall = time.process_time(), time.perf_counter()
    result = run_batch(pipeline, loader, run_id="bench", output=str(output), rows=rows, fingerprint="bench")
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    assert not result.already_done
    peak = resident()["peak"]
    return {"rows": result.rows, "base_mb": base, "peak_mb": peak, "over_mb": peak - base, "cpu_s": cpu, "wall_s": wall,
            "rows_per_cpu_s": result.rows / cpu}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[2_500_000, 10_000_000])
    parser.add_argument("--batch", type=int, default=65_536, help="rows of a batch")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(Path(options.child[0]), Path(options.child[1]), options.batch)))
        return
    results = []
    print(f"{'rows':>12} {'base MB':>8} {'peak MB':>8} {'over MB':>8} {'CPU s':>7} {'wall s':>7} {'M rows / CPU s':>15}")
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=os.environ.get("RECIPELINE_BENCH_DATA")) as folder:
            source = Path(folder) / "input.parquet"
            make_input(source, rows)
            # One thread: the figure is rows per core.
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            command = [sys.executable, "-m", "bench.batch_memory", "--batch", str(options.batch), "--child", str(source)]
            answer = subprocess.run([*command, f"{folder}/output.parquet"], env=environment, check=True, capture_output=True, text=True)
            found = json.loads(answer.stdout.splitlines()[-1])
        results.append(found)
        print(
            f"{found['rows']:>12,} {found['base_mb']:>8.0f} {found['peak_mb']:>8.0f} {found['over_mb']:>8.0f} {found['cpu_s']:>7.2f} "
            f"{found['wall_s']:>7.2f} {found['rows_per_cpu_s'] / 1e6:>15.2f}"
        )
    print(json.dumps({"bench": "batch_memory", "results": results}))


if __name__ == "__main__":
    main()
