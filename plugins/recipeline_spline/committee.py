"""All that stands between scaled windows and calibrated quantiles, as one module: what predicts is what is saved and exported."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recipeline_spline.networks import Forecaster, movement


class Committee(nn.Module):
    """The mean of its members' quantiles, drawn towards NLinear, moved by the calibration.

    weights (L, H), intercept (H,)  NLinear on scaled windows      share (H,)  how much the members count against it; 1 is all
    offsets (H, n, Q)               of `calibration`, in units of how much a window moves

    Takes and gives what its members (`Forecaster`) do.
    """

    weights: Tensor
    intercept: Tensor
    share: Tensor
    offsets: Tensor

    def __init__(self, members: Sequence[Forecaster], *, blend: bool = False) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.shape, self.blend = members[0].shape, blend
        self.middle = list(self.shape.levels).index(0.5)
        s = self.shape
        rows, columns = (s.lookback, s.horizon) if blend else (0, 0)
        self.register_buffer("weights", torch.zeros(rows, columns))
        self.register_buffer("intercept", torch.zeros(columns))
        self.register_buffer("share", torch.ones(columns))
        self.register_buffer("offsets", torch.zeros(s.horizon, s.targets, len(s.levels)))

    def forward(self, past: Tensor, future: Tensor | None = None, static: Tensor | None = None, codes: Tensor | None = None) -> Tensor:
        fan: Tensor = self.members[0](past, future, static, codes)
        for member in self.members[1:]:
            fan = fan + member(past, future, static, codes)
        if len(self.members) > 1:
            fan = fan / len(self.members)
        if self.blend:
            away = self.linear(past) - fan[..., self.middle]  # (B, H, n)
            fan = fan + ((1 - self.share)[:, None] * away).unsqueeze(-1)
        return outwards(fan + self.offsets * self.unit(past)[:, None, :, None], self.middle)

    def unit(self, past: Tensor) -> Tensor:
        """(B, n) how much each target moves in its window."""
        own = past[:, :, : self.shape.targets].transpose(1, 2).reshape(-1, self.shape.lookback)
        return movement(own).reshape(-1, self.shape.targets)

    def linear(self, past: Tensor) -> Tensor:
        """(B, H, n) of NLinear."""
        own = past[:, :, : self.shape.targets].transpose(1, 2)  # (B, n, L)
        last = own[:, :, -1:]
        return ((own - last) @ self.weights + self.intercept + last).transpose(1, 2)


def outwards(fan: Tensor, middle: int) -> Tensor:
    """Quantiles (…, Q) in order again: none nearer to the median than the one inside it."""
    columns = list(fan.unbind(-1))
    for at in range(middle + 1, len(columns)):
        columns[at] = torch.maximum(columns[at], columns[at - 1])
    for at in range(middle - 1, -1, -1):
        columns[at] = torch.minimum(columns[at], columns[at + 1])
    return torch.stack(columns, dim=-1)
