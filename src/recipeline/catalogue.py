"""What there is: parts, tasks and metrics of everything that is installed, and the runs of this project."""

from __future__ import annotations

import ast
import importlib.util
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipeline import registry
from recipeline.errors import RecipelineError

if TYPE_CHECKING:
    from recipeline.settings import Settings


def listing(what: str, settings: Settings) -> tuple[list[dict[str, Any]], list[str]]:
    """(rows, columns) of `list parts|tasks|metrics|runs`."""
    return {"parts": _parts, "tasks": _tasks, "metrics": _metrics, "runs": _runs}[what](settings)


def _parts(settings: Settings) -> tuple[list[dict[str, Any]], list[str]]:
    """Every entry point; nothing is imported, so that a broken plugin is listed like any other."""
    rows = [
        {"role": entry.role, "name": entry.name, "distribution": entry.distribution, "summary": summary(entry.target)}
        for entry in registry.entries()
    ]
    return sorted(rows, key=lambda row: (row["role"], row["name"])), ["role", "name", "distribution", "summary"]


def _tasks(settings: Settings) -> tuple[list[dict[str, Any]], list[str]]:
    rows = []
    for entry in registry.entries("task"):
        try:
            task = entry.load()
        except RecipelineError as error:
            rows.append({"name": entry.name, "distribution": entry.distribution, "summary": str(error)})
            continue
        rows.append(
            {
                "name": entry.name,
                "distribution": entry.distribution,
                "validation": task.splitter,
                "metrics": ", ".join(metric.name for metric in task.metrics),
                "summary": summary(entry.target),
            }
        )
    return sorted(rows, key=lambda row: row["name"]), ["name", "distribution", "validation", "metrics"]


def _metrics(settings: Settings) -> tuple[list[dict[str, Any]], list[str]]:
    rows = []
    for entry in registry.entries("task"):
        try:
            metrics = entry.load().metrics
        except RecipelineError:
            continue  # `list tasks` says what is wrong with it
        rows += [
            {
                "task": entry.name,
                "metric": metric.name,
                "direction": metric.direction,
                "aliases": ", ".join(metric.aliases),
                "summary": metric.summary,
            }
            for metric in metrics
        ]
    return rows, ["task", "metric", "direction", "aliases", "summary"]


def _runs(settings: Settings) -> tuple[list[dict[str, Any]], list[str]]:
    from recipeline import tracking

    rows = [
        {
            "run_id": run.run_id,
            "name": run.name,
            "status": run.status,
            "started": None if run.started is None else datetime.fromtimestamp(run.started / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S"),
            "metrics": {name: value for name, value in run.metrics.items() if "." not in name},
        }
        for run in tracking.list_runs(settings)
    ]
    return rows, ["run_id", "name", "status", "started"]


@cache
def summary(target: str) -> str:
    """The first line of a class's docstring, read from its source: nothing is imported."""
    module, _, name = target.partition(":")
    try:
        found = importlib.util.find_spec(module.partition(".")[0])
        if found is None or not found.submodule_search_locations:
            return ""
        source = _source(Path(next(iter(found.submodule_search_locations))), module.split(".")[1:])
        tree = ast.parse(source.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError, UnicodeDecodeError):
        return ""  # a part without readable source is listed without a summary
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name.partition(".")[0]:
            return (ast.get_docstring(node) or "").partition("\n")[0]
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            return summary(f"{_absolute(module, node)}:{next(a.name for a in node.names if (a.asname or a.name) == name)}")
    return ""


def _source(package: Path, steps: list[str]) -> Path:
    place = package.joinpath(*steps)
    return place / "__init__.py" if place.is_dir() else place.with_suffix(".py")


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    base = module.split(".")[: len(module.split(".")) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)
