"""Filling gaps so that what an origin sees depends on nothing after it.

An interior gap is interpolated in true time between knots (observed rows) that are all at or before the origin; the gap
that reaches the origin carries the last value, for a polynomial run on past its data goes anywhere. So the same row may be
filled differently for different origins: carried while the gap is open, then interpolated, then once or twice more as the
next knots bend the curve. These few variants are computed once for the whole series as *layers*; the windows of any
number of origins are then one gather.

Kinds and sources (each equal to scipy's class of the name on the knots that an origin knows; the tests compare):
linear; pchip (Fritsch and Butland 1984, scipy PchipInterpolator); akima (Akima 1970) and makima (modified, as in MATLAB),
scipy Akima1DInterpolator; cubic (not-a-knot, scipy CubicSpline, through the nearest 8 knots before the gap and 3 after it,
as a spline over all knots would move with each new one); hermite_bdiff (cubic Hermite with backward differences, Morrill
et al. 2021, "Neural CDEs for long time series via the log-ODE method"); ffill.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recipeline.errors import DataError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Kind = Literal["linear", "pchip", "akima", "makima", "cubic", "hermite_bdiff", "ffill"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# After so many knots beyond its right end, a gap's curve no longer changes.
REACH: dict[Kind, int] = {"ffill": 0, "linear": 0, "hermite_bdiff": 0, "pchip": 1, "akima": 2, "makima": 2, "cubic": 2}
BEFORE = 8  # knots before a gap that a cubic spline passes through; its memory fades by 0.27 per knot


@dataclass(frozen=True)
class Layers:
    """All that any origin may see.

    values  (2 + reach, T, C): layer 0 carries the last value, layer 1 + e is the curve when e further knots are known
    knots   (T, C) number of the last knot at or before each row, -1 before the first
    """

    values: Floats
    knots: Integers

    def at(self, origins: ArrayLike, lookback: int) -> Floats:
        """(N, lookback, C): rows o - lookback + 1 … o as origin o sees them; NaN before the first knot and in gaps too long."""
        last = np.asarray(origins, dtype=np.int64)
        if len(last) and (last.min() < lookback - 1 or last.max() >= self.knots.shape[0]):
            raise DataError(f"origins lie between rows {lookback - 1} and {self.knots.shape[0] - 1}; got {last.min()} to {last.max()}")
        rows = last[:, None] + np.arange(1 - lookback, 1)  # (N, lookback)
        beyond = self.knots[last][:, None, :] - self.knots[rows]  # (N, lookback, C) knots between the row and the origin
        seen: Floats = self.values[np.minimum(beyond, len(self.values) - 1), rows[:, :, None], np.arange(self.knots.shape[1])]
        return seen

    @staticmethod
    def join(parts: Sequence[Layers]) -> Layers:
        """The layers of many series, one after the other as in `windows`."""
        return Layers(np.concatenate([p.values for p in parts], axis=1), np.concatenate([p.knots for p in parts]))


def layers(
    values: ArrayLike,
    times: ArrayLike,
    kind: Kind = "pchip",
    max_fill: float | None = None,
    *,
    season: int = 0,
    damping: float = 1.0,
) -> Layers:
    """Prepare a series for filling.

    values    (T,) or (T, C), NaN where missing          times  (T,) ascending seconds (or any unit)
    max_fill  an interior gap whose knots are further apart stays NaN; an open gap is carried no longer than this
    season    rows after which things repeat; then the k-th row of an open gap is the last value plus `damping`^k times what the
              series had moved one season (or several) before between the same two phases. 0: the last value alone
    """
    if kind not in KINDS:
        raise DataError(f"{kind!r} is no way of filling", hint=f"use one of {', '.join(KINDS)}")
    matrix = np.asarray(values, dtype=np.float64)
    matrix = matrix if matrix.ndim == 2 else matrix[:, None]
    clock = np.asarray(times, dtype=np.float64)
    if clock.shape != matrix.shape[:1] or (np.diff(clock) <= 0).any():
        raise DataError(f"times are {len(matrix)} strictly ascending numbers", slug="bad-stamps")
    knots = np.cumsum(~np.isnan(matrix), axis=0) - 1
    filled = np.repeat(matrix[None], 2 + REACH[kind], axis=0)
    for column in range(matrix.shape[1]):
        _fill_column(filled[:, :, column], clock, knots[:, column], kind, np.inf if max_fill is None else max_fill)
        if season > 0:
            _repeat_season(filled[0, :, column], matrix[:, column], season, damping)
    return Layers(filled, knots)


def fill(values: ArrayLike, times: ArrayLike, kind: Kind = "pchip", max_fill: float | None = None) -> Floats:
    """(T, C): the whole series as its last row sees it."""
    ready = layers(values, times, kind, max_fill)
    whole: Floats = ready.at([len(ready.knots) - 1], len(ready.knots))[0]
    return whole


def forward(values: Floats) -> Floats:
    """Each gap of (T, C) carries the value before it; NaN before the first: `ffill` by rows, without times."""
    at = np.maximum.accumulate(np.where(np.isnan(values), 0, np.arange(len(values))[:, None]), axis=0)
    carried: Floats = np.take_along_axis(values, at, axis=0)
    return carried


def _fill_column(filled: Floats, times: Floats, knots: Integers, kind: Kind, longest: float) -> None:
    """Fill the missing rows of one column, (2 + reach, T), in place."""
    missing = np.isnan(filled[0])
    x, y = times[~missing], filled[0, ~missing]  # (n,) knots
    rows = np.flatnonzero(missing & (knots >= 0))
    left = knots[rows]  # the knot before each missing row
    filled[0, rows] = np.where(times[rows] - x[left] <= longest, y[left], np.nan)
    inner = left < len(x) - 1
    rows, left = rows[inner], left[inner]
    if not len(rows):
        return
    width = x[left + 1] - x[left]
    gaps, gap = np.unique(left, return_inverse=True)  # each gap once
    if kind == "ffill":
        filled[1:, rows] = np.where(width <= longest, y[left], np.nan)
        return
    # all layers at once: the e-th knows e knots beyond the right end of a gap, as far as there are any
    depth, count = len(filled) - 1, len(gaps)
    last = np.minimum(gaps + 1 + np.arange(depth)[:, None], len(x) - 1)
    begin, end = (slopes.reshape(depth, count)[:, gap] for slopes in _SLOPES[kind](x, y, np.tile(gaps, depth), last.ravel()))
    curves = _hermite(x, y, times[rows], left, begin, end)
    filled[1:, rows] = np.where(width <= longest, curves, np.nan)


def _repeat_season(carried: Floats, observed: Floats, season: int, damping: float) -> None:
    """Let the carried rows (T,) of one column go on as one season before, in place."""
    values = forward(observed[:, None])[:, 0]
    missing = np.isnan(observed)
    last = np.maximum.accumulate(np.where(missing, 0, np.arange(len(observed))))
    rows = np.flatnonzero(missing & ~np.isnan(carried))
    since = rows - last[rows]  # k, from 1 on
    back = season * ((since + season - 1) // season)  # whole seasons, so that the source lies at or before the last value
    rows, since, back = (part[last[rows] - back >= 0] for part in (rows, since, back))
    move = values[rows - back] - values[last[rows] - back]
    carried[rows] += np.where(np.isnan(move), 0.0, damping**since * move)


def _hermite(x: Floats, y: Floats, at: Floats, left: Integers, begin: Floats, end: Floats) -> Floats:
    """The cubics at `at` (m,) on [x[left], x[left + 1]] with slopes (…, m) at its ends."""
    h = x[left + 1] - x[left]
    s = (at - x[left]) / h
    rise = y[left + 1] - y[left]
    # Horner form around the chord: exact at the knots, and exactly the chord when both slopes are the chord's
    bend: Floats = s * (1 - s) * ((1 - s) * (begin * h - rise) - s * (end * h - rise))
    return y[left] + s * rise + bend


# The slopes at both ends of the gaps (k, k + 1), when knot `last` is the last one known: (x, y, k, last) -> two arrays.


def _chord(x: Floats, y: Floats, k: Integers, last: Integers) -> tuple[Floats, Floats]:
    slope = (y[k + 1] - y[k]) / (x[k + 1] - x[k])
    return slope, slope


def _backward(x: Floats, y: Floats, k: Integers, last: Integers) -> tuple[Floats, Floats]:
    before = np.maximum(k - 1, 0)
    return _chord(x, y, before, last)[0], _chord(x, y, k, last)[0]


def _pchip(x: Floats, y: Floats, k: Integers, last: Integers) -> tuple[Floats, Floats]:
    h, m = np.diff(x), np.diff(y) / np.diff(x)

    def inner(i: Integers) -> Floats:  # weighted harmonic mean of the slopes around knot i; 0 at an extremum
        a, b = np.maximum(i - 1, 0), np.minimum(i, len(m) - 1)
        w1, w2 = 2 * h[b] + h[a], h[b] + 2 * h[a]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            mean = (w1 + w2) / (w1 / m[a] + w2 / m[b])
        return np.where((np.sign(m[a]) == np.sign(m[b])) & (m[a] != 0), mean, 0.0)

    def outer(near: Integers, far: Integers) -> Floats:  # three-point formula at an end, kept to the shape of the data
        slope = ((2 * h[near] + h[far]) * m[near] - h[near] * m[far]) / (h[near] + h[far])
        slope = np.where(np.sign(slope) != np.sign(m[near]), 0.0, slope)
        turns = (np.sign(m[near]) != np.sign(m[far])) & (np.abs(slope) > 3 * np.abs(m[near]))
        return np.where(turns, 3 * m[near], slope)

    two = last == 1  # two knots are a straight line
    second = np.minimum(1, len(m) - 1)
    begin = np.where(k > 0, inner(k), np.where(two, m[0], outer(np.zeros_like(k), np.full_like(k, second))))
    end = np.where(k + 1 < last, inner(k + 1), np.where(two, m[0], outer(k, np.maximum(k - 1, 0))))
    return begin, end


def _akima(modified: bool) -> Callable[[Floats, Floats, Integers, Integers], tuple[Floats, Floats]]:
    def slopes(x: Floats, y: Floats, k: Integers, last: Integers) -> tuple[Floats, Floats]:
        m = np.diff(y) / np.diff(x)
        top = last - 1  # the last chord known

        def chord(i: Integers) -> Floats:  # beyond either end the sequence of slopes goes on linearly
            high = np.maximum(i - top, 0) * (m[top] - m[np.maximum(top - 1, 0)])
            low = np.maximum(-i, 0) * (m[0] - m[np.minimum(1, top)])
            beyond: Floats = m[np.clip(i, 0, top)] + high + low
            return beyond

        def slope(i: Integers) -> Floats:
            m0, m1, m2, m3 = chord(i - 2), chord(i - 1), chord(i), chord(i + 1)  # the four chords around knot i
            w1, w2 = np.abs(m3 - m2), np.abs(m1 - m0)
            if modified:
                w1, w2 = w1 + np.abs(m3 + m2) / 2, w2 + np.abs(m1 + m0) / 2
            # scipy compares with the largest weight of the whole series; an origin must not, so the four chords decide
            defined = w1 + w2 > 1e-9 * (np.abs(m0) + np.abs(m1) + np.abs(m2) + np.abs(m3))
            with np.errstate(divide="ignore", invalid="ignore"):
                weighted = m1 + w2 / (w1 + w2) * (m2 - m1)
            return np.where(defined, weighted, (m0 + m3) / 2)

        return slope(k), slope(k + 1)

    return slopes


def _cubic(x: Floats, y: Floats, k: Integers, last: Integers) -> tuple[Floats, Floats]:
    first = np.maximum(0, k - BEFORE + 1)
    count = last - first + 1
    begin, end = np.empty(len(k)), np.empty(len(k))
    for size in np.unique(count):
        some = np.flatnonzero(count == size)
        rows = first[some, None] + np.arange(size)  # (g, size) the knots of each gap
        slopes = _not_a_knot(x[rows], y[rows])
        at = k[some] - first[some]
        begin[some], end[some] = slopes[np.arange(len(some)), at], slopes[np.arange(len(some)), at + 1]
    return begin, end


def _not_a_knot(x: Floats, y: Floats) -> Floats:
    """(g, n) slopes at the knots (g, n) of cubic splines whose third derivative is continuous at the second and the last but one;
    two knots are a line, three a parabola (de Boor 1978, IV)."""
    h = np.diff(x)
    m = np.diff(y) / h
    size = x.shape[1]
    if size == 2:
        return np.repeat(m, 2, axis=1)
    system, right = np.zeros((len(x), size, size)), np.zeros((len(x), size))
    inner = np.arange(1, size - 1)
    system[:, inner, inner - 1] = h[:, 1:]
    system[:, inner, inner] = 2 * (h[:, :-1] + h[:, 1:])
    system[:, inner, inner + 1] = h[:, :-1]
    right[:, inner] = 3 * (h[:, 1:] * m[:, :-1] + h[:, :-1] * m[:, 1:])
    if size == 3:
        system[:, [0, 0, 2, 2], [0, 1, 1, 2]] = 1.0
        right[:, 0], right[:, 2] = 2 * m[:, 0], 2 * m[:, 1]
    else:
        both = h[:, 0] + h[:, 1]
        system[:, 0, 0], system[:, 0, 1] = h[:, 1], both
        right[:, 0] = ((h[:, 0] + 2 * both) * h[:, 1] * m[:, 0] + h[:, 0] ** 2 * m[:, 1]) / both
        both = h[:, -1] + h[:, -2]
        system[:, -1, -1], system[:, -1, -2] = h[:, -2], both
        right[:, -1] = ((h[:, -1] + 2 * both) * h[:, -2] * m[:, -1] + h[:, -1] ** 2 * m[:, -2]) / both
    slopes: Floats = np.asarray(np.linalg.solve(system, right[:, :, None])[:, :, 0], dtype=np.float64)
    return slopes


_SLOPES: dict[str, Callable[[Floats, Floats, Integers, Integers], tuple[Floats, Floats]]] = {
    "linear": _chord,
    "hermite_bdiff": _backward,
    "pchip": _pchip,
    "akima": _akima(modified=False),
    "makima": _akima(modified=True),
    "cubic": _cubic,
}
