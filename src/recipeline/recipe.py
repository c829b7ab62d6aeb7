"""The recipe as data: one grammar, every mistake at once, nothing imported.

`load` reads a recipe and raises `RecipeError` with all the mistakes that can be known without importing any class;
`draft` is its tolerant form, so that who can import the classes reports both kinds together.

What stands in the arguments of a part, besides plain values:

    PartSpec   {class_path: …, params | hyperparameters: {…}}
    Range      {type: int | float | categorical, …}: a value that tuning looks for
    Named      an item of a list, {name, estimator} or {name, transformer, columns}: scikit-learn's tuples
    a mapping  {literal: {…}} is that inner mapping, untouched; any other mapping is a plain value, looked through for the above
"""

from __future__ import annotations

import difflib
import enum
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recipeline import document as documents
from recipeline.document import Document, validation_problems
from recipeline.errors import Key, Problem, RecipeError, did_you_mean, dotted, nearest


class _Missing(enum.Enum):
    MISSING = "missing"

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing.MISSING
"""The default of a range that has none; `None` is a default."""

NAMES = ("class_path", "name", "type")
ARGUMENTS = ("hyperparameters", "params")
TOP = ("name", "seed", "model", "hyperparameter_tuning", "evaluation")
MODEL = ("loader", "augmenter", "preprocessor", "data_interface")
EVALUATION = ("metrics", "validation", "evaluator")
BESIDE: Mapping[str, tuple[str, ...]] = {"loader": ("source_uri",), "augmenter": ("features",)}
"""Arguments that the guide writes beside the name of the part instead of in its `params`."""

DEFAULTS: Mapping[str, str] = {"loader": "default_loader", "preprocessor": "default_preprocessor"}
"""What a section means that names no part: the guide writes `loader: {source_uri: …}`."""

RANGE_TYPES = ("int", "float", "categorical")
_RANGE_KEYS = {
    "int": ("type", "low", "high", "step", "log", "default"),
    "float": ("type", "low", "high", "step", "log", "default"),
    "categorical": ("type", "choices", "default"),
}
_ALL_RANGE_KEYS = ("type", "low", "high", "step", "log", "choices", "default")

Values: TypeAlias = Mapping[str, Any]
"""Names of ranges to values. A choice that is a part or a list may be given by its label."""


# --- what a recipe is made of -----------------------------------------------------------------


@dataclass(frozen=True)
class PartSpec:
    """A part as a recipe names it.

    role           of the grammar (`loader`, `model`, `splitter` …), or `part` for one inside arguments
    reference      a registered name or a dotted path, as written
    arguments      constructor arguments; see the module's head for what may stand in them
    key            where the part stands in the document
    argument_key   where its arguments stand
    reference_key  where its name stands
    beside         arguments that stand beside the name (`loader.source_uri`)
    """

    role: str
    reference: str
    arguments: Mapping[str, Any]
    key: Key
    argument_key: Key
    reference_key: Key = ()
    beside: frozenset[str] = frozenset()

    def key_of(self, name: str) -> Key:
        """Where the argument `name` stands, or would stand."""
        return (*self.key, name) if name in self.beside else (*self.argument_key, name)

    def parts(self) -> Iterator[PartSpec]:
        """This part and every part inside its arguments, choices of ranges included."""
        yield self
        for value in self.arguments.values():
            yield from _parts(value)

    def ranges(self) -> Iterator[Range]:
        """Every range inside, those of choices after the range that chooses."""
        for value in self.arguments.values():
            yield from _ranges(value)

    def filled(self, values: Values = MappingProxyType({})) -> PartSpec:
        """The part without ranges: each replaced by its value, else its default.

        A range with neither is left out, so that the constructor's own default holds. Where it cannot be left out (a step,
        an item of a list, a choice between parts) the first choice stands in.
        """
        filled = {name: _filled(value, values) for name, value in self.arguments.items()}
        return replace(self, arguments={name: value for name, value in filled.items() if value is not MISSING})


@dataclass(frozen=True)
class Named:
    """An item of a list that scikit-learn wants as a tuple: (name, value), or (name, value, columns).

    value    PartSpec, Range over parts, or the text `passthrough` or `drop`
    columns  MISSING where the recipe names none
    word     `estimator` or `transformer`, as written; `class_path` for {class_path, columns} without a name
    """

    name: str
    value: Any
    columns: Any = MISSING
    key: Key = ()
    word: str = "estimator"

    def tuple_of(self, value: Any, columns: Any = MISSING) -> tuple[Any, ...]:
        """The tuple, with the built object in the place of its spec."""
        return (self.name, value) if columns is MISSING else (self.name, value, columns)


@dataclass(frozen=True)
class Range:
    """A value that tuning looks for.

    name      its path with the names of steps and estimators, never an index: `rf.n_estimators`
    low, high numbers, both included; None for a categorical
    choices   plain values, or PartSpecs that may have ranges of their own (named `<name>.<label>.<argument>`)
    default   the value of trial 0, may lie outside of the range; MISSING where there is none: the constructor's default holds
    required  it stands where nothing can be left out, so without a default the first choice stands in
    """

    type: Literal["int", "float", "categorical"]
    key: Key
    name: str
    low: float | int | None = None
    high: float | int | None = None
    step: float | int | None = None
    log: bool = False
    choices: tuple[Any, ...] = ()
    default: Any = MISSING
    required: bool = False

    @property
    def labels(self) -> tuple[Any, ...]:
        """One scalar for each choice: itself, the short name of a part, the JSON of a list or mapping."""
        labels: list[Any] = []
        for choice in self.choices:
            label = _label(choice)
            same, number = label, 1
            while any(_same(label, other) for other in labels):
                number += 1
                label = f"{same}_{number}"
            labels.append(label)
        return tuple(labels)

    def index_of(self, value: Any) -> int | None:
        """The choice that `value` means: the choice itself or its label. None when there is no such choice."""
        if callable(getattr(value, "item", None)):  # a scalar of numpy
            value = value.item()
        for known in (self.choices, self.labels):
            for index, one in enumerate(known):
                if _same(one, value):
                    return index
        return None

    def choice_of(self, value: Any) -> Any:
        """The choice that a value or label means; RecipeError when there is none."""
        index = self.index_of(value)
        if index is None:
            known = [str(label) for label in self.labels]
            raise RecipeError(
                Problem("bad-value", self.key, f"{value!r} is not a choice of {self.name}", did_you_mean(str(value), known), "value")
            )
        return self.choices[index]

    def pick(self, values: Values) -> Any:
        """The value in force: given, else the default, else MISSING (leave the argument out) or the first choice."""
        if self.name in values:
            value = values[self.name]
            if self.type == "categorical":
                return self.choice_of(value)
            if value is None or isinstance(value, (str, bool)):
                return value
            return int(value) if self.type == "int" else float(value)
        if self.default is not MISSING:
            index = self.index_of(self.default) if self.type == "categorical" else None
            return self.default if index is None else self.choices[index]
        if self.type == "categorical" and (self.required or any(isinstance(choice, PartSpec) for choice in self.choices)):
            return self.choices[0]
        return MISSING


class Part(BaseModel):
    """A section of the recipe: frozen, strict, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, defer_build=True)


class Pruning(Part):
    """When a trial may stop early. `n_warmup_steps` counts reports of one trial, `n_startup_trials` whole trials."""

    enabled: bool = True
    algorithm: Literal["MedianPruner", "PercentilePruner", "HyperbandPruner", "SuccessiveHalvingPruner", "NopPruner"] = "MedianPruner"
    n_startup_trials: int = Field(default=5, ge=0, le=100_000)
    n_warmup_steps: int = Field(default=0, ge=0, le=1_000_000)


class Tuning(Part):
    """The search: how many trials, judged by what. Its time limit stands in the configuration unless it is the science's."""

    enabled: bool = False  # left out: on where the recipe has ranges
    n_trials: int = Field(default=50, ge=1, le=100_000)
    metric: str | None = Field(default=None, min_length=1)  # the task's first metric
    direction: Literal["maximize", "minimize"] | None = None  # the metric's own
    folds: int = Field(default=5, ge=2, le=1_000)
    pruning: Pruning = Field(default_factory=lambda: Pruning(enabled=False))
    timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)  # seconds
    seeds_per_trial: int = Field(default=1, ge=1, le=1_000)
    extra: Mapping[str, Any] = Field(default_factory=dict)  # keys that only the task's Interface can know


TUNING = tuple(name for name in Tuning.model_fields if name != "extra")


@dataclass(frozen=True)
class Draft:
    """A recipe as far as it could be understood: None where a section is missing or wrong, and why in `problems`."""

    document: Document
    name: str | None = None
    seed: int | None = None
    model: PartSpec | None = None
    loader: PartSpec | None = None
    augmenter: PartSpec | None = None
    preprocessor: PartSpec | None = None
    task_type: str | None = None
    interface: Mapping[str, Any] | None = None
    tuning: Tuning | None = None
    metrics: tuple[str, ...] | None = None
    validation: PartSpec | None = None
    evaluator: PartSpec | None = None
    path: Path | None = None
    problems: tuple[Problem, ...] = ()

    def roots(self) -> tuple[PartSpec, ...]:
        """The parts at the places of the grammar, in the order of the grammar."""
        parts = (self.model, self.loader, self.augmenter, self.preprocessor, self.validation, self.evaluator)
        return tuple(part for part in parts if part is not None)

    def specs(self) -> tuple[PartSpec, ...]:
        """Every part that the recipe names, nested ones too."""
        return tuple(spec for part in self.roots() for spec in part.parts())

    def ranges(self) -> tuple[Range, ...]:
        """The search space: ranges of the model, then of the preprocessor."""
        return tuple(found for part in (self.model, self.preprocessor) if part is not None for found in part.ranges())

    def recipe(self) -> Recipe:
        """The whole recipe; RecipeError with every problem."""
        if self.problems:
            raise RecipeError(self.problems)
        assert self.name is not None
        assert self.seed is not None
        assert self.model is not None
        assert self.loader is not None
        assert self.task_type is not None
        assert self.interface is not None
        assert self.tuning is not None
        return Recipe(
            name=self.name,
            seed=self.seed,
            model=self.model,
            loader=self.loader,
            augmenter=self.augmenter,
            preprocessor=self.preprocessor,
            task_type=self.task_type,
            interface=self.interface,
            tuning=self.tuning,
            metrics=self.metrics or (),
            validation=self.validation,
            evaluator=self.evaluator,
            document=self.document,
            path=self.path,
        )


@dataclass(frozen=True)
class Recipe:
    """A recipe without mistakes, as far as one can know without importing what it names.

    interface   `model.data_interface` as written, `task_type` included
    metrics     empty: the task's default
    validation  role `splitter`, its reference is the `method`; None: the task's default
    path        of the file, None where it was text or a mapping
    """

    name: str
    seed: int
    model: PartSpec
    loader: PartSpec
    augmenter: PartSpec | None
    preprocessor: PartSpec | None
    task_type: str
    interface: Mapping[str, Any]
    tuning: Tuning
    metrics: tuple[str, ...]
    validation: PartSpec | None
    evaluator: PartSpec | None
    document: Document
    path: Path | None = None

    def roots(self) -> tuple[PartSpec, ...]:
        """The parts at the places of the grammar, in the order of the grammar."""
        return self.draft().roots()

    def specs(self) -> tuple[PartSpec, ...]:
        """Every part that the recipe names, nested ones too."""
        return self.draft().specs()

    def ranges(self) -> tuple[Range, ...]:
        """The search space: ranges of the model, then of the preprocessor."""
        return self.draft().ranges()

    def draft(self) -> Draft:
        """The same as a draft without problems."""
        return Draft(**{name: getattr(self, name) for name in self.__dataclass_fields__})

    def resolved(self, values: Values = MappingProxyType({})) -> dict[str, Any]:
        """Plain data that are again a valid recipe: ranges replaced as `PartSpec.filled` does, tuning switched off.

        RecipeError for a name that is no range, or a value that is no choice.
        """
        ranges = {found.key: found for found in self.ranges()}
        known = [found.name for found in ranges.values()]
        for name in values:
            if name not in known:
                raise RecipeError(
                    Problem("unknown-key", (name,), "the recipe has no such range", did_you_mean(name, known), file=self.document.file)
                )
        data = _resolved(self.document.data, (), ranges, values)
        if isinstance(data.get("hyperparameter_tuning"), dict):
            data["hyperparameter_tuning"]["enabled"] = False
        data.pop("name", None)
        data.pop("seed", None)
        return {"name": self.name, "seed": self.seed, **data}


# --- reading one -------------------------------------------------------------------------------


def load(source: str | os.PathLike[str] | Mapping[str, Any]) -> Recipe:
    """A recipe from a file, from YAML text (with a line break, or in braces), or from a mapping.

    RecipeError with every mistake that can be known without importing what the recipe names.
    """
    return draft(source).recipe()


def draft(source: str | os.PathLike[str] | Mapping[str, Any]) -> Draft:
    """As `load`, but mistakes stand in `problems` instead of being raised."""
    path: Path | None = None
    try:
        if isinstance(source, Mapping):
            document = documents.from_mapping(source, "<recipe>")
        elif isinstance(source, str) and ("\n" in source or source.lstrip().startswith("{")):
            document = documents.parse_tolerant(source)
        else:
            path = Path(source)
            document = documents.read_tolerant(path)
    except RecipeError as error:
        file = documents.shown_path(path) if path is not None else "<recipe>"
        return Draft(Document(file, {}), path=path, problems=error.problems)
    return _Reader(document, path).draft()


class _Reader:
    """Takes a document apart by the grammar; each mistake is noted and the reading goes on."""

    def __init__(self, document: Document, path: Path | None) -> None:
        self.document, self.path = document, path
        self.problems: list[Problem] = list(document.problems)
        self.taken: set[str] = set()  # names of ranges

    def report(self, slug: str, key: Key, message: str, hint: str = "", at: str = "key", suggestion: str | None = None) -> None:
        self.add(Problem(slug, key, message, hint, at, suggestion))

    def add(self, problem: Problem) -> None:
        self.problems.append(self.document.locate(problem))

    def draft(self) -> Draft:
        data = self.document.data
        unknown = self.unknown(data, TOP, ())
        name = self.name(data)
        seed = self.seed(data)
        parts: dict[str, Any] = {}
        model = self.section(data, "model", (), required="model" not in unknown.values())
        before = len(self.problems)
        if model is not None:
            parts = self.model(model)
        sound = model is not None and len(self.problems) == before
        space = [found for part in (parts.get("model"), parts.get("preprocessor")) if part is not None for found in part.ranges()]
        tuning = self.tuning(data, space, sound=sound, misspelt="hyperparameter_tuning" in unknown.values())
        evaluation = self.section(data, "evaluation", ())
        judged = self.evaluation(evaluation) if evaluation is not None else {}
        return Draft(
            document=self.document,
            name=name,
            seed=seed,
            tuning=tuning,
            path=self.path,
            problems=tuple(sorted(dict.fromkeys(self.problems), key=lambda p: (p.line, p.column))),
            **parts,
            **judged,
        )

    # the sections, top down

    def name(self, data: Mapping[str, Any]) -> str | None:
        if data.get("name") is None:
            return self.path.stem if self.path is not None else "recipe"
        name = data["name"]
        if not isinstance(name, str):
            self.report("bad-value", ("name",), f"{name!r} is not text", "put it in quotes", "value")
        elif not name.strip() or not name.isprintable() or len(name) > 200:
            self.report("bad-value", ("name",), "a name is one line of at most 200 characters", "shorten it", "value")
        else:
            return name
        return None

    def seed(self, data: Mapping[str, Any]) -> int | None:
        seed = data.get("seed")
        if seed is None:
            return 42
        if isinstance(seed, bool) or not isinstance(seed, int):
            self.report("bad-value", ("seed",), f"{seed!r} is not a whole number", "write seed: 42", "value")
        elif not 0 <= seed < 2**32:
            self.report("bad-value", ("seed",), f"{seed} is out of range", "it must be at least 0 and less than 2**32", "value")
        else:
            return seed
        return None

    def model(self, model: Mapping[str, Any]) -> dict[str, Any]:
        key: Key = ("model",)
        unknown = self.unknown(model, (*NAMES, *ARGUMENTS, *MODEL), key)
        parts: dict[str, Any] = {"model": self.part(model, key, "model", (), unknown=unknown)}
        for role, prefix in (("loader", None), ("augmenter", None), ("preprocessor", ("preprocessor",))):
            section = self.section(model, role, key, required=role == "loader" and role not in unknown.values())
            if section is not None:
                where = (*key, role)
                wrong = self.unknown(section, (*NAMES, *ARGUMENTS, *BESIDE.get(role, ())), where)
                parts[role] = self.part(section, where, role, prefix, unknown=wrong)
        interface = self.section(model, "data_interface", key, required="data_interface" not in unknown.values())
        if interface is not None:
            parts["interface"] = dict(interface)
            parts["task_type"] = self.word(interface, "task_type", (*key, "data_interface"), "classification")
        return parts

    def evaluation(self, evaluation: Mapping[str, Any]) -> dict[str, Any]:
        key: Key = ("evaluation",)
        self.unknown(evaluation, EVALUATION, key)
        judged: dict[str, Any] = {"metrics": self.metrics(evaluation)}
        validation = self.section(evaluation, "validation", key)
        if validation:
            where = (*key, "validation")
            method = self.word(validation, "method", where, "train_test_split")
            arguments = {
                name: self.value(value, (*where, name), None)
                for name, value in validation.items()
                if name != "method" and self.named(name, where)
            }
            if method is not None:
                judged["validation"] = PartSpec("splitter", method, arguments, where, where, (*where, "method"))
        evaluator = self.section(evaluation, "evaluator", key)
        if evaluator is not None:
            where = (*key, "evaluator")
            unknown = self.unknown(evaluator, (*NAMES, *ARGUMENTS), where)
            judged["evaluator"] = self.part(evaluator, where, "evaluator", None, unknown=unknown)
        return judged

    def metrics(self, evaluation: Mapping[str, Any]) -> tuple[str, ...] | None:
        metrics = evaluation.get("metrics")
        key: Key = ("evaluation", "metrics")
        if metrics is None:
            return ()
        if not isinstance(metrics, list) or not metrics:
            self.report("bad-value", key, "a list of names is expected", "write metrics: [accuracy, roc_auc]", "value")
            return None
        for index, metric in enumerate(metrics):
            if not isinstance(metric, str) or not metric:
                self.report("bad-value", (*key, index), f"{metric!r} is not the name of a metric", at="value")
            elif metric in metrics[:index]:
                self.report("duplicate-value", (*key, index), f"{metric} is asked for twice", "keep one of them", "value")
        return tuple(metric for metric in metrics if isinstance(metric, str))

    def tuning(self, data: Mapping[str, Any], space: Sequence[Range], *, sound: bool, misspelt: bool) -> Tuning | None:
        key: Key = ("hyperparameter_tuning",)
        section = self.section(data, "hyperparameter_tuning", ())
        if section is None:
            if data.get("hyperparameter_tuning") is None:
                if misspelt:
                    return None
                self.untuned(space, "add hyperparameter_tuning: {enabled: true}, or give the range a default")
                return Tuning()
            return None
        before = len(self.problems)
        known, extra = self.tuning_keys(section, key)
        pruning = known.get("pruning")
        if isinstance(pruning, Mapping):
            unknown = self.unknown(pruning, tuple(Pruning.model_fields), (*key, "pruning"))
            known["pruning"] = {name: value for name, value in pruning.items() if name not in unknown and name in Pruning.model_fields}
        explicit = known.get("enabled")
        known["enabled"] = bool(space) if explicit is None else explicit
        try:
            tuning = Tuning(**known, extra=extra)
        except ValidationError as error:
            for problem in validation_problems(error, known, key, Tuning):
                self.add(problem)
            return None
        if explicit is True and not space and sound:
            self.report(
                "ignored-section",
                (*key, "enabled"),
                "there is no range to tune",
                "write a range in model.hyperparameters, or enabled: false",
            )
        return tuning if len(self.problems) == before else None

    def tuning_keys(self, section: Mapping[str, Any], key: Key) -> tuple[dict[str, Any], dict[str, Any]]:
        """Keys of ours, and keys that may be the task's; a key that is nearly one of ours is a mistake already here."""
        known: dict[str, Any] = {}
        extra: dict[str, Any] = {}
        for name, value in section.items():
            if name in TUNING:
                if value is not None:  # a null section is an empty one
                    known[name] = value
            elif not isinstance(name, str) or name in _HOMES or _typo(name, TUNING):
                self.unknown({**dict.fromkeys(known), name: value}, TUNING, key)
            else:
                extra[name] = value
        return known, extra

    def untuned(self, space: Sequence[Range], hint: str) -> None:
        for found in space:
            if found.default is MISSING:
                self.report("range-without-tuning", found.key, "a range, but tuning is not enabled", hint)

    # a part and its arguments

    def part(
        self, raw: Mapping[str, Any], key: Key, role: str, name: tuple[str, ...] | None, *, unknown: Mapping[str, str | None]
    ) -> PartSpec | None:
        """The part that a mapping names. `name`: how its ranges are named; None where a range would be ignored."""
        reference, reference_key = self.reference(raw, key, role, unknown)
        given = [word for word in ARGUMENTS if raw.get(word) is not None]
        argument_key = (*key, given[0] if given else next((word for word in ARGUMENTS if word in raw), ARGUMENTS[role != "model"]))
        if len(given) == 2:
            self.twice(raw, key, ARGUMENTS, given)
        arguments: dict[str, Any] = {}
        for word in given:
            where = (*key, word)
            if not isinstance(raw[word], Mapping):
                self.report("bad-value", where, f"{_shown(raw[word])} is not a mapping", f"write {word}: {{argument: value}}", "value")
                continue
            for argument, value in raw[word].items():
                if self.named(argument, where) and argument not in arguments:
                    arguments[argument] = self.value(value, (*where, argument), None if name is None else (*name, argument))
        beside = [word for word in BESIDE.get(role, ()) if word in raw]
        for word in beside:
            if word in arguments:
                self.report("duplicate-key", (*key, word), f"given here and in {dotted(argument_key)}", "keep one of them")
            arguments[word] = self.value(raw[word], (*key, word), None)
        if reference is None:
            return None
        return PartSpec(role, reference, arguments, key, argument_key, reference_key, frozenset(beside))

    def reference(self, raw: Mapping[str, Any], key: Key, role: str, unknown: Mapping[str, str | None]) -> tuple[str | None, Key]:
        words = NAMES if role != "part" else NAMES[:1]
        given = [word for word in words if word in raw]
        if not given:
            if role in DEFAULTS and not set(words) & set(unknown.values()):
                return DEFAULTS[role], key
            if not set(words) & set(unknown.values()):
                example = {"model": "class_path: sklearn.linear_model.LogisticRegression", "part": "class_path: …"}.get(
                    role, f"name: {_EXAMPLES.get(role, '…')}"
                )
                self.report("missing-key", (*key, words[0] if role in ("model", "part") else "name"), "is missing", f"write {example}")
            return None, key
        if len(given) > 1:
            self.twice(raw, key, words, given)
        where = (*key, given[0])
        reference = raw[given[0]]
        if isinstance(reference, Mapping):
            hint = "a choice between parts stands in arguments: {type: categorical, choices: [{class_path: …}, …]}"
            self.report("bad-value", where, "a mapping is not the name of a part", hint, "value")
        elif not isinstance(reference, str) or not _REFERENCE.match(reference):
            self.report(
                "bad-value", where, f"{_shown(reference)} is not the name of a part", "write a registered name or a dotted path", "value"
            )
        else:
            return reference, where
        return None, where

    def twice(self, raw: Mapping[str, Any], key: Key, words: Sequence[str], given: Sequence[str]) -> None:
        """Synonyms of one thing: the later ones in the file are the mistakes."""
        first, *others = [word for word in raw if word in given]
        for word in others:
            what = f"{first} and {word} are synonyms"
            self.report("duplicate-key", (*key, word), what, f"keep one of {', '.join(words)}" if len(words) > 2 else "keep one of them")

    def value(self, raw: Any, key: Key, name: tuple[str, ...] | None, *, required: bool = False) -> Any:
        """What stands for a value in arguments. `required`: it stands where nothing can be left out."""
        if isinstance(raw, list):
            return self.items(raw, key, name)
        if not isinstance(raw, Mapping):
            return raw
        if len(raw) == 1 and "literal" in raw:
            return raw["literal"]
        if "class_path" in raw:
            unknown = self.unknown(raw, (NAMES[0], *ARGUMENTS), key)
            return self.part(raw, key, "part", name, unknown=unknown)
        wrong = next(
            (word for word in raw if isinstance(word, str) and isinstance(raw[word], str) and _ratio(word, "class_path") >= 0.8), None
        )
        if wrong is not None:
            self.report("unknown-key", (*key, wrong), "unknown key", "did you mean class_path?", suggestion="class_path")
            return None
        if _range_like(raw):
            return self.range(raw, key, name, required=required)
        return {word: self.value(value, (*key, word), None if name is None else (*name, str(word))) for word, value in raw.items()}

    def items(self, raw: Sequence[Any], key: Key, name: tuple[str, ...] | None) -> list[Any]:
        items: list[Any] = []
        names: dict[str, int] = {}
        for index, item in enumerate(raw):
            where = (*key, index)
            word = _named_word(item)
            if word is not None:
                named = self.item(item, where, word, name, names)
                items.append(named)
                if named is not None:
                    if named.name in names:
                        line = self.document.mark((*key, names[named.name], "name"))[0]
                        self.report(
                            "duplicate-value", (*where, "name"), f"{named.name} names two items", f"the other is on line {line}", "value"
                        )
                    names.setdefault(named.name, index)
                continue
            wrong = _misspelt_word(item)
            if wrong is not None:
                key_of_wrong, meant = wrong
                self.report("unknown-key", (*where, key_of_wrong), "unknown key", f"did you mean {meant}?", suggestion=meant)
                continue
            inner = name
            if name is not None and isinstance(item, Mapping) and isinstance(item.get("class_path"), str):
                inner = (*name, _short(item["class_path"]))
            items.append(self.value(item, where, inner, required=True))
        return items

    def item(self, item: Mapping[str, Any], key: Key, word: str, name: tuple[str, ...] | None, names: Mapping[str, int]) -> Named | None:
        """{name, estimator}, {name, transformer, columns}, or {class_path, params, columns} with or without a name."""
        inline = word == "class_path"
        unknown = self.unknown(item, ("name", "columns", *((word, *ARGUMENTS) if inline else (word,))), key)
        given = item.get("name")
        if inline and given is None and isinstance(item["class_path"], str):
            given = _short(item["class_path"]).lower()
            same, number = given, 1
            while given in names:
                number += 1
                given = f"{same}-{number}"
        if not isinstance(given, str) or not given:
            if "name" not in unknown.values():
                slug, what = ("missing-key", "is missing") if given is None else ("bad-value", f"{given!r} is not a name")
                self.report(slug, (*key, "name"), what, "give the item a name", "key" if given is None else "value")
            given = None
        outer = None if name is None else (*name[:-1], given or "")
        if inline:
            part = {each: value for each, value in item.items() if each not in ("name", "columns")}
            value: Any = self.part(part, key, "part", outer, unknown=unknown)
        elif isinstance(item[word], Mapping):
            if "class_path" in item[word] or _range_like(item[word]):
                value = self.value(item[word], (*key, word), outer, required=True)
            else:
                wrong = self.unknown(item[word], (NAMES[0], *ARGUMENTS), (*key, word))
                value = self.part(item[word], (*key, word), "part", outer, unknown=wrong)
        else:
            value = item[word]
            if value is not None and value not in ("passthrough", "drop"):
                self.report("bad-value", (*key, word), f"{_shown(value)} is not a part", f"write {word}: {{class_path: …}}", "value")
        columns = MISSING
        if "columns" in item:
            columns = self.value(item["columns"], (*key, "columns"), None if outer is None else (*outer, "columns"), required=True)
        return None if given is None else Named(given, value, columns, key, word)

    # ranges

    def range(self, raw: Mapping[str, Any], key: Key, name: tuple[str, ...] | None, *, required: bool) -> Any:
        if name is None:
            if {"low", "high", "choices"} & set(raw):
                hint = "ranges stand in model.hyperparameters and preprocessor.params; {literal: {…}} passes a mapping as it is"
                self.report("ignored-range", key, "a range here would be ignored", hint)
            return dict(raw)
        kind = raw.get("type")
        if kind not in RANGE_TYPES:
            return self.wrong_type(raw, key)
        before = len(self.problems)
        unknown = self.unknown(raw, _RANGE_KEYS[kind], key)
        full = self.unique(name)
        if kind == "categorical":
            found = self.categorical(raw, key, name, full, unknown, required)
        else:
            found = self.numeric(raw, key, kind, full, unknown, required)
        return found if len(self.problems) == before else None

    def wrong_type(self, raw: Mapping[str, Any], key: Key) -> None:
        if "type" in raw:
            near = nearest(str(raw["type"]), RANGE_TYPES)
            hint = f"did you mean {near}?" if near else "{literal: {…}} passes a mapping as it is"
            what = f"{_shown(raw['type'])} is not one of {', '.join(RANGE_TYPES)}"
            self.report("bad-value", (*key, "type"), what, hint, "value", near)
        else:
            wrong = next(word for word in raw if word not in _ALL_RANGE_KEYS)
            self.report("unknown-key", (*key, wrong), "unknown key", "did you mean type?", suggestion="type")

    def categorical(
        self, raw: Mapping[str, Any], key: Key, name: tuple[str, ...], full: str, unknown: Mapping[str, str | None], required: bool
    ) -> Range | None:
        written = raw.get("choices")
        where = (*key, "choices")
        if not isinstance(written, list) or not written:
            if "choices" not in unknown.values():
                slug = "missing-key" if "choices" not in raw else "bad-value"
                self.report(
                    slug, where, "a list of choices is expected", "write choices: [a, b]", "key" if "choices" not in raw else "value"
                )
            return None
        choices: list[Any] = []
        labels: list[str] = []
        for index, choice in enumerate(written):
            if isinstance(choice, Mapping) and "class_path" not in choice and "literal" not in choice and _range_like(choice):
                self.report("bad-value", (*where, index), "a range is not a choice", "write it as a range of its own")
                continue
            inner = name
            if isinstance(choice, Mapping) and isinstance(choice.get("class_path"), str):
                label = _label_of(choice["class_path"], labels)
                labels.append(label)
                inner = (*name, label)
            value = self.value(choice, (*where, index), inner)
            if any(_same(value, other) for other in choices):
                self.report("duplicate-value", (*where, index), f"{_shown(choice)} is a choice twice", "keep one of them", "value")
            choices.append(value)
        default = raw.get("default", MISSING)
        if isinstance(default, (Mapping, list)) and default in written:
            default = choices[written.index(default)] if len(choices) == len(written) else MISSING
        found = Range("categorical", key, full, choices=tuple(choices), default=default, required=required)
        if default is not MISSING and found.index_of(default) is None and (labels or isinstance(default, Mapping)):
            hint = did_you_mean(str(default), [str(label) for label in found.labels])
            self.report(
                "bad-value", (*key, "default"), f"{_shown(default)} is not one of the choices", hint, "value", nearest(str(default), labels)
            )
        return found

    def numeric(
        self, raw: Mapping[str, Any], key: Key, kind: str, full: str, unknown: Mapping[str, str | None], required: bool
    ) -> Range | None:
        numbers: dict[str, Any] = {}
        for word in ("low", "high", "step"):
            value = raw.get(word)
            if value is None:
                if word != "step" and word not in unknown.values():
                    hint = f"write {word}: a number; {{literal: {{…}}}} passes a mapping as it is"
                    self.report("missing-key", (*key, word), "is missing", hint)
            elif not _is_number(value, kind):
                self.report(
                    "bad-value", (*key, word), f"{_shown(value)} is not {'a whole' if kind == 'int' else 'a finite'} number", at="value"
                )
            else:
                numbers[word] = value
        log = raw.get("log", False)
        if not isinstance(log, bool):
            self.report("bad-value", (*key, "log"), f"{_shown(log)} is not true or false", at="value")
            log = False
        low, high, step = (numbers.get(word) for word in ("low", "high", "step"))
        if low is not None and high is not None and low >= high:
            self.report("bad-value", (*key, "low"), f"low {low} is not less than high {high}", "exchange or correct them", "value")
        elif step is not None and not 0 < step <= ((high if high is not None else math.inf) - (low or 0)):
            self.report("bad-value", (*key, "step"), f"step {step} does not fit between low and high", "it must be more than 0", "value")
        if log and low is not None and low <= 0:
            self.report("bad-value", (*key, "low"), f"log needs low > 0, not {low}", "raise low, or remove log", "value")
        if log and step is not None:
            self.report("bad-value", (*key, "step"), "step and log exclude each other", "remove one of them")
        default = raw.get("default", MISSING)
        if default is not MISSING and isinstance(default, (list, Mapping)):
            self.report("bad-value", (*key, "default"), f"{_shown(default)} is not a number", at="value")
        if required and default is MISSING:
            self.report("missing-key", (*key, "default"), "an item of a list cannot be left out", "give the range a default")
        if low is None or high is None:
            return None
        return Range("int" if kind == "int" else "float", key, full, low, high, step, log, (), default, required)

    def unique(self, name: tuple[str, ...]) -> str:
        """The name of a range; what would be a second one of that name is counted from 2."""
        full, number = ".".join(name), 1
        unique = full
        while unique in self.taken:
            number += 1
            unique = f"{full}_{number}"
        self.taken.add(unique)
        return unique

    # keys

    def section(self, data: Mapping[str, Any], name: str, key: Key, *, required: bool = False) -> Mapping[str, Any] | None:
        """A mapping inside `data`; None where it is absent, empty (a null section is an empty one) or wrong."""
        where = (*key, name)
        value = data.get(name)
        if value is None:
            if required:
                example = {"loader": "loader: {name: default_loader, source_uri: …}", "data_interface": "data_interface: {task_type: …}"}
                hint = f"write {example.get(name, f'{name}: …')}"
                self.report("missing-key", where, "is missing", hint)
            return None
        if not isinstance(value, Mapping):
            hint = {"validation": "write {method: …}", "data_interface": "write {task_type: …}"}.get(name, "write it as keys and values")
            if name in ("loader", "augmenter", "preprocessor", "evaluator") and isinstance(value, str):
                hint = f"write {{name: {value}}}"
            self.report("bad-value", where, f"{_shown(value)} is not a mapping", hint, "value")
            return None
        return value

    def word(self, data: Mapping[str, Any], name: str, key: Key, example: str) -> str | None:
        """A required name."""
        value = data.get(name)
        if isinstance(value, str) and _REFERENCE.match(value):
            return value
        if name in data:
            self.report("bad-value", (*key, name), f"{_shown(value)} is not a name", f"write {name}: {example}", "value")
            return None
        near = next((word for word in data if isinstance(word, str) and _ratio(word, name) >= 0.7), None)
        if near is not None:
            self.report("unknown-key", (*key, near), "unknown key", f"did you mean {name}?", suggestion=name)
        else:
            self.report("missing-key", (*key, name), "is missing", f"write {name}: {example}")
        return None

    def named(self, name: Any, key: Key) -> bool:
        if isinstance(name, str):
            return True
        self.report("bad-key", (*key, name), f"{name!r} is not the name of an argument", "put arguments by name")
        return False

    def unknown(self, data: Mapping[str, Any], known: Sequence[str], key: Key) -> dict[str, str | None]:
        """Report the keys that the grammar does not have here; each with what it was probably meant to be."""
        wrong: dict[str, str | None] = {}
        for name in data:
            if name in known:
                continue
            where = (*key, name if isinstance(name, (str, int)) else str(name))
            homes = _HOMES.get(name, ()) if isinstance(name, str) else ()
            here = dotted(key) or "the top level"
            free = [word for word in known if word not in data]
            near = nearest(str(name), free) or nearest(str(name), known)
            if homes and not (near and _ratio(str(name), near) >= 0.9):
                home = homes[0]
                what = f"does not belong in {here}"
                hint = f"it stands in {' or '.join(homes)}" if home else "it stands at the top level"
                self.report("unknown-key", where, what, hint, suggestion=f"{home}.{name}" if home else str(name))
                wrong[str(name)] = None
                continue
            hint = did_you_mean(str(name), [near] if near else known)
            if near is None and ARGUMENTS[1] in known:
                hint = (
                    f"arguments of the part stand in {ARGUMENTS[0]}"
                    if key == ("model",)
                    else f"arguments of the part stand in {ARGUMENTS[1]}"
                )
            self.report("unknown-key", where, "unknown key", hint, suggestion=near)
            wrong[str(name)] = near
        return wrong


def json_schema() -> dict[str, Any]:
    """The grammar as JSON Schema (2020-12), for editors. What only the parts know (their arguments) is left open."""
    text = {"type": "string"}
    reference = {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_.:-]*$"}
    mapping = {"type": ["object", "null"]}
    arguments = dict.fromkeys(ARGUMENTS, mapping)

    def one(role: str, more: Mapping[str, Any]) -> dict[str, Any]:
        named = [{"required": [word]} for word in NAMES]
        anyhow = role in DEFAULTS
        body = {
            "type": ["object", "null"],
            "properties": {**dict.fromkeys(NAMES, reference), **arguments, **more},
            "additionalProperties": False,
        }
        return body if anyhow else {**body, "oneOf": named}

    loader = one("loader", {"source_uri": text})
    model = one(
        "model",
        {
            "loader": loader,
            "augmenter": one("augmenter", {"features": {"type": ["array", "null"]}}),
            "preprocessor": one("preprocessor", {}),
            "data_interface": {"type": "object", "properties": {"task_type": reference}, "required": ["task_type"]},
        },
    )
    tuning = Tuning.model_json_schema()
    tuning["properties"].pop("extra", None)
    pruning = tuning.pop("$defs")["Pruning"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "recipe",
        "type": "object",
        "properties": {
            "name": text,
            "seed": {"type": "integer", "minimum": 0, "exclusiveMaximum": 2**32, "default": 42},
            "model": {**model, "type": "object", "required": ["loader", "data_interface"]},
            # further keys are the task's
            "hyperparameter_tuning": {**tuning, "type": ["object", "null"], "additionalProperties": True},
            "evaluation": {
                "type": ["object", "null"],
                "properties": {
                    "metrics": {"type": "array", "items": text, "minItems": 1, "uniqueItems": True},
                    "validation": {"type": ["object", "null"], "properties": {"method": reference}, "required": ["method"]},
                    "evaluator": one("evaluator", {}),
                },
                "additionalProperties": False,
            },
        },
        "required": ["model"],
        "additionalProperties": False,
        "$defs": {"Pruning": pruning},
    }


# --- small things ------------------------------------------------------------------------------

_REFERENCE = re.compile(r"[A-Za-z_][\w.:\-]*\Z")
_EXAMPLES = {"augmenter": "pass_through", "evaluator": "tabular_evaluator"}
_HOMES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("seed", "hyperparameter_tuning", "evaluation", "model"), ("",)),
    **dict.fromkeys(MODEL, ("model",)),
    **dict.fromkeys(EVALUATION, ("evaluation",)),
    **dict.fromkeys(("n_trials", "direction", "pruning", "metric", "folds", "seeds_per_trial"), ("hyperparameter_tuning",)),
    **dict.fromkeys(("algorithm", "n_startup_trials", "n_warmup_steps"), ("hyperparameter_tuning.pruning",)),
    **dict.fromkeys(
        ("method", "test_size", "stratify", "stratify_on", "group_on", "time_on", "calibration_size"), ("evaluation.validation",)
    ),
    **dict.fromkeys(("task_type", "target_col", "entity_cols", "timestamp_col", "positive_class"), ("model.data_interface",)),
    "source_uri": ("model.loader",),
    "features": ("model.augmenter",),
    "hyperparameters": ("model",),
    "class_path": ("model",),
    "exclude_cols": ("model.preprocessor.params",),
}
"""Where the keys of the grammar stand, for one that stands elsewhere."""


def _ratio(word: str, known: str) -> float:
    return difflib.SequenceMatcher(None, word.lower().replace("-", "_"), known).ratio()


def _typo(word: str, known: Sequence[str]) -> bool:
    return any(_ratio(word, name) >= 0.75 for name in known)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _is_number(value: Any, kind: str) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return isinstance(value, int) if kind == "int" else math.isfinite(value)


def _range_like(raw: Mapping[str, Any]) -> bool:
    """A range, or what was surely meant to be one: its type or the word `type` misspelt, the rest a range's."""
    kind = raw.get("type")
    if isinstance(kind, str) and kind in RANGE_TYPES:
        return True
    bounded = bool({"low", "high", "choices"} & set(raw))
    if "type" in raw:
        return bounded and set(raw) <= set(_ALL_RANGE_KEYS)
    others = [word for word in raw if word not in _ALL_RANGE_KEYS]
    return (
        bounded and len(others) == 1 and raw[others[0]] in RANGE_TYPES and isinstance(others[0], str) and _ratio(others[0], "type") >= 0.5
    )


def _named_word(item: Any) -> str | None:
    """The word under which an item of a list names its part, where the item is one of scikit-learn's tuples."""
    if not isinstance(item, Mapping):
        return None
    if "class_path" in item:
        return "class_path" if "columns" in item else None
    for word in ("estimator", "transformer"):
        if word in item and set(item) & {"name", "columns"}:
            return word
    # the names misspelt: {nmae: rf, estimator: {class_path: …}}
    for word in ("estimator", "transformer"):
        inner = item.get(word)
        if len(item) > 1 and isinstance(inner, Mapping) and ("class_path" in inner or _range_like(inner)):
            return word
    return None


def _misspelt_word(item: Any) -> tuple[str, str] | None:
    """The key of {name: rf, estimatr: {class_path: …}} that was meant to be `estimator` or `transformer`, and which."""
    if isinstance(item, Mapping) and set(item) & {"name", "columns"}:
        for name, value in item.items():
            stands = isinstance(value, Mapping) and ("class_path" in value or _range_like(value))
            if isinstance(name, str) and (stands or (value in ("passthrough", "drop") and len(item) > 1)):
                meant = max(("estimator", "transformer"), key=lambda word: _ratio(name, word))
                if _ratio(name, meant) >= 0.75:
                    return name, meant
    return None


def _short(reference: str) -> str:
    """`RandomForestClassifier` of `sklearn.ensemble.RandomForestClassifier`."""
    return re.split(r"[.:]", reference)[-1] or reference


def _label_of(reference: str, taken: Sequence[str]) -> str:
    label = same = _short(reference)
    number = 1
    while label in taken:
        number += 1
        label = f"{same}_{number}"
    return label


def _label(choice: Any) -> Any:
    if isinstance(choice, PartSpec):
        return _short(choice.reference)
    if choice is None or isinstance(choice, (str, bool, int, float)):
        return choice
    return json.dumps(choice, default=str)


def _same(one: Any, other: Any) -> bool:
    """Equal and of one kind: 1, 1.0 and True are three choices."""
    return type(one) is type(other) and bool(one == other)


def _parts(value: Any) -> Iterator[PartSpec]:
    if isinstance(value, PartSpec):
        yield from value.parts()
    else:
        for inner in _inner(value):
            yield from _parts(inner)


def _ranges(value: Any) -> Iterator[Range]:
    if isinstance(value, Range):
        yield value
    if isinstance(value, PartSpec):
        yield from value.ranges()
    else:
        for inner in _inner(value):
            yield from _ranges(inner)


def _inner(value: Any) -> Sequence[Any]:
    if isinstance(value, Named):
        return (value.value, value.columns)
    if isinstance(value, Range):
        return value.choices
    if isinstance(value, Mapping):
        return tuple(value.values())
    return value if isinstance(value, list) else ()


def _filled(value: Any, values: Values) -> Any:
    if isinstance(value, Range):
        picked = value.pick(values)
        return _filled(picked, values) if isinstance(picked, (PartSpec, Mapping, list)) else picked
    if isinstance(value, PartSpec):
        return value.filled(values)
    if isinstance(value, Named):
        return replace(value, value=_filled(value.value, values), columns=_filled(value.columns, values))
    if isinstance(value, Mapping):
        filled = {name: _filled(inner, values) for name, inner in value.items()}
        return {name: inner for name, inner in filled.items() if inner is not MISSING}
    if isinstance(value, list):
        return [_filled(inner, values) for inner in value]
    return value


def _resolved(raw: Any, key: Key, ranges: Mapping[Key, Range], values: Values) -> Any:
    found = ranges.get(key)
    if found is not None:
        picked = found.pick(values)
        if picked is MISSING:
            return MISSING
        index = found.index_of(picked) if found.type == "categorical" else None
        if index is None:
            return picked
        return _resolved(raw["choices"][index], (*key, "choices", index), ranges, values)
    if isinstance(raw, Mapping):
        filled = {name: _resolved(value, (*key, name), ranges, values) for name, value in raw.items()}
        return {name: value for name, value in filled.items() if value is not MISSING}
    if isinstance(raw, list):
        return [_resolved(value, (*key, index), ranges, values) for index, value in enumerate(raw)]
    return raw
