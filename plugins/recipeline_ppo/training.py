"""The loop around a learner: checkpoints, resume after a crash, rollback after an accident, and a record of all of it.

folder/
    checkpoints/checkpoint_000005000/   see `checkpoints`
    ops_events.jsonl                    every event, a line each, with the step
    updates.jsonl                       the metrics of every update: the learning curve
"""

from __future__ import annotations

import inspect
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipeline.contracts import Events, Progress, Silent
from recipeline.errors import Exhausted, Problem, RecipeError, did_you_mean
from recipeline.operations import RULES, InMemory, NonFinite, OpsHarness, Relative, Rollback, Rotation, Rule, nonfinite_in, standard_rules
from recipeline.operations.harness import EpisodeLog
from recipeline.stores.ledgers import Ledger
from recipeline_ppo.checkpoints import SHARE, CheckpointFolder
from recipeline_ppo.config import SCHEDULED
from recipeline_ppo.feedback import Retuner, RetunerSettings
from recipeline_ppo.learner import Capture, Learner, State
from recipeline_ppo.monitoring import Exporter, OperationsMetricsCollector, Several

log = logging.getLogger("recipeline")

EVENTS, UPDATES = "ops_events.jsonl", "updates.jsonl"
CHECKPOINT: dict[str, Any] = {"every_steps": 500, "keep": 5, "probation": 10, "strict": False, "share": SHARE}
METRICS = ("textfile", "gateway", "job", "seconds", "timeout")
LITERAL = {"loss": 2.0, "reward": 0.5}
TOLD_EVERY = 5.0  # seconds after which events, learning curve and metrics go out, between checkpoints
SETTLES_AFTER = 30  # updates after a retuning until it is checked
REPORTS = 20  # times that a search is told how training goes
BOUNDS = {"learning_rate": (0.0, 1.0), "clip": (0.0, 1.0), "ent_coef": (0.0, 1.0)}


class Operations:
    """What a recipe says under `operations`: how a training is kept alive.

    checkpoint  {every_steps: 500, keep: 5, probation: 10, strict: false, share: 0.005}: probation in updates; `share` of the
                time that may go into writing (`CheckpointFolder`); false: none on the disk
    anomaly     {mode: robust} or arguments of the rules by name, `return_drop: {patience: 8}`, `stuck: false`;
                {mode: seed, loss: 2.0, reward: 0.5}: the literal rules, each against the update before; false: none
    rollback    arguments of `recipeline.operations.Rollback`; false: alarms only warn
    retuning    {address, mode: suggest | apply | checked, …} as in `feedback.RetunerSettings`: hyperparameters from users' ratings
    metrics     {textfile, gateway, seconds}: where Prometheus metrics are sent
    bounds      {learning_rate: [low, high], …} of the values in force
    episodes    whose mean return is watched
    """

    def __init__(
        self,
        checkpoint: dict[str, Any] | bool | None = None,
        anomaly: dict[str, Any] | bool | None = None,
        rollback: dict[str, Any] | bool | None = None,
        retuning: dict[str, Any] | None = None,
        metrics: dict[str, Any] | None = None,
        bounds: dict[str, Any] | None = None,
        episodes: int = 40,
    ) -> None:
        self.checkpoint, self.anomaly, self.rollback = checkpoint, anomaly, rollback
        self.retuning, self.metrics, self.bounds, self.episodes = retuning, metrics, bounds, episodes
        problems = self.check(vars(self), {}, "")
        if problems:
            raise RecipeError(problems)

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        """Every mistake, with its key."""
        found: list[Problem] = []
        _known(found, ("checkpoint",), params.get("checkpoint"), CHECKPOINT)
        _at_least(found, ("checkpoint",), params.get("checkpoint"), {"every_steps": 1, "keep": 1, "probation": 0})
        share = params["checkpoint"].get("share", SHARE) if isinstance(params.get("checkpoint"), Mapping) else SHARE
        if not (_number(share) and 0 < share <= 1):
            found.append(Problem("bad-value", ("checkpoint", "share"), f"{share!r} is not above 0 and at most 1", at="value"))
        anomaly = params.get("anomaly")
        if isinstance(anomaly, Mapping):
            mode = anomaly.get("mode", "robust")
            if mode not in ("robust", "seed"):
                found.append(Problem("bad-value", ("anomaly", "mode"), f"{mode!r} is not one of robust, seed", at="value"))
            elif mode == "seed":
                _known(found, ("anomaly",), anomaly, {"mode": 0, **LITERAL})
            else:
                _known(found, ("anomaly",), anomaly, {"mode": 0, **RULES})
                for name, arguments in anomaly.items():
                    if name in RULES:
                        _builds(found, ("anomaly", name), RULES[name], arguments)
        elif anomaly not in (None, True, False):
            found.append(Problem("bad-value", ("anomaly",), f"{anomaly!r} is not a mapping, true or false", at="value"))
        _builds(found, ("rollback",), Rollback, params.get("rollback"))
        retuning = params.get("retuning")
        if retuning is not None:
            rest = {key: value for key, value in retuning.items() if key != "address"} if isinstance(retuning, Mapping) else retuning
            _builds(found, ("retuning",), RetunerSettings, rest)
            if isinstance(retuning, Mapping) and "address" not in retuning:
                hint = "name the database of the ratings: sqlite:///feedback.db"
                found.append(Problem("missing-key", ("retuning",), "address is missing", hint))
        _known(found, ("metrics",), params.get("metrics"), dict.fromkeys(METRICS))
        bounds = params.get("bounds")
        _known(found, ("bounds",), bounds, dict.fromkeys(SCHEDULED))
        for name, pair in bounds.items() if isinstance(bounds, Mapping) else ():
            good = isinstance(pair, list | tuple) and len(pair) == 2 and all(_number(x) for x in pair) and 0 <= pair[0] <= pair[1]
            if not good:
                found.append(Problem("bad-value", ("bounds", name), f"{pair!r} is not [low, high] with 0 <= low <= high", at="value"))
        episodes = params.get("episodes", 40)
        if isinstance(episodes, bool) or not isinstance(episodes, int) or episodes < 10:
            found.append(Problem("bad-value", ("episodes",), f"{episodes!r} is not a whole number of at least 10", at="value"))
        return found

    def rules(self) -> list[Rule]:
        if self.anomaly is False:
            return []
        given = dict(self.anomaly) if isinstance(self.anomaly, Mapping) else {}
        if given.pop("mode", "robust") == "seed":
            loss, reward = (given.get(name, LITERAL[name]) for name in ("loss", "reward"))
            literal: dict[str, Any] = {"severity": "rollback", "cooldown": 0}
            return [NonFinite(), Relative("policy_loss", loss, **literal), Relative("return_recent", reward, **literal)]
        return standard_rules(given)

    def harness(self, learner: Learner, writer: Any, events: Events) -> OpsHarness:
        """These operations around a learner, its schedules included."""
        given = {**CHECKPOINT, **(self.checkpoint if isinstance(self.checkpoint, Mapping) else {})}
        rotation = Rotation(
            writer, every=given["every_steps"], keep=given["keep"], probation=given["probation"], strict=given["strict"], events=events,
            check=_not_finite,
        )  # fmt: skip
        limits = None if self.rollback is False else Rollback(**(self.rollback if isinstance(self.rollback, Mapping) else {}))
        return OpsHarness(
            hparams={name: learner.config.schedule(name) for name in SCHEDULED},
            bounds={**BOUNDS, **{name: (float(low), float(high)) for name, (low, high) in (self.bounds or {}).items()}},
            rules=self.rules(),
            rotation=rotation,
            rollback=limits,
            episodes=EpisodeLog(self.episodes, min(10, self.episodes)),
            events=events,
        )


@dataclass
class Training:
    """What a training was.

    history        a mapping per update, oldest first: step, the metrics of `Learner.iterate`, episode returns and lengths;
                   updates that were undone by a rollback carry `undone: true`
    events         what happened, each with event and step
    resumed        the step gone on from, None for a fresh start        exact: whether that was to the bit
    stopped        a search ended it before its last step
    """

    step: int
    history: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    rollbacks: int = 0
    undone_steps: int = 0
    resumed: int | None = None
    exact: bool = True
    stopped: bool = False


def train(
    learner: Learner,
    total_steps: int,
    operations: Operations | None = None,
    folder: str | Path | None = None,
    *,
    progress: Progress | None = None,
    events: Events | None = None,
    evaluate: Callable[[], float] | None = None,
    each: Callable[[int, Mapping[str, Any]], bool] | None = None,
    identity: Mapping[str, Any] | None = None,
    score: Callable[[Sequence[tuple[float, int]]], float | None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Training:
    """Train to exactly `total_steps` environment steps, from the newest checkpoint in `folder` where there is one.

    operations  None: the standard ones          folder    None: nothing is kept on the disk, rollback works from memory
    progress    told at each update, and at `REPORTS` fixed steps of the score of recent episodes; True from it ends training
    score       of the (return, length) of recent episodes, at least ten; None from it: nothing to tell. None: their mean return
    evaluate    a score of the present policy, for retuning in the mode checked
    each        called as each(step, metrics) after every update; True ends training
    identity    beside spaces, networks and number of environments: what a checkpoint must share to be gone on from

    A run that was killed and is called again ends with the same bits as one that was not, on one machine and where environments
    can be brought back (`Environments.exact`). Called with more steps, a finished training goes on.
    RollbacksExhausted where training keeps going wrong; Conflict where the folder holds another training's checkpoints.
    """
    operations = operations or Operations()
    progress, events = progress or Silent(), events or Silent()
    record = _Record(Path(folder) if folder is not None else None)
    collector = OperationsMetricsCollector()
    told = Several([record, None if isinstance(events, Silent) else events, collector])
    exporter = Exporter(**operations.metrics) if operations.metrics else None
    with ExitStack() as stack:
        if exporter is not None:
            stack.callback(exporter.close)
        stack.callback(record.flush, told)
        loop = _Loop(learner, operations, record, told, evaluate, identity, score, clock)
        stack.callback(loop.close)
        return loop.run(total_steps, progress, collector, each)


class _Loop:
    def __init__(
        self, learner: Learner, operations: Operations, record: _Record, events: Events, evaluate: Callable[[], float] | None,
        identity: Mapping[str, Any] | None, score: Callable[[Sequence[tuple[float, int]]], float | None] | None, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.score = score
        self.recent: deque[tuple[int, float, int]] = deque(maxlen=operations.episodes)  # step, return, length
        self.learner, self.record, self.events, self._clock = learner, record, events, clock
        self.writer: CheckpointFolder | None = None
        if record.folder is not None and operations.checkpoint is not False:
            given = {**CHECKPOINT, **(operations.checkpoint if isinstance(operations.checkpoint, Mapping) else {})}
            whose = {**_identity(learner), **(identity or {})}
            self.writer = CheckpointFolder(record.folder / "checkpoints", identity=whose, share=given["share"], events=events, clock=clock)
            self.writer.refuse_foreign()
            self.writer.before = lambda: record.flush(events)
        self._get_state = learner.capture
        self.harness = operations.harness(learner, self.writer if self.writer is not None else InMemory(), events)
        self.retuner = self._retuner(operations, evaluate)
        self.inexact = False
        self._due = 0  # the update at which a retuning is checked

    def run(
        self, total: int, progress: Progress, collector: OperationsMetricsCollector, each: Callable[[int, Mapping[str, Any]], bool] | None
    ) -> Training:
        learner, harness, record = self.learner, self.harness, self.record
        done = Training(learner.step)
        done.resumed = harness.resume(self._set_state, learner.set_hparam)
        if done.resumed is None:
            self._say_anew()
            record.start()
            harness.start(learner.step, self._get_state, learner.set_hparam)
        else:
            record.resume(harness.updates)
            self.events.emit("resumed", step=done.resumed, exact=not self.inexact)
        done.exact = not self.inexact
        every = max(1, total // REPORTS)
        saved = learner.step
        flushed, counted = self._clock(), harness.updates
        metrics: Mapping[str, Any] = {}
        while learner.step < total and not done.stopped:
            before = learner.step
            metrics = learner.iterate(total)
            step = learner.step
            if metrics["nonfinite"]:
                self.events.emit("transitions_dropped", step=step, count=metrics["nonfinite"])
            record.update(harness.updates + 1, step, metrics)  # before a checkpoint that holds it is written
            watched = _finite(metrics) if metrics["nonfinite"] and not metrics["epochs"] else metrics
            outcome = harness.update(step, watched, self._get_state, self._set_state, learner.set_hparam)
            if outcome.restored is not None and outcome.restored_step is not None:
                done.rollbacks += 1
                done.undone_steps += step - outcome.restored_step
                record.undo(harness.updates, outcome.restored_step)
            saved = step if outcome.saved else saved
            self._retune()
            self._remember(step, metrics, outcome.restored_step)
            if outcome.restored is None and step // every > before // every and (scored := self._scored()) is not None:
                done.stopped = progress.report(step // every * every, scored)  # whatever the rollout: trials are compared step by step
            progress.advance(min(learner.step, total), total, "steps")
            done.stopped = done.stopped or bool(each is not None and each(step, metrics))
            if self._clock() - flushed >= TOLD_EVERY:
                collector.record_training(metrics, step, updates=harness.updates - counted)
                record.flush(self.events)
                flushed, counted = self._clock(), harness.updates
        if harness.updates > counted:
            collector.record_training(metrics, learner.step, updates=harness.updates - counted)
        if self.writer is not None:
            self.writer.settle()
            if learner.step not in (saved, done.resumed):
                harness.save(learner.step, self._get_state)
        self.events.emit("stopped" if done.stopped else "finished", step=learner.step)
        done.step, done.history, done.events = learner.step, record.history, record.events
        return done

    def _remember(self, step: int, metrics: Mapping[str, Any], back_to: int | None) -> None:
        """Episodes of this update for the score; those that a rollback undid are forgotten."""
        if self.score is None:
            return
        self.recent.extend((step, *one) for one in zip(metrics["episode_returns"], metrics["episode_lengths"], strict=True))
        if back_to is not None:
            self.recent = deque((one for one in self.recent if one[0] <= back_to), self.recent.maxlen)

    def _scored(self) -> float | None:
        """The score of recent episodes; None while too few are known."""
        if self.score is None:
            return self.harness.episodes.mean()
        return None if len(self.recent) < self.harness.episodes.at_least else self.score([one[1:] for one in self.recent])

    def _say_anew(self) -> None:
        """Steps that were paid for are made again: nobody should find that out from the clock."""
        lost = len(self.writer.infos()) + len(self.writer.damaged) if self.writer is not None else 0
        if lost:
            self.events.emit("started_anew", step=self.learner.step, unreadable=lost)
            log.warning("none of %d checkpoints can be gone on from: training begins at step %d", lost, self.learner.step)

    def close(self) -> None:
        """What is in memory only goes to the disk."""
        if self.writer is None:
            return
        try:
            self.writer.flush()
        except Exhausted as error:
            if self.harness.rotation.strict:
                raise
            self.events.emit("checkpoint_failed", step=self.learner.step, reason=str(error))

    def _set_state(self, state: Mapping[str, Any], advance: int) -> None:
        exact = self.learner.restore(State(dict(state["arrays"]), dict(state["info"])), advance=advance)
        if not exact:
            self.inexact = True
            self.events.emit("episodes_restarted", step=self.learner.step, reason="an environment could not bring back its running episode")

    def _retuner(self, operations: Operations, evaluate: Callable[[], float] | None) -> Retuner | None:
        if not operations.retuning:
            return None
        settings = {key: value for key, value in operations.retuning.items() if key != "address"}
        return Retuner(
            operations.retuning["address"],
            settings=RetunerSettings(**settings),
            value=self.learner.hparam,
            apply=self._apply,
            evaluate=evaluate,
            events=self.events,
        )

    def _apply(self, name: str, factor: float) -> None:
        retune = self.harness.retune
        retune[name] = retune.get(name, 1.0) * factor
        self.learner.set_hparam(name, self.harness.value(name, self.learner.step))

    def _retune(self) -> None:
        """Ratings are asked for every 30 updates; in the mode checked the change before is judged first."""
        if self.retuner is not None and self.harness.updates >= self._due:
            self._due = self.harness.updates + SETTLES_AFTER
            self.retuner.settle()
            self.retuner.judge()


class _Record:
    """History and events, in memory and as ledgers in the folder. It listens to events."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.history: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self._ledgers = (Ledger(folder / EVENTS), Ledger(folder / UPDATES)) if folder is not None else None

    def start(self) -> None:
        """A fresh training: what an attempt without a checkpoint left is no part of it."""
        if self._ledgers is not None:
            new = len(self.events)
            before = len(self._ledgers[0].read()) - new
            lines = iter(range(before + new))
            self._ledgers[0].cut(lambda _: next(lines) >= before)
            self._ledgers[1].cut(lambda _: False)

    def resume(self, updates: int) -> None:
        """Updates after the checkpoint will be made again; events did happen, and stay."""
        if self._ledgers is not None:
            self.events = self._ledgers[0].read()
            self.history = history_of(self._ledgers[1].cut(lambda row: row["update"] <= updates))

    def emit(self, name: str, /, **fields_: Any) -> None:
        event = {"event": name, **fields_}
        self.events.append(event)
        if self._ledgers is not None:
            self._ledgers[0].add(event)

    def update(self, number: int, step: int, metrics: Mapping[str, Any]) -> None:
        row = {"update": number, "step": step, **metrics}
        self.history.append(row)
        if self._ledgers is not None:
            self._ledgers[1].add(row)

    def undo(self, number: int, back_to: int) -> None:
        _undo(self.history, back_to)
        if self._ledgers is not None:
            self._ledgers[1].add({"update": number, "undone_after": back_to})

    def flush(self, events: Events) -> None:
        for ledger in self._ledgers or ():
            try:
                ledger.flush()
            except Exhausted as error:  # the training itself is well; the lines are written when there is room again
                events.emit("record_failed", reason=str(error))


def history_of(lines: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`Training.history` from the lines of updates.jsonl."""
    rows: list[dict[str, Any]] = []
    for line in lines:
        if "undone_after" in line:
            _undo(rows, line["undone_after"])
        else:
            rows.append(dict(line))
    return rows


def _undo(rows: list[dict[str, Any]], back_to: int) -> None:
    for row in reversed(rows):
        if row["step"] <= back_to and not row.get("undone", False):
            break
        row["undone"] = True


def _identity(learner: Learner) -> dict[str, Any]:
    """What a checkpoint must share with a learner to be gone on from."""
    policy = learner.state().info["policy"]
    kept = {name: policy[name] for name in ("network", "hidden", "activation", "squash", "observation", "action")}
    return {**kept, "n_envs": learner.environments.n_envs, "observation_normalizer": learner.normalizer is not None}


def _not_finite(whole: Mapping[str, Any]) -> str | None:
    """The place of what is not finite in what was learned; environments are looked at when they step, metrics after every update."""
    state: Capture = whole["state"]
    if any(map(nonfinite_in, state.buffers)):
        return nonfinite_in(state["arrays"])
    return None if state.rewards is None else nonfinite_in(state.rewards, "rewards")


def _finite(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Of a rollout that was dropped whole: no update was made of it, and losses that do not exist are no accident of the policy."""
    return {name: value for name, value in metrics.items() if not isinstance(value, float) or math.isfinite(value)}


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _known(found: list[Problem], key: tuple[str, ...], given: Any, known: Mapping[str, Any]) -> None:
    """A mapping of known names, true, false or nothing."""
    if given is None or isinstance(given, bool):
        return
    if not isinstance(given, Mapping):
        found.append(Problem("bad-value", key, f"{given!r} is not a mapping", at="value"))
        return
    found += [
        Problem("unknown-key", (*key, str(name)), "unknown key", did_you_mean(str(name), known)) for name in given if name not in known
    ]


def _at_least(found: list[Problem], key: tuple[str, ...], given: Any, least: Mapping[str, float]) -> None:
    for name, lowest in least.items():
        value = given.get(name, lowest) if isinstance(given, Mapping) else lowest
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            found.append(Problem("bad-value", (*key, name), f"{value!r} is not a whole number of at least {lowest}", at="value"))


def _builds(found: list[Problem], key: tuple[str, ...], kind: Any, given: Any) -> None:
    """Whether `kind` takes these arguments, and likes them."""
    names = {
        parameter.name
        for owner in (kind, Rule if isinstance(kind, type) and issubclass(kind, Rule) else kind)
        for parameter in inspect.signature(owner).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    before = len(found)
    _known(found, key, given, dict.fromkeys(names))
    if len(found) == before and isinstance(given, Mapping):
        try:
            kind(**given)
        except (TypeError, ValueError) as error:
            found.append(Problem("bad-value", key, str(error), at="value"))
