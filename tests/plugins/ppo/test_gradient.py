"""The gradient by hand against torch's autograd over torch's own distributions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from recipeline_ppo.config import Config  # noqa: E402
from recipeline_ppo.distributions import DiagGaussian, distribution  # noqa: E402
from recipeline_ppo.networks import ActorCritic, Layout  # noqa: E402
from recipeline_ppo.ppo import Adam, Batch, loss_and_gradient  # noqa: E402
from recipeline_ppo.spaces import ActionSpec  # noqa: E402

SPECS = {
    "discrete": ActionSpec("discrete", (5,)),
    "multidiscrete": ActionSpec("multidiscrete", (2, 4, 3), (3,)),
    "multibinary": ActionSpec("multibinary", (4,), (4,)),
    "box": ActionSpec("box", (), (3,), 0, (-1.0,) * 3, (1.0,) * 3, "float32"),
    "squashed": ActionSpec("box", (), (2,), 0, (-1.0, 0.0), (3.0, 4.0), "float32"),
}
CASES = [
    *((kind, False) for kind in SPECS),
    *((kind, True) for kind in ("discrete", "multidiscrete", "multibinary")),
]


def masks_of(spec: ActionSpec, rng: np.random.Generator, n: int) -> np.ndarray[Any, Any]:
    """Random masks that allow something everywhere, and some that leave a single choice."""
    sizes = {"discrete": spec.sizes, "multidiscrete": spec.sizes, "multibinary": (2,) * spec.sizes[0]}[spec.kind]
    mask = rng.random((n, spec.mask_width)) < 0.5
    at = 0
    for size in sizes:
        mask[np.arange(n), at + rng.integers(size, size=n)] = True
        at += size
    return mask


def torch_distribution(spec: ActionSpec, outputs: Any, log_std: Any, mask: Any, actions: Any, squash: bool) -> tuple[Any, Any]:
    """Log-probability and entropy by torch.distributions."""
    D = torch.distributions
    if spec.kind == "box":
        base = D.Normal(outputs, log_std.exp().expand_as(outputs))
        log_prob = base.log_prob(actions).sum(1)
        if squash:
            half = torch.as_tensor((np.array(spec.high) - np.array(spec.low)) / 2, dtype=outputs.dtype)
            onto = D.ComposeTransform([D.TanhTransform(), D.AffineTransform(0, half)])
            log_prob = log_prob - onto.log_abs_det_jacobian(actions, onto(actions)).sum(1)
        return log_prob, base.entropy().sum(1)
    if spec.kind == "multibinary":
        pairs = torch.stack([torch.zeros_like(outputs), outputs], dim=2)  # the logits of a 0 and of a 1
        if mask is not None:
            pairs = pairs.masked_fill(~mask.reshape(*outputs.shape, 2), -1e8)
        each = D.Categorical(logits=pairs)
        return each.log_prob(actions).sum(1), each.entropy().sum(1)
    logits = outputs if mask is None else outputs.masked_fill(~mask, -1e8)
    log_prob, entropy = 0.0, 0.0
    for number, part in enumerate(torch.split(logits, list(spec.sizes), dim=1)):
        one = D.Categorical(logits=part)
        log_prob = log_prob + one.log_prob(actions.reshape(len(actions), -1)[:, number])
        entropy = entropy + one.entropy()
    return log_prob, entropy


def torch_loss(config: Config, spec: ActionSpec, layout: Layout, flat: Any, batch: Batch, clip: float, ent_coef: float) -> Any:
    """The loss as one reads it in the paper; nothing of ours but the places of the parameters."""
    at, place = {}, 0
    for name, shape in layout.shapes.items():
        count = math.prod(shape)
        at[name] = flat[place : place + count].reshape(shape)
        place += count
    act = torch.tanh if config.activation == "tanh" else torch.relu
    x = torch.as_tensor(batch.observations)
    h = act(x @ at["first"] + at["first_bias"])
    for number in range(1, len(layout.hidden)):
        a, v = h.chunk(2, dim=1)
        W = at[f"hidden{number}"]
        h = act(torch.cat([a @ W[0], v @ W[1]], dim=1) + at[f"hidden{number}_bias"])
    a, v = h.chunk(2, dim=1)
    outputs, values = a @ at["policy"] + at["policy_bias"], v @ at["value"] + at["value_bias"]
    mask = None if batch.masks is None else torch.as_tensor(batch.masks)
    actions = torch.as_tensor(batch.actions)
    log_prob, entropy = torch_distribution(spec, outputs, at["log_std"], mask, actions, config.squash)
    A = torch.as_tensor(batch.advantages)
    if config.normalize_advantage:
        A = (A - A.mean()) / (A.std() + 1e-8)
    ratio = torch.exp(log_prob - torch.as_tensor(batch.log_prob))
    policy_loss = -torch.min(ratio * A, torch.clamp(ratio, 1 - clip, 1 + clip) * A).mean()
    returns, old = torch.as_tensor(batch.returns), torch.as_tensor(batch.values)
    loss = torch.nn.functional.mse_loss if config.value_loss == "mse" else torch.nn.functional.huber_loss
    value_loss = loss(values, returns, reduction="none")
    if config.value_clip is not None:
        near = old + torch.clamp(values - old, -config.value_clip, config.value_clip)
        value_loss = torch.max(value_loss, loss(near, returns, reduction="none"))
    value_loss = value_loss.mean()
    whole = policy_loss + config.vf_coef * value_loss - ent_coef * entropy.mean()
    return whole, policy_loss, value_loss, entropy.mean()


def problem(kind: str, masked: bool, config: Config, dtype: Any, n: int = 37) -> tuple[ActionSpec, ActorCritic, Any, Batch]:
    """A network away from where it began, and transitions of a policy that is not far from its own: some ratios are clipped."""
    rng = np.random.default_rng(7)
    spec = SPECS[kind]
    pi = distribution(spec, squash=config.squash)
    network = ActorCritic(Layout(6, config.hidden, pi.outputs, pi.free), activation=config.activation, dtype=dtype)
    network.initialise(rng, log_std=-0.3)
    network.parameters += 0.2 * rng.standard_normal(network.layout.size)
    if isinstance(pi, DiagGaussian):
        pi.log_std = network.at["log_std"]
    x = rng.standard_normal((n, 6)).astype(dtype)
    masks = masks_of(spec, rng, n) if masked else None
    outputs, values = network.forward(x)
    actions = pi.sample(outputs.copy(), pi.noise(rng, n).astype(dtype), masks)
    log_prob, _ = pi.log_prob_and_entropy(outputs, actions, masks)
    old = log_prob + 0.3 * rng.standard_normal(n)
    returns = values + rng.standard_normal(n) * 1.5
    batch = Batch(
        x, actions, old.astype(dtype), rng.standard_normal(n).astype(dtype), returns.astype(dtype),
        (values + 0.3 * rng.standard_normal(n)).astype(dtype), masks,
    )  # fmt: skip
    return spec, network, pi, batch


VARIANTS: dict[str, dict[str, Any]] = {
    "mse": {},
    "huber": {"value_loss": "huber"},
    "clipped": {"value_clip": 0.2},
    "clipped_huber": {"value_loss": "huber", "value_clip": 0.2},
    "relu_three_layers": {"activation": "relu", "hidden": (8, 12, 9)},
    "one_layer": {"hidden": (8,), "normalize_advantage": False},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("kind", "masked"), CASES, ids=str)
def test_the_gradient_is_that_of_autograd(kind: str, masked: bool, variant: str) -> None:
    """In float64 to rounding, in float32 within 1e-5 of the gradient's norm."""
    config = Config(**{"hidden": (16, 16), "squash": kind == "squashed", **VARIANTS[variant]})
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-5)):
        spec, network, pi, batch = problem(kind, masked, config, dtype)
        told = loss_and_gradient(network, pi, batch, config, 0.2, 0.03)
        flat = torch.tensor(network.parameters, requires_grad=True)
        whole, *parts = torch_loss(config, spec, network.layout, flat, batch, 0.2, 0.03)
        whole.backward()
        expected = flat.grad.numpy()
        assert np.abs(network.gradient - expected).max() < tolerance * max(1.0, float(np.linalg.norm(expected)))
        np.testing.assert_allclose(told, [float(part.detach()) for part in parts], rtol=10 * tolerance, atol=10 * tolerance)
        assert np.linalg.norm(expected) > 0.01


def test_some_ratios_were_clipped_in_these_tests() -> None:
    """Else the branch would not have been tried."""
    _, network, pi, batch = problem("discrete", False, Config(hidden=(16, 16)), np.float64)
    log_prob, _ = pi.log_prob_and_entropy(network.forward(batch.observations)[0], batch.actions)
    outside = np.abs(np.exp(log_prob - batch.log_prob) - 1) > 0.2
    assert 5 < outside.sum() < 32


def test_adam_is_that_of_torch() -> None:
    rng = np.random.default_rng(0)
    mine = rng.standard_normal(40)
    theirs = torch.tensor(mine.copy(), requires_grad=True)
    adam, reference = Adam(40, 1e-5, np.float64), torch.optim.Adam([theirs], lr=3e-3, eps=1e-5)
    for _ in range(20):
        gradient = rng.standard_normal(40) * 3
        theirs.grad = torch.tensor(gradient.copy())
        norm = torch.nn.utils.clip_grad_norm_([theirs], 0.5)
        reference.step()
        adam.step(mine, gradient, 3e-3, min(1.0, 0.5 / (float(norm) + 1e-6)))
    np.testing.assert_allclose(mine, theirs.detach().numpy(), rtol=0, atol=1e-13)
