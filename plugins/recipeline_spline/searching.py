"""What a search is told while a network trains: the tuned metric itself, on held-back windows, in original units.

The loss would not do: trials with another loss, other quantiles or another scale have losses that cannot be compared, and a
metric that is maximised would be pruned by the wrong sign.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from recipeline.timeseries import metrics as of
from recipeline_spline.batches import of_inputs
from recipeline_spline.prepared import Inputs
from recipeline_spline.training import answer

POINTS: Mapping[str, Callable[..., Any]] = {
    "mae": of.mae, "mse": of.mse, "rmse": of.rmse, "mape": of.mape, "smape": of.smape, "wape": of.wape,
}  # fmt: skip
FANS: Mapping[str, Callable[..., Any]] = {"pinball": of.pinball, "crps": of.crps}


def while_training(metric: str, inputs: Inputs, levels: Sequence[float], quantiles: Sequence[float]) -> Callable[[nn.Module], float] | None:
    """A function of the network as it is; None of a metric that needs more than forecasts and what was observed.

    inputs     held-back windows, (N, …)          levels  (Q',) what the network answers, 0.5 among them
    quantiles  those of `levels` that the model gives
    """
    if metric not in POINTS and metric not in FANS:
        return None
    actual, seen = inputs.restore(np.where(inputs.label_mask, inputs.labels, np.nan)), inputs.label_mask
    places = [list(levels).index(level) for level in quantiles]
    median = list(levels).index(0.5)

    def judged(network: nn.Module) -> float:
        device = next(network.parameters()).device
        fan = inputs.restore(answer(network, of_inputs(inputs).to(device)).double().numpy())
        if metric in POINTS:
            return float(POINTS[metric](actual, fan[..., median], mask=seen))
        shape = (-1, actual.shape[1] * actual.shape[2])
        flat = fan[..., places].reshape(*shape, len(places))
        return float(FANS[metric](actual.reshape(shape), flat, list(quantiles), mask=seen.reshape(shape)))

    def known(network: nn.Module) -> float:
        value = judged(network)
        return value if math.isfinite(value) else math.inf

    return known
