"""Windows as batches of tensors that lie where the network lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recipeline_spline.prepared import Inputs, Prepared


@dataclass(frozen=True)
class Batch:
    """past (B, L, C), future (B, H, F), static (B, K), codes (B, G), labels (B, H, n), mask (B, H, n) bool; None where there is none."""

    past: Tensor
    future: Tensor | None = None
    static: Tensor | None = None
    codes: Tensor | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        moved = (None if part is None else part.to(device) for part in self.parts)
        return Batch(*moved)  # type: ignore[arg-type]  # past is never None

    @property
    def parts(self) -> tuple[Tensor | None, ...]:
        return self.past, self.future, self.static, self.codes, self.labels, self.mask


class Source(Protocol):
    """Windows by number; `rows` (B,) int64 lies on the CPU."""

    def __len__(self) -> int: ...
    def batch(self, rows: Tensor) -> Batch: ...


class Views:
    """Windows of one gapless (T, C) tensor: a strided view and a table of origins, so that a batch is one gather.

    values (T, C) scaled inputs, targets first          labels (T, n) and mask (T, n) (None: all observed)
    origins (N,) the last known row of each window
    """

    def __init__(self, values: Tensor, labels: Tensor, mask: Tensor | None, origins: Tensor, lookback: int, horizon: int) -> None:
        self.first, self.lookback = (origins.to(torch.int64) - lookback + 1).to(values.device), lookback
        self.pasts = values.unfold(0, lookback, 1)  # (T - L + 1, C, L), a view
        self.labels = labels.unfold(0, horizon, 1)
        self.mask = None if mask is None or bool(mask.all()) else mask.unfold(0, horizon, 1)

    def __len__(self) -> int:
        return len(self.first)

    def batch(self, rows: Tensor) -> Batch:
        first = self.first[rows.to(self.first.device)]
        after = first + self.lookback
        mask = None if self.mask is None else self.mask.index_select(0, after).transpose(1, 2)
        return Batch(
            self.pasts.index_select(0, first).transpose(1, 2), labels=self.labels.index_select(0, after).transpose(1, 2), mask=mask
        )


class Held:
    """Windows that were gathered once and lie in memory as they are."""

    def __init__(self, whole: Batch) -> None:
        self.whole = whole

    def __len__(self) -> int:
        return len(self.whole.past)

    def batch(self, rows: Tensor) -> Batch:
        rows = rows.to(self.whole.past.device)
        picked = (None if part is None else part.index_select(0, rows) for part in self.whole.parts)
        return Batch(*picked)  # type: ignore[arg-type]  # past is never None


class Gathered:
    """Windows of a panel that are gathered batch by batch, for panels of which not all windows fit."""

    def __init__(self, panel: Prepared, origins: NDArray[np.int64], lookback: int, horizon: int, device: torch.device) -> None:
        self.panel, self.origins, self.lookback, self.horizon, self.device = panel, origins, lookback, horizon, device

    def __len__(self) -> int:
        return len(self.origins)

    def batch(self, rows: Tensor) -> Batch:
        return of_inputs(self.panel.gather(self.origins[rows.numpy()], self.lookback, self.horizon)).to(self.device)


def of_inputs(inputs: Inputs) -> Batch:
    """Tensors over the same memory; what has no columns, and a mask that hides nothing, are None."""

    def some(values: NDArray[np.generic]) -> Tensor | None:
        return torch.from_numpy(values) if values.shape[-1] else None

    mask = None if inputs.label_mask.all() else torch.from_numpy(inputs.label_mask)
    return Batch(
        torch.from_numpy(inputs.past), some(inputs.future), some(inputs.static), some(inputs.codes), torch.from_numpy(inputs.labels), mask
    )
