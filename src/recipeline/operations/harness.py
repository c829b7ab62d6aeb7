"""Schedules, checkpoints, rules and rollback around any training loop."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from recipeline.contracts import Events, Silent
from recipeline.errors import Damaged, TrainingFailed
from recipeline.operations.anomalies import Anomaly, NonFinite, ReturnDrop, Rule, standard_rules
from recipeline.operations.checkpoints import Rotation
from recipeline.operations.schedules import Schedule

FOLLOWING = 10  # episodes after a checkpoint by which it is judged
MANY = 32  # checkpoints judged, among which those that are gone are then forgotten


class EpisodeLog:
    """Returns of episodes with the step they ended at: the mean of the last `size` from `at_least` on, and how noisy they are."""

    def __init__(self, size: int = 20, at_least: int = 10, memory: int = 200) -> None:
        self.at_least = at_least
        self.recent: deque[float] = deque(maxlen=size)
        self.steps: deque[int] = deque(maxlen=max(size, memory))
        self.returns: deque[float] = deque(maxlen=max(size, memory))
        self._mean: float | None = None  # of `recent`, where it was asked for since that changed

    @property
    def entries(self) -> list[tuple[int, float]]:
        return list(zip(self.steps, self.returns, strict=True))

    def add(self, step: int, returns: Sequence[float]) -> None:
        for r in returns:
            if math.isfinite(r):
                r = float(r)
                self.steps.append(step)
                self.returns.append(r)
                self.recent.append(r)
                self._mean = None

    def mean(self) -> float | None:
        count = len(self.recent)
        if self._mean is None and count >= self.at_least:
            self._mean = math.fsum(self.recent) / count
        return self._mean

    def error(self) -> float:
        """Standard error of the difference of two such means, were training at a standstill: from differences of successive
        returns, which a trend hardly touches (von Neumann 1941). Infinite while fewer than ten are known.
        """
        values = list(self.returns)
        if len(values) < 10:
            return math.inf
        square = math.fsum((y - x) ** 2 for x, y in itertools.pairwise(values)) / (2 * (len(values) - 1))
        return math.sqrt(2 * square / len(self.recent))

    def since(self, step: int) -> list[float]:
        """Returns of the episodes that ended at `step` or later, as far as they are remembered."""
        return [r for s, r in zip(self.steps, self.returns, strict=True) if s >= step]

    def restore(self, steps: Iterable[int], returns: Iterable[float]) -> None:
        for known in (self.steps, self.returns, self.recent):
            known.clear()
        self._mean = None
        self.steps.extend(steps)
        self.returns.extend(returns)
        self.recent.extend(self.returns)


class RollbacksExhausted(TrainingFailed):
    """Training keeps going wrong, or there is nothing to go back to."""

    slug = "rollbacks-exhausted"


@dataclass(frozen=True)
class Rollback:
    """Limits of going back. Updates count calls of `update`, whatever the steps do.

    backoff   factor on `hparam`, taken back over `recovery` clean updates
    gain      a fall of the return is gone back for only to a checkpoint that was better: the first ten episodes that ended in its
              probation, by more than this share of all that the return ever moved, than those since the onset. The three newest
              good ones are asked. What learning itself has lost, they have lost, too, and it is not won by going back.
              Loops that tell no `episode_returns` always go back
    deeper    a rollback within so many updates of the last goes further back than that one did
    per_run   so many in all; `per_window` of them within `window` updates; then RollbacksExhausted, or on without when not `stop`
    """

    hparam: str = "learning_rate"
    backoff: float = 0.5
    recovery: int = 30
    gain: float = 0.5
    deeper: int = 60
    per_run: int = 5
    per_window: int = 3
    window: int = 100
    stop: bool = True

    def __post_init__(self) -> None:
        if not (isinstance(self.backoff, int | float) and 0 < self.backoff <= 1):
            raise ValueError(f"rollback: backoff lies in (0, 1]; got {self.backoff!r}")
        if isinstance(self.gain, bool) or not (isinstance(self.gain, int | float) and 0 <= self.gain < 1):
            raise ValueError(f"rollback: gain lies in [0, 1); got {self.gain!r}")
        for name in ("recovery", "deeper", "per_run", "per_window", "window"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < (1 if name in ("recovery", "window") else 0):
                raise ValueError(f"rollback: {name} is a whole number of updates or times; got {value!r}")
        if not isinstance(self.stop, bool) or not isinstance(self.hparam, str):
            raise ValueError("rollback: stop is true or false, hparam a name")  # noqa: TRY004  as the others are told


@dataclass(frozen=True)
class Outcome:
    """What one update led to: alarms raised, the checkpoint written, the one gone back to and its step."""

    anomalies: tuple[Anomaly, ...] = ()
    saved: str | None = None
    restored: str | None = None
    restored_step: int | None = None


_QUIET = Outcome()


class OpsHarness:
    """All of it together. Value in force = schedule(step) * retune factor * backoff factor, kept within `bounds`.

    hparams   {name: Schedule or number}; told through set_hparam after every update
    bounds    {name: (low, high)}
    rules     None: the standard rules        rollback  None: anomalies only warn
    score     metric by which the best checkpoint is known, higher is better (None: no best)

    The loop gives four functions: `get_state()` -> all that training needs to go on (its own copies); `set_state(state, advance)`,
    where advance > 0 says that the random streams must not be rewound but moved on (the same batches would repeat the spike);
    `set_hparam(name, value)`. Steps may or may not go back with the state. Metrics may carry `episode_returns`, the
    returns of the episodes that ended in this update.
    """

    def __init__(
        self,
        *,
        hparams: Mapping[str, Schedule | float] | None = None,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        rules: Sequence[Rule] | None = None,
        rotation: Rotation | None = None,
        rollback: Rollback | None = None,
        episodes: EpisodeLog | None = None,
        score: str | None = "return_recent",
        events: Events | None = None,
    ) -> None:
        self.hparams = {name: Schedule.of(s) if not isinstance(s, Schedule) else s for name, s in (hparams or {}).items()}
        self.bounds = dict(bounds or {})
        self.rules = list(rules) if rules is not None else standard_rules()
        self._names = [f"{number}:{rule.name}" for number, rule in enumerate(self.rules)]
        self.events = events or Silent()
        self.rotation = rotation or Rotation(events=self.events)
        self.rollback, self.score = rollback, score
        self.episodes = episodes or EpisodeLog()
        for rule in self.rules:
            if isinstance(rule, ReturnDrop):
                rule.error = self.episodes.error
        self.retune: dict[str, float] = {}
        self.updates = 0
        self.backoff = self.backoff_from = 1.0
        self.rollbacks: list[int] = []  # the update of each
        self.restored: str | None = None  # the checkpoint gone back to last
        self.followed: dict[str, tuple[float, int]] = {}  # sum and number of the returns of the first episodes in a probation

    def start(self, step: int, get_state: Callable[[], Any], set_hparam: Callable[[str, float], None]) -> None:
        """Before the first update: the untrained state is a pinned, good checkpoint, and the hyperparameters are set."""
        self.rotation.save(step, self._whole(get_state), status="good", pinned=True)
        self._apply(step, set_hparam)

    def resume(self, set_state: Callable[[Any, int], None], set_hparam: Callable[[str, float], None]) -> int | None:
        """Go on from the newest checkpoint that is not bad and can be read; its step, or None when there is none."""
        found = self._readable()
        if found is None:
            return None
        name, whole = found
        set_state(whole["state"], 0)
        self.restore(whole["operations"])
        step = int(self.rotation.writer.infos()[name]["step"])
        self.rotation.rewind(whole["operations"]["checkpoints"], step=step)
        self._apply(step, set_hparam)
        return step

    def update(
        self,
        step: int,
        metrics: Mapping[str, Any],
        get_state: Callable[[], Any],
        set_state: Callable[[Any, int], None],
        set_hparam: Callable[[str, float], None],
    ) -> Outcome:
        """After each update of training."""
        self.updates += 1
        watched = metrics
        returns = metrics.get("episode_returns")
        if returns is not None and len(returns):
            self.episodes.add(step, returns)
            self._follow(returns)
            recent = self.episodes.mean()
            if recent is not None:
                watched = {**metrics, "return_recent": recent}
        found, suspicious = [], False
        for rule in self.rules:
            alarm = rule.update(step, watched)
            if alarm is not None:
                found.append(alarm)
            if rule.bad and rule.severity == "rollback":
                suspicious = True
        for anomaly in found:
            self.events.emit("anomaly", step=step, rule=anomaly.rule, severity=anomaly.severity, onset=anomaly.onset, reason=anomaly.reason)
        grave = [b for a in found if a.severity == "rollback" and (b := self._worth_while(a)) is not None] if found else found
        if grave and self.rollback:
            name = self._go_back(step, grave, set_state, self.rollback)
            self._apply(step, set_hparam)
            return Outcome(tuple(found), None, name, int(self.rotation.writer.infos()[name]["step"]) if name else None)
        saved = None
        if not suspicious and not grave:
            self.rotation.clean()
            if self.rollback and self.backoff < 1.0:
                self.backoff = min(1.0, self.backoff + (1.0 - self.backoff_from) / self.rollback.recovery)
        if self.rotation.due(step) and not grave:
            score = float(watched[self.score]) if self.score is not None and self.score in watched else None
            saved = self.save(step, get_state, score=score)
        self._apply(step, set_hparam)
        return Outcome(tuple(found), saved) if found or saved else _QUIET

    def save(self, step: int, get_state: Callable[[], Any], *, score: float | None = None, pinned: bool = False) -> str | None:
        """A checkpoint now, whether or not one is due (at the end of training); its name, or None when it was not written."""
        self.rotation.last = step
        name = self.rotation.save(step, self._whole(get_state), score=score, pinned=pinned)
        if name in self.followed:
            del self.followed[name]
        if len(self.followed) > MANY:
            there = self.rotation.writer.infos()
            self.followed = {known: sums for known, sums in self.followed.items() if known in there}
        return name

    def value(self, name: str, step: int) -> float:
        """The value in force."""
        x = self.hparams[name](step)
        if self.retune:
            x *= self.retune.get(name, 1.0)
        if self.backoff < 1.0 and self.rollback and name == self.rollback.hparam:
            x *= self.backoff
        if (bounds := self.bounds.get(name)) is not None:
            low, high = bounds
            x = low if x < low else min(x, high)
        return x

    def state(self) -> dict[str, Any]:
        """Everything but checkpoints, as JSON."""
        return {
            **self._detectors(),
            **{key: getattr(self, key) for key in ("updates", "backoff", "backoff_from", "restored")},
            "rollbacks": list(self.rollbacks),
            "retune": dict(self.retune),
            "followed": {name: list(sums) for name, sums in self.followed.items()},
            "last": self.rotation.last,
            "checkpoints": self.rotation.infos(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._restore_detectors(state)
        for key in ("updates", "backoff", "backoff_from", "restored"):
            setattr(self, key, state[key])
        self.rollbacks, self.retune, self.rotation.last = list(state["rollbacks"]), dict(state["retune"]), state["last"]
        self.followed = {name: (total, count) for name, (total, count) in state["followed"].items()}

    def _follow(self, returns: Sequence[float]) -> None:
        """What the policies after every checkpoint on probation earned at first."""
        finite: list[float] | None = None
        for name in self.rotation.candidates():
            total, count = self.followed.get(name, (0.0, 0))
            if count < FOLLOWING:
                finite = [float(r) for r in returns if math.isfinite(r)] if finite is None else finite
                first = finite[: FOLLOWING - count]
                self.followed[name] = total + math.fsum(first), count + len(first)

    def _worth_while(self, alarm: Anomaly) -> Anomaly | None:
        """The alarm, with an earlier onset where the newest good checkpoint has gone through the fall already; None where all have."""
        rule = next((rule for rule in self.rules if rule.name == alarm.rule and isinstance(rule, ReturnDrop)), None)
        now = self.episodes.since(alarm.onset)
        if rule is None or rule.low is None or rule.high is None or self.rollback is None or not now:
            return alarm
        enough = math.fsum(now) / len(now) + self.rollback.gain * (rule.high - rule.low)
        infos = self.rotation.writer.infos()
        good = sorted(((i["step"], n) for n, i in infos.items() if i["status"] == "good" and i["step"] < alarm.onset), reverse=True)
        for place, (step, name) in enumerate(good[:3]):
            total, count = self.followed.get(name, (0.0, 0))
            if total / count > enough if count else place == 0:  # of the start nothing is known
                return alarm if place == 0 else replace(alarm, onset=step + 1)
        if not good:
            return alarm
        why = f"the episodes after {good[0][1]} were hardly better"
        self.events.emit("rollback_refused", step=alarm.step, rule=alarm.rule, reason=why)
        return None

    def _go_back(self, step: int, grave: Sequence[Anomaly], set_state: Callable[[Any, int], None], limits: Rollback) -> str | None:
        onset, cause = min(alarm.onset for alarm in grave), grave[0]
        soon = bool(self.rollbacks) and self.updates - self.rollbacks[-1] <= limits.deeper
        again = self.restored if soon and not self._pinned(self.restored) else None
        before = self.rotation.writer.infos().get(again or "", {}).get("step", onset)
        self.rotation.condemn(min(onset, before), also=again)
        found = self._readable("good")
        used_up = (
            len(self.rollbacks) >= limits.per_run or sum(self.updates - u < limits.window for u in self.rollbacks) >= limits.per_window
        )
        if used_up or found is None:
            why = f"{len(self.rollbacks)} rollbacks were made already" if used_up else "there is no good checkpoint yet"
            self.events.emit("rollback_refused", step=step, rule=cause.rule, reason=why)
            if limits.stop or cause.rule == NonFinite.name:  # nothing can be learned from NaN
                raise RollbacksExhausted(f"{cause.rule} at step {step} ({cause.reason}), and {why}", hint="lower the learning rate")
            return None
        name, whole = found
        self.rollbacks.append(self.updates)
        self.restored = name
        back_to = int(self.rotation.writer.infos()[name]["step"])
        self.rotation.condemn(back_to + 1)  # candidates of the stretch that is now undone
        set_state(whole["state"], len(self.rollbacks))
        self._restore_detectors(whole["operations"])  # the episode log too: bad episodes would keep the mean down
        for rule in self.rules:  # what has just spoken rests, or it would use up all rollbacks on one stretch
            if any(alarm.rule == rule.name for alarm in grave):
                rule.quiet = rule.cooldown
        self.rotation.last = back_to
        self.backoff = self.backoff_from = self.backoff * limits.backoff
        self.events.emit("rollback", step=step, rule=cause.rule, onset=onset, restored=name, restored_step=back_to, backoff=self.backoff)
        return name

    def _readable(self, *statuses: str) -> tuple[str, Any] | None:
        """The newest checkpoint of these statuses that is what was written, and what it holds; damaged ones are told and left."""
        while (name := self.rotation.newest(*statuses)) is not None:
            try:
                return name, self.rotation.writer.read(name)
            except Damaged as error:
                info = self.rotation.writer.infos()[name]
                self.events.emit("checkpoint_damaged", step=info["step"], checkpoint=name, reason=str(error))
                self.rotation.writer.mark(name, {**info, "status": "bad"})
        return None

    def _pinned(self, name: str | None) -> bool:
        return bool(name and self.rotation.writer.infos().get(name, {}).get("pinned"))

    def _apply(self, step: int, set_hparam: Callable[[str, float], None]) -> None:
        changed = self.retune or self.backoff < 1.0 or self.bounds
        for name, schedule in self.hparams.items():
            set_hparam(name, self.value(name, step) if changed else schedule(step))

    def _whole(self, get_state: Callable[[], Any]) -> dict[str, Any]:
        return {"state": get_state(), "operations": self.state()}

    def _detectors(self) -> dict[str, Any]:
        named = {name: rule.state() for name, rule in zip(self._names, self.rules, strict=True)}
        return {"rules": named, "episodes": {"steps": list(self.episodes.steps), "returns": list(self.episodes.returns)}}

    def _restore_detectors(self, state: Mapping[str, Any]) -> None:
        for name, rule in zip(self._names, self.rules, strict=True):
            rule.restore(state["rules"][name])
        self.episodes.restore(state["episodes"]["steps"], state["episodes"]["returns"])
