"""What an editor is told: JSON Schema of recipes and of the configuration, with the names that are registered here.

The grammar alone is `recipe.json_schema` and `settings.json_schema`. Names of parts are suggestions, not limits: a dotted
path is always allowed, and what a part takes is only checked by `validate`, which knows its class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from recipeline import recipe, registry, settings, signatures
from recipeline.assemble import ENGINE
from recipeline.errors import RecipelineError

PLACES = ("loader", "augmenter", "preprocessor")
REFERENCE = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:[^}]*)?\}"}
SCALARS = ("integer", "number", "boolean")


def recipe_schema() -> dict[str, Any]:
    """The grammar of recipes; what is installed is suggested: parts with their arguments, tasks, metrics, validation methods."""
    schema = recipe.json_schema()
    model = schema["properties"]["model"]["properties"]
    evaluation = schema["properties"]["evaluation"]["properties"]
    _suggest_parts(schema["properties"]["model"], "model")
    for place in PLACES:
        _suggest_parts(model[place], place)
    _suggest_parts(evaluation["evaluator"], "evaluator")
    _suggest_methods(evaluation["validation"])
    model["data_interface"]["properties"]["task_type"] = _names("task", model["data_interface"]["properties"]["task_type"])
    model["data_interface"]["allOf"] = _interfaces()
    metrics = {"anyOf": [{"enum": _metrics()}, {"type": "string"}]}  # an evaluator may bring others
    evaluation["metrics"]["items"] = metrics
    schema["properties"]["hyperparameter_tuning"]["properties"]["metric"] = {"anyOf": [*metrics["anyOf"], {"type": "null"}]}
    return schema


def config_schema() -> dict[str, Any]:
    """The configuration; a section may be null, and a number or switch may be a reference, as the loader has it."""
    schema = settings.json_schema()
    for model in (schema, *schema["$defs"].values()):
        for name, field in model.get("properties", {}).items():
            model["properties"][name] = _lenient(field)
    adapter = schema["$defs"]["AdapterConfig"]["properties"]
    adapter["class_name"] = {"anyOf": [{"enum": _registered("adapter")}, {"type": "string"}]}
    return schema


def _lenient(field: Mapping[str, Any]) -> dict[str, Any]:
    if "$ref" in field:
        return {"anyOf": [dict(field), {"type": "null"}]}
    if field.get("type") == "object":
        return {**field, "type": ["object", "null"]}
    kinds = {field.get("type"), *(one.get("type") for one in field.get("anyOf", ()))}
    if kinds & set(SCALARS) or "enum" in field:
        about = {name: field[name] for name in ("default", "title") if name in field}
        inner = {name: value for name, value in field.items() if name not in about}
        return {**about, "anyOf": [inner, REFERENCE]}
    return dict(field)


# --- what is installed -----------------------------------------------------------------------------------------------


def _registered(role: str) -> list[str]:
    return sorted(entry.name for entry in registry.entries(role))


def _names(role: str, otherwise: Mapping[str, Any]) -> dict[str, Any]:
    known = _registered(role)
    return {"anyOf": [{"enum": known}, dict(otherwise)]} if known else dict(otherwise)


def _suggest_parts(place: dict[str, Any], role: str) -> None:
    """Registered names, and for each the arguments of its class, below `params` and `hyperparameters`."""
    properties = place["properties"]
    for word in recipe.NAMES:
        properties[word] = _names(role, properties[word])
    place["allOf"] = []
    for entry in registry.entries(role):
        arguments = _arguments(entry)
        if arguments:
            named = {"anyOf": [{"properties": {word: {"const": entry.name}}, "required": [word]} for word in recipe.NAMES]}
            told = {"properties": arguments}
            place["allOf"].append({"if": named, "then": {"properties": dict.fromkeys(recipe.ARGUMENTS, told)}})
    if not place["allOf"]:
        del place["allOf"]


def _suggest_methods(place: dict[str, Any]) -> None:
    """Validation methods; their arguments stand beside the name."""
    place["properties"]["method"] = _names("splitter", place["properties"]["method"])
    place["allOf"] = [
        {"if": {"properties": {"method": {"const": entry.name}}, "required": ["method"]}, "then": {"properties": arguments}}
        for entry in registry.entries("splitter")
        if (arguments := _arguments(entry))
    ]


def _arguments(entry: registry.Entry) -> dict[str, Any]:
    """Arguments of a registered class with their defaults; none for a part whose library is missing or broken."""
    try:
        takes = signatures.signature(entry.load())
    except RecipelineError:
        return {}  # its name is suggested all the same; `validate` says what is wrong with it
    return {name: _with_default(takes.defaults, name) for name in takes.names if name not in ENGINE}


def _with_default(defaults: Mapping[str, Any], name: str) -> dict[str, Any]:
    if name not in defaults:
        return {}
    try:
        return {"default": json.loads(json.dumps(defaults[name], allow_nan=False))}
    except (TypeError, ValueError):
        return {}  # an object, or NaN: JSON has no word for it


def _interfaces() -> list[dict[str, Any]]:
    """The keys of `data_interface` that each task takes."""
    told = []
    for entry in registry.entries("task"):
        try:
            model = entry.load().Interface
        except RecipelineError:
            continue  # `list tasks` says what is wrong with it
        fields = {name: field for name, field in model.model_fields.items() if name != "task_type"}
        required = [name for name, field in fields.items() if field.is_required()]
        defaults = {name: field.get_default(call_default_factory=True) for name, field in fields.items() if name not in required}
        keys = {name: _with_default(defaults, name) for name in fields}
        chosen = {"properties": {"task_type": {"const": entry.name}}, "required": ["task_type"]}
        told.append({"if": chosen, "then": {"properties": keys, "required": required}})
    return told


def _metrics() -> list[str]:
    names: set[str] = set()
    for entry in registry.entries("task"):
        try:
            metrics = entry.load().metrics
        except RecipelineError:
            continue  # `list tasks` says what is wrong with it
        names |= {name for metric in metrics for name in (metric.name, *metric.aliases)}
    return sorted(names)
