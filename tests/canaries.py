"""Secrets that must not be found in anything the tests write, and the search for them.

Loaded as a plugin by conftest.py: every test runs with a canary in its environment, and the `project` fixture refers to it in the
configuration. At the end of the session everything below its temporary folder is searched, by each worker below its own;
a hit fails the session. `found` is the same search for tests that plant canaries of their own.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import mmap
import os
import zipfile
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus, unquote

import pytest

SESSION = "KanarieSessionQ7x4Zt9Wb2"
"""Of letters and digits only, so that no encoding of URLs changes it."""

VARIABLES = ("RECIPELINE_CANARY", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD")
"""Where the canary of the session stands: a variable of ours that a configuration refers to, and two that libraries read."""


def forms(secret: str) -> tuple[bytes, ...]:
    """A secret as it may be written: as it is, reversed, hexadecimal, escaped for URLs, JSON and Python, UTF-16, base64 at any offset."""
    plain = secret.encode()
    shifted = []
    for before in range(3):
        text = base64.b64encode(b"\0" * before + plain)
        shifted.append(text[(0, 2, 3)[before] : -4])  # without the characters that depend on the neighbours
    everything = (
        plain, plain[::-1], secret[::-1].encode(), unquote(secret).encode(), quote(secret, safe="").encode(), quote_plus(secret).encode(),
        "".join(f"%{byte:02X}" for byte in plain).encode(), "".join(f"%{byte:02X}" for byte in plain)[::-1].encode(), plain.hex().encode(),
        json.dumps(secret)[1:-1].encode(), repr(secret)[1:-1].encode(), secret.encode("utf-16-le"), *shifted,
        *(form.translate(bytes.maketrans(b"+/", b"-_")) for form in shifted),
    )  # fmt: skip
    return tuple(dict.fromkeys(everything))


def found(folder: Path, secrets: Sequence[str], *, deep: bool = True) -> list[str]:
    """`file: secret (form)` for every file below `folder` that holds one in any of its forms; names of files count too.

    deep  archives, gzip and Parquet are unpacked as well
    """
    needles = [(form, secret) for secret in secrets for form in forms(secret)]
    hits = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not path.is_file():
            continue
        for content in chain([name.encode()], _contents(path, deep=deep)):
            hits += [f"{name}: {secret} as {form[:60]!r}" for form, secret in needles if content.find(form) >= 0]
    return sorted(set(hits))


def _contents(path: Path, *, deep: bool) -> Iterator[Any]:
    if path.stat().st_size == 0:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        yield mapped
        head = mapped[:4]
    if not deep:
        return
    if head == b"PK\3\4":
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(member) for member in archive.namelist())
    elif head[:2] == b"\x1f\x8b":
        yield gzip.decompress(path.read_bytes())
    elif head == b"PAR1":
        import pyarrow.parquet as pq

        table = io.BytesIO()
        import pyarrow.csv

        read = pq.read_table(path)
        plain = read.select([field.name for field in read.schema if not str(field.type).startswith(("list", "struct", "map"))])
        pyarrow.csv.write_csv(plain, table)
        yield table.getvalue()
        yield str(read.schema.metadata).encode()
        yield str(read.to_pylist()[:1000]).encode()


# --- the session ---------------------------------------------------------------------------------------------------------


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    for name in VARIABLES:
        os.environ[name] = SESSION


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Search what this process wrote; the controller of xdist has nothing of its own and hears its workers."""
    config = session.config
    hits: list[str] = list(getattr(config, "canary_hits", []))
    factory = getattr(config, "_tmp_path_factory", None)
    if not _controls_workers(config) and factory is not None and factory._basetemp is not None:
        hits += found(factory.getbasetemp(), [SESSION], deep=False)
    config.canary_hits = hits  # type: ignore[attr-defined]
    if hasattr(config, "workeroutput"):
        config.workeroutput["canaries"] = hits
    elif hits:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    hits = getattr(node.config, "canary_hits", [])
    node.config.canary_hits = hits + getattr(node, "workeroutput", {}).get("canaries", [])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    hits = getattr(config, "canary_hits", [])
    if hits:
        terminalreporter.section("a secret was written", red=True)
        for hit in hits:
            terminalreporter.line(hit)


def _controls_workers(config: pytest.Config) -> bool:
    return bool(getattr(config.option, "numprocesses", 0)) and not hasattr(config, "workerinput")
