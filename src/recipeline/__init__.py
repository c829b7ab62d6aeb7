"""From a YAML recipe to a tuned, tracked, served model.

    import recipeline

    run = recipeline.train("recipes/quickstart/quickstart.yaml")
    recipeline.load(run.id).predict(frame)

Names are loaded on first use: `import recipeline` costs milliseconds.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recipeline.components.evaluators import BaseEvaluator
    from recipeline.errors import RecipelineError
    from recipeline.pipeline import Pipeline
    from recipeline.recipe import Recipe
    from recipeline.recipe import load as load_recipe
    from recipeline.registry import register
    from recipeline.runs import load
    from recipeline.stores.adapters import BaseAdapter
    from recipeline.stores.sql import parse_select_columns
    from recipeline.train import Run, train

_HOMES = {
    "train": "train",
    "load": "runs",
    "Run": "train",
    "Pipeline": "pipeline",
    "Recipe": "recipe",
    "load_recipe": "recipe:load",
    "register": "registry",
    "BaseAdapter": "stores.adapters",
    "BaseEvaluator": "components.evaluators",
    "parse_select_columns": "stores.sql",
    "RecipelineError": "errors",
}

__all__ = [
    "train", "load", "Run", "Pipeline", "Recipe", "load_recipe", "register",
    "BaseAdapter", "BaseEvaluator", "parse_select_columns", "RecipelineError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'recipeline' has no attribute {name!r}")
    module, _, attribute = home.partition(":")
    value = getattr(importlib.import_module(f"recipeline.{module}"), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _Package(ModuleType):
    """Importing the module `recipeline.train` puts it where the function `train` belongs; the function stays."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _HOMES.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
