"""Who may ask, and where a server may listen.

Configuration holds SHA-256 digests of keys, never keys: `printf %s "$KEY" | sha256sum`. Without keys a server answers only
on loopback, whoever bound the socket, unless it was told otherwise; prod cannot be told.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recipeline.errors import Problem, RecipeError, Refused
from recipeline.serve.problems import HTTPProblem

if TYPE_CHECKING:
    from recipeline.settings import Settings

KEYS = ("api_serving", "auth", "keys")
_DIGEST = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")
_OPEN = frozenset({"/health/live", "/health/ready"})  # probes carry no keys


@dataclass(frozen=True)
class Limits:
    """What one request may cost; see `api_serving.limits` in the configuration."""

    max_bytes: int = 8 * 1024 * 1024  # of a body
    max_rows: int = 10_000
    timeout: float = 30.0  # seconds, from the first byte of a request to its answer

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        given = settings.api_serving.limits
        return cls(int(given.max_bytes), int(given.max_rows), float(given.timeout))


def hash_key(key: str) -> str:
    """What stands in `api_serving.auth.keys` for a key."""
    return hashlib.sha256(key.encode()).hexdigest()


class Keys:
    """The keys that open the server, as SHA-256 digests.

    Raises RecipeError for a value that is no digest: a key written down by mistake must not work.
    """

    def __init__(self, digests: Iterable[str] = ()) -> None:
        found, problems = [], []
        for position, digest in enumerate(digests):
            match = _DIGEST.fullmatch(digest.strip())
            if match is None:
                hint = 'write the SHA-256 of the key: printf %s "$KEY" | sha256sum'
                problems.append(Problem("bad-value", (*KEYS, position), "not a SHA-256 digest", hint))
            else:
                found.append(bytes.fromhex(match[1]))
        if problems:
            raise RecipeError(problems)
        self._digests = tuple(found)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def open(self, key: bytes) -> bool:
        """Whether this is one of the keys; takes the same time whichever it is."""
        digest = hashlib.sha256(key).digest()
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


class Guard:
    """Decides about a request before anything of it is read."""

    def __init__(self, keys: Keys, *, anywhere: bool = False) -> None:
        self.keys, self.anywhere = keys, anywhere

    def check(self, path: str, headers: Iterable[tuple[bytes, bytes]], server: tuple[str, int | None] | None) -> None:
        """Raises HTTPProblem 401 without a right key, 403 where a server without keys is reached from outside."""
        if path in _OPEN:
            return
        if not self.keys:
            if not self.anywhere and server is not None and server[1] is not None and not _loopback(server[0]):
                raise HTTPProblem(403, "no-keys", "this server has no API keys and answers on loopback only")
            return
        key = _key(headers)
        if key is None:
            detail = "an API key is needed: send it as Authorization: Bearer KEY or X-API-Key: KEY"
            raise HTTPProblem(401, "key-missing", detail, headers={"www-authenticate": "Bearer"})
        if not self.keys.open(key):
            raise HTTPProblem(
                401, "key-unknown", "the API key is not known here", headers={"www-authenticate": 'Bearer error="invalid_token"'}
            )


def _key(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    for name, value in headers:
        if name == b"x-api-key":
            return value.strip()
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
    return None


def permitted(settings: Settings, *, host: str | None = None, insecure_no_auth: bool = False) -> Keys:
    """The keys of a server that may be started; called before anything is loaded.

    host  where it will listen, the configured one if None

    Raises Refused (exit 4) where serving is not enabled, or would be open beyond loopback; RecipeError (exit 3) for prod
    without keys or with stores in local files.
    """
    serving = settings.api_serving
    if not serving.enabled:
        raise Refused(
            f"serving is switched off in environment {settings.environment}",
            hint="set APP_ENV to an environment that serves (dev, prod), or add --set api_serving.enabled=true",
            slug="serving-off",
        )
    if insecure_no_auth and settings.environment == "prod":
        raise Refused("prod does not serve without keys", hint="remove --insecure-no-auth", slug="no-authentication")
    if unsafe := settings.production_problems():
        raise RecipeError(unsafe)
    keys = Keys(serving.auth.keys)
    if keys:
        return keys
    where = serving.host if host is None else host
    if not insecure_no_auth and not _loopback(where):
        raise Refused(
            f"no API keys, so nobody but this machine may ask, and {where} is open to others",
            hint="set api_serving.auth.keys, or --host 127.0.0.1, or --insecure-no-auth",
            slug="no-authentication",
        )
    return keys


def _loopback(host: str) -> bool:
    """Whether only this machine reaches an address; a name counts by all the addresses it stands for."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        pass  # a name, not an address
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host or None, None, flags=socket.AI_PASSIVE)}
    except (OSError, UnicodeError):
        return False  # unknown here: binding will say so
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)
