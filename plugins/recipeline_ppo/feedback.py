"""Hyperparameters from what users think: ratings in a table, judged by confidence interval, never by a bare mean."""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from recipeline.contracts import Events, Silent
from recipeline.errors import DataError

Mode = Literal["suggest", "apply", "checked"]

COLUMNS = {"key": str, "user": str, "item": str, "rating": float, "time": float}
DECISIONS = {"key": str, "at": int, "upto": int, "name": str, "factor": float, "reason": str, "applied": bool, "time": float}


@dataclass(frozen=True)
class Estimate:
    """Mean and standard deviation of the ratings that count, with two-sided confidence bounds.

    Users differ, so a user's ratings count together: the standard error of the mean is the one of cluster sampling,
    se² = G/(G−1) Σ_u (Σ_{i∈u} (x_i − mean))² / n² over G users (Cameron and Miller 2015, eq. 11). For the standard deviation,
    var(s²) = (m₄ − s⁴)/n with the fourth central moment m₄, and the delta method.
    """

    n: int
    users: int
    mean: float
    sd: float
    mean_low: float
    mean_high: float
    sd_low: float

    @classmethod
    def of(cls, ratings: Sequence[tuple[str, float]], z: float = 1.96) -> Estimate:
        """ratings (user, rating); at least two users, else the bounds are infinite."""
        n = len(ratings)
        if n == 0:
            return cls(0, 0, math.nan, math.nan, -math.inf, math.inf, 0.0)
        mean = math.fsum(x for _, x in ratings) / n
        together: dict[str, float] = defaultdict(float)
        for user, x in ratings:
            together[user] += x - mean
        groups = len(together)
        square = math.fsum((x - mean) ** 2 for _, x in ratings) / n
        if groups < 2:
            return cls(n, groups, mean, math.sqrt(square), -math.inf, math.inf, 0.0)
        error = math.sqrt(groups / (groups - 1) * math.fsum(t * t for t in together.values())) / n
        fourth = math.fsum((x - mean) ** 4 for _, x in ratings) / n
        square_error = math.sqrt(max(0.0, fourth - square**2) / n)
        low = max(0.0, square - z * square_error)
        return cls(n, groups, mean, math.sqrt(square), mean - z * error, mean + z * error, math.sqrt(low))


@dataclass(frozen=True)
class Retuning:
    """What the ratings say should change, and why. `factors` multiply the values in force, `values` are what comes out."""

    at: int  # ratings known when it was judged
    estimate: Estimate
    factors: Mapping[str, float]
    values: Mapping[str, float]
    reasons: Mapping[str, str] = field(default_factory=dict)
    applied: bool = False


@dataclass(frozen=True)
class RetunerSettings:
    """When ratings are judged, and what follows.

    first, every   judged at so many ratings, then whenever so many are new; the newest `window` count
    share          of one user at most, of the ratings judged: one person does not retune the model
    low, high      mean below low → `explore` on entropy; mean at or above high → `exploit` on clip; sd above `noisy` → `calm` on the rate
    cooldown       new ratings before the same hyperparameter changes again; what was rated before its last change does not count
    at_least       ratings that must be left after the cap
    bounds         {name: (low, high)} of the values
    """

    first: int = 100
    every: int = 100
    window: int = 300
    share: float = 0.1
    low: float = 3.0
    high: float = 4.0
    noisy: float = 1.5
    explore: float = 2.0
    exploit: float = 0.5
    calm: float = 1 / 3
    cooldown: int = 100
    at_least: int = 50
    z: float = 1.96
    mode: Mode = "suggest"
    names: tuple[str, str, str] = ("ent_coef", "learning_rate", "clip")
    bounds: Mapping[str, tuple[float, float]] = field(
        default_factory=lambda: {
            "ent_coef": (0.0, 0.1), "entropy_coef": (0.0, 0.1), "learning_rate": (1e-6, 1e-2),
            "clip": (0.02, 0.5), "clip_epsilon": (0.02, 0.5),
        }
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode is one of {', '.join(get_args(Mode))}; got {self.mode!r}")
        if not (self.first >= 1 and self.every >= 1 and self.window >= 2 and 0 < self.share <= 1 and self.cooldown >= 0):
            raise ValueError("first and every are at least 1, window at least 2, share lies in (0, 1], cooldown is not negative")
        if not (1 <= self.low <= self.high <= 5 and self.explore > 0 and self.exploit > 0 and self.calm > 0):
            raise ValueError("low and high lie between 1 and 5 in this order; factors are positive")


class Retuner:
    """Keeps ratings in a table that survives restart, and says when hyperparameters should change.

    address    path of an SQLite file or SQLAlchemy's URL (`recipeline.stores.sql.StateTable`)
    value      value(name) -> the hyperparameter now
    apply      apply(name, factor): in the modes apply and checked
    evaluate   evaluate() -> a score of the model, higher is better: in the mode checked. A change is taken back by `settle` when
               the score fell by more than `margin`
    """

    def __init__(
        self,
        address: str | os.PathLike[str],
        *,
        settings: RetunerSettings | None = None,
        value: Callable[[str], float],
        apply: Callable[[str, float], None] | None = None,
        evaluate: Callable[[], float] | None = None,
        margin: float = 0.0,
        events: Events | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        from recipeline.stores.sql import StateTable

        self.settings = settings or RetunerSettings()
        if self.settings.mode != "suggest" and apply is None:
            raise ValueError(f"mode {self.settings.mode} needs `apply`")
        if self.settings.mode == "checked" and evaluate is None:
            raise ValueError("mode checked needs `evaluate`")
        self._feedback = StateTable(address, "feedback", COLUMNS, unique=["key"])
        self._decisions = StateTable(address, "retunings", DECISIONS, unique=["key"])
        self._value, self._apply, self._evaluate, self._margin = value, apply, evaluate, margin
        self._events, self._clock = events or Silent(), clock
        self._open: tuple[Retuning, float] | None = None  # applied, waiting for its check, and the score before

    def __len__(self) -> int:
        return self._feedback.count()

    def add(self, feedback: Mapping[str, Any]) -> Retuning | None:
        """Keep one rating; what follows from it, or None. The same `key` a second time changes nothing.

        rating 1–5; user (or user_id); item (or formula_id, item_id); time (seconds, now by default); key (none: this is a new one).
        """
        if not self._feedback.add(checked_feedback(feedback, self._clock)):
            return None
        return self.judge()

    def judge(self) -> Retuning | None:
        """Judge the ratings if enough are new; for a training process whose server collects them. None: nothing to change."""
        total = self._feedback.count()
        settings = self.settings
        if total < settings.first:
            return None
        decided = self._decisions.rows()
        last = max((row["at"] for row in decided), default=None)
        if last is not None and total - last < settings.every:
            return None
        # The table names the round: of several processes only one comes through here with it.
        mark = {"key": f"{(total - settings.first) // settings.every}", "at": total, "upto": 0, "name": "", "factor": 1.0}
        if not self._decisions.add({**mark, "reason": "judged", "applied": False, "time": self._clock()}):
            return None
        rows = self._feedback.rows(last=settings.window)
        upto = rows[-1]["id"]
        factors: dict[str, float] = {}
        reasons: dict[str, str] = {}
        values: dict[str, float] = {}
        estimate = Estimate.of(self._counted(rows), settings.z)
        for name, rule in zip(settings.names, (_unhappy, _divided, _happy), strict=True):
            changed = max((row["upto"] for row in decided if row["name"] == name and row["applied"]), default=0)
            since = [row for row in rows if row["id"] > changed]
            if changed and upto - changed < settings.cooldown:
                continue
            counted = self._counted(since)
            if len(counted) < settings.at_least:
                continue
            found = rule(Estimate.of(counted, settings.z), settings)
            if found is None:
                continue
            factor, reason = found
            now = self._value(name)
            low, high = settings.bounds.get(name, (-math.inf, math.inf))
            value = min(high, max(low, now * factor))
            if value == now or now == 0:
                continue
            factors[name], values[name], reasons[name] = value / now, value, reason
        if not factors:
            return None
        return self._decide(Retuning(total, estimate, factors, values, reasons), upto)

    def factors(self) -> dict[str, float]:
        """The product of all that was applied and not taken back, by hyperparameter: for a program that starts again."""
        product: dict[str, float] = {}
        for row in self._decisions.rows():
            if row["applied"] and row["name"]:
                product[row["name"]] = product.get(row["name"], 1.0) * row["factor"]
        return product

    def settle(self) -> bool | None:
        """In the mode checked, some updates after a change: True it stays, False it was taken back, None nothing waits."""
        if self._open is None or self._evaluate is None or self._apply is None:
            return None
        retuning, before = self._open
        self._open = None
        after = self._evaluate()
        stays = math.isfinite(after) and after >= before - self._margin
        if not stays:
            for name, factor in retuning.factors.items():
                back = {"key": f"{retuning.at}:{name}:back", "at": retuning.at, "upto": 0, "name": name, "factor": 1 / factor}
                self._decisions.add({**back, "reason": "the score fell", "applied": True, "time": self._clock()})
                self._apply(name, 1 / factor)
        self._events.emit("retuning_settled", at=retuning.at, before=before, after=after, stays=stays)
        return stays

    def _decide(self, retuning: Retuning, upto: int) -> Retuning:
        applied = self.settings.mode != "suggest"
        before = self._evaluate() if self.settings.mode == "checked" and self._evaluate is not None else math.nan
        for name, factor in retuning.factors.items():
            row = {"key": f"{retuning.at}:{name}", "at": retuning.at, "upto": upto, "name": name, "factor": factor}
            self._decisions.add({**row, "reason": retuning.reasons[name], "applied": applied, "time": self._clock()})
            if applied and self._apply is not None:
                self._apply(name, factor)
        if self.settings.mode == "checked":
            self._open = (retuning, before)
        told = {"factors": dict(retuning.factors), "reasons": dict(retuning.reasons)}
        self._events.emit("retuning", at=retuning.at, mode=self.settings.mode, **told)
        return Retuning(retuning.at, retuning.estimate, retuning.factors, retuning.values, retuning.reasons, applied)

    def _counted(self, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
        """The newest ratings of each user, at most `share` of all."""
        most = max(1, math.floor(self.settings.share * len(rows)))
        taken: Counter[str] = Counter()
        counted = []
        for row in reversed(rows):
            if taken[row["user"]] < most:
                taken[row["user"]] += 1
                counted.append((row["user"], row["rating"]))
        return counted


def _unhappy(e: Estimate, s: RetunerSettings) -> tuple[float, str] | None:
    found = e.mean_high < s.low
    return (s.explore, f"mean rating {e.mean:.2f}, at most {e.mean_high:.2f}, is below {s.low:g}") if found else None


def _divided(e: Estimate, s: RetunerSettings) -> tuple[float, str] | None:
    found = e.sd_low > s.noisy
    return (s.calm, f"standard deviation {e.sd:.2f}, at least {e.sd_low:.2f}, is above {s.noisy:g}") if found else None


def _happy(e: Estimate, s: RetunerSettings) -> tuple[float, str] | None:
    found = e.mean_low >= s.high
    return (s.exploit, f"mean rating {e.mean:.2f}, at least {e.mean_low:.2f}, is {s.high:g} or more") if found else None


def checked_feedback(feedback: Mapping[str, Any], clock: Callable[[], float]) -> dict[str, Any]:
    """A row of the table from what a user sent; DataError names the field that is wrong."""
    rating = feedback.get("rating")
    if isinstance(rating, bool) or not isinstance(rating, int | float) or not math.isfinite(rating) or not 1 <= rating <= 5:
        raise DataError(f"is {_shown(rating)}; a rating is a number from 1 to 5", slug="bad-feedback", where="rating")
    row: dict[str, Any] = {"rating": float(rating)}
    for field_name, names in (("user", ("user", "user_id")), ("item", ("item", "item_id", "formula_id"))):
        value = next((feedback[name] for name in names if name in feedback), None)
        if field_name == "item" and value is None:
            value = ""
        if isinstance(value, bool) or not isinstance(value, str | int) or len(str(value)) > 256 or (field_name == "user" and value == ""):
            what = f"is {_shown(value)}; it names who or what was rated, in up to 256 characters"
            raise DataError(what, slug="bad-feedback", where=names[0])
        row[field_name] = str(value)
    key = feedback.get("key", feedback.get("idempotency_key"))
    if key is not None and (not isinstance(key, str) or not 0 < len(key) <= 256):
        raise DataError(f"is {_shown(key)}; a key has up to 256 characters", slug="bad-feedback", where="key")
    moment = feedback.get("time", None)
    moment = clock() if moment is None else moment
    if isinstance(moment, bool) or not isinstance(moment, int | float) or not math.isfinite(moment):
        raise DataError(f"is {_shown(moment)}; time is in seconds", slug="bad-feedback", where="time")
    return {**row, "key": key if key is not None else uuid.uuid4().hex, "time": float(moment)}


def _shown(value: Any) -> str:
    text = json.dumps(value, default=lambda other: type(other).__name__)
    return text if len(text) <= 40 else f"{text[:37]}…"
