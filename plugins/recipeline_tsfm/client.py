"""The HTTP client of a tollama daemon (the only module that imports httpx2, when a client is made).

Every call has a total deadline of its own through `asyncio.timeout`, for the library's time limits start anew with every byte
and a dripping server outlasts them. Bodies are read up to a cap, uncompressed; redirects and the environment's proxies are not
followed. The token stands in one header and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from recipeline.errors import MissingLibrary, RecipeError
from recipeline.resilience import retry
from recipeline_tsfm import payloads
from recipeline_tsfm.failures import UpstreamError, invalid, of_status, timeout, unreachable

ADDRESS = "http://127.0.0.1:11435"
MOST_BYTES = 16 * 2**20
ALIASES: Mapping[str, str] = {
    "chronos": "chronos2",
    "chronos-2": "chronos2",
    "timesfm": "timesfm-2.5-200m",
    "timesfm-2.5": "timesfm-2.5-200m",
    "moirai": "moirai-2.0-R-small",
}
"""What people call a model -> what the daemon calls it."""


@dataclass(frozen=True, slots=True)
class Reply:
    """payload  parsed JSON          attempts  calls that were made for it, the last one included"""

    payload: Any
    attempts: int


class TollamaClient:
    """Speaks the daemon's HTTP. Usable from any number of event loops; each has its own pool of connections.

    base_url    http or https, without user, query or fragment
    token       sent as a bearer token; kept out of every text
    connections, keepalive   of the pool
    most_bytes  of a body that is read
    aliases     added to ALIASES; an alias that names itself takes that name out
    """

    def __init__(
        self,
        base_url: str = ADDRESS,
        *,
        token: str | None = None,
        connections: int = 200,
        keepalive: int = 50,
        most_bytes: int = MOST_BYTES,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise MissingLibrary("httpx2", "tsfm") from error
        self._http = httpx2
        self.base_url = _address(base_url)
        self._headers = {"accept": "application/json", "accept-encoding": "identity", "content-type": "application/json"}
        if token:
            if not token.isascii() or not token.isprintable() or " " in token:
                raise RecipeError("the token of tollama has characters that no HTTP header may carry", slug="bad-value")
            self._headers["authorization"] = f"Bearer {token}"
        self._token = token or ""
        self._connections, self._keepalive, self._most = connections, keepalive, most_bytes
        self.aliases = {**ALIASES, **(aliases or {})}
        self._pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = weakref.WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"TollamaClient({self.base_url!r}, token={'set' if self._token else None})"

    def __reduce__(self) -> Any:
        raise TypeError("a client holds connections and a token; it is not pickled")

    def resolve(self, model: str) -> str:
        """The daemon's name of a model; the name itself where nobody knows it."""
        for _ in range(8):  # aliases of aliases, and no circle for ever
            further = self.aliases.get(model, model)
            if further == model:
                break
            model = further
        return model

    # --- routes ---

    async def forecast(
        self,
        model: str,
        horizon: int,
        quantiles: Sequence[float],
        series: Sequence[payloads.Series],
        *,
        options: Mapping[str, Any] | None = None,
        keep_alive: str | None = None,
        deadline: float = 1.6,
        attempt: float = 1.2,
        attempts: int = 2,
        backoff: float = 0.05,
        most_bytes: int | None = None,
        tried: Callable[[float, UpstreamError | None], None] | None = None,
    ) -> Reply:
        """POST /v1/forecast, series named "0", "1", …; the answer as it came, for `payloads.read` to check. UpstreamError.

        At most `attempts` within `deadline` seconds, each within `attempt` seconds; a retry waits `backoff * 2**n` seconds and up
        to as much again. Connections refused or reset, 429, 502, 504 and most 503 are tried again, a timeout never.
        An answer longer than `most_bytes` is read no further. `tried(seconds, error)` hears of every attempt.
        """
        body = payloads.question(self.resolve(model), horizon, quantiles, series, options or {}, keep_alive)
        made = 0

        async def once() -> Any:
            nonlocal made
            made += 1
            began = asyncio.get_running_loop().time()
            try:
                payload = await self.request("POST", "/v1/forecast", body, deadline=attempt, most_bytes=most_bytes)
            except UpstreamError as error:
                if tried is not None:
                    tried(asyncio.get_running_loop().time() - began, error)
                raise
            if tried is not None:
                tried(asyncio.get_running_loop().time() - began, None)
            return payload

        again = retry(_retryable, attempts=attempts, timeout=deadline, wait_initial=backoff, wait_jitter=backoff)
        try:
            async with asyncio.timeout(deadline):
                return Reply(await again(once)(), made)
        except TimeoutError:
            error = timeout()
        except UpstreamError as failed:
            error = failed
        error.attempts = made
        raise error

    async def loaded(self, *, deadline: float = 0.5) -> frozenset[str]:
        """GET /api/ps: names of the models in memory."""
        return frozenset(item["model"] for item in _models(await self.request("GET", "/api/ps", deadline=deadline)))

    async def tags(self, *, deadline: float = 1.2) -> list[dict[str, Any]]:
        """GET /api/tags: the installed models, as the daemon lists them."""
        return _models(await self.request("GET", "/api/tags", deadline=deadline))

    async def show(self, model: str, *, deadline: float = 1.2) -> dict[str, Any]:
        """POST /api/show: all that the daemon knows about an installed model."""
        body = json.dumps({"model": self.resolve(model)}).encode()
        return _mapping(await self.request("POST", "/api/show", body, deadline=deadline))

    async def licence(self, model: str, *, deadline: float = 1.2) -> str | None:
        """The licence that the daemon knows for a model, as written there ("apache-2.0"), or None."""
        licence = (await self.show(model, deadline=deadline)).get("license")
        kind = licence.get("type") if isinstance(licence, Mapping) else licence
        return kind[:100] if isinstance(kind, str) and kind else None

    async def models(self, *, deadline: float = 1.2) -> dict[str, Any]:
        """GET /v1/models."""
        return _mapping(await self.request("GET", "/v1/models", deadline=deadline))

    async def health(self, *, deadline: float = 1.2) -> dict[str, Any]:
        """GET /v1/health."""
        return _mapping(await self.request("GET", "/v1/health", deadline=deadline))

    async def version(self, *, deadline: float = 1.2) -> str:
        """GET /api/version."""
        version = _mapping(await self.request("GET", "/api/version", deadline=deadline)).get("version")
        if not isinstance(version, str):
            raise invalid("shape")
        return version[:100]

    async def pull(self, model: str, *, deadline: float = 600.0) -> dict[str, Any]:
        """POST /api/pull, for a person who asks for it: the service never does. A licence that must be accepted first is an
        UpstreamError (409); accepting it is that person's own act, at the daemon."""
        body = json.dumps({"model": self.resolve(model), "stream": False}).encode()
        return _mapping(await self.request("POST", "/api/pull", body, deadline=deadline))

    # --- one exchange ---

    async def request(self, method: str, path: str, body: bytes | None = None, *, deadline: float, most_bytes: int | None = None) -> Any:
        """Parsed JSON of a 200; UpstreamError for everything else, at the latest after `deadline` seconds."""
        try:
            async with asyncio.timeout(deadline):
                status, content = await self._exchange(method, path, body, min(self._most, most_bytes or self._most))
        except TimeoutError:
            raise timeout() from None
        if status != 200:
            error = of_status(status, content)
            if self._token and self._token in error.detail:
                raise UpstreamError(error.reason, counts=error.counts, retryable=error.retryable, status=status, named=error.named)
            raise error
        try:
            return json.loads(content)
        except (ValueError, RecursionError):
            raise invalid("json") from None

    async def _exchange(self, method: str, path: str, body: bytes | None, most: int) -> tuple[int, bytes]:
        httpx2, pool = self._http, self._pool()
        try:
            request = pool.build_request(method, self.base_url + path, content=body)
            response = await pool.send(request, stream=True)
            try:
                if response.headers.get("content-encoding", "identity").lower() != "identity":
                    raise invalid("encoding")
                length = response.headers.get("content-length", "")
                if length.isdecimal() and (len(length) > 15 or int(length) > most):
                    raise invalid("too_long")
                parts, size = [], 0
                async for part in response.aiter_raw():
                    size += len(part)
                    if size > most:
                        raise invalid("too_long")
                    parts.append(part)
                return response.status_code, b"".join(parts)
            finally:
                await response.aclose()
        except httpx2.RemoteProtocolError as error:
            # "Server disconnected …" and "peer closed connection …" are a connection that ended; the rest is not HTTP at all
            ended = any(word in str(error) for word in ("disconnected", "closed"))
            raise (unreachable() if ended else invalid("http")) from None
        except httpx2.TimeoutException:
            raise timeout() from None
        except httpx2.TransportError:
            raise unreachable() from None
        except httpx2.HTTPError:
            raise invalid("http") from None

    def _pool(self) -> Any:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            for name in ("httpx2", "httpcore2"):  # they tell of every call, some of every byte; here the measures do
                logging.getLogger(name).setLevel(logging.WARNING)
            limits = self._http.Limits(max_connections=self._connections, max_keepalive_connections=self._keepalive, keepalive_expiry=30.0)
            pool = self._pools[loop] = self._http.AsyncClient(
                headers=self._headers, timeout=None, follow_redirects=False, trust_env=False, limits=limits,
                verify=self.base_url.startswith("https"),  # certificates are read from disk only where they are looked at
            )  # fmt: skip
        return pool

    async def aclose(self) -> None:
        """Close the connections of this event loop."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.aclose()


def _retryable(error: Exception) -> bool:
    return isinstance(error, UpstreamError) and error.retryable


def _mapping(payload: Any) -> dict[str, Any]:
    if not isinstance(payload, dict):
        raise invalid("shape")
    return payload


def _models(payload: Any) -> list[dict[str, Any]]:
    listed = _mapping(payload).get("models")
    if not isinstance(listed, list) or not all(isinstance(item, dict) and isinstance(item.get("model"), str) for item in listed):
        raise invalid("shape")
    return listed


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password or parts.query or parts.fragment:
        raise RecipeError(
            "the address of tollama is no plain http(s) URL", hint=f"as {ADDRESS}; the token stands in TOLLAMA_TOKEN", slug="bad-value"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "") + parts.path.rstrip("/")
