"""A project folder with what the repository ships: recipes, their data, configuration, and a migrated tracking store."""

from __future__ import annotations

import shutil
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def lay_out(folder: Path, recipe_data: Path, store: Path) -> None:
    """Make `folder` such a project; `recipe_data` holds the data files, `store` is copied as mlflow.db."""
    folder.mkdir()
    shutil.copytree(PROJECT / "config", folder / "config")
    shutil.copytree(PROJECT / "recipes", folder / "recipes", ignore=shutil.ignore_patterns("*.csv", "*.parquet", "*.sqlite"))
    for path in recipe_data.iterdir():
        shutil.copy(path, folder / "recipes" / "data")
    shutil.copy(store, folder / "mlflow.db")
