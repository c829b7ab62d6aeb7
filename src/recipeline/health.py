"""Is everything there that the configuration names? Every service is asked once, for a few seconds; nothing is changed."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from recipeline import logs, registry, tracking, work
from recipeline.assemble import BUILTIN_ADAPTERS, allow_list
from recipeline.errors import DataError, Exhausted, RecipeError, RecipelineError, Unavailable, dotted
from recipeline.settings import Settings
from recipeline.stores import files
from recipeline.stores.places import Places

Status = Literal["ok", "warn", "fail"]

ROOM = 2**30  # bytes: a run with its artifact and MLflow's copy fits many times
PORTS = {"postgresql": 5432, "postgres": 5432, "mysql": 3306, "mssql": 1433, "redis": 6379, "rediss": 6379, "http": 80, "https": 443}
NEEDED: Mapping[str, Callable[[Settings], bool]] = {
    "serving": lambda settings: settings.api_serving.enabled,
    "feast": lambda settings: settings.feature_store.enabled,
}
"""Extras that the configuration asks for, and when."""
ASKED = ("mlflow.", "data_adapters.", "feature_store.", "hyperparameter_tuning.storage", "execution.joblib.address")
"""Keys whose service has a check of its own, which says what is not set."""


@dataclass(frozen=True)
class Finding:
    """What was found at one place. code: the exit code that a failure means."""

    check: str
    status: Status
    message: str
    hint: str = ""
    code: int = 0

    def __str__(self) -> str:
        said = "; ".join(part for part in (self.message, self.hint) if part)
        return logs.mask(f"{self.status:<5} {self.check:<13} {said}")

    def as_dict(self) -> dict[str, str]:
        told = {"check": self.check, "status": self.status, "message": self.message, "hint": self.hint}
        return {name: logs.mask(text) for name, text in told.items()}


def examine(settings: Settings, *, timeout: float = 5.0) -> list[Finding]:
    """Every finding, in the order of the checks.

    timeout  seconds that a database or a port may take to answer; a tracking server whose port answers has 30 to say more
    """
    found: list[Finding] = []
    for check in (_project, _configuration, _work_folder, _unfinished):
        found += check(settings)
    found += _tracking(settings, timeout)
    found += _spooled(settings)
    for ask in (_adapters, _services):
        found += ask(settings, timeout)
    return [*found, *_extras(settings)]


def exit_code(findings: list[Finding]) -> int:
    """6 where a service is away (worth a retry), else the code of the first failure, else 0."""
    codes = [finding.code for finding in findings if finding.status == "fail"]
    return 6 if 6 in codes else next(iter(codes), 0)


# --- this folder -----------------------------------------------------------------------------------------------------


def _project(settings: Settings) -> Iterator[Finding]:
    folder = settings.project / "config"
    if not folder.is_dir():
        yield Finding("project", "warn", "no folder config/ here or above: the defaults hold", "recipeline init FOLDER writes a project")
        return
    names = ("base.yaml", f"{settings.environment}.yaml", f"{settings.environment}.local.yaml")
    read = [f"config/{name}" for name in names if (folder / name).is_file()]
    yield Finding("project", "ok", f"{settings.project.name}, environment {settings.environment}: {', '.join(read) or 'no file'}")


def _configuration(settings: Settings) -> Iterator[Finding]:
    """What production forbids, and the variables that nobody set."""
    problems = settings.production_problems()
    for problem in problems:
        where = f"{problem.file}:{problem.line}: " if problem.line else ""
        yield Finding("configuration", "fail", f"{where}{dotted(problem.key)}: {problem.message}", problem.hint, 3)
    told = {dotted(problem.key) for problem in problems}
    unset = {key: names for key, names in settings.unset().items() if key not in told and not key.startswith(ASKED)}
    for key, names in unset.items():
        yield Finding("configuration", "warn", f"{key} has no value", f"set {' and '.join(names)} before a command needs it")
    if not problems and not unset:
        yield Finding("configuration", "ok", "no mistake")


def _work_folder(settings: Settings) -> Iterator[Finding]:
    place = settings.execution.work_folder
    shown = files.shown(place)
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place):
            free = shutil.disk_usage(place).free
    except OSError as error:
        hint = "make it writable, or set execution.work_folder"
        yield Finding("work folder", "fail", f"{shown} cannot be written: {error.strerror}", hint, 3)
        return
    room = f"{free / 2**30:.1f} GiB free"
    if free < ROOM:
        yield Finding("work folder", "warn", f"{shown} is writable, {room}", "make room before you train")
    else:
        yield Finding("work folder", "ok", f"{shown} is writable, {room}")


def _unfinished(settings: Settings) -> Iterator[Finding]:
    running: list[str] = []
    left: list[str] = []
    for path in sorted(settings.execution.work_folder.glob("*/state.json")):
        state = work.read_state(path.parent)
        if path.parent.name.startswith(".") or not state:
            continue
        name = str(state["run_id"])[:8] or path.parent.name
        (running if _held(path.parent / "lock") else left).append(name)
    if running:
        yield Finding("runs", "ok", f"in progress: {', '.join(running)}")
    if left:
        hint = "the same train command goes on with it, or train --resume RUN"
        yield Finding("runs", "warn", f"unfinished: {', '.join(left)}", hint)
    if not running and not left:
        yield Finding("runs", "ok", "none is unfinished")


def _held(path: Path) -> bool:
    """Whether a living process holds a lock file."""
    if not path.exists():
        return False
    lock = files.Lock(path)
    try:
        lock.acquire()
    except RecipelineError:
        return True
    lock.release()
    return False


# --- services --------------------------------------------------------------------------------------------------------


def _tracking(settings: Settings, timeout: float) -> Iterator[Finding]:
    try:
        place = _host(settings.mlflow.tracking_uri)
        if place is not None and (reason := _silent(*place, timeout)):  # MLflow would ask again and again
            host, port = place
            yield Finding("mlflow", "fail", f"{host}:{port} does not answer ({reason})", "start it, or see mlflow.tracking_uri", 6)
            return
        runs = tracking.list_runs(settings, limit=1)
    except RecipelineError as error:
        yield _failed("mlflow", error, "see mlflow.tracking_uri")
        return
    where = files.without_credentials(settings.mlflow.tracking_uri)
    where = files.shown(where.removeprefix("sqlite:///")) if where.startswith("sqlite:///") else where
    newest = f"newest run {runs[0].run_id[:8]} ({runs[0].name})" if runs else "no runs yet"
    yield Finding("mlflow", "ok", f"{where}, experiment {settings.mlflow.experiment_name}: {newest}")


def _spooled(settings: Settings) -> Iterator[Finding]:
    try:
        waiting = tracking.spooled(settings)
    except RecipelineError:
        return  # the check before this one said what is wrong with the store
    if waiting:
        hint = "recipeline sync gives them to it"
        yield Finding("spool", "warn", f"{len(waiting)} runs wait for the tracking server: {', '.join(waiting)}", hint)


def _adapters(settings: Settings, timeout: float) -> Iterator[Finding]:
    for name in settings.data_adapters.adapters:
        check = f"adapter {name}"
        try:
            yield Finding(check, "ok", _connected(settings, name, timeout))
        except RecipelineError as error:
            yield _failed(check, error, f"see data_adapters.adapters.{name}")


def _connected(settings: Settings, name: str, timeout: float) -> str:
    """What an adapter answered; a database is opened for reading and asked for one row."""
    known = settings.data_adapters.adapters[name].class_name
    if known not in BUILTIN_ADAPTERS:
        registry.find("adapter", known, allow_list(settings))
        return f"{known} is there; it is not asked, because only itself knows how"
    known, config = settings.adapter(name)
    if known == "SqlAdapter":
        config = {**config, "timeout": min(timeout, float(config.get("timeout", timeout)))}
    adapter = Places(settings.project, settings.project, adapters={name: {"class_name": known, "config": config}}).adapter(name)
    if known != "SqlAdapter":
        return f"{known} is built"
    adapter.read("SELECT 1 AS one")
    return f"{adapter!r} answers, read-only".replace("<", "").replace(">", "")


def _services(settings: Settings, timeout: float) -> Iterator[Finding]:
    """Ports behind the other addresses of the configuration: feature store, study store, scheduler."""
    for check, look_up in _addresses(settings):
        try:
            text = look_up()
        except RecipelineError as error:
            yield _failed(check, error, "")
            continue
        place = _host(text)
        if place is None:
            continue  # a file, or a service that is named without a host
        host, port = place
        if reason := _silent(host, port, timeout):
            yield Finding(check, "fail", f"{host}:{port} does not answer ({reason})", "start it, or correct its address", 6)
        else:
            yield Finding(check, "ok", f"{host}:{port} answers")


def _silent(host: str, port: int, timeout: float) -> str:
    """Why nobody answers at a port; empty where someone does."""
    try:
        socket.create_connection((host, port), timeout=timeout).close()
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


def _addresses(settings: Settings) -> Iterator[tuple[str, Callable[[], str]]]:
    feast = settings.feature_store.feast_config if settings.feature_store.enabled else {}
    for part, config in feast.items():
        if isinstance(config, Mapping):
            yield f"feast {part.removesuffix('_store')}", lambda config=config: _feast_address(settings.reveal(config))  # type: ignore[misc]
    yield "studies", lambda: settings.hyperparameter_tuning.storage or ""
    yield "scheduler", lambda: settings.execution.joblib.address or ""


def _feast_address(config: Mapping[str, Any]) -> str:
    kind = str(config.get("type", ""))
    if "host" in config:
        return f"{kind}://{config['host']}:{config.get('port') or PORTS.get(kind, 0)}"
    if "connection_string" in config:
        first = str(config["connection_string"]).split(",")[0]
        return first if "://" in first else f"{kind}://{first}"
    return str(config.get("path", ""))


def _host(text: str) -> tuple[str, int] | None:
    """Host and port of an address; None for a file and for what has no port that is known."""
    parts = urlsplit(text)
    scheme = parts.scheme.partition("+")[0]
    try:
        port = parts.port or PORTS.get(scheme)
    except ValueError:  # its message may show a part of a password
        return None
    return (unquote(parts.hostname), port) if parts.hostname and port else None


def _failed(check: str, error: RecipelineError, hint: str) -> Finding:
    """A failure with its exit code: 6 where asking again may help, else the configuration is wrong."""
    away = isinstance(error, (Unavailable, Exhausted))
    problems = error.problems if isinstance(error, RecipeError) else ()
    said = problems[0].message if problems else ": ".join(part for part in (error.where, error.message) if part)
    todo = (problems[0].hint if problems else error.hint) or hint
    status: Status = "fail"
    if isinstance(error, DataError) and error.slug == "no-such-file":
        status = "warn"  # a database that may be made later; a command that needs it says so again
    return Finding(check, status, said, todo, 6 if away else 3)


# --- libraries -------------------------------------------------------------------------------------------------------


def _extras(settings: Settings) -> Iterator[Finding]:
    libraries: dict[str, list[str]] = defaultdict(list)
    for library, extra in registry.EXTRAS.items():
        libraries[extra].append(library)
    missing = {extra: [name for name in names if importlib.util.find_spec(name) is None] for extra, names in sorted(libraries.items())}
    complete = [extra for extra, names in missing.items() if not names]
    absent = [extra for extra, names in missing.items() if names]
    for extra, asked in NEEDED.items():
        if missing.get(extra) and asked(settings):
            what = f"{extra} is configured and {', '.join(missing[extra])} is not installed"
            yield Finding("extras", "fail", what, f"pip install 'recipeline[{extra}]'", 3)
    said = f"installed: {', '.join(complete) or 'none'}" + (f"; not installed: {', '.join(absent)}" if absent else "")
    yield Finding("extras", "ok", said)
