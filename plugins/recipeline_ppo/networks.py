"""Policy and value as two multilayer perceptrons whose parameters lie in one flat buffer.

Gradient and Adam moments lie in buffers of the same layout, so that clipping and the optimiser are a few operations on one vector.
The two networks share no parameter; their layers are computed side by side: activations (n, 2, width), the policy's first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


class Layout:
    """Where every parameter stands in the flat buffer."""

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, free: int) -> None:
        self.inputs, self.hidden, self.outputs, self.free = inputs, tuple(hidden), outputs, free
        shapes: dict[str, tuple[int, ...]] = {"first": (inputs, 2 * hidden[0]), "first_bias": (2 * hidden[0],)}
        for number, (before, width) in enumerate(pairwise(hidden), start=1):
            shapes[f"hidden{number}"], shapes[f"hidden{number}_bias"] = (2, before, width), (2 * width,)
        last = hidden[-1]
        shapes |= {"policy": (last, outputs), "policy_bias": (outputs,), "value": (last,), "value_bias": (1,), "log_std": (free,)}
        self.shapes = shapes
        self._places: dict[str, tuple[slice, tuple[int, ...]]] = {}
        self.size = 0
        for name, shape in shapes.items():
            count = math.prod(shape)
            self._places[name] = slice(self.size, self.size + count), shape
            self.size += count
        self._named = self._plan()

    def views(self, flat: Floats) -> dict[str, Floats]:
        """Every parameter as a view of `flat` (size,)."""
        return {name: flat[own].reshape(shape) for name, (own, shape) in self._places.items()}

    def named(self, flat: Floats) -> dict[str, Floats]:
        """The same numbers, as views, by the names a person looks for: policy.0.weight (out, in), policy.0.bias … log_std."""
        size = flat.itemsize
        return {
            name: np.ndarray(shape, flat.dtype, flat, at * size, tuple([stride * size for stride in strides]))
            for name, at, shape, strides in self._named
        }

    def _plan(self) -> list[tuple[str, int, tuple[int, ...], tuple[int, ...]]]:
        """Name, first number, shape and strides, in numbers, of every view: every checkpoint asks for all of them."""
        flat = np.zeros(self.size, dtype=np.float32)
        at, found = self.views(flat), {}
        for place, net in enumerate(("policy", "value")):
            for number, width in enumerate(self.hidden):
                own = slice(place * width, (place + 1) * width)
                weight = at["first"][:, own] if number == 0 else at[f"hidden{number}"][place]
                found[f"{net}.{number}.weight"] = weight.T
                found[f"{net}.{number}.bias"] = at["first_bias" if number == 0 else f"hidden{number}_bias"][own]
            last = len(self.hidden)
            found[f"{net}.{last}.weight"] = at["policy"].T if net == "policy" else at["value"][None, :]
            found[f"{net}.{last}.bias"] = at[f"{net}_bias"]
        if self.free:
            found["log_std"] = at["log_std"]
        start = flat.__array_interface__["data"][0]
        return [
            (name, (view.__array_interface__["data"][0] - start) // 4, view.shape, tuple(stride // 4 for stride in view.strides))
            for name, view in found.items()
        ]


class ActorCritic:
    """The two networks: outputs of the policy (n, outputs) and values (n,) of observations (n, inputs)."""

    def __init__(self, layout: Layout, *, activation: str = "tanh", dtype: Any = np.float32) -> None:
        self.layout, self.activation = layout, activation
        self.parameters: Floats = np.zeros(layout.size, dtype=dtype)
        self.gradient = np.zeros_like(self.parameters)
        self.at, self.d = layout.views(self.parameters), layout.views(self.gradient)
        self._spaces: dict[int, _Workspace] = {}
        self._alone: dict[int, list[Floats]] = {}

    def initialise(self, rng: np.random.Generator, log_std: float = 0.0) -> None:
        """Orthogonal weights: gain sqrt(2) in hidden layers, 0.01 and 1 in the last of policy and value; biases 0 (37: detail 2)."""
        self.parameters[:] = 0
        for name, weight in self.layout.named(self.parameters).items():
            if name.endswith(".weight"):
                last = name.split(".")[1] == str(len(self.layout.hidden))
                gain = (0.01 if name.startswith("policy") else 1.0) if last else 2**0.5
                weight[:] = gain * orthogonal(rng, *weight.shape)
        self.at["log_std"][:] = log_std

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Parameters by the names of `Layout.named`; KeyError or ValueError where one is missing or of another shape."""
        for name, view in self.layout.named(self.parameters).items():
            if arrays[name].shape != view.shape:
                raise ValueError(f"{name} has shape {list(arrays[name].shape)}, not {list(view.shape)}")
            view[:] = arrays[name]

    def policy(self, x: Floats) -> Floats:
        """(n, outputs), the policy alone; overwritten by the next call with as many rows."""
        h = self._single(x, 0)
        out = self._alone[len(x)][-1]
        np.matmul(h, self.at["policy"], out=out)
        out += self.at["policy_bias"]
        return out

    def value(self, x: Floats) -> Floats:
        """(n,), the value alone."""
        return self._single(x, 1) @ self.at["value"] + self.at["value_bias"]

    def forward(self, x: Floats) -> tuple[Floats, Floats]:
        """Outputs (n, outputs) and values (n,), overwritten by the next call with as many rows; what `backward` needs is kept."""
        w = self._workspace(len(x))
        w.x = x
        h = w.h[0]
        np.matmul(x, self.at["first"], out=h)
        h += self.at["first_bias"]
        self._activate(h)
        for number in range(1, len(self.layout.hidden)):
            h = w.h[number]
            np.matmul(w.pair[number - 1], self.at[f"hidden{number}"], out=w.pair[number])
            h += self.at[f"hidden{number}_bias"]
            self._activate(h)
        np.matmul(w.pair[-1][0], self.at["policy"], out=w.outputs)
        w.outputs += self.at["policy_bias"]
        np.matmul(w.pair[-1][1], self.at["value"], out=w.values)
        w.values += self.at["value_bias"]
        return w.outputs, w.values

    def backward(self, d_outputs: Floats, d_values: Floats) -> None:
        """The gradient of a loss into `self.gradient` from its derivatives with respect to what `forward` gave last."""
        w, d = self._workspace(len(d_values)), self.d
        top = w.pair[-1]
        np.matmul(top[0].T, d_outputs, out=d["policy"])
        np.matmul(w.ones, d_outputs, out=d["policy_bias"])
        np.matmul(d_values, top[1], out=d["value"])
        d["value_bias"][0] = d_values.sum()
        np.matmul(d_outputs, self.at["policy"].T, out=w.d_pair[-1][0])
        np.multiply(d_values[:, None], self.at["value"], out=w.d_pair[-1][1])
        for number in range(len(self.layout.hidden) - 1, -1, -1):
            dz = w.d[number]
            self._derive(w.h[number], dz)
            if number == 0:
                np.matmul(w.x.T, dz, out=d["first"])
                np.matmul(w.ones, dz, out=d["first_bias"])
            else:
                np.matmul(w.pair[number - 1].transpose(0, 2, 1), w.d_pair[number], out=d[f"hidden{number}"])
                np.matmul(w.ones, dz, out=d[f"hidden{number}_bias"])
                np.matmul(w.d_pair[number], self.at[f"hidden{number}"].transpose(0, 2, 1), out=w.d_pair[number - 1])

    def _single(self, x: Floats, place: int) -> Floats:
        buffers = self._alone.get(len(x))
        if buffers is None:
            if len(self._alone) > 8:
                self._alone.clear()
            widths = (*self.layout.hidden, self.layout.outputs)
            buffers = self._alone[len(x)] = [np.empty((len(x), width), dtype=self.parameters.dtype) for width in widths]
        width = self.layout.hidden[0]
        own = slice(place * width, (place + 1) * width)
        h = buffers[0]
        np.matmul(x, self.at["first"][:, own], out=h)
        h += self.at["first_bias"][own]
        self._activate(h)
        for number in range(1, len(self.layout.hidden)):
            width = self.layout.hidden[number]
            np.matmul(h, self.at[f"hidden{number}"][place], out=buffers[number])
            h = buffers[number]
            h += self.at[f"hidden{number}_bias"][place * width : (place + 1) * width]
            self._activate(h)
        return h

    def _activate(self, h: Floats) -> None:
        if self.activation == "tanh":
            np.tanh(h, out=h)
        else:
            np.maximum(h, 0, out=h)

    def _derive(self, h: Floats, d: Floats) -> None:
        """d loss / d before activation, in place of d loss / d after; `h` is used up."""
        if self.activation == "tanh":  # 1 - tanh^2
            np.multiply(h, h, out=h)
            np.subtract(1, h, out=h)
            d *= h
        else:
            d *= h > 0

    def _workspace(self, n: int) -> _Workspace:
        found = self._spaces.get(n)
        if found is None:
            if len(self._spaces) > 8:  # rollouts with dropped transitions come in many lengths
                self._spaces.clear()
            found = self._spaces[n] = _Workspace(n, self.layout, self.parameters.dtype)
        return found


class Perceptron:
    """Both networks for answering alone: nothing is kept between calls, so that threads may share it.

    arrays  by the names of `Layout.named`; KeyError or ValueError where one is missing or of another shape
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, activation: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        network = ActorCritic(Layout(inputs, hidden, outputs, 0), activation=activation)
        network.load(arrays)
        at = network.at
        self._relu = activation == "relu"
        self._first, self._first_bias = at["first"], at["first_bias"]
        self._layers = []
        for number, width in enumerate(hidden[1:], start=1):
            weight, bias = at[f"hidden{number}"], at[f"hidden{number}_bias"]
            self._layers.append((weight[0], weight[1], bias[:width], bias[width:]))
        self._heads = at["policy"], at["value"], at["policy_bias"], at["value_bias"][0]

    def forward(self, x: Floats) -> tuple[Floats, Floats]:
        """Outputs (n, outputs) and values (n,) of rows (n, inputs)."""
        h = x @ self._first
        h += self._first_bias
        self._activate(h)
        half = h.shape[1] // 2
        a, v = h[:, :half], h[:, half:]
        for policy, value, policy_bias, value_bias in self._layers:
            a, v = a @ policy, v @ value
            a += policy_bias
            v += value_bias
            self._activate(a)
            self._activate(v)
        policy, value, policy_bias, value_bias = self._heads
        outputs = a @ policy
        outputs += policy_bias
        return outputs, v @ value + value_bias

    def _activate(self, h: Floats) -> None:
        if self._relu:
            np.maximum(h, 0, out=h)
        else:
            np.tanh(h, out=h)


class _Workspace:
    """Buffers for n rows: activations and their derivatives, flat (n, 2 * width) and as pairs (2, n, width) of the same memory."""

    def __init__(self, n: int, layout: Layout, dtype: Any) -> None:
        self.h = [np.empty((n, 2 * width), dtype=dtype) for width in layout.hidden]
        self.d = [np.empty((n, 2 * width), dtype=dtype) for width in layout.hidden]
        self.pair = [h.reshape(n, 2, -1).transpose(1, 0, 2) for h in self.h]
        self.d_pair = [d.reshape(n, 2, -1).transpose(1, 0, 2) for d in self.d]
        self.outputs = np.empty((n, layout.outputs), dtype=dtype)
        self.values = np.empty(n, dtype=dtype)
        self.ones = np.ones(n, dtype=dtype)
        self.x: Floats = np.empty(0)


def orthogonal(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.float64]:
    """A matrix with orthonormal rows or columns, whichever are fewer (Saxe et al. 2014); uniform, by the signs of R."""
    tall = rng.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(tall)
    q *= np.sign(np.diag(r))
    return q if rows >= columns else q.T
