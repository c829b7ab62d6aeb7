"""Smoothing that looks back only.

`one_sided_exp` and `local_linear` are filters: the value of a row depends on the rows up to it, so one pass serves all origins.
`WindowSpline` is the cubic smoothing spline through the last points before an origin, both sides of each of them; there every
origin has a curve of its own. Time is counted in grid steps; a missing value has no weight.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from recipeline.timeseries.fills import forward

Floats = NDArray[np.float64]
Kind = Literal["none", "one_sided_exp", "local_linear", "spline_window"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def one_sided_exp(values: Floats, tau: float) -> Floats:
    """Mean of all values up to each row, weighted by exp(-age / tau); rows without a value carry the last.

    values (T,) NaN where missing; tau in rows; returns (T,), NaN before the first value
    """
    seen = ~np.isnan(values)
    if not seen.any():
        return np.full(len(values), np.nan)
    base = values[np.argmax(seen)]  # sums of differences from it lose no digits
    keep = np.exp(-1 / tau)
    weight = _decayed(seen.astype(np.float64), keep)
    total = _decayed(np.where(seen, values - base, 0.0), keep)
    return _carried(base + total / np.where(seen, weight, 1.0), seen)


def local_linear(values: Floats, tau: float) -> Floats:
    """The end of the line through all values up to each row, least squares weighted by exp(-age / tau) (Cleveland 1979, one-sided).

    It follows a trend without the lag of the mean. values (T,), tau in rows; returns (T,), NaN before the first value
    """
    seen = ~np.isnan(values)
    if not seen.any():
        return np.full(len(values), np.nan)
    base = values[np.argmax(seen)]
    keep = np.exp(-1 / tau)

    def older(moment: Floats) -> Floats:  # what it becomes one row later
        before: Floats = keep * np.concatenate([[0.0], moment[:-1]])
        return before

    # sums of w, w·age, w·age², w·y, w·age·y, each from the row before: (age + 1)² = age² + 2 age + 1
    s0 = _decayed(seen.astype(np.float64), keep)
    s1 = _decayed(older(s0), keep)
    s2 = _decayed(older(2 * s1 + s0), keep)
    t0 = _decayed(np.where(seen, values - base, 0.0), keep)
    t1 = _decayed(older(t0), keep)
    spread = s0 * s2 - s1 * s1
    sloped = seen & (spread > 1e-9 * s0 * s2) & (s2 > 0)
    level = np.where(sloped, (s2 * t0 - s1 * t1) / np.where(sloped, spread, 1.0), t0 / np.where(seen, s0, 1.0))
    return _carried(base + level, seen)


class WindowSpline:
    """The cubic smoothing spline of `length` grid rows: minimises Σ (y - f)² + λ ∫ f''² over the rows that have a value.

    Equal to scipy's make_smoothing_spline(x, y, lam=λ) on the observed rows x (Reinsch 1967; tests compare), written in uniform
    cubic B-splines: a system of four diagonals for each window, whose factor is kept for windows without a gap.
    """

    def __init__(self, length: int, lam: float) -> None:
        self.length, self.lam = length, lam
        # ∫ f''² of a piecewise linear f'' with values d at the rows: dᵀ tridiag(1/6, 2/3, 1/6) d, half of 2/3 at both ends,
        # and d_k = c_k - 2 c_(k+1) + c_(k+2) of the coefficients. Four diagonals are not zero, kept as LAPACK has them
        self._penalty = np.zeros((4, length + 2))
        own, both = np.full(length, 2 / 3), np.full(length - 1, 1 / 6)
        own[[0, -1]] = 1 / 3
        second = (1.0, -2.0, 1.0)
        for i, a in enumerate(second):
            for j, b in enumerate(second):
                if i >= j:  # of d_k²: coefficients k + i and k + j
                    self._penalty[i - j, j : j + length] += lam * a * b * own
                below = i + 1 - j  # of d_k d_(k+1): coefficients k + 1 + i and k + j, both ways round
                if below >= 0:
                    self._penalty[below, j : j + length - 1] += lam * a * b * both
                if below <= 0:
                    self._penalty[-below, i + 1 : i + length] += lam * a * b * both
        self._whole = self._factor(np.ones(length))

    def smooth(self, values: Floats) -> Floats:
        """(N, length) of (N, length), NaN where missing. Rows after the last value carry the curve's end; rows before the first
        continue it as a line. A window with one value is that value, with none NaN."""
        from scipy.linalg.lapack import dpbtrs

        seen = ~np.isnan(values)
        known = np.where(seen, values, 0.0)
        count = seen.sum(axis=1)
        some = np.maximum(count, 1)
        base = known.sum(axis=1) / some
        known = np.where(seen, known - base[:, None], 0.0)
        right = np.zeros((len(values), self.length + 2))
        right[:, :-2] += known / 6
        right[:, 1:-1] += known * (4 / 6)
        right[:, 2:] += known / 6
        coefficients = np.zeros_like(right)
        whole = np.flatnonzero(count == self.length)
        if len(whole):
            coefficients[whole] = dpbtrs(self._whole, right[whole].T, lower=1)[0].T
        for number in np.flatnonzero((count < self.length) & (count > 1)):
            factor = self._factor(seen[number].astype(np.float64))
            coefficients[number] = dpbtrs(factor, right[number], lower=1)[0].ravel()
        curve: Floats = (coefficients[:, :-2] + 4 * coefficients[:, 1:-1] + coefficients[:, 2:]) / 6 + base[:, None]
        last = self.length - 1 - np.argmax(seen[:, ::-1], axis=1)
        curve = np.where(np.arange(self.length) > last[:, None], curve[np.arange(len(curve)), last][:, None], curve)
        curve[count == 0] = np.nan
        return curve

    def _factor(self, weights: Floats) -> Floats:
        """Cholesky factor, lower diagonals (4, length + 2), of BᵀWB + λP."""
        from scipy.linalg.lapack import dpbtrf

        w = weights / 36  # each row of B is (1, 4, 1) / 6
        system = self._penalty.copy()
        system[0, :-2] += w
        system[0, 1:-1] += 16 * w
        system[0, 2:] += w
        system[1, :-2] += 4 * w
        system[1, 1:-1] += 4 * w
        system[2, :-2] += w
        factor, trouble = dpbtrf(system, lower=1)
        if trouble:
            raise ArithmeticError(f"the smoothing spline with λ = {self.lam:g} has no solution (dpbtrf: {trouble})")
        found: Floats = factor
        return found


def roughness(values: Floats) -> float:
    """Mean square of the second differences of (…, T), where three neighbours are known; NaN where nowhere are."""
    bends = np.diff(values, 2, axis=-1)
    known = ~np.isnan(bends)
    return float(np.mean(bends[known] ** 2)) if known.any() else float("nan")


def _decayed(x: Floats, keep: float) -> Floats:
    """Σ keep^(t - i) x_i over i ≤ t."""
    from scipy.signal import lfilter

    sums: Floats = lfilter([1.0], [1.0, -keep], x)
    return sums


def _carried(values: Floats, seen: NDArray[np.bool_]) -> Floats:
    return forward(np.where(seen, values, np.nan)[:, None])[:, 0]
