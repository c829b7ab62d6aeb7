"""Search spaces to trials, by Optuna; the only module that knows it.

Trial 0 is the defaults, so tuning is never worse than not tuning on the inner score: it is never pruned, and wins ties.
Every other trial draws its values from a seed of its own, (seed, draw): a search that was killed and goes on proposes what
the uninterrupted one would have proposed. A draw that was interrupted is drawn again; the interrupted trial counts as failed.

The study stands in `folder/study.log`, a journal that Optuna itself can open (`JournalStorage`), written once per trial; or
where `storage` says, shared by several workers.
"""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import threading
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recipeline.contracts import Silent
from recipeline.errors import (
    Conflict,
    Damaged,
    Exhausted,
    MissingLibrary,
    RecipelineError,
    Refused,
    TrainingFailed,
    Unavailable,
)
from recipeline.recipe import MISSING, PartSpec
from recipeline.stores import files

if TYPE_CHECKING:
    from recipeline.contracts import Direction, Events, Progress
    from recipeline.recipe import Pruning, Range, Tuning

log = logging.getLogger("recipeline")

ATTEMPTS = 3
"""How often one draw is tried when the process dies under it: it may be the draw that kills it."""

BEAT = 15  # seconds between two signs of life of a running trial in a shared database; silent for four of them it is dead
_NOT_OURS = (Refused, Unavailable, Exhausted, Conflict, Damaged, MissingLibrary)
"""Errors that say nothing about the values tried: the search stops. All others fail one trial."""


class Pruned(Exception):
    """Raised by `evaluate` when its `report` said that the trial should stop."""


@dataclass(frozen=True)
class Tuned:
    """A finished search.

    values       the best trial's, by names of ranges; a choice by its label; a default that no range can hold is left out
    score        mean over the inner folds
    history      one mapping per trial, oldest first: number, value (None where it failed), params, state (complete, pruned,
                 failed), seconds, and reason where it failed or was out of time; a pruned trial's value is its last report
    seconds      spent on the search, earlier attempts included
    importances  {name: share}, largest first; empty where too few trials ended to say
    notes        what a person should know: a pruner that can never prune
    """

    values: Mapping[str, Any]
    score: float
    history: tuple[Mapping[str, Any], ...]
    seconds: float
    direction: Direction
    importances: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def total_trials(self) -> int:
        return len(self.history)

    @property
    def pruned_trials(self) -> int:
        return self._count("pruned")

    @property
    def failed_trials(self) -> int:
        return self._count("failed")

    def _count(self, state: str) -> int:
        return sum(trial["state"] == state for trial in self.history)

    def as_dict(self) -> dict[str, Any]:
        """The form of hpo.json."""
        return {
            "enabled": True,
            "engine": "optuna",
            "direction": self.direction,
            "best_params": dict(self.values),
            "best_score": self.score,
            "total_trials": self.total_trials,
            "pruned_trials": self.pruned_trials,
            "failed_trials": self.failed_trials,
            "optimization_time": self.seconds,
            "importances": dict(self.importances),
            "notes": list(self.notes),
            "optimization_history": [dict(trial) for trial in self.history],
        }


def tune(
    space: Sequence[Range],
    evaluate: Callable[[Mapping[str, Any], Callable[[int, float], bool]], float],
    tuning: Tuning,
    *,
    direction: Direction,
    folder: Path,
    seed: int,
    defaults: Mapping[str, Any] | None = None,
    timeout: float | None = None,
    n_jobs: int = 1,
    storage: str | None = None,
    progress: Progress | None = None,
    events: Events | None = None,
    detail: bool = True,
) -> Tuned:
    """Search `space` for the values with the best score; go on where an earlier call on the same folder was stopped.

    space      as `Recipe.ranges()` gives it: ranges inside a choice stand after the range that chooses
    evaluate   (values, report) -> score. `values` are by name of range, a choice by its label. `report(step, value)`, steps
               rising from 0, says True when the trial should stop: then raise `Pruned`, or return. What it raises else
               fails the trial and not the search, except where it says nothing of the values (disk full, service down)
    folder     of this search alone; its study and its lock stand there
    defaults   the constructors' own defaults, for trial 0; a range's own `default` goes before
    timeout    seconds, earlier attempts included; the shorter of this and the recipe's. Running trials stop at their next
               report, trial 0 never
    n_jobs     trials at a time, in threads; -1 for one per core. With 1 the same seed gives the same trials
    storage    None: in `folder`. A database URL, or the path of a journal file: shared with every worker that names it,
               all of them together make `n_trials`. The study is named after the last three parts of `folder`
    detail     importances are wanted

    Raises TrainingFailed when no trial ended with a score, Conflict while another process searches in `folder`.
    """
    if not space:
        raise ValueError("a search needs at least one range")
    folder.mkdir(parents=True, exist_ok=True)
    with files.Lock(folder / "study.lock"), _quiet():
        search = _Search(
            space=_Space(space, defaults or {}),
            evaluate=evaluate,
            tuning=tuning,
            direction=direction,
            timeout=min((limit for limit in (timeout, tuning.timeout) if limit is not None), default=math.inf),
            n_jobs=jobs(n_jobs),
            storage=storage,
            folder=folder,
            seed=seed,
            progress=progress or Silent(),
            events=events or Silent(),
        )
        try:
            search.run()
            return search.outcome(detail=detail)
        finally:
            search.home.close()


def jobs(n_jobs: int) -> int:
    """How many trials run at a time: as configured, one per core for -1."""
    return n_jobs if n_jobs > 0 else os.cpu_count() or 1


# --- the space -----------------------------------------------------------------------------------


class _Space:
    """Ranges as Optuna's distributions, and which of them are active under which choice."""

    def __init__(self, ranges: Sequence[Range], defaults: Mapping[str, Any]) -> None:
        self.ranges = tuple(ranges)
        self.parent: dict[str, tuple[str, Any]] = {}  # name -> (name of the range that chooses, label of the choice)
        for outer in self.ranges:
            for label, choice in zip(outer.labels, outer.choices, strict=True):
                # Inner choices come later in `ranges` and overwrite: what is kept is the nearest range that chooses.
                self.parent |= {inner.name: (outer.name, label) for inner in PartSpec("part", "", {"choice": choice}, (), ()).ranges()}
        self.distributions = {one.name: _distribution(one) for one in self.ranges}
        self.defaults = self._defaults(defaults)

    def draw(self, trial: Any) -> dict[str, Any]:
        """Values of the active ranges, as the sampler of the trial's study proposes them."""
        values: dict[str, Any] = {}
        for one in self._active(values):
            drawn = trial._suggest(one.name, self.distributions[one.name])
            values[one.name] = _label(one, drawn)
        return values

    def fixed(self) -> dict[str, Any] | None:
        """The defaults as Optuna's parameters; None where one of them lies outside of its range, or is not known."""
        encoded: dict[str, Any] = {}
        for one in self._active(self.defaults):
            if one.name not in self.defaults or not _inside(one, self.defaults[one.name]):
                return None
            encoded[one.name] = _encoded(one, self.defaults[one.name])
        return encoded

    def _active(self, values: Mapping[str, Any]) -> Iterator[Range]:
        """Ranges whose choice is in force; reads `values` as they grow."""
        active = set()
        for one in self.ranges:
            outer, label = self.parent.get(one.name, (None, None))
            if outer is None or (outer in active and outer in values and _same(values[outer], label)):
                active.add(one.name)
                yield one

    def _defaults(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """Trial 0. What `values` cannot say exactly is left out: then the constructor's default holds by itself."""
        values: dict[str, Any] = {}
        for one in self._active(values):
            value = one.pick({})
            if value is MISSING or (one.name in known and one.default is MISSING):
                value = known.get(one.name, value)
            if value is MISSING:
                continue
            if one.type == "categorical":
                index = one.index_of(value)
                if index is not None:
                    values[one.name] = one.labels[index]
            elif (value is None or isinstance(value, (bool, int, float, str))) and _same(one.pick({one.name: value}), value):
                values[one.name] = value
        return values


def _distribution(one: Range) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if one.type == "categorical":
        return CategoricalDistribution([_encoded(one, label) for label in one.labels])
    assert one.low is not None
    assert one.high is not None
    high = one.high
    if one.step is not None:  # the last value on the grid; Optuna would warn and do the same
        low, step = Decimal(str(one.low)), Decimal(str(one.step))
        high = type(one.high)(low + (Decimal(str(one.high)) - low) // step * step)
    if one.type == "int":
        return IntDistribution(int(one.low), int(high), log=one.log, step=int(one.step or 1))
    return FloatDistribution(float(one.low), float(high), log=one.log, step=None if one.step is None else float(one.step))


def _encoded(one: Range, value: Any) -> Any:
    """A value as Optuna keeps it. Labels that are equal in Python though not the same (1 and True) go by their index."""
    if one.type != "categorical":
        return value
    labels = one.labels
    if any(a == b for i, a in enumerate(labels) for b in labels[:i]):
        return next(index for index, label in enumerate(labels) if _same(label, value))
    return value


def _label(one: Range, drawn: Any) -> Any:
    if one.type != "categorical":
        return drawn
    return next(label for label in one.labels if _same(_encoded(one, label), drawn))


def _inside(one: Range, value: Any) -> bool:
    if one.type == "categorical":
        return True
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return False
    assert one.low is not None
    assert one.high is not None
    if not one.low <= value <= one.high:
        return False
    return one.step is None or (Decimal(str(value)) - Decimal(str(one.low))) % Decimal(str(one.step)) == 0


def _same(one: Any, other: Any) -> bool:
    """Equal and of one kind: 1, 1.0 and True are three values."""
    return type(one) is type(other) and bool(one == other)


# --- the search ----------------------------------------------------------------------------------


@dataclass
class _Search:
    """One worker on one study. Everything that touches the study happens under `lock`; `evaluate` runs outside of it."""

    space: _Space
    evaluate: Callable[[Mapping[str, Any], Callable[[int, float], bool]], float]
    tuning: Tuning
    direction: Direction
    timeout: float
    n_jobs: int
    storage: str | None
    folder: Path
    seed: int
    progress: Progress
    events: Events

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.stopped = threading.Event()
        self.notes: list[str] = []
        self.worker = f"{socket.gethostname()}:{self.folder.resolve()}"
        self.home, self.study = _open(self.storage, self.folder, self.direction)
        self.study.pruner = _pruner(self.tuning.pruning)
        self._bury()
        self.spent: float = max((_end(trial).get("elapsed", 0.0) for trial in self._trials()), default=0.0)
        self.started = time.perf_counter()
        self._note_pruner()

    # running

    def run(self) -> None:
        """Trials until there are enough, or until the time is over."""
        try:
            if self.n_jobs == 1:
                self._work()
            else:
                self._work_in_threads()
        finally:
            with self.lock:
                self.home.flush()

    def _work_in_threads(self) -> None:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(self.n_jobs, thread_name_prefix="trial") as pool:
            workers = [pool.submit(self._work) for _ in range(self.n_jobs)]
            try:
                for worker in workers:
                    worker.result()
            finally:
                self.stopped.set()  # an error, or a signal: the others stop at their next report

    def _work(self) -> None:
        while not self.stopped.is_set():
            with self.lock:
                started = self._start()
            if started is None:
                return
            try:
                self._try(*started)
            except BaseException:
                self.stopped.set()
                raise

    def _start(self) -> tuple[Any, int, dict[str, Any]] | None:
        """The next trial and its values; None when there is none to make."""
        trials = self._trials()
        draw = _next_draw(trials)
        # The defaults are owed even when interruptions used up all trials.
        if draw > 0 and (len(trials) >= self.tuning.n_trials or self._elapsed() >= self.timeout):
            return None
        self.study.sampler = self._sampler(draw)
        trial = self.study.ask()
        if draw > 0 and trial.number >= self.tuning.n_trials:  # another worker was faster
            self._close(trial, "failed", None, 0.0, "surplus")
            return None
        if draw > 0:
            values = self.space.draw(trial)
        else:
            values = self.space.defaults
            if self.space.fixed() is not None:
                self.space.draw(trial)  # the sampler learns from them; outside of the space it cannot
        trial.set_user_attr("start", {"draw": draw, "values": values, "worker": self.worker})
        self.home.flush()  # with the end of the trial before: one write for each trial
        return trial, draw, values

    def _try(self, trial: Any, draw: int, values: dict[str, Any]) -> None:
        report = _Report(self, trial, defaults=draw == 0)
        state, value, reason = "failed", None, "interrupted"
        started = time.perf_counter()
        try:
            with _sign_of_life(self.study, trial, shared=self.storage is not None):
                state, value, reason = self._score(values, report)
        finally:
            with self.lock:
                self._close(trial, state, value, time.perf_counter() - started, reason)

    def _score(self, values: dict[str, Any], report: _Report) -> tuple[str, float | None, str]:
        """(state, score, reason)"""
        try:
            score = self.evaluate(dict(values), report)
        except Pruned:
            if not report.said:
                raise TypeError("evaluate raised Pruned though report had not asked for it") from None
            return report.verdict
        except _NOT_OURS:
            raise
        except RecipelineError as error:
            return "failed", None, f"{error.where}: {error.message}" if error.where else error.message
        except Exception as error:  # noqa: BLE001 - an estimator may raise anything on values it cannot take; the reason is kept
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return "failed", None, f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"[:500]
        if report.said:
            return report.verdict
        plain = float(score)  # of a NumPy scalar
        if not math.isfinite(plain):
            return "failed", None, f"the score is {plain}"
        return "complete", plain, ""

    def _close(self, trial: Any, state: str, value: float | None, seconds: float, reason: str) -> None:
        from optuna.trial import TrialState

        states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        end = {"seconds": round(seconds, 6), "elapsed": round(self._elapsed(), 6), "reason": "" if reason == "pruned" else reason}
        trial.set_user_attr("end", end)
        closed = self.study.tell(trial.number, value, state=states[state])
        if reason == "surplus":
            return
        ended = [one for one in self._trials() if one.state.is_finished()]
        scores = [one.value for one in ended if one.state == TrialState.COMPLETE]
        best = (max if self.direction == "maximize" else min)(scores, default=None)
        self.progress.advance(len(ended), self.tuning.n_trials, "trials" if best is None else f"trials, best {best:.4g}")
        entry = _entry(closed)
        self.events.emit("trial", **entry)
        if state == "complete":
            self._note_warmup(closed)

    def _trials(self) -> list[Any]:
        trials: list[Any] = self.study.get_trials(deepcopy=False)
        return trials

    def _elapsed(self) -> float:
        return self.spent + time.perf_counter() - self.started

    def _bury(self) -> None:
        """Trials that were running when their process died are failed now."""
        from optuna.storages import fail_stale_trials
        from optuna.trial import TrialState

        if self.storage is not None:
            fail_stale_trials(self.study)
        for trial in self._trials():
            # The folder's lock is ours: no living process of this name has a running trial.
            mine = self.storage is None or _start(trial).get("worker") == self.worker
            if mine and trial.state == TrialState.RUNNING:
                self.study.tell(trial.number, state=TrialState.FAIL)
                self.events.emit("trial", **_entry(self._trials()[trial.number]))

    def _sampler(self, draw: int) -> Any:
        from optuna.samplers import PartialFixedSampler, TPESampler

        alone = self.storage is None
        words = (self.seed, draw) if alone else (self.seed, draw, zlib.crc32(self.worker.encode()))
        state = int(np.random.SeedSequence(words).generate_state(1)[0])
        # One sampler per draw: its state is its seed. `group` learns each branch of a conditional space by itself, and bears
        # trials without parameters; the constant liar keeps workers apart, and costs a record where there is only one.
        sampler = TPESampler(seed=state, multivariate=True, group=True, constant_liar=not alone or self.n_jobs > 1)
        fixed = self.space.fixed() if draw == 0 else None
        return sampler if fixed is None else PartialFixedSampler(fixed, sampler)

    # saying what happened

    def _note_pruner(self) -> None:
        pruning = self.tuning.pruning
        if _prunes(pruning) and pruning.n_startup_trials >= self.tuning.n_trials:
            self._note(
                f"no trial can be pruned: pruning starts after {pruning.n_startup_trials} trials (n_startup_trials), "
                f"and there are {self.tuning.n_trials}"
            )

    def _note_warmup(self, trial: Any) -> None:
        pruning, steps = self.tuning.pruning, len(trial.intermediate_values)
        if not _prunes(pruning):
            return
        if not steps:
            self._note("no trial can be pruned: nothing is known of the tuned metric before a trial ends")
        elif max(trial.intermediate_values) < pruning.n_warmup_steps:
            self._note(
                f"no trial can be pruned: a trial reports {steps} times before it ends, and pruning starts after "
                f"{pruning.n_warmup_steps} (n_warmup_steps)"
            )

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
            log.warning("%s", text)

    def outcome(self, *, detail: bool) -> Tuned:
        """What was found; TrainingFailed where no trial has a score."""
        history = tuple(_entry(trial) for trial in self._trials() if trial.state.is_finished() and _end(trial).get("reason") != "surplus")
        complete = [trial for trial in history if trial["state"] == "complete"]
        if not complete:
            reasons = Counter(str(trial.get("reason", trial["state"])) for trial in history)
            reason, times = reasons.most_common(1)[0]
            often = f" ({times} times)" if times > 1 else ""
            raise TrainingFailed(
                f"none of {len(history)} trials has a score: {reason}{often}", hint="see the log for each", slug="every-trial-failed"
            )
        sign = -1.0 if self.direction == "maximize" else 1.0
        best = min(complete, key=lambda trial: (sign * trial["value"], trial["number"]))
        seconds = self._elapsed()
        importances = _importances(self.study, [one.name for one in self.space.ranges]) if detail else {}
        return Tuned(best["params"], best["value"], history, seconds, self.direction, importances, tuple(self.notes))


class _Report:
    """What `evaluate` calls after each step. `said`: why the trial should stop, once that was said."""

    def __init__(self, search: _Search, trial: Any, *, defaults: bool) -> None:
        self.search, self.trial, self.defaults = search, trial, defaults
        self.last, self.warned = -1, False
        self.said = ""

    def __call__(self, step: int, value: float) -> bool:
        search, pruning = self.search, self.search.tuning.pruning
        if step <= self.last:  # a trial has one clock; Optuna would drop the report without a word
            if not self.warned:
                search.events.emit("report-ignored", trial=self.trial.number, step=step, after=self.last)
                self.warned = True
            return bool(self.said)
        self.last = step
        with search.lock:
            self.trial.report(float(value), step)
            if self.defaults or self.said:
                return bool(self.said)
            if search.stopped.is_set():
                self.said = "interrupted"
            elif search._elapsed() >= search.timeout:
                self.said = "out of time"
            elif _prunes(pruning) and step >= pruning.n_warmup_steps and self._others() >= pruning.n_startup_trials:
                self.said = "pruned" if self.trial.should_prune() else ""
        return bool(self.said)

    @property
    def verdict(self) -> tuple[str, None, str]:
        """(state, score, reason) of a trial that was told to stop; one that another's error stopped was interrupted."""
        return "failed" if self.said == "interrupted" else "pruned", None, self.said

    def _others(self) -> int:
        from optuna.trial import TrialState

        return sum(trial.state == TrialState.COMPLETE for trial in self.search._trials())


def _next_draw(trials: Sequence[Any]) -> int:
    """The smallest draw that nobody ends or tries; draws that were interrupted come again, up to `ATTEMPTS` times."""
    interrupted: Counter[int] = Counter()
    taken = set()
    for trial in trials:
        draw = _start(trial).get("draw")
        if draw is None:
            continue
        if _interrupted(trial):
            interrupted[draw] += 1
        else:
            taken.add(draw)
    taken |= {draw for draw, times in interrupted.items() if times >= ATTEMPTS}
    draw = 0
    while draw in taken:
        draw += 1
    return draw


def _start(trial: Any) -> Mapping[str, Any]:
    """What was written when the trial began: draw, values, worker; nothing where the process died before."""
    found: Mapping[str, Any] = trial.user_attrs.get("start", {})
    return found


def _end(trial: Any) -> Mapping[str, Any]:
    """What was written when it ended: seconds, elapsed (of the search), reason; nothing where the process died before."""
    found: Mapping[str, Any] = trial.user_attrs.get("end", {})
    return found


def _interrupted(trial: Any) -> bool:
    from optuna.trial import TrialState

    return bool(trial.state == TrialState.FAIL and _end(trial).get("reason", "interrupted") == "interrupted")


def _entry(trial: Any) -> dict[str, Any]:
    """A trial as hpo.json has it."""
    from optuna.trial import TrialState

    states = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    entry: dict[str, Any] = {
        "number": trial.number,
        "value": None if trial.value is None or not math.isfinite(trial.value) else trial.value,
        "params": dict(_start(trial).get("values", {})),
        "state": states[trial.state],
        "seconds": _end(trial).get("seconds", 0.0),
    }
    reason = _end(trial).get("reason") or ("interrupted" if trial.state == TrialState.FAIL else "")
    return {**entry, "reason": reason} if reason else entry


def _prunes(pruning: Pruning) -> bool:
    return pruning.enabled and pruning.algorithm != "NopPruner"


def _pruner(pruning: Pruning) -> Any:
    """Optuna's pruner. Start-up trials and warm-up are counted by `_Report`, for all of them in the same way.

    Median and percentile compare the value at this step with those of the trials that ended, at the same step. Optuna's own
    compare the best value of all steps so far: over fold means an easy first fold is never fallen below, and nothing is pruned.
    """
    from optuna import pruners

    if not _prunes(pruning):
        return pruners.NopPruner()
    if pruning.algorithm == "HyperbandPruner":
        return pruners.HyperbandPruner(min_resource=1, reduction_factor=3)
    if pruning.algorithm == "SuccessiveHalvingPruner":
        return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    kept = {"MedianPruner": 50.0, "PercentilePruner": 25.0}[pruning.algorithm]

    class Percentile(pruners.BasePruner):
        """Stops a trial that is not among the best `kept` percent at its last step."""

        def prune(self, study: Any, trial: Any) -> bool:
            from optuna.study import StudyDirection
            from optuna.trial import TrialState

            step = trial.last_step
            ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            others = [other.intermediate_values[step] for other in ended if step in other.intermediate_values]
            others = [value for value in others if math.isfinite(value)]
            value = trial.intermediate_values[step]
            if not others:
                return False
            if study.direction == StudyDirection.MAXIMIZE:
                return bool(not value >= np.percentile(others, 100.0 - kept))  # NaN is pruned
            return bool(not value <= np.percentile(others, kept))

    return Percentile()


def _importances(study: Any, names: Sequence[str]) -> dict[str, float]:
    """PED-ANOVA: which parameters separate the best tenth of the trials from the rest; needs a few of them to say so."""
    from optuna import create_study
    from optuna.importance import get_param_importances
    from optuna.trial import TrialState

    complete = [trial for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if trial.params]
    if len(complete) < 10 or len({trial.value for trial in complete}) < 2:
        return {}
    seen = {name for trial in complete for name in trial.params}
    # Defaults from outside of the space have no parameters there; among the others they would make each one a conditional one.
    judged = create_study(direction=study.direction)
    judged.add_trials(complete)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some regimes")  # a branch that was hardly tried
        found = get_param_importances(judged, params=[name for name in names if name in seen])
    return {name: float(share) for name, share in found.items() if math.isfinite(share)}


# --- where the study stands ------------------------------------------------------------------------


def _open(storage: str | None, folder: Path, direction: Direction) -> tuple[_Journal | _Shared, Any]:
    """Where the study stands, and the study, made or gone on with."""
    import optuna

    place = files.shown(folder / "study.log") if storage is None else files.without_credentials(storage)
    try:
        home = _Journal(folder / "study.log") if storage is None else _Shared(storage)
        study = optuna.create_study(
            storage=home.storage,
            study_name="search" if storage is None else "/".join(folder.resolve().parts[-3:]),
            direction=direction,
            load_if_exists=True,
        )
    except ImportError as error:
        raise MissingLibrary(str(error.name or "the database's driver"), _extra(place), place) from error
    except Exception as error:
        if storage is None and isinstance(error, (ValueError, KeyError, TypeError)):
            message = "the journal of the search cannot be read"
            raise Damaged(message, hint="remove the file to search anew", slug="study", where=place) from error
        if type(error).__module__.split(".")[0] in {"sqlalchemy", "optuna", "alembic"}:
            message = "the storage of the search does not answer"
            raise Unavailable(message, hint="is it running, and the address right?", where=place) from error
        raise
    if study.direction.name.lower() != direction:
        message = f"the study {study.study_name} was made to {study.direction.name.lower()}"
        raise Conflict(message, hint="name another storage", slug="study", where=place)
    return home, study


def _extra(place: str) -> str:
    scheme = place.split(":", 1)[0].split("+", maxsplit=1)[0]
    return {"mysql": "mysql", "postgresql": "postgres", "postgres": "postgres"}.get(scheme, scheme)


def _made(make: Callable[[], Any]) -> Any:
    """A storage whose tables several workers may be making at this moment: who finds them half made looks again."""
    for wait in (0.1, 0.3, 1.0, 3.0):
        try:
            return make()
        except Exception as error:
            if not re.search(r"already exists|duplicate|unique|locked", str(error), re.IGNORECASE):
                raise
            time.sleep(wait)
    return make()


class _Shared:
    """A database, or a journal file, that several workers write; Optuna does it at once, record by record."""

    def __init__(self, storage: str) -> None:
        from optuna.storages import JournalStorage, RDBStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        self.storage: Any
        if "://" in storage:
            self.storage = _made(lambda: RDBStorage(storage, heartbeat_interval=BEAT, grace_period=4 * BEAT))
        else:
            Path(storage).parent.mkdir(parents=True, exist_ok=True)
            self.storage = JournalStorage(JournalFileBackend(storage, JournalFileOpenLock(storage)))

    def flush(self) -> None:
        return None

    def close(self) -> None:
        engine = getattr(self.storage, "engine", None)
        if engine is not None:
            self.storage.remove_session()
            engine.dispose()


class _Journal:
    """Optuna's journal, written by one process only: kept in memory, appended to the file in one piece by `flush`.

    Optuna's own way appends, locks and reads back for each of the dozen records of a trial: 1.6 ms per trial more.
    A last line that was not written whole, after a power cut, is as if never written.
    """

    def __init__(self, path: Path) -> None:
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        if path.exists():
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if len(whole) < len(data):
                files.write_bytes(path, whole)
        self._path = path
        # Our lock on the folder serves; Optuna's own would be left behind by a kill, and waited for.
        self._file = JournalFileBackend(str(path), _NoLock())  # type: ignore[arg-type]
        self._logs: list[dict[str, Any]] = list(self._file.read_logs(0))
        self._written = len(self._logs)
        self.storage: Any = JournalStorage(self)  # type: ignore[arg-type]

    def close(self) -> None:
        self.flush()

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._logs.extend(logs)

    def flush(self) -> None:
        waiting = self._logs[self._written :]
        if waiting:
            try:
                self._file.append_logs(waiting)
            except OSError as error:
                raise Exhausted(f"the journal of the search cannot be written: {error.strerror}", where=files.shown(self._path)) from error
            self._written += len(waiting)


class _NoLock:
    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        return None


@contextmanager
def _sign_of_life(study: Any, trial: Any, *, shared: bool) -> Iterator[None]:
    """While the trial runs, a database hears of it every `BEAT` seconds; what is silent is failed by the other workers."""
    beat = getattr(study._storage, "record_heartbeat", None) if shared else None
    if beat is None:
        yield
        return
    over = threading.Event()

    def beating() -> None:
        while True:
            beat(trial._trial_id)
            if over.wait(BEAT):
                return

    thread = threading.Thread(target=beating, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna says nothing by itself: what happens is in the events. Its level is the caller's again afterwards."""
    from optuna import logging as optuna_logging
    from optuna.exceptions import ExperimentalWarning

    level = optuna_logging.get_verbosity()
    optuna_logging.set_verbosity(optuna_logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Grouped TPE, fixed parameters and heartbeats have been experimental since 2021; the tests hold us to what they do.
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.filterwarnings("ignore", message="Heartbeat of storage")  # `_sign_of_life` beats where `optimize` would
            yield
    finally:
        optuna_logging.set_verbosity(level)
