"""Validation along time: walk forward, fitted anew as often as asked, and rolling origin, fitted once.

The origin is the last moment that is known. A window judges what comes after it, with what was fitted before it
(Tashman 2000, "Out-of-sample tests of forecasting accuracy"). What counts as one step is the task's:

* forecasting: grid steps, common to all series of a panel; a window judges the horizon of the model
* tasks on rows: different time stamps where `step`, `gap` … are numbers, or time where they are durations as "12h"; a window
  judges the rows of one step
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd

from recipeline.components.splitters import check_calibration, check_time, times_of
from recipeline.contracts import Fold, Selected, Split
from recipeline.errors import DataError, Problem, nearest
from recipeline.timeseries.backtests import Plan, Refit, Window, plan
from recipeline.timeseries.frames import text_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from recipeline.timeseries.frames import Clock

    Indices: TypeAlias = NDArray[np.intp]

Length: TypeAlias = int | str

WINDOWS = 5
REFITS = ("never", "every_k", "always", "warm_start")


class WalkForward:
    """Windows that move on in time, each judged by what was fitted on rows before its origin.

    n_windows         how many; as many as fit into `test_size`, or after the first `window`, where one of these is given; else 5
    step              how far the origin moves: a number of steps, or a duration as "1D"; the horizon of a forecaster by default
    refit             always, never (once, before the first window), every_k (each `every`-th window), or warm_start (always, and
                      the model is handed the one before)
    gap               after the origin, not judged (what arrives late)
    embargo           before the origin, not learned from
    window            how far back training reaches; everything by default
    test_size         what is sealed in all, instead of a number of windows
    calibration_size  the last part of training that is held back from fitting: a share of the steps, or their number
    time_on           the column of the time, for tasks on rows; `data_interface.timestamp_col` by default
    """

    name = "walk_forward"

    def __init__(
        self,
        n_windows: int | None = None,
        *,
        step: int | str | None = None,
        refit: Refit = "always",
        every: int = 1,
        gap: int | str = 0,
        embargo: int | str = 0,
        window: int | str | None = None,
        test_size: int | str | None = None,
        calibration_size: float = 0,
        time_on: str | None = None,
    ) -> None:
        self.n_windows, self.step, self.refit, self.every = n_windows, step, refit, every
        self.gap, self.embargo, self.window, self.test_size = gap, embargo, window, test_size
        self.calibration_size, self.time_on = calibration_size, time_on

    def split(self, selected: Selected, task: Any) -> Split:
        """The windows, the last of which ends with the data; what is kept is the last that was fitted.

        Raises DataError (slug too-short) where the data leave nothing to fit on.
        """
        line = _line(selected, task, self._lengths(), self.time_on)
        made = self._plan(line)
        folds = self._folds(line, made, line.measure(self.window) or None)
        _refuse_leak(line, folds, self)
        borders = [_border(line, fold) for fold in folds]
        audit = {
            "method": self.name,
            "unit": line.unit,
            "windows": len(folds),
            "windows_without_rows": len(made) - len(folds),
            "fits": sum(fold.refit for fold in folds),
            "saved": "the pipeline of the last window that was fitted",
            "borders": borders,
        }
        return Split(tuple(folds), keep="last", audit=audit)

    def inner(self, selected: Selected, task: Any, folds: int) -> tuple[Fold, ...]:
        """So many windows at the end of the rows given, each with a fit of its own."""
        line = _line(selected, task, self._lengths(), self.time_on)
        span = line.horizon or line.measure(self.step) or max(1, line.length // (folds + 1))
        gap, embargo = line.measure(self.gap), line.measure(self.embargo)
        horizon = _judged(line, span, gap)
        room = line.length - gap - embargo - horizon
        pace = max(1, min(span, room // (2 * max(folds - 1, 1))))  # at least half of the time is fitted on
        line.refuse_short(room - (folds - 1) * pace, 1, folds, horizon)
        made = plan(line.length, horizon=horizon, n_windows=folds, step=pace, gap=gap, embargo=embargo, refit="always")
        found = self._folds(line, made, None)
        _refuse_leak(line, found, self)
        return tuple(replace(fold, label=str(number)) for number, fold in enumerate(found))

    # --- the plan ---

    def _lengths(self) -> dict[str, Length | None]:
        return {name: getattr(self, name) for name in ("step", "gap", "embargo", "window", "test_size")}

    def _plan(self, line: _Line) -> Plan:
        gap, embargo, window = line.measure(self.gap), line.measure(self.embargo), line.measure(self.window)
        if line.horizon is not None:
            horizon = _judged(line, line.horizon, gap)
            step = line.measure(self.step) or line.horizon
        else:
            parts = (self.n_windows or WINDOWS) + (0 if window else 1)
            horizon = step = line.measure(self.step) or max(1, (line.length - window) // parts)
        least, count = 1, self.n_windows
        if self.test_size is not None:
            size = line.measure(self.test_size)
            if size < gap + horizon:
                raise DataError(f"test_size {self.test_size} holds no window of {line.text(gap + horizon)}", slug="too-short")
            count = (size - gap - horizon) // step + 1
            rest = line.length - size
        else:
            if count is None and window:
                least = window
                count = max(1, (line.length - window - embargo - gap - horizon) // step + 1)
            count = count or WINDOWS
            rest = line.length - gap - horizon - (count - 1) * step
        line.refuse_short(rest - embargo, least, count, horizon)
        until = {"n_windows": count} if self.test_size is None else {"n_windows": None, "test_size": size}
        return plan(line.length, horizon=horizon, step=step, gap=gap, embargo=embargo, refit=self.refit, every=self.every, **until)

    def _folds(self, line: _Line, made: Plan, reach: int | None) -> list[Fold]:
        """The windows as rows; those in which nothing was observed are left out.

        reach  how far back training goes; None is everything
        """
        folds: list[Fold] = []
        refit = warm = False  # what a window that is left out was to do, the next one does
        for w in made:
            refit, warm = refit or w.refit, warm or w.warm
            test = line.between(w.first, w.last)
            if not line.observed[test].any():
                continue
            train = line.between(None if reach is None else w.train_end - reach + 1, w.train_end)
            if not line.observed[train].any():
                hint = "a longer window, or fewer of them"
                raise DataError(f"no row is left to fit on before {line.show(w.origin)}", hint=hint, slug="too-short")
            fitted, held = self._held_back(line, train, w)
            origin = line.stamp(w.origin)
            past = line.between(None, w.origin)
            folds.append(
                Fold(fitted, test, refit, warm and bool(folds), past, validation=held, origin=origin, label=_label(origin))
            )  # fmt: skip
            refit = warm = False
        if not folds:
            raise DataError(f"nothing was observed in any of {len(made)} windows", hint="judge an earlier part of the data", slug="no-rows")
        return folds

    def _held_back(self, line: _Line, train: Indices, w: Window) -> tuple[Indices, Indices | None]:
        """Training rows apart into those that are fitted on and the last ones, held back."""
        if not self.calibration_size:
            return train, None
        at = line.at[train]
        span = int(at.max() - at.min() + 1)
        size = math.ceil(self.calibration_size * span) if self.calibration_size < 1 else line.measure(int(self.calibration_size))
        border = w.train_end - size + 1
        fitted, held = train[at < border - line.measure(self.embargo)], train[at >= border]
        if not len(fitted) or not len(held):
            what = f"calibration_size {self.calibration_size} leaves {len(fitted)} rows to fit on and {len(held)} held back"
            raise DataError(what, hint="change it, or give more rows", slug="too-short")
        return fitted, held

    @classmethod
    def check(cls, params: Mapping[str, Any], interface: Mapping[str, Any], environment: str) -> list[Problem]:  # noqa: ARG003
        problems = [*_check_lengths(params, interface), *check_calibration(params, interface, forward=True)]
        refit = params.get("refit")
        if refit is not None and refit not in REFITS:
            problems.append(
                Problem("bad-value", ("refit",), f"{refit!r} is not one of {', '.join(REFITS)}", "", "value", nearest(str(refit), REFITS))
            )
        elif params.get("every", 1) != 1 and refit != "every_k":
            problems.append(Problem("conflict", ("every",), "every is used only with refit: every_k", "remove it, or write refit: every_k"))
        if params.get("n_windows") is not None and params.get("test_size") is not None:
            problems.append(Problem("conflict", ("test_size",), "n_windows and test_size both say how much is sealed", "keep one of them"))
        if params.get("gap") and interface.get("future_covariates"):
            what = "the covariates of the steps between origin and first judged row would be unknown"
            problems.append(Problem("conflict", ("gap",), what, "leave gap out, or the future_covariates"))
        if not interface.get("timestamp_col") and not params.get("time_on"):
            problems += check_time(params, interface)
        return problems


class RollingOrigin(WalkForward):
    """One fit before the first origin, judged from every origin: what a model is worth between two fits.

    n_windows         how many origins; 5, or as many as fit into `test_size`
    step              how far the origin moves: a number of steps, or a duration as "1D"; the horizon of a forecaster by default
    gap               after the origin, not judged (what arrives late)
    embargo           before the first origin, not learned from
    window            how far back training reaches; everything by default
    test_size         what is sealed in all, instead of a number of windows
    calibration_size  the last part of training that is held back from fitting: a share of the steps, or their number
    time_on           the column of the time, for tasks on rows; `data_interface.timestamp_col` by default
    """

    name = "rolling_origin"

    def __init__(
        self,
        n_windows: int | None = None,
        *,
        step: int | str | None = None,
        gap: int | str = 0,
        embargo: int | str = 0,
        window: int | str | None = None,
        test_size: int | str | None = None,
        calibration_size: float = 0,
        time_on: str | None = None,
    ) -> None:
        count = WINDOWS if n_windows is None and test_size is None else n_windows
        super().__init__(
            count, step=step, refit="never", gap=gap, embargo=embargo, window=window, test_size=test_size,
            calibration_size=calibration_size, time_on=time_on,
        )  # fmt: skip


# --- rows on a line of time --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """Rows as positions on a line of integers.

    at        (n,) position of each row                length   positions that are judged or learned from: 0 … length - 1
    observed  (n,) rows that have something to judge   order    (n,) rows in order of time
    horizon   steps that a window judges, where the task says so
    zero      the moment of position 0                 clock, times  what positions count: a grid, different times, else nanoseconds
    """

    at: NDArray[np.int64]
    observed: NDArray[np.bool_]
    length: int
    unit: str
    zero: Any
    horizon: int | None = None
    clock: Clock | None = None
    times: NDArray[Any] | None = None

    @cached_property
    def order(self) -> Indices:
        return np.argsort(self.at, kind="stable")

    @cached_property
    def _ascending(self) -> NDArray[np.int64]:
        return self.at[self.order]

    def between(self, first: int | None, last: int) -> Indices:
        """Rows from one position to another, both inclusive, in order of time: a view, for there may be thousands of windows."""
        begin = 0 if first is None else int(np.searchsorted(self._ascending, first, side="left"))
        return self.order[begin : int(np.searchsorted(self._ascending, last, side="right"))]

    def measure(self, length: Length | None) -> int:
        """A number of steps, or a duration, in positions."""
        if not length:
            return 0
        if not isinstance(length, str):
            return int(length)
        nanoseconds = int(pd.Timedelta(length).value)
        if self.clock is None:
            return nanoseconds
        step = self.clock.step
        if not isinstance(step, int) or nanoseconds % step:
            raise DataError(f"{length} is no number of steps of {self.clock.freq}", hint="give a number of steps", slug="bad-value")
        return nanoseconds // step

    def stamp(self, position: int) -> Any:
        """The moment at a position."""
        if self.clock is not None:
            return self.clock.ahead(np.array([self.zero]), [position])[0, 0]
        if self.times is not None:
            return self.times[position]
        return self.zero + np.timedelta64(position, "ns")

    def show(self, position: int) -> str:
        return text_of(self.stamp(position))

    def text(self, positions: int) -> str:
        """So many positions, in words."""
        return str(pd.Timedelta(positions, "ns")) if self.unit == "time" else f"{positions} {self.unit}"

    def refuse_short(self, left: int, least: int, windows: int, horizon: int) -> None:
        if left < least:
            what = f"{windows} windows of {self.text(horizon)} leave {self.text(max(left, 0))} of {self.text(self.length)} to train on"
            more = f", and {self.text(least)} are needed" if least > 1 else ""
            raise DataError(what + more, hint="fewer windows, a smaller step or a shorter horizon", slug="too-short")


def _line(selected: Selected, task: Any, lengths: Mapping[str, Length | None], time_on: str | None) -> _Line:
    """The rows as positions: of the task's own grid where it has one, else of different times, else in nanoseconds."""
    if hasattr(task, "grid"):
        at, clock, zero = task.grid(selected)
        observed = ~np.isnan(np.asarray(selected.y, dtype=np.float64))
        if not observed.any():
            raise DataError("no row has a target", slug="no-rows")
        return _Line(at, observed, int(at[observed].max()) + 1, f"steps of {clock.freq}", zero, int(task.horizon), clock)
    times = times_of(selected, task, time_on)
    everything = np.ones(len(times), dtype=bool)
    if any(isinstance(length, str) for length in lengths.values()):
        if times.dtype.kind != "M":
            raise DataError("durations need a time column with dates, and it holds numbers", hint="give numbers of steps", slug="bad-time")
        moments = times.astype("datetime64[ns]")
        at = (moments - moments.min()).astype(np.int64)
        return _Line(at, everything, int(at.max()) + 1, "time", moments.min())
    different, at = np.unique(times, return_inverse=True)
    return _Line(at.astype(np.int64), everything, len(different), "different times", different[0], times=different)


def _judged(line: _Line, span: int, gap: int) -> int:
    """Positions that a window judges: a forecaster's horizon begins at the origin, so a gap is taken from it."""
    if line.horizon is None:
        return span
    if gap >= span:
        raise DataError(
            f"gap {gap} leaves nothing of the horizon {span} to judge", hint="a smaller gap, or a longer horizon", slug="too-short"
        )
    return span - gap


def _label(origin: Any) -> str:
    """An origin as a name of files: 2001-12-29, 2024-05-01T1300."""
    return text_of(origin).removesuffix(":00").replace(":", "")


def _border(line: _Line, fold: Fold) -> dict[str, Any]:
    assert fold.train is not None
    assert fold.test is not None
    held = {} if fold.validation is None else {"calibration": len(fold.validation)}
    return {
        "origin": fold.label,
        "train": len(fold.train),
        **held,
        "test": len(fold.test),
        "unobserved": int((~line.observed[fold.test]).sum()),
        "train_until": line.show(int(line.at[fold.train].max())),
        "test_from": line.show(int(line.at[fold.test].min())),
        "refit": fold.refit,
    }


def _refuse_leak(line: _Line, folds: list[Fold], method: WalkForward) -> None:
    """DataError where a row that is judged, or anything after an origin, is fitted on: that would be a mistake of ours."""
    gap, embargo = line.measure(method.gap), line.measure(method.embargo)
    fitted = -1
    for number, fold in enumerate(folds):
        assert fold.train is not None
        assert fold.test is not None
        assert fold.past is not None
        sides = [fold.train] if fold.validation is None else [fold.train, fold.validation]
        learned = max(int(line.at[side].max()) for side in sides)
        known, judged = int(line.at[fold.past].max()), int(line.at[fold.test].min())
        fitted = learned if fold.refit else fitted
        trouble = {
            "the first window fits nothing": number == 0 and not fold.refit,
            "training reaches what is judged": max(fitted, learned) + gap + embargo >= judged,
            "the history reaches what is judged": known + gap >= judged,
            "training knows more than the history": max(fitted, learned) > known,
            "rows that are held back come before rows that are fitted on": len(sides) > 1
            and line.at[sides[0]].max() >= line.at[sides[1]].min(),
        }
        for what, wrong in trouble.items():
            if wrong:
                raise DataError(f"window {number} (origin {fold.label}): {what}", slug="leak")


# --- mistakes that need no data ------------------------------------------------------------------------------------------


def _check_lengths(params: Mapping[str, Any], interface: Mapping[str, Any]) -> Iterable[Problem]:
    durations, numbers = [], []
    for name in ("step", "gap", "embargo", "window", "test_size"):
        value = params.get(name)
        if value is None or (value == 0 and name in ("gap", "embargo") and not isinstance(value, bool)):
            continue
        if isinstance(value, str):
            try:
                valid = pd.Timedelta(value) > pd.Timedelta(0)
            except ValueError:
                valid = False
            if not valid:
                yield Problem("bad-value", (name,), f"{value!r} is not a duration", 'write it as "7D" or "12h"', "value")
            durations.append(name)
        elif not isinstance(value, int) or isinstance(value, bool) or value < 1:
            yield Problem("bad-value", (name,), f"{value!r} is not a number of steps or a duration", at="value")
        else:
            numbers.append(name)
    if durations and numbers and interface.get("task_type") != "forecasting":  # a grid turns durations into steps
        yield Problem(
            "conflict", (numbers[0],), f"{numbers[0]} counts steps and {durations[0]} is a duration", "write all of them in one way"
        )
    for name in ("n_windows", "every"):
        value = params.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            yield Problem("bad-value", (name,), f"{value!r} is not a number, 1 or more", at="value")
