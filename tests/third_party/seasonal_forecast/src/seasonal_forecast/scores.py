"""Figures of merit of a forecast frame: columns y, prediction, q0.1 …"""

from __future__ import annotations

import numpy as np
import pandas as pd


def quantile_columns(frame: pd.DataFrame) -> list[tuple[float, str]]:
    return sorted((float(name[1:]), name) for name in frame.columns if name.startswith("q0"))


def mae(frame: pd.DataFrame) -> float:
    return float(np.mean(np.abs(frame["y"] - frame["prediction"])))


def pinball(frame: pd.DataFrame) -> float:
    """Mean over rows and quantiles of max(q·e, (q − 1)·e), e = y − forecast (Koenker and Bassett 1978)."""
    losses = []
    for level, name in quantile_columns(frame):
        error = frame["y"] - frame[name]
        losses.append(np.mean(np.maximum(level * error, (level - 1) * error)))
    return float(np.mean(losses))


def coverage(frame: pd.DataFrame) -> float:
    names = [name for _, name in quantile_columns(frame)]
    return float(np.mean((frame["y"] >= frame[names[0]]) & (frame["y"] <= frame[names[-1]])))
