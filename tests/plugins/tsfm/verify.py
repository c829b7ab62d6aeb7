"""Is the TSFM family fit for release? Its tests, the contract suite over its parts, and the bench's budgets, as one JSON line.

    python tests/plugins/tsfm/verify.py [--json summary.json]

Exit 1 where a step failed; the line says which, and how long each took.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).parents[3]
BENCH = ["-m", "bench.tsfm", "--requests", "200", "--adapter-latency-ms", "15", "--budget-p95-ms", "300", "--budget-cycle-s", "60"]
PYTEST = ["-m", "pytest", "-q", "-m", "not slow"]
STEPS = {
    "unit": [*PYTEST, "tests/plugins/tsfm"],
    "contract": [*PYTEST, "tests/contract", "-k", "tsfm or market_evaluator"],
    "bench_unique_20": [*BENCH, "--unique", "20"],
    "bench_unique_200": [*BENCH, "--unique", "200"],
}


def step(arguments: list[str]) -> dict[str, Any]:
    began = time.monotonic()
    done = subprocess.run([sys.executable, *arguments], cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=False)
    sys.stdout.write(done.stdout)
    sys.stdout.flush()
    lines = done.stdout.strip().splitlines()
    return {"passed": done.returncode == 0, "seconds": round(time.monotonic() - began, 1), "said": lines[-1] if lines else ""}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the summary there, too")
    options = parser.parse_args()
    steps = {}
    for name, arguments in STEPS.items():
        sys.stdout.write(f"\n== {name}\n")
        steps[name] = step(arguments)
    summary = json.dumps({"passed": all(one["passed"] for one in steps.values()), "steps": steps})
    if options.json is not None:
        options.json.write_text(summary + "\n")
    sys.stdout.write(summary + "\n")
    return 0 if all(one["passed"] for one in steps.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
