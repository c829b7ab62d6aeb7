"""The torch backend: the same update as on numpy, checkpoints that go from one to the other, images, memory, networks of one's own."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from plugins.ppo.test_gradient import CASES, SPECS, problem
from plugins.ppo.test_learner import QUICK, learner, same, through_json
from plugins.ppo.worlds import Corridor, drift

torch = pytest.importorskip("torch")

from recipeline.errors import DataError, MissingLibrary  # noqa: E402
from recipeline_ppo.config import Config  # noqa: E402
from recipeline_ppo.environments import Environments  # noqa: E402
from recipeline_ppo.learner import Learner  # noqa: E402
from recipeline_ppo.normalizer import ObservationNormalizer  # noqa: E402
from recipeline_ppo.policy import Policy  # noqa: E402
from recipeline_ppo.ppo import loss_and_gradient  # noqa: E402
from recipeline_ppo.spaces import Leaf, ObservationSpec  # noqa: E402
from recipeline_ppo.torch_backend import TorchBackend, _Tensors  # noqa: E402

ROW = ObservationSpec((Leaf((), "box", (6,)),))


@pytest.mark.parametrize(
    "variant", [{}, {"value_loss": "huber", "value_clip": 0.2, "activation": "relu", "hidden": (16, 8, 12)}], ids=["plain", "other"]
)
@pytest.mark.parametrize(("kind", "masked"), CASES, ids=str)
def test_the_gradient_is_that_of_the_numpy_backend(kind: str, masked: bool, variant: dict[str, Any]) -> None:
    """Both float32; within 1e-5 of the gradient's norm."""
    config = Config(**{"hidden": (16, 16), "squash": kind == "squashed", **variant})
    _, network, pi, batch = problem(kind, masked, config, np.float32)
    backend = TorchBackend(config, ROW, SPECS[kind], np.random.default_rng(0))
    assert backend.network is not None
    backend.network.parameters[:] = network.parameters
    policy_loss, value_loss, _ = loss_and_gradient(network, pi, batch, config, 0.2, 0.03)
    whole, *parts = backend.loss(_Tensors.of(batch, backend.device), 0.2, 0.03)
    whole.backward()
    norm = max(1.0, float(np.linalg.norm(network.gradient)))
    assert np.abs(backend.gradient.numpy() - network.gradient).max() < 1e-5 * norm
    np.testing.assert_allclose([float(part.detach()) for part in parts], [policy_loss, value_loss], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["discrete", "box"])
def test_an_update_is_that_of_the_numpy_backend(kind: str) -> None:
    """The same initial weights, actions and shuffles; after two rollouts parameters differ by rounding alone."""
    pair = [learner(kind, backend=backend, learning_rate=1e-3) for backend in ("numpy", "torch")]
    for _ in range(2):
        told = [training.iterate() for training in pair]
    for name in ("policy_loss", "value_loss", "gradient_norm", "entropy"):
        assert told[0][name] == pytest.approx(told[1][name], rel=1e-2, abs=1e-3), name
    one, other = (training.state().arrays for training in pair)
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=1e-3, err_msg=name)


@pytest.mark.parametrize(("kind", "policy", "normal"), [("discrete", "mlp", False), ("box", "mlp", True), ("multibinary", "lstm", True)])
def test_a_state_goes_on_to_the_bit(kind: str, policy: str, normal: bool) -> None:
    def fresh(seed: int) -> Learner:
        return learner(kind, seed=seed, normal=normal, policy=policy, backend="torch", sequence=5, batch_size=20)

    whole = fresh(1)
    for _ in range(2):
        whole.iterate()
    middle = through_json(whole.state())
    told = [whole.iterate() for _ in range(2)]
    again = fresh(9)
    assert again.restore(middle)
    assert [again.iterate() for _ in range(2)] == told
    same(again.state(), whole.state())


def test_a_checkpoint_of_one_backend_is_one_of_the_other() -> None:
    one, other = learner("box", backend="numpy"), learner("box", seed=4, backend="torch")
    one.iterate()
    other.restore(through_json(one.state()))
    rows = np.ones((2, 3), dtype=np.float32)
    np.testing.assert_array_equal(other.policy().act(rows).value, one.policy().act(rows).value)
    other.iterate()
    one.restore(through_json(other.state()))
    np.testing.assert_array_equal(other.policy().act(rows).value, one.policy().act(rows).value)


class Remember(gymnasium.Env):  # type: ignore[type-arg]
    """A sign is shown at the first of five steps; the last action must repeat it. Without memory the mean return is 0."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.sign, self.time = int(self.np_random.integers(2)), 0
        return np.array([2 * self.sign - 1, 1], dtype=np.float32), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        over = self.time == 4
        return np.array([0, 0], dtype=np.float32), (1.0 if action == self.sign else -1.0) * over, over, False, {}


def test_memory_learns_what_cannot_be_seen() -> None:
    config = Config(
        policy="lstm",
        backend="torch",
        hidden=(16, 16),
        n_steps=32,
        batch_size=128,
        sequence=8,
        epochs=4,
        learning_rate=1e-2,
        total_steps=16_000,
    )
    training = Learner(config, Environments(Remember, 8), seed=0)
    returns: list[float] = []
    while training.step < config.total_steps and np.mean(returns[-200:] or [0]) < 0.9:
        returns += training.iterate(config.total_steps)["episode_returns"]
    assert abs(np.mean(returns[:100])) < 0.4
    assert np.mean(returns[-200:]) >= 0.9
    policy, world = training.policy(), Remember()
    assert policy.memory_width == 32
    earned = []
    for number in range(20):
        row, _ = world.reset(seed=number)
        memory, over = None, False
        while not over:
            answer = policy.act(row[None], memory=memory)
            memory = answer.memory
            row, reward, over, _, _ = world.step(int(answer.action[0]))
        earned.append(reward)
    assert np.mean(earned) > 0.8


def test_memory_is_what_a_whole_episode_gives() -> None:
    """Outputs of the update's stretches, cut and reset where the rollout was, equal those of the rollout step by step."""
    training = learner("discrete", policy="lstm", backend="torch", sequence=5, batch_size=1000 // 5, n_steps=70, limit=11)
    from recipeline_ppo.rollout import collect, transitions

    backend: Any = training.backend
    for _ in range(2):
        stretch = collect(training.environments, backend, training._x, np.random.default_rng(0), steps=3 * 17)
        training._x = stretch.observations[-1]
    batch = transitions(stretch, backend, gamma=0.9, gae_lambda=0.9)
    seen = 0.0
    for part in backend._minibatches(_Tensors.of(batch, backend.device), np.random.default_rng(0)):
        outputs, values = backend._outputs(part)
        log_prob, _ = backend._log_prob_and_entropy(outputs, part)
        real = part.weights > 0
        np.testing.assert_allclose(log_prob[real].detach(), part.log_prob[real], atol=1e-5)
        np.testing.assert_allclose(values[real].detach(), part.values[real], atol=1e-5)
        seen += float(part.weights.sum())
    assert seen == len(batch) == 51


class Screen(gymnasium.Env):  # type: ignore[type-arg]
    """A dot on a small image; the action is to say on which side it is."""

    def __init__(self, shape: tuple[int, int, int] = (8, 8, 1)) -> None:
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        self.action_space = spaces.Discrete(2)

    def _look(self) -> Any:
        self.at = int(self.np_random.integers(8))
        image = np.zeros(self.observation_space.shape, dtype=np.uint8)  # type: ignore[arg-type]
        image[int(self.np_random.integers(8)), self.at] = 255
        return image

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self._look(), {}

    def step(self, action: Any) -> Any:
        reward = float(action == (self.at >= 4))
        return self._look(), reward, False, False, {}


def test_images_are_learned_from_and_answered_without_torch() -> None:
    config = Config(policy="cnn", hidden=(32,), n_steps=16, batch_size=64, epochs=4, learning_rate=3e-3, gamma=0.0, total_steps=2560)
    training = Learner(config, Environments(Screen, 8, max_episode_steps=16), seed=0)
    returns: list[float] = []
    while training.step < config.total_steps:
        returns += training.iterate()["episode_returns"]
    assert np.mean(returns[:8]) < 12
    assert np.mean(returns[-8:]) > 15
    images = np.stack([Screen().reset(seed=n)[0] for n in range(30)])
    policy = training.policy()
    answers = policy.act(images)
    outputs, values = training.backend._outside(policy.observation.rows(images))  # type: ignore[attr-defined]
    np.testing.assert_allclose(answers.value, values, atol=1e-5)
    np.testing.assert_array_equal(answers.action, outputs.argmax(axis=1))
    again = Policy.of(policy.arrays(), policy.info())
    np.testing.assert_array_equal(again.act(images).value, answers.value)


@pytest.mark.parametrize("shape", [(84, 84, 4), (3, 40, 44), (7, 9, 3)])
def test_convolutions_on_numpy_are_those_of_torch(shape: tuple[int, ...]) -> None:
    from recipeline_ppo.architectures import Convolutions
    from recipeline_ppo.torch_networks import ConvolutionalNetwork

    plan = Convolutions.of(ObservationSpec((Leaf((), "box", shape),)), (20, 10), 5)
    module = ConvolutionalNetwork(plan, np.random.default_rng(0))
    arrays = {name: p.detach().numpy() for name, p in module.named_parameters()}
    assert {name: a.shape for name, a in arrays.items()} == plan.shapes()
    x = np.random.default_rng(1).random((3, int(np.prod(shape))), dtype=np.float32)
    for mine, theirs in zip(plan.forward(arrays, x), module(torch.from_numpy(x)), strict=True):
        np.testing.assert_allclose(mine, theirs.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_what_is_no_image_is_told() -> None:
    with pytest.raises(DataError, match="cnn needs images"):
        learner(policy="cnn")


class Own:
    """A network of one's own: linear."""

    def module(self, observation: ObservationSpec, outputs: int) -> Any:
        class Linear(torch.nn.Module):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.both = torch.nn.Linear(observation.width, outputs + 1)

            def forward(self, x: Any) -> Any:
                told = self.both(x)
                return told[:, :-1], told[:, -1]

        return Linear()


@pytest.mark.parametrize("kind", ["discrete", "box"])
def test_a_network_of_ones_own(kind: str) -> None:
    training = learner(kind, policy=Own(), normal=True)
    before = training.parameters()["inner.both.weight"].clone()
    for _ in range(2):
        training.iterate()
    assert not torch.equal(training.parameters()["inner.both.weight"], before)
    state = through_json(training.state())
    assert state.info["config"]["policy"].endswith("test_torch_backend.Own")
    again = learner(kind, policy=Own(), normal=True, seed=7)
    again.restore(state)
    rows = np.ones((2, 3), dtype=np.float32)
    policy = training.policy()
    np.testing.assert_array_equal(again.policy().act(rows).action, policy.act(rows).action)
    np.testing.assert_array_equal(Policy.of(policy.arrays(), policy.info(), network=Own()).act(rows).value, policy.act(rows).value)
    with pytest.raises(DataError, match="a network of its own"):
        Policy.of(policy.arrays(), policy.info())


def test_threads_are_as_before_afterwards() -> None:
    inside = []

    class Watching(type(drift()())):  # type: ignore[misc]
        def step(self, action: Any) -> Any:
            inside.append(torch.get_num_threads())
            return super().step(action)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        Learner(Config(**{**QUICK, "backend": "torch"}), Environments(Watching, 1), seed=0).iterate()
        assert set(inside) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_device_that_is_not_there_is_told() -> None:
    with pytest.raises(DataError, match="not one of torch's"):
        learner(backend="torch", device="abacus")
    if not torch.cuda.is_available():
        with pytest.raises(DataError, match="is not there"):
            learner(backend="torch", device="cuda")


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "recipeline_ppo.torch_backend", raising=False)
    monkeypatch.delitem(sys.modules, "recipeline_ppo.torch_networks", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingLibrary, match="torch"):
        learner(backend="torch")
    learner(backend="auto").iterate()


def test_nan_parameters_are_told_here_too() -> None:
    training = learner(backend="torch", normal=True)
    training.iterate()
    training.parameters()["value.0.bias"][:] = np.nan
    assert np.isnan(training.iterate()["policy_loss"])
    assert isinstance(training.normalizer, ObservationNormalizer)


def test_a_truncated_episode_is_bootstrapped_with_its_memory() -> None:
    """Every step is worth 1 and episodes are cut after 3: what the value learns is that of going on, 1 / (1 - gamma)."""

    class Ones(Corridor):
        def step(self, action: Any) -> Any:
            observation, _, over, cut, info = super().step(action)
            return observation * 0, 1.0, over, cut, info

    config = Config(
        policy="lstm", hidden=(8, 8), n_steps=30, batch_size=120, sequence=3, epochs=10, learning_rate=1e-2, gamma=0.5, gae_lambda=0.9
    )
    training = Learner(config, Environments(Ones, 4, max_episode_steps=3), seed=0)
    for _ in range(30):
        training.iterate()
    assert training.policy().act(np.zeros((1, 1), dtype=np.float32)).value[0] == pytest.approx(2.0, abs=0.2)
