"""Write the parts of docs/reference that the program knows best.

    python docs/generate.py            rewrite what differs
    python docs/generate.py --check    change nothing; exit 1 and name the pages that are stale

A page has blocks between `<!-- generated: NAME -->` and `<!-- end -->`; what stands between them is written here, the rest
by hand. `tests/test_docs.py` fails while a block is stale.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from recipeline import cli, errors, registry, signatures
from recipeline.assemble import ENGINE
from recipeline.stores import files

DOCS = Path(__file__).parent
SOURCE = DOCS.parent / "src" / "recipeline"
BLOCK = re.compile(r"(<!-- generated: (?P<name>[a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
COMMON = ("json", "debug", "overrides")
"""Options that every command has; told once."""

GROUND = ("resilience", "timeseries", "operations", "measures", "stores", "schema")
"""What plugins may import beside `contracts` and `errors`."""

ROLES = {
    "loader": "Loaders",
    "augmenter": "Augmenters",
    "preprocessor": "Preprocessors",
    "model": "Models",
    "task": "Tasks",
    "splitter": "Validation methods",
    "evaluator": "Evaluators",
    "metric": "Metrics",
    "adapter": "Adapters",
    "exporter": "Exporters",
    "route": "Routes",
    "command": "Commands",
    "part": "Parts that are only nested",
}


# --- commands --------------------------------------------------------------------------------------------------------


def commands() -> dict[str, argparse.ArgumentParser]:
    """Our own commands by name; those of installed plugins are theirs to document."""
    parser = cli._parser([])
    guests = {entry.name for entry in registry.entries("command")}
    found = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return {name: added for name, added in found.choices.items() if name not in guests}


def command_pages() -> str:
    lines = ["## Every command", "", *_options(next(iter(commands().values())), common=True)]
    for name, parser in commands().items():
        lines += [f"## {name}", "", f"{_sentence(parser.description or '')}", "", *_options(parser, common=False)]
    return "\n".join(lines)


def _options(parser: argparse.ArgumentParser, *, common: bool) -> list[str]:
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction) or (action.dest in COMMON) != common:
            continue
        name = "/".join(action.option_strings) or str(action.metavar or action.dest)
        choices = "\\|".join(map(str, action.choices)) if action.choices else None
        value = choices or (None if action.nargs == 0 or not action.option_strings else action.metavar or action.dest.upper())
        if action.nargs == "?" and value:
            value = f"[{value}]"
        need = "required" if action.required and action.option_strings else ""
        default = action.default if not action.required and action.default not in (None, False, [], argparse.SUPPRESS) else ""
        note = "; ".join(part for part in (need, f"default `{default}`" if default else "", _exclusive(parser, action)) if part)
        if name == "RUN|FILE":
            name = "RUN\\|FILE"
        rows.append(f"| `{name}`{f' `{value}`' if value else ''} | {_sentence(action.help or '')} | {note} |")
    return ["| option | what it does | |", "|---|---|---|", *rows, ""] if rows else []


def _exclusive(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    for group in parser._mutually_exclusive_groups:
        if action in group._group_actions:
            others = " or ".join(f"`{other.option_strings[0]}`" for other in group._group_actions if other is not action)
            return f"either this or {others}"
    return ""


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}".replace("|", "\\|")


# --- parts -----------------------------------------------------------------------------------------------------------


def ours() -> list[registry.Entry]:
    return [entry for entry in registry.entries() if entry.distribution == "recipeline"]


def part_pages() -> str:
    lines: list[str] = []
    for role, title in ROLES.items():
        entries = sorted((entry for entry in ours() if entry.role == role), key=lambda entry: entry.name)
        if not entries:
            continue
        lines += [f"## {title}", "", f"Role `{role}`, entry-point group `recipeline.{role}`.", ""]
        by_target: dict[str, list[str]] = defaultdict(list)
        for entry in entries:
            by_target[entry.target].append(entry.name)
        for entry in entries:
            same = [name for name in by_target[entry.target] if name != entry.name]
            if same and entry.name != min(by_target[entry.target], key=lambda name: (not name.startswith("default"), name)):
                lines += [f"### {entry.name}", "", f"The same as [{same[0]}](#{same[0]}).", ""]
            else:
                lines += [f"### {entry.name}", "", *_part(entry.load(), role)]
    return "\n".join(lines)


def _part(made: Any, role: str) -> list[str]:
    first, _, rest = inspect.cleandoc(made.__doc__ or "").partition("\n\n")
    lines = [first, ""]
    if role == "task":
        return [*lines, *_text(rest), *_interface(made)]
    takes = signatures.signature(made)
    names = [name for name in takes.names if name not in ENGINE]
    arguments = [name if name in takes.required else f"{name}={_written(takes.defaults.get(name))}" for name in names]
    engine = [name for name in takes.names if name in ENGINE]
    lines += ["```python", *_call(made.__name__, arguments), "```", ""]
    if engine:
        lines += [f"Given by the engine, not by a recipe: {', '.join(f'`{name}`' for name in engine)}.", ""]
    return [*lines, *_text(rest)]


def _written(default: Any) -> str:
    """A default as Python source, a function by its name."""
    if callable(default):
        return f"{default.__module__}.{default.__qualname__}"
    return json.dumps(default, ensure_ascii=False) if isinstance(default, str) else repr(default)


def _call(name: str, arguments: Sequence[str]) -> list[str]:
    """A call as the formatter of this project writes it, because it formats the code in pages too."""
    line = f"{name}({', '.join(arguments)})"
    return [line] if len(line) <= 140 else [f"{name}(", *(f"    {argument}," for argument in arguments), ")"]


def _text(text: str) -> list[str]:
    return ["```text", *text.rstrip().splitlines(), "```", ""] if text.strip() else []


def _interface(task: Any) -> list[str]:
    model = task.Interface
    defaults = {
        "default validation method": f"[{task.splitter}](#{task.splitter})",
        "default evaluator": f"[{task.evaluator}](#{task.evaluator})",
        "default metric": f"`{task.metrics[0].name}`",
        "a batch may not cut": {"rows": "rows", "groups": "groups", "whole": "the data"}[task.streams],
    }
    lines = [f"* {name}: {value}" for name, value in defaults.items()]
    lines += ["", f"Keys of `data_interface`, beside `task_type: {model.model_fields['task_type'].default}`:", ""]
    lines += ["| key | default |", "|---|---|"]
    for name, field in model.model_fields.items():
        if name != "task_type":
            lines.append(f"| `{name}` | {'required' if field.is_required() else f'`{field.default!r}`'} |")
    own = [one for one in reversed(model.__mro__) if one.__module__.partition(".")[0] == model.__module__.partition(".")[0]]
    words = [inspect.cleandoc(one.__doc__ or "").partition("\n\n")[2] for one in own]
    return [*lines, "", *_text("\n".join(word.rstrip() for word in words if word))]


def metric_tables() -> str:
    lines: list[str] = []
    for entry in sorted((entry for entry in ours() if entry.role == "task"), key=lambda entry: entry.name):
        lines += [f"### Metrics of {entry.name}", "", "| name | aliases | direction | needs | what it is |", "|---|---|---|---|---|"]
        for metric in entry.load().metrics:
            aliases = ", ".join(f"`{alias}`" for alias in metric.aliases)
            lines.append(f"| `{metric.name}` | {aliases} | {metric.direction} | {metric.needs} | {metric.summary} |")
        lines.append("")
    return "\n".join(lines)


# --- errors ----------------------------------------------------------------------------------------------------------


def error_tree() -> str:
    tree = inspect.cleandoc(errors.__doc__ or "").partition("\n\n")[2].partition("\n\n")[2]
    return "\n".join(["```text", *textwrap.dedent(tree).splitlines(), "```"])


def slug_table() -> str:
    """Every slug in the source with its exit code, or the status of an HTTP answer."""
    found: dict[str, set[str]] = defaultdict(set)
    where: dict[str, set[str]] = defaultdict(set)
    for slug, code, module in slugs():
        found[slug].add(code)
        where[slug].add(module)
    rows = (
        f"| `{slug}` | {', '.join(sorted(found[slug]))} | {', '.join(f'`{module}`' for module in sorted(where[slug]))} |"
        for slug in sorted(found)
    )
    return "\n".join(["| slug | exit code or status | where it comes from |", "|---|---|---|", *rows])


def slugs() -> Iterator[tuple[str, str, str]]:
    """(slug, `exit 5` or `HTTP 422`, module) of everything that the source raises or reports with a slug of its own."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(SOURCE.rglob("*.py"))}
    known = {name: made for name, made in vars(errors).items() if inspect.isclass(made) and issubclass(made, errors.RecipelineError)}
    codes = {name: made.exit_code for name, made in known.items()}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name not in codes:
                codes.update((node.name, codes[base]) for base in _bases(node) if base in codes)
    for path, tree in trees.items():
        module = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
        makers = _makers(tree, codes)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name in codes:
                yield from ((slug, f"exit {codes[node.name]}", module) for slug in _own_slug(node))
            elif isinstance(node, ast.Call):
                yield from ((slug, code, module) for slug, code in _called(node, codes | makers))


def _makers(tree: ast.AST, codes: dict[str, int]) -> dict[str, int]:
    """Functions that give an error, by what their return annotation says."""
    return {
        node.name: codes[node.returns.id]
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and isinstance(node.returns, ast.Name) and node.returns.id in codes
    }


def _bases(node: ast.ClassDef) -> list[str]:
    return [base.id for base in node.bases if isinstance(base, ast.Name)]


def _own_slug(node: ast.ClassDef) -> Iterator[str]:
    for line in node.body:
        value = line.value if isinstance(line, ast.Assign | ast.AnnAssign) else None
        names = line.targets if isinstance(line, ast.Assign) else [line.target] if isinstance(line, ast.AnnAssign) else []
        if any(isinstance(name, ast.Name) and name.id == "slug" for name in names) and isinstance(value, ast.Constant):
            yield str(value.value)


def _called(call: ast.Call, codes: dict[str, int]) -> Iterator[tuple[str, str]]:
    name = call.func.id if isinstance(call.func, ast.Name) else call.func.attr if isinstance(call.func, ast.Attribute) else ""
    plain = [value.value if isinstance(value, ast.Constant) else None for value in call.args]
    named = {word.arg: word.value.value for word in call.keywords if isinstance(word.value, ast.Constant)}
    slug = named.get("slug")
    if name in {"Problem", "report"} and plain and isinstance(plain[0], str):
        yield plain[0], f"exit {named.get('exit_code', 3)!r}"
    elif name == "HTTPProblem" and len(plain) > 1 and isinstance(plain[0], int) and isinstance(plain[1], str):
        yield plain[1], f"HTTP {plain[0]}"
    elif name == "busy" and isinstance(plain[0], str):
        yield str(plain[0]), "HTTP 503"
    elif name == "_failed" and len(plain) > 2 and isinstance(plain[1], int) and isinstance(call.args[2], ast.Dict):
        keys = [key.value if isinstance(key, ast.Constant) else None for key in call.args[2].keys]
        value = call.args[2].values[keys.index("slug")]
        yield str(ast.literal_eval(value)), f"exit {plain[1]}"
    elif slug and name in codes:
        yield str(slug), f"exit {codes[name]}"


# --- what plugins may import -----------------------------------------------------------------------------------------


def ground_tables() -> str:
    import importlib
    import pkgutil

    lines: list[str] = []
    for name in GROUND:
        package = importlib.import_module(f"recipeline.{name}")
        modules = [package]
        if name in {"timeseries", "stores"}:
            inner = sorted(found.name for found in pkgutil.iter_modules(package.__path__))
            modules = [importlib.import_module(f"recipeline.{name}.{one}") for one in inner if (name, one) not in PRIVATE]
        for module in modules:
            lines += [f"## {module.__name__}", "", inspect.cleandoc(module.__doc__ or "").partition("\n\n")[0].replace("\n", " "), ""]
            lines += ["| name | what it is |", "|---|---|"]
            for public in _public(module):
                lines.append(f"| `{public}` | {_said(getattr(module, public))} |")
            lines.append("")
    return "\n".join(lines)


PRIVATE = {("stores", "atomic"), ("stores", "delimited"), ("stores", "gate")}
"""Modules behind a door: their names stand in `stores.files` and `stores.sql`."""


def _public(module: Any) -> list[str]:
    """The functions and classes that a module shows."""
    names = getattr(module, "__all__", None) or [
        name for name, made in vars(module).items() if not name.startswith("_") and getattr(made, "__module__", "") == module.__name__
    ]
    return [name for name in names if inspect.isclass(made := getattr(module, name)) or inspect.isfunction(made)]


def _said(made: Any) -> str:
    """The first paragraph of a docstring; a dataclass without one has only what Python wrote."""
    doc = inspect.cleandoc(made.__doc__ or "").partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")
    return "" if doc.startswith(f"{made.__name__}(") else doc


# --- pages -----------------------------------------------------------------------------------------------------------

BLOCKS: dict[str, Callable[[], str]] = {
    "commands": command_pages,
    "parts": part_pages,
    "metrics": metric_tables,
    "error-tree": error_tree,
    "slugs": slug_table,
    "ground": ground_tables,
}


def fresh(text: str) -> str:
    """A page with every block as it should be."""
    return BLOCK.sub(lambda match: f"{match[1]}{BLOCKS[match['name']]().rstrip()}\n{match[3]}", text)


def stale() -> dict[Path, str]:
    """Pages that differ from what they should be, and what that is."""
    pages = {page: page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.md"))}
    wanted = {page: fresh(text) for page, text in pages.items() if BLOCK.search(text)}
    return {page: text for page, text in wanted.items() if text != pages[page]}


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the generated parts of docs/reference.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a page is stale")
    check = parser.parse_args().check
    found = stale()
    for page, text in found.items():
        sys.stdout.write(f"{'stale' if check else 'written'}: {page.relative_to(DOCS.parent)}\n")
        if not check:
            files.write_text(page, text)
    return int(check and bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
