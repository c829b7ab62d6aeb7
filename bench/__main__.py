"""Run every bench, or those named: `python -m bench startup hpo_overhead`."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import bench


def main() -> int:
    known = sorted(module.name for module in pkgutil.iter_modules(bench.__path__) if module.name not in {"__main__", "peers", "processes"})
    chosen = sys.argv[1:] or known
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        sys.stderr.write(f"no bench {', '.join(unknown)}; there are {', '.join(known)}\n")
        return 2
    failed = 0
    for name in chosen:
        sys.stdout.write(f"\n== {name}\n")
        sys.stdout.flush()
        failed += subprocess.run([sys.executable, "-m", f"bench.{name}"], check=False).returncode != 0
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
