"""LSTM and GRU as one node of an ONNX graph each: traced step by step they would be thousands, and the trace would take minutes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LSTM_GATES, GRU_GATES = (0, 3, 1, 2), (1, 0, 2)
"""Where ONNX's gates (input, output, forget, cell; update, reset, hidden) stand in torch's weights."""


def opaque(committee: Any) -> Any:
    """A copy of the networks whose recurrent layers are operators that nothing looks into, with weights as ONNX has them.

    It is there to be exported; it cannot answer.
    """
    import copy

    import torch

    class Opaque(torch.nn.Module):
        """w (sides, gates D, c), r (sides, gates D, D) and b (sides, 2 gates D) of every layer, in ONNX's order of gates."""

        def __init__(self, layer: Any) -> None:
            super().__init__()
            self.lstm, sides = isinstance(layer, torch.nn.LSTM), 2 if layer.bidirectional else 1
            every, gates = layer.all_weights, LSTM_GATES if self.lstm else GRU_GATES
            stacked = []
            for first in range(0, len(every), sides):
                w, r, b_w, b_r = (torch.stack([_ordered(one[at], gates) for one in every[first : first + sides]]) for at in range(4))
                stacked += [w, r, torch.cat([b_w, b_r], dim=1)]
            self.weights = torch.nn.ParameterList(stacked)

        def forward(self, x: torch.Tensor, states: tuple[torch.Tensor, ...] = ()) -> tuple[torch.Tensor, Any]:
            if self.lstm:
                y, h, c = torch.ops.recipeline.lstm(x, list(self.weights), list(states))
                return y, (h, c)
            assert not states, "no GRU here begins anywhere but at zero"
            y, h = torch.ops.recipeline.gru(x, list(self.weights))
            return y, h

    _operators()
    found = copy.deepcopy(committee)
    for module in list(found.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.LSTM | torch.nn.GRU):
                setattr(module, name, Opaque(child))
    return found


def _ordered(weights: torch.Tensor, gates: Sequence[int]) -> torch.Tensor:
    """(gates D, …) with the gates in another order."""
    import torch

    parts = weights.detach().chunk(len(gates))
    return torch.cat([parts[gate] for gate in gates])


@lru_cache(maxsize=1)
def _operators() -> Any:
    """Tell torch of `recipeline::lstm` and `recipeline::gru`: x (B, L, c), weights of `Opaque`, and of an LSTM the hidden and the
    cell states to begin from, none of them for zeros -> y (B, L, sides D) and the last states (layers sides, B, D), as those to begin
    from are. They have shapes and no arithmetic."""
    import torch

    def shapes(x: torch.Tensor, weights: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        sides, hidden = weights[1].shape[0], weights[1].shape[2]
        return x.new_empty(x.shape[0], x.shape[1], sides * hidden), x.new_empty(len(weights) // 3 * sides, x.shape[0], hidden)

    made: Any = torch.library.Library  # its methods are untyped
    library = made("recipeline", "DEF")  # which forgets what it was told when nobody holds it
    library.define("lstm(Tensor x, Tensor[] weights, Tensor[] states) -> (Tensor, Tensor, Tensor)")
    library.define("gru(Tensor x, Tensor[] weights) -> (Tensor, Tensor)")
    torch.library.register_fake("recipeline::lstm", lambda x, weights, _: (*shapes(x, weights), shapes(x, weights)[1]), lib=library)
    torch.library.register_fake("recipeline::gru", shapes, lib=library)
    return library


def translations() -> dict[Any, Callable[..., Any]]:
    """The operators as ONNX's own, for `torch.onnx.export`."""
    import torch

    _operators()
    return {torch.ops.recipeline.lstm.default: _translation("LSTM"), torch.ops.recipeline.gru.default: _translation("GRU")}


def _translation(kind: str) -> Callable[..., Any]:
    from onnxscript import opset18

    op: Any = opset18  # its types know no dynamic use

    def of_layer(state: Any, first: int, sides: int) -> Any:
        at = first // 3 * sides
        return op.Slice(state, *(op.Constant(value_ints=[number]) for number in (at, at + sides, 0)))

    def translate(x: Any, weights: Sequence[Any], begin: Sequence[Any] = ()) -> Any:
        sides, _, hidden = (int(size) for size in weights[1].shape)
        told = {"hidden_size": hidden, "direction": "bidirectional" if sides == 2 else "forward"}
        states: list[list[Any]] = []
        y = op.Transpose(x, perm=[1, 0, 2])
        for first in range(0, len(weights), 3):
            w, r, b = weights[first : first + 3]
            if kind == "LSTM":
                y, *ended = op.LSTM(y, w, r, b, None, *(of_layer(state, first, sides) for state in begin), **told)
            else:
                y, *ended = op.GRU(y, w, r, b, **told, linear_before_reset=1)
            states.append(ended)
            # (L, sides, B, D) -> (L, B, sides · D)
            y = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), op.Constant(value_ints=[0, 0, -1]))
        ends = [one[0] if len(one) == 1 else op.Concat(*one, axis=0) for one in zip(*states, strict=True)]
        return (op.Transpose(y, perm=[1, 0, 2]), *ends)

    return translate
