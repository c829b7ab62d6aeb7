"""The numbers that `GET /metrics` shows of this family. No label's values are chosen by users: what is not listed is "other"."""

from __future__ import annotations

from recipeline.measures import counter, gauge, histogram
from recipeline_tsfm.client import ALIASES
from recipeline_tsfm.failures import KINDS

MODELS = tuple(
    sorted({*ALIASES.values(), "chronos", "lag-llama", "patchtst", "sundial-base-128m", "tide", "toto-open-base-1.0", "timer-base"})
)
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.2, 1.6, 5, 20, 60)
_WIDTHS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1)
STATES = {"closed": 0.0, "half-open": 1.0, "open": 2.0}

REQUESTS = counter("tsfm_requests_total", "Forecasts answered", {"runtime": ("tollama", "baseline"), "reason": ("none", *KINDS)})
CALLS = counter("tsfm_upstream_calls_total", "Attempts made at tollama", {"model": MODELS, "outcome": ("ok", *KINDS)})
LATENCY = histogram("tsfm_upstream_latency_seconds", "How long an attempt took", buckets=_SECONDS)
BATCH = histogram("tsfm_batch_size", "Series in one call", buckets=(1, 2, 4, 8, 16, 32, 64, 128))
CACHE = counter("tsfm_cache_total", "What the cache held", {"state": ("fresh", "stale", "miss")})
BREAKER = gauge("tsfm_breaker_state", "0 closed, 1 half-open, 2 open", {"model": MODELS}, across="max")
CROSSINGS = counter("tsfm_quantile_crossings_total", "Steps whose quantiles came out of order")
WIDTH = histogram("tsfm_interval_width", "Mean width of the outermost interval, bounded targets", buckets=_WIDTHS)
