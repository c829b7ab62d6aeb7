"""Recipe and configuration to components: names become classes, arguments are compared with what these take, then all is built.

`check` says every mistake that needs the classes, together with those that the recipe's reader found, before any data is
read. `assemble` builds: nothing of what it returns has read anything yet.

What the engine supplies itself, to any part whose constructor asks for it, and no recipe may write:

    places              `stores.places.Places`: where the data of this recipe are
    context_params      the values of `--context-params`
    interface           `model.data_interface` as the recipe writes it
    registered_metrics  the metrics of the group `recipeline.metric` that the recipe names, for evaluators that can report any
    validation          the arguments of `evaluation.validation`, for evaluators that do themselves what the method asks for

An argument that a class names in `factories` is not given the part that the recipe writes there, but a function that builds it
anew at every call: for what is needed in copies, as environments are.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from recipeline import boosters, logs, registry, signatures
from recipeline.contracts import Placed, takes_context
from recipeline.document import validation_problems
from recipeline.errors import Key, MissingLibrary, Problem, RecipeError, RecipelineError, did_you_mean, dotted, nearest
from recipeline.recipe import MISSING, TUNING, Draft, Named, PartSpec, Range, Recipe, Values
from recipeline.registry import AllowList

if TYPE_CHECKING:
    from recipeline.contracts import Metric
    from recipeline.settings import Settings
    from recipeline.stores.places import Places

log = logging.getLogger("recipeline")

ENGINE = ("places", "context_params", "interface", "registered_metrics", "validation")
SEEDED = ("model", "preprocessor", "splitter", "part")
INTERFACE: Key = ("model", "data_interface")
METRICS: Key = ("evaluation", "metrics")
DEFAULT_PREPROCESSOR = "default_preprocessor"
BUILTIN_ADAPTERS = ("SqlAdapter", "StorageAdapter")  # `Places` builds these two itself: it adds the project and its roots
NOTHING: Mapping[str, Any] = MappingProxyType({})


def allow_list(settings: Settings) -> AllowList:
    """The packages that a recipe may name: the configuration's and those of installed plugins."""
    return AllowList.of(settings.security.allowed_namespaces)


def check(recipe: Draft | Recipe, settings: Settings, *, fast: bool = False) -> list[Problem]:
    """Every mistake of a recipe, sorted by line; no data is read.

    Imports only what the recipe names; with `fast` nothing of it: names and the allow-list are compared as text.
    """
    return list(examine(recipe, settings, fast=fast).problems)


@dataclass(frozen=True)
class Findings:
    """What can be said of a recipe before any data are read.

    problems    sorted by line
    parameters  what its source reads from `--context-params`: name -> whether it cannot do without it
    """

    problems: tuple[Problem, ...]
    parameters: Mapping[str, bool]


def examine(recipe: Draft | Recipe, settings: Settings, *, fast: bool = False, params: Mapping[str, Any] | None = None) -> Findings:
    """As `check`, and what parameters the source of the recipe has.

    params  values of `--context-params`: where they are given, the query made of them is checked as well
    """
    work = _Assembly(recipe if isinstance(recipe, Draft) else recipe.draft(), settings)
    parameters: Mapping[str, bool] = NOTHING
    if fast:
        work.look()
    else:
        work.inspect()
        if not work.problems:
            try:
                work.components(params or NOTHING)
            except RecipeError as error:
                work.problems += map(work.located, error.problems)
        parameters = work.parameters(params)
    return Findings(tuple(sorted(dict.fromkeys(work.problems), key=lambda p: (p.file, p.line, p.column, p.slug))), parameters)


def assemble(recipe: Recipe, settings: Settings, *, params: Mapping[str, Any] = NOTHING, kept: Path | None = None) -> Components:
    """Look up, check and build everything that a recipe names.

    params  the values of `--context-params`, handed to parts that ask for `context_params`
    kept    the folder in which an artifact keeps the queries of its run: they are read instead of the project's

    Raises RecipeError with every mistake at once, MissingLibrary where an optional library is all that is missing.
    """
    logs.register_secret(*settings.secrets())
    work = _Assembly(recipe.draft(), settings, kept)
    work.inspect()
    if work.problems:
        if work.missing is not None and len(work.problems) == 1:
            (problem,) = work.problems
            work.missing.where = f"{problem.file}:{problem.line}:{problem.column}: {dotted(problem.key)}" if problem.line else problem.file
            raise work.missing
        raise RecipeError(work.problems)
    try:
        components = work.components(params)
    except RecipeError as error:
        raise RecipeError([work.located(problem) for problem in error.problems]) from error
    work.warn(params)
    return components


@dataclass(frozen=True)
class Components:
    """What a recipe becomes: objects ready to read, split, fit and judge.

    metrics       those asked for, else the task's default
    tuned_metric  what the search optimises; None where tuning is off in the recipe or in the configuration
    space         the ranges to search; empty where tuning is off
    params        the values of `--context-params`
    allow         the packages that classes may come from
    """

    recipe: Recipe
    settings: Settings
    task: Any
    loader: Any
    augmenter: Any
    splitter: Any
    evaluator: Any
    metrics: tuple[Metric, ...]
    tuned_metric: Metric | None
    space: tuple[Range, ...]
    params: Mapping[str, Any]
    allow: AllowList
    _work: _Assembly = field(repr=False, compare=False)

    def pipeline(self, values: Values = NOTHING) -> tuple[Any, Any]:
        """A fresh, unfitted (preprocessor or None, model).

        Ranges take their value from `values`, else their default, else the constructor's own.
        """
        preprocessor = self._work.preprocessor
        model = self._work.draft.model
        assert model is not None
        return (
            None if preprocessor is None else self._work.build(preprocessor, self.params, values),
            self._work.build(model, self.params, values),
        )

    @property
    def places(self) -> Places:
        """Where addresses of this recipe are looked up."""
        return self._work.places

    def roots(self) -> tuple[PartSpec, ...]:
        """The parts at the places of the grammar, the defaults of the task included."""
        work = self._work
        named = (work.draft.model, work.draft.loader, work.draft.augmenter, work.preprocessor, work.splitter, work.evaluator)
        return tuple(spec for spec in named if spec is not None)

    def settle(self, pipeline: Any) -> Any:
        """The same pipeline, read from an artifact, its parts told what the configuration of today says (`contracts.Placed`)."""
        for role, spec in (("preprocessor", self._work.preprocessor), ("model", self._work.draft.model)):
            part = getattr(pipeline, role)
            if spec is not None and isinstance(part, Placed):
                part.settle(**self._work.of_the_place(spec, part))
        return pipeline

    def signature(self, spec: PartSpec) -> signatures.Signature:
        """The constructor arguments of a part of this recipe."""
        return signatures.signature(self._work.find(spec.role, spec.reference, spec.reference_key))

    def seeded(self, spec: PartSpec) -> bool:
        """Whether a part gets the seed of the recipe as its `random_state`."""
        made = self._work.find(spec.role, spec.reference, spec.reference_key)
        given = {**self._work.configured(spec), **spec.arguments}
        return spec.role in SEEDED and _unseeded(made, signatures.signature(made), given)

    def added(self, spec: PartSpec) -> dict[str, Any]:
        """Arguments that a part gets from the engine, where the recipe leaves them out (`boosters.supplied`)."""
        made = self._work.find(spec.role, spec.reference, spec.reference_key)
        takes = signatures.signature(made)
        return boosters.supplied(made, {takes.meaning(name) for name in (*self._work.configured(spec), *spec.arguments)})

    def defaults(self) -> dict[str, Any]:
        """What `pipeline({})` takes for each range, by its name: trial 0. A chosen part is told by its label."""
        found: dict[str, Any] = {}
        for spec in (self._work.draft.model, self._work.preprocessor):
            if spec is not None:
                found |= self._work.defaults(spec)
        return found

    def find(self, path: str) -> type:
        """The class that a saved artifact names by its dotted path, or its refusal."""
        return registry.resolve(path, self.allow)


class _Assembly:
    """One recipe with its classes: each is looked up once, by role and reference."""

    def __init__(self, draft: Draft, settings: Settings, kept: Path | None = None) -> None:
        self.draft, self.settings, self.kept = draft, settings, kept
        self.allow = allow_list(settings)
        self.problems: list[Problem] = list(draft.problems)
        self.missing: MissingLibrary | None = None
        self.classes: dict[tuple[str, str], type | None] = {}
        self.given: dict[tuple[str, str], Mapping[str, Any]] = {}  # by the configuration
        self.task: Any = None  # the class
        self.interface: Any = None  # the validated model

    # --- problems ---

    def located(self, problem: Problem) -> Problem:
        return problem if problem.file else self.draft.document.locate(problem)

    def report(
        self, slug: str, key: Key, message: str, hint: str = "", at: str = "key", suggestion: str | None = None, exit_code: int = 3
    ) -> None:
        self.problems.append(self.located(Problem(slug, key, message, hint, at, suggestion, exit_code=exit_code)))

    # --- names ---

    def look(self) -> None:
        """The mistakes that names show as text."""
        for spec in self.draft.specs():
            self.refuse_here(spec)
            problem = registry.check(spec.role, spec.reference, self.allow)
            if problem:
                self.problems.append(self.located(replace(problem, key=spec.reference_key)))
        if self.draft.task_type is not None:
            problem = registry.check("task", self.draft.task_type, self.allow)
            if problem:
                self.problems.append(self.located(replace(problem, key=(*INTERFACE, "task_type"))))

    def find(self, role: str, reference: str, key: Key) -> Any:
        """The class, or None when it was reported why there is none."""
        if (role, reference) not in self.classes:
            try:
                self.classes[role, reference] = registry.find(role, reference, self.allow)
            except RecipeError as error:
                self.classes[role, reference] = None
                self.problems += [self.located(replace(problem, key=key)) for problem in error.problems]
            except MissingLibrary as error:
                self.classes[role, reference] = None
                self.missing = error
                self.report(error.slug, key, error.message, error.hint, "value")
        return self.classes[role, reference]

    def refuse_here(self, spec: PartSpec) -> None:
        """LOCAL needs no outside service, so it has no feature store."""
        local = self.settings.environment == "local" and not self.settings.feature_store.enabled
        if local and spec.role == "augmenter" and spec.reference == "feature_store":
            hint = "run with APP_ENV=dev or prod, or set feature_store.enabled: true for file and SQLite stores (pass_through adds nothing)"
            self.report("not-in-local", spec.reference_key, "feature_store is switched off in LOCAL", hint, "value")

    # --- the whole recipe ---

    def inspect(self) -> None:
        """Every mistake that the classes show."""
        draft = self.draft
        for spec in draft.roots():
            self.refuse_here(spec)
            self.part(spec, None)
        if draft.task_type is None:
            return
        self.task = self.find("task", draft.task_type, (*INTERFACE, "task_type"))
        if self.task is None:
            return
        self.check_interface()
        for default in (self.preprocessor, self.splitter, self.evaluator):
            if default is not None and default not in draft.roots():
                self.part(default, None)
        self.check_model()
        self.check_unsearched()
        self.check_agreement()
        self.check_tuning_keys()
        self.check_metrics()

    def check_model(self) -> None:
        """Whether the model is one that the task can fit (`Task.suits`)."""
        model, suits = self.draft.model, getattr(self.task, "suits", None)
        made = None if model is None else self.classes.get((model.role, model.reference))
        if model is None or made is None or suits is None:
            return
        if problem := suits(made):
            self.problems.append(self.located(replace(problem, key=model.reference_key)))

    def check_unsearched(self) -> None:
        """Arguments of the model that the task must know before the data are cut (`Task.unsearched`)."""
        arguments = self.draft.model.arguments if self.draft.model is not None else NOTHING
        for name in getattr(self.task, "unsearched", ()):
            if isinstance(arguments.get(name), Range):
                what = f"{name} decides how the data are cut for {self.draft.task_type}, so it cannot be searched"
                self.report("not-searchable", arguments[name].key, what, "write one value")

    def check_agreement(self) -> None:
        """What model and loader must have in common (`Task.agree`), which neither of them can know alone."""
        agree, model, loader = getattr(self.task, "agree", None), self.draft.model, self.draft.loader
        if agree is None or model is None or loader is None:
            return
        for problem in agree(_arguments(model), _arguments(loader)):
            role, *rest = problem.key
            spec = model if role == "model" else loader
            self.problems.append(self.located(replace(problem, key=(*spec.key_of(str(rest[0])), *rest[1:]))))

    @property
    def preprocessor(self) -> PartSpec | None:
        """The recipe's, else the task's default; a task that works on raw rows says `preprocessor = None`."""
        if self.draft.preprocessor is not None:
            return self.draft.preprocessor
        name = getattr(self.task, "preprocessor", DEFAULT_PREPROCESSOR)
        return None if name is None else _default("preprocessor", name, ("model", "preprocessor"))

    @property
    def splitter(self) -> PartSpec:
        return self.draft.validation or _default("splitter", self.task.splitter, ("evaluation", "validation"))

    @property
    def evaluator(self) -> PartSpec:
        return self.draft.evaluator or _default("evaluator", self.task.evaluator, ("evaluation", "evaluator"))

    def check_interface(self) -> None:
        from pydantic import ValidationError

        model = self.task.Interface
        written = dict(self.draft.interface or {})
        if "task_type" not in model.model_fields:
            written.pop("task_type", None)
        try:
            self.interface = model.model_validate(written)
        except ValidationError as error:
            found = validation_problems(error, written, INTERFACE, model)
            meant = {(*problem.key[:-1], problem.suggestion) for problem in found if problem.slug == "unknown-key"}
            self.problems += [self.located(problem) for problem in found if problem.slug != "missing-key" or problem.key not in meant]
        else:
            self.ask(self.task, PartSpec("task", str(self.draft.task_type), written, INTERFACE, INTERFACE), NOTHING)

    def check_tuning_keys(self) -> None:
        """Keys of hyperparameter_tuning that nothing would use."""
        tuning, model = self.draft.tuning, self.draft.model
        if tuning is None:
            return
        key: Key = ("hyperparameter_tuning",)
        for name in tuning.extra:
            self.report("unknown-key", (*key, name), "unknown key", did_you_mean(name, TUNING), suggestion=nearest(name, TUNING))
        made = None if model is None else self.classes.get((model.role, model.reference))
        if tuning.seeds_per_trial > 1 and made is not None and not takes_context(made):
            what = f"{made.__name__} does not take its seed from the engine, so every repetition would be the same"
            self.report("ignored-key", (*key, "seeds_per_trial"), what, "remove it")

    # --- metrics ---

    def measures(self) -> tuple[Metric, ...] | None:
        """What the evaluator can report for this task; None while the evaluator itself is wrong."""
        spec = self.evaluator
        made = self.classes.get(("evaluator", spec.reference))
        if made is None or any(problem.key[: len(spec.key)] == spec.key for problem in self.problems):
            return None
        try:
            reported = tuple(self.build(spec, NOTHING, NOTHING).measures)
        except RecipeError as error:
            self.problems += map(self.located, error.problems)
            return None
        if spec.reference == self.task.evaluator:  # it reports for several tasks; this one knows which of them make sense, and their order
            names = {metric.name for metric in reported}
            brought = [metric for metric in self.registered_metrics() if metric.name in names]
            return (*(metric for metric in self.task.metrics if metric.name in names), *brought)
        return reported

    def registered_metrics(self) -> tuple[Metric, ...]:
        """Metrics of plugins that this recipe names and the task does not have itself."""
        tuning = self.draft.tuning
        places: dict[str, Key] = {name: (*METRICS, index) for index, name in enumerate(self.draft.metrics or ())}
        if tuning is not None and tuning.metric:
            places.setdefault(tuning.metric, ("hyperparameter_tuning", "metric"))
        own = {word for metric in self.task.metrics for word in (metric.name, *metric.aliases)}
        found = [self.find("metric", name, key) for name, key in places.items() if name not in own and registry.entries("metric", name)]
        return tuple(metric for metric in found if metric is not None)

    def metric(self, name: str, measures: Sequence[Metric], key: Key) -> Metric | None:
        for metric in measures:
            if name == metric.name or name in metric.aliases:
                return metric
        names = [metric.name for metric in measures]
        others = [other for other, known in self.other_tasks() if name in known]
        own = {word for metric in self.task.metrics for word in (metric.name, *metric.aliases)}
        if name in own or registry.entries("metric", name):
            what = f"{self.evaluator.reference} reports the metrics that it announces, and {name} is none of them"
            self.report("wrong-metric", key, what, f"use one of {', '.join(names)}", "value")
        elif others:
            what = f"{name} is a metric of {' and '.join(others)}, not of {self.draft.task_type}"
            self.report("wrong-metric", key, what, f"use one of {', '.join(names)}", "value")
        else:
            aliases = [alias for metric in measures for alias in metric.aliases]
            near = nearest(name, names) or nearest(name, aliases)
            hint = (f"did you mean {near}? " if near else "") + f"known: {', '.join(names)}"
            self.report("unknown-metric", key, f"no metric is called {name}", hint, "value", near)
        return None

    def other_tasks(self) -> Iterator[tuple[str, set[str]]]:
        """Metrics of the built-in tasks that are not this one's: only asked once a metric is wrong."""
        for entry in registry.entries("task"):
            if entry.distribution == "recipeline" and entry.name != self.draft.task_type:
                made = entry.load()
                yield entry.name, {word for metric in made.metrics for word in (metric.name, *metric.aliases)}

    def check_metrics(self) -> None:
        measures = self.measures()
        if measures is None:
            return
        if not measures:
            spec = self.evaluator
            self.report("no-metric", spec.reference_key, f"{spec.reference} reports nothing", "its `measures` must name a metric", "value")
            return
        asked: list[Metric] = []
        for index, name in enumerate(self.draft.metrics or ()):
            found = self.metric(name, measures, (*METRICS, index))
            if found and found in asked:
                self.report("duplicate-value", (*METRICS, index), f"{name} is {found.name}, asked for before", "keep one of them", "value")
            elif found:
                asked.append(found)
        tuning = self.draft.tuning
        if tuning is None:
            return
        key: Key = ("hyperparameter_tuning",)
        tuned = self.metric(tuning.metric, measures, (*key, "metric")) if tuning.metric else measures[0]
        if tuned and tuning.direction and tuning.direction != tuned.direction:
            hint = f"write direction: {tuned.direction}, or leave it out"
            what = f"{tuned.name} is better when it is {'larger' if tuned.direction == 'maximize' else 'smaller'}"
            self.report("wrong-direction", (*key, "direction"), what, hint, "value", tuned.direction)

    def metric_called(self, name: str, measures: Sequence[Metric]) -> Metric:
        return next(metric for metric in measures if name == metric.name or name in metric.aliases)

    # --- one part ---

    def configured(self, spec: PartSpec) -> Mapping[str, Any]:
        """Arguments that the configuration gives to a registered part, wherever it is nested."""
        named = (spec.role, spec.reference)
        if named not in self.given:
            entry = registry.entry(*named)
            self.given[named] = NOTHING if entry is None else self.settings.part(entry.role, entry.name)
        return self.given[named]

    def of_the_place(self, spec: PartSpec, part: Placed) -> dict[str, Any]:
        """What the configuration, and not the recipe, gives to a part."""
        given = {name: value for name, value in self.configured(spec).items() if name in part.placed}
        return given | ({"places": self.places} if "places" in signatures.signature(type(part)).names else {})

    def part(self, spec: PartSpec, parent: type | None) -> None:
        """Check one part and every part inside its arguments."""
        made = self.find(spec.role, spec.reference, spec.reference_key or spec.key)
        for inner in _direct(spec.arguments.values()):
            self.part(inner, made)
        if made is None:
            return
        before = len(self.problems)
        takes = signatures.signature(made)
        try:
            configured = self.configured(spec)
        except RecipeError as error:  # a variable of the environment that is not set
            self.problems += error.problems
            return
        self.check_names(spec, takes, configured)
        for name, value in spec.arguments.items():
            word = takes.meaning(name)
            if value and (unusable := boosters.unusable(made, word, nested=spec.role != "model", held_back=self.holds_rows_back())):
                why, instead = unusable
                self.report("unusable-argument", spec.key_of(name), f"{takes.owner} cannot use {name}: {why}", instead)
            elif takes.accepts(name):
                self.check_value(made, takes.meaning(name), value, spec.key_of(name))
        foreign = parent is not None and hasattr(parent, "fit") and not takes_context(parent)
        if parent is not None and foreign and hasattr(made, "fit") and takes_context(made):
            what = f"{made.__name__} needs the engine's context while it is fitted, and {parent.__name__} does not pass it on"
            self.report("context-lost", spec.reference_key, what, "use it as the model itself", "value")
        if len(self.problems) == before:
            self.ask(made, spec, configured)

    def holds_rows_back(self) -> bool:
        """Whether the validation method keeps rows of the training side from fitting; one that cannot be told by a number may."""
        spec = self.draft.validation
        made = None if spec is None else self.find("splitter", spec.reference, spec.reference_key)
        if spec is None or made is None:
            return False
        return bool(spec.arguments.get("calibration_size")) or "calibration_size" not in signatures.signature(made).names

    def check_names(self, spec: PartSpec, takes: signatures.Signature, configured: Mapping[str, Any]) -> None:
        made = self.classes.get((spec.role, spec.reference))
        placed = tuple(getattr(made, "placed", ()))
        visible = [name for name in (*takes.names, *takes.aliases) if name not in (*ENGINE, *placed)]
        given: dict[str, str] = {}
        for name in spec.arguments:
            key = spec.key_of(name)
            if name in ENGINE and name in takes.names:
                self.report("unknown-key", key, f"the engine itself supplies {name}", "remove it")
            elif name in placed:
                hint = f"write it in the configuration, under parts.{spec.role}.{spec.reference}"
                self.report("not-in-recipe", key, f"{name} belongs to the place, not to the recipe", hint)
            elif not takes.accepts(name):
                what = f"{takes.owner} has no such argument"
                self.report("unknown-key", key, what, did_you_mean(name, visible), suggestion=nearest(name, visible))
            elif takes.meaning(name) in given:
                self.report("duplicate-key", key, f"{given[takes.meaning(name)]} and {name} are one argument", "keep one of them")
            elif name in configured:
                self.report("given-twice", key, f"the configuration gives {name} too (parts.*.{spec.reference}.{name})", "keep one of them")
            given.setdefault(takes.meaning(name), name)
        for name in configured:
            if not takes.accepts(name) or name in ENGINE:
                entry = registry.entry(spec.role, spec.reference)
                assert entry is not None
                where = ("parts", entry.role, entry.name, name)
                what, near = f"{takes.owner} has no such argument", nearest(name, visible)
                problem = Problem("unknown-key", where, what, did_you_mean(name, visible), suggestion=near)
                self.problems.append(self.settings.locate(problem))
        for name in takes.required:
            if name not in given and name not in configured and name not in ENGINE:
                near = next((word for word in spec.arguments if not takes.accepts(word) and nearest(word, visible) == name), None)
                if near is None and not self.misspelt(spec, name):  # a misspelt name was reported already
                    self.report("missing-key", spec.key_of(name), f"{takes.owner} needs {name}", f"add {name}: …")

    def misspelt(self, spec: PartSpec, name: str) -> bool:
        """Whether the reader of the recipe found a key of this part that was meant to be `name`."""
        return any(problem.suggestion == name and problem.key[:-1] == spec.key for problem in self.problems)

    def check_value(self, made: type, name: str, value: Any, key: Key) -> None:
        if isinstance(value, Range):
            ends = (("low", value.low), ("high", value.high), ("default", value.default))
            for word, end in ends:
                if end is not MISSING and end is not None:
                    number = float(end) if value.type == "float" and isinstance(end, int) and not isinstance(end, bool) else end
                    self.check_value(made, name, number, (*value.key, word))
            for index, choice in enumerate(value.choices):
                self.check_value(made, name, choice, (*value.key, "choices", index))
            return
        if isinstance(value, Sequence) and not isinstance(value, str) and any(isinstance(item, Named) for item in value):
            self.check_items(made, value, key)
            return
        if isinstance(value, PartSpec):
            inner = self.classes.get((value.role, value.reference))
            wrong = signatures.complaint_of_part(made, name, inner) if inner is not None else None
            if wrong:
                what = f"{value.reference} is nothing that {made.__name__} takes for {name}"
                self.report("wrong-kind", value.reference_key, what, f"it must be {wrong.wanted}", "value")
            return
        if any(True for _ in (*_direct([value]), *_ranges_here(value))):
            return  # what stands inside is checked on its own
        if name == "memory" and isinstance(value, str) and made.__module__.startswith("sklearn."):
            what = "a cache folder of joblib is read by pickle: whoever may write there can run any program here"
            self.problems.append(self.located(Problem("refused", key, what, "leave memory out", "value", exit_code=4)))
            return
        wrong = signatures.complaint(made, name, value)
        if wrong:
            hint = f"did you mean {wrong.suggestion}? " if wrong.suggestion else ""
            what = f"{_shown(value)} is not a value that {made.__name__} takes for {name}"
            self.report("bad-value", key, what, f"{hint}it must be {wrong.wanted}", "value", wrong.suggestion)

    def check_items(self, made: type, items: Sequence[Any], key: Key) -> None:
        """scikit-learn's lists of (name, estimator), and of (name, transformer, columns) in a ColumnTransformer."""
        with_columns = any(base.__name__ == "ColumnTransformer" for base in made.__mro__)
        foreign = made.__module__.partition(".")[0] == "sklearn"
        for index, item in enumerate(items):
            where = (*key, index)
            if not isinstance(item, Named):
                if foreign:
                    self.report("bad-value", where, "an item without a name", "write {name: …, estimator: {class_path: …}}", "value")
            elif with_columns and item.columns is MISSING:
                self.report("missing-key", (*where, "columns"), f"{made.__name__} needs the columns of {item.name}", "add columns: [...]")
            elif foreign and not with_columns and item.columns is not MISSING:
                self.report("unknown-key", (*where, "columns"), f"{made.__name__} takes no columns", "use a ColumnTransformer")
            if foreign and isinstance(item, Named) and isinstance(item.value, PartSpec):
                self.check_item(made, item.value, last=index == len(items) - 1)

    def check_item(self, made: type, spec: PartSpec, *, last: bool) -> None:
        """What a composition of scikit-learn needs from a member: an ensemble predictions, a pipeline features before its last step."""
        inner = self.classes.get((spec.role, spec.reference))
        owners = {base.__name__ for base in made.__mro__}
        if inner is None:
            return
        if "_BaseHeterogeneousEnsemble" in owners:
            wanted = "predict"
        elif "Pipeline" in owners and last:
            wanted = "fit"
        else:
            wanted = "transform"
        if not hasattr(inner, wanted):
            self.report(
                "wrong-kind", spec.reference_key, f"{inner.__name__} has no {wanted}, which {made.__name__} needs here", "", "value"
            )

    def ask(self, made: Any, spec: PartSpec, configured: Mapping[str, Any]) -> None:
        """What only the part itself can know (`contracts.Checked`)."""
        question = getattr(made, "check", None)
        if not callable(question) or getattr(question, "__self__", None) is not made:
            return
        takes = signatures.signature(made)
        params = dict(configured) | {name: _plain(value, takes.defaults.get(name)) for name, value in spec.arguments.items()}
        wanted = {"places": self.places} if "places" in inspect.signature(question).parameters else {}
        for problem in question(params, dict(self.draft.interface or {}), self.settings.environment, **wanted):
            if problem.file:  # of a file of its own
                self.problems.append(problem)
                continue
            first, *rest = problem.key or ("",)
            if first in configured and first not in spec.arguments:
                where = ("parts", spec.role, spec.reference, *problem.key)
                self.problems.append(self.settings.locate(replace(problem, key=where)))
                continue
            key = (*spec.key_of(str(first)), *rest) if problem.key else spec.key
            self.problems.append(self.located(replace(problem, key=key)))

    def parameters(self, given: Mapping[str, Any] | None) -> Mapping[str, bool]:
        """What the source reads from `--context-params`; its mistakes, as far as files and texts show them, are reported."""
        spec = self.draft.loader
        made = None if spec is None else self.classes.get((spec.role, spec.reference))
        wrong = any(problem.key[: len(spec.key)] == spec.key for problem in self.problems) if spec is not None else True
        if spec is None or made is None or wrong or not hasattr(made, "parameters"):
            return NOTHING
        key = spec.key_of("source_uri") if "source_uri" in spec.arguments else spec.key
        try:
            return dict(self.build(spec, given or NOTHING, NOTHING).parameters(given))
        except RecipeError as error:
            for problem in error.problems:
                problem = self.settings.locate(problem)
                elsewhere = problem.file or problem.key[:1] == ("context_params",)
                self.problems.append(problem if elsewhere else self.located(replace(problem, key=key, at="value")))
        except RecipelineError as error:
            what = ": ".join(filter(None, (error.where, error.message)))
            self.report(error.slug, key, what, error.hint, "value", exit_code=error.code)
        return NOTHING

    # --- building ---

    def components(self, params: Mapping[str, Any]) -> Components:
        recipe = self.draft.recipe()
        measures = self.measures()
        assert measures  # else there was a problem
        searched = recipe.tuning.enabled and self.settings.hyperparameter_tuning.enabled
        tuned = self.metric_called(recipe.tuning.metric, measures) if recipe.tuning.metric else measures[0]
        components = Components(
            recipe=recipe,
            settings=self.settings,
            task=self.task(self.interface),
            loader=self.build(recipe.loader, params, NOTHING),
            augmenter=None if recipe.augmenter is None else self.build(recipe.augmenter, params, NOTHING),
            splitter=self.build(self.splitter, params, NOTHING),
            evaluator=self.build(self.evaluator, params, NOTHING),
            metrics=tuple(self.metric_called(name, measures) for name in recipe.metrics) or measures[:1],
            tuned_metric=tuned if searched and recipe.ranges() else None,
            space=recipe.ranges() if searched else (),
            params=MappingProxyType(dict(params)),
            allow=self.allow,
            _work=self,
        )
        components.pipeline()
        return components

    def build(self, spec: PartSpec, params: Mapping[str, Any], values: Values) -> Any:
        """The object that a spec describes, everything inside it built first."""
        made = self.find(spec.role, spec.reference, spec.reference_key)
        takes = signatures.signature(made)
        # By the constructor's own word: of `eta` beside its own default of learning_rate, LightGBM ignores `eta` and says nothing.
        arguments: dict[str, Any] = {takes.meaning(name): value for name, value in self.configured(spec).items()}
        for name, raw in spec.arguments.items():
            if isinstance(raw, PartSpec) and takes.meaning(name) in getattr(made, "factories", ()):
                arguments[takes.meaning(name)] = partial(self.build, raw, params, values)
                continue
            value = self.value(raw, params, values)
            if value is MISSING and name in takes.required and isinstance(raw, Range):
                value = raw.low  # there is no default to leave it to
            if value is not MISSING:
                arguments[takes.meaning(name)] = signatures.coerced(made, takes.meaning(name), value)
        if "places" in takes.names:
            arguments["places"] = self.places
        if "context_params" in takes.names:
            arguments["context_params"] = dict(params)
        if "interface" in takes.names:
            arguments["interface"] = dict(self.draft.interface or {})
        if "registered_metrics" in takes.names:
            arguments["registered_metrics"] = self.registered_metrics()
        if "validation" in takes.names:
            arguments["validation"] = dict(self.splitter.arguments)
        if spec.role in SEEDED and _unseeded(made, takes, arguments):
            arguments["random_state"] = self.draft.seed
        arguments |= boosters.supplied(made, arguments)
        try:
            return made(**arguments)
        except RecipelineError:
            raise
        except Exception as error:  # a constructor may raise anything; its words reach the user at the line of its arguments
            words = str(error).strip().partition("\n")[0] or type(error).__name__
            raise RecipeError(Problem("bad-value", spec.argument_key, f"{takes.owner} refuses its arguments: {words}")) from error

    def value(self, raw: Any, params: Mapping[str, Any], values: Values) -> Any:
        """An argument with its ranges chosen and its parts built; MISSING leaves it to the constructor."""
        if isinstance(raw, Range):
            return self.value(raw.pick(values), params, values)
        if isinstance(raw, PartSpec):
            return self.build(raw, params, values)
        if isinstance(raw, Named):
            columns = self.value(raw.columns, params, values)
            return raw.tuple_of(self.value(raw.value, params, values), columns)
        if isinstance(raw, Mapping):
            built = {name: self.value(inner, params, values) for name, inner in raw.items()}
            return {name: inner for name, inner in built.items() if inner is not MISSING}
        if isinstance(raw, list):
            return [self.value(inner, params, values) for inner in raw]
        return raw

    def defaults(self, spec: PartSpec) -> dict[str, Any]:
        takes = signatures.signature(self.find(spec.role, spec.reference, spec.reference_key))
        found: dict[str, Any] = {}
        for name, raw in spec.arguments.items():
            for inner in _ranges_here(raw):
                value = inner.pick(NOTHING)
                if value is MISSING:
                    value = takes.defaults.get(takes.meaning(name), inner.low)
                index = inner.index_of(value) if inner.type == "categorical" else None
                found[inner.name] = value if index is None else inner.labels[index]
                if isinstance(value, PartSpec):
                    found |= self.defaults(value)
            for part in _fixed(raw):
                found |= self.defaults(part)
        return found

    @property
    def places(self) -> Places:
        from recipeline.stores.places import Places

        settings = self.settings
        folder = self.draft.path.parent if self.draft.path is not None else settings.project
        adapters = {name: self.adapter(name) for name in settings.data_adapters.adapters}
        return Places(
            project=settings.project,
            folder=Path(folder).absolute(),
            sources=_Late(settings.sources, settings.source),
            adapters=adapters,
            kept=self.kept,
            environment=self.settings.environment,
        )

    def adapter(self, name: str) -> Any:
        """A configured adapter, as `Places` takes it: neither built nor its `${NAMES}` looked up before a source needs it."""
        known = self.settings.data_adapters.adapters[name].class_name
        if known in BUILTIN_ADAPTERS:
            words = ("class_name", "config")
            return _Late(words, lambda word: self.settings.adapter(name)[words.index(word)])
        return partial(self.foreign_adapter, name)

    def foreign_adapter(self, name: str) -> Any:
        known, config = self.settings.adapter(name)
        try:
            made = registry.find("adapter", known, self.allow)
        except RecipeError as error:
            key = ("data_adapters", "adapters", name, "class_name")
            raise RecipeError([self.settings.locate(replace(problem, key=key)) for problem in error.problems]) from error
        arguments = dict(config)
        if "settings" in signatures.signature(made).required:  # the guide's `__init__(self, settings, **kwargs)`
            arguments.setdefault("settings", MappingProxyType(dict(config)))
        try:
            return made(**arguments)
        except RecipelineError:
            raise
        except Exception as error:  # as in `build`
            words = str(error).strip().partition("\n")[0] or type(error).__name__
            key = ("data_adapters", "adapters", name, "config")
            raise RecipeError(self.settings.locate(Problem("bad-value", key, f"{known} refuses its configuration: {words}"))) from error

    def warn(self, params: Mapping[str, Any]) -> None:
        """What is no mistake, but probably not meant."""
        loader = self.draft.loader
        made = None if loader is None else self.classes.get((loader.role, loader.reference))
        if params and made is not None and "context_params" not in signatures.signature(made).names:
            log.warning("%s takes no --context-params: %s is not used", made.__name__, ", ".join(sorted(params)))
        tuning, model = self.draft.tuning, self.draft.model
        if tuning is None or model is None or not tuning.enabled:
            return
        if not self.settings.hyperparameter_tuning.enabled:
            log.warning("tuning is switched off by the configuration (hyperparameter_tuning.enabled): ranges take their defaults")
            return
        made = self.classes.get((model.role, model.reference))
        # The mean after each fold but the last is a report; a model that takes the context reports its own iterations.
        reports = tuning.folds - 1
        pruning = tuning.pruning
        warms_up = pruning.enabled and pruning.algorithm in ("MedianPruner", "PercentilePruner")
        if warms_up and pruning.n_warmup_steps >= reports and not takes_context(made):
            log.warning(
                "hyperparameter_tuning.pruning.n_warmup_steps: %d never ends, so nothing is pruned: "
                "a trial of %d folds reports %d times; use %d or less",
                pruning.n_warmup_steps, tuning.folds, reports, reports - 1,
            )  # fmt: skip


# --- small things ---------------------------------------------------------------------------------


class _Late(Mapping[str, Any]):
    """Values that are looked up when they are asked for: a `${NAME}` that is not set is no error before."""

    def __init__(self, names: Iterable[str], look_up: Callable[[str], Any]) -> None:
        self._names, self._look_up = tuple(names), look_up

    def __getitem__(self, name: str) -> Any:
        if name not in self._names:
            raise KeyError(name)
        return self._look_up(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _default(role: str, name: str, key: Key) -> PartSpec:
    """The part that stands where the recipe names none."""
    return PartSpec(role, name, NOTHING, key, key, key)


def _direct(values: Iterable[Any]) -> Iterator[PartSpec]:
    """The parts inside some values, but not those inside those parts."""
    for value in values:
        if isinstance(value, PartSpec):
            yield value
        elif isinstance(value, Named):
            yield from _direct((value.value, value.columns))
        elif isinstance(value, Range):
            yield from _direct(value.choices)
        elif isinstance(value, Mapping):
            yield from _direct(value.values())
        elif isinstance(value, list):
            yield from _direct(value)


def _fixed(value: Any) -> Iterator[PartSpec]:
    """As `_direct`, without the choices of ranges."""
    chosen = {choice.key for found in _ranges_here(value) for choice in _direct(found.choices)}
    return (part for part in _direct([value]) if part.key not in chosen)


def _ranges_here(value: Any) -> Iterator[Range]:
    """The ranges inside a value, but not those inside its parts or choices."""
    if isinstance(value, Range):
        yield value
    elif isinstance(value, Named):
        yield from _ranges_here([value.value, value.columns])
    elif isinstance(value, Mapping):
        yield from _ranges_here(list(value.values()))
    elif isinstance(value, list):
        for inner in value:
            yield from _ranges_here(inner)


def _arguments(spec: PartSpec) -> dict[str, Any]:
    """What a recipe writes for a part, as its own check sees it; a range without a default is left out."""
    found = {name: _plain(value) for name, value in spec.arguments.items() if not isinstance(value, Range)}
    return found | {
        name: value.pick(NOTHING)
        for name, value in spec.arguments.items()
        if isinstance(value, Range) and value.pick(NOTHING) is not MISSING
    }


def _plain(value: Any, default: Any = None) -> Any:
    """A value as a part's own check sees it: ranges at their default (or the constructor's, or their low end), parts as mappings."""
    if isinstance(value, Range):
        picked = value.pick(NOTHING)
        if picked is MISSING:
            picked = default if default is not None else value.low if value.type != "categorical" else value.choices[0]
        return _plain(picked)
    if isinstance(value, PartSpec):
        return {"class_path": value.reference, "params": {name: _plain(inner) for name, inner in value.arguments.items()}}
    if isinstance(value, Named):
        columns = {} if value.columns is MISSING else {"columns": _plain(value.columns)}
        return {"name": value.name, value.word: _plain(value.value), **columns}
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _unseeded(made: type, takes: signatures.Signature, arguments: Mapping[str, Any]) -> bool:
    """Whether a part draws random numbers and nobody said from which seed."""
    if "random_state" not in takes.names or arguments.get("random_state", takes.defaults.get("random_state")) is not None:
        return False
    one = takes.meaning("random_state")
    if any(takes.meaning(name) == one and value is not None for name, value in arguments.items()):
        return False
    # scikit-learn's splitters refuse a random_state while they do not shuffle.
    return not hasattr(made, "get_n_splits") or bool(arguments.get("shuffle", takes.defaults.get("shuffle", True)))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
