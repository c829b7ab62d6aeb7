"""A tier that is an HTTP endpoint: a question goes out as JSON, and comes back within its deadline or not at all.

The only module of the engine that imports httpx2, when an endpoint is made. The whole exchange has one deadline
(`asyncio.timeout`): the library's own limits start anew with every byte, and a server that drips outlasts them.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from recipeline.errors import DataError, MissingLibrary, Unavailable
from recipeline.resilience.retries import Deadline, DeadlineExceeded

MOST_BYTES = 8 * 2**20
REFUSED = frozenset({400, 413, 415, 422})
"""What a server says of the question, and not of itself."""

due: contextvars.ContextVar[Deadline | None] = contextvars.ContextVar("due", default=None)
"""By when the call of a tier has to be over; set by `Ladder` around each call."""


class EndpointError(Unavailable):
    """It could not be reached, said that it has trouble, or sent what is no answer."""

    slug = "endpoint"


class Endpoint:
    """POST of JSON to a URL, as a callable: `endpoint(question)` gives the JSON that came back, or what `read` finds in it.

    url        http or https, without user, password and fragment
    token      sent as a bearer token; it stands in no message
    read       from the parsed answer to the value; KeyError, IndexError, TypeError and ValueError of it mean a malformed answer
    timeout    seconds for all of an exchange; under a `Ladder` the sooner of this and what the ladder gives the tier
    most_bytes of an answer that are read

    Redirects and the environment's proxies are not followed. DataError where the question is no JSON, or the server refuses it
    (400, 413, 415, 422); DeadlineExceeded; EndpointError for everything else. Not for use inside a running event loop.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        read: Callable[[Any], Any] | None = None,
        timeout: float = 5.0,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._url, self.place = url, _place(url)
        if token is not None and not (token and token.isascii() and token.isprintable() and " " not in token):
            raise ValueError("the token has characters that no HTTP header may carry")
        if not (timeout > 0 and most_bytes > 0):
            raise ValueError("timeout and most_bytes are positive")
        self._headers = {"accept": "application/json", "accept-encoding": "identity", "content-type": "application/json"}
        if token is not None:
            self._headers["authorization"] = f"Bearer {token}"
        self._http = _library()
        self._read, self.timeout, self._most = read, timeout, most_bytes

    def __repr__(self) -> str:
        return f"Endpoint({self.place!r})"

    def __call__(self, question: Any) -> Any:
        try:
            body = json.dumps(question, allow_nan=False).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise DataError(f"the question is no JSON: {error}", hint="ask with dicts, lists, text and finite numbers") from None
        limit = due.get()
        seconds = self.timeout if limit is None else min(self.timeout, limit.check(f"the answer of {self.place}"))
        status, content = asyncio.run(self._within(seconds, body))
        if status in REFUSED:
            raise DataError(f"{self.place} refuses the question with status {status}", hint="mend the question", slug="refused-question")
        if status != 200:
            raise EndpointError(f"{self.place} answers with status {status}")
        try:
            answer = json.loads(content)
            return answer if self._read is None else self._read(answer)
        except (KeyError, IndexError, TypeError, ValueError, RecursionError):
            raise EndpointError(f"{self.place} sent what is no answer") from None

    async def _within(self, seconds: float, body: bytes) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange(body)
        except TimeoutError:
            raise DeadlineExceeded(f"{self.place} did not answer within {seconds:.3g} s") from None

    async def _exchange(self, body: bytes) -> tuple[int, bytes]:
        library = self._http
        # Certificates are read from the disk only where they are looked at.
        async with library.AsyncClient(
            headers=self._headers, timeout=None, follow_redirects=False, trust_env=False, verify=self._url.startswith("https")
        ) as client:
            try:
                async with client.stream("POST", self._url, content=body) as response:
                    if response.headers.get("content-encoding", "identity").lower() != "identity":
                        raise EndpointError(f"{self.place} sent a compressed answer, which was not asked for")
                    parts, size = [], 0
                    async for part in response.aiter_raw():
                        size += len(part)
                        if size > self._most:
                            raise EndpointError(f"{self.place} sent more than {self._most:,} bytes")
                        parts.append(part)
                    return response.status_code, b"".join(parts)
            except (library.HTTPError, library.InvalidURL) as error:
                raise EndpointError(f"{self.place} cannot be asked: {type(error).__name__}") from None


def _place(url: str) -> str:
    """What a message may say of the address: no query, in which a key may stand."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and not (parts.username or parts.password or parts.fragment)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        good = False
    if not good:
        raise ValueError("the address of an endpoint is http(s)://host[:port]/path, without user, password and fragment")
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
    return f"{parts.scheme}://{host}{port}{parts.path}"


def _library() -> Any:
    try:
        import httpx2
    except ImportError as error:
        raise MissingLibrary("httpx2", "endpoints") from error
    for name in ("httpx2", "httpcore2"):  # they tell the whole address of every call, query included
        logging.getLogger(name).setLevel(logging.WARNING)
    return httpx2
