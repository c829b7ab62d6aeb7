"""Losses over labels that were observed; what the mask leaves out may be anything, NaN included, and pulls at nothing.

Pinball: Koenker and Bassett 1978, "Regression quantiles". Huber: 1964, "Robust estimation of a location parameter", here with
its knee at one unit of the scaled series.

    loss      the point forecast (level 0.5) is         the other levels
    pinball   the median, by the pinball loss           by the pinball loss
    mae       the median, by absolute error             by the pinball loss, around a point they do not move
    mse       the mean, by squared error                the same
    huber     in between                                the same
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

Loss = Literal["pinball", "mse", "mae", "huber"]
LOSSES: tuple[Loss, ...] = get_args(Loss)


class Objective:
    """The mean loss of forecasts (B, H, n, Q) against labels (B, H, n) where mask (B, H, n) is True (None: everywhere).

    levels ascending (Q,), 0.5 among them: the point forecast. A batch without a single observed label has loss 0 and gradient 0.
    """

    def __init__(self, loss: Loss, levels: Sequence[float]) -> None:
        if loss not in LOSSES:
            raise ValueError(f"loss is one of {', '.join(LOSSES)}; got {loss!r}")
        self.loss, self.middle = loss, list(levels).index(0.5)
        self.levels = torch.tensor(levels, dtype=torch.float32)

    def __call__(self, forecast: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
        self.levels = self.levels.to(forecast.device)
        if mask is not None:  # before any arithmetic: NaN times zero is NaN, in the gradient too
            labels = torch.where(mask, labels, torch.zeros_like(labels))
        if self.loss == "pinball":
            each = 2 * pinball(labels.unsqueeze(-1) - forecast, self.levels)  # at 0.5 alone: the absolute error
        else:
            point = forecast[..., self.middle]
            each = self._of_point(point, labels).unsqueeze(-1)
            if forecast.shape[-1] > 1:
                # The widths learn around the point; the point does not learn from them.
                error = (labels - point.detach()).unsqueeze(-1) - (forecast - point.unsqueeze(-1))
                each = each + pinball(error, self.levels)
        if mask is None:
            return each.mean()
        return torch.where(mask.unsqueeze(-1), each, torch.zeros_like(each)).sum() / (mask.sum() * each.shape[-1]).clamp(min=1)

    def _of_point(self, point: Tensor, labels: Tensor) -> Tensor:
        if self.loss == "mse":
            return (point - labels).square()
        if self.loss == "mae":
            return (point - labels).abs()
        return functional.huber_loss(point, labels, reduction="none")


def pinball(error: Tensor, levels: Tensor) -> Tensor:
    """max(q e, (q - 1) e) of errors (…, Q), label minus quantile."""
    return levels * error + functional.relu(-error)
