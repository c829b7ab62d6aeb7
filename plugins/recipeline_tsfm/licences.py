"""Which models may be used in which environment, by their licence. What is not listed may not.

    models:
      chronos: {model_name: chronos2, license_tag: commercial_ok, spdx: Apache-2.0, commit_sha: …}
    environments:
      prod: {allowed_models: [chronos]}

`prod` uses what is listed for it and tagged commercial_ok; the others what is listed for them. An environment that is not
listed counts as prod. `prod: {allowed_models: […]}` at the top level, as older files have it, is read too.

Nothing here pulls a model or accepts a licence.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recipeline.document import Document, parse, validation_problems
from recipeline.errors import Problem, RecipeError, Refused, did_you_mean, nearest
from recipeline.stores import files

Tag = Literal["commercial_ok", "unknown", "research_only"]
STRICTER: tuple[Tag, ...] = get_args(Tag)
"""From the one that allows most to the one that allows least."""
PROD = "prod"
SLUG = "license_not_allowed"
FILE = "tsfm_models.yaml"
SHIPPED = Path(__file__).with_name(FILE)
"""What holds where a project has no file of its own; a test keeps it equal to the one in `config/`."""
COMMERCIAL = ("apache", "mit", "bsd", "isc", "mpl", "cc-by-4.0", "cc-by-3.0", "cc0", "unlicense", "zlib", "bsl-1.0")
RESEARCH = ("-nc", "noncommercial", "non-commercial", "non commercial", "research", "academic", "evaluation")

log = logging.getLogger("recipeline")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Entry(_Strict):
    """A model: its name at the server, what its licence allows, and optionally which licence and commit that is."""

    model_name: str = Field(min_length=1, max_length=200)
    license_tag: Tag
    spdx: str | None = None
    commit_sha: str | None = Field(default=None, pattern=r"^[0-9a-f]{7,64}$")


class Environment(_Strict):
    allowed_models: tuple[str, ...] = ()


class ModelsFile(_Strict):
    """The whole file; `prod` at its top level is the older place of environments.prod."""

    models: Mapping[str, Entry]
    environments: Mapping[str, Environment] = Field(default_factory=dict)
    prod: Environment | None = None


def tag_of(licence: str | None) -> Tag:
    """What a licence allows, by its SPDX name or what a model card says; what is not known is unknown."""
    words = (licence or "").strip().lower()
    if any(word in words for word in RESEARCH):
        return "research_only"
    return "commercial_ok" if words.startswith(COMMERCIAL) else "unknown"


def stricter(one: Tag, other: Tag) -> Tag:
    return max(one, other, key=STRICTER.index)


@dataclass(frozen=True)
class Allowed:
    """One model in one environment. why: empty where it may be used."""

    alias: str
    model_name: str
    tag: Tag
    why: str = ""


class ModelLicences:
    """The file for one environment; satisfies `seams.Licences`. Thread-safe.

    environment  APP_ENV
    """

    def __init__(self, file: ModelsFile, environment: str, *, name: str = FILE) -> None:
        self.file, self.asked, self.name = file, environment, name
        self.environment = environment if environment in file.environments else PROD
        listed = dict(file.environments)
        if file.prod is not None:
            older = listed.get(PROD, Environment()).allowed_models
            listed[PROD] = Environment(allowed_models=tuple(dict.fromkeys((*older, *file.prod.allowed_models))))
        self.listed = tuple(dict.fromkeys(listed.get(self.environment, Environment()).allowed_models))  # in the file's order
        self._lock = threading.Lock()
        self._heard: dict[str, tuple[Tag, str]] = {}  # alias -> what the server says

    @classmethod
    def read(cls, path: Path | None, environment: str) -> ModelLicences:
        """From a file; None is the one that is shipped. RecipeError with every mistake of it."""
        where = SHIPPED if path is None else path
        return cls(_file(where, where.stat().st_mtime_ns if where.is_file() else 0), environment, name=files.shown(where))

    def find(self, model: str) -> tuple[str, Entry] | None:
        """By alias, else by the server's name."""
        if model in self.file.models:
            return model, self.file.models[model]
        return next(((alias, entry) for alias, entry in self.file.models.items() if entry.model_name == model), None)

    def allowed(self, model: str) -> Allowed:
        found = self.find(model)
        if found is None:
            return Allowed(model[:100], model[:100], "unknown", f"model {model[:100]!r} is not listed in {self.name}")
        alias, entry = found
        tag, said = entry.license_tag, ""
        with self._lock:
            heard = self._heard.get(alias)
        if heard is not None and STRICTER.index(heard[0]) > STRICTER.index(tag):
            tag, said = heard[0], f", as the server's licence {heard[1]!r} says"
        why = ""
        if alias not in self.listed:
            why = f"model {alias!r} is not among the allowed_models of {self._where()}"
        elif self.environment == PROD and tag != "commercial_ok":
            why = f"model {alias!r} is {tag}{said}; {self._where()} allows commercial_ok only"
        return Allowed(alias, entry.model_name, tag, why)

    def _where(self) -> str:
        return self.environment if self.asked == self.environment else f"{self.environment} (APP_ENV {self.asked!r} counts as it)"

    def check(self, model: str) -> None:
        """Refused (exit 4, HTTP 403) where the model may not be used here."""
        found = self.allowed(model)
        if found.why:
            raise Refused(found.why, hint=f"use one of {', '.join(self.usable()) or 'none: no model is allowed here'}", slug=SLUG)

    def reconcile(self, model: str, licence: str | None) -> None:
        """Hear what the server says about a model's licence; the stricter of both holds from then on. None says nothing."""
        found = self.find(model)
        if found is None or not licence:
            return
        alias, entry = found
        tag = tag_of(licence)
        with self._lock:
            before = self._heard.get(alias)
            self._heard[alias] = (tag, licence[:100])
        if tag != entry.license_tag and (before is None or before[0] != tag):
            what = "model %s is %s here, and the server's licence %r is %s: the stricter holds"
            log.warning(what, alias, entry.license_tag, licence[:100], tag)

    def usable(self) -> list[str]:
        """The aliases that may be used here."""
        return sorted(alias for alias in self.file.models if not self.allowed(alias).why)

    @property
    def aliases(self) -> dict[str, str]:
        """alias -> name at the server"""
        return {alias: entry.model_name for alias, entry in self.file.models.items()}

    def problem(self, model: str) -> Problem | None:
        """As `check`, for a recipe."""
        found = self.allowed(model)
        if not found.why:
            return None
        hint = did_you_mean(model, self.usable()) if self.usable() else "no model is allowed here"
        return Problem(SLUG, ("model",), found.why, hint, "value", suggestion=nearest(model, self.usable()), exit_code=4)


@functools.lru_cache(maxsize=16)
def _file(path: Path, changed: int) -> ModelsFile:
    """The file as it was when it last changed (nanoseconds)."""
    shown = files.shown(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = "cannot be read: " + (error.strerror or "no such file" if isinstance(error, OSError) else "it is no UTF-8")
        problem = Problem("bad-models-file", (), what, f"restore it; {FILE} lists which models may be used", file=shown)
        raise RecipeError(problem) from None
    return _checked(parse(text, file=shown))


def _checked(document: Document) -> ModelsFile:
    problems = list(document.problems)
    data = document.data if isinstance(document.data, Mapping) else {}
    try:
        file = ModelsFile.model_validate(data)
    except ValidationError as error:
        problems += [document.locate(problem) for problem in validation_problems(error, data, (), ModelsFile)]
        raise RecipeError(problems) from None
    problems += [document.locate(problem) for problem in _unknown(file)]
    if problems:
        raise RecipeError(problems)
    return file


def _unknown(file: ModelsFile) -> Iterable[Problem]:
    """Allowed models that are not described, and research in prod: a mistake in the file, and not one of whoever asks."""
    places: list[tuple[tuple[str | int, ...], Sequence[str]]] = [
        (("environments", name, "allowed_models"), environment.allowed_models) for name, environment in file.environments.items()
    ]
    if file.prod is not None:
        places.append(((PROD, "allowed_models"), file.prod.allowed_models))
    for key, names in places:
        for index, name in enumerate(names):
            entry = file.models.get(name)
            if entry is None:
                what, hint = f"{name!r} does not stand under models", did_you_mean(name, file.models)
                yield Problem("unknown-model", (*key, index), what, hint, "value", nearest(name, file.models))
            elif PROD in key and entry.license_tag != "commercial_ok":
                what, hint = f"{name!r} is {entry.license_tag}; prod allows commercial_ok only", "take it off the list"
                yield Problem(SLUG, (*key, index), what, hint, "value", exit_code=4)


FORBIDDEN = ("model", "modelfile", "data_url", "base_url")


def forbidden_options(options: Mapping[str, Any]) -> list[str]:
    """Names among the options of a model, at any depth, that would let a request choose another model, file or address."""
    found: list[str] = []
    todo: list[Any] = [options]
    while todo:
        one = todo.pop()
        if isinstance(one, Mapping):
            found += [str(name) for name in one if str(name).lower() in FORBIDDEN]
            todo += one.values()
        elif isinstance(one, list | tuple):
            todo += one
    return sorted(set(found))
