"""A small real HTTP fake of a tollama daemon, for tests, benches and trying things out: `python -m recipeline_tsfm.fake_tollama`.

It follows the daemon's contract (what is refused, with which status and body; one call at a time per family; models that are cold,
not installed, or point-only) and misbehaves on request. Its forecasts are honest ones of a damped random walk, computed from the
series and nothing else. Standard library only.

Faults come one per forecast call, in the order given, `name` for ever or `name:count` times; then it behaves. `python -m … --help`
lists them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import re
import socket
import struct
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import Any, Self

LIMIT = 10_000_000  # bytes of a request
HUGE = 17 * 2**20  # bytes of an answer nobody should read to its end
KEYS = frozenset(
    {"model", "horizon", "quantiles", "series", "options", "keep_alive", "parameters", "timeout", "modelfile", "response_options"}
)
SERIES_KEYS = frozenset({"id", "freq", "timestamps", "target", "actuals", "past_covariates", "future_covariates", "static_covariates"})
DAMPING = 0.9  # of the drift, per step
LICENCES = {"moirai-2.0-R-small": "cc-by-nc-4.0"}
MODELS = ("chronos2", "timesfm-2.5-200m", "moirai-2.0-R-small", "point-only")

Answer = tuple[int, dict[str, Any]]


class Refusal(Exception):
    """A request that the daemon answers with an error."""

    def __init__(self, status: int, detail: Any, hint: str = "") -> None:
        self.status, self.body = status, {"detail": detail, **({"hint": hint} if hint else {})}


# --- forecasting -----------------------------------------------------------------------------------


def forecast(series: Mapping[str, Any], horizon: int, quantiles: Sequence[float]) -> dict[str, Any]:
    """A random walk with damped drift: the last value plus drift * sum(0.9**j), spread by the differences' deviation times sqrt(k)."""
    y = series["target"]
    steps = [b - a for a, b in pairwise(y[-65:])] or [0.0]
    drift = sum(steps) / len(steps)
    deviation = math.sqrt(sum((step - drift) ** 2 for step in steps) / len(steps))
    mean, level, slope = [], float(y[-1]), drift
    for _ in range(horizon):
        slope *= DAMPING
        level += slope
        mean.append(level)
    lines = {}
    for q in quantiles:
        z = NormalDist().inv_cdf(q)
        lines[f"{q:g}"] = [m + z * deviation * math.sqrt(k) for k, m in enumerate(mean, 1)]
    return {
        "id": series["id"], "freq": series["freq"], "start_timestamp": series["timestamps"][-1], "mean": mean,
        "quantiles": lines or None,
    }  # fmt: skip


def answer(body: Mapping[str, Any], family: str) -> dict[str, Any]:
    """The body of a 200."""
    forecasts = [forecast(one, body["horizon"], body.get("quantiles") or ()) for one in body["series"]]
    if family == "point":
        for one in forecasts:
            one["quantiles"] = None
    return {
        "model": body["model"], "forecasts": forecasts, "metrics": None, "timing": {"total_ms": 1.0},
        "usage": {"runner": f"fake-{family}", "series_count": len(forecasts), "horizon": body["horizon"]}, "warnings": None,
    }  # fmt: skip


# --- what the daemon refuses -----------------------------------------------------------------------


def check(raw: bytes) -> dict[str, Any]:
    """The parsed request, or Refusal as the daemon words it."""
    try:
        body = json.loads(raw, parse_constant=lambda _name: None)
    except ValueError:
        raise _bad([(["body", 1], "JSON decode error")]) from None
    if not isinstance(body, dict):
        raise _bad([(["body"], "Input should be a valid dictionary")])
    mistakes: list[tuple[list[Any], str]] = [(["body", key], "Extra inputs are not permitted") for key in body.keys() - KEYS]
    if not isinstance(body.get("model"), str) or not body["model"]:
        mistakes.append((["body", "model"], "Field required"))
    horizon = body.get("horizon")
    if type(horizon) is not int or horizon <= 0:
        mistakes.append((["body", "horizon"], "Input should be greater than 0"))
    levels = body.get("quantiles", [])
    if not isinstance(levels, list) or any(type(q) not in (int, float) or not 0 < q < 1 for q in levels):
        mistakes.append((["body", "quantiles"], "Value error, quantiles must be between 0 and 1"))
    elif any(a >= b for a, b in pairwise(levels)):
        mistakes.append((["body", "quantiles"], "Value error, quantiles must be sorted in ascending order"))
    series = body.get("series")
    if not isinstance(series, list) or not series:
        mistakes.append((["body", "series"], "List should have at least 1 item after validation"))
    else:
        for place, one in enumerate(series):
            mistakes += [(["body", "series", place, *where], what) for where, what in _mistakes(one)]
        mistakes = mistakes or [(["body"], f"Value error, {what}") for one in series for what in _covariates(one, horizon)]
    if mistakes:
        raise _bad(mistakes)
    return body


def _mistakes(one: Any) -> list[tuple[list[Any], str]]:
    if not isinstance(one, dict):
        return [([], "Input should be a valid dictionary")]
    found: list[tuple[list[Any], str]] = [([key], "Extra inputs are not permitted") for key in one.keys() - SERIES_KEYS]
    found += [([key], "Field required") for key in ("id", "freq", "timestamps", "target") if key not in one]
    if found:
        return found
    target, stamps = one["target"], one["timestamps"]
    if not isinstance(target, list) or not isinstance(stamps, list):
        return [(["target"], "Input should be a valid list")]
    bad = [at for at, y in enumerate(target) if type(y) not in (int, float)]
    for at in bad[:5]:  # the daemon's type is a union, and each of its halves complains
        found += [(["target", at, "int"], "Input should be a valid integer"), (["target", at, "float"], "Input should be a valid number")]
    if len(target) != len(stamps) or not target:
        found.append(([], "Value error, target length must match timestamps length"))
    return found


def _covariates(one: Any, horizon: Any) -> list[str]:
    """Mistakes that the daemon finds when it looks at the request as a whole."""
    if not isinstance(one, dict) or not isinstance(one.get("target"), list):
        return []
    past, future = one.get("past_covariates") or {}, one.get("future_covariates") or {}
    found = [f"past covariate {name!r} must match target length" for name, values in past.items() if len(values) != len(one["target"])]
    missing = "future_covariates must also exist in past_covariates; missing past values for covariate"
    found += [f"{missing} {name!r}" for name in future if name not in past]
    return found + [f"future covariate {name!r} must match horizon" for name, values in future.items() if len(values) != horizon]


def _bad(mistakes: list[tuple[list[Any], str]]) -> Refusal:
    return Refusal(
        400, [{"type": "value_error", "loc": loc, "msg": msg} for loc, msg in mistakes], "Fix request payload or parameters and retry."
    )


# --- how it misbehaves -----------------------------------------------------------------------------


def _each(change: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def changed(body: dict[str, Any]) -> dict[str, Any]:
        for one in body["forecasts"]:
            change(one)
        return body

    return changed


def _put(value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """One number in the middle of the first quantile (of the mean, where there are none) becomes `value`."""

    def change(one: dict[str, Any]) -> None:
        row = next(iter(one["quantiles"].values())) if one["quantiles"] else one["mean"]
        row[len(row) // 2] = value

    return _each(change)


def _spelt(spell: Callable[[str], str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return _each(lambda one: one.update(quantiles={spell(key): row for key, row in (one["quantiles"] or {}).items()}))


def _without(places: slice) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(one: dict[str, Any]) -> None:
        for key in list(one["quantiles"] or {})[places]:
            del one["quantiles"][key]

    return _each(change)


def _crossed(one: dict[str, Any]) -> None:
    keys = list(one["quantiles"] or {})
    one["quantiles"] = dict(zip(keys, [one["quantiles"][key] for key in reversed(keys)], strict=True))


def _longer(one: dict[str, Any]) -> None:
    for row in (one["quantiles"] or {}).values():
        row.append(row[-1])


def _shorter(one: dict[str, Any]) -> None:
    for row in (one["quantiles"] or {}).values():
        row.pop()


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "null": _put(None),
    "nan": _put(math.nan),
    "inf": _put(math.inf),
    "text": _put("0.5"),
    "bool": _put(True),
    "huge_int": _put(10**400),
    "big": _put(1e308),
    "wide": _each(
        lambda one: one.update(quantiles={key: [v + (float(key) - 0.5) * 50 for v in row] for key, row in (one["quantiles"] or {}).items()})
    ),
    "flat": _each(lambda one: one.update(quantiles=dict.fromkeys(one["quantiles"] or {}, [one["mean"][0]] * len(one["mean"])))),
    "short": _each(_shorter),
    "long": _each(_longer),
    "missing_id": lambda body: {**body, "forecasts": body["forecasts"][:-1]},
    "wrong_id": _each(lambda one: one.update(id=f"{one['id']}-other")),
    "twice": lambda body: {**body, "forecasts": body["forecasts"] * 2},
    "missing_quantile": _without(slice(1, 2)),
    "missing_outer_quantile": _without(slice(-1, None)),
    "no_quantiles": _each(lambda one: one.update(quantiles=None)),
    "nothing": _each(lambda one: one.update(quantiles=None, mean=None)),
    "trailing_zero": _spelt(lambda key: f"{key}0"),
    "q_names": _spelt(lambda key: f"q{round(float(key) * 100)}"),
    "crossed": _each(_crossed),
    "other_model": lambda body: {**body, "model": "somebody-else"},
    "warned": lambda body: {**body, "warnings": ["ignoring unsupported covariate: vol", "ignoring unsupported covariate: vol"]},
    "no_forecasts": lambda body: {"model": body["model"]},
    "list": lambda body: [body],
}
"""Faults of a 200: the honest body -> another one."""

STATUSES: dict[str, tuple[int, Any]] = {
    "500": (500, "internal error"),
    "502": (502, {"code": "FORECAST_ERROR", "message": "the model blew up"}),
    "503": (503, "runner unavailable after restart"),
    "503_breaker": (503, "runner circuit breaker is open"),
    "503_timeout": (503, "runner call timed out after 10.00s"),
    "503_dependency": (503, {"code": "DEPENDENCY_MISSING", "message": "missing optional dependency"}),
    "504": (504, "gateway timeout"),
    "429": (429, "rate limit exceeded"),
    "400": (400, {"code": "BAD_REQUEST", "message": "the request is bad"}),
    "401": (401, "invalid api key"),
    "403": (403, "forbidden"),
    "404_model": (404, "model 'chronos2' is not installed"),
    "404_route": (404, "Not Found"),
    "409": (409, "model requires license acceptance; pass accept_license=True"),
    "413": (413, "request body too large"),
    "422": (422, "unprocessable"),
    "418": (418, "a teapot"),
}
TEXTS: dict[str, tuple[str, bytes]] = {
    "garbage": ("application/json", b"\x00\xff{{{ not json"),
    "empty": ("application/json", b""),
    "html": ("text/html", b"<!doctype html><title>502 Bad Gateway</title>"),
    "ndjson": ("application/x-ndjson", b'{"status":"loading model"}\n{"status":"running forecast"}\n{"done":true}\n'),
    "number": ("application/json", b"42"),
    "deep": ("application/json", b"[" * 200_000),
}
RAW = ("refuse", "reset", "close", "hang", "drip", "slow_head", "no_http", "redirect", "too_long", "too_long_chunked", "gzip", "cut", "204")
FAULTS = (*RAW, *STATUSES, *TEXTS, *CHANGES)
"""Every fault by name. `refuse` closes the port before the first call; the others concern one forecast call each."""


class FakeTollama:
    """The daemon on a socket of 127.0.0.1. `async with FakeTollama(...) as fake: fake.url`.

    faults      names from FAULTS, `name` or `name:count`, or functions that turn an honest body into what is sent
    latency     seconds of each forecast call, `per_series` more for each series; one call of a family at a time
    cold        seconds that a model's first call takes longer
    models      installed           token  required as a bearer token           limit  bytes of a request
    replay      function (method, path, body) -> (status, content type, body) that answers instead of the fake, or None
    poison      series whose target holds this value make the whole call a 400; `named` says whether the answer tells which

    `calls` holds the body of every forecast call, `requests` every (method, path), `running` and `most` calls at once.
    """

    def __init__(
        self,
        faults: Sequence[str | Callable[[dict[str, Any]], Any]] = (),
        *,
        latency: float = 0.0,
        per_series: float = 0.0,
        cold: float = 0.0,
        models: Sequence[str] = MODELS,
        token: str | None = None,
        limit: int = LIMIT,
        poison: float | None = None,
        named: bool = False,
        replay: Callable[[str, str, bytes], tuple[int, str, bytes] | None] | None = None,
    ) -> None:
        self.replay = replay
        self.faults: list[Any] = []
        self.set_faults(*faults)
        self.latency, self.per_series, self.cold = latency, per_series, cold
        self.models, self.token, self.limit, self.poison, self.named = set(models), token, limit, poison, named
        self.loaded: set[str] = set() if cold else set(models)
        self.calls: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str]] = []
        self.running = self.most = 0
        self._families: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.host, self.port = "127.0.0.1", 0

    def set_faults(self, *faults: str | Callable[[dict[str, Any]], Any]) -> None:
        """What goes wrong from now on."""
        self.faults = []
        for fault in faults:
            name, _, count = fault.partition(":") if isinstance(fault, str) else (fault, "", "")
            if isinstance(name, str) and name not in FAULTS:
                raise ValueError(f"no fault {name!r}; there are {', '.join(FAULTS)}")
            self.faults.append([name, int(count) if count else math.inf])

    def _fault(self) -> Any:
        while self.faults:
            name, left = self.faults[0]
            if left > 0:
                self.faults[0][1] -= 1
                return name
            self.faults.pop(0)
        return None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def start(self, port: int = 0) -> FakeTollama:
        self._server = await asyncio.start_server(self._serve, self.host, port)
        self.port = self._server.sockets[0].getsockname()[1]
        if self.faults and self.faults[0][0] == "refuse":
            await self.stop()
        return self

    async def stop(self) -> None:
        """Close the port and every connection; calls that hang end."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in tuple(self._open):
            writer.transport.abort()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    # --- HTTP ---

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client went away, which is its right
        except asyncio.CancelledError:
            if not writer.is_closing():
                writer.transport.abort()
        finally:
            self._tasks.discard(task)
            self._open.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection stays."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        length = int(headers.get("content-length", 0))
        self.requests.append((method, path))
        if length > self.limit:
            await reader.readexactly(length)
            await self._send(writer, 413, {"detail": "request body too large"})
            return True
        raw = await reader.readexactly(length)
        if self.token is not None and headers.get("authorization") != f"Bearer {self.token}":
            said = "invalid api key" if "authorization" in headers else "missing bearer token"
            await self._send(writer, 401, {"detail": said})
            return True
        recorded = self.replay(method, path, raw) if self.replay is not None else None
        if recorded is not None:
            status, kind, text = recorded
            await self._write(writer, status, text, kind)
            return True
        if (method, path) == ("POST", "/v1/forecast"):
            return await self._forecast(raw, writer)
        status, body = self._other(method, path, raw)
        await self._send(writer, status, body)
        return True

    def _other(self, method: str, path: str, raw: bytes) -> Answer:
        listed = [{"name": name, "model": name, "details": {"format": "tollama", "family": _family(name)}} for name in sorted(self.models)]
        fixed: dict[tuple[str, str], dict[str, Any]] = {
            ("GET", "/api/tags"): {"models": listed},
            ("GET", "/v1/models"): {"object": "list", "data": [{"id": item["name"]} for item in listed], "models": listed},
            ("GET", "/api/ps"): {"models": [{"name": name, "model": name, "expires_at": None} for name in sorted(self.loaded)]},
            ("GET", "/v1/health"): {"status": "ok"},
            ("GET", "/api/version"): {"version": "0.1.0"},
            ("GET", "/fake/calls"): {"forecast": len(self.calls)},  # not the daemon's: for who counts from another process
        }
        if (method, path) in fixed:
            return 200, fixed[method, path]
        if method != "POST" or path not in ("/api/show", "/api/pull"):
            return 404, {"detail": "Not Found"}
        try:
            name = json.loads(raw)["model"]
        except (ValueError, KeyError, TypeError):
            return 400, {"detail": "Field required"}
        if path == "/api/show":
            if name not in self.models:
                return 404, {"detail": f"model '{name}' is not installed"}
            kind = LICENCES.get(name, "apache-2.0")
            return 200, {
                "name": name,
                "model": name,
                "family": _family(name),
                "license": {"type": kind, "needs_acceptance": False, "accepted": True},
            }
        if name in LICENCES:
            return 409, {"detail": f"model '{name}' requires license acceptance; pass accept_license=True"}
        self.models.add(name)
        return 200, {"status": "success"}

    async def _forecast(self, raw: bytes, writer: asyncio.StreamWriter) -> bool:
        fault = self._fault()
        with contextlib.suppress(ValueError):
            self.calls.append(json.loads(raw))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if isinstance(fault, str) and fault in RAW:
                return await getattr(self, f"_do_{fault}", self._do_other)(writer, raw, fault)
            try:
                body = await self._compute(raw)
            except Refusal as refused:
                await self._send(writer, refused.status, refused.body)
                return True
            if isinstance(fault, str) and fault in STATUSES:
                status, detail = STATUSES[fault]
                await self._send(writer, status, {"detail": detail})
            elif isinstance(fault, str) and fault in TEXTS:
                kind, text = TEXTS[fault]
                await self._write(writer, 200, text, kind)
            else:
                change = CHANGES[fault] if isinstance(fault, str) else fault
                await self._send(writer, 200, change(body) if change else body)
            return True
        finally:
            self.running -= 1

    async def _compute(self, raw: bytes) -> dict[str, Any]:
        body = check(raw)
        model = body["model"]
        if model not in self.models:
            raise Refusal(404, f"model '{model}' is not installed", "Run `tollama pull <model>` to install.")
        bad = [place for place, one in enumerate(body["series"]) if self.poison is not None and self.poison in one["target"]]
        if bad:
            raise _bad(
                [(["body", "series", place], "Value error, poison") for place in bad] if self.named else [(["body"], "Value error, poison")]
            )
        family = _family(model)
        async with self._families[family]:
            if model not in self.loaded:
                await asyncio.sleep(self.cold)
                self.loaded.add(model)
            await asyncio.sleep(self.latency + self.per_series * len(body["series"]))
            return answer(body, family)

    async def _send(self, writer: asyncio.StreamWriter, status: int, body: Any) -> None:
        await self._write(writer, status, json.dumps(body).encode(), "application/json")

    async def _write(self, writer: asyncio.StreamWriter, status: int, body: bytes, kind: str, *more: str) -> None:
        lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(body)}", *more]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    # --- faults below HTTP ---

    async def _do_refuse(self, writer: asyncio.StreamWriter, raw: bytes, fault: str) -> bool:
        return await self._do_reset(writer, raw, fault)

    async def _do_reset(self, writer: asyncio.StreamWriter, raw: bytes, fault: str) -> bool:
        """A reset instead of an answer (RST: lingering switched off)."""
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        return False

    async def _do_close(self, writer: asyncio.StreamWriter, raw: bytes, fault: str) -> bool:
        return False

    async def _do_hang(self, writer: asyncio.StreamWriter, raw: bytes, fault: str) -> bool:
        await asyncio.sleep(3600)
        return False

    async def _do_slow_head(self, writer: asyncio.StreamWriter, raw: bytes, fault: str) -> bool:
        """A byte of the header every now and then."""
        for byte in b"HTTP/1.1 200 OK\r\nx-slow: " + b"z" * 36_000:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)
        return False

    async def _do_drip(self, writer: asyncio.StreamWriter, raw: bytes, fault: str) -> bool:
        """An honest answer, a byte every now and then: no pause is ever long."""
        body = json.dumps(await self._compute(raw)).encode()
        writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode())
        for byte in body:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)
        return True

    async def _do_other(self, writer: asyncio.StreamWriter, raw: bytes, fault: str) -> bool:
        if fault == "no_http":
            writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
            await writer.drain()
            return False
        if fault == "redirect":
            await self._write(writer, 307, b"", "text/plain", "location: /v1/health")
        elif fault == "204":
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            await writer.drain()
        elif fault == "gzip":
            await self._write(writer, 200, b"\x1f\x8b" + b"\0" * 64, "application/json", "content-encoding: gzip")
        elif fault == "cut":
            writer.write(b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{"model":')
            await writer.drain()
            return False
        elif fault == "too_long":
            writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {HUGE}\r\n\r\n".encode())
            await self._flood(writer, lambda part: part)
            return False
        else:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
            await self._flood(writer, lambda part: f"{len(part):x}\r\n".encode() + part + b"\r\n")
            return False
        return True

    async def _flood(self, writer: asyncio.StreamWriter, frame: Callable[[bytes], bytes]) -> None:
        part = b" " * 2**16
        for _ in range(HUGE // len(part)):
            writer.write(frame(part))
            await writer.drain()


def _family(model: str) -> str:
    """Models of one family share a runner: the letters that their names begin with."""
    found = re.match(r"[a-z]+", model.lower())
    return found[0] if found else "none"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m recipeline_tsfm.fake_tollama", description=__doc__.splitlines()[0], epilog="faults: " + ", ".join(FAULTS)
    )
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--faults", default="", help="name[:count],…")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="of one call; a family serves one call at a time")
    parser.add_argument("--per-series-ms", type=float, default=0.0)
    parser.add_argument("--cold-ms", type=float, default=0.0, help="what a model's first call takes longer")
    parser.add_argument("--models", default=",".join(MODELS), help="installed models")
    parser.add_argument("--token", default=None, help="required as a bearer token")
    options = parser.parse_args(arguments)
    fake = FakeTollama(
        [fault for fault in options.faults.split(",") if fault], latency=options.latency_ms / 1000, per_series=options.per_series_ms / 1000,
        cold=options.cold_ms / 1000, models=options.models.split(","), token=options.token,
    )  # fmt: skip

    async def serve() -> None:
        await fake.start(options.port)
        print(fake.url, flush=True)  # what the caller waits for
        await asyncio.Event().wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())


if __name__ == "__main__":
    main()
