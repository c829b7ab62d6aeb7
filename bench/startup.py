"""Start-up: `main.py --help` ≤ 0.3, `import recipeline` ≤ 0.1, `validate --fast` ≤ 0.5 CPU s; no heavy library loaded.

python -m bench.startup [--times 7]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median

from bench.processes import run

PROJECT = Path(__file__).parents[1]
HEAVY = ("pandas", "sklearn", "mlflow", "optuna", "torch", "matplotlib", "fastapi", "pyarrow", "numpy")
RECIPE = "recipes/quickstart/quickstart.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=7)
    times = parser.parse_args().times
    look = f"import sys; heavy = [name for name in {HEAVY!r} if name in sys.modules]; print('loaded:', heavy)"
    help_page = "from recipeline.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
    validation = f"from recipeline.cli import main\nmain(['validate', '--fast', '--recipe-file', {RECIPE!r}])\n"
    commands = {
        "python -c pass": (["-c", "pass"], 0.0, None),
        "main.py --help": (["main.py", "--help"], 0.3, help_page),
        "import recipeline": (["-c", "import recipeline"], 0.1, "import recipeline\n"),
        "validate --fast": (["main.py", "validate", "--fast", "--recipe-file", RECIPE], 0.5, validation),
    }
    rows, failed = [], False
    for name, (command, goal, probe) in commands.items():
        cpu = median(run([sys.executable, *command], cwd=PROJECT).cpu for _ in range(times))
        heavy = run([sys.executable, "-c", probe + look], cwd=PROJECT).output.splitlines()[-1].removeprefix("loaded: ") if probe else "[]"
        passed = goal == 0.0 or (cpu <= goal and heavy == "[]")
        failed = failed or not passed
        rows.append({"what": name, "cpu_s": round(cpu, 3), "goal": goal, "heavy": heavy, "passed": passed})
        print(f"{name:<22} {cpu:7.3f} CPU s   goal {goal:<5} heavy {heavy:<12} {'ok' if passed else 'MISSED'}")
    print(json.dumps({"bench": "startup", "rows": rows, "passed": not failed}))


if __name__ == "__main__":
    main()
