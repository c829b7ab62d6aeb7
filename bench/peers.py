"""Peers in an environment of their own, so that what they need is not what we need; installed once per machine and kept."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"


def python_with(*requirements: str) -> tuple[str | None, str]:
    """An interpreter that has these packages, in the versions of constraints.txt for what they need, and what to say about it.

    RECIPELINE_BENCH_PEER_PYTHON names one that has them already. None where they cannot be installed, with the reason.
    """
    given = os.environ.get("RECIPELINE_BENCH_PEER_PYTHON")
    if given:
        return given, "given"
    key = hashlib.sha256("\n".join((sys.version, CONSTRAINTS.read_text(), *requirements)).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recipeline-bench" / key
    python, whole = cache / "bin" / "python", cache / "installed"
    if not whole.exists():
        print(f"installing {', '.join(requirements)} (once per machine) …", file=sys.stderr)
        for command in (
            [sys.executable, "-m", "venv", str(cache)],
            [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", str(CONSTRAINTS), *requirements],
        ):
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                return None, (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
        whole.touch()
    return str(python), "installed"


def versions(python: str, names: Sequence[str]) -> str:
    program = f"from importlib.metadata import version\nprint(', '.join(n + ' ' + version(n) for n in {list(names)!r}))"
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()
