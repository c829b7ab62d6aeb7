"""Training and its safeguards as Prometheus metrics: counted in `recipeline.measures`, and sent out where nobody has to wait."""

from __future__ import annotations

import contextlib
import http.client
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote, urlsplit

from recipeline import measures
from recipeline.errors import RecipeError
from recipeline.stores import files

log = logging.getLogger(__name__)

# A label has a fixed set of values (see recipeline.measures); any other counts as "other".
ALGORITHMS = ("ppo",)
SERVICES = ("llm", "qwen", "tsfm")
TIERS = ("creative", "balanced", "fast")
CACHES = ("llm", "policy", "forecasts")
RULES = ("nonfinite", "loss_spike", "return_drop", "kl_blowup", "entropy_collapse", "stuck", "relative")
OUTCOMES = {f"checkpoint_{outcome}": outcome for outcome in ("saved", "failed", "refused", "damaged")}
STATES = {"closed": 0.0, "half-open": 1.0, "open": 2.0}
ALGORITHM = {"algorithm": ALGORITHMS}

UPDATES = measures.counter("rl_update_total", "Updates of a policy", ALGORITHM)
LOSS = measures.gauge("rl_loss", "Losses of the last update", {**ALGORITHM, "loss_type": ("policy", "value", "total")}, across="max")
REWARD = measures.gauge("rl_reward", "Mean return (or reward) of the last update", ALGORITHM, across="max")
ENTROPY = measures.gauge("rl_entropy", "Entropy of the policy, or its coefficient", ALGORITHM, across="max")
CLIPPED = measures.gauge("rl_clip_fraction", "Share of ratios that were clipped", ALGORITHM, across="max")
KL = measures.gauge("rl_kl_divergence", "Approximate KL divergence of the last update, nats", ALGORITHM, across="max")
STEPS = measures.gauge("rl_steps", "Environment steps done", ALGORITHM, across="max")
RATE = measures.gauge("rl_learning_rate", "Learning rate in force", ALGORITHM, across="max")
ANOMALIES = measures.counter("rl_anomaly_total", "Alarms of the anomaly rules", {"rule": RULES, "severity": ("warn", "rollback")})
ROLLBACKS = measures.counter("rl_rollback_total", "Rollbacks to a checkpoint", {"rule": RULES})
CHECKPOINTS = measures.counter("rl_checkpoint_total", "Checkpoints, by what became of them", {"outcome": tuple(OUTCOMES.values())})
BREAKER = measures.gauge("circuit_breaker_state", "0 closed, 1 half-open, 2 open", {"service": SERVICES}, across="max")
DOWNGRADES = measures.counter(
    "circuit_breaker_downgrade_total", "Moves down the ladder", {"service": SERVICES, "from_profile": TIERS, "to_profile": TIERS}
)
CACHE_SIZE = measures.gauge("cache_size", "Entries in a cache", {"cache_type": CACHES}, across="max")
CACHE_HITS = measures.gauge("cache_hit_rate", "Share of questions that the cache answered", {"cache_type": CACHES}, across="max")
RETUNINGS = measures.counter("rl_retuning_total", "Retunings that feedback led to", {"mode": ("suggest", "apply", "checked")})
EXPORTS = measures.counter("metrics_export_total", "Metrics sent out", {"way": ("textfile", "push"), "outcome": ("sent", "failed")})


class OperationsMetricsCollector:
    """The numbers of one training process under their usual names; each call costs microseconds and raises nothing for odd values.

    A number that is not finite leaves its gauge as it was: the anomaly rules speak of it, a graph of NaN says nothing.
    """

    def record_rl_update(
        self,
        algorithm: str = "ppo",
        *,
        policy_loss: float | None = None,
        value_loss: float | None = None,
        reward: float | None = None,
        entropy: float | None = None,
        clip_fraction: float | None = None,
        kl_divergence: float | None = None,
        total_loss: float | None = None,
        step: int | None = None,
        learning_rate: float | None = None,
    ) -> None:
        """One update of a policy; what is not given stays as it was."""
        UPDATES.inc(algorithm=algorithm)
        for kind, loss in (("policy", policy_loss), ("value", value_loss), ("total", total_loss)):
            _set(LOSS, loss, algorithm=algorithm, loss_type=kind)
        for gauge, value in (
            (REWARD, reward), (ENTROPY, entropy), (CLIPPED, clip_fraction), (KL, kl_divergence), (STEPS, step), (RATE, learning_rate),
        ):  # fmt: skip
            _set(gauge, value, algorithm=algorithm)

    def record_circuit_breaker_downgrade(self, service: str, from_profile: str, to_profile: str) -> None:
        DOWNGRADES.inc(service=service, from_profile=from_profile, to_profile=to_profile)

    def set_circuit_breaker_state(self, service: str, state: str) -> None:
        """`state` is closed, half-open or open."""
        BREAKER.set(STATES[state], service=service)

    def set_cache_size(self, cache_type: str, size: int) -> None:
        _set(CACHE_SIZE, size, cache_type=cache_type)

    def set_cache_hit_rate(self, cache_type: str, rate: float) -> None:
        """Share of questions that the cache answered, 0 to 1."""
        _set(CACHE_HITS, rate, cache_type=cache_type)

    def record_training(self, metrics: Mapping[str, Any], step: int, *, updates: int = 1) -> None:
        """What `Learner.iterate` returned last, after so many updates since this was called before."""
        UPDATES.inc(max(0, updates - 1), algorithm="ppo")
        returns = metrics.get("episode_returns")
        self.record_rl_update(
            "ppo",
            policy_loss=metrics.get("policy_loss"),
            value_loss=metrics.get("value_loss"),
            reward=float(sum(returns) / len(returns)) if returns is not None and len(returns) else None,
            entropy=metrics.get("entropy"),
            clip_fraction=metrics.get("clip_fraction"),
            kl_divergence=metrics.get("approx_kl"),
            step=step,
            learning_rate=metrics.get("learning_rate"),
        )

    def emit(self, name: str, /, **fields: Any) -> None:
        """Events of `recipeline.operations`, counted: this collector is one of the Events that a training may have."""
        if name == "anomaly":
            ANOMALIES.inc(rule=fields["rule"], severity=fields["severity"])
        elif name == "rollback":
            ROLLBACKS.inc(rule=fields["rule"])
        elif (outcome := OUTCOMES.get(name)) is not None:
            CHECKPOINTS.inc(outcome=outcome)
        elif name == "retuning":
            RETUNINGS.inc(mode=fields["mode"])

    def exposition(self) -> str:
        """All of this process's metrics as Prometheus reads them; `serve-api` shows the same at /metrics."""
        return measures.exposition()[0].decode()


def _set(gauge: measures.Measure, value: float | None, **labels: str) -> None:
    if value is not None and math.isfinite(value):
        gauge.set(float(value), **labels)


class Exporter:
    """Sends the metrics out every `seconds`, from a thread of its own, to a textfile or a push gateway.

    textfile   path for node_exporter's textfile collector; replaced whole
    gateway    http(s)://host:port of a Prometheus push gateway; `job` names the group there
    timeout    seconds that a push may take

    Training never waits for it and never fails with it: what goes wrong is counted in `metrics_export_total` and logged once in a row.
    `close` sends once more and waits for that at most `timeout` seconds.
    """

    def __init__(
        self,
        *,
        textfile: str | Path | None = None,
        gateway: str | None = None,
        job: str = "recipeline_ppo",
        seconds: float = 15.0,
        timeout: float = 2.0,
    ) -> None:
        if textfile is None and gateway is None:
            raise RecipeError("metrics go to a textfile or to a gateway; neither is given")
        if gateway is not None and (urlsplit(gateway).scheme not in ("http", "https") or not urlsplit(gateway).hostname):
            raise RecipeError("gateway is not an address", hint="write it as http://host:9091")
        if not (seconds > 0 and timeout > 0):
            raise RecipeError(f"seconds and timeout are above 0; got {seconds:g} and {timeout:g}")
        self._ways: list[tuple[Literal["textfile", "push"], Callable[[bytes, str], None]]] = []
        if textfile is not None:
            self._ways.append(("textfile", lambda body, _: files.write_bytes(textfile, body)))
        if gateway is not None:
            self._ways.append(("push", lambda body, kind: _push(gateway, job, body, kind, timeout)))
        self._seconds, self._timeout = seconds, timeout
        self._failing: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics-export", daemon=True)
        self._thread.start()

    def send(self) -> None:
        """Now, in the caller's thread; raises nothing."""
        try:
            body, kind = measures.exposition()
        except Exception:  # the exposition itself failed: nothing to send, and training must not hear of it
            log.exception("metrics could not be gathered")
            return
        for way, put in self._ways:
            try:
                put(body, kind)
            except Exception as error:  # noqa: BLE001  whatever a disk or a gateway does, training goes on; it is counted and logged
                EXPORTS.inc(way=way, outcome="failed")
                if way not in self._failing:
                    log.warning("metrics could not be sent by %s (%s); trying again every %g s", way, type(error).__name__, self._seconds)
                self._failing.add(way)
            else:
                EXPORTS.inc(way=way, outcome="sent")
                self._failing.discard(way)

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self.send()
        self.send()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(self._timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _push(gateway: str, job: str, body: bytes, kind: str, timeout: float) -> None:
    """PUT replaces all metrics of the job (https://github.com/prometheus/pushgateway, API)."""
    place = urlsplit(gateway)
    connect = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    end = time.monotonic() + timeout
    connection = connect(place.hostname or "", place.port, timeout=timeout)
    with contextlib.closing(connection):
        connection.request("PUT", f"{place.path.rstrip('/')}/metrics/job/{quote(job, safe='')}", body, {"Content-Type": kind})
        if connection.sock is not None:
            connection.sock.settimeout(max(0.01, end - time.monotonic()))
        status = connection.getresponse().status
    if status >= 300:
        raise OSError(f"the gateway answered {status}")


class Several:
    """Events for several listeners; one that fails does not keep the others from hearing."""

    def __init__(self, listeners: Sequence[Any]) -> None:
        self.listeners = [listener for listener in listeners if listener is not None]

    def emit(self, name: str, /, **fields: Any) -> None:
        for listener in self.listeners:
            try:
                listener.emit(name, **fields)
            except Exception:  # telling must not end training
                log.exception("an event could not be told")
