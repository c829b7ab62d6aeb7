"""measures: the same numbers with and without prometheus-client."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from recipeline import measures


@pytest.fixture(params=["library", "plain"])
def backend(request, monkeypatch):
    measures.reset()
    if request.param == "plain":
        monkeypatch.setattr(measures, "_library", lambda: False)
    else:
        pytest.importorskip("prometheus_client")
    yield request.param
    measures.reset()


def samples(text: bytes) -> dict[str, float]:
    """Sample lines of an exposition, without the library's `_created` stamps."""
    lines = [line for line in text.decode().splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines) if "_created" not in name}


def test_both_backends_expose_the_same_numbers(backend):
    """A counter, a gauge and a histogram read back as Prometheus would read them."""
    answered = measures.counter("t_same_total", "Answered", {"outcome": ("ok", "failed")})
    depth = measures.gauge("t_depth", "Waiting")
    took = measures.histogram("t_seconds", "Time", buckets=(0.1, 1))
    answered.inc(outcome="ok")
    answered.inc(2, outcome="ok")
    depth.set(4)
    depth.inc(-1)
    for seconds in (0.05, 0.1, 0.5, 7):
        took.observe(seconds)
    text, kind = measures.exposition()
    assert kind.startswith("text/plain")
    got = samples(text)
    assert got['t_same_total{outcome="ok"}'] == 3
    assert got["t_depth"] == 3
    assert {k: v for k, v in got.items() if k.startswith("t_seconds")} == {
        't_seconds_bucket{le="0.1"}': 2,
        't_seconds_bucket{le="1.0"}': 3,
        't_seconds_bucket{le="+Inf"}': 4,
        "t_seconds_count": 4,
        "t_seconds_sum": 7.65,
    }
    assert (answered.value(outcome="ok"), depth.value(), took.value()) == (3, 3, 7.65)


def test_a_label_value_that_a_user_made_up_counts_as_other(backend):
    """A thousand market ids do not make a thousand series."""
    calls = measures.counter("t_bounded_total", "Calls", {"model": ("a", "b")})
    for number in range(1000):
        calls.inc(model=f"market-{number}")
    calls.inc(model="a")
    assert {k: v for k, v in samples(measures.exposition()[0]).items() if k.startswith("t_bounded")} == {
        't_bounded_total{model="other"}': 1000,
        't_bounded_total{model="a"}': 1,
    }


def test_eight_threads_lose_no_count(backend):
    """Increments and the first use of a child are thread-safe."""
    calls = measures.counter("t_threads_total", "Calls", {"n": ("0", "1")})

    def work():
        for number in range(2000):
            calls.inc(n=str(number % 2))

    threads = [threading.Thread(target=work) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert calls.value(n="0") + calls.value(n="1") == 16_000


def test_wrong_use_is_an_error_that_names_the_measure(backend):
    """Wrong labels, a decreasing counter, a second definition of another form."""
    calls = measures.counter("t_wrong_total", "Calls", {"outcome": ("ok",)})
    with pytest.raises(ValueError, match=r"t_wrong_total has the labels \['outcome'\]; got \['result'\]"):
        calls.inc(result="ok")
    with pytest.raises(ValueError, match="t_wrong_total"):
        calls.inc(-1, outcome="ok")
    with pytest.raises(ValueError, match="another form"):
        measures.counter("t_wrong_total", "Calls")
    with pytest.raises(ValueError, match="ends in _total"):
        measures.counter("t_wrong", "Calls")
    assert measures.counter("t_wrong_total", "Calls", {"outcome": ("ok",)}) is calls


def test_importing_and_defining_load_no_library_and_create_nothing():
    """The library is loaded by the first use."""
    code = (
        "import sys; from recipeline import measures as m; c = m.counter('x_total', 'X');"
        "assert 'prometheus_client' not in sys.modules and m._registry is None; c.inc();"
        "assert 'prometheus_client' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_exposition_sums_over_worker_processes(tmp_path, monkeypatch):
    """With PROMETHEUS_MULTIPROC_DIR set, one worker's /metrics tells of all of them."""
    pytest.importorskip("prometheus_client")
    count = "from recipeline import measures as m; m.counter('w_total', 'W').inc(2)"
    show = count + "; print(m.exposition()[0].decode())"
    import os

    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", count], check=True, env=environ)
    shown = subprocess.run([sys.executable, "-c", show], check=True, env=environ, capture_output=True)
    assert samples(shown.stdout)["w_total"] == 4
