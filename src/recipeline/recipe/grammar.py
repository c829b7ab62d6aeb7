"""The words of the grammar, and where each of them stands; as JSON Schema, too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from recipeline.recipe.data import Tuning

NAMES = ("class_path", "name", "type")

ARGUMENTS = ("hyperparameters", "params")

TOP = ("name", "seed", "model", "hyperparameter_tuning", "evaluation")

MODEL = ("loader", "augmenter", "preprocessor", "data_interface")

EVALUATION = ("metrics", "validation", "evaluator")

TUNING = tuple(name for name in Tuning.model_fields if name != "extra")

BESIDE: Mapping[str, tuple[str, ...]] = {"loader": ("source_uri",), "augmenter": ("features",)}
"""Arguments that the guide writes beside the name of the part instead of in its `params`."""

DEFAULTS: Mapping[str, str] = {"loader": "default_loader", "preprocessor": "default_preprocessor"}
"""What a section means that names no part: the guide writes `loader: {source_uri: …}`."""

RANGE_TYPES = ("int", "float", "categorical")

RANGE_KEYS = {
    "int": ("type", "low", "high", "step", "log", "default"),
    "float": ("type", "low", "high", "step", "log", "default"),
    "categorical": ("type", "choices", "default"),
}

ALL_RANGE_KEYS = ("type", "low", "high", "step", "log", "choices", "default")

REFERENCE = re.compile(r"[A-Za-z_][\w.:\-]*\Z")

EXAMPLES = {"augmenter": "pass_through", "evaluator": "tabular_evaluator"}

HOMES: Mapping[str, tuple[str, ...]] = {
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
            "hyperparameter_tuning": {**tuning, "type": ["object", "null"], "additionalProperties": False},
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
