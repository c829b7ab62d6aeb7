"""Name or class_path to class: one table of entry points, read lazily, and one list of packages that may be named.

A registered name is text until it is asked for, so a broken or heavy plugin costs nothing to those who do not use it.
A dotted path is judged twice: as text before anything is imported, and by where the resolved class was really defined,
because `sklearn.utils.os.system` looks like scikit-learn and is not.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import keyword
import pkgutil
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from recipeline.contracts import ROLES
from recipeline.errors import MissingLibrary, Problem, RecipeError, RecipelineError, UsageError, did_you_mean, nearest

EXTRAS: Mapping[str, str] = MappingProxyType(
    {
        "adlfs": "azure",
        "botorch": "botorch",
        "cantera": "cantera",
        "catboost": "boosting",
        "causalml": "causal",
        "dask": "dask",
        "distributed": "dask",
        "fastapi": "serving",
        "feast": "feast",
        "gcsfs": "gcs",
        "gpytorch": "botorch",
        "gunicorn": "serving",
        "gymnasium": "ppo",
        "httptools": "serving",
        "lightgbm": "boosting",
        "onnx": "onnx",
        "onnxruntime": "onnx",
        "onnxscript": "onnx",
        "prometheus_client": "serving",
        "psycopg": "postgres",
        "pymysql": "mysql",
        "s3fs": "s3",
        "safetensors": "spline",
        "snowflake": "snowflake",
        "sqlalchemy_bigquery": "bigquery",
        "torch": "spline",
        "uvicorn": "serving",
        "uvloop": "serving",
        "xgboost": "boosting",
    }
)
"""Optional libraries by import name, and the extra of ours that brings each."""

METHODS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "loader": ("load",),
        "augmenter": ("augment",),
        "preprocessor": ("fit", "transform"),
        "model": ("fit", "predict"),
        "evaluator": ("judge",),
        "splitter": ("split",),
        "task": ("describe", "select", "fit", "rows"),
        "adapter": ("read",),
        "exporter": ("export",),
    }
)
"""What a class must have to play a role (`contracts.py`)."""

INDUCTIVE = "KMeans, MiniBatchKMeans, BisectingKMeans, GaussianMixture, Birch, MeanShift or AffinityPropagation"
"""Clustering estimators of scikit-learn that answer for new rows; what to take instead of one that labels its own rows only."""

VALUES = ("metric", "route", "command")  # these entry points lead to objects or functions, all others to classes
VENDORED = ("externals", "_vendor")  # other people's code inside an allowed package is not that package's
OURS = frozenset({"recipeline.components", "recipeline.operations", "recipeline.resilience", "recipeline.timeseries"})
"""What a dotted path may name of ourselves: parts. The engine's other classes open files, databases and runs."""
TESTING = ("_testing", "testing", "tests", "conftest", "_build_utils")  # code that tests or builds a package is nobody's part
SYSTEM = ("builtins", "ctypes", "importlib", "nt", "os", "pickle", "posix", "runpy", "shutil", "socket", "subprocess", "sys")


# --- the table of names ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One line of the table: where a registered name leads."""

    role: str
    name: str
    target: str  # "package.module:Class"
    distribution: str  # who installed it; "" for a part registered by this program
    made: Any = field(default=None, compare=False, repr=False)  # the object itself, where a program registered it

    def load(self) -> Any:
        """The class (or metric, route, command) itself; imports its module.

        Raises MissingLibrary when an optional library is absent, RecipeError naming the distribution when the plugin is broken.
        """
        if self.made is not None:
            return self.made
        path, _, name = self.target.partition(":")
        who = f"{self.role} {self.name!r} of {self.distribution}"
        found: Any = _import(path.strip(), who)
        for step in name.split("[")[0].strip().split("."):
            try:
                found = getattr(found, step)
            except AttributeError as error:
                raise _broken(who, f"{path} has no {name}") from error
            except Exception as error:  # a module that imports late, in its __getattr__
                raise _import_failure(error, who) from error
        if self.role not in VALUES and not isinstance(found, type):
            raise _broken(who, f"{self.target} is {_kind(found)}, not a class")
        return found


_registered: dict[tuple[str, str], Entry] = {}


@cache
def _installed() -> tuple[Entry, ...]:
    from importlib.metadata import entry_points  # 20 ms: only when a name is asked for

    found = {
        Entry(group.removeprefix("recipeline."), point.name, point.value, point.dist.name if point.dist else "")
        for group in (f"recipeline.{role}" for role in ROLES)
        for point in entry_points(group=group)
    }
    return tuple(sorted(found, key=lambda entry: (entry.role, entry.name, entry.distribution)))


def entries(role: str | None = None, name: str | None = None) -> tuple[Entry, ...]:
    """The registered parts of one role or of all, installed ones and this program's; imports none of them."""
    everything = (*_installed(), *_registered.values())
    wanted = (e for e in everything if role in (None, e.role) and name in (None, e.name))
    return tuple(sorted(wanted, key=lambda e: (e.role, e.name, e.distribution)))


def refresh() -> None:
    """Read the entry points again: a distribution was installed or removed while this program runs."""
    importlib.invalidate_caches()
    _installed.cache_clear()


def register(role: str, name: str, made: Any) -> None:
    """Make `made` known as `name` in this program; a distribution uses the entry point `recipeline.<role>` instead.

    Registering the same name again replaces it, so that a notebook's cell can run twice.
    """
    if role not in ROLES:
        raise UsageError(f"{role!r} is not a role", hint=did_you_mean(role, ROLES))
    if not name or ":" in name or name != name.strip():
        raise UsageError(f"{name!r} cannot be the name of a part", hint="use letters, digits and _")
    if role not in VALUES and not isinstance(made, type):
        raise UsageError(f"{made!r} is not a class", hint="register the class, not an instance")
    _registered[role, name] = Entry(role, name, f"{getattr(made, '__module__', '')}:{getattr(made, '__qualname__', name)}", "", made)


def unregister(role: str, name: str) -> None:
    """Forget what `register` was told."""
    _registered.pop((role, name), None)


# --- which packages may be named ------------------------------------------------------------------


@dataclass(frozen=True)
class AllowList:
    """The packages that a class_path may come from: configuration's, and those of installed plugins. A recipe cannot widen it."""

    namespaces: frozenset[str]

    @classmethod
    def of(cls, namespaces: Iterable[str]) -> AllowList:
        """`security.allowed_namespaces` together with the top-level packages that the entry points lead to.

        A module of the standard library does not become allowed because some entry point leads there.
        """
        packages = {entry.target.partition(":")[0].strip().partition(".")[0] for entry in _installed()}
        return cls(frozenset(namespaces) | (packages - {"recipeline"} - sys.stdlib_module_names) | OURS)

    def covers(self, path: str) -> bool:
        """Whether the module or class at `path` belongs to an allowed package and is its own code."""
        steps = path.split(".")
        if any(step in VENDORED or step in SYSTEM or step.startswith("__") for step in steps) or any(step in TESTING for step in steps[1:]):
            return False
        return any(".".join(steps[:n]) in self.namespaces for n in range(1, len(steps) + 1))


def refused(path: str, allow: AllowList, *, really: str = "") -> Problem:
    """The refusal of a class_path; exit code 4. `really` is where the object comes from, when that is another place."""
    package = (really or path).partition(".")[0]
    near = nearest(path.partition(".")[0], allow.namespaces)
    meant = f"{near}.{path.partition('.')[2]}" if near and not really and near != package else None
    hint = f"did you mean {meant}? " if meant else ""
    hint += "allowed packages are " + ", ".join(sorted(allow.namespaces))
    if package not in sys.stdlib_module_names and package not in allow.namespaces:
        hint += f"; if {package} is yours, add it to security.allowed_namespaces in the configuration"
    what = f"{path} is {f'really {really}, which is ' if really else ''}outside the allowed packages"
    return Problem("refused", (), what, hint, at="value", suggestion=meant, exit_code=4)


# --- lookups --------------------------------------------------------------------------------------


def check(role: str, reference: str, allow: AllowList) -> Problem | None:
    """What is wrong with a reference as text: unknown, ambiguous or outside the allow-list. Imports nothing."""
    found = _lookup(role, reference)
    if isinstance(found, Problem):
        return found
    if found is None:
        if not all(step.isidentifier() and not keyword.iskeyword(step) for step in reference.split(".")):
            return Problem("bad-value", (), f"{reference!r} is not a name or a dotted path to a class", at="value")
        if not allow.covers(reference):
            return refused(reference, allow)
    return None


def entry(role: str, reference: str) -> Entry | None:
    """The line of the table that a reference means; None for a dotted path, and for what `check` objects to."""
    found = _lookup(role, reference)
    return found if isinstance(found, Entry) else None


def find(role: str, reference: str, allow: AllowList) -> Any:
    """The class that a recipe means by a registered name, `role:name`, or a dotted path.

    For metrics, routes and commands the object or function itself. Raises RecipeError (keys empty: the caller knows
    where the reference stands), with exit code 4 for what is outside the allow-list, or MissingLibrary.
    """
    problem = check(role, reference, allow)
    if problem:
        raise RecipeError(problem)
    named = entry(role, reference)
    found = named.load() if named else resolve(reference, allow)
    lacking = [method for method in METHODS.get(role, ()) if not hasattr(found, method)]
    if lacking:
        what, hint = f"{reference} cannot be a {role}: it has no {' and no '.join(lacking)}", _instead(role)
        if role == "model" and lacking == ["predict"] and hasattr(found, "fit_predict"):
            what, hint = f"{what}, so it can say nothing of rows that it was not fitted on", f"use {INDUCTIVE}"
        raise RecipeError(Problem("wrong-kind", (), what, hint, at="value"))
    return found


def _instead(role: str) -> str:
    names = sorted({entry.name for entry in entries(role)})
    return f"registered as {role}: {', '.join(names)}" if names else ""


def _lookup(role: str, reference: str) -> Entry | Problem | None:
    """The table's answer: an entry, what is wrong, or None for a dotted path."""
    wanted, colon, name = reference.partition(":")
    if colon:
        if wanted not in ROLES:
            return Problem("unknown-name", (), f"{wanted!r} is not a role", did_you_mean(wanted, ROLES), "value", nearest(wanted, ROLES))
        if role not in ("part", wanted):
            return Problem("wrong-kind", (), f"{reference} is a {wanted}, and a {role} stands here", at="value")
        roles: tuple[str, ...] = (wanted,)
    else:
        # What is only nested, then models, preprocessors and the rest; a command is never part of a recipe.
        name, roles = reference, (role,) if role != "part" else ("part", "model", "preprocessor", *(r for r in ROLES if r != "command"))
    found = sorted({e for e in entries(name=name) if e.role in roles}, key=lambda e: (roles.index(e.role), e.distribution))
    if not found:
        return None if "." in name and not colon else _unknown(role, name, roles)
    where = list(dict.fromkeys(entry.role for entry in found))
    if len(where) > 1:
        choices = " or ".join(f"{each}:{name}" for each in where)
        return Problem("ambiguous-name", (), f"{name!r} is the name of a {' and of a '.join(where)}", f"write {choices}", at="value")
    if len(found) > 1:
        owners = " and ".join(entry.distribution or "this program" for entry in found)
        return Problem(
            "ambiguous-name", (), f"the {where[0]} {name!r} is registered by {owners}", "uninstall one, or use the class_path", at="value"
        )
    return found[0]


def _unknown(role: str, name: str, roles: tuple[str, ...]) -> Problem:
    names = sorted({entry.name for entry in entries() if entry.role in roles})
    elsewhere = [path for package in ("sklearn", "xgboost", "lightgbm", "catboost") for path in _exports(package).get(name, ())]
    near = nearest(name, names)
    if elsewhere and not near:
        return Problem("unknown-name", (), f"no {role} is registered as {name!r}", f"did you mean {elsewhere[0]}?", "value", elsewhere[0])
    known = f"registered: {', '.join(names)}" if names else f"no {role} is registered: use a class_path"
    hint = f"did you mean {near}? {known}" if near else known
    return Problem("unknown-name", (), f"no {role} is registered as {name!r}", hint, "value", near)


def resolve(path: str, allow: AllowList) -> type:
    """The class at a dotted path, which the allow-list must cover; so it must every step on the way.

    A class that this program registered is found by its own path too, wherever it was defined.
    """
    for entry in _registered.values():
        if isinstance(entry.made, type) and entry.target.replace(":", ".") == path:
            return entry.made
    if not allow.covers(path):
        raise RecipeError(refused(path, allow))
    steps = path.split(".")
    found: Any = _import(steps[0], path)
    for n, step in enumerate(steps[1:], start=1):
        here = ".".join(steps[:n])
        following = _attribute(found, step, here, path)
        if following is None:
            raise RecipeError(_missing(found, here, steps[n:], path, allow))
        found = following
        home = _home(found)
        if home and not allow.covers(home):
            raise RecipeError(refused(path, allow, really=home))
        if not isinstance(found, ModuleType | type):
            break
    if isinstance(found, ModuleType):
        inside = [f"{path}.{name}" for name in _classes(found, allow)]
        raise RecipeError(Problem("wrong-kind", (), f"{path} is a module, not a class", did_you_mean(path, inside), at="value"))
    if not isinstance(found, type):
        raise RecipeError(Problem("wrong-kind", (), f"{path} is {_kind(found)}, not a class", "", at="value"))
    if inspect.isabstract(found) or getattr(found, "_is_protocol", False):
        raise RecipeError(Problem("wrong-kind", (), f"{path} is abstract: only its subclasses can be made", "", at="value"))
    return found


def _attribute(owner: Any, step: str, here: str, path: str) -> Any:
    """`owner.step`, as an attribute or as a module still to be imported; None when there is neither."""
    try:
        found = getattr(owner, step, None)
    except Exception as error:  # a package that imports late, in its __getattr__
        raise _import_failure(error, path) from error
    if found is None and isinstance(owner, ModuleType) and hasattr(owner, "__path__"):
        try:
            if importlib.util.find_spec(f"{here}.{step}") is None:
                return None
        except (ImportError, ValueError) as error:
            raise _import_failure(error, path) from error
        return _import(f"{here}.{step}", path)
    return found


def _home(found: Any) -> str:
    """Where an object was defined: its own module, whatever road led to it."""
    if isinstance(found, ModuleType):
        return found.__spec__.name if found.__spec__ else found.__name__
    module = getattr(found, "__module__", None)
    if not isinstance(module, str):
        return ""
    return f"{module}.{getattr(found, '__qualname__', getattr(found, '__name__', ''))}".rstrip(".")


def _kind(found: Any) -> str:
    if isinstance(found, ModuleType):
        return "a module"
    return "a function" if inspect.isroutine(found) else f"an object of type {type(found).__name__}"


def _classes(owner: Any, allow: AllowList) -> list[str]:
    """Names of the public classes that a class_path could mean in a module."""
    names = [name for name in dir(owner) if not name.startswith("_")]
    return [name for name in names if isinstance(made := getattr(owner, name, None), type) and allow.covers(made.__module__)]


def _missing(owner: Any, here: str, rest: list[str], path: str, allow: AllowList) -> Problem:
    """There is no `rest[0]` in `here`: the nearest class or module, or the same class name in another module of the package."""
    step = rest[0]
    if len(rest) > 1:
        inside = [name for _, name, _ in pkgutil.iter_modules(getattr(owner, "__path__", [])) if not name.startswith("_")]
    else:
        inside = _classes(owner, allow)
    elsewhere = [other for other in _exports(here.partition(".")[0]).get(rest[-1], ()) if other != path]
    near = nearest(step, inside)
    meant = elsewhere[0] if elsewhere else f"{here}.{'.'.join([near, *rest[1:]])}" if near else None
    what = "module" if len(rest) > 1 else "class"
    hint = f"did you mean {meant}?" if meant else did_you_mean(step, inside) if inside else ""
    return Problem("unknown-class", (), f"{here} has no {what} {step}", hint, "value", meant)


@cache
def _exports(package: str) -> dict[str, tuple[str, ...]]:
    """Class name to dotted paths, as the `__init__` files of an installed package list them; read as text, nothing is imported."""
    spec = importlib.util.find_spec(package) if package not in sys.stdlib_module_names else None
    if spec is None or not spec.submodule_search_locations:
        return {}
    found: dict[str, list[str]] = {}
    for root in map(Path, spec.submodule_search_locations):
        for file in sorted([root / "__init__.py", *root.glob("[a-z]*/__init__.py")]):
            path = ".".join([package, *file.relative_to(root).parts[:-1]])
            if file.is_file() and not path.endswith((".tests", ".externals", ".testing")):
                for name in re.findall(r'"([A-Z]\w+)"', file.read_text(encoding="utf-8", errors="replace")):
                    found.setdefault(name, []).append(f"{path}.{name}")
    return {name: tuple(paths) for name, paths in found.items()}


# --- what may go wrong at an import ---------------------------------------------------------------


def _import(module: str, who: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # a plugin may raise anything while it is imported
        raise _import_failure(error, who) from error


def _import_failure(error: BaseException, who: str) -> RecipelineError:
    """Why something could not be imported, as a user can act on it: which library is missing, or which plugin is broken."""
    if isinstance(error, RecipelineError):
        return error
    if isinstance(error, ModuleNotFoundError) and error.name:
        library = error.name.partition(".")[0]
        if library in EXTRAS and library not in sys.modules and importlib.util.find_spec(library) is None:
            return MissingLibrary(library, EXTRAS[library])
        return _broken(who, f"No module named {error.name!r}")
    cause = re.sub(r"(?:/[\w.+@~-]+)+/", "", str(error).strip().partition("\n")[0])  # a path of this machine helps nobody else
    for library in reversed(_libraries(error)):
        named = _SHARED.search(str(error))  # XGBoost tells a page of likely causes around it
        return MissingLibrary(library, EXTRAS[library], unloadable=named.group() if named else cause.rstrip("."))
    return _broken(who, f"{type(error).__name__}: {cause}" if cause else type(error).__name__)


_SHARED = re.compile(r"\blib[\w+-]+\.(?:so[.\d]*|\w*\.?dylib): [\w ,]+")


def _libraries(error: BaseException) -> list[str]:
    """Optional libraries whose own code was running when a shared library could not be loaded, outermost first."""
    if not isinstance(error, OSError) and not re.search(r"\blib[\w+-]+\.(so|dylib)|[Ll]ibrary|DLL", str(error)):
        return []
    found, trace = [], error.__traceback__
    while trace is not None:
        library = str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if library in EXTRAS:
            found.append(library)
        trace = trace.tb_next
    return found


def _broken(who: str, cause: str) -> RecipeError:
    return RecipeError(Problem("broken-plugin", (), f"{who} cannot be imported: {cause}", "repair or uninstall it", at="value"))
