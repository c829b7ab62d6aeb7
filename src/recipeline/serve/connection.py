"""Uvicorn's connection, with an end to what would wait for ever: headers that do not come, answers that nobody reads."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from recipeline.serve.problems import MEDIA_TYPE, HTTPProblem

HEADERS_MOST = 64 * 1024  # bytes of one request before its body


class Connection(HttpToolsProtocol):
    """One client.

    patience  seconds that the headers of a request may take, and that a client may leave an answer unread
    """

    patience: ClassVar[float] = 30.0
    _late: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None
    _header_bytes = 0

    @classmethod
    def with_patience(cls, seconds: float) -> type[Connection]:
        return type("Connection", (cls,), {"patience": seconds})

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._late = self._end_later()

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_time()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        between = self.cycle is None or self.cycle.response_complete
        if between:
            self._header_bytes += len(data)
            self._late = self._late or self._end_later()
        super().data_received(data)
        if between and self._header_bytes > HEADERS_MOST and not self.transport.is_closing():
            self._refuse(HTTPProblem(431, "headers-too-large", f"the headers are larger than {HEADERS_MOST} bytes"))

    def on_headers_complete(self) -> None:
        self._in_time()
        super().on_headers_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self._end_later()

    def resume_writing(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(HTTPProblem(400, "no-http", msg))

    def _refuse(self, problem: HTTPProblem) -> None:
        body = problem.body("", "")
        head = f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\nconnection: close\r\n"
        self.transport.write(f"{head}content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()

    def _in_time(self) -> None:
        self._header_bytes = 0
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _end_later(self) -> asyncio.TimerHandle:
        return self.loop.call_later(self.patience, self.transport.abort)
