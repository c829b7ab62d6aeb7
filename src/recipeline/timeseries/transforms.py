"""Scales: into a space (log, logit …), then shifted and divided; fitted on observed values only, undone in float64.

    kind      space      then
    standard  identity   minus mean, over standard deviation
    robust    identity   minus median, over interquartile range
    minmax    identity   minus minimum, over range
    log1p     log(1+x)   as standard; needs x > -1
    asinh     asinh(x)   as standard; a logarithm for both signs
    logit     logit(x)   nothing; x in [0, 1], kept `eps` away from both ends
    none      identity   nothing

Level `series` has statistics of its own for each series, `global` the same for all, `window` takes them from each window's past.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recipeline.errors import DataError

Floats = NDArray[np.float64]
Kind = Literal["standard", "robust", "minmax", "log1p", "asinh", "logit", "none"]
Level = Literal["series", "global", "window"]
Space = Literal["identity", "log1p", "asinh", "logit"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LEVELS: tuple[Level, ...] = get_args(Level)
EPS = 1e-6


def into(x: ArrayLike, space: Space, eps: float = EPS) -> Floats:
    """Values in the space, same shape, float64; NaN stays. DataError for values that have no place there."""
    values = np.asarray(x, dtype=np.float64)
    if space == "identity":
        return values
    if space == "asinh":
        arcs: Floats = np.arcsinh(values)
        return arcs
    bad = values <= -1 if space == "log1p" else (values < 0) | (values > 1)
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        needs = "values above -1" if space == "log1p" else "values in [0, 1]"
        raise DataError(f"{space} needs {needs}; got {values[first]:g} at {first}", hint="use asinh or standard", slug="out-of-space")
    if space == "log1p":
        logs: Floats = np.log1p(values)
        return logs
    inside = np.minimum(np.maximum(values, eps), 1 - eps)  # np.clip, at half its overhead for short series
    odds: Floats = np.log(inside) - np.log1p(-inside)
    return odds


def back(z: ArrayLike, space: Space) -> Floats:
    """The inverse of `into`."""
    values = np.asarray(z, dtype=np.float64)
    if space == "log1p":
        values = np.expm1(values)
    elif space == "asinh":
        values = np.sinh(values)
    elif space == "logit":
        values = np.where(values >= 0, 1.0, np.exp(np.minimum(values, 0))) / (1 + np.exp(-np.abs(values)))  # no overflow
    return values


@dataclass(frozen=True)
class Scale:
    """z = (into(x) - shift) / scale. shift and scale broadcast against x: (C,) for rows, (N, 1, C) for windows."""

    shift: Floats
    scale: Floats
    space: Space = "identity"
    eps: float = EPS

    def forward(self, x: ArrayLike) -> Floats:
        return (into(x, self.space, self.eps) - self.shift) / self.scale

    def backward(self, z: ArrayLike) -> Floats:
        return back(np.asarray(z, dtype=np.float64) * self.scale + self.shift, self.space)

    def column(self, c: int) -> Scale:
        """The scale of one column, for arrays whose last axis is something else (steps, quantiles)."""
        return Scale(self.shift[..., c : c + 1], self.scale[..., c : c + 1], self.space, self.eps)


def scale_of(x: ArrayLike, kind: Kind, *, mask: ArrayLike | None = None, axis: int = 0, eps: float = EPS) -> Scale:
    """The scale of the observed values along `axis`: of (T, C) with axis 0 shaped (C,), of windows (N, L, C) with axis 1 (N, 1, C).

    Where the spread is nothing (a constant, a single value) it counts as 1; where nothing is observed, shift 0 and scale 1.
    """
    space: Space = kind if kind in ("log1p", "asinh", "logit") else "identity"
    values = into(x, space, eps)
    values = np.where(np.asarray(mask, dtype=bool), values, np.nan) if mask is not None else values
    keep = values.ndim == 3
    if kind in ("none", "logit"):
        shape = np.take(values, [0], axis=axis).shape if keep else np.delete(values.shape, axis)
        return Scale(np.zeros(shape), np.ones(shape), space, eps)
    if kind == "robust":
        low, shift, high = _quantiles(values, axis, keep)
        spread = high - low
    elif kind == "minmax":
        some = ~np.isnan(values)
        shift = np.min(values, axis=axis, initial=np.inf, where=some, keepdims=keep)
        spread = np.max(values, axis=axis, initial=-np.inf, where=some, keepdims=keep) - shift
    else:
        count = np.sum(~np.isnan(values), axis=axis, keepdims=True)
        mean = np.nansum(values, axis=axis, keepdims=True) / np.maximum(count, 1)
        spread = np.sqrt(np.nansum((values - mean) ** 2, axis=axis, keepdims=keep) / np.maximum(count if keep else count.squeeze(axis), 1))
        shift = mean if keep else mean.squeeze(axis)
    known = np.isfinite(shift) & np.isfinite(spread)
    # a constant column leaves rounding noise of its own size instead of an exact zero
    usable = known & (spread > 1e-12 * np.abs(np.where(known, shift, 0.0)))
    return Scale(np.where(known, shift, 0.0), np.where(usable, spread, 1.0), space, eps)


def _quantiles(values: Floats, axis: int, keep: bool) -> Floats:
    """(3, …) quartiles; NaN where nothing is observed."""
    empty = np.all(np.isnan(values), axis=axis, keepdims=True)
    found: Floats = np.nanquantile(np.where(empty, 0.0, values), [0.25, 0.5, 0.75], axis=axis, keepdims=keep)
    return np.where(empty if keep else empty.squeeze(axis), np.nan, found)


class Scaler:
    """Scales of a panel of series, kept as JSON.

    Level `series` answers only for series it has seen: `add` one from its history before forecasting it.
    """

    def __init__(self, kind: Kind = "standard", level: Level = "series", *, eps: float = EPS) -> None:
        if kind not in KINDS or level not in LEVELS:
            raise DataError(f"no scale {kind!r} at level {level!r}", hint=f"kinds {', '.join(KINDS)}; levels {', '.join(LEVELS)}")
        self.kind, self.level, self.eps = kind, level, eps
        self.scales: dict[str, Scale] = {}

    def fit(self, panel: Mapping[Hashable, Floats], masks: Mapping[Hashable, NDArray[np.bool_]] | None = None) -> Scaler:
        """Learn from training rows {series: (T, C)}; NaN, and where the mask is False, is not observed."""
        self.scales = {}
        if self.level == "global":
            rows = np.concatenate([np.asarray(v, dtype=np.float64) for v in panel.values()])
            seen = None if masks is None else np.concatenate([masks[name] for name in panel])
            self.scales["*"] = scale_of(rows, self.kind, mask=seen, eps=self.eps)
        elif self.level == "series":
            for name, rows in panel.items():
                self.add(name, rows, None if masks is None else masks[name])
        return self

    def add(self, name: Hashable, rows: ArrayLike, mask: ArrayLike | None = None) -> Scale:
        """Learn the scale of one more series from its history (T, C), level `series` only."""
        if self.level != "series":
            raise ValueError(f"only level series has a scale for each series; this one is {self.level}")
        self.scales[str(name)] = scale_of(rows, self.kind, mask=mask, eps=self.eps)
        return self.scales[str(name)]

    def of(self, name: Hashable = "*") -> Scale:
        """The scale of one series; at level `global` that of all."""
        if self.level == "window":
            raise ValueError("at level window a scale belongs to a window; use of_windows")
        found = self.scales.get("*" if self.level == "global" else str(name))
        if found is None:
            raise DataError(f"series {name!r} has no scale yet", hint="add it with its history first", slug="unknown-series")
        return found

    def of_windows(self, past: Floats, mask: ArrayLike | None = None) -> Scale:
        """(N, 1, C) scales of windows (N, L, C), each from its own past."""
        return scale_of(past, self.kind, mask=mask, axis=1, eps=self.eps)

    def to_json(self) -> dict[str, Any]:
        scales = {name: {"shift": s.shift.tolist(), "scale": s.scale.tolist()} for name, s in self.scales.items()}
        return {"kind": self.kind, "level": self.level, "eps": self.eps, "scales": scales}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Scaler:
        scaler = cls(state["kind"], state["level"], eps=state["eps"])
        space: Space = scaler.kind if scaler.kind in ("log1p", "asinh", "logit") else "identity"
        for name, s in state["scales"].items():
            scaler.scales[name] = Scale(np.asarray(s["shift"], float), np.asarray(s["scale"], float), space, scaler.eps)
        return scaler
