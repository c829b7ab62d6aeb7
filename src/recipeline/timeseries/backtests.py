"""Plans of a backtest: from which origins to forecast, what each may learn from, when to fit anew; and the proof that nothing leaks.

Hold-out, walk-forward and rolling origin are one function with other arguments (Tashman 2000, "Out-of-sample tests of
forecasting accuracy"). Positions are rows of a regular grid, 0 … length - 1; an origin is the last row that is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from recipeline.errors import DataError

Refit = Literal["never", "every_k", "always", "warm_start"]


@dataclass(frozen=True)
class Window:
    """One forecast of a backtest; all positions inclusive.

    origin     last row that inputs may use
    first      first row judged, origin + 1 + gap       last  last row judged
    train_end  last row that a label of training may use, origin - embargo of the window that fitted
    refit      fit anew for this window                 warm  start that fit from the one before
    """

    origin: int
    first: int
    last: int
    train_end: int
    refit: bool
    warm: bool = False

    @property
    def label(self) -> str:
        return str(self.origin)


@dataclass(frozen=True)
class Plan:
    length: int
    horizon: int
    windows: tuple[Window, ...]

    def __len__(self) -> int:
        return len(self.windows)

    def __iter__(self) -> Iterator[Window]:
        return iter(self.windows)

    def origins(self) -> NDArray[np.int64]:
        """(N,)"""
        return np.array([w.origin for w in self.windows], dtype=np.int64)

    def audit(self) -> dict[str, Any]:
        """What was separated, checked row by row; DataError (slug leak) when training reaches what is judged."""
        fitted = -1
        for number, w in enumerate(self.windows):
            if w.refit:
                fitted = w.train_end
            trouble = {
                "the first window fits nothing": number == 0 and not w.refit,
                "it says another end of training than the fit in force": w.train_end != fitted,
                "training labels reach beyond the origin": w.train_end > w.origin,
                "judged rows are not after the origin": not w.origin < w.first <= w.last,
                "judged rows lie beyond the data": w.last >= self.length,
                "origins do not ascend": number > 0 and w.origin <= self.windows[number - 1].origin,
            }
            for what, wrong in trouble.items():
                if wrong:
                    raise DataError(f"window {number} (origin {w.origin}): {what}", slug="leak")
        return {
            "windows": len(self.windows),
            "fits": sum(w.refit for w in self.windows),
            "origins": [self.windows[0].origin, self.windows[-1].origin],
            "train_end": self.windows[0].train_end,
            "judged": [self.windows[0].first, self.windows[-1].last],
            "rows_between_training_and_judged": min(w.first - w.train_end - 1 for w in self.windows),
        }


def plan(
    length: int,
    *,
    horizon: int,
    n_windows: int | None = 1,
    test_size: int | None = None,
    step: int | None = None,
    gap: int = 0,
    embargo: int = 0,
    refit: Refit = "never",
    every: int = 1,
    min_train: int = 1,
) -> Plan:
    """Origins so that the last window ends with the data.

    hold-out         `plan(n, horizon=h)`, or `plan(n, horizon=h, test_size=t, step=1)` for all windows inside the last t rows
    walk-forward     `plan(n, horizon=h, n_windows=5, refit="always")`
    rolling origin   `plan(n, horizon=h, n_windows=8, step=12)`: fitted once, before the first origin

    n_windows  how many; with `test_size` as many as fit into it       step  rows between origins (None: the horizon)
    gap        rows after the origin that are not judged (data that arrive late)
    embargo    rows before the origin whose values no training label may use
    refit      never (once, before the first window), always, warm_start (always, from the fit before), every_k (each `every`-th)
    min_train  rows that training needs; fewer is a DataError
    """
    pace = horizon if step is None else step
    if min(horizon, pace, every) < 1 or min(gap, embargo) < 0 or (n_windows is not None and n_windows < 1):
        raise ValueError("horizon, step, every and n_windows are at least 1; gap and embargo are not negative")
    if refit not in get_args(Refit):
        raise ValueError(f"refit is one of {', '.join(get_args(Refit))}; got {refit!r}")
    span = gap + horizon
    if test_size is not None:
        if test_size < span:
            raise DataError(f"test_size {test_size} holds no window of gap {gap} and horizon {horizon}", slug="too-short")
        count = (test_size - span) // pace + 1
        first = length - test_size - 1
    else:
        count = n_windows or 1
        first = length - 1 - span - (count - 1) * pace
    if first - embargo + 1 < min_train:
        left = max(0, first - embargo + 1)
        raise DataError(
            f"{count} windows of horizon {horizon} leave {left} of {length} rows to train on, {min_train} are needed",
            hint="fewer windows, a smaller step or a shorter horizon",
            slug="too-short",
        )
    chosen: list[Window] = []
    end = first - embargo
    for number in range(count):
        origin = first + number * pace
        anew = number == 0 or refit in ("always", "warm_start") or (refit == "every_k" and number % every == 0)
        end = origin - embargo if anew else end
        chosen.append(Window(origin, origin + 1 + gap, origin + span, end, anew, anew and number > 0 and refit == "warm_start"))
    made = Plan(length, horizon, tuple(chosen))
    made.audit()
    return made


def leaking_origins(
    inputs: Callable[[NDArray[Any], int], Any], values: NDArray[Any], origins: Sequence[int], *, seed: int = 0
) -> tuple[int, ...]:
    """The origins whose inputs (or forecasts) change by a single bit when everything after them is replaced by noise.

    inputs(values, origin) -> array, or nest of dicts and lists of arrays, that a model sees or says at that origin
    values  (T,) or (T, C) float; noise is wild and holds NaN, so that statistics and gaps after the origin change as well
    """
    rng = np.random.default_rng(seed)
    found = []
    for origin in origins:
        noisy = values.copy()
        after = noisy[origin + 1 :]
        after[...] = np.where(rng.random(after.shape) < 0.3, np.nan, rng.normal(scale=1e3, size=after.shape))
        if _bits(inputs(values.copy(), int(origin))) != _bits(inputs(noisy, int(origin))):
            found.append(int(origin))
    return tuple(found)


def _bits(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _bits(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_bits(item) for item in value]
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise TypeError("inputs are arrays of numbers; objects have no bits to compare")
    return array.shape, array.dtype.str, array.tobytes()
