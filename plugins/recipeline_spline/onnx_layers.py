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
    """A copy of the networks whose recurrent layers are operators of our own, so that nothing looks into them."""
    import copy

    import torch

    class Opaque(torch.nn.Module):
        def __init__(self, layer: Any) -> None:
            super().__init__()
            self.layers, self.both = layer.num_layers, layer.bidirectional
            self.lstm = isinstance(layer, torch.nn.LSTM)
            self.weights = torch.nn.ParameterList(one for every in layer.all_weights for one in every)

        def forward(self, x: torch.Tensor, states: tuple[torch.Tensor, torch.Tensor] | None = None) -> tuple[torch.Tensor, Any]:
            weights = list(self.weights)
            if self.lstm:
                y, h, c = torch.ops.recipeline.lstm(x, weights, self.layers, self.both, *(states or (None, None)))
                return y, (h, c)
            assert states is None, "no network of ours begins a GRU anywhere but at zero"
            y, h = torch.ops.recipeline.gru(x, weights, self.layers, self.both)
            return y, h

    _operators()
    found = copy.deepcopy(committee)
    for module in list(found.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.LSTM | torch.nn.GRU):
                setattr(module, name, Opaque(child))
    return found


@lru_cache(maxsize=1)
def _operators() -> None:
    """Tell torch of `recipeline::lstm` and `recipeline::gru`: x (B, L, c), batch first, weights as in `nn.LSTM.all_weights`, one list of
    four for each layer and direction, states to begin from (layers sides, B, D), zeros where there are none, -> y (B, L, sides D),
    last states (layers sides, B, D)."""
    import torch

    def sizes(x: torch.Tensor, weights: Sequence[torch.Tensor], layers: int, both: bool) -> tuple[torch.Tensor, torch.Tensor]:
        sides, hidden = 2 if both else 1, weights[1].shape[1]
        return x.new_empty(x.shape[0], x.shape[1], sides * hidden), x.new_empty(layers * sides, x.shape[0], hidden)

    def lstm(
        x: torch.Tensor, weights: list[torch.Tensor], layers: int, both: bool, hidden: torch.Tensor | None, cell: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        zero = torch.zeros_like(sizes(x, weights, layers, both)[1])
        begin = (zero if hidden is None else hidden.contiguous(), zero if cell is None else cell.contiguous())
        y, h, c = torch.lstm(x, begin, weights, True, layers, 0.0, False, both, True)
        return y, h, c

    def gru(x: torch.Tensor, weights: list[torch.Tensor], layers: int, both: bool) -> tuple[torch.Tensor, torch.Tensor]:
        y, h = torch.gru(x, torch.zeros_like(sizes(x, weights, layers, both)[1]), weights, True, layers, 0.0, False, both, True)
        return y, h

    given = "Tensor x, Tensor[] weights, int layers, bool both"
    both_states = f"({given}, Tensor? hidden, Tensor? cell) -> (Tensor, Tensor, Tensor)"
    torch.library.custom_op("recipeline::lstm", lstm, mutates_args=(), schema=both_states).register_fake(
        lambda *told: (*sizes(*told[:4]), torch.empty_like(sizes(*told[:4])[1]))
    )
    torch.library.custom_op("recipeline::gru", gru, mutates_args=(), schema=f"({given}) -> (Tensor, Tensor)").register_fake(sizes)


def translations() -> dict[Any, Callable[..., Any]]:
    """The operators as ONNX's own."""
    import torch

    _operators()
    return {
        torch.ops.recipeline.lstm.default: _recurrent("LSTM", LSTM_GATES),
        torch.ops.recipeline.gru.default: _recurrent("GRU", GRU_GATES),
    }


def _recurrent(kind: str, gates: Sequence[int]) -> Callable[..., Any]:
    from onnxscript import opset18 as op

    def numbers(*values: int) -> Any:
        return op.Constant(value_ints=list(values))

    def stacked(weights: Sequence[Any]) -> Any:
        """The weights of both directions (2, gates · hidden, …), gates in ONNX's order."""
        ordered = []
        for one in weights:
            parts = op.Split(one, axis=0, num_outputs=len(gates))
            ordered.append(op.Unsqueeze(op.Concat(*(parts[gate] for gate in gates), axis=0), numbers(0)))
        return ordered[0] if len(ordered) == 1 else op.Concat(*ordered, axis=0)

    def begin(state: Any, layer: int, sides: int) -> Any:
        """The states of one layer, (sides, B, D)."""
        return None if state is None else op.Slice(state, numbers(layer * sides), numbers((layer + 1) * sides), numbers(0))

    def translate(x: Any, weights: Sequence[Any], layers: int, both: bool, hidden_state: Any = None, cell_state: Any = None) -> Any:
        sides = 2 if both else 1
        direction, hidden = "bidirectional" if both else "forward", int(weights[1].shape[1])
        states: list[list[Any]] = []
        y = op.Transpose(x, perm=[1, 0, 2])
        for layer in range(layers):
            of_layer = [weights[(layer * sides + side) * 4 : (layer * sides + side + 1) * 4] for side in range(sides)]
            w, r = stacked([one[0] for one in of_layer]), stacked([one[1] for one in of_layer])
            b = op.Concat(stacked([one[2] for one in of_layer]), stacked([one[3] for one in of_layer]), axis=1)
            if kind == "LSTM":
                h, c = begin(hidden_state, layer, sides), begin(cell_state, layer, sides)
                y, *ended = op.LSTM(y, w, r, b, None, h, c, hidden_size=hidden, direction=direction)
            else:
                y, *ended = op.GRU(y, w, r, b, hidden_size=hidden, direction=direction, linear_before_reset=1)
            states.append(ended)
            y = op.Reshape(op.Transpose(y, perm=[0, 2, 1, 3]), numbers(0, 0, -1))  # (L, sides, B, D) -> (L, B, sides · D)
        ends = [one[0] if len(one) == 1 else op.Concat(*one, axis=0) for one in zip(*states, strict=True)]
        return (op.Transpose(y, perm=[1, 0, 2]), *ends)

    return translate
