"""The run to beat: what the last model of the same recipe says of the rows that are sealed now.

It is the run behind `models:/<recipe>@champion` where somebody gave a model that alias, else the last finished run of the
recipe. The comparison is fair only on rows that it was not fitted on, so an artifact remembers which those were; a champion
that saw sealed rows, or answers another question, is not judged, and the run says why. Episodes of an environment are sealed by
their seeds, and nobody was fitted on them: an agent of the same environment is always judged.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from recipeline import artifact, runs
from recipeline.errors import RecipelineError, UnknownRun, UsageError
from recipeline.folds import Rival
from recipeline.record import FITTED_ROWS, Rows, trained_on
from recipeline.stores import files

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recipeline.assemble import Components
    from recipeline.contracts import Fold, Split
    from recipeline.runs import Opened
    from recipeline.schema import InputSchema

log = logging.getLogger("recipeline")

ALIAS = "champion"


def of(components: Components, schema: InputSchema, rows: Rows | None, split: Split, fingerprint: str) -> Rival | None:
    """The champion of this recipe; with its reason where it cannot be judged fairly. None where there is none.

    rows         what identifies the rows of this run; None where the data have none
    fingerprint  of the data
    """
    if not components.settings.execution.champion:
        return None
    name = components.recipe.name
    try:
        opened = _opened(components)
    except RecipelineError as error:  # damaged, of a class that is no longer allowed, the server is away
        rival = Rival("", None, f"it cannot be opened: {error.message}")
    else:
        if opened is None:
            return None
        reason = _unfair(opened, components, schema, rows, split, fingerprint)
        rival = Rival(opened.pipeline.run_id, None if reason else opened.pipeline, reason)
    if rival.reason:
        log.warning("the champion of %s is not judged: %s", name, rival.reason)
    return rival


def _opened(components: Components) -> Opened | None:
    name, settings = components.recipe.name, components.settings
    for reference in (f"models:/{name}@{ALIAS}", f"latest:{name}"):
        try:
            return runs.open_run(reference, settings)
        except (UnknownRun, UsageError):  # a name that no model can have is none
            continue
    return None


def _unfair(opened: Opened, components: Components, schema: InputSchema, rows: Rows | None, split: Split, fingerprint: str) -> str:
    """Why the two cannot be compared; empty where they can."""
    run = opened.pipeline.run_id[:8]
    wanted, had = _question(components, schema), _question(opened.components, opened.pipeline.schema)
    if changed := [name for name, value in wanted.items() if had[name] != value]:
        return f"run {run} answers another question: {', '.join(changed)} differ"
    if getattr(components.splitter, "unseen", False):
        same = opened.manifest.about["data_fingerprint"] == fingerprint and opened.pipeline.schema.extras == schema.extras
        return "" if same else f"run {run} was trained in another environment"
    kept = opened.folder / FITTED_ROWS
    if rows is None or not kept.is_file():
        return f"it is not known which rows run {run} was fitted on"
    facts = artifact.read_json(opened.folder / "split.json")["fitted_rows"]
    if tuple(facts["columns"]) != rows.columns:
        return f"the rows of run {run} have other columns"
    fitted = files.read_frame(kept)["hash"].to_numpy(np.uint64)
    seen = sum(_seen(fitted, rows, fold) for fold in split.folds)
    part = "" if facts["every"] == 1 else f" of every {facts['every']}th"
    return f"run {run} was fitted on {seen}{part} of the rows that are sealed now" if seen else ""


def _seen(fitted: NDArray[np.uint64], rows: Rows, fold: Fold) -> int:
    """Sealed rows that it was fitted on and the new model was not; equal rows on both sides of the border are in both."""
    if fold.test is None:
        return 0
    return int(np.isin(rows.hashes[fold.test], np.setdiff1d(fitted, rows.hashes[trained_on(fold)])).sum())


def _question(components: Components, schema: InputSchema) -> Mapping[str, Any]:
    """What has to be the same for two models to be judged on the same rows by the same figures."""
    interface = components.task.interface
    asked = interface.model_dump() if hasattr(interface, "model_dump") else {}
    return {"task_type": components.recipe.task_type, "target": schema.target, "positive_class": asked.get("positive_class")}
