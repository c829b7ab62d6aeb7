"""Sockets and processes: one server, or several workers on one socket, and leaving without losing a request.

Leaving: new connections are no longer let in (Linux: a filter on the listening socket drops their first packet, so that
none is reset in the queue), those in the queue are still taken, answers say `Connection: close`, open connections are read
until they have been used once more or `DRAIN` has passed; then the stock shutdown waits for what still runs.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import multiprocessing
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from recipeline.errors import TrainingFailed, UsageError
from recipeline.serve.access import Guard, Limits, permitted
from recipeline.serve.application import build, routes
from recipeline.serve.connection import Connection
from recipeline.serve.documentation import curl
from recipeline.serve.gate import Gate, State

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from recipeline.pipeline import Pipeline
    from recipeline.settings import Settings

DRAIN = 2.0  # seconds for idle connections to be used once more
SETTLE = 0.25  # seconds in which handshakes that have begun end up in the queue
BACKLOG = 2048

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; the socket module has no name for it
_log = logging.getLogger("recipeline.serve")


def serve(
    pipeline: Pipeline,
    settings: Settings,
    *,
    host: str | None = None,
    port: int | None = None,
    workers: int | None = None,
    insecure_no_auth: bool = False,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve a pipeline until SIGTERM or SIGINT.

    host, port, workers  as configured where None; port 0 takes a free one
    announce             gets the address and a curl that works as printed, once requests are answered; None prints them

    Raises Refused, RecipeError as `permitted`; UsageError for an address that cannot be had, or several workers for a
    pipeline that is no saved run.
    """
    permitted(settings, host=host, insecure_no_auth=insecure_no_auth)
    count = settings.api_serving.workers if workers is None else workers
    if count < 1:
        raise UsageError(f"{count} workers cannot serve", hint="--workers takes 1 or more")
    if count > 1 and not pipeline.run_id:
        raise UsageError("several workers each load the model, and this one is no saved run", hint="use --workers 1")
    listening = _bind(settings.api_serving.host if host is None else host, settings.api_serving.port if port is None else port)
    secured = bool(settings.api_serving.auth.keys)
    words = _words(pipeline, _url(listening), count, secured=secured)
    tell = announce or _print
    with listening:
        if count == 1:
            _serve(_built(pipeline, settings, insecure_no_auth), listening, ready=lambda: tell(words))
        else:
            folder = pipeline.facts.get("folder")
            source = Path(folder) if folder else pipeline.run_id
            _supervise(_Work(source, settings, insecure_no_auth), count, listening, lambda: tell(words))


def _print(text: str) -> None:
    print(text, flush=True)  # through a pipe too, before anybody asks


def _words(pipeline: Pipeline, url: str, count: int, *, secured: bool) -> str:
    how = f"{count} workers; " if count > 1 else ""
    key = "with one of your keys in RECIPELINE_API_KEY, " if secured else ""
    command = curl(pipeline.schema, url, secured=secured, routes=routes(pipeline))
    return f"serving {pipeline.version} on {url} ({how}{url}/docs)\n{key}try:\n  {command}"


def _built(pipeline: Pipeline, settings: Settings, insecure_no_auth: bool) -> Gate:
    keys = permitted(settings, host="127.0.0.1", insecure_no_auth=insecure_no_auth)
    return build(pipeline, guard=Guard(keys, anywhere=insecure_no_auth), limits=Limits.of(settings))


# --- one process ---------------------------------------------------------------------------------------------------------


def _serve(gate: Gate, listening: socket.socket, *, ready: Callable[[], None], parent: int | None = None) -> None:
    config = uvicorn.Config(
        gate, http=Connection.with_patience(gate.limits.timeout), ws="none", lifespan="on", loop="auto", backlog=BACKLOG,
        log_config=None, access_log=False, server_header=False, proxy_headers=False,
        timeout_graceful_shutdown=int(gate.limits.timeout) + 5,
    )  # fmt: skip
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)  # it tells of every start and stop; we do so once
    server = Server(config, gate.state, ready, parent=parent)
    try:
        server.run(sockets=[listening])
    except SystemExit as error:  # uvicorn leaves the process when the lifespan fails; the log has the reason
        raise TrainingFailed("the server could not start; see the log", slug="not-started") from error


class Server(uvicorn.Server):
    """Uvicorn's server with a way to leave that loses nothing.

    parent  process id of a supervisor: the queue of the shared socket is its to close, and when it is gone so are we
    """

    def __init__(self, config: uvicorn.Config, state: State, ready: Callable[[], None], *, parent: int | None = None) -> None:
        super().__init__(config)
        self.state, self.ready, self.parent = state, ready, parent

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.ready()

    async def on_tick(self, counter: int) -> bool:
        orphan = self.parent is not None and os.getppid() != self.parent
        return orphan or await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.state.draining = True
        if self.parent is None:
            for listening in sockets or ():
                _close_door(listening)
        begun = time.monotonic()
        while (gone := time.monotonic() - begun) < SETTLE or (self.server_state.connections and gone < DRAIN):
            if self.force_exit:
                break
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)


# --- sockets -------------------------------------------------------------------------------------------------------------


def _bind(host: str, port: int) -> socket.socket:
    listening: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)  # from here on connections queue up, and wait for the application to be ready
    except (OSError, OverflowError, UnicodeError) as error:
        if listening is not None:
            listening.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot listen on {host}:{port}: {reason}", hint="choose another --host or --port") from error
    return listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104  # not bound here, only shown: every address includes this one
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _close_door(listening: socket.socket) -> None:
    """Let no new connection begin: a closing socket would reset those that wait in its queue.

    The filter (classic BPF, as `tcpdump -dd` writes it) drops segments with SYN set and lets the rest of begun handshakes
    pass; their senders find the door closed at the next attempt, before anything of theirs was sent.
    """
    if sys.platform != "linux" or listening.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    program = ((0x30, 0, 0, 13), (0x45, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))  # ldb [13]; jset SYN; drop; pass
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(program), ctypes.addressof(code)))


# --- several processes ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Work:
    """What a worker needs to begin: it is sent to a fresh process."""

    run: str | Path
    settings: Settings
    insecure_no_auth: bool

    def __call__(self, listening: socket.socket, ready: Any, parent: int) -> None:
        from recipeline import logs, runs

        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the whole group; the supervisor tells us when
        logs.configure(self.settings.logging.level, self.settings.logging.format, self.settings.secrets())
        pipeline = runs.open_run(self.run, self.settings).pipeline
        _serve(_built(pipeline, self.settings, self.insecure_no_auth), listening, ready=ready.set, parent=parent)


class _Worker:
    def __init__(self, work: _Work, listening: socket.socket) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would take over locks of threads that are not there
        self.ready = context.Event()
        self.process: BaseProcess = context.Process(target=work, args=(listening, self.ready, os.getpid()), daemon=True)
        self.process.start()


def _supervise(work: _Work, count: int, listening: socket.socket, announce: Callable[[], None]) -> None:
    """Keep `count` workers on one socket until a signal comes; one that dies after it was ready is replaced."""
    caught: list[int] = []
    before = {number: signal.signal(number, lambda got, _: caught.append(got)) for number in (signal.SIGTERM, signal.SIGINT)}
    workers: list[_Worker] = []
    told = False
    try:
        workers = [_Worker(work, listening) for _ in range(count)]
        while not caught:
            wait([worker.process.sentinel for worker in workers], timeout=0.1)
            if not told and all(worker.ready.is_set() for worker in workers):
                announce()
                told = True
            for position, worker in enumerate(workers):
                if worker.process.is_alive() or caught:
                    continue
                if not worker.ready.is_set():
                    raise TrainingFailed("a worker could not start; see the log", slug="not-started")
                _log.warning("worker %s ended with %s; another takes its place", worker.process.pid, worker.process.exitcode)
                workers[position] = _Worker(work, listening)
    finally:
        _close_door(listening)
        time.sleep(SETTLE)  # what has begun a handshake is still taken by the workers
        _stop(workers, work.settings.api_serving.limits.timeout + DRAIN + 10)
        for number, handler in before.items():
            signal.signal(number, handler)
    if caught:
        signal.raise_signal(caught[0])  # the exit code is that of the signal, as with one process


def _stop(workers: Sequence[_Worker], patience: float) -> None:
    for worker in workers:
        worker.process.terminate()
    until = time.monotonic() + patience
    for worker in workers:
        worker.process.join(max(0.0, until - time.monotonic()))
        if worker.process.is_alive():
            _log.warning("worker %s did not end within %g s and is killed", worker.process.pid, patience)
            worker.process.kill()
            worker.process.join()
