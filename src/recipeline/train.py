"""The straight line: load → augment → split → [tune] → fit → save → reload → evaluate → track."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipeline import artifact, champion, further, logs
from recipeline.assemble import Components, assemble, check
from recipeline.contracts import Progress, Silent
from recipeline.errors import DataError, RecipeError
from recipeline.folds import Line
from recipeline.pipeline import foreign
from recipeline.recipe import Recipe, draft
from recipeline.record import Attempt, compose, rows_of
from recipeline.settings import Settings
from recipeline.settings import load as load_settings
from recipeline.work import Work, digest

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Run:
    """A finished training.

    metrics    of the sealed test part; over folds the mean, with `<name>_sd` beside it
    baselines  {name: metrics} on the same rows
    artifact   the saved folder
    seconds    wall time of this call
    resumed    it went on where an earlier attempt had stopped, or from a finished run
    """

    id: str
    name: str
    metrics: Mapping[str, float]
    baselines: Mapping[str, Mapping[str, float]]
    best_params: Mapping[str, Any]
    artifact: Path
    seconds: float
    resumed: bool = False

    def as_dict(self) -> dict[str, Any]:
        """The answer of `train --json`."""
        facts = asdict(self)
        return {"run_id": facts.pop("id"), **facts, "artifact": str(self.artifact)}


def train(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    params: Mapping[str, Any] | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
    resume: str | None = None,
) -> Run:
    """Train what a recipe says, and return the finished run.

    recipe    a path, the text of a recipe, a mapping, or a loaded Recipe
    params    values for the templates of its source (`--context-params`)
    resume    id of an unfinished run, a prefix of it, or `latest`; the same call after a crash goes on by itself. Where there is
              none, a finished run of a model that can go on (`extends`) is trained further, as a run of its own

    Raises RecipeError before any data is read, DataError for what the data break, TrainingFailed when the estimator
    raises, Conflict while another process trains the same.
    """
    started = time.perf_counter()
    if not isinstance(recipe, Recipe):
        written = draft(recipe)
        settings = settings or load_settings(project=written.path)
        if written.problems:  # with what only the classes know, so that nobody mends a file twice
            raise RecipeError(check(written, settings))
        recipe = written.recipe()
    settings = settings or load_settings(project=recipe.path)
    if unsafe := settings.production_problems(serving=False):
        raise RecipeError(unsafe)
    components = assemble(recipe, settings, params=params or {})
    task = components.task
    with Attempt(components) as attempt:
        with foreign(components.loader, "loader-failed", DataError):
            data = components.loader.load()
        if components.augmenter is not None:
            with foreign(components.augmenter, "augmenter-failed", DataError):
                data = components.augmenter.augment(data, online=False)
        if hasattr(task, "introduce"):
            preprocessor, model = components.pipeline()
            task.introduce(model, preprocessor)
        schema = task.describe(data)
        selected = task.select(data, schema, targets=True)
        hashes = row_hashes(data)
        base = further.base(components, resume, fingerprint(data, hashes, components))
        known = identity(components, data, hashes) | ({} if base is None else {"extends": base.pipeline.run_id})
        with Work.open(settings.execution.work_folder, known, resume=None if base is not None else resume) as work:
            attempt.rows = hashes is not None
            run = attempt.start(work)
            folder = work.folder / "artifact"
            if not folder.is_dir():
                work.phase("split")
                split = components.splitter.split(selected, task)
                rival = champion.of(components, schema, rows_of(selected, data), split, known["data"])
                line = Line(components, data, selected, schema, work, progress or Silent(), attempt.events, rival, base)
                with logs.printed():
                    outcome = line.run(split)
                compose(folder, line, split, outcome, hashes, seconds=time.perf_counter() - started)
            work.phase("track")
            published = attempt.publish(folder)
            run.finish("FINISHED")
            work.discard()
    results, hpo = artifact.read_json(published / "metrics.json"), artifact.read_json(published / "hpo.json")
    return Run(
        run.run_id, recipe.name, results["metrics"], results["baselines"], hpo.get("best_params", {}), published,
        time.perf_counter() - started, work.resumed or base is not None,
    )  # fmt: skip


# --- what makes a run this run and no other ----------------------------------------------------------------------------


def row_hashes(data: Any) -> np.ndarray[Any, Any] | None:
    """A 64-bit hash of every row of a frame (n,); None for data that have no rows."""
    if not hasattr(data, "iloc"):
        return None
    from pandas.util import hash_pandas_object

    return hash_pandas_object(data, index=False).to_numpy()


def fingerprint(data: Any, hashes: np.ndarray[Any, Any] | None, components: Components) -> str:
    """SHA-256 over columns, types and rows; for data without rows the loader says what they are."""
    if hashes is None:
        known = getattr(components.loader, "fingerprint", None)
        text = known() if known is not None else repr(sorted(components.recipe.loader.arguments.items()))
        return hashlib.sha256(text.encode()).hexdigest()
    head = "|".join(f"{name}:{dtype}" for name, dtype in data.dtypes.items())
    return hashlib.sha256(head.encode() + hashes.tobytes()).hexdigest()


def identity(components: Components, data: Any, hashes: np.ndarray[Any, Any] | None) -> dict[str, Any]:
    """What names the work folder: the same recipe on the same data with the same parameters is the same run."""
    return {
        "recipe": components.recipe.document.data,
        "seed": components.recipe.seed,
        "parameters": dict(components.params),
        "data": fingerprint(data, hashes, components),
        "environment": components.settings.environment,
        "configuration": digest(components.settings.parts),  # its values may be secret: they are not written here
        "versions": artifact.versions(),  # what another version fitted is not gone on with
    }
