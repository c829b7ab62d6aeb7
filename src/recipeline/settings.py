"""The place where recipes run: where things are, what they may cost, who may come in.

    config/base.yaml ← config/<APP_ENV>.yaml ← config/<APP_ENV>.local.yaml ← RECIPELINE__SECTION__KEY ← --set section.key=value

Mappings merge, lists are replaced, a null section is an empty one, a changed `class_name` drops the lower layer's `config`.
`${NAME}` and `${NAME:default}` are looked up when the value is needed: an unset variable is an error of the command that
needs it and of no other. What is shown or written (`public`, repr) has the reference, never the value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from recipeline import document as documents
from recipeline.contracts import ROLES
from recipeline.document import Document, validation_problems
from recipeline.errors import Key, Problem, RecipeError, UsageError, did_you_mean, dotted, nearest

NAMESPACES = ("sklearn", "xgboost", "lightgbm", "catboost", "causalml", "gymnasium")
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::([^}]*))?\}")
_SECRET_WORD = re.compile(
    r"pass(word|wd|phrase)?$|secret|token|api_?key|credential|private_?key|account_?key|access_?key|^pwd$|^key$", re.IGNORECASE
)
OF_RECIPES = ("name", "seed", "model", "evaluation")
"""Keys at the top of a recipe that somebody may look for in the configuration."""
_USERINFO = re.compile(r"(?<=://)([^/\s@]*?):([^/\s]*)@")
_HIDDEN = "***"


class Reference(str):
    """Text of a configuration with `${NAME}` in it: the text stands for itself until `Settings.reveal` looks it up."""

    __slots__ = ("column", "file", "key", "line", "plain")
    key: Key
    file: str  # where it is written: a file, a variable, an override
    line: int
    column: int
    plain: bool  # without quotes: what comes out is read as YAML reads a scalar

    def __new__(cls, text: str, key: Key = (), file: str = "", place: tuple[int, int] = (0, 0), plain: bool = False) -> Self:
        made = super().__new__(cls, text)
        made.key, made.file, made.plain = key, file, plain
        made.line, made.column = place
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return Reference, (str(self), self.key, self.file, (self.line, self.column), self.plain)

    def variables(self) -> tuple[str, ...]:
        return tuple(match.group(1) for match in _REFERENCE.finditer(self))


# --- the sections ------------------------------------------------------------------------------


class Section(BaseModel):
    """Frozen, no unknown keys. A value whose variable is not set raises when it is asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)
    _unset: dict[str, RecipeError] = PrivateAttr(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        # reached only when the field is not there: `_withhold` took it away
        private = object.__getattribute__(self, "__pydantic_private__")
        if private and name in private.get("_unset", ()):
            raise private["_unset"][name]
        return super().__getattr__(name)  # type: ignore[misc]  # pydantic has it, and hides it from type checkers

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return []  # values may be secrets; `Settings.public` has what may be shown


class MLflow(Section):
    tracking_uri: str = "sqlite:///mlflow.db"  # below the project
    experiment_name: str = "Default"
    artifact_location: str | None = None  # of a new experiment; with a store in SQLite `mlruns` in the project


class AdapterConfig(Section):
    class_name: str
    config: Mapping[str, Any] = Field(default_factory=dict)  # keyword arguments; references in it until `Settings.adapter`


class DataAdapters(Section):
    adapters: Mapping[str, AdapterConfig] = Field(default_factory=dict)


class FeatureStore(Section):
    enabled: bool = False
    feast_config: Mapping[str, Any] = Field(default_factory=dict)


class SourceConfig(Section):
    """Where `source://name` leads: one of uri, query and table."""

    adapter: str | None = None
    uri: str | None = None
    query: str | None = None
    table: str | None = None


class Parallelization(Section):
    n_jobs: int = Field(default=1, ge=-1)

    @field_validator("n_jobs")
    @classmethod
    def _some(cls, value: int) -> int:
        if value == 0:
            raise ValueError("0 jobs would do nothing; -1 means one for each core")
        return value


class TuningLimits(Section):
    enabled: bool = True  # both this and the recipe's switch must be on
    timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # seconds
    parallelization: Parallelization = Field(default_factory=Parallelization)
    storage: str | None = None  # URI of a study store; None: a file in the work folder of the run


class Joblib(Parallelization):
    backend: Literal["loky", "multiprocessing", "threading", "sequential", "dask"] | None = None  # None: what each part prefers
    address: str | None = None  # of the scheduler of dask

    @model_validator(mode="after")
    def _one_scheduler(self) -> Self:
        if self.backend == "dask" and not self.address:
            raise ValueError("dask needs the address of its scheduler: address: tcp://host:8786")
        if self.backend != "dask" and self.address:
            raise ValueError("an address is used with backend: dask only")
        return self


class Batch(Section):
    rows: int = Field(default=65_536, ge=1)
    workers: int = Field(default=1, ge=1)


class Execution(Section):
    joblib: Joblib = Field(default_factory=Joblib)
    batch: Batch = Field(default_factory=Batch)
    work_folder: Path = Path(".recipeline/work")  # below the project
    report: bool = True  # draw report.html
    champion: bool = True  # judge the last model of the recipe beside the new one


class Limits(Section):
    max_bytes: int = Field(default=8 * 2**20, ge=1)
    max_rows: int = Field(default=10_000, ge=1)
    timeout: float = Field(default=30.0, gt=0, allow_inf_nan=False)  # seconds for one request


class Auth(Section):
    keys: tuple[str, ...] = ()  # SHA-256 of each API key, in hex

    @field_validator("keys")
    @classmethod
    def _hashed(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.fullmatch(r"[0-9a-fA-F]{64}", key) for key in keys):
            raise ValueError("an API key stands here as its SHA-256 in hex (64 digits), never as itself")
        return tuple(key.lower() for key in keys)


class ApiServing(Section):
    enabled: bool = False
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    workers: int = Field(default=1, ge=1)
    limits: Limits = Field(default_factory=Limits)
    auth: Auth = Field(default_factory=Auth)


class Security(Section):
    allowed_namespaces: tuple[str, ...] = NAMESPACES  # the registry adds the packages of installed plugins
    allow_pickle: bool = False  # read pickled parts of artifacts that another project wrote


class Logging(Section):
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    format: Literal["text", "json"] = "text"

    @field_validator("level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value


class Settings(Section):
    """The configuration in force, frozen.

    `environment` is APP_ENV, `project` the folder that relative paths of the configuration start from.
    """

    environment: str = "local"
    project: Path = Field(default_factory=Path.cwd)
    mlflow: MLflow = Field(default_factory=MLflow)
    data_adapters: DataAdapters = Field(default_factory=DataAdapters)
    feature_store: FeatureStore = Field(default_factory=FeatureStore)
    sources: Mapping[str, SourceConfig] = Field(default_factory=dict)
    hyperparameter_tuning: TuningLimits = Field(default_factory=TuningLimits)
    execution: Execution = Field(default_factory=Execution)
    api_serving: ApiServing = Field(default_factory=ApiServing)
    security: Security = Field(default_factory=Security)
    logging: Logging = Field(default_factory=Logging)
    parts: Mapping[str, Mapping[str, Mapping[str, Any]]] = Field(default_factory=dict)

    _tree: dict[str, Any] = PrivateAttr(default_factory=dict)  # as written, references kept
    _origins: dict[Key, _Origin] = PrivateAttr(default_factory=dict)
    _variables: dict[str, str] = PrivateAttr(default_factory=dict)

    def part(self, role: str, name: str) -> Mapping[str, Any]:
        """Arguments that the configuration gives to a part, references looked up; empty when it says nothing."""
        found: Mapping[str, Any] = self.reveal(self.parts.get(role, {}).get(name, {}))
        return found

    def adapter(self, name: str) -> tuple[str, Mapping[str, Any]]:
        """Class name and keyword arguments of a data adapter, references looked up. RecipeError when there is none."""
        known = self.data_adapters.adapters
        if name not in known:
            key = ("data_adapters", "adapters", name)
            problem = Problem(
                "unknown-adapter", key, "no such adapter is configured", did_you_mean(name, known), suggestion=nearest(name, known)
            )
            raise RecipeError(self.locate(problem))
        return known[name].class_name, self.reveal(known[name].config)

    def source(self, name: str) -> Mapping[str, Any]:
        """What `source://name` stands for, references looked up. RecipeError when it is not configured."""
        if name not in self.sources:
            problem = Problem(
                "unknown-source",
                ("sources", name),
                "no such source is configured",
                did_you_mean(name, self.sources),
                suggestion=nearest(name, self.sources),
            )
            raise RecipeError(self.locate(problem))
        found = self.reveal(self._tree["sources"][name])
        return {key: value for key, value in found.items() if value is not None}

    def reveal(self, value: Any) -> Any:
        """Plain data with every `${NAME}` looked up. RecipeError naming variable and key for one that is not set."""
        if isinstance(value, Reference):
            return _looked_up(value, self._variables)
        if isinstance(value, Mapping):
            return {name: self.reveal(inner) for name, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.reveal(inner) for inner in value]
        return value

    def public(self) -> dict[str, Any]:
        """The whole configuration as it may be logged and kept: references as written, passwords as `***`."""
        shown: dict[str, Any] = _public(self._tree or _defaults(), ())
        shown["environment"] = self.environment
        return shown

    def secrets(self) -> frozenset[str]:
        """Texts that no log may contain: passwords, tokens and keys of the configuration, as far as they are set."""
        return frozenset(secret for secret in _secrets(self._tree, (), self._variables) if len(secret) >= 4)

    def part_secrets(self) -> dict[str, str]:
        """The secrets among the arguments that `parts` gives, by the key they stand under."""
        found: dict[str, str] = {}
        for key, value in documents.walk(self._tree.get("parts") or {}, ("parts",)):
            if isinstance(value, str):
                found |= {dotted(key): secret for secret in _secrets(value, key, self._variables) if secret}
        return found

    def origin(self, key: Key) -> str:
        """Which layer a value comes from: `config/dev.yaml:12`, an environment variable, `--set`, or `default`."""
        found = self._origins.get(tuple(key))
        return found.place(key) if found else "default"

    def is_set(self, variable: str) -> bool:
        """Whether a variable of the environment that the configuration refers to, or APP_ENV, is set."""
        return variable in self._variables

    def unset(self) -> dict[str, tuple[str, ...]]:
        """Keys whose value refers to a variable that is not set and has no default, with those variables."""
        found = {}
        for key, value in documents.walk(self._tree):
            if isinstance(value, Reference):
                names = tuple(name for name, default in _names(value) if default is None and name not in self._variables)
                if names:
                    found[dotted(key)] = names
        return found

    def locate(self, problem: Problem) -> Problem:
        """The same problem with the file and line of the layer that its value comes from."""
        if problem.line or problem.file:
            return problem
        key = problem.key
        while key and key not in self._origins:
            key = key[:-1]
        found = self._origins.get(key)
        return found.locate(problem) if found else problem

    def production_problems(self, *, serving: bool = True) -> list[Problem]:
        """What must not be in production: stores in SQLite or in a local file, and serving without authentication.

        Empty in every other environment. A reference whose variable is not set is no problem yet.
        """
        if self.environment != "prod":
            return []
        problems = []
        for key, text in self._stores():
            if text.startswith(("sqlite", "file:")) or ("://" not in text and text != "databricks"):
                what = "a store in a local file does not outlive its machine"
                problems.append(Problem("unsafe-production", key, what, "name a server, as postgresql://…", "value"))
        online = self.feature_store.feast_config.get("online_store")
        if isinstance(online, Mapping) and online.get("type") == "sqlite":
            key = ("feature_store", "feast_config", "online_store", "type")
            problems.append(Problem("unsafe-production", key, "SQLite is no online store for production", "use redis", "value"))
        if serving and self.api_serving.enabled:
            key = ("api_serving", "auth", "keys")
            try:
                keys = self.api_serving.auth.keys
            except RecipeError as error:  # its variable is not set
                return [*(self.locate(problem) for problem in problems), *error.problems]
            if not keys:
                problems.append(
                    Problem("unsafe-production", key, "serving without authentication", "list the SHA-256 of each API key", "value")
                )
        return [self.locate(problem) for problem in problems]

    def _stores(self) -> Iterator[tuple[Key, str]]:
        places: list[tuple[Key, Any]] = [
            (("mlflow", "tracking_uri"), self._tree.get("mlflow", {}).get("tracking_uri")),
            (("hyperparameter_tuning", "storage"), self._tree.get("hyperparameter_tuning", {}).get("storage")),
        ]
        for name, adapter in self.data_adapters.adapters.items():
            places.append((("data_adapters", "adapters", name, "config", "connection_uri"), adapter.config.get("connection_uri")))
        for key, text in places:
            if isinstance(text, Reference):
                if all(name in self._variables or default is not None for name, default in _names(text)):
                    text = self.reveal(text)
                    if text is not None:
                        yield key, str(text)
            elif isinstance(text, str):
                yield key, text

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return [("environment", self.environment)]


# --- reading the layers ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Origin:
    """The layer that a value comes from."""

    name: str  # file, `RECIPELINE__…`, `--set …`
    document: Document | None = None
    key: Key | None = None  # where the value stands in the document, when not under its own key

    def mark(self, key: Key, at: str) -> tuple[int, int]:
        return self.document.mark(key, at) if self.document is not None else (0, 0)

    def place(self, key: Key) -> str:
        line = self.mark(key, "key")[0]
        return f"{self.name}:{line}" if line else self.name

    def locate(self, problem: Problem) -> Problem:
        line, column = self.mark(problem.key, problem.at)
        return replace(problem, file=self.name, line=line, column=column)


def find_project(*starts: str | os.PathLike[str] | None) -> Path | None:
    """The nearest folder with `config/`, looking upwards from each start in turn; None when there is none."""
    for start in starts:
        if start is None:
            continue
        path = Path(start).resolve()
        for folder in (path, *path.parents):
            if (folder / "config").is_dir():
                return folder
    return None


def load(
    *,
    project: str | os.PathLike[str] | None = None,
    environment: str | None = None,
    overrides: Iterable[str] = (),
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """The configuration in force. RecipeError with all its mistakes, each in its own file; UsageError for a malformed override.

    project      the project's folder; or a file (a recipe), from which the nearest folder with `config/` is looked for, then
                 from the working directory; without any, the defaults of this module and the working directory
    environment  else APP_ENV, else `local`
    overrides    `section.key=value`, values as YAML writes them
    """
    if project is not None and Path(project).is_dir():
        root = Path(project).resolve()
    else:
        root = find_project(project, Path.cwd()) or Path.cwd()
    chosen = environment or environ.get("APP_ENV") or "local"
    problems: list[Problem] = []
    tree = _defaults()
    origins: dict[Key, _Origin] = {}
    for origin, data in _layers(root, chosen, environ, overrides, problems):
        _check_keys(data, origin, problems)
        _merge(tree, data, origin, (), origins)
    declared = tree.pop("environment", None)
    if declared is not None and declared != chosen:
        found = origins.get(("environment",))
        problem = Problem(
            "bad-value",
            ("environment",),
            f"{declared!r} is not the environment in force, {chosen}",
            "APP_ENV chooses it; remove the key",
            "value",
        )
        problems.append(found.locate(problem) if found else problem)
    if problems:
        raise RecipeError(problems)
    return _settings(tree, origins, chosen, root, environ)


def _layers(
    root: Path, environment: str, environ: Mapping[str, str], overrides: Iterable[str], problems: list[Problem]
) -> Iterator[tuple[_Origin, Mapping[str, Any]]]:
    """Lowest first; a layer that cannot be read is a problem and the others are still looked at."""
    yield from _files(root, environment, problems)
    for name, key, text in _variables(environ):
        value = _typed(text, key, name, problems)
        yield _Origin(name), _nested(key, value)
    for override in overrides:
        path, equals, text = override.partition("=")
        key = tuple(path.strip().split("."))
        if not equals or not all(key):
            raise UsageError(f"--set {_masked(override)} is not section.key=value", hint="write --set section.key=value")
        name = f"--set {path.strip()}"
        yield _Origin(name), _nested(key, _typed(text, key, name, problems))


def _files(root: Path, environment: str, problems: list[Problem]) -> Iterator[tuple[_Origin, Mapping[str, Any]]]:
    folder = root / "config"
    if not re.fullmatch(r"[A-Za-z0-9_-]+", environment):
        raise RecipeError(
            Problem("bad-value", ("APP_ENV",), f"{environment!r} is not the name of an environment", "write letters and digits")
        )
    if not (folder / f"{environment}.yaml").is_file() and (environment != "local"):
        known = sorted(path.stem for path in folder.glob("*.yaml") if path.stem != "base" and not path.stem.endswith(".local"))
        shown = documents.shown_path(folder / f"{environment}.yaml")
        near = nearest(environment, known)
        hint = did_you_mean(environment, known) if known else f"write {shown}, or use APP_ENV=local"
        raise RecipeError(Problem("missing-environment", ("APP_ENV",), f"there is no {shown}", hint, suggestion=near, file=shown))
    for name in ("base.yaml", f"{environment}.yaml", f"{environment}.local.yaml"):
        path = folder / name
        if path.is_file():
            try:
                document = documents.read_tolerant(path, allow_empty=True)
            except RecipeError as error:
                problems.extend(error.problems)
                continue
            problems.extend(document.problems)
            origin = _Origin(document.file, document)
            yield origin, _with_references(document.data, (), origin)


def _variables(environ: Mapping[str, str]) -> Iterator[tuple[str, Key, str]]:
    """The guide's BATCH_SIZE and LOG_LEVEL, then RECIPELINE__SECTION__KEY."""
    for name, key in (("BATCH_SIZE", ("execution", "batch", "rows")), ("LOG_LEVEL", ("logging", "level"))):
        if environ.get(name):
            yield name, key, environ[name]
    for name in sorted(environ):
        if name.startswith("RECIPELINE__"):
            yield name, tuple(step.lower() for step in name.removeprefix("RECIPELINE__").split("__")), environ[name]


def _typed(text: str, key: Key, name: str, problems: list[Problem]) -> Any:
    """A value from a command line or a variable: as YAML reads it, a secret always as text."""
    if _REFERENCE.search(text):
        return Reference(text, key, name, plain=not _secret(key))
    if _secret(key) or not text:
        return text
    try:
        if text[0] in "[{\"'":
            return documents.parse(f"value: {text}", name).data["value"]
        return documents.scalar(text)
    except (RecipeError, ValueError):
        problems.append(Problem("bad-value", key, "the value is not valid YAML", "put quotes around it", file=name))
        return None


def _nested(key: Key, value: Any) -> dict[str, Any]:
    for step in reversed(key):
        value = {step: value}
    found: dict[str, Any] = value
    return found


def _with_references(data: Any, key: Key, origin: _Origin) -> Any:
    if isinstance(data, Mapping):
        return {name: _with_references(value, (*key, name), origin) for name, value in data.items()}
    if isinstance(data, list):
        return [_with_references(value, (*key, index), origin) for index, value in enumerate(data)]
    if isinstance(data, str) and _REFERENCE.search(data):
        plain = origin.document is not None and origin.document.plain(key) and not _secret(key)
        return Reference(data, key, origin.name, origin.mark(key, "value"), plain)
    return data


def _merge(below: dict[str, Any], above: Mapping[str, Any], origin: _Origin, key: Key, origins: dict[Key, _Origin]) -> None:
    """Lay a layer over those below it."""
    names = {str(name).lower(): name for name in below}
    for name, value in above.items():
        if origin.document is None and name not in below:
            name = names.get(str(name).lower(), name)  # a variable's name has lost its case
        where = (*key, name)
        if isinstance(value, Mapping):
            lower = below.get(name)
            if not isinstance(lower, dict):
                lower = below[name] = {}
            changed = lower.get("class_name") not in (None, value.get("class_name", lower.get("class_name")))
            if changed:
                lower.pop("config", None)
            origins[where] = origin
            _merge(lower, value, origin, where, origins)
        elif value is None and isinstance(below.get(name), dict):
            continue  # a null section is an empty one
        else:
            below[name] = value
            origins[where] = origin


def _settings(tree: dict[str, Any], origins: dict[Key, _Origin], environment: str, root: Path, environ: Mapping[str, str]) -> Settings:
    named = ("APP_ENV", *(name for text in _references(tree) for name in text.variables()))
    variables = {name: environ[name] for name in named if name in environ}
    _feast_names(tree)
    unset: dict[Key, RecipeError] = {}
    data = _for_models(tree, Settings, (), variables, unset)
    try:
        settings = Settings(**data, environment=environment, project=root)
    except ValidationError as error:
        problems = validation_problems(error, data, (), Settings)
        made = Settings()
        made._origins.update(origins)
        hidden = [_hide(problem, tree) for problem in problems]
        raise RecipeError([made.locate(problem) for problem in hidden]) from None
    for key, reason in unset.items():
        _withhold(settings, key, reason)
    settings._tree.update(tree)
    settings._origins.update(origins)
    settings._variables.update(variables)
    _place(settings, root)
    return settings


def _for_models(tree: Any, model: Any, key: Key, variables: Mapping[str, str], unset: dict[Key, RecipeError]) -> dict[str, Any]:
    """What the models validate: references of typed values looked up, those that cannot be left out and noted."""
    data: dict[str, Any] = {}
    for name, value in tree.items():
        where = (*key, name)
        info = model.model_fields.get(name)
        inner = _model_of(info.annotation) if info is not None else None
        if isinstance(value, Mapping) and inner is not None:
            data[name] = _for_models(value, inner, where, variables, unset)
        elif value is None and inner is not None:
            data[name] = {}
        elif name in ("adapters", "sources") and isinstance(value, Mapping):
            kind = AdapterConfig if name == "adapters" else SourceConfig
            data[name] = {
                each: _for_models(one, kind, (*where, each), variables, unset) if isinstance(one, Mapping) else one
                for each, one in value.items()
            }
        elif name == "parts" and isinstance(value, Mapping):
            data[name] = {role: {each: one or {} for each, one in (named or {}).items()} for role, named in value.items()}
        elif name in ("config", "feast_config", "parts", "adapters", "sources"):
            data[name] = {} if value is None else value
        else:
            try:
                data[name] = _text(value, variables)
            except RecipeError as error:
                unset[where] = error
    return data


def _withhold(settings: Settings, key: Key, error: RecipeError) -> None:
    """Take a field away, so that asking for it raises what is wrong with it."""
    section: Any = settings
    for step in key[:-1]:
        section = section[step] if isinstance(section, Mapping) else getattr(section, str(step))
    name = str(key[-1])
    section.__dict__.pop(name, None)
    section._unset[name] = error


def _place(settings: Settings, root: Path) -> None:
    """Relative files of the configuration start from the project."""
    mlflow, tuning, execution = settings.mlflow.__dict__, settings.hyperparameter_tuning.__dict__, settings.execution.__dict__
    if str(mlflow.get("tracking_uri")).startswith("sqlite") and mlflow.get("artifact_location") is None:
        mlflow["artifact_location"] = str(root / "mlruns")
    for fields, name in ((mlflow, "tracking_uri"), (tuning, "storage")):
        match = re.fullmatch(r"(sqlite(?:\+\w+)?:///)(?!/|:memory:)(.+)", fields.get(name) or "")
        if match:
            fields[name] = f"{match.group(1)}{root / match.group(2)}"
    execution["work_folder"] = root / execution["work_folder"]


def _feast_names(tree: dict[str, Any]) -> None:
    """Feast calls PostgreSQL `postgres`; the guide calls it by its name."""
    feast = (tree.get("feature_store") or {}).get("feast_config")
    for part in feast.values() if isinstance(feast, Mapping) else ():
        if isinstance(part, dict) and part.get("type") == "postgresql":
            part["type"] = "postgres"


# --- unknown keys ------------------------------------------------------------------------------


def _check_keys(data: Mapping[str, Any], origin: _Origin, problems: list[Problem]) -> None:
    """Every key of a layer that the configuration does not have; found before merging, so that each has its own file."""
    _check_section(data, Settings, (), origin, problems)


def _check_section(data: Any, model: Any, key: Key, origin: _Origin, problems: list[Problem]) -> None:
    if data is None:
        return
    if not isinstance(data, Mapping):
        problems.append(
            origin.locate(Problem("bad-value", key, f"{_masked(data)!r} is not a mapping", "write it as keys and values", "value"))
        )
        return
    known = [name for name in model.model_fields if (model, name) != (Settings, "project")]
    for name, value in data.items():
        where = (*key, name if isinstance(name, (str, int)) else str(name))
        if name not in known:
            free = [word for word in known if word not in data]
            near = nearest(str(name), free) or nearest(str(name), known)
            hint = did_you_mean(str(name), [near] if near else known)
            if not key and name in OF_RECIPES:
                hint = "it is a key of recipes, and this is the configuration; write it in the recipe"
            problems.append(origin.locate(Problem("unknown-key", where, "unknown key", hint, suggestion=near)))
            continue
        inner = _model_of(model.model_fields[name].annotation)
        if inner is not None:
            _check_section(value, inner, where, origin, problems)
        elif name in ("adapters", "sources") and isinstance(value, Mapping):
            for each, one in value.items():
                _check_section(one, AdapterConfig if name == "adapters" else SourceConfig, (*where, each), origin, problems)
        elif name == "parts" and isinstance(value, Mapping):
            _check_parts(value, where, origin, problems)


def _check_parts(parts: Mapping[str, Any], key: Key, origin: _Origin, problems: list[Problem]) -> None:
    for role, named in parts.items():
        if role not in ROLES:
            hint = did_you_mean(str(role), ROLES)
            problems.append(origin.locate(Problem("unknown-key", (*key, role), "no such role", hint, suggestion=nearest(str(role), ROLES))))
            continue
        for name, arguments in named.items() if isinstance(named, Mapping) else ():
            if arguments is not None and not isinstance(arguments, Mapping):
                problems.append(
                    origin.locate(
                        Problem("bad-value", (*key, role, name), "arguments are a mapping", "write them as keys and values", "value")
                    )
                )


def _model_of(annotation: Any) -> Any:
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


# --- references and secrets ----------------------------------------------------------------------


def _names(text: str) -> list[tuple[str, str | None]]:
    return [(match.group(1), match.group(2)) for match in _REFERENCE.finditer(text)]


def _looked_up(reference: Reference, variables: Mapping[str, str]) -> Any:
    for name, default in _names(reference):
        if name not in variables and default is None:
            what = f"the environment variable {name} is not set"
            hint = f"set it, or write ${{{name}:default}}"
            place: dict[str, Any] = {"file": reference.file, "line": reference.line, "column": reference.column}
            raise RecipeError(Problem("unset-variable", reference.key, what, hint, "value", **place))
    text = _REFERENCE.sub(lambda match: variables.get(match.group(1), match.group(2) or ""), reference)
    if reference.plain and _REFERENCE.fullmatch(reference):
        try:
            return documents.scalar(text)
        except ValueError:
            return text
    return text


def _text(value: Any, variables: Mapping[str, str]) -> Any:
    """A typed value with its references looked up: text, which the model converts; nothing where nothing is left."""
    if isinstance(value, Reference):
        text = _looked_up(Reference(value, value.key, value.file, (value.line, value.column)), variables)
        return None if text in ("", "~", "null") else text
    if isinstance(value, list):
        return [_text(one, variables) for one in value]
    return value


def _references(data: Any) -> Iterator[Reference]:
    for _, value in documents.walk(data):
        if isinstance(value, Reference):
            yield value


def _secret(key: Sequence[str | int]) -> bool:
    """Whether the value under a key is a secret by its name. Hashes of keys (`auth.keys`) are not."""
    words = [step for step in key if isinstance(step, str)]
    return bool(words) and bool(_SECRET_WORD.search(words[-1]))


def _masked(value: Any) -> Any:
    """Text without the passwords of its URIs."""
    return _USERINFO.sub(rf"\1:{_HIDDEN}@", value) if isinstance(value, str) else value


def _public(data: Any, key: Key) -> Any:
    if isinstance(data, Mapping):
        return {name: _public(value, (*key, name)) for name, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_public(value, key) for value in data]
    if isinstance(data, Reference):
        return _masked_reference(data, secret=_secret(key))
    if isinstance(data, Path):
        return str(data)
    if _secret(key) and data is not None:
        return _HIDDEN
    return _masked(data)


def _masked_reference(reference: Reference, *, secret: bool) -> str:
    """References as written, whatever stands around them masked; the default of a secret is a secret too."""
    text = str(reference)
    if secret:
        return "".join(f"${{{name}}}" for name, _ in _names(text))
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match.group(1) + (f":{_masked(match.group(2))}" if match.group(2) is not None else ""))
        return f"\0{len(kept) - 1}\0"

    text = _REFERENCE.sub(keep, text)
    text = _USERINFO.sub(lambda match: match.group() if "\0" in match.group(2) else f"{match.group(1)}:{_HIDDEN}@", text)
    return re.sub("\0(\\d+)\0", lambda match: f"${{{kept[int(match.group(1))]}}}", text)


def _secrets(data: Any, key: Key, variables: Mapping[str, str]) -> Iterator[str]:
    if isinstance(data, Mapping):
        for name, value in data.items():
            yield from _secrets(value, (*key, name), variables)
    elif isinstance(data, (list, tuple)):
        for value in data:
            yield from _secrets(value, key, variables)
    elif isinstance(data, str):
        for name in data.variables() if isinstance(data, Reference) else ():
            if name in variables and (_secret(key) or _secret((name,))):
                yield variables[name]
        text = _REFERENCE.sub(lambda match: variables.get(match.group(1), match.group(2) or ""), data)
        if _secret(key):
            yield text
        for match in _USERINFO.finditer(text):
            yield match.group(2)


def _hide(problem: Problem, tree: Mapping[str, Any]) -> Problem:
    """The same problem, whose message never quotes what came from a variable or is a secret."""
    value: Any = tree
    for step in problem.key:
        value = value.get(step) if isinstance(value, Mapping) else None
    quoted, found, what = problem.message.rpartition(" is ")
    if found and (isinstance(value, Reference) or _secret(problem.key)):
        quoted = _masked_reference(value, secret=False) if isinstance(value, Reference) else "the value"
    return replace(problem, message=str(_masked(f"{quoted}{found}{what}")))


def json_schema() -> dict[str, Any]:
    """The configuration as JSON Schema, for editors. A value may also be a reference: `${NAME}`."""
    schema = Settings.model_json_schema()
    schema["properties"].pop("project", None)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "configuration"}


# --- what holds where no file says anything ------------------------------------------------------


def _defaults() -> dict[str, Any]:
    """Every setting with its default, as a layer below all files."""
    return {name: _default(info) for name, info in Settings.model_fields.items() if name not in ("environment", "project")}


def _default(info: Any) -> Any:
    value = info.get_default(call_default_factory=True)
    if isinstance(value, Section):
        return {name: _default(inner) for name, inner in type(value).model_fields.items()}
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, Path):
        return str(value)
    return dict(value) if isinstance(value, Mapping) else value
