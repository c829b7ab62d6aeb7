"""Where every value in force comes from: a line of the recipe, a default and whose, a layer of the configuration."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from recipeline import logs, registry
from recipeline.assemble import ENGINE, INTERFACE, Components, assemble
from recipeline.errors import Key, dotted
from recipeline.recipe import MISSING, PartSpec, Pruning, Tuning

if TYPE_CHECKING:
    from recipeline.recipe import Recipe
    from recipeline.settings import Settings

Source = Literal["recipe", "default", "seed", "configuration", "variable", "option"]


@dataclass(frozen=True)
class Value:
    """One value in force.

    of      the tree that its key is in: recipe or configuration
    source  who said it; `origin` says it in words: `recipes/x.yaml:7`, `default of Ridge`, `config/dev.yaml:3`, `LOG_LEVEL`
    """

    of: Literal["recipe", "configuration"]
    key: Key
    value: Any
    source: Source
    origin: str

    def as_dict(self) -> dict[str, Any]:
        return {"of": self.of, "key": dotted(self.key), "value": _plain(self.value), "source": self.source, "from": self.origin}


def explain(recipe: Recipe, settings: Settings) -> list[Value]:
    """Every value of recipe and configuration, in the order of the file; secrets stay references or are masked.

    The recipe is assembled, so that defaults are those of the classes it names: RecipeError with every mistake, as `train`.
    """
    components = assemble(recipe, settings)
    found = [*_written(recipe), *_top(recipe, components)]
    ranges = [one.key for one in recipe.ranges()]
    for root in components.roots():
        for spec in root.parts():
            if not any(spec.key[: len(key)] == key for key in ranges):  # what a search may choose is not in force yet
                found += _part(spec, components)
    return [*_in_order(found), *_configuration(settings)]


def _written(recipe: Recipe) -> Iterator[Value]:
    ranges = {one.key for one in recipe.ranges()}
    for key, value in _leaves(recipe.document.data, (), ranges):
        line = recipe.document.mark(key, "key")[0]
        yield Value("recipe", key, value, "recipe", f"{recipe.document.file}:{line}" if line else recipe.document.file)


def _leaves(data: Any, key: Key, whole: set[Key]) -> Iterator[tuple[Key, Any]]:
    """Values with their keys; a range, and a list of plain values, is one."""
    if isinstance(data, Mapping) and data and key not in whole:
        for name, value in data.items():
            yield from _leaves(value, (*key, name), whole)
    elif isinstance(data, list) and any(isinstance(item, Mapping) for item in data) and key not in whole:
        for index, value in enumerate(data):
            yield from _leaves(value, (*key, index), whole)
    else:
        yield key, data


def _top(recipe: Recipe, components: Components) -> Iterator[Value]:
    """What the grammar and the task fill in."""
    data = recipe.document.data
    if "name" not in data:
        yield _default(("name",), recipe.name, "the name of the file" if recipe.path else "default")
    if "seed" not in data:
        yield _default(("seed",), recipe.seed, "default")
    model = getattr(components.task, "Interface", None)
    for name, field in model.model_fields.items() if model is not None else ():
        if name not in recipe.interface:
            yield _default((*INTERFACE, name), field.get_default(call_default_factory=True), f"default of {recipe.task_type}")
    if not recipe.metrics:
        yield _default(("evaluation", "metrics"), [metric.name for metric in components.metrics], f"default of {recipe.task_type}")
    section = data.get("hyperparameter_tuning") or {}
    where: Key = ("hyperparameter_tuning",)
    if "enabled" not in section:
        yield _default((*where, "enabled"), recipe.tuning.enabled, "on where the recipe has ranges")
    if components.tuned_metric is None:
        return  # nothing is searched
    own = {"metric": components.tuned_metric.name, "direction": components.tuned_metric.direction}
    words = {"metric": "the first metric", "direction": f"direction of {components.tuned_metric.name}"}
    for name in Tuning.model_fields:
        if name not in section and name not in {"enabled", "extra", "pruning"}:
            value = own.get(name, getattr(recipe.tuning, name))
            yield _default((*where, name), value, words.get(name, "default of hyperparameter_tuning"))
    for name in Pruning.model_fields:
        if name not in (section.get("pruning") or {}):
            yield _default((*where, "pruning", name), getattr(recipe.tuning.pruning, name), "default of pruning")


def _part(spec: PartSpec, components: Components) -> Iterator[Value]:
    """The name of a part where the recipe leaves it out, and the constructor arguments that it leaves out."""
    recipe, settings = components.recipe, components.settings
    takes = components.signature(spec)
    if spec.reference_key in {spec.key, ()}:
        word = "method" if spec.role == "splitter" else "name"
        yield _default((*spec.key, word), spec.reference, f"default of {recipe.task_type}")
    given = {takes.meaning(name) for name in spec.arguments}
    entry = registry.entry(spec.role, spec.reference)
    added = components.added(spec)
    configured: Mapping[str, Any] = {}
    if entry is not None:
        configured = (settings.public().get("parts") or {}).get(entry.role, {}).get(entry.name, {})
    for name in (*takes.names, *(name for name in configured if name not in takes.names)):
        if name in ENGINE or name in given:
            continue
        if entry is not None and name in configured:
            origin = settings.origin(("parts", entry.role, entry.name, name))
            yield Value("recipe", spec.key_of(name), configured[name], "configuration", origin)
        elif name == "random_state" and components.seeded(spec):
            yield Value("recipe", spec.key_of(name), recipe.seed, "seed", "seed of the recipe")
        elif name in added:
            yield _default(spec.key_of(name), added[name], "added by the engine")
        else:
            yield _default(spec.key_of(name), takes.defaults.get(name), f"default of {takes.owner}")


def _default(key: Key, value: Any, origin: str) -> Value:
    return Value("recipe", key, None if value is MISSING else value, "default", origin)


def _in_order(values: Sequence[Value]) -> list[Value]:
    """Defaults beside what is written in the same section."""
    tree: dict[Any, Any] = {}
    for value in values:
        node = tree
        for step in value.key:
            node = node.setdefault(step, {})
        node[_HERE] = value

    def flat(node: dict[Any, Any]) -> Iterator[Value]:
        for step, inner in node.items():
            if step is _HERE:
                yield inner
            else:
                yield from flat(inner)

    return list(flat(tree))


_HERE = object()


# --- configuration ---------------------------------------------------------------------------------------------------

_VARIABLE = re.compile(r"\$\{(\w+)")


def _configuration(settings: Settings) -> Iterator[Value]:
    public = settings.public()
    chosen = public.pop("environment")
    source: Source = "variable" if settings.is_set("APP_ENV") else "default"
    yield Value("configuration", ("environment",), chosen, source, "APP_ENV" if source == "variable" else "default")
    for key, value in _leaves(public, (), set()):
        origin = settings.origin(key)
        source = "configuration"
        if origin == "default":
            source = "default"
        elif origin.startswith("--set "):
            source = "option"
        elif re.fullmatch(r"[A-Z][A-Z0-9_]*", origin):
            source = "variable"
        names = dict.fromkeys(_VARIABLE.findall(str(value)))
        said = "".join(f", {name} is {'set' if settings.is_set(name) else 'not set'}" for name in names)
        yield Value("configuration", key, value, source, origin + said)


# --- as text ---------------------------------------------------------------------------------------------------------

WIDEST = 60  # characters of a value in the table


def as_text(values: Sequence[Value]) -> str:
    """Two tables, the recipe's and the configuration's."""
    from recipeline.console import table

    lines = []
    for of in ("recipe", "configuration"):
        rows = [{of: dotted(value.key), "value": _short(value.value), "from": value.origin} for value in values if value.of == of]
        lines += [table(rows, [of, "value", "from"]), ""]
    return "\n".join(lines).rstrip()


def _short(value: Any) -> str:
    shown = _plain(value)
    text = "-" if shown is None else shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def _plain(value: Any) -> Any:
    """As JSON has it, passwords masked; a default that is an object is shown as Python writes it, a function by its name."""
    if isinstance(value, str):
        return logs.mask(value)
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)
