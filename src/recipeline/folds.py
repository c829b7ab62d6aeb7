"""Fit, save, read back and judge: once for every fold of the validation method, as the method says.

The sealed rows of a fold are opened once, after its pipeline was tuned and fitted on the other side, saved and read back.
Each step leaves a whole file in the work folder and is skipped where that file is already there.
"""

from __future__ import annotations

import logging
import math
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recipeline import artifact, boosters, parallel, tune
from recipeline.contracts import Evaluation, FitContext, Fold, Part, Selected, Silent, Split, take, takes_context
from recipeline.errors import Conflict, Damaged, DataError, RecipelineError, TrainingFailed
from recipeline.pipeline import Pipeline, foreign
from recipeline.stores import files

if TYPE_CHECKING:
    import pandas as pd

    from recipeline.assemble import Components
    from recipeline.contracts import Events, Progress
    from recipeline.runs import Opened
    from recipeline.schema import InputSchema
    from recipeline.work import Work

log = logging.getLogger("recipeline")

CHAMPION = "champion"
SHARED = "shared"


@dataclass(frozen=True)
class Judged:
    """What one opening of a sealed part said; figures live only in the process that drew them."""

    label: str
    metrics: Mapping[str, float]
    baselines: Mapping[str, Mapping[str, float]]
    tables: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """The pipeline that is kept, where it is saved, and everything that was judged.

    pipeline  read back from `saved`
    hpo       the search that found its values, in the form of hpo.json
    """

    pipeline: Pipeline
    saved: Path
    folds: tuple[Judged, ...]
    hpo: Mapping[str, Any]
    values: Mapping[str, Any]


@dataclass
class Rival:
    """Another model that is judged on the same sealed rows: the last one of this recipe.

    pipeline  None where it is not judged, and then the reason says why
    """

    run_id: str
    pipeline: Pipeline | None
    reason: str = ""


@dataclass(frozen=True)
class Line:
    """The straight line for one data set: everything that fitting and judging need, bound together."""

    components: Components
    data: Any
    selected: Selected
    schema: InputSchema
    work: Work
    progress: Progress
    events: Events
    rival: Rival | None = None
    base: Opened | None = None  # the finished run that is trained further

    def run(self, split: Split) -> Outcome:
        """Go through the folds in order; the pipeline of the last one that fitted, or one of all rows, is kept."""
        _refuse_leaks(split.folds, self.components.splitter)
        self._refuse_several(split)
        self._remark()
        judged: list[Judged] = []
        pipeline: Pipeline | None = None
        for number, fold in enumerate(split.folds):
            label = fold.label or str(number)
            if fold.refit or pipeline is None:
                previous = pipeline.model if pipeline is not None and fold.warm else None
                found = None
                if self.base is not None:
                    previous, found = self.base.pipeline.model, self.base.pipeline.facts["hpo"]
                pipeline, saved, hpo, values = self._fitted(label, fold, previous, found)
            judged.append(self._judged(label, fold, pipeline, last=number == len(split.folds) - 1))
            self.progress.advance(number + 1, len(split.folds), "folds")
        if split.keep == "all":
            # One cut judged these values: they are what is refitted. Over several folds the procedure was judged, search included.
            found = hpo if len(split.folds) == 1 else None
            pipeline, saved, hpo, values = self._fitted("all", split.final or Fold(None, None), None, found)
        assert pipeline is not None  # a Split has at least one fold
        return Outcome(pipeline, saved, tuple(judged), hpo, values)

    def _refuse_several(self, split: Split) -> None:
        """What one fold's model has learned must not reach the sealed rows of another."""
        if self.base is not None and (len(split.folds) > 1 or split.keep == "all"):
            what = "a run that was judged over several folds, or fitted once more on all rows, cannot be trained further"
            raise Conflict(what, hint="use a validation method with one cut, or train anew without --resume")

    def _remark(self) -> None:
        """What the preprocessor finds odd about the data, once and not in every fit."""
        preprocessor, _ = self.components.pipeline()
        if (remarks := getattr(preprocessor, "remarks", None)) is not None:
            if hasattr(preprocessor, "expect"):
                preprocessor.expect(self.schema)
            for remark in remarks(self.selected.X):
                log.warning("%s", remark)

    def _fitted(
        self, label: str, fold: Fold, previous: Any, found: Mapping[str, Any] | None = None
    ) -> tuple[Pipeline, Path, Mapping[str, Any], Mapping[str, Any]]:
        """Tune on the training rows of a fold (unless the values were found before), fit on them, save, read back."""
        folder = self.work.folder / f"fold-{label}"
        folder.mkdir(exist_ok=True)
        saved = folder / "saved"
        training = self.selected.take(fold.train)
        hpo = self._tuned(folder, label, fold.train, training) if found is None else found
        values: Mapping[str, Any] = hpo["best_params"] if hpo["enabled"] else {}
        _quarantine(saved)
        if not saved.is_dir():
            self.work.phase("fit", label)
            pipeline = self.fresh(values)
            context = self.context(folder / "fit", pipeline.model, self.progress, previous)
            with parallel.fitting(self.components.settings.execution.joblib):
                pipeline.fit(training, context, validation=self.held_back(self.selected, fold), inner=self.inner)
            self.work.phase("save", label)
            with files.atomic_folder(saved) as partial:
                binding = f"{self.work.run_id}/{label}"
                artifact.save_parts(pipeline, partial, binding)
                artifact.refuse_secrets(partial, self.components.settings.part_secrets())
                artifact.seal(partial, binding=binding, about={"run_id": self.work.run_id, "name": self.components.recipe.name})
        self.work.phase("reload", label)
        read = artifact.read(saved, task=self.components.task, augmenter=self.components.augmenter, find=self.components.find, pickles=True)
        return self.components.settle(read), saved, hpo, values

    def _judged(self, label: str, fold: Fold, pipeline: Pipeline, *, last: bool) -> Judged:
        """Open the sealed rows of a fold; a fold judged before, in an attempt that crashed, is not judged again.

        last  the fold whose figures the report shows
        """
        folder = self.work.folder / f"fold-{label}"
        done = folder / "judged.json"
        if done.is_file() and not last:
            kept = artifact.read_json(done)
            tables = {name: files.read_frame(folder / "tables" / table_file(name)) for name in kept["tables"]}
            return Judged(label, kept["metrics"], kept["baselines"], tables)
        self.work.phase("evaluate", label)
        selected = self.selected.take(fold.test)
        part = Part(
            rows=take(self.data, fold.test),
            selected=selected,
            metrics=tuple(metric.name for metric in self.components.metrics),
            past=None if fold.past is None else take(self.data, fold.past),
            fold=label,
            seed=self.components.recipe.seed,
            features=partial(pipeline.features, selected),
            origin=fold.origin,
            rivals=self._rivals(fold),
        )
        with foreign(self.components.evaluator, "evaluation-failed"):
            evaluation = self.components.evaluator.judge(pipeline, part)
        _refuse_unfinished(evaluation)
        baselines = self._baselines(part)
        if not last:
            for name, frame in evaluation.tables.items():
                files.write_frame(folder / "tables" / table_file(name), frame)
        files.write_json(done, {"metrics": dict(evaluation.metrics), "baselines": baselines, "tables": sorted(evaluation.tables)})
        return Judged(label, evaluation.metrics, baselines, evaluation.tables, evaluation.figures)

    def _rivals(self, fold: Fold) -> dict[str, Pipeline]:
        """The task's baselines, fitted on the training rows of a fold without a preprocessor."""
        training = self.selected.take(fold.train)
        context = FitContext(self.components.recipe.seed, self.work.folder)
        return {
            name: Pipeline(task=self.components.task, schema=self.schema, model=model).fit(training, context)
            for name, model in self.components.task.baselines(self.schema).items()
        }

    def _baselines(self, part: Part) -> dict[str, dict[str, float]]:
        """What the baselines, and the champion where there is one, score on the same rows."""
        plain = replace(part, detail=False, rivals={})
        scores = {name: dict(self.components.evaluator.judge(pipeline, plain).metrics) for name, pipeline in part.rivals.items()}
        rival = self.rival
        if rival is not None and rival.pipeline is not None:
            try:
                scores[CHAMPION] = dict(self.components.evaluator.judge(rival.pipeline, plain).metrics)
            except RecipelineError as error:  # it lacks a column of today, or gives no probabilities: no reason to fail the new one
                rival.pipeline, rival.reason = None, error.message
                log.warning("the champion, run %s, cannot be judged on these rows: %s", rival.run_id[:8], error.message)
        return scores

    # --- tuning ---

    def _tuned(self, folder: Path, label: str, rows: Any, training: Selected) -> dict[str, Any]:
        """The search inside the training side, finished or gone on with; `{"enabled": False}` where there is none."""
        components = self.components
        if not components.space or components.tuned_metric is None:
            return {"enabled": False}
        done = folder / "hpo.json"
        if done.is_file():
            kept: dict[str, Any] = artifact.read_json(done)
            return kept
        self.work.phase("tune", label)
        (folder / "hpo").mkdir(exist_ok=True)
        trial = Trial(self, training, take(self.data, rows), components.tuned_metric.name, folder / "hpo")
        limits = components.settings.hyperparameter_tuning
        tuned = tune.tune(
            components.space,
            trial.score,
            components.recipe.tuning,
            direction=components.tuned_metric.direction,
            timeout=limits.timeout,
            n_jobs=limits.parallelization.n_jobs,
            storage=limits.storage,
            folder=folder / "hpo",
            seed=components.recipe.seed,
            defaults=components.defaults(),
            progress=self.progress,
            events=self.events,
            detail=components.settings.execution.report,
        )
        result = tuned.as_dict()
        files.write_json(done, result)
        return result

    def fresh(self, values: Mapping[str, Any]) -> Pipeline:
        preprocessor, model = self.components.pipeline(values)
        return Pipeline(
            task=self.components.task, schema=self.schema, model=model, preprocessor=preprocessor, augmenter=self.components.augmenter
        )

    def inner(self, selected: Selected, folds: int) -> tuple[Fold, ...]:
        cut: tuple[Fold, ...] = self.components.splitter.inner(selected, self.components.task, folds)
        return cut

    @staticmethod
    def held_back(selected: Selected, fold: Fold) -> Selected | None:
        return None if fold.validation is None else selected.take(fold.validation)

    def context(self, folder: Path, model: Any, progress: Progress, previous: Any = None) -> FitContext:
        if takes_context(model):
            folder.mkdir(parents=True, exist_ok=True)
        shared = self.work.folder / SHARED
        if takes_context(model):
            shared.mkdir(exist_ok=True)
        return FitContext(self.components.recipe.seed, folder, progress, self.events, previous=previous, shared=shared)


class Trial:
    """One trial of the search: the whole pipeline, fitted and scored on every inner fold."""

    def __init__(self, line: Line, training: Selected, rows: Any, metric: str, folder: Path) -> None:
        self.line, self.metric, self.folder = line, metric, folder
        self.checked = line.components.task.streams == "rows"
        self.at_a_time = tune.jobs(line.components.settings.hyperparameter_tuning.parallelization.n_jobs)
        self.seeds = range(line.components.recipe.seed, line.components.recipe.seed + line.components.recipe.tuning.seeds_per_trial)
        inner = line.inner(training, line.components.recipe.tuning.folds)
        _refuse_leaks(inner, line.components.splitter)
        self.folds = [
            (training.take(fold.train), line.held_back(training, fold), self._part(training, rows, fold, str(number)))
            for number, fold in enumerate(inner)
        ]

    def _part(self, training: Selected, rows: Any, fold: Fold, label: str) -> Part:
        past = None if fold.past is None else take(rows, fold.past)
        seed = self.line.components.recipe.seed
        test = training.take(fold.test)
        return Part(take(rows, fold.test), test, (self.metric,), detail=False, past=past, fold=label, seed=seed, origin=fold.origin)

    def score(self, values: Mapping[str, Any], report: Callable[[int, float], bool]) -> float:
        """Mean of the tuned metric over the inner folds and the seeds of a trial.

        One clock prunes: the iterations of the first fold where the model reports them, else the means after each fold.
        """
        scores: list[float] = []
        clock = _Clock(report)
        for number, (training, held, part) in enumerate(self.folds):
            for seed in self.seeds:
                heard = clock if number == 0 and seed == self.seeds[0] else Silent()
                scores.append(self._scored(values, training, held, part, seed, heard))
                if clock.pruned:  # by the first training: no other needs to be made
                    raise tune.Pruned
            if not clock.used and number + 1 < len(self.folds) and report(number, float(np.mean(scores))):
                raise tune.Pruned
        return float(np.mean(scores))

    def _scored(
        self, values: Mapping[str, Any], training: Selected, held: Selected | None, part: Part, seed: int, progress: Progress
    ) -> float:
        pipeline = self.line.fresh(values)
        if self.at_a_time != 1:
            boosters.share_cores(pipeline.model, self.at_a_time)
        with self._scratch(pipeline.model) as scratch:
            context = replace(self.line.context(scratch, pipeline.model, progress), seed=seed, metric=self.metric)
            with parallel.fitting(self.line.components.settings.execution.joblib):
                pipeline.fit(training, context, validation=held, inner=self.line.inner)
            part = replace(part, features=partial(pipeline.features, part.selected))
            evaluation = self.line.components.evaluator.judge(_Inside(pipeline, part) if self.checked else pipeline, part)
        _refuse_unfinished(evaluation)
        return float(evaluation.metrics[self.metric])

    @contextmanager
    def _scratch(self, model: Any) -> Iterator[Path]:
        """A folder for the checkpoints of a model that wants one; what a trial keeps is its score."""
        if not takes_context(model):
            yield self.folder
            return
        with tempfile.TemporaryDirectory(prefix="trial-", dir=self.folder) as scratch:
            yield Path(scratch)


class _Inside:
    """A pipeline of one trial: the rows of an inner fold were checked against the contract when training took them apart."""

    def __init__(self, pipeline: Pipeline, part: Part) -> None:
        self.task, self.schema, self.model = pipeline.task, pipeline.schema, pipeline.model
        self._pipeline, self._part = pipeline, part

    def predict(self, rows: Any, *, augmented: bool = False) -> pd.DataFrame:
        if rows is self._part.rows:
            return self._pipeline.predict_selected(self._part.selected)
        return self._pipeline.predict(rows, augmented=augmented)


class _Clock(Silent):
    """Passes the iterations of a model on to the pruner."""

    def __init__(self, report: Callable[[int, float], bool]) -> None:
        self._report, self.used, self.pruned = report, False, False

    def report(self, step: int, value: float) -> bool:
        self.used = True
        self.pruned = self.pruned or self._report(step, value)
        return self.pruned


def _refuse_leaks(cut: Sequence[Fold], splitter: Any) -> None:
    """No pipeline is judged on a row that it was fitted on, whoever wrote the splitter."""
    fitted: Any = None
    for number, fold in enumerate(cut):
        if fold.refit or number == 0:  # a warm refit goes on from what the rows before have taught
            fitted = np.union1d(fitted, fold.train) if fold.warm and fitted is not None and fold.train is not None else fold.train
        shared = 0 if fitted is None or fold.test is None else int(np.isin(fold.test, fitted).sum())
        if shared:
            message = f"{shared} rows of fold {fold.label or number} are judged by a pipeline that was fitted on them"
            raise DataError(message, hint="train and test of a splitter share no row", slug="leak", where=type(splitter).__name__)


def _quarantine(saved: Path) -> None:
    """A saved fold of an earlier attempt that was damaged since is put aside, and made again."""
    if not saved.is_dir():
        return
    try:
        artifact.verify(saved)
    except Damaged as error:
        log.warning("fold saved by an earlier attempt is damaged (%s): it is fitted again", error.message)
        saved.rename(saved.with_name(f"damaged-{uuid.uuid4().hex[:8]}"))


def _refuse_unfinished(evaluation: Evaluation) -> None:
    """A metric that is not a number is a failure, not a score."""
    bad = sorted(name for name, value in evaluation.metrics.items() if not math.isfinite(value))
    if bad:
        raise TrainingFailed(f"{', '.join(bad)} is not a finite number", hint="choose metrics that the sealed rows allow", slug="bad-score")


def aggregate(folds: tuple[Judged, ...]) -> dict[str, float]:
    """Mean over the folds, and `<name>_sd` beside it where there are more than one."""
    result: dict[str, float] = {}
    for name in folds[0].metrics:
        values = np.array([fold.metrics[name] for fold in folds])
        result[name] = float(values.mean())
        if len(folds) > 1:
            result[f"{name}_sd"] = float(values.std(ddof=1))
    return result


def tables(folds: tuple[Judged, ...]) -> dict[str, pd.DataFrame]:
    """Every table of the evaluation; over several folds one below the other, with the column `fold` in front."""
    if len(folds) == 1:
        return dict(folds[0].tables)
    import pandas as pd

    found: dict[str, list[pd.DataFrame]] = {}
    for judged in folds:
        for name, frame in judged.tables.items():
            marked = frame if "fold" in frame else pd.concat([pd.Series(judged.label, frame.index, str, "fold"), frame], axis=1)
            found.setdefault(name, []).append(marked)
    return {name: pd.concat(frames, ignore_index=True) for name, frames in found.items()}


def table_file(name: str) -> str:
    """The file that a table is kept in: CSV where its name says so, else Parquet."""
    return name if name.endswith(".csv") else f"{name}.parquet"


def summary(evaluator: Any, folds: tuple[Judged, ...]) -> Evaluation:
    """The tables that are kept of a run and the figures of all its folds, where the evaluator sums up; else the tables of all folds."""
    together = tables(folds)
    if not hasattr(evaluator, "summarise"):
        return Evaluation({}, together)
    with foreign(evaluator, "evaluation-failed"):
        found: Evaluation = evaluator.summarise(together)
    return found


def baselines(folds: tuple[Judged, ...]) -> dict[str, dict[str, float]]:
    """The mean over the folds of every baseline that was judged in all of them."""
    return {
        baseline: {name: float(np.mean([fold.baselines[baseline][name] for fold in folds])) for name in first}
        for baseline, first in folds[0].baselines.items()
        if all(baseline in fold.baselines for fold in folds)
    }


def rows_of(split: Split) -> Iterator[dict[str, Any]]:
    """One line per fold for a table: how many rows were fitted and judged."""
    for number, fold in enumerate(split.folds):
        yield {
            "fold": fold.label or str(number),
            "fitted": None if fold.train is None else len(fold.train),
            "judged": None if fold.test is None else len(fold.test),
            "refit": fold.refit,
        }
