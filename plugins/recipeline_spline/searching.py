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

POINTS: Mapping[str, Callable[..., Any]] = {"mae": of.mae, "mse": of.mse, "rmse": of.rmse, "smape": of.smape}
"""mape and wape are not among them: a zero that was scaled and restored is no zero, and they divide by it."""
FANS: Mapping[str, Callable[..., Any]] = {"pinball": of.pinball, "crps": of.crps}


def while_training(metric: str, inputs: Inputs, levels: Sequence[float], quantiles: Sequence[float]) -> Callable[[nn.Module], float | None]:
    """A function of the network as it is. It gives None of a metric that needs more than forecasts and what was observed, and where
    the metric is not defined: a search is then told nothing.

    inputs     held-back windows, (N, …)          levels  (Q',) what the network answers, 0.5 among them
    quantiles  those of `levels` that the model gives
    """
    if metric not in POINTS and metric not in FANS:
        return lambda _: None
    actual, seen = inputs.restore(np.where(inputs.label_mask, inputs.labels, np.nan)), inputs.label_mask
    places = [list(levels).index(level) for level in quantiles]
    median = list(levels).index(0.5)
    batch = of_inputs(inputs)

    def judged(network: nn.Module) -> float | None:
        device = next(network.parameters()).device
        fan = inputs.restore(answer(network, batch.to(device)).double().numpy())
        if metric in POINTS:
            value = float(POINTS[metric](actual, fan[..., median], mask=seen))
        else:
            shape = (-1, actual.shape[1] * actual.shape[2])
            flat = fan[..., places].reshape(*shape, len(places))
            value = float(FANS[metric](actual.reshape(shape), flat, list(quantiles), mask=seen.reshape(shape)))
        return value if math.isfinite(value) else None

    return judged
