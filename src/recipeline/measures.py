"""Counters, gauges and histograms of this process (the only module that imports prometheus-client, and late).

Defining a measure costs nothing; it is created when first used or exposed, in one registry of our own. Without
prometheus-client the same numbers are counted in plain Python and exposed in the text format 0.0.4. With it, and with
`PROMETHEUS_MULTIPROC_DIR` set, an exposition sums over all worker processes.

A label has a fixed set of values, so that no user can make the registry grow: any other value counts as "other".

    requests = counter("http_requests_total", "Requests answered", {"outcome": ("ok", "refused", "failed")})
    requests.inc(outcome="ok")
"""

from __future__ import annotations

import importlib.util
import math
import os
import threading
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["counter", "gauge", "histogram"]
Across = Literal["sum", "max", "min"]
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"
LIVE: dict[Across, Literal["livesum", "livemax", "livemin"]] = {"sum": "livesum", "max": "livemax", "min": "livemin"}

_lock = threading.RLock()
_measures: dict[str, Measure] = {}
_registry: Any = None


@dataclass(eq=False)
class Measure:
    """One family of numbers; made by `counter`, `gauge` or `histogram`."""

    kind: Kind
    name: str
    summary: str
    labels: dict[str, frozenset[str]]
    buckets: tuple[float, ...] = ()
    across: Across = "sum"
    _backend: Any = None
    _children: dict[tuple[str, ...], Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._names = tuple(self.labels)

    def inc(self, amount: float = 1.0, **labels: str) -> None:
        if self.kind == "histogram" or (self.kind == "counter" and amount < 0):
            raise ValueError(f"{self.name}: a {self.kind} cannot be increased by {amount:g}")
        self._child(labels).inc(amount)

    def set(self, value: float, **labels: str) -> None:
        if self.kind != "gauge":
            raise ValueError(f"{self.name} is a {self.kind}; only a gauge is set")
        self._child(labels).set(value)

    def observe(self, value: float, **labels: str) -> None:
        if self.kind != "histogram":
            raise ValueError(f"{self.name} is a {self.kind}; only a histogram observes")
        self._child(labels).observe(value)

    def value(self, **labels: str) -> float:
        """The number now (of a histogram: the sum of what it observed)."""
        child = self._child(labels)
        if isinstance(child, _Plain):
            return child.total
        suffix = "_sum" if self.kind == "histogram" else ""
        return float(_own_registry().get_sample_value(self.name + suffix, dict(zip(self.labels, self._key(labels), strict=True))))

    def _key(self, labels: Mapping[str, str]) -> tuple[str, ...]:
        return tuple(labels[name] if labels[name] in known else OTHER for name, known in self.labels.items())

    def _child(self, labels: Mapping[str, str]) -> Any:
        if (*labels,) == self._names and (usual := self._children.get((*labels.values(),))) is not None:
            return usual  # known values in the order of the definition: one look-up, for this is on every request's way
        if labels.keys() != self.labels.keys():
            raise ValueError(f"{self.name} has the labels {sorted(self.labels)}; got {sorted(labels)}")
        values = self._key(labels)
        child = self._children.get(values)
        if child is None:
            with _lock:
                backend = self._created()
                child = self._children.get(values)
                if child is None:
                    made = _Plain(self.buckets) if backend is _Plain else (backend.labels(*values) if values else backend)
                    child = self._children[values] = made
        return child

    def _created(self) -> Any:
        if self._backend is None:
            self._backend = _library_metric(self) if _library() else _Plain
        return self._backend


def counter(name: str, summary: str, labels: Mapping[str, Sequence[str]] | None = None) -> Measure:
    """A number that only grows; its name ends in `_total`."""
    if not name.endswith("_total"):
        raise ValueError(f"{name}: the name of a counter ends in _total")
    return _define(Measure("counter", name, summary, _fixed(labels)))


def gauge(name: str, summary: str, labels: Mapping[str, Sequence[str]] | None = None, *, across: Across = "sum") -> Measure:
    """A number that goes up and down; `across` says how those of several worker processes become one."""
    return _define(Measure("gauge", name, summary, _fixed(labels), across=across))


def histogram(name: str, summary: str, labels: Mapping[str, Sequence[str]] | None = None, *, buckets: Sequence[float] = SECONDS) -> Measure:
    """How observations (seconds by default) spread over `buckets`, given by their upper bounds in ascending order."""
    return _define(Measure("histogram", name, summary, _fixed(labels), buckets=tuple(sorted(map(float, buckets)))))


def exposition() -> tuple[bytes, str]:
    """All measures as Prometheus reads them, and the content type."""
    if not _library():
        with _lock:
            return "".join(_text(measure) for measure in _measures.values()).encode(), PLAIN
    import prometheus_client

    with _lock:
        for measure in _measures.values():
            if not measure.labels:
                measure._child({})  # a number without labels is exposed as 0 before its first use
            measure._created()
        registry = _own_registry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        from prometheus_client import multiprocess

        registry = prometheus_client.CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return prometheus_client.generate_latest(registry), prometheus_client.CONTENT_TYPE_LATEST


def reset() -> None:
    """Forget every number, keep the definitions (for tests)."""
    global _registry  # noqa: PLW0603  one registry per process is the point
    with _lock:
        for measure in _measures.values():
            measure._backend = None
            measure._children.clear()
        _registry = None


def _fixed(labels: Mapping[str, Sequence[str]] | None) -> dict[str, frozenset[str]]:
    return {name: frozenset(values) for name, values in (labels or {}).items()}


def _define(new: Measure) -> Measure:
    """The measure of that name, the existing one where it is defined alike."""
    with _lock:
        old = _measures.setdefault(new.name, new)
    if (old.kind, old.labels, old.buckets, old.across) != (new.kind, new.labels, new.buckets, new.across):
        raise ValueError(f"{new.name} is already a {old.kind} of another form")
    return old


def _library() -> bool:
    return importlib.util.find_spec("prometheus_client") is not None


def _own_registry() -> Any:
    global _registry  # noqa: PLW0603  as above
    if _registry is None:
        import prometheus_client

        _registry = prometheus_client.CollectorRegistry()
    return _registry


def _library_metric(measure: Measure) -> Any:
    import prometheus_client

    common = (measure.name, measure.summary, tuple(measure.labels))
    if measure.kind == "counter":
        return prometheus_client.Counter(*common, registry=_own_registry())
    if measure.kind == "gauge":
        return prometheus_client.Gauge(*common, registry=_own_registry(), multiprocess_mode=LIVE[measure.across])
    return prometheus_client.Histogram(*common, registry=_own_registry(), buckets=measure.buckets)


class _Plain:
    """One child counted in plain Python."""

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self.total, self.buckets = 0.0, buckets
        self.counts = [0] * (len(buckets) + 1)
        self.lock = threading.Lock()

    def inc(self, amount: float) -> None:
        with self.lock:
            self.total += amount

    def set(self, value: float) -> None:
        with self.lock:
            self.total = float(value)

    def observe(self, value: float) -> None:
        with self.lock:
            self.total += value
            self.counts[bisect_left(self.buckets, value)] += 1


def _text(measure: Measure) -> str:
    """https://prometheus.io/docs/instrumenting/exposition_formats/, text-based format."""
    if not measure.labels:
        measure._child({})
    summary = measure.summary.replace("\\", r"\\").replace("\n", r"\n")
    lines = [f"# HELP {measure.name} {summary}", f"# TYPE {measure.name} {measure.kind}"]
    for values, child in measure._children.items():
        pairs = [f'{name}="{_escape(value)}"' for name, value in zip(measure.labels, values, strict=True)]
        if measure.kind != "histogram":
            lines.append(f"{measure.name}{_braces(pairs)} {_number(child.total)}")
            continue
        seen = 0
        for bound, count in zip((*measure.buckets, math.inf), child.counts, strict=True):
            seen += count
            bucket = _braces([*pairs, f'le="{_number(bound)}"'])
            lines.append(f"{measure.name}_bucket{bucket} {seen}")
        lines += [f"{measure.name}_sum{_braces(pairs)} {_number(child.total)}", f"{measure.name}_count{_braces(pairs)} {seen}"]
    return "\n".join(lines) + "\n"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _braces(pairs: list[str]) -> str:
    return "{" + ",".join(pairs) + "}" if pairs else ""


def _number(value: float) -> str:
    return ("+Inf" if value > 0 else "-Inf") if math.isinf(value) else repr(float(value))
