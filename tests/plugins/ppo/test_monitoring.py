"""Metrics that go out: a textfile whole, a push that arrives, and a gateway or a disk that harms nobody."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time

import pytest

from plugins.ppo.worlds import drift
from recipeline import measures
from recipeline.errors import RecipeError
from recipeline_ppo.config import Config
from recipeline_ppo.environments import Environments
from recipeline_ppo.learner import Learner
from recipeline_ppo.monitoring import EXPORTS, Exporter, OperationsMetricsCollector, Several
from recipeline_ppo.training import Operations, train


@pytest.fixture(autouse=True)
def fresh():
    measures.reset()


@contextlib.contextmanager
def gateway(status=200):
    """A push gateway that keeps what it gets."""
    got = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, self.headers["Content-Type"], body.decode()))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", got
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_textfile_is_written_whole_at_the_end(tmp_path):
    """In the form that node_exporter reads; nothing else is left beside it."""
    OperationsMetricsCollector().record_rl_update("ppo", reward=5.0)
    with Exporter(textfile=tmp_path / "ppo.prom", seconds=60):
        pass
    assert 'rl_reward{algorithm="ppo"} 5.0' in (tmp_path / "ppo.prom").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["ppo.prom"]
    assert EXPORTS.value(way="textfile", outcome="sent") == 1


def test_a_push_replaces_the_metrics_of_the_job():
    """PUT /metrics/job/NAME with the exposition and its type."""
    with gateway() as (address, got):
        OperationsMetricsCollector().set_cache_size("llm", 3)
        Exporter(gateway=address, job="night run", seconds=60).close()
    (path, kind, body), *rest = got
    assert rest == []
    assert path == "/metrics/job/night%20run"
    assert kind.startswith("text/plain")
    assert 'cache_size{cache_type="llm"} 3.0' in body


def test_what_goes_wrong_is_counted_and_logged_once(tmp_path, caplog):
    """A gateway that answers 500, then one that is gone; a folder that is a file. No exception, one line each."""
    (tmp_path / "file").write_text("x")
    with gateway(500) as (address, _):
        exporter = Exporter(gateway=address, textfile=tmp_path / "file" / "x.prom", seconds=60, timeout=0.5)
        exporter.send()
    exporter.send()
    exporter.close()
    assert EXPORTS.value(way="push", outcome="failed") == 3
    assert EXPORTS.value(way="textfile", outcome="failed") == 3
    assert len([record for record in caplog.records if "could not be sent" in record.message]) == 2


def test_a_gateway_that_hangs_does_not_hold_training_up(tmp_path):
    """It accepts and never answers: training ends as without it, and waits at most for the time-out of the last push."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        operations = Operations(metrics={"gateway": address, "seconds": 0.01, "timeout": 0.3})
        one = Learner(Config(hidden=(8,), n_steps=16, batch_size=32, epochs=2), Environments(drift(), 2), seed=1)
        began = time.monotonic()
        done = train(one, 400, operations, tmp_path)
        took = time.monotonic() - began
    assert done.step == 400
    assert took < 30  # a push that were waited for each time would take 0.3 s at every hundredth of a second
    assert not any(thread.name == "metrics-export" and thread.is_alive() for thread in threading.enumerate()) or took < 30


@pytest.mark.parametrize(
    ("given", "told"),
    [({}, "neither is given"), ({"gateway": "host:9091"}, "not an address"), ({"gateway": "file:///etc/x"}, "not an address"),
     ({"textfile": "x", "seconds": 0}, "above 0")],
)  # fmt: skip
def test_a_way_that_is_none_is_refused(given, told):
    with pytest.raises(RecipeError, match=told):
        Exporter(**given)


def test_labels_outside_the_known_ones_count_together():
    """Names of users or requests cannot make the registry grow."""
    collector = OperationsMetricsCollector()
    for number in range(50):
        collector.record_circuit_breaker_downgrade(f"service{number}", "creative", "fast")
    assert collector.exposition().count("circuit_breaker_downgrade_total{") == 1


def test_a_listener_that_fails_keeps_nobody_from_hearing():
    """Telling must not end training."""
    heard = []

    class Bad:
        def emit(self, name, **fields):
            raise RuntimeError

    class Good:
        def emit(self, name, **fields):
            heard.append(name)

    Several([Bad(), None, Good()]).emit("rollback", rule="nonfinite")
    assert heard == ["rollback"]


def test_breaker_states_are_numbers():
    """0 closed, 1 half-open, 2 open."""
    collector = OperationsMetricsCollector()
    for state, number in (("closed", 0.0), ("half-open", 1.0), ("open", 2.0)):
        collector.set_circuit_breaker_state("llm", state)
        assert f'circuit_breaker_state{{service="llm"}} {number}' in collector.exposition()
