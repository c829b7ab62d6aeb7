"""A saved run, opened again: for the library, the batch and the server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipeline import artifact, tracking
from recipeline.assemble import Components, assemble
from recipeline.batch import BatchResult, run_batch
from recipeline.components.loaders import DefaultLoader
from recipeline.errors import RecipeError
from recipeline.pipeline import Pipeline
from recipeline.recipe import Recipe
from recipeline.recipe import load as load_recipe
from recipeline.settings import Settings
from recipeline.settings import load as load_settings
from recipeline.stores.parameters import check_given

if TYPE_CHECKING:
    from recipeline.artifact import Manifest
    from recipeline.contracts import Progress


@dataclass(frozen=True)
class Opened:
    """A run with everything that its artifact says; nothing but the artifact was read."""

    folder: Path
    manifest: Manifest
    recipe: Recipe
    components: Components
    pipeline: Pipeline

    def about(self) -> dict[str, Any]:
        """What `show` tells of a run."""
        facts = dict(self.manifest.about)
        return {
            **{name: facts[name] for name in ("run_id", "name", "created", "seed", "data_fingerprint", "git_commit")},
            "artifact": str(self.folder),
            "metrics": self.pipeline.facts["metrics"]["metrics"],
            "baselines": self.pipeline.facts["metrics"]["baselines"],
            "best_params": self.pipeline.facts["hpo"].get("best_params", {}),
            "features": list(self.pipeline.schema.features),
            "versions": facts["versions"],
        }


def load(run: str | os.PathLike[str], *, settings: Settings | None = None) -> Pipeline:
    """The pipeline of a run, ready to predict.

    run  a run id, a unique prefix, `latest`, `models:/name@alias`, or the folder of an artifact
    """
    is_folder = isinstance(run, os.PathLike) or (Path(run) / artifact.MANIFEST).is_file()
    return open_run(Path(run) if is_folder else run, settings or load_settings()).pipeline


def open_run(run: str | os.PathLike[str], settings: Settings, *, name: str | None = None) -> Opened:
    """The run with its recipe and its pipeline, verified.

    run   a reference as text, or the folder of an artifact as a Path; text is never taken for a folder
    name  with `latest`: of this recipe

    Raises UnknownRun where there is none, Damaged where a file differs from what was written.
    """
    folder = tracking.find_run(settings, run, name=name).artifact if isinstance(run, str) else Path(run)
    manifest = artifact.verify(folder)
    recipe = load_recipe(folder / "recipe.yaml")
    if origin := manifest.about.get("recipe_folder"):  # relative paths in it mean what they meant in training
        recipe = replace(recipe, path=settings.project / origin / "recipe.yaml")
    components = assemble(recipe, settings, params=manifest.about.get("parameters", {}), kept=folder / "sql")
    pickles = settings.security.allow_pickle or artifact.signed_here(manifest, settings.project)
    pipeline = artifact.read(
        folder, task=components.task, augmenter=components.augmenter, find=components.find, manifest=manifest, pickles=pickles
    )
    return Opened(folder, manifest, recipe, components, components.settle(pipeline))


def from_recipe(path: Path, settings: Settings) -> Pipeline:
    """A pipeline that needs no fit, straight from its recipe.

    Raises RecipeError where the model does not say `needs_fit = False`.
    """
    recipe = load_recipe(path)
    components = assemble(recipe, settings)
    preprocessor, model = components.pipeline()
    if getattr(model, "needs_fit", True):
        raise RecipeError(
            f"{type(model).__name__} has to be trained before it can be served",
            hint=f"recipeline train --recipe-file {path}, then serve-api --run-id",
        )
    if hasattr(components.task, "introduce"):
        components.task.introduce(model, preprocessor)
    schema = components.task.describe(None)
    for part in (preprocessor, model):
        if hasattr(part, "expect"):
            part.expect(schema)
    return Pipeline(
        task=components.task, schema=schema, model=model, preprocessor=preprocessor, augmenter=components.augmenter,
        facts={"name": recipe.name},
    )  # fmt: skip


def predict_batch(
    opened: Opened,
    settings: Settings,
    *,
    params: Mapping[str, Any] | None = None,
    source: str | None = None,
    output: str | None = None,
    overwrite: bool = False,
    evaluate: bool = False,
    progress: Progress | None = None,
) -> BatchResult:
    """Predict for every row of the run's own source, or of another with the same contract.

    The run's own query is the one in its artifact, whatever became of the project's file since.

    params  override the run's stored parameters, one by one; one that the query does not know is an error (RecipeError) where
            it looks like one that it knows, else a warning
    source  a path (from the working directory), an address or a query; None is the run's own
    output  None is `predictions/<run id>.parquet` in the project
    """
    components = opened.components
    given = dict(params or {})
    if source is not None:
        here = Path(source)
        places = replace(components.places, kept=None)
        asked = DefaultLoader(str(here.absolute()) if here.exists() else source, places=places)
        parameters = _known(asked, {**components.params, **given}, given)
        loader = DefaultLoader(asked.source_uri, places=places, context_params=parameters)
    else:
        parameters = _known(components.loader, {**components.params, **given}, given)
        if given:
            components = assemble(opened.recipe, settings, params=parameters, kept=opened.folder / "sql")
        loader = components.loader
    return run_batch(
        opened.pipeline,
        loader,
        run_id=opened.pipeline.run_id,
        output=output or str(settings.project / "predictions" / f"{opened.pipeline.run_id}.parquet"),
        params=parameters,
        rows=settings.execution.batch.rows,
        workers=settings.execution.batch.workers,
        overwrite=overwrite,
        evaluate=components.evaluator if evaluate else None,
        metrics=tuple(metric.name for metric in components.metrics),
        progress=progress,
    )


def _known(loader: Any, parameters: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that the loader's query reads, of those in force; what else was given now is an error or a warning."""
    if not hasattr(loader, "parameters"):
        return dict(parameters)
    declared = loader.parameters()
    check_given(getattr(loader, "source_uri", type(loader).__name__), given, declared)
    return {name: value for name, value in parameters.items() if name in declared}
