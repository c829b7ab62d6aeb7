"""Proximal policy optimisation (Schulman et al. 2017): the update of policy and value from one rollout, on numpy.

From ratio to loss in the order of the paper, with the gradient derived by hand beside it. "37" is Huang et al. 2022,
"The 37 Implementation Details of Proximal Policy Optimization". `torch_backend` has the same update with autograd.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recipeline_ppo.config import Config
from recipeline_ppo.distributions import DiagGaussian, Distribution
from recipeline_ppo.networks import ActorCritic

Floats = NDArray[np.floating[Any]]

BETA1, BETA2 = 0.9, 0.999  # Kingma and Ba 2015
KL_SLACK = 1.5  # as in OpenAI Spinning Up: an update ends beyond 1.5 * target_kl


@dataclass(frozen=True)
class Order:
    """How rows follow each other. shape (T, n_envs); by row: memory (., m) before it, fresh: an episode begins, valid: not dropped."""

    shape: tuple[int, int]
    memory: Floats
    fresh: NDArray[np.bool_]
    valid: NDArray[np.bool_]


@dataclass(frozen=True)
class Batch:
    """Transitions of a rollout, as rows.

    observations (n, d)   actions (n,) or (n, k)   log_prob, advantages, returns, values (n,)   masks (n, mask_width) or None
    log_prob and values are those of the policy and the value that made the rollout; returns are what the value is taught.
    order  only where the network has a memory: then rows are (T, n_envs) flattened, those that were dropped among them
    """

    observations: Floats
    actions: NDArray[Any]
    log_prob: Floats
    advantages: Floats
    returns: Floats
    values: Floats
    masks: NDArray[np.bool_] | None = None
    order: Order | None = None

    def __len__(self) -> int:
        return len(self.log_prob)

    def take(self, rows: NDArray[np.intp]) -> Batch:
        masks = None if self.masks is None else self.masks.take(rows, axis=0)
        return Batch(
            self.observations.take(rows, axis=0), self.actions.take(rows, axis=0), self.log_prob.take(rows), self.advantages.take(rows),
            self.returns.take(rows), self.values.take(rows), masks,
        )  # fmt: skip

    def minibatches(self, size: int) -> Iterator[Batch]:
        """One after the other as they stand; the last may be smaller. Views."""
        if len(self) <= size:
            yield self
            return
        for start in range(0, len(self), size):
            own = slice(start, start + size)
            yield Batch(
                self.observations[own], self.actions[own], self.log_prob[own], self.advantages[own], self.returns[own], self.values[own],
                None if self.masks is None else self.masks[own],
            )  # fmt: skip


class HasPolicy(Protocol):
    def policy(self, x: Floats) -> Floats: ...


class Adam:
    """Adam (Kingma and Ba 2015) on one flat vector, as in torch.optim.Adam."""

    def __init__(self, size: int, epsilon: float = 1e-5, dtype: Any = np.float32) -> None:
        self.first: Floats = np.zeros(size, dtype=dtype)
        self.second: Floats = np.zeros(size, dtype=dtype)
        self.steps, self.epsilon = 0, epsilon
        self._a, self._b = np.empty(size, dtype=dtype), np.empty(size, dtype=dtype)

    def step(self, parameters: Floats, gradient: Floats, rate: float, scale: float = 1.0) -> None:
        """One step along scale * gradient; `parameters` change in place."""
        self.steps += 1
        a, b = self._a, self._b
        self.first *= BETA1
        np.multiply(gradient, (1 - BETA1) * scale, out=a)
        self.first += a
        self.second *= BETA2
        np.multiply(gradient, gradient, out=a)
        a *= (1 - BETA2) * scale * scale
        self.second += a
        np.sqrt(self.second, out=a)
        root = math.sqrt(1 - BETA2**self.steps)  # of the second correction, taken out of the fraction: one pass less
        a += self.epsilon * root
        np.divide(self.first, a, out=b)
        b *= rate * root / (1 - BETA1**self.steps)
        parameters -= b


def loss_and_gradient(
    network: ActorCritic, pi: Distribution, batch: Batch, config: Config, clip: float, ent_coef: float
) -> tuple[float, float, float]:
    """Policy loss, value loss and mean entropy (NaN where it has no weight) of a minibatch; the gradient is left in `network.gradient`.

    loss = -E[min(r A, clip(r, 1 - eps, 1 + eps) A)] + vf_coef E[value loss] - ent_coef E[H]      (equation 9)
    """
    n = len(batch)
    outputs, values = network.forward(batch.observations)
    log_prob, entropy = pi.log_prob_and_entropy(outputs, batch.actions, batch.masks, weighed=ent_coef != 0)

    # advantages with mean 0 and standard deviation 1 within the minibatch (37: detail 7)
    A = batch.advantages
    if config.normalize_advantage and n > 1:
        A = A - np.add.reduce(A) / n
        A *= 1 / (math.sqrt(A.dot(A) / (n - 1)) + 1e-8)

    # r = pi(a|s) / pi_old(a|s), and the smaller of the two surrogates (equation 7; 37: detail 8)
    r = np.exp(log_prob - batch.log_prob)
    surrogate = r * A
    clipped = np.minimum(np.maximum(r, 1 - clip), 1 + clip)
    clipped *= A
    policy_loss = -float(np.add.reduce(np.minimum(surrogate, clipped))) / n
    # d policy loss / d log pi = -r A / n where the unclipped surrogate is the smaller one, else 0
    d_log_prob = surrogate
    d_log_prob *= surrogate <= clipped
    d_log_prob *= -1 / n

    # value loss (37: detail 9 clips it)
    error = values - batch.returns
    if config.value_clip is None:
        value_loss, d_values = _value_loss(error, config.value_loss)
    else:
        moved = values - batch.values
        near = np.minimum(np.maximum(moved, -config.value_clip), config.value_clip)
        plain, d_plain = _value_loss(error, config.value_loss)
        bounded, d_bounded = _value_loss(batch.values + near - batch.returns, config.value_loss)
        d_bounded *= np.abs(moved) <= config.value_clip
        value_loss, d_values = np.maximum(plain, bounded), np.where(plain >= bounded, d_plain, d_bounded)
    d_values *= config.vf_coef / n

    # entropy bonus (37: detail 10): d loss / d H = -ent_coef / n
    network.backward(pi.backward(d_log_prob, -ent_coef / n), d_values)
    if isinstance(pi, DiagGaussian):
        network.d["log_std"][:] = pi.d_log_std
    mean_entropy = float(np.add.reduce(entropy)) / n if ent_coef else math.nan
    return policy_loss, float(np.add.reduce(value_loss)) / n, mean_entropy


def _value_loss(error: Floats, kind: str) -> tuple[Floats, Floats]:
    """Loss of each value, and its derivative with respect to it."""
    if kind == "mse":
        return error * error, 2 * error
    size = np.abs(error)
    return np.where(size <= 1, 0.5 * error * error, size - 0.5), np.clip(error, -1, 1)


def update(
    network: ActorCritic, pi: Distribution, adam: Adam, batch: Batch, config: Config, rng: np.random.Generator,
    *, learning_rate: float, clip: float, ent_coef: float,
) -> dict[str, float]:  # fmt: skip
    """`config.epochs` passes over a rollout in shuffled minibatches; what is told of it.

    policy_loss, value_loss   means over all minibatches          gradient_norm   mean, before clipping
    entropy, approx_kl, clip_fraction   of the whole rollout under the policy after the update; KL is E[(r - 1) - log r] (Schulman 2020)
    epochs                    that were begun

    A gradient that is not finite ends the update before it is used, and is what gradient_norm then says.
    """
    policy_losses, value_losses, norms = [], [], []
    epoch, moved = 0, None
    for epoch in range(1, config.epochs + 1):
        shuffled = batch if len(batch) <= config.batch_size else batch.take(rng.permutation(len(batch)))  # 37: detail 6
        for part in shuffled.minibatches(config.batch_size):
            policy_loss, value_loss, _ = loss_and_gradient(network, pi, part, config, clip, ent_coef)
            norm = math.sqrt(float(network.gradient.dot(network.gradient)))
            policy_losses.append(policy_loss)
            value_losses.append(value_loss)
            norms.append(norm)
            if not math.isfinite(norm):
                return {**_means(policy_losses, value_losses, norms), **_not_finite(), "epochs": epoch}
            # global norm at most max_grad_norm (37: detail 11), Adam with epsilon 1e-5 (37: detail 3)
            adam.step(network.parameters, network.gradient, learning_rate, min(1.0, config.max_grad_norm / (norm + 1e-6)))
        if config.target_kl is not None:
            moved = how_far(network, pi, batch, clip)
            if moved["approx_kl"] > KL_SLACK * config.target_kl:
                break
            moved = moved if epoch == config.epochs else None
    return {**_means(policy_losses, value_losses, norms), **(moved or how_far(network, pi, batch, clip)), "epochs": epoch}


def how_far(network: HasPolicy, pi: Distribution, batch: Batch, clip: float) -> dict[str, float]:
    """Entropy, approximate KL and clipped fraction of a batch under the present policy."""
    log_prob, entropy = pi.log_prob_and_entropy(network.policy(batch.observations), batch.actions, batch.masks)
    log_r = log_prob - batch.log_prob
    r = np.exp(log_r)
    return {
        "entropy": float(entropy.mean()),
        "approx_kl": float((r - 1 - log_r).mean()),
        "clip_fraction": float((np.abs(r - 1) > clip).mean()),
    }


def explained_variance(batch: Batch) -> float:
    """1 - Var(R - V) / Var(R) of the values that the rollout was made with; 0 where the returns do not vary."""
    spread = float(batch.returns.var())
    return 1 - float((batch.returns - batch.values).var()) / spread if spread > 0 else 0.0


def _means(policy_losses: list[float], value_losses: list[float], norms: list[float]) -> dict[str, float]:
    n = len(norms)
    return {"policy_loss": sum(policy_losses) / n, "value_loss": sum(value_losses) / n, "gradient_norm": sum(norms) / n}


def _not_finite() -> dict[str, float]:
    return dict.fromkeys(("entropy", "approx_kl", "clip_fraction"), math.nan)
