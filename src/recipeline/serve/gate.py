"""What every request passes before and after its answer: identity, keys, limits, measures, and one form of error.

A plain ASGI application around the web framework, so that nothing of a request is read before it may be.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from recipeline import measures
from recipeline.serve.access import Guard, Limits
from recipeline.serve.problems import GENERIC, MEDIA_TYPE, HTTPProblem, busy

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_ACTIVE = 512  # requests in one process, those still arriving included
BODIES = 16  # the bodies held in memory are together at most so many times as large as one may be
LINGER = 2.0  # seconds in which the rest of a refused body is thrown away, so that the client reads why before the line closes

_ROUTES = {
    "/predict": "predict", "/predict/rows": "predict",
    "/model/metadata": "metadata", "/metrics": "metrics", "/docs": "docs", "/openapi.json": "docs",
    "/health/live": "health", "/health/ready": "health",
}  # fmt: skip
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_log = logging.getLogger("recipeline.serve")


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


@dataclass
class State:
    """Where a server stands; the probes tell it."""

    ready: bool = False
    reason: str = "starting"
    draining: bool = False

    def fail(self, reason: str) -> None:
        self.ready, self.reason = False, reason


class Exchange:
    """One request and what is known of it; stands in the scope as `exchange`."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive) -> None:
        self.gate, self.receive = gate, receive
        self.headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.deadline = asyncio.get_running_loop().time() + gate.limits.timeout
        self.status, self.complete, self.unread = 0, False, False
        self.length: int | None = None
        self.kind, self.coding, given = b"", b"", ""
        for name, value in self.headers:
            if name == b"content-length":
                self.length = int(value) if value.isdigit() else None
                self.unread = self.length != 0
            elif name == b"transfer-encoding":
                self.unread = True
            elif name == b"content-type":
                self.kind = value
            elif name == b"content-encoding":
                self.coding = value.strip().lower()
            elif name == b"x-request-id":
                given = value.decode("latin-1")
        self.id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex

    async def json(self) -> bytes:
        """The body, said to be JSON.

        Raises HTTPProblem 415 for another type, 413 beyond the limit (the bytes are counted as they come, nothing is kept
        of a body that announces more), 408 where it comes too slowly, 503 where too many bodies are held already.
        """
        if not _json(self.kind) or self.coding not in {b"", b"identity"}:
            accepted = {"accept-post": "application/json"}
            raise HTTPProblem(415, "not-json", "send application/json, in UTF-8 and uncompressed", headers=accepted)
        most, gate = self.gate.limits.max_bytes, self.gate
        too_large = HTTPProblem(413, "too-many-bytes", f"the body is larger than {most} bytes; send fewer rows at a time")
        if self.length is not None and self.length > most:
            raise too_large
        chunks, size = [], 0
        try:
            async with asyncio.timeout_at(self.deadline) as limit:
                while True:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    gate.held += len(chunk)
                    if size > most:
                        raise too_large
                    if gate.held > most * BODIES:
                        raise busy("busy", "too many bodies are arriving; try again")
                    chunks.append(chunk)
                    if not message.get("more_body", False):
                        self.unread = False
                        return b"".join(chunks)
        except TimeoutError:
            if not limit.expired():
                raise
            raise HTTPProblem(408, "slow-body", f"the body did not arrive within {gate.limits.timeout:g} s") from None
        finally:
            gate.held -= size

    async def discard(self) -> None:
        """Throw away what is left of the body, for a moment."""
        size = 0
        try:
            async with asyncio.timeout(LINGER):
                while size <= self.gate.limits.max_bytes * BODIES:
                    message = await self.receive()
                    if message["type"] == "http.disconnect" or not message.get("more_body", False):
                        return
                    size += len(message.get("body", b""))
        except TimeoutError:
            return


class Gate:
    """The application around `inner`."""

    def __init__(self, inner: Application, guard: Guard, limits: Limits, state: State) -> None:
        self.inner, self.guard, self.limits, self.state = inner, guard, limits, state
        self.active, self.held = 0, 0
        by_route, outcomes = {"route": [*_ROUTES.values()]}, ["ok", "refused", "failed", "gone"]
        self._requests = measures.counter("recipeline_http_requests_total", "Requests answered", {**by_route, "outcome": outcomes})
        self._seconds = measures.histogram("recipeline_http_request_seconds", "Time from request to answer", by_route)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.inner(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        started = perf_counter()
        exchange = scope["exchange"] = Exchange(self, scope, receive)
        route = _ROUTES.get(scope["path"], measures.OTHER)
        self.active += 1
        try:
            await self._answer(scope, exchange, receive, self._sender(exchange, send))
        finally:
            self.active -= 1
            self._requests.inc(route=route, outcome=_outcome(exchange))
            self._seconds.observe(perf_counter() - started, route=route)
            if _log.isEnabledFor(logging.DEBUG):
                _log.debug("%s %s %d request=%s", scope["method"], scope["path"], exchange.status, exchange.id)

    async def _answer(self, scope: Scope, exchange: Exchange, receive: Receive, send: Send) -> None:
        try:
            self.guard.check(scope["path"], exchange.headers, scope.get("server"))
            if self.active > MAX_ACTIVE:
                raise busy("busy", "too many requests are open; try again")
            await self.inner(scope, receive, send)
        except HTTPProblem as problem:
            await _refuse(problem, scope, exchange, send)
        except Exception:
            # A bug, or a plugin's handler: the traceback belongs into the log, its number to the client.
            _log.exception("request %s failed", exchange.id)
            if not exchange.status:
                await _refuse(HTTPProblem(500, "bug", GENERIC), scope, exchange, send)
            elif not exchange.complete:
                raise  # half an answer is out: only a closed line tells the client that it is one

    def _sender(self, exchange: Exchange, send: Send) -> Send:
        async def out(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", exchange.id.encode()), (b"x-content-type-options", b"nosniff")]
                if self.state.draining or exchange.unread:
                    headers.append((b"connection", b"close"))
                message = {**message, "headers": headers}
            elif not message.get("more_body", False):
                if exchange.unread:
                    await send({**message, "more_body": True})
                    await exchange.discard()
                    message = {"type": "http.response.body", "body": b""}
                exchange.complete = True
            await send(message)

        return out


async def _refuse(problem: HTTPProblem, scope: Scope, exchange: Exchange, send: Send) -> None:
    body = problem.body(exchange.id, scope["path"])
    headers = [(name.encode(), value.encode()) for name, value in problem.headers.items()]
    headers += [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _json(kind: bytes) -> bool:
    media, *parameters = [part.strip().lower() for part in kind.split(b";")]
    charsets = {part.partition(b"=")[2].strip(b' "') for part in parameters if part.startswith(b"charset")}
    is_json = media == b"application/json" or (media.startswith(b"application/") and media.endswith(b"+json"))
    return is_json and charsets <= {b"utf-8", b"utf8"}


def _outcome(exchange: Exchange) -> str:
    if not exchange.complete or exchange.status == 499:
        return "gone"
    return "ok" if exchange.status < 400 else "refused" if exchange.status < 500 else "failed"
