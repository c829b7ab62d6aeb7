"""Initial weights, and views that are the parameters themselves."""

from __future__ import annotations

import numpy as np
import pytest

from recipeline_ppo.networks import ActorCritic, Layout, Perceptron, orthogonal


@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (8, 3), (3, 8), (1, 6)])
def test_orthogonal_matrices_are(rows: int, columns: int) -> None:
    q = orthogonal(np.random.default_rng(0), rows, columns)
    product = q @ q.T if rows <= columns else q.T @ q
    np.testing.assert_allclose(product, np.eye(min(rows, columns)), atol=1e-12)


def test_orthogonal_matrices_are_uniform() -> None:
    """Without the signs of R the first entry would never be positive (LAPACK's reflections)."""
    first = [orthogonal(np.random.default_rng(seed), 4, 4)[0, 0] for seed in range(200)]
    assert 60 < sum(entry > 0 for entry in first) < 140


def test_initial_gains_and_outputs() -> None:
    """Hidden layers have singular values sqrt(2), the policy's last 0.01, the value's 1; so the policy begins nearly uniform."""
    network = ActorCritic(Layout(6, (16, 16), 4, 4))
    network.initialise(np.random.default_rng(0), log_std=-0.5)
    named = network.layout.named(network.parameters)
    for name, gain in {"policy.0.weight": 2**0.5, "value.1.weight": 2**0.5, "policy.2.weight": 0.01, "value.2.weight": 1.0}.items():
        np.testing.assert_allclose(np.linalg.svd(named[name], compute_uv=False), gain, rtol=1e-5)
    assert named["log_std"].tolist() == [-0.5] * 4
    assert not named["policy.0.bias"].any()
    assert not np.array_equal(named["policy.0.weight"], named["value.0.weight"])
    outputs, _ = network.forward(np.random.default_rng(1).standard_normal((50, 6)).astype(np.float32))
    assert np.abs(outputs).max() < 0.05


@pytest.mark.parametrize("hidden", [(5,), (5, 7), (4, 6, 3)])
def test_all_roads_through_the_networks_agree(hidden: tuple[int, ...]) -> None:
    """Both at once, each alone, and for answering; against the product written out by name."""
    rng = np.random.default_rng(0)
    network = ActorCritic(Layout(3, hidden, 2, 0))
    network.parameters[:] = rng.standard_normal(network.layout.size)
    named, x = network.layout.named(network.parameters), rng.standard_normal((11, 3)).astype(np.float32)
    expected = []
    for net in ("policy", "value"):
        h = x
        for number in range(len(hidden)):
            h = np.tanh(h @ named[f"{net}.{number}.weight"].T + named[f"{net}.{number}.bias"])
        expected.append(h @ named[f"{net}.{len(hidden)}.weight"].T + named[f"{net}.{len(hidden)}.bias"])
    arrays = {name: np.array(view) for name, view in named.items()}
    for outputs, values in (
        network.forward(x), (network.policy(x), network.value(x)), Perceptron(3, hidden, 2, "tanh", arrays).forward(x),
    ):  # fmt: skip
        np.testing.assert_allclose(outputs, expected[0], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(values, expected[1][:, 0], rtol=1e-4, atol=1e-5)
    named["policy.0.weight"][0, 0] += 1
    assert not np.allclose(network.forward(x)[0], expected[0])


def test_workspaces_do_not_add_up() -> None:
    network = ActorCritic(Layout(3, (4,), 2, 0))
    for n in range(1, 60):
        x = np.ones((n, 3), dtype=np.float32)
        network.forward(x)
        network.value(x)
    assert len(network._spaces) < 10
    assert len(network._alone) < 10
