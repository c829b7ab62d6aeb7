"""Tiers that are HTTP endpoints, over real sockets: whatever one of them does, the next one answers in time."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from recipeline.errors import DataError
from recipeline.resilience import CircuitOpenError, Deadline, DeadlineExceeded, Endpoint, EndpointError, Ladder, StaleCache

SECRET = "tok-0123456789"


class Service(ThreadingHTTPServer):
    """Answers what `say(handler, question)` writes; remembers who asked what, and lets hanging answers go at the end."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.say: Callable[[Handler, Any], None] = lambda handler, question: handler.answer(200, {"text": question["prompt"].upper()})
        self.asked: list[tuple[str, Any, dict[str, str]]] = []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/generate"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, question, {name.lower(): value for name, value in self.headers.items()}))
        self.server.say(self, question)

    def answer(self, status: int, payload: Any, **headers: str) -> None:
        content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        self.send_response(status)
        for name, value in {"content-length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def services() -> Iterator[list[Service]]:
    started = [Service(), Service(), Service()]
    threads = [threading.Thread(target=service.serve_forever, args=(0.01,), daemon=True) for service in started]
    for thread in threads:
        thread.start()
    yield started
    for service, thread in zip(started, threads, strict=True):
        service.over.set()
        service.shutdown()
        service.server_close()
        thread.join()


def ladder(services: list[Service], **rest: Any) -> Ladder:
    return Ladder.of({name: service.url for name, service in zip(("creative", "balanced", "fast"), services, strict=True)}, **rest)


# --- what a tier may do ----------------------------------------------------------------------------------------------------


def hangs(handler: Handler, _: Any) -> None:
    handler.server.over.wait(30)


def drips(handler: Handler, _: Any) -> None:
    """A byte of the head now and then: a limit per byte would never be met."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while not handler.server.over.wait(0.02):
        try:
            handler.wfile.write(b"x: y\r\n")
        except OSError:
            return


def closes(handler: Handler, _: Any) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{")
    handler.close_connection = True


def says(status: int, payload: Any, **headers: str) -> Callable[[Handler, Any], None]:
    return lambda handler, _: handler.answer(status, payload, **headers)


TROUBLE = {
    "hangs": (hangs, DeadlineExceeded, "did not answer within"),
    "drips": (drips, DeadlineExceeded, "did not answer within"),
    "closes": (closes, EndpointError, "cannot be asked: RemoteProtocolError"),
    "no http": (lambda handler, _: handler.wfile.write(b"hello\r\n\r\n"), EndpointError, "cannot be asked"),
    "500": (says(500, {"error": "x"}), EndpointError, "status 500"),
    "429": (says(429, {}), EndpointError, "status 429"),
    "401": (says(401, {}), EndpointError, "status 401"),
    "redirect": (says(307, {}, location="/v1/elsewhere"), EndpointError, "status 307"),
    "no json": (says(200, b"<html>"), EndpointError, "is no answer"),
    "another shape": (says(200, {"texts": []}), EndpointError, "is no answer"),
    "deep": (says(200, b"[" * 100_000), EndpointError, "is no answer"),
    "too long": (says(200, b'"' + b"x" * 200_000 + b'"'), EndpointError, "more than 150,000 bytes"),
    "compressed": (says(200, b"{}", content_encoding="gzip"), EndpointError, "compressed"),
}


@pytest.mark.parametrize("what", TROUBLE)
def test_a_tier_in_trouble_hands_the_question_down_within_its_deadline(services: list[Service], what: str) -> None:
    """One that never answers, too: the second tier is asked as soon as the share of the first is used up."""
    services[0].say, kind, words = TROUBLE[what]
    steps = ladder(services)
    steps = Ladder(
        [
            type(tier)(
                tier.name, Endpoint(service.url, read=lambda found: found["text"], most_bytes=150_000), tier.breaker, timeout=patience
            )
            for tier, service, patience in zip(steps.tiers, services, (0.3 if kind is DeadlineExceeded else 5.0, 5.0, 5.0), strict=True)
        ]
    )
    answer = steps.ask({"prompt": "rose"})
    assert (answer.value, answer.tier) == ("ROSE", "balanced")
    assert type(answer.errors["creative"]) is kind
    assert words in str(answer.errors["creative"])
    assert [path for path, _, _ in services[0].asked] == ["/v1/generate"]  # a redirect is not followed
    assert not services[2].asked


def test_three_failures_open_a_tier_and_all_open_gives_the_cached_value_or_an_error(services: list[Service]) -> None:
    """Then nobody is asked any more; the value is given however old the cache allows, and its age with it."""
    cache = StaleCache(ttl=0, stale=3600)
    steps = ladder(services, cache=cache, ttl=(0.0, 0.0))
    assert steps.ask({"prompt": "rose"}, key="rose").value == {"text": "ROSE"}
    for service in services:
        service.say = says(503, {})
    for _ in range(3):
        with pytest.raises(EndpointError, match="status 503"):
            steps.ask({"prompt": "iris"}, key="iris")
    asked = [len(service.asked) for service in services]
    kept = steps.ask({"prompt": "rose"}, key="rose")
    assert (dict(kept.value), kept.tier, kept.stale) == ({"text": "ROSE"}, None, True)
    with pytest.raises(CircuitOpenError):
        steps.ask({"prompt": "iris"}, key="iris")
    assert [len(service.asked) for service in services] == asked == [4, 3, 3]


def test_a_question_that_is_refused_is_the_callers(services: list[Service]) -> None:
    """400, 413, 415 and 422 speak of the question: no other tier is asked, and no breaker counts it."""
    steps = ladder(services)
    for status in (400, 413, 415, 422):
        services[0].say = says(status, {"error": "prompt is missing"})
        with pytest.raises(DataError, match=f"refuses the question with status {status}"):
            steps.ask({"prompt": ""})
    assert not services[1].asked
    assert steps.tiers[0].breaker.state == "closed"


def test_a_tier_that_is_not_there_is_left(services: list[Service]) -> None:
    """Connection refused; callables and endpoints stand in one ladder."""
    gone = Service()
    gone.server_close()
    answer = Ladder.of({"creative": gone.url, "fast": lambda question: question["prompt"]}).ask({"prompt": "rose"})
    assert (answer.value, answer.tier) == ("rose", "fast")
    assert "cannot be asked: ConnectError" in str(answer.errors["creative"])


def test_an_endpoint_has_a_deadline_of_its_own_and_hears_that_of_the_ladder(services: list[Service]) -> None:
    """Alone it waits for its timeout; under a ladder for the sooner of the two, so that no thread is left waiting behind."""
    services[0].say = hangs
    with pytest.raises(DeadlineExceeded, match=r"within 0\.2 s"):
        Endpoint(services[0].url, timeout=0.2)({"prompt": "rose"})
    before = set(threading.enumerate())
    with pytest.raises(DeadlineExceeded):
        Ladder.of({"only": services[0].url}).ask({"prompt": "rose"}, deadline=Deadline(0.2))
    left = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("ladder")]
    for thread in left:
        thread.join(5)
        assert not thread.is_alive()
    assert not services[0].over.is_set()  # the service hangs still


# --- what goes out, and what never does ------------------------------------------------------------------------------------


def test_the_token_and_the_query_stand_in_no_message(services: list[Service], caplog: pytest.LogCaptureFixture) -> None:
    """The token goes out in one header, JSON as it was given; errors, repr and log name the place alone."""
    caplog.set_level("DEBUG")
    endpoint = Endpoint(f"{services[0].url}?key={SECRET}", token=SECRET)
    assert endpoint({"prompt": "ö"}) == {"text": "Ö"}
    path, question, headers = services[0].asked[0]
    assert (path, question) == (f"/v1/generate?key={SECRET}", {"prompt": "ö"})
    assert headers["authorization"] == f"Bearer {SECRET}"
    assert headers["accept-encoding"] == "identity"
    services[0].say = says(500, {"echo": SECRET})
    with pytest.raises(EndpointError) as told:
        endpoint({"prompt": "ö"})
    assert SECRET not in f"{told.value!s}{endpoint!r}{caplog.text}"
    assert services[0].url in str(told.value)


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "host/x", "http://", "http://me:pw@host/x", "http://host/x#part", "http://host:99999/x", "file:///etc/passwd"]
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="address of an endpoint"):
        Endpoint(url)


def test_other_arguments_that_cannot_be_are_refused() -> None:
    for rest in ({"token": "a b"}, {"token": ""}, {"token": "a\r\nb"}, {"timeout": 0.0}, {"most_bytes": 0}):
        with pytest.raises(ValueError, match=r"token|positive"):
            Endpoint("http://127.0.0.1:1/x", **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize("question", [{"x": float("nan")}, {"x": {1, 2}}])
def test_a_question_that_is_no_json_is_the_callers(services: list[Service], question: Any) -> None:
    steps = ladder(services)
    with pytest.raises(DataError, match="the question is no JSON"):
        steps.ask(question)
    assert not any(service.asked for service in services)


def test_without_the_library_the_extra_is_named() -> None:
    code = "import sys; sys.modules['httpx2'] = None\nfrom recipeline.resilience import Endpoint\nEndpoint('http://127.0.0.1:1/x')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'recipeline[endpoints]'" in done.stderr
