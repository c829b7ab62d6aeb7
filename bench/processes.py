"""Time whole processes: CPU seconds (user and system, children included) and peak memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Cost:
    """cpu in seconds, peak in MiB"""

    cpu: float
    peak: float
    output: str


def run(command: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None, ok: Sequence[int] = (0,)) -> Cost:
    """Run a command to its end; raises RuntimeError with its stderr where it fails."""
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **(env or {})}
    process = subprocess.Popen(command, cwd=cwd, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    output, errors = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    process.stderr.close()
    if process.returncode not in ok:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{errors[-2000:]}")
    scale = 1024 if sys.platform == "darwin" else 1
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024 / scale, output)


def paired(ours: Sequence[str], theirs: Sequence[str], *, cwd: Path, times: int) -> tuple[float, float, float]:
    """(our CPU seconds, theirs, ratio): medians of interleaved runs; the ratio is the median of the pairs' ratios."""
    pairs = [(run(ours, cwd=cwd).cpu, run(theirs, cwd=cwd).cpu) for _ in range(times)]
    return median(a for a, _ in pairs), median(b for _, b in pairs), median(a / b for a, b in pairs)
