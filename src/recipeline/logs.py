"""One log format for every command: level, logger and run id in each record, secrets masked, on stderr and in the run's log.txt.

    2026-03-01T09:30:00.123Z INFO    recipeline run=7f3c21aa phase fit
    {"time": "2026-03-01T09:30:00.123Z", "level": "INFO", "logger": "recipeline", "run_id": "7f3c…", "message": "phase fit"}

Masking happens where a record becomes text, so that messages, arguments, extra fields and tracebacks all pass through it.
As a library nothing is configured: records reach whatever handlers the program has, and `keep` still makes the run's log.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
import threading
from base64 import b64encode
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import quote, quote_plus, unquote

from recipeline.errors import UsageError, did_you_mean

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
MASK = "***"
LONGEST = 20_000
"""Lines of a run's log that are kept in memory; a file keeps all."""

NOISY = (
    "alembic", "asyncio", "azure", "botocore", "fsspec", "git", "h5py", "httpcore", "httpx", "matplotlib", "mlflow",
    "numba", "optuna", "PIL", "s3fs", "snowflake", "sqlalchemy", "stamina", "urllib3",
)  # fmt: skip
"""Libraries that tell their own story at INFO; they are heard from WARNING on, at DEBUG from INFO on."""

_OWN = frozenset({"taskName", "run_id", "message", "asctime", *vars(logging.makeLogRecord({}))})

_PATTERNS = tuple(
    re.compile(pattern)
    for pattern in (
        # scheme://user:password@host: the password, also where it holds an @ that nobody encoded
        r"(?i)(?<![a-z0-9+.\-])[a-z][a-z0-9+.\-]{0,40}://[^\s/:@'\"]*:(?P<hide>[^\s/'\"]+)@",
        # password=…, "token": "…", api_key=… in queries, DSNs and dumped mappings
        (
            r"(?i)(?<![\w\-])[\"']?[\w\-]*(?:password|passwd|pwd|secret|token|api[_\-]?key|access[_\-]?key|account[_\-]?key)\b[\"']?"
            r"\s*[=:]\s*(?P<hide>\"[^\"]*\"|'[^']*'|[^\s,;&)\]}]+)"
        ),
        r"(?i)[?&](?:sig|x-amz-signature|x-amz-credential|x-goog-signature)=(?P<hide>[^&\s]+)",
        r"(?i)\b(?:bearer|authorization[\"']?\s*[:=]\s*[\"']?(?:basic|bearer))\s+(?P<hide>[A-Za-z0-9._~+/\-]{8,}=*)",
    )
)

_secrets: dict[str, None] = {}  # values that never reach a log, longest first
_run: ContextVar[str] = ContextVar("recipeline_run", default="")
_active: list[str] = []  # runs of this process: a worker thread belongs to the only one, where there is only one
_handlers: list[logging.Handler] = []
_kept: list[Kept] = []


# --- secrets ---------------------------------------------------------------------------------------------------------


def register_secret(*values: str) -> None:
    """From now on these values, as they are or as URLs, Python, JSON and base64 write them, are masked in every record.

    Values of fewer than four characters are left out: masking them would make every log unreadable and hide nothing.
    """
    for value in values:
        if len(value) >= 4:
            forms = {value, unquote(value), quote(value, safe=""), quote_plus(value), repr(value)[1:-1], json.dumps(value)[1:-1]}
            _secrets.update(dict.fromkeys(form for form in forms if len(form) >= 4))
            _secrets.update(dict.fromkeys(_in_base64(value) | _in_base64(unquote(value))))
    longest_first = sorted(_secrets, key=lambda secret: (-len(secret), secret))
    _secrets.clear()
    _secrets.update(dict.fromkeys(longest_first))


def _in_base64(secret: str) -> set[str]:
    """What every base64 text that holds the secret holds, too; none for secrets so short that other texts hold it by chance."""
    plain = secret.encode(errors="replace")
    if len(plain) < 8:
        return set()
    found = {b64encode(b"\0" * before + plain).decode()[start:-4] for before, start in enumerate((0, 2, 3))}
    return found | {form.translate(str.maketrans("+/", "-_")) for form in found}


def forget_secrets() -> None:
    """For programs and tests that hold several configurations one after the other."""
    _secrets.clear()


def mask(text: str) -> str:
    """The text without registered secrets, passwords in URIs and values that stand beside a secret's name.

    All are looked for in the text as it came: a secret that is part of the word `password` must not hide that word.
    """
    spans = [found.span() for secret in _secrets if secret in text for found in re.finditer(re.escape(secret), text)]
    spans += [found.span("hide") for pattern in _PATTERNS for found in pattern.finditer(text)]
    pieces, at = [], 0
    for start, end in sorted(spans):
        if start >= at:
            pieces += [text[at:start], MASK]
        at = max(at, end)
    return "".join(pieces) + text[at:]


# --- records ---------------------------------------------------------------------------------------------------------


@contextmanager
def run(run_id: str) -> Iterator[None]:
    """Records inside carry this run id, in worker threads too while it is the only run of the process."""
    token = _run.set(run_id)
    _active.append(run_id)
    try:
        yield
    finally:
        _active.remove(run_id)
        _run.reset(token)


def current_run() -> str:
    """The run that a record written now would carry; empty outside of one."""
    if own := _run.get():
        return own
    return _active[0] if len(set(_active)) == 1 else ""


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        run_id = str(getattr(record, "run_id", "") or current_run())
        head = f"{_time(record)} {record.levelname:<7} {record.name}" + (f" run={run_id[:8]}" if run_id else "")
        extras = "".join(f" {key}={_masked(value)!r}" for key, value in _extras(record).items())
        # Later lines are indented: a value with a line break in it cannot pass for a record of its own.
        return mask(f"{head} {record.getMessage()}{extras}{_trouble(self, record)}").replace("\r", "\\r").replace("\n", "\n    ")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "run_id": str(getattr(record, "run_id", "") or current_run()) or None,
            "message": record.getMessage(),
            **_extras(record),
        }
        if trouble := _trouble(self, record):
            fields["exception"] = trouble.strip()
        return json.dumps(_masked(fields), ensure_ascii=False)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _OWN and not key.startswith("_")}


def _trouble(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info and record.exc_info[0] else []
    if not parts and record.exc_text:
        parts.append(record.exc_text)
    if record.stack_info:
        parts.append(formatter.formatStack(record.stack_info))
    return "".join(f"\n{part}" for part in parts)


def _masked(value: Any) -> Any:
    """Strings masked before JSON escapes them: a secret with a quote in it would not be found afterwards."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, Mapping):
        return {mask(str(key)): MASK if _telling(str(key)) else _masked(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_masked(item) for item in value]
    if value is None or isinstance(value, (bool, int)):
        return value
    return value if isinstance(value, float) and value - value == 0.0 else mask(str(value))  # NaN and infinity are not JSON


def _telling(key: str) -> bool:
    return mask(f"{key}=value") != f"{key}=value"


class _Once(logging.Filter):
    """Warnings of Python, which libraries repeat in every fit: each is one line, and said once in a run.

    Its text is kept on one line, with the file below `site-packages` instead of a path of this machine.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: set[tuple[str, str]] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text, kind = self._warning(record)
        record.msg, record.args = text, ()
        key = (current_run(), kind)
        if key in self._said:
            return False
        if len(self._said) < LONGEST:
            self._said.add(key)
        return True

    def forget(self) -> None:
        self._said.clear()

    def _warning(self, record: logging.LogRecord) -> tuple[str, str]:
        text = record.getMessage()
        if (found := _WARNING.match(text)) is None:
            return text, text
        words = " ".join(found["text"].split())
        place = f"{found['file'].replace(os.sep, '/').rpartition('site-packages/')[2]}:{found['line']}"
        said = f"{found['category']}: {words}"
        return f"{said} ({place if 'site-packages' in found['file'] else Path(place).name})", said


_WARNING = re.compile(r"(?s)(?P<file>.+?):(?P<line>\d+): (?P<category>\w+): (?P<text>.*?)(\n  [^\n]*)?\n?\Z")
_once = _Once()


# --- handlers --------------------------------------------------------------------------------------------------------


def configure(
    level: str | None = None,
    format: str = "text",  # noqa: A002  # the key in config/ is `logging.format`
    secrets: Iterable[str] = (),
    *,
    stream: TextIO | None = None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Set up logging for a command; calling it again replaces what the call before did.

    level    one of `LEVELS`, in any case; LOG_LEVEL in the environment goes before it, INFO is what neither says
    format   `text` or `json`
    secrets  values to mask from now on, see `register_secret`
    stream   where records go: the current sys.stderr

    Raises UsageError for a level or format that does not exist.
    """
    name = (environ.get("LOG_LEVEL") or level or "INFO").strip().upper()
    if name not in LEVELS:
        where = "LOG_LEVEL" if environ.get("LOG_LEVEL") else "logging.level"
        raise UsageError(f"there is no level {name}", hint=did_you_mean(name, LEVELS), where=where)
    if format not in ("text", "json"):
        raise UsageError(f"there is no log format {format}", hint=did_you_mean(format, ("text", "json")), where="logging.format")
    register_secret(*secrets)
    close()
    handler = _Stderr() if stream is None else logging.StreamHandler(stream)
    handler.setFormatter(_Json() if format == "json" else _Text())
    _handlers.append(handler)
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(name)
    for library in NOISY:
        logging.getLogger(library).setLevel(logging.INFO if name == "DEBUG" else max(logging.WARNING, logging.getLevelName(name)))
    # Its retries are ours to report: `resilience` says each of them once.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    logging.getLogger("py.warnings").addFilter(_once)
    # It would show every statement with its values, MLflow's and ours; no level of ours asks for that.
    logging.getLogger("sqlalchemy.engine").setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is now: while a bar is drawn it leads above the bar, and not through it."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, given: TextIO) -> None:
        """What the base class was given does not count."""


class Kept(logging.Handler):
    """The log of one run, as text, while it runs: in memory, and in a file once there is a folder for it."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(_Text())
        self.path: Path | None = None
        self._lines: deque[str] = deque(maxlen=LONGEST)
        self._stream: TextIO | None = None

    def follow(self, path: Path) -> None:
        """From now on the log goes to the end of this file too, what was said so far first; a resumed run goes on in it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.lock or nullcontext():
            self._shut()
            self.path, self._stream = path, path.open("a", encoding="utf-8")
            self._stream.writelines(f"{line}\n" for line in self._lines)
            self._stream.flush()

    def text(self) -> str:
        """Everything that is kept, earlier attempts of the same run included."""
        if self.path is not None and self.path.is_file():
            return self.path.read_text(encoding="utf-8")
        return "".join(f"{line}\n" for line in self._lines)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
            self._lines.append(line)
            if self._stream is not None:
                self._stream.write(f"{line}\n")
                self._stream.flush()
        except Exception:  # noqa: BLE001  # the rule of logging: a record that cannot be written never stops the program
            self.handleError(record)

    def close(self) -> None:
        self._shut()
        super().close()

    def _shut(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


@contextmanager
def keep(path: Path | None = None, *, level: str = "INFO") -> Iterator[Kept]:
    """Keep every record from `level` on, whatever stderr shows; works without `configure`, too.

    path  where the copy goes; it may be said later with `follow`
    """
    root, ours, kept = logging.getLogger(), logging.getLogger("recipeline"), Kept()
    if path is not None:
        kept.follow(path)
    wanted = min(logging.getLevelName(level), root.level or logging.WARNING)
    before, shown = ours.level, ours.getEffectiveLevel()
    kept.setLevel(wanted)
    others = [(other, other.level) for other in root.handlers if other.level < shown]
    if shown > wanted:
        ours.setLevel(wanted)
        for other, _ in others:
            other.setLevel(shown)  # what is kept in addition is not shown in addition
    root.addHandler(kept)
    _kept.append(kept)
    try:
        yield kept
    finally:
        _kept.remove(kept)
        root.removeHandler(kept)
        kept.close()
        ours.setLevel(before)
        for other, old in others:
            other.setLevel(old)


def tail() -> str:
    """The text of the innermost `keep`; empty outside of one."""
    return _kept[-1].text() if _kept else ""


def close() -> None:
    """Undo `configure`."""
    root = logging.getLogger()
    for handler in _handlers:
        root.removeHandler(handler)
        handler.close()
    _handlers.clear()
    logging.getLogger("py.warnings").removeFilter(_once)
    _once.forget()
    logging.captureWarnings(capture=False)


# --- what libraries print --------------------------------------------------------------------------------------------


class _Printed(io.TextIOBase):
    """Whole lines become records; `written` is where the rest waits, for each thread by itself."""

    def __init__(self) -> None:
        self._waiting = threading.local()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, rest = (getattr(self._waiting, "text", "") + text).split("\n")
        self._waiting.text = rest
        for line in lines:
            self._say(line)
        return len(text)

    def end(self) -> None:
        self._say(getattr(self._waiting, "text", ""))
        self._waiting.text = ""

    def _say(self, line: str) -> None:
        if line.strip():
            logging.getLogger("recipeline").info("%s", line.rstrip())


@contextmanager
def printed() -> Iterator[None]:
    """What is printed inside becomes log records: answers go to stdout, and libraries that print are no answers.

    Trainings in several threads share one redirection: the first begins it and the last one ends it.
    """
    global _before
    with _printing:
        _printers.append(_Printed() if not _printers else _printers[-1])
        if len(_printers) == 1:
            _before, sys.stdout = sys.stdout, _printers[-1]
    try:
        yield
    finally:
        with _printing:
            _printers.pop().end()
            if not _printers:
                sys.stdout = _before


_printing = threading.Lock()
_printers: list[_Printed] = []
_before: TextIO = sys.stdout
