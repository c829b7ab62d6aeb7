"""What a run leaves behind: its results and report in an artifact, tracked; or its failure, tracked as well."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from recipeline import artifact, document, folds, logs, report, tracking
from recipeline.contracts import Split
from recipeline.errors import Conflict, RecipelineError
from recipeline.stores import files

if TYPE_CHECKING:
    import numpy as np

    from recipeline.assemble import Components
    from recipeline.folds import Line, Outcome
    from recipeline.work import Work

log = logging.getLogger("recipeline")

WORK_TAG = "recipeline.work"
"""Tag of a run: the key of its work folder."""


class Attempt:
    """The tracked run of one call of `train`.

    Opened with its work folder, or alone when it fails before it has one: a failed training leaves a run with status
    FAILED, its slug, recipe and log, and never an artifact.
    """

    def __init__(self, components: Components) -> None:
        self.components = components
        self.run: tracking.Tracked | None = None
        self.work: Work | None = None
        self.events = _Events()
        self._open = ExitStack()
        self._log: logs.Kept | None = None

    def start(self, work: Work | None) -> tracking.Tracked:
        """Open the tracked run, the one of the earlier attempt where there was one."""
        recipe, settings = self.components.recipe, self.components.settings
        self.work = work
        run_id = (work.run_id or None) if work else None
        if work is not None and work.resumed and run_id is None:  # it died between opening its run and remembering it
            run_id = tracking.unfinished(settings, name=recipe.name, tag=WORK_TAG, value=work.key)
        self.run = tracking.start(
            settings,
            name=recipe.name,
            run_id=run_id,
            tags={
                "recipeline.recipe": recipe.name,
                "recipeline.task": recipe.task_type,
                **({WORK_TAG: work.key} if work else {}),
            },
        )
        if work is not None and work.run_id != self.run.run_id:
            work.remember(self.run.run_id)
        if work is not None and self._log is not None:
            self._log.follow(work.folder / "log.txt")
        self._open.enter_context(logs.run(self.run.run_id))
        return self.run

    def publish(self, folder: Path) -> Path:
        """Give parameters, metrics and the artifact to tracking; returns where the artifact now stands."""
        assert self.run is not None
        results, hpo = artifact.read_json(folder / "metrics.json"), artifact.read_json(folder / "hpo.json")
        recipe = self.components.recipe
        resolved = recipe.resolved(hpo["best_params"] if hpo["enabled"] else {})
        self.run.log_params(resolved | ({"hyperparameter_tuning": recipe.tuning.model_dump()} if hpo["enabled"] else {}))
        metrics = dict(results["metrics"])
        for name, baseline in results["baselines"].items():
            metrics |= {f"{name}.{metric}": value for metric, value in baseline.items()}
        if hpo["enabled"]:
            metrics |= {name: float(hpo[name]) for name in ("best_score", "total_trials", "optimization_time", "pruned_trials")}
            self.run.log_params(hpo["best_params"])
            self.run.log_trials(hpo["optimization_history"])
        self.run.log_metrics(metrics)
        return self.run.publish(folder)

    def __enter__(self) -> Self:
        self._log = self._open.enter_context(logs.keep())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._open:
            if error is not None:
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self.run is None and isinstance(error, Conflict):
            return  # another process trains the very same; that run is the one to look at
        stopped = not isinstance(error, Exception)  # SIGINT, SIGTERM
        if stopped and self.run is None:
            return  # nothing was begun; and what was being imported may be half there
        try:
            run = self.run or self.start(None)
        except RecipelineError as lost:  # what ended the run is on its way to the user, and says more
            if str(lost) != str(error):
                log.warning("the failed run is not tracked: %s", lost)
            return
        run.fail(
            status="KILLED" if stopped else "FAILED",
            slug=getattr(error, "slug", "stopped" if stopped else "bug"),
            message=str(error),
            recipe=text_of(self.components),
            log=logs.tail() + logs.mask("".join(traceback.format_exception(error))),
        )
        if self.work is not None and isinstance(error, RecipelineError) and error.code in {5, 10}:
            self.work.discard()  # the same data and estimator would fail the same way; there is nothing to go on with


class _Events:
    """Events of the parts, into the log."""

    def emit(self, name: str, /, **fields: Any) -> None:
        log.info("event %s %s", name, json.dumps(fields, default=str, sort_keys=True))


def compose(folder: Path, line: Line, split: Split, outcome: Outcome, hashes: np.ndarray[Any, Any] | None, *, seconds: float) -> None:
    """Write the artifact: the saved parts, and beside them everything that was found out; whole or not at all."""
    components, work = line.components, line.work
    saved = artifact.verify(outcome.saved)
    results = {
        "metrics": folds.aggregate(outcome.folds),
        "baselines": folds.baselines(outcome.folds),
        "folds": [{"fold": judged.label, **judged.metrics} for judged in outcome.folds],
    }
    audit = dict(split.audit) | {"folds": list(folds.rows_of(split)), "sealed": _sealed(split, hashes)}
    about = {
        "run_id": work.run_id,
        "name": components.recipe.name,
        "seed": components.recipe.seed,
        "data_fingerprint": work.identity["data"],
        "git_commit": artifact.git_commit(components.settings.project),
        "parameters": dict(components.params),
        "recipe_folder": _folder_of(components),
    }
    with files.atomic_folder(folder) as partial:
        for name in saved.files:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(outcome.saved / name, partial / name)
        recipe = text_of(components, outcome.values)
        files.write_text(partial / "recipe.yaml", recipe)
        documents = getattr(components.loader, "documents", None)
        for name, text in (documents() if callable(documents) else {}).items():
            files.write_text(partial / "sql" / name, text)
        files.write_json(partial / "metrics.json", results)
        files.write_json(partial / "hpo.json", dict(outcome.hpo))
        files.write_json(partial / "split.json", audit)
        for judged in outcome.folds:
            for name, frame in judged.tables.items():
                files.write_frame(partial / "tables" / f"{name}.parquet", frame)
        if components.settings.execution.report:
            work.phase("report")
            report.write(partial / "report.html", _content(line, outcome, recipe, results, audit, about, seconds))
        tracking.describe(partial, schema=line.schema, run_id=work.run_id)
        work.phase("commit")
        files.write_text(partial / "log.txt", logs.tail())
        artifact.seal(partial, binding=saved.binding, about=about, key=artifact.project_key(components.settings.project))


def _folder_of(components: Components) -> str | None:
    """Where the recipe stood, from the project; the paths in it are read from there. None outside of the project."""
    path = components.recipe.path
    if path is None:
        return "."
    folder, project = path.absolute().parent, components.settings.project
    return folder.relative_to(project).as_posix() if folder.is_relative_to(project) else None


def _sealed(split: Split, hashes: np.ndarray[Any, Any] | None) -> list[str]:
    """SHA-256 of the sealed rows of every fold, so that two runs can say whether they were judged on the same."""
    if hashes is None:
        return []
    return [hashlib.sha256(hashes[fold.test].tobytes()).hexdigest() for fold in split.folds if fold.test is not None]


def _content(
    line: Line,
    outcome: Outcome,
    recipe: str,
    results: Mapping[str, Any],
    audit: Mapping[str, Any],
    about: Mapping[str, Any],
    seconds: float,
) -> report.ReportContent:
    components = line.components
    last = outcome.folds[-1]
    several = len(outcome.folds) > 1
    return report.ReportContent(
        title=components.recipe.name,
        run_id=line.work.run_id,
        recipe=recipe,
        metrics={"mean over the sealed folds" if several else "sealed test rows": results["metrics"]},
        directions={metric.name: metric.direction for metric in components.metrics},
        baselines=results["baselines"],
        folds=results["folds"] if several else (),
        audit={name: value for name, value in audit.items() if name != "sealed"},
        schema=line.schema.to_json(),
        data=report.summarise(line.data) if hasattr(line.data, "iloc") else {},
        hpo=outcome.hpo if outcome.hpo["enabled"] else None,
        figures=last.figures,
        tables=last.tables,
        versions=artifact.versions(),
        seed=components.recipe.seed,
        seconds=seconds,
        task=components.recipe.task_type,
        warnings=tuple(outcome.hpo.get("notes", ())),
        finished=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        about={name: about[name] for name in ("data_fingerprint", "git_commit", "parameters") if about[name]},
    )


def text_of(components: Components, values: Mapping[str, Any] | None = None) -> str:
    """The recipe as resolved, as YAML."""
    return document.dump(components.recipe.resolved(values or {}))
