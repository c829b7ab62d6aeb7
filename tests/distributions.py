"""Small installed distributions for tests: a package and its `.dist-info` on `sys.path`, as pip would leave them."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from recipeline import registry


def install(site: Path, name: str, modules: Mapping[str, str], entry_points: Mapping[str, Mapping[str, str]]) -> None:
    """Write a distribution into `site`: modules by dotted name, entry points by role.

    `install(site, "acme", {"acme": "class M: ..."}, {"model": {"acme_model": "acme:M"}})`; put `site` on `sys.path`
    and call `registry.refresh()` to have it seen.
    """
    for module, text in modules.items():
        file = site / (module.replace(".", "/") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text), encoding="utf-8")
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", encoding="utf-8")
    lines = [
        line
        for role, points in entry_points.items()
        for line in (f"[recipeline.{role}]", *(f"{point} = {target}" for point, target in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


@contextmanager
def on_path(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`site` on sys.path; what was imported from it is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(site)
    try:
        yield site
    finally:
        for name in set(sys.modules) - before:
            top = name.partition(".")[0]  # a namespace package has no file of its own
            if (site / top).is_dir() or (site / f"{top}.py").is_file():
                del sys.modules[name]
        monkeypatch.undo()
        registry.refresh()
