"""The networks, the optimiser and the update on torch: wide networks, convolutions, networks of one's own, GPUs.

The update is that of `ppo`, with autograd instead of the derivatives by hand. Parameters, gradient and moments are flat vectors here,
too; inside the loop over minibatches no value is fetched from the device. This module is imported when a recipe needs it, not before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from recipeline.errors import DataError
from recipeline_ppo import ppo
from recipeline_ppo.architectures import Recurrent
from recipeline_ppo.config import WIDEST, Config
from recipeline_ppo.distributions import FORBIDDEN, HALF_LOG_2PI, HALF_LOG_2PI_E, DiagGaussian, distribution
from recipeline_ppo.networks import ActorCritic, Layout
from recipeline_ppo.spaces import ActionSpec, ObservationSpec
from recipeline_ppo.threads import single_threaded
from recipeline_ppo.torch_networks import Perceptron, WithFree, module_for

Floats = NDArray[np.floating[Any]]
Tensor = torch.Tensor


class TorchBackend:
    """One policy with its value and its optimiser.

    A multilayer perceptron keeps its parameters where `networks.ActorCritic` has them: on a CPU both see the same memory, on a GPU a
    copy follows every update. So rollouts cost what they cost on numpy, and a checkpoint of one backend is one of the other.
    """

    def __init__(self, config: Config, observation: ObservationSpec, action: ActionSpec, rng: np.random.Generator, n_envs: int = 1) -> None:
        self.config, self.observation, self.action = config, observation, action
        self.memory: Floats | None = None
        self.device = _device(config.device)
        self.pi = distribution(action, squash=config.squash)
        self.network: ActorCritic | None = None
        if config.policy == "mlp":
            self.network = ActorCritic(
                Layout(observation.width, config.hidden, self.pi.outputs, self.pi.free), activation=config.activation
            )
            self.network.initialise(rng, config.log_std)
            self.module: Perceptron | WithFree = Perceptron(self.network, config.activation)
        else:
            self.module = WithFree(
                module_for(config.policy, config.hidden, observation, self.pi.outputs, rng), self.pi.free, config.log_std
            )
        self.flat, self.gradient = _flatten(self.module, self.network, self.device)
        self.optimizer = torch.optim.Adam([self.flat], lr=1e-3, betas=(ppo.BETA1, ppo.BETA2), eps=config.adam_epsilon, fused=True)
        self.flat.grad = self.gradient
        self._moments = {
            "step": torch.zeros((), dtype=torch.float32, device=self.device),
            "exp_avg": torch.zeros_like(self.flat),
            "exp_avg_sq": torch.zeros_like(self.flat),
        }
        self.optimizer.state[self.flat] = self._moments
        self.follow()

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """One thread for small networks on a CPU; the number of before afterwards."""
        if self.device.type != "cpu" or self.network is None or max(self.config.hidden) > WIDEST:
            yield
            return
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with single_threaded():
                yield
        finally:
            torch.set_num_threads(before)

    def policy(self, x: Floats) -> Floats:
        return self.network.policy(x) if self.network is not None else self._outside(x)[0]

    def value(self, x: Floats, memory: Floats | None = None) -> Floats:
        return self.network.value(x) if self.network is not None else self._outside(x)[1]

    def update(self, batch: ppo.Batch, rng: np.random.Generator, *, learning_rate: float, clip: float, ent_coef: float) -> dict[str, float]:
        """As `ppo.update`; a gradient that is not finite is told by gradient_norm, and leaves parameters that are not finite either."""
        config = self.config
        self.optimizer.param_groups[0]["lr"] = learning_rate
        rows = _Tensors.of(batch, self.device)
        told: list[Tensor] = []
        epoch, moved = 0, None
        for epoch in range(1, config.epochs + 1):
            for part in self._minibatches(rows, rng):
                loss, policy_loss, value_loss = self.loss(part, clip, ent_coef)
                self.gradient.zero_()
                loss.backward()  # type: ignore[no-untyped-call]
                norm = torch.linalg.vector_norm(self.gradient)
                self.gradient.mul_(torch.clamp(config.max_grad_norm / (norm + 1e-6), max=1.0))
                self.optimizer.step()
                told.append(torch.stack((policy_loss.detach(), value_loss.detach(), norm)))
            if config.target_kl is not None:
                self.follow()
                moved = self._how_far(batch, clip)
                if moved["approx_kl"] > ppo.KL_SLACK * config.target_kl:
                    break
                moved = moved if epoch == config.epochs else None
        self.follow()
        means = torch.stack(told).mean(dim=0).tolist()
        return {
            **dict(zip(("policy_loss", "value_loss", "gradient_norm"), means, strict=True)),
            **(moved or self._how_far(batch, clip)),
            "epochs": epoch,
        }

    def _minibatches(self, rows: _Tensors, rng: np.random.Generator) -> Iterator[_Tensors]:
        n, size = len(rows), self.config.batch_size
        if n <= size:
            yield rows
            return
        shuffled = rows.take(torch.from_numpy(rng.permutation(n)).to(self.device))
        for start in range(0, n, size):
            yield shuffled.slice(start, start + size)

    def _how_far(self, batch: ppo.Batch, clip: float) -> dict[str, float]:
        return ppo.how_far(self, self.pi, batch, clip)

    def _outputs(self, batch: _Tensors) -> tuple[Tensor, Tensor]:
        outputs, values = self.module(batch.observations)
        return outputs, values

    def loss(self, batch: _Tensors, clip: float, ent_coef: float) -> tuple[Tensor, Tensor, Tensor]:
        """The whole loss of a minibatch, and its parts for policy and value; in the order of `ppo.loss_and_gradient`."""
        config = self.config
        outputs, values = self._outputs(batch)
        log_prob, entropy = self._log_prob_and_entropy(outputs, batch)
        mean = _mean(batch.weights)
        A = batch.advantages
        if config.normalize_advantage and len(A) > 1:
            A = A - mean(A)
            A = A / (torch.sqrt(mean(A * A) * _bessel(batch)) + 1e-8)
        r = torch.exp(log_prob - batch.log_prob)
        policy_loss = -mean(torch.minimum(r * A, torch.clamp(r, 1 - clip, 1 + clip) * A))
        distance = nn.functional.mse_loss if config.value_loss == "mse" else nn.functional.huber_loss
        value_loss = distance(values, batch.returns, reduction="none")
        if config.value_clip is not None:
            near = batch.values + torch.clamp(values - batch.values, -config.value_clip, config.value_clip)
            value_loss = torch.maximum(value_loss, distance(near, batch.returns, reduction="none"))
        value_loss = mean(value_loss)
        loss = policy_loss + config.vf_coef * value_loss
        if ent_coef:
            loss = loss - ent_coef * mean(entropy)
        return loss, policy_loss, value_loss

    def sound(self) -> bool:
        return all(bool(torch.isfinite(t).all()) for t in (self.flat, self._moments["exp_avg"], self._moments["exp_avg_sq"]))

    def _parameters(self) -> dict[str, nn.Parameter]:
        """Those of the module, by the names that a checkpoint has."""
        return {name.removeprefix("network."): p for name, p in self.module.named_parameters() if p.numel()}

    def named(self) -> dict[str, Any]:
        """Parameters by name: of a perceptron on a CPU numpy views, else tensors; both may be written to."""
        if self.network is not None and self.device.type == "cpu":
            return dict(self.network.layout.named(self.network.parameters))
        return {name: parameter.data for name, parameter in self._parameters().items()}

    def arrays(self) -> dict[str, NDArray[Any]]:
        if self.network is not None:
            kept = {name: np.array(view, order="C") for name, view in self.network.layout.named(self.network.parameters).items()}
        else:
            kept = {name: _numpy(parameter) for name, parameter in self._parameters().items()}
        return {**kept, "adam.first": _numpy(self._moments["exp_avg"]), "adam.second": _numpy(self._moments["exp_avg_sq"])}

    def capture(self) -> tuple[tuple[NDArray[Any], ...], Callable[[], dict[str, NDArray[Any]]]]:
        """Copies of all numbers, and what names them."""
        kept = self.arrays()
        return tuple(kept.values()), lambda: kept

    def info(self) -> dict[str, Any]:
        return {"adam_steps": int(self._moments["step"])}

    def restore(self, arrays: Mapping[str, NDArray[Any]], info: Mapping[str, Any]) -> None:
        if self.network is not None:
            self.network.load(arrays)
            self.flat.data.copy_(torch.from_numpy(self.network.parameters))
        else:
            for name, parameter in self._parameters().items():
                parameter.data.copy_(torch.from_numpy(np.ascontiguousarray(arrays[name])))
        self._moments["exp_avg"].copy_(torch.from_numpy(arrays["adam.first"]))
        self._moments["exp_avg_sq"].copy_(torch.from_numpy(arrays["adam.second"]))
        self._moments["step"].fill_(float(info["adam_steps"]))
        self.follow()

    def _outside(self, x: Floats) -> tuple[Floats, Floats]:
        """Outputs and values for the rollout, in pieces that fit."""
        with torch.no_grad():
            pieces = [self.module(piece.to(self.device)) for piece in torch.split(torch.from_numpy(np.ascontiguousarray(x)), 1024)]
        outputs, values = (torch.cat([piece[k] for piece in pieces]).cpu().numpy() for k in (0, 1))
        return outputs, values

    def follow(self) -> None:
        """What numpy sees of the parameters, after they changed: a copy where they are on a GPU, or no part of a numpy network."""
        if self.network is not None and self.device.type != "cpu":
            self.network.parameters[:] = self.flat.detach().cpu().numpy()
        if isinstance(self.pi, DiagGaussian):
            self.pi.log_std = self.network.at["log_std"] if self.network is not None else _numpy(self.module.log_std)

    def _log_prob_and_entropy(self, outputs: Tensor, batch: _Tensors) -> tuple[Tensor, Tensor]:
        actions, mask = batch.actions, batch.masks
        match self.action.kind:
            case "box":
                log_std: Tensor = self.module.log_std
                z = (actions - outputs) * torch.exp(-log_std)
                log_prob = -0.5 * (z * z).sum(dim=1) - (log_std + HALF_LOG_2PI).sum()
                if isinstance(self.pi, DiagGaussian) and self.pi.squash:
                    per_action = 2 * (math.log(2) - actions - nn.functional.softplus(-2 * actions))  # log(1 - tanh^2)
                    log_prob = log_prob - per_action.sum(dim=1) - self.pi.log_half
                return log_prob, (log_std + HALF_LOG_2PI_E).sum().expand(len(z))
            case "multibinary":
                if mask is not None:
                    may = mask.reshape(len(mask), -1, 2)
                    outputs = torch.where(may[:, :, 1], torch.where(may[:, :, 0], outputs, -FORBIDDEN), FORBIDDEN)
                softplus = nn.functional.softplus(outputs)
                return (actions * outputs - softplus).sum(dim=1), (softplus - torch.sigmoid(outputs) * outputs).sum(dim=1)
            case "discrete":
                return _categorical(outputs, actions, mask)
        parts = torch.split(outputs, list(self.action.sizes), dim=1)
        masks = [None] * len(parts) if mask is None else torch.split(mask, list(self.action.sizes), dim=1)
        each = [_categorical(part, actions[:, k], masks[k]) for k, part in enumerate(parts)]
        return torch.stack([log_prob for log_prob, _ in each]).sum(dim=0), torch.stack([entropy for _, entropy in each]).sum(dim=0)


def _mean(weights: Tensor | None) -> Callable[[Tensor], Tensor]:
    """The mean, or that of what has a weight."""
    return torch.mean if weights is None else lambda x: (x * weights).sum() / weights.sum()


def _bessel(batch: _Tensors) -> Tensor | float:
    """n / (n - 1), by which a mean of squares becomes a variance."""
    if batch.weights is None:
        return len(batch) / (len(batch) - 1)
    n: Tensor = batch.weights.sum()
    return n / torch.clamp(n - 1, min=1)


def _categorical(logits: Tensor, actions: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    if mask is not None:
        logits = logits.masked_fill(~mask, FORBIDDEN)
    log_p = torch.log_softmax(logits, dim=1)
    return log_p.gather(1, actions[:, None]).squeeze(1), -(log_p.exp() * log_p).sum(dim=1)


class _Tensors:
    """A `ppo.Batch` on the device."""

    def __init__(self, columns: dict[str, Tensor | None], order: ppo.Order | None = None) -> None:
        self._columns, self.order = columns, order

    @classmethod
    def of(cls, batch: ppo.Batch, device: torch.device) -> _Tensors:
        columns: dict[str, Tensor | None] = {}
        for name in ("observations", "actions", "log_prob", "advantages", "returns", "values", "masks"):
            array = getattr(batch, name)
            columns[name] = None if array is None else torch.from_numpy(np.ascontiguousarray(array)).to(device)
        return cls(columns, batch.order)

    def take(self, rows: Tensor) -> _Tensors:
        return _Tensors({name: None if t is None else t.index_select(0, rows) for name, t in self._columns.items()})

    def beside(self, **columns: Tensor | None) -> _Tensors:
        return _Tensors({**self._columns, **columns})

    def slice(self, start: int, end: int) -> _Tensors:
        return _Tensors({name: None if t is None else t[start:end] for name, t in self._columns.items()})

    def __getattr__(self, name: str) -> Any:
        return self._columns.get(name)

    def __len__(self) -> int:
        return len(self.log_prob)


def _flatten(module: nn.Module, network: ActorCritic | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """All parameters and their gradients as views of two flat vectors; on a CPU a perceptron's is that of `network`."""
    module.to(device)
    parameters = list(module.parameters())
    size = sum(p.numel() for p in parameters)
    if network is not None and device.type == "cpu":
        flat = torch.from_numpy(network.parameters)
    else:
        flat = torch.cat([p.detach().reshape(-1) for p in parameters])
    gradient, at = torch.zeros(size, dtype=flat.dtype, device=device), 0
    for parameter in parameters:
        own = slice(at, at + parameter.numel())
        parameter.data = flat[own].view(parameter.shape)
        parameter.grad = gradient[own].view(parameter.shape)
        at += parameter.numel()
    return flat, gradient


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DataError(f"device {name!r} is not one of torch's: {str(error).splitlines()[0]}", hint="use cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DataError(f"device {name!r} is not there", hint="use device: cpu, or a machine with a GPU and its build of torch")
    return device


def _numpy(tensor: Tensor) -> NDArray[Any]:
    return tensor.detach().cpu().numpy().copy()


class RecurrentBackend(TorchBackend):
    """A network with memory: rollouts remember what it was before each step, and the gradient goes back `sequence` steps.

    Stretches of that length, one environment each, are what is shuffled. Their first memory is the one of the rollout, though the
    parameters have moved since (Kapturowski et al. 2019 call it the stored state).
    """

    def __init__(self, config: Config, observation: ObservationSpec, action: ActionSpec, rng: np.random.Generator, n_envs: int = 1) -> None:
        self.plan = Recurrent(observation.width, config.hidden, distribution(action, squash=config.squash).outputs)
        super().__init__(config, observation, action, rng, n_envs)
        self.memory: Floats = np.zeros((n_envs, 2 * self.plan.units), dtype=np.float32)

    def policy(self, x: Floats) -> Floats:
        outputs, _, self.memory[:] = self.plan.forward(self._outside_arrays, x, self.memory)
        return outputs

    def value(self, x: Floats, memory: Floats | None = None) -> Floats:
        assert memory is not None
        return self.plan.forward(self._outside_arrays, x, memory)[1]

    def follow(self) -> None:
        super().follow()
        self._outside_arrays = {name: parameter.detach().cpu().numpy() for name, parameter in self._parameters().items()}

    def _minibatches(self, rows: _Tensors, rng: np.random.Generator) -> Iterator[_Tensors]:
        assert rows.order is not None
        T, n = rows.order.shape
        long = min(self.config.sequence, T)
        starts = np.arange(0, T, long)
        steps = starts[:, None] + np.arange(long)  # (stretches of one environment, long)
        inside = np.repeat((steps < T)[:, None], n, axis=1).reshape(-1, long)
        at = (np.minimum(steps, T - 1)[:, None] * n + np.arange(n)[None, :, None]).reshape(-1, long)
        many = max(1, self.config.batch_size // long)
        shuffled = rng.permutation(len(at))
        for first in range(0, len(at), many):
            own = at[shuffled[first : first + many]]
            flat = own.reshape(-1)
            weights = (rows.order.valid[flat] & inside[shuffled[first : first + many]].reshape(-1)).astype(np.float32)
            if not weights.any():
                continue
            fresh = torch.from_numpy(rows.order.fresh[own]).to(self.device)
            memory = torch.from_numpy(rows.order.memory[own[:, 0]]).to(self.device)
            part = rows.take(torch.from_numpy(flat).to(self.device))
            yield part.beside(weights=torch.from_numpy(weights).to(self.device), fresh=fresh, memory=memory)

    def _outputs(self, batch: _Tensors) -> tuple[Tensor, Tensor]:
        outputs, values = self.module(batch.observations.view(*batch.fresh.shape, -1), batch.memory, batch.fresh)
        return outputs, values

    def _how_far(self, batch: ppo.Batch, clip: float) -> dict[str, float]:
        assert batch.order is not None
        remembered = _Remembering(self.plan, self._outside_arrays, batch.order.memory)
        return ppo.how_far(remembered, self.pi, batch, clip)


@dataclass(frozen=True)
class _Remembering:
    """The policy of a rollout's rows, each with the memory before it."""

    plan: Recurrent
    arrays: Mapping[str, NDArray[Any]]
    memory: Floats

    def policy(self, x: Floats) -> Floats:
        return self.plan.forward(self.arrays, x, self.memory)[0]
