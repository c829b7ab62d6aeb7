"""Networks that are no plain perceptrons, as plans that both torch (training) and numpy (answering) follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from recipeline.errors import DataError
from recipeline_ppo.spaces import ObservationSpec

Floats = NDArray[np.floating[Any]]

NATURE = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # Mnih et al. 2015: filters, width, stride
SMALL = ((16, 3, 1), (32, 3, 1))
LEAST = 36  # pixels of the shorter side that the first needs
CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Convolutions:
    """Convolutions, then layers of `hidden` widths, with ReLU; policy and value are linear in the last of them.

    An observation is (height, width, channels), or (channels, height, width) where the first is one of 1, 3, 4 and the last is not.
    """

    shape: tuple[int, ...]
    hidden: tuple[int, ...]
    outputs: int

    @classmethod
    def of(cls, observation: ObservationSpec, hidden: tuple[int, ...], outputs: int) -> Convolutions:
        """DataError where an observation is no image."""
        plan = cls(observation.shape, tuple(hidden), outputs)
        if len(plan.shape) != 3 or min(plan.size) < 5:
            raise DataError(
                f"policy: cnn needs images of at least 5 by 5 pixels and their channels, not {observation}", hint="use policy: mlp"
            )
        return plan

    @property
    def channels_first(self) -> bool:
        return self.shape[0] in CHANNELS and self.shape[-1] not in CHANNELS

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.shape[1:] if self.channels_first else self.shape[:2]  # type: ignore[return-value]

    @property
    def layers(self) -> tuple[tuple[int, int, int], ...]:
        return NATURE if min(self.size) >= LEAST else SMALL

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every parameter, by name."""
        found: dict[str, tuple[int, ...]] = {}
        channels = self.shape[0] if self.channels_first else self.shape[2]
        height, width = self.size
        for number, (filters, wide, stride) in enumerate(self.layers):
            found[f"conv.{number}.weight"], found[f"conv.{number}.bias"] = (filters, channels, wide, wide), (filters,)
            channels, height, width = filters, (height - wide) // stride + 1, (width - wide) // stride + 1
        before = channels * height * width
        for number, wide in enumerate(self.hidden):
            found[f"hidden.{number}.weight"], found[f"hidden.{number}.bias"] = (wide, before), (wide,)
            before = wide
        found["policy.weight"], found["policy.bias"] = (self.outputs, before), (self.outputs,)
        found["value.weight"], found["value.bias"] = (1, before), (1,)
        return found

    def forward(self, arrays: Mapping[str, NDArray[Any]], x: Floats) -> tuple[Floats, Floats]:
        """Outputs (n, outputs) and values (n,) of rows (n, pixels)."""
        h = x.reshape(len(x), *self.shape)
        if not self.channels_first:
            h = h.transpose(0, 3, 1, 2)
        for number, (_, wide, stride) in enumerate(self.layers):
            windows = sliding_window_view(h, (wide, wide), axis=(2, 3))[:, :, ::stride, ::stride]  # (n, c, h', w', wide, wide)
            h = np.tensordot(windows, arrays[f"conv.{number}.weight"], axes=((1, 4, 5), (1, 2, 3)))
            h = np.maximum(h + arrays[f"conv.{number}.bias"], 0).transpose(0, 3, 1, 2)
        h = h.reshape(len(h), -1)
        for number in range(len(self.hidden)):
            h = np.maximum(h @ arrays[f"hidden.{number}.weight"].T + arrays[f"hidden.{number}.bias"], 0)
        return h @ arrays["policy.weight"].T + arrays["policy.bias"], (h @ arrays["value.weight"].T + arrays["value.bias"])[:, 0]


@dataclass(frozen=True)
class Recurrent:
    """A layer with tanh, an LSTM (Hochreiter and Schmidhuber 1997) of hidden[-1] units, and policy and value linear in its output.

    Memory of one environment: the output and the cell, (2 * units,); zeros at the start of an episode. Gates in the order i, f, g, o.
    """

    inputs: int
    hidden: tuple[int, ...]
    outputs: int

    @property
    def units(self) -> int:
        return self.hidden[-1]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        first, units = self.hidden[0], self.units
        return {
            "encoder.weight": (first, self.inputs), "encoder.bias": (first,),
            "lstm.weight_ih": (4 * units, first), "lstm.weight_hh": (4 * units, units), "lstm.bias": (4 * units,),
            "policy.weight": (self.outputs, units), "policy.bias": (self.outputs,), "value.weight": (1, units), "value.bias": (1,),
        }  # fmt: skip

    def forward(self, arrays: Mapping[str, NDArray[Any]], x: Floats, memory: Floats) -> tuple[Floats, Floats, Floats]:
        """Outputs (n, outputs), values (n,) and the memory afterwards (n, 2 * units)."""
        units = self.units
        h = np.tanh(x @ arrays["encoder.weight"].T + arrays["encoder.bias"])
        gates = h @ arrays["lstm.weight_ih"].T + memory[:, :units] @ arrays["lstm.weight_hh"].T + arrays["lstm.bias"]
        i, f, o = (_sigmoid(gates[:, k * units : (k + 1) * units]) for k in (0, 1, 3))
        cell = f * memory[:, units:] + i * np.tanh(gates[:, 2 * units : 3 * units])
        h = o * np.tanh(cell)
        outputs, values = h @ arrays["policy.weight"].T + arrays["policy.bias"], (h @ arrays["value.weight"].T + arrays["value.bias"])[:, 0]
        return outputs, values, np.concatenate([h, cell], axis=1)


def _sigmoid(x: Floats) -> Floats:
    found: Floats = np.tanh(0.5 * x)
    found += 1
    found *= 0.5
    return found  # the same as 1 / (1 + e^-x), without overflow
