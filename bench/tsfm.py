"""Does the forecast service keep its promises under a burst of requests? The smoke test of its operators, with its flags.

Requests come one after the other (or `--concurrency` at a time) through the whole service; the daemon is the fake on a socket, in
a process of its own, that takes `--adapter-latency-ms` per call and serves one at a time. Of the requests, `--unique` are different.

    python -m bench.tsfm --requests 200 --unique 20 --adapter-latency-ms 15 --budget-p95-ms 300 --budget-cycle-s 60

Last line SLO_PASS, or SLO_FAIL with exit 1; the line before it is JSON. Goals for 20 and 200 unique ones: p95 16.5 and 18 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter, process_time

import numpy as np

from recipeline_tsfm.client import TollamaClient
from recipeline_tsfm.seams import ForecastRequest, ServiceConfig
from recipeline_tsfm.service import ForecastService

POINTS, HORIZON, LEVELS = 288, 12, (0.1, 0.5, 0.9)


@contextmanager
def daemon(latency_ms: float, *faults: str) -> Iterator[str]:
    """The address of a fake daemon in a process of its own, ended with the block."""
    command = [sys.executable, "-m", "recipeline_tsfm.fake_tollama", "--latency-ms", str(latency_ms), "--faults", ",".join(faults)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def question(number: int, **changes: object) -> ForecastRequest:
    """288 points of a random walk in (0, 1); another number is another question."""
    steps = np.random.default_rng(0).normal(0, 0.05, POINTS)
    target = (1 - 1e-6 * number) / (1 + np.exp(-np.cumsum(steps)))
    given = {"as_of": np.datetime64("2026-02-20T12:00:00"), "freq": "5min", "horizon": HORIZON, "quantiles": LEVELS, "model": "chronos"}
    return ForecastRequest(**{"series_id": f"market-{number}", "target": target, **given, **changes})  # type: ignore[arg-type]


async def burst(service: ForecastService, questions: Sequence[ForecastRequest], concurrency: int) -> tuple[list[float], int]:
    """Seconds of each request, and how many the fallback answered; every client asks its next question when it has an answer."""
    seconds: list[float] = []
    fallbacks = 0
    waiting = iter(questions)

    async def client() -> None:
        nonlocal fallbacks
        for asked in waiting:
            began = perf_counter()
            answer = await service.forecast(asked)
            seconds.append(perf_counter() - began)
            fallbacks += answer.meta.fallback_used

    await asyncio.gather(*(client() for _ in range(concurrency)))
    return seconds, fallbacks


async def measure(url: str, requests: int, unique: int, concurrency: int) -> dict[str, float]:
    service = ForecastService(TollamaClient(url), ServiceConfig(environment="dev"))
    different = [question(number) for number in range(unique)]
    await service.forecast(question(10**6))  # the connection, and what is compiled or imported late
    began, cpu = perf_counter(), process_time()
    seconds, fallbacks = await burst(service, [different[at % unique] for at in range(requests)], concurrency)
    elapsed, cpu = perf_counter() - began, process_time() - cpu
    await service.stop()
    p50, p95 = (float(np.quantile(seconds, q)) * 1000 for q in (0.5, 0.95))
    return {
        "requests": requests,
        "unique": unique,
        "concurrency": concurrency,
        "latency_p50_ms": round(p50, 2),
        "latency_p95_ms": round(p95, 2),
        "elapsed_s": round(elapsed, 3),
        "cpu_ms_per_request": round(cpu * 1000 / requests, 3),
        "fallback": fallbacks,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--unique", type=int, default=20)
    parser.add_argument("--adapter-latency-ms", type=float, default=15)
    parser.add_argument("--budget-p95-ms", type=float, default=300)
    parser.add_argument("--budget-cycle-s", type=float, default=60)
    parser.add_argument("--concurrency", type=int, default=1)
    options = parser.parse_args()
    if min(options.requests, options.unique, options.concurrency) < 1:
        parser.error("requests, unique and concurrency are at least 1")
    with daemon(options.adapter_latency_ms) as url:
        found = asyncio.run(measure(url, options.requests, options.unique, options.concurrency))
    for name, value in found.items():
        print(f"{name:<20} {value:>10}")
    kept = found["latency_p95_ms"] <= options.budget_p95_ms and found["elapsed_s"] <= options.budget_cycle_s and not found["fallback"]
    print(json.dumps({"bench": "tsfm", **found, "passed": kept}))
    print("SLO_PASS" if kept else "SLO_FAIL")
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
