"""Writing: the one way to put a file or a folder in its place, whole, and the lock of one writer at a time.

A temporary file beside the target, fsync, replace, fsync of the folder. Who reads the target sees the old bytes or
the new ones, never a part, after kill -9 and after a power cut. A writer killed in mid-write leaves a temporary
file; the next writer of the same target removes it (writers hold a kernel lock on theirs, so the file of a living
one is never taken).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import math
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipeline.errors import Conflict, DataError, Exhausted, UsageError, dotted

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

TEMPORARY = ".tmp-"
"""Names of unfinished files and folders begin so; nothing else of ours does."""


@contextlib.contextmanager
def atomic_path(target: str | os.PathLike[str], *, exclusive: bool = False) -> Iterator[Path]:
    """A path to write to; it becomes `target` when the block ends well, and nothing happens when it does not.

    The temporary path stands in the same folder and keeps the suffix, for libraries that look at it. Missing
    folders are made. With `exclusive` an existing target is a Conflict, also one that appeared meanwhile.
    Raises Exhausted (7) when the disk is full or the folder read-only; the old file is then intact.
    """
    final = _real(Path(target))
    with _storage_errors(final):
        _make_folders(final.parent)
        remove_dead(final)
        temporary, held = _temporary_file(final)
    try:
        with _storage_errors(final, inside=True):
            yield temporary
        with _storage_errors(final):
            # Inside an unfinished folder nothing needs to be on the disk yet: the folder is synced when it is finished.
            durable = not _unfinished(final)
            if durable:
                _sync(temporary)
            _put(temporary, final, exclusive=exclusive)
            if durable:
                _sync(final.parent)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        os.close(held)


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """The file holds `data`, whole, when this returns."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        stream.write(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """UTF-8, line ends as given."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any, *, null_for_nan: bool = False) -> None:
    """`to_json` as a file."""
    write_text(path, to_json(value, null_for_nan=null_for_nan))


def to_json(value: Any, *, null_for_nan: bool = False) -> str:
    """Strict JSON, two blanks of indentation, keys in the order given, one line end.

    NaN and infinities do not exist in JSON: a DataError names where one stands. With `null_for_nan`, for documents
    that say so (metrics that are undefined on a part), they become null.
    NumPy scalars and arrays, dates, paths, tuples and mappings are written as what they are.
    """
    return json.dumps(_plain(value, (), null_for_nan), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def append_lines(path: str | os.PathLike[str], lines: Iterable[str]) -> None:
    """The lines stand at the end of the file when this returns, on the disk.

    What a writer killed in mid-line left after the last line end is cut off first. Raises Exhausted (7) as `atomic_path` does;
    no part of the lines is then left behind.
    """
    final = _real(Path(path))
    data = "".join(f"{line}\n" for line in lines).encode()
    with _storage_errors(final):
        _make_folders(final.parent)
        descriptor = os.open(final, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            end = _whole_lines(descriptor)
            os.ftruncate(descriptor, end)
            try:
                written = 0
                while written < len(data):
                    written += os.pwrite(descriptor, data[written:], end + written)
                os.fsync(descriptor)
            except BaseException:
                os.ftruncate(descriptor, end)
                raise
        finally:
            os.close(descriptor)


def _whole_lines(descriptor: int) -> int:
    """The number of bytes up to and with the last line end."""
    end = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - 4096)
        found = os.pread(descriptor, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


@contextlib.contextmanager
def atomic_folder(target: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill; it becomes `target`, with everything in it, when the block ends well.

    The unfinished folder stands beside the target with mode 0700. At the end every file in it is synced, then it is
    renamed: readers see all of it or nothing. An existing target is a Conflict (8), found before the block runs and
    once more at its end; with `replace` the two change places in one step, and the old one is removed.
    """
    final = _real(Path(target))
    if os.path.lexists(final) and not replace:
        raise Conflict("exists already", hint="choose another name, or remove it", slug="exists", where=shown(final))
    with _storage_errors(final):
        _make_folders(final.parent)
        remove_dead(final)
        temporary = final.parent / f"{TEMPORARY}{secrets.token_hex(6)}-{final.name}"
        temporary.mkdir(mode=0o700)
        held = _hold(temporary)
    try:
        with _storage_errors(final, inside=True):
            yield temporary
        with _storage_errors(final):
            sync_tree(temporary)
            temporary.chmod(0o777 & ~_umask())
            if os.path.lexists(final):  # rename() would take the place of an empty folder
                if not replace:
                    raise Conflict("was written meanwhile by another run", slug="exists", where=shown(final))
                _exchange(temporary, final)
            else:
                temporary.rename(final)
            _sync(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(held)


def sync_tree(folder: Path) -> None:
    """Every file and folder below `folder`, and the folder itself, are on the disk when this returns."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if not path.is_symlink():
            _sync(path)
    _sync(folder)


def claim_folder(parent: Path) -> tuple[Path, int]:
    """A new folder below `parent`, mode 0700, and the descriptor that says its owner lives; close it when done."""
    with _storage_errors(parent):
        _make_folders(parent)
        folder = parent / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        return folder, _hold(folder)


def owner_lives(path: Path) -> bool:
    """Whether the process that made a temporary file or claimed a folder still holds it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True  # it was finished this very moment: not ours to take
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class Lock:
    """One holder at a time, over processes: `with Lock(folder / "lock"): ...`

    The kernel keeps it, so that it is free the moment its holder dies, kill -9 included. Held by another (also by
    another Lock of this process) it is a Conflict (8) that names the process, at once, or after `wait` seconds.
    The file holds the process id, for people; it is removed at the end. For processes of one machine.
    """

    def __init__(self, path: str | os.PathLike[str], *, wait: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.path, self.wait, self.clock = Path(path), wait, clock
        self._descriptor: int | None = None

    def acquire(self) -> Self:
        if self._descriptor is not None:
            raise RuntimeError("this lock is held already")
        deadline = self.clock() + self.wait
        with _storage_errors(self.path):
            _make_folders(self.path.parent)
            while (descriptor := self._try()) is None:
                if self.clock() >= deadline:
                    holder = self._holder()
                    raise Conflict(
                        f"is in use by {f'process {holder}' if holder else 'another process'}",
                        hint="wait for it, or stop it",
                        slug="locked",
                        where=shown(self.path),
                    )
                time.sleep(0.01)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor
        return self

    def release(self) -> None:
        """Safe to call twice."""
        if self._descriptor is None:
            return
        with contextlib.suppress(OSError):  # a folder that became read-only keeps the file; the lock is what counts
            if _same_file(self._descriptor, self.path):  # the folder was moved, and there is another holder's now
                self.path.unlink()
        os.close(self._descriptor)
        self._descriptor = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def _try(self) -> int | None:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before us removed the file: what we hold then has no name, and the next one would not meet us.
            if _same_file(descriptor, self.path):
                return descriptor
        except BlockingIOError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def _holder(self) -> int | None:
        try:
            return int(self.path.read_text("ascii"))
        except (OSError, ValueError):  # gone this moment, or not written yet
            return None

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()


def shown(path: str | os.PathLike[str]) -> str:
    """A path as messages show it: relative to the working folder where it is below, else its last two names."""
    text = os.fspath(path)
    if "://" in text:
        return without_credentials(text)
    if not Path(text).is_absolute():
        return text
    with contextlib.suppress(ValueError):
        return str(Path(text).relative_to(Path.cwd()))
    return str(Path("…", *Path(text).parts[-2:]))


def without_credentials(uri: str) -> str:
    """The URI without user, password and query."""
    scheme, mark, rest = uri.partition("://")
    place, query, _ = rest.partition("?")
    authority, slash, path = place.partition("/")
    return scheme + mark + authority.rpartition("@")[2] + slash + path + ("?…" if query else "")


# --- inside --- ---------------------------------------------------------------------------------

_MARK = re.compile(re.escape(TEMPORARY) + "[0-9a-f]{12}-.")
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}


@contextlib.contextmanager
def _storage_errors(target: Path, *, inside: bool = False) -> Iterator[None]:
    """Turn what the disk says into Exhausted. `inside` a caller's block only what can only be about writing."""
    try:
        yield
    except OSError as error:
        full = error.errno in _FULL or (error.errno is None and _no_room(target.parent))  # numpy gives no errno
        if full:
            raise Exhausted("the disk is full", hint="free some space", slug="disk-full", where=shown(target)) from error
        if inside and error.errno != errno.EROFS:
            raise
        if error.errno in _CLOSED:
            raise Exhausted("may not be written", hint="check the folder's permissions", slug="read-only", where=shown(target)) from error
        reason = os.strerror(error.errno) if error.errno else type(error).__name__
        raise Exhausted(f"could not be written: {reason}", slug="cannot-write", where=shown(target)) from error


def _no_room(folder: Path) -> bool:
    try:
        free = os.statvfs(folder)
    except OSError:
        return False
    return free.f_bavail * free.f_frsize < 1 << 16 or (free.f_files > 0 and free.f_favail == 0)


def _real(target: Path) -> Path:
    """Where a symbolic link points, so that the link stays one."""
    if not target.name:
        raise UsageError(f"{shown(target) or 'an empty name'} names no file")
    return Path(os.path.realpath(target)) if target.is_symlink() else target


def _make_folders(folder: Path) -> None:
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        if not _unfinished(path):
            _sync(path.parent)


def _temporary_file(final: Path) -> tuple[Path, int]:
    prefix = f"{TEMPORARY}{secrets.token_hex(6)}-"
    # A file name has at most 255 bytes; of a longer one the end is kept, where the suffix is.
    name = final.name.encode()[-(255 - len(prefix)) :].decode(errors="ignore")
    temporary = final.with_name(prefix + name)
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(FileNotFoundError):
            os.fchmod(descriptor, stat.S_IMODE(final.stat().st_mode))
    except BaseException:
        os.close(descriptor)
        temporary.unlink()
        raise
    return temporary, descriptor


def _hold(folder: Path) -> int:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def remove_dead(final: Path) -> None:
    """Remove what dead writers of this target left: they can no longer hold the lock on it. Every writer begins with this."""
    tail = f"-{final.name}"
    with os.scandir(final.parent) as entries:
        dead = [Path(entry.path) for entry in entries if entry.name.startswith(TEMPORARY) and entry.name.endswith(tail)]
    for path in dead:
        if path.name[len(TEMPORARY) + 12 :] == tail and not owner_lives(path):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder with what is in it; gone already is well."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def discard(folder: Path) -> None:
    """Remove a folder in one step: killed on the way, the rest of it has a temporary name. Gone already is well."""
    aside = folder.with_name(f"{TEMPORARY}{secrets.token_hex(6)}-{folder.name}")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _put(temporary: Path, final: Path, *, exclusive: bool) -> None:
    if not exclusive:
        temporary.replace(final)
        return
    try:
        os.link(temporary, final)  # the one call that fails when the name is taken
    except FileExistsError:
        raise Conflict("exists already", slug="exists", where=shown(final)) from None
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        if os.path.lexists(final):  # a file system without hard links
            raise Conflict("exists already", slug="exists", where=shown(final)) from None
        temporary.replace(final)


def _exchange(one: Path, other: Path) -> None:
    """Two names change places in one step (Linux); elsewhere in two, between which `other` is missing."""
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if swap is not None:
        here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
        if swap(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
            return
        if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS):  # not known to this file system or kernel
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    aside = one.with_name(f"{TEMPORARY}{secrets.token_hex(6)}-{other.name}")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unfinished(path: Path) -> bool:
    """Whether a path lies in a folder of `atomic_folder` that is not finished."""
    return any(_MARK.match(step) for step in path.parts[:-1])


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    ours = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino)


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    with contextlib.suppress(OSError, ValueError), Path("/proc/self/status").open() as lines:
        for line in lines:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022


def _plain(value: Any, key: tuple[str | int, ...], null_for_nan: bool) -> Any:
    if value is None or isinstance(value, (str, bool, int)):
        return value if type(value) in (str, bool, int, type(None)) else _plain_subclass(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        if null_for_nan:
            return None
        raise DataError("is not a finite number, and JSON has no other", slug="not-finite", where=dotted(key) or "value")
    if isinstance(value, Mapping):
        return {_name(name): _plain(item, (*key, _name(name)), null_for_nan) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, (*key, index), null_for_nan) for index, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [_plain(item, (*key, index), null_for_nan) for index, item in enumerate(sorted(value))]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "isoformat"):
        text = value.isoformat()
        return None if null_for_nan and text == "NaT" else text
    if hasattr(value, "tolist"):  # NumPy scalars and arrays, pandas Series
        return _plain(value.tolist(), key, null_for_nan)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _plain_subclass(value: Any) -> Any:
    """Enum members and other subclasses of str and int, as what they hold."""
    return str.__str__(value) if isinstance(value, str) else int(value)


def _name(name: Any) -> str:
    if isinstance(name, str):
        return str.__str__(name)
    if isinstance(name, bool) or name is None:
        return {True: "true", False: "false", None: "null"}[name]
    return str(name)
