"""Sealed scores where nothing can be learned: the table of docs/explanation/leakage.md.

The pipelines are those of `tests/leaks.py`. Goal: each mean within two standard errors of chance.

    python -m bench.leakage [--seeds 50]
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import leaks  # the tests assert what this prints

GOAL = 2.0  # standard errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=50)
    seeds = range(parser.parse_args().seeds)
    logging.getLogger("recipeline").setLevel(logging.ERROR)
    rows = []
    for name, case in leaks.CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            figure = leaks.permuted(case.document, case.frame, Path(folder), seeds, metric=case.metric)
        passed = abs(figure.z) <= GOAL
        row = {"pipeline": name, "metric": case.metric, "mean": round(figure.mean, 4), "error": round(figure.error, 4)}
        rows.append({**row, "z": round(figure.z, 2), "passed": passed})
        print(f"{name:<38} {case.metric:<18} {figure}  {'ok' if passed else 'MISSED'}")
    print(json.dumps({"bench": "leakage", "seeds": len(seeds), "rows": rows, "passed": all(row["passed"] for row in rows)}))


if __name__ == "__main__":
    main()
