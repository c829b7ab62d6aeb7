"""Rules that notice when training goes wrong, and stay silent when it goes well on another scale."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from recipeline.errors import DataError
from recipeline.operations.checkpoints import nonfinite_in

Severity = Literal["warn", "rollback"]
LONGEST = 6  # bad updates whose end is waited for
CALM = 5  # updates without a bad one that end a bad stretch whose harm lasts


@dataclass(frozen=True)
class Anomaly:
    rule: str
    severity: Severity
    step: int
    onset: int  # step of the first bad update in a row
    reason: str


class Rule:
    """One thing that can go wrong. Subclasses say in `judge` whether a single update looks bad; this class decides on an alarm.

    warm_up   updates (that carry the watched metric) before anything can be bad
    patience  bad updates in a row that make an alarm
    cooldown  updates after an alarm during which this rule is silent

    Where the harm lasts, a bad stretch is an alarm when it is over, within the cooldown, too: to go back while its cause is still
    there is to go through it again. It is over after CALM updates that are not bad; one with LONGEST bad ones is not waited for
    any longer.
    """

    name: ClassVar[str] = ""
    defaults: ClassVar[Mapping[str, Any]] = {}
    moving: ClassVar[tuple[str, ...]] = ()  # attributes that change while running
    lasting: ClassVar[bool] = False  # bad updates leave harm behind that later ones do not show

    def __init__(
        self, *, severity: Severity | None = None, warm_up: int | None = None, patience: int | None = None, cooldown: int | None = None
    ) -> None:
        self.severity: Severity = severity or self.defaults.get("severity", "warn")
        self.warm_up: int = self.defaults.get("warm_up", 0) if warm_up is None else warm_up
        self.patience: int = self.defaults.get("patience", 1) if patience is None else patience
        self.cooldown: int = self.defaults.get("cooldown", 50) if cooldown is None else cooldown
        if self.severity not in get_args(Severity) or self.patience < 1 or min(self.warm_up, self.cooldown) < 0:
            raise ValueError(f"{self.name}: severity is warn or rollback, patience at least 1, warm_up and cooldown not negative")
        self.seen = self.bad = self.calm = self.quiet = 0
        self.onset = 0

    def judge(self, metrics: Mapping[str, Any]) -> str | None:
        """Why this update looks bad, "" when it looks fine, None when it says nothing."""
        raise NotImplementedError

    def update(self, step: int, metrics: Mapping[str, Any]) -> Anomaly | None:
        reason = self.judge(metrics)
        if reason is None:
            return None
        self.seen += 1
        if not reason and not self.bad and not self.quiet:  # most updates of most rules
            return None
        if not reason or self.seen <= self.warm_up:
            if self.quiet:
                self.quiet -= 1
            if self.bad and self._waits:
                self.calm += 1
                if self.calm < CALM:
                    return None
            passed, self.bad, self.calm = self.bad, 0, 0
            if passed >= self.patience and self._waits:
                self.quiet = self.cooldown
                return Anomaly(self.name, self.severity, step, self.onset, f"{passed} bad updates since step {self.onset} are over")
            return None
        self.onset = step if self.bad == 0 else self.onset
        self.bad += 1
        self.calm = 0
        if self.quiet > 0:
            self.quiet -= 1
            return None
        if self.bad < (max(LONGEST, self.patience) if self._waits else self.patience):
            return None
        self.bad, self.quiet = 0, self.cooldown
        return Anomaly(self.name, self.severity, step, self.onset, reason)

    @property
    def _waits(self) -> bool:
        return self.lasting and self.severity == "rollback"

    def state(self) -> dict[str, Any]:
        """Everything that changes while running, as JSON."""
        kept: dict[str, Any] = {"seen": self.seen, "bad": self.bad, "calm": self.calm, "quiet": self.quiet, "onset": self.onset}
        for key in self.moving:
            value = getattr(self, key)
            kept[key] = list(value.recent) if type(value) is Rolling else value
        return kept

    def restore(self, state: Mapping[str, Any]) -> None:
        for key, value in state.items():
            mine = getattr(self, key)
            if isinstance(mine, Rolling):
                mine.restore(value)
            else:
                setattr(self, key, value)


class Rolling:
    """The last `size` numbers, in order of size when that is asked for: a new number costs O(1), quantiles what came since."""

    def __init__(self, size: int) -> None:
        self.recent: deque[float] = deque(maxlen=size)
        self._size = size
        self._ordered: list[float] = []
        self._left: list[float] = []  # numbers that left since then
        self._came = 0  # how many came since then
        self._few = min(size, 8 + size // 16)  # for more of them one sort costs less than many insertions

    def add(self, x: float) -> None:
        recent = self.recent
        if self._came < self._few:
            if len(recent) == self._size:
                self._left.append(recent[0])
        elif self._left:
            self._left.clear()
        self._came += 1
        recent.append(x)

    @property
    def sorted(self) -> list[float]:
        if self._came > self._few:
            self._ordered = sorted(self.recent)
        else:
            ordered, recent = self._ordered, self.recent
            for left in self._left:
                del ordered[bisect_left(ordered, left)]
            for back in range(-self._came, 0):
                insort(ordered, recent[back])
        self._left.clear()
        self._came = 0
        return self._ordered

    def quantile(self, q: float) -> float:
        """Linear between order statistics, as numpy's default."""
        ordered = self.sorted if self._came else self._ordered
        at = q * (len(ordered) - 1)
        low = int(at)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (at - low)

    def spread(self) -> float:
        """1.4826 times the median absolute deviation."""
        middle = self.quantile(0.5)
        deviations = sorted(abs(x - middle) for x in self.recent)
        half = len(deviations) // 2
        return 1.4826 * (deviations[half] if len(deviations) % 2 else (deviations[half - 1] + deviations[half]) / 2)

    def restore(self, values: Sequence[float]) -> None:
        self.recent = deque(values, maxlen=self.recent.maxlen)
        self._ordered = sorted(self.recent)
        self._left.clear()
        self._came = 0

    def __len__(self) -> int:
        return len(self.recent)


def _number(metrics: Mapping[str, Any], name: str) -> float | None:
    value = metrics.get(name)
    return None if value is None else float(value)


class NonFinite(Rule):
    """A NaN or infinity anywhere in the metrics: at once, from the first update on."""

    name = "nonfinite"
    defaults: ClassVar[Mapping[str, Any]] = {"severity": "rollback", "cooldown": 0}

    def judge(self, metrics: Mapping[str, Any]) -> str:
        for value in metrics.values():
            if type(value) is float:  # most are, and this is asked at every update
                if value - value != 0.0:
                    break
            elif type(value) is not int and nonfinite_in(value):
                break
        else:
            return ""
        return f"{nonfinite_in(metrics)} is not finite"


class LossSpike(Rule):
    """A non-negative series jumps: log x lies above the median of the last 100 by log(ratio) and by 6 robust standard deviations.

    For value losses and gradient norms, where a factor means something whatever the scale of the rewards; a series that
    goes below zero (a policy loss) has no factors and is a DataError.
    """

    name = "loss_spike"
    defaults: ClassVar[Mapping[str, Any]] = {"warm_up": 20, "patience": 3}
    moving: ClassVar[tuple[str, ...]] = ("logs",)

    def __init__(self, metric: str = "value_loss", *, ratio: float = 2.0, window: int = 100, **rest: Any) -> None:
        super().__init__(**rest)
        if not ratio > 1:
            raise ValueError(f"loss_spike: ratio is above 1; got {ratio}")
        self.metric, self.ratio, self.logs = metric, ratio, Rolling(window)
        self._calm, self._calm_for = -math.inf, 0  # a log that is certainly no spike, and for how many updates that is certain

    def judge(self, metrics: Mapping[str, Any]) -> str | None:
        x = metrics.get(self.metric)
        return None if x is None else self._judge(float(x))

    def _judge(self, x: float) -> str | None:
        if not math.isfinite(x):
            return None
        if x < 0:
            raise DataError(
                f"{self.metric} is {x:g}; loss_spike watches series that are never negative", hint="watch value_loss or grad_norm"
            )
        log = math.log(x + 1e-300)
        if self._calm_for > 0 and log <= self._calm:
            self._calm_for -= 1
            self.logs.add(log)
            return ""
        above = log - self.logs.quantile(0.5) if len(self.logs) else 0.0
        spike = above > math.log(self.ratio) and above > 6 * self.logs.spread()
        self.logs.add(log)
        middle = len(self.logs) // 2
        if middle > 18:  # n further numbers move the median by n ranks at most
            self._calm_for = min(32, middle - 2)
            self._calm = self.logs.sorted[middle - self._calm_for - 2] + math.log(self.ratio)
        return f"{self.metric} {x:.3g} is {math.exp(min(above, 700)):.1f} times its median" if spike else ""

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self._calm_for = 0


class ReturnDrop(Rule):
    """The return fell by more than `fraction` of all it ever moved.

    R = return of recent episodes (`return_recent`, see EpisodeLog), B = 90th percentile of R in good updates,
    S = range of R since the start, the untrained policy's R included; bad when (B - R) / S > fraction and, where the harness
    says what its noise is (`EpisodeLog.error`), B - R is more than `sure` standard errors: at first R has hardly moved, and half
    of that is nothing. Replacing every reward r by a r + c (a > 0, episodes of one length) changes nothing, and for returns
    that rise from zero it says "below half".
    """

    name = "return_drop"
    defaults: ClassVar[Mapping[str, Any]] = {"severity": "rollback", "patience": 6}
    moving = ("good", "low", "high")

    def __init__(self, metric: str = "return_recent", *, fraction: float = 0.5, window: int = 1000, sure: float = 5.0, **rest: Any) -> None:
        super().__init__(**rest)
        if not 0 < fraction < 1 or sure < 0:
            raise ValueError(f"return_drop: fraction lies between 0 and 1, sure is not negative; got {fraction} and {sure}")
        self.metric, self.fraction, self.sure = metric, fraction, sure
        self.error: Callable[[], float] | None = None
        self.good = Rolling(window)
        self.low: float | None = None
        self.high: float | None = None

    def judge(self, metrics: Mapping[str, Any]) -> str | None:
        r = metrics.get(self.metric)
        if r is None:
            return None
        r = float(r)
        if not math.isfinite(r):
            return None
        if self.low is None or r < self.low:
            self.low = r
        if self.high is None or r > self.high:
            self.high = r
        size = self.high - self.low
        if self.high - r <= self.fraction * size:  # no quantile of the good lies above the highest
            self.good.add(r)
            return ""
        best = self.good.quantile(0.9) if len(self.good) else r
        if best - r > self.fraction * size and (self.error is None or best - r > self.sure * self.error()):
            return f"{self.metric} {r:.4g} is {(best - r) / size:.0%} of its range below {best:.4g}"
        self.good.add(r)
        return ""


class KLBlowup(Rule):
    """The policy moved much further in one update than it should: KL above `limit` nats and above `ratio` times its median."""

    name = "kl_blowup"
    lasting = True  # what the policy was is gone, and the next KL is measured from where it went
    defaults: ClassVar[Mapping[str, Any]] = {"severity": "rollback"}
    moving = ("usual",)

    def __init__(self, metric: str = "approx_kl", *, limit: float = 1.0, ratio: float = 10.0, window: int = 100, **rest: Any) -> None:
        super().__init__(**rest)
        self.metric, self.limit, self.ratio, self.usual = metric, limit, ratio, Rolling(window)

    def judge(self, metrics: Mapping[str, Any]) -> str | None:
        kl = metrics.get(self.metric)
        if kl is None or not math.isfinite(kl := float(kl)):
            return None
        if kl > self.limit:
            usual = self.usual.quantile(0.5) if len(self.usual) else 0.0
            if kl > self.ratio * usual:
                return f"{self.metric} {kl:.3g} (usually {usual:.3g})"
        self.usual.add(kl)
        return ""


class EntropyCollapse(Rule):
    """The entropy fell suddenly: below the median of the last 50 updates by more than `fraction` of all it ever moved,
    by 0.05 nats, and by 6 robust standard deviations (a steady fall, however steep, stays under 2).
    """

    name = "entropy_collapse"
    defaults: ClassVar[Mapping[str, Any]] = {"warm_up": 20, "patience": 3}
    moving = ("usual", "low", "high")

    def __init__(self, metric: str = "entropy", *, fraction: float = 0.5, window: int = 50, **rest: Any) -> None:
        super().__init__(**rest)
        self.metric, self.fraction, self.usual = metric, fraction, Rolling(window)
        self._top, self._top_for = math.inf, 0  # what the median certainly stays under, and for how many updates
        self.low: float | None = None
        self.high: float | None = None

    def judge(self, metrics: Mapping[str, Any]) -> str | None:
        x = _number(metrics, self.metric)
        if x is None or not math.isfinite(x):
            return None
        self.low = x if self.low is None else min(self.low, x)
        self.high = x if self.high is None else max(self.high, x)
        least = max(0.05, self.fraction * (self.high - self.low))
        if self.high - x <= least or (self._top_for > 0 and self._top - x <= least):  # no median lies above either
            self._top_for -= 1
            self.usual.add(x)
            return ""
        usual = self.usual.quantile(0.5) if len(self.usual) else x
        sudden = usual - x > least and usual - x > 6 * self.usual.spread()
        self.usual.add(x)
        middle = len(self.usual) // 2
        if middle > 18:  # n further numbers move the median by n ranks at most
            self._top, self._top_for = self.usual.sorted[middle + middle - 2], middle - 3
        return f"{self.metric} {x:.3g} from {usual:.3g}" if sudden else ""

    def restore(self, state: Mapping[str, Any]) -> None:
        super().restore(state)
        self._top_for = 0


class Stuck(Rule):
    """Nothing moves: over `window` updates the metric stayed within 1 % of all it ever moved, and no higher than halfway to its best."""

    name = "stuck"
    defaults: ClassVar[Mapping[str, Any]] = {"cooldown": 200}
    moving = ("recent", "first", "low", "high")

    def __init__(self, metric: str = "return_recent", *, window: int = 200, fraction: float = 0.01, **rest: Any) -> None:
        super().__init__(**rest)
        self.metric, self.fraction, self.recent = metric, fraction, Rolling(window)
        self.first: float | None = None
        self.low: float | None = None
        self.high: float | None = None

    def judge(self, metrics: Mapping[str, Any]) -> str | None:
        x = _number(metrics, self.metric)
        if x is None or not math.isfinite(x):
            return None
        self.first = x if self.first is None else self.first
        self.low = x if self.low is None else min(self.low, x)
        self.high = x if self.high is None else max(self.high, x)
        self.recent.add(x)
        if len(self.recent) < (self.recent.recent.maxlen or 0):
            return ""
        moved = self.recent.sorted[-1] - self.recent.sorted[0]
        still = moved <= self.fraction * (self.high - self.low) and x <= (self.first + self.high) / 2
        return f"{self.metric} has stayed at {x:.4g} for {len(self.recent)} updates" if still else ""


class Relative(Rule):
    """The metric against its value one update before: more than `factor` times it, or less when the factor is below 1.

    Means nothing for references that are not positive, and refuses them.
    """

    name = "relative"
    moving = ("before",)

    def __init__(self, metric: str, factor: float, **rest: Any) -> None:
        super().__init__(**rest)
        self.metric, self.factor = metric, factor
        self.before: float | None = None

    def judge(self, metrics: Mapping[str, Any]) -> str | None:
        x, before = _number(metrics, self.metric), self.before
        if x is None or not math.isfinite(x):
            return None
        self.before = x
        if before is None:
            return ""
        if before <= 0:
            raise DataError(f"{self.metric} was {before:g}; a multiple of it means nothing", hint="use loss_spike or return_drop")
        bad = x > self.factor * before if self.factor > 1 else x < self.factor * before
        return f"{self.metric} {x:.4g} after {before:.4g}" if bad else ""


RULES: Mapping[str, type[Rule]] = {r.name: r for r in (NonFinite, LossSpike, ReturnDrop, KLBlowup, EntropyCollapse, Stuck)}


def standard_rules(config: Mapping[str, Mapping[str, Any] | bool] | None = None) -> list[Rule]:
    """All the standard rules, changed by {name: {argument: value}} or left out by {name: false}."""
    given = dict(config or {})
    unknown = given.keys() - RULES.keys()
    if unknown:
        raise ValueError(f"no rule {', '.join(sorted(unknown))}; there are {', '.join(RULES)}")
    made = []
    for name, kind in RULES.items():
        arguments = given.get(name, {})
        if arguments is not False:
            made.append(kind(**(arguments if isinstance(arguments, Mapping) else {})))
    return made
