"""What a forecast costs beside the model, and what gathering, sharing and deadlines are worth.

    python -m bench.tsfm_service [--rounds 5]

* CPU of a request in process, 288 points, calibrated: from the cache, and asked anew of an adapter that answers at once
* p95 of requests over an adapter in this process that takes 15 ms, as the peer's figures were measured (over a socket: `bench.tsfm`)
* 32 clients, all questions different, one daemon of 90 ms per call and one call at a time. Beside it, in the same run and interleaved,
  the same service with every series in a call of its own, as many calls as clients and no breaker, which is how the service was made
  that this one was described from. What counts is what the model answered; each side has a daemon of its own.
* 64 identical requests at once
* a daemon that hangs or drips: the slowest answer beyond the deadline of 1.6 s
* 50,000 answers kept, then 10,000 more under other names

Last line: JSON; exit 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any

import numpy as np
import psutil

from bench.tsfm import HORIZON, LEVELS, burst, daemon, question
from recipeline_tsfm.calibration import ConformalCalibration, Windows, calibrate
from recipeline_tsfm.client import Reply, TollamaClient
from recipeline_tsfm.seams import ServiceConfig
from recipeline_tsfm.service import ForecastService

CLIENTS, EACH = 32, 12
CALL = 0.09  # seconds of one call of the daemon
ALONE = {"batch_series": 1, "batch_calls": CLIENTS, "breaker_failures": None, "breaker_requests": 10**6}


class AtOnce(TollamaClient):
    """An adapter without a socket: the same forecast for every series, after so many seconds."""

    seconds = 0.0

    async def forecast(self, model: str, horizon: int, quantiles: Any, series: Any, **options: Any) -> Reply:  # type: ignore[override]
        await asyncio.sleep(self.seconds)
        steps = np.arange(horizon)
        lines = {"0.1": (-0.3 - 0.01 * steps).tolist(), "0.5": [0.0] * horizon, "0.9": (0.3 + 0.01 * steps).tolist()}
        forecasts = [{"id": str(at), "mean": [0.0] * horizon, "quantiles": lines} for at in range(len(series))]
        return Reply({"model": model, "forecasts": forecasts}, 1)


def calibration() -> ConformalCalibration:
    """Conformalised quantiles, learnt from 400 origins."""
    rng = np.random.default_rng(0)
    path = np.sort(rng.uniform(0.2, 0.8, (400, HORIZON, len(LEVELS))), axis=2)
    actual = rng.uniform(0.1, 0.9, (400, HORIZON))
    return calibrate(Windows(LEVELS, path, actual, np.arange(400), np.full(400, "a")), method="cqr", coverage=0.8, window=300)


def in_process() -> ForecastService:
    return ForecastService(AtOnce(), ServiceConfig(environment="dev"), calibration=calibration())


async def cpu(requests: int = 2000) -> dict[str, float]:
    """ms of CPU per request."""
    service, asked = in_process(), [question(number) for number in range(requests + 1)]
    await service.forecast(asked[0])
    began = process_time()
    for _ in range(requests):
        await service.forecast(asked[0])
    cached = process_time() - began
    began = process_time()
    for one in asked[1:]:
        await service.forecast(one)
    return {"cached": cached * 1000 / requests, "uncached": (process_time() - began) * 1000 / requests}


async def p95(unique: int, requests: int = 200) -> float:
    """ms, one request after the other, over an adapter in this process that takes 15 ms."""
    service = in_process()
    service.client.seconds = 0.015  # type: ignore[attr-defined]
    await service.forecast(question(10**6))
    seconds, _ = await burst(service, [question(at % unique) for at in range(requests)], 1)
    return float(np.quantile(seconds, 0.95)) * 1000


async def load(url: str, **changes: Any) -> dict[str, float]:
    """Answers of the model per second, the share of the fallback, and calls of the daemon per request."""
    service = ForecastService(TollamaClient(url), ServiceConfig(environment="dev", **changes))
    await service.forecast(question(10**6))
    asked, before = [question(number) for number in range(CLIENTS * EACH)], await calls(url)
    began = perf_counter()
    _, fallbacks = await burst(service, asked, CLIENTS)
    elapsed = perf_counter() - began
    await service.stop()
    made = await calls(url) - before
    return {"per_s": (len(asked) - fallbacks) / elapsed, "fallback": fallbacks / len(asked), "calls": made / len(asked)}


async def calls(url: str) -> int:
    """Calls that the daemon has answered."""
    client = TollamaClient(url)
    try:
        return int((await client.request("GET", "/fake/calls", deadline=2.0))["forecast"])
    finally:
        await client.aclose()


async def identical(url: str, copies: int = 64) -> int:
    before = await calls(url)
    service = ForecastService(TollamaClient(url), ServiceConfig(environment="dev"))
    await asyncio.gather(*(service.forecast(question(0, series_id=f"copy-{at}")) for at in range(copies)))
    await service.stop()
    return await calls(url) - before


async def late(url: str, requests: int = 40) -> float:
    """ms beyond the deadline of the slowest answer; the breaker is kept out of it."""
    config = ServiceConfig(environment="dev", breaker_failures=None, breaker_requests=10**6)
    service = ForecastService(TollamaClient(url), config)
    seconds, fallbacks = await burst(service, [question(number) for number in range(requests)], requests)
    await service.stop()
    assert fallbacks == requests
    return (max(seconds) - config.deadline) * 1000


async def memory() -> dict[str, float]:
    """MB: of 50,000 answers, and of 10,000 further questions under names never seen before."""
    service, process = in_process(), psutil.Process()
    await service.forecast(question(0))
    marks = [process.memory_info().rss]
    for start, end in ((1, 50_001), (50_001, 60_001)):
        for number in range(start, end, 500):
            await asyncio.gather(*(service.forecast(question(at)) for at in range(number, number + 500)))
        marks.append(process.memory_info().rss)
    return {"kept": (marks[1] - marks[0]) / 1e6, "more": (marks[2] - marks[1]) / 1e6}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rows: list[dict[str, Any]] = []

    def tell(what: str, value: float, unit: str, goal: float, good: Callable[[float, float], bool]) -> None:
        rows.append({"what": what, "value": round(value, 4), "unit": unit, "goal": goal, "passed": good(value, goal)})
        print(f"{what:<58} {value:>10.3f} {unit:<8} goal {goal:<8g} {'ok' if rows[-1]['passed'] else 'missed'}", flush=True)

    def most(value: float, goal: float) -> bool:
        return value <= goal

    costs = [asyncio.run(cpu()) for _ in range(rounds)]
    tell("CPU of a cached request", statistics.median(one["cached"] for one in costs), "ms", 0.04, most)
    tell("CPU of an uncached, calibrated request", statistics.median(one["uncached"] for one in costs), "ms", 0.20, most)

    for unique, goal in ((20, 16.5), (200, 18)):
        tell(f"p95 over an adapter of 15 ms, {unique} of 200 different", asyncio.run(p95(unique)), "ms", goal, most)

    ours, single = [], []
    for _ in range(max(2, rounds // 2)):
        for found, changes in ((ours, {}), (single, ALONE)):
            with daemon(1000 * CALL) as url:
                found.append(asyncio.run(load(url, **changes)))
    shares = statistics.mean(one["fallback"] for one in single)
    for name, found in (("gathered", ours), ("one series per call", single)):
        print(f"  answers of the model per second, {name}: {[round(one['per_s'], 1) for one in found]}")
    print(f"  of one series per call the fallback answered {shares:.0%}; at best it makes {1 / CALL:.1f} per second")
    gain = statistics.median(a["per_s"] / max(b["per_s"], 1 / CALL) for a, b in zip(ours, single, strict=True))
    tell("32 clients, gathered against one series per call at best", gain, "times", 3, lambda value, goal: value >= goal)
    tell("  answered by the fallback", statistics.mean(one["fallback"] for one in ours), "share", 0.01, most)
    tell("  calls per request", statistics.mean(one["calls"] for one in ours), "", 0.25, most)
    with daemon(1000 * CALL) as url:
        tell("64 identical requests at once", asyncio.run(identical(url)), "calls", 1, most)
    for fault in ("hang", "drip"):
        with daemon(0, fault) as url:
            tell(f"slowest answer beyond the deadline, {fault}", asyncio.run(late(url)), "ms", 50, most)
    kept = asyncio.run(memory())
    tell("50,000 answers kept", kept["kept"], "MB", 250, most)
    tell("10,000 more names", kept["more"], "MB", 10, most)
    passed = all(row["passed"] for row in rows)
    print(json.dumps({"bench": "tsfm_service", "rows": rows, "passed": passed}))
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())
