"""Quantile paths that hold their promise: what forecasts of the past missed by is learned once, and put right at every step.

    cqr       an amount per horizon step, from the latest `window` forecasts (Romano, Patterson and Candès 2019); of recipes
    tracking  the amount follows the outcomes as they come, each `step` later than its forecast (Angelopoulos, Candès and
              Tibshirani 2023); for servers that live long
    scale     one shift of the centre and one factor of the width for all steps; reads older state files
    none      nothing is learned

Arrays: path (H, Q) or (n, H, Q), H horizon steps, Q quantile levels in ascending order, original units.

Every central pair of levels is moved to its own nominal coverage; the level 0.5 stays where it is (`scale` shifts it too). A
level that was not calibrated takes the amount of the calibrated pair nearest in coverage, times the ratio of their normal
quantiles; a step beyond the calibrated horizon that of the last one. A group of `group_by` that has too few outcomes of its
own takes what was learned of all.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recipeline.errors import DataError
from recipeline.timeseries.intervals import Conformal, QuantileTracker, conformal_quantile, symmetric_pairs

Floats = NDArray[np.float64]
Method = Literal["cqr", "tracking", "scale", "none"]
METHODS: tuple[Method, ...] = get_args(Method)
SEGMENTS = ("category", "liquidity_bucket", "tte_bucket")
"""What a market may be grouped by, in the order in which the keys of older state files name it."""
FALLBACKS_MOST = 0.2
"""Of the origins a calibration asks for, so many may be answered by the fallback: more, and the model was not measured."""
RATE = 0.05
"""Learning rate of `tracking`, in units of the largest recent score: fast enough for a shift within a day of 5-minute steps."""
POSITIONS = 200
"""Residuals are kept as at most so many quantiles."""
FORMAT = 1


@dataclass(frozen=True)
class Windows:
    """Forecasts from past origins and what came, oldest first.

    levels    (Q,) ascending          path    (n, H, Q)
    actual    (n, H), NaN where nothing was observed
    times     (n,) integer grid steps of the origins          series  (n,) whose they are
    segments  one mapping per origin, or nothing at all
    answered  (n,) False where the fallback answered instead of the model; None: the model always did
    """

    levels: tuple[float, ...]
    path: Floats
    actual: Floats
    times: NDArray[np.int64]
    series: NDArray[Any]
    segments: Sequence[Mapping[str, str]] = ()
    answered: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.path)

    @property
    def horizon(self) -> int:
        return int(self.path.shape[1])

    def take(self, rows: ArrayLike) -> Windows:
        at = np.arange(len(self))[np.asarray(rows)]
        segments = tuple(self.segments[i] for i in at) if self.segments else ()
        answered = None if self.answered is None else self.answered[at]
        return Windows(self.levels, self.path[at], self.actual[at], self.times[at], self.series[at], segments, answered)

    def group(self, number: int, by: Sequence[str]) -> str:
        return group_of(self.segments[number] if self.segments else {}, by)


def group_of(segment: Mapping[str, str], by: Sequence[str]) -> str:
    """`politics|high`; empty where one of the names has no value."""
    values = [str(segment.get(name, "")) for name in by]
    return "|".join(values) if values and all(values) else ""


def centre_of(levels: Sequence[float], path: Floats) -> Floats:
    """(…, H) the level 0.5 of (…, H, Q), or the mean of the two levels nearest to it."""
    near = np.argsort(np.abs(np.asarray(levels) - 0.5), kind="stable")
    if levels[near[0]] == 0.5 or len(levels) == 1:
        return np.asarray(path[..., near[0]])
    middle: Floats = path[..., near[:2]].mean(axis=-1)
    return middle


# --- what is learned of one group ------------------------------------------------------------------------------------


@dataclass
class Learned:
    """What one group learned.

    amounts    central coverage -> (H,) by which both ends move outwards: of `cqr`; `tracking` keeps its own in `trackers`
    shift      of the centre, and factor of the half-width: of `scale`
    positions  (R,) plotting positions and residuals (H, R), what came minus the centre, at them
    count      outcomes of the step that has fewest
    """

    amounts: dict[float, Floats] = field(default_factory=dict)
    trackers: dict[float, QuantileTracker] = field(default_factory=dict)
    shift: float = 0.0
    factor: float | None = None
    positions: Floats = field(default_factory=lambda: np.zeros(0))
    residuals: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    count: int = 0

    def amount(self, coverage: float, steps: int) -> Floats:
        """(steps,) of a central interval."""
        known = {c: tracker.amount for c, tracker in self.trackers.items()} or self.amounts
        nearest = min(known, key=lambda c: abs(c - coverage))
        of_it = known[nearest][np.minimum(np.arange(steps), len(known[nearest]) - 1)]
        same = math.isclose(nearest, coverage, abs_tol=1e-9)
        return of_it if same else of_it * (_z(coverage) / _z(nearest))

    def to_json(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "amounts": {f"{c:.9g}": amount.tolist() for c, amount in self.amounts.items()},
            "trackers": {f"{c:.9g}": tracker.to_json() for c, tracker in self.trackers.items()},
            "shift": self.shift,
            "factor": self.factor,
            "positions": self.positions.tolist(),
            "residuals": self.residuals.tolist(),
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Self:
        return cls(
            {float(c): np.asarray(amount, float) for c, amount in state["amounts"].items()},
            {float(c): QuantileTracker.from_json(one) for c, one in state["trackers"].items()},
            float(state["shift"]),
            None if state["factor"] is None else float(state["factor"]),
            np.asarray(state["positions"], float),
            np.asarray(state["residuals"], float),
            int(state["count"]),
        )


def _z(coverage: float) -> float:
    return NormalDist().inv_cdf((1 + coverage) / 2)


# --- the calibration ---------------------------------------------------------------------------------------------------


class ConformalCalibration:
    """Moves quantile paths to where their levels belong.

    groups  "" is what was learned of all; the others by the values of `group_by`, joined by |
    counts  of the origins: asked, answered, fallback; and which groups had too few outcomes of their own
    """

    def __init__(
        self,
        method: Method,
        coverage: float,
        levels: Sequence[float],
        horizon: int,
        groups: Mapping[str, Learned],
        *,
        group_by: Sequence[str] = (),
        window: int | None = None,
        counts: Mapping[str, Any] | None = None,
        partial: bool = False,
    ) -> None:
        self.method, self.coverage, self.levels, self.horizon = method, coverage, tuple(levels), horizon
        self.groups, self.group_by, self.window = dict(groups), tuple(group_by), window
        self.counts: dict[str, Any] = dict(counts or {})
        self.partial = partial
        self._updates = 0
        self._base = ""

    @property
    def key(self) -> str:
        """Names the state: 16 digits of the SHA-256 of its content, and how often feedback has changed it since."""
        if not self._base:
            self._base = hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]
        return f"{self._base}.{self._updates}" if self._updates else self._base

    def learned(self, segment: Mapping[str, str]) -> Learned:
        """What holds for a market: of its group, else of all."""
        if self.partial:
            return self._older(segment)
        return self.groups.get(group_of(segment, self.group_by), self.groups[""])

    def apply(self, levels: Sequence[float], path: ArrayLike, segment: Mapping[str, str]) -> Floats:
        """The calibrated path (H, Q), ascending at every step. It may leave the bounds of the target: whoever knows them clips."""
        given = np.asarray(path, dtype=np.float64)
        of = self.learned(segment)
        centre = centre_of(levels, given)
        moved = self._scaled(levels, given, centre, of) if of.factor is not None else self._widened(levels, given, centre, of)
        # An amount may be negative, so ends may cross the centre or each other.
        middle = moved[:, np.argmin(np.abs(np.asarray(levels) - 0.5))] if 0.5 in levels else centre + (of.shift if of.factor else 0.0)
        lower, upper = np.asarray(levels) < 0.5, np.asarray(levels) > 0.5
        moved[:, lower] = np.minimum(moved[:, lower], middle[:, None])
        moved[:, upper] = np.maximum(moved[:, upper], middle[:, None])
        return np.sort(moved, axis=1)

    def residuals(self, levels: Sequence[float], horizon: int, segment: Mapping[str, str]) -> Floats | None:
        """What came minus the centre, (H, Q) at the levels: turns a point forecast into quantiles.

        None where nothing was kept, or too few outcomes for the outermost level.
        """
        of = self.learned(segment)
        if not len(of.positions) or min(levels) < of.positions[0] - 1e-12 or max(levels) > of.positions[-1] + 1e-12:
            return None
        at = np.minimum(np.arange(horizon), len(of.residuals) - 1)
        return np.stack([np.interp(levels, of.positions, of.residuals[step]) for step in at])

    def _widened(self, levels: Sequence[float], path: Floats, centre: Floats, of: Learned) -> Floats:
        moved = path.copy()
        for place, level in enumerate(levels):
            if level != 0.5:
                amount = of.amount(abs(1 - 2 * level), len(path))
                moved[:, place] += amount if level > 0.5 else -amount
        return moved

    def _scaled(self, levels: Sequence[float], path: Floats, centre: Floats, of: Learned) -> Floats:
        assert of.factor is not None
        moved = path - centre[:, None]
        half = {i: (path[:, j] - path[:, i]) / 2 for i, j, _ in symmetric_pairs(levels)}
        half |= {j: -half[i] for i, j, _ in symmetric_pairs(levels)}
        for place in range(len(levels)):
            moved[:, place] = of.factor * (-half[place] if place in half else moved[:, place])
        moved[:, [place for place, level in enumerate(levels) if level == 0.5]] = 0.0
        scaled: Floats = moved + (centre + of.shift)[:, None]
        return scaled

    # --- feedback, while a server lives ---

    def issue(self, series: str, time: int, levels: Sequence[float], path: ArrayLike, segment: Mapping[str, str]) -> None:
        """`tracking`: this uncalibrated path (H, Q) was answered from an origin; its outcomes will come."""
        given = np.asarray(path, dtype=np.float64)
        for coverage, tracker in self._trackers(segment):
            ends = _ends(levels, given, coverage)
            if ends is not None:
                tracker.issue(time, *ends, series=series)

    def observe(self, series: str, time: int, actual: float, segment: Mapping[str, str]) -> None:
        """`tracking`: what came for a series at a grid step; forecasts that had a step there learn from it."""
        for _, tracker in self._trackers(segment):
            if tracker.observe(time, actual, series=series):
                self._updates += 1

    def _trackers(self, segment: Mapping[str, str]) -> Iterable[tuple[float, QuantileTracker]]:
        if self.method != "tracking":
            return ()
        _ = self.key  # the state that the count of updates starts from
        return self.learned(segment).trackers.items()

    # --- kept as JSON ---

    def to_json(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "method": self.method,
            "coverage": self.coverage,
            "levels": list(self.levels),
            "horizon": self.horizon,
            "window": self.window,
            "group_by": list(self.group_by),
            "partial": self.partial,
            "counts": self.counts,
            "groups": {name: of.to_json() for name, of in sorted(self.groups.items())},
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> ConformalCalibration:
        """A state as `to_json` writes it, or an older file `{adjustment, default_adjustment, segments}`.

        Raises DataError for anything else.
        """
        if state.get("format") == FORMAT:
            groups = {name: Learned.from_json(one) for name, one in state["groups"].items()}
            return cls(
                state["method"], state["coverage"], state["levels"], state["horizon"], groups, group_by=state["group_by"],
                window=state["window"], counts=state["counts"], partial=state["partial"],
            )  # fmt: skip
        return _of_older(state)

    def _older(self, segment: Mapping[str, str]) -> Learned:
        """Segments of older files are named by some of a market's values: the one that names most of them holds."""
        values = {name: str(value) for name, value in segment.items() if value}
        best, said = self.groups[""], 0
        for name, of in self.groups.items():
            words = _words(name, values)
            if name and words is not None and len(words) > said and all(values.get(key) == value for key, value in words.items()):
                best, said = of, len(words)
        return best


def _words(name: str, values: Mapping[str, str]) -> dict[str, str] | None:
    """`category=politics|liquidity_bucket=high`, `politics|high|week`, or a single value, as names and values."""
    parts = [part.strip() for part in name.replace(",", "|").split("|")]
    if all("=" in part for part in parts):
        return {key.strip(): value.strip() for key, value in (part.split("=", 1) for part in parts)}
    if len(parts) == 1:
        return next(({key: value} for key, value in values.items() if value == parts[0]), None)
    return dict(zip(SEGMENTS, parts, strict=True)) if len(parts) == len(SEGMENTS) else None


def _of_older(state: Mapping[str, Any]) -> ConformalCalibration:
    flat = state if "width_scale" in state else None
    default = flat or state.get("default_adjustment") or state.get("adjustment")
    named = state.get("segments") or {}
    if not isinstance(default, Mapping) or not isinstance(named, Mapping):
        what = "this is no calibration state: neither format, adjustment nor default_adjustment stands in it"
        raise DataError(what, hint="give the calibration.json of a run, or an older conformal_state.json", slug="bad-calibration")
    groups = {"": _adjustment("default_adjustment", default)}
    groups |= {str(name): _adjustment(f"segments.{name}", one.get("adjustment", one)) for name, one in named.items()}
    counts = {"older": True}
    coverage = float(default["target_coverage"])
    return ConformalCalibration("scale", coverage, (), 1, groups, counts=counts, partial=True)


def _adjustment(where: str, state: Mapping[str, Any]) -> Learned:
    try:
        shift, factor, coverage = (float(state[name]) for name in ("center_shift", "width_scale", "target_coverage"))
    except (KeyError, TypeError, ValueError) as error:
        what = f"{where}: center_shift, width_scale and target_coverage are numbers"
        raise DataError(what, hint="restore the file", slug="bad-calibration") from error
    if not (math.isfinite(shift) and math.isfinite(factor) and factor > 0 and 0 < coverage < 1):
        what = f"{where}: width_scale is positive, target_coverage lies in (0, 1), center_shift is finite"
        raise DataError(what, hint="restore the file", slug="bad-calibration")
    size = state.get("sample_size", 0)
    return Learned(shift=shift, factor=factor, count=int(size) if isinstance(size, int | float) and math.isfinite(size) else 0)


# --- learning ------------------------------------------------------------------------------------------------------------


def calibrate(
    windows: Windows,
    *,
    method: Method = "cqr",
    coverage: float = 0.8,
    window: int | None = 300,
    group_by: Sequence[str] = (),
    rate: float = RATE,
    residuals: bool = True,
) -> ConformalCalibration:
    """Learn from forecasts of the past.

    coverage  of the central interval that is asked for: both of its levels must be among those forecast
    window    so many latest origins calibrate, in each group (None: all)
    rate      of `tracking`
    residuals keep them; not where the model gave points only and quantiles were put around them: then those are calibrated

    Raises DataError where the fallback answered more than a fifth of the origins, where a step has too few outcomes for the
    coverage (naming the minimum), or no pair of levels has that coverage.
    """
    if method == "none":
        raise ValueError("with method none there is nothing to calibrate")
    pairs = symmetric_pairs(windows.levels)
    if not any(math.isclose(coverage, nominal, abs_tol=1e-9) for _, _, nominal in pairs):
        low, high = (1 - coverage) / 2, (1 + coverage) / 2
        what = f"no pair of the quantiles {', '.join(f'{level:g}' for level in windows.levels)} has coverage {coverage:g}"
        raise DataError(what, hint=f"add the quantiles {low:.6g} and {high:.6g}", slug="bad-coverage")
    asked = len(windows)
    kept = windows if windows.answered is None else windows.take(windows.answered)
    refuse_fallbacks(asked, asked - len(kept))
    order = np.argsort(kept.times, kind="stable")
    kept = kept.take(order)
    groups = {"": _learn(kept, method, coverage, window, rate)}
    names = np.array([kept.group(i, group_by) for i in range(len(kept))]) if group_by else np.zeros(0, dtype=str)
    pooled = []
    for name in sorted(set(names.tolist()) - {""}):
        part = kept.take(names == name)
        if enough(part, windows.levels):
            groups[name] = _learn(part, method, coverage, window, rate)
        else:
            pooled.append(name)
    if not residuals:
        for of in groups.values():
            of.positions, of.residuals = np.zeros(0), np.zeros((0, 0))
    counts = {"asked": asked, "answered": len(kept), "fallback": asked - len(kept), "pooled": pooled}
    return ConformalCalibration(method, coverage, windows.levels, windows.horizon, groups, group_by=group_by, window=window, counts=counts)


def refuse_fallbacks(asked: int, fallbacks: int) -> None:
    """DataError where the fallback answered more than a fifth of the origins."""
    if asked and fallbacks > FALLBACKS_MOST * asked:
        what = f"{fallbacks} of {asked} calibration origins were answered by the fallback; at most {FALLBACKS_MOST:.0%} may be"
        raise DataError(what, hint="mend the server or the series, then fit again", slug="too-many-fallbacks")


def enough(windows: Windows, levels: Sequence[float]) -> bool:
    """Whether every step has the outcomes that the widest pair needs: n (1 - coverage) >= 1."""
    widest = max((c for _, _, c in symmetric_pairs(levels)), default=0.5)
    return bool(np.min(_outcomes(windows), initial=len(windows)) >= math.ceil(1 / (1 - widest) - 1e-9))


def _outcomes(windows: Windows) -> NDArray[np.int64]:
    """(H,)"""
    return np.asarray(np.sum(~np.isnan(windows.actual), axis=0), dtype=np.int64)


def _learn(windows: Windows, method: Method, coverage: float, window: int | None, rate: float) -> Learned:
    recent = windows if window is None else windows.take(np.arange(max(0, len(windows) - window), len(windows)))
    of = _moved(windows, recent, method, coverage, rate)
    if of.count:
        errors = recent.actual - centre_of(windows.levels, recent.path)
        positions = np.arange(1, POSITIONS) / POSITIONS
        of.positions = positions[(positions >= 1 / (of.count + 1)) & (positions <= of.count / (of.count + 1))]
        of.residuals = np.nanquantile(errors, of.positions, axis=0, method="weibull").T
    return of


def _moved(windows: Windows, recent: Windows, method: Method, coverage: float, rate: float) -> Learned:
    """How far the ends move, by the latest windows; tracking lives through all of them."""
    of = Learned(count=int(np.min(_outcomes(recent), initial=len(recent))))
    if method == "scale":
        of.shift, of.factor = _scale(recent, coverage)
    elif method == "tracking":
        of.trackers = {nominal: _tracked(windows, recent, i, j, nominal, rate) for i, j, nominal in symmetric_pairs(windows.levels)}
    else:
        for i, j, nominal in symmetric_pairs(windows.levels):
            of.amounts[nominal] = Conformal(nominal).fit(recent.actual, recent.path[:, :, i], recent.path[:, :, j]).adjustment
    return of


def _scale(windows: Windows, coverage: float) -> tuple[float, float]:
    """Shift and factor: the median residual, and the conformal quantile of |what is left| over the half-width, all steps together."""
    low, high, _ = next(pair for pair in symmetric_pairs(windows.levels) if math.isclose(pair[2], coverage, abs_tol=1e-9))
    residual = windows.actual - centre_of(windows.levels, windows.path)
    half = np.maximum((windows.path[:, :, high] - windows.path[:, :, low]) / 2, 1e-12)
    shift = float(np.nanmedian(residual)) if np.isfinite(residual).any() else 0.0
    return shift, conformal_quantile(np.abs(residual - shift) / half, coverage)


def _tracked(windows: Windows, recent: Windows, low: int, high: int, coverage: float, rate: float) -> QuantileTracker:
    """The tracker after it has lived through the windows, in the order of time; it starts from the first half as cqr."""
    first = windows.take(np.arange(max(len(windows) // 2, min(len(windows), len(recent) // 2))))
    start = Conformal(coverage).fit(first.actual, first.path[:, :, low], first.path[:, :, high]).adjustment
    tracker = QuantileTracker(windows.horizon, coverage, rate=rate, start=start)
    rest = windows.take(np.arange(len(first), len(windows)))
    came: dict[int, dict[Any, float]] = {}
    for number in range(len(rest)):
        for step in range(rest.horizon):
            if not math.isnan(actual := float(rest.actual[number, step])):
                came.setdefault(int(rest.times[number]) + step + 1, {})[rest.series[number]] = actual
    issued: dict[int, list[int]] = {}
    for number, time in enumerate(rest.times.tolist()):
        issued.setdefault(time, []).append(number)
    for time in sorted({*came, *issued}):
        for series, actual in came.get(time, {}).items():
            tracker.observe(time, actual, series=str(series))
        for number in issued.get(time, ()):
            tracker.issue(time, rest.path[number, :, low], rest.path[number, :, high], series=str(rest.series[number]))
    tracker.forget()
    return tracker


def _ends(levels: Sequence[float], path: Floats, coverage: float) -> tuple[Floats, Floats] | None:
    """The uncalibrated ends (H,) of a central interval, where the levels have it."""
    for low, high, nominal in symmetric_pairs(levels):
        if math.isclose(nominal, coverage, abs_tol=1e-9):
            return path[:, low], path[:, high]
    return None


def rolling(windows: Windows, method: Method, *, coverage: float = 0.8, window: int = 300, rate: float = RATE) -> Floats:
    """What a calibration kept up to date would have answered at every origin, (n, H, 2): the ends of the central interval.

    At origin t only outcomes up to t are known: of a forecast made at s its first t - s steps. Origins of one series, one grid
    step apart or more. Where there are too few outcomes yet, the ends are as they were forecast.
    """
    low, high, _ = next(pair for pair in symmetric_pairs(windows.levels) if math.isclose(pair[2], coverage, abs_tol=1e-9))
    ends = windows.path[:, :, [low, high]].copy()
    if method == "tracking":
        tracker = QuantileTracker(windows.horizon, coverage, rate=rate)
        at = {int(time): number for number, time in enumerate(windows.times)}
        for number, time in enumerate(windows.times.tolist()):
            for moment in range(int(windows.times[number - 1]) + 1 if number else time, time + 1):
                before = next((at[moment - step] for step in range(1, windows.horizon + 1) if moment - step in at), None)
                if before is not None:
                    tracker.observe(moment, float(windows.actual[before, moment - int(windows.times[before]) - 1]))
            ends[number, :, 0], ends[number, :, 1] = tracker.issue(time, windows.path[number, :, low], windows.path[number, :, high])
        return ends
    pair = (windows.levels[low], windows.levels[high])
    two = replace(windows, path=windows.path[:, :, [low, high]], levels=pair)
    for number, time in enumerate(windows.times.tolist()):
        past = two.take(np.arange(max(0, number - window - windows.horizon), number))
        known = past.times[:, None] + np.arange(1, windows.horizon + 1) <= time
        latest = np.cumsum(known[::-1], axis=0)[::-1] <= window
        past = replace(past, actual=np.where(known & latest, past.actual, np.nan))
        if len(past) and enough(past, pair):
            state = ConformalCalibration(method, coverage, pair, windows.horizon, {"": _moved(past, past, method, coverage, rate)})
            ends[number] = state.apply(pair, ends[number], {})
    return ends
