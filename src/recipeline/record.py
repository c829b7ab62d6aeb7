"""What a run leaves behind: its results and report in an artifact, tracked; or its failure, tracked as well."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from recipeline import artifact, document, folds, logs, report, tracking
from recipeline.contracts import Evaluation, Fold, Selected, Split
from recipeline.errors import Conflict, RecipelineError
from recipeline.stores import files

if TYPE_CHECKING:
    import pandas as pd

    from recipeline.assemble import Components
    from recipeline.folds import Line, Outcome
    from recipeline.work import Work

log = logging.getLogger("recipeline")

FITTED_ROWS = "fitted_rows.parquet"
ROWS_REMEMBERED = 100_000
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
        self.rows = True  # whether the data have rows, and so a fingerprint of all that they are
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
        if self.work is not None and isinstance(error, RecipelineError) and error.code in {5, 10} and not self._mendable(error):
            self.work.discard()  # the same data and estimator would fail the same way; there is nothing to go on with

    def _mendable(self, error: RecipelineError) -> bool:
        """Data without rows, an environment, are known by their name and not by their content: mended they are the same data, and
        hours of training stand in the folder.
        """
        assert self.work is not None
        return error.code == 5 and not self.rows and any(path.is_file() for path in self.work.folder.glob("fold-*/**/*"))


class _Events:
    """Events of the parts, into the log."""

    def emit(self, name: str, /, **fields: Any) -> None:
        log.info("event %s %s", name, json.dumps(_rounded(fields), default=str, sort_keys=True))


def _rounded(value: Any) -> Any:
    """Numbers to six digits: a line of the log is read by people, and tables keep the others."""
    if isinstance(value, Mapping):
        return {key: _rounded(one) for key, one in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value


def compose(folder: Path, line: Line, split: Split, outcome: Outcome, hashes: np.ndarray[Any, Any] | None, *, seconds: float) -> None:
    """Write the artifact: the saved parts, and beside them everything that was found out; whole or not at all."""
    components, work = line.components, line.work
    saved = artifact.verify(outcome.saved)
    results: dict[str, Any] = {
        "metrics": folds.aggregate(outcome.folds),
        "baselines": folds.baselines(outcome.folds),
        "folds": [{"fold": judged.label, **judged.metrics} for judged in outcome.folds],
    }
    if line.rival is not None:
        results["champion"] = {"run_id": line.rival.run_id, "reason": line.rival.reason}
    summary = folds.summary(components.evaluator, outcome.folds)
    audit = dict(split.audit) | {"folds": list(folds.rows_of(split)), "sealed": _sealed(split, hashes, work.identity["data"])}
    rows = rows_of(line.selected, line.data)
    if rows is not None:
        fitted, every = rows.sample(_kept(split))
        audit["fitted_rows"] = {"columns": list(rows.columns), "every": every}
    about = {
        "run_id": work.run_id,
        "name": components.recipe.name,
        "seed": components.recipe.seed,
        "data_fingerprint": work.identity["data"],
        "git_commit": artifact.git_commit(components.settings.project),
        "parameters": dict(components.params),
        "recipe_folder": _folder_of(components),
        **({} if line.base is None else {"extends": line.base.pipeline.run_id}),
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
        if rows is not None:
            files.write_frame(partial / FITTED_ROWS, fitted)
        for name, frame in summary.tables.items():
            files.write_frame(partial / "tables" / folds.table_file(name), frame)
        if components.settings.execution.report:
            work.phase("report")
            report.write(partial / "report.html", _content(line, outcome, summary, recipe, results, audit, about, seconds))
        tracking.describe(partial, schema=outcome.pipeline.schema, run_id=work.run_id)
        work.phase("commit")
        files.write_text(partial / "log.txt", logs.tail())
        artifact.seal(partial, binding=saved.binding, about=about, key=artifact.project_key(components.settings.project))


@dataclass(frozen=True)
class Rows:
    """What identifies the rows of the data: a hash (n,) of the columns that name each row alone, else of all columns."""

    columns: tuple[str, ...]
    hashes: np.ndarray[Any, Any]

    def sample(self, chosen: np.ndarray[Any, Any] | None) -> tuple[pd.DataFrame, int]:
        """The hashes of some rows, or of all, as a table; of many rows those that `every` divides, so that it stays small."""
        import pandas as pd

        hashes = np.unique(self.hashes if chosen is None else self.hashes[chosen])
        every = 1 << max(0, (len(hashes) // ROWS_REMEMBERED).bit_length())
        return pd.DataFrame({"hash": hashes[hashes % np.uint64(every) == 0]}), every


def rows_of(selected: Selected, data: Any) -> Rows | None:
    """None for data that have no rows."""
    if not hasattr(data, "iloc"):
        return None
    from pandas.util import hash_pandas_object

    named = data if selected.keys is None or selected.keys.duplicated().any() else selected.keys
    return Rows(tuple(map(str, named.columns)), hash_pandas_object(named, index=False).to_numpy())


def trained_on(fold: Fold) -> np.ndarray[Any, Any]:
    """The rows that a fold's pipeline knows: fitted on, or held back to calibrate it."""
    rows = np.empty(0, np.intp) if fold.train is None else fold.train
    return rows if fold.validation is None else np.concatenate([rows, fold.validation])


def _kept(split: Split) -> np.ndarray[Any, Any] | None:
    """The rows that the pipeline which is kept knows; None means all."""
    if split.keep == "all":
        return None if split.final is None else trained_on(split.final)
    return trained_on([fold for number, fold in enumerate(split.folds) if fold.refit or number == 0][-1])


def _folder_of(components: Components) -> str | None:
    """Where the recipe stood, from the project; the paths in it are read from there. None outside of the project."""
    path = components.recipe.path
    if path is None:
        return "."
    folder, project = path.absolute().parent, components.settings.project
    return folder.relative_to(project).as_posix() if folder.is_relative_to(project) else None


def _sealed(split: Split, hashes: np.ndarray[Any, Any] | None, fingerprint: str) -> list[str]:
    """SHA-256 of the sealed rows of every fold, so that two runs can say whether they were judged on the same.

    Data without rows are known by their fingerprint, and what is sealed of them by what the splitter says: the seeds of episodes.
    """
    if hashes is None:
        named = [np.asarray(fold.test) for fold in split.folds if fold.test is not None]
        return [hashlib.sha256(fingerprint.encode() + test.tobytes()).hexdigest() for test in named]
    return [hashlib.sha256(hashes[fold.test].tobytes()).hexdigest() for fold in split.folds if fold.test is not None]


def _content(
    line: Line,
    outcome: Outcome,
    summary: Evaluation,
    recipe: str,
    results: Mapping[str, Any],
    audit: Mapping[str, Any],
    about: Mapping[str, Any],
    seconds: float,
) -> report.ReportContent:
    components = line.components
    last = outcome.folds[-1]
    several = len(outcome.folds) > 1
    summed = hasattr(components.evaluator, "summarise")
    sealed = "sealed test rows" if hasattr(line.data, "iloc") else "sealed test part"
    return report.ReportContent(
        title=components.recipe.name,
        run_id=line.work.run_id,
        recipe=recipe,
        metrics={"mean over the sealed folds" if several else sealed: results["metrics"]},
        directions={metric.name: metric.direction for metric in components.metrics},
        baselines=results["baselines"],
        folds=results["folds"] if several else (),
        audit={name: value for name, value in audit.items() if name != "sealed"},
        schema=outcome.pipeline.schema.to_json(),
        data=report.summarise(line.data) if hasattr(line.data, "iloc") else {},
        hpo=outcome.hpo if outcome.hpo["enabled"] else None,
        figures={**last.figures, **summary.figures},
        tables=summary.tables if summed else last.tables,
        summed=summed,
        versions=artifact.versions(),
        seed=components.recipe.seed,
        seconds=seconds,
        task=components.recipe.task_type,
        warnings=(*outcome.hpo.get("notes", ()), *_about_the_rival(line)),
        finished=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        about={name: about[name] for name in ("data_fingerprint", "git_commit", "parameters", "extends") if about.get(name)},
    )


def _about_the_rival(line: Line) -> Iterator[str]:
    if line.rival is not None and line.rival.reason:
        yield f"The champion is not judged: {line.rival.reason}."


def text_of(components: Components, values: Mapping[str, Any] | None = None) -> str:
    """The recipe as resolved, as YAML."""
    return document.dump(components.recipe.resolved(values or {}))
