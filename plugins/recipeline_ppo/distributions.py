"""Distributions over actions: how to draw, how likely, and the derivatives by hand.

Each takes the outputs of the policy network (n, outputs) and, where actions can be masked, `mask` (n, mask_width), True where allowed.
`noise` is drawn for a whole rollout at once, so that a draw is a sum and a comparison.

`log_prob` alone keeps nothing, so that threads may share a distribution. `log_prob_and_entropy` keeps what its derivatives need; where
the entropy is not `weighed` in the loss it may be left out. `backward(d_log_prob, d_entropy)` then gives the derivative of a loss with
respect to the outputs, from its derivatives with respect to log-probability (n,) and entropy (n,).
"""

from __future__ import annotations

import math
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from recipeline_ppo.spaces import ActionSpec

Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_] | None

FORBIDDEN = -1e8  # the logit of a masked choice: its probability is exactly 0 in float32, and 0 * log 0 stays 0
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
HALF_LOG_2PI_E = 0.5 + HALF_LOG_2PI


class Distribution(Protocol):
    outputs: int  # of the policy network
    free: int  # further parameters that do not depend on the observation (log standard deviations)

    def noise(self, rng: np.random.Generator, *shape: int) -> Floats: ...
    def sample(self, outputs: Floats, noise: Floats, mask: Mask = None) -> NDArray[Any]: ...
    def mode(self, outputs: Floats, mask: Mask = None) -> NDArray[Any]: ...
    def log_prob(self, outputs: Floats, actions: NDArray[Any], mask: Mask = None) -> Floats: ...
    def log_prob_and_entropy(
        self, outputs: Floats, actions: NDArray[Any], mask: Mask = None, *, weighed: bool = True
    ) -> tuple[Floats, Floats]: ...
    def backward(self, d_log_prob: Floats, d_entropy: Floats | float) -> Floats: ...
    def native(self, actions: NDArray[Any]) -> NDArray[Any]: ...


class Categorical:
    """One of n choices. A draw is the largest of logit + Gumbel noise (Gumbel 1954), so it needs no normalisation."""

    free = 0

    def __init__(self, spec: ActionSpec) -> None:
        self.spec = spec
        self.outputs = spec.sizes[0]

    def noise(self, rng: np.random.Generator, *shape: int) -> Floats:
        return _gumbel(rng, (*shape, self.outputs))

    def sample(self, outputs: Floats, noise: Floats, mask: Mask = None) -> NDArray[Any]:
        return cast("NDArray[Any]", (_masked(outputs, mask) + noise).argmax(axis=1))

    def mode(self, outputs: Floats, mask: Mask = None) -> NDArray[Any]:
        return cast("NDArray[Any]", _masked(outputs, mask).argmax(axis=1))

    def log_prob(self, outputs: Floats, actions: NDArray[Any], mask: Mask = None) -> Floats:
        found: Floats = _log_softmax(_masked(outputs, mask))[_arange(len(outputs)), actions]
        return found

    def log_prob_and_entropy(
        self, outputs: Floats, actions: NDArray[Any], mask: Mask = None, *, weighed: bool = True
    ) -> tuple[Floats, Floats]:
        log_p = _log_softmax(_masked(outputs, mask))
        p = np.exp(log_p)
        rows = _arange(len(p))
        if weighed:
            entropy = np.einsum("ij,ij->i", p, log_p)
            np.negative(entropy, out=entropy)
        else:
            entropy = np.empty(0, dtype=p.dtype)
        self._kept = (p, log_p, entropy, rows, actions)
        return log_p[rows, actions], entropy

    def backward(self, d_log_prob: Floats, d_entropy: Floats | float) -> Floats:
        p, log_p, entropy, rows, actions = self._kept
        # d log p_a / d logit_j = [j = a] - p_j;  dH / d logit_j = -p_j (log p_j + H)
        if isinstance(d_entropy, float) and d_entropy == 0.0:
            d = p * -d_log_prob[:, None]
        else:
            d = log_p + entropy[:, None]
            d *= np.reshape(d_entropy, (-1, 1)) if np.ndim(d_entropy) else d_entropy
            d += d_log_prob[:, None]
            d *= -p
        d[rows, actions] += d_log_prob
        return d

    def native(self, actions: NDArray[Any]) -> NDArray[Any]:
        return self.spec.native(actions)


class DiagGaussian:
    """Independent normals with a standard deviation that does not depend on the observation (Huang et al. 2022, continuous details).

    With `squash` the action is tanh of the draw, scaled to the bounds. The draw is what is stored; the log-probability counts the
    change of variables, whose derivative with respect to the parameters is 0. The entropy is that of the normal before it.
    """

    def __init__(self, spec: ActionSpec, *, squash: bool = False) -> None:
        self.spec, self.squash = spec, squash
        self.outputs = self.free = spec.width
        self.log_std: Floats = np.zeros(self.outputs, dtype=np.float32)  # set to a view of the network's parameters
        self._fixed: tuple[Floats, float] | None = None  # 1 / sd and the sum of log sd, where they will not change
        low, high = np.asarray(spec.low), np.asarray(spec.high)
        if squash:
            self._half = ((high - low) / 2).astype(np.float32)
            self._middle = ((high + low) / 2).astype(np.float32)
            self.log_half = float(np.log((high - low) / 2).sum())

    def fix(self, log_std: Floats) -> None:
        """Parameters that will not change any more."""
        self.log_std = log_std
        self._fixed = np.exp(-log_std), float(log_std.sum())

    def noise(self, rng: np.random.Generator, *shape: int) -> Floats:
        return rng.standard_normal((*shape, self.outputs), dtype=np.float32)

    def sample(self, outputs: Floats, noise: Floats, mask: Mask = None) -> NDArray[Any]:
        return outputs + noise * np.exp(self.log_std)

    def mode(self, outputs: Floats, mask: Mask = None) -> NDArray[Any]:
        return outputs

    def log_prob(self, outputs: Floats, actions: NDArray[Any], mask: Mask = None) -> Floats:
        return self._likelihood(outputs, actions)[0]

    def _likelihood(self, outputs: Floats, actions: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
        """Log-probability (n,), and (action - mean) / sd (n, k) and 1 / sd (k,) of which it is made."""
        inverse, total = self._fixed or (np.exp(-self.log_std), self.log_std.sum())
        z = actions - outputs
        z *= inverse
        log_prob = np.einsum("ij,ij->i", z, z)
        log_prob *= -0.5
        log_prob -= total + self.outputs * HALF_LOG_2PI
        if self.squash:
            log_prob -= log_one_minus_tanh2(actions).sum(axis=1) + self.log_half
        return log_prob, z, inverse

    def log_prob_and_entropy(
        self, outputs: Floats, actions: NDArray[Any], mask: Mask = None, *, weighed: bool = True
    ) -> tuple[Floats, Floats]:
        log_prob, z, inverse = self._likelihood(outputs, actions)
        self._kept = (z, inverse)
        entropy = np.full(len(z), self.log_std.sum() + self.outputs * HALF_LOG_2PI_E, dtype=z.dtype)
        return log_prob, entropy

    def backward(self, d_log_prob: Floats, d_entropy: Floats | float) -> Floats:
        z, inverse = self._kept
        # d log p / d mean = z / sd;  d log p / d log sd = z^2 - 1;  dH / d log sd = 1
        d = z * d_log_prob[:, None]
        total = float(np.sum(d_entropy)) if np.ndim(d_entropy) else d_entropy * len(z)
        self.d_log_std = np.einsum("ij,ij->j", d, z) + (total - d_log_prob.sum())
        d *= inverse
        return d

    def native(self, actions: NDArray[Any]) -> NDArray[Any]:
        if self.squash:
            actions = np.tanh(actions) * self._half + self._middle
        return self.spec.native(actions)


class MultiCategorical:
    """Several choices at once, independent of each other: the outputs hold their logits one after the other."""

    free = 0

    def __init__(self, spec: ActionSpec) -> None:
        self.spec = spec
        self.outputs = sum(spec.sizes)
        ends = np.cumsum(spec.sizes)
        self._slices = [slice(int(end - size), int(end)) for end, size in zip(ends, spec.sizes, strict=True)]

    def noise(self, rng: np.random.Generator, *shape: int) -> Floats:
        return _gumbel(rng, (*shape, self.outputs))

    def sample(self, outputs: Floats, noise: Floats, mask: Mask = None) -> NDArray[Any]:
        return self.mode(_masked(outputs, mask) + noise)

    def mode(self, outputs: Floats, mask: Mask = None) -> NDArray[Any]:
        logits = _masked(outputs, mask)
        return np.stack([logits[:, part].argmax(axis=1) for part in self._slices], axis=1)

    def log_prob(self, outputs: Floats, actions: NDArray[Any], mask: Mask = None) -> Floats:
        logits, rows = _masked(outputs, mask), _arange(len(outputs))
        found = np.zeros(len(logits), dtype=logits.dtype)
        for number, part in enumerate(self._slices):
            found += _log_softmax(logits[:, part])[rows, actions[:, number]]
        return found

    def log_prob_and_entropy(
        self, outputs: Floats, actions: NDArray[Any], mask: Mask = None, *, weighed: bool = True
    ) -> tuple[Floats, Floats]:
        logits = _masked(outputs, mask)
        rows = _arange(len(logits))
        self._kept = []
        log_prob, total = np.zeros(len(logits), dtype=logits.dtype), np.zeros(len(logits), dtype=logits.dtype)
        for number, part in enumerate(self._slices):
            log_p = _log_softmax(logits[:, part])
            p = np.exp(log_p)
            entropy = -np.einsum("ij,ij->i", p, log_p)
            chosen = actions[:, number]
            log_prob += log_p[rows, chosen]
            total += entropy
            self._kept.append((part, p, log_p, entropy, rows, chosen))
        return log_prob, total

    def backward(self, d_log_prob: Floats, d_entropy: Floats | float) -> Floats:
        d = np.empty((len(d_log_prob), self.outputs), dtype=d_log_prob.dtype)
        weight = np.reshape(d_entropy, (-1, 1))
        for part, p, log_p, entropy, rows, chosen in self._kept:  # as in Categorical
            piece = -p * (d_log_prob[:, None] + weight * (log_p + entropy[:, None]))
            piece[rows, chosen] += d_log_prob
            d[:, part] = piece
        return d

    def native(self, actions: NDArray[Any]) -> NDArray[Any]:
        return self.spec.native(actions)


class Bernoulli:
    """Independent bits; an output is the logit of a 1. Noise is logistic: a bit is 1 where logit + noise > 0."""

    free = 0

    def __init__(self, spec: ActionSpec) -> None:
        self.spec = spec
        self.outputs = spec.sizes[0]

    def noise(self, rng: np.random.Generator, *shape: int) -> Floats:
        return rng.logistic(size=(*shape, self.outputs)).astype(np.float32)

    def sample(self, outputs: Floats, noise: Floats, mask: Mask = None) -> NDArray[Any]:
        return (self._masked(outputs, mask) + noise > 0).astype(np.int8)

    def mode(self, outputs: Floats, mask: Mask = None) -> NDArray[Any]:
        return (self._masked(outputs, mask) > 0).astype(np.int8)

    def log_prob(self, outputs: Floats, actions: NDArray[Any], mask: Mask = None) -> Floats:
        logits = self._masked(outputs, mask)
        found: Floats = (actions * logits - _softplus(logits)).sum(axis=1)
        return found

    def log_prob_and_entropy(
        self, outputs: Floats, actions: NDArray[Any], mask: Mask = None, *, weighed: bool = True
    ) -> tuple[Floats, Floats]:
        logits = self._masked(outputs, mask)
        softplus = _softplus(logits)
        p = np.exp(logits - softplus)  # exactly 0 or 1 where the other is forbidden
        self._kept = (logits, p, actions)
        return (actions * logits - softplus).sum(axis=1), (softplus - p * logits).sum(axis=1)

    def backward(self, d_log_prob: Floats, d_entropy: Floats | float) -> Floats:
        logits, p, actions = self._kept
        # d log p / d l = a - sigma(l);  dH / d l = -l sigma(l) (1 - sigma(l))
        d: Floats = (actions - p) * d_log_prob[:, None] - np.reshape(d_entropy, (-1, 1)) * (logits * p * (1 - p))
        return d.astype(d_log_prob.dtype, copy=False)

    def native(self, actions: NDArray[Any]) -> NDArray[Any]:
        return self.spec.native(actions)

    @staticmethod
    def _masked(outputs: Floats, mask: Mask) -> Floats:
        if mask is None:
            return outputs
        may = mask.reshape(len(mask), -1, 2)
        return np.where(may[:, :, 1], np.where(may[:, :, 0], outputs, -FORBIDDEN), FORBIDDEN).astype(outputs.dtype, copy=False)


def distribution(spec: ActionSpec, *, squash: bool = False) -> Distribution:
    """The distribution that goes with a space of actions."""
    if spec.kind == "box":
        return DiagGaussian(spec, squash=squash)
    if spec.kind == "discrete":
        return Categorical(spec)
    return MultiCategorical(spec) if spec.kind == "multidiscrete" else Bernoulli(spec)


def impossible(spec: ActionSpec, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(n,) True for masks (n, mask_width) that allow no action at all."""
    if spec.kind == "discrete":
        return np.logical_not(mask.any(axis=1))
    sizes = spec.sizes if spec.kind == "multidiscrete" else (2,) * spec.sizes[0]
    starts = np.cumsum((0, *sizes[:-1]))
    return np.logical_not(np.logical_or.reduceat(mask, starts, axis=1).all(axis=1))


def log_one_minus_tanh2(u: Floats) -> Floats:
    """log(1 - tanh(u)^2), exact for large u."""
    return 2 * (math.log(2) - u - np.logaddexp(0, -2 * u).astype(u.dtype, copy=False))


def _masked(outputs: Floats, mask: Mask) -> Floats:
    return outputs if mask is None else np.where(mask, outputs, np.asarray(FORBIDDEN, dtype=outputs.dtype))


def _softplus(logits: Floats) -> Floats:
    """log(1 + e^l)"""
    return np.maximum(logits, 0) + np.log1p(np.exp(-np.abs(logits)))


def _log_softmax(logits: Floats) -> Floats:
    shifted: Floats = logits - np.maximum.reduce(logits, axis=1, keepdims=True)
    shifted -= np.log(np.add.reduce(np.exp(shifted), axis=1, keepdims=True))
    return shifted


def _gumbel(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    noise = rng.standard_exponential(shape, dtype=np.float32)
    np.maximum(noise, np.float32(1e-30), out=noise)  # a 0 would be infinite noise, and could draw what is masked
    np.log(noise, out=noise)
    return np.negative(noise, out=noise)


_ROWS = np.arange(4096)


def _arange(n: int) -> NDArray[np.intp]:
    return _ROWS[:n] if n <= len(_ROWS) else np.arange(n)
