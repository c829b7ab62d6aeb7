"""Networks as torch modules, for training: `forward` gives the outputs of the policy (n, outputs) and values (n,)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from recipeline_ppo.architectures import Convolutions, Recurrent
from recipeline_ppo.networks import ActorCritic, orthogonal
from recipeline_ppo.spaces import ObservationSpec

Floats = NDArray[np.floating[Any]]
Tensor = torch.Tensor


class Perceptron(nn.Module):
    """`networks.ActorCritic` over the same parameters, for autograd."""

    def __init__(self, network: ActorCritic, activation: str) -> None:
        super().__init__()
        self._act = torch.tanh if activation == "tanh" else torch.relu
        self._depth = len(network.layout.hidden)
        self.at = nn.ParameterDict([(name, torch.from_numpy(view.copy())) for name, view in network.at.items()])  # a dict would be sorted

    @property
    def log_std(self) -> Tensor:
        found: Tensor = self.at["log_std"]
        return found

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        at = self.at
        a, v = self._act(torch.addmm(at["first_bias"], x, at["first"])).chunk(2, dim=1)
        for number in range(1, self._depth):
            weight, bias = at[f"hidden{number}"].unbind(), at[f"hidden{number}_bias"].chunk(2)
            a, v = (self._act(torch.addmm(b, h, w)) for b, h, w in zip(bias, (a, v), weight, strict=True))
        return torch.addmm(at["policy_bias"], a, at["policy"]), torch.addmv(at["value_bias"], v, at["value"])


class WithFree(nn.Module):
    """A network and the log standard deviations beside it."""

    def __init__(self, network: nn.Module, free: int, log_std: float) -> None:
        super().__init__()
        self.network = network
        self.log_std = nn.Parameter(torch.full((free,), log_std))

    def forward(self, *x: Tensor) -> tuple[Tensor, Tensor]:
        outputs, values = self.network(*x)
        return outputs, values.reshape(-1)


class ConvolutionalNetwork(nn.Module):
    """`architectures.Convolutions` for autograd; the same names, the same shapes."""

    def __init__(self, plan: Convolutions, rng: np.random.Generator) -> None:
        super().__init__()
        self.plan = plan
        shapes = plan.shapes()
        self.conv = nn.ModuleList(
            nn.Conv2d(shapes[f"conv.{k}.weight"][1], filters, wide, stride) for k, (filters, wide, stride) in enumerate(plan.layers)
        )
        self.hidden = nn.ModuleList(_linear(shapes[f"hidden.{k}.weight"]) for k in range(len(plan.hidden)))
        self.policy, self.value = (_linear(shapes[f"{head}.weight"]) for head in ("policy", "value"))
        orthogonally(self, rng)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = x.view(len(x), *self.plan.shape)
        if not self.plan.channels_first:
            h = h.permute(0, 3, 1, 2)
        for layer in self.conv:
            h = torch.relu(layer(h))
        h = h.flatten(1)
        for layer in self.hidden:
            h = torch.relu(layer(h))
        return self.policy(h), self.value(h).squeeze(1)


class RecurrentNetwork(nn.Module):
    """`architectures.Recurrent` for autograd; the same names, the same shapes."""

    def __init__(self, plan: Recurrent, rng: np.random.Generator) -> None:
        super().__init__()
        self.plan = plan
        shapes = plan.shapes()
        self.encoder, self.policy, self.value = (_linear(shapes[f"{at}.weight"]) for at in ("encoder", "policy", "value"))
        self.lstm = nn.ParameterDict({at: torch.empty(shapes[f"lstm.{at}"]) for at in ("weight_ih", "weight_hh", "bias")})
        orthogonally(self, rng)

    def forward(self, x: Tensor, memory: Tensor, fresh: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and values of S stretches of L steps: x (S, L, inputs), memory (S, 2 * units) before them, fresh (S, L)."""
        units, lstm = self.plan.units, self.lstm
        entering = nn.functional.linear(torch.tanh(self.encoder(x)), lstm["weight_ih"], lstm["bias"])
        h, cell = torch.split(memory, units, dim=1)
        kept, told = (~fresh).to(x.dtype).unsqueeze(2), []
        for step in range(x.shape[1]):
            gates = torch.addmm(entering[:, step], h * kept[:, step], lstm["weight_hh"].t())
            i, f, g, o = torch.split(gates, units, dim=1)
            cell = torch.sigmoid(f) * (cell * kept[:, step]) + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(cell)
            told.append(h)
        h = torch.stack(told, dim=1).flatten(0, 1)
        return self.policy(h), self.value(h).squeeze(1)


def _linear(shape: tuple[int, ...]) -> nn.Linear:
    return nn.Linear(shape[1], shape[0])


def orthogonally(module: nn.Module, rng: np.random.Generator) -> None:
    """The initial weights of `ActorCritic.initialise`, for modules whose last layers are called policy and value."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim < 2:
                parameter.zero_()
            else:
                gain = {"policy.weight": 0.01, "value.weight": 1.0}.get(name, 2**0.5)
                rows = orthogonal(rng, len(parameter), parameter[0].numel())
                parameter.copy_(torch.from_numpy(gain * rows.reshape(parameter.shape)))


class Reshaped(nn.Module):
    """A network of one's own, given observations in their shape instead of rows."""

    def __init__(self, inner: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.inner, self.shape = inner, shape

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        outputs, values = self.inner(x.view(len(x), *self.shape))
        return outputs, values


def module_for(policy: Any, hidden: tuple[int, ...], observation: ObservationSpec, outputs: int, rng: np.random.Generator) -> nn.Module:
    """The network of a policy that is no perceptron; one of one's own has `module(observation, outputs)`."""
    if policy == "lstm":
        return RecurrentNetwork(Recurrent(observation.width, hidden, outputs), rng)
    if policy == "cnn":
        return ConvolutionalNetwork(Convolutions.of(observation, hidden, outputs), rng)
    with torch.random.fork_rng(devices=[]):  # its own beginnings come from our seed, and disturb nobody
        torch.manual_seed(int(rng.integers(2**63)))
        return Reshaped(policy.module(observation, outputs), observation.shape)


def answering(network: Any, observation: ObservationSpec, outputs: int, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """A function from rows to outputs and values, by a network of one's own with these parameters."""
    module = module_for(network, (), observation, outputs, np.random.default_rng(0))
    for name, parameter in module.named_parameters():
        if arrays[name].shape != tuple(parameter.shape):
            raise ValueError(f"{name} has shape {list(arrays[name].shape)}, not {list(parameter.shape)}")
        parameter.data.copy_(torch.from_numpy(arrays[name].copy()))

    def forward(x: Floats) -> tuple[Floats, Floats]:
        with torch.no_grad():
            told, values = module(torch.from_numpy(np.ascontiguousarray(x)))
        return told.numpy(), values.reshape(-1).numpy()

    return forward
