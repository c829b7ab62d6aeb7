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

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recipeline import document as documents
from recipeline.document import Document
from recipeline.errors import RecipeError
from recipeline.recipe.data import Draft, Part, Pruning, Recipe, Tuning
from recipeline.recipe.grammar import (
    ARGUMENTS,
    BESIDE,
    DEFAULTS,
    EVALUATION,
    MODEL,
    NAMES,
    RANGE_TYPES,
    TOP,
    TUNING,
    json_schema,
)
from recipeline.recipe.parts import MISSING, Named, PartSpec, Range, Values
from recipeline.recipe.reader import Reader

__all__ = [
    "load",
    "draft",
    "json_schema",
    "Recipe",
    "Draft",
    "Tuning",
    "Pruning",
    "Part",
    "PartSpec",
    "Named",
    "Range",
    "Values",
    "MISSING",
    "NAMES",
    "ARGUMENTS",
    "TOP",
    "MODEL",
    "EVALUATION",
    "TUNING",
    "BESIDE",
    "DEFAULTS",
    "RANGE_TYPES",
]


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
    return Reader(document, path).draft()
