"""Every file of the project is written by the atomic writer: no other way of writing stands in the syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]

ALLOWED = {
    # (file, call): why this one may
    ("src/recipeline/stores/atomic.py", "open"): "the atomic writer itself",
    ("src/recipeline/stores/atomic.py", "replace"): "the atomic writer itself",
    ("src/recipeline/stores/atomic.py", "rename"): "the atomic writer itself",
    ("src/recipeline/stores/atomic.py", "link"): "the atomic writer itself",
    ("src/recipeline/stores/atomic.py", "write_bytes"): "the atomic writer itself",
    ("src/recipeline/stores/atomic.py", "write_text"): "the atomic writer itself",
    ("src/recipeline/stores/files.py", "OSFile"): "FrameSink: its path comes from atomic_path or atomic_folder",
    ("src/recipeline/stores/files.py", "ParquetWriter"): "FrameSink: writes into the stream above",
    ("src/recipeline/stores/files.py", "CSVWriter"): "FrameSink: writes into the stream above",
    ("src/recipeline/work.py", "rename"): "a whole folder, to delete it in one step",
    ("src/recipeline/folds.py", "rename"): "a damaged fold of an earlier attempt, put aside in its work folder",
    ("src/recipeline/logs.py", "open"): "a log grows line by line; a torn last line is a line less",
    ("src/recipeline/stores/templates/splicing.py", "replace"): "a node in the tree of a statement",
    ("src/recipeline/cli.py", "open"): "the null device, in the place of a closed stdout",
}

# Methods and functions that put bytes under a name, whatever they are called on.
WRITERS = {
    "write_text", "write_bytes", "to_csv", "to_parquet", "to_pickle", "to_feather", "to_excel", "to_hdf", "to_orc", "to_stata", "to_html",
    "savefig", "save", "savez", "savez_compressed", "savetxt", "tofile", "dump", "save_file", "write_table", "write_csv", "write_feather",
    "copy", "copy2", "copyfile", "copytree", "move", "rename", "renames", "replace", "link", "symlink", "symlink_to", "hardlink_to",
    "mkstemp", "NamedTemporaryFile", "ParquetWriter", "CSVWriter", "OSFile", "FileHandler", "RotatingFileHandler", "touch", "make_archive",
    "extractall", "extract", "save_model",
}  # fmt: skip
# Of these only the ones that belong to these modules or take a path write files: `frame.copy()` and `text.replace()` do not.
MODULES = {
    "copy": {"shutil"}, "copy2": {"shutil"}, "copyfile": {"shutil"}, "copytree": {"shutil"}, "move": {"shutil"}, "make_archive": {"shutil"},
    "save": {"np", "numpy", "torch"}, "savez": {"np", "numpy"}, "savez_compressed": {"np", "numpy"}, "savetxt": {"np", "numpy"},
    "dump": {"json", "pickle", "joblib", "yaml", "skops", "io", "cloudpickle", "sio"}, "link": {"os"}, "symlink": {"os"},
    "extract": {"zipfile", "tarfile", "archive"}, "renames": {"os"},
}  # fmt: skip
HOUSE = {"files", "atomic"}
"""Modules whose functions are the atomic ones, whatever their names."""
MAKERS = {"atomic_path", "atomic_folder", "claim_folder"}
MEMORY = {"BytesIO", "StringIO", "BufferOutputStream"}


def name_of(node: ast.expr) -> str:
    """The last word of what is called."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def receiver(node: ast.expr) -> str:
    return name_of(node.value) if isinstance(node, ast.Attribute) else ""


def mode_of(call: ast.Call, position: int) -> str | None:
    """The mode of an `open`: None when it is not a literal."""
    given = next((keyword.value for keyword in call.keywords if keyword.arg == "mode"), None)
    if given is None and len(call.args) > position:
        given = call.args[position]
    if given is None:
        return "r"
    return given.value if isinstance(given, ast.Constant) and isinstance(given.value, str) else None


def writes(call: ast.Call) -> str:
    """The name of the writing function that this call is, or ""."""
    name, owner = name_of(call.func), receiver(call.func)
    if owner in HOUSE:
        return ""
    if name == "open":
        if owner == "os":
            flags = ast.unparse(call.args[1]) if len(call.args) > 1 else ""
            return "open" if any(flag in flags for flag in ("O_WRONLY", "O_RDWR", "O_CREAT", "O_APPEND", "O_TRUNC")) else ""
        function = not owner or owner in {"io", "gzip", "bz2", "lzma", "codecs", "fsspec", "builtins"}
        mode = mode_of(call, 1 if function else 0)
        if owner in {"filesystem", "fs"}:
            mode = mode_of(call, 1)
        if mode is None:  # not a literal: of a method only what is called so is taken for one, as many things are opened
            return "open" if function or any(isinstance(word, ast.Name) and word.id == "mode" for word in ast.walk(call)) else ""
        return "open" if set(mode) <= set("rwaxbtU+") and set(mode) & set("wax+") else ""
    if name in {"ZipFile", "TarFile"}:
        mode = mode_of(call, 1)
        return name if mode is None or set(mode) & set("wax") else ""
    if name in {"replace", "rename"}:
        # `path.replace(target)`, `os.replace(a, b)`; `text.replace(a, b)`, `frame.rename(columns=…)`, `replace(spec, …)` are others.
        path = owner == "os" or (isinstance(call.func, ast.Attribute) and len(call.args) == 1 and not call.keywords)
        return name if path else ""
    if name not in WRITERS or (name in MODULES and owner not in MODULES[name]):
        return ""
    if name.startswith("to_") and not call.args and not any(word.arg and word.arg.startswith("path") for word in call.keywords):
        return ""  # gives a text
    if name == "dump" and owner == "yaml" and len(call.args) < 2 and not any(word.arg == "stream" for word in call.keywords):
        return ""
    return name


def from_memory(tree: ast.AST) -> set[str]:
    """Names that are bound to buffers in memory."""
    found = set()
    for node in ast.walk(tree):
        pairs: list[tuple[ast.expr | None, ast.expr | None]] = []
        if isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
        elif isinstance(node, ast.withitem):
            pairs = [(node.optional_vars, node.context_expr)]
        for target, value in pairs:
            if isinstance(target, ast.Name) and isinstance(value, ast.Call) and name_of(value.func) in MEMORY:
                found.add(target.id)
    return found


def violations(source: str) -> Iterator[tuple[int, str]]:
    """(line, name of the call) of every way of writing but the atomic one."""
    tree = ast.parse(source)
    memory = from_memory(tree)

    def visit(node: ast.AST, safe: frozenset[str]) -> Iterator[tuple[int, str]]:
        if isinstance(node, ast.With):
            for item in node.items:
                yield from visit(item.context_expr, safe)
                made = isinstance(item.context_expr, ast.Call) and name_of(item.context_expr.func) in MAKERS
                if isinstance(item.optional_vars, ast.Name):
                    inner = {child.id for child in ast.walk(item.context_expr) if isinstance(child, ast.Name)}
                    if made or inner & safe:  # `with atomic_path(p) as t, t.open("wb") as stream`
                        safe = safe | {item.optional_vars.id}
            for child in node.body:
                yield from visit(child, safe)
            return
        if isinstance(node, ast.Call) and (name := writes(node)):
            used = {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}
            if not used & (safe | memory):
                yield node.lineno, name
        for child in ast.iter_child_nodes(node):
            yield from visit(child, safe)

    yield from visit(tree, frozenset())


def sources() -> list[Path]:
    return sorted(path for folder in ("src", "plugins") for path in (PROJECT / folder).rglob("*.py"))


def test_every_file_is_written_by_the_atomic_writer() -> None:
    """No module of ours writes a file in another way, but for the reasons above."""
    found = [
        f"{path.relative_to(PROJECT)}:{line}: {name}"
        for path in sources()
        for line, name in violations(path.read_text("utf-8"))
        if (str(path.relative_to(PROJECT)), name) not in ALLOWED
    ]
    assert not found, "write it with recipeline.stores.files:\n" + "\n".join(found)


def test_every_exception_is_still_needed() -> None:
    """An exception whose call is gone would let the next one slip through."""
    there = {(str(path.relative_to(PROJECT)), name) for path in sources() for _, name in violations(path.read_text("utf-8"))}
    assert set(ALLOWED) <= there, sorted(set(ALLOWED) - there)


@pytest.mark.parametrize(
    "line",
    [
        'open("x", "w")',
        'open("x", mode="ab")',
        'open("x", "r+")',
        'open("x", mode)',
        'path.open("wb")',
        'io.open("x", "x")',
        'gzip.open("x", "wt")',
        'path.write_text("a")',
        "path.write_bytes(b'')",
        'frame.to_csv("x.csv")',
        "frame.to_parquet(path)",
        'frame.to_pickle("x")',
        'np.save("x.npy", a)',
        "np.savez(path, a=a)",
        "torch.save(model, path)",
        "json.dump(value, handle)",
        "pickle.dump(value, handle)",
        "joblib.dump(model, path)",
        "yaml.dump(value, handle)",
        "pq.write_table(table, path)",
        "pq.ParquetWriter(path, schema)",
        'pa.OSFile(path, "wb")',
        'figure.savefig("x.png")',
        "shutil.copy(a, b)",
        "shutil.move(a, b)",
        "os.replace(a, b)",
        "path.replace(other)",
        "path.rename(other)",
        "os.open(path, os.O_WRONLY | os.O_CREAT)",
        'zipfile.ZipFile(path, "w")',
        "archive.extractall(path)",
        "path.touch()",
        'logging.FileHandler("x")',
        "with atomic_path(a) as t:\n    path.write_text('b')",
        "with other(a) as t:\n    t.write_text('b')",
        "path.open(mode)",
    ],
)
def test_other_ways_of_writing_are_seen(line: str) -> None:
    assert list(violations(line)), line


@pytest.mark.parametrize(
    "line",
    [
        'open("x")',
        'open("x", "rb")',
        "path.open()",
        "Work.open(folder, identity)",
        'path.open("rb")',
        "os.open(path, os.O_RDONLY)",
        "frame.copy()",
        'text.replace("a", "b")',
        "dataclasses.replace(spec, name=1)",
        "frame.rename(columns=names)",
        "frame.to_csv()",
        "yaml.dump(value)",
        "json.dumps(value)",
        "files.write_text(path, text)",
        "files.write_bytes(path, data)",
        "model.save(folder)",
        "with atomic_path(a) as t:\n    np.save(t, b)",
        "with files.atomic_path(a) as t, t.open('wb') as stream:\n    pickle.dump(b, stream)",
        "with files.atomic_folder(a) as t:\n    (t / 'x').write_text('b')",
        "buffer = io.BytesIO()\nfigure.savefig(buffer)",
        "zipfile.ZipFile(path)",
    ],
)
def test_reading_and_the_atomic_ways_pass(line: str) -> None:
    assert not list(violations(line)), line
